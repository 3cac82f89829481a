"""Definitions that a real server refuses are refused here, in its words; the project's own is accepted."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from local.kube.crd import validate_crd
from local.kube.structural import apply_defaults, prune, validate

Object = dict[str, Any]

OWN = Path(__file__).parents[3] / "manifests" / "crd" / "dynamomodels.nvidia.com.yaml"
OWN_CRD: Object = yaml.safe_load(OWN.read_text(encoding="utf-8"))
ROOT = "spec.validation.openAPIV3Schema"


def definition(**spec: Any) -> Object:
    names = {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object"}}}},
    }
    base = {"group": "example.com", "scope": "Namespaced", "names": names, "versions": [version]}
    return {"metadata": {"name": "things.example.com"}, "spec": {**base, **spec}}


def with_version(**more: Any) -> Object:
    crd = definition()
    crd["spec"]["versions"][0].update(more)
    return crd


def with_spec(schema: Object) -> Object:
    return with_version(schema={"openAPIV3Schema": {"type": "object", "properties": {"spec": schema}}})


def faults(crd: Object, old: Object | None = None) -> list[str]:
    return [str(cause) for cause in validate_crd(crd, old)]


def test_a_plain_definition_is_fine() -> None:
    assert faults(definition()) == []


class TestSpec:
    def test_the_name_is_made_of_plural_and_group(self) -> None:
        crd = definition()
        crd["metadata"]["name"] = "thing.example.com"
        assert faults(crd) == [
            'metadata.name: Invalid value: "thing.example.com": must be spec.names.plural+"."+spec.group'
        ]

    @pytest.mark.parametrize(
        ("change", "fault"),
        [
            ({"group": "nodots"}, 'spec.group: Invalid value: "nodots": should be a domain with at least one dot'),
            ({"scope": "Both"}, 'spec.scope: Unsupported value: "Both": supported values: "Cluster", "Namespaced"'),
            ({"scope": ""}, "spec.scope: Required value"),
            ({"versions": []}, "must have exactly one version marked as storage version"),
            ({"preserveUnknownFields": True}, "spec.preserveUnknownFields: Invalid value: true: cannot set to true"),
            ({"conversion": {"strategy": "Magic"}}, "spec.conversion.strategy: Unsupported value"),
            ({"conversion": {"strategy": "Webhook"}}, "required when strategy is set to Webhook"),
        ],
    )
    def test_refuses(self, change: Object, fault: str) -> None:
        assert any(fault in found for found in faults(definition(**change)))

    @pytest.mark.parametrize(
        ("key", "value", "fault"),
        [
            ("kind", "9Thing", "may have mixed case, but should otherwise match: a DNS-1035 label"),
            ("listKind", "Thing", "kind and listKind may not be the same"),
            ("shortNames", ["ok", "Not OK"], "spec.names.shortNames[1]: Invalid value"),
            ("categories", ["A"], "spec.names.categories[0]: Invalid value"),
            ("singular", "", "spec.names.singular: Required value"),
        ],
    )
    def test_refuses_names(self, key: str, value: Any, fault: str) -> None:
        crd = definition()
        crd["spec"]["names"][key] = value
        assert any(fault in found for found in faults(crd))

    def test_versions(self) -> None:
        crd = definition()
        first = crd["spec"]["versions"][0]
        crd["spec"]["versions"] = [first, {**first, "name": "v1"}]
        found = faults(crd)
        assert any("must contain unique version names" in fault for fault in found)
        assert any("must have exactly one version marked as storage version" in fault for fault in found)
        crd["spec"]["versions"] = [first, {**first, "name": "V2", "storage": False}]
        assert any(fault.startswith('spec.versions[1].name: Invalid value: "V2"') for fault in faults(crd))

    def test_faults_of_one_version_among_several_name_it(self) -> None:
        crd = definition()
        first = crd["spec"]["versions"][0]
        bad = {"openAPIV3Schema": {"type": "object", "properties": {"spec": {}}}}
        crd["spec"]["versions"] = [first, {**first, "name": "v2", "storage": False, "schema": bad}]
        assert faults(crd) == [
            "spec.versions[1].schema.openAPIV3Schema.properties[spec].type: Required value: must not be empty for "
            "specified object fields"
        ]

    def test_every_version_needs_a_schema(self) -> None:
        crd = with_version()
        del crd["spec"]["versions"][0]["schema"]
        assert faults(crd) == ["spec.versions[0].schema.openAPIV3Schema: Required value"]

    @pytest.mark.parametrize(
        ("column", "fault"),
        [
            ({"type": "string", "jsonPath": ".a"}, "spec.additionalPrinterColumns[0].name: Required value"),
            ({"name": "A", "jsonPath": ".a"}, "must be one of boolean,date,integer,number,string"),
            ({"name": "A", "type": "text", "jsonPath": ".a"}, "must be one of boolean,date,integer,number,string"),
            ({"name": "A", "type": "string"}, "spec.additionalPrinterColumns[0].JSONPath: Required value"),
            ({"name": "A", "type": "string", "jsonPath": "a"}, "must be a simple json path starting with ."),
            ({"name": "A", "type": "string", "jsonPath": ".a", "format": "x"}, "must be one of byte,date,date-time"),
        ],
    )
    def test_refuses_columns(self, column: Object, fault: str) -> None:
        assert any(fault in found for found in faults(with_version(additionalPrinterColumns=[column])))

    def test_scale_paths(self) -> None:
        scale = {"specReplicasPath": ".status.n", "labelSelectorPath": ".spec.x"}
        found = faults(with_version(subresources={"scale": scale}))
        assert found == [
            'spec.subresources.scale.specReplicasPath: Invalid value: ".status.n": should be a json path under .spec',
            "spec.subresources.scale.statusReplicasPath: Required value",
            'spec.subresources.scale.labelSelectorPath: Invalid value: ".spec.x": should be a json path under .status',
        ]

    def test_selectable_fields(self) -> None:
        schema = {"type": "object", "properties": {"a": {"type": "string"}, "o": {"type": "object"}}}
        crd = with_spec(schema)
        paths = [".spec.a", ".spec.a", ".spec.b", ".spec.o", ".spec['a']"]
        crd["spec"]["versions"][0]["selectableFields"] = [{"jsonPath": path} for path in paths]
        where = "spec.versions[0].selectableFields"
        found = faults(crd)
        assert found[0] == f'{where}[1].jsonPath: Duplicate value: ".spec.a"'
        assert found[1].startswith(f'{where}[2].jsonPath: Invalid value: ".spec.b": is an invalid path: does not refer')
        assert "must point to a field of type string, boolean or integer" in found[2]
        assert "array notation is not allowed" in found[3]

    def test_deprecation_warning(self) -> None:
        assert "can only be set for deprecated versions" in faults(with_version(deprecationWarning="old"))[0]
        long = with_version(deprecated=True, deprecationWarning="x" * 257)
        assert "must be <= 256 characters long" in faults(long)[0]

    def test_what_an_update_may_not_change(self) -> None:
        old = definition()
        old["status"] = {
            "conditions": [{"type": "Established", "status": "True"}],
            "storedVersions": ["v1", "v0"],
        }
        new = definition(scope="Cluster")
        new["spec"]["names"]["kind"] = "Other"
        found = faults(new, old)
        assert 'spec.scope: Invalid value: "Cluster": field is immutable' in found
        assert 'spec.names.kind: Invalid value: "Other": field is immutable' in found
        assert any("v0 was previously a storage version" in fault for fault in found)
        assert faults(old, {**old, "status": {}}) == []


class TestStructure:
    @pytest.mark.parametrize(
        ("schema", "fault"),
        [
            ({}, ".type: Required value: must not be empty for specified object fields"),
            ({"type": "array"}, ".items: Required value: must be specified"),
            (
                {"type": "array", "items": {}},
                ".items.type: Required value: must not be empty for specified array items",
            ),
            ({"type": "text"}, '.type: Unsupported value: "text"'),
            ({"type": "null"}, ".type: Forbidden: type cannot be set to null, use nullable as an alternative"),
            ({"type": "object", "$ref": "x"}, ".$ref: Forbidden: $ref is not supported"),
            (
                {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "string"}},
                ".additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
            ),
            ({"type": "string", "pattern": "("}, '.pattern: Invalid value: "(": must be a valid regular expression'),
            ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, ".uniqueItems: Forbidden"),
            ({"type": "object", "x-kubernetes-preserve-unknown-fields": False}, "must be true or undefined"),
            (
                {"type": "string", "allOf": [{"type": "string"}]},
                ".allOf[0].type: Forbidden: must be empty to be structural",
            ),
            ({"type": "string", "anyOf": [{"description": "x"}]}, ".anyOf[0].description: Forbidden: must be empty"),
            ({"type": "string", "oneOf": [{"default": "x"}]}, ".oneOf[0].default: Forbidden: must be undefined"),
            ({"type": "string", "not": {"nullable": True}}, ".not.nullable: Forbidden: must be false to be structural"),
            (
                {"x-kubernetes-int-or-string": True, "x-kubernetes-preserve-unknown-fields": True},
                "must be false if x-kubernetes-int-or-string is true",
            ),
            (
                {"type": "string", "x-kubernetes-list-type": "set"},
                "must be array if x-kubernetes-list-type is specified",
            ),
            (
                {"type": "string", "x-kubernetes-map-type": "atomic"},
                "must be object if x-kubernetes-map-type is specified",
            ),
            (
                {"type": "object", "x-kubernetes-embedded-resource": True},
                ".properties: Required value: must not be empty if x-kubernetes-embedded-resource is true",
            ),
            (
                {"type": "string", "x-kubernetes-embedded-resource": True},
                "must be object if x-kubernetes-embedded-resource is true",
            ),
        ],
    )
    def test_refuses(self, schema: Object, fault: str) -> None:
        assert any(
            fault in found and found.startswith(f"{ROOT}.properties[spec]") for found in faults(with_spec(schema))
        )

    @pytest.mark.parametrize(
        "schema",
        [
            {"x-kubernetes-preserve-unknown-fields": True},
            {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]},
            {"x-kubernetes-int-or-string": True, "allOf": [{"anyOf": [{"type": "integer"}, {"type": "string"}]}]},
            {
                "type": "object",
                "properties": {"a": {"type": "integer"}},
                "anyOf": [{"properties": {"a": {"minimum": 1}}}],
            },
            {"type": "object", "additionalProperties": {"type": "string"}},
            {"type": "object", "additionalProperties": True},
        ],
    )
    def test_accepts(self, schema: Object) -> None:
        assert faults(with_spec(schema)) == []

    @pytest.mark.parametrize(
        ("items", "more", "fault"),
        [
            ({"type": "object"}, {}, "x-kubernetes-list-map-keys: Required value: must not be empty"),
            ({"type": "string"}, {"x-kubernetes-list-map-keys": ["k"]}, ".items.type: Invalid value"),
            ({"type": "object"}, {"x-kubernetes-list-map-keys": ["k"]}, "entries must all be names of item properties"),
            (
                {"type": "object", "properties": {"k": {"type": "string"}}},
                {"x-kubernetes-list-map-keys": ["k"]},
                "so it must have a default or be a required property",
            ),
            (
                {"type": "object", "properties": {"k": {"type": "object"}}, "required": ["k"]},
                {"x-kubernetes-list-map-keys": ["k"]},
                "must be a scalar type if parent array's x-kubernetes-list-type is map",
            ),
        ],
    )
    def test_refuses_map_lists(self, items: Object, more: Object, fault: str) -> None:
        schema = {"type": "array", "x-kubernetes-list-type": "map", "items": items, **more}
        assert any(fault in found for found in faults(with_spec(schema)))

    def test_sets_need_atomic_items(self) -> None:
        schema = {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object"}}
        assert any("must be atomic as item of a list" in found for found in faults(with_spec(schema)))

    @pytest.mark.parametrize(
        ("root", "fault"),
        [
            ({"type": "object", "nullable": True}, f"{ROOT}.nullable: Forbidden: nullable cannot be true at the root"),
            (
                {"type": "array", "items": {"type": "string"}},
                'type: Invalid value: "array": must be object at the root',
            ),
            ({}, f"{ROOT}.type: Required value: must not be empty at the root"),
            (
                {"type": "object", "anyOf": [{"properties": {"a": {"minimum": 1}}}]},
                f"{ROOT}.properties[a]: Required value: because it is defined in {ROOT}.anyOf[0].properties[a]",
            ),
            (
                {"type": "object", "allOf": [{"items": {"minimum": 1}}]},
                f"{ROOT}.items: Required value: because it is defined in {ROOT}.allOf[0].items",
            ),
            (
                {"type": "object", "additionalProperties": {"type": "string"}},
                f"{ROOT}.additionalProperties: Forbidden: must not be used at the root",
            ),
            (
                {
                    "type": "object",
                    "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}},
                },
                "must not specify anything other than name and generateName, but metadata is implicitly specified",
            ),
            ({"type": "object", "properties": {"kind": {"type": "integer"}}}, "properties[kind].type: Invalid value"),
            (
                {"type": "object", "properties": {"kind": {"type": "string", "default": "x"}}},
                "default: Forbidden: must not be set in top-level kind",
            ),
        ],
    )
    def test_the_root(self, root: Object, fault: str) -> None:
        assert any(fault in found for found in faults(with_version(schema={"openAPIV3Schema": root})))

    def test_metadata_may_restrict_names(self) -> None:
        metadata = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 5}}}
        root = {"type": "object", "properties": {"metadata": metadata}}
        assert faults(with_version(schema={"openAPIV3Schema": root})) == []

    def test_a_status_subresource_limits_the_root(self) -> None:
        root = {"type": "object", "anyOf": [{"required": ["spec"]}], "properties": {"spec": {"type": "object"}}}
        crd = with_version(schema={"openAPIV3Schema": root}, subresources={"status": {}})
        assert any(
            "fields are allowed at the root of the schema if the status subresource" in found for found in faults(crd)
        )

    @pytest.mark.parametrize(
        ("schema", "fault"),
        [
            ({"type": "integer", "default": "x"}, ".default: Invalid value: "),
            ({"type": "string", "enum": ["a"], "default": "b"}, '.default: Unsupported value: "b"'),
            ({"type": "object", "properties": {}, "default": {"x": 1}}, "must not have unknown fields"),
            (
                {"type": "object", "properties": {"a": {"type": "integer", "maximum": 1, "default": 2}}},
                ".properties[a].default: Invalid value: 2",
            ),
        ],
    )
    def test_defaults_must_be_valid(self, schema: Object, fault: str) -> None:
        assert any(fault in found for found in faults(with_spec(schema)))


def rules(schema: Object, *entries: Object) -> Object:
    return {**schema, "x-kubernetes-validations": list(entries)}


TEXT: Object = {"type": "string"}


class TestRules:
    @pytest.mark.parametrize(
        ("rule", "fault"),
        [
            ({"rule": " "}, "[0].rule: Required value: rule is not specified"),
            ({"rule": "true", "message": " "}, "message must be non-empty if specified"),
            ({"rule": "true", "message": "a\nb"}, "message must not contain line breaks"),
            ({"rule": "true &&\ntrue"}, "message must be specified if rule contains line breaks"),
            ({"rule": "true", "reason": "Bad"}, '[0].reason: Unsupported value: "Bad"'),
            ({"rule": "true", "fieldPath": ".nope"}, "fieldPath must be a valid path"),
            ({"rule": "true", "messageExpression": "1"}, "messageExpression must evaluate to a string"),
            ({"rule": "true", "messageExpression": "self.nope"}, "messageExpression compilation failed: ERROR"),
            ({"rule": "true", "optionalOldSelf": True}, "may not be set if oldSelf is not used in rule"),
            ({"rule": "1"}, "cel expression must evaluate to a bool"),
            ({"rule": "self.nope == 1"}, "compilation failed: ERROR: <input>:1:5: undefined field 'nope'"),
            ({"rule": "self.a =="}, "compilation failed: ERROR: <input>:1:"),
        ],
    )
    def test_refuses(self, rule: Object, fault: str) -> None:
        schema = rules({"type": "object", "properties": {"a": TEXT}}, rule)
        assert any(fault in found for found in faults(with_spec(schema)))

    def test_a_rule_on_what_rules_cannot_see(self) -> None:
        schema = rules({"x-kubernetes-preserve-unknown-fields": True}, {"rule": "true"})
        assert any(
            "rule declared on schema that does not support validation rules" in found
            for found in faults(with_spec(schema))
        )

    def test_old_self_needs_items_that_can_be_told_apart(self) -> None:
        items = rules(TEXT, {"rule": "self == oldSelf"})
        path = f"{ROOT}.properties[spec]"
        assert faults(with_spec({"type": "array", "maxItems": 3, "items": items})) == [
            f'{path}.items.x-kubernetes-validations[0].rule: Invalid value: "self == oldSelf": oldSelf cannot be used on '
            f"the uncorrelatable portion of the schema within {path}"
        ]

    def test_schema_faults_come_before_rules(self) -> None:
        schema = rules({"type": "object", "properties": {"a": {}}}, {"rule": "self.nope"})
        assert all("compilation failed" not in found for found in faults(with_spec(schema)))


MATCHING: Object = {"rule": "self.matches('^[a-z]+$')"}


class TestBudget:
    def nested(self, text: Object, **bounds: int) -> Object:
        inner: Object = {"type": "array", "items": rules(text, MATCHING)}
        outer: Object = {"type": "array", "items": inner}
        if "inner" in bounds:
            inner["maxItems"] = bounds["inner"]
        if "outer" in bounds:
            outer["maxItems"] = bounds["outer"]
        return outer

    def test_a_string_without_bound_is_fine_once(self) -> None:
        assert faults(with_spec(rules(TEXT, MATCHING))) == []

    @pytest.mark.parametrize("bounds", [{}, {"inner": 10}, {"outer": 10}])
    def test_but_not_in_lists_without_bound(self, bounds: dict[str, int]) -> None:
        found = faults(with_spec(self.nested(TEXT, **bounds)))
        where = f"{ROOT}.properties[spec].items.items.x-kubernetes-validations[0].rule"
        assert f"{where}: Forbidden: estimated rule cost exceeds budget by factor of more than 100x" in found[0]
        assert found[1] == (
            f"{where}: Forbidden: contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"
        )
        assert found[2].startswith(
            f"{ROOT}: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds"
        )

    def test_and_with_bounds_again(self) -> None:
        assert faults(with_spec(self.nested({"type": "string", "maxLength": 63}, inner=10, outer=10))) == []

    @pytest.mark.parametrize(
        ("most", "factor"), [(15, None), (20, "1.258294x"), (40, "2.5x"), (2000, "more than 100x")]
    )
    def test_the_factor_is_given_when_it_is_near(self, most: int, factor: str | None) -> None:
        # One match costs 629147: 0.1 a character of up to 3 MiB, times 0.25 a character of the pattern.
        found = faults(with_spec({"type": "array", "maxItems": most, "items": rules(TEXT, MATCHING)}))
        assert bool(found) is (factor is not None)
        if factor is not None:
            assert f"estimated rule cost exceeds budget by factor of {factor} (try simplifying the rule" in found[0]

    def test_many_affordable_rules_may_be_too_many(self) -> None:
        each = {"type": "array", "maxItems": 5, "items": rules(TEXT, MATCHING)}
        schema = {"type": "object", "properties": {f"f{index}": copy.deepcopy(each) for index in range(40)}}
        found = faults(with_spec(schema))
        assert not any("estimated rule cost exceeds" in fault for fault in found)
        assert any(
            "rule cost total for entire OpenAPIv3 schema exceeds budget by factor of" in fault for fault in found
        )
        assert sum("contributed to" in fault for fault in found) == 4


class TestOwnDefinition:
    """The shipped CRD. Its manifests are tried against a server in the integration tests."""

    def test_is_accepted(self) -> None:
        assert faults(OWN_CRD) == []

    def refusals(self, spec: Object, old: Object | None = None) -> list[str]:
        schema = OWN_CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        made = []
        for content in (spec, old):
            if content is not None:
                obj = {
                    "apiVersion": "nvidia.com/v1alpha1",
                    "kind": "DynamoModel",
                    "metadata": {"name": "m"},
                    "spec": content,
                }
                assert prune(schema, obj) == []
                apply_defaults(schema, obj)
                made.append(obj)
        return [str(cause) for cause in validate(schema, made[0], made[1] if old is not None else None)]

    @pytest.mark.parametrize(
        "spec",
        [
            {"modelName": "a"},
            {"modelName": "a", "source": {"uri": "hf://org/name"}},
            {"modelName": "a", "source": {"uri": "hf://org/name@main"}, "version": "main"},
            {"modelName": "a", "source": {"uri": "s3://bucket/x"}, "version": "main"},
            {"modelName": "a", "baseModelName": "b", "modelType": "lora", "source": {"uri": "hf://org/name"}},
            {"modelName": "a", "storage": {"nodeLocal": {"nodeSelector": {"a": "b"}, "replicas": 0}}},
        ],
    )
    def test_takes_good_models(self, spec: Object) -> None:
        assert self.refusals(spec) == []

    @pytest.mark.parametrize(
        ("spec", "field", "words"),
        [
            ({"modelName": "a", "modelType": "lora", "baseModelName": "b"}, "spec", "a lora needs source.uri"),
            (
                {"modelName": "a", "modelType": "lora", "source": {"uri": "hf://a/b"}},
                "spec",
                "a lora needs baseModelName",
            ),
            ({"modelName": "a", "source": {"uri": "ftp://a/b"}}, "spec.source.uri", "must start with a known scheme"),
            ({"modelName": "a", "source": {"uri": "hf://a/b@x"}, "version": "y"}, "spec", "disagree"),
            ({"modelName": "a", "modelType": "x"}, "spec.modelType", 'Unsupported value: "x"'),
            ({}, "spec.modelName", "Required value"),
        ],
    )
    def test_refuses_bad_ones_with_the_intended_words(self, spec: Object, field: str, words: str) -> None:
        assert any(found.startswith(f"{field}: ") and words in found for found in self.refusals(spec))
