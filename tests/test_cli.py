"""The contract of the command line: streams, exit codes, JSON, errors, signals, and the words of --help."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

import ckptfix
from ckptfix.cli import COMMANDS, cli, run
from tests.absence import environment_without
from tests.fixtures.make_checkpoints import (
    canonical,
    renamed,
    save_nested_bin,
    save_safetensors,
    split_kv,
    without,
)
from tests.onnx_models import write_pack

ROOT = Path(__file__).parents[1]
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 1691134141\n"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command line in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(arguments)
        streams = capsys.readouterr()
        return code, streams.out, streams.err

    return call


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    """ip-adapter.bin: a whole adapter whose latents are called queries."""
    return save_nested_bin(tmp_path / "ip-adapter.bin", renamed(canonical(), ".latents", ".queries"))


def process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    options = {"capture_output": True, "text": True, "timeout": 60} | options
    return subprocess.run([sys.executable, "-m", "ckptfix", *arguments], check=False, **options)


# -- help and versions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_every_command(command: Run, flag: str) -> None:
    code, out, err = command(flag)
    assert (code, err) == (0, "")
    assert all(re.search(rf"^  {name} +{re.escape(text)}$", out, re.MULTILINE) for name, text in COMMANDS.items())
    assert max(map(len, out.splitlines())) <= 80


def test_no_command_is_the_same_as_help(command: Run) -> None:
    assert command() == command("--help")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(command: Run, name: str) -> None:
    code, out, err = command(name, "-h")
    assert (code, err) == (0, "")
    assert "Example" in out and f"      ckptfix {name}" in out
    assert max(map(len, out.splitlines())) <= 80
    found = cli.get_command(None, name)  # type: ignore[arg-type]
    assert found is not None and found.get_short_help_str(100) == COMMANDS[name]
    shown = [option for option in found.params if isinstance(option, click.Option) and not option.hidden]
    assert {option.name for option in shown if not option.help} <= {"device"}


@pytest.mark.parametrize("position", [0, 1], ids=["before", "after"])
@pytest.mark.parametrize("flag", ["-q", "--quiet", "-v", "--verbose", "--debug"])
def test_general_options_stand_before_or_after_the_command(command: Run, flag: str, position: int) -> None:
    arguments = ["layouts"]
    arguments.insert(position, flag)
    assert command(*arguments)[0] == 0


def test_version_names_the_optional_parts(command: Run) -> None:
    code, out, _ = command("--version")
    first, *rest = out.splitlines()
    assert code == 0
    assert first.startswith(f"ckptfix {ckptfix.__version__} (Python 3.")
    assert {line.split()[0] for line in rest} >= {"torch", "diffusers", "onnxruntime"}


# -- usage errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["inpect", "x"], "there is no command 'inpect'", "did you mean `ckptfix inspect`?"),
        (["frobnicate"], "there is no command 'frobnicate'", "ckptfix --help lists the commands"),
        (["inspect"], "missing argument 'FILE...'", "ckptfix inspect --help lists the options"),
        (
            ["convert", "x.bin"],
            "missing option '--out' / '-o' / '--output'",
            "ckptfix convert --help lists the options",
        ),
        (
            ["inspect", "--jsn", "x"],
            "there is no option --jsn",
            "did you mean --json? ckptfix inspect --help lists the options",
        ),
        (["inspect", "--bogus", "x"], "there is no option --bogus", "ckptfix inspect --help lists the options"),
        (
            ["verify", "x", "--dtype", "float8"],
            "invalid value for '--dtype': 'float8' is not one of 'float32', 'float16', 'bfloat16'",
            "ckptfix verify --help lists the options",
        ),
        (
            ["completion", "tcsh"],
            "invalid value for '{bash|zsh|fish|powershell}'",
            "ckptfix completion --help lists the options",
        ),
        (
            ["layouts", "nonsense"],
            "unknown layout 'nonsense'",
            "known layouts: canonical, instantid, ",
        ),
    ],
)
def test_wrong_usage_is_exit_2(command: Run, arguments: list[str], message: str, hint: str) -> None:
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    first, second = err.splitlines()
    assert first.startswith(f"error: {message}")
    assert second.startswith(f"hint: {hint}")


def test_a_file_that_is_not_there(command: Run) -> None:
    code, out, err = command("inspect", "missing.bin")
    assert (code, out) == (2, "")
    assert err.startswith("error: missing.bin: ")


@pytest.mark.parametrize("arguments", [["inspect", "--bogus"], ["inspect"], ["nothing"], ["verify", "none.bin"]])
def test_json_also_when_the_usage_is_wrong(command: Run, arguments: list[str]) -> None:
    code, out, err = command(*arguments, "--json")
    document = json.loads(out)
    assert code == 2
    assert document["schema"] == "ckptfix.error/1"
    assert document["error"].keys() >= {"code", "message", "hint"}
    assert err.startswith("error: ") and document["error"]["message"] in err


def test_json_after_dashes_is_a_file_name(command: Run) -> None:
    code, out, err = command("inspect", "--", "--json")
    assert (code, out) == (2, "")
    assert err.startswith("error: --json: ")


# -- inspect -----------------------------------------------------------------------------------------------------------


def test_inspect_exit_codes(command: Run, queries: Path, tmp_path: Path) -> None:
    save_safetensors(tmp_path / "good.safetensors", canonical())
    (tmp_path / "lfs.bin").write_text(LFS)
    assert command("inspect", "good.safetensors")[0] == 0
    assert command("inspect", "ip-adapter.bin")[0] == 1
    assert command("inspect", "lfs.bin")[0] == 3


def test_inspect_json_is_what_the_library_says(command: Run, queries: Path) -> None:
    code, out, err = command("inspect", "--json", "ip-adapter.bin")
    assert (code, err) == (1, "")
    assert json.loads(out) == json.loads(json.dumps(ckptfix.inspect("ip-adapter.bin").to_dict()))


def test_several_files_make_one_document_and_none_stops_the_rest(command: Run, queries: Path, tmp_path: Path) -> None:
    (tmp_path / "lfs.bin").write_text(LFS)
    code, out, err = command("inspect", "--json", "lfs.bin", "missing.bin", "ip-adapter.bin", "hf://a/b")
    document = json.loads(out)
    assert code == 3
    assert document["schema"] == "ckptfix.inspect-list/1"
    schemas = [result["schema"] for result in document["results"]]
    assert schemas == ["ckptfix.error/1", "ckptfix.error/1", "ckptfix.inspect/1", "ckptfix.error/1"]
    files = [result["error"]["file"] for result in document["results"] if "error" in result]
    assert files == ["lfs.bin", "missing.bin", "hf://a/b"]
    assert err.count("error: ") == 3


def test_ndjson_is_one_line_per_file(command: Run, queries: Path, tmp_path: Path) -> None:
    (tmp_path / "lfs.bin").write_text(LFS)
    code, out, _ = command("inspect", "--ndjson", "ip-adapter.bin", "lfs.bin")
    first, second = map(json.loads, out.splitlines())
    assert (code, first["schema"], second["schema"]) == (3, "ckptfix.inspect/1", "ckptfix.error/1")
    code, out, _ = command("inspect", "--ndjson", "lfs.bin")
    assert (code, json.loads(out)["error"]["code"]) == (3, "lfs-pointer")


def test_text_from_a_file_cannot_steer_the_terminal(command: Run, tmp_path: Path) -> None:
    hostile = "image_proj.\x1b[2J[red]\x07\u202egood[/red]"
    save_nested_bin(tmp_path / "evil.bin", canonical() | {hostile: canonical()["image_proj.latents"]})
    code, out, err = command("inspect", "evil.bin")
    assert (code, err) == (1, "")
    assert "image_proj.\\x1b[2J[red]\\x07\\u202egood[/red]" in out
    assert not set(out) & {"\x1b", "\x07", "\u202e"}
    code, out, err = command("inspect", "--json", "evil.bin")
    assert out.isascii()
    assert json.loads(out)["unexpected"] == [hostile]


@pytest.mark.skipif(sys.platform != "linux", reason="needs names that are no UTF-8")
@pytest.mark.parametrize("arguments", [["inspect"], ["inspect", "--json"], ["inspect", "--ndjson"]])
def test_a_path_that_is_no_utf8(queries: Path, tmp_path: Path, arguments: list[str]) -> None:
    odd = os.fsencode(tmp_path) + b"/caf\xe9.bin"
    os.rename(queries, odd)  # noqa: PTH104 - a name in bytes
    program = [os.fsencode(word) for word in (sys.executable, "-m", "ckptfix", *arguments)]
    done = subprocess.run([*program, odd], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (1, b"")
    text = done.stdout.decode("ascii" if len(arguments) > 1 else "utf-8")
    assert "caf\\udce9.bin" in text.replace("\\\\", "\\")
    if len(arguments) > 1:
        assert json.loads(text)["file"]["path"].endswith("caf\\udce9.bin")


# -- explain -----------------------------------------------------------------------------------------------------------

DIVISOR = "ValueError: dim (2048) must be divisible by heads (12)"


def piped(monkeypatch: pytest.MonkeyPatch, data: bytes, *, terminal: bool = False) -> None:
    stream = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setattr("sys.stdin", stream)
    monkeypatch.setenv("TERM", "xterm")


def test_explain_reads_a_file_a_pipe_or_a_text(command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "error.txt").write_text(DIVISOR)
    code, out, err = command("explain", "error.txt")
    assert (code, err) == (0, "")
    assert out.startswith("error.txt: 1 cause\n\nThe class is not the adapter's")
    assert "  run          ckptfix inspect ip-adapter.bin\n" in out
    assert max(map(len, out.splitlines())) <= 80
    for arguments in (["explain"], ["explain", "-"]):
        piped(monkeypatch, DIVISOR.encode())
        assert command(*arguments) == (0, out.replace("error.txt", "standard input"), "")
    assert command("explain", DIVISOR) == (0, out.replace("error.txt", "the text"), "")


def test_explain_never_waits_in_silence(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    piped(monkeypatch, DIVISOR.encode(), terminal=True)
    code, out, err = command("explain")
    assert (code, out) == (2, "")
    assert err == (
        "error: nothing to explain: no FILE was named, and nothing is piped in\n"
        "hint: name a text file: ckptfix explain error.txt; or pipe: python infer.py 2>&1 | ckptfix explain\n"
    )
    code, out, err = command("explain", "-")
    assert (code, err) == (0, "paste the error, then end with Ctrl-D (Windows: Ctrl-Z, Enter)\n")


def test_explain_does_not_guess(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    piped(monkeypatch, b"")
    code, out, err = command("explain")
    assert (code, err) == (1, "")
    assert out.startswith("standard input: not recognised: it is empty\n")
    assert command("explain", "what is the weather like")[0] == 1
    code, out, err = command("explain", "eror.txt")
    assert (code, out) == (2, "")
    assert err.startswith("error: eror.txt: no such file\n")


def test_explain_checks_the_file(command: Run, queries: Path) -> None:
    text = 'Missing key(s) in state_dict: "latents". Unexpected key(s) in state_dict: "queries". '
    code, out, err = command("explain", text, "--file", "ip-adapter.bin")
    assert (code, err) == (0, "")
    assert "  the file     agrees\n" in out
    assert "  run          ckptfix convert ip-adapter.bin --out fixed.safetensors\n" in out
    code, out, _ = command("explain", "--json", "ip-adapter.bin")
    document = json.loads(out)
    assert (code, document["kind"], document["causes"][0]["code"]) == (0, "checkpoint", "layout")
    assert command("explain", text, "--file", "none.bin")[0] == 2


# -- doctor ------------------------------------------------------------------------------------------------------------


def test_doctor_shows_a_block_to_paste(command: Run) -> None:
    code, out, err = command("doctor")
    assert (code in (0, 1), err) == (True, "")
    assert out.startswith("the environment: ")
    block = out.partition("For a bug report\n")[2].splitlines()
    assert (block[0], block[-1]) == ("```", "```")
    assert block[1].startswith(f"ckptfix {ckptfix.__version__}, Python 3.")
    assert command("doctor", "--fix")[0] == 2
    assert command("doctor", "bodies")[0] == 2


def test_doctor_faces_moves_and_says_so(command: Run, tmp_path: Path) -> None:
    nested = write_pack(tmp_path / "antelopev2" / "antelopev2")
    code, out, err = command("doctor", "faces", "antelopev2")
    assert (code, err) == (1, "")
    assert "  hint         ckptfix doctor faces antelopev2 --fix\n" in out
    code, out, err = command("doctor", "faces", "antelopev2", "--fix")
    assert (code, err) == (0, "")
    assert "Moved: 2 files\n  antelopev2/antelopev2/glintr100.onnx -> antelopev2/glintr100.onnx\n" in out
    assert not nested.exists()
    assert command("doctor", "faces", "nowhere")[0] == 2


# -- convert -----------------------------------------------------------------------------------------------------------


def test_convert_takes_the_default_file_and_says_so(command: Run, queries: Path) -> None:
    code, out, err = command("convert", "--out", "fixed.safetensors")
    assert (code, err) == (0, "no FILE given: converting ./ip-adapter.bin\n")
    assert out.startswith("wrote fixed.safetensors: 169 tensors, ")
    assert command("inspect", "fixed.safetensors")[0] == 0


@pytest.mark.parametrize("flag", ["--out", "-o", "--output"])
def test_three_names_for_the_output(command: Run, queries: Path, flag: str) -> None:
    assert command("-q", "convert", flag, "fixed.safetensors")[::2] == (0, "")


def test_convert_without_its_default_file_lists_candidates(command: Run, tmp_path: Path) -> None:
    save_safetensors(tmp_path / "adapter.safetensors", canonical())
    (tmp_path / "old.CKPT").write_text("x")
    (tmp_path / "notes.txt").write_text("x")
    assert command("convert", "--out", "fixed.safetensors") == (
        2,
        "",
        "error: no FILE given, and there is no ./ip-adapter.bin here\n"
        "hint: name one of the files in this folder: adapter.safetensors, old.CKPT\n",
    )
    code, out, _ = command("convert", "--out", "fixed.safetensors", "--json")
    error = json.loads(out)["error"]
    assert (code, error["code"], error["candidates"]) == (2, "no-file", ["adapter.safetensors", "old.CKPT"])


def test_convert_in_a_folder_without_checkpoints(command: Run) -> None:
    assert command("convert", "--out", "fixed.safetensors") == (
        2,
        "",
        "error: no FILE given, and there is no ./ip-adapter.bin here, nor another checkpoint\n"
        "hint: name the file: ckptfix convert FILE --out fixed.safetensors\n",
    )


def test_convert_refuses_to_invent(command: Run, tmp_path: Path) -> None:
    lost = "image_proj.layers.1.0.to_q.weight"
    save_nested_bin(tmp_path / "cut.bin", without(renamed(canonical(), ".latents", ".queries"), lost))
    code, out, err = command("convert", "cut.bin", "--out", "fixed.safetensors")
    assert (code, err) == (1, "")
    assert out.startswith("cut.bin: refused, fixed.safetensors was not written\n")
    assert "  image_proj.queries -> image_proj.latents\n" in out
    assert f"Would have to be invented: 1 tensor\n  {lost} [64, 64]\n" in out
    assert not (tmp_path / "fixed.safetensors").exists()
    code, out, _ = command("convert", "cut.bin", "--out", "fixed.safetensors", "--json")
    document = json.loads(out)
    assert (code, document["written"], document["missing"]) == (1, False, [lost])


def test_convert_partial_writes_what_is_whole(command: Run, tmp_path: Path) -> None:
    save_nested_bin(tmp_path / "cut.bin", without(canonical(), "image_proj.layers.1.0.to_q.weight"))
    code, out, _ = command("convert", "cut.bin", "--out", "fixed.safetensors", "--partial")
    assert code == 1
    assert out.startswith("wrote fixed.safetensors: 168 tensors, ")
    assert "partial, 1 tensor missing" in " ".join(out.split())


def test_convert_writes_only_with_force_over_a_file(command: Run, queries: Path, tmp_path: Path) -> None:
    (tmp_path / "fixed.safetensors").write_text("precious")
    code, out, err = command("convert", "ip-adapter.bin", "-o", "fixed.safetensors")
    assert (code, out) == (2, "")
    assert err == (
        "error: fixed.safetensors: already exists\nhint: add --force to replace it, or choose another name with --out\n"
    )
    assert (tmp_path / "fixed.safetensors").read_text() == "precious"
    assert command("convert", "ip-adapter.bin", "-o", "fixed.safetensors", "--force")[0] == 0


def test_convert_dry_run_writes_nothing(command: Run, queries: Path, tmp_path: Path) -> None:
    code, out, _ = command("convert", "ip-adapter.bin", "-o", "fixed.safetensors", "--dry-run")
    assert code == 0
    assert out.startswith("ip-adapter.bin: would write 169 tensors to fixed.safetensors\n")
    assert [path.name for path in tmp_path.iterdir()] == ["ip-adapter.bin"]


def test_verbose_prints_the_ledger(command: Run, tmp_path: Path) -> None:
    save_safetensors(tmp_path / "split.safetensors", split_kv(canonical()))
    code, out, _ = command("convert", "split.safetensors", "-o", "fixed.safetensors", "-v")
    assert code == 0
    ledger = " ".join(out[out.index("Ledger") :].split())
    assert (
        "image_proj.layers.0.0.to_kv.weight <- concat image_proj.layers.0.0.to_k.weight, "
        "image_proj.layers.0.0.to_v.weight" in ledger
    )
    assert ledger.count(" <- ") == 169
    assert "Ledger" not in command("convert", "split.safetensors", "-o", "other.safetensors")[1]


def test_convert_to_instantid_and_back(command: Run, tmp_path: Path) -> None:
    save_safetensors(tmp_path / "good.safetensors", canonical())
    assert command("convert", "good.safetensors", "--to", "instantid", "-o", "nested.bin")[0] == 0
    assert command("inspect", "nested.bin")[0] == 0
    assert command("convert", "nested.bin", "-o", "again.safetensors")[0] == 0


def test_parts_are_joined(command: Run, tmp_path: Path) -> None:
    whole = canonical()
    save_safetensors(tmp_path / "a.safetensors", {name: whole[name] for name in whole if name.startswith("image")})
    save_safetensors(tmp_path / "b.safetensors", {name: whole[name] for name in whole if name.startswith("ip_")})
    assert command("convert", "a.safetensors", "-o", "fixed.safetensors")[0] == 1
    assert command("convert", "a.safetensors", "b.safetensors", "-o", "fixed.safetensors")[0] == 0
    assert command("inspect", "fixed.safetensors")[0] == 0


# -- verify, layouts, completion ---------------------------------------------------------------------------------------


def test_verify_takes_the_default_file_and_says_so(command: Run, queries: Path) -> None:
    code, out, err = command("verify")
    assert (code, out) == (2, "")
    assert err == (
        "error: no FILE given, and there is no ./fixed.safetensors here\n"
        "hint: name the file: ckptfix verify FILE; or make it first: ckptfix convert FILE --out fixed.safetensors\n"
    )
    assert command("convert", "--out", "fixed.safetensors")[0] == 0
    code, out, err = command("verify")
    assert (code, err) == (0, "no FILE given: verifying ./fixed.safetensors\n")
    assert out.startswith("fixed.safetensors: PASS, on ")
    code, out, err = command("-q", "verify", "--json")
    assert (code, err, json.loads(out)["schema"]) == (0, "", "ckptfix.verify/1")


def test_verify_judges_a_file_that_needs_mapping_as_planned(command: Run, queries: Path) -> None:
    code, out, _ = command("verify", "ip-adapter.bin")
    assert (code, out.splitlines()[0]) == (1, "ip-adapter.bin: would verify after convert")


def test_record_and_against(command: Run, queries: Path) -> None:
    assert command("convert", "--out", "fixed.safetensors", "--proof")[0] == 0
    assert command("verify", "--proof", "fixed.safetensors.proof.json", "--record", "golden.safetensors")[0] == 0
    assert command("verify", "--against", "golden.safetensors")[0] == 0


def test_verify_on_a_device_that_is_not_there(command: Run, queries: Path) -> None:
    missing = "mps" if sys.platform == "linux" else "cuda"
    code, out, err = command("verify", "ip-adapter.bin", "--device", missing)
    assert (code, out) == (5, "")
    assert err.startswith("error: ") and "hint: use --device cpu" in err


def test_without_torch_verify_names_what_to_install(queries: Path, tmp_path: Path) -> None:
    environment = environment_without(tmp_path, "torch")
    done = process("verify", str(queries), env=environment, cwd=ROOT)
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr == "error: torch is not installed\nhint: pip install 'torch>=2.4'\n"
    assert process("inspect", str(queries), env=environment, cwd=ROOT).returncode == 1
    converted = process(
        "convert", str(queries), "-o", str(tmp_path / "fixed.bin"), "--to", "instantid", env=environment
    )
    assert converted.returncode == 0


def test_without_torch_the_self_test_names_what_to_install(tmp_path: Path) -> None:
    environment = environment_without(tmp_path, "torch")
    for more in ((), ("--dry-run",), ("--json",)):
        done = process("generate", "--base", "tiny", *more, env=environment, cwd=ROOT)
        assert done.returncode == 5
        assert "error: torch is not installed\nhint: pip install 'torch>=2.4'\n" in done.stderr
        assert "Traceback" not in done.stderr


def test_layouts_lists_and_explains(command: Run) -> None:
    code, out, _ = command("layouts")
    assert code == 0
    assert all(f"  {name}\n" in out for name in ("nested-bin", "resampler-queries", "odd"))
    code, out, _ = command("layouts", "resampler-queries")
    assert code == 0
    assert "    image_proj.queries -> image_proj.latents\n" in out
    code, out, _ = command("layouts", "--json", "instantid")
    layouts = json.loads(out)["layouts"]
    assert [layout["name"] for layout in layouts] == ["nested-bin", "resampler", "odd"]
    assert all(layout["rules"] and layout["seen"] for layout in layouts)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_completion(command: Run, shell: str) -> None:
    code, out, err = command("completion", shell)
    assert (code, err) == (0, "")
    assert "_CKPTFIX_COMPLETE" in out


def test_an_older_click_that_does_not_know_powershell_is_named(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptfix.commands.completion.get_completion_class", lambda shell: None)
    code, out, err = command("completion", "powershell")
    assert (code, out) == (5, "")
    assert "has no completion for powershell\nhint: pip install --upgrade click" in err


@pytest.mark.parametrize(
    ("shell", "answer"),
    [("bash", "plain,inspect\n"), ("powershell", f"plain\ninspect\n{COMMANDS['inspect']}\n")],
)
def test_completion_answers_the_shell(shell: str, answer: str) -> None:
    asked = {"_CKPTFIX_COMPLETE": f"{shell}_complete", "COMP_WORDS": "ckptfix in", "COMP_CWORD": "1"}
    assert process(env=os.environ | asked).stdout == answer


@pytest.mark.parametrize("arguments", [["generate", "--face", "x.png"], ["doctor"], ["convert", "--out", "x", "a.bin"]])
def test_a_working_folder_that_is_gone_is_one_error(
    command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert command(*arguments) == (
        2,
        "",
        "error: the folder that you are in does not exist any more\nhint: cd to one that exists, then run it again\n",
    )
    assert command("doctor", "--help")[0] == 0


# -- colour, pipes, signals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)],
)
def test_colour_only_where_it_is_wanted(
    command: Run, queries: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], coloured: bool
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert ("\x1b[" in command("inspect", "ip-adapter.bin")[1]) is coloured
    assert ("\x1b[" in command("inspect", "missing.bin")[2]) is coloured
    assert "\x1b[" not in command("inspect", "--json", "ip-adapter.bin")[1]


@pytest.mark.parametrize("columns", ["80", "40"])
def test_reports_fit_the_terminal(command: Run, queries: Path, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    for line in command("inspect", "ip-adapter.bin")[1].splitlines():
        longest = max(map(len, line.split()), default=0)  # a name or a command is never broken
        assert len(line) <= int(columns) or longest + 19 > int(columns) or "ckptfix convert" in line


def test_a_closed_pipe_is_exit_141_and_silent(queries: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "ckptfix", "inspect", str(queries)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == b""
        assert running.wait(60) == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_stdout(queries: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = process("inspect", str(queries), capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 3
    assert done.stderr == (
        "error: cannot write to standard output: No space left on device\n"
        "hint: free space there, or send the result somewhere else\n"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX streams")
def test_closed_streams_are_no_failure(queries: Path) -> None:
    for closed in (">&-", "2>&-"):
        line = f'"{sys.executable}" -m ckptfix inspect "{queries}" {closed}'
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_signals_end_without_a_traceback(tmp_path: Path, number: signal.Signals, code: int, word: str) -> None:
    """A demo in mid-work: nothing is left in its folder, and --json still gives a document."""
    place = tmp_path / "demo"
    with subprocess.Popen(
        [sys.executable, "-m", "ckptfix", "demo", str(place), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
    ) as running:
        while not (place / "ip-adapter.bin").exists():
            assert running.poll() is None
            time.sleep(0.02)
        running.send_signal(number)
        out, err = running.communicate(timeout=60)
    assert running.returncode == code
    assert json.loads(out)["error"]["code"] == word
    assert err.decode().strip() == f"error: {word}\nhint: run it again; no unfinished file is left"
    assert not place.exists()


def test_debug_shows_the_traceback(command: Run) -> None:
    code, _, err = command("--debug", "inspect", "missing.bin")
    assert code == 2
    assert err.startswith("Traceback (most recent call last)")
    assert err.splitlines()[-2].startswith("error: missing.bin: ")


def test_a_bug_leaves_as_it_is(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(file: str, **options: object) -> None:
        raise KeyError(file)

    monkeypatch.setattr("ckptfix.commands.inspect.inspect", broken)
    with pytest.raises(KeyError):
        command("inspect", "x")
