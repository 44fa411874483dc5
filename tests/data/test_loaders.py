"""Order, shares of processes, splits, seeds of samples; missing files."""

import gzip
import pickle
import random
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch

from spikeloom import data
from spikeloom.data import transforms


def indices(batches):
    return [index for keys in batches for _, index in keys]


def test_an_epoch_has_every_sample_once_in_an_order_of_its_own():
    batches = data.Batches(103, 10, shuffle=True, seed=5)
    first, second = indices(batches), indices(batches)
    assert sorted(first) == sorted(second) == list(range(103))
    assert first != second
    assert len(batches) == 11
    again = data.Batches(103, 10, shuffle=True, seed=5)
    again.seek(1)
    assert indices(again) == second
    again.seek(1, 4)  # the fifth batch of the second epoch
    assert indices(again) == second[40:]
    other = data.Batches(103, 10, shuffle=True, seed=6)
    assert indices(other) != first
    assert indices(data.Batches(5, 2, shuffle=False)) == [0, 1, 2, 3, 4]


def test_processes_share_each_batch():
    whole = data.Batches(103, 12, shuffle=True, seed=1)
    parts = [data.Batches(103, 12, shuffle=True, seed=1, rank=r, world=3) for r in range(3)]
    for batch, *shares in zip(whole, *parts, strict=True):
        together = [key for share in shares for key in share]
        assert len({len(s) for s in shares}) == 1  # a gradient needs as many in each
        assert set(together) <= set(batch)
        assert len(batch) - len(together) == len(batch) % 3
    parts = [indices(data.Batches(103, 12, shuffle=False, rank=r, world=3, even=False)) for r in range(3)]
    assert sorted(i for part in parts for i in part) == list(range(103))  # a test set: every sample, once
    with pytest.raises(ValueError, match="positive multiple of 3, got 10"):
        data.Batches(103, 10, shuffle=True, world=3)
    with pytest.raises(ValueError, match="2 samples cannot be shared by 3 processes"):
        data.Batches(2, 3, shuffle=True, world=3)


def test_stratified_by_largest_remainders():
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)[torch.randperm(100)]
    rest, held = data.stratified(labels, 13, seed=3)
    assert labels[held].bincount().tolist() == [6, 4, 3]  # 6.5, 3.9 and 2.6: the 0.9 and the 0.6 are rounded up
    assert sorted([*rest.tolist(), *held.tolist()]) == list(range(100))
    assert torch.equal(data.stratified(labels, 13, seed=3)[1], held)
    assert not torch.equal(data.stratified(labels, 13, seed=4)[1], held)
    assert torch.equal(data.stratified(labels, 0.13, seed=3)[1], held)  # a share of 100 samples
    assert data.stratified(labels, 0.001, seed=3)[1].numel() == 1
    for share in (1.0, 13.0, 0.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match=f"a share of the samples lies between 0 and 1, got {share}; a number"):
            data.stratified(labels, share, seed=0)
    with pytest.raises(ValueError, match="100 samples cannot be held out of 100"):
        data.stratified(labels, 100, seed=0)


class Noise(torch.nn.Module):
    """Draws from all three generators that a user's transform may draw from."""

    def forward(self, x):
        return x + torch.rand(()) + random.random() + float(np.random.rand())


def noisy(workers, seed=0):
    samples = data.Samples(torch.zeros(20, 1), torch.zeros(20), transform=Noise(), seed=seed)
    return data.loaders((samples, samples), batch_size=6, seed=seed, workers=workers).train


def test_a_sample_has_its_own_noise_whatever_worker_makes_it():
    torch.manual_seed(1)
    loader = noisy(0)
    state = torch.get_rng_state(), random.getstate()
    first, second = ([x for x, _ in loader] for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state[0])  # nothing was drawn from the generators of the training
    assert random.getstate() == state[1]
    values = torch.cat(first).flatten()
    assert len(values.unique()) == 20
    assert not torch.equal(values.sort().values, torch.cat(second).flatten().sort().values)  # other noise each epoch
    loader = noisy(2)
    assert all(torch.equal(wanted, x) for wanted, (x, _) in zip(first, loader, strict=True))
    loader.sampler.seek(1)
    for wanted, (x, _) in zip(second, loader, strict=True):
        assert torch.equal(x, wanted)


def test_the_noise_of_samples_leaves_the_generators_of_gpus_alone(monkeypatch):
    """Which torch.manual_seed seeds too, and nothing would set back: masks of dropout there would follow a sample."""
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("a GPU's generator was seeded"))
    (first, _), *_ = noisy(0)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(data.mix(0, 0, next(iter(noisy(0).sampler))[0][1]))
        drawn = float(torch.rand(()))
    assert drawn <= first[0].item() < drawn + 2  # the other two generators add up to 1 each


def test_what_takes_a_batch_at_the_end_of_transforms_is_given_one():
    """With the same values, of a transform that counts its calls."""

    class Halved(torch.nn.Module):
        batched, calls = True, 0

        def forward(self, x):
            Halved.calls += 1
            return x / 2

    x = torch.arange(20.0).reshape(20, 1)
    batches = {}
    for name, parts in {"alone": [Noise()], "after": [Noise(), Halved()], "before": [Halved(), Noise()]}.items():
        Halved.calls = 0
        samples = data.Samples(x, torch.zeros(20), transform=torch.nn.Sequential(*parts))
        batches[name] = samples.batch([(0, k) for k in range(5)])[0]
        assert Halved.calls == {"alone": 0, "after": 1, "before": 5}[name]
    assert torch.equal(batches["after"], batches["alone"] / 2)
    torch.testing.assert_close(batches["before"], batches["alone"] - x[:5] / 2)


def test_transforms_by_hand():
    image = torch.arange(1.0, 17.0).reshape(1, 4, 4)
    assert torch.equal(transforms.RandomFlip(1.0)(image)[0, 0], torch.tensor([4.0, 3.0, 2.0, 1.0]))
    assert torch.equal(transforms.RandomFlip(0.0)(image), image)
    seen = {tuple(transforms.RandomCrop(1)(image).flatten().tolist()) for _ in range(200)}
    padded = torch.zeros(6, 6)
    padded[1:5, 1:5] = image[0]
    wanted = {tuple(padded[i : i + 4, j : j + 4].flatten().tolist()) for i in range(3) for j in range(3)}
    assert seen == wanted
    for _ in range(50):
        cut = transforms.Cutout(2)(image)
        assert 1 <= int((cut == 0).sum()) <= 4
        assert torch.equal(cut[cut != 0], image[cut != 0])
    normal = transforms.Normalize((0.5, 0.25), (2.0, 0.5))
    assert normal(torch.ones(2, 1, 1)).flatten().tolist() == [0.25, 1.5]
    assert normal(torch.ones(7, 2, 3, 3)).shape == (7, 2, 3, 3)
    with pytest.raises(ValueError, match=r"expected \[\*, 2, H, W\], got \[3, 4, 4\]"):
        normal(torch.ones(3, 4, 4))


def test_samples_say_what_is_wrong():
    with pytest.raises(ValueError, match="label 2 of sample 1 is none of 0 to 1"):
        data.Samples(torch.zeros(2, 1), torch.tensor([0, 2]), classes=("a", "b"))
    with pytest.raises(ValueError, match="2 samples need as many labels, got 3"):
        data.Samples(torch.zeros(2, 1), torch.zeros(3))
    with pytest.raises(ValueError, match=r"int64 \[N\], got torch.float32 \[2\]"):
        data.Samples(torch.zeros(2, 1), torch.zeros(2), classes=("a",))
    targets = data.Samples(torch.zeros(2, 1), torch.ones(2, 5))  # regression: any targets
    assert targets[1][1].tolist() == [1.0] * 5


def test_sequences_come_time_first_where_it_is_asked_for():
    x = torch.arange(4 * 5 * 2).reshape(4, 5, 2)
    classes, by_step, shares = torch.tensor([0, 1, 1, 0]), torch.arange(20).reshape(4, 5), torch.rand(4, 2)

    def first(labels, batch_first, **options):
        samples = data.Samples(x, labels, **options)
        return next(iter(data.loaders((samples, samples), batch_size=3, batch_first=batch_first).test))

    for batch_first in (True, False):
        layout = (lambda t: t) if batch_first else (lambda t: t.transpose(0, 1))
        for labels, options in (
            (classes, dict(classes=("a", "b"))),
            (by_step, dict(per_step=True)),
            (shares, dict(per_step=False)),
        ):
            got, y = first(labels, batch_first, **options)
            assert torch.equal(got, layout(x[:3]))
            assert torch.equal(y, layout(labels[:3]) if options.get("per_step") else labels[:3])
    assert torch.equal(first(by_step, True)[1], by_step[:3])
    with pytest.raises(ValueError, match=r"labels \[4, 5\] for each step or for each sample\? Samples\(..., per_step="):
        first(by_step, False)
    with pytest.raises(ValueError, match=r"must be \[N, T, \*\], got \[4\]"):
        data.Samples(x, classes, per_step=True)
    flat = data.Samples(torch.zeros(4), classes)
    with pytest.raises(ValueError, match=r"expected sequences, \[B, T, \*\], got \[2\]"):
        next(iter(data.loaders((flat, flat), batch_size=2, batch_first=False).train))


def test_images_have_no_steps_to_put_first(tmp_path):
    for name, sample in (("mnist", r"\[1, 28, 28\]"), ("imagenet", r"\[3, 224, 224\]")):
        with pytest.raises(data.DataError, match=f"data set {name} has no steps, its samples are {sample}"):
            data.loaders(name, batch_size=2, root=tmp_path, batch_first=False)
    with pytest.raises(data.DataError, match="n-mnist: recordings come in a list; frames= makes sequences"):
        data.loaders("n-mnist", batch_size=2, root=tmp_path, batch_first=False)


def idx(array, code=0x08):
    return bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def mnist_like(folder, train=60_000, test=10_000):
    """Files with the names and sizes of MNIST; image k is all k % 251, its label k % 10."""
    folder.mkdir(parents=True)
    for name, n in (("train", train), ("t10k", test)):
        k = np.arange(n)
        images = np.broadcast_to((k % 251).astype(np.uint8)[:, None, None], (n, 28, 28))
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(np.ascontiguousarray(images)), 1))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx((k % 10).astype(np.uint8)))


def test_one_call_from_files(tmp_path):
    mnist_like(tmp_path / "MNIST" / "raw")  # where torchvision puts them
    loaders = data.loaders("mnist", batch_size=50, validation=0.1, subset=1000, root=tmp_path, test_batch_size=500)
    assert (len(loaders.train), len(loaders.validation), len(loaders.test)) == (18, 1, 20)
    x, _ = next(iter(loaders.train))
    assert (x.shape, x.dtype) == ((50, 1, 28, 28), torch.float32)
    kept, held = (loader.dataset.samples for loader in (loaders.train, loaders.validation))
    assert kept.labels.bincount().tolist() == [90] * 10  # of each class the same share
    assert held.labels.bincount().tolist() == [10] * 10
    assert loaders.split["train"]["samples"] == 900
    assert set(loaders.split["files"]) == {
        f"MNIST/raw/{n}-{k}" for n in ("train", "t10k") for k in ("images-idx3-ubyte.gz", "labels-idx1-ubyte")
    }
    own = data.loaders("mnist", batch_size=50, root=tmp_path, transforms=(lambda x: x.double().mean(), None)).train
    x, _ = next(iter(own))
    assert (x.shape, x.dtype) == ((50,), torch.float64)


def test_missing_and_wrong_files_are_named(tmp_path, monkeypatch):
    message = r"mnist: train-images-idx3-ubyte, .* not found in .*mnist; also looked in .*MNIST/raw.*data fetch mnist$"
    with pytest.raises(data.DataError, match=message):
        data.load("mnist", "train", root=tmp_path)
    monkeypatch.setenv("SPIKELOOM_DATA", str(tmp_path))
    assert not data.available("mnist")
    mnist_like(tmp_path / "mnist", train=100, test=50)
    with pytest.raises(data.DataError, match="the train split has 100 samples instead of 60,000"):
        data.load("mnist", "train")
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(data.DataError, match=r"mnist: t10k-labels-idx1-ubyte not found in .*mnist; also"):
        data.load("mnist", "train")
    with pytest.raises(data.DataError, match="there is no data set 'emnist'; there are mnist, "):
        data.load("emnist", "train")
    with pytest.raises(data.DataError, match="split must be train or test, got 'val'"):
        data.load("digits", "val")
    for wrong in (dict(validation=1.0), dict(validation=-0.1), dict(transforms=(None,))):
        with pytest.raises(ValueError, match="loaders: "):
            data.loaders("digits", batch_size=4, **wrong)
    with pytest.raises(RuntimeError, match="start with torchrun"):
        data.loaders("digits", batch_size=4, distributed=True)


def test_digits_are_split_by_the_seed():
    pytest.importorskip("sklearn", reason="the extra 'demo' is not installed")
    train, test = data.load("digits", "train"), data.load("digits", "test")
    assert (len(train), len(test)) == (1437, 360)
    whole = torch.cat([train.labels, test.labels]).bincount()
    assert whole.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # scikit-learn's description
    assert ((test.labels.bincount() - whole * 360 / 1797).abs() < 1).all()
    both = torch.cat([train.data, test.data]).flatten(1)
    assert len({tuple(row.tolist()) for row in both}) == 1797  # no image in both parts
    assert not torch.equal(data.load("digits", "test", seed=1).labels, test.labels)
    image, _ = train[0]
    assert float(torch.stack([train[i][0] for i in range(100)]).max()) == 1.0
    assert image.shape == (1, 8, 8)


def cifar_like(folder, form, hundred):
    """A data set in one of CIFAR's forms, with 4 images in each file; image k of a file is all 10 f + k."""
    folder.mkdir(parents=True)
    names = ("train", "test") if hundred else (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch")
    for f, name in enumerate(names):
        pixels = np.repeat(10 * f + np.arange(4, dtype=np.uint8), 3072).reshape(4, 3072)
        fine = (np.arange(4) + f).tolist()
        if form == "python":
            labels = {"coarse_labels": [19] * 4, "fine_labels": fine} if hundred else {"labels": fine}
            (folder / name).write_bytes(pickle.dumps({"data": pixels, **labels}, 2))
        else:
            rows = [bytes([19, y] if hundred else [y]) + row.tobytes() for y, row in zip(fine, pixels, strict=True)]
            (folder / f"{name}.bin").write_bytes(b"".join(rows))


@pytest.mark.parametrize("form", ["python", "binary"])
@pytest.mark.parametrize("hundred", [False, True])
def test_cifar_in_both_forms(tmp_path, monkeypatch, form, hundred):
    name = "cifar100" if hundred else "cifar10"
    folder = {
        ("cifar10", "python"): "cifar-10-batches-py", ("cifar10", "binary"): "cifar10/cifar-10-batches-bin",
        ("cifar100", "python"): "cifar100/cifar-100-python", ("cifar100", "binary"): "cifar-100-binary",
    }[name, form]  # fmt: skip
    cifar_like(tmp_path / folder, form, hundred)
    small = replace(data.SETS[name], counts={"train": 4 if hundred else 20, "test": 4})
    monkeypatch.setitem(data.SETS, name, small)
    train, test = (data.load(name, split, root=tmp_path) for split in ("train", "test"))
    files = 1 if hundred else 5
    assert train.labels.tolist() == [k + f for f in range(files) for k in range(4)]
    assert train.data[:, 0, 0, 0].tolist() == [10 * f + k for f in range(files) for k in range(4)]
    assert test.labels.tolist() == [k + files for k in range(4)]
    mean, std = {"cifar10": (0.4914, 0.2470), "cifar100": (0.5071, 0.2673)}[name]
    image, _ = test[1]
    assert float(image[0, 0, 0]) == pytest.approx(((10 * files + 1) / 255 - mean) / std, rel=1e-5)
    assert train[0][0].shape == (3, 32, 32)  # cropped and mirrored
    assert len(train.classes) == (100 if hundred else 10)
