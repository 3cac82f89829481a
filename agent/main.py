"""Puts the agent together and runs it: the one place where all its parts meet.

Order at start: the cache first (its lock says that we are the only agent on it, its recovery makes disk and index agree),
then a quick look at everything published, then the node's labels and the workers, and only then the controller. So an
agent serves what it has with nobody else there, and its first report is already true.

Order at the end: workers stop (downloads keep what they have on disk), then the stream. Labels stay: the files are still
there. Being killed instead is just as good; what is given up here is only neatness.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import shutil
import time
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

from grpc import aio

from agent.channel import open_channel
from agent.commands import Commands, NodeServer
from agent.content import inspect
from agent.controllers import Registrar, finder
from agent.desired import Desired
from agent.enrolment import Enrolment
from agent.fetching import TransferFetcher
from agent.lora.adapters import Adapters, Disk, files_in_force, with_adapters
from agent.lora.record import Record
from agent.metrics import AgentMetrics, AgentState
from agent.models import Models, revisions_at_start
from agent.node import NodeLabels
from agent.peers.exchange import PeerExchange
from agent.peers.tuning import DEFAULT_TUNING
from agent.questions import Questions
from agent.relayed import Relayed
from agent.room import Room, Storage
from agent.selfcheck import ScrubSettings, SelfCheck
from agent.settings import Settings
from agent.slots import Slots
from agent.store import Store
from agent.store.eviction import Watermarks, excess
from agent.sync import Sync
from agent.threads import in_thread
from agent.transfer import Downloader, TransferSettings
from agent.transfer.space import free_bytes
from agent.users import Users
from modelcache.kube.client import KubeClient
from modelcache.kube.clock import Clock, LoopClock
from modelcache.logs import about
from modelcache.metrics import ApiRequests, new_registry
from modelcache.monitor import MonitorServer
from modelcache.paths import CachePaths
from modelcache.rpc.address import Address, parse_address
from modelcache.rpc.modelcache_pb2 import Capacity, Hello, Report
from modelcache.settings import wrong
from modelcache.tls.wallet import Wallet

_log = logging.getLogger(__name__)

DISTRIBUTION = "dynamo-model-cache"
STOP_SECONDS = 4.0
"""For everything to end by itself when asked to; after that it is left behind."""
LABELS_SECONDS = 10.0
"""Until an agent without a cache ends although its labels may still be there (the next one takes them away), and until one
that was just started looks after its cache although its labels are not."""
LABELS_LOOK_SECONDS = 0.1
ALONE_SECONDS = 60.0
"""After the start, without a word from a controller: longer than another one takes to lead. With one, damaged files may come
from peers, and with the credential of their source."""
ZONE_SECONDS = 5.0
"""How long the first stream waits for the node's zone. When it is learned later, the stream begins anew."""


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Be the agent of a node until `stop` is set.

    Raises SettingsError, `agent.store.StoreError` (another agent has the cache, or it cannot be used) or
    `modelcache.kube.errors.ConfigError` (no cluster to talk to), all at start, each with a message for the administrator.
    """
    settings.check()
    with about(node=settings.node):
        await _watched(settings, stop)


async def _watched(settings: Settings, stop: asyncio.Event) -> None:
    registry = new_registry("agent", version(DISTRIBUTION))
    watched = Watched(AgentMetrics(registry), ApiRequests(registry))
    address = settings.metrics_address
    if address is None:
        await _run(settings, stop, watched)
        return
    # Before the cache is opened: after a crash that may take a while, and the kubelet has to see that somebody is at it.
    monitor = MonitorServer(address, registry, lambda: watched.problem)
    _log.info("metrics and health at http://%s", await monitor.start(), extra={"node": settings.node})
    try:
        await _run(settings, stop, watched)
    finally:
        await monitor.stop()


@dataclass
class Watched:
    """What others see of this process. `problem`: why it cannot do its work yet, empty when it can."""

    metrics: AgentMetrics
    requests: ApiRequests
    problem: str = "the cache is being opened"


async def _run(settings: Settings, stop: asyncio.Event, watched: Watched) -> None:
    store = await in_thread(lambda: Store.open(settings.root))
    downloader = Downloader(
        store,
        TransferSettings(
            connections=settings.connections,
            bandwidth=settings.bandwidth,
            reserve_bytes=settings.reserve_bytes,
            limit=settings.limit,
        ),
    )
    all_ended = True
    try:
        observe = watched.requests.observe
        async with KubeClient.connect(settings.kubeconfig, user_agent="modelcache-agent", observe=observe) as client:
            all_ended = await _serve(settings, stop, store, downloader, client, watched)
    finally:
        if all_ended:
            # Otherwise a thread is still at it; the end of the process closes both.
            downloader.close()
            store.close()


async def _serve(
    settings: Settings,
    stop: asyncio.Event,
    store: Store,
    downloader: Downloader,
    client: KubeClient,
    watched: Watched,
) -> bool:
    """Everything between start and end; whether nothing is left running."""
    clock, rng = LoopClock(), Random()  # noqa: S311  # jitter, not cryptography
    held = await in_thread(lambda: inspect(store))
    users = Users(clock, await in_thread(store.usage.users), lambda key: adapters.is_adapter(key))
    context = {"node": settings.node}
    _log.info("opened the cache %s with %d models", settings.root, len(held), extra=context)
    if store.report.reason:
        rebuilt = (
            "the index of the cache was built anew from the disk (%s); all content is read again in the background"
        )
        _log.warning(rebuilt, store.report.reason, extra=context)
    if not store.report.clean:
        _log.warning("the cache had to be mended after a crash: %s", store.report, extra=context)

    def labels_changed() -> None:
        models.poke()
        zone_known.set()
        if said_zone and said_zone[-1] != labels.zone:
            sync.restart()

    def hello() -> Hello:
        said_zone.append(labels.zone)
        return Hello(
            node=settings.node,
            zone=labels.zone,
            instance=instance,
            version=version(DISTRIBUTION),
            cache_root=str(settings.root),
            peer_address=peer_address,
            commands=True,
        )

    def report() -> Report:
        return with_adapters(
            Report(
                models=models.reports(labels.problem, labels.next_try),
                capacity=_capacity(settings.root, models.cached_bytes()),
                uses_question=questions.sending(),
            ),
            adapters,
        )

    def take(desired: Desired) -> None:
        models.take(desired)
        adapters.take(desired.lora)

    def stream_began() -> None:
        questions.renew()
        models.poke()

    def models_changed() -> None:
        adapters.poke()
        sync.changed()

    def state() -> AgentState:
        usage = shutil.disk_usage(settings.root)
        return AgentState(
            cached_bytes=models.cached_bytes(),
            filesystem_bytes=usage.total,
            free_bytes=usage.free,
            reserved_bytes=downloader.reserved_bytes(),
            limit_bytes=settings.limit.bytes_of(settings.root),
            models=models.phases(),
            revisions=models.conditions(),
            connected=sync.connected,
            heard_at=sync.heard_at,
            labels_stuck=bool(labels.problem),
            certificate_expires_at=_expiry(wallet),
            in_use=models.in_use(),
            adapters=adapters.loaded(),
            downloads=slots.taken,
            downloads_waiting=slots.waiting,
            scrub_ratio=selfcheck.round.ratio,
            scrubbed_at=selfcheck.round.complete_since,
        )

    wallet = None if settings.insecure else Wallet()
    instance = str(uuid.uuid4())
    slots = Slots(settings.max_downloads)
    said_zone: list[str] = []
    zone_known = asyncio.Event()
    labels = NodeLabels(
        client,
        settings.node,
        revisions=revisions_at_start(held),
        clock=clock,
        rng=rng,
        on_change=labels_changed,
    )
    exchange = _open_exchange(settings, store, downloader, lambda: labels.zone, wallet, watched.metrics.served)
    peer_address = str(exchange.address) if exchange is not None else ""

    def connect_to(address: Address) -> aio.Channel:
        return open_channel(address, wallet.current.channel_credentials() if wallet is not None else None)

    sync = Sync(
        finder(settings.controllers, rng),
        connect_to,
        hello=hello,
        report=report,
        take=take,
        clock=clock,
        rng=rng,
        command=lambda command: relayed.take(command),
        answers=lambda: relayed.due(),
        began=stream_began,
    )
    questions = Questions(clock, changed=sync.changed, reachable=lambda: sync.connected)
    models = Models(
        settings.node,
        held,
        cache=store,
        fetcher=TransferFetcher(store, downloader, exchange),
        slots=slots,
        manifest=sync.manifest,
        tell=sync.tell,
        shown=labels.shown,
        moves=labels.moves,
        announce=labels.want,
        changed=models_changed,
        loaded=lambda key: adapters.snapshots(key),
        grant=exchange.grant if exchange is not None else lambda grants: None,
        clock=clock,
        unix=time.time,
        rng=rng,
        users=users,
        questions=questions,
        room=Room(_storage(settings, store, downloader), clock, watched.metrics.evicted, questions),
        metrics=watched.metrics,
    )
    if store.report.rebuilt:
        watched.metrics.rebuilt()
        models.rebuilt()
    selfcheck = SelfCheck(
        store,
        ScrubSettings(settings.scrub_interval, settings.scrub_bandwidth),
        doubt=models.doubt,
        withdraw=lambda: _withdraw(models, labels, clock),
        scrubbed=watched.metrics.scrubbed,
        begin=lambda: _until(lambda: labels.settled, clock),
        clock=clock,
    )
    paths = CachePaths(settings.root)
    adapters = Adapters(
        settings.node,
        paths.adapters,
        await in_thread(lambda: Record.load(paths.adapters)),
        disk=Disk(
            files=lambda key, digest: files_in_force(paths, key, digest, models.in_force(key, digest)),
            leaving=models.to_be_unloaded,
            has=models.has,
        ),
        needed=models.poke,
        changed=sync.changed,
        clock=clock,
        unix=time.time,
        rng=rng,
        count=watched.metrics.adapter,
    )
    watched.metrics.state = state
    watched.problem = ""
    # What exists now (mostly modules) stays. A full collection looks at all of it, for a tenth of a second in which no
    # thread of a download gets on.
    gc.freeze()
    parts = [models.run(), adapters.run(), labels.informer.run(), labels.run()]
    parts += [users.run(store.usage.set_users), models.room.run()]
    enrolment = _enrolment(settings, wallet, clock, rng) if wallet is not None else None
    if enrolment is not None and wallet is not None:
        wallet.on_change(sync.restart)
        parts.append(enrolment.run())

    async def connect() -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(zone_known.wait(), ZONE_SECONDS)
        if enrolment is not None:
            await enrolment.enrolled()
        await sync.run()

    commands = Commands(
        store,
        models.room,
        limit=lambda: settings.limit.bytes_of(settings.root),
        usable=downloader.space.usable,
        needed=models.needed,
        sweep=models.sweep,
        doubt=models.doubt,
    )
    relayed = Relayed(commands.run, sync.changed)
    parts.append(relayed.run())
    node_server = NodeServer(commands, CachePaths(settings.root).socket)
    serving = await node_server.start()
    alone = clock.call_later(ALONE_SECONDS, models.manage_alone)
    try:
        return await _until_stopped(stop, [*parts, connect(), *selfcheck.parts()])
    finally:
        alone.cancel()
        if serving:
            await node_server.stop()
        if exchange is not None:
            exchange.close()


def _enrolment(settings: Settings, wallet: Wallet, clock: Clock, rng: Random) -> Enrolment:
    return Enrolment(
        settings.node,
        wallet,
        ask=Registrar(finder(settings.enrolments, rng)).ask,
        token_file=settings.token_file,
        ca_file=settings.ca_file,
        clock=clock,
        rng=rng,
        wall=lambda: datetime.now(UTC),
    )


async def _withdraw(models: Models, labels: NodeLabels, clock: Clock) -> None:
    """The cache is lost: takes all labels away, and waits a little for the API server to confirm that."""
    models.abandon()
    await _until(lambda: labels.clear, clock)


async def _until(done: Callable[[], bool], clock: Clock) -> None:
    """Waits for the labels of the node, but not for an API server that is away."""
    until = clock.now() + LABELS_SECONDS
    while not done() and clock.now() < until:
        await clock.sleep(LABELS_LOOK_SECONDS)


def _open_exchange(
    settings: Settings,
    store: Store,
    downloader: Downloader,
    zone: Callable[[], str],
    wallet: Wallet | None,
    on_sent: Callable[[int], None],
) -> PeerExchange | None:
    """Listens for other agents; None when that is switched off. Raises SettingsError when the address cannot be had."""
    if not settings.peer_listen:
        return None
    listen = parse_address(settings.peer_listen, any_port=True)
    try:
        exchange = PeerExchange(
            settings.node,
            store,
            listen,
            download_limit=downloader.limiter,
            bandwidth=settings.bandwidth,
            connections=settings.connections,
            zone=zone,
            tuning=replace(DEFAULT_TUNING, uploads=settings.peer_uploads),
            wallet=wallet,
            on_sent=on_sent,
        )
    except OSError as error:
        raise wrong("peer_listen", f"is {settings.peer_listen}, which cannot be had: {error.strerror}") from error
    _log.info("node %s: listening for other agents at %s", settings.node, exchange.address)
    return exchange


async def _until_stopped(stop: asyncio.Event, parts: list[Coroutine[Any, Any, None]]) -> bool:
    """Runs endless parts until `stop`, or until one of them fails, which is raised; whether all of them have ended."""
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(part) for part in parts]
    stopping: asyncio.Task[Any] = asyncio.create_task(stop.wait())
    try:
        ended, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        for task in tasks:
            task.cancel()
        _, left = await asyncio.wait(tasks, timeout=STOP_SECONDS)
    for task in left:
        # A second cancellation gives threads up that do not end.
        task.cancel()
    if left:
        _log.warning("some work did not stop within %.0f s and is left behind; nothing is lost by that", STOP_SECONDS)
    for task in ended - {stopping}:
        task.result()
    return not left


def _expiry(wallet: Wallet | None) -> float | None:
    """When the certificate ends, in Unix seconds; None when there is none."""
    held = wallet.held if wallet is not None else None
    return held.presented.not_after.timestamp() if held is not None else None


def _storage(settings: Settings, store: Store, downloader: Downloader) -> Storage:
    marks = Watermarks(settings.high_watermark, settings.low_watermark)

    def above() -> int:
        limit = settings.limit.bytes_of(settings.root)
        return excess(store.census.occupied(), limit, free_bytes(settings.root), settings.reserve_bytes, marks)

    return Storage(store.census.snapshots, downloader.space.usable, above)


def _capacity(root: Path, cached_bytes: int) -> Capacity:
    usage = shutil.disk_usage(root)
    return Capacity(total_bytes=usage.total, free_bytes=usage.free, cached_bytes=cached_bytes)
