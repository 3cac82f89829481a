"""What controller and agent do with a source in S3."""

from collections.abc import Mapping

from agent.store import Store
from agent.transfer import Downloader, TransferSettings
from controller.request import Request
from controller.resolver import build_manifest
from modelcache.manifest import Manifest
from modelcache.sources.base import Resolution, SourceFile
from modelcache.sources.s3 import S3Source
from modelcache.sources.uri import parse_uri
from tests.support.instant_clock import InstantClock
from tests.support.s3 import S3


def put(s3: S3, bucket: str, objects: Mapping[str, bytes], **more: str) -> None:
    """Upload objects, by their key."""
    for key, body in objects.items():
        s3.client.put_object(Bucket=bucket, Key=key, Body=body, **more)


def resolve(
    s3: S3, uri: str, revision: str | None = None, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()
) -> Resolution:
    """What the controller finds at a URI."""
    return S3Source().resolve(parse_uri(uri), revision, s3.credential, include, exclude)


def manifest_of(uri: str, resolution: Resolution) -> Manifest:
    """The manifest that the controller makes of it."""
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
