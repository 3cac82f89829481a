"""What an engine finds at a path in its container."""

import hashlib
from pathlib import Path

import pytest

from local.workers.adapters import AdapterRefused, Mount, host_path, read_adapter
from tests.support.workers import adapter_files, write_files


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/models/a/1", "/host/a/1"),
        ("/models", "/host"),
        ("/models/", "/host"),
        ("/modelsx/a", None),
        ("/models/deep/a", "/other/a"),
        ("/models/../etc/passwd", None),
        ("models/a", None),
        ("/", None),
    ],
)
def test_a_path_is_found_through_the_deepest_mount(path: str, expected: str | None) -> None:
    mounts = [Mount("/models", "/host"), Mount("/models/deep", "/other")]
    assert host_path(path, mounts) == (Path(expected) if expected else None)


def test_a_valid_adapter_is_read(tmp_path: Path) -> None:
    write_files(tmp_path / "a", adapter_files(b"bytes", rank=4))
    files = read_adapter("/models/a", [Mount("/models", str(tmp_path))])
    assert files.sha256 == hashlib.sha256(b"bytes").hexdigest()
    assert files.rank == 4


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_without_one_of_its_two_parts_is_refused(tmp_path: Path, missing: str) -> None:
    files = adapter_files()
    del files[missing]
    write_files(tmp_path, files)
    with pytest.raises(AdapterRefused, match=missing):
        read_adapter("/models", [Mount("/models", str(tmp_path))])


def test_a_directory_that_is_not_mounted_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path, adapter_files())
    with pytest.raises(AdapterRefused, match="no such directory"):
        read_adapter(str(tmp_path), [Mount("/models", str(tmp_path))])


@pytest.mark.parametrize("name", ["adapter_model.bin", "model.lora_weights.npy"])
def test_the_other_formats_of_weights_are_accepted(tmp_path: Path, name: str) -> None:
    files = adapter_files(b"bytes")
    files[name] = files.pop("adapter_model.safetensors")
    write_files(tmp_path, files)
    assert read_adapter("/m", [Mount("/m", str(tmp_path))]).sha256 == hashlib.sha256(b"bytes").hexdigest()
