"""explain: from a pasted error, or a checkpoint, to causes, what shows them, and the one command to run."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from ckptfix.errors import ExitCode
from ckptfix.explaining.file_check import FileCheck, LookedAt, check_against, look_at
from ckptfix.explaining.matching import Evidence, Match, match
from ckptfix.explaining.named_file import DEFAULT_FILE, command_word, named_file
from ckptfix.explaining.other_reader import other_reader
from ckptfix.explaining.pasted_text import MOST_BYTES, MOST_CHARACTERS, decoded, readings
from ckptfix.explaining.statements import read_statements, wordings
from ckptfix.explaining.troubles import CERTAINTIES, Certainty, Trouble, known_troubles
from ckptfix.explaining.widths import filled, holes
from ckptfix.formats.address import is_address, location
from ckptfix.formats.address import shown as shown_name
from ckptfix.formats.bytesource import SUFFIXES, open_local, read_some
from ckptfix.formats.limits import DEFAULT_LIMITS, Limits
from ckptfix.requirements import requirement
from ckptfix.text import printable

_HEAD: Final = 65_536
_HINTED: Final = re.compile(r"(?:^|: )(ckptfix (?:inspect|convert|verify) [^;]+)$")  # a hint that ends in a command


@dataclass(frozen=True, slots=True)
class Cause:
    """One class of trouble that the text shows, and how surely. `check` compares it with a file, if one was given."""

    code: str
    title: str
    certainty: Certainty
    evidence: tuple[Evidence, ...]
    meaning: str
    command: str
    sources: tuple[str, ...]
    check: FileCheck | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "title": self.title,
            "certainty": self.certainty,
            "evidence": [evidence.to_dict() for evidence in self.evidence],
            "meaning": self.meaning,
            "command": self.command,
            "sources": list(self.sources),
            **({} if self.check is None else {"check": self.check.to_dict()}),
        }


@dataclass(frozen=True, slots=True)
class Explanation:
    """The causes, likeliest first; none means that it was not recognised, and `note` may say why.

    `kind` is what was explained. `file` and `summary` are the checkpoint that was looked at, and what it is.
    """

    source: str
    kind: Literal["text", "checkpoint"]
    causes: tuple[Cause, ...]
    note: str = ""
    file: str | None = None
    summary: str = ""

    @property
    def recognised(self) -> bool:
        return bool(self.causes)

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.OK if self.causes else ExitCode.PROBLEM

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": "ckptfix.explain/1",
            "source": self.source,
            "kind": self.kind,
            "recognised": self.recognised,
            "causes": [cause.to_dict() for cause in self.causes],
            "note": self.note,
            "file": None if self.file is None else {"path": self.file, "summary": self.summary},
        }


def explain(
    what: str | bytes | os.PathLike[str],
    *,
    file: str | os.PathLike[str] | None = None,
    source: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    progress: Callable[[str, int, int], None] | None = None,
) -> Explanation:
    """Explain a text, or a file that holds one, or a checkpoint; `file` is the checkpoint that the text is about.

    A path or an address, or a text of one line that names a file, is read: a checkpoint (by its suffix, or because it
    is no text) is inspected, anything else is taken as text. `source` is what to call the text.
    UsageError: a path that cannot be opened. Nothing in the text or the file is ever run.
    """
    if isinstance(what, str) and is_address(what):
        return _explain_checkpoint(what, limits, progress, by_name=True)
    path = _path(what)
    if path is not None:
        source = source or os.fspath(path)
        data = _read(path)
        if data is None or (Path(path).suffix.lower() in SUFFIXES and not _is_note(data)):
            return _explain_checkpoint(path, limits, progress, by_name=Path(path).suffix.lower() in SUFFIXES)
        what = data
    text = decoded(what) if isinstance(what, bytes) else str(what)
    return _explain_text(text, source or "the text", file, limits, progress)


def _path(what: str | bytes | os.PathLike[str]) -> os.PathLike[str] | None:
    if isinstance(what, bytes):
        return None
    if not isinstance(what, str):
        return what
    try:
        return Path(what) if what and "\n" not in what and len(what) < 4096 and Path(what).is_file() else None
    except (OSError, ValueError):  # a text that no system takes for a path
        return None


def _read(path: os.PathLike[str]) -> bytes | None:
    """The bytes of a text file, at most so many of its end; None for what is no text."""
    source = open_local(path)
    try:
        head = read_some(source, 0, _HEAD)
        if decoded(head) is None:
            return None
        start = max(source.size - MOST_BYTES, 0)
        return read_some(source, start, source.size - start)
    finally:
        source.close()


def _is_note(data: bytes) -> bool:
    """Whether a file named like a checkpoint holds a longer text: an error that somebody saved under a wrong name."""
    return b"Traceback (most recent call last)" in data[:_HEAD]


def _explain_text(
    text: str | None,
    source: str,
    file: str | os.PathLike[str] | None,
    limits: Limits,
    progress: Callable[[str, int, int], None] | None,
) -> Explanation:
    found = [] if not text else list(_found(text, named_file=file is not None))
    note = _note(text)
    command_file = shown_name(location(file)) if file is not None else named_file(text or "") or DEFAULT_FILE
    checked: LookedAt | None = None
    if file is not None:
        values = any(trouble.check.kind == "values" for trouble, _ in found)
        checked = look_at(file, values=values, limits=limits, progress=progress)
    causes = [_cause(trouble, shown, command_file, checked) for trouble, shown in found]
    if checked is not None:
        causes = [_as_the_file_says(cause, checked) for cause in causes]
    else:
        causes = [_of_its_reader(cause, trouble, shown) for cause, (trouble, shown) in zip(causes, found, strict=True)]
    return Explanation(
        source,
        "text",
        tuple(sorted(causes, key=_rank)),
        note,
        None if checked is None else checked.path,
        "" if checked is None else checked.summary,
    )


def _note(text: str | None) -> str:
    if text is None:
        return "it is no text"
    if not text.strip():
        return "it is empty"
    return "it is long: only its beginning and its end were looked at" if len(text) > MOST_CHARACTERS else ""


def _found(text: str, *, named_file: bool) -> Iterator[tuple[Trouble, Match]]:
    """Each trouble that the text shows, once, by where it first shows; those that another covers left out."""
    found: dict[str, tuple[Trouble, Match]] = {}
    for reading in readings(text):
        statements = read_statements(reading)
        for trouble in known_troubles():
            for when in trouble.whens:
                shown = match(when, statements, named_file=named_file) if trouble.code not in found else None
                if shown is not None:
                    found[trouble.code] = trouble, shown
                    break
    yield from sorted(
        (entry for code, entry in found.items() if not _is_covered(code, found)), key=lambda entry: entry[1].position
    )


def _is_covered(code: str, found: Mapping[str, tuple[Trouble, Match]]) -> bool:
    """Whether a trouble that says more, and as surely, is there instead."""
    certainty = CERTAINTIES.index(found[code][1].when.certainty)
    return any(
        code in trouble.instead_of and CERTAINTIES.index(shown.when.certainty) <= certainty
        for trouble, shown in found.values()
    )


def _rank(cause: Cause) -> tuple[int, int]:
    """What a file contradicts comes last, what it bears out first of its certainty."""
    verdict = cause.check.verdict if cause.check else "cannot tell"
    return CERTAINTIES.index(cause.certainty) + 3 * (verdict == "disagrees"), int(verdict != "agrees")


def _cause(trouble: Trouble, shown: Match, file: str, checked: LookedAt | None) -> Cause:
    when = shown.when
    return Cause(
        trouble.code,
        when.title or trouble.title,
        when.certainty,
        shown.evidence,
        filled(when.meaning or trouble.meaning, shown.facts, when.role),
        _command(when.command or trouble.command, file, shown.facts),
        trouble.sources,
        None if checked is None else check_against(checked, trouble.check, shown),
    )


def _as_the_file_says(cause: Cause, checked: LookedAt) -> Cause:
    """What the file contradicts is not to be mended in it: its own trouble decides what to run."""
    own = next(_file_causes(checked), None)
    if cause.check is None or cause.check.verdict != "disagrees" or own is None:
        return cause
    return replace(cause, command=own.command)


def _of_its_reader(cause: Cause, trouble: Trouble, shown: Match) -> Cause:
    """A file that another model's library could not read is that model's: it is named, and nothing is certain."""
    if trouble.check.kind != "codes" or shown.report is not None:
        return cause
    other = other_reader(shown.text, shown.position, wordings().contexts["adapter"])
    if other is None:
        return cause
    return replace(
        cause,
        certainty="likely" if cause.certainty == "certain" else cause.certainty,
        meaning=f"It is a file that `{other.function}` of {other.package} reads, not the adapter. {cause.meaning}",
        command=f"ckptfix inspect {command_word(other.where)}",
    )


def _command(template: str, file: str, facts: Mapping[str, str | int] = MappingProxyType({})) -> str:
    """`{file}` becomes the checkpoint, `{path}` and `{folder}` what the text names, `{torch}` what pip is asked for."""
    words = {"file": command_word(file)}
    for name, _ in holes(template):
        if name in ("path", "folder"):
            words[name] = command_word(printable(str(facts[name])))
        elif name != "file":
            words[name] = shlex.quote(requirement(name))
    return filled(template, words)


def _explain_checkpoint(
    path: str | os.PathLike[str],
    limits: Limits,
    progress: Callable[[str, int, int], None] | None,
    *,
    by_name: bool,
) -> Explanation:
    looked = look_at(path, limits=limits, progress=progress)
    if looked.error is not None and looked.error.code == "not-a-checkpoint" and not by_name:
        return Explanation(looked.path, "text", (), f"it is no text: it {printable(looked.error.message, 1000)}")
    causes = tuple(_file_causes(looked))
    return Explanation(looked.path, "checkpoint", causes, "", looked.path, looked.summary)


def _file_causes(looked: LookedAt) -> Iterator[Cause]:
    """One cause per kind of finding; a file without any is a cause of its own: whatever went wrong, it was not that."""
    if looked.inspection is None:
        if looked.error is not None:
            yield _file_cause(looked, looked.error.code, looked.error.message, looked.error.hint, ())
        return
    seen: set[str] = set()
    order = {"error": 0, "warning": 1}
    serious = [finding for finding in looked.inspection.findings if finding.severity in order]
    for finding in sorted(serious, key=lambda finding: order[finding.severity]):
        cause = _file_cause(looked, finding.code, finding.message, finding.hint, finding.tensors)
        if cause.code not in seen:
            seen.add(cause.code)
            yield cause
    if not serious:
        yield _file_cause(looked, "sound", looked.summary, "", ())


def _file_cause(looked: LookedAt, code: str, message: str, hint: str, tensors: tuple[str, ...]) -> Cause:
    trouble = next((trouble for trouble in known_troubles() if code in trouble.findings), None)
    evidence = (Evidence(printable(message, 1000), None, (), tensors),)
    hinted = _HINTED.search(hint)
    next_command = (looked.inspection.next_command if looked.inspection else "") or (hinted[1] if hinted else "")
    if trouble is None:
        command = next_command or f"ckptfix inspect {shlex.quote(looked.path)}"
        return Cause(code, f"inspect finds: {code}", "certain", evidence, printable(hint or message, 1000), command, ())
    constructor = looked.inspection.constructor if looked.inspection else ""
    whole = looked.inspection is not None and looked.inspection.repairable
    command = trouble.command if whole or " convert " not in trouble.command else "ckptfix inspect {file}"
    return Cause(
        trouble.code,
        trouble.title,
        "certain",
        evidence,
        filled(trouble.of_file, {"constructor": constructor}),
        next_command or _command(command, looked.path),
        trouble.sources,
    )
