"""The `modelcache` command: parses the command line, calls the part that does the work, turns errors into exit codes.

Exit codes: 0 done, 1 it failed, 2 the command line or a setting is wrong, 3 the answer that scripts look for (`status`: a
model is not Ready; for the others see `cli.cache`), 4 some nodes did not answer.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from cli import cache
from cli.logs import LogFormat, configure_logging
from modelcache.paths import DEFAULT_ROOT, PROJECTED
from modelcache.settings import SettingsError

app = typer.Typer(
    name="modelcache",
    help="Node-local cache of the models that DynamoModel resources name.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Output(StrEnum):
    """How a command prints."""

    table = "table"
    json = "json"


Kubeconfig = Annotated[
    Path | None,
    typer.Option(
        help="Kubeconfig file. Without it: $KUBECONFIG, the pod's service account, ~/.kube/config.",
        envvar="MODELCACHE_KUBECONFIG",
    ),
]
Insecure = Annotated[
    bool,
    typer.Option(
        "--insecure",
        help="Talk without TLS. Only on loopback addresses; for one machine.",
        envvar="MODELCACHE_INSECURE",
    ),
]
MetricsListen = Annotated[
    str,
    typer.Option(
        help="Where /metrics, /livez and /readyz are served over HTTP, host:port ([::] for all addresses); empty: nowhere.",
        envvar="MODELCACHE_METRICS_LISTEN",
    ),
]
Format = Annotated[LogFormat, typer.Option(help="How log lines look.", envvar="MODELCACHE_LOG_FORMAT")]
Level = Annotated[
    str, typer.Option(help="debug, info, warning or error.", envvar="MODELCACHE_LOG_LEVEL", metavar="LEVEL")
]


def _version(asked: bool) -> None:
    if asked:
        print(version("dynamo-model-cache"))
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    # gRPC's core writes lines of its own to stderr: one for each connection that breaks, or that a stranger makes. What
    # matters of that we log ourselves. It reads this when it is imported, which the commands do.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


@app.command()
def up(
    nodes: Annotated[int, typer.Option("--nodes", "-n", help="How many nodes.", min=1, max=100)] = 3,
    file: Annotated[
        list[Path] | None,
        typer.Option("--file", "-f", help="Manifest to apply once the cluster is up; may be repeated.", exists=True),
    ] = None,
    data: Annotated[
        Path, typer.Option(help="Directory for the kubeconfig, the objects, the caches and the logs.")
    ] = Path(".modelcache"),
) -> None:
    """Run a whole cluster on this machine: a Kubernetes API, the controller, and an agent for each node.

    Every part is a real process; one that dies is started again. Goes on until Ctrl-C; the data directory keeps the
    models, and the next `modelcache up` goes on with them.
    """
    from cli.up import up as run_up

    raise typer.Exit(asyncio.run(run_up(data.resolve(), nodes, file or [], Console())))


@app.command()
def controller(
    listen: Annotated[
        str, typer.Option(help="Where agents connect, host:port.", envvar="MODELCACHE_LISTEN")
    ] = "127.0.0.1:7443",
    enrolment_listen: Annotated[
        str,
        typer.Option(
            help="Where agents get their certificates, host:port; not with --insecure.",
            envvar="MODELCACHE_ENROLMENT_LISTEN",
        ),
    ] = "127.0.0.1:7444",
    commands_listen: Annotated[
        str,
        typer.Option(
            help="Where administrators reach all nodes with du, gc, evict and verify, host:port; empty: nowhere.",
            envvar="MODELCACHE_COMMANDS_LISTEN",
        ),
    ] = "",
    health_listen: Annotated[
        str,
        typer.Option(
            help="Where the gRPC health protocol is served in plain text, host:port; empty: nowhere.",
            envvar="MODELCACHE_HEALTH_LISTEN",
        ),
    ] = "",
    insecure: Insecure = False,
    certificate_lifetime: Annotated[
        float,
        typer.Option(
            help="Seconds for which an agent's certificate is good.", envvar="MODELCACHE_CERTIFICATE_LIFETIME"
        ),
    ] = 4 * 3600.0,
    leader_elect: Annotated[
        bool, typer.Option(help="Only one of several replicas serves.", envvar="MODELCACHE_LEADER_ELECT")
    ] = True,
    lease_duration: Annotated[
        float,
        typer.Option(help="Seconds that a dead leader is waited for.", envvar="MODELCACHE_LEASE_DURATION"),
    ] = 15.0,
    namespace: Annotated[
        str,
        typer.Option(
            help="Namespace of the controller and the agents: Lease, certificate authority and ServiceAccounts are in it.",
            envvar="MODELCACHE_NAMESPACE",
        ),
    ] = "modelcache-system",
    agent_account: Annotated[
        str, typer.Option(help="The agents' ServiceAccount in it.", envvar="MODELCACHE_AGENT_ACCOUNT")
    ] = "modelcache-agent",
    kubeconfig: Kubeconfig = None,
    heartbeat: Annotated[
        float, typer.Option(help="Seconds between two reports of an idle agent.", envvar="MODELCACHE_HEARTBEAT")
    ] = 10.0,
    agent_timeout: Annotated[
        float,
        typer.Option(help="Seconds of silence after which an agent counts as gone.", envvar="MODELCACHE_AGENT_TIMEOUT"),
    ] = 40.0,
    resolve_retry: Annotated[
        float,
        typer.Option(help="Longest wait until a failed source is asked again.", envvar="MODELCACHE_RESOLVE_RETRY"),
    ] = 300.0,
    resolve_workers: Annotated[
        int, typer.Option(help="Sources that are asked at the same time.", envvar="MODELCACHE_RESOLVE_WORKERS")
    ] = 8,
    workers: Annotated[
        int, typer.Option(help="Models that are reconciled at the same time.", envvar="MODELCACHE_WORKERS")
    ] = 8,
    metrics_listen: MetricsListen = "",
    log_format: Format = LogFormat.json,
    log_level: Level = "info",
) -> None:
    """Run the controller: one per cluster, or several replicas of which one leads."""
    from controller.main import run
    from controller.settings import Settings

    settings = Settings(
        listen=listen,
        enrolment_listen=enrolment_listen,
        commands_listen=commands_listen,
        health_listen=health_listen,
        insecure=insecure,
        certificate_lifetime=certificate_lifetime,
        leader_elect=leader_elect,
        lease_duration=lease_duration,
        namespace=namespace,
        agent_account=agent_account,
        kubeconfig=kubeconfig,
        heartbeat=heartbeat,
        agent_timeout=agent_timeout,
        resolve_retry=resolve_retry,
        resolve_workers=resolve_workers,
        workers=workers,
        metrics_listen=metrics_listen,
    )
    try:
        settings.check()
    except SettingsError as error:
        _refuse(str(error))
    _serve(lambda stop: run(settings, stop), log_format, log_level)


@app.command()
def agent(
    node: Annotated[
        str, typer.Option(help="Name of this machine's Node (in a pod: spec.nodeName).", envvar="MODELCACHE_NODE")
    ],
    controller: Annotated[
        str,
        typer.Option(
            help="Where controllers are, host:port, several with commas; of a name all addresses are tried.",
            envvar="MODELCACHE_CONTROLLER",
        ),
    ] = "127.0.0.1:7443",
    enrolment: Annotated[
        str,
        typer.Option(
            help="Where they issue certificates, likewise; without it the same hosts, port 7444.",
            envvar="MODELCACHE_ENROLMENT",
        ),
    ] = "",
    token_file: Annotated[
        Path,
        typer.Option(
            help="Projected ServiceAccount token, audience modelcache: what this agent proves its node by.",
            envvar="MODELCACHE_TOKEN_FILE",
        ),
    ] = PROJECTED / "token",
    ca_file: Annotated[
        Path,
        typer.Option(
            help="Certificate authorities of the controller, from the ConfigMap modelcache-ca.",
            envvar="MODELCACHE_CA_FILE",
        ),
    ] = PROJECTED / "ca.crt",
    root: Annotated[
        Path, typer.Option(help="Cache directory; one file system of its own.", envvar="MODELCACHE_ROOT")
    ] = DEFAULT_ROOT,
    insecure: Insecure = False,
    kubeconfig: Kubeconfig = None,
    max_downloads: Annotated[
        int, typer.Option(help="Models that are downloaded at the same time.", envvar="MODELCACHE_MAX_DOWNLOADS")
    ] = 2,
    connections: Annotated[
        int, typer.Option(help="Requests at one source at the same time.", envvar="MODELCACHE_CONNECTIONS")
    ] = 8,
    bandwidth: Annotated[
        float | None,
        typer.Option(
            help="Limit of this node in bytes per second, in and out each; without it, none.",
            envvar="MODELCACHE_BANDWIDTH",
        ),
    ] = None,
    reserve_bytes: Annotated[
        int,
        typer.Option(help="Bytes that stay free on the file system of the cache.", envvar="MODELCACHE_RESERVE_BYTES"),
    ] = 1024**3,
    capacity: Annotated[
        str,
        typer.Option(
            help="What the cache may take: 200Gi, or 80% of the file system; empty: all but the reserve.",
            envvar="MODELCACHE_CAPACITY",
        ),
    ] = "",
    high_watermark: Annotated[
        float,
        typer.Option(
            help="Part of the capacity above which what nothing wants is evicted.", envvar="MODELCACHE_HIGH_WATERMARK"
        ),
    ] = 0.9,
    low_watermark: Annotated[
        float,
        typer.Option(help="Part of the capacity down to which that goes on.", envvar="MODELCACHE_LOW_WATERMARK"),
    ] = 0.8,
    scrub_interval: Annotated[
        float,
        typer.Option(
            help="Seconds in which everything is read again once; 0: never.", envvar="MODELCACHE_SCRUB_INTERVAL"
        ),
    ] = 7 * 24 * 3600.0,
    scrub_bandwidth: Annotated[
        float, typer.Option(help="Limit of that, in bytes per second.", envvar="MODELCACHE_SCRUB_BANDWIDTH")
    ] = 64 * 1024**2,
    peer_listen: Annotated[
        str,
        typer.Option(
            help="Where other agents read from this one, host:port (port 0: any); empty: they cannot.",
            envvar="MODELCACHE_PEER_LISTEN",
        ),
    ] = "127.0.0.1:0",
    peer_uploads: Annotated[
        int,
        typer.Option(help="Pieces that are sent to other agents at the same time.", envvar="MODELCACHE_PEER_UPLOADS"),
    ] = 8,
    metrics_listen: MetricsListen = "",
    log_format: Format = LogFormat.json,
    log_level: Level = "info",
) -> None:
    """Run the agent of one node: downloads, verifies, publishes, labels the node."""
    from agent.main import run
    from agent.settings import Settings

    settings = Settings(
        node=node,
        controller=controller,
        enrolment=enrolment,
        token_file=token_file,
        ca_file=ca_file,
        root=root,
        insecure=insecure,
        kubeconfig=kubeconfig,
        max_downloads=max_downloads,
        connections=connections,
        bandwidth=bandwidth,
        reserve_bytes=reserve_bytes,
        capacity=capacity,
        high_watermark=high_watermark,
        low_watermark=low_watermark,
        scrub_interval=scrub_interval,
        scrub_bandwidth=scrub_bandwidth,
        peer_listen=peer_listen,
        peer_uploads=peer_uploads,
        metrics_listen=metrics_listen,
    )
    try:
        settings.check()
    except SettingsError as error:
        _refuse(str(error))
    _serve(lambda stop: run(settings, stop), log_format, log_level)


@app.command()
def prepare_root(
    root: Annotated[Path, typer.Option(help="Cache directory.", envvar="MODELCACHE_ROOT")] = DEFAULT_ROOT,
    owner: Annotated[
        str, typer.Option(help="User and group of the agent, uid:gid.", envvar="MODELCACHE_OWNER")
    ] = "65532:65532",
    selinux_label: Annotated[
        str, typer.Option(help="SELinux label of the directory; empty: none.", envvar="MODELCACHE_SELINUX_LABEL")
    ] = "",
) -> None:
    """Give the cache directory to the agent's user: the agent's init container runs this as root."""
    from agent.prepare import PrepareError, parse_owner, prepare

    try:
        changed = prepare(root, parse_owner(owner), selinux_label)
    except ValueError as error:
        _refuse(f"owner (--owner or MODELCACHE_OWNER): {error}")
    except PrepareError as error:
        _fail(str(error))
    print(f"{root} {'now belongs' if changed else 'belongs'} to {owner}")


@app.command()
def status(
    model: Annotated[str, typer.Argument(help="Name of a DynamoModel; without it, all of them.")] = "",
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Namespace.")] = "default",
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Models of all namespaces.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Keep showing, with progress bars, until Ctrl-C.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Keep showing until every model is Ready.")] = False,
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print.")] = Output.table,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show what every DynamoModel is doing. The exit code is 0 when all that are shown are Ready, otherwise 3."""
    from cli.status import status as run_status
    from modelcache.kube.errors import ConfigError, KubeError

    if model and all_namespaces:
        _refuse("give the name of a model, or --all-namespaces, not both")
    try:
        code = asyncio.run(
            run_status(
                Console(),
                kubeconfig,
                namespace="" if all_namespaces else namespace,
                name=model,
                watch=watch,
                wait=wait,
                output=output,
            )
        )
    except (KubeError, ConfigError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        code = 0
    raise typer.Exit(code)


@app.command()
def diagnose(
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="Namespace of the installation.")
    ] = "modelcache-system",
    output: Annotated[Path, typer.Option("--output", "-o", help="Archive to write.")] = Path(
        "modelcache-diagnose.tar.gz"
    ),
    kubeconfig: Kubeconfig = None,
) -> None:
    """Collect what a report about a fault needs: objects, events, logs, metrics; without secrets."""
    from cli.diagnose import diagnose as run_diagnose
    from modelcache.kube.errors import ConfigError, KubeError

    try:
        problems = run_diagnose(kubeconfig, namespace, output)
    except (KubeError, ConfigError, OSError) as error:
        _fail(str(error))
    for problem in problems:
        sys.stderr.write(f"not collected: {problem}\n")
    print(f"wrote {output}; have a look at it before you pass it on")


cache.add_to(app)


def _serve(run: Callable[[asyncio.Event], Awaitable[None]], log_format: LogFormat, log_level: str) -> None:
    """Run a daemon until SIGTERM or SIGINT. A failure that it cannot live with is printed, and the exit code is 1."""
    try:
        configure_logging(log_format, log_level)
    except ValueError as error:
        _refuse(str(error))

    async def until_signalled() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await run(stop)

    try:
        asyncio.run(until_signalled())
    except Exception as error:
        # The last resort: whatever it is, one readable line; the traceback only for those who ask for it.
        logging.getLogger("modelcache").debug("stopped by an error", exc_info=error)
        _fail(str(error) or repr(error))


def _refuse(message: str) -> NoReturn:
    sys.stderr.write(f"modelcache: {message}\n")
    raise typer.Exit(2)


def _fail(message: str) -> NoReturn:
    sys.stderr.write(f"modelcache: {message}\n")
    raise typer.Exit(1)


def main() -> None:
    """Entry point of the `modelcache` script."""
    app()


if __name__ == "__main__":
    main()
