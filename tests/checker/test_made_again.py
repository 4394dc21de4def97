"""Damages that the original shows at no size: a rewrite that is made again does."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from fixture_files import NO_INTEGERS, fixture_file
from hazards import CHECK, OLD_RUNTIME, Net, complete
from onnx import helper, numpy_helper

from onnxfc import RewriteOptions, check_pair, rewrite
from onnxfc.checker import made_again
from onnxfc.rewriter.api import Rewrite

Damage = Callable[[Rewrite, onnx.ModelProto], None]


def turned(done: Rewrite, model: onnx.ModelProto) -> None:
    """Counts of places divided the wrong way round, natively 1 either way."""
    own = {name for node in done.original.proto.graph.node for name in node.output}
    found = [node for node in model.graph.node if node.op_type == "Div" and node.output[0] not in own]
    assert found
    for node in found:
        node.input[0], node.input[1] = node.input[1], node.input[0]


def summed(done: Rewrite, model: onnx.ModelProto) -> None:
    """The mean that an Einsum and a native count made, as a sum with this count."""
    own = {name for node in done.original.proto.graph.node for name in node.output}
    node = next(n for n in model.graph.node if n.op_type == "ReduceMean" and n.output[0] not in own)
    at, name = list(model.graph.node).index(node), node.output[0]
    axes = next((item for item in node.attribute if item.name == "axes"), None)
    if axes is not None:
        node.attribute.remove(axes)
        model.graph.initializer.append(numpy_helper.from_array(np.array(axes.ints, np.int64), "axes_now"))
        node.input.append("axes_now")
    node.op_type, node.output[0] = "ReduceSum", "sum_now"
    places = done.claim.boundaries[0].extent
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1 / np.prod(places)), "native_share"))
    model.graph.node.insert(at + 1, helper.make_node("Mul", ["sum_now", "native_share"], [name]))


def of_other_heights(done: Rewrite, model: onnx.ModelProto) -> None:
    """The first layer's features, half as large again where the image has an odd number of rows more than natively."""
    image, native = model.graph.input[0].name, done.claim.native_size[0]
    at, first = next((i, node) for i, node in enumerate(model.graph.node) if node.op_type == "Conv")
    name, first.output[0] = first.output[0], "as_they_were"
    numbers = {"rows": np.int64(2), "two": np.int64(2), "none": np.int64(native % 2), "half": np.float32(0.5)}
    numbers["one"] = np.float32(1)
    model.graph.initializer.extend(numpy_helper.from_array(np.array(n), f"odd_{k}") for k, n in numbers.items())
    steps = [
        ("Shape", [image], {}),
        ("Gather", ["Shape", "rows"], {}),
        ("Mod", ["Gather", "two"], {}),
        ("Sub", ["Mod", "none"], {}),
        ("Abs", ["Sub"], {}),
        ("Cast", ["Abs"], {"to": onnx.TensorProto.FLOAT}),
        ("Mul", ["Cast", "half"], {}),
        ("Add", ["Mul", "one"], {}),
    ]
    made = [
        helper.make_node(kind, [i if i == image else f"odd_{i}" for i in given], [f"odd_{kind}"], **more)
        for kind, given, more in steps
    ]
    for k, node in enumerate([*made, helper.make_node("Mul", ["as_they_were", "odd_Add"], [name])]):
        model.graph.node.insert(at + 1 + k, node)


@pytest.mark.sweep(12)
@pytest.mark.parametrize(
    ("name", "pool", "damage"),
    [
        ("linear_attention.torchscript", "window", turned),
        ("channel_attention.torchscript", "window", turned),
        ("kept_sums.dynamo", "keep", turned),
        ("kept_triangle.dynamo", "keep", turned),
        ("kept_vlad.torchscript", "keep", turned),
        ("kept_einsums.dynamo", "keep", summed),
        ("kept_einsums.torchscript", "keep", summed),
    ],
)
def test_what_the_original_does_not_show(name: str, pool: str, damage: Damage) -> None:
    original = onnx.load(fixture_file(f"{name}.onnx"))
    done = rewrite(original, options=RewriteOptions(global_pool=pool), prove=False)  # type: ignore[arg-type]
    assert check_pair(original, complete(done), options=CHECK).passed
    model = complete(done)
    damage(done, model)
    checked = check_pair(original, model, options=CHECK)
    assert not checked.passed
    assert checked.parity.native.status == "passed"
    assert checked.parity.form.reason.startswith("a rewrite of the original computes otherwise: ")


def test_a_trunk_that_is_of_one_size_is_compared_at_odd_sizes() -> None:
    """A gate that was reshaped: the original's trunk runs at no size beside the grid."""
    net = Net(17)
    data = net.op("Relu", net.conv(net.image(1, (32, 32)), 2, 8, pads=[1, 1, 1, 1]))
    data = net.op("Relu", net.conv(data, 8, 8, pads=[1, 1, 1, 1]))
    means = net.op("ReduceMean", net.op("Reshape", data, net.ints(1, 8, -1)), axes=[2], keepdims=0)
    gate = net.op("Sigmoid", net.fc(means, 8, 8))
    data = net.op("Mul", data, net.op("Reshape", gate, net.ints(1, 8, 1, 1)))
    original = net.model(net.fc(net.op("Flatten", net.op("GlobalAveragePool", data)), 8, 5))
    done = rewrite(original, prove=False)
    assert check_pair(original, complete(done), options=CHECK).passed
    for bare in (False, True):
        model = complete(done)
        of_other_heights(done, model)
        del model.metadata_props[: len(model.metadata_props) * bare]
        checked = check_pair(original, model, options=CHECK)
        assert not checked.passed
        assert re.match(r"a rewrite .* otherwise: .* at (37x32|33x35|35x33) px", checked.parity.form.reason)


def test_a_large_model_is_compared_where_its_trunk_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """At one size; one whose trunk the original shows at none."""
    compared = []

    def counting(size: tuple[int, ...], *rest: object) -> object:
        compared.append(size)
        return compare_at(size, *rest)  # type: ignore[arg-type]

    compare_at = made_again.compare_at
    monkeypatch.setattr(made_again, "compare_at", counting)
    monkeypatch.setattr(made_again, "is_small", lambda _: False)
    for name, sizes in {"lenet.dynamo": [], "pyramid.dynamo": [(34, 36)]}.items():
        original = onnx.load(fixture_file(f"{name}.onnx"))
        assert check_pair(original, complete(rewrite(original, prove=False)), options=CHECK).passed
        assert compared == sizes


@pytest.mark.skipif(OLD_RUNTIME, reason=NO_INTEGERS)
def test_scales_of_each_window() -> None:
    original = onnx.load(fixture_file("lenet.dynamic.onnx"))
    done = rewrite(original, options=RewriteOptions(per_window_scale=True), prove=False)
    checked = check_pair(original, complete(done), options=CHECK)
    assert checked.passed
    assert checked.notes == ()
