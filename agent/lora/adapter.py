"""Whether published files are a LoRA adapter at all, and what its configuration says.

Checked before any engine is bothered: what an engine answers to a broken adapter ranges from a clear refusal to a crash. The
rules are those of the workers (Dynamo, `LoRAManager`): `adapter_config.json` and one of three weight files. Everything in the
configuration was written by whoever made the adapter, so it is read up to a limit and believed only field by field.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from modelcache.kube.errors import printable

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin", "model.lora_weights.npy")
MAX_CONFIG_BYTES = 1024 * 1024
"""Real ones have one or two kilobytes; with a list of modules for every layer of a large model some tens."""
MAX_MODULES = 64
_MAX_TEXT = 253


class InvalidAdapter(Exception):
    """The files cannot be loaded into any engine; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What adapter_config.json says: zero, empty where it does not. `target_modules` is sorted."""

    rank: int = 0
    target_modules: tuple[str, ...] = ()
    base_model: str = ""


def read_adapter(directory: Path) -> AdapterConfig:
    """Check an adapter directory. Blocks for the disk. Raises InvalidAdapter, OSError."""
    if not any((directory / name).is_file() for name in WEIGHTS):
        raise InvalidAdapter(
            f"The files have no weights of a LoRA adapter: one of {', '.join(WEIGHTS)} is needed beside {CONFIG}; "
            "check spec.source.uri."
        )
    return parse_config(_read(directory / CONFIG))


def parse_config(data: bytes) -> AdapterConfig:
    """What the content of adapter_config.json says. Raises InvalidAdapter."""
    try:
        config = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise InvalidAdapter(f"{CONFIG} is not JSON: {printable(str(error), 200)}; check the source.") from error
    if not isinstance(config, dict):
        raise InvalidAdapter(f"{CONFIG} is not a JSON object; check the source.")
    rank = config.get("r")
    return AdapterConfig(
        rank=rank if isinstance(rank, int) and not isinstance(rank, bool) and 0 < rank < 2**31 else 0,
        target_modules=_modules(config.get("target_modules")),
        base_model=_text(config.get("base_model_name_or_path")),
    )


def mismatch(config: AdapterConfig, base_model: str) -> str:
    """How the base model of an adapter differs from the one that it is meant for, as a sentence; empty when it does not.

    Training writes down where the base model was found, which may be a directory: then only its name is compared.
    """
    stated = config.base_model
    if not stated or not base_model:
        return ""
    is_path = stated.startswith(("/", ".", "~"))
    same = _last(stated) == _last(base_model) if is_path else stated.lower() == base_model.lower()
    if same:
        return ""
    return (
        f"{CONFIG} says that the adapter was made for {stated}, and spec.baseModelName is {base_model}; it is loaded all the "
        "same, and gives nonsense unless the two have the same weights."
    )


def _read(path: Path) -> bytes:
    try:
        # Published files are regular; whoever replaced one by a pipe must not keep us waiting.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise InvalidAdapter(
            f"The files have no {CONFIG}, so they are no LoRA adapter; check spec.source.uri, or set spec.modelType to base."
        ) from None
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(MAX_CONFIG_BYTES + 1)
    if len(data) > MAX_CONFIG_BYTES:
        raise InvalidAdapter(f"{CONFIG} has more than {MAX_CONFIG_BYTES} bytes; check the source.")
    return data


def _modules(value: Any) -> tuple[str, ...]:
    """PEFT allows a list of names or one expression."""
    names: Sequence[Any] = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    texts = {_text(name) for name in names[: 10 * MAX_MODULES]} - {""}
    return tuple(sorted(texts)[:MAX_MODULES])


def _text(value: Any) -> str:
    return printable(value, _MAX_TEXT) if isinstance(value, str) else ""


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].lower()
