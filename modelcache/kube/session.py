"""One HTTP session with an API server, whose credentials change while it is used.

Below is the official client's REST layer (connection pool, TLS, proxies); this module keeps it supplied with fresh
credentials. They are read again by the next request after a minute (projected service account tokens live an hour, the
kubelet replaces the file earlier), and at once after a 401, which is then tried again one single time. A new token is
used from the next request on. New TLS material or another address needs a new connection pool: the old one serves the
watches that are open on it and is closed by the last of them.

No request waits for ever: a timeout bounds the whole exchange, connecting included.
"""

import asyncio
import hashlib
import ipaddress
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import aiohttp
import msgspec
from kubernetes.aio.client import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from yarl import URL

from modelcache.kube.clock import Clock
from modelcache.kube.credentials import Credentials
from modelcache.kube.errors import ConfigError, KubeError, Unreachable, error_from_body

_log = logging.getLogger(__name__)

RELOAD_SECONDS = 60.0
"""Age at which credentials are read again; client-go's period for token files."""
LOAD_TIMEOUT = 30.0
"""Seconds for reading credentials again: an exec plugin may hang. The first reading has no limit, as people may be asked
to log in."""
CONNECT_TIMEOUT = 10.0
"""Seconds for a TCP connection, TLS included."""

Query = Mapping[str, str | int | bool | None]
"""Query parameters, not encoded. None and "" are left out."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `path` is percent-encoded, `body` JSON-like and may contain Structs, `timeout` is in seconds.

    `verb` and `subject` are for messages.
    """

    method: str
    path: str
    query: Query
    body: object
    content_type: str
    timeout: float
    verb: str
    subject: str


Observe = Callable[[Call, str, float], None]
"""Told about each request that was sent: the HTTP status or `unreachable`, and the seconds until the answer began."""


@dataclass(slots=True)
class _Pool:
    """A connection pool, and the token that requests on it carry at present."""

    rest: RESTClientObject
    host: str
    fingerprint: tuple[object, ...]
    authorization: str | None
    users: int = 0
    retired: bool = False


class Answer:
    """The body of a 2xx answer, which can break off at any byte: then Unreachable is raised."""

    def __init__(self, response: aiohttp.ClientResponse, call: Call, server: str) -> None:
        self._response = response
        self._call = call
        self._server = server

    async def read(self) -> bytes:
        """All of it."""
        with _transport_errors(self._call, self._server):
            return await self._response.read()

    async def chunks(self) -> AsyncIterator[bytes]:
        """As it arrives, cut anywhere."""
        chunks = self._response.content.iter_any()
        while True:
            with _transport_errors(self._call, self._server):
                try:
                    chunk = await anext(chunks)
                except StopAsyncIteration:
                    return
            yield chunk


class Session:
    """Sends calls with credentials that are never much older than a minute. `open` before use, `close` after."""

    def __init__(
        self,
        credentials: Credentials,
        *,
        clock: Clock,
        user_agent: str,
        load_timeout: float = LOAD_TIMEOUT,
        observe: Observe = lambda call, code, seconds: None,
    ) -> None:
        self._observe = observe
        self._credentials = credentials
        self._load_timeout = load_timeout
        self._clock = clock
        self._user_agent = user_agent
        self._pool: _Pool | None = None
        self._loaded_at = 0.0
        self._loading = asyncio.Lock()

    @property
    def server(self) -> str:
        """Address of the API server; empty before `open`."""
        return self._pool.host if self._pool else ""

    async def open(self) -> None:
        """Load the credentials for the first time. Sends nothing. Raises ConfigError."""
        configuration = await self._credentials.load(afresh=True)
        self._pool = self._new_pool(configuration)
        self._loaded_at = self._clock.now()

    async def close(self) -> None:
        """Close the connections; running requests end with Unreachable."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.rest.close()

    @asynccontextmanager
    async def send(self, call: Call) -> AsyncIterator[Answer]:
        """The 2xx answer to `call`, its body not read yet. Raises KubeError."""
        pool = await self._current()
        for last_try in (False, True):
            used = pool.authorization
            pool.users += 1
            response: aiohttp.ClientResponse | None = None
            try:
                with _transport_errors(call, pool.host):
                    response = await self._observed(pool, call)
                    refusal = await response.read() if response.status >= 300 else b""
                if response.status < 300:
                    yield Answer(response, call, pool.host)
                    return
            finally:
                if response is not None:
                    response.close()  # after a body read to its end the connection is back in the pool already
                await self._leave(pool)
            if response.status == 401 and not last_try:
                renewed = await self._renew(pool, used)
                if renewed is not None:
                    pool = renewed
                    continue
            raise error_from_body(
                refusal,
                status=response.status,
                verb=call.verb,
                subject=call.subject,
                server=pool.host,
                retry_after=response.headers.get("Retry-After"),
            )

    async def _observed(self, pool: _Pool, call: Call) -> aiohttp.ClientResponse:
        began, code = self._clock.now(), "unreachable"
        try:
            response = await self._request(pool, call)
            code = str(response.status)
            return response
        finally:
            self._observe(call, code, self._clock.now() - began)

    async def _request(self, pool: _Pool, call: Call) -> aiohttp.ClientResponse:
        headers = {"User-Agent": self._user_agent, "Accept": "application/json", "Content-Type": call.content_type}
        if pool.authorization:
            headers["Authorization"] = pool.authorization
        query = urlencode(
            [
                (key, str(value).lower() if isinstance(value, bool) else str(value))
                for key, value in call.query.items()
                if value is not None and value != ""
            ],
            errors="replace",  # a selector made of somebody's half character matches nothing, which is right
        )
        answer = await pool.rest.request(
            call.method,
            URL(f"{pool.host}{call.path}{'?' if query else ''}{query}", encoded=True),
            headers=headers,
            body=msgspec.to_builtins(call.body),
            _request_timeout=aiohttp.ClientTimeout(total=call.timeout, sock_connect=CONNECT_TIMEOUT),
        )
        response = answer.response
        assert isinstance(response, aiohttp.ClientResponse)
        return response

    async def _current(self) -> _Pool:
        """The pool to use now, its credentials not older than RELOAD_SECONDS if they can be read."""
        if self._pool is None:
            raise Unreachable("the client is closed")
        # Only the request that finds them old waits for the reading; the others go on with what there is.
        if self._clock.now() - self._loaded_at >= RELOAD_SECONDS and not self._loading.locked():
            async with self._loading:
                await self._reload(self._pool, afresh=False)
        return self._pool

    async def _renew(self, pool: _Pool, used: str | None) -> _Pool | None:
        """What to repeat a request on that was refused with `used` on `pool`; None if there is nothing newer."""
        async with self._loading:
            if self._pool is pool and pool.authorization == used:
                # Nobody else has renewed them while we were waiting for the answer or the lock.
                await self._reload(pool, afresh=True)
            renewed = self._pool
            return None if renewed is None or (renewed is pool and pool.authorization == used) else renewed

    async def _reload(self, pool: _Pool, *, afresh: bool) -> None:
        """Read the credentials again. If that fails the old ones stay: they may be good for a while."""
        self._loaded_at = self._clock.now()
        try:
            async with asyncio.timeout(self._load_timeout):
                configuration = await self._credentials.load(afresh=afresh)
            if _fingerprint(configuration) == pool.fingerprint:
                # No token any more: an exec plugin has failed (the loader logs why). Anonymous is never better.
                pool.authorization = _authorization(configuration) or pool.authorization
                return
            self._pool = self._new_pool(configuration)
        except (KubeError, TimeoutError) as error:
            reason = str(error) or f"{self._credentials} could not be read within {self._load_timeout:g} s"
            _log.warning("keeping the credentials read before: %s", reason)
            return
        _log.info("address or TLS material changed: new connections to %s", self._pool.host)
        pool.retired = True
        if pool.users == 0:
            await pool.rest.close()

    async def _leave(self, pool: _Pool) -> None:
        pool.users -= 1
        if pool.retired and pool.users == 0:
            await pool.rest.close()

    def _new_pool(self, configuration: Configuration) -> _Pool:
        if _is_loopback(configuration.host):
            # Go programs never use a proxy from the environment for loopback; aiohttp would.
            configuration.client_session_kwargs = {"trust_env": False}
        try:
            fingerprint = _fingerprint(configuration)
            rest = RESTClientObject(configuration)
        except (OSError, ValueError) as error:  # a certificate that is no certificate is an ssl.SSLError
            raise ConfigError(f"{self._credentials} has unusable TLS material: {error}") from error
        return _Pool(rest, configuration.host, fingerprint, _authorization(configuration))


def _authorization(configuration: Configuration) -> str | None:
    """The Authorization header. Stripped: the in-cluster loader keeps a newline at the end of the token file."""
    value = str(configuration.api_key.get("BearerToken") or "").strip()
    return value or None


def _fingerprint(configuration: Configuration) -> tuple[object, ...]:
    """Everything about a configuration that a connection is bound to; file contents by digest."""
    files = (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file)
    try:
        digests = [hashlib.sha256(Path(file).read_bytes()).digest() if file else None for file in files]
    except OSError as error:
        raise ConfigError(f"cannot read TLS material: {error}") from error
    settings = (configuration.host, configuration.verify_ssl, configuration.tls_server_name, configuration.proxy)
    return (*settings, *digests)


def _is_loopback(host: str) -> bool:
    name = urlsplit(host).hostname or ""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


@contextmanager
def _transport_errors(call: Call, server: str) -> Iterator[None]:
    """What goes wrong below HTTP, as Unreachable with one line a user can act on."""
    try:
        yield
    except (aiohttp.ClientError, OSError) as error:  # timeouts and TLS errors are OSErrors
        if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
            reason = f"the server's certificate is not accepted, check the cluster's certificate-authority: {error}"
        elif isinstance(error, TimeoutError):
            reason = f"no complete answer in time (limit {call.timeout:g} s)"
        else:
            reason = str(error) or type(error).__name__
        raise Unreachable(reason, verb=call.verb, subject=call.subject, server=server) from error
