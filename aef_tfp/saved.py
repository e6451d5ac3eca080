"""What a run directory holds, read so that a damaged file is said in one line.

This module imports no TensorFlow: command lines answer at once.
"""

import contextlib
import dataclasses
import json
import re
import shutil
import tempfile
import types
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from aef_tfp.files import replace_file, writing
from aef_tfp.terminal import as_typed

__all__ = [
    "DamagedFile",
    "check_choices",
    "checkpoint_paths",
    "damaged_model",
    "place_of_images",
    "read_checkpoint_state",
    "read_fields",
    "read_json",
    "read_label",
    "save_best",
    "snapshot",
]

_T = TypeVar("_T")

# In best.keras, beside Keras's own metadata.json and config.json.
_LABEL = "training.json"
_MEMBERS = ("metadata.json", "config.json", "model.weights.h5")

_PUT_BACK = "put back a copy of it"


class DamagedFile(ValueError):  # noqa: N818 - as CannotWrite and TrainingFailed
    """A file of a run is not what was written; the message says which, and what to do.

    Args:
        path: The file.
        reason: What is wrong with it, as in "is empty"; its first line counts.
        advice: What to do.
    """

    def __init__(self, path: Path, reason: object, advice: str = _PUT_BACK):
        first = str(reason).strip().partition("\n")[0].rstrip(".:")
        super().__init__(f"{path} {first}. {advice[:1].upper()}{advice[1:]}.")


def read_json(path: Path, advice: str = _PUT_BACK, what: str = "") -> Any:
    """Reads a JSON file.

    Args:
        path: The file.
        advice: What to do if it is damaged.
        what: What it should be, for the error.

    Raises:
        DamagedFile: If it is no JSON.
        OSError: If it cannot be read.
    """
    data = path.read_bytes()
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        why = f"not valid JSON: {error}" if data.strip() else "not valid JSON: empty"
    except (ValueError, RecursionError):
        why = "not valid JSON: not text, or too deeply nested"
    reason = f"is no {what} ({why})" if what else f"is {why}"
    raise DamagedFile(path, reason, advice) from None


def read_fields(
    kind: type[_T],
    entry: Any,
    path: Path,
    advice: str = _PUT_BACK,
    *,
    required: bool = True,
    later: Collection[str] = (),
    what: str = "configuration",
) -> _T:
    """Makes a dataclass of what JSON holds of it.

    Args:
        kind: The dataclass.
        entry: What JSON gave.
        path: The file, for the error.
        advice: What to do if it is damaged.
        required: Whether all fields have to be there, also those with defaults.
        later: Fields that older files lack; the defaults are what these meant.
        what: What the file should be, for the error.

    Raises:
        DamagedFile: If that is no object, has other fields, or a value cannot be.
    """
    if not isinstance(entry, dict):
        raise DamagedFile(path, f"is no {what}: it holds {_shown(entry)}", advice)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    missing = [
        name
        for name, field in fields.items()
        if name not in entry
        and name not in later
        and (required or not _has_default(field))
    ]
    hints = get_type_hints(kind)
    for name, value in entry.items():
        if name in hints and not _fits(value, hints[name]):
            reason = f"has {name} = {_shown(value)}, which it cannot be"
            raise DamagedFile(path, reason, advice)
    for names, how in ((set(entry) - set(fields), "has unknown"), (missing, "lacks")):
        if names:
            some = ", ".join(name[:40] for name in sorted(names)[:5])
            rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
            reason = f"{how} fields {some}{rest}, as if by another version"
            raise DamagedFile(path, reason, advice)
    return kind(**entry)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _has_default(field: dataclasses.Field) -> bool:
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing


# What `A | B` is, which differs between kinds of types.
_UNIONS = (types.UnionType, Union)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON is of a type that fields of a run have."""
    origin = get_origin(hint)
    if origin is Literal:
        # True equals 1, and 1.0 does.
        return not isinstance(value, bool) and any(
            value == v and isinstance(value, type(v)) for v in get_args(hint)
        )
    if origin in _UNIONS:
        return any(_fits(value, part) for part in get_args(hint))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        key, item = get_args(hint)
        return isinstance(value, dict) and all(
            _fits(k, key) and _fits(v, item) for k, v in value.items()
        )
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def check_choices(settings: Any) -> None:
    """Checks the fields of a dataclass that take one of a few values.

    Raises:
        ValueError: If one has another.
    """
    for name, hint in get_type_hints(type(settings)).items():
        parts = get_args(hint) if get_origin(hint) in _UNIONS else (hint,)
        choices = [v for p in parts if get_origin(p) is Literal for v in get_args(p)]
        value = getattr(settings, name)
        if choices and not _fits(value, hint):
            raise ValueError(
                f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}."
            )


def checkpoint_paths(directory: Path) -> list[tuple[int, Path]]:
    """Returns (iteration, path) of all checkpoints in a directory, oldest first."""
    found = []
    for path in directory.glob("iteration-*"):
        if match := re.fullmatch(r"iteration-(\d+)", path.name):
            found.append((int(match.group(1)), path))
    return sorted(found)


def read_checkpoint_state(path: Path) -> dict[str, Any]:
    """Reads what a checkpoint holds beside the weights.

    Args:
        path: The checkpoint's directory.

    Raises:
        DamagedFile: If that is not to be read, or is no state.
    """
    file = path / "state.json"
    advice = f"remove the checkpoint {path}, and the run goes on from the one before it"
    try:
        state = read_json(file, advice)
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        raise DamagedFile(file, reason, advice) from None
    iteration = state.get("best_iteration") if isinstance(state, dict) else None
    if not isinstance(iteration, int):
        raise DamagedFile(file, "is no state of a run: no best_iteration", advice)
    return state


def place_of_images(run_dir: Path, data_dir: Path | None = None) -> Path | None:
    """Where the images of a run are, to be read again.

    Args:
        run_dir: The run.
        data_dir: What the user names, which holds.

    Returns:
        If nobody names any, the newest place that environment.json knows and that is
        there still; None if there is none, as on another machine.
    """
    if data_dir is not None:
        return data_dir
    # A file that is damaged or odd remembers nothing.
    with contextlib.suppress(DamagedFile, OSError, AttributeError, TypeError):
        newest = read_json(run_dir / "environment.json")
        for sitting in [newest, *newest.get("before", [])]:
            place = sitting.get("data_dir")
            if isinstance(place, str) and Path(place).exists():
                return Path(place)
    return None


def save_best(
    model: Any, path: Path, label: Mapping[str, Any], num_bytes: int = 0
) -> None:
    """Writes a model as a `.keras` file that says which model of a run it is.

    Weights and label are one file, so that they never say different things. Keras
    leaves the label alone, and out of what it saves anew.

    Args:
        model: A Keras model; its optimizer's state is in the file, too, where Keras
            keeps it.
        path: The file; an interruption leaves the former one.
        label: `iteration`, the training steps done, and what else is to be known.
        num_bytes: About how many the file will have; see `replace_file`.

    Raises:
        CannotWrite: If it cannot be written.
    """

    def write(aside: Path) -> None:
        model.save(aside)
        with zipfile.ZipFile(aside, "a") as archive:
            archive.writestr(_LABEL, json.dumps(dict(label)))

    replace_file(path, write, num_bytes)


def read_label(file: Path, path: Path | None = None) -> dict[str, Any]:
    """Reads which model of a run a `.keras` file is.

    Args:
        file: The file; all of it is checked against its checksums.
        path: What to call it in an error; `file` if None.

    Returns:
        The label; {} if it was not `save_best` that wrote it.

    Raises:
        DamagedFile: If it is no whole `.keras` file.
        OSError: If it cannot be read.
    """
    path = path or file
    reason = ""
    label: Any = {}
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if broken := archive.testzip():
                reason = f"{broken} is not as it was written"
            elif lacking := [name for name in _MEMBERS if name not in names]:
                reason = f"no {lacking[0]} in it"
            elif _LABEL in names:
                label = json.loads(archive.read(_LABEL))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        reason = str(error) if file.stat().st_size else "empty"
    except (ValueError, RecursionError):
        label = None
    if not reason and not (
        isinstance(label, dict) and isinstance(label.get("iteration"), int | None)
    ):
        reason = f"its {_LABEL} is no label"
    if reason:
        raise damaged_model(path, reason)
    return label


def damaged_model(path: Path, reason: object) -> DamagedFile:
    """Returns the error for a best.keras, or another model file, that is not whole."""
    advice = _PUT_BACK
    if path.name == "best.keras":
        resume = as_typed("train", "--resume", path.parent)
        advice += (
            f", or remove it and go on with {resume}: the next validation writes a new "
            "one"
        )
    return DamagedFile(path, f"is no whole model file: {reason}", advice)


@contextlib.contextmanager
def snapshot(path: Path) -> Iterator[Path]:
    """Yields a copy of a file that stays, whoever replaces the file meanwhile.

    What is read from it one after the other belongs together.

    Args:
        path: The file; the copy has its name, in a temporary directory.

    Raises:
        CannotWrite: If the temporary directory has no room for it.
    """
    with tempfile.TemporaryDirectory(prefix="aef_tfp-") as directory:
        copy = Path(directory) / path.name
        with path.open("rb") as source, writing(copy), copy.open("wb") as target:
            shutil.copyfileobj(source, target)
        yield copy
