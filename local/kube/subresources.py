"""Subresources other than status: a scale, the binding of a pod, the finalizers of a namespace, a token.

Each reads or writes a part of its parent in a form of its own.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from local.kube import causes, errors, patches
from local.kube.conversion import view
from local.kube.documents import Body, check_kind, kind_of, read_object, unhandled
from local.kube.metadata import timestamp
from local.kube.resources import Resource
from local.kube.store import Object, Store
from local.kube.tokens import Tokens
from local.kube.writes import Target, WriteOptions, Writer, Written

_DEPLOYMENT_SCALE = {
    "specReplicasPath": ".spec.replicas",
    "statusReplicasPath": ".status.replicas",
    "labelSelectorPath": ".spec.selector",
}


class Subresources:
    """Serves the subresources that are not simply a part of the object."""

    def __init__(self, store: Store, writer: Writer, tokens: Tokens, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._writer = writer
        self._tokens = tokens
        self._clock = clock

    def get(self, target: Target) -> Object:
        """GET of a subresource: the scale, or the object itself for status. Raises ApiError 404."""
        parent = self._parent(target)
        return scale_of(target.resource, parent) if target.subresource == "scale" else parent

    def create(self, target: Target, body: Body, options: WriteOptions) -> Object:
        """POST to a subresource. Raises ApiError."""
        parent = self._parent(target)
        expected = kind_of(target.resource, target.subresource)
        document = read_object(body, expected)
        check_kind(document, expected, custom=False)
        if target.subresource == "binding":
            return self._bind(target, document, options)
        return self._tokens.issue(parent, document)

    def update(self, target: Target, media_type: str | None, body: Body, options: WriteOptions) -> Written:
        """PUT (no media type) or PATCH of scale or finalize. Raises ApiError."""
        if target.subresource == "finalize":
            return self._finalize(target, body, options)
        current = scale_of(target.resource, self._parent(target))
        expected = kind_of(target.resource, "scale")
        if media_type is None:
            scale = read_object(body, expected)
        elif media_type == patches.APPLY_PATCH:
            scale = patches.merge_patched(current, read_object(body, expected))
        elif media_type == patches.STRATEGIC_PATCH:
            scale = patches.merge_patched(current, read_object(body, expected))  # a Scale has no lists
        else:
            scale = patches.patched(target.resource, current, media_type, body)
        check_kind(scale, expected, custom=False)
        replicas = _replicas(scale, target)
        version = str((scale.get("metadata") or {}).get("resourceVersion") or "")
        path = _paths(target.resource)["specReplicasPath"]

        def change(obj: Object) -> None:
            if version:
                obj["metadata"]["resourceVersion"] = version
            _put(obj, path, replicas)

        written = self._writer.rewrite(target, change, options.manager, dry_run=options.dry_run)
        return Written(scale_of(target.resource, written.object))

    def _parent(self, target: Target) -> Object:
        stored = self._store.get(target.resource.storage_key, target.namespace, target.name)
        if stored is None:
            raise errors.not_found(target.resource, target.name)
        return view(target.resource, stored)

    def _bind(self, target: Target, binding: Object, options: WriteOptions) -> Object:
        node = (binding.get("target") or {}).get("name") if isinstance(binding.get("target") or {}, dict) else None
        if not isinstance(node, str) or not node:
            raise errors.invalid(target.resource, target.name, [causes.required("target.name")])

        def bind(pod: Object) -> None:
            present = pod["spec"].get("nodeName")
            if present:
                raise errors.conflict(
                    target.resource,
                    target.name,
                    f"pod {target.name} is already assigned to node {causes.go_quote(present)}",
                )
            pod["spec"]["nodeName"] = node
            conditions = pod.setdefault("status", {}).setdefault("conditions", [])
            conditions[:] = [c for c in conditions if c.get("type") != "PodScheduled"]
            conditions.append(
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": timestamp(self._clock())}
            )

        self._writer.rewrite(target, bind, options.manager, dry_run=options.dry_run)
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}

    def _finalize(self, target: Target, body: Body, options: WriteOptions) -> Written:
        expected = kind_of(target.resource)
        document = read_object(body, expected)
        check_kind(document, expected, custom=False)
        spec = document.get("spec") or {}
        finalizers = spec.get("finalizers") or [] if isinstance(spec, dict) else None
        if not isinstance(finalizers, list) or not all(isinstance(finalizer, str) for finalizer in finalizers):
            raise unhandled(expected, "json: cannot unmarshal spec.finalizers into []v1.FinalizerName")

        def change(obj: Object) -> None:
            obj["spec"] = {"finalizers": finalizers} if finalizers else {}

        return self._writer.rewrite(target, change, options.manager, dry_run=options.dry_run)


def _paths(resource: Resource) -> dict[str, str]:
    return dict(resource.scale) if resource.scale else _DEPLOYMENT_SCALE


def _at(obj: Object, path: str) -> Any:
    value: Any = obj
    for step in path.strip(".").split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _put(obj: Object, path: str, value: Any) -> None:
    *parents, last = path.strip(".").split(".")
    for step in parents:
        obj = obj.setdefault(step, {})
    obj[last] = value


def scale_of(resource: Resource, obj: Object) -> Object:
    """The `autoscaling/v1` Scale of an object."""
    paths = _paths(resource)
    meta = obj["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    status: Object = {"replicas": _at(obj, paths["statusReplicasPath"]) or 0}
    selector = _at(obj, paths["labelSelectorPath"]) if paths.get("labelSelectorPath") else None
    if isinstance(selector, dict):
        selector = ",".join(f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items()))
    if selector:
        status["selector"] = selector
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: meta[key] for key in kept if key in meta},
        "spec": {"replicas": _at(obj, paths["specReplicasPath"]) or 0},
        "status": status,
    }


def _replicas(scale: Object, target: Target) -> int:
    spec = scale.get("spec")
    replicas = spec.get("replicas", 0) if isinstance(spec, dict) else 0
    if not isinstance(replicas, int) or isinstance(replicas, bool):
        raise unhandled(kind_of(target.resource, "scale"), "json: cannot unmarshal spec.replicas into int32")
    if replicas < 0:
        raise errors.invalid(
            target.resource,
            target.name,
            [causes.invalid("spec.replicas", replicas, "must be greater than or equal to 0")],
        )
    return replicas
