"""Kills runs at random moments, resumes them, and compares their final weights.

    python tests/kill_and_resume.py --kills 20
    python tests/kill_and_resume.py --kills 0 --together 20

Every second kill falls into a save, which a hook slows down. A run that is killed goes
on with `--resume`, or is started again if it had not come to writing its configuration.
It has to end with the weights of a run that nobody killed, to the bit.

With `--together`, two evaluations work on the run at the same time, over and over, and
all three are killed, each at a moment of its own. Whatever is read meanwhile, by them
or by this script, has to be whole, and best.keras has to say of which iteration it is.
"""

import argparse
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np

from aef_tfp.records import read_records
from aef_tfp.saved import read_label

SETTINGS = [
    "--networks=dense",
    "--flow-layers=1",
    "--flow-units=8",
    "--no-jit-compile",
    "--batch-size=32",
    "--steps-per-execution=1",
    "--iterations=12",
    "--validation-interval=4",
    "--save-interval=3",
]

# A model whose proposal an evaluation has to tune.
TOGETHER = [
    "digits-vae-2",
    *(part for part in SETTINGS if not part.startswith("--flow")),
    "--core-flow=none",
    "--prior-flow=none",
    "--num-samples=2",
    "--num-marginal-images=4",
]
EVALUATION = ["--num-images=4", "--num-samples=2"]

# A save waits this long after each of the four files and directories it flushes.
_SLOW_SECONDS = 0.3


def only_train(marker: str, argv: list[str]) -> int:
    """What the child of an uninterrupted run does; nobody looks at its evaluation."""
    from aef_tfp.callbacks import Pictures
    from aef_tfp.runs import training
    from aef_tfp.runs.commands import train

    training._evaluate = lambda *arguments: []
    Pictures.pictures = lambda self: iter(())
    return train.main(argv)


def run_slowly(marker: str, argv: list[str]) -> int:
    """What a child process does: the trainer, with saves that take a second."""
    from aef_tfp.runs.commands import train

    if marker:
        _slow_down(Path(marker))
    return train.main(argv)


def evaluate_slowly(run_dir: Path, argv: list[str]) -> int:
    """What another one does: evaluations one after the other, until it is killed.

    It ends with the first that fails, or as soon as a file beside the run says so.
    """
    from aef_tfp.runs import evaluation  # noqa: F401 - so that the first is as quick
    from aef_tfp.runs.commands import evaluate

    _slow_down(run_dir.with_suffix(".evaluating"))
    while not run_dir.with_suffix(".enough").exists():
        if not (run_dir / "best.keras").exists():
            time.sleep(0.05)
        elif status := evaluate.main([str(run_dir), *argv]):
            return status
    return 0


def _slow_down(marker: Path) -> None:
    from aef_tfp import files
    from aef_tfp.callbacks import store

    flush = files.flush_to_disk

    def slow(path: Path) -> None:
        flush(path)
        marker.touch()
        time.sleep(_SLOW_SECONDS)

    files.flush_to_disk = store.flush_to_disk = slow


def start(argv: list[str], marker: str = "", kind: str = "--child") -> subprocess.Popen:
    """Starts a run, or evaluations, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, __file__, kind, marker, *argv],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(argv: list[str], kind: str = "--child") -> None:
    """Runs to the end."""
    process = start(argv, kind=kind)
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


def check_whole(run_dir: Path, seen: dict[int, int]) -> None:
    """Reads what others are writing; all of it has to be whole at any time.

    Args:
        run_dir: The run.
        seen: The best models that were looked at, by their inode; gains the iteration.

    Raises:
        ValueError: If something is half-written, or is not what it says.
    """
    read_records(run_dir)
    for name in ("config.json", "data.json", "proposal-scales.json"):
        if (run_dir / name).exists():
            json.loads((run_dir / name).read_text())
    best = run_dir / "best.keras"
    if not best.exists():
        return
    with best.open("rb") as file:
        number = os.fstat(file.fileno()).st_ino
        data = file.read()
    if number in seen:
        return
    copy = run_dir.with_suffix(".keras")
    copy.write_bytes(data)
    label = read_label(copy)
    with zipfile.ZipFile(copy) as archive:
        weights = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(weights) as file:
        steps = int(file["optimizer/vars/0"][()])
    if steps != label.get("iteration"):
        raise ValueError(f"{best} says {label}, and has the weights of step {steps}.")
    seen[number] = steps


def kill_together(run_dir: Path, chance: random.Random) -> str:
    """Kills a training and two evaluations of it; says where the training was."""
    saving = str(run_dir.with_suffix(".saving"))
    processes = [
        start([*TOGETHER, f"--run-dir={run_dir}"], saving),
        start(EVALUATION, str(run_dir), "--evaluate"),
        start(EVALUATION, str(run_dir), "--evaluate"),
    ]
    seen: dict[int, int] = {}
    marker = run_dir.with_suffix(".evaluating")
    # From the first time on that an evaluation writes, if the training lets it.
    while not marker.exists() and processes[0].poll() is None:
        check_whole(run_dir, seen)
        time.sleep(0.02)
    began = time.monotonic()
    moments = {process: began + chance.uniform(0.0, 3.0) for process in processes}
    while moments:
        check_whole(run_dir, seen)
        time.sleep(0.02)
        for process, moment in list(moments.items()):
            ended = process.poll()
            if ended is None and time.monotonic() < moment:
                continue
            if ended:
                _, error = process.communicate()
                raise RuntimeError(f"{run_dir}: {error.strip()[-500:]}")
            process.kill()
            process.communicate()
            del moments[process]
    check_whole(run_dir, seen)
    asides = sorted(str(path.relative_to(run_dir)) for path in _asides(run_dir))
    halves = f", left {', '.join(asides)} half-written" if asides else ""
    saved = sorted((run_dir / "checkpoints").glob("iteration-*"))
    return f"after {saved[-1].name if saved else 'its start'}{halves}"


def _asides(run_dir: Path) -> list[Path]:
    return [*run_dir.glob(".*.writing-*"), *run_dir.glob("checkpoints/.writing")]


def resume_together(run_dir: Path) -> None:
    """Goes on to the end beside an evaluation, which has to work all the time."""
    evaluations = start(EVALUATION, str(run_dir), "--evaluate")
    if (run_dir / "config.json").exists():
        finish([f"--resume={run_dir}"])
    else:
        finish([*TOGETHER, f"--run-dir={run_dir}"])
    run_dir.with_suffix(".enough").touch()
    _, error = evaluations.communicate()
    if evaluations.returncode:
        raise RuntimeError(f"{run_dir}: {error.strip()[-500:]}")
    check_whole(run_dir, {})
    if left := _asides(run_dir):
        raise RuntimeError(f"{left} were left behind.")
    iterations = {record.iteration for record in read_records(run_dir)}
    if not iterations <= {4, 8, 12}:
        raise RuntimeError(f"{run_dir} has numbers of the iterations {iterations}.")


def is_equal(run_dir: Path, straight: Path) -> bool:
    """Whether a run has ended with the weights and the history of another."""
    got, expected = final_weights(run_dir), final_weights(straight)
    same = got.keys() == expected.keys() and all(
        np.array_equal(got[key], value) for key, value in expected.items()
    )
    name = "history.csv"
    return same and (run_dir / name).read_text() == (straight / name).read_text()


def main(argv: list[str]) -> int:
    """Prints a line per kill and the count; returns 1 if a run ended differently."""
    if argv[:1] == ["--child"]:
        return run_slowly(argv[1], argv[2:])
    if argv[:1] == ["--only-train"]:
        return only_train(argv[1], argv[2:])
    if argv[:1] == ["--evaluate"]:
        return evaluate_slowly(Path(argv[1]), argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--together", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    chance = random.Random(arguments.seed)
    equal = 0
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        straight = directory / "straight"
        began = time.monotonic()
        if arguments.kills:
            finish([*SETTINGS, f"--run-dir={straight}"], "--only-train")
        duration = time.monotonic() - began
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
            same = is_equal(run_dir, straight)
            equal += same
            outcome = "equal" if same else "DIFFERENT"
            print(f"{i + 1:3}: killed {when:27} resumed, {outcome}", flush=True)
        straight = directory / "straight-together"
        if arguments.together:
            finish([*TOGETHER, f"--run-dir={straight}"], "--only-train")
        for i in range(arguments.together):
            run_dir = directory / f"together-{i}"
            when = kill_together(run_dir, chance)
            resume_together(run_dir)
            same = is_equal(run_dir, straight)
            equal += same
            outcome = "equal" if same else "DIFFERENT"
            print(f"{i + 1:3}: all killed {when}; resumed, {outcome}", flush=True)
    number = arguments.kills + arguments.together
    print(f"{equal} of {number} runs ended as the uninterrupted one.")
    return int(equal != number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
