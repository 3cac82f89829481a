"""`python -m local.hub` as users start it, and the unmodified `hf` command against it."""

import hashlib
import http.client
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.hub import MINILM, ask
from tests.support.process import Process, python_module
from tests.support.waiting import PATIENCE

Command = Callable[..., tuple[Process, str]]
Hf = Callable[..., Process]


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and ".cache" not in path.relative_to(root).parts
    }


def test_hf_download_of_a_real_model(command: Command, hf: Hf, minilm: Path, tmp_path: Path) -> None:
    _, url = command(f"{MINILM}={minilm}")
    done = hf(url, "download", MINILM, "--local-dir", str(tmp_path / "out"))
    assert done.returncode == 0, done.logs()
    assert digests(tmp_path / "out") == digests(minilm)
    stats = ask(f"{url}/_stats").json()
    # What the hub published when the model was uploaded: the file in the package is the real one.
    listed = ask(f"{url}/api/models/{MINILM}/tree/main").json()
    weights = next(entry for entry in listed if entry["path"] == "model.safetensors")
    assert weights["lfs"]["oid"] == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    # Each file was sent once, the large one by the CDN, and nobody sent it a token.
    assert stats["file_bytes"] == sum(path.stat().st_size for path in minilm.rglob("*") if path.is_file())
    assert stats["requests"]["cdn"] == 1
    assert stats["tokens_on_cdn"] == 0
    verified = hf(url, "cache", "verify", MINILM, "--local-dir", str(tmp_path / "out"))
    assert verified.returncode == 0, verified.logs()


def test_hf_download_with_a_token_sends_it_to_the_hub_only(command: Command, hf: Hf, tmp_path: Path) -> None:
    (tmp_path / "root/org/gated").mkdir(parents=True)
    (tmp_path / "root/org/gated/model.safetensors").write_bytes(b"weights")
    (tmp_path / "root/org/gated/config.json").write_bytes(b"{}")
    (tmp_path / "root/org/gated.hub.json").write_text('{"gated": "auto", "tokens": ["hf_good"]}')
    _, url = command(tmp_path / "root", "--token", "hf_other=bob")

    refused = hf(url, "download", "org/gated", HF_TOKEN="hf_other")
    assert refused.returncode != 0
    anonymous = hf(url, "download", "org/gated")
    assert anonymous.returncode != 0
    assert ask(f"{url}/_stats").json()["file_bytes"] == 0

    done = hf(url, "download", "org/gated", "--local-dir", str(tmp_path / "out"), HF_TOKEN="hf_good")
    assert done.returncode == 0, done.logs()
    assert (tmp_path / "out/model.safetensors").read_bytes() == b"weights"
    stats = ask(f"{url}/_stats").json()
    assert stats["requests"]["cdn"] == 1
    assert stats["tokens_on_cdn"] == 0
    who = hf(url, "auth", "whoami", HF_TOKEN="hf_other")
    assert "bob" in "\n".join(who.stdout.so_far()), who.logs()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_at_a_signal_though_clients_are_connected(
    command: Command, tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "org/name").mkdir(parents=True)
    (tmp_path / "org/name/a.txt").write_bytes(b"0123456789")
    process, url = command(tmp_path)
    ask(f"{url}/_faults", "POST", body={"kind": "stall", "after": 5})
    stalled = http.client.HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE)
    stalled.request("GET", "/org/name/resolve/main/a.txt")
    assert stalled.getresponse().read(5) == b"01234"
    os.kill(process.pid, number)
    assert process.wait() == 0
    stalled.close()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["/nowhere/at/all"], "/nowhere/at/all"),
        (["name=/"], "organization/name"),
        (["--port", "99999", "/"], "port"),
        (["--rate-limit", "0", "/"], "above 0"),
        ([], "DIR_OR_REPOSITORY"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], says: str) -> None:
    with python_module("local.hub", *arguments) as process:
        assert process.wait() == 2
        assert any(says in line for line in process.stderr.so_far()), process.logs()


def test_a_port_in_use_is_named(command: Command, tmp_path: Path) -> None:
    _, url = command(tmp_path)
    port = url.rpartition(":")[2]
    with python_module("local.hub", "--port", port, tmp_path) as process:
        assert process.wait() == 2
        assert port in process.stderr.so_far()[-1]


def test_control_addresses(command: Command, tmp_path: Path) -> None:
    for branch in ("name", "name@next"):
        (tmp_path / "org" / branch).mkdir(parents=True)
        (tmp_path / "org" / branch / "a.txt").write_text(branch)
    _, url = command(tmp_path)
    file = f"{url}/org/name/resolve/main/a.txt"

    assert ask(file).body == b"name"
    moved = ask(f"{url}/_refs", "POST", body={"repository": "org/name", "branch": "main", "revision": "next"})
    assert ask(file).body == b"name@next"
    assert moved.json() == {"commit": ask(file, "HEAD").headers["x-repo-commit"]}
    tagged = ask(f"{url}/_refs", "POST", body={"repository": "org/name", "tag": "v1", "revision": "next"})
    assert ask(f"{url}/api/models/org/name/revision/v1").json()["sha"] == tagged.json()["commit"]

    assert ask(f"{url}/_stats").json()["files"]["org/name/a.txt"] == {"requests": 2, "bytes": 13}
    ask(f"{url}/_stats", "DELETE")
    assert ask(f"{url}/_stats").json()["file_bytes"] == 0

    fault = ask(f"{url}/_faults", "POST", body={"kind": "status", "status": 500}).json()["id"]
    assert ask(file).status == 500
    assert ask(f"{url}/_faults").json()[0]["applied"] == 1
    assert ask(f"{url}/_faults/{fault}", "DELETE").status == 200
    assert ask(f"{url}/_faults/{fault}", "DELETE").status == 404
    assert ask(file).status == 200
    ask(f"{url}/_faults", "POST", body={"kind": "status", "status": 500})
    ask(f"{url}/_faults", "DELETE")
    assert ask(file).status == 200

    assert ask(f"{url}/_limits", "POST", body={"bytes_per_second": 1e9}).status == 200


@pytest.mark.parametrize(
    ("address", "body", "status"),
    [
        ("_faults", {"kind": "nonsense"}, 400),
        ("_limits", {"bytes_per_second": 0}, 400),
        ("_refs", {"repository": "org/none", "revision": "x"}, 404),
        ("_refs", {"repository": "org/name", "revision": "nope"}, 404),
        ("_refs", {}, 400),
        ("_nothing", {}, 404),
    ],
)
def test_wrong_control_requests_are_refused(
    command: Command, tmp_path: Path, address: str, body: object, status: int
) -> None:
    (tmp_path / "org/name").mkdir(parents=True)
    _, url = command(tmp_path)
    answer = ask(f"{url}/{address}", "POST", body=body)
    assert answer.status == status
    assert answer.json()["error"]
