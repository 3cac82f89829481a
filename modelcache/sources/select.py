"""Choose files by `spec.source.include` and `spec.source.exclude`, for every source in the same way.

The globs mean what `allow_patterns` and `ignore_patterns` of `huggingface_hub` mean, because that is what users know: they
match the whole path, `*` also matches `/`, case matters, and a pattern that ends in `/` means everything below. A file is
taken if one of `include` matches it (or there are none) and none of `exclude` does.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase


def selected(path: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    """Whether the file at `path` is to be cached."""
    if include and not any(_matches(path, pattern) for pattern in include):
        return False
    return not any(_matches(path, pattern) for pattern in exclude)


def excluded_below(folder: str, exclude: Sequence[str]) -> bool:
    """Whether a pattern leaves out everything below `folder`, so that there is no need to look into it."""
    return any(_matches(f"{folder}/", pattern) for pattern in exclude if pattern.endswith(("/", "*")))


def _matches(path: str, pattern: str) -> bool:
    return fnmatchcase(path, f"{pattern}*" if pattern.endswith("/") else pattern)
