"""What an engine finds at a path in its container: the same files that the host has, seen through the pod's mounts.

An adapter directory is valid with `adapter_config.json` and one of three weight files (Dynamo, `LoRAManager`); what else is
wrong with it, a real engine would find out on the GPU.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin", "model.lora_weights.npy")


class AdapterRefused(Exception):
    """There is no adapter at the path that the engine was told. The message is for the engine's answer."""


class Mount(NamedTuple):
    """A directory of the host at an absolute path in the container."""

    mount_path: str
    host_path: str


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """An adapter that was read. `sha256` is that of the weights, so that anybody can tell which version was loaded."""

    sha256: str
    rank: int | None


def host_path(path: str, mounts: Sequence[Mount]) -> Path | None:
    """Where on the host a path of the container lies; None for what no mount covers. The deepest mount counts."""
    wanted = PurePosixPath(path)
    if not wanted.is_absolute() or ".." in wanted.parts:
        return None
    covering = [mount for mount in mounts if wanted.is_relative_to(mount.mount_path)]
    if not covering:
        return None
    deepest = max(covering, key=lambda mount: len(PurePosixPath(mount.mount_path).parts))
    return Path(deepest.host_path) / wanted.relative_to(deepest.mount_path)


def read_adapter(path: str, mounts: Sequence[Mount]) -> AdapterFiles:
    """Read the adapter at a path of the container. Blocks for the disk. Raises AdapterRefused."""
    directory = host_path(path, mounts)
    if directory is None or not directory.is_dir():
        raise AdapterRefused(f"No adapter found for {path}: there is no such directory in the container")
    weights = next((directory / name for name in WEIGHTS if (directory / name).is_file()), None)
    try:
        config = json.loads((directory / CONFIG).read_bytes())
        if weights is None:
            raise AdapterRefused(f"{path} has none of {', '.join(WEIGHTS)}")
        with weights.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AdapterRefused(f"{path}: {error.strerror}: {Path(error.filename or path).name}") from error
    except ValueError as error:
        raise AdapterRefused(f"{path}/{CONFIG} is not JSON: {error}") from error
    rank = config.get("r") if isinstance(config, dict) else None
    return AdapterFiles(sha256=digest, rank=rank if isinstance(rank, int) else None)
