"""Two worker processes of a cluster on this machine."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from kill_and_resume import final_weights

from aef_tfp.runs import training
from aef_tfp.runs.commands import train as run

ROOT = Path(__file__).parents[1]

SETTINGS = [
    "digits-aef-center-8",
    "--networks=dense",
    "--core-flow=none",
    "--prior-flow=none",
    "--no-jit-compile",
    "--batch-size=30",
    "--validation-interval=30",
    "--save-interval=20",
]


_STARTED = []


@pytest.fixture(autouse=True)
def _none_is_left():
    yield
    while _STARTED:
        with _STARTED.pop() as process:
            process.terminate()


def start(command, *arguments):
    process = subprocess.Popen(
        [sys.executable, *command, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    _STARTED.append(process)
    return process


def finished(process, seconds=150):
    output, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, output[-3000:]
    return output


def worker_pids(launcher):
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text()
    return [int(pid) for pid in children.split()]


@pytest.mark.slow
@pytest.mark.usefixtures("training_alone")
def test_a_worker_that_dies_ends_the_others_and_the_run_ends_as_one_device_would(
    tmp_path, monkeypatch, mirrored
):
    run_dir = tmp_path / "workers"
    launcher = start(
        ["trainers/launch.py", "--workers=2"],
        *[*SETTINGS, "--iterations=100000", f"--run-dir={run_dir}"],
    )
    checkpoints = run_dir / "checkpoints"
    deadline = time.monotonic() + 100
    # Not at the first: the workers still agree after they have saved.
    while len(list(checkpoints.glob("iteration-*"))) < 2:
        assert time.monotonic() < deadline, "no checkpoint came"
        assert launcher.poll() is None
        time.sleep(0.1)
    # The chief is the first that was started.
    os.kill(worker_pids(launcher)[1], signal.SIGKILL)
    killed = time.monotonic()
    output, _ = launcher.communicate(timeout=60)
    assert time.monotonic() - killed < 30
    assert launcher.returncode == 1
    # TensorFlow and gRPC may say something, too.
    errors = re.findall(r"^\[worker \d\] error: .*", output, re.MULTILINE)
    assert len(errors) == 1, output
    message = r"The run stopped after iteration (\d+): another worker is gone"
    stopped = int(re.search(message, errors[0]).group(1))
    saved = int(max(checkpoints.glob("iteration-*")).name[-8:])
    assert 0 < saved <= stopped
    # More than an epoch, but few: rounding differs, and Adam lets that grow.
    last = f"--iterations={max(60, saved + 5)}"
    resumed = start(["trainers/launch.py", "--workers=2"], f"--resume={run_dir}", last)
    assert "[worker 1] Done; the first worker evaluates" in finished(resumed)
    assert (checkpoints / f"iteration-{max(60, saved + 5):08d}").is_dir()
    environment = json.loads((run_dir / "environment.json").read_text())
    assert environment["strategy"] == "CollectiveAllReduceStrategy"
    assert environment["replicas"] == 2

    shared = [*SETTINGS, last]
    device = [*shared, "--strategy=none", f"--run-dir={tmp_path / 'device'}"]
    assert run.main(device) == 0
    # On the one CPU of this machine; by itself, MirroredStrategy takes GPUs only.
    monkeypatch.setattr(training, "get_strategy", lambda name: mirrored)
    assert run.main([*shared, f"--run-dir={tmp_path / 'replicas'}"]) == 0
    expected = final_weights(tmp_path / "device")
    for name in ("workers", "replicas"):
        got = final_weights(tmp_path / name)
        assert got.keys() == expected.keys()
        for key, value in expected.items():
            difference = np.abs(np.float64(got[key]) - np.float64(value)).max()
            assert difference <= 1e-4 * max(np.abs(value).max(), 1e-3), (name, key)
