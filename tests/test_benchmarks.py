"""What `benchmarks/speed.py` makes of its measurements."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from aef_tfp.metrics.records import records_of_means
from aef_tfp.records import Record, append_records
from aef_tfp.runs.commands.train import read_command

ROOT = Path(__file__).parents[1]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    names = [path.stem for path in (ROOT / "benchmarks").glob("*.py")]
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module
    for name in names:
        sys.modules.pop(name, None)


def test_the_table_has_ratios_and_the_share_of_the_rate(benchmark):
    speed = benchmark("speed")
    results = {
        "step": {
            "aef_tfp": [40, 50, 60],
            "PyTorch": [99, 100],
            "compiled": [75],
            # 2 * 2048**3 operations, and the better library counts.
            "product by aef_tfp": [300, 500, 300],
            "product by PyTorch": [200, 100, 900],
        },
        "fit": {
            # Ratios 1.2, 1.02, 1.013; those of the medians are 80 / 79 and 80 / 80.
            "aef_tfp": [60, 100, 80],
            "its steps": [50, 98, 79],
            "steps alone": [80, 50, 100],
        },
    }
    # As many as a product does in an eighth of its 200 ms.
    peers, fits = speed.tables(results, {"step": 2**34 // 8}).split("\n\n")
    assert "ran at 86 to 86 GFLOP/s" in speed.products(results)
    assert not speed.products({"fit": results["fit"]})
    row = [cell.strip() for cell in peers.splitlines()[-1].split("|")[1:-1]]
    assert row == [
        "step",
        "50 (40 to 60)",
        "99.5 (99 to 100)",
        "75 (75 to 75)",
        "",
        "1.99 / 1.5",
        "50%",
    ]
    assert fits.splitlines()[-1].endswith("| 1.020 / 0.800 |")


def test_the_page_keeps_what_stands_around_the_marks(benchmark):
    speed = benchmark("speed")
    page = (ROOT / "docs" / "speed.md").read_text()
    once = speed.between_marks(page, "TABLE")
    assert "TABLE" in once
    assert speed.between_marks(once, "OTHER") == speed.between_marks(page, "OTHER")
    before, after = page.split(speed._MARKS[0])[0], page.split(speed._MARKS[1])[1]
    assert before
    assert after
    assert once.startswith(before)
    assert once.endswith(after)
    with pytest.raises(ValueError, match="needs the lines"):
        speed.between_marks("a page without marks", "TABLE")


def test_the_operations_are_those_of_the_layers(benchmark):
    """Against a count of the kernels' entries, each with its uses per image."""
    setting = benchmark("settings").SETTINGS["aef-32"]
    made = 32 * 256 + 4 * 256 * 256 + 256 * 64
    uses = {
        "flows": 8 * made,
        "encoder convolutions": 14 * 14 * 9 * 64 + 7 * 7 * 9 * 64 * 128,
        "encoder heads": 7 * 7 * 128 * 64,
        "affine combinations": 33 * 14 * 14 * 64,
        "last convolution": 14 * 14 * 64 * 16,
        "expansion": 784 * 32,
    }
    # The decoder's first layers see the origin and 32 unit vectors, not 128 latents.
    points = 33 * (32 * 7 * 7 * 128 + 7 * 7 * 128 * 16 * 64)
    expected = 6 * (128 * sum(uses.values()) + points)
    assert benchmark("arithmetic").step_operations(setting) == expected


def test_a_case_may_say_what_counts_of_it(benchmark):
    worker = benchmark("worker")
    calls = []
    case = worker.Case(lambda: calls.append(1), 4, seconds=lambda: 8.0 * len(calls))
    assert worker._seconds(case) == 2.0
    assert worker._seconds(worker.Case(lambda: None)) < 1.0


def test_every_run_of_the_study_is_one_that_the_command_line_takes(benchmark, tmp_path):
    claim = benchmark("claim_studies")
    for study in claim.STUDIES.values():
        assert len({row.name for row in study.rows}) == len(study.rows)
        for row in study.rows:
            train, *_ = claim.commands(study, row, tmp_path / row.name, "DIR")
            assert (ROOT / train[0]).exists()
            config = read_command(train[len(row.program) :]).arguments.config
            assert (config.latent_dim, config.seed) == (row.latent_dim, row.seed)


def test_unlike_evaluations_are_not_paired(benchmark, tmp_path):
    report = benchmark("claim_report")
    base = keep_errors(tmp_path / "base", [1.0, 2.0, 3.0])
    for values, facts, expected in (
        ([1.5, 2.5, 3.5], {}, "+0.50000 ± 0.00000"),
        ([1.0, 2.0, 4.0], {"images": "89abcdef"}, "not paired: their images are"),
        ([1.0, 2.0, 4.0, 3.0], {}, "not paired: their images are others"),
        ([1.0, 2.0, 4.0], {"seed": 3}, "not paired: seed 3 of run and seed 0 of base"),
    ):
        run_dir = keep_errors(tmp_path / "run", values, **facts)
        gap = report._gap(run_dir, base, "reconstruction_error")
        assert gap.startswith(expected)


def keep_errors(run_dir, values, **facts):
    run_dir.mkdir(exist_ok=True)
    facts = {"split": "test", "estimator": "e", "images": "01234567", **facts}
    values = {"reconstruction_error": np.array(values)}
    append_records(run_dir, records_of_means(values, **facts))
    return run_dir


def test_the_study_keeps_what_other_machines_ran_and_shows_the_newest_evaluation(
    benchmark, tmp_path, monkeypatch
):
    claim = benchmark("claim")
    study = claim.STUDIES["fashion-anomalies"]
    row = study.rows[0]
    run_dir = tmp_path / row.name
    run_dir.mkdir()
    for value in (0.9, 0.25):
        records = [
            Record(name, value, 0.01, "any", "test", 1000)
            for name in ("auroc_log_prob", "auroc_reconstruction_error")
        ]
        append_records(run_dir, records)
    page = tmp_path / "page.md"
    marks = ("<!-- benchmarks/claim.py fashion-anomalies -->", "<!-- end of fashion")
    former = [
        "| model | error of reconstruction | likelihood | minutes |",
        "| --- | --- | --- | --- |",
        "| AEF (center) | 0.8 | 0.7 | old |",
        "| no model of the study | 0.8 | 0.7 | gone |",
        "| AEF (random) | 0.6 | 0.5 | kept |",
    ]
    lines = ["before", marks[0], "", *former, "", f"{marks[1]}-anomalies -->", "after"]
    page.write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(claim, "_DOCS", page)
    claim.write_table("fashion-anomalies", tmp_path)
    text = page.read_text()
    rows = [line for line in text.splitlines() if line.startswith("| AEF")]
    assert rows == [
        "| AEF (center) | 0.250 ± 0.010 | 0.250 ± 0.010 | 0 |",
        "| AEF (random) | 0.5 | 0.6 | kept |",
    ]
    assert "old" not in text
    assert "gone" not in text
    assert text.startswith("before")
    assert text.endswith("after\n")
