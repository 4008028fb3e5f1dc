"""Many files in one call: order, errors among results, executors, memory, and what the command line makes of them."""

from __future__ import annotations

import gc
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest

import ckptfix
from ckptfix import batches
from ckptfix.errors import CkptfixError, ExitCode, UnavailableError, UnreadableError
from ckptfix.inspection import Inspection, inspect
from ckptfix.report.overview import Glance, glance, shortened
from tests.calling import call
from tests.fixtures.make_checkpoints import canonical, renamed, save_nested_bin, save_safetensors, without

ROOT = Path(__file__).parents[1]
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 1691134141\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of several kinds in `m`, seen from the folder that it lies in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    place = tmp_path / "m"
    place.mkdir()
    save_nested_bin(place / "a.bin", renamed(canonical(), ".latents", ".queries"))
    (place / "b.bin").write_text(LFS)
    save_safetensors(place / "c.safetensors", canonical())
    save_safetensors(place / "d.safetensors", without(canonical(), "image_proj.layers.1.0.to_q.weight"))
    return place


NAMES = ["m/a.bin", "m/b.bin", "m/c.safetensors", "m/d.safetensors"]


def words(outcomes: Iterator[batches.Outcome]) -> list[str]:
    """The file and what came of it."""
    return [
        f"{outcome.source} {outcome.code}"
        if isinstance(outcome, CkptfixError)
        else f"{outcome.manifest.source} {int(outcome.exit_code)}"
        for outcome in outcomes
    ]


EXPECTED = ["m/a.bin 1", "m/b.bin lfs-pointer", "m/c.safetensors 0", "m/d.safetensors 1"]


# -- the library -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [None, 1, 2])
def test_results_and_errors_in_the_order_of_the_files(folder: Path, jobs: int | None) -> None:
    assert words(ckptfix.inspect_many(["m"], jobs=jobs)) == EXPECTED
    backwards = [*reversed(NAMES), "none.bin", "m/*.gguf", "m/c*"]
    expected = [*reversed(EXPECTED), "none.bin no-such-file", "m/*.gguf no-such-file", EXPECTED[2]]
    assert words(ckptfix.inspect_many(backwards, jobs=jobs)) == expected


@contextmanager
def dask(*, processes: bool) -> Iterator[Executor]:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=2, threads_per_worker=1, processes=processes, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,  # type: ignore[no-untyped-call]
    ):
        yield client.get_executor(pure=False)


@contextmanager
def standard(kind: str) -> Iterator[Executor]:
    with ThreadPoolExecutor(2) if kind == "threads" else ProcessPoolExecutor(2, get_context("spawn")) as pool:
        yield pool


@pytest.mark.parametrize("kind", ["threads", "processes", "dask threads", "dask processes"])
def test_any_executor_will_do(folder: Path, kind: str) -> None:
    pool = dask(processes=kind.endswith("processes")) if kind.startswith("dask") else standard(kind)
    names = [str(Path(name).resolve()) for name in NAMES] * 5
    alone = [outcome.to_dict() for outcome in ckptfix.inspect_many(names)]
    with pool as executor:
        outcomes = ckptfix.inspect_many(names, executor=executor, jobs=2, heads=4, dim_head=16)
        declared = [outcome.to_dict() for outcome in outcomes]
        assert [outcome.to_dict() for outcome in ckptfix.inspect_many(names, executor=executor)] == alone
        assert executor.submit(len, names).result() == 20  # still open
    assert [document["schema"] for document in declared] == [document["schema"] for document in alone]
    assert declared[0]["config"]["heads"] == 4


def test_results_and_errors_survive_pickling(folder: Path) -> None:
    for name in NAMES:
        (outcome,) = ckptfix.inspect_many([name], values=True)
        again = pickle.loads(pickle.dumps(outcome))
        assert type(again) is type(outcome)
        assert again.to_dict() == outcome.to_dict()
    error = UnavailableError("no", hint="yes", code="c", source="f", missing=["x"])
    error.exit_code = ExitCode.INTERRUPTED
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.exit_code, again.to_dict()) == (str(error), error.exit_code, error.to_dict())


@pytest.mark.parametrize("jobs", [1, 2])
def test_results_are_not_kept(folder: Path, jobs: int) -> None:
    live = []
    for outcome in ckptfix.inspect_many(["m/c.safetensors"] * 30, jobs=jobs):
        assert isinstance(outcome, Inspection)
        live.append(sum(isinstance(thing, Inspection) for thing in gc.get_objects()))
    assert len(live) == 30
    assert max(live) <= 2 * jobs + 2


def test_progress_counts_files(folder: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    assert len(list(ckptfix.inspect_many(["m"], progress=lambda *said: seen.append(said)))) == 4
    assert seen == [("files", done, 4) for done in range(5)]


def test_no_jobs_is_no_number_of_jobs() -> None:
    with pytest.raises(CkptfixError) as caught:
        ckptfix.inspect_many([], jobs=0)
    assert caught.value.exit_code == ExitCode.USAGE


def test_workers_are_started_where_they_pay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_processors", lambda: 4)
    large = folder / "large.safetensors"
    with large.open("wb") as stream:
        stream.truncate(2 << 30)
    few = [str(large)] * 3
    assert batches.jobs_worth_starting(few, reads_data=False) == 1
    assert batches.jobs_worth_starting(few, reads_data=True) == 3
    assert batches.jobs_worth_starting(few * 3, reads_data=True) == 4
    assert batches.jobs_worth_starting(["x.bin"] * 10, reads_data=True) == 1
    assert batches.jobs_worth_starting(["x.bin"] * 200, reads_data=False) == 4
    assert batches.jobs_worth_starting(["https://x/y.bin"] * 20, reads_data=False) == 8
    assert batches.jobs_worth_starting([UnreadableError("x", hint="y")], reads_data=True) == 1


def test_starting_does_not_pay_for_workers() -> None:
    code = "import ckptfix, ckptfix.commands.inspect, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"multiprocessing", "concurrent.futures.process", "ckptfix.workers", "rich"} & set(loaded) == set()


# -- the command line --------------------------------------------------------------------------------------------------


def test_many_files_get_a_line_each(folder: Path) -> None:
    called = call("inspect", "m")
    assert called.code == 3
    assert called.out == (
        "m/a.bin          to convert   ckptfix convert FILE\n"
        "m/b.bin          unreadable   fetch the real file: git lfs pull, or download...\n"
        "m/c.safetensors  ready        nothing to do\n"
        "m/d.safetensors  not usable   1 tensor missing: image_proj.layers.1.0.to_q.we...\n"
        "4 files: 1 ready, 1 to convert, 1 not usable, 1 unreadable\n"
    )
    assert called.err.startswith("error: m/b.bin: is a Git LFS pointer") and called.err.count("\n") == 2
    assert call("inspect", "m/*").out == called.out
    assert call("inspect", *NAMES, *NAMES).out.endswith(
        "\n8 files: 2 ready, 2 to convert, 2 not usable, 2 unreadable\n"
    )


def test_few_files_and_the_verbose_get_pages(folder: Path) -> None:
    assert "Constructor to use" in call("inspect", NAMES[0], NAMES[2]).out
    assert call("inspect", "-v", "m").out.count("Constructor to use") == 3
    assert "Constructor to use" in call("inspect", NAMES[2]).out


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_json_and_ndjson(folder: Path, jobs: str) -> None:
    called = call("inspect", "m", "--json", "--jobs", jobs)
    assert (called.code, called.document["schema"]) == (3, "ckptfix.inspect-list/1")
    lines = [json.loads(line) for line in call("inspect", "m", "--ndjson", "-j", jobs).out.splitlines()]
    assert called.document["results"] == lines
    assert [line["schema"] for line in lines] == [
        f"ckptfix.{name}/1" for name in ("inspect", "error", *["inspect"] * 2)
    ]
    only = call("inspect", "m/c*", "--json")
    assert (only.code, only.document["schema"]) == (0, "ckptfix.inspect-list/1")


def test_ndjson_is_printed_as_it_comes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[int] = []

    def counting(file: str, *, options: batches.Options) -> batches.Outcome:
        out = sys.stdout
        assert isinstance(out, io.StringIO)
        printed.append(out.getvalue().count("\n"))
        return outcome(file, options=options)

    outcome = batches._outcome
    monkeypatch.setattr(batches, "_outcome", counting)
    assert call("inspect", "m", "--ndjson", "--jobs", "1").code == 3
    assert printed == [0, 1, 2, 3]


def test_an_empty_folder_is_wrong_usage(folder: Path) -> None:
    (folder / "empty").mkdir()
    called = call("inspect", "m/empty")
    assert (called.code, called.out) == (2, "")
    assert called.err.startswith("error: m/empty: is a folder in which no checkpoint lies")
    assert "\nhint: " in called.err
    assert call("inspect", "m/empty", "--json").error["code"] == "no-checkpoint"
    among = call("inspect", "m/empty", "m/c.safetensors", "--json")
    assert among.code == 2
    assert [result["schema"] for result in among.document["results"]] == ["ckptfix.error/1", "ckptfix.inspect/1"]


def test_files_from_a_list(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("list").write_bytes(b"m/c.safetensors\nm/a.bin\n")
    named = [result["file"]["path"] for result in call("inspect", "--files-from", "list", "--json").document["results"]]
    assert named == ["m/c.safetensors", "m/a.bin"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"m/c.safetensors\0m/a.bin\0")))
    called = call("inspect", "m/d.safetensors", "--files-from", "-", "--json")
    named = [result["file"]["path"] for result in called.document["results"]]
    assert named == ["m/d.safetensors", "m/c.safetensors", "m/a.bin"]


@pytest.mark.parametrize("content", [None, b"\n"])
def test_a_list_that_is_none(folder: Path, content: bytes | None) -> None:
    if content is not None:
        Path("list").write_bytes(content)
    called = call("inspect", "--files-from", "list")
    assert (called.code, called.out) == (2, "")
    assert called.err.startswith("error: list: ") and "\nhint: " in called.err


def test_a_report_is_of_one_file(folder: Path) -> None:
    assert call("inspect", "m", "--report", "r.html").code == 2
    assert call("inspect", "m/c.safetensors", "--ndjson", "--report", "r.html").code == 0
    assert Path("r.html").exists()


@pytest.mark.parametrize("columns", ["40", "80", "100"])
def test_lines_fit_the_terminal(folder: Path, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    save_safetensors(folder / f"{'long-' * 30}name-1.safetensors", canonical())
    (folder / "\x1b[2J.bin").write_text(LFS)
    lines = call("inspect", "m").out.splitlines()
    assert len(lines) == 7
    assert max(map(len, lines[:-1])) <= int(columns)
    assert any("..." in line and line.split()[0].endswith("safetensors"[-4:]) for line in lines)
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize(
    ("name", "columns", "short"),
    [
        ("abc", 3, "abc"),
        ("models/adapters/ip-adapter-1.bin", 20, "models…p-adapter-1.bin"[:6] + "…" + "adapter-1.bin"),
        ("模型/适配器/面部一.bin", 12, "模…部一.bin"),
    ],
)
def test_names_are_shortened_in_the_middle(
    name: str, columns: int, short: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckptfix.report.overview.can_show", lambda symbols: True)
    assert shortened(name, columns) == short


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["inspect", "--layout", "nope"], "nope"),
        (["inspect", "--mapping", "none.toml"], "none.toml: cannot read the mapping"),
        (["inspect", "--mapping", "bad.toml"], "bad.toml"),
        (["inspect", "--reference", "nope"], "unknown reference 'nope'"),
        (["inspect", "--as", "nope"], "unknown class 'nope'"),
        (["inspect", "--base", "none"], "--base is compared with values"),
        (["inspect", "--values", "--base", "none"], "none: no such file"),
        (["inspect", "--jobs", "2", "--layout", "nope"], "nope"),
        (["compat", "--layout", "nope"], "nope"),
    ],
)
def test_an_option_that_is_wrong_for_all_files_is_said_once(folder: Path, arguments: list[str], said: str) -> None:
    """Also where none of the files could be read, which hid it before."""
    (folder.parent / "bad.toml").write_text("[layout\n")
    called = call(*arguments, "m")
    assert (called.code, called.out, called.err.count("error: ")) == (2, "", 1)
    assert said in called.err.splitlines()[0]
    document = call(*arguments, "m", "--json").document
    assert document["schema"] == "ckptfix.error/1"


def test_compat_takes_many_files_too(folder: Path) -> None:
    called = call("compat", "m")
    assert called.code == 3
    *lines, totals = called.out.splitlines()
    assert [line.split()[1] for line in lines] == ["nowhere", "unreadable", "nowhere", "nowhere"]
    assert lines[2].endswith("  0 of 7: ckptfix compat FILE")
    assert totals == "4 files: 3 nowhere, 1 unreadable"
    document = call("compat", "m", "none.bin", "--json").document
    assert document["schema"] == "ckptfix.compat-list/1"
    assert document["results"][2] == call("compat", NAMES[2], "--json").document
    assert [result["error"]["code"] for result in document["results"] if "error" in result] == [
        "lfs-pointer",
        "no-such-file",
    ]
    assert call("compat").code == 2
    assert "verdict" in call("compat", NAMES[0], NAMES[2]).out


def test_what_programs_do_in_a_word(folder: Path) -> None:
    none = ckptfix.compat(NAMES[2])
    right = tuple(replace(consumer, verdict="loads") for consumer in none.consumers)
    some = replace(none, consumers=(*right[:5], *none.consumers[5:]))
    assert glance(replace(none, consumers=right)) == Glance("loads", "7 of 7: nothing to do")
    assert glance(some) == Glance("partly", "5 of 7: ckptfix compat FILE")


def fatal(file: str, *, options: batches.Options) -> batches.Outcome:
    """Takes the place of the work in a worker: dies of one file."""
    if file.endswith("c.safetensors"):
        os.kill(os.getpid(), signal.SIGKILL)
    return inspect(file, **options)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_file_that_kills_its_worker_is_one_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "b.bin").unlink()
    monkeypatch.setattr(batches, "_outcome", fatal)
    called = call("inspect", "m", "m", "--jobs", "2", "--json")
    assert called.code == 3
    schemas = [result["schema"].split(".")[1] for result in called.document["results"]]
    assert schemas == ["inspect/1", "error/1", "inspect/1"] * 2
    error = called.document["results"][1]["error"]
    assert (error["code"], error["file"]) == ("worker-died", "m/c.safetensors")
    assert called.err.count("error: m/c.safetensors: the process that read it was killed\nhint: ") == 2


# -- signals -----------------------------------------------------------------------------------------------------------


def slow(file: str, *, options: batches.Options) -> batches.Outcome:
    Path(f"{file}.{os.getpid()}.pid").touch()
    time.sleep(60)
    return inspect(file, **options)


def run_slowly(*arguments: str) -> int:
    """A command line whose work takes long, in a process of its own."""
    from ckptfix.cli import run

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background is started with it ignored
    batches._outcome = slow
    return run(arguments)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("whole_group", [True, False], ids=["as a terminal", "as kill"])
def test_signals_end_all_processes_in_silence(
    folder: Path, number: signal.Signals, code: int, whole_group: bool
) -> None:
    program = "import sys; from tests.test_batches import run_slowly; sys.exit(run_slowly(*sys.argv[1:]))"
    with subprocess.Popen(
        [sys.executable, "-c", program, "inspect", str(folder), "--jobs", "2"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:
        while len(list(folder.glob("*.pid"))) < 2:
            assert running.poll() is None
            time.sleep(0.02)
        processes = psutil.Process(running.pid).children(recursive=True)
        (os.killpg if whole_group else os.kill)(running.pid, number)
        out, err = running.communicate(timeout=30)
    assert (running.returncode, out) == (code, "")
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert err == f"error: {word}\nhint: run it again; no unfinished file is left\n"
    assert len(processes) >= 2
    assert [left for left in psutil.wait_procs(processes, timeout=10)[1] if left.status() != "zombie"] == []
