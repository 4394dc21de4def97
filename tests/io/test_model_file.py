"""Open and save: nothing gets lost, weights stay on disk, options do what they say."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Thread

import numpy as np
import onnx
import pytest
from file_models import SHARED, external, mlp, model, noise, with_data, write
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession

from onnxfc.errors import ReadError, UsageError
from onnxfc.io import byte_source, save
from onnxfc.io.byte_source import FileSource, Span
from onnxfc.io.external_data import is_private
from onnxfc.io.model_file import ModelFile
from onnxfc.io.save import SaveOptions

REAL = sorted(path for path in SHARED.rglob("*.onnx")) if SHARED.is_dir() else []


def initializer(proto: onnx.ModelProto, name: str) -> TensorProto:
    return next(t for t in proto.graph.initializer if t.name == name)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def copy_of(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy


def test_large_initializers_stay_on_disk(tmp_path: Path) -> None:
    opened = ModelFile.open(write(tmp_path / "in.onnx", mlp()))
    kept = {t.name: len(t.raw_data) for t in opened.proto.graph.initializer}
    assert kept == {"w1": 0, "b1": 192, "w2": 0, "b2": 40}
    assert opened.proto.ByteSize() < 1200


@pytest.mark.parametrize("kind", ["path", "str", "bytes", "proto"])
def test_every_source_opens_and_saves_the_same(tmp_path: Path, kind: str) -> None:
    proto = mlp()
    path = write(tmp_path / "in.onnx", proto)
    sources = {"path": path, "str": str(path), "bytes": path.read_bytes(), "proto": proto}
    opened = ModelFile.open(sources[kind])
    assert opened.path == (path if kind in ("path", "str") else None)
    np.testing.assert_array_equal(opened.array(initializer(opened.proto, "w1")), noise(48, 64))
    opened.save(tmp_path / "out.onnx")
    assert onnx.load(tmp_path / "out.onnx") == proto
    assert names(tmp_path) == {"in.onnx", "out.onnx"}


def opened_or_none(path: Path) -> ModelFile | None:
    try:
        return ModelFile.open(path)
    except ReadError:
        return None


def test_real_models_come_out_field_by_field(tmp_path: Path) -> None:
    if not REAL:
        pytest.skip(f"no real models at {SHARED}")
    opened = 0
    for path in REAL:
        source = opened_or_none(path)
        if source is None:
            with pytest.raises(Exception, match=""):
                onnx.load(path)
            continue
        out = tmp_path / "out.onnx"
        source.save(out)
        before, after = onnx.load(path), onnx.load(out)
        assert before.SerializeToString(deterministic=True) == after.SerializeToString(deterministic=True), path
        for a, b in zip(source.proto.graph.initializer, before.graph.initializer, strict=True):
            if is_private(a):
                np.testing.assert_array_equal(source.array(a), numpy_helper.to_array(b))
        opened += 1
    assert opened > 0.9 * len(REAL)


def rich() -> onnx.ModelProto:
    """A model with tensors, doc strings, metadata and unknown fields everywhere."""
    then = helper.make_graph(
        [helper.make_node("Identity", ["sub"], ["t"])],
        "then",
        [],
        [helper.make_tensor_value_info("t", 1, [64])],
        [numpy_helper.from_array(noise(512), "sub")],
    )
    nodes = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(noise(600), "cv"), doc_string="d"),
        helper.make_node("If", ["cond"], ["i"], then_branch=then, else_branch=then),
    ]
    typed = [
        TensorProto(name="f", data_type=1, dims=[500], float_data=noise(500).tolist()),
        TensorProto(name="d", data_type=11, dims=[300], double_data=noise(300).tolist()),
        TensorProto(name="i", data_type=6, dims=[900], int32_data=range(900)),
        TensorProto(name="h", data_type=10, dims=[900], int32_data=range(900)),
        TensorProto(name="l", data_type=7, dims=[900], int64_data=range(-450, 450)),
        TensorProto(name="s", data_type=8, dims=[2], string_data=[b"a" * 2000, b"b"]),
        TensorProto(name="o", data_type=1, dims=[512], raw_data=bytes(2048), data_location=TensorProto.DEFAULT),
        TensorProto(name="q", data_type=1, dims=[512], raw_data=bytes(2048), doc_string="says"),
    ]
    proto = model(nodes, typed, [1], [1])
    values = numpy_helper.from_array(noise(400), "sparse")
    index = TensorProto(name="at", data_type=7, dims=[400], int64_data=range(400))
    proto.graph.sparse_initializer.add(values=values, indices=index, dims=[1000])
    proto.functions.append(helper.make_function("own", "fn", ["a"], ["b"], [nodes[0]], [helper.make_opsetid("", 17)]))
    proto.metadata_props.add(key="k", value="v")
    proto.graph.quantization_annotation.add(tensor_name="f").quant_parameter_tensor_names.add(key="S", value="q")
    unknown = bytes([0xFA, 0x3E, 3]) + b"new"  # field 1007, three bytes
    for message in (proto, proto.graph, proto.graph.node[0], proto.graph.initializer[7]):
        message.MergeFromString(unknown)
    return proto


@pytest.mark.parametrize("source", ["file", "bytes", "proto"])
def test_everything_else_survives(tmp_path: Path, source: str) -> None:
    proto = rich()
    path = write(tmp_path / "in.onnx", proto)
    opened = ModelFile.open({"file": path, "bytes": path.read_bytes(), "proto": proto}[source])
    if source != "proto":
        assert {t.name for t in opened.proto.graph.initializer if is_private(t)} == {"f", "d", "o", "q"}
    opened.save(tmp_path / "out.onnx")
    after = onnx.load(tmp_path / "out.onnx")
    assert after.SerializeToString(deterministic=True) == proto.SerializeToString(deterministic=True)
    assert (tmp_path / "out.onnx").read_bytes().count(b"new") == 4


def test_all_data_types_are_read(tmp_path: Path) -> None:
    arrays = []
    for data_type in onnx.TensorProto.DataType.values():
        name = onnx.TensorProto.DataType.Name(data_type)
        if name in ("UNDEFINED", "STRING") or name.startswith("FLOAT6"):
            continue
        raw = bytes(range(256)) * 32
        if name == "BOOL":
            raw = bytes([0, 1]) * 4096
        bits = {"UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2}.get(name)
        bits = bits or helper.tensor_dtype_to_np_dtype(data_type).itemsize * 8
        dims = [2, 4096 * 8 // bits]
        arrays.append(TensorProto(name=name, data_type=data_type, dims=dims, raw_data=raw))
    opened = ModelFile.open(
        write(tmp_path / "in.onnx", model([helper.make_node("Relu", ["x"], ["y"])], arrays, [1], [1]))
    )
    for kept, original in zip(opened.proto.graph.initializer, arrays, strict=True):
        assert is_private(kept)
        got, want = opened.array(kept), numpy_helper.to_array(original)
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        assert got.tobytes() == want.tobytes()


def test_edits_of_references(tmp_path: Path) -> None:
    opened = ModelFile.open(write(tmp_path / "in.onnx", mlp()))
    proto = copy_of(opened.proto)
    initializer(proto, "w1").dims[:] = [48, 16, 2, 2]
    initializer(proto, "w1").name = "conv"
    proto.graph.initializer.add().CopyFrom(initializer(opened.proto, "w1"))
    proto.graph.initializer.remove(initializer(proto, "w2"))
    edited = opened.with_proto(proto)
    proto.graph.initializer.extend([edited.tensor("held", noise(40, 40)), edited.tensor("small", noise(4))])
    proto.graph.initializer.append(numpy_helper.from_array(noise(600, 600), "inline"))
    edited.save(tmp_path / "out.onnx")
    saved = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "out.onnx").graph.initializer}
    assert set(saved) == {"conv", "b1", "b2", "w1", "held", "small", "inline"}
    np.testing.assert_array_equal(saved["conv"], noise(48, 64).reshape(48, 16, 2, 2))
    np.testing.assert_array_equal(saved["w1"], noise(48, 64))
    np.testing.assert_array_equal(saved["held"], noise(40, 40))
    np.testing.assert_array_equal(saved["inline"], noise(600, 600))
    np.testing.assert_array_equal(edited.array(initializer(proto, "held")), noise(40, 40))


def test_reference_moved_into_a_subgraph_is_inlined(tmp_path: Path) -> None:
    opened = ModelFile.open(write(tmp_path / "in.onnx", mlp()))
    proto = copy_of(opened.proto)
    value = initializer(opened.proto, "w1")
    proto.graph.node.append(helper.make_node("Constant", [], ["k"], value=value))
    opened.with_proto(proto).save(tmp_path / "out.onnx")
    saved = onnx.load(tmp_path / "out.onnx").graph.node[-1].attribute[0].t
    np.testing.assert_array_equal(numpy_helper.to_array(saved), noise(48, 64))


def test_external_stays_external_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    opened = ModelFile.open(with_data(tmp_path / "a", mlp(), location="w.bin", size_threshold=1000))
    opened.save(tmp_path / "b" / "out.onnx")
    assert names(tmp_path / "b") == {"out.onnx", "out.onnx.data"}
    skeleton = onnx.load(tmp_path / "b" / "out.onnx", load_external_data=False)
    assert [t.data_location for t in skeleton.graph.initializer] == [1, 0, 1, 0]
    assert all(t.external_data[0].value == "out.onnx.data" for t in skeleton.graph.initializer if t.external_data)
    loaded = onnx.load(tmp_path / "b" / "out.onnx")
    for a, b in zip(loaded.graph.initializer, mlp().graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(a), numpy_helper.to_array(b))


@pytest.mark.parametrize("one", [True, False])
def test_external_forms_are_read(tmp_path: Path, one: bool) -> None:
    path = with_data(tmp_path, mlp(), all_tensors_to_one_file=one, size_threshold=0)
    opened = ModelFile.open(path)
    for tensor, original in zip(opened.proto.graph.initializer, mlp().graph.initializer, strict=True):
        assert not tensor.raw_data
        np.testing.assert_array_equal(opened.array(tensor), numpy_helper.to_array(original))


def test_external_without_length_and_in_subgraphs(tmp_path: Path) -> None:
    values = noise(20)
    (tmp_path / "w").write_bytes(b"pad!" + values.tobytes() + b"tail")
    tensor = TensorProto(name="t", data_type=1, dims=[20])
    external(tensor, "w", "4")
    proto = model([helper.make_node("Constant", [], ["y"], value=tensor)], [tensor], [1], [20])
    opened = ModelFile.open(write(tmp_path / "in.onnx", proto))
    np.testing.assert_array_equal(opened.array(opened.proto.graph.initializer[0]), values)
    opened.save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").read_bytes() == values.tobytes()  # used twice, stored once
    saved = onnx.load(tmp_path / "out.onnx")
    for got in (saved.graph.initializer[0], saved.graph.node[0].attribute[0].t):
        np.testing.assert_array_equal(numpy_helper.to_array(got), values)


def test_new_values_of_an_external_model_go_out_too(tmp_path: Path) -> None:
    opened = ModelFile.open(with_data(tmp_path, mlp(), location="w.bin", size_threshold=1000))
    proto = copy_of(opened.proto)
    proto.graph.initializer.append(numpy_helper.from_array(noise(30, 30), "new"))
    opened.with_proto(proto).save(tmp_path / "out.onnx")
    skeleton = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    assert [t.data_location for t in skeleton.graph.initializer] == [1, 0, 1, 0, 1]
    np.testing.assert_array_equal(
        numpy_helper.to_array(onnx.load(tmp_path / "out.onnx").graph.initializer[4]), noise(30, 30)
    )


@pytest.mark.parametrize(
    ("options", "files", "out"),
    [
        (SaveOptions(), set(), 0),
        (SaveOptions(save_as_external_data=True, all_tensors_to_one_file=True), {"out.onnx.data"}, 2),
        (SaveOptions(save_as_external_data=True), {"out.onnx.w1.data", "out.onnx.w2.data"}, 2),
        (SaveOptions(save_as_external_data=True, external_data_location="w.bin"), {"w.bin"}, 2),
        (SaveOptions(True, True, None, 100), {"out.onnx.data"}, 3),
        (SaveOptions(True, True, None, 10**6), set(), 0),
    ],
)
def test_options(tmp_path: Path, options: SaveOptions, files: set[str], out: int) -> None:
    opened = ModelFile.open(mlp().SerializeToString())
    opened.save(tmp_path / "out.onnx", options)
    assert names(tmp_path) == {"out.onnx", *files}
    skeleton = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    assert sum(t.data_location for t in skeleton.graph.initializer) == out
    loaded = onnx.load(tmp_path / "out.onnx")
    for a, b in zip(loaded.graph.initializer, mlp().graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(a), numpy_helper.to_array(b))


def sized(size: np.ndarray) -> onnx.ModelProto:
    """A Resize by float scales, a ReduceMean over axes and a Reshape to ``size``."""
    inits = {"scales": np.float32([1, 1, 2, 2]), "axes": np.int64([2, 3]), "size": size, "bias": np.float32([1, 2])}
    nodes = [
        helper.make_node("Resize", ["x", "", "scales"], ["big"]),
        helper.make_node("ReduceMean", ["big", "axes"], ["mean"]),
        helper.make_node("Cast", ["size"], ["shape"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["mean", "shape"], ["row"]),
        helper.make_node("Add", ["row", "bias"], ["y"]),
    ]
    proto = model(nodes, [numpy_helper.from_array(a, n) for n, a in inits.items()], [1, 2, 4, 4], [1, 2])
    proto.opset_import[0].version = 18
    return proto


@pytest.mark.parametrize("kind", [np.int64, np.int32])
@pytest.mark.parametrize("came", ["inside", "outside"])
def test_what_tells_sizes_stays_inside(tmp_path: Path, kind: type, came: str) -> None:
    """onnxruntime reads it while it infers shapes, and then looks into no data file."""
    proto, target = sized(np.array([1, 2], kind)), tmp_path / "out.onnx"
    if came == "outside":
        proto = ModelFile.open(with_data(tmp_path, proto, size_threshold=0))
    ModelFile.open(proto).save(target, SaveOptions(True, True, None, 0))
    skeleton = onnx.load(target, load_external_data=False)
    assert [t.name for t in skeleton.graph.initializer if t.data_location] == ["bias"]
    row = InferenceSession(target).run(None, {"x": np.arange(32, dtype=np.float32).reshape(1, 2, 4, 4)})[0]
    np.testing.assert_allclose(row, [[8.5, 25.5]])


def test_a_large_table_of_integers_goes_out(tmp_path: Path) -> None:
    proto = sized(np.array([1, 2]))
    proto.graph.initializer.append(numpy_helper.from_array(np.arange(128), "table"))
    ModelFile.open(proto).save(tmp_path / "out.onnx", SaveOptions(True, True, None, 0))
    skeleton = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    assert [t.name for t in skeleton.graph.initializer if t.data_location] == ["bias", "table"]


@pytest.mark.parametrize("location", ["/abs", "../up", "a/../../up", "out.onnx", "", "nul\0"])
def test_location_must_be_beside_the_output(tmp_path: Path, location: str) -> None:
    opened = ModelFile.open(mlp())
    options = SaveOptions(save_as_external_data=True, external_data_location=location)
    if not location:  # not given
        return
    with pytest.raises(UsageError, match="output's folder"):
        opened.save(tmp_path / "out.onnx", options)
    assert names(tmp_path) == set()


def test_too_large_for_protobuf_goes_external_on_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(save, "PROTOBUF_LIMIT", 8000)
    ModelFile.open(mlp()).save(tmp_path / "out.onnx")
    assert names(tmp_path) == {"out.onnx", "out.onnx.data"}
    assert os.path.getsize(tmp_path / "out.onnx.data") == 12288 + 1920


@pytest.mark.parametrize("length", [0, 1, 4095, 4096, 1 << 20, (3 << 20) + 17])
@pytest.mark.parametrize(("offset", "place"), [(0, 0), (5, 5), (5, 4101), (0, 3), (4097, 9), (9, 4095)])
@pytest.mark.parametrize("large", [1 << 23, 1 << 16])
def test_copies_from_any_place_to_any_other(
    tmp_path: Path, length: int, offset: int, place: int, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the kernel between whole pages, through a buffer elsewhere, by two threads where it is large."""
    monkeypatch.setattr(byte_source, "_LARGE", large)
    data = np.random.default_rng(0).bytes((3 << 20) + 10_000)
    (tmp_path / "in").write_bytes(data)
    with (tmp_path / "out").open("wb") as out:
        out.write(b"x" * place)
        out.flush()
        FileSource(tmp_path / "in").copy(out.fileno(), offset, length)
        assert os.lseek(out.fileno(), 0, os.SEEK_CUR) == place + length
    assert (tmp_path / "out").read_bytes() == b"x" * place + data[offset : offset + length]


def test_without_a_thread_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(byte_source, "_LARGE", 1 << 16)
    monkeypatch.setattr(Thread, "start", start)
    (tmp_path / "in").write_bytes(bytes(1 << 18))
    assert Span(FileSource(tmp_path / "in"), 5, 1 << 17).each_part(len) == [1 << 17]


def test_threshold_must_not_be_negative() -> None:
    with pytest.raises(UsageError, match="0 bytes or more"):
        SaveOptions(external_data_size_threshold=-1)


def test_fields_that_nobody_knows_are_passed_over_and_kept(tmp_path: Path) -> None:
    """Of all kinds: a number, 8 bytes, bytes, a group of a number, 4 bytes; before the graph and within it."""
    unknown = (
        *(b"\xc0\x3e\x96\x01", b"\xc1\x3e12345678", b"\xc2\x3e\x03abc"),
        *(b"\xc3\x3e\x08\x05\xc4\x3e", b"\xc5\x3e1234"),
    )
    for extra in unknown:
        proto = mlp()
        proto.graph.MergeFromString(extra)
        path = tmp_path / "in.onnx"
        path.write_bytes(extra + proto.SerializeToString())
        ModelFile.open(path).save(tmp_path / "out.onnx")
        again = onnx.load(tmp_path / "out.onnx")
        assert again.SerializeToString() == onnx.load(path).SerializeToString()
        assert again.SerializeToString().count(extra) == 2
