"""The README's Python block runs as it stands, with less data."""

import re
from pathlib import Path

import numpy as np


def test_the_example_runs(capsys):
    text = (Path(__file__).parents[1] / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    short = code.replace("epochs=20", "epochs=1").replace(
        "images[:1500]", "images[:64]"
    )
    assert short != code
    names = {}
    exec(compile(short, "README.md", "exec"), names)
    samples = names["samples"].numpy()
    assert samples.shape == (64, 8, 8, 1)
    assert ((samples > 0) & (samples < 1)).all()
    # Even one epoch beats the uniform density, log2(17) = 4.1 bits per dimension.
    printed = float(capsys.readouterr().out.split()[-1])
    assert np.isfinite(printed)
    assert printed < 4.1
