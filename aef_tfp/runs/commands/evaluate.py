"""Evaluates runs and compares them: `aef-tfp evaluate RUN`."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from aef_tfp.data import check_source
from aef_tfp.records import comparison, differences, read_records, summary
from aef_tfp.runs.command_line import named_options, parse, place_as_before, run_command
from aef_tfp.runs.config import EvaluationConfig, RunConfig
from aef_tfp.runs.unread import refuse_unread, unread_by_evaluation
from aef_tfp.terminal import as_option, as_typed, import_quietly, waiting

DESCRIPTION = """Evaluate the best checkpoint of a run on real images.

Likelihoods are exact where the model has one, else importance sampling.

All numbers are printed, and kept in the run's metrics.json.

With --compare, runs are shown side by side, and nothing is evaluated."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Which runs, and where their data lie."""

    runs: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")
    ]
    """Run directory; several with --compare."""

    config: tyro.conf.OmitArgPrefixes[EvaluationConfig] = EvaluationConfig()  # noqa: RUF009
    """What to evaluate, and on how much."""

    compare: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the newest numbers of these runs side by side."""

    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """TFDS data directory that holds the data set, or your own images, as in the
    training; where they were then by default."""

    download: tyro.conf.FlagCreatePairsOff[bool] = False
    """Let TFDS download the data set if the data directory does not hold it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_command(_run, argv, "interrupted; metrics.json has what was done")


def _run(argv: list[str]) -> int:
    # It may stand between the runs, too.
    argv = sorted(argv, key=lambda argument: argument != "--compare")
    arguments = parse(Arguments, argv, DESCRIPTION, prog=as_typed("evaluate"))
    named = named_options(argv)
    runs, config = arguments.runs, arguments.config
    config.check()
    if arguments.compare:
        others = [as_option(name) for name in named if name != "compare"]
        if others:
            raise ValueError(
                "--compare prints what metrics.json holds, and evaluates nothing; "
                f"leave out {', '.join(others)}."
            )
        return _compare(runs)
    if len(runs) != 1:
        raise ValueError(
            f"evaluate one run at a time, got {len(runs)}; --compare prints several."
        )
    run = RunConfig.from_run(runs[0])
    place = place_as_before(runs[0], arguments.data_dir)
    check_source(run.dataset, place)
    refuse_unread(unread_by_evaluation(config, run, named))
    notes: list[str] = []
    with waiting("starting TensorFlow"):
        evaluation = import_quietly("aef_tfp.runs.evaluation")
    records = evaluation.evaluate_run(
        runs[0],
        config,
        data_dir=place,
        download=arguments.download,
        verbose=1 if sys.stdout.isatty() else 2,
        notes=notes,
    )
    iteration = records[0].iteration
    after = f" after {iteration:,} iterations" if iteration else ""
    print(f"{runs[0]}, best checkpoint{after}:")
    print(summary(records))
    print("\n".join(notes) or f"Appended to {runs[0] / 'metrics.json'}")
    return 0


def _compare(runs: Sequence[Path]) -> int:
    if not runs:
        raise ValueError("--compare compares runs, got none; name their directories.")
    places = [run.resolve() for run in runs]
    for run, place in zip(runs, places, strict=True):
        if places.count(place) > 1:
            raise ValueError(f"{run} is named twice; name each run once.")
    columns = {}
    for run, name in zip(runs, _names(runs), strict=True):
        if not (run / "config.json").is_file():
            raise FileNotFoundError(f"{run} holds no run: it has no config.json.")
        columns[name] = read_records(run)
        if not columns[name]:
            raise ValueError(
                f"{run} has no numbers yet; evaluate it first: "
                f"{as_typed('evaluate', run)}"
            )
    print(comparison(columns))
    names = dict(zip(columns, runs, strict=True))
    if len(runs) > 1 and (paired := differences(names)):
        print(f"\n{paired}")
    return 0


def _names(runs: Sequence[Path]) -> list[str]:
    """The last part of each path where that tells them apart, else the whole path."""
    short = [run.resolve().name for run in runs]
    return short if len(set(short)) == len(runs) else [str(run) for run in runs]
