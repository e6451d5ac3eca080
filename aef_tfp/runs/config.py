"""What a run and its evaluation are: frozen dataclasses.

This module imports no TensorFlow, so that `--help` of a command answers at once.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from aef_tfp.data.registry import dataset_info
from aef_tfp.runs.kinds import ModelName
from aef_tfp.runs.unread import check_use
from aef_tfp.saved import DamagedFile, check_choices, read_fields, read_json

__all__ = [
    "CHOSEN",
    "EvaluationConfig",
    "RunConfig",
    "RunSettings",
]

FlowName = Literal["maf", "iaf", "none"]
NetworkName = Literal["conv", "residual", "dense"]

# Those of keras.optimizers that need no more than a step size. Adafactor makes NaN of a
# matrix where a row and a column of its gradient are zero, which masks bring about.
OptimizerName = Literal[
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "ftrl",
    "lion",
    "muon",
    "nadam",
    "rmsprop",
    "sgd",
]

# TensorFlow counts with 32 bits.
_LARGEST_COUNT = 2**31 - 1
# But not these, where a large number means never, or all.
_ANY = (
    "validation_interval",
    "log_interval",
    "picture_interval",
    "keep_checkpoints",
    "max_skipped_updates",
)

# NumPy's own generator, which Keras seeds, takes 32 bits.
_LARGEST_SEED = 2**32 - 1

# Of other values, weights or best validation would be of another model or training.
_OF_WEIGHTS = (
    "dataset",
    "model",
    "latent_dim",
    "networks",
    "width",
    "core_flow",
    "prior_flow",
    "flow_layers",
    "flow_units",
    "decoder_scale",
    "expansion_noise",
    "noise_std",
    "denoising_target",
    "seed",
    "optimizer",
    "learning_rate",
    "schedule",
    "warmup",
    "ema",
    "clip_norm",
    "batch_size",
    "num_levels",
    "select",
    "num_importance_samples",
)


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """What a run is asked to be; where None says so, the images choose.

    See `defaults.choose`, which makes a `RunConfig` of it.
    """

    dataset: str = "digits"
    """Data set by its name in the list of presets; `folder` and `npz` are your own."""

    image_size: int | None = None
    """Side of the images of a folder; None takes it from the images."""

    channels: Literal[1, 3] | None = None
    """Channels of the images of a folder; None takes them from the images."""

    num_levels: int | None = None
    """Values a pixel of a folder or NumPy file can take, 0 to this - 1; None is 256."""

    bit_depth: int | None = None
    """Bits that files of 16 bits in a folder use, 8 to 16; None asks where it is not
    clear."""

    skip_unreadable: bool = False
    """Leave out files of a folder that cannot be read, and say which."""

    model: ModelName = "aef-center"
    """AEF with these pixels, or linear features, as the core; or a baseline."""

    latent_dim: int = 8
    """Number of latents d; a pixel MAF has none."""

    networks: NetworkName | None = None
    """Encoder and decoder: the paper's small or residual networks, or dense ones; None
    takes what fits your images."""

    width: int | None = None
    """Channels of the residual networks; None is the number of latents, as there."""

    core_flow: FlowName = "maf"
    """Flow over the core; inverted, it is the posterior flow of a VAE."""

    prior_flow: FlowName = "maf"
    """Flow over the latents; both flows at `none` is an ablation of Table 7."""

    flow_layers: int = 4
    """MADE layers per flow, K."""

    flow_units: int = 256
    """Hidden units of each MADE layer."""

    decoder_scale: Literal["independent", "dependent", "fixed"] = "independent"
    """Scale of the deviations: one weight per pixel, a decoder output, or 1."""

    expansion_noise: float = 0.0
    """Noise on the linear features, as a fraction of their spread; with it the
    objective bounds log p(x); 0 is the paper's AEF."""

    num_importance_samples: int = 5
    """Samples per image of an IWAE's objective."""

    noise_std: float = 0.0
    """Noise added to every training image, which stays in [0, 1]; 0 adds none."""

    denoising_target: Literal["noisy", "clean"] = "noisy"
    """Whether the objective is that of the noisy image (the paper's) or the clean."""

    iterations: int | None = None
    """Training steps in all; None chooses by the number of images."""

    batch_size: int | None = None
    """Images per step, over all devices; None chooses by their number and size."""

    optimizer: OptimizerName = "adam"
    """Optimizer by Keras's name, with Keras's settings beside the step size."""

    learning_rate: float | None = None
    """Step size of the optimizer, the largest if there is a schedule; None takes that
    of the networks, meant for Adam."""

    schedule: Literal["constant", "cosine"] = "constant"
    """Step size over the run: constant, or a cosine that ends at 0 with the last
    iteration; that one cannot be moved later."""

    warmup: int = 0
    """First iterations, in which the step size rises to its full value; 0 has none."""

    ema: float = 0.0
    """Momentum of a moving average of the weights, e.g. 0.999, which is what is
    validated, kept as best and evaluated; 0 averages nothing. It forgets the start
    after a few times 1 / (1 - this) iterations."""

    clip_norm: float = 200.0
    """Limit of the gradient's global norm."""

    validation_interval: int | None = None
    """Steps between validations; progress and checkpoints come as often; None chooses
    about a pass over the training images, or about a minute."""

    log_interval: int | None = None
    """Steps between two points of TensorBoard's training curves; None chooses."""

    picture_interval: int | None = None
    """Steps between two sets of pictures in TensorBoard, at validations only; None
    chooses."""

    save_interval: int = 500
    """Steps between two checkpoints within an epoch; 0 saves at validations only."""

    keep_checkpoints: int = 3
    """Checkpoints to keep, the newest."""

    patience: int | None = None
    """Stop after this many steps without a better validation; 0 never stops; None is a
    fifth of the iterations, or 0 with a cosine schedule."""

    select: Literal["joint", "marginal"] = "joint"
    """Validation number that decides which model is best: joint, the loss itself, or
    marginal, an estimate of log p(x) on a few images by the Laplace proposal."""

    max_skipped_updates: int = 20
    """Stop with an error after this many non-finite updates in a row."""

    steps_per_execution: int = 10
    """Steps per call of the compiled training function."""

    jit_compile: bool = True
    """Compile the training step with XLA (one device only). If nobody says so,
    the command does for 1,000 iterations or more."""

    mixed_precision: bool = False
    """Encoder and decoder compute in bfloat16; flows and densities stay float32."""

    rematerialize: bool = False
    """Residual networks keep a third less memory, and compute that part twice."""

    num_samples: int = 128
    """Importance samples per test image, where the likelihood is an estimate."""

    num_marginal_images: int = 500
    """Test images of that estimate; the first ones."""

    seed: int = 3
    """Seed of initialization, data order and all noise."""

    def check(self) -> None:
        """Checks what no later stage would name as clearly.

        Raises:
            ValueError: If a name is unknown, or a number out of its range.
        """
        check_choices(self)
        for name in (
            *("latent_dim", "flow_layers", "flow_units", "width", "batch_size"),
            *("iterations", "steps_per_execution", "num_samples"),
            *("num_importance_samples", *_ANY),
        ):
            value = getattr(self, name)
            # None is still to be chosen.
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
            if name not in _ANY and value is not None and value > _LARGEST_COUNT:
                raise ValueError(f"{name} must be at most 2**31 - 1, got {value}.")
        if self.image_size is not None and self.image_size < 4:
            raise ValueError(f"image_size must be at least 4, got {self.image_size}.")
        if self.num_marginal_images < 2:
            raise ValueError(
                "num_marginal_images must be at least 2, got "
                f"{self.num_marginal_images}."
            )
        for name in ("learning_rate", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < float("inf"):
                raise ValueError(f"{name} must be a positive number, got {value}.")
        if not 0.0 <= self.ema < 1.0:
            raise ValueError(f"ema must lie in [0, 1), got {self.ema}.")
        for name in (
            "save_interval",
            "patience",
            "seed",
            "noise_std",
            "expansion_noise",
            "warmup",
        ):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(
                    f"{name} must be a finite number of at least 0, got {value}."
                )
        if self.iterations is not None and self.warmup >= self.iterations:
            raise ValueError(
                f"warmup must be less than the iterations, {self.iterations}, got "
                f"{self.warmup}."
            )
        _check_seed(self.seed)
        check_use(self)

    def of_weights(self) -> dict[str, Any]:
        """Returns the settings that decide what the weights are of."""
        return {name: getattr(self, name) for name in _OF_WEIGHTS}

    def to_json(self) -> str:
        """Returns the fields as JSON, one per line."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


@dataclasses.dataclass(frozen=True)
class RunConfig(RunSettings):
    """Everything that decides the result of a run, apart from where files lie.

    Nothing is left to be chosen. The numbers are those of the paper's MNIST-like sets.
    """

    networks: NetworkName = "conv"
    iterations: int = 100_000
    batch_size: int = 128
    learning_rate: float = 1e-3
    validation_interval: int = 500
    log_interval: int = 100
    picture_interval: int = 2000
    patience: int = 0

    @classmethod
    def of(cls, settings: RunSettings, **chosen: Any) -> "RunConfig":
        """Returns settings with what was chosen for them.

        Raises:
            ValueError: If something is left to be chosen.
        """
        config = cls(**(dataclasses.asdict(settings) | chosen))
        left = [name for name in CHOSEN if getattr(config, name) is None]
        if left:
            raise ValueError(
                f"{', '.join(left)} of the data set {settings.dataset!r} are chosen "
                "from its images: pass them, or use defaults.choose."
            )
        return config

    @classmethod
    def from_run(cls, run_dir: str | Path) -> "RunConfig":
        """Reads the configuration of a run directory.

        Raises:
            FileNotFoundError: If the directory has no config.json.
            DamagedFile: If that is no JSON, or its fields are not those of a run.
        """
        path = Path(run_dir) / "config.json"
        if not path.is_file():
            raise FileNotFoundError(f"{run_dir} holds no run: it has no config.json.")
        config = read_fields(cls, read_json(path), path, later=_LATER_FIELDS)
        try:
            dataset_info(config.dataset)
            config.check()
        except ValueError as error:
            raise DamagedFile(path, f"cannot be: {error}") from None
        return config


# What a run directory of an older version does not say.
_LATER_FIELDS = (
    "bit_depth",
    "expansion_noise",
    "optimizer",
    "schedule",
    "warmup",
    "ema",
    "select",
)

# Its annotations are the narrower ones.
CHOSEN: tuple[str, ...] = tuple(RunConfig.__annotations__)
"""What may be left to be chosen from the images."""


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """What to evaluate, on how much."""

    split: Literal["train", "validation", "test"] = "test"
    """Images to evaluate on."""

    num_images: int | None = None
    """Images of the split for likelihoods and denoising, the first; None takes all."""

    num_samples: int = 128
    """Importance samples per image and repeat, K."""

    num_repeats: int = 1
    """Repeats pooled inside the logarithm, R; the paper has 20."""

    proposal: Literal["encoder", "laplace", "none"] = "encoder"
    """Proposal of importance sampling: laplace is tighter and takes longer, none leaves
    the estimate out."""

    paper_estimator: bool = False
    """Also what the paper's code computes for its linear model, without - log K."""

    annealed_steps: int = 0
    """Also annealed importance sampling in so many steps, which needs no proposal: it
    takes 1,000 and more, for tens of images; 0 leaves it out."""

    frechet: Literal["inception", "classifier", "none"] = "none"
    """Features of the Frechet distance; only those of Inception make an FID."""

    classifier_dataset: str | None = None
    """Data set of TFDS whose classes that classifier learns, of images of the same
    form; None is the run's own. Faces have no labels: e.g. tiny_imagenet32."""

    inspect: bool = False
    """Also how sharp samples and reconstructions are, the error of the latter, and how
    many latents are in use."""

    anomalies: str | None = None
    """Also how well each number of an image tells the split from these: a data set, of
    which the test images are taken, or a folder of images or .npz file of your own."""

    num_frechet_images: int = 2048
    """Samples, and images of the split, for the distances and for --inspect; the paper
    has 2,048."""

    temperature: float = 1.0
    """Temperature of the samples that are judged."""

    inception_weights: Path | None = None
    """File classify_image_graph_def.pb, or the archive that holds it."""

    seed: int = 0
    """Seed of all noise."""

    def check(self) -> None:
        """Checks names and numbers.

        Raises:
            ValueError: If a name is unknown, or a number out of its range.
        """
        check_choices(self)
        for name, least in (
            ("num_images", 2),
            ("num_samples", 1),
            ("num_repeats", 1),
            ("annealed_steps", 0),
            ("num_frechet_images", 2),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}.")
        _check_seed(self.seed)
        if not 0.0 <= self.temperature < float("inf"):
            raise ValueError(
                f"temperature must be a finite number of at least 0, got "
                f"{self.temperature}."
            )


def _check_seed(seed: int) -> None:
    if seed > _LARGEST_SEED:
        raise ValueError(f"seed must be at most 2**32 - 1, got {seed}.")
