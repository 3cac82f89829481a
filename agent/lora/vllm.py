"""vLLM's OpenAI server (`vllm/entrypoints/openai/serving_models.py`).

    POST /v1/load_lora_adapter     {"lora_name", "lora_path"}
    POST /v1/unload_lora_adapter   {"lora_name"}
    GET  /v1/models                adapters have the base model as `parent`, and their path as `root`

The two POST paths exist only with VLLM_ALLOW_RUNTIME_LORA_UPDATING. `lora_path` is a directory or the id of a Hugging Face
repository, without a revision.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.lora.engine import Present, adapters_of, local_path, model_cards, repository_of
from agent.lora.errors import AlreadyThere, EngineNotReady, LoRADisabled, Rejected
from agent.lora.http import CHANGE_SECONDS, Answer, Http

_ALREADY = "already been loaded"


class VllmEngine:
    """One vLLM server. `base` is `http://<ip>:<port>`."""

    name = "vllm"

    def __init__(self, http: Http, base: str) -> None:
        self._http = http
        self._base = base

    async def loaded(self) -> Mapping[str, Present]:
        """See `Engine`."""
        answer, cards = await model_cards(self._http, self._base)
        if cards is None:
            raise EngineNotReady(f"vLLM's list of models cannot be read: {answer.says('message', 'detail')}.")
        return adapters_of(cards)

    async def load(self, lora_name: str, uri: str) -> None:
        """See `Engine`."""
        path = local_path(uri) or repository_of(uri)
        if path is None:
            raise Rejected(
                f"vLLM cannot load {uri} itself; mount the cache into the pod (a hostPath volume, see docs/using-models.md)."
            )
        await self._change("load", {"lora_name": lora_name, "lora_path": path})

    async def unload(self, lora_name: str) -> None:
        """See `Engine`."""
        await self._change("unload", {"lora_name": lora_name})

    async def _change(self, what: str, body: Mapping[str, str]) -> None:
        answer = await self._http.request("POST", f"{self._base}/v1/{what}_lora_adapter", body, seconds=CHANGE_SECONDS)
        if answer.ok:
            return
        said = _message(answer)
        if answer.status in (404, 405) and answer.field("error") is None and answer.field("message") is None:
            raise LoRADisabled(
                f"vLLM has no path /v1/{what}_lora_adapter (HTTP {answer.status}): start it with --enable-lora and "
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING=true."
            )
        if _ALREADY in said:
            raise AlreadyThere("vLLM has an adapter of this name already.")
        if answer.status == 503:
            raise EngineNotReady(f"vLLM has not finished starting: {said}.")
        raise Rejected(f"vLLM refuses: {said}.")


def _message(answer: Answer) -> str:
    """Newer versions put the error into an object of its own."""
    error = answer.field("error")
    return Answer(answer.status, error, answer.text).says("message") if error is not None else answer.says("message")
