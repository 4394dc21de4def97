"""What a walk knows, and what it has found so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import onnx

from onnxfc.builder.graph_builder import GraphBuilder
from onnxfc.errors import Refusal
from onnxfc.graph.index import Graph
from onnxfc.layout.affine import Grids
from onnxfc.layout.views import Fixed, Placed, View
from onnxfc.shapes.spec import Shape, Spec

GlobalPool = Literal["window", "keep", "drop"]
Role = Literal["head", "context", "local"]
"""What a node that looks at places natively is: the head's beginning; context, as it meets its trunk again; or a pool
of the trunk like any other, as something slides over what it left."""


@dataclass(frozen=True)
class Unbiased:
    """A variance over N - 1: the tensor of squares, along which axes these are summed up, and how many they are; which
    power of N / (N - 1) is made of it."""

    squares: str
    axes: tuple[int, ...]
    count: int
    power: float = 1.0


@dataclass(frozen=True)
class Roles:
    """What the nodes that look at places are, by their first outputs.

    ``covers``: of pools whose one window just covers the native map, the axes that it covers; ``meant``: those
    over some axes that are kept as such. ``pieces``: those that cut a piece out of a map. ``own``: nodes whose result
    is of each window alone, though it has places and what was pooled of them: a deviation from the window's mean, what
    is weighed by weights of the window. ``shares``: what sums
    up to 1 along places of the image by what it was divided by; ``norms``: what was divided by another sum of its own.
    ``plain``: sums over the image that are meant as they are: those divisors, and kept ones that are the result.
    ``level``: kept sums of which nothing comes that grows. ``by_number``: those that a number of the file divides by
    the native count of their places. ``steady``: all sums of which nothing comes that grows.
    ``variances``: variances of the whole image over N - 1, which the file gives for the native N, by the node that
    makes them; ``partly``: those over a part of its places. ``counted``: means times a power of the native number of
    their places, of which something comes that grows or shrinks with the image. ``whole``: what begins the head, but
    is to stay one of the whole image. ``placeless``: what natively has no places any more, such as a covariance and all
    that is made of it. ``headed``: whether there is a head. ``reads_features``: whether something reads places as
    features. ``one_sized``: what has one size at every size of the image, by numbers of a file that takes any.
    ``summed_by``: the operators that sum up the places of a tensor, where nothing else is done to it.
    """

    of: Mapping[str, Role]
    covers: Mapping[str, tuple[int, ...]]
    meant: frozenset[str]
    pieces: frozenset[str]
    own: frozenset[str]
    shares: Mapping[str, frozenset[int]]
    norms: Mapping[str, frozenset[int]]
    plain: frozenset[str]
    level: frozenset[str]
    by_number: frozenset[str]
    steady: frozenset[str]
    variances: Mapping[str, Unbiased]
    partly: frozenset[str]
    counted: frozenset[str]
    whole: frozenset[str]
    placeless: frozenset[str]
    headed: bool
    reads_features: bool
    one_sized: frozenset[str]
    summed_by: Callable[[str], frozenset[str] | None] = field(compare=False)

    @cached_property
    def heads(self) -> frozenset[str]:
        """Those that belong to the head."""
        return frozenset(name for name, role in self.of.items() if role == "head")


@dataclass(frozen=True)
class Replacement:
    """One replaced piece of the head: node, what it was, what it is.

    >>> onnxfc.rewrite("fixtures/trained/digits.onnx", prove=False).replacements[0].after
    'Conv 4x4 16→32'
    """

    node: str
    before: str
    after: str


@dataclass(frozen=True)
class Frozen:
    """A node, and what it makes, that keeps what was computed for the native size."""

    node: str
    made: str


@dataclass(frozen=True)
class Continued:
    """A table with a value for every native place that goes on by rule: the node that reads it, its name, the tensor
    that it is now, and the rule along each place, empty where it does not move along it.

    ``levels``: what of it lies over each map, and on which of its axes each place, -1 where on none, before places are
    laid together. ``given``: the user said which. ``order``: along which places its figures lie in turn, where that
    is of use; ``lengths``: those that all places have are parts of the image. ``parts``: coordinates from -1 or 0 to 1.
    """

    node: str
    table: str
    tensor: str
    rules: tuple[str, ...]
    levels: tuple[tuple[str, tuple[int, ...]], ...] = ()
    given: bool = False
    order: tuple[int, ...] = ()
    lengths: bool = False
    parts: bool = False
    numbers: frozenset[float] | None = None

    @property
    def alike(self) -> bool:
        """Whether it has the same value at every place of a level."""
        return not any(self.rules)

    @property
    def moves(self) -> bool:
        """Whether what reads it is another at each place, or in each image."""
        return not self.alike or self.lengths


Note = Replacement | Frozen | Continued | Refusal
"""What a rule has to tell beside its outcome; a refusal is a remark here, that something runs once per window, say."""


@dataclass(frozen=True)
class Quantised:
    """``products``: results of products that stand for products of integers. ``per_window``: scales that are taken when
    the model runs are each window's own. ``blocks``: weights in floats that stand for blocks of integers;
    ``in_floats``: a head's are to be written so. ``rows``: an FC layer of integers whose result nothing quantises may
    stay what it is, on a row for each cell."""

    products: frozenset[str] = frozenset()
    per_window: bool = False
    blocks: Mapping[str, onnx.NodeProto] = field(default_factory=dict)
    in_floats: bool = False
    rows: bool = True


@dataclass
class State:
    """All that a walk knows; rules read it through their RuleContext and write nothing into it.

    ``rounds_up``: branches meet at other sizes only if pools round as they do (``ceil_mode``). ``single``: the batch is
    1 and stays so. ``rank``: how many spatial axes are free; ``axes``: which they are of the image's, and of how many.
    ``batches``: how many images, at every probe.
    ``grids``: how tables go on that do not show it. ``quantised``: what of the model is.
    ``own_sizes``: the shapes that the file itself says at the probes, where it takes any and figures of the whole image
    are wanted.
    ``conditions`` of Ifs that were refused, but are the same at every size.
    """

    graph: Graph
    builder: GraphBuilder
    native: Mapping[str, Spec]
    global_pool: GlobalPool
    roles: Roles
    rounds_up: bool
    single: bool
    rank: int
    batches: tuple[int, ...]
    axes: tuple[tuple[int, ...], int]
    grids: Grids | None = None
    own_sizes: Mapping[str, Sequence[Shape]] = field(default_factory=dict)
    views: dict[str, View] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    not_affine: list[Refusal] = field(default_factory=list)
    conditions: dict[str, bool] = field(default_factory=dict)
    quantised: Quantised = field(default_factory=Quantised)

    @property
    def open_batch(self) -> bool:
        """Whether the file itself leaves open how many images there are."""
        return any(dim.dim_value <= 0 for info in self.graph.inputs for dim in info.type.tensor_type.shape.dim[:1])

    @property
    def open_size(self) -> bool:
        """Whether the file itself leaves open how large images are."""
        views = ((info, self.views.get(info.name)) for info in self.graph.inputs)
        placed = [(info.type.tensor_type.shape.dim, view.spatial) for info, view in views if isinstance(view, Placed)]
        return all(dims[axis].dim_value <= 0 for dims, spatial in placed for axis in spatial)

    @property
    def dense(self) -> bool:
        """No head follows, so that borders may be what the graph makes of them at any size."""
        return not self.roles.headed

    @property
    def own_rounding(self) -> bool:
        """Whether pools go on rounding up where that adds no window at the native size."""
        return self.dense or self.rounds_up or self.undivided

    @cached_property
    def undivided(self) -> bool:
        """Whether all heads are of the whole image, so that there are no windows whose grid could move."""
        return self.global_pool == "keep" and self.roles.heads <= self.roles.whole and not self.roles.reads_features

    @property
    def of_windows(self) -> bool:
        """Whether cells are made. What is computed from the image's size in a way that no grid follows is what it is
        for a crop then."""
        return not self.dense and not self.undivided

    @property
    def as_written(self) -> bool:
        """Whether the file itself shows what a sum over the whole image is at every size: it takes images of any size,
        and no cells are made, whose sums are those of a crop."""
        return self.open_size and not self.of_windows

    @property
    def replacements(self) -> list[Replacement]:
        """What of the head was replaced."""
        return [note for note in self.notes if isinstance(note, Replacement)]

    def ending(self, names: Iterable[str]) -> str:
        """How to end the model at these tensors: those that nodes compute from the image. Empty where none is."""
        made = [n for n in names if n in self.graph.producers and not isinstance(self.views.get(n), Fixed)]
        return " ".join(f"--output-at {name}" for name in made)

    @property
    def remarks(self) -> list[Refusal]:
        """What the user should know of."""
        return [note for note in self.notes if isinstance(note, Refusal)]

    @property
    def continued(self) -> list[Continued]:
        """The tables that go on by rule."""
        return [note for note in self.notes if isinstance(note, Continued)]

    @property
    def frozen(self) -> list[Frozen]:
        """The nodes that keep what was computed for the native size."""
        return [note for note in self.notes if isinstance(note, Frozen)]
