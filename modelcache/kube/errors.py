"""Everything that can go wrong between this process and the Kubernetes API, as one tree.

    KubeError                 base; knows verb, subject, server, HTTP status, reason
    |-- ConfigError           no usable kubeconfig or service account: nothing was sent
    |-- Unreachable           no (complete) answer: refused, reset, timed out, TLS. A write may or may not have happened
    |-- Unauthorized          401, also after the credentials were read again
    |-- Forbidden             403: RBAC, admission, or a namespace that is being deleted
    |-- NotFound              404: the object, or the whole resource (its CRD is not installed)
    |-- AlreadyExists         409 on create
    |-- Conflict              409 on a write with a stale resourceVersion or a foreign field manager
    |-- Gone                  410: a resourceVersion or continue token that the server no longer remembers
    |-- Invalid               400, 405, 406, 413, 415, 422: this request will never succeed as it is
    |-- TooManyRequests       429: come back after `retry_after`
    `-- ServerError           5xx, and answers that make no sense

The server answers failures with a `Status` object (`reason`, `message`, `details`); the class is chosen from its `reason`
where that says more than the HTTP code (409 is both AlreadyExists and Conflict), else from the code. The body is only
ever used for text: an answer from a proxy in between, in HTML, gives the same exception with a shortened quotation.

The messages are meant to reach a condition or a log unchanged, so each names the verb, the object, the server's reason
and the server: `patch dynamomodels.nvidia.com "team-a/llama": Conflict (409): the object has been modified [http://...]`.
"""

import msgspec


class KubeError(Exception):
    """A request to the Kubernetes API that did not succeed.

    `status` is the HTTP status, 0 if there was none. `retry_after` is what the server asked for in `Retry-After`,
    in seconds. `message` is the server's sentence alone, without verb and subject.
    """

    def __init__(
        self,
        message: str,
        *,
        verb: str = "",
        subject: str = "",
        server: str = "",
        status: int = 0,
        reason: str = "",
        retry_after: float | None = None,
    ) -> None:
        self.message = message
        self.verb = verb
        self.subject = subject
        self.server = server
        self.status = status
        self.reason = reason
        self.retry_after = retry_after
        super().__init__(message)

    def __str__(self) -> str:
        action = " ".join(part for part in (self.verb, self.subject) if part)
        cause = self.reason or ""
        if self.status:
            cause = f"{cause} ({self.status})" if cause else f"HTTP {self.status}"
        text = ": ".join(part for part in (action, cause, self.message) if part)
        return f"{text} [{self.server}]" if self.server else text


class ConfigError(KubeError):
    """No cluster to talk to: the kubeconfig or the service account is missing or broken."""


class Unreachable(KubeError):
    """No complete answer arrived. A write may have been carried out all the same."""


class Unauthorized(KubeError):
    """401: the credentials are wrong or expired, and reading them again did not help."""


class Forbidden(KubeError):
    """403: the credentials are good, but not for this."""


class NotFound(KubeError):
    """404: no such object, or no such resource in this cluster."""


class AlreadyExists(KubeError):
    """409 on create: an object of this name is there."""


class Conflict(KubeError):
    """409 on update: somebody else has written since the object was read."""


class Gone(KubeError):
    """410: the resourceVersion or continue token is too old; list again."""


class Invalid(KubeError):
    """The request itself is refused; repeating it unchanged is useless."""


class TooManyRequests(KubeError):
    """429: slow down, see `retry_after`."""


class ServerError(KubeError):
    """5xx, or an answer that is not what the API promises."""


class StatusBody(msgspec.Struct, rename="camel"):
    """The part of `meta/v1 Status` that is read here. `code` may be 0 in a watch's ERROR event of odd servers."""

    kind: str = ""
    message: str | None = None
    reason: str | None = None
    code: int | None = None
    details: msgspec.Raw = msgspec.Raw()


class _Cause(msgspec.Struct):
    reason: str = ""


class _Details(msgspec.Struct):
    causes: list[_Cause] | None = None


# https://github.com/kubernetes/apimachinery/blob/master/pkg/apis/meta/v1/types.go, type StatusReason
_BY_REASON: dict[str, type[KubeError]] = {
    "Unauthorized": Unauthorized,
    "Forbidden": Forbidden,
    "NotFound": NotFound,
    "AlreadyExists": AlreadyExists,
    "Conflict": Conflict,
    "Gone": Gone,
    "Expired": Gone,
    "Invalid": Invalid,
    "BadRequest": Invalid,
    "TooManyRequests": TooManyRequests,
}
_BY_CODE: dict[int, type[KubeError]] = {
    400: Invalid,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    405: Invalid,
    406: Invalid,
    409: Conflict,
    410: Gone,
    413: Invalid,
    415: Invalid,
    422: Invalid,
    429: TooManyRequests,
}
_QUOTED = 300  # characters of a body that is not a Status


def error_from_body(
    body: bytes,
    *,
    status: int,
    verb: str,
    subject: str,
    server: str,
    retry_after: str | None = None,
) -> KubeError:
    """The exception for a failed request (or for an ERROR event of a watch, whose object is a Status too).

    `status` is the HTTP status; 0 takes the code from the body. `retry_after` is the header as it came.
    """
    try:
        parsed = msgspec.json.decode(body, type=StatusBody)
    except (msgspec.MsgspecError, RecursionError):
        parsed = StatusBody()
    if parsed.kind == "Status":
        message = parsed.message or "no message from the server"
        reason = parsed.reason or ""
        code = status or parsed.code or 0
    else:
        message = printable(body[: 4 * _QUOTED].decode("utf-8", "replace"), _QUOTED) or "empty answer"
        reason, code = "", status
    if _has_cause(parsed.details, "ResourceVersionTooLarge"):
        # 504 with this cause: the version is from before the server's data was replaced (an etcd backup). Waiting for
        # it, as the plain 504 suggests, would be for ever; the answer is the same as to a version too old.
        reason = "Expired"
    # An answer whose code and reason disagree (a proxy that rewrites one of them) is judged by its reason.
    cls = _BY_REASON.get(reason) or _BY_CODE.get(code) or ServerError
    return cls(
        message,
        verb=verb,
        subject=subject,
        server=server,
        status=code,
        reason=reason,
        retry_after=parse_retry_after(retry_after),
    )


def _has_cause(details: msgspec.Raw, reason: str) -> bool:
    try:
        causes = msgspec.json.decode(details, type=_Details).causes
    except (msgspec.MsgspecError, RecursionError):
        return False
    return any(cause.reason == reason for cause in causes or ())


def parse_retry_after(header: str | None) -> float | None:
    """Seconds from a `Retry-After` header, at least 0 and at most an hour; None if there is none.

    The API server sends whole seconds only; the date form of RFC 9110 is not used by it and reads as None.
    """
    if header is None or not header.strip().isdecimal():
        return None
    return float(min(int(header.strip()[:9]), 3600))


def printable(text: str, limit: int) -> str:
    """`text` on one line without control characters, at most `limit` characters, marked with an ellipsis when cut."""
    # Nearly every text is as it should be, and this is called for each of thousands of endpoints: letter by letter only if not.
    line = " ".join((text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
