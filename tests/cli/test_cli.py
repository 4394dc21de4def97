"""The command line as people and pipelines use it: what is printed, what is written, exit code 0."""

from __future__ import annotations

import json
import math
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import cli_models
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from cli_runs import LENET, environment, here, listing, onnxfc, processor_seconds, unwrapped
from fixture_files import fixture_file
from systems import posix

from onnxfc import __version__
from onnxfc.claim.claim import Claim

TEXT = """\
node_linear    Gemm 128→32 ⇒ Conv 4x4 8→32
node_linear_1  Gemm 32→10  ⇒ Conv 1x1 32→10
native size     28x28 px, stride 4x4 px
map             8x8 cells at 56x56 px
verdict         exact: every cell is what the original says of that crop
native parity   passed, largest deviation N, tolerance 2e-04 (680 values)
window parity   passed, largest deviation N, tolerance 2e-04 (11256 values at 32x36, 38x34, 36x40, 33x28, 28x33, 32x32 px, 6 more sizes)
trunk parity    passed, largest deviation N, tolerance 2e-04 (13568 values at 32x36, 38x34, 36x40, 33x28, 28x33, 32x32 px, 6 more sizes)
shift           passed, largest deviation N, tolerance 2e-04 (138 values at 32x32, 33x33 px)
crop agreement  cells equal crops to N of the score range (5 cells)
certificate     2 FC weights are found in Convs: byte for byte
time            rewritten in N s, proven in N s
wrote           out.onnx (30.2 kB)
next            onnxfc scan out.onnx IMAGE map.png onnxfc inspect out.onnx --at 56x56 onnxfc check IN out.onnx
"""  # noqa: E501


def masked(text: str) -> str:
    """Times and measured deviations by the letter N, rows in one line."""
    text = unwrapped(text).replace(str(LENET), "IN")
    text = re.sub(r"(deviation|equal crops to) \d(\.\d)?e[-+]\d\d", r"\1 N", text)
    return re.sub(r"in \d+\.\d s", "in N s", text)


def outputs(path: Path, image: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: image})


def images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def dims(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_main_job(tmp_path: Path) -> None:
    run = onnxfc("rewrite", LENET, "out.onnx", cwd=tmp_path)
    assert (run.code, run.err) == (0, "")
    assert masked(run.out) == TEXT
    assert set(listing(tmp_path)) == {"out.onnx"}
    model = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert not {"Gemm", "MatMul", "Flatten", "Reshape"} & {node.op_type for node in model.graph.node}
    assert dims(model.graph.input[0]) == [1, 1, "height", "width"]
    assert dims(model.graph.output[0])[:2] == [1, 10]
    assert outputs(tmp_path / "out.onnx", images(1, 1, 28, 28))[0].shape == (1, 10, 1, 1)
    image = images(1, 1, 56, 40)
    [scores] = outputs(tmp_path / "out.onnx", image)
    assert scores.shape == (1, 10, 8, 4)
    [crop] = outputs(LENET, image[:, :, 12:40, 8:36])
    np.testing.assert_allclose(scores[:, :, 3, 2], crop, rtol=1e-4, atol=1e-5)


def test_verbose_shows_operators_before_and_after(tmp_path: Path) -> None:
    """Counted by hand; 28x28 pixels behind two 5x5 Convs and 2x2 pools are 4x4, FC 128 → 32 → 10."""
    run = onnxfc("rewrite", LENET, "out.onnx", "-v", cwd=tmp_path)
    rows = {line[:15].strip(): line[15:].split(maxsplit=2) for line in run.out.splitlines()}
    old, new = (Counter(node.op_type for node in onnx.load(path).graph.node) for path in (LENET, tmp_path / "out.onnx"))
    assert (old["Conv"], old["Gemm"], new["Conv"]) == (2, 2, 4)
    assert rows["operators"] == ["before", "after"]
    for name in old | new:
        assert rows[name] == [str(old[name]), str(new[name])]
    shapes = [tensor.dims for tensor in onnx.load(LENET).graph.initializer if len(tensor.dims) == 4]
    macs = 24 * 24 * math.prod(shapes[0]) + 8 * 8 * math.prod(shapes[1]) + 128 * 32 + 32 * 10
    told = f"{macs / 1000:.1f} k"
    assert " ".join(rows["multiply-adds"]) == f"{told} {told}  at 28x28 px"
    sizes = [path.stat().st_size / 1000 for path in (tmp_path / "out.onnx", LENET)]
    assert f"out.onnx ({sizes[0]:.3g} kB), of {LENET} ({sizes[1]:.3g} kB)" in unwrapped(run.out)


def test_existing_output_is_replaced_and_keeps_its_permissions(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    out.write_bytes(b"old")
    out.chmod(0o640)
    assert onnxfc("rewrite", LENET, out, cwd=tmp_path).code == 0
    assert out.stat().st_mode & 0o777 == 0o640
    assert Claim.from_metadata({item.key: item.value for item in onnx.load(out).metadata_props}) is not None


def test_other_folder(tmp_path: Path) -> None:
    (tmp_path / "a b" / "ü").mkdir(parents=True)
    assert here("rewrite", LENET, "a b/ü/out.onnx", "-q", cwd=tmp_path).code == 0
    assert (tmp_path / "a b" / "ü" / "out.onnx").is_file()


@pytest.mark.parametrize("model", ["lenet.torchscript.onnx", "mini_resnet.dynamo.onnx", "two_outputs.dynamo.onnx"])
@pytest.mark.parametrize("form", ["mean", "max"])
def test_reduced_output_is_a_drop_in_replacement(tmp_path: Path, model: str, form: str) -> None:
    out = tmp_path / "out.onnx"
    run = here("rewrite", fixture_file(model), out, "--output", form)
    assert run.code == 0, run.err
    assert here("rewrite", fixture_file(model), tmp_path / "map.onnx", "-q").code == 0
    native = [dim or 1 for dim in dims(onnx.load(fixture_file(model)).graph.input[0])]
    image = images(*native)
    old, new = outputs(fixture_file(model), image)[0], outputs(out, image)[0]
    assert new.shape == old.shape
    assert dims(onnx.load(out).graph.output[0]) == list(old.shape)
    np.testing.assert_allclose(new, old, rtol=1e-4, atol=1e-4)
    image = images(*native[:2], native[2] + 40, native[3] + 24)
    reduce = {"mean": np.mean, "max": np.max}[form]
    cells = outputs(tmp_path / "map.onnx", image)[0]
    assert cells.shape[2] * cells.shape[3] > 1
    np.testing.assert_allclose(outputs(out, image)[0], reduce(cells, axis=(2, 3)), rtol=1e-4, atol=1e-4)


def test_global_pool_kept_and_dropped(tmp_path: Path) -> None:
    model = fixture_file("mini_resnet.dynamo.onnx")
    image = images(1, 3, 96, 128)
    shapes = {}
    for how in ("window", "keep", "drop"):
        out = tmp_path / f"{how}.onnx"
        run = here("rewrite", model, out, "--global-pool", how)
        assert run.code == 0, run.err
        shapes[how] = outputs(out, image)[0].shape
    assert shapes == {"window": (1, 2, 3, 5), "keep": (1, 2), "drop": (1, 2, 6, 8)}
    activation, kept = (outputs(tmp_path / f"{how}.onnx", image)[0] for how in ("drop", "keep"))
    np.testing.assert_allclose(activation.mean(axis=(2, 3)), kept, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("model", ["lenet.dynamo.onnx", "lenet_batch4.torchscript.onnx"])
def test_dynamic_batch(tmp_path: Path, model: str) -> None:
    out = tmp_path / "out.onnx"
    run = here("rewrite", fixture_file(model), out, "--dynamic-batch")
    assert run.code == 0, run.err
    assert isinstance(dims(onnx.load(out).graph.input[0])[0], str)
    for batch in (1, 3, 4):
        assert outputs(out, images(batch, 1, 36, 28))[0].shape == (batch, 10, 3, 1)


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_size_of_a_model_with_free_height_and_width(tmp_path: Path, exporter: str) -> None:
    model, out = fixture_file(f"mini_resnet_hw.{exporter}.onnx"), tmp_path / "out.onnx"
    run = here("rewrite", model, out, "--size", "64x64")
    assert run.code == 0, run.err
    assert "native size     64x64 px, stride 16x16 px" in run.out
    image = images(1, 3, 64, 64)
    np.testing.assert_allclose(outputs(out, image)[0][..., 0, 0], outputs(model, image)[0], rtol=1e-4, atol=1e-4)
    assert outputs(out, images(2, 3, 96, 128))[0].shape == (2, 2, 3, 5)


def test_rectangular_native_size(tmp_path: Path) -> None:
    model, out = fixture_file("mini_resnet_hw.dynamo.onnx"), tmp_path / "out.onnx"
    run = here("rewrite", model, out, "--size", "64x96")
    assert run.code == 0, run.err
    assert "native size     64x96 px" in run.out
    assert outputs(out, images(1, 3, 64, 96))[0].shape == (1, 2, 1, 1)
    assert outputs(out, images(1, 3, 96, 96))[0].shape == (1, 2, 3, 1)


def test_inner_tensor_becomes_the_image(tmp_path: Path) -> None:
    cli_models.write(cli_models.flat_reshaped(), tmp_path / "flat.onnx")
    assert here("rewrite", "flat.onnx", "out.onnx", cwd=tmp_path).code == 3
    run = here("rewrite", "flat.onnx", "out.onnx", "--input", "picture", cwd=tmp_path)
    assert run.code == 0, run.err
    image = images(1, 1, 16, 16)
    [wanted] = outputs(tmp_path / "flat.onnx", image.reshape(1, 256))
    np.testing.assert_allclose(outputs(tmp_path / "out.onnx", image)[0][..., 0, 0], wanted, rtol=1e-4, atol=1e-5)
    assert outputs(tmp_path / "out.onnx", images(1, 1, 20, 24))[0].shape == (1, 3, 3, 5)


def test_check_sizes_are_proven(tmp_path: Path) -> None:
    run = here("rewrite", LENET, "out.onnx", "--check-size", "40x44", "--check-size", "28x61", cwd=tmp_path)
    assert run.code == 0
    assert "values at 32x36, 38x34, 40x44, 28x61, 36x40, 33x28 px, 8 more sizes" in unwrapped(run.out)


@pytest.mark.parametrize("named", ["", "image="])
def test_real_data(tmp_path: Path, named: str) -> None:
    digits = np.load(fixture_file("digits.npz"))
    pictures = digits["images"].reshape(-1, 1, 16, 16).astype(np.float32) / 16
    np.save(tmp_path / "digits.npy", pictures)
    run = here("rewrite", fixture_file("digits.onnx"), "out.onnx", "--data", f"{named}digits.npy", "-v", cwd=tmp_path)
    assert run.code == 0, run.err
    assert re.search(r"^inputs +data", run.out, re.MULTILINE)


def test_seed_makes_the_same_proof(tmp_path: Path) -> None:
    """Two runs measure the same to the last bit; another seed measures something else."""
    found = []
    for seed in (0, 0, 7):
        report = tmp_path / "r.json"
        args = ("rewrite", fixture_file("digits.onnx"), tmp_path / "out.onnx", "--seed", seed, "--report", report, "-q")
        assert onnxfc(*args).code == 0
        parity = json.loads(report.read_text("utf-8"))["parity"]
        assert parity["conditions"]["seed"] == seed
        parity["conditions"]["seconds"] = 0
        found.append(parity)
    assert found[0] == found[1]
    assert found[0]["crops"]["deviation"] != found[2]["crops"]["deviation"]


def test_same_model_gives_the_same_file(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        assert onnxfc("rewrite", LENET, tmp_path / name, "-q").code == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_proof_does_not_change_what_is_written(tmp_path: Path) -> None:
    assert here("rewrite", LENET, tmp_path / "a.onnx", "-q").code == 0
    assert here("rewrite", LENET, tmp_path / "b.onnx", "-q", "--no-check").code == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_external_data(tmp_path: Path) -> None:
    options = ("--save-as-external-data", "--all-tensors-to-one-file", "--external-data-location", "weights.bin")
    assert here("rewrite", LENET, "out.onnx", "-q", *options, cwd=tmp_path).code == 0
    assert set(listing(tmp_path)) == {"out.onnx", "weights.bin"}
    assert (tmp_path / "weights.bin").stat().st_size > 16_000
    assert outputs(tmp_path / "out.onnx", images(1, 1, 32, 32))[0].shape == (1, 10, 2, 2)


def test_the_report_names_the_data(tmp_path: Path) -> None:
    """Other weights do not take the name of those that somebody may be reading."""
    rows = []
    for source in (LENET, LENET.with_name("mobilenet.dynamo.onnx"), LENET):
        run = here("rewrite", source, "out.onnx", "--save-as-external-data", "--all-tensors-to-one-file", cwd=tmp_path)
        assert run.code == 0
        rows.extend(line.split() for line in run.out.splitlines() if line.startswith("weights "))
        assert (tmp_path / rows[-1][-1]).is_file()
    assert rows[0] == ["weights", "in", "out.onnx.data"]
    assert rows[1][-1].startswith("out.onnx.onnxfc-")
    assert rows[2][-1] not in (rows[0][-1], rows[1][-1])


def test_report_of_a_success(tmp_path: Path) -> None:
    run = here("rewrite", LENET, "out.onnx", "--report", "r.json", "-q", cwd=tmp_path)
    assert (run.code, run.out, run.err) == (0, "", "")
    report = json.loads((tmp_path / "r.json").read_text("utf-8"))
    assert (report["schema"], report["status"], report["version"]) == ("onnxfc-report/1", "rewritten", __version__)
    assert (report["input"], report["output"]) == (str(LENET), "out.onnx")
    assert [item["after"] for item in report["replacements"]] == ["Conv 4x4 8→32", "Conv 1x1 32→10"]
    assert report["claim"]["native_size"] == [28, 28]
    assert report["claim"]["verdict"] == "exact"
    assert report["map_at_twice_native"] == [8, 8]
    parity = report["parity"]
    assert parity["passed"] is True
    assert parity["vacuous"] is None
    assert (parity["native"]["status"], parity["native"]["compared"]) == ("passed", 680)
    assert 0 < parity["native"]["deviation"] < parity["native"]["tolerance"] < 1e-3
    assert (parity["window"]["status"], parity["window"]["compared"]) == ("passed", 11256)
    assert parity["conditions"]["onnxruntime"] == ort.__version__
    assert report["seconds"]["proof"] > 0


@posix
def test_report_into_a_pipe(tmp_path: Path) -> None:
    """What is no regular file is written to, never replaced."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    run = onnxfc("rewrite", LENET, "out.onnx", "--report", "pipe", "-q", cwd=tmp_path)
    written = os.read(reader, 1 << 16)
    os.close(reader)
    assert run.code == 0, run.err
    assert json.loads(written)["status"] == "rewritten"
    assert (tmp_path / "pipe").is_fifo()


def test_report_through_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to("real.json")
    for _ in range(2):
        assert here("rewrite", LENET, "out.onnx", "--report", "link.json", "-q", cwd=tmp_path).code == 0
        assert (tmp_path / "link.json").is_symlink()
        assert json.loads((tmp_path / "real.json").read_text("utf-8"))["status"] == "rewritten"


def test_report_without_proof(tmp_path: Path) -> None:
    assert here("rewrite", LENET, "out.onnx", "--report", "r.json", "--no-check", cwd=tmp_path).code == 0
    report = json.loads((tmp_path / "r.json").read_text("utf-8"))
    assert report["parity"] is None
    assert report["seconds"]["proof"] == 0


def test_report_of_a_refusal(tmp_path: Path) -> None:
    cli_models.write(cli_models.tokens(), tmp_path / "bad.onnx")
    run = here("rewrite", "bad.onnx", "out.onnx", "--report", "r.json", cwd=tmp_path)
    assert run.code == 3
    report = json.loads((tmp_path / "r.json").read_text("utf-8"))
    assert (report["schema"], report["status"], report["exit_code"]) == ("onnxfc-report/1", "refused", 3)
    assert report["refusals"][0]["code"] == "no-image-input"
    assert set(report["refusals"][0]) == {"code", "node", "reason", "advice"}
    assert report["message"] in run.err
    assert set(listing(tmp_path)) == {"bad.onnx", "r.json"}


def test_report_of_a_failed_proof(tmp_path: Path) -> None:
    run = here("rewrite", LENET, "out.onnx", "--rtol", "1e-20", "--atol", "0", "--report", "r.json", cwd=tmp_path)
    assert run.code == 4
    report = json.loads((tmp_path / "r.json").read_text("utf-8"))
    assert (report["status"], report["exit_code"], report["refusals"]) == ("proof failed", 4, [])
    assert report["parity"]["passed"] is False
    assert report["parity"]["native"]["status"] == "failed"
    assert set(listing(tmp_path)) == {"r.json"}


def test_report_of_a_vacuous_proof(tmp_path: Path) -> None:
    cli_models.write(cli_models.constant(), tmp_path / "constant.onnx")
    assert here("rewrite", "constant.onnx", "out.onnx", "--report", "r.json", cwd=tmp_path).code == 4
    report = json.loads((tmp_path / "r.json").read_text("utf-8"))
    assert report["status"] == "proof failed"
    assert "is constant over different inputs" in report["parity"]["vacuous"]


@pytest.mark.parametrize(("source", "options", "code"), [("missing.onnx", (), 1), (LENET, ("--check-size", "9x9"), 2)])
def test_report_of_an_error(tmp_path: Path, source: object, options: tuple[str, ...], code: int) -> None:
    assert here("rewrite", source, "out.onnx", "--report", "r.json", *options, cwd=tmp_path).code == code
    report = json.loads((tmp_path / "r.json").read_text("utf-8"))
    assert (report["status"], report["exit_code"], report["parity"]) == ("error", code, None)


def test_quiet_and_verbose(tmp_path: Path) -> None:
    model = fixture_file("digits.onnx")
    quiet = here("rewrite", model, "out.onnx", "-q", cwd=tmp_path)
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    normal = here("rewrite", model, "out.onnx", cwd=tmp_path)
    verbose = here("rewrite", model, "out.onnx", "-v", cwd=tmp_path)
    assert normal.err == verbose.err == ""
    rows = masked(verbose.out).splitlines()  # to which some have more behind them
    assert all(any(row.startswith(line) for row in rows) for line in masked(normal.out).splitlines())
    assert len(verbose.out) > len(normal.out)
    assert f"seed 0, onnxruntime {ort.__version__}" in verbose.out


def test_verbose_names_all_nodes_to_blame(tmp_path: Path) -> None:
    model = fixture_file("mini_resnet.torchscript.onnx")
    normal = here("rewrite", model, "out.onnx", cwd=tmp_path).out
    verbose = here("rewrite", model, "out.onnx", "-v", cwd=tmp_path).out
    assert "and 5 more" in normal
    [verdict] = re.findall(r"^verdict.*$", unwrapped(verbose), re.MULTILINE)
    assert len(re.findall(r"/(Conv|MaxPool)\b", verdict)) == 6


def test_verbose_says_a_single_refusal_once(tmp_path: Path) -> None:
    cli_models.write(cli_models.tokens(), tmp_path / "bad.onnx")
    run = here("rewrite", "bad.onnx", "out.onnx", "-v", cwd=tmp_path)
    assert run.err.count("[no-image-input]") == 1


def test_terminal_without_arrows(tmp_path: Path) -> None:
    run = onnxfc("rewrite", LENET, "out.onnx", cwd=tmp_path, PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert run.code == 0
    assert run.out.startswith("node_linear    Gemm 128->32 => Conv 4x4 8->32\n")


def on_terminal(*args: object, cwd: Path) -> tuple[int, bytes, str]:
    """Run with stderr on a pseudo-terminal; exit code, what the terminal got, stdout."""
    pty = pytest.importorskip("pty")
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "onnxfc", *map(str, args)]
    process = subprocess.Popen(
        command, cwd=cwd, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=follower
    )
    os.close(follower)
    shown = b""
    try:
        while chunk := os.read(leader, 65536):
            shown += chunk
    except OSError:  # Linux says EIO when the other side has closed
        pass
    out, _ = process.communicate(timeout=60)
    os.close(leader)
    return process.returncode, shown, out.decode()


def test_progress_on_a_terminal(tmp_path: Path) -> None:
    code, shown, out = on_terminal("rewrite", LENET, "out.onnx", cwd=tmp_path)
    assert code == 0
    phrases = shown.decode().split("\r\x1b[K")
    assert phrases[0] == phrases[-1] == ""  # the line is clean in the end
    assert any(re.fullmatch(r"\d+ s: writing out\.onnx \.\.\.", phrase) for phrase in phrases)
    assert len(phrases) >= 4
    assert "\n" not in shown.decode()
    assert masked(out) == TEXT


def test_no_progress_when_quiet(tmp_path: Path) -> None:
    assert on_terminal("rewrite", LENET, "out.onnx", "-q", cwd=tmp_path) == (0, b"", "")


def test_error_on_a_terminal_stands_on_a_clean_line(tmp_path: Path) -> None:
    code, shown, _ = on_terminal("rewrite", LENET, "out.onnx", "--rtol", "1e-20", "--atol", "0", cwd=tmp_path)
    assert code == 4
    assert re.search(r"\r\x1b\[Konnxfc: .*onnx: native parity failed", shown.decode())


@posix
def test_interrupted(tmp_path: Path) -> None:
    """Ctrl-C in the midst of the proof: nothing is written, and there is no traceback."""
    cli_models.write(cli_models.slow(), tmp_path / "slow.onnx")
    (tmp_path / "out.onnx").write_bytes(b"old")
    before = listing(tmp_path)
    pty = pytest.importorskip("pty")
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "onnxfc", "rewrite", "slow.onnx", "out.onnx"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=follower,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    os.close(follower)
    shown = _read_until(leader, b"...", 60)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    shown += _read_until(leader, b"never to be seen", 60)
    process.communicate(timeout=60)
    os.close(leader)
    assert process.returncode in {1, 130, -signal.SIGINT}
    assert b"Traceback" not in shown
    assert listing(tmp_path) == before


def _read_until(descriptor: int, phrase: bytes, seconds: float) -> bytes:
    """What a terminal shows until a phrase appears, its process ends, or ``seconds`` are over."""
    shown, end = b"", time.monotonic() + seconds
    while phrase not in shown and time.monotonic() < end:
        if not select.select([descriptor], [], [], 0.2)[0]:
            continue
        try:
            chunk = os.read(descriptor, 65536)
        except OSError:
            break
        if not chunk:
            break
        shown += chunk
    return shown


@pytest.mark.parametrize("args", [("--help",), ("-h",), ("rewrite", "--help"), ("rewrite", "-h"), ()])
def test_help(args: tuple[str, ...]) -> None:
    run = onnxfc(*args)
    text = run.out + run.err
    assert run.code in ({0} if args else {0, 2})
    assert "Usage: onnxfc" in text
    assert "Exit codes: 0 done; 1 cannot read or write; 2 wrong usage; 3" in " ".join(text.split())


def test_help_names_every_option_of_the_job() -> None:
    text = onnxfc("rewrite", "--help").out
    for option in (
        *("--output", "--global-pool", "--dynamic-batch", "--size", "--no-check", "--rtol", "--atol", "--seed"),
        *("--samples", "--check-size", "--data", "--report", "-q, --quiet", "-v, --verbose"),
        *("--save-as-external-data", "--all-tensors-to-one-file", "--external-data-location"),
    ):
        assert option in text


def test_version() -> None:
    run = onnxfc("--version")
    assert onnxfc("-V") == run
    assert (run.code, run.out.strip()) == (0, f"onnxfc, version {__version__}")


def test_unknown_command() -> None:
    run = onnxfc("rewrit")
    assert run.code == 2
    assert run.err.startswith("onnxfc: no such command 'rewrit'")
    assert run.err.endswith("; see onnxfc --help\n")
    assert run.err.count("\n") == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion(shell: str) -> None:
    run = onnxfc(_ONNXFC_COMPLETE=f"{shell}_source")
    assert run.code == 0
    assert f"_ONNXFC_COMPLETE={shell}_complete" in run.out


def test_shell_completes_commands_and_options() -> None:
    run = onnxfc(_ONNXFC_COMPLETE="bash_complete", COMP_WORDS="onnxfc rew", COMP_CWORD="1")
    assert run.out.split() == ["plain,rewrite"]
    run = onnxfc(_ONNXFC_COMPLETE="bash_complete", COMP_WORDS="onnxfc rewrite --output m", COMP_CWORD="3")
    assert run.out.split() == ["plain,map", "plain,mean", "plain,max"]


_IMPORTED = """
import sys
from onnxfc.cli.main import main
try:
    main({args!r}, prog_name="onnxfc")
except SystemExit as end:
    assert end.code == 0
heavy = {{"onnx", "onnxruntime", "numpy", "google"}} & {{name.partition(".")[0] for name in sys.modules}}
print("heavy:", sorted(heavy), file=sys.stderr)
"""


@pytest.mark.parametrize("args", [["--help"], ["rewrite", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTED.format(args=args)],
        env=environment(),
        capture_output=True,
        check=True,
        encoding="utf-8",
        timeout=60,
    )
    assert done.stderr.strip() == "heavy: []"


_LOADED = """
import sys
from onnxfc.cli.main import main
try:
    main({args!r}, prog_name="onnxfc")
except SystemExit as end:
    assert end.code == 0
found = [name for name in ("numpy", "onnx", "onnxruntime", "onnx.reference", "onnxfc.proof") if name in sys.modules]
print(*found, file=sys.stderr)
"""


@pytest.mark.sweep(12)
@pytest.mark.parametrize(
    ("command", "loaded"),
    [
        (["rewrite", "-q", "--no-check", "IN", "OUT"], "numpy onnx"),
        (["inspect", "IN"], "numpy onnx"),
        (["rewrite", "-q", "IN", "OUT"], "numpy onnx onnxruntime onnxfc.proof"),
    ],
)
@pytest.mark.parametrize("name", ["mini_vgg.torchscript", "mini_vgg.dynamo"])
def test_what_is_not_run_loads_no_runtime(tmp_path: Path, name: str, command: list[str], loaded: str) -> None:
    """Nor the verifier, nor onnx's evaluator, which only a graph that computes its sizes needs."""
    files = {"IN": str(fixture_file(f"{name}.onnx")), "OUT": str(tmp_path / "out.onnx")}
    code = _LOADED.format(args=[files.get(arg, arg) for arg in command])
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, check=True, encoding="utf-8", timeout=60
    )
    assert done.stderr.strip() == loaded


def test_help_is_quick() -> None:
    """The best of five, measured against Python's own start."""
    assert min(_seconds("-m", "onnxfc", "--help") for _ in range(5)) < 0.2 + _seconds("-c", "pass")


def _seconds(*args: str) -> float:
    """Of processor time, which does not depend on what else runs."""
    before = processor_seconds()
    subprocess.run([sys.executable, *args], env=environment(), capture_output=True, check=True, timeout=60)
    return processor_seconds() - before


# Several models


def test_a_folder_of_models(tmp_path: Path) -> None:
    """A line for each, the count of each kind, the worst exit code; a refusal stops nothing."""
    for name in ("lenet.dynamo.onnx", "table.dynamo.onnx", "digits.onnx"):
        (tmp_path / name).write_bytes(fixture_file(name).read_bytes())
    run = here("rewrite", "table.dynamo.onnx", "lenet.dynamo.onnx", "digits.onnx", "--out-dir", "any", cwd=tmp_path)
    assert run.code == 3
    lenet, digits, summary = run.out.splitlines()
    assert lenet.startswith("lenet.dynamo.onnx: exact, native size 28x28 px, proven on ")
    assert digits.startswith("digits.onnx: approximate, native size 16x16 px, proven on ")
    assert summary == "3 models: 2 rewritten, 1 refused"
    assert run.err.startswith("onnxfc: table.dynamo.onnx: [position-table] ")
    assert run.err.count("\n") == 1
    assert sorted(path.name for path in (tmp_path / "any").iterdir()) == ["digits.onnx", "lenet.dynamo.onnx"]
    one = here("rewrite", "digits.onnx", "-o", "one.onnx", "-q", cwd=tmp_path)
    assert one.code == 0
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "any" / "digits.onnx").read_bytes()


def test_every_line_of_many_names_its_file(tmp_path: Path) -> None:
    """Also where an option does not fit a model, or a file cannot be read."""
    fits, other = fixture_file("lenet.dynamo.onnx"), fixture_file("digits.onnx")
    run = here("rewrite", fits, other, "none.onnx", "--out-dir", "any", "--size", "28x28", cwd=tmp_path)
    first, second = run.err.splitlines()
    assert first.startswith(f"onnxfc: {other}: --size 28x28: the native size of image is 16x16 in the file; ")
    assert second == "onnxfc: none.onnx: there is no such file; check the path"
    assert run.out.splitlines()[1] == "3 models: 1 rewritten, 2 failed"


def test_a_report_of_many(tmp_path: Path) -> None:
    """All in one, those of refused models too."""
    sources = [fixture_file(name) for name in ("table.dynamo.onnx", "digits.onnx")]
    run = onnxfc("rewrite", *sources, "--out-dir", "any", "--json", cwd=tmp_path)
    assert run.code == 3
    told = json.loads(run.out)
    assert (told["schema"], told["exit_code"]) == ("onnxfc-reports/1", 3)
    one = onnxfc("rewrite", sources[1], "one.onnx", "--json", cwd=tmp_path)
    alone = json.loads(one.out) | {"output": "any/digits.onnx"}
    assert [item["status"] for item in told["reports"]] == ["refused", "rewritten"]
    assert told["reports"][0]["input"] == str(sources[0])
    assert told["reports"][1]["parity"]["native"] == alone["parity"]["native"]
    assert told["reports"][1].keys() == alone.keys()
    run = onnxfc("rewrite", *sources, "--out-dir", "any", "--report", "any/digits.onnx", cwd=tmp_path)
    assert run.code == 2
    assert run.line == "onnxfc: --report any/digits.onnx: is one of the models; give the report a file of its own"
    run = onnxfc("rewrite", *sources, "--out-dir", "any", "--report", "a.nodes.json", cwd=tmp_path)
    assert run.line.startswith("onnxfc: --report a.nodes.json: is for one model; ")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("a.onnx", "b.onnx", "c.onnx"), "give one IN and one OUT, or --out-dir"),
        (("a.onnx", "b.onnx", "-o", "c.onnx"), "give one IN and one OUT, or --out-dir"),
        (("a.onnx", "-o", "c.onnx", "--out-dir", "d"), "-o names one OUT; leave out --out-dir"),
        (("x/a.onnx", "y/a.onnx", "--out-dir", "d"), "several models are called a.onnx"),
    ],
)
def test_models_and_results_that_do_not_fit(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    run = here("rewrite", *words, cwd=tmp_path)
    assert run.code == 2
    assert said in run.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["rewrite", "check", "inspect", "scan"])
def test_help_shows_options_in_groups(command: str) -> None:
    text = onnxfc(command, "--help").out
    assert "The model:" in text
    assert "What is told:" in text
    assert re.search(rf"\n  onnxfc {command} \w+\.onnx", text)
    assert "\nOptions:" not in text


def test_lines_of_the_report_are_short(tmp_path: Path) -> None:
    for name in ("mini_resnet.torchscript.onnx", "digits.onnx", "se_net.dynamo.onnx"):
        run = here("rewrite", fixture_file(name), "out.onnx", cwd=tmp_path)
        rows = [line for line in run.out.splitlines() if not line.startswith(("next", "wrote", " "))]
        assert max(map(len, rows)) <= 100


@pytest.mark.parametrize("words", [("siamese.dynamo.onnx",), ("side.dynamo.onnx",), (LENET, "--fixed-size", "56x56")])
def test_a_scan_is_offered_for_one_image_of_any_size_alone(tmp_path: Path, words: tuple[str | Path, ...]) -> None:
    source = fixture_file(words[0]) if isinstance(words[0], str) else words[0]
    told = onnxfc("rewrite", str(source), "out.onnx", *map(str, words[1:]), "--no-check", cwd=tmp_path).out
    assert "next            onnxfc inspect out.onnx" in told
    assert "onnxfc scan" not in told
