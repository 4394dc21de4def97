"""Random chains of operators that resample, crop, pad and slide, and whether tiles with their halo are the whole image.

The reference is the rewritten model itself on the whole image, run by onnxruntime: a tile that has its halo must give
the same cells, whatever the sizes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx
from hazards import Net, complete, session

from onnxfc.rewriter.api import Rewrite
from onnxfc.scanner.plan import Axis

RATIOS = (*(1 / 2, 1 / 4, 1 / 4, 1 / 8, 1 / 3, 2 / 5, 3 / 8, 2 / 3, 3 / 4), *(3 / 2, 2, 3, 1 / 5, 3 / 7, 5 / 4, 1 / 6))
OPEN = 2**31 - 1


class Chain(Net):
    """One step after the other, each of two channels."""

    def __init__(self, seed: int) -> None:
        self.pick = random.Random(seed)
        super().__init__(self.pick.choice((11, 13, 18, 20)), seed)

    def some(self, *among: int, count: int = 2) -> list[int]:
        return [self.pick.choice(among) for _ in range(count)]

    def slide(
        self, tensor: str, kernel: int, stride: int, pads: Sequence[int] = (0, 0, 0, 0), dilation: int = 1
    ) -> str:
        made = self.conv(tensor, 2, 2, [kernel] * 2, strides=[stride] * 2, pads=list(pads))
        return str(self.op("Tanh", made))

    def some_conv(self, tensor: str) -> str:
        pads = self.pick.choice(([0] * 4, [1] * 4, self.some(0, 1, count=4)))
        return self.slide(tensor, self.pick.choice((1, 2, 3, 4)), self.pick.choice((1, 1, 2, 3)), pads)

    def resize(self, tensor: str, ratios: Sequence[float], **how: str) -> str:
        none = self.const([]) if self.opset < 13 else ""
        return str(self.op("Resize", tensor, none, self.const([1, 1, *ratios]), **how))

    def some_resize(self, tensor: str) -> str:
        how = {"mode": self.pick.choice(("nearest", "linear", "cubic"))}
        how["coordinate_transformation_mode"] = self.pick.choice(("asymmetric", "half_pixel", "pytorch_half_pixel"))
        if how["mode"] == "nearest":
            how["nearest_mode"] = self.pick.choice(("floor", "ceil", "round_prefer_floor", "round_prefer_ceil"))
        if self.pick.random() < 0.15:
            return self.resize_to_part(tensor, self.pick.choice((2, 3, 4)), **how)
        return self.resize(tensor, [self.pick.choice(RATIOS)] * 2, **how)

    def lengths(self, tensor: str) -> str:
        return str(self.op("Slice", self.op("Shape", tensor), self.ints(2), self.ints(4)))

    def resize_to_part(self, tensor: str, by: int, **how: str) -> str:
        """To a size that is computed: a third of the map's, rounded down."""
        kept = self.op("Slice", self.op("Shape", tensor), self.ints(0), self.ints(2))
        sizes = self.op("Concat", kept, self.op("Div", self.lengths(tensor), self.ints(by, by)), axis=0)
        none = self.const([]) if self.opset < 13 else ""
        return str(self.op("Resize", tensor, none, none, sizes, **how))

    def some_pool(self, tensor: str) -> str:
        kernel, stride = self.pick.choice(((2, 2), (3, 2), (2, 1), (3, 4), (2, 3)))
        pads = self.pick.choice(([0] * 4, self.some(0, 1, count=4)))
        attributes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": pads}
        return str(self.op(self.pick.choice(("MaxPool", "AveragePool")), tensor, **attributes))

    def some_transposed(self, tensor: str) -> str:
        kernel, stride = self.pick.choice((2, 3, 4)), self.pick.choice((1, 2, 3))
        pads = self.pick.choice(([0] * 4, self.some(0, 1, 2, count=4)))
        return str(self.op("ConvTranspose", tensor, self.random(2, 2, kernel, kernel), strides=[stride] * 2, pads=pads))

    def some_slice(self, tensor: str) -> str:
        starts, ends, steps = self.some(0, 0, 1, 2), self.some(OPEN, -1, -2), self.some(1, 1, 2, 3)
        return str(self.op("Slice", tensor, *(self.ints(*part) for part in (starts, ends, [2, 3], steps))))

    def crop(self, tensor: str, by: int, before: bool) -> str:
        """To a multiple of ``by``: what is left over is cut off before the map or behind it."""
        lengths = self.lengths(tensor)
        rest = self.op("Mod", lengths, self.ints(by, by))
        bounds = (rest, lengths) if before else (self.ints(0, 0), self.op("Sub", lengths, rest))
        return str(self.op("Slice", tensor, *bounds, self.ints(2, 3)))

    def some_crop(self, tensor: str) -> str:
        return self.crop(tensor, self.pick.choice((2, 3, 4)), self.pick.random() < 0.5)

    def some_pad(self, tensor: str) -> str:
        pads = [0, 0, *self.some(0, 1, 2), 0, 0, *self.some(0, 1, 2)]
        return str(self.op("Pad", tensor, self.ints(*pads), mode=self.pick.choice(("constant", "reflect", "edge"))))

    def ended(self, tensor: str, head: str) -> onnx.ModelProto | None:
        """With a head, or as features; None where onnxruntime finds no map to put one on."""
        try:
            shape = session(self.model(tensor)).run(None, {"image": np.zeros(self.shape, np.float32)})[0].shape
        except Exception:
            return None
        if min(shape) < 1 or math.prod(shape) > 6000:
            return None
        if head == "features":
            return self.model(str(self.op("Conv", tensor, self.random(3, 2, 1, 1))))
        flat = self.op("Flatten", tensor if head == "fc" else self.op(head, tensor))
        return self.model(self.fc(flat, math.prod(shape[1:]) if head == "fc" else 2, 3))

    def begun(self, size: Sequence[int]) -> str:
        self.shape = (1, 2, *size)
        return self.image(size=size)


def random_chain(seed: int) -> onnx.ModelProto | None:
    """None where a map ran out of places."""
    chain = Chain(seed)
    steps: Sequence[Callable[[str], str]] = (
        *[chain.some_conv] * 3,
        *[chain.some_resize] * 4,
        *[chain.some_pool] * 2,
        *(chain.some_transposed, chain.some_slice, chain.some_crop, chain.some_pad),
    )
    tensor = chain.begun(chain.some(*range(16, 48)))
    for _ in range(chain.pick.randint(1, 4)):
        tensor = chain.pick.choice(steps)(tensor)
    tensor = chain.some_conv(tensor) if chain.pick.random() < 0.6 else tensor
    head = chain.pick.choice(("fc", "fc", "GlobalAveragePool", "GlobalMaxPool", "features", "features"))
    return chain.ended(tensor, head)


def tiled(done: Rewrite, rng: np.random.Generator, sizes: int = 4, tiles: int = 3) -> Iterator[tuple[str, float]]:
    """What is told of a tile, and how far its cells are from those of the whole image, as a share of the largest."""
    geometry, claim = done.geometry, done.claim
    assert geometry.halo is not None
    even = any(blame.cause.by_size for blame in claim.blames)
    steps = [math.lcm(a, b) if even else a for a, b in zip(geometry.size_step, geometry.period, strict=True)]
    runner, image = session(complete(done)), claim.inputs[0]
    for _ in range(sizes):
        size = [n + s * int(rng.integers(0, 1 + 80 // s)) for n, s in zip(claim.native_size, steps, strict=True)]
        pixels = rng.standard_normal((1, image.shape[1], *size)).astype(np.float32)
        (whole,) = runner.run(None, {image.name: pixels})
        cells = geometry.cells(size)
        assert whole.shape[2:] == cells
        axes = [_axis(done, k, size[k], cells[k], steps[k]) for k in range(2)]
        for _ in range(tiles):
            firsts = [int(rng.integers(0, n)) for n in cells]
            lasts = [int(rng.integers(a + 1, n + 1)) for a, n in zip(firsts, cells, strict=True)]
            spans = [axis.least(a, b) for axis, a, b in zip(axes, firsts, lasts, strict=True)]
            there = (..., *(slice(span.start, span.stop) for span in spans))
            (made,) = runner.run(None, {image.name: np.ascontiguousarray(pixels[there])})
            want = whole[(..., *(span.cells for span in spans))]
            got = made[(..., *(span.kept for span in spans))]
            assert got.shape == want.shape
            yield f"{spans} of {size}", float(np.abs(got - want).max() / max(1.0, float(np.abs(whole).max())))


def _axis(done: Rewrite, k: int, length: int, cells: int, step: int) -> Axis:
    geometry = done.geometry
    assert geometry.halo is not None
    stride, per = geometry.stride[k], geometry.per[k]
    elements = done.claim.outputs[0].form == "features"
    own, period = (
        -(-stride // per) if elements else geometry.native_size[k],
        math.lcm(geometry.period[k], geometry.size_step[k]),
    )
    return Axis(length, cells, geometry.native_size[k], own, stride, per, period, step, *geometry.halo[k])
