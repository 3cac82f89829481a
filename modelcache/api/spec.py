"""The spec of a DynamoModel: what the user wants.

Fields of the caching proposal that make no sense on node-local disk (`storage.pvc`, `downloader`) are accepted, so that
existing manifests apply unchanged, and have no effect. Every string and list that a validation rule touches has an upper
bound, because the API server refuses rules whose worst case it cannot bound.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, field

from modelcache.api.base import Base

KNOWN_SCHEMES = ("hf", "s3", "https", "http", "file", "pvc", "ngc")
"""URI schemes that the CRD accepts. Schemes of third-party source modules start with `x-`."""

ModelType = Literal["base", "lora", "adapter"]
ReclaimPolicy = Literal["Delete", "Retain"]

_PRESERVE = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_QUANTITY = r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?[0-9]+))?$"
_DNS_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"


def rule(expression: str, message: str) -> dict[str, str]:
    """One CEL validation rule (x-kubernetes-validations)."""
    return {"rule": expression, "message": message}


class SecretRef(Base, frozen=True, kw_only=True):
    """A key of a Secret in the namespace of the DynamoModel."""

    name: Annotated[str, Meta(description="Name of the Secret.", min_length=1, max_length=253, pattern=_DNS_SUBDOMAIN)]
    key: (
        Annotated[
            str,
            Meta(
                description="Key that holds the token. Without it, the keys that the scheme documents are looked for.",
                min_length=1,
                max_length=253,
                pattern=r"^[-._a-zA-Z0-9]+$",
            ),
        ]
        | None
    ) = None


Glob = Annotated[str, Meta(min_length=1, max_length=256)]


class Source(Base, frozen=True, kw_only=True):
    """Where the model comes from."""

    uri: Annotated[
        str,
        Meta(
            description="hf://org/name[@revision], s3://bucket/prefix, https://host/path, file:///path, pvc://claim/path "
            "or ngc://... A tag or branch is resolved once, to a commit, and stays there until the spec changes.",
            min_length=1,
            max_length=2048,
            extra_json_schema={
                "x-kubernetes-validations": [
                    rule(
                        f"self.matches('^(({'|'.join(KNOWN_SCHEMES)}|x-[a-z0-9-]+)://[^ ]+|(s3|file|pvc)://[^ ]+( +[^ ]+)*)$')",
                        "source.uri must start with a known scheme: "
                        + ", ".join(f"{scheme}://" for scheme in KNOWN_SCHEMES)
                        + " (for example hf://org/name); spaces are allowed inside the paths of s3://, file:// and pvc:// only",
                    ),
                ]
            },
        ),
    ]
    secret_ref: (
        Annotated[
            SecretRef,
            Meta(description="Credentials for the source. They are read by the controller and never written to disk."),
        ]
        | None
    ) = None
    include: Annotated[
        tuple[Glob, ...],
        Meta(
            description="Globs of the files to cache, for example *.safetensors. Empty means all files.", max_length=64
        ),
    ] = ()
    exclude: Annotated[
        tuple[Glob, ...], Meta(description="Globs of files to leave out; wins over include.", max_length=64)
    ] = ()


class PersistentVolumeClaim(Base, frozen=True, kw_only=True):
    """Shared-volume storage of the caching proposal. Accepted for compatibility; models are cached on node-local disk."""

    create: Annotated[bool, Meta(description="Accepted for compatibility, without effect.")] | None = None
    name: Annotated[str, Meta(description="Accepted for compatibility, without effect.", max_length=253)] | None = None
    storage_class_name: (
        Annotated[str, Meta(description="Accepted for compatibility, without effect.", max_length=253)] | None
    ) = None
    size: (
        Annotated[
            str | int,
            Meta(
                description="Accepted for compatibility, without effect.",
                extra_json_schema={"x-kubernetes-int-or-string": True, "pattern": _QUANTITY},
            ),
        ]
        | None
    ) = None
    access_modes: Annotated[
        tuple[Annotated[str, Meta(max_length=64)], ...],
        Meta(description="Accepted for compatibility, without effect.", max_length=16),
    ] = ()
    extra_pvc_spec: (
        Annotated[
            dict[str, Any],
            Meta(description="Accepted for compatibility, without effect.", extra_json_schema=_PRESERVE),
        ]
        | None
    ) = None
    sub_path: (
        Annotated[str, Meta(description="Accepted for compatibility, without effect.", max_length=4096)] | None
    ) = None


class NodeLocal(Base, frozen=True, kw_only=True):
    """Which nodes hold the model on their own disk."""

    node_selector: Annotated[
        dict[str, Annotated[str, Meta(max_length=63)]],
        Meta(
            description="Labels that a node must have. Empty means every node that runs an agent.",
            max_length=64,
        ),
    ] = field(default_factory=dict)
    replicas: (
        Annotated[
            int,
            Meta(
                description="How many of the matching nodes hold the model. Without it, all of them do. The choice is "
                "sticky: nodes that hold the model keep it.",
                ge=0,
                le=100_000,
                extra_json_schema={"format": "int32"},
            ),
        ]
        | None
    ) = None
    reclaim_policy: Annotated[
        ReclaimPolicy,
        Meta(
            description="What happens to the files when the DynamoModel is deleted: Delete removes them, Retain leaves "
            "them as cache that is evicted when room is needed."
        ),
    ] = "Delete"


class Storage(Base, frozen=True, kw_only=True):
    """Where the model is kept."""

    node_local: Annotated[NodeLocal, Meta(description="Node-local cache (hostPath or NVMe).")] | None = None
    pvc: (
        Annotated[
            PersistentVolumeClaim,
            Meta(description="Accepted for compatibility, without effect: models are cached on node-local disk."),
        ]
        | None
    ) = None


class Downloader(Base, frozen=True, kw_only=True):
    """Download job of the caching proposal. Accepted for compatibility; agents download."""

    image: Annotated[str, Meta(description="Accepted for compatibility, without effect.", max_length=1024)] | None = (
        None
    )
    resources: (
        Annotated[
            dict[str, Any],
            Meta(description="Accepted for compatibility, without effect.", extra_json_schema=_PRESERVE),
        ]
        | None
    ) = None
    retry_limit: (
        Annotated[
            int,
            Meta(
                description="Accepted for compatibility, without effect: downloads are retried until they succeed.",
                ge=0,
                extra_json_schema={"format": "int32"},
            ),
        ]
        | None
    ) = None
    timeout: Annotated[str, Meta(description="Accepted for compatibility, without effect.", max_length=64)] | None = (
        None
    )


class Verification(Base, frozen=True, kw_only=True):
    """What is checked beyond the digests that the source publishes (those are always checked)."""

    enabled: Annotated[bool, Meta(description="Whether checksum is compared.")] = True
    checksum: (
        Annotated[
            str,
            Meta(
                description="Expected digest of the whole model: sha256 over the lines '<sha256>  <path>' of all files, "
                "sorted by path, as printed by sha256sum.",
                max_length=71,
                extra_json_schema={
                    "x-kubernetes-validations": [
                        rule(
                            "self.matches('^sha256:[0-9a-f]{64}$')",
                            "verification.checksum must be sha256: followed by 64 lowercase hex digits",
                        )
                    ]
                },
            ),
        ]
        | None
    ) = None


class Spec(Base, frozen=True, kw_only=True):
    """What the user wants."""

    model_name: Annotated[
        str,
        Meta(
            description="Name under which the model is served, for example meta-llama/Llama-3.3-70B-Instruct.",
            min_length=1,
            max_length=512,
        ),
    ]
    base_model_name: (
        Annotated[
            str,
            Meta(
                description="Base model whose worker pods this model belongs to; equals modelRef.name of the workers. "
                "Defaults to modelName. A lora needs it.",
                min_length=1,
                max_length=512,
            ),
        ]
        | None
    ) = None
    model_type: Annotated[ModelType, Meta(description="base, lora or adapter.")] = "base"
    version: (
        Annotated[
            str,
            Meta(
                description="Revision of the source: a commit (recommended), tag or branch. A change fetches the new "
                "revision beside the old one and then switches.",
                min_length=1,
                max_length=256,
            ),
        ]
        | None
    ) = None
    source: (
        Annotated[Source, Meta(description="Where the model comes from. Without it, only endpoints are tracked.")]
        | None
    ) = None
    storage: Annotated[Storage, Meta(description="Where the model is kept.")] | None = None
    downloader: Annotated[Downloader, Meta(description="Accepted for compatibility, without effect.")] | None = None
    verification: Annotated[Verification, Meta(description="Checks beyond the digests of the source.")] | None = None


SPEC_RULES = (
    rule(
        "self.modelType != 'lora' || has(self.source)", "a lora needs source.uri: the location of the adapter's files"
    ),
    rule(
        "self.modelType != 'lora' || has(self.baseModelName)",
        "a lora needs baseModelName: the modelRef.name of the workers that it is loaded into",
    ),
    rule(
        # hf:// is the only scheme in which @ or : in the path introduces a revision.
        "!has(self.version) || !has(self.source) || !self.source.uri.matches('^hf://[^@:]*[@:]')"
        " || self.source.uri.endsWith('@' + self.version) || self.source.uri.endsWith(':' + self.version)",
        "version and the revision in source.uri disagree: give one of them, or the same in both",
    ),
)
