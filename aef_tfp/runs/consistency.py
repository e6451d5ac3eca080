"""That what lies in a run directory belongs to one run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aef_tfp.runs.config import RunConfig, RunSettings

__all__ = ["check_resumed", "check_weights"]


def check_weights(
    config: RunSettings, settings: Mapping[str, Any] | None, path: Path
) -> None:
    """Checks that weights are those of a run, not of another that was copied there.

    Args:
        config: The run.
        settings: What `RunConfig.of_weights` was when they were written; None if that
            is unknown.
        path: Where they lie.

    Raises:
        ValueError: If they were trained with other settings.
    """
    if settings is None:
        return
    changed = _changed(settings, config.of_weights())
    if changed:
        raise ValueError(
            f"{path} is of a run with other settings than config.json beside it has "
            f"({', '.join(changed)}): put back the one or the other."
        )


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} ({value} -> {now[name]})"
        for name, value in before.items()
        if name in now and value != now[name]
    ]


def check_resumed(run_dir: Path, config: RunSettings) -> None:
    """Checks that a run to go on in has these settings, but for the iterations.

    Raises:
        ValueError: If it has others; or other iterations, and a schedule that ends with
            them.
    """
    former = RunConfig.from_run(run_dir)
    if former.schedule == "cosine" and config.iterations != former.iterations:
        raise ValueError(
            f"The cosine schedule of {run_dir} ends at iteration {former.iterations}, "
            f"so --iterations stays that, got {config.iterations}; leave it out, or "
            "start a new run."
        )
    before = vars(former) | {"iterations": config.iterations}
    if changed := _changed(before, vars(config)):
        raise ValueError(
            f"A resumed run keeps its configuration, but {', '.join(changed)} would "
            f"change; start a new run instead of resuming {run_dir}."
        )
