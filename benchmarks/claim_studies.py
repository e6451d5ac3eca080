"""What `benchmarks/claim.py` trains and measures: studies, their rows, and commands."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aef_tfp.data.registry import DATASETS


@dataclasses.dataclass(frozen=True)
class Row:
    """One run: a preset, and what differs from it."""

    model: str
    preset: str
    seed: int
    learning_rate: str
    options: tuple[str, ...] = ()
    program: tuple[str, ...] = ("trainers/run.py",)

    @property
    def latent_dim(self) -> int:
        """As the preset's name has it, unless an option says otherwise."""
        if "--latent-dim" in self.options:
            return int(self.options[self.options.index("--latent-dim") + 1])
        return int(self.preset.removesuffix("-noise").rpartition("-")[2])

    @property
    def name(self) -> str:
        """Of the run directory."""
        words = self.model.replace("(", "").replace(")", "").replace(",", "").split()
        words += [f"d{self.latent_dim}", f"lr{self.learning_rate}", f"seed{self.seed}"]
        return "-".join(words).lower()


@dataclasses.dataclass(frozen=True)
class Study:
    """Rows that are compared, in their order of importance.

    Args:
        options: What all runs have in common.
        evaluation: Options of all evaluations.
        rows: The runs.
        base: The model that the others are compared with; None compares none.
        proposals: Of the estimates.
        split: What is evaluated.
        inspection: Options of one more evaluation, beside the likelihood; None for no
            such evaluation.
        denoises: Whether models are compared by their errors, not their likelihoods.
        anomalies: Whether they are by how well they tell other images from their own.
    """

    options: tuple[str, ...]
    evaluation: tuple[str, ...]
    rows: tuple[Row, ...]
    base: str | None
    proposals: tuple[str, ...] = ("encoder", "laplace")
    split: str = "test"
    inspection: tuple[str, ...] | None = None
    denoises: bool = False
    anomalies: bool = False


_NO_FLOWS = ("--core-flow", "none", "--prior-flow", "none")
_AEF, _NOISE, _CENTER = "AEF (linear)", "AEF (linear, noise 0.2)", "AEF (center)"
_RANDOM = "AEF (random)"
_VAE, _PLAIN = "VAE (IAF, MAF)", "VAE (plain)"
# Of other decoders: the scale of each pixel is an output beside its location.
DEPENDENT = ", dependent scale"
_CLEAN_AEF, _CLEAN_VAE = "AEF (linear, clean target)", "VAE (IAF, MAF, clean target)"
_AUTOENCODER = "autoencoder"

# All of a run's budget: the step size falls to 0, the weights are averaged, and the
# model whose estimated likelihood is best is kept, where it has to be estimated.
_SCHEDULE = ("--schedule", "cosine", "--warmup", "200", "--validation-interval", "1000")
_LONG = ("--ema", "0.999")
# A run's own estimate at its end is left out as far as it goes: others follow.
_MARGINAL = ("--select", "marginal", "--num-marginal-images", "2")

# By the numbers of short runs on validation images: `mnist-rates`, `faces-rates`.
_RATES = {"mnist": "4e-3", "celeba10k32": "4e-3"}


def _of_model(
    dataset: str,
    latent_dim: int,
    model: str,
    seed: int,
    learning_rate: str | None = None,
    select: tuple[str, ...] = _MARGINAL,
) -> Row:
    decoder = ("--decoder-scale", "dependent") if model.endswith(DEPENDENT) else ()
    kind, options = {
        _AEF: ("aef-linear", select),
        _NOISE: ("aef-linear", ("--expansion-noise", "0.2", *select)),
        _CENTER: ("aef-center", ()),
        _VAE: ("vae", select),
        _PLAIN: ("vae", (*_NO_FLOWS, *select)),
    }[model.removesuffix(DEPENDENT)]
    options = (*decoder, *options)
    preset = f"{dataset}-{kind}-{latent_dim}"
    if latent_dim not in DATASETS[dataset].latent_dims:
        preset = f"{dataset}-{kind}-{DATASETS[dataset].latent_dims[0]}"
        options = ("--latent-dim", str(latent_dim), *options)
    return Row(model, preset, seed, learning_rate or _RATES[dataset], options)


def _rates(
    dataset: str,
    latent_dim: int,
    rates: Iterable[str],
    options: tuple[str, ...],
    num_images: int,
    models: tuple[str, ...] = (_NOISE, _AEF, _VAE),
) -> Study:
    """Short runs of several learning rates, measured on validation images."""
    return Study(
        options=(*_SCHEDULE, *options, "--picture-interval", "10000"),
        evaluation=("--num-images", str(num_images)),
        rows=tuple(
            _of_model(dataset, latent_dim, model, 3, rate, select=())
            for rate in rates
            for model in models
        ),
        base=None,
        proposals=("laplace",),
        split="validation",
    )


def _denoising(
    dataset: str, latent_dim: int, noise_std: str, options: tuple[str, ...], **more: Any
) -> Study:
    """Models that see noisy images; decoders of fixed scale, as in the paper's."""
    fixed, clean = ("--decoder-scale", "fixed"), ("--denoising-target", "clean")
    return Study(
        options=(
            *(*_SCHEDULE, "--iterations", "4000", "--picture-interval", "10000"),
            *("--noise-std", noise_std, *options),
        ),
        rows=tuple(
            Row(model, f"{dataset}-{kind}-{latent_dim}", 3, "1e-3", own)
            for model, kind, own in (
                (_AEF, "aef-linear", fixed),
                (_VAE, "vae", fixed),
                (_AUTOENCODER, "autoencoder", ()),
                (_NOISE, "aef-linear", (*fixed, "--expansion-noise", "0.2")),
                (_CLEAN_AEF, "aef-linear", (*fixed, *clean)),
                (_CLEAN_VAE, "vae", (*fixed, *clean)),
            )
        ),
        base=_VAE,
        proposals=(),
        denoises=True,
        **more,
    )


_OF_FACES = ("--networks", "conv", "--batch-size", "64")


_SHORT_OF_FACES = (*_OF_FACES, "--iterations", "2000")

_INSPECTION_OF_FACES = (
    *("--inspect", "--temperature", "0.85", "--frechet", "classifier"),
    # Faces have no labels.
    *("--classifier-dataset", "tiny_imagenet32"),
)


def _variant(
    dataset: str,
    latent_dim: int,
    name: str,
    learning_rate: str | None = None,
    select: tuple[str, ...] = _MARGINAL,
) -> Row:
    """A VAE of benchmarks/claim_variants.py."""
    row = _of_model(dataset, latent_dim, _VAE, 3, learning_rate, select)
    program = ("benchmarks/claim_variants.py", name)
    return dataclasses.replace(row, model=f"{_VAE}, {name}", program=program)


def _anomalies(
    dataset: str, latent_dim: int, others: str, options: tuple[str, ...], rate: str
) -> Study:
    """Models that are shown images of another kind, exact ones first."""
    return Study(
        options=(*_SCHEDULE, *options, "--picture-interval", "10000"),
        evaluation=("--num-images", "1000", "--anomalies", others),
        rows=tuple(
            Row(model, f"{dataset}-{kind}-{latent_dim}", 3, rate, own)
            for model, kind, own in (
                (_CENTER, "aef-center", ()),
                (_RANDOM, "aef-random", ()),
                (_NOISE, "aef-linear", ("--expansion-noise", "0.2")),
                (_VAE, "vae", ()),
                (_AUTOENCODER, "autoencoder", ()),
            )
        ),
        base=None,
        proposals=("laplace",),
        anomalies=True,
    )


STUDIES = {
    "mnist-rates": _rates(
        "mnist",
        32,
        ("1e-3", "2e-3", "4e-3", "8e-3"),
        ("--iterations", "4000"),
        num_images=1000,
    ),
    "mnist": Study(
        options=(
            *(*_SCHEDULE, *_LONG, "--iterations", "20000"),
            *("--picture-interval", "10000"),
        ),
        evaluation=("--num-images", "2000"),
        inspection=("--inspect", "--frechet", "classifier"),
        rows=tuple(
            _of_model("mnist", latent_dim, model, seed, *rate)
            for latent_dim, model, seed, *rate in (
                *((32, model, 3, "1e-3") for model in (_NOISE, _AEF, _VAE)),
                (32, _NOISE, 3),
                (32, _AEF, 3),
                (32, _VAE, 3),
                (2, _NOISE, 3),
                (2, _VAE, 3),
                *((32, model + DEPENDENT, 3) for model in (_NOISE, _VAE)),
                *((2, model + DEPENDENT, 3) for model in (_NOISE, _VAE)),
                *((d, m, 4) for d in (2, 32) for m in (_VAE, _AEF)),
                *((d, _CENTER, 4) for d in (2, 32)),
                (2, _AEF, 3),
            )
        ),
        base=_VAE,
    ),
    "faces-rates": _rates(
        "celeba10k32",
        256,
        ("1e-3", "4e-3", "2e-3", "1e-2", "1e-4"),
        _SHORT_OF_FACES,
        num_images=300,
        models=(_AEF, _VAE),
    ),
    "faces-gap": Study(
        options=(*_SCHEDULE, *_SHORT_OF_FACES, "--picture-interval", "10000"),
        evaluation=("--num-images", "300"),
        rows=(
            *(
                _variant("celeba10k32", 256, name, select=())
                for name in ("narrow", "linear-path")
            ),
            *(
                _of_model("celeba10k32", 256, model, 3, select=())
                for model in (_NOISE, _PLAIN, _AEF + DEPENDENT, _VAE + DEPENDENT)
            ),
        ),
        base=None,
        proposals=("laplace",),
        split="validation",
    ),
    "faces": Study(
        options=(
            *(*_SCHEDULE, *_LONG, *_OF_FACES, "--iterations", "10000"),
            *("--picture-interval", "5000"),
        ),
        evaluation=("--num-images", "300"),
        inspection=_INSPECTION_OF_FACES,
        rows=(
            *(
                _of_model("celeba10k32", 256, model, 3)
                for model in (_AEF, _VAE, _NOISE)
            ),
            *(_of_model("celeba10k32", 64, model, 3) for model in (_AEF, _VAE)),
            *(_of_model("celeba10k32", 256, model, 4) for model in (_AEF, _VAE)),
            *(_of_model("celeba10k32", 8, model, 3) for model in (_AEF, _VAE)),
            *(_of_model("celeba10k32", d, _PLAIN, 3) for d in (256, 64)),
            _variant("celeba10k32", 256, "linear-path"),
            _of_model("celeba10k32", 256, _AEF + DEPENDENT, 3),
            _of_model("celeba10k32", 8, _PLAIN, 3),
            _of_model("celeba10k32", 256, _VAE + DEPENDENT, 3),
            *(_of_model("celeba10k32", d, _NOISE, 3) for d in (64, 8)),
            *(
                _of_model("celeba10k32", d, model + DEPENDENT, seed)
                for d, seed in ((64, 3), (8, 3), (256, 4))
                for model in (_VAE, _AEF)
            ),
        ),
        base=_VAE,
    ),
    # A step of these costs ten times as much as one of the small networks. Averages of
    # the weights would lag behind in so few.
    "faces-residual": Study(
        options=(
            *(*_SCHEDULE, "--networks", "residual", "--width", "32"),
            *("--batch-size", "64", "--iterations", "2000"),
            *("--picture-interval", "5000"),
        ),
        evaluation=("--num-images", "100"),
        inspection=_INSPECTION_OF_FACES,
        rows=(
            *(
                _of_model("celeba10k32", 64, model, 3, "1e-3", select=())
                for model in (_VAE, _AEF)
            ),
            *(
                _variant("celeba10k32", 64, name, "1e-3", select=())
                for name in ("linear-path", "narrow")
            ),
        ),
        base=_VAE,
    ),
    "mnist-denoising": _denoising(
        *("mnist", 32, "0.5", ()),
        evaluation=("--num-images", "2000"),
        inspection=("--frechet", "classifier"),
    ),
    "faces-denoising": _denoising(
        *("celeba10k32", 128, "0.1", _OF_FACES),
        evaluation=("--num-images", "1000"),
        inspection=(),
    ),
    "fashion-anomalies": _anomalies(
        *("fashion_mnist", 32, "mnist"), ("--iterations", "4000"), "1e-3"
    ),
    "faces-anomalies": _anomalies(
        *("celeba10k32", 64, "tiny_imagenet32"),
        (*_OF_FACES, "--iterations", "4000"),
        "1e-3",
    ),
}


def commands(study: Study, row: Row, run_dir: Path, data_dir: str) -> list[list[str]]:
    """The command that trains a row, and those that measure it."""
    data = ["--data-dir", data_dir]
    own = ["--learning-rate", row.learning_rate, "--seed", str(row.seed)]
    shared = [*study.options, *row.options, *own, *data]
    train = [*row.program, row.preset, *shared, "--run-dir", str(run_dir)]
    if (run_dir / "config.json").exists():
        train = [*row.program, "--resume", str(run_dir), *data]
    measure = ["trainers/evaluate.py", str(run_dir), "--split", study.split]
    measure += [*study.evaluation, *data]
    inspect = [] if study.inspection is None else [[*measure, *study.inspection]]
    if row.model in (_CENTER, _RANDOM) or (
        study.anomalies and row.model == _AUTOENCODER
    ):
        # Its likelihood is exact, or it has none.
        return [train, *(inspect or [measure])]
    of_proposals = [[*measure, "--proposal", proposal] for proposal in study.proposals]
    if row.model != _AUTOENCODER:
        inspect = [[*command, "--proposal", "none"] for command in inspect]
    return [train, *of_proposals, *inspect]
