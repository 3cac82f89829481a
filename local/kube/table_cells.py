"""The parts that tables are made of: columns, rows, and the texts that several kinds share.

Nothing here trusts an object: any field may be missing or of another type.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from local.kube.ages import human_age
from local.kube.object_meta import OBJECT_META

Object = dict[str, Any]

NONE, UNKNOWN, UNSET = "<none>", "<unknown>", "<unset>"


def metadata_text(name: str) -> str:
    """The description of a field of ObjectMeta."""
    return str(OBJECT_META["properties"][name]["description"])


@dataclass(frozen=True)
class Column:
    """One column; `priority` 1 is shown with `-o wide` only."""

    name: str
    type: str = "string"
    format: str = ""
    priority: int = 0
    description: str = ""

    def definition(self) -> Object:
        """As a TableColumnDefinition."""
        return {
            "name": self.name,
            "type": self.type,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        }


@dataclass(frozen=True)
class Row:
    """The cells of one object, and the row's conditions (only completed pods have one)."""

    cells: list[Any]
    conditions: list[Object] = field(default_factory=list)


@dataclass(frozen=True)
class BuiltinTable:
    """The table of one kind."""

    columns: tuple[Column, ...]
    row: Callable[[Object, datetime], Row]


def columns(*names: str) -> tuple[Column, ...]:
    """`Name` as the object's name, `Age` with its text, `*X` for wide only, `#X` for an integer."""
    found = []
    for name in names:
        wide, integer = "*" in name, "#" in name
        bare = name.strip("*#")
        text = {"Name": metadata_text("name"), "Age": metadata_text("creationTimestamp")}.get(bare, f"{bare}.")
        found.append(
            Column(
                bare,
                type="integer" if integer else "string",
                format="name" if bare == "Name" else "",
                priority=int(wide),
                description=text,
            )
        )
    return tuple(found)


def dig(obj: Any, *path: str) -> Any:
    """The value below a path of keys, or None."""
    for key in path:
        obj = obj.get(key) if isinstance(obj, dict) else None
    return obj


def list_at(obj: Any, *path: str) -> list[Any]:
    """The list below a path, or an empty one."""
    found = dig(obj, *path)
    return found if isinstance(found, list) else []


def map_at(obj: Any, *path: str) -> Object:
    """The object below a path, or an empty one."""
    found = dig(obj, *path)
    return found if isinstance(found, dict) else {}


def name_of(obj: Object) -> str:
    """The name of an object."""
    return str(dig(obj, "metadata", "name") or "")


def age_of(obj: Object, now: datetime) -> str:
    """The age of an object."""
    return human_age(dig(obj, "metadata", "creationTimestamp"), now)


def labels_text(labels: Object) -> str:
    """Labels in the syntax of `-l`."""
    return ",".join(f"{key}={labels[key]}" for key in sorted(labels)) or NONE


def selector_text(selector: Object) -> str:
    """A LabelSelector in the syntax of `-l`."""
    parts = [f"{key}={value}" for key, value in sorted(map_at(selector, "matchLabels").items())]
    for item in list_at(selector, "matchExpressions"):
        values = ",".join(sorted(list_at(item, "values")))
        key = item.get("key", "")
        sign = item.get("operator")
        if sign in ("In", "NotIn"):
            parts.append(f"{key} {sign.lower()} ({values})")
        else:
            parts.append(key if sign == "Exists" else f"!{key}")
    return ",".join(parts) or NONE


def container_columns(spec: Object) -> tuple[str, str]:
    """Names and images of the containers of a pod spec."""
    containers = list_at(spec, "containers")
    names = ",".join(str(item.get("name", "")) for item in containers)
    return names, ",".join(str(item.get("image", "")) for item in containers)
