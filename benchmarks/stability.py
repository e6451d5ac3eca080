"""Trains each kind of model on each kind of picture for its first 300 steps.

    python benchmarks/stability.py --data-dir DIR

DIR holds the TFDS data sets `celeba10k` and `tiny_imagenet32`. The table goes into
`docs/stability.md` between its two marks. Rows are kept in --output as they are done,
and not done again; --only takes a regular expression for their titles.

What to look for: a loss far above that of a uniform distribution (8 bits per dimension,
more with wide initial deviations) after the first step, any skipped update, and samples
whose values lie outside of those of images.
"""

import argparse
import dataclasses
import gc
import json
import re
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from aef_tfp import flows
from aef_tfp.data import dataset_info
from aef_tfp.data.pipeline import training_batches
from aef_tfp.runs.config import RunConfig
from aef_tfp.runs.training import build_model

_DOCS = Path(__file__).parents[1] / "docs" / "stability.md"
_MARKS = "<!-- benchmarks/stability.py -->\n", "<!-- end of the table -->\n"

# Photographs of a row; a small folder of a user's.
_NUM_IMAGES = 400

# How far beyond [0, 1] a value may lie before it counts as outside.
_MARGIN = 0.05

_SAMPLES = 64


@dataclasses.dataclass(frozen=True)
class Row:
    """One training: pictures, their side, and what differs from the defaults."""

    pictures: str
    side: int
    settings: tuple[tuple[str, object], ...] = ()

    @property
    def title(self) -> str:
        """How the table calls it."""
        words = [f"{name} {value}" for name, value in self.settings]
        return f"{self.pictures}, {self.side} x {self.side}: {', '.join(words)}"


def row(pictures: str, side: int, model: str, **settings) -> Row:
    return Row(pictures, side, (("model", model), *settings.items()))


_RESIDUAL = {"networks": "residual", "learning_rate": 1e-4, "batch_size": 16}

ROWS = (
    row("faces", 32, "aef-linear", latent_dim=32),
    row("faces", 64, "aef-linear", latent_dim=32),
    row("faces", 64, "aef-linear", latent_dim=256),
    row("faces", 64, "aef-linear", latent_dim=32, learning_rate=1e-2),
    row("faces", 64, "aef-linear", latent_dim=32, batch_size=16),
    row("faces", 64, "aef-linear", latent_dim=32, decoder_scale="dependent"),
    row("faces", 64, "aef-linear", latent_dim=32, networks="dense"),
    row("faces", 64, "aef-center", latent_dim=32),
    row("faces", 64, "aef-corner", latent_dim=32),
    row("faces", 64, "aef-random", latent_dim=32),
    row("faces", 64, "aef-random", latent_dim=256),
    row("faces", 64, "vae", latent_dim=32),
    row("faces", 64, "iwae", latent_dim=32),
    row("faces", 32, "aef-linear", latent_dim=64, **_RESIDUAL),
    row("faces", 32, "vae", latent_dim=64, **_RESIDUAL),
    row("faces", 32, "pixel-maf", flow_layers=4, batch_size=32),
    row("faces with black borders", 64, "aef-linear", latent_dim=32),
    row("faces with black borders", 64, "aef-random", latent_dim=32),
    row("flat drawings", 64, "aef-linear", latent_dim=32),
    row("flat drawings", 64, "aef-center", latent_dim=32),
    row("grey faces stored as colour", 64, "aef-linear", latent_dim=32),
    row("one face 400 times", 64, "aef-linear", latent_dim=32),
    row("photographs", 32, "aef-linear", latent_dim=32),
    row("photographs", 32, "vae", latent_dim=32),
)


def pictures(kind: str, side: int, data_dir: str) -> np.ndarray:
    """The pictures of a kind, `[400, side, side, 3]` uint8."""
    if kind == "flat drawings":
        return flat_drawings(side)
    name = "tiny_imagenet32" if kind == "photographs" else "celeba10k"
    images = tfds.load(name, split=f"train[:{_NUM_IMAGES}]", data_dir=data_dir)
    images = np.stack([example["image"] for example in images.as_numpy_iterator()])
    if name == "celeba10k":
        images = images[:, 17:91, 7:81]
    images = tf.image.resize(images, (side, side), "bicubic", antialias=True)
    images = tf.saturate_cast(tf.round(images), tf.uint8).numpy()
    if kind == "faces with black borders":
        border = side // 8
        images[:, :border] = images[:, -border:] = 0
        images[:, :, :border] = images[:, :, -border:] = 0
    elif kind == "grey faces stored as colour":
        images = np.repeat(images.mean(-1, keepdims=True).astype(np.uint8), 3, axis=-1)
    elif kind == "one face 400 times":
        images = np.repeat(images[:1], _NUM_IMAGES, axis=0)
    return images


def flat_drawings(side: int) -> np.ndarray:
    """Rectangles of few pure colours on white."""
    generator = np.random.default_rng(0)
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255], [255, 255, 0]], np.uint8)
    images = np.full((_NUM_IMAGES, side, side, 3), 255, np.uint8)
    for image in images:
        for _ in range(3):
            (top, left), (height, width) = generator.integers(0, side // 2, (2, 2))
            colour = colours[generator.integers(len(colours))]
            image[top : top + height, left : left + width] = colour
    return images


def measure(one: Row, data_dir: str, steps: int) -> dict[str, float]:
    """Trains a row's model; returns the columns of the table."""
    keras.utils.set_random_seed(3)
    config = RunConfig(
        **{
            "dataset": "folder",
            "batch_size": 64,
            "jit_compile": False,
            "steps_per_execution": 1,
            # The table counts what the guard catches; nothing is given up.
            "max_skipped_updates": steps,
            **dict(one.settings),
        }
    )
    images = pictures(one.pictures, one.side, data_dir)
    info = dataclasses.replace(
        dataset_info("folder"), image_shape=images.shape[1:], logit_lambda=0.05
    )
    model = build_model(config, info)
    model.adapt(images)
    history = model.fit(
        training_batches(images, config.batch_size, seed=3),
        # An epoch of one step, so that its loss is no mean of many.
        epochs=steps,
        steps_per_epoch=1,
        verbose=0,
    ).history
    bits = model.bits_per_dim(-np.array(history["loss"]))
    return {
        "first": float(bits[0]),
        "worst": float(np.nanmax(bits)),
        "last": float(bits[-1]),
        "first_norm": float(history["gradient_norm"][0]),
        "worst_norm": float(np.nanmax(history["gradient_norm"])),
        "skipped": float(np.sum(history["skipped_updates"])),
        "outside": share_outside(model),
    }


def share_outside(model) -> float:
    """The share of samples with a value outside of images', before any clipping."""
    logit_lambda = model.events.logit_lambda
    # Samples of the logits: what follows squashes, and clips.
    model.preprocessing = flows.Stack([model.preprocessing.flows[-1]])
    logits = model.sample(_SAMPLES, seed=0).numpy()
    x = (tf.sigmoid(logits) - logit_lambda) / (1.0 - 2.0 * logit_lambda)
    is_inside = (x >= -_MARGIN) & (x <= 1.0 + _MARGIN)
    return float(np.mean(~np.all(is_inside, axis=(1, 2, 3))))


def table(results: dict[str, dict[str, float]]) -> str:
    lines = [
        "| pictures, size, model | first loss | worst loss | loss after "
        "| first gradient norm | largest | skipped updates | samples outside |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for title, cells in results.items():
        lines.append(
            f"| {title} | {cells['first']:.2f} | {cells['worst']:.2f} "
            f"| {cells['last']:.2f} | {cells['first_norm']:.0f} "
            f"| {cells['worst_norm']:.0f} | {cells['skipped']:.0f} "
            f"| {cells['outside']:.0%} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True, help="folder of TFDS data sets")
    parser.add_argument("--only", default="", help="regular expression for titles")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument(
        "--output", type=Path, help="JSON file of rows that are done, kept up to date"
    )
    arguments = parser.parse_args()
    done = {}
    if arguments.output and arguments.output.exists():
        done = json.loads(arguments.output.read_text())
    for one in ROWS:
        if one.title in done or not re.search(arguments.only, one.title):
            continue
        done[one.title] = measure(one, arguments.data_dir, arguments.steps)
        print(table({one.title: done[one.title]}).splitlines()[-1], flush=True)
        # A model is a cycle of references, with all that was traced of it.
        keras.utils.clear_session()
        gc.collect()
        if arguments.output:
            arguments.output.write_text(json.dumps(done, indent=2) + "\n")
    if arguments.only:
        return
    ordered = {one.title: done[one.title] for one in ROWS}
    before, rest = _DOCS.read_text().split(_MARKS[0])
    after = rest.split(_MARKS[1])[1]
    _DOCS.write_text(f"{before}{_MARKS[0]}\n{table(ordered)}\n{_MARKS[1]}{after}")


if __name__ == "__main__":
    main()
