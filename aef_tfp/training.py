"""A run from configuration to run directory; `fit` does the training."""

import dataclasses
import functools
import importlib.metadata
import json
import math
import os
import platform
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from aef_tfp import flows
from aef_tfp.callbacks import (
    Checkpoints,
    Duration,
    History,
    Pictures,
    Scalars,
    StopOnSignal,
    write_hyperparameters,
    write_projector,
)
from aef_tfp.config import RunConfig, RunSettings, StrategyName
from aef_tfp.data import (
    DatasetInfo,
    Splits,
    evaluation_batches,
    training_batches,
)
from aef_tfp.data.fingerprint import fingerprint
from aef_tfp.defaults import choose
from aef_tfp.distribution import any_worker, get_strategy, is_chief
from aef_tfp.evaluation import (
    best_iteration,
    draw_reconstructions,
    is_denoiser,
    likelihood_records,
    load_best,
    load_run_splits,
    reconstruction_records,
    save_best,
    tune,
)
from aef_tfp.failures import explained
from aef_tfp.files import locked, replace_text
from aef_tfp.metrics import Record, append_records
from aef_tfp.models import (
    IWAE,
    VAE,
    Autoencoder,
    AutoencodingModel,
    EventModel,
    ExpandedAEF,
    GenerativeModel,
    PartitionedAEF,
    PixelMAF,
)
from aef_tfp.networks import residual_decoder, residual_encoder, residual_stages
from aef_tfp.pictures import image_grid, save_png

__all__ = ["build_model", "train"]

# Test images whose latents TensorBoard's projector shows.
_PROJECTED_IMAGES = 1000


def build_model(config: RunConfig, info: DatasetInfo) -> EventModel:
    """Builds and compiles the model of a configuration.

    Args:
        config: The run.
        info: The data set's facts.

    Raises:
        ValueError: If the configuration does not fit the data.
    """

    def flow(kind: str) -> Any:
        if kind == "none":
            return flows.Identity()
        maf = flows.MAF(
            config.latent_dim,
            num_layers=config.flow_layers,
            hidden_units=config.flow_units,
        )
        return flows.Inverted(maf) if kind == "iaf" else maf

    shape, latent_dim = info.image_shape, config.latent_dim
    dtype = "mixed_bfloat16" if config.mixed_precision else None
    shared: dict[str, Any] = {
        "num_levels": info.num_levels,
        "logit_lambda": info.logit_lambda,
        "noise_std": config.noise_std,
        "denoising_target": config.denoising_target,
        "seed": config.seed,
        "dtype": dtype,
    }
    model: EventModel
    if config.model == "autoencoder":
        networks = _networks(config, shape, encoder_outputs=1)
        model = Autoencoder(shape, latent_dim, **networks, **shared)
    elif config.model == "pixel-maf":
        layers, units = config.flow_layers, config.flow_units
        model = PixelMAF(shape, num_layers=layers, hidden_units=units, **shared)
    else:
        shared |= {
            **_networks(config, shape, encoder_outputs=2),
            "decoder_scale": config.decoder_scale,
            "prior_flow": flow(config.prior_flow),
        }
        core_flow = flow(config.core_flow)
        if config.model in ("vae", "iwae"):
            shared["posterior_flow"] = flows.Inverted(core_flow)
            if config.model == "vae":
                model = VAE(shape, latent_dim, **shared)
            else:
                model = IWAE(
                    shape,
                    latent_dim,
                    num_importance_samples=config.num_importance_samples,
                    **shared,
                )
        elif config.model == "aef-linear":
            model = ExpandedAEF(shape, latent_dim, core_flow=core_flow, **shared)
        else:
            model = PartitionedAEF(
                shape,
                latent_dim,
                partition=config.model.removeprefix("aef-"),
                core_flow=core_flow,
                **shared,
            )
    model.compile(
        keras.optimizers.Adam(config.learning_rate, global_clipnorm=config.clip_norm),
        jit_compile=config.jit_compile,
        steps_per_execution=config.steps_per_execution,
        max_skipped_updates=config.max_skipped_updates,
        rematerialize=config.rematerialize,
    )
    return model


def _networks(
    config: RunConfig, shape: tuple[int, ...], encoder_outputs: int
) -> dict[str, Any]:
    """The arguments that make encoder and decoder; a width needs the networks."""
    if config.networks == "residual":
        _check_side(shape)
    if config.width is None or config.networks != "residual":
        return {"encoder": config.networks, "decoder": config.networks}
    dtype = "mixed_bfloat16" if config.mixed_precision else None
    shared: dict[str, Any] = {"width": config.width, "dtype": dtype}
    dependent = config.decoder_scale == "dependent"
    return {
        "encoder": residual_encoder(
            shape, config.latent_dim, num_outputs=encoder_outputs, **shared
        ),
        "decoder": residual_decoder(
            config.latent_dim, shape, num_outputs=2 if dependent else 1, **shared
        ),
        # What the model does by itself where it is given a name.
        "initial_raw_scale": 1.0,
    }


def _check_side(shape: tuple[int, ...]) -> None:
    """Adds to the refusal of the residual networks the next side that they take."""
    side = shape[0]
    if side < 3 or side != shape[1]:
        # There is none; what is wrong, the networks say themselves.
        return
    try:
        residual_stages(side)
    except ValueError as error:
        smaller = next(s for s in range(side - 1, 1, -1) if _has_stages(s))
        raise ValueError(
            f"{str(error).rstrip('.')}; the next smaller side is {smaller}."
        ) from None


def _has_stages(side: int) -> bool:
    try:
        residual_stages(side)
    except ValueError:
        return False
    return True


def train(
    settings: RunSettings,
    run_dir: Path,
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
        data_dir: TFDS data directory, TFDS's own default if None; or the folder of
            images, or NumPy file, of one's own.
        download: Whether TFDS may download the data set.
        resume: Go on from the newest checkpoint in `run_dir`.
        strategy: Devices to train on, as in `distribution.get_strategy`.
        verbose: Keras's verbosity: 0, 1, 2 or `"auto"`.

    Returns:
        The records of the test set that metrics.json gained; none on other workers
        than the chief.

    Raises:
        ValueError: If a setting is out of its range or does not fit the data, or the
            images are others than those that the run began with.
        FileExistsError: If `run_dir` exists and `resume` is not asked.
        FileNotFoundError: If there is nothing to resume, or no data.
        OSError: If the run directory cannot be written, or another process does.
        FloatingPointError: If training diverges.
        TrainingFailed: If TensorFlow fails, e.g. because of the data, the memory, or
            another worker that is gone.
        RunInterrupted: If SIGINT or SIGTERM asked for an end; a checkpoint is saved.
    """
    settings.check()
    # A cluster wants to be set up before TensorFlow does anything else.
    devices = get_strategy(strategy)
    chief = is_chief(devices)
    if resume:
        RunConfig.from_run(run_dir)
    elif chief and run_dir.exists() and any(_visible_files(run_dir)):
        raise FileExistsError(
            f"The run directory {run_dir} exists and is not empty; choose another one "
            f"with --run-dir, or go on in it with --resume {run_dir}."
        )
    splits = load_run_splits(
        settings,
        run_dir=run_dir if resume else None,
        data_dir=data_dir,
        download=download,
    )
    config, choices = choose(settings, len(splits.train), splits.info.image_shape)
    if verbose and chief:
        notes = (*splits.notes, *_left_out(config, splits), *choices)
        print("".join(f"{note}\n" for note in notes), end="", flush=True)
    checkpoints = Checkpoints(
        run_dir,
        functools.partial(_iteration_of, config),
        patience=config.patience,
        save_interval=config.save_interval,
        keep=config.keep_checkpoints,
    )
    done = max((number for number, _ in checkpoints.store.existing()), default=0)
    if config.iterations < done:
        raise ValueError(
            f"The run {run_dir} has gone on to iteration {done} already; --iterations "
            f"must be at least that, got {config.iterations}."
        )
    records: list[Record] = []
    with explained(checkpoints, chief):
        keras.utils.set_random_seed(config.seed)
        with devices.scope():
            model = build_model(config, splits.info)
        if chief:
            run_dir.mkdir(parents=True, exist_ok=True)
            with locked(run_dir):
                replace_text(run_dir / "config.json", config.to_json())
                if not resume:
                    facts = json.dumps(fingerprint(splits), indent=2) + "\n"
                    replace_text(run_dir / "data.json", facts)
                environment = json.dumps(_environment(devices), indent=2)
                replace_text(run_dir / "environment.json", environment)
                _fit(model, config, splits, run_dir, checkpoints, verbose)
                records = _evaluate(run_dir, config, splits, 1 if verbose == 1 else 0)
        else:
            _fit(model, config, splits, run_dir, checkpoints, verbose=0)
        # A worker that ends early looks like one that died.
        any_worker(devices, False)
    return records


def _left_out(config: RunConfig, splits: Splits) -> list[str]:
    """What a run does without, for want of images."""
    if len(splits.validation) > 1 or config.model == "pixel-maf":
        return []
    return ["one validation image: TensorBoard shows no interpolations"]


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
) -> None:
    """Trains from where the run directory is, to the end."""
    interval, total = config.validation_interval, config.iterations
    iteration_of = checkpoints.iteration_of
    done = checkpoints.restore(model)
    callbacks: list[keras.callbacks.Callback] = [checkpoints]
    validation = splits.validation.images
    if is_chief(model.distribute_strategy):
        History.keep_until(run_dir / "history.csv", done)
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
    with StopOnSignal(checkpoints) as stop:
        callbacks.append(stop)
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
    if not checkpoints.best_iteration:
        raise FloatingPointError(
            "No validation had a finite loss; lower the learning rate, check the "
            "validation data, or train until the first validation."
        )


def _evaluate(
    run_dir: Path, config: RunConfig, splits: Splits, verbose
) -> list[Record]:
    """Evaluates the best checkpoint on the test set; draws pictures."""
    model = load_best(run_dir)
    if tune(model, splits, config.num_samples, verbose):
        save_best(model, run_dir)
    records: list[Record] = []
    images = splits.test.images
    facts: dict[str, Any] = {
        "split": "test",
        "seed": config.seed,
        "iteration": best_iteration(run_dir),
    }
    if isinstance(model, GenerativeModel):
        records += likelihood_records(
            model,
            images,
            marginal_images=images[: config.num_marginal_images],
            num_samples=config.num_samples,
            batch_size=config.batch_size,
            verbose=verbose,
            **facts,
        )
        samples = model.sample(64, temperature=0.85, seed=config.seed)
        save_png(run_dir / "samples.png", image_grid(samples, 8))
    if is_denoiser(model):
        records += reconstruction_records(model, images, **facts)
    if isinstance(model, AutoencodingModel):
        draw_reconstructions(model, images, run_dir, seed=config.seed)
    append_records(run_dir, records)
    write_hyperparameters(
        run_dir / "tensorboard",
        dataclasses.asdict(config),
        {record.name: record.value for record in records},
    )
    if isinstance(model, AutoencodingModel):
        labels = splits.test.labels
        write_projector(
            run_dir / "tensorboard",
            model.encode(images[:_PROJECTED_IMAGES]),
            model.dequantize(images[:_PROJECTED_IMAGES], seed=None),
            None if labels is None else labels[:_PROJECTED_IMAGES],
        )
    return records


def _environment(strategy: tf.distribute.Strategy) -> dict[str, Any]:
    packages = (
        "aef_tfp",
        "tensorflow",
        "keras",
        "tensorflow-probability",
        "tf_keras",
        "tensorflow-datasets",
        "numpy",
    )
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "devices": [
            f"{device.device_type}: {device.name}"
            for device in tf.config.list_logical_devices()
        ],
        "strategy": type(strategy).__name__,
        "replicas": strategy.num_replicas_in_sync,
        "packages": {name: importlib.metadata.version(name) for name in packages},
    }
