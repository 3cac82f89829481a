"""Roles in the manifests, taken apart into single grants."""

from typing import NamedTuple

from tests.support.manifests import Object


class Grant(NamedTuple):
    """What one ServiceAccount may do with one resource. `names` is empty for all objects."""

    who: str
    where: str
    resource: str
    names: str
    verbs: tuple[str, ...]


def grants(objects: list[Object]) -> set[Grant]:
    """Every grant; `where` is `cluster` or `namespace`, `who` the ServiceAccount without `modelcache-`."""
    found = set()
    for each in objects:
        if each["kind"] not in ("Role", "ClusterRole"):
            continue
        who = each["metadata"]["name"].removeprefix("modelcache-")
        where = "cluster" if each["kind"] == "ClusterRole" else "namespace"
        for rule in each["rules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    plural, slash, sub = resource.partition("/")
                    name = f"{plural}.{group}{slash}{sub}" if group else resource
                    names = ", ".join(rule.get("resourceNames", ()))
                    found.add(Grant(who, where, name, names, tuple(sorted(rule["verbs"]))))
    return found


def allowed(objects: list[Object], who: str) -> set[tuple[str, str]]:
    """Pairs of verb and resource (without its group, as metrics have it) that are granted somewhere."""
    found = set()
    for grant in grants(objects):
        plural, slash, sub = grant.resource.partition("/")
        if grant.who == who:
            found |= {(verb, plural.split(".")[0] + slash + sub) for verb in grant.verbs}
    return found
