"""The transfer engine as a `Fetcher`: knows which source to ask for the places of files, and where to ask how far it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack

from agent.store import Store
from agent.transfer import CancelToken, Downloader, Progress
from modelcache.manifest import Manifest, ManifestFile
from modelcache.sources.base import Credential, Location, Source, SourceFile, installed_schemes, source_for
from modelcache.sources.uri import SourceURI, parse_uri


class TransferFetcher:
    """Begins downloads with one agent's transfer engine."""

    def __init__(self, store: Store, downloader: Downloader) -> None:
        self._store = store
        self._downloader = downloader

    def begin(self, manifest: Manifest, credential: Credential | None) -> TransferFetch:
        """See Fetcher."""
        return TransferFetch(self._store, self._downloader, manifest, credential)


class TransferFetch:
    """One download; see Fetch."""

    def __init__(self, store: Store, downloader: Downloader, manifest: Manifest, credential: Credential | None) -> None:
        self._store = store
        self._downloader = downloader
        self._manifest = manifest
        self._credential = credential
        self._cancel = CancelToken()
        self._closing = ExitStack()
        self._progress: Callable[[], Progress | None] = lambda: None

    def run(self) -> Mapping[str, str]:
        """See Fetch. Raises InvalidURI or Unsupported as well, for a source that nothing here can read."""
        uri = parse_uri(self._manifest.source, installed_schemes())
        source = source_for(uri)
        return self._downloader.fetch(
            self._manifest,
            lambda file: self._locate(source, uri, file),
            hold=self._closing.enter_context(self._store.hold()),
            watch=self._watch,
            cancel=self._cancel,
        )

    def cancel(self) -> None:
        """See Fetch."""
        self._cancel.cancel()

    def progress(self) -> Progress | None:
        """See Fetch."""
        return self._progress()

    def close(self) -> None:
        """See Fetch."""
        self._closing.close()

    def _locate(self, source: Source, uri: SourceURI, file: ManifestFile) -> Location:
        listed = SourceFile(path=file.path, size=file.size, sha256=file.sha256, git_oid=file.git_oid, etag=file.etag)
        return source.locate(uri, self._manifest.revision, listed, self._credential)

    def _watch(self, progress: Callable[[], Progress]) -> None:
        self._progress = progress
