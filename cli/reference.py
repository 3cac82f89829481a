"""Generates the reference pages of docs/ from the code: the fields of a DynamoModel, and the metrics.

`python -m cli.reference` writes them, `--check` says which ones are not current (part of `make lint`). Prose about how things
work together is written by hand, in other pages.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry

from agent.metrics import AgentMetrics, AgentState
from controller.metrics import ControllerMetrics, ControllerState
from modelcache.api.crd import PRINTER_COLUMNS, custom_resource_definition
from modelcache.api.status import NodeCounts, Status
from modelcache.generated import write_or_check
from modelcache.kube.resources import ObjectKey
from modelcache.kube.session import Call
from modelcache.metrics import ApiRequests, new_registry

TARGET = Path(__file__).parents[1] / "docs" / "reference"
_NOTE = "<!-- Generated from the code by `make docs`. Do not edit. -->\n"


class MetricRow(NamedTuple):
    """One metric as its users see it; `name` as it is queried, without the suffixes of histograms."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


def agent_registry() -> CollectorRegistry:
    """A registry in which every metric of an agent has a sample."""
    registry = new_registry("agent", "0")
    metrics = AgentMetrics(registry)
    metrics.fetched(1, 1, "hf")
    metrics.served(1)
    metrics.verified(1.0, "download")
    metrics.failed("Unreachable", permanent=False)
    metrics.failed("Unauthorized", permanent=True)
    metrics.evicted(1, "space")
    metrics.found("content")
    _exercise(ApiRequests(registry))
    metrics.state = lambda: AgentState(
        limit_bytes=1, in_use=1, heard_at=1.0, scrub_ratio=1.0, scrubbed_at=1.0, adapters=1, certificate_expires_at=1.0
    )
    return registry


def controller_registry() -> CollectorRegistry:
    """A registry in which every metric of the controller has a sample."""
    registry = new_registry("controller", "0")
    metrics = ControllerMetrics(registry)
    metrics.timed("models", _nothing)
    metrics.resolved("hf", 1.0, "Unauthorized")
    metrics.refused("unauthenticated")
    _exercise(ApiRequests(registry))
    counts = NodeCounts(wanted=1, ready=1, downloading=0, failed=0, summary="1/1")
    status = Status(ready_endpoints=0, total_endpoints=0, phase="Ready", nodes=counts, model_size_bytes=1)
    metrics.state = lambda: ControllerState(queues={"models": 0}, models={ObjectKey("default", "model"): status})
    return registry


async def _nothing(key: str) -> float | None:
    return None


def _exercise(requests: ApiRequests) -> None:
    requests.observe(Call("GET", "/api/v1/nodes", {}, None, "", 1.0, "list", "nodes"), "200", 0.1)


def metric_rows(registry: CollectorRegistry) -> list[MetricRow]:
    """Every metric of ours in a registry, by name. (Which of `process_` there are depends on the machine.)"""
    rows = []
    for family in registry.collect():
        if not family.name.startswith("modelcache_"):
            continue
        labels = dict.fromkeys(label for sample in family.samples for label in sample.labels if label != "le")
        suffix = "_total" if family.type == "counter" else ""
        rows.append(MetricRow(f"{family.name}{suffix}", family.type, tuple(labels), family.documentation))
    return sorted(rows)


def metrics_page() -> str:
    """docs/reference/metrics.md."""
    parts = [
        _NOTE,
        "# Metrics\n",
        "Both daemons serve them at `/metrics` of `--metrics-listen` (port 8080 in the manifests), in the text format of",
        "Prometheus, together with the usual `process_` metrics. `manifests/monitoring` has monitors, alerts and a dashboard;",
        "how the figures are meant, and how many series a large cluster has, is in [monitoring.md](../monitoring.md).\n",
    ]
    for title, registry in (("Agent", agent_registry()), ("Controller", controller_registry())):
        parts += [f"## {title}\n", "| metric | type | labels | meaning |", "|---|---|---|---|"]
        for row in metric_rows(registry):
            labels = ", ".join(f"`{label}`" for label in row.labels)
            parts.append(f"| `{row.name}` | {row.kind} | {labels} | {_cell(row.text)} |")
        parts.append("")
    return "\n".join(parts)


def model_page() -> str:
    """docs/reference/dynamomodel.md."""
    definition = custom_resource_definition()
    version = definition["spec"]["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]
    names = definition["spec"]["names"]
    parts = [
        _NOTE,
        f"# {names['kind']}\n",
        f"`{definition['spec']['group']}/{version['name']}`, {definition['spec']['scope']}, short name "
        f"`{names['shortNames'][0]}`. Fields in bold are required. What they mean together is in",
        "[dynamomodel.md](../dynamomodel.md).\n",
    ]
    for part in ("spec", "status"):
        parts += [f"## {part}\n", "| field | type | meaning |", "|---|---|---|"]
        parts += [f"| {name} | {kind} | {text} |" for name, kind, text in _fields(schema["properties"][part], "")]
        parts.append("")
    parts += ["## Rules over several fields of the spec\n"]
    parts += [f"- {rule['message']}" for rule in schema["properties"]["spec"].get("x-kubernetes-validations", ())]
    parts += ["", "## Columns of `kubectl get`\n", "| column | from | shown |", "|---|---|---|"]
    for column in PRINTER_COLUMNS:
        path = column["jsonPath"].replace("|", "\\|")
        parts.append(f"| {column['name']} | `{path}` | {'with `-o wide`' if column.get('priority') else 'always'} |")
    return "\n".join([*parts, ""])


def _fields(schema: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str, str]]:
    required = schema.get("required", ())
    for name, child in schema.get("properties", {}).items():
        shown = f"`{prefix}{name}`"
        yield f"**{shown}**" if name in required else shown, _kind(child), _meaning(child)
        yield from _fields(child, f"{prefix}{name}.")
        items = child.get("items")
        if isinstance(items, Mapping):
            yield from _fields(items, f"{prefix}{name}[].")


def _kind(schema: Mapping[str, Any]) -> str:
    if schema.get("x-kubernetes-int-or-string"):
        return "integer or string"
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}"
    values = schema.get("additionalProperties")
    if isinstance(values, Mapping):
        return f"map of {_kind(values)}"
    return str(schema.get("type", "any"))


def _meaning(schema: Mapping[str, Any]) -> str:
    parts = [_cell(schema.get("description", ""))]
    if "enum" in schema:
        parts.append("One of " + ", ".join(f"`{value}`" for value in schema["enum"]) + ".")
    if "default" in schema:
        parts.append(f"Default `{str(schema['default']).lower()}`." if schema["type"] == "boolean" else "")
        parts.append(f"Default `{schema['default']}`." if schema["type"] != "boolean" else "")
    limits = {"minLength": "At least {} characters.", "maxLength": "At most {} characters.", "minimum": "At least {}.",
              "maximum": "At most {}.", "maxItems": "At most {} entries.", "maxProperties": "At most {} entries."}  # fmt: skip
    parts += [text.format(schema[key]) for key, text in limits.items() if key in schema]
    if "pattern" in schema:
        parts.append("Pattern `" + schema["pattern"].replace("|", "\\|") + "`.")
    parts += [_cell(rule["message"]) for rule in schema.get("x-kubernetes-validations", ()) if "message" in rule]
    return " ".join(part for part in parts if part)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def pages() -> dict[str, str]:
    """File name -> content."""
    return {"metrics.md": metrics_page(), "dynamomodel.md": model_page()}


def main() -> int:
    """Write the pages, or with `--check` say which ones are not current."""
    return write_or_check("the reference pages of docs/", TARGET, pages, "make docs")


if __name__ == "__main__":
    sys.exit(main())
