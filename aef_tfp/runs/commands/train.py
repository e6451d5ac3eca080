"""Trains a model on a data set: `aef-tfp train digits-aef-center-8`."""

import contextlib
import dataclasses
import datetime
import itertools
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from aef_tfp.backend import StrategyName
from aef_tfp.data import check_source
from aef_tfp.files import check_name, writing
from aef_tfp.records import summary
from aef_tfp.runs.command_line import (
    ending_with_output,
    named_options,
    parse,
    place_as_before,
    run_command,
)
from aef_tfp.runs.commands.presets import preset_list
from aef_tfp.runs.config import RunConfig, RunSettings
from aef_tfp.runs.consistency import check_resumed
from aef_tfp.runs.defaults import pays_to_compile, without_patience
from aef_tfp.runs.kinds import KINDS
from aef_tfp.runs.presets import DEFAULT_PRESET, get_preset
from aef_tfp.runs.unread import refuse_unread, unread_by_run
from aef_tfp.saved import checkpoint_paths
from aef_tfp.terminal import as_option, as_typed, import_quietly, waiting

DESCRIPTION = """Train an AutoEncoder within Flows (AEF) and write a run directory.

Without arguments: an AEF of 8 x 8 digits, about one minute on two cores.

The preset sets every option below; name an option to change it."""


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
    folder of your images for folder, or your .npz file for npz; a resumed run looks
    where it was."""

    download: tyro.conf.FlagCreatePairsOff[bool] = False
    """Let TFDS download the data set if the data directory does not hold it."""

    resume: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Run directory to go on in, with its own settings; --iterations may change, unless
    the schedule is a cosine."""

    strategy: StrategyName = "auto"
    """Devices: auto takes the workers of TF_CONFIG, or else all GPUs."""

    list: tyro.conf.FlagCreatePairsOff[bool] = False
    """List the presets and stop."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return run_command(
        _run,
        argv,
        "interrupted before the training began",
        errors=(ValueError, OSError, ArithmeticError, RuntimeError),
    )


@dataclasses.dataclass(frozen=True)
class Command:
    """What a command line asks for, checked as far as can be without the images.

    Args:
        arguments: The arguments.
        run_dir: Where the run is, or will be; None if the presets are to be listed.
    """

    arguments: Arguments
    run_dir: Path | None


def read_command(argv: Sequence[str]) -> Command:
    """Reads a command line; nothing is loaded or written.

    Raises:
        ValueError: If it cannot be followed to the letter, or a file of the run that it
            resumes is damaged.
        FileNotFoundError: If there is no run to resume.
    """
    # Once for the preset or the run, which are the defaults of all options, and once
    # for the options. No word of it has two meanings then.
    words = [word for word in argv if word not in ("-h", "--help")]
    default = Arguments(get_preset(DEFAULT_PRESET), preset="")
    first = _parse(words, default)
    named = named_options(words)
    if first.list:
        _refuse_beside_list(first, named)
        return Command(first, None)
    base: RunSettings
    if first.resume is None:
        base = get_preset(first.preset or DEFAULT_PRESET)
    else:
        _refuse_beside_resume(first)
        base = RunConfig.from_run(first.resume)
    arguments = _parse(argv, Arguments(base))
    config = arguments.config
    config.check()
    if first.resume is not None:
        check_resumed(first.resume, config)
    refuse_unread(unread_by_run(config, named))
    if first.resume is None and "jit_compile" not in named:
        chosen = pays_to_compile(config.iterations)
        config = dataclasses.replace(config, jit_compile=chosen)
        arguments = dataclasses.replace(arguments, config=config)
    if first.resume is None and "patience" not in named:
        config = without_patience(config)
        arguments = dataclasses.replace(arguments, config=config)
    run_dir = first.resume or arguments.run_dir or _new_run_dir(arguments.preset)
    check_name(run_dir)
    return Command(arguments, run_dir)


def _parse(argv: Sequence[str], default: Arguments) -> Arguments:
    return parse(Arguments, argv, DESCRIPTION, default, prog=as_typed("train"))


def _run(argv: list[str]) -> int:
    command = read_command(argv)
    arguments, run_dir = command.arguments, command.run_dir
    if run_dir is None:
        print(preset_list())
        return 0

    if arguments.resume is not None:
        place = place_as_before(arguments.resume, arguments.data_dir)
        arguments = dataclasses.replace(arguments, data_dir=place)
    check_source(arguments.config.dataset, arguments.data_dir)
    is_named = arguments.resume is not None or arguments.run_dir is not None
    # Of several machines, the first one writes, and none knows yet which it is.
    with contextlib.ExitStack() as stack:
        stack.enter_context(ending_with_output())
        if not is_named and not os.environ.get("TF_CONFIG"):
            run_dir = stack.enter_context(_claimed(run_dir))
        return _train(arguments, run_dir)


@contextlib.contextmanager
def _claimed(run_dir: Path) -> Iterator[Path]:
    """Makes the directory of a new run, which another may have made this very second.

    If nothing is written into it, it is gone afterwards.
    """
    names = (f"{run_dir.name}-{number}" for number in itertools.count(2))
    path = run_dir
    with writing(run_dir):
        run_dir.parent.mkdir(parents=True, exist_ok=True)
        while True:
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                break
            path = run_dir.with_name(next(names))
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            path.rmdir()


def _train(arguments: Arguments, run_dir: Path) -> int:
    config = arguments.config
    print(
        f"{config.model} on {config.dataset}{_latents(config)}: {_length(config)}. "
        f"Run directory: {run_dir}",
        flush=True,
    )
    with waiting("starting TensorFlow"):
        training = import_quietly("aef_tfp.runs.training")
        callbacks = import_quietly("aef_tfp.callbacks")
        failures = import_quietly("aef_tfp.runs.failures")
    try:
        records = training.train(
            config,
            run_dir,
            data_dir=arguments.data_dir,
            download=arguments.download,
            resume=arguments.resume is not None,
            strategy=arguments.strategy,
            verbose=1 if sys.stdout.isatty() else 2,
        )
    except callbacks.RunInterrupted as interruption:
        of_total = f" of {config.iterations}" if config.iterations else ""
        print(
            f"Saved at iteration {interruption.iteration}{of_total}; "
            f"go on with: {_resume(arguments, run_dir)}",
            file=sys.stderr,
        )
        return 128 + interruption.signal_number
    except failures.EvaluationInterrupted as interruption:
        evaluate = as_typed("evaluate", run_dir, *_place(arguments))
        print(f"{interruption}; evaluate it with: {evaluate}", file=sys.stderr)
        return 128 + interruption.signal_number
    except KeyboardInterrupt as interruption:
        print(_interrupted(arguments, run_dir), file=sys.stderr)
        return 128 + getattr(interruption, "signal_number", signal.SIGINT)
    if not records:
        print("Done; the first worker evaluates the model and writes the files.")
        return 0
    print("Best validation checkpoint on the test set:")
    print(summary(records))
    pictures = ", ".join(str(path) for path in sorted(run_dir.glob("*.png")))
    print(
        f"Pictures: {pictures}; logs: tensorboard --logdir {shlex.quote(str(run_dir))}"
    )
    return 0


def _place(arguments: Arguments) -> list[object]:
    return ["--data-dir", arguments.data_dir] if arguments.data_dir else []


def _resume(arguments: Arguments, run_dir: Path) -> str:
    words: list[object] = ["--resume", run_dir, *_place(arguments)]
    if arguments.strategy != "auto":
        words += ["--strategy", arguments.strategy]
    return as_typed("train", *words)


def _interrupted(arguments: Arguments, run_dir: Path) -> str:
    """What there is of a run that was ended without saving, and how it goes on."""
    saved = checkpoint_paths(run_dir / "checkpoints")
    if saved:
        newest = max(number for number, _ in saved)
        resume = _resume(arguments, run_dir)
        return f"interrupted; go on from iteration {newest} with: {resume}"
    if (run_dir / "config.json").is_file():
        again = _resume(arguments, run_dir)
        return f"interrupted before a checkpoint was saved; begin anew with: {again}"
    return "interrupted before the training began; nothing is written"


def _latents(config: RunSettings) -> str:
    has_latents = KINDS[config.model].has_networks
    return f", d = {config.latent_dim}" if has_latents else ""


def _length(config: RunSettings) -> str:
    """What is known of the iterations before the images are."""
    total, epoch = config.iterations, config.validation_interval
    if total and epoch:
        epoch = min(epoch, total)
        return (
            f"{total} iterations, an epoch below is {epoch} of them and one validation"
        )
    if total:
        return f"{total} iterations, the rest is chosen from your images"
    return "iterations and more are chosen from your images"


def _refuse_beside_list(arguments: Arguments, named: Sequence[str]) -> None:
    others = [as_option(name) for name in named if name != "list"]
    if arguments.preset:
        others.insert(0, arguments.preset)
    if others:
        raise ValueError(
            f"--list lists all presets and stops; leave out {', '.join(others)}."
        )


def _refuse_beside_resume(arguments: Arguments) -> None:
    if arguments.preset:
        raise ValueError(
            "A resumed run has its own configuration; leave out the preset "
            f"{arguments.preset}."
        )
    if arguments.run_dir is not None:
        raise ValueError(
            "A resumed run goes on in its own directory; leave out --run-dir "
            f"{arguments.run_dir}."
        )


def _new_run_dir(preset: str) -> Path:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{preset}-{stamp}"
