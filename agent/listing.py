"""Listing a source that only nodes can see, for the controller: what it asks, and what it is told.

The agent decides nothing here. It resolves as the controller would, with what this node sees and may read, and tells the
answer, a refusal included; what follows from it is the controller's business.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from agent.threads import in_thread
from modelcache.kube.resources import ObjectKey
from modelcache.rpc.modelcache_pb2 import ListingOrder
from modelcache.sources.answer import Answer, Refused, ask
from modelcache.sources.base import NODE_SCHEMES, installed_schemes
from modelcache.sources.errors import SourceError, Unsupported
from modelcache.sources.uri import parse_uri

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Listing:
    """What is to be listed; `id` is what the controller calls the question."""

    id: str
    uri: str
    revision: str | None
    include: tuple[str, ...]
    exclude: tuple[str, ...]


def read_listing(order: ListingOrder) -> Listing:
    """The question on the wire."""
    return Listing(order.id, order.uri, order.revision or None, tuple(order.include), tuple(order.exclude))


async def tell_listing(
    listing: Listing | None, key: ObjectKey, tell: Callable[[ObjectKey, str, bytes], Awaitable[None]]
) -> None:
    """List, and tell the controller. Raises ManifestUnavailable when it cannot be told now."""
    if listing is not None:
        await tell(key, listing.id, await in_thread(lambda: answer(listing)))


def answer(listing: Listing) -> bytes:
    """The answer as it travels. Blocks for the disk. Never raises."""
    try:
        uri = parse_uri(listing.uri, installed_schemes())
        if uri.scheme not in NODE_SCHEMES:
            raise Unsupported(f"{uri} is to be asked by the controller itself: update the agent or the controller.")
        found = ask(uri, listing.revision, None, listing.include, listing.exclude)
    except SourceError as error:
        found = Answer(refused=Refused(error.reason, error.message))
    except Exception as error:  # noqa: BLE001  # the controller waits for an answer
        _log.exception("listing %s failed unexpectedly", listing.uri)
        text = f"{listing.uri} could not be listed, by a fault of the agent ({type(error).__name__}): see its log."
        found = Answer(refused=Refused("ResolveError", text, retryable=True))
    return found.encode()
