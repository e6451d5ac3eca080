"""The paper's tables and figures as data: what was trained, and what came out.

Silvestri, Roos and Ambrogioni (ICLR 2023): all tables and Figures 5, 6, 10, with the
settings of Appendices B, D and F. A row is a preset, but for what its table varies.
"""

import dataclasses
import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aef_tfp.runs.config import RunConfig
from aef_tfp.runs.kinds import KINDS, ModelName
from aef_tfp.runs.paper.published import (
    TABLE_1,
    TABLE_2,
    TABLE_3,
    TABLE_4,
    TABLE_5,
    TABLE_6,
    TABLE_7,
    Published,
    Sizes,
    Table,
)
from aef_tfp.runs.presets import get_preset

__all__ = [
    "ESTIMATE",
    "EXHIBITS",
    "METRICS",
    "NUM_TEST_IMAGES",
    "PAPER_ESTIMATE",
    "STAND_INS",
    "Exhibit",
    "Experiment",
    "Metric",
    "run_name",
]


@dataclasses.dataclass(frozen=True)
class Metric:
    """How a metric is written.

    Args:
        label: Its name in the paper.
        published: Format of the paper's value, as printed there.
        measured: Format of ours, with more digits.
        suffix: "M" if the paper counts in millions.
    """

    label: str
    published: str
    measured: str
    suffix: str = ""

    def published_text(self, value: Published) -> str:
        """Returns the paper's value as the paper prints it; several for several."""
        if value is None:
            return "plot only"
        values = value if isinstance(value, tuple) else (value,)
        unit = 1e6 if self.suffix else 1.0
        # "#" keeps the zero of 67.0, and with it the point of 106.
        texts = (f"{single / unit:{self.published}}".rstrip(".") for single in values)
        return ", ".join(text + self.suffix for text in texts)

    def measured_text(self, values: Sequence[float], error: float | None) -> str:
        """Returns the mean and standard deviation, of a single value its error."""
        if not values:
            return "not measured"
        text = f"{statistics.fmean(values):{self.measured}}"
        if len(values) > 1:
            deviation = f"{statistics.stdev(values):{self.measured}}"
            return f"{text} +- {deviation} (sd, {len(values)} runs)"
        if error is None or math.isnan(error):
            return text
        return f"{text} +- {error:{self.measured}}"


ESTIMATE = "marginal_bits_per_dim"
"""Record of the bits per dimension by importance sampling."""

PAPER_ESTIMATE = "paper_without_log_k_bits_per_dim"
"""Record of the same by what the paper's code does for its linear AEF."""

METRICS = {
    "bits_per_dim": Metric("BPD", ".2f", ".4f"),
    ESTIMATE: Metric("BPD", ".2f", ".4f"),
    PAPER_ESTIMATE: Metric("BPD without - log K", ".2f", ".4f"),
    "frechet_inception_distance": Metric("FID", "#.3g", ".2f"),
    "inception_feature_error": Metric("IFE", ".3f", ".4f"),
    "num_parameters": Metric("parameters", "#.3g", ",.0f", "M"),
    "frechet_classifier_distance": Metric("classifier distance", "", ".2f"),
    "classifier_feature_error": Metric("classifier error", "", ".4f"),
}
"""How the metrics of the tables are written, by the names of their records."""

STAND_INS = {
    "frechet_inception_distance": "frechet_classifier_distance",
    "inception_feature_error": "classifier_feature_error",
}
"""Other quantities, for want of Inception's weights; never under the paper's name."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One model on one data set, trained once per seed.

    Args:
        config: The run with the paper's full budget and the first seed.
        seeds: One per run of the paper, which does not publish its own.
        values: The paper's value of each metric: several if it prints each run, None
            if it shows a plot only.
        variant: What else tells the row from others: the noise, the flows.
    """

    config: RunConfig
    seeds: tuple[int, ...]
    values: Mapping[str, Published]
    variant: str = ""

    @property
    def has_paper_estimate(self) -> bool:
        """Whether the paper's BPD lacks - log K."""
        return self.config.model == "aef-linear" and ESTIMATE in self.values

    def published(self, name: str) -> str:
        """Returns the paper's value of a metric as printed there."""
        # The paper's one number stands beside both of ours.
        known = ESTIMATE if name == PAPER_ESTIMATE else name
        if known not in self.values:
            return "none"
        return METRICS[known].published_text(self.values[known])


@dataclasses.dataclass(frozen=True)
class Exhibit:
    """One table or figure of the paper.

    Args:
        name: Its name in the paper.
        title: What it compares.
        metric: What its numbers are.
        experiments: Its rows.
        notes: What a reader should know when comparing with it.
        needs_training: False if a model need only be built.
    """

    name: str
    title: str
    metric: str
    experiments: tuple[Experiment, ...]
    notes: tuple[str, ...] = ()
    needs_training: bool = True

    def select(self, **asked: Any) -> list[Experiment]:
        """Returns the experiments whose configuration has what is asked, if not None.

        Raises:
            ValueError: If there are none.
        """
        rows = list(self.experiments)
        for field, value in asked.items():
            found = dict.fromkeys(getattr(row.config, field) for row in rows)
            if value is not None and value not in found:
                raise ValueError(
                    f"{self.name} has no such row with {field} {value}, only with "
                    f"{', '.join(map(str, found))}."
                )
            rows = [row for row in rows if value in (None, getattr(row.config, field))]
        return rows


def run_name(config: RunConfig) -> str:
    """Names the run directory: all that differs between the paper's runs.

    The iterations are left out, so that a longer run goes on from a shorter one.
    """
    parts = [config.dataset, config.model, str(config.latent_dim)]
    if config.noise_std:
        parts.append(f"noise_{config.noise_std:g}")
    if (config.core_flow, config.prior_flow) != ("maf", "maf"):
        parts.append(f"core_{config.core_flow}-prior_{config.prior_flow}")
    return "-".join([*parts, f"seed{config.seed}"])


_MNIST_LIKE = ("mnist", "fashion_mnist", "kmnist")
_MNIST_LATENTS = (2, 4, 8, 16, 32)

NUM_TEST_IMAGES = dict.fromkeys(_MNIST_LIKE, 10_000)
"""Of data sets whose test set is fixed."""

# The step size is Appendix D.5's; the scale of the deviations, 1, the paper's code's.
_DENOISING: dict[str, Any] = {"learning_rate": 1e-4, "decoder_scale": "fixed"}


def _experiment(
    dataset: str,
    model: ModelName,
    latent_dim: int,
    values: Mapping[str, Published],
    variant: str = "",
    **settings: Any,
) -> Experiment:
    # The presets hold the settings of Appendix D.5. It clips the gradients of MNIST's
    # generative models not at all; the paper's code clips all, as the presets do.
    preset = get_preset(f"{dataset}-{model}-{latent_dim}")
    if "noise_std" in settings:
        variant = f"noise {settings['noise_std']:g}"
        settings |= _DENOISING
        if not KINDS[model].has_latent_flows:
            # It has no deviations.
            del settings["decoder_scale"]
    config = RunConfig.of(preset, **settings)
    # The captions: five runs on MNIST-like data, else two.
    num_runs = 5 if dataset in _MNIST_LIKE else 2
    seeds = tuple(range(config.seed, config.seed + num_runs))
    return Experiment(config, seeds, values, variant)


_FIGURE_10: Table = dict.fromkeys(
    itertools.product(_MNIST_LIKE, (2, 32), (0.25, 0.5, 0.75, 1.0)), (None, None, None)
)

# Core flow, prior flow: a VAE has its posterior flow where an AEF has its core flow.
_ABLATIONS = {
    "no flows": ("none", "none"),
    "only posterior": ("maf", "none"),
    "only prior": ("none", "maf"),
    "both flows": ("maf", "maf"),
}

# What the paper calls AEF without a word in brackets is the linear one, but in Table 3.
_PAIR: tuple[ModelName, ...] = ("vae", "aef-linear")
_DENOISERS: tuple[ModelName, ...] = ("autoencoder", *_PAIR)
_FAMILY: tuple[ModelName, ...] = (*_PAIR, "aef-center", "aef-corner")


def _likelihood(model: ModelName) -> str:
    return "bits_per_dim" if KINDS[model].likelihood == "exact" else ESTIMATE


def _values(model: ModelName, bits: Published, fid: Published) -> dict[str, Published]:
    return {_likelihood(model): bits, "frechet_inception_distance": fid}


def _generative(table: Table) -> Iterator[Experiment]:
    for (dataset, latent_dim), row in table.items():
        for model, bits, fid in zip(_PAIR, row[::2], row[1::2], strict=True):
            values = _values(model, bits, fid)
            yield _experiment(dataset, model, latent_dim, values)


def _denoising(table: Table) -> Iterator[Experiment]:
    for (dataset, latent_dim, noise), row in table.items():
        for model, error in zip(_DENOISERS, row, strict=True):
            values = {"inception_feature_error": error}
            yield _experiment(dataset, model, latent_dim, values, noise_std=noise)


def _sizes(dataset: str, table: Sizes) -> Iterator[Experiment]:
    for model, counts in table.items():
        for latent_dim, count in counts.items():
            values = {"num_parameters": count}
            yield _experiment(dataset, model, latent_dim, values)


def _ablations() -> Iterator[Experiment]:
    # d is in the caption of Figure 11, not in the table.
    for i, model in enumerate(_PAIR):
        for variant, row in TABLE_7.items():
            values = _values(model, *row[2 * i : 2 * i + 2])
            core, prior = _ABLATIONS[variant]
            flows = {"core_flow": core, "prior_flow": prior}
            yield _experiment("celebahq32", model, 128, values, variant, **flows)


def _curves(metric: str | None) -> Iterator[Experiment]:
    grid = itertools.product(_MNIST_LIKE, _MNIST_LATENTS, _FAMILY)
    for dataset, latent_dim, model in grid:
        values = {metric or _likelihood(model): None}
        yield _experiment(dataset, model, latent_dim, values)


_BOTH = "BPD: bits per dimension, importance sampling; FID. Lower is better."
_IFE = (
    "IFE: mean squared error between Inception features of the clean image and of the "
    "reconstruction from its noisy version. Lower is better."
)
_NO_LOG_K = (
    "Ours subtracts log K in importance sampling. The paper's code leaves it out for "
    "its linear AEF, which lowers that BPD by log2(K) / N: 0.009 for MNIST at K = 128; "
    "--paper-estimator shows that number, too."
)

_COUNT = "Number of trainable weights; the paper calls its own approximate."
_THREE_DIGITS = "The paper gives three digits, some rounded and some cut off."

EXHIBITS: dict[str, Exhibit] = {
    "table-1": Exhibit(
        "Table 1",
        "VAE and AEF (linear) as generative models",
        _BOTH,
        tuple(_generative(TABLE_1)),
        (
            "The paper calls its figures means over five runs (MNIST) or two. Outside "
            "MNIST every FID and all BPD but one equal a single run of Table 6.",
            _NO_LOG_K,
        ),
    ),
    "table-2": Exhibit("Table 2", "Denoising", _IFE, tuple(_denoising(TABLE_2))),
    "table-3": Exhibit(
        "Table 3",
        "Size of the models for MNIST-like data",
        _COUNT,
        tuple(_sizes("mnist", TABLE_3)),
        (
            "AEF stands for the partitioned one, here with the center as the core.",
            _THREE_DIGITS,
        ),
        needs_training=False,
    ),
    "table-4": Exhibit(
        "Table 4",
        "Size of the models for CelebA-HQ and ImageNet at 32 x 32",
        _COUNT,
        tuple(_sizes("celebahq32", TABLE_4)),
        ("The models for ImageNet at 32 x 32 are the same.", _THREE_DIGITS),
        needs_training=False,
    ),
    "table-5": Exhibit(
        "Table 5",
        "Size of the models for CelebA-HQ at 64 x 64",
        _COUNT,
        tuple(_sizes("celebahq64", TABLE_5)),
        (_THREE_DIGITS,),
        needs_training=False,
    ),
    "table-6": Exhibit(
        "Table 6",
        "All runs on CelebA-HQ and ImageNet",
        _BOTH,
        tuple(_generative(TABLE_6)),
        (_NO_LOG_K,),
    ),
    "table-7": Exhibit(
        "Table 7",
        "Ablation of the flows",
        _BOTH,
        tuple(_ablations()),
        ("The paper does not say over how many runs; two are assumed.", _NO_LOG_K),
    ),
    "figure-5": Exhibit(
        "Figure 5",
        "BPD against the number of latents",
        "BPD: exact for AEF (center) and (corner), else importance sampling.",
        tuple(_curves(None)),
        (_NO_LOG_K,),
    ),
    "figure-6": Exhibit(
        "Figure 6",
        "FID against the number of latents",
        "FID. Lower is better.",
        tuple(_curves("frechet_inception_distance")),
    ),
    "figure-10": Exhibit(
        "Figure 10", "Denoising against the noise", _IFE, tuple(_denoising(_FIGURE_10))
    ),
}
"""Tables and figures by `table-N` and `figure-N`."""
