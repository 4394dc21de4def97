"""``onnxfc demo``: files that the other commands take."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import onnxruntime as ort
from cli_runs import fails, here
from fixture_files import fixture_file


def test_demo(tmp_path: Path) -> None:
    run = here("demo", "it's a try", cwd=tmp_path)
    assert run.code == 0
    folder = tmp_path / "it's a try"
    assert (folder / "digits.onnx").read_bytes() == fixture_file("digits.onnx").read_bytes()
    commands = [line.removeprefix("try   onnxfc ") for line in run.out.splitlines() if line.startswith("try ")]
    tries = [shlex.split(line) for line in commands]
    assert len(tries) == 3
    for words in tries:
        assert here(*words, cwd=tmp_path).code == 0
    assert (folder / "map.png").read_bytes().startswith(b"\x89PNG")
    digits, canvas = np.load(fixture_file("digits.npz")), np.load(folder / "canvas.npy")
    [cells] = ort.InferenceSession(folder / "digits-any.onnx").run(None, {"image": canvas})
    named = [int(cells[0, :, y // 4, x // 4].argmax()) for y, x in digits["corners"]]
    assert named == digits["corner_labels"].tolist()


def test_nothing_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "canvas.npy").write_bytes(b"mine")
    assert "exists already" in fails(2, "demo", ".", cwd=tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert "cannot write" in fails(1, "demo", "file/try", cwd=tmp_path)
