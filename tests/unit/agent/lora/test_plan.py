"""Decisions about one pod, alone and against engines that do everything engines are known to do."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from random import Random

import msgspec
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agent.lora.desired import Pod
from agent.lora.engine import Present
from agent.lora.errors import AlreadyThere, EngineError, EngineNotReady, LoRADisabled, Rejected, TimedOut
from agent.lora.knowledge import RETRY_CAP, Identity, Knowledge, Listing, Target, Trouble
from agent.lora.plan import (
    BATCH_SECONDS,
    GIVE_UP_SECONDS,
    GIVE_UP_TRIES,
    PER_POD,
    Confirm,
    Drop,
    GiveUp,
    Load,
    Look,
    Plan,
    Unload,
    View,
    is_loaded,
    next_actions,
)
from agent.lora.record import Entry
from modelcache.kube.resources import ObjectKey

NOW = 1000.0
POD = Pod("uid", "team", "worker-0", "10.0.0.1", 9090, ready=True, container_start="c1")
NOT_READY = replace(POD, ready=False)


def target(version: str = "1", name: str = "a", model: str = "lora", remote: bool = False) -> Target:
    uri = f"hf://org/{name}" if remote else f"file:///models/{model}/{version}"
    return Target(ObjectKey("team", model), "model-uid", name, version, Identity(version * 64, uri))


def entry(of: Target, confirmed: bool = True, start: str = "c1") -> Entry:
    return Entry(
        pod_uid=POD.uid,
        pod_name=POD.name,
        container_start=start,
        lora_name=of.lora_name,
        namespace=of.model.namespace,
        name=of.model.name,
        model_uid=of.model_uid,
        manifest_digest=of.identity.manifest_digest,
        snapshot=of.snapshot,
        uri=of.identity.uri,
        confirmed=confirmed,
    )


def knowledge(*present: str, at: float = NOW, **known: Identity) -> Knowledge:
    """An engine that lists these names; `known` is what a name can only be."""
    found = Knowledge(Random(1), engine="dynamo", listing=Listing(at, {name: Present() for name in present}))
    found.possible.update({name: frozenset({identity}) for name, identity in known.items()})
    return found


def view(
    about: Knowledge, *targets: Target, pod: Pod = POD, records: tuple[Entry, ...] = (), held: tuple[str, ...] = ()
) -> View:
    return View(
        pod,
        about,
        {each.lora_name: each for each in targets},
        frozenset(held),
        {each.lora_name: each for each in records},
    )


def test_nothing_is_asked_of_a_pod_that_nobody_wants_anything_of() -> None:
    assert next_actions(view(Knowledge(Random(1))), NOW) == Plan(())


def test_the_engine_is_asked_before_anything_is_loaded() -> None:
    assert next_actions(view(Knowledge(Random(1)), target()), NOW).actions == (Look(),)


def test_nothing_is_loaded_into_a_pod_that_is_not_ready() -> None:
    assert next_actions(view(knowledge(), target(), pod=NOT_READY), NOW) == Plan(())


def test_what_is_not_listed_is_loaded() -> None:
    assert next_actions(view(knowledge(), target()), NOW).actions == (Load(target()),)


def test_loads_of_one_pod_are_few_at_once() -> None:
    many = [target(name=f"a{index}") for index in range(10)]
    assert len(next_actions(view(knowledge(), *many), NOW).actions) == PER_POD
    busy = knowledge()
    busy.begin("a0", "load")
    assert next_actions(view(busy, *many), NOW).actions == (Load(many[1]),)


def test_a_load_counts_only_after_a_listing() -> None:
    wanted, about = target(), knowledge()
    about.begin("a", "load")
    about.loaded(wanted, NOW)
    records = (entry(wanted, confirmed=False),)
    assert next_actions(view(about, wanted, records=records), NOW).actions == (Look(),)
    about.listed({"a": Present()}, {"a": wanted}, NOW, NOW)
    assert next_actions(view(about, wanted, records=records), NOW).actions == (Confirm(wanted),)
    assert not is_loaded(view(about, wanted, records=records), wanted)
    assert is_loaded(view(about, wanted, records=(entry(wanted),)), wanted)


def test_success_without_effect_is_a_failure_that_is_tried_again() -> None:
    wanted, about = target(), knowledge()
    about.begin("a", "load")
    about.loaded(wanted, NOW)
    about.listed({}, {"a": wanted}, NOW, NOW)
    assert about.troubles["a"].reason == "NotRoutable"
    plan = next_actions(view(about, wanted, records=(entry(wanted, confirmed=False),)), NOW)
    assert plan.actions == ()
    assert plan.wake == about.troubles["a"].until
    later = next_actions(view(about, wanted, records=(entry(wanted, confirmed=False),)), about.troubles["a"].until)
    assert later.actions == (Load(wanted),)


def test_a_remote_source_may_come_later_and_is_not_asked_for_again_meanwhile() -> None:
    wanted, about = target(remote=True), knowledge()
    records = (entry(wanted, confirmed=False),)
    about.begin("a", "load")
    about.loaded(wanted, NOW)
    now = NOW
    for _ in range(5):
        about.listed({}, {"a": wanted}, now, now)
        assert next_actions(view(about, wanted, records=records), now).actions == ()
        now = about.troubles["a"].until
        assert next_actions(view(about, wanted, records=records), now).actions == (Look(),)
    about.listed({"a": Present()}, {"a": wanted}, now, now)
    assert next_actions(view(about, wanted, records=records), now).actions == (Confirm(wanted),)
    assert about.troubles == {}


def test_a_remote_source_that_fails_silently_is_noticed_in_the_end() -> None:
    wanted, about = target(remote=True), knowledge()
    about.begin("a", "load")
    about.loaded(wanted, NOW)
    about.listed({}, {"a": wanted}, NOW + 100, NOW + 100)
    assert about.troubles["a"].tries == 1
    plan = next_actions(view(about, wanted, records=(entry(wanted, confirmed=False),)), about.troubles["a"].until)
    assert plan.actions == (Load(wanted),)


def test_an_update_is_unload_listing_load_listing() -> None:
    old, new = target("1"), target("2")
    about = knowledge("a", a=old.identity)
    records = (entry(old),)
    assert not is_loaded(view(about, new, records=records), new)
    assert next_actions(view(about, new, records=records), NOW).actions == (Unload("a"),)
    about.begin("a", "unload")
    about.unloaded("a", NOW)
    assert next_actions(view(about, new, records=records), NOW).actions == (Look(),)
    about.listed({}, {"a": new}, NOW, NOW)
    assert next_actions(view(about, new, records=records), NOW).actions == (Load(new),)
    about.begin("a", "load")
    about.loaded(new, NOW)
    assert next_actions(view(about, new, records=(entry(new, confirmed=False),)), NOW).actions == (Look(),)


def test_a_name_that_somebody_else_has_loaded_is_not_believed() -> None:
    assert next_actions(view(knowledge("a"), target()), NOW).actions == (Unload("a"),)


def test_an_engine_that_says_what_it_loaded_from_is_compared_with() -> None:
    wanted = target()
    about = knowledge(a=wanted.identity)
    about.listing = Listing(NOW, {"a": Present(root="/models/lora/other")})
    assert next_actions(view(about, wanted, records=(entry(wanted),)), NOW).actions == (Unload("a"),)
    about.listing = Listing(NOW, {"a": Present(root="/models/lora/1")})
    assert is_loaded(view(about, wanted, records=(entry(wanted),)), wanted)


def test_names_of_others_are_left_alone() -> None:
    wanted = target()
    about = knowledge("theirs", "a", a=wanted.identity)
    assert next_actions(view(about, wanted, records=(entry(wanted),)), NOW).actions == ()


def test_what_is_recorded_and_not_wanted_is_taken_out_of_a_pod_that_is_not_ready_as_well() -> None:
    records = (entry(target()),)
    assert next_actions(view(knowledge("a"), records=records, pod=NOT_READY), NOW).actions == (Unload("a"),)
    assert next_actions(view(knowledge(), records=records), NOW).actions == (Drop("a"),)


def test_what_is_held_stays() -> None:
    about = knowledge("a", a=target().identity)
    assert next_actions(view(about, records=(entry(target()),), held=("a",)), NOW) == Plan(())


def test_another_container_has_forgotten_everything() -> None:
    wanted = target()
    stale = view(Knowledge(Random(1)), wanted, records=(entry(wanted, start="c0"),))
    assert next_actions(stale, NOW).actions == (Drop("a", gone=True),)


def test_a_listing_is_repeated_for_ever() -> None:
    wanted = target()
    about = knowledge("a", a=wanted.identity)
    now = view(about, wanted, records=(entry(wanted),))
    assert next_actions(now, NOW + 29) == Plan((), NOW + 30)
    assert next_actions(now, NOW + 30).actions == (Look(),)
    about.listed({}, {"a": wanted}, NOW + 30, NOW + 30)
    assert next_actions(now, NOW + 30).actions == (Load(wanted),)


def test_a_pod_that_does_not_answer_is_given_up_but_not_forgotten() -> None:
    about = Knowledge(Random(1))
    records = (entry(target()),)
    for _ in range(GIVE_UP_TRIES):
        about.not_listed(TimedOut("no answer"), NOW)
    assert about.trouble is not None
    assert next_actions(view(about, records=records), NOW) == Plan((), min(about.trouble.until, NOW + GIVE_UP_SECONDS))
    later = NOW + GIVE_UP_SECONDS
    assert next_actions(view(about, records=records), later).actions == (GiveUp("a", about.trouble),)
    given_up = (msgspec.structs.replace(records[0], given_up=True),)
    assert next_actions(view(about, records=given_up), NOW).actions == ()
    assert next_actions(view(about, records=given_up), about.trouble.until).actions == (Look(),)


def test_nothing_has_to_be_taken_out_of_a_worker_without_loras() -> None:
    about = Knowledge(Random(1))
    about.not_listed(LoRADisabled("404"), NOW)
    assert next_actions(view(about, records=(entry(target()),)), NOW).actions == (Drop("a"),)


def test_a_load_without_an_answer_that_has_happened_all_the_same_is_believed() -> None:
    wanted, about = target(), knowledge()
    about.begin("a", "load")
    about.load_failed(wanted, TimedOut("no answer", doubtful=True), NOW)
    about.listed({"a": Present()}, {"a": wanted}, NOW, NOW)
    plan = next_actions(view(about, wanted, records=(entry(wanted, confirmed=False),)), NOW)
    assert plan.actions == (Confirm(wanted),)


def test_a_late_load_of_an_older_version_is_not_taken_for_the_new_one() -> None:
    old, new, about = target("1"), target("2"), knowledge()
    about.begin("a", "load")
    about.load_failed(old, TimedOut("no answer", doubtful=True), NOW)
    about.begin("a", "load")
    about.load_failed(new, TimedOut("no answer", doubtful=True), NOW)
    about.listed({"a": Present()}, {"a": new}, NOW, NOW)
    assert not about.is_listed(new)


def test_while_loads_are_queued_a_listing_comes_at_least_every_half_second() -> None:
    many = [target(name=f"a{index}") for index in range(10)]
    about = knowledge()
    about.begin("a0", "load")
    about.loaded(many[0], NOW)
    soon = next_actions(view(about, *many), NOW + BATCH_SECONDS / 2)
    assert all(isinstance(action, Load) for action in soon.actions)
    assert next_actions(view(about, *many), NOW + BATCH_SECONDS).actions == (Look(),)


# Against an engine


@dataclass
class FakeEngine:
    """What engines do: keep the old version under a name, forget, refuse, answer late or not at all."""

    has: dict[str, Identity | None] = field(default_factory=dict)
    """None: somebody else has put it there."""
    late: list[Target] = field(default_factory=list)
    """Loads whose answer was lost, and which happen when somebody looks away."""

    def load(self, what: Target, how: str) -> EngineError | None:
        if how == "refuses":
            return Rejected("no")
        if how == "starting":
            return EngineNotReady("not yet")
        if self.has.get(what.lora_name, what.identity) is None:
            # Of somebody else. Were this answer lost, the adapter would be taken for ours: see `agent.lora.knowledge`.
            return AlreadyThere("already")
        if how == "answer lost before":
            return TimedOut("no answer", doubtful=True)
        if how == "late":
            self.late.append(what)
            return TimedOut("no answer", doubtful=True)
        self._catch_up(what.lora_name)
        if what.lora_name in self.has:
            return AlreadyThere("already")
        if how != "no effect":
            self.has[what.lora_name] = what.identity
        return TimedOut("no answer", doubtful=True) if how == "answer lost after" else None

    def unload(self, name: str, how: str) -> EngineError | None:
        if how == "refuses":
            return Rejected("no")
        if how in ("answer lost before", "late"):
            return TimedOut("no answer", doubtful=True)
        self._catch_up(name)
        if how != "no effect":
            self.has.pop(name, None)
        return TimedOut("no answer", doubtful=True) if how == "answer lost after" else None

    def look_away(self) -> None:
        """Time for what was asked long ago."""
        for what in self.late:
            self.has.setdefault(what.lora_name, what.identity)
        self.late.clear()

    def _catch_up(self, name: str) -> None:
        for what in [each for each in self.late if each.lora_name == name]:
            self.late.remove(what)
            self.has.setdefault(name, what.identity)


class Simulation:
    """The shell without its I/O: a record, what is known, and an engine."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.now = NOW
        self.pod = POD
        self.engine = FakeEngine()
        self.knowledge = Knowledge(self.rng)
        self.records: dict[str, Entry] = {}
        self.targets: dict[str, Target] = {}
        self.requests = 0

    @property
    def view(self) -> View:
        return View(self.pod, self.knowledge, self.targets, frozenset(), self.records)

    def restart_agent(self) -> None:
        self.knowledge = Knowledge(self.rng)
        self.knowledge.recall(self.records, self.pod.container_start)

    def restart_container(self) -> None:
        self.engine = FakeEngine()
        start = f"{self.pod.container_start}+"
        self.pod = replace(self.pod, container_start=start)
        self.restart_agent()

    def want(self, targets: Mapping[str, Target]) -> None:
        for name in {*targets, *self.targets}:
            if targets.get(name) != self.targets.get(name):
                self.knowledge.troubles.pop(name, None)
        self.targets = dict(targets)

    def step(self, how: str) -> None:
        """What the session does, one look; requests end in the order in which they began."""
        plan = next_actions(self.view, self.now)
        if not plan.actions:
            self.now = max(self.now, plan.wake) if plan.wake is not None else self.now
            return
        for action in plan.actions:
            self.act(action, how)
        self.check()

    def act(self, action: object, how: str) -> None:
        known, name = self.knowledge, getattr(action, "lora_name", "")
        if isinstance(action, Look):
            self.requests += 1
            known.engine = "dynamo"
            if how == "starting":
                known.not_listed(EngineNotReady("not yet"), self.now)
            elif how.startswith("answer lost"):
                known.not_listed(TimedOut("no answer"), self.now)
            else:
                known.listed({each: Present() for each in self.engine.has}, self.targets, self.now, self.now)
        elif isinstance(action, Load):
            self.requests += 1
            assert self.pod.ready
            self.records[action.target.lora_name] = self.entry(action.target, confirmed=False)
            known.begin(action.target.lora_name, "load")
            error = self.engine.load(action.target, how)
            known.loaded(action.target, self.now) if error is None else known.load_failed(
                action.target, error, self.now
            )
        elif isinstance(action, Unload):
            self.requests += 1
            assert name in self.records or name in self.targets, "names of others are nobody's business"
            known.begin(name, "unload")
            error = self.engine.unload(name, how)
            known.unloaded(name, self.now) if error is None else known.unload_failed(name, error, self.now)
        elif isinstance(action, Confirm):
            self.records[action.target.lora_name] = self.entry(action.target, confirmed=True)
        elif isinstance(action, Drop):
            del self.records[name]
            if not action.gone:
                known.forget(name)
        else:
            assert isinstance(action, GiveUp)
            self.records[name] = msgspec.structs.replace(self.records[name], given_up=True)

    def entry(self, of: Target, confirmed: bool) -> Entry:
        return entry(of, confirmed, self.pod.container_start)

    def check(self) -> None:
        """What counts as loaded is loaded, as far as the newest listing can tell, and is the wanted version."""
        listing = self.knowledge.listing
        for name, wanted in self.targets.items():
            if is_loaded(self.view, wanted) and listing is not None and listing.at == self.now:
                assert self.engine.has.get(name) == wanted.identity
        remembered = {each.identity for each in self.targets.values()}
        for name, identity in self.engine.has.items():
            ours = identity is not None and identity not in remembered
            assert not ours or name in self.records, f"{name} is loaded and nobody remembers it"


HOWS = ("well", "refuses", "starting", "answer lost before", "answer lost after", "late", "no effect")
NAMES = ("a", "b", "c")
events = st.one_of(
    st.tuples(st.just("want"), st.dictionaries(st.sampled_from(NAMES), st.sampled_from("12"), max_size=3)),
    st.tuples(st.just("step"), st.sampled_from(HOWS)),
    st.tuples(st.just("restart agent"), st.none()),
    st.tuples(st.just("restart container"), st.none()),
    st.tuples(st.just("forget"), st.sampled_from(NAMES)),
    st.tuples(st.just("somebody else loads"), st.sampled_from(NAMES)),
)


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(st.lists(events, max_size=40), st.integers(0, 1000))
@example([("want", {"a": "1"}), ("step", "well"), ("somebody else loads", "a"), ("step", "answer lost before")], 0)
def test_whatever_happens_in_the_end_exactly_what_is_wanted_is_loaded(
    story: list[tuple[str, object]], seed: int
) -> None:
    world = Simulation(seed)
    for kind, what in story:
        if kind == "want":
            assert isinstance(what, dict)
            world.want({name: target(version, name, name) for name, version in what.items()})
        elif kind == "step":
            world.step(str(what))
        elif kind == "restart agent":
            world.restart_agent()
        elif kind == "restart container":
            world.restart_container()
        elif kind == "forget":
            world.engine.has.pop(str(what), None)
        elif not world.knowledge.possible.get(str(what)):
            # Not where an answer of ours is missing: see `agent.lora.knowledge`.
            world.engine.has.setdefault(str(what), None)
    # From here on everything goes well, but what was asked earlier may still arrive.
    world.engine.look_away()
    settled, before = world.now + 8 * RETRY_CAP, world.requests
    theirs = {name for name, identity in world.engine.has.items() if identity is None}
    while world.now < settled:
        before_step, at = world.requests, world.now
        world.step("well")
        if (world.requests, world.now) == (before_step, at) and not next_actions(world.view, world.now).actions:
            world.now += 5.0
    assert world.requests - before < 60, "an engine is asked without end"
    for name in NAMES:
        wanted = world.targets.get(name)
        if wanted is not None:
            assert world.engine.has.get(name) == wanted.identity
            assert is_loaded(world.view, wanted)
        else:
            assert world.engine.has.get(name) is None
            assert name in theirs or name not in world.engine.has or name not in world.records
    assert world.records.keys() == world.targets.keys()


def test_troubles_say_when_it_goes_on() -> None:
    about = knowledge()
    about.begin("a", "load")
    about.load_failed(target(), Rejected("out of memory"), NOW)
    assert about.troubles["a"] == Trouble("LoadFailed", "out of memory", 1, about.troubles["a"].until, NOW)
    for _ in range(20):
        about.load_failed(target(), Rejected("out of memory"), NOW)
    assert NOW <= about.troubles["a"].until <= NOW + RETRY_CAP
