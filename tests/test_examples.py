"""The examples run as they are, and say what is so."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from cli_runs import ROOT
from doc_pages import furnish, run_python
from fixture_files import fixture_file

EXAMPLES = {path.stem: path for path in sorted((ROOT / "examples").glob("*.py"))}

SAID = {
    "class_activation_map": r"4x4 places, 16 px apart\ntheir mean is the original's score to \de-0[6-9]\n",
    "edit_with_graphsurgeon": r"<Rewrite: native size 18x18 px, .*proven on \d+ values.*>\n\['Conv'(?!.*Softmax).*\]\n",
    "half_precision": r"True proven on \d+ values.*\ntrtexec --fp16 --onnx=lenet-any-half.onnx --saveEngine=\S+"
    r" --minShapes=image:1x1x28x28 --optShapes=image:1x1x384x384 --maxShapes=image:1x1x1024x1024\n",
    "heat_map": "",
    "one_vector": r"(?:[\w ]+ \(1, 2\) \[.*\]\n){3}",
    "tiles": r"47x37 cells, tiles differ by (?:0e\+00|\de-0[6-9])\n",
}


def test_all_examples_are_tried_and_listed() -> None:
    assert EXAMPLES.keys() == SAID.keys()
    listed = re.findall(r"`(\w+)\.py` \|", (ROOT / "examples" / "README.md").read_text("utf-8"))
    assert sorted(listed) == sorted(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str, tmp_path: Path) -> None:
    code = EXAMPLES[name].read_text("utf-8")
    said = re.sub(r"^\[W\] .*\n", "", run_python(code, furnish(tmp_path)))  # a warning of older onnx-graphsurgeons
    assert re.fullmatch(SAID[name], said)


def test_what_is_built_for_tensorrt_runs_on_all_its_profile(tmp_path: Path) -> None:
    """In onnxruntime here: in halves but for its input and output; the smallest image gives one cell."""
    said = run_python(EXAMPLES["half_precision"].read_text("utf-8"), furnish(tmp_path))
    model = onnx.load(tmp_path / "lenet-any-half.onnx")
    kinds = {tensor.data_type for tensor in model.graph.initializer if tensor.name.endswith("weight")}
    assert kinds == {onnx.TensorProto.FLOAT16}
    session = ort.InferenceSession(tmp_path / "lenet-any-half.onnx")
    cells = []
    for shape in re.findall(r"Shapes=image:(\S+)", said):
        image = np.ones(tuple(map(int, shape.split("x"))), np.float32)
        cells.append(session.run(None, {"image": image})[0].shape[2:])
    assert cells == [(1, 1), (90, 90), (250, 250)]


def test_the_heat_map_is_short_and_finds_a_four(tmp_path: Path) -> None:
    code = EXAMPLES["heat_map"].read_text("utf-8")
    assert len([line for line in code.splitlines()[1:] if line.strip()]) < 10  # imports, too
    run_python(code, furnish(tmp_path))
    header, pixels = (tmp_path / "four.pgm").read_bytes().split(b"\n", 1)
    assert header == b"P5 25 13 255"
    share = np.frombuffer(pixels, np.uint8)
    assert divmod(int(share.argmax()), 25) == (1, 15)
    picture = np.frombuffer(pixels, np.uint8).reshape(13, 25)
    digits = np.load(fixture_file("digits.npz"))
    for (y, x), label in zip(digits["corners"], digits["corner_labels"], strict=True):
        assert (picture[y // 4, x // 4] > 127) == (label == 4)
