"""At native size nothing changes: onnxruntime makes of the trunk what it made before. Dims say what is equal."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from fixture_files import fixture_file, must_run
from hazards import OLD_RUNTIME, Net, complete, proven
from onnx import TensorProto, helper
from test_fixtures import HEADLESS, INDEX, REWRITTEN, UNKNOWN, options

from onnxfc.rewriter.api import Rewrite, rewrite

FILES = [name for name in [*REWRITTEN, *HEADLESS] if name not in UNKNOWN and name.count(".") == 2]
"""All but those that tools optimised further."""
AS_MANY = [
    *("mini_resnet.torchscript", "mini_resnet.dynamo", "mini_squeezenet.torchscript", "mini_squeezenet.dynamo"),
    *("mobilenet.torchscript", "mobilenet.dynamo", "shuffle.torchscript", "shuffle.dynamo", "lenet.dynamo"),
    *("coincident.dynamo", "mini_alexnet.torchscript", "mini_vgg.dynamo", "super_resolution.dynamo", "digits"),
]
"""Networks whose trunks stay what they are and whose heads need no further nodes."""


def optimised(model: onnx.ModelProto, folder: Path, **sizes: int) -> Counter[str]:
    """Operators that onnxruntime's optimiser leaves at its default level; ``sizes`` of dims by name."""
    target = folder / "optimised.onnx"
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.optimized_model_filepath = str(target)
    for key, length in sizes.items():
        settings.add_free_dimension_override_by_name(key, length)
    ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(target).graph.node)


def done_with(name: str) -> Rewrite:
    return rewrite(fixture_file(name), options=options(INDEX[name]), prove=False)


@pytest.fixture(scope="module", params=FILES)
def done(request: pytest.FixtureRequest) -> Rewrite:
    """Of each file once for all tests."""
    must_run(request.param)
    return done_with(request.param)


@pytest.mark.parametrize("name", AS_MANY)
def test_no_fusion_is_lost(name: str, tmp_path: Path) -> None:
    """Where dims have no names onnxruntime leaves an Add behind a Conv alone, and reshapes around it."""
    before = optimised(onnx.load(fixture_file(f"{name}.onnx")), tmp_path)
    after = optimised(complete(done_with(f"{name}.onnx")), tmp_path)
    for kind in ("ReorderInput", "ReorderOutput") if OLD_RUNTIME else ():  # it lays out channels for 1x1 Convs, too
        del before[kind], after[kind]
    assert after.total() <= before.total()
    assert after["Add"] + after["Relu"] + after["Reshape"] <= before["Add"] + before["Relu"] + before["Reshape"]


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_a_gather_of_all_features_in_order_moves_axes_only(exporter: str) -> None:
    """A pooled ConvNeXt stays a map, so its LayerNormalization and the Transposes around it stay what they are."""
    done = done_with(f"convnext.{exporter}.onnx")
    before = {node.SerializeToString(deterministic=True) for node in done.original.proto.graph.node}
    new = [node for node in done.model.graph.node if node.SerializeToString(deterministic=True) not in before]
    assert [node.op_type for node in new] == ["AveragePool", "Transpose", "Conv"]


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_sizes_are_measured_by_few_nodes(exporter: str) -> None:
    """A Resize to a sister's size: one Shape, and a Concat with the dims that stay."""
    nodes = Counter(node.op_type for node in done_with(f"unet.{exporter}.onnx").model.graph.node)
    assert (nodes["Shape"], nodes["Slice"], nodes["Concat"], nodes["Resize"]) == (2, 0, 3, 2)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_what_measures_sizes_folds_away_where_they_are_given(exporter: str, tmp_path: Path) -> None:
    before = optimised(onnx.load(fixture_file(f"unet.{exporter}.onnx")), tmp_path)
    after = optimised(complete(done_with(f"unet.{exporter}.onnx")), tmp_path, height=96, width=64)
    assert after["Shape"] == after["Concat"] - before["Concat"] == 0
    assert after.total() <= before.total()


def feed(session: ort.InferenceSession, done: Rewrite, size: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Images of ``size`` pixels, and something for every other input."""
    rng = np.random.default_rng(0)
    shapes = done.claim.image_shapes(size)
    found = {}
    for item in session.get_inputs():
        shape = shapes.get(item.name) or tuple(n if isinstance(n, int) else 1 for n in item.shape)
        number = helper.tensor_dtype_to_np_dtype(_TYPES[item.type])
        found[item.name] = rng.uniform(0, 9, shape).astype(number)
    return found


_TYPES = {f"tensor({name})": code for name, code in (("float", 1), ("float16", 10), ("double", 11), ("uint8", 2))}
_TYPES |= {"tensor(int64)": TensorProto.INT64, "tensor(bool)": TensorProto.BOOL}


def session_of(model: onnx.ModelProto) -> ort.InferenceSession:
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])


def names_hold(infos: dict[str, onnx.ValueInfoProto], values: dict[str, np.ndarray]) -> None:
    known: dict[str, int] = {}
    for name, value in values.items():
        dims = infos[name].type.tensor_type.shape.dim
        assert len(dims) == value.ndim, name
        for dim, length in zip(dims, value.shape, strict=True):
            told = known.setdefault(dim.dim_param, length) if dim.dim_param else dim.dim_value
            assert told == length, f"{name}: {dim.dim_param or dim.dim_value} is {length}, not {told}"


@pytest.mark.sweep(40)
def test_dims_of_one_name_are_equal(done: Rewrite, tmp_path: Path) -> None:
    """In inputs, outputs and every value_info, on the stride's grid and off it; the file is valid."""
    model, claim = complete(done), done.claim
    onnx.save(model, tmp_path / "model.onnx")
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    whole = session_of(model)
    infos = {info.name: info for info in (*model.graph.value_info, *model.graph.input, *model.graph.output)}
    made = {output for node in model.graph.node for output in node.output}
    inner = [info for key, info in infos.items() if key in made and info.type.tensor_type.HasField("shape")]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=info.name) for info in inner)
    every = session_of(model)
    for count in (0, 1, 5, 6):  # the second axis goes on by more
        size = tuple(
            n + step * (count + 2 * axis * bool(count))
            for axis, (n, step) in enumerate(zip(claim.native_size, claim.size_step, strict=True))
        )
        images = feed(whole, done, size)
        values = dict(zip((info.name for info in inner), every.run(None, images), strict=True))
        names_hold(infos, values | {key: value for key, value in images.items() if key in claim.image_shapes(size)})
        for output, value in zip(whole.get_outputs(), whole.run(None, images), strict=True):
            assert value.shape == values[output.name].shape
            assert value.size > 0


ROUNDED = (
    *("fire.", "keras_int8_gap.lite", "mini_resnet.qdq", "mini_resnet.qoperator", "mobilenet.nhwc_qoperator"),
    *("mobilenet.qoperator", "padded_skips_"),
)
"""onnxruntime rounds (2 - 3) / 2 to 0: a pool makes one place of a map that is smaller than its kernel. Where a Conv of
integers makes no element, it divides by 0, which ends the process."""
if OLD_RUNTIME:
    ROUNDED += ("folded.dynamo",)  # whose pool it lets read beyond the map
CAREFUL = ("boxes.", "cost_volume.", "nms.")
"""Smaller images run, too, where the largest shift is the image's width and nothing is left to write; of detections
there may be none."""


@pytest.mark.sweep(40)
@pytest.mark.parametrize(
    "done", [name for name in FILES if not name.startswith((*ROUNDED, *CAREFUL))], indirect=True, scope="module"
)
def test_smallest_size(done: Rewrite) -> None:
    """It runs and has a cell; one step less on any axis does not, or leaves nothing."""
    session, small = session_of(complete(done)), done.claim.smallest_size
    assert len(small) == len(done.claim.native_size)
    assert all(value.size for value in session.run(None, feed(session, done, small)))
    for axis, step in enumerate(done.claim.size_step):
        size = tuple(n - step * (place == axis) for place, n in enumerate(small))
        if min(size) < 1:
            continue
        values: list[np.ndarray] = []
        with suppress(Exception):  # onnxruntime has many kinds
            values = session.run(None, feed(session, done, size))
        assert not all(value.size for value in values) or not values, size


@pytest.mark.parametrize(
    "name", ["between.dynamo", "norms.torchscript", "keras_branches.tf2onnx", "window_norm.dynamo"]
)
def test_a_vector_beside_a_single_window_is_no_clash_of_sizes(name: str) -> None:
    """Of native extent 1, like the scale it is multiplied with: it takes every size all the same."""
    done = done_with(f"{name}.onnx")
    assert done.claim.size_step == (1, 1)
    assert done.map_at_twice == (5, 5)


@pytest.mark.parametrize("spelling", ["GlobalAveragePool", "ReduceMean"])
@pytest.mark.parametrize(
    ("opset", "channels", "kernels"),
    [(17, 3, [[8, 7]]), (20, 16, [[8, 7]]), (20, 3, [[1, 7], [8, 1]])],
)
def test_a_large_mean_is_taken_in_quick_steps(
    spelling: str, opset: int, channels: int, kernels: list[list[int]]
) -> None:
    """One pool, or where onnxruntime's is slow one for each axis: the same cells."""
    net = Net(opset)
    tensor = net.op("Conv", net.input("x", [1, 2, 11, 9]), net.random(channels, 2, 4, 3))
    pooled = net.op(spelling, tensor) if spelling == "GlobalAveragePool" else net.axes(spelling, tensor, [2, 3])
    model = net.model(net.fc(net.op("Flatten", pooled), channels, 4))
    done = proven(model)
    pools = [node for node in done.model.graph.node if node.op_type == "AveragePool"]
    found = [list(item.ints) for node in pools for item in node.attribute if item.name == "kernel_shape"]
    assert found == kernels
