"""What a scan prints beside its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from cli_runs import here
from fixture_files import FIXTURES, fixture_file
from PIL import Image

from onnxfc import rewrite

CANVAS = FIXTURES / "trained" / "canvas.png"


def lines(*words: object) -> dict[str, str]:
    done = here("scan", *words, "--no-check")
    assert (done.code, done.err) == (0, "")
    return dict(line.split(None, 1) for line in done.out.splitlines())


def test_the_best_classes_and_crops(tmp_path: Path) -> None:
    digits = fixture_file("digits.onnx")
    told = lines(digits, CANVAS, tmp_path / "v.csv", "--reduce", "max", "--compare", "3", "--scale", "1/255")
    session = ort.InferenceSession(rewrite(digits, prove=False).model.SerializeToString())
    pixels = np.asarray(Image.open(CANVAS), np.float32)[None, None] / 255
    want = session.run(None, {session.get_inputs()[0].name: pixels})[0][0].max(axis=(1, 2))
    best = [item.split(": ") for item in told["best"].split(", ")]
    order = np.argsort(-want)[:5]
    assert [name for name, _ in best] == [str(k) for k in order]
    assert [float(score) for _, score in best] == pytest.approx(want[order], rel=1e-3)
    assert told["crops"].startswith("cells differ by up to ")
    assert "same top class in " in told["crops"]
    assert told["pixels"] == "bands 1 x 0.00392157"


def test_pixels_as_they_are_and_context_by_tile(tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", np.random.default_rng(0).random((90, 90, 3)).astype(np.float32))
    net = fixture_file("se_net.dynamo.onnx")
    told = lines(net, tmp_path / "image.npy", tmp_path / "map.npy", "--context", "per-tile", "--tile", "2")
    assert told["pixels"] == "bands 1,2,3 as they are"
    assert told["context"] == "the model looks at each tile where it would look at the whole image"
