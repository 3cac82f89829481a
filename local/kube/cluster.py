"""The server without HTTP: the parts, wired together.

store       objects, versions, history          registry     what is served
writer      create, update, patch, apply        deleter      delete
watches     open watches                        controllers  definitions, namespaces, garbage, events' lifetime
"""

import base64
import secrets
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from local.kube.addresses import ServiceAddresses
from local.kube.admission import Admission
from local.kube.definitions import Definitions
from local.kube.deletes import Deleter
from local.kube.documents import Body
from local.kube.expiry import EventExpiry
from local.kube.garbage import GarbageCollector
from local.kube.journal import Journal
from local.kube.namespaces import NamespaceCleaner
from local.kube.registry import Registry
from local.kube.store import Store
from local.kube.subresources import Subresources
from local.kube.tokens import Tokens
from local.kube.watching import Watches
from local.kube.writes import Target, WriteOptions, Writer

_KEY_NAMESPACE, _KEY_NAME = "kube-system", "service-account-signing-key"
_SYSTEM_NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")


def utc_now() -> datetime:
    """The present."""
    return datetime.now(UTC)


class Cluster:
    """Everything that a server serves. Create it in the event loop that will run it."""

    def __init__(self, journal: Journal, clock: Callable[[], datetime] = utc_now) -> None:
        """Load the journal, make sure of the system namespaces, and start the controllers.

        Raises journal.JournalError.
        """
        self.clock = clock
        self.store = Store(journal)
        self.registry = Registry()
        self.watches = Watches(self.store)
        admission = Admission(self.store)
        self.writer = Writer(self.store, self.registry, ServiceAddresses(self.store), admission, clock)
        self.deleter = Deleter(self.store, self.registry, admission, clock)
        self._definitions = Definitions(self.store, self.registry, self.writer, self.deleter, self.watches, clock)
        self._namespaces = NamespaceCleaner(self.store, self.registry, self.writer, self.deleter, clock)
        self._garbage = GarbageCollector(self.store, self.registry, self.writer, self.deleter)
        self._expiry = EventExpiry(self.store)
        self._make_namespaces()
        self.tokens = Tokens(self.store, self.registry, self._signing_key(), clock)
        self.subresources = Subresources(self.store, self.writer, self.tokens, clock)
        self._definitions.start()
        self._namespaces.start()
        self._garbage.start()
        self._expiry.start()
        self.store.begin_history()

    def _make_namespaces(self) -> None:
        resource = self.registry.storage("namespaces")
        assert resource is not None
        for name in _SYSTEM_NAMESPACES:
            if self.store.get("namespaces", "", name) is None:
                body = Body(b'{"metadata":{"name":"%s"}}' % name.encode())
                self.writer.create(Target(resource), body, WriteOptions("kube-apiserver"))

    def _signing_key(self) -> bytes:
        """The key of the ServiceAccounts' tokens, kept with the objects so that tokens outlive the process."""
        stored = self.store.get("secrets", _KEY_NAMESPACE, _KEY_NAME)
        if stored is None:
            resource = self.registry.storage("secrets")
            assert resource is not None
            key = base64.b64encode(secrets.token_bytes(32)).decode()
            body = Body(msgspec.json.encode({"metadata": {"name": _KEY_NAME}, "data": {"key": key}}))
            self.writer.create(Target(resource, _KEY_NAMESPACE), body, WriteOptions("kube-apiserver"))
            stored = self.store.get("secrets", _KEY_NAMESPACE, _KEY_NAME)
            assert stored is not None
        return base64.b64decode(stored.object["data"]["key"])

    def close(self) -> None:
        """End all watches and close the journal."""
        self.watches.close()
        self._expiry.stop()
        self.store.close()
