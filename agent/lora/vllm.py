"""vLLM's OpenAI server (`vllm/entrypoints/openai/serving_models.py`).

    POST /v1/load_lora_adapter     {"lora_name", "lora_path"}
    POST /v1/unload_lora_adapter   {"lora_name"}
    GET  /v1/models                adapters have the base model as `parent`, and their path as `root`

The two POST paths exist only with VLLM_ALLOW_RUNTIME_LORA_UPDATING. `lora_path` is a directory or the id of a Hugging Face
repository, without a revision.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.lora.errors import AlreadyThere, EngineNotReady, LoRADisabled, Rejected
from agent.lora.http import CHANGE_SECONDS, Answer
from agent.lora.openai import OpenAiEngine

_ALREADY = "already been loaded"


class VllmEngine(OpenAiEngine):
    """See `OpenAiEngine`."""

    name = "vllm"
    title = "vLLM"

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
