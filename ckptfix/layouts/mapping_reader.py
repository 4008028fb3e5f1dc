"""The TOML text of a mapping, and the line that a complaint about it belongs to."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from ckptfix.errors import MappingError
from ckptfix.layouts.template import HOLE, HOLE_NAMES, Template


class MappingReader:
    """Reads one mapping text and knows on which line a complaint belongs."""

    def __init__(self, text: str, origin: str) -> None:
        self.lines = text.splitlines()
        self.origin = origin
        self.section: range | None = None  # the lines of the table that is being read
        try:
            self.data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            line = re.search(r"at line (\d+)", str(error))
            raise MappingError(
                f"not valid TOML: {error}",
                hint="fix the line named above",
                source=origin,
                line=int(line[1]) if line else len(self.lines),
            ) from error

    def fail(self, problem: str, needle: str) -> MappingError:
        """The error for the last line of the present table that holds `needle`, else for the table's header."""
        whole = re.compile(rf"(?<![\w.{{]){re.escape(needle)}(?![\w.}}])")
        places = range(len(self.lines)) if self.section is None else self.section
        found = (place + 1 for place in reversed(places) if whole.search(self.lines[place]))
        line = next(found, None if self.section is None else self.section.start + 1)
        where = f"line {line}: " if line else ""
        return MappingError(
            where + problem,
            hint="`ckptfix layouts NAME` prints a mapping that works, to compare with",
            source=self.origin,
            line=line,
        )

    def enter(self, header: str | None, number: int = 0) -> None:
        """Complaints from now on are about the `number`-th table with this header; None: about the whole file."""
        starts = [place for place, line in enumerate(self.lines) if header and line.strip().startswith(header)]
        self.section = None
        if number < len(starts):
            after = range(starts[number] + 1, len(self.lines))
            end = next((place for place in after if self.lines[place].startswith("[")), len(self.lines))
            self.section = range(starts[number], end)

    def table(self, key: str, allowed: set[str] | None = None) -> dict[str, Any]:
        self.enter(f"[{key}]")
        value = self.data.get(key, {})
        if not isinstance(value, dict):
            raise self.fail(f"[{key}] must be a table", key)
        self.known(value, allowed, f"[{key}]")
        return value

    def tables(self, key: str, allowed: set[str]) -> Iterator[dict[str, Any]]:
        value = self.data.get(key, [])
        self.enter(None)
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise self.fail(f"{key} must be written as [[{key}]]", key)
        for number, entry in enumerate(value):
            self.enter(f"[[{key}]]", number)
            self.known(entry, allowed, f"[[{key}]]")
            yield entry

    def known(self, table: Mapping[str, Any], allowed: set[str] | None, where: str) -> None:
        unknown = [key for key in table if allowed is not None and key not in allowed]
        if unknown:
            names = ", ".join(sorted(allowed or ()))
            raise self.fail(f"unknown key {unknown[0]!r} in {where}; known: {names}", unknown[0])

    def strings(self, table: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
        value = table.get(key, [])
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or not all(isinstance(text, str) and text for text in listed):
            raise self.fail(f"{where}.{key} must be a text or a list of texts", key)
        return tuple(listed)

    def choice(self, table: Mapping[str, Any], key: str, choices: tuple[str, ...], default: str | None) -> Any:
        value = table.get(key, default)
        if value is not None and value not in choices:
            raise self.fail(f"{key} = {value!r} is not one of {', '.join(choices)}", key)
        return value

    def template(self, text: str, *, rest: bool, site_is_path: bool = False) -> Template:
        for hole in HOLE.findall(text):
            if hole not in HOLE_NAMES:
                raise self.fail(f"unknown hole {{{hole}}}; known: {', '.join(HOLE_NAMES)}", text)
            if hole == "rest" and not rest:
                raise self.fail("{rest} may stand only in [[drop]] and in a wrapper", text)
        if "{" in HOLE.sub("", text) or "}" in HOLE.sub("", text):
            raise self.fail(f"unbalanced braces in {text!r}", text)
        if any(len(HOLE.findall(component)) > 1 for component in text.split(".")):
            raise self.fail(f"two holes in one component of {text!r}", text)
        return Template(text, site_is_path)
