"""``onnxfc demo``: files that the other commands take."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import numpy as np
import onnxruntime as ort
from cli_runs import ROOT, fails, here, onnxfc
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


def test_without_what_pictures_need(tmp_path: Path) -> None:
    """What is said to try works without the extra, and how pictures come is told."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nfor name in ('PIL', 'imagecodecs', 'tifffile', 'zarr'):\n    sys.modules[name] = None\n"
    )
    bare = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    run = onnxfc("demo", "try", cwd=tmp_path, **bare)
    tries = [shlex.split(line.removeprefix("try   onnxfc ")) for line in run.out.splitlines() if line[:4] == "try "]
    runs = [onnxfc(*words, cwd=tmp_path, **bare) for words in tries]
    assert [done.code for done in runs] == [0, 0, 0], runs
    extra = "for pictures and other images: pip install 'onnxfc[scan]'"
    assert run.out.endswith(f"\n{extra}\n")
    step = "next            onnxfc scan try/digits-any.onnx IMAGE.npy best.csv\n"
    assert f"{step}                {extra}\n                onnxfc inspect" in runs[0].out
    assert (tmp_path / "try" / "best.csv").read_text().startswith("class,score,row,column")
    told = onnxfc("scan", *tries[2][1:-1], "map.png", cwd=tmp_path, **bare)
    assert (told.code, told.line) == (1, "onnxfc: map.png: needs the package PIL: pip install 'onnxfc[scan]'")


def test_nothing_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "canvas.npy").write_bytes(b"mine")
    assert "exists already" in fails(2, "demo", ".", cwd=tmp_path)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert "cannot write" in fails(1, "demo", "file/try", cwd=tmp_path)
