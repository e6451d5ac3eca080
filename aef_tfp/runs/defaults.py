"""What the images decide of a run: its networks, and how much of everything.

Pure Python, so that the rules can be read and tested without TensorFlow.
"""

import dataclasses
import math
from typing import Any

from aef_tfp.data import dataset_info
from aef_tfp.runs.config import CHOSEN, NetworkName, RunConfig, RunSettings
from aef_tfp.runs.kinds import KINDS
from aef_tfp.terminal import as_option

__all__ = ["choose", "has_stages", "pays_to_compile", "without_patience"]

# Steps whose time, saved, is that of compiling them: see `pays_to_compile`.
_STEPS_WORTH_COMPILING = 1000

# What an epoch can be: round numbers, of whole executions of 10 steps. Of fewer than a
# hundred fast steps, validation would be the longer part; but a handful of images is
# learned by heart sooner.
_INTERVALS = (10, 20, 50, 100, 200, 500)
_LEAST_INTERVAL = 100
_MOST_PASSES_PER_EPOCH = 20

# Pixels that two CPU cores train on in about a minute, by the networks: measured with
# AEF (linear) at 32 x 32 and 64 x 64 in colour. A GPU is faster, and an epoch there
# shorter than it could be.
_PIXELS_PER_MINUTE = {"conv": 60e6, "dense": 60e6, "residual": 5e6}

# Validation, on an eighth as many images as training, takes part of each epoch: of
# fewer passes than this it would take most.
_LEAST_PASSES_PER_EPOCH = 1 / 16

# Few images are learned by heart long before; of many, the paper's 100,000 steps are
# enough.
_PASSES = 300
_MOST_ITERATIONS = 100_000

# The residual networks' width is the number of latents, if nobody says it. Few latents
# need no such thin networks.
_LEAST_WIDTH = 32

# A side up to which nothing is said of smaller ones.
_FAST_SIDE = 32


@dataclasses.dataclass
class _Choices:
    """The settings that are made, and why; those of the user stay as they are."""

    settings: RunSettings
    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    def take(self, name: str, value: Any, why: str) -> Any:
        """Returns what the user asked for, or else the value, with a note on it."""
        asked = getattr(self.settings, name)
        if asked is not None:
            return asked
        self.values[name] = value
        if why:
            option = f"{as_option(name)} {value}"
            self.notes.append(f"  {option:<26} {why}")
        return value


def pays_to_compile(iterations: int | None) -> bool:
    """Returns whether compiling the step with XLA takes less time than it saves.

    On two cores it takes 6 to 7 s more before the first validation is done, and saves
    16 ms of a step on the digits and 6 ms on MNIST: it pays from 400 and 1,100 steps
    on.

    Args:
        iterations: Steps to come; None if that is chosen later, when it is thousands.
    """
    return iterations is None or iterations >= _STEPS_WORTH_COMPILING


def without_patience(settings: RunSettings) -> RunSettings:
    """Returns settings whose cosine schedule comes to its end.

    The patience of the presets is for a constant step size. The best of a cosine is
    what its small steps at the end make of the large ones before.

    Args:
        settings: A run, whose patience nobody has asked for.
    """
    if settings.schedule == "cosine" and settings.patience:
        return dataclasses.replace(settings, patience=0)
    return settings


def choose(
    settings: RunSettings, num_images: int, image_shape: tuple[int, int, int]
) -> tuple[RunConfig, tuple[str, ...]]:
    """Chooses what the settings leave to the images.

    The rules: the small networks, if they take the images, with the paper's step size;
    batches of which at least ten make a pass over few images; 300 passes, but at most
    100,000 steps; a validation after about a pass, or sooner where that takes more than
    about a minute on two CPU cores.

    Example:
        >>> config, notes = choose(get_preset("folder-vae-8"), 320, (64, 64, 3))
        >>> config.networks, config.batch_size, config.iterations
        ('conv', 32, 3000)

    Args:
        settings: What is asked; what is not None, stays.
        num_images: The number of training images, at least 1.
        image_shape: `(H, W, C)`.

    Returns:
        The run, and what was chosen and why: one line each, none if nothing was.
    """
    choices = _Choices(settings)
    side = max(image_shape[:2])
    if dataset_info(settings.dataset).source == "folder":
        factor = round((side / _FAST_SIDE) ** 2)
        why = (
            f"{_FAST_SIDE} would be about {factor} times as fast" if factor > 1 else ""
        )
        # Written down, so that the run has this side whatever a later version takes.
        choices.take("image_size", side, why)
    if all(getattr(settings, name) is not None for name in CHOSEN):
        return RunConfig.of(settings, **choices.values), ()

    networks = _take_networks(choices, image_shape)
    choices.take(
        "learning_rate",
        1e-4 if networks == "residual" else 1e-3,
        "the paper's for residual networks"
        if networks == "residual"
        else "the paper's for small networks",
    )
    largest = _largest_batch(networks, image_shape)
    # A power of two of which ten make a pass; but single images are too noisy.
    tenth = 2 ** int(math.log2(max(1, num_images // 10)))
    batch_size = choices.take(
        "batch_size",
        min(largest, max(tenth, min(num_images, 8))),
        "small, as the images are few"
        if tenth < largest
        else "for images of this size",
    )
    one_pass = num_images / batch_size
    interval, why = _interval(settings, networks, one_pass, batch_size, image_shape)
    interval = choices.take("validation_interval", interval, why)
    total = min(_PASSES * one_pass, _MOST_ITERATIONS)
    total = interval * math.ceil(total / interval)
    passes = _passes(total, one_pass)
    iterations = choices.take("iterations", total, f"{passes} over the training images")
    is_cosine = settings.schedule == "cosine"
    choices.take(
        "patience",
        0 if is_cosine else max(iterations // 5, 5 * interval),
        "the learning rate falls until the end"
        if is_cosine
        else "ends a run that has long got no better",
    )
    choices.take(
        "picture_interval",
        min(2000, max(interval, iterations // 10)),
        "the first validation has pictures, too",
    )
    together = math.gcd(interval, settings.steps_per_execution)
    executions = max(1, min(100, interval // 5) // together)
    choices.take("log_interval", together * executions, "")
    notes = tuple(choices.notes)
    if notes:
        height, width, channels = image_shape
        noun = "image" if num_images == 1 else "images"
        title = (
            f"chosen for {num_images:,} training {noun} of {height} x {width} x "
            f"{channels}; options set others:"
        )
        notes = (title, *notes)
    return RunConfig.of(settings, **choices.values), notes


def _take_networks(choices: _Choices, shape: tuple[int, int, int]) -> NetworkName:
    settings = choices.settings
    height, width, _ = shape
    size = f"{height} x {width}"
    if not KINDS[settings.model].has_networks:
        return choices.take("networks", "conv", "")
    if settings.width is not None or settings.rematerialize:
        why = "what --width or --rematerialize is for"
        return choices.take("networks", "residual", why)
    if height % 4 == 0 and width % 4 == 0:
        return choices.take("networks", "conv", "small and fast")
    if height != width or not has_stages(height):
        return choices.take("networks", "dense", f"no others take {size}")
    if settings.networks is None and settings.latent_dim < _LEAST_WIDTH:
        choices.take("width", _LEAST_WIDTH, "channels of the residual networks")
    why = f"the faster ones do not take {size}"
    return choices.take("networks", "residual", why)


def has_stages(side: int) -> bool:
    """Whether `residual_stages` takes a side: a power of two times 1, 3, 5 or 7."""
    odd = side // (side & -side)
    return side > 1 and odd <= 7


def _largest_batch(networks: NetworkName, shape: tuple[int, int, int]) -> int:
    """The paper's batch sizes, and smaller ones for larger images."""
    height, width, channels = shape
    pixels = height * width
    if networks == "residual":
        return 64 if pixels <= 32**2 else 16
    if pixels * channels <= 32**2:
        return 128
    return 64 if pixels <= 64**2 else 16


def _interval(
    settings: RunSettings,
    networks: NetworkName,
    one_pass: float,
    batch_size: int,
    shape: tuple[int, int, int],
) -> tuple[int, str]:
    """Returns the steps of an epoch, and why they are so many."""
    height, width, _ = shape
    cost = 1.0
    if settings.model == "iwae":
        # The samples are decoded, and the images encoded once.
        cost = (1 + settings.num_importance_samples) / 2
    elif settings.model == "pixel-maf":
        cost = settings.flow_layers * settings.flow_units / 1024
    pixels = batch_size * height * width * cost
    minute = _PIXELS_PER_MINUTE[networks] / pixels
    few = min(_LEAST_INTERVAL, _MOST_PASSES_PER_EPOCH * one_pass)
    wanted = _rounded_up(max(one_pass, few))
    least = _rounded_up(one_pass * _LEAST_PASSES_PER_EPOCH)
    fast = max((n for n in _INTERVALS if n <= minute), default=_INTERVALS[0])
    interval = max(least, min(wanted, fast))
    if settings.iterations is not None:
        interval = min(interval, settings.iterations)
    why = f"an epoch below: {_passes(interval, one_pass)}"
    # A validation that is worth its time may come later than that.
    if interval == fast < wanted:
        why += ", a minute on two CPUs"
    return interval, why


def _rounded_up(interval: float) -> int:
    return min((n for n in _INTERVALS if n >= interval), default=_INTERVALS[-1])


def _passes(iterations: int, one_pass: float) -> str:
    passes = iterations / one_pass
    number = f"{passes:,.0f}" if passes >= 10 else f"{passes:.2g}"
    return f"{number} {'pass' if number == '1' else 'passes'}"
