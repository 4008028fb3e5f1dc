"""The commands that findings tell people to type, ready to paste."""

from __future__ import annotations

import shlex

from ckptfix.plan import Plan


def convert_command(plan: Plan, *options: str) -> str:
    """The command that converts this file."""
    return _command("convert", plan, *options, "--out fixed.safetensors")


def inspect_command(plan: Plan, *options: str) -> str:
    """The command that inspects this file."""
    return _command("inspect", plan, *options)


def _command(name: str, plan: Plan, *options: str) -> str:
    return " ".join([f"ckptfix {name}", shlex.quote(plan.manifest.source), *options])
