"""The forward walk: every node in topological order meets the rule of its leading view."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import onnx

from onnxfc import emit
from onnxfc.draft import Draft
from onnxfc.errors import Refusal
from onnxfc.graph import Graph, inputs_of, label
from onnxfc.images import Image, is_open
from onnxfc.model_file import ModelFile
from onnxfc.receptive_field import Field
from onnxfc.regroup import lengths, unfolded
from onnxfc.rules import RULES, leading
from onnxfc.rules.elementwise import BROADCAST
from onnxfc.rules.relations import WHY, attention
from onnxfc.rules.spreading import spread, spreads
from onnxfc.rules.sums import shares_behind
from onnxfc.site import LEAVE, Outcome, Site, tensor_of
from onnxfc.specs import Inference, InferenceFailed, Spec, of_tensor
from onnxfc.state import GlobalPool, Role, State
from onnxfc.views import Context, Fixed, Folded, Lifted, Map, Refused, ScoreMap, Strip, Trace, View, Window

_UNKNOWN = Spec(0, None)

_AFFINE = {
    *("BatchNormalization", "Concat", "Conv", "Dropout", "Flatten", "Gather", "Gemm", "Identity", "MatMul"),
    *("Reshape", "Shape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
}

_ANY_INPUT = {
    *("Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Concat", "Div", "Einsum", "Equal", "Gather"),
    *("GatherElements", "Gemm", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "MatMul", "Max", "Mean", "Min"),
    *("Mod", "Mul", "Or", "PRelu", "Pow", "ScatterElements", "Sub", "Sum", "Where", "Xor"),
}
"""Operators whose lifted input may be any; all others have their data first."""
_EXPORT = "export without a runtime's own optimisation"
_PLAIN = {"attention", "data-dependent", "flipped", "position-table", "quantised", "recurrent"}
"""Refusals that say plainly why: none further on can say it better."""


def native_specs(model: ModelFile, graph: Graph, inputs: Mapping[str, Spec]) -> dict[str, Spec]:
    """Type, shape and small values of every tensor of the original at its native size."""
    inference = Inference.of(graph.opsets, graph.model.ir_version)
    specs = dict(inputs)
    specs.update({name: of_tensor(tensor, model.array, 1) for name, tensor in graph.initializers.items()})
    declared = {info.name: info for info in graph.proto.value_info}
    if graph.model.functions:  # of what a function makes only inference over the whole model can tell
        whole = onnx.shape_inference.infer_shapes(graph.model)
        declared = {info.name: info for info in whole.graph.value_info} | declared
    for position, node in enumerate(graph.nodes):
        if position not in graph.live:
            continue
        try:
            found = inference.infer(node, [specs.get(name) if name else None for name in node.input], 1)
        except InferenceFailed:
            found = [_UNKNOWN] * len(node.output)
        for name, spec in zip(node.output, found, strict=True):
            specs[name] = spec if spec is not None and spec.shapes is not None else _declared(declared.get(name))
    return specs


def _declared(info: onnx.ValueInfoProto | None) -> Spec:
    """What the file itself says of a tensor, where inference cannot tell."""
    if info is None or not info.type.tensor_type.HasField("shape"):
        return _UNKNOWN
    dims = info.type.tensor_type.shape.dim
    if any(dim.dim_value <= 0 for dim in dims):
        return Spec(info.type.tensor_type.elem_type, None)
    return Spec(info.type.tensor_type.elem_type, (tuple(dim.dim_value for dim in dims),))


def walk(
    model: ModelFile,
    graph: Graph,
    native: Mapping[str, Spec],
    images: Sequence[Image],
    global_pool: GlobalPool,
    dense: bool = False,
    presumed: Mapping[str, Role] | None = None,
) -> State:
    """Walk until no further pool turns out to be something else than the head's beginning.

    Where something behind a pool is refused, perhaps no head begins there: the pools of its kind are taken for context,
    and those stay it that then meet their trunk again. ``dense``: an earlier walk found that no head follows.
    ``presumed``: what is known of some pools beforehand.
    """

    inference = Inference.of(graph.opsets, graph.model.ir_version)

    def once(roles: Mapping[str, Role], guessed: Mapping[str, Role] | None = None) -> State:
        state = _start(model, graph, native, images, global_pool, {**(guessed or {}), **roles}, inference)
        state.open = is_open(graph, images)
        state.dense, state.guessed = dense, frozenset(guessed or ()) - roles.keys()
        for position, node in enumerate(graph.nodes):
            if position in graph.live:
                _visit(state, node)
        for name in graph.outputs:
            _belongs_to_head(state, [state.views[name]])
        return state

    roles: dict[str, Role] = dict(presumed or {})
    while True:
        state = once(roles)
        heads = {name: role for name, role in state.found.items() if role == "head" and roles.get(name) != "head"}
        if heads or state.found.keys() - roles.keys() - state.settled:
            roles = {**state.found, **roles, **heads}
            continue
        if state.covering:
            roles = {**_covering(once, roles, state.covering, _of_kind(graph, state.covering, set())), **roles}
            continue
        blocked = state.blocked - roles.keys() - state.settled
        if not blocked:
            return state
        guess = once(roles, _of_kind(graph, blocked, state.pieces))
        others = guess.blocked - roles.keys() - blocked - state.pieces
        if others and not blocked <= guess.found.keys():  # it meets what pools of another kind left
            guess = once(roles, _of_kind(graph, blocked | others, state.pieces))
        if not blocked <= guess.found.keys() or (blocked <= state.pieces and guess.reached <= state.reached):
            return state
        roles = {**guess.found, **roles}


def _belongs_to_head(state: State, views: Sequence[View]) -> None:
    """What was taken for context, but has come to an end without meeting its trunk again, begins the head."""
    for view in views:
        if isinstance(view, Context) and view.trace.pools & state.undecided and state.global_pool != "keep":
            state.found.update(dict.fromkeys(view.trace.pools, "head"))


def _of_kind(graph: Graph, names: set[str], pieces: set[str]) -> dict[str, Role]:
    """All pools of the operators of those named, as context; pieces of the map as the trunk's, each for itself."""
    kinds = {node.op_type for node in graph.nodes if label(node) in names - pieces}
    roles: dict[str, Role] = {label(node): "context" for node in graph.nodes if node.op_type in kinds}
    return roles | dict.fromkeys(names & pieces, "local")


def _covering(
    once: Callable[..., State], roles: Mapping[str, Role], pools: set[str], kin: Mapping[str, Role]
) -> dict[str, Role]:
    """What pools over one whole axis are: context where they then meet their trunk again, together or each alone.

    Else the head's beginning, where nothing is refused that descends from them; else pools of the trunk like any other.
    ``kin``: all pools of their kind, of which those further on are tried with them.
    """
    found: dict[str, Role] = dict.fromkeys(sorted(pools), "local")
    found |= {name: role for name, role in once(roles, kin).found.items() if role == "context"}
    alone = [[name] for name in sorted(pools)]
    left: dict[str, Role]
    for tried in alone:
        left = {name: "context" for name in tried if found[name] == "local"}
        met = once({**roles, **found, **left}).found if left else {}
        found.update((name, role) for name, role in left.items() if name in met)
    for tried in [sorted(pools), *alone]:
        left = {name: "head" for name in tried if found[name] == "local"}
        blocked = once({**roles, **found, **left}).blocked if left else set()
        found.update({} if blocked & left.keys() else left)
    return found


def _start(
    model: ModelFile,
    graph: Graph,
    native: Mapping[str, Spec],
    images: Sequence[Image],
    global_pool: GlobalPool,
    roles: Mapping[str, Role],
    inference: Inference,
) -> State:
    probes = len(images[0].probes())
    draft = Draft(model, graph, inference, probes, images)
    single = all(image.shape[0] == 1 and not image.free_batch for image in images)
    state = State(graph, draft, native, global_pool, roles, single, len(images[0].spatial), images[0].probes())
    for name in graph.initializers:
        draft.specs[name] = native[name].spread(probes)
        state.views[name] = Fixed(name)
    for info in graph.inputs:
        draft.specs[info.name] = Spec(native[info.name].dtype, (native[info.name].native,) * probes)
        state.views[info.name] = Fixed(info.name)
    for image in images:
        draft.specs[image.name] = Spec(image.dtype, image.probes())
        trace = Trace((Field(),) * len(image.spatial))
        state.views[image.name] = Map(image.name, image.name, image.spatial, trace)
    return state


def _visit(state: State, node: onnx.NodeProto) -> None:
    views = [state.views[name] for name in inputs_of(node)]
    refused = next((view for view in views if isinstance(view, Refused)), None)
    outcome = _inherited(state, node, refused) if refused else _outcome(state, node, views)
    if not isinstance(outcome, Refusal):
        outcome = _batch_kept(state, node, outcome)
    if isinstance(outcome, Refusal):
        state.refused = True
        _belongs_to_head(state, views)
        pools = set[str]().union(*(view.trace.pools for view in views if isinstance(view, Lifted)))
        state.blocked |= pools if outcome.code == "cut-out" else pools - state.pieces
        outcome = [Refused(outcome)] * len(node.output)
    else:
        outcome = [shares_behind(node, views, view) for view in outcome]
    state.reached += not state.refused
    state.views.update({name: view for name, view in zip(node.output, outcome, strict=True) if name})


def _batch_kept(state: State, node: onnx.NodeProto, outcome: list[View]) -> Outcome:
    """A refusal where something that was computed from the image has another batch than the image."""
    batches = [shape[0] for shape in state.image_shapes]
    for view in outcome:
        spec = state.draft.specs.get(view.tensor) if isinstance(view, Map | ScoreMap) else None
        if spec is not None and spec.shapes is not None and [shape[0] for shape in spec.shapes] != batches:
            return Site(state, node).refuse("batch-baked", *_BATCH)
    return outcome


_BATCH = ("holds for the native batch only", "leave out --dynamic-batch")


def _inherited(state: State, node: onnx.NodeProto, refused: Refused) -> Outcome:
    """What follows from something refused is refused; attention and readers of sequences say more plainly why."""
    if refused.refusal.code not in _PLAIN:
        if node.op_type in WHY:
            return _no_rule(Site(state, node))
        both = [name for name in node.input if isinstance(state.views.get(name), Refused)]
        if node.op_type in {"Einsum", "MatMul"} and len(both) == 2:
            return attention(Site(state, node))
    return [refused] * len(node.output)


def _outcome(state: State, node: onnx.NodeProto, views: Sequence[View]) -> Outcome:
    lead = leading(views)
    site = Site(state, node)
    if lead in (Window, ScoreMap, Folded) and any(isinstance(view, Strip) for view in views):
        return site.refuse("context-beside-windows", "combines a result of the whole image with one of each window")
    if lead in (Window, ScoreMap) and any(isinstance(view, Folded) for view in views):
        return _rejoined(site, views) or _windowed(state, node, views)
    if lead in (Window, ScoreMap):
        site.freeze_sizes()
    if lead is None:
        return _size_free(site, views)
    if leading(site.views) is None:
        if site.op_type == "If" and isinstance(site.views[0], Fixed):
            condition = state.draft.spec(site.views[0].tensor).alike
            state.conditions |= {} if condition is None else {node.input[0]: bool(condition.any())}
        return site.refuse("subgraph", "has a body that reads what was computed from the image")
    if node.domain not in {"", "ai.onnx"} and (node.domain, node.op_type, lead) not in RULES:
        return site.refuse("unsupported-operator", f"of domain {node.domain} is not supported here", _EXPORT)
    unknown = next((name for name in [*node.input, *_used(state, node)] if name and not _known(state, name)), None)
    if unknown is not None and site.op_type not in WHY:
        return site.refuse("unknown-shape", f"is not understood: the shape of {unknown} cannot be inferred")
    rule = RULES.get((node.domain if node.domain != "ai.onnx" else "", node.op_type, lead))
    if rule is None:
        return _windowed(state, node, views) if lead is Folded else _no_rule(site)
    strange = set(site.attrs) - rule.attributes
    if strange:
        names = ", ".join(sorted(strange))
        return site.refuse("unknown-attribute", f"has attributes that are not understood: {names}")
    if _dropped(views) and not _affine(site):
        state.not_affine.append(
            site.refuse("drop-not-affine", "does not commute with a dropped pool", "use --global-pool window")
        )
    if node.op_type not in _ANY_INPUT and not isinstance(site.views[0], Lifted):
        return site.refuse("dynamic-parameter", "takes a parameter that depends on the image")
    drafted = len(state.draft.nodes)
    try:
        outcome = rule.function(site)
        if outcome is None:
            del state.draft.nodes[drafted:]
            return _windowed(state, node, views)
        return outcome
    except InferenceFailed as error:
        if "No schema registered" in str(error):
            newer = f"needs operators that are newer than operator set {site.opset}"
            return site.refuse("old-opset", newer, "convert it with onnx.version_converter")
        return site.refuse("size-locked", f"cannot run at another image size: {error}")


def _rejoined(site: Site, views: Sequence[View]) -> Outcome | None:
    """A folded map meets what was pooled of it: the pool is context, as the next walk will know."""
    first = next(view for view in views if isinstance(view, Folded))
    pooled = [view for view in views if isinstance(view, Window | ScoreMap)]
    same = site.native(site.node.output[0]).shapes == (lengths(first.groups),)
    heads = {name for name, role in site.state.roles.items() if role == "head"}
    if site.op_type not in BROADCAST or not same or not all(view.trace.pools - heads for view in pooled):
        return None
    return site.rejoins(pooled, first.tensor) or [first]


def _windowed(state: State, node: onnx.NodeProto, views: Sequence[View]) -> Outcome:
    """The node once more, on windows of the folded maps that it reads."""
    made = dict(zip(inputs_of(node), views, strict=True))
    for name, view in made.items():
        if isinstance(view, Folded):
            window = unfolded(Site(state, node), view)
            made[name] = Refused(window) if isinstance(window, Refusal) else window
    own = {name: state.views[name] for name in made}
    state.views.update(made)
    try:
        refused = next((view for view in made.values() if isinstance(view, Refused)), None)
        return refused.refusal if refused else _outcome(state, node, list(made.values()))
    finally:
        state.views.update(own)


def _used(state: State, node: onnx.NodeProto) -> list[str]:
    """Outputs that something reads: nobody needs the shape of a mask or of statistics that nobody reads."""
    return [name for name in node.output if state.graph.uses[name]]


def _known(state: State, name: str) -> bool:
    return state.native[name].shapes is not None


def _dropped(views: Sequence[View]) -> bool:
    return any(view.trace.dropped for view in views if isinstance(view, Lifted))


def _affine(site: Site) -> bool:
    """Whether the mean over the cells of a window may be taken after this node as well as before."""
    if site.op_type in {"Add", "Sub", "Mul", "Div"}:
        moving = [position for position, view in enumerate(site.views) if not isinstance(view, Fixed)]
        return site.op_type in {"Add", "Sub"} or moving == [0] or (moving == [1] and site.op_type == "Mul")
    if site.op_type == "Einsum":
        return sum(not isinstance(view, Fixed) for view in site.views) == 1
    return site.op_type in _AFFINE


def _no_rule(site: Site) -> Refusal:
    """Why there is none: by what the operator is, or by what it works on."""
    if site.op_type in WHY:
        code, why, advice = WHY[site.op_type]
        if code == "attention":
            return attention(site)
        return site.refuse(code, why, advice)
    lifted = [view for view in site.views if isinstance(view, Lifted)]
    windows = [view for view in lifted if isinstance(view, Window)]
    if any(_half_pooled(view, site.state.pieces) for view in windows):
        return site.refuse(
            "partial-pool", "works on what a pool of one axis left, which does not meet its map again", LEAVE
        )
    if windows:
        why = "works on a piece of the map that was cut out or flattened before"
        image = len(site.shape_in()) == 2 + site.state.rank
        advice = f"{LEAVE}, or name the piece: --input {site.node.input[0]}" if image else LEAVE
        pieces = sorted(set[str]().union(*(view.trace.pools for view in lifted)) & site.state.pieces)
        if pieces:
            why = f"cuts a piece out of the map of the native size, and {site.op_type} works on it"
            return Refusal("cut-out", pieces[0], why, advice)
        return site.refuse("cut-out", "works on a piece of the map that was cut out or flattened before", advice)
    return site.refuse("unsupported-operator", "is not supported here", LEAVE)


def _half_pooled(view: Window, pieces: set[str]) -> bool:
    return bool(view.trace.pools - pieces) and any(len({n > 1 for n in source.extent}) > 1 for source in view.sources)


def _size_free(site: Site, views: Sequence[View]) -> Outcome:
    """Nothing here depends on the image's size: the node stays, whatever it is."""
    context = [view.trace for view in views if isinstance(view, Context)]
    if context and spreads(site):
        try:
            return spread(site)
        except InferenceFailed as error:
            return site.refuse("size-locked", f"cannot run at another image size: {error}")
    try:
        site.keep([tensor_of(site.state.views[name]) if name else "" for name in site.node.input])
    except InferenceFailed:
        site.draft.append_unknown(site.node)
    for name in site.node.output:
        found = site.draft.specs.get(name, _UNKNOWN)
        if name and found.shapes is None and site.native(name).shapes is not None:
            found = Spec(site.native(name).dtype, (site.native(name).native,) * site.draft.probes)
        site.draft.specs[name] = found
    trace = Trace.join([replace(item, fields=context[0].fields) for item in context]) if context else None
    if trace:
        return _of_free_batch(site) or [Context(name, trace) for name in site.node.output]
    return site.fixed()


def _of_free_batch(site: Site) -> Refusal | None:
    """A batch that was baked into a Reshape of context gives way; elsewhere it is refused."""
    spec = site.draft.specs[site.node.output[0]]
    batches = [shape[0] for shape in site.state.image_shapes]
    native = site.native(site.node.output[0])
    if len(set(batches)) == 1 or spec.shapes is None or native.shapes is None or native.native[:1] != (batches[0],):
        return None
    if [shape[0] for shape in spec.shapes] == batches:
        return None
    given = site.draft.spec(site.tensors()[0]).shapes or ()
    if site.op_type != "Reshape" or [shape[:1] for shape in given] != [(batch,) for batch in batches]:
        return site.refuse("batch-baked", *_BATCH)
    site.draft.nodes.pop()
    try:
        emit.reshape(site.draft, site.tensors()[0], [0, *native.native[1:]], site.node.output[0], site.node)
    except InferenceFailed:  # its input has no batch
        return site.refuse("batch-baked", *_BATCH)
    return None
