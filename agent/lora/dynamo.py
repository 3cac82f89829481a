"""Dynamo's system server (`lib/runtime/src/system_status_server.rs` of ai-dynamo/dynamo).

    POST   /v1/loras          {"lora_name", "source": {"uri"}}
    GET    /v1/loras          {"status", "loras": {name: id}, "count"}
    DELETE /v1/loras/<name>   the name may contain `/`, and is escaped segment by segment

Facts that shape this module:

- the server answers before its engine is there: then every call is a 500 about the local registry;
- without DYN_LORA_ENABLED=true the paths do not exist: 404;
- what the engine refuses comes as a 500, or as a 200 with `"status": "error"`;
- a name that is loaded already is a success that changes nothing, told only by its message;
- the id follows from the name, so it does not tell which version is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from agent.lora.engine import Present, identifier, text
from agent.lora.errors import AlreadyThere, EngineNotReady, LoRADisabled, Rejected
from agent.lora.http import CHANGE_SECONDS, LIST_SECONDS, Answer, Http

_STARTING = "local registry"
"""In the message of a server whose engine has not registered itself yet."""
_ALREADY = "already loaded"


class DynamoEngine:
    """One Dynamo worker. `base` is `http://<ip>:<port>`."""

    name = "dynamo"

    def __init__(self, http: Http, base: str) -> None:
        self._http = http
        self._base = base

    async def loaded(self) -> Mapping[str, Present]:
        """See `Engine`."""
        answer = await self._http.request("GET", f"{self._base}/v1/loras", seconds=LIST_SECONDS)
        self._check(answer)
        loras = answer.field("loras")
        if isinstance(loras, list):
            # An older form: a list of names.
            return {name: Present() for name in map(text, loras) if name}
        if not isinstance(loras, dict):
            raise EngineNotReady(f"The worker's list of adapters cannot be read: {answer.says()}.")
        return {name: Present(id=identifier(value)) for name, value in loras.items()}

    async def load(self, lora_name: str, uri: str) -> None:
        """See `Engine`."""
        body = {"lora_name": lora_name, "source": {"uri": uri}}
        answer = await self._http.request("POST", f"{self._base}/v1/loras", body, seconds=CHANGE_SECONDS)
        self._check(answer)
        message = answer.field("message")
        if isinstance(message, str) and _ALREADY in message.lower():
            raise AlreadyThere("The worker has an adapter of this name already, and does not say which version.")

    async def unload(self, lora_name: str) -> None:
        """See `Engine`."""
        path = "/".join(quote(segment, safe="") for segment in lora_name.split("/"))
        self._check(await self._http.request("DELETE", f"{self._base}/v1/loras/{path}", seconds=CHANGE_SECONDS))

    def _check(self, answer: Answer) -> None:
        if answer.status == 404:
            raise LoRADisabled(
                f"The worker has no LoRA API at {self._base}/v1/loras (HTTP 404): start it with DYN_LORA_ENABLED=true."
            )
        if answer.ok and answer.field("status") != "error":
            return
        said = answer.says("message")
        if _STARTING in said or answer.status == 503:
            raise EngineNotReady(f"The worker's engine has not finished starting: {said}.")
        raise Rejected(f"The worker refuses: {said}.")
