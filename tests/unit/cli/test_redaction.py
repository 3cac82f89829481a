"""What is taken out of reports, and what has to stay readable in them."""

import json
from typing import Any

import pytest

from cli.redaction import redacted, scrub

CANARY = "cAnArY0123456789xyz"


@pytest.mark.parametrize(
    "text",
    [
        f"https://user:{CANARY}@host/path",
        f"https://host/file?X-Amz-Signature={CANARY}&X-Amz-Date=20260101",
        f"GET /a?token={CANARY} HTTP/1.1",
        f"Authorization: Bearer {CANARY}",
        f"authorization: Basic {CANARY}==",
        f'{{"token": "{CANARY}"}}',
        f"password={CANARY}",
        f"AWS_SECRET_ACCESS_KEY='{CANARY}'",
        f"api_key: {CANARY}",
        f"HF_TOKEN={CANARY}",
        f"hf_{CANARY}",
        f"eyJhbGciOi.{CANARY}.sig",
        f"-----BEGIN EC PRIVATE KEY-----\n{CANARY}\n-----END EC PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{CANARY}",
    ],
)
def test_what_looks_like_a_secret_goes(text: str) -> None:
    assert CANARY not in scrub(f"before {text} after")


@pytest.mark.parametrize(
    "text",
    [
        "team/llama: Resolved: 8a4556b53a7d81d7e07db15eafb5af5dcd321b33, 42 files",
        "https://huggingface.co/org/name/resolve/main/model-00001-of-00002.safetensors",
        "spec.source.secretRef names the Secret team/hf, which does not exist",
        'modelcache_fetched_bytes_total{via="origin",scheme="hf"} 3e+06',
        "node-1: no new certificate, next try in 3.0 s",
        "hf://meta-llama/Llama-3.3-70B-Instruct@8a4556b",
    ],
)
def test_the_rest_stays_readable(text: str) -> None:
    assert scrub(text) == text


def test_values_of_variables_stay_only_where_they_are_ours() -> None:
    container = {
        "name": "agent",
        "image": "registry/agent:1",
        "env": [
            {"name": "MODELCACHE_ROOT", "value": "/mnt/nvme"},
            {"name": "HTTPS_PROXY", "value": f"http://u:{CANARY}@proxy"},
            {"name": "ANYTHING", "value": CANARY},
            {"name": "MODELCACHE_TOKEN", "value": CANARY},
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
    }
    shown = redacted({"kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [container]}})
    assert CANARY not in json.dumps(shown)
    env = shown["spec"]["containers"][0]["env"]
    assert env[0]["value"] == "/mnt/nvme"
    assert env[4] == container["env"][4]


@pytest.mark.parametrize(
    "obj",
    [
        {"kind": "Secret", "metadata": {"name": "s"}, "data": {"token": CANARY}, "stringData": {"a": CANARY}},
        {"kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": CANARY}, "binaryData": {"b": CANARY}},
        {"kind": "Pod", "metadata": {"name": "p", "annotations": {"kubectl.kubernetes.io/last-applied": CANARY}}},
        {"kind": "Pod", "metadata": {"name": "p", "managedFields": [{"manager": CANARY}]}},
        {"kind": "X", "metadata": {"name": "p"}, "spec": {"deep": [{"password": CANARY}]}},
        {"kind": "X", "metadata": {"name": "p"}, "spec": {"deep": [f"https://a:{CANARY}@b"]}},
    ],
)
def test_objects_lose_what_may_be_secret(obj: dict[str, Any]) -> None:
    assert CANARY not in json.dumps(redacted(obj))


def test_labels_and_our_own_settings_stay() -> None:
    labels = {"modelcache.nvidia.com/team.llama": "Ready", "token": "yes"}
    assert redacted({"kind": "Node", "metadata": {"name": "n", "labels": labels}})["metadata"]["labels"] == labels
    settings = {"kind": "ConfigMap", "metadata": {"name": "modelcache-agent-settings"}, "data": {"cacheRoot": "/x"}}
    assert redacted(settings)["data"] == {"cacheRoot": "/x"}
