"""API servers for tests: `local.kube`, the real etcd and kube-apiserver, or a cluster that is there, behind one interface.

The environment decides. MODELCACHE_E2E=1 takes the cluster that KUBECONFIG names (for tests/e2e alone: nothing else has any
business there). When KUBEBUILDER_ASSETS names a directory with `etcd` and `kube-apiserver`, as for controller-runtime's
envtest, those are started. Otherwise it is `python -m local.kube`. All write a kubeconfig of an administrator and keep their
address and their objects over `restart`, so a test needs to know which one it has only where a kube-apiserver, standing alone,
lacks what kube-controller-manager does (`runs_controllers`).
"""

import base64
import os
import re
import secrets
import urllib.request
from pathlib import Path
from typing import Protocol
from urllib.error import URLError

import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from local.ports import free_port
from tests.support.api import Api
from tests.support.kubectl import binary
from tests.support.process import Process, ProcessError, python_module
from tests.support.waiting import PATIENCE, wait_until

ASSETS_VARIABLE = "KUBEBUILDER_ASSETS"
CLUSTER_VARIABLE = "MODELCACHE_E2E"


class KubeServer(Protocol):
    """A running API server of its own for the tests."""

    url: str
    """Its address, the same over a restart."""
    kubeconfig: Path
    """Kubeconfig of a user who may do everything."""
    is_real: bool
    """True for kube-apiserver."""
    runs_controllers: bool
    """True if garbage collection and namespace deletion happen; a kube-apiserver alone does neither."""

    def restart(self) -> None:
        """Kill the server without warning and start it again on the same objects and address; returns when ready."""

    def close(self) -> None:
        """End every process of it."""


def start_kube(directory: Path) -> KubeServer:
    """The server that the environment asks for, ready, with its files in `directory`."""
    if uses_cluster():
        return ExistingKube(Path(os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config"), directory)
    assets = os.environ.get(ASSETS_VARIABLE)
    return EnvtestKube(Path(assets), directory) if assets else LocalKube(directory)


def uses_cluster() -> bool:
    """Whether tests are to run against a cluster that is there already."""
    return os.environ.get(CLUSTER_VARIABLE) == "1"


class LocalKube:
    """`python -m local.kube` in a process of its own, with its objects on disk."""

    is_real = False
    runs_controllers = True

    def __init__(self, directory: Path) -> None:
        self.kubeconfig = directory / "kubeconfig"
        self._data = directory / "data"
        # Not 0: it has to get the same one when it starts again.
        self._process = self._start(free_port())
        try:
            self.url = self._address()
        except BaseException:
            self._process.close()
            raise

    def _start(self, port: int) -> Process:
        return python_module("local.kube", "--port", str(port), "--kubeconfig", self.kubeconfig, "--data", self._data)

    def _address(self) -> str:
        found = re.search(r"https?://\S+?:\d+", self._process.first_line())
        if not found:
            raise ProcessError(f"no address in the first line\n{self._process.logs()}")
        return found.group()

    def restart(self) -> None:
        """Kill the server without warning and start it again on the same objects and address; returns when ready."""
        self._process.kill()
        self._process = self._start(int(self.url.rpartition(":")[2]))
        assert self._address() == self.url

    def logs(self) -> str:
        """What the running process has printed."""
        return self._process.logs()

    def close(self) -> None:
        """End the process."""
        self._process.close()


class EnvtestKube:
    """The real etcd and kube-apiserver, without any controller, scheduler or kubelet.

    Flags follow envtest (controller-runtime, pkg/internal/testing/controlplane). Differences: the administrator has a
    static token in `system:masters` instead of a client certificate, the serving certificate is the one that the server
    makes for itself, and the reconciler of the `kubernetes` Endpoints is off, because it refuses loopback addresses.
    """

    is_real = True
    runs_controllers = False

    def __init__(self, assets: Path, directory: Path) -> None:
        for name in ("etcd", "kube-apiserver"):
            if not os.access(assets / name, os.X_OK):
                raise FileNotFoundError(f"{ASSETS_VARIABLE}={assets} holds no executable {name}")
        self._assets = assets
        self._directory = directory
        self._certificates = directory / "certificates"
        self._certificates.mkdir(parents=True)
        self._token = secrets.token_hex(16)
        self.kubeconfig = directory / "kubeconfig"
        self._port = free_port()
        self.url = f"https://127.0.0.1:{self._port}"
        self._write_credentials()
        self._etcd_url = f"http://127.0.0.1:{free_port()}"
        self._etcd = self._start_etcd()
        try:
            self._server = self._start_server()
        except BaseException:
            self._etcd.close()
            raise

    def _write_credentials(self) -> None:
        # RSA, as kubeadm makes it: signatures are RS256.
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (self._directory / "service-account.key").write_bytes(private)
        (self._directory / "service-account.pub").write_bytes(public)
        (self._directory / "tokens.csv").write_text(f'{self._token},admin,admin,"system:masters"\n')

    def _start_etcd(self) -> Process:
        etcd = Process(
            [
                self._assets / "etcd",
                f"--data-dir={self._directory / 'etcd'}",
                f"--listen-client-urls={self._etcd_url}",
                f"--advertise-client-urls={self._etcd_url}",
                f"--listen-peer-urls=http://127.0.0.1:{free_port()}",
                # Nothing here has to outlive a power cut, and fsync is most of what a small test waits for.
                "--unsafe-no-fsync=true",
            ]
        )
        try:
            wait_until(lambda: _running(etcd) and _answers(f"{self._etcd_url}/health"), what="etcd is healthy")
        except BaseException:
            etcd.close()
            raise
        return etcd

    def _start_server(self) -> Process:
        server = Process(
            [
                self._assets / "kube-apiserver",
                f"--etcd-servers={self._etcd_url}",
                "--bind-address=127.0.0.1",
                # Without it the server looks for a default route, and ends where there is none.
                "--advertise-address=127.0.0.1",
                f"--secure-port={self._port}",
                f"--cert-dir={self._certificates}",
                "--endpoint-reconciler-type=none",
                "--service-cluster-ip-range=10.0.0.0/24",
                f"--service-account-issuer={self.url}/",
                f"--service-account-key-file={self._directory / 'service-account.pub'}",
                f"--service-account-signing-key-file={self._directory / 'service-account.key'}",
                f"--token-auth-file={self._directory / 'tokens.csv'}",
                "--authorization-mode=RBAC",
                "--allow-privileged=true",
                # It would refuse every pod, because nobody makes the namespace's default ServiceAccount here.
                "--disable-admission-plugins=ServiceAccount",
            ]
        )
        try:
            wait_until(lambda: _running(server) and self._ready(), timeout=PATIENCE, what="kube-apiserver is ready")
        except BaseException as error:
            server.close()
            if isinstance(error, TimeoutError):
                raise ProcessError(f"{error}\n{server.logs()[-8000:]}") from None
            raise
        return server

    def _ready(self) -> bool:
        """True once /readyz says so and the namespaces that every cluster has are there."""
        certificate = self._certificates / "apiserver.crt"
        if not certificate.exists():
            return False
        # The file holds the serving certificate and, after it, the authority that signed it.
        self._write_kubeconfig(certificate.read_bytes())
        try:
            api = Api(self.kubeconfig)
            return api.get("/readyz").status == 200 and api.get("/api/v1/namespaces/kube-system").status == 200
        except (OSError, ValueError):  # not listening yet, or the certificate is only half written
            return False

    def _write_kubeconfig(self, authority: bytes) -> None:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "envtest",
            "contexts": [{"name": "envtest", "context": {"cluster": "envtest", "user": "admin"}}],
            "clusters": [
                {
                    "name": "envtest",
                    "cluster": {
                        "server": self.url,
                        "certificate-authority-data": base64.b64encode(authority).decode(),
                    },
                }
            ],
            "users": [{"name": "admin", "user": {"token": self._token}}],
        }
        self.kubeconfig.write_text(yaml.safe_dump(config))

    def restart(self) -> None:
        """Kill kube-apiserver without warning and start it again on the same etcd and address; returns when ready."""
        self._server.kill()
        self._server = self._start_server()

    def close(self) -> None:
        """End both processes."""
        self._server.close()
        self._etcd.close()


class ExistingKube:
    """A cluster of its own, reached through `kubectl proxy`, which knows every way to log in that a kubeconfig can name.

    A restart only cuts all connections. Tests register Nodes without a kubelet, and pods on them: a cluster whose cloud removes
    Nodes that it does not know cannot be used.
    """

    is_real = True
    runs_controllers = True

    def __init__(self, kubeconfig: Path, directory: Path) -> None:
        """`kubeconfig`: of an administrator; its current context is used."""
        if not kubeconfig.is_file():
            raise FileNotFoundError(f"{CLUSTER_VARIABLE}=1 needs KUBECONFIG, or a file {kubeconfig}")
        self._source = kubeconfig
        self.kubeconfig = directory / "kubeconfig"
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._proxy = self._start()
        entry = {"name": "existing"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "existing",
            "contexts": [{**entry, "context": {"cluster": "existing", "user": "existing"}}],
            "clusters": [{**entry, "cluster": {"server": self.url}}],
            "users": [{**entry, "user": {}}],
        }
        self.kubeconfig.write_text(yaml.safe_dump(config))

    def _start(self) -> Process:
        # Not $PATH and $HOME alone, as for other commands of kubectl here: plugins that log in to clouds read more.
        environment = {**os.environ, "KUBECONFIG": str(self._source)}
        proxy = Process([binary(), "proxy", f"--port={self._port}"], env=environment)
        try:
            proxy.first_line()
        except BaseException:
            proxy.close()
            raise
        return proxy

    def restart(self) -> None:
        """Cut all connections."""
        self._proxy.kill()
        self._proxy.close()
        self._proxy = self._start()

    def close(self) -> None:
        """End the proxy; the cluster stays as it is."""
        self._proxy.close()


def _running(process: Process) -> bool:
    """True; a process that has ended will never become ready, so say at once why."""
    if process.returncode is not None:
        raise ProcessError(f"ended before it was ready\n{process.logs()[-8000:]}")
    return True


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as response:
            return bool(response.status == 200)
    except (URLError, OSError):
        return False
