"""The hub's side of Xet: which files are in it, and who may read there. The storage itself is `hf_xet`'s, in a directory.

`GET /api/models/{id}/xet-read-token/{revision}` answers with a token and the address of the storage. Here that address is
`local://<directory>`, which `hf_xet` 1.8 understands: no server is needed for its own format.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from local.hub.views import Entry

FAR_AWAY = 4_000_000_000
"""Unix seconds, in 2096: these tokens do not expire."""


@dataclass
class XetStorage:
    """Files that are in Xet: `hashes` are Xet's names of their content, by sha256."""

    directory: Path
    hashes: Mapping[str, str]
    tokens: int = field(default=0)
    """How often somebody asked for a token."""

    def token(self) -> dict[str, object]:
        """What the token API answers."""
        self.tokens += 1
        return {"accessToken": "xet-token", "exp": FAR_AWAY, "casUrl": f"local://{self.directory}"}

    def named(self, entries: Sequence[Entry]) -> list[Entry]:
        """Entries of the tree API, with the hash of those that are in Xet."""
        return [self._named(entry) for entry in entries]

    def _named(self, entry: Entry) -> Entry:
        name = self.hashes.get(entry.get("lfs", {}).get("oid", ""))
        return {**entry, "xetHash": name} if name is not None else entry
