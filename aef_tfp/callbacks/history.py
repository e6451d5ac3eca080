"""What a run writes about itself while it trains: its history."""

import csv
import io
from pathlib import Path
from typing import Any

import keras

from aef_tfp.callbacks.iterations import IterationOf
from aef_tfp.files import replace_text, writing

__all__ = ["History"]


class History(keras.callbacks.Callback):
    """Writes the logs of each epoch as a row of a CSV file; it appends.

    Other than Keras's CSVLogger it writes the iteration, too, and leaves no file open
    where training is interrupted.

    Args:
        path: The CSV file.
        iteration_of: Iterations done at the end of an epoch.
    """

    def __init__(self, path: str | Path, iteration_of: IterationOf):
        super().__init__()
        self.path = Path(path)
        self.iteration_of = iteration_of

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes one row.

        Raises:
            CannotWrite: If there is no room for it; `keep_until` drops what is.
        """
        logs = {"iteration": self.iteration_of(epoch), **(logs or {})}
        fields = ["epoch", *sorted(logs)]
        is_new = not self.path.exists()
        if not is_new:
            with self.path.open(newline="") as file:
                fields = next(csv.reader(file))
        with writing(self.path), self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, fields, restval="NA", extrasaction="ignore")
            if is_new:
                writer.writeheader()
            writer.writerow({"epoch": epoch, **logs})

    @staticmethod
    def keep_until(path: Path, iteration: int) -> None:
        """Drops the rows that an interrupted run wrote after its newest checkpoint.

        A last row that was cut short goes, too.

        Args:
            path: The CSV file; nothing happens if there is none.
            iteration: The last one to keep.

        Raises:
            ValueError: If the file is not what a `History` writes.
        """
        if not path.exists():
            return
        try:
            with path.open(newline="") as file:
                reader = csv.DictReader(file)
                fields = list(reader.fieldnames or ())
                rows = [row for row in reader if None not in row.values()]
            if any(None in row for row in rows):
                raise ValueError("a row has more columns than there are names")
            rows = [row for row in rows if int(row["iteration"]) <= iteration]
        except (ValueError, KeyError, csv.Error):
            raise ValueError(
                f"{path} is not the history of a run; move it away to begin a new one."
            ) from None
        if not rows:
            path.unlink()
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, fields)
        writer.writeheader()
        writer.writerows(rows)
        replace_text(path, text.getvalue())
