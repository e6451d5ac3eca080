"""README and documentation: the code runs, the commands parse, nothing is left out."""

import importlib
import importlib.util
import inspect
import json
import os
import pkgutil
import re
import shlex
import socket
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import get_type_hints

import keras
import numpy as np
import pytest
import tensorflow as tf
import tyro

import aef_tfp
from aef_tfp import flows, models, runs
from aef_tfp.runs.commands import COMMANDS
from aef_tfp.runs.config import RunConfig

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {path.name: path for path in [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]}
SCRIPTS = sorted(path.stem for path in (ROOT / "trainers").glob("*.py"))

# Less data, one epoch and no flows, for a block that is meant to be watched.
_PLAIN = {"num_levels=17)": 'num_levels=17, core_flow="none", prior_flow="none")'}
_FIRST = {"epochs=20": "epochs=1", "images[:1500]": "images[:64]", **_PLAIN}
SHORTER = {
    "README.md": _FIRST,
    "index.md": _FIRST,
    "serving.md": _PLAIN,
    "referee.md": {
        '"num_layers": 2': '"num_layers": 1',
        # One kind of model: the other makes the same graphs once more.
        '    "AEF (linear)"': '    # "AEF (linear)"',
        "epochs=30": "epochs=1",
        "num_steps=1000": "num_steps=5",
        "num_steps=100": "num_steps=5",
    },
}

# A script that must create its strategy first, in several processes.
SEVERAL_PROCESSES = "several-machines.md"


def python_blocks(name):
    """The Python of a page as one program, at the lines where it stands."""
    text = PAGES[name].read_text()
    for match in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield "\n" * text.count("\n", 0, match.start(1)) + match[1]


WITH_PYTHON = [name for name in PAGES if any(python_blocks(name))]


def program(name):
    return "".join(block.lstrip("\n") for block in python_blocks(name))


# The first page shows the example of the README.
RUN_HERE = [
    name
    for name in WITH_PYTHON
    if name != SEVERAL_PROCESSES
    and not (name == "index.md" and program(name) in program("README.md"))
]


def executed(name):
    """Runs the blocks of a page one after the other; returns their names."""
    names = {"__name__": name}
    shorter = SHORTER.get(name, {})
    assert all(long in program(name) for long in shorter)
    for block in python_blocks(name):
        for long, short in shorter.items():
            block = block.replace(long, short)
        exec(compile(block, str(PAGES[name]), "exec"), names)
    return names


# What the pages say about the results of their code.


def check_readme(names, printed):
    samples = names["samples"].numpy()
    assert samples.shape[1:] == (8, 8, 1)
    assert ((samples > 0) & (samples < 1)).all()
    # Even one epoch beats the uniform density, log2(17) = 4.1 bits per dimension.
    assert float(printed.split()[-1]) < 4.1


def check_concepts(names, printed):
    assert len(printed.splitlines()) == len(names["terms"]) == 7
    for ours, theirs in zip(
        names["aef"].decoder.get_weights(),
        names["vae"].decoder.get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


def check_own_networks(names, printed):
    model, same = names["model"], names["same"]
    assert np.abs(model.core_flow.shift.numpy()).min() > 0
    images = names["images"][:4]
    log_prob = model.log_prob(images, seed=0)
    np.testing.assert_array_equal(log_prob, same.log_prob(images, seed=0))


def check_own_data(names, printed):
    density = names["density"]
    assert np.isfinite(density.log_prob(names["points"])).all()
    assert names["model"].log_prob(names["scans"]).shape == (128,)
    assert names["info"].num_levels == 256


def check_likelihoods(names, printed):
    assert [record.split for record in names["records"]] == ["test"] * 5
    assert names["model"].proposal_scales.keys() == {"encoder"}
    bits = [float(b) for b in re.findall(r"(\S+) bits per dimension, ", printed)]
    assert len(bits) == 2
    assert max(bits) < 4.1


def check_referee(names, printed):
    rows = [line for line in printed.splitlines() if line.startswith(("AEF", "VAE"))]
    assert len(rows) == 1 + 2
    assert [r.name.split("_")[0] for r in names["records"]] == ["annealed"] * 3 + (
        ["marginal"] * 3
    )
    assert np.isfinite(names["result"].gap).all()


def check_denoising(names, printed):
    clean = names["model"].dequantize(names["images"][1500:1508], seed=None)
    before, after = (
        float(tf.reduce_mean((names[name] - clean) ** 2))
        for name in ("noisy", "denoised")
    )
    assert after < before


def check_expansion_noise(names, printed):
    model, images = names["model"], names["images"][1500:]
    assert np.mean(names["bound"]) < np.mean(model.marginal_log_prob(images, 16))


def check_tensorboard(names, printed):
    found = {path.parent.name for path in names["logs"].rglob("events.*")}
    assert found == {"train", "validation", "images"}


def check_resuming(names, printed):
    model = names["model"]
    assert int(model.optimizer.iterations.numpy()) == 40
    best = names["best"]
    assert int(best.optimizer.iterations.numpy()) in (10, 20, 30, 40)
    last = max((names["run_dir"] / "checkpoints").iterdir())
    assert last.name == "iteration-00000040"


def check_several_gpus(names, printed):
    assert names["model"].distribute_strategy.num_replicas_in_sync == 2
    assert names["history"].history["val_bits_per_dim"][-1] < 4.1


def check_large_models(names, printed):
    assert names["model"].get_compile_config()["rematerialize"]


CHECKS = {
    "README.md": check_readme,
    "index.md": check_readme,
    "concepts.md": check_concepts,
    "own-networks.md": check_own_networks,
    "own-data.md": check_own_data,
    "likelihoods.md": check_likelihoods,
    "referee.md": check_referee,
    "denoising.md": check_denoising,
    "expansion-noise.md": check_expansion_noise,
    "tensorboard.md": check_tensorboard,
    "resuming.md": check_resuming,
    "large-models.md": check_large_models,
    "several-gpus.md": check_several_gpus,
}


@pytest.mark.parametrize(
    "name",
    [
        # Every endpoint is traced, saved, loaded and compared.
        pytest.param(
            name, marks=[pytest.mark.slow] if ".export(" in program(name) else []
        )
        for name in RUN_HERE
    ],
)
def test_python_blocks_run(name, tmp_path, monkeypatch, capsys, mirrored):
    monkeypatch.chdir(tmp_path)
    # The compilation of flows of the paper's size takes half a minute.
    sizes = {"num_layers": 1, "hidden_units": 32, "num_blocks": 1}
    assert list(inspect.signature(flows.MAF).parameters)[1:4] == list(sizes)
    monkeypatch.setattr(flows.MAF.__init__, "__defaults__", tuple(sizes.values()))
    if name == "several-gpus.md":
        monkeypatch.setattr("aef_tfp.distribution.get_strategy", lambda: mirrored)
    names = executed(name)
    CHECKS.get(name, lambda names, printed: None)(names, capsys.readouterr().out)


def test_checks_belong_to_pages_with_code():
    assert CHECKS.keys() <= set(WITH_PYTHON)
    assert SEVERAL_PROCESSES in WITH_PYTHON


@pytest.mark.slow
def test_two_workers_run_the_script_and_agree(tmp_path):
    (script,) = python_blocks(SEVERAL_PROCESSES)
    (tmp_path / "train.py").write_text(script)
    with socket.socket() as one, socket.socket() as two:
        one.bind(("localhost", 0))
        two.bind(("localhost", 0))
        cluster = {"worker": [f"localhost:{s.getsockname()[1]}" for s in (one, two)]}
    workers = []
    for index in range(2):
        folder = tmp_path / str(index)
        folder.mkdir()
        config = {"cluster": cluster, "task": {"type": "worker", "index": index}}
        workers.append(
            subprocess.Popen(
                [sys.executable, "../train.py"],
                cwd=folder,
                env={**os.environ, "TF_CONFIG": json.dumps(config)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        outputs = [worker.communicate(timeout=300) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    for worker, (_, errors) in zip(workers, outputs, strict=True):
        assert worker.returncode == 0, errors
    assert outputs[0][0] == outputs[1][0] != ""
    assert (tmp_path / "0" / "model.keras").exists()
    assert not (tmp_path / "1" / "model.keras").exists()
    keras.saving.load_model(tmp_path / "0" / "model.keras")


# Commands.


def commands():
    """All `python trainers/NAME.py ...` and `aef-tfp NAME ...` of the pages."""
    pattern = r"(?:python trainers/(\w+)\.py|(?:aef-tfp|-m aef_tfp) ([a-z]+))([^`\n]*)"
    for name, path in PAGES.items():
        for script, command, rest in re.findall(pattern, path.read_text()):
            command = command or {"run": "train"}.get(script, script)
            arguments = shlex.split(rest, comments=True)
            yield pytest.param(
                command, arguments, id=f"{name}: {command} {' '.join(arguments)}"
            )


class _Parsed(BaseException):
    """Carries what the parser made of a command out of `main`."""


@pytest.mark.parametrize(("command", "arguments"), list(commands()))
def test_commands_parse(command, arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "trainers")
    is_script = command not in COMMANDS
    main = importlib.import_module(
        command if is_script else f"aef_tfp.runs.commands.{command}"
    ).main
    if "--resume" in arguments:
        run_dir = Path(arguments[arguments.index("--resume") + 1])
        run_dir.mkdir(parents=True)
        (run_dir / "config.json").write_text(RunConfig().to_json())
    if command == "reproduce":
        # It can say what it would do.
        assert main([*arguments, "--dry-run"]) == 0, capsys.readouterr().err
    parse = tyro.cli

    def parse_and_stop(*args, **kwargs):
        values = parse(*args, **kwargs)
        # A preset is found first, and what it says is then the default.
        if getattr(kwargs.get("default"), "preset", None) == "" and not values.list:
            return values
        raise _Parsed(values)

    monkeypatch.setattr(tyro, "cli", parse_and_stop)
    with pytest.raises(_Parsed) as parsed:
        main(arguments)
    (values,) = parsed.value.args
    if hasattr(values, "config"):
        values.config.check()


def test_commands_are_found():
    found = {parameters.values[0] for parameters in commands()}
    assert found >= {"launch", *COMMANDS}


def test_make_targets_exist():
    targets = re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.M)
    for path in PAGES.values():
        named = re.findall(r"^(?:    )?make ([a-z]+)", path.read_text(), re.M)
        assert set(named) <= set(targets), path


@pytest.fixture(scope="module")
def pages_plugin():
    spec = importlib.util.spec_from_file_location("pages", DOCS / "plugins/pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_command_line_page_shows_every_option(script, pages_plugin, monkeypatch):
    source = PAGES["command-line.md"].read_text()
    assert f"<!-- help: trainers/{script}.py -->" in source
    page = pages_plugin.on_page_markdown(f"<!-- help: trainers/{script}.py -->")
    monkeypatch.syspath_prepend(ROOT / "trainers")
    home = importlib.import_module(script).main.__module__
    hints = get_type_hints(importlib.import_module(home).Arguments)
    hints |= get_type_hints(hints.pop("config", object))
    options = {name.replace("_", "-") for name in hints}
    shown = set(re.findall(r"--([a-z][a-z-]*)", page))
    positional = re.findall(r"^│ ([A-Z]+) ", page, re.MULTILINE)
    # Positional arguments are shown by other names.
    assert len(options - shown) == len(positional)
    assert options
    assert max(map(len, page.splitlines())) <= 80


def test_the_command_line_page_shows_all_commands(pages_plugin):
    assert "<!-- help: aef-tfp -->" in PAGES["command-line.md"].read_text()
    page = pages_plugin.on_page_markdown("<!-- help: aef-tfp -->")
    assert "usage: aef-tfp COMMAND" in page
    for name, what in COMMANDS.items():
        assert re.search(rf"^  {name} +{what}$", page, re.MULTILINE)
    assert max(map(len, page.splitlines())) <= 80


# Reference.


ROOMS = [
    module.name
    for module in pkgutil.iter_modules(aef_tfp.__path__)
    if module.name != "__main__"
]
ROOMS += [f"runs.{module.name}" for module in pkgutil.iter_modules(runs.__path__)]


@pytest.mark.parametrize("room", ROOMS)
def test_the_reference_has_every_public_name(room):
    names = set(importlib.import_module(f"aef_tfp.{room}").__all__)
    text = (DOCS / "reference" / f"{room.replace('.', '/')}.md").read_text()
    shown = re.findall(rf"^::: aef_tfp\.{re.escape(room)}\.(\w+)$", text, re.MULTILINE)
    assert len(shown) == len(set(shown))
    assert set(shown) == names


def test_the_table_of_methods_is_true():
    text = (DOCS / "reference" / "models.md").read_text()
    header, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|") and "---" not in line
    )
    classes = [re.findall(r"`(\w+)`", cell) for cell in header[1:]]
    assert sum(map(len, classes)) == 6
    assert len(rows) > 15
    for first, *cells in rows:
        name, target = re.fullmatch(r"\[`(\w+)`\]\[([\w.]+)\]", first).groups()
        module, owner, method = target.rsplit(".", 2)
        assert method == name
        assert hasattr(getattr(importlib.import_module(module), owner), name)
        for group, cell in zip(classes, cells, strict=True):
            for class_name in group:
                cls = getattr(models, class_name)
                has = hasattr(cls, name)
                assert cell == ("yes" if has else ""), (class_name, name)


# Results.


@pytest.mark.parametrize("name", PAGES)
def test_every_row_of_a_table_has_as_many_cells(name):
    tables, last = [], None
    for number, line in enumerate(PAGES[name].read_text().splitlines()):
        if line.startswith("|"):
            if last != number - 1:
                tables.append([])
            tables[-1].append(line)
            last = number
    for table in tables:
        assert re.fullmatch(r"\|( -+ \|)+", table[1]), table[0]
        assert len({row.count("|") for row in table}) == 1, table[0]


def test_the_results_are_those_of_the_readme():
    text = PAGES["README.md"].read_text()
    (section,) = re.findall(r"^## Results\n(.*?)^## ", text, re.DOTALL | re.MULTILINE)
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert len(rows) > 10
    pages = (PAGES["results.md"], PAGES["speed.md"])
    shown = {line for page in pages for line in page.read_text().splitlines()}
    assert not [row for row in rows if row not in shown]


@pytest.mark.parametrize("name", ["chain-partitioned", "chain-expanded"])
def test_drawings_stand_in_the_page(name, pages_plugin):
    path = f"images/{name}.svg"
    assert ElementTree.parse(DOCS / path).getroot().tag.endswith("svg")
    assert f"]({path})" in PAGES["concepts.md"].read_text()
    html = pages_plugin.on_page_content(f'<p><img alt="A chain" src="{path}" /></p>')
    assert html.startswith('<p><svg class="aef-chain"')
