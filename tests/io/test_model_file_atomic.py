"""Writing: the old file or the new one, never something else, and nothing left behind."""

from __future__ import annotations

import errno
import os
import re
import shutil
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
from race import race
from systems import IS_ROOT

from onnxfc.errors import ReadError, UsageError, WriteError
from onnxfc.io import atomic_write, publish
from onnxfc.io.atomic_write import NewFile
from onnxfc.io.model_file import ModelFile
from onnxfc.io.save import SaveOptions

resource = pytest.importorskip("resource")

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


@pytest.mark.skipif(IS_ROOT, reason="root writes everywhere")
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


def data_of(out: Path) -> str:
    """The one data file that the model refers to."""
    tensors = onnx.load(out, load_external_data=False).graph.initializer
    (name,) = {entry.value for t in tensors for entry in t.external_data if entry.key == "location"}
    return str(name)


def seed_of(out: Path) -> int:
    """Which of the test's models it is, whole."""
    weights = [numpy_helper.to_array(t) for t in onnx.load(out).graph.initializer]
    seeds = [s for s in range(9) if np.array_equal(weights[0], noise(48, 64, seed=s))]
    for tensor, wanted in zip(weights, mlp(seed=seeds[0]).graph.initializer, strict=True):
        np.testing.assert_array_equal(tensor, numpy_helper.to_array(wanted))
    return seeds[0]


def test_replacing_model_and_data(tmp_path: Path) -> None:
    """Other data gets a name that nobody has; of what it replaces one generation is left, for its readers."""
    out = tmp_path / "out.onnx"
    generations = []
    for seed in (1, 2, 3, 4):
        ModelFile.open(mlp(seed=seed)).save(out, ONE_FILE)
        generations.append(data_of(out))
        assert names(tmp_path) == {"out.onnx", *generations[-2:]}
        assert seed_of(out) == seed
    assert generations[0] == "out.onnx.data"
    assert len(set(generations)) == 4
    assert all(re.fullmatch(r"out\.onnx\.onnxfc-[0-9a-f]{8}p?\.data", name) for name in generations[1:])


def test_data_that_is_there_already_is_kept(tmp_path: Path) -> None:
    """A rewrite with other options has the same weights: the names stay, and so does the file."""
    out = tmp_path / "out.onnx"
    for first in (1, 2):
        ModelFile.open(mlp(seed=first)).save(out, ONE_FILE)
        before = data_of(out), (tmp_path / data_of(out)).stat()
        proto = mlp(seed=first)
        proto.producer_name = "another"
        assert ModelFile.open(proto).save(out, ONE_FILE) == [tmp_path / before[0]]
        assert onnx.load(out).producer_name == "another"
        assert (data_of(out), (tmp_path / data_of(out)).stat()) == before
        assert seed_of(out) == first


def test_one_file_a_tensor(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    each = SaveOptions(save_as_external_data=True)
    for seed in (1, 2, 3):
        written = ModelFile.open(mlp(seed=seed)).save(out, each)
        assert seed_of(out) == seed
        assert len(written) == 2
        assert set(written) <= set(tmp_path.iterdir())
        assert len(names(tmp_path)) == (3 if seed == 1 else 5)
    written = ModelFile.open(mlp(seed=3)).save(out, each)
    assert names(tmp_path) == {"out.onnx", *(path.name for path in written)}


def test_readers_of_the_model_before(tmp_path: Path) -> None:
    """Who has opened the old model still finds the old data, whole, once it has been replaced."""
    out = tmp_path / "out.onnx"
    for seed in (1, 2, 3):
        ModelFile.open(mlp(seed=seed)).save(out, ONE_FILE)
        old, opened = onnx.load(out, load_external_data=False), ModelFile.open(out)
        ModelFile.open(mlp(seed=seed + 5)).save(out, ONE_FILE)
        onnx.load_external_data_for_model(old, str(tmp_path))
        for found in (old, opened.loaded()):
            np.testing.assert_array_equal(numpy_helper.to_array(found.graph.initializer[0]), noise(48, 64, seed=seed))


def test_files_that_are_not_ours_stay(tmp_path: Path) -> None:
    """A file of the data's name, of a copy of the model, and what looks like ours but another model refers to."""
    out, data = tmp_path / "out.onnx", tmp_path / "out.onnx.data"
    data.write_bytes(b"notes")
    for seed in (1, 2):
        ModelFile.open(mlp(seed=seed)).save(out, ONE_FILE)
    shutil.copy(out, tmp_path / "copy.onnx")
    for seed in (3, 4, 5):
        ModelFile.open(mlp(seed=seed)).save(out, ONE_FILE)
    assert data.read_bytes() == b"notes"
    assert seed_of(tmp_path / "copy.onnx") == 2
    assert seed_of(out) == 5
    assert len(names(tmp_path)) == 6
    (tmp_path / "copy.onnx").unlink()
    ModelFile.open(mlp(seed=6)).save(out, ONE_FILE)
    assert len(names(tmp_path)) == 4


def test_data_of_another_model_is_not_replaced(tmp_path: Path) -> None:
    named = SaveOptions(save_as_external_data=True, external_data_location="w.bin")
    ModelFile.open(mlp(seed=1)).save(tmp_path / "one.onnx", named)
    ModelFile.open(mlp(seed=2)).save(tmp_path / "two.onnx", named)
    assert (seed_of(tmp_path / "one.onnx"), seed_of(tmp_path / "two.onnx")) == (1, 2)


def test_litter_of_a_writer_that_was_killed_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    ModelFile.open(mlp(seed=1)).save(out, ONE_FILE)
    (tmp_path / "out.onnx.onnxfc-0123abcd.data").write_bytes(b"half")
    (tmp_path / "other.onnx.onnxfc-0123abcd.data").write_bytes(b"of another")
    ModelFile.open(mlp(seed=1)).save(out, ONE_FILE)
    assert names(tmp_path) == {"out.onnx", "out.onnx.data", "other.onnx.onnxfc-0123abcd.data"}


def test_a_folder_that_cannot_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is removed there, as nobody knows who else is writing."""
    monkeypatch.setattr(atomic_write, "_fcntl", None)
    out = tmp_path / "out.onnx"
    for seed in (1, 2, 3):
        ModelFile.open(mlp(seed=seed)).save(out, ONE_FILE)
        assert seed_of(out) == seed
        assert len(names(tmp_path)) == 1 + seed


def test_a_folder_that_is_locked_for_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_write, "_PATIENCE", 0.05)
    with atomic_write.locked(tmp_path):
        assert "is locked by another process" in refused(ModelFile.open(mlp()), tmp_path / "out.onnx", WriteError)


def test_a_name_that_is_taken_in_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a program that knows nothing of our lock."""
    claim, taken = NewFile.claim, tmp_path / "out.onnx.data"

    def late(self: NewFile, target: Path) -> bool:
        if not taken.exists():
            taken.write_bytes(b"theirs")
        return claim(self, target)

    monkeypatch.setattr(NewFile, "claim", late)
    ModelFile.open(mlp(seed=2)).save(tmp_path / "out.onnx", ONE_FILE)
    assert taken.read_bytes() == b"theirs"
    assert seed_of(tmp_path / "out.onnx") == 2
    assert len(names(tmp_path)) == 3


def test_data_that_is_removed_in_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.onnx"
    ModelFile.open(mlp(seed=2)).save(out, ONE_FILE)

    @contextmanager
    def late(folder: Path) -> Iterator[bool]:
        (folder / "out.onnx.data").unlink()
        yield True

    monkeypatch.setattr(publish, "locked", late)
    ModelFile.open(mlp(seed=2)).save(out, ONE_FILE)
    assert seed_of(out) == 2


@pytest.mark.parametrize("standing", [False, True])
def test_a_model_that_cannot_be_published_leaves_no_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, standing: bool
) -> None:
    out = tmp_path / "out.onnx"
    if standing:
        ModelFile.open(mlp(seed=1)).save(out, ONE_FILE)

    def full(self: NewFile, target: Path) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(NewFile, "publish", full)
    assert "the disk is full" in refused(ModelFile.open(mlp(seed=2)), out, WriteError, ONE_FILE)
    if standing:
        assert seed_of(out) == 1


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
from onnxfc.io.model_file import ModelFile, SaveOptions
one = SaveOptions(save_as_external_data=True, all_tensors_to_one_file=True)
models = [ModelFile.open(path) for path in sys.argv[2:4]]
print("ready", flush=True)
for i in itertools.count():
    models[i % 2].save(sys.argv[1], one if sys.argv[4] == "external" else None)
"""


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
        if not out.exists():
            continue
        loaded = [numpy_helper.to_array(t).tobytes() for t in onnx.load(out).graph.initializer]
        found = [loaded == [numpy_helper.to_array(t).tobytes() for t in want] for want in wanted]
        assert sum(found) == 1
        seen.add(found.index(True))
    assert seen
    ModelFile.open(inputs[0]).save(out, ONE_FILE if form == "external" else None)
    litter = {name for name in names(folder) if not name.startswith(".onnxfc-")}
    if form == "inline":
        assert litter == {"out.onnx"}
    else:  # of the two that were replaced last, the younger is for readers; a plain name is not provably ours
        assert {"out.onnx", data_of(out)} <= litter
        assert len(litter - {"out.onnx.data"}) <= 3


def test_data_of_a_writer_that_was_killed_before_its_model_had_its_name(tmp_path: Path) -> None:
    """Its model is there under a hidden name only, and keeps no data."""
    inputs = [write(tmp_path / f"in{seed}.onnx", mlp(4096, 64, seed)) for seed in (0, 50)]
    folder = tmp_path / "out"
    folder.mkdir()
    out = folder / "out.onnx"
    for path in (*inputs, inputs[0]):
        ModelFile.open(path).save(out, ONE_FILE)
    shutil.copy(out, folder / ".onnxfc-0123456789ab.tmp")
    left = data_of(out)
    for path in (inputs[1], inputs[0], inputs[1]):
        ModelFile.open(path).save(out, ONE_FILE)
    assert left not in names(folder)


@pytest.mark.skipif(not IS_ROOT, reason="only root may give files away")
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
    for seed in range(2):
        ModelFile.open(mlp(seed=seed)).save(out, ONE_FILE)
        for path, mode in ((out, 0o4750), (data, 0o640), (tmp_path / data_of(out), 0o640)):
            info = path.stat()
            assert (info.st_uid, info.st_gid, info.st_mode & 0o7777) == (1234, 4321, mode)
        assert os.getxattr(out, "user.note") == b"mine"


@pytest.mark.parametrize("kinds", [["one", "one"], ["each", "one", "inline"], ["named", "named"]])
def test_several_writers(tmp_path: Path, kinds: list[str]) -> None:
    """Whoever is last: the model is one of theirs, whole, for every reader at any time."""
    assert race(tmp_path, kinds, rounds=25) == []
