"""Lists the presets: `aef-tfp presets`."""

import dataclasses
from collections.abc import Sequence

from aef_tfp.runs.command_line import parse, run_command
from aef_tfp.runs.config import RunConfig, RunSettings
from aef_tfp.runs.presets import PRESETS
from aef_tfp.terminal import as_typed

__all__ = ["main", "preset_list"]

DESCRIPTION = """List the presets, DATASET-MODEL-LATENT, and how long each trains."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """There are none."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_command(_run, argv, "interrupted")


def _run(argv: list[str]) -> int:
    parse(Arguments, argv, DESCRIPTION, prog=as_typed("presets"))
    print(preset_list())
    return 0


def preset_list() -> str:
    """Returns a line for each preset: its name, and how long it is trained."""
    width = max(map(len, PRESETS))
    return "\n".join(
        f"{name:<{width}}  {_summary(config)}" for name, config in PRESETS.items()
    )


def _summary(config: RunSettings) -> str:
    if isinstance(config, RunConfig):
        return f"{config.iterations} iterations, batch {config.batch_size}"
    return "chosen from your images"
