"""The notebooks are clean as they lie in the repository, and run with small values."""

import ast
import json
import os
import re
from pathlib import Path

import nbformat
import pytest
from jupyter_client import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"

# Values for the parameters cell of each notebook: everything runs, nothing is learned.
# Most of the time is tracing; notebooks 3 and 6, with most models, go without MADEs.
SMALL = {
    "1_bijector_chain": {
        "num_points": 200,
        "stages": (1, 1),
        "hidden_units": 16,
        "digit_epochs": 1,
        "flow_layers": 1,
        "flow_units": 16,
    },
    "2_train_with_fit": {
        "epochs": 2,
        "latent_dim": 4,
        "flow_layers": 1,
        "flow_units": 16,
        "num_images": 256,
    },
    "3_vae_to_aef": {
        "epochs": 1,
        "latent_dim": 2,
        "flow_layers": 0,
        "num_filters": 4,
        "num_images": 128,
        "num_test_images": 40,
        "num_samples": 32,
    },
    "4_manifold": {
        "epochs": 1,
        "hidden_units": 16,
        "flow_layers": 1,
        "flow_units": 16,
        "num_images": 128,
        "num_columns": 4,
    },
    "5_denoising": {
        "epochs": 1,
        "latent_dim": 2,
        "hidden_units": 16,
        "flow_units": 16,
        "num_images": 128,
    },
    "6_likelihood": {
        "epochs": 1,
        "hidden_units": 16,
        "flow_layers": 0,
        "latent_dim": 3,
        "num_images": 128,
        "num_test_images": 40,
        "num_truth_images": 8,
        "grid_points": 400,
        "counts": (1, 32, 128),
    },
}

HASTE = f"""
import sys
if "haste" not in sys.modules:
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    import haste
    haste.hurry()
"""

each_notebook = pytest.mark.parametrize("name", SMALL)


def read(name):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=nbformat.NO_CONVERT)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def assigned_names(source):
    """Names that plain assignments give a value; anything else is an error."""
    names = []
    for statement in ast.parse(source).body:
        assert isinstance(statement, ast.Assign), ast.unparse(statement)
        ast.literal_eval(statement.value)
        (target,) = statement.targets
        names += [name.id for name in getattr(target, "elts", [target])]
    return names


def test_every_notebook_has_small_values_and_a_line_in_the_table():
    files = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    assert files == sorted(SMALL)
    linked = re.findall(r"\]\((.*?)\.ipynb\)", (NOTEBOOKS / "README.md").read_text())
    assert sorted(linked) == files


@each_notebook
def test_is_valid_and_plain(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata == {
        "kernelspec": {
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"name": "python"},
    }


@each_notebook
def test_outputs_are_stripped(name):
    for cell in code_cells(read(name)):
        assert cell.outputs == []
        assert cell.execution_count is None
        assert set(cell.metadata) <= {"tags"}


@each_notebook
def test_opens_with_what_it_shows_and_how_long_it_takes(name):
    first = read(name).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert "**Shows:**" in first.source
    assert re.search(r"\*\*Takes\*\* .*minute", first.source)


@each_notebook
def test_parameters_come_first_and_have_the_small_values_names(name):
    notebook = read(name)
    tagged = [
        cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])
    ]
    assert tagged == code_cells(notebook)[:1]
    names = assigned_names(tagged[0].source)
    assert set(SMALL[name]) <= set(names)
    # A parameter that nothing reads would be changed in vain.
    rest = "\n".join(cell.source for cell in code_cells(notebook)[1:])
    read_names = {n.id for n in ast.walk(ast.parse(rest)) if isinstance(n, ast.Name)}
    assert set(names) <= read_names


@each_notebook
def test_names_no_folder_of_a_machine(name):
    text = json.dumps(read(name))
    assert re.findall(r"/(?:home|Users|root|tmp|work|mnt)\b|~/|\.\./", text) == []


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """One kernel for all notebooks: each would import TensorFlow for itself."""
    place = tmp_path_factory.mktemp("notebooks")
    environment = {
        **os.environ,
        # Nothing of the user's: neither settings nor data, nor a log level.
        "IPYTHONDIR": str(place / "ipython"),
        "JUPYTER_CONFIG_DIR": str(place / "jupyter"),
        "MPLCONFIGDIR": str(place / "matplotlib"),
        "TFDS_DATA_DIR": str(place / "data"),
    }
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    manager = AsyncKernelManager(kernel_name="python3")
    run_sync(manager.start_kernel)(cwd=place, env=environment)
    yield manager
    run_sync(manager.shutdown_kernel)(now=True)


@pytest.mark.slow
@each_notebook
def test_runs_with_small_values(name, kernel):
    notebook = read(name)
    lines = [f"{key} = {value!r}" for key, value in SMALL[name].items()]
    place = notebook.cells.index(code_cells(notebook)[0]) + 1
    notebook.cells.insert(place, nbformat.v4.new_code_cell("\n".join(lines)))
    # As the tests' own processes are set up, once TensorFlow is there.
    place = notebook.cells.index(code_cells(notebook)[2]) + 1
    notebook.cells.insert(place, nbformat.v4.new_code_cell(HASTE))
    # Nothing of the notebook before.
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    client = NotebookClient(notebook, km=kernel, timeout=300)
    try:
        client.execute()
    finally:
        client.kc.stop_channels()
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    noise = [output.text for output in outputs if output.get("name") == "stderr"]
    assert noise == []
