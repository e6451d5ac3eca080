"""The rules of the house: imports go down, models are flat and say what they can do."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from test_docs import ROOMS

import aef_tfp

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "aef_tfp"
KINDS = [name for name in aef_tfp.__all__ if isinstance(getattr(aef_tfp, name), type)]


def nodes(path):
    """All of a module's code, but for imports that only type checkers follow."""
    waiting = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        waiting += ast.iter_child_nodes(node)


MODULES = [
    path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.parent != PACKAGE or not path.name.startswith("__")
]


def imports_of(path):
    """What a module imports, wherever in it the import stands, by full names."""
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                # A name of a module, or a module of a package.
                full = f"{node.module}.{alias.name}"
                place = ROOT / full.replace(".", "/")
                is_module = place.is_dir() or place.with_suffix(".py").is_file()
                yield full if is_module else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/reference/index.md"])
def test_imports_go_up_in_the_tables_of_rooms(page):
    lines = (ROOT / page).read_text().splitlines()
    rows = [line.split("|")[1] for line in lines if re.match(r"\| \[?`", line)]
    place = {n: i for i, row in enumerate(rows) for n in re.findall(r"`([\w.]+)`", row)}
    assert set(place) == {*ROOMS}

    def room_of(module):
        parts = module.split(".")[1:]
        known = (".".join(parts[:length]) for length in (2, 1))
        return next(name for name in known if name in place)

    for path in MODULES:
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = ".".join(parts).removesuffix(".__init__")
        for name in imports_of(path):
            if name.startswith("aef_tfp."):
                assert place[room_of(name)] <= place[room_of(module)], (module, name)


def test_a_room_has_no_circle_of_modules():
    for room in {path.parent for path in MODULES if path.parent != PACKAGE}:
        edges = {}
        for path in room.glob("*.py"):
            prefix = ".".join(path.relative_to(ROOT).parts[:-1])
            edges[path.stem] = {
                node.module.removeprefix(prefix).strip(".").split(".")[0]
                for node in nodes(path)
                if isinstance(node, ast.ImportFrom)
                and (node.module or "").startswith(f"{prefix}.")
            }
        del edges["__init__"]
        while edges:
            free = [name for name, needs in edges.items() if not needs & set(edges)]
            assert free, f"{room.name}: {sorted(edges)}"
            for name in free:
                del edges[name]


@pytest.mark.parametrize("name", KINDS)
def test_a_model_names_and_describes_every_argument(name):
    cls = getattr(aef_tfp, name)
    parameters = list(inspect.signature(cls).parameters.values())
    kinds = {parameter.kind for parameter in parameters}
    assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
    arguments = re.search(r"Args:\n(.*?)\n\n", inspect.getdoc(cls), re.DOTALL)[1]
    described = re.findall(r"^    (\w+):", arguments, re.MULTILINE)
    assert described == [parameter.name for parameter in parameters]


@pytest.mark.parametrize("name", KINDS)
def test_a_model_is_three_classes_below_keras(name):
    cls = getattr(aef_tfp, name)
    above = [owner for owner in cls.__mro__ if issubclass(owner, keras.Model)]
    assert len(above[: above.index(keras.Model)]) == 3


def test_nothing_outside_of_models_asks_for_a_kind():
    kinds = {*KINDS, "Autoencoding", "Chained", "Density", "Exact", "Marginal"}
    for path in [*MODULES, *(ROOT / "trainers").glob("*.py")]:
        if path.parent.name == "models":
            continue
        for node in nodes(path):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
                "isinstance",
                "issubclass",
            ):
                asked = {getattr(part, "id", "") for part in ast.walk(node.args[1])}
                assert not asked & kinds, path


@pytest.mark.parametrize(
    ("name", "arguments", "missing"),
    [
        ("Autoencoder", {"latent_dim": 1}, {"sample", "log_prob", "bits_per_dim"}),
        ("PixelMAF", {"num_layers": 1}, {"encode", "decode", "reconstruct", "prior"}),
        ("ExpandedAEF", {"latent_dim": 1}, {"log_prob", "distribution", "elbo"}),
    ],
)
def test_a_model_shows_what_works_only(name, arguments, missing):
    model = getattr(aef_tfp, name)((3,), **arguments)
    assert not missing & set(dir(model))
    for attribute in missing:
        with pytest.raises(AttributeError, match=attribute):
            getattr(model, attribute)
    said = {
        "encode": model.encodes,
        "sample": model.samples,
        "marginal_log_prob": model.estimates,
        "objective_terms": model.has_terms,
    }
    assert {key: key in dir(model) for key in said} == said
    likelihood = model.likelihood
    assert (likelihood is None) == (name == "Autoencoder")
    if likelihood is not None:
        assert getattr(model, likelihood.name) == likelihood.function


def test_a_property_that_fails_says_which_attribute_was_missing():
    class Broken(aef_tfp.Autoencoder):
        @property
        def broken(self):
            return self.nothing.there

    model = Broken((3,), 1, encoder="dense", decoder="dense")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        model.broken  # noqa: B018


def test_importing_the_package_changes_nothing():
    program = (
        "import os, sys; before = dict(os.environ); import aef_tfp; "
        "print(dict(os.environ) == before, 'tensorflow' in sys.modules)"
    )
    command = [sys.executable, "-c", program]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert finished.stdout.split() == ["True", "False"]


def test_the_configuration_is_the_constructors_arguments():
    for name in KINDS:
        cls = getattr(aef_tfp, name)
        arguments = {"latent_dim": 1} if name != "PixelMAF" else {"num_layers": 1}
        model = cls((3,), **arguments, name="other", seed=5, num_levels=4)
        config = model.get_config()
        assert set(config) - {"frozen", "format"} == set(
            inspect.signature(cls).parameters
        )
        assert config == cls.from_config(config).get_config()
