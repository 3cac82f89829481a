"""PATCH bodies of the three kinds that do not track ownership: JSON patch, merge patch, strategic merge patch."""

from typing import Any

import jsonpatch

from local.kube import bodies, errors
from local.kube.documents import Body, schema_of
from local.kube.errors import ApiError
from local.kube.resources import Resource
from local.kube.store import Object
from local.kube.strategic import StrategicError, strategic_merge

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

# k8s.io/apiserver/pkg/endpoints/handlers/patch.go: maxJSONPatchOperations.
_OPERATIONS_LIMIT = 10_000


def accepted_types(resource: Resource) -> tuple[str, ...]:
    """Media types that PATCH of the resource takes, in the order in which the real server lists them."""
    if resource.custom:
        return (JSON_PATCH, MERGE_PATCH, APPLY_PATCH)
    return (JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH)


def patched(resource: Resource, obj: Object, media_type: str, body: Body) -> Object:
    """The object with the patch applied; `obj` may be changed. Raises ApiError 400, 415 or 422."""
    try:
        patch = body.decode()
    except bodies.BodyError as error:
        raise errors.bad_request(f"error decoding patch: {error}") from None
    if media_type == JSON_PATCH:
        return _json_patched(obj, patch)
    if not isinstance(patch, dict):
        raise errors.bad_request(
            "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"
        )
    if media_type == MERGE_PATCH:
        merged = merge_patched(obj, patch)
    elif media_type == STRATEGIC_PATCH and not resource.custom:
        try:
            merged = strategic_merge(schema_of(resource), obj, patch)
        except StrategicError as error:
            raise errors.bad_request(str(error)) from None
    else:
        raise errors.unsupported_media_type(accepted_types(resource))
    assert isinstance(merged, dict)
    return merged


def merge_patched(value: Any, patch: Any) -> Any:
    """RFC 7386: null removes, objects merge, everything else replaces."""
    if not isinstance(patch, dict):
        return patch
    result = dict(value) if isinstance(value, dict) else {}
    for key, change in patch.items():
        if change is None:
            result.pop(key, None)
        else:
            result[key] = merge_patched(result.get(key), change)
    return result


def _json_patched(obj: Object, patch: Any) -> Object:
    if not isinstance(patch, list):
        raise errors.bad_request(
            "error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch"
        )
    if len(patch) > _OPERATIONS_LIMIT:
        message = f"The allowed maximum operations in a JSON patch is {_OPERATIONS_LIMIT}, got {len(patch)}"
        raise ApiError(413, "RequestEntityTooLarge", f"Request entity too large: {message}")
    try:
        result = jsonpatch.JsonPatch(patch).apply(obj)
    except (jsonpatch.InvalidJsonPatch, jsonpatch.JsonPointerException) as error:
        if isinstance(error, jsonpatch.JsonPatchConflict):
            raise _unprocessable(error) from None
        raise _unprocessable(error) from None
    except jsonpatch.JsonPatchException as error:
        raise _unprocessable(error) from None
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        # The library trusts the types of operations more than a server may.
        raise _unprocessable(error) from None
    if not isinstance(result, dict):
        raise errors.bad_request("error decoding patch: the patched document is not an object")
    return result


def _unprocessable(error: Exception) -> ApiError:
    return ApiError(
        422, "Invalid", f"the server rejected our request due to an error in our request: {error}", details={}
    )
