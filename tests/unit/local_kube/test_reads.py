"""Lists in pages: one moment, whole, whatever is written meanwhile."""

import base64
import json
from itertools import islice

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local.kube import store as store_module
from local.kube.errors import ApiError
from local.kube.journal import NoJournal
from local.kube.reads import ListOptions, Selection, read_page
from local.kube.resources import BUILTIN_RESOURCES
from local.kube.selectors import parse_label_selector
from local.kube.store import Store

CONFIGMAPS = next(resource for resource in BUILTIN_RESOURCES if resource.plural == "configmaps")


def put(store: Store, name: str, namespace: str = "ns", **labels: str) -> None:
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    store.put("configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})


def pages(store: Store, limit: int, between: list[tuple[str, str]], selection: Selection) -> list[str]:
    """Names of a whole list, with writes between its pages."""
    names: list[str] = []
    token = ""
    writes = iter(between)
    while True:
        page = read_page(store, CONFIGMAPS, selection, ListOptions(limit=limit, continue_token=token))
        names += [stored.name for stored in page.items]
        assert len(page.items) <= limit
        if not page.continue_token:
            return names
        assert len(page.items) == limit
        token = page.continue_token
        for verb, name in islice(writes, 2):
            present = store.get("configmaps", "ns", name)
            if verb == "put":
                put(store, name, new="yes")
            elif present:
                store.remove("configmaps", present)


NAMES = st.lists(st.sampled_from([f"n{number}" for number in range(12)]), unique=True)
WRITES = st.lists(
    st.tuples(st.sampled_from(["put", "remove"]), st.sampled_from([f"n{n}" for n in range(14)])), max_size=8
)


@settings(suppress_health_check=list(HealthCheck), deadline=None)
@given(NAMES, st.integers(1, 5), WRITES)
def test_pages_show_one_moment(names: list[str], limit: int, writes: list[tuple[str, str]]) -> None:
    store = Store(NoJournal())
    put(store, "first", "other")
    for name in names:
        put(store, name)
    assert pages(store, limit, writes, Selection("ns")) == sorted(names)


def test_a_selector_fills_its_pages_and_knows_no_rest() -> None:
    store = Store(NoJournal())
    for number in range(10):
        put(store, f"n{number}", even=str(number % 2 == 0).lower())
    selection = Selection("ns", parse_label_selector("even=true"))
    page = read_page(store, CONFIGMAPS, selection, ListOptions(limit=2))
    assert ([stored.name for stored in page.items], page.remaining) == (["n0", "n2"], None)
    assert read_page(store, CONFIGMAPS, Selection("ns"), ListOptions(limit=3)).remaining == 7


def test_the_token_outlives_the_history_only_as_inconsistent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "HISTORY_LIMIT", 2)
    store = Store(NoJournal())
    for name in "abcd":
        put(store, name)
    token = read_page(store, CONFIGMAPS, Selection("ns"), ListOptions(limit=2)).continue_token
    for _ in range(3):
        put(store, "zz")
    with pytest.raises(ApiError) as refusal:
        read_page(store, CONFIGMAPS, Selection("ns"), ListOptions(limit=2, continue_token=token))
    status = refusal.value.status
    assert (status["code"], status["reason"]) == (410, "Expired")
    rest = read_page(store, CONFIGMAPS, Selection("ns"), ListOptions(continue_token=status["metadata"]["continue"]))
    assert [stored.name for stored in rest.items] == ["c", "d", "zz"]
    assert rest.version == store.version


def encoded(token: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(token).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (ListOptions(continue_token="!"), 400, "continue key is not valid"),
        (ListOptions(continue_token=encoded({"v": "x", "rv": 1, "start": "a"})), 400, "continue key is not valid"),
        (ListOptions(continue_token=encoded({"v": "meta.k8s.io/v1"})), 400, "continue key is not valid"),
        (ListOptions(version="x"), 422, "invalid syntax"),
        (ListOptions(version="999"), 504, "Too large resource version: 999, current: 4"),
        (ListOptions(version_match="Exact"), 422, "forbidden unless resourceVersion is provided"),
        (ListOptions(version="0", version_match="Exact"), 422, "is forbidden for resourceVersion"),
        (ListOptions(version="1", version_match="Some"), 422, "supported values"),
        (ListOptions(version="1", version_match="Exact"), 200, ""),
        (ListOptions(send_initial_events=True), 422, "sendInitialEvents is forbidden for list"),
    ],
)
def test_parameters(options: ListOptions, code: int, message: str) -> None:
    store = Store(NoJournal())
    for name in "abcd":
        put(store, name)
    if code == 200:
        assert [stored.name for stored in read_page(store, CONFIGMAPS, Selection(), options).items] == ["a"]
        return
    with pytest.raises(ApiError) as refusal:
        read_page(store, CONFIGMAPS, Selection(), options)
    assert refusal.value.code == code
    assert message in refusal.value.message
