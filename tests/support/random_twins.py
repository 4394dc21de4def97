"""Two networks of one drawing: with native lengths as numbers, as exporters write them, and with computed lengths."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Any

from random_heads import Network


@dataclass(frozen=True)
class Map:
    """(N, channels, *extent), its extent that of the native size."""

    name: str
    channels: int
    extent: tuple[int, ...]


@dataclass(frozen=True)
class Places:
    """So many ``times`` the places of a map along some of its axes; what a Reshape is told."""

    of: Map
    axes: tuple[int, ...]
    times: int = 1

    @property
    def native(self) -> int:
        return self.times * math.prod(self.of.extent[axis] for axis in self.axes)


@dataclass
class Twin(Network):
    """One of the two: ``open`` computes its lengths. Both draw alike."""

    draw: Random
    open: bool = False
    batch: int | str = 1
    free: tuple[int, ...] = ()

    def pick(self, *choices: Any) -> Any:
        return self.draw.choice(choices)

    def number(self, low: int, high: int) -> int:
        return self.draw.randint(low, high)

    def reshaped(self, tensor: str, *target: int | Places) -> str:
        """To these lengths; where one is of places, it may be left to the operator."""
        left = self.pick(True, False) and sum(isinstance(item, Places) for item in target) == 1
        told = [-1 if left and isinstance(item, Places) else item for item in target]
        return str(self.net.op("Reshape", tensor, self.numbers(*told)))

    def numbers(self, *items: int | Places) -> str:
        """As a constant, or computed."""
        if not self.open:
            return self.net.ints(*(item.native if isinstance(item, Places) else item for item in items))
        parts = [self.length(item) if isinstance(item, Places) else self.net.ints(item) for item in items]
        return str(self.net.op("Concat", *parts, axis=0))

    def length(self, places: Places) -> str:
        """Computed, as a tensor of one number."""
        net, shape = self.net, self.net.op("Shape", places.of.name)
        found = net.ints(places.times)
        for axis in places.axes:
            found = net.op("Mul", found, net.op("Gather", shape, net.ints(2 + axis), axis=0))
        return str(found)

    def images(self) -> int:
        """The batch as a Reshape's first number."""
        return 0 if self.batch == "N" else int(self.pick(self.batch, 0))

    def told(self, *words: Any) -> None:
        self.story.append(" ".join(map(str, words)))
