"""The paper's tables and figures: as data, repeated run by run, and as text.

`exhibits` is what was trained and what came out, `reproduction` trains and measures the
same, `tables` shows both side by side. TensorFlow is imported when a run needs it.
"""

from aef_tfp.runs.paper.exhibits import (
    EXHIBITS,
    METRICS,
    Exhibit,
    Experiment,
    run_name,
)
from aef_tfp.runs.paper.reproduction import (
    Run,
    bring_up_to_date,
    commands,
    count_weights,
    plan,
    unread,
)
from aef_tfp.runs.paper.tables import (
    exhibit_list,
    experiment_table,
    result_table,
    weight_table,
)

__all__ = [
    "EXHIBITS",
    "METRICS",
    "Exhibit",
    "Experiment",
    "Run",
    "bring_up_to_date",
    "commands",
    "count_weights",
    "exhibit_list",
    "experiment_table",
    "plan",
    "result_table",
    "run_name",
    "unread",
    "weight_table",
]
