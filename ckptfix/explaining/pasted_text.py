"""A pasted error as plain text: what notebooks, terminals, logs and mails put around it is taken away.

Every pattern here and in the rules is bounded, so that no text takes more than time in proportion to its length.
"""

from __future__ import annotations

import html
import itertools
import json
import re
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

MOST_BYTES: Final = 64 << 20  # of a file or pipe: notebooks with pictures are large
MOST_CHARACTERS: Final = 2_000_000  # of what is then looked at; the end matters most
_KEPT_HEAD: Final = 500_000
_LONGEST_WORD: Final = 20_000  # of a string without a blank in JSON: beyond it is a picture in base64
_AROUND: Final = 2_500  # characters around a word: no pattern of the rules reaches further
_MOST_PLACES: Final = 20
_TERMINAL: Final = range(40, 300)  # columns at which a terminal may break lines

_ESCAPES: Final = re.compile(
    r"(?:\x1b|\\x1b|\\u001b|\\033|\\e|␛)\[[0-9;?]{0,20}[A-Za-z]"  # colours, real or as their escape's text
    r"|\x1b\][^\x07\x1b]{0,500}(?:\x07|\x1b\\)"  # titles and links
    r"|\[(?:\d{1,3};){0,4}\d{1,3}m(?=[^\w\s]|[A-Z]|\s|$)"  # colours whose first byte got lost
)
_TAGS: Final = re.compile(
    r"</?(?:a|b|br|code|div|em|i|li|p|pre|span|strong|table|td|th|tr|tt|u|ul)(?:\s[^<>\n]{0,500})?/?>", re.IGNORECASE
)
_BARS: Final = re.compile(
    r"(?:[^\n|%]{0,80}:\s{0,3})?\d{1,3}%\|[^|\n]{0,200}\|\s{0,3}[\d.]{1,12}\w{0,3}/[\d.?]{1,12}\w{0,3}\s\[[^\]\n]{0,80}\]"
)
_PREFIXES: Final = re.compile(
    r"\s*(?:"
    r"(?:>[ \t]?){1,8}"  # quoted mail
    r"|[│┃║|][ \t]"  # a box around a traceback
    r"|\[?\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?(?:Z|[+-]\d\d:?\d\d)?\]?(?:[ \t]-[ \t])?"
    r"|\[?\d\d:\d\d:\d\d(?:[.,]\d{1,9})?\]?(?=[ \t-])"
    r"|\[rank\d{1,4}\]:?"
    r"|[\w.-]{1,40}[ \t]{1,20}\|[ \t]"  # docker compose
    r"|E[ \t]{2,8}(?=\S)"  # pytest
    r")"
)
_MARKS: Final = re.compile(r"[\s^~]*")
_PUNCTUATION: Final = str.maketrans(
    {"“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "\u00a0": " ", "\u200b": None, "\ufeff": None, "×": "x"}
)
_NO_TEXT: Final = ("image/", "video/", "audio/", "application/")  # beginnings of keys in a notebook's outputs
_UNREAD_KEYS: Final = frozenset({"metadata", "attachments"})


@dataclass(frozen=True, slots=True)
class Reading:
    """One way of reading the text: white space folded into single blanks; `starts` says where each line began.

    `lines` holds those lines' numbers in the text as it was given, from 1; it is empty where they say nothing.
    `lowered` is the text in small letters, character by character.
    """

    text: str
    starts: tuple[int, ...]
    lines: tuple[int, ...]
    lowered: str

    def line(self, position: int) -> int | None:
        """The number of the line that holds this character, None where the text was unpacked or joined."""
        return self.lines[bisect_right(self.starts, position) - 1] if self.lines else None

    def windows(self, words: Iterable[str]) -> list[tuple[int, int]]:
        """Where to look: what stands around these words, of each the first and the last few, merged and in order."""
        places = sorted({place for word in words for place in self._places(word)})
        windows: list[tuple[int, int]] = []
        for place in places:
            start, end = max(place - _AROUND, 0), place + _AROUND
            if windows and start <= windows[-1][1]:
                windows[-1] = windows[-1][0], end
            else:
                windows.append((start, end))
        return windows

    def _places(self, word: str) -> Iterator[int]:
        for find in (self.lowered.find, self.lowered.rfind):
            start, end = 0, len(self.lowered)
            for _ in range(_MOST_PLACES):
                place = find(word, start, end)
                if place < 0:
                    return
                yield place
                start, end = (place + 1, end) if find == self.lowered.find else (start, place)

    def bounds(self, start: int, end: int) -> tuple[int, int]:
        """Where the lines that hold these characters begin and end."""
        first = self.starts[bisect_right(self.starts, start) - 1]
        after = bisect_right(self.starts, max(end - 1, start))
        return first, self.starts[after] - 1 if after < len(self.starts) else len(self.text)


def decoded(data: bytes) -> str | None:
    """The text in these bytes, or None where they are no text."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    sample = data[:65_536]
    if sample.count(b"\0") > len(sample) // 100:
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("cp1252", "replace")
    odd = sum((char < " " and char not in "\t\n\r\f\x1b\b") or char == "�" for char in text[:65_536])
    return None if odd > len(text[:65_536]) // 50 else text


def readings(text: str) -> Iterator[Reading]:
    """The text as it stands; then with `\\n` as line ends; then with the lines joined that a terminal broke."""
    unpacked = _unpacked(text)
    numbered = unpacked is None
    plain = _without_decoration(_shortened(text if unpacked is None else unpacked))
    yield _reading(plain.split("\n"), numbered=numbered)
    if "\\n" in plain or '\\"' in plain:
        plain = plain.replace("\\\\n", "\n").replace("\\n", "\n").replace("\\t", "\t").replace('\\"', '"')
        plain = plain.replace("\\'", "'")
        yield _reading(plain.split("\n"), numbered=False)
    joined = _unbroken(plain.split("\n"))
    if joined is not None:
        yield _reading(joined, numbered=False)


def _unpacked(text: str) -> str | None:
    """All texts in a JSON document (a notebook, a log, a server's answer), one below the other; None for no JSON."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        document = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return None
    return "\n".join(_strings(document, 0))


def _strings(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        if len(value) < _LONGEST_WORD or " " in value[:_LONGEST_WORD]:
            yield value
    elif isinstance(value, list) and depth < 100:
        if value and all(isinstance(part, str) for part in value):  # a notebook keeps texts as lists of lines
            yield from _strings("".join(part if part.endswith("\n") else f"{part}\n" for part in value), depth + 1)
        else:
            for part in value:
                yield from _strings(part, depth + 1)
    elif isinstance(value, dict) and depth < 100:
        for key, part in value.items():
            code = key == "source" and "cell_type" in value  # what was typed is no error
            if not code and key not in _UNREAD_KEYS and not key.startswith(_NO_TEXT):
                yield from _strings(part, depth + 1)


def _shortened(text: str) -> str:
    """Beginning and end of a text that is too long."""
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[:_KEPT_HEAD]}\n{text[_KEPT_HEAD - MOST_CHARACTERS :]}"


def _without_decoration(text: str) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n").translate(_PUNCTUATION)
    text = _ESCAPES.sub("", text)
    if _TAGS.search(text):
        text = _TAGS.sub(" ", text)
        text = html.unescape(text)
    elif re.search(r"&(?:quot|lt|gt|amp|#39);", text):
        text = html.unescape(text)
    return _BARS.sub("", text)


def _reading(lines: list[str], *, numbered: bool) -> Reading:
    parts: list[str] = []
    starts: list[int] = []
    numbers: list[int] = []
    position = 0
    for number, line in enumerate(lines, start=1):
        kept = " ".join(_bare(line).split())
        if not kept or _MARKS.fullmatch(kept):
            continue
        starts.append(position)
        numbers.append(number)
        parts.append(kept)
        position += len(kept) + 1
    text = " ".join(parts)
    lowered = text.lower()
    if len(lowered) != len(text):  # a few letters become two
        lowered = "".join(char if len(char.lower()) != 1 else char.lower() for char in text)
    return Reading(text, tuple(starts), tuple(numbers) if numbered else (), lowered)


def _bare(line: str) -> str:
    """A line without what was put before it, however often, and without the right edge of a box."""
    for _ in range(4):
        found = _PREFIXES.match(line)
        if found is None or not found[0].strip():
            break
        line = line[found.end() :]
    return line.rstrip().removesuffix("│").removesuffix("┃")


def _unbroken(lines: list[str]) -> list[str] | None:
    """Lines of exactly the terminal's width joined to the next ones; None where no width shows."""
    widths = [len(line) for line in lines]
    width = max(widths, default=0)
    if width not in _TERMINAL or width not in widths[:-1]:
        return None
    joined = [lines[0]]
    for before, line in itertools.pairwise(lines):
        if len(before) == width:
            joined[-1] += line
        else:
            joined.append(line)
    return joined


def read_end(stream: BinaryIO) -> bytes:
    """All of a stream, or at most `MOST_BYTES` of its end, since that is where an error stands."""
    kept: deque[bytes] = deque()
    size = 0
    while chunk := stream.read(1 << 20):
        kept.append(chunk)
        size += len(chunk)
        while size - len(kept[0]) >= MOST_BYTES:
            size -= len(kept.popleft())
    return b"".join(kept)[-MOST_BYTES:]
