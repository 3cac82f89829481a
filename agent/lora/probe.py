"""Which engine answers at an address: what an annotation of the pod says, or else what the answers tell."""

from __future__ import annotations

from collections.abc import Callable

from agent.lora.desired import Pod
from agent.lora.dynamo import DynamoEngine
from agent.lora.engine import Engine, model_cards
from agent.lora.errors import EngineNotReady, LoRADisabled
from agent.lora.http import LIST_SECONDS, Http
from agent.lora.sglang import SglangEngine
from agent.lora.vllm import VllmEngine

ENGINES: dict[str, Callable[[Http, str], Engine]] = {
    "dynamo": DynamoEngine,
    "vllm": VllmEngine,
    "sglang": SglangEngine,
}


def base_url(pod: Pod) -> str:
    """Where a pod's engine is: `http://<ip>:<port>`."""
    host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
    return f"http://{host}:{pod.port}"


async def find_engine(http: Http, pod: Pod) -> Engine:
    """The engine of a pod. Raises EngineError when nothing can be said yet, LoRADisabled when there is none to talk to.

    Dynamo is the only one with a list at /v1/loras, and a failure there is in a form of its own. The two others tell
    themselves apart in the `owned_by` of their models.
    """
    base = base_url(pod)
    if pod.engine in ENGINES:
        return ENGINES[pod.engine](http, base)
    answer = await http.request("GET", f"{base}/v1/loras", seconds=LIST_SECONDS)
    if answer.field("loras") is not None or answer.field("status") in ("error", "success"):
        return DynamoEngine(http, base)
    models, cards = await model_cards(http, base)
    for card in cards or ():
        if card.owned_by in ENGINES:
            return ENGINES[card.owned_by](http, base)
    if answer.status == 404 and models.status == 404:
        raise LoRADisabled(
            f"The server at {base} has neither the LoRA API of Dynamo nor a list of models (HTTP 404): start the worker with "
            "DYN_LORA_ENABLED=true, or name its port and engine in the annotations modelcache.nvidia.com/lora-port and "
            "modelcache.nvidia.com/lora-engine of the pod."
        )
    raise EngineNotReady(
        f"The engine at {base} cannot be told yet: {answer.says('message')}, {models.says('message')}."
    )
