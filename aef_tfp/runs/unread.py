"""Which settings the model, the data or other settings leave unread.

An option that somebody names and nothing reads is a misunderstanding, and refused.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from aef_tfp.data.registry import DATASETS
from aef_tfp.runs.kinds import KINDS, ModelName
from aef_tfp.terminal import as_option

if TYPE_CHECKING:
    from aef_tfp.runs.config import EvaluationConfig, RunConfig, RunSettings

__all__ = [
    "check_use",
    "not_downloaded",
    "refuse_unread",
    "unread_by_evaluation",
    "unread_by_run",
]


def _no_estimate(c: Any) -> str:
    return {
        "estimated": "",
        "exact": f"the likelihood of {_a(c.model)} is exact",
        "none": f"{_a(c.model)} has no likelihood",
    }[KINDS[c.model].likelihood]


def _a(model: ModelName) -> str:
    return f"{'an' if model[0] in 'aei' else 'a'} {model}"


@dataclasses.dataclass(frozen=True)
class _Rule:
    """Some settings, and why nothing reads them; "" where something does."""

    names: tuple[str, ...]
    why: Callable[..., str]


def _lacks(has: str, what: str) -> Callable[..., str]:
    """A rule's reason where a kind of model is without something.

    Args:
        has: The field of `Kind` that says whether it is there.
        what: Its name.
    """
    return lambda c: "" if getattr(KINDS[c.model], has) else f"{_a(c.model)} has {what}"


_without_networks = _lacks("has_networks", "no encoder and no decoder")


def _without_layers(c: Any) -> str:
    kind = KINDS[c.model]
    if kind.likelihood == "none":
        return f"{_a(c.model)} has no flows"
    both = (c.core_flow, c.prior_flow) == ("none", "none")
    return "both flows are none" if both and kind.has_latent_flows else ""


def _without_blocks(c: Any) -> str:
    others = c.networks not in (None, "residual")
    why = f"it is for residual networks, not {c.networks} ones" if others else ""
    return _without_networks(c) or why


def _without_targets(c: Any) -> str:
    if not c.noise_std:
        return "without --noise-std no image is noisy"
    exact = KINDS[c.model].likelihood == "exact"
    return f"{_a(c.model)} has densities of noisy images only" if exact else ""


def _without_papers_estimator(c: Any) -> str:
    if c.model == "aef-linear":
        return ""
    return _no_estimate(c) or f"the paper's code keeps - log K of {_a(c.model)}"


def _own_rules() -> Iterable[_Rule]:
    """Rules of the settings that one kind of model alone reads."""

    def rule(model: ModelName, name: str) -> _Rule:
        return _Rule(
            (name,),
            lambda c: (
                "" if name in KINDS[c.model].own_settings else f"it is for {_a(model)}"
            ),
        )

    for model, kind in KINDS.items():
        yield from (rule(model, name) for name in kind.own_settings)


# Settings that do nothing as long as they have their defaults.
_IDLE = (
    *("width", "rematerialize", "expansion_noise", "denoising_target", "select"),
    *("bit_depth", "skip_unreadable"),
)

_RUN_RULES = (
    _Rule(("latent_dim",), _lacks("has_networks", "no latents")),
    _Rule(("networks", "mixed_precision"), _without_networks),
    _Rule(("width", "rematerialize"), _without_blocks),
    _Rule(
        ("core_flow", "prior_flow"), _lacks("has_latent_flows", "no flows over latents")
    ),
    _Rule(("decoder_scale",), _lacks("has_latent_flows", "no Gaussian decoder")),
    _Rule(("flow_layers", "flow_units"), _without_layers),
    *_own_rules(),
    _Rule(("denoising_target",), _without_targets),
    _Rule(("num_samples", "num_marginal_images", "select"), _no_estimate),
    _Rule(
        ("bit_depth", "skip_unreadable"),
        lambda c: "" if c.dataset == "folder" else "it is for the data set folder",
    ),
    _Rule(("download",), lambda c: not_downloaded(c.dataset)),
)

_EVALUATION_RULES = (
    _Rule(
        ("num_frechet_images", "temperature"),
        lambda e: (
            ""
            if e.inspect or e.frechet != "none"
            else "without --frechet or --inspect no samples are judged"
        ),
    ),
    _Rule(
        ("inception_weights",),
        lambda e: "" if e.frechet == "inception" else "it is for --frechet inception",
    ),
    _Rule(
        ("classifier_dataset",),
        lambda e: "" if e.frechet == "classifier" else "it is for --frechet classifier",
    ),
    _Rule(
        ("num_samples", "num_repeats", "paper_estimator"),
        lambda e: "there is no estimate" * (e.proposal == "none"),
    ),
)

_MEASUREMENT_RULES = (
    _Rule(
        ("num_samples", "num_repeats", "proposal", "annealed_steps"),
        _no_estimate,
    ),
    _Rule(("paper_estimator",), _without_papers_estimator),
    _Rule(
        ("num_frechet_images", "temperature"),
        lambda c: (
            f"{_a(c.model)} draws no samples"
            if KINDS[c.model].likelihood == "none"
            else ""
        ),
    ),
    _Rule(("download",), lambda c: not_downloaded(c.dataset)),
)


def not_downloaded(dataset: str) -> str:
    """Returns why nothing downloads a data set; "" if something may."""
    info = DATASETS.get(dataset)
    if info is None:
        return ""
    if info.source != "tfds":
        return f"the images of {dataset} are your own"
    if info.embedded:
        return f"the {dataset} come with an installed package"
    return f"nothing can download {dataset}" if info.manual else ""


def unread_by_run(config: "RunSettings", names: Iterable[str]) -> dict[str, str]:
    """Returns the settings that a run with this configuration does not read.

    Args:
        config: The run.
        names: The settings that were named: fields, or `download`.

    Returns:
        Why, by the names of those that nothing reads.
    """
    return _unread(_RUN_RULES, config, names)


def unread_by_evaluation(
    config: "EvaluationConfig", run: "RunConfig | None", names: Iterable[str]
) -> dict[str, str]:
    """Returns the settings that an evaluation does not read.

    Args:
        config: What to evaluate.
        run: The run, if it is known.
        names: The settings that were named: fields, or `download`.

    Returns:
        Why, by the names of those that nothing reads.
    """
    names = tuple(names)
    unread = _unread(_EVALUATION_RULES, config, names)
    if run is None:
        return unread
    of_run = _unread(_MEASUREMENT_RULES, run, names)
    if config.inspect:
        # Reconstructions are judged of as many images.
        of_run.pop("num_frechet_images", None)
    if config.anomalies is not None or config.classifier_dataset is not None:
        # They may be what is downloaded.
        of_run.pop("download", None)
    return unread | of_run


def _unread(
    rules: Iterable[_Rule], config: Any, names: Iterable[str]
) -> dict[str, str]:
    whys = {name: rule.why(config) for rule in rules for name in rule.names}
    return {name: whys[name] for name in names if whys.get(name)}


def refuse_unread(unread: dict[str, str]) -> None:
    """Refuses options that nothing would read.

    Raises:
        ValueError: If there are any.
    """
    if not unread:
        return
    by_reason: dict[str, list[str]] = {}
    for name, why in unread.items():
        by_reason.setdefault(why, []).append(as_option(name))
    parts = [f"{', '.join(names)} ({why})" for why, names in by_reason.items()]
    raise ValueError(f"Nothing would read {' or '.join(parts)}: leave it out.")


def check_use(settings: "RunSettings") -> None:
    """Checks that nothing is set that nothing would read.

    Raises:
        ValueError: If there is something; the message says why.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name in _IDLE and value != field.default:
            why = unread_by_run(settings, [field.name]).get(field.name)
            if why:
                raise ValueError(f"{field.name} is {value!r}, but {why}: leave it out.")
    if settings.bit_depth is not None and not 8 <= settings.bit_depth <= 16:
        raise ValueError(f"bit_depth must be from 8 to 16, got {settings.bit_depth}.")
    if settings.num_levels is not None:
        info = DATASETS.get(settings.dataset)
        if info is not None and info.source == "tfds":
            raise ValueError(
                f"num_levels is {settings.num_levels}, but data set "
                f"{settings.dataset!r} has {info.num_levels} levels: leave it out."
            )
        if not 2 <= settings.num_levels <= 256:
            raise ValueError(
                f"num_levels must be from 2 to 256, got {settings.num_levels}."
            )
