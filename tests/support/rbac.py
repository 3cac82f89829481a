"""Who may do what, taken apart into single grants: of the manifests, of docs/security.md, and of a cluster."""

import re
from typing import NamedTuple

from tests.support.kubectl import Kubectl
from tests.support.manifests import ROOT, Object


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


def documented() -> set[Grant]:
    """The rows of the table in docs/security.md."""
    found = set()
    for who, where, resource, names, verbs, why in _rows("| who | where |"):
        assert why
        found.add(Grant(who, where, resource, names, tuple(sorted(verbs.split(", ")))))
    return found


def _rows(header: str) -> list[list[str]]:
    """The cells of a table of docs/security.md, as plain text."""
    text = (ROOT / "docs" / "security.md").read_text()
    table = text[text.index(header) :].split("\n\n")[0]
    return [[cell.strip().replace("`", "") for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]]


def allowed(objects: list[Object], who: str) -> set[tuple[str, str]]:
    """Pairs of verb and resource (without its group, as metrics have it) that are granted somewhere."""
    found = set()
    for grant in grants(objects):
        plural, slash, sub = grant.resource.partition("/")
        if grant.who == who:
            found |= {(verb, plural.split(".")[0] + slash + sub) for verb in grant.verbs}
    return found


Listed = tuple[str, str, tuple[str, ...]]
"""Resource (with its group) or path, name (empty for all), and verbs in order."""


def documented_for_everybody() -> set[Listed]:
    """What docs/security.md says that a cluster gives every ServiceAccount."""
    return {
        (subject, "", tuple(verbs.split(", ")))
        for subjects, verbs in _rows("| resource | verbs |")
        for subject in subjects.split(", ")
    }


def listed(kubectl: Kubectl, namespace: str, user: str) -> set[Listed]:
    """What `kubectl auth can-i --list` says of a user in a namespace, taken apart by resource or path and name."""
    done = kubectl("auth", "can-i", "--list", "-n", namespace, "--as", user)
    assert done.stderr == "", "kubectl warns where the server's answer is incomplete"
    found: dict[tuple[str, str], set[str]] = {}
    for line in done.lines()[1:]:
        resource, rest = line[: line.index("[")].strip(), line[line.index("[") :]
        paths, names, verbs = (part.split() for part in re.findall(r"\[([^]]*)\]", rest))
        for subject in [resource] if resource else paths:
            for name in names or [""]:
                found.setdefault((subject, name), set()).update(verbs)
    return {(subject, name, tuple(sorted(verbs))) for (subject, name), verbs in found.items()}
