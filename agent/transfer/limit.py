"""How much of the disk the cache may take: an amount, a part of the file system, or all that is free."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

# Kubernetes quantities without exponents: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15} | {
    unit + "i": 1024**power for power, unit in enumerate("KMGTP", start=1)
}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)(%|[kMGTP]|[KMGTP]i|)")


class Limit(NamedTuple):
    """At most `amount` bytes, or `percent` of the size of the file system; neither: whatever is free."""

    amount: int | None = None
    percent: float | None = None

    @staticmethod
    def parse(text: str) -> Limit:
        """`200Gi`, `1500M`, `80%`, or empty for no limit. Raises ValueError with what would be right."""
        if not text:
            return Limit()
        found = _AMOUNT.fullmatch(text.strip())
        if found is None:
            raise ValueError("it must be an amount such as 200Gi or 1500M, or a part of the file system such as 80%")
        number, unit = float(found[1]), found[2]
        if unit == "%":
            if not 0 < number <= 100:
                raise ValueError("a percentage must be more than 0 and at most 100")
            return Limit(percent=number)
        if number * _UNITS[unit] < 1:
            raise ValueError("it must be at least one byte")
        return Limit(amount=int(number * _UNITS[unit]))

    def bytes_of(self, root: Path) -> int | None:
        """The limit for the file system of `root`, in bytes; None for none."""
        if self.percent is None:
            return self.amount
        found = os.statvfs(root)
        return int(found.f_blocks * found.f_frsize * self.percent / 100)


NO_LIMIT = Limit()
