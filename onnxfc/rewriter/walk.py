"""The forward walk: every node in topological order meets the rule of its leading view."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import onnx

from onnxfc.analysis.normalised_sums import as_many_as_now, sums_to_one_behind, told_count
from onnxfc.analysis.own_sizes import one_sized, own_sizes
from onnxfc.analysis.pool_roles import pool_roles
from onnxfc.analysis.rounding import meets_rounded_up
from onnxfc.builder import ops
from onnxfc.builder.graph_builder import GraphBuilder
from onnxfc.builder.half_computed import half_computed, told_of_steps
from onnxfc.builder.rule_context import LEAVE, OWN_BATCH, Outcome, RuleContext, tensor_of
from onnxfc.builder.state import GlobalPool, Quantised, Roles, State
from onnxfc.errors import Refusal
from onnxfc.graph.index import Graph, inputs_of
from onnxfc.graph.op_kinds import (
    ADDITIVE,
    ARITHMETIC,
    BROADCAST,
    LENGTHS,
    MICROSOFT,
    NCHWC,
    PLAIN_LAYERS,
    PRODUCTS,
    REDUCTIONS,
    REORDERING,
    RESHAPING,
)
from onnxfc.head.frames import as_features
from onnxfc.head.placed_windows import window_of
from onnxfc.io.model_file import ModelFile
from onnxfc.layout.affine import Grids
from onnxfc.layout.axes import groups_of
from onnxfc.layout.axis_map import Field
from onnxfc.layout.provenance import Provenance
from onnxfc.layout.views import (
    Context,
    Fixed,
    Lifted,
    Placed,
    Refused,
    ScoreMap,
    View,
    Window,
    is_folded,
    is_map,
    is_strip,
)
from onnxfc.rewriter.as_it_is import as_it_is, of_own_sizes
from onnxfc.rules.expand import spread, spreads
from onnxfc.rules.registry import FEATURES, PLACED, RULES, Lead, leading
from onnxfc.rules.unsupported import WHY, attention, no_rule
from onnxfc.shapes.image_inputs import Image, is_open
from onnxfc.shapes.inference import Inference
from onnxfc.shapes.native import UNKNOWN
from onnxfc.shapes.spec import InferenceFailed, Spec, UnknownShape

_AFFINE = {
    *("BatchNormalization", "Concat", "Conv", "Dropout", "Flatten", "Gather", "Gemm", "Identity", "MatMul"),
    *("Reshape", "Shape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
}

_ANY_INPUT = {
    *(*BROADCAST, "Concat", "Einsum", "Gather", "GatherElements", "Gemm", "MatMul", "ScatterElements", "ScatterND"),
}
"""Operators whose lifted input may be any; all others have their data first."""
_EXPORT = dict.fromkeys((MICROSOFT, NCHWC), "export without a runtime's own optimisation")
_LABELS = "ai.onnx.ml"
"""The domain of what makes labels of scores."""
_TYPE = re.compile(r"unsupported type: tensor\((\w+)\)")
_PLAIN = {"attention", "data-dependent", "flipped", "position-table", "quantised", "recurrent", "same-padding"}
"""Refusals that say plainly why: none further on can say it better."""


def walk(
    model: ModelFile,
    graph: Graph,
    native: Mapping[str, Spec],
    images: Sequence[Image],
    global_pool: GlobalPool,
    grids: Grids | None,
    quantised: Quantised,
) -> State:
    """Every live node once, with what an analysis of the original says of its pools."""
    free = is_open(graph, images)
    sizes = own_sizes(model, graph, images) if free and global_pool == "keep" else {}
    roles = pool_roles(graph, native, images, free, global_pool, one_sized(graph, sizes))
    state = _start(model, graph, native, images, global_pool, roles)
    state.own_sizes = sizes
    state.grids = grids
    state.quantised = quantised
    for node in graph.live:
        _visit(state, node)
    return state


def _start(
    model: ModelFile,
    graph: Graph,
    native: Mapping[str, Spec],
    images: Sequence[Image],
    global_pool: GlobalPool,
    roles: Roles,
) -> State:
    probes = len(images[0].probes())
    builder = GraphBuilder(model, graph, Inference.of(graph.opsets, graph.model.ir_version), probes, images)
    single = all(image.batch == 1 and not image.free_batch for image in images)
    rounds_up = meets_rounded_up(model, images)
    spatial = len(images[0].spatial)
    batches = tuple(shape[0] if images[0].batched else 1 for shape in images[0].probes())
    every = sorted((*images[0].spatial, *images[0].fixed))
    axes = tuple(every.index(axis) for axis in images[0].spatial), len(every)
    state = State(graph, builder, native, global_pool, roles, rounds_up, single, spatial, batches, axes)
    for name in graph.initializers:
        builder.specs[name] = native[name].spread(probes)
        state.views[name] = Fixed(name)
    for info in graph.inputs:
        builder.specs[info.name] = Spec(native[info.name].dtype, (native[info.name].native,) * probes)
        state.views[info.name] = Fixed(info.name)
    for image in images:
        builder.specs[image.name] = Spec(image.dtype, image.probes())
        field = Field().resampled(image.scale, Fraction(0), 1 / image.scale - 1)
        provenance = Provenance((field,) * len(image.spatial))
        groups = groups_of(native[image.name].native, dict(enumerate(image.spatial)), image.batched, image.fixed)
        state.views[image.name] = Placed(image.name, image.name, groups, provenance)
    return state


def _visit(state: State, node: onnx.NodeProto) -> None:
    views = [state.views[name] for name in inputs_of(node)]
    refused = next((view for view in views if isinstance(view, Refused)), None)
    own = bool(state.own_sizes) and state.as_written and not refused
    outcome = as_it_is(state, node) if own else None
    if outcome is None:
        outcome = _inherited(state, node, refused) if refused else _outcome(state, node, views)
    if own and not isinstance(outcome, Refusal):
        outcome = of_own_sizes(state, node, outcome)
    if not isinstance(outcome, Refusal):
        outcome = _batch_kept(state, node, outcome)
    if isinstance(outcome, Refusal):
        outcome = [Refused(outcome)] * len(node.output)
    else:
        outcome = [sums_to_one_behind(state.roles, node, views, view) for view in outcome]
    state.views.update({name: view for name, view in zip(node.output, outcome, strict=True) if name})


def _batch_kept(state: State, node: onnx.NodeProto, outcome: list[View]) -> Outcome:
    """A refusal where something that was computed from the image has another batch than the image."""
    for view in outcome:
        if isinstance(view, Context) and node.op_type in REDUCTIONS and _loses_images(state, view):
            return RuleContext(state, node).refuse("mixes-batch", "does not keep the batch", OWN_BATCH)
        spec = state.builder.specs.get(view.tensor) if is_map(view) or isinstance(view, ScoreMap) else None
        pairs = zip(state.batches, (spec and spec.shapes) or (), strict=False)
        if any(shape[0] * state.batches[0] != batch * spec.native[0] for batch, shape in pairs if spec):
            return RuleContext(state, node).refuse("batch-baked", *_BATCH)
    return outcome


def _loses_images(state: State, view: Context) -> bool:
    """Whether what is said of whole images does not grow with their number, wherever the batch lies."""
    spec = state.builder.specs.get(view.tensor)
    pairs = zip(state.batches, (spec and spec.shapes) or (), strict=False)
    return any(math.prod(shape) * state.batches[0] != batch * math.prod(spec.native) for batch, shape in pairs if spec)


_BATCH = ("holds for the native batch only", OWN_BATCH)


def _inherited(state: State, node: onnx.NodeProto, refused: Refused) -> Outcome:
    """What follows from something refused is refused; attention and readers of sequences say more plainly why."""
    if refused.refusal.code not in _PLAIN:
        if node.op_type in WHY:
            return no_rule(RuleContext(state, node))
        both = [name for name in node.input if isinstance(state.views.get(name), Refused)]
        if node.op_type in PRODUCTS and len(both) == 2 and node.output[0] not in state.roles.placeless:
            return attention(RuleContext(state, node))
    return [refused] * len(node.output)


def _outcome(state: State, node: onnx.NodeProto, views: Sequence[View]) -> Outcome:
    ctx, lead = RuleContext(state, node), leading(views)
    if lead is None:
        return _size_free(ctx, views)
    if lead == FEATURES and any(isinstance(view, Placed) for view in views):
        met = _met(ctx, views)
        if met is not None:
            return met
    if lead == FEATURES:
        ctx.freeze_sizes()
    return _unknown(ctx, views, lead) or _by_rule(ctx, views, lead)


def _met(ctx: RuleContext, views: Sequence[View]) -> Outcome | None:
    """Features of windows beside strips, which have none, or beside a folded tensor, which is a window then."""
    if any(is_strip(view) for view in views):
        return ctx.refuse("context-beside-windows", "combines a result of the whole image with one of each window")
    if any(is_folded(view) for view in views):
        return ctx.rejoins() if _rejoins(ctx, views) else _windowed(ctx, views)
    return None


def _unknown(ctx: RuleContext, views: Sequence[View], lead: Lead) -> Outcome | None:
    """What no rule need be asked of."""
    node, state = ctx.node, ctx.state
    if leading(ctx.views) is None:
        if ctx.op_type == "If" and isinstance(ctx.views[0], Fixed):
            condition = state.builder.spec(ctx.views[0].tensor).alike
            state.conditions |= {} if condition is None else {node.input[0]: bool(condition.any())}
        return ctx.refuse("subgraph", "has a body that reads what was computed from the image")
    if _domain(node) and (_domain(node), node.op_type, lead) not in RULES:
        return _of_another_domain(ctx)
    used = [
        name for name in node.output if state.graph.uses[name]
    ]  # nobody needs the shape of a mask that nobody reads
    unknown = next((name for name in [*node.input, *used] if name and state.native[name].shapes is None), None)
    if unknown is not None and ctx.op_type not in WHY:
        return ctx.refuse("unknown-shape", f"is not understood: the shape of {unknown} cannot be inferred")
    if (_domain(node), node.op_type, lead) not in RULES:
        of_windows = lead == PLACED and any(is_folded(view) for view in views)
        return (
            _windowed(ctx, views) if of_windows and (_domain(node), node.op_type, FEATURES) in RULES else no_rule(ctx)
        )
    return None


def _of_another_domain(ctx: RuleContext) -> Refusal:
    node, why = ctx.node, f"of domain {ctx.node.domain} is not supported here"
    advice = _EXPORT.get(node.domain, LEAVE)
    if node.domain == _LABELS:
        advice = f"end the model before it: {ctx.state.ending(node.input)}"
    if node.domain == MICROSOFT and node.op_type.endswith("Attention"):
        why, advice = "is attention as onnxruntime fuses it", "fuse and quantise it after the rewrite"
    return ctx.refuse("unsupported-operator", why, advice)


def _domain(node: onnx.NodeProto) -> str:
    return "" if node.domain == "ai.onnx" else str(node.domain)


def _by_rule(ctx: RuleContext, views: Sequence[View], lead: Lead) -> Outcome:
    """What the rule says; where it holds for windows only, what it says of these."""
    rule, state = RULES[_domain(ctx.node), ctx.op_type, lead], ctx.state
    strange = set(ctx.attrs) - rule.attributes
    if strange:
        names = ", ".join(sorted(strange))
        return ctx.refuse("unknown-attribute", f"has attributes that are not understood: {names}")
    if any(view.provenance.dropped for view in views if isinstance(view, Lifted)) and not _affine(ctx):
        why = "does not commute with a dropped pool"
        state.not_affine.append(ctx.refuse("drop-not-affine", why, "use --global-pool window"))
    if ctx.op_type not in _ANY_INPUT and not isinstance(ctx.views[0], Lifted):
        return ctx.refuse("dynamic-parameter", "takes a parameter that depends on the image")
    built = len(state.builder.nodes)
    try:
        outcome = rule.function(ctx)
        if lead == FEATURES and isinstance(outcome, Refusal) and outcome.code == "mixes-batch":
            del state.builder.nodes[built:]
            again = _of_frames(ctx)
            return again if isinstance(again, list) else outcome
        state.notes += ctx.notes
        if outcome is not None:
            return told_of_steps(ctx, outcome) if isinstance(outcome, Refusal) else outcome
        del state.builder.nodes[built:]
        return _windowed(ctx, views) if lead == PLACED else no_rule(ctx)
    except InferenceFailed as error:
        return _cannot_run(ctx, error)


def _cannot_run(ctx: RuleContext, error: InferenceFailed) -> Refusal:
    if "No schema registered" in str(error):
        newer = f"needs operators that are newer than operator set {ctx.opset}"
        return ctx.refuse("old-opset", newer, "convert it with onnx.version_converter")
    if "int32" in str(error) and ctx.op_type in PLAIN_LAYERS:
        return ctx.refuse("quantised", "multiplies int32 numbers, as no Conv does", "write it as MatMulInteger of int8")
    if unknown := _TYPE.search(str(error)):
        newer = f"needs an operator on {unknown[1]} numbers that operator set {ctx.opset} does not have"
        return ctx.refuse("old-opset", newer, "convert it with onnx.version_converter, or to float32")
    if isinstance(error, UnknownShape):
        return ctx.refuse("unknown-shape", f"is not understood: {error}")
    where = "image size, or with another batch" if ctx.free_batch else "image size"
    return half_computed(ctx) or ctx.refuse("size-locked", f"cannot run at another {where}: {error}")


def _rejoins(ctx: RuleContext, views: Sequence[View]) -> bool:
    """Whether a folded map meets what was pooled of the trunk, and not of a window that it is itself."""
    pooled = [view for view in views if isinstance(view, Window | ScoreMap)]
    return ctx.op_type in BROADCAST and not ctx.own and all(view.provenance.pools for view in pooled)


def _windowed(ctx: RuleContext, views: Sequence[View]) -> Outcome:
    """The node once more, on windows of the folded maps that it reads."""
    made = dict(zip(inputs_of(ctx.node), views, strict=True))
    for name, view in made.items():
        if isinstance(view, Placed):
            window = window_of(ctx, view)
            made[name] = Refused(window) if isinstance(window, Refusal) else window
    return _once_more(ctx, made)


def _of_frames(ctx: RuleContext) -> Outcome | None:
    """The node once more, where rows of the batch are frames of the only image: features of it. None where none are."""
    if not ctx.may_swallow or ctx.op_type in RESHAPING - {"Unsqueeze"}:
        return None
    own = {name: ctx.state.views[name] for name in inputs_of(ctx.node)}
    made = {name: as_features(ctx, view, ctx.native(name).native) for name, view in own.items()}
    return None if made == own else _once_more(ctx, made)


def _once_more(ctx: RuleContext, made: Mapping[str, View]) -> Outcome:
    """The node with other views of what it reads."""
    state, own = ctx.state, {name: ctx.state.views[name] for name in made}
    state.views.update(made)
    try:
        refused = next((view for view in made.values() if isinstance(view, Refused)), None)
        return refused.refusal if refused else _outcome(state, ctx.node, list(made.values()))
    finally:
        state.views.update(own)


def _affine(ctx: RuleContext) -> bool:
    """Whether the mean over the cells of a window may be taken after this node as well as before."""
    if ctx.op_type in ARITHMETIC:
        moving = [position for position, view in enumerate(ctx.views) if not isinstance(view, Fixed)]
        return ctx.op_type in ADDITIVE or moving == [0] or (moving == [1] and ctx.op_type == "Mul")
    if ctx.op_type == "Einsum":
        return sum(not isinstance(view, Fixed) for view in ctx.views) == 1
    return ctx.op_type in _AFFINE


def _size_free(ctx: RuleContext, views: Sequence[View]) -> Outcome:
    """Nothing here depends on the image's size: the node stays, whatever it is."""
    context = [view.provenance for view in views if isinstance(view, Context)]
    if context and spreads(ctx):
        try:
            return spread(ctx)
        except InferenceFailed as error:
            return _cannot_run(ctx, error)
    try:
        if context and (variance := ctx.state.roles.variances.get(ctx.name)):
            as_many_as_now(ctx, variance)
        else:
            ctx.keep([tensor_of(ctx.state.views[name]) if name else "" for name in ctx.node.input])
            told_count(ctx)
        ctx.state.notes += ctx.notes
    except InferenceFailed:
        _keep_native(ctx, bool(context))
    for name in ctx.node.output:
        found = ctx.builder.specs.get(name, UNKNOWN)
        if name and found.shapes is None and ctx.native(name).shapes is not None:
            found = Spec(ctx.native(name).dtype, (ctx.native(name).native,) * ctx.builder.probes)
        ctx.builder.specs[name] = found
    provenance = Provenance.join([replace(item, fields=context[0].fields) for item in context]) if context else None
    if provenance:
        return _of_free_batch(ctx) or [Context(name, provenance) for name in ctx.node.output]
    return ctx.fixed()


def _keep_native(ctx: RuleContext, context: bool) -> None:
    """A node that cannot be told at other sizes: figures of the whole image keep their native shape."""
    if context and ctx.op_type in REORDERING:
        ctx.freeze_sizes()
    try:
        ctx.keep()
    except InferenceFailed:
        ctx.builder.append_unknown(ctx.node)


_BATCH_STAYS = {*LENGTHS, "Transpose", "Unsqueeze"}
"""What puts another axis first, or has none of the batch; whatever the batch is on goes on following it."""


def _of_free_batch(ctx: RuleContext) -> Refusal | None:
    """A batch that was baked into a Reshape of context, with groups of each image perhaps, gives way; elsewhere it is
    refused."""
    spec = ctx.builder.specs[ctx.node.output[0]]
    batches = list(ctx.state.batches)
    native = ctx.native(ctx.node.output[0])
    if len(set(batches)) == 1 or ctx.op_type in _BATCH_STAYS:
        return None
    if spec.shapes is None or native.shapes is None or not native.native:
        return None
    wanted = [native.native[0] * batch // batches[0] for batch in batches]
    if [shape[0] for shape in spec.shapes] == wanted:
        return None
    given = ctx.builder.spec(ctx.tensors()[0]).shapes or ()
    if ctx.op_type != "Reshape" or [shape[:1] for shape in given] != [(length,) for length in wanted]:
        return ctx.refuse("batch-baked", *_BATCH) if native.native[0] == batches[0] else None
    ctx.builder.nodes.pop()
    try:
        ops.reshape(ctx.builder, ctx.tensors()[0], [0, *native.native[1:]], ctx.node.output[0], ctx.node)
    except InferenceFailed:  # its input has no batch
        return ctx.refuse("batch-baked", *_BATCH)
    return None
