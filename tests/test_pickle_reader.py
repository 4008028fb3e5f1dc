"""The pickle machine: the values that Python reads, nothing executed, every malformed pickle a clean error."""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptfix.errors import ExitCode, UnsafeError
from ckptfix.formats.limits import Limits
from ckptfix.formats.pickle_nodes import Call, Global, Long, PersistentId, PickledDict, PickledSet, PickleError
from ckptfix.formats.pickle_reader import read_pickle
from ckptfix.formats.torch_findings import use_findings
from tests.fixtures import broken_files as files
from tests.reading import codes, manifest_of, refusal_of, write


def plain(node: Any) -> Any:
    """Turn nodes back into the Python values they stand for."""
    if isinstance(node, PickledDict):
        items = node.items or []
        return {plain(items[i]): plain(items[i + 1]) for i in range(0, len(items), 2)}
    if isinstance(node, PickledSet):
        return {plain(value) for value in node.elements or ()}
    if isinstance(node, (list, tuple)):
        return type(node)(plain(value) for value in node)
    return node


keys = st.one_of(st.text(), st.integers(), st.booleans(), st.none(), st.binary())
values = st.recursive(
    st.one_of(keys, st.floats(allow_nan=False)),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(keys, inner), st.tuples(inner, inner)),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(value=values, protocol=st.integers(0, 5))
def test_plain_values_are_read_as_python_reads_them(value: Any, protocol: int) -> None:
    assert plain(read_pickle(pickle.dumps(value, protocol)).root) == value


def test_sets_have_opcodes_of_their_own() -> None:
    assert plain(read_pickle(pickle.dumps({"a", 1}, 4)).root) == {"a", 1}
    assert plain(read_pickle(pickle.dumps(frozenset("ab"), 4)).root) == {"a", "b"}


def test_python_2_strings_are_text_where_they_can_be() -> None:
    assert read_pickle(b"\x80\x02U\x03abc.").root == "abc"
    assert read_pickle(b"T\x02\x00\x00\x00\xff\xfe.").root == b"\xff\xfe"
    assert read_pickle(b"S'a\\x62'\n.").root == "ab"


def test_shared_and_recursive_values_stay_shared() -> None:
    inner: list[Any] = []
    inner.append(inner)
    root = read_pickle(pickle.dumps([inner, inner])).root
    assert root[0] is root[1] and root[0][0] is root[0]


def test_dictionary_types_are_dictionaries() -> None:
    value = collections.OrderedDict(a=1)
    assert plain(read_pickle(pickle.dumps(value, 2)).root) == {"a": 1}
    assert plain(read_pickle(pickle.dumps(collections.Counter("aab"))).root) == {"a": 2, "b": 1}
    assert plain(read_pickle(pickle.dumps(collections.defaultdict(list, a=[1]))).root) == {"a": [1]}
    old = files.call(
        "collections", "OrderedDict", files.EMPTY_LIST + files.tuple_of(files.text("a"), files.number(1)) + b"a"
    )
    assert plain(read_pickle(files.proto(old)).root) == {"a": 1}


def test_globals_calls_and_storages_stay_records() -> None:
    root = read_pickle(files.proto(files.call("os", "system", files.text("id")))).root
    assert isinstance(root, Call) and isinstance(root.callee, Global)
    assert (root.callee.module, root.callee.name, root.arguments) == ("os", "system", ("id",))
    stored = read_pickle(files.proto(files.storage("0", 3)))
    assert isinstance(stored.root, PersistentId) and stored.persistent == [stored.root]


def test_long_texts_are_left_unread() -> None:
    root = read_pickle(files.proto(files.text("a" * 2_000_000))).root
    assert isinstance(root, Long) and (root.kind, root.size) == ("text", 2_000_000)


MALFORMED = {
    "empty": b"",
    "no stop": b"\x80\x02}",
    "unknown opcode": b"\x80\x02\xff.",
    "empty stack": b"\x80\x02.",
    "below the mark": b"\x80\x02K\x01(0t.R.",
    "no mark": b"\x80\x02}u.",
    "odd items": b"\x80\x02}(K\x01u.",
    "items on a tuple": b"\x80\x02)K\x01a.",
    "items on a number": b"\x80\x02K\x05K\x01K\x02s.",
    "items on a tensor": files.proto(files.tensor("0", (1,)) + files.text("a") + files.NONE + files.SETITEM),
    "unknown memo": b"\x80\x02h\x07.",
    "negative memo": b"N" + b"p-1\n.",
    "text past the end": b"\x80\x02X\xff\xff\xff\x7fa.",
    "huge length": b"\x80\x04\x8e" + b"\xff" * 8 + b".",
    "bad utf-8": b"\x80\x02X\x01\x00\x00\x00\xff.",
    "bad integer": b"Iabc\n.",
    "endless integer": b"I" + b"9" * 10_000 + b"\n.",
    "bad float": b"Fabc\n.",
    "bad string": b"Sabc\n.",
    "global without a name": b"cos\n",
    "global of numbers": b"\x80\x04K\x01K\x02\x93.",
    "obj of nothing": b"\x80\x02(o.",
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_pickles_are_one_error(kind: str) -> None:
    with pytest.raises(PickleError):
        read_pickle(MALFORMED[kind])


@pytest.mark.parametrize(
    ("data", "limits", "budget"),
    [
        (b"N" * 100 + b".", Limits(opcodes=50), "opcodes"),
        (b"N" + b"\x94" * 100 + b".", Limits(memo=50), "memo"),
        (b"".join(b"ca%d\nb\n" % i for i in range(100)) + b".", Limits(globals=50), "globals"),
    ],
)
def test_budgets_end_a_pickle(data: bytes, limits: Limits, budget: str) -> None:
    with pytest.raises(UnsafeError, match="the pickle") as caught:
        read_pickle(data, limits=limits)
    assert (caught.value.code, caught.value.details) == ("limit", {"budget": budget})


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_random_opcodes_never_crash_the_machine(seed: int) -> None:
    source = random.Random(seed)
    alphabet = b"().0123456789abcdefghijklIJKMNRQopqstu]}\x80\x81\x85\x86\x87\x88\x8c\x8f\x90\x91\x92\x93\x94\x95Xos\n"
    data = bytes(source.choice(alphabet) for _ in range(source.randrange(200))) + b"."
    with contextlib.suppress(PickleError, UnsafeError):
        read_pickle(data)


# -- hostile pickles ---------------------------------------------------------------------------------------------------

HOSTILE = sorted(files.running_pickles(""))


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bool]:
    """Which of the hostile pickles run their command under a real unpickler, each in a process of its own."""
    folder = tmp_path_factory.mktemp("live")
    program = (
        "import os, pickle, sys\n"
        "for name in sys.argv[2:]:\n"
        "    if not os.fork():\n"
        "        try: pickle.loads(open(f'{sys.argv[1]}/{name}.pkl', 'rb').read())\n"
        "        except Exception: pass\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
    )
    for name in HOSTILE:
        pickled = files.running_pickles(f"touch {folder}/{name}.ran")[name]
        write(folder / f"{name}.pkl", pickled)
    subprocess.run([sys.executable, "-c", program, str(folder), *HOSTILE], check=True, capture_output=True, timeout=60)
    return {name: (folder / f"{name}.ran").exists() for name in HOSTILE}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_pickles_are_live_and_run_nothing_here(tmp_path: Path, live: dict[str, bool], kind: str) -> None:
    assert live[kind], "the fixture is harmless and proves nothing"
    ran = tmp_path / "ran"
    hostile = files.running_pickles(f"touch {ran}")[kind]
    assert refusal_of(write(tmp_path / "raw.bin", hostile)).exit_code == ExitCode.UNSAFE
    for data in (files.torch_zip(hostile), files.torch_legacy(hostile, [], [])):
        path = write(tmp_path / "a.bin", data)
        if kind == "builder_argument":  # a tensor that cannot be read either: refused outright
            assert refusal_of(path).exit_code == ExitCode.UNSAFE
        else:
            assert codes(manifest_of(path))["unsafe"] == "error"
    assert not ran.exists()


def test_the_tensors_beside_a_hostile_call_are_still_listed(tmp_path: Path) -> None:
    content = {"a": files.tensor("0", (1,)), "evil": files.call("os", "system", files.text("id"))}
    manifest = manifest_of(
        write(tmp_path / "a.bin", files.torch_zip(files.proto(files.dict_of(content)), {"0": bytes(4)}))
    )
    assert list(manifest.tensors) == ["a"]
    assert manifest.objects == {"evil": "os.system"}
    (finding,) = manifest.findings
    assert (finding.code, finding.severity) == ("unsafe", "error")
    assert finding.message == "the pickle calls os.system at byte 165, which no checkpoint needs"
    assert finding.hint.startswith("nothing was run; ")


def test_a_hostile_pickle_that_breaks_off_is_unsafe_not_damaged(tmp_path: Path) -> None:
    data = files.torch_zip(b"\x80\x02" + files.call("os", "system", files.text("id")) + b"\xff")
    error = refusal_of(write(tmp_path / "a.bin", data))
    assert (error.exit_code, error.code, error.details) == (ExitCode.UNSAFE, "unsafe", {"global": "os.system"})
    assert error.message == "the pickle calls os.system at byte 22, which no checkpoint needs"


def test_a_hostile_call_in_the_preamble_of_a_legacy_file_is_seen(tmp_path: Path) -> None:
    body = files.healthy_legacy()
    listed = files.proto(files.number(1001))
    evil = files.proto(files.call("os", "system", files.text("id")) + files.POP + files.number(1001))
    manifest = manifest_of(write(tmp_path / "a.bin", body.replace(listed, evil, 1)))
    assert list(manifest.tensors) == ["a", "b"]
    assert codes(manifest) == {"legacy": "note", "unsafe": "error"}


CLASSES = [
    (files.call("argparse", "Namespace"), "foreign-object", "note"),
    (files.name("argparse", "Namespace") + files.EMPTY_TUPLE + files.NEWOBJ, "foreign-object", "note"),
    (files.name("my.trainer", "Config") + files.EMPTY_TUPLE + files.NEWOBJ, "foreign-object", "warning"),
    (files.name("os", "system"), "foreign-object", "warning"),
    (files.call("my.trainer", "make"), "unsafe", "error"),
    (files.call("torch", "load", files.text("x")), "unsafe", "error"),
    (files.call("torch.storage", "_load_from_bytes", files.text("x")), "unsafe", "error"),
    (files.call("builtins", "getattr", files.text("x"), files.text("y")), "unsafe", "error"),
    (files.name("sys", "modules") + files.text("a") + files.NONE + files.SETITEM, "unsafe", "error"),
    (files.name("os", "environ") + files.EMPTY_DICT + files.BUILD, "unsafe", "error"),
    (files.call("functools", "partial", files.name("os", "system")), "unsafe", "error"),
    (b"\x82\x01" + files.EMPTY_TUPLE + files.REDUCE, "unsafe", "error"),
]


@pytest.mark.parametrize(("body", "code", "severity"), CLASSES)
def test_globals_fall_into_classes(body: bytes, code: str, severity: str) -> None:
    findings = use_findings(read_pickle(files.proto(body)).uses)
    assert (findings[0].code, findings[0].severity) == (code, severity)


def test_harmless_objects_are_a_note(tmp_path: Path) -> None:
    content = {
        "args": argparse.Namespace(lr=1e-4),
        "when": datetime.datetime(2024, 1, 1),
        "path": Path("a"),
        "tags": {"x"},
        "raw": b"\xff",
    }
    findings = use_findings(read_pickle(pickle.dumps(content, 2)).uses)
    assert [(finding.code, finding.severity) for finding in findings] == [("foreign-object", "note")]
    assert findings[0].message == (
        "holds harmless objects beside its tensors: argparse.Namespace, datetime.datetime, pathlib.PosixPath"
    )


# -- bombs: each would take gigabytes or minutes when built naively ----------------------------------------------------


def doubled(opener: bytes, closer: bytes, levels: int) -> bytes:
    """A value that holds the one before it twice, `levels` times over: 2 ** levels leaves."""
    body = opener + closer + b"q\x00"
    for level in range(1, levels):
        again = b"h" + bytes([level - 1])
        pair = files.text("a") + again + files.text("b") + again if opener == b"}" else again + again
        body += opener + b"(" + pair + (b"u" if opener == b"}" else b"e") + b"q" + bytes([level])
    return files.proto(body)


BOMBS = {
    "shared dicts": (doubled(b"}", b"", 60), "budget: nodes"),
    "shared lists": (doubled(b"]", b"", 60), "budget: nodes"),
    "nested tuples": (files.proto(b")" + b"\x85" * 390_000), "budget: depth"),
    "self in dict": (files.proto(b"}q\x00" + files.text("a") + b"h\x00s"), "budget: depth"),
    "opcodes": (files.proto(b"N0" * 2_000_000), "budget: opcodes"),
    "memo": (files.proto(b"N" + b"".join(b"r" + i.to_bytes(4, "little") for i in range(300_000))), "budget: memo"),
    "long key": (files.proto(files.dict_of({"k" * 5_000: files.tensor("0", (1,))})), "budget: key length"),
    "aliases": (
        files.proto(
            b"}("
            + files.text("n")
            + files.tensor("0", (1,))
            + b"q\x00"
            + b"".join(files.text(str(i)) + b"h\x00" for i in range(11_000))
            + b"u"
        ),
        "budget: aliases",
    ),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_end_in_a_named_budget_within_memory_and_time(tmp_path: Path, kind: str) -> None:
    pickled, budget = BOMBS[kind]
    path = write(tmp_path / "a.bin", files.torch_zip(pickled, {"0": bytes(4)}))
    program = (
        "import resource, sys, time\n"
        "from ckptfix.errors import UnsafeError\n"
        "from ckptfix.formats import open_checkpoint\n"
        "try: open_checkpoint(sys.argv[1])\n"
        "except UnsafeError as error: print(error.message)\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(used.ru_utime + used.ru_stime, peak.split()[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=30)
    message, figures = done.stdout.strip().splitlines()
    seconds, kibibytes = map(float, figures.split())
    assert message.endswith(f"({budget})")
    assert seconds < 2 and kibibytes < 150 * 1024
