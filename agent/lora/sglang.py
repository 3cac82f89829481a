"""SGLang's server (`python/sglang/srt/entrypoints/http_server.py`).

    POST /load_lora_adapter     {"lora_name", "lora_path"}
    POST /unload_lora_adapter   {"lora_name"}
    GET  /v1/models             adapters have the base model as `parent`, and their path as `root`

Both POSTs answer {"success", "error_message", "loaded_adapters": {name: path}}; what is refused, also for want of
--enable-lora, is a 400. `lora_path` is a directory or the id of a Hugging Face repository, without a revision.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.lora.engine import Present, adapters_of, local_path, model_cards, repository_of
from agent.lora.errors import AlreadyThere, EngineNotReady, LoRADisabled, Rejected
from agent.lora.http import CHANGE_SECONDS, Http

_DISABLED = "not enabled"
_ALREADY = ("already loaded", "already been loaded", "already exists")


class SglangEngine:
    """One SGLang server. `base` is `http://<ip>:<port>`."""

    name = "sglang"

    def __init__(self, http: Http, base: str) -> None:
        self._http = http
        self._base = base

    async def loaded(self) -> Mapping[str, Present]:
        """See `Engine`."""
        answer, cards = await model_cards(self._http, self._base)
        if cards is None:
            raise EngineNotReady(f"SGLang's list of models cannot be read: {answer.says('message', 'detail')}.")
        return adapters_of(cards)

    async def load(self, lora_name: str, uri: str) -> None:
        """See `Engine`."""
        path = local_path(uri) or repository_of(uri)
        if path is None:
            raise Rejected(
                f"SGLang cannot load {uri} itself; mount the cache into the pod (a hostPath volume, see docs/using-models.md)."
            )
        await self._change("load", {"lora_name": lora_name, "lora_path": path})

    async def unload(self, lora_name: str) -> None:
        """See `Engine`."""
        await self._change("unload", {"lora_name": lora_name})

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
