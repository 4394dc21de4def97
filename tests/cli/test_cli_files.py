"""Files as users name them: external data, its options, odd names; through the real command."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from cli_runs import LENET, Run, environment, fails, here, misused

IMAGE = np.random.default_rng(0).standard_normal((1, 1, 40, 36)).astype(np.float32)


def with_data(folder: Path, **options: object) -> Path:
    """LeNet with all its weights in data files."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "in.onnx"
    onnx.save_model(onnx.load(LENET), str(path), save_as_external_data=True, **{"size_threshold": 0, **options})
    return path


def scores(path: Path) -> np.ndarray:
    made = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return made.run(None, {made.get_inputs()[0].name: IMAGE})[0]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    out = tmp_path_factory.mktemp("plain") / "out.onnx"
    assert here("rewrite", LENET, out).code == 0
    return scores(out)


@pytest.mark.sweep(12)
@pytest.mark.parametrize("one", [True, False])
@pytest.mark.parametrize(
    ("cwd", "source", "target"),
    [
        (".", "m/in.onnx", "out/o.onnx"),
        ("m", "in.onnx", "../out/o.onnx"),
        ("out", "../link/in.onnx", "o.onnx"),
        (".", "link/in.onnx", "link/o.onnx"),
        ("link", "in.onnx", "o.onnx"),
    ],
)
def test_data_is_found_and_put_beside_the_model(
    tmp_path: Path, wanted: np.ndarray, one: bool, cwd: str, source: str, target: str
) -> None:
    with_data(tmp_path / "m", all_tensors_to_one_file=one)
    before = {path: path.read_bytes() for path in (tmp_path / "m").iterdir()}
    (tmp_path / "link").symlink_to("m")
    (tmp_path / "out").mkdir()
    for _ in range(2):  # the second time it replaces both files
        assert here("rewrite", source, target, "-q", cwd=tmp_path / cwd).code == 0
        out = tmp_path / cwd / target
        assert out.with_name("o.onnx.data").is_file()
        np.testing.assert_array_equal(scores(out), wanted)
    assert {path: path.read_bytes() for path in before} == before
    assert not any(".onnxfc-" in name for name in names(out.parent))


def test_data_of_the_input_is_never_written(tmp_path: Path, wanted: np.ndarray) -> None:
    with_data(tmp_path, location="o.onnx.data")
    assert "o.onnx.data: is a file of the input model" in fails(2, "rewrite", "in.onnx", "o.onnx", cwd=tmp_path)
    line = fails(2, "rewrite", "in.onnx", "x.onnx", "--external-data-location", "o.onnx.data", cwd=tmp_path)
    assert "is a file of the input model" in line
    assert "exists and is not a report" in fails(
        2, "rewrite", "in.onnx", "x.onnx", "--report", "o.onnx.data", cwd=tmp_path
    )
    assert here("rewrite", "in.onnx", "o.onnx", "--external-data-location", "w.bin", cwd=tmp_path).code == 0
    assert names(tmp_path) == {"in.onnx", "o.onnx", "o.onnx.data", "w.bin"}
    np.testing.assert_array_equal(scores(tmp_path / "o.onnx"), wanted)


def test_options_as_onnxruntimes_tools_spell_them(tmp_path: Path, wanted: np.ndarray) -> None:
    options = ("--save_as_external_data", "--external_data_location", "w.bin", "--external_data_size_threshold", "0")
    assert here("rewrite", LENET, "o.onnx", "--all_tensors_to_one_file", *options, cwd=tmp_path).code == 0
    assert names(tmp_path) == {"o.onnx", "w.bin"}
    assert (tmp_path / "o.onnx").stat().st_size < 10_000
    np.testing.assert_array_equal(scores(tmp_path / "o.onnx"), wanted)


def test_threshold_alone_is_for_what_goes_out_on_its_own(tmp_path: Path) -> None:
    """As with onnxruntime's tools: it moves nothing out by itself, but it counts for models above 2 GB."""
    more = ("--external-data-size-threshold", "0")
    assert here("rewrite", LENET, "o.onnx", "-q", *more, cwd=tmp_path).code == 0
    assert here("rewrite", LENET, "plain.onnx", "-q", cwd=tmp_path).code == 0
    assert names(tmp_path) == {"o.onnx", "plain.onnx"}
    assert (tmp_path / "o.onnx").read_bytes() == (tmp_path / "plain.onnx").read_bytes()


@pytest.mark.parametrize("options", [("--external-data-location", "w.bin"), ("--all-tensors-to-one-file",)])
def test_options_that_would_do_nothing(tmp_path: Path, options: tuple[str, ...]) -> None:
    assert "needs --save-as-external-data" in fails(2, "rewrite", LENET, "o.onnx", *options, cwd=tmp_path)


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("/tmp/w.bin", 2, "must be a file in the output's folder"),
        ("../w.bin", 2, "must be a file in the output's folder"),
        ("none/w.bin", 1, "none/w.bin: cannot write: the folder does not exist"),
        (b"\xff.bin", 2, "must be UTF-8 text"),
    ],
)
def test_location_is_looked_at_before_the_work(tmp_path: Path, name: str | bytes, code: int, says: str) -> None:
    """The check, which would fail, has not been begun."""
    more = ("--save-as-external-data", "--external-data-location", os.fsdecode(name), "--atol", "0", "--rtol", "0")
    assert says in fails(code, "rewrite", LENET, "o.onnx", *more, cwd=tmp_path)


@pytest.mark.parametrize(
    ("report", "options"),
    [
        ("w.bin", ("--external-data-location", "w.bin")),
        ("o.onnx.data", ("--all-tensors-to-one-file",)),
        ("o.onnx.fc1.weight.data", ()),
    ],
)
def test_the_report_is_not_written_over_the_weights(tmp_path: Path, report: str, options: tuple[str, ...]) -> None:
    command = ("rewrite", LENET, "o.onnx", "--save-as-external-data", *options, "--report", report)
    assert "give the report a file of its own" in fails(2, *command, cwd=tmp_path)


@pytest.mark.parametrize("args", [("rewrite", "-", "o.onnx"), ("rewrite", LENET, "-")])
def test_a_dash_is_no_file(tmp_path: Path, args: tuple[object, ...]) -> None:
    assert "give the path of a file" in misused(*args, cwd=tmp_path)


def test_a_file_called_dash(tmp_path: Path) -> None:
    assert here("rewrite", LENET, "./-", "-q", cwd=tmp_path).code == 0
    assert here("inspect", "./-", cwd=tmp_path).code == 0
    assert names(tmp_path) == {"-"}


@pytest.mark.parametrize(("source", "target"), [("it's in.onnx", "o ut.onnx"), ("-in.onnx", "--out.onnx")])
def test_commands_that_are_told_can_be_run(tmp_path: Path, source: str, target: str) -> None:
    (tmp_path / source).write_bytes(LENET.read_bytes())
    run = here("rewrite", "--", source, target, cwd=tmp_path)
    np.save(tmp_path / "image.npy", np.random.default_rng(0).random((60, 70), np.float32))
    lines = [line for line in run.out.splitlines() if re.match(r"(next)? +onnxfc ", line)]
    for line in lines:
        words = shlex.split(line.removeprefix("next").replace(" IMAGE ", " image.npy "))
        assert here(*words[1:], cwd=tmp_path).code == 0, line
    assert len(lines) == 3


def test_devices(tmp_path: Path) -> None:
    assert "/dev/stdout: is not a regular file" in fails(1, "rewrite", LENET, "/dev/stdout", cwd=tmp_path)
    assert "/dev/stdin: is not a regular file" in fails(1, "rewrite", "/dev/stdin", "o.onnx", cwd=tmp_path)
    if Path("/sys/kernel/notes").exists():  # has a size, and cannot be mapped
        fails(1, "rewrite", "/sys/kernel/notes", "o.onnx", cwd=tmp_path)


def raw(*args: object, cwd: Path) -> Run:
    """As :func:`onnxfc`, for names and messages that are not UTF-8."""
    done = subprocess.run(
        [sys.executable, "-m", "onnxfc", *(a if isinstance(a, bytes) else str(a) for a in args)],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        timeout=120,
        check=False,
    )
    return Run(done.returncode, os.fsdecode(done.stdout), os.fsdecode(done.stderr))


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text there")
def test_names_that_are_not_utf8(tmp_path: Path, wanted: np.ndarray) -> None:
    source, target = b"in\xff.onnx", b"out\xfe.onnx"
    shutil.copy(LENET, os.fsencode(tmp_path) + b"/" + source)
    assert raw("rewrite", source, target, "--report", b"r\xff.json", cwd=tmp_path).code == 0
    shutil.copy(os.fsencode(tmp_path) + b"/" + target, tmp_path / "copy.onnx")
    np.testing.assert_array_equal(scores(tmp_path / "copy.onnx"), wanted)
    assert raw("inspect", target, "--json", cwd=tmp_path).code == 0
    checked = raw("check", source, target, "--report", "c.json", "--junit", "c.xml", cwd=tmp_path)
    assert checked.code == 0
    assert "\\udcfe" in (tmp_path / "c.json").read_text("utf-8")
    before = names(tmp_path)
    for more in ((), ("--all-tensors-to-one-file",)):
        run = raw("rewrite", source, target, "--save-as-external-data", *more, cwd=tmp_path)
        assert (run.code, run.out) == (2, "")
        assert "must be UTF-8 text" in run.line
    named = ("--save-as-external-data", "--external-data-location", "w.bin")
    assert raw("rewrite", source, target, *named, "-q", cwd=tmp_path).code == 0
    assert names(tmp_path) == before | {"w.bin"}


@pytest.mark.parametrize(
    ("place", "kept"),
    [("model doc", True), ("node docs", True), ("node metadata", True), ("metadata key", False), ("dim", False)],
)
def test_text_that_is_not_utf8(tmp_path: Path, place: str, kept: bool) -> None:
    """Comments survive as they are; a name is refused in one line."""
    model = onnx.load(LENET)
    if place == "model doc":
        model.doc_string = "QQQQ"
    elif place == "dim":
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "QQQQ"
    elif place == "metadata key":
        model.metadata_props.add(key="QQQQ", value="1")
    for node in model.graph.node:
        if place == "node docs":
            node.doc_string = "QQQQ"
        elif place == "node metadata":
            node.metadata_props.add(key="QQQQ", value="QQQQ")
    odd = b"\xff\xfe\xfd\xfc"
    (tmp_path / "in.onnx").write_bytes(model.SerializeToString().replace(b"QQQQ", odd))
    if not kept:
        assert "not UTF-8" in fails(1, "rewrite", "in.onnx", "o.onnx", cwd=tmp_path)
        return
    assert here("rewrite", "in.onnx", "o.onnx", "-q", cwd=tmp_path).code == 0
    assert (tmp_path / "o.onnx").read_bytes().count(odd) >= {"model doc": 1, "node docs": 9, "node metadata": 18}[place]
    assert here("inspect", "in.onnx", cwd=tmp_path).code == 0


def test_names_in_subgraphs_must_be_text(tmp_path: Path) -> None:
    """The operator of a node within a branch of an If."""
    branch = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])], "branch", [], [onnx.ValueInfoProto(name="y")]
    )
    node = onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    ends = [onnx.helper.make_tensor_value_info(name, 1, [1, 3, 8, 8]) for name in ("x", "y")]
    ends.insert(1, onnx.helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, []))
    data = onnx.helper.make_model(onnx.helper.make_graph([node], "g", ends[:2], ends[2:])).SerializeToString()
    (tmp_path / "in.onnx").write_bytes(data.replace(b"Relu", b"\xffelu"))
    for command in ("rewrite in.onnx o.onnx", "inspect in.onnx", "check in.onnx in.onnx"):
        assert "not UTF-8" in fails(1, *command.split(), cwd=tmp_path, run=here)


def test_progress_is_not_shown_in_a_pipe(tmp_path: Path) -> None:
    run = here("rewrite", LENET, "o.onnx", cwd=tmp_path)
    assert (run.code, run.err) == (0, "")
    assert "\r" not in run.out


def test_data_beside_a_link_to_another_folder_is_refused(tmp_path: Path) -> None:
    """onnx and onnxruntime look for it beside the link, where it is not."""
    with_data(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "far.onnx").symlink_to("sub/o.onnx")
    line = fails(2, "rewrite", "in.onnx", "far.onnx", cwd=tmp_path)
    assert "far.onnx: is a link into another folder, where external data is not found; give " in line
    assert not list((tmp_path / "sub").iterdir())
    (tmp_path / "near.onnx").symlink_to("sub.onnx")
    assert here("rewrite", "in.onnx", "near.onnx", "-q", cwd=tmp_path).code == 0
    assert (tmp_path / "sub.onnx").is_file()
