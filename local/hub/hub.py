"""One hub: its repositories, the tokens it has given out, and how it misbehaves. No sockets here."""

from collections.abc import Iterable, Mapping

from local.hub import access, message
from local.hub.faults import Faults
from local.hub.limits import Limits
from local.hub.repository import Repository
from local.hub.signing import Signer
from local.hub.stats import Stats
from local.hub.xet import XetStorage


class Hub:
    """What a server serves. Repositories, faults and limits may be changed while it runs."""

    def __init__(
        self,
        repositories: Iterable[Repository] = (),
        *,
        tokens: Mapping[str, str] | None = None,
        page_size: int = 1000,
        signer: Signer | None = None,
        xet: XetStorage | None = None,
    ) -> None:
        """`tokens`: token -> user, valid but entitled to nothing by itself. `page_size`: entries a page of a tree.

        1000 entries is the real hub's page size (`HfApi.list_repo_tree`).
        """
        self.repositories: dict[str, Repository] = {}
        for repository in repositories:
            self.add(repository)
        self.tokens = dict(tokens or {})
        self.page_size = page_size
        self.signer = signer or Signer()
        self.faults = Faults()
        self.limits = Limits()
        self.stats = Stats()
        self.xet = xet
        self.cdn_url = ""
        """Address of the origin that serves large files; known once the server listens."""

    def add(self, repository: Repository) -> Repository:
        """Serve one more repository. Raises ValueError if there is one of that name."""
        if repository.name in self.repositories:
            raise ValueError(f"there are two repositories named {repository.name}")
        self.repositories[repository.name] = repository
        return repository

    def users(self) -> Mapping[str, str]:
        """Return every valid token with the name of its user."""
        entitled = {token for repository in self.repositories.values() for token in repository.tokens}
        return {**{token: f"user-{index}" for index, token in enumerate(sorted(entitled), 1)}, **self.tokens}

    def enter(self, name: str, request: message.Request, wanted: access.Wanted) -> Repository | message.Response:
        """Return the repository if the request may have what is wanted, else the answer that says why not."""
        repository = self.repositories.get(name)
        verdict = access.judge(repository, request.token, self.users(), wanted)
        if repository is None or verdict is not access.Verdict.ALLOWED:
            return message.refusal(verdict, name)
        return repository
