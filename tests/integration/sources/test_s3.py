"""`s3://` against moto and nanio: what a folder is, which checksums and versions are found, and who may read."""

import base64
import hashlib
import json
import os
from collections.abc import Callable

import pytest

from agent.store import Store
from agent.transfer.errors import IntegrityError
from modelcache.checksums import Checksum
from modelcache.manifest import Manifest, ManifestError
from modelcache.sources import errors
from modelcache.sources.base import Credential, Resolution
from modelcache.sources.s3 import S3Source
from modelcache.sources.s3_client import SAMPLE
from modelcache.sources.uri import parse_uri
from tests.support.nginx import AUTHORITY
from tests.support.s3 import S3, Listed, OwnS3
from tests.support.s3_models import fetch, manifest_of, put, resolve

pytestmark = pytest.mark.usefixtures("no_ambient_identity")


MIB = 1024 * 1024


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
