"""When an agent asks for a certificate, and what it does with the answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from agent.enrolment import LOOK_SECONDS, RENEW_FROM, RENEW_TO, RETRY_CAP, Enrolment, EnrolmentError, is_due
from controller.authority import new_authority
from modelcache.tls.certificates import requested_key, to_pem
from modelcache.tls.identity import Identity
from modelcache.tls.wallet import Wallet
from tests.support.certificates import credentials
from tests.support.fake_clock import FakeClock

START = datetime(2026, 1, 1, tzinfo=UTC)
LIFETIME = timedelta(hours=4)
ME = Identity("node-a")


class World:
    """A controller that answers at once, the two files, and the time."""

    def __init__(self, directory: Path) -> None:
        self.clock = FakeClock()
        self.began = self.clock.now()
        self.authority = new_authority(START)
        self.wallet = Wallet()
        self.tokens: list[str] = []
        self.identity = ME
        self.refusal = ""
        self.token_file, self.ca_file = directory / "token", directory / "ca.crt"
        self.enrolment = Enrolment(
            "node-a",
            self.wallet,
            ask=self.ask,
            token_file=self.token_file,
            ca_file=self.ca_file,
            clock=self.clock,
            rng=Random(1),
            wall=self.wall,
        )

    def wall(self) -> datetime:
        return START + timedelta(seconds=self.clock.now() - self.began)

    def project(self) -> None:
        """The kubelet writes both files."""
        self.token_file.write_text(f"token-{len(self.tokens)}\n")
        self.ca_file.write_bytes(to_pem([self.authority.certificate]))

    async def ask(self, authorities: bytes, request: bytes, token: str) -> bytes:
        self.tokens.append(token)
        if self.refusal:
            raise EnrolmentError(self.refusal)
        return self.authority.issue(requested_key(request), self.identity, self.wall(), LIFETIME)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.enrolment.run())
        await self.clock.until_waiting()
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def until(self, condition: Callable[[], bool], limit: timedelta) -> timedelta:
        """Let time pass in small steps until `condition`; how much it was."""
        before = self.wall()
        while not condition():
            self.clock.advance(1.0)
            await asyncio.sleep(0)
            await self.clock.until_waiting()
            assert self.wall() - before <= limit, "not within the limit"
        return self.wall() - before


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_what_makes_a_certificate_due() -> None:
    authority, other = new_authority(START), new_authority(START)
    held = credentials(authority, ME, now=START, lifetime=LIFETIME)
    bundle, both, later = held.authorities, held.authorities + to_pem([other.certificate]), to_pem([other.certificate])
    then, almost = START + LIFETIME / 3, START + LIFETIME / 3 - timedelta(seconds=1)
    assert is_due(None, bundle, START, then)
    assert not is_due(held, bundle, almost, then)
    assert is_due(held, bundle, then, then)
    assert not is_due(held, both, almost, then)
    assert is_due(held, later, START, then), "nobody trusts it any more"


async def test_the_files_are_waited_for_and_used_as_soon_as_they_are_there(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async with world.running():
        for _ in range(100):
            world.clock.advance(1.0)
            await asyncio.sleep(0)
        assert world.wallet.held is None
        assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1, "said once"
        assert "modelcache-ca" in caplog.text
        world.project()
        await world.until(lambda: world.wallet.held is not None, timedelta(seconds=RETRY_CAP + 1))
        assert world.wallet.current.presented.identity == ME
        await world.enrolment.enrolled()


async def test_it_renews_early_with_a_new_key_and_the_token_of_then(world: World) -> None:
    world.project()
    async with world.running():
        first = world.wallet.current
        world.project()
        passed = await world.until(lambda: world.wallet.current is not first, LIFETIME)
        assert RENEW_FROM * LIFETIME <= passed <= RENEW_TO * LIFETIME + timedelta(seconds=LOOK_SECONDS)
        assert world.tokens == ["token-0", "token-1"]
        assert world.wallet.current.key != first.key


async def test_a_controller_that_is_away_is_asked_again_and_what_there_is_stays_in_force(world: World) -> None:
    world.project()
    async with world.running():
        first = world.wallet.current
        world.refusal = "the controller at 10.0.0.1:7444 answers UNAVAILABLE"
        await world.until(lambda: len(world.tokens) > 20, LIFETIME)
        assert world.wallet.current is first
        world.refusal = ""
        await world.until(lambda: world.wallet.current is not first, timedelta(seconds=RETRY_CAP + 1))


async def test_new_authorities_are_trusted_at_once_and_another_one_means_another_certificate(world: World) -> None:
    world.project()
    async with world.running():
        first, old = world.wallet.current, world.authority
        new = new_authority(START)
        both = to_pem([old.certificate, new.certificate])
        world.ca_file.write_bytes(both)
        await world.until(lambda: world.wallet.current.authorities == both, timedelta(seconds=LOOK_SECONDS + 1))
        assert world.wallet.current.certificate == first.certificate
        assert len(world.tokens) == 1
        world.authority = new
        world.project()
        await world.until(lambda: len(world.tokens) == 2, timedelta(seconds=LOOK_SECONDS + 1))
        assert world.wallet.current.authorities == to_pem([new.certificate])


@pytest.mark.parametrize("content", [b"", b"no certificate", b"x" * 300_000])
async def test_a_bundle_that_makes_no_sense_changes_nothing(world: World, content: bytes) -> None:
    world.project()
    async with world.running():
        first = world.wallet.current
        world.ca_file.write_bytes(content)
        for _ in range(20):
            world.clock.advance(1.0)
            await asyncio.sleep(0)
        assert world.wallet.current is first


async def test_a_certificate_for_another_node_is_not_used(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.identity = Identity("node-b")
    world.project()
    async with world.running():
        assert world.wallet.held is None
        assert "node-b" in caplog.text
        assert "--node" in caplog.text


async def test_an_answer_that_is_not_for_our_key_or_of_another_authority_is_not_used(world: World) -> None:
    world.project()
    trusted, world.authority = world.authority, new_authority(START)
    async with world.running():
        assert world.wallet.held is None
        world.authority = trusted
        await world.until(lambda: world.wallet.held is not None, timedelta(seconds=RETRY_CAP + 1))
