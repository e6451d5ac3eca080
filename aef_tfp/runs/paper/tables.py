"""Tables as text: what the paper has, what came out, and what to know about both."""

import itertools
import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from aef_tfp.runs.paper.exhibits import (
    ESTIMATE,
    EXHIBITS,
    METRICS,
    PAPER_ESTIMATE,
    STAND_INS,
    Exhibit,
    Experiment,
)
from aef_tfp.runs.paper.reproduction import Run

__all__ = ["exhibit_list", "experiment_table", "result_table", "weight_table"]

_IDENTITY = ("data set", "model", "d", "variant")
_COLUMNS = (*_IDENTITY, "metric", "ours", "paper", "iterations", "note")


def exhibit_list() -> str:
    """Returns the tables and figures, and the options that choose them."""
    lines = [["option", "rows", "data sets", "title"]]
    for key, exhibit in EXHIBITS.items():
        names = dict.fromkeys(row.config.dataset for row in exhibit.experiments)
        option, count = f"--{key.replace('-', ' ')}", str(len(exhibit.experiments))
        lines.append([option, count, ", ".join(names), exhibit.title])
    return _aligned(lines)


def experiment_table(exhibit: Exhibit, experiments: Iterable[Experiment]) -> str:
    """Returns rows of an exhibit as the paper has them, with their settings."""
    lines = []
    for experiment in experiments:
        config, iterations, note = experiment.config, "", ""
        if exhibit.needs_training:
            iterations = f"{config.iterations:,}"
            note = f"batch {config.batch_size}, step {config.learning_rate:g}, "
            note += f"patience {config.patience:,}, " if config.patience else ""
            note += f"seeds {', '.join(map(str, experiment.seeds))}"
        for name in experiment.values:
            lines.append(_line(experiment, name, "", iterations, note))
    return _text(exhibit, lines)


def weight_table(
    exhibit: Exhibit, experiments: Iterable[Experiment], counts: Iterable[int]
) -> str:
    """Returns rows of an exhibit with the sizes of their models."""
    lines = [
        _line(experiment, "num_parameters", f"{count:,}", "", "")
        for experiment, count in zip(experiments, counts, strict=True)
    ]
    return _text(exhibit, lines)


def result_table(exhibit: Exhibit, rows: Sequence[Sequence[Run]]) -> str:
    """Returns rows of an exhibit, the runs of each, with what they came to.

    Several runs make a mean and a standard deviation; a single one has its own error.
    """
    lines = itertools.chain.from_iterable(map(_results, rows))
    return _text(exhibit, lines, _notes(rows))


def _results(runs: Sequence[Run]) -> Iterator[list[str]]:
    """Yields the lines of one row of the paper, one per metric."""
    for name in runs[0].names:
        found = (run.record(name) for run in runs)
        records = [record for record in found if record is not None]
        values = [record["value"] for record in records]
        error = records[0]["standard_error"] if records else None
        ours = METRICS[name].measured_text(values, error)
        note = _estimator(records[0]) if records else ""
        yield _line(runs[0].experiment, name, ours, _iterations(runs), note)


def _line(
    experiment: Experiment, name: str, ours: str, iterations: str, note: str
) -> list[str]:
    """Returns the cells of one metric."""
    config, published = experiment.config, experiment.published(name)
    row = [config.dataset, config.model, str(config.latent_dim), experiment.variant]
    return [*row, METRICS[name].label, ours, published, iterations, note]


def _iterations(runs: Sequence[Run]) -> str:
    counts = sorted(run.iteration for run in runs)
    ours = " to ".join(dict.fromkeys(f"{count:,}" for count in (counts[0], counts[-1])))
    if all(run.ended_early for run in runs):
        return f"{ours}, ended by patience"
    least = min(runs, key=lambda run: run.share)
    return f"{ours} of {_budget(least)}"


def _budget(run: Run) -> str:
    # Rounded down: a short run never has 100 %.
    percent = math.floor(1000 * run.share) / 10
    shown = f"{percent:g} %" if percent else "below 0.1 %"
    return f"{run.experiment.config.iterations:,} ({shown})"


def _estimator(record: dict[str, Any]) -> str:
    name, images = record["name"], f"{record['num_images']:,} images"
    if name == "bits_per_dim":
        return f"exact, {images}"
    if name in (ESTIMATE, PAPER_ESTIMATE):
        method = "importance sampling"
        if name == PAPER_ESTIMATE:
            method = "the paper's estimator without - log K"
        samples = f"{record['num_repeats']} x {record['num_samples']} samples"
        return f"{method}, {samples}, {record['proposal']} proposal, {images}"
    # A distance names both sets in words.
    text = record["estimator"]
    return text if "distance" in name else f"{text}, {images}"


def _notes(rows: Sequence[Sequence[Run]]) -> Iterator[str]:
    """Yields what one must know before comparing the numbers."""
    least = min(itertools.chain(*rows), key=lambda run: run.share)
    if least.share < 1.0:
        yield (
            f"These numbers are NOT a reproduction: they come from {least.iteration:,} "
            f"iterations where the paper has {_budget(least)}, and say how far a short "
            "run gets. The same command without --iterations goes on to the end."
        )
    else:
        yield "Every run has the paper's iterations, or was ended by its patience."
    for row in rows:
        if len(row) < (count := len(row[0].experiment.seeds)):
            yield f"A row here is {len(row)} of the paper's {count} runs."
            break
    names = set().union(*(row[0].experiment.values for row in rows))
    asked = least.evaluation
    size = (asked.num_repeats, asked.num_samples, asked.num_images)
    if ESTIMATE in names and size != (20, 128, None):
        yield "The paper's importance sampling: 20 x 128 samples, all test images."
    if any(row[0].evaluation.frechet == "classifier" for row in rows):
        configs = (row[0] for row in rows if row[0].evaluation.frechet == "none")
        if unjudged := sorted({run.config.dataset for run in configs}):
            yield f"No classifier judges {', '.join(unjudged)}: there are no labels."
    if names & set(STAND_INS) and asked.frechet != "inception":
        yield (
            "FID and IFE need --frechet inception; what a classifier measures is "
            "another quantity."
        )


def _text(
    exhibit: Exhibit, lines: Iterable[list[str]], notes: Iterable[str] = ()
) -> str:
    """Returns lines of cells below a heading, with notes and the exhibit's own last."""
    heading = [f"{exhibit.name}: {exhibit.title}", _filled(exhibit.metric)]
    items = [_filled(note, "- ") for note in (*notes, *exhibit.notes)]
    table = _aligned([_COLUMNS, *lines])
    return "\n".join([*heading, "", table, "", *items]).rstrip()


def _filled(text: str, mark: str = "") -> str:
    # An option is not broken at its hyphens.
    return textwrap.fill(
        text,
        88,
        initial_indent=mark,
        subsequent_indent=" " * len(mark),
        break_on_hyphens=False,
    )


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """Returns lines of cells as text, without the columns that are empty."""
    columns = [cells for cells in zip(*lines, strict=True) if any(cells[1:])]
    widths = [max(map(len, cells)) for cells in columns]
    rows = zip(*columns, strict=True)
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
