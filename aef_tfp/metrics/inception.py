"""The Inception-v3 network whose features define the FID.

FID numbers are comparable only if they come from the same weights: the frozen graph
of 2015-12-05. It is run as it is, by TensorFlow's graph machinery, not converted.
"""

import contextlib
import hashlib
import os
import sys
import tarfile
import zlib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from aef_tfp.metrics.checks import check_image_shape, one_line
from aef_tfp.metrics.features import cache_dir

__all__ = [
    "GRAPH_SHA256",
    "GRAPH_URL",
    "InceptionFeatures",
    "inception_features",
    "inception_input",
]

GRAPH_URL = (
    "http://download.tensorflow.org/models/image/imagenet/inception-2015-12-05.tgz"
)

# Of classify_image_graph_def.pb in that archive. No sum is published with it. Three
# unrelated projects give this one for OpenAI's copy, which the FID script of
# openai/guided-diffusion loads: xddgit/MIND (its evaluation README), LCGLiChenge/MoTAR
# (bert2d/assets.py) and Dramwig/CoFiTok-internal (docs/experiment_conditions/
# adm_evaluator_asset_2026-07-11.md). That copy is as long as the archive's file,
# 95,673,916 bytes.
GRAPH_SHA256 = "009d6814d1bc560d4e7b236e170e9b2d5ca6f4b57bd8037f6db05776204415c6"

_GRAPH_FILE = "classify_image_graph_def.pb"
_INPUT = "ResizeBilinear"
_OUTPUT = "pool_3"
_SIDE = 299


class InceptionFeatures:
    """The features before the last layer of the Inception-v3 graph of 2015-12-05.

    The graph begins with the decoding of one JPEG file and an outdated resize. Both
    are left out: images enter where the resize ended, before the graph's own
    (x - 128) / 128, and the features are read after the last pooling.

    Example:
        >>> features = InceptionFeatures("inception-2015-12-05.tgz")
        >>> features(np.zeros([5, 28, 28, 1])).shape
        (5, 2048)

    Args:
        path: `classify_image_graph_def.pb`, or the archive that holds it.
        sha256: The checksum that the graph must have; None takes any graph with the
            nodes that are used.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no such graph, or not the one of `sha256`.

    Attributes:
        name: What a number is called after; it says so if the graph is not the
            published one.
        sha256: The checksum of the graph.

    Reference: Szegedy et al., "Rethinking the Inception Architecture for Computer
    Vision" (arXiv:1512.00567); its use for the FID: Heusel et al. (arXiv:1706.08500).
    """

    def __init__(self, path: str | os.PathLike[str], sha256: str | None = None):
        content = _graph_content(Path(path).expanduser())
        self.sha256 = hashlib.sha256(content).hexdigest()
        if sha256 is not None and self.sha256 != sha256:
            # Checked before the parsing: the file may come from anywhere.
            raise ValueError(
                f"the graph in {os.fspath(path)!r} has the SHA-256 {self.sha256[:8]}..."
                f" instead of {sha256[:8]}...: delete the file and fetch it again, or"
                " pass --inception-weights FILE (weights=FILE) to use one you trust"
            )
        self.name = "Inception-v3 of 2015-12-05"
        if self.sha256 != GRAPH_SHA256:
            self.name = f"graph {self.sha256[:8]} (not the published Inception-v3)"
        # A session, since a tf.function cannot run this graph: its batch normalization
        # is an operation that exists up to version 8 of graphs only. An imported graph
        # keeps the version of its file; a function gets that of the process.
        self._images, self._features, graph = _imported(content, os.fspath(path))
        self._session = tf.compat.v1.Session(graph=graph)

    def __call__(self, images: Any, /) -> np.ndarray:
        """Returns the features of one batch.

        Args:
            images: `[n, H, W, C]` floats in [0, 1]; C is 1 or 3.

        Returns:
            `[n, 2048]` float32.
        """
        values = {self._images: inception_input(images).numpy()}
        features = self._session.run(self._features, values)
        return features.reshape(len(features), -1)


def inception_features(
    weights: str | os.PathLike[str] | None = None, download: bool = True
) -> InceptionFeatures:
    """The Inception network of the FID, downloaded on first use (89 MB).

    Args:
        weights: `classify_image_graph_def.pb` or the archive that holds it. None takes
            the archive in `cache_dir()`, and checks that it is the published one.
        download: Whether to download the archive if it is not there.

    Returns:
        The feature model; it reads its file once, so keep it.

    Raises:
        OSError: If the archive is not there and cannot or must not be downloaded.
        ValueError: If the file is not the graph.
    """
    if weights is not None:
        return InceptionFeatures(weights)
    path = cache_dir() / GRAPH_URL.rpartition("/")[2]
    remedy = (
        f"fetch {GRAPH_URL} by other means and put it at {os.fspath(path)!r}, or pass "
        "--inception-weights FILE (weights=FILE)"
    )
    if download:
        path = _downloaded(path, remedy)
    elif not path.is_file():
        raise FileNotFoundError(
            f"the Inception graph is not at hand and download is off: {remedy}"
        )
    return InceptionFeatures(path, sha256=GRAPH_SHA256)


def inception_input(images: Any) -> tf.Tensor:
    """Images as the graph takes them: colour, 299 x 299, from 0 to 255.

    Bilinear, with half-pixel centres (the corners of the images are aligned, not the
    centres of their corner pixels) and no smoothing when it shrinks: as in
    pytorch-fid, whose numbers are those that most papers print. The values are not
    rounded.

    Args:
        images: `[n, H, W, C]` floats in [0, 1]; a single channel is repeated.

    Returns:
        `[n, 299, 299, 3]` float32.

    Raises:
        ValueError: If the images have another shape.
    """
    images = tf.cast(images, tf.float32)
    check_image_shape("images", images)
    if images.shape[-1] == 1:
        images = tf.repeat(images, 3, axis=-1)
    return tf.image.resize(images * 255.0, [_SIDE, _SIDE], "bilinear", antialias=False)


def _graph_content(path: Path) -> bytes:
    """Reads the serialized graph out of its file or archive."""
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file {os.fspath(path)!r}: pass {_GRAPH_FILE}, or the archive "
            f"{GRAPH_URL} that holds it"
        )
    try:
        if not tarfile.is_tarfile(path):
            return path.read_bytes()
        with tarfile.open(path) as archive:
            for member in archive:
                if Path(member.name).name == _GRAPH_FILE:
                    file = archive.extractfile(member)
                    if file is not None:  # as it is for a folder
                        return file.read()
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(
            f"archive {os.fspath(path)!r} is damaged ({one_line(error)}): delete it "
            f"and fetch {GRAPH_URL} again"
        ) from error
    raise ValueError(
        f"archive {os.fspath(path)!r} has no {_GRAPH_FILE}: fetch {GRAPH_URL}"
    )


def _imported(content: bytes, path: str) -> tuple[Any, Any, Any]:
    """Imports the graph once; returns its input, its output and itself."""
    graph_def = tf.compat.v1.GraphDef()
    try:
        graph_def.ParseFromString(content)
    except Exception as error:  # the class belongs to protobuf, which has no types
        raise ValueError(
            f"{path!r} is no TensorFlow graph: pass {_GRAPH_FILE} from {GRAPH_URL}"
        ) from error
    names = {node.name for node in graph_def.node}
    for name in (_INPUT, _OUTPUT):
        if name not in names:
            raise ValueError(
                f"the graph in {path!r} has no node {name!r}: pass {_GRAPH_FILE} from "
                f"{GRAPH_URL}"
            )
    for node in graph_def.node:
        # Notes of the shapes of one image; they would fix the batch size to 1.
        node.attr.pop("_output_shapes", None)
    graph = tf.Graph()
    with graph.as_default():
        images = tf.compat.v1.placeholder(tf.float32, [None, _SIDE, _SIDE, 3])
        (features,) = tf.graph_util.import_graph_def(
            graph_def,
            input_map={f"{_INPUT}:0": images},
            return_elements=[f"{_OUTPUT}:0"],
            name="inception",
        )
    return images, features, graph


def _downloaded(path: Path, remedy: str) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Its progress is no result, and the standard output may be one.
        with contextlib.redirect_stdout(sys.stderr):
            file = keras.utils.get_file(
                path.name,
                GRAPH_URL,
                cache_dir=os.fspath(path.parent.parent),
                cache_subdir=path.parent.name,
            )
    except Exception as error:  # `get_file` raises the base class for a dead network
        raise OSError(
            f"cannot download the Inception graph ({one_line(error)}): {remedy}"
        ) from error
    return Path(file)
