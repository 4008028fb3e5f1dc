"""Hints name the requirement that our own metadata declares."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from ckptfix import requirements
from ckptfix.errors import ExitCode
from ckptfix.requirements import is_older, missing_dependency, requirement, wanted_versions

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("name", ["torch", "diffusers", "huggingface_hub", "opencv-python-headless"])
def test_requirement_is_the_one_in_pyproject(name: str) -> None:
    declared = {line for lines in PROJECT["optional-dependencies"].values() for line in lines}
    assert requirement(name) in declared
    assert requirement(name).startswith(f"{name}>=")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("torch>=2.4; extra == 'verify'", "torch>=2.4"),
        ("Torch (>=2.4, <9) ; extra == 'x'", "Torch>=2.4,<9"),
        ("torch[opt]>=2", "torch[opt]>=2"),
        ("torch", "torch"),
        ("torchvision>=1", "torch"),
    ],
)
def test_forms_of_metadata(monkeypatch: pytest.MonkeyPatch, line: str, expected: str) -> None:
    monkeypatch.setattr(requirements, "requires", lambda _: [line])
    assert requirement("torch") == expected


def test_never_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> list[str]:
        raise PackageNotFoundError

    monkeypatch.setattr(requirements, "requires", absent)
    assert requirement("torch") == "torch"
    assert wanted_versions() == {}


def test_what_is_wanted_and_by_whom(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "click>=8.1",
        'torch >=2.4 ; extra == "verify"',
        'torch>=2.5; extra == "generate"',
        'ckptfix[hub]; extra == "all"',
    ]
    monkeypatch.setattr(requirements, "requires", lambda _: lines)
    assert wanted_versions() == {"click": (">=8.1", ""), "torch": (">=2.4", "verify")}


@pytest.mark.parametrize(
    ("version", "least", "older"),
    [
        ("2.3.1+cu121", ">=2.4", True),
        ("2.4", ">=2.4.0", False),
        ("2.10.0", ">=2.9", False),
        ("2.5.0rc1", ">=2.4", False),
        ("1.99", ">=2,<3", True),
        ("unknown", ">=1", True),
        ("1.0", "", False),
        ("1.0", "==2.0", False),
    ],
)
def test_older_by_its_numbers(version: str, least: str, older: bool) -> None:
    assert is_older(version, least) is older


def test_missing_dependency() -> None:
    error = missing_dependency("torch")
    assert error.message == "torch is not installed"
    assert error.hint == f"pip install '{requirement('torch')}'"
    assert error.exit_code is ExitCode.UNAVAILABLE
    assert error.to_dict()["error"]["dependency"] == "torch"
