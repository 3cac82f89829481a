"""Content negotiation: what the client can read, and what it says it sends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from local.kube import errors

JSON, YAML = "application/json", "application/yaml"
WRITTEN = (JSON, YAML)
PROTOBUF = "application/vnd.kubernetes.protobuf"
READ = (JSON, YAML, PROTOBUF)


@dataclass(frozen=True)
class MediaType:
    """One entry of an Accept header, or a Content-Type."""

    name: str
    parameters: Mapping[str, str]

    @property
    def quality(self) -> float:
        """The q value; 0 for a malformed one."""
        try:
            return float(self.parameters.get("q", "1"))
        except ValueError:
            return 0.0


def parse_media_type(text: str) -> MediaType:
    """`application/json;as=Table;v=v1;g=meta.k8s.io` in its parts."""
    name, *rest = text.split(";")
    parameters = {}
    for part in rest:
        key, _, value = part.partition("=")
        parameters[key.strip().lower()] = value.strip().strip('"')
    return MediaType(name.strip().lower(), parameters)


def parse_accept(header: str) -> list[MediaType]:
    """The entries of an Accept header, best first; without a header, JSON."""
    entries = [parse_media_type(part) for part in header.split(",") if part.strip()]
    entries = [entry for entry in entries if entry.quality > 0]
    return sorted(entries, key=lambda entry: -entry.quality) or [MediaType(JSON, {})]


def negotiate(header: str, forms: Sequence[tuple[str, str, str]] = ()) -> MediaType:
    """The best entry that can be written. `forms` are the (as, group, version) that the path can take.

    Raises ApiError 406. An entry that asks for a form that the path does not have is passed over, so that a client can
    list the plain form behind it.
    """
    for entry in parse_accept(header):
        name = {"*/*": JSON, "application/*": JSON}.get(entry.name, entry.name)
        if name not in WRITTEN:
            continue
        wanted = entry.parameters.get("as", "")
        if wanted and (wanted, entry.parameters.get("g", ""), entry.parameters.get("v", "")) not in forms:
            continue
        return MediaType(name, entry.parameters)
    raise errors.not_acceptable(WRITTEN)
