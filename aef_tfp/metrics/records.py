"""Numbers with everything that says what they are, in files and in tables."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aef_tfp.records import Record, append_records, library_versions, read_records

__all__ = [
    "Record",
    "append_records",
    "comparison",
    "library_versions",
    "read_records",
    "records_of_means",
    "summary",
]


def records_of_means(values: Mapping[str, np.ndarray], **facts: Any) -> list[Record]:
    """Returns a record of the mean of each array, with its standard error.

    Args:
        values: Values per image, `[n]` each, by the names of the records; n at least 2.
        **facts: The other fields of `Record`.

    Raises:
        ValueError: If there are fewer than 2 values, or some are not finite.
    """
    records = []
    for name, array in values.items():
        array = np.asarray(array, np.float64)
        if len(array) < 2:
            raise ValueError(
                f"{name} must be a mean over at least 2 images, got {len(array)}; one "
                "has no standard error."
            )
        if not np.isfinite(array).all():
            raise ValueError(
                f"{name} is not finite for {np.count_nonzero(~np.isfinite(array))} of "
                f"{len(array)} images; see what is special about them before leaving "
                "them out."
            )
        error = float(array.std(ddof=1) / math.sqrt(len(array)))
        records.append(
            Record(
                name=name,
                value=float(array.mean()),
                standard_error=error,
                num_images=len(array),
                **facts,
            )
        )
    return records


def summary(records: Sequence[Record]) -> str:
    """Returns the records as lines for the terminal, estimators below their numbers."""
    width = max((len(record.name) for record in records), default=0)
    lines = []
    for i, record in enumerate(records):
        lines.append(
            f"  {record.name:<{width}} {_value(record):>20} {_unit(record.name):<10} "
            f"({record.split}, {record.num_images} images{_samples(record)})"
        )
        if i + 1 == len(records) or records[i + 1].estimator != record.estimator:
            lines.append(f"      {record.estimator}")
    return "\n".join(lines)


def comparison(runs: Mapping[str, Sequence[Record]]) -> str:
    """Returns the newest records of several runs side by side, a column per run.

    A row is one quantity by one estimator on equally many images of one split, so that
    what stands in a row can be compared.

    Args:
        runs: Records by the name of their run.
    """
    columns = {run: {_row(record): record for record in runs[run]} for run in runs}
    rows = dict.fromkeys(row for cells in columns.values() for row in cells)
    width = max([len("quantity"), *map(len, rows)])
    cells = {
        run: [_value(by_row[row]) if row in by_row else "-" for row in rows]
        for run, by_row in columns.items()
    }
    widths = {run: max([len(run), *map(len, column)]) for run, column in cells.items()}
    lines = [f"{'quantity':<{width}}  " + "  ".join(f"{r:>{widths[r]}}" for r in cells)]
    for i, row in enumerate(rows):
        values = "  ".join(f"{cells[run][i]:>{widths[run]}}" for run in cells)
        lines.append(f"{row:<{width}}  {values}")
    iterations = {
        run: ", ".join(sorted({f"{r.iteration:,}" for r in records if r.iteration}))
        for run, records in runs.items()
    }
    if any(iterations.values()):
        values = "  ".join(f"{iterations[run]:>{widths[run]}}" for run in cells)
        lines.append(f"{'iterations':<{width}}  {values}")
    return "\n".join(lines)


def _row(record: Record) -> str:
    parts = [record.name]
    if record.proposal:
        parts.append(record.proposal)
    facts = f"{record.split}, {record.num_images} images{_samples(record)}"
    return f"{', '.join(parts)} ({facts})"


def _samples(record: Record) -> str:
    if not record.num_samples:
        return ""
    repeats = f" x {record.num_repeats}" if (record.num_repeats or 1) > 1 else ""
    return f", K = {record.num_samples}{repeats}"


def _value(record: Record) -> str:
    if record.standard_error is None:
        return f"{record.value:.4f}"
    return f"{record.value:.4f} +- {record.standard_error:.4f}"


def _unit(name: str) -> str:
    for part, unit in (("bits_per_dim", "bits/dim"), ("log_prob", "nats/image")):
        if part in name:
            return unit
    return ""
