"""Why cells differ from crops: a cause, and the node that is to blame."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Cause(Enum):
    """What a node does so that a cell is not the original run on the crop."""

    PADDING = "padding"
    PARTIAL_WINDOW = "partial window"
    CONTEXT = "context"
    GRID = "grid"
    RESAMPLING = "resampling"
    STEPS = "resampling within its map"
    """It reads no place beyond the map: cells that are whole periods apart are those of their crops. Of the walk alone;
    in a claim it is nothing, or a resampling."""
    RESIZED = "resampling to a map's size"
    CROPPED = "crop to a map's size"
    PADDED = "padding to a map's size"
    UNKNOWN = "unknown"

    @property
    def by_size(self) -> bool:
        """Whether it is local from one size of the grid to the next only.

        A map that is resized to the size of a finer one has the finer one's ratio to it, 21 to 41 at 41 pixels, say,
        and 2 at every size of the grid.
        """
        return self in {Cause.RESIZED, Cause.CROPPED, Cause.PADDED}

    @property
    def local(self) -> bool:
        """Whether it leaves the interior of an image alone; any other looks at the whole image, or may, or counts from
        the image's border on."""
        return self not in {Cause.CONTEXT, Cause.GRID, Cause.UNKNOWN}


@dataclass(frozen=True)
class Blame:
    """A cause and its node; as text ``cause: node``."""

    cause: Cause
    node: str

    def __str__(self) -> str:
        return f"{self.cause.value}: {self.node}"

    @staticmethod
    def parse(text: str) -> Blame:
        """Read it back; what names no cause is an unknown one."""
        cause, _, node = text.partition(": ")
        known = {item.value: item for item in Cause}
        return Blame(known[cause], node) if cause in known else Blame(Cause.UNKNOWN, text)
