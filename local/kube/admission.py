"""ValidatingAdmissionPolicies in force: what CEL says about a write before it takes place.

As in the real server (k8s.io/apiserver/pkg/admission/plugin/policy/validating), a policy does nothing without a binding,
and a binding refuses only with the action Deny. A write is looked at as it would be stored, with what it replaces, who asks,
and the parameters that the binding names. The first refusal is the answer. Where an expression cannot be evaluated,
`failurePolicy` decides. The server's own controllers are not asked, nor are policies and bindings themselves.

In force at once, where the real server takes a moment. Left out: `authorizer`, `paramRef.selector`, audit annotations,
excludeResourceRules, and the actions Warn and Audit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from local.kube import errors
from local.kube.cel import types as t
from local.kube.cel.compile import CompileError, Program, compile_expression
from local.kube.cel.evaluate import evaluate
from local.kube.cel.functions import CelError
from local.kube.cel.types import Type
from local.kube.cel.values import ObjectValue, plain
from local.kube.errors import ApiError
from local.kube.resources import Resource
from local.kube.store import Object, Store

_GROUP = "admissionregistration.k8s.io"
_POLICIES = f"validatingadmissionpolicies.{_GROUP}"
_BINDINGS = f"validatingadmissionpolicybindings.{_GROUP}"
_CODES = {"Unauthorized": 401, "Forbidden": 403, "Invalid": 422, "RequestEntityTooLarge": 413}
"""Reasons that a validation may give, and their status; the default is Invalid."""

_STRINGS = t.list_of(t.STRING)
_USER = Type(
    "object",
    name="kubernetes.UserInfo",
    fields={"username": t.STRING, "uid": t.STRING, "groups": _STRINGS, "extra": t.map_of(t.STRING, _STRINGS)},
)
REQUEST = Type(
    "object",
    name="kubernetes.AdmissionRequest",
    fields={"userInfo": _USER, "name": t.STRING, "namespace": t.STRING, "operation": t.STRING, "subResource": t.STRING},
)


@dataclass(frozen=True)
class Write:
    """A write that is about to take place. `obj` is None for a deletion, `old` for a creation."""

    operation: str
    resource: Resource
    namespace: str
    name: str
    subresource: str
    obj: Object | None
    old: Object | None
    user: Mapping[str, Any]

    @property
    def request(self) -> dict[str, Any]:
        """What expressions see as `request`."""
        return {
            "userInfo": dict(self.user), "name": self.name, "namespace": self.namespace,
            "operation": self.operation, "subResource": self.subresource,
        }  # fmt: skip


class Policy:
    """One ValidatingAdmissionPolicy, apart from where it applies."""

    def __init__(self, policy: Object) -> None:
        self._spec = policy["spec"]
        self._programs: dict[tuple[str, frozenset[str]], Program] = {}
        """Compiled expressions, by text and the variables that there were."""

    def refusals(
        self, request: Object, obj: Object | None, old: Object | None = None, params: Object | None = None
    ) -> list[tuple[str, str]]:
        """Reason and message of all validations that a request fails; empty when it is admitted, or none of its business.

        An expression that cannot be evaluated is one of them, unless the policy is to ignore its own failures.
        """
        values: dict[str, Any] = {
            "request": _objects(plain(request)),
            "object": plain(obj),
            "oldObject": plain(old),
            "params": plain(params),
            "variables": ObjectValue(),
        }
        conditions = [self._value(each["expression"], values) for each in self._spec.get("matchConditions") or ()]
        if False in conditions:
            return []
        failures = [str(value) for value in conditions if isinstance(value, CelError)]
        for each in self._spec.get("variables") or ():
            values["variables"][each["name"]] = self._value(each["expression"], values)
        found = []
        for each in (self._spec.get("validations") or ()) if not failures else ():
            value = self._value(each["expression"], values)
            if isinstance(value, CelError):
                failures.append(f"expression '{each['expression']}' resulted in error: {value}")
            elif value is not True:
                found.append((each.get("reason") or "Invalid", self._message(each, values)))
        if self._spec.get("failurePolicy", "Fail") == "Fail":
            found += [("Invalid", failure) for failure in failures]
        return found

    def _message(self, validation: Object, values: Mapping[str, Any]) -> str:
        if "messageExpression" in validation:
            text = self._value(validation["messageExpression"], values)
            if isinstance(text, str) and text.strip():
                return text
        return validation.get("message") or f"failed expression: {validation['expression'].strip()}"

    def _value(self, text: str, values: Mapping[str, Any]) -> Any:
        key = (text, frozenset(values["variables"]))
        if key not in self._programs:
            variables = Type("object", name="variables", fields=dict.fromkeys(values["variables"], t.DYN))
            types = {"request": REQUEST, "object": t.DYN, "oldObject": t.DYN, "params": t.DYN, "variables": variables}
            try:
                self._programs[key] = compile_expression(text, types)
            except CompileError as error:
                return CelError(f"compilation error: {error}")
        try:
            return evaluate(self._programs[key].checked, values)
        except CelError as error:
            return error


class Admission:
    """The policies of one cluster."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._policies: dict[tuple[str, str], Policy] = {}
        """By uid and version."""

    def check(self, write: Write) -> None:
        """Raises ApiError when a policy refuses the write."""
        if write.resource.group == _GROUP:
            return
        for binding in [stored.object for stored in self._store.items(_BINDINGS)]:
            stored = self._store.get(_POLICIES, "", binding["spec"].get("policyName", ""))
            if stored is None or "Deny" not in binding["spec"].get("validationActions", ()):
                continue
            policy, places = stored.object, (binding["spec"].get("matchResources") or {})
            if self._concerns(policy["spec"].get("matchConstraints") or {}, write, everything=False) and (
                self._concerns(places, write, everything=True)
            ):
                self._judge(policy, binding, write)

    def _judge(self, policy: Object, binding: Object, write: Write) -> None:
        names = f"ValidatingAdmissionPolicy '{policy['metadata']['name']}' with binding '{binding['metadata']['name']}'"
        reference = binding["spec"].get("paramRef")
        params = self._params(policy, reference, write) if reference else None
        if reference and params is None:
            if reference.get("parameterNotFoundAction") == "Deny":
                why = "no params found for policy binding with `Deny` parameterNotFoundAction"
                raise _refusal(write, "Invalid", f"{names} denied request: failed to configure binding: {why}")
            return
        meta = policy["metadata"]
        key = (meta["uid"], meta["resourceVersion"])
        if key not in self._policies:
            self._policies[key] = Policy(policy)
        for reason, message in self._policies[key].refusals(write.request, write.obj, write.old, params):
            raise _refusal(write, reason, f"{names} denied request: {message}")

    def _params(self, policy: Object, reference: Object, write: Write) -> Object | None:
        kind = (policy["spec"].get("paramKind") or {}).get("kind", "")
        stored = self._store.get(f"{kind.lower()}s", reference.get("namespace") or write.namespace, reference["name"])
        return stored.object if stored is not None else None

    def _concerns(self, places: Object, write: Write, *, everything: bool) -> bool:
        """Whether a write is among these resources. `everything`: what no rules at all mean."""
        rules = places.get("resourceRules") or ()
        if not (any(_in_rule(rule, write) for rule in rules) if rules else everything):
            return False
        labels = (write.obj or write.old or {})["metadata"].get("labels") or {}
        if not _selects(places.get("objectSelector") or {}, labels):
            return False
        # Of cluster-scoped objects only Namespaces have labels of a namespace: their own.
        if not write.namespace and write.resource.storage_key != "namespaces":
            return True
        stored = self._store.get("namespaces", "", write.namespace or write.name)
        return _selects(
            places.get("namespaceSelector") or {}, (stored.object["metadata"].get("labels") or {}) if stored else {}
        )


def _refusal(write: Write, reason: str, message: str) -> ApiError:
    refused = errors.forbidden(write.resource, write.name, message)
    return ApiError(_CODES.get(reason, 422), reason, refused.message, details=refused.details)


def _in_rule(rule: Object, write: Write) -> bool:
    resource = write.resource
    named = f"{resource.plural}/{write.subresource}" if write.subresource else resource.plural
    wild = {"*/*", f"*/{write.subresource}", f"{resource.plural}/*"} if write.subresource else {"*", "*/*"}
    return (
        _names(rule.get("apiGroups"), resource.group)
        and _names(rule.get("apiVersions"), resource.version)
        and _names(rule.get("operations"), write.operation)
        and not wild.union([named]).isdisjoint(rule.get("resources") or ())
        and rule.get("scope", "*") in ("*", "Namespaced" if resource.namespaced else "Cluster")
        and (not rule.get("resourceNames") or write.name in rule["resourceNames"])
    )


def _names(entries: Iterable[str] | None, value: str) -> bool:
    return any(entry in ("*", value) for entry in entries or ())


def _selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector (metav1) selects these labels."""
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for each in selector.get("matchExpressions") or ():
        value, values = labels.get(each["key"]), each.get("values") or ()
        holds = {
            "In": value in values,
            "NotIn": value not in values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }
        if not holds[each["operator"]]:
            return False
    return True


def _objects(value: Any) -> Any:
    """Maps with declared fields, as the request is one."""
    fields = {key: item for key, item in value.items() if key != "userInfo"}
    return ObjectValue({**fields, "userInfo": ObjectValue(value["userInfo"])})
