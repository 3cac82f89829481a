from agent.transfer.flights import Flights


def test_one_flies_and_the_others_hear_when_it_landed() -> None:
    flights = Flights()
    heard: list[str] = []
    assert flights.claim(["key"], lambda: heard.append("first"))
    assert flights.claim(["other"], lambda: heard.append("other"))
    assert not flights.claim(["key"], lambda: heard.append("second"))
    assert not flights.claim(["key"], lambda: heard.append("third"))
    assert heard == []
    flights.release(["key"])
    assert heard == ["second", "third"]
    assert flights.claim(["key"], lambda: None)


def test_who_hears_may_claim_at_once() -> None:
    flights = Flights()
    assert flights.claim(["key"], lambda: None)
    claimed: list[bool] = []
    flights.claim(["key"], lambda: claimed.append(flights.claim(["key"], lambda: None)))
    flights.claim(["key"], lambda: claimed.append(flights.claim(["key"], lambda: None)))
    flights.release(["key"])
    assert claimed == [True, False]


def test_releasing_twice_is_harmless() -> None:
    flights = Flights()
    flights.release(["key"])
    assert flights.claim(["key"], lambda: None)


def test_all_keys_are_claimed_or_none() -> None:
    flights = Flights()
    heard: list[str] = []
    assert flights.claim(["common", "one"], lambda: None)
    assert not flights.claim(["two", "common"], lambda: heard.append("two"))
    assert flights.claim(["two"], lambda: None), "nothing is kept of a claim that failed"
    flights.release(["common", "one"])
    assert heard == ["two"]
    assert flights.claim(["one", "common"], lambda: None)
