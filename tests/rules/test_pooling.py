"""Global pools in every spelling, heads that are only a pool, and pools that are no head at all."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hazards import (
    CHANNELS,
    CHECK,
    FEATURES,
    NATIVE,
    OLD_RUNTIME,
    STRIDE,
    WINDOW,
    Net,
    bodied,
    complete,
    head,
    proven,
    proven_or_refused,
    refusal,
    refusals,
    session,
)

from onnxfc.errors import UsageError
from onnxfc.reports.rewrite import text
from onnxfc.rewriter.api import rewrite
from onnxfc.rewriter.options import RewriteOptions

M = 6
H, W = WINDOW

Spelling = Callable[[Net, str], str]


def _two_steps(kind: str, first: int, second: int, keepdims: int) -> Spelling:
    def spell(net: Net, tensor: str) -> str:
        once = net.axes(kind, tensor, [first], keepdims=keepdims)
        return net.axes(kind, once, [second], keepdims=keepdims)

    return spell


def _rows(kind: str, keepdims: int) -> Spelling:
    """(N, C, H*W), then reduced over the last axis."""

    def spell(net: Net, tensor: str) -> str:
        rows = net.op("Reshape", tensor, net.ints(0, CHANNELS, -1))
        return net.axes(kind, rows, [-1], keepdims=keepdims)

    return spell


SPELLINGS: dict[str, Spelling] = {
    "GlobalAveragePool": lambda net, x: net.op("GlobalAveragePool", x),
    "GlobalMaxPool": lambda net, x: net.op("GlobalMaxPool", x),
    "AveragePool stride 1": lambda net, x: net.op("AveragePool", x, kernel_shape=[H, W]),
    "AveragePool stride = kernel": lambda net, x: net.op("AveragePool", x, kernel_shape=[H, W], strides=[H, W]),
    "AveragePool stride 2": lambda net, x: net.op("AveragePool", x, kernel_shape=[H, W], strides=[2, 2], pads=[0] * 4),
    "AveragePool ceil": lambda net, x: net.op("AveragePool", x, kernel_shape=[H, W], strides=[9, 9], ceil_mode=1),
    "AveragePool VALID": lambda net, x: net.op("AveragePool", x, kernel_shape=[H, W], auto_pad="VALID"),
    "AveragePool SAME": lambda net, x: net.op(
        "AveragePool", x, kernel_shape=[H, W], strides=[H, W], auto_pad="SAME_UPPER", count_include_pad=1
    ),
    "MaxPool": lambda net, x: net.op("MaxPool", x, kernel_shape=[H, W]),
    "MaxPool stride = kernel": lambda net, x: net.op("MaxPool", x, kernel_shape=[H, W], strides=[H, W]),
    "ReduceMean": lambda net, x: net.axes("ReduceMean", x, [2, 3], keepdims=1),
    "ReduceMean flat": lambda net, x: net.axes("ReduceMean", x, [2, 3], keepdims=0),
    "ReduceMean negative": lambda net, x: net.axes("ReduceMean", x, [-1, -2], keepdims=0),
    "ReduceMean mixed": lambda net, x: net.axes("ReduceMean", x, [-2, 3], keepdims=0),
    "ReduceMean default keepdims": lambda net, x: net.axes("ReduceMean", x, [3, 2]),
    "ReduceMean 3, 2": _two_steps("ReduceMean", 3, 2, 0),
    "ReduceMean 2, 2": _two_steps("ReduceMean", 2, 2, 0),
    "ReduceMean -1, -1": _two_steps("ReduceMean", -1, -1, 0),
    "ReduceMean 3, 2 kept": _two_steps("ReduceMean", 3, 2, 1),
    "ReduceMean 2, 3 kept": _two_steps("ReduceMean", 2, 3, 1),
    "ReduceMean rows": _rows("ReduceMean", 0),
    "ReduceMean rows kept": _rows("ReduceMean", 1),
    "ReduceMax": lambda net, x: net.axes("ReduceMax", x, [2, 3], keepdims=1),
    "ReduceMax flat": lambda net, x: net.axes("ReduceMax", x, [-1, -2], keepdims=0),
    "ReduceMax 3, 2": _two_steps("ReduceMax", 3, 2, 0),
    "ReduceMax rows": _rows("ReduceMax", 0),
    "ReduceSum": lambda net, x: net.axes("ReduceSum", x, [2, 3], keepdims=0),
    "ReduceSum kept": lambda net, x: net.axes("ReduceSum", x, [2, 3], keepdims=1),
    "ReduceSum rows": _rows("ReduceSum", 0),
    "ReduceMin": lambda net, x: net.axes("ReduceMin", x, [2, 3], keepdims=0),
    "ReduceL2": lambda net, x: net.axes("ReduceL2", x, [2, 3], keepdims=0),
    "GlobalLpPool": lambda net, x: net.op("GlobalLpPool", x, p=2),
    "LpPool": lambda net, x: net.op("LpPool", x, kernel_shape=[H, W], p=2),
    "sum over count": lambda net, x: net.op("Div", net.axes("ReduceSum", x, [2, 3], keepdims=0), net.const(H * W)),
}
MAY_BE_REFUSED = {"ReduceMin", "ReduceL2", "GlobalLpPool", "LpPool", "AveragePool SAME"}


def pooled(spell: Spelling, *, opset: int = 17, batch: int | str = 2, only: bool = False) -> onnx.ModelProto:
    def body(net: Net, tensor: str) -> str:
        flat = net.op("Flatten", spell(net, tensor))
        return flat if only else net.fc(flat, CHANNELS, M)

    return bodied(body, opset=opset, batch=batch)


def in_its_spelling(model: onnx.ModelProto, name: str) -> None:
    if name in MAY_BE_REFUSED:
        proven_or_refused(model)
    else:
        proven(model)


@pytest.mark.sweep(20)
@pytest.mark.parametrize("opset", [11, 13, 18, 21])
@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings(name: str, opset: int) -> None:
    if name == "AveragePool ceil" and opset < 10:
        pytest.skip("ceil_mode came with operator set 10")
    in_its_spelling(pooled(SPELLINGS[name], opset=opset), name)


@pytest.mark.sweep(20)
@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("batch", [1, "N"])
def test_head_that_is_only_a_pool(name: str, batch: int | str) -> None:
    """SqueezeNet: the last Conv gives the classes, the pool their mean."""
    in_its_spelling(pooled(SPELLINGS[name], batch=batch, only=True), name)


@pytest.mark.sweep(16)
@pytest.mark.parametrize("name", ["GlobalAveragePool", "ReduceMean", "AveragePool stride = kernel", "GlobalMaxPool"])
@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("opset", [11, 13])
def test_pool_without_flatten(name: str, kind: str, opset: int) -> None:
    """The output is (N, K, 1, 1): its two axes of 1 become the grid."""

    def body(net: Net, tensor: str) -> str:
        return str(net.op(kind, SPELLINGS[name](net, tensor), axis=1))

    done = proven(bodied(body, opset=opset))
    assert done.claim.outputs[0].form == "cells"
    assert done.claim.outputs[0].axes == (2, 3)


def test_pool_as_the_output_itself() -> None:
    done = proven(bodied(lambda net, tensor: net.op("GlobalAveragePool", tensor)))
    assert done.claim.outputs[0].form == "cells"
    assert done.claim.stride == STRIDE


@pytest.mark.parametrize("axes", [[1], [1, 2], [0, 2, 3], [0, 1, 2, 3], [1, 2, 3], None])
def test_reductions_that_are_no_global_pool(axes: list[int] | None) -> None:
    """Never a wrong rewrite: over channels, over rows, over the batch, over all."""

    def body(net: Net, tensor: str) -> str:
        reduced = net.axes("ReduceMean", tensor, axes, keepdims=1)
        flat = net.op("Flatten", net.op("Add", net.op("Tanh", reduced), reduced))
        length = math.prod(n for axis, n in ((1, CHANNELS), (2, H), (3, W)) if axis not in (axes or range(4)))
        return net.fc(flat, length, M)

    proven_or_refused(bodied(body))


@pytest.mark.skipif(OLD_RUNTIME, reason="this version of onnxruntime reduces all axes there")
def test_reduce_with_empty_axes_that_does_nothing() -> None:
    def body(net: Net, tensor: str) -> str:
        same = net.op("ReduceMean", tensor, noop_with_empty_axes=1, keepdims=1)
        return net.fc(net.op("Flatten", same), CHANNELS * H * W, M)

    proven(bodied(body, opset=18))


def test_average_and_max_beside_each_other() -> None:
    def body(net: Net, tensor: str) -> str:
        both = net.op("Concat", net.op("GlobalAveragePool", tensor), net.op("GlobalMaxPool", tensor), axis=1)
        return net.fc(net.op("Flatten", both), 2 * CHANNELS, M)

    proven(bodied(body))


def test_pool_flattened_beside_the_window_flattened() -> None:
    def body(net: Net, tensor: str) -> str:
        both = net.op(
            "Concat",
            net.op("Flatten", net.op("GlobalAveragePool", tensor)),
            net.op("Flatten", tensor),
            axis=1,
        )
        return net.fc(both, CHANNELS * (1 + H * W), M)

    proven(bodied(body))


def test_conv_head_behind_the_pool() -> None:
    """1x1 Convs on (N, C, 1, 1), BatchNormalization, then Flatten."""

    def body(net: Net, tensor: str) -> str:
        point = net.op("Relu", net.conv(net.op("GlobalAveragePool", tensor), CHANNELS, 8, (1, 1), strides=[1, 1]))
        return str(net.op("Flatten", net.conv(point, 8, M, (1, 1), strides=[1, 1])))

    proven(bodied(body))


def test_one_and_three_dimensions() -> None:
    for shape in ([2, 2, 31], [2, 2, 5, 7, 9]):
        net = Net()
        rank = len(shape) - 2
        trunk = net.op("Tanh", net.conv(net.input("image", shape), 2, 4, (3,) * rank))
        done = proven(net.model(net.fc(net.op("Flatten", net.op("GlobalAveragePool", trunk)), 4, M)))
        assert done.claim.stride == (2,) * rank


@pytest.mark.parametrize("kind", ["ReduceMean", "ReduceMax"])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_channels_last_pool(kind: str, keepdims: int) -> None:
    """Keras: (N, H, W, C), mean over axes 1 and 2, MatMul, Add."""
    net = Net()
    image = net.input("image", [2, *NATIVE, 2])
    trunk = net.op("Tanh", net.conv(net.op("Transpose", image, perm=[0, 3, 1, 2]), 2, CHANNELS))
    last = net.op("Transpose", trunk, perm=[0, 2, 3, 1])
    mean = net.axes(kind, last, [1, 2], keepdims=keepdims)
    flat = net.op("Reshape", mean, net.ints(-1, CHANNELS))
    out = net.op("Add", net.op("MatMul", flat, net.random(CHANNELS, M)), net.random(M))
    proven(net.model(out))


@pytest.mark.parametrize("channels", [1, 2])
def test_channels_last_image_that_meets_its_pool_first(channels: int) -> None:
    """No Conv says which axes are the image's: as (N, C, H, W) it is read wrongly, and there is another reading."""
    net = Net()
    image = net.input("image", [1, 7, 7, channels])
    pooled = net.op("GlobalAveragePool", net.op("Relu", net.op("Transpose", image, perm=[0, 3, 1, 2])))
    proven(net.model(net.fc(net.op("Flatten", pooled), channels, M)))


# Pools of the trunk, and context


def test_pool_of_the_trunk_with_a_kernel_as_large_as_its_map() -> None:
    """A second Conv slides over what it left: it is a pool like any other."""
    net = Net()
    trunk = net.op("Tanh", net.conv(net.image(1, (12, 12)), 2, 3, (3, 3)))
    pool = net.op("MaxPool", trunk, kernel_shape=[5, 5], strides=[1, 1])
    more = net.op("Tanh", net.conv(pool, 3, 4, (1, 1), strides=[1, 1]))
    proven(net.model(net.fc(net.op("Flatten", more), 4, M)))


def test_same_padding_of_a_pool_that_is_smaller_than_its_stride() -> None:
    """Kernel 1, stride 3, 12 pixels: (4 - 1) * 3 + 1 - 12 = -2 pads. Refused by reason, or right."""
    net = Net()
    pool = net.op("AveragePool", net.image(1, (12, 12)), kernel_shape=[1, 1], strides=[3, 3], auto_pad="SAME_UPPER")
    proven_or_refused(net.model(net.fc(net.op("Flatten", pool), 2 * 16, M)))


def test_global_pool_then_padded_conv_is_refused() -> None:
    """A 3x3 Conv on (N, C, 1, 1) sees its padding only; slid over the map it would see neighbours."""

    def body(net: Net, tensor: str) -> str:
        point = net.op("GlobalAveragePool", tensor)
        more = net.conv(point, CHANNELS, 4, (3, 3), strides=[1, 1], pads=[1, 1, 1, 1])
        return net.fc(net.op("Flatten", net.op("Tanh", more)), 4, M)

    model = bodied(body)
    proven_or_refused(model)


def squeeze_excite(net: Net, tensor: str, channels: int, spell: Spelling | None = None) -> str:
    pool = (spell or SPELLINGS["GlobalAveragePool"])(net, tensor)
    small = net.op("Relu", net.conv(pool, channels, 2, (1, 1), strides=[1, 1]))
    gate = net.op("Sigmoid", net.conv(small, 2, channels, (1, 1), strides=[1, 1]))
    return str(net.op("Mul", tensor, gate))


@pytest.mark.parametrize("pool", ["window", "keep", "drop"])
@pytest.mark.parametrize("spelling", ["GlobalAveragePool", "ReduceMean", "AveragePool stride = kernel"])
def test_squeeze_and_excitation_is_context(pool: str, spelling: str) -> None:
    """Its pool stays global, whatever the option; the verdict is approximate, and blames it."""

    def body(net: Net, tensor: str) -> str:
        gated = squeeze_excite(net, tensor, CHANNELS, SPELLINGS[spelling])
        return net.fc(net.op("Flatten", net.op("GlobalAveragePool", gated)), CHANNELS, M)

    done = proven(bodied(body), exact=False, global_pool=pool)
    assert any(item.startswith("context") for item in done.claim.blame)
    kept = [node for node in done.model.graph.node if "Global" in node.op_type or node.op_type == "ReduceMean"]
    assert len(kept) == (2 if pool == "keep" else 1)


def test_squeeze_and_excitation_by_fc_layers() -> None:
    """Flatten, Gemm, Reshape back to (N, C, 1, 1), Mul: the Gemms belong to the context, not to the head."""

    def body(net: Net, tensor: str) -> str:
        flat = net.op("Flatten", net.op("GlobalAveragePool", tensor))
        gate = net.op("Sigmoid", net.fc(net.op("Relu", net.fc(flat, CHANNELS, 2)), 2, CHANNELS))
        gated = net.op("Mul", tensor, net.op("Reshape", gate, net.ints(-1, CHANNELS, 1, 1)))
        return net.fc(net.op("Flatten", gated), CHANNELS * H * W, M)

    done = proven(bodied(body), exact=False)
    assert any(item.startswith("context") for item in done.claim.blame)


def test_two_squeeze_and_excitations_in_a_row() -> None:
    def body(net: Net, tensor: str) -> str:
        once = squeeze_excite(net, tensor, CHANNELS)
        more = net.op("Tanh", net.conv(once, CHANNELS, 4, (2, 2), strides=[1, 1]))
        return net.fc(net.op("Flatten", squeeze_excite(net, more, 4)), 4 * (H - 1) * (W - 1), M)

    done = proven(bodied(body), exact=False)
    assert sum("globalaveragepool" in item for item in done.claim.blame) == 2


def test_result_of_windows_that_goes_back_into_an_excited_trunk_is_refused() -> None:
    """The excitation before it is context; what comes back to the map here is an FC layer's result, and no pool's."""

    def body(net: Net, tensor: str) -> str:
        gate = net.op("Sigmoid", net.op("GlobalAveragePool", tensor))
        excited = net.op("Mul", tensor, gate)
        scores = net.fc(net.op("Flatten", excited), FEATURES, CHANNELS)
        back = net.op("Add", excited, net.op("Reshape", scores, net.ints(0, CHANNELS, 1, 1)))
        return net.fc(net.op("Flatten", back), FEATURES, M)

    assert refusal(bodied(body)).code == "head-rejoins-trunk"


def test_context_and_head_from_one_pool() -> None:
    """The same pool gates the map and goes into the head: only as context can it do both."""

    def body(net: Net, tensor: str) -> str:
        pool = net.op("GlobalAveragePool", tensor)
        gated = net.op("Mul", tensor, net.op("Sigmoid", pool))
        both = net.op("Concat", net.op("Flatten", gated), net.op("Flatten", pool), axis=1)
        return net.fc(both, CHANNELS * (H * W + 1), M)

    proven_or_refused(bodied(body), exact=False)


def test_mean_of_the_map_subtracted_is_context() -> None:
    """x - mean(x) over space: instance normalisation by hand."""

    def body(net: Net, tensor: str) -> str:
        centred = net.op("Sub", tensor, net.axes("ReduceMean", tensor, [2, 3], keepdims=1))
        return net.fc(net.op("Flatten", centred), CHANNELS * H * W, M)

    proven(bodied(body), exact=False)


# --global-pool keep


STEPS = (
    "ReduceMean 3, 2",
    "ReduceMean 2, 2",
    "ReduceMean -1, -1",
    "ReduceMean 3, 2 kept",
    "ReduceMean 2, 3 kept",
    "ReduceMax 3, 2",
)

ROWS = ("ReduceMean rows", "ReduceMean rows kept", "ReduceMax rows")


@pytest.mark.sweep(16)
@pytest.mark.parametrize(
    "name",
    [n for n in SPELLINGS if n not in MAY_BE_REFUSED and ("um" not in n or n == "sum over count")],
)
def test_keep(name: str) -> None:
    """One vector at any size: that of the original's own operator, run on the larger image."""
    model = pooled(SPELLINGS[name], opset=13)
    done = rewrite(model, options=RewriteOptions(global_pool="keep"), check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed
    assert done.claim.outputs[0].form == "global"
    rng = np.random.default_rng(1)
    large = rng.standard_normal((2, 2, 23, 17)).astype(np.float32)
    freed = pooled(SPELLINGS["GlobalMaxPool" if "Max" in name else "GlobalAveragePool"], opset=13)
    for info in (*freed.graph.input, *freed.graph.output):
        info.type.tensor_type.ClearField("shape")
    want = session(freed).run(None, {"image": large})[0]
    got = session(complete(done)).run(None, {"image": large})[0]
    assert got.shape == (2, M)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in SPELLINGS if "um" in name and "count" not in name])
def test_keep_of_a_sum(name: str) -> None:
    """A sum over the whole of a larger image is no score: it grows with the image."""
    assert refusal(pooled(SPELLINGS[name]), global_pool="keep").code


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("kind", ["ReduceMax", "ReduceMean", "ReduceMin"])
def test_keep_of_channels_and_places_together(kind: str, flat: bool) -> None:
    """One figure of the whole map at any size: that of the original's own trunk, run on the larger image."""
    net = Net(17)
    trunk = net.trunk()
    reduced = net.axes(kind, net.op("Flatten", trunk) if flat else trunk, [1] if flat else [1, 2, 3], keepdims=0)
    done = rewrite(net.model(reduced), options=RewriteOptions(global_pool="keep"), check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed
    assert [output.form for output in done.claim.outputs] == ["global"]
    assert [item.after for item in done.replacements] == ["kept global"]
    freed = Net(17)
    freed_trunk = freed.trunk()
    features = freed.model(freed_trunk, infer=False)
    for info in (*features.graph.input, *features.graph.output):
        info.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        info.type.tensor_type.ClearField("shape")
    for size in ((23, 17), (9, 8)):
        image = np.random.default_rng(1).standard_normal((1, 2, *size)).astype(np.float32)
        want = getattr(np, kind.removeprefix("Reduce").lower())(session(features).run(None, {"image": image})[0])
        got = session(complete(done)).run(None, {"image": image})[0]
        assert got.shape == (1,)
        np.testing.assert_allclose(got[0], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("kind", ["ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceProd"])
def test_keep_of_a_sum_of_channels_and_places_together(kind: str, flat: bool) -> None:
    """A plain ReduceSum is a count, which is kept where it is the result."""
    net = Net(17)
    trunk = net.op("Flatten", net.trunk()) if flat else net.trunk()
    model = net.model(net.axes(kind, trunk, [1] if flat else [1, 2, 3], keepdims=0))
    found = refusal(model, global_pool="keep")
    assert found.code == ("unsupported-reduction" if kind == "ReduceProd" else "sum-over-image")


def summed(net: Net, x: str, divided: str) -> str:
    """A sum over places, and what is done to it before its FC layer."""
    total = net.axes("ReduceSum", net.op("Relu", x), [2, 3], keepdims=0)
    others = {"bias": net.op("Add", total, net.random(3)), "softmax": net.op("Softmax", total, axis=1)}
    others["one norm"] = net.op("Concat", total, net.op("LpNormalization", total, axis=1), axis=1)
    others["mean"] = net.op("Div", total, net.axes("ReduceMean", net.op("Abs", x), [2, 3], keepdims=0))
    return net.fc(others[divided], 6 if divided == "one norm" else 3, 4)


@pytest.mark.parametrize("divided", ["bias", "softmax", "one norm", "mean"])
def test_keep_of_a_sum_of_which_something_grows_is_refused(divided: str) -> None:
    """Whatever stands behind it: a bias, a Softmax, a norm on one of two ways, a mean that it is divided by."""
    assert refusal(bodied(lambda net, x: summed(net, x, divided)), global_pool="keep").code == "sum-over-image"


@pytest.mark.parametrize("pool", ["keep", "drop"])
def test_an_option_that_changes_nothing_says_so(pool: str) -> None:
    done = proven(head(lambda net, flat: net.fc(flat, FEATURES, 4)), global_pool=pool)
    assert [note.code for note in done.notes] == ["no-global-pool"]
    assert f"--global-pool {pool} changes nothing" in text(done)
    assert not proven(head(lambda net, flat: net.fc(flat, FEATURES, 4))).notes


@pytest.mark.parametrize(("case", "size"), [("netvlad-keep", (40, 36)), ("crowd-count-sum-keep", (64, 48))])
def test_shared_cases_of_kept_sums(case: str, size: tuple[int, int]) -> None:
    """The original itself, freed of its declared size, on a larger image."""
    path = Path(__file__).parents[3] / "shared" / "cases" / f"{case}.onnx"
    if not path.exists():
        pytest.skip(f"not there: {path}")
    done = rewrite(path, options=RewriteOptions(global_pool="keep"), check_options=CHECK)
    original = onnx.load(path)
    given = original.graph.input[0]
    for dim in given.type.tensor_type.shape.dim[2:]:
        dim.Clear()
    shape = (1, given.type.tensor_type.shape.dim[1].dim_value, *size)
    image = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    for got, want in zip(*(session(m).run(None, {given.name: image}) for m in (complete(done), original)), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * float(np.abs(want).max()))


@pytest.mark.parametrize("window", ["Flatten", "GlobalMaxPool 2x2"])
def test_keep_beside_a_window(window: str) -> None:
    """One vector of the whole image beside one of each window: refused by reason, or proven."""

    def body(net: Net, tensor: str) -> str:
        pooled = net.op("Flatten", net.op("GlobalAveragePool", tensor))
        small = tensor if window == "Flatten" else net.op("MaxPool", tensor, kernel_shape=[H - 1, W - 1])
        length = CHANNELS * (H * W if window == "Flatten" else 4)
        return net.fc(net.op("Concat", pooled, net.op("Flatten", small), axis=1), CHANNELS + length, M)

    assert refusal(bodied(body), global_pool="keep").code


# --global-pool drop


def dropped(model: onnx.ModelProto, grid: tuple[int, int] = (3, 2)) -> float:
    """Deviation of the mean over each window of the activation map from the original on the crop."""
    done = rewrite(model, options=RewriteOptions(global_pool="drop"), check_options=CHECK)
    assert done.parity is not None
    assert done.parity.passed
    assert done.claim.outputs[0].form == "activation"
    rng = np.random.default_rng(3)
    size = [n + (g - 1) * s for n, g, s in zip(NATIVE, grid, STRIDE, strict=True)]
    image = rng.standard_normal((1, 2, *size)).astype(np.float32)
    maps = session(complete(done)).run(None, {"image": image})[0]
    assert maps.shape[-2:] == (H + grid[0] - 1, W + grid[1] - 1)
    old, worst, every = session(model), 0.0, []
    for row, column in np.ndindex(*grid):
        y, x = row * STRIDE[0], column * STRIDE[1]
        want = old.run(None, {"image": image[:, :, y : y + NATIVE[0], x : x + NATIVE[1]]})[0].ravel()
        got = maps[..., row : row + H, column : column + W].mean(axis=(-1, -2)).ravel()
        every.append(want)
        worst = max(worst, float(np.abs(got - want).max()))
    return worst / float(np.ptp(every))


AVERAGES = (
    "GlobalAveragePool",
    "AveragePool stride = kernel",
    "ReduceMean",
    "ReduceMean flat",
    "ReduceMean rows",
)


@pytest.mark.parametrize(
    "name",
    AVERAGES,
)
@pytest.mark.parametrize("only", [False, True])
def test_drop(name: str, only: bool) -> None:
    assert dropped(pooled(SPELLINGS[name], batch=1, only=only)) < 1e-4


def test_mean_of_a_dropped_pool_is_of_the_whole_image_as_a_kept_one() -> None:
    model = pooled(SPELLINGS["GlobalAveragePool"])
    mean = proven(model, exact=False, output="mean", global_pool="drop").claim
    kept = proven(model, exact=False, global_pool="keep").claim
    assert mean.outputs[0].form == kept.outputs[0].form == "global"
    assert mean.blame == kept.blame == ("context: node_globalaveragepool_5",)


@pytest.mark.parametrize("strides", [[1, 1], [1, 2]])
def test_drop_beside_an_output_of_a_coarser_grid_is_refused(strides: list[int]) -> None:
    """Every second place of an activation map would no longer be the mean that it is for."""
    net = Net()
    x = net.trunk()
    deep = net.conv(x, CHANNELS, 2, (1, 1), strides=strides)
    late = net.fc(net.op("Flatten", deep), 2 * H * (W // strides[1]), M)
    model = net.model(net.fc(net.op("Flatten", net.op("GlobalAveragePool", x)), CHANNELS, M), late)
    if strides == [1, 1]:
        assert [output.form for output in proven(model, crops=False, global_pool="drop").claim.outputs] == [
            "activation",
            "map",
        ]
    else:
        assert refusal(model, global_pool="drop").code == "grids-differ"
        proven(model)


def test_drop_with_an_affine_body() -> None:
    """BatchNormalization, two FC layers without activation between them, scale and shift."""

    def body(net: Net, tensor: str) -> str:
        flat = net.op("Flatten", net.op("GlobalAveragePool", tensor))
        stats = [
            net.random(CHANNELS),
            net.random(CHANNELS),
            net.random(CHANNELS),
            net.const(np.ones(CHANNELS)),
        ]
        first = net.fc(net.op("BatchNormalization", flat, *stats), CHANNELS, 5)
        return str(net.op("Div", net.op("Sub", net.const(1.0), net.fc(first, 5, M)), net.const(np.full(M, 3.0))))

    assert dropped(bodied(body)) < 1e-4


NOT_AFFINE: dict[str, Callable[[Net, str], str]] = {
    "Softmax": lambda net, x: net.op("Softmax", net.fc(x, CHANNELS, M)),
    "Relu": lambda net, x: net.fc(net.op("Relu", x), CHANNELS, M),
    "Sigmoid": lambda net, x: net.op("Sigmoid", net.fc(x, CHANNELS, M)),
    "Mul by itself": lambda net, x: net.fc(net.op("Mul", x, x), CHANNELS, M),
    "two Fcs multiplied": lambda net, x: net.op("Mul", net.fc(x, CHANNELS, M), net.fc(x, CHANNELS, M)),
    "one over": lambda net, x: net.op("Div", net.const(1.0), net.op("Add", net.fc(x, CHANNELS, M), net.const(9.0))),
    "LayerNormalization": lambda net, x: net.fc(net.op("LayerNormalization", x, net.random(CHANNELS)), CHANNELS, M),
    "ReduceMax": lambda net, x: net.axes("ReduceMax", net.fc(x, CHANNELS, M), [1], keepdims=1),
    "Max": lambda net, x: net.op("Max", net.fc(x, CHANNELS, M), net.const(0.0)),
    "Pow": lambda net, x: net.op("Pow", net.fc(x, CHANNELS, M), net.const(2.0)),
    "Clip": lambda net, x: net.op("Clip", net.fc(x, CHANNELS, M), net.const(-0.1), net.const(0.1)),
    "ArgMax": lambda net, x: net.op("ArgMax", net.fc(x, CHANNELS, M), axis=1),
    "Gemm by its own gate": lambda net, x: net.op(
        "Mul", net.fc(x, CHANNELS, M), net.op("Sigmoid", net.fc(x, CHANNELS, M))
    ),
}


@pytest.mark.sweep(16)
@pytest.mark.parametrize("name", NOT_AFFINE)
def test_drop_is_refused_for_what_is_not_affine(name: str) -> None:
    def body(net: Net, tensor: str) -> str:
        return NOT_AFFINE[name](net, net.op("Flatten", net.op("GlobalAveragePool", tensor)))

    model = bodied(body)
    assert refusal(model, global_pool="drop").code == "drop-not-affine"
    proven(model)


@pytest.mark.parametrize("name", ["GlobalMaxPool", "ReduceMax", "MaxPool"])
def test_drop_is_refused_for_a_maximum(name: str) -> None:
    assert refusal(pooled(SPELLINGS[name]), global_pool="drop").code == "drop-not-affine"


def test_drop_of_a_sum_is_no_mean() -> None:
    """The mean over the cells would be the sum divided by their number."""
    model = pooled(SPELLINGS["ReduceSum"], batch=1)
    if refusals(model, global_pool="drop"):
        assert refusal(model, global_pool="drop").code == "drop-not-affine"
    else:
        assert dropped(model) < 1e-4


def test_drop_and_max_contradict_each_other() -> None:
    with pytest.raises(UsageError, match="--output max"):
        rewrite(pooled(SPELLINGS["ReduceMean"]), options=RewriteOptions(global_pool="drop", output="max"))


# --output


@pytest.mark.parametrize("form", ["mean", "max"])
@pytest.mark.parametrize("only", [False, True])
@pytest.mark.parametrize("name", ["GlobalAveragePool", "ReduceMean rows", "GlobalMaxPool"])
def test_reduced_outputs(form: str, only: bool, name: str) -> None:
    done = proven(pooled(SPELLINGS[name], only=only), output=form)
    dims = done.model.graph.output[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims] == [2, CHANNELS if only else M]


@pytest.mark.parametrize("form", ["mean", "max"])
def test_reduced_cells_keep_their_rank(form: str) -> None:
    done = proven(bodied(lambda net, tensor: net.op("GlobalAveragePool", tensor)), output=form)
    dims = done.model.graph.output[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims] == [1, CHANNELS, 1, 1]


@pytest.mark.parametrize("kind", ["ReduceMean", "ReduceSum"])
def test_weighted_features_of_several_channels(kind: str) -> None:
    """A table times all features, summed up at once: the sum is over several channels, and no channel stays alone."""

    def body(net: Net, features: str) -> str:
        weighted = net.op("Add", net.op("Mul", features, net.random(FEATURES)), net.random(FEATURES))
        return net.fc(net.op("Sub", features, net.axes(kind, weighted, [1], keepdims=1)), FEATURES, M)

    proven(head(body))


def test_a_branch_whose_features_never_vary() -> None:
    """Its boundary has no signal: what equals it exactly is right."""

    def body(net: Net, tensor: str) -> str:
        dead = net.op("Relu", net.op("Conv", tensor, net.random(2, CHANNELS, 3, 3), net.const([-1e6, -1e6])))
        left = net.fc(net.op("Flatten", net.op("Relu", tensor)), FEATURES, M)
        return str(net.op("Add", left, net.fc(net.op("Flatten", dead), 2 * 3 * 2, M)))

    parity = proven(bodied(body)).parity
    assert parity is not None
    still = [output for output in parity.native.outputs if output.signal == 0]
    assert [(output.deviation, output.passed) for output in still] == [(0.0, True)]
