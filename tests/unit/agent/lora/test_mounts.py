"""Where a pod sees a directory of the host."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.lora.desired import Mount
from agent.lora.mounts import path_in_pod
from local.workers.adapters import Mount as ContainerMount
from local.workers.adapters import host_path

WANTED = "/cache/models/team/lora/1"


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        ([], None),
        ([Mount("/cache/models/team", "/models")], "/models/lora/1"),
        ([Mount("/cache/models/team/", "/models/")], "/models/lora/1"),
        ([Mount("/", "/host")], "/host/cache/models/team/lora/1"),
        ([Mount(WANTED, "/adapter")], "/adapter"),
        # Too deep, or another directory with a name that begins alike.
        ([Mount(f"{WANTED}/deeper", "/adapter")], None),
        ([Mount("/cache/models/tea", "/models")], None),
        # The shortest path, then the first in order: the answer never changes.
        ([Mount("/cache", "/b"), Mount("/cache/models/team", "/models")], "/models/lora/1"),
        ([Mount("/cache/models/team", "/b"), Mount("/cache/models/team", "/a")], "/a/lora/1"),
        # What lies deeper in the container hides what the outer mount shows there.
        ([Mount("/cache/models/team", "/models"), Mount("", "/models/lora")], None),
        ([Mount("/cache/models/team", "/models"), Mount("/elsewhere", "/models/other")], "/models/lora/1"),
        ([Mount("/cache/models/team", "/models"), Mount(WANTED, "/models/lora/1")], "/models/lora/1"),
        # Nonsense that users may write.
        ([Mount("", "/models")], None),
        ([Mount("relative", "/models")], None),
        ([Mount("/cache/models/team", "models")], None),
        ([Mount("/cache/models/x/../team", "/models")], None),
        ([Mount("/cache/models/team", "/models/../etc")], None),
    ],
)
def test_the_path_in_the_pod(mounts: list[Mount], expected: str | None) -> None:
    assert path_in_pod(WANTED, tuple(mounts)) == expected


segments = st.lists(st.sampled_from(["a", "b", "c"]), max_size=3).map(lambda parts: "/" + "/".join(parts))


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(segments, st.lists(st.tuples(segments, segments), max_size=4))
def test_what_the_pod_is_told_leads_to_the_directory(wanted: str, pairs: list[tuple[str, str]]) -> None:
    # The first mount at a path counts: a container cannot have two at one.
    mounts = [Mount(host, inside) for inside, host in {inside: host for host, inside in reversed(pairs)}.items()]
    path = path_in_pod(wanted, tuple(mounts))
    if path is not None:
        seen = host_path(path, [ContainerMount(mount.mount_path, mount.host_path) for mount in mounts])
        assert str(seen) == wanted
