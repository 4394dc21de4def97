"""What the rules for folded maps share."""

from __future__ import annotations

from dataclasses import replace

from onnxfc.errors import Refusal
from onnxfc.rules.movement import move
from onnxfc.site import Site
from onnxfc.views import Atom, Fixed, Folded, Group, View, Window


def moved(site: Site, view: Folded) -> Window | Refusal | None:
    """The window, moved too."""
    if not isinstance(view.window, Window):
        return view.window
    if view.window.batch_axis is None:
        return None
    outcome = move(site, [view.window, *site.views[1:]])
    if isinstance(outcome, Refusal):
        return outcome
    return outcome[0] if isinstance(outcome[0], Window) else None


def folded_of(site: Site) -> Folded:
    view = site.views[0]
    assert isinstance(view, Folded)
    return view


def pure(group: Group) -> bool:
    """Whether an axis holds channels alone."""
    return all(atom.kind == "channel" for atom in group)


def only_first(site: Site) -> bool:
    return isinstance(site.views[0], Folded) and all(view is None or isinstance(view, Fixed) for view in site.views[1:])


def changed(site: Site, axis: int) -> list[View]:
    """The node's outputs, on one axis of which the channels have become others."""
    view, made = folded_of(site), []
    for position, name in enumerate(site.node.output):
        length = site.shape_out(position)[axis]
        group = (Atom("channel", length),) if length > 1 else ()
        groups = (*view.groups[:axis], group, *view.groups[axis + 1 :])
        made.append(replace(view, tensor=name, groups=groups, window=None))
    return list(made)


def same(site: Site) -> list[View]:
    view = folded_of(site)
    return [replace(view, tensor=name, window=None) for name in site.node.output]
