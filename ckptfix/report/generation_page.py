"""What `generate` shows a person: the pictures and what they were made of, or all that stands in the way."""

from __future__ import annotations

from ckptfix.generation import Generation, NotReadyError
from ckptfix.generation.gathering import Piece
from ckptfix.report.numbers import size
from ckptfix.report.page import LABEL, Page
from ckptfix.text import plural, printable

_SETTINGS = ("seed", "steps", "guidance", "scheduler", "ip_scale", "cn_scale", "dtype")


def generation_page(result: Generation, width: int, *, verbose: bool = False) -> Page:
    page = Page(width)
    if result.label:
        page.text(f"SELF-TEST: {result.label}", "bold yellow")
    for picture in result.pictures:
        page.text(f"{picture.path}: {picture.width} x {picture.height}, seed {picture.seed}", "bold green", hang=2)
    if result.dry_run is not None:
        page.text(f"dry run: {_tried(result)}; no picture was made", "bold green")
    page.blank()
    _add_pieces(page, result.pieces)
    page.labelled("settings", _settings(result))
    if result.dry_run is not None:
        _add_dry_run(page, result)
    if verbose:
        page.labelled("prompt", printable(result.recipe.prompt, 1000))
        page.labelled("negative", printable(result.recipe.negative_prompt, 1000))
    for error in result.preflight.absent:
        page.labelled("not here yet", printable(str(error), 1000), label_style="yellow")
        _add_cure(page, error.hint, error.details.get("commands", ()))
    return page


def problems_page(error: NotReadyError, width: int) -> Page:
    """One screen: what is there, and for each thing that is not, how to get it."""
    page = Page(width)
    page.text(f"error: {plural(len(error.problems), 'thing')} missing or wrong; nothing was loaded", "red")
    page.blank()
    _add_pieces(page, error.pieces)
    for problem in error.problems:
        page.labelled(problem.piece, printable(str(problem.error), 1000), label_style="red")
        _add_cure(page, problem.error.hint, problem.error.details.get("commands", ()))
    page.blank()
    page.text("hint: to see the wiring work without them: ckptfix generate --base tiny")
    return page


def _add_pieces(page: Page, pieces: tuple[Piece, ...]) -> None:
    for piece in pieces:
        bytes_ = f", {size(piece.size)}" if piece.size else ""
        page.labelled(piece.name, piece.found + bytes_)


def _add_cure(page: Page, hint: str, commands: list[str]) -> None:
    """Commands to copy stay whole, however long; without any the hint says what to do."""
    for command in commands:
        page.verbatim(command, "cyan", indent=2 + LABEL)
    if not commands:
        page.labelled("", hint, style="cyan")


def _tried(result: Generation) -> str:
    return "the adapter fits SDXL" if result.preflight.absent else "everything is there and fits"


def _settings(result: Generation) -> str:
    recipe = result.recipe.to_dict()
    return ", ".join(f"{name.replace('_', '-')} {recipe[name]}" for name in _SETTINGS)


def _add_dry_run(page: Page, result: Generation) -> None:
    tried = result.dry_run
    if tried is None:
        return
    page.labelled("shapes", ", ".join(f"{name} {shape}" for name, shape in tried.shapes.items()))
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in tried.tokens.items())
    page.labelled("face tokens", f"{numbers}; {tried.distance:.2f} of their length from those of no face")
