"""Renamed keys: an old key keeps working for one release, and a notice names the new one.

A table maps old keys to new ones; `OLD_KEYS_END` is the first release that refuses them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

OLD_KEYS_END = "0.3"

TRAINING_RECIPE = {
    "optimiser": "optimizer",
    "initialise": "initialize",
    "quantised_steps": "quantized_steps",
    "quantised_learning_rate": "quantized_learning_rate",
    "quantised_final": "quantized_final",
}
RECIPE_SECTIONS = {"surgery": "optimize"}
TASK_OPTIONS = {"colour": "color"}


class RenamedNotice(FutureWarning):
    """A key that was renamed is still in use; the command line prints the text as a note."""


def with_current_keys(document: Mapping[str, Any], table: Mapping[str, str], where: str) -> dict[str, Any]:
    """A copy of `document` in which every old key has its new name.

    Args:
        document: keys as the user or an older release wrote them.
        table: old key -> new key.
        where: what the document is, for the notice; empty for no notice.

    A document that holds both keeps both, so that its reader refuses the old one.
    """
    current = {}
    for key, value in document.items():
        new = table.get(key, key)
        if new in document:
            new = key
        if new != key and where:
            text = f"{where}: '{key}' is now '{new}'; the old key is refused from {OLD_KEYS_END} on"
            warnings.warn(RenamedNotice(text), stacklevel=2)
        current[new] = value
    return current
