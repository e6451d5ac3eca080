"""Kills runs at random moments, resumes them, and compares their final weights.

    python tests/kill_and_resume.py --kills 20

Every second kill falls into a save, which a hook slows down. A run that is killed goes
on with `--resume`, or is started again if it had not come to writing its configuration.
It has to end with the weights of a run that nobody killed, to the bit.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

TRAINERS = Path(__file__).parents[1] / "trainers"

SETTINGS = [
    "--networks=dense",
    "--flow-layers=1",
    "--flow-units=8",
    "--no-jit-compile",
    "--batch-size=32",
    "--steps-per-execution=1",
    "--iterations=60",
    "--validation-interval=20",
    "--save-interval=6",
]

# A save waits this long after each of the four files and directories it flushes.
_SLOW_SECONDS = 0.3


def run_slowly(marker: str, argv: list[str]) -> int:
    """What a child process does: the trainer, with saves that take a second."""
    sys.path.insert(0, str(TRAINERS))
    import run

    from aef_tfp.callbacks import store

    flush = store.flush_to_disk

    def slow(path: Path) -> None:
        flush(path)
        Path(marker).touch()
        time.sleep(_SLOW_SECONDS)

    if marker:
        store.flush_to_disk = slow
    return run.main(argv)


def start(argv: list[str], marker: str = "") -> subprocess.Popen:
    """Starts a run, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, __file__, "--child", marker, *argv],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(argv: list[str]) -> None:
    """Runs to the end."""
    process = start(argv)
    _, error = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(argv)} failed: {error.strip()[-500:]}")


def kill(run_dir: Path, moment: float, marker: Path | None) -> str:
    """Kills a run after so many seconds, or so many into its first slow saves."""
    process = start([*SETTINGS, f"--run-dir={run_dir}"], str(marker or ""))
    if marker is not None:
        while not marker.exists() and process.poll() is None:
            time.sleep(0.01)
    try:
        process.wait(moment)
        return "after its end"
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    if (run_dir / "checkpoints" / ".writing").exists():
        return "while saving"
    if not (run_dir / "config.json").exists():
        return "before its start"
    saved = sorted((run_dir / "checkpoints").glob("iteration-*"))
    return f"after {saved[-1].name}" if saved else "before a checkpoint"


def final_weights(run_dir: Path) -> dict[str, np.ndarray]:
    """Weights and optimizer state of the last checkpoint."""
    values: dict[str, np.ndarray] = {}
    checkpoint = max((run_dir / "checkpoints").glob("iteration-*"))
    with h5py.File(checkpoint / "model.weights.h5") as file:

        def collect(name, item):
            if isinstance(item, h5py.Dataset):
                values[name] = item[()]

        file.visititems(collect)
    return values


def main(argv: list[str]) -> int:
    """Prints a line per kill and the count; returns 1 if a run ended differently."""
    if argv[:1] == ["--child"]:
        return run_slowly(argv[1], argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    chance = random.Random(arguments.seed)
    equal = 0
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        began = time.monotonic()
        finish([*SETTINGS, f"--run-dir={directory / 'straight'}"])
        duration = time.monotonic() - began
        expected = final_weights(directory / "straight")
        expected_history = (directory / "straight" / "history.csv").read_text()
        for i in range(arguments.kills):
            run_dir = directory / f"killed-{i}"
            marker = directory / f"saving-{i}" if i % 2 else None
            # A save has four flushes; the moment lies in the first, second or third.
            longest = 12 * _SLOW_SECONDS if marker else duration
            moment = chance.uniform(0.0, longest)
            when = kill(run_dir, moment, marker)
            if (run_dir / "config.json").exists():
                finish([f"--resume={run_dir}"])
            else:
                finish([*SETTINGS, f"--run-dir={run_dir}"])
            got = final_weights(run_dir)
            same = got.keys() == expected.keys() and all(
                np.array_equal(got[key], value) for key, value in expected.items()
            )
            same &= (run_dir / "history.csv").read_text() == expected_history
            equal += same
            outcome = "equal" if same else "DIFFERENT"
            print(f"{i + 1:3}: killed {when:27} resumed, {outcome}", flush=True)
    print(f"{equal} of {arguments.kills} runs ended as the uninterrupted one.")
    return int(equal != arguments.kills)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
