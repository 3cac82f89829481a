"""Which models of the cache a pod uses, from what is written in the pod: pure.

Three ways to say so, and what follows from each, if `<root>` is the cache directory of the pod's node:

    a mount of <root>/models/<namespace>/<name>            that model, whatever revision is current
    ... of <root>/models/<namespace>/<name>/<snapshot>     that one directory
    ... of <root>/models/<namespace> or <root>/hub/<namespace>  any model of the namespace
    the annotation modelcache.nvidia.com/uses              the models that it names, of the pod's own namespace

A mount of a whole namespace is how models are usually mounted, because `current` is a link beside the revisions. It keeps
everything in the namespace from being removed, unless the annotation says which models the pod really uses: then it uses
those and no others by way of such mounts. What mounts `<root>` itself or what is above it (agents, backups, monitoring)
uses no model.

An adapter that is loaded into a pod is a use as well, but agents know about that themselves: they load and unload.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from google.protobuf.timestamp_pb2 import Timestamp

from controller.pods import Pod
from modelcache.api.labels import USES_ANNOTATION
from modelcache.rpc import modelcache_pb2 as pb

MOUNT, ANNOTATION = "mount", "annotation"

_MODELS, _HUB, _CURRENT = "models", "hub", "current"
_SEPARATORS = re.compile(r"[\s,]+")
# RFC 1123 label and subdomain, which names of namespaces and of custom resources are: nothing else can be a model's.
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


class Use(NamedTuple):
    """One model that a pod uses. `name` empty: any of the namespace. `snapshot` empty: whatever is current."""

    namespace: str
    name: str
    snapshot: str
    kind: str


def uses_of(pod: Pod, root: str) -> tuple[Use, ...]:
    """What a pod uses of the cache in `root` (absolute; empty when it is not known), in the order of their names."""
    if not pod.active:
        return ()
    named = _named(pod)
    uses = {Use(pod.namespace, name, "", ANNOTATION) for name in named or ()}
    for mount in pod.mounts:
        use = _mounted(mount.host_path, root)
        if use is not None and (use.name or named is None):
            uses.add(use)
    return tuple(sorted(uses))


def to_messages(pods: Iterable[Pod], root: str) -> list[pb.PodUse]:
    """The uses of pods of one node, in the order of pod and model, so that equal states have equal bytes."""
    return [
        pb.PodUse(
            pod_uid=pod.uid,
            pod_namespace=pod.namespace,
            pod_name=pod.name,
            since=Timestamp(seconds=int(pod.since)),
            model=pb.ModelKey(namespace=use.namespace, name=use.name),
            snapshot=use.snapshot,
            kind=use.kind,
        )
        for pod in sorted(pods, key=lambda pod: pod.uid)
        for use in uses_of(pod, root)
    ]


def _named(pod: Pod) -> list[str] | None:
    """The names in the annotation that can be those of models; None when there is no annotation."""
    text = pod.annotations.get(USES_ANNOTATION)
    return None if text is None else [name for name in _SEPARATORS.split(text) if _SUBDOMAIN.fullmatch(name)]


def _mounted(path: str, root: str) -> Use | None:
    """What a directory of the host is in the cache; None for nothing that belongs to a model."""
    if not root or not path.startswith(root.rstrip("/") + "/"):
        return None
    kind, namespace, name, snapshot, *_ = [*path.removeprefix(root.rstrip("/") + "/").split("/"), "", "", ""]
    if not _LABEL.fullmatch(namespace):
        return None
    if kind == _HUB:
        # The repositories below are made of the files of several models.
        return Use(namespace, "", "", MOUNT)
    if kind != _MODELS or (name and not _SUBDOMAIN.fullmatch(name)):
        return None
    return Use(namespace, name, "" if snapshot == _CURRENT else snapshot, MOUNT)
