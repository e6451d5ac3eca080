"""Trains and measures AEFs and VAEs at equal budgets: what the paper claims.

    python benchmarks/claim.py mnist --data-dir DIR --minutes 120

Each row is a run of `aef-tfp train` and two of `aef-tfp evaluate`. What is done is not
done again, what was interrupted goes on where it was: sittings of any length add up.
The tables go into docs/choosing.md between the study's two marks, as far as they are
there; --dry-run prints the commands of all rows instead.
"""

import argparse
import dataclasses
import json
import math
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aef_tfp.data.registry import DATASETS
from aef_tfp.records import Record, read_per_image, read_records

_ROOT = Path(__file__).parents[1]
_DOCS = _ROOT / "docs" / "choosing.md"


@dataclasses.dataclass(frozen=True)
class Row:
    """One run: a preset, and what differs from it."""

    model: str
    preset: str
    seed: int
    learning_rate: str
    options: tuple[str, ...] = ()

    @property
    def latent_dim(self) -> int:
        """As the preset's name has it, unless an option says otherwise."""
        if "--latent-dim" in self.options:
            return int(self.options[self.options.index("--latent-dim") + 1])
        return int(self.preset.removesuffix("-noise").rpartition("-")[2])

    @property
    def name(self) -> str:
        """Of the run directory."""
        words = self.model.replace("(", "").replace(")", "").replace(",", "").split()
        words += [f"d{self.latent_dim}", f"lr{self.learning_rate}", f"seed{self.seed}"]
        return "-".join(words).lower()


@dataclasses.dataclass(frozen=True)
class Study:
    """Rows that are compared, in their order of importance.

    Args:
        options: What all runs have in common.
        evaluation: Options of all evaluations.
        rows: The runs.
        base: The model that the others are compared with; None compares none.
        proposals: Of the estimates.
        split: What is evaluated.
        inspection: Options of one more evaluation, beside the likelihood; None for no
            such evaluation.
        denoises: Whether models are compared by their errors, not their likelihoods.
    """

    options: tuple[str, ...]
    evaluation: tuple[str, ...]
    rows: tuple[Row, ...]
    base: str | None
    proposals: tuple[str, ...] = ("encoder", "laplace")
    split: str = "test"
    inspection: tuple[str, ...] | None = None
    denoises: bool = False


_NO_FLOWS = ("--core-flow", "none", "--prior-flow", "none")
_AEF, _NOISE, _CENTER = "AEF (linear)", "AEF (linear, noise 0.2)", "AEF (center)"
_VAE, _PLAIN = "VAE (IAF, MAF)", "VAE (plain)"
# Of other decoders: the scale of each pixel is an output beside its location.
_DEPENDENT = ", dependent scale"
_CLEAN_AEF, _CLEAN_VAE = "AEF (linear, clean target)", "VAE (IAF, MAF, clean target)"
_AUTOENCODER = "autoencoder"

# All of a run's budget: the step size falls to 0, the weights are averaged, and the
# model whose estimated likelihood is best is kept, where it has to be estimated.
_SCHEDULE = ("--schedule", "cosine", "--warmup", "200", "--validation-interval", "1000")
_LONG = ("--ema", "0.999")
# A run's own estimate at its end is left out as far as it goes: others follow.
_MARGINAL = ("--select", "marginal", "--num-marginal-images", "2")

# By the numbers of short runs on validation images: `mnist-rates`, `faces-rates`.
_RATES = {"mnist": "4e-3", "celeba10k32": "4e-3"}


def _of_model(
    dataset: str,
    latent_dim: int,
    model: str,
    seed: int,
    learning_rate: str | None = None,
    select: tuple[str, ...] = _MARGINAL,
) -> Row:
    decoder = ("--decoder-scale", "dependent") if model.endswith(_DEPENDENT) else ()
    kind, options = {
        _AEF: ("aef-linear", select),
        _NOISE: ("aef-linear", ("--expansion-noise", "0.2", *select)),
        _CENTER: ("aef-center", ()),
        _VAE: ("vae", select),
        _PLAIN: ("vae", (*_NO_FLOWS, *select)),
    }[model.removesuffix(_DEPENDENT)]
    options = (*decoder, *options)
    preset = f"{dataset}-{kind}-{latent_dim}"
    if latent_dim not in DATASETS[dataset].latent_dims:
        preset = f"{dataset}-{kind}-{DATASETS[dataset].latent_dims[0]}"
        options = ("--latent-dim", str(latent_dim), *options)
    return Row(model, preset, seed, learning_rate or _RATES[dataset], options)


def _rates(
    dataset: str,
    latent_dim: int,
    rates: Iterable[str],
    options: tuple[str, ...],
    num_images: int,
    models: tuple[str, ...] = (_NOISE, _AEF, _VAE),
) -> Study:
    """Short runs of several learning rates, measured on validation images."""
    return Study(
        options=(*_SCHEDULE, *options, "--picture-interval", "10000"),
        evaluation=("--num-images", str(num_images)),
        rows=tuple(
            _of_model(dataset, latent_dim, model, 3, rate, select=())
            for rate in rates
            for model in models
        ),
        base=None,
        proposals=("laplace",),
        split="validation",
    )


def _denoising(
    dataset: str, latent_dim: int, noise_std: str, options: tuple[str, ...], **more: Any
) -> Study:
    """Models that see noisy images; decoders of fixed scale, as in the paper's."""
    fixed, clean = ("--decoder-scale", "fixed"), ("--denoising-target", "clean")
    return Study(
        options=(
            *(*_SCHEDULE, "--iterations", "4000", "--picture-interval", "10000"),
            *("--noise-std", noise_std, *options),
        ),
        rows=tuple(
            Row(model, f"{dataset}-{kind}-{latent_dim}", 3, "1e-3", own)
            for model, kind, own in (
                (_AEF, "aef-linear", fixed),
                (_VAE, "vae", fixed),
                (_AUTOENCODER, "autoencoder", ()),
                (_CLEAN_AEF, "aef-linear", (*fixed, *clean)),
                (_CLEAN_VAE, "vae", (*fixed, *clean)),
            )
        ),
        base=_VAE,
        proposals=(),
        denoises=True,
        **more,
    )


_OF_FACES = ("--networks", "conv", "--batch-size", "64")

STUDIES = {
    "mnist-rates": _rates(
        "mnist",
        32,
        ("1e-3", "2e-3", "4e-3", "8e-3"),
        ("--iterations", "4000"),
        num_images=1000,
    ),
    "mnist": Study(
        options=(
            *(*_SCHEDULE, *_LONG, "--iterations", "20000"),
            *("--picture-interval", "10000"),
        ),
        evaluation=("--num-images", "2000"),
        inspection=("--inspect", "--frechet", "classifier"),
        rows=tuple(
            _of_model("mnist", latent_dim, model, seed, *rate)
            for latent_dim, model, seed, *rate in (
                *((32, model, 3, "1e-3") for model in (_NOISE, _AEF, _VAE)),
                (32, _NOISE, 3),
                (32, _AEF, 3),
                (32, _VAE, 3),
                (2, _NOISE, 3),
                (2, _VAE, 3),
                *((32, model + _DEPENDENT, 3) for model in (_NOISE, _VAE)),
                *((2, model + _DEPENDENT, 3) for model in (_NOISE, _VAE)),
                (2, _AEF, 3),
                (32, _CENTER, 3),
                (2, _CENTER, 3),
                *((d, m, 4) for d in (32, 2) for m in (_NOISE, _VAE, _AEF)),
            )
        ),
        base=_VAE,
    ),
    "faces-rates": _rates(
        "celeba10k32",
        256,
        ("1e-3", "4e-3", "2e-3", "1e-2", "1e-4"),
        (*_OF_FACES, "--iterations", "2000"),
        num_images=300,
        models=(_AEF, _VAE),
    ),
    "faces": Study(
        options=(
            *(*_SCHEDULE, *_LONG, *_OF_FACES, "--iterations", "10000"),
            *("--picture-interval", "5000"),
        ),
        evaluation=("--num-images", "300"),
        inspection=("--inspect", "--temperature", "0.85"),
        rows=(
            *(
                _of_model("celeba10k32", 256, model, 3)
                for model in (_AEF, _VAE, _NOISE)
            ),
            *(_of_model("celeba10k32", 64, model, 3) for model in (_AEF, _VAE)),
            *(_of_model("celeba10k32", 256, model, 4) for model in (_AEF, _VAE)),
            *(_of_model("celeba10k32", 8, model, 3) for model in (_AEF, _VAE)),
            *(_of_model("celeba10k32", d, _PLAIN, 3) for d in (256, 64, 8)),
            *(
                _of_model("celeba10k32", 256, model + _DEPENDENT, 3)
                for model in (_AEF, _VAE)
            ),
            *(_of_model("celeba10k32", d, _NOISE, 3) for d in (64, 8)),
        ),
        base=_VAE,
    ),
    "mnist-denoising": _denoising(
        *("mnist", 32, "0.5", ()),
        evaluation=("--num-images", "2000"),
        inspection=("--frechet", "classifier"),
    ),
    "faces-denoising": _denoising(
        *("celeba10k32", 128, "0.1", _OF_FACES),
        evaluation=("--num-images", "1000"),
        inspection=(),
    ),
}


def commands(study: Study, row: Row, run_dir: Path, data_dir: str) -> list[list[str]]:
    """The command that trains a row, and those that measure it."""
    data = ["--data-dir", data_dir]
    own = ["--learning-rate", row.learning_rate, "--seed", str(row.seed)]
    shared = [*study.options, *row.options, *own, *data]
    train = ["run.py", row.preset, *shared, "--run-dir", str(run_dir)]
    if (run_dir / "config.json").exists():
        train = ["run.py", "--resume", str(run_dir), *data]
    measure = ["evaluate.py", str(run_dir), "--split", study.split]
    measure += [*study.evaluation, *data]
    inspect = [] if study.inspection is None else [[*measure, *study.inspection]]
    if row.model == _CENTER:
        # Its likelihood is exact.
        return [train, *(inspect or [measure])]
    of_proposals = [[*measure, "--proposal", proposal] for proposal in study.proposals]
    if row.model != _AUTOENCODER:
        inspect = [[*command, "--proposal", "none"] for command in inspect]
    return [train, *of_proposals, *inspect]


def bring_up_to_date(study: Study, row: Row, runs: Path, data_dir: str) -> bool:
    """Does what a row lacks; False if a command of it failed."""
    run_dir = runs / row.name
    times = _times(runs)
    new = {"seconds": 0.0, "cpu_seconds": 0.0, "commands": []}
    done = times.setdefault(row.name, new)
    for number, command in enumerate(commands(study, row, run_dir, data_dir)):
        if number in done["commands"]:
            continue
        print(f"{time.strftime('%H:%M')} {shlex.join(command)}", flush=True)
        with (runs / f"{row.name}.log").open("a") as log:
            start, busy = time.monotonic(), _cpu_seconds()
            program = [sys.executable, str(_ROOT / "trainers" / command[0])]
            status = _run([*program, *command[1:]], log)
        if number == 0:
            # Of a training that was interrupted, too; times at which it stood still for
            # other work are in the one and not in the other.
            done["seconds"] += time.monotonic() - start
            if "cpu_seconds" in done:  # since its beginning
                done["cpu_seconds"] += _cpu_seconds() - busy
        if status == 0:
            done["commands"].append(number)
        (runs / _TIMES).write_text(json.dumps(times, indent=2) + "\n")
        if status:
            print(f"    ended with status {status}; see {row.name}.log", flush=True)
            return False
    return True


_TIMES = "times.json"


def _times(runs: Path) -> dict[str, Any]:
    """What is done of each row, and the seconds of its training."""
    path = runs / _TIMES
    return json.loads(path.read_text()) if path.exists() else {}


def _minutes(runs: Path, row: Row) -> str:
    times = _times(runs).get(row.name, {})
    minutes = f"{times.get('seconds', 0.0) / 60:.0f}"
    if "cpu_seconds" in times:
        minutes += f" ({times['cpu_seconds'] / 60:.0f} CPU)"
    return minutes


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


def _found(
    run_dir: Path, name: str, proposal: str | None, split: str = "test"
) -> Record | None:
    """The newest record of a quantity."""
    if not (run_dir / "metrics.json").exists():
        return None
    fitting = [
        record
        for record in read_records(run_dir)
        if record.name == name
        and record.proposal == proposal
        and record.split == split
        and record.per_image_file
        and record.num_images > 2
    ]
    return fitting[-1] if fitting else None


def _text(record: Record | None) -> str:
    return "" if record is None else f"{record.value:.4f}"


def _gap(run_dir: Path, base_dir: Path, name: str) -> str:
    """The mean difference of each image to the base's, with its standard error."""
    ours, theirs = (
        _found(where, f"marginal_{name}", "laplace") or _found(where, name, None)
        for where in (run_dir, base_dir)
    )
    if ours is None or theirs is None or run_dir == base_dir:
        return ""
    # The last words say what noise the images have: older records had another.
    if len({record.estimator.rpartition(", ")[2] for record in (ours, theirs)}) > 1:
        return "not paired: evaluate again"
    gap = read_per_image(run_dir, ours) - read_per_image(base_dir, theirs)
    digits = {"bits_per_dim": 4, "log_prob": 2}.get(name, 5)
    error = gap.std(ddof=1) / len(gap) ** 0.5
    return f"{gap.mean():+.{digits}f} ± {error:.{digits}f}"


def _trained_value(run_dir: Path) -> str:
    """What the run's best model was trained on, of all validation images."""
    path = run_dir / "history.csv"
    if not path.exists():
        return ""
    header, *lines = (line.split(",") for line in path.read_text().splitlines())
    names = [
        name
        for name in header
        if name.startswith("val_")
        and name.endswith("bits_per_dim")
        and "marginal" not in name
    ]
    (name,) = names
    kind = name.removeprefix("val_").removesuffix("bits_per_dim").strip("_")
    return f"{min(float(line[header.index(name)]) for line in lines):.4f} {kind}"


def table(study: Study, runs: Path) -> str:
    """The table of what is done, by the number of latents."""
    titles = ["model", "d", "learning rate", "seed", "as trained, validation"]
    if "encoder" in study.proposals:
        titles += ["encoder proposal"]
    titles += ["Laplace, or exact"]
    if study.base:
        titles += [f"minus {study.base}, bits", "in nats per image"]
    titles += ["minutes"]
    rows = [titles, ["---"] * len(titles)]
    for row in sorted(study.rows, key=lambda row: row.latent_dim):
        run_dir = runs / row.name
        exact = _found(run_dir, "bits_per_dim", None, study.split)
        estimates = {
            proposal: _found(run_dir, "marginal_bits_per_dim", proposal, study.split)
            for proposal in study.proposals
        }
        if not (exact or estimates["laplace"]):
            continue
        cells = [row.model, str(row.latent_dim), row.learning_rate, str(row.seed)]
        cells += [_trained_value(run_dir)]
        cells += [
            _text(record) for name, record in estimates.items() if name != "laplace"
        ]
        cells += [_text(estimates["laplace"] or exact)]
        for name in ("bits_per_dim", "log_prob") if study.base else ():
            cells += [_gap(run_dir, runs / _base_of(study, row).name, name)]
        cells += [_minutes(runs, row)]
        rows.append(cells)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def error_table(study: Study, runs: Path) -> str:
    """The table of models that denoise: errors of what they make of noisy images."""
    rows = []
    for row in study.rows:
        run_dir = runs / row.name
        pixels = _found(run_dir, "reconstruction_error", None)
        if pixels is None:
            continue
        features = _found(run_dir, "classifier_feature_error", None)
        base_dir = runs / _base_of(study, row).name
        gap = _gap(run_dir, base_dir, "reconstruction_error")
        cells = [row.model, f"{pixels.value:.5f}", gap, _text(features)]
        rows.append([*cells, _minutes(runs, row)])
    if not rows:
        return ""
    head = ["model", "error of pixels", f"minus {study.base}", "of features", "minutes"]
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# What is shown beside the likelihood: titles, and the records' names.
_INSPECTED = {
    "distance of samples": "frechet_classifier_distance",
    "of training images": "train_frechet_classifier_distance",
    "power, coarsest octave": "power_ratio_1_to_2",
    "power, finest octave": ("power_ratio_8_to_14", "power_ratio_8_to_16"),
    "reconstruction error": "reconstruction_error",
    "latents in use": "latents_in_use",
}


def inspection_table(study: Study, runs: Path) -> str:
    """What `--inspect` and the distances say of the rows that have it."""
    rows = []
    for row in sorted(study.rows, key=lambda row: row.latent_dim):
        values: dict[str, str] = {}
        for title, names in _INSPECTED.items():
            for name in (names,) if isinstance(names, str) else names:
                if (record := _newest(runs / row.name, name)) is not None:
                    values[title] = f"{record.value:.3g}"
        if values:
            facts = [row.model, str(row.latent_dim), row.learning_rate, str(row.seed)]
            rows.append((facts, values))
    if not rows:
        return ""
    titles = [title for title in _INSPECTED if any(title in v for _, v in rows)]
    head = ["model", "d", "learning rate", "seed", *titles]
    cells = [[*facts, *(values.get(t, "") for t in titles)] for facts, values in rows]
    lines = [head, ["---"] * len(head), *cells]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _newest(run_dir: Path, name: str) -> Record | None:
    if not (run_dir / "metrics.json").exists():
        return None
    return next((r for r in reversed(read_records(run_dir)) if r.name == name), None)


def _base_of(study: Study, row: Row) -> Row:
    """The row that a row is compared with, of its seed and rate where there is one."""
    base = f"{study.base}{_DEPENDENT * row.model.endswith(_DEPENDENT)}"
    fitting = [
        other
        for other in study.rows
        if (other.model, other.latent_dim) == (base, row.latent_dim)
    ]

    def distance(other: Row) -> tuple:
        return other.seed != row.seed, other.learning_rate != row.learning_rate

    return min(fitting, key=distance)


def draw(study: Study, runs: Path, latent_dim: int, path: Path) -> None:
    """Draws samples of the study's first seed side by side, one block per model."""
    # What no table needs.
    import numpy as np

    import aef_tfp
    from aef_tfp.pictures import image_grid, save_png

    temperature = 1.0
    if "--temperature" in study.inspection:
        place = study.inspection.index("--temperature")
        temperature = float(study.inspection[place + 1])
    blocks = []
    for row in study.rows:
        done = (runs / row.name / "best.keras").exists()
        if row.latent_dim != latent_dim or row.seed != study.rows[0].seed or not done:
            continue
        model = aef_tfp.load(runs / row.name)
        samples = model.sample(32, temperature=temperature, seed=0).numpy()
        blocks.append(image_grid(samples, num_columns=4))
        print(f"{row.model}, left to right: number {len(blocks)}")
    if not blocks:
        raise SystemExit(f"error: no run of d = {latent_dim} is done in {runs}.")
    gap = np.full((blocks[0].shape[0], 12, 3), 255, np.uint8)
    parts = [part for block in blocks for part in (gap, block)][1:]
    save_png(path, np.concatenate(parts, axis=1))


def write_table(name: str, runs: Path) -> None:
    """Puts the table of a study into the page."""
    first, last = f"<!-- benchmarks/claim.py {name} -->\n", f"<!-- end of {name} -->\n"
    study = STUDIES[name]
    kinds = [error_table] if study.denoises else [table, inspection_table]
    tables = [of(study, runs) for of in kinds]
    text = "\n".join(filter(None, tables))
    if not _DOCS.exists() or first not in _DOCS.read_text():
        print(text)
        return
    before, rest = _DOCS.read_text().split(first)
    after = rest.split(last)[1]
    _DOCS.write_text(f"{before}{first}\n{text}\n{last}{after}")


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
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument(
        "--draw", nargs=2, metavar=("D", "FILE"), help="samples of D latents, a PNG"
    )
    arguments = parser.parse_args()
    study = STUDIES[arguments.study]
    runs = arguments.runs / arguments.study
    if arguments.dry_run:
        for row in study.rows:
            for command in commands(study, row, runs / row.name, arguments.data_dir):
                print("python", shlex.join([f"trainers/{command[0]}", *command[1:]]))
        return
    if arguments.draw:
        latent_dim, path = arguments.draw
        draw(study, runs, int(latent_dim), Path(path))
        return
    runs.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * arguments.minutes
    for row in study.rows:
        if time.monotonic() > end:
            break
        if not bring_up_to_date(study, row, runs, arguments.data_dir):
            break
    write_table(arguments.study, runs)


if __name__ == "__main__":
    main()
