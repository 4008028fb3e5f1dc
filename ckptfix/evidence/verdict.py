"""What the weights say, in words that claim no more than they show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Question = Literal["kv-order", "head-partition", "kv-pairs"]
Verdict = Literal["consistent", "contradicts", "none"]

_WORDS = {
    "k-first": "K-first",
    "v-first": "V-first",
    "k-then-v": "to_k_ip and to_v_ip as named",
    "v-then-k": "the two exchanged",
}
_ASKED = {
    "kv-order": "the order",
    "head-partition": "the head count",
    "kv-pairs": "whether to_k_ip and to_v_ip are exchanged",
}
_SYMBOL = {"kv-order": "Z", "head-partition": "Y", "kv-pairs": "Z"}


@dataclass(frozen=True, slots=True)
class Evidence:
    """The weights' answer to one question; it says nothing of a file that nobody trained.

    `score` is that of `best` where there is a verdict, else that of `declared`; `following` is the score of the next
    best candidate. `margin` is the least by which `best` stands out against any other one. `cover` is the share of
    heads (of layers, for "kv-pairs") that bear the order out, `spread` how unlike the rows inside one head are. All in
    standard deviations of what untrained weights give; None where nothing could be computed. `also` holds other names
    of `best`: same pairs of rows. `layout` and `dim_head` are what to declare instead, where that has a name.
    """

    question: Question
    verdict: Verdict
    declared: str
    best: str | None = None
    score: float | None = None
    margin: float | None = None
    cover: float | None = None
    following: float | None = None
    spread: float | None = None
    also: tuple[str, ...] = ()
    layout: str | None = None
    dim_head: int | None = None

    @property
    def sentence(self) -> str:
        declared, best = _named(self.declared), _named(self.best or "")
        if self.verdict == "consistent":
            rows = "" if self.question == "kv-pairs" else " rows"
            return f"the weights are consistent with {declared}{rows} ({self._numbers()})"
        if self.verdict == "contradicts":
            same = f", in other words {' or '.join(self.also)}" if self.also else ""
            return f"the weights contradict {declared}: they agree with {best}{same} ({self._numbers()})"
        return f"the weights give no evidence on {_ASKED[self.question]}"

    def _numbers(self) -> str:
        following = "" if self.following is None else f", next {self.following:.0f}"
        return f"{_SYMBOL[self.question]} {self.score or 0:.0f}{following}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "question": self.question,
            "verdict": self.verdict,
            "best": self.best,
            "declared": self.declared,
            "score": _rounded(self.score),
            "margin": _rounded(self.margin),
            "cover": _rounded(self.cover),
            "next": _rounded(self.following),
            "spread": _rounded(self.spread),
            "also": list(self.also),
            "layout": self.layout,
            "dim_head": self.dim_head,
            "sentence": self.sentence,
        }


def _named(name: str) -> str:
    return _WORDS.get(name, name)


def _rounded(number: float | None) -> float | None:
    """More digits would differ from one machine to the next."""
    return None if number is None else round(number, 3)
