"""The demo in miniature: every step as it should end, and nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from ckptfix.demo import FILES, LOST, Demo, DemoStep, run_demo, workplace, write_adapter
from ckptfix.errors import ExitCode, OutputError, UnavailableError, UsageError
from ckptfix.generation import Wishes
from ckptfix.inspection import inspect
from ckptfix.reference import AdapterConfig, expected_tensors
from ckptfix.report.demo_page import closing_page, opening_page, step_page
from tests.absence import environment_without

MINIATURE = AdapterConfig(dim=64, depth=3, dim_head=16, heads=4, num_queries=4, embedding_dim=24, output_dim=8)


def lines(page: object) -> list[str]:
    return ["".join(text for text, _ in line) for line in page.lines]  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    told: list[DemoStep] = []
    result = run_demo(tmp_path_factory.mktemp("demo"), config=MINIATURE, self_test=False, tell=told.append)
    assert tuple(told) == result.steps
    return result


def test_every_step_ends_as_it_should(demo: Demo) -> None:
    assert [step.command.split()[:2] for step in demo.steps] == [
        [],
        ["ckptfix", "inspect"],
        ["ckptfix", "convert"],
        ["ckptfix", "verify"],
        [],
        ["ckptfix", "convert"],
    ]
    assert [int(step.exit_code) for step in demo.steps] == [0, 1, 0, 0, 0, 1]
    assert demo.exit_code == ExitCode.OK


def test_the_files_are_what_the_steps_say(demo: Demo) -> None:
    made, fixed, cut, never, _ = (Path(demo.folder) / name for name in FILES)
    assert inspect(made).missing == ("image_proj.latents",)
    assert inspect(fixed).exit_code == ExitCode.OK
    assert list(inspect(cut).plan.missing) == [LOST]
    assert not never.exists()


def test_the_document(demo: Demo) -> None:
    document = json.loads(json.dumps(demo.to_dict()))
    assert (document["schema"], document["exit_code"], document["kept"]) == ("ckptfix.demo/1", 0, True)
    schemas = [step["result"]["schema"] for step in document["steps"] if step["result"]]
    assert schemas == ["ckptfix.inspect/1", "ckptfix.convert/1", "ckptfix.verify/1", "ckptfix.convert/1"]


def test_the_report_has_each_commands_own(demo: Demo) -> None:
    made, look, convert, verify, _, refused = (lines(step_page(step, 80)) for step in demo.steps)
    assert made[1].startswith("A file as a hand-written class saves it: ip-adapter.bin")
    assert any(line.endswith("complete, needs converting") or line == "  needs converting" for line in look)
    assert look[2].startswith("$ ckptfix inspect ") and look[-1].startswith("(exit code 1, ")
    assert any("each compared" in line for line in convert)
    assert any("PASS" in line for line in verify)
    assert f"  {LOST} [64, 64]" in refused
    last = lines(closing_page(demo, 80))
    assert last[1].startswith("All as it should be: inspected, converted, verified, refused (")
    assert last[2:] == [f"Files kept in {demo.folder}"]
    assert lines(opening_page(Path("/a b"), 80))[-1] == "$ cd '/a b'"


def test_the_self_test_is_generate_with_the_tiny_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Wishes] = []

    def generate(wishes: Wishes, **_: object) -> Ended:
        asked.append(wishes)
        return Ended(ExitCode.OK)

    monkeypatch.setattr("ckptfix.generation.generate", generate)
    demo = run_demo(tmp_path, config=MINIATURE, seed=7)
    assert asked == [Wishes(base="tiny", seed=7, output=tmp_path / "self-test.png")]
    assert demo.steps[4].command == f"ckptfix generate --base tiny --seed 7 --output {tmp_path}/self-test.png"
    assert demo.exit_code == ExitCode.OK


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_adapter(tmp_path / name, MINIATURE, seed)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


def test_full_size_is_instantid() -> None:
    shapes = expected_tensors(AdapterConfig())
    assert len(shapes) == 191
    assert LOST in shapes


class Ended(NamedTuple):
    exit_code: ExitCode

    def to_dict(self) -> dict[str, object]:
        return {}


def step(ended: ExitCode, expected: ExitCode, skipped: UnavailableError | None = None) -> DemoStep:
    return DemoStep("It", "ckptfix it", 1.0, expected, None if skipped else Ended(ended), skipped)


def test_what_could_not_be_shown_is_no_success() -> None:
    missing = UnavailableError("torch is not installed", hint="pip install 'torch>=2.4'")
    demo = Demo("d", False, (step(ExitCode.OK, ExitCode.OK), step(ExitCode.OK, ExitCode.OK, missing)))
    assert demo.exit_code == ExitCode.UNAVAILABLE
    assert lines(closing_page(demo, 80))[1:] == [
        "All as it should be, but not shown: It (2.0 s)",
        "Its files were removed; --keep leaves them there.",
    ]
    assert lines(step_page(demo.steps[1], 80))[4:7] == [
        "not run, and that is no pass:",
        "error: torch is not installed",
        "hint: pip install 'torch>=2.4'",
    ]
    wrong = Demo("d", False, (*demo.steps, step(ExitCode.PROBLEM, ExitCode.OK)))
    assert wrong.exit_code == ExitCode.PROBLEM
    assert lines(closing_page(wrong, 80))[1] == "not as it should be: It"


def test_the_demo_without_torch(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from ckptfix.demo import run_demo; from ckptfix.reference import AdapterConfig\n"
        f"demo = run_demo(Path({str(tmp_path)!r}), config={MINIATURE!r})\n"
        "print(int(demo.exit_code), [step.command.split()[1] for step in demo.steps if step.skipped])\n"
        "print(*[step.skipped.hint for step in demo.steps if step.skipped], sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment_without(tmp_path, "torch"),
        capture_output=True,
        text=True,
        check=True,
    )
    first, verify, generate = done.stdout.splitlines()
    assert first == "5 ['verify', 'generate']"
    assert verify == generate == "pip install 'torch>=2.4'"


# -- its folder --------------------------------------------------------------------------------------------------------


def test_files_are_removed_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with workplace(tmp_path, keep=False, config=MINIATURE) as place:
        run_demo(place, config=MINIATURE, self_test=False)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_that_was_made_is_removed_too(tmp_path: Path) -> None:
    for folder in (tmp_path / "new", None):
        with workplace(folder, keep=False, config=MINIATURE) as place:
            (place / FILES[0]).write_text("x")
        assert not place.exists()


def test_kept_files_stay(tmp_path: Path) -> None:
    with workplace(tmp_path / "new", keep=True, config=MINIATURE) as place:
        (place / FILES[0]).write_text("x")
    assert (tmp_path / "new" / FILES[0]).exists()


def test_a_file_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / FILES[1]).write_text("precious")
    with pytest.raises(UsageError) as caught, workplace(tmp_path, keep=False, config=MINIATURE):
        pass
    assert str(caught.value) == f"{tmp_path}: fixed.safetensors exists there already"
    assert (tmp_path / FILES[1]).read_text() == "precious"


def test_a_disk_without_room(tmp_path: Path) -> None:
    huge = AdapterConfig(dim=10**9)
    with pytest.raises(OutputError) as caught, workplace(tmp_path, keep=False, config=huge):
        pass
    assert caught.value.code == "disk-full"
    assert str(caught.value).startswith(f"{tmp_path}: the demo needs ")
    assert caught.value.hint == "name a folder on another disk: ckptfix demo DIR"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError) as caught, workplace(tmp_path / "file" / "new", keep=False, config=MINIATURE):
        pass
    assert str(caught.value) == f"{tmp_path}/file/new: the folder cannot be made: Not a directory"
