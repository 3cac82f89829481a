"""Lists as `kubectl get` prints them: meta.k8s.io/v1 Table.

The server, not kubectl, decides about columns. Built-in kinds have theirs in `table_columns`; custom resources show
their `additionalPrinterColumns`, and their age when they have none; everything else shows name and creation time.
Columns of priority 0 are always shown, others with `-o wide`.
"""

from datetime import datetime
from typing import Any

from local.kube.ages import human_age, parse_time
from local.kube.causes import go_number
from local.kube.jsonpath import JsonPathError, parse
from local.kube.resources import Resource
from local.kube.table_cells import Column, Row, metadata_text
from local.kube.table_columns import BUILTIN_TABLES

Object = dict[str, Any]

# Values of `includeObject`: what a row carries of its object.
INCLUDE_NONE, INCLUDE_METADATA, INCLUDE_OBJECT = "None", "Metadata", "Object"

_NAME = Column("Name", format="name", description=metadata_text("name"))
_DEFAULT_COLUMNS = (_NAME, Column("Created At", type="date", description=metadata_text("creationTimestamp")))
# What a CRD version without additionalPrinterColumns shows.
_AGE = {
    "name": "Age",
    "type": "date",
    "description": metadata_text("creationTimestamp"),
    "jsonPath": ".metadata.creationTimestamp",
}


def render_table(resource: Resource, objects: list[Object], include: str, now: datetime) -> Object:
    """The objects as a Table. Ages are relative to `now`; `include` is None, Metadata or Object.

    `metadata` of the Table is empty: versions and continue tokens are the caller's.
    """
    if resource.custom:
        columns = resource.printer_columns or (_AGE,)
        definitions = [_NAME.definition(), *(_custom_definition(column) for column in columns)]
        rows = [Row([obj.get("metadata", {}).get("name", ""), *_custom_cells(columns, obj, now)]) for obj in objects]
    elif (resource.group, resource.kind) in BUILTIN_TABLES:
        table = BUILTIN_TABLES[resource.group, resource.kind]
        definitions = [column.definition() for column in table.columns]
        rows = [table.row(obj, now) for obj in objects]
    else:
        definitions = [column.definition() for column in _DEFAULT_COLUMNS]
        rows = [Row(_default_cells(obj)) for obj in objects]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {},
        "columnDefinitions": definitions,
        "rows": [_row(row, obj, include) for row, obj in zip(rows, objects, strict=True)],
    }


def _row(row: Row, obj: Object, include: str) -> Object:
    entry: Object = {"cells": row.cells}
    if row.conditions:
        entry["conditions"] = row.conditions
    if include == INCLUDE_OBJECT:
        entry["object"] = obj
    elif include == INCLUDE_NONE:
        entry["object"] = None
    else:
        entry["object"] = {
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": obj.get("metadata", {}),
        }
    return entry


def _default_cells(obj: Object) -> list[Any]:
    metadata = obj.get("metadata", {})
    return [metadata.get("name", ""), metadata.get("creationTimestamp", "")]


def _custom_definition(column: Object) -> Object:
    description = column.get("description") or (
        f"Custom resource definition column (in JSONPath format): {column['jsonPath']}"
    )
    return {
        "name": column["name"],
        "type": column["type"],
        "format": column.get("format", ""),
        "description": description,
        "priority": column.get("priority", 0),
    }


def _custom_cells(columns: tuple[Object, ...], obj: Object, now: datetime) -> list[Any]:
    return [_custom_cell(column, obj, now) for column in columns]


def _custom_cell(column: Object, obj: Object, now: datetime) -> Any:
    """The first result of the column's path in the column's type; null when there is none or it does not fit."""
    try:
        found = parse(column["jsonPath"]).find(obj)
    except JsonPathError:
        return None
    if not found:
        return None
    value, kind = found[0], column["type"]
    if kind == "string":
        return go_print(value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "integer" and number:
        return int(value)
    if kind == "number" and number:
        return float(value)
    if kind == "boolean" and isinstance(value, bool):
        return value
    if kind == "date" and isinstance(value, str):
        return human_age(value, now) if parse_time(value) else "<invalid>"
    return None


def go_print(value: Any) -> str:
    """A JSON value as Go's `fmt.Print` shows it: `map[a:1 b:[x y]]`."""
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return go_number(value)
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{go_print(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(go_print(item) for item in value) + "]"
    return str(value)
