"""What an agent needs to get a certificate, made by hand: accounts, pods, tokens, and the question."""

from __future__ import annotations

import asyncio
import base64
import secrets
from random import Random

from cryptography.hazmat.primitives.asymmetric import ec

from agent.controllers import Registrar, finder
from controller.authority import Authority
from modelcache.rpc.address import parse_address
from modelcache.tls.certificates import key_pem, new_key, signing_request
from modelcache.tls.credentials import Credentials, der_to_pem
from tests.support.api import Api
from tests.support.waiting import wait_until

ACCOUNT = "modelcache-agent"


class Cluster:
    """The namespace of a controller, at an API server."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.namespace = f"modelcache-{secrets.token_hex(4)}"
        self.path = f"/api/v1/namespaces/{self.namespace}"
        api.post("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}})
        self.account(ACCOUNT)

    def account(self, name: str) -> None:
        """Make a ServiceAccount."""
        body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
        self.api.post(f"{self.path}/serviceaccounts", body).expect(201)

    def pod(self, node: str, account: str = ACCOUNT) -> str:
        """Make a pod of the account on the node; its name."""
        name = f"{account}-{secrets.token_hex(4)}"
        spec = {"nodeName": node, "serviceAccountName": account, "containers": [{"name": "agent", "image": "agent"}]}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        self.api.post(f"{self.path}/pods", body).expect(201)
        return name

    def token(self, pod: str = "", *, account: str = ACCOUNT, audience: str = "modelcache") -> str:
        """A token of the account, bound to the pod if one is named."""
        spec: dict[str, object] = {"audiences": [audience], "expirationSeconds": 600}
        if pod:
            uid = self.api.get(f"{self.path}/pods/{pod}").expect(200)["metadata"]["uid"]
            spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        answer = self.api.post(f"{self.path}/serviceaccounts/{account}/token", body).expect(201)
        return str(answer["status"]["token"])

    def bundle(self) -> bytes:
        """The published authorities; waits for them."""
        found = wait_until(
            lambda: self.api.get(f"{self.path}/configmaps/modelcache-ca").json().get("data"), what="the bundle is there"
        )
        return str(found["ca.crt"]).encode()

    def authority(self) -> Authority:
        """The authority itself, its key included: the test is the administrator."""
        data = self.api.get(f"{self.path}/secrets/modelcache-ca").expect(200)["data"]
        decoded = {key.rpartition(".")[2]: base64.b64decode(value) for key, value in data.items()}
        return Authority.decode(decoded["crt"], decoded["key"])

    async def enrol(self, address: str, token: str, key: ec.EllipticCurvePrivateKey | None = None) -> Credentials:
        """Ask for a certificate as an agent does. Raises EnrolmentError."""
        key, authorities = key or new_key(), await asyncio.to_thread(self.bundle)
        registrar = Registrar(finder([parse_address(address)], Random(0)))
        certificate = await registrar.ask(authorities, signing_request(key), token)
        return Credentials(key_pem(key), der_to_pem(certificate), authorities)

    def close(self) -> None:
        """Delete the namespace."""
        self.api.delete(self.path)
