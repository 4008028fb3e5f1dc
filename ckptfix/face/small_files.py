"""Input files that are no checkpoints, mostly read whole: pictures, embeddings, keypoints, detectors."""

from __future__ import annotations

import os
from contextlib import closing
from typing import Final

from ckptfix.errors import UnreadableError, UsageError
from ckptfix.formats.bytesource import LocalFile, open_local, read_at

_GUESS: Final = "did you mean"


def open_named(path: str | os.PathLike[str], what: str) -> LocalFile:
    """`open_local` for a file that is no checkpoint; `what` says what it should be, for the hints."""
    try:
        return open_local(path)
    except UsageError as error:
        if error.code == "folder":
            error.hint = f"name {what}, not a folder"
        elif not error.hint.startswith(_GUESS):
            error.hint = f"check the path: it must name {what}"
        raise


def read_small_file(path: str | os.PathLike[str], *, what: str, limit: int) -> bytes:
    """The bytes of a file of at most `limit` bytes.

    UsageError for what is missing or no regular file, UnreadableError for what may not be read or is too large.
    """
    with closing(open_named(path, what)) as source:
        if source.size > limit:
            raise UnreadableError(
                f"holds {source.size:,} bytes, more than the {limit:,} that {what} may have",
                hint=f"check that it is {what}",
                code="too-large",
                source=source.name,
            )
        if source.size == 0:
            raise UnreadableError(
                "is empty (0 bytes)", hint="get the file again", code="empty-file", source=source.name
            )
        return read_at(source, 0, source.size)
