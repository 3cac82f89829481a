"""Files that are generated from the code and committed: written, or with `--check` compared with what they should be."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path


def write_or_check(what: str, target: Path, generate: Callable[[], Mapping[str, str]], remedy: str) -> int:
    """The command of a generator. `what` it generates, in `target`; `generate` gives content by file name.

    Returns the exit code: 1 when `--check` finds files that are not current; then standard error names them and the `remedy`.
    """
    parser = argparse.ArgumentParser(description=f"Generate {what}.")
    parser.add_argument("--check", action="store_true", help="fail when the committed files are not current")
    check = parser.parse_args().check
    target.mkdir(exist_ok=True)
    stale = []
    for name, content in generate().items():
        path = target / name
        if path.exists() and path.read_text() == content:
            continue
        if check:
            stale.append(name)
        else:
            path.write_text(content)
    if stale:
        sys.stderr.write(f"{', '.join(stale)}: not what would be generated now; run `{remedy}`\n")
    return 1 if stale else 0
