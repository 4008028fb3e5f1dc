"""docs/layouts.md is what the matrix should give, and a seeded part of it is what it gives now."""

from __future__ import annotations

import random

from ckptfix.layouts.catalogue import known_layouts
from ckptfix.look_alikes import LOOK_ALIKES
from ckptfix.products import PRODUCTS
from tests.look_alike_samples import WHOLE
from tests.matrix import (
    ALL_WRAPPERS,
    NUMBERINGS,
    PAGE,
    Cell,
    cells,
    meet,
    outcome,
    page,
    product_is_itself,
    samples,
    wanted,
)


def part() -> list[Cell]:
    """The same cells in each run: every wrapper with every numbering, and every projection a few times."""
    kept: list[Cell] = []
    met: set[tuple[str, str]] = set()
    for cell in random.Random(4).sample(cells(), len(cells())):
        if (cell.wrapper, cell.numbering) not in met or sum(cell.projection == other.projection for other in kept) < 5:
            kept.append(cell)
            met.add((cell.wrapper, cell.numbering))
    return kept


def test_a_part_of_it_goes_as_it_should() -> None:
    assert [cell for cell in part() if outcome(cell) != wanted(cell)] == []


def test_the_part_has_every_name_in_it() -> None:
    tried = part()
    assert {cell.projection for cell in tried} == samples().keys()
    assert {(cell.wrapper, cell.numbering) for cell in tried} == {
        (wrapper, numbering) for wrapper in ALL_WRAPPERS for numbering in NUMBERINGS if meet(wrapper, numbering)
    }


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tests.matrix"
    assert [name for name in PRODUCTS if not product_is_itself(name)[0]] == []


def test_every_projection_is_in_it() -> None:
    known = {layout.name for layout in known_layouts() if layout.kind == "projection"}
    known |= {row.name for row in LOOK_ALIKES if row.name not in WHOLE}
    assert known == samples().keys()
