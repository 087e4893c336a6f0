"""A tensor has one Q: two Qs make two copies of it and a change of layout between them (P4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edgedeploy.calibration.lint.rule import Cases, Editor, Fault, Scene, Sketch, lint_rule


def cases(rng: np.random.Generator) -> Cases:
    models = []
    for scales in ((0.02, 0.03), (0.03, 0.03), ()):
        net = Sketch(rng)
        pairs = [net.pair("x", scale) for scale in scales] or [net.pair("x")] * 2
        models.append(net.model(net.op("Add", *(net.conv(name) for name in pairs))))
    return Cases(models[:2], models[2:])


def fix_all(scene: Scene, editor: Editor, indices: Sequence[int]) -> None:
    """All consumers read the pair of the widest range."""
    for name in dict.fromkeys(scene.nodes[index].input[0] for index in indices):
        pairs = [pair for pair in scene.pairs() if pair.source == name]
        known = [(pair, parameters) for pair in pairs if (parameters := scene.parameters(pair.quantize))]
        if len(known) != len(pairs) or not pairs or len({p.zero.dtype for _, p in known}) != 1:
            continue
        keep = max(known, key=lambda entry: entry[1].high - entry[1].low)[0]
        for pair in pairs:
            if pair.quantize != keep.quantize:
                editor.redirect(pair.result, keep.result)


@lint_rule(
    "several-scales",
    "ED205",
    "warning",
    source=("P4",),
    remedy="quantize it once, and let every consumer read that",
    cases=cases,
    fix_all=fix_all,
    promise=15.0,
)
def several_scales(scene: Scene) -> Iterator[Fault]:
    """A tensor is quantized several times."""
    for name in list(scene.consumers):
        quantizers = scene.quantizers_of(name) if name not in scene.constants else []
        for index in quantizers[1:]:
            same = len({p.key for i in (quantizers[0], index) if (p := scene.parameters(i))}) == 1
            yield (
                index,
                f"'{name}' has {len(quantizers)} Q, this one of {'the same' if same else 'another'} scale",
            )
