"""Numbers with everything that says what they are, in files and in tables."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aef_tfp.records import (
    Record,
    append_records,
    digest_of,
    library_versions,
    read_records,
)

__all__ = [
    "Record",
    "append_records",
    "comparison",
    "digest_of",
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
            features = f", {record.features}" if record.features else ""
            lines.append(f"      {record.estimator}{features}")
        if record.detail and (
            i + 1 == len(records) or records[i + 1].detail != record.detail
        ):
            lines.append(f"      {record.detail}")
    return "\n".join(lines)


def comparison(runs: Mapping[str, Sequence[Record]]) -> str:
    """Returns the newest records of several runs side by side, a column per run.

    What stands in a row can be compared: it is one quantity by one estimator, of equal
    images with equal levels, samples, proposal, temperature and features. Where rows of
    one quantity differ in one of these, that is a column, too.

    Args:
        runs: Records by the name of their run.
    """
    by_row = {run: {_key(record, run): record for record in runs[run]} for run in runs}
    keys = dict.fromkeys(key for found in by_row.values() for key in found)
    firsts = [next(f[key] for f in by_row.values() if key in f) for key in keys]
    table = [["quantity", *map(_row, firsts)]]
    for name, value_of in _FACTS.items():
        values = [value_of(record) for record in firsts]
        labels = [record.name for record in firsts]
        if len({*zip(labels, values, strict=True)}) > len({*labels}):
            table.append([name, *values])
    numbers = len(table)
    for run, found in by_row.items():
        cells = [_value(found[key]) if key in found else "-" for key in keys]
        table.append([run, *cells])
    iterations = [
        ", ".join(sorted({f"{r.iteration:,}" for r in records if r.iteration}))
        for records in runs.values()
    ]
    if any(iterations):
        for i, column in enumerate(table):
            last = "iterations" if i == 0 else ""
            column.append(iterations[i - numbers] if i >= numbers else last)
    widths = [max(map(len, column)) for column in table]
    lines = [
        "  ".join(
            f"{cell:<{width}}" if i < numbers else f"{cell:>{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in zip(*table, strict=True)
    ]
    return "\n".join(lines)


def _estimator(record: Record) -> str:
    # Older records have the proposal's scale in it, which no two models share.
    return re.sub(r" of scale [^ ]+( \(\w+\))?", "", record.estimator)


# What a number has to share with another to be compared with it; the first ones are in
# the name of a row.
_FACTS = {
    "data": lambda record: record.dataset or "?",
    "levels": lambda record: str(record.num_levels or "?"),
    "set": lambda record: record.images or "?",
    "temperature": lambda record: f"{record.temperature or ''}",
    "features": lambda record: record.features or "",
    "estimator": _estimator,
}


def _key(record: Record, run: str) -> tuple:
    # Of unknown images nobody knows that they are equal.
    known = record.images or f"those of {run}"
    return (_row(record), known, *(fact(record) for fact in _FACTS.values()))


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
