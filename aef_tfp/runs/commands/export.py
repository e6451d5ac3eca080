"""Exports a run for serving: `aef-tfp export RUN OUT`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from aef_tfp.files import check_name
from aef_tfp.runs.command_line import parse, run_command
from aef_tfp.runs.config import RunConfig
from aef_tfp.terminal import as_typed, import_quietly

DESCRIPTION = """Export the best checkpoint of a run for serving.

OUT becomes a SavedModel for TensorFlow alone, or a directory of LiteRT files.

Every endpoint is compared with the model first."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to export, and where to."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run directory."""

    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Directory that does not exist yet. TensorFlow Serving wants its last part to be a
    version number: models/digits/1."""

    format: Literal["saved_model", "litert"] = "saved_model"
    """A SavedModel, or encode.tflite and decode.tflite."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    errors = (ValueError, OSError, RuntimeError)
    return run_command(_run, argv, "interrupted; nothing was exported", errors)


def _run(argv: list[str]) -> int:
    arguments = parse(Arguments, argv, DESCRIPTION, prog=as_typed("export"))
    check_name(arguments.out)
    if arguments.out.exists():
        # Also refused by the export, after the seconds that TensorFlow takes to start.
        raise FileExistsError(
            f"{arguments.out} exists; nothing is overwritten, choose another path."
        )
    RunConfig.from_run(arguments.run)
    best = import_quietly("aef_tfp.runs.best")
    export = import_quietly("aef_tfp.export")
    model = best.load_best(arguments.run)
    if arguments.format == "litert":
        differences = export.export_litert(model, arguments.out)
        lines = {name: f"{name}.tflite" for name in differences}
    else:
        differences = export.export_saved_model(model, arguments.out)
        lines = {one.name: _signature(one) for one in export.endpoints_of(model)}
    print(f"{arguments.run}, best checkpoint, to {arguments.out}:")
    width = max(map(len, lines.values()))
    for name, line in lines.items():
        print(f"  {line:<{width}}  {differences[name]:.1g}")
    print(
        "On the right, each endpoint's largest difference from the model, relative to "
        "the largest value."
    )
    if arguments.format == "litert" and "decode" not in differences:
        print(
            "No decode.tflite: LiteRT has no form for the loop of a partitioned "
            "model's core flow."
        )
    files = [path for path in arguments.out.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    weights = sum(weight.numpy().nbytes for weight in model.weights)
    print(f"Size: {size / 1e6:.2f} MB; the weights alone: {weights / 1e6:.2f} MB")
    return 0


def _signature(endpoint) -> str:
    inputs = ", ".join(
        f"{name}: {spec.dtype.name}{_shape(spec)}"
        for name, spec in endpoint.inputs.items()
    )
    return f"{endpoint.name}({inputs}) -> {endpoint.output}"


def _shape(spec) -> str:
    sides = ["batch" if side is None else str(side) for side in spec.shape]
    return f"[{', '.join(sides)}]" if sides else ""
