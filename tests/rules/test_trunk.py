"""What happens to a map on its way to the head: slices, flips, context spread again, odd sizes, freed batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hazards import CHANNELS, FEATURES, OLD_RUNTIME, Net, bodied, complete, proven, refusal

from onnxfc.rewriter.api import Rewrite, rewrite
from onnxfc.rewriter.options import RewriteOptions

OPEN = 2**31 - 1
M = 5


def cut(net: Net, tensor: str, *bounds: list[int]) -> str:
    """Slice with starts, ends, axes (and steps)."""
    return str(net.op("Slice", tensor, *(net.ints(*values) for values in bounds)))


def flat(net: Net, tensor: str, features: int, scores: int = M) -> str:
    return str(net.fc(net.op("Flatten", tensor), features, scores))


def run(done: Rewrite, **feeds: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(complete(done).SerializeToString(), providers=["CPUExecutionProvider"])
    scores: np.ndarray = session.run(None, feeds)[0]
    return scores


@pytest.mark.parametrize(
    ("bounds", "features", "kernel", "stride"),
    [
        (([1, 1], [-1, -1], [2, 3]), 18, "3x2", (2, 2)),
        (([0, 0], [OPEN, OPEN], [2, 3], [2, 2]), 18, "3x2", (4, 4)),
        (([0, 0], [5, 4], [2, 3]), 60, "5x4", (2, 2)),
        (([0], [2], [2]), 24, "5x4", (2, 2)),
        (([-2], [OPEN], [2]), 24, "5x4", (2, 2)),
    ],
    ids=["border cut off", "every second", "ends baked", "first rows", "last rows"],
)
def test_slice(bounds: Any, features: int, kernel: str, stride: tuple[int, int]) -> None:
    """A piece of the native size belongs to the window; all else follows the image."""
    done = proven(bodied(lambda net, tensor: flat(net, cut(net, tensor, *bounds), features)))
    assert done.replacements[0].after == f"Conv {kernel} 3→5"
    assert done.claim.stride == stride
    assert done.claim.verdict == "exact"


def test_a_cut_behind_the_native_map_is_the_file_s_own_at_every_size() -> None:
    """``x[:, :, :7]`` of 5 rows: all that a window has; of a larger image the network takes 7 rows, and no more."""

    def body(net: Net, tensor: str) -> str:
        pooled = net.op("GlobalAveragePool", cut(net, tensor, [0], [7], [2]))
        return str(net.fc(net.op("Flatten", pooled), CHANNELS, M))

    assert proven(bodied(body)).claim.verdict == "exact"
    found = refusal(bodied(body), global_pool="keep")
    assert (found.code, found.reason) == ("cut-out", "Slice cuts off what is behind a fixed place")


def test_flip_is_refused() -> None:
    """Each cell would read the far end of the image: windows are not mirrored by mirroring the map."""
    model = bodied(lambda net, tensor: flat(net, cut(net, tensor, [-1], [-(2**31)], [3], [-1]), FEATURES))
    assert refusal(model).code == "flipped"


def test_a_kernel_along_all_places_in_a_row_is_told_as_such() -> None:
    """It mixes the end of each row of the map with the beginning of the next; nothing is cut out."""

    def body(net: Net, tensor: str) -> str:
        row = net.conv(net.op("Reshape", tensor, net.ints(0, 3, -1)), 3, 3, (3,), strides=[1], pads=[1, 1])
        mixed = net.op("Reshape", row, net.ints(0, 3, 5, 4))
        again = net.conv(net.op("Add", tensor, mixed), 3, 3, (1, 1), strides=[1, 1])
        return net.fc(net.op("Flatten", net.op("GlobalAveragePool", again)), 3, M)

    found = refusal(bodied(body))
    assert (found.code, "past the ends of its rows" in found.reason) == ("cut-out", True)


@pytest.mark.parametrize("bounds", [([0], [0], [2]), ([0], [-5], [2])], ids=["never any", "none natively"])
def test_a_piece_without_places_is_refused(bounds: Any) -> None:
    """As a roll by nothing, or by the whole height, is written."""

    def body(net: Net, tensor: str) -> str:
        return flat(net, net.op("Concat", tensor, cut(net, tensor, *bounds), axis=2), FEATURES)

    assert refusal(bodied(body)).code == "cut-out"


@pytest.mark.parametrize("scores", range(1, 13))
def test_the_scores_of_one_image(scores: int) -> None:
    """``logits[0]``, however many there are: as many as windows that are run together, too."""

    def body(net: Net, tensor: str) -> str:
        first = net.const(0, dtype=np.int64)
        return str(net.op("Gather", flat(net, tensor, FEATURES, scores), first, axis=0))

    proven(bodied(body))


def test_einsum_over_channels() -> None:
    def body(net: Net, tensor: str) -> str:
        return flat(net, net.op("Einsum", tensor, net.random(7, CHANNELS), equation="nchw,oc->nohw"), 140)

    assert proven(bodied(body)).replacements[0].after == "Conv 5x4 7→5"


def test_norm_of_the_whole_map_is_context() -> None:
    def body(net: Net, tensor: str) -> str:
        return flat(net, net.op("Mul", tensor, net.op("ReduceL2", tensor, axes=[2, 3])), FEATURES)

    done = rewrite(bodied(body))
    assert done.claim.verdict == "approximate"
    assert {item.partition(":")[0] for item in done.claim.blame} == {"context"}


def test_pooled_vector_spread_over_the_native_map_again() -> None:
    """As image-level pooling does: Resize of the pooled vector to the native size, beside the map."""

    def body(net: Net, tensor: str) -> str:
        pool = net.op("GlobalAveragePool", tensor)
        wide = net.op("Resize", pool, "", "", net.ints(1, CHANNELS, 5, 4), mode="nearest")
        return flat(net, net.op("Concat", tensor, wide, axis=1), 2 * FEATURES)

    done = rewrite(bodied(body, opset=13))
    assert done.claim.verdict == "approximate"
    assert run(done, image=np.zeros((1, 2, 23, 17), np.float32)).shape[2:] == (7, 5)


def test_batch_baked_into_context_is_freed() -> None:
    def body(net: Net, tensor: str) -> str:
        vector = net.op("Reshape", net.op("GlobalAveragePool", tensor), net.ints(1, CHANNELS))
        gate = net.op("Sigmoid", net.fc(vector, CHANNELS, CHANNELS))
        return flat(net, net.op("Mul", tensor, net.op("Reshape", gate, net.ints(1, CHANNELS, 1, 1))), FEATURES)

    done = rewrite(bodied(body), options=RewriteOptions(dynamic_batch=True))
    images = np.random.default_rng(0).standard_normal((3, 2, 11, 9)).astype(np.float32)
    single = np.concatenate([run(done, image=image[None]) for image in images])
    np.testing.assert_allclose(run(done, image=images), single, rtol=1e-5, atol=1e-6)


def test_idle_ceil_mode_stays_idle_at_other_sizes() -> None:
    """12 pixels leave a 10x10 map, which a pool of 2 divides: at 13 a partial window must not appear."""
    net = Net()
    tensor = net.op("Relu", net.conv(net.image(1, (12, 12)), 2, 4, (3, 3), strides=[1, 1]))
    pool = net.op("MaxPool", tensor, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    done = proven(net.model(net.fc(net.op("Flatten", pool), 100, M)))
    assert done.claim.verdict == "exact"
    assert run(done, image=np.zeros((1, 2, 13, 13), np.float32)).shape == (1, M, 1, 1)


def test_branches_of_different_stride_at_every_size() -> None:
    """Off the grid one branch may end a cell later: both are cut to the common grid."""
    net = Net()
    image = net.image(1, (13, 13))
    one = net.conv(image, 2, 3, (1, 1), strides=[2, 2])
    two = net.conv(image, 2, 3, (7, 7), strides=[4, 4])
    both = net.op("Concat", net.op("Flatten", net.op("Relu", one)), net.op("Flatten", net.op("Relu", two)), axis=1)
    done = proven(net.model(net.fc(both, 3 * 49 + 3 * 4, M)))
    assert done.claim.size_step == (1, 1)
    for side in range(13, 34):
        cells = (side - 13) // 4 + 1
        assert run(done, image=np.zeros((1, 2, side, side), np.float32)).shape == (1, M, cells, cells)


def test_channels_last_image_without_any_conv() -> None:
    net = Net()
    x = net.input("x", ["n", 12, 10, 3])
    model = net.model(net.fc(net.op("Relu", net.fc(net.op("Flatten", x), 360, 8)), 8, M))
    done = proven(model)
    assert done.claim.native_size == (12, 10)


def test_features_of_a_huge_window_one_by_one_are_refused() -> None:
    """Softmax over a flattened map needs every feature of every window: no memory for that."""
    net = Net()
    tensor = net.conv(net.image(1, (96, 96)), 2, 8, (1, 1), strides=[1, 1])
    model = net.model(net.fc(net.op("Softmax", net.op("Flatten", tensor), axis=-1), 8 * 96 * 96, 2))
    assert refusal(model).code == "window-too-large"


@pytest.mark.parametrize("batch", [1, "N"])
def test_side_input_beside_the_features(batch: int | str) -> None:
    """One vector per image, the same in every cell."""
    net = Net()
    tensor = net.trunk(batch)
    side = net.input("age", [batch, 4])
    both = net.op("Concat", net.op("Flatten", tensor), side, axis=1)
    done = rewrite(net.model(net.fc(both, FEATURES + 4, M)))
    assert done.parity is not None
    assert done.parity.window.status == "passed"
    image = np.random.default_rng(0).standard_normal((1, 2, 13, 11)).astype(np.float32)
    low, high = (run(done, image=image, age=np.full((1, 4), value, np.float32)) for value in (0, 1))
    difference = (high - low).reshape(M, -1)
    np.testing.assert_allclose(difference, np.broadcast_to(difference[:, :1], difference.shape), atol=1e-5)


def excited(net: Net, tensor: str, figure: str) -> str:
    """The map times a sigmoid of a figure of the whole map, then the usual FC layer."""
    return flat(net, net.op("Mul", tensor, net.op("Sigmoid", net.op("Mul", figure, net.const(0.05)))), FEATURES)


@pytest.mark.parametrize("kind", ["ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare"])
def test_sum_over_the_whole_image_keeps_its_native_scale(kind: str) -> None:
    """A network that knows sums over 5x4 places must not meet sums over 200: of an even image all cells are alike."""
    done = rewrite(bodied(lambda net, tensor: excited(net, tensor, net.axes(kind, tensor, [2, 3]))))
    assert done.parity is not None
    assert done.parity.native.deviation < 1e-5
    native = run(done, image=np.ones((1, 2, 11, 9), np.float32))
    larger = run(done, image=np.ones((1, 2, 41, 39), np.float32))
    np.testing.assert_allclose(larger, np.broadcast_to(native, larger.shape), rtol=1e-5)


def test_sum_that_is_divided_by_the_image_s_size_is_left_alone() -> None:
    def body(net: Net, tensor: str) -> str:
        dims = net.op("Slice", net.op("Shape", tensor), net.ints(2), net.ints(4), net.ints(0))
        count = net.op("Cast", net.op("ReduceProd", dims, keepdims=1), to=1)
        return excited(net, tensor, net.op("Div", net.axes("ReduceSum", tensor, [2, 3]), count))

    done = rewrite(bodied(body))
    assert "ReduceSum" in {node.op_type for node in done.model.graph.node}
    native = run(done, image=np.ones((1, 2, 11, 9), np.float32))
    larger = run(done, image=np.ones((1, 2, 41, 39), np.float32))
    np.testing.assert_allclose(larger, np.broadcast_to(native, larger.shape), rtol=1e-5)


@pytest.mark.parametrize("kind", ["Add", "Concat"])
@pytest.mark.parametrize("alike", [True, False])
def test_constant_of_the_native_size(kind: str, alike: bool) -> None:
    """Alike at every place it is spread over any size; one place that differs makes it a table."""

    def body(net: Net, tensor: str) -> str:
        value = np.broadcast_to(np.arange(1, 1 + CHANNELS).reshape(1, -1, 1, 1), (1, CHANNELS, 5, 4)).copy()
        if not alike:
            value[0, 1, 2, 3] += 1
        table = net.const(value)
        if kind == "Add":
            return flat(net, net.op("Add", tensor, table), FEATURES)
        return flat(net, net.op("Concat", tensor, table, axis=1), 2 * FEATURES)

    if alike:
        assert proven(bodied(body)).claim.verdict == "exact"
    else:
        assert refusal(bodied(body)).code == "position-table"


def test_rows_of_all_places_where_a_batch_was_baked_in_are_not_images() -> None:
    """(2 * 5 * 4, 3) rows, normalised over the rows of the batch: that mixes places and images."""

    def body(net: Net, tensor: str) -> str:
        rows = net.op("Reshape", net.op("Transpose", tensor, perm=[0, 2, 3, 1]), net.ints(40, CHANNELS))
        mixed = net.op("Softmax", rows, axis=0)
        back = net.op("Transpose", net.op("Reshape", mixed, net.ints(2, 5, 4, CHANNELS)), perm=[0, 3, 1, 2])
        return flat(net, back, FEATURES)

    assert refusal(bodied(body, batch=2)).code == "mixes-batch"


def test_rows_with_a_bias_of_their_own_are_the_head_s() -> None:
    """A table over the rows of one image is no part of a sliding trunk: each window has it anew, one by one."""

    def body(net: Net, tensor: str) -> str:
        rows = net.op("Reshape", net.op("Transpose", tensor, perm=[0, 2, 3, 1]), net.ints(-1, CHANNELS))
        mixed = net.op("Add", net.op("MatMul", rows, net.random(CHANNELS, CHANNELS)), net.random(20, CHANNELS))
        back = net.op("Transpose", net.op("Reshape", mixed, net.ints(1, 5, 4, CHANNELS)), perm=[0, 3, 1, 2])
        return flat(net, net.op("Tanh", net.conv(back, CHANNELS, 4, (2, 2), strides=[1, 1])), 48)

    done = proven(bodied(body))
    assert done.claim.verdict == "exact"
    assert {item.code for item in done.notes} == {"per-window"}


def test_number_of_channels_read_off_a_shape_is_a_constant() -> None:
    def body(net: Net, tensor: str) -> str:
        count = net.op("Gather", net.op("Shape", tensor), net.ints(1))
        first = net.op("Slice", tensor, net.ints(0), net.op("Sub", count, net.ints(1)), net.ints(1))
        return flat(net, first, 40)

    assert "Shape" not in {node.op_type for node in proven(bodied(body)).model.graph.node}


def test_pool_of_a_channels_last_map_before_a_conv() -> None:
    """Keras's MobileNetV3: mean over (1, 2) of (N, H, W, C), keeping dims, channels first again, 1x1 Conv."""

    def body(net: Net, tensor: str) -> str:
        last = net.op("Relu", net.op("Transpose", tensor, perm=[0, 2, 3, 1]))
        pooled = net.op("Transpose", net.axes("ReduceMean", last, [1, 2], keepdims=1), perm=[0, 3, 1, 2])
        return flat(net, net.op("Relu", net.conv(pooled, CHANNELS, 8, (1, 1), strides=[1, 1])), 8)

    assert [item.after for item in proven(bodied(body)).replacements] == ["AveragePool 5x4, stride 1", "Conv 1x1 8→5"]


@pytest.mark.parametrize(("amount", "smallest"), [(1, 3), (2, 5), (4, 9)])
@pytest.mark.parametrize("opset", [9, 17, 18])
def test_smallest_image_that_a_reflection_takes(opset: int, amount: int, smallest: int) -> None:
    """A pad by reflection needs one place more than it adds, of which shape inference says nothing."""
    net = Net(opset)
    tensor = net.conv(net.image(1, (32, 32)), 2, 3, pads=[1] * 4)
    if opset < 11:
        padded = net.op("Pad", tensor, mode="reflect", pads=[0, 0, *[amount] * 2] * 2)
    elif opset < 18:
        padded = net.op("Pad", tensor, net.ints(*[0, 0, *[amount] * 2] * 2), mode="reflect")
    else:
        padded = net.op("Pad", tensor, net.ints(*[amount] * 4), "", net.ints(2, 3), mode="reflect")
    done = rewrite(net.model(net.conv(padded, 3, 4, (2 * amount + 1,) * 2, strides=[1, 1])))
    assert done.claim.smallest_size == (smallest, smallest)
    run(done, image=np.zeros((1, 2, smallest, smallest), np.float32))
    for size in () if OLD_RUNTIME else ((smallest - 1, 32), (32, smallest - 1)):  # which reads what is not there
        with pytest.raises(Exception, match="reflect"):
            run(done, image=np.zeros((1, 2, *size), np.float32))


def test_count_of_places_is_context() -> None:
    """How many places are positive, as an integer: at other sizes as many as there would be in a native image."""

    def body(net: Net, tensor: str) -> str:
        counted = net.op("Cast", net.op("Greater", tensor, net.const(0.0)), to=7)
        count = net.op("Cast", net.axes("ReduceSum", counted, [2, 3], keepdims=1), to=1)
        return flat(net, net.op("Mul", tensor, net.op("Mul", count, net.const(0.1))), FEATURES)

    done = rewrite(bodied(body))
    assert {item.partition(":")[0] for item in done.claim.blame} == {"context"}
    native = run(done, image=np.ones((1, 2, 11, 9), np.float32))
    larger = run(done, image=np.ones((1, 2, 41, 39), np.float32))
    np.testing.assert_allclose(larger, np.broadcast_to(native, larger.shape), rtol=1e-5)


def test_sum_divided_by_a_shape_is_a_mean_at_any_size() -> None:
    """As a gate of an image of any size whose head's pool stays global."""
    net = Net()
    tensor = net.op("Relu", net.conv(net.input("image", (1, 2, "h", "w")), 2, 3))
    dims = net.op("Slice", net.op("Shape", tensor), net.ints(2), net.ints(4), net.ints(0))
    count = net.op("Cast", net.op("ReduceProd", dims, keepdims=0), to=1)
    gate = net.op("Sigmoid", net.op("Div", net.axes("ReduceSum", tensor, [2, 3], keepdims=1), count))
    pooled = net.axes("ReduceMean", net.op("Mul", tensor, gate), [2, 3], keepdims=0)
    done = rewrite(net.model(net.fc(pooled, 3, M)), options=RewriteOptions(size=(11, 9), global_pool="keep"))
    native = run(done, image=np.ones((1, 2, 11, 9), np.float32))
    np.testing.assert_allclose(run(done, image=np.ones((1, 2, 41, 39), np.float32)), native, rtol=1e-5)


def test_network_that_takes_any_size_already() -> None:
    """It has a global pool that depends on the image: the reason is that nothing in it must change."""
    net = Net()
    tensor = net.conv(net.input("image", (1, 2, "h", "w")), 2, 3)
    gate = net.op("Sigmoid", net.op("GlobalAveragePool", tensor))
    found = refusal(net.model(net.op("Mul", tensor, gate)), size=(11, 9))
    assert (found.code, found.reason.partition(",")[0]) == ("no-head", "no node of it is locked to one image size")


def test_labels_behind_the_scores_are_named_as_what_is_in_the_way() -> None:
    """``ZipMap`` of ai.onnx.ml is written by converters of classifiers, not by a runtime's optimiser."""
    net = Net()
    scores = net.fc(net.flat(), FEATURES, 3)
    net.op("ZipMap", scores, out="labels", domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2])
    model = net.model(scores, infer=False)
    kind = onnx.helper.make_sequence_type_proto(
        onnx.helper.make_map_type_proto(
            onnx.TensorProto.INT64, onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [])
        )
    )
    model.graph.output.append(onnx.helper.make_value_info("labels", kind))
    model.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 3))
    found = refusal(model)
    assert (found.code, found.advice) == (
        "unsupported-operator",
        f"end the model before it: --output-at {scores}",
    )
