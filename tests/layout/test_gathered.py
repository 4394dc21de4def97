"""A set that grows along a graph is a set, whatever it was put together of."""

from __future__ import annotations

from onnxfc.layout.gathered import Gathered


def test_equal_where_the_items_are() -> None:
    a, b = Gathered("a"), Gathered("b")
    both = Gathered.joined((a, b, a))
    assert sorted(both) == ["a", "b"]
    assert both == a | "b" == b | a == Gathered("ba")
    assert len({both, a | "b", Gathered("ab")}) == 1
    assert both != a
    assert both != {"a", "b"}
    assert repr(both) == "Gathered(['a', 'b'])"


def test_nothing_is_added_for_nothing() -> None:
    a = Gathered("a")
    assert a | () is a
    assert Gathered.joined((a, Gathered(), a)) is a
    assert not Gathered.joined(())


def test_an_item_comes_once_however_often_it_was_added() -> None:
    one = Gathered("ab") | "bc"
    assert sorted(Gathered.joined((one, Gathered("cd", (one,))))) == ["a", "b", "c", "d"]
