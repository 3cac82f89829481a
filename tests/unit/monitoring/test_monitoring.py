"""Alerts, dashboard and exposition: judged by promtool, and compared with the metrics that there are."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from cli.reference import agent_registry, controller_registry, metric_rows
from tests.support.manifests import MANIFESTS, ROOT, find, render
from tests.support.prometheus import promtool

RULES: list[dict[str, Any]] = find(render("monitoring"), "PrometheusRule", "modelcache")["spec"]["groups"][0]["rules"]
DASHBOARD: dict[str, Any] = json.loads((MANIFESTS / "monitoring" / "dashboard.json").read_text())
REGISTRIES = {"agent": agent_registry, "controller": controller_registry}

KNOWN_TARGET_LABELS = {"job", "instance", "le"}


def expressions() -> list[str]:
    targets = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    return [rule["expr"] for rule in RULES] + targets


@cache
def series() -> dict[str, set[str]]:
    """Name of every series -> its labels."""
    found: dict[str, set[str]] = {"up": set()}
    for registry in (agent_registry(), controller_registry()):
        for row in metric_rows(registry):
            suffixes = ("_bucket", "_sum", "_count") if row.kind == "histogram" else ("",)
            for suffix in suffixes:
                found.setdefault(row.name + suffix, set()).update(row.labels)
    return found


@pytest.mark.parametrize("side", REGISTRIES)
def test_promtool_likes_the_exposition(side: str) -> None:
    registry: CollectorRegistry = REGISTRIES[side]()
    assert promtool("check", "metrics", input=generate_latest(registry).decode()) == ""


def test_promtool_likes_the_alerts(tmp_path: Path) -> None:
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "modelcache", "rules": RULES}]}))
    assert f"{len(RULES)} rules found" in promtool("check", "rules", "--lint=all", "--lint-fatal", str(file))


@pytest.mark.parametrize("expression", expressions())
def test_expressions_name_metrics_and_labels_that_exist(expression: str) -> None:
    known = series()
    names = set(re.findall(r"\b(?:modelcache_\w+|up)\b(?=[\s{\[)]|$)", expression))
    assert names, expression
    assert names <= known.keys()
    labels = set.union(*(known[name] for name in names)) | KNOWN_TARGET_LABELS
    for group in re.findall(r"\{([^}]*)\}", expression):
        assert {re.split("[=!]", part)[0].strip() for part in group.split(",")} <= labels
    for group in re.findall(r"(?:by|ignoring) \(([^)]*)\)", expression):
        assert {part.strip() for part in group.split(",")} <= labels


def test_texts_of_alerts_use_labels_that_their_expression_keeps() -> None:
    known = series()
    for rule in RULES:
        names = set(re.findall(r"\b(?:modelcache_\w+|up)\b(?=[\s{\[)]|$)", rule["expr"]))
        kept = set.union(*(known[name] for name in names)) | {"job", "instance"}
        grouped = re.search(r"^sum by \(([^)]*)\)", rule["expr"])
        if grouped:
            kept = {part.strip() for part in grouped[1].split(",")}
        for text in rule["annotations"].values():
            assert set(re.findall(r"\$labels\.(\w+)", text)) <= kept, rule["alert"]


def test_every_alert_has_a_page_and_every_page_an_alert() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "runbooks").glob("*.md")} - {"README"}
    assert {rule["alert"] for rule in RULES} == pages
    for rule in RULES:
        page = (ROOT / rule["annotations"]["runbook"]).read_text()
        assert page.startswith(f"# {rule['alert']}\n")
        assert all(word in page for word in ("**Means.**", "**Impact.**", "**Do.**"))
        assert rule["labels"]["severity"] in ("critical", "warning", "info")


def test_panels_have_a_title_a_place_and_a_question() -> None:
    places = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert panel["title"]
        assert place["x"] + place["w"] <= 24
        places.add((place["x"], place["y"]))
        assert panel["type"] == "row" or panel["targets"]
    assert len(places) == len(DASHBOARD["panels"])
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


MODEL = '{model_namespace="team", model="llama", state="%s"}'
CASES: list[dict[str, Any]] = [
    {"alert": "ModelcacheNoLeader", "series": {'modelcache_leader{instance="a"}': "0x20"}, "at": "5m", "fires": True},
    {"alert": "ModelcacheNoLeader", "series": {}, "at": "5m", "fires": True},
    {
        "alert": "ModelcacheNoLeader",
        "series": {'modelcache_leader{instance="a"}': "0x20", 'modelcache_leader{instance="b"}': "1x20"},
        "at": "5m",
        "fires": False,
    },
    {
        "alert": "ModelcacheTwoLeaders",
        "series": {'modelcache_leader{instance="a"}': "1x20", 'modelcache_leader{instance="b"}': "1x20"},
        "at": "5m",
        "fires": True,
    },
    {
        "alert": "ModelcacheModelNotReady",
        "series": {
            "modelcache_model_nodes" + MODEL % "wanted": "4x200",
            "modelcache_model_nodes" + MODEL % "ready": "3x200",
        },
        "at": "2h30m",
        "fires": True,
    },
    {
        "alert": "ModelcacheModelNotReady",
        "series": {
            "modelcache_model_nodes" + MODEL % "wanted": "4x200",
            "modelcache_model_nodes" + MODEL % "ready": "4x200",
        },
        "at": "2h30m",
        "fires": False,
    },
    {
        "alert": "ModelcacheDiskAlmostFull",
        "series": {"modelcache_cache_filesystem_bytes": "100x60", "modelcache_cache_filesystem_free_bytes": "4x60"},
        "at": "30m",
        "fires": True,
    },
    {
        "alert": "ModelcacheCorruption",
        "series": {'modelcache_scrub_findings_total{kind="content"}': "0x10 1x50"},
        "at": "15m",
        "fires": True,
    },
    {
        "alert": "ModelcacheSourceRefuses",
        "series": {'modelcache_resolve_failures_total{reason="Unreachable"}': "0+1x120"},
        "at": "1h30m",
        "fires": False,
    },
    {
        "alert": "ModelcacheSourceRefuses",
        "series": {'modelcache_resolve_failures_total{reason="Unauthorized"}': "0+1x120"},
        "at": "1h30m",
        "fires": True,
    },
]


def test_alerts_fire_when_they_should_and_only_then(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "modelcache", "rules": RULES}]}))
    cases = []
    for case in CASES:
        # promtool compares labels and annotations exactly; that it fires at all is asked by a query on ALERTS.
        firing = f'count(ALERTS{{alertname="{case["alert"]}", alertstate="firing"}}) or vector(0)'
        expected = {"labels": "{}", "value": 1 if case["fires"] else 0}
        cases.append(
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in case["series"].items()],
                "promql_expr_test": [{"expr": firing, "eval_time": case["at"], "exp_samples": [expected]}],
            }
        )
    text = yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": cases})
    (tmp_path / "test.yml").write_text(text)
    assert "SUCCESS" in promtool("test", "rules", "test.yml", cwd=tmp_path)
