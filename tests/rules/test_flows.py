"""A map that GridSample reads at its own places and a flow beside them: -1 to 1 are its ends at every size."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import Net, complete, proven, refusal, refusals, session
from references import EXPORTERS, compare, image

import onnxfc
from onnxfc.rewriter.options import RewriteOptions

REFERENCES = np.load(fixture_file("grids_more.npz"))
UNKNOWN = "GridSample reads at a grid of coordinates and what is added to it, which may count places of the native size"


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["grid_flow", "grid_flow_places", "grid_flow_centres"])
def test_as_pytorch_at_every_size(name: str, exporter: str) -> None:
    """In parts of the map the flow is as it is; in places it is scaled by how many there are now."""
    done = onnxfc.rewrite(fixture_file(f"{name}.{exporter}.onnx"))
    for size in ((16, 12), (12, 20), (24, 28)):
        compare(done.model, {"image": image(*size)}, REFERENCES, name, rounding=5e-6)


def flowing(kind: str) -> onnx.ModelProto:
    """A map of 12 x 10 that is read at its own places, and at most of its flow."""
    net = Net(20)
    trunk = net.op("Tanh", net.conv(net.image(1, (12, 10)), 2, 3, (1, 1), strides=[1, 1]))
    flow = net.op("Transpose", net.op("Tanh", net.conv(trunk, 3, 2, (1, 1), strides=[1, 1])), perm=[0, 2, 3, 1])
    ends = np.stack(np.meshgrid(np.linspace(-1, 1, 10), np.linspace(-1, 1, 12)), -1)[None]
    counted = np.stack(np.meshgrid(np.arange(10), np.arange(12)), -1)[None]
    sides = net.const([9, 11])
    if kind == "scaled":
        made = net.op("Add", net.const(ends), net.op("Mul", flow, net.const(0.3)))
    elif kind == "by half a side":
        made = net.op("Add", net.const(ends), net.op("Div", flow, net.const([4.5, 5.5])))
    elif kind == "by two over a side":
        made = net.op("Add", net.op("Mul", flow, net.const([2 / 9, 2 / 11])), net.const(ends))
    elif kind == "of a part":
        made = net.op("Add", net.op("Mul", flow, net.const(0.3)), net.const(0.8 * ends))
    elif kind == "turned":
        made = net.op("Add", flow, net.const(ends[..., ::-1]))
    elif kind == "places":
        both = net.op("Mul", net.op("Add", flow, net.const(counted)), net.const(2.0))
        made = net.op("Sub", net.op("Div", both, sides), net.const(1.0))
    elif kind == "places beside parts":
        made = net.op("Sub", net.op("Div", net.op("Mul", net.const(counted), net.const(2.0)), sides), net.const(1.0))
        made = net.op("Add", net.op("Mul", flow, net.const(0.3)), made)
    elif kind.startswith("places and twice"):
        flow = net.op("Mul", flow, net.const(2.0 if kind.endswith("flow") else 11.0))
        made = net.op("Div", net.op("Mul", net.op("Add", flow, net.const(counted)), net.const(2.0)), sides)
        made = net.op("Sub", made, net.const(1.0))
    elif kind == "places and parts":
        both = net.op("Add", flow, net.const(counted))
        made = net.op("Sub", net.op("Div", net.op("Mul", both, net.const(2.0)), sides), net.const(1.0))
        made = net.op("Add", made, net.op("Mul", flow, net.const(0.3)))
    elif kind == "less a flow":
        both = net.op("Sub", net.const(counted), flow)
        made = net.op("Sub", net.op("Div", net.op("Mul", both, net.const(2.0)), sides), net.const(1.0))
    elif kind == "kept inside":
        both = net.op("Clip", net.op("Add", flow, net.const(counted)), net.const(0.0), net.const(9.0))
        made = net.op("Sub", net.op("Div", net.op("Mul", both, net.const(2.0)), sides), net.const(1.0))
    else:
        made = net.op("Mul", net.op("Add", flow, net.const(ends)), flow)
    return net.model(net.op("GridSample", trunk, made, align_corners=1))


@pytest.mark.parametrize(
    "kind", ["scaled", "places", "places beside parts", "places and twice the flow", "less a flow"]
)
def test_what_goes_on(kind: str) -> None:
    """A table that nothing but constants scales is one from -1 to 1 itself."""
    assert refusals(flowing(kind)) == ()


@pytest.mark.parametrize(
    "kind",
    [
        *("by half a side", "by two over a side", "of a part", "turned", "places and twice a side", "kept inside"),
        *("places and parts", "squared"),
    ],
)
def test_what_may_reckon_with_the_native_size_is_refused(kind: str) -> None:
    """A flow in places that is divided by half a native side; a grid that is no map's own places."""
    found = refusal(flowing(kind))
    assert found.code in ("grid-rule", "size-locked")
    assert kind in ("of a part", "kept inside") or found.reason == UNKNOWN


@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("warp_places.torchscript", {"size": (16, 24)}),
        ("warp_places.dynamo", {"size": (16, 24)}),
        ("warp_part.torchscript", {}),
        ("warp_turned.torchscript", {"global_pool": "keep"}),
    ],
)
def test_a_warp_that_the_model_computes_goes_on(file: str, options: dict[str, Any]) -> None:
    """AffineGrid makes as many places as the map has; dynamo writes a table."""
    done = onnxfc.rewrite(fixture_file(f"{file}.onnx"), options=RewriteOptions(**options))
    for size in ((16, 12), (12, 20), (24, 28)):
        compare(done.model, {"image": image(*size)}, REFERENCES, file.partition(".")[0], rounding=5e-6)


def test_a_table_that_is_laid_out_to_a_computed_shape_is_one_of_the_native_size() -> None:
    """As dynamo exports a warp with open height and width: no other size has as many places."""
    net = Net(20)
    trunk = net.op("Tanh", net.conv(net.image(1, ("height", "width")), 2, 3))
    ends = np.stack(np.meshgrid(np.linspace(-1, 1, 4), np.linspace(-1, 1, 5)), -1).reshape(1, 20, 2)
    sizes = net.op("Shape", trunk, start=2)
    grid = net.op("Reshape", net.const(ends), net.op("Concat", net.ints(1), sizes, net.ints(2), axis=0))
    model = net.model(net.op("GridSample", trunk, grid, align_corners=1), trunk, infer=False)
    done = proven(model, exact=False, size=(11, 9))
    assert [item.rules for item in done.claim.grids] == [("ends", "ends")]
    new = session(complete(done))
    for height, width in ((11, 9), (15, 8), (20, 31)):
        given = np.random.default_rng(height).standard_normal((1, 2, height, width)).astype(np.float32)
        warped, plain = new.run(None, {"image": given})  # its own places are the map itself
        np.testing.assert_allclose(warped, plain, rtol=0, atol=2e-5)


def test_a_warp_by_what_a_head_says_is_refused_for_what_it_does() -> None:
    found = refusal(onnx.load(fixture_file("warp_turned.torchscript.onnx")))
    assert (found.code, found.node) == ("head-rejoins-trunk", "/AffineGrid")
    assert found.reason.startswith("AffineGrid warps a map by what is made of all places of the native size")


def test_a_table_of_an_open_export_is_not_to_be_exported_open() -> None:
    """It holds as many places as one size has, though its map has any number."""
    net = Net(20)
    trunk = net.conv(net.image(1, ("height", "width")), 2, 3)
    wave = np.sin(np.arange(40.0)).reshape(1, 5, 4, 2)
    model = net.model(net.op("GridSample", trunk, net.const(wave)), infer=False)
    found = refusal(model, size=(11, 9))
    assert found.code == "position-table"
    assert found.advice.endswith("or, where the network computes them, let it do so when the model runs")
