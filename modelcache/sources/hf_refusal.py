"""Put into words why a hub did not answer as wished: what happened, and what the writer of the DynamoModel can do.

A pure function from the exceptions of `huggingface_hub` and `httpx2` to the tree of `modelcache.sources.errors`. The texts
that the server sends are not repeated: they are written for other clients, and a server may put anything into them.
"""

from collections.abc import Mapping

import httpx2
import msgspec
from huggingface_hub import errors as hub
from huggingface_hub.utils import parse_ratelimit_headers

from modelcache.sources import patience
from modelcache.sources.errors import (
    LicenseNotAccepted,
    MalformedListing,
    NotFound,
    RateLimited,
    RevisionNotFound,
    SourceChanged,
    SourceError,
    Unauthorized,
    Unreachable,
)
from modelcache.sources.hf_access import DEFAULT_ENDPOINT, Access
from modelcache.sources.tls import CA_KEY
from modelcache.sources.uri import SourceURI

_SET_SECRET = "set spec.source.secretRef to a Secret with a Hugging Face token"  # noqa: S105 -- a sentence, no secret


class Asked(msgspec.Struct, frozen=True):
    """What was asked for, for the messages."""

    access: Access
    uri: SourceURI
    revision: str

    @property
    def page(self) -> str:
        """Where a person looks at the repository."""
        return f"{self.access.endpoint}/{self.uri.authority}/{self.uri.path}"


def explain(error: Exception, asked: Asked, now: float) -> SourceError:
    """Return the error to raise instead of `error`, which came from a request for `asked`; `now` in Unix seconds."""
    if isinstance(error, hub.HfHubHTTPError):
        return _explain_answer(error, asked, now)
    return _explain_silence(error, asked)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that the server asks us to wait: `Retry-After` (RFC 9110 10.2.3) or the hub's `RateLimit`.

    `now` in Unix seconds, for the form of `Retry-After` that is a date.
    """
    seconds = patience.retry_after(headers.get("retry-after"), now)
    if seconds is not None:
        return seconds
    info = parse_ratelimit_headers(headers)
    if info is None or info.remaining > 0:
        return None
    return min(max(float(info.reset_in_seconds), 0.0), patience.LONGEST_RETRY_AFTER)


def _explain_answer(error: hub.HfHubHTTPError, asked: Asked, now: float) -> SourceError:
    uri, access, status = asked.uri, asked.access, error.response.status_code
    wait = retry_after(error.response.headers, now)
    if status == 429:
        when = "" if wait is None else f" for {wait:.0f} s"
        hint = "" if access.token else f"; requests with a token have a higher limit: {_SET_SECRET}"
        return RateLimited(
            f"{access.endpoint} wants fewer requests{when} ({uri}), and is asked again by itself{hint}.",
            retry_after=wait,
        )
    if status == 408 or status >= 500:
        return Unreachable(
            f"{access.endpoint} answers {status} to requests for {uri}: {_endpoint_hint(access)}", retry_after=wait
        )
    # Before RepositoryNotFoundError, of which it is a kind.
    if isinstance(error, hub.GatedRepoError):
        return _explain_gate(asked)
    if isinstance(error, hub.RepositoryNotFoundError):
        if access.token is None:
            return NotFound(
                f"{access.endpoint} has no repository {uri.authority}/{uri.path}, or it is private. Check the name; if it is "
                f"private, {_SET_SECRET} that may read it."
            )
        return NotFound(
            f"{access.endpoint} has no repository {uri.authority}/{uri.path} that the token from {access.origin} may see. "
            f"Check the name, and the permissions of the token."
        )
    if isinstance(error, hub.RevisionNotFoundError):
        return RevisionNotFound(
            f"{uri} has no branch, tag or commit {asked.revision!r}: choose one of those at {asked.page}/tree/main."
        )
    if isinstance(error, hub.RemoteEntryNotFoundError):
        return SourceChanged(f"{uri} lists a file at {asked.revision!r} that {access.endpoint} does not have any more.")
    if isinstance(error, hub.DisabledRepoError):
        return NotFound(f"{access.endpoint} has disabled {uri}: see {asked.page}.")
    if status in (401, 403):
        return _explain_denial(status, asked)
    if status == 404:
        return NotFound(
            f"{access.endpoint} does not know the address of {uri}: check that HF_ENDPOINT names a Hugging Face hub."
        )
    return MalformedListing(
        f"{access.endpoint} answers {status} to a request for {uri}: check that HF_ENDPOINT names a hub."
    )


def _explain_gate(asked: Asked) -> SourceError:
    if asked.access.token is None:
        return Unauthorized(
            f"{asked.uri} is gated: accept its terms at {asked.page}, then {_SET_SECRET} of the account that accepted them."
        )
    return LicenseNotAccepted(
        f"{asked.uri} is gated, and the owner of the token from {asked.access.origin} has no access: accept the terms at "
        f"{asked.page} with that account; if its authors grant access by hand, wait for them."
    )


def _explain_denial(status: int, asked: Asked) -> SourceError:
    access = asked.access
    if access.token is None:
        return Unauthorized(f"{access.endpoint} wants a token for {asked.uri} ({status}): {_SET_SECRET}.")
    if status == 401:
        return Unauthorized(
            f"{access.endpoint} does not accept the token from {access.origin} (401): put a valid one there, see "
            f"{access.endpoint}/settings/tokens."
        )
    return Unauthorized(
        f"The token from {access.origin} may not read {asked.uri} (403): give it that permission at "
        f"{access.endpoint}/settings/tokens, or name another Secret in spec.source.secretRef."
    )


def _explain_silence(error: Exception, asked: Asked) -> SourceError:
    if isinstance(error, hub.OfflineModeIsEnabled):
        return Unreachable(
            f"{asked.uri} is not asked for: HF_HUB_OFFLINE is set in the controller's environment; unset it."
        )
    if isinstance(error, httpx2.InvalidURL | httpx2.DecodingError | ValueError):
        return MalformedListing(
            f"{asked.access.endpoint} cannot be understood ({error}): check that HF_ENDPOINT names a hub."
        )
    if isinstance(error, httpx2.TimeoutException):
        return Unreachable(
            f"{asked.access.endpoint} does not answer in time ({asked.uri}): {_endpoint_hint(asked.access)}"
        )
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return Unreachable(
            f"{asked.access.endpoint} has no certificate that is trusted here ({asked.uri}): store that of your certificate "
            f"authority under the key {CA_KEY!r} of the Secret of spec.source.secretRef, or set SSL_CERT_FILE."
        )
    detail = str(error) or type(error).__name__
    return Unreachable(
        f"{asked.access.endpoint} cannot be reached ({detail}), so not {asked.uri}: {_endpoint_hint(asked.access)}"
    )


def _endpoint_hint(access: Access) -> str:
    if access.endpoint == DEFAULT_ENDPOINT:
        return "check the controller's network and proxy, or set its HF_ENDPOINT to a mirror that it reaches."
    return "check the controller's network and proxy, and HF_ENDPOINT, which names this address."
