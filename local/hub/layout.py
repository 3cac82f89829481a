"""Repositories from directories on disk, for `python -m local.hub`.

A *root* holds repositories as the hub names them::

    ROOT/
        org/
            name/             the files of branch `main`
            name@v1/          the files of branch `v1`
            name.hub.json     settings of `org/name`, optional

    {
        "private": false,     nobody sees it without one of `tokens`
        "gated": false,       "auto" or "manual": everybody sees it, files need one of `tokens`
        "disabled": false,
        "tokens": ["hf_..."],
        "tags": {"v1.0": "main"},
        "files": {"../../etc/passwd": "text"}    added to `main`: for names that no file system holds
    }

A *single repository* is given as `org/name=DIR`, a further branch of it as `org/name@branch=DIR`.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from local.hub.repository import Content, Gated, Repository, files_below

_SETTINGS_SUFFIX = ".hub.json"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a `.hub.json` says."""

    private: bool = False
    gated: Gated = False
    disabled: bool = False
    tokens: Sequence[str] = ()
    tags: Mapping[str, str] = {}
    files: Mapping[str, str] = {}


def load(specs: Iterable[str]) -> list[Repository]:
    """Make the repositories that the arguments of the command name: roots, and `org/name[@branch]=DIR`.

    Raises ValueError with a sentence for what does not exist or cannot be understood.
    """
    found: dict[str, dict[str, Path]] = {}
    settings: dict[str, Settings] = {}
    for spec in specs:
        name, equals, directory = spec.partition("=")
        if equals and not Path(spec).exists():
            _add(found, name, Path(directory))
        else:
            _add_root(found, settings, Path(spec))
    return [_build(name, branches, settings.get(name, Settings())) for name, branches in sorted(found.items())]


def _add(found: dict[str, dict[str, Path]], name: str, directory: Path) -> None:
    name, _, branch = name.partition("@")
    if not directory.is_dir():
        raise ValueError(f"{name}: {directory} is not a directory")
    branches = found.setdefault(name, {})
    if (branch or "main") in branches:
        raise ValueError(f"{name}: branch {branch or 'main'} is given twice")
    branches[branch or "main"] = directory


def _add_root(found: dict[str, dict[str, Path]], settings: dict[str, Settings], root: Path) -> None:
    if not root.is_dir():
        raise ValueError(f"{root} is neither a directory nor org/name=DIR")
    for organization in sorted(path for path in root.iterdir() if path.is_dir()):
        for path in sorted(organization.iterdir()):
            if path.is_dir():
                _add(found, f"{organization.name}/{path.name}", path)
            elif path.name.endswith(_SETTINGS_SUFFIX):
                name = path.name.removesuffix(_SETTINGS_SUFFIX)
                settings[f"{organization.name}/{name}"] = _read_settings(path)
                found.setdefault(f"{organization.name}/{name}", {})


def _read_settings(path: Path) -> Settings:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Settings)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path}: {error}") from None


def _build(name: str, branches: Mapping[str, Path], settings: Settings) -> Repository:
    repository = Repository(
        name,
        private=settings.private,
        gated=settings.gated,
        disabled=settings.disabled,
        tokens=settings.tokens,
    )
    contents: dict[str, Mapping[str, Content]] = {branch: files_below(path) for branch, path in branches.items()}
    extra = {path: text.encode() for path, text in settings.files.items()}
    # A repository always has a `main`, if an empty one.
    contents["main"] = {**contents.get("main", {}), **extra}
    for branch, files in contents.items():
        repository.commit(files, branch=branch)
    for tag, revision in settings.tags.items():
        try:
            repository.tag(tag, revision)
        except KeyError as error:
            raise ValueError(f"{name}: tag {tag}: {error.args[0]}") from None
    return repository
