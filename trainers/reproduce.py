"""Repeats a table or figure of the paper: `reproduce.py --table 1 --dataset mnist`."""

import dataclasses
import itertools
import json
import math
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from aef_tfp import paper
from aef_tfp.config import PRESETS, EvaluationConfig, RunConfig
from aef_tfp.data.registry import DATASETS, dataset_info
from aef_tfp.paper import Exhibit, Experiment
from aef_tfp.terminal import import_quietly

DESCRIPTION = """Repeat a table or figure of the paper and print ours beside it.

Each run has a directory of its own under --runs-dir. A second call goes on where the
first ended: it resumes what is half done and skips what is done."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to repeat, for how long, and how to measure it."""

    table: int | None = None
    """Table of the paper: 1, 2, 3, 6 or 7."""

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

    dry_run: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print the commands that would do the same, and run nothing."""

    list: tyro.conf.FlagCreatePairsOff[bool] = False
    """List tables and figures, or the rows of the one named, and stop."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One row with one seed, and how far its directory is."""

    experiment: Experiment
    config: RunConfig
    run_dir: Path
    has_started: bool = False
    iteration: int = 0
    best_iteration: int = 0
    ended_early: bool = False
    records: Sequence[dict[str, Any]] = ()

    def read(self) -> "Run":
        """Returns the run with what its directory holds now.

        Raises:
            ValueError: If that is a run with other settings.
        """
        if not (self.run_dir / "config.json").is_file():
            return self
        found = RunConfig.from_run(self.run_dir)
        asked = dataclasses.replace(self.config, iterations=found.iterations)
        if changes := _changes(asked, found):
            raise ValueError(
                f"{self.run_dir} holds a run with other settings: its "
                f"{' and '.join(_options(changes))} should be "
                f"{' and '.join(_options(_changes(found, asked)))}; choose another "
                "--runs-dir."
            )
        iteration, best = _newest_checkpoint(self.run_dir)
        # Never fewer than there are: config.json would say less than was trained.
        total = max(self.config.iterations, iteration)
        metrics = self.run_dir / "metrics.json"
        return dataclasses.replace(
            self,
            config=dataclasses.replace(self.config, iterations=total),
            has_started=True,
            iteration=iteration,
            best_iteration=best,
            ended_early=0 < found.patience <= iteration - best,
            records=json.loads(metrics.read_text()) if metrics.is_file() else (),
        )

    @property
    def is_trained(self) -> bool:
        """Whether nothing of the training is left to do."""
        ended = self.ended_early or self.iteration >= self.config.iterations
        # Pictures are its last files. An autoencoder's training measures nothing.
        return ended and (self.run_dir / "reconstructions.png").is_file()

    @property
    def share(self) -> float:
        """The share of the paper's iterations that is done."""
        total = self.experiment.config.iterations
        return 1.0 if self.ended_early else min(self.iteration / total, 1.0)

    def record(self, name: str, asked: EvaluationConfig) -> dict[str, Any] | None:
        """Returns the last record of the best model that is what was asked."""
        facts = {"name": name, "split": "test", "iteration": self.best_iteration}
        if "distance" not in name:
            # Of another data set the largest record, for training ends with one of all.
            whole = paper.NUM_TEST_IMAGES.get(self.config.dataset) or max(
                (r["num_images"] for r in self.records if _is_on_test(r)), default=0
            )
            facts["num_images"] = min(asked.num_images or whole, whole)
        if name == "marginal_bits_per_dim":
            for field in ("num_samples", "num_repeats", "proposal"):
                facts[field] = getattr(asked, field)
        fitting = [record for record in self.records if facts.items() <= record.items()]
        return fitting[-1] if fitting else None

    def lacks(self, asked: EvaluationConfig) -> bool:
        """Whether a number is asked that metrics.json does not hold."""
        names = _wanted(self.experiment, asked)
        return any(self.record(name, asked) is None for name in names)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    arguments = tyro.cli(Arguments, args=argv, description=DESCRIPTION)
    try:
        print(_run(arguments))
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        note = "interrupted; the same command goes on from the last validation"
        print(note, file=sys.stderr)
        return 130
    return 0


def _run(arguments: Arguments) -> str:
    if arguments.list and arguments.table is None and arguments.figure is None:
        return _list_of_exhibits()
    exhibit = _exhibit(arguments)
    experiments = exhibit.select(
        dataset=arguments.dataset,
        model=arguments.model,
        latent_dim=arguments.latent_dim,
    )
    if arguments.list:
        return exhibit.text(itertools.chain(*map(_listed, experiments)), ())
    names = {field.name for field in dataclasses.fields(EvaluationConfig)}
    chosen = {k: v for k, v in vars(arguments).items() if k in names}
    asked = EvaluationConfig(**chosen)
    asked.check()
    rows = [_runs(experiment, arguments) for experiment in experiments]
    files = {"data_dir": arguments.data_dir, "download": arguments.download}
    if arguments.dry_run:
        if not exhibit.needs_training:
            return f"# {exhibit.name} trains nothing: it counts weights."
        runs = itertools.chain(*rows)
        return "\n".join(line for run in runs for line in _commands(run, asked, files))
    _check_data_sets(exhibit, experiments)
    if not exhibit.needs_training:
        return exhibit.text(map(_count, experiments), ())
    rows = [[_bring_up_to_date(run, asked, files) for run in row] for row in rows]
    lines = itertools.chain(*(_lines(row, asked) for row in rows))
    return exhibit.text(lines, _notes(rows, asked))


def _exhibit(arguments: Arguments) -> Exhibit:
    asked = {"table": arguments.table, "figure": arguments.figure}
    keys = [f"{kind}-{number}" for kind, number in asked.items() if number is not None]
    if len(keys) == 1 and keys[0] in paper.EXHIBITS:
        return paper.EXHIBITS[keys[0]]
    got = " and ".join(f"--{key.replace('-', ' ')}" for key in keys) or "neither"
    raise ValueError(
        f"Name one of --table 1, 2, 3, 6, 7 and --figure 5, 6, 10, not {got}; --list "
        "shows what they are."
    )


def _runs(experiment: Experiment, arguments: Arguments) -> list[Run]:
    """Returns the runs of one row as they are now, before anything is trained."""
    runs = []
    for seed in _seeds(experiment, arguments.seeds):
        config = dataclasses.replace(experiment.config, seed=seed)
        if arguments.iterations is not None:
            config = dataclasses.replace(config, iterations=arguments.iterations)
        config.check()
        run_dir = arguments.runs_dir / paper.run_name(config)
        runs.append(Run(experiment, config, run_dir).read())
    return runs


def _seeds(experiment: Experiment, asked: str) -> tuple[int, ...]:
    if re.fullmatch(r"\d+(,\d+)*,?", asked):
        numbers = [int(number) for number in re.findall(r"\d+", asked)]
        if "," in asked:
            return tuple(dict.fromkeys(numbers))
        if 1 <= numbers[0] <= len(experiment.seeds):
            return experiment.seeds[: numbers[0]]
    raise ValueError(
        f"--seeds must be 1 to {len(experiment.seeds)}, the paper's runs on "
        f"{experiment.config.dataset}, or seeds such as 3,4 or 5, not {asked!r}."
    )


def _check_data_sets(exhibit: Exhibit, experiments: Sequence[Experiment]) -> None:
    unknown = {row.config.dataset for row in experiments} - set(DATASETS)
    known = {row.config.dataset for row in exhibit.experiments} & set(DATASETS)
    if unknown:
        raise ValueError(
            f"This package has no data set {', '.join(sorted(unknown))}; --dataset can "
            f"choose those of {exhibit.name} that it has: "
            f"{', '.join(sorted(known)) or 'none'}."
        )


def _newest_checkpoint(run_dir: Path) -> tuple[int, int]:
    """Returns its iteration, and that of the best model by then; 0 if there is none."""
    directories = (run_dir / "checkpoints").glob("iteration-*")
    found = {int(path.name.removeprefix("iteration-")): path for path in directories}
    if not found:
        return 0, 0
    newest = max(found)
    state = json.loads((found[newest] / "state.json").read_text())
    return newest, state["best_iteration"]


def _is_on_test(record: dict[str, Any]) -> bool:
    # A distance counts samples, not test images.
    return record["split"] == "test" and "distance" not in record["name"]


def _changes(base: Any, config: Any) -> dict[str, Any]:
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if getattr(config, field.name) != getattr(base, field.name)
    }


def _wanted(experiment: Experiment, asked: EvaluationConfig) -> list[str]:
    """Returns the records to measure."""
    if asked.frechet == "classifier":
        return [paper.STAND_INS.get(name, name) for name in experiment.values]
    skipped = paper.STAND_INS if asked.frechet == "none" else {}
    return [name for name in experiment.values if name not in skipped]


def _bring_up_to_date(run: Run, asked: EvaluationConfig, files: dict[str, Any]) -> Run:
    """Trains and measures whatever the run lacks."""
    in_terminal = sys.stdout.isatty()
    if not run.is_trained:
        training = import_quietly("aef_tfp.training")
        if asked.frechet == "inception":
            # A missing file is better known before the training.
            metrics = import_quietly("aef_tfp.metrics")
            metrics.inception_features(asked.inception_weights)
        start = f"going on from {run.iteration:,}" if run.has_started else "training"
        total = f"{run.config.iterations:,} iterations"
        print(f"{run.run_dir}: {start} to {total}", flush=True)
        shared = {"verbose": 1 if in_terminal else 2, **files}
        try:
            training.train(run.config, run.run_dir, resume=run.has_started, **shared)
        except FloatingPointError as error:
            raise FloatingPointError(f"{run.run_dir}: {error}") from None
        run = run.read()
    if run.lacks(asked):
        print(f"{run.run_dir}: measuring", flush=True)
        evaluation = import_quietly("aef_tfp.evaluation")
        shared = {"verbose": int(in_terminal), **files}
        evaluation.evaluate_run(run.run_dir, asked, **shared)
        run = run.read()
    return run


def _commands(
    run: Run, asked: EvaluationConfig, files: dict[str, Any]
) -> Iterator[str]:
    """Yields the lines of a shell script that does the same for one run."""
    if run.config.dataset not in DATASETS:
        yield f"# {run.run_dir}: this package has no data set {run.config.dataset}"
        return
    shared = _options({k: v for k, v in files.items() if v not in (None, False)})
    if run.is_trained and not run.lacks(asked):
        yield f"# {run.run_dir}: done"
        return
    if not run.is_trained:
        if run.has_started:
            total = run.config.iterations
            options = [f"--resume={run.run_dir}", f"--iterations={total}"]
        else:
            changes = {name: _changes(PRESETS[name], run.config) for name in PRESETS}
            preset = min(changes, key=lambda name: len(changes[name]))
            options = [preset, *_options(changes[preset]), f"--run-dir={run.run_dir}"]
        yield shlex.join(["python", "trainers/run.py", *options, *shared])
    options = [str(run.run_dir), *_options(_changes(EvaluationConfig(), asked))]
    yield shlex.join(["python", "trainers/evaluate.py", *options, *shared])


def _options(settings: dict[str, Any]) -> list[str]:
    return [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, value in settings.items()
    ]


def _count(experiment: Experiment) -> list[str]:
    """Returns the line of a model that need not be trained."""
    config = experiment.config
    training = import_quietly("aef_tfp.training")
    model = training.build_model(config, dataset_info(config.dataset))
    count = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    return experiment.line("num_parameters", f"{count:,}", "", "")


def _lines(runs: list[Run], asked: EvaluationConfig) -> Iterator[list[str]]:
    """Yields the lines of one row of the paper, one per metric."""
    experiment = runs[0].experiment
    for name in dict.fromkeys([*experiment.values, *_wanted(experiment, asked)]):
        found = (run.record(name, asked) for run in runs)
        records = [record for record in found if record is not None]
        values = [record["value"] for record in records]
        error = records[0]["standard_error"] if records else None
        ours = paper.METRICS[name].measured_text(values, error)
        note = _estimator(records[0]) if records else ""
        yield experiment.line(name, ours, _iterations(runs), note)


def _iterations(runs: list[Run]) -> str:
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
    if name == "marginal_bits_per_dim":
        samples = f"{record['num_repeats']} x {record['num_samples']} samples"
        proposal = f"{record['proposal']} proposal"
        return f"importance sampling, {samples}, {proposal}, {images}"
    # A distance names both sets in words.
    text = record["estimator"]
    return text if "distance" in name else f"{text}, {images}"


def _notes(rows: list[list[Run]], asked: EvaluationConfig) -> Iterator[str]:
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
    size = (asked.num_repeats, asked.num_samples, asked.num_images)
    if "marginal_bits_per_dim" in names and size != (20, 128, None):
        yield "The paper's importance sampling: 20 x 128 samples, all test images."
    if names & set(paper.STAND_INS) and asked.frechet != "inception":
        yield (
            "FID and IFE need --frechet inception; what a classifier measures is "
            "another quantity."
        )


def _list_of_exhibits() -> str:
    lines = [["option", "rows", "data sets (* not in this package)", "title"]]
    for key, exhibit in paper.EXHIBITS.items():
        names = dict.fromkeys(row.config.dataset for row in exhibit.experiments)
        shown = [name if name in DATASETS else f"{name}*" for name in names]
        option, count = f"--{key.replace('-', ' ')}", str(len(exhibit.experiments))
        lines.append([option, count, ", ".join(shown), exhibit.title])
    return paper.aligned(lines)


def _listed(experiment: Experiment) -> Iterator[list[str]]:
    config = experiment.config
    note = f"batch {config.batch_size}, step {config.learning_rate:g}, "
    note += f"patience {config.patience:,}, " if config.patience else ""
    note += f"seeds {', '.join(map(str, experiment.seeds))}"
    for name in experiment.values:
        yield experiment.line(name, "", f"{config.iterations:,}", note)


if __name__ == "__main__":
    sys.exit(main())
