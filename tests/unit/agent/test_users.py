"""Who uses a published directory, as the workers see it."""

import pytest

from agent.store import PublishedSnapshot, User
from agent.users import Users
from modelcache.kube.resources import ObjectKey
from tests.support.fake_clock import FakeClock

ROW = PublishedSnapshot("team", "lora", "1", "d", "hf://org/lora", 1, 1, 0.0, 0.0, True, None)


@pytest.mark.parametrize(("name", "is_user"), [("", False), ("lora", True), ("other", False)])
def test_mounting_the_whole_namespace_is_no_use_of_an_adapter(name: str, is_user: bool) -> None:
    users = Users(FakeClock(), is_adapter=lambda key: key == ObjectKey("team", "lora"))
    users.take([User("u1", "team/worker-0", "mount", 0.0, "team", name)])
    assert bool(users.pods_of(ROW)) is is_user
    base = ROW._replace(name="base")
    assert bool(users.pods_of(base)) is (name == "")
