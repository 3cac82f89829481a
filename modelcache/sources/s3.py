"""`s3://bucket/prefix`: models in S3, or in anything that speaks its protocol.

`boto3` finds credentials (its whole chain: IRSA, Pod Identity, instance profile, profile, environment), signs, and lists;
bytes are read by the transfer engine from presigned addresses. A prefix means a *folder*: `s3://b/models/llama` is
everything below `models/llama/` and nothing of `models/llama-2/`; where there is no such folder, it is the one object of that
name. Empty objects whose key ends in `/` are how consoles show folders, and are left out.

What S3 publishes, and what is checked:

sha256 of the object       the digest of the file, as for every source
CRC64NVME, CRC32C, CRC32,  compared when the file has arrived (`modelcache.checksums`), those of multipart uploads ("composite")
SHA1, composite SHA256     as well, where the parts have one size (what every uploader does)
ETag                       not taken for a digest (it is one, an MD5, only for some objects) but for the *version*: every
                           request carries it as `If-Match`, so an object that was overwritten is refused, never mixed
version id                 where the bucket has versions, it is what is read: an overwritten object can still be had

The checksums and version ids take one request (HeadObject) for each object. Where the listing announces no checksums, and a
sample of the objects has neither those nor versions, the others are not asked about; in listings of more than MAX_HEADS objects
none is. Then only ETags are used. For an object with nothing but an ETag, the sha256 that the first node computes becomes the
manifest's.

Settings come from the environment, or as a whole from a Secret with the same keys; see `modelcache.sources.s3_access`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlencode

from modelcache.sources.base import Credential, Location, Resolution, SourceFile
from modelcache.sources.listing import resolution_of
from modelcache.sources.s3_access import access_from
from modelcache.sources.uri import SourceURI

SIGNED_SECONDS = 3600
"""For which a presigned address is valid."""
SIGN_AGAIN_SECONDS = 600
"""After which a new one is made. Short of the 10 to 15 minutes before their end at which boto3 renews temporary credentials:
an address that was signed with a credential must not outlive it."""


class S3Source:
    """The source for `s3://`. Keeps its clients, which are expensive to make: one for each credential and bucket."""

    def __init__(
        self,
        environ: Mapping[str, str] = os.environ,
        *,
        timeout: float = 30.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`timeout`: seconds for each single read from the network. `clock`: Unix seconds."""
        self._environ = environ
        self._timeout = timeout
        self._clock = clock
        self._lock = threading.Lock()
        self._clients: dict[object, Any] = {}

    def resolve(
        self,
        uri: SourceURI,
        revision: str | None,
        credential: Credential | None,
        include: Sequence[str],
        exclude: Sequence[str],
    ) -> Resolution:
        """List the folder. See `modelcache.sources.base.Source`."""
        client = self._client(uri, credential)
        listed = client.listed(include, exclude)
        return resolution_of(uri, revision, listed, include, exclude, place=client.endpoint)

    def locate(self, uri: SourceURI, revision: str, file: SourceFile, credential: Credential | None) -> Location:
        """Sign an address for the object, in its version. See `modelcache.sources.base.Source`."""
        locator = parse_qs(file.locator or "")
        key = locator.get("key", [f"{uri.path}/{file.path}" if uri.path else file.path])[0]
        version = locator.get("versionId", [None])[0]
        client = self._client(uri, credential)
        url = client.signed_url(key, version, SIGNED_SECONDS)
        headers = {"If-Match": file.etag} if file.etag else {}
        return Location(
            url=url,
            headers=headers,
            expires_at=self._clock() + SIGN_AGAIN_SECONDS,
            authorities=client.access.authorities,
        )

    def _client(self, uri: SourceURI, credential: Credential | None) -> Any:
        # Here and not above: boto3 takes 200 ms and 25 MiB, which who has no S3 need not pay.
        from modelcache.sources.s3_client import S3Client

        access = access_from(self._environ, credential)
        with self._lock:
            client = self._clients.get((access, uri))
            if client is None:
                client = self._clients[access, uri] = S3Client(
                    access, uri, self._environ, timeout=self._timeout, clock=self._clock
                )
            return client


def locator_of(key: str | None, version: str | None) -> str | None:
    """What `locate` needs beyond the path: the key where it is not folder and path, the version where there is one."""
    parts = {"key": key, "versionId": version}
    return urlencode({name: value for name, value in parts.items() if value}) or None
