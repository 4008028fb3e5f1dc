"""`python -m ckptfix` and the console script: the same program."""

from ckptfix.cli import main

if __name__ == "__main__":
    main()
