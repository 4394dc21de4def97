"""Files that are not models, or do not want to be read safely: one clear line each, and nothing read outside."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from file_models import external, mlp, with_data, write
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from systems import IS_ROOT, posix

from onnxfc.errors import ReadError
from onnxfc.io.model_file import ModelFile

GOOD = mlp().SerializeToString()


def message(source: Path | bytes) -> str:
    """The one line with which ``source`` is refused."""
    with pytest.raises(ReadError) as caught:
        ModelFile.open(source)
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (GOOD[:-1], "truncated"),
        (GOOD[: len(GOOD) // 2], "truncated"),
        (GOOD[:40], "truncated"),
        (np.random.default_rng(1).bytes(5000), "not an ONNX model"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "a PNG image"),
        (b"PK\x03\x04" + bytes(100), "a zip archive"),
        (b"\x20\0\0\0TFL3" + bytes(100), "TensorFlow Lite"),
        (b"hello, world\n" * 9, "text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "not an ONNX model"),
        (
            onnx.ModelProto(ir_version=8, graph=onnx.GraphProto(name="g")).SerializeToString(),
            "not an ONNX model",
        ),
        (mlp().graph.SerializeToString(), "not an ONNX model"),
        (b"\x00" * 100, "not an ONNX model"),
        (b"\x08" + b"\xff" * 11, "not an ONNX model"),  # overlong varint
        (b"\x3a" + b"\xff" * 9 + b"\x01" + b"x", "not an ONNX model"),  # length 2**64 - 1
        (b"\x08\x08\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7fx", "truncated"),  # length 2**63 - 1
        (b"\x9b\x3f" * 100_000, "not an ONNX model"),  # nested groups
        (b"\x9c\x3f" + GOOD, "not an ONNX model"),  # a group ends that never began
        (GOOD.replace(b"fc1", b"f\xff1"), "not UTF-8"),
        (GOOD + b"\x9b\x3f", "not an ONNX model|truncated"),  # a group that never ends
    ],
)
def test_no_model(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "in.onnx"
    path.write_bytes(content)
    line = message(path)
    assert line.startswith(f"{path}: ")
    assert any(part in line for part in says.split("|")), line
    assert any(part in message(content) for part in says.split("|"))


def test_a_group_among_unknown_fields_is_kept(tmp_path: Path) -> None:
    group = b"\x9b\x3f\x08\x01\x9b\x3f\x9c\x3f\x9c\x3f"
    path = tmp_path / "in.onnx"
    path.write_bytes(group + GOOD)
    ModelFile.open(path).save(tmp_path / "out.onnx")
    assert group in (tmp_path / "out.onnx").read_bytes()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_bytes_open_or_are_refused(changes: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for at, value in changes:
        data[at] = value
    try:
        model = ModelFile.open(bytes(data))
    except ReadError:
        return
    for tensor in model.proto.graph.initializer:
        with suppress(ReadError):
            model.array(tensor)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ReadError):
        ModelFile.open(data)


@posix
def test_paths_that_are_no_files(tmp_path: Path) -> None:
    assert "there is no such file" in message(tmp_path / "none.onnx")
    assert "is a directory" in message(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in message(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "s"))
        assert "not a regular file" in message(tmp_path / "s")
    (tmp_path / "loop").symlink_to("loop")
    assert "cannot read" in message(tmp_path / "loop")
    assert "cannot read" in message(tmp_path / "nul\0")
    assert "cannot read" in message(tmp_path / ("x" * 300))


@pytest.mark.skipif(IS_ROOT, reason="root reads everything")
def test_unreadable(tmp_path: Path) -> None:
    path = write(tmp_path / "in.onnx", mlp())
    path.chmod(0)
    assert "cannot read: Permission denied" in message(path)


def external_model(folder: Path, location: str, offset: str | None = None, length: str | None = None) -> Path:
    proto = mlp()
    external(proto.graph.initializer[0], location, offset, length)
    return write(folder / "in.onnx", proto)


@posix
@pytest.mark.parametrize(
    ("location", "says"),
    [
        ("/etc/passwd", "outside of the model's folder"),
        ("../secret", "outside of the model's folder"),
        ("a/../../secret", "outside of the model's folder"),
        ("link", "outside of the model's folder"),
        ("folder/secret", "outside of the model's folder"),
        ("gone", "belongs beside the model"),
        (".", "is a directory"),
        ("pipe", "not a regular file"),
        ("", "does not name a file"),
        ("nul\0", "does not name a file"),
        ("onnxfc:memory", "does not name a file"),
    ],
)
@pytest.mark.parametrize("where", ["initializer", "attribute"])
def test_external_data_outside_is_not_read(tmp_path: Path, location: str, says: str, where: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(20000))
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "folder").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    path = external_model(folder, location)
    if where == "attribute":
        proto = onnx.load(path, load_external_data=False)
        value = proto.graph.initializer.pop(0)
        proto.graph.node.append(onnx.helper.make_node("Constant", [], ["c"], value=value))
        write(path, proto)
    assert says in message(path)


@pytest.mark.parametrize(
    ("offset", "length", "says"),
    [
        ("20000", None, "truncated"),
        ("0", "20001", "truncated"),
        ("9000", "12288", "truncated"),
        ("-4", None, "is not a size"),
        ("1e3", None, "is not a size"),
        ("٣", None, "is not a size"),
        ("1_0", None, "is not a size"),
        ("9" * 50, None, "is not a size"),
        ("0", "-1", "is not a size"),
        (str(2**63), str(2**63), "truncated"),
    ],
)
def test_external_data_beyond_the_file(tmp_path: Path, offset: str, length: str | None, says: str) -> None:
    (tmp_path / "w").write_bytes(bytes(20000))
    assert says in message(external_model(tmp_path, "w", offset, length))


def test_hostile_dims(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(bytes(20000))
    proto = mlp()
    proto.graph.initializer[0].dims[:] = [2**40, 2**40]
    proto.graph.initializer[2].dims[:] = [-1, 480]
    model = ModelFile.open(proto.SerializeToString())
    for index in (0, 2):
        with pytest.raises(ReadError, match="do not fit its type and dims"):
            model.array(model.proto.graph.initializer[index])
    external(proto.graph.initializer[0], "w")
    assert "truncated" in message(write(tmp_path / "in.onnx", proto))


def test_external_data_needs_a_path(tmp_path: Path) -> None:
    path = with_data(tmp_path, mlp(), size_threshold=0)
    assert "give the model's path instead" in message(path.read_bytes())


@pytest.mark.parametrize("name", ["in.onnx", "w.bin"])
@pytest.mark.parametrize("change", ["grow", "shrink", "touch", "replace"])
def test_a_file_that_changes_is_not_read_on(tmp_path: Path, name: str, change: str) -> None:
    proto = mlp(features=8192)  # w1: 1.5 MiB
    path = with_data(tmp_path, proto, location="w.bin", size_threshold=1000)
    if name == "in.onnx":
        write(path, proto)
    model = ModelFile.open(path)
    changed = tmp_path / name
    if change == "replace" and name == "in.onnx":  # the opened file is still there, without a name
        os.replace(write(tmp_path / "other", mlp(8192, seed=7)), changed)
        model.save(tmp_path / "out.onnx")
        assert onnx.load(tmp_path / "out.onnx") == proto
        return
    if change == "replace":
        (tmp_path / "other").write_bytes(changed.read_bytes())
        os.replace(tmp_path / "other", changed)
    elif change == "touch":
        os.utime(changed, ns=(time.time_ns(), time.time_ns() + 10**9))
    else:
        os.truncate(changed, os.path.getsize(changed) + (1 if change == "grow" else -1))
    with pytest.raises(ReadError, match="changed while it was being read"):
        model.save(tmp_path / "out.onnx")
    with pytest.raises(ReadError, match="changed while it was being read"):
        model.array(model.proto.graph.initializer[0])
    assert not (tmp_path / "out.onnx").exists()
    assert not (tmp_path / "out.onnx.data").exists()


def test_a_deleted_model_file_can_still_be_saved(tmp_path: Path) -> None:
    path = write(tmp_path / "in.onnx", mlp())
    model = ModelFile.open(path)
    path.unlink()
    model.save(tmp_path / "out.onnx")
    loaded = onnx.load(tmp_path / "out.onnx")
    np.testing.assert_array_equal(
        numpy_helper.to_array(loaded.graph.initializer[0]), numpy_helper.to_array(mlp().graph.initializer[0])
    )
