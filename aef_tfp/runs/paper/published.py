"""The numbers of the paper's tables, as printed there.

Silvestri, Roos and Ambrogioni (ICLR 2023), Tables 1 to 7.
"""

from typing import Any

from aef_tfp.runs.kinds import ModelName

__all__ = [
    "TABLE_1",
    "TABLE_2",
    "TABLE_3",
    "TABLE_4",
    "TABLE_5",
    "TABLE_6",
    "TABLE_7",
    "Published",
    "Sizes",
    "Table",
]

Published = float | tuple[float, ...] | None
"""A number; several where the paper prints each run; None where it shows a plot."""

Table = dict[tuple[Any, ...], tuple[Published, ...]]
"""Rows of numbers by what they belong to."""

Sizes = dict[ModelName, dict[int, float]]
"""Numbers of weights by model and number of latents."""

# (data set, d): VAE's BPD and FID, AEF's BPD and FID.
TABLE_1: Table = {
    ("mnist", 2): (2.40, 57.5, 2.37, 55.8),
    ("mnist", 32): (1.80, 16.2, 1.82, 17.7),
    ("celebahq64", 64): (6.98, 106.0, 6.35, 76.5),
    ("celebahq64", 128): (6.86, 92.6, 6.07, 60.8),
    ("celebahq64", 256): (6.79, 90.9, 5.78, 55.8),
    ("celebahq32", 64): (6.90, 87.6, 6.20, 51.9),
    ("celebahq32", 128): (6.64, 67.0, 5.88, 38.4),
    ("celebahq32", 256): (6.63, 63.5, 5.57, 30.9),
    ("imagenet32", 128): (6.89, 179.0, 6.30, 131.0),
    ("imagenet32", 256): (6.74, 160.0, 6.21, 123.0),
}

# (data set, d, noise): IFE of AE, VAE, AEF.
TABLE_2: Table = {
    ("celebahq32", 128, 0.05): (0.080, 0.082, 0.058),
    ("celebahq32", 128, 0.1): (0.078, 0.081, 0.063),
    ("celebahq32", 128, 0.2): (0.078, 0.085, 0.075),
    ("mnist", 2, 0.5): (0.135, 0.085, 0.082),
    ("mnist", 2, 0.75): (0.142, 0.094, 0.091),
    ("mnist", 2, 1.0): (0.144, 0.109, 0.102),
    ("mnist", 32, 0.5): (0.086, 0.045, 0.053),
    ("mnist", 32, 0.75): (0.115, 0.058, 0.072),
    ("mnist", 32, 1.0): (0.133, 0.075, 0.094),
}

# Weights by the number of latents. The paper prints three digits.
TABLE_3: Sizes = {
    "vae": {2: 2.37e6, 4: 2.42e6, 8: 2.52e6, 16: 2.71e6, 32: 3.12e6},
    "aef-center": {2: 2.37e6, 4: 2.42e6, 8: 2.52e6, 16: 2.71e6, 32: 3.12e6},
    "aef-linear": {2: 2.37e6, 4: 2.42e6, 8: 2.53e6, 16: 2.73e6, 32: 3.15e6},
}
TABLE_4: Sizes = {
    "vae": {64: 2.80e6, 128: 4.07e6, 256: 8.32e6},
    "aef-linear": {64: 2.99e6, 128: 4.46e6, 256: 9.11e6},
}
TABLE_5: Sizes = {
    "vae": {128: 4.34e6, 256: 9.40e6, 512: 28.0e6},
    "aef-linear": {128: 5.91e6, 256: 12.5e6, 512: 34.3e6},
}

# As Table 1, both runs of each.
TABLE_6: Table = {
    ("celebahq64", 64): ((6.98, 6.99), (106.0, 102.0), (6.35, 6.35), (76.5, 76.2)),
    ("celebahq64", 128): ((6.87, 6.86), (96.3, 92.6), (6.07, 6.07), (60.8, 62.6)),
    ("celebahq64", 256): ((6.79, 6.79), (90.9, 92.1), (5.78, 5.79), (55.8, 54.9)),
    ("celebahq32", 64): ((6.98, 6.90), (91.9, 87.6), (6.20, 6.21), (51.9, 53.3)),
    ("celebahq32", 128): ((6.70, 6.64), (68.4, 67.0), (5.86, 5.93), (38.4, 40.2)),
    ("celebahq32", 256): ((6.63, 6.65), (63.5, 66.2), (5.58, 5.57), (27.9, 30.9)),
    ("imagenet32", 128): ((6.89, 6.92), (179.0, 182.0), (6.30, 6.31), (131.0, 132.0)),
    ("imagenet32", 256): ((6.76, 6.74), (164.0, 160.0), (6.24, 6.21), (123.0, 124.0)),
}

# Flows: BPD and FID of the VAE, BPD and FID of the AEF.
TABLE_7: dict[str, tuple[float, float, float, float]] = {
    "no flows": (6.68, 77.2, 5.90, 64.4),
    "only posterior": (6.56, 81.5, 5.88, 108.0),
    "only prior": (6.71, 74.1, 6.05, 37.6),
    "both flows": (6.67, 68.1, 5.90, 35.6),
}
