"""The informer against a server that does everything wrong that servers and networks do."""

import asyncio
from random import Random
from typing import Any

import pytest

from modelcache.kube.backoff import Backoff
from modelcache.kube.resources import ObjectKey
from tests.support.faulty_api import (
    FaultyApi,
    Stream,
    drop,
    event_line,
    hang,
    is_list,
    is_next_page,
    is_watch,
    raw,
    status,
    watch_script,
)

MAPS = "/api/v1/namespaces/team-a/configmaps"


def config(version: int, name: str, **data: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "team-a", "uid": f"uid-{name}", "resourceVersion": str(version)},
        "data": data,
    }


def bookmark(version: int) -> dict[str, Any]:
    return {"kind": "ConfigMap", "metadata": {"resourceVersion": str(version)}}


def watched_from(api: FaultyApi) -> list[str]:
    return [seen.query["resourceVersion"] for seen in api.requests(lambda seen: seen.query.get("watch") == "true")]


def lists(api: FaultyApi) -> int:
    return len(api.requests(lambda seen: "watch" not in seen.query and "continue" not in seen.query))


async def test_lists_then_follows_additions_changes_and_deletions(api: FaultyApi, follow: Any, synced: Any) -> None:
    await api.put(f"{MAPS}/old", {"data": {"k": "0"}})
    async with follow() as recorder:
        await synced(recorder)
        assert recorder.data() == {"old": {"k": "0"}}
        await api.put(f"{MAPS}/new", {"data": {"k": "1"}})
        await api.put(f"{MAPS}/old", {"data": {"k": "2"}})
        await api.remove(f"{MAPS}/new")
        await recorder.until(lambda: len(recorder.changes) == 4)

    seen = [(old and old.data, new and new.data) for old, new in recorder.changes]
    assert seen == [(None, {"k": "0"}), (None, {"k": "1"}), ({"k": "0"}, {"k": "2"}), ({"k": "1"}, None)]
    assert recorder.keys == [ObjectKey("team-a", name) for name in ("old", "new", "old", "new")]
    assert recorder.names() == {"old"}


async def test_asks_for_bookmarks_and_a_random_end(api: FaultyApi, follow: Any) -> None:
    async with follow(namespace="team-a", label_selector="a in (b,c)", field_selector="metadata.name=x") as recorder:
        await api.until(lambda: api.open_watches == 1)
    del recorder
    listed, watched = api.seen[0], api.seen[-1]
    assert listed.path == watched.path == MAPS
    assert listed.query["limit"] == "500"
    assert listed.query["labelSelector"] == watched.query["labelSelector"] == "a in (b,c)"
    assert listed.query["fieldSelector"] == watched.query["fieldSelector"] == "metadata.name=x"
    assert watched.query["allowWatchBookmarks"] == "true"
    assert 270 <= int(watched.query["timeoutSeconds"]) <= 330
    assert watched.query["resourceVersion"] == str(api.version)


async def test_lists_in_pages(api: FaultyApi, follow: Any, synced: Any) -> None:
    for number in range(7):
        await api.put(f"{MAPS}/c{number}", {})
    async with follow(page_size=3) as recorder:
        await synced(recorder)
        assert recorder.names() == {f"c{number}" for number in range(7)}
    assert [seen.query.get("continue") for seen in api.seen if "watch" not in seen.query] == [None, "3", "6"]


async def test_continue_token_that_expires_restarts_the_list_in_one_piece(
    api: FaultyApi, follow: Any, synced: Any
) -> None:
    for number in range(7):
        await api.put(f"{MAPS}/c{number}", {})
    api.inject(is_next_page, status(410, "Expired", "The provided continue parameter is too old"), times=None)
    async with follow(page_size=3) as recorder:
        await synced(recorder)
        assert recorder.names() == {f"c{number}" for number in range(7)}
    assert len(recorder.changes) == 7, "nothing of the abandoned list was reported"
    assert "limit" not in api.seen[2].query


@pytest.mark.parametrize("fault", [status(500, "InternalError"), status(403, "Forbidden"), drop, raw(200, b'{"ite')])
async def test_list_that_fails_is_tried_again(api: FaultyApi, follow: Any, synced: Any, fault: Any) -> None:
    await api.put(f"{MAPS}/a", {})
    api.inject(is_list, fault, times=3)
    async with follow() as recorder:
        await synced(recorder)
        assert recorder.names() == {"a"}
        assert lists(api) == 4


async def test_health_tells_why(api: FaultyApi, follow: Any, synced: Any) -> None:
    api.inject(is_list, status(403, "Forbidden", "configmaps is forbidden: no RBAC"), times=None)
    async with follow() as recorder:
        await api.until(lambda: lists(api) == 3)
        health = recorder.informer.health
        assert not health.synced
        assert not health.watching
        assert health.failures >= 2
        assert health.last_contact is None
        assert health.last_error == f"list configmaps: Forbidden (403): configmaps is forbidden: no RBAC [{api.url}]"
        api.heal()
        await synced(recorder)
        await api.until(lambda: api.open_watches == 1)
        await api.put(f"{MAPS}/a", {})
        await recorder.until(lambda: recorder.names() == {"a"})
        health = recorder.informer.health
        assert health.synced
        assert health.watching
        assert health.failures == 0
        assert health.last_error == ""
        assert health.last_contact is not None


async def test_429_waits_as_long_as_the_server_says(api: FaultyApi, follow: Any) -> None:
    waits: list[float] = []
    asked = asyncio.Event()

    class Clock:
        def now(self) -> float:
            return asyncio.get_running_loop().time()

        def call_later(self, seconds: float, callback: Any) -> Any:
            return asyncio.get_running_loop().call_later(seconds, callback)

        async def sleep(self, seconds: float) -> None:
            waits.append(seconds)
            asked.set()

    api.inject(is_list, status(429, "TooManyRequests", headers={"Retry-After": "17"}))
    async with follow(clock=Clock()), asyncio.timeout(60):
        await asked.wait()
        await api.until(lambda: lists(api) == 2)
    assert waits[0] == 17.0


async def test_dropped_in_the_middle_of_a_line_resumes_without_loss(api: FaultyApi, follow: Any, synced: Any) -> None:
    async def cut_short(stream: Stream) -> None:
        await stream.event("ADDED", config(101, "a"))
        await stream.send(event_line("ADDED", config(102, "b"))[:40])
        stream.cut()

    async def rest(stream: Stream) -> None:
        await stream.event("ADDED", config(102, "b"))
        await asyncio.Event().wait()

    api.inject(is_watch, watch_script(cut_short))
    api.inject(is_watch, watch_script(rest))
    async with follow() as recorder:
        await recorder.until(lambda: recorder.names() == {"a", "b"})
    assert watched_from(api) == ["100", "101"]
    assert lists(api) == 1


async def test_lines_in_tiny_chunks_and_several_in_one(api: FaultyApi, follow: Any) -> None:
    async def crumbs(stream: Stream) -> None:
        for byte in event_line("ADDED", config(101, "a", text="ä\\n€")):
            await stream.send(bytes([byte]))
        together = event_line("ADDED", config(102, "b")) + b"\n" + event_line("ADDED", config(103, "c"))
        await stream.send(together[:-5])
        await stream.send(together[-5:])
        await asyncio.Event().wait()

    api.inject(is_watch, watch_script(crumbs))
    async with follow() as recorder:
        await recorder.until(lambda: recorder.names() == {"a", "b", "c"})
        assert recorder.data()["a"] == {"text": "ä\\n€"}
    assert len(watched_from(api)) == 1


async def test_line_of_several_mebibytes(api: FaultyApi, follow: Any, synced: Any) -> None:
    big = "x" * (5 << 20)
    async with follow() as recorder:
        await synced(recorder)
        await api.put(f"{MAPS}/big", {"data": {"blob": big}})
        await recorder.until(lambda: recorder.names() == {"big"})
        assert recorder.data()["big"]["blob"] == big
    assert len(watched_from(api)) == 1


async def test_410_on_connect_lists_again_and_sees_deletions(api: FaultyApi, follow: Any, synced: Any) -> None:
    for name in ("stays", "goes", "changes", "returns"):
        await api.put(f"{MAPS}/{name}", {"data": {"v": "1"}})
    blind = asyncio.Event()

    async def blackout(stream: Stream) -> None:
        await blind.wait()
        stream.cut()

    api.inject(is_watch, watch_script(blackout))
    async with follow() as recorder:
        await synced(recorder)
        old_uid = recorder.informer.get(ObjectKey("team-a", "returns")).metadata.uid
        recorder.changes.clear()
        await api.remove(f"{MAPS}/goes")
        await api.remove(f"{MAPS}/returns")
        await api.put(f"{MAPS}/returns", {"data": {"v": "1"}})
        await api.put(f"{MAPS}/changes", {"data": {"v": "2"}})
        await api.put(f"{MAPS}/arrives", {"data": {"v": "1"}})
        api.forget_history()
        blind.set()
        await recorder.until(lambda: recorder.names() == {"stays", "changes", "returns", "arrives"})
        await recorder.until(lambda: len(recorder.changes) == 5)
        assert recorder.informer.get(ObjectKey("team-a", "returns")).metadata.uid != old_uid

    names = sorted(((old or new).metadata.name, old is not None, new is not None) for old, new in recorder.changes)
    assert names == [
        ("arrives", False, True),
        ("changes", True, True),
        ("goes", True, False),
        ("returns", False, True),
        ("returns", True, False),
    ]
    assert lists(api) == 2


async def test_410_in_the_stream_lists_again(api: FaultyApi, follow: Any, synced: Any) -> None:
    await api.put(f"{MAPS}/a", {})

    async def expire(stream: Stream) -> None:
        await api.remove(f"{MAPS}/a")
        await stream.event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})
        await asyncio.Event().wait()

    api.inject(is_watch, watch_script(expire))
    async with follow() as recorder:
        await recorder.until(lambda: len(recorder.changes) == 2)
        assert recorder.names() == set()
        await api.until(lambda: api.open_watches == 1)
    assert lists(api) == 2
    assert watched_from(api)[-1] == str(api.version)


async def test_other_error_events_watch_again_from_the_same_version(api: FaultyApi, follow: Any) -> None:
    async def fail(stream: Stream) -> None:
        await stream.event("ADDED", config(101, "a"))
        await stream.event("ERROR", {"kind": "Status", "code": 500, "reason": "InternalError", "message": "oops"})

    api.inject(is_watch, watch_script(fail))
    async with follow() as recorder:
        await recorder.until(lambda: recorder.names() == {"a"})
        await api.until(lambda: len(watched_from(api)) == 2)
    assert watched_from(api) == ["100", "101"]
    assert lists(api) == 1


async def test_version_from_the_future_lists_again(api: FaultyApi, follow: Any, synced: Any) -> None:
    too_large = (
        b'{"kind":"Status","code":504,"reason":"Timeout","message":"Too large resource version: 100, current: 5",'
        b'"details":{"causes":[{"reason":"ResourceVersionTooLarge","message":"Too large resource version"}]}}'
    )
    api.inject(is_watch, raw(504, too_large))
    async with follow() as recorder:
        await synced(recorder)
        await api.until(lambda: api.open_watches == 1)
        assert lists(api) == 2


async def test_bookmarks_alone_move_the_version(api: FaultyApi, follow: Any, synced: Any) -> None:
    async def quiet(stream: Stream) -> None:
        await stream.event("BOOKMARK", bookmark(150))
        await stream.event("BOOKMARK", bookmark(170))
        stream.cut()

    api.inject(is_watch, watch_script(quiet))
    async with follow() as recorder:
        await api.until(lambda: len(watched_from(api)) == 2)
        assert recorder.keys == []
    assert watched_from(api) == ["100", "170"]


async def test_half_open_connection_is_given_up(api: FaultyApi, follow: Any, synced: Any) -> None:
    async def silent(stream: Stream) -> None:
        await asyncio.Event().wait()

    api.inject(is_watch, watch_script(silent))
    async with follow(watch_seconds=(1.0, 1.0), watch_grace=0.1) as recorder:
        await api.until(lambda: len(watched_from(api)) >= 2)
        await api.put(f"{MAPS}/a", {})
        await recorder.until(lambda: recorder.names() == {"a"})
    assert lists(api) == 1


async def test_server_that_never_answers_a_watch_is_given_up(api: FaultyApi, follow: Any, synced: Any) -> None:
    api.inject(is_watch, hang(asyncio.Event()))
    async with follow(watch_seconds=(1.0, 1.0), watch_grace=0.1) as recorder:
        await api.until(lambda: len(watched_from(api)) >= 2)
        await api.put(f"{MAPS}/a", {})
        await recorder.until(lambda: recorder.names() == {"a"})


async def test_watch_ended_by_the_server_goes_on_where_it_was(api: FaultyApi, follow: Any) -> None:
    async with follow(watch_seconds=(1.0, 1.0)) as recorder:
        await api.until(lambda: api.open_watches == 1)
        await api.put(f"{MAPS}/a", {})
        await recorder.until(lambda: recorder.names() == {"a"})
        await api.until(lambda: len(watched_from(api)) == 2)
        assert recorder.informer.health.failures == 0
    assert watched_from(api) == ["100", "101"]


async def test_watch_that_always_ends_at_once_is_a_failure_with_backoff(api: FaultyApi, follow: Any) -> None:
    async def nothing(stream: Stream) -> None:
        await stream.event("BOOKMARK", bookmark(100))

    api.inject(is_watch, watch_script(nothing), times=None)
    waits: list[float] = []

    class Counting(Backoff):
        def fail(self, now: float, at_least: float | None = None) -> float:
            waits.append(now)
            return 0.0

    async with follow(backoff=Counting(Random(1))):
        await api.until(lambda: len(watched_from(api)) == 5)
    assert len(waits) >= 4


async def test_undecodable_object_is_reported_and_stops_nothing(
    api: FaultyApi, follow: Any, synced: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await api.put(f"{MAPS}/bad", {"data": {"k": 7}})
    await api.put(f"{MAPS}/good", {"data": {"k": "7"}})
    bad = ObjectKey("team-a", "bad")
    async with follow() as recorder:
        await synced(recorder)
        informer = recorder.informer
        assert recorder.names() == {"good"}
        assert informer.invalid[bad].reason == "Expected `str`, got `int` - at `$.data[...]`"
        assert bad in recorder.keys
        assert set(informer.keys()) == {bad, ObjectKey("team-a", "good")}

        # A new version of it that is just as bad, then a good one, then bad again: the good state is kept.
        await api.put(f"{MAPS}/bad", {"data": [1]})
        await api.put(f"{MAPS}/bad", {"data": {"k": "fine"}})
        await recorder.until(lambda: recorder.names() == {"good", "bad"})
        assert bad not in informer.invalid
        await api.put(f"{MAPS}/bad", {"data": {"k": {}}})
        await recorder.until(lambda: bad in informer.invalid)
        assert informer.get(bad).data == {"k": "fine"}

        await api.remove(f"{MAPS}/bad")
        await recorder.until(lambda: recorder.names() == {"good"})
        assert bad not in informer.invalid
    logged = [record for record in caplog.records if "cannot be read" in record.getMessage()]
    assert len(logged) == 3, "once for each bad version"
    assert [(old and old.data, new and new.data) for old, new in recorder.changes][-2:] == [
        (None, {"k": "fine"}),
        ({"k": "fine"}, None),
    ]


async def test_undecodable_object_listed_twice_is_logged_once(
    api: FaultyApi, follow: Any, synced: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await api.put(f"{MAPS}/bad", {"data": 7})

    async def expire(stream: Stream) -> None:
        await stream.event("ERROR", {"kind": "Status", "code": 410, "reason": "Gone"})

    api.inject(is_watch, watch_script(expire))
    async with follow():
        await api.until(lambda: api.open_watches == 1)
    assert lists(api) == 2
    assert len([record for record in caplog.records if "cannot be read" in record.getMessage()]) == 1


async def test_nonsense_in_the_stream(api: FaultyApi, follow: Any) -> None:
    async def nonsense(stream: Stream) -> None:
        await stream.event("ADDED", {"metadata": {"name": 5}})
        await stream.event("ADDED", {"metadata": {}})
        await stream.event("ADDED", "what")
        await stream.event("SURPRISE", config(101, "z"))
        await stream.event("ADDED", config(102, "a"))
        await stream.send(b"<html>gateway</html>\n")
        await asyncio.Event().wait()

    api.inject(is_watch, watch_script(nonsense))
    async with follow() as recorder:
        await recorder.until(lambda: recorder.names() == {"a"})
        await api.until(lambda: len(watched_from(api)) == 2)
    assert watched_from(api) == ["100", "102"]


async def test_handlers_that_raise_stop_nobody(api: FaultyApi, follow: Any, synced: Any) -> None:
    async with follow() as recorder:

        def broken(*args: object) -> None:
            raise RuntimeError("handler")

        recorder.informer.on_change(broken)
        recorder.informer.on_key(broken)
        await synced(recorder)
        await api.put(f"{MAPS}/a", {})
        await api.put(f"{MAPS}/b", {})
        await recorder.until(lambda: recorder.names() == {"a", "b"})


async def test_index_follows_changes(api: FaultyApi, follow: Any, synced: Any) -> None:
    async with follow() as recorder:
        informer = recorder.informer
        informer.index("owner", lambda c: [(c.data or {}).get("owner", "nobody")])
        await synced(recorder)
        await api.put(f"{MAPS}/a", {"data": {"owner": "x"}})
        await api.put(f"{MAPS}/b", {"data": {"owner": "x"}})
        await recorder.until(lambda: len(informer.lookup("owner", "x")) == 2)
        await api.put(f"{MAPS}/a", {"data": {"owner": "y"}})
        await api.remove(f"{MAPS}/b")
        await recorder.until(lambda: informer.lookup("owner", "x") == [])
        assert [c.metadata.name for c in informer.lookup("owner", "y")] == ["a"]
        with pytest.raises(KeyError):
            informer.lookup("colour", "x")


async def test_server_restart_without_losing_anything(api: FaultyApi, follow: Any, synced: Any) -> None:
    await api.put(f"{MAPS}/a", {})
    await api.put(f"{MAPS}/b", {})
    async with follow() as recorder:
        await api.until(lambda: api.open_watches == 1)
        await api.stop()
        await api.remove(f"{MAPS}/a")
        await api.put(f"{MAPS}/c", {})
        await api.start()
        await recorder.until(lambda: recorder.names() == {"b", "c"})
    assert lists(api) == 1, "the version is still known: no need to list"


async def test_expired_token_is_read_again_at_once(api: FaultyApi, follow: Any, synced: Any) -> None:
    async with follow() as recorder:
        await api.until(lambda: api.open_watches == 1)
        api.token = "second"
        api.write_kubeconfig("second")
        await api.stop()
        await api.start()
        await api.put(f"{MAPS}/a", {})
        await recorder.until(lambda: recorder.names() == {"a"})
    tokens = [seen.headers.get("Authorization") for seen in api.seen]
    assert tokens[-2:] == ["Bearer unused", "Bearer second"]
