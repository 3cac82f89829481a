"""Whatever a client sends, the answer is a refusal or an object: never a defect of the server."""

import asyncio
import contextlib
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local.kube import parameters, patches
from local.kube.documents import Body
from local.kube.errors import ApiError
from local.kube.identity import ADMIN
from local.kube.reads import read_page
from local.kube.resources import BUILTIN_RESOURCES
from local.kube.reviews import review
from local.kube.routes import parse
from local.kube.writes import WriteOptions
from tests.unit.local_kube.conftest import WIDGETS, Api

# Keys and strings that mean something somewhere, mixed with ones that do not.
WORDS = st.sampled_from(
    [
        "a", "", "x/y", "a.b/c", "default", "kubernetes", "UPPER", "v1", "é", "\x00", "0", "-", "metadata", "spec", "status",
        "name", "namespace", "labels", "annotations", "finalizers", "ownerReferences", "managedFields", "resourceVersion",
        "generation", "uid", "creationTimestamp", "deletionTimestamp", "apiVersion", "kind", "data", "binaryData", "type",
        "ports", "containers", "image", "resources", "limits", "nodeName", "clusterIP", "selector", "template", "replicas",
        "conditions", "subjects", "roleRef", "rules", "group", "names", "plural", "versions", "schema", "openAPIV3Schema",
        "properties", "items", "storage", "served", "scope", "involvedObject", "eventTime", "fieldsV1", "manager", "operation",
        "Apply", "FieldsV1", "time", "$patch", "delete", "$setElementOrder/ports", "$retainKeys", "op", "path", "value",
        "add", "/metadata/labels", "/spec/-", "size", "map", "tags", "atoms", "whole", "port", "protocol", "free", "10.96.0.1",
        "2030-01-01T00:00:00Z", "f:spec", "k:{}", "v:1", ".", "TCP", "volumes", "token", "audiences", "target",
    ]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=6),
    max_leaves=25,
)
NAMES = st.sampled_from(["a", "b", "widgets.unit.example.com", "kube-system", "Ä", ""])

PLURALS = sorted({resource.plural for resource in BUILTIN_RESOURCES if "get" in resource.verbs} | {"widgets"})

# Derandomized: the same examples every time, because a suite that fails now and then helps nobody.
quick = settings(max_examples=30, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


class Refused(Exception):
    """An answer that a real server may give to bad input."""


def refused(call: Any) -> None:
    """The call answers, or refuses with a client error; a bare 500 is one of the real server's own."""
    with contextlib.suppress(Refused):
        try:
            call()
        except ApiError as error:
            json.dumps(error.status)
            if error.code < 500 or error.reason in ("", "Timeout"):
                raise Refused from None
            raise


def on_cluster(check: Any) -> None:
    """Run the check on a cluster of its own that has Widgets and one object of several kinds."""

    async def run() -> None:
        kube = Api()
        kube.create("customresourcedefinitions", WIDGETS)
        await kube.settle()
        kube.create("widgets", {"metadata": {"name": "a"}, "spec": {"tags": ["t"], "ports": [{"port": 1}]}})
        kube.create("configmaps", {"metadata": {"name": "a"}, "data": {"k": "v"}})
        kube.create("pods", {"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
        kube.create("services", {"metadata": {"name": "a"}, "spec": {"ports": [{"port": 1}]}})
        check(kube)
        await kube.settle()
        kube.cluster.close()

    asyncio.run(run())


def seeded(document: Any, kube: Api, plural: str) -> bytes:
    """The document as a body; half-way plausible ones get as far as validation."""
    if isinstance(document, dict):
        resource = kube.resource(plural)
        document = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": "a"}} | document
    return json.dumps(document).encode()


@quick
@given(plural=st.sampled_from(PLURALS), document=JSON, validation=st.sampled_from(["Strict", "Warn", "Ignore"]))
def test_create(plural: str, document: Any, validation: str) -> None:
    def check(kube: Api) -> None:
        body = Body(seeded(document, kube, plural))
        options = WriteOptions("fuzz", validation=validation)
        refused(lambda: kube.cluster.writer.create(kube.target(plural), body, options))

    on_cluster(check)


@quick
@given(
    plural=st.sampled_from(["configmaps", "pods", "services", "widgets", "namespaces", "customresourcedefinitions"]),
    document=JSON,
    subresource=st.sampled_from(["", "status"]),
    name=NAMES,
)
def test_update_and_apply(plural: str, document: Any, subresource: str, name: str) -> None:
    def check(kube: Api) -> None:
        body = Body(seeded(document, kube, plural), is_yaml=False)
        target = kube.target(plural, name, subresource)
        refused(lambda: kube.cluster.writer.update(target, body, WriteOptions("fuzz")))
        for force in (False, True):
            options = WriteOptions("fuzz", force=force)
            refused(lambda: kube.cluster.writer.apply(target, body, options))  # noqa: B023  (called at once)

    on_cluster(check)


@quick
@given(
    plural=st.sampled_from(["configmaps", "pods", "services", "widgets", "namespaces", "customresourcedefinitions"]),
    patch=JSON | st.lists(st.fixed_dictionaries({"op": WORDS, "path": WORDS}, optional={"value": JSON, "from": WORDS})),
    media_type=st.sampled_from([patches.JSON_PATCH, patches.MERGE_PATCH, patches.STRATEGIC_PATCH, "text/plain"]),
    subresource=st.sampled_from(["", "status"]),
)
def test_patch(plural: str, patch: Any, media_type: str, subresource: str) -> None:
    def check(kube: Api) -> None:
        target = kube.target(plural, "widgets.unit.example.com" if plural.startswith("custom") else "a", subresource)
        body = Body(json.dumps(patch).encode())
        refused(lambda: kube.cluster.writer.patch(target, media_type, body, WriteOptions("fuzz")))

    on_cluster(check)


@quick
@given(content=st.binary(max_size=60), is_yaml=st.booleans(), is_protobuf=st.booleans())
def test_bytes(content: bytes, is_yaml: bool, is_protobuf: bool) -> None:
    def check(kube: Api) -> None:
        body = Body(b"k8s\0" * is_protobuf + content, is_yaml=is_yaml, is_protobuf=is_protobuf)
        refused(lambda: kube.cluster.writer.create(kube.target("configmaps"), body, WriteOptions("fuzz")))
        refused(lambda: review(kube.resource("tokenreviews"), body, ADMIN, kube.cluster.tokens, kube.cluster.store, ""))
        refused(lambda: parameters.delete_options({}, body))

    on_cluster(check)


REVIEWS = ["tokenreviews", "subjectaccessreviews", "localsubjectaccessreviews", "selfsubjectaccessreviews"]
REVIEWS += ["selfsubjectrulesreviews"]
SOMEBODY = {"username": "somebody", "groups": ["system:authenticated"]}


@quick
@given(document=JSON, plural=st.sampled_from(REVIEWS))
def test_reviews(document: Any, plural: str) -> None:
    def check(kube: Api) -> None:
        cluster, body = kube.cluster, Body(seeded(document, kube, plural))
        refused(lambda: review(kube.resource(plural), body, SOMEBODY, cluster.tokens, cluster.store, "team"))

    on_cluster(check)


@quick
@given(document=JSON, subresource=st.sampled_from(["binding", "finalize", "scale", "token"]))
def test_subresources(document: Any, subresource: str) -> None:
    plural = {"binding": "pods", "finalize": "namespaces", "scale": "deployments", "token": "serviceaccounts"}[
        subresource
    ]

    def check(kube: Api) -> None:
        kube.create("serviceaccounts", {"metadata": {"name": "a"}})
        labels = {"a": "b"}
        template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
        spec = {"selector": {"matchLabels": labels}, "template": template}
        kube.create("deployments", {"metadata": {"name": "a"}, "spec": spec})
        kube.create("namespaces", {"metadata": {"name": "a"}})
        target = kube.target(plural, "a", subresource)
        kind = target.resource.subresources[subresource].kind or target.resource.kind
        body = Body(json.dumps({"kind": kind} | document if isinstance(document, dict) else document).encode())
        if subresource in ("binding", "token"):
            refused(lambda: kube.cluster.subresources.create(target, body, WriteOptions("fuzz")))
        else:
            for media_type in (None, patches.MERGE_PATCH, patches.JSON_PATCH, patches.APPLY_PATCH):
                options = WriteOptions("fuzz")
                refused(lambda: kube.cluster.subresources.update(target, media_type, body, options))  # noqa: B023

    on_cluster(check)


QUERIES = st.dictionaries(
    st.sampled_from(
        [
            "limit", "continue", "resourceVersion", "resourceVersionMatch", "labelSelector", "fieldSelector", "dryRun",
            "fieldManager", "fieldValidation", "force", "propagationPolicy", "gracePeriodSeconds", "orphanDependents",
            "timeoutSeconds", "sendInitialEvents", "allowWatchBookmarks",
        ]
    ),
    st.text(max_size=12)
    | st.sampled_from(["0", "1", "-1", "99999999999", "Exact", "NotOlderThan", "true", "All", "a=b,!c", "metadata.name=a"]),
)  # fmt: skip


@quick
@given(query=QUERIES, plural=st.sampled_from(["pods", "configmaps", "widgets", "events"]))
def test_queries(query: dict[str, str], plural: str) -> None:
    def check(kube: Api) -> None:
        resource = kube.resource(plural)

        def listed() -> None:
            selection = parameters.selection(query, resource, "default")
            read_page(kube.cluster.store, resource, selection, parameters.list_options(query))

        def watched() -> None:
            selection = parameters.selection(query, resource, "default")
            extra = parameters.watch_options(query)
            kube.cluster.watches.open(resource, selection, parameters.list_options(query), extra).close()

        refused(listed)
        refused(watched)
        refused(lambda: parameters.write_options(query, "agent/1", "CreateOptions"))
        refused(lambda: parameters.apply_options(query, ""))
        refused(lambda: parameters.delete_options(query, Body(b"")))

    on_cluster(check)


@quick
@given(path=st.text(alphabet="/apisv1namedfultco%2F.é", max_size=40).map(lambda text: f"/apis/{text}"))
def test_paths(path: str) -> None:
    async def run() -> None:
        kube = Api()
        parse(path, kube.cluster.registry)
        kube.cluster.close()

    asyncio.run(run())


@pytest.mark.parametrize("plural", ["configmaps", "widgets"])
def test_an_object_nested_to_the_limit_passes_every_step(plural: str) -> None:
    deep: Any = "x"
    for _ in range(300):
        deep = {"d": deep}

    def check(kube: Api) -> None:
        body = Body(seeded({"spec": {"free": deep}}, kube, plural))
        refused(lambda: kube.cluster.writer.update(kube.target(plural, "a"), body, WriteOptions("fuzz")))
        refused(lambda: kube.cluster.writer.apply(kube.target(plural, "a"), body, WriteOptions("fuzz", force=True)))

    on_cluster(check)
