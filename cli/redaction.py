"""Takes secrets out of what is to be handed to strangers.

Two lines of defence. Where secrets are expected nothing is kept but what is known to be harmless: values of environment
variables, annotations, ConfigMaps. And every text that is kept goes through `scrub`, which knows what secrets look like. The
second one alone would not do: a password looks like nothing in particular.
"""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "***"

_OURS = "modelcache.nvidia.com/"
_HARMLESS_VARIABLES = re.compile(r"MODELCACHE_\w+|HOME|PATH|POD_IP|HF_HUB_OFFLINE|PYTHON\w+")
_HARMLESS_MAPS = frozenset({"modelcache-agent-settings", "modelcache-ca"})
"""ConfigMaps whose content is ours, and public."""
_SECRET_KEYS = re.compile(
    r"(?i)(.*[_-])?(token|password|passwd|secret|secretkey|apikey|api[_-]key|authorization|credentials?)"
)
"""Of strings in objects and of `key: value` in texts."""

_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), HIDDEN),
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]+"), rf"\1 {HIDDEN}"),
    (re.compile(r"\beyJ[\w-]{5,}\.[\w-]+(\.[\w-]*)?"), HIDDEN),
    (re.compile(r"\b(hf|nvapi|ghp|gho|github_pat|glpat|sk|xox[abp])[_-][\w-]{8,}"), HIDDEN),
    (re.compile(r"\b(AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}\b"), HIDDEN),
    (re.compile(r"(?<=://)[^/\s@\"']+@"), f"{HIDDEN}@"),
    # The names of parameters tell what went wrong, their values are signatures and tokens.
    (re.compile(r"(?<=[?&])([\w.%-]+)=[^&\s\"'#]+"), rf"\1={HIDDEN}"),
    (
        re.compile(
            r"(?i)((?:token|password|passwd|secret|api[_-]?key|authorization|credential)(?:[_-][A-Za-z0-9]+){0,6})"
            r"([\"']?\s*[:=]\s*[\"']?)(?!\*\*\*)[^\s\"',;}]+"
        ),
        rf"\1\2{HIDDEN}",
    ),
)


def scrub(text: str) -> str:
    """`text` without anything that looks like a secret."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def redacted(obj: dict[str, Any]) -> dict[str, Any]:
    """A Kubernetes object without what may be secret, and without what only takes room. A Secret keeps its name alone."""
    kind = obj.get("kind", "")
    metadata = _metadata(obj.get("metadata") or {})
    if kind == "Secret":
        return {"kind": kind, "metadata": {"name": metadata.get("name"), "namespace": metadata.get("namespace")}}
    rest = {key: value for key, value in obj.items() if key != "metadata"}
    if kind == "ConfigMap" and metadata.get("name") not in _HARMLESS_MAPS:
        rest = {"kind": kind, "keys": sorted({*(obj.get("data") or {}), *(obj.get("binaryData") or {})})}
    return {**_value(rest), "metadata": metadata}


def _metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in metadata.items() if key not in ("managedFields", "annotations")}
    annotations = metadata.get("annotations") or {}
    shown = {key: scrub(str(value)) if key.startswith(_OURS) else HIDDEN for key, value in annotations.items()}
    cleaned: dict[str, Any] = _value(kept)
    return {**cleaned, "annotations": shown} if shown else cleaned


def _value(value: Any, key: str = "") -> Any:
    if isinstance(value, str):
        return HIDDEN if value and _SECRET_KEYS.fullmatch(key) else scrub(value)
    if isinstance(value, list):
        return [_variable(item) if key == "env" else _value(item, key) for item in value]
    if isinstance(value, dict):
        # Labels may be named anything; they are no place for secrets, and are what scheduling is about.
        return {
            name: _value(item, "" if key in ("labels", "matchLabels", "nodeSelector") else name)
            for name, item in value.items()
        }
    return value


def _variable(variable: Any) -> Any:
    """An environment variable of a container."""
    if not isinstance(variable, dict) or "value" not in variable:
        return _value(variable)
    name = str(variable.get("name", ""))
    harmless = _HARMLESS_VARIABLES.fullmatch(name) and not _SECRET_KEYS.fullmatch(name)
    return {"name": name, "value": scrub(str(variable["value"])) if harmless else HIDDEN}
