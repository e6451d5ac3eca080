"""The paper's numbers as data, and the command that repeats them."""

import dataclasses
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from aef_tfp.data.registry import DATASETS
from aef_tfp.runs import paper
from aef_tfp.runs.commands import evaluate, reproduce
from aef_tfp.runs.commands import train as run
from aef_tfp.runs.config import EvaluationConfig, RunConfig
from aef_tfp.runs.failures import TrainingFailed
from aef_tfp.runs.paper import reproduction
from aef_tfp.runs.presets import PRESETS

ROOT = Path(__file__).parents[1]

NUM_TEST_IMAGES = 10_000
ALL = [
    (key, experiment)
    for key, exhibit in paper.EXHIBITS.items()
    for experiment in exhibit.experiments
]


class Package:
    """Stands in for training and evaluation: writes their files, counts the calls.

    Args:
        interrupt_at: Iteration at which the next training is interrupted.
        patience_at: Iteration at which patience ends a training.
        best_at: Iteration after which no validation is better.
    """

    def __init__(self, interrupt_at=None, patience_at=None, best_at=None):
        self.calls = []
        self.interrupt_at = interrupt_at
        self.patience_at = patience_at
        self.best_at = best_at

    def import_quietly(self, name):
        return {
            "aef_tfp.runs.training": SimpleNamespace(
                train=self.train, build_model=self.build_model
            ),
            "aef_tfp.metrics": SimpleNamespace(inception_features=self.inception),
            "aef_tfp.runs.evaluation": SimpleNamespace(evaluate_run=self.evaluate_run),
        }[name]

    def train(self, config, run_dir, *, data_dir, download, resume, verbose):
        self.calls.append(("resume" if resume else "train", run_dir.name, config))
        assert resume == (run_dir / "config.json").exists()
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "config.json").write_text(config.to_json())
        end = min(config.iterations, self.interrupt_at or config.iterations)
        end = min(end, self.patience_at or end)
        if end:
            best = end - config.patience if self.patience_at else end
            best = min(best, self.best_at or best)
            checkpoint = run_dir / "checkpoints" / f"iteration-{end:08d}"
            for former in (run_dir / "checkpoints").glob("*"):
                former.rename(checkpoint)
            checkpoint.mkdir(parents=True, exist_ok=True)
            state = {"best": 1.0, "best_iteration": best}
            (checkpoint / "state.json").write_text(json.dumps(state))
        if self.interrupt_at is not None and self.interrupt_at < config.iterations:
            raise KeyboardInterrupt
        facts = {"seed": config.seed, "iteration": best}
        if config.noise_std or config.model == "autoencoder":
            append(run_dir, record("reconstruction_error", 0.5, **facts))
        if config.model == "autoencoder":
            return
        exact = "center" in config.model
        name = "bits_per_dim" if exact else "elbo_bits_per_dim"
        append(run_dir, record(name, 2.0 + config.seed, **facts))
        if not exact:
            fields = {"num_samples": 128, "num_repeats": 1, "proposal": "encoder"}
            facts |= {"num_images": 500, **fields}
            append(run_dir, record("marginal_bits_per_dim", 1.25, **facts))

    def evaluate_run(self, run_dir, config, *, data_dir, download, verbose):
        self.calls.append(("evaluate", run_dir.name, config))
        trained = RunConfig.from_run(run_dir)
        (state,) = (run_dir / "checkpoints").glob("*/state.json")
        iteration = json.loads(state.read_text())["best_iteration"]
        images = min(config.num_images or NUM_TEST_IMAGES, NUM_TEST_IMAGES)
        shared = {"iteration": iteration, "num_images": images}
        if trained.model != "autoencoder":
            fields = ("num_samples", "num_repeats", "proposal")
            facts = {name: getattr(config, name) for name in fields}
            facts |= shared
            bits = 1.5 + trained.seed / 10
            append(run_dir, record("marginal_bits_per_dim", bits, **facts))
            if config.paper_estimator:
                name = "paper_without_log_k_bits_per_dim"
                append(run_dir, record(name, bits - 0.0625, **facts))
        if trained.noise_std and config.frechet != "none":
            append(run_dir, record(f"{config.frechet}_feature_error", 0.25, **shared))
        elif config.frechet != "none":
            shared |= {"num_images": config.num_frechet_images}
            shared |= {"temperature": config.temperature, "standard_error": None}
            name = f"frechet_{config.frechet}_distance"
            append(run_dir, record(name, 33.25, **shared))

    def inception(self, weights):
        if weights and not weights.is_file():
            raise FileNotFoundError(f"there is no file {weights}")

    def build_model(self, config, info):
        assert info.name == config.dataset
        weight = SimpleNamespace(shape=(config.latent_dim, 1000))
        return SimpleNamespace(trainable_weights=[weight, weight])


def append(run_dir, entry):
    path = run_dir / "metrics.json"
    entries = json.loads(path.read_text()) if path.exists() else []
    path.write_text(json.dumps([*entries, entry]))


def record(name, value, **fields):
    return {
        "name": name,
        "value": value,
        "standard_error": 0.0125,
        "estimator": f"{name} in words",
        "split": "test",
        "num_images": NUM_TEST_IMAGES,
        "num_samples": None,
        "num_repeats": None,
        "proposal": None,
        "versions": {"keras": "3"},
        **fields,
    }


@pytest.fixture
def package(monkeypatch, tmp_path):
    stand_in = Package()
    monkeypatch.setattr(reproduction, "import_quietly", stand_in.import_quietly)
    monkeypatch.chdir(tmp_path)
    return stand_in


ONE = ["--table=1", "--dataset=mnist", "--model=vae", "--latent-dim=2"]


def actions(package):
    made, package.calls = package.calls, []
    return [(action, name) for action, name, _ in made]


def published(key, dataset, model, latent_dim, variant=""):
    (found,) = [
        experiment
        for experiment in paper.EXHIBITS[key].experiments
        if experiment.variant == variant
        and (dataset, model, latent_dim)
        == (
            experiment.config.dataset,
            experiment.config.model,
            experiment.config.latent_dim,
        )
    ]
    return tuple(
        paper.METRICS[name].published_text(value)
        for name, value in found.values.items()
    )


@pytest.mark.parametrize(
    ("row", "texts"),
    [
        (("table-1", "mnist", "vae", 2), ("2.40", "57.5")),
        (("table-1", "mnist", "aef-linear", 32), ("1.82", "17.7")),
        (("table-1", "celebahq64", "vae", 64), ("6.98", "106")),
        (("table-1", "celebahq32", "vae", 128), ("6.64", "67.0")),
        (("table-1", "celebahq32", "aef-linear", 128), ("5.88", "38.4")),
        (("table-1", "imagenet32", "aef-linear", 256), ("6.21", "123")),
        (("table-2", "mnist", "autoencoder", 32, "noise 1"), ("0.133",)),
        (("table-2", "mnist", "vae", 2, "noise 0.75"), ("0.094",)),
        (("table-2", "celebahq32", "autoencoder", 128, "noise 0.05"), ("0.080",)),
        (("table-2", "celebahq32", "aef-linear", 128, "noise 0.2"), ("0.075",)),
        (("table-3", "mnist", "vae", 2), ("2.37M",)),
        (("table-3", "mnist", "aef-center", 16), ("2.71M",)),
        (("table-3", "mnist", "aef-linear", 32), ("3.15M",)),
        (("table-4", "celebahq32", "vae", 64), ("2.80M",)),
        (("table-4", "celebahq32", "vae", 128), ("4.07M",)),
        (("table-4", "celebahq32", "vae", 256), ("8.32M",)),
        (("table-4", "celebahq32", "aef-linear", 64), ("2.99M",)),
        (("table-4", "celebahq32", "aef-linear", 128), ("4.46M",)),
        (("table-4", "celebahq32", "aef-linear", 256), ("9.11M",)),
        (("table-5", "celebahq64", "vae", 128), ("4.34M",)),
        (("table-5", "celebahq64", "vae", 256), ("9.40M",)),
        (("table-5", "celebahq64", "vae", 512), ("28.0M",)),
        (("table-5", "celebahq64", "aef-linear", 128), ("5.91M",)),
        (("table-5", "celebahq64", "aef-linear", 256), ("12.5M",)),
        (("table-5", "celebahq64", "aef-linear", 512), ("34.3M",)),
        (("table-6", "celebahq64", "vae", 128), ("6.87, 6.86", "96.3, 92.6")),
        (("table-6", "celebahq32", "aef-linear", 256), ("5.58, 5.57", "27.9, 30.9")),
        (("table-6", "imagenet32", "vae", 256), ("6.76, 6.74", "164, 160")),
        (("table-7", "celebahq32", "vae", 128, "only prior"), ("6.71", "74.1")),
        (
            ("table-7", "celebahq32", "aef-linear", 128, "only posterior"),
            ("5.88", "108"),
        ),
        (("figure-5", "kmnist", "aef-corner", 16), ("plot only",)),
        (("figure-10", "fashion_mnist", "vae", 32, "noise 0.25"), ("plot only",)),
    ],
)
def test_published_numbers(row, texts):
    assert published(*row) == texts


def test_exhibits_are_complete():
    counts = {key: len(exhibit.experiments) for key, exhibit in paper.EXHIBITS.items()}
    assert counts == {
        "table-1": 20,
        "table-2": 27,
        "table-3": 15,
        "table-4": 6,
        "table-5": 6,
        "table-6": 16,
        "table-7": 8,
        "figure-5": 60,
        "figure-6": 60,
        "figure-10": 72,
    }


def test_table_1_is_made_of_single_runs_of_table_6():
    # What the note under Table 1 says: outside MNIST, all but one BPD.
    def rows(key):
        return {
            paper.run_name(experiment.config): experiment.values
            for experiment in paper.EXHIBITS[key].experiments
            if experiment.config.dataset != "mnist"
        }

    first, sixth = rows("table-1"), rows("table-6")
    assert first.keys() == sixth.keys()
    odd = [
        (name, metric)
        for name, values in first.items()
        for metric, value in values.items()
        if value not in sixth[name][metric]
    ]
    assert odd == [("celebahq32-aef-linear-128-seed3", "marginal_bits_per_dim")]


@pytest.mark.parametrize(
    ("dataset", "noise", "budget"),
    [
        ("mnist", 0.0, (100_000, 0, 128, 1e-3)),
        ("kmnist", 0.25, (100_000, 0, 128, 1e-4)),
        ("celebahq32", 0.0, (1_000_000, 20_000, 64, 1e-4)),
        ("celebahq32", 0.2, (1_000_000, 20_000, 64, 1e-4)),
        ("celebahq64", 0.0, (1_000_000, 20_000, 16, 1e-4)),
        ("imagenet32", 0.0, (2_000_000, 100_000, 16, 1e-4)),
    ],
)
def test_budgets_are_those_of_the_appendix(dataset, noise, budget):
    found = {
        (
            experiment.config.iterations,
            experiment.config.patience,
            experiment.config.batch_size,
            experiment.config.learning_rate,
        )
        for _, experiment in ALL
        if (experiment.config.dataset, experiment.config.noise_std) == (dataset, noise)
    }
    assert found == {budget}


def test_every_configuration_is_valid_and_has_its_own_name():
    configs = {}
    for _, experiment in ALL:
        config = experiment.config
        config.check()
        # A row that two exhibits share is trained once.
        assert configs.setdefault(paper.run_name(config), config) == config
        assert experiment.seeds == tuple(range(3, 3 + len(experiment.seeds)))
        assert len(experiment.seeds) == (5 if "mnist" in config.dataset else 2)
        noisy = config.noise_std > 0
        assert noisy == (experiment.variant[:5] == "noise")
        # An autoencoder has none, so that its command cannot name one.
        fixed = noisy and config.model != "autoencoder"
        assert fixed == (config.decoder_scale == "fixed")
    assert len(set(map(RunConfig.to_json, configs.values()))) == len(configs)
    # Of Tables 4 and 5, two are in no other.
    assert len(configs) == 60 + 72 + 9 + 16 + 6 + 2


FLOWS = {
    "no flows": {"core_flow": "none", "prior_flow": "none"},
    "only posterior": {"prior_flow": "none"},
    "only prior": {"core_flow": "none"},
    "both flows": {},
}


@pytest.mark.parametrize("key", [f"table-{number}" for number in (1, 3, 4, 5, 6, 7)])
def test_every_row_is_a_preset_but_for_its_flows(key):
    for experiment in paper.EXHIBITS[key].experiments:
        config = experiment.config
        preset = PRESETS[f"{config.dataset}-{config.model}-{config.latent_dim}"]
        flows = FLOWS[experiment.variant] if key == "table-7" else {}
        assert config == dataclasses.replace(preset, **flows)
        # The paper's networks and sides.
        small = config.dataset == "mnist"
        assert config.networks == ("conv" if small else "residual")
        side = 28 if small else int(config.dataset[-2:])
        assert DATASETS[config.dataset].image_shape[:2] == (side, side)
    if key == "table-7":
        variants = [
            experiment.variant for experiment in paper.EXHIBITS[key].experiments
        ]
        assert variants == [*FLOWS] * 2


def test_metrics_say_which_likelihood_they_are():
    for _, experiment in ALL:
        exact = experiment.config.model in ("aef-center", "aef-corner")
        assert ("bits_per_dim" not in experiment.values) or exact
        assert ("marginal_bits_per_dim" not in experiment.values) or not exact


def test_training_resuming_and_skipping(package, capsys):
    name = "mnist-vae-2-seed3"
    assert reproduce.main([*ONE, "--iterations=1000"]) == 0
    assert actions(package) == [("train", name), ("evaluate", name)]
    assert reproduce.main([*ONE, "--iterations=1000"]) == 0
    assert actions(package) == []
    assert reproduce.main([*ONE, "--iterations=2000"]) == 0
    assert [config.iterations for *_, config in package.calls[:1]] == [2000]
    assert actions(package) == [("resume", name), ("evaluate", name)]
    capsys.readouterr()
    # Fewer than there are: nothing to do, and the table has the true number.
    assert reproduce.main([*ONE, "--iterations=1000"]) == 0
    assert actions(package) == []
    assert "2,000 of 100,000 (2 %)" in capsys.readouterr().out


@pytest.mark.parametrize("interrupted_at", [0, 500])
def test_an_interrupted_call_goes_on(package, capsys, interrupted_at):
    package.interrupt_at = interrupted_at
    arguments = [*ONE, "--iterations=1000", "--seeds=2"]
    assert reproduce.main(arguments) == 130
    assert capsys.readouterr().err == (
        "interrupted; the same command goes on from the last checkpoint\n"
    )
    assert actions(package) == [("train", "mnist-vae-2-seed3")]
    package.interrupt_at = None
    assert reproduce.main(arguments) == 0
    assert actions(package) == [
        ("resume", "mnist-vae-2-seed3"),
        ("evaluate", "mnist-vae-2-seed3"),
        ("train", "mnist-vae-2-seed4"),
        ("evaluate", "mnist-vae-2-seed4"),
    ]


def test_a_run_that_lacks_its_records_is_resumed_at_its_own_length(package):
    package.interrupt_at = 3000
    assert reproduce.main(ONE) == 130
    package.interrupt_at = None
    actions(package)
    assert reproduce.main([*ONE, "--iterations=2000"]) == 0
    assert package.calls[0][2].iterations == 3000
    assert actions(package)[0] == ("resume", "mnist-vae-2-seed3")


def test_records_of_fewer_iterations_do_not_count(package, capsys):
    assert reproduce.main([*ONE, "--iterations=1000"]) == 0
    package.interrupt_at = 3000
    assert reproduce.main(ONE) == 130
    actions(package)
    capsys.readouterr()
    # The checkpoint is at 3,000, what is measured at 1,000.
    assert reproduce.main([*ONE, "--iterations=2000"]) == 0
    assert [(what, config.iterations) for what, _, config in package.calls[:1]] == [
        ("resume", 3000)
    ]
    assert [action for action, _ in actions(package)] == ["resume", "evaluate"]
    assert "3,000 of 100,000 (3 %)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "changed",
    [
        ["--num-samples=64"],
        ["--num-images=600"],
        ["--num-repeats=20"],
        ["--proposal=laplace"],
        ["--frechet=classifier"],
    ],
)
def test_only_what_was_not_measured_yet_is_measured(package, changed):
    arguments = [*ONE, "--iterations=1000"]
    assert reproduce.main(arguments) == 0
    actions(package)
    for _ in range(2):
        assert reproduce.main([*arguments, *changed]) == 0
    ((action, _, config),) = package.calls
    assert action == "evaluate"
    name, value = changed[0].removeprefix("--").replace("-", "_").split("=")
    assert str(getattr(config, name)) == value
    # Neither is the first evaluation lost.
    assert reproduce.main(arguments) == 0
    assert len(package.calls) == 1


@pytest.mark.parametrize(("name", "value"), [("temperature", 0.5), ("num_images", 100)])
def test_a_distance_of_other_samples_is_not_the_one_asked(name, value, package):
    arguments = [*ONE, "--iterations=1000", "--frechet=classifier"]
    assert reproduce.main(arguments) == 0
    path = Path("runs/reproduce/mnist-vae-2-seed3/metrics.json")
    records = json.loads(path.read_text())
    assert "distance" in records[-1]["name"]
    path.write_text(json.dumps([*records[:-1], {**records[-1], name: value}]))
    package.calls.clear()
    assert reproduce.main(arguments) == 0
    assert [action for action, _ in actions(package)] == ["evaluate"]


def test_samples_that_were_inspected_are_no_test_images(package):
    arguments = ["--table=1", "--dataset=celebahq32", "--model=vae"]
    arguments += ["--latent-dim=64", "--iterations=1000", "--data-dir=."]
    assert reproduce.main(arguments) == 0
    (path,) = Path("runs/reproduce").glob("*/metrics.json")
    records = json.loads(path.read_text())
    inspected = record("power_ratio_1_octave", 1.0, iteration=1000, num_images=50_000)
    path.write_text(json.dumps([*records, inspected]))
    package.calls.clear()
    assert reproduce.main(arguments) == 0
    assert not package.calls


def test_images_without_labels_have_no_classifier(package, capsys):
    arguments = ["--table=1", "--model=vae", "--iterations=1000", "--data-dir=."]
    arguments += ["--frechet=classifier"]
    assert reproduce.main([*arguments, "--dataset=celebahq32"]) == 1
    printed = capsys.readouterr().err
    assert "--frechet (celebahq32 has no labels for a classifier)" in printed
    assert not package.calls
    assert reproduce.main(arguments) == 0
    asked = {
        name.split("-")[0]: config.frechet
        for action, name, config in package.calls
        if action == "evaluate"
    }
    assert asked["mnist"] == "classifier"
    assert asked.get("celebahq32", "none") == "none"
    assert "No classifier judges celebahq32, celebahq64" in capsys.readouterr().out


def test_a_training_that_fails_is_one_line(package, capsys, monkeypatch):
    def fail(*arguments, **options):
        raise TrainingFailed("The run stopped after iteration 3: no memory.")

    monkeypatch.setattr(package, "train", fail)
    assert reproduce.main(ONE) == 1
    assert capsys.readouterr().err == (
        "error: The run stopped after iteration 3: no memory.\n"
    )


def test_the_last_of_two_equal_records_counts(package, capsys):
    assert reproduce.main([*ONE, "--iterations=1000"]) == 0
    path = Path("runs/reproduce/mnist-vae-2-seed3/metrics.json")
    records = json.loads(path.read_text())
    path.write_text(json.dumps([*records, {**records[-1], "value": 7.5}]))
    capsys.readouterr()
    assert reproduce.main([*ONE, "--iterations=1000"]) == 0
    assert "7.5000 +- 0.0125" in capsys.readouterr().out


def test_denoising_autoencoders_are_trained_once_and_measured_as_asked(package, capsys):
    # Their training measures no features, but the whole test set.
    arguments = ["--table=2", "--dataset=mnist", "--model=autoencoder"]
    arguments += ["--latent-dim=2", "--iterations=500"]
    assert reproduce.main(arguments) == 0
    assert [action for action, _ in actions(package)] == ["train"] * 3
    for more in ([], ["--frechet=classifier", "--num-images=500"], []):
        assert reproduce.main([*arguments, *more]) == 0
    assert [action for action, _ in actions(package)] == ["evaluate"] * 3
    capsys.readouterr()
    assert reproduce.main([*arguments, "--frechet=classifier"]) == 0
    assert [action for action, _ in actions(package)] == ["evaluate"] * 3
    lines = capsys.readouterr().out.splitlines()
    ife, own = [re.split("  +", line) for line in lines if "noise 0.5 " in line]
    assert "not measured" in ife
    assert "0.135" in ife
    assert "classifier error" in own
    assert "0.2500 +- 0.0125" in own
    assert own[-1].endswith("in words, 10,000 images")


def test_a_longer_run_with_the_same_best_model_is_not_measured_again(package, capsys):
    package.best_at = 800
    assert reproduce.main([*ONE, "--iterations=1000"]) == 0
    records = Path("runs/reproduce/mnist-vae-2-seed3/metrics.json")
    before = records.read_text()
    actions(package)
    package.interrupt_at = 1500
    assert reproduce.main([*ONE, "--iterations=2000"]) == 130
    assert records.read_text() == before
    actions(package)
    capsys.readouterr()
    assert reproduce.main([*ONE, "--iterations=1500"]) == 0
    assert actions(package) == []
    assert "1,500 of 100,000 (1.5 %)" in capsys.readouterr().out


@pytest.mark.parametrize("known", [{"mnist": NUM_TEST_IMAGES}, {}])
def test_the_whole_test_set_is_not_taken_from_other_counts(package, monkeypatch, known):
    monkeypatch.setattr(reproduction, "NUM_TEST_IMAGES", known)
    arguments = [*ONE, "--iterations=1000"]
    assert reproduce.main(arguments) == 0
    run_dir = Path("runs/reproduce/mnist-vae-2-seed3")
    for name, facts in (
        ("elbo_bits_per_dim", {"split": "train", "num_images": 54_000}),
        ("frechet_classifier_distance", {"num_images": 50_000}),
    ):
        append(run_dir, record(name, 2.0, iteration=1000, **facts))
    actions(package)
    assert reproduce.main(arguments) == 0
    assert actions(package) == []


def test_an_exact_likelihood_needs_no_evaluation(package, capsys):
    arguments = ["--figure=5", "--dataset=kmnist", "--model=aef-center"]
    assert reproduce.main([*arguments, "--latent-dim=8", "--iterations=500"]) == 0
    assert actions(package) == [("train", "kmnist-aef-center-8-seed3")]
    printed = capsys.readouterr().out
    assert "exact, 10,000 images" in printed
    assert "5.0000 +- 0.0125  plot only  500 of 100,000 (0.5 %)" in printed


def test_a_run_ended_by_patience_is_done(package, capsys):
    package.patience_at = 52_000
    arguments = ["--table=7", "--model=vae"]
    assert reproduce.main(arguments) == 0
    assert [action for action, _ in actions(package)] == ["train", "evaluate"] * 4
    capsys.readouterr()
    assert reproduce.main(arguments) == 0
    assert actions(package) == []
    printed = capsys.readouterr().out
    assert "52,000, ended by patience" in printed
    assert "NOT a reproduction" not in printed


def test_a_short_run_is_not_taken_for_the_full_one(package, capsys):
    assert reproduce.main([*ONE, "--iterations=2000"]) == 0
    printed = capsys.readouterr().out
    line = "mnist     vae    2  BPD     1.8000 +- 0.0125  2.40   2,000 of 100,000 (2 %)"
    assert line in printed
    assert "1 x 128 samples, encoder proposal, 10,000 images" in printed
    assert "not measured      57.5" in printed
    text = " ".join(printed.split())
    assert "NOT a reproduction: they come from 2,000 iterations where the" in text
    assert "A row here is 1 of the paper's 5 runs." in text
    assert "The paper's importance sampling: 20 x 128 samples" in text
    assert "FID and IFE need --frechet inception; what a classifier" in text
    assert "variant" not in printed


def test_a_full_run_is_called_one(package, capsys):
    assert reproduce.main([*ONE, "--seeds=5", "--num-repeats=20"]) == 0
    printed = capsys.readouterr().out
    assert "100,000 of 100,000 (100 %)" in printed
    # Mean and deviation of 1.8, 1.9, ... 2.2.
    assert "2.0000 +- 0.1581 (sd, 5 runs)" in printed
    assert "Every run has the paper's iterations" in printed
    for wrong in ("NOT a reproduction", "A row here", "The paper's importance"):
        assert wrong not in printed
    # One step short is not full.
    package.interrupt_at = 99_999
    assert reproduce.main([*ONE, "--runs-dir=other", "--iterations=99999"]) == 0
    printed = capsys.readouterr().out
    assert "99,999 of 100,000 (99.9 %)" in printed
    assert "NOT a reproduction" in printed


def test_seeds_of_different_length_show_both(package, capsys):
    assert reproduce.main([*ONE, "--iterations=20"]) == 0
    assert reproduce.main([*ONE, "--iterations=3000", "--seeds=4,"]) == 0
    capsys.readouterr()
    assert reproduce.main([*ONE, "--iterations=20", "--seeds=3,4"]) == 0
    assert "20 to 3,000 of 100,000 (below 0.1 %)" in capsys.readouterr().out


def test_the_papers_estimator_has_its_own_line(package, capsys):
    models = ["--table=1", "--dataset=mnist", "--latent-dim=2", "--iterations=500"]
    assert reproduce.main(models) == 0
    assert "without" not in capsys.readouterr().out.split("\n\n")[1]
    actions(package)
    for _ in range(2):
        assert reproduce.main([*models, "--paper-estimator"]) == 0
    # The paper has it for its linear model only, and nothing is measured twice.
    ((action, name, config),) = package.calls
    assert (action, name) == ("evaluate", "mnist-aef-linear-2-seed3")
    assert config == EvaluationConfig(paper_estimator=True)
    printed = capsys.readouterr().out.split("\n\n")[-2].splitlines()
    lines = [re.split("  +", line) for line in printed]
    assert [line[3] for line in lines] == [
        "metric",
        *("BPD", "FID"),
        *("BPD", "BPD without - log K", "FID"),
    ]
    honest, as_paper = lines[3:5]
    assert honest[4:6] == ["1.8000 +- 0.0125", "2.37"]
    assert honest[-1].startswith("importance sampling, 1 x 128 samples")
    assert as_paper[4:6] == ["1.7375 +- 0.0125", "2.37"]
    assert as_paper[-1] == (
        "the paper's estimator without - log K, 1 x 128 samples, encoder proposal, "
        "10,000 images"
    )
    # Another number of samples is another number.
    assert reproduce.main([*models, "--num-samples=64"]) == 0
    actions(package)
    capsys.readouterr()
    assert reproduce.main([*models, "--num-samples=64", "--paper-estimator"]) == 0
    assert actions(package) == [("evaluate", "mnist-aef-linear-2-seed3")]
    # The option in the note stays in one piece.
    assert "--paper-estimator shows that number" in capsys.readouterr().out
    # A row without BPD does not ask for it.
    rows = paper.EXHIBITS["figure-6"].select(dataset="mnist", latent_dim=2)
    asked = EvaluationConfig(paper_estimator=True, frechet="classifier")
    for (run_of_row,) in paper.plan(rows, asked, Path("runs")):
        assert run_of_row.evaluation == EvaluationConfig(frechet="classifier")


def test_a_classifier_distance_is_no_fid(package, capsys):
    assert reproduce.main([*ONE, "--iterations=20", "--frechet=classifier"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (fid,) = [line for line in lines if "  FID  " in line]
    assert "not measured" in fid
    assert "33.25" not in fid
    (own,) = [line for line in lines if "classifier distance" in line]
    assert "33.25             none " in own
    assert own.endswith("frechet_classifier_distance in words")
    assert any("another quantity" in line for line in lines)


def test_inception_fills_the_fid(package, capsys, tmp_path):
    weights = tmp_path / "inception.h5"
    weights.touch()
    arguments = [*ONE, "--iterations=20", "--frechet=inception"]
    assert reproduce.main([*arguments, f"--inception-weights={weights}"]) == 0
    assert package.calls[1][2].inception_weights == weights
    (fid,) = [
        line for line in capsys.readouterr().out.splitlines() if "  FID  " in line
    ]
    assert "  33.25  " in fid
    assert "57.5" in fid


def test_table_3_counts_weights_and_trains_nothing(package, capsys):
    assert reproduce.main(["--table=3", "--model=vae"]) == 0
    assert package.calls == []
    printed = capsys.readouterr().out
    assert "mnist     vae    32  parameters  64,000  3.12M\n" in printed
    assert "reproduction" not in printed


@pytest.mark.parametrize(
    ("key", "model", "latent_dim", "count", "published"),
    [
        ("table-3", "aef-center", 2, "2,371,095", "2.37M"),
        ("table-4", "aef-linear", 64, "2,997,705", "2.99M"),
        ("table-5", "vae", 128, "4,344,777", "4.34M"),
    ],
)
def test_sizes_are_counted(capsys, key, model, latent_dim, count, published):
    number = key.removeprefix("table-")
    arguments = [f"--table={number}", f"--model={model}", f"--latent-dim={latent_dim}"]
    assert reproduce.main(arguments) == 0
    assert f"  parameters  {count}  {published}\n" in capsys.readouterr().out
    # Nothing of a training is listed.
    assert reproduce.main([*arguments, "--list"]) == 0
    listed = capsys.readouterr().out
    assert f"  parameters  {published}\n" in listed
    assert "iterations" not in listed
    assert reproduce.main([*arguments, "--dry-run"]) == 0
    assert capsys.readouterr().out == (
        f"# Table {number} trains nothing: it counts weights.\n"
    )


@pytest.mark.parametrize(
    ("table", "dataset", "what_to_do"),
    [
        (1, "celebahq64", "put the 30,000 image files of CelebA-HQ"),
        (1, "imagenet32", "pass --download"),
        (7, "celebahq32", "put the 30,000 image files of CelebA-HQ"),
    ],
)
def test_data_that_are_not_there_are_named(
    monkeypatch, capsys, tmp_path, table, dataset, what_to_do
):
    monkeypatch.chdir(tmp_path)
    arguments = [f"--table={table}", f"--dataset={dataset}", "--data-dir=no data"]
    assert reproduce.main(arguments) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: there is no directory 'no data': pass")
    assert printed.count("\n") == 1
    assert not list(tmp_path.iterdir())
    (tmp_path / "no data").mkdir()
    assert reproduce.main(arguments) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: there is no data set '{dataset}' in 'no data'")
    assert what_to_do in printed
    assert printed.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["no data"]


def test_a_run_with_other_settings_is_refused(package, capsys):
    assert reproduce.main([*ONE, "--iterations=1000"]) == 0
    path = Path("runs/reproduce/mnist-vae-2-seed3/config.json")
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, "learning_rate": 0.5, "batch_size": 7}))
    capsys.readouterr()
    assert reproduce.main([*ONE, "--iterations=1000"]) == 1
    assert capsys.readouterr().err == (
        f"error: {path.parent} holds a run with other settings: its --batch-size=7 and "
        "--learning-rate=0.5 should be --batch-size=128 and --learning-rate=0.001; "
        "choose another --runs-dir.\n"
    )
    assert len(package.calls) == 2
    # Nor is another run trained before it is found.
    assert reproduce.main([*ONE[:2], "--iterations=1000", "--runs-dir=runs/new"]) == 0
    Path("runs/new/mnist-vae-32-seed3").rename("kept")
    actions(package)
    path.write_text(json.dumps({**fields, "latent_dim": 32, "batch_size": 7}))
    path.parent.rename("runs/new/mnist-vae-32-seed3")
    assert reproduce.main([*ONE[:2], "--iterations=5000", "--runs-dir=runs/new"]) == 1
    assert actions(package) == []


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "Name one of --table 1, 2, 3, 4, 5, 6, 7 and --figure 5, 6, 10, not nei"),
        (["--table=8"], "not --table 8; --list shows"),
        (["--table=1", "--figure=5"], "not --table 1 and --figure 5"),
        (["--table=1", "--dataset=kmnist"], "with dataset kmnist, only with mnist, ce"),
        (["--figure=5", "--latent-dim=3"], "latent_dim 3, only with 2, 4, 8, 16, 32."),
        (["--figure=5", "--model=ae"], "model ae, only with vae, aef-linear, aef-cen"),
        ([*ONE, "--iterations=0"], "iterations must be at least 1, got 0"),
        (
            [*ONE, "--seeds=6"],
            "--seeds must be 1 to 5, the paper's runs on mnist, or s",
        ),
        ([*ONE, "--seeds=x"], "such as 3,4 or 5, not 'x'."),
        ([*ONE, "--num-samples=0"], "num_samples must be at least 1, got 0."),
        (
            [*ONE, "--frechet=inception", "--inception-weights=no.h5"],
            "there is no file no.h5",
        ),
    ],
)
def test_errors_are_one_line(package, capsys, tmp_path, argv, message):
    assert reproduce.main(argv) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert message in printed
    assert printed.count("\n") == 1
    assert package.calls == []
    assert not list(tmp_path.iterdir())


def test_divergence_names_the_run(package, capsys):
    def train(*_, **__):
        raise FloatingPointError("21 updates in a row were not finite")

    package.train = train
    assert reproduce.main(ONE) == 1
    assert "error: runs/reproduce/mnist-vae-2-seed3: 21 upd" in capsys.readouterr().err


class _ParsedError(Exception):
    pass


def parsed(monkeypatch, command):
    """What a trainer's own parser makes of a printed command."""
    program, name, *argv = shlex.split(command)
    script = {"train": run, "evaluate": evaluate}[name]
    assert program == "aef-tfp"
    found = []

    def take(*arguments, **rest):
        found.append((*arguments, rest))
        raise _ParsedError

    stand_in = SimpleNamespace(
        train=take,
        evaluate_run=take,
        RunInterrupted=KeyboardInterrupt,
        EvaluationInterrupted=KeyboardInterrupt,
    )
    monkeypatch.setattr(script, "import_quietly", lambda name: stand_in)
    # Neither the data nor the runs are there.
    monkeypatch.setattr(script, "check_source", lambda *place: None)
    of_run = SimpleNamespace(from_run=lambda run_dir: PRESETS["mnist-aef-linear-2"])
    if script is evaluate:
        monkeypatch.setattr(script, "RunConfig", of_run)
    with pytest.raises(_ParsedError):
        script.main(argv)
    return found[0]


@pytest.mark.parametrize("key", ["table-1", "table-2", "table-7", "figure-5"])
def test_dry_run_prints_commands_that_do_the_same(package, monkeypatch, capsys, key):
    # Space in a name: the commands are for a shell.
    kind, number = key.split("-")
    arguments = [f"--{kind}={number}", "--runs-dir=my runs", "--data-dir=my data"]
    arguments += ["--iterations=700", "--seeds=4,", "--proposal=laplace"]
    assert reproduce.main([*arguments, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    experiments = paper.EXHIBITS[key].experiments
    assert len(lines) == 2 * len(experiments)
    pairs = zip(lines[::2], lines[1::2], strict=True)
    for (training, evaluation), experiment in zip(pairs, experiments, strict=True):
        config, run_dir, rest = parsed(monkeypatch, training)
        asked = dataclasses.replace(
            experiment.config, seed=4, iterations=700, jit_compile=False
        )
        assert config == asked
        assert run_dir == Path("my runs") / paper.run_name(asked)
        assert rest["data_dir"] == Path("my data")
        measured, measurement, rest = parsed(monkeypatch, evaluation)
        assert measured == run_dir
        # `evaluate` refuses a proposal for a model that needs none.
        no_estimate = ("autoencoder", "aef-center", "aef-corner")
        proposal = "encoder" if config.model in no_estimate else "laplace"
        assert measurement == EvaluationConfig(proposal=proposal)
        assert rest["data_dir"] == Path("my data")
        assert not rest["download"]
    assert package.calls == []
    assert not list(Path().iterdir())


def test_dry_run_names_the_closest_preset(package, capsys):
    def first(*arguments):
        assert reproduce.main([*arguments, "--dry-run"]) == 0
        training, _ = capsys.readouterr().out.splitlines()[:2]
        command, run_dir = training.split(" --run-dir=runs/reproduce/")
        return command.removeprefix("aef-tfp train "), run_dir

    assert first(*ONE) == ("mnist-vae-2", "mnist-vae-2-seed3")
    photographs = ["--table=6", "--dataset=imagenet32", "--model=aef-linear"]
    assert first(*photographs) == (
        "imagenet32-aef-linear-128",
        "imagenet32-aef-linear-128-seed3",
    )
    assert first("--table=7", "--model=aef-linear") == (
        "celebahq32-aef-linear-128-no-flows",
        "celebahq32-aef-linear-128-core_none-prior_none-seed3",
    )


def test_dry_run_passes_everything_on_to_the_evaluation(package, monkeypatch, capsys):
    asked = EvaluationConfig(
        num_images=5,
        num_samples=6,
        num_repeats=7,
        proposal="laplace",
        paper_estimator=True,
        frechet="inception",
        inception_weights=Path("a file"),
    )
    options = ["--num-images=5", "--num-samples=6", "--num-repeats=7", "--dry-run"]
    options += ["--proposal=laplace", "--paper-estimator", "--frechet=inception"]
    options += ["--inception-weights=a file", *ONE[:2], "--latent-dim=2"]
    assert reproduce.main([*options, "--model=aef-linear"]) == 0
    _, evaluation = capsys.readouterr().out.splitlines()
    assert parsed(monkeypatch, evaluation)[1] == asked


def test_dry_run_knows_what_is_left(package, monkeypatch, capsys):
    assert reproduce.main([*ONE, "--iterations=500"]) == 0
    capsys.readouterr()
    assert reproduce.main([*ONE, "--iterations=500", "--dry-run"]) == 0
    assert capsys.readouterr().out == "# runs/reproduce/mnist-vae-2-seed3: done\n"
    assert reproduce.main([*ONE, "--iterations=900", "--dry-run", "--download"]) == 0
    training, _ = capsys.readouterr().out.splitlines()
    config, run_dir, rest = parsed(monkeypatch, training)
    assert config == dataclasses.replace(RunConfig.from_run(run_dir), iterations=900)
    assert rest["resume"]
    assert rest["download"]
    capsys.readouterr()
    assert (
        reproduce.main([*ONE, "--iterations=500", "--num-samples=9", "--dry-run"]) == 0
    )
    assert capsys.readouterr().out == (
        "aef-tfp evaluate runs/reproduce/mnist-vae-2-seed3 --num-samples=9\n"
    )


def test_list_shows_budgets_and_the_papers_values(capsys):
    assert reproduce.main(["--list"]) == 0
    printed = capsys.readouterr().out
    for key in paper.EXHIBITS:
        assert f"--{key.replace('-', ' ')} " in printed
    assert reproduce.main(["--table=6", "--dataset=imagenet32", "--list"]) == 0
    printed = capsys.readouterr().out
    assert "ours" not in printed.splitlines()[3]
    assert "6.89, 6.92" in printed
    assert "2,000,000   batch 16, step 0.0001, patience 100,000, seeds 3, 4" in printed


def test_help_and_list_do_not_start_tensorflow():
    script = (
        "import sys; sys.path.insert(0, 'trainers'); import reproduce\n"
        "assert reproduce.main(['--list']) == 0\n"
        "assert reproduce.main(['--table', '1', '--list']) == 0\n"
        "assert reproduce.main(['--table', '1', '--dry-run']) == 0\n"
        "assert 'tensorflow' not in sys.modules"
    )
    listed = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True
    )
    assert listed.returncode == 0, listed.stderr
    assert "--figure 10" in listed.stdout
    helped = subprocess.run(
        [sys.executable, "trainers/reproduce.py", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--dry-run" in helped.stdout
