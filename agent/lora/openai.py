"""What servers with OpenAI's API have in common: adapters are in the list of models, and are loaded from a directory of the
container or from a repository of the Hugging Face hub, without a revision. The paths for changes, and how a server says what
became of them, are its own (`agent.lora.vllm`, `agent.lora.sglang`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from agent.lora.engine import Present, adapters_of, local_path, model_cards, repository_of
from agent.lora.errors import EngineNotReady, Rejected
from agent.lora.http import Http


class OpenAiEngine(ABC):
    """One server. `base` is `http://<ip>:<port>`; `title` is what messages call it."""

    name: str
    title: str

    def __init__(self, http: Http, base: str) -> None:
        self._http = http
        self._base = base

    async def loaded(self) -> Mapping[str, Present]:
        """See `Engine`."""
        answer, cards = await model_cards(self._http, self._base)
        if cards is None:
            raise EngineNotReady(f"{self.title}'s list of models cannot be read: {answer.says('message', 'detail')}.")
        return adapters_of(cards)

    async def load(self, lora_name: str, uri: str) -> None:
        """See `Engine`."""
        path = local_path(uri) or repository_of(uri)
        if path is None:
            raise Rejected(
                f"{self.title} cannot load {uri} itself; mount the cache into the pod "
                "(a hostPath volume, see docs/using-models.md)."
            )
        await self._change("load", {"lora_name": lora_name, "lora_path": path})

    async def unload(self, lora_name: str) -> None:
        """See `Engine`."""
        await self._change("unload", {"lora_name": lora_name})

    @abstractmethod
    async def _change(self, what: str, body: Mapping[str, str]) -> None:
        """Ask the server to `load` or `unload`. Raises the errors of `agent.lora.errors`."""
