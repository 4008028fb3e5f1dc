"""What every command knows of how it was called: the options that stand before or after its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


@dataclass(slots=True)
class Settings:
    """`json` is true where stdout must hold JSON only, errors included."""

    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    json: bool = False


def settings() -> Settings:
    """The settings of the running command."""
    return click.get_current_context().ensure_object(Settings)


def settings_options(command: Decorated) -> Decorated:
    """Adds -q, -v and --debug; they set the settings and are no arguments of the function."""
    for name, flags, text in (
        ("debug", ("--debug",), "Show Python's traceback with an error."),
        ("verbose", ("-v", "--verbose"), "Say more."),
        ("quiet", ("-q", "--quiet"), "No progress, notes or hints on stderr; errors stay."),
    ):
        command = click.option(*flags, is_flag=True, expose_value=False, callback=_setter(name), help=text)(command)
    return command


def _setter(name: str) -> Callable[[click.Context, click.Parameter, bool], None]:
    def store(context: click.Context, _: click.Parameter, value: bool) -> None:
        if value:
            setattr(context.ensure_object(Settings), name, True)

    return store
