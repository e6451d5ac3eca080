"""Models for serving: SavedModel and LiteRT files that need no aef_tfp.

`model.export(path)` and `aef-tfp export RUN OUT` come here. A SavedModel has
endpoints (signatures) with named inputs and outputs, any batch size, checks of the
values inside the graph, and holds each weight once. Before it gets its name it is
loaded again and every endpoint compared with the model.

Example:
    >>> differences = export_saved_model(model, "exported/1")
    >>> served = tf.saved_model.load("exported/1")
    >>> served.sample(16, 0.85, 7)["images"].shape
    TensorShape([16, 8, 8, 1])
"""

from aef_tfp.export.endpoints import Endpoint, endpoints_of
from aef_tfp.export.litert import export_litert
from aef_tfp.export.saved_model import export_saved_model
from aef_tfp.models.files import EXPORTERS

__all__ = ["Endpoint", "endpoints_of", "export_litert", "export_saved_model"]

# For `model.export`, whose room stands above this one.
EXPORTERS["tf_saved_model"] = export_saved_model
EXPORTERS["litert"] = export_litert
