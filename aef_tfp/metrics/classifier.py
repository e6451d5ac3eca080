"""Features of a small classifier trained on the data set at hand.

Inception saw photographs; of digits it sees little, and its weights must be downloaded.
A classifier of the data themselves needs no network and knows what matters in them.
Its distances are called "Frechet distance in classifier features", never FID, and they
compare only with those of the same classifier: its name carries a fingerprint.
"""

import hashlib
import json
import math
import os
import re
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from aef_tfp.engine.arguments import checked_count
from aef_tfp.metrics.checks import check_image_shape, one_line
from aef_tfp.metrics.features import cache_dir as default_cache_dir

__all__ = ["ClassifierFeatures", "get_classifier", "train_classifier"]

# Part of the name of a cached file. Increase it with any change of the network or of
# its training, which would give other features under the same name.
_VERSION = 1

_BATCH_SIZE = 128
_NUM_FEATURES = 128
# Outputs that few images may have; more labels than that are names, no counts.
_MOST_KINDS = 1000

_LEAST_STEPS = 800
_FACTS_FILE = "aef_tfp.json"


class ClassifierFeatures:
    """The 128 features before the last layer of a trained classifier.

    Example:
        >>> features = train_classifier(images, labels, num_levels=17)
        >>> features(images[:5] / 16.0).shape
        (5, 128)

    Args:
        network: Keras model of images `[n, H, W, C]` in [0, 1] with two outputs:
            features `[n, 128]` and logits `[n, num_classes]`.
        dataset: Name of the data set it was trained on, or None.
        test_accuracy: Its accuracy on the test images, in [0, 1], or None.

    Attributes:
        fingerprint: The first 8 hexadecimal digits of a SHA-256 over the weights.
        name: Data set, test accuracy and fingerprint in words.
    """

    def __init__(
        self,
        network: keras.Model,
        dataset: str | None = None,
        test_accuracy: float | None = None,
    ):
        self.network = network
        self.dataset = dataset
        self.test_accuracy = test_accuracy
        self.fingerprint = _digest(network.get_weights())
        shape = (None, *network.input_shape[1:])
        self._outputs = tf.function(
            lambda images: network(images, training=False),
            input_signature=[tf.TensorSpec(shape, tf.float32)],
            autograph=False,
        )

    @property
    def name(self) -> str:
        """For example "classifier on mnist (test accuracy 0.989, weights 1a2b3c4d)"."""
        on = "" if self.dataset is None else f" on {self.dataset}"
        accuracy = (
            ""
            if self.test_accuracy is None
            else f"test accuracy {self.test_accuracy:.3f}, "
        )
        return f"classifier{on} ({accuracy}weights {self.fingerprint})"

    def __call__(self, images: Any, /) -> np.ndarray:
        """Returns the features of one batch.

        Args:
            images: `[n, H, W, C]` floats in [0, 1], of the shape it was trained on.

        Returns:
            `[n, 128]` float32, not negative.

        Raises:
            ValueError: If the images have another shape.
        """
        return self._outputs(self._checked(images))[0].numpy()

    def accuracy(self, images: Any, labels: Any) -> float:
        """The share of images that are classified as labelled.

        Args:
            images: `[n, H, W, C]` floats in [0, 1].
            labels: `[n]` integers.

        Raises:
            ValueError: If the shapes do not fit.
        """
        images, labels = self._checked(images), np.asarray(labels)
        if labels.shape != images.shape[:1]:
            raise ValueError(
                f"labels must have shape [{len(images)}], one per image, got "
                f"{list(labels.shape)}."
            )
        num_right = 0
        for start in range(0, len(images), 500):
            part = slice(start, start + 500)
            logits = self._outputs(images[part])[1].numpy()
            num_right += int((logits.argmax(axis=-1) == labels[part]).sum())
        return num_right / len(images)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a `.keras` file; whoever reads it sees all of it or none.

        Args:
            path: File name with the ending `.keras`.
        """
        path = Path(path)
        facts = {
            "dataset": self.dataset,
            "test_accuracy": self.test_accuracy,
            "fingerprint": self.fingerprint,
        }
        aside = path.with_name(f"{path.stem}.{os.getpid()}.partial.keras")
        try:
            self.network.save(aside)
            with zipfile.ZipFile(aside, "a") as archive:
                archive.writestr(_FACTS_FILE, json.dumps(facts))
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "ClassifierFeatures":
        """Reads a file of `save`.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged, or no classifier of this package.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no classifier at {os.fspath(path)!r}")
        try:
            with zipfile.ZipFile(path) as archive:
                facts = json.loads(archive.read(_FACTS_FILE))
            network = keras.models.load_model(path, compile=False)
            loaded = cls(network, facts["dataset"], facts["test_accuracy"])
            if loaded.fingerprint != facts["fingerprint"]:
                raise ValueError(f"its weights have changed to {loaded.fingerprint}")
        except Exception as error:  # a damaged file can fail anywhere inside Keras
            raise ValueError(
                f"{os.fspath(path)!r} is no classifier of this package, or is damaged "
                f"({one_line(error)}): delete it"
            ) from error
        return loaded

    def _checked(self, images: Any) -> np.ndarray:
        images = np.asarray(images, np.float32)
        shape = list(self.network.input_shape[1:])
        if list(images.shape[1:]) != shape:
            raise ValueError(
                f"images must have shape [n, {', '.join(map(str, shape))}] as those "
                f"that the {self.name} was trained on, got {list(images.shape)}."
            )
        return images


def train_classifier(
    images: Any,
    labels: Any,
    *,
    num_levels: int = 256,
    epochs: int | None = None,
    seed: int = 0,
    verbose: int = 0,
) -> ClassifierFeatures:
    """Trains a small convolutional classifier.

    Blocks of a 3x3 convolution and 2x2 pooling until the longer side is at most 8 (at
    least two of them), a layer of 128 features, and a softmax; Adam with a rate that
    falls from 0.001 to 0 on a cosine.

    Initial weights and order come from `seed` alone, and no global random state is
    read or changed: the same call gives the same weights on the same machine.

    Example:
        >>> digits = load_splits("digits").train
        >>> features = train_classifier(digits.images, digits.labels, num_levels=17)
        >>> features.accuracy(digits.images / 16.0, digits.labels) > 0.99
        True

    Args:
        images: `[n, H, W, C]` integers from 0 to `num_levels - 1`.
        labels: `[n]` integers from 0 on, of at least two kinds.
        num_levels: How many values a pixel can take.
        epochs: Passes over the images; None makes about 800 steps of 128 images, one
            pass at least. An epoch leaves out the last `n % 128` images of its order.
        seed: Any integer from 0 on.
        verbose: 1 writes a line per epoch to the standard error.

    Returns:
        The classifier, without the name of a data set.

    Raises:
        ValueError: If images and labels do not fit each other or `num_levels`.
    """
    images, labels = _checked_data(images, labels, num_levels)
    _check_kinds(labels)
    size = min(_BATCH_SIZE, len(images))
    num_batches = len(images) // size
    if epochs is None:
        epochs = math.ceil(_LEAST_STEPS / num_batches)
    epochs = checked_count("epochs", epochs)
    network = _network(images.shape[1:], int(labels.max()) + 1, seed)
    trained = keras.Model(network.inputs, network.outputs[1], name="classifier_logits")
    trained.compile(
        keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(1e-3, epochs * num_batches)
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        # XLA's convolutions are slow on processors.
        jit_compile=False,
    )
    rng = np.random.default_rng(seed)
    for epoch in range(epochs):
        order = rng.permutation(len(images))[: num_batches * size]
        losses = [
            trained.train_on_batch(
                _unit_interval(images[batch], num_levels), labels[batch]
            )
            for batch in order.reshape(num_batches, size)
        ]
        if verbose:
            print(
                f"classifier: epoch {epoch + 1} of {epochs}, mean loss "
                f"{np.mean(losses):.4f}",
                file=sys.stderr,
            )
    return ClassifierFeatures(network)


def get_classifier(
    dataset_name: str,
    train_images: Any,
    train_labels: Any,
    test_images: Any,
    test_labels: Any,
    *,
    num_levels: int,
    cache_dir: Path | None = None,
    seed: int = 0,
    verbose: int = 0,
) -> ClassifierFeatures:
    """The classifier of a data set: read from the cache, or trained and put there.

    The file name holds the data set, the seed, the version of this module and a digest
    of the data, so that none of them can be mistaken for another.

    Args:
        dataset_name: For the names of the file and of the features.
        train_images: `[n, H, W, C]` integers from 0 to `num_levels - 1`.
        train_labels: `[n]` integers.
        test_images: `[m, H, W, C]` integers.
        test_labels: `[m]` integers.
        num_levels: How many values a pixel can take.
        cache_dir: The folder of the files; None is `aef_tfp` in Keras's folder
            (`KERAS_HOME`, or else `~/.keras`).
        seed: Seed of the training.
        verbose: 1 writes the progress of the training to the standard error.

    Returns:
        The classifier, with the name of the data set and its accuracy on the test
        images. A file that cannot be read is replaced, and a folder that cannot be
        written to is done without; both with a line on the standard error.

    Raises:
        ValueError: If images and labels do not fit each other or `num_levels`.
    """
    train_images, train_labels = _checked_data(train_images, train_labels, num_levels)
    test_images, test_labels = _checked_data(test_images, test_labels, num_levels)
    _check_kinds(train_labels)
    digest = _digest(
        [train_images, train_labels, test_images, test_labels, np.array(num_levels)]
    )
    folder = default_cache_dir() if cache_dir is None else Path(cache_dir)
    stem = re.sub(r"[^\w-]", "_", dataset_name)
    path = folder / f"classifier-{stem}-seed{seed}-v{_VERSION}-{digest}.keras"
    if path.exists():
        try:
            return ClassifierFeatures.load(path)
        except ValueError as error:
            print(f"warning: {one_line(error)}; training anew", file=sys.stderr)
    trained = train_classifier(
        train_images, train_labels, num_levels=num_levels, seed=seed, verbose=verbose
    )
    accuracy = trained.accuracy(_unit_interval(test_images, num_levels), test_labels)
    classifier = ClassifierFeatures(trained.network, dataset_name, accuracy)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        classifier.save(path)
    except OSError as error:
        print(
            f"warning: cannot keep the {classifier.name} ({one_line(error)}); it will "
            "be trained again next time",
            file=sys.stderr,
        )
    return classifier


def _network(image_shape: Sequence[int], num_classes: int, seed: int) -> keras.Model:
    seeds = iter(np.random.SeedSequence(seed).generate_state(16).tolist())

    # Every layer has a name of its own, since automatic ones are counted globally, and
    # a float type, since the global one is the user's.
    def options(name: str) -> dict[str, Any]:
        initializer = keras.initializers.GlorotUniform(next(seeds))
        return {"name": name, "dtype": "float32", "kernel_initializer": initializer}

    images = keras.Input(tuple(image_shape), dtype="float32", name="images")
    num_blocks = max(2, math.ceil(math.log2(max(image_shape[:2]) / 8)))
    x = images
    for i in range(num_blocks):
        filters = 32 if i == 0 else 64
        x = keras.layers.Conv2D(
            filters, 3, padding="same", activation="relu", **options(f"convolution_{i}")
        )(x)
        x = keras.layers.MaxPooling2D(
            padding="same", name=f"pooling_{i}", dtype="float32"
        )(x)
    x = keras.layers.Flatten(name="flatten", dtype="float32")(x)
    features = keras.layers.Dense(
        _NUM_FEATURES, activation="relu", **options("features")
    )(x)
    logits = keras.layers.Dense(num_classes, **options("logits"))(features)
    return keras.Model(images, [features, logits], name="classifier")


def _checked_data(
    images: Any, labels: Any, num_levels: int
) -> tuple[np.ndarray, np.ndarray]:
    if labels is None:
        raise ValueError(
            "a classifier needs labels, and this data set has none: use the features "
            "of Inception, --inception-weights FILE"
        )
    images, labels = np.asarray(images), np.asarray(labels)
    check_image_shape("images", images)
    if images.dtype.kind not in "ui" or labels.dtype.kind not in "ui":
        raise ValueError(
            "images and labels of a classifier must be integers, got "
            f"{images.dtype} and {labels.dtype}; pass the pixels as the data set has "
            "them."
        )
    if labels.shape != images.shape[:1] or not len(labels):
        raise ValueError(
            f"labels must have shape [{len(images)}], one per image, and not be empty, "
            f"got {list(labels.shape)}."
        )
    if images.min() < 0 or images.max() >= num_levels:
        raise ValueError(
            f"images must lie in 0 ... {num_levels - 1} (num_levels = {num_levels}), "
            f"got values from {images.min()} to {images.max()}; pass the number of "
            "levels of the data set."
        )
    if labels.min() < 0:
        raise ValueError(f"labels must start at 0, got {labels.min()}; renumber them.")
    if labels.max() >= max(_MOST_KINDS, len(labels)):
        raise ValueError(
            f"labels must count kinds from 0 on, got {labels.max()} for {len(labels)} "
            "images; renumber them."
        )
    return images, labels


def _check_kinds(labels: np.ndarray) -> None:
    """Refuses what no classifier can learn from."""
    kinds = np.unique(labels)
    if len(kinds) < 2:
        raise ValueError(
            f"a classifier needs images of at least two kinds, got label {kinds[0]} "
            f"alone on all {len(labels)}: its features would mean nothing; use those "
            "of Inception, --inception-weights FILE"
        )


def _unit_interval(images: np.ndarray, num_levels: int) -> np.ndarray:
    return images.astype(np.float32) / np.float32(num_levels - 1)


def _digest(arrays: Sequence[np.ndarray]) -> str:
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.dtype.str}{array.shape}".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()[:8]
