"""Short names for the nodes of a SavedModel's functions.

TFP names a node by the path of all bijectors around it, and each node repeats those of
its inputs: half of the file of a model with two flows of four layers would be names.
"""

from pathlib import Path

from tensorflow.core.framework.function_pb2 import FunctionDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

__all__ = ["shorten_names"]

_LONGEST_ARGUMENT = 20


def shorten_names(directory: Path) -> None:
    """Renames nodes inside functions to their operation and a number: `MatMul_12`.

    Names of functions and signatures, their inputs and outputs stay.

    Args:
        directory: A SavedModel.
    """
    path = directory / "saved_model.pb"
    saved_model = SavedModel.FromString(path.read_bytes())
    for meta_graph in saved_model.meta_graphs:
        for function in meta_graph.graph_def.library.function:
            _shorten(function)
    path.write_bytes(saved_model.SerializeToString(deterministic=True))
    # Hashes of the old file, which nothing needs in order to load or serve the new one.
    (directory / "fingerprint.pb").unlink(missing_ok=True)


def _shorten(function: FunctionDef) -> None:
    new_names = {
        node.name: f"{node.op}_{number}"
        for number, node in enumerate(function.node_def)
    }
    # Callers give arguments and take outputs by position. Short names are those of
    # signatures, where they mean something.
    new_outputs: dict[str, str] = {}
    for kind, arguments, renames in (
        ("in", function.signature.input_arg, new_names),
        ("out", function.signature.output_arg, new_outputs),
    ):
        for number, argument in enumerate(arguments):
            if len(argument.name) > _LONGEST_ARGUMENT:
                renames[argument.name] = argument.name = f"{kind}_{number}"
                if kind == "in" and number in function.arg_attr:
                    function.arg_attr[number].attr.pop("_user_specified_name", None)

    def renamed(reference: str) -> str:
        # "node:output:0", "^node" for a control input, or an argument's name.
        control = "^" if reference.startswith("^") else ""
        name, colon, output = reference.removeprefix("^").partition(":")
        return f"{control}{new_names.get(name, name)}{colon}{output}"

    for node in function.node_def:
        node.name = new_names[node.name]
        node.input[:] = [renamed(reference) for reference in node.input]
        # Colocation, which names nodes, is a matter of several devices.
        node.attr.pop("_class", None)
    returned = {
        new_outputs.get(name, name): renamed(reference)
        for name, reference in function.ret.items()
    }
    function.ret.clear()
    function.ret.update(returned)
    control_returns = sorted(map(renamed, function.control_ret.values()))
    function.control_ret.clear()
    function.control_ret.update({name: name for name in control_returns})
    function.signature.control_output[:] = control_returns
