"""How to install what an optional part needs, from the registry or from a clone."""

from __future__ import annotations

from pathlib import Path


def install(extra: str) -> str:
    """The command that installs an extra: of the clone that this package runs from, or of the released package."""
    import tomllib  # only where something is missing

    clone = Path(__file__).resolve().parents[2]
    try:
        ours = tomllib.loads((clone / "pyproject.toml").read_text())["project"]["name"] == "spikeloom"
    except (OSError, ValueError, KeyError):
        ours = False
    return f"pip install -e '{clone}[{extra}]'" if ours else f"pip install 'spikeloom[{extra}]'"
