"""What a graph computes from the image's size: amounts that fill it up to whole blocks, bounds, choices by parity.

Every network is written at its native size and once more at another: the freed one must give there what that one gives.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hazards import Net, complete, proven, refusal, session

from onnxfc.geometry import Geometry
from onnxfc.rewriter.api import rewrite

Pixels = tuple[int, int]
Build = Callable[[Pixels], onnx.ModelProto]
SIZES = [(16, 16), (20, 24), (17, 19), (18, 21), (33, 47)]


def begin(size: Pixels, opset: int = 17, **attributes: object) -> tuple[Net, str]:
    net = Net(opset)
    return net, str(net.op("Tanh", net.conv(net.image(1, size), 2, 4, strides=[1, 1], pads=[1] * 4, **attributes)))


def end_of(net: Net, tensor: str) -> onnx.ModelProto:
    return net.model(net.conv(tensor, 4, 3, strides=[1, 1]))


def length(net: Net, axis: int) -> str:
    """An axis of the image, (1,), by Shape."""
    return str(net.op("Gather", net.op("Shape", "image"), net.ints(axis), axis=0))


def missing(net: Net, axis: int, block: int) -> str:
    """How much makes an axis a multiple of ``block``."""
    rest = net.op("Mod", length(net, axis), net.ints(block))
    return str(net.op("Mod", net.op("Sub", net.ints(block), rest), net.ints(block)))


def filled(size: Pixels) -> onnx.ModelProto:
    """Padded behind to multiples of 4, through a stride of 4 and back, and cropped to the image's size again."""
    net, tensor = begin(size)
    amounts = net.op("Concat", net.ints(0, 0, 0, 0, 0, 0), missing(net, 2, 4), missing(net, 3, 4), axis=0)
    coarse = net.conv(net.op("Pad", tensor, amounts), 4, 4, (4, 4), strides=[4, 4])
    fine = net.op("ConvTranspose", coarse, net.random(4, 4, 4, 4), strides=[4, 4])
    for axis in (2, 3):
        fine = net.op("Slice", fine, net.ints(0), length(net, axis), net.ints(axis))
    return end_of(net, fine)


def chosen(size: Pixels) -> onnx.ModelProto:
    """Images of an even height are scaled by 2, others by 3."""
    net, tensor = begin(size)
    even = net.op("Equal", net.op("Mod", length(net, 2), net.ints(2)), net.ints(0))
    return end_of(net, net.op("Mul", tensor, net.op("Where", even, net.const([2.0]), net.const([3.0]))))


def inner(size: Pixels) -> onnx.ModelProto:
    """Without the first row and the last, which is found by Shape."""
    net, tensor = begin(size)
    last = net.op("Sub", length(net, 2), net.ints(1))
    return end_of(net, net.op("Slice", tensor, net.ints(1), last, net.ints(2)))


def first_half(size: Pixels) -> onnx.ModelProto:
    net, tensor = begin(size)
    return end_of(net, net.op("Slice", tensor, net.ints(0), net.op("Div", length(net, 2), net.ints(2)), net.ints(2)))


def cropped(size: Pixels) -> onnx.ModelProto:
    """Without its border, with the ends of the native size."""
    net, tensor = begin(size)
    return end_of(net, net.op("Slice", tensor, net.ints(1, 1), net.ints(size[0] - 1, size[1] - 1), net.ints(2, 3)))


def filled_behind(size: Pixels) -> onnx.ModelProto:
    """Filled up to a multiple of 4 and a row more; what was filled in is cut off again, counted from behind."""
    net, tensor = begin(size)
    more = net.op("Add", missing(net, 2, 4), net.ints(1))
    tensor = net.op("Pad", tensor, net.op("Concat", net.ints(0, 0, 0, 0, 0, 0), more, net.ints(0), axis=0))
    return end_of(net, net.op("Slice", tensor, net.ints(1), net.op("Neg", more), net.ints(2)))


def agree(build: Build, native: Pixels, at: Pixels) -> None:
    done = rewrite(build(native), prove=False)
    image = np.random.default_rng(1).standard_normal((1, 2, *at)).astype(np.float32)
    want = session(build(at)).run(None, {"image": image})[0]
    got = session(complete(done)).run(None, {"image": image})[0]
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("at", SIZES)
@pytest.mark.parametrize("build", [filled, filled_behind, chosen, inner, cropped])
def test_follows_the_image_at_every_size(build: Build, at: Pixels) -> None:
    """Also where it is the same at all sizes of the stride grid, as the rest of a division is."""
    agree(build, (16, 16), at)


@pytest.mark.parametrize("build", [filled, filled_behind, chosen, inner, cropped])
def test_is_proven(build: Build) -> None:
    proven(build((16, 16)), exact=False, crops=False)


def test_what_is_filled_up_is_padding() -> None:
    """Off the grid a cell sees zeros where there are no pixels, though natively nothing is padded."""
    net = Net()
    image = net.image(1, (16, 16))
    amounts = net.op("Concat", net.ints(0, 0, 0, 0, 0, 0), missing(net, 2, 4), missing(net, 3, 4), axis=0)
    head = net.fc(net.op("Flatten", net.conv(net.op("Pad", image, amounts), 2, 3)), 147, 5)
    done = proven(net.model(head), exact=False, crops=False)
    assert done.claim.size_step == (4, 4)
    assert any("padding" in item for item in done.claim.blame)


def both_sides(size: Pixels, crop: bool, head: bool) -> onnx.ModelProto:
    """Filled up on both sides; ``crop``: and what was filled in before is cut off again."""
    net, tensor = begin(size)
    amounts = [net.op("Div", missing(net, axis, 4), net.ints(2)) for axis in (2, 3)]
    after = [net.op("Sub", missing(net, axis, 4), before) for axis, before in zip((2, 3), amounts, strict=True)]
    pads = net.op("Concat", net.ints(0, 0), *amounts, net.ints(0, 0), *after, axis=0)
    tensor = net.op("Pad", tensor, pads)
    if crop:
        tensor = net.op("Slice", tensor, amounts[0], net.ints(2**31 - 1), net.ints(2))
    return net.model(net.fc(net.op("Flatten", tensor), 4 * 16 * 16, 5)) if head else end_of(net, tensor)


@pytest.mark.parametrize("at", SIZES)
@pytest.mark.parametrize("crop", [False, True])
def test_amounts_before_the_map_stay_computed_where_no_head_follows(crop: bool, at: Pixels) -> None:
    agree(lambda size: both_sides(size, crop, False), (16, 16), at)


def test_amounts_before_the_map_are_frozen_for_a_head_as_auto_pad_is() -> None:
    """They would move the grid of its windows from size to size."""
    done = proven(both_sides((16, 16), False, True), exact=False, crops=False)
    image = np.random.default_rng(1).standard_normal((1, 2, 18, 18)).astype(np.float32)
    assert session(complete(done)).run(None, {"image": image})[0].shape == (1, 5, 3, 3)


def test_what_reckons_with_frozen_amounts_is_frozen_too() -> None:
    """Of a crop nothing is filled up, and nothing cut off."""
    proven(both_sides((16, 16), True, True), exact=False, crops=False)


def test_half_of_the_map_is_a_head_s_or_refused() -> None:
    """It grows half as fast as the image: no grid of cells. In a head it is the half of a window."""
    assert refusal(first_half((16, 16))).code == "cut-out"
    net, tensor = begin((16, 16))
    half = net.op("Slice", tensor, net.ints(0), net.op("Div", length(net, 2), net.ints(2)), net.ints(2))
    proven(net.model(net.fc(net.op("Flatten", half), 4 * 8 * 16, 5)), exact=False, crops=False)


def test_a_piece_that_begins_elsewhere_from_size_to_size_has_no_grid() -> None:
    """All rows but one: the last, or the first where the height makes an odd number of blocks of 64. Which pixels its
    first row reads, no stride and start say."""
    net, tensor = begin((16, 16))
    first = net.op("Mod", net.op("Div", length(net, 2), net.ints(64)), net.ints(2))
    last = net.op("Sub", net.op("Add", first, length(net, 2)), net.ints(1))
    piece = net.op("Slice", tensor, first, last, net.ints(2))
    found = refusal(end_of(net, piece))
    assert (found.code, found.node) == ("cut-out", f"node_{piece}")


@pytest.mark.parametrize("end", ["square", "fixed"])
def test_a_crop_that_is_idle_natively_is_no_crop_elsewhere(end: str) -> None:
    """To a square, or to 32 pixels, of an image that is 16x16: what is cut off at other sizes must not be forgotten."""
    net, tensor = begin((16, 16))
    ends = net.op("Min", length(net, 2), length(net, 3)) if end == "square" else net.ints(32)
    piece = net.op("Slice", tensor, net.ints(0), ends, net.ints(3))
    found = refusal(net.model(net.conv(piece, 4, 3, strides=[1, 1])))
    assert (found.code, found.node) == ("cut-out", f"node_{piece}")


@pytest.mark.parametrize("native", [16, 30])
@pytest.mark.parametrize("divisor", [4, 8, 40])
def test_a_choice_that_no_tried_size_makes_stays_a_choice(native: int, divisor: int) -> None:
    """Whether the height is a multiple of 40, say: it is computed, whatever the sizes say that were looked at."""

    def build(size: Pixels) -> onnx.ModelProto:
        net, tensor = begin(size)
        whole = net.op("Equal", net.op("Mod", length(net, 2), net.ints(divisor)), net.ints(0))
        return end_of(net, net.op("Mul", tensor, net.op("Where", whole, net.const([2.0]), net.const([3.0]))))

    for height in (native, divisor, 2 * divisor, 2 * divisor + 1):
        agree(build, (native, native), (height, native))


def test_a_piece_of_one_size_is_refused_where_it_is_cut() -> None:
    """The last 8 rows do not follow the image."""
    net, tensor = begin((16, 16))
    piece = net.op("Slice", tensor, net.op("Sub", length(net, 2), net.ints(8)), net.ints(2**31 - 1), net.ints(2))
    found = refusal(end_of(net, piece))
    assert (found.code, found.node) == ("cut-out", f"node_{piece}")


@pytest.mark.parametrize(("scale", "opset"), [(1.5, 9), (1.5, 17), (0.5, 17), (0.75, 17), (1 / 3, 17)])
def test_scales_follow_the_image_where_the_native_size_is_rounded(scale: float, opset: int) -> None:
    def build(size: Pixels) -> onnx.ModelProto:
        net, tensor = begin(size, opset)
        if opset < 10:
            return end_of(net, net.op("Upsample", tensor, net.const([1, 1, scale, scale]), mode="nearest"))
        return end_of(net, net.op("Resize", tensor, "", net.const([1, 1, scale, scale]), mode="linear"))

    for at in [(17, 17), *SIZES[1:]]:
        agree(build, (17, 17), at)


@pytest.mark.parametrize("how", ["SAME_UPPER", "SAME_LOWER", "VALID", "output_shape"])
def test_transposed_convs_grow_whatever_they_cut_off(how: str) -> None:
    """https://onnx.ai/onnx/operators/onnx__ConvTranspose.html: neither depends on the size, only how it is spelled."""

    def build(size: Pixels) -> onnx.ModelProto:
        net, tensor = begin(size)
        told = {"output_shape": [2 * size[0], 2 * size[1]]} if how == "output_shape" else {"auto_pad": how}
        return end_of(net, net.op("ConvTranspose", tensor, net.random(4, 4, 3, 3), strides=[2, 2], **told))

    for at in SIZES:
        agree(build, (16, 16), at)


def test_the_image_s_own_size_is_meant_by_a_crop_to_it() -> None:
    """An image of 60x52 padded to 64x56, and the result cropped to 60x52 in two steps, all of it baked in."""

    def build(size: Pixels) -> onnx.ModelProto:
        net = Net()
        image = net.op("Pad", net.image(1, size), net.ints(0, 0, 0, 0, 0, 0, 4, 4))
        coarse = net.conv(image, 2, 4, (4, 4), strides=[2, 2], pads=[1] * 4)
        tensor = net.op("ConvTranspose", coarse, net.random(4, 3, 2, 2), strides=[2, 2])
        tensor = net.op("Slice", tensor, net.ints(0), net.ints(size[0]), net.ints(2))
        return net.model(net.op("Slice", tensor, net.ints(0), net.ints(size[1]), net.ints(3)))

    for at in [(60, 52), (61, 55), (80, 64)]:
        agree(build, (60, 52), at)


def test_an_operator_that_the_opset_has_not_is_named_as_the_reason() -> None:
    """To lay a constant beside a map of any size takes Expand, which came with opset 8."""
    net = Net(opset=7)
    tensor = net.conv(net.image(1, (16, 16)), 2, 4, strides=[1, 1], pads=[1] * 4)
    tensor = net.op("Concat", tensor, net.const(np.full((1, 1, 16, 16), 0.3)), axis=1)
    assert refusal(net.model(net.conv(tensor, 5, 3, strides=[1, 1]))).code == "old-opset"


@pytest.mark.parametrize("opset", [18, 21])
def test_group_normalization_keeps_its_shape(opset: int) -> None:
    """https://onnx.ai/onnx/operators/onnx__GroupNormalization.html: onnx infers no shape for it."""

    def build(size: Pixels) -> onnx.ModelProto:
        net = Net(opset=opset)
        tensor = net.op("Tanh", net.conv(net.image(1, size), 2, 4, strides=[1, 1], pads=[1] * 4))
        scale = 4 if opset > 20 else 2
        tensor = net.op("GroupNormalization", tensor, net.random(scale), net.random(scale), num_groups=2)
        return end_of(net, tensor)

    for at in SIZES:
        agree(build, (16, 16), at)


def test_half_of_the_size_is_its_floor_at_every_size() -> None:
    """Resized to 8x8 of 16x16: at 17 pixels it is 8 of 17, not a scale of 0.5.
    https://onnx.ai/onnx/operators/onnx__Resize.html"""

    def build(size: Pixels) -> onnx.ModelProto:
        net, tensor = begin(size)
        sizes = net.ints(1, 4, size[0] // 2, size[1] // 2)
        return end_of(net, net.op("Resize", tensor, "", "", sizes, mode="linear"))

    for at in SIZES:
        agree(build, (16, 16), at)


def test_crops_that_meet_are_of_one_size() -> None:
    """The difference of neighbouring rows: neither crop is symmetric, but both have one size."""

    def build(size: Pixels) -> onnx.ModelProto:
        net, tensor = begin(size)
        upper = net.op("Slice", tensor, net.ints(0), net.ints(size[0] - 1), net.ints(2))
        lower = net.op("Slice", tensor, net.ints(1), net.ints(2**31 - 1), net.ints(2))
        return end_of(net, net.op("Sub", upper, lower))

    for at in SIZES:
        agree(build, (16, 16), at)


def test_a_transposed_conv_may_cut_off_more_than_it_reaches() -> None:
    """What it cuts off counts as read: a padding behind it begins there, inside the image."""
    net = Net()
    tensor = net.op("Tanh", net.conv(net.image(1, (16, 16)), 2, 4, strides=[1, 1]))
    tensor = net.op("ConvTranspose", tensor, net.random(4, 4, 1, 1), strides=[1, 1], pads=[1] * 4)
    proven(net.model(net.conv(tensor, 4, 3, strides=[1, 1], pads=[1] * 4)), exact=False, crops=False)


def test_sizes_at_which_nothing_is_left_are_not_tried() -> None:
    """onnx infers extents below zero for them, and then ends the process in a Slice."""
    net = Net()
    tensor = net.conv(net.image(1, (16, 16)), 2, 4, (5, 5), strides=[1, 1])
    tensor = net.op("Slice", tensor, net.ints(1, 1), net.ints(-1, -1), net.ints(2, 3))
    done = proven(net.model(net.op("Pad", tensor, net.ints(0, 0, 4, 4, 0, 0, 4, 4))), exact=False, crops=False)
    assert done.claim.smallest_size == (7, 7)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("how", ["Slice", "Expand", "Tile"])
def test_a_batch_that_is_baked_in_is_freed(how: str, batch: int) -> None:
    def build(count: int) -> onnx.ModelProto:
        net = Net()
        tensor = net.op("Tanh", net.conv(net.image(count, (16, 16)), 2, 4, strides=[1, 1], pads=[1] * 4))
        if how == "Slice":
            return end_of(net, net.op("Slice", tensor, net.ints(0), net.ints(count), net.ints(0)))
        shape = (count, 4, 16, 16) if how == "Expand" else (count, 1, 16, 16)
        return end_of(net, net.op("Add", tensor, net.op(how, net.random(1, 4, 1, 1), net.ints(*shape))))

    done = proven(build(batch), exact=False, crops=False, dynamic_batch=True)
    images = np.random.default_rng(1).standard_normal((3, 2, 16, 16)).astype(np.float32)
    want, got = (session(model).run(None, {"image": images})[0] for model in (build(3), complete(done)))
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def test_a_slice_may_have_narrow_bounds() -> None:
    """As tf2onnx writes every strided slice: int32, to the end of the native size."""

    def build(size: Pixels) -> onnx.ModelProto:
        net, tensor = begin(size)
        bounds = [net.const(list(item), dtype=np.int32) for item in ((0, 1), size, (2, 3), (2, 2))]
        return end_of(net, net.op("Slice", tensor, *bounds))

    for at in SIZES:
        agree(build, (16, 16), at)


def test_pools_of_several_stages_meet_before_the_flatten() -> None:
    net = Net()
    fine = net.op("Tanh", net.conv(net.image(1, (15, 15)), 2, 4))
    coarse = net.op("Tanh", net.conv(fine, 4, 6))
    both = net.op("Concat", net.op("GlobalMaxPool", fine), net.op("GlobalAveragePool", coarse), axis=1)
    done = proven(net.model(net.fc(net.op("Flatten", both), 10, 5)))
    assert done.claim.stride == (4, 4)


def test_a_pool_keeps_its_partial_windows_where_no_head_follows() -> None:
    """With ceil_mode: at 33 pixels the last window is whole, at 34 it is not. A head's windows would not be aligned."""

    def build(size: Pixels, head: bool = False) -> onnx.ModelProto:
        net, tensor = begin(size)
        tensor = net.op("MaxPool", tensor, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
        return net.model(net.fc(net.op("Flatten", tensor), 4 * 8 * 8, 5)) if head else end_of(net, tensor)

    for at in [(17, 17), (18, 20), (24, 33)]:
        agree(build, (17, 17), at)
    done = proven(build((17, 17), head=True), exact=False, crops=False)
    pool = next(node for node in done.model.graph.node if node.op_type == "MaxPool")
    assert not any(item.name == "ceil_mode" and item.i for item in pool.attribute)


def test_a_pool_that_keeps_any_size_is_no_global_pool() -> None:
    """An Inception block on a map that is natively one place."""

    def build(size: Pixels) -> onnx.ModelProto:
        net = Net()
        tensor = net.op("Tanh", net.conv(net.image(1, size), 2, 4, (4, 4), strides=[4, 4]))
        pooled = net.op("MaxPool", tensor, kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4)
        both = net.op("Concat", pooled, net.conv(tensor, 4, 4, strides=[1, 1], pads=[1] * 4), axis=1)
        return net.model(net.conv(both, 8, 3, (1, 1), strides=[1, 1]))

    for at in [(4, 4), (12, 16)]:
        agree(build, (4, 4), at)


def test_features_of_several_strides_are_proven() -> None:
    """The coarsest grows by 16 pixels only, which the proof's sizes must do."""
    net, tensor = begin((64, 64))
    stages = []
    for _ in range(4):
        tensor = net.op("Tanh", net.conv(tensor, 4, 4, (2, 2), strides=[2, 2]))
        stages.append(tensor)
    proven(net.model(*stages), exact=False, crops=False)


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_a_field_holds_what_a_pad_mirrors(mode: str) -> None:
    net = Net()
    image = net.op("Pad", net.image(1, (12, 12)), net.ints(0, 0, 2, 2, 0, 0, 2, 2), mode=mode)
    done = proven(net.model(net.conv(image, 2, 3, strides=[1, 1])), exact=False, crops=False)
    output = done.claim.outputs[0]
    run = session(complete(done))
    plain = np.random.default_rng(1).standard_normal((1, 2, 12, 12)).astype(np.float32)
    before = run.run(None, {"image": plain})[0]
    for row in range(before.shape[2]):
        changed = plain + 1
        first = output.start[0] + row
        changed[:, :, max(0, first) : max(0, first + output.size[0])] = plain[
            :, :, max(0, first) : max(0, first + output.size[0])
        ]
        np.testing.assert_array_equal(run.run(None, {"image": changed})[0][:, :, row], before[:, :, row])


@pytest.mark.parametrize("native", [(7, 13), (13, 7), (13, 13)])
@pytest.mark.parametrize("order", [(0, 1, 3, 5, 2, 4), (0, 3, 5, 1, 2, 4)])
def test_blocks_of_a_map_that_is_natively_one_block(native: Pixels, order: tuple[int, ...]) -> None:
    """Pixel unshuffle by 3 of a map that is 3 high: (1, 3) of it are one block and its places, not 3 rows."""

    def build(size: Pixels) -> onnx.ModelProto:
        net = Net()
        tensor = net.op("Tanh", net.conv(net.image(1, size), 2, 4))
        rows, columns = (((length - 3) // 2 + 1) // 3 for length in size)
        tensor = net.op("Reshape", tensor, net.ints(1, 4, rows, 3, columns, 3))
        tensor = net.op("Transpose", tensor, perm=list(order))
        return net.model(net.op("Tanh", net.op("Reshape", tensor, net.ints(1, 36, rows, columns))))

    for more in [(0, 0), (12, 12), (24, 0)]:
        agree(build, native, (native[0] + more[0], native[1] + more[1]))


def test_a_map_of_one_row_is_not_taken_for_features() -> None:
    """A 1x1 Conv by Reshape and MatMul on a map of 1x3 places: it would come out as windows of windows."""
    net = Net()
    tensor = net.op("Tanh", net.conv(net.image(1, (3, 7)), 2, 4))
    rows = net.op("Transpose", net.op("Reshape", tensor, net.ints(1, 4, 3)), perm=[0, 2, 1])
    mixed = net.op("Transpose", net.op("MatMul", rows, net.random(4, 3)), perm=[0, 2, 1])
    assert refusal(net.model(net.op("Reshape", mixed, net.ints(1, 3, 1, 3)))).code == "size-locked"


def test_a_pooled_vector_that_is_flattened_and_spread_again_is_context() -> None:
    """As TorchScript writes ``g.flatten(1)[:, :, None, None].expand_as(y)``: the map beside it stays a map."""

    def build(size: Pixels) -> onnx.ModelProto:
        net, tensor = begin(size)
        vector = net.op("Flatten", net.axes("ReduceMean", tensor, [2, 3], keepdims=1))
        vector = net.axes("Unsqueeze", net.axes("Unsqueeze", vector, [2]), [3])
        spread = net.op("Expand", vector, net.op("Shape", tensor))
        return net.model(net.op("Concat", tensor, spread, axis=1))

    for at in SIZES:
        agree(build, (16, 16), at)


@pytest.mark.parametrize("block", [2, 3, 4])
def test_what_is_filled_up_behind_whole_blocks(block: int) -> None:
    """Behind SpaceToDepth no odd size can be looked at: what is computed is no constant all the same."""

    def build(size: Pixels) -> onnx.ModelProto:
        net = Net()
        tensor = net.op("SpaceToDepth", net.image(1, size), blocksize=2)
        shape = net.op("Shape", tensor)
        lengths = [net.op("Gather", shape, net.ints(axis), axis=0) for axis in (2, 3)]
        rest = [net.op("Mod", net.op("Neg", item), net.ints(block)) for item in lengths]
        tensor = net.op("Pad", tensor, net.op("Concat", net.ints(0, 0, 0, 0, 0, 0), *rest, axis=0))
        return net.model(net.conv(tensor, 8, 3, strides=[1, 1]))

    for at in [(16, 16), (18, 50), (20, 22)]:
        agree(build, (16, 16), at)


@pytest.mark.parametrize("native", [(16, 24), (16, 16)])
def test_dims_of_one_name_are_equal_however_high_the_image_is(native: Pixels) -> None:
    """To as many columns as rows, at least: onnxruntime would give the result the image's own memory."""
    net, tensor = begin(native)
    height, width = length(net, 2), length(net, 3)
    sizes = net.op("Concat", net.ints(1, 4), height, net.op("Max", height, width), axis=0)
    done = rewrite(net.model(net.op("Resize", tensor, "", "", sizes, mode="nearest")), prove=False)
    run = session(complete(done))
    for at in [(16, 40), (40, 16), (90, 20)]:
        assert run.run(None, {"image": np.zeros((1, 2, *at), np.float32)})[0].shape == (1, 4, at[0], max(at))


@pytest.mark.parametrize("native", [12, 13, 16, 17])
def test_counts_of_elements_are_those_of_the_file(native: int) -> None:
    """A map that is rounded to even sizes before a stride of 3 does not grow by one element each 3 pixels."""
    net, tensor = begin((native, native))
    tensor = net.op("MaxPool", tensor, kernel_shape=[2, 2], strides=[2, 2])
    tensor = net.op("Resize", tensor, "", net.const([1, 1, 2, 2]), mode="nearest")
    done = rewrite(net.model(net.conv(tensor, 4, 3, strides=[3, 3])), prove=False)
    run, geometry = session(complete(done)), Geometry.from_model(complete(done))
    for count in range(12):
        size = native + count * done.claim.size_step[0]
        found = run.run(None, {"image": np.zeros((1, 2, size, size), np.float32)})[0]
        assert geometry.cells(size, size) == found.shape[2:]


def test_a_sum_divided_by_the_size_of_a_piece_is_refused() -> None:
    """``x.sum((2, 3)) / x[0, 0].numel()``: that of a window, or of the whole map?"""
    net, tensor = begin((16, 16))
    piece = net.op(
        "Gather", net.op("Gather", tensor, net.const(0, dtype=np.int64), axis=0), net.const(0, dtype=np.int64)
    )
    count = net.op("Cast", net.op("Size", piece), to=1)
    total = net.axes("ReduceSum", tensor, [2, 3], keepdims=1)
    gate = net.op("Sigmoid", net.op("Div", total, count))
    assert refusal(end_of(net, net.op("Mul", tensor, gate))).code == "size-locked"


@pytest.mark.parametrize("free", [False, True])
def test_a_pool_of_a_graph_of_free_sizes_is_as_large_as_it_says(free: bool) -> None:
    """Of 2x2 places, and its result spread again: natively the whole map, in a graph that takes any size no more."""
    net = Net()
    image = net.input("image", [1, 2, *(("h", "w") if free else (6, 6))])
    tensor = net.op("Tanh", net.conv(image, 2, 4))
    pooled = net.op("MaxPool", tensor, kernel_shape=[2, 2], strides=[2, 2])
    model = net.model(net.op("Mul", tensor, net.op("Sigmoid", pooled)))
    if free:
        assert refusal(model, size=(6, 6)).code == "sizes-differ"
    else:
        assert [node.op_type for node in proven(model, exact=False, crops=False).model.graph.node].count("MaxPool") == 0
