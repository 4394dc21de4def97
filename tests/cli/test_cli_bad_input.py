"""Bad input of every kind: one clear line, the exit code, and nothing written."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cli_models
import numpy as np
import onnx
import pytest
from cli_runs import LENET, fails, here, listing, misused, onnxfc
from fixture_files import fixture_file
from systems import IS_ROOT

Maker = Callable[[Path], object]


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """A folder with a good model ``in.onnx`` and an older ``old.onnx``."""
    shutil.copy(LENET, tmp_path / "in.onnx")
    (tmp_path / "old.onnx").write_bytes(b"what stood here before")
    return tmp_path


def _noise(path: Path) -> object:
    return path.write_bytes(b"\xff" + np.random.default_rng(0).bytes(4000))


UNREADABLE: dict[str, tuple[Maker, str]] = {
    "missing": (lambda path: None, "there is no such file"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "truncated": (lambda path: path.write_bytes(LENET.read_bytes()[:9000]), "is truncated"),
    "random": (_noise, "is not an ONNX model"),
    "png": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100)), "is not an ONNX model but a PNG image"),
    "text": (lambda path: path.write_text("a page of text\n"), "is not an ONNX model but text"),
    "npz": (lambda path: shutil.copy(fixture_file("digits.npz"), path), "but a zip archive"),
    "folder": (lambda path: path.mkdir(), "is a directory"),
    "no graph": (lambda path: path.write_bytes(onnx.ModelProto(ir_version=8).SerializeToString()), "not an ONNX model"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
@pytest.mark.parametrize("target", ["out.onnx", "old.onnx"])
def test_unreadable_input(room: Path, kind: str, target: str) -> None:
    make, said = UNREADABLE[kind]
    make(room / "bad.onnx")
    line = fails(1, "rewrite", "bad.onnx", target, cwd=room, run=here)
    assert line.startswith("onnxfc: bad.onnx: ")
    assert said in line


def test_every_truncation_is_told(room: Path) -> None:
    whole = LENET.read_bytes()
    for length in (1, 2, 17, 300, 5000, len(whole) - 1):
        (room / "bad.onnx").write_bytes(whole[:length])
        assert "bad.onnx" in fails(1, "rewrite", "bad.onnx", "out.onnx", cwd=room, run=here)


def test_missing_external_data(room: Path) -> None:
    onnx.save(onnx.load(LENET), room / "ext.onnx", save_as_external_data=True, location="ext.data", size_threshold=0)
    (room / "ext.data").unlink()
    line = fails(1, "rewrite", "ext.onnx", "out.onnx", cwd=room)
    assert "ext.data" in line
    assert "it belongs beside the model" in line


TARGETS = {
    "missing/out.onnx": "the folder does not exist; create it first",
    "folder": "is a directory; give the path of the file to write",
    ".": "is a directory",
    "in.onnx/out.onnx": "cannot write",
    "/dev/null": "is not a regular file; give another path",
    "n" * 300: "cannot write: the name is too long",
}


@pytest.mark.parametrize("target", TARGETS)
def test_unwritable_target(room: Path, target: str) -> None:
    (room / "folder").mkdir()
    assert TARGETS[target] in fails(1, "rewrite", "in.onnx", target, cwd=room)


@pytest.mark.skipif(IS_ROOT, reason="nothing is forbidden to root")
def test_forbidden_folder(room: Path) -> None:
    (room / "closed").mkdir(0o555)
    assert "closed/out.onnx: cannot write" in fails(1, "rewrite", "in.onnx", "closed/out.onnx", cwd=room)


def test_unwritable_target_is_told_before_the_work(room: Path) -> None:
    cli_models.write(cli_models.constant(), room / "constant.onnx")  # its proof would end in 4
    assert "the folder does not exist" in fails(1, "rewrite", "constant.onnx", "missing/out.onnx", cwd=room)
    cli_models.write(cli_models.headless(), room / "headless.onnx")  # its walk would end in 3
    assert "is a directory" in fails(1, "rewrite", "headless.onnx", ".", cwd=room)


@pytest.mark.parametrize("target", ["in.onnx", "./in.onnx", "symlink.onnx", "hardlink.onnx"])
@pytest.mark.parametrize("source", ["in.onnx", "symlink.onnx"])
@pytest.mark.parametrize("more", [(), ("--no-check",)])
def test_output_is_the_input(room: Path, source: str, target: str, more: tuple[str, ...]) -> None:
    (room / "symlink.onnx").symlink_to("in.onnx")
    os.link(room / "in.onnx", room / "hardlink.onnx")
    line = fails(2, "rewrite", source, target, *more, cwd=room, run=here)
    assert "is a file of the input model, which is never changed; choose another output" in line
    assert (room / "in.onnx").read_bytes() == LENET.read_bytes()


def test_output_is_the_inputs_data(room: Path) -> None:
    onnx.save(onnx.load(LENET), room / "ext.onnx", save_as_external_data=True, location="ext.data", size_threshold=0)
    assert "never changed" in fails(2, "rewrite", "ext.onnx", "ext.data", cwd=room)
    line = fails(2, "rewrite", "ext.onnx", "out.onnx", "--external-data-location", "ext.data", cwd=room)
    assert "never changed" in line


REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], str, str]] = {
    "tokens": (cli_models.tokens, "no-image-input", "x [1, 12]"),
    "flat": (cli_models.flat, "no-image-input", "x [1, 784]"),
    "flat_reshaped": (cli_models.flat_reshaped, "no-image-input", "the inner tensor that is one, --input 'picture'"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("target", ["out.onnx", "old.onnx"])
def test_refused(room: Path, kind: str, target: str) -> None:
    make, code, said = REFUSED[kind]
    cli_models.write(make(), room / "bad.onnx")
    line = fails(3, "rewrite", "bad.onnx", target, cwd=room, run=here)
    assert line.startswith(f"onnxfc: bad.onnx: [{code}] ")
    assert said in line


def test_recurrent_reader_is_refused_for_that_reason(room: Path) -> None:
    cli_models.write(cli_models.recurrent(), room / "lstm.onnx")
    free = ("--free", "height", "--free", "width")
    assert "[recurrent] lstm: " in fails(3, "rewrite", "lstm.onnx", "out.onnx", *free, cwd=room, run=here)


def test_rewritten_model_given_again(room: Path) -> None:
    assert onnxfc("rewrite", "in.onnx", "once.onnx", "-q", cwd=room).code == 0
    line = fails(3, "rewrite", "once.onnx", "twice.onnx", cwd=room, run=here)
    assert "[already-rewritten]" in line
    assert "this model was rewritten by onnxfc already" in line


@pytest.mark.parametrize("kind", REFUSED)
def test_refusals_say_what_to_do(room: Path, kind: str) -> None:
    """Advice stands in brackets at the end of the line, and behind it where more of it is told."""
    cli_models.write(REFUSED[kind][0](), room / "bad.onnx")
    line = fails(3, "rewrite", "bad.onnx", "out.onnx", cwd=room, run=here)
    assert re.search(rf"\); see docs/refusals\.md#{REFUSED[kind][1]}$", line)


def test_unknown_native_size(room: Path) -> None:
    line = fails(3, "rewrite", fixture_file("mini_resnet_hw.dynamo.onnx"), "out.onnx", cwd=room, run=here)
    assert ".onnx: [unknown-native-size] image: " in line
    assert "give it with --size HxW" in line


@pytest.mark.parametrize("option", ["--size", "--check-size"])
@pytest.mark.parametrize("size", ["0x0", "axb", "28x", "x28", "1x2x3x4", "-3x3", "28x28.5", ""])
def test_bad_sizes(room: Path, option: str, size: str) -> None:
    line = misused("rewrite", "in.onnx", "out.onnx", option, size, cwd=room, run=here)
    assert line == f"{option}: {size!r} is not a size such as 384x512"


@pytest.mark.parametrize("size", ["20x20", "27x28", "40", "40x40x40"])
def test_check_size_that_does_not_fit(room: Path, size: str) -> None:
    line = fails(2, "rewrite", "in.onnx", "out.onnx", "--check-size", size, cwd=room, run=here)
    assert line == f"onnxfc: --check-size {size}: must have 2 lengths, none below the native 28x28"


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("lenet.dynamo.onnx", "20x20"),
        ("lenet.dynamo.onnx", "28x28x28"),
        ("mini_resnet_hw.dynamo.onnx", "64"),
        ("mini_resnet_hw.dynamo.onnx", "64x64x64"),
    ],
)
def test_size_that_contradicts_the_model(room: Path, model: str, size: str) -> None:
    assert "size" in fails(2, "rewrite", fixture_file(model), "out.onnx", "--size", size, cwd=room, run=here)


def test_all_reasons_are_told_when_asked_for(room: Path) -> None:
    path = fixture_file("convnext.dynamo.onnx")
    run = here("rewrite", path, "out.onnx", "--form", "conv4d", "-v", cwd=room)
    first, *lines = run.err.splitlines()
    assert run.code == 3
    assert len(lines) > 1
    assert all(line.startswith("[form-") for line in lines)
    assert lines[0] in first


@pytest.mark.parametrize(
    "options",
    [
        ("--rtol", "-1"),
        ("--rtol", "nan"),
        ("--atol", "inf"),
        ("--samples", "1"),
        ("--seed", "x"),
        ("--seed", "-1"),
        ("--output", "sum"),
        ("--global-pool", "none"),
        ("--external-data-size-threshold", "-1"),
        ("--no-such-option",),
        ("one argument too many",),
    ],
)
def test_bad_options(room: Path, options: tuple[str, ...]) -> None:
    line = misused("rewrite", "in.onnx", "out.onnx", *options, cwd=room, run=here)
    assert line.startswith(options[0]) or options[0] in ("--no-such-option", "one argument too many")


EMPTY = "it is empty; give a value, or leave it out"


@pytest.mark.sweep(16)
@pytest.mark.parametrize(
    ("words", "which"),
    [
        (("rewrite", "in.onnx", ""), "IN OUT"),
        (("rewrite", "", "out.onnx"), "IN OUT"),
        (("rewrite", "in.onnx", "-o", ""), "-o / --out"),
        (("rewrite", "in.onnx", "--out-dir="), "--out-dir"),
        (("rewrite", "in.onnx", "out.onnx", "--provider", ""), "--provider"),
        (("rewrite", "in.onnx", "out.onnx", "--report", ""), "--report"),
        (("rewrite", "in.onnx", "out.onnx", "--input", "image", "--input", ""), "--input"),
        (("check", "", "in.onnx"), "ORIGINAL"),
        (("check", "in.onnx", ""), "OTHER"),
        (("check", "in.onnx", "in.onnx", "--boundary", ""), "--boundary"),
        (("check", "in.onnx", "in.onnx", "--junit", ""), "--junit"),
        (("inspect", ""), "MODEL"),
        (("scan", "in.onnx", "", "out.npy"), "IMAGE"),
        (("demo", ""), "DIR"),
    ],
)
def test_empty_words(room: Path, words: tuple[str, ...], which: str) -> None:
    """What a script makes of a variable that is not set; the working directory is not meant."""
    assert misused(*words, cwd=room) == f"{which}: {EMPTY}"


def test_a_file_with_the_name_of_a_folder(room: Path) -> None:
    shutil.copy(fixture_file("lenet.dynamo.onnx"), room / "in.onnx")
    told = "IN OUT: 'out.onnx/' ends as folders do, give the path of a file"
    assert misused("rewrite", "in.onnx", "out.onnx/", cwd=room) == told
    for name in (".", "..", f"{room}/"):
        told = fails(1, "rewrite", "in.onnx", name, cwd=room)
        assert told == f"onnxfc: {Path(name)}: is a directory; give the path of the file to write"
        told = fails(1, "check", name, "in.onnx", cwd=room)
        assert told == f"onnxfc: {Path(name)}: is a directory; give the path of an ONNX file"


@pytest.mark.parametrize("boundary", ["=", "=b", "a="])
def test_boundaries_without_a_name(room: Path, boundary: str) -> None:
    told = f"--boundary: '{boundary}' is not NAME or NAME=OTHERNAME"
    assert misused("check", "in.onnx", "in.onnx", "--boundary", boundary, cwd=room) == told


def test_missing_arguments(room: Path) -> None:
    assert misused("rewrite", cwd=room) == "missing argument 'IN OUT'"
    assert misused("rewrite", "in.onnx", cwd=room) == "missing argument 'OUT' (or give -o OUT, or --out-dir DIR)"


@pytest.mark.parametrize("model", ["lenet.dynamo.onnx", "mini_resnet.dynamo.onnx"])
def test_max_of_a_dropped_pool(room: Path, model: str) -> None:
    line = fails(
        2, "rewrite", fixture_file(model), "out.onnx", "--global-pool", "drop", "--output", "max", cwd=room, run=here
    )
    assert "--output max of a dropped pool is not the original's score; use --output mean" in line


def _save(array: np.ndarray) -> Maker:
    return lambda path: np.save(path, array, allow_pickle=True)


DATA: dict[str, tuple[Maker, int, str]] = {
    "missing": (lambda path: None, 1, "bad.npy: cannot read: No such file or directory; check --data"),
    "empty": (lambda path: path.write_bytes(b""), 1, "bad.npy: is not a .npy array of numbers"),
    "text": (lambda path: path.write_text("1 2 3\n"), 1, "bad.npy: is not a .npy array of numbers"),
    "folder": (lambda path: path.mkdir(), 1, "bad.npy: cannot read: Is a directory"),
    "archive": (lambda path: shutil.copy(fixture_file("digits.npz"), path), 1, "bad.npy: is an archive of arrays"),
    "objects": (_save(np.array([object()])), 1, "bad.npy: is not a .npy array of numbers"),
    "small": (
        _save(np.zeros((3, 1, 5, 5), np.float32)),
        2,
        "has shape (3, 1, 5, 5), the model wants (N, 1, 28 or more",
    ),
    "channels": (_save(np.zeros((3, 3, 28, 28), np.float32)), 2, "has shape (3, 3, 28, 28), the model wants"),
    "rank": (_save(np.zeros((28, 28), np.float32)), 2, "has shape (28, 28), the model wants"),
    "none": (_save(np.zeros((0, 1, 28, 28), np.float32)), 2, "the data for image has shape (0, 1, 28, 28)"),
    "complex": (_save(np.zeros((3, 1, 28, 28), np.complex64)), 2, "the data for image is complex64"),
    "words": (_save(np.full((3, 1, 28, 28), "a")), 2, "the data for image is <U1"),
    "nan": (_save(np.full((3, 1, 28, 28), np.nan, np.float32)), 2, "the data for image holds NaN or infinite values"),
    "black": (_save(np.zeros((3, 1, 28, 28), np.float32)), 4, "the proof is vacuous: output scores is constant"),
}


@pytest.mark.parametrize("kind", DATA)
def test_bad_data(room: Path, kind: str) -> None:
    make, code, said = DATA[kind]
    make(room / "bad.npy")
    if not (room / "bad.npy").exists() and (room / "bad.npy.npy").exists():
        (room / "bad.npy.npy").rename(room / "bad.npy")
    assert said in fails(code, "rewrite", "in.onnx", "out.onnx", "--data", "bad.npy", cwd=room, run=here)


def test_data_for_other_inputs(room: Path) -> None:
    np.save(room / "good.npy", np.random.default_rng(0).random((3, 1, 28, 28), np.float32))
    line = fails(2, "rewrite", "in.onnx", "out.onnx", "--data", "photo=good.npy", cwd=room, run=here)
    assert "the data must hold the inputs image, it holds photo" in line
    line = fails(2, "rewrite", "in.onnx", "out.onnx", "--data", "good.npy", "--data", "good.npy", cwd=room, run=here)
    assert "NAME=FILE.npy" in line


@pytest.mark.parametrize("target", ["out.onnx", "old.onnx"])
def test_vacuous_proof(room: Path, target: str) -> None:
    cli_models.write(cli_models.constant(), room / "constant.onnx")
    line = fails(4, "rewrite", "constant.onnx", target, cwd=room)
    assert "the proof is vacuous: output y is constant over different inputs" in line
    assert "give real inputs with --data FILE.npy, or skip the proof with --no-check; nothing was written" in line


def test_vacuous_proof_skipped(room: Path) -> None:
    cli_models.write(cli_models.constant(), room / "constant.onnx")
    run = onnxfc("rewrite", "constant.onnx", "out.onnx", "--no-check", cwd=room)
    assert (run.code, run.err) == (0, "")
    assert "proof           none (--no-check)" in run.out
    assert {node.op_type for node in onnx.load(room / "out.onnx").graph.node} == {"Conv"}


@pytest.mark.parametrize("target", ["out.onnx", "old.onnx"])
@pytest.mark.parametrize("tolerances", [("--rtol", "0", "--atol", "0"), ("--rtol", "1e-20", "--atol", "0")])
def test_failing_proof(room: Path, target: str, tolerances: tuple[str, ...]) -> None:
    line = fails(4, "rewrite", "in.onnx", target, *tolerances, cwd=room, run=here)
    assert "native parity failed: scores deviates by" in line
    assert line.endswith("; nothing was written")


def test_report_must_not_replace_a_model(room: Path) -> None:
    (room / "link.json").symlink_to("in.onnx")
    for report in ("in.onnx", "out.onnx", "link.json"):
        line = fails(2, "rewrite", "in.onnx", "out.onnx", "--report", report, cwd=room)
        assert "give the report a file of its own" in line


def test_report_in_a_missing_folder(room: Path) -> None:
    line = fails(1, "rewrite", "in.onnx", "out.onnx", "--report", "missing/r.json", cwd=room, run=here)
    assert "--report missing/r.json: the folder does not exist; create it first" in line


def test_a_refused_report_leaves_no_folder(room: Path) -> None:
    before = listing(room)
    fails(1, "rewrite", "in.onnx", "--out-dir", "any", "--report", "missing/r.json", cwd=room, run=here)
    assert listing(room) == before
    assert here("rewrite", "in.onnx", "--out-dir", "any", "--report", "any/r.json", "-q", cwd=room).code == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--external-data-location", "w.data"), "--external-data-location: needs --save-as-external-data, as the"),
        (("--provider", "none-such"), "--provider none-such: "),
        (("--form", "conv4d", "--profile", "none-such"), "--profile none-such: is no file, and none of amd-"),
    ],
)
def test_options_are_called_as_on_the_command_line(room: Path, words: tuple[str, ...], says: str) -> None:
    assert says in fails(2, "rewrite", "in.onnx", "out.onnx", *words, cwd=room, run=here)


def test_any_size_is_not_called_the_native_one(room: Path) -> None:
    line = fails(2, "inspect", "in.onnx", "--at", "30x30x30", cwd=room, run=here)
    assert line.startswith("onnxfc: size 30x30x30: an image of this model has a height and a width")


def test_report_replaces_nothing_but_reports(room: Path) -> None:
    """Not the input's external data, for one, whatever comes of the run."""
    onnx.save(onnx.load(LENET), room / "ext.onnx", save_as_external_data=True, location="ext.data", size_threshold=0)
    line = fails(2, "rewrite", "ext.onnx", "out.onnx", "--report", "ext.data", cwd=room, run=here)
    assert "--report ext.data: exists and is not a report; choose another name" in line
    (room / "r.json").touch()
    for seed in (1, 2):
        assert onnxfc("rewrite", "in.onnx", "out.onnx", "--report", "r.json", "--seed", seed, cwd=room).code == 0
        assert f'"seed": {seed}' in (room / "r.json").read_text("utf-8")


def test_input_that_is_not_there(room: Path) -> None:
    line = fails(2, "rewrite", "in.onnx", "out.onnx", "--input", "photo", cwd=room, run=here)
    assert line == "onnxfc: --input photo: the model has no such tensor; its inputs are image"


def test_quiet_silences_no_error(room: Path) -> None:
    assert "there is no such file" in fails(1, "rewrite", "-q", "missing.onnx", "out.onnx", cwd=room)


def test_failure_keeps_an_older_report_unless_it_writes_one(room: Path) -> None:
    before = listing(room)
    run = onnxfc("rewrite", "missing.onnx", "out.onnx", "--report", "r.json", cwd=room)
    assert run.code == 1
    assert set(listing(room)) - set(before) == {"r.json"}
