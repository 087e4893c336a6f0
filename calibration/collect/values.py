"""Values of tensors inside a model over the calibration data, one input at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import islice

import numpy as np
import onnx
from numpy.typing import NDArray

from edgedeploy.backend import Feeds
from edgedeploy.calibration.collect.probe import Probe
from edgedeploy.calibration.correction import Setting
from edgedeploy.core.sampling import evenly_spaced

SAMPLE = 64  # inputs that means and covariances are taken from; extremes take every one


def values(
    model: onnx.ModelProto, names: Sequence[str], setting: Setting, at_most: int | None = None
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """The named tensors (inputs, or outputs of any node, float32) for each feed, good until the next.

    At most `at_most` feeds are used: evenly spread ones, or the first ones where their number is not known.
    Raises CalibrationError where the model does not run.
    """
    probe = Probe(model, list(dict.fromkeys(names)))
    source = setting.feeds()
    total = len(source) if isinstance(source, Sized) else None
    for done, feeds in enumerate(_sampled(source, total, at_most), 1):
        yield dict(probe.run(feeds))
        if setting.progress is not None:
            setting.progress(done, min(total, at_most) if total and at_most else total)


def _sampled(source: Iterable[Feeds], total: int | None, at_most: int | None) -> Iterable[Feeds]:
    """At most so many feeds of a source, evenly spread where their number is known."""
    if at_most is None:
        return source
    if total is None:
        return islice(source, at_most)
    chosen = frozenset(evenly_spaced(total, at_most))
    return (feeds for number, feeds in enumerate(source) if number in chosen)
