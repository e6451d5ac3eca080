"""The commands of the package: `aef-tfp train`, or `python -m aef_tfp train`."""

import difflib
import importlib
import sys
from collections.abc import Sequence

import aef_tfp
from aef_tfp.runs.command_line import BadCommandLine, run_command
from aef_tfp.runs.commands import COMMANDS
from aef_tfp.terminal import program_name

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command, e.g. `["train", "digits-aef-center-8"]`; returns its status.

    Args:
        argv: The command and its arguments; those of the process if None.
    """
    return run_command(_dispatch, argv, "interrupted")


def _dispatch(argv: list[str]) -> int:
    known = ", ".join(COMMANDS)
    if not argv:
        raise BadCommandLine(
            f"a command is missing; name one of {known}, or --help for what they do."
        )
    name, *arguments = argv
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name == "--version":
        print(f"aef_tfp {aef_tfp.__version__}")
        return 0
    if name not in COMMANDS:
        kind = "option" if name.startswith("-") else "command"
        # The names of the scripts, which do the same.
        close = {"run": ["train"]}.get(name) or difflib.get_close_matches(
            name, COMMANDS, n=1
        )
        hint = f"did you mean {close[0]}? The" if close else "the"
        raise BadCommandLine(
            f"there is no {kind} {name!r}; {hint} commands are {known}; --help "
            "says what they do."
        )
    # Only this one: each imports what it needs.
    command = importlib.import_module(f"aef_tfp.runs.commands.{name}")
    return command.main(arguments)


def _help() -> str:
    program = program_name()
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {program} COMMAND ...",
            "",
            "AutoEncoders within Flows (AEF) in Keras 3 and TensorFlow Probability.",
            "",
            *lines,
            "",
            f"{program} COMMAND --help shows the options of a command,",
            f"{program} --version the version. To begin with:",
            "",
            f"  {program} train                  # an AEF on 8 x 8 digits, one minute",
            f"  {program} evaluate runs/NAME     # the directory that it has named",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
