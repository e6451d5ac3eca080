"""Runs by name: the paper's rows, and what one's own images leave open.

This module imports no TensorFlow, as `config`.
"""

import dataclasses
import difflib
import shlex
from pathlib import Path
from typing import Any

from aef_tfp.data.registry import DATASETS
from aef_tfp.runs.config import RunConfig, RunSettings
from aef_tfp.runs.kinds import KINDS

__all__ = ["DEFAULT_PRESET", "PRESETS", "get_preset"]

# Of the presets that end in -noise.
_EXPANSION_NOISE = 0.2

# Of one's own images. The paper's, a scale for each pixel, costs 0.2 bits per dimension
# on photographs (docs/choosing.md).
_OWN_DECODER_SCALE = "dependent"

# The models of Table 7.
_ABLATED = ("celebahq32-aef-linear-128", "celebahq32-vae-128")


def _ablations(base: RunSettings) -> dict[str, RunSettings]:
    """The rows of Table 7 without one of the flows, or both, by the ends of names."""
    first = KINDS[base.model].first_flow
    flows: dict[str, dict[str, Any]] = {
        "no-flows": {"core_flow": "none", "prior_flow": "none"},
        f"only-{first}": {"prior_flow": "none"},
        "only-prior": {"core_flow": "none"},
    }
    return {
        name: dataclasses.replace(base, **changes) for name, changes in flows.items()
    }


def _presets() -> dict[str, RunSettings]:
    presets: dict[str, RunSettings] = {}
    for dataset, info in DATASETS.items():
        # What of one's own images is unknown yet, they choose.
        kind = RunConfig if info.source == "tfds" else RunSettings
        shared: dict[str, Any] = {"dataset": dataset}
        if kind is RunConfig:
            shared |= {
                "networks": info.networks,
                "batch_size": info.batch_size,
                "learning_rate": info.learning_rate,
                "iterations": info.iterations,
                "validation_interval": info.validation_interval,
                "patience": info.patience,
            }
        if info.iterations < 10_000:
            # A short run is watched more closely.
            shared |= {"log_interval": 20, "picture_interval": 500}
        for model, of_model in KINDS.items():
            if not of_model.has_networks:
                for layers, units in ((4, 256), (8, 512)):
                    presets[f"{dataset}-{model}-{layers}x{units}"] = kind(
                        model=model, flow_layers=layers, flow_units=units, **shared
                    )
                continue
            for latent_dim in info.latent_dims:
                name = f"{dataset}-{model}-{latent_dim}"
                own: dict[str, Any] = {"model": model, "latent_dim": latent_dim}
                if kind is RunSettings and of_model.has_latent_flows:
                    own["decoder_scale"] = _OWN_DECODER_SCALE
                presets[name] = kind(**own, **shared)
                if "expansion_noise" in of_model.own_settings:
                    presets[f"{name}-noise"] = dataclasses.replace(
                        presets[name], expansion_noise=_EXPANSION_NOISE
                    )
                if name in _ABLATED:
                    for end, config in _ablations(presets[name]).items():
                        presets[f"{name}-{end}"] = config
    return presets


PRESETS = _presets()
"""Configurations by name; see `get_preset`."""

DEFAULT_PRESET = "digits-aef-center-8"
"""What is trained when no preset is named."""


def get_preset(name: str) -> RunSettings:
    """Returns a preset by its name, `DATASET-MODEL-LATENT`.

    A pixel MAF has its sizes in place of latents, as in `mnist-pixel-maf-4x256`. The
    ablations of Table 7 end in `-no-flows`, `-only-prior`, and `-only-core` of an AEF,
    `-only-posterior` of a VAE. Linear AEFs with expansion noise end in `-noise`.

    A preset of a named data set is a `RunConfig`, with the numbers of the paper. Those
    of `folder` and `npz` leave to your images what depends on them.

    Raises:
        ValueError: If there is none; the message says what names look like.
    """
    if name in PRESETS:
        return PRESETS[name]
    dataset = name.split("-")[0]
    if dataset not in DATASETS:
        if own := _preset_of_own(Path(name)):
            raise ValueError(f"Unknown preset {name!r}: for your own images pass {own}")
        raise ValueError(
            f"Unknown preset {name!r}: its data set {dataset!r} is not one of "
            f"{', '.join(DATASETS)}; see --list. Your own images take "
            "folder-aef-linear-32 --data-dir FOLDER."
        )
    # The start of a name tells more than its length: "npz" is none, but a beginning.
    close = difflib.get_close_matches(name, PRESETS, n=3)
    close = close or [known for known in PRESETS if known.startswith(f"{dataset}-")][:3]
    raise ValueError(
        f"Unknown preset {name!r}; close to it: {', '.join(close)}; --list shows all."
    )


def _preset_of_own(place: Path) -> str | None:
    """What to pass where a folder or a NumPy file is named in place of a preset."""
    path = shlex.quote(str(place))
    if place.is_dir():
        return f"folder-aef-linear-32 --data-dir {path}"
    if place.is_file() and place.suffix.lower() == ".npz":
        return f"npz-aef-linear-32 --data-dir {path}"
    return None
