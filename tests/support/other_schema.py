"""The real agent, as if it had been built, or were spoken to, from another version of the wire contract.

python -m tests.support.other_schema agent ... --speaks older-agent

What `--speaks` says is done to every message on its way, at the one place where messages become bytes:

    older-agent        what the agent sends lacks the fields that the first version of the contract did not have
    older-controller   what it receives lacks them
    newer              both have fields that this version does not know, in every message of every message
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from google.protobuf.message import Message
from grpc import aio

from cli.main import app

FIRST_VERSION = 20
"""Fields of the first version have numbers below this one."""
UNKNOWN = b"\xfa\xbb\x01\x05later" + b"\xc0\xbb\x01\x07"
"""Field 2999, a text, and field 3000, a number."""
_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")

Change = Callable[[Message], None]


def without_later_fields(message: Message) -> None:
    """Take out of a message, and of all that are in it, what the first version did not have."""
    for field, value in message.ListFields():
        if field.number >= FIRST_VERSION:
            message.ClearField(field.name)
        else:
            _each(field, value, without_later_fields)


def with_unknown_fields(message: Message) -> None:
    """Put into a message, and into all that are in it, what this version does not know."""
    for field, value in message.ListFields():
        _each(field, value, with_unknown_fields)
    message.MergeFromString(UNKNOWN)


def _each(field: Any, value: Any, change: Change) -> None:
    if field.message_type is None or field.message_type.GetOptions().map_entry:
        return
    for message in value if field.is_repeated else (value,):
        change(message)


def _unchanged(message: Message) -> None:
    pass


CHANGES: dict[str, tuple[Change, Change]] = {
    "older-agent": (without_later_fields, _unchanged),
    "older-controller": (_unchanged, without_later_fields),
    "newer": (with_unknown_fields, with_unknown_fields),
}
"""What is done to what is sent, and to what is received."""


def _changed(message: Message, change: Change) -> Message:
    copy = type(message)()
    copy.CopyFrom(message)
    change(copy)
    return copy


def _translating(make: Callable[..., Any], sent: Change, received: Change) -> Callable[..., Any]:
    def method(path: str, *, request_serializer: Any, response_deserializer: Any, **options: Any) -> Any:
        return make(
            path,
            request_serializer=lambda message: request_serializer(_changed(message, sent)),
            response_deserializer=lambda data: _changed(response_deserializer(data), received),
            **options,
        )

    return method


def _open(open_channel: Callable[..., aio.Channel], changes: tuple[Change, Change], *args: Any, **options: Any) -> Any:
    channel = open_channel(*args, **options)
    for kind in _KINDS:
        setattr(channel, kind, _translating(getattr(channel, kind), *changes))
    return channel


if __name__ == "__main__":
    at = sys.argv.index("--speaks")
    _, version = sys.argv[at : at + 2]
    del sys.argv[at : at + 2]
    aio.secure_channel = partial(_open, aio.secure_channel, CHANGES[version])
    app()
