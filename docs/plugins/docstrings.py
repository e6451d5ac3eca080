"""Griffe extension: what the docstrings say, as mkdocstrings expects it."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Makes `Example:` a section of doctest lines; Griffe knows `Examples:` only."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Renames the section in the docstring of every object that is loaded."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE
            )
