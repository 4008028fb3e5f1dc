"""The environment: versions, devices, memory, disk, caches and variables, and what is wrong with them.

Nothing is downloaded and nothing is written. What goes into a bug report holds no path and no secret.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from ckptfix import __version__
from ckptfix.errors import ExitCode, UnavailableError
from ckptfix.findings import Finding
from ckptfix.generation.places import hub_cache
from ckptfix.requirements import installed_version, is_older, requirement, wanted_versions
from ckptfix.text import printable

_EXTRAS: Final = ("", "verify", "generate", "hub")
_BESIDES: Final = ("torch", "diffusers", "transformers", "insightface", "peft", "xformers")  # what errors are about
_STANDS_FOR: Final = {"opencv-python-headless": ("opencv-python", "opencv-contrib-python")}
_LEAST_DISK: Final = 2_000_000_000  # bytes: InstantID's adapter takes 1.7 GB
_PATHS: Final = (
    "HF_HOME",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "XDG_CACHE_HOME",
    "INSIGHTFACE_HOME",
    "COMFYUI_PATH",
)
_SWITCHES: Final = (
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_HUB_DISABLE_PROGRESS_BARS",
    "CUDA_VISIBLE_DEVICES",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD",
)
_SECRETS: Final = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_UNSAFE: Final = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


@dataclass(frozen=True, slots=True)
class Library:
    """A package: the version that is there (None: none), what we ask for, and the extra that asks for it."""

    name: str
    version: str | None
    wanted: str
    extra: str

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "version": self.version, "wanted": self.wanted, "extra": self.extra}


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that matters, with the home folder as ~; `free` bytes on its disk, None where that is unknown."""

    title: str
    path: str
    exists: bool
    writable: bool
    free: int | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "path": self.path,
            "exists": self.exists,
            "writable": self.writable,
            "free": self.free,
        }


@dataclass(frozen=True, slots=True)
class Checkup:
    """All that doctor found. `devices` are words; `memory` is bytes available and in all, None where unknown.

    `variables` maps names to what may be shown of them: values that can hold a secret are only "set".
    """

    system: str
    python: str
    libraries: tuple[Library, ...]
    devices: tuple[str, ...]
    memory: tuple[int, int] | None
    folders: tuple[Folder, ...]
    variables: Mapping[str, str]
    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> ExitCode:
        serious = any(finding.severity != "note" for finding in self.findings)
        return ExitCode.PROBLEM if serious else ExitCode.OK

    @property
    def block(self) -> tuple[str, ...]:
        """Lines for a bug report: versions, devices and switches; no path, no name of a user, no secret."""
        there = [library for library in self.libraries if library.version]
        lines = [f"ckptfix {__version__}, Python {self.python}, {self.system}"]
        lines.append(", ".join(f"{library.name} {library.version}" for library in there))
        absent = [library.name for library in self.libraries if not library.version and library.wanted]
        if absent:
            lines.append(f"not installed: {', '.join(absent)}")
        lines.extend(f"device: {device}" for device in self.devices)
        if self.memory:
            lines.append(f"memory: {_gigabytes(self.memory[0])} available of {_gigabytes(self.memory[1])}")
        lines.extend(
            f"free disk, {folder.title}: {_gigabytes(folder.free)}"
            for folder in self.folders
            if folder.free is not None
        )
        shown = {name: "set" if name in _PATHS else value for name, value in self.variables.items()}
        if shown:
            lines.append(", ".join(f"{name}={value}" for name, value in shown.items()))
        lines.extend(f"{finding.severity}: {finding.code}" for finding in self.findings if finding.severity != "note")
        return tuple(lines)

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": "ckptfix.doctor/1",
            "ckptfix": __version__,
            "system": self.system,
            "python": self.python,
            "libraries": [library.to_dict() for library in self.libraries],
            "devices": list(self.devices),
            "memory": None if self.memory is None else {"available": self.memory[0], "total": self.memory[1]},
            "folders": [folder.to_dict() for folder in self.folders],
            "variables": dict(self.variables),
            "findings": [finding.to_dict() for finding in self.findings],
            "block": list(self.block),
        }


def check_up(environment: Mapping[str, str] = os.environ) -> Checkup:
    """Look at everything that decides whether the commands can work here."""
    libraries = tuple(_libraries())
    devices, trouble = _devices()
    folders = tuple(_folders(environment))
    variables = dict(_variables(environment))
    findings = (*_version_findings(libraries), *trouble, *_folder_findings(folders), *_variable_findings(variables))
    return Checkup(
        f"{platform.system()} {platform.release()} {platform.machine()}",
        platform.python_version(),
        libraries,
        tuple(devices),
        _memory(),
        folders,
        variables,
        findings,
    )


def _libraries() -> Iterator[Library]:
    asked = wanted_versions()
    for name, (wanted, extra) in asked.items():
        if extra in _EXTRAS:
            names = (name, *_STANDS_FOR.get(name, ()))
            yield Library(name, next(filter(None, map(installed_version, names)), None), wanted, extra)
    for name in _BESIDES:
        found = installed_version(name)
        if name not in asked and found:
            yield Library(name, found, "", "")


def _version_findings(libraries: tuple[Library, ...]) -> Iterator[Finding]:
    for library in libraries:
        ask = f"pip install '{requirement(library.name)}'"
        if library.version is None:
            if not library.extra and library.wanted:
                yield Finding("dependency", "error", f"{library.name} is not installed", ask)
        elif is_older(library.version, library.wanted):
            message = f"{library.name} {library.version} is too old: {library.wanted} is needed"
            yield Finding("version", "error", message, ask)
    lacking = [library for library in libraries if library.version is None and library.extra]
    for extra in dict.fromkeys(library.extra for library in lacking):
        names = ", ".join(library.name for library in lacking if library.extra == extra)
        yield Finding("optional", "note", f"not installed: {names}", f"pip install 'ckptfix[{extra}]'")


def _devices() -> tuple[list[str], list[Finding]]:
    """In words; torch is imported here and nowhere else, and may be absent or broken."""
    cpu = f"cpu, {os.cpu_count() or 1} cores"
    try:
        from ckptfix.devices import present_devices
    except UnavailableError:
        return [cpu], []
    except (ImportError, OSError) as error:  # a system library that it wants is not there, or another one is
        reason = printable(str(error).strip().splitlines()[0], 200) if str(error).strip() else type(error).__name__
        again = f"pip install --force-reinstall '{requirement('torch')}'"
        return [cpu], [Finding("torch", "error", f"torch is installed but cannot be imported: {reason}", again)]
    present, reasons = present_devices()
    words = [
        f"{device.kind}, {device.name}"
        + (f", {_gigabytes(device.free)} free of {_gigabytes(device.total)}" if device.total else "")
        for device in present
    ]
    notes = [] if present else [Finding("no-gpu", "note", f"no GPU to use: {'; '.join(reasons)}")]
    return [*words, cpu], notes


def _memory() -> tuple[int, int] | None:
    if find_spec("psutil") is not None:  # comes with accelerate
        memory = import_module("psutil").virtual_memory()
        return int(memory.available), int(memory.total)
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        return page * os.sysconf("SC_AVPHYS_PAGES"), page * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on this system
        return None


def _folders(environment: Mapping[str, str]) -> Iterator[Folder]:
    for title, path in (("this folder", Path.cwd()), ("hub cache", hub_cache(environment))):
        existing = next((place for place in (path, *path.parents) if place.exists()), Path(path.anchor or "."))
        try:
            free: int | None = shutil.disk_usage(existing).free
        except OSError:
            free = None
        yield Folder(title, shown_path(path), path.exists(), os.access(existing, os.W_OK | os.X_OK), free)


def shown_path(path: Path) -> str:
    """With ~ for the home folder, escaped."""
    home = Path.home()
    inside = path.is_relative_to(home) and home != Path(home.anchor)
    return printable(f"~/{path.relative_to(home)}" if inside else str(path), 1000)


def _folder_findings(folders: tuple[Folder, ...]) -> Iterator[Finding]:
    for folder in folders:
        if not folder.writable:
            yield Finding(
                "unwritable",
                "error",
                f"the {folder.title} {folder.path} cannot be written",
                "take another (HF_HUB_CACHE, HF_HOME), or ask for the permission"
                if folder.title == "hub cache"
                else "change to a folder of your own",
            )
        elif folder.free is not None and folder.free < _LEAST_DISK:
            yield Finding(
                "disk",
                "warning",
                f"only {_gigabytes(folder.free)} are free where the {folder.title} is; an adapter takes up to 1.7 GB",
                "free space there",
            )


def _variables(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name in (*_SWITCHES, *_PATHS, *_SECRETS):
        value = environment.get(name) or environment.get(name.lower())
        if value:
            secret = name in _SECRETS
            yield name, "set" if secret else shown_path(Path(value)) if name in _PATHS else printable(value, 100)


def _variable_findings(variables: Mapping[str, str]) -> Iterator[Finding]:
    if variables.get(_UNSAFE, "").lower() in {"1", "y", "yes", "true"}:
        yield Finding(
            "unsafe-loading",
            "warning",
            f"{_UNSAFE} is set: torch.load runs whatever code a .bin holds",
            f"unset {_UNSAFE}",
        )


def _gigabytes(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 1e9:.1f} GB"
