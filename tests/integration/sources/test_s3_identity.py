"""Whose keys open a bucket: of a Secret, of the environment, of a service for credentials, or nobody's."""

import contextlib
import hashlib
import http.server
import ipaddress
import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.store import Store
from modelcache.sources import destinations, errors
from modelcache.sources.base import Credential
from modelcache.sources.s3 import S3Source
from modelcache.sources.uri import parse_uri
from tests.support.s3 import S3, nanio
from tests.support.s3_models import fetch, manifest_of, put, resolve

pytestmark = pytest.mark.usefixtures("no_ambient_identity")


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with nanio(tmp_path_factory.mktemp("nanio")) as running:
        files = tmp_path_factory.mktemp("files")
        (files / "config.json").write_bytes(b"{}")
        (files / "model.safetensors").write_bytes(b"weights " * 100_000)
        running.s5cmd("mb", "s3://bucket")
        running.s5cmd("cp", f"{files}/", "s3://bucket/models/tiny/")
        yield running


class TestIdentity:
    """nanio checks every signature; there is exactly one identity that it knows."""

    def test_static_keys(self, strict: S3, store: Store) -> None:
        uri = "s3://bucket/models/tiny"
        manifest = manifest_of(uri, resolve(strict, uri))
        got = fetch(store, strict, manifest)
        assert got["model.safetensors"] == hashlib.sha256(b"weights " * 100_000).hexdigest()

    def test_wrong_keys(self, strict: S3) -> None:
        for wrong in (S3(strict.url), S3(strict.url, key_id="AKIAWRONG", secret=strict.secret)):
            with pytest.raises(errors.Unauthorized, match="secretRef"):
                resolve(wrong, "s3://bucket/models/tiny")

    def test_no_keys(self, strict: S3, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", strict.url)
        with pytest.raises(errors.Unauthorized, match="there is no credential"):
            S3Source().resolve(parse_uri("s3://bucket/models/tiny"), None, None, (), ())
        anonymous = Credential({"AWS_NO_SIGN_REQUEST": "true", "AWS_ENDPOINT_URL": strict.url})
        with pytest.raises(errors.Unauthorized, match="not public"):
            S3Source().resolve(parse_uri("s3://bucket/models/tiny"), None, anonymous, (), ())

    def test_the_environment_is_never_mixed_into_a_secret(self, strict: S3, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in strict.secret_values.items():
            monkeypatch.setenv(name, value)
        assert S3Source().resolve(parse_uri("s3://bucket/models/tiny"), None, None, (), ()).files
        elsewhere = Credential({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"})
        with pytest.raises(errors.Unauthorized, match="AWS_SECRET_ACCESS_KEY"):
            S3Source().resolve(parse_uri("s3://bucket/models/tiny"), None, elsewhere, (), ())

    def test_a_profile(self, strict: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        profile = tmp_path / "credentials"
        profile.write_text(f"[models]\naws_access_key_id = {strict.key_id}\naws_secret_access_key = {strict.secret}\n")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profile))
        monkeypatch.setenv("AWS_PROFILE", "models")
        monkeypatch.setenv("AWS_ENDPOINT_URL", strict.url)
        assert S3Source().resolve(parse_uri("s3://bucket/models/tiny"), None, None, (), ()).files
        monkeypatch.setenv("AWS_PROFILE", "no-such-profile")
        with pytest.raises(errors.Unauthorized, match="ProfileNotFound"):
            S3Source().resolve(parse_uri("s3://bucket/models/tiny"), None, None, (), ())

    def test_pod_identity(self, strict: S3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """EKS Pod Identity: an agent on the node answers with temporary keys to who shows his projected token."""
        shown: list[str | None] = []

        def answer(handler: http.server.BaseHTTPRequestHandler) -> bytes:
            shown.append(handler.headers.get("Authorization"))
            return temporary(strict)

        token = tmp_path / "token"
        token.write_text("projected-token")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(token))
        monkeypatch.setenv("AWS_ENDPOINT_URL", strict.url)
        with answering(answer) as url:
            monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}/v1/credentials")
            assert S3Source().resolve(parse_uri("s3://bucket/models/tiny"), None, None, (), ()).files
        assert shown == ["projected-token"]

    def test_an_instance_profile(self, strict: S3, monkeypatch: pytest.MonkeyPatch) -> None:
        """The metadata service of the machine, in its second version: a token of a session, the role, and its keys."""
        asked: list[str] = []

        def answer(handler: http.server.BaseHTTPRequestHandler) -> bytes:
            asked.append(f"{handler.command} {handler.path}")
            if handler.command == "PUT":
                return b"session-token"
            assert handler.headers["X-aws-ec2-metadata-token"] == "session-token"
            return b"the-role" if handler.path.endswith("/") else temporary(strict)

        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
        monkeypatch.setenv("AWS_ENDPOINT_URL", strict.url)
        with answering(answer) as url:
            monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)
            source, uri = S3Source(), parse_uri("s3://bucket/models/tiny")
            resolution = source.resolve(uri, None, None, (), ())
            assert "X-Amz-Signature" in source.locate(uri, resolution.revision, resolution.files[0], None).url
        assert asked == [
            "PUT /latest/api/token",
            "GET /latest/meta-data/iam/security-credentials/",
            "GET /latest/meta-data/iam/security-credentials/the-role",
        ]

    def test_a_service_for_credentials_is_asked_for_those_and_never_as_a_source(
        self, strict: S3, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []

        def answer(handler: http.server.BaseHTTPRequestHandler) -> bytes:
            asked.append(handler.path)
            return temporary(strict)

        # As if loopback, where the service of this test is, were link-local.
        monkeypatch.setattr(destinations, "_FORBIDDEN", (ipaddress.ip_network("127.0.0.0/8"),))
        with answering(answer) as url:
            monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}/v1/credentials")
            monkeypatch.setenv("AWS_ENDPOINT_URL", url)
            with pytest.raises(errors.Unsupported, match="no source is read from there"):
                S3Source().resolve(parse_uri("s3://bucket/models/tiny"), None, None, (), ())
        assert asked == ["/v1/credentials"]

    def test_a_metadata_service_that_has_no_role(self, strict: S3, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "false")
        monkeypatch.setenv("AWS_ENDPOINT_URL", strict.url)
        with answering(lambda handler: None) as url:
            monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)
            with pytest.raises(errors.Unauthorized, match=r"there is no credential: set spec\.source\.secretRef"):
                S3Source().resolve(parse_uri("s3://bucket/models/tiny"), None, None, (), ())


def temporary(s3: S3) -> bytes:
    """Keys as services for credentials give them."""
    keys = {"Code": "Success", "AccessKeyId": s3.key_id, "SecretAccessKey": s3.secret, "Token": "",
            "Expiration": "2099-01-01T00:00:00Z"}  # fmt: skip
    return json.dumps(keys).encode()


@contextlib.contextmanager
def answering(answer: Callable[[http.server.BaseHTTPRequestHandler], bytes | None]) -> Iterator[str]:
    """A service on loopback, at this address; None: 404."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answer(self)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        do_PUT = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("secret", [True, False])
def test_a_public_bucket_is_read_without_signing(
    s3: S3, bucket: str, monkeypatch: pytest.MonkeyPatch, secret: bool
) -> None:
    put(s3, bucket, {"m/a": b"public"}, ACL="public-read")
    settings = {"AWS_NO_SIGN_REQUEST": "true", "AWS_ENDPOINT_URL": s3.url}
    credential = Credential(settings) if secret else None
    if not secret:
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)  # and the chain finds nothing
    uri, source = parse_uri(f"s3://{bucket}/m"), S3Source()
    resolution = source.resolve(uri, None, credential, (), ())
    location = source.locate(uri, resolution.revision, resolution.files[0], credential)
    assert "Signature" not in location.url
    with urllib.request.urlopen(location.url, timeout=30) as response:
        assert response.read() == b"public"


def test_irsa(s3: S3, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The projected token of a ServiceAccount is exchanged for keys by STS (here that of moto)."""
    put(s3, bucket, {"m/a": b"1"})
    token = tmp_path / "token"
    token.write_text("eyJhbGciOiJub25lIn0.e30.")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/models")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    source = S3Source()
    uri = parse_uri(f"s3://{bucket}/m")
    resolution = source.resolve(uri, None, None, (), ())
    location = source.locate(uri, resolution.revision, resolution.files[0], None)
    assert "X-Amz-Security-Token" in location.url, "signed with the keys that STS gave"
    assert "Security-Token" not in repr(location)
