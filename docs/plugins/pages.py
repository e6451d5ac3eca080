"""MkDocs hook: the `--help` of the commands, and drawings that follow the theme."""

import itertools
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Puts the output of `--help` in place of `<!-- help: trainers/NAME.py -->`.

    `<!-- help: aef-tfp NAME -->` is for a command of the package, or all of them.
    """
    return re.sub(
        r"^<!-- help: (.+) -->$",
        lambda match: f"```text\n{help_of(match[1])}\n```",
        markdown,
        flags=re.MULTILINE,
    )


def on_page_content(html: str, **kwargs: Any) -> str:
    """Puts an SVG file itself in place of the image that names it.

    Only then the colours of the drawing can follow the switch of the theme; as an image
    it follows the setting of the system.
    """
    return re.sub(
        r'<img alt="[^"]*" src="(images/[^"]+\.svg)" ?/?>',
        lambda match: (_ROOT / "docs" / match[1]).read_text(),
        html,
    )


def help_of(command: str) -> str:
    """Returns what a command prints with `--help`, 80 columns wide.

    Args:
        command: A script, or `aef-tfp` with or without the name of a command.

    Raises:
        subprocess.CalledProcessError: If it fails.
    """
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1"}
    first, *words = command.split()
    started = [first]
    if first == "aef-tfp":
        # Not the installed one, which may be of another version.
        program = "import aef_tfp.__main__ as m, sys; sys.argv[0] = 'aef-tfp'; m.main()"
        started = ["-c", program]
    finished = subprocess.run(
        [sys.executable, *started, *words, "--help"],
        cwd=_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    # The description above the boxes comes in lines of any length.
    lines = (textwrap.wrap(line, 80) or [""] for line in finished.stdout.splitlines())
    return "\n".join(itertools.chain.from_iterable(lines)).strip()
