"""Parse `spec.source.uri`: a pure function from text to parts, with a sentence for everything that is wrong.

==========================================  ====================================================================
`hf://org/name`                             Hugging Face model, default branch
`hf://org/name@rev`, `hf://org/name:rev`    branch, tag, `refs/pr/7` or commit (`@` as Dynamo, `:` as KServe write it)
`s3://bucket/prefix`                        object store; taken literally, keys may contain `@` and `:`
`https://host/path`                         one file, or a folder (with a slash at its end); also `http://`
`file:///path`                              a directory that the node can see
`pvc://claim/path`                          a directory in a PersistentVolumeClaim of the namespace
`ngc://org/team/model:version`              NVIDIA NGC, the team may be missing
==========================================  ====================================================================

Bucket paths and paths on nodes are taken literally: spaces are allowed in them, and `%20` is no space. Web addresses are not.

That a URI parses says nothing about whether this build can read it; `modelcache.sources.base.source_for` says that.
"""

import ipaddress
import re
from collections.abc import Callable, Collection, Mapping

import msgspec

from modelcache.sources.errors import InvalidURI

MAX_LENGTH = 2048
"""Characters; far above any real URI, low enough to be quoted in events and logs."""

# RFC 3986 section 3.1
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)")
_USERINFO = re.compile(r"//[^/@]*:[^/]*@")
# Where an @ is not what separates a user from a host
_REVISION_AFTER_AT = frozenset({"hf"})
# Where paths are taken as they are, and `%20` would not be a space
_LITERAL_PATHS = frozenset({"s3", "file", "pvc"})
# What the hub accepts as the name of an organization or a repository (huggingface_hub.utils.validate_repo_id)
_HF_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?")
_HF_ID_MAX = 96
# Other kinds of repository on the hub (huggingface_hub.constants.HF_URI_TYPE_PREFIXES)
_HF_OTHER_KINDS = frozenset({"datasets", "spaces", "kernels", "buckets"})
# git-check-ref-format(1) as one expression of what must not occur
_BAD_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|^[/-]|/$|\.$|\.lock(/|$)|(^|/)\.|^@$")
# hf://org/name@refs/pr/7 is a revision; any other slash is a path inside the repository (huggingface_hub's grammar)
_HF_SLASHED_REF = re.compile(r"refs/(pr/[0-9]+|convert/[A-Za-z0-9_.-]+)")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
# What else is no bucket anywhere ("General purpose bucket naming rules" of S3): adjacent dots, an address
_NO_BUCKET = re.compile(r".*\.\..*|[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+")
_KEY_MAX = 1024
"""Bytes in UTF-8, as S3 has it ("Naming Amazon S3 objects")."""
# RFC 1123 subdomain, which is what Kubernetes allows as the name of a claim
_CLAIM = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_HOST = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")
_HOST_MAX, _LABEL_MAX = 253, 63
"""Characters of a name and of a part of it (RFC 1035, section 2.3.4)."""
_NGC_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


class SourceURI(msgspec.Struct, frozen=True):
    """The parts of one URI. Its `str()` is canonical and without revision: two texts that mean one place are equal."""

    scheme: str
    authority: str
    """`hf`, `ngc`: organization; `s3`: bucket; `http(s)`: host; `pvc`: claim; `file`: empty."""
    path: str
    """What follows the authority, without its leading slash (with it for `file`). Empty = everything there.

    For `http(s)` with its query, and with the slash at its end if there was one.
    """
    revision: str | None = None
    """Revision, tag or version that the URI itself names."""

    def __str__(self) -> str:
        separator = "/" if self.path and self.scheme != "file" else ""
        return f"{self.scheme}://{self.authority}{separator}{self.path}"


def in_namespace(uri: SourceURI, namespace: str) -> SourceURI:
    """`uri` as it is meant in a DynamoModel of `namespace`: claims belong to namespaces, so the namespace becomes a part.

    The same text in two namespaces means two places. What was fetched from one must never be taken for the other.
    """
    if uri.scheme != "pvc":
        return uri
    path = f"{uri.authority}/{uri.path}" if uri.path else uri.authority
    return SourceURI(scheme="pvc", authority=namespace, path=path, revision=uri.revision)


def parse_uri(text: str, extra_schemes: Collection[str] = ()) -> SourceURI:
    """Split `text` into its parts, or raise InvalidURI with a sentence that says what to write instead.

    `extra_schemes` are those of installed packages (`modelcache.sources.base.installed_schemes`): they are split into
    authority and path and not looked into any further.
    """
    if not text:
        raise InvalidURI("The source URI is empty: write for example hf://organization/name.")
    if len(text) > MAX_LENGTH:
        raise InvalidURI(f"The source URI has {len(text)} characters; at most {MAX_LENGTH} are allowed.")
    if not text.isprintable() or "\\" in text or text != text.strip():
        raise InvalidURI(
            f"{_shown(text)} contains backslashes, control characters, or spaces at its ends: remove them."
        )
    match = _SCHEME.fullmatch(text)
    if match is None:
        raise InvalidURI(f"{_shown(text)} has no scheme: for a Hugging Face model write hf://organization/name.")
    scheme, rest = match[1].lower(), match[2]
    if scheme not in _REVISION_AFTER_AT and "@" in rest.partition("/")[0]:
        raise InvalidURI(f"{_shown(text)} must not contain a user or password: put them into spec.source.secretRef.")
    if " " in text and (scheme not in _LITERAL_PATHS or " " in rest.partition("/")[0]):
        raise InvalidURI(f"{_shown(text)} contains spaces: remove them, or write %20 in the path of a web address.")
    parse = _PARSERS.get(scheme)
    if parse is None:
        if scheme not in extra_schemes:
            known = ", ".join(sorted({*SCHEMES, *extra_schemes}))
            raise InvalidURI(f"{_shown(text)}: unknown scheme {scheme}://, use one of {known}.")
        authority, _, path = rest.partition("/")
        return SourceURI(scheme=scheme, authority=authority, path=_plain_path(text, path))
    return parse(text, rest)


def check_revision(revision: str) -> str:
    """Return `revision` if git would accept it as the name of a branch, tag or commit; raise InvalidURI if not."""
    if not revision or len(revision) > 255 or not revision.isprintable() or _BAD_REF.search(revision):
        raise InvalidURI(
            f"{revision!r} cannot be the name of a branch, tag or commit: see git-check-ref-format for the rules."
        )
    return revision


def is_host(host: str) -> bool:
    """Whether `name`, `name:port` or `[IPv6]:port` could be asked for at all; what lies behind it nobody knows here."""
    match = _HOST.fullmatch(host)
    if match is None or not 0 < int(match[3] or 1) < 65536:
        return False
    name = match[1]
    if not name.startswith("["):
        return len(name) <= _HOST_MAX and all(0 < len(label) <= _LABEL_MAX for label in name.split("."))
    try:
        ipaddress.IPv6Address(name[1:-1])
    except ValueError:
        return False
    return True


def is_endpoint(text: str) -> bool:
    """Whether `text` is `http(s)://host[:port][/path]`, without user, query or blanks."""
    scheme, _, rest = text.partition("://")
    host, _, path = rest.partition("/")
    return scheme in ("http", "https") and is_host(host) and path.isprintable() and not set(path) & set("@?# ")


def _parse_hf(text: str, rest: str) -> SourceURI:
    repository, mark, revision = _cut(rest, "@:")
    names = repository.split("/")
    if names[0] in _HF_OTHER_KINDS:
        raise InvalidURI(
            f"{_shown(text)} names one of the hub's {names[0]}, only models can be cached: write hf://organization/name."
        )
    if names[0] == "models" and len(names) == 3:  # the hub's long form of a model's URI
        names = names[1:]
    if len(names) > 2 and all(names[:2]):
        raise InvalidURI(
            f"{_shown(text)} names a path inside a repository: write hf://{'/'.join(names[:2])} and choose the files with "
            f"spec.source.include."
        )
    if len(names) != 2 or not all(names):
        raise InvalidURI(
            f"{_shown(text)} is not hf://organization/name: the organization is part of the name (gpt2 is "
            f"openai-community/gpt2)."
        )
    name = "/".join(names)
    if (
        len(name) > _HF_ID_MAX
        or not all(_HF_NAME.fullmatch(part) for part in names)
        or any(bad in name for bad in ("--", ".."))
        or name.endswith(".git")
    ):
        raise InvalidURI(
            f"{_shown(text)}: {name!r} cannot be a Hugging Face repository, which has at most {_HF_ID_MAX} letters, digits, "
            f"'-', '_' or '.' (not at the ends, no '--', no '..', no '.git')."
        )
    if not mark:
        return SourceURI(scheme="hf", authority=names[0], path=names[1])
    return SourceURI(scheme="hf", authority=names[0], path=names[1], revision=_hf_revision(text, name, revision))


def _hf_revision(text: str, name: str, revision: str) -> str:
    if "/" in revision and not _HF_SLASHED_REF.fullmatch(revision):
        raise InvalidURI(
            f"{_shown(text)}: after the revision comes a path. To take some files only, use spec.source.include; if the "
            f"revision's name contains a slash, write it as %2F or set spec.version."
        )
    revision = revision.replace("%2F", "/").replace("%2f", "/")
    if not revision:
        raise InvalidURI(
            f"{_shown(text)} ends without a revision: remove the last character or write hf://{name}@main."
        )
    return check_revision(revision)


def _parse_bucket(text: str, rest: str) -> SourceURI:
    bucket, _, path = rest.partition("/")
    if bucket.startswith("arn:"):
        raise InvalidURI(
            f"{_shown(text)} names an access point by its ARN: write its alias, which S3 takes for a bucket's name."
        )
    if not _BUCKET.fullmatch(bucket) or _NO_BUCKET.fullmatch(bucket):
        raise InvalidURI(f"{_shown(text)}: {bucket!r} cannot be the name of a bucket: write s3://bucket/prefix.")
    if len(path.encode()) > _KEY_MAX:
        raise InvalidURI(f"{bucket!r} can have no key of {len(path.encode())} bytes: S3 allows {_KEY_MAX}.")
    return SourceURI(scheme="s3", authority=bucket, path=_plain_path(text, path))


def _parse_http(text: str, rest: str) -> SourceURI:
    scheme = text.partition(":")[0].lower()
    host, _, path = rest.partition("/")
    if not is_host(host):
        raise InvalidURI(f"{_shown(text)}: {host!r} cannot be a host: write {scheme}://host/path.")
    if "#" in path:
        raise InvalidURI(f"{_shown(text)}: remove the part from '#' on, it never reaches the server.")
    if not path.partition("?")[0].strip("/"):
        raise InvalidURI(f"{_shown(text)} names a host but no file on it: write {scheme}://host/path.")
    name, question, query = path.partition("?")
    # Of a web address the slash at its end is a part: it makes a folder of it.
    slash = "/" if name.endswith("/") else ""
    return SourceURI(scheme=scheme, authority=host.lower(), path=_plain_path(text, name) + slash + question + query)


def _parse_file(text: str, rest: str) -> SourceURI:
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost"):
        raise InvalidURI(f"{_shown(text)} names the host {host!r}: write file:/// and the absolute path on the node.")
    if not slash or not path.strip("/"):
        raise InvalidURI(f"{_shown(text)} names no directory: write file:/// and the absolute path on the node.")
    return SourceURI(scheme="file", authority="", path="/" + _plain_path(text, path))


def _parse_pvc(text: str, rest: str) -> SourceURI:
    claim, _, path = rest.partition("/")
    if len(claim) > 253 or not _CLAIM.fullmatch(claim):
        raise InvalidURI(
            f"{_shown(text)}: {claim!r} cannot be the name of a PersistentVolumeClaim: write pvc://claim/path."
        )
    return SourceURI(scheme="pvc", authority=claim, path=_plain_path(text, path))


def _parse_ngc(text: str, rest: str) -> SourceURI:
    name, mark, version = rest.partition(":")
    parts = name.split("/")
    if len(parts) not in (2, 3) or not all(_NGC_NAME.fullmatch(part) for part in parts):
        raise InvalidURI(f"{_shown(text)} is not ngc://organization/team/model:version (the team may be missing).")
    if mark and not _NGC_NAME.fullmatch(version):
        raise InvalidURI(f"{_shown(text)}: {version!r} cannot be the version of an NGC model.")
    return SourceURI(scheme="ngc", authority=parts[0], path="/".join(parts[1:]), revision=version if mark else None)


def _shown(text: str) -> str:
    """Quote `text` for a message, without a password or a signature that somebody has put into it."""
    return repr(_USERINFO.sub("//...@", text).partition("?")[0])


def _cut(text: str, marks: str) -> tuple[str, str, str]:
    """`str.partition` at the first of several characters."""
    at = min((i for i in map(text.find, marks) if i >= 0), default=len(text))
    return text[:at], text[at : at + 1], text[at + 1 :]


def _plain_path(text: str, path: str) -> str:
    """Return `path` without a slash at its end; it must be in normal form, so that one place has one name."""
    stripped = path[:-1] if path.endswith("/") else path
    if stripped and any(part in ("", ".", "..") for part in stripped.split("/")):
        raise InvalidURI(f"{_shown(text)}: the path must not contain empty, '.' or '..' segments.")
    return stripped


_PARSERS: Mapping[str, Callable[[str, str], SourceURI]] = {
    "hf": _parse_hf,
    "s3": _parse_bucket,
    "http": _parse_http,
    "https": _parse_http,
    "file": _parse_file,
    "pvc": _parse_pvc,
    "ngc": _parse_ngc,
}

SCHEMES: tuple[str, ...] = tuple(sorted(_PARSERS))
"""Schemes that we can parse; more than this build can read."""
