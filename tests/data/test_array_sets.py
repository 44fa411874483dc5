"""Pictures and Braille letters: fetched from a server on this machine, resumed, checked, unpacked and read."""

import functools
import gzip
import hashlib
import http.server
import io
import os
import pickle
import struct
import tarfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from spikeloom import data

ROOT = os.environ.get("SPIKELOOM_DATA")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path):
    """A folder, and a function that says where a server on this machine gives its files."""
    folder = tmp_path / "served"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, lambda name: f"http://127.0.0.1:{server.server_port}/{name}"
        server.shutdown()


def small(monkeypatch, name, served, *, counts, wrong=()):
    """The data set with few samples, whose files the server has."""
    folder, url = served
    d = data.SETS[name]
    downloads = tuple(
        replace(
            file,
            urls=(url("nowhere"), url(file.name)),
            md5="0" * 32 if file.name in wrong else hashlib.md5((folder / file.name).read_bytes()).hexdigest(),
            sha256=None,
        )
        for file in d.downloads
    )
    monkeypatch.setitem(data.SETS, name, replace(d, counts=counts, downloads=downloads))


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_idx_files_are_fetched_and_read_as_they_come(name, served, tmp_path, monkeypatch):
    images = {"train": np.arange(3 * 784, dtype=np.uint32) % 256, "t10k": np.arange(784) // 7}
    for split, pixels in images.items():
        n = pixels.size // 784
        for kind, code, shape, values in (
            ("images-idx3", 3, (n, 28, 28), pixels), ("labels-idx1", 1, (n,), np.arange(n) + 5),
        ):  # fmt: skip
            body = bytes([0, 0, 8, code]) + struct.pack(f">{code}I", *shape) + values.astype(np.uint8).tobytes()
            (served[0] / f"{split}-{kind}-ubyte.gz").write_bytes(gzip.compress(body))
    small(monkeypatch, name, served, counts={"train": 3, "test": 1})
    root, told = tmp_path / "root", []
    with pytest.raises(data.DataError, match=f"fetch it with: spikeloom data fetch {name}$"):
        data.load(name, "train", root=root)
    assert not data.available(name, root)
    assert data.fetch(name, root, progress=lambda *p: told.append(p)) == root / name
    assert {f"checking {split}-labels-idx1-ubyte.gz" for split in images} < {what for what, _, _ in told}
    assert data.available(name, root)
    train = data.load(name, "train", root=root, transform=lambda x: x)
    assert torch.equal(train.data.flatten(), torch.from_numpy(images["train"].astype(np.uint8)))
    assert train.labels.tolist() == [5, 6, 7]
    assert data.load(name, "test", root=root).labels.tolist() == [5]
    assert data.verify(name, root) == []
    (root / name / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x01\x04"))
    assert any("t10k-labels-idx1-ubyte.gz: its md5 is" in problem for problem in data.verify(name, root))


def test_a_wrong_checksum_leaves_nothing_behind(served, tmp_path, monkeypatch):
    for file in data.SETS["mnist"].downloads:
        (served[0] / file.name).write_bytes(b"of somebody else")
    small(monkeypatch, "mnist", served, counts={"train": 3, "test": 1}, wrong=["train-images-idx3-ubyte.gz"])
    with pytest.raises(
        data.DataError, match=r"train-images.*no mirror gave it: .*404.*its md5 is [0-9a-f]{32} instead"
    ):
        data.fetch("mnist", tmp_path)
    assert not (tmp_path / "mnist").exists()


@pytest.mark.parametrize("hundred", [False, True])
def test_cifar_is_fetched_unpacked_and_read(hundred, served, tmp_path, monkeypatch):
    name, folder, key = ("cifar100", "cifar-100-python", "fine_labels") if hundred else (
        "cifar10", "cifar-10-batches-py", "labels"
    )  # fmt: skip
    files = ("train", "test") if hundred else (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch")
    with tarfile.open(served[0] / data.SETS[name].downloads[0].name, "w:gz") as archive:
        for k, file in enumerate(files):
            body = pickle.dumps({"data": np.full((2, 3072), k, np.uint8), key: [k, k + 1]})
            entry = tarfile.TarInfo(f"{folder}/{file}")
            entry.size = len(body)
            archive.addfile(entry, io.BytesIO(body))
    n = 2 * (len(files) - 1)
    small(monkeypatch, name, served, counts={"train": n, "test": 2})
    at = data.fetch(name, tmp_path)
    assert (at.parent, at.name) == (tmp_path / name / "files", folder)
    train = data.load(name, "train", root=tmp_path)
    assert train.labels.tolist() == [label for k in range(len(files) - 1) for label in (k, k + 1)]
    assert train.data[:, 0, 0, 0].tolist() == [k // 2 for k in range(n)]
    assert data.verify(name, tmp_path) == []


def published(letters, steps):
    """What the authors' file holds, with 77 steps in every second recording."""
    values = np.random.default_rng(1).integers(0, 256, (len(letters), steps, 12)).astype(np.float64)
    rows = [
        {"letter": letter, "taxel_data": x if k % 2 else x[:76], "repetition": 0}
        for k, (letter, x) in enumerate(zip(letters, values, strict=True))
    ]
    return rows, values[:, :76]


def test_braille_as_its_authors_publish_it(served, tmp_path, monkeypatch):
    letters = ["Space", "A", "Z"] * 2
    rows, values = published(letters, 77)
    (name,) = (file.name for file in data.SETS["braille"].downloads)
    (served[0] / name).write_bytes(gzip.compress(pickle.dumps(rows)))
    small(monkeypatch, "braille", served, counts={"train": 3, "test": 3})
    monkeypatch.setitem(data.SETS, "braille", replace(data.SETS["braille"], test_size=3))
    data.fetch("braille", tmp_path)
    for split in ("train", "test"):
        found = data.load("braille", split, root=tmp_path)
        assert torch.equal(found.data, torch.from_numpy(values[found.indices].astype(np.uint8)))
        assert [found.classes[label] for label in found.labels] == [letters[k] for k in found.indices]
    for wrong, message in (
        ({"a": 1}, "expected a list of recordings"), ([{"letter": "?", "taxel_data": values[0]}], "not in tuple"),
        ([{"letter": "A", "taxel_data": values[0] / 3}], "whole numbers from 0 to 255"),
        ([{"letter": "A", "taxel_data": values[0][:70]}], r"got float64 \[70, 12\]"),
    ):  # fmt: skip
        (tmp_path / "braille" / name).write_bytes(gzip.compress(pickle.dumps(wrong)))
        with pytest.raises(data.DataError, match=message):
            data.load("braille", "train", root=tmp_path)


@pytest.mark.skipif(not ROOT, reason="SPIKELOOM_DATA names no folder with the real files")
def test_both_forms_of_the_real_braille_letters_are_equal(tmp_path):
    file = Path(ROOT) / "braille" / "tutorial5_braille_spiking_data.pkl.gz"
    if not file.exists():
        pytest.skip(f"{file.name} is not below SPIKELOOM_DATA")
    (tmp_path / "braille").mkdir()
    (tmp_path / "braille" / file.name).symlink_to(file)
    for split in ("train", "test"):
        one, other = (data.load("braille", split, root=root) for root in (ROOT, tmp_path))
        assert torch.equal(one.data, other.data)
        assert torch.equal(one.labels, other.labels)


def test_the_old_name_of_array_sets_warns():
    with pytest.warns(DeprecationWarning, match="data.ArraySet"):
        assert data.Description is data.ArraySet
