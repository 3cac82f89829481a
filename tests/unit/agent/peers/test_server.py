"""What the server says about a piece that changes under its hands."""

from __future__ import annotations

from agent.peers.holdings import Content
from agent.peers.server import _origin_of

RIGHT, WRONG = b"r" * 16, b"w" * 16


class Replaced:
    """A piece that came through a liar, and is fetched again through somebody else while its digest is being asked for."""

    def __init__(self) -> None:
        self.way, self.digest_now = ("liar",), WRONG

    def via(self, index: int) -> tuple[str, ...]:
        return self.way

    def digest(self, index: int) -> bytes:
        self.way, self.digest_now = ("honest",), RIGHT
        return self.digest_now


def test_a_piece_is_never_announced_with_the_way_of_another_one() -> None:
    piece = Replaced()
    content = Content(
        size=1,
        piece_bytes=1,
        complete=False,
        digest=piece.digest,
        via=piece.via,
        reading=frozenset(),
        defers=lambda index, node: False,
        open=lambda: -1,
    )
    assert _origin_of(content, 0) == (("honest",), RIGHT)
