"""Weights of a Softmax over places, however they are summed up: each window's own in a head, the image's in a trunk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHECK, Net, bodied, complete, own_crops, proven, refusal, session
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_networks import tried

from onnxfc.rewriter.api import rewrite
from onnxfc.rewriter.options import RewriteOptions

CASES = Path(__file__).parent.parent.parent.parent / "shared" / "cases"
C, M = 3, 5
SIZE = (11, 9)

FORMS = ("map", "last", "rows", "tokens")
"""(N, C, H, W), (N, H, W, C), (N, C, H W) and (N, H W, C)."""
BY = ("Softmax", "Exp", "largest first", "ReduceLogSumExp", "Log")
"""The operator; exp(x) / sum(exp(x)), or less the largest ahead; exp(x - log(sum(exp(x))))."""
SUMS = ("ReduceSum", "one by one", "backwards", "GlobalAveragePool", "ReduceMean", "MatMul", "Einsum", "ones")


@dataclass(frozen=True)
class Spelling:
    """How weights over places are made, what they weigh, and how that is summed up."""

    softmax: str
    product: str
    sums: str
    one: bool
    keepdims: bool
    table: str
    opset: int
    by: str = "Softmax"


class Places:
    """Tensors over the places of a map, in any of the forms."""

    def __init__(self, net: Net, extent: tuple[int, int]) -> None:
        self.net, self.extent = net, extent

    def shape(self, form: str, channels: int) -> list[int]:
        (height, width), flat = self.extent, self.extent[0] * self.extent[1]
        shapes = {"map": [channels, height, width], "last": [height, width, channels]}
        return [1, *(shapes | {"rows": [channels, flat], "tokens": [flat, channels]})[form]]

    def axes(self, form: str) -> list[int]:
        return {"map": [2, 3], "last": [1, 2], "rows": [2], "tokens": [1]}[form]

    def to(self, tensor: str, channels: int, before: str, after: str) -> str:
        """A tensor in another form, by way of rows."""
        net = self.net
        if before == after:
            return tensor
        if before in {"last", "tokens"}:
            tokens = tensor if before == "tokens" else self.reshaped(tensor, "tokens", channels)
            tensor = net.op("Transpose", tokens, perm=[0, 2, 1])
        elif before == "map":
            tensor = self.reshaped(tensor, "rows", channels)
        if after in {"last", "tokens"}:
            tensor = net.op("Transpose", tensor, perm=[0, 2, 1])
        return tensor if after in {"rows", "tokens"} else self.reshaped(tensor, after, channels)

    def reshaped(self, tensor: str, form: str, channels: int) -> str:
        return str(self.net.op("Reshape", tensor, self.net.ints(*self.shape(form, channels))))

    def summed(self, tensor: str, form: str, how: str, keepdims: bool) -> str:
        """The sum over all places, (1, C)."""
        net, axes, keep = self.net, self.axes(form), int(keepdims)
        count = net.const(float(np.prod(self.extent)))
        if how == "ReduceSum":
            tensor = net.axes("ReduceSum", tensor, axes, keepdims=keep)
        elif how in {"one by one", "backwards"}:
            for axis in axes[:: -1 if how == "backwards" or not keep else 1]:
                tensor = net.axes("ReduceSum", tensor, [axis], keepdims=keep)
        elif how == "ReduceMean":
            tensor = net.op("Mul", net.axes("ReduceMean", tensor, axes, keepdims=keep), count)
        elif how == "GlobalAveragePool":
            tensor = net.op("Mul", net.op("GlobalAveragePool", self.to(tensor, C, form, "map")), count)
        elif how == "Einsum":
            letters = {"map": "ncij", "last": "nijc", "rows": "nci", "tokens": "nic"}[form]
            tensor = net.op("Einsum", tensor, equation=f"{letters}->nc")
        else:  # times a column of ones
            ones = net.const(np.ones((int(np.prod(self.extent)), 1)))
            tensor = net.op("MatMul", self.to(tensor, C, form, "rows"), ones)
        return str(net.op("Reshape", tensor, net.ints(1, C)))


def shares(net: Net, logits: str, axis: int, by: str) -> str:
    """Softmax, as an operator or by hand."""
    if by == "Softmax":
        return str(net.op("Softmax", logits, axis=axis))
    if by == "ReduceLogSumExp":
        return str(net.op("Exp", net.op("Sub", logits, net.axes(by, logits, [axis], keepdims=1))))
    if by == "largest first":
        logits = net.op("Sub", logits, net.axes("ReduceMax", logits, [axis], keepdims=1))
    raised = net.op("Exp", logits)
    total = net.axes("ReduceSum", raised, [axis], keepdims=1)
    if by == "Log":
        return str(net.op("Exp", net.op("Sub", logits, net.op("Log", total))))
    return str(net.op("Div", raised, total))


def pooled(net: Net, x: str, how: Spelling, extent: tuple[int, int]) -> str:
    """sum(softmax(w) * x), the weights from a 1x1 Conv, one for all channels or one for each: (1, C)."""
    places, channels = Places(net, extent), 1 if how.one else C
    kernel, bias = net.noise(channels, C, 1, 1, gain=4.0), net.const(np.zeros(channels))
    logits = places.to(net.op("Conv", x, net.const(kernel), bias), channels, "map", how.softmax)
    axis = 1 if how.softmax == "tokens" else 2
    weights = places.to(shares(net, logits, axis, how.by), channels, how.softmax, how.product)
    features = places.to(x, C, "map", how.product)
    if how.sums == "MatMul":  # (1, K, HW) times (1, HW, C)
        rows, tokens = places.to(weights, channels, how.product, "rows"), places.to(features, C, how.product, "tokens")
        made = net.op("MatMul", rows, tokens)
        made = made if how.one else net.op("Slice", made, net.ints(0), net.ints(1), net.ints(1))
        return str(net.op("Reshape", made, net.ints(1, C)))
    weighed = net.op("Mul", weights, features)
    if how.table:
        shape = places.shape(how.product, 1)
        table = net.const(np.linspace(-1, 2, int(np.prod(shape))).reshape(shape))
        weighed = net.op("Mul", *((weighed, table) if how.table == "behind" else (table, weighed)))
    return places.summed(weighed, how.product, how.sums, how.keepdims)


@st.composite
def spellings(draw: Any, tables: bool = True) -> Spelling:
    softmax = draw(st.sampled_from(["rows", "tokens"]))
    opset = draw(st.sampled_from([12, 13, 17, 20]))
    softmax = "rows" if opset < 13 else softmax
    return Spelling(
        softmax,
        draw(st.sampled_from(FORMS)),
        draw(st.sampled_from(SUMS)),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.sampled_from(["", "behind", "ahead"])) if tables else "",
        opset,
        draw(st.sampled_from(BY)),
    )


QUIET = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=tried(60), **QUIET)
@given(spellings(), st.booleans())
def test_each_window_has_its_own_in_a_head(how: Spelling, layer: bool) -> None:
    """Every cell is what the original says of its crop, in every spelling; an FC layer may follow."""
    net = Net(how.opset)
    vector = pooled(net, net.trunk(), how, (5, 4))
    model = net.model(net.fc(vector, C, M) if layer else net.op("Neg", vector))
    done = rewrite(model, check_options=CHECK)
    assert done.claim.verdict == "exact"
    assert own_crops(model, done) < 1e-5


def context(how: Spelling, size: tuple[int, int]) -> onnx.ModelProto:
    """The weighted sum added to every place of the map, which is the output: made for images of this size."""
    net = Net(how.opset)
    x = net.op("Tanh", net.conv(net.image(size=size), 2, C))
    vector = pooled(net, x, how, ((size[0] - 1) // 2, (size[1] - 1) // 2))
    made = net.op("Add", x, net.op("Reshape", vector, net.ints(1, C, 1, 1)))
    return net.model(net.op("Conv", made, net.random(M, C, 1, 1), out="map"))


@settings(max_examples=tried(40), **QUIET)
@given(spellings(tables=False), st.sampled_from([(17, 21), (24, 11), (31, 30)]))
def test_the_whole_image_has_them_in_a_trunk(how: Spelling, size: tuple[int, int]) -> None:
    """As the same network says that was made for the larger image. Or refused: never by the weights of a window."""
    if how.sums == "ones":  # a matrix of the native size
        assert refusal(context(how, SIZE)).code in {"fc-over-space", "softmax-over-space"}
        return
    done = rewrite(context(how, SIZE), check_options=CHECK)
    assert done.claim.verdict == "approximate"
    image = np.random.default_rng(size[0]).standard_normal((1, 2, *size)).astype(np.float32)
    want = session(context(how, size)).run(None, {"image": image})[0]
    got = session(complete(done)).run(None, {"image": image})[0]
    assert np.abs(got - want).max() < 1e-5 * want.std()


# What stands between, beside and behind


def weights(net: Net, x: str, channels: int = 1, opset: int = 17) -> str:
    """Softmax over the 5x4 places of the usual map, in the form of the map."""
    places = Places(net, (5, 4))
    logits = net.op("Conv", x, net.const(net.noise(channels, C, 1, 1, gain=4.0)))
    rows = net.op("Softmax", places.to(logits, channels, "map", "rows"), axis=2)
    return places.to(rows, channels, "rows", "map")


def gated(net: Net, x: str) -> str:
    return str(net.op("Mul", weights(net, x), x))


def layer(net: Net, vector: str, features: int = C) -> str:
    return net.fc(net.op("Flatten", vector), features, M)


def total(net: Net, tensor: str) -> str:
    return net.axes("ReduceSum", tensor, [2, 3], keepdims=1)


def through_a_conv(net: Net, x: str) -> str:
    return layer(net, total(net, net.op("Conv", gated(net, x), net.random(C, C, 1, 1), net.random(C))))


def through_a_norm(net: Net, x: str) -> str:
    scale = [net.const([0.5, 1.0, 2.0]) for _ in range(4)]
    return layer(net, net.op("GlobalAveragePool", net.op("BatchNormalization", gated(net, x), *scale)))


def largest(net: Net, x: str) -> str:
    return layer(net, net.op("GlobalMaxPool", gated(net, x)))


def largest_by_axes(net: Net, x: str) -> str:
    return layer(net, net.axes("ReduceMax", net.axes("ReduceMax", gated(net, x), [3]), [2]))


def every_place(net: Net, x: str) -> str:
    return layer(net, gated(net, x), C * 20)


def weights_themselves(net: Net, x: str) -> str:
    return layer(net, weights(net, x), 20)


def beside_the_map(net: Net, x: str) -> str:
    return layer(net, net.op("GlobalAveragePool", net.op("Add", x, gated(net, x))))


def beside_a_mean(net: Net, x: str) -> str:
    return layer(net, net.op("Concat", total(net, gated(net, x)), net.op("GlobalAveragePool", x), axis=1), 2 * C)


def marginals(net: Net, x: str) -> str:
    """The weights of rows and of columns, each as it is, by an FC layer."""
    heat = weights(net, x, C)
    rows, columns = (net.op("Flatten", net.axes("ReduceSum", heat, [axis], keepdims=0)) for axis in (3, 2))
    return net.fc(net.op("Concat", rows, columns, axis=1), C * 9, M)


def deviations(net: Net, x: str) -> str:
    """sum(w (x - sum(w x))^2), as attentive statistics have it."""
    w = weights(net, x)
    mean = total(net, net.op("Mul", w, x))
    apart = net.op("Sub", x, mean)
    variance = total(net, net.op("Mul", w, net.op("Mul", apart, apart)))
    return layer(net, net.op("Concat", mean, net.op("Sqrt", variance), axis=1), 2 * C)


def weighed_twice(net: Net, x: str) -> str:
    return layer(net, total(net, net.op("Mul", weights(net, x), net.op("Mul", weights(net, x), x))))


def some_rows(net: Net, x: str) -> str:
    return layer(net, total(net, net.op("Slice", gated(net, x), net.ints(1), net.ints(4), net.ints(2))))


def with_the_channels(net: Net, x: str) -> str:
    return str(net.axes("ReduceSum", gated(net, x), [1, 2, 3], keepdims=0))


def several_queries(net: Net, x: str) -> str:
    return layer(net, net.op("Einsum", weights(net, x, 2), x, equation="nkij,ncij->nkc"), 2 * C)


def hardest(net: Net, x: str) -> str:
    """The features of the one place that a Conv chooses."""
    places = Places(net, (5, 4))
    rows = net.op("Hardmax", places.to(net.op("Conv", x, net.random(1, C, 1, 1)), 1, "map", "rows"), axis=2)
    return layer(net, total(net, net.op("Mul", places.to(rows, 1, "rows", "map"), x)))


OWN = (
    *(through_a_conv, through_a_norm, largest, largest_by_axes, every_place, weights_themselves, beside_the_map),
    *(beside_a_mean, marginals, deviations, weighed_twice, some_rows, with_the_channels, several_queries, hardest),
)


@pytest.mark.sweep(12)
@pytest.mark.parametrize("body", OWN, ids=lambda item: item.__name__)
def test_each_windows_own(body: Any) -> None:
    model = bodied(body)
    done = proven(model)
    assert own_crops(model, done) < 1e-5


@pytest.mark.parametrize("body", [every_place, weights_themselves], ids=lambda item: item.__name__)
@pytest.mark.parametrize("pool", ["keep", "drop"])
def test_an_fc_layer_has_windows_whatever_the_option(body: Any, pool: str) -> None:
    """No pool is there to be kept: weights of the whole image in a window would mean nothing."""
    assert proven(bodied(body), global_pool=pool, crops=False).claim.outputs[0].form == "map"


def by_hand(how: str) -> Any:
    """The mean of the features by weights that are made without Softmax."""

    def body(net: Net, x: str) -> str:
        return layer(net, pooled(net, x, Spelling("rows", "map", "ReduceSum", True, True, "", 17, how), (5, 4)))

    body.__name__ = how
    return body


@pytest.mark.parametrize(
    "body", [beside_a_mean, several_queries, *map(by_hand, BY[1:])], ids=lambda item: item.__name__
)
def test_kept_global_it_is_of_the_whole_image(body: Any) -> None:
    """Repeated four times over, an image has the same weighted means, where the trunk sees no borders."""
    net = Net()
    x = net.op("Tanh", net.conv(net.image(size=(5, 4)), 2, C, (1, 1), strides=[1, 1]))
    model = net.model(body(net, x))
    done = rewrite(model, options=RewriteOptions(global_pool="keep"), check_options=CHECK)
    assert [item.form for item in done.claim.outputs] == ["global"]
    image = np.random.default_rng(0).standard_normal((1, 2, 5, 4)).astype(np.float32)
    want = session(model).run(None, {"image": image})[0]
    got = session(complete(done)).run(None, {"image": np.tile(image, (1, 1, 2, 2))})[0]
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def slides(net: Net, x: str) -> str:
    return layer(net, net.op("GlobalAveragePool", net.conv(gated(net, x), C, C, strides=[1, 1])))


def test_weights_that_something_slides_over_are_the_trunks() -> None:
    """Over the whole image, as the network itself has them: named in the verdict."""
    done = proven(bodied(slides), exact=False)
    assert [item.partition("_")[0] for item in done.claim.blame] == ["context: node"]
    assert all("softmax" in item for item in done.claim.blame)


def test_weights_that_are_given_out_cannot_be_each_windows_own_too() -> None:
    def body(net: Net, x: str) -> tuple[str, str]:
        w = weights(net, x)
        return layer(net, total(net, net.op("Mul", w, x))), w

    assert refusal(bodied(body)).code == "softmax-over-space"


# A table times the window


def table_of(net: Net, places: Places, form: str, channels: int = 1) -> str:
    shape = places.shape(form, channels)
    return net.const(np.cos(np.arange(np.prod(shape))).reshape(shape))


@pytest.mark.sweep(16)
@pytest.mark.parametrize("sums", [item for item in SUMS if item != "MatMul"])
@pytest.mark.parametrize("form", FORMS)
def test_a_table_times_the_window_summed_up_is_a_row_of_weights(form: str, sums: str) -> None:
    """Exact in every form: without a Softmax too."""
    net, extent = Net(), (5, 4)
    places = Places(net, extent)
    x = places.to(net.trunk(), C, "map", form)
    weighed = net.op("Mul", table_of(net, places, form), x)
    model = net.model(net.fc(places.summed(weighed, form, sums, keepdims=True), C, M))
    assert proven(model).claim.outputs[0].form == "map"


@pytest.mark.parametrize("kind", ["ReduceSum", "ReduceMean"])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_as_a_depthwise_conv(kind: str, keepdims: int) -> None:
    """A table of its own for each channel, divided by another: no window is unrolled."""
    net = Net()
    places = Places(net, (5, 4))
    x = net.op("Div", net.trunk(), net.const(np.linspace(1, 3, 4)))
    weighed = net.op("Mul", x, table_of(net, places, "map", C))
    vector = net.axes(kind, weighed, [2, 3], keepdims=keepdims)
    done = proven(net.model(net.fc(net.op("Flatten", vector), C, M)))
    assert [node.op_type for node in done.model.graph.node] == ["Conv", "Tanh", "Conv", "Conv"]


def slid_over(net: Net, weighed: str, x: str) -> list[str]:
    return [net.op("GlobalAveragePool", net.conv(weighed, C, C, strides=[1, 1]))]


def given_out(net: Net, weighed: str, x: str) -> list[str]:
    return [net.axes("ReduceSum", weighed, [2, 3], keepdims=0), weighed]


def back_in_the_trunk(net: Net, weighed: str, x: str) -> list[str]:
    total = net.axes("ReduceSum", weighed, [2, 3], keepdims=1)
    return [net.op("GlobalAveragePool", net.conv(net.op("Add", x, total), C, C, strides=[1, 1]))]


def beside_its_map(net: Net, weighed: str, x: str) -> list[str]:
    return [net.axes("ReduceSum", net.op("Add", weighed, x), [2, 3], keepdims=0)]


@pytest.mark.parametrize("behind", [slid_over, given_out, back_in_the_trunk], ids=lambda item: item.__name__)
@pytest.mark.parametrize("keep", [False, True])
def test_a_table_of_the_trunk_is_refused(behind: Any, keep: bool) -> None:
    net = Net()
    x = net.trunk()
    weighed = net.op("Mul", x, table_of(net, Places(net, (5, 4)), "map"), out="weighed")
    found = refusal(net.model(*behind(net, weighed, x)), global_pool="keep" if keep else "window")
    assert (found.code, found.node) == ("position-table", "node_weighed")


@pytest.mark.sweep(16)
@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("form", FORMS)
def test_behind_an_excitation_of_the_trunk(form: str, by: str) -> None:
    """The gate looks at the whole image, the weights at each window: as the head run on a window of the gated map."""
    net = Net()
    tensor = net.trunk()
    x = net.op("Mul", tensor, net.op("Sigmoid", net.op("GlobalAveragePool", tensor, out="gate")))
    how = Spelling("rows", form, "ReduceSum", True, False, "", 17, by)
    done = proven(net.model(net.fc(pooled(net, x, how, (5, 4)), C, M)), exact=False)
    assert done.claim.blame == ("context: node_gate", f"context: node_{x}")


def test_windows_that_meet_in_a_matrix_where_there_is_no_einsum_yet() -> None:
    net = Net(11)
    how = Spelling("rows", "map", "MatMul", True, False, "", 11)
    proven(net.model(net.fc(pooled(net, net.trunk(), how, (5, 4)), C, M)))


# What PyTorch writes


REFERENCES = np.load(fixture_file("weights.npz"))
BOTH = ("torchscript", "dynamo")


@pytest.mark.sweep(12)
@pytest.mark.parametrize("exporter", BOTH)
@pytest.mark.parametrize("name", ["weighted_sums", "shares_by_hand", "soft_argmax", "weighted_tables"])
def test_heads_of_pytorch(name: str, exporter: str) -> None:
    """Every cell of every output is what the original says of its crop."""
    path = fixture_file(f"{name}.{exporter}.onnx")
    done = rewrite(path, check_options=CHECK)
    assert done.claim.verdict == "exact"
    assert {item.form for item in done.claim.outputs} == {"map"}
    assert own_crops(onnx.load(path), done) < 1e-5


@pytest.mark.sweep(20)
@pytest.mark.parametrize("exporter", BOTH)
@pytest.mark.parametrize("key", REFERENCES.files)
def test_trunks_of_pytorch(key: str, exporter: str) -> None:
    """The map at another size is that of PyTorch's own network."""
    name, _, size = key.partition(".")
    options = RewriteOptions(size=(19, 19) if name == "far_means" else None)
    done = rewrite(fixture_file(f"{name}.{exporter}.onnx"), options=options, check_options=CHECK)
    shape = [int(length) for length in size.split("x")]
    image = np.random.default_rng(shape[0]).standard_normal((1, 3, *shape)).astype(np.float32)
    got, want = session(complete(done)).run(["map"], {"image": image})[0], REFERENCES[key]
    assert np.abs(got - want).max() < 1e-5 * want.std()


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("rows", [False, True])
def test_a_norm_by_the_operator(p: int, rows: bool) -> None:
    """LpNormalization over places in the trunk is what the original, freed of its size, makes of them."""
    net = Net()
    x, like = net.trunk(), net.ints(1, C, -1)
    if rows:
        normed = net.op("LpNormalization", x, axis=3, p=p)
    else:
        flat = net.op("Reshape", x, like)
        normed = net.op("Reshape", net.op("LpNormalization", flat, axis=2, p=p), net.op("Shape", x))
    y = net.op("Add", x, net.op("Mul", net.const(20.0), normed))
    model = net.model(net.fc(net.op("Flatten", net.op("GlobalAveragePool", y)), C, M))
    done = rewrite(model, options=RewriteOptions(global_pool="keep"), check_options=CHECK)
    assert "context" in {item.cause.value for item in done.claim.blames}
    freed = onnx.ModelProto.FromString(model.SerializeToString())
    for axis in (2, 3):
        freed.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"axis_{axis}"
    for size in ((12, 20), (23, 17)):
        image = np.random.default_rng(size[1]).standard_normal((1, 2, *size)).astype(np.float32)
        got, want = (session(made).run(None, {"image": image})[0] for made in (complete(done), freed))
        np.testing.assert_allclose(got.reshape(want.shape), want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize(
    "name", ["attention-pool-two-sums", "soft-argmax-matmul", "soft-argmax-matmul-dynamo", "soft-argmax-table"]
)
def test_case_files(name: str) -> None:
    path = CASES / f"{name}.onnx"
    if not path.is_file():
        pytest.skip(f"not there: {path}")
    done = rewrite(path, check_options=CHECK)
    assert done.claim.verdict == "exact"
    assert own_crops(onnx.load(path), done) < 1e-5
