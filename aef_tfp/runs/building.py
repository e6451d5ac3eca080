"""The model of a configuration."""

from typing import Any

import keras

from aef_tfp import flows
from aef_tfp.data import DatasetInfo
from aef_tfp.models import (
    IWAE,
    VAE,
    Autoencoder,
    EventModel,
    ExpandedAEF,
    PartitionedAEF,
    PixelMAF,
)
from aef_tfp.networks import residual_decoder, residual_encoder
from aef_tfp.networks.residual import residual_stages
from aef_tfp.runs.config import RunConfig
from aef_tfp.runs.defaults import has_stages
from aef_tfp.runs.kinds import KINDS
from aef_tfp.saved import check_choices

__all__ = ["build_model"]


def build_model(config: RunConfig, info: DatasetInfo) -> EventModel:
    """Builds and compiles the model of a configuration.

    Args:
        config: The run.
        info: The data set's facts.

    Raises:
        ValueError: If the configuration names what there is not, or does not fit the
            data, or the model the memory.
    """
    check_choices(config)
    try:
        return _built(config, info)
    except MemoryError as error:
        raise ValueError(
            f"no memory holds a model with latent_dim {config.latent_dim} and "
            f"flow_units {config.flow_units}: take fewer ({error})."
        ) from None


def _built(config: RunConfig, info: DatasetInfo) -> EventModel:
    def flow(kind: str) -> Any:
        if kind == "none":
            return flows.Identity()
        maf = flows.MAF(
            config.latent_dim,
            num_layers=config.flow_layers,
            hidden_units=config.flow_units,
        )
        return flows.Inverted(maf) if kind == "iaf" else maf

    shape, latent_dim = info.image_shape, config.latent_dim
    dtype = "mixed_bfloat16" if config.mixed_precision else None
    shared: dict[str, Any] = {
        "num_levels": info.num_levels,
        "logit_lambda": info.logit_lambda,
        "noise_std": config.noise_std,
        "denoising_target": config.denoising_target,
        "seed": config.seed,
        "dtype": dtype,
    }
    model: EventModel
    if config.model == "autoencoder":
        networks = _networks(config, shape, encoder_outputs=1)
        model = Autoencoder(shape, latent_dim, **networks, **shared)
    elif config.model == "pixel-maf":
        layers, units = config.flow_layers, config.flow_units
        model = PixelMAF(shape, num_layers=layers, hidden_units=units, **shared)
    else:
        shared |= {
            **_networks(config, shape, encoder_outputs=2),
            "decoder_scale": config.decoder_scale,
            "prior_flow": flow(config.prior_flow),
        }
        for name in KINDS[config.model].own_settings:
            shared[name] = getattr(config, name)
        core_flow = flow(config.core_flow)
        if config.model in ("vae", "iwae"):
            kind = VAE if config.model == "vae" else IWAE
            posterior_flow = flows.Inverted(core_flow)
            model = kind(shape, latent_dim, posterior_flow=posterior_flow, **shared)
        elif config.model == "aef-linear":
            model = ExpandedAEF(shape, latent_dim, core_flow=core_flow, **shared)
        else:
            shared["partition"] = config.model.removeprefix("aef-")
            model = PartitionedAEF(shape, latent_dim, core_flow=core_flow, **shared)
    model.compile(
        _optimizer(config),
        jit_compile=config.jit_compile,
        steps_per_execution=config.steps_per_execution,
        max_skipped_updates=config.max_skipped_updates,
        rematerialize=config.rematerialize,
    )
    return model


def _optimizer(config: RunConfig) -> keras.Optimizer:
    settings: dict[str, Any] = {
        "learning_rate": _learning_rate(config),
        "global_clipnorm": config.clip_norm,
    }
    if config.ema:
        settings |= {"use_ema": True, "ema_momentum": config.ema}
    return keras.optimizers.get({"class_name": config.optimizer, "config": settings})


def _learning_rate(config: RunConfig) -> Any:
    """A number, or a function of the steps done, which a resumed run goes on with."""
    is_constant = config.schedule == "constant"
    if is_constant and not config.warmup:
        return config.learning_rate
    warmup: dict[str, Any] = {}
    initial = config.learning_rate
    if config.warmup:
        # From 0, the first step would do nothing.
        initial = config.learning_rate / config.warmup
        warmup = {"warmup_target": config.learning_rate, "warmup_steps": config.warmup}
    return keras.optimizers.schedules.CosineDecay(
        initial,
        config.iterations - config.warmup,
        # What it falls to, as a share.
        alpha=1.0 if is_constant else 0.0,
        **warmup,
    )


def _networks(
    config: RunConfig, shape: tuple[int, ...], encoder_outputs: int
) -> dict[str, Any]:
    """The arguments that make encoder and decoder; a width needs the networks."""
    if config.networks == "residual":
        _check_side(shape)
    if config.width is None or config.networks != "residual":
        return {"encoder": config.networks, "decoder": config.networks}
    dtype = "mixed_bfloat16" if config.mixed_precision else None
    shared: dict[str, Any] = {"width": config.width, "dtype": dtype}
    dependent = config.decoder_scale == "dependent"
    return {
        "encoder": residual_encoder(
            shape, config.latent_dim, num_outputs=encoder_outputs, **shared
        ),
        "decoder": residual_decoder(
            config.latent_dim, shape, num_outputs=2 if dependent else 1, **shared
        ),
        # What the model does by itself where it is given a name.
        "initial_raw_scale": 1.0,
    }


def _check_side(shape: tuple[int, ...]) -> None:
    """Adds to the refusal of the residual networks the next side that they take."""
    side = shape[0]
    if side < 3 or side != shape[1]:
        # There is none; what is wrong, the networks say themselves.
        return
    try:
        residual_stages(side)
    except ValueError as error:
        smaller = next(s for s in range(side - 1, 1, -1) if has_stages(s))
        raise ValueError(
            f"{str(error).rstrip('.')}; the next smaller side is {smaller}."
        ) from None
