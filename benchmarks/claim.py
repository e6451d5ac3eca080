"""Trains and measures AEFs and VAEs at equal budgets: what the paper claims.

    python benchmarks/claim.py mnist --data-dir DIR --minutes 120

Each row is a run of `aef-tfp train` and two of `aef-tfp evaluate`. What is done is not
done again, what was interrupted goes on where it was: sittings of any length add up.
The tables go into docs/choosing.md between the study's two marks, as far as they are
there: a row whose run is not in --runs keeps the line that it has. --rows chooses some,
--dry-run prints the commands of all of them instead.
"""

import argparse
import fnmatch
import json
import math
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from claim_report import TIMES, draw, plot_curves, tables, times_of
from claim_studies import STUDIES, Row, Study, commands

from aef_tfp.files import locked, replace_text

_ROOT = Path(__file__).parents[1]
_DOCS = _ROOT / "docs" / "choosing.md"


def bring_up_to_date(study: Study, row: Row, runs: Path, data_dir: str) -> bool:
    """Does what a row lacks; False if a command of it failed."""
    run_dir = runs / row.name
    new = {"seconds": 0.0, "cpu_seconds": 0.0, "commands": []}
    done = times_of(runs).get(row.name, new)
    for number, command in enumerate(commands(study, row, run_dir, data_dir)):
        if number in done["commands"]:
            continue
        print(f"{time.strftime('%H:%M')} {shlex.join(command)}", flush=True)
        with (runs / f"{row.name}.log").open("a") as log:
            start, busy = time.monotonic(), _cpu_seconds()
            program = [sys.executable, str(_ROOT / command[0])]
            status = _run([*program, *command[1:]], log)
        if number == 0:
            # Of a training that was interrupted, too; times at which it stood still for
            # other work are in the one and not in the other.
            done["seconds"] += time.monotonic() - start
            if "cpu_seconds" in done:  # since its beginning
                done["cpu_seconds"] += _cpu_seconds() - busy
        if status == 0:
            done["commands"].append(number)
        # Another process may have measured other rows meanwhile.
        with locked(runs, ".times.lock", doing="writing the times in", wait_seconds=60):
            times = times_of(runs) | {row.name: done}
            replace_text(runs / TIMES, json.dumps(times, indent=2) + "\n")
        if status:
            print(f"    ended with status {status}; see {row.name}.log", flush=True)
            return False
    return True


def _cpu_seconds() -> float:
    """Of all processes that this one has waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _run(command: list[str], log) -> int:
    """Runs a command, which saves a checkpoint where this process is asked to end."""
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    former = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGTERM, former)


def write_table(name: str, runs: Path) -> None:
    """Puts the table of a study into the page."""
    first, last = f"<!-- benchmarks/claim.py {name} -->\n", f"<!-- end of {name} -->\n"
    study = STUDIES[name]
    if not _DOCS.exists() or first not in _DOCS.read_text():
        print(tables(study, runs))
        return
    before, rest = _DOCS.read_text().split(first)
    former, after = rest.split(last)
    _DOCS.write_text(f"{before}{first}\n{tables(study, runs, former)}\n{last}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--data-dir", default="DIR", help="folder of TFDS data sets")
    parser.add_argument("--runs", type=Path, default=Path("runs/claim"))
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="start no row later than this"
    )
    parser.add_argument(
        "--rows", nargs="+", default=["*"], metavar="NAME", help="as vae-*-d64-*"
    )
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument(
        "--draw", nargs=2, metavar=("D", "FILE"), help="samples of D latents, a PNG"
    )
    parser.add_argument(
        "--curves",
        nargs=2,
        metavar=("D", "FILE"),
        help="validation of D latents, a PNG",
    )
    arguments = parser.parse_args()
    study = STUDIES[arguments.study]
    runs = arguments.runs / arguments.study
    rows = [
        row
        for row in study.rows
        if any(fnmatch.fnmatch(row.name, name) for name in arguments.rows)
    ]
    if not rows:
        raise SystemExit(f"error: --rows: no row is named {' '.join(arguments.rows)}.")
    if arguments.dry_run:
        for row in rows:
            for command in commands(study, row, runs / row.name, arguments.data_dir):
                print("python", shlex.join(command))
        return
    for picture, of in ((arguments.draw, draw), (arguments.curves, plot_curves)):
        if picture:
            latent_dim, path = int(picture[0]), Path(picture[1])
            of(study, runs, latent_dim, path, arguments.data_dir)
    if arguments.draw or arguments.curves:
        return
    runs.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * arguments.minutes
    for row in rows:
        if time.monotonic() > end:
            break
        if not bring_up_to_date(study, row, runs, arguments.data_dir):
            break
    write_table(arguments.study, runs)


if __name__ == "__main__":
    main()
