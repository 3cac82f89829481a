"""`ast.parse` without the garbage collector, for CPython before 3.11.8.

There, the depth of recursion in `ast.parse` is counted in one place for the whole interpreter (gh-106905). When the collector
runs meanwhile and a finalizer parses as well, or another thread does, the outer call fails with "SystemError: AST constructor
recursion depth mismatch". Finalizers do: asyncio and logging print a traceback for an exception that nobody retrieved, and
`traceback` parses the line to underline a part of it. pytest and Hypothesis parse all the time, so any test could fail for what
an earlier one had left behind.
"""

import ast
import functools
import gc
import sys
import threading
from typing import Any

BROKEN = sys.version_info < (3, 11, 8)
"""Whether this interpreter counts so."""


def parse_undisturbed() -> None:
    """Replace `ast.parse` where it needs it; harmless when called again.

    Without the collector nothing of Python runs in the part that counts, so no other thread does either.
    """
    if not BROKEN or hasattr(ast.parse, "__wrapped__"):
        return
    parse = ast.parse
    lock = threading.RLock()

    @functools.wraps(parse)
    def undisturbed(*arguments: Any, **options: Any) -> Any:
        with lock:
            collects = gc.isenabled()
            gc.disable()
            try:
                return parse(*arguments, **options)
            finally:
                if collects:
                    gc.enable()

    ast.parse = undisturbed
