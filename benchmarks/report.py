"""How every benchmark ends: tables for people, then one line of JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], notes: Iterable[str] = ()) -> None:
    """Prints a table: the first column to the left, the others to the right; floats with three significant digits.

    None is shown as a dash: it was not measured. `notes` follow below, one a line.
    """
    cells = [list(columns), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[number]) for row in cells) for number in range(len(columns))]
    lines = [
        "  ".join(cell.ljust(width) if number == 0 else cell.rjust(width) for number, (cell, width) in pairs).rstrip()
        for pairs in (list(enumerate(zip(row, widths, strict=True))) for row in cells)
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    print(f"\n{title}\n", *lines, *notes, sep="\n", flush=True)


def finish(result: Mapping[str, object]) -> None:
    """Prints the result as the last line. Floats are rounded to four digits; None says that something was not measured."""
    rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in result.items()}
    print(f"\n{json.dumps(rounded)}", flush=True)


def ratio(part: float | None, whole: float | None) -> float | None:
    """`part / whole`, None where one of them was not measured or there is nothing to divide by."""
    return part / whole if part is not None and whole else None


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return (
        f"{value:.3g}"
        if isinstance(value, float) and abs(value) < 1000
        else f"{value:,.0f}"
        if isinstance(value, float)
        else str(value)
    )
