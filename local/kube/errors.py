"""What a client is told when a request fails: one exception that carries a `Status` object.

    ApiError                       any refused request; `status` is the body, `code` the HTTP status
      constructors below           one per reason of the real server, with its wording

Clients act on `reason` and `code` (a 409 is retried, a 410 relists), people read `message`; both are protocol.
Wording follows k8s.io/apimachinery/pkg/api/errors.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from local.kube.causes import INVALID, Cause, go_quote
from local.kube.resources import Resource


class ApiError(Exception):
    """A request is refused; the HTTP layer turns it into a `Status` body."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.metadata = metadata

    @property
    def status(self) -> dict[str, Any]:
        """The `Status` object as sent to the client."""
        status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": dict(self.metadata or {}),
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            status["reason"] = self.reason
        if self.details:
            status["details"] = dict(self.details)
        status["code"] = self.code
        return status


def _details(resource: Resource, name: str = "", **more: Any) -> dict[str, Any]:
    details: dict[str, Any] = {}
    if name:
        details["name"] = name
    if resource.group:
        details["group"] = resource.group
    details["kind"] = resource.plural
    return details | more


def group_kind(resource: Resource) -> str:
    """`Pod`, or `DynamoModel.nvidia.com`."""
    return f"{resource.kind}.{resource.group}" if resource.group else resource.kind


def bad_request(message: str) -> ApiError:
    """The request cannot be understood."""
    return ApiError(400, "BadRequest", message)


def not_found(resource: Resource, name: str) -> ApiError:
    """No such object."""
    return ApiError(
        404, "NotFound", f"{resource.group_resource} {go_quote(name)} not found", details=_details(resource, name)
    )


def resource_not_found() -> ApiError:
    """The resource type itself is not served (any more)."""
    return ApiError(404, "NotFound", "the server could not find the requested resource", details={})


def already_exists(resource: Resource, name: str) -> ApiError:
    """Create of an object that is there."""
    return ApiError(
        409,
        "AlreadyExists",
        f"{resource.group_resource} {go_quote(name)} already exists",
        details=_details(resource, name),
    )


def generate_name_conflict(resource: Resource, name: str) -> ApiError:
    """`generateName` produced a name in use; the client should simply try again."""
    return ApiError(
        409,
        "AlreadyExists",
        f"{resource.group_resource} {go_quote(name)} already exists, the server was not able to generate a unique name for "
        "the object",
        details=_details(resource, name, retryAfterSeconds=1),
    )


def conflict(resource: Resource, name: str, why: str) -> ApiError:
    """The write is based on something that is no longer so."""
    return ApiError(
        409,
        "Conflict",
        f"Operation cannot be fulfilled on {resource.group_resource} {go_quote(name)}: {why}",
        details=_details(resource, name),
    )


def stale(resource: Resource, name: str) -> ApiError:
    """The write carries an old resourceVersion."""
    return conflict(
        resource, name, "the object has been modified; please apply your changes to the latest version and try again"
    )


def apply_conflict(causes: Sequence[Cause], message: str) -> ApiError:
    """Server-side apply would change fields that other managers own."""
    return ApiError(409, "Conflict", message, details={"causes": [_cause(cause) for cause in causes]})


def forbidden(resource: Resource, name: str, why: str, causes: Iterable[Cause] = ()) -> ApiError:
    """Understood, and refused."""
    subject = f"{resource.group_resource} {go_quote(name)}" if name else resource.group_resource
    listed = [_cause(cause) for cause in causes]
    more = {"causes": listed} if listed else {}
    return ApiError(403, "Forbidden", f"{subject} is forbidden: {why}", details=_details(resource, name, **more))


def invalid(resource: Resource, name: str, causes: Sequence[Cause]) -> ApiError:
    """The object breaks the rules of its type; every cause is listed."""
    lines = list(dict.fromkeys(str(cause) for cause in causes))
    text = lines[0] if len(lines) == 1 else f"[{', '.join(lines)}]"
    details: dict[str, Any] = {}
    if name:
        details["name"] = name
    if resource.group:
        details["group"] = resource.group
    details["kind"] = resource.kind
    details["causes"] = [_cause(cause) for cause in causes]
    return ApiError(422, "Invalid", f"{group_kind(resource)} {go_quote(name)} is invalid: {text}", details=details)


def unconditional_update(resource: Resource, name: str) -> ApiError:
    """A PUT that does not say which version it replaces, where that is asked for. The server names the resource here."""
    cause = Cause("metadata.resourceVersion", INVALID, "Invalid value: 0: must be specified for an update")
    found = invalid(resource, name, [cause])
    details = {**(found.details or {}), "kind": resource.plural}
    return ApiError(422, "Invalid", f"{resource.group_resource} {go_quote(name)} is invalid: {cause}", details=details)


def invalid_options(kind: str, causes: Sequence[Cause], group: str = "meta.k8s.io") -> ApiError:
    """Query parameters that contradict each other: `ListOptions.meta.k8s.io "" is invalid: ...`."""
    lines = list(dict.fromkeys(str(cause) for cause in causes))
    text = lines[0] if len(lines) == 1 else f"[{', '.join(lines)}]"
    return ApiError(
        422,
        "Invalid",
        f'{kind}.{group} "" is invalid: {text}',
        details={"group": group, "kind": kind, "causes": [_cause(cause) for cause in causes]},
    )


def method_not_allowed(resource: Resource, action: str) -> ApiError:
    """The resource exists and does not have this verb."""
    return ApiError(
        405,
        "MethodNotAllowed",
        f"{action} is not supported on resources of kind {go_quote(resource.group_resource)}",
        details=_details(resource),
    )


def unauthorized() -> ApiError:
    """A credential was shown, and is none."""
    return ApiError(401, "Unauthorized", "Unauthorized")


def plain_method_not_allowed() -> ApiError:
    """The path exists and does not have this HTTP method."""
    return ApiError(
        405, "MethodNotAllowed", "the server does not allow this method on the requested resource", details={}
    )


def expired(message: str, continue_token: str = "") -> ApiError:
    """The history that the request needs is gone: start over with a list."""
    return ApiError(410, "Expired", message, metadata={"continue": continue_token} if continue_token else None)


def too_large_resource_version(asked: int, current: int) -> ApiError:
    """A version that this server has not reached."""
    return ApiError(
        504,
        "Timeout",
        f"Timeout: Too large resource version: {asked}, current: {current}",
        details={
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        },
    )


def body_too_large(limit: int) -> ApiError:
    """More bytes than the server reads."""
    return ApiError(413, "RequestEntityTooLarge", f"Request entity too large: limit is {limit}")


def object_too_large() -> ApiError:
    """The encoded object exceeds what etcd takes in one request; etcd's own words, without a reason."""
    return ApiError(500, "", "etcdserver: request is too large")


def unsupported_media_type(accepted: Sequence[str]) -> ApiError:
    """The body is in a format that this path does not read."""
    return ApiError(
        415,
        "UnsupportedMediaType",
        f"the body of the request was in an unknown format - accepted media types include: {', '.join(accepted)}",
    )


def not_acceptable(accepted: Sequence[str]) -> ApiError:
    """The client accepts no format that the server writes."""
    return ApiError(406, "NotAcceptable", f"only the following media types are accepted: {', '.join(accepted)}")


def internal(message: str) -> ApiError:
    """A defect of this server."""
    return ApiError(
        500,
        "InternalError",
        f"Internal error occurred: {message}",
        details={"causes": [{"message": message}]},
    )


def _cause(cause: Cause) -> dict[str, str]:
    return {"reason": cause.reason, "message": cause.message, "field": cause.field}
