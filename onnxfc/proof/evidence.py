"""All that was seen of the original."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from onnxfc.proof.edges import Edges
from onnxfc.proof.inputs import Inputs, Kind
from onnxfc.proof.results import Rest
from onnxfc.proof.sessions import Array, Arrays
from onnxfc.proof.tolerance import Scale

Progress = Callable[[str], None]
ADVICE = "give real inputs with --data FILE.npy"
OTHER_DATA = "give inputs with --data that it answers to differently"


@dataclass(frozen=True)
class Sample:
    """Inputs at native size and what the original made of them."""

    kind: Kind
    number: int
    batch: int | None
    feeds: Arrays
    values: Arrays


@dataclass
class Evidence:
    """All that was seen of the original. ``kinds`` are informative; ``scales`` go by output and kind.

    ``noise``: how much rounding alone moves a tensor; a deep trunk amplifies it, though in both models alike.
    ``flips``: the same on average, which of a quantised tensor are the values that fall to the other side of an edge;
    empty where it was not measured, None where it cannot be.
    ``own``: the outputs that the models had before their FC layers were shown. ``moving``: what depends on an image,
    ``fed`` on any input. ``small``: the model is looked at more closely, with more kinds and sizes; ``masked``:
    and with more samples, as it compares the image's values with thresholds. ``thorough``: as
    often as that, too; a large model only where it has failed with fewer runs. ``edges``: of the original as a whole.
    ``alike``: features that both models make by the same operators, so that what these round they round alike;
    ``rounded``: more samples for them.
    ``one_scale``: of all images in a batch, by which they are rounded. ``idle``: that its provider computed nothing
    of it. ``crops``: cells, inputs and what was made of them.
    """

    inputs: Inputs
    batch: int
    free_batch: bool
    samples: list[Sample] = field(default_factory=list)
    kinds: list[Kind] = field(default_factory=list)
    scales: dict[tuple[str, str], Scale] = field(default_factory=dict)
    noise: dict[tuple[str, str], float] = field(default_factory=dict)
    flips: dict[tuple[str, str], float] | None = field(default_factory=dict)
    crops: list[tuple[tuple[int, ...], Arrays]] = field(default_factory=list)
    whole: dict[tuple[str, tuple[int, ...]], Arrays] = field(default_factory=dict)
    vacuous: str | None = None
    drowned: str = ""
    small: bool = False
    masked: bool = False
    thorough: bool = True
    own: tuple[str, ...] = ()
    moving: set[str] = field(default_factory=set)
    fed: set[str] = field(default_factory=set)
    rests: list[Rest] = field(default_factory=list)
    edges: Edges | None = None
    idle: str = ""
    one_scale: bool = False
    alike: frozenset[str] = frozenset()
    rounded: list[Sample] = field(default_factory=list)

    @property
    def native(self) -> Arrays:
        """All tensors of the first native sample."""
        return self.samples[0].values | self.samples[0].feeds

    def others(self, name: str, feeds: Arrays) -> Iterable[Array]:
        """What the original makes of inputs as well, where values lie on the edge between two integers."""
        return () if self.edges is None else self.edges.of(name, feeds)

    def shown(self, outputs: Sequence[str]) -> list[Kind]:
        """The kinds that larger images are run with: all of a small model."""
        return self.kinds if self.small else self.cover(outputs)

    def images_at(self, turn: int) -> int | None:
        """How many larger images are run at once: two at the first of several sizes, where the batch is free."""
        return 2 if self.free_batch and turn == 0 else None

    def cover(self, outputs: Sequence[str]) -> list[Kind]:
        """The fewest kinds, best first, with which every one of ``outputs`` is informative."""
        left, chosen = list(outputs), []
        for kind in self.kinds:
            fresh = [name for name in left if not self.scales[name, kind.name].problem]
            if fresh:
                chosen.append(kind)
                left = [name for name in left if name not in fresh]
        return chosen
