"""Worker pods: where a base model is served, and everything that loading adapters into it needs to know.

The Dynamo operator labels every pod of a service that has a `modelRef` with a hash of the model's name. Pods are read
directly, not by way of EndpointSlices: a pod says on which node it is, what it mounts and whether it is ready, and it is
there once, however many slices list it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from modelcache.api.labels import base_model_hash

SYSTEM_PORT = 9090
"""Port of a worker's system server (Dynamo operator)."""
SYSTEM_PORT_NAME = "system"


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount of a container. `host_path` is empty for volumes that are no directory of the node."""

    host_path: str
    mount_path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A worker pod that has a node and neither has ended nor is being deleted.

    `base_hash` is the label, `base_model` the annotation (may be empty). `ip` is empty while the pod has none.
    `container_start` names one start of the worker container, empty before the first.
    """

    uid: str
    namespace: str
    name: str
    node: str
    base_hash: str
    base_model: str = ""
    ip: str = ""
    port: int = SYSTEM_PORT
    ready: bool = False
    container_start: str = ""
    engine: str = ""
    mounts: tuple[Mount, ...] = ()

    @property
    def address(self) -> str:
        """URL of its system server; empty while it has no IP."""
        host = f"[{self.ip}]" if ":" in self.ip else self.ip
        return f"http://{host}:{self.port}" if self.ip else ""

    def serves(self, base_model: str) -> bool:
        """Whether it serves this base model. The hash has only 32 bits, so the name has to agree where it is given."""
        return self.base_hash == base_model_hash(base_model) and self.base_model in ("", base_model)


def endpoints_of(workers: Iterable[Worker]) -> list[Worker]:
    """Those that can be talked to, each once, in the order of their names."""
    return sorted({w.uid: w for w in workers if w.ip}.values(), key=lambda w: (w.name, w.uid))
