"""The copy, its indexes and its diffs, against a plain dict."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from modelcache.kube.cache import Cache, Change, Seen
from modelcache.kube.resources import ObjectKey


@dataclass(frozen=True)
class Thing:
    name: str
    colours: tuple[str, ...]


def seen(name: str, version: int, *colours: str, uid: str = "u", bad: bool = False) -> Seen[Thing]:
    key = ObjectKey("ns", name)
    return Seen(key, uid, str(version), None if bad else Thing(name, colours), "bad" if bad else "")


def test_replace_reports_what_vanished_changed_and_came() -> None:
    cache: Cache[Thing] = Cache()
    cache.replace([seen("a", 1), seen("b", 1), seen("c", 1)])
    changes = cache.replace([seen("b", 1), seen("c", 2, "red"), seen("d", 1)])
    assert changes == [
        Change(ObjectKey("ns", "a"), Thing("a", ()), None),
        Change(ObjectKey("ns", "c"), Thing("c", ()), Thing("c", ("red",))),
        Change(ObjectKey("ns", "d"), None, Thing("d", ())),
    ]


def test_another_uid_is_a_deletion_and_an_addition() -> None:
    cache: Cache[Thing] = Cache()
    cache.upsert(seen("a", 1, uid="first"))
    changes = cache.replace([seen("a", 1, uid="second")])
    assert [(change.old is None, change.new is None) for change in changes] == [(False, True), (True, False)]


def test_late_deletion_of_a_former_object_is_ignored() -> None:
    cache: Cache[Thing] = Cache()
    cache.upsert(seen("a", 5, uid="second"))
    key = ObjectKey("ns", "a")
    assert cache.remove(key, "first") == []
    assert cache.get(key) is not None
    assert len(cache.remove(key, "second")) == 1
    assert cache.remove(key) == []


def test_undecodable_keeps_the_last_good_value() -> None:
    cache: Cache[Thing] = Cache()
    key = ObjectKey("ns", "a")
    assert cache.upsert(seen("a", 1, bad=True)) == [Change(key, None, None)]
    assert (cache.get(key), cache.invalid[key].reason) == (None, "bad")
    good = Thing("a", ())
    assert cache.upsert(seen("a", 2)) == [Change(key, None, good)]
    assert cache.upsert(seen("a", 3, bad=True)) == [Change(key, good, good)]
    assert cache.replace([seen("a", 3, bad=True)]) == [], "this version is known to be bad"
    assert cache.replace([]) == [Change(key, good, None)]
    assert dict(cache.invalid) == {}


def test_index_function_that_fails_hides_the_object_from_that_index_only() -> None:
    cache: Cache[Thing] = Cache()
    cache.index("colour", lambda thing: [thing.colours[0]])
    cache.index("name", lambda thing: [thing.name])
    cache.upsert(seen("a", 1))
    assert cache.lookup("name", "a") == [Thing("a", ())]
    cache.upsert(seen("a", 2, "red"))
    assert cache.lookup("colour", "red") == [Thing("a", ("red",))]


NAMES, COLOURS = st.sampled_from("abcd"), st.lists(st.sampled_from(["red", "blue", "green"]), max_size=3)
STATES = st.dictionaries(NAMES, st.tuples(st.sampled_from("uv"), st.integers(1, 3), COLOURS), max_size=4)


@settings(deadline=None)
@given(before=STATES, after=STATES, one_by_one=st.booleans())
def test_changes_lead_from_the_old_state_to_the_new(
    before: dict[str, tuple[str, int, list[str]]], after: dict[str, tuple[str, int, list[str]]], one_by_one: bool
) -> None:
    def things(state: dict[str, tuple[str, int, list[str]]]) -> list[Seen[Thing]]:
        # A version determines the content, as on a server.
        return [
            Seen(ObjectKey("ns", name), uid, f"{version} {colours}", Thing(name, tuple(colours)))
            for name, (uid, version, colours) in state.items()
        ]

    cache: Cache[Thing] = Cache()
    cache.index("colour", lambda thing: thing.colours)
    cache.replace(things(before))
    world = {value.name: value for value in cache.values()}

    changes: list[Change[Thing]] = []
    if one_by_one:
        for name in before.keys() - after.keys():
            changes += cache.remove(ObjectKey("ns", name))
        for item in things(after):
            changes += cache.upsert(item)
    else:
        changes = cache.replace(things(after))

    for change in changes:
        assert world.get(change.key.name) == change.old
        world.pop(change.key.name, None)
        if change.new is not None:
            world[change.key.name] = change.new
    expected = {item.key.name: item.value for item in things(after)}
    assert world == expected
    assert {value.name: value for value in cache.values()} == expected
    for colour in ("red", "blue", "green"):
        names = {thing.name for thing in cache.lookup("colour", colour)}
        assert names == {name for name, (_, _, colours) in after.items() if colour in colours}
