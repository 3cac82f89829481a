"""The one promise of the journal: whatever happens to its bytes, it never claims a piece that it was not told about."""

import os
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.transfer.journal import (
    HEADER_BYTES,
    RECORD_BYTES,
    Claim,
    Journal,
    Strength,
    boot_id,
    decode,
    encode_header,
    encode_record,
)

PIECE = 1000
BOOT, OTHER_BOOT = b"b" * 16, b"o" * 16

claims = st.builds(Claim, st.sampled_from(Strength), st.binary(min_size=16, max_size=16))
histories = st.lists(st.tuples(st.integers(0, 19), claims), max_size=30)


def journal(history: list[tuple[int, Claim]], size: int = 20 * PIECE) -> bytes:
    records = [encode_record(number, index, claim) for number, (index, claim) in enumerate(history)]
    return encode_header(size, PIECE, BOOT) + b"".join(records)


@settings(deadline=None)
@given(histories)
def test_what_is_written_is_read(history: list[tuple[int, Claim]]) -> None:
    assert decode(journal(history), 20 * PIECE, PIECE, BOOT) == dict(history)


@settings(deadline=None)
@given(histories)
def test_after_another_boot_only_durable_claims_hold(history: list[tuple[int, Claim]]) -> None:
    held = decode(journal(history), 20 * PIECE, PIECE, OTHER_BOOT)
    durable = [(index, claim) for index, claim in history if claim.strength is Strength.DURABLE]
    assert held == dict(durable)


@settings(deadline=None)
@given(histories, st.data())
def test_cut_anywhere_it_claims_a_prefix(history: list[tuple[int, Claim]], data: st.DataObject) -> None:
    whole = journal(history)
    length = data.draw(st.integers(0, len(whole)))
    left = max(0, length - HEADER_BYTES) // RECORD_BYTES
    assert decode(whole[:length], 20 * PIECE, PIECE, BOOT) == dict(history[:left])


@settings(deadline=None, max_examples=300)
@given(histories, st.data())
def test_corrupted_anywhere_it_claims_nothing_that_it_was_not_told(
    history: list[tuple[int, Claim]], data: st.DataObject
) -> None:
    whole = bytearray(journal(history))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    held = decode(bytes(whole), 20 * PIECE, PIECE, BOOT)
    intact = max(0, at - HEADER_BYTES) // RECORD_BYTES if at >= HEADER_BYTES else 0
    assert held == dict(history[:intact])


@settings(deadline=None)
@given(histories, st.binary(max_size=200))
def test_garbage_behind_it_adds_nothing(history: list[tuple[int, Claim]], tail: bytes) -> None:
    assert decode(journal(history) + tail, 20 * PIECE, PIECE, BOOT) == dict(history)


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_no_claims(data: bytes) -> None:
    assert decode(data, 20 * PIECE, PIECE, BOOT) == {}


@settings(deadline=None)
@given(histories.filter(bool), st.integers(0, 29), st.integers(0, 29))
def test_a_record_at_another_position_does_not_count(history: list[tuple[int, Claim]], old: int, new: int) -> None:
    """A stray write of an old block: the records are perfect, but not there."""
    old, new = old % len(history), new % len(history)
    if old == new:
        return
    whole = bytearray(journal(history))
    record = whole[HEADER_BYTES + old * RECORD_BYTES :][:RECORD_BYTES]
    whole[HEADER_BYTES + new * RECORD_BYTES :][:RECORD_BYTES] = record
    whole[HEADER_BYTES + new * RECORD_BYTES : HEADER_BYTES + (new + 1) * RECORD_BYTES] = record
    assert decode(bytes(whole), 20 * PIECE, PIECE, BOOT) == dict(history[:new])


def test_a_journal_of_another_file_or_piece_size_is_not_used() -> None:
    data = journal([(0, Claim(Strength.DURABLE, b"d" * 16))])
    assert decode(data, 20 * PIECE, PIECE, BOOT)
    assert decode(data, 20 * PIECE + 1, PIECE, BOOT) == {}
    assert decode(data, 20 * PIECE, PIECE + 1, BOOT) == {}


def test_a_piece_that_the_file_does_not_have_ends_the_reading() -> None:
    claim = Claim(Strength.DURABLE, b"d" * 16)
    assert decode(journal([(1, claim), (20, claim), (2, claim)]), 20 * PIECE, PIECE, BOOT) == {1: claim}


def test_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    first, second = Claim(Strength.WRITTEN, b"1" * 16), Claim(Strength.DURABLE, b"2" * 16)
    writer = Journal(path, 20 * PIECE, PIECE, BOOT)
    assert writer.load() == {}
    writer.start({})
    writer.append({3: first, 4: first})
    writer.append({3: second})
    writer.sync()
    # Read while it is open: this is what is there after a kill.
    assert Journal(path, 20 * PIECE, PIECE, BOOT).load() == {3: second, 4: first}
    assert Journal(path, 20 * PIECE, PIECE, OTHER_BOOT).load() == {3: second}
    writer.start({4: first})  # takes 3 back
    writer.append({5: first})
    writer.close()
    assert Journal(path, 20 * PIECE, PIECE, BOOT).load() == {4: first, 5: first}
    with path.open("ab") as file:
        file.write(b"torn")
    again = Journal(path, 20 * PIECE, PIECE, BOOT)
    again.start(again.load())
    again.append({6: second})
    again.close()
    assert set(again.load()) == {4, 5, 6}
    assert os.listdir(tmp_path) == ["journal"]


def test_a_boot_has_one_id() -> None:
    assert boot_id() == boot_id()
    assert len(boot_id()) == 16
