"""Gets this agent its certificate, and the next one long before that ends.

The way in: the kubelet projects two files into the pod, the authorities that sign for controllers (ConfigMap
`modelcache-ca`) and a ServiceAccount token that is bound to this pod. With the first the agent knows that it talks to the
controller, with the second the controller knows on which node the agent is. What comes back is for that node, whatever this
agent believes; another one is a mistake in the settings, and is not used.

Everything is level-triggered: every few seconds look at the files and the time, and do what follows. So a changed bundle
of authorities, a new token, a clock that was set, an hour without a controller all need no thought of their own. The
private key is made here, for each certificate a new one, and never leaves the memory of this process.

RENEW_FROM .. RENEW_TO: renewing in the last moment would leave no time for a controller that is away, and when all renew at
the same age, all come at once. With a certificate of four hours, agents talk to each other for at least two and a half
hours after the last controller has gone.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from random import Random

from agent.wakeup import Wakeup
from modelcache.kube.backoff import Backoff
from modelcache.kube.clock import Clock
from modelcache.tls.certificates import (
    MAX_BUNDLE_BYTES,
    CertificateError,
    key_pem,
    new_key,
    read_authorities,
    read_certificate,
    signed_by,
    signing_request,
    to_pem,
)
from modelcache.tls.credentials import Credentials
from modelcache.tls.identity import Identity
from modelcache.tls.wallet import Wallet

_log = logging.getLogger(__name__)

RENEW_FROM, RENEW_TO = 0.25, 0.35
"""Part of a certificate's life after which the next one is asked for."""
LOOK_SECONDS = 5.0
"""Between two looks at the files; watching them is no use, as no event names a projected file."""
RETRY_BASE, RETRY_CAP = 0.5, 10.0
MAX_TOKEN_BYTES = 16 * 1024


class EnrolmentError(Exception):
    """No certificate could be had; the message says why and what to do."""


Ask = Callable[[bytes, bytes, str], Awaitable[bytes]]
"""`await ask(authorities, signing_request, token)`: a certificate in DER. Raises EnrolmentError."""


def is_due(held: Credentials | None, authorities: bytes, now: datetime, renew_at: datetime) -> bool:
    """Whether a new certificate is to be asked for: there is none, its time has come, or nobody trusts it any more."""
    if held is None or now >= renew_at:
        return True
    return not signed_by(read_certificate(held.certificate), read_authorities(authorities))


class Enrolment:
    """Keeps `wallet` supplied. Run `run()` in a task."""

    def __init__(
        self,
        node: str,
        wallet: Wallet,
        *,
        ask: Ask,
        token_file: Path,
        ca_file: Path,
        clock: Clock,
        rng: Random,
        wall: Callable[[], datetime],
    ) -> None:
        """`wall` tells the time in UTC."""
        self._node = node
        self._wallet = wallet
        self._ask = ask
        self._token_file = token_file
        self._ca_file = ca_file
        self._clock = clock
        self._rng = rng
        self._wall = wall
        self._renew_at = wall()
        self._backoff = Backoff(rng, base=RETRY_BASE, cap=RETRY_CAP)
        self._enrolled = Wakeup(clock)
        self._problem = ""

    async def enrolled(self) -> None:
        """Return when there is a certificate."""
        await self._enrolled.wait()

    async def run(self) -> None:
        """Look at files and time until cancelled."""
        while True:
            await self._clock.sleep(await self._look())

    async def _look(self) -> float:
        """One look; in how many seconds to look again."""
        try:
            await self._step()
        except (EnrolmentError, CertificateError) as error:
            delay = self._backoff.fail(self._clock.now())
            level = logging.DEBUG if str(error) == self._problem else logging.WARNING
            _log.log(level, "no new certificate, next try in %.1f s: %s", delay, error, extra={"node": self._node})
            self._problem = str(error)
            return delay
        self._problem = ""
        return LOOK_SECONDS

    async def _step(self) -> None:
        authorities = _read(
            self._ca_file, MAX_BUNDLE_BYTES,
            "the ConfigMap modelcache-ca, which the controller makes, has not come to this pod yet; see the controller's log",
        )  # fmt: skip
        read_authorities(authorities)
        held = self._wallet.held
        if is_due(held, authorities, self._wall(), self._renew_at):
            renewed, now = await self._renewed(authorities), self._wall()
            self._renew_at = now + (renewed.presented.not_after - now) * self._rng.uniform(RENEW_FROM, RENEW_TO)
            self._wallet.replace(renewed)
            self._enrolled.set()
        elif held is not None and held.authorities != authorities:
            _log.info("the trusted authorities have changed", extra={"node": self._node})
            self._wallet.replace(replace(held, authorities=authorities))

    async def _renewed(self, authorities: bytes) -> Credentials:
        """Credentials with a new certificate. Raises EnrolmentError and CertificateError."""
        token = _read(
            self._token_file, MAX_TOKEN_BYTES,
            "project a token of the agent's ServiceAccount with the audience modelcache into the pod",
        )  # fmt: skip
        key = new_key()
        # Not logged anywhere, nor part of any message.
        certificate = read_certificate(await self._ask(authorities, signing_request(key), token.decode().strip()))
        if certificate.public_key() != key.public_key() or not signed_by(certificate, read_authorities(authorities)):
            raise EnrolmentError("the controller's answer is not a certificate for what it was asked for")
        credentials = Credentials(key_pem(key), to_pem([certificate]), authorities)
        validity = credentials.presented
        if validity.identity != Identity(self._node):
            raise EnrolmentError(
                f"the API server says that this pod is on node {validity.identity.node!r}, and this agent was told that it is "
                f"on {self._node!r}; set --node from spec.nodeName"
            )
        _log.info("has a certificate until %s", f"{validity.not_after:%Y-%m-%dT%H:%M:%SZ}", extra={"node": self._node})
        return credentials


def _read(path: Path, limit: int, advice: str) -> bytes:
    """A projected file. Raises EnrolmentError."""
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise EnrolmentError(f"{path} cannot be read ({error.strerror}): {advice}") from error
    if not content.strip() or len(content) > limit:
        raise EnrolmentError(f"{path} has {len(content)} bytes, which makes no sense: {advice}")
    return content
