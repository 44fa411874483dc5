"""Attention against SpikingJelly's golden files, where another equation fails, and numbers of parameters."""

import pytest
import torch

import spikeloom as sl

C, HEADS = 8, 2
PLAIN = {"bias": (False, False)}
MAKE = {
    "spiking": lambda **o: sl.nn.SpikingSelfAttention(C, HEADS, **PLAIN, **o),
    "token": lambda: sl.nn.QKAttention(C, HEADS, **PLAIN),
    "channel": lambda: sl.nn.QKAttention(C, HEADS, over="channel", **PLAIN),
    "driven": lambda: sl.nn.SpikeDrivenSelfAttention(C, HEADS),
}
WRONG = {
    "spiking": lambda: MAKE["spiking"](scale=1.0),
    "token": MAKE["channel"],
    "channel": MAKE["token"],
    "driven": lambda: sl.nn.SpikeDrivenSelfAttention(C, HEADS, neuron=lambda **place: sl.LIF(detach_reset=True)),
}


def ours(given):
    """Numbers of the peer by our names. Of q, k and v it has one convolution and one norm, or each its own."""
    found = {}
    for key, value in given.items():
        place, *rest = key.split(".")
        place, _, kind = place.partition("_")
        norm = kind == "bn" or rest[0] == "1"
        parts = [place] if place == "proj" else list(place)
        for part, chunk in zip(parts, value.chunk(len(parts)), strict=True):
            inside = "1.bn" if norm and (part != "proj" or kind != "bn") else str(int(norm))
            found[f"{part}.{inside}.{rest[-1]}"] = chunk.flatten(2) if chunk.ndim > 3 else chunk
    return found


@pytest.mark.parametrize("name", MAKE)
def test_outputs_and_gradients_are_spikingjellys(golden, name):
    data = {key.removeprefix(f"{name}/"): value for key, value in golden("attention").items()}
    weights, grads = (
        ours({k.removeprefix(start): v for k, v in data.items() if k.startswith(start) and k != "grad/x"})
        for start in ("weight/", "grad/")
    )
    for make, right in ((MAKE[name], True), (WRONG[name], False)):
        layer, x = make().double(), data["x"].clone().requires_grad_()
        learned = dict(layer.named_parameters())
        assert learned.keys() == weights.keys()
        layer.load_state_dict({**layer.state_dict(), **weights})
        y = sl.Network(layer)(x)
        y = x + y if name == "driven" else y
        if not right:
            assert not torch.allclose(y, data["y"], atol=1e-3)
            continue
        torch.testing.assert_close(y.detach(), data["y"], atol=1e-10, rtol=1e-10)
        assert name == "driven" or 0.1 < y.mean() < 0.9
        got = torch.autograd.grad((data["g"] * y).sum(), [x, *learned.values()])
        for key, grad in zip(["x", *learned], got, strict=True):
            wanted = data["grad/x"] if key == "x" else grads[key]
            torch.testing.assert_close(grad, wanted, atol=1e-9, rtol=1e-7, msg=lambda m, key=key: f"{key}: {m}")


def test_numbers_of_parameters():
    """Of C = 384: 4 C^2 + 9 C; 3 C^2 + 7 C; 8 C^2 + 60 C; 10 C^2 + 14 C."""
    with torch.device("meta"):
        sizes = [
            sum(p.numel() for p in layer.parameters())
            for layer in (
                sl.nn.SpikingSelfAttention(384, 12),
                sl.nn.QKAttention(384, 6),
                *(sl.nn.SpikeDrivenSelfAttention(384, 8, version=version) for version in (1, 2, 3)),
                sl.nn.SpikingSelfAttention(384, 12, bias=(True, True)),
            )
        ]
    assert sizes == [593_280, 445_056, 593_280, 1_202_688, 1_479_936, 593_280 + 3 * 384]
