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
import numpy as np
import tensorflow as tf

from aef_tfp import flows
from aef_tfp.callbacks import Checkpoints, History, SampleImages
from aef_tfp.config import RunConfig
from aef_tfp.data import (
    DatasetInfo,
    Splits,
    dataset_info,
    evaluation_batches,
    load_splits,
    training_batches,
)
from aef_tfp.models import VAE, ExpandedAEF, GenerativeModel, PartitionedAEF
from aef_tfp.pictures import image_grid, save_png

__all__ = ["Record", "build_model", "evaluate_test", "get_strategy", "summary", "train"]


@dataclasses.dataclass(frozen=True)
class Record:
    """One number of metrics.json, and what it is."""

    name: str
    value: float
    standard_error: float
    estimator: str
    split: str
    num_images: int
    num_samples: int | None
    seed: int


def get_strategy() -> tf.distribute.Strategy:
    """Returns MirroredStrategy for several GPUs, else TensorFlow's default."""
    if len(tf.config.list_physical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def build_model(config: RunConfig, info: DatasetInfo) -> GenerativeModel:
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

    arguments: dict[str, Any] = {
        "prior_flow": flow(config.prior_flow),
        "decoder_scale": config.decoder_scale,
        "num_levels": info.num_levels,
        "logit_lambda": info.logit_lambda,
        "seed": config.seed,
    }
    core_flow = flow(config.core_flow)
    shape, latent_dim = info.image_shape, config.latent_dim
    model: GenerativeModel
    if config.model == "vae":
        posterior_flow = flows.Inverted(core_flow)
        model = VAE(shape, latent_dim, posterior_flow=posterior_flow, **arguments)
    elif config.model == "aef-linear":
        model = ExpandedAEF(shape, latent_dim, core_flow=core_flow, **arguments)
    else:
        model = PartitionedAEF(
            shape,
            latent_dim,
            partition=config.model.removeprefix("aef-"),
            core_flow=core_flow,
            **arguments,
        )
    model.compile(
        keras.optimizers.Adam(config.learning_rate, global_clipnorm=config.clip_norm),
        jit_compile=config.jit_compile,
        steps_per_execution=config.steps_per_execution,
        max_skipped_updates=config.max_skipped_updates,
    )
    return model


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
        The records of metrics.json.

    Raises:
        ValueError: If a setting is out of its range or does not fit the data.
        FileExistsError: If `run_dir` exists and `resume` is not asked.
        FileNotFoundError: If there is nothing to resume, or no data.
        FloatingPointError: If training diverges.
    """
    config.check()
    info = dataset_info(config.dataset)
    if resume:
        RunConfig.from_run(run_dir)
    if not resume and run_dir.exists() and any(run_dir.iterdir()):
        raise FileExistsError(
            f"The run directory {run_dir} exists and is not empty; choose another one "
            f"with --run-dir, or go on in it with --resume {run_dir}."
        )
    splits = load_splits(config.dataset, data_dir=data_dir, download=download)
    keras.utils.set_random_seed(config.seed)
    with get_strategy().scope():
        model = build_model(config, info)

    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.json").write_text(config.to_json())
    (run_dir / "environment.json").write_text(json.dumps(_environment(), indent=2))
    _fit(model, config, splits, run_dir, verbose)

    best = keras.saving.load_model(run_dir / "best.keras")
    records = evaluate_test(best, config, splits.test.images)
    (run_dir / "metrics.json").write_text(
        json.dumps([dataclasses.asdict(record) for record in records], indent=2)
    )
    _draw(best, config, splits, run_dir)
    return records


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
        keras.callbacks.TensorBoard(str(tensorboard), write_graph=False),
        History(run_dir / "history.csv", iteration_of),
        SampleImages(tensorboard, validation, iteration_of),
        checkpoints,
    ]
    while done < total and not checkpoints.stopped_early:
        full_intervals = (total - done) // interval
        steps = interval if full_intervals else total - done
        first = done // interval
        # A shorter execution would otherwise run past the end of the epoch.
        model.steps_per_execution = math.gcd(steps, config.steps_per_execution)
        model.fit(
            training_batches(
                splits.train.images,
                config.batch_size,
                seed=config.seed,
                start_step=done,
            ),
            initial_epoch=first,
            epochs=first + max(full_intervals, 1),
            steps_per_epoch=steps,
            validation_data=evaluation_batches(validation, config.batch_size),
            callbacks=callbacks,
            verbose=verbose,
        )
        done += steps * max(full_intervals, 1)


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


def evaluate_test(model: Any, config: RunConfig, images: np.ndarray) -> list[Record]:
    """Evaluates a model on test images.

    The partitioned models have an exact likelihood. The others have an objective that
    is none (a joint density or the ELBO), and an importance-sampling estimate of one.

    Args:
        model: The model.
        config: Its run: seeds, batch size, number of importance samples.
        images: Integer images `[n, *event_shape]`.

    Returns:
        Records of nats and bits per dimension, mean over the images.
    """
    dequantized = "one uniform dequantization"
    if isinstance(model, PartitionedAEF):
        log_prob = _in_batches(model.log_prob, images, config)
        return _records(
            model, "", log_prob, f"exact log-likelihood, {dequantized}", None, config
        )
    few = images[: config.num_marginal_images]
    arguments: dict[str, Any] = {"num_samples": config.num_samples}
    if isinstance(model, ExpandedAEF):
        prefix = "joint_"
        objective = _in_batches(model.joint_log_prob, images, config)
        estimator = "joint density log p(x, h(x)), no likelihood of x"
        arguments["proposal_scale"] = config.proposal_scale
        proposal = f"encoder proposal of scale {config.proposal_scale:g} (not tuned)"
    else:
        prefix = "elbo_"
        objective = _in_batches(model.elbo, images, config)
        estimator = "one-sample ELBO, a lower bound of log p(x)"
        proposal = "encoder proposal"
    marginal = _in_batches(
        lambda batch, seed: model.marginal_log_prob(batch, seed=seed, **arguments),
        few,
        config,
    )
    return [
        *_records(
            model, prefix, objective, f"{estimator}, {dequantized}", None, config
        ),
        *_records(
            model,
            "marginal_",
            marginal,
            f"importance sampling with - log K, {proposal}, {dequantized}",
            config.num_samples,
            config,
        ),
    ]


def _in_batches(function, images, config) -> np.ndarray:
    parts = [
        function(images[start : start + config.batch_size], seed=config.seed + start)
        for start in range(0, len(images), config.batch_size)
    ]
    return np.concatenate(parts)


def _records(model, prefix, log_prob, estimator, num_samples, config) -> list[Record]:
    return [
        Record(
            name=prefix + name,
            value=float(values.mean()),
            standard_error=float(values.std(ddof=1) / math.sqrt(len(values))),
            estimator=estimator,
            split="test",
            num_images=len(values),
            num_samples=num_samples,
            seed=config.seed,
        )
        for name, values in (
            ("log_prob", log_prob),
            ("bits_per_dim", model.bits_per_dim(log_prob)),
        )
    ]


def _draw(model, config: RunConfig, splits: Splits, run_dir: Path) -> None:
    """Writes samples.png, and reconstructions.png with the originals above."""
    samples = model.sample(64, temperature=0.85, seed=config.seed)
    save_png(run_dir / "samples.png", image_grid(samples, 8))
    originals = splits.test.images[:16]
    reconstructed = model.reconstruct(originals)
    originals = model.dequantize(originals, seed=None)
    rows = [originals[:8], reconstructed[:8], originals[8:], reconstructed[8:]]
    grid = image_grid(tf.concat(rows, axis=0), 8)
    save_png(run_dir / "reconstructions.png", grid)


def summary(records: list[Record]) -> str:
    """Returns the records as lines for the terminal, the estimator below each."""
    lines = []
    for record in records:
        unit = "bits/dim" if "bits" in record.name else "nats/image"
        samples = f", K = {record.num_samples}" if record.num_samples else ""
        lines += [
            f"  {record.name:<22} {record.value:10.4f} +- {record.standard_error:.4f} "
            f"{unit} ({record.split}, {record.num_images} images{samples})",
            f"      {record.estimator}",
        ]
    return "\n".join(lines)


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
