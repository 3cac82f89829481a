"""Misbehaving on purpose: everything that workers are known to do wrong, as data that can be set while they run."""

from typing import Annotated, Literal

import msgspec

_Seconds = Annotated[float, msgspec.Meta(ge=0)]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class Switches(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one worker behaves; the defaults are those of a good one."""

    start_seconds: _Seconds = 0.0
    """How long the engine needs after the container was started."""
    start_held: bool = False
    """The engine does not get ready as long as this is set."""
    ready_early: bool = False
    """The pod says that it is ready while the engine is still starting: a readiness probe that asks for too little."""
    lora_enabled: bool = True
    """Off: without `DYN_LORA_ENABLED=true`, `VLLM_ALLOW_RUNTIME_LORA_UPDATING` or `--enable-lora`."""
    load_status: Annotated[int, msgspec.Meta(ge=400, le=599)] | None = None
    """Loads fail with this status."""
    load_failures: _Count | None = None
    """How many loads fail so; None: all of them."""
    load_message: str = "CUDA out of memory"
    errors_in_body: bool = False
    """Dynamo answers what the engine refuses with status 200 and `"status": "error"`."""
    no_effect: bool = False
    """Loads are answered with success, and nothing is loaded."""
    hang: Literal["", "list", "load", "unload", "all"] = ""
    """Which requests are accepted and never answered."""
    load_seconds: _Seconds = 0.0
    max_loads: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Loads beyond this many at once are refused with 503."""
    remote: Literal["loads", "fails"] = "loads"
    """What becomes of a source that is not a local directory. It is fetched after the answer, which is success anyway."""
    remote_seconds: _Seconds = 0.0
