"""A run from configuration to run directory; `fit` does the training."""

import contextlib
import dataclasses
import functools
import json
import math
import shlex
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from aef_tfp.backend import StrategyName
from aef_tfp.callbacks import (
    AveragedWeights,
    Checkpoints,
    Duration,
    Heartbeat,
    History,
    LearningRate,
    MarginalBits,
    Pictures,
    Scalars,
    StopOnSignal,
    write_hyperparameters,
    write_projector,
)
from aef_tfp.data import Splits, evaluation_batches, training_batches
from aef_tfp.data.fingerprint import fingerprint
from aef_tfp.distribution import any_worker, get_strategy, is_chief
from aef_tfp.files import (
    check_name,
    locked,
    remove_leftovers,
    replace_text,
    writing,
)
from aef_tfp.metrics import Record, append_records
from aef_tfp.models import EventModel
from aef_tfp.pictures import image_grid, save_png
from aef_tfp.runs.best import read_best
from aef_tfp.runs.building import build_model
from aef_tfp.runs.config import RunConfig, RunSettings
from aef_tfp.runs.consistency import check_resumed, check_weights
from aef_tfp.runs.defaults import choose
from aef_tfp.runs.environment import write_environment
from aef_tfp.runs.evaluation import (
    kept_or_told,
    likelihood_records,
    load_run_splits,
    tune,
)
from aef_tfp.runs.failures import explained, interrupted_when_trained
from aef_tfp.runs.kinds import KINDS
from aef_tfp.runs.reconstructions import (
    draw_reconstructions,
    is_denoiser,
    reconstruction_records,
)
from aef_tfp.saved import place_of_images, read_label, save_best
from aef_tfp.terminal import as_typed, waiting

__all__ = ["build_model", "train"]

# Test images whose latents TensorBoard's projector shows.
_PROJECTED_IMAGES = 1000


def train(
    settings: RunSettings,
    run_dir: str | Path,
    *,
    data_dir: Path | None = None,
    download: bool = False,
    resume: bool = False,
    strategy: StrategyName = "auto",
    verbose: Any = "auto",
) -> list[Record]:
    """Trains, evaluates on the test set, and writes the run directory.

    Of several workers, each calls this with the same settings; the chief alone writes
    files, and only its run directory has to hold checkpoints.

    Args:
        settings: The run; what is None there is chosen from the images (see
            `defaults.choose`), and config.json holds it.
        run_dir: Directory to create; with `resume`, the one to go on in.
        data_dir: TFDS data directory, or the folder of images, or NumPy file, of
            one's own. None is TFDS's own, or with `resume` where they were before.
        download: Whether TFDS may download the data set.
        resume: Go on from the newest checkpoint in `run_dir`.
        strategy: Devices to train on, as in `distribution.get_strategy`.
        verbose: Keras's verbosity: 0, 1, 2 or `"auto"`.

    Returns:
        The records of the test set that metrics.json gained; none on other workers
        than the chief.

    Raises:
        ValueError: If a setting is out of its range or does not fit the data, `run_dir`
            is no UTF-8, or the images, or other settings than the iterations, are
            others than those that the run began with.
        FileExistsError: If `run_dir` exists and `resume` is not asked.
        FileNotFoundError: If there is nothing to resume, or no data.
        OSError: If the run directory cannot be written, or another process does.
        FloatingPointError: If training diverges.
        TrainingFailed: If TensorFlow fails, e.g. because of the data, the memory, or
            another worker that is gone.
        RunInterrupted: If SIGINT, SIGTERM or SIGHUP asked for an end; a checkpoint is
            saved.
        EvaluationInterrupted: If they did when the training was done.
    """
    settings.check()
    run_dir = Path(run_dir)
    check_name(run_dir)
    # A cluster wants to be set up before TensorFlow does anything else.
    devices = get_strategy(strategy)
    chief = is_chief(devices)
    with contextlib.ExitStack() as stack:
        if chief:
            if resume:
                RunConfig.from_run(run_dir)
                # Before anything is read that another process could still change.
                stack.enter_context(_only_writer(run_dir))
            else:
                _check_new(run_dir)
        if resume:
            data_dir = place_of_images(run_dir, data_dir)
        with waiting("reading images", is_shown=bool(verbose) and chief):
            splits = load_run_splits(
                settings,
                run_dir=run_dir if resume else None,
                data_dir=data_dir,
                download=download,
            )
        config, choices = choose(settings, len(splits.train), splits.info.image_shape)
        # With what was chosen, too.
        config.check()
        if resume and chief:
            check_resumed(run_dir, config)
        if verbose and chief:
            notes = [*splits.notes, *_left_out(config, splits), *choices]
            notes += _plan(config)
            print("".join(f"{note}\n" for note in notes), end="", flush=True)
        checkpoints = Checkpoints(
            run_dir,
            functools.partial(_iteration_of, config),
            MarginalBits.name if config.select == "marginal" else "val_loss",
            patience=config.patience,
            save_interval=config.save_interval,
            keep=config.keep_checkpoints,
            facts={"settings": config.of_weights()},
        )
        done, state = checkpoints.store.newest_state()
        check_weights(config, state.get("settings"), checkpoints.store.directory)
        if resume and checkpoints.best_path.is_file():
            # Not when it is read at the end, or written over before.
            label = read_label(checkpoints.best_path)
            check_weights(config, label.get("settings"), checkpoints.best_path)
        if config.iterations < done:
            raise ValueError(
                f"The run {run_dir} has gone on to iteration {done} already; "
                f"--iterations must be at least that, got {config.iterations}."
            )
        records: list[Record] = []
        stack.enter_context(explained(checkpoints, chief))
        keras.utils.set_random_seed(config.seed)
        with devices.scope():
            model = build_model(config, splits.info)
        if chief:
            if not resume:
                with writing(run_dir):
                    run_dir.mkdir(parents=True, exist_ok=True)
                stack.enter_context(_only_writer(run_dir))
                # Somebody else may have been quicker.
                _check_new(run_dir)
            done = checkpoints.restore(model)
            if resume and not done:
                _check_unbegun(run_dir)
            if resume and verbose and done < config.iterations:
                print(f"going on from iteration {done:,}", flush=True)
            History.keep_until(run_dir / "history.csv", done)
            # Where that fails, nothing has changed.
            replace_text(run_dir / "config.json", config.to_json())
            # A run of an older version goes on without; one that was ended before its
            # first step may lack it.
            if not done and not (run_dir / "data.json").exists():
                facts = json.dumps(fingerprint(splits), indent=2) + "\n"
                replace_text(run_dir / "data.json", facts)
            if done < config.iterations:
                write_environment(run_dir / "environment.json", devices, done, data_dir)
            _fit(model, config, splits, run_dir, checkpoints, verbose, done)
            if verbose:
                print("evaluating the best model on the test images", flush=True)
            with interrupted_when_trained():
                records = _evaluate(run_dir, config, splits, verbose)
        else:
            done = checkpoints.restore(model)
            _fit(model, config, splits, run_dir, checkpoints, 0, done)
        # A worker that ends early looks like one that died.
        any_worker(devices, False)
    return records


def _left_out(config: RunConfig, splits: Splits) -> list[str]:
    """What a run does without, for want of images."""
    if len(splits.validation) > 1 or not KINDS[config.model].has_networks:
        return []
    return ["one validation image: TensorBoard shows no interpolations"]


def _plan(config: RunConfig) -> list[str]:
    """What to expect of a run that is steered by more than its loss."""
    notes = []
    if config.schedule == "cosine" and config.patience:
        notes.append(
            f"--patience {config.patience} may end the run before the cosine schedule "
            "has brought the learning rate down; 0 never does"
        )
    together = math.gcd(config.validation_interval, config.steps_per_execution)
    if together < config.steps_per_execution:
        notes.append(
            f"--steps-per-execution {config.steps_per_execution} does not divide the "
            f"validation interval, {config.validation_interval}: {together} run at once"
        )
    if config.log_interval % together:
        every = math.ceil(config.log_interval / together) * together
        notes.append(
            f"--log-interval {config.log_interval} is no multiple of the {together} "
            f"iterations that run at once: TensorBoard has every {every}"
        )
    forgets = math.ceil(1.0 / (1.0 - config.ema))
    if config.ema and 5 * forgets > config.iterations:
        notes.append(
            f"--ema {config.ema} averages over some {forgets:,} iterations, much of a "
            f"run of {config.iterations:,}: the average lags behind"
        )
    return notes


@contextlib.contextmanager
def _only_writer(run_dir: Path) -> Iterator[None]:
    with locked(run_dir):
        remove_leftovers(run_dir)
        yield


def _check_unbegun(run_dir: Path) -> None:
    """Checks that a run without checkpoints is not one that has lost them."""
    path = run_dir / "history.csv"
    # A row is written before the checkpoint: one may be there of none.
    if path.exists() and path.read_bytes().count(b"\n") > 2:
        raise FileNotFoundError(
            f"{run_dir / 'checkpoints'} holds no checkpoint, but {path.name} knows of "
            "several validations: put them back, or start a new run."
        )


def _check_new(run_dir: Path) -> None:
    if run_dir.exists() and not run_dir.is_dir():
        raise FileExistsError(
            f"{run_dir} is no directory; choose another one with --run-dir."
        )
    if run_dir.exists() and any(_visible_files(run_dir)):
        raise FileExistsError(
            f"The run directory {run_dir} exists and is not empty; choose another one "
            f"with --run-dir, or go on in it with --resume "
            f"{shlex.quote(str(run_dir))}."
        )


def _iteration_of(config: RunConfig, epoch: int) -> int:
    """An epoch is one validation interval; the last may be shorter."""
    return min((epoch + 1) * config.validation_interval, config.iterations)


def _visible_files(run_dir: Path) -> list[Path]:
    return [path for path in run_dir.iterdir() if not path.name.startswith(".")]


def _fit(
    model: EventModel,
    config: RunConfig,
    splits: Splits,
    run_dir: Path,
    checkpoints: Checkpoints,
    verbose: Any,
    done: int,
) -> None:
    """Trains from where the checkpoints were, to the end."""
    interval, total = config.validation_interval, config.iterations
    iteration_of = checkpoints.iteration_of
    validation = splits.validation.images
    # What is added to the logs comes before all that read them.
    steering: list[keras.callbacks.Callback] = []
    if config.ema:
        steering.append(AveragedWeights())
    if config.select == "marginal":
        steering.append(MarginalBits(validation))
    if config.schedule != "constant" or config.warmup:
        steering.append(LearningRate())
    callbacks: list[keras.callbacks.Callback] = [checkpoints]
    if is_chief(model.distribute_strategy):
        tensorboard = run_dir / "tensorboard"
        # A row is written before the checkpoint: one too many is dropped, none comes
        # later. What may fail and is not needed to go on is written after it.
        callbacks = [
            History(run_dir / "history.csv", iteration_of),
            checkpoints,
            Scalars(
                tensorboard,
                validation,
                config.batch_size,
                iteration_of,
                config.log_interval,
            ),
            Pictures(
                tensorboard,
                validation,
                splits.validation.labels,
                iteration_of,
                config.picture_interval,
            ),
            Duration(iteration_of, done, total, verbose),
        ]
    heartbeat = Heartbeat(iteration_of, done, total, verbose)
    with StopOnSignal(checkpoints) as stop, heartbeat:
        callbacks = [*steering, *callbacks, heartbeat, stop]
        while done < total and not checkpoints.stopped_early:
            # A run that stopped between two validations first goes to the next one.
            to_next = interval - done % interval
            steps = min(to_next, total - done)
            epochs = (total - done) // interval if steps == interval else 1
            first = done // interval
            # A shorter execution would otherwise run past the end of the epoch.
            model.steps_per_execution = math.gcd(steps, config.steps_per_execution)
            batches = training_batches(
                splits.train.images,
                config.batch_size,
                seed=config.seed,
                start_step=done,
                flips=splits.info.flips,
            )
            model.fit(
                batches,
                initial_epoch=first,
                epochs=first + epochs,
                steps_per_epoch=steps,
                validation_data=evaluation_batches(validation, config.batch_size),
                callbacks=callbacks,
                verbose=verbose,
            )
            done += steps * epochs
    if checkpoints.stopped_early and verbose and is_chief(model.distribute_strategy):
        print(
            f"ended at iteration {checkpoints.iteration:,} of {total:,}: no better "
            f"validation in {config.patience:,} iterations (--patience); it stays so",
            flush=True,
        )
    if checkpoints.is_best_lost:
        advice = (
            f"go on with {as_typed('train', '--resume', run_dir)} and more "
            f"--iterations than {total}"
        )
        if config.schedule == "cosine":
            advice = "put back a copy of it, or start a new run"
        raise FileNotFoundError(
            f"{checkpoints.best_path} is gone, and no validation is left to write it: "
            f"{advice}."
        )
    if not checkpoints.best_iteration:
        what, advice = "loss", "lower the learning rate"
        if config.select == "marginal":
            what, advice = checkpoints.monitor, f"choose by --select joint, {advice}"
        raise FloatingPointError(
            f"No validation had a finite {what}; {advice}, check the validation data, "
            "or train until the first validation."
        )


def _evaluate(
    run_dir: Path, config: RunConfig, splits: Splits, verbose
) -> list[Record]:
    """Evaluates the best checkpoint on the test set, then draws pictures."""
    best = read_best(run_dir)
    model = best.model
    unkept: list[str] = []
    if tune(model, splits, config.num_samples, verbose):
        kept_or_told(unkept, save_best, model, run_dir / "best.keras", best.label)
    records: list[Record] = []
    images = splits.test.images
    facts: dict[str, Any] = {
        "dataset": config.dataset,
        "split": "test",
        "seed": config.seed,
        "iteration": best.iteration,
    }
    if model.likelihood is not None:
        records += likelihood_records(
            model,
            images,
            marginal_images=images[: config.num_marginal_images],
            num_samples=config.num_samples,
            batch_size=config.batch_size,
            verbose=verbose,
            **facts,
        )
        kept_or_told(unkept, append_records, run_dir, records)
    if is_denoiser(model):
        # Whatever becomes of it, the others are kept.
        errors = reconstruction_records(model, images, **facts)
        kept_or_told(unkept, append_records, run_dir, errors)
        records += errors
    kept_or_told(unkept, _show, model, config, splits, run_dir, records)
    for reason in dict.fromkeys(unkept):
        warnings.warn(f"Not all of the evaluation is kept: {reason}", stacklevel=2)
    return records


def _show(
    model: EventModel,
    config: RunConfig,
    splits: Splits,
    run_dir: Path,
    records: list[Record],
) -> None:
    """Draws what the best model makes, and says to TensorBoard what it is."""
    images = splits.test.images
    if model.samples:
        samples = model.sample(64, temperature=0.85, seed=config.seed)
        save_png(run_dir / "samples.png", image_grid(samples, 8))
    if model.encodes:
        draw_reconstructions(model, images, run_dir, seed=config.seed)
    tensorboard = run_dir / "tensorboard"
    with writing(tensorboard):
        results = {record.name: record.value for record in records}
        write_hyperparameters(tensorboard, dataclasses.asdict(config), results)
        if not model.encodes:
            return
        labels = splits.test.labels
        write_projector(
            tensorboard,
            model.encode(images[:_PROJECTED_IMAGES]),
            model.dequantize(images[:_PROJECTED_IMAGES], seed=None),
            None if labels is None else labels[:_PROJECTED_IMAGES],
        )
