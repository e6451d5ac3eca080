"""Trains a model on a data set: `python trainers/run.py digits-aef-center-8`."""

import dataclasses
import datetime
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from aef_tfp.config import (
    DEFAULT_PRESET,
    PRESETS,
    RunConfig,
    RunSettings,
    StrategyName,
    get_preset,
)
from aef_tfp.terminal import import_quietly, run_command

DESCRIPTION = """Train an AutoEncoder within Flows (AEF) and write a run directory.

Without arguments it trains an AEF with an exact likelihood on 8 x 8 digits that come
with scikit-learn; that takes about two minutes on two cores. The preset sets every
option below; name an option to change it."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Where a run starts from and where its files lie."""

    config: tyro.conf.OmitArgPrefixes[RunSettings]

    preset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PRESET")] = (
        DEFAULT_PRESET
    )
    """DATASET-MODEL-LATENT, e.g. mnist-aef-linear-32; --list shows all."""

    run_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Directory for everything the run writes; a new one under runs/ by default."""

    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """TFDS data directory that holds the data set (TFDS's own by default), or the
    folder of your images for folder, or your .npz file for npz."""

    download: tyro.conf.FlagCreatePairsOff[bool] = False
    """Let TFDS download the data set if the data directory does not hold it."""

    resume: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Run directory to go on in, with its own settings; --iterations may change."""

    strategy: StrategyName = "auto"
    """Devices: auto takes the workers of TF_CONFIG, or else all GPUs."""

    list: tyro.conf.FlagCreatePairsOff[bool] = False
    """List the presets and stop."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_command(
        _run,
        argv,
        "interrupted; --resume goes on from the last checkpoint",
        errors=(ValueError, OSError, ArithmeticError, RuntimeError),
    )


def _run(argv: list[str]) -> int:
    resumed = _resumed_directory(argv)
    preset = _preset_name(argv)
    base: RunSettings
    if resumed is None:
        base = get_preset(preset or DEFAULT_PRESET)
    else:
        base = RunConfig.from_run(resumed)
    arguments = tyro.cli(
        Arguments, args=argv, default=Arguments(config=base), description=DESCRIPTION
    )
    if arguments.list:
        print(_preset_list())
        return 0
    config = arguments.config
    config.check()
    if resumed is not None:
        _refuse_changes(base, arguments, preset)
    run_dir = resumed or arguments.run_dir or _new_run_dir(arguments.preset)

    print(
        f"{config.model} on {config.dataset}, d = {config.latent_dim}: "
        f"{_length(config)}. Run directory: {run_dir}",
        flush=True,
    )
    training = import_quietly("aef_tfp.training")
    callbacks = import_quietly("aef_tfp.callbacks")
    try:
        records = training.train(
            config,
            run_dir,
            data_dir=arguments.data_dir,
            download=arguments.download,
            resume=resumed is not None,
            strategy=arguments.strategy,
            verbose=1 if sys.stdout.isatty() else 2,
        )
    except callbacks.RunInterrupted as interruption:
        command = ["python", "trainers/run.py", "--resume", str(run_dir)]
        if arguments.data_dir:
            command += ["--data-dir", str(arguments.data_dir)]
        of_total = f" of {config.iterations}" if config.iterations else ""
        print(
            f"Saved at iteration {interruption.iteration}{of_total}; "
            f"go on with: {shlex.join(command)}",
            file=sys.stderr,
        )
        return 128 + interruption.signal_number
    if not records:
        print("Done; the first worker evaluates the model and writes the files.")
        return 0
    metrics = import_quietly("aef_tfp.metrics")
    print("Best validation checkpoint on the test set:")
    print(metrics.summary(records))
    pictures = ", ".join(str(path) for path in sorted(run_dir.glob("*.png")))
    print(f"Pictures: {pictures}; logs: tensorboard --logdir {run_dir}")
    return 0


def _resumed_directory(argv: list[str]) -> Path | None:
    """Finds --resume ahead of the parser, for the defaults of all other options."""
    for i, argument in enumerate(argv):
        name, _, value = argument.partition("=")
        if name == "--resume":
            return Path(value or next(iter(argv[i + 1 :]), ""))
    return None


def _preset_name(argv: list[str]) -> str | None:
    """Finds the preset ahead of the parser: the first argument, or an exact name."""
    if argv and not argv[0].startswith("-"):
        return argv[0]
    return next((name for name in argv if name in PRESETS), None)


def _length(config: RunSettings) -> str:
    """What is known of the iterations before the images are."""
    total, epoch = config.iterations, config.validation_interval
    if total and epoch:
        return (
            f"{total} iterations, an epoch below is {epoch} of them and one validation"
        )
    if total:
        return f"{total} iterations, the rest is chosen from your images"
    return "iterations and more are chosen from your images"


def _refuse_changes(
    base: RunSettings, arguments: Arguments, preset: str | None
) -> None:
    config, run_dir = arguments.config, arguments.resume
    if preset is not None:
        raise ValueError(
            f"A resumed run has its own configuration; leave out the preset {preset}."
        )
    if arguments.run_dir is not None:
        raise ValueError(
            "A resumed run goes on in its own directory; leave out --run-dir "
            f"{arguments.run_dir}."
        )
    changed = [
        f"{field.name} ({getattr(base, field.name)} -> {getattr(config, field.name)})"
        for field in dataclasses.fields(base)
        if field.name != "iterations"
        and getattr(base, field.name) != getattr(config, field.name)
    ]
    if changed:
        raise ValueError(
            f"A resumed run keeps its configuration, but {', '.join(changed)} would "
            f"change; start a new run instead of resuming {run_dir}."
        )


def _new_run_dir(preset: str) -> Path:
    # A time stamp, so that no run is ever in the way of another.
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{preset}-{stamp}"


def _preset_list() -> str:
    width = max(map(len, PRESETS))
    return "\n".join(
        f"{name:<{width}}  {_summary(config)}" for name, config in PRESETS.items()
    )


def _summary(config: RunSettings) -> str:
    if isinstance(config, RunConfig):
        return f"{config.iterations} iterations, batch {config.batch_size}"
    return "chosen from your images"


if __name__ == "__main__":
    sys.exit(main())
