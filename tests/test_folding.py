"""Folded names: short for people, true to what they stand for, and cheap whatever the names are."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptfix.folding import fold_names, folded

FOLDED = [
    ([], []),
    (["a"], ["a"]),
    (["a.0.x", "a.1.x", "a.2.x"], ["a.{0..2}.x"]),
    (["a.0.x", "a.2.x", "a.5.x"], ["a.{0,2,5}.x"]),
    (["1.k", "3.k", "5.k", "7.k", "9.k"], ["{1,3..9}.k"]),
    (["a.0.x", "a.1.x"], ["a.{0,1}.x"]),
    (["n.weight", "n.bias"], ["n.{bias,weight}"]),
    (["a.0.w", "a.0.b", "a.1.w", "a.1.b"], ["a.{0,1}.{b,w}"]),
    (["a.0.w", "a.1.w", "a.1.b"], ["a.0.w", "a.1.{b,w}"]),
    (["b", "a", "b"], ["{a,b}"]),
    (["x.y", "x"], ["x.y", "x"]),
    (["a.01.x", "a.1.x"], ["a.{1}.x"]),
    (["{a}.x", "{b}.x"], ["{{a},{b}}.x"]),
    (["a..b", "a.c.b"], ["a.{,c}.b"]),
]


@pytest.mark.parametrize(("names", "lines"), FOLDED)
def test_folding(names: list[str], lines: list[str]) -> None:
    assert fold_names(names) == lines


def test_many_values_are_counted() -> None:
    assert fold_names([f"a.x{number:02}" for number in range(20)]) == ["a.{x00,x01,x02,x03,x04,x05,x06,x07,… 12 more}"]


def test_a_sentence_of_names() -> None:
    names = ["a.0", "a.1", "b.c.d", "e.f.g.h", "i.j.k.l.m", "n.o.p.q.r.s"]
    assert folded(names[:3]) == "a.{0,1}, b.c.d"
    assert folded(names, most=2) == "a.{0,1}, b.c.d and 3 more patterns"


@given(
    st.lists(st.lists(st.sampled_from(["a", "b", "0", "1", "2"]), min_size=1, max_size=4).map(".".join), max_size=12)
)
def test_no_name_gets_lost(names: list[str]) -> None:
    """Spread out again, the lines are the names."""
    spread = set()
    for line in fold_names(names):
        options = [_values(component) for component in _split(line)]
        found = [""]
        for values in options:
            found = [f"{before}.{value}" for before in found for value in values]
        spread |= {name[1:] for name in found}
    assert spread == set(names)


def _split(line: str) -> list[str]:
    components, depth = [""], 0
    for char in line:
        depth += (char == "{") - (char == "}")
        if char == "." and depth == 0:
            components.append("")
        else:
            components[-1] += char
    return components


def _values(component: str) -> list[str]:
    if not component.startswith("{"):
        return [component]
    if ".." in component:
        first, _, last = component.strip("{}").partition("..")
        return [str(number) for number in range(int(first), int(last) + 1)]
    return component.strip("{}").split(",")


@pytest.mark.parametrize("components", [30, 150, 1900])
def test_hostile_names_cost_little(components: int) -> None:
    names = [".".join(random.Random(seed).choices("abcdefgh", k=components)) for seed in range(300_000 // components)]
    start = time.process_time()
    assert len(fold_names(names)) == len(set(names))
    assert time.process_time() - start < 1
