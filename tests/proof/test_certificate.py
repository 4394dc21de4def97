"""The certificate: which Conv weight is which FC weight, read off two files without running them."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_runs import here
from fixture_files import fixture_file
from hazards import CHECK, FEATURES, Net
from onnx import TensorProto, helper, numpy_helper

from onnxfc import check_pair, rewrite
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.certificate import certify
from onnxfc.proof.kept_weights import changed
from onnxfc.proof.results import Certificate, WeightResult
from onnxfc.rewriter.api import Rewrite


def of(name: str) -> tuple[WeightResult, ...]:
    """What the certificate of a fixture's rewrite says; it must hold."""
    done = rewrite(fixture_file(name), prove=False)
    found = certify(done.original, done.file)
    assert found.status == "holds", found
    return found.weights


def of_pair(original: onnx.ModelProto, other: onnx.ModelProto) -> Certificate:
    return certify(ModelFile.open(original), ModelFile.open(other))


def two_layers() -> Net:
    net = Net()
    net.fc(net.op("Relu", net.fc(net.flat(), FEATURES, 6)), 6, 5, out="scores")
    return net


@pytest.mark.parametrize(
    ("fixture", "relation", "order"),
    [
        ("lenet.torchscript.onnx", "same", ""),
        ("lenet.dynamo.onnx", "same", ""),
        ("orders.dynamo.onnx", "permuted", "features in the order H, W, C"),
        ("keras_flatten.tf2onnx.onnx", "permuted", "transposed, features in the order H, W, C"),
        ("keras_gap.export.onnx", "permuted", "transposed"),
        ("keras_normalised.export.onnx", "folded", "transposed, features in the order H, W, C"),
        ("between.dynamo.onnx", "folded", ""),
        ("pieces.dynamo.onnx", "permuted", "each feature in a place of its own"),
    ],
)
def test_exported_heads(fixture: str, relation: str, order: str) -> None:
    first = next(item for item in of(fixture) if item.relation == relation)
    assert first.order == order
    assert first.found
    assert first.error == 0 if relation != "folded" else 0 < first.error < 1e-7


def test_several_conv_weights_of_one() -> None:
    """An FC layer over two maps has a Conv for each."""
    first = of("branches.dynamo.onnx")[0]
    assert first.relation == "permuted"
    assert len(first.found) == 2


def wrong_by_a_bit(model: onnx.ModelProto, name: str) -> None:
    """Change the last bit of one value, which no run tells from rounding."""
    tensor = next(item for item in model.graph.initializer if item.name == name)
    array = numpy_helper.to_array(tensor).copy()
    array.reshape(-1).view(np.uint32)[7] ^= 1
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def made(net: Net, *outputs: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    original = net.model(*outputs)
    return original, rewrite(original, prove=False).model


def conv_weights(model: onnx.ModelProto, count: int) -> list[str]:
    """Of the last Convs."""
    return [node.input[1] for node in model.graph.node if node.op_type == "Conv"][-count:]


def test_one_bit_is_told() -> None:
    original, other = made(two_layers(), "scores")
    assert of_pair(original, other).status == "holds"
    wrong_by_a_bit(other, conv_weights(other, 2)[0])
    found = of_pair(original, other)
    assert [item.relation for item in found.weights] == ["rounded", "same"]
    assert 0 < found.weights[0].error < 1e-7


def test_a_wrong_weight_fails_the_check(tmp_path: Path) -> None:
    """So small that no run tells it: one weight in 360 of a unit that a Relu switches off nearly always."""
    original, other = made(two_layers(), "scores")
    tensor = next(item for item in other.graph.initializer if item.name == conv_weights(other, 2)[0])
    array = numpy_helper.to_array(tensor).copy()
    array.reshape(-1)[7] += 1e-6
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    one, two, report = tmp_path / "one.onnx", tmp_path / "two.onnx", tmp_path / "report.json"
    onnx.save(original, one)
    onnx.save(other, two)
    run = here("check", one, two, "--report", report, "--junit", tmp_path / "junit.xml")
    assert run.code == 4
    assert "certificate failed: weight const_" in run.err
    assert "is in no Conv of the second model" in run.err
    told = json.loads(report.read_text())["parity"]
    assert told["native"]["status"] == told["window"]["status"] == "passed"
    assert told["certificate"]["status"] == "failed"
    assert [item["relation"] for item in told["certificate"]["weights"]] == ["missing", "same"]
    assert '<testcase classname="onnxfc.certificate"' in (tmp_path / "junit.xml").read_text()


def test_rewrite_prints_it(tmp_path: Path) -> None:
    run = here("rewrite", fixture_file("lenet.dynamo.onnx"), tmp_path / "out.onnx", "--report", tmp_path / "r.json")
    assert "certificate     2 FC weights are found in Convs: byte for byte\n" in run.out
    assert json.loads((tmp_path / "r.json").read_text())["parity"]["certificate"]["status"] == "holds"


# Hazards


def twins(*, shared: bool) -> Net:
    """Two FC layers of one weight, or of two that are alike."""
    net = Net()
    flat, weight = net.flat(), net.random(5, FEATURES, name="weight")
    other = weight if shared else net.const(numpy_helper.to_array(net.weights[-1]), "twin")
    net.op("Gemm", flat, weight, net.random(5), out="one", transB=1)
    net.op("Gemm", flat, other, net.random(5), out="two", transB=1)
    return net


@pytest.mark.parametrize("shared", [True, False])
def test_alike_weights_are_counted(shared: bool) -> None:
    """A weight that is found once does not stand for two layers."""
    original, other = made(twins(shared=shared), "one", "two")
    found = of_pair(original, other)
    assert (found.status, [item.relation for item in found.weights]) == ("holds", ["same", "same"])
    conv = next(node for node in other.graph.node if node.output[0] == "two")
    other.graph.initializer.append(numpy_helper.from_array(np.zeros((5, 3, 5, 4), np.float32), "zeros"))
    conv.input[1] = "zeros"
    found = of_pair(original, other)
    assert (found.status, [item.relation for item in found.weights]) == ("failed", ["same", "missing"])


def as_constant(net: Net, name: str) -> str:
    tensor = next(item for item in net.weights if item.name == name)
    net.weights.remove(tensor)
    return str(net.op("Constant", value=tensor))


def as_cast(net: Net, name: str) -> str:
    tensor = next(item for item in net.weights if item.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), name))
    return str(net.op("Cast", name, to=TensorProto.FLOAT))


def as_reshaped(net: Net, name: str) -> str:
    tensor = next(item for item in net.weights if item.name == name)
    tensor.dims[:] = [5, 3, 20]
    return str(net.op("Reshape", name, net.ints(5, FEATURES)))


def as_transposed(net: Net, name: str) -> str:
    tensor = next(item for item in net.weights if item.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(numpy_helper.to_array(tensor).T), name))
    return str(net.op("Transpose", name, perm=[1, 0]))


@pytest.mark.parametrize(
    ("behind", "relation"),
    [
        (as_constant, "same"),
        (as_reshaped, "same"),
        (as_transposed, "permuted"),
        (as_cast, "same"),
        (lambda net, name: net.op("Identity", name), "same"),
    ],
)
def test_weights_behind_nodes(behind: Callable[[Net, str], str], relation: str) -> None:
    net = Net()
    flat, weight = net.flat(), net.random(5, FEATURES, name="weight")
    net.op("Gemm", flat, behind(net, weight), net.random(5), out="scores", transB=1)
    found = of_pair(*made(net, "scores"))
    assert (found.status, [item.relation for item in found.weights]) == ("holds", [relation])


def make_sparse(model: onnx.ModelProto) -> None:
    """Store the weight of its layer as a sparse one."""
    tensor = next(item for item in model.graph.initializer if item.name == "weight")
    values, places = numpy_helper.to_array(tensor).reshape(-1), np.arange(5 * FEATURES)
    model.graph.initializer.remove(tensor)
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(
            numpy_helper.from_array(values, "weight"), numpy_helper.from_array(places), [5, FEATURES]
        )
    )


def test_sparse_weight() -> None:
    net = Net()
    net.op("Gemm", net.flat(), net.random(5, FEATURES, name="weight"), net.random(5), out="scores", transB=1)
    original, other = made(net, "scores")
    make_sparse(original)
    assert [item.relation for item in of_pair(original, other).weights] == ["same"]


def test_weight_that_its_reshape_does_not_fit() -> None:
    """It is no weight; onnxruntime says that the model does not run."""
    original, other = made(two_layers(), "scores")
    conv = [node for node in other.graph.node if node.op_type == "Conv"][-1]
    shape = numpy_helper.from_array(np.array([7, 7, 7, 7]), "no_shape")
    other.graph.initializer.append(shape)
    node = helper.make_node("Reshape", [conv.input[1], shape.name], ["no_weight"])
    conv.input[1] = node.output[0]
    other.graph.node.insert(0, node)
    found = of_pair(original, other)
    assert found.status == "none"
    assert "a Conv whose weight the graph computes" in found.reason


def test_constant_of_a_node_that_reads_nothing_else() -> None:
    """Nothing is folded into it that a weight or a bias would tell of: it changed."""
    net = Net()
    gain = net.random(5, name="gain")
    net.op("Add", net.fc(net.flat(), FEATURES, 5), net.op("Abs", gain), out="scores")
    original, other = net.model("scores"), net.model("scores")
    assert changed(ModelFile.open(original), ModelFile.open(other)) == ""
    stored = next(item for item in other.graph.initializer if item.name == "gain")
    stored.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(stored), "gain"))
    assert "weight gain of " in changed(ModelFile.open(original), ModelFile.open(other))


def test_sparse_weight_of_the_second_model() -> None:
    """onnx infers no shapes behind it unless it is told its own."""
    net = Net()
    net.op("Gemm", net.flat(), net.random(5, FEATURES, name="weight"), net.random(5), out="scores", transB=1)
    original, again = net.model("scores"), onnx.ModelProto()
    again.CopyFrom(original)
    make_sparse(again)
    checked = check_pair(original, again)
    assert checked.passed
    assert checked.parity.native.deviation == 0.0


def test_weight_within_a_function() -> None:
    net = Net()
    flat = net.flat()
    tensor = numpy_helper.from_array(net.noise(5, FEATURES))
    net.op("Head", flat, domain="own", out="scores")
    model = net.model("scores", infer=False)
    nodes = [
        helper.make_node("Constant", [], ["w"], value=tensor),
        helper.make_node("Gemm", ["x", "w"], ["y"], transB=1),
    ]
    model.functions.append(helper.make_function("own", "Head", ["x"], ["y"], nodes, [helper.make_opsetid("", 17)]))
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 5]))
    found = rewrite(model, check_options=CHECK).parity
    assert found is not None
    assert found.certificate.status == "holds"
    assert [item.relation for item in found.certificate.weights] == ["same"]


def test_equal_weights_are_a_pool() -> None:
    """Products with one weight for all places, which became means."""
    done = rewrite(fixture_file("sums.dynamo.onnx"), prove=False)
    assert certify(done.original, done.file).status == "none"


def test_products_of_constants_are_no_layers() -> None:
    """onnxruntime computes them once, and no weight of theirs is left: learned queries times their own weight."""
    name = "kept_queries.dynamo.onnx"
    original = ModelFile.open(fixture_file(name))
    done = rewrite(fixture_file(name), prove=False)
    before = certify(done.original, done.file)
    folded = onnx.ModelProto.FromString(done.model.SerializeToString())
    product = next(node for node in folded.graph.node if node.name == "node_MatMul_14")
    folded.graph.node.remove(product)
    folded.graph.initializer.append(numpy_helper.from_array(np.ones((3, 1, 8), np.float32), product.output[0]))
    assert certify(original, ModelFile.open(folded)) == before


def test_factors_of_a_single_output_are_not_told() -> None:
    """One factor for each weight makes every weight of every other: that is no certificate, and no failure."""
    net = Net()
    flat = net.op("Mul", net.flat(), net.const(net.rng.uniform(0.5, 2, (1, FEATURES))))
    original, other = made(net, net.fc(flat, FEATURES, 1, out="scores"))
    found = of_pair(original, other)
    assert (found.status, found.weights[0].relation) == ("none", "untold")
    assert "cannot be told: it has one output and factors folded in" in found.reason


def test_weights_that_were_added_up_are_not_told() -> None:
    """Each feature is read twice: both its weights are one in the Conv."""
    net = Net()
    twice = net.op("Gather", net.flat(), net.ints(*range(FEATURES), *range(FEATURES)), axis=1)
    original, other = made(net, net.fc(twice, 2 * FEATURES, 5, out="scores"))
    assert (of_pair(original, other).status, of_pair(original, other).weights[0].relation) == ("none", "untold")
    wrong = next(item for item in other.graph.initializer if item.name == conv_weights(other, 1)[0])
    array = numpy_helper.to_array(wrong) + np.float32(0.01)
    wrong.CopyFrom(numpy_helper.from_array(array, wrong.name))
    assert of_pair(original, other).status == "failed"


def test_weights_that_were_added_up_in_several_convs_are_not_told() -> None:
    """Rows read twice, then rolled: two Convs, each with columns that are sums."""
    net = Net()
    rows = net.op("Gather", net.trunk(), net.ints(0, 1, 1, 2, 3, 4), axis=2)
    last = net.op("Slice", rows, net.ints(-1), net.ints(99), net.ints(2))
    rest = net.op("Slice", rows, net.ints(0), net.ints(-1), net.ints(2))
    flat = net.op("Flatten", net.op("Concat", last, rest, axis=2))
    original, other = made(net, net.fc(flat, FEATURES + 12, 5, out="scores"))
    assert len(conv_weights(other, 2)) == 2
    assert (of_pair(original, other).status, of_pair(original, other).weights[0].relation) == ("none", "untold")
    assert rewrite(original, check_options=CHECK).claim.verdict == "exact"
    wrong = next(item for item in other.graph.initializer if item.name == conv_weights(other, 1)[0])
    array = numpy_helper.to_array(wrong) + np.float32(0.01)
    wrong.CopyFrom(numpy_helper.from_array(array, wrong.name))
    assert of_pair(original, other).status == "failed"


# Other people's models


def stranger(original: onnx.ModelProto, change: Callable[[np.ndarray], np.ndarray]) -> onnx.ModelProto:
    """A rewrite that says nothing of itself, its last weights changed."""
    other = rewrite(original, prove=False).model
    del other.metadata_props[:]
    for tensor in other.graph.initializer:
        if tensor.name in conv_weights(other, 2):
            tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), tensor.name))
    return other


def test_half_precision_is_told() -> None:
    original = two_layers().model("scores")
    other = stranger(original, lambda array: array.astype(np.float16))
    found = of_pair(original, other)
    assert (found.status, {item.relation for item in found.weights}) == ("holds", {"rounded"})
    weight = numpy_helper.to_array(original.graph.initializer[2]).astype(np.float64)
    error = np.abs(weight - weight.astype(np.float16)).max() / np.abs(weight.astype(np.float16)).max()
    assert found.weights[0].error == pytest.approx(error)


def test_half_precision_of_weights_near_zero_is_told() -> None:
    """ModelOpt's AutoCast writes the smallest number of the type for all of them, also for those below zero."""
    net, tiny = two_layers(), np.finfo(np.float16).smallest_subnormal
    near = np.random.default_rng(0).choice([-5e-8, 3e-18, -2.7e-11], (2, 400))
    for tensor in [item for item in net.weights if len(item.dims) == 2]:
        array = numpy_helper.to_array(tensor).copy()
        array.reshape(-1)[::3] = near[0, : len(array.reshape(-1)[::3])]
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    original = net.model("scores")
    other = stranger(original, lambda array: np.where(np.abs(array) < tiny, tiny, array).astype(np.float16))
    found = of_pair(original, other)
    assert (found.status, {item.relation for item in found.weights}) == ("holds", {"rounded"})


def test_quantised_weights_are_told() -> None:
    original = two_layers().model("scores")
    other = rewrite(original, prove=False).model
    del other.metadata_props[:]
    expected = []
    for tensor in [item for item in other.graph.initializer if item.name in conv_weights(other, 2)]:
        array = numpy_helper.to_array(tensor)
        step = np.float32(np.abs(array).max() / 127)
        whole = np.rint(array / step).astype(np.int8)
        expected.append(np.abs(whole * np.float64(step) - array).max() / np.abs(whole * np.float64(step)).max())
        stored = {"q": whole, "s": step, "z": np.int8(0)}
        for key, value in stored.items():
            other.graph.initializer.append(numpy_helper.from_array(np.asarray(value), f"{tensor.name}_{key}"))
        names = [f"{tensor.name}_{key}" for key in stored]
        other.graph.initializer.remove(tensor)
        other.graph.node.insert(0, helper.make_node("DequantizeLinear", names, [tensor.name]))
    found = of_pair(original, other)
    assert {item.relation for item in found.weights} == {"rounded"}
    assert [item.error for item in found.weights] == pytest.approx(expected, rel=1e-5)
    assert found.weights[0].error > 1e-3


def test_other_weights_have_no_certificate() -> None:
    original = two_layers().model("scores")
    found = of_pair(original, stranger(original, lambda array: array * np.float32(1.5) + np.float32(0.1)))
    assert found.status == "none"
    assert "is in no Conv of the second model, nor are 1 more" in found.reason
    result = check_pair(original, stranger(original, lambda array: array), options=CHECK)
    assert (result.passed, result.parity.certificate.status) == (True, "holds")


@pytest.mark.parametrize("along", [0, 1])
def test_scales_are_told(along: int) -> None:
    """One for each output, as a BatchNormalization behind is folded, or for each channel; and one for all."""
    original = two_layers().model("scores")

    def scale(array: np.ndarray) -> np.ndarray:
        shape = [1] * array.ndim
        shape[along] = -1
        factors: Any = np.linspace(0.5, 2, array.shape[along], dtype=np.float32).reshape(shape)
        return np.asarray(array * factors)

    found = of_pair(original, stranger(original, scale))
    assert [item.relation for item in found.weights] == ["folded", "folded"]
    assert all(0 < item.error < 1e-7 for item in found.weights)
    found = of_pair(original, stranger(original, lambda array: array * np.float32(0.3)))
    assert [item.relation for item in found.weights] == ["scaled", "scaled"]


# Cost


def large(tmp_path: Path, *, external: bool) -> Rewrite:
    net = Net()
    net.fc(net.op("Relu", net.fc(net.flat(), FEATURES, 200_000)), 200_000, 60, out="scores")
    path = tmp_path / "large.onnx"
    onnx.save(net.model("scores"), path, save_as_external_data=external, location="weights.bin")
    return rewrite(path, prove=False)


@pytest.mark.parametrize("external", [True, False])
def test_large_weights_are_compared_where_they_are(external: bool, tmp_path: Path) -> None:
    """Two files of 96 MB: some pieces of them in memory at a time, whatever they are."""
    done = large(tmp_path, external=external)
    done.save(tmp_path / "out.onnx")
    original, other = ModelFile.open(tmp_path / "large.onnx"), ModelFile.open(tmp_path / "out.onnx")
    tracemalloc.start()
    found = certify(original, other)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [item.relation for item in found.weights] == ["same", "same"]
    assert peak < 8 << 20
