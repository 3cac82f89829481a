"""The packages import in one direction, and nothing of this machine is in the repository."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ALLOWED = {
    "modelcache": set[str](),
    "controller": {"modelcache"},
    "agent": {"modelcache"},
    "local": {"modelcache"},
    "cli": {"modelcache", "controller", "agent", "local"},
}


def imported_packages(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_go_one_way(package: str) -> None:
    forbidden = set(ALLOWED) - ALLOWED[package] - {package} | {"tests", "benchmarks"}
    found = {
        f"{file.relative_to(ROOT)} imports {name}"
        for file in (ROOT / package).rglob("*.py")
        for name in imported_packages(file) & forbidden
    }
    assert found == set()


def test_locks_pin_every_package_with_hashes_and_name_no_index() -> None:
    for lock in (ROOT / "requirements").glob("*.lock"):
        text = lock.read_text()
        assert not re.search(r"https?://|--(extra-)?index|--find-links", text), lock.name
        entries = re.split(r"\n(?=\S)", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
        for entry in filter(None, (part.strip() for part in entries)):
            assert re.match(r"[\w.-]+==[\w.!+-]+", entry), f"{lock.name}: {entry[:60]}"
            assert "--hash=sha256:" in entry, f"{lock.name}: {entry[:60]}"


def test_files_hold_one_idea_each() -> None:
    tracked = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    long = [
        name
        for name in tracked.split()
        if "_pb2" not in name and not name.startswith("tests/") and len((ROOT / name).read_text().splitlines()) > 500
    ]
    assert long == []
