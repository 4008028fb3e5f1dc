"""Calls the command line in this process, as `python -m ckptfix` would."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ckptfix.cli import run


@dataclass(frozen=True, slots=True)
class Called:
    """Exit code, stdout and stderr of one command."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.document["error"]
        return found

    def findings(self, *severities: str) -> dict[str, dict[str, Any]]:
        """The findings of these severities (all if none is named) by code; the first of each."""
        wanted = severities or ("note", "warning", "error")
        found: dict[str, dict[str, Any]] = {}
        for finding in self.document["findings"]:
            if finding["severity"] in wanted:
                found.setdefault(finding["code"], finding)
        return found


def call(*arguments: str | Path) -> Called:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([str(argument) for argument in arguments])
    assert "Traceback" not in out.getvalue() + err.getvalue()
    return Called(code, out.getvalue(), err.getvalue())
