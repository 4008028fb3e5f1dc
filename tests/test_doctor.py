"""What doctor finds in the environment, and what of it may leave the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ckptfix import doctor
from ckptfix.doctor import Checkup, Library, check_up, shown_path
from ckptfix.errors import ExitCode
from tests.absence import environment_without

ENVIRONMENT = {"HOME": "/home/alice", "HF_HOME": "/home/alice/hf", "HF_TOKEN": "hf_secret", "HF_HUB_OFFLINE": "1"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and working folder of alice's, in an environment without variables of ours."""
    folder = tmp_path / "alice"
    (folder / "work").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder / "work")
    return folder


def codes(checkup: Checkup) -> list[str]:
    return [finding.code for finding in checkup.findings if finding.severity != "note"]


def test_a_sound_environment(home: Path) -> None:
    found = check_up({"HOME": str(home)})
    assert (codes(found), found.exit_code) == ([], ExitCode.OK)
    versions = {library.name: library for library in found.libraries}
    assert versions["safetensors"].version and versions["safetensors"].extra == ""
    assert versions["torch"].wanted.startswith(">=") and versions["torch"].extra == "verify"
    assert "ruff" not in versions and "ckptfix" not in versions
    assert [folder.title for folder in found.folders] == ["this folder", "hub cache"]
    assert all(folder.free and folder.writable for folder in found.folders)
    assert found.memory and 0 < found.memory[0] <= found.memory[1]
    assert found.devices[-1].startswith("cpu, ")


def test_what_goes_into_a_bug_report_holds_no_path_and_no_secret(home: Path) -> None:
    found = check_up(
        {
            "HF_HOME": str(home / "hf"),
            "HF_TOKEN": "hf_secret",
            "HF_ENDPOINT": "https://user:secret@mirror.example",
            "https_proxy": "http://user:secret@proxy.example",
            "INSIGHTFACE_HOME": "/data/alice/faces",
            "HF_HUB_OFFLINE": "1",
        }
    )
    block, document = "\n".join(found.block), json.dumps(found.to_dict())
    assert not any(word in block for word in ("alice", "secret", "/", "example"))
    assert "secret" not in document and str(home) not in document
    assert "HF_HUB_OFFLINE=1" in block and "HF_HOME=set" in block and "HF_TOKEN=set" in block
    assert found.variables["HF_HOME"] == "~/hf" and found.variables["HTTPS_PROXY"] == "set"
    assert "torch " in block and "Python 3." in block


def test_paths_are_shown_from_the_home_folder(home: Path) -> None:
    assert shown_path(home / "a" / "b\x1b[2J") == "~/a/b\\x1b[2J"
    assert shown_path(Path("/elsewhere")) == "/elsewhere"


def test_a_version_that_is_too_old(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    libraries = (
        Library("click", "7.9", ">=8.1", ""),
        Library("numpy", None, ">=1.26", ""),
        Library("torch", "2.4.0+cu121", ">=2.4", "verify"),
        Library("diffusers", "0.24.0", ">=0.35", "generate"),
        Library("accelerate", None, ">=0.31", "generate"),
    )
    monkeypatch.setattr(doctor, "_libraries", lambda: iter(libraries))
    found = check_up({})
    assert codes(found) == ["version", "dependency", "version"]
    messages = [(finding.message, finding.hint) for finding in found.findings]
    assert messages[0] == ("click 7.9 is too old: >=8.1 is needed", "pip install 'click>=8.1'")
    assert messages[1] == ("numpy is not installed", "pip install 'numpy>=1.26'")
    assert messages[2][0] == "diffusers 0.24.0 is too old: >=0.35 is needed"
    assert messages[3] == ("not installed: accelerate", "pip install 'ckptfix[generate]'")
    assert "not installed: numpy, accelerate" in found.block
    assert found.exit_code is ExitCode.PROBLEM


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="needs permissions that bind")
def test_a_cache_that_cannot_be_written(home: Path) -> None:
    (home / "hf").mkdir(mode=0o500)
    found = check_up({"HF_HOME": str(home / "hf")})
    assert codes(found) == ["unwritable"]


def test_a_folder_that_cannot_be_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: "hf" not in str(path))
    (home / "hf").mkdir()
    found = check_up({"HF_HOME": str(home / "hf")})
    assert codes(found) == ["unwritable"]
    assert found.findings[-1].message == "the hub cache ~/hf/hub cannot be written"


def test_a_disk_that_is_full(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_LEAST_DISK", 1 << 60)
    assert codes(check_up({})) == ["disk", "disk"]


def test_unsafe_loading_is_a_problem(home: Path) -> None:
    assert codes(check_up({"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"})) == ["unsafe-loading"]
    assert codes(check_up({"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "0"})) == []


def test_without_torch_and_psutil(home: Path, tmp_path: Path) -> None:
    """What is not installed cannot be looked at; the rest is."""
    code = "import sys; from ckptfix.doctor import check_up; c = check_up({}); print(*c.devices, bool(c.memory))"
    environment = environment_without(tmp_path, "torch", "psutil") | {"HOME": str(home)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.startswith("cpu, ") and "cuda" not in done.stdout


def test_a_torch_that_cannot_be_imported(home: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken" / "torch"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise OSError('libcudart.so.12: cannot open shared object file')")
    code = "from ckptfix.doctor import check_up; print([f.message for f in check_up({}).findings if f.code == 'torch'])"
    path = os.pathsep.join([str(broken.parent), str(Path(__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": path}
    )
    assert "torch is installed but cannot be imported: libcudart.so.12" in done.stdout
