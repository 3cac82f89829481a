"""What was loaded where: kept over the life of the agent, and never a reason for it to fail."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from agent.lora.record import Entry, Record, Recorded
from modelcache.kube.resources import ObjectKey
from tests.support.waiting import wait_until_async

LORA = ObjectKey("team", "lora")


def entry(pod: str = "p1", name: str = "a", snapshot: str = "1", **more: bool) -> Entry:
    return Entry(
        pod_uid=pod,
        pod_name="worker-0",
        container_start="c1",
        lora_name=name,
        namespace=LORA.namespace,
        name=LORA.name,
        model_uid="u1",
        manifest_digest=snapshot * 64,
        snapshot=snapshot,
        uri=f"file:///models/lora/{snapshot}",
        **more,
    )


def record(path: Path, needed: list[ObjectKey] | None = None) -> Record:
    seen = needed if needed is not None else []
    return Record(path, Record.load(path), seen.append)


async def test_entries_outlive_the_process(tmp_path: Path) -> None:
    path = tmp_path / "adapters.json"
    first = record(path)
    first.put(entry())
    first.put(entry(name="b", confirmed=True))
    first.put(entry(pod="p2", given_up=True))
    first.put(entry(pod="p3"))
    first.drop("p3", "a")
    await first.written()
    second = record(path)
    assert second.of_pod("p1") == {"a": entry(), "b": entry(name="b", confirmed=True)}
    assert second.of_pod("p2") == {"a": entry(pod="p2", given_up=True)}
    assert second.pods() == ["p1", "p2"]


async def test_which_models_are_adapters_outlives_the_process_too(tmp_path: Path) -> None:
    path = tmp_path / "adapters.json"
    first = record(path)
    other = ObjectKey("team", "other")
    first.know([LORA, other], adapters=True)
    first.know([other, ObjectKey("team", "never")], adapters=False)
    await first.written()
    second = record(path)
    assert second.models == {LORA}
    assert second.is_adapter(LORA)
    assert not second.is_adapter(other)


async def test_every_change_is_written_without_being_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "adapters.json"
    one = record(path)
    one.put(entry())
    one.put(entry(confirmed=True))

    async def there() -> bool:
        return Record.load(path).entries == [entry(confirmed=True)]

    await wait_until_async(there)


async def test_changes_during_a_write_are_written_too(tmp_path: Path) -> None:
    path = tmp_path / "adapters.json"
    one = record(path)

    async def put(number: int) -> bool:
        one.put(entry(name=f"a{number}"))
        await one.written()
        return f"a{number}" in {each.lora_name for each in Record.load(path).entries}

    assert all(await asyncio.gather(*(put(number) for number in range(50))))


async def test_the_snapshots_that_an_engine_may_read(tmp_path: Path) -> None:
    needed: list[ObjectKey] = []
    one = record(tmp_path / "adapters.json", needed)
    one.put(entry())
    one.put(entry(pod="p2"))
    assert one.snapshots(LORA) == {"1"}
    assert needed == [LORA]
    one.put(entry(confirmed=True))
    one.drop("p2", "a")
    assert one.snapshots(LORA) == {"1"}
    assert needed == [LORA]
    one.put(entry(snapshot="2"))
    assert one.snapshots(LORA) == {"2"}
    assert needed == [LORA, LORA]
    # Nothing waits for what was given up.
    one.put(msgspec.structs.replace(entry(snapshot="2"), given_up=True))
    assert one.snapshots(LORA) == set()
    one.drop("p1", "a")
    one.drop("p1", "a")
    assert one.pods() == []


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 1, "entries": 3}', b"\xff", b"[" * 100_000])
def test_a_file_that_cannot_be_read_is_an_empty_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "adapters.json").write_bytes(content)
    assert Record.load(tmp_path / "adapters.json") == Recorded()
    assert Record.load(tmp_path) == Recorded()


async def test_a_disk_that_cannot_be_written_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = record(tmp_path / "missing" / "adapters.json")
    for number in range(3):
        one.put(entry(name=f"a{number}"))
        await one.written()
    assert len(one.of_pod("p1")) == 3
    assert len([line for line in caplog.records if "cannot be written" in line.message]) == 1
