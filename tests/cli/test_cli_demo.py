"""``onnxfc demo``: files that the other commands take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
from cli_runs import fails, onnxfc
from fixture_files import fixture_file


def test_demo(tmp_path: Path) -> None:
    run = onnxfc("demo", "try", cwd=tmp_path)
    assert run.code == 0
    assert (tmp_path / "try" / "digits.onnx").read_bytes() == fixture_file("digits.onnx").read_bytes()
    tries = [line.removeprefix("try   onnxfc ").split() for line in run.out.splitlines() if line.startswith("try ")]
    assert len(tries) == 3
    for words in tries:
        assert onnxfc(*words, cwd=tmp_path).code == 0
    assert (tmp_path / "try" / "map.png").read_bytes().startswith(b"\x89PNG")
    digits, canvas = np.load(fixture_file("digits.npz")), np.load(tmp_path / "try" / "canvas.npy")
    [cells] = ort.InferenceSession(tmp_path / "try" / "digits-any.onnx").run(None, {"image": canvas})
    named = [int(cells[0, :, y // 4, x // 4].argmax()) for y, x in digits["corners"]]
    assert named == digits["corner_labels"].tolist()


def test_nothing_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "canvas.npy").write_bytes(b"mine")
    assert "exists already" in fails(2, "demo", ".", cwd=tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert "cannot write" in fails(1, "demo", "file/try", cwd=tmp_path)
