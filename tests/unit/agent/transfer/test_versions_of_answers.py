"""Which version an answer is of: a change may be missed where a digest will show it, and nowhere else."""

from email.message import Message

import pytest

from agent.transfer.refusals import another_version

DATE, LATER = "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:01 GMT"


def said(wanted: str | None, digested: bool, **headers: str) -> str:
    message = Message()
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    return another_version(wanted, message, digested=digested)


@pytest.mark.parametrize("digested", [True, False])
def test_the_version_of_the_manifest(digested: bool) -> None:
    assert said(None, digested, ETag='"2"') == ""
    assert said('"1"', digested, ETag='"1"') == ""
    assert said('"1"', digested, ETag='W/"1"') == "", "a proxy that compresses for others weakens it"
    assert said(f"last-modified {DATE}", digested, Last_Modified=DATE) == ""


@pytest.mark.parametrize("digested", [True, False])
def test_another_version(digested: bool) -> None:
    assert said('"1"', digested, ETag='"2"') == 'ETag "2"'
    assert said('W/"1"', digested, ETag='W/"2"') == 'ETag W/"2"'
    assert said(f"last-modified {DATE}", digested, Last_Modified=LATER) == f"Last-Modified {LATER}"


def test_no_version_is_good_enough_only_where_a_digest_shows_what_came() -> None:
    assert said('"1"', True) == said(f"last-modified {DATE}", True, ETag='"1"') == ""
    assert said('"1"', False, Last_Modified=DATE) == "no ETag"
    assert said(f"last-modified {DATE}", False) == "no Last-Modified"
