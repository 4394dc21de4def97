"""What is brought to a size that the graph computes from the image's, and kernels that are made of the image."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHECK, Net, complete, proven, refusal, session

from onnxfc.reports.rewrite import text
from onnxfc.rewriter.api import Rewrite, rewrite
from onnxfc.rewriter.options import RewriteOptions

REFERENCES = np.load(fixture_file("sized.npz"))
EXPORTERS = ("torchscript", "dynamo")
SKIPS, BETWEEN = ("padded_skips_even", "padded_skips_odd"), ("between_even", "between_odd")
NATIVE = {"sized": (32, 32)} | dict.fromkeys(("kernel_of_image", "folded", "quartered", *BETWEEN, *SKIPS))

NO_COL2IM = ("folded", "torchscript")
"""What that exporter does not write."""


def rewritten(name: str, exporter: str, **options: Any) -> Rewrite:
    options["size"] = NATIVE[name]
    return rewrite(fixture_file(f"{name}.{exporter}.onnx"), options=RewriteOptions(**options), check_options=CHECK)


def image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).standard_normal((1, 3, height, width)).astype(np.float32)


@pytest.mark.sweep(16)
@pytest.mark.parametrize(
    ("name", "exporter"), [(name, each) for name in NATIVE for each in EXPORTERS if (name, each) != NO_COL2IM]
)
def test_kept_global_they_are_pytorchs_at_other_sizes(name: str, exporter: str) -> None:
    """Letterboxes, squares, centres of the whole image, as the network computes them there; blocks laid out."""
    ours = session(complete(rewritten(name, exporter, global_pool="keep")))
    keys = [key.split() for key in REFERENCES if key.startswith(f"{name} ")]
    assert len(keys) == 3 * len(ours.get_outputs())
    for _, output, size in keys:
        [found] = ours.run([output], {"image": image(*map(int, size.split("x")))})
        wanted = REFERENCES[f"{name} {output} {size}"]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_cells_are_the_original_on_crops(exporter: str) -> None:
    """Of a crop nothing is filled up, a square is as it was, and as much is cut off as natively."""
    done, whole = rewritten("sized", exporter), image(40, 36)
    maps = dict(zip(done.claim.outputs, session(complete(done)).run(None, {"image": whole}), strict=True))
    original = session(onnx.load(fixture_file(f"sized.{exporter}.onnx")))
    for y, x in np.ndindex(5, 3):
        crop = np.ascontiguousarray(whole[..., 2 * y : 2 * y + 32, 2 * x : 2 * x + 32])
        for (output, cells), want in zip(maps.items(), original.run(None, {"image": crop}), strict=True):
            assert (output.stride, cells.shape) == ((2, 2), (1, 4, 5, 3))
            np.testing.assert_allclose(cells[..., y, x], want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_kernel_of_the_image_is_context(exporter: str) -> None:
    done = rewritten("kernel_of_image", exporter)
    kinds = {node.name: node.op_type for node in onnx.load(fixture_file(f"kernel_of_image.{exporter}.onnx")).graph.node}
    named = [item.partition(": ")[2] for item in done.claim.blame if item.startswith("context")]
    assert sorted(kinds[name] for name in named) == ["Conv", "Conv", "ReduceMean", "ReduceMean"]


@pytest.mark.parametrize("batch", [1, 3])
def test_kernels_of_several_images_are_refused(batch: int) -> None:
    """As many kernels as images: of three, which no option makes one."""
    net = Net(17)
    trunk = net.trunk(batch)
    made = net.op("Conv", trunk, net.op("GlobalAveragePool", trunk))
    found = refusal(net.model(made), **{"dynamic_batch": True} if batch == 1 else {})
    assert (found.code, found.node) == ("batch-baked" if batch == 1 else "dynamic-weight", f"node_{made}")


@pytest.mark.parametrize("kind", ["Pad", "Resize"])
def test_a_map_that_is_made_square_is_refused(kind: str) -> None:
    """There are places on no grid: as many columns as there are rows or columns."""
    net = Net(17)
    trunk = net.conv(net.image(1, (16, 16)), 2, 3, strides=[1, 1], pads=[1] * 4)
    if kind == "Pad":
        made = squared(net, trunk)
    else:
        longer = net.op("ReduceMax", net.op("Slice", net.op("Shape", trunk), net.ints(2), net.ints(4)))
        made = net.op("Resize", trunk, "", "", net.op("Concat", net.ints(1, 3), longer, longer, axis=0))
    found = refusal(net.model(net.conv(made, 3, 4)))
    assert (found.code, found.node) == ("unknown-pads" if kind == "Pad" else "size-locked", f"node_{made}")


def test_blocks_that_are_no_places_in_a_row_are_refused() -> None:
    """A block for each row of the map: its channels are columns."""
    net = Net(18)
    trunk = net.conv(net.image(1, (10, 10)), 2, 4, strides=[1, 1])
    rows = net.op("Reshape", net.op("Transpose", trunk, perm=[0, 1, 3, 2]), net.ints(1, 32, 8))
    made = net.op("Col2Im", rows, net.ints(8, 1), net.ints(1, 1))
    found = refusal(net.model(made))
    assert (found.code, found.node) == ("cut-out", f"node_{made}")


@pytest.mark.parametrize("options", [{}, {"global_pool": "keep"}], ids=["window", "keep"])
def test_a_spatial_transformer_is_refused_for_what_it_does(options: dict[str, Any]) -> None:
    """The warp that an FC layer over the native places asks for, of a base grid: another for each crop."""
    net = Net(20)
    image = net.image(1, (12, 12))
    theta = net.fc(net.op("Flatten", net.conv(image, 2, 4)), 4 * 5 * 5, 6)
    ends = np.linspace(-1, 1, 12)
    base = np.stack([*np.meshgrid(ends, ends), np.ones((12, 12))], -1).reshape(1, 144, 3).astype(np.float32)
    turned = net.op("Transpose", net.op("Reshape", theta, net.ints(1, 2, 3)), perm=[0, 2, 1])
    warp = net.op("Reshape", net.op("MatMul", net.const(base), turned), net.ints(1, 12, 12, 2))
    made = net.op("GridSample", image, warp)
    found = refusal(
        net.model(net.fc(net.op("Flatten", net.op("GlobalMaxPool", net.conv(made, 2, 4))), 4, 3)), **options
    )
    assert (found.code, found.node) == ("head-rejoins-trunk", f"node_{made}")
    assert "a spatial transformer" in found.reason


@pytest.mark.parametrize("size", [(10, 10), (9, 12), (5, 15), (17, 16)])
def test_a_centre_of_one_size_is_that_of_each_crop(size: tuple[int, int]) -> None:
    """CenterCropPad of a map of 14 x 14: cut, padded, by even and odd numbers."""
    net = Net(18)
    trunk = net.op("Tanh", net.conv(net.image(1, (16, 16)), 2, 3, strides=[1, 1]))
    centre = net.op("CenterCropPad", trunk, net.ints(*size), axes=[2, 3])
    model = net.model(net.fc(net.op("Flatten", net.op("GlobalMaxPool", net.conv(centre, 3, 4))), 4, 5))
    cut = max(size) <= 14
    done = proven(model, exact=cut, crops=cut)
    whole = np.random.default_rng(5).standard_normal((1, 2, 19, 22)).astype(np.float32)
    [cells], [native] = (
        session(complete(done)).run(None, {"image": whole}),
        session(model).run(None, {"image": whole[..., :16, :16]}),
    )
    np.testing.assert_allclose(cells[..., 0, 0], native, rtol=0, atol=2e-6) if cut else None
    for options in ({"global_pool": "keep"}, {"global_pool": "drop"}):
        assert refusal(model, **options).code == (
            "size-locked" if options["global_pool"] == "keep" else "drop-not-affine"
        )


def squared(net: Net, tensor: str) -> str:
    """Padded to a square."""
    height, width = (net.op("Gather", net.op("Shape", tensor), net.ints(axis), axis=0) for axis in (2, 3))
    longer = net.op("Max", height, width)
    rest = [net.op("Sub", longer, length) for length in (height, width)]
    return str(net.op("Pad", tensor, net.op("Concat", net.ints(0, 0, 0, 0, 0, 0), *rest, axis=0)))


@pytest.mark.parametrize("beside", ["fc", "map"])
@pytest.mark.parametrize("pool", ["window", "keep"])
def test_what_crops_are_and_the_whole_image_are_not_mixed(beside: str, pool: str) -> None:
    """Beside cells the whole image would not be squared as the network does it; a map of it has places on no grid."""
    net = Net(17)
    trunk = net.op("Relu", net.conv(squared(net, net.image(1, (16, 16))), 2, 4, strides=[1, 1]))
    pooled = net.fc(net.op("Flatten", net.op("GlobalAveragePool", trunk)), 4, 5)
    other = net.fc(net.op("Flatten", trunk), 4 * 14 * 14, 3) if beside == "fc" else net.conv(trunk, 4, 3)
    model = net.model(other, pooled)
    if (beside, pool) == ("fc", "window"):
        assert proven(model).claim.verdict == "exact"
        return
    found = refusal(model, global_pool=pool)
    assert found.code == "size-locked"
    if pool == "keep":
        assert (pooled if beside == "fc" else other) in found.reason
    if found.advice.startswith("leave that out"):
        assert proven(net.model(other if beside == "fc" else pooled)).claim.outputs[0].form == "map"


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_written_amounts_that_fill_an_image_up_are_told(exporter: str) -> None:
    """They are a border at every size, and a square natively: the file does not say which. Of a crop there is no doubt,
    and the network that computes them is not told so (``sized``)."""
    path = fixture_file(f"filled_up.{exporter}.onnx")
    for options in ({}, {"free": ("height",)}):
        kept = rewrite(path, options=RewriteOptions(global_pool="keep", **options), check_options=CHECK)
        square, blocks = kept.notes
        assert square.code == blocks.code == "written-size"
        why = "by plain numbers, which are taken for a border that is as wide at every size, not for what is missing to"
        assert f"pads 31x47 to 47x47 {why} a square:" in square.reason
        assert f"pads 31x47 to 32x64 {why} multiples of 32:" in blocks.reason
        assert "written-size" in text(kept)
    assert rewrite(path, check_options=CHECK).notes == ()
    computed = rewrite(
        fixture_file(f"sized.{exporter}.onnx"),
        options=RewriteOptions(global_pool="keep", size=(32, 32)),
        check_options=CHECK,
    )
    assert not any(note.code == "written-size" for note in computed.notes)


@pytest.mark.parametrize(
    ("size", "pads", "told"),
    [
        ((31, 47), (0, 0, 16, 0), "square"),
        ((31, 47), (8, 0, 8, 0), "square"),
        ((31, 47), (1, 1, 17, 1), "square"),  # and a border of one
        ((30, 30), (0, 0, 2, 2), "multiples of 32"),
        ((28, 28), (2, 2, 2, 2), ""),
        ((31, 31), (0, 0, 1, 1), ""),
        ((31, 31), (1, 1, 1, 1), ""),
        ((29, 32), (2, 1, 2, 1), ""),  # 33 x 34
        ((9, 31), (0, 0, 16, 0), ""),  # 25 x 31
        ((16, 17), (0, 1, 1, 1), ""),  # as SAME pads for 3 x 3 by 2, to 17 x 19
        ((31, 32), (1, 0, 1, 1), ""),  # the same, to 33 x 33
        ((30, 32), (1, 1, 3, 1), "square"),
        ((40, 40), (-8, -8, 0, 0), ""),
    ],
)
@pytest.mark.parametrize("apart", [True, False], ids=["Pad", "Conv"])
def test_which_amounts_are_told(apart: bool, size: tuple[int, int], pads: tuple[int, ...], told: str) -> None:
    """A border that is alike on all sides, or as SAME makes it, is a border; and so is one that makes no square."""
    if not apart and min(pads) < 0:
        pytest.skip("a Conv cuts nothing off")
    net = Net(17)
    image = net.image(1, size)
    top, left, bottom, right = pads
    padded = net.op("Pad", image, net.ints(0, 0, top, left, 0, 0, bottom, right)) if apart else image
    made = net.conv(padded, 2, 4, **({} if apart else {"pads": list(pads)}))
    notes = rewrite(net.model(made), check_options=CHECK).notes
    assert [note.code for note in notes] == ["written-size"] * bool(told)
    assert told in "".join(note.reason for note in notes)


def skip(factor: int, size: int, amounts: tuple[int, int]) -> onnx.ModelProto:
    """A map brought down and up again by a factor, and padded to the size that it had by numbers: before, behind."""
    net = Net()
    image = net.image(1, (size, size), 2)
    kernel = {"kernel_shape": [factor] * 2, "strides": [factor] * 2}
    coarse = net.op("MaxPool", image, **kernel) if factor > 2 else net.conv(image, 2, 2, pads=[1] * 4)
    up = net.op("ConvTranspose", coarse, net.random(2, 2, factor, factor), **kernel)
    begin, end = amounts
    same = net.op("Pad", up, net.const([0, 0, begin, begin, 0, 0, end, end], dtype=np.int64))
    return net.model(net.op("Concat", image, same, axis=1))


@pytest.mark.parametrize(("size", "amounts"), [(16, (0, 0)), (17, (0, 1)), (18, (1, 1)), (19, (1, 2))])
def test_how_much_goes_before_a_map_that_is_padded_by_numbers(size: int, amounts: tuple[int, int]) -> None:
    """Up to three rows are missing, of which networks put half before the map, or none: the file does not say which."""
    found = refusal(skip(4, size, amounts))
    assert found.code == "unknown-pads"
    assert found.advice.startswith("export it with open height and width, so that it is computed")


@pytest.mark.parametrize(("size", "amounts"), [(18, (0, 2)), (19, (0, 3))])
def test_all_of_it_behind_is_seen(size: int, amounts: tuple[int, int]) -> None:
    done = proven(skip(4, size, amounts), exact=False, crops=False)
    image = np.random.default_rng(3).standard_normal((1, 2, 20 + amounts[1], 21)).astype(np.float32)
    [got] = session(complete(done)).run(None, {"image": image})
    assert got.shape == (1, 4, 20 + amounts[1], 21)
    assert np.abs(got[:, 2:, 0, 0]).min() > 0
    np.testing.assert_array_equal(got[:, 2:, 20:], 0)
    np.testing.assert_array_equal(got[:, 2:, :, 20:], 0)


@pytest.mark.parametrize(("size", "amounts", "told"), [(16, (0, 0), True), (17, (0, -1), False)])
def test_a_row_that_is_too_much(size: int, amounts: tuple[int, int], told: bool) -> None:
    """Of an odd size one is cut off: the last, as the numbers show, or as the note says where they do not."""
    done = proven(skip(2, size, amounts), exact=False, crops=False)
    assert any(note.code == "written-size" for note in done.notes) == told
