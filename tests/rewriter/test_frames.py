"""Several frames at once: rows of the batch, channels, an axis of their own, or a time that is free."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from fixture_files import fixture_file
from hazards import CHECK, Net

import onnxfc
from onnxfc.errors import NothingToRewrite
from onnxfc.rewriter.api import Rewrite
from onnxfc.rewriter.options import RewriteOptions

EXPORTERS = ("torchscript", "dynamo")
SHAPES = {
    "frames_shifted": (4, 3),
    "frames_assigned": (4, 3),
    "frames_mean": (4, 3),
    "frames_in_channels": (1, 12),
    "frames_apart": (1, 4, 3),
}
REFERENCES = np.load(fixture_file("frames.npz"))
SIZES = ((48, 40), (33, 51), (36, 64))


def rewritten(name: str, exporter: str, **options: object) -> Rewrite:
    return onnxfc.rewrite(fixture_file(f"{name}.{exporter}.onnx"), options=RewriteOptions(**options))  # type: ignore[arg-type]


def run(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    [value] = ort.InferenceSession(model.SerializeToString()).run(None, {"image": image})
    return np.asarray(value)


def image(size: tuple[int, ...], ahead: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(size[0]).standard_normal((*ahead, *size)).astype(np.float32)


@pytest.mark.sweep(16)
@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", [*SHAPES, "frames_lstm"])
def test_as_pytorch_at_every_size(name: str, exporter: str) -> None:
    """One vector of all frames, while height and width are free."""
    done = rewritten(name, exporter, global_pool="keep")
    assert done.claim.native_size == (32, 32)
    for size in SIZES:
        want = REFERENCES[f"{name} scores {size[0]}x{size[1]}"]
        value = run(done.model, image(size, SHAPES.get(name, (1, 4, 3))))
        assert value.shape == want.shape
        np.testing.assert_allclose(value, want, rtol=0, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_time_that_is_turned_beside_height_and_width_is_free(exporter: str) -> None:
    """(N, T, C, H, W) to (N, C, T, H, W), which a Conv slides over; the channels are fixed."""
    done = rewritten("frames_turned", exporter, global_pool="keep")
    assert done.claim.native_size == (4, 17, 17)
    for size in ((4, 3, 24, 21), (5, 3, 17, 40), (9, 3, 33, 31)):
        want = REFERENCES[f"frames_turned scores {'x'.join(map(str, size))}"]
        value = run(done.model, image(size, (1,)))
        np.testing.assert_allclose(value, want, rtol=0, atol=2e-6 * np.abs(want).max())


def test_zeros_that_the_graph_computes_are_written_into() -> None:
    """The large constant is cut and transposed in the graph."""
    done = rewritten("frames_assigned_large", "dynamo", global_pool="keep")
    for size in SIZES:
        want = REFERENCES[f"frames_assigned_large scores {size[0]}x{size[1]}"]
        np.testing.assert_allclose(run(done.model, image(size, (4, 3))), want, rtol=0, atol=2e-6 * np.abs(want).max())


STEPS = ("frames_lstm", "frames_both", "frames_encoder", "bag_attention", "bag_scores")


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", STEPS)
def test_steps_of_each_window(name: str, exporter: str) -> None:
    """Frames are the steps of a recurrent layer, of attention or of a bag: once for each window, of all its frames."""
    done = rewritten(name, exporter)
    assert (done.claim.verdict, done.claim.stride) == ("exact", (4, 4))
    whole = image((40, 36), (1, 4, 3))
    cells = ort.InferenceSession(done.model.SerializeToString()).run(None, {"image": whole})
    original = ort.InferenceSession(fixture_file(f"{name}.{exporter}.onnx"))
    for row, column in np.ndindex(3, 2):
        crop = np.ascontiguousarray(whole[..., 4 * row : 4 * row + 32, 4 * column : 4 * column + 32])
        for made, want in zip(cells, original.run(None, {"image": crop}), strict=True):
            assert made.shape == (*want.shape, 3, 2)
            np.testing.assert_allclose(made[..., row, column], want, rtol=0, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_branches_that_are_stacked_ahead_of_the_batch(exporter: str) -> None:
    done = rewritten("stacked", exporter)
    assert (done.claim.verdict, done.claim.stride) == ("exact", (2, 2))
    whole, path = image((36, 38), (1, 3)), fixture_file(f"stacked.{exporter}.onnx")
    cells, original = ort.InferenceSession(done.model.SerializeToString()).run(None, {"image": whole}), onnx.load(path)
    for row, column in np.ndindex(3, 4):
        crop = np.ascontiguousarray(whole[..., 2 * row : 2 * row + 32, 2 * column : 2 * column + 32])
        wanted = ort.InferenceSession(original.SerializeToString()).run(None, {"image": crop})
        for made, want in zip(cells, wanted, strict=True):
            np.testing.assert_allclose(made[..., row, column], want, rtol=0, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("name", SHAPES)
def test_cells_are_the_original_on_crops_of_all_frames(name: str, exporter: str) -> None:
    done = rewritten(name, exporter)
    assert (done.claim.verdict, done.claim.stride) == ("exact", (4, 4))
    whole = image((40, 36), SHAPES[name])
    cells = run(done.model, whole)
    assert cells.shape[-2:] == (3, 2)
    original = onnx.load(fixture_file(f"{name}.{exporter}.onnx"))
    for row, column in np.ndindex(3, 2):
        want = run(original, np.ascontiguousarray(whole[..., 4 * row : 4 * row + 32, 4 * column : 4 * column + 32]))
        np.testing.assert_allclose(cells[..., row, column], want, rtol=0, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_any_number_of_clips(exporter: str) -> None:
    done = rewritten("frames_apart", exporter)
    clips = np.concatenate([image((40, 36), (1, 4, 3)), image((40, 36), (1, 4, 3))[:, ::-1]])
    both = run(done.model, clips)
    assert both.shape == (2, 6, 3, 2)
    np.testing.assert_allclose(both[1:], run(done.model, clips[1:]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("free", [("depth",), ()])
def test_logits_of_any_number_of_frames(free: tuple[str, ...], exporter: str) -> None:
    done = rewritten("logits_over_time", exporter, free=free)
    for frames in (12, 25, 40):
        want = REFERENCES[f"logits_over_time scores {frames}x23x23"]
        value = run(done.model, image((frames, 23, 23), (1, 3)))
        assert value.shape == want.shape == (1, 7, (frames - 3) // 2 - 2)
        np.testing.assert_allclose(value, want, rtol=0, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_logits_over_time_of_every_window(exporter: str) -> None:
    """Height and width were squeezed: the network is made for one size of these. With all axes named."""
    done = rewritten("logits_over_time", exporter, free=("depth", "height", "width"))
    assert (done.claim.verdict, done.claim.stride) == ("exact", (2, 4, 4))
    whole = image((20, 27, 31), (1, 3))
    cells = run(done.model, whole)
    assert cells.shape == (1, 7, 4, 3, 2, 3)
    original = onnx.load(fixture_file(f"logits_over_time.{exporter}.onnx"))
    for time, row, column in ((0, 0, 0), (2, 1, 2), (1, 0, 1)):
        first = np.ascontiguousarray(whole[:, :, 2 * time :, 4 * row :, 4 * column :][:, :, :16, :23, :23])
        np.testing.assert_allclose(cells[..., time, row, column], run(original, first), rtol=0, atol=1e-5)


def test_images_of_a_free_batch_are_no_frames() -> None:
    """The mean over however many images there are is none of a crop of one of them."""
    net = Net(17)
    scores = net.fc(net.flat("N"), 60, 5)
    mean = net.axes("ReduceMean", scores, [0], keepdims=1)
    with pytest.raises(NothingToRewrite, match="reduces over the batch"):
        onnxfc.rewrite(net.model(mean), check_options=CHECK)
