"""Requests, errors and credentials against a server that can misbehave."""

import asyncio
import json
import ssl
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from modelcache.kube import errors
from modelcache.kube.client import KubeClient
from modelcache.kube.credentials import InClusterCredentials, KubeconfigCredentials, find_credentials
from modelcache.kube.objects import PartialObject
from modelcache.kube.resources import CONFIG_MAPS, NODES
from modelcache.kube.session import RELOAD_SECONDS
from tests.support.fake_clock import FakeClock
from tests.support.faulty_api import FaultyApi, after, any_request, drop, hang, is_next_page, raw, status

TLS = Path(__file__).parent / "tls"
MAPS = "/api/v1/namespaces/team-a/configmaps"
Json = dict[str, Any]


async def test_create_get_replace_delete(faulty: FaultyApi, client: KubeClient) -> None:
    body = {"metadata": {"name": "a"}, "data": {"k": "v"}}
    created = await client.create(CONFIG_MAPS, body, "team-a", name="a")
    assert (created.name, created.namespace) == ("a", "team-a")
    with pytest.raises(errors.AlreadyExists):
        await client.create(CONFIG_MAPS, body, "team-a", name="a")

    found = await client.get(CONFIG_MAPS, "a", "team-a", into=Json)
    assert found["data"] == {"k": "v"}
    found["data"] = {"k": "w"}
    replaced = await client.replace(CONFIG_MAPS, "a", found, "team-a")
    assert replaced.resource_version != created.resource_version
    with pytest.raises(errors.Conflict) as conflict:
        await client.replace(CONFIG_MAPS, "a", found, "team-a")
    assert str(conflict.value) == (
        f'update configmaps "team-a/a": Conflict (409): the object has been modified [{faulty.url}]'
    )

    await client.delete(CONFIG_MAPS, "a", "team-a")
    with pytest.raises(errors.NotFound):
        await client.get(CONFIG_MAPS, "a", "team-a", into=PartialObject)
    with pytest.raises(errors.NotFound):
        await client.delete(CONFIG_MAPS, "a", "team-a")


async def test_each_patch_has_its_content_type(faulty: FaultyApi, client: KubeClient) -> None:
    await faulty.put("/api/v1/nodes/n", {"metadata": {"labels": {"old": "1"}}})
    patched = await client.merge_patch(NODES, "n", {"metadata": {"labels": {"old": None, "new": "2"}}})
    assert patched.labels == {"new": "2"}
    answer = raw(200, b'{"metadata":{"name":"n"}}')
    faulty.inject(any_request, answer, times=None)
    await client.json_patch(NODES, "n", [{"op": "remove", "path": "/metadata/labels/new"}], subresource="status")
    applied = PartialObject(patched)
    await client.apply(NODES, "n", applied, field_manager="tests", force=True)

    merge, operations, apply = faulty.seen
    assert merge.headers["Content-Type"] == "application/merge-patch+json"
    assert operations.headers["Content-Type"] == "application/json-patch+json"
    assert operations.path == "/api/v1/nodes/n/status"
    assert operations.json == [{"op": "remove", "path": "/metadata/labels/new"}]
    assert apply.headers["Content-Type"] == "application/apply-patch+yaml"
    assert apply.query == {"fieldManager": "tests", "force": "true"}
    assert apply.json["metadata"]["resourceVersion"] == patched.resource_version, "Structs are sent as JSON"


async def test_delete_with_preconditions(faulty: FaultyApi, client: KubeClient) -> None:
    await faulty.put("/api/v1/nodes/n", {})
    await client.delete(NODES, "n", uid="u-1", resource_version="7", propagation="Foreground")
    assert faulty.seen[-1].json == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": "u-1", "resourceVersion": "7"},
        "propagationPolicy": "Foreground",
    }


async def test_pages(faulty: FaultyApi, client: KubeClient) -> None:
    for number in range(5):
        await faulty.put(f"{MAPS}/c{number}", {})
    pages = [page async for page in client.list_pages(CONFIG_MAPS, "team-a", into=PartialObject, limit=2)]
    assert [[item.metadata.name for item in page.objects] for page in pages] == [["c0", "c1"], ["c2", "c3"], ["c4"]]
    faulty.inject(is_next_page, status(410, "Expired"))
    with pytest.raises(errors.Gone):
        async for _ in client.list_pages(CONFIG_MAPS, into=msgspec.Raw, limit=2):
            pass
    empty = [page async for page in client.list_pages(NODES, into=PartialObject)]
    assert [page.objects for page in empty] == [[]], "a null list is an empty one"


async def test_answer_that_is_not_what_was_asked_for(faulty: FaultyApi, client: KubeClient) -> None:
    faulty.inject(any_request, raw(200, b'{"metadata": []}'))
    with pytest.raises(errors.ServerError, match='decode nodes "n": the answer cannot be read: Expected `object`'):
        await client.get(NODES, "n", into=PartialObject)


async def test_429_carries_retry_after(faulty: FaultyApi, client: KubeClient) -> None:
    faulty.inject(any_request, status(429, "TooManyRequests", "too many", {"Retry-After": "7"}))
    with pytest.raises(errors.TooManyRequests) as raised:
        await client.get(NODES, "n", into=PartialObject)
    assert raised.value.retry_after == 7.0


async def test_dropped_write_is_unreachable_and_may_have_happened(faulty: FaultyApi, client: KubeClient) -> None:
    faulty.inject(any_request, after(drop))
    with pytest.raises(errors.Unreachable, match='create nodes "n"'):
        await client.create(NODES, {"metadata": {"name": "n"}}, name="n")
    assert (await client.get(NODES, "n", into=PartialObject)).metadata.name == "n"


async def test_hanging_server_is_given_up(faulty: FaultyApi, client: KubeClient) -> None:
    faulty.inject(any_request, hang(asyncio.Event()))
    with pytest.raises(errors.Unreachable, match=r"no complete answer in time \(limit 0\.1 s\)"):
        await client.request("GET", "/version", timeout=0.1)


async def test_nobody_listening(faulty: FaultyApi, client: KubeClient) -> None:
    await faulty.stop()
    with pytest.raises(errors.Unreachable, match=f"Connect.*{faulty.url}"):
        await client.get(NODES, "n", into=PartialObject)


async def test_name_that_is_a_path_never_leaves_the_process(faulty: FaultyApi, client: KubeClient) -> None:
    with pytest.raises(errors.Invalid, match="names cannot be"):
        await client.get(CONFIG_MAPS, "../../secrets/token", "team-a", into=PartialObject)
    assert faulty.seen == []


async def test_proxy_of_the_environment_is_not_used_for_loopback(
    faulty: FaultyApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    await faulty.put("/api/v1/nodes/n", {})
    async with KubeClient.connect(faulty.kubeconfig) as client:
        assert (await client.get(NODES, "n", into=PartialObject)).metadata.name == "n"


# -- credentials ---------------------------------------------------------------------------------------------------


async def test_token_is_read_again_after_a_minute(faulty: FaultyApi, clock: FakeClock) -> None:
    async with KubeClient(KubeconfigCredentials(str(faulty.kubeconfig)), clock=clock) as client:
        await client.request("GET", "/api/v1/nodes")
        faulty.write_kubeconfig("second")
        clock.advance(RELOAD_SECONDS - 1)
        await client.request("GET", "/api/v1/nodes")
        clock.advance(1)
        await client.request("GET", "/api/v1/nodes")
    assert [seen.headers["Authorization"] for seen in faulty.seen] == [
        "Bearer unused",
        "Bearer unused",
        "Bearer second",
    ]


async def test_401_reads_the_token_at_once_and_repeats_the_request_once(faulty: FaultyApi, client: KubeClient) -> None:
    await client.request("GET", "/api/v1/nodes")
    faulty.token = "second"
    faulty.write_kubeconfig("second")
    await client.create(NODES, {"metadata": {"name": "n"}}, name="n")
    assert [seen.headers["Authorization"] for seen in faulty.seen[1:]] == ["Bearer unused", "Bearer second"]


async def test_401_with_nothing_newer_is_reported(faulty: FaultyApi, client: KubeClient) -> None:
    faulty.token = "another"
    with pytest.raises(errors.Unauthorized, match="get nodes"):
        await client.get(NODES, "n", into=PartialObject)
    assert len(faulty.seen) == 1, "repeating it with the same token would be useless"


async def test_many_requests_refused_at_once_read_the_token_once(
    faulty: FaultyApi, client: KubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = 0
    load = KubeconfigCredentials.load

    async def counting(self: KubeconfigCredentials, *, afresh: bool) -> Any:
        nonlocal loads
        loads += 1
        return await load(self, afresh=afresh)

    monkeypatch.setattr(KubeconfigCredentials, "load", counting)
    faulty.token = "second"
    faulty.write_kubeconfig("second")
    await asyncio.gather(*(client.request("GET", "/api/v1/nodes") for _ in range(10)))
    assert loads == 1


async def test_unreadable_kubeconfig_keeps_the_old_token(
    faulty: FaultyApi, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with KubeClient(KubeconfigCredentials(str(faulty.kubeconfig)), clock=clock) as client:
        (faulty.directory / "token").unlink()
        clock.advance(RELOAD_SECONDS)
        await client.request("GET", "/api/v1/nodes")
    assert "keeping the credentials read before" in caplog.text
    assert faulty.seen[-1].headers["Authorization"] == "Bearer unused"


async def test_plugin_that_hangs_delays_one_request_and_stops_none(
    faulty: FaultyApi, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Hanging(KubeconfigCredentials):
        loading = asyncio.Event()
        first = True

        async def load(self, *, afresh: bool) -> Any:
            if self.first:
                self.first = False
                return await super().load(afresh=afresh)
            self.loading.set()
            return await asyncio.Event().wait()

    credentials = Hanging(str(faulty.kubeconfig))
    async with KubeClient(credentials, clock=clock, load_timeout=0.2) as client:
        clock.advance(RELOAD_SECONDS)
        delayed = asyncio.create_task(client.request("GET", "/api/v1/nodes"))
        await credentials.loading.wait()
        await client.request("GET", "/api/v1/pods")
        await delayed
    assert sorted(seen.path for seen in faulty.seen) == ["/api/v1/nodes", "/api/v1/pods"]
    assert f"keeping the credentials read before: kubeconfig {faulty.kubeconfig} could not be read" in caplog.text


async def test_closed_client_says_so(faulty: FaultyApi) -> None:
    client = KubeClient.connect(faulty.kubeconfig)
    with pytest.raises(errors.Unreachable, match="the client is closed"):
        await client.request("GET", "/api/v1/nodes")


async def test_another_address_is_followed_while_old_requests_end_in_peace(
    faulty: FaultyApi, tmp_path: Path, clock: FakeClock
) -> None:
    release = asyncio.Event()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    async with FaultyApi(elsewhere) as other:
        async with KubeClient(KubeconfigCredentials(str(faulty.kubeconfig)), clock=clock) as client:
            faulty.inject(any_request, hang(release))
            slow = asyncio.create_task(client.request("GET", "/api/v1/nodes"))
            await faulty.until(lambda: len(faulty.seen) == 1)
            # The kubeconfig itself is read again when a token is refused.
            faulty.token = other.token = "moved"
            faulty.write_kubeconfig("moved")
            faulty.kubeconfig.write_text(other.kubeconfig.read_text())
            await client.request("GET", "/api/v1/nodes")
            assert client.server == other.url
            release.set()
            assert b"items" in await slow
        assert len(other.seen) == 1


async def test_exec_plugin(faulty: FaultyApi, tmp_path: Path) -> None:
    faulty.token = "from-plugin-2"
    counter = tmp_path / "runs"
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        "import json, pathlib\n"
        f"path = pathlib.Path({str(counter)!r})\n"
        "runs = int(path.read_text()) + 1 if path.exists() else 1\n"
        "path.write_text(str(runs))\n"
        "status = {'token': f'from-plugin-{runs}', 'expirationTimestamp': '2999-01-01T00:00:00Z'}\n"
        "print(json.dumps({'apiVersion': 'client.authentication.k8s.io/v1', 'kind': 'ExecCredential',\n"
        "                  'status': status}))\n"
    )
    config = json.loads(faulty.kubeconfig.read_text())
    config["users"][0]["user"] = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": sys.executable,
            "args": [str(plugin)],
            "interactiveMode": "Never",
        }
    }
    faulty.kubeconfig.write_text(json.dumps(config))
    async with KubeClient.connect(faulty.kubeconfig) as client:
        await client.request("GET", "/api/v1/nodes")
        await client.request("GET", "/api/v1/nodes")
    assert counter.read_text() == "2", "once at the start, once because the server refused the first token"


def server_context(name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / f"{name}.crt", TLS / f"{name}.key")
    return context


async def test_in_cluster_with_a_new_token_and_a_new_authority(tmp_path: Path) -> None:
    account = tmp_path / "serviceaccount"
    account.mkdir()
    (account / "token").write_text("one\n")
    (account / "ca.crt").write_bytes((TLS / "first.crt").read_bytes())
    async with FaultyApi(tmp_path, token="one", tls=server_context("first")) as faulty:
        host, port = faulty.url.removeprefix("https://").split(":")
        environ = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
        clock = FakeClock()
        async with KubeClient(InClusterCredentials(environ, account), clock=clock) as client:
            await client.request("GET", "/api/v1/nodes")
            faulty.token = "two"
            (account / "token").write_text("two")
            await client.request("GET", "/api/v1/nodes")

            await faulty.stop()
            faulty.tls = server_context("second")
            await faulty.start()
            with pytest.raises(errors.Unreachable, match="certificate is not accepted, check the cluster's"):
                await client.request("GET", "/api/v1/nodes")
            (account / "ca.crt").write_bytes((TLS / "second.crt").read_bytes())
            clock.advance(RELOAD_SECONDS)
            await client.request("GET", "/api/v1/nodes")
    tokens = [seen.headers["Authorization"].partition(" ")[2] for seen in faulty.seen]
    assert tokens == ["one", "one", "two", "two"]


async def test_in_cluster_files_that_are_missing_or_nonsense(tmp_path: Path) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"}
    credentials = InClusterCredentials(environ, tmp_path)
    with pytest.raises(errors.ConfigError, match=f"service account {tmp_path} cannot be used: Service token file"):
        await credentials.load(afresh=True)
    (tmp_path / "token").write_text("one")
    (tmp_path / "ca.crt").write_text("no certificate")
    with pytest.raises(errors.ConfigError, match=f"service account {tmp_path} has unusable TLS material"):
        async with KubeClient(credentials):
            pass


def test_order_of_configurations(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".kube").mkdir(parents=True)
    environ = {"HOME": str(home)}
    with pytest.raises(errors.ConfigError, match=r"no cluster configured: .*\.kube/config does not exist"):
        find_credentials(environ=environ)
    (home / ".kube" / "config").write_text("{}")
    assert str(find_credentials(environ=environ)) == f"kubeconfig {home}/.kube/config"
    environ["KUBERNETES_SERVICE_HOST"] = "10.0.0.1"
    assert str(find_credentials(environ=environ)).startswith("service account")
    environ["KUBECONFIG"] = "/from/env"
    assert str(find_credentials(environ=environ)) == "kubeconfig /from/env"
    assert str(find_credentials("/explicit", environ=environ)) == "kubeconfig /explicit"


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "{",
        "[]",
        "{}",
        '{"contexts": [], "clusters": [], "current-context": "x"}',
        '{"current-context": "x", "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}], "users": [], '
        '"clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1", "certificate-authority": "/none"}}]}',
    ],
)
async def test_broken_kubeconfig_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "config"
    if content is not None:
        path.write_text(content)
    with pytest.raises(errors.ConfigError, match=f"kubeconfig {path}"):
        async with KubeClient.connect(path):
            pass
