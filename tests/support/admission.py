"""ValidatingAdmissionPolicies, judged as the API server does, with the CEL of local.kube.

Two passes, as there. `problems` compiles every expression with the types of the request, and of the objects where their
schema is known: what it finds would show as warnings in the status of the policy. `refusals` evaluates it for one request,
where objects are of no type, and says what speaks against the request.
"""

from typing import Any

from local.kube import admission
from local.kube.builtin_schemas import builtin_schema
from local.kube.cel.compile import CompileError, compile_expression
from local.kube.cel.types import Schema, Type, schema_type

Json = dict[str, Any]


class Policy:
    """One ValidatingAdmissionPolicy. `kind` is the core kind that it is about, for the typed pass."""

    def __init__(self, policy: Json, kind: str) -> None:
        self._policy = admission.Policy(policy)
        self._spec = policy["spec"]
        self._kind = kind

    def problems(self) -> list[str]:
        """What the server's type check would complain about."""
        found = []
        types = self._types(_with_metadata(builtin_schema("", "v1", self._kind)))
        for where, text, wanted in self._expressions():
            try:
                program = compile_expression(text, types)
            except CompileError as error:
                found.append(f"{where}: {error}")
                continue
            result = program.checked.result
            if wanted and result.kind not in (wanted, "dyn"):
                found.append(f"{where}: is {result}, not {wanted}")
            if where.startswith("variables."):
                name = where.removeprefix("variables.")
                fields = {**types["variables"].fields, name: result}
                types["variables"] = Type("object", name="kubernetes.variables", fields=fields)
        return found

    def refusals(self, request: Json, obj: Json, old: Json | None = None, params: Json | None = None) -> list[str]:
        """The messages of all validations that the request fails; empty when it is admitted, or not this policy's affair.

        An expression that cannot be evaluated is one of them, because the policy is to fail closed.
        """
        return [message for _, message in self._policy.refusals(request, obj, old, params)]

    def _types(self, schema: Schema) -> dict[str, Type]:
        kind = schema_type(schema, root=False, name=self._kind)
        params = schema_type(_with_metadata(builtin_schema("", "v1", "ConfigMap")), name="params")
        assert kind is not None
        assert params is not None
        variables = Type("object", name="kubernetes.variables", fields={})
        return {
            "request": admission.REQUEST,
            "object": kind,
            "oldObject": kind,
            "params": params,
            "variables": variables,
        }

    def _expressions(self) -> list[tuple[str, str, str]]:
        spec = self._spec
        found = [(f"matchConditions.{e['name']}", e["expression"], "bool") for e in spec.get("matchConditions", ())]
        found += [(f"variables.{each['name']}", each["expression"], "") for each in spec.get("variables", ())]
        for number, each in enumerate(spec["validations"]):
            found.append((f"validations[{number}]", each["expression"], "bool"))
            if "messageExpression" in each:
                found.append((f"validations[{number}].messageExpression", each["messageExpression"], "string"))
        return found


def _with_metadata(schema: Schema) -> Schema:
    """The schema of a built-in kind with the parts of its metadata that policies look at."""
    strings = {"type": "object", "additionalProperties": {"type": "string"}}
    words = ("apiVersion", "kind", "name", "uid")
    owner = {"type": "object", "properties": {word: {"type": "string"} for word in words}}
    metadata = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "labels": strings,
            "annotations": strings,
            "finalizers": {"type": "array", "items": {"type": "string"}},
            "ownerReferences": {"type": "array", "items": owner},
        },
    }
    return {**schema, "properties": {**schema["properties"], "metadata": metadata}}
