"""Reconstructions of a run's model: their errors, and pictures of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from aef_tfp import metrics
from aef_tfp.metrics import Record
from aef_tfp.metrics.images import records_of_pairs
from aef_tfp.pictures import image_grid, save_png
from aef_tfp.records import digest_of_parts
from aef_tfp.terminal import progress_bar

__all__ = [
    "draw_reconstructions",
    "is_denoiser",
    "reconstructed",
    "reconstruction_records",
]


# Their noise has a seed of its own: another number would be another noise.
_BATCH = 256


def is_denoiser(model: Any) -> bool:
    """Whether errors of reconstructions are what a model is trained for."""
    return model.reconstructs_only or (model.encodes and model.noise_std > 0)


def reconstruction_records(
    model: Any,
    images: np.ndarray,
    *,
    seed: int,
    features: Any = None,
    kind: Any = None,
    verbose: int = 0,
    **facts: Any,
) -> list[Record]:
    """Evaluates reconstructions, of noisy images where a model is trained on them.

    Args:
        model: The model.
        images: `[n, *event_shape]` as the model takes them.
        seed: Seed of the noise.
        features: Feature model for the feature error, or None.
        kind: `"inception"` or `"classifier"`, with `features`.
        verbose: 1 shows progress bars, 2 a line a minute.
        **facts: Other fields of the records; `split` at least.
    """
    levels = model.events.num_levels
    bar = None if features is None else progress_bar("features", len(images), verbose)

    def as_in_a_file(start):
        return metrics.as_levels(images[start : start + _BATCH], levels)

    # All of them would take many times the memory of the images, which may be in a file
    # since there is not enough of it. They are read once more for their digest.
    starts = range(0, len(images), _BATCH)
    dtype = as_in_a_file(0).dtype
    digest = digest_of_parts(dtype, images.shape, map(as_in_a_file, starts))
    return records_of_pairs(
        (
            (as_in_a_file(start), metrics.as_levels(made, levels))
            for start, made in zip(
                starts, _in_batches(model, images, seed), strict=True
            )
        ),
        images=digest,
        noise_std=model.noise_std,
        feature_model=features,
        kind=kind,
        progress=bar,
        seed=seed,
        **facts,
    )


def reconstructed(model: Any, images: np.ndarray, seed: int) -> np.ndarray:
    """Reconstructions, of noisy images where a model is trained on them."""
    return np.concatenate(list(_in_batches(model, images, seed)))


def _in_batches(model: Any, images: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    for start in range(0, len(images), _BATCH):
        noisy = model.corrupt(images[start : start + _BATCH], seed=seed + start)
        yield np.asarray(model.reconstruct(noisy))


def draw_reconstructions(
    model: Any, images: np.ndarray, run_dir: Path, seed: int, end: str = ""
) -> None:
    """Draws reconstructions.png: rows of 8 originals, their reconstructions below.

    For a model trained on noisy images it draws denoised.png instead: noisy images,
    what the model makes of them, and the originals. The name may have another end, for
    pictures that are not those of the training.
    """
    name = "denoised" if model.noise_std else "reconstructions"
    rows: list[Any] = []
    for start in range(0, min(16, len(images)), 8):
        batch = images[start : start + 8]
        originals = model.dequantize(batch, seed=None)
        if model.noise_std:
            noisy = model.corrupt(batch, seed=seed + start)
            rows += [noisy, model.reconstruct(noisy), originals]
        else:
            rows += [originals, model.reconstruct(batch)]
    columns = min(8, len(images))
    rows = [_filled(row, columns) for row in rows]
    save_png(run_dir / f"{name}{end}.png", image_grid(np.concatenate(rows), columns))


def _filled(row: Any, num_columns: int) -> np.ndarray:
    """A row as long as the others, or what is below would not stay below."""
    missing = num_columns - len(row)
    sides = [(0, missing), *[(0, 0)] * 3]
    # The grey of the grid's lines.
    return np.pad(row, sides, constant_values=0.5)
