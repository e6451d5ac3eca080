"""Trains with several workers on this machine: `python trainers/launch.py PRESET`."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from aef_tfp.runs.command_line import Terminated, parse, run_command
from aef_tfp.runs.commands.train import read_command

DESCRIPTION = """Start several processes of run.py on this machine.

They train one model together, as the machines of a cluster would. That is for trying it
out: GPUs are hidden from them, and CPU cores are shared. Each line of output names its
worker. All other arguments are those of run.py."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What the launcher itself takes."""

    workers: Annotated[int, tyro.conf.arg(metavar="N")] = 2
    """Processes to start."""


# After one has failed, the others notice by themselves within half a minute.
_GRACE_SECONDS = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the first exit status that is not 0."""
    return run_command(_launch, argv, "interrupted")


def _launch(argv: list[str]) -> int:
    arguments, argv = parse(Arguments, argv, DESCRIPTION, return_unknown_args=True)
    count = arguments.workers
    if count < 1:
        raise ValueError(f"--workers must be at least 1, got {count}.")
    # What is wrong with it is better said once than by each of them.
    command = read_command(argv)
    if command.run_dir is None:
        raise ValueError("--list is for run.py: python trainers/run.py --list.")
    strategy = command.arguments.strategy
    if strategy not in ("auto", "multi-worker"):
        raise ValueError(
            f"With --strategy {strategy} each worker would train alone; leave it out."
        )
    if os.environ.get("TF_CONFIG"):
        raise ValueError(
            "TF_CONFIG is set, but the workers get one of their own; unset it, or "
            "start run.py on each machine that it names."
        )
    if command.arguments.resume is None and command.arguments.run_dir is None:
        # Each of them would name one of its own.
        argv = [*argv, f"--run-dir={command.run_dir}"]
    addresses = _free_addresses(count)
    workers = [_start(addresses, index, argv) for index in range(count)]
    printers = [
        threading.Thread(target=_print_lines, args=worker)
        for worker in enumerate(workers)
    ]
    for printer in printers:
        printer.start()
    try:
        status = _wait(workers)
    except KeyboardInterrupt as interruption:
        # A terminal sends its Ctrl-C to the workers, too. They save and stop.
        if isinstance(interruption, Terminated):
            for worker in workers:
                worker.terminate()
        status = _wait(workers)
    finally:
        for worker in workers:
            worker.kill()
    for printer in printers:
        printer.join()
    return status


def _free_addresses(count: int) -> list[str]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return addresses


def _start(addresses: list[str], index: int, argv: list[str]) -> subprocess.Popen:
    task = {"type": "worker", "index": index}
    cluster = {"cluster": {"worker": addresses}, "task": task}
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("run.py")), *argv],
        env={
            **os.environ,
            "TF_CONFIG": json.dumps(cluster),
            "CUDA_VISIBLE_DEVICES": "-1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _print_lines(index: int, worker: subprocess.Popen) -> None:
    assert worker.stdout is not None
    with worker.stdout as lines:
        for line in lines:
            print(f"[worker {index}] {line}", end="", flush=True)


def _wait(workers: list[subprocess.Popen]) -> int:
    """Waits for all; after one has failed, for the others only so long."""
    deadline = None
    while any(worker.poll() is None for worker in workers):
        failed = [worker for worker in workers if worker.poll() not in (None, 0)]
        if failed and deadline is None:
            deadline = time.monotonic() + _GRACE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            for worker in workers:
                worker.send_signal(signal.SIGKILL)
        time.sleep(0.1)
    codes = [worker.returncode for worker in workers if worker.returncode]
    # As a shell has it for a process that a signal ended.
    return (128 - codes[0] if codes[0] < 0 else codes[0]) if codes else 0


if __name__ == "__main__":
    sys.exit(main())
