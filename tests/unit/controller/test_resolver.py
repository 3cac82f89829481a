"""Asking sources in threads: bounded, fair, once, and without a word too many."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Hashable, Sequence

import msgspec
import pytest

from controller.request import Pinned, Request
from controller.resolver import Failure, Job, Outcome, Resolver, answer
from modelcache.api.spec import Spec
from modelcache.sources.base import Credential, Location, Resolution, SourceFile
from modelcache.sources.errors import NotFound, RateLimited, Unauthorized
from modelcache.sources.uri import SourceURI
from tests.support.waiting import PATIENCE

COMMIT = "1" * 40
CANARY = "hf_canary_7f3a"


def request(uri: str = "hf://org/name") -> Request:
    found = Request.of(msgspec.convert({"modelName": "m", "source": {"uri": uri}}, Spec), "ns")
    assert found is not None
    return found


class ScriptedSource:
    """Answers with `reply`, and counts."""

    def __init__(self, reply: Callable[[SourceURI, str | None], Resolution]) -> None:
        self.reply = reply
        self.calls: list[tuple[str, str | None]] = []

    def resolve(
        self,
        uri: SourceURI,
        revision: str | None,
        credential: Credential | None,
        include: Sequence[str],
        exclude: Sequence[str],
    ) -> Resolution:
        self.calls.append((str(uri), revision))
        return self.reply(uri, revision)

    def locate(self, uri: SourceURI, revision: str, file: SourceFile, credential: Credential | None) -> Location:
        raise AssertionError("the controller never reads files")


def listing(*paths: str) -> Resolution:
    return Resolution(uri="hf://org/name", revision=COMMIT, files=tuple(SourceFile(path, 1) for path in paths))


def one_file(uri: SourceURI, revision: str | None) -> Resolution:
    return listing("config.json")


def ask(reply: Callable[[SourceURI, str | None], Resolution], credential: Credential | None = None) -> Outcome:
    return answer(Job(request(), None, credential), lambda uri: ScriptedSource(reply))


def raising(error: Exception) -> Callable[[SourceURI, str | None], Resolution]:
    def reply(uri: SourceURI, revision: str | None) -> Resolution:
        raise error

    return reply


def test_a_listing_becomes_a_manifest() -> None:
    found = ask(lambda uri, revision: listing("b", "a"))
    assert isinstance(found, Pinned)
    assert [file.path for file in found.manifest.files] == ["a", "b"]
    assert found.revision == COMMIT


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (["../../etc/passwd"], "../../etc/passwd"),
        (["/etc/passwd"], "absolute"),
        (["Config.json", "config.json"], "differ only in case"),
        (["a", "a/b"], "both as a file and as the directory"),
        ([], "no files"),
        (["a\x00b"], "control character"),
    ],
)
def test_a_hostile_listing_is_refused_with_its_reason(paths: list[str], said: str) -> None:
    found = ask(lambda uri, revision: listing(*paths))
    assert isinstance(found, Failure)
    assert found.reason == "Unsupported"
    assert said in found.message
    assert not found.retryable


def test_what_the_source_says_is_passed_on() -> None:
    found = ask(raising(NotFound("There is no org/name.")))
    assert found == Failure("NotFound", "There is no org/name.")
    assert ask(raising(RateLimited("Slow down.", retry_after=7))) == Failure("RateLimited", "Slow down.", True, 7)


def test_no_message_repeats_a_credential(caplog: pytest.LogCaptureFixture) -> None:
    credential = Credential({"token": CANARY})
    for error in (Unauthorized(f"The token {CANARY} is wrong."), RuntimeError(f"Bearer {CANARY}")):
        found = ask(raising(error), credential)
        assert isinstance(found, Failure)
        assert CANARY not in found.message
        assert CANARY not in repr(Job(request(), None, credential))
    assert CANARY not in caplog.text


def test_a_fault_of_a_source_module_is_a_failure_too() -> None:
    found = ask(raising(ZeroDivisionError("oops")))
    assert isinstance(found, Failure)
    assert found.reason == "ResolveError"
    assert "oops" in found.message
    assert found.retryable


class Finished:
    """Collects outcomes."""

    def __init__(self) -> None:
        self.outcomes: dict[Hashable, Outcome] = {}
        self.jobs: list[Job] = []
        self._changed = asyncio.Event()

    def __call__(self, key: Hashable, job: Job, outcome: Outcome) -> None:
        self.outcomes[key] = outcome
        self.jobs.append(job)
        self._changed.set()

    async def wait(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(self.jobs) < count:
                self._changed.clear()
                await self._changed.wait()


async def test_the_same_question_is_asked_once_and_another_one_replaces_it() -> None:
    finished, release = Finished(), threading.Event()

    def slow(uri: SourceURI, revision: str | None) -> Resolution:
        release.wait(PATIENCE)
        return listing("config.json")

    source = ScriptedSource(slow)
    resolver = Resolver(finished, find_source=lambda uri: source)
    first = Job(request(), None)
    resolver.submit("m", first)
    resolver.submit("m", Job(request(), None))
    assert resolver.job_of("m") is first
    second = Job(request(), "v2")
    resolver.submit("m", second)
    release.set()
    await finished.wait(1)
    assert finished.jobs == [second], "the answer to the first question interests nobody any more"
    assert [revision for _, revision in source.calls].count("v2") == 1
    assert resolver.job_of("m") is None


async def test_a_cancelled_question_is_never_answered() -> None:
    finished = Finished()
    resolver = Resolver(finished, workers=1, find_source=lambda uri: ScriptedSource(one_file))
    resolver.submit("a", Job(request(), None))
    resolver.submit("b", Job(request(), "x"))
    resolver.cancel("b")
    resolver.submit("c", Job(request(), "y"))
    await finished.wait(2)
    assert set(finished.outcomes) == {"a", "c"}


async def test_an_origin_that_hangs_leaves_room_for_others() -> None:
    finished, release, started = Finished(), threading.Event(), []

    def reply(uri: SourceURI, revision: str | None) -> Resolution:
        started.append(str(uri))
        if uri.authority == "hangs":
            release.wait(PATIENCE)
        return Resolution(uri=str(uri), revision=COMMIT, files=(SourceFile("a", 1),))

    resolver = Resolver(finished, workers=4, find_source=lambda uri: ScriptedSource(reply))
    for number in range(20):
        resolver.submit(f"hangs-{number}", Job(request(f"s3://hangs/{number}"), None))
    for number in range(5):
        resolver.submit(f"good-{number}", Job(request(f"s3://good/{number}"), None))
    await finished.wait(5)
    assert set(finished.outcomes) == {f"good-{number}" for number in range(5)}
    assert sum(uri.startswith("s3://hangs") for uri in started) == 2, "half of the workers"
    release.set()
    await finished.wait(25)


async def test_after_closing_nobody_is_told() -> None:
    finished, release = Finished(), threading.Event()
    done = threading.Event()

    def slow(uri: SourceURI, revision: str | None) -> Resolution:
        release.wait(PATIENCE)
        done.set()
        return listing("a")

    resolver = Resolver(finished, workers=1, find_source=lambda uri: ScriptedSource(slow))
    resolver.submit("a", Job(request(), None))
    resolver.submit("b", Job(request(), None))
    resolver.close()
    release.set()
    await asyncio.to_thread(done.wait, 60)
    later = asyncio.Event()
    asyncio.get_running_loop().call_soon(later.set)
    await later.wait()
    assert finished.jobs == []
