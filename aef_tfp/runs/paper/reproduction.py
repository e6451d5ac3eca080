"""Repeats the paper's runs: what each directory holds, and what is left to do."""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aef_tfp.data.registry import dataset_info
from aef_tfp.records import read_records
from aef_tfp.runs.config import EvaluationConfig, RunConfig
from aef_tfp.runs.defaults import pays_to_compile
from aef_tfp.runs.paper.exhibits import (
    ESTIMATE,
    NUM_TEST_IMAGES,
    PAPER_ESTIMATE,
    STAND_INS,
    Experiment,
    run_name,
)
from aef_tfp.runs.presets import PRESETS
from aef_tfp.runs.unread import not_downloaded, unread_by_evaluation, unread_by_run
from aef_tfp.saved import checkpoint_paths, read_checkpoint_state, read_label
from aef_tfp.terminal import as_option, as_typed, import_quietly

__all__ = [
    "Run",
    "bring_up_to_date",
    "commands",
    "count_weights",
    "plan",
    "unread",
]


@dataclasses.dataclass(frozen=True)
class Run:
    """One row with one seed, and how far its directory is.

    Args:
        experiment: The row of the paper.
        config: What to train, with this seed and for as long as is asked.
        evaluation: What to measure.
        run_dir: Its directory, which may not exist yet.
        has_started: Whether it does.
        iteration: Iterations of the newest checkpoint; 0 if there is none.
        best_iteration: Those of the best model by then.
        ended_early: Whether patience has ended the training.
        records: What metrics.json holds, oldest first.
    """

    experiment: Experiment
    config: RunConfig
    evaluation: EvaluationConfig
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
        asked = dataclasses.replace(
            self.config, iterations=found.iterations, jit_compile=found.jit_compile
        )
        # What nothing reads tells no runs apart, and stays as it is.
        unread = unread_by_run(found, _changes(asked, found))
        kept = {name: getattr(found, name) for name in unread}
        asked = dataclasses.replace(asked, **kept)
        if changes := _changes(asked, found):
            raise ValueError(
                f"{self.run_dir} holds a run with other settings: its "
                f"{' and '.join(_options(changes))} should be "
                f"{' and '.join(_options(_changes(found, asked)))}; choose another "
                "--runs-dir."
            )
        iteration, best, is_validated = _newest_checkpoint(self.run_dir)
        # Never fewer than there are: config.json would say less than was trained.
        total = max(self.config.iterations, iteration)
        return dataclasses.replace(
            self,
            config=dataclasses.replace(asked, iterations=total),
            has_started=True,
            iteration=iteration,
            best_iteration=best,
            ended_early=is_validated and 0 < found.patience <= iteration - best,
            records=_records(self.run_dir),
        )

    @property
    def is_trained(self) -> bool:
        """Whether nothing of the training is left to do."""
        ended = self.ended_early or self.iteration >= self.config.iterations
        # Training ends with records of its best model; older ones may be of another.
        iterations = [record["iteration"] for record in self.records]
        return ended and self.best_iteration in iterations

    @property
    def share(self) -> float:
        """The share of the paper's iterations that is done."""
        total = self.experiment.config.iterations
        return 1.0 if self.ended_early else min(self.iteration / total, 1.0)

    @property
    def names(self) -> list[str]:
        """The records of the table: each of the paper's, then what is asked beside."""
        others = STAND_INS if self.evaluation.frechet == "classifier" else {}
        if self.evaluation.paper_estimator:
            others = {**others, ESTIMATE: PAPER_ESTIMATE}
        pairs = ((name, others.get(name)) for name in self.experiment.values)
        return [name for pair in pairs for name in pair if name is not None]

    def record(self, name: str) -> dict[str, Any] | None:
        """Returns the last record of the best model that is what was asked."""
        facts = {"name": name, "split": "test", "iteration": self.best_iteration}
        if "distance" in name:
            facts["num_images"] = self.evaluation.num_frechet_images
            facts["temperature"] = self.evaluation.temperature
        else:
            # Of another data set the largest record, for training ends with one of all.
            whole = NUM_TEST_IMAGES.get(self.config.dataset) or max(
                (r["num_images"] for r in self.records if _is_on_test(r)), default=0
            )
            facts["num_images"] = min(self.evaluation.num_images or whole, whole)
        if name in (ESTIMATE, PAPER_ESTIMATE):
            for field in ("num_samples", "num_repeats", "proposal"):
                facts[field] = getattr(self.evaluation, field)
        fitting = [record for record in self.records if facts.items() <= record.items()]
        return fitting[-1] if fitting else None

    @property
    def is_measured(self) -> bool:
        """Whether metrics.json holds every number that is asked."""
        # Those of Inception's features only on request.
        skipped = STAND_INS if self.evaluation.frechet != "inception" else {}
        names = (name for name in self.names if name not in skipped)
        return all(self.record(name) is not None for name in names)


def plan(
    experiments: Sequence[Experiment],
    evaluation: EvaluationConfig,
    runs_dir: Path,
    *,
    seeds: str = "1",
    iterations: int | None = None,
) -> list[list[Run]]:
    """Returns the runs of each row as they are now, before anything is trained.

    Args:
        experiments: The rows.
        evaluation: What to measure; the paper's estimator only where the paper has it.
        runs_dir: Directory of the run directories.
        seeds: How many of the paper's runs, as in "2"; or seeds, as in "3,4" or "5,".
        iterations: Of each run in all; the paper's if None.

    Raises:
        ValueError: If a number is out of its range, or a directory holds another run.
    """
    evaluation.check()
    rows = []
    for experiment in experiments:
        changes: dict[str, Any] = {}
        if iterations is not None:
            changes["iterations"] = iterations
            # As `train` chooses.
            changes["jit_compile"] = pays_to_compile(iterations)
        as_paper = evaluation.paper_estimator and experiment.has_paper_estimate
        asked = dataclasses.replace(evaluation, paper_estimator=as_paper)
        if _lacks_labels(experiment, asked):
            asked = dataclasses.replace(asked, frechet="none")
        row = []
        for seed in _seeds(experiment, seeds):
            config = dataclasses.replace(experiment.config, seed=seed, **changes)
            config.check()
            run_dir = runs_dir / run_name(config)
            row.append(Run(experiment, config, asked, run_dir).read())
        rows.append(row)
    return rows


def bring_up_to_date(
    run: Run,
    *,
    data_dir: Path | None = None,
    download: bool = False,
    in_terminal: bool = False,
) -> Run:
    """Trains and measures whatever a run lacks, and says so in a line each.

    Args:
        run: The run as it is.
        data_dir: TFDS data directory; TFDS's own default if None.
        download: Whether TFDS may download the data set.
        in_terminal: Whether progress bars can be shown.

    Returns:
        The run as it is then.

    Raises:
        FloatingPointError: If training diverges; the message names the directory.
        OSError: If data or Inception's weights are not to be had.
    """
    files = {"data_dir": data_dir, "download": download}
    if not run.is_trained:
        training = import_quietly("aef_tfp.runs.training")
        if run.evaluation.frechet == "inception":
            # A missing file is better known before the training.
            metrics = import_quietly("aef_tfp.metrics")
            metrics.inception_features(run.evaluation.inception_weights)
        start = f"going on from {run.iteration:,}" if run.has_started else "training"
        total = f"{run.config.iterations:,} iterations"
        print(f"{run.run_dir}: {start} to {total}", flush=True)
        try:
            training.train(
                run.config,
                run.run_dir,
                resume=run.has_started,
                verbose=1 if in_terminal else 2,
                **files,
            )
        except FloatingPointError as error:
            raise FloatingPointError(f"{run.run_dir}: {error}") from None
        run = run.read()
    if not run.is_measured:
        print(f"{run.run_dir}: measuring", flush=True)
        evaluation = import_quietly("aef_tfp.runs.evaluation")
        evaluation.evaluate_run(
            run.run_dir, run.evaluation, verbose=1 if in_terminal else 2, **files
        )
        run = run.read()
    return run


def commands(
    run: Run, *, data_dir: Path | None = None, download: bool = False
) -> Iterator[str]:
    """Yields the lines of a shell script that does the same as `bring_up_to_date`."""
    if run.is_trained and run.is_measured:
        yield f"# {run.run_dir}: done"
        return
    dataset = run.config.dataset
    files = {"data_dir": data_dir, "download": download and not not_downloaded(dataset)}
    shared = _options({k: v for k, v in files.items() if v not in (None, False)})
    if not run.is_trained:
        if run.has_started:
            total = run.config.iterations
            options = [f"--resume={run.run_dir}", f"--iterations={total}"]
        else:
            changes = {name: _changes(PRESETS[name], run.config) for name in PRESETS}
            for changed in changes.values():
                # `train` chooses it as this module does.
                changed.pop("jit_compile", None)
            preset = min(changes, key=lambda name: len(changes[name]))
            options = [preset, *_options(changes[preset]), f"--run-dir={run.run_dir}"]
        yield as_typed("train", *options, *shared)
    changed = _changes(EvaluationConfig(), run.evaluation)
    for name in unread_by_evaluation(run.evaluation, run.config, tuple(changed)):
        # Of the other rows; `evaluate` would refuse it.
        del changed[name]
    options = [str(run.run_dir), *_options(changed)]
    yield as_typed("evaluate", *options, *shared)


def count_weights(config: RunConfig) -> int:
    """Returns the number of trainable weights of a model, untrained."""
    training = import_quietly("aef_tfp.runs.training")
    model = training.build_model(config, dataset_info(config.dataset))
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def unread(
    experiments: Sequence[Experiment], asked: Mapping[str, Any], names: Iterable[str]
) -> dict[str, str]:
    """Returns the options that none of the rows would read.

    Args:
        experiments: The rows.
        asked: The options' values: fields of `EvaluationConfig`, and others.
        names: The options that were named.

    Returns:
        Why, by the names of those that nothing reads.
    """
    fields = {field.name for field in dataclasses.fields(EvaluationConfig)}
    config = EvaluationConfig(**{k: v for k, v in asked.items() if k in fields})
    names = tuple(names)
    rows = [unread_by_evaluation(config, row.config, names) for row in experiments]
    for experiment, row in zip(experiments, rows, strict=True):
        if "frechet" in names and _lacks_labels(experiment, config):
            dataset = experiment.config.dataset
            row["frechet"] = f"{dataset} has no labels for a classifier"
    found = {name: why for name, why in rows[0].items() if all(name in r for r in rows)}
    if "paper_estimator" in names and not any(
        r.has_paper_estimate for r in experiments
    ):
        found["paper_estimator"] = "no row is the BPD of an aef-linear"
    return found


def _lacks_labels(experiment: Experiment, evaluation: EvaluationConfig) -> bool:
    """Whether a classifier is asked for that there cannot be."""
    is_labelled = dataset_info(experiment.config.dataset).labelled
    return evaluation.frechet == "classifier" and not is_labelled


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


def _newest_checkpoint(run_dir: Path) -> tuple[int, int, bool]:
    """Returns its iteration, that of the best model, and whether it was validated."""
    found = checkpoint_paths(run_dir / "checkpoints")
    if not found:
        return 0, 0, False
    newest, path = found[-1]
    best = run_dir / "best.keras"
    label = read_label(best) if best.is_file() else {}
    # What its own file says of it cannot lag behind.
    state = read_checkpoint_state(path)
    iteration = label.get("iteration") or state["best_iteration"]
    return newest, iteration, state.get("progress") is None


def _records(run_dir: Path) -> tuple[dict[str, Any], ...]:
    return tuple(dataclasses.asdict(record) for record in read_records(run_dir))


def _is_on_test(record: dict[str, Any]) -> bool:
    # Distances and the power of samples count samples, not test images.
    of_samples = any(word in record["name"] for word in ("distance", "power_ratio"))
    return record["split"] == "test" and not of_samples


def _changes(base: Any, config: Any) -> dict[str, Any]:
    return {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if getattr(config, field.name) != getattr(base, field.name)
    }


def _options(settings: dict[str, Any]) -> list[str]:
    return [
        as_option(name) + ("" if value is True else f"={value}")
        for name, value in settings.items()
    ]
