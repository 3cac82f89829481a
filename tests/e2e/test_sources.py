"""Every kind of source: put there by its own tools, ready on three nodes byte by byte, refused when it was changed."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.api import Api
from tests.support.cluster import CacheCluster, HubProcess, Model, tree_of
from tests.support.nginx import AUTHORITY, Nginx, nginx
from tests.support.olah import Olah, olah
from tests.support.s3 import REGION, S3, nanio
from tests.support.waiting import PATIENCE

pytestmark = [pytest.mark.e2e, pytest.mark.conformance]

CANARY = secrets.token_hex(20)
FILES = {
    "config.json": b"{}",
    "empty": b"",
    "sub dir/ünï.txt": b"x" * 1000,
    "model.safetensors": os.urandom(3_000_000),
}
MIRRORED = {**FILES, "more.safetensors": os.urandom(20_000_000)}
"""Several pieces, from a mirror that does not know ranges."""
TRUST = {"ca.crt": AUTHORITY.read_text()}
"""Without it nothing trusts the web server."""
NOWHERE = {"nodeLocal": {"nodeSelector": {"nobody": "has-it"}}}
EVERYWHERE = {"nodeLocal": {"nodeSelector": {"nobody": None}}}


def write(directory: Path) -> Path:
    """FILES, of which the large one is another in each directory: content that is on a node already is not read again."""
    for path, content in {**FILES, "model.safetensors": str(directory).encode() + FILES["model.safetensors"]}.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)
    return directory


def flip(path: Path) -> None:
    """Change one byte, at a later second: nginx makes its ETag of second and size, and cannot tell versions of one second."""
    changed = path.stat().st_mtime + 60
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, (changed, changed))


def summed(folder: Path) -> Path:
    """`folder`, with what the real sha256sum says about it."""
    paths = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
    sums = subprocess.run(["sha256sum", *paths], cwd=folder, capture_output=True, check=True).stdout
    (folder / "SHA256SUMS").write_bytes(sums)
    return folder


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """A directory that is on every node, as a mounted share is."""
    summed(write(tmp_path / "share" / "summed"))
    return write(tmp_path / "share" / "llama").parent


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Olah]:
    with olah(tmp_path / "olah") as server:
        server.commit("org/llama", MIRRORED)
        yield server


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Nginx]:
    with nginx(tmp_path / "web", CANARY) as server:
        summed(write(server.root / "llama"))
        yield server


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3]:
    with nanio(tmp_path / "nanio") as server:
        server.s5cmd("mb", "s3://models")
        server.s5cmd("cp", f"{write(tmp_path / 'upload')}/", "s3://models/llama/")
        server.s5cmd("cp", f"{write(tmp_path / 'ambient')}/", "s3://models/ambient/")
        server.s5cmd("cp", str(tmp_path / "upload" / "config.json"), "s3://models/llama-2/")
        yield server


@pytest.fixture
def cluster(
    installed: None, api: Api, kubeconfig: Path, tmp_path: Path, hub: HubProcess, s3: S3, share: Path,
    mirror: Olah, namespace: str, request: pytest.FixtureRequest,
) -> Iterator[CacheCluster]:  # fmt: skip
    """Three nodes that have the share, and one claim of the namespace mounted; their hub is the mirror.

    The daemons have an identity of their own for S3, in a profile.
    """
    claims = tmp_path / "claims"
    write(claims / namespace / "weights" / "llama")
    write(claims / "another-tenant" / "secret")
    profile = tmp_path / "profile"
    profile.write_text(f"[own]\naws_access_key_id = {s3.key_id}\naws_secret_access_key = {s3.secret}\n")
    environment = {"HF_ENDPOINT": mirror.url, "AWS_ENDPOINT_URL": s3.url, "AWS_REGION": REGION,
                   "AWS_SHARED_CREDENTIALS_FILE": str(profile), "AWS_PROFILE": "own",
                   "MODELCACHE_FILE_ROOTS": str(share), "MODELCACHE_CLAIMS": str(claims)}  # fmt: skip
    running = CacheCluster(api, kubeconfig, tmp_path / "nodes", hub, environment=environment)
    running.start()
    yield running
    request.node.add_report_section("teardown", "cluster logs", running.all_logs()[-20000:])
    running.close()


def secret(api: Api, namespace: str, name: str, values: dict[str, str]) -> dict[str, dict[str, str]]:
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values}
    api.post(f"/api/v1/namespaces/{namespace}/secrets", body).expect(201)
    return {"secretRef": {"name": name}}


def test_each_source_is_ready_on_three_nodes_and_its_credential_nowhere(
    cluster: CacheCluster, api: Api, namespace: str, model: Callable[[str], Model], s3: S3, web: Nginx, share: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    keys = secret(api, namespace, "s3-keys", s3.secret_values)
    token = secret(api, namespace, "web-token", {"token": CANARY, **TRUST})
    login = secret(api, namespace, "web-login", {"username": "models", "password": CANARY, **TRUST})
    uploaded = tree_of(tmp_path / "upload")
    with_sums = tree_of(web.root / "llama")
    mirrored = {path: hashlib.sha256(content).hexdigest() for path, content in MIRRORED.items()}
    mirrored[".gitattributes"] = hashlib.sha256(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n").hexdigest()
    wanted = {
        "hub": ("hf://org/llama", {}, mirrored),
        "s3": ("s3://models/llama", keys, uploaded),
        "s3-ambient": ("s3://models/ambient", {}, tree_of(tmp_path / "ambient")),
        "s3-some": ("s3://models/llama", {**keys, "include": ["*.json", "sub dir/"], "exclude": ["con*"]},
                    {"sub dir/ünï.txt": uploaded["sub dir/ünï.txt"]}),
        "s3-one": ("s3://models/llama/config.json", keys, {"config.json": uploaded["config.json"]}),
        "folder": (f"{web.url}/bearer/llama/", token, with_sums),
        "one": (f"{web.url}/basic/llama/model.safetensors", login,
                {"model.safetensors": with_sums["model.safetensors"]}),
        "file": (f"file://{share}/llama", {}, tree_of(share / "llama")),
        "file-sums": (f"file://{share}/summed", {}, tree_of(share / "summed")),
        "claim": ("pvc://weights/llama", {}, tree_of(tmp_path / "claims" / namespace / "weights" / "llama")),
    }  # fmt: skip
    made = {name: model(name) for name in wanted}
    for name, (uri, source, _) in wanted.items():
        checksum = {"verification": {"checksum": f"sha256:{with_sums['model.safetensors']}"}} if name == "one" else {}
        made[name].create(uri, source=source, **checksum)
    for name, (_, _, files) in wanted.items():
        status = made[name].wait_ready(timeout=PATIENCE)
        assert sorted(status["readyNodes"]) == cluster.nodes
        assert made[name].condition("Verified")["reason"] == "ChecksumValid"
        for node in cluster.nodes:
            assert tree_of(cluster.paths(node).current(namespace, name).resolve()) == files

    # Nobody publishes a digest of the single file: one node read it, and the others have it from that one.
    answers = [line.split() for line in (web.root.parent / "work" / "access.log").read_text().splitlines()]
    sent = sum(
        int(words[9]) for words in answers if words[6] == "/basic/llama/model.safetensors" and words[8][0] == "2"
    )
    assert len(FILES["model.safetensors"]) <= sent < 1.5 * len(FILES["model.safetensors"])

    seen = [cluster.all_logs()]
    for path in (made["s3"].collection, f"/api/v1/namespaces/{namespace}/events",
                 f"/api/v1/namespaces/{namespace}/configmaps"):  # fmt: skip
        seen.append(json.dumps(api.get(path).expect(200)))
    seen += [Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in cluster.pids()]
    for canary in (CANARY, s3.secret, s3.key_id):
        assert not [text for text in seen if canary in text]
        for file in tmp_path.joinpath("nodes").rglob("*"):
            assert not file.is_file() or canary.encode() not in file.read_bytes(), file


def test_a_byte_that_changes_between_resolving_and_reading_is_refused_by_name(
    cluster: CacheCluster, api: Api, namespace: str, model: Callable[[str], Model], s3: S3, web: Nginx, mirror: Olah,
    tmp_path: Path,
) -> None:  # fmt: skip
    keys = secret(api, namespace, "s3-keys", s3.secret_values)
    made = {name: model(name) for name in ("hub", "s3", "folder", "one")}
    made["hub"].create("hf://org/llama", storage=NOWHERE)
    made["s3"].create("s3://models/llama", source=keys, storage=NOWHERE)
    trust = secret(api, namespace, "web-authority", TRUST)
    made["folder"].create(f"{web.url}/llama/", source=trust, storage=NOWHERE)
    made["one"].create(f"{web.url}/llama/model.safetensors", source=trust, storage=NOWHERE)
    for one in made.values():
        one.wait_condition("Resolved", "True")
    flip(tmp_path / "upload" / "model.safetensors")
    s3.s5cmd("cp", str(tmp_path / "upload" / "model.safetensors"), "s3://models/llama/")
    flip(web.root / "llama" / "model.safetensors")
    stored = mirror.stored("org/llama", hashlib.sha256(FILES["model.safetensors"]).hexdigest())
    stored.chmod(0o644)
    flip(stored)
    for one in made.values():
        one.patch(storage=EVERYWHERE)
    for name, one in made.items():
        digest = name in ("hub", "folder")
        failed = one.wait_condition("Ready", "False", "DigestMismatch" if digest else "SourceChanged")
        assert "model.safetensors" in failed["message"]
        assert cluster.ready_nodes(namespace, name) == []
        for node in cluster.nodes:
            assert not cluster.paths(node).current(namespace, name).exists()


def test_a_byte_that_changes_in_a_directory_between_listing_and_reading_is_refused_by_name(
    cluster: CacheCluster, namespace: str, model: Callable[[str], Model], share: Path, tmp_path: Path
) -> None:
    # Only nodes can list these. So that they do not read at once, they have no room at first.
    for node in cluster.nodes:
        cluster.start_agent(node, "--capacity", "1Mi")
    wanted = {"file": f"file://{share}/llama", "file-sums": f"file://{share}/summed", "claim": "pvc://weights/llama"}
    made = {name: model(name) for name in wanted}
    for name, uri in wanted.items():
        made[name].create(uri)
    for one in made.values():
        one.wait_condition("Resolved", "True")
    for folder in (share / "llama", share / "summed", tmp_path / "claims" / namespace / "weights" / "llama"):
        flip(folder / "model.safetensors")
    for node in cluster.nodes:
        cluster.start_agent(node)
    for name, one in made.items():
        failed = one.wait_condition("Ready", "False", "DigestMismatch" if name == "file-sums" else "SourceChanged")
        assert "model.safetensors" in failed["message"]
        assert cluster.ready_nodes(namespace, name) == []
        for node in cluster.nodes:
            assert not cluster.paths(node).current(namespace, name).exists()


def test_what_a_node_must_not_read(cluster: CacheCluster, share: Path, model: Callable[[str], Model]) -> None:
    wanted = {
        "elsewhere": ("file:///etc", "Unsupported", "MODELCACHE_FILE_ROOTS"),
        "absent": (f"file://{share}/nothing", "NotFound", "does not exist on this node"),
        "unmounted": ("pvc://secret", "NotFound", "not mounted"),
        "of-another-tenant": ("pvc://another-tenant/secret", "NotFound", "not mounted"),
    }
    made = {name: model(name) for name in wanted}
    for name, (uri, _, _) in wanted.items():
        made[name].create(uri)
    for name, (_, reason, says) in wanted.items():
        resolved = made[name].wait_condition("Resolved", "False", reason)
        assert says in resolved["message"]
        assert "On node " in resolved["message"]
