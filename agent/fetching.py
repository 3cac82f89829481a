"""The transfer engine as a `Fetcher`: knows which source to ask for the places of files, and where to ask how far it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from agent.peers.exchange import PeerExchange
from agent.peers.members import PeerAddress, PeerProblem
from agent.peers.swarm import Swarm
from agent.store import Store
from agent.transfer import CancelToken, Downloader, Progress
from modelcache.manifest import Manifest, ManifestFile
from modelcache.sources.base import Credential, Location, Source, SourceFile, installed_schemes, source_for
from modelcache.sources.errors import SourceError, Unsupported
from modelcache.sources.uri import SourceURI, parse_uri

_HUB = "hf"
"""The one scheme for which the administrator of the nodes alone says which server it means (HF_ENDPOINT)."""


class TransferFetcher:
    """Begins downloads with one agent's transfer engine, and with its peers where there is an exchange."""

    def __init__(self, store: Store, downloader: Downloader, exchange: PeerExchange | None = None) -> None:
        self._store = store
        self._downloader = downloader
        self._exchange = exchange
        # Once: it looks through everything that is installed, which takes longer than a small download.
        self._schemes = installed_schemes()

    def begin(
        self, namespace: str, manifest: Manifest, credential: Credential | None, peers: Sequence[PeerAddress]
    ) -> TransferFetch:
        """See Fetcher."""
        swarm = self._exchange.swarm(namespace, peers) if self._exchange is not None else None
        return TransferFetch(self._store, self._downloader, namespace, manifest, credential, swarm, self._schemes)


class TransferFetch:
    """One download; see Fetch."""

    def __init__(
        self,
        store: Store,
        downloader: Downloader,
        namespace: str,
        manifest: Manifest,
        credential: Credential | None,
        swarm: Swarm | None,
        schemes: Sequence[str],
    ) -> None:
        self._store = store
        self._downloader = downloader
        self._namespace = namespace
        self._manifest = manifest
        self._credential = credential
        self._swarm = swarm
        self._schemes = schemes
        self._cancel = CancelToken()
        self._closing = ExitStack()
        self._progress: Callable[[], Progress | None] = lambda: None

    def run(self) -> Mapping[str, str]:
        """See Fetch. Raises InvalidURI or Unsupported as well, for a source that nothing here can read."""
        uri = parse_uri(self._manifest.source, self._schemes)
        source = source_for(uri)
        return self._downloader.fetch(
            self._manifest,
            lambda file: self._locate(source, uri, file),
            namespace=self._namespace,
            hold=self._closing.enter_context(self._store.hold()),
            watch=self._watch,
            cancel=self._cancel,
            overlay=self._swarm,
            together=_HUB if uri.scheme == _HUB else "",
        )

    def cancel(self) -> None:
        """See Fetch."""
        self._cancel.cancel()

    def progress(self) -> Progress | None:
        """See Fetch."""
        progress = self._progress()
        if progress is None or self._swarm is None:
            return progress
        return progress._replace(peer_bytes=min(self._swarm.peer_bytes, progress.fetched_bytes))

    def meet(self, peers: Sequence[PeerAddress]) -> None:
        """See Fetch."""
        if self._swarm is not None:
            self._swarm.update(peers)

    def peer_problems(self) -> Sequence[PeerProblem]:
        """See Fetch."""
        return self._swarm.problems() if self._swarm is not None else ()

    def close(self) -> None:
        """See Fetch."""
        self._closing.close()

    def _locate(self, source: Source, uri: SourceURI, file: ManifestFile) -> Location:
        listed = SourceFile(
            path=file.path,
            size=file.size,
            sha256=file.sha256,
            git_oid=file.git_oid,
            etag=file.etag,
            checksum=file.checksum,
            locator=file.locator,
        )
        try:
            return source.locate(uri, self._manifest.revision, listed, self._credential)
        except SourceError:
            raise
        except Exception as error:  # noqa: BLE001  # of somebody else's module: a fault there ends no worker
            # A source may be somebody else's. What it says may hold the credential, so only the kind is told.
            raise Unsupported(
                f"{file.path}: what reads {uri.scheme}:// failed ({type(error).__name__}): ask whoever maintains that package."
            ) from None

    def _watch(self, progress: Callable[[], Progress]) -> None:
        self._progress = progress
