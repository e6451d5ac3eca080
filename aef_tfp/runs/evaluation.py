"""Evaluates a run: loads its best checkpoint, appends to its metrics.json."""

import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from aef_tfp import metrics
from aef_tfp.data import Split, Splits, load_splits
from aef_tfp.data.fingerprint import check_fingerprint
from aef_tfp.data.splits import MIN_TEST_IMAGES
from aef_tfp.files import CannotWrite
from aef_tfp.metrics import Record
from aef_tfp.metrics.inspection import LEAST_SIDE
from aef_tfp.runs.best import keep_scales, read_best, use_kept_scales
from aef_tfp.runs.config import EvaluationConfig, RunConfig, RunSettings
from aef_tfp.runs.others import load_anomalies, load_labelled
from aef_tfp.runs.reconstructions import (
    draw_reconstructions,
    is_denoiser,
    reconstructed,
    reconstruction_records,
)
from aef_tfp.saved import DamagedFile, place_of_images
from aef_tfp.terminal import progress_bar

__all__ = [
    "evaluate_run",
    "kept_or_told",
    "likelihood_records",
    "load_run_splits",
    "tune",
]

# Images between which latents are exchanged, to see whether they do anything.
_INSPECTED_IMAGES = 64

# Validation images on which a proposal's scale is tuned.
_TUNING_IMAGES = 64


def evaluate_run(
    run_dir: str | Path,
    config: EvaluationConfig = EvaluationConfig(),  # noqa: B008 - it is frozen
    *,
    data_dir: Path | None = None,
    download: bool = False,
    verbose: int = 1,
    notes: list[str] | None = None,
) -> list[Record]:
    """Evaluates the best checkpoint of a run and appends to its metrics.json.

    Each kind of number is appended when it is there, whatever becomes of the next. The
    run may be in training at the same time, or in other evaluations: nothing that
    they write is written here. A model with importance sampling whose encoder proposal
    was never tuned is tuned on validation images first, and the scale is kept in
    proposal-scales.json for the next evaluation of the same weights.

    Args:
        run_dir: Directory of the run.
        config: What to evaluate.
        data_dir: TFDS data directory, or images of one's own; None is where they were
            in the training, or TFDS's own.
        download: Whether TFDS may download the data set.
        verbose: 1 shows progress bars, 2 a line a minute, 0 nothing.
        notes: Gains a line for what could not be written, e.g. in a directory that can
            only be read; None makes a warning of it.

    Returns:
        The new records.

    Raises:
        ValueError: If a number is out of its range or does not fit the model, a file
            of the run is damaged, or the images are others than those that the run
            began with.
        FileNotFoundError: If there is no run, no checkpoint, or no data.
        OSError: If the Inception network is not to be had.
    """
    config.check()
    run_dir = Path(run_dir)
    run = RunConfig.from_run(run_dir)
    # A damaged file is better known before the long part.
    metrics.read_records(run_dir)
    best = read_best(run_dir)
    model = best.model
    place = place_of_images(run_dir, data_dir)
    where: dict[str, Any] = {"data_dir": place, "download": download}
    # Other images could be those that the model was trained on.
    splits = load_run_splits(run, run_dir=run_dir, **where)
    _check_images(run_dir, model, splits)
    split: Split = getattr(splits, config.split)
    images = split.images[: config.num_images]
    if len(images) < MIN_TEST_IMAGES:
        raise ValueError(
            f"the {config.split} split has 1 image, but a mean and its standard error "
            f"take at least {MIN_TEST_IMAGES}; choose another --split, or add images "
            "and train anew."
        )
    facts: dict[str, Any] = {
        "dataset": run.dataset,
        "split": config.split,
        "seed": config.seed,
        "iteration": best.iteration,
    }
    # First, for a missing file is better reported before the long part.
    anomalies = None
    if config.anomalies is not None:
        others = load_anomalies(
            config.anomalies, run, splits, num_images=config.num_images, **where
        )
        anomalies = others.images
        if verbose:
            print("".join(f"anomalies: {note}\n" for note in others.notes), end="")
    features = _feature_model(config, run, splits, where, verbose)
    unkept: list[str] = []
    if model.estimates and config.proposal == "encoder":
        use_kept_scales(best, run_dir, config.num_samples)
        if tune(model, splits, config.num_samples, verbose):
            kept_or_told(unkept, keep_scales, best, run_dir, config.num_samples)
    records: list[Record] = []

    def keep(found: list[Record]) -> None:
        # At once: what comes next takes long, and may fail.
        kept_or_told(unkept, metrics.append_records, run_dir, found)
        records.extend(found)

    for found in _likelihoods(model, images, config, run, verbose, facts):
        keep(found)
    if features is not None and model.samples:
        keep(_distances(model, features, config, splits, verbose, facts))
    if config.inspect:
        keep(_inspection(model, config, split.images, verbose, facts))
    compares = config.inspect or anomalies is not None
    if is_denoiser(model) or (compares and model.encodes):
        kind = None if features is None else config.frechet
        options = {"features": features, "kind": kind, "verbose": verbose, **facts}
        keep(reconstruction_records(model, images, **options))
    if anomalies is not None:
        # An image of another kind may well have no density at all. Noise of another
        # seed: areas would have another error if both kinds shared it.
        other_facts = {**facts, "takes_infinite": True, "seed": config.seed ^ 1}
        stages = _likelihoods(model, anomalies, config, run, verbose, other_facts)
        of_others = [record for found in stages for record in found]
        if model.encodes:
            of_others += reconstruction_records(
                model, anomalies, verbose=verbose, **other_facts
            )
        keep(metrics.anomaly_records(records, of_others, against=others.what))
    if is_denoiser(model):
        end = f"-{config.split}"
        seed = config.seed
        kept_or_told(
            unkept, draw_reconstructions, model, images, run_dir, seed=seed, end=end
        )
    for reason in dict.fromkeys(unkept):
        note = f"These numbers are not kept: {reason}"
        if notes is None:
            warnings.warn(note, stacklevel=2)
        else:
            notes.append(note)
    return records


def _likelihoods(model, images, config, run, verbose, facts) -> Iterator[list[Record]]:
    """What the model says of images, in stages; nothing, if it has no likelihood."""
    if model.likelihood is None:
        return
    yield likelihood_records(
        model,
        images,
        marginal_images=images,
        num_samples=config.num_samples,
        num_repeats=config.num_repeats,
        proposal=config.proposal,
        paper_estimator=config.paper_estimator,
        batch_size=run.batch_size,
        verbose=verbose,
        **facts,
    )
    if config.annealed_steps and not model.likelihood.is_exact:
        yield metrics.annealed_records(
            model,
            images,
            num_steps=config.annealed_steps,
            progress=progress_bar("annealed importance sampling", len(images), verbose),
            batch_size=run.batch_size,
            **facts,
        )


def _check_images(run_dir: Path, model: Any, splits: Splits) -> None:
    """Checks that the model is not one of another run, which was copied here."""
    own = (*model.event_shape, model.events.num_levels)
    given = (*splits.info.image_shape, splits.info.num_levels)
    if own != given:
        form = "images of {} x {} x {} with {} levels"
        raise DamagedFile(
            run_dir / "best.keras",
            f"is a model of {form.format(*own)}, and the run has {form.format(*given)}",
        )


def kept_or_told(
    unkept: list[str], write: Callable[..., Any], *args: Any, **options: Any
) -> None:
    """Writes what an evaluation keeps: its numbers are worth more than their file."""
    try:
        write(*args, **options)
    except (CannotWrite, BlockingIOError, DamagedFile) as error:
        unkept.append(str(error))


def load_run_splits(
    config: RunSettings,
    *,
    run_dir: Path | None = None,
    data_dir: Path | None = None,
    download: bool = False,
) -> Splits:
    """Loads the images of a run: the same splits whenever it is read again.

    Args:
        config: The run.
        run_dir: Its directory, if the images are to be those of its data.json.
        data_dir: Where the images are; see `data.load_splits`.
        download: Whether TFDS may download the data set.

    Raises:
        FileNotFoundError: If there is no such data.
        ValueError: If the data do not fit the configuration, or are others than those
            that the run began with.
    """
    bit_depth = config.bit_depth
    if run_dir is not None and config.dataset == "folder" and bit_depth is None:
        # A run that has begun was not asked, or its files use all bits.
        bit_depth = 16
    splits = load_splits(
        config.dataset,
        data_dir=data_dir,
        download=download,
        image_size=config.image_size,
        channels=config.channels,
        num_levels=config.num_levels,
        bit_depth=bit_depth,
        seed=config.seed,
        skip_unreadable=config.skip_unreadable,
    )
    if run_dir is not None:
        check_fingerprint(run_dir / "data.json", splits)
    return splits


def likelihood_records(
    model: Any,
    images: np.ndarray,
    *,
    marginal_images: np.ndarray,
    num_samples: int,
    num_repeats: int = 1,
    proposal: str = "encoder",
    paper_estimator: bool = False,
    batch_size: int = 128,
    verbose: int = 0,
    **facts: Any,
) -> list[Record]:
    """Evaluates a model's likelihood: exact, or objective and estimate.

    Args:
        model: The model.
        images: Images for what is exact or cheap, `[n, *event_shape]`.
        marginal_images: Images for importance sampling.
        num_samples: K.
        num_repeats: R.
        proposal: `"encoder"` or `"laplace"`; `"none"` leaves the estimate out.
        paper_estimator: As in `metrics.marginal_records`.
        batch_size: Images per call.
        verbose: 1 shows progress bars, 2 a line a minute.
        **facts: Other fields of the records; `split` at least.
    """
    facts["batch_size"] = batch_size

    def progress(title, count):
        return progress_bar(title, len(count), verbose)

    is_exact = model.likelihood.is_exact
    bar = progress("log-likelihood" if is_exact else "objective", images)
    records = metrics.objective_records(model, images, progress=bar, **facts)
    if is_exact:
        return records
    if proposal != "none":
        bar = progress(f"importance sampling ({proposal})", marginal_images)
        records += metrics.marginal_records(
            model,
            marginal_images,
            num_samples=num_samples,
            num_repeats=num_repeats,
            proposal=proposal,
            paper_estimator=paper_estimator,
            progress=bar,
            **facts,
        )
    return records


def tune(model: Any, splits: Splits, num_samples: int, verbose: int) -> bool:
    """Tunes the encoder proposal on validation images; False if it needs none."""
    if not model.estimates or "encoder" in model.proposal_scales:
        return False
    bar = progress_bar("tuning the proposal's scale", 17, verbose)
    images = splits.validation.images[:_TUNING_IMAGES]
    if len(images) == 1:
        # Of the smallest sets. It is tuned on, not reported: twice will do.
        images = np.repeat(images, 2, axis=0)
    metrics.tune_proposal_scale(model, images, num_samples=num_samples, progress=bar)
    return True


def _feature_model(config, run: RunConfig, splits: Splits, where, verbose: int) -> Any:
    if config.frechet == "none":
        return None
    if config.frechet == "inception":
        return metrics.inception_features(config.inception_weights)
    name, labelled = run.dataset, splits
    if config.classifier_dataset is not None:
        name = config.classifier_dataset
        labelled = load_labelled(name, splits, **where)
    if labelled.train.labels is None or labelled.test.labels is None:
        raise ValueError(
            f"the data set {name!r} has no labels for a classifier; use --frechet "
            "inception, or name one of the same form that has, --classifier-dataset."
        )
    return metrics.get_classifier(
        name,
        labelled.train.images,
        labelled.train.labels,
        labelled.test.images,
        labelled.test.labels,
        num_levels=splits.info.num_levels,
        verbose=verbose,
    )


def _distances(model, features, config, splits, verbose, facts) -> list[Record]:
    levels = model.events.num_levels
    facts = {**facts, "num_levels": levels}
    split: Split = getattr(splits, config.split)
    real = metrics.as_levels(split.images[: config.num_frechet_images], levels)
    count = config.num_frechet_images
    samples = _samples(model, count, config.temperature, config.seed, verbose)
    bar = progress_bar("features of samples", len(real) + count, verbose)
    records = metrics.distance_records(
        features,
        config.frechet,
        real,
        metrics.as_levels(samples, levels),
        what=f"samples at temperature {config.temperature:g}",
        temperature=config.temperature,
        progress=bar,
        **facts,
    )
    if config.split == "train":
        return records
    if len(splits.train) < 2:
        print(
            "note: one training image has no distance to others; left out",
            file=sys.stderr,
        )
        return records
    # What perfect samples would get with these numbers of images.
    others = metrics.as_levels(splits.train.images[:count], levels)
    return records + metrics.distance_records(
        features,
        config.frechet,
        real,
        others,
        what="training images",
        prefix="train_",
        **facts,
    )


def _inspection(model, config, images, verbose, facts) -> list[Record]:
    """Spectra of samples and reconstructions beside those of images; latents in use."""
    facts = {**facts, "num_levels": model.events.num_levels}
    images = images[: config.num_frechet_images]
    records: list[Record] = []
    if min(images.shape[1:3]) < LEAST_SIDE:
        print(
            f"note: spectra are those of {LEAST_SIDE} x {LEAST_SIDE} "
            "pixels or more; left out",
            file=sys.stderr,
        )
    else:
        records += _spectra(model, config, images, verbose, facts)
    if model.has_terms:
        records += metrics.latent_records(model, images[:_INSPECTED_IMAGES], **facts)
    return records


def _spectra(model, config, images, verbose, facts) -> list[Record]:
    levels, count = model.events.num_levels, config.num_frechet_images
    real = metrics.as_levels(images, levels)
    records: list[Record] = []
    if model.samples:
        temperature = config.temperature
        samples = _samples(model, count, temperature, config.seed, verbose)
        records += metrics.sharpness_records(
            real,
            metrics.as_levels(samples, levels),
            what=f"samples at temperature {temperature:g}",
            temperature=temperature,
            **facts,
        )
    if model.encodes:
        noise = ""
        if model.noise_std:
            # What is made of other noise is another number.
            noise = f" of noisy images (noise of deviation {model.noise_std:g})"
        records += metrics.sharpness_records(
            real,
            metrics.as_levels(reconstructed(model, images, config.seed), levels),
            what=f"reconstructions{noise}",
            prefix="reconstruction_",
            are_pairs=True,
            **facts,
        )
    return records


def _samples(model, count: int, temperature: float, seed: int, verbose: int):
    """Samples in batches: a MAF over pixels keeps much for each of them."""
    size = 256
    bar = progress_bar("samples", count, verbose)
    parts: list[Any] = []
    for start in range(0, count, size):
        number = min(size, count - start)
        parts.append(model.sample(number, temperature, seed=seed + start))
        if bar is not None:
            bar(start + number)
    return np.concatenate(parts)
