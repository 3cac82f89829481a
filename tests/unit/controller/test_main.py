"""What a start waits for, and what ends it."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from controller.crdcheck import CRDError
from controller.main import _checked
from modelcache.api.crd import custom_resource_definition
from modelcache.kube.client import KubeClient
from modelcache.kube.errors import Forbidden, NotFound, ServerError, Unreachable
from tests.support.fake_clock import FakeClock


class Answers(KubeClient):
    """Answers one after the other; an exception is raised."""

    server = "http://api"

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)

    async def get(self, resource: Any, name: str, namespace: str = "", *, into: type[Any]) -> Any:
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def left(self) -> int:
        return len(self._answers)


async def test_an_api_server_that_is_away_is_waited_for() -> None:
    client = Answers(Unreachable("away"), ServerError("starting"), custom_resource_definition())
    clock = FakeClock()
    checking = asyncio.create_task(_checked(client, clock, Random(1)))
    for left in (2, 1):
        await clock.until_waiting()
        assert client.left == left
        clock.advance(10)
    await checking
    assert client.left == 0


@pytest.mark.parametrize(("answer", "error"), [(NotFound("no"), CRDError), (Forbidden("no"), Forbidden)])
async def test_what_waiting_does_not_cure_ends_the_start(answer: Exception, error: type[Exception]) -> None:
    with pytest.raises(error):
        await _checked(Answers(answer), FakeClock(), Random(1))
