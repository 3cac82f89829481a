"""What each agent is told to hold: a pure function of the decisions so far, built so that ignorance never deletes.

An agent removes what a desired state does not list. So a model is left out only when that is *known*: it is being deleted,
has no source, or was placed at a moment when this agent was already connected and was not chosen. In every other case
(not looked at yet after a restart, unreadable, its manifest not loaded yet) it is listed without a manifest, which
means: keep whatever you have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from controller.survey import EVERYBODY, ListingRequest, Survey
from controller.swarms import Company
from controller.tracked import AdapterOrder, Order, Tracked
from modelcache.api.model import DynamoModel
from modelcache.kube.resources import ObjectKey
from modelcache.rpc import modelcache_pb2 as pb

KEEP = Order()


def verdict(model: DynamoModel | None, tracked: Tracked | None, node: str, arrival: int) -> Order | None:
    """What the agent of `node`, the `arrival`-th stream, is told about one existing DynamoModel; None: not to hold it.

    `model` is None when the object exists but cannot be read, `tracked` when nobody has looked at it yet.
    """
    if tracked and tracked.removing and (model is None or model.metadata.uid == tracked.uid):
        return None
    if model is None:
        return tracked.order if tracked and tracked.order and node in (tracked.assigned or ()) else KEEP
    if model.deleting or model.spec.source is None:
        return None
    if tracked is None or tracked.uid != model.metadata.uid or tracked.assigned is None:
        return KEEP
    if node in tracked.assigned:
        return _share(tracked.order or KEEP, tracked.survey, node)
    return None if tracked.arrivals >= arrival else KEEP


def _share(order: Order, survey: Survey, node: str) -> Order:
    """What one of the nodes of a model is told while it is surveyed: the surveyor everything, the others to wait."""
    if survey.surveyor is EVERYBODY:
        return order
    if node == survey.surveyor:
        return replace(order, listing=survey.listing)
    return replace(order, digest="", hub_ref="", tree_digest="", credential=None)


def without_peers(models: Iterable[pb.DesiredModel]) -> list[pb.DesiredModel]:
    """What does not bear a delay."""
    bare = []
    for model in models:
        copy = pb.DesiredModel()
        copy.CopyFrom(model)
        del copy.peers[:]
        copy.keep_peers, copy.joined, copy.slow = False, 0, False
        bare.append(copy)
    return bare


def to_message(
    orders: Iterable[tuple[ObjectKey, Order]],
    company: Callable[[ObjectKey, Order], Company] = lambda key, order: Company(),
    node: str = "",
) -> list[pb.DesiredModel]:
    """The models of the DesiredState of `node`, in the order of their names, so that equal states have equal bytes."""
    return [_entry(key, order, company(key, order), node) for key, order in sorted(orders)]


def _entry(key: ObjectKey, order: Order, company: Company, node: str) -> pb.DesiredModel:
    return pb.DesiredModel(
        model=pb.ModelKey(namespace=key.namespace, name=key.name),
        manifest_digest=order.digest,
        credential=pb.Credential(values=order.credential.values) if order.credential else None,
        hub_ref=order.hub_ref,
        tree_digest=order.tree_digest,
        attempt=order.attempt,
        trace=order.trace,
        peers=company.peers,
        keep_peers=company.keep,
        joined=company.joined,
        slow=company.slow,
        retain=order.retain,
        pinned=order.pinned,
        keyless=order.keyless,
        adapter=_adapter(order.adapter, node) if order.adapter else None,
        listing=_listing(order.listing) if order.listing else None,
    )


def _adapter(order: AdapterOrder, node: str) -> pb.Adapter:
    return pb.Adapter(
        lora_name=order.lora_name,
        base_model_name=order.base_model_name,
        source_uri=order.source_uri,
        model_uid=order.model_uid,
        pod_uids=order.pods.get(node, ()),
    )


def _listing(request: ListingRequest) -> pb.ListingOrder:
    return pb.ListingOrder(
        id=request.id,
        uri=request.uri,
        revision=request.revision,
        include=request.include,
        exclude=request.exclude,
    )
