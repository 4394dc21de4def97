"""What each pool, norm and Softmax over places is: head, context or local; told by what reads what, by nothing else.

Values come from PyTorch: windows of its trunk through its head, and the whole image (``roles.npz``).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import CHANNELS, CHECK, FEATURES, Net, bodied, complete, proven, refusal, session

from onnxfc.analysis.pool_roles import pool_roles
from onnxfc.builder.state import Roles
from onnxfc.graph.index import Graph
from onnxfc.graph.inline_functions import inlined
from onnxfc.io.model_file import ModelFile
from onnxfc.rewriter.api import Rewrite, rewrite
from onnxfc.rewriter.options import RewriteOptions
from onnxfc.shapes.image_inputs import images, is_open, native_inputs
from onnxfc.shapes.native import native_specs

SHARED = Path(__file__).parents[3] / "shared" / "cases"
REFERENCES = np.load(fixture_file("roles.npz"))
EXPORTERS = ("torchscript", "dynamo")
M = 5


def roles(model: str | Path | onnx.ModelProto, size: tuple[int, ...] | None = None) -> Roles:
    """Of the first reading of the image."""
    file = inlined(ModelFile.open(model))
    graph = Graph(file.proto)
    inputs = native_inputs(graph, size)
    readings = images(graph, inputs, False, size)
    assert isinstance(readings, list)
    return pool_roles(graph, native_specs(file, graph, inputs), readings[0], is_open(graph, readings[0]))


# What PyTorch writes

FIXTURES: dict[str, dict[str, str]] = {
    "excited_attention.torchscript": {
        "/gate/ReduceMean_output_0": "context",
        "/Softmax_output_0": "head",
        "/ReduceSum_output_0": "head",
        "/Softmax_1_output_0": "head",
        "/MatMul_output_0": "head",
        "/ReduceSum_1_output_0": "head",
        "/ReduceSum_2_output_0": "head",
    },
    "excited_attention.dynamo": {
        "mean": "context",
        "softmax": "head",
        "sum_1": "head",
        "softmax_1": "head",
        "bmm": "head",
        "sum_2": "head",
        "sum_3": "head",
    },
    "last_gate.torchscript": {
        "/gate/ReduceMean_output_0": "context",
        "/Softmax_output_0": "head",
        "/ReduceSum_output_0": "head",
        "/ReduceMean_output_0": "head",
    },
    "reductions.torchscript": {
        "/MaxPool_output_0": "local",
        "/AveragePool_output_0": "local",
        "/ReduceMean_output_0": "head",
        "inception": "head",
    },
    "reductions.dynamo": {"max_pool2d": "local", "avg_pool2d": "local", "mean": "head", "inception": "head"},
    "fire.torchscript": {"/MaxPool_output_0": "local", "/GlobalAveragePool_output_0": "head"},
    "token_pools.torchscript": {
        "/Softmax_output_0": "context",
        "/MatMul_1_output_0": "context",
        "/Softmax_1_output_0": "head",
        "/MatMul_2_output_0": "head",
    },
    "weighted_pools.torchscript": {
        "/Softmax_output_0": "head",
        "/MatMul_output_0": "head",
        "/ReduceSum_output_0": "head",
        "/MatMul_3_output_0": "head",
    },
    "context_vectors.torchscript": {
        "/blocks.0/Softmax_output_0": "context",
        "/blocks.0/MatMul_output_0": "context",
        "/blocks.1/Softmax_output_0": "context",
        "/blocks.1/ReduceSum_output_0": "context",
        "/blocks.1/Softmax_1_output_0": "context",
        "/ReduceMean_output_0": "head",
    },
    "excited.torchscript": {
        "/ReduceMean_output_0": "context",
        "/ReduceMean_2_output_0": "context",
        "/GlobalAveragePool_output_0": "context",
        "/ReduceMean_5_output_0": "head",
    },
    "mobilenet.torchscript": {
        "/pool/GlobalAveragePool_output_0": "context",
        "/pool_1/GlobalAveragePool_output_0": "head",
    },
    "row_head.dynamo": {"avg_pool2d": "head"},
    "strip_pool.dynamo": {"avg_pool2d": "context", "avg_pool2d_1": "context"},
    "halves.dynamo": {"split_split_0": "local"},
    "borders.dynamo": {"slice_1": "context", "slice_2": "context", "slice_7": "context"},
}


@pytest.mark.parametrize("name", FIXTURES)
def test_roles_in_what_pytorch_writes(name: str) -> None:
    found = roles(fixture_file(f"{name}.onnx")).of
    assert {key: found[key] for key in FIXTURES[name]} == FIXTURES[name]


def rewritten(name: str, exporter: str, **options: object) -> Rewrite:
    path = fixture_file(f"{name}.{exporter}.onnx")
    return rewrite(path, options=RewriteOptions(**options), check_options=CHECK)  # type: ignore[arg-type]


def compare(done: Rewrite, name: str, whole: bool) -> int:
    """All that PyTorch says of windows, or of whole images, of this network."""
    made, count = session(complete(done)), 0
    for key in REFERENCES.files:
        network, size, output = key.split(".", 2)
        if network == name and output.endswith(".whole") == whole:
            height, width = map(int, size.split("x"))
            image = np.random.default_rng(height).standard_normal((1, 3, height, width)).astype(np.float32)
            got, want = made.run([output.removesuffix(".whole")], {"image": image})[0], REFERENCES[key]
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * float(want.std()))
            count += 1
    return count


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(
    ("name", "outputs"), [("excited_attention", 3), ("last_gate", 2), ("fire", 1), ("token_pools", 2)]
)
def test_cells_are_what_pytorch_says_of_each_window_of_its_trunk(name: str, outputs: int, exporter: str) -> None:
    """The trunk sees the whole image, where it looks at it; the head sees its window."""
    assert compare(rewritten(name, exporter), name, whole=False) == 2 * outputs


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(("name", "outputs"), [("last_gate", 2), ("fire", 1), ("kept_sums", 4), ("token_pools", 2)])
def test_pools_kept_global_are_pytorch_s_own(name: str, outputs: int, exporter: str) -> None:
    assert compare(rewritten(name, exporter, global_pool="keep"), name, whole=True) == 2 * outputs


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_pools_that_just_cover_the_native_map_slide(exporter: str) -> None:
    """Each cell is the native network on the crop 4 px on: no padding, and nothing looks at the whole image."""
    done = rewritten("reductions", exporter)
    assert (done.claim.verdict, done.claim.stride, done.claim.blame) == ("exact", (4, 4), ())
    image = np.random.default_rng(2).standard_normal((1, 3, 23, 19)).astype(np.float32)
    maps = session(complete(done)).run(None, {"image": image})
    original = session(onnx.load(fixture_file(f"reductions.{exporter}.onnx")))
    for row in range(5):
        for column in range(4):
            crop = image[:, :, 4 * row : 4 * row + 7, 4 * column : 4 * column + 7]
            for made, want in zip(maps, original.run(None, {"image": crop}), strict=True):
                assert made.shape == (1, M, 5, 4)
                np.testing.assert_allclose(made[:, :, row, column], want, rtol=0, atol=1e-5 * float(np.abs(want).max()))


@pytest.mark.parametrize(
    ("case", "expected", "verdict"),
    [
        ("excitation-and-attention-pool", {"n_GlobalAveragePool_2": "context"}, "approximate"),
        ("local-pool-covers-map", {"n_MaxPool_6": "local"}, "exact"),
        ("attention-pool-two-sums", {}, "exact"),
        ("soft-argmax-matmul", {}, "exact"),
    ],
)
def test_shared_cases(case: str, expected: dict[str, str], verdict: str) -> None:
    path = SHARED / f"{case}.onnx"
    if not path.exists():
        pytest.skip(f"not there: {path}")
    outputs = {node.name: node.output[0] for node in onnx.load(path).graph.node}
    found = roles(path).of
    assert {name: found[outputs[name]] for name in expected} == expected
    assert rewrite(path, check_options=CHECK).claim.verdict == verdict


# By hand, one kind each

Body = Callable[[Net, str], str]


def mean(net: Net, x: str, *axes: int, out: str = "pool", kind: str = "ReduceMean", keepdims: int = 1) -> str:
    return net.axes(kind, x, axes or [2, 3], out=out, keepdims=keepdims)


def gate(net: Net, x: str, vector: str) -> str:
    return str(net.op("Mul", x, net.op("Sigmoid", vector)))


def places(net: Net, x: str) -> str:
    return str(net.op("Reshape", x, net.ints(1, CHANNELS, 20)))


def weights(net: Net, x: str, out: str = "near") -> str:
    """Of the places, as a map of one channel."""
    logits = net.op("Reshape", net.conv(x, CHANNELS, 1, (1, 1), strides=[1, 1]), net.ints(1, 1, 20))
    return str(net.op("Reshape", net.op("Softmax", logits, axis=2, out=out), net.ints(1, 1, 5, 4)))


def by_hand_weights(net: Net, x: str, out: str = "near") -> str:
    """The same without Softmax."""
    raised = net.op("Exp", net.conv(x, CHANNELS, 1, (1, 1), strides=[1, 1]))
    return str(net.op("Div", raised, net.axes("ReduceSum", raised, [2, 3], out="total", keepdims=1), out=out))


def weighted(net: Net, x: str) -> str:
    return net.axes("ReduceSum", net.op("Mul", x, weights(net, x)), [2, 3], out="pool", keepdims=1)


def to_fc(net: Net, vector: str, width: int = CHANNELS) -> str:
    return net.fc(net.op("Flatten", vector), width, M)


def residual_fc(net: Net, vector: str, width: int = 12) -> str:
    return str(net.op("Add", vector, net.fc(vector, width, width)))


def goes_on(net: Net, x: str) -> str:
    """A trunk, and a head of its own kind behind it."""
    return net.fc(net.op("Flatten", net.conv(x, CHANNELS, 2, (2, 2), strides=[1, 1])), 24, M)


def flat(net: Net, x: str) -> str:
    return net.fc(net.op("Flatten", x), FEATURES, M)


def deviations(net: Net, x: str) -> str:
    return str(net.op("Sub", x, mean(net, x)))


def variance(net: Net, rest: str) -> str:
    return net.axes("ReduceMean", net.op("Mul", rest, rest), [2, 3], out="variance", keepdims=1)


def by_hand(net: Net, x: str) -> str:
    rest = deviations(net, x)
    return str(net.op("Div", rest, net.op("Sqrt", net.op("Add", variance(net, rest), net.const(0.1)))))


def non_local(net: Net, x: str) -> str:
    rows = places(net, x)
    near = net.op("MatMul", net.op("Transpose", rows, perm=[0, 2, 1]), rows, out="relation")
    near = net.op("Transpose", net.op("Softmax", near, axis=-1, out="near"), perm=[0, 2, 1])
    made = net.op("MatMul", rows, near, out="product")
    return str(net.op("Add", x, net.op("Reshape", made, net.ints(1, CHANNELS, 5, 4))))


def asked(net: Net, x: str) -> str:
    """The mean asks the places which of them it takes."""
    rows = places(net, x)
    query = net.op("Transpose", net.axes("ReduceMean", rows, [2], out="pool", keepdims=1), perm=[0, 2, 1])
    near = net.op("Softmax", net.op("MatMul", query, rows), axis=-1, out="near")
    return str(net.op("MatMul", near, net.op("Transpose", rows, perm=[0, 2, 1]), out="product"))


def statistics(net: Net, x: str) -> str:
    """Weights that look at each place beside the mean of all of them."""
    wide = net.op("Expand", mean(net, x), net.ints(1, CHANNELS, 5, 4))
    logits = net.conv(net.op("Concat", x, wide, axis=1), 2 * CHANNELS, CHANNELS, (1, 1), strides=[1, 1])
    near = net.op("Softmax", places(net, logits), axis=2, out="near")
    return net.axes("ReduceSum", net.op("Mul", near, places(net, x)), [2], out="sum", keepdims=0)


def coordinates(net: Net, x: str) -> str:
    rows, columns = mean(net, x, 3, out="rows"), mean(net, x, 2, out="columns")
    both = net.op("Concat", rows, net.op("Transpose", columns, perm=[0, 1, 3, 2]), axis=2)
    one, two = net.op("Split", both, net.ints(5, 4), axis=2, outputs=2)
    return gate(net, gate(net, x, one), net.op("Transpose", two, perm=[0, 1, 3, 2]))


def beside(net: Net, x: str) -> str:
    pooled = net.op("MaxPool", x, kernel_shape=[5, 4], strides=[5, 4], out="pool")
    slid = net.conv(x, CHANNELS, CHANNELS, (5, 4), strides=[5, 4])
    return str(net.op("Concat", pooled, slid, axis=1))


def decoder(net: Net, x: str) -> str:
    """A U-Net whose lowest map is one place: a scale brings it back."""
    low = net.op("AveragePool", x, kernel_shape=[5, 4], strides=[5, 4], out="pool")
    wide = net.op(
        "Resize", low, "", net.const([1, 1, 5, 4]), mode="nearest", coordinate_transformation_mode="asymmetric"
    )
    return str(net.op("Add", x, wide))


def image_level(net: Net, x: str) -> str:
    """ASPP: the mean of the image, laid out beside the map."""
    vector = net.conv(mean(net, x), CHANNELS, CHANNELS, (1, 1), strides=[1, 1])
    wide = net.op("Resize", vector, "", "", net.ints(1, CHANNELS, 5, 4), mode="nearest")
    return str(net.op("Add", x, wide))


def response(net: Net, x: str) -> str:
    norm = net.axes("ReduceL2", x, [2, 3], out="pool", keepdims=1)
    share = net.op("Div", norm, net.op("Add", net.axes("ReduceMean", norm, [1], keepdims=1), net.const(1e-3)))
    return str(net.op("Add", x, net.op("Mul", x, share)))


def descriptor(net: Net, x: str) -> str:
    """NetVLAD: assignments to clusters, summed with the features."""
    rows = net.op("Transpose", places(net, x), perm=[0, 2, 1])
    share = net.op("Softmax", net.op("MatMul", rows, net.random(CHANNELS, 2)), axis=-1)
    return str(net.op("MatMul", net.op("Transpose", share, perm=[0, 2, 1]), rows, out="product"))


def group_norm(net: Net, x: str) -> str:
    groups = net.op("Reshape", x, net.ints(1, 1, FEATURES))
    rest = net.op("Sub", groups, net.axes("ReduceMean", groups, [2], out="pool", keepdims=1))
    return str(net.op("Reshape", rest, net.ints(1, CHANNELS, 5, 4)))


def token_gate(net: Net, x: str) -> str:
    tokens = net.op("Transpose", places(net, x), perm=[0, 2, 1])
    gated = gate(net, tokens, net.axes("ReduceMean", tokens, [1], out="pool", keepdims=1))
    return net.axes("ReduceMean", gated, [1], out="last", keepdims=0)


def piece(net: Net, x: str) -> str:
    return str(net.op("Slice", x, net.ints(0), net.ints(3), net.ints(2), out="piece"))


KINDS: dict[str, tuple[Body, dict[str, str]]] = {
    "mean, then fc": (lambda net, x: to_fc(net, mean(net, x)), {"pool": "head"}),
    "excitation": (lambda net, x: goes_on(net, gate(net, x, mean(net, x))), {"pool": "context"}),
    "excitation last": (
        lambda net, x: to_fc(net, mean(net, gate(net, x, mean(net, x)), out="last")),
        {"pool": "context", "last": "head"},
    ),
    "excitation of tokens": (
        lambda net, x: net.fc(token_gate(net, x), CHANNELS, M),
        {"pool": "context", "last": "head"},
    ),
    "one pool for both": (
        lambda net, x: net.op("Add", goes_on(net, gate(net, x, mean(net, x))), to_fc(net, "pool")),
        {"pool": "context"},
    ),
    "weighted, then fc": (lambda net, x: to_fc(net, weighted(net, x)), {"pool": "head", "near": "head"}),
    "weighted, then a gate": (
        lambda net, x: goes_on(net, gate(net, x, weighted(net, x))),
        {"pool": "context", "near": "context"},
    ),
    "gate over places, then fc": (lambda net, x: flat(net, net.op("Mul", x, weights(net, x))), {"near": "head"}),
    "gate over places, then a mean": (
        lambda net, x: to_fc(net, mean(net, net.op("Relu", net.op("Mul", x, weights(net, x))))),
        {"near": "head", "pool": "head"},
    ),
    "gate over places, then a Conv": (
        lambda net, x: goes_on(net, net.op("Mul", x, weights(net, x))),
        {"near": "context"},
    ),
    "weighted by hand, then fc": (
        lambda net, x: to_fc(net, net.axes("ReduceSum", net.op("Mul", x, by_hand_weights(net, x)), [2, 3], out="pool")),
        {"total": "head", "near": "head", "pool": "head"},
    ),
    "gate by hand, then a Conv": (
        lambda net, x: goes_on(net, net.op("Mul", x, by_hand_weights(net, x))),
        {"total": "context", "near": "context"},
    ),
    "less the largest, then fc": (
        lambda net, x: flat(net, net.op("Exp", net.op("Sub", x, net.op("GlobalMaxPool", x, out="pool")))),
        {"pool": "head"},
    ),
    "gate by a mean alone": (
        lambda net, x: to_fc(net, mean(net, net.op("Mul", x, net.op("Sigmoid", mean(net, x))), out="last")),
        {"pool": "context", "last": "head"},
    ),
    "deviation in a head": (
        lambda net, x: to_fc(net, variance(net, deviations(net, x))),
        {"pool": "head", "variance": "head"},
    ),
    "deviation as context": (
        lambda net, x: goes_on(net, gate(net, x, variance(net, deviations(net, x)))),
        {"pool": "context", "variance": "context"},
    ),
    "normalised by hand": (lambda net, x: goes_on(net, by_hand(net, x)), {"pool": "context", "variance": "context"}),
    "normalised by hand, then a mean": (
        lambda net, x: to_fc(net, net.op("GlobalMaxPool", by_hand(net, x), out="last")),
        {"pool": "head", "variance": "head", "last": "head"},
    ),
    "groups normalised by hand": (lambda net, x: goes_on(net, group_norm(net, x)), {"pool": "context"}),
    "non-local": (
        lambda net, x: goes_on(net, non_local(net, x)),
        {"relation": "context", "near": "context", "product": "context"},
    ),
    "asked by the mean": (
        lambda net, x: net.fc(net.op("Flatten", asked(net, x)), CHANNELS, M),
        {"pool": "head", "near": "head", "product": "head"},
    ),
    "weighed beside the mean": (
        lambda net, x: net.fc(statistics(net, x), CHANNELS, M),
        {"pool": "context", "near": "head", "sum": "head"},
    ),
    "rows and columns": (lambda net, x: goes_on(net, coordinates(net, x)), {"rows": "context", "columns": "context"}),
    "rows, then fc": (lambda net, x: to_fc(net, mean(net, x, 3), 15), {"pool": "head"}),
    "columns, then fc and what it read": (
        lambda net, x: net.fc(residual_fc(net, net.op("Flatten", mean(net, x, 2))), 12, M),
        {"pool": "head"},
    ),
    "covers, then fc": (
        lambda net, x: to_fc(net, net.op("MaxPool", x, kernel_shape=[5, 4], strides=[5, 4], out="pool")),
        {"pool": "head"},
    ),
    "covers, then a gate": (
        lambda net, x: goes_on(net, gate(net, x, net.op("AveragePool", x, kernel_shape=[5, 4], out="pool"))),
        {"pool": "context"},
    ),
    "covers beside a Conv": (lambda net, x: to_fc(net, beside(net, x), 6), {"pool": "local"}),
    "covers under a Conv": (
        lambda net, x: to_fc(
            net,
            net.conv(
                net.op("MaxPool", x, kernel_shape=[5, 4], out="pool"), CHANNELS, CHANNELS, strides=[1, 1], pads=[1] * 4
            ),
        ),
        {"pool": "local"},
    ),
    "covers under a decoder": (lambda net, x: goes_on(net, decoder(net, x)), {"pool": "local"}),
    "level of the image": (lambda net, x: goes_on(net, image_level(net, x)), {"pool": "context"}),
    "response norm": (lambda net, x: goes_on(net, response(net, x)), {"pool": "context"}),
    "descriptor": (lambda net, x: net.fc(net.op("Flatten", descriptor(net, x)), 2 * CHANNELS, M), {"product": "head"}),
    "piece, then fc": (lambda net, x: net.fc(net.op("Flatten", piece(net, x)), 36, M), {"piece": "head"}),
    "piece under a Conv": (
        lambda net, x: net.conv(piece(net, x), CHANNELS, 2, (2, 2), strides=[1, 1]),
        {"piece": "local"},
    ),
    "norm of the whole map": (
        lambda net, x: flat(net, net.op("InstanceNormalization", x, net.random(3), net.random(3), out="norm")),
        {"norm": "context"},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_role(kind: str) -> None:
    body, expected = KINDS[kind]
    found = roles(bodied(body)).of
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("kind", KINDS)
def test_neither_the_order_of_the_file_nor_names_of_nodes_play_a_part(kind: str) -> None:
    """Nodes in another order that is legal, all of one name."""
    model = bodied(KINDS[kind][0])
    found = roles(model)
    rng, nodes, made = random.Random(4), list(model.graph.node), {item.name for item in model.graph.initializer}
    made.add("image")
    del model.graph.node[:]
    while nodes:
        ready = [node for node in nodes if all(name in made or not name for name in node.input)]
        node = rng.choice(ready)
        nodes.remove(node)
        made.update(node.output)
        node.name = "node"
        model.graph.node.append(node)
    assert roles(model) == found


@pytest.mark.parametrize(
    "kind", [name for name in KINDS if KINDS[name][1].values() and set(KINDS[name][1].values()) == {"head"}]
)
def test_what_begins_the_head_is_each_windows_own(kind: str) -> None:
    """Every cell is what the original says of that crop; refused where the mean of a window asks its places."""
    model = bodied(KINDS[kind][0])
    if kind == "asked by the mean":
        assert refusal(model).code == "attention"
    else:
        proven(model)


@pytest.mark.parametrize("kind", ["covers beside a Conv", "covers under a decoder"])
def test_local_pools_look_at_no_whole_image(kind: str) -> None:
    done = proven(bodied(KINDS[kind][0]), exact="beside" in kind)
    assert not any(item.startswith("context") for item in done.claim.blame)


READERS: dict[str, Body] = {
    "sum": lambda net, x: to_fc(net, net.axes("ReduceSum", x, [2, 3], keepdims=1)),
    "mean": lambda net, x: to_fc(net, net.op("GlobalAveragePool", x)),
    "axis by axis": lambda net, x: to_fc(
        net, net.axes("ReduceSum", net.axes("ReduceSum", x, [3], keepdims=1), [2], keepdims=1)
    ),
    "rows": lambda net, x: to_fc(net, net.axes("ReduceSum", places(net, x), [2], keepdims=1)),
    "layer": flat,
    "product": lambda net, x: net.fc(
        net.op("Flatten", net.op("MatMul", places(net, x), net.op("Transpose", places(net, x), perm=[0, 2, 1]))), 9, M
    ),
}


@pytest.mark.parametrize("weigh", [weights, by_hand_weights])
@pytest.mark.parametrize("reader", READERS)
def test_weights_of_the_whole_image_are_no_windows_weights(reader: str, weigh: Body) -> None:
    """One Softmax over places for a gate in the trunk and for a head: it cannot be both, so the head is refused."""

    def body(net: Net, x: str) -> list[str]:
        gated = net.op("Mul", x, weigh(net, x))
        return [goes_on(net, gated), READERS[reader](net, gated)]

    assert roles(bodied(body)).of["near"] == "context"
    assert refusal(bodied(body)).code == "softmax-over-space"
