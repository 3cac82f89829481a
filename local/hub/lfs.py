"""Which files the hub keeps in LFS, and what git sees of them.

On the hub a repository's `.gitattributes` decides; the uploading client adds what is too large for git in any case. Files
in LFS are published with their sha256 and served by redirect, all others with their git blob id and served directly, so
this choice is what decides how a client treats a file.
"""

from fnmatch import fnmatchcase

import msgspec

DEFAULT_THRESHOLD = 1024 * 1024
"""Bytes above which a file is in LFS whatever its name: lower than the hub's 10 MiB, so that small tests see both."""

DEFAULT_PATTERNS: tuple[str, ...] = (
    *("*.7z", "*.arrow", "*.bin", "*.bz2", "*.ckpt", "*.ftz", "*.gz", "*.h5", "*.joblib", "*.lfs.*", "*.mlmodel"),
    *("*.model", "*.msgpack", "*.npy", "*.npz", "*.onnx", "*.ot", "*.parquet", "*.pb", "*.pickle", "*.pkl", "*.pt"),
    *("*.pth", "*.rar", "*.safetensors", "saved_model/**/*", "*.tar.*", "*.tar", "*.tflite", "*.tgz", "*.wasm"),
    *("*.xz", "*.zip", "*.zst", "*tfevents*"),
)
"""What the `.gitattributes` of a new model repository on huggingface.co lists."""


class LfsRule(msgspec.Struct, frozen=True):
    """Patterns in the syntax of gitattributes(5), and the size in bytes from which a name does not matter any more."""

    patterns: tuple[str, ...] = DEFAULT_PATTERNS
    threshold: int = DEFAULT_THRESHOLD

    def applies(self, path: str, size: int) -> bool:
        """Whether a file is in LFS. Empty files never are: git-lfs stores them as they are."""
        return size > 0 and (size > self.threshold or any(_matches(path, pattern) for pattern in self.patterns))


def rule_from_gitattributes(text: str, threshold: int = DEFAULT_THRESHOLD) -> LfsRule:
    """Return the rule that a repository's `.gitattributes` states; later lines override earlier ones as in git."""
    patterns: dict[str, None] = {}
    for line in text.splitlines():
        pattern, *attributes = line.split() or [""]
        if not pattern or pattern.startswith("#"):
            continue
        if "filter=lfs" in attributes:
            patterns[pattern] = None
        elif any(name in attributes for name in ("-filter", "!filter")):
            patterns.pop(pattern, None)
    return LfsRule(patterns=tuple(patterns), threshold=threshold)


def pointer(sha256: str, size: int) -> bytes:
    """Return the pointer that git holds instead of the content (git-lfs specification, version 1)."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def _matches(path: str, pattern: str) -> bool:
    """gitattributes: a pattern without slash matches the last part of the path, one with a slash the whole path."""
    if "/" not in pattern:
        return fnmatchcase(path.rpartition("/")[2], pattern)
    return fnmatchcase(path, pattern.lstrip("/").replace("**/", "*"))
