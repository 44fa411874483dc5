"""On a GPU, in one run of about four minutes: ``.peers/bin/python -m benchmarks.gpu``.

Neuron layers, with a batch norm and without, against a copy from the device to itself, SpikingJelly and snnTorch;
training steps of a residual convolutional SNN and of a spiking transformer and the step of a stream, as Python launches
them and captured in a CUDA graph, on both sides; packing, unpacking and products of spikes of one bit each; with
launches and peak memory. A row that fails prints its error. ``--rehearse`` runs all of it once in tiny sizes on a CPU
(with TRITON_INTERPRET=1), to see that it runs; it measures and writes nothing.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

import spikeloom as sl

from .common import machine, require_idle
from .gpu_bench import Bench, Row, said
from .gpu_layers import bits, neuron, normed, product
from .gpu_networks import convolutional, step, stream, transformer

HALF, SINGLE = torch.float16, torch.float32
HEAD = "|---|---|---|---|---|---|"


def rows() -> dict[str, tuple[str, Callable[[Bench], Row]]]:
    """By name: what a row is called in the table, and what makes it. The first to come are the first to be measured."""
    found: dict[str, tuple[str, Callable[[Bench], Row]]] = {}
    for dtype in (HALF, SINGLE):
        kind = str(dtype)[6:]
        found[f"lif-{kind}"] = f"LIF, T=32, 64 x 65536, {kind}", functools.partial(neuron, dtype=dtype)
    for layout in (torch.contiguous_format, torch.channels_last):
        for dtype in (HALF, SINGLE):
            kind, shape = str(dtype)[6:], str(layout)[6:].removesuffix("_format")
            title = f"batch norm and LIF, T=4, 64 x 128 x 32 x 32, {kind}, {shape}"
            found[f"norm-{kind}-{shape}"] = title, functools.partial(normed, dtype=dtype, layout=layout)
    for amp in (HALF, None):
        for name, build in (("residual", convolutional), ("transformer", transformer)):
            kind = "float32" if amp is None else f"autocast {str(amp)[6:]}"
            title = f"training step, {'residual SNN' if name == 'residual' else 'spiking transformer'}, {kind}"
            found[f"step-{name}-{kind.split()[-1]}"] = title, functools.partial(step, build=build, dtype=amp)
        if amp is not None:
            found["stream"] = "step of a stream, 64 x 64, batch 1", stream
            found["bits"] = "33.5 M spikes of float16", bits
            found["product"] = "spikes @ W, 16384 x 2048 x 2048", functools.partial(product, gradient=False)
            found["gradient"] = "gradient of W, 16384 x 2048 x 2048", functools.partial(product, gradient=True)
    return found


def table(results: dict[str, Row], about: dict[str, str]) -> str:
    """Markdown: ratio first, then milliseconds, memory and launches."""
    lines = ["# Results on a GPU", "", "; ".join(f"{k} {v}" for k, v in about.items()), ""]
    lines += [
        "| work | side | times as long as ours (quartiles) | ms | peak MB | launches |",
        "|---|---|---|---|---|---|",
    ]
    for work, row in results.items():
        for side, found in row["sides"].items():
            ratio = f"{found['ratio']:.2f} ({found['low']:.2f} to {found['high']:.2f})" if "ratio" in found else "1"
            count = f"{found['launches']:.0f}" if "launches" in found else ""
            lines.append(f"| {work} | {side} | {ratio} | {found['ms']:.3g} | {found['peak MB']:.0f} | {count} |")
    lines += [
        f"\n{work}: {row['GB/s']:.0f} GB/s, {100 * row['share of copy']:.0f} % of a copy "
        f"({row['copy GB/s']:.0f} GB/s), {100 * row['spikes']:.0f} % spikes"
        for work, row in results.items()
        if "GB/s" in row
    ]
    return "\n".join(lines) + "\n"


def save(folder: Path, results: dict[str, Row], about: dict[str, str]) -> None:
    """What is there so far."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.json").write_text(json.dumps({"machine": about, **results}, indent=1) + "\n")
    (folder / "gpu.md").write_text(table(results, about))


def chosen(names: str) -> list[str]:
    """The rows whose names begin with one of these, which commas separate."""
    wanted, all_rows = [name.strip() for name in names.split(",") if name.strip()], list(rows())
    for name in wanted:
        if not any(row.startswith(name) for row in all_rows):
            raise SystemExit(f"--rows: no row begins with {name!r}; there are {', '.join(all_rows)}")
    return [row for row in all_rows if not wanted or row.startswith(tuple(wanted))]


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on a CPU; writes nothing")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the result files")
    parser.add_argument("--rows", default="", help=f"those that begin so, separated by commas, of {', '.join(rows())}")
    parser.add_argument("--seconds", type=float, default=3.0, help="for which the sides of a row run in turn")
    parser.add_argument("--minutes", type=float, default=4.0, help="after which no row is begun")
    args = parser.parse_args()
    if not args.rehearse and not torch.cuda.is_available():
        raise SystemExit("no GPU on this machine; --rehearse runs the benchmark with tiny sizes on a CPU")
    return args


def main() -> None:
    """Runs the rows."""
    args = options()
    names, begin = chosen(args.rows), time.perf_counter()
    about = {"gpu": "none" if args.rehearse else torch.cuda.get_device_name(), **machine()}
    if not args.rehearse:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True  # else three input channels, channels last, cost 2.8 ms of each step
        try:
            require_idle()
        except SystemExit as busy:  # the times are of the device; whoever shares the processor is named beside them
            about["busy"] = str(busy)
    bench, results, failed = Bench(rehearse=args.rehearse, seconds=args.seconds), {}, []
    for name in names:
        title, make = rows()[name]
        spent = time.perf_counter() - begin
        if spent > 60 * args.minutes and not args.rehearse:
            failed.append(f"{name}: not begun after {spent:.0f} s")
            continue
        print(f"{name} ({spent:.0f} s)", flush=True)
        try:
            with sl.backend("triton" if args.rehearse else "auto"):
                results[title] = make(bench)
        except (Exception, SystemExit) as error:
            failed.append(f"{name}: {said(error)}")
            traceback.print_exc()
            continue
        if not args.rehearse:
            print(table({title: results[title]}, {}).split(HEAD)[1], flush=True)
            save(args.out, results, about)
            torch.cuda.empty_cache()
    print("\n".join(failed) or f"{len(results)} rows, none failed")
    if args.rehearse:
        raise SystemExit(len(failed) > 0)


if __name__ == "__main__":
    main()
