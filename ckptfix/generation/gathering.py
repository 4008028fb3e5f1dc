"""Collects what is found, what is missing and what is worth saying, so that one screen can show it all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from ckptfix.errors import CkptfixError, ExitCode
from ckptfix.text import plural

# In the order in which a person would get them.
PIECES: Final = (
    "libraries",
    "device",
    "face",
    "pose",
    "face models",
    "identity",
    "keypoints",
    "adapter",
    "verify",
    "base",
    "controlnet",
    "lora",
    "memory",
    "output",
)


@dataclass(frozen=True, slots=True)
class Piece:
    """One thing that a picture needs: what was found, and how large it is in bytes where that matters."""

    name: str
    found: str
    size: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "found": self.found, "bytes": self.size}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that stands in the way of a piece."""

    piece: str
    error: CkptfixError

    def to_dict(self) -> dict[str, Any]:
        described: dict[str, Any] = self.error.to_dict()["error"]
        return {"piece": self.piece, "exit_code": int(self.error.exit_code)} | described


class NotReadyError(CkptfixError):
    """Several things stand in the way; the exit code is the highest of theirs."""

    def __init__(self, gathering: Gathering) -> None:
        problems = gathering.sorted_problems()
        lines = [f"  {problem.piece}: {problem.error}" for problem in problems]
        super().__init__(
            "\n".join([f"{plural(len(problems), 'thing')} missing or wrong, nothing was loaded", *lines]),
            hint="to see the wiring work without them: ckptfix generate --base tiny",
            code="not-ready",
            problems=[problem.to_dict() for problem in problems],
            found=[piece.to_dict() for piece in gathering.sorted_pieces()],
        )
        self.exit_code = ExitCode(max(int(problem.error.exit_code) for problem in problems))
        self.problems = problems
        self.pieces = gathering.sorted_pieces()
        self.notes = tuple(gathering.notes)


@dataclass(slots=True)
class Gathering:
    """`say` is told every note at once: whatever stands in the way later, it has been said."""

    say: Callable[[str], None]
    pieces: list[Piece] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def found(self, name: str, what: str, size: int | None = None) -> None:
        self.pieces.append(Piece(name, what, size))

    def problem(self, name: str, error: CkptfixError) -> None:
        self.problems.append(Problem(name, error))

    def note(self, text: str) -> None:
        self.notes.append(text)
        self.say(text)

    @contextmanager
    def piece(self, name: str) -> Iterator[None]:
        """One of our errors within becomes a problem of that piece, and the block ends there."""
        try:
            yield
        except CkptfixError as error:
            self.problem(name, error)

    def sorted_pieces(self) -> tuple[Piece, ...]:
        return tuple(sorted(self.pieces, key=lambda piece: PIECES.index(piece.name)))

    def sorted_problems(self) -> tuple[Problem, ...]:
        return tuple(sorted(self.problems, key=lambda problem: PIECES.index(problem.piece)))

    def check(self) -> None:
        """Raises what stands in the way: the one error, or all of them as `NotReadyError`."""
        if len(self.problems) == 1:
            raise self.problems[0].error
        if self.problems:
            raise NotReadyError(self)
