"""What an engine remembers and does about adapters, whatever the protocol in front of it.

Everything is in memory, as in a real engine: a restart forgets it all. Loads that need files are done in a thread.
"""

import asyncio
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from local.workers.adapters import AdapterFiles, AdapterRefused, Mount, read_adapter
from local.workers.switches import Switches

Request = Literal["list", "load", "unload"]


class Refused(Exception):
    """The engine does not do what it was asked for. `status` is that of an answer whose protocol has no better one."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class NotFound(Refused):
    """There is no such adapter, or no such directory."""

    def __init__(self, message: str) -> None:
        super().__init__(404, message)


class AlreadyLoaded(Refused):
    """There is an adapter of this name already."""

    def __init__(self, name: str) -> None:
        super().__init__(400, f"The lora adapter '{name}' has already been loaded.")


@dataclass(frozen=True, slots=True)
class Loaded:
    """An adapter that requests can ask for. `loaded_at` is in Unix seconds; `sha256` is empty for a remote source."""

    name: str
    source: str
    id: int
    loaded_at: float
    sha256: str = ""
    rank: int | None = None


@dataclass(slots=True)
class Counts:
    """What was asked of a worker since it was made, over all restarts."""

    lists: int = 0
    loads: int = 0
    unloads: int = 0
    refused: int = 0
    peak_loads: int = 0
    """Most loads at once."""


@dataclass(slots=True)
class Engine:
    """One engine from its start to its end. `mounts` are those of its container."""

    base_model: str
    mounts: Sequence[Mount]
    switches: Switches = field(default_factory=Switches)
    counts: Counts = field(default_factory=Counts)
    adapters: dict[str, Loaded] = field(default_factory=dict)
    up: bool = False
    """Whether it has finished starting."""
    _loading: int = 0
    _failed: int = 0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _remote: set[asyncio.Task[None]] = field(default_factory=set)

    def switch(self, switches: Switches) -> None:
        """Behave like this from now on; who hangs looks again."""
        self.switches, self._failed = switches, 0
        self._changed.set()
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """Returns when the engine has finished starting."""
        await asyncio.sleep(self.switches.start_seconds)
        while self.switches.start_held:
            await self._changed.wait()
        self.up = True

    def forget(self) -> None:
        """Lose all adapters, as when the engine's own process was restarted inside the container."""
        self.adapters.clear()

    def end(self) -> None:
        """Stop what is under way."""
        for task in self._remote:
            task.cancel()

    def describe(self) -> dict[str, Any]:
        """State for the control API."""
        return {
            "up": self.up,
            "adapters": {name: asdict(loaded) for name, loaded in sorted(self.adapters.items())},
            "counts": asdict(self.counts),
        }

    async def listed(self) -> dict[str, Loaded]:
        """All adapters by name."""
        self.counts.lists += 1
        await self._hang("list")
        return dict(self.adapters)

    async def load(self, name: str, source: str, *, path: str | None) -> Loaded:
        """Load an adapter from `path`, a directory of the container; None: `source` is somewhere else. Raises Refused."""
        self.counts.loads += 1
        self._loading += 1
        self.counts.peak_loads = max(self.counts.peak_loads, self._loading)
        try:
            await self._hang("load")
            return await self._load(name, source, path)
        except Refused:
            self.counts.refused += 1
            raise
        finally:
            self._loading -= 1

    async def unload(self, name: str) -> Loaded:
        """Take an adapter out. Raises NotFound."""
        self.counts.unloads += 1
        await self._hang("unload")
        if name not in self.adapters:
            self.counts.refused += 1
            raise NotFound(f"The lora adapter '{name}' cannot be found.")
        return self.adapters.pop(name)

    async def _load(self, name: str, source: str, path: str | None) -> Loaded:
        switches = self.switches
        if switches.max_loads is not None and self._loading > switches.max_loads:
            raise Refused(503, f"{self._loading} loads at once are more than {switches.max_loads}")
        if switches.load_seconds:
            await asyncio.sleep(switches.load_seconds)
        if switches.load_status is not None and self._fails_once_more():
            raise Refused(switches.load_status, switches.load_message)
        if name in self.adapters:
            raise AlreadyLoaded(name)
        files: AdapterFiles | None = None
        if path is not None:
            local = path
            try:
                files = await asyncio.to_thread(lambda: read_adapter(local, self.mounts))
            except AdapterRefused as error:
                raise NotFound(str(error)) from error
            if name in self.adapters:
                raise AlreadyLoaded(name)
        loaded = Loaded(
            name=name,
            source=source,
            id=_id(name),
            loaded_at=time.time(),
            sha256=files.sha256 if files else "",
            rank=files.rank if files else None,
        )
        if switches.no_effect:
            return loaded
        if files is None:
            self._later(lambda: self.adapters.setdefault(name, loaded))
        else:
            self.adapters[name] = loaded
        return loaded

    def _fails_once_more(self) -> bool:
        limit = self.switches.load_failures
        self._failed += 1
        return limit is None or self._failed <= limit

    def _later(self, arrive: Callable[[], object]) -> None:
        """A remote source is fetched when the answer is long out, and nobody hears of it when that fails."""

        async def fetch() -> None:
            await asyncio.sleep(self.switches.remote_seconds)
            if self.switches.remote == "loads":
                arrive()

        task = asyncio.create_task(fetch())
        self._remote.add(task)
        task.add_done_callback(self._remote.discard)

    async def _hang(self, request: Request) -> None:
        while self.switches.hang in ("all", request):
            await self._changed.wait()


def _id(name: str) -> int:
    """Always the same for a name, as in Dynamo: an id says nothing about which version is loaded."""
    return zlib.crc32(name.encode()) & 0x7FFFFFFF
