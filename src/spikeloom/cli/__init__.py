"""The command ``spikeloom``: train, eval, convert, data, info, list.

Exit status: 0 done, 1 a problem that the message names, 2 a wrong option or setting, 130 or 143 stopped by Ctrl-C or
SIGTERM after saving.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .._extras import install


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ModuleNotFoundError as missing:
        print(f"the command line needs {missing.name}; install the extra: {install('cli')}", file=sys.stderr)
        return 2
    from ..data import DataError
    from ..kernel import BackendError
    from ..runs import ConfigError, Stopped, UserError
    from .app import app

    try:
        app(args=None if arguments is None else list(arguments), prog_name="spikeloom")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.signal
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except UserError as problem:
        print(f"error: {problem.typed()}", file=sys.stderr)
        return 2 if isinstance(problem, ConfigError) else 1
    except (DataError, BackendError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as problem:
        if not isinstance(problem, MemoryError) and not any(words in str(problem) for words in _TOO_LARGE):
            raise
        reason = (str(problem) or "there is no more").splitlines()[0]
        print(f"error: this does not fit into memory ({reason}); make it smaller", file=sys.stderr)
        return 1
    except ModuleNotFoundError as missing:
        if missing.name not in _EXTRAS:
            raise
        print(f"error: this needs {missing.name}; {install(_EXTRAS[missing.name])}", file=sys.stderr)
        return 1
    return 0


_TOO_LARGE = ("allocate memory", "out of memory", "size calculation overflowed")
_EXTRAS = {"safetensors": "cli", "matplotlib": "plot", "sklearn": "demo", "scipy": "data", "gymnasium": "rl"}
