"""What agents say is shown as it is, and does nothing to the terminal."""

from __future__ import annotations

import json

import pytest

from cli.cache_view import Answers, show
from modelcache.rpc import modelcache_pb2 as pb


def test_answers_of_several_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    line = pb.RevisionLine(
        model=pb.ModelKey(namespace="team", name="m"), snapshot="[/bold]\x1b[31m", kept="\x07[red]", bytes=1
    )
    answers = Answers(
        None,
        [
            pb.RunOnNodesResponse(node="a", response=pb.RunResponse(revisions=[line], free_bytes=5)),
            pb.RunOnNodesResponse(
                node="b", failure=pb.CommandFailure(kind=pb.CommandFailure.KIND_NOT_CONNECTED, message="\x1bgone")
            ),
        ],
    )
    show(answers, "table")
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert "\x07" not in shown.out
    assert "[/bold] [31m" in shown.out
    assert shown.err == "modelcache: b: gone\n"
    show(answers, "json")
    found = json.loads(capsys.readouterr().out)
    assert [node["node"] for node in found["nodes"]] == ["a"]
    assert [(failure["node"], failure["reason"]) for failure in found["failures"]] == [("b", "NotConnected")]
