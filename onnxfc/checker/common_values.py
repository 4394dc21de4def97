"""Trunk tensors that two models have in common although their graphs differ there: found by running both.

One exporter folds a BatchNormalization into its Conv, another does not; the values behind it are the same. What is
found here is a proposal, which the proof then puts to the test on other images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from onnxfc.checker.common_subgraph import Common
from onnxfc.claim.claim import Boundary, Claim
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.folded import together
from onnxfc.proof.inputs import Inputs, Kind
from onnxfc.proof.narrowest import narrowest
from onnxfc.proof.options import CheckOptions
from onnxfc.proof.providers import Engine
from onnxfc.proof.sessions import Array, Arrays, RunError, Runner

KINDS = 3
"""Kinds of images that are tried; a trunk may be dead on some."""
CLOSE = 1e-3
"""How far values may be apart, relative to the largest: folded weights round differently. The proof is stricter."""


def common_values(
    original: ModelFile,
    other: ModelFile,
    claim: Claim,
    candidates: Mapping[str, Sequence[str]],
    threads: int,
    folded: Mapping[str, Boundary] = MappingProxyType({}),
) -> list[Common]:
    """For each tensor of the original that one of the other model's with the same values, if there is one.

    ``candidates``: by tensor of the original, those of the other model that may be it, in the order of its graph. Axes
    of extent 1 do not matter. ``folded``: those whose places share an axis in the original.
    """
    try:
        mine = _values(original, list(candidates), claim, threads)
        theirs = _values(other, [name for names in candidates.values() for name in names], claim, threads)
    except RunError:
        return []
    rounding = max(item.eps for model in (original, other) for item in narrowest(model.proto).values())
    close, found = max(CLOSE, 20 * rounding), []
    for name, names in candidates.items():
        fold = folded.get(name)
        distances = {place: _distance(name, their, mine, theirs, fold) for place, their in enumerate(names)}
        nearest = min(distances.values(), default=np.inf)
        if nearest < close:
            found.append(Common(name, names[max(place for place, near in distances.items() if near == nearest)]))
    return found


def _values(model: ModelFile, tensors: Sequence[str], claim: Claim, threads: int) -> list[Arrays]:
    runner = Runner(model, tensors, Engine(threads))
    inputs = Inputs(claim, runner.inputs, CheckOptions())
    kinds: tuple[Kind, ...] = inputs.kinds[:KINDS]
    return [runner.run(inputs.feeds(kind, 0)) for kind in kinds]


def _distance(
    name: str, other: str, mine: Sequence[Arrays], theirs: Sequence[Arrays], folded: Boundary | None
) -> float:
    """Largest difference, relative to the largest value; infinite where nothing varies, or is not finite."""
    pairs = [(one[name], two[other]) for one, two in zip(mine, theirs, strict=True)]
    if folded is not None:
        pairs = [(one, together(folded, two)) for one, two in pairs]
    with np.errstate(invalid="ignore"):
        told = [_relative(a, b) for a, b in pairs if a.size and np.ptp(a) > 0]
    return max(told, default=np.inf)


def _relative(one: Array, two: Array) -> float:
    if [n for n in one.shape if n > 1] != [n for n in two.shape if n > 1]:
        return float(np.inf)
    two = two.reshape(one.shape)
    one, two = one.astype(np.float64), two.astype(np.float64)
    worst = np.abs(one - two).max() / np.abs(one).max()
    return float(worst) if np.isfinite(worst) else float(np.inf)
