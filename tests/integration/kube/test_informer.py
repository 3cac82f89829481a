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
from tests.support.waiting import PATIENCE

MAPS = "/api/v1/namespaces/team-a/configmaps"


def config(version: int, name: str, **data: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "team-a", "uid": f"uid-{name}", "resourceVersion": str(version)},
        "data": data,
    }


def bookmark(version: int) -> dict[str, Any]:
    return {"kind": "ConfigMap", "metadata": {"resourceVersion": str(version)}}


def watched_from(faulty: FaultyApi) -> list[str]:
    return [seen.query["resourceVersion"] for seen in faulty.requests(lambda seen: seen.query.get("watch") == "true")]


def lists(faulty: FaultyApi) -> int:
    return len(faulty.requests(lambda seen: "watch" not in seen.query and "continue" not in seen.query))


async def test_lists_then_follows_additions_changes_and_deletions(faulty: FaultyApi, follow: Any, synced: Any) -> None:
    await faulty.put(f"{MAPS}/old", {"data": {"k": "0"}})
    async with follow() as recorder:
        await synced(recorder)
        assert recorder.data() == {"old": {"k": "0"}}
        await faulty.put(f"{MAPS}/new", {"data": {"k": "1"}})
        await faulty.put(f"{MAPS}/old", {"data": {"k": "2"}})
        await faulty.remove(f"{MAPS}/new")
        await recorder.until(lambda: len(recorder.changes) == 4)

    seen = [(old and old.data, new and new.data) for old, new in recorder.changes]
    assert seen == [(None, {"k": "0"}), (None, {"k": "1"}), ({"k": "0"}, {"k": "2"}), ({"k": "1"}, None)]
    assert recorder.keys == [ObjectKey("team-a", name) for name in ("old", "new", "old", "new")]
    assert recorder.names() == {"old"}


async def test_asks_for_bookmarks_and_a_random_end(faulty: FaultyApi, follow: Any) -> None:
    async with follow(namespace="team-a", label_selector="a in (b,c)", field_selector="metadata.name=x") as recorder:
        await faulty.until(lambda: faulty.open_watches == 1)
    del recorder
    listed, watched = faulty.seen[0], faulty.seen[-1]
    assert listed.path == watched.path == MAPS
    assert listed.query["limit"] == "500"
    assert listed.query["labelSelector"] == watched.query["labelSelector"] == "a in (b,c)"
    assert listed.query["fieldSelector"] == watched.query["fieldSelector"] == "metadata.name=x"
    assert watched.query["allowWatchBookmarks"] == "true"
    assert 270 <= int(watched.query["timeoutSeconds"]) <= 330
    assert watched.query["resourceVersion"] == str(faulty.version)


async def test_lists_in_pages(faulty: FaultyApi, follow: Any, synced: Any) -> None:
    for number in range(7):
        await faulty.put(f"{MAPS}/c{number}", {})
    async with follow(page_size=3) as recorder:
        await synced(recorder)
        assert recorder.names() == {f"c{number}" for number in range(7)}
    assert [seen.query.get("continue") for seen in faulty.seen if "watch" not in seen.query] == [None, "3", "6"]


async def test_continue_token_that_expires_restarts_the_list_in_one_piece(
    faulty: FaultyApi, follow: Any, synced: Any
) -> None:
    for number in range(7):
        await faulty.put(f"{MAPS}/c{number}", {})
    faulty.inject(is_next_page, status(410, "Expired", "The provided continue parameter is too old"), times=None)
    async with follow(page_size=3) as recorder:
        await synced(recorder)
        assert recorder.names() == {f"c{number}" for number in range(7)}
    assert len(recorder.changes) == 7, "nothing of the abandoned list was reported"
    assert "limit" not in faulty.seen[2].query


@pytest.mark.parametrize("fault", [status(500, "InternalError"), status(403, "Forbidden"), drop, raw(200, b'{"ite')])
async def test_list_that_fails_is_tried_again(faulty: FaultyApi, follow: Any, synced: Any, fault: Any) -> None:
    await faulty.put(f"{MAPS}/a", {})
    faulty.inject(is_list, fault, times=3)
    async with follow() as recorder:
        await synced(recorder)
        assert recorder.names() == {"a"}
        assert lists(faulty) == 4


async def test_health_tells_why(faulty: FaultyApi, follow: Any, synced: Any) -> None:
    faulty.inject(is_list, status(403, "Forbidden", "configmaps is forbidden: no RBAC"), times=None)
    async with follow() as recorder:
        await faulty.until(lambda: lists(faulty) == 3)
        health = recorder.informer.health
        assert not health.synced
        assert not health.watching
        assert health.failures >= 2
        assert health.last_contact is None
        assert health.last_error == f"list configmaps: Forbidden (403): configmaps is forbidden: no RBAC [{faulty.url}]"
        faulty.heal()
        await synced(recorder)
        await faulty.until(lambda: faulty.open_watches == 1)
        await faulty.put(f"{MAPS}/a", {})
        await recorder.until(lambda: recorder.names() == {"a"})
        health = recorder.informer.health
        assert health.synced
        assert health.watching
        assert health.failures == 0
        assert health.last_error == ""
        assert health.last_contact is not None


async def test_429_waits_as_long_as_the_server_says(faulty: FaultyApi, follow: Any) -> None:
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

    faulty.inject(is_list, status(429, "TooManyRequests", headers={"Retry-After": "17"}))
    async with follow(clock=Clock()), asyncio.timeout(PATIENCE):
        await asked.wait()
        await faulty.until(lambda: lists(faulty) == 2)
    assert waits[0] == 17.0


async def test_dropped_in_the_middle_of_a_line_resumes_without_loss(
    faulty: FaultyApi, follow: Any, synced: Any
) -> None:
    async def cut_short(stream: Stream) -> None:
        await stream.event("ADDED", config(101, "a"))
        await stream.send(event_line("ADDED", config(102, "b"))[:40])
        stream.cut()

    async def rest(stream: Stream) -> None:
        await stream.event("ADDED", config(102, "b"))
        await asyncio.Event().wait()

    faulty.inject(is_watch, watch_script(cut_short))
    faulty.inject(is_watch, watch_script(rest))
    async with follow() as recorder:
        await recorder.until(lambda: recorder.names() == {"a", "b"})
    assert watched_from(faulty) == ["100", "101"]
    assert lists(faulty) == 1


async def test_lines_in_tiny_chunks_and_several_in_one(faulty: FaultyApi, follow: Any) -> None:
    async def crumbs(stream: Stream) -> None:
        for byte in event_line("ADDED", config(101, "a", text="ä\\n€")):
            await stream.send(bytes([byte]))
        together = event_line("ADDED", config(102, "b")) + b"\n" + event_line("ADDED", config(103, "c"))
        await stream.send(together[:-5])
        await stream.send(together[-5:])
        await asyncio.Event().wait()

    faulty.inject(is_watch, watch_script(crumbs))
    async with follow() as recorder:
        await recorder.until(lambda: recorder.names() == {"a", "b", "c"})
        assert recorder.data()["a"] == {"text": "ä\\n€"}
    assert len(watched_from(faulty)) == 1


async def test_line_of_several_mebibytes(faulty: FaultyApi, follow: Any, synced: Any) -> None:
    big = "x" * (5 << 20)
    async with follow() as recorder:
        await synced(recorder)
        await faulty.put(f"{MAPS}/big", {"data": {"blob": big}})
        await recorder.until(lambda: recorder.names() == {"big"})
        assert recorder.data()["big"]["blob"] == big
    assert len(watched_from(faulty)) == 1


async def test_410_on_connect_lists_again_and_sees_deletions(faulty: FaultyApi, follow: Any, synced: Any) -> None:
    for name in ("stays", "goes", "changes", "returns"):
        await faulty.put(f"{MAPS}/{name}", {"data": {"v": "1"}})
    blind = asyncio.Event()

    async def blackout(stream: Stream) -> None:
        await blind.wait()
        stream.cut()

    faulty.inject(is_watch, watch_script(blackout))
    async with follow() as recorder:
        await synced(recorder)
        old_uid = recorder.informer.get(ObjectKey("team-a", "returns")).metadata.uid
        recorder.changes.clear()
        await faulty.remove(f"{MAPS}/goes")
        await faulty.remove(f"{MAPS}/returns")
        await faulty.put(f"{MAPS}/returns", {"data": {"v": "1"}})
        await faulty.put(f"{MAPS}/changes", {"data": {"v": "2"}})
        await faulty.put(f"{MAPS}/arrives", {"data": {"v": "1"}})
        faulty.forget_history()
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
    assert lists(faulty) == 2


async def test_410_in_the_stream_lists_again(faulty: FaultyApi, follow: Any, synced: Any) -> None:
    await faulty.put(f"{MAPS}/a", {})

    async def expire(stream: Stream) -> None:
        await faulty.remove(f"{MAPS}/a")
        await stream.event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})
        await asyncio.Event().wait()

    faulty.inject(is_watch, watch_script(expire))
    async with follow() as recorder:
        await recorder.until(lambda: len(recorder.changes) == 2)
        assert recorder.names() == set()
        await faulty.until(lambda: faulty.open_watches == 1)
    assert lists(faulty) == 2
    assert watched_from(faulty)[-1] == str(faulty.version)


async def test_410_after_an_outage_lists_again_at_once_and_a_second_one_waits(faulty: FaultyApi, follow: Any) -> None:
    async def expire(stream: Stream) -> None:
        await stream.event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})

    waits: list[str] = []

    class Counting(Backoff):
        def fail(self, now: float, at_least: float | None = None) -> float:
            waits.append(f"after {lists(faulty)} lists")
            return 0.0

    faulty.inject(is_watch, watch_script(expire), times=2)
    async with follow(backoff=Counting(Random(1))):
        await faulty.until(lambda: lists(faulty) == 3 and faulty.open_watches == 1)
    assert waits == ["after 2 lists"], "a server that forgets again what it has just said is not asked without end"


async def test_other_error_events_watch_again_from_the_same_version(faulty: FaultyApi, follow: Any) -> None:
    async def fail(stream: Stream) -> None:
        await stream.event("ADDED", config(101, "a"))
        await stream.event("ERROR", {"kind": "Status", "code": 500, "reason": "InternalError", "message": "oops"})

    faulty.inject(is_watch, watch_script(fail))
    async with follow() as recorder:
        await recorder.until(lambda: recorder.names() == {"a"})
        await faulty.until(lambda: len(watched_from(faulty)) == 2)
    assert watched_from(faulty) == ["100", "101"]
    assert lists(faulty) == 1


async def test_version_from_the_future_lists_again(faulty: FaultyApi, follow: Any, synced: Any) -> None:
    too_large = (
        b'{"kind":"Status","code":504,"reason":"Timeout","message":"Too large resource version: 100, current: 5",'
        b'"details":{"causes":[{"reason":"ResourceVersionTooLarge","message":"Too large resource version"}]}}'
    )
    faulty.inject(is_watch, raw(504, too_large))
    async with follow() as recorder:
        await synced(recorder)
        await faulty.until(lambda: faulty.open_watches == 1)
        assert lists(faulty) == 2


async def test_bookmarks_alone_move_the_version(faulty: FaultyApi, follow: Any, synced: Any) -> None:
    async def quiet(stream: Stream) -> None:
        await stream.event("BOOKMARK", bookmark(150))
        await stream.event("BOOKMARK", bookmark(170))
        stream.cut()

    faulty.inject(is_watch, watch_script(quiet))
    async with follow() as recorder:
        await faulty.until(lambda: len(watched_from(faulty)) == 2)
        assert recorder.keys == []
    assert watched_from(faulty) == ["100", "170"]


async def test_half_open_connection_is_given_up(faulty: FaultyApi, follow: Any, synced: Any) -> None:
    async def silent(stream: Stream) -> None:
        await asyncio.Event().wait()

    faulty.inject(is_watch, watch_script(silent))
    async with follow(watch_seconds=(1.0, 1.0), watch_grace=0.1) as recorder:
        await faulty.until(lambda: len(watched_from(faulty)) >= 2)
        await faulty.put(f"{MAPS}/a", {})
        await recorder.until(lambda: recorder.names() == {"a"})
    assert lists(faulty) == 1


async def test_server_that_never_answers_a_watch_is_given_up(faulty: FaultyApi, follow: Any, synced: Any) -> None:
    faulty.inject(is_watch, hang(asyncio.Event()))
    async with follow(watch_seconds=(1.0, 1.0), watch_grace=0.1) as recorder:
        await faulty.until(lambda: len(watched_from(faulty)) >= 2)
        await faulty.put(f"{MAPS}/a", {})
        await recorder.until(lambda: recorder.names() == {"a"})


async def test_watch_ended_by_the_server_goes_on_where_it_was(faulty: FaultyApi, follow: Any) -> None:
    async with follow(watch_seconds=(1.0, 1.0)) as recorder:
        await faulty.until(lambda: faulty.open_watches == 1)
        await faulty.put(f"{MAPS}/a", {})
        await recorder.until(lambda: recorder.names() == {"a"})
        await faulty.until(lambda: len(watched_from(faulty)) == 2)
        assert recorder.informer.health.failures == 0
    assert watched_from(faulty) == ["100", "101"]


async def test_watch_that_always_ends_at_once_is_a_failure_with_backoff(faulty: FaultyApi, follow: Any) -> None:
    async def nothing(stream: Stream) -> None:
        await stream.event("BOOKMARK", bookmark(100))

    faulty.inject(is_watch, watch_script(nothing), times=None)
    waits: list[float] = []

    class Counting(Backoff):
        def fail(self, now: float, at_least: float | None = None) -> float:
            waits.append(now)
            return 0.0

    async with follow(backoff=Counting(Random(1))):
        await faulty.until(lambda: len(watched_from(faulty)) == 5)
    assert len(waits) >= 4


async def test_undecodable_object_is_reported_and_stops_nothing(
    faulty: FaultyApi, follow: Any, synced: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await faulty.put(f"{MAPS}/bad", {"data": {"k": 7}})
    await faulty.put(f"{MAPS}/good", {"data": {"k": "7"}})
    bad = ObjectKey("team-a", "bad")
    async with follow() as recorder:
        await synced(recorder)
        informer = recorder.informer
        assert recorder.names() == {"good"}
        assert informer.invalid[bad].reason == "Expected `str`, got `int` - at `$.data[...]`"
        assert bad in recorder.keys
        assert set(informer.keys()) == {bad, ObjectKey("team-a", "good")}

        # A new version of it that is just as bad, then a good one, then bad again: the good state is kept.
        await faulty.put(f"{MAPS}/bad", {"data": [1]})
        await faulty.put(f"{MAPS}/bad", {"data": {"k": "fine"}})
        await recorder.until(lambda: recorder.names() == {"good", "bad"})
        assert bad not in informer.invalid
        await faulty.put(f"{MAPS}/bad", {"data": {"k": {}}})
        await recorder.until(lambda: bad in informer.invalid)
        assert informer.get(bad).data == {"k": "fine"}

        await faulty.remove(f"{MAPS}/bad")
        await recorder.until(lambda: recorder.names() == {"good"})
        assert bad not in informer.invalid
    logged = [record for record in caplog.records if "cannot be read" in record.getMessage()]
    assert len(logged) == 3, "once for each bad version"
    assert [(old and old.data, new and new.data) for old, new in recorder.changes][-2:] == [
        (None, {"k": "fine"}),
        ({"k": "fine"}, None),
    ]


async def test_undecodable_object_listed_twice_is_logged_once(
    faulty: FaultyApi, follow: Any, synced: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await faulty.put(f"{MAPS}/bad", {"data": 7})

    async def expire(stream: Stream) -> None:
        await stream.event("ERROR", {"kind": "Status", "code": 410, "reason": "Gone"})

    faulty.inject(is_watch, watch_script(expire))
    async with follow():
        await faulty.until(lambda: faulty.open_watches == 1)
    assert lists(faulty) == 2
    assert len([record for record in caplog.records if "cannot be read" in record.getMessage()]) == 1


async def test_nonsense_in_the_stream(faulty: FaultyApi, follow: Any) -> None:
    async def nonsense(stream: Stream) -> None:
        await stream.event("ADDED", {"metadata": {"name": 5}})
        await stream.event("ADDED", {"metadata": {}})
        await stream.event("ADDED", "what")
        await stream.event("SURPRISE", config(101, "z"))
        await stream.event("ADDED", config(102, "a"))
        await stream.send(b"<html>gateway</html>\n")
        await asyncio.Event().wait()

    faulty.inject(is_watch, watch_script(nonsense))
    async with follow() as recorder:
        await recorder.until(lambda: recorder.names() == {"a"})
        await faulty.until(lambda: len(watched_from(faulty)) == 2)
    assert watched_from(faulty) == ["100", "102"]


async def test_handlers_that_raise_stop_nobody(faulty: FaultyApi, follow: Any, synced: Any) -> None:
    async with follow() as recorder:

        def broken(*args: object) -> None:
            raise RuntimeError("handler")

        recorder.informer.on_change(broken)
        recorder.informer.on_key(broken)
        await synced(recorder)
        await faulty.put(f"{MAPS}/a", {})
        await faulty.put(f"{MAPS}/b", {})
        await recorder.until(lambda: recorder.names() == {"a", "b"})


async def test_index_follows_changes(faulty: FaultyApi, follow: Any, synced: Any) -> None:
    async with follow() as recorder:
        informer = recorder.informer
        informer.index("owner", lambda c: [(c.data or {}).get("owner", "nobody")])
        await synced(recorder)
        await faulty.put(f"{MAPS}/a", {"data": {"owner": "x"}})
        await faulty.put(f"{MAPS}/b", {"data": {"owner": "x"}})
        await recorder.until(lambda: len(informer.lookup("owner", "x")) == 2)
        await faulty.put(f"{MAPS}/a", {"data": {"owner": "y"}})
        await faulty.remove(f"{MAPS}/b")
        await recorder.until(lambda: informer.lookup("owner", "x") == [])
        assert [c.metadata.name for c in informer.lookup("owner", "y")] == ["a"]
        with pytest.raises(KeyError):
            informer.lookup("colour", "x")


async def test_server_restart_without_losing_anything(faulty: FaultyApi, follow: Any, synced: Any) -> None:
    await faulty.put(f"{MAPS}/a", {})
    await faulty.put(f"{MAPS}/b", {})
    async with follow() as recorder:
        await faulty.until(lambda: faulty.open_watches == 1)
        await faulty.stop()
        await faulty.remove(f"{MAPS}/a")
        await faulty.put(f"{MAPS}/c", {})
        await faulty.start()
        await recorder.until(lambda: recorder.names() == {"b", "c"})
    assert lists(faulty) == 1, "the version is still known: no need to list"


async def test_expired_token_is_read_again_at_once(faulty: FaultyApi, follow: Any, synced: Any) -> None:
    async with follow() as recorder:
        await faulty.until(lambda: faulty.open_watches == 1)
        faulty.token = "second"
        faulty.write_kubeconfig("second")
        await faulty.stop()
        await faulty.start()
        await faulty.put(f"{MAPS}/a", {})
        await recorder.until(lambda: recorder.names() == {"a"})
    tokens = [seen.headers.get("Authorization") for seen in faulty.seen]
    assert tokens[-2:] == ["Bearer unused", "Bearer second"]
