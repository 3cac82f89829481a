"""Ask S3 what is in a folder, and sign addresses: everything of `s3://` that needs `boto3`.

Each request has a timeout and is tried three times at most; the caller knows when to ask again. Heads of objects are asked
for by several threads, because a round trip to a bucket takes tens of milliseconds and there may be a thousand objects.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from itertools import repeat
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.loaders
import botocore.session
import msgspec
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.parsers import ResponseParserError

from modelcache.checksums import Checksum
from modelcache.sources import destinations
from modelcache.sources.base import SourceFile
from modelcache.sources.errors import MalformedListing, NotFound, SourceChanged, SourceError, Unreachable, Unsupported
from modelcache.sources.s3 import locator_of
from modelcache.sources.s3_access import Access
from modelcache.sources.s3_connections import guard
from modelcache.sources.s3_refusal import Asked, explain
from modelcache.sources.select import selected
from modelcache.sources.tls import BundleFile, ca_bundle
from modelcache.sources.uri import SourceURI

MAX_HEADS = 2000
"""Objects that are asked about one by one."""
SAMPLE = 16
"""Objects that are asked about first, to see whether it is worth while to ask about the others."""
MAX_OBJECTS = 500_000
"""Objects of a listing; a manifest holds less than half of that."""
MAX_TEXT = 256 * 1024 * 1024
"""Characters of keys and ETags of a listing: what is held in memory before anything is judged."""
_HEAD_THREADS = 16
_CONNECT_TIMEOUT = 10.0
_DEFAULT_REGION = "us-east-1"
_CHECKSUMS = ("SHA256", "CRC64NVME", "CRC32C", "CRC32", "SHA1")
"""In the order of preference; S3 keeps one for each object."""
_ARCHIVED = frozenset({"GLACIER", "DEEP_ARCHIVE", "ARCHIVE_ACCESS", "DEEP_ARCHIVE_ACCESS"})
"""Classes of storage, and tiers of Intelligent-Tiering, that answer GetObject with InvalidObjectState."""
_DEADLINE = 600.0
"""Seconds for all requests of one listing."""


@cache
def _models() -> Any:
    """The descriptions of the API that come with botocore, read once: 10 ms for a client instead of 80."""
    return botocore.loaders.create_loader()


class S3Client:
    """The questions about one bucket, as one identity."""

    def __init__(
        self,
        access: Access,
        uri: SourceURI,
        environ: Mapping[str, str],
        *,
        timeout: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Find credential and region. Raises SourceError."""
        self.access = access
        self._uri = uri
        self._bucket = uri.authority
        self._timeout = timeout
        self._clock = clock
        # Of these settings boto3 knows only one.
        self._bundle = ca_bundle(environ)
        self._authorities = BundleFile(access.authorities) if access.authorities is not None else None
        if self._authorities is not None:
            self._bundle = self._authorities.path
        self._signed = not access.anonymous
        self.endpoint = access.endpoint or "S3"
        with self._translated():
            session = self._session()
            # A public bucket needs no credential: where the chain finds none, requests are not signed.
            self._signed = self._signed and session.get_credentials() is not None
            self._s3 = self._make(session, access.region or session.region_name or _DEFAULT_REGION)
            self.endpoint = str(self._s3.meta.endpoint_url)
            if access.endpoint is None:
                self._move_to_its_region(session)

    def listed(self, include: Sequence[str], exclude: Sequence[str]) -> list[SourceFile]:
        """All files below the prefix, those that are wanted with checksums and versions. Raises SourceError."""
        deadline = self._clock() + _DEADLINE
        prefix = f"{self._uri.path}/" if self._uri.path else ""
        files, announced = self._folder(prefix, deadline)
        if not files and prefix:
            return [self._described(self._object(self._uri.path), deadline)]
        wanted = [file for file in files if selected(file.path, include, exclude)]
        if len(wanted) > MAX_HEADS:
            return files
        first, rest = sample(wanted, announced)
        with ThreadPoolExecutor(_HEAD_THREADS, thread_name_prefix="head") as pool:
            described = dict(zip(first, pool.map(self._described, first.values(), repeat(deadline)), strict=True))
            if any(file.sha256 or file.checksum or file.locator for file in described.values()):
                described.update(zip(rest, pool.map(self._described, rest.values(), repeat(deadline)), strict=True))
        return [described.get(file.path, file) for file in files]

    def signed_url(self, key: str, version: str | None, seconds: int) -> str:
        """An address at which the object can be read. Raises SourceError."""
        parameters = {"Bucket": self._bucket, "Key": key}
        if version:
            parameters["VersionId"] = version
        with self._translated():
            return str(self._s3.generate_presigned_url("get_object", Params=parameters, ExpiresIn=seconds))

    def _session(self) -> Any:
        core = botocore.session.Session()
        core.register_component("data_loader", _models())
        access = self.access
        if access.key_id is None:
            return boto3.Session(botocore_session=core)
        return boto3.Session(
            aws_access_key_id=access.key_id,
            aws_secret_access_key=access.secret,
            aws_session_token=access.token,
            botocore_session=core,
        )

    def _make(self, session: Any, region: str) -> Any:
        config = Config(
            signature_version="s3v4" if self._signed else UNSIGNED,
            region_name=region,
            s3={"addressing_style": self.access.style},
            connect_timeout=min(self._timeout, _CONNECT_TIMEOUT),
            read_timeout=self._timeout,
            retries={"mode": "standard", "total_max_attempts": 3},
            max_pool_connections=_HEAD_THREADS,
        )
        client = session.client("s3", endpoint_url=self.access.endpoint, config=config, verify=self._bundle)
        # Of this client alone: what finds credentials has others, and has to ask the machine for its own.
        client.meta.events.register("before-send.s3", _check_destination)
        guard(client)
        return client

    def _move_to_its_region(self, session: Any) -> None:
        """Requests of boto3 follow a bucket to its region by themselves, presigned addresses cannot."""
        try:
            answer = self._s3.head_bucket(Bucket=self._bucket)
        except ClientError as error:
            # Also who may not see the bucket is told where it is; what else is wrong will show itself.
            answer = error.response
        region = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region", "")
        if region and region != self._s3.meta.region_name:
            self._s3 = self._make(session, region)

    def _folder(self, prefix: str, deadline: float) -> tuple[list[SourceFile], set[str]]:
        """The files below the prefix, and the paths of those for which the listing announces a checksum."""
        files: list[SourceFile] = []
        announced: set[str] = set()
        held = 0
        for number, entry in enumerate(self._entries(prefix, deadline)):
            if number >= MAX_OBJECTS:
                raise MalformedListing(f"{self._uri} lists more than {MAX_OBJECTS} objects: this is no model.")
            key, size = entry.get("Key"), entry.get("Size")
            if not isinstance(key, str) or not isinstance(size, int) or size < 0 or not key.startswith(prefix):
                raise MalformedListing(f"{self._uri}: {self.endpoint} lists an object without a key or a size.")
            path = key.removeprefix(prefix)
            if size == 0 and (not path or path.endswith("/")):
                continue
            etag = entry.get("ETag")
            held += len(key) + len(etag or "")
            if held > MAX_TEXT:
                raise MalformedListing(f"{self._uri} lists more than {MAX_TEXT} characters of keys: this is no model.")
            files.append(SourceFile(path=path, size=size, etag=etag))
            # Of what is archived, a question tells whether it can be read for the time being.
            if entry.get("ChecksumAlgorithm") or entry.get("StorageClass") in _ARCHIVED:
                announced.add(path)
        return files, announced

    def _entries(self, prefix: str, deadline: float) -> Iterator[Mapping[str, Any]]:
        token: str | None = None
        while True:
            self._check_time(deadline)
            more = {"ContinuationToken": token} if token else {}
            with self._translated():
                page = self._s3.list_objects_v2(Bucket=self._bucket, Prefix=prefix, **more)
            yield from page.get("Contents", ())
            following = page.get("NextContinuationToken")
            if not page.get("IsTruncated"):
                return
            if not following or following == token:
                raise MalformedListing(f"{self._uri}: {self.endpoint} does not say how its listing goes on.")
            token = following

    def _object(self, key: str) -> SourceFile:
        """The one object that the URI names. Raises NotFound."""
        try:
            with self._translated():
                head = self._s3.head_object(Bucket=self._bucket, Key=key)
        except NotFound:
            raise NotFound(
                f"{self._uri}: the bucket has neither a folder nor an object of that name; correct the address."
            ) from None
        return SourceFile(
            path=key.rpartition("/")[2],
            size=head["ContentLength"],
            etag=head.get("ETag"),
            locator=locator_of(key, None),
        )

    def _described(self, file: SourceFile, deadline: float) -> SourceFile:
        """With what HeadObject says about checksums and versions. Raises SourceChanged when it is another object by now."""
        self._check_time(deadline)
        single = file.locator is not None
        key = self._uri.path if single else f"{self._uri.path}/{file.path}" if self._uri.path else file.path
        head = self._head(key)
        if head.get("ContentLength") != file.size or (file.etag and head.get("ETag") != file.etag):
            raise SourceChanged(
                f"{self._uri}: {file.path} was changed while the folder was listed; it is listed again."
            )
        self._check_at_hand(file.path, head)
        version = head.get("VersionId")
        checksum = self._checksum(key, file.size, head)
        whole = checksum is not None and checksum.algorithm == "sha256" and not checksum.part_bytes
        return msgspec.structs.replace(
            file,
            sha256=checksum.value if checksum is not None and whole else None,
            checksum=str(checksum) if checksum is not None and not whole else None,
            locator=locator_of(key if single else None, version if version != "null" else None),
        )

    def _check_time(self, deadline: float) -> None:
        if self._clock() > deadline:
            raise Unreachable(
                f"{self.endpoint} has not finished listing {self._uri} after {_DEADLINE:.0f} s; it is asked again by itself."
            )

    def _check_at_hand(self, path: str, head: Mapping[str, Any]) -> None:
        """Raises Unsupported for an object that is in an archive and was not restored from there."""
        archive = head.get("ArchiveStatus") or head.get("StorageClass")
        restored = 'ongoing-request="false"' in str(head.get("Restore", ""))
        if archive in _ARCHIVED and not restored:
            raise Unsupported(
                f"{self._uri}: {path[:200]!r} is archived ({archive}): restore it in S3, or leave it out with "
                f"spec.source.exclude."
            )

    def _head(self, key: str, **more: Any) -> Mapping[str, Any]:
        try:
            with self._translated():
                head: Mapping[str, Any] = self._s3.head_object(
                    Bucket=self._bucket, Key=key, ChecksumMode="ENABLED", **more
                )
                return head
        except NotFound:
            raise SourceChanged(f"{self._uri}: {key} was listed and is gone; the folder is listed again.") from None

    def _checksum(self, key: str, size: int, head: Mapping[str, Any]) -> Checksum | None:
        """The checksum that `head` names, None where there is none that could be computed again."""
        for algorithm in _CHECKSUMS:
            text = head.get(f"Checksum{algorithm}")
            if not isinstance(text, str):
                continue
            value, dash, parts = text.partition("-")
            try:
                digest = base64.b64decode(value, validate=True).hex()
                checksum = Checksum.parse(f"{algorithm.lower()}:{digest}")
            except (ValueError, binascii.Error):
                raise MalformedListing(
                    f"{self._uri}: {self.endpoint} publishes a {algorithm} of {key!r} that is none."
                ) from None
            # "-<parts>" is at the end of such a checksum, and always at the end of the ETag of a multipart upload, of which
            # S3 has a SHA only part by part (also where a compatible store does not say so).
            uploaded = str(head.get("ETag", "")).strip('"').partition("-")[2]
            composite = dash or head.get("ChecksumType") == "COMPOSITE"
            if not composite and not (uploaded and algorithm.startswith("SHA")):
                return checksum
            part_bytes = self._part_bytes(key, size, parts or uploaded)
            return checksum._replace(part_bytes=part_bytes) if part_bytes else None
        return None

    def _part_bytes(self, key: str, size: int, text: str) -> int:
        """The size of the parts of a multipart upload of so many; 0 where they have several, or that is not told."""
        parts = int(text) if text.isdecimal() and len(text) < 6 else 0
        if parts <= 1:
            return size * parts
        first, last = (self._head(key, PartNumber=number).get("ContentLength", 0) for number in (1, parts))
        if not isinstance(first, int) or not isinstance(last, int) or not 0 < last <= first < size:
            return 0
        return first if first * (parts - 1) + last == size else 0

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn what a request raises into one of our errors."""
        try:
            yield
        except (BotoCoreError, ClientError, ResponseParserError, KeyError, ValueError, RecursionError) as error:
            if _recursed(error):
                # A redirect that names no region makes botocore 1.44 ask where the bucket is, which is answered so too.
                raise Unsupported(
                    f"{self._uri}: {self.endpoint} says that the bucket is elsewhere but not where; set AWS_REGION."
                ) from None
            asked = Asked(access=self.access, uri=self._uri, signed=self._signed, endpoint=self.endpoint)
            refused = error.kwargs.get("error") if isinstance(error, HTTPClientError) else None
            if isinstance(refused, SourceError):  # by a connection, see modelcache.sources.s3_connections
                raise refused from None
            # Without its cause, whose text is the server's.
            raise explain(error, asked, time.time()) from None


def _check_destination(request: Any, **_: Any) -> None:
    """Each request, redirects included, before it is sent. Raises Unsupported; see `modelcache.sources.destinations`.

    Here also for what a proxy is asked for, and without the tries again that botocore makes when connecting fails.
    """
    parts = urlsplit(request.url)
    destinations.check_host(parts.hostname or "")
    with suppress(OSError):  # that it stands for nothing, connecting will tell
        destinations.check_name(parts.hostname or "", parts.port or 443)


def sample(
    files: Sequence[SourceFile], announced: Collection[str]
) -> tuple[dict[str, SourceFile], dict[str, SourceFile]]:
    """Which files to ask about in any case, and which only if one of these has a checksum or a version; by path.

    The first are those for which a checksum is announced, and a few of the others, evenly spread: a store that has checksums
    and does not announce them, or keeps versions, does so for all objects or for none as a rule.
    """
    unknown = [file.path for file in files if file.path not in announced]
    step = -(-len(unknown) // SAMPLE) or 1
    asked = {*announced, *unknown[::step]}
    first = {file.path: file for file in files if file.path in asked}
    return first, {file.path: file for file in files if file.path not in asked}


def _recursed(error: BaseException | None) -> bool:
    """Whether a RecursionError is behind it; botocore wraps what happens below it in errors of its own."""
    while error is not None and not isinstance(error, RecursionError):
        error = error.__cause__ or error.__context__
    return error is not None
