"""Manifests in the cluster: gzip in immutable ConfigMaps beside the DynamoModel, which owns them.

The manifest is what makes a restarted controller, a moved branch or an unreachable source harmless, so it is stored before
anything is announced. It is found again by the digest in the DynamoModel's *status*, and by nothing else: ConfigMaps can be
written by whoever may edit the namespace, the status subresource only by the controller. A planted ConfigMap could
otherwise name the digests of another tenant's files and have them linked into this tenant's directory.

A ConfigMap holds at most 1 MiB, so a large manifest is cut into several. They are written before the status names them and
removed after no agent reports their digest, so at every moment all manifests that are in use can be read.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import logging
import re
import zlib
from collections.abc import Collection

import msgspec

from controller.request import Pinned
from modelcache.api.base import API_VERSION, KIND
from modelcache.api.labels import READY_PREFIX
from modelcache.api.model import DynamoModel
from modelcache.kube.client import KubeClient
from modelcache.kube.errors import AlreadyExists, NotFound
from modelcache.kube.objects import ObjectMeta, PartialObject
from modelcache.kube.resources import CONFIG_MAPS
from modelcache.manifest import Manifest, ManifestError

_log = logging.getLogger(__name__)

CHUNK_BYTES = 800 * 1024
"""Of compressed data in one ConfigMap. The API server refuses more than 1 MiB, metadata included."""
MAX_BYTES = 256 * 1024 * 1024
"""Of an unpacked manifest: 200,000 files with the longest allowed paths. More is no manifest but a gzip bomb."""

OWNER_LABEL = f"{READY_PREFIX}/manifest-of"
"""uid of the DynamoModel."""
DIGEST_LABEL = f"{READY_PREFIX}/manifest"
"""First half of the digest; a label value holds at most 63 characters."""
REQUEST_ANNOTATION = f"{READY_PREFIX}/request"
CHUNK_ANNOTATION = f"{READY_PREFIX}/chunk"
_DIGEST_CHARACTERS = 32
_NAME = re.compile(r"-manifest-[0-9a-f]{8}-[0-9a-f]{16}-[0-9]{1,6}$")
"""How the names of these ConfigMaps end, as manifests/policy/controller-writes.yaml has it."""
_DATA_KEY = "manifest.json.gz"


class LostManifest(Exception):
    """The ConfigMaps of a manifest are missing or damaged; the message says which."""


class _ConfigMap(msgspec.Struct, frozen=True, rename="camel"):
    metadata: ObjectMeta
    binary_data: dict[str, str] | None = None


class ManifestStore:
    """Stores, loads and removes manifests of DynamoModels."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def store(self, model: DynamoModel, pinned: Pinned, request_key: str) -> None:
        """Write the ConfigMaps of a manifest; those that are there already are left alone. Raises KubeError."""
        packed = await asyncio.to_thread(gzip.compress, pinned.encoded, 6, mtime=0)
        chunks = [packed[start : start + CHUNK_BYTES] for start in range(0, len(packed), CHUNK_BYTES)]
        for number, chunk in enumerate(chunks):
            body = config_map_body(model, pinned.digest, request_key, number, len(chunks), chunk)
            await self._create(model.metadata.namespace, body, chunk)
        _log.info(
            "%s: stored manifest %.12s of revision %s in %d ConfigMap(s)",
            model.key, pinned.digest, pinned.revision, len(chunks),
        )  # fmt: skip

    async def _create(self, namespace: str, body: dict[str, object], chunk: bytes) -> None:
        metadata = body["metadata"]
        assert isinstance(metadata, dict)
        name = str(metadata["name"])
        try:
            await self._client.create(CONFIG_MAPS, body, namespace, name=name)
            return
        except AlreadyExists:
            pass
        # Left over from a try that ended between this write and the status, or something else under our name.
        try:
            found = await self._client.get(CONFIG_MAPS, name, namespace, into=_ConfigMap)
            if _content(found) == chunk and (found.metadata.labels or {}).items() >= metadata["labels"].items():
                return
            _log.warning("ConfigMap %s/%s is not what this controller stored there; replacing it", namespace, name)
            await self._client.delete(CONFIG_MAPS, name, namespace, uid=found.metadata.uid)
        except NotFound:
            pass
        await self._client.create(CONFIG_MAPS, body, namespace, name=name)

    async def load(self, model: DynamoModel, digest: str) -> Pinned:
        """The manifest with this digest. Raises LostManifest, and KubeError when the API cannot be asked."""
        selector = f"{OWNER_LABEL}={model.metadata.uid},{DIGEST_LABEL}={digest[:_DIGEST_CHARACTERS]}"
        found: list[_ConfigMap] = []
        pages = self._client.list_pages(
            CONFIG_MAPS, model.metadata.namespace, into=_ConfigMap, label_selector=selector, limit=20
        )
        async for page in pages:
            found += page.objects
        return await asyncio.to_thread(_unpack, found, digest)

    async def remove_others(self, model: DynamoModel, keep: Collection[str]) -> None:
        """Delete the ConfigMaps of all manifests of this model whose digest is not in `keep`. Raises KubeError."""
        kept = {digest[:_DIGEST_CHARACTERS] for digest in keep}
        namespace = model.metadata.namespace
        selector = f"{OWNER_LABEL}={model.metadata.uid}"
        stale: list[ObjectMeta] = []
        async for page in self._client.list_pages(CONFIG_MAPS, namespace, into=PartialObject, label_selector=selector):
            stale += [
                item.metadata
                for item in page.objects
                # What somebody else has labelled like ours is his, and no policy lets this controller delete it.
                if _NAME.search(item.metadata.name) and (item.metadata.labels or {}).get(DIGEST_LABEL) not in kept
            ]
        for metadata in stale:
            try:
                await self._client.delete(CONFIG_MAPS, metadata.name, namespace, uid=metadata.uid)
            except NotFound:
                continue
            _log.info("%s: removed ConfigMap %s of a manifest that nobody uses", model.key, metadata.name)


def config_map_body(
    model: DynamoModel, digest: str, request_key: str, number: int, count: int, chunk: bytes
) -> dict[str, object]:
    """The ConfigMap with part `number` of `count` of a manifest; manifests/policy/controller-writes.yaml allows this form."""
    owner = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": model.metadata.name,
        "uid": model.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": _name(model, digest, number),
            "namespace": model.metadata.namespace,
            "labels": {
                "app.kubernetes.io/managed-by": "modelcache-controller",
                OWNER_LABEL: model.metadata.uid,
                DIGEST_LABEL: digest[:_DIGEST_CHARACTERS],
            },
            "annotations": {REQUEST_ANNOTATION: request_key, CHUNK_ANNOTATION: f"{number}/{count}"},
            "ownerReferences": [owner],
        },
        "immutable": True,
        "binaryData": {_DATA_KEY: base64.b64encode(chunk).decode()},
    }


def _name(model: DynamoModel, digest: str, number: int) -> str:
    """The uid is part of it because the leftovers of a deleted model of the same name may still be there.

    At most 253 characters, the longest name of an object (RFC 1123 subdomain): 190 + 10 + 33 + 7 and four hyphens.
    """
    stem = model.metadata.name[:190].rstrip("-.")
    return f"{stem}-manifest-{model.metadata.uid[:8]}-{digest[:16]}-{number}"


def _content(config_map: _ConfigMap) -> bytes:
    try:
        return base64.b64decode((config_map.binary_data or {}).get(_DATA_KEY, ""), validate=True)
    except ValueError:
        return b""


def _chunk_number(config_map: _ConfigMap) -> tuple[int, int]:
    number, slash, count = (config_map.metadata.annotations or {}).get(CHUNK_ANNOTATION, "").partition("/")
    if not slash or not (number.isdecimal() and count.isdecimal()) or len(number) > 6 or len(count) > 6:
        return -1, 0
    return int(number), int(count)


def _unpack(config_maps: Collection[_ConfigMap], digest: str) -> Pinned:
    """Raises LostManifest."""
    numbered = {_chunk_number(config_map): config_map for config_map in config_maps}
    count = max((count for _, count in numbered), default=0)
    chunks = []
    for number in range(count):
        config_map = numbered.get((number, count))
        if config_map is None:
            raise LostManifest(f"part {number + 1} of {count} of manifest {digest[:12]} is missing")
        chunks.append(_content(config_map))
    if not chunks:
        raise LostManifest(f"no ConfigMap holds manifest {digest[:12]}")
    unpacker = zlib.decompressobj(wbits=31)  # 16 + 15: a gzip header
    try:
        data = unpacker.decompress(b"".join(chunks), MAX_BYTES)
    except zlib.error as error:
        raise LostManifest(f"the ConfigMaps of manifest {digest[:12]} are damaged: {error}") from error
    if not unpacker.eof or hashlib.sha256(data).hexdigest() != digest:
        raise LostManifest(f"the ConfigMaps of manifest {digest[:12]} hold something else")
    try:
        return Pinned.of(Manifest.decode(data))
    except ManifestError as error:
        raise LostManifest(f"manifest {digest[:12]} cannot be used: {error}") from error
