"""Writing: the old file or the new one, never something else, and nothing left behind."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from file_models import mlp, noise, with_data, write
from onnx import numpy_helper

from onnxfc.atomic import NewFile
from onnxfc.errors import ReadError, UsageError, WriteError
from onnxfc.model_file import ModelFile, SaveOptions

ONE_FILE = SaveOptions(save_as_external_data=True, all_tensors_to_one_file=True)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def refused(model: ModelFile, path: Path, kind: type[Exception], options: SaveOptions | None = None) -> str:
    before = names(path.parent) if path.parent.is_dir() else set()
    with pytest.raises(kind) as caught:
        model.save(path, options)
    assert "\n" not in str(caught.value)
    assert (names(path.parent) if path.parent.is_dir() else set()) == before
    return str(caught.value)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """As if the disk were full after ``size`` bytes of a file."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.mark.parametrize("options", [None, ONE_FILE])
@pytest.mark.parametrize("limit", [0, 100, 5000, 12000])
@pytest.mark.parametrize("source", ["file", "bytes", "proto"])
def test_full_disk(tmp_path: Path, options: SaveOptions | None, limit: int, source: str) -> None:
    path = write(tmp_path / "in.onnx", mlp())
    model = ModelFile.open({"file": path, "bytes": path.read_bytes(), "proto": mlp()}[source])
    out = tmp_path / "out.onnx"
    out.write_bytes(b"old")
    with file_size_limit(limit):
        line = refused(model, out, WriteError, options)
    assert "larger than the system allows" in line
    assert out.read_bytes() == b"old"


def test_targets_that_cannot_be_written(tmp_path: Path) -> None:
    model = ModelFile.open(mlp())
    assert "the folder does not exist" in refused(model, tmp_path / "none" / "out.onnx", WriteError)
    (tmp_path / "file").write_bytes(b"")
    assert "cannot write" in refused(model, tmp_path / "file" / "out.onnx", WriteError)
    (tmp_path / "folder").mkdir()
    assert "is a directory" in refused(model, tmp_path / "folder", WriteError)
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refused(model, tmp_path / "pipe", WriteError)
    assert "not a regular file" in refused(model, Path("/dev/null"), WriteError)
    assert "cannot write" in refused(model, tmp_path / ("x" * 300), WriteError)
    line = refused(model, tmp_path / "o", WriteError, SaveOptions(True, True, "none/w.bin"))
    assert "cannot write" in line
    (tmp_path / "out.onnx.data").mkdir()
    assert "not a regular file" in refused(model, tmp_path / "out.onnx", WriteError, ONE_FILE)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_no_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    assert "no permission" in refused(ModelFile.open(mlp()), tmp_path / "out.onnx", WriteError)


def test_the_input_is_never_written(tmp_path: Path) -> None:
    path = with_data(tmp_path, mlp(), location="w.bin", size_threshold=1000)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    os.link(path, tmp_path / "hard.onnx")
    (tmp_path / "soft.onnx").symlink_to("in.onnx")
    (tmp_path / "soft.bin").symlink_to("w.bin")
    model = ModelFile.open(path)
    for name in ("in.onnx", "hard.onnx", "soft.onnx", "w.bin", "soft.bin"):
        assert "choose another output" in refused(model, tmp_path / name, UsageError)
    for name in ("w.bin", "in.onnx", "hard.onnx"):
        options = SaveOptions(external_data_location=name)
        assert "choose another output" in refused(model, tmp_path / "out.onnx", UsageError, options)
    assert {p: p.read_bytes() for p in before} == before


def test_permissions(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    old = os.umask(0o027)
    try:
        ModelFile.open(mlp()).save(out)
        assert out.stat().st_mode & 0o777 == 0o640
        out.chmod(0o604)
        ModelFile.open(mlp()).save(out)
        assert out.stat().st_mode & 0o777 == 0o604
    finally:
        os.umask(old)


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "out.onnx").write_bytes(b"old")
    (tmp_path / "link.onnx").symlink_to("real/out.onnx")
    ModelFile.open(mlp()).save(tmp_path / "link.onnx")
    assert (tmp_path / "link.onnx").is_symlink()
    assert onnx.load(tmp_path / "real" / "out.onnx") == mlp()


def test_replacing_model_and_data(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    for seed in (1, 2, 3):
        ModelFile.open(mlp(seed=seed)).save(out, ONE_FILE)
        assert names(tmp_path) == {"out.onnx", "out.onnx.data"}
        loaded = onnx.load(out)
        np.testing.assert_array_equal(numpy_helper.to_array(loaded.graph.initializer[0]), noise(48, 64, seed=seed))


def test_named_files_where_the_system_has_no_unnamed_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NewFile, "_unnamed", lambda self: -1)
    test_replacing_model_and_data(tmp_path)
    path = write(tmp_path / "in.onnx", mlp())
    model = ModelFile.open(path)
    with file_size_limit(5000):
        refused(model, tmp_path / "new.onnx", WriteError)
        refused(model, tmp_path / "new.onnx", WriteError, ONE_FILE)
    model.save(tmp_path / "new.onnx")
    assert onnx.load(tmp_path / "new.onnx") == mlp()
    assert not any(".tmp" in name for name in names(tmp_path))


def test_an_error_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    path = with_data(tmp_path, mlp(8192), all_tensors_to_one_file=False, size_threshold=1000)
    model = ModelFile.open(path)
    os.truncate(tmp_path / "w2", 4)
    before = names(tmp_path)
    with pytest.raises(ReadError):
        model.save(tmp_path / "out.onnx")
    assert names(tmp_path) == before


WRITER = """
import sys, itertools
from onnxfc.model_file import ModelFile, SaveOptions
one = SaveOptions(save_as_external_data=True, all_tensors_to_one_file=True)
models = [ModelFile.open(path) for path in sys.argv[2:4]]
print("ready", flush=True)
for i in itertools.count():
    models[i % 2].save(sys.argv[1], one if sys.argv[4] == "external" else None)
"""


def in_the_instant(out: Path) -> bool:
    """The one state that two files cannot avoid: the data has its final name, the model does not say so yet.

    The writer replaces small files in a tight loop, so that it is met now and then; it is never silent.
    """
    location = onnx.load(out, load_external_data=False).graph.initializer[0].external_data
    missing = bool(location) and not (out.parent / location[0].value).exists()
    if missing:
        assert location[0].value.startswith("out.onnx.data.onnxfc-")
        assert (out.parent / "out.onnx.data").exists()
        with pytest.raises(ReadError, match="belongs beside the model"):
            ModelFile.open(out)
    return missing


@pytest.mark.parametrize("form", ["inline", "external"])
def test_killed_at_any_moment(tmp_path: Path, form: str) -> None:
    """Each time, out.onnx is one of the two models, whole; random moments over several writes."""
    inputs = [write(tmp_path / f"in{seed}.onnx", mlp(4096, 64, seed)) for seed in (0, 50)]
    wanted = [onnx.load(path).graph.initializer for path in inputs]
    folder = tmp_path / "out"
    folder.mkdir()
    out = folder / "out.onnx"
    command = [sys.executable, "-c", WRITER, str(out), *map(str, inputs), form]
    random = np.random.default_rng(5)
    seen = set()
    for _ in range(6):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(0.02 + random.random() * 0.15)
            writer.send_signal(signal.SIGKILL)
        if not out.exists() or in_the_instant(out):
            continue
        loaded = [numpy_helper.to_array(t).tobytes() for t in onnx.load(out).graph.initializer]
        found = [loaded == [numpy_helper.to_array(t).tobytes() for t in want] for want in wanted]
        assert sum(found) == 1
        seen.add(found.index(True))
    assert seen
    ModelFile.open(inputs[0]).save(out, ONE_FILE if form == "external" else None)
    litter = {name for name in names(folder) if not name.startswith(".onnxfc-")}
    assert litter == ({"out.onnx", "out.onnx.data"} if form == "external" else {"out.onnx"})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_owner_and_attributes_of_a_replaced_file_are_kept(tmp_path: Path) -> None:
    out, data = tmp_path / "out.onnx", tmp_path / "out.onnx.data"
    for path, mode in ((out, 0o4750), (data, 0o640)):
        path.write_bytes(b"old")
        os.chown(path, 1234, 4321)
        path.chmod(mode)
    try:
        os.setxattr(out, "user.note", b"mine")
    except OSError:
        pytest.skip("no extended attributes here")
    for _ in range(2):
        ModelFile.open(mlp()).save(out, ONE_FILE)
        for path, mode in ((out, 0o4750), (data, 0o640)):
            info = path.stat()
            assert (info.st_uid, info.st_gid, info.st_mode & 0o7777) == (1234, 4321, mode)
        assert os.getxattr(out, "user.note") == b"mine"
