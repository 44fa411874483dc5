"""A convolutional SNN on scikit-learn's handwritten digits (1,797 real images of 8x8 pixels): the demo.

    python -m spikeloom.recipes.digits              seed 0, into runs/digits
    python -m spikeloom.recipes.digits --seeds 5    five seeds and their mean

The image is presented at every step (direct coding), so the first convolution and its batch norm are computed
once. The output neurons integrate without firing; at every step their membranes shall name the digit. Training
takes a fixed number of epochs, and the accuracy is that of the last one on 360 held-out images.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import spikeloom as sl

HIDDEN = {"conv 1": "2", "conv 2": "5"}  # layers that spike, and their paths


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on."""

    T: int = 6
    epochs: int = 18
    batch_size: int = 48
    lr: float = 4e-3
    channels: int = 24
    seed: int = 0


def build(config: Config) -> sl.Network:
    """The network: images ``[B, 1, 8, 8]`` with ``repeat=T`` to membranes ``[T, B, 10]``."""
    c = config.channels
    return sl.Network(
        nn.Conv2d(1, c, 3, padding=1, bias=False),
        nn.BatchNorm2d(c),
        sl.LIF(tau=2.0, surrogate=sl.surrogate.ATan(2.0)),
        nn.Conv2d(c, 2 * c, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * c),
        sl.LIF(tau=2.0, surrogate=sl.surrogate.ATan(2.0)),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(2 * c * 16, 10),
        sl.LI(tau=2.0),
    )


def load(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test images ``[N, 1, 8, 8]`` from 0 to 1 and their labels: 1,437 and 360, stratified."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images, labels, test_size=360, stratify=labels, random_state=seed)
    x_train, x_test = (torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16 for x in split[:2])
    y_train, y_test = (torch.tensor(y, dtype=torch.int64) for y in split[2:])
    return x_train, x_test, y_train, y_test


def accuracy(net: sl.Network, x: Tensor, y: Tensor, T: int) -> float:
    """Share of images whose highest mean membrane is the label's."""
    net.eval()
    with torch.no_grad():
        return float(sl.metrics.accuracy_rate(net(x, repeat=T), y))


def train(config: Config, *, progress: Any = None) -> tuple[sl.Network, list[dict[str, float]]]:
    """Trains for ``config.epochs`` epochs; returns the network and a row of metrics for each epoch."""
    torch.manual_seed(config.seed)
    x_train, x_test, y_train, y_test = load(config.seed)
    net = build(config)
    optimiser = torch.optim.AdamW(net.parameters(), lr=config.lr, weight_decay=1e-2)
    steps = config.epochs * -(-len(x_train) // config.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.lr, total_steps=steps)
    history = []
    for epoch in range(1, config.epochs + 1):
        net.train()
        total, right = 0.0, 0
        for batch in torch.randperm(len(x_train)).split(config.batch_size):
            membranes = net(x_train[batch], repeat=config.T)
            loss = sl.loss.rate_cross_entropy(membranes, y_train[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * len(batch)
            right += int((membranes.mean(0).argmax(1) == y_train[batch]).sum())
        row = {
            "epoch": epoch,
            "loss": total / len(x_train),
            "train_accuracy": right / len(x_train),
            "test_accuracy": accuracy(net, x_test, y_test, config.T),
        }
        history.append(row)
        if progress is not None:
            progress(row)
    return net, history


def save(out: Path, config: Config, net: sl.Network, history: list[dict[str, float]]) -> list[Path]:
    """Writes weights, configuration, metrics and pictures to ``out``; returns the files."""
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    save_file({name: t.contiguous() for name, t in net.state_dict().items()}, out / "weights.safetensors")
    described = {"recipe": "digits", **asdict(config), "spikeloom": sl.__version__, "torch": torch.__version__}
    (out / "config.json").write_text(json.dumps(described, indent=2) + "\n")
    (out / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
    return [out / n for n in ("weights.safetensors", "config.json", "metrics.jsonl")] + draw(out, config, net, history)


def draw(out: Path, config: Config, net: sl.Network, history: list[dict[str, float]]) -> list[Path]:
    """The pictures: training curves, rasters and membranes of one test image, firing rates on all of them."""
    import matplotlib as mpl

    mpl.use("Agg")
    from spikeloom import plot

    _, x_test, _, y_test = load(config.seed)
    net.eval()
    with torch.no_grad():
        membranes, result = net(x_test, repeat=config.T, record=("*.output",))
    spikes = {layer: result.record[f"{path}.output"] for layer, path in HIDDEN.items()}
    digit = int(y_test[0])
    files = []

    def write(name: str, fig: Any) -> None:
        files.append(out / name)
        fig.savefig(files[-1], dpi=130)

    fig, (ax,) = plot.figure()
    plot.curves(history, ax=ax)
    write("curves.png", fig)
    fig, axes = plot.figure(len(spikes))
    for ax, (layer, s) in zip(axes, spikes.items(), strict=True):
        plot.raster(s[:, 0], ax=ax, title=f"{layer}: spikes for one test image of a {digit}")
    write("raster.png", fig)
    fig, (ax,) = plot.figure()
    title = f"membranes of the output neurons for one test image of a {digit}"
    plot.traces(membranes[:, 0], highlight=digit, ax=ax, title=title)
    write("membranes.png", fig)
    fig, (ax,) = plot.figure(height=2.2)
    rates = {layer: float(s.mean()) for layer, s in spikes.items()}
    plot.firing_rates(rates, ax=ax, title="firing rates on the test images")
    write("rates.png", fig)
    return files


def main(argv: list[str] | None = None) -> int:
    """Command line of the recipe; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m spikeloom.recipes.digits", description=__doc__.split("\n")[0])
    defaults = Config()
    parser.add_argument("--seed", type=int, default=0, help="first seed: split, weights, order (default 0)")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds to run (default 1)")
    parser.add_argument("--epochs", type=int, default=defaults.epochs, help=f"default {defaults.epochs}")
    parser.add_argument("--T", type=int, default=defaults.T, help=f"steps per image (default {defaults.T})")
    parser.add_argument("--out", type=Path, default=Path("runs/digits"), help="folder to write (default runs/digits)")
    args = parser.parse_args(argv)
    for name in ("seeds", "epochs", "T"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    if not _may_write(args.out):
        parser.error(f"{args.out} holds something else than a run of this recipe; choose another folder with --out")
    try:
        import matplotlib  # noqa: F401  # only to fail before training
        import rich  # noqa: F401
        import safetensors  # noqa: F401
        import sklearn  # noqa: F401
    except ModuleNotFoundError as missing:
        print(f"this recipe needs {missing.name}; install the extra: pip install 'spikeloom[demo]'", file=sys.stderr)
        return 2
    sl.retain_memory()
    config = Config(T=args.T, epochs=args.epochs, seed=args.seed)
    accuracies = []
    for k in range(args.seeds):
        out = args.out if args.seeds == 1 else args.out / f"seed-{args.seed + k}"
        accuracies.append(_run(replace(config, seed=args.seed + k), out))
    if args.seeds > 1:
        mean = sum(accuracies) / len(accuracies)
        each = ", ".join(f"{100 * a:.2f}" for a in accuracies)
        print(f"\ntest accuracy of {args.seeds} seeds: {each}; mean {100 * mean:.2f} %")
    else:
        print("next: make demo SEEDS=5, or read and change src/spikeloom/recipes/digits.py")
    return 0


def _may_write(out: Path) -> bool:
    """Only a new or empty folder, or one that holds runs of this recipe."""
    if not out.exists():
        return True
    if not out.is_dir():
        return False
    configs = [*out.glob("config.json"), *out.glob("seed-*/config.json")]
    return not any(out.iterdir()) or any('"recipe": "digits"' in c.read_text() for c in configs)


def _run(config: Config, out: Path) -> float:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    start = time.perf_counter()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task(f"seed {config.seed}: training on 1,437 digits", total=config.epochs)

        def progress(row: dict[str, float]) -> None:
            text = f"seed {config.seed}: loss {row['loss']:.3f}, test {100 * row['test_accuracy']:.1f} %"
            bar.update(task, advance=1, description=text)

        net, history = train(config, progress=progress)
    seconds = time.perf_counter() - start
    files = save(out, config, net, history)
    test = history[-1]["test_accuracy"]
    print(
        f"test accuracy {100 * test:.2f} % on 360 images, last epoch, seed {config.seed}, {seconds:.0f} s of training"
    )
    print(f"wrote {', '.join(f.name for f in files)} to {out}/")
    return test


if __name__ == "__main__":
    raise SystemExit(main())
