"""Images without a batch, (C, H, W) or (H, W, C): the batch of one that the network itself puts before them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from fixture_files import fixture_file

import onnxfc
from onnxfc.errors import UsageError
from onnxfc.proof.options import CheckOptions
from onnxfc.rewriter.api import Rewrite
from onnxfc.scanner.options import ScanOptions

KINDS, EXPORTERS = ("", "_last", "_pooled"), ("torchscript", "dynamo")
FILES = [f"unbatched{kind}.{exporter}.onnx" for kind in KINDS for exporter in EXPORTERS]
SIZES = ((18, 18), (26, 22), (39, 31))


def crops(original: ort.InferenceSession, image: np.ndarray, last: bool) -> np.ndarray:
    """What the original says of each crop at its stride, (K, gH, gW)."""
    places = image.shape[:2] if last else image.shape[1:]
    rows, columns = (range(0, length - 17, 4) for length in places)
    found = []
    for y in rows:
        for x in columns:
            box = (slice(y, y + 18), slice(x, x + 18))
            found.append(original.run(None, {"image": image[box] if last else image[(slice(None), *box)]})[0])
    return np.stack(found, -1).reshape(-1, len(rows), len(columns))


@pytest.mark.parametrize("file", FILES)
def test_cells_equal_crops(file: str) -> None:
    path, last = fixture_file(file), "_last" in file
    done = onnxfc.rewrite(path)
    assert done.claim.verdict == "exact"
    (image,) = done.claim.inputs
    assert (image.batched, image.spatial) == (False, (0, 1) if last else (1, 2))
    before, after = ort.InferenceSession(path), ort.InferenceSession(done.model.SerializeToString())
    for size in SIZES:
        given = np.random.default_rng(size[0]).standard_normal((*size, 3) if last else (3, *size)).astype(np.float32)
        [scores] = after.run(None, {"image": given})
        assert scores.shape == (5, *done.geometry.cells(*size))
        np.testing.assert_allclose(scores, crops(before, given, last), rtol=0, atol=1e-5 * np.abs(scores).max())


@pytest.mark.parametrize("file", FILES[::3])
@pytest.mark.parametrize("form", ["mean", "max"])
def test_one_vector(file: str, form: str) -> None:
    path, last = fixture_file(file), "_last" in file
    done = onnxfc.rewrite(path, options=onnxfc.RewriteOptions(output=form))  # type: ignore[arg-type]
    given = np.random.default_rng(1).standard_normal((26, 22, 3) if last else (3, 26, 22)).astype(np.float32)
    [scores] = ort.InferenceSession(done.model.SerializeToString()).run(None, {"image": given})
    cells = crops(ort.InferenceSession(path), given, last)
    np.testing.assert_allclose(scores, getattr(cells, form)((1, 2)), rtol=0, atol=1e-5 * np.abs(cells).max())


def test_a_pair_without_metadata_and_a_damaged_one(tmp_path: Path) -> None:
    """The second model alone must tell its cells; another weight is found."""
    path = fixture_file(FILES[0])
    model = onnxfc.rewrite(path).model
    del model.metadata_props[:]
    assert onnxfc.check_pair(path, model).passed
    weight = next(item for item in model.graph.initializer if list(item.dims) == [5, 6, 3, 3])
    value = onnx.numpy_helper.to_array(weight).copy()
    value[2, 3] = np.flip(value[2, 3])
    weight.CopyFrom(onnx.numpy_helper.from_array(value, weight.name))
    assert not onnxfc.check_pair(path, model).passed


def test_real_inputs_count_images_first() -> None:
    path = fixture_file(FILES[0])
    data = np.random.default_rng(0).standard_normal((4, 3, 24, 20)).astype(np.float32)
    done = onnxfc.rewrite(path, check_options=CheckOptions(data=data))
    assert done.parity is not None
    assert done.parity.passed
    with pytest.raises(UsageError, match="image"):
        onnxfc.rewrite(path, check_options=CheckOptions(data=data[0]))


@pytest.mark.parametrize("file", FILES[::3])
def test_scanned(file: str) -> None:
    path, last = fixture_file(file), "_last" in file
    image = np.random.default_rng(3).standard_normal((50, 61, 3)).astype(np.float32)
    found = onnxfc.scan(path, image, options=ScanOptions(tile=3))
    given = image if last else image.transpose(2, 0, 1)
    want = crops(ort.InferenceSession(path), np.ascontiguousarray(given), last)
    np.testing.assert_allclose(np.asarray(found).reshape(want.shape), want, rtol=0, atol=1e-5 * np.abs(want).max())


def as_the_freed_original(done: Rewrite, original: onnx.ModelProto) -> list[tuple[int, ...]]:
    """That it has the values of the original, in which no size is written, once its dims are free; their shapes."""
    for axis in (1, 2):
        original.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"axis_{axis}"
    for info in original.graph.output:
        info.type.tensor_type.ClearField("shape")
    del original.graph.value_info[:]
    shapes = []
    for size in SIZES:
        given = np.random.default_rng(size[0]).standard_normal((3, *size)).astype(np.float32)
        models = (done.model, original)
        got, want = (ort.InferenceSession(m.SerializeToString()).run(None, {"image": given})[0] for m in models)
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
        shapes.append(got.shape)
    return shapes


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(("name", "scores"), [("unbatched_pooled", 5), ("kept_unbatched", 5)])
def test_a_kept_pool_gives_scores_without_a_batch(name: str, scores: int, exporter: str) -> None:
    """Also where the image goes on without its batch between two layers, through SiLU."""
    path = fixture_file(f"{name}.{exporter}.onnx")
    done = onnxfc.rewrite(path, options=onnxfc.RewriteOptions(global_pool="keep"))
    assert as_the_freed_original(done, onnx.load(path)) == [(scores,)] * 3


def test_a_mean_over_the_whole_of_one_image() -> None:
    """It leaves no axis at all; the freed original's trunk is the same at other sizes."""
    model = onnx.load(fixture_file(FILES[0]))
    first = next(node for node in model.graph.node if node.op_type == "Sub")
    mean = onnx.helper.make_node("ReduceMean", ["image"], ["whole_mean"], keepdims=0)
    first.input[1] = "whole_mean"
    model.graph.node.insert(0, mean)
    done = onnxfc.rewrite(model)
    assert {item.cause.value for item in done.claim.blames} == {"context"}
    assert done.parity is not None
    assert (done.parity.trunk.status, done.parity.trunk.compared > 0) == ("passed", True)


def test_a_map_without_a_batch_is_one_at_every_size() -> None:
    model = onnx.load(fixture_file("unbatched_pooled.torchscript.onnx"))
    last = [node for node in model.graph.node if node.op_type == "Relu"][-1]
    done = onnxfc.rewrite(model, options=onnxfc.RewriteOptions(output_at=(last.output[0],)))
    assert [(output.form, output.axes) for output in done.claim.outputs] == [("features", (1, 2))]
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(last.output[0], onnx.TensorProto.FLOAT, None))
    assert [shape[0] for shape in as_the_freed_original(done, model)] == [6, 6, 6]
