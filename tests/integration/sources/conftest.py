"""A hub in this process and a source that asks it; object stores, and nothing of this machine that opens them."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.store import Store
from tests.support.hub import Serve, hubs
from tests.support.s3 import S3, Listed, OwnS3, moto


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve repositories until the test is over."""
    with hubs() as serve:
        yield serve


@pytest.fixture
def no_ambient_identity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key of AWS is found here but those of the test."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    # Without a network there is no instance whose profile could be asked for.
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    """An object store that believes everybody."""
    with moto() as running:
        yield running


@pytest.fixture
def bucket(s3: S3, request: pytest.FixtureRequest) -> str:
    """An empty one, of this test."""
    name = "b-" + hashlib.sha1(request.node.nodeid.encode()).hexdigest()[:20]
    s3.client.create_bucket(Bucket=name)
    return name


@pytest.fixture
def own() -> Iterator[Callable[..., OwnS3]]:
    """Starts servers that list what the test says."""
    with contextlib.ExitStack() as stack:

        def start(*objects: Listed, certificate: Path | None = None) -> OwnS3:
            server = OwnS3(objects, certificate)
            stack.callback(server.close)
            return server

        yield start


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """The cache of a node."""
    opened = Store.open(tmp_path / "cache")
    yield opened
    opened.close()
