"""Times aef_tfp beside PyTorch and TensorFlow Probability: one command, one run.

    python benchmarks/speed.py

The contenders of a comparison are timed in turn (A B A B ...), each in the process of
its library, while the other sleeps. The table of medians and ranges goes into
`docs/speed.md` between its two marks, the plot beside the other pictures. With --output
they go to a directory instead, with all times in `speed.json`.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from arithmetic import step_operations
from settings import (
    EVALUATED,
    NUM_IMPORTANCE,
    NUM_SAMPLES,
    PRODUCT_OPERATIONS,
    PRODUCT_SIZE,
    SETTINGS,
)
from worker import Worker

SIDES = {"aef_tfp": "aef_side.py", "PyTorch": "pytorch_side.py"}

_DOCS = Path(__file__).parents[1] / "docs"
_MARKS = "<!-- benchmarks/speed.py -->\n", "<!-- end of benchmarks/speed.py -->\n"


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way to do what is compared.

    Args:
        label: Its column.
        side: Whose process runs it, a key of SIDES.
        case: The case's name there.
    """

    label: str
    side: str
    case: str


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One row: aef_tfp first, then the others.

    Args:
        title: What is done.
        contenders: Who does it.
        operations: What it takes, for the share of the machine's rate, which those of
            `_products()` among the contenders measure; 0 if unknown.
        rounds: Turns of each contender.
        repeats: Timed calls in a turn.
    """

    title: str
    contenders: tuple[Contender, ...]
    operations: int = 0
    rounds: int = 4
    repeats: int = 3


# Steps of seconds need fewer turns to tell them apart.
_LONG = {"rounds": 3, "repeats": 1}


def comparisons() -> list[Comparison]:
    """All rows, in their order."""
    rows = []
    names = {"aef": "AEF (linear)", "vae": "VAE"}
    steps = ("aef-2", "aef-32", "vae-2", "vae-32", "aef-residual-64", "vae-residual-64")
    for name in steps:
        setting = SETTINGS[name]
        side = setting.image_shape[0]
        kind = names[name[:3]] + (
            ", residual" if setting.networks == "residual" else ""
        )
        rows.append(
            Comparison(
                f"Training step: {kind}, {side} x {side}, d = {setting.latent_dim}, "
                f"batch {setting.batch_size}",
                (
                    Contender("aef_tfp", "aef_tfp", f"train {name}"),
                    Contender("PyTorch", "PyTorch", f"train {name}"),
                    Contender("compiled", "PyTorch", f"train compiled {name}"),
                    *_products(),
                ),
                step_operations(setting),
                **(_LONG if setting.networks == "residual" else {}),
            )
        )
    for name in ("aef-32", "aef-128", "aef-256"):
        rows.append(
            Comparison(
                f"{NUM_SAMPLES} samples: 28 x 28, d = {SETTINGS[name].latent_dim}",
                (
                    Contender("aef_tfp", "aef_tfp", f"sample {name}"),
                    Contender("PyTorch", "PyTorch", f"sample {name}"),
                    Contender("TFP", "aef_tfp", f"sample by TFP {name}"),
                ),
                rounds=3,
            )
        )
    rows.append(
        Comparison(
            f"Likelihood of {EVALUATED} images, K = {NUM_IMPORTANCE}: d = 32",
            _both("evaluate aef-32"),
            rounds=3,
            repeats=1,
        )
    )
    rows.append(Comparison("Input pipeline: a batch of 128", _both("pipeline aef-32")))
    contenders = (
        Contender("aef_tfp", "aef_tfp", "fit aef-32"),
        # Of the very same calls: what is asked for is small beside how much the
        # machine's own speed varies from one call to the next.
        Contender("its steps", "aef_tfp", "steps of fit aef-32"),
        Contender("steps alone", "aef_tfp", "loop aef-32"),
    )
    title = "Step in `fit` with its callbacks, d = 32"
    rows.append(Comparison(title, contenders, rounds=5, repeats=1))
    return rows


def _both(case: str) -> tuple[Contender, ...]:
    return tuple(Contender(side, side, case) for side in SIDES)


def _products() -> tuple[Contender, ...]:
    """The machine's rate in the same turns: its speed varies from row to row."""
    return tuple(Contender(f"product by {side}", side, "products") for side in SIDES)


def measure(comparison: Comparison, workers: dict[str, Worker]) -> dict[str, list]:
    """Returns the milliseconds per unit of each contender, in turn measured."""
    facts = {
        contender.label: workers[contender.side].prepare(contender.case)
        for contender in comparison.contenders
    }
    counts = {fact["parameters"] for fact in facts.values() if "parameters" in fact}
    if len(counts) > 1:
        raise RuntimeError(f"{comparison.title}: not the same model, {facts}.")
    times: dict[str, list] = {c.label: [] for c in comparison.contenders}
    for _ in range(comparison.rounds):
        for one in comparison.contenders:
            seconds = workers[one.side].measure(one.case, comparison.repeats)
            times[one.label] += [1e3 * value for value in seconds]
    for worker in workers.values():
        worker.forget()
    return times


def product_rate(times: dict[str, list]) -> float | None:
    """Operations per second of a large matrix product, the better library's median.

    Args:
        times: Milliseconds, among them those of `_products()`; None without them.
    """
    medians = [np.median(v) for k, v in times.items() if k.startswith("product by")]
    return PRODUCT_OPERATIONS / min(medians) * 1e3 if medians else None


def first_steps(repeats: int = 5) -> dict[str, dict[str, list[float]]]:
    """Milliseconds from the start of a process until its first step is done, by row."""
    start = "From the start of a process to the first step done: d = 32"
    cases = {
        (f"{start}, no XLA", "aef_tfp"): ["aef_side.py", "--no-jit-compile"],
        (start, "aef_tfp"): ["aef_side.py"],
        (start, "PyTorch"): ["pytorch_side.py"],
    }
    times: dict[str, dict[str, list[float]]] = {}
    for _ in range(repeats):
        for (title, side), (script, *options) in cases.items():
            seconds = _until_first_step(script, *options)
            times.setdefault(title, {}).setdefault(side, []).append(1e3 * seconds)
    # One peer for both.
    times[f"{start}, no XLA"]["PyTorch"] = times[start]["PyTorch"]
    return times


def _until_first_step(script: str, *options: str) -> float:
    path = Path(__file__).with_name(script)
    command = [sys.executable, str(path), "--first-step", "aef-32", *options]
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        # The process says when it is done; how long it takes to end is not the step's.
        if process.stdout is None or "done" not in process.stdout.readline():
            raise RuntimeError(f"{script} made no first step.")
        return time.perf_counter() - begin


def tables(results: dict[str, dict[str, list]], operations: dict[str, int]) -> str:
    """The results as Markdown: beside the peers, and what `fit` adds to its steps."""
    peers = [
        "| | aef_tfp | PyTorch | compiled PyTorch | TFP's bijector | ratio | share |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    fits = [
        "| | `fit` | its steps | steps alone | ratio |",
        "| --- | --- | --- | --- | --- |",
    ]
    for title, times in results.items():
        own = float(np.median(times["aef_tfp"]))
        others = {
            label: spread(values)
            for label, values in times.items()
            if label != "aef_tfp" and not label.startswith("product by")
        }
        if "its steps" in others:
            turns = [
                np.divide(times["aef_tfp"], times[label])
                for label in ("its steps", "steps alone")
            ]
            ratios = [f"{np.median(turn):.3f}" for turn in turns]
            cells = [title, spread(times["aef_tfp"]), *others.values()]
            fits.append(f"| {' | '.join(cells)} | {' / '.join(ratios)} |")
            continue
        ratios = [f"{np.median(times[label]) / own:.3g}" for label in others]
        needed, rate = operations.get(title), product_rate(times)
        cells = [
            title,
            spread(times["aef_tfp"]),
            *(others.get(label, "") for label in ("PyTorch", "compiled", "TFP")),
            " / ".join(ratios),
            f"{needed / rate / own * 1e3:.0%}" if needed and rate else "",
        ]
        peers.append(f"| {' | '.join(cells)} |")
    return "\n\n".join("\n".join(lines) for lines in (peers, fits))


def between_marks(page: str, text: str) -> str:
    """Returns a page with a text in place of what stands between the two marks."""
    before, _, rest = page.partition(_MARKS[0])
    _, end, after = rest.partition(_MARKS[1])
    if not end:
        raise ValueError(f"The page needs the lines {_MARKS[0]!r} and {_MARKS[1]!r}.")
    return f"{before}{_MARKS[0]}\n{text}\n{_MARKS[1]}{after}"


def spread(milliseconds: list) -> str:
    """Median, least and most."""
    middle, least, most = (
        f"{f(milliseconds):.3g}" if f(milliseconds) < 1000 else f"{f(milliseconds):.0f}"
        for f in (np.median, np.min, np.max)
    )
    return f"{middle} ({least} to {most})"


def machine() -> str:
    """What it ran on, one sentence."""
    names = ("tensorflow", "keras", "tensorflow-probability", "torch", "nflows")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    return (
        f"{os.cpu_count()} CPU cores ({_processor()}), no GPU; Python "
        f"{platform.python_version()}, {versions}."
    )


def products(results: dict[str, dict[str, list]]) -> str:
    """The machine's rate beside the rows that have one; empty without such a row."""
    rates = [rate / 1e9 for rate in map(product_rate, results.values()) if rate]
    if not rates:
        return ""
    return (
        f" A product of two {PRODUCT_SIZE} x {PRODUCT_SIZE} matrices in float32 ran at "
        f"{min(rates):.0f} to {max(rates):.0f} GFLOP/s beside the training steps."
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def plot(results: dict[str, dict[str, list]], path: Path) -> None:
    """How many times as long the others take, one bar each."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    bars = [
        (title, label, np.median(times[label]) / np.median(times["aef_tfp"]))
        for title, times in results.items()
        for label in ("PyTorch", "compiled", "TFP")
        if label in times
    ]
    colors = {"PyTorch": "tab:orange", "compiled": "tab:red", "TFP": "tab:purple"}
    figure, axes = plt.subplots(figsize=(9, 0.32 * len(bars) + 1), layout="constrained")
    for i, (_, label, ratio) in enumerate(bars):
        axes.barh(i, ratio - 1.0, left=1.0, color=colors[label])
        outwards = {"ha": "left"} if ratio >= 1.0 else {"ha": "right"}
        place = ratio * 1.03 if ratio >= 1.0 else ratio / 1.03
        axes.text(place, i, f"{ratio:.1f}", va="center", fontsize=8, **outwards)
    axes.set_yticks(range(len(bars)), [bar[0] for bar in bars], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    ratios = [ratio for *_, ratio in bars]
    axes.set_xlim(min(0.6, 0.6 * min(ratios)), 1.6 * max(ratios))
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xlabel("time of the other / time of aef_tfp (logarithmic)")
    shown = {label for _, label, _ in bars}
    names = {"compiled": "compiled PyTorch", "TFP": "TFP's bijector"}
    handles = [
        plt.Rectangle((0, 0), 1, 1, color=color, label=names.get(label, label))
        for label, color in colors.items()
        if label in shown
    ]
    axes.legend(handles=handles, fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)


def main(argv=None) -> int:
    """Measures, prints and writes; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, help="directory of the files; docs/ for all rows"
    )
    parser.add_argument("--only", help="regular expression: rows whose title has it")
    arguments = parser.parse_args(argv)
    wanted = re.compile(arguments.only or "")
    workers = {side: Worker(script) for side, script in SIDES.items()}
    results, operations = {}, {}
    for comparison in comparisons():
        if wanted.search(comparison.title):
            times = results[comparison.title] = measure(comparison, workers)
            operations[comparison.title] = comparison.operations
            print(
                comparison.title, {k: spread(v) for k, v in times.items()}, flush=True
            )
    for worker in workers.values():
        worker.close()
    if wanted.search("From the start of a process to the first step done: d = 32"):
        for title, times in first_steps().items():
            results[title] = times
            print(title, {k: spread(v) for k, v in times.items()}, flush=True)
    text = f"{machine()}{products(results)}\n\n{tables(results, operations)}\n"
    print(f"\n{text}")
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "speed.md").write_text(text)
        (arguments.output / "speed.json").write_text(json.dumps(results, indent=1))
        plot(results, arguments.output / "speed.png")
    elif arguments.only is None:
        page = _DOCS / "speed.md"
        page.write_text(between_marks(page.read_text(), text))
        plot(results, _DOCS / "images" / "speed.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
