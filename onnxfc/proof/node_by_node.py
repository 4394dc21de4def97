"""The original's trunk node by node, where it does not run at other sizes as a whole.

Each of its nodes is given what the rewritten model has made of a larger image under the same name, and must make the
same of it: a Conv whose padding is another is seen, though an Add behind it fails for a size that is written down.
What both models make under one name natively is the same tensor, all else is left out. A length that is written down in
a Reshape, Expand or Resize is what the rewritten model has, and a Resize may keep its native scale. So is the length of
what is padded by amounts that the rewritten model computes: with the native amounts before it, and more or less behind.
What may mean something else at another size otherwise (a sum, a Slice, a factor that counts places, a mean of what is
shared out, a table that the rewritten model computes) shows nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxfc.io.model_file import ModelFile
from onnxfc.proof.accumulator import Tally, distance
from onnxfc.proof.baked import MEANS, SHARING, Shapes, attributes, may_be_sized, stored
from onnxfc.proof.every_size import counted_by
from onnxfc.proof.evidence import Evidence
from onnxfc.proof.head import begin_at, part_of
from onnxfc.proof.layers import rounded
from onnxfc.proof.narrowest import coarser
from onnxfc.proof.options import CheckOptions
from onnxfc.proof.providers import Engine
from onnxfc.proof.readings import Readings
from onnxfc.proof.reference_run import is_small
from onnxfc.proof.results import ParityResult
from onnxfc.proof.sessions import Array, Arrays, RunError, Runner
from onnxfc.proof.tolerance import Scale, measure
from onnxfc.proof.windows import Capture
from onnxfc.proof.wiring import dependent, nodes_before

_LENGTHS_AT = {"Reshape": 1, "Expand": 1, "Resize": 3}
"""Which input of an operator says how large its result is."""
_GIVEN, _LENGTHS, _BEHIND = "given: ", "lengths of: ", "behind: "
_CLOSE = 1e-3
"""Values of one name that are farther apart natively, relative to the largest, are not of one tensor."""
_SAMPLES, _MOST = 3, 1 << 25
"""Images of the native size, and numbers of all tensors together that are held of each."""
_TRIES = 16
"""So many nodes may fail at a size before the rest is given up."""
_SESSIONS = 32
"""So many sessions of a small model are kept."""
_STOPPED = re.compile(r"Name:'step (\d+)'|\(step (\d+)\)")


def compare_nodes(
    pair: tuple[ModelFile, ModelFile],
    ends: Sequence[str],
    shapes: Shapes,
    shots: Sequence[Capture],
    evidence: Evidence,
    options: CheckOptions,
) -> ParityResult:
    """Ask the original's nodes before ``ends`` at the sizes of ``shots``. Raises RunError where a model does
    not show its tensors."""
    tally, kind = Tally(options), shots[0].kind
    images = [evidence.inputs.feeds(kind, number) for number in range(_SAMPLES)]
    names = _held(_in_both(pair, ends, evidence.moving), shapes)
    first = Runner(pair[0], names, options.engine)
    native = [first.run(feeds) for feeds in images]
    del first
    other = Runner(pair[1], names, options.engine)
    own = [other.run(feeds) for feeds in images]
    names = [name for name in names if all(_alike(a[name], b[name]) for a, b in zip(native, own, strict=True))]
    scales = _scales(pair, names, native, evidence.batch, options)
    given = images[0] | {name: native[0][name] for name in names}
    nodes = _Nodes.of(pair[0], ends, given, shapes, pair[1].proto.graph, options.engine)
    asked = nodes.telling(list(scales))
    sane = nodes.run(nodes.model, images[0] | own[0]) if asked else {}
    asked = [name for name in asked if name in sane and sane[name].shape == own[0][name].shape]
    tally.noise = {(name, kind.name): distance(sane[name], own[0][name]) for name in asked}
    for shot in shots if asked else ():
        if shot.kind.name == kind.name:
            _compare(nodes, asked, shot, shot.feeds | other.run(shot.feeds), scales, tally)
    return tally.result()


def _scales(
    pair: tuple[ModelFile, ModelFile], names: Sequence[str], native: Sequence[Arrays], batch: int, options: CheckOptions
) -> dict[str, Scale]:
    """Those of floats that tell something; what is a step off in quantised models is for others to judge."""
    found, precisions = dict[str, Scale](), [rounded(file) for file in pair]
    for name in names:
        precision = coarser(*(known[name] for known in precisions if name in known))
        if native[0][name].dtype.kind == "f" and not precision.step:
            found[name] = measure([values[name] for values in native], batch, precision, options)
    return {name: scale for name, scale in found.items() if not scale.problem}


def _in_both(pair: tuple[ModelFile, ModelFile], ends: Sequence[str], moving: Collection[str]) -> list[str]:
    """Tensors of the original's nodes before ``ends`` that the rewritten model makes something under the name of."""
    graph, other = (file.proto.graph for file in pair)
    made = [name for at in nodes_before(graph, ends) for name in graph.node[at].output if name in moving]
    inputs = {value.name for value in other.input} - {tensor.name for tensor in other.initializer}
    both = dependent(other, inputs) - inputs
    return [name for name in made if name in both]


def _held(names: Sequence[str], shapes: Shapes) -> list[str]:
    """The first of them, as many as are held at once."""
    sizes = accumulate(math.prod(shapes.get(name, ())) for name in names)
    return [name for name, size in zip(names, sizes, strict=True) if size <= _MOST]


def _alike(one: Array, two: Array) -> bool:
    if one.shape != two.shape or one.dtype.kind != two.dtype.kind or one.dtype.kind not in "fiub" or not one.size:
        return False
    if one.dtype.kind != "f":
        return bool((one == two).all())
    return distance(one, two) <= _CLOSE * float(np.abs(one.astype(np.float64)).max())


def _compare(
    nodes: _Nodes, asked: Sequence[str], shot: Capture, made: Arrays, scales: Mapping[str, Scale], tally: Tally
) -> None:
    kind, first, left = shot.kind.name, dict[str, Array](), list(asked)
    where = f"in the original's node, given the second model's own features, {shot}"
    for values in nodes.readings(made):
        first = first or values
        for name in list(left):
            want, got = values.get(name), made[name]
            if want is None or want.shape != got.shape or tally.exceeds(name, got, want, scales[name], kind):
                continue
            tally.compare(name, got, want, scales[name], kind, where)
            left.remove(name)
        if not left:
            break
    for name in left:
        if name in first and (first[name].shape == made[name].shape or first[name].shape != nodes.native[name]):
            tally.compare(name, made[name], first[name], scales[name], kind, where)
    if shot.size.pixels not in tally.sizes:
        tally.sizes.append(shot.size.pixels)


@dataclass
class _Nodes:
    """The original's nodes as a model in which each of them reads what it is given; ``native``: shapes of that;
    ``lengths``: of which tensors it is told how long they are, and along which axes; ``padded``: of which tensors how
    much is padded behind them beyond the native amounts, and what is padded."""

    file: ModelFile
    model: onnx.ModelProto
    native: dict[str, tuple[int, ...]]
    shapes: Shapes
    lengths: dict[str, list[int]]
    padded: dict[str, str]
    other: onnx.GraphProto
    engine: Engine
    runners: dict[bytes, Runner] = field(default_factory=dict)

    @staticmethod
    def of(
        original: ModelFile, ends: Sequence[str], given: Arrays, shapes: Shapes, other: onnx.GraphProto, engine: Engine
    ) -> _Nodes:
        source = original.proto.graph
        model = part_of(original.proto, "steps", nodes_before(source, ends), ())
        native = {name: value.shape for name, value in given.items()}
        shapes = {**shapes, **native, **{_GIVEN + name: shape for name, shape in native.items()}}
        moving, lengths = dependent(source, [value.name for value in source.input]), dict[str, list[int]]()
        padded = _padded_on(model.graph, given, moving, other)
        for number, node in enumerate(model.graph.node):
            node.name, made = f"step {number}", node.output[0]
            if made in given and (at := _told_at(node)) and node.input[at] not in moving:
                told = attributes(node).get("axes")
                lengths[made] = list(told.ints) if told else list(range(len(native[made])))
                node.input[at] = _LENGTHS + made
            _give(node, given)
        inputs = {_GIVEN + name: value for name, value in given.items()}
        inputs |= {_LENGTHS + name: np.array(axes) for name, axes in lengths.items()}
        inputs |= {_BEHIND + name: np.array([0]) for name in padded}
        begin_at(model.graph, inputs, inputs)
        outputs = (name for node in model.graph.node for name in node.output if name in given)
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        _leave_out(model.graph, {n.name for n in model.graph.node if any(a.HasField("g") for a in n.attribute)})
        return _Nodes(original, model, native, shapes, lengths, padded, other, engine)

    @cached_property
    def _readings(self) -> Readings:
        return Readings.of(self.model, self.shapes, self.other)

    def telling(self, names: Sequence[str]) -> list[str]:
        """Of these, what is made by nodes that mean the same at every size, or one of the readings."""
        graph = self.model.graph
        moving = dependent(graph, [value.name for value in graph.input])
        bad = set(self._readings.open)
        bad.update(name for node in self._otherwise() for name in node.output if moving.intersection(node.output))
        left = {value.name for value in graph.output} - dependent(graph, bad)
        return [name for name in names if name in left]

    def _otherwise(self) -> Iterator[onnx.NodeProto]:
        """Nodes that may mean something else at another size."""
        graph, source = self.model.graph, self.file.proto.graph
        tensors, moving = stored(graph), dependent(graph, [value.name for value in graph.input])
        lengths = self.native.values()
        extents = {n for shape in lengths for n in (*shape[1:], math.prod(shape[1:]), math.prod(shape[2:]))}
        shared = dependent(source, [n for node in source.node if node.op_type in SHARING for n in node.output])
        theirs = {node.output[0]: node for node in self.other.node if node.output}
        follows = dependent(self.other, [value.name for value in self.other.input])
        for node in graph.node:
            written = may_be_sized(node, tensors, self.shapes) and not _is_told(node)
            written = written or _follows(node, theirs.get(node.output[0]), moving, follows)
            averaged = node.op_type in MEANS and node.input[0].removeprefix(_GIVEN) in shared
            if written or averaged or _counts(node, tensors, extents):
                yield node

    def readings(self, made: Arrays) -> Iterator[Arrays]:
        """What they make of the tensors of the other model: as they stand, and in all other ways."""
        yield self.run(self.model, made)
        for model in self._readings.others():
            yield self.run(model, made)
        if any(node.op_type == "Resize" and _is_told(node) for node in self.model.graph.node):
            yield self.run(self._scaled(), made)

    def _scaled(self) -> onnx.ModelProto:
        """Each Resize with its native scale."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        for node in model.graph.node:
            axes = self.lengths.get(node.output[0], []) if node.op_type == "Resize" else []
            if axes:
                before, after = self.shapes[node.input[0]], self.native[node.output[0]]
                scales = np.array([after[axis] / before[axis] for axis in axes], np.float32)
                model.graph.initializer.append(numpy_helper.from_array(scales, f"scales of: {node.output[0]}"))
                node.input[2] = model.graph.initializer[-1].name
                del node.input[3:]
        return model

    def run(self, model: onnx.ModelProto, made: Arrays) -> Arrays:
        """All that can be computed."""
        feeds = {_GIVEN + name: value for name, value in made.items()}
        feeds |= {_LENGTHS + name: np.array([made[name].shape[a] for a in axes]) for name, axes in self.lengths.items()}
        for name, source in self.padded.items():
            grown, more = (np.subtract(made[item].shape, self.native[item]) for item in (source, name))
            more = more - grown
            feeds[_BEHIND + name] = np.concatenate([np.zeros_like(more), more])
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        for _ in range(_TRIES):
            found, stopped = self._tried(copy, feeds)
            if not stopped:
                return found
            _leave_out(copy.graph, {stopped})
        return {}

    def _tried(self, model: onnx.ModelProto, feeds: Arrays) -> tuple[Arrays, str]:
        """What a run gives, or the node at which it stopped; neither where that is not known."""
        try:
            return (self._runner(model).run(feeds) if model.graph.output else {}), ""
        except RunError as error:
            found = _STOPPED.search(str(error))
            return {}, f"step {found[1] or found[2]}" if found else ""

    def _runner(self, model: onnx.ModelProto) -> Runner:
        """A session, which is kept for further sizes where the original is small."""
        key = model.SerializeToString(deterministic=True) if is_small(self.file) else b""
        if key not in self.runners:
            if not key or len(self.runners) >= _SESSIONS:
                self.runners.clear()
            self.runners[key] = Runner(self.file.with_proto(model), (), self.engine)
        return self.runners[key] if key else self.runners.pop(key)


def _give(node: onnx.NodeProto, given: Collection[str]) -> None:
    """Let a node read what it is given."""
    for place, name in enumerate(node.input):
        node.input[place] = _GIVEN + name if name in given else name


def _padded_on(
    graph: onnx.GraphProto, given: Arrays, moving: Collection[str], other: onnx.GraphProto
) -> dict[str, str]:
    """To the amounts of each Pad of zeros that the other model computes, what is missing behind to that one's length is
    added; what these Pads make, and of what."""
    theirs = {node.output[0]: node for node in other.node if node.op_type == "Pad"}
    follows, found = dependent(other, [value.name for value in other.input]), dict[str, str]()
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        zeros = node.op_type == "Pad" and _pads_zeros(node) and given.keys() >= {node.input[0], node.output[0]}
        if zeros and _follows(node, theirs.get(node.output[0]), moving, follows):
            found[node.output[0]] = node.input[0]
            amounts = [node.input[1], _BEHIND + node.output[0]]
            node.input[1] = f"amounts of: {node.output[0]}"
            graph.node.append(helper.make_node("Add", amounts, [node.input[1]]))
        graph.node.append(node)
    return found


def _pads_zeros(node: onnx.NodeProto) -> bool:
    """Whether it pads all axes by amounts that it reads, with what does not depend on where the map ends."""
    mode = attributes(node).get("mode")
    return (mode is None or mode.s == b"constant") and len(node.input) > 1 and not any(node.input[3:])


def _follows(
    node: onnx.NodeProto, other: onnx.NodeProto | None, moving: Collection[str], follows: Collection[str]
) -> bool:
    """Whether the other model computes of the image what is a constant here: a table, amounts of a Pad, or a kernel
    that natively covers the map. ``moving``: what depends on the image here, ``follows``: there."""
    if other is None or other.op_type != node.op_type:
        return other is not None and other.op_type == f"Global{node.op_type}"
    both = zip(node.input, other.input, strict=False)
    return any(name and name not in moving and now in follows for name, now in both)


def _told_at(node: onnx.NodeProto) -> int:
    """Which input says how large the result of a node is, each axis by itself; 0 if none."""
    at = _LENGTHS_AT.get(node.op_type, 0)
    told = len(node.input) > at and bool(node.input[at]) and "keep_aspect_ratio_policy" not in attributes(node)
    return at if told else 0


def _is_told(node: onnx.NodeProto) -> bool:
    """Whether how large the result is is none of the node's own numbers."""
    at = _told_at(node)
    return bool(at) and node.input[at].startswith((_GIVEN, _LENGTHS))


def _leave_out(graph: onnx.GraphProto, names: Collection[str]) -> None:
    """Take nodes out, and what depends on them."""
    lost = dependent(graph, [name for node in graph.node if node.name in names for name in node.output])
    outputs = [value for value in graph.output if value.name not in lost]
    nodes = [graph.node[at] for at in nodes_before(graph, [value.name for value in outputs])]
    del graph.output[:], graph.node[:]
    graph.output.extend(outputs)
    graph.node.extend(nodes)


def _counts(node: onnx.NodeProto, tensors: Mapping[str, onnx.TensorProto], extents: Collection[int]) -> bool:
    """Whether it multiplies by a number that may count places, or divides by it."""
    found = [tensors[name] for name in node.input if name in tensors] if node.op_type in ("Mul", "Div") else []
    single = [item for item in found if not any(dim > 1 for dim in item.dims) and not item.external_data]
    return any(counted_by(numpy_helper.to_array(item), n) for item in single for n in extents)
