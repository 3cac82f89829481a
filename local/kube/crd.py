"""Whether a CustomResourceDefinition may be stored: everything but its schema, which `crd_schema` judges.

The real server keeps what all versions have in common at the top of the spec (`spec.validation`,
`spec.additionalPrinterColumns`, `spec.subresources`) and names faults there, so the paths below do the same.
"""

from collections.abc import Callable
from typing import Any

from local.kube import names
from local.kube.causes import (
    Cause,
    duplicate,
    forbidden,
    invalid,
    not_supported,
    required,
    too_many,
)
from local.kube.crd_schema import validate_schema
from local.kube.value_validation import same_json

Object = dict[str, Any]

_COLUMN_TYPES = ("boolean", "date", "integer", "number", "string")
_COLUMN_FORMATS = ("byte", "date", "date-time", "double", "float", "int32", "int64", "password")
# k8s.io/apiextensions-apiserver: MaxSelectableFields
_MAX_SELECTABLE_FIELDS = 8
_MAX_WARNING_LENGTH = 256


def validate_crd(crd: Object, old: Object | None = None) -> list[Cause]:
    """Faults of a definition that has the right shape (see its builtin schema) and its defaults.

    With `old`, the stored definition before an update, also what must not change.
    """
    spec = crd.get("spec", {})
    causes = _check_name(crd, spec)
    causes += _check_spec(spec)
    if old is not None:
        causes += _check_update(spec, old)
    return causes


def _check_name(crd: Object, spec: Object) -> list[Cause]:
    name = crd.get("metadata", {}).get("name", "")
    wanted = f"{spec.get('names', {}).get('plural', '')}.{spec.get('group', '')}"
    if name == wanted:
        return []
    return [invalid("metadata.name", name, 'must be spec.names.plural+"."+spec.group')]


def _check_spec(spec: Object) -> list[Cause]:
    group, scope = spec.get("group", ""), spec.get("scope", "")
    causes: list[Cause] = []
    if not group:
        causes.append(required("spec.group"))
    elif problems := names.dns_subdomain(group):
        causes.append(invalid("spec.group", group, ",".join(problems)))
    elif "." not in group:
        causes.append(invalid("spec.group", group, "should be a domain with at least one dot"))
    if not scope:
        causes.append(required("spec.scope"))
    elif scope not in ("Cluster", "Namespaced"):
        causes.append(not_supported("spec.scope", scope, ["Cluster", "Namespaced"]))
    if spec.get("preserveUnknownFields"):
        detail = (
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead"
        )
        causes.append(invalid("spec.preserveUnknownFields", True, detail))
    causes += _check_versions(spec)
    causes += _check_names(spec.get("names", {}))
    causes += _check_conversion(spec.get("conversion") or {})
    return causes


def _check_versions(spec: Object) -> list[Cause]:
    versions: list[Object] = spec.get("versions", [])
    causes: list[Cause] = []
    schemas = [_schema_of(version) for version in versions]
    for index, version in enumerate(versions):
        path = f"spec.versions[{index}]"
        if problems := names.dns_1035_label(version.get("name", "")):
            causes.append(invalid(f"{path}.name", version.get("name", ""), ",".join(problems)))
        if schemas[index] is None:
            causes.append(required(f"{path}.schema.openAPIV3Schema"))
        causes += _check_deprecation(version, path)
        causes += _check_selectable(version, path)
    known = [version.get("name") for version in versions]
    if len(set(known)) != len(known):
        causes.append(invalid("spec.versions", versions, "must contain unique version names"))
    if sum(bool(version.get("storage")) for version in versions) != 1:
        detail = "must have exactly one version marked as storage version"
        causes.append(invalid("spec.versions", versions, detail))
    has_status = any("status" in (version.get("subresources") or {}) for version in versions)
    for path, schema in _hoisted(schemas, "spec.validation", "spec.versions[{}].schema"):
        causes += validate_schema(schema, f"{path}.openAPIV3Schema", status_subresource=has_status)
    subresources = [version.get("subresources") for version in versions]
    for path, below in _hoisted(subresources, "spec.subresources", "spec.versions[{}].subresources"):
        causes += _check_scale(below.get("scale"), f"{path}.scale")
    columns = [version.get("additionalPrinterColumns") for version in versions]
    for path, group in _hoisted(columns, "spec.additionalPrinterColumns", "spec.versions[{}].additionalPrinterColumns"):
        for index, column in enumerate(group):
            causes += _check_column(column, f"{path}[{index}]")
    return causes


def _schema_of(version: Object) -> Object | None:
    found: Object | None = (version.get("schema") or {}).get("openAPIV3Schema")
    return found


def _hoisted(values: list[Any], common: str, each: str) -> list[tuple[str, Any]]:
    """The values with their paths: one at `common` if all versions have the same, otherwise one per version."""
    if values and values[0] is not None and all(same_json(value, values[0]) for value in values):
        return [(common, values[0])]
    return [(each.format(index), value) for index, value in enumerate(values) if value is not None]


def _check_deprecation(version: Object, path: str) -> list[Cause]:
    warning = version.get("deprecationWarning")
    if warning is None:
        return []
    problems = []
    if not version.get("deprecated"):
        problems.append("can only be set for deprecated versions")
    else:
        if len(warning.encode()) > _MAX_WARNING_LENGTH:
            problems.append(f"must be <= {_MAX_WARNING_LENGTH} characters long")
        if not warning:
            problems.append("must not be an empty string")
        if not warning.isprintable():
            place = next(index for index, char in enumerate(warning) if not char.isprintable())
            problems.append(
                f"must only contain printable UTF-8 characters; non-printable character found at index {place}"
            )
    return [invalid(f"{path}.deprecationWarning", warning, problem) for problem in problems]


def _check_names(spec_names: Object) -> list[Cause]:
    path = "spec.names"
    causes = [
        required(f"{path}.{key}") for key in ("plural", "singular", "kind", "listKind") if not spec_names.get(key)
    ]

    def check(key: str, text: str, fold: Callable[[str], str], prefix: str = "") -> None:
        problems = names.dns_1035_label(fold(text)) if text else []
        if problems:
            causes.append(invalid(f"{path}.{key}", text, prefix + ",".join(problems)))

    for key in ("plural", "singular"):
        check(key, spec_names.get(key, ""), str)
    for key in ("kind", "listKind"):
        check(key, spec_names.get(key, ""), str.lower, "may have mixed case, but should otherwise match: ")
    for key in ("shortNames", "categories"):
        for index, text in enumerate(spec_names.get(key) or ()):
            if problems := names.dns_1035_label(text):
                causes.append(invalid(f"{path}.{key}[{index}]", text, ",".join(problems)))
    if spec_names.get("kind") and spec_names.get("kind") == spec_names.get("listKind"):
        causes.append(invalid(f"{path}.listKind", spec_names["listKind"], "kind and listKind may not be the same"))
    return causes


def _check_conversion(conversion: Object) -> list[Cause]:
    strategy = conversion.get("strategy", "None")
    path = "spec.conversion"
    if strategy not in ("None", "Webhook"):
        return [not_supported(f"{path}.strategy", strategy, ["None", "Webhook"])]
    webhook = conversion.get("webhook")
    if strategy == "Webhook":
        if not (webhook or {}).get("clientConfig"):
            return [required(f"{path}.webhookClientConfig", "required when strategy is set to Webhook")]
        return []
    if webhook:
        return [forbidden(f"{path}.webhookClientConfig", "should not be set when strategy is not set to Webhook")]
    return []


def _check_column(column: Object, path: str) -> list[Cause]:
    causes = []
    kind, shape, json_path = column.get("type", ""), column.get("format", ""), column.get("jsonPath", "")
    if not column.get("name"):
        causes.append(required(f"{path}.name"))
    if not kind:
        causes.append(required(f"{path}.type", f"must be one of {','.join(_COLUMN_TYPES)}"))
    elif kind not in _COLUMN_TYPES:
        causes.append(invalid(f"{path}.type", kind, f"must be one of {','.join(_COLUMN_TYPES)}"))
    if shape and shape not in _COLUMN_FORMATS:
        causes.append(invalid(f"{path}.format", shape, f"must be one of {','.join(_COLUMN_FORMATS)}"))
    if not json_path:
        causes.append(required(f"{path}.JSONPath"))
    else:
        causes += _check_simple_path(json_path, f"{path}.JSONPath")
    return causes


def _check_simple_path(text: str, path: str) -> list[Cause]:
    if not text.startswith("."):
        return [invalid(path, text, "must be a simple json path starting with .")]
    return []


def _check_scale(scale: Object | None, path: str) -> list[Cause]:
    if scale is None:
        return []
    causes = []
    for key, root in (
        ("specReplicasPath", ".spec."),
        ("statusReplicasPath", ".status."),
        ("labelSelectorPath", ".status."),
    ):
        text = scale.get(key, "")
        if not text:
            if key != "labelSelectorPath":
                causes.append(required(f"{path}.{key}"))
        elif problems := _check_simple_path(text, f"{path}.{key}"):
            causes += problems
        elif not text.startswith(root):
            causes.append(invalid(f"{path}.{key}", text, f"should be a json path under {root.rstrip('.')}"))
    return causes


def _check_selectable(version: Object, path: str) -> list[Cause]:
    fields = version.get("selectableFields") or []
    schema = _schema_of(version)
    if not fields or schema is None:
        return []
    from local.kube.cel.compile import field_path  # imported late: it brings the expression library along

    causes: list[Cause] = []
    seen: set[str] = set()
    for index, entry in enumerate(fields):
        text, where = entry.get("jsonPath", ""), f"{path}.selectableFields[{index}].jsonPath"
        if not text:
            causes.append(required(where))
            continue
        try:
            shown, found = field_path(schema, text, indices=False)
        except ValueError as error:
            causes.append(invalid(where, text, f"is an invalid path: {error}"))
            continue
        if shown.split(".")[0] == "metadata":
            causes.append(invalid(where, text, "must not point to fields in metadata"))
        if found.get("type") not in ("string", "boolean", "integer"):
            detail = (
                "must point to a field of type string, boolean or integer. "
                "Enum string fields and strings with formats are allowed."
            )
            causes.append(invalid(where, text, detail))
        if shown in seen:
            causes.append(duplicate(where, text))
        seen.add(shown)
    if len(seen) > _MAX_SELECTABLE_FIELDS:
        causes.append(too_many(f"{path}.selectableFields", len(seen), _MAX_SELECTABLE_FIELDS))
    return causes


def _check_update(spec: Object, old: Object) -> list[Cause]:
    before = old.get("spec", {})
    causes = []
    conditions = (old.get("status") or {}).get("conditions") or []
    established = any(item.get("type") == "Established" and item.get("status") == "True" for item in conditions)
    fixed = [("spec.group", spec.get("group"), before.get("group"))]
    fixed.append(("spec.names.plural", spec.get("names", {}).get("plural"), before.get("names", {}).get("plural")))
    if established:
        fixed.append(("spec.scope", spec.get("scope"), before.get("scope")))
        fixed.append(("spec.names.kind", spec.get("names", {}).get("kind"), before.get("names", {}).get("kind")))
    for path, new_value, old_value in fixed:
        if new_value != old_value:
            causes.append(invalid(path, new_value, "field is immutable"))
    known = {version.get("name") for version in spec.get("versions", ())}
    for index, version in enumerate((old.get("status") or {}).get("storedVersions") or ()):
        if version not in known:
            detail = (
                f"missing from spec.versions; {version} was previously a storage version, and must remain in "
                "spec.versions until a storage migration ensures no data remains persisted in "
                f"{version} and removes {version} from status.storedVersions"
            )
            causes.append(invalid(f"status.storedVersions[{index}]", version, detail))
    return causes
