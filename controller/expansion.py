"""`$(NAME)` in the sub path of a mount: what the kubelet puts there, as far as it can be told from the pod alone.

The rules are those of Kubernetes (`third_party/forked/golang/expansion`): `$(NAME)` is the value of an environment variable,
`$$` is a dollar sign, anything else stays as it is. A variable may come from a ConfigMap or a Secret, which nobody here reads:
what needs such a one cannot be told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

_REFERENCE = re.compile(r"\$(?:(\$)|\(([^)]*)\))")
_PAIR = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")

Value = str | None
"""Of an environment variable; None when it cannot be told."""


def expanded(text: str, variables: Mapping[str, Value]) -> str | None:
    """`text` with its variables in place; None when one of them cannot be told."""
    complete = True

    def put(match: re.Match[str]) -> str:
        nonlocal complete
        if match[1]:
            return "$"
        value = variables.get(match[2])
        complete = complete and value is not None
        return value or ""

    result = _REFERENCE.sub(put, text)
    return result if complete else None


def variables_of(entries: Iterable[tuple[str, str, str | None]], field: Callable[[str], Value]) -> dict[str, Value]:
    """The variables of a container by name. `entries`: name, value, and the path of the pod's field that it is taken from.

    The path is empty for a value that comes from elsewhere, None where `value` counts, which may name earlier variables.
    `field` tells the value of a field.
    """
    variables: dict[str, Value] = {}
    for name, value, path in entries:
        variables[name] = expanded(value, variables) if path is None else field(path)
    return variables


def field_of(
    path: str, fields: Mapping[str, str], labels: Mapping[str, str] | None, annotations: Mapping[str, str] | None
) -> Value:
    """What the downward API gives for a path: one of `fields`, a label or an annotation (empty when it has none)."""
    pair = _PAIR.fullmatch(path)
    if pair is None:
        return fields.get(path)
    return ((labels if pair[1] == "labels" else annotations) or {}).get(pair[2], "")
