"""What a request is about, and in which form: paths, media types, bodies, protobuf."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.kube import bodies, protobuf
from local.kube.bodies import MAX_DEPTH, BodyError
from local.kube.errors import ApiError
from local.kube.negotiation import negotiate
from local.kube.parameters import default_manager
from local.kube.registry import Registry, version_priority
from local.kube.routes import parse


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/api/v1/pods", ("pods", "", "", "", True)),
        ("/api/v1/namespaces/ns/pods", ("pods", "ns", "", "", False)),
        ("/api/v1/namespaces/ns/pods/p", ("pods", "ns", "p", "", False)),
        ("/api/v1/namespaces/ns/pods/p/status", ("pods", "ns", "p", "status", False)),
        ("/api/v1/namespaces", ("namespaces", "", "", "", False)),
        ("/api/v1/namespaces/ns", ("namespaces", "", "ns", "", False)),
        ("/api/v1/namespaces/ns/status", ("namespaces", "", "ns", "status", False)),
        ("/api/v1/namespaces/ns/finalize", ("namespaces", "", "ns", "finalize", False)),
        ("/api/v1/nodes/n/status", ("nodes", "", "n", "status", False)),
        ("/apis/apps/v1/namespaces/ns/deployments/d/scale", ("deployments", "ns", "d", "scale", False)),
        ("/apis/rbac.authorization.k8s.io/v1/clusterroles/a%3Ab", ("clusterroles", "", "a:b", "", False)),
        ("/api/v1/watch/namespaces/ns/pods", ("pods", "ns", "", "", False)),
    ],
)
def test_paths(path: str, expected: tuple[str, str, str, str, bool]) -> None:
    route = parse(path, Registry())
    assert route is not None
    assert (route.resource.plural, route.namespace, route.name, route.subresource, route.everywhere) == expected
    assert route.watch is ("/watch/" in path)


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1",
        "/api/v2/pods",
        "/api/v1/pots",
        "/api/v1/pods/p",
        "/api/v1/namespaces/ns/nodes",
        "/api/v1/namespaces/ns/pods/p/unknown",
        "/api/v1/namespaces/ns/pods/p/status/more",
        "/api/v1/namespaces//pods",
        "/apis/apps",
        "/apis/apps/v1/pods",
    ],
)
def test_paths_that_lead_nowhere(path: str) -> None:
    assert parse(path, Registry()) is None


TABLE = (("Table", "meta.k8s.io", "v1"),)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", ("application/json", "")),
        ("*/*", ("application/json", "")),
        ("application/yaml", ("application/yaml", "")),
        ("application/vnd.kubernetes.protobuf,application/json", ("application/json", "")),
        ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", ("application/json", "Table")),
        ("application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", ("application/json", "")),
        ("application/json;q=0.1,application/yaml;q=0.9", ("application/yaml", "")),
        ("application/json;q=0,application/*", ("application/json", "")),
    ],
)
def test_what_the_client_can_read(accept: str, expected: tuple[str, str]) -> None:
    media_type = negotiate(accept, TABLE)
    assert (media_type.name, media_type.parameters.get("as", "")) == expected


@pytest.mark.parametrize("accept", ["text/html", "application/vnd.kubernetes.protobuf", "application/json;as=Chair"])
def test_what_cannot_be_written(accept: str) -> None:
    with pytest.raises(ApiError) as refusal:
        negotiate(accept, TABLE)
    assert refusal.value.code == 406


@pytest.mark.parametrize(
    ("agent", "manager"),
    [
        ("kubectl/v1.32.0 (linux/amd64)", "kubectl"),
        ("OpenAPI-Generator/37.0.0/python", "OpenAPI-Generator"),
        ("", "unknown"),
        ("x" * 200, "x" * 128),
    ],
)
def test_who_writes_without_saying_so(agent: str, manager: str) -> None:
    assert default_manager(agent) == manager


def test_versions_by_stability_and_age() -> None:
    versions = ["foo1", "v1beta1", "v10", "v3beta1", "v2", "v1", "v11alpha2", "v12alpha1", "foo10"]
    assert sorted(versions, key=version_priority) == [
        "v10", "v2", "v1", "v3beta1", "v1beta1", "v12alpha1", "v11alpha2", "foo1", "foo10",
    ]  # fmt: skip


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(VALUES)
def test_json_is_read_as_it_is_and_is_yaml_too(value: Any) -> None:
    content = json.dumps({"value": value}).encode()
    assert bodies.decode(content, is_yaml=False) == {"value": value}
    assert bodies.decode(content, is_yaml=True) == {"value": value}
    assert bodies.duplicate_fields(content, is_yaml=True) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 2024-05-01", {"a": "2024-05-01"}),
        ("a: yes\nb: off", {"a": True, "b": False}),
        ("1: x\nfalse: y", {"1": "x", "false": "y"}),
        ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
        ("a: 0x10", {"a": 16}),
        ("", None),
    ],
)
def test_yaml_in_types_of_json(text: str, expected: Any) -> None:
    assert bodies.decode(text.encode(), is_yaml=True) == expected


@pytest.mark.parametrize(
    ("content", "is_yaml", "message"),
    [
        (b"", False, "unexpected end of JSON input"),
        (b'{"a":', False, "unexpected end of JSON input"),
        (b'{"a":]', False, "invalid character ']' looking for beginning of value"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), False, "exceeded max depth"),
        (b"[" * 100_000, False, "exceeded max depth"),
        (b"a: [", True, "error converting YAML to JSON"),
        (b"a: .inf", True, "unsupported value"),
        (b"a: !!python/object:os.system x", True, "error converting YAML to JSON"),
        (b"&a [*a]", True, "excessive aliasing or depth"),
    ],
)
def test_broken_bodies(content: bytes, is_yaml: bool, message: str) -> None:
    with pytest.raises(BodyError, match=message.replace("[", r"\[").replace("]", r"\]")):
        bodies.decode(content, is_yaml=is_yaml)


def test_aliases_cannot_multiply_without_end() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    with pytest.raises(BodyError, match="excessive aliasing"):
        bodies.decode("\n".join(lines).encode(), is_yaml=True)


def test_keys_that_occur_twice_are_found() -> None:
    assert bodies.duplicate_fields(b'{"a":1,"b":[{"c":1,"c":2}],"a":3}', is_yaml=False) == ["b[0].c", "a"]
    assert bodies.duplicate_fields(b"a: 1\nb:\n- c: 1\n  c: 2\na: 3", is_yaml=True) == ["b[0].c", "a"]


def wrapped(kind: str, raw: bytes, api_version: str = "v1") -> bytes:
    type_meta = protobuf.encode_fields((1, api_version), (2, kind))
    return b"k8s\0" + protobuf.encode_fields((1, type_meta), (2, raw))


def test_a_protobuf_object_is_what_its_json_would_be() -> None:
    entry = protobuf.encode_fields((1, "token"), (2, b"\x00\xff"))
    metadata = protobuf.encode_fields((1, "a"), (2, ""), (8, b""), (11, protobuf.encode_fields((1, "x"), (2, "y"))))
    secret = protobuf.encode_fields((1, metadata), (2, entry), (3, "Opaque"), (5, 0))
    assert protobuf.decode(wrapped("Secret", secret)) == {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "a", "labels": {"x": "y"}},
        "data": {"token": "AP8="},
        "type": "Opaque",
        "immutable": False,
    }


def test_numbers_may_be_negative_zero_or_text() -> None:
    port = protobuf.encode_fields((1, "p"), (3, 80), (4, protobuf.encode_fields((1, 1), (2, 0), (3, "http"))), (5, 0))
    spec = protobuf.encode_fields((1, port), (12, 2**64 - 1))
    service = protobuf.decode(wrapped("Service", protobuf.encode_fields((2, spec))))
    assert service["spec"] == {
        "ports": [{"name": "p", "port": 80, "targetPort": "http"}],
        "healthCheckNodePort": -1,
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", "does not appear to be a protobuf message"),
        (wrapped("Lease", b""), "objects of kind 'Lease' can be read as JSON or YAML only"),
        (wrapped("Secret", protobuf.encode_fields((99, "x"))), "field 99 of Secret"),
        (wrapped("Secret", protobuf.encode_fields((1, 5))), "wrong wire type"),
        (wrapped("Secret", b"\x0a\xff"), "unexpected end of data"),
        (wrapped("Secret", b"\x0b"), "unknown wire type"),
        (wrapped("Secret", b"\xff" * 20), "unexpected end of data"),
        (wrapped("Secret", protobuf.encode_fields((3, b"\xff"))), "not UTF-8"),
    ],
)
def test_broken_protobuf(content: bytes, message: str) -> None:
    with pytest.raises(protobuf.ProtobufError, match=message):
        protobuf.decode(content)
