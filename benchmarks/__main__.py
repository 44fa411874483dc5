"""Runs benchmarks and writes a JSON and a Markdown table: ``python -m benchmarks [name ...]``."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

from .common import machine, require_idle

NAMES = (
    "neuron_layer",
    "norm_layer",
    "training_step",
    "first_call",
    "catalogue",
    "spikes",
    "stream",
    "training_memory",
    "events",
)


def table(results: dict[str, dict[str, Any]]) -> str:
    """Markdown: ratio first, then milliseconds."""
    about = machine()
    lines = ["# Results", "", "; ".join(f"{k} {v}" for k, v in about.items()), ""]
    lines += ["| work | side | times as long as ours (quartiles) | ms |", "|---|---|---|---|"]
    for rows in results.values():
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
    require_idle()
    results = {name: importlib.import_module(f"benchmarks.{name}").main() for name in args.names or NAMES}
    args.out.mkdir(parents=True, exist_ok=True)
    stem = "-".join(["cpu", *args.names])
    (args.out / f"{stem}.json").write_text(json.dumps({"machine": machine(), **results}, indent=1) + "\n")
    (args.out / f"{stem}.md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
