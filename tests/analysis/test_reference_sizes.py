"""Sizes that were baked in for the sake of another map: skip connections, and outputs of the image's own size."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hazards import Net, bodied, complete, proven, refusal, session

from onnxfc.proof.options import CheckOptions
from onnxfc.reports.rewrite import text
from onnxfc.rewriter.api import Rewrite, rewrite
from onnxfc.rewriter.options import RewriteOptions

Pixels = tuple[int, int]
CHECK = CheckOptions(threads=1)
LINEAR = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}


def half(lengths: Pixels) -> Pixels:
    """After a Conv of stride 2 that pads."""
    return (lengths[0] + 1) // 2, (lengths[1] + 1) // 2


def resized(net: Net, tensor: str, channels: int, lengths: Pixels, **how: str) -> str:
    return str(net.op("Resize", tensor, "", "", net.ints(1, channels, *lengths), **(how or LINEAR)))


def down(net: Net, tensor: str, before: int, after: int) -> str:
    return str(net.op("Relu", net.conv(tensor, before, after, strides=[2, 2], pads=[1] * 4)))


def same(net: Net, tensor: str, before: int, after: int) -> str:
    return str(net.op("Relu", net.conv(tensor, before, after, strides=[1, 1], pads=[1] * 4)))


def skips(native: Pixels, joined: str = "Concat", late: bool = False) -> onnx.ModelProto:
    """Three levels, each resized to the size of the finer one and joined with it, as exported at ``native`` pixels."""
    net = Net()
    one = same(net, net.image(1, native), 2, 4)
    two = down(net, one, 4, 4)
    three = down(net, two, 4, 4)
    coarse = three
    for finer, lengths in ((two, half(native)), (one, native)):
        side = finer if late else same(net, finer, 4, 4)
        up = same(net, resized(net, coarse, 4, lengths), 4, 4)
        side = same(net, side, 4, 4) if late else side
        both = net.op(joined, up, side, **({"axis": 1} if joined == "Concat" else {}))
        coarse = same(net, both, 8 if joined == "Concat" else 4, 4)
    return net.model(coarse)


def segmenter(native: Pixels, last: bool = False) -> onnx.ModelProto:
    """Coarse scores brought to the image's own size; ``last``: of an image with its channels last."""
    net = Net()
    if last:
        image = net.op("Transpose", net.input("image", (1, *native, 2)), perm=[0, 3, 1, 2])
    else:
        image = net.image(1, native)
    return net.model(
        resized(net, net.conv(down(net, down(net, image, 2, 4), 4, 4), 4, 3, (1, 1), strides=[1, 1]), 3, native)
    )


def compare(done: Rewrite, at: Pixels, wanted: onnx.ModelProto) -> None:
    """What was exported at one size gives at another what an export at that size gives."""
    shape = [dim.dim_value for dim in wanted.graph.input[0].type.tensor_type.shape.dim]
    image = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    want = session(wanted).run(None, {"image": image})[0]
    got = session(complete(done)).run(None, {"image": image})[0]
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


@pytest.mark.sweep(12)
@pytest.mark.parametrize("joined", ["Concat", "Add"])
@pytest.mark.parametrize("late", [False, True], ids=["sister first", "sister last"])
@pytest.mark.parametrize("native", [(32, 32), (40, 32), (37, 45)])
def test_skip_connections_meet_at_every_size(native: Pixels, late: bool, joined: str) -> None:
    """By scales of 2 a map of 17 would meet one of 16 at 33 pixels."""
    done = rewrite(skips(native, joined, late), check_options=CHECK)
    assert done.claim.size_step == (1, 1)
    assert done.parity is not None
    grown = [n - own for size in done.parity.window.sizes for n, own in zip(size, native, strict=True)]
    assert any(more % 4 for more in grown)  # the proof ran off the grid
    for size in ((33, 33), (34, 39), (37, 35), (64, 41)):
        compare(done, size, skips(size, joined, late))


@pytest.mark.parametrize("native", [(32, 32), (40, 32)])
def test_whole_ratio_is_no_context(native: Pixels) -> None:
    """On the stride grid the ratio is the native one: what lies inside two overlapping images is the same in both."""
    done = rewrite(skips(native), check_options=CHECK)
    assert {item.partition(": ")[0] for item in done.claim.blame} == {"padding", "resampling to a map's size"}
    assert done.parity is not None
    assert done.parity.shift.status == "passed"
    assert all((n - own) % 4 == 0 for size in done.parity.shift.sizes for n, own in zip(size, native, strict=True))


def test_ratio_that_is_not_whole_is_context() -> None:
    """45 pixels from 23 elements, 47 from 24: every size has its own ratio."""
    done = rewrite(skips((37, 45)), check_options=CHECK)
    assert "context" in {item.partition(": ")[0] for item in done.claim.blame}


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("native", [(32, 32), (33, 45), (65, 65)])
def test_output_of_the_image_s_size_follows_the_image(native: Pixels, last: bool) -> None:
    done = rewrite(segmenter(native, last), check_options=CHECK)
    assert done.claim.size_step == (1, 1)
    for size in ((37, 35), (33, 33), (48, 64), (70, 39)):
        compare(done, size, segmenter(size, last))


def test_size_that_is_the_image_s_on_one_axis_only_is_no_size_of_the_image() -> None:
    """33 by chance, 44 as no map has it: refused rather than guessed."""
    net = Net()
    coarse = down(net, net.image(1, (33, 45)), 2, 4)
    assert refusal(net.model(resized(net, coarse, 4, (33, 44)))).code == "size-locked"


def test_resize_by_scales_stays_one() -> None:
    """Where no size was baked in, none is put in: the sizes at which the maps do not meet are not legal."""
    net = Net()
    one = same(net, net.image(1, (32, 32)), 2, 4)
    two = down(net, one, 4, 4)
    up = net.op("Resize", two, "", net.const([1, 1, 2, 2]), mode="nearest")
    done = rewrite(net.model(same(net, net.op("Add", one, up), 4, 4)), check_options=CHECK)
    assert done.claim.size_step == (2, 2)
    assert "Shape" not in {node.op_type for node in done.model.graph.node}
    assert "image sizes     32x32 px plus multiples of 2x2 px" in text(done)


def dynamic(native_only: bool) -> onnx.ModelProto:
    """A map resized to the size of the finer one, computed by Shape; a table of channels keeps the batch baked in."""
    net = Net()
    image = net.input("image", (1, 2, "h", "w"))
    one = same(net, image, 2, 4)
    two = down(net, one, 4, 4)
    dims = net.op("Slice", net.op("Shape", one), net.ints(2), net.ints(4), net.ints(0))
    up = net.op("Resize", two, "", "", net.op("Concat", net.ints(1, 4), dims, axis=0), **LINEAR)
    made = same(net, net.op("Concat", up, one, axis=1), 8, 4)
    shape = net.ints(0, 2, 2, 32, 32) if native_only else net.op("Concat", net.ints(1, 2, 2), dims, axis=0)
    return net.model(net.op("ReduceMean", net.op("Reshape", made, shape), axes=[2], keepdims=0))


def test_sizes_computed_from_another_map_s_move_on_the_grid() -> None:
    """At 41 pixels the ratio is 41/21, at 42 it is 2: moved off the grid a right network would be found wrong."""
    done = rewrite(dynamic(True), options=RewriteOptions(size=(32, 32)), check_options=CHECK)
    assert done.parity is not None
    assert done.parity.shift.status == "passed"
    assert done.claim.size_step == (1, 1)
    sizes = {pixels for pixels in (*done.parity.native.sizes, *done.parity.window.sizes) if pixels[0] % 2}
    assert sizes  # off the grid it was run too
    image = np.random.default_rng(1).standard_normal((1, 2, 37, 35)).astype(np.float32)
    want = session(dynamic(False)).run(None, {"image": image})[0]
    np.testing.assert_allclose(session(complete(done)).run(None, {"image": image})[0], want, atol=1e-5)


def valid(net: Net, tensor: str, before: int, after: int) -> str:
    return str(net.op("Relu", net.conv(tensor, before, after, strides=[1, 1])))


def cropped(native: Pixels, joined: str = "Concat", opset: int = 17) -> onnx.ModelProto:
    """The first U-Net: Convs without padding, the skip connection cropped to what comes up from below."""
    net = Net(opset)
    one = valid(net, net.image(1, native), 2, 4)
    deep = valid(net, net.op("MaxPool", one, kernel_shape=[2, 2], strides=[2, 2]), 4, 4)
    up = net.op("ConvTranspose", deep, net.random(4, 4, 2, 2), strides=[2, 2])
    skip = one
    for axis, length in enumerate(native, 2):  # an axis at a time, as one exporter has it
        wanted = 2 * ((length - 2) // 2 - 2)
        if opset < 10:
            skip = net.op("Slice", skip, axes=[axis], starts=[2], ends=[2 + wanted])
        else:
            skip = net.op("Slice", skip, net.ints(2), net.ints(2 + wanted), net.ints(axis))
    both = net.op(joined, skip, up, **({"axis": 1} if joined == "Concat" else {}))
    return net.model(valid(net, both, 8 if joined == "Concat" else 4, 3))


@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize("joined", ["Concat", "Add"])
@pytest.mark.parametrize("native", [(32, 32), (36, 30)])
def test_skip_connection_cropped_to_its_sister(native: Pixels, joined: str, opset: int) -> None:
    done = rewrite(cropped(native, joined, opset), check_options=CHECK)
    assert done.parity is not None
    assert done.parity.shift.status == "passed"
    assert done.claim.size_step == (2, 2)
    assert {item.partition(": ")[0] for item in done.claim.blame} >= {"crop to a map's size"}
    for size in ((34, 40), (64, 38)):
        compare(done, size, cropped(size, joined, opset))


def test_border_cut_off_to_the_size_of_a_sister() -> None:
    """An odd map that comes up a row too large: its end is the sister's, at every size."""

    def net_of(native: Pixels) -> onnx.ModelProto:
        net = Net()
        one = same(net, net.image(1, native), 2, 4)
        up = net.op("ConvTranspose", down(net, one, 4, 4), net.random(4, 4, 2, 2), strides=[2, 2])
        up = net.op("Slice", up, net.ints(0, 0), net.ints(*native), net.ints(2, 3))
        return net.model(same(net, net.op("Concat", up, one, axis=1), 8, 4))

    done = rewrite(net_of((37, 45)), check_options=CHECK)
    assert done.claim.size_step == (1, 1)
    for size in ((37, 45), (38, 46), (41, 64)):
        compare(done, size, net_of(size))


def test_piece_that_meets_no_sister_is_a_window_s() -> None:
    """Two halves of one map added are the head's, as neither has a size of its own."""

    def body(net: Net, tensor: str) -> str:
        parts = [net.op("Slice", tensor, net.ints(at), net.ints(at + 2), net.ints(2)) for at in (0, 2)]
        return str(net.fc(net.op("Flatten", net.op("Add", *parts)), 24, 5))

    done = proven(bodied(body))
    assert done.claim.stride == (2, 2)
    assert done.claim.verdict == "exact"


def padded(native: Pixels) -> onnx.ModelProto:
    """What comes up from below is padded to the size of its skip connection, which is odd or not."""
    net = Net()
    one = same(net, net.image(1, native), 2, 4)
    pool = net.op("MaxPool", one, kernel_shape=[2, 2], strides=[2, 2])
    up = net.op("ConvTranspose", same(net, pool, 4, 4), net.random(4, 4, 2, 2), strides=[2, 2])
    up = net.op("Pad", up, net.ints(0, 0, 0, 0, 0, 0, native[0] % 2, native[1] % 2))
    return net.model(same(net, net.op("Concat", one, up, axis=1), 8, 4))


@pytest.mark.parametrize("native", [(32, 32), (33, 45), (33, 32)])
def test_padded_to_the_size_of_its_sister(native: Pixels) -> None:
    done = rewrite(padded(native), check_options=CHECK)
    assert done.claim.size_step == (1, 1)
    assert done.parity is not None
    assert done.parity.shift.status == "passed"
    for size in ((33, 33), (38, 48), (37, 40)):
        compare(done, size, padded(size))


def test_pad_that_meets_no_map_of_its_size_stays() -> None:
    """The pad of a Conv, and a shortcut that gains channels."""

    def body(net: Net, tensor: str) -> str:
        wide = net.op("Pad", tensor, net.ints(0, 0, 1, 1, 0, 0, 1, 1))
        inner = net.conv(wide, 3, 4, strides=[1, 1])
        both = net.op("Add", inner, net.op("Pad", tensor, net.ints(0, 0, 0, 0, 0, 1, 0, 0)))
        return str(net.fc(net.op("Flatten", both), 80, 5))

    done = proven(bodied(body), exact=False)
    assert "Shape" not in {node.op_type for node in done.model.graph.node}
    assert {item.partition(": ")[0] for item in done.claim.blame} == {"padding"}


def test_the_image_s_size_is_meant_behind_convs_without_padding() -> None:
    """14 of 16 places are left, and are resized to 16 again."""

    def build(lengths: Pixels) -> onnx.ModelProto:
        net = Net()
        tensor = net.op("Relu", net.conv(net.image(1, lengths), 2, 4, strides=[1, 1]))
        return net.model(resized(net, net.conv(tensor, 4, 3, (1, 1), strides=[1, 1]), 3, lengths))

    done = rewrite(build((16, 16)), check_options=CHECK)
    for at in [(16, 16), (23, 37), (40, 20)]:
        compare(done, at, build(at))


def coarse_of(native: Pixels, lengths: Pixels) -> onnx.ModelProto:
    """Scores of a quarter of the image's resolution, brought to a written size that meets no map."""
    net = Net()
    return net.model(resized(net, down(net, down(net, net.image(1, native), 2, 4), 4, 4), 4, lengths))


def test_half_of_an_odd_image_follows_the_image() -> None:
    """No map has 32 of 65: it is half the image, rounded down; as the network made for the other size says."""
    done = rewrite(coarse_of((65, 65), (32, 32)), check_options=CHECK)
    for size in ((65, 65), (64, 98), (101, 67)):
        image = np.random.default_rng(size[0]).standard_normal((1, 2, *size)).astype(np.float32)
        models = (coarse_of(size, (size[0] // 2, size[1] // 2)), complete(done))
        want, got = (session(model).run(None, {"image": image})[0] for model in models)
        assert got.shape == want.shape
        assert np.abs(got - want).max() < 1e-5 * np.abs(want).max()
    assert "which is taken for 1/2 of the image" in " ".join(text(done).split())


@pytest.mark.parametrize(("axis", "name"), [(0, "height"), (1, "width")])
def test_the_axis_that_stays_gets_what_is_written(axis: int, name: str) -> None:
    done = rewrite(coarse_of((65, 65), (32, 32)), options=RewriteOptions(free=(name,)), check_options=CHECK)
    size = [65, 65]
    size[axis] = 98
    image = np.random.default_rng(3).standard_normal((1, 2, *size)).astype(np.float32)
    models = (coarse_of((size[0], size[1]), (size[0] // 2, size[1] // 2)), complete(done))
    want, got = (session(model).run(None, {"image": image})[0] for model in models)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_a_written_size_that_two_maps_may_mean_is_told() -> None:
    """Half of an even image, or the finer map, which a Conv has rounded up."""
    told = " ".join(text(rewrite(coarse_of((64, 64), (32, 32)), check_options=CHECK)).split())
    assert "is resized to 32x32, a plain number, which is taken for that of relu_" in told
    assert "at 65 px these differ" in told


def test_an_odd_written_size_is_refused_with_what_helps() -> None:
    found = refusal(coarse_of((65, 65), (27, 27)))
    assert (found.code, found.reason) == ("size-locked", "Resize resizes to the native size")
    assert found.advice.startswith("export it with open height and width, or give a scale_factor")
