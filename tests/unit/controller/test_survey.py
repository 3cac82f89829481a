"""One node reads first where the source does not say enough, and the others wait for it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from controller.desired import verdict
from controller.request import Pinned, Request
from controller.resolver import Failure, Job, outcome_of
from controller.survey import EVERYBODY, NOBODY, Survey, choose_surveyor
from controller.tracked import Order, Tracked
from modelcache.kube.resources import ObjectKey
from modelcache.manifest import GitOid, Manifest, ManifestFile, Sha256
from modelcache.sources.answer import Answer, Refused
from modelcache.sources.base import Resolution, SourceFile
from modelcache.sources.uri import in_namespace, parse_uri
from tests.unit.controller.test_desired import model

KEY = ObjectKey("ns", "m")
REQUEST = Request(parse_uri("file:///models/llama"), None)
NODES = st.lists(st.sampled_from("abcdef"), unique=True, max_size=6)


@given(
    NODES, st.sets(st.sampled_from("abcdef")), st.sets(st.sampled_from("abcdef")), st.sampled_from([None, *"abcdef"])
)
def test_the_surveyor_stays_while_it_may(
    assigned: list[str], connected: set[str], unfit: set[str], current: str | None
) -> None:
    chosen = choose_surveyor(assigned, connected, unfit, current)
    present = set(assigned) & connected
    if not present:
        assert chosen == NOBODY
        return
    assert chosen in present
    if present - unfit:
        assert chosen not in unfit, "one that has failed only when there is no other"
    if current in present - unfit:
        assert chosen == current
    assert choose_surveyor(assigned, connected, unfit, chosen) == chosen


def test_the_surveyor_is_told_everything_and_the_others_keep_what_they_have() -> None:
    order = Order(digest="d" * 64, tree_digest="e" * 64)
    tracked = Tracked(KEY, "u1", assigned=("a", "b"), arrivals=5, order=order)
    assert verdict(model(), tracked, "b", 9) == order
    tracked.survey.surveyor = "a"
    assert verdict(model(), tracked, "a", 9) == order
    waiting = verdict(model(), tracked, "b", 9)
    assert waiting is not None
    assert (waiting.digest, waiting.tree_digest, waiting.listing) == ("", "", None)
    tracked.survey.ask(Job(REQUEST, None))
    asked = verdict(model(), tracked, "a", 9)
    assert asked is not None
    assert asked.listing == tracked.survey.listing
    tracked.survey.surveyor = NOBODY
    assert verdict(model(), tracked, "a", 9) == waiting
    tracked.forget_request("other")
    assert tracked.survey.surveyor is EVERYBODY


def test_the_same_question_is_asked_once_and_another_node_under_another_id() -> None:
    survey = Survey()
    survey.ask(Job(REQUEST, None))
    first = survey.listing
    survey.ask(Job(REQUEST, None))
    assert survey.listing is first
    survey.ask_another("a")
    assert survey.listing is not None
    assert first is not None
    assert survey.listing.id != first.id
    assert survey.unfit == {"a"}


def test_only_content_without_any_digest_needs_a_survey() -> None:
    def pinned(**digest: object) -> Pinned:
        file = ManifestFile(path="a", size=1, **digest)  # type: ignore[arg-type]  # one of the digests
        return Pinned.of(Manifest.build("s3://bucket/m", "r", [file, ManifestFile(path="empty", size=0)]))

    assert not pinned(sha256=Sha256("0" * 64)).undigested
    assert not pinned(git_oid=GitOid("0" * 40)).undigested
    assert pinned(etag='"x"').undigested
    assert pinned(checksum="crc32:00000000").undigested


def test_the_answer_of_a_node_is_checked_like_every_listing() -> None:
    listed = Resolution("file:///models/llama", "r" * 64, (SourceFile("a", 1),))
    found = outcome_of(REQUEST, Answer(listed).encode())
    assert isinstance(found, Pinned)
    assert found.manifest.files == (ManifestFile(path="a", size=1),)
    climbing = Answer(Resolution("file:///models/llama", "r" * 64, (SourceFile("../a", 1),)))
    assert outcome_of(REQUEST, climbing.encode()) == Failure(
        "Unsupported",
        "Nothing was downloaded: file:///models/llama lists the file '../a', which contains the path segment '..'; correct "
        "that at the source, or leave it out with spec.source.exclude.",
    )
    refused = Answer(refused=Refused("NotFound", "It is not there.\nReally."))
    failure = outcome_of(REQUEST, refused.encode())
    assert isinstance(failure, Failure)
    assert failure.reason == "NotFound"
    assert "\n" not in failure.message
    for nonsense in (b"", b"{}", b"[]", b"\xff", b'{"refused":{"reason":"bad reason","message":"x"}}'):
        failure = outcome_of(REQUEST, nonsense)
        assert isinstance(failure, Failure)
        assert failure.reason in ("Unsupported", "ResolveError")


def test_a_claim_is_one_of_the_namespace() -> None:
    ours, theirs = (in_namespace(parse_uri("pvc://claim/path"), namespace) for namespace in ("ours", "theirs"))
    assert str(ours) == "pvc://ours/claim/path"
    assert str(theirs) == "pvc://theirs/claim/path"
    assert in_namespace(parse_uri("hf://org/name"), "ours") == parse_uri("hf://org/name")
    # Whoever writes another namespace into the URI gets a claim of that name, of his own.
    assert str(in_namespace(parse_uri("pvc://theirs/claim"), "ours")) == "pvc://ours/theirs/claim"
