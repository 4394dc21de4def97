"""FC layers in every spelling: what Gemm's attributes mean, where the bias comes from, how the weight is stored."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hazards import (
    CHECK,
    FEATURES,
    NATIVE,
    WINDOW,
    Net,
    bodied,
    complete,
    head,
    own_crops,
    proven,
    proven_or_refused,
    refusal,
    session,
)
from onnx import TensorProto, helper, numpy_helper

from onnxfc.rewriter.api import rewrite

M = 7


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def last_conv(model: onnx.ModelProto) -> onnx.NodeProto:
    found: onnx.NodeProto = next(node for node in reversed(model.graph.node) if node.op_type == "Conv")
    return found


def weight_of(model: onnx.ModelProto, node: onnx.NodeProto) -> np.ndarray:
    found = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
    return np.asarray(numpy_helper.to_array(found))


# Gemm


def gemm(
    net: Net,
    flat: str,
    *,
    as_b: bool = False,
    turn_features: bool = False,
    turn_weight: bool = False,
    bias: tuple[int, ...] | None = (M,),
    **attributes: Any,
) -> str:
    """The features as A, or as B with the weight as A; either of them stored turned, and turned back by transA, transB.

    Features as B come by nature turned: (F, N).
    """
    features = net.op("Transpose", flat, perm=[1, 0]) if turn_features != as_b else flat
    out_first = not turn_weight if as_b else turn_weight
    weight = net.random(M, FEATURES) if out_first else net.const(net.noise(M, FEATURES).T.copy())
    operands = [weight, features] if as_b else [features, weight]
    turns = (turn_weight, turn_features) if as_b else (turn_features, turn_weight)
    inputs = operands + ([] if bias is None else [net.random(*bias)])
    result = net.op("Gemm", *inputs, transA=int(turns[0]), transB=int(turns[1]), **attributes)
    return net.op("Transpose", result, perm=[1, 0]) if as_b else str(result)


@pytest.mark.sweep(20)
@pytest.mark.parametrize("as_b", [False, True])
@pytest.mark.parametrize("turn_features", [False, True])
@pytest.mark.parametrize("turn_weight", [False, True])
@pytest.mark.parametrize("alpha", [1.0, 0.5, -2.0])
@pytest.mark.parametrize("beta", [1.0, 0.0, 3.0])
def test_gemm_attributes(as_b: bool, turn_features: bool, turn_weight: bool, alpha: float, beta: float) -> None:
    def body(net: Net, flat: str) -> str:
        turned = {"as_b": as_b, "turn_features": turn_features, "turn_weight": turn_weight}
        return gemm(net, flat, bias=(M, 1) if as_b else (M,), alpha=alpha, beta=beta, **turned)

    done = proven(head(body))
    assert done.map_at_twice == (6, 5)
    assert "Gemm" not in kinds(done.model)
    assert weight_of(complete(done), last_conv(done.model)).shape == (M, 3, *WINDOW)


@pytest.mark.sweep(16)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("beta", [1.0, 2.0])
@pytest.mark.parametrize("bias", [None, (), (1,), (M,), (1, 1), (1, M), (-1, 1), (-1, M)])
def test_gemm_bias_shapes(batch: int, beta: float, bias: tuple[int, ...] | None) -> None:
    """(-1, ...) is a row of biases for every image of the batch."""
    shape = None if bias is None else tuple(batch if length == -1 else length for length in bias)
    done = proven(head(lambda net, flat: gemm(net, flat, bias=shape, beta=beta), batch=batch))
    assert done.model.graph.output[0].type.tensor_type.shape.dim[0].dim_value == batch
    assert "Gemm" not in kinds(done.model)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("bias", [None, (), (1,), (M, 1), (1, 1), (1, -1), (-1,), (M, -1)])
def test_gemm_bias_shapes_with_features_as_b(batch: int, bias: tuple[int, ...] | None) -> None:
    """The result is (M, N) then: a bias that differs per image may be refused, but by reason."""
    shape = None if bias is None else tuple(batch if length == -1 else length for length in bias)
    model = head(lambda net, flat: gemm(net, flat, as_b=True, bias=shape, beta=2.0), batch=batch)
    if bias is not None and -1 in bias and batch > 1:
        assert refusal(model).code == "dynamic-bias"
    else:
        proven(model)


def test_gemm_with_dynamic_batch_and_bias() -> None:
    done = proven(head(lambda net, flat: gemm(net, flat, bias=(1, M)), batch="N"))
    dims = done.model.graph.output[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["N", M, "map_height", "map_width"]


def test_alpha_zero_leaves_the_bias_alone() -> None:
    """0 is not absent: alpha=0 times anything is nothing, and the sum below is the other FC and the bias."""

    def body(net: Net, flat: str) -> str:
        return str(net.op("Add", gemm(net, flat, alpha=0.0), net.fc(flat, FEATURES, M)))

    proven(head(body))


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 21])
def test_gemm_at_every_version(opset: int) -> None:
    done = proven(head(lambda net, flat: gemm(net, flat, turn_weight=True), opset=opset))
    assert [item.version for item in done.model.opset_import] == [opset]


def test_gemm_empty_name_is_an_absent_bias() -> None:
    def body(net: Net, flat: str) -> str:
        return str(net.op("Gemm", flat, net.random(M, FEATURES), "", transB=1))

    proven(head(body))


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_gemm_bias_computed_from_the_image(beta: float) -> None:
    """C is another FC layer's result."""

    def body(net: Net, flat: str) -> str:
        other = net.op("Tanh", net.fc(flat, FEATURES, M))
        return str(net.op("Gemm", flat, net.random(M, FEATURES), other, transB=1, beta=beta))

    proven(head(body))


def test_gemm_bias_computed_from_constants() -> None:
    def body(net: Net, flat: str) -> str:
        bias = net.op("Mul", net.random(M), net.random(M))
        return str(net.op("Gemm", flat, net.random(M, FEATURES), bias, transB=1, beta=2.0))

    proven(head(body))


def test_gemm_bias_of_shape_one_on_large_outputs() -> None:
    """(1,) serves all outputs; it is no vector of M values."""
    done = proven(head(lambda net, flat: gemm(net, flat, bias=(1,))))
    conv = last_conv(done.model)
    bias = next(tensor for tensor in done.model.graph.initializer if tensor.name == conv.input[2])
    assert list(bias.dims) == [M]


def test_product_of_two_features_is_refused() -> None:
    def body(net: Net, flat: str) -> str:
        turned = net.op("Transpose", flat, perm=[1, 0])
        return str(net.op("Gemm", net.op("Tanh", flat), turned))

    assert refusal(head(body, batch=3)).code == "mixes-batch"


# MatMul


def matmul(net: Net, tensor: str, before: int, after: int) -> str:
    return str(net.op("MatMul", tensor, net.random(before, after, name=net.fresh("weight"))))


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("shape", [(), (1,), (M,), (1, M), (1, 1), (3, M), (3, 1)])
def test_matmul_add_in_both_orders(first: bool, shape: tuple[int, ...]) -> None:
    def body(net: Net, flat: str) -> str:
        product, bias = matmul(net, flat, FEATURES, M), net.random(*shape)
        return str(net.op("Add", *((bias, product) if first else (product, bias))))

    done = proven(head(body, batch=3))
    assert "MatMul" not in kinds(done.model)
    if shape == (M,):
        assert kinds(done.model) == ["Conv", "Tanh", "Conv"]


def test_matmul_whose_product_is_an_output_too() -> None:
    """The bias must not reach the product itself."""

    def body(net: Net, flat: str) -> list[str]:
        product = matmul(net, flat, FEATURES, M)
        return [product, str(net.op("Add", product, net.random(M)))]

    proven(head(body))


def test_matmul_with_two_biases() -> None:
    def body(net: Net, flat: str) -> list[str]:
        product = matmul(net, flat, FEATURES, M)
        return [str(net.op("Add", product, net.random(M))), str(net.op("Add", product, net.random(1, M)))]

    proven(head(body))


def test_matmul_added_to_itself() -> None:
    def body(net: Net, flat: str) -> str:
        product = matmul(net, flat, FEATURES, M)
        return str(net.op("Add", product, product))

    proven(head(body))


def test_matmul_minus_bias_and_bias_minus_matmul() -> None:
    def body(net: Net, flat: str) -> list[str]:
        product = matmul(net, flat, FEATURES, M)
        bias = net.random(M)
        return [str(net.op("Sub", product, bias)), str(net.op("Sub", bias, product))]

    proven(head(body))


def test_matmul_add_then_add() -> None:
    """A Conv takes one bias; the second Add is another's."""

    def body(net: Net, flat: str) -> str:
        once = net.op("Add", matmul(net, flat, FEATURES, M), net.random(M))
        return str(net.op("Add", net.random(M), once))

    proven(head(body))


def test_matmul_plus_an_outer_constant() -> None:
    """(M, M) + (1, M): the constant has rows that the product has not; the batch of 1 is broadcast away."""

    def body(net: Net, flat: str) -> str:
        return str(net.op("Add", matmul(net, flat, FEATURES, M), net.random(4, M)))

    model = head(body)
    proven_or_refused(model)


@pytest.mark.parametrize("batch", [1, 2, "N"])
def test_matmul_by_a_vector(batch: int | str) -> None:
    """(N, F) times (F,) is (N,): one score without a class axis."""

    def body(net: Net, flat: str) -> str:
        return str(net.op("MatMul", flat, net.random(FEATURES, gain=0.3)))

    done = proven(head(body, batch=batch))
    assert done.replacements[0].after == "Conv 5x4 3→1"
    assert len(done.model.graph.output[0].type.tensor_type.shape.dim) == 3


def test_transpose_that_moves_nothing_before_the_weight() -> None:
    def body(net: Net, flat: str) -> str:
        weight = net.op("Transpose", net.random(FEATURES, FEATURES), perm=[0, 1])
        return str(net.op("MatMul", flat, weight))

    proven(head(body))


@pytest.mark.parametrize("shape", [(1, 1, M), (1, 1, 1)])
def test_constant_of_higher_rank(shape: tuple[int, ...]) -> None:
    """(1, M) + (1, 1, M) is (1, 1, M): an axis ahead of a batch of 1."""
    proven(head(lambda net, flat: str(net.op("Add", net.fc(flat, FEATURES, M), net.random(*shape)))))


def test_constant_of_higher_rank_moves_a_larger_batch() -> None:
    model = head(lambda net, flat: str(net.op("Add", net.fc(flat, FEATURES, M), net.random(1, 1, M))), batch=2)
    assert refusal(model).code == "mixes-batch"


def test_matmul_on_the_left() -> None:
    """W (M, F) times features (F, N)."""

    def body(net: Net, flat: str) -> str:
        product = net.op("MatMul", net.random(M, FEATURES), net.op("Transpose", flat, perm=[1, 0]))
        return str(net.op("Transpose", product, perm=[1, 0]))

    proven(head(body, batch=2))


def test_matmul_on_the_left_with_bias() -> None:
    def body(net: Net, flat: str) -> str:
        product = net.op("MatMul", net.random(M, FEATURES), net.op("Transpose", flat, perm=[1, 0]))
        return str(net.op("Transpose", net.op("Add", product, net.random(M, 1)), perm=[1, 0]))

    model = head(body)
    proven_or_refused(model)


def test_matmul_with_a_batch_of_one_weight() -> None:
    """(N, 1, F) @ (1, F, M): a Linear on 3-D input. A refusal with reason is right, too."""

    def body(net: Net, flat: str) -> str:
        rows = net.axes("Unsqueeze", flat, [1])
        product = net.op("MatMul", rows, net.random(FEATURES, M))
        return net.axes("Squeeze", product, [1])

    model = head(body)
    proven_or_refused(model)


# Where the weight comes from


def sourced(net: Net, value: np.ndarray, how: str) -> str:
    """A tensor of this value, by way of nodes."""
    shape = list(value.shape)
    if how == "initializer":
        return net.const(value)
    if how == "Constant":
        return str(net.op("Constant", value=numpy_helper.from_array(value)))
    if how == "Constant of floats":
        return str(net.op("Reshape", net.op("Constant", value_floats=value.ravel().tolist()), net.ints(*shape)))
    if how == "Identity":
        return str(net.op("Identity", net.op("Identity", net.const(value))))
    if how == "Cast":
        return str(net.op("Cast", net.const(value.astype(np.float16), dtype=np.float16), to=TensorProto.FLOAT))
    if how == "Transpose":
        return str(net.op("Transpose", net.const(value.T.copy()), perm=[1, 0]))
    if how == "Transpose of Transpose":
        return str(net.op("Transpose", net.op("Transpose", net.const(value))))
    if how == "Transpose of Constant":
        return str(net.op("Transpose", net.op("Constant", value=numpy_helper.from_array(value.T.copy())), perm=[1, 0]))
    if how == "Reshape":
        return str(net.op("Reshape", net.const(value.ravel()), net.ints(shape[0], -1)))
    if how == "Squeeze":
        return net.axes("Squeeze", net.const(value.reshape(1, *shape)), [0])
    if how == "Unsqueeze":
        return net.axes("Squeeze", net.axes("Unsqueeze", net.const(value), [0, 3]), [0, 3])
    if how == "Mul":
        return str(net.op("Mul", net.const(value * 2), net.const(0.5)))
    if how == "Concat":
        return str(net.op("Concat", net.const(value[:2]), net.const(value[2:]), axis=0))
    if how == "Slice":
        wide = np.concatenate([value, value], axis=0)
        return str(net.op("Slice", net.const(wide), net.ints(0), net.ints(shape[0]), net.ints(0)))
    raise AssertionError(how)


SOURCES = (
    *(
        "initializer",
        "Constant",
        "Constant of floats",
        "Identity",
        "Cast",
        "Transpose",
        "Transpose of Transpose",
    ),
    *("Transpose of Constant", "Reshape", "Squeeze", "Unsqueeze", "Mul", "Concat", "Slice"),
)


@pytest.mark.sweep(20)
@pytest.mark.parametrize("how", SOURCES)
@pytest.mark.parametrize("kind", ["Gemm", "Gemm transB", "MatMul"])
@pytest.mark.parametrize("wide", [False, True])
def test_weight_sources(how: str, kind: str, wide: bool) -> None:
    """``wide``: more values than the rules would follow as small constants."""
    outputs = 90 if wide else M

    def body(net: Net, flat: str) -> str:
        value = net.noise(outputs, FEATURES)
        if kind == "Gemm transB":
            return str(net.op("Gemm", flat, sourced(net, value, how), net.random(outputs), transB=1))
        weight = sourced(net, value.T.copy(), how)
        return str(net.op("MatMul", flat, weight) if kind == "MatMul" else net.op("Gemm", flat, weight))

    done = proven(head(body))
    assert not {"Gemm", "MatMul", "Flatten"} & set(kinds(done.model))


@pytest.mark.parametrize("how", SOURCES)
def test_weight_sources_in_another_order(how: str) -> None:
    """Features in the order H, W, C: the weight must be permuted wherever it comes from."""

    def body(net: Net, tensor: str) -> str:
        flat = net.op("Flatten", net.op("Transpose", tensor, perm=[0, 2, 3, 1]))
        weight = sourced(net, net.noise(M, FEATURES), how)
        return str(net.op("Gemm", flat, weight, net.random(M), transB=1, alpha=0.5))

    proven(bodied(body))


@pytest.mark.sweep(16)
@pytest.mark.parametrize("how", SOURCES)
def test_weight_sources_with_pending_scale(how: str) -> None:
    """A scale and a shift per feature wait for the weight."""

    def body(net: Net, flat: str) -> str:
        scaled = net.op("Add", net.op("Mul", flat, net.random(FEATURES)), net.random(1, FEATURES))
        return str(net.op("Gemm", scaled, sourced(net, net.noise(M, FEATURES), how), transB=1))

    proven(head(body))


@pytest.mark.parametrize("how", ["initializer", "Constant", "Identity", "Cast", "Reshape", "Squeeze", "Mul"])
def test_bias_sources(how: str) -> None:
    def body(net: Net, flat: str) -> str:
        bias = net.axes("Squeeze", sourced(net, net.noise(1, M), how), [0])
        return str(net.op("Gemm", flat, net.random(M, FEATURES), bias, transB=1, beta=2.0))

    proven(head(body))


def test_weight_from_constant_of_shape() -> None:
    """All weights alike; a second FC makes the outputs differ."""

    def body(net: Net, flat: str) -> str:
        value = numpy_helper.from_array(np.array([0.05], np.float32))
        weight = net.op("ConstantOfShape", net.ints(FEATURES, 5), value=value)
        return net.fc(net.op("MatMul", net.op("Tanh", flat), weight), 5, M)

    proven(head(body))


def test_weight_from_a_random_node_is_not_proven_or_refused() -> None:
    """A weight that is another at every run can be no Conv that computes the same."""

    def body(net: Net, flat: str) -> str:
        return str(net.op("MatMul", flat, net.op("RandomNormal", shape=[FEATURES, M])))

    with pytest.raises(Exception) as caught:
        rewrite(head(body), check_options=CHECK)
    assert type(caught.value).__name__ in {"NothingToRewrite", "ProofFailed"}


# Weights that are shared


def test_weight_shared_by_two_fc_layers() -> None:
    """One as it is, one after a permutation: the first must not see the second's."""

    def body(net: Net, tensor: str) -> list[str]:
        weight = net.random(M, FEATURES, name="shared")
        chw = net.op("Flatten", tensor)
        hwc = net.op("Flatten", net.op("Transpose", tensor, perm=[0, 2, 3, 1]))
        return [str(net.op("Gemm", flat, weight, transB=1)) for flat in (chw, hwc)]

    proven(bodied(body))


@pytest.mark.parametrize("scaled", [False, True])
def test_weight_shared_by_gemm_and_its_transpose(scaled: bool) -> None:
    """Tied weights: (M, F) down and (F, M) up again."""

    def body(net: Net, flat: str) -> str:
        weight = net.random(M, FEATURES, name="tied")
        if scaled:
            flat = net.op("Mul", flat, net.random(FEATURES))
        down = net.op("Tanh", net.op("Gemm", flat, weight, transB=1))
        return str(net.op("Gemm", down, weight))

    proven(head(body))


def test_weight_shared_with_a_node_that_is_no_fc() -> None:
    """The same tensor is summed up elsewhere, and must keep its dims for that."""

    def body(net: Net, flat: str) -> str:
        weight = net.random(90, FEATURES, name="shared")
        sums = net.axes("ReduceSum", weight, [1], keepdims=0)
        return str(net.op("Add", net.op("Gemm", flat, weight, transB=1), sums))

    done = proven(head(body))
    kept = next(tensor for tensor in done.model.graph.initializer if tensor.name == "shared")
    assert list(kept.dims) == [90, FEATURES]


@pytest.mark.parametrize("how", ["Transpose", "Identity"])
def test_turned_weight_shared_by_two_fc_layers(how: str) -> None:
    """The initializer is read once, by a node whose output is read twice."""

    def body(net: Net, tensor: str) -> list[str]:
        value = net.noise(90, FEATURES)
        weight = sourced(net, value.T.copy(), how)
        chw = net.op("Flatten", tensor)
        hwc = net.op("Flatten", net.op("Transpose", tensor, perm=[0, 2, 3, 1]))
        return [str(net.op("MatMul", flat, weight)) for flat in (chw, hwc)]

    proven(bodied(body))


@pytest.mark.parametrize("how", ["Transpose", "Identity"])
def test_turned_weight_read_by_another_node_too(how: str) -> None:
    """The initializer is read once, and an FC layer and a sum read what was made of it."""

    def body(net: Net, flat: str) -> str:
        weight = sourced(net, net.noise(90, FEATURES).T.copy(), how)
        sums = net.axes("ReduceSum", weight, [0], keepdims=0)
        return str(net.op("Add", net.op("MatMul", flat, weight), sums))

    proven(head(body))


def test_initializer_that_is_a_graph_output() -> None:
    """Without any node between."""

    def body(net: Net, flat: str) -> list[str]:
        weight = net.random(M, FEATURES, name="shared")
        return [str(net.op("Gemm", flat, weight, transB=1)), weight]

    model = head(body)
    done = rewrite(model, check_options=CHECK, prove=False)
    image = np.random.default_rng(0).standard_normal((1, 2, *NATIVE)).astype(np.float32)
    old = session(model).run(None, {"image": image})
    new = session(complete(done)).run(None, {"image": image})
    np.testing.assert_array_equal(new[1], old[1])


def test_weight_that_is_an_output_too() -> None:
    """An initializer may be a graph output: it keeps its dims there."""

    def body(net: Net, flat: str) -> list[str]:
        weight = net.random(M, FEATURES, name="shared")
        return [str(net.op("Gemm", flat, weight, transB=1)), str(net.op("Identity", weight))]

    model = head(body)
    done = rewrite(model, check_options=CHECK, prove=False)
    image = np.random.default_rng(0).standard_normal((1, 2, *NATIVE)).astype(np.float32)
    old = session(model).run(None, {"image": image})
    new = session(complete(done)).run(None, {"image": image})
    assert new[1].shape == (M, FEATURES)
    np.testing.assert_array_equal(new[1], old[1])
    np.testing.assert_allclose(new[0][:, :, 0, 0], old[0], rtol=1e-4, atol=1e-4)


def test_bias_shared_by_fc_layers_and_others() -> None:
    def body(net: Net, flat: str) -> list[str]:
        bias = net.random(M, name="shared")
        one = net.op("Gemm", flat, net.random(M, FEATURES), bias, transB=1, beta=2.0)
        two = net.op("Gemm", flat, net.random(M, FEATURES), bias, transB=1)
        return [str(net.op("Mul", one, bias)), str(net.op("Add", two, bias))]

    proven(head(body))


def test_weight_read_inside_a_subgraph_keeps_its_dims() -> None:
    """The body of an If reads the FC's weight from outside; a flag among the inputs chooses."""

    def body(net: Net, flat: str) -> str:
        weight = net.random(90, FEATURES, name="shared")
        fc = net.op("Gemm", flat, weight, transB=1)
        branches = {}
        for name, kind in (("then", "ReduceMean"), ("else", "ReduceMax")):
            node = helper.make_node(kind, ["shared"], [f"{name}_out"], axes=[1], keepdims=0)
            info = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, [90])
            branches[f"{name}_branch"] = helper.make_graph([node], name, [], [info])
        chosen = net.op("If", net.input("flag", [1], TensorProto.BOOL), **branches)
        return str(net.op("Add", fc, chosen))

    model = head(body)
    done = proven(model, crops=False)
    kept = next(tensor for tensor in done.model.graph.initializer if tensor.name == "shared")
    assert list(kept.dims) == [90, FEATURES]
    for flag in (False, True):
        assert own_crops(model, done, feed={"flag": np.array([flag])}) < 1e-4


# Weights that the caller may override


def overridden(model: onnx.ModelProto, names: list[str], **options: Any) -> float:
    """Deviation at the native size when other values are fed for the overridable initializers."""
    done = rewrite(model, check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed
    rng = np.random.default_rng(8)
    feed = {"image": rng.standard_normal((1, 2, *NATIVE)).astype(np.float32)}
    for tensor in model.graph.initializer:
        if tensor.name in names:
            feed[tensor.name] = 0.3 * rng.standard_normal(tensor.dims).astype(np.float32)
    old = session(model).run(None, feed)[0]
    made = session(complete(done))
    defaults = session(model).run(None, {"image": feed["image"]})[0]
    assert np.abs(old - defaults).max() > 0.1, "the override must matter"
    new = made.run(None, feed)[0]
    return float(np.abs(new[:, :, 0, 0] - old).max() / np.ptp(old))


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_overridable_weight_stays_overridable(turned: bool, alpha: float) -> None:
    def body(net: Net, flat: str) -> str:
        value = net.noise(M, FEATURES)
        weight = net.const(value if turned else value.T.copy(), "weight")
        return str(net.op("Gemm", flat, weight, net.random(M), transB=int(turned), alpha=alpha))

    assert overridden(head(body, overridable=["weight"]), ["weight"]) < 1e-4


@pytest.mark.parametrize("kind", ["Gemm", "Gemm beta", "MatMul"])
def test_overridable_bias_stays_overridable(kind: str) -> None:
    def body(net: Net, flat: str) -> str:
        weight, bias = net.random(M, FEATURES), net.random(M, name="bias")
        if kind == "MatMul":
            product = net.op("MatMul", flat, net.op("Transpose", weight))
            return str(net.op("Add", product, bias))
        return str(net.op("Gemm", flat, weight, bias, transB=1, beta=1.0 if kind == "Gemm" else 0.5))

    assert overridden(head(body, overridable=["bias"]), ["bias"]) < 1e-4


@pytest.mark.parametrize("kind", ["scale", "norm"])
def test_overridable_scale_before_the_fc_stays_overridable(kind: str) -> None:
    def body(net: Net, flat: str) -> str:
        scale = net.random(FEATURES, name="scale")
        if kind == "scale":
            flat = net.op("Mul", flat, scale)
        else:
            rest = [net.random(FEATURES), net.random(FEATURES), net.const(np.ones(FEATURES))]
            flat = net.op("BatchNormalization", flat, scale, *rest)
        return net.fc(flat, FEATURES, M)

    assert overridden(head(body, overridable=["scale"]), ["scale"]) < 1e-4


def test_overridable_weight_behind_transpose_and_identity() -> None:
    def body(net: Net, flat: str) -> str:
        weight = net.op("Identity", net.op("Transpose", net.random(M, FEATURES, name="weight")))
        return str(net.op("MatMul", flat, weight))

    assert overridden(head(body, overridable=["weight"]), ["weight"]) < 1e-4


def test_overridable_weight_in_another_order_and_scaled() -> None:
    def body(net: Net, tensor: str) -> str:
        flat = net.op("Flatten", net.op("Transpose", tensor, perm=[0, 3, 2, 1]))
        flat = net.op("Mul", flat, net.random(FEATURES))
        return str(net.op("Gemm", flat, net.random(M, FEATURES, name="weight"), transB=1))

    assert overridden(bodied(body, overridable=["weight"]), ["weight"]) < 1e-4


def test_overridable_weight_keeps_its_declared_shape() -> None:
    model = head(lambda net, flat: str(net.op("MatMul", flat, net.random(FEATURES, M, name="weight"))))
    model.graph.input.append(helper.make_tensor_value_info("weight", TensorProto.FLOAT, [FEATURES, M]))
    done = proven(model)
    info = next(info for info in done.model.graph.input if info.name == "weight")
    assert [dim.dim_value for dim in info.type.tensor_type.shape.dim] == [FEATURES, M]
    assert any(tensor.name == "weight" for tensor in done.model.graph.initializer)


@pytest.mark.parametrize("turned", [False, True])
def test_initializers_among_the_inputs_at_ir_3(turned: bool) -> None:
    """Before IR version 4 every initializer is listed as input: constants all the same, and every one listed after."""

    def body(net: Net, flat: str) -> str:
        value = net.noise(M, FEATURES)
        weight = net.const(value if turned else value.T.copy(), "weight")
        return str(net.op("Gemm", flat, weight, net.random(M), transB=int(turned), alpha=0.5))

    done = proven(head(body, ir=3, opset=8))
    assert done.model.ir_version == 3
    inputs = {info.name: info for info in done.model.graph.input}
    for tensor in done.model.graph.initializer:
        dims = inputs[tensor.name].type.tensor_type.shape.dim
        assert [dim.dim_value for dim in dims] == list(tensor.dims)
    assert len(inputs) == 1 + len(done.model.graph.initializer)


# The weight's bytes


def test_transb_weight_is_the_conv_weight_byte_for_byte() -> None:
    def body(net: Net, flat: str) -> str:
        return str(net.op("Gemm", flat, net.random(M, FEATURES, name="weight"), net.random(M), transB=1))

    model = head(body)
    done = proven(model)
    before = next(tensor for tensor in model.graph.initializer if tensor.name == "weight")
    after = next(tensor for tensor in complete(done).graph.initializer if tensor.name == "weight")
    assert after.raw_data == before.raw_data
    assert list(after.dims) == [M, 3, *WINDOW]


def test_permuted_weight_values() -> None:
    """w[m, c, y, x] of the Conv is row (y, x, c) of the matrix."""

    def body(net: Net, tensor: str) -> str:
        flat = net.op("Flatten", net.op("Transpose", tensor, perm=[0, 2, 3, 1]))
        return str(net.op("MatMul", flat, net.random(FEATURES, M, name="weight")))

    model = bodied(body)
    done = proven(model)
    stored = next(tensor for tensor in model.graph.initializer if tensor.name == "weight")
    matrix = numpy_helper.to_array(stored).reshape(*WINDOW, 3, M)
    np.testing.assert_array_equal(weight_of(complete(done), last_conv(done.model)), matrix.transpose(3, 2, 0, 1))


def test_float16() -> None:
    net = Net(dtype=np.float16)
    out = net.op("Gemm", net.op("Flatten", net.trunk()), net.random(M, FEATURES), net.random(M), transB=1, alpha=0.5)
    done = rewrite(net.model(out), check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed
    assert {tensor.data_type for tensor in done.model.graph.initializer} == {TensorProto.FLOAT16}


def test_float64_has_no_conv_kernel() -> None:
    """onnxruntime multiplies matrices of doubles, but has no Conv for them: a refusal, or a way around it."""

    def body(net: Net, flat: str) -> str:
        weight = net.const(net.noise(M, FEATURES), dtype=np.float64)
        return str(net.op("Gemm", net.op("Cast", flat, to=TensorProto.DOUBLE), weight, transB=1))

    model = head(body)
    proven_or_refused(model)


def test_images_of_which_one_is_twice_as_large_are_refused() -> None:
    """Does a depth map of half the resolution grow by as many pixels as the image, or by half as many?"""
    net = Net()
    parts = [net.op("Flatten", net.conv(net.input(name, [1, 2, *size]), 2, 3)) for name, size in TWO_IMAGES]
    model = net.model(net.fc(net.op("Concat", *parts, axis=1), 3 * (20 + 4), 5))
    found = refusal(model)
    assert (found.code, found.node) == ("sizes-differ", "depth")
    assert "--input" in found.advice


TWO_IMAGES = (("colour", (12, 10)), ("depth", (6, 5)))


def goes_on(net: Net, x: str) -> str:
    x = net.op("Relu", net.conv(x, 3, 4, (2, 2), strides=[1, 1]))
    return net.fc(net.op("Flatten", x), 4 * (WINDOW[0] - 1) * (WINDOW[1] - 1), M)


def multiple(net: Net, x: str, factor: float, left: bool, form: str) -> str:
    """A matrix that scales, over the rows or the columns of a map, or over its places in a row."""
    height, width = WINDOW
    if form == "rows":
        x = net.op("Reshape", x, net.ints(1, 3, height * width))
    matrix = net.const(factor * np.eye(height * width if form == "rows" else height if left else width))
    inputs = (matrix, x) if left else (x, matrix)
    made = str(net.op("MatMul", *inputs))
    return str(net.op("Reshape", made, net.ints(1, 3, height, width))) if form == "rows" else made


@pytest.mark.parametrize("factor", [1.0, -0.5, 3.0])
@pytest.mark.parametrize(("left", "form"), [(True, "map"), (False, "map"), (False, "rows")])
def test_a_multiple_of_the_identity_is_a_factor(factor: float, left: bool, form: str) -> None:
    """In the trunk, at any size: nothing is mixed."""
    done = proven(bodied(lambda net, x: goes_on(net, multiple(net, x, factor, left, form))))
    assert "MatMul" not in kinds(done.model)


def test_a_multiple_of_the_identity_where_places_meet_themselves() -> None:
    """It is no attention: a gate by what was scaled."""

    def body(net: Net, x: str) -> str:
        return goes_on(net, net.op("Mul", x, net.op("Sigmoid", multiple(net, x, 2.0, False, "rows"))))

    proven(bodied(body))


@pytest.mark.parametrize("change", [(0, 1), (2, 2)])
def test_what_is_nearly_the_identity_mixes_places(change: tuple[int, int]) -> None:
    def body(net: Net, x: str) -> str:
        matrix = np.eye(WINDOW[1])
        matrix[change] += 1e-3
        return goes_on(net, net.op("MatMul", x, net.const(matrix)))

    assert refusal(bodied(body)).code == "fc-over-space"


def test_an_identity_that_may_be_overridden_is_no_factor() -> None:
    net = Net()
    matrix = net.const(np.eye(WINDOW[1]), "matrix")
    model = net.model(goes_on(net, net.op("MatMul", net.trunk(), matrix)), overridable=["matrix"])
    assert refusal(model).code == "fc-over-space"
