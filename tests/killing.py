"""A process that replaces one file over and over, to be killed at any moment; and what must be true afterwards.

Each generation of the file is its number, repeated: a mixture, a cut or an empty file shows at once.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from ckptfix.formats.atomic import replacing, write_text
from ckptfix.termination import Terminated, terminating_as_exception

REPEATS = 16_384  # of 8 bytes: 128 KiB, in four pieces
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGKILL: -signal.SIGKILL}


def content(generation: int) -> bytes:
    return b"%08d" % generation * REPEATS


def write_forever(target: Path, force: bool) -> None:
    generation = 0
    print("ready", flush=True)
    while True:
        generation += 1
        if not force:
            target.unlink(missing_ok=True)
        with replacing(target, force=force) as pending:
            data = memoryview(content(generation))
            for start in range(0, len(data), len(data) // 4):
                pending.stream.write(data[start : start + len(data) // 4])
            pending.sync(len(data))
            assert pending.path.read_bytes() == data


def main() -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background is started with it ignored
    try:
        with terminating_as_exception():
            write_forever(Path(sys.argv[1]), force=sys.argv[2] == "force")
    except KeyboardInterrupt:
        return 130
    except Terminated as terminated:
        return terminated.exit_code
    return 0


def kill_once(folder: Path, number: signal.Signals, *, force: bool, chance: random.Random) -> None:
    """Start the writer in `folder`, kill it at a random moment, and check what it left."""
    target = folder / "target.bin"
    if force and not target.exists():
        target.write_bytes(content(0))
    command = [sys.executable, "-m", "tests.killing", str(target), "force" if force else "keep"]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(chance.uniform(0, 0.03))
        impatient = number in (signal.SIGTERM, signal.SIGHUP) and chance.random() < 0.5
        for _ in range(3 if impatient else 1):
            process.send_signal(number)
        try:
            assert process.wait(30) == EXIT_CODES[number]
        finally:
            process.kill()
        assert process.stderr.read() == b""

    left = {path.name for path in folder.iterdir()} - {target.name}
    assert all(name.startswith(".ckptfix-target.bin-") and name.endswith(".tmp") for name in left)
    own = [name for name in left if f"-{process.pid}-" in name]
    assert len(own) <= (number == signal.SIGKILL)
    if force or target.exists():
        assert_whole(target)


def assert_next_run_cleans(folder: Path) -> None:
    write_text(folder / "target.bin", "done", force=True)
    assert [path.name for path in folder.iterdir()] == ["target.bin"]


def assert_whole(target: Path) -> None:
    data = target.read_bytes()
    assert data == content(int(data[:8]))


if __name__ == "__main__":
    sys.exit(main())
