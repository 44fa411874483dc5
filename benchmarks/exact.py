"""A run's ordinary network, converted by Exact, against the same network with its activations quantised.

    python -m benchmarks.exact runs/ann2snn-cifar10 --levels 7 --images 200

Every ReLU of the second network is ``theta / L clamp(floor(L x / theta + 1/2), 0, L)``, computed here. Both run in
float64 on test images; after some multiples of L steps their outputs are compared.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

import spikeloom as sl


class Staircase(nn.Module):
    """A ReLU with L steps up to theta, by channel."""

    def __init__(self, theta: Tensor, levels: int) -> None:
        super().__init__()
        self.theta, self.levels = theta, levels

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``[B, C, *]``."""
        theta = self.theta if self.theta.numel() == 1 else self.theta.view(-1, *(1,) * (x.ndim - 2))
        return torch.floor(self.levels * x / theta + 0.5).clamp(0, self.levels) * theta / self.levels


def main() -> None:
    """Prints accuracies and the largest difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--levels", type=int, default=7)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--times", type=int, nargs="+", default=[2], help="numbers of steps, in levels")
    options = parser.parse_args()
    trained = sl.runs.load(options.run)
    loaders, net = trained.loaders(), trained.net.double().eval()
    assert loaders.test is not None
    torch.manual_seed(trained.config.seed)
    samples = next(iter(loaders.train))[0].double()
    images, labels, found = [], [], 0
    for x, y in loaders.test:
        images.append(x[: options.images - found].double())
        labels.append(y[: options.images - found])
        found += len(images[-1])
        if found >= options.images:
            break
    steps = [options.levels * n for n in options.times]
    result = sl.convert.convert(net, sl.convert.Exact(levels=options.levels), calibrate=samples.split(32), T=2)
    for layer in result.report.layers:
        net.set_submodule(layer.path, Staircase(layer.threshold, options.levels))
    with torch.no_grad():
        wanted = torch.cat([net(x) for x in images])
        outputs = torch.cat([result.outputs(part, T=max(steps)) for x in images for part in x.split(20)], 1)
    truth = torch.cat(labels)
    print(f"quantised: {100 * (wanted.argmax(1) == truth).double().mean():.2f} % of {len(truth)} images")
    for T in steps:
        y = result.decode(outputs[:T])
        off = (y - wanted).abs().amax(1)
        right, same = (int((y.argmax(1) == other).sum()) for other in (truth, wanted.argmax(1)))
        print(
            f"T = {T}: {100 * right / len(truth):.2f} %, {same} equal classes, {int((off > 1e-9).sum())} outputs "
            f"differ, at most by {float(off.max()):.2g}"
        )


if __name__ == "__main__":
    main()
