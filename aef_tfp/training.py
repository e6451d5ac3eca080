"""A run from configuration to run directory; `fit` does the training."""

import csv
import dataclasses
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
    History,
    Pictures,
    Scalars,
    write_hyperparameters,
    write_projector,
)
from aef_tfp.config import RunConfig
from aef_tfp.data import (
    DatasetInfo,
    Splits,
    evaluation_batches,
    training_batches,
)
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
from aef_tfp.networks import residual_decoder, residual_encoder
from aef_tfp.pictures import image_grid, save_png

__all__ = ["build_model", "get_strategy", "train"]

# Test images whose latents TensorBoard's projector shows.
_PROJECTED_IMAGES = 1000


def get_strategy() -> tf.distribute.Strategy:
    """Returns MirroredStrategy for several GPUs, else TensorFlow's default."""
    if len(tf.config.list_physical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


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
    )
    return model


def _networks(
    config: RunConfig, shape: tuple[int, ...], encoder_outputs: int
) -> dict[str, Any]:
    """The arguments `encoder` and `decoder`; a width of its own needs the networks."""
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
    }


def train(
    config: RunConfig,
    run_dir: Path,
    *,
    data_dir: Path | None = None,
    download: bool = False,
    resume: bool = False,
    verbose: Any = "auto",
) -> list[Record]:
    """Trains, evaluates on the test set, and writes the run directory.

    Args:
        config: The run.
        run_dir: Directory to create; with `resume`, the one to go on in.
        data_dir: TFDS data directory; TFDS's own default if None.
        download: Whether TFDS may download the data set.
        resume: Go on from the newest checkpoint in `run_dir`.
        verbose: Keras's verbosity: 0, 1, 2 or `"auto"`.

    Returns:
        The records of the test set that metrics.json gained.

    Raises:
        ValueError: If a setting is out of its range or does not fit the data.
        FileExistsError: If `run_dir` exists and `resume` is not asked.
        FileNotFoundError: If there is nothing to resume, or no data.
        FloatingPointError: If training diverges.
    """
    config.check()
    if resume:
        RunConfig.from_run(run_dir)
    if not resume and run_dir.exists() and any(run_dir.iterdir()):
        raise FileExistsError(
            f"The run directory {run_dir} exists and is not empty; choose another one "
            f"with --run-dir, or go on in it with --resume {run_dir}."
        )
    splits = load_run_splits(config, data_dir=data_dir, download=download)
    if verbose:
        print("".join(f"{note}\n" for note in splits.notes), end="", flush=True)
    keras.utils.set_random_seed(config.seed)
    with get_strategy().scope():
        model = build_model(config, splits.info)

    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.json").write_text(config.to_json())
    (run_dir / "environment.json").write_text(json.dumps(_environment(), indent=2))
    _fit(model, config, splits, run_dir, verbose)

    return _evaluate(run_dir, config, splits, verbose=1 if verbose == 1 else 0)


def _fit(model, config: RunConfig, splits: Splits, run_dir: Path, verbose) -> None:
    """Trains in epochs of one validation interval each; the last may be shorter."""
    interval, total = config.validation_interval, config.iterations

    def iteration_of(epoch: int) -> int:
        return min((epoch + 1) * interval, total)

    checkpoints = Checkpoints(run_dir, iteration_of, patience=config.patience)
    done = checkpoints.restore(model)
    _keep_history_until(run_dir / "history.csv", done)
    tensorboard = run_dir / "tensorboard"
    validation = splits.validation.images
    callbacks = [
        History(run_dir / "history.csv", iteration_of),
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
        checkpoints,
    ]
    while done < total and not checkpoints.stopped_early:
        # A run that was once asked for fewer iterations first goes to the next
        # validation of the others.
        to_next = interval - done % interval
        steps = min(to_next, total - done)
        epochs = (total - done) // interval if steps == interval else 1
        first = done // interval
        # A shorter execution would otherwise run past the end of the epoch.
        model.steps_per_execution = math.gcd(steps, config.steps_per_execution)
        model.fit(
            training_batches(
                splits.train.images,
                config.batch_size,
                seed=config.seed,
                start_step=done,
                flips=splits.info.flips,
            ),
            initial_epoch=first,
            epochs=first + epochs,
            steps_per_epoch=steps,
            validation_data=evaluation_batches(validation, config.batch_size),
            callbacks=callbacks,
            verbose=verbose,
        )
        done += steps * epochs


def _keep_history_until(path: Path, iteration: int) -> None:
    """Drops rows that an interrupted run wrote after its newest checkpoint."""
    if not path.exists():
        return
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        fields = list(reader.fieldnames or ())
        rows = [row for row in reader if int(row["iteration"]) <= iteration]
    if not rows:
        path.unlink()
        return
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows(rows)


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


def _environment() -> dict[str, Any]:
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
        "packages": {name: importlib.metadata.version(name) for name in packages},
    }
