"""Inference remembers what it found; it must never take one thing for another."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hazards import session
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from onnxfc.graph.op_kinds import MICROSOFT
from onnxfc.shapes.inference import Inference
from onnxfc.shapes.spec import SMALL, InferenceFailed, Spec, of_array

OPSETS = {"": 18}


def infer(inference: Inference, node: onnx.NodeProto, *inputs: Spec | None) -> Spec:
    found = inference.infer(node, inputs, 1)[0]
    assert found is not None
    return found


def test_same_shape_other_values() -> None:
    """Values count, whether they are few or so many that they are not compared one by one."""
    inference = Inference(OPSETS, 8)
    add = helper.make_node("Add", ["a", "b"], ["c"])
    for count in (1, 64, 65, SMALL):
        for value in (1, 2):
            one, two = (of_array(np.full(count, v, np.int64), 1) for v in (value, 10))
            constant = infer(inference, add, one, two).constant
            assert constant is not None
            assert constant.tolist() == [value + 10] * count


def test_large_values_are_not_taken_for_those_that_were_at_their_place() -> None:
    inference = Inference(OPSETS, 8)
    negate = helper.make_node("Neg", ["a"], ["b"])
    for value in range(50):
        constant = infer(inference, negate, of_array(np.full(1000, value, np.int64), 1)).constant
        assert constant is not None
        assert constant[0] == -value


def test_same_inputs_other_attributes() -> None:
    """Also where an attribute is so long that only its digest is kept."""
    inference = Inference(OPSETS, 8)
    one = Spec(1, ((2, 3),))
    for axis, shape in ((0, (4, 3)), (1, (2, 6))):
        assert infer(inference, helper.make_node("Concat", ["a", "b"], ["c"], axis=axis), one, one).native == shape
    for value in (1, 2):
        values = [*[0] * SMALL, value]
        assert infer(inference, helper.make_node("Constant", [], ["c"], value_ints=values)).native == (SMALL + 1,)
        few = helper.make_node("Constant", [], ["c"], value_ints=values[-3000:])
        found = infer(inference, few).constant
        assert found is not None
        assert found[-1] == value


def test_optional_inputs_and_outputs_keep_their_places() -> None:
    inference = Inference(OPSETS, 8)
    image, start = Spec(1, ((1, 8, 8),)), of_array(np.array([1, 1], np.int64), 1)
    end, axes = of_array(np.array([5, 6], np.int64), 1), of_array(np.array([1, 2], np.int64), 1)
    steps = of_array(np.array([2, 1], np.int64), 1)
    full = helper.make_node("Slice", ["x", "s", "e", "a", "p"], ["y"])
    assert infer(inference, full, image, start, end, axes, steps).native == (1, 2, 5)
    short = helper.make_node("Slice", ["x", "s", "e", "a", ""], ["y"])
    assert infer(inference, short, image, start, end, axes, None).native == (1, 4, 5)
    pool = helper.make_node("MaxPool", ["x"], ["y", ""], kernel_shape=[2])
    assert [spec and spec.native for spec in inference.infer(pool, [image], 1)] == [(1, 8, 7), None]
    pool.output[1] = "i"
    assert [spec and spec.native for spec in inference.infer(pool, [image], 1)] == [(1, 8, 7), (1, 8, 7)]


@given(st.lists(st.integers(5, 40), min_size=2, max_size=6), st.integers(1, 3), st.integers(0, 2))
def test_as_if_it_had_no_memory(sizes: list[int], stride: int, pad: int) -> None:
    """Any order of sizes gives what an inference that never saw another gives."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], strides=[stride] * 2, pads=[pad] * 4),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Shape", ["r"], ["s"]),
        helper.make_node("Reshape", ["r", "s"], ["y"]),
    ]

    def shapes(inference: Inference, size: int) -> list[object]:
        specs: dict[str, Spec | None] = {"x": Spec(1, ((1, 3, size, size),)), "w": Spec(1, ((4, 3, 3, 3),))}
        for node in nodes:
            specs.update(zip(node.output, inference.infer(node, [specs[n] for n in node.input], 1), strict=True))
        return [specs[name].shapes for name in "crsy"]  # type: ignore[union-attr]

    one = Inference(OPSETS, 8)
    for size in [*sizes, *sizes]:
        assert shapes(one, size) == shapes(Inference(OPSETS, 8), size)


def test_constants() -> None:
    """A Constant with a tensor in it is read, not evaluated; all others are."""
    inference = Inference(OPSETS, 8)
    tensor = onnx.numpy_helper.from_array(np.array([[1, 2]], np.int32))
    for attribute in ({"value": tensor}, {"value_ints": [3, 4]}, {"value_float": 0.5}):
        found = infer(inference, helper.make_node("Constant", [], ["c"], **attribute))
        assert found.constant is not None
        assert (found.constant.ravel().tolist(), found.dtype) in [([1, 2], 6), ([3, 4], 7), ([0.5], 1)]
    large = helper.make_node("Constant", [], ["c"], value=onnx.numpy_helper.from_array(np.zeros((SMALL, 2), np.int8)))
    assert infer(inference, large) == Spec(3, ((SMALL, 2),))
    text = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("t", 8, [1], [b"a"]))
    assert infer(inference, text).native == (1,)


def test_reshape_of_more_elements_than_64_bits_count() -> None:
    """Places related to places, at the sizes that tell all dims apart."""
    inference = Inference({"": 17}, 8)
    node = helper.make_node("Reshape", ["given", "shape"], ["made"])
    relations = Spec(1, ((3, 70000, 50000, 70000, 50000),))
    shape = of_array(np.array([0, 70000, 50000, -1], np.int64), 1)
    [made] = inference.infer(node, [relations, shape], 1)
    assert made is not None
    assert made.shapes == ((3, 70000, 50000, 70000 * 50000),)


@pytest.mark.parametrize("axis", [1, -1])
def test_concat_of_more_places_than_32_bits_count(axis: int) -> None:
    """Levels of a list, at those sizes."""
    node = helper.make_node("Concat", ["a", "b"], ["c"], axis=axis)
    levels = [Spec(1, ((1, 2374688256),)), Spec(1, ((1, 593672064),))]
    assert infer(Inference({"": 17}, 8), node, *levels).native == (1, 2968360320)


def test_models_of_one_operator_set_share_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to a bound; models of another operator set share nothing with them."""
    monkeypatch.setattr("onnxfc.shapes.inference._REMEMBERED", 100)
    one = Inference.of({"": 18, "other": 1}, 8)
    assert Inference.of({"other": 1, "": 18}, 8) is one
    assert Inference.of({"": 17, "other": 1}, 8) is not one
    assert Inference.of({"": 18, "other": 1}, 9) is not one
    relu = helper.make_node("Relu", ["a"], ["b"])
    made = [infer(one, relu, Spec(1, ((length,),))) for length in range(101)]
    assert infer(one, relu, Spec(1, ((7,),))) is made[7]
    again = Inference.of({"": 18, "other": 1}, 8)
    assert again is one
    assert infer(again, relu, Spec(1, ((7,),))) is not made[7]
    assert infer(again, relu, Spec(1, ((7,),))) == made[7]


def test_a_failure_is_remembered_too() -> None:
    inference = Inference(OPSETS, 8)
    add = helper.make_node("Add", ["a", "b"], ["c"])
    for _ in range(2):
        with pytest.raises(InferenceFailed, match="ncompatible"):
            inference.infer(add, [Spec(1, ((3,),)), Spec(1, ((4,),))], 1)


def test_weights_do_not_count_but_lengths_do() -> None:
    """Convs of one form share their specs, whatever their weights; a Resize does not, whatever its scales are."""
    inference = Inference(OPSETS, 8)
    image = Spec(1, ((1, 2, 8, 8),))
    conv = helper.make_node("Conv", ["x", "w"], ["y"])
    kernels = [of_array(np.full((3, 2, 3, 3), value, np.float32), 1) for value in (1, 2)]
    assert infer(inference, conv, image, kernels[0]) is infer(inference, conv, image, kernels[1])
    resize = helper.make_node("Resize", ["x", "", "s"], ["y"])
    for scale in (2, 3):
        scales = of_array(np.array([1, 1, scale, scale], np.float32), 1)
        assert infer(inference, resize, image, None, scales).native == (1, 2, 8 * scale, 8 * scale)
    top = helper.make_node("TopK", ["x", "k"], ["v", "i"])
    for count in (2, 3):
        assert infer(inference, top, image, of_array(np.array([count], np.int64), 1)).native == (1, 2, 8, count)


def test_outputs_that_are_absent() -> None:
    """Of a node that is evaluated, too."""
    inference = Inference(OPSETS, 8)
    value = of_array(np.array([[[3.0, 1.0, 2.0]]], np.float32), 1)
    pool = helper.make_node("MaxPool", ["x"], ["y", ""], kernel_shape=[2])
    found = inference.infer(pool, [value], 1)
    assert found[1] is None
    assert found[0] is not None
    assert found[0].constant is not None
    assert found[0].constant.tolist() == [[[3, 2]]]


@pytest.mark.parametrize("opset", [4, 9, 10, 11, 18])
@pytest.mark.parametrize("count", [1, 2])
def test_concat_along_an_axis_counted_from_the_end(opset: int, count: int) -> None:
    """Versions before 11 do not say so; exporters write it, and onnxruntime runs it."""
    names = ["a", "b"][:count]
    node = helper.make_node("Concat", names, ["c"], axis=-1)
    found = infer(Inference({"": opset}, 8), node, *[Spec(1, ((2, 3),))] * count)
    assert found.native == (2, 3 * count)
    assert node.attribute[0].i == -1


def flags() -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, 1), min_size=4, max_size=4)


@given(flags(), st.integers(2, 4))
def test_products_of_matrices_that_are_transposed(given: list[int], rank: int) -> None:
    """As onnxruntime makes them."""
    names = ("transA", "transB", "transBatchA", "transBatchB") if rank > 2 else ("transA", "transB")
    told = dict(zip(names, given, strict=False))

    def laid(turned: int, apart: int, rows: int, columns: int) -> tuple[int, ...]:
        rows, columns = (columns, rows) if turned else (rows, columns)
        batch = (2, 3)[: rank - 2]
        return (rows, *batch, columns) if apart else (*batch, rows, columns)

    # With transBatch the first axis comes to stand before the last, and is turned there.
    shapes = [
        laid(told["transA"], told.get("transBatchA", 0), 4, 5),
        laid(told["transB"], told.get("transBatchB", 0), 5, 6),
    ]
    node = helper.make_node("FusedMatMul", ["a", "b"], ["c"], domain=MICROSOFT, **told)
    infos = [helper.make_tensor_value_info(name, 1, shape) for name, shape in zip("ab", shapes, strict=True)]
    graph = helper.make_graph([node], "g", infos, [helper.make_tensor_value_info("c", 1, None)])
    imports = [helper.make_opsetid(*item) for item in (("", 18), (MICROSOFT, 1))]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    feeds = {name: np.ones(shape, np.float32) for name, shape in zip("ab", shapes, strict=True)}
    made = session(model).run(None, feeds)[0]
    assert infer(Inference(OPSETS, 8), node, *[Spec(1, (shape,)) for shape in shapes]).native == made.shape
