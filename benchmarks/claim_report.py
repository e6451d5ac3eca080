"""What `benchmarks/claim.py` shows of its runs: tables for the page, and pictures."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

from claim_studies import DEPENDENT, Row, Study

from aef_tfp.records import Record, read_per_image, read_records, why_not_paired

TIMES = "times.json"


@dataclasses.dataclass(frozen=True)
class Table:
    """What is known of the rows of a study.

    Args:
        facts: Titles of the columns that say which row a line is.
        titles: Of the others.
        cells: Of each row that is done, below `titles`.
    """

    facts: tuple[str, ...]
    titles: tuple[str, ...]
    cells: dict[Row, tuple[str, ...]]

    def markdown(self, rows: tuple[Row, ...], former: str = "") -> str:
        """Its lines, by the rows' order.

        A row that is not done here keeps its line of the table as it was: runs are
        made on several machines, and a table is what remains of them.
        """
        lines = {}
        names, _, *before = map(_cells_of, former.splitlines() or ("||", ""))
        for line in before:
            cells = dict(zip(names, line, strict=True))
            facts = tuple(cells.get(fact, "") for fact in self.facts)
            lines[facts] = tuple(cells.get(title, "") for title in self.titles)
        for row, cells in self.cells.items():
            lines[self._facts(row)] = cells
        order = [facts for facts in map(self._facts, rows) if facts in lines]
        if not order:
            return ""
        head = (*self.facts, *self.titles)
        shown = [head, ("---",) * len(head), *((*f, *lines[f]) for f in order)]
        return "".join(f"| {' | '.join(line)} |\n" for line in shown)

    def _facts(self, row: Row) -> tuple[str, ...]:
        known = {
            "model": row.model,
            "d": str(row.latent_dim),
            "learning rate": row.learning_rate,
            "seed": str(row.seed),
        }
        return tuple(known[fact] for fact in self.facts)


def _cells_of(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in line.strip().strip("|").split("|"))


_RUN = ("model", "d", "learning rate", "seed")


def tables(study: Study, runs: Path, former: str = "") -> str:
    """All tables of a study; `former` is what they were."""
    kinds = [likelihood_table, inspection_table]
    if study.denoises:
        kinds = [error_table]
    elif study.anomalies:
        kinds = [anomaly_table]
    parts = [part for part in former.strip().split("\n\n") if part]
    parts += [""] * (len(kinds) - len(parts))
    rows = study.rows
    if not (study.denoises or study.anomalies):
        rows = tuple(sorted(rows, key=lambda row: row.latent_dim))
    shown = [
        kind(study, runs).markdown(rows, part)
        for kind, part in zip(kinds, parts, strict=True)
    ]
    return "\n".join(filter(None, shown))


def times_of(runs: Path) -> dict[str, Any]:
    """What is done of each row, and the seconds of its training."""
    path = runs / TIMES
    return json.loads(path.read_text()) if path.exists() else {}


def _minutes(runs: Path, row: Row) -> str:
    times = times_of(runs).get(row.name, {})
    minutes = f"{times.get('seconds', 0.0) / 60:.0f}"
    if "cpu_seconds" in times:
        minutes += f" ({times['cpu_seconds'] / 60:.0f} CPU)"
    return minutes


def _found(run_dir: Path, name: str, **facts: Any) -> Record | None:
    """The newest record of a quantity, of more than the two images of a run's end."""
    if not (run_dir / "metrics.json").exists():
        return None
    fitting = (
        record
        for record in reversed(read_records(run_dir))
        if record.name == name
        and record.num_images > 2
        and all(getattr(record, fact) == value for fact, value in facts.items())
    )
    return next(fitting, None)


def _mean(
    run_dir: Path, name: str, proposal: str | None = None, split: str = "test"
) -> Record | None:
    """The newest mean whose numbers of each image were kept."""
    record = _found(run_dir, name, proposal=proposal, split=split)
    return record if record and record.per_image_file else None


def _text(record: Record | None) -> str:
    return "" if record is None else f"{record.value:.4f}"


def _gap(run_dir: Path, base_dir: Path, name: str) -> str:
    """The mean difference of each image to the base's, with its standard error."""
    ours, theirs = (
        _mean(where, f"marginal_{name}", "laplace") or _mean(where, name)
        for where in (run_dir, base_dir)
    )
    if ours is None or theirs is None or run_dir == base_dir:
        return ""
    # The last words say what noise the images have: older records had another.
    if len({record.estimator.rpartition(", ")[2] for record in (ours, theirs)}) > 1:
        return "not paired: evaluate again"
    if reason := why_not_paired({run_dir.name: ours, base_dir.name: theirs}):
        return f"not paired: {reason}"
    gap = read_per_image(run_dir, ours) - read_per_image(base_dir, theirs)
    digits = {"bits_per_dim": 4, "log_prob": 2}.get(name, 5)
    error = gap.std(ddof=1) / len(gap) ** 0.5
    return f"{gap.mean():+.{digits}f} ± {error:.{digits}f}"


def _trained_value(run_dir: Path) -> str:
    """The lowest objective on all validation images, whichever model was kept."""
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


def likelihood_table(study: Study, runs: Path) -> Table:
    """Estimates, and the differences to the base."""
    titles = ["as trained, validation"]
    if "encoder" in study.proposals:
        titles += ["encoder proposal"]
    titles += ["Laplace, or exact"]
    if study.base:
        titles += [f"minus {study.base}, bits", "in nats per image"]
    titles += ["minutes"]
    done = {}
    for row in study.rows:
        run_dir = runs / row.name
        exact = _mean(run_dir, "bits_per_dim", split=study.split)
        estimates = {
            proposal: _mean(run_dir, "marginal_bits_per_dim", proposal, study.split)
            for proposal in study.proposals
        }
        if not (exact or estimates["laplace"]):
            continue
        cells = [_trained_value(run_dir)]
        cells += [
            _text(record) for name, record in estimates.items() if name != "laplace"
        ]
        cells += [_text(estimates["laplace"] or exact)]
        for name in ("bits_per_dim", "log_prob") if study.base else ():
            cells += [_gap(run_dir, runs / _base_of(study, row).name, name)]
        done[row] = (*cells, _minutes(runs, row))
    return Table(_RUN, tuple(titles), done)


def error_table(study: Study, runs: Path) -> Table:
    """Of models that denoise: errors of what they make of noisy images."""
    done = {}
    for row in study.rows:
        run_dir = runs / row.name
        pixels = _mean(run_dir, "reconstruction_error")
        if pixels is None:
            continue
        features = _mean(run_dir, "classifier_feature_error")
        base_dir = runs / _base_of(study, row).name
        gap = _gap(run_dir, base_dir, "reconstruction_error")
        cells = f"{pixels.value:.5f}", gap, _text(features), _minutes(runs, row)
        done[row] = cells
    titles = ("error of pixels", f"minus {study.base}", "of features", "minutes")
    return Table(("model",), titles, done)


def anomaly_table(study: Study, runs: Path) -> Table:
    """Areas under the ROC curve."""
    done = {}
    for row in study.rows:
        run_dir = runs / row.name
        error = _found(run_dir, "auroc_reconstruction_error")
        likelihood = _found(run_dir, "auroc_marginal_log_prob") or _found(
            run_dir, "auroc_log_prob"
        )
        if error is not None:
            areas = map(_with_error, (likelihood, error))
            done[row] = (*areas, _minutes(runs, row))
    titles = ("likelihood", "error of reconstruction", "minutes")
    return Table(("model",), titles, done)


def _with_error(record: Record | None) -> str:
    return "" if record is None else f"{record.value:.3f} ± {record.standard_error:.3f}"


# What is shown beside the likelihood: titles, and the records' names.
_INSPECTED = {
    "distance of samples": "frechet_classifier_distance",
    "of training images": "train_frechet_classifier_distance",
    "power, coarsest octave": "power_ratio_1_to_2",
    "power, finest octave": ("power_ratio_8_to_14", "power_ratio_8_to_16"),
    "reconstruction error": "reconstruction_error",
    "latents in use": "latents_in_use",
}


def inspection_table(study: Study, runs: Path) -> Table:
    """What `--inspect` and the distances say of the rows that have it."""
    done = {}
    for row in study.rows:
        values = dict.fromkeys(_INSPECTED, "")
        for title, names in _INSPECTED.items():
            for name in (names,) if isinstance(names, str) else names:
                if (record := _found(runs / row.name, name)) is not None:
                    values[title] = f"{record.value:.3g}"
        if any(values.values()):
            done[row] = tuple(values.values())
    return Table(_RUN, tuple(_INSPECTED), done)


def _base_of(study: Study, row: Row) -> Row:
    """The row that a row is compared with, of its seed and rate where there is one."""
    base = f"{study.base}{DEPENDENT * row.model.endswith(DEPENDENT)}"
    fitting = [
        other
        for other in study.rows
        if (other.model, other.latent_dim) == (base, row.latent_dim)
    ]

    def distance(other: Row) -> tuple:
        return other.seed != row.seed, other.learning_rate != row.learning_rate

    return min(fitting, key=distance)


def draw(study: Study, runs: Path, latent_dim: int, path: Path, data_dir: str) -> None:
    """Draws the models of the study's first seed side by side, one block for each.

    A block has 16 samples, and below them pairs of rows: test images, reconstructed.
    """
    # What no table needs.
    import numpy as np

    import aef_tfp
    from aef_tfp.data import load_splits
    from aef_tfp.pictures import image_grid, save_png

    temperature = 1.0
    if "--temperature" in study.inspection:
        place = study.inspection.index("--temperature")
        temperature = float(study.inspection[place + 1])
    dataset = study.rows[0].preset.partition("-")[0]
    images = load_splits(dataset, data_dir).test.images[:8]
    blocks = []
    for row in study.rows:
        done = (runs / row.name / "best.keras").exists()
        if row.latent_dim != latent_dim or row.seed != study.rows[0].seed or not done:
            continue
        model = aef_tfp.load(runs / row.name)
        samples = model.sample(16, temperature=temperature, seed=0).numpy()
        originals = np.asarray(model.dequantize(images, seed=None))
        pairs = zip(
            np.split(originals, 2), np.split(model.reconstruct(images), 2), strict=True
        )
        below = np.concatenate([part for pair in pairs for part in pair])
        parts = [image_grid(part, num_columns=4) for part in (samples, below)]
        gap = np.full((12, *parts[0].shape[1:]), 255, np.uint8)
        blocks.append(np.concatenate([parts[0], gap, parts[1]]))
        print(f"{row.model}, left to right: number {len(blocks)}")
    if not blocks:
        raise SystemExit(f"error: no run of d = {latent_dim} is done in {runs}.")
    gap = np.full((blocks[0].shape[0], 12, *blocks[0].shape[2:]), 255, np.uint8)
    parts = [part for block in blocks for part in (gap, block)][1:]
    save_png(path, np.concatenate(parts, axis=1))


def plot_curves(
    study: Study, runs: Path, latent_dim: int, path: Path, data_dir: str
) -> None:
    """Plots the estimates of a few validation images over the iterations."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9.5, 4), layout="constrained")
    models = list(dict.fromkeys(row.model for row in study.rows))
    last = []
    for row in study.rows:
        history = runs / row.name / "history.csv"
        if row.latent_dim != latent_dim or not history.exists():
            continue
        with history.open() as file:
            lines = list(csv.DictReader(file))
        name = "val_marginal_bits_per_dim"
        name = name if name in lines[0] else "val_bits_per_dim"
        values = [float(line[name]) for line in lines]
        axes.plot(
            [int(line["iteration"]) for line in lines],
            values,
            color=f"C{models.index(row.model)}",
            linestyle="-" if row.seed == study.rows[0].seed else "--",
            label=f"{row.model}, seed {row.seed}",
        )
        last += values[-1:]
    if not last:
        raise SystemExit(f"error: no run of d = {latent_dim} is in {runs}.")
    # What comes first is far above all that is to be seen.
    axes.set_ylim(min(last) - 0.02, max(last) + 0.3)
    axes.set_xlabel("iterations")
    axes.set_ylabel("bits per dimension, Laplace")
    figure.legend(fontsize=8, loc="outside right upper")
    figure.savefig(path, dpi=110)
