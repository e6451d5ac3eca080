"""Likelihoods of a set of images: objectives, importance sampling, and its scale."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from aef_tfp.engine.arguments import checked_count, checked_seed
from aef_tfp.engine.noise import starting_at, stateless_seed
from aef_tfp.inference import annealed_log_prob
from aef_tfp.metrics.checks import check_finite
from aef_tfp.metrics.records import records_of_means
from aef_tfp.records import Record, digest_of

__all__ = [
    "annealed_records",
    "checked_events",
    "marginal_records",
    "objective_records",
    "tune_proposal_scale",
]

Progress = Callable[[int], Any]

# Effective sample size below which an estimate hangs on single weights.
_FEW_WEIGHTS = 2.0

# Which noise it is, the seed and an image's place in the set say.
_DEQUANTIZED = "one uniform dequantization of each image"

# Scales at which the bound is looked at first, and how often between the best two.
_TUNING_GRID = np.geomspace(1e-3, 10.0, 9)
_TUNING_STEPS = 8


def checked_events(images: Any) -> np.ndarray:
    """Returns images to evaluate; the model checks their shape and range.

    Raises:
        ValueError: If there are fewer than 2, or some hold NaN or infinite values.
    """
    images = np.asarray(images)
    if images.ndim < 2 or len(images) < 2:
        count = len(images) if images.ndim > 1 else 1
        raise ValueError(
            f"a likelihood is a mean over at least 2 images, got {count}; one has no "
            "standard error."
        )
    if images.dtype.kind == "f":
        check_finite("images", images, "images")
    return images


def objective_records(
    model: Any,
    images: Any,
    *,
    split: str,
    seed: int = 0,
    batch_size: int = 128,
    progress: Progress | None = None,
    **facts: Any,
) -> list[Record]:
    """Evaluates what a model is trained on: `model.likelihood`.

    For a `PartitionedAEF` or a `PixelMAF` that is log p(x). For others it is no
    likelihood: the joint density of an expanded AEF, or the bound of a VAE.

    Args:
        model: The model.
        images: `[n, *event_shape]` as the model takes them, n at least 2.
        split: Which images they are.
        seed: Seed of the dequantization.
        batch_size: Images per call.
        progress: Called with the number of images done.
        **facts: Other fields of the records, e.g. `iteration`.

    Returns:
        Records of nats and bits per dimension, by the objective's true name, as
        `log_prob` and `bits_per_dim`, or `elbo` and `elbo_bits_per_dim`.

    Raises:
        ValueError: If the images do not fit.
    """
    objective = model.likelihood
    values = _in_batches(objective.function, images, batch_size, seed, progress)
    return _log_prob_records(
        model,
        images,
        objective.prefix,
        np.concatenate(values),
        estimator=f"{objective.description}, {_DEQUANTIZED}",
        split=split,
        seed=seed,
        **facts,
    )


def marginal_records(
    model: Any,
    images: Any,
    *,
    split: str,
    num_samples: int = 128,
    num_repeats: int = 1,
    proposal: str = "encoder",
    proposal_scale: float | None = None,
    paper_estimator: bool = False,
    seed: int = 0,
    batch_size: int = 128,
    progress: Progress | None = None,
    **facts: Any,
) -> list[Record]:
    """Estimates log p(x) by importance sampling (eq. 17 and 18).

    Args:
        model: An `ExpandedAEF`, `VAE` or `IWAE`.
        images: As in `objective_records`.
        split: Which images they are.
        num_samples: K.
        num_repeats: R, pooled inside the logarithm.
        proposal: `"encoder"` or `"laplace"`.
        proposal_scale: None takes the model's own.
        paper_estimator: Add what the paper's code computes for its linear model,
            without `- log K`; see `ImportanceEstimate.paper_log_prob_without_log_k`.
        seed: Seed of the dequantization and the proposal.
        batch_size: Images per call.
        progress: Called with the number of images done.
        **facts: Other fields of the records.

    Returns:
        Records `marginal_log_prob`, `marginal_bits_per_dim` and
        `marginal_effective_sample_size`.

    Raises:
        ValueError: If the images do not fit, or a number is out of its range.
    """
    estimate = functools.partial(
        model.importance_estimate,
        num_samples=num_samples,
        num_repeats=num_repeats,
        proposal=proposal,
        proposal_scale=proposal_scale,
    )
    estimates = _in_batches(estimate, images, batch_size, seed, progress)
    log_prob = np.concatenate([part.log_prob for part in estimates])
    scale = model.proposal_scale(proposal) if proposal_scale is None else proposal_scale
    tuned = "tuned" if proposal in model.proposal_scales else "default"
    how = tuned if proposal_scale is None else "given"
    facts = {
        "split": split,
        "seed": seed,
        "num_samples": num_samples,
        "num_repeats": num_repeats,
        "proposal": proposal,
        **facts,
    }
    estimator = f"importance sampling with - log K, {proposal} proposal, {_DEQUANTIZED}"
    sizes = np.concatenate([part.effective_sample_size for part in estimates])
    facts["detail"] = f"scale of the proposal {scale:.3g} ({how})" + _looseness(
        sizes, num_samples * num_repeats, proposal
    )
    records = _log_prob_records(
        model, images, "marginal_", log_prob, estimator=estimator, **facts
    )
    records += records_of_means(
        {"marginal_effective_sample_size": sizes},
        estimator=estimator,
        **_facts_of(model, images),
        **facts,
    )
    if paper_estimator:
        values = np.concatenate(
            [part.paper_log_prob_without_log_k for part in estimates]
        )
        records += _log_prob_records(
            model,
            images,
            "paper_without_log_k_",
            values,
            estimator=(
                "as in the paper's code for its linear model: without - log K (too "
                f"high by {np.log(num_samples):.2f} nats), repeats averaged outside "
                f"the logarithm, {proposal} proposal"
            ),
            **facts,
        )
    return records


def annealed_records(
    model: Any,
    images: Any,
    *,
    split: str,
    num_chains: int = 16,
    num_steps: int = 1000,
    num_leapfrog_steps: int = 5,
    seed: int = 0,
    batch_size: int = 128,
    progress: Progress | None = None,
    **facts: Any,
) -> list[Record]:
    """Estimates log p(x) by annealed importance sampling, the referee of the others.

    Args:
        model: An `ExpandedAEF`, `VAE` or `IWAE`.
        images: As in `objective_records`; hundreds rather than thousands.
        split: Which images they are.
        num_chains: As in `inference.annealed_log_prob`, like the next two.
        num_steps: Densities from the prior to the posterior.
        num_leapfrog_steps: Of each Hamiltonian step.
        seed: Seed of the dequantization and the chains.
        batch_size: Images per call.
        progress: Called with the number of images done.
        **facts: Other fields of the records.

    Returns:
        Records `annealed_log_prob`, `annealed_bits_per_dim` and
        `annealed_effective_sample_size`, whose `num_samples` are the chains.

    Raises:
        TypeError: If the model has no latents to integrate over.
        ValueError: If the images do not fit, or a number is out of its range.
    """
    estimate = functools.partial(
        annealed_log_prob,
        model,
        num_chains=num_chains,
        num_steps=num_steps,
        num_leapfrog_steps=num_leapfrog_steps,
    )
    estimates = _in_batches(estimate, images, batch_size, seed, progress)
    log_prob = np.concatenate([part.log_prob for part in estimates])
    sizes = np.concatenate([part.effective_sample_size for part in estimates])
    acceptance = np.concatenate([part.acceptance for part in estimates]).mean()
    facts = {
        "estimator": (
            f"annealed importance sampling, {num_steps} steps of {num_leapfrog_steps} "
            f"leapfrogs from the prior, a lower bound of log p(x), {_DEQUANTIZED}"
        ),
        "split": split,
        "seed": seed,
        "num_samples": num_chains,
        "detail": f"acceptance {acceptance:.2f}",
        **facts,
    }
    records = _log_prob_records(model, images, "annealed_", log_prob, **facts)
    return records + records_of_means(
        {"annealed_effective_sample_size": sizes}, **_facts_of(model, images), **facts
    )


def _looseness(sizes: np.ndarray, num_weights: int, proposal: str) -> str:
    """A warning for the same line, if one weight of many is all that counts."""
    typical = float(np.median(sizes))
    if num_weights == 1 or typical >= _FEW_WEIGHTS:
        return ""
    remedy = "take more samples"
    if proposal == "encoder":
        remedy = "--proposal laplace is tighter"
    return (
        "; LOOSE: for half of the images an effective sample size of at most "
        f"{typical:.1f} of {num_weights}, so the bound may be far below log p(x); "
        f"{remedy}"
    )


def tune_proposal_scale(
    model: Any,
    images: Any,
    *,
    proposal: str = "encoder",
    num_samples: int = 128,
    seed: int = 0,
    progress: Progress | None = None,
) -> float:
    """Finds the scale of a proposal that gives the tightest bound, and sets it.

    The K-sample bound is maximized over scales from 0.001 to 10: first at nine of them,
    then by Brent's bounded search between the neighbours of the best. All evaluations
    share their noise. Use validation images: on those that are reported, the bound
    would be too tight by what the search gains from chance.

    Args:
        model: An `ExpandedAEF`, `VAE` or `IWAE`; its `proposal_scales` is changed, and
            saved with it.
        images: `[n, *event_shape]` as the model takes them, n at least 2; 64 suffice.
        proposal: `"encoder"` or `"laplace"`.
        num_samples: K, best that of the estimate to come.
        seed: Seed of the noise.
        progress: Called with the number of evaluations done, out of at most 17, and in
            any case with 17 at the end.

    Returns:
        The scale.

    Raises:
        ValueError: If the images do not fit or no scale gives a finite bound.
    """
    images = checked_events(images)
    seen: dict[float, float] = {}
    most = len(_TUNING_GRID) + _TUNING_STEPS

    def loss(log_scale: float) -> float:
        scale = float(np.exp(log_scale))
        log_prob = model.marginal_log_prob(
            images, num_samples, proposal=proposal, proposal_scale=scale, seed=seed
        )
        mean = float(np.mean(log_prob))
        seen[scale] = -mean if np.isfinite(mean) else np.inf
        if progress is not None:
            progress(len(seen))
        return seen[scale]

    grid = np.log(_TUNING_GRID)
    losses = [loss(point) for point in grid]
    best = int(np.argmin(losses))
    if not np.isfinite(losses[best]):
        if progress is not None:
            progress(most)
        raise ValueError(
            f"the {proposal} proposal gives no finite bound at any scale from "
            f"{_TUNING_GRID[0]:g} to {_TUNING_GRID[-1]:g}; check the model's weights."
        )
    # A tenth of a second, which a training need not wait for.
    import scipy.optimize

    scipy.optimize.minimize_scalar(
        loss,
        method="bounded",
        bounds=(grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]),
        options={"maxiter": _TUNING_STEPS, "xatol": 0.02},
    )
    # It may be sure before the last step, and a bar is to be whole.
    if progress is not None and len(seen) < most:
        progress(most)
    scale = min(seen, key=seen.__getitem__)
    model.set_proposal_scale(proposal, scale)
    return scale


def _facts_of(model: Any, images: Any) -> dict[str, Any]:
    images = np.asarray(images)
    return {"num_levels": model.events.num_levels, "images": digest_of(images)}


def _log_prob_records(model, images, prefix, log_prob, **facts) -> list[Record]:
    return records_of_means(
        {
            f"{prefix}log_prob": log_prob,
            f"{prefix}bits_per_dim": model.bits_per_dim(log_prob),
        },
        **_facts_of(model, images),
        **facts,
    )


def _in_batches(function, images, batch_size, seed, progress) -> list[Any]:
    """What a function of events and a seed says of each batch."""
    images = checked_events(images)
    # Not None: a record says which seed it was.
    whole = stateless_seed(checked_seed(seed, least=-(2**63)))
    batch_size = checked_count("batch_size", batch_size)
    parts = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        # How many are evaluated at once changes no noise: models of other batch sizes
        # are compared image by image.
        parts.append(function(batch, seed=starting_at(whole, start)))
        if progress is not None:
            progress(min(start + batch_size, len(images)))
    return parts
