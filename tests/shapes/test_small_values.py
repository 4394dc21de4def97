"""Small values that are computed directly are those of onnx's reference evaluator."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from cli_runs import environment
from fixture_files import fixture_file
from hazards import OLD_ONNX
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnxfc.shapes.inference import Inference
from onnxfc.shapes.inference_gaps import must_fit
from onnxfc.shapes.node_call import exact
from onnxfc.shapes.small_values import evaluated
from onnxfc.shapes.spec import InferenceFailed, Spec, of_array

Array = np.ndarray[Any, Any]
Case = tuple[onnx.NodeProto, list[Array | None], int]
Draw = Callable[[st.SearchStrategy[Any]], Any]

INTEGERS = (np.int32, np.int64)
TYPES = (*INTEGERS, np.float32, np.float64)
BINARY = ("Add", "Sub", "Mul", "Div", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Mod", "Min", "Max")
SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)


def reference(node: onnx.NodeProto, inputs: Sequence[Array | None], opset: int) -> Array | None:
    """What onnx's own evaluator gives; None where it cannot run."""
    feed = {name: value for name, value in zip(node.input, inputs, strict=True) if value is not None}
    infos = [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), None) for k, v in feed.items()]
    graph = helper.make_graph([node], "one", infos, [onnx.ValueInfoProto(name=node.output[0])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    try:
        with np.errstate(all="ignore"):
            return np.asarray(ReferenceEvaluator(model).run(None, feed)[0])
    except Exception:
        return None


def same(case: Case) -> bool:
    """Whether the evaluator could run at all; asserts that both give the same then."""
    node, inputs, opset = case
    expected, found = reference(node, inputs, opset), evaluated(node, inputs)
    if expected is None:
        assert found is None or not found.size, (node, inputs, found)
        return False
    assert found is not None, (node, inputs, expected)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape), (node, inputs)
    np.testing.assert_array_equal(found, expected)
    return True


def node(op_type: str, inputs: int, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, [f"i{k}" for k in range(inputs)], ["out"], **attributes)


@st.composite
def arrays(draw: Draw, shapes: st.SearchStrategy[tuple[int, ...]] = SHAPES, types: Sequence[Any] = TYPES) -> Array:
    """Small numbers, zero and negative ones among them, some far from zero."""
    shape, dtype = draw(shapes), draw(st.sampled_from(types))
    numbers = st.one_of(st.integers(-9, 9), st.integers(-(2**31), 2**31 - 1))
    count = int(np.prod(shape))
    values = draw(st.lists(numbers, min_size=count, max_size=count))
    made: Array = np.array(values, dtype).reshape(shape)
    return made / dtype(4) if np.dtype(dtype).kind == "f" else made


@st.composite
def pairs(draw: Draw) -> tuple[Array, Array]:
    """Two arrays of one type whose shapes can be broadcast."""
    shape = draw(SHAPES)
    other = tuple(draw(st.sampled_from((1, length))) for length in shape)[draw(st.integers(0, len(shape))) :]
    dtype = draw(st.sampled_from(TYPES))
    return draw(arrays(st.just(shape), [dtype])), draw(arrays(st.just(other), [dtype]))


@pytest.mark.skipif(OLD_ONNX, reason="the reference of this version of onnx divides, gathers and reduces otherwise")
@given(st.sampled_from(BINARY), pairs(), st.booleans())
@settings(max_examples=250)
def test_arithmetic(op_type: str, operands: tuple[Array, Array], turned: bool) -> None:
    left, right = operands[::-1] if turned else operands
    if op_type == "Mod" and left.dtype.kind == "f":
        assert same((node(op_type, 2, fmod=1), [left, right], 17))
        return
    assert same((node(op_type, 2), [left, right], 17))


def test_integers_are_divided_towards_zero() -> None:
    left, right = np.array([7, -7, 7, -7, 6]), np.array([2, 2, -2, -2, 3])
    found = evaluated(node("Div", 2), [left, right])
    assert found is not None
    assert found.tolist() == [3, -3, -3, 3, 2]


@given(st.sampled_from(("And", "Or")), st.lists(st.booleans(), min_size=3, max_size=3), st.booleans())
def test_logic(op_type: str, left: list[bool], right: bool) -> None:
    one, other = np.array(left), np.array(right)
    assert same((node(op_type, 2), [one, other], 17))
    assert same((node("Not", 1), [one], 17))
    assert same((node("Where", 3), [one, np.arange(3), np.array(-1)], 17))


@given(st.sampled_from(("Abs", "Neg", "Floor", "Ceil", "Identity", "Sqrt")), arrays())
def test_one_operand(op_type: str, value: Array) -> None:
    if op_type not in {"Floor", "Ceil", "Sqrt"} or value.dtype.kind == "f":
        assert same((node(op_type, 1), [value], 17))


@given(arrays(), st.sampled_from(["BOOL", "INT32", "INT64", "FLOAT", "DOUBLE"]))
def test_cast(value: Array, to: str) -> None:
    assert same((node("Cast", 1, to=getattr(onnx.TensorProto, to)), [value], 17))


@pytest.mark.skipif(OLD_ONNX, reason="the reference of this version of onnx divides, gathers and reduces otherwise")
@given(st.sampled_from(("ReduceProd", "ReduceSum", "ReduceMin", "ReduceMax")), st.data())
@settings(max_examples=120)
def test_reductions(op_type: str, data: st.DataObject) -> None:
    """Axes are an attribute, then an input (since opset 13 for sums, 18 for the others)."""
    value = data.draw(arrays(st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple), INTEGERS))
    axes = data.draw(st.none() | st.lists(st.integers(-value.ndim, value.ndim - 1), max_size=2, unique=True))
    axes = [] if axes and len({axis % value.ndim for axis in axes}) < len(axes) else axes
    keep = data.draw(st.sampled_from(({}, {"keepdims": 0}, {"keepdims": 1})))
    assert same((node(op_type, 1, **({"axes": axes} if axes else {}), **keep), [value], 11))
    given_axes = [] if axes is None else [np.array(axes, np.int64)]
    for noop in ({}, {"noop_with_empty_axes": 1}):
        made = node(op_type, 1 + len(given_axes), **keep, **noop)
        assert same((made, [value, *given_axes], 18))


@given(st.data())
@settings(max_examples=150)
def test_slice(data: st.DataObject) -> None:
    value = data.draw(arrays(st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple)))
    axes = data.draw(st.lists(st.integers(0, value.ndim - 1), max_size=value.ndim, unique=True))
    bounds = st.integers(-7, 7) | st.sampled_from((2**31 - 1, -(2**31), 2**63 - 1, -(2**63) + 1))
    lists = st.lists(bounds, min_size=len(axes), max_size=len(axes))
    starts, ends = data.draw(lists), data.draw(lists)
    steps = data.draw(st.lists(st.sampled_from((1, 2, -1, -2)), min_size=len(axes), max_size=len(axes)))
    axes = [axis - value.ndim if data.draw(st.booleans()) else axis for axis in axes]
    inputs = [np.array(item, np.int64) for item in (starts, ends, axes, steps)]
    assert same((node("Slice", 5), [value, *inputs], 13))
    assert same((node("Slice", 4), [value, *inputs[:3]], 13))
    if axes:
        assert same((node("Slice", 1, starts=starts, ends=ends, axes=axes), [value], 9))
    no_axes = helper.make_node("Slice", ["i0", "i1", "i2", "", "i4"], ["out"])
    assert same((no_axes, [value, inputs[0], inputs[1], None, inputs[3]], 13))


@pytest.mark.skipif(OLD_ONNX, reason="the reference of this version of onnx divides, gathers and reduces otherwise")
@given(st.data())
@settings(max_examples=120)
def test_gather_and_concat(data: st.DataObject) -> None:
    value = data.draw(arrays(st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)))
    axis = data.draw(st.integers(-value.ndim, value.ndim - 1))
    length = value.shape[axis]
    indices = data.draw(arrays(st.lists(st.integers(0, 3), max_size=2).map(tuple), INTEGERS))
    assert same((node("Gather", 2, axis=axis), [value, indices % length - length * (indices < 0)], 13))
    assert same((node("Gather", 2), [value, np.array(0)], 13))
    same((node("Gather", 2, axis=axis), [value, indices], 13))  # most are out of range
    assert same((node("Concat", 3, axis=axis), [value, value[:0] if axis in (0, -value.ndim) else value, value], 13))


@given(st.data())
@settings(max_examples=120)
def test_squeeze_and_unsqueeze(data: st.DataObject) -> None:
    value = data.draw(arrays(st.lists(st.integers(1, 2), max_size=4).map(tuple)))
    ones = [axis for axis, length in enumerate(value.shape) if length == 1]
    axes = sorted(data.draw(st.lists(st.sampled_from(ones), unique=True)) if ones else [])
    assert same((node("Squeeze", 2), [value, np.array(axes, np.int64)], 13))
    assert same((node("Squeeze", 1, **({"axes": axes} if axes else {})), [value], 11))
    places = st.integers(-value.ndim - 2, value.ndim + 1)
    inserted = data.draw(st.lists(places, min_size=2, max_size=2, unique_by=lambda k: k % (value.ndim + 2)))
    assert same((node("Unsqueeze", 2), [value, np.array(inserted, np.int64)], 13))
    assert same((node("Unsqueeze", 1, axes=sorted(k % (value.ndim + 2) for k in inserted)), [value], 11))


@given(st.data())
@settings(max_examples=120)
def test_other_shapes(data: st.DataObject) -> None:
    value = data.draw(arrays(st.lists(st.integers(1, 4), max_size=3).map(tuple)))
    shape = data.draw(st.sampled_from(((-1,), (1, -1), (-1, 1), (*value.shape, 1), (0, -1)[: 1 + value.ndim])))
    same((node("Reshape", 2), [value, np.array(shape, np.int64)], 17))
    assert same((node("Reshape", 2, allowzero=1), [value, np.array([1, *value.shape], np.int64)], 17))
    assert same((node("Flatten", 1, axis=data.draw(st.integers(-value.ndim, value.ndim))), [value], 17))
    perm = data.draw(st.permutations(range(value.ndim)))
    assert same((node("Transpose", 1, **({"perm": perm} if perm else {})), [value], 17))
    assert same((node("Transpose", 1), [value], 17))
    more = [2, *(length if length > 1 else 3 for length in value.shape)]
    assert same((node("Expand", 2), [value, np.array(more, np.int64)], 17))
    assert same((node("Expand", 2), [value, np.array([1], np.int64)], 17))
    repeats = data.draw(st.lists(st.integers(0, 2), min_size=value.ndim, max_size=value.ndim))
    assert same((node("Tile", 2), [value, np.array(repeats, np.int64)], 17))
    fill = {"value": numpy_helper.from_array(np.array([7], value.dtype))}
    made = node("ConstantOfShape", 1, **data.draw(st.sampled_from(({}, fill))))
    assert same((made, [np.array(value.shape, np.int64)], 17))


@given(st.integers(-9, 9), st.integers(-9, 9), st.integers(-3, 3), st.sampled_from(TYPES))
def test_range(start: int, end: int, step: int, dtype: Any) -> None:
    assert same((node("Range", 3), [np.array(x, dtype) for x in (start, end, step)], 17)) == (step != 0)


def test_what_does_not_fit_is_left_to_the_evaluator() -> None:
    one, two = np.arange(3), np.arange(2)
    halves = np.zeros(2, np.float16)
    assert evaluated(node("Add", 2), [one, two]) is None
    assert evaluated(node("Add", 2), [one, one.astype(np.int32)]) is None
    assert evaluated(node("Add", 2), [halves, halves]) is None
    assert evaluated(node("Split", 1), [one]) is None
    assert evaluated(helper.make_node("Add", ["a", "b"], ["c"], domain="other"), [one, one]) is None
    assert evaluated(node("Cast", 1, to=onnx.TensorProto.UINT8), [one]) is None
    assert evaluated(node("Slice", 3), [one, two, None]) is None


def test_an_unknown_input_makes_an_unknown_output() -> None:
    """Steps of a Slice that are there, but of which nothing is known, are not steps of one."""
    inference = Inference({"": 13}, 8)
    given_ = [np.arange(8), *(np.array([k], np.int64) for k in (0, 8, 0))]
    assert inference.run(node("Slice", 5), [*given_, None]) == [None]
    [found] = inference.run(node("Slice", 4), given_)
    assert found is not None
    assert found.tolist() == list(range(8))


def test_the_rest_is_the_evaluators() -> None:
    inference = Inference({"": 13}, 8)
    [found] = inference.infer(node("Exp", 1), [of_array(np.array([0.0], np.float32), 1)], 1)
    assert found is not None
    assert found.constant is not None
    assert found.constant.tolist() == [1.0]


@pytest.mark.parametrize("name", ["keras_branches.tf2onnx", "shaped.dynamo", "unfolded.torchscript", "blocks.dynamo"])
def test_sizes_that_a_graph_computes_need_no_evaluator(name: str) -> None:
    code = "import sys, onnxfc; onnxfc.rewrite(sys.argv[1], prove=False); assert 'onnx.reference' not in sys.modules"
    command = [sys.executable, "-c", code, str(fixture_file(f"{name}.onnx"))]
    done = subprocess.run(command, env=environment(), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("value", [np.inf, np.nan, 0.1])
def test_what_is_no_small_fraction_is_not_exact(value: float) -> None:
    assert exact(np.array([1.0, value])) is None
    assert exact(np.array(["1"])) is None


@pytest.mark.parametrize(("begin", "end", "fits"), [(4, 0, True), (5, 0, False), (0, 4, True), (4, -1, False)])
def test_what_a_border_can_mirror(begin: int, end: int, fits: bool) -> None:
    """Of five places four, once those are gone that are cut off."""
    node = helper.make_node("Pad", ["x"], ["y"], mode="reflect", pads=[0, begin, 0, end])
    given = [Spec(1, ((1, 5),))]
    if fits:
        must_fit(node, given)
    else:
        with pytest.raises(InferenceFailed, match="Pad cannot reflect"):
            must_fit(node, given)
