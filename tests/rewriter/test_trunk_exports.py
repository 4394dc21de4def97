"""Trunks as exporters spell them: places laid together, sizes baked, context of every kind, no FC head at all."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from fixture_files import fixture_file
from hazards import complete

from onnxfc.errors import NothingToRewrite
from onnxfc.proof.options import CheckOptions
from onnxfc.rewriter.api import Rewrite, rewrite
from onnxfc.rewriter.options import RewriteOptions

EXPORTERS = ("torchscript", "dynamo")


def rewritten(name: str, exporter: str, **options: bool) -> Rewrite:
    path = fixture_file(f"{name}.{exporter}.onnx")
    return rewrite(path, options=RewriteOptions(**options), check_options=CheckOptions(threads=1))


def run(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    made: np.ndarray = session.run(None, {session.get_inputs()[0].name: image})[0]
    return made


def ops(done: Rewrite) -> list[str]:
    return [node.op_type for node in done.model.graph.node]


@pytest.mark.sweep(16)
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("rows", 1),
        ("token_head", 1),
        ("excited", 1),
        ("blocks", 4),
        ("alike", 1),
        ("coincident", 1),
        ("pyramid", 1),
        ("trunk_lrn", 1),
    ],
)
def test_takes_every_size_of_its_step(name: str, step: int, exporter: str) -> None:
    """One cell per window of the stride of 2, at sizes on the grid, off it, and not square."""
    done = rewritten(name, exporter)
    native = done.claim.native_size[0]
    assert done.claim.size_step == (step, step)
    assert done.claim.stride == (2, 2)
    model = complete(done)
    for more in ((4, 12), (8, 0)) if step == 4 else ((1, 3), (6, 0), (5, 4)):
        shape = tuple(native + item for item in more)
        cells = tuple((item + 1) // 2 + 1 for item in more) if step == 1 else tuple(item // 2 + 1 for item in more)
        assert run(model, np.zeros((1, 3, *shape), np.float32)).shape == (1, 5, *cells)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["rows", "token_head", "blocks", "coincident", "trunk_lrn"])
def test_interior_follows_the_image(name: str, exporter: str) -> None:
    """Cells that see no border are the same wherever their crop lies: no place was taken for a channel or an image."""
    done = rewritten(name, exporter)
    assert done.parity is not None
    assert done.parity.shift.status == "passed"
    assert done.parity.shift.deviation < 1e-5
    assert {item.partition(":")[0] for item in done.claim.blame} <= {"padding", "resampling"}


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_images_of_a_batch_stay_apart_where_rows_hold_them_all(exporter: str) -> None:
    """(N * H * W, C) with the batch of 1 baked in: freed, each image gives what it gives alone."""
    model = complete(rewritten("rows", exporter, dynamic_batch=True))
    images = np.random.default_rng(0).standard_normal((3, 3, 33, 30)).astype(np.float32)
    single = np.concatenate([run(model, image[None]) for image in images])
    np.testing.assert_allclose(run(model, images), single, atol=1e-5 * np.abs(single).max())


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_excitation_in_every_spelling_stays_global(exporter: str) -> None:
    """An image repeated side by side has the same means and deviations: the same scores, but for the border."""
    done = rewritten("excited", exporter)
    assert done.claim.verdict == "approximate"
    assert "context" in {item.partition(":")[0] for item in done.claim.blame}
    assert [item.after for item in done.replacements] == ["AveragePool 14x14, stride 1", "Conv 1x1 6→5"]
    kinds = ops(done)
    assert kinds.count("AveragePool") == 2  # the head's, an axis at a time; those of context are no windows


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", ["coincident", "shuffle"])
def test_channel_shuffle_is_one_gather(name: str, exporter: str) -> None:
    """No shape arithmetic at native size: fewer nodes than the original has."""
    done = rewritten(name, exporter)
    before = [node.op_type for node in onnx.load(fixture_file(f"{name}.{exporter}.onnx")).graph.node]
    after = ops(done)
    assert {"Reshape", "Transpose", "Shape"}.isdisjoint(after)
    assert len([kind for kind in after if kind != "Constant"]) < len([kind for kind in before if kind != "Constant"])


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(("name", "step", "factor"), [("unet", 1, 1), ("super_resolution", 1, 2)])
def test_network_without_fc_layer(name: str, step: int, factor: int, exporter: str) -> None:
    """The dims are freed: native parity, shift consistency, and an output that grows with the image."""
    done = rewritten(name, exporter)
    assert done.parity is not None
    assert done.parity.native.status == done.parity.shift.status == "passed"
    assert done.parity.shift.deviation < 1e-5
    assert done.claim.size_step == (step, step)
    assert [item.form for item in done.claim.outputs] == ["features"]
    channels = int(done.original.proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value)
    height, width = (length + 2 * step * k for k, length in enumerate(done.claim.native_size, 1))
    made = run(complete(done), np.zeros((1, channels, height, width), np.float32))
    assert made.shape[2:] == (height * factor, width * factor)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize(
    ("name", "code", "node"),
    [
        ("table", "position-table", {"torchscript": "/Add", "dynamo": "node_add"}),
        ("rolled", "flipped", {"torchscript": "/Concat", "dynamo": "node_Concat_7"}),
    ],
)
def test_refused_at_the_node_that_forbids_it(name: str, code: str, node: dict[str, str], exporter: str) -> None:
    with pytest.raises(NothingToRewrite) as caught:
        rewritten(name, exporter)
    assert caught.value.refusals[0].code == code
    assert caught.value.refusals[0].node == node[exporter]


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_map_sampled_at_its_own_coordinates_is_that_of_the_freed_original(exporter: str) -> None:
    """GridSample in coordinates from -1 to 1; the original's graph names no size, so that it runs once its dims are
    free."""
    done = rewritten("sampled", exporter)
    original = onnx.load(fixture_file(f"sampled.{exporter}.onnx"))
    for axis in (2, 3):
        original.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"free{axis}"
    for info in [*original.graph.output, *original.graph.value_info]:
        info.type.tensor_type.ClearField("shape")
    assert {item.cause.value for item in done.claim.blames} == {"context"}
    for size in ((21, 21), (27, 36), (44, 25)):
        image = np.random.default_rng(size[1]).standard_normal((1, 3, *size)).astype(np.float32)
        maps = [
            ort.InferenceSession(model.SerializeToString()).run(["map"], {"image": image})[0]
            for model in (original, done.model)
        ]
        np.testing.assert_allclose(maps[1], maps[0], rtol=0, atol=1e-6 * np.abs(maps[0]).max())
