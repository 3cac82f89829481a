"""Query parameters and the DeleteOptions body, with the checks that the real server makes on them."""

import re
from collections.abc import Mapping
from typing import Any

from local.kube import causes, errors
from local.kube.bodies import BodyError
from local.kube.causes import Cause, go_quote
from local.kube.deletes import BACKGROUND, FOREGROUND, ORPHAN, DeleteOptions
from local.kube.documents import IGNORE, STRICT, WARN, Body
from local.kube.reads import ListOptions, Selection
from local.kube.resources import Resource
from local.kube.selectors import SelectorError, parse_field_selector, parse_label_selector
from local.kube.watching import WatchOptions
from local.kube.writes import WriteOptions

Query = Mapping[str, str]

# k8s.io/apimachinery/pkg/apis/meta/v1/validation: FieldManagerMaxLength.
_MANAGER_LIMIT = 128


def flag(query: Query, name: str) -> bool:
    """A boolean parameter: present without a value is true, as is everything but `0` and `false`."""
    value = query.get(name)
    return value is not None and value.lower() not in ("0", "false")


def _integer(query: Query, name: str) -> int | None:
    text = query.get(name, "")
    if not text:
        return None
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise errors.bad_request(f"strconv.ParseInt: parsing {go_quote(text)}: invalid syntax")
    return int(text)


def selection(query: Query, resource: Resource, namespace: str) -> Selection:
    """The selectors of a collection. Raises ApiError 400."""
    try:
        labels = parse_label_selector(query.get("labelSelector", ""))
        fields = parse_field_selector(query.get("fieldSelector", ""), resource)
    except SelectorError as error:
        raise errors.bad_request(str(error)) from None
    return Selection(namespace, labels, fields)


def list_options(query: Query) -> ListOptions:
    """Paging and versions. Raises ApiError 400."""
    return ListOptions(
        limit=_integer(query, "limit") or 0,
        continue_token=query.get("continue", ""),
        version=query.get("resourceVersion", ""),
        version_match=query.get("resourceVersionMatch", ""),
        send_initial_events=flag(query, "sendInitialEvents") if "sendInitialEvents" in query else None,
    )


def watch_options(query: Query) -> WatchOptions:
    """What only a watch has. Raises ApiError 400."""
    seconds = _integer(query, "timeoutSeconds")
    return WatchOptions(flag(query, "allowWatchBookmarks"), float(seconds) if seconds and seconds > 0 else None)


def _dry_run(values: list[str]) -> tuple[bool, list[Cause]]:
    problems = [causes.not_supported("dryRun", value, ["All"]) for value in values if value != "All"]
    return "All" in values, problems[:1]


def write_options(query: Query, user_agent: str, kind: str) -> WriteOptions:
    """Options of create, update and patch; `kind` is the name of the options in messages. Raises ApiError 422."""
    dry_run, problems = _dry_run([query["dryRun"]] if query.get("dryRun") else [])
    manager = query.get("fieldManager", "")
    if len(manager.encode()) > _MANAGER_LIMIT:
        problems.append(causes.too_long("fieldManager", _MANAGER_LIMIT))
    if not manager.isprintable():
        problems.append(causes.invalid("fieldManager", manager, "should only contain printable characters"))
    validation = query.get("fieldValidation", "") or WARN
    if validation not in (STRICT, WARN, IGNORE):
        problems.append(causes.not_supported("fieldValidation", validation, ["", IGNORE, WARN, STRICT]))
    if problems:
        raise errors.invalid_options(kind, problems)
    return WriteOptions(manager or default_manager(user_agent), dry_run, validation, flag(query, "force"))


def apply_options(query: Query, user_agent: str) -> WriteOptions:
    """Options of server-side apply, which needs a manager by name. Raises ApiError 422."""
    options = write_options(query, user_agent, "PatchOptions")
    if not query.get("fieldManager"):
        raise errors.invalid_options("PatchOptions", [causes.required("fieldManager", "is required for apply patch")])
    return options


def refuse_force(query: Query) -> None:
    """`force` belongs to apply alone. Raises ApiError 422."""
    if "force" in query:
        cause = causes.forbidden("force", "may not be specified for non-apply patch")
        raise errors.invalid_options("PatchOptions", [cause])


def default_manager(user_agent: str) -> str:
    """The field manager of a client that names none: its program's name (k8s.io/apiserver, managerOrUserAgent)."""
    prefix = user_agent.split("/", 1)[0].encode()[:_MANAGER_LIMIT].decode(errors="ignore")
    return "".join(character for character in prefix if character.isprintable()) or "unknown"


def delete_options(query: Query, body: Body) -> DeleteOptions:
    """Options of a delete: the body wins over the query, as in the real server. Raises ApiError 400 or 422."""
    given: dict[str, Any]
    if body.content.strip():
        try:
            decoded = body.decode()
        except BodyError as error:
            raise errors.bad_request(f"couldn't get version/kind; json parse error: {error}") from None
        if not isinstance(decoded, dict):
            raise errors.bad_request(
                "couldn't get version/kind; json parse error: expected an object of kind DeleteOptions"
            )
        if decoded.get("kind", "DeleteOptions") not in ("DeleteOptions", "", None):
            raise errors.bad_request(
                f'no kind {go_quote(str(decoded["kind"]))} is registered: expected "DeleteOptions"'
            )
        given = decoded
        if "dryRun" not in given and query.get("dryRun"):
            given = given | {"dryRun": [query["dryRun"]]}
    else:
        given = {
            "propagationPolicy": query.get("propagationPolicy"),
            "gracePeriodSeconds": _integer(query, "gracePeriodSeconds"),
            "dryRun": [query["dryRun"]] if query.get("dryRun") else None,
            "orphanDependents": flag(query, "orphanDependents") if "orphanDependents" in query else None,
        }
    return _checked_delete(given)


def _checked_delete(given: dict[str, Any]) -> DeleteOptions:
    policy = _typed(given, "propagationPolicy", str)
    orphan = _typed(given, "orphanDependents", bool)
    grace = _typed(given, "gracePeriodSeconds", int)
    preconditions = _typed(given, "preconditions", dict) or {}
    values = _typed(given, "dryRun", list) or []
    dry_run, problems = _dry_run([str(value) for value in values])
    if policy is not None and policy not in (BACKGROUND, FOREGROUND, ORPHAN):
        problems.append(causes.not_supported("propagationPolicy", policy, [FOREGROUND, BACKGROUND, ORPHAN, "nil"]))
    if policy is not None and orphan is not None:
        problems.append(
            causes.invalid("propagationPolicy", policy, "orphanDependents and deletionPropagation cannot be both set")
        )
    if problems:
        raise errors.invalid_options("DeleteOptions", problems)
    if orphan is not None:
        policy = ORPHAN if orphan else BACKGROUND
    return DeleteOptions(
        dry_run=dry_run,
        propagation=policy or "",
        # A negative period means "at once", as 1 does for the kubelet.
        grace_seconds=None if grace is None else max(grace, 0),
        uid=_typed(preconditions, "uid", str) or "",
        version=_typed(preconditions, "resourceVersion", str) or "",
    )


def _typed(given: dict[str, Any], key: str, kind: type) -> Any:
    value = given.get(key)
    if value is None or (isinstance(value, kind) and not (kind is int and isinstance(value, bool))):
        return value
    raise errors.bad_request(f"DeleteOptions.{key}: expected {kind.__name__}, found {type(value).__name__}")
