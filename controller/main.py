"""The controller as a program: check the cluster, listen, lead when elected, and end in good order."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from random import Random

from controller.commands import CommandService
from controller.crdcheck import check_crd
from controller.enrolment import EnrolmentService
from controller.metrics import ControllerMetrics
from controller.reviews import Reviews
from controller.server import AgentServer
from controller.settings import Settings
from controller.term import Term
from controller.trust import Trust
from modelcache.kube.backoff import Backoff
from modelcache.kube.client import KubeClient
from modelcache.kube.clock import Clock, LoopClock
from modelcache.kube.elector import LeaderElector
from modelcache.kube.errors import Forbidden, Invalid, KubeError
from modelcache.kube.events import EventRecorder
from modelcache.metrics import ApiRequests, new_registry
from modelcache.monitor import MonitorServer
from modelcache.rpc.address import Address
from modelcache.tls.wallet import Wallet

_log = logging.getLogger(__name__)

LEASE = "modelcache-controller"
COMPONENT = "modelcache-controller"
DISTRIBUTION = "dynamo-model-cache"


async def run(
    settings: Settings,
    stop: asyncio.Event,
    *,
    on_listening: Callable[[Address, Address], None] = lambda agents, enrolment: None,
    clock: Clock | None = None,
    rng: Random | None = None,
) -> None:
    """Run the controller until `stop` is set; then streams are ended and the Lease is given back.

    `on_listening` is called with the address for agents and that for enrolment (the same when there is none), their ports
    chosen if the settings were 0. Before it leads, agents are answered UNAVAILABLE; certificates are issued by every replica.
    Raises SettingsError for settings that cannot work, CRDError when the cluster has no DynamoModel CRD or another one,
    UnusableAuthority when the Secret of the certificate authority is damaged, and KubeError when the cluster cannot be used;
    while it merely cannot be reached, this waits.
    """
    settings.check()
    clock = clock or LoopClock()
    rng = rng or Random()  # noqa: S311  # jitter, not cryptography
    watched = Watched(settings)
    requests = ApiRequests(watched.registry)
    async with (
        watched.serving(),
        KubeClient.connect(settings.kubeconfig, user_agent=COMPONENT, observe=requests.observe) as client,
    ):
        server = AgentServer(settings.address, None if settings.insecure else Wallet())
        try:
            if settings.health_address is not None:
                await server.start_health(settings.health_address)
            await _until(stop, _work(client, server, watched, settings, on_listening, clock, rng))
        finally:
            await server.stop()
    _log.info("stopped")


class Watched:
    """What others see of this process: metrics, and whether it is well."""

    def __init__(self, settings: Settings) -> None:
        self.registry = new_registry("controller", version(DISTRIBUTION))
        self.metrics = ControllerMetrics(self.registry)
        self._settings = settings
        self._problem = "the cluster has not been looked at yet"
        self.leader: Callable[[], str] = str
        """Host name of the replica that leads, in a cluster that of its pod; empty when it is not known."""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Listen wherever the settings say so. Raises SettingsError."""
        address = self._settings.metrics_address
        if address is None:
            yield
            return
        monitor = MonitorServer(address, self.registry, lambda: self._problem)
        _log.info("metrics and health at http://%s", await monitor.start())
        try:
            yield
        finally:
            await monitor.stop()

    def ready(self) -> None:
        """The cluster can be used; this process leads, or stands ready to."""
        self._problem = ""


async def _work(
    client: KubeClient,
    server: AgentServer,
    watched: Watched,
    settings: Settings,
    on_listening: Callable[[Address, Address], None],
    clock: Clock,
    rng: Random,
) -> None:
    wallet = server.wallet
    if wallet is None:
        address = await server.start()
        _log.info("listening for agents at %s, without encryption; API server %s", address, client.server)
        on_listening(address, address)
        await _lead_when_elected(client, server, watched, settings, clock, rng)
        return
    lifetime = timedelta(seconds=settings.certificate_lifetime)
    trust = Trust(
        client, settings.namespace, wallet, clock, rng,
        wall=lambda: datetime.now(UTC), lifetime=lifetime, on_signer=watched.metrics.authority_expires,
    )  # fmt: skip
    server.on_refused(watched.metrics.refused)
    server.on_silent(watched.metrics.silent)
    trust.on_distrust = lambda: server.end_streams("the certificate authority was replaced; connect again")
    await trust.load()
    service = EnrolmentService(Reviews(client), trust, settings.agent_user, clock, watched.metrics.certificate_asked)
    enrolment = await server.start_enrolment(settings.enrolment_address, service, wallet)
    if settings.commands_address is not None:
        # Reviews of their own: what strangers ask here must not keep agents from their certificates.
        commands = CommandService(
            Reviews(client), lambda: server.desk, lambda: watched.leader(), clock, watched.metrics.commanded
        )
        _log.info("commands at %s", await server.start_commands(settings.commands_address, commands, wallet))
    address = await server.start()
    _log.info("listening for agents at %s, enrolment at %s; API server %s", address, enrolment, client.server)
    on_listening(address, enrolment)
    await _first_of(trust.run(), _lead_when_elected(client, server, watched, settings, clock, rng))


async def _lead_when_elected(
    client: KubeClient, server: AgentServer, watched: Watched, settings: Settings, clock: Clock, rng: Random
) -> None:
    await _checked(client, clock, rng)
    watched.ready()
    identity = f"{socket.gethostname()}_{os.getpid()}_{secrets.token_hex(4)}"
    async with EventRecorder(client, COMPONENT, instance=socket.gethostname()) as recorder:

        async def lead() -> None:
            await Term(client, recorder, server, settings, clock, rng, watched.metrics).run()

        if settings.leader_elect:
            elector = LeaderElector(client, LEASE, settings.namespace, identity, timing=settings.election)
            watched.leader = lambda: elector.holder.rsplit("_", 2)[0]
            await elector.run(lead)
        else:
            await lead()


async def _checked(client: KubeClient, clock: Clock, rng: Random) -> None:
    """Check the CRD; an API server that is away is waited for. Raises CRDError and KubeError."""
    backoff = Backoff(rng, cap=10.0)
    while True:
        try:
            await check_crd(client)
            return
        except (Forbidden, Invalid):
            raise
        except KubeError as error:
            delay = backoff.fail(clock.now(), error.retry_after)
            _log.warning("cannot check the CRD, trying again in %.1f s: %s", delay, error)
            await clock.sleep(delay)


async def _until(stop: asyncio.Event, work: Coroutine[None, None, None]) -> None:
    """Await `work`, cancelling it when `stop` is set; its error is raised."""

    async def stopped() -> None:
        await stop.wait()

    await _first_of(stopped(), work)


async def _first_of(*works: Coroutine[None, None, None]) -> None:
    """Await until one of them ends, and end the others; an error of any is raised."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()
