"""What programs state of tensors in an error: which are missing, which shapes differ, which key was not there.

How they word it, in each version, is data: explanations/wordings.toml.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Final, Literal, get_args

from ckptfix.explaining.pasted_text import Reading

Kind = Literal["report", "missing", "unexpected", "mismatch", "product", "absent"]
_NAME: Final = re.compile(r"[\w.-]{1,300}")
_MOST_NAMES: Final = 20_000
_MOST_STATEMENTS: Final = 5_000  # of one wording
_NEAR: Final = 2_000  # characters between two statements of one report that has no headline
_PREFIX: Final = re.compile(
    r"(?:module|_orig_mod|model|image_proj_model|image_proj|image_projection_layers\.\d{1,3}|encoder_hid_proj)\."
)


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One tensor that is stored in one shape while the code built another."""

    name: str
    stored: tuple[int, ...]
    built: tuple[int, ...]
    span: tuple[int, int]

    def axes(self) -> tuple[int, ...]:
        """The axes on which the shapes differ; none where one of them has more axes than the other."""
        if len(self.stored) != len(self.built):
            return ()
        return tuple(axis for axis, pair in enumerate(zip(self.stored, self.built, strict=True)) if pair[0] != pair[1])


@dataclass(slots=True)
class Report:
    """All that one attempt to load a state dict complained of; `model` is the class, empty where it is not named.

    `loose` is set where missing names did not stop it (strict=False).
    """

    model: str = ""
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatches: list[Mismatch] = field(default_factory=list)
    loose: bool = False
    spans: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix product that cannot be: `fed` numbers per row, of `rows` rows, to a layer `wanted` -> `out`."""

    rows: int
    fed: int
    wanted: int
    out: int
    span: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Absent:
    """A key that a program asked a dictionary for in vain."""

    name: str
    span: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Statements:
    """All statements of one reading, in order of appearance."""

    reading: Reading
    reports: tuple[Report, ...]
    products: tuple[Product, ...]
    absents: tuple[Absent, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of image projection, known by names that only it has."""

    name: str
    title: str
    names: re.Pattern[str]


@dataclass(frozen=True, slots=True)
class Wording:
    """How a program says it. `begins` are the first letters of whatever the pattern fits: they are looked for.

    `name` is the tensor that it is about, where the words themselves do not name one.
    """

    says: Kind
    begins: tuple[str, ...]
    pattern: re.Pattern[str]
    name: str = ""

    def found_in(self, text: str) -> Iterator[re.Match[str]]:
        for beginning in self.begins:
            position = text.find(beginning)
            for _ in range(_MOST_STATEMENTS):
                if position < 0:
                    break
                found = self.pattern.match(text, position)
                if found is not None:
                    yield found
                position = text.find(beginning, found.end() if found else position + 1)


@dataclass(frozen=True, slots=True)
class Wordings:
    """Everything in wordings.toml: wordings, words that show what a text is about, kinds of projection."""

    wordings: tuple[Wording, ...]
    contexts: Mapping[str, re.Pattern[str]]
    families: tuple[Family, ...]

    def family(self, names: Iterable[str]) -> Family | None:
        """The kind of projection whose names are among these, whatever stands before them; the first that fits."""
        bare = [bare_name(name) for name in names]
        return next((family for family in self.families if any(map(family.names.fullmatch, bare))), None)


@cache
def wordings() -> Wordings:
    text = (resources.files("ckptfix") / "explanations" / "wordings.toml").read_text(encoding="utf-8")
    data = tomllib.loads(text)
    kinds = get_args(Kind)
    for entry in data["wording"]:
        if entry["says"] not in kinds or not entry["seen"] or not entry["begins"]:
            raise ValueError(f"wordings.toml: {entry}")
    return Wordings(
        tuple(
            Wording(entry["says"], tuple(entry["begins"]), re.compile(entry["pattern"]), entry.get("name", ""))
            for entry in data["wording"]
        ),
        {name: re.compile(pattern) for name, pattern in data["context"].items()},
        tuple(Family(entry["name"], entry["title"], re.compile("|".join(entry["names"]))) for entry in data["family"]),
    )


def bare_name(name: str) -> str:
    """A tensor's name without what containers and wrappers put before it."""
    while (found := _PREFIX.match(name)) is not None:
        name = name[found.end() :]
    return name


def read_statements(reading: Reading) -> Statements:
    found = [(wording, match) for wording in wordings().wordings for match in wording.found_in(reading.text)]
    found.sort(key=lambda entry: entry[1].start())
    products, absents = [], []
    for wording, match in found:
        kind = wording.says
        if kind == "product":
            rows, fed, wanted, out = (int(match[name]) for name in ("rows", "fed", "wanted", "out"))
            products.append(Product(rows, fed, wanted, out, match.span()))
        elif kind == "absent":
            absents.append(Absent(match["name"], match.span()))
    return Statements(reading, tuple(_reports(found)), tuple(products), tuple(absents))


def _reports(found: list[tuple[Wording, re.Match[str]]]) -> Iterator[Report]:
    """One report per headline; statements without one belong together while they stand near each other."""
    report: Report | None = None
    for wording, match in found:
        kind = wording.says
        if kind not in ("report", "missing", "unexpected", "mismatch"):
            continue
        far = report is not None and match.start() - report.spans[-1][1] > _NEAR
        if report is None or kind == "report" or far:
            if report is not None:
                yield report
            report = Report()
        _add(report, wording, match)
    if report is not None:
        yield report


def _add(report: Report, wording: Wording, match: re.Match[str]) -> None:
    groups = match.groupdict()
    report.spans.append(match.span())
    report.model = groups.get("model") or report.model
    if wording.says == "mismatch":
        stored, built = _shape(match["stored"]), _shape(match["built"])
        if stored != built:
            report.mismatches.append(Mismatch(groups.get("name") or wording.name, stored, built, match.span()))
    if groups.get("missing"):
        report.missing += _names(match["missing"])
    if groups.get("unexpected"):
        report.unexpected += _names(match["unexpected"])
    if groups.get("loose") is not None:
        report.loose = True


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in re.findall(r"\d{1,12}", text))


def _names(text: str) -> list[str]:
    found = (name[0].strip(".") for name in itertools.islice(_NAME.finditer(text), _MOST_NAMES))
    return list(dict.fromkeys(name for name in found if any(char.isalpha() for char in name)))
