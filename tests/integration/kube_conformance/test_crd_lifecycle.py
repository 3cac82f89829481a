"""CustomResourceDefinitions: accepted, refused, changed and removed while the server runs."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.integration.kube_conformance.objects import CRDS, condition, crd, names
from tests.support.api import Api, Json
from tests.support.waiting import wait_until

pytestmark = pytest.mark.conformance

GROUP = "lifecycle.example.com"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io"


@dataclass(frozen=True)
class Gadgets:
    """A CRD of one test's own and the path of its objects in the test's namespace."""

    group: str
    path: str

    @property
    def definition(self) -> str:
        return f"{CRDS}/gadgets.{self.group}"

    def crd(self) -> Json:
        schema = {"type": "object", "properties": {"size": {"type": "integer"}}}
        return crd("gadgets", "Gadget", self.group, schema)

    def make(self, name: str, **spec: object) -> Json:
        return {"apiVersion": f"{self.group}/v1", "kind": "Gadget", "metadata": {"name": name}, "spec": spec}


@pytest.fixture
def gadgets(api: Api, namespace: str) -> Iterator[Gadgets]:
    """A definition in a group that no other test has seen, served."""
    group = f"{secrets.token_hex(4)}.example.com"
    found = Gadgets(group, f"/apis/{group}/v1/namespaces/{namespace}/gadgets")
    api.post(CRDS, found.crd()).expect(201)
    wait_until(lambda: condition(api.get(found.definition).expect(200), "Established") == "True", what="established")
    wait_until(lambda: api.get(found.path).status == 200, what="gadgets are served")
    yield found
    api.delete(found.definition).expect(200)


def test_names_are_filled_in_and_accepted(api: Api, gadgets: Gadgets) -> None:
    found = api.get(gadgets.definition).expect(200)
    expected = {"plural": "gadgets", "singular": "gadget", "kind": "Gadget", "listKind": "GadgetList"}
    assert found["spec"]["names"] == expected
    assert found["status"]["acceptedNames"] == expected
    assert found["status"]["storedVersions"] == ["v1"]
    assert condition(found, "NamesAccepted") == "True"
    assert api.get(gadgets.path).expect(200)["kind"] == "GadgetList"
    table = api.request("GET", gadgets.path, accept=TABLE).expect(200)
    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "Age"]


def test_a_changed_schema_counts_without_a_restart(api: Api, gadgets: Gadgets) -> None:
    created = api.post(gadgets.path, gadgets.make("a", size=1, colour="red")).expect(201)
    assert created["spec"] == {"size": 1}
    field = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/colour"
    added = [{"op": "add", "path": field, "value": {"type": "string", "default": "grey"}}]
    changed = api.patch(gadgets.definition, added, "application/json-patch+json").expect(200)
    assert changed["metadata"]["generation"] == 2
    # What was stored before gets the new default when it is read.
    wait_until(
        lambda: api.get(f"{gadgets.path}/a").expect(200)["spec"] == {"size": 1, "colour": "grey"},
        what="the new schema is in force",
    )
    assert api.post(gadgets.path, gadgets.make("b", colour="red")).expect(201)["spec"] == {"colour": "red"}


def test_without_status_subresource_the_status_is_a_field(api: Api, gadgets: Gadgets) -> None:
    assert api.get(f"{gadgets.path}/a/status").status == 404
    api.post(gadgets.path, gadgets.make("a")).expect(201)
    assert api.patch(f"{gadgets.path}/a/status", {"status": {}}).status == 404


def test_deletion_takes_the_objects_along(api: Api, gadgets: Gadgets) -> None:
    api.post(gadgets.path, gadgets.make("a")).expect(201)
    api.delete(gadgets.definition).expect(200)
    wait_until(lambda: api.get(gadgets.definition).status == 404, what="the CRD is gone")
    wait_until(lambda: api.get(gadgets.path).status == 404, what="the path is gone")
    wait_until(
        lambda: gadgets.group not in [group["name"] for group in api.get("/apis").expect(200)["groups"]],
        what="the group is gone from discovery",
    )
    api.post(CRDS, gadgets.crd()).expect(201)
    wait_until(lambda: api.get(gadgets.path).status == 200, what="gadgets are served again")
    assert names(api.get(gadgets.path).expect(200)) == []


def test_a_watch_of_definitions(api: Api, gadgets: Gadgets) -> None:
    with api.watch(CRDS, fieldSelector=f"metadata.name=gadgets.{gadgets.group}") as watch:
        found = watch.until(lambda event: condition(event["object"], "Established") == "True")
    assert found["type"] in ("ADDED", "MODIFIED")


def test_definitions_of_one_name_exist_once(api: Api, gadgets: Gadgets) -> None:
    assert api.post(CRDS, gadgets.crd()).expect(409)["reason"] == "AlreadyExists"


def refused(api: Api, definition: Json) -> str:
    status = api.post(CRDS, definition).expect(422)
    assert status["reason"] == "Invalid"
    return str(status["message"])


def version_of(definition: Json) -> Json:
    (version,) = definition["spec"]["versions"]
    assert isinstance(version, dict)
    return version


def test_the_name_is_made_of_plural_and_group(api: Api) -> None:
    definition = crd("gizmos", "Gizmo", GROUP)
    definition["metadata"]["name"] = "other"
    assert 'metadata.name: Invalid value: "other": must be spec.names.plural+"."+spec.group' in refused(api, definition)


def test_a_new_definition_has_no_conditions_yet(api: Api) -> None:
    """Clients meet the null before the server has looked at the names."""
    created = api.post(CRDS, crd("gizmos", "Gizmo", GROUP), dryRun="All").expect(201)
    assert created["status"] == {
        "conditions": None, "acceptedNames": {"kind": "", "plural": ""}, "storedVersions": ["v1"],
    }  # fmt: skip


def test_a_schema_is_required(api: Api) -> None:
    definition = crd("gizmos", "Gizmo", GROUP)
    del version_of(definition)["schema"]
    assert "schema.openAPIV3Schema: Required value" in refused(api, definition)


def test_exactly_one_version_is_stored(api: Api) -> None:
    definition = crd("gizmos", "Gizmo", GROUP, storage=False)
    assert "must have exactly one version marked as storage version" in refused(api, definition)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"description": "no type"}, "properties[field].type: Required value: must not be empty for specified"),
        ({"type": "text"}, "properties[field].type"),
        ({"type": "array"}, "properties[field].items: Required value"),
        ({"type": "integer", "default": "five"}, "properties[field].default"),
        ({"type": "string", "enum": ["a"], "default": "b"}, "properties[field].default"),
        ({"type": "string", "pattern": "("}, "properties[field].pattern"),
        ({"type": "array", "items": {"type": "object"}, "x-kubernetes-list-type": "map"}, "x-kubernetes-list-map-keys"),
    ],
)
def test_schemas_must_be_structural(api: Api, field: Json, message: str) -> None:
    definition = crd("gizmos", "Gizmo", GROUP, {"type": "object", "properties": {"field": field}})
    assert message in refused(api, definition)


@pytest.mark.parametrize("rule", ["self.size ==", "self.absent > 0", "'text'", "unknown(self)"])
def test_rules_must_compile(api: Api, rule: str) -> None:
    schema = {
        "type": "object",
        "properties": {"size": {"type": "integer"}},
        "x-kubernetes-validations": [{"rule": rule}],
    }
    message = refused(api, crd("gizmos", "Gizmo", GROUP, schema))
    assert "x-kubernetes-validations[0].rule: Invalid value" in message
    assert "compilation failed" in message or "must evaluate to a bool" in message
