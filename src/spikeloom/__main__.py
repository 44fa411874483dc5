"""``python -m spikeloom``: the command line, for torchrun among others."""

from .cli import main

if __name__ == "__main__":
    raise SystemExit(main())
