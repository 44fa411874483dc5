"""Runs benchmarks and writes a JSON and a Markdown table of each: ``python -m benchmarks [name ...]``."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from .common import machine, require_idle

NAMES = (
    "neuron_layer",
    "norm_layer",
    "waiting_norm",
    "training_step",
    "networks",
    "first_call",
    "catalogue",
    "spikes",
    "stream",
    "sparse_layer",
    "delays",
    "learning",
    "conversion",
    "training_memory",
    "events",
)


def table(name: str, rows: dict[str, Any]) -> str:
    """Markdown: ratio first, then milliseconds."""
    about = machine()
    lines = [f"# {name}", "", "; ".join(f"{k} {v}" for k, v in about.items()), ""]
    lines += ["| work | side | times as long as ours (quartiles) | ms |", "|---|---|---|---|"]
    for work, row in rows.items():
        spikes = f" ({100 * row['spikes']:.0f} % spikes)" if "spikes" in row else ""
        if "seconds" in row:
            lines.append(f"| {work} | spikeloom | | {1e3 * row['seconds']:.0f} |")
        for side, found in row.get("sides", {}).items():
            ratio = f"{found['ratio']:.2f}" if "ratio" in found else "1"
            if "low" in found:
                ratio += f" ({found['low']:.2f} to {found['high']:.2f})"
            lines.append(f"| {work}{spikes} | {side} | {ratio} | {found['ms']:.3g} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which to run, of {', '.join(NAMES)}; all by default")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the result files")
    args = parser.parse_args()
    for name in args.names:
        if name not in NAMES:
            parser.error(f"there is no benchmark {name!r}; choose from {', '.join(NAMES)}")
    args.out.mkdir(parents=True, exist_ok=True)
    names = args.names or list(NAMES)
    if len(names) > 1:  # each in a process of its own: what one does to the allocator stays there
        for name in names:
            subprocess.run([sys.executable, "-m", "benchmarks", name, "--out", str(args.out)], check=True)
        return
    require_idle()
    (name,) = names
    rows = importlib.import_module(f"benchmarks.{name}").main()
    (args.out / f"{name}.json").write_text(json.dumps({"machine": machine(), name: rows}, indent=1) + "\n")
    (args.out / f"{name}.md").write_text(table(name, rows))
    print(table(name, rows))


if __name__ == "__main__":
    main()
