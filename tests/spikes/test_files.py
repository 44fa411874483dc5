"""Spikes in files: what was saved comes back, and what was forged is refused before any bit is read."""

import io
import pickle
import pickletools
import zipfile

import pytest
import torch

import spikeloom as sl
from spikeloom.spikes import tensor as module


class Forged:
    """Pickled as a call, with a state to set after it."""

    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


def through_a_file(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 5), (2, 0, 3), (2, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_spikes_come_back(shape, dtype):
    dense = (torch.rand(shape) < 0.4).to(dtype)
    saved = {"s": sl.pack(dense), "list": [sl.pack(dense)]}
    for found in (through_a_file(saved), pickle.loads(pickle.dumps(saved))):
        for s in (found["s"], found["list"][0]):
            assert isinstance(s, sl.SpikeTensor)
            assert torch.equal(s.unpack(), dense)
            assert s.dtype == dtype


def test_layouts_and_gradients_come_back():
    dense = (torch.rand(2, 3, 4, 5) < 0.4).float()
    for x in (dense.contiguous(memory_format=torch.channels_last), dense.permute(1, 3, 0, 2)):
        found = through_a_file(sl.pack(x))
        assert found.stride() == x.stride()
        assert torch.equal(found.unpack(), x)
    assert through_a_file(sl.pack(torch.ones(9)).requires_grad_()).requires_grad


BITS = torch.tensor([3, 0], dtype=torch.uint8)
F = torch.float32


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((BITS, (10**6,), (1,), F), "2 bytes of bits .* which takes 125,000"),
        ((BITS, (8,), (1,), F), "which takes 1"),
        ((BITS, (2**40, 2**40), (2**40, 1), F), "2 bytes of bits"),
        ((BITS, (16,), (0,), F), "with strides .0. are none of shape"),
        ((BITS, (16,), (1000,), F), "with strides .1000. are none of shape"),
        ((BITS, (4, 4), (4, 2), F), "are none of shape"),
        ((BITS, (4, 4), (1,), F), "a shape and as many strides"),
        ((BITS, (-4, -4), (-4, 1), F), "a shape and as many strides"),
        ((BITS, (16.0,), (1,), F), "a shape and as many strides"),
        ((BITS, [16], [1], F), "a shape and as many strides"),
        ((BITS, (16,), (1,), torch.int64), "expected a dtype of torch.float32"),
        ((BITS.float(), (16,), (1,), F), "a flat tensor of torch.uint8, got torch.float32"),
        ((BITS.view(1, 2), (16,), (1,), F), "a flat tensor of torch.uint8"),
        ((torch.zeros(1, dtype=torch.uint8).expand(2), (16,), (1,), F), "a flat tensor of torch.uint8"),
        ((torch.arange(3, dtype=torch.uint8)[1:], (16,), (1,), F), "a part of other data"),
        (("bits", (16,), (1,), F), "a flat tensor of torch.uint8, got str"),
        ((torch.full((2,), 255, dtype=torch.uint8), (15,), (1,), F), "bits after the last of 15"),
    ],
)
def test_forged_parts_are_refused(parts, message):
    forged = Forged(module._rebuild, (*parts, False))
    with pytest.raises((ValueError, pickle.UnpicklingError), match=f"spikes in a file: .*{message}"):
        through_a_file(forged)
    with pytest.raises(ValueError, match=f"spikes in a file: .*{message}"):
        pickle.loads(pickle.dumps(forged))


def test_bits_that_are_changed_after_they_were_checked():
    """A file may name a tensor again and give it another place: spikes own their bits."""
    bits = torch.full((125,), 255, dtype=torch.uint8)
    file = io.BytesIO()
    forged = Forged(module._rebuild, (bits, (1000,), (1,), F, False))
    torch.save([torch.zeros(0, dtype=torch.uint8), forged, bits], file)
    with zipfile.ZipFile(file) as records:
        parts = {entry.filename: records.read(entry) for entry in records.infolist()}
    name = next(name for name in parts if name.endswith("data.pkl"))
    steps = list(pickletools.genops(parts[name]))
    made = [k for k, (opcode, _, _) in enumerate(steps) if opcode.name == "REDUCE"]
    empty = next(argument for opcode, argument, _ in steps[made[1] :] if opcode.name == "BINPUT")  # after its hooks
    assert parts[name][-4:-3] == b"h"
    parts[name] = parts[name][:-2] + b"h" + bytes([empty]) + b"\x85be."  # bits.set_(empty)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as records:
        for entry, content in parts.items():
            records.writestr(entry, content)
    file.seek(0)
    _, found, changed = torch.load(file, weights_only=True)
    assert changed.numel() == 0
    assert found.bits.numel() == 125
    assert found.unpack().sum() == 1000


def test_no_other_way_into_spikes():
    """The class itself is not called from a file, and nothing is set on spikes once they are made."""
    with pytest.raises(pickle.UnpicklingError, match="SpikeTensor"):
        through_a_file(Forged(sl.SpikeTensor, (BITS, (10**6,), (1,), F)))
    swapped = Forged(module._rebuild, (BITS, (16,), (1,), F, False), {"bits": BITS[:0]})
    with pytest.raises(pickle.UnpicklingError, match="SpikeTensor"):
        through_a_file(swapped)
    with pytest.raises(ValueError, match="a state beside the bits"):
        pickle.loads(pickle.dumps(swapped))
