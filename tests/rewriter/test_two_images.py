"""Two images that grow together, or of which one stays, as PyTorch's own networks take them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from fixture_files import fixture_file
from hazards import Net, refusal
from references import EXPORTERS, compare, image, run

import onnxfc
from onnxfc.cli.main import main
from onnxfc.rewriter.api import Rewrite
from onnxfc.rewriter.options import RewriteOptions

REFERENCES = np.load(fixture_file("pairs.npz"))
SIZES = ((48, 40), (36, 52), (64, 44))
MORE = {
    "cost_volume": ("right", 3, (1, 1)),
    "recurrent_state": ("state", 8, (1, 4)),
    "sharpened": ("fine", 1, (4, 1)),
}
"""The second input, its channels, and how many of its pixels lie on how many of the first's."""


def rewritten(name: str, exporter: str, **options: object) -> Rewrite:
    return onnxfc.rewrite(fixture_file(f"{name}.{exporter}.onnx"), options=RewriteOptions(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", MORE)
def test_both_grow(name: str, exporter: str) -> None:
    """To scale, where the network makes of them what meets in no other way: a state at a quarter of the size, say."""
    done = rewritten(name, exporter)
    other, channels, scale = MORE[name]
    assert [item.scale for item in done.claim.inputs] == [(1, 1), scale]
    for size in ((16, 20), (12, 28), (21, 17)) if name == "sharpened" else SIZES:
        own = tuple(length * scale[0] // scale[1] for length in size)
        compare(done.model, {"image": image(*size), other: image(*own, channels, 1)}, REFERENCES, name)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_both_as_one_batch(exporter: str) -> None:
    """A trunk that sees two images at once, of which each is taken again: of one pair for good."""
    done = rewritten("one_batch", exporter, global_pool="keep")
    for size in SIZES:
        feeds = {"image": image(*size), "next_image": image(*size, 3, 1)}
        compare(done.model, feeds, REFERENCES, "one_batch", 1e-5)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_cells_of_both_as_one_batch_are_the_original_on_crops(exporter: str) -> None:
    done = rewritten("one_batch", exporter, output_at=("scores",))
    assert (done.claim.verdict, done.claim.stride) == ("exact", (2, 2))
    one, two = image(28, 36), image(28, 36, 3, 1)
    cells = run(done.model, {"image": one, "next_image": two})["scores"]
    assert cells.shape == (1, 5, 3, 3)
    original = onnx.load(fixture_file(f"one_batch.{exporter}.onnx"))
    for y, x in np.ndindex(3, 3):
        at = np.s_[..., 2 * y : 2 * y + 24, 2 * x : 2 * x + 32]
        crop = {"image": np.ascontiguousarray(one[at]), "next_image": np.ascontiguousarray(two[at])}
        want = run(original, crop)["scores"]
        np.testing.assert_allclose(cells[..., y, x], want, rtol=0, atol=5e-6 * np.abs(want).max())


@pytest.mark.parametrize(
    ("options", "advice"), [({"dynamic_batch": True}, "--dynamic-batch"), ({"inputs": ("image",)}, "leave")]
)
def test_why_images_are_not_laid_behind_each_other(options: dict[str, object], advice: str) -> None:
    """Of several pairs the images of one would lie apart; one that stays has another size than one that grows."""
    for exporter in EXPORTERS:
        with pytest.raises(onnxfc.NothingToRewrite) as caught:
            rewritten("one_batch", exporter, **options)
        told = caught.value.refusals[0]
        assert (told.code, advice in told.advice) == ("mixes-batch", True)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_coordinates_that_are_weighed_by_matching_go_on(exporter: str) -> None:
    """The places that are summed up have as many coordinates as there are now, by the rule that these show."""
    done = rewritten("matching", exporter)
    assert {(grid.rules, grid.given) for grid in done.claim.grids} == {
        (("step", "step"), False),
        (("ends", "ends"), False),
    }
    for size in SIZES:
        compare(done.model, {"image": image(*size), "other": image(*size, 3, 1)}, REFERENCES, "matching", 1e-5)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("options", [{}, {"dynamic_batch": True}])
def test_a_vector_that_is_laid_out_over_the_map_is_as_long_as_that(exporter: str, options: dict[str, object]) -> None:
    """Its values are no table of native places: each channel has one."""
    done = rewritten("goal", exporter, **options)
    goal = np.random.default_rng(4 + 1000).standard_normal((1, 4)).astype(np.float32)
    for size in SIZES:
        compare(done.model, {"image": image(*size), "goal": goal}, REFERENCES, "goal")


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_what_is_not_alike_at_all_places_is_no_such_vector(exporter: str) -> None:
    """A Tile of two values along the width: only its author knows how it goes on."""
    original = onnx.load(fixture_file(f"goal.{exporter}.onnx"))
    [reshape] = [node for node in original.graph.node if "goal" in node.input and node.op_type == "Reshape"]
    wide = onnx.helper.make_tensor("wide", onnx.TensorProto.FLOAT, [1, 1, 1, 2], [0.0, 1.0])
    original.graph.initializer.append(wide)
    made, reshape.output[0] = reshape.output[0], "narrow"
    at = [*original.graph.node].index(reshape) + 1
    original.graph.node.insert(at, onnx.helper.make_node("Add", ["narrow", "wide"], [made], name="striped"))
    for node in original.graph.node:
        if node.op_type == "Tile":
            times = onnx.helper.make_tensor("times", onnx.TensorProto.INT64, [4], [1, 1, 24, 16])
            original.graph.initializer.append(times)
            node.input[1] = "times"
    for info in [*original.graph.value_info]:
        original.graph.value_info.remove(info)
    assert refusal(original).code == "position-table"


@pytest.mark.parametrize("name", ["guided", "recurrent_state", "sharpened"])
def test_a_pair_without_metadata_is_checked_at_sizes_that_both_take(name: str) -> None:
    original = onnx.load(fixture_file(f"{name}.dynamo.onnx"))
    other = onnxfc.rewrite(original, prove=False).model
    del other.metadata_props[:]
    assert onnxfc.check_pair(original, other).passed


def test_the_sizes_that_both_take() -> None:
    done = rewritten("recurrent_state", "dynamo")
    assert (done.claim.native_size, done.claim.size_step, done.claim.smallest_size) == ((24, 32), (4, 4), (4, 4))
    assert done.claim.image_shapes((48, 40)) == {"image": (1, 3, 48, 40), "state": (1, 8, 12, 10)}


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_cells_of_a_head_are_the_original_on_crops_of_both(exporter: str) -> None:
    done = rewritten("guided", exporter)
    assert (done.claim.verdict, done.claim.stride) == ("exact", (4, 4))
    whole, half = image(32, 44), image(16, 22, 1, 1)
    cells = run(done.model, {"image": whole, "depth": half})["scores"]
    assert cells.shape == (1, 5, 3, 4)
    original = onnx.load(fixture_file(f"guided.{exporter}.onnx"))
    for y, x in np.ndindex(3, 4):
        crop = {
            "image": whole[..., 4 * y : 4 * y + 24, 4 * x : 4 * x + 32],
            "depth": half[..., 2 * y : 2 * y + 12, 2 * x : 2 * x + 16],
        }
        want = run(original, {name: np.ascontiguousarray(value) for name, value in crop.items()})["scores"]
        np.testing.assert_allclose(cells[..., y, x], want, rtol=0, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_kernel_made_of_another_input(exporter: str) -> None:
    """Cross-correlation: the template stays as it is, the image grows."""
    found = refusal(onnx.load(fixture_file(f"cross_correlation.{exporter}.onnx")))
    assert (found.code, found.advice) == ("dynamic-weight", "let that stay as it is: --input image")
    assert "a weight that is made of template" in found.reason
    done = rewritten("cross_correlation", exporter, inputs=("image",))
    for size in SIZES:
        feeds = {"image": image(*size), "template": image(15, 15, 3, 1)}
        compare(done.model, feeds, REFERENCES, "cross_correlation")


def test_an_input_that_stays_is_named() -> None:
    found = refusal(onnx.load(fixture_file("recurrent_state.dynamo.onnx")), inputs=("image",))
    assert (found.code, found.advice) == ("sizes-differ", "name it too: --input image --input state")
    assert found.reason == "Concat combines the map with state, an input that stays at its native size"


def test_where_both_ways_run_none_is_taken() -> None:
    """Two images that are pooled before they meet."""
    net = Net(17)
    one, other = net.input("image", [1, 2, 16, 12]), net.input("detail", [1, 2, 8, 6])
    pooled = [net.op("Flatten", net.op("GlobalAveragePool", net.conv(item, 2, 3))) for item in (one, other)]
    found = refusal(net.model(net.fc(net.op("Concat", *pooled, axis=1), 6, 4)))
    assert (found.code, found.node) == ("sizes-differ", "detail")
    assert found.advice.startswith("say it: --grow scale, as views of one scene, or --grow pixels; or name the one")


VIEWS = {
    "scale": lambda size: tuple(length // 2 for length in size),
    "pixels": lambda size: (size[0] - 12, size[1] - 16),
}
"""How large the view is beside an image."""


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("grow", VIEWS)
def test_both_ways_as_they_are_asked_for(exporter: str, grow: str) -> None:
    """Kept pools are the network's own at both sizes; windows are the original on pairs of crops."""
    kept = rewritten("two_views", exporter, grow=grow, global_pool="keep")
    assert kept.claim.inputs[1].scale == ((1, 2) if grow == "scale" else (1, 1))
    for size in SIZES if grow == "scale" else ():
        feeds = {"image": image(*size), "view": image(*VIEWS[grow](size), 3, 1)}
        compare(kept.model, feeds, REFERENCES, "two_views")
    done, original = rewritten("two_views", exporter, grow=grow), onnx.load(fixture_file(f"two_views.{exporter}.onnx"))
    (step, _), own = done.claim.stride, 2
    assert (done.claim.verdict, step) == ("exact", 4 if grow == "scale" else 2)
    size = tuple(length + 8 for length in done.claim.native_size)
    one, two = image(*size), image(*VIEWS[grow](size), 3, 1)
    cells = run(done.model, {"image": one, "view": two})["scores"]
    assert cells.shape == (1, 5, 1 + 8 // step, 1 + 8 // step)
    for y, x in np.ndindex(*cells.shape[2:]):
        crops = one[..., y * step :, x * step :][..., :24, :32], two[..., y * own :, x * own :][..., :12, :16]
        want = run(original, dict(zip(("image", "view"), map(np.ascontiguousarray, crops), strict=True)))["scores"]
        np.testing.assert_allclose(cells[..., y, x], want, rtol=0, atol=5e-6 * np.abs(want).max())


def test_ways_to_grow_that_say_nothing() -> None:
    path = fixture_file("two_views.dynamo.onnx")
    for given, problem in (
        ({"inputs": ("image",)}, "--grow scale is for images of several native sizes; leave it out"),
        ({"grow": "both"}, "grow: must be one of 'pixels', 'scale', not 'both'"),
    ):
        with pytest.raises(onnxfc.UsageError) as caught:
            onnxfc.rewrite(path, options=RewriteOptions(**{"grow": "scale", **given}))
        assert problem in str(caught.value)


def test_images_in_no_one_ratio() -> None:
    net = Net(17)
    images = (net.input("image", [1, 2, 16, 12]), net.input("detail", [1, 2, 8, 12]))
    pooled = [net.op("Flatten", net.op("GlobalAveragePool", net.conv(item, 2, 3))) for item in images]
    with pytest.raises(onnxfc.UsageError) as caught:
        onnxfc.rewrite(net.model(net.fc(net.op("Concat", *pooled, axis=1), 6, 4)), options=RewriteOptions(grow="scale"))
    assert str(caught.value) == "--grow scale: image and detail are natively 16x12 and 8x12 px, in no one ratio"


def test_the_commands_say_how_they_grow(tmp_path: Path) -> None:
    path, out = fixture_file("guided.torchscript.onnx"), tmp_path / "any.onnx"
    for command in (["rewrite", path, out], ["check", path, out], ["inspect", path], ["inspect", out]):
        done = CliRunner().invoke(main, [str(item) for item in command])
        assert done.exit_code == 0, done.output
        assert "24x32 px (depth: 12x16 px, to scale)" in done.output


def stacked(height: int, width: int) -> onnx.ModelProto:
    """Two images on an axis of their own, which the trunk has as rows of its batch, and which are taken apart again."""
    net = Net()
    pair = [net.axes("Unsqueeze", net.input(name, [1, 3, height, width]), [1]) for name in ("image", "other")]
    rows = net.op("Reshape", net.op("Concat", *pair, axis=1), net.ints(2, 3, height, width))
    maps = net.op("Relu", net.conv(rows, 3, 4, pads=[1] * 4))
    apart = net.op("Reshape", maps, net.ints(1, 2, 4, height // 2, width // 2))
    turned = net.op("Gather", apart, net.ints(1, 0), axis=1)
    joined = net.op("Reshape", turned, net.ints(1, 8, height // 2, width // 2))
    return net.model(net.conv(joined, 8, 5, (1, 1), strides=[1, 1]))


def test_both_on_an_axis_of_their_own() -> None:
    """This ended in a traceback: an image without a new axis was read as if it had it already."""
    done = onnxfc.rewrite(stacked(16, 24))
    assert [(item.name, item.spatial) for item in done.claim.inputs] == [("image", (2, 3)), ("other", (2, 3))]
    for size in ((16, 24), (20, 38), (34, 18)):
        feeds = {"image": image(*size), "other": image(*size, 3, 1)}
        [(name, want)] = run(stacked(*size), feeds).items()
        got = run(done.model, feeds)[name]
        assert got.shape == (1, 5, size[0] // 2, size[1] // 2)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_an_image_and_a_signal_are_no_pair() -> None:
    """Of which both are convolved, with no axes in common: a refusal that names them, and one that grows alone."""
    net = Net()
    picture = net.op("GlobalAveragePool", net.conv(net.input("image", [1, 3, 16, 24]), 3, 4))
    sound = net.op("GlobalAveragePool", net.conv(net.input("sound", [1, 3, 64]), 3, 2, (3,)))
    vectors = net.op("Concat", net.op("Flatten", picture), net.op("Flatten", sound), axis=1)
    model = net.model(net.fc(vectors, 6, 5))
    with pytest.raises(onnxfc.NothingToRewrite) as caught:
        onnxfc.rewrite(model)
    told = caught.value.refusals[0]
    assert (told.code, "image [1, 3, 16, 24] and sound [1, 3, 64]" in told.reason) == ("no-image-input", True)
    assert onnxfc.rewrite(model, options=RewriteOptions(inputs=("image",))).parity.passed
