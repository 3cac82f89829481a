"""`python -m local.hub [--port N] DIR_OR_REPOSITORY...`: serve directories as Hugging Face repositories.

Prints the address to put into HF_ENDPOINT as its first line, once it answers, and serves until SIGTERM or SIGINT.
"""

import argparse
import logging
import signal
import sys

from local.hub.hub import Hub
from local.hub.layout import load
from local.hub.server import HubServer
from local.hub.signing import Signer


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 0 after a signal, 2 for arguments that cannot be served."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.DEBUG if options.verbose else logging.WARNING, stream=sys.stderr)
    tokens = dict(token.partition("=")[::2] for token in options.token)
    try:
        hub = Hub(
            load(options.source),
            tokens={token: user or "user" for token, user in tokens.items()},
            page_size=options.page_size,
            signer=Signer(lifetime=options.url_lifetime),
        )
    except (ValueError, OSError) as error:
        print(f"local.hub: {error}", file=sys.stderr)
        return 2
    hub.limits.bytes_per_second = options.rate_limit
    hub.limits.latency = options.latency
    # Blocked in every thread that is started from here on, so that the main thread alone waits for them.
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        server = HubServer(hub, options.port)
    except OSError as error:
        print(f"local.hub: cannot listen on 127.0.0.1:{options.port}: {error.strerror}", file=sys.stderr)
        return 2
    with server:
        print(server.url, flush=True)
        signal.sigwait(signals)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m local.hub",
        description="Serve directories as Hugging Face model repositories on 127.0.0.1.",
        epilog="The first line printed is the address for HF_ENDPOINT. Counters are at /_stats, faults at /_faults.",
    )
    parser.add_argument(
        "source",
        nargs="+",
        metavar="DIR_OR_REPOSITORY",
        help="a directory of org/name/ directories, or one repository as org/name=DIR or org/name@branch=DIR",
    )
    parser.add_argument("--port", type=_port, default=0, help="port to listen on; 0 (the default): any free one")
    parser.add_argument(
        "--token", action="append", default=[], metavar="TOKEN[=USER]", help="a token that is valid; may be repeated"
    )
    parser.add_argument("--page-size", type=_positive_int, default=1000, help="entries a page of a tree (default 1000)")
    parser.add_argument(
        "--url-lifetime", type=_positive, default=3600.0, metavar="SECONDS", help="of signed addresses (default 3600)"
    )
    parser.add_argument(
        "--rate-limit", type=_positive, metavar="BYTES_PER_SECOND", help="of all bodies together (default: none)"
    )
    parser.add_argument("--latency", type=float, default=0.0, metavar="SECONDS", help="before each answer (default 0)")
    parser.add_argument("--verbose", action="store_true", help="log requests to stderr")
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError("a port is between 0 and 65535")
    return port


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
