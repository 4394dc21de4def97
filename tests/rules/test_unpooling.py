"""MaxUnpool by the indices of a MaxPool: they count the places of the whole map, which has any size."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from fixture_files import fixture_file
from hazards import Net, complete, own_crops, proven, refusal, session
from onnx import TensorProto, numpy_helper
from references import compare, image

import onnxfc

REFERENCES = np.load(fixture_file("small.npz"))
SQUARE = {"kernel_shape": [2, 2], "strides": [2, 2]}


def test_as_pytorch_at_every_size() -> None:
    """Two pools and their unpooling, which the exporter writes as ScatterND; strides need not divide the map."""
    done = onnxfc.rewrite(fixture_file("unpooled.dynamo.onnx"))
    assert [node.op_type for node in done.model.graph.node].count("MaxUnpool") == 2
    for size in ((48, 40), (34, 52), (63, 65)):
        compare(done.model, {"image": image(*size)}, REFERENCES, "unpooled")


def test_an_odd_native_size_as_pytorch_at_every_size() -> None:
    """What the pool leaves over is put back too: the size is that of the map, not what the kernel comes to."""
    done = onnxfc.rewrite(fixture_file("unpooled_odd.dynamo.onnx"))
    assert [node.op_type for node in done.model.graph.node].count("MaxUnpool") == 2
    for size in ((48, 40), (34, 52), (63, 65)):
        compare(done.model, {"image": image(*size)}, REFERENCES, "unpooled_odd")


def test_it_has_the_size_of_the_map_that_was_pooled() -> None:
    """Where the maxima were there is their Tanh, elsewhere 0, whatever is left over behind the last window."""
    net = Net(17)
    pooled, places = net.op("MaxPool", net.image(1, (8, 8)), outputs=2, **SQUARE)
    put_back = net.op("MaxUnpool", net.op("Tanh", pooled), places, **SQUARE)
    model = net.model(net.conv(put_back, 2, 1, (1, 1), strides=[1, 1]))
    done = proven(model, exact=False)
    weight, bias = map(numpy_helper.to_array, model.graph.initializer)
    new = session(complete(done))
    for height, width in ((8, 8), (9, 12), (10, 15), (13, 11)):
        given = np.random.default_rng(0).standard_normal((1, 2, height, width)).astype(np.float32)
        rows, columns = height // 2 * 2, width // 2 * 2
        blocks = given[..., :rows, :columns].reshape(1, 2, rows // 2, 2, columns // 2, 2)
        found, most = np.zeros_like(given), blocks == blocks.max(axis=(3, 5), keepdims=True)
        found[..., :rows, :columns] = np.where(most, np.tanh(blocks), 0).reshape(1, 2, rows, columns)
        want = np.einsum("oc,ncyx->noyx", weight[..., 0, 0], found) + bias.reshape(1, -1, 1, 1)
        [got] = new.run(None, {"image": given})
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kernel", "stride", "length"), [(2, 2, 12), (3, 3, 12), (3, 2, 13), (3, 1, 12)])
def test_a_head_behind_it_has_the_cells_of_crops(kernel: int, stride: int, length: int) -> None:
    """Windows that lie on each other may put one maximum over another: at the border of a crop there is one less."""
    net = Net(17)
    told = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2}
    trunk = net.op("Tanh", net.conv(net.image(1, (2 * length + 1,) * 2), 2, 3))
    pooled, places = net.op("MaxPool", trunk, outputs=2, **told)
    put_back = net.op("MaxUnpool", net.op("Sigmoid", pooled), places, **told)
    behind = net.op("Tanh", net.conv(put_back, 3, 4, strides=[stride] * 2))
    model = net.model(net.fc(net.op("Flatten", behind), 4 * ((length - 3) // stride + 1) ** 2, 5))
    done = proven(model, exact=kernel == stride)
    assert done.claim.stride == (2 * stride,) * 2
    assert kernel > stride or own_crops(model, done) < 1e-5


def _as_numbers(net: Net, places: str, pooled: str) -> str:
    return str(net.op("Mul", net.op("Cast", places, to=TensorProto.FLOAT), pooled))


def _beside(net: Net, places: str, pooled: str) -> str:
    whole = net.op("MaxUnpool", pooled, places, **SQUARE)
    return str(net.op("Add", whole, net.op("MaxUnpool", pooled, net.op("Abs", places), **SQUARE)))


def _larger(net: Net, places: str, pooled: str) -> str:
    return str(net.op("MaxUnpool", pooled, places, net.ints(1, 2, 10, 10), **SQUARE))


_GIVES = "MaxPool gives the places of its maxima, counted over the whole map,"


@pytest.mark.parametrize(
    ("make", "node", "reason"),
    [
        (_as_numbers, "maxpool", f"{_GIVES} to Cast, which reckons with them"),
        (_beside, "maxpool", f"{_GIVES} to Abs, which reckons with them"),
        (_larger, "maxunpool", "MaxUnpool makes a map of 10x10 of the places of maxima in one of 8x8"),
    ],
)
def test_other_uses_of_indices_are_refused(make: object, node: str, reason: str) -> None:
    """As numbers they are others in a larger image; in a map of another size they mean another place."""
    net = Net(17)
    pooled, places = net.op("MaxPool", net.image(1, (8, 8)), outputs=2, **SQUARE)
    assert callable(make)
    found = refusal(net.model(net.conv(make(net, places, pooled), 2, 1)))
    assert (found.code, found.reason) == ("pool-indices", reason)
    assert found.node.startswith(f"node_{node}")


@pytest.mark.parametrize("where", ["order", "output"])
def test_indices_that_someone_else_reads_are_refused(where: str) -> None:
    net = Net(17)
    order = {"storage_order": 1} if where == "order" else {}
    pooled, places = net.op("MaxPool", net.image(1, (8, 8)), outputs=2, **SQUARE, **order)
    put_back = net.op("MaxUnpool", pooled, places, **SQUARE)
    model = net.model(net.conv(put_back, 2, 1), *([places] if where == "output" else []))
    onnx.checker.check_model(model)
    assert refusal(model).code == "pool-indices"
