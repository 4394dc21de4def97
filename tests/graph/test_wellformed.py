"""Malformed models: found before anything works on them, one line that says what and where, in every command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_runs import fails, here
from fixture_files import fixture_file, fixture_models
from hazards import Net
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from systems import posix

from onnxfc.checker.api import check_pair
from onnxfc.errors import NothingToRewrite, ReadError
from onnxfc.graph.finite_weights import finite
from onnxfc.graph.wellformed import well_formed
from onnxfc.inspector import inspect
from onnxfc.io import byte_source
from onnxfc.io.model_file import ModelFile
from onnxfc.rewriter.api import rewrite
from onnxfc.rewriter.options import RewriteOptions

Change = Callable[[onnx.ModelProto], object]


def good() -> onnx.ModelProto:
    """Conv, Relu, Flatten, Gemm: tensors and nodes are called after their place."""
    net = Net()
    net.input("image", [1, 2, 8, 8])
    conv = net.op("Conv", "image", net.random(3, 2, 3, 3, name="kernel"), net.random(3, name="shift"), out="conv")
    net.op("Flatten", net.op("Relu", conv, out="relu"), out="flat")
    net.op("Gemm", "flat", net.random(108, 5, name="weight"), net.random(5, name="bias"), out="y")
    return net.model("y")


def node(model: onnx.ModelProto, kind: str) -> onnx.NodeProto:
    return next(item for item in model.graph.node if item.op_type == kind)


def tensor(model: onnx.ModelProto, name: str) -> TensorProto:
    return next(item for item in model.graph.initializer if item.name == name)


def attribute(model: onnx.ModelProto, kind: str, **values: object) -> None:
    found = node(model, kind)
    kept = [item for item in found.attribute if item.name not in values]
    del found.attribute[:]
    found.attribute.extend(kept)
    found.attribute.extend(helper.make_attribute(name, value) for name, value in values.items())


def poisoned(name: str, place: tuple[int, ...], value: float) -> Change:
    def change(model: onnx.ModelProto) -> None:
        array = numpy_helper.to_array(tensor(model, name)).copy()
        array[place] = value
        tensor(model, name).CopyFrom(numpy_helper.from_array(array, name))

    return change


def unjoinable(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Concat", ["relu", "kernel"], ["z"], name="joined", axis=1))
    model.graph.output.add(name="z")


def contributed(kind: str, inputs: int, outputs: int = 1, **values: object) -> Change:
    """One of onnxruntime's own operators in the place of Relu."""

    def change(model: onnx.ModelProto) -> None:
        given, made = ["conv", *["shift"] * 8][:inputs], ["relu"][:outputs]
        if not outputs:
            node(model, "Flatten").input[0] = "conv"
        new = helper.make_node(kind, given, made, name="own", domain="com.microsoft", **values)
        node(model, "Relu").CopyFrom(new)
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))

    return change


def branch(name: str, reads: str) -> onnx.GraphProto:
    return helper.make_graph([helper.make_node("Relu", [reads], [name])], "b", [], [onnx.ValueInfoProto(name=name)])


def conditional(model: onnx.ModelProto, reads: str) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    made = node(model, "Relu")
    made.op_type, made.input[:] = "If", ["yes"]
    made.attribute.append(helper.make_attribute("then_branch", branch("a", "conv")))
    made.attribute.append(helper.make_attribute("else_branch", branch("b", reads)))


def functions(**bodies: str) -> Change:
    """Functions, each a chain of calls; the last one in the place of Relu."""

    def change(model: onnx.ModelProto) -> None:
        for name, text in bodies.items():
            calls, opsets = text.split(), [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
            way = ["x", *(f"t{place}" for place in range(1, len(calls))), "y"]
            nodes = [
                helper.make_node(call, [way[place]], [way[place + 1]], domain="own" if call in bodies else "")
                for place, call in enumerate(calls)
            ]
            model.functions.append(helper.make_function("own", name, ["x"], ["y"], nodes, opsets))
        model.opset_import.append(helper.make_opsetid("own", 1))
        node(model, "Relu").domain = "own"
        node(model, "Relu").op_type = name

    return change


MALFORMED: dict[str, tuple[Change, str]] = {
    "no output": (lambda m: node(m, "Conv").output.pop(), "node 'node_conv' (Conv) has no output"),
    "only an empty output": (lambda m: node(m, "Conv").output.__setitem__(0, ""), "'node_conv' (Conv) has no output"),
    "circle": (
        lambda m: node(m, "Conv").input.__setitem__(0, "flat"),
        "in a circle: node_conv → node_flat → node_relu → node_conv",
    ),
    "circle of one": (lambda m: node(m, "Relu").input.__setitem__(0, "relu"), "in a circle: node_relu → node_relu"),
    "made twice": (
        lambda m: node(m, "Relu").output.__setitem__(0, "conv"),
        "two nodes make the tensor 'conv': 'node_conv' and 'node_conv'|two nodes make the tensor 'conv'",
    ),
    "an initializer made": (lambda m: node(m, "Relu").output.__setitem__(0, "bias"), "makes 'bias', which is an input"),
    "nobody": (
        lambda m: m.graph.initializer.remove(tensor(m, "weight")),
        "node 'node_y' (Gemm) reads 'weight', which nobody makes",
    ),
    "nobody in a branch": (lambda m: conditional(m, "ghost"), "reads 'ghost', which nobody makes"),
    "no such output": (lambda m: m.graph.output[0].__setattr__("name", "z"), "nobody makes the output 'z'"),
    "no operator": (lambda m: node(m, "Relu").__setattr__("op_type", ""), "node 'node_relu' has no operator"),
    "two inputs": (lambda m: m.graph.input.add().CopyFrom(m.graph.input[0]), "there are 2 inputs called 'image'"),
    "two initializers": (
        lambda m: m.graph.initializer.add().CopyFrom(tensor(m, "bias")),
        "there are 2 initializers called 'bias'",
    ),
    "ir": (lambda m: m.__setattr__("ir_version", 2**60), "there is no IR version 1152921504606846976"),
    "opset": (lambda m: m.opset_import[0].__setattr__("version", -3), "no version -3 of operator set 'ai.onnx'"),
    "opset of 40 bits": (
        lambda m: m.opset_import[0].__setattr__("version", 2**40),
        "there is no version 1099511627776",
    ),
    "no type": (
        lambda m: tensor(m, "bias").__setattr__("data_type", 0),
        "tensor 'bias' has no data type that is known",
    ),
    "negative dim": (lambda m: tensor(m, "bias").dims.__setitem__(0, -5), "tensor 'bias' has a negative dim: -5"),
    "too few bytes": (
        lambda m: tensor(m, "bias").__setattr__("raw_data", b"1234"),
        "tensor 'bias' with dims 5 needs 20 bytes, it has 4",
    ),
    "no values": (lambda m: tensor(m, "bias").ClearField("raw_data"), "with dims 5 needs 5 values, it has 0"),
    "huge dims": (
        lambda m: tensor(m, "weight").dims.__setitem__(0, 2**40),
        "with dims 1099511627776x5 needs 21,990,232,555,520 bytes, it has 2,160",
    ),
    "too few inputs": (
        lambda m: node(m, "Gemm").input.__delitem__(slice(1, 3)),
        "(Gemm) has 1 inputs, its operator has 2",
    ),
    "too many outputs": (lambda m: node(m, "Relu").output.append("more"), "has 2 outputs, its operator has 1"),
    "input left out": (lambda m: node(m, "Gemm").input.__setitem__(1, ""), "(Gemm) lacks its input 'B'"),
    "one of many left out": (
        lambda m: node(m, "Relu").CopyFrom(
            helper.make_node("Concat", ["conv", ""], ["relu"], name="node_relu", axis=1)
        ),
        "(Concat) lacks its input 'inputs'",
    ),
    "attribute of no type": (
        lambda m: node(m, "Flatten").attribute.add(name="axis", i=1, type=AttributeProto.UNDEFINED),
        "attribute 'axis' has no type",
    ),
    "attribute of a function": (
        lambda m: node(m, "Flatten").attribute.add(name="axis", ref_attr_name="outer", type=AttributeProto.INT),
        "attribute 'axis' refers to 'outer' of a function, and it stands in none",
    ),
    "attribute of another type": (lambda m: attribute(m, "Flatten", axis=1.0), "attribute 'axis' is not of its type"),
    "attribute twice": (
        lambda m: node(m, "Flatten").attribute.extend([helper.make_attribute("axis", 1)] * 2),
        "2 attributes called 'axis'",
    ),
    "attribute left out": (lambda m: node(m, "Relu").__setattr__("op_type", "Concat"), "lacks its attribute 'axis'"),
    "group": (lambda m: attribute(m, "Conv", group=-1), "attribute 'group' cannot be -1"),
    "strides": (lambda m: attribute(m, "Conv", strides=[2, 0]), "attribute 'strides' cannot be [2, 0]"),
    "flag": (lambda m: attribute(m, "Gemm", transB=246), "attribute 'transB' cannot be 246"),
    "axis": (lambda m: attribute(m, "Flatten", axis=9), "(Flatten) is along axes [9] of a tensor that has 4"),
    "weight of another map": (
        lambda m: [m.graph.input[0].type.tensor_type.shape.dim[i].__setattr__("dim_value", 20000) for i in (2, 3)],
        "(Gemm)",
    ),
    "channels": (
        lambda m: m.graph.input[0].type.tensor_type.shape.dim[1].__setattr__("dim_value", 7),
        "(Conv): its weight 'kernel' is made for 2 features, the declared input size gives 7",
    ),
    "cannot run": (unjoinable, "(Concat) cannot run on what the declared input size gives, (1, 3, 6, 6), (3, 2"),
    "bias": (
        lambda m: tensor(m, "bias").CopyFrom(numpy_helper.from_array(np.ones(4, np.float32), "bias")),
        "(Gemm): its bias 'bias' with dims 4 does not fit the 5 outputs of its weight",
    ),
    "bias of a weight that is computed": (
        lambda m: [
            tensor(m, "bias").CopyFrom(numpy_helper.from_array(np.ones(4, np.float32), "bias")),
            m.graph.node.insert(0, helper.make_node("Identity", [node(m, "Gemm").input[1]], ["again"], name="again")),
            node(m, "Gemm").input.__setitem__(1, "again"),
        ],
        "(Gemm): its bias 'bias' with dims 4 does not fit the 5 outputs of its weight",
    ),
    "newer operator": (
        lambda m: node(m, "Relu").__setattr__("op_type", "Gelu"),
        "(Gelu): there is no such operator yet in the version",
    ),
    "own operator, few inputs": (
        contributed("QLinearGlobalAveragePool", 0, channels_last=1),
        "(QLinearGlobalAveragePool) has 0 inputs, its operator has at least 5",
    ),
    "own operator, no weight": (
        lambda m: (contributed("FusedConv", 2)(m), node(m, "FusedConv").input.__setitem__(1, "")),
        "(FusedConv) lacks its input 1",
    ),
    "own operator, no quantised weight": (
        lambda m: (contributed("QLinearConv", 8)(m), node(m, "QLinearConv").input.__setitem__(3, "")),
        "(QLinearConv) lacks its input 3",
    ),
    "own operator, half an input": (contributed("QLinearConcat", 6), "(QLinearConcat) has 6 inputs, its operator has"),
    "own operator, no output": (contributed("QLinearSigmoid", 4, 0), "(QLinearSigmoid) has no output"),
    "own operator, type": (
        contributed("QLinearSoftmax", 5, opset=[13]),
        "(QLinearSoftmax) has an attribute 'opset' that is not of its type",
    ),
    "function of itself": (functions(f="Tanh f"), "functions call each other in a circle: f → f"),
    "functions in a circle": (
        functions(f="h", g="f Relu", h="Tanh g", i="h"),
        "functions call each other in a circle: f → h → g → f|f → g → h → f|g → f → h → g|h → g → f → h",
    ),
    "functions of functions": (
        functions(f0="Relu Relu", **{f"f{k}": f"f{k - 1} f{k - 1}" for k in range(1, 200)}),
        "its 404 nodes come to more than 50,400 once the calls of its 200 functions are inlined",
    ),
    "NaN": (poisoned("weight", (3, 2), np.nan), "weight 'weight' of node 'node_y' (Gemm) has NaN at [3, 2] (1 such"),
    "infinity": (poisoned("kernel", (2, 1, 0, 2), -np.inf), "weight 'kernel' of node 'node_conv' (Conv) has infinity"),
}


TOLD_BY_RUNNING = ("NaN", "infinity", "cannot run", "channels", "weight of another map", "axis", "bias")
TOLD_BY_RUNNING += ("bias of a weight that is computed",)


@pytest.mark.sweep(16)
@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed(kind: str) -> None:
    """Every entrance says the same; the original and the second model of a check alike."""
    change, says = MALFORMED[kind]
    model = good()
    change(model)
    data = model.SerializeToString()
    for action in (inspect, rewrite, lambda model: rewrite(model, prove=False)):
        with pytest.raises(ReadError) as caught:
            action(data)
        line = str(caught.value)
        assert line.startswith("the given model: ")
        assert "\n" not in line
        assert any(part in line for part in says.split("|")), line
    with pytest.raises(ReadError):
        check_pair(data, data)
    if kind not in TOLD_BY_RUNNING:
        with pytest.raises(ReadError) as caught:
            check_pair(good(), data)
        assert any(part in str(caught.value) for part in says.split("|"))


def test_the_model_itself_is_well_formed() -> None:
    rewrite(good())


def test_single_numbers_that_are_computed_as_bounds() -> None:
    """onnx's inference takes them for lists of a length that is not known; onnxruntime does not run it."""
    net = Net()
    features = net.conv(net.input("image", [1, 2, 16, 16]), 2, 3)
    begin, middle = (net.op("Squeeze", net.ints(number), net.ints(0)) for number in (0, 3))
    half = net.op("Relu", net.op("Slice", features, begin, middle, net.ints(3)))
    rest = net.op("Slice", features, middle, net.ints(2**31 - 1), net.ints(3))
    model = net.model(net.op("Concat", half, rest, axis=3), infer=False)
    with pytest.raises(ReadError, match="Slice reads a single number"):
        rewrite(model)
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.Clear()
    with pytest.raises(NothingToRewrite, match=r"\[unknown-shape\] node_slice"):
        rewrite(model, options=RewriteOptions(size=(16, 16)))


def test_bounds_of_all_axes_with_the_axes_left_out() -> None:
    """Steps behind an input that is absent: halves that are worked on, along one axis of all that are named."""
    net = Net()
    features = net.conv(net.image(1, (16, 16), 2), 2, 3, strides=[1, 1])
    begin, middle, end = (net.ints(*bounds) for bounds in ((0, 0, 0, 0), (0, 0, 7, 0), (1, 3, 14, 14)))
    upper = net.op("Tanh", net.op("Slice", features, begin, net.ints(1, 3, 7, 14), "", net.ints(1, 1, 1, 1)))
    lower = net.op("Slice", features, middle, end, "", net.ints(1, 1, 1, 1))
    done = rewrite(net.model(net.op("Concat", upper, lower, axis=2)))
    assert (done.claim.native_size, done.claim.verdict) == ((16,), "exact")  # the height stays


def test_operator_of_another_domain_by_a_name_of_onnx() -> None:
    """It has none of the attributes of its namesake."""
    net = Net()
    made = net.op("Einsum", net.conv(net.image(1, (16, 16), 2), 2, 3), domain="own")
    model = net.model(made, infer=False)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info(made, TensorProto.FLOAT, [1, 3, 7, 7]))
    with pytest.raises(NothingToRewrite, match=r"\[unsupported-operator\]|\[unknown-shape\]"):
        rewrite(model)


def test_weight_of_no_known_shape() -> None:
    """An operator that there is not, in place of onnxruntime's DequantizeLinear: the Conv tells its kernel's size."""
    model = onnx.load(fixture_file("lenet.qdq_own_int16.onnx"))
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    next(node for node in model.graph.node if conv.input[1] in node.output).op_type = "BatchNormalization"
    assert inspect(model).native_size == (28, 28)
    with pytest.raises(NothingToRewrite, match=r"\[unknown-shape\] /conv1/Conv"):
        rewrite(model)


def test_functions_that_layers_share() -> None:
    """Eight thousand nodes, of 64."""
    model = good()
    functions(act="Relu " * 20, layer="act " * 20, net="layer " * 20)(model)
    well_formed(ModelFile.open(model))
    assert rewrite(model, prove=False).claim.native_size == (8, 8)


@pytest.mark.parametrize("command", [("inspect",), ("rewrite", "out.onnx"), ("check", "in.onnx")])
def test_one_line_and_exit_code(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "in.onnx").write_bytes(good().SerializeToString())
    model = good()
    MALFORMED["circle"][0](model)
    (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())
    line = fails(1, command[0], "bad.onnx", *command[1:], cwd=tmp_path)
    assert (
        line == "onnxfc: bad.onnx: is malformed: nodes need each other's outputs in a circle: node_conv → node_flat → "
        "node_relu → node_conv"
    )


@posix
def test_memory_in_proportion_to_the_file(tmp_path: Path) -> None:
    """2.5 kB that declare an image of 20000x20000 took 12.9 GB."""
    model = good()
    MALFORMED["weight of another map"][0](model)
    (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())
    run = here("inspect", "bad.onnx", cwd=tmp_path)
    assert run.code == 1
    assert "node 'node_y' (Gemm)" in run.line
    import resource

    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 1_000_000  # kB


@pytest.mark.sweep(16)
@pytest.mark.parametrize("path", fixture_models()[::3], ids=lambda path: path.stem)
def test_exported_models_are_well_formed(path: Path) -> None:
    model = ModelFile.open(path)
    well_formed(model)
    finite(model)


@pytest.mark.sweep(16)
@pytest.mark.parametrize(("dtype", "threads"), [(np.float16, 1), (np.float32, 1), (np.float64, 1), (np.float32, 2)])
@pytest.mark.parametrize("place", [0, 199_999, 524_287, 600_000, 999_999])
def test_a_large_weight_is_searched_to_its_end(
    tmp_path: Path, dtype: type, place: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if threads == 2:
        monkeypatch.setattr(byte_source, "_LARGE", 1 << 20)
    weight = np.ones((1000, 1000), dtype)
    net = Net(dtype=dtype)
    net.input("x", [1, 1000])
    net.op("MatMul", "x", net.const(weight, "weight"), out="y")
    model = net.model("y")
    finite(ModelFile.open(model.SerializeToString()))
    weight.reshape(-1)[place] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "weight"))
    onnx.save(model, tmp_path / "in.onnx", save_as_external_data=True, location="w")
    with pytest.raises(ReadError, match=rf"NaN at \[{place // 1000}, {place % 1000}\] \(1 such values of 1,000,000\)"):
        finite(ModelFile.open(tmp_path / "in.onnx"))


def test_what_is_not_finite_is_counted_in_both_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(byte_source, "_LARGE", 1 << 20)
    weight = np.ones((1000, 1000), np.float32)
    weight.reshape(-1)[[300_000, 300_007, 999_999]] = np.inf, np.nan, np.nan
    net = Net()
    net.input("x", [1, 1000])
    net.op("MatMul", "x", net.const(weight, "weight"), out="y")
    with pytest.raises(ReadError, match=r"infinity at \[300, 0\] \(3 such values of 1,000,000\)"):
        finite(ModelFile.open(net.model("y").SerializeToString()))


def test_large_finite_weights_are_finite() -> None:
    """Their sum is not."""
    net = Net()
    net.input("x", [1, 600])
    net.op("MatMul", "x", net.const(np.full((600, 600), 3e38, np.float32), "weight"), out="y")
    finite(ModelFile.open(net.model("y").SerializeToString()))


@pytest.mark.parametrize(("operator", "value", "bad"), [
    ("Add", -np.inf, False), ("Add", np.nan, True), ("Mul", np.nan, True), ("Where", np.nan, False),
])  # fmt: skip
def test_masks_may_be_infinite(operator: str, value: float, bad: bool) -> None:
    net = Net()
    x = net.input("x", [1, 8])
    mask = net.const(np.array([0, value] * 4, np.float32), "mask")
    given = (net.const(np.array([True, False] * 4), dtype=bool), x, mask) if operator == "Where" else (x, mask)
    net.op(operator, *given, out="y")
    model = ModelFile.open(net.model("y").SerializeToString())
    if bad:
        with pytest.raises(ReadError, match=r"'mask' of node 'node_y' .* has NaN at \[1\] \(4 such values of 8\)"):
            finite(model)
    else:
        finite(model)


def test_a_weight_in_a_constant_node() -> None:
    model = good()
    value = tensor(model, "weight")
    MALFORMED["NaN"][0](model)
    model.graph.node.insert(0, helper.make_node("Constant", [], ["weight"], value=value))
    model.graph.initializer.remove(tensor(model, "weight"))
    with pytest.raises(ReadError, match="weight 'weight' of node 'node_y'"):
        inspect(model)


def test_nodes_out_of_order_are_read() -> None:
    """onnxruntime takes them, and some tools write them so; also what onnxfc made itself."""
    for model in (good(), rewrite(good()).model):
        nodes = [onnx.NodeProto.FromString(item.SerializeToString()) for item in reversed(model.graph.node)]
        shuffled = onnx.ModelProto()
        shuffled.CopyFrom(model)
        del shuffled.graph.node[:]
        shuffled.graph.node.extend(nodes)
        assert inspect(shuffled).native_size == inspect(model).native_size == (8, 8)
        assert check_pair(good(), shuffled).passed


def test_a_kernel_of_another_rank_than_its_map() -> None:
    """Of an operator whose shapes onnx does not infer."""
    model = good()
    conv = node(model, "Conv")
    conv.op_type, conv.domain = "FusedConv", "com.microsoft"
    conv.attribute.extend([helper.make_attribute("kernel_shape", [3]), helper.make_attribute("activation", "Relu")])
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(NothingToRewrite) as caught:
        rewrite(model)
    assert caught.value.refusals[0].node == "node_conv"


def test_functions_that_onnx_cannot_inline_are_told(tmp_path: Path) -> None:
    """A function of an older operator set than the model's; onnxruntime runs it, and onnx's inliner refuses."""
    inner = helper.make_function(
        "own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    ends = [helper.make_tensor_value_info(name, 1, [1, 3, 8, 8]) for name in ("image", "y")]
    graph = helper.make_graph([helper.make_node("Twice", ["image"], ["y"], domain="own")], "g", ends[:1], ends[1:])
    sets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    onnx.save(helper.make_model(graph, functions=[inner], opset_imports=sets, ir_version=9), tmp_path / "in.onnx")
    for command in ("inspect in.onnx", "rewrite in.onnx out.onnx", "check in.onnx in.onnx"):
        assert "onnx cannot inline its functions: " in fails(1, *command.split(), cwd=tmp_path, run=here)


def test_dims_of_a_batch_that_there_cannot_be() -> None:
    """onnx's shape inference ends the process on these."""
    model = good()
    gather = helper.make_node("GatherND", ["image", "at"], ["picked"], "picks", batch_dims=-(1 << 31))
    model.graph.node.append(gather)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 1), np.int64), "at"))
    with pytest.raises(ReadError, match=r"attribute 'batch_dims' cannot be -2147483648"):
        inspect(model)


def test_an_own_operator_of_a_known_name_that_reads_nothing() -> None:
    """Nobody knows what it makes: the layers behind it read no image."""
    model = good()
    own = node(model, "Relu")
    own.op_type, own.domain = "GroupNormalization", "own"
    del own.input[:]
    model.opset_import.add(domain="own", version=1)
    for action in (rewrite, lambda model: check_pair(model, model)):
        with pytest.raises(NothingToRewrite, match="no-image-input"):
            action(model)


@pytest.mark.parametrize("equation", ["", "nchw->nhwc", "nchw,kc,k->nkhw"])
def test_an_einsum_of_another_number_of_terms(equation: str) -> None:
    net = Net()
    features = net.conv(net.image(1, (16, 16), 2), 2, 3)
    model = net.model(net.op("Einsum", features, net.random(4, 3), equation="nchw,kc->nkhw"))
    node(model, "Einsum").attribute[0].s = equation.encode()
    with pytest.raises(ReadError, match=r"has 2 inputs, its equation [13] terms"):
        inspect(model)


def test_a_split_of_more_parts_than_it_says() -> None:
    """onnx's own inference ends the process."""
    net = Net(18)
    features = net.conv(net.image(1, (16, 16), 2), 2, 4)
    model = net.model(net.op("Split", features, axis=1, num_outputs=2, outputs=2)[0])
    node(model, "Split").output.append("more")
    with pytest.raises(ReadError, match=r"has 3 outputs, its num_outputs says 2"):
        inspect(model)


def test_pads_beyond_any_image() -> None:
    net = Net()
    model = net.model(net.conv(net.image(1, (16, 16), 2), 2, 4, pads=[2**62, 0, 0, 0]))
    with pytest.raises(ReadError, match="'pads' has a number that is larger than any image"):
        inspect(model)
