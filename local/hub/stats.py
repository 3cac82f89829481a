"""Counting what clients ask for and what they are sent.

`file_bytes` are bytes of file content handed to the kernel for a client, redirects and JSON not counted: what a test means
by "the origin was read once", and what the demo prints as `origin_bytes`.
"""

import secrets
import threading
from collections import Counter
from typing import Any

from local.hub.faults import Target


class Stats:
    """Counters of one server; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._instance = secrets.token_hex(8)
        self.reset()

    def reset(self) -> None:
        """Start again from zero."""
        with self._lock:
            self._requests: Counter[str] = Counter()
            self._paths: Counter[str] = Counter()
            self._statuses: Counter[str] = Counter()
            self._file_requests: Counter[str] = Counter()
            self._file_bytes: Counter[str] = Counter()
            self._tokens_on_cdn = 0
            self._open = 0
            self._most_open = 0

    def request(self, target: Target, path: str, status: int, authorized: bool) -> None:
        """Count one answered request."""
        with self._lock:
            self._requests[target.stage] += 1
            self._paths[path] += 1
            self._statuses[str(status)] += 1
            self._tokens_on_cdn += authorized and target.stage == "cdn"

    def body_begins(self, repository: str, file: str) -> None:
        """Count one response that carries bytes of a file."""
        with self._lock:
            self._file_requests[f"{repository}/{file}"] += 1
            self._open += 1
            self._most_open = max(self._most_open, self._open)

    def body_bytes(self, repository: str, file: str, size: int) -> None:
        """Count bytes of a file that are sent; negative for bytes that were announced and could not be sent."""
        with self._lock:
            self._file_bytes[f"{repository}/{file}"] += size

    def body_ends(self) -> None:
        """Count the end, good or bad, of a response that carried bytes of a file."""
        with self._lock:
            self._open -= 1

    @property
    def file_bytes(self) -> int:
        """Bytes of file content sent, of all files together."""
        with self._lock:
            return self._file_bytes.total()

    def bytes_of(self, repository: str, file: str) -> int:
        """Bytes of one file's content sent."""
        with self._lock:
            return self._file_bytes[f"{repository}/{file}"]

    def requests_to(self, path: str) -> int:
        """Requests for one path, as it was sent."""
        with self._lock:
            return self._paths[path]

    def describe(self) -> dict[str, Any]:
        """Return all counters for `GET /_stats`."""
        with self._lock:
            return {
                # Differs after a restart: counters alone do not tell, they are corrected downwards when a client vanishes.
                "instance": self._instance,
                "requests": {"total": self._requests.total(), **self._requests},
                "statuses": dict(self._statuses),
                "paths": dict(self._paths),
                "file_bytes": self._file_bytes.total(),
                "files": {
                    name: {"requests": number, "bytes": self._file_bytes[name]}
                    for name, number in self._file_requests.items()
                },
                "open_bodies": self._open,
                "most_open_bodies": self._most_open,
                "tokens_on_cdn": self._tokens_on_cdn,
            }
