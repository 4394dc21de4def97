"""How much of a difference matters: signal, rounding floor, default tolerances.

Many outputs are mostly constant (biases, softmax of a weak network), so a tolerance relative to their
magnitude would let a dead network pass. Here a tolerance is relative to the *signal*: half the largest
change that different inputs of one kind cause in one element. On top comes a floor of a few roundings of
the magnitude. If both together exceed ``cap`` signals, the inputs do not show enough to prove anything.

NaN rules: NaN equals nothing, infinity equals nothing. Where the expected value is not finite, the
comparison proves nothing (vacuous); where only the value found is not finite, it has failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxfc.proof.options import CheckOptions
from onnxfc.proof.sessions import Array


@dataclass(frozen=True)
class Precision:
    """Rounding of a number type, the default tolerance and the widest one, both in signals.

    ``roundings``: how many roundings of its magnitude an output is always allowed. ``step``: what one quantisation step
    ahead makes of it, 0 where there is none.
    """

    name: str
    eps: float
    rtol: float
    cap: float
    roundings: int = 2
    step: float = 0.0


# A scale error of 0.1 % moves an output by about 1e-3 signals: cap stays at half of that. Sums of 10^4
# float32 products in another order differ by about 1e-6 of the magnitude, far below 2e-4 signals.
PRECISION = {
    "float64": Precision("float64", 2.0**-52, 1e-6, 5e-4, 6),
    "float32": Precision("float32", 2.0**-23, 2e-4, 5e-4, 6),
    "float16": Precision("float16", 2.0**-10, 5e-3, 5e-2),
    "bfloat16": Precision("bfloat16", 2.0**-7, 4e-2, 2e-1),
}
NOT_FINITE = "not finite"
OVERFLOWING = "so large that another image may overflow"
BRINK, ALIKE = 1e19, 1e-4
"""The root of the largest float: an exponential of twice as much has no value. What is as large throughout is none."""
SHAPELESS = "empty or of changing shape"
SQUASHED = 2
"""So many roundings of 1 onnxruntime's Sigmoid in float32 is off, where its values are near 0 too."""
COARSE = 1e-2
"""Tolerance of an output that leaps, in signals: between its extremes it magnifies rounding. Errors of the FC layers
are seen in what these make."""
MOST = 0.2
"""A tolerance above so many signals is none."""
FEW = 3
"""So many values are classes: of a mask, a sign."""
WILD = 10
"""Values so many times those of the first inputs are of another order of magnitude."""
STEPS = 2
"""Where half the range of an output is less than so many quantisation steps, values may not be one of them off.
Integers may be one off still where that holds of their own edges."""
FLIPPED = 0.2
"""So much of a step the values of an output may be off on average, at most: few fall to the other side of an edge."""
FEWEST = 0.02
"""So much they may be where rounding alone is not seen to move any, and ..."""
SPARE = 2
"""... so many steps in all, where an output has but a few values."""
WIDENING = 10
"""How many times its measured rounding noise an output is allowed to deviate, up to the cap."""
SEVERAL, FINE = 4, 2e-3
"""Steps of 16 bits are nearly as small as what rounding moves: many values fall to the other side of an edge, and a
layer adds them up to so many steps, as long as these are a small share of the signal. Of 8 bits, one is more."""


def flipped(noise: float, step: float, fewest: float = FEWEST) -> float:
    """The part of a step that values may be off on average, where rounding alone moves the original's by ``noise``."""
    return min(FLIPPED, max(fewest, WIDENING * noise / step)) if step else FLIPPED


@dataclass(frozen=True)
class Scale:
    """What one output does on one kind of inputs. ``problem`` says why these inputs prove nothing.

    ``wild``: further inputs have made values of another order of magnitude, so this is the scale of some inputs only.
    ``least``: the magnitude that roundings are at least of, however small the values are.
    ``hidden``: no input moves it clearly, but the FC layers right before it do, on which the proof rests.
    """

    signal: float
    magnitude: float
    precision: Precision
    exact: bool = False
    problem: str = ""
    wild: bool = False
    hidden: bool = False
    least: float = 0.0

    @property
    def ratio(self) -> float:
        """Signal relative to magnitude, 0 where there is none."""
        return self.signal / self.magnitude if self.magnitude else 0.0

    @property
    def rounding(self) -> float:
        """What rounding of the last layers alone may change, absolute."""
        own = self.precision.roundings * self.precision.eps * self.magnitude
        return max(own, SQUASHED * self.precision.eps * self.least)

    def drowned(self, noise: float) -> bool:
        """Whether measured rounding noise leaves too little of the signal to see an error in."""
        return (
            not self.exact and not self.hidden and 3 * (noise - self.precision.step) > self.precision.cap * self.signal
        )

    def steady(self, noise: float) -> bool:
        """Whether all the room that ``tolerance`` gives to measured noise is below the cap."""
        return self.exact or WIDENING * (noise - self.precision.step) <= self.precision.cap * self.signal

    @property
    def good(self) -> bool:
        """Informative with room: the rounding floor is a small part of the tolerance."""
        floor = self.rounding
        return not self.problem and not self.wild and (self.exact or floor <= 0.1 * self.precision.rtol * self.signal)

    def tolerance(self, options: CheckOptions, noise: float | None = None) -> float:
        """The largest absolute deviation allowed; measured ``noise`` may widen it, up to the cap."""
        if self.exact:
            return 0.0
        rtol = self.precision.rtol if options.rtol is None else options.rtol
        floor = self.rounding if options.atol is None else options.atol
        base = (max(rtol, COARSE) if self.hidden else rtol) * self.signal + floor
        if options.rtol is not None or options.atol is not None or noise is None:
            return base + self.step(options)
        return max(base, min(WIDENING * noise, self.precision.cap * self.signal)) + self.step(options)

    def step(self, options: CheckOptions) -> float:
        """The part of the tolerance that is a quantisation step, or a few of 16 bits, which few elements may be off."""
        if self.exact or options.rtol is not None or options.atol is not None:
            return 0.0
        return max(self.precision.step, min(SEVERAL * self.precision.step, FINE * self.signal))

    def over(self, values: Sequence[Array]) -> Scale:
        """The same for ``values``; of an output that nothing has moved so far, they may be the first that differ."""
        if not self.hidden or self.exact or not values:
            return self
        rows = np.stack(values).astype(np.float64)
        signal, most = float(rows.max() - rows.min()) / 2, float(np.abs(rows).max())
        return replace(self, signal=max(self.signal, signal), magnitude=max(self.magnitude, most))


def measure(
    samples: Sequence[Array],
    batch: int,
    coarse: Precision,
    options: CheckOptions,
    *,
    least: float = 0.0,
    steps: bool = False,
) -> Scale:
    """The scale of one output from its values on several inputs of one kind.

    An output whose axis 0 is the batch gives one sample per image. ``coarse``: how what it is made from was rounded;
    its own number type may be coarser still. ``least``: see Scale. ``steps``: a threshold has made it, so that it is
    compared exactly where it has but a few values.
    """
    first = samples[0]
    if first.size == 0 or any(sample.shape != first.shape for sample in samples):
        return Scale(0.0, 0.0, coarse, problem=SHAPELESS)
    batched = first.ndim > 0 and first.shape[0] == batch
    rows = np.concatenate(samples) if batched else np.stack(samples)
    integers = rows.dtype.kind not in "fV" and not coarse.step
    if integers or (steps and len(np.unique(rows)) <= FEW):
        varies = bool((rows != rows[:1]).any())
        return Scale(float(varies), 0.0, coarse, True, "" if varies else "the same for every input")
    precision = replace(max(coarse, PRECISION.get(rows.dtype.name, coarse), key=lambda p: p.eps), step=coarse.step)
    integer, rows = rows.dtype.kind in "iu", rows.astype(np.float64)
    if not np.isfinite(rows).all():
        return Scale(0.0, 0.0, precision, problem=NOT_FINITE)
    sizes = np.abs(rows)
    if precision.name != "float64" and _on_brink(sizes):
        return Scale(0.0, 0.0, precision, problem=OVERFLOWING)
    signal = float((rows.max(axis=0) - rows.min(axis=0)).max()) / 2
    if STEPS * precision.step > signal:
        own = 1.0 if integer and signal >= STEPS else 0.0
        precision = replace(precision, step=own)
    scale = Scale(signal, float(sizes.max()), precision, least=least)
    return replace(scale, problem=_problem(rows, scale, options))


def _on_brink(values: Array) -> bool:
    """Whether few values are so large, as exponentials are."""
    most = float(values.max(initial=0))
    return most > BRINK and float(np.median(values[values > 0])) < ALIKE * most


def confirmed(first: Scale, more: Scale) -> Scale:
    """The scale on ``more`` inputs than the first, or that on the first ones, known as wild, if it is quite another.

    An exponential of strong inputs has no scale: the next image may be of any.
    """
    calm = not more.problem and more.magnitude <= WILD * first.magnitude
    return more if calm or first.exact else replace(first, wild=not first.problem)


def _problem(rows: Array, scale: Scale, options: CheckOptions) -> str:
    if scale.signal == 0:
        return "constant over different inputs"
    rounding = scale.rounding
    rtol = scale.precision.rtol if options.rtol is None else options.rtol
    if rounding > (max(scale.precision.cap, 2 * rtol) - rtol) * scale.signal:
        told = f"nearly constant, it varies by only {scale.ratio:.0e} of its magnitude, too close to rounding"
        enough = rounding / scale.signal
        return f"{told} (--rtol {1.1 * enough:.0e} allows for that)" if enough < MOST else told
    if options.atol is not None and options.atol > 0.5 * scale.signal:
        return f"nearly constant, it varies by only {scale.signal:.0e}, less than twice --atol; give a smaller one"
    return "saturated, nearly every value is at one of two extremes" if _saturated(rows) else ""


def _saturated(rows: Array) -> bool:
    """Two-valued: a softmax or sigmoid far out hides what happens before it."""
    near = np.min([np.abs(rows), np.abs(rows - 1), np.abs(rows + 1)], axis=0)
    if (near < 1e-4).all() and np.abs(rows).max() > 0.5:  # else they are small, and may still be of any value
        return True
    low, high = rows.min(), rows.max()
    edge = 1e-3 * (high - low)
    return bool(rows.size > 3 and not ((rows > low + edge) & (rows < high - edge)).any())
