"""Blocking work (files, SQLite, sockets) in threads, for code that is cancelled like everything else in asyncio.

A thread cannot be stopped from outside. So whoever cancels the waiting coroutine also asks the work to stop, and then the
coroutine *waits until the thread has ended*: two threads never work on the files of one model, whatever is cancelled when.

Each piece of work has a daemon thread of its own, unlike `asyncio.to_thread`, for two reasons: a pool of a few threads
would be used up by downloads that wait for a slow origin, and the interpreter joins pool threads at exit, which would let
one thread that hangs in a system call keep the process from ending. The work may be cut off at any point anyway (it must
survive `kill -9`).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_thread(work: Callable[[], T], cancel: Callable[[], None] = lambda: None) -> T:
    """The result of `work()`, run in a thread of its own.

    When the caller is cancelled, `cancel()` is called (from the event loop: it must not block) and the cancellation goes on
    once the thread has ended. A second cancellation while waiting gives the thread up.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def finish(result: T | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # None only where T allows it

    def run() -> None:
        result: T | None = None
        problem: BaseException | None = None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001  # handed over to whoever waits
            problem = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(finish, result, problem)

    threading.Thread(target=run, name=f"work-{getattr(work, '__name__', 'call')}", daemon=True).start()
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        cancel()
        await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # looked at, so that asyncio does not report it as lost
        raise
