"""`python -m ckptfix` and the console script: the same program."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    try:
        from ckptfix.cli import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while importing; `run` handles its own
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
