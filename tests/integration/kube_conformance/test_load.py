"""Many writers, many objects and long lines: nothing is lost, doubled or cut."""

import gzip
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.kube_conformance.objects import configmap, names
from tests.support.api import Api
from tests.support.kubectl import Kubectl

pytestmark = pytest.mark.conformance


def test_no_increment_is_lost_between_many_writers(api: Api, configmaps: str) -> None:
    api.post(configmaps, configmap("counter", {"n": "0"})).expect(201)

    def increment(times: int) -> list[str]:
        versions: list[str] = []
        while len(versions) < times:
            current = api.get(f"{configmaps}/counter").expect(200)
            current["data"]["n"] = str(int(current["data"]["n"]) + 1)
            response = api.put(f"{configmaps}/counter", current)
            if response.status != 409:
                versions.append(response.expect(200)["metadata"]["resourceVersion"])
        return versions

    with api.watch(configmaps) as watch, ThreadPoolExecutor(4) as pool:
        written = [version for versions in pool.map(increment, [10] * 4) for version in versions]
        counted = [int(event["object"]["data"]["n"]) for event in watch.take(41)]
    assert len(set(written)) == 40
    assert counted == list(range(41))
    assert api.get(f"{configmaps}/counter").expect(200)["data"] == {"n": "40"}


def test_only_one_of_many_creators_wins(api: Api, configmaps: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: api.post(configmaps, configmap("one")).status, range(16)))
    assert sorted(statuses) == [201] + [409] * 15


def test_hundreds_of_objects(api: Api, kc: Kubectl, configmaps: str) -> None:
    expected = [f"cm-{number:04}" for number in range(600)]
    with ThreadPoolExecutor(4) as pool:
        assert {response.status for response in pool.map(lambda n: api.post(configmaps, configmap(n)), expected)} == {
            201
        }
    assert names(api.get(configmaps).expect(200)) == expected
    # kubectl asks for pages of 500.
    assert kc("get", "configmaps", "-o", "name").lines() == [f"configmap/{name}" for name in expected]
    with api.watch(configmaps) as watch:
        assert sorted(event["object"]["metadata"]["name"] for event in watch.take(600)) == expected
    api.delete(configmaps).expect(200)
    assert names(api.get(configmaps).expect(200)) == []


def test_a_long_object_comes_whole(api: Api, configmaps: str) -> None:
    text = "0123456789abcdef" * 50_000
    with api.watch(configmaps) as watch:
        api.post(configmaps, configmap("long", {"text": text})).expect(201)
        (event,) = watch.take(1)
    assert event["object"]["data"]["text"] == text
    assert api.get(f"{configmaps}/long").expect(200)["data"]["text"] == text
    response = api.request("GET", configmaps, headers={"Accept-Encoding": "gzip"})
    assert response.status == 200
    body = gzip.decompress(response.body) if response.headers.get("content-encoding") == "gzip" else response.body
    assert json.loads(body)["items"][0]["data"]["text"] == text
