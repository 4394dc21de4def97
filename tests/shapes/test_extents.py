"""The law of closed forms: at every image size they are what onnxruntime gives, and sizes it refuses are refused."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import Net, session
from hypothesis import assume, given, note, seed
from hypothesis import strategies as st
from random_networks import SEED, drawn

from onnxfc.graph.index import attributes
from onnxfc.io.model_file import ModelFile
from onnxfc.layout.views import Placed
from onnxfc.rewriter.analyse import analyse
from onnxfc.rewriter.options import RewriteOptions
from onnxfc.shapes.image_inputs import Image
from onnxfc.shapes.length import Length, Sampled
from onnxfc.shapes.model_shapes import Shapes, Sizing

OPEN = 2**31 - 1


class Trunk:
    """A random trunk of two channels; every layer changes how long its axes are."""

    def __init__(self, draw: Any) -> None:
        self.draw, self.net = draw, Net(17)
        self.rank = self.pick(1, 2, 2)
        self.size = tuple(self.number(9, 26) for _ in range(self.rank))
        self.axes = range(2, 2 + self.rank)

    def pick(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def number(self, low: int, high: int) -> int:
        return int(self.draw(st.integers(low, high)))

    def each(self, low: int, high: int) -> list[int]:
        return [self.number(low, high) for _ in range(self.rank)]

    def built(self) -> onnx.ModelProto:
        tensor = self.net.input("image", [1, 2, *self.size])
        for _ in range(self.number(1, 5)):
            tensor = self.pick(*LAYERS)(self, tensor)
        return self.net.model(tensor, infer=False)

    def mixed(self, tensor: str, channels: int) -> str:
        return str(self.net.op("Conv", tensor, self.net.random(2, channels, *[1] * self.rank)))


def conv(trunk: Trunk, tensor: str) -> str:
    kernel, dilation = trunk.each(1, 4), trunk.pick(1, 1, 2)
    how: dict[str, Any] = trunk.pick({}, {"auto_pad": "VALID"}, {"pads": [trunk.number(0, k - 1) for k in kernel * 2]})
    if dilation == 1 and trunk.pick(True, False):
        how = {"auto_pad": trunk.pick("SAME_UPPER", "SAME_LOWER")}
    how |= {"strides": trunk.each(1, 3), "dilations": [dilation] * trunk.rank}
    return str(trunk.net.op("Conv", tensor, trunk.net.random(2, 2, *kernel), **how))


def pool(trunk: Trunk, tensor: str) -> str:
    kernel = trunk.each(1, 3)
    pads = [trunk.number(0, k - 1) for k in kernel * 2]
    how = {"kernel_shape": kernel, "strides": trunk.each(1, 3), "pads": pads, "ceil_mode": trunk.number(0, 1)}
    return str(trunk.net.op("MaxPool", tensor, **how))


def grown(trunk: Trunk, tensor: str) -> str:
    scales = [1, 1, *(trunk.pick(1, 1.5, 2, 3, 0.5) for _ in trunk.axes)]
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return str(trunk.net.op("Resize", tensor, "", trunk.net.const(np.array(scales, np.float32)), **how))


def transposed(trunk: Trunk, tensor: str) -> str:
    stride, kernel = trunk.number(1, 3), trunk.number(1, 4)
    weight = trunk.net.random(2, 2, *[kernel] * trunk.rank)
    pads = [trunk.number(0, 1) if kernel > 2 else 0] * (2 * trunk.rank)
    return str(trunk.net.op("ConvTranspose", tensor, weight, strides=[stride] * trunk.rank, pads=pads))


def padded(trunk: Trunk, tensor: str) -> str:
    amounts = [0, 0, *trunk.each(0, 3), 0, 0, *trunk.each(0, 3)]
    return str(trunk.net.op("Pad", tensor, trunk.net.ints(*amounts), mode=trunk.pick("constant", "edge", "reflect")))


def filled(trunk: Trunk, tensor: str) -> str:
    """Behind, up to whole blocks, by amounts that are computed: (-n) mod 4."""
    net, shape = trunk.net, trunk.net.op("Shape", tensor, start=2)
    missing = net.op("Mod", net.op("Sub", net.ints(4), net.op("Mod", shape, net.ints(4))), net.ints(4))
    return str(net.op("Pad", tensor, net.op("Concat", net.ints(*[0] * (4 + trunk.rank)), missing, axis=0)))


def cropped(trunk: Trunk, tensor: str) -> str:
    net, step = trunk.net, trunk.pick(1, 1, 2)
    start, end = trunk.pick(0, 1, 2, -5), trunk.pick(OPEN, -1, -2)
    bounds = ([item] * trunk.rank for item in (start, end))
    return str(
        net.op("Slice", tensor, *(net.ints(*b) for b in bounds), net.ints(*trunk.axes), net.ints(*[step] * trunk.rank))
    )


def branches(trunk: Trunk, tensor: str) -> str:
    """A padded Conv and a pool of stride 2, which may end a place apart: added, or laid side by side."""
    net, ones = trunk.net, [1] * trunk.rank
    one = net.op("Conv", tensor, net.random(2, 2, *[3] * trunk.rank), strides=[2] * trunk.rank, pads=ones * 2)
    kernel, ceil = trunk.pick([2], [3]) * trunk.rank, trunk.number(0, 1)
    other = net.op("MaxPool", tensor, kernel_shape=kernel, strides=[2] * trunk.rank, ceil_mode=ceil)
    return (
        str(net.op("Add", one, other))
        if trunk.pick(True, False)
        else trunk.mixed(net.op("Concat", one, other, axis=1), 4)
    )


def skipped(trunk: Trunk, tensor: str) -> str:
    """Half as large and twice as large again, cut to what it is added to."""
    net = trunk.net
    half = net.op(
        "MaxPool",
        tensor,
        kernel_shape=[2] * trunk.rank,
        strides=[2] * trunk.rank,
        pads=[0] * trunk.rank + [1] * trunk.rank,
    )
    shape = net.op("Shape", tensor, start=2)
    twice = net.op("Resize", half, "", net.const(np.array([1, 1] + [2] * trunk.rank, np.float32)), mode="nearest")
    cut = net.op("Slice", twice, net.ints(*[0] * trunk.rank), shape, net.ints(*trunk.axes))
    return str(net.op("Add", tensor, cut))


def blocks(trunk: Trunk, tensor: str) -> str:
    if trunk.rank != 2:
        return conv(trunk, tensor)
    deep = trunk.net.op("SpaceToDepth", tensor, blocksize=2)
    return str(trunk.net.op("DepthToSpace", deep, blocksize=2)) if trunk.pick(True, False) else trunk.mixed(deep, 8)


def tokens(trunk: Trunk, tensor: str) -> str:
    """Flattened, and laid out again by its own shape."""
    net, shape = trunk.net, trunk.net.op("Shape", tensor)
    flat = net.op("Transpose", net.op("Reshape", tensor, net.ints(0, 2, -1)), perm=[0, 2, 1])
    return str(net.op("Reshape", net.op("Transpose", flat, perm=[0, 2, 1]), shape))


LAYERS = (conv, conv, pool, pool, grown, transposed, padded, filled, cropped, branches, skipped, blocks, tokens)


def sizing_of(model: onnx.ModelProto, *others: Image) -> Sizing:
    found = _sizing(model, *others)
    assert found is not None
    return found


def _sizing(model: onnx.ModelProto, *others: Image) -> Sizing | None:
    info = model.graph.input[0]
    shape = tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim)
    image = Image(info.name, 1, shape, tuple(range(2, len(shape))), False)
    return Shapes(ModelFile.open(model)).sizing([image, *others])


def everything(model: onnx.ModelProto) -> onnx.ModelProto:
    """All tensors as outputs, of any shape."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for node in model.graph.node for name in node.output)
    for axis, dim in enumerate(copy.graph.input[0].type.tensor_type.shape.dim):
        if axis > 1:
            dim.dim_param = f"n{axis}"
    return copy


def opened(model: onnx.ModelProto) -> Any:
    """A session; None where onnxruntime finds at once that it does not fit."""
    try:
        return session(everything(model))
    except Exception:
        return None


def ran(made: Any, size: tuple[int, ...]) -> dict[str, tuple[int, ...]] | None:
    """What onnxruntime gives; its exceptions have no common base."""
    names = [info.name for info in made.get_outputs()]
    try:
        values = made.run(None, {"image": np.zeros((1, 2, *size), np.float32)})
    except Exception:
        return None
    return {name: value.shape for name, value in zip(names, values, strict=True)}


@seed(SEED)
@drawn(150)
@given(st.data())
def test_shapes_of_random_trunks_at_any_size(data: Any) -> None:
    """Every tensor at every size; where the sizes do not fit, onnxruntime does not run, or runs out of elements."""
    trunk = Trunk(data.draw)
    model = trunk.built()
    note(
        "\n".join(f"{node.op_type} {list(node.input)} {node.output[0]} {attributes(node)}" for node in model.graph.node)
    )
    made = opened(model)
    native = None if made is None else ran(made, trunk.size)
    assume(native is not None and all(min(shape, default=1) > 0 for shape in native.values()))
    assert native is not None
    sizing = _sizing(model)
    assume(sizing is not None)  # as two are broadcast natively, say
    assert sizing is not None
    assert not any(
        dim.holds(Sampled) for dims in sizing.extents.all_dims.values() for dim in dims if isinstance(dim, Length)
    )
    for more in (*range(-6, 14), 24):
        size = tuple(length + more + 3 * k * (more > 1) for k, length in enumerate(trunk.size))
        found, shapes = ran(made, size), sizing.shapes(size)
        if shapes is None:
            assert found is None or _degenerate(sizing, found, size)
        else:
            assert found is not None, size
            assert {name: shapes[name] for name in found} == found


def _degenerate(sizing: Sizing, found: dict[str, tuple[int, ...]], size: tuple[int, ...]) -> bool:
    """Whether a map has run out of elements, though padding or onnx's rounding towards one hides it further on."""
    at = {-1: 1, **dict(enumerate(size))}
    lengths = [dim for dims in sizing.extents.all_dims.values() for dim in dims if isinstance(dim, Length)]
    return any(length.at(at) < 1 for length in lengths) or not all(ask.holds(at) for ask in sizing.asks)


# Rules one by one


def dims(sizing: Sizing, name: str) -> list[str]:
    return [str(dim) for dim in sizing.extents.dims(name) or ()]


def test_branches_that_meet_at_some_sizes_only() -> None:
    """A padded Conv rounds 17 up to 9, a pool down to 8: they may be added at even sizes alone."""
    net = Net(17)
    image = net.input("image", [1, 2, 16, 16])
    one = net.op("Conv", image, net.random(2, 2, 3, 3), strides=[2, 2], pads=[1] * 4)
    other = net.op("MaxPool", image, kernel_shape=[2, 2], strides=[2, 2])
    sizing = sizing_of(net.model(net.op("Add", one, other), infer=False))
    assert (dims(sizing, one)[2], dims(sizing, other)[2]) == ("floor((x0 + 1)/2)", "floor((x0)/2)")
    assert [sizing.shapes((n, 16)) is not None for n in (15, 16, 17, 18)] == [False, True, False, True]
    assert sizing.steps((2, 2)) == (2, 2)
    assert sizing.steps((1, 1)) == (1, 1)  # no size that is looked at tells them apart


def test_amounts_that_are_computed() -> None:
    """(-n) mod 4, then cut again: nothing is left of the rounding."""
    net = Net(17)
    image = net.input("image", [1, 2, 16, 16])
    shape = net.op("Shape", image, start=2)
    rest = net.op("Mod", shape, net.ints(4))
    missing = net.op("Mod", net.op("Sub", net.ints(4), rest), net.ints(4))
    whole = net.op("Pad", image, net.op("Concat", net.ints(0, 0, 0, 0, 0, 0), missing, axis=0))
    small = net.op("MaxPool", whole, kernel_shape=[4, 4], strides=[4, 4])
    nothing = net.op("Sub", net.op("Add", rest, shape), net.op("Add", shape, rest))
    cut = net.op("Slice", whole, net.ints(0, 0), shape, net.ints(2, 3))
    sizing = sizing_of(net.model(small, cut, nothing, infer=False))
    extents = sizing.extents
    assert dims(sizing, whole)[2:] == ["4floor((x0 + 3)/4)", "4floor((x1 + 3)/4)"]
    assert dims(sizing, small)[2:] == ["floor((x0 + 3)/4)", "floor((x1 + 3)/4)"]
    assert dims(sizing, cut)[2:] == ["x0", "x1"]
    assert sorted(item.tolist() for item in extents.elsewhere(rest) or ()) == [[0, 0], [1, 1], [2, 2], [3, 3]]
    assert extents.elsewhere(nothing) == []
    assert sizing.period(0) == 4


def test_a_pad_that_moves_the_map_keeps_to_its_period() -> None:
    """Half of what is missing comes before the map: at other sizes it begins elsewhere, though it runs."""
    net = Net(17)
    image = net.input("image", [1, 2, 16])
    missing = net.op(
        "Mod", net.op("Sub", net.ints(8), net.op("Mod", net.op("Shape", image, start=2), net.ints(8))), net.ints(8)
    )
    before = net.op("Div", missing, net.ints(2))
    amounts = net.op("Concat", net.ints(0, 0), before, net.ints(0, 0), net.op("Sub", missing, before), axis=0)
    sizing = sizing_of(net.model(net.op("Pad", image, amounts), infer=False))
    assert sizing.steps((8,)) == (8,)
    assert sizing.shapes((19,)) is not None
    assert list(sizing.shapes((19,)) or {})


def test_a_pool_leaves_axis_1_as_long_as_it_was() -> None:
    """(N, W, C, H), as text lines are pooled over their rows: the columns stay, and follow the image."""
    net = Net(17)
    image = net.input("image", [1, 2, 8, 16])
    columns = net.op("Transpose", net.op("MaxPool", image, kernel_shape=[2, 2], strides=[2, 2]), perm=[0, 3, 1, 2])
    pooled = net.op("AveragePool", columns, kernel_shape=[1, 4], strides=[1, 4])
    sizing = sizing_of(net.model(pooled, infer=False))
    assert dims(sizing, pooled) == ["1", "floor((x1)/2)", "2", "floor((x0)/8)"]


def test_copies_of_channels_leave_the_places_as_they_are() -> None:
    net = Net(17)
    tiled = net.op(
        "Tile", net.op("MaxPool", net.input("image", [1, 2, 8, 6]), kernel_shape=[3, 2]), net.ints(1, 3, 1, 1)
    )
    assert dims(sizing_of(net.model(tiled, infer=False)), tiled) == ["1", "6", "x0 + -2", "x1 + -1"]


def test_sampled_where_no_rule_tells() -> None:
    """The largest half of the rows: how many TopK gives is not read off its inputs' dims."""
    net = Net(17)
    image = net.input("image", [1, 2, 16, 12])
    count = net.op("Div", net.op("Shape", image, start=2, end=3), net.ints(2))
    top, _ = net.op("TopK", image, count, axis=2, outputs=2)
    pooled = net.op("MaxPool", top, kernel_shape=[3, 1])
    model = net.model(pooled, infer=False)
    sizing, made = sizing_of(model), session(everything(model))
    length = (sizing.extents.dims(pooled) or ())[2]
    assert isinstance(length, Length)
    assert length.holds(Sampled)
    assert (length.growth(0), length.period(0)) == (0.5, 2)
    for size in ((16, 12), (17, 13), (23, 9), (7, 5)):
        assert (sizing.shapes(size) or {}).get(pooled) == (ran(made, size) or {}).get(pooled), size


def test_images_of_other_sizes_have_axes_of_their_own() -> None:
    net = Net(17)
    one, other = net.input("image", [1, 2, 16, 16]), net.input("template", [1, 2, 5, 5])
    small, large = (net.conv(item, 2, 2) for item in (other, one))
    model = net.model(small, large, infer=False)
    sizing = sizing_of(model, Image("template", 1, (1, 2, 5, 5), (2, 3), False))
    assert dims(sizing, large)[2:] == ["floor((x0 + 1)/2) + -1", "floor((x1 + 1)/2) + -1"]
    assert dims(sizing, small)[2:] == ["floor((x2 + 1)/2) + -1", "floor((x3 + 1)/2) + -1"]
    assert (sizing.shapes((18, 17)) or {})[small] == (1, 2, 3, 2)


def test_nodes_that_were_taken_back_are_forgotten() -> None:
    """Of one name, but other nodes: a rule that failed takes its nodes back."""
    net = Net(17)
    image = net.input("image", [1, 2, 16, 16])
    net.op("MaxPool", image, out="map", kernel_shape=[2, 2], strides=[2, 2])
    first = net.model("map", infer=False)
    extents = sizing_of(first).extents
    assert str((extents.dims("map") or ())[2]) == "floor((x0)/2)"
    net.nodes.pop()
    net.op("MaxPool", image, out="map", kernel_shape=[3, 3], strides=[2, 2])
    second = net.model("map", infer=False)
    extents.specs = sizing_of(second).extents.specs
    extents.follow(list(second.graph.node))
    assert str((extents.dims("map") or ())[2]) == "floor((x0 + 1)/2) + -1"
    extents.follow([])
    assert extents.all_dims.keys() == {"image"}


@pytest.mark.parametrize("block", [2, 3])
def test_blocks_need_whole_blocks(block: int) -> None:
    """As a Reshape to (N, C, H / 2, 2, W / 2, 2), where one length is left open."""
    net = Net(17)
    image = net.input("image", [1, 2, 12, 12])
    parts = net.op("Div", net.op("Shape", image, start=2), net.ints(block))
    height = net.op("Slice", parts, net.ints(0), net.ints(1))
    cut = net.op("Reshape", image, net.op("Concat", net.ints(1, 2), height, net.ints(block, -1, block), axis=0))
    sizing = sizing_of(net.model(cut, infer=False))
    assert dims(sizing, cut) == ["1", "2", f"floor((x0)/{block})", str(block), f"floor((x1)/{block})", str(block)]
    assert [sizing.shapes((12, 12 + more)) is not None for more in range(4)] == [more % block == 0 for more in range(4)]


LAW = ("blocks.torchscript", "convnext.dynamo", "keras_same.tf2onnx", "mini_googlenet.torchscript", "pyramid.dynamo")
LAW += ("token_head.dynamo", "unet.dynamo", "upsampled_thrice.torchscript", "window_attention.dynamo", "conv3d.dynamo")


@pytest.mark.parametrize("name", LAW)
def test_axes_grow_as_their_stride_says(name: str) -> None:
    """A receptive field moves by its stride from element to element: in the long run there are 1 / stride a pixel."""
    found = analyse(ModelFile.open(fixture_file(f"{name}.onnx")), RewriteOptions())
    extents, seen = found.sizing().extents, 0
    for view in found.state.views.values():
        if not isinstance(view, Placed) or not view.is_map or view.tensor not in extents.all_dims:
            continue
        for place, axis in view.where.items():
            length, stride = extents.all_dims[view.tensor][axis], view.provenance.fields[place].stride
            assert isinstance(length, Length)
            assert (length.axes, length.growth(place)) == ({place}, 1 / Fraction(stride)), str(length)
            seen += 1
    assert seen >= 6
