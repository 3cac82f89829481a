"""SGLang's server (`python/sglang/srt/entrypoints/http_server.py`).

    POST /load_lora_adapter     {"lora_name", "lora_path"}
    POST /unload_lora_adapter   {"lora_name"}
    GET  /v1/models             adapters have the base model as `parent`, and their path as `root`

Both POSTs answer {"success", "error_message", "loaded_adapters": {name: path}}; what is refused, also for want of
--enable-lora, is a 400. `lora_path` is a directory or the id of a Hugging Face repository, without a revision.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.lora.errors import AlreadyThere, EngineNotReady, LoRADisabled, Rejected
from agent.lora.http import CHANGE_SECONDS
from agent.lora.openai import OpenAiEngine

_DISABLED = "not enabled"
_ALREADY = ("already loaded", "already been loaded", "already exists")


class SglangEngine(OpenAiEngine):
    """See `OpenAiEngine`."""

    name = "sglang"
    title = "SGLang"

    async def _change(self, what: str, body: Mapping[str, str]) -> None:
        answer = await self._http.request("POST", f"{self._base}/{what}_lora_adapter", body, seconds=CHANGE_SECONDS)
        if answer.ok and answer.field("success") is not False:
            return
        said = answer.says("error_message", "message")
        if answer.status == 404 or _DISABLED in said:
            raise LoRADisabled(f"SGLang runs without LoRA support: {said}; start it with --enable-lora.")
        if any(words in said for words in _ALREADY):
            raise AlreadyThere("SGLang has an adapter of this name already.")
        if answer.status == 503:
            raise EngineNotReady(f"SGLang has not finished starting: {said}.")
        raise Rejected(f"SGLang refuses: {said}.")
