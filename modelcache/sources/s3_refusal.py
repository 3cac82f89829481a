"""Put into words why S3 did not answer as wished. A pure function from the exceptions of botocore to our tree of errors.

Texts of the server are not repeated: they are for other clients, may hold anything, and name things like canonical requests
that contain signatures. Its error *codes* are, where they are codes (letters and digits): people search for them.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from modelcache.sources.errors import (
    InvalidURI,
    MalformedListing,
    NotFound,
    RateLimited,
    SourceChanged,
    SourceError,
    Unauthorized,
    Unreachable,
    Unsupported,
)
from modelcache.sources.patience import retry_after
from modelcache.sources.s3_access import Access
from modelcache.sources.tls import CA_KEY
from modelcache.sources.uri import SourceURI

_CODE = re.compile(r"[A-Za-z0-9.]{1,64}")
_PATIENCE = frozenset({
    "SlowDown", "ServiceUnavailable", "RequestLimitExceeded", "Throttling", "ThrottlingException", "TooManyRequests",
    "BandwidthLimitExceeded", "RequestThrottled", "SlowDownRead", "SlowDownWrite",
})  # fmt: skip
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"})
_WRONG_KEY = frozenset({
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidSecurity", "MissingSecurityHeader",
    "UnrecognizedClientException", "InvalidClientTokenId",
})  # fmt: skip
_ELSEWHERE = frozenset({"PermanentRedirect", "301", "IllegalLocationConstraintException", "TemporaryRedirect"})
_SET_SECRET = "set spec.source.secretRef to a Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"  # noqa: S105 -- a sentence, no secret


class Asked(msgspec.Struct, frozen=True):
    """What was asked for, for the messages. `signed` False: without a credential, because none was found or wanted."""

    access: Access
    uri: SourceURI
    signed: bool
    endpoint: str


def explain(error: Exception, asked: Asked, now: float) -> SourceError:
    """Return the error to raise instead of `error`, which came from a request for `asked`; `now` in Unix seconds."""
    if isinstance(error, boto.ClientError):
        return _explain_answer(error, asked, now)
    uri, where = asked.uri, asked.endpoint
    kind = type(error).__name__
    if isinstance(error, boto.SSLError):
        return Unreachable(
            f"{where} has no certificate that is trusted here ({uri}): store that of your certificate authority under the key "
            f"{CA_KEY!r} of the Secret of spec.source.secretRef, or set SSL_CERT_FILE."
        )
    if isinstance(error, boto.HTTPClientError | boto.ConnectionError | boto.IncompleteReadError):
        return Unreachable(f"{where} cannot be reached ({kind}), so not {uri}: check the network and the endpoint.")
    if isinstance(error, ResponseParserError):
        return MalformedListing(f"{where} does not answer as S3 does ({uri}): check AWS_ENDPOINT_URL.")
    if isinstance(error, boto.ParamValidationError):
        return InvalidURI(f"{uri} is no place that S3 could have: write s3://bucket/prefix.")
    if isinstance(error, boto.NoRegionError | boto.InvalidRegionError):
        return Unsupported(f"{uri} is in no region that is known here: set AWS_REGION.")
    if isinstance(error, boto.BotoCoreError):
        # What is left has to do with finding a credential: profiles, SSO, metadata services, STS.
        return Unauthorized(
            f"No credential could be had from {asked.access.origin} for {uri} ({kind}): correct its AWS settings, or "
            f"{_SET_SECRET}."
        )
    return MalformedListing(f"{where} does not answer as S3 does ({uri}; {kind}): check AWS_ENDPOINT_URL.")


def _explain_answer(error: boto.ClientError, asked: Asked, now: float) -> SourceError:
    status, code = _status_and_code(error)
    uri, where, origin = asked.uri, asked.endpoint, asked.access.origin
    said = f"{where} answers {code or status}"
    after = _retry_after(error, now)
    if status == 429 or code in _PATIENCE or (status == 503 and not code):
        return RateLimited(
            f"{said} for {uri}: it asks for fewer requests, and is asked again by itself.", retry_after=after
        )
    if status >= 500 or code in ("InternalError", "RequestTimeout"):
        return Unreachable(
            f"{said} for {uri}: it is in trouble, or no S3; if that lasts, check AWS_ENDPOINT_URL.", retry_after=after
        )
    if code in _EXPIRED:
        return Unauthorized(f"{said}: the credential from {origin} for {uri} has expired; put a fresh one there.")
    if code in _WRONG_KEY:
        return Unauthorized(f"{said}: the credential from {origin} is not accepted for {uri}; put a valid one there.")
    if code == "AuthorizationHeaderMalformed":
        return Unauthorized(
            f"{said} for {uri}: what was signed is for another region, or the access key has the wrong form; set AWS_REGION to "
            f"the region of the bucket, and correct the credential from {origin}."
        )
    if code == "RequestTimeTooSkewed":
        return Unauthorized(f"{said} for {uri}: the clock of this machine is wrong; set it.")
    if code == "NoSuchBucket":
        return NotFound(f"{uri}: {where} has no bucket {uri.authority!r}; correct the name, region or endpoint.")
    if code == "PreconditionFailed" or status == 412:
        return SourceChanged(f"{uri} was changed while it was listed: it is listed again by itself.")
    if status in (401, 403):
        if not asked.signed:
            return Unauthorized(f"{said} for {uri}, which is not public, and there is no credential: {_SET_SECRET}.")
        return Unauthorized(
            f"{said}: the credential from {origin} may not read {uri}; allow it s3:ListBucket and s3:GetObject there."
        )
    if code in _ELSEWHERE or status in (301, 307):
        return Unsupported(f"{said}: {uri} is in another region; set AWS_REGION to it.")
    if status == 404:
        return NotFound(f"{uri}: {where} has no such object; correct the address.")
    if code == "InvalidBucketName":
        return InvalidURI(f"{uri}: {uri.authority!r} cannot be the name of a bucket.")
    if status == 400 and not code:
        # To a HeadObject, whose answer has no body to say why.
        return Unsupported(
            f"{said} to a question about an object of {uri}: one that is encrypted with a customer's own key (SSE-C) cannot be "
            f"read; leave it out with spec.source.exclude. If the credential is a session, it may have ended: renew it."
        )
    return MalformedListing(
        f"{said} ({status}) for {uri}, as S3 does not to such a request: check AWS_ENDPOINT_URL and AWS_REGION."
    )


def _status_and_code(error: boto.ClientError) -> tuple[int, str]:
    response: Any = error.response
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = response.get("Error", {}).get("Code")
    # For HEAD requests there is no body to read a code from; botocore then puts the status there.
    known = isinstance(code, str) and _CODE.fullmatch(code) and not code.isdigit()
    return (status if isinstance(status, int) else 0), (code if known else "")


def _retry_after(error: boto.ClientError, now: float) -> float | None:
    headers: Any = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return retry_after(headers.get("retry-after"), now)
