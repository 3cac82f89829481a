"""Everything that can go wrong between the agent and an engine.

    EngineError              reason and message as they are reported
    ├── Unreachable          nobody listens, or the connection broke
    ├── TimedOut             no answer in time
    ├── EngineNotReady       answers, but has not finished starting
    ├── LoRADisabled         has no such API: the worker was started without LoRA support
    ├── Rejected             the engine does not do what it was asked for, and says why
    └── AlreadyThere         an adapter of that name is loaded already; which one, the engine does not say

`doubtful` is whether the request may have had, or may still get, its effect.
"""

from __future__ import annotations

from typing import ClassVar


class EngineError(Exception):
    """An engine did not do what it was asked for. The message is a sentence for the user."""

    reason: ClassVar[str] = "EngineError"

    def __init__(self, message: str, *, doubtful: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.doubtful = doubtful


class Unreachable(EngineError):
    """Nobody listens, or the connection broke."""

    reason = "Unreachable"


class TimedOut(EngineError):
    """No answer in time."""

    reason = "Timeout"


class EngineNotReady(EngineError):
    """The server answers, but the engine behind it has not finished starting."""

    reason = "EngineNotReady"


class LoRADisabled(EngineError):
    """The worker runs without LoRA support."""

    reason = "LoRADisabled"


class Rejected(EngineError):
    """The engine refuses."""

    reason = "LoadFailed"


class AlreadyThere(EngineError):
    """An adapter of that name is loaded already."""

    reason = "LoadFailed"
