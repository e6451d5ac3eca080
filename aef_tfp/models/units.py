"""Data whose density has no bound: values on a lattice, columns that are constant."""

from typing import NamedTuple

import numpy as np

__all__ = [
    "Lattice",
    "boundary_share",
    "constant_columns",
    "few_values",
    "lattice_of",
    "unbounded_columns",
]

# Values that are looked at: enough for each level to occur beside its neighbour.
_VALUES = 2**15

# Levels of files: of 8 bits, and of 10 to 16 bits, whose neighbours need not occur.
_COARSE = (1, 2, 3, 4, 254, 255, 256)
_FINE = (1023, 1024, 4095, 4096, 16383, 16384, 65534, 65535, 65536)

# Below so many levels their spacing can be seen from the values themselves.
_MOST_LEVELS = 65_536

# Images of 8 bits after any function of a value have fewer values than this, each of
# them in so many images. Windows of one field share values, too, but have more.
_FEW, _SHARED = 512, 8

# Columns beyond which no dependence is searched: a decomposition takes N^3 operations.
_MOST_COLUMNS = 1000

# Rows that are looked at, and columns that a message names.
_ROWS, _NAMED = 10_000, 5

# Rows below which nothing is said of values that come again, and entries of the rows
# that are looked at.
_LEAST_ROWS, _ENTRIES = 50, 10**7

# Variance, as a share of a column's own, below which what a linear function of others
# leaves of it counts as rounding.
_DEPENDENT = 1e-9


class Lattice(NamedTuple):
    """Values (k + offset) / per_unit for integers k.

    Args:
        per_unit: Levels per unit.
        offset: In [0, 1).
    """

    per_unit: float
    offset: float

    def __str__(self):
        count = f"{self.per_unit:.6g}"
        return f"(k + {self.offset:.3g}) / {count}" if self.offset else f"k / {count}"


def lattice_of(x: np.ndarray, num_levels: int | None = None) -> Lattice | None:
    """Finds the lattice on which all values of real data lie.

    Args:
        x: Floats `[n, ...]`; those that are not finite do not count.
        num_levels: A number of levels that is likely.

    Returns:
        None if there is none, or nothing to tell it from: fewer than two values.
    """
    values = _some(x)
    distinct = np.unique(values[np.isfinite(values)])
    if len(distinct) < 2:
        return None
    likely = {*_COARSE, *([num_levels - 1, num_levels] if num_levels else [])}
    inner = np.count_nonzero((distinct > 0.0) & (distinct < 1.0))
    for count in sorted({*likely, *_FINE}):
        # Any three numbers lie near some fine lattice.
        if count not in likely and inner < 4:
            continue
        for offset in (0.0, 0.5):
            scaled = distinct * count - offset
            # What float32 rounds, and far below the share of a level.
            if np.abs(scaled - np.rint(scaled)).max() < 1e-3 + 1.2e-7 * count:
                return Lattice(float(count), offset)
    return _spaced(distinct)


def _some(x: np.ndarray) -> np.ndarray:
    """Some values of each event, `[n, k]`: the first events may be blank images."""
    rows = np.asarray(x)[:_VALUES]
    rows = rows.reshape(len(rows), -1) if rows.size else np.empty((0, 0))
    width = _VALUES // max(1, len(rows))
    if rows.shape[1] > width:
        # Not every tenth: a row of pixels could be one of the frame.
        chosen = np.random.default_rng(0).choice(rows.shape[1], width, replace=False)
        rows = rows[:, chosen]
    return rows.astype(np.float64)


def _spaced(distinct: np.ndarray) -> Lattice | None:
    """The lattice whose spacing is the smallest difference of values."""
    spacing = np.diff(distinct).min()
    if len(distinct) < 5 or spacing < 0.99 / _MOST_LEVELS:
        return None
    # What float32 rounds of a difference. The spacing's own share of it grows with the
    # number of levels between two values, so it is measured again over more of them.
    rounding = 1.2e-7 * max(1.0, np.abs(distinct).max())
    steps = distinct - distinct[0]
    reached = 1.0
    while reached * spacing < 0.999 * steps[-1]:
        near = steps[steps <= 0.25 * spacing**2 * reached / rounding]
        k = np.rint(near[-1] / spacing)
        if k <= reached:
            return None
        spacing, reached = near[-1] / k, k
    k = steps / spacing
    if np.abs(k - np.rint(k)).max() > 0.01 + 2.0 * rounding / spacing:
        return None
    count = np.rint(k)[-1] / steps[-1]
    return Lattice(float(count), float(np.round(distinct[0] * count % 1.0, 3) % 1.0))


def few_values(x: np.ndarray) -> int | None:
    """Returns how many values there are between 0 and 1, if many events share few.

    Like levels that are not evenly spaced: of a gamma curve, of a palette.

    Args:
        x: Floats `[n, ...]`.
    """
    values = _some(x)
    # Equal events share all of their values.
    _, first = np.unique(values, axis=0, return_index=True)
    rows = values[np.sort(first)]
    events = [np.unique(row[(row > 0.0) & (row < 1.0)]) for row in rows]
    distinct, of_half = (
        len(np.unique(np.concatenate([np.empty(0), *events[:count]])))
        for count in (len(events), len(events) // 2)
    )
    occurrences = sum(map(len, events))
    if not 0 < _SHARED * distinct <= occurrences or distinct > _FEW:
        return None
    # Of a signal in windows later events have other values.
    return distinct if of_half >= 0.9 * distinct else None


def boundary_share(x: np.ndarray) -> float:
    """Returns the share of values that are exactly 0 or 1."""
    return float(np.mean((x == 0.0) | (x == 1.0))) if x.size else 0.0


def constant_columns(x: np.ndarray) -> list[str]:
    """Describes the pixels of float images that are constant, but not 0 or 1.

    Args:
        x: Floats `[n, *event_shape]`.

    Returns:
        As `unbounded_columns`.
    """
    rows = x[:_ROWS].reshape(min(len(x), _ROWS), -1)
    if len(rows) < 2:
        return []
    inner = (rows[0] > 0.0) & (rows[0] < 1.0)
    columns = np.flatnonzero(inner & (np.ptp(rows, axis=0) == 0.0))
    return [_phrase(columns, x.shape[1:], "constant")] if len(columns) else []


def unbounded_columns(x: np.ndarray, dtype: str = "float64") -> list[str]:
    """Describes the entries of continuous events whose density has no bound.

    A model that puts all mass on a constant, on integers, on any few values that come
    again and again, or on the plane in which columns depend on each other linearly,
    reaches any likelihood.

    Args:
        x: Floats or integers `[n, *event_shape]`, at least two events.
        dtype: What a model makes of them, which may round them to integers.

    Returns:
        One phrase per kind of fault, naming the columns: `"column 3 is constant"`.
    """
    shape = x.shape[1:]
    rows = x[:_ROWS].reshape(min(len(x), _ROWS), -1).astype(dtype).astype(np.float64)
    if len(rows) < 2 or not np.all(np.isfinite(rows)):
        return []
    is_constant = np.ptp(rows, axis=0) == 0.0
    is_integer = ~is_constant & np.all(rows == np.rint(rows), axis=0)
    has_few = ~is_constant & ~is_integer & _repeating(rows)
    kinds = (
        (is_constant, "constant"),
        (is_integer, "all integers"),
        (has_few, "made of few values, like integers that were scaled"),
    )
    phrases = [
        _phrase(np.flatnonzero(chosen), shape, what)
        for chosen, what in kinds
        if chosen.any()
    ]
    free = np.flatnonzero(~is_constant)
    dependent = _dependent(rows[:, free])
    if len(dependent):
        what = "a copy of others, or a linear function of them"
        phrases.append(_phrase(free[dependent], shape, what))
    return phrases


def _repeating(rows: np.ndarray) -> np.ndarray:
    """Which columns have at most half as many values as rows; equal rows count once."""
    # A zero has one sign then.
    rows = 0.0 + rows[: max(_LEAST_ROWS, _ENTRIES // rows.shape[1])]
    has_few = _have_few(rows)
    if has_few.any():
        # As bytes: NumPy would compare entry by entry, which takes seconds.
        whole = np.ascontiguousarray(rows).view(f"V{rows[0].nbytes}").ravel()
        has_few = _have_few(rows[np.unique(whole, return_index=True)[1]])
    return has_few


def _have_few(rows: np.ndarray) -> np.ndarray:
    if len(rows) < _LEAST_ROWS:
        return np.zeros(rows.shape[1], bool)
    changes = np.diff(np.sort(rows, axis=0), axis=0)
    return 2 * (1 + np.count_nonzero(changes, axis=0)) <= len(rows)


def _dependent(rows: np.ndarray) -> np.ndarray:
    """Indices of columns that are linear functions of other columns."""
    count, width = rows.shape
    if not 2 <= width <= _MOST_COLUMNS:
        return np.array([], int)
    scaled = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    if count <= width:
        # Too few rows to tell a dependence from chance, but for copies.
        _, first, groups = np.unique(
            scaled.T.round(9), axis=0, return_index=True, return_inverse=True
        )
        copies = np.flatnonzero(first[groups.ravel()] != np.arange(width))
        return copies
    values, vectors = np.linalg.eigh(scaled.T @ scaled / count)
    null = vectors[:, values < _DEPENDENT]
    return np.flatnonzero(np.abs(null).max(axis=1, initial=0.0) > 0.05)


def _phrase(columns: np.ndarray, shape: tuple[int, ...], what: str) -> str:
    names = []
    for column in columns[:_NAMED]:
        place = [int(index) for index in np.unravel_index(column, shape)]
        names.append(str(place[0]) if len(place) == 1 else str(tuple(place)))
    more = f" and {len(columns) - _NAMED} more" if len(columns) > _NAMED else ""
    if len(columns) == 1:
        return f"column {names[0]} is {what}"
    return f"columns {', '.join(names)}{more} are {what}"
