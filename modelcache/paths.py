"""Where things lie on a node's disk. The layout is described in docs/on-disk-format.md; this is its only code.

    <root>
      blobs/sha256/<ab>/<hex>                immutable content, 0444, private to the agent
      partial/<key>/                         one file under way: data and piece journal (a file of one piece: just data)
      manifests/<hex>                        manifests by digest (canonical JSON)
      records/<namespace>/<name>/<snapshot>.json  what each published directory is: its manifest and hub claim
      models/<namespace>/<name>/<snapshot>/  what pods mount: hard links to blobs, read-only
      models/<namespace>/<name>/current      symlink to <snapshot>
      hub/<namespace>/models--org--name/     the same files as a Hugging Face hub cache
      staging/                               directories being built; emptied at start
      state.sqlite3                          index
      agent.lock, agent.sock                 of the running agent
      adapters.json                          which LoRA adapters the agent has loaded into which pods

All of `<root>` is one file system: hard links and renames between these directories have to work.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

DEFAULT_ROOT = Path("/var/lib/dynamo-models")
PROJECTED = Path("/var/run/secrets/modelcache")
"""Not on the node's disk, but in the agent's pod: where its token and the cluster's authorities are projected."""


class CachePaths:
    """Paths below one cache root. Arguments are trusted here: names come from the API server, paths from checked manifests."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs" / "sha256"
        self.partial = root / "partial"
        self.manifests = root / "manifests"
        self.records = root / "records"
        self.models = root / "models"
        self.hub = root / "hub"
        self.staging = root / "staging"
        self.index = root / "state.sqlite3"
        self.adapters = root / "adapters.json"
        self.lock = root / "agent.lock"
        self.socket = root / "agent.sock"

    def blob(self, sha256: str) -> Path:
        """The file that holds the content with this digest."""
        return self.blobs / sha256[:2] / sha256

    def partial_file(self, key: str) -> Path:
        """The directory of a file under way, or itself if it is small; `key` as given by `partial_key`."""
        return self.partial / key

    def manifest(self, digest: str) -> Path:
        """The stored manifest with this digest."""
        return self.manifests / digest

    def record(self, namespace: str, name: str, snapshot: str) -> Path:
        """The publication record of one snapshot, from which the index can be rebuilt."""
        return self.records / namespace / name / f"{snapshot}.json"

    def model(self, namespace: str, name: str) -> Path:
        """The directory of one DynamoModel."""
        return self.models / namespace / name

    def snapshot(self, namespace: str, name: str, snapshot: str) -> Path:
        """The published directory of one snapshot of a DynamoModel."""
        return self.model(namespace, name) / snapshot

    def current(self, namespace: str, name: str) -> Path:
        """The symlink to the snapshot in force."""
        return self.model(namespace, name) / "current"

    def hub_cache(self, namespace: str) -> Path:
        """What a pod of this namespace sets HF_HUB_CACHE to."""
        return self.hub / namespace

    def hub_repo(self, namespace: str, repo_id: str) -> Path:
        """The directory of one repository in the hub view (`org/name` -> `models--org--name`, as huggingface_hub does)."""
        return self.hub_cache(namespace) / hub_directory_name(repo_id)


def hub_directory_name(repo_id: str) -> str:
    """The name of a repository's directory in a hub cache, as huggingface_hub makes it."""
    return "models--" + repo_id.replace("/", "--")


def partial_key(namespace: str, source: str, revision: str, path: str, sha256: str | None) -> str:
    """Name of the partial directory of a file: its digest where the source publishes one, else a hash of its origin.

    Content with a known digest is shared by all models and revisions of a namespace that need it; other content only by
    itself. Nothing is shared between namespaces before it is complete and checked: what a file under way consists of is
    known to nobody, and a tenant could leave wrong bytes in it, or finish what he was given most of.
    """
    name = sha256 or "src-" + hashlib.sha256("\0".join((source, revision, path)).encode()).hexdigest()
    return f"{namespace}.{name}"
