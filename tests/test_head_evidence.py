"""The weights say in which order their rows lie, rightly or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from ckptfix.evidence.asking import Attention, head_evidence
from ckptfix.evidence.candidates import heads_of, orders, partitions
from ckptfix.evidence.heads import centred
from ckptfix.evidence.statistic import cosines
from ckptfix.evidence.verdict import Evidence
from tests.trained import (
    ONE_TOKEN,
    RECONSTRUCTION,
    REDUNDANT,
    TRAINED,
    UNTRAINED,
    Trained,
    dim_major,
    exchanged,
    interleaved,
    kv_dim_major,
    q_out_dim_major,
    trained,
    v_first,
)

Reorder = Callable[[Attention], Attention]


def ask(file: Trained, reorder: Reorder | None = None, **declared: Any) -> tuple[Evidence, Evidence]:
    layers = [reorder(layer) if reorder else layer for layer in file.layers]
    return head_evidence(layers, **{"heads": file.heads, "dim_head": file.dim_head, **declared})


# Z, min B, cover; Y, min B, H; the verdicts.
REFERENCE = {
    UNTRAINED: ("-0.2 0.7 0.5", "0.0 0.8 1.2", "none", "none"),
    ONE_TOKEN: ("63.0 51.2 1.0", "45.8 27.1 1.1", "consistent", "consistent"),
    RECONSTRUCTION: ("34.9 27.4 1.0", "72.4 44.1 1.5", "consistent", "consistent"),
    REDUNDANT: ("65.6 55.6 1.0", "9.2 2.3 1.5", "consistent", "none"),
}


@pytest.mark.parametrize("name", REFERENCE)
def test_reference_values(name: str) -> None:
    order, heads = ask(trained(name))
    assert (
        " ".join(f"{number:.1f}" for number in (order.score, order.margin, order.cover)),
        " ".join(f"{number:.1f}" for number in (heads.score, heads.margin, heads.spread)),
        order.verdict,
        heads.verdict,
    ) == REFERENCE[name]


def other_orders(dim_head: int) -> Iterator[tuple[str, str, Reorder]]:
    """What is done to the rows, and the names under which the answers must come, if they come."""
    head_major = f"head-major-{dim_head}"
    yield "v-first", head_major, v_first
    for width in (1, 8, 16, 32, 64):
        for first in ("kv", "vk"):
            yield f"interleaved-{first}-{width}", head_major, partial(interleaved, width=width, first=first)
        if width > 1:
            yield f"kv-dim-major-{width}", head_major, partial(kv_dim_major, width=width)
            # Heads of another width than the file's leave a partition that is no candidate; one finer than the
            # file's own heads still names the order.
            grouping = f"dim-major-{width}"
            yield f"q-out-dim-major-{width}", grouping, partial(q_out_dim_major, width=width)
            yield "k-first", grouping, partial(dim_major, width=width)


@pytest.mark.parametrize("name", [*TRAINED, UNTRAINED])
def test_every_order_is_named_rightly_or_not_at_all(name: str) -> None:
    file = trained(name)
    for truth, grouping, reorder in other_orders(file.dim_head):
        order, heads = ask(file, reorder)
        if name == UNTRAINED:
            assert (order.verdict, heads.verdict) == ("none", "none"), truth
            continue
        assert order.verdict == ("consistent" if truth == "k-first" else "contradicts"), truth
        assert truth in (order.best, *order.also)
        if heads.verdict != "none":
            assert heads.best == grouping, truth
        elif name != REDUNDANT:
            assert grouping == "dim-major-64", truth  # coarser than the file's own heads of 32


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("dim_head", [8, 16, 32, 64])
def test_a_wrong_head_count_hides_no_order(name: str, dim_head: int) -> None:
    file = trained(name)
    order, heads = ask(file, v_first, heads=128 // dim_head, dim_head=dim_head)
    assert (order.verdict, order.best) == ("contradicts", "v-first")
    assert heads.verdict == "none" or heads.best == f"head-major-{file.dim_head}"


def test_words() -> None:
    file = trained(ONE_TOKEN)
    order, heads = ask(file)
    assert order.sentence == "the weights are consistent with K-first rows (Z 63, next 22)"
    assert heads.sentence == "the weights are consistent with head-major-32 rows (Y 46, next 29)"
    order, _ = ask(file, v_first)
    assert order.sentence == "the weights contradict K-first: they agree with V-first (Z 63, next 22)"
    order, heads = ask(file, partial(dim_major, width=32))
    assert order.sentence == "the weights are consistent with K-first rows (Z 61, next 20)"
    assert heads.sentence == "the weights contradict head-major-32: they agree with dim-major-32 (Y 46, next 29)"
    order, _ = ask(file, partial(kv_dim_major, width=8))
    assert order.sentence == (
        "the weights contradict K-first: they agree with kv-dim-major-8, in other words q-out-dim-major-16 "
        "(Z 63, next 1)"
    )
    order, heads = ask(trained(UNTRAINED))
    assert order.sentence == "the weights give no evidence on the order"
    assert heads.sentence == "the weights give no evidence on the head count"


def test_what_is_declared_is_what_is_judged() -> None:
    file = trained(ONE_TOKEN)
    order, _ = ask(file, v_first, declared="v-first")
    assert order.sentence == "the weights are consistent with V-first rows (Z 63, next 22)"
    order, _ = ask(file, declared="v-first")
    assert (order.verdict, order.best, order.layout) == ("contradicts", "k-first", "resampler")
    order, heads = ask(file, partial(dim_major, width=32), partition="dim-major")
    assert (order.verdict, heads.verdict) == ("consistent", "consistent")
    assert order.score == pytest.approx(ask(file)[0].score, abs=0.01)  # the same heads, found elsewhere
    order, heads = ask(file, partition="dim-major")
    assert (order.verdict, heads.verdict, heads.layout, heads.dim_head) == (
        "consistent",
        "contradicts",
        "resampler",
        None,
    )


@pytest.mark.parametrize(
    ("reorder", "declared", "advice"),
    [
        (v_first, 32, ("resampler-v-first", None)),
        (v_first, 16, ("resampler-v-first", 32)),
        (partial(interleaved, width=32, first="kv"), 32, ("resampler-interleaved-kv", None)),
        (partial(interleaved, width=32, first="kv"), 64, ("resampler-interleaved-kv", 32)),
        (partial(interleaved, width=32, first="vk"), 32, (None, None)),
        (partial(interleaved, width=64, first="kv"), 32, (None, None)),
        (partial(interleaved, width=1, first="kv"), 32, (None, None)),
        (partial(dim_major, width=32), 32, ("resampler-dim-major", None)),
        (partial(dim_major, width=32), 64, ("resampler-dim-major", 32)),
        (partial(kv_dim_major, width=32), 32, (None, None)),
        (partial(q_out_dim_major, width=32), 32, (None, None)),
        (lambda layer: v_first(dim_major(layer, 32)), 32, (None, None)),
        (lambda layer: layer, 64, (None, 32)),
    ],
)
def test_advice_says_all_that_was_found_or_nothing(
    reorder: Reorder, declared: int, advice: tuple[str | None, int | None]
) -> None:
    answers = ask(trained(ONE_TOKEN), reorder, heads=128 // declared, dim_head=declared)
    contradicting = [answer for answer in answers if answer.verdict == "contradicts"]
    assert contradicting
    assert {(answer.layout, answer.dim_head) for answer in contradicting} == {advice}


def test_without_a_head_count_the_advice_is_the_order_alone() -> None:
    order, heads = ask(trained(REDUNDANT), partial(interleaved, width=16, first="kv"), heads=4, dim_head=32)
    assert heads.verdict == "none"
    assert (order.layout, order.dim_head) == ("resampler-interleaved-kv", 16)


@pytest.mark.parametrize("name", TRAINED)
def test_half_the_heads_exchanged_is_no_evidence(name: str) -> None:
    order, heads = ask(trained(name), partial(exchanged, rows=slice(0, 64)))
    assert order.score is not None and order.margin is not None and order.cover is not None
    assert order.cover < 0.8
    assert (order.verdict, heads.verdict) == ("none", "none")


def test_only_the_cover_stands_against_exchanged_heads() -> None:
    order, _ = ask(trained(ONE_TOKEN), partial(exchanged, rows=slice(96, 128)))
    assert (order.score or 0) >= 6 and (order.margin or 0) >= 5
    assert (order.verdict, order.cover) == ("none", 0.75)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_short_floats_change_nothing(dtype: Any) -> None:
    for name in TRAINED:
        file = trained(name)
        layers = [tuple(array.astype(dtype) for array in v_first(layer)) for layer in file.layers]
        order, _ = head_evidence(layers, heads=file.heads, dim_head=file.dim_head)  # type: ignore[arg-type]
        assert (order.verdict, order.best) == ("contradicts", "v-first")
        assert order.score == pytest.approx(ask(file, v_first)[0].score, rel=0.02)


def test_scale_and_signs_change_nothing() -> None:
    """What the statistic rests on: flipping or scaling rows that belong together."""
    file = trained(ONE_TOKEN)
    noise = np.random.default_rng(3)

    def disguised(layer: Attention) -> Attention:
        q, kv, out = (array.astype(np.float64) for array in layer)
        flips = noise.choice([-1.0, 1.0], (2, 128)) * noise.uniform(1e-30, 1e30, (2, 128))
        return q * np.sign(flips[0])[:, None], kv * flips.reshape(-1, 1), out * np.sign(flips[1])

    plain, other = ask(file)[0], ask(file, disguised)[0]
    assert (other.score, other.margin, other.cover) == pytest.approx((plain.score, plain.margin, plain.cover), abs=1e-3)


def uniform(noise: np.random.Generator, shape: tuple[int, int]) -> NDArray[Any]:
    """torch's own for nn.Linear."""
    matrix: NDArray[Any] = noise.uniform(-1, 1, shape) / np.sqrt(shape[1])
    return matrix


def xavier(noise: np.random.Generator, shape: tuple[int, int]) -> NDArray[Any]:
    matrix: NDArray[Any] = noise.uniform(-1, 1, shape) * np.sqrt(6 / sum(shape))
    return matrix


def normal(noise: np.random.Generator, shape: tuple[int, int]) -> NDArray[Any]:
    return noise.standard_normal(shape) * 0.02


def orthogonal(noise: np.random.Generator, shape: tuple[int, int]) -> NDArray[Any]:
    columns: NDArray[Any] = np.linalg.qr(noise.standard_normal((max(shape), min(shape))))[0]
    return columns if columns.shape == shape else columns.T


def uneven(noise: np.random.Generator, shape: tuple[int, int]) -> NDArray[Any]:
    """Rows and columns of very different size."""
    rows, columns = (np.exp(noise.standard_normal(size)) for size in shape)
    matrix: NDArray[Any] = noise.standard_normal(shape) * rows[:, None] * columns
    return matrix


@pytest.mark.slow
@pytest.mark.parametrize("initial", [uniform, xavier, normal, orthogonal, uneven])
def test_what_nobody_trained_gives_no_evidence(initial: Callable[..., NDArray[Any]]) -> None:
    """100 sets for each of 5 initialisations: 1000 judgements, no verdict."""
    noise = np.random.default_rng(11)
    for _ in range(100):
        dim, heads, depth = int(noise.choice([24, 48])), int(noise.choice([2, 4])), int(noise.integers(1, 3))
        inner = heads * 8
        layers = [
            (initial(noise, (inner, dim)), initial(noise, (2 * inner, dim)), initial(noise, (dim, inner)))
            for _ in range(depth)
        ]
        answers = head_evidence(layers, heads=heads, dim_head=8)
        assert [answer.verdict for answer in answers] == ["none", "none"]


def test_alike_rows_everywhere_are_no_evidence() -> None:
    """Structure that q and K share without belonging together: one strong direction in all rows."""
    noise = np.random.default_rng(7)
    for _ in range(20):
        direction = noise.standard_normal((1, 48))
        signs = noise.choice([-1.0, 1.0], (96, 1))
        q, kv = (normal(noise, (rows, 48)) + 0.05 * signs[:rows] * direction for rows in (32, 64))
        q *= noise.choice([-1.0, 1.0], (32, 1))
        answers = head_evidence([(q, kv, normal(noise, (48, 32)))], heads=4, dim_head=8)
        assert [answer.verdict for answer in answers] == ["none", "none"]


SILENCE = (
    Evidence("kv-order", "none", "k-first"),
    Evidence("head-partition", "none", "head-major-32"),
)


def test_nothing_to_ask() -> None:
    file = trained(ONE_TOKEN)
    assert head_evidence([], heads=4, dim_head=32) == SILENCE
    for value in (np.nan, np.inf):
        spoilt = [tuple(array.copy() for array in layer) for layer in file.layers]
        spoilt[-1][1][5, 7] = value
        assert head_evidence(spoilt, heads=4, dim_head=32) == SILENCE  # type: ignore[arg-type]
    too_large = [tuple(array.astype(np.float64) * 1e300 for array in layer) for layer in file.layers]
    assert head_evidence(too_large, heads=4, dim_head=32) == SILENCE  # type: ignore[arg-type]
    wide = np.zeros((8192, 1), np.float32)
    assert [answer.verdict for answer in head_evidence([(wide, wide, wide)], heads=256, dim_head=32)] == ["none"] * 2
    assert [answer.verdict for answer in head_evidence([(wide, wide, wide)], heads=1, dim_head=2)] == ["none"] * 2


def test_zeros_give_no_evidence() -> None:
    zeros = [(np.zeros((32, 16)), np.zeros((64, 16)), np.zeros((16, 32)))]
    order, heads = head_evidence(zeros, heads=4, dim_head=8)
    assert (order.verdict, order.score, order.margin) == ("none", 0, 0)
    assert (heads.verdict, heads.score) == ("none", 0)


def test_one_head_is_an_order_and_no_partition() -> None:
    file = trained(RECONSTRUCTION)
    order, heads = ask(file, v_first, heads=1, dim_head=128)
    assert (order.verdict, order.best) == ("contradicts", "v-first")
    assert heads == Evidence("head-partition", "none", "head-major-128")


def test_blocks_are_read_one_by_one_and_twice() -> None:
    class Counting(tuple[Attention, ...]):
        read: list[int] = []  # noqa: RUF012

        def __getitem__(self, index: Any) -> Any:
            self.read.append(index)
            return super().__getitem__(index)

    file = trained(ONE_TOKEN)
    seen: list[tuple[str, int, int]] = []
    head_evidence(Counting(file.layers), heads=4, dim_head=32, progress=lambda *step: seen.append(step))
    assert Counting.read == [0, 1, 2, 3] * 2
    assert seen == [("row order", done, 8) for done in range(1, 9)]


def test_to_dict() -> None:
    _, heads = ask(trained(ONE_TOKEN), partial(dim_major, width=32))
    assert heads.to_dict() == {
        "question": "head-partition",
        "verdict": "contradicts",
        "best": "dim-major-32",
        "declared": "head-major-32",
        "score": pytest.approx(45.8, abs=0.05),
        "margin": pytest.approx(27.3, abs=0.05),
        "cover": 1.0,
        "next": pytest.approx(29.2, abs=0.05),
        "spread": pytest.approx(1.1, abs=0.05),
        "also": [],
        "layout": "resampler-dim-major",
        "dim_head": None,
        "sentence": "the weights contradict head-major-32: they agree with dim-major-32 (Y 46, next 29)",
    }


def test_candidates() -> None:
    names = [order.name for order in orders(1280, 64)]
    assert names[:2] == ["k-first", "v-first"]
    assert {
        "interleaved-kv-64",
        "interleaved-vk-64",
        "kv-dim-major-64",
        "q-out-dim-major-64",
        "interleaved-kv-1",
    } <= set(names)
    assert "interleaved-kv-48" not in names
    assert "interleaved-kv-20" in [order.name for order in orders(1280, 20)]  # declared, and in no list
    for order in orders(1280, 64):
        rows = np.concatenate([order.keys, order.values])
        assert sorted(rows) == list(range(2560)), order.name
    for division in partitions(96, 12):
        sizes = np.bincount(division.labels)
        assert len(set(sizes)) == 1 and len(sizes) > 1
        assert (heads_of(division.name, 96) == division.labels).all()
        assert (division.labels[division.members] == np.arange(len(sizes))[:, None]).all()


def test_square_grids_have_two_names() -> None:
    order = next(order for order in orders(64, 8) if order.name == "kv-dim-major-8")
    assert order.also == ("q-out-dim-major-8",)


def test_cosines_of_tiny_huge_and_empty_rows() -> None:
    found = cosines(np.array([[1e-30, 1e-30], [1e30, 0], [0, 0]], np.float32))
    assert found == pytest.approx(np.array([[0, 0.5**0.5, 0], [0.5**0.5, 0, 0], [0, 0, 0]]))


def test_centred_rows_sum_to_nothing() -> None:
    matrix = np.random.default_rng(0).standard_normal((9, 9))
    matrix += matrix.T
    np.fill_diagonal(matrix, 0)
    found = centred(matrix)
    assert found.sum(axis=0) == pytest.approx(np.zeros(9))
    assert np.diag(found) == pytest.approx(np.zeros(9))
