"""Parsing in a test process, while the garbage collector finds what parses as well."""

import ast
import gc
import subprocess
import sys

import pytest

from tests.support.parsing import BROKEN
from tests.support.process import REPOSITORY

SOURCE = "\n".join(f"x{number} = [1, (2, 3), f(a, b=c)]" for number in range(300))


class Leaked:
    """Garbage that parses when it is found, deeper in the stack, as the traceback of a lost task does."""

    def __init__(self) -> None:
        self.myself = self

    def __del__(self) -> None:
        self.parse(10)

    def parse(self, depth: int) -> None:
        if depth:
            self.parse(depth - 1)
        else:
            ast.parse("f(x)")


def parse_amid_garbage() -> None:
    before = gc.get_threshold()
    gc.set_threshold(50)
    try:
        for _ in range(20):
            Leaked()
            ast.parse(SOURCE)
    finally:
        gc.set_threshold(*before)


def test_what_the_collector_finds_does_not_break_the_parser() -> None:
    parse_amid_garbage()
    assert gc.isenabled()


@pytest.mark.skipif(not BROKEN, reason="this interpreter has no such fault")
def test_without_it_the_parser_breaks() -> None:
    program = "from tests.unit.support.test_parsing import parse_amid_garbage; parse_amid_garbage()"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert "recursion depth mismatch" in done.stderr
