"""Repeats a table or figure of the paper: `aef-tfp reproduce --table 1`."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from aef_tfp.runs import paper
from aef_tfp.runs.command_line import named_options, parse, run_command
from aef_tfp.runs.config import EvaluationConfig
from aef_tfp.runs.unread import refuse_unread
from aef_tfp.terminal import as_option, as_typed

DESCRIPTION = """Repeat a table or figure of the paper and print ours beside it.

Each run has a directory of its own under --runs-dir.

A second call resumes what is half done and skips what is done."""

# Options that say which rows.
_WHICH = ("table", "figure", "dataset", "model", "latent_dim")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to repeat, for how long, and how to measure it."""

    table: int | None = None
    """Table of the paper: 1 to 7."""

    figure: int | None = None
    """Figure of the paper: 5, 6 or 10."""

    dataset: str | None = None
    """Only the rows of this data set."""

    model: str | None = None
    """Only the rows of this model, e.g. aef-linear."""

    latent_dim: int | None = None
    """Only the rows with this number of latents."""

    seeds: str = "1"
    """How many of the paper's runs to repeat; or the seeds, with a comma: 3,4 or 5,"""

    iterations: int | None = None
    """Training steps of each run in all; the paper's by default."""

    runs_dir: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/reproduce")
    """Directory of the run directories."""

    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """TFDS data directory that holds the data sets; TFDS's own by default."""

    download: tyro.conf.FlagCreatePairsOff[bool] = False
    """Let TFDS download a data set that the data directory does not hold."""

    frechet: Literal["none", "inception", "classifier"] = "none"
    """Network behind distances and feature errors; the paper's is Inception."""

    inception_weights: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Weights for --frechet inception; downloaded by default."""

    num_images: int | None = None
    """Test images of likelihoods and denoising, the first ones; all by default."""

    num_samples: int = 128
    """Importance samples per image."""

    num_repeats: int = 1
    """How often to repeat the importance sampling; the paper averages 20."""

    proposal: Literal["encoder", "laplace"] = "encoder"
    """Proposal of the importance sampling; the paper's is the encoder's."""

    paper_estimator: tyro.conf.FlagCreatePairsOff[bool] = False
    """Also the BPD of aef-linear as the paper's code has it, without - log K."""

    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the commands that would do the same, and run nothing."""

    list: tyro.conf.FlagCreatePairsOff[bool] = False
    """List tables and figures, or the rows of the one named, and stop."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    note = "interrupted; the same command goes on from the last checkpoint"
    errors = (ValueError, OSError, ArithmeticError, RuntimeError)
    return run_command(_command, argv, note, errors)


def _command(argv: list[str]) -> int:
    arguments = parse(Arguments, argv, DESCRIPTION, prog=as_typed("reproduce"))
    print(_run(arguments, named_options(argv)))
    return 0


def _run(arguments: Arguments, named: Sequence[str]) -> str:
    if arguments.list and arguments.table is None and arguments.figure is None:
        _refuse_beside(named, "--list without a table or figure", ("list", "dry_run"))
        return paper.exhibit_list()
    exhibit = _exhibit(arguments)
    experiments = exhibit.select(
        dataset=arguments.dataset,
        model=arguments.model,
        latent_dim=arguments.latent_dim,
    )
    if arguments.list:
        _refuse_beside(named, "--list", (*_WHICH, "list", "dry_run"))
        return paper.experiment_table(exhibit, experiments)
    if not exhibit.needs_training:
        what = f"{exhibit.name}, which trains nothing,"
        _refuse_beside(named, what, (*_WHICH, "dry_run"))
    refuse_unread(paper.unread(experiments, vars(arguments), named))
    names = {field.name for field in dataclasses.fields(EvaluationConfig)}
    chosen = {k: v for k, v in vars(arguments).items() if k in names}
    rows = paper.plan(
        experiments,
        EvaluationConfig(**chosen),
        arguments.runs_dir,
        seeds=arguments.seeds,
        iterations=arguments.iterations,
    )
    files: dict[str, Any] = {
        "data_dir": arguments.data_dir,
        "download": arguments.download,
    }
    if arguments.dry_run:
        if not exhibit.needs_training:
            return f"# {exhibit.name} trains nothing: it counts weights."
        runs = [run for row in rows for run in row]
        return "\n".join(line for run in runs for line in paper.commands(run, **files))
    if not exhibit.needs_training:
        counts = [paper.count_weights(row.config) for row in experiments]
        return paper.weight_table(exhibit, experiments, counts)
    files["in_terminal"] = sys.stdout.isatty()
    done = [[paper.bring_up_to_date(run, **files) for run in row] for row in rows]
    return paper.result_table(exhibit, done)


def _refuse_beside(named: Sequence[str], what: str, read: Sequence[str]) -> None:
    others = [as_option(name) for name in named if name not in read]
    if others:
        raise ValueError(f"{what} reads no {', '.join(others)}; leave it out.")


def _exhibit(arguments: Arguments) -> paper.Exhibit:
    asked = {"table": arguments.table, "figure": arguments.figure}
    keys = [f"{kind}-{number}" for kind, number in asked.items() if number is not None]
    if len(keys) == 1 and keys[0] in paper.EXHIBITS:
        return paper.EXHIBITS[keys[0]]
    got = " and ".join(f"--{key.replace('-', ' ')}" for key in keys) or "neither"
    kinds: dict[str, list[str]] = {}
    for key in paper.EXHIBITS:
        kind, number = key.split("-")
        kinds.setdefault(kind, []).append(number)
    known = " and ".join(f"--{kind} {', '.join(n)}" for kind, n in kinds.items())
    raise ValueError(f"Name one of {known}, not {got}; --list shows what they are.")
