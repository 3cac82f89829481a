"""Bringing a DynamoModel from what it asks for to a manifest, once.

In this order, and the first that works ends it:

1. the manifest is in memory and answers the request;
2. the status says that this request was resolved before: the manifest is loaded from the ConfigMaps;
3. they are lost: the source is asked again, but for the *revision that was found then*, never for the branch;
4. the request is new: the source is asked.

So neither a restart of the controller nor a branch that moves nor a source that is down changes what a resolved
DynamoModel means; only a change of its spec does. A source that refuses is asked again: soon and then less and less often
when the failure looks temporary, every few minutes when it does not, and at once when the user changes something.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random

from controller.completion import complete
from controller.credentials import SecretProblem, read_credential
from controller.facts import bare
from controller.manifests import LostManifest, ManifestStore
from controller.placement import Presence
from controller.problems import rfc3339
from controller.registry import Registry
from controller.reports import NodeReport, Phase
from controller.request import Pinned, Problem, Request
from controller.resolver import Failure, Job, Outcome, Resolver
from controller.survey import EVERYBODY, choose_surveyor
from controller.tracked import Tracked, Trigger
from modelcache.api.labels import RETRY_ANNOTATION
from modelcache.api.model import DynamoModel
from modelcache.api.status import Status
from modelcache.kube.backoff import full_jitter
from modelcache.kube.client import KubeClient
from modelcache.kube.clock import Clock
from modelcache.kube.errors import KubeError
from modelcache.sources.base import NODE_SCHEMES

_log = logging.getLogger(__name__)

FIRST_RETRY = 4.0
"""Seconds until the first retry of a temporary failure, on average; doubled with each further one."""
SECRET_RETRY = 15.0
"""Seconds: a missing Secret is usually being created right now, and asking for it costs one small request."""
CREDENTIAL_AGE = 60.0
"""Seconds after which a credential is read again while the model is not ready everywhere."""
ATTEMPT_MAX = 256


def trigger_of(model: DynamoModel) -> Trigger:
    """What the user changes to have things tried again."""
    return Trigger(model.metadata.generation, attempt_of(model))


def attempt_of(model: DynamoModel) -> str:
    """The value of the retry annotation, as agents get it."""
    return (model.metadata.annotations or {}).get(RETRY_ANNOTATION, "")[:ATTEMPT_MAX]


class Resolution:
    """Step by step towards `tracked.pinned`; what cannot be done is `tracked.problem`."""

    def __init__(
        self,
        client: KubeClient,
        store: ManifestStore,
        resolver: Resolver,
        registry: Registry,
        clock: Clock,
        *,
        longest_retry: float,
        rng: Random,
        wall: Callable[[], datetime],
    ) -> None:
        self._client = client
        self._store = store
        self._resolver = resolver
        self._registry = registry
        self._clock = clock
        self._longest_retry = longest_retry
        self._rng = rng
        self._wall = wall
        self._outcomes: dict[str, tuple[Job, Outcome]] = {}

    def take(self, uid: str, job: Job, outcome: Outcome) -> None:
        """Keep the answer of the resolver until the next look at the model."""
        self._outcomes[uid] = (job, outcome)

    def listed(self, tracked: Tracked, node: str, id: str, outcome: Outcome) -> bool:
        """Take the answer of a node that was asked to list, if it was; whether it was. The next look needs it.

        When the node could not, and there are others, one of them is asked.
        """
        survey = tracked.survey
        if survey.job is None or survey.listing is None or survey.listing.id != id or survey.surveyor != node:
            return False
        if isinstance(outcome, Failure):
            _log.warning("%s: %s cannot list: %s: %s", tracked.key, node, outcome.reason, outcome.message)
            if set(self._connected(tracked)) - survey.unfit - {node}:
                survey.ask_another(node)
                return True
            outcome = replace(outcome, message=f"On node {node}: {outcome.message}")
        self.take(tracked.uid, survey.job, outcome)
        survey.answered()
        return True

    def survey(self, model: DynamoModel, tracked: Tracked) -> bool:
        """Decide who reads first, if somebody has to; whether anything has changed for the agents."""
        survey, announced = tracked.survey, tracked.announced
        if survey.listing is None and (announced is None or not announced.undigested):
            survey.surveyor = EVERYBODY
        else:
            if survey.asked_for != trigger_of(model):
                survey.asked_for = trigger_of(model)
                survey.unfit.clear()
            self._note_failure(tracked)
            survey.surveyor = choose_surveyor(
                tracked.assigned or (), self._connected(tracked), survey.unfit, survey.surveyor
            )
        told, survey.told = survey.told, (survey.surveyor, survey.listing)
        if survey.surveyor and (told is None or survey.surveyor != told[0]):
            _log.info("%s: node %s reads the source first", model.key, survey.surveyor)
        return survey.told != told

    def _note_failure(self, tracked: Tracked) -> None:
        """Whether the surveyor has failed with what it was to read."""
        survey, announced = tracked.survey, tracked.announced
        report = self._registry.view(survey.surveyor, tracked.key).report if survey.surveyor else None
        about = report is not None and announced is not None and report.manifest_digest == announced.digest
        if about and report is not None and report.phase is Phase.FAILED:
            survey.unfit.add(str(survey.surveyor))

    def _connected(self, tracked: Tracked) -> list[str]:
        return [node for node in tracked.assigned or () if self._registry.presence(node) is Presence.CONNECTED]

    def forget(self, uid: str) -> None:
        """The model is gone or being removed."""
        self._resolver.cancel(uid)
        self._outcomes.pop(uid, None)

    async def step(self, model: DynamoModel, tracked: Tracked, request: Request, previous: Status) -> None:
        """Do what can be done now. Raises KubeError when the API cannot be asked."""
        if tracked.request_key != request.key:
            if tracked.request_key:
                _log.info("%s: now asks for %s, before for %s", model.key, request.key, tracked.request_key)
            self.forget(tracked.uid)
            tracked.forget_request(request.key)
        await self._load(model, tracked, request, previous)
        await self._credential(model, tracked, request, previous)
        await self._take_outcome(model, tracked, request)
        await self._complete(model, tracked, request)
        if tracked.pinned is None:
            self._ask(model, tracked, request, previous)

    def fail(self, model: DynamoModel, tracked: Tracked, failure: Failure) -> None:
        """Note why there is no manifest, and when to try again."""
        delay = self._delay(failure, tracked.failures)
        problem = Problem(failure.reason, failure.message, rfc3339(self._wall() + timedelta(seconds=delay)))
        tracked.fail(failure, problem, self._clock.now() + delay, trigger_of(model))
        _log.warning("%s: %s: %s Next try in %.0f s.", model.key, failure.reason, failure.message, delay)

    def retry_in(self, tracked: Tracked) -> float | None:
        """Seconds until something is to be tried again, None when nothing is."""
        if tracked.retry_at is None:
            return None
        return max(0.0, tracked.retry_at - self._clock.now())

    # -- the steps -----------------------------------------------------------------------------------------------

    async def _load(self, model: DynamoModel, tracked: Tracked, request: Request, previous: Status) -> None:
        """From the ConfigMaps that the status names."""
        if tracked.pinned is not None or not previous.manifest_digest or previous.resolved_from != request.key:
            return
        if self._resolver.job_of(tracked.uid) or tracked.survey.job or tracked.uid in self._outcomes or tracked.problem:
            return  # they are lost, and the source is being asked again
        try:
            pinned = await self._store.load(model, bare(previous.manifest_digest))
        except LostManifest as lost:
            _log.error("%s: %s; reading revision %s from the source again", model.key, lost, previous.resolved_version)
            return
        if not pinned.answers(request):
            _log.error("%s: the stored manifest is one of %s; asking the source", model.key, pinned.manifest.source)
            return
        tracked.succeed(pinned)
        tracked.announced = pinned

    async def _credential(self, model: DynamoModel, tracked: Tracked, request: Request, previous: Status) -> None:
        """Read the Secret when it is needed, or may have been corrected."""
        assert model.spec.source is not None
        ref = model.spec.source.secret_ref
        if ref is None:
            tracked.credential = tracked.credential_problem = tracked.credential_for = None
            return
        basis = (ref, trigger_of(model))
        now = self._clock.now()
        fresh = tracked.credential_for == basis and tracked.credential_at is not None
        if fresh and not self._is_due(tracked, previous, now):
            return
        try:
            tracked.credential = await read_credential(self._client, model.metadata.namespace, ref, request.uri.scheme)
            tracked.credential_problem = None
        except SecretProblem as error:
            tracked.credential, tracked.credential_problem = None, error.problem
            _log.warning("%s: %s: %s", model.key, error.problem.reason, error.problem.message)
        except KubeError as error:
            if tracked.pinned is None:
                raise
            # The agents may well have what they need; this look must go on without an API server.
            _log.warning("%s: the Secret cannot be read now: %s", model.key, error)
            return
        tracked.credential_for, tracked.credential_at = basis, now

    def _is_due(self, tracked: Tracked, previous: Status, now: float) -> bool:
        assert tracked.credential_at is not None
        if tracked.retry_at is not None and now >= tracked.retry_at:
            return True
        return previous.phase != "Ready" and now - tracked.credential_at >= CREDENTIAL_AGE

    async def _take_outcome(self, model: DynamoModel, tracked: Tracked, request: Request) -> None:
        job, outcome = self._outcomes.get(tracked.uid, (None, None))
        if job is None or outcome is None:
            return
        if job.request.key != request.key:
            del self._outcomes[tracked.uid]
            return
        if isinstance(outcome, Pinned):
            await self._store.store(model, outcome, request.key)
            _log.info("%s: %s is revision %s", model.key, request.key, outcome.revision)
            tracked.succeed(outcome)
        else:
            self.fail(model, tracked, outcome)
        # Only now: while the API server is down the answer must not be lost.
        self._outcomes.pop(tracked.uid, None)

    async def _complete(self, model: DynamoModel, tracked: Tracked, request: Request) -> None:
        pinned = tracked.pinned
        if pinned is None or pinned.complete:
            return
        completed = await asyncio.to_thread(complete, pinned, self._reports(tracked))
        if isinstance(completed, Pinned):
            await self._store.store(model, completed, request.key)
            _log.info("%s: all sha256 are known, tree digest %s", model.key, completed.tree_digest)
            tracked.succeed(completed)
        elif completed != tracked.completion:
            tracked.completion = completed
            if completed:
                _log.error("%s: %s", model.key, completed.message)

    def _reports(self, tracked: Tracked) -> list[tuple[str, NodeReport]]:
        views = ((node, self._registry.view(node, tracked.key)) for node in tracked.assigned or ())
        return [(node, view.report) for node, view in views if view.report is not None]

    def _ask(self, model: DynamoModel, tracked: Tracked, request: Request, previous: Status) -> None:
        trigger, due = trigger_of(model), self.retry_in(tracked)
        if tracked.tried_for == trigger and due is not None and due > 0:
            return
        if tracked.credential_problem is not None:
            problem = tracked.credential_problem
            self.fail(model, tracked, Failure(problem.reason, problem.message, retry_after=SECRET_RETRY))
            return
        # From here on it is the answer that makes us look again, not the time.
        tracked.retry_at, tracked.tried_for = None, trigger
        known = previous.resolved_version if previous.resolved_from == request.key else None
        job = Job(request, known or request.revision, tracked.credential)
        if request.uri.scheme in NODE_SCHEMES:
            tracked.survey.ask(job)
        else:
            self._resolver.submit(tracked.uid, job)

    def _delay(self, failure: Failure, failures: int) -> float:
        """Seconds until the next try."""
        if failure.retryable:
            jittered = full_jitter(failures, base=FIRST_RETRY, cap=self._longest_retry, rng=self._rng)
            # At least half: the point of this jitter is to spread many models, not to ask again at once.
            delay = jittered / 2 + min(self._longest_retry, FIRST_RETRY * 2.0 ** min(failures, 32)) / 2
            return max(delay, failure.retry_after or 0.0)
        return min(failure.retry_after, self._longest_retry) if failure.retry_after else self._longest_retry
