"""One request to an engine: bounded in time and size, and every failure an `EngineError`.

Answers come from pods, so from anybody: nothing is followed (a redirect would make the agent a tool for reaching other
services), nothing is decompressed, nothing larger than the limit is read, no cookie is kept, and no proxy of the environment is
used. Connections are kept open between requests; an engine that was restarted shows as a broken one.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec

from agent.lora.errors import TimedOut, Unreachable
from modelcache.kube.errors import printable

MAX_ANSWER_BYTES = 4 * 1024 * 1024
"""A list of ten thousand adapters is about one."""
CONNECT_SECONDS = 3.0
"""The pod is on this node."""
LIST_SECONDS = 5.0
CHANGE_SECONDS = 15.0
"""For a load or an unload, as in the Dynamo operator (`modelendpoint/client.go`, RequestTimeout)."""
_IDLE_SECONDS = 60.0
_MAX_MESSAGE = 300


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. `json` is None for what is not JSON; `text` is the beginning of the body, fit for a message."""

    status: int
    json: Any
    text: str

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    def field(self, name: str) -> Any:
        """A member of a JSON object; None for everything else."""
        return self.json.get(name) if isinstance(self.json, dict) else None

    def says(self, *names: str) -> str:
        """The first of these members that is a text, else the body, else the status: why something failed."""
        texts = (self.field(name) for name in names)
        found = next((text for text in texts if isinstance(text, str) and text), self.text)
        return f"{printable(found, _MAX_MESSAGE) or 'no details'} (HTTP {self.status})"


class Http:
    """Use as `async with Http() as http`."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            # How much goes on at once is decided elsewhere.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            headers={"Accept-Encoding": "identity", "User-Agent": "modelcache-agent"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def request(self, method: str, url: str, body: object = None, *, seconds: float) -> Answer:
        """One request with an optional JSON body. Raises Unreachable, TimedOut; any status is an answer."""
        assert self._session is not None
        timeout = aiohttp.ClientTimeout(total=seconds, connect=min(CONNECT_SECONDS, seconds))
        data = msgspec.json.encode(body) if body is not None else None
        headers = {"Content-Type": "application/json"} if data is not None else {}
        connected = False
        try:
            async with self._session.request(
                method, url, data=data, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                connected = True
                content = await _read(response)
        except aiohttp.ClientConnectorError as error:
            raise Unreachable(f"Nobody listens at {url}: {printable(str(error.os_error), 120)}.") from error
        except aiohttp.ConnectionTimeoutError as error:
            raise TimedOut(f"No connection to {url} within {CONNECT_SECONDS:.0f} s.") from error
        except TimeoutError as error:
            raise TimedOut(f"No answer to {method} {url} within {seconds:.0f} s.", doubtful=True) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            what = "broke off" if connected else "was closed before it came"
            detail = printable(str(error) or type(error).__name__, 120)
            raise Unreachable(f"The answer to {method} {url} {what}: {detail}.", doubtful=True) from error
        return Answer(response.status, _json(content), printable(content[:2000].decode(errors="replace"), _MAX_MESSAGE))


async def _read(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > MAX_ANSWER_BYTES:
            response.close()
            raise ValueError(f"it has more than {MAX_ANSWER_BYTES} bytes")
    return bytes(content)


def _json(content: bytes) -> Any:
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
