"""The original's head, cut out of the original: from the boundary tensors to its outputs.

Nothing is taken from the rewritten model. What does not come from the boundaries (constants, side
inputs) is computed by the original's own nodes; shapes of tensors before the boundary, from which
exporters read the batch, keep the value they have at the native size. If an output needs the image's
values besides through the boundaries, the cells cannot be windows and there is no head to cut.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxfc.claim.claim import Boundary
from onnxfc.io.model_file import ModelFile
from onnxfc.proof.baked import Shapes, attributes, is_on, stored
from onnxfc.proof.edges import Edges
from onnxfc.proof.every_size import Begin, Follow, for_every_size, readings
from onnxfc.proof.folded import together
from onnxfc.proof.providers import Engine
from onnxfc.proof.sessions import Array, Arrays, RunError, Runner
from onnxfc.proof.wiring import dependent, reads


@dataclass(frozen=True)
class HeadPlan:
    """Nodes of the head by position, and what they read; ``sides``: beside windows, of the whole image. ``leak`` names
    the way around the boundaries."""

    outputs: tuple[str, ...]
    nodes: tuple[int, ...]
    boundaries: tuple[str, ...]
    sides: tuple[str, ...]
    shapes: tuple[str, ...]
    leak: str = ""


def plan_head(
    graph: onnx.GraphProto,
    outputs: Iterable[str],
    boundaries: Iterable[str],
    images: Iterable[str],
    figures: Iterable[str] = (),
) -> HeadPlan:
    """Walk from ``outputs`` back to ``boundaries`` and ``figures``; runs nothing."""
    outputs, bounds, images, figures = tuple(outputs), set(boundaries), set(images), set(figures)
    maker = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    inputs = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    around = dependent(graph, images - bounds, bounds)
    nodes: set[int] = set()
    seen: dict[str, None] = {}
    shapes: list[str] = []
    leak = ""
    stack = list(outputs)
    while stack:
        name = stack.pop()
        if name in seen:
            continue
        seen[name] = None
        if name in bounds or name in figures:
            continue
        node = graph.node[maker[name]] if name in maker else None
        if node is None:
            leak = leak or (name if name in images else "")
        elif node.op_type in ("Shape", "Size") and node.input[0] in around:
            shapes.append(name)
        else:
            nodes.add(maker[name])
            stack.extend(reads(node))
            stack.extend(figures.intersection(node.output))
    return HeadPlan(
        outputs,
        tuple(sorted(nodes)),
        tuple(name for name in seen if name in bounds),
        tuple(name for name in seen if name in (inputs - images - bounds) | figures),
        tuple(shapes),
        leak,
    )


class Head:
    """The original's head as a session of its own.

    ``native`` holds the values of the boundaries, shapes and side inputs at native size; it gives the
    types, and the values of all that is not cropped. ``bounds``: how the model holds what is given as maps.
    ``leaps``: it rounds to integers, whose steps are known when it runs only. ``stackable``: windows may run in one
    batch, as far as is known.
    ``shapes``: those of all tensors at the native size, for a head that is asked of features of other sizes.
    ``images``: how many there are natively, of each of which a boundary may have several rows (frames); 0: one.
    """

    def __init__(
        self,
        original: ModelFile,
        plan: HeadPlan,
        native: Mapping[str, Array],
        engine: Engine,
        bounds: Sequence[Boundary] = (),
        shapes: Shapes | None = None,
        images: int = 0,
    ) -> None:
        self.plan = plan
        self._bounds = {item.original: item for item in bounds}
        native = {**native, **{name: self._laid(native, name) for name in plan.boundaries}}
        self._fixed = {name: native[name] for name in (*plan.shapes, *plan.sides)}
        kinds = {original.proto.graph.node[at].op_type for at in plan.nodes}
        self.leaps = "DynamicQuantizeLinear" in kinds  # of which all images have one scale
        self.stackable = not self._fixed and not self.leaps and kinds.isdisjoint({"If", "Loop", "Scan"})
        self.stackable &= not over_images(original.proto.graph, plan.nodes)
        self._asked = False
        self._shaped = {node.output[0]: node for node in original.proto.graph.node if node.output[0] in plan.shapes}
        self._batch = len(native[plan.boundaries[0]]) if plan.boundaries else 1
        self._images = images or self._batch
        self._shapes = {tuple(native[name].shape): name for name in reversed(plan.boundaries)}
        cut = _cut(original.proto, plan, native)
        self._counted = {} if shapes is None else for_every_size(cut, shapes, self._begins(native))
        self._runner = Runner(original.with_proto(cut), (), engine)
        self._edges = Edges(original.with_proto(cut), (), engine)

    def _laid(self, features: Mapping[str, Array], name: str) -> Array:
        """What the model reads, which may hold places in other axes than features are given in."""
        return together(self._bounds[name], features[name]) if name in self._bounds else features[name]

    def _begins(self, native: Mapping[str, Array]) -> dict[str, Begin]:
        """The maps at which it begins, and how many features each place of an image has natively."""
        extents = {name: self._bounds[name].extent for name in self.plan.boundaries}
        return {
            name: Begin(extent, native[name].size // max(math.prod(extent) * self._images, 1))
            for name, extent in extents.items()
        }

    def _extent(self, features: Mapping[str, Array], name: str) -> Sequence[int]:
        """How long this boundary's axes are in these features, or natively."""
        item, value = self._bounds[name], features.get(name)
        return item.extent if value is None else [value.shape[axis] for axis in item.spatial]

    def _of_batch(self, shape: Array, batch: int, now: Mapping[str, Array]) -> Array:
        """What Shape or Size said of a tensor around the boundaries, for these features and the batch of the windows.

        A tensor as large as a boundary natively is so now.
        """
        if shape.ndim == 0:
            return np.asarray(shape * batch // self._batch, shape.dtype)
        if tuple(shape) in self._shapes:
            return np.asarray(now[self._shapes[tuple(shape)]].shape, shape.dtype)
        follows = (np.arange(len(shape)) == 0) & np.isin(shape, (self._batch, self._images))
        return np.where(follows, shape * batch // self._batch, shape).astype(shape.dtype)

    def run_whole(self, features: Mapping[str, Array], follow: Follow = frozenset()) -> Arrays:
        """The head on whole features of any size it accepts; with numbers that ``follow`` the places."""
        return self._runner.run(self._given(features, follow))

    def others(self, name: str, features: Mapping[str, Array]) -> Iterable[Array]:
        """What it makes of features as well, where values lie on the edge between two integers."""
        return self._edges.of(name, self._given(features, frozenset()))

    def _given(self, features: Mapping[str, Array], follow: Follow) -> Arrays:
        batch = len(features[self.plan.boundaries[0]]) if self.plan.boundaries else self._batch
        now = {name: self._laid(features, name) for name in self.plan.boundaries}
        around = [name for name in self.plan.shapes if name not in features]
        shapes = {name: self._of_batch(self._fixed[name], batch, now) for name in around}
        given = {name: features[name] for name in (*self.plan.sides, *self.plan.shapes) if name in features}
        counted = {name: item.at(self._extent(features, item.begin), follow) for name, item in self._counted.items()}
        return {**self._fixed, **shapes, **given, **now, **counted}

    def readings(self, features: Mapping[str, Array]) -> list[Arrays]:
        """What the head may mean by features of another size, and images of it among them: as it stands, and with
        counts that follow the places; nothing where it is made for the native size."""
        made, shaped = [], self._shaped.items()
        features = {**features, **{name: _shape(node, features) for name, node in shaped if node.input[0] in features}}
        for follow in (frozenset[int](), *readings(self._counted.values())):
            with suppress(RunError):
                made.append(self.run_whole(features, follow))
        return made

    def reads_sizes(self, given: Mapping[str, Array], elsewhere: Iterable[Mapping[str, Array]]) -> bool:
        """Whether it reads shapes of what lies ahead of the boundaries, and is not ``given``, that are others where the
        original runs itself on images of other sizes: what these are at yet another is not known."""
        runs = list(elsewhere)
        for name in self.plan.shapes:
            native = self._fixed[name]
            known = self._shaped[name].input[0] in given or tuple(native.reshape(-1)) in self._shapes
            stays = np.isin(native, (self._batch, self._images)) & (np.arange(native.size).reshape(native.shape) == 0)
            found = [run[name] for run in runs if name in run]
            if not known and any(bool(np.any((value != native) & ~stays)) for value in found):
                return True
        return False

    @property
    def counts(self) -> bool:
        """Whether it reckons with numbers that may count all the native places."""
        return any(not item.axes for item in self._counted.values())

    def run_windows(self, windows: list[Arrays]) -> list[Arrays]:
        """The head on every window, several in one batch where the head treats images independently."""
        found: list[Arrays] = []
        for start in range(0, len(windows), 8):
            some = windows[start : start + 8]
            together = self._together(some) if self.stackable and len(some) > 1 else None
            found += [self.run_whole(window) for window in some] if together is None else together
        return found

    def _together(self, windows: list[Arrays]) -> list[Arrays] | None:
        """All windows in one batch, or None (and never again) where the head has a fixed batch."""
        stacked = {name: np.concatenate([w[name] for w in windows]) for name in self.plan.boundaries}
        batch = len(windows[0][self.plan.boundaries[0]])
        try:
            outputs = self.run_whole(stacked)
        except RunError:
            outputs = {}
        apart = all(v.ndim and len(v) == len(windows) * batch for v in outputs.values())
        if not outputs or not apart or self._mixes(windows, outputs):
            self.stackable = False
            return None
        return [
            {name: value[i * batch : (i + 1) * batch] for name, value in outputs.items()} for i in range(len(windows))
        ]

    def _mixes(self, windows: list[Arrays], outputs: Arrays) -> bool:
        """Whether windows say something else beside others: over a fixed number of images may be reduced. The first
        and the last of the first few are asked."""
        asked, self._asked = self._asked, True
        for place in () if asked else (0, len(windows) - 1):
            for name, value in self.run_whole(windows[place]).items():
                among = outputs[name][place * len(value) : (place + 1) * len(value)]
                largest = float(np.abs(value[np.isfinite(value)]).max(initial=0))
                if among.shape != value.shape or not np.allclose(among, value, rtol=1e-2, atol=1e-3 * largest):
                    return True
        return False


def _shape(node: onnx.NodeProto, given: Mapping[str, Array]) -> Array:
    """What Shape or Size says of a tensor, an image of another size say."""
    value, told = given[node.input[0]], attributes(node)
    if node.op_type == "Size":
        return np.asarray(value.size, np.int64)
    start, end = (told[name].i if name in told else None for name in ("start", "end"))
    return np.asarray(value.shape[start:end], np.int64)


def over_images(graph: onnx.GraphProto, nodes: Iterable[int]) -> bool:
    """Whether one of these nodes reduces over the first axis. That windows pick a branch together, by a threshold of
    their mean, would not be seen by running some of them alone, where these happen to pick the same one."""
    known = stored(graph)
    for node in (graph.node[at] for at in nodes):
        if not node.op_type.startswith("Reduce") or node.domain:
            continue
        found = attributes(node)
        given = node.input[1] if len(node.input) > 1 else ""
        if given and given not in known:
            continue
        axes = numpy_helper.to_array(known[given]).ravel().tolist() if given else []
        axes = [*axes, *(found["axes"].ints if "axes" in found else [])]
        if 0 in axes or not (axes or is_on(found, "noop_with_empty_axes")):
            return True
    return False


def part_of(model: onnx.ModelProto, name: str, nodes: Iterable[int], outputs: Iterable[str]) -> onnx.ModelProto:
    """Some nodes as a model that has no inputs and outputs yet; weights are the original's own tensors (or references
    to them), also those that are ``outputs``."""
    source = model.graph
    part = onnx.ModelProto(ir_version=model.ir_version, producer_name=model.producer_name)
    part.opset_import.extend(model.opset_import)
    part.functions.extend(model.functions)
    graph = part.graph
    graph.name = name
    graph.node.extend(source.node[i] for i in nodes)
    needed = set().union(*(reads(node) for node in graph.node)) | set(outputs)
    graph.initializer.extend(t for t in source.initializer if t.name in needed)
    graph.sparse_initializer.extend(t for t in source.sparse_initializer if t.values.name in needed)
    return part


def begin_at(graph: onnx.GraphProto, names: Iterable[str], values: Mapping[str, Array]) -> None:
    """Make tensors the inputs of a part, of the type and number of axes that their values have."""
    for name in names:
        kind, dims = helper.np_dtype_to_tensor_dtype(values[name].dtype), [None] * values[name].ndim
        graph.input.append(helper.make_tensor_value_info(name, kind, dims))


def _cut(model: onnx.ModelProto, plan: HeadPlan, native: Mapping[str, Array]) -> onnx.ModelProto:
    """The head as a model."""
    source, head = model.graph, part_of(model, "head", plan.nodes, plan.outputs)
    graph = head.graph
    for node in graph.node:
        if node.op_type == "DynamicQuantizeLinear" and set(node.output[1:3]) <= set(plan.sides):
            node.input.extend(node.output[1:3])  # the scale and zero point of the whole image
            del node.output[1:]
            node.op_type = "QuantizeLinear"
    begin_at(graph, (*plan.boundaries, *plan.shapes, *plan.sides), native)
    outputs = {value.name: value for value in source.output}
    for name in plan.outputs:
        value = onnx.ValueInfoProto()
        value.CopyFrom(outputs[name])
        if not value.type.tensor_type.elem_type:
            value.ClearField("type")  # the file does not say; onnxruntime infers it
            graph.output.append(value)
            continue
        # The declared shape is that of the whole model and its batch; the head runs several windows.
        value.type.tensor_type.ClearField("shape")
        graph.output.append(value)
    return head
