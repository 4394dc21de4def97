"""A set that grows along a graph, node by node, without a copy at each of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from typing import Generic, TypeVar

T = TypeVar("T")


class Gathered(Generic[T]):
    """What one node adds, and the sets of those before it, which are shared and never change.

    To add to a set, or to join several, takes a moment and some bytes however large they are; to look at its items
    takes as long as the graph behind it.
    """

    __slots__ = ("_own", "_parts")

    def __init__(self, own: Iterable[T] = (), parts: Iterable[Gathered[T]] = ()) -> None:
        self._own = frozenset(own)
        self._parts = tuple({id(part): part for part in parts if part}.values())

    @classmethod
    def joined(cls, parts: Iterable[Gathered[T]]) -> Gathered[T]:
        """All that is in any of ``parts``."""
        made = cls((), parts)
        return made._parts[0] if len(made._parts) == 1 else made

    def __or__(self, more: Iterable[T]) -> Gathered[T]:
        other = more if isinstance(more, Gathered) else Gathered(more)
        if not other:
            return self
        if other._parts:
            return Gathered.joined((self, other))
        return Gathered(other._own, (self,))

    def __iter__(self) -> Iterator[T]:
        seen: set[int] = set()
        given: set[T] = set()
        waiting: list[Gathered[T]] = [self]
        while waiting:
            part = waiting.pop()
            if id(part) not in seen:
                seen.add(id(part))
                yield from part._own - given
                given |= part._own
                waiting += part._parts

    def meets(self, wanted: Set[T], known: dict[int, bool]) -> bool:
        """Whether an item is wanted. ``known``: what was found of sets before, which are behind others of the graph."""
        waiting: list[Gathered[T]] = [self]
        while waiting:
            part = waiting[-1]
            new = [item for item in part._parts if id(item) not in known] if wanted.isdisjoint(part._own) else []
            waiting += new
            if not new:
                meets = not wanted.isdisjoint(part._own) or any(known[id(item)] for item in part._parts)
                known[id(waiting.pop())] = meets
        return known[id(self)]

    def __bool__(self) -> bool:
        return bool(self._own or self._parts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Gathered):
            return NotImplemented
        return self is other or frozenset(self) == frozenset(other)

    def __hash__(self) -> int:
        return hash(frozenset(self))

    def __repr__(self) -> str:
        return f"Gathered({sorted(self, key=repr)})"
