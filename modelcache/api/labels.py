"""Keys and values of the labels, annotations and finalizers that this project writes.

Users compute the label keys by hand for a node affinity, so they never change: see docs/labels.md.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

READY_PREFIX = "modelcache.nvidia.com"
REVISION_PREFIX = "rev.modelcache.nvidia.com"
READY = "Ready"

FINALIZER = "modelcache.nvidia.com/cache"
"""On a DynamoModel until its files and labels are gone from every node."""

RETRY_ANNOTATION = "modelcache.nvidia.com/retry"
"""On a DynamoModel: any new value asks the controller and all agents to try again at once what has failed."""

BASE_MODEL_HASH_LABEL = "nvidia.com/dynamo-base-model-hash"
"""On worker pods and on the headless Service in front of them: `base_model_hash` of the model that they serve. Written by
the Dynamo operator for every service with a `modelRef`."""

BASE_MODEL_ANNOTATION = "nvidia.com/dynamo-base-model"
"""On the same pods: the name in full."""

LORA_ENGINE_ANNOTATION = "modelcache.nvidia.com/lora-engine"
"""On a worker pod: `dynamo`, `vllm` or `sglang`, where finding out by asking is not wanted."""

LORA_PORT_ANNOTATION = "modelcache.nvidia.com/lora-port"
"""On a worker pod: port of the engine's HTTP API, where it is neither named `system` nor 9090."""

PIN_ANNOTATION = "modelcache.nvidia.com/pin"
"""On a DynamoModel: `true` keeps its files from being evicted, also when nothing wants them any more and room is needed."""

USES_ANNOTATION = "modelcache.nvidia.com/uses"
"""On a pod: names of the DynamoModels of its namespace that it uses, separated by commas. See `controller.uses`."""

GPU_NODE_LABEL = "nvidia.com/gpu.present"
"""Set to `true` by NVIDIA GPU feature discovery on nodes with a GPU."""

ZONE_LABEL = "topology.kubernetes.io/zone"

_NAME_MAX = 63
"""Longest name part of a label key; the prefix does not count (Kubernetes label syntax)."""
_KEPT = 54
_LABELS_KEPT = 16_384
"""Keys that need not be computed again: a node asks for those of all its models whenever something happens to one."""
_REVISION_LENGTH = 12


def base_model_hash(name: str) -> str:
    """The value of the label for a base model: first 8 hex digits of the sha256 of its name (Dynamo operator)."""
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def label_name(namespace: str, name: str) -> str:
    """`<namespace>.<name>`, or for more than 63 characters its first 54, `-`, and 8 hex digits of the sha256 of the whole."""
    whole = f"{namespace}.{name}"
    if len(whole) <= _NAME_MAX:
        return whole
    return f"{whole[:_KEPT]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


@lru_cache(maxsize=_LABELS_KEPT)
def ready_label(namespace: str, name: str) -> str:
    """Key of the node label that is `Ready` while the model's current revision is verified on the node."""
    return f"{READY_PREFIX}/{label_name(namespace, name)}"


@lru_cache(maxsize=_LABELS_KEPT)
def revision_label(namespace: str, name: str) -> str:
    """Key of the node label that holds the start of the current revision."""
    return f"{REVISION_PREFIX}/{label_name(namespace, name)}"


def revision_value(revision: str) -> str:
    """First 12 characters of the revision, without the trailing `.`, `_` or `-` that a label value may not end in."""
    return revision[:_REVISION_LENGTH].rstrip("._-")


def model_labels(namespace: str, name: str, revision: str) -> dict[str, str]:
    """The labels of a node on which this revision of the model is current and verified."""
    return {ready_label(namespace, name): READY, revision_label(namespace, name): revision_value(revision)}


def is_ours(key: str) -> bool:
    """Whether a node label is one of the two kinds that this project writes."""
    return key.partition("/")[0] in (READY_PREFIX, REVISION_PREFIX) and "/" in key
