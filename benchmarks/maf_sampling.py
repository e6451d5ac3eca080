"""Times sampling through one MADE layer: ours against TFP's plain loop.

    python benchmarks/maf_sampling.py

Both bijectors are views of the same network, compiled with XLA in the same process, and
timed in turn (A B A B ...), so that the ratio does not depend on what else changed.
"""

import argparse
import sys
import time

import numpy as np

from aef_tfp.terminal import import_quietly


def median_and_range(seconds):
    """Milliseconds: median, least, most."""
    values = 1e3 * np.array(seconds)
    return f"{np.median(values):.1f} ({values.min():.1f} to {values.max():.1f})"


def main(argv=None) -> int:
    """Prints a Markdown table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[32, 128, 256])
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args(argv)

    bijectors = import_quietly("aef_tfp.bijectors")
    networks = import_quietly("aef_tfp.networks")
    import tensorflow as tf
    from tensorflow_probability import bijectors as tfb

    print(
        f"{arguments.batch_size} vectors, one MADE of width 256, float32, XLA, "
        f"{arguments.repeats} repeats, milliseconds: median (least to most)\n"
    )
    print("| d | aef_tfp | tfb.MaskedAutoregressiveFlow | ratio | difference |")
    print("| --- | --- | --- | --- | --- |")
    for d in arguments.dimensions:
        made = networks.MADE(d)
        made.build()
        pair = [
            tf.function(lambda u, b=bijector: b.forward(u), jit_compile=True)
            for bijector in (
                bijectors.MaskedAutoregressive(made),
                tfb.MaskedAutoregressiveFlow(
                    bijector_fn=lambda y, made=made: bijectors.affine_inverse(made(y))
                ),
            )
        ]
        base = tf.random.stateless_normal([arguments.batch_size, d], seed=[0, d])
        ours, theirs = (function(base).numpy() for function in pair)
        difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
        times = ([], [])
        for _ in range(arguments.repeats):
            for function, seconds in zip(pair, times, strict=True):
                start = time.perf_counter()
                function(base).numpy()
                seconds.append(time.perf_counter() - start)
        ratio = np.median(times[1]) / np.median(times[0])
        print(
            f"| {d} | {median_and_range(times[0])} | {median_and_range(times[1])} | "
            f"{ratio:.1f} | {difference:.0e} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
