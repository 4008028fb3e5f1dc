"""Site labels of files as places in the UNet: ranks, orders, paths."""

from __future__ import annotations

from ckptfix.layouts.layout import Numbering
from ckptfix.layouts.site_numbers import number_sites


def test_ranks_count_from_the_lowest() -> None:
    assert number_sites(["0", "1", "2"], Numbering("rank")) == {"0": 1, "1": 3, "2": 5}
    assert number_sites(["1", "2"], Numbering("rank")) == {"1": 1, "2": 3}
    assert number_sites([], Numbering("rank")) == {}
    assert number_sites(["7", "x.y"], Numbering("path")) == {}


def test_orders_take_the_smallest_unet_that_has_room() -> None:
    assert number_sites([str(rank) for rank in range(70)], Numbering("rank", "down-mid-up"))["24"] == 121
    assert number_sites([str(rank) for rank in range(200)], Numbering("rank", "down-mid-up")) == {}


def test_orders_of_ranks() -> None:
    ranks = [str(rank) for rank in range(16)]
    assert number_sites(ranks, Numbering("rank"))["15"] == 31
    assert number_sites([str(rank + 1) for rank in range(16)], Numbering("rank"))["16"] == 31
    down_mid_up = number_sites(ranks, Numbering("rank", "down-mid-up"))
    assert [down_mid_up[rank] for rank in ranks] == [1, 3, 5, 7, 9, 11, 31, *range(13, 31, 2)]
    lexicographic = number_sites(ranks, Numbering("rank", "lexicographic"))
    assert [lexicographic[rank] for rank in ranks] == sorted(range(1, 32, 2), key=str)
    assert number_sites(["mid_block.attentions.0.transformer_blocks.0.attn2", "x"], Numbering("path")) == {
        "mid_block.attentions.0.transformer_blocks.0.attn2": 121
    }
