"""The lengths of what a node makes, operator by operator, in closed form: for operators that change them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from onnxfc.graph.op_kinds import BROADCAST, POOLS, RESAMPLING, WEIGHT_AT, cuts_of, perm_of, weight_position
from onnxfc.shapes.length import Dim, Length, at, bounds, least, most, quotient
from onnxfc.shapes.node_call import Dims, NodeCall, apart


def dims_of(call: NodeCall) -> Sequence[Dims] | None:
    """The dims of each output; None where no rule tells. What the node asks of the image's size is noted."""
    node = call.node
    rule = _RULES.get(node.op_type) if not node.domain or node.op_type == "FusedConv" else None
    if rule is not None:
        dims = call.dims(0)
        return None if dims is None else rule(call, list(dims))
    if node.op_type in BROADCAST and not node.domain:
        call.bond_side_by_side()
    return None


Made = Sequence[Dims] | None


def slid(
    length: Any, kernel: int, stride: int = 1, pads: tuple[int, int] = (0, 0), dilation: int = 1, ceil: bool = False
) -> Any:
    """Elements behind a Conv or pool; ``ceil``: a last window may reach beyond the padding, but begins before it.

    https://onnx.ai/onnx/operators/onnx__MaxPool.html
    """
    room = length + (pads[0] + pads[1] - (kernel - 1) * dilation - 1)
    if not ceil:
        return room // stride + 1
    return least((room + stride - 1) // stride + 1, (length + pads[0] - 1) // stride + 1)


def _slid(call: NodeCall, dims: list[Dim], kernel: Sequence[int], channels: Dim | None = None) -> Made:
    """A pool leaves axis 1 as it is, which may follow the image too. https://onnx.ai/onnx/operators/onnx__Conv.html"""
    rank = len(dims) - 2
    if len(kernel) != rank:
        return None
    strides, dilations = call.ints("strides", rank, 1), call.ints("dilations", rank, 1)
    auto, pads = call.attrs.get("auto_pad", "NOTSET"), call.ints("pads", 2 * rank, 0)
    made = [dims[0], dims[1] if channels is None else channels]
    for k, length in enumerate(dims[2:]):
        if auto.startswith("SAME"):
            made.append((length + strides[k] - 1) // strides[k])
        else:
            around = (0, 0) if auto == "VALID" else (pads[k], pads[k + rank])
            made.append(slid(length, kernel[k], strides[k], around, dilations[k], bool(call.attrs.get("ceil_mode"))))
    return [tuple(made)] * len(call.made)


def _conv(call: NodeCall, dims: list[Any]) -> Made:
    weight = call.spec(weight_position(call.node.op_type))
    return None if weight is None or weight.shapes is None else _slid(call, dims, weight.native[2:], weight.native[0])


def _conv_transpose(call: NodeCall, dims: list[Any]) -> Made:
    """https://onnx.ai/onnx/operators/onnx__ConvTranspose.html"""
    rank, weight = len(dims) - 2, call.spec(1)
    if (
        weight is None
        or weight.shapes is None
        or "output_shape" in call.attrs
        or call.attrs.get("auto_pad", "NOTSET") != "NOTSET"
    ):
        return None
    strides, dilations = call.ints("strides", rank, 1), call.ints("dilations", rank, 1)
    more, pads = call.ints("output_padding", rank, 0), call.ints("pads", 2 * rank, 0)
    made = [dims[0], weight.native[1] * call.attrs.get("group", 1)]
    for k, (length, kernel) in enumerate(zip(dims[2:], weight.native[2:], strict=True)):
        reach = (kernel - 1) * dilations[k] + 1
        made.append((length - 1) * strides[k] + more[k] + reach - pads[k] - pads[k + rank])
    return [tuple(made)]


def _col2im(call: NodeCall, dims: list[Any]) -> Made:
    size, block = call.values(1), call.numbers(2)
    return None if size is None or block is None else [(dims[0], dims[1] // math.prod(block), *size.tolist())]


def _center_crop_pad(call: NodeCall, dims: list[Any]) -> Made:
    """https://onnx.ai/onnx/operators/onnx__CenterCropPad.html"""
    sizes = call.values(1)
    if sizes is None:
        return None
    for axis, length in zip(call.attrs.get("axes") or range(len(dims)), sizes.tolist(), strict=True):
        dims[axis] = length
    return [tuple(dims)]


def _max_unpool(call: NodeCall, dims: list[Any]) -> Made:
    """https://onnx.ai/onnx/operators/onnx__MaxUnpool.html"""
    given = call.values(2)
    if call.given(2):
        return None if given is None else [tuple(given.tolist())]
    rank = len(dims) - 2
    kernel, strides = call.ints("kernel_shape", rank, 1), call.ints("strides", rank, 1)
    pads = call.ints("pads", 2 * rank, 0)
    steps = enumerate(zip(dims[2:], kernel, strides, strict=True))
    return [(*dims[:2], *((n - 1) * stride + reach - pads[k] - pads[k + rank] for k, (n, reach, stride) in steps))]


def _stft(call: NodeCall, dims: list[Any]) -> Made:
    """https://onnx.ai/onnx/operators/onnx__STFT.html"""
    window, step, length = call.spec(2), call.numbers(1), call.numbers(3)
    frame = length[0] if length else window.native[0] if window is not None and window.shapes is not None else None
    if step is None or frame is None:
        return None
    bins = frame // 2 + 1 if call.attrs.get("onesided", 1) else frame
    return [(dims[0], slid(dims[1], frame, step[0]), bins, 2)]


def _pad(call: NodeCall, dims: list[Any]) -> Made:
    """A map that begins at another place than natively is not the same map: its amounts before must stay."""
    values = call.values(1)
    amounts = call.attrs.get("pads") or call.attrs.get("paddings") or (None if values is None else values.tolist())
    axes = call.numbers(3) if call.given(3) else list(range(len(dims)))
    if amounts is None or axes is None:
        return None
    for k, axis in enumerate(axes):
        before, after = amounts[k], amounts[k + len(axes)]
        if isinstance(before, Length):
            call.ask("still", before, int(at(before, call.native)))
        if call.attrs.get("mode") == "reflect":
            left = dims[axis] + least(0, before) + least(0, after)
            call.ask("room", left - most(0, before, after), 1)
        dims[axis] = dims[axis] + before + after
    return [tuple(dims)]


def _top_k(call: NodeCall, dims: list[Any]) -> Made:
    """There are so many to choose from. https://onnx.ai/onnx/operators/onnx__TopK.html"""
    count = [call.attrs["k"]] if "k" in call.attrs else call.numbers(1)
    if count is None:
        return None
    axis = call.attrs.get("axis", -1)
    call.ask("room", dims[axis], count[0])
    dims[axis] = count[0]
    return [tuple(dims)] * len(call.made)


def _slice(call: NodeCall, dims: list[Any]) -> Made:
    """https://onnx.ai/onnx/operators/onnx__Slice.html"""
    given = [call.values(k) for k in range(1, len(call.node.input))]
    unknown = any(found is None and call.given(k) for k, found in enumerate(given, 1))
    if unknown or any(call.moving(k) for k in (3, 4) if call.given(k)):
        return None
    for axis, (start, end, step) in cuts_of(call.attrs, given, len(dims)).items():
        length = dims[axis]
        if step > 0:
            first, last = (_place(call, bound, length) for bound in (start, end))
            if isinstance(first, Length) and bounds(first) is not None:  # whether the height is even, say
                call.ask("still", first, int(at(first, call.native)))
            dims[axis] = (last - first + step - 1) // step
        elif _whole_axis(start, end):
            dims[axis] = (length - step - 1) // -step
        else:
            return None
    return [tuple(dims)]


_OPEN = 2**31 - 2
"""Bounds from here on mean the end of an axis."""


def _whole_axis(start: Dim, end: Dim) -> bool:
    """Whether a Slice backwards takes all of an axis."""
    return isinstance(start, int) and isinstance(end, int) and (start == -1 or start >= _OPEN) and end <= -_OPEN


def _place(call: NodeCall, bound: Any, length: Dim) -> Any:
    """Where a bound of a Slice lies on an axis of that length; what it is counted from must be there."""
    if isinstance(bound, int) and bound >= _OPEN:
        return length
    native, most_natively = at(bound, call.native), at(length, call.native)
    if native < 0 <= native + most_natively:
        call.ask("room", length + bound, 0)
        return length + bound
    found = bounds(bound)
    if found is not None and found[0] >= 0 and native <= most_natively:
        call.ask("room", length - bound, 0)
        return bound
    return most(0, length + bound) if native < 0 else least(bound, length)


def _reshape(call: NodeCall, dims: list[Any]) -> Made:
    """https://onnx.ai/onnx/operators/onnx__Reshape.html"""
    values = call.values(1)
    target = call.attrs.get("shape") if values is None else values.tolist()
    if target is None:
        return None
    keeps = call.attrs.get("allowzero", 0)
    made = [dims[k] if item == 0 and not keeps else item for k, item in enumerate(target)]
    if -1 not in made:
        if quotient(dims, made) != 1:
            call.bond(math.prod(dims), math.prod(made))
        return [tuple(made)]
    rest = _shared(call, dims, [item for item in made if item != -1])
    if rest is None:
        return None
    made[made.index(-1)] = rest
    return [tuple(made)]


def _shared(call: NodeCall, dims: Sequence[Dim], by: Sequence[Dim]) -> Dim | None:
    """What is left of a map for the one length that a Reshape leaves open."""
    before = apart(dims)
    for part in by:  # blocks of an axis: it must be so many times as long
        for k, dim in enumerate(before):
            times = _times(dim, part)
            if times > 1:
                call.bond(part * times, dim)
                before[k] = part * times
                break
    rest = quotient(before, by)
    if rest is None:
        return None
    whole: Dim = math.floor(rest)
    if isinstance(rest, Length) and rest.per > 1:
        call.bond(whole * rest.per, rest * rest.per)
    return whole


def _times(dim: Dim, part: Dim) -> int:
    """How many blocks of an axis ``part`` counts; 0 where it counts none."""
    if not isinstance(dim, Length) or not isinstance(part, Length) or dim == part:
        return 0
    if dim.axes != part.axes or len(dim.axes) != 1:
        return 0
    (axis,) = dim.axes
    growth, less = dim.growth(axis), part.growth(axis)
    times = growth / less if growth and less else Fraction(0)
    return int(times) if times.denominator == 1 and times > 1 and dim // int(times) == part else 0


def _flatten(call: NodeCall, dims: list[Any]) -> Made:
    axis = call.attrs.get("axis", 1)
    return [(math.prod(dims[:axis]), math.prod(dims[axis:]))]


def _concat(call: NodeCall, dims: list[Any]) -> Made:
    axis = call.attrs["axis"] % len(dims)
    lengths = [found[axis] for k in call.inputs if (found := call.dims(k)) is not None and len(found) == len(dims)]
    if len(lengths) < len(call.inputs):
        return None
    call.bond_side_by_side(axis - len(dims))
    return [(*dims[:axis], sum(lengths), *dims[axis + 1 :])]


def _split(call: NodeCall, dims: list[Any]) -> Made:
    """https://onnx.ai/onnx/operators/onnx__Split.html"""
    axis, count, values = call.attrs.get("axis", 0) % len(dims), len(call.made), call.values(1)
    if values is None and call.given(1):
        return None
    part = (dims[axis] + count - 1) // count
    lengths = call.attrs.get("split") or ([] if values is None else values.tolist())
    if not lengths and "num_outputs" not in call.attrs:
        call.bond(part * count, dims[axis])
    lengths = lengths or [part] * (count - 1) + [dims[axis] - part * (count - 1)]
    return [(*dims[:axis], length, *dims[axis + 1 :]) for length in lengths]


def _gather(call: NodeCall, dims: list[Any]) -> Made:
    places, axis = call.dims(1), call.attrs.get("axis", 0) % len(dims)
    return None if places is None else [(*dims[:axis], *places, *dims[axis + 1 :])]


def _resize(call: NodeCall, dims: list[Any]) -> Made:
    """https://onnx.ai/onnx/operators/onnx__Resize.html"""
    if call.attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    axes, sizes, scales = call.attrs.get("axes") or range(len(dims)), call.values(3), _scales(call)
    if sizes is None and (scales is None or call.given(3)):
        return None
    several = call.attrs.get("coordinate_transformation_mode") == "pytorch_half_pixel"
    for k, axis in enumerate(axes):
        if sizes is not None:
            dims[axis] = sizes.flat[k]
        elif scales is not None:
            dims[axis] = math.floor(dims[axis] * scales[k])
        if several and isinstance(dims[axis], Length) and at(dims[axis], call.native) > 1:
            call.ask("room", dims[axis], 2)  # one place alone would lie elsewhere
    return [tuple(dims)]


def _scales(call: NodeCall) -> list[Fraction] | None:
    spec = call.spec(2 if len(call.node.input) > 2 else 1)
    value_of = None if spec is None or spec.constant is None else spec.constant.tolist()
    scales = call.attrs.get("scales") or value_of
    return [Fraction(float(scale)).limit_denominator(_FINEST) for scale in scales] if scales else None


_FINEST = 128
"""Scales are fractions of small numbers, written as float32."""


def _to_depth(call: NodeCall, dims: list[Any]) -> Made:
    block = call.attrs["blocksize"]
    shorter = [length // block for length in dims[2:]]
    for length, whole in zip(dims[2:], shorter, strict=True):
        call.bond(whole * block, length)
    return [(dims[0], dims[1] * block * block, *shorter)]


def _to_space(call: NodeCall, dims: list[Any]) -> Made:
    block = call.attrs["blocksize"]
    return [(dims[0], dims[1] // (block * block), *(length * block for length in dims[2:]))]


def _range(call: NodeCall, dims: list[Any]) -> Made:
    start, limit, step = (None if (found := call.values(k)) is None else found.item() for k in range(3))
    if start is None or limit is None or not isinstance(step, int) or step < 1:
        return None
    return [((limit - start + step - 1) // step,)]


def _expand(call: NodeCall, dims: list[Any]) -> Made:
    values = call.values(1)
    if values is None:
        return None
    wanted, made = values.tolist(), list[Dim]()
    rank = max(len(dims), len(wanted))
    for one, other in zip(*([1] * (rank - len(part)) + part for part in (dims, wanted)), strict=True):
        if one != 1 and other != 1:
            call.bond(one, other)
        made.append(other if one == 1 else one)
    return [tuple(made)]


def _tile(call: NodeCall, dims: list[Any]) -> Made:
    values = call.values(1)
    return None if values is None else [tuple(dim * times for dim, times in zip(dims, values, strict=True))]


def _matmul(call: NodeCall, dims: list[Any]) -> Made:
    """Only what must be equal; the dims are those of the inputs."""
    other = call.dims(1) or ()
    if dims and other:
        call.bond(dims[-1], other[-2] if len(other) > 1 else other[-1])
    for one, two in zip(dims[-3::-1], other[-3::-1], strict=False):
        if one != 1 and two != 1:
            call.bond(one, two)
    return None


def _einsum(call: NodeCall, dims: list[Any]) -> Made:
    """One letter, one length."""
    before, _, after = str(call.attrs["equation"]).replace(" ", "").partition("->")
    known: dict[str, Dim] = {}
    for k, letters in enumerate(before.split(",")):
        own = call.dims(k)
        if own is None or len(own) != len(letters) or not after:
            return None
        for letter, dim in zip(letters, own, strict=True):
            first = known.setdefault(letter, dim)
            if first == 1:
                known[letter] = dim
            elif dim != 1:
                call.bond(first, dim)
    return [tuple(known[letter] for letter in after)]


_RULES: dict[str, Callable[[NodeCall, list[Any]], Made]] = {
    **dict.fromkeys(WEIGHT_AT, _conv),
    **dict.fromkeys(POOLS, lambda call, dims: _slid(call, dims, call.attrs["kernel_shape"])),
    **dict.fromkeys(RESAMPLING, _resize),
    "CenterCropPad": _center_crop_pad,
    "Col2Im": _col2im,
    "Concat": _concat,
    "ConstantOfShape": lambda call, _: None if (found := call.values(0)) is None else [tuple(found.tolist())],
    "ConvTranspose": _conv_transpose,
    "MaxUnpool": _max_unpool,
    "STFT": _stft,
    "DeformConv": _conv,
    "DepthToSpace": _to_space,
    "Einsum": _einsum,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "MatMul": _matmul,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Slice": _slice,
    "TopK": _top_k,
    "SpaceToDepth": _to_depth,
    "Split": _split,
    "Tile": _tile,
    "Transpose": lambda call, dims: [tuple(dims[axis] for axis in perm_of(call.attrs, len(dims)))],
}
