"""What TensorBoard shows of a run: scalars, pictures, hyperparameters, latents."""

import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorboard.plugins import projector
from tensorboard.plugins.hparams import api as hparams

from aef_tfp.callbacks.iterations import IterationOf
from aef_tfp.callbacks.rate import learning_rate_of
from aef_tfp.pictures import image_grid, manifold_grid, save_png, scatter

__all__ = ["Pictures", "Scalars", "write_hyperparameters", "write_projector"]

# Validation images and importance samples of the marginal that is watched. It costs a
# few thousand decoder passes per validation, and moves with the true one.
_MARGINAL_IMAGES = 64
_MARGINAL_SAMPLES = 16

# Validation images over which the terms of the objective are averaged.
_TERMS_IMAGES = 256


class Scalars(keras.callbacks.Callback):
    """Writes the course of training and validation under equal names.

    Every `interval` steps, whatever the length of an epoch, and at the end, into
    `train`: the loss and the bits per dimension (means since the epoch began), the
    gradient norm, skipped updates, the learning rate and the images per second of
    training. After each validation, into `validation`: loss and bits per
    dimension, the terms of the objective (`terms/...`), and for models with importance
    sampling the marginal bits per dimension from few samples, by the encoder proposal:
    an upper bound on average, to be watched, not to be reported.

    Args:
        log_dir: TensorBoard's directory of the run.
        images: Validation images, as the model takes them.
        batch_size: Images per step, over all devices.
        iteration_of: Iterations done at the end of an epoch.
        interval: Steps between two points of the training curves, at least 1.
    """

    def __init__(
        self,
        log_dir: str | Path,
        images: Any,
        batch_size: int,
        iteration_of: IterationOf,
        interval: int = 100,
    ):
        super().__init__()
        log_dir = Path(log_dir)
        self.images = _checked_images(images)
        self.batch_size = batch_size
        self.iteration_of = iteration_of
        self.interval = interval
        self._train = tf.summary.create_file_writer(str(log_dir / "train"))
        self._validation = tf.summary.create_file_writer(str(log_dir / "validation"))
        self._start = self._iteration = 0
        self._next: int | None = None
        # Since the last point.
        self._steps = 0
        self._seconds = 0.0
        self._clock = 0.0
        self._logs: dict[str, Any] = {}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Where the next point comes, the first epoch says."""
        self._next = None
        self._steps, self._seconds = 0, 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Starts the clock anew, since a validation has come between."""
        # Of a resumed run, an epoch may begin in its middle. The optimizer counts no
        # skipped steps, which the validation curves do.
        end = self.iteration_of(epoch)
        before = self.iteration_of(epoch - 1) if epoch else 0
        self._start = end - (self.params.get("steps") or end - before)
        self._iteration = self._start
        if self._next is None:
            # A resumed run has the points of an unbroken one.
            self._next = self._start - self._start % self.interval + self.interval
        self._clock = time.perf_counter()

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Writes a point of the training curves, if it is time."""
        before, self._iteration = self._iteration, self._start + batch + 1
        self._steps += self._iteration - before
        now = time.perf_counter()
        self._seconds += now - self._clock
        self._clock = now
        self._logs = dict(logs or {})
        if self._next is not None and self._iteration >= self._next:
            self._write_training()
            self._clock = time.perf_counter()

    def _write_training(self) -> None:
        values = {
            **self._logs,
            "images_per_second": self._steps * self.batch_size / self._seconds,
            "learning_rate": learning_rate_of(self.model),
        }
        self._write(self._train, values, self._iteration)
        self._next = self._iteration + self.interval
        self._steps, self._seconds = 0, 0.0

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes a point of the validation curves."""
        values = {
            name.removeprefix("val_"): value
            for name, value in (logs or {}).items()
            if name.startswith("val_")
        }
        with self.model.averages.validated():
            values |= self._measured()
        self._write(self._validation, values, self.iteration_of(epoch))

    def _measured(self) -> dict[str, Any]:
        model, values = self.model, {}
        if model.has_terms:
            terms = model.objective_terms(self.images[:_TERMS_IMAGES], seed=0)
            for name, value in terms.items():
                values[f"terms/{name}"] = tf.reduce_mean(value)
        if model.estimates:
            log_prob = model.marginal_log_prob(
                self.images[:_MARGINAL_IMAGES], _MARGINAL_SAMPLES, seed=0
            )
            name = f"marginal_bits_per_dim_of_{_MARGINAL_SAMPLES}_samples"
            values[name] = model.bits_per_dim(tf.reduce_mean(log_prob))
        return values

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Writes the last point of the training curves, and flushes what is written."""
        if self._steps:
            self._write_training()
        self._train.flush()
        self._validation.flush()

    @staticmethod
    def _write(writer: Any, values: Mapping[str, Any], step: int) -> None:
        with writer.as_default():
            for name, value in values.items():
                tf.summary.scalar(name, value, step=step)


class Pictures(keras.callbacks.Callback):
    """Shows what a model makes, after every `interval` iterations or more.

    Sample grids at two temperatures from fixed noise, so that one sees them sharpen;
    reconstructions beside originals; interpolations; noisy, denoised and original
    images of a model trained on noisy ones; for two latents the manifold and, with
    labels, the scatter of the latents.

    Args:
        log_dir: TensorBoard's directory of the run.
        images: Images to reconstruct, as the model takes them.
        labels: Their classes, or None.
        iteration_of: Iterations done at the end of an epoch.
        interval: Iterations between two sets of pictures; the first validation has one,
            and the end.
        temperatures: Temperatures of the sample grids.
        num_columns: Columns of each grid; the sample grids are square.
    """

    def __init__(
        self,
        log_dir: str | Path,
        images: Any,
        labels: Any,
        iteration_of: IterationOf,
        interval: int = 2000,
        temperatures: tuple[float, ...] = (0.85, 1.0),
        num_columns: int = 8,
    ):
        super().__init__()
        self.writer = tf.summary.create_file_writer(str(Path(log_dir) / "images"))
        self.images = _checked_images(images)[:1000]
        self.labels = None if labels is None else labels[:1000]
        self.iteration_of = iteration_of
        self.interval = interval
        self.temperatures = temperatures
        self.num_columns = num_columns
        self._drawn: int | None = None
        self._step = 0

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the pictures, if it is time."""
        self._step = self.iteration_of(epoch)
        if self._drawn is None or self._step - self._drawn >= self.interval:
            self._draw()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Writes the last pictures."""
        if self._drawn != self._step:
            self._draw()
        self.writer.flush()

    def _draw(self) -> None:
        self._drawn = step = self._step
        with self.model.averages.validated():
            for name, picture in self.pictures():
                with self.writer.as_default():
                    tf.summary.image(name, picture[None], step=step)

    def pictures(self) -> Iterator[tuple[str, np.ndarray]]:
        """Returns names and uint8 pictures `[height, width, C]` of the model."""
        model, columns = self.model, self.num_columns
        if model.samples:
            for temperature in self.temperatures:
                samples = model.sample(columns**2, temperature, seed=0)
                yield f"samples/{temperature}", image_grid(samples, columns)
        if not model.encodes:
            return
        images = self.images[:columns]
        originals = model.dequantize(images, seed=None)
        pairs = tf.concat([originals, model.reconstruct(images)], axis=0)
        # Of fewer images than columns, each stays above its own, too.
        yield "reconstructions", image_grid(pairs, len(images))
        if model.noise_std:
            noisy = model.corrupt(images, seed=0)
            rows = tf.concat([noisy, model.reconstruct(noisy), originals], axis=0)
            yield "denoised", image_grid(rows, len(images))
        half = len(images) // 2
        if half:
            lines = model.interpolate(images[:half], images[half : 2 * half], columns)
            shape = [-1, *lines.shape[2:]]
            yield "interpolations", image_grid(tf.reshape(lines, shape), columns)
        if model.latent_dim != 2:
            return
        if model.has_terms:
            yield "manifold", manifold_grid(model)
        if self.labels is not None:
            yield "latents", scatter(model.encode(self.images), self.labels)


def _checked_images(images: Any) -> Any:
    if not isinstance(images, (np.ndarray, tf.Tensor)) or not len(images):
        raise ValueError(
            "The callback takes an array of at least one image, got "
            f"{type(images).__name__}; of a data set, pass "
            "next(dataset.as_numpy_iterator())."
        )
    return images


def write_hyperparameters(
    log_dir: Path, settings: Mapping[str, Any], results: Mapping[str, float]
) -> None:
    """Writes a row of the HParams tab: settings, and the final metrics beside them.

    It takes the place of a former row of the run, which may have gone on.

    Args:
        log_dir: TensorBoard's directory of the run.
        settings: Names and values; those that are no number, text or truth value are
            written as text.
        results: Final metrics by name.
    """
    folder = log_dir / "final"
    # TensorBoard keeps the settings that come first.
    shutil.rmtree(folder, ignore_errors=True)
    plain = {
        name: value if isinstance(value, (bool, int, float, str)) else str(value)
        for name, value in settings.items()
    }
    # Runs of one name in two directories are two trials.
    place = hashlib.sha256(os.fsencode(log_dir.parent.resolve())).hexdigest()
    with tf.summary.create_file_writer(str(folder)).as_default():
        hparams.hparams(plain, trial_id=f"{log_dir.parent.name}-{place[:8]}")
        for name, value in results.items():
            tf.summary.scalar(f"final/{name}", value, step=0)


def write_projector(log_dir: Path, latents: Any, images: Any, labels: Any) -> None:
    """Writes latents for the embedding projector, with their images and labels.

    Args:
        log_dir: TensorBoard's directory of the run.
        latents: `[n, d]`.
        images: `[n, H, W, C]` floats in [0, 1].
        labels: `[n]`, or None.
    """
    folder = log_dir / "latents"
    folder.mkdir(parents=True, exist_ok=True)
    images = np.asarray(images)
    np.savetxt(folder / "latents.tsv", np.asarray(latents), fmt="%.6g", delimiter="\t")
    config = projector.ProjectorConfig()
    embedding = config.embeddings.add()
    embedding.tensor_name = "latents of test images"
    embedding.tensor_path = "latents.tsv"
    if labels is not None:
        lines = "".join(f"{label}\n" for label in labels)
        (folder / "labels.tsv").write_text(lines)
        embedding.metadata_path = "labels.tsv"
    # Read row by row. The plugin takes it for a square, so it has empty rows, too.
    columns = int(np.ceil(np.sqrt(len(images))))
    empty = np.zeros([columns**2 - len(images), *images.shape[1:]], images.dtype)
    sheet = image_grid(np.concatenate([images, empty]), columns, min_side=1, gap=0)
    save_png(folder / "images.png", sheet)
    embedding.sprite.image_path = "images.png"
    embedding.sprite.single_image_dim.extend(images.shape[2:0:-1])
    projector.visualize_embeddings(str(folder), config)
    # The plugin looks where there are events only.
    with tf.summary.create_file_writer(str(folder)).as_default():
        tf.summary.text("latents", "See the Projector tab.", step=0)
