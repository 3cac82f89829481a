"""Which namespaces may be given which content.

Content is kept once, by its digest; a namespace is a tenant. That somebody can name a digest proves nothing: he may have
read it in a listing, or be the one who writes the listing. So content counts for a namespace only if

- it was read, all of it, through a source of the namespace: by this agent, or by those with which it downloads a model of that
  namespace (they keep the same rule), or
- it was here already, and the source of the namespace has shown that it has the same (`agent.transfer.proof`), or
- it is published for the namespace.

The first two are rows of the index, the third is what lies on the disk. So a lost index costs at most another look at the
source, and never gives anything to anybody.

A proof is by samples, and somebody who has most of a file would pass it in the end if he could try often enough. Therefore
a namespace has one try for each content on each node; when it fails (`refuse`), only reading all of it counts.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.store.index import Index


class Admissions:
    """Those of one store. Thread-safe; raises IndexFailed. Rows go with the content that they are about."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def holds(self, namespace: str, sha256: str) -> bool:
        """Whether the content may be given to a namespace, if it is here."""
        found = self._index.rows(
            "SELECT 1 FROM admissions WHERE sha256 = ? AND namespace = ? AND NOT refused UNION ALL "
            "SELECT 1 FROM files f JOIN snapshots s ON f.snapshot_id = s.id WHERE f.sha256 = ? AND s.namespace = ? LIMIT 1",
            sha256,
            namespace,
            sha256,
            namespace,
        )
        return bool(found)

    def refused(self, namespace: str, sha256: str) -> bool:
        """Whether the namespace had its try and could not show that its source has the content."""
        where = "sha256 = ? AND namespace = ? AND refused"
        return bool(self._index.rows(f"SELECT 1 FROM admissions WHERE {where}", sha256, namespace))  # noqa: S608 -- constant

    def admit(self, namespace: str, digests: Iterable[str]) -> None:
        """From now on this content may be given to a namespace."""
        self._set(namespace, digests, refused=False)

    def refuse(self, namespace: str, sha256: str) -> None:
        """The source of the namespace has other content, whatever it says. Takes nothing away that is published."""
        self._set(namespace, [sha256], refused=True)

    def _set(self, namespace: str, digests: Iterable[str], *, refused: bool) -> None:
        rows = [(digest, namespace, refused) for digest in digests]
        if not rows:
            return
        with self._index.transaction() as cursor:
            cursor.executemany(
                "INSERT OR REPLACE INTO admissions VALUES (?, ?, ?)",
                rows,
            )
