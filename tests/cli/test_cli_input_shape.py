"""``--input-shape``, as onnxsim and polygraphy spell it: the same as ``--size``, for rewrite, inspect and check."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from cli_runs import LENET, fails, here, misused
from fixture_files import fixture_file
from onnx import parser

from onnxfc import RewriteOptions, UsageError, check_pair, rewrite

OPEN = fixture_file("mini_resnet_hw.dynamo.onnx")
"""(batch, 3, h, w), all of them open but the channels."""


@pytest.mark.parametrize("shape", ["image:1x3x64x64", "image:1,3,64,64", "image:[1,3,64,64]", "1x3x64x64"])
def test_every_spelling_is_the_size(shape: str, tmp_path: Path) -> None:
    assert here("rewrite", OPEN, "size.onnx", "-q", "--size", "64x64", cwd=tmp_path).code == 0
    run = here("rewrite", OPEN, "shape.onnx", "--input-shape", shape, cwd=tmp_path)
    assert run.code == 0, run.err
    assert (tmp_path / "shape.onnx").read_bytes() == (tmp_path / "size.onnx").read_bytes()


def test_inspect_and_check_take_it(tmp_path: Path) -> None:
    seen = json.loads(here("inspect", OPEN, "--json", "--input-shape", "image:1x3x64x64", cwd=tmp_path).out)
    assert (seen["status"], seen["native_size"]) == ("rewritable", [64, 64])
    rewrite(OPEN, options=RewriteOptions(size=(64, 64)), prove=False).save(tmp_path / "any.onnx")
    given = ("--input-shape", "image:1x3x64x64")
    assert here("check", OPEN, "any.onnx", *given, cwd=tmp_path).code == 0
    said = fails(2, "check", OPEN, "any.onnx", "--input-shape", "image:1x3x48x64", cwd=tmp_path)
    assert said.endswith("the size 48x64 is not the native size of the second model, 64x64")
    model = onnx.load(tmp_path / "any.onnx")
    del model.metadata_props[:]  # the pair tells itself now
    checked = check_pair(OPEN, model, input_shapes={"image": (1, 3, 64, 64)})
    assert (checked.passed, checked.claim_from, checked.claim.native_size) == (True, "derived", (64, 64))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("image:1x3x64",), "does not fit image, which is ?x3x?x? in the file"),
        (("image:1x4x64x64",), "does not fit image, which is ?x3x?x? in the file; give what is open there alone"),
        (("x:1x3x64x64",), "name the input that is meant, such as image:1x3x224x224; the inputs are image"),
        (
            ("image:1x3x64x64", "--size", "32x32"),
            "--size 32x32: --input-shape says 64x64; give one of them",
        ),
        (("image:1x3x64x64", "--input-shape", "image:1x3x32x32"), "--input-shape: an input is given twice"),
    ],
)
def test_what_contradicts_is_one_line(given: tuple[str, ...], says: str, tmp_path: Path) -> None:
    assert says in fails(2, "rewrite", OPEN, "out.onnx", "--input-shape", *given, cwd=tmp_path)


def test_what_the_file_declares_cannot_be_changed(tmp_path: Path) -> None:
    said = fails(2, "rewrite", LENET, "out.onnx", "--input-shape", "image:1x1x32x32", cwd=tmp_path)
    assert "--input-shape image:1x1x32x32: does not fit image, which is 1x1x28x28 in the file" in said


@pytest.mark.parametrize("shape", ["image:1x3xHxW", "image:", "image:0x3x64x64", "image:-1,3,64,64", "image"])
def test_what_is_no_shape(shape: str, tmp_path: Path) -> None:
    said = misused("rewrite", OPEN, "out.onnx", "--input-shape", shape, cwd=tmp_path)
    assert "is not a name and a shape such as image:1x3x224x224" in said


TWO = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[1, 2, h, w] left, float[1, 2, x, y] right) => (float[1, 3] scores)
<float[18, 3] weight = {WEIGHT}>
{
  one = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(left)
  two = MaxPool<kernel_shape=[3, 3], strides=[2, 2]>(right)
  both = Add(one, two)
  flat = Flatten(both)
  scores = MatMul(flat, weight)
}
"""


def test_inputs_of_two_sizes(tmp_path: Path) -> None:
    """What no single size can say: 6 and 7 pixels, which both give three elements."""
    weight = np.random.default_rng(0).standard_normal((18, 3)).astype(np.float32)
    model = parser.parse_model(TWO.replace("WEIGHT", ",".join(f"{x:.6f}" for x in weight.flat)))
    shapes = {"left": (1, 2, 6, 6), "right": (1, 2, 7, 7)}
    with pytest.raises(UsageError, match="x:"):
        rewrite(model, options=RewriteOptions(input_shapes={"x": (1, 2, 6, 6)}))
    done = rewrite(model, options=RewriteOptions(input_shapes=shapes))
    assert done.claim.native_size == (6, 6)
    done.save(tmp_path / "any.onnx")
    onnx.save(model, tmp_path / "two.onnx")
    old, new = (ort.InferenceSession(tmp_path / name) for name in ("two.onnx", "any.onnx"))
    rng = np.random.default_rng(1)
    feed = {name: rng.random((1, 2, 4 + s[2], 2 + s[3]), np.float32) for name, s in shapes.items()}
    [cells] = new.run(None, feed)
    assert cells.shape == (1, 3, 3, 2)
    crop = {name: feed[name][:, :, 4 : 4 + s[2], 2 : 2 + s[3]] for name, s in shapes.items()}
    np.testing.assert_allclose(cells[..., 2, 1], old.run(None, crop)[0], rtol=1e-5, atol=1e-6)
