"""Whether files are an adapter: the configuration comes from anybody."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.lora.adapter import (
    CONFIG,
    MAX_CONFIG_BYTES,
    MAX_MODULES,
    WEIGHTS,
    AdapterConfig,
    InvalidAdapter,
    mismatch,
    parse_config,
    read_adapter,
)
from tests.support.workers import adapter_files, write_files


@pytest.mark.parametrize("weights", WEIGHTS)
def test_an_adapter_is_a_configuration_and_weights(tmp_path: Path, weights: str) -> None:
    files = adapter_files(rank=32)
    files[weights] = files.pop("adapter_model.safetensors")
    write_files(tmp_path, files)
    assert read_adapter(tmp_path) == AdapterConfig(32, ("q_proj", "v_proj"), "Qwen/Qwen3-0.6B")


@pytest.mark.parametrize("missing", [CONFIG, "adapter_model.safetensors"])
def test_what_is_missing_is_named(tmp_path: Path, missing: str) -> None:
    files = adapter_files()
    del files[missing]
    write_files(tmp_path, files)
    with pytest.raises(InvalidAdapter, match=missing):
        read_adapter(tmp_path)


def test_a_configuration_of_any_size_is_read_up_to_a_limit(tmp_path: Path) -> None:
    write_files(tmp_path, {**adapter_files(), CONFIG: b" " * (MAX_CONFIG_BYTES + 1)})
    with pytest.raises(InvalidAdapter, match="more than"):
        read_adapter(tmp_path)


def test_a_configuration_that_is_no_regular_file_keeps_nobody_waiting(tmp_path: Path) -> None:
    write_files(tmp_path, adapter_files())
    (tmp_path / CONFIG).unlink()
    os.mkfifo(tmp_path / CONFIG)
    with pytest.raises(InvalidAdapter, match="not JSON"):
        read_adapter(tmp_path)
    (tmp_path / CONFIG).unlink()
    (tmp_path / CONFIG).symlink_to("/etc/hostname")
    with pytest.raises(OSError, match="symbolic"):
        read_adapter(tmp_path)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"3", b'"text"', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidAdapter):
        parse_config(data)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(json_values, json_values, json_values)
def test_any_field_may_be_anything(rank: Any, modules: Any, base: Any) -> None:
    data = json.dumps({"r": rank, "target_modules": modules, "base_model_name_or_path": base}).encode()
    config = parse_config(data)
    assert 0 <= config.rank < 2**31
    assert len(config.target_modules) <= MAX_MODULES
    assert all(text.isprintable() and len(text) <= 253 for text in (*config.target_modules, config.base_model))
    mismatch(config, "Qwen/Qwen3-0.6B")


def test_an_expression_for_the_modules_is_one_entry() -> None:
    assert parse_config(b'{"target_modules": "all-linear"}').target_modules == ("all-linear",)


@pytest.mark.parametrize(
    ("stated", "wanted", "same"),
    [
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B", True),
        ("qwen/qwen3-0.6b", "Qwen/Qwen3-0.6B", True),
        ("/data/models/Qwen3-0.6B/", "Qwen/Qwen3-0.6B", True),
        ("/data/models/Llama", "Qwen/Qwen3-0.6B", False),
        ("unsloth/Qwen3-0.6B", "Qwen/Qwen3-0.6B", False),
        ("", "Qwen/Qwen3-0.6B", True),
        ("Qwen/Qwen3-0.6B", "", True),
    ],
)
def test_another_base_model_is_noticed(stated: str, wanted: str, same: bool) -> None:
    assert (mismatch(AdapterConfig(base_model=stated), wanted) == "") is same
