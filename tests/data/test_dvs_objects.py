"""The whole path of an event camera on real recordings: seven objects before a DVS128, told apart by a small network.
The recordings are only used here: their licence is not stated."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

import spikeloom as sl
from spikeloom import data
from spikeloom.data import events as ev

ROOT = os.environ.get("SPIKELOOM_DATA")
OBJECTS = ("Caixa", "Caneca", "Celular", "Estilete", "Lapiseira", "Mouse", "Tesoura")
WINDOW = 300_000  # us


def windows(recording, first, last):
    """Windows that lie wholly between two shares of the recording's time."""
    t = recording.events["t"]
    begin, end = (t[0] + share * recording.duration for share in (first, last))
    count = int((end - begin) // WINDOW)
    return [recording.between(begin + k * WINDOW, begin + (k + 1) * WINDOW) for k in range(count)]


def tensors(parts):
    frames = data.Frames(steps=4)
    make = ev.Compose([ev.Background(20_000), ev.Resize((32, 32))])
    return torch.stack([torch.log1p(frames(make(r))) for r in parts])


@pytest.mark.skipif(not ROOT, reason="SPIKELOOM_DATA names no folder with the recordings")
def test_objects_are_told_apart():
    """The first 65 % of each recording are for training, the last 30 % for testing; what lies between is nobody's."""
    files = [Path(ROOT, "events/aedat2_dvs128/objects", f"{name}.aedat") for name in OBJECTS]
    parts = {"train": [], "test": []}
    for label, file in enumerate(files):
        recording = data.read_events(file)
        train, test = windows(recording, 0.0, 0.65), windows(recording, 0.7, 1.0)
        assert max(r.events["t"].max() for r in train) < min(r.events["t"].min() for r in test)
        parts["train"] += [(r, label) for r in train]
        parts["test"] += [(r, label) for r in test]
    samples = {
        split: data.Samples(tensors([r for r, _ in p]), torch.tensor([y for _, y in p]), classes=OBJECTS)
        for split, p in parts.items()
    }
    loaders = data.loaders((samples["train"], samples["test"]), batch_size=32, seed=0)
    net = sl.Network(
        nn.Conv2d(2, 8, 5, stride=2, padding=2), sl.LIF(tau=2.0), nn.Conv2d(8, 16, 3, stride=2, padding=1),
        sl.LIF(tau=2.0), nn.Flatten(), nn.Linear(16 * 64, 7), sl.LI(tau=2.0), batch_first=True,
    )  # fmt: skip
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(15):
        for x, y in loaders.train:
            loss = nn.functional.cross_entropy(net(x).sum(1), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        right = torch.cat([net(x).sum(1).argmax(1) == y for x, y in loaders.test])
    assert len(right) > 100
    assert right.double().mean() > 0.6  # chance is 0.14
