"""Generates the gRPC stubs from `proto/`: `python -m modelcache.rpc.generate [--check]`.

The stubs are committed, so that an installation needs no compiler; `--check` fails when they are not what the protocol
definition gives. protoc writes absolute imports from the root of the proto tree (`from modelcache.v1 import ...`), which
would collide with our own package: they are rewritten to where the stubs live.
"""

from __future__ import annotations

import re
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

from modelcache.generated import write_or_check

_ROOT = Path(__file__).resolve().parents[2]
_TARGET = Path(__file__).resolve().parent
_PROTO = _ROOT / "proto"


def generate() -> dict[str, str]:
    """File name -> content of every generated module. Raises RuntimeError when protoc refuses a definition."""
    sources = sorted(str(path.relative_to(_PROTO)) for path in _PROTO.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as output:
        arguments = [
            "protoc",
            f"-I{_PROTO}",
            f"-I{resources.files('grpc_tools') / '_proto'}",
            f"--plugin=protoc-gen-mypy={Path(sys.executable).parent / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={Path(sys.executable).parent / 'protoc-gen-mypy_grpc'}",
            f"--python_out={output}",
            f"--grpc_python_out={output}",
            f"--mypy_out=quiet:{output}",
            f"--mypy_grpc_out=quiet:{output}",
            *sources,
        ]
        if protoc.main(arguments) != 0:
            raise RuntimeError(f"protoc failed for {', '.join(sources)}; its messages are above")
        return {path.name: _relocated(path.read_text()) for path in Path(output).rglob("*.py*")}


def _relocated(source: str) -> str:
    source = re.sub(r"^from modelcache\.v1 import", "from modelcache.rpc import", source, flags=re.MULTILINE)
    source = re.sub(r"^import modelcache\.v1\.", "import modelcache.rpc.", source, flags=re.MULTILINE)
    return re.sub(r"\bmodelcache\.v1\.(\w+_pb2)", r"modelcache.rpc.\1", source)


def main() -> int:
    """Writes the stubs, or with `--check` says which ones are not current."""
    return write_or_check("the gRPC stubs", _TARGET, generate, "make proto")


if __name__ == "__main__":
    sys.exit(main())
