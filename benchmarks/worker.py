"""What both sides of a comparison share: a process that prepares and times cases.

`speed.py` starts one process per library and asks them in turn, a line of JSON for each
request and answer, so that neither library's threads run while the other is timed.
"""

import dataclasses
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Case", "Worker", "builders_of", "serve"]


_LONG_SECONDS = 3.0


@dataclasses.dataclass(frozen=True)
class Case:
    """Something to time.

    Args:
        run: Does it once, and returns when it is done.
        units: How many steps, batches or the like one call of `run` makes.
        facts: What the report needs, e.g. the number of parameters.
        seconds: What counts, asked for after `run`, where that is not the time of the
            call.
    """

    run: Callable[[], Any]
    units: int = 1
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seconds: Callable[[], float] | None = None


class Worker:
    """The process of one library, seen from `speed.py`."""

    def __init__(self, script: str):
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name(script))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def prepare(self, case: str) -> dict[str, Any]:
        """Builds a case and runs it once, compilation included; returns its facts."""
        return self._ask(prepare=case)

    def measure(self, case: str, repeats: int) -> list[float]:
        """Returns the seconds per unit of each repeat."""
        return self._ask(measure=case, repeats=repeats)

    def forget(self) -> None:
        """Frees what was prepared."""
        self._ask(forget=True)

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()

    def _ask(self, **request: Any) -> Any:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"The process failed that was asked for {request}.")
        return json.loads(answer)


def builders_of(
    kinds: Mapping[str, Callable[[str], Case]], names: Iterable[str]
) -> dict[str, Callable[[], Case]]:
    """Returns what builds each kind of case for each setting, as "KIND NAME"."""
    return {
        f"{kind} {name}": functools.partial(build, name)
        for kind, build in kinds.items()
        for name in names
    }


def serve(builders: Mapping[str, Callable[[], Case]]) -> None:
    """Answers a `Worker` on standard input and output until the input ends."""
    # Libraries print what they like; answers keep the output for themselves.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    cases: dict[str, Case] = {}
    for line in sys.stdin:
        request = json.loads(line)
        answer: Any = None
        if "prepare" in request:
            name = request["prepare"]
            case = cases[name] = builders[name]()
            case.run()
            answer = dict(case.facts)
        elif "measure" in request:
            case = cases[request["measure"]]
            # After a pause the first call finds threads asleep and caches cold. What
            # takes long does not notice.
            first = _seconds(case)
            is_long = first * case.units > _LONG_SECONDS
            answer = [first] if is_long else []
            while len(answer) < request["repeats"]:
                answer.append(_seconds(case))
        else:
            cases.clear()
        print(json.dumps(answer), file=answers, flush=True)


def _seconds(case: Case) -> float:
    start = time.perf_counter()
    case.run()
    seconds = case.seconds() if case.seconds else time.perf_counter() - start
    return seconds / case.units
