"""Lines out of a byte stream that is cut anywhere.

A watch is one JSON object per line. aiohttp's `readline` refuses lines over its buffer size, and an object may have
1.5 MiB (etcd's limit) and more with managed fields; so the splitting is done here. Chunks of an unfinished line are kept
in a list and joined once, which is linear in the length of the line however small the chunks are.
"""

from collections.abc import AsyncGenerator, AsyncIterable


class LineSplitter:
    """Feed chunks, get the lines that are complete. Empty lines are dropped: they are used as keep-alives."""

    def __init__(self) -> None:
        self._pending: list[bytes] = []

    @property
    def unfinished(self) -> bool:
        """Whether bytes of a line without its newline are held."""
        return bool(self._pending)

    def feed(self, chunk: bytes) -> list[bytes]:
        """Complete lines, without newline, that end in `chunk`."""
        head, *rest = chunk.split(b"\n")
        if head:
            self._pending.append(head)
        if not rest:
            return []
        *whole, tail = rest
        lines = [b"".join(self._pending), *whole]
        self._pending = [tail] if tail else []
        return [line for line in lines if line.strip()]


async def split_lines(chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """The lines of `chunks`. A last line without newline was cut off by the end of the stream and is not yielded."""
    splitter = LineSplitter()
    async for chunk in chunks:
        for line in splitter.feed(chunk):
            yield line
