"""The rules of explain: classes of trouble, each with what shows it, what it means and what to run. They are data.

A rule's `when` tables are alternatives; all that one of them asks for must hold. What may stand in them is here.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final, Literal, get_args

from ckptfix.explaining.widths import ROLES

Certainty = Literal["certain", "likely", "possible"]
CheckKind = Literal["shape", "names", "codes", "values", "none"]
CERTAINTIES: Final[tuple[Certainty, ...]] = get_args(Certainty)
_WORDINGS: Final = "wordings.toml"
_PATTERN_KEYS: Final = ("text", "model", "mismatch", "absent")
_PATTERNS_KEYS: Final = ("also", "never", "missing", "unexpected", "neither")
_NUMBERS_KEYS: Final = ("stored", "built", "rows_of", "fed", "wanted", "out")
_FLAGS: Final = ("nothing_missing", "nothing_unexpected", "loose", "families", "product", "other_axes")
_WORDS: Final = ("title", "meaning", "command", "context", "role", "certainty")


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """What a text must show. `role` says what the numbers count; title, meaning and command replace the rule's.

    On the text: `text` is found near one of `words` (in small letters), `also` all are found too, `never` none is,
    `context` names words of wordings.toml.
    On a report: `model` is its class, `missing` and `unexpected` each fit a name, `neither` fits no name at all,
    `families`: file and class hold different kinds of projection, `loose`: it did not stop the load.
    On shapes: `mismatch` fits the tensor's name, `axis` is the one that differs, and the only one unless `other_axes`;
    `stored` and `built` are its sizes.
    On a product of matrices: `rows_of` (multiples), `most_rows`, `fed`, `wanted`, `out`; `over` is a least width for
    what was fed or built. `absent` fits a key.
    """

    certainty: Certainty = "certain"
    title: str = ""
    meaning: str = ""
    command: str = ""
    role: str = ""
    context: str = ""
    text: re.Pattern[str] | None = None
    words: tuple[str, ...] = ()
    also: tuple[re.Pattern[str], ...] = ()
    never: tuple[re.Pattern[str], ...] = ()
    model: re.Pattern[str] | None = None
    missing: tuple[re.Pattern[str], ...] = ()
    unexpected: tuple[re.Pattern[str], ...] = ()
    neither: tuple[re.Pattern[str], ...] = ()
    nothing_missing: bool = False
    nothing_unexpected: bool = False
    loose: bool = False
    families: bool = False
    mismatch: re.Pattern[str] | None = None
    axis: int | None = None
    other_axes: bool = False
    stored: frozenset[int] = frozenset()
    built: frozenset[int] = frozenset()
    product: bool = False
    rows_of: frozenset[int] = frozenset()
    fed: frozenset[int] = frozenset()
    wanted: frozenset[int] = frozenset()
    out: frozenset[int] = frozenset()
    over: int = 0
    most_rows: int = 0
    absent: re.Pattern[str] | None = None

    @property
    def asks_of_report(self) -> bool:
        return bool(self.missing or self.unexpected or self.families or self.loose)


@dataclass(frozen=True, slots=True)
class Check:
    """How a diagnosis is compared with a file: by shapes, by names, by finding codes, by values, or not at all."""

    kind: CheckKind
    codes: frozenset[str] = frozenset()
    why: str = ""


@dataclass(frozen=True, slots=True)
class Trouble:
    """One class of trouble. `findings` are inspect's codes that it explains; `instead_of` are classes that it covers.

    `meaning` is said of a text, `of_file` of a checkpoint that was looked at. `sources` are the threads, or upstream
    files, that show it.
    """

    code: str
    title: str
    meaning: str
    of_file: str
    command: str
    sources: tuple[str, ...]
    whens: tuple[When, ...]
    findings: frozenset[str]
    instead_of: frozenset[str]
    check: Check


@cache
def known_troubles() -> tuple[Trouble, ...]:
    """Every rule, in the order of the files' names and within them."""
    folder = resources.files("ckptfix") / "explanations"
    files = sorted(
        (entry for entry in folder.iterdir() if entry.name.endswith(".toml") and entry.name != _WORDINGS),
        key=lambda entry: entry.name,
    )
    return tuple(trouble for file in files for trouble in load_troubles(file.read_text(encoding="utf-8"), file.name))


def load_troubles(text: str, origin: str) -> tuple[Trouble, ...]:
    """The rules in one TOML text; ValueError names the rule that breaks the form."""
    return tuple(_trouble(entry, f"{origin}: {entry.get('code')}") for entry in tomllib.loads(text)["trouble"])


def _trouble(entry: Mapping[str, Any], where: str) -> Trouble:
    _only(
        entry,
        {"code", "title", "meaning", "command", "sources", "when", "findings", "instead_of", "check", "of_file"},
        where,
    )
    if not (entry["title"] and entry["meaning"] and entry["command"] and entry["sources"]):
        raise ValueError(f"{where}: title, meaning, command and sources must say something")
    check = entry.get("check", {"kind": "none", "why": "a file alone does not show it"})
    _only(check, {"kind", "codes", "why"}, where)
    if check["kind"] not in get_args(CheckKind):
        raise ValueError(f"{where}: unknown check {check['kind']!r}")
    return Trouble(
        entry["code"],
        entry["title"],
        entry["meaning"],
        entry.get("of_file", entry["meaning"]),
        entry["command"],
        tuple(entry["sources"]),
        tuple(_when(table, where) for table in entry.get("when", [])),
        frozenset(entry.get("findings", ())),
        frozenset(entry.get("instead_of", ())),
        Check(check["kind"], frozenset(check.get("codes", ())), check.get("why", "")),
    )


def _when(table: Mapping[str, Any], where: str) -> When:
    _only(
        table,
        {*_PATTERN_KEYS, *_PATTERNS_KEYS, *_NUMBERS_KEYS, *_FLAGS, *_WORDS, "words", "axis", "over", "most_rows"},
        where,
    )
    if table.get("certainty", "certain") not in CERTAINTIES or table.get("role", "") not in {*ROLES, ""}:
        raise ValueError(f"{where}: unknown certainty or role in {table}")
    if ("text" in table) != bool(table.get("words")) or any(word != word.lower() for word in table.get("words", ())):
        raise ValueError(f"{where}: a text is looked for near words in small letters: {table}")
    values: dict[str, Any] = {
        key: table[key] for key in (*_WORDS, *_FLAGS, "axis", "over", "most_rows") if key in table
    }
    values |= {key: re.compile(table[key]) for key in _PATTERN_KEYS if key in table}
    values |= {key: tuple(map(re.compile, table[key])) for key in _PATTERNS_KEYS if key in table}
    values |= {key: frozenset(table[key]) for key in _NUMBERS_KEYS if key in table}
    return When(words=tuple(table.get("words", ())), **values)


def _only(table: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = table.keys() - known
    if unknown:
        raise ValueError(f"{where}: unknown keys {sorted(unknown)}")
