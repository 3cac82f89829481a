"""What a log line is about: fields that every line within a piece of work carries, without passing them along.

A decision is made of many small functions, and each of them may have something to say about the model that is being looked
at. `with about(model=..., trace=...)` puts the fields on all lines logged within, also by tasks that are started there;
`AddFields` (installed by `cli.logs`) copies them to the records. What a line gives itself with `extra=` wins.

The trace ties together what follows from one change of a DynamoModel: its Events carry it as an annotation, lines of the
controller and of all agents as the field `trace`. It is `<first 8 characters of the uid>-<generation>`, so it can be read off
the object without any lookup: kubectl get dynamomodel NAME -o jsonpath='{.metadata.uid} {.metadata.generation}'.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

TRACE_ANNOTATION = "modelcache.nvidia.com/trace"
_TRACE = re.compile(r"[0-9a-z-]{1,64}")

_fields: ContextVar[Mapping[str, str]] = ContextVar("fields", default=MappingProxyType({}))


@contextmanager
def about(**fields: str) -> Iterator[None]:
    """Add fields to all lines logged within; empty ones are left out."""
    token = _fields.set({**_fields.get(), **{key: value for key, value in fields.items() if value}})
    try:
        yield
    finally:
        _fields.reset(token)


def current(name: str) -> str:
    """The value of a field here; empty when it is not set."""
    return _fields.get().get(name, "")


class AddFields(logging.Filter):
    """Copies the fields of the moment to each record; never drops one."""

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging.Filter."""
        for key, value in _fields.get().items():
            record.__dict__.setdefault(key, value)
        return True


def trace_of(uid: str, generation: int) -> str:
    """The trace of this generation of an object."""
    return f"{uid[:8]}-{generation}"


def readable_trace(text: str) -> str:
    """A trace that came over the wire; empty when it cannot be one."""
    return text if _TRACE.fullmatch(text) else ""
