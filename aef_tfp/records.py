"""The numbers of a run in its metrics.json, with everything that says what they are.

This module imports no TensorFlow: command lines answer at once.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import math
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aef_tfp.files import locked, replace_file, replace_text
from aef_tfp.saved import DamagedFile, read_fields, read_json

__all__ = [
    "Record",
    "append_records",
    "comparison",
    "differences",
    "digest_of",
    "library_versions",
    "read_per_image",
    "read_records",
    "summary",
]

_PACKAGES = ("aef_tfp", "tensorflow", "keras", "tensorflow-probability", "numpy")


# What is hashed at once: 16 MB.
_DIGESTED_BYTES = 2**24


@functools.cache
def _versions() -> tuple[tuple[str, str], ...]:
    return tuple((name, importlib.metadata.version(name)) for name in _PACKAGES)


def library_versions() -> dict[str, str]:
    """Returns the versions of the libraries that a number depends on."""
    return dict(_versions())


@dataclasses.dataclass(frozen=True)
class Record:
    """One number of metrics.json, and what it is.

    Args:
        name: What is estimated, e.g. `marginal_bits_per_dim`.
        value: The number: a mean over images, or a distance between two sets.
        standard_error: Of the value; None where there is none.
        estimator: How it was estimated, in words.
        split: The images: `train`, `validation` or `test`.
        num_images: How many of them.
        num_samples: Importance samples per image and repeat, K; None without any.
        num_repeats: Repeats pooled inside the logarithm, R.
        proposal: `encoder` or `laplace`; None without importance sampling.
        detail: What more there is to say of this number alone, e.g. the proposal's
            scale; numbers with other details can be compared.
        dataset: Name of the data set; None if unknown.
        num_levels: Values that a pixel can take; None if unknown or continuous.
        images: Which images they are, by their digest; None if unknown.
        anomalies: The same of the images that they are told from; None without any.
        temperature: Of samples that were judged.
        features: Name of the features that judged them.
        seed: Seed of the noise.
        iteration: Training iterations behind the model; None if unknown.
        versions: Versions of the libraries.
        per_image: The number of each image, `[num_images]`, of which `value` is the
            mean; None where it was not kept. Paired differences need it.
        per_image_file: Where in the run directory `append_records` has kept it.
    """

    name: str
    value: float
    standard_error: float | None
    estimator: str
    split: str
    num_images: int
    num_samples: int | None = None
    num_repeats: int | None = None
    proposal: str | None = None
    detail: str = ""
    dataset: str | None = None
    num_levels: int | None = None
    images: str | None = None
    anomalies: str | None = None
    temperature: float | None = None
    features: str | None = None
    seed: int = 0
    iteration: int | None = None
    versions: Mapping[str, str] = dataclasses.field(default_factory=library_versions)
    per_image: Any = dataclasses.field(default=None, repr=False, compare=False)
    per_image_file: str | None = None


def digest_of(images: Any) -> str:
    """Returns eight hexadecimal digits that say which images these are.

    Args:
        images: NumPy array `[n, ...]`.
    """
    # Of images in a file, only a part is in memory.
    size = max(1, _DIGESTED_BYTES * len(images) // max(1, images.nbytes))
    parts = (images[i : i + size] for i in range(0, len(images), size))
    return digest_of_parts(images.dtype, images.shape, parts)


def digest_of_parts(dtype: Any, shape: tuple[int, ...], parts: Iterable[Any]) -> str:
    """Returns the `digest_of` images that are never together.

    Args:
        dtype: Of all of them.
        shape: `[n, ...]`, likewise.
        parts: NumPy arrays, the images in their order.
    """
    sha = hashlib.sha256(f"{np.dtype(dtype).str}{tuple(shape)}".encode())
    for part in parts:
        sha.update(part.tobytes())
    return sha.hexdigest()[:8]


def read_records(run_dir: str | Path) -> list[Record]:
    """Reads the records of a run, oldest first; none if it has no metrics.json.

    Raises:
        DamagedFile: If metrics.json is no list of records.
    """
    run_dir = Path(run_dir)
    return [record for _, record in _read(run_dir)]


def _read(run_dir: Path) -> list[tuple[dict[str, Any], Record]]:
    """What the file holds of each number, and what this version knows of it."""
    path = run_dir / "metrics.json"
    if not path.exists():
        return []
    advice = "move it away and evaluate again"
    what = "list of records"
    entries = read_json(path, advice, what)
    if not isinstance(entries, list):
        raise DamagedFile(path, f"is no {what}", advice)
    known = {field.name for field in dataclasses.fields(Record)} - {"per_image"}
    found = []
    for entry in entries:
        ours = entry
        if isinstance(entry, dict):
            # Other versions may know more of a number.
            ours = {key: value for key, value in entry.items() if key in known}
        options: dict[str, Any] = {"required": False, "what": what}
        found.append((entry, read_fields(Record, ours, path, advice, **options)))
    return found


def append_records(run_dir: str | Path, records: Sequence[Record]) -> None:
    """Appends records to a run's metrics.json; the file is replaced in one step.

    The numbers of each image go into a file beside it.

    Of several processes that do it at once, none loses the records of another.

    Raises:
        DamagedFile: If metrics.json is no list of records.
        CannotWrite: If it cannot be written.
        BlockingIOError: If another process has been writing it for a minute.
    """
    run_dir = Path(run_dir)
    options: dict[str, Any] = {"doing": "writing metrics.json of", "wait_seconds": 60.0}
    with locked(run_dir, ".metrics.lock", **options):
        entries = [entry for entry, _ in _read(run_dir)]
        for record in records:
            file = _keep_per_image(run_dir, record)
            entry = vars(record) | {"per_image_file": file}
            del entry["per_image"]
            entries.append(entry)
        text = json.dumps(entries, indent=2) + "\n"
        replace_text(run_dir / "metrics.json", text)


def _keep_per_image(run_dir: Path, record: Record) -> str | None:
    """Writes the numbers of each image; returns the file's name in the directory."""
    if record.per_image is None:
        return None
    number = 1
    # metrics.json may have begun anew.
    while (path := run_dir / "per-image" / f"{number}.npz").exists():
        number += 1
    arrays: dict[str, Any] = {record.name: np.asarray(record.per_image)}
    replace_file(path, lambda aside: np.savez(aside, allow_pickle=False, **arrays))
    return str(path.relative_to(run_dir))


def read_per_image(run_dir: str | Path, record: Record) -> np.ndarray:
    """Reads the number of each image, which an evaluation has kept.

    Args:
        run_dir: The run's directory.
        record: One of its records, with a `per_image_file`.

    Returns:
        `[num_images]`.

    Raises:
        DamagedFile: If the file is gone, or not what was written.
    """
    path = Path(run_dir) / (record.per_image_file or "")
    advice = "evaluate again"
    if not path.is_file():
        raise DamagedFile(path, "is gone", advice)
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            values = arrays[record.name]
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise DamagedFile(path, f"cannot be read: {error}", advice) from None
    if values.shape != (record.num_images,):
        raise DamagedFile(path, f"has the shape {values.shape}", advice)
    return values


def differences(runs: Mapping[str, Path]) -> str:
    """Returns how the numbers of runs differ from those of the first, image by image.

    The standard error of a mean over images is mostly that of the images: some are
    easier than others, for every model. That of the mean difference is what two models
    differ by, and much smaller. Only what was evaluated on equal images, by one
    estimator and with one seed is paired.

    Args:
        runs: Run directories by the name of their run, two or more.

    Returns:
        Lines for the terminal, with the reason where an equal quantity of equal images
        cannot be paired; "" if the runs share no mean over images.

    Raises:
        DamagedFile: If metrics.json, or a file of numbers per image, is damaged.
        ValueError: If there are fewer than two runs.
    """
    if len(runs) < 2:
        raise ValueError(f"differences are those of two runs or more, got {len(runs)}.")
    newest = {
        run: {_key(record, run): record for record in read_records(run_dir)}
        for run, run_dir in runs.items()
    }
    first, *others = runs
    rows: list[tuple[str, ...]] = []
    for key, theirs in newest[first].items():
        for run in others:
            ours = newest[run].get(key)
            if ours is None or not _are_means(ours, theirs):
                continue
            if reason := why_not_paired({run: ours, first: theirs}):
                value = f"not paired: {reason}"
            else:
                gap = read_per_image(runs[run], ours)
                gap -= read_per_image(runs[first], theirs)
                error = gap.std(ddof=1) / math.sqrt(len(gap))
                digits = _digits(ours.name)
                value = f"{gap.mean():+.{digits}f} +- {error:.{digits}f}"
                value += f" {_unit(ours.name)}"
            rows.append((run, _row(ours), value))
    if not rows:
        return ""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    title = f"minus {first}, mean of the differences of each image:"
    return "\n".join([title, *map(str.rstrip, lines)])


def _are_means(*records: Record) -> bool:
    """Whether they are means over images, whose numbers may have been kept or not."""
    kept = any(record.per_image_file for record in records)
    return kept or all(_unit(record.name) for record in records)


def why_not_paired(two: Mapping[str, Record]) -> str:
    """Returns why two runs' means have no paired difference; "" if they have one."""
    if len({(record.images, record.num_images) for record in two.values()}) > 1:
        return "their images are others"
    if len({record.seed for record in two.values()}) > 1:
        return " and ".join(
            f"seed {record.seed} of {run}" for run, record in two.items()
        )
    old = [run for run, record in two.items() if not record.per_image_file]
    if old:
        return f"evaluate {' and '.join(old)} again, to keep the number of each image"
    return ""


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
    images with equal levels, samples, proposal, temperature and features, told from
    equal anomalies. Where rows of one quantity differ in one of these, that is a
    column, too.

    Args:
        runs: Records by the name of their run.
    """
    by_row = {run: {_key(record, run): record for record in runs[run]} for run in runs}
    keys = dict.fromkeys(key for found in by_row.values() for key in found)
    firsts = [next(f[key] for f in by_row.values() if key in f) for key in keys]
    table = [["quantity", *map(_row, firsts)]]
    notes: list[str] = []
    for name, value_of in _FACTS.items():
        values = [value_of(record) for record in firsts]
        # How many images there are, a row says itself.
        label_of = _row if name == "set" else _name
        labels = list(map(label_of, firsts))
        if len({*zip(labels, values, strict=True)}) > len({*labels}):
            if name == "estimator":
                # Sentences, which follow the table.
                notes = list(dict.fromkeys(values))
                values = [f"({notes.index(value) + 1})" for value in values]
            table.append([name, *values])
    numbers = len(table)
    for run, found in by_row.items():
        cells = [_value(found[key]) if key in found else "-" for key in keys]
        table.append([run, *cells])
    # Of superseded numbers, which are not shown, nobody asks.
    iterations = [
        ", ".join(
            f"{number:,}"
            for number in sorted({r.iteration for r in found.values() if r.iteration})
        )
        for found in by_row.values()
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
    lines += [f"({i + 1}) {note}" for i, note in enumerate(notes)]
    return "\n".join(lines)


def _name(record: Record) -> str:
    return record.name


def _estimator(record: Record) -> str:
    # Older records have the proposal's scale in it, which no two models share.
    return re.sub(r" of scale [^ ]+( \(\w+\))?", "", record.estimator)


# What a number has to share with another to be compared with it; the first ones are in
# the name of a row.
_FACTS = {
    "data": lambda record: record.dataset or "?",
    "levels": lambda record: str(record.num_levels or "?"),
    "set": lambda record: record.images or "?",
    "anomalies": lambda record: record.anomalies or ("?" if _is_area(record) else ""),
    "temperature": lambda record: (
        "" if record.temperature is None else f"{record.temperature}"
    ),
    "features": lambda record: record.features or "",
    "estimator": _estimator,
}


def _key(record: Record, run: str) -> tuple:
    # Of unknown images nobody knows that they are equal.
    known = record.images or f"those of {run}"
    others = record.anomalies or (f"those of {run}" if _is_area(record) else "")
    return (_row(record), known, others, *(fact(record) for fact in _FACTS.values()))


def _is_area(record: Record) -> bool:
    return record.name.startswith("auroc_")


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
    digits = _digits(record.name)
    if record.standard_error is None:
        return f"{record.value:.{digits}f}"
    return f"{record.value:.{digits}f} +- {record.standard_error:.{digits}f}"


def _digits(name: str) -> int:
    # Errors of reconstructions are small numbers, and standard errors smaller ones.
    return 6 if name.endswith("_error") and not name.startswith("auroc_") else 4


def _unit(name: str) -> str:
    if name.startswith("auroc_"):
        return ""
    for part, unit in (("bits_per_dim", "bits/dim"), ("log_prob", "nats/image")):
        if part in name:
            return unit
    return ""
