"""`python -m cifar_compare` is the command `cifar-compare`."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
