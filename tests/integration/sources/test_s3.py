"""`s3://` against moto and nanio: what a folder is, which checksums and versions are found, and who may read."""

import base64
import contextlib
import hashlib
import http.server
import ipaddress
import json
import os
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from agent.store import Store
from agent.transfer import Downloader, TransferSettings
from agent.transfer.errors import IntegrityError
from controller.request import Request
from controller.resolver import build_manifest
from modelcache.checksums import Checksum
from modelcache.manifest import Manifest, ManifestError
from modelcache.sources import destinations, errors
from modelcache.sources.base import Credential, Resolution, SourceFile
from modelcache.sources.s3 import S3Source
from modelcache.sources.s3_client import SAMPLE
from modelcache.sources.uri import parse_uri
from tests.support.instant_clock import InstantClock
from tests.support.nginx import AUTHORITY
from tests.support.s3 import S3, Listed, OwnS3, moto, nanio

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def no_ambient_identity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    # Without a network there is no instance whose profile could be asked for.
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with moto() as running:
        yield running


@pytest.fixture
def bucket(s3: S3, request: pytest.FixtureRequest) -> str:
    name = "b-" + hashlib.sha1(request.node.nodeid.encode()).hexdigest()[:20]
    s3.client.create_bucket(Bucket=name)
    return name


@pytest.fixture
def own() -> Iterator[Callable[..., OwnS3]]:
    with contextlib.ExitStack() as stack:

        def start(*objects: Listed, certificate: Path | None = None) -> OwnS3:
            server = OwnS3(objects, certificate)
            stack.callback(server.close)
            return server

        yield start


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "cache")
    yield opened
    opened.close()


def put(s3: S3, bucket: str, objects: Mapping[str, bytes], **more: str) -> None:
    for key, body in objects.items():
        s3.client.put_object(Bucket=bucket, Key=key, Body=body, **more)


def resolve(
    s3: S3, uri: str, revision: str | None = None, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()
) -> Resolution:
    return S3Source().resolve(parse_uri(uri), revision, s3.credential, include, exclude)


def manifest_of(uri: str, resolution: Resolution) -> Manifest:
    return build_manifest(Request(parse_uri(uri), None), resolution)


def fetch(store: Store, s3: S3, manifest: Manifest) -> dict[str, str]:
    """What an agent does: path -> sha256 of what is in the store."""
    source, uri = S3Source(), parse_uri(manifest.source)

    def locate(file: object) -> object:
        listed = SourceFile(
            **{name: getattr(file, name) for name in ("path", "size", "etag", "checksum", "locator", "sha256")}
        )
        return source.locate(uri, manifest.revision, listed, s3.credential)

    settings = TransferSettings(piece_bytes=256 * 1024, reserve_bytes=0)
    with Downloader(store, settings, clock=InstantClock(), environ={}) as downloader, store.hold() as hold:
        return dict(downloader.fetch(manifest, locate, namespace="team", hold=hold))  # type: ignore[arg-type]  # typed loosely above


def test_a_prefix_is_a_folder(s3: S3, bucket: str) -> None:
    put(s3, bucket, {
        "models/llama/config.json": b"{}", "models/llama/sub dir/ünï.txt": b"x", "models/llama/empty": b"",
        "models/llama/folder/": b"", "models/llama-2/config.json": b"2", "models/llama.txt": b"3",
    })  # fmt: skip
    files = resolve(s3, f"s3://{bucket}/models/llama").files
    assert [(file.path, file.size) for file in files] == [("config.json", 2), ("empty", 0), ("sub dir/ünï.txt", 1)]
    assert {file.path for file in resolve(s3, f"s3://{bucket}").files} >= {"models/llama-2/config.json"}
    assert [file.path for file in resolve(s3, f"s3://{bucket}/models/llama", None, ("*.json",)).files] == [
        "config.json"
    ]
    left = resolve(s3, f"s3://{bucket}/models/llama", None, (), ("sub dir/", "empty")).files
    assert [file.path for file in left] == ["config.json"]


def test_what_is_resolved_is_read(s3: S3, bucket: str, store: Store) -> None:
    contents = {"a b/ünï +%&.bin": os.urandom(MIB + 5), "config.json": b"{}", "empty": b""}
    put(s3, bucket, {f"models/x/{path}": body for path, body in contents.items()})
    uri = f"s3://{bucket}/models/x"
    got = fetch(store, s3, manifest_of(uri, resolve(s3, uri)))
    assert got == {path: hashlib.sha256(body).hexdigest() for path, body in contents.items()}


def test_one_object_is_a_model_of_one_file(s3: S3, bucket: str, store: Store) -> None:
    put(s3, bucket, {"models/llama.gguf": b"gguf"})
    uri = f"s3://{bucket}/models/llama.gguf"
    resolution = resolve(s3, uri)
    assert [file.path for file in resolution.files] == ["llama.gguf"]
    assert fetch(store, s3, manifest_of(uri, resolution)) == {"llama.gguf": hashlib.sha256(b"gguf").hexdigest()}


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256", None])
def test_published_checksums_are_found_and_compared(s3: S3, bucket: str, store: Store, algorithm: str | None) -> None:
    body = os.urandom(1000)
    checksum = published(algorithm, body) if algorithm else {}
    put(s3, bucket, {"m/file": body}, **checksum)
    uri = f"s3://{bucket}/m"
    resolution = resolve(s3, uri)
    (file,) = resolution.files
    if algorithm == "SHA256":
        assert file.sha256 == hashlib.sha256(body).hexdigest()
    elif algorithm:
        assert (file.checksum or "").startswith(f"{algorithm.lower()}:")
    manifest = manifest_of(uri, resolution)
    assert fetch(store, s3, manifest)["file"] == hashlib.sha256(body).hexdigest()


def published(algorithm: str, body: bytes) -> dict[str, str]:
    """What makes boto3 send, and S3 keep, a checksum."""
    digits = {"CRC32": 8, "CRC32C": 8, "CRC64NVME": 16, "SHA1": 40, "SHA256": 64}[algorithm]
    running = Checksum(algorithm.lower(), "0" * digits).begin()
    running.update(memoryview(body))
    value = base64.b64encode(bytes.fromhex(running.hexdigest())).decode()
    return {"ChecksumAlgorithm": algorithm, f"Checksum{algorithm}": value}


def test_a_byte_that_the_object_store_lost_is_found_by_its_checksum(s3: S3, bucket: str, store: Store) -> None:
    body = os.urandom(600_000)
    put(s3, bucket, {"m/weights": body}, **published("CRC64NVME", body))
    uri = f"s3://{bucket}/m"
    manifest = manifest_of(uri, resolve(s3, uri))
    wrong = manifest.files[0].checksum
    assert wrong is not None
    changed = "f" if wrong[-1] != "f" else "0"
    document = json.loads(manifest.encode())
    document["files"][0]["checksum"] = wrong[:-1] + changed
    with pytest.raises(IntegrityError, match="weights: the checksum"):
        fetch(store, s3, Manifest.decode(json.dumps(document).encode()))


def test_a_multipart_upload_is_checked_part_by_part(s3: S3, bucket: str, store: Store) -> None:
    parts = [os.urandom(5 * MIB), os.urandom(5 * MIB), os.urandom(77)]
    upload = s3.client.create_multipart_upload(Bucket=bucket, Key="m/big", ChecksumAlgorithm="SHA256")
    done = []
    for number, part in enumerate(parts, 1):
        answer = s3.client.upload_part(
            Bucket=bucket, Key="m/big", PartNumber=number, UploadId=upload["UploadId"], Body=part,
            ChecksumAlgorithm="SHA256",
        )  # fmt: skip
        done.append({"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": answer["ChecksumSHA256"]})
    s3.client.complete_multipart_upload(
        Bucket=bucket, Key="m/big", UploadId=upload["UploadId"], MultipartUpload={"Parts": done}
    )
    uri = f"s3://{bucket}/m"
    resolution = resolve(s3, uri)
    (file,) = resolution.files
    assert file.etag is not None
    assert file.etag.strip('"').endswith("-3"), "the ETag of a multipart upload"
    assert file.checksum is not None
    assert file.checksum.startswith(f"sha256/{5 * MIB}:")
    assert fetch(store, s3, manifest_of(uri, resolution))["big"] == hashlib.sha256(b"".join(parts)).hexdigest()


def test_an_object_that_is_overwritten_is_refused_by_name(s3: S3, bucket: str, store: Store) -> None:
    body = bytearray(os.urandom(600_000))
    put(s3, bucket, {"m/weights": bytes(body), "m/other": b"x"})
    uri = f"s3://{bucket}/m"
    manifest = manifest_of(uri, resolve(s3, uri))
    body[300_000] ^= 1
    put(s3, bucket, {"m/weights": bytes(body)})
    with pytest.raises(errors.SourceChanged, match="weights"):
        fetch(store, s3, manifest)
    with pytest.raises(errors.SourceChanged, match=manifest.revision[:12]):
        resolve(s3, uri, manifest.revision)


def test_with_versions_the_resolved_one_is_read_although_it_was_overwritten(s3: S3, bucket: str, store: Store) -> None:
    s3.client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    put(s3, bucket, {"m/weights": b"first"})
    uri = f"s3://{bucket}/m"
    manifest = manifest_of(uri, resolve(s3, uri))
    put(s3, bucket, {"m/weights": b"other"})
    assert fetch(store, s3, manifest)["weights"] == hashlib.sha256(b"first").hexdigest()


@pytest.mark.parametrize(
    "key", ["m/../escape", "m//double", "m/full-folder/", "m/a/../../b", "m/back\\slash", "m/./dot"]
)
def test_keys_that_are_no_paths_are_refused(own: Callable[..., OwnS3], key: str) -> None:
    server = own(Listed("m/good", 1), Listed(key, 1))
    uri = "s3://bucket/m"
    with pytest.raises(ManifestError, match=r"which contains|absolute"):
        manifest_of(uri, S3Source().resolve(parse_uri(uri), None, server.s3.credential, (), ()))


def test_a_listing_of_50_000_keys(own: Callable[..., OwnS3]) -> None:
    server = own(*(Listed(f"m/{number:05d}/ä", number) for number in range(50_000)))
    uri = "s3://bucket/m"
    resolution = S3Source().resolve(parse_uri(uri), None, server.s3.credential, (), ())
    assert len(manifest_of(uri, resolution).files) == 50_000
    assert len(server.requests) == 50, "a page for each thousand, and no request for each object"


def test_objects_are_not_asked_about_one_by_one_where_a_sample_has_nothing_to_tell(own: Callable[..., OwnS3]) -> None:
    server = own(*(Listed(f"m/{number:03d}", number) for number in range(200)))
    found = S3Source().resolve(parse_uri("s3://bucket/m"), None, server.s3.credential, (), ())
    assert len(found.files) == 200
    assert 1 < len([request for request in server.requests if request.startswith("HEAD")]) <= SAMPLE


def test_all_objects_are_asked_about_where_one_has_a_checksum(s3: S3, bucket: str) -> None:
    contents = {f"m/{number:02d}": b"%d" % number for number in range(2 * SAMPLE)}
    for key, body in contents.items():
        put(s3, bucket, {key: body}, **published("SHA256", body))
    files = resolve(s3, f"s3://{bucket}/m").files
    assert {f"m/{file.path}": file.sha256 for file in files} == {
        key: hashlib.sha256(body).hexdigest() for key, body in contents.items()
    }


def test_the_revision_stands_for_the_content_and_for_who_has_it(s3: S3, bucket: str, own: Callable[..., OwnS3]) -> None:
    put(s3, bucket, {"m/a": b"1", "m/b": b"2"})
    uri = f"s3://{bucket}/m"
    first = resolve(s3, uri)
    assert resolve(s3, uri, first.revision) == first
    put(s3, bucket, {"other/c": b"3"})
    assert resolve(s3, uri).revision == first.revision
    put(s3, bucket, {"m/b": b"3"})
    assert resolve(s3, uri).revision != first.revision
    one, two = own(Listed("m/a", 1)), own(Listed("m/a", 1))
    same = [S3Source().resolve(parse_uri("s3://bucket/m"), None, own.s3.credential, (), ()) for own in (one, two)]
    assert same[0].revision != same[1].revision


@pytest.mark.parametrize(
    ("status", "code", "kind", "says"),
    [
        (503, "SlowDown", errors.RateLimited, "fewer requests"),
        (429, "TooManyRequests", errors.RateLimited, "fewer requests"),
        (500, "InternalError", errors.Unreachable, "in trouble"),
        (403, "AccessDenied", errors.Unauthorized, "s3:ListBucket"),
        (403, "InvalidAccessKeyId", errors.Unauthorized, "not accepted"),
        (403, "SignatureDoesNotMatch", errors.Unauthorized, "not accepted"),
        (400, "ExpiredToken", errors.Unauthorized, "expired"),
        (403, "RequestTimeTooSkewed", errors.Unauthorized, "clock"),
        (404, "NoSuchBucket", errors.NotFound, "no bucket"),
        (301, "PermanentRedirect", errors.Unsupported, "AWS_REGION"),
        (400, "InvalidBucketName", errors.InvalidURI, "name of a bucket"),
        (418, "Teapot", errors.MalformedListing, "AWS_ENDPOINT_URL"),
    ],
)
def test_refusals_have_a_reason_and_a_sentence(
    own: Callable[..., OwnS3], status: int, code: str, kind: type[errors.SourceError], says: str
) -> None:
    server = own()
    server.refuse = lambda method, path: (status, code, {"Retry-After": "0"})
    s3 = server.s3
    with pytest.raises(kind, match=says) as caught:
        S3Source().resolve(parse_uri("s3://bucket/m"), None, s3.credential, (), ())
    assert type(caught.value) is kind
    assert "s3://bucket/m" in caught.value.message
    assert s3.secret not in caught.value.message
    assert s3.key_id not in caught.value.message


@pytest.mark.parametrize("body", [b"<html>", b"\x00\xff", b"{}", b"<ListBucketResult>"])
def test_a_server_that_is_no_s3(own: Callable[..., OwnS3], body: bytes) -> None:
    server = own()
    server.body = body
    with pytest.raises(errors.SourceError) as caught:
        S3Source().resolve(parse_uri("s3://bucket"), None, server.s3.credential, (), ())
    assert isinstance(caught.value, errors.MalformedListing | errors.EmptyRepository | errors.Unreachable)
    assert isinstance(caught.value, errors.EmptyRepository) or "AWS_ENDPOINT_URL" in caught.value.message


def test_a_server_that_is_away() -> None:
    away = S3("http://127.0.0.1:9")
    with pytest.raises(errors.Unreachable, match=r"127\.0\.0\.1:9"):
        S3Source().resolve(parse_uri("s3://bucket/m"), None, away.credential, (), ())


@pytest.mark.parametrize("endpoint", ["http://169.254.169.254", "https://[fe80::1]:443", "http://2852039166"])
def test_an_endpoint_at_an_address_of_the_machine_itself(endpoint: str) -> None:
    with pytest.raises(errors.Unsupported, match="no source is read from there"):
        S3Source().resolve(parse_uri("s3://bucket/m"), None, S3(endpoint).credential, (), ())


def test_an_endpoint_with_a_certificate_of_a_private_authority(own: Callable[..., OwnS3]) -> None:
    server = own(Listed("m/a", 1), certificate=AUTHORITY)
    uri = parse_uri("s3://bucket/m")

    def resolution(**more: str) -> Resolution:
        return S3Source({}).resolve(uri, None, Credential({**server.s3.secret_values, **more}), (), ())

    trusting = {"ca.crt": AUTHORITY.read_text()}
    found = resolution(**trusting)
    assert [file.path for file in found.files] == ["a"]
    credential = Credential({**server.s3.secret_values, **trusting})
    location = S3Source({}).locate(uri, found.revision, found.files[0], credential)
    assert location.authorities == AUTHORITY.read_text()
    with pytest.raises(errors.Unreachable, match=r"'ca\.crt' of the Secret"):
        resolution()
    with pytest.raises(errors.Unreachable, match=r"'ca\.crt' of the Secret"):
        resolution(**{"ca.crt": AUTHORITY.with_name("second.crt").read_text()})
    with pytest.raises(errors.Unsupported, match="BEGIN CERTIFICATE"):
        resolution(**{"ca.crt": "no certificate"})


def test_absent_things_have_names(s3: S3, bucket: str) -> None:
    with pytest.raises(errors.NotFound, match="neither a folder nor an object"):
        resolve(s3, f"s3://{bucket}/nothing")
    with pytest.raises(errors.NotFound, match="no bucket"):
        resolve(s3, "s3://no-such-bucket-here/m")
    put(s3, bucket, {"m/a": b""})
    with pytest.raises(errors.EmptyRepository, match="include"):
        resolve(s3, f"s3://{bucket}/m", None, ("*.bin",))
    with pytest.raises(errors.RevisionNotFound, match="v1"):
        resolve(s3, f"s3://{bucket}/m", "v1")


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
