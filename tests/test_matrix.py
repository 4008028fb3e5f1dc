"""docs/layouts.md is what the matrix gives now, and nothing in it went another way than it should."""

from __future__ import annotations

from ckptfix.layouts.catalogue import known_layouts
from ckptfix.look_alikes import LOOK_ALIKES
from ckptfix.products import PRODUCTS
from tests.look_alike_samples import WHOLE
from tests.matrix import PAGE, page, product_is_itself, results, samples


def test_nothing_goes_another_way_and_the_page_says_so() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "python -m tests.matrix"
    assert [key for key, outcome in results().items() if outcome == "other"] == []
    assert [name for name in PRODUCTS if not product_is_itself(name)[0]] == []


def test_every_projection_is_in_it() -> None:
    known = {layout.name for layout in known_layouts() if layout.kind == "projection"}
    known |= {row.name for row in LOOK_ALIKES if row.name not in WHOLE}
    assert known == samples().keys()
