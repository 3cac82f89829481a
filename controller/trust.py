"""Keeps the cluster's certificate authority: its key in a Secret, its certificate in a ConfigMap, both named NAME.

Every replica of the controller does this, leader or not, because every one issues certificates. They need not agree on
who: each round reads both objects, computes what they should be (`controller.authority.plan`), and writes what differs,
with the resourceVersion that was read, so that of two writers one is refused and looks again. The ConfigMap is read before
the Secret; so what is written into it is never older than what it replaces.

The Secret goes first: an authority that exists in a bundle only, its key lost in a crash, would be trusted for a year.

The Secret's type keeps it from ever being read as the credential of a source (`controller.credentials`), in case
somebody names it in a DynamoModel.
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from random import Random

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from controller.authority import Authority, Plan, new_authority, plan
from controller.credentials import AUTHORITY_TYPE
from modelcache.kube.backoff import Backoff
from modelcache.kube.client import KubeClient
from modelcache.kube.clock import Clock
from modelcache.kube.errors import AlreadyExists, Conflict, KubeError, NotFound
from modelcache.kube.objects import ObjectMeta
from modelcache.kube.resources import CONFIG_MAPS, SECRETS, ResourceType
from modelcache.tls.certificates import CertificateError, key_pem, new_key
from modelcache.tls.credentials import Credentials, der_to_pem
from modelcache.tls.identity import CONTROLLER, Identity
from modelcache.tls.wallet import Wallet

_log = logging.getLogger(__name__)

NAME = "modelcache-ca"
BUNDLE_KEY = "ca.crt"
CHECK_SECONDS = 30.0
"""Between two looks at the objects: somebody may have deleted them, which is how an administrator replaces a lost key."""
ATTEMPTS = 5
_LABELS = {"app.kubernetes.io/name": "modelcache", "app.kubernetes.io/component": "controller"}


class _Stored(msgspec.Struct, frozen=True):
    """A Secret or a ConfigMap."""

    metadata: ObjectMeta
    data: dict[str, str] | None = None

    def __repr__(self) -> str:
        return f"_Stored({self.metadata.name}, keys={sorted(self.data or {})})"


class UnusableAuthority(Exception):
    """The Secret holds something that is no authority. It is left as it is: only people can say what it was."""


class NotReady(Exception):
    """There is no authority yet."""


class Trust:
    """The authority, and this process's own certificate in `wallet`. `load` once, then `run` in a task."""

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        wallet: Wallet,
        clock: Clock,
        rng: Random,
        wall: Callable[[], datetime],
        *,
        lifetime: timedelta,
        on_signer: Callable[[float], None] = lambda expires: None,
    ) -> None:
        """`lifetime` is that of every certificate. `wall` tells the time in UTC.

        `on_signer` is told when the authority that signs ends, in Unix seconds.
        """
        self._on_signer = on_signer
        self._client = client
        self._namespace = namespace
        self._wallet = wallet
        self._clock = clock
        self._rng = rng
        self._wall = wall
        self._lifetime = lifetime
        self._plan: Plan | None = None
        self._issuer: Authority | None = None
        self._key = new_key()
        self.on_distrust: Callable[[], None] = lambda: None
        """Called when an authority is trusted no more, by the calendar or because somebody has deleted it."""

    def issue(self, key: ec.EllipticCurvePublicKey, node: str) -> bytes:
        """A certificate in DER for the agent of `node`. Raises NotReady."""
        signer = self._plan.signer if self._plan else None
        if signer is None:
            raise NotReady("the controller has no certificate authority yet")
        return signer.issue(key, Identity(node), self._wall(), self._lifetime)

    async def load(self) -> None:
        """Look until there is an authority; an API server that is away is waited for. Raises UnusableAuthority."""
        backoff = Backoff(self._rng, cap=10.0)
        while True:
            try:
                await self.look()
                return
            except KubeError as error:
                delay = backoff.fail(self._clock.now(), error.retry_after)
                _log.warning("no certificate authority yet, trying again in %.1f s: %s", delay, error)
                await self._clock.sleep(delay)

    async def run(self) -> None:
        """Look again and again until cancelled. What was loaded stays in force while that fails."""
        while True:
            # Often enough to renew the own certificate in time, however short its life was set.
            pause = min(CHECK_SECONDS, self._lifetime.total_seconds() / 10)
            await self._clock.sleep(pause * self._rng.uniform(0.8, 1.2))
            try:
                await self.look()
            except (KubeError, UnusableAuthority) as error:
                _log.error("the certificate authority could not be looked at, the one before stays in force: %s", error)
                self._renew()

    async def look(self) -> None:
        """One round. Raises KubeError and UnusableAuthority."""
        for attempt in range(ATTEMPTS):
            bundle = await self._read(CONFIG_MAPS)
            secret = await self._read(SECRETS)
            authorities = _decode(secret, f"{self._namespace}/{NAME}")
            wanted = plan(authorities, self._wall(), self._lifetime)
            if wanted.successor_due:
                wanted = plan([*wanted.kept, new_authority(self._wall())], self._wall(), self._lifetime)
            try:
                if set(wanted.kept) != set(authorities):
                    await self._write_secret(secret, wanted)
                await self._publish(bundle, wanted)
            except (Conflict, AlreadyExists):
                if attempt + 1 == ATTEMPTS:
                    raise
                continue  # another replica was quicker: what it wrote counts
            self._take(wanted)
            return

    def _take(self, wanted: Plan) -> None:
        before, self._plan = self._plan, wanted
        distrusted = set(before.kept if before else ()) - set(wanted.kept)
        if before is None or before.signer != wanted.signer:
            assert wanted.signer is not None
            _log.info("certificates are signed by authority %s until %s", wanted.signer.name, wanted.signer.expires)
            self._on_signer(wanted.signer.expires.timestamp())
        self._renew()
        if distrusted:
            _log.warning("not trusted any more: %s", ", ".join(sorted(authority.name for authority in distrusted)))
            self.on_distrust()

    def _renew(self) -> None:
        """Give this process a certificate when it has none, a new one in its half-life, and after every change."""
        current, held = self._plan, self._wallet.held
        if current is None or current.signer is None:
            return
        if held is not None and held.authorities == current.bundle and self._issuer == current.signer:
            validity = held.presented
            if self._wall() < validity.not_after - self._lifetime / 2:
                return
        certificate = current.signer.issue(self._key.public_key(), CONTROLLER, self._wall(), self._lifetime)
        self._issuer = current.signer
        self._wallet.replace(Credentials(key_pem(self._key), der_to_pem(certificate), current.bundle))

    async def _read(self, resource: ResourceType) -> _Stored | None:
        try:
            return await self._client.get(resource, NAME, self._namespace, into=_Stored)
        except NotFound:
            return None

    async def _write_secret(self, stored: _Stored | None, wanted: Plan) -> None:
        data: dict[str, str | None] = dict.fromkeys((stored.data or {}) if stored else {})
        for authority in wanted.kept:
            certificate, key = authority.encoded()
            data[f"{authority.name}.crt"] = base64.b64encode(certificate).decode()
            data[f"{authority.name}.key"] = base64.b64encode(key).decode()
        await self._write(SECRETS, stored, {"type": AUTHORITY_TYPE, "data": data})
        _log.info("stored the certificate authorities %s", ", ".join(authority.name for authority in wanted.kept))

    async def _publish(self, stored: _Stored | None, wanted: Plan) -> None:
        data = {BUNDLE_KEY: wanted.bundle.decode()}
        if stored is None or stored.data != data:
            await self._write(CONFIG_MAPS, stored, {"data": data})
            _log.info("published %d certificate authorities", len(wanted.kept))

    async def _write(self, resource: ResourceType, stored: _Stored | None, content: Mapping[str, object]) -> None:
        if stored is None:
            metadata = {"name": NAME, "namespace": self._namespace, "labels": _LABELS}
            body = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, **content}
            await self._client.create(resource, body, self._namespace, name=NAME)
            return
        body = {"metadata": {"resourceVersion": stored.metadata.resource_version}, **content}
        await self._client.merge_patch(resource, NAME, body, self._namespace)


def _decode(stored: _Stored | None, where: str) -> Sequence[Authority]:
    """The authorities in a Secret. Raises UnusableAuthority."""
    data = (stored.data or {}) if stored else {}
    authorities = []
    for key in sorted(data):
        name, dot, kind = key.rpartition(".")
        if not dot or kind not in ("crt", "key") or f"{name}.crt" not in data or f"{name}.key" not in data:
            raise _unusable(where, f"it has the key {key!r}, which is not one half of a pair NAME.crt and NAME.key")
        if kind == "key":
            continue
        try:
            certificate, secret = (base64.b64decode(data[f"{name}.{half}"], validate=True) for half in ("crt", "key"))
            authorities.append(Authority.decode(certificate, secret))
        except (binascii.Error, CertificateError) as error:
            raise _unusable(where, f"of {name!r}: {error}") from None
    return authorities


def _unusable(where: str, reason: str) -> UnusableAuthority:
    return UnusableAuthority(
        f"the Secret {where} is not a certificate authority of this program: {reason}. Restore it, or delete it: a new "
        f"authority is then made, and every agent gets a new certificate by itself"
    )
