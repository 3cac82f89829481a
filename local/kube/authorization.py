"""May whoever asks do that: RBAC, in force for everybody who is not the administrator.

Who runs the server is in `system:masters` and may do everything. Who shows the token of a ServiceAccount, or is spoken for,
may do what the stored Roles say, as on a real server. Only requests about resources are looked at: discovery and health are
for everybody anyway. Left out: that server-side apply needs `create` as well where it creates.
"""

from __future__ import annotations

from local.kube import errors, parameters, rbac
from local.kube.identity import User
from local.kube.parameters import Query
from local.kube.routes import Route
from local.kube.store import Store


def check(store: Store, user: User, verb: str, route: Route, query: Query) -> None:
    """Raises ApiError 403 when `user` may not do `verb` (create, list, ...) there, and 400 for a selector that is none."""
    resource, name, namespace = route.resource, route.name, route.namespace
    if verb in ("get", "list") and (route.watch or (not name and parameters.flag(query, "watch"))):
        verb = "watch"
    if verb in ("list", "watch", "deletecollection") and not name:
        # Who may read one object by its name may also wait for it.
        name = parameters.selection(query, resource, namespace).fields.name or ""
    attributes = {
        "verb": verb,
        "group": resource.group,
        "resource": resource.plural,
        "subresource": route.subresource,
        "name": name,
        # A Role in a namespace may also be about that Namespace.
        "namespace": route.name if resource.plural == "namespaces" and not resource.group else namespace,
    }
    spec = {"user": user["username"], "groups": user["groups"], "resourceAttributes": attributes}
    if not rbac.reason(store, spec):
        kind = f"{resource.plural}/{route.subresource}" if route.subresource else resource.plural
        where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
        raise errors.forbidden(
            resource,
            name,
            f'User "{user["username"]}" cannot {verb} resource "{kind}" in API group "{resource.group}" {where}',
        )
