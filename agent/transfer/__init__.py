"""The transfer engine: from a manifest to verified blobs in the store. Synchronous; threads inside.

    downloader = Downloader(store, TransferSettings(...))        # one for each agent; close() it
    cancel = CancelToken()                                       # cancel.cancel() from any thread ends a fetch
    with store.hold() as hold:
        digests = downloader.fetch(                              # blocks: asyncio.to_thread
            manifest, locate, hold=hold, progress=on_progress, cancel=cancel
        )
        complete = manifest.with_sha256(digests)                 # {path: sha256} of every file
        store.publish(namespace, name, complete, hub=...)

`locate(file: ManifestFile) -> Location` may block and raise SourceError. `progress(Progress)` gets cumulative counters
and, while nothing flows, `waiting` with the reason and the time of the next try; `watch` gets a function that tells the
same at any time. `overlay` (an Overlay) is who else takes part: the seam for peers.

Raised: InsufficientStorage(needs, free), IntegrityError(path, kind, expected, actual), Cancelled (TransferError);
SourceErrors that are not retryable; StoreError. A fetch for the same manifest goes on where the last one ended.

Inside, from the bottom up: mechanics that know nothing of models (cancel, clock, backoff, limiter, budget, pace, space,
flights, pieces), the file under way (journal, partial, seeding, sink, hashing), where bytes come from (source, connections,
places, origin, directory), and the download itself (plan, progress, download, downloader).
"""

from agent.transfer.cancel import CancelToken
from agent.transfer.downloader import Downloader, TransferSettings
from agent.transfer.errors import Cancelled, InsufficientStorage, IntegrityError, TransferError
from agent.transfer.progress import Progress, Waiting
from agent.transfer.source import Overlay, PieceSource, RangesIgnored, Sink

__all__ = [
    "CancelToken",
    "Cancelled",
    "Downloader",
    "InsufficientStorage",
    "IntegrityError",
    "Overlay",
    "PieceSource",
    "Progress",
    "RangesIgnored",
    "Sink",
    "TransferError",
    "TransferSettings",
    "Waiting",
]
