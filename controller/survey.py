"""Who reads a source first, where what the source says about itself is not enough for all nodes to begin at once.

Two things can be missing before a model is known well enough:

the listing   of `file://` and `pvc://`: the controller cannot see them, so one node lists (a `ListingRequest`)
digests       of objects whose source publishes none: agents cannot share content that has no name, and each of a hundred would
              read the origin by itself. So one node reads everything; with its sha256 the manifest is complete, and all
              others get the files from each other.

Both are the work of the same node, the *surveyor*, because who can list can read. The others wait: they are told to keep what
they have. A surveyor that fails (the directory is not on that node) is followed by the next one; when all have failed, the last
stays, so that there is a reason to show. The price is time: the others begin when the first has finished. For sources that
publish digests nobody waits for anybody.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from controller.request import Request
from controller.resolver import Job

EVERYBODY = None
"""As the surveyor: nobody has to wait."""
NOBODY = ""
"""As the surveyor: no agent of the model is there."""


@dataclass(frozen=True, slots=True)
class ListingRequest:
    """What a node is asked to list. `id` is another one each time."""

    id: str
    uri: str
    revision: str
    include: tuple[str, ...]
    exclude: tuple[str, ...]

    @staticmethod
    def of(request: Request, revision: str | None) -> ListingRequest:
        """A new one."""
        return ListingRequest(uuid.uuid4().hex, str(request.uri), revision or "", request.include, request.exclude)


@dataclass(eq=False)
class Survey:
    """The memory of one model's survey. `surveyor` is the name of a node, EVERYBODY or NOBODY."""

    surveyor: str | None = EVERYBODY
    unfit: set[str] = field(default_factory=set)
    """Nodes that have failed since somebody last changed anything."""
    asked_for: object = None
    """What the user last did; see `controller.tracked.Trigger`."""
    job: Job | None = None
    listing: ListingRequest | None = None
    told: tuple[str | None, ListingRequest | None] | None = None
    """Surveyor and listing at the last look; None before the first."""

    def ask(self, job: Job) -> None:
        """Have a node list. The same job again changes nothing."""
        if self.job != job:
            self.job, self.listing = job, ListingRequest.of(job.request, job.revision)
            self.unfit.clear()

    def ask_another(self, node: str) -> None:
        """`node` could not list."""
        assert self.listing is not None
        self.unfit.add(node)
        self.listing = dataclasses.replace(self.listing, id=uuid.uuid4().hex)

    def answered(self) -> None:
        """Nobody has to list any more."""
        self.job = self.listing = None


def choose_surveyor(
    assigned: Sequence[str], connected: Collection[str], unfit: Collection[str], current: str | None
) -> str:
    """The surveyor among the `assigned` nodes of a model: the present one while it may be, else the first that is fit."""
    present = [node for node in assigned if node in connected]
    fit = [node for node in present if node not in unfit]
    if current is not None and current in (fit or present):
        return current
    return next(iter(fit or present), NOBODY)
