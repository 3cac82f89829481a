"""The status of a DynamoModel: what the controller and the agents have seen."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from modelcache.api.base import Base, Timestamp

Phase = Literal["Pending", "Downloading", "Ready", "Failed"]
NodeName = Annotated[str, Meta(max_length=253)]


class Condition(Base, frozen=True, kw_only=True):
    """A condition as in metav1.Condition."""

    type: Annotated[str, Meta(max_length=316)]
    status: Literal["True", "False", "Unknown"]
    last_transition_time: Timestamp
    reason: Annotated[str, Meta(max_length=1024)]
    message: Annotated[str, Meta(max_length=32768)] = ""
    observed_generation: Annotated[int, Meta(extra_json_schema={"format": "int64"})] | None = None


class Endpoint(Base, frozen=True, kw_only=True):
    """A worker pod that serves the base model."""

    address: Annotated[str, Meta(description="URL of the pod's system server, for example http://10.0.1.5:9090.")]
    pod_name: Annotated[str, Meta(description="Name of the pod.", max_length=253)]
    ready: Annotated[bool, Meta(description="Whether the pod is ready and, for a lora, has the adapter loaded.")]
    reason: Annotated[str, Meta(description="Why it is not ready, in one word.", max_length=128)] = ""
    message: Annotated[str, Meta(description="Why it is not ready, and what to do.", max_length=2048)] = ""
    loaded_from: Annotated[
        str,
        Meta(
            description="What the engine was told to load, where that is not the node's cache: the pod does not mount it.",
            max_length=4096,
        ),
    ] = ""


class AdapterStatus(Base, frozen=True, kw_only=True):
    """What the files of a LoRA adapter say about themselves."""

    rank: Annotated[int, Meta(description="Rank (r in adapter_config.json).")] | None = None
    target_modules: Annotated[
        tuple[Annotated[str, Meta(max_length=253)], ...],
        Meta(description="Modules of the base model that the adapter changes."),
    ] = ()
    base_model: Annotated[str, Meta(description="Base model that it was trained for.", max_length=512)] = ""
    warning: Annotated[
        str, Meta(description="What is odd about it, without being in the way of loading it.", max_length=2048)
    ] = ""
    problem: Annotated[str, Meta(description="Why no engine can load it.", max_length=2048)] = ""


class NodeCounts(Base, frozen=True, kw_only=True):
    """How many nodes are in which state."""

    wanted: Annotated[int, Meta(description="Nodes that should hold the model.")]
    ready: Annotated[int, Meta(description="Nodes that hold the current revision, verified.")]
    downloading: Annotated[int, Meta(description="Nodes that are fetching it.")]
    failed: Annotated[int, Meta(description="Nodes that cannot get it; nodeProblems says why.")]
    summary: Annotated[str, Meta(description="ready/wanted, for people.")]
    where: Annotated[str, Meta(description="Names of the first ready nodes, for people.")] = ""


class Progress(Base, frozen=True, kw_only=True):
    """How far the download is, over all nodes together."""

    bytes_done: Annotated[
        int, Meta(description="Verified bytes on all wanted nodes.", extra_json_schema={"format": "int64"})
    ]
    bytes_total: Annotated[
        int, Meta(description="Size of the model times the wanted nodes.", extra_json_schema={"format": "int64"})
    ]
    percent: Annotated[int, Meta(description="bytesDone of bytesTotal, rounded down.", ge=0, le=100)]
    summary: Annotated[str, Meta(description="Percent, for people.")]
    bytes_per_second: (
        Annotated[int, Meta(description="Rate of all nodes together.", extra_json_schema={"format": "int64"})] | None
    ) = None
    eta_seconds: Annotated[int, Meta(description="Estimated time to completion.")] | None = None
    origin_bytes: (
        Annotated[
            int,
            Meta(
                description="Bytes that nodes have read from the source for this revision.",
                extra_json_schema={"format": "int64"},
            ),
        ]
        | None
    ) = None
    peer_bytes: (
        Annotated[
            int,
            Meta(
                description="Bytes that nodes have got from each other instead.", extra_json_schema={"format": "int64"}
            ),
        ]
        | None
    ) = None


class NodeProblem(Base, frozen=True, kw_only=True):
    """A node that cannot get the model at the moment."""

    node: Annotated[NodeName, Meta(description="Name of the node.")]
    reason: Annotated[str, Meta(description="One word, as in the conditions.", max_length=128)]
    message: Annotated[str, Meta(description="What is wrong and what to do.", max_length=2048)]
    next_try: Annotated[Timestamp, Meta(description="When the agent tries again.")] | None = None


class StorageRef(Base, frozen=True, kw_only=True):
    """Where the files are."""

    pvc_name: Annotated[str, Meta(description="Always empty on node-local disk.", max_length=253)] = ""
    path: Annotated[
        str, Meta(description="Directory of the current revision on every ready node.", max_length=4096)
    ] = ""


class ObjectReference(Base, frozen=True, kw_only=True):
    """An object that uses the model."""

    kind: Annotated[str, Meta(max_length=63)]
    name: Annotated[str, Meta(max_length=253)]
    namespace: Annotated[str, Meta(max_length=63)]


class Status(Base, frozen=True, kw_only=True):
    """What the controller and the agents have seen."""

    # Both counters are required by the shape that the Dynamo operator ships.
    ready_endpoints: Annotated[
        int, Meta(description="Worker pods that are ready to serve this model.", extra_json_schema={"format": "int32"})
    ]
    total_endpoints: Annotated[
        int, Meta(description="Worker pods of the base model.", extra_json_schema={"format": "int32"})
    ]
    observed_generation: (
        Annotated[
            int,
            Meta(
                description="Generation of the spec that this status is about.", extra_json_schema={"format": "int64"}
            ),
        ]
        | None
    ) = None
    phase: Annotated[Phase, Meta(description="Summary of the conditions.")] | None = None
    conditions: Annotated[
        tuple[Condition, ...],
        Meta(
            description="Resolved, Downloaded, Verified, Available (one node at least), Ready (all wanted nodes), "
            "EndpointsReady, ServicesFound.",
            extra_json_schema={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = ()
    resolved_version: (
        Annotated[str, Meta(description="Immutable revision that the source was resolved to.", max_length=256)] | None
    ) = None
    resolved_from: (
        Annotated[
            str,
            Meta(
                description="What was asked for when resolvedVersion was found: source, revision and a digest of include and "
                "exclude. While the spec asks for the same, nothing is resolved again.",
                max_length=4096,
            ),
        ]
        | None
    ) = None
    manifest_digest: (
        Annotated[str, Meta(description="sha256 of the manifest: the list of files, sizes and digests.", max_length=71)]
        | None
    ) = None
    tree_digest: (
        Annotated[str, Meta(description="Value to compare with verification.checksum.", max_length=71)] | None
    ) = None
    model_size: Annotated[str, Meta(description="Size of all files, for people.", max_length=32)] | None = None
    model_size_bytes: (
        Annotated[int, Meta(description="Size of all files.", extra_json_schema={"format": "int64"})] | None
    ) = None
    files: Annotated[int, Meta(description="Number of files.")] | None = None
    nodes: Annotated[NodeCounts, Meta(description="How many nodes are in which state.")] | None = None
    assigned_nodes: Annotated[
        tuple[NodeName, ...],
        Meta(description="Nodes chosen to hold the model. Kept here so that a restarted controller chooses the same."),
    ] = ()
    ready_nodes: Annotated[
        tuple[NodeName, ...], Meta(description="Nodes that hold the current revision, verified.")
    ] = ()
    node_problems: Annotated[
        tuple[NodeProblem, ...], Meta(description="Nodes that cannot get the model, and why (the first 50).")
    ] = ()
    progress: Annotated[Progress, Meta(description="How far the download is.")] | None = None
    storage_ref: Annotated[StorageRef, Meta(description="Where the files are.")] | None = None
    download_start_time: Annotated[Timestamp, Meta(description="When the first node began.")] | None = None
    download_complete_time: (
        Annotated[Timestamp, Meta(description="When all wanted nodes had it for the first time.")] | None
    ) = None
    last_access_time: Annotated[Timestamp, Meta(description="When a pod last used the model.")] | None = None
    referenced_by: Annotated[tuple[ObjectReference, ...], Meta(description="Objects that use the model.")] = ()
    endpoints: Annotated[tuple[Endpoint, ...], Meta(description="Worker pods of the base model.")] = ()
    adapter: Annotated[AdapterStatus, Meta(description="What is known about a LoRA adapter from its files.")] | None = (
        None
    )
