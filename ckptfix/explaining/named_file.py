"""The checkpoint that an error is about: its name in the text, and the word for it on a command line."""

from __future__ import annotations

import re
import shlex
from typing import Final

from ckptfix.text import printable

DEFAULT_FILE: Final = "ip-adapter.bin"
_ADAPTER_NAME: Final = r"ip[-_]?adapter[\w.-]{0,80}\.(?:bin|safetensors|pth?|ckpt)"
_ADAPTER_FILE: Final = re.compile(  # in quotes with blanks in its path too; what stands after a blank is cut off else
    rf"(?P<quote>['\"])(?P<quoted>[^'\"\n]{{0,200}}{_ADAPTER_NAME})(?P=quote)"
    rf"|(?<![\w/\\])(?P<bare>[^\s'\"<>|()\[\],;=]{{0,200}}{_ADAPTER_NAME})\b"
)
_WINDOWS_PATH: Final = re.compile(r"[A-Za-z]:[\\/]|[^/]*\\")
_ANCHORED: Final = re.compile(r"[/~.\\]|[A-Za-z]:[\\/]")
_FOLDER_BEFORE: Final = re.compile(r"[\\/][^\s'\"\\/]{0,80} $")  # a folder whose name goes on after a blank


def command_word(file: str) -> str:
    """A path as a word of a command line. cmd.exe knows no single quotes, so a Windows path gets double ones."""
    word = shlex.quote(file)
    if word != file and _WINDOWS_PATH.match(file) and not set(file) & set('"$`%!'):
        return f'"{file}"'
    return word


def named_file(text: str) -> str | None:
    """The one adapter that the text names as a file; None if it names none, or several."""
    end = text[-50_000:]
    names = set()
    for found in _ADAPTER_FILE.finditer(end):
        if "://" in found[0]:
            continue
        half = found["bare"] and set(found["bare"]) & set("\\/") and not _ANCHORED.match(found["bare"])
        if half and _FOLDER_BEFORE.search(end, max(found.start() - 100, 0), found.start()):
            return None
        names.add(found["bare"] or found["quoted"].replace("\\\\", "\\"))  # quotes of repr double each backslash
    return printable(names.pop()) if len(names) == 1 else None
