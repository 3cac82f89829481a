"""Repositories that no honest hub has, as raw JSON: the server must be able to say them, so that clients can be tested."""

import pytest

from local.hub.faults import Listing
from local.hub.repository import Repository
from tests.support.hub import Serve, ask

HOSTILE = {
    "../../etc/passwd": b"root",
    "/etc/passwd": b"root",
    "README.md": b"a",
    "readme.md": b"b",
    "nul\0name": b"c",
    "new\nline": b"d",
    "empty": b"",
    "dir": b"a file",
    "dir/file": b"and a directory",
    "lone\ud800surrogate": b"e",
    "\u202egnp.exe": b"f",
}


def listed(url: str, name: str = "o/n") -> list[dict[str, object]]:
    tree = ask(f"{url}/api/models/{name}/tree/main?recursive=true").json()
    return [entry for entry in tree if entry["type"] == "file"]


def test_any_name_can_be_listed(serve: Serve) -> None:
    server = serve(Repository("o/n", dict(HOSTILE)))
    assert {entry["path"] for entry in listed(server.url)} == set(HOSTILE)
    siblings = ask(f"{server.url}/api/models/o/n?blobs=true").json()["siblings"]
    assert {sibling["rfilename"]: sibling["size"] for sibling in siblings} == {
        path: len(content) for path, content in HOSTILE.items()
    }


@pytest.mark.parametrize(
    ("path", "content"),
    [("nul%00name", b"c"), ("new%0Aline", b"d"), ("empty", b""), ("dir", b"a file"), ("dir/file", b"and a directory")],
)
def test_their_content_can_be_read(serve: Serve, path: str, content: bytes) -> None:
    server = serve(Repository("o/n", dict(HOSTILE)))
    assert ask(f"{server.url}/o/n/resolve/main/{path}").body == content


def test_listings_can_lie(serve: Serve) -> None:
    server = serve(Repository("o/n", {"a": b"1", "b": b"2"}))
    server.hub.faults.add(
        Listing(
            override={"a": {"size": 99, "oid": "f" * 40}, "b": {"size": None}},
            append=[{"type": "file", "path": "a", "size": 1, "oid": "0" * 40}],
        )
    )
    first, second, third = listed(server.url)
    assert (first["path"], first["size"], first["oid"]) == ("a", 99, "f" * 40)
    assert "size" not in second
    assert third["path"] == "a"
    siblings = ask(f"{server.url}/api/models/o/n?blobs=true").json()["siblings"]
    assert [sibling.get("size") for sibling in siblings] == [99, None, 1]
    server.hub.faults.clear()
    assert [entry["size"] for entry in listed(server.url)] == [1, 1]


def test_only_the_repository_named_lies(serve: Serve) -> None:
    server = serve(Repository("o/n", {"a": b"1"}), Repository("o/m", {"a": b"1"}))
    server.hub.faults.add(Listing(repository="o/m", override={"a": {"size": 5}}))
    assert listed(server.url)[0]["size"] == 1
    assert listed(server.url, "o/m")[0]["size"] == 5
