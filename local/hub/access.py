"""Who may see what, as the hub decides it: a pure function from repository and token to a verdict.

The hub never admits that a private repository exists: to the wrong token, and without one, it looks like a name that was
never given. An anonymous request for such a name is answered 401, not 404, because logging in might help. Gated
repositories are listed for everybody; only their files need a token whose owner has accepted the terms.
"""

from collections.abc import Collection
from enum import Enum
from typing import Literal

from local.hub.repository import Repository

Wanted = Literal["listing", "content"]


class Verdict(Enum):
    """What a request may do, or why not; `local.hub.message` says how each is answered."""

    ALLOWED = "allowed"
    INVALID_TOKEN = "the token is none that the hub has given out"  # noqa: S105 -- a description, no secret
    UNKNOWN_ANONYMOUS = "no such repository for somebody without a token"
    UNKNOWN = "no such repository for this token"
    DISABLED = "the hub has disabled the repository"
    GATED_ANONYMOUS = "the files need a token"
    GATED = "the files need a token whose owner has accepted the terms"


def judge(
    repository: Repository | None,
    token: str | None,
    known_tokens: Collection[str],
    wanted: Wanted,
) -> Verdict:
    """Decide about one request; `known_tokens` are all that the hub has given out, whatever they are good for."""
    if token is not None and token not in known_tokens:
        return Verdict.INVALID_TOKEN
    if repository is None or (repository.private and token not in repository.tokens):
        return Verdict.UNKNOWN if token else Verdict.UNKNOWN_ANONYMOUS
    if repository.disabled:
        return Verdict.DISABLED
    if wanted == "content" and repository.gated and token not in repository.tokens:
        return Verdict.GATED if token else Verdict.GATED_ANONYMOUS
    return Verdict.ALLOWED
