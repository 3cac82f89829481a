import pytest

from agent.transfer.places import Places
from modelcache.manifest import ManifestFile
from modelcache.sources.base import Location
from modelcache.sources.errors import Unauthorized
from tests.support.instant_clock import InstantClock

FILE = ManifestFile(path="a", size=1)


class Locate:
    def __init__(self, *expiries: float | None) -> None:
        self.calls = 0
        self._expiries = expiries

    def __call__(self, file: ManifestFile) -> Location:
        self.calls += 1
        return Location(f"http://h/{file.path}/{self.calls}", {}, self._expiries[self.calls - 1])


def test_a_place_is_asked_for_once() -> None:
    locate = Locate(None)
    places = Places(locate, InstantClock())
    assert places.of(FILE) is places.of(FILE)
    assert locate.calls == 1


def test_a_place_that_is_over_is_asked_for_again() -> None:
    clock = InstantClock()
    places = Places(Locate(clock.unix() + 10, clock.unix() + 100), clock)
    first = places.of(FILE)
    clock.advance(9)
    assert places.of(FILE) is first
    clock.advance(1)
    assert places.of(FILE) is not first


def test_no_means_no_for_a_place_that_never_worked() -> None:
    places = Places(Locate(None), InstantClock())
    place = places.of(FILE)
    assert not places.denied(FILE, place)
    assert places.of(FILE) is place


def test_a_place_that_worked_is_replaced_once_for_all_who_are_denied() -> None:
    locate = Locate(None, None)
    places = Places(locate, InstantClock())
    old = places.of(FILE)
    old.worked = True
    assert places.denied(FILE, old)
    new = places.of(FILE)
    assert new is not old
    assert places.denied(FILE, old)  # a second thread that had the old one
    assert places.of(FILE) is new
    assert not places.denied(FILE, new)
    assert locate.calls == 2


def test_forgotten_places_are_asked_for_again() -> None:
    locate = Locate(None, None)
    places = Places(locate, InstantClock())
    places.of(FILE)
    places.forget(FILE)
    places.of(FILE)
    assert locate.calls == 2


def test_errors_of_locate_come_through() -> None:
    def locate(file: ManifestFile) -> Location:
        raise Unauthorized("no token")

    with pytest.raises(Unauthorized):
        Places(locate, InstantClock()).of(FILE)
