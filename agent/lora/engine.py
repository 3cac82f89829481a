"""What the agent needs of an inference engine: list, load, unload. One module for each engine implements it.

An engine is stateless here: it only knows how to ask. What was asked, when, and what follows from the answers is the
business of `agent.lora.knowledge` and `agent.lora.plan`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from agent.lora.http import LIST_SECONDS, Answer, Http
from modelcache.kube.errors import printable

FILE = "file://"
_MAX_ID = 64
_MAX_ROOT = 4096


class Present(NamedTuple):
    """An adapter that an engine lists. `id`: what the engine calls it; `root`: what it was loaded from. Empty: not said."""

    id: str = ""
    root: str = ""


class Engine(Protocol):
    """How to talk to one engine. All methods raise `agent.lora.errors.EngineError`."""

    name: str

    async def loaded(self) -> Mapping[str, Present]:
        """Every adapter that requests can ask for, by name."""
        ...

    async def load(self, lora_name: str, uri: str) -> None:
        """Load an adapter; returns when the engine has said that it will.

        Raises AlreadyThere when there is one of this name: no engine replaces it.
        """
        ...

    async def unload(self, lora_name: str) -> None:
        """Take an adapter out. One that is not there is a failure or a success, as the engine likes: ask `loaded`."""
        ...


def local_path(uri: str) -> str | None:
    """The path of a `file://` URI, literally as engines read it; None for another scheme."""
    return uri.removeprefix(FILE) if uri.startswith(FILE) else None


def text(value: Any, limit: int = _MAX_ROOT) -> str:
    """Something an engine said, if it is a short text or a number."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return value if isinstance(value, str) and value == printable(value, limit) else ""


def identifier(value: Any) -> str:
    """What an engine calls an adapter."""
    return text(value, _MAX_ID)


class ModelCard(NamedTuple):
    """An entry of an OpenAI list of models, with the members that vLLM and SGLang add."""

    id: str
    root: str
    parent: str
    owned_by: str


async def model_cards(http: Http, base: str) -> tuple[Answer, list[ModelCard] | None]:
    """`GET /v1/models`; the cards are None when the answer is no such list."""
    answer = await http.request("GET", f"{base}/v1/models", seconds=LIST_SECONDS)
    data = answer.field("data")
    if not answer.ok or not isinstance(data, list):
        return answer, None
    entries = [entry for entry in data if isinstance(entry, dict)]
    return answer, [
        ModelCard(text(e.get("id")), text(e.get("root")), text(e.get("parent")), text(e.get("owned_by")))
        for e in entries
    ]


def adapters_of(cards: list[ModelCard]) -> dict[str, Present]:
    """The adapters in a list of models: those that have a parent, which is the base model."""
    return {card.id: Present(root=card.root) for card in cards if card.id and card.parent}


def repository_of(uri: str) -> str | None:
    """What a native engine takes for `lora_path` instead of a directory: the id of a Hugging Face repository.

    None for a URI that it could not load, or only at another revision than the one asked for.
    """
    if not uri.startswith("hf://"):
        return None
    repository = uri.removeprefix("hf://")
    return repository if "@" not in repository and 1 <= repository.count("/") + 1 <= 2 else None
