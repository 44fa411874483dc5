"""Data sets in files: each one built small as it is published, loaded end to end, with labels and splits; the cache."""

import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import wave
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import spikeloom as sl
from spikeloom import data
from spikeloom.data import events as ev
from spikeloom.data import finders

PARTIAL = data.Options(partial=True)
ROOT = os.environ.get("SPIKELOOM_DATA")
real = pytest.mark.skipif(not ROOT, reason="SPIKELOOM_DATA names no folder with the real files")


def events(label, size, n=30):
    """Events that say which label they belong to: the first is at x = label, y = 0."""
    draw = np.random.default_rng(label)
    t = np.sort(draw.integers(0, 5000, n)) + 5
    x, y = draw.integers(0, size[1], n), draw.integers(0, size[0], n)
    t[0], x[0], y[0] = 0, label, 0
    return ev.make_events(t, x, y, draw.integers(0, 2, n))


def put(path, label, size, how):
    path.parent.mkdir(parents=True, exist_ok=True)
    e = events(label, size)
    if how == "mat":
        from scipy.io import savemat

        savemat(path, {"ts": e["t"], "x": e["x"], "y": e["y"], "pol": e["p"].astype(np.uint8)})
    elif how == "aedat2":
        words = [(int(x) << 1 | int(y) << 8 | int(p), int(t)) for t, x, y, p in e.tolist()]
        path.write_bytes(b"#!AER-DAT2.0\r\n# made by hand\r\n" + b"".join(struct.pack(">II", *w) for w in words))
    elif how == "dat1":
        words = [(t, x | y << 9 | p << 17) for t, x, y, p in e.tolist()]
        head = b"% Data file.\n% Version 2\n\x00\x08" if label % 2 else b""  # a header that lies, or none
        path.write_bytes(head + b"".join(struct.pack("<II", *w) for w in words))
    elif how == "npy":
        np.save(path, np.array(e.tolist(), [("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "?")]))
    elif how == "objects":  # lists of frames of rows
        rows = np.array(e.tolist(), np.int64)
        frames = np.empty(2, object)
        frames[0], frames[1] = rows[:10], rows[10:]
        np.save(path, frames, allow_pickle=True)
    elif how == "posneg":
        rows = np.stack((e["y"], e["x"], e["t"]), 1).astype(np.int64)
        np.savez(path, pos=rows[e["p"]], neg=rows[~e["p"]])
    else:
        data.write_events(path, e, size=size, format=how)


def build_nmnist(root):
    for split, n in (("Train", 2), ("Test", 1)):
        for digit in range(10):
            for k in range(n):
                put(root / "n-mnist" / split / str(digit) / f"{k:05}.bin", digit, (34, 34), "atis")
    return {"train": [d for d in range(10) for _ in range(2)], "test": list(range(10))}, list("0123456789")


def build_ncaltech(root):
    names = ["BACKGROUND_Google", "Faces_easy", "zebra"]
    for label, name in enumerate(names):
        for k in range(10):
            put(root / "n-caltech101" / "Caltech101" / name / f"image_{k:04}.bin", label, (180, 240), "atis")
    return {"train": [0] * 9 + [1] * 9 + [2] * 9, "test": [0, 1, 2]}, names


def build_cifar10_dvs(root):
    for label, name in enumerate(finders.CIFAR10):
        for k in (2, 99, 100, 999):
            put(root / "cifar10-dvs" / name / f"cifar10_{name}_{k}.aedat", label, (128, 128), "aedat2")
    both = [label for label in range(10) for _ in range(2)]
    return {"train": both, "test": both}, list(finders.CIFAR10)


def build_gesture(root):
    """Two recordings with labels in the layout of the original: eleven classes, cut by a table."""
    top = root / "dvs128-gesture" / "DvsGesture"
    top.mkdir(parents=True)
    for split, names in (("train", ["user01_led.aedat", "user02_lab.aedat"]), ("test", ["user24_led.aedat"])):
        (top / f"trials_to_{split}.txt").write_text("".join(f"{n}\n" for n in names))
        for name in names:
            rows, parts = [], []
            for k, label in enumerate((11, 1, 10, 2)):
                e = events(label - 1, (128, 128))
                e["t"] += 1000 + k * 10_000
                parts += [e, ev.make_events([e["t"][-1] + 20], [77], [77], [1])]  # between the gestures
                rows.append(f"{label},{e['t'][0]},{e['t'][-1] + 1}")
            data.write_events(top / name, np.concatenate(parts), size=(128, 128))
            table = "class,startTime_usec,endTime_usec\n" + "\n".join(rows) + "\n"
            (top / name.replace(".aedat", "_labels.csv")).write_text(table)
    return {"train": [10, 0, 9, 1] * 2, "test": [10, 0, 9, 1]}, list(finders.GESTURES)


def build_asl(root):
    for label, letter in enumerate(finders.LETTERS):
        for k in range(5):
            put(root / "asl-dvs" / letter / f"{letter}_{k:04}.mat", label, (180, 240), "mat")
    return {"train": [k for k in range(24) for _ in range(4)], "test": list(range(24))}, list(finders.LETTERS)


def build_es_imagenet(root):
    top = root / "es-imagenet" / "ES-imagenet-0.18"
    for label in (0, 2, 10):
        put(top / "train" / f"class{label}" / "n1.npz", label, (256, 256), "posneg")
    for k, label in enumerate((10, 2)):
        put(top / "val" / f"val_{k}.npz", label, (256, 256), "posneg")
    (top / "vallabel.txt").write_text("val_0.npz 10\nval_1.npz 2\n")
    return {"train": [0, 2, 10], "test": [10, 2]}, [f"class{k}" for k in range(1000)]


def build_hardvs(root):
    top = root / "hardvs"
    found = {}
    for split, name in (("train", "train"), ("validation", "val"), ("test", "test")):
        lines, found[split] = [], []
        for label in (0, 9, 99):
            put(top / f"action_{label + 1:03}" / f"{split}_{label}.npz", label, (260, 346), "npz")
            lines.append(f"action_{label + 1:03}/{split}_{label} {label}")
            found[split].append(label)
        (top / f"{name}_label.txt").write_text("\n".join(lines) + "\n")
    return found, [f"action_{k:03}" for k in range(1, 301)]


def build_bullying(root):
    for label, name in enumerate(finders.BULLYING):
        put(root / "bullying10k" / name / "camera" / f"{label}.npy", label, (260, 346), "objects")
    return {"train": [k for k in range(10) if k % 5], "test": [0, 5]}, list(finders.BULLYING)


def build_dvs_lip(root):
    for split in ("train", "test"):
        for label, word in enumerate(("about", "accused", "zebra")):
            put(root / "dvs-lip" / "DVS-Lip" / split / word / "0.npy", label, (128, 128), "npy")
    return {"train": [0, 1, 2], "test": [0, 1, 2]}, ["about", "accused", "zebra"]


def build_nav(root):
    for person in ("anna", "ben"):
        for label, name in enumerate(finders.NAV):
            for k in range(5):
                path = root / "nav-gesture-walk" / person / f"{person}_{name}_{k}_td.dat"
                put(path, label, (240, 304), "dat1")
    return {"train": [k for k in range(6) for _ in range(8)], "test": [k for k in range(6) for _ in range(2)]}, list(
        finders.NAV
    )


def build_spoken(root, name, classes, splits):
    h5py = pytest.importorskip("h5py")
    (root / name).mkdir()
    found = {}
    for split, file in splits.items():
        labels = [0, classes - 1, 2, 10]
        with h5py.File(root / name / f"{name}_{file}.h5", "w") as opened:
            times = opened.create_dataset("spikes/times", 4, h5py.vlen_dtype(np.float16))
            units = opened.create_dataset("spikes/units", 4, h5py.vlen_dtype(np.int64))
            for k, label in enumerate(labels):
                times[k], units[k] = [0.0, 0.25, 0.5], [label, 5, 699]
            opened["labels"] = np.array(labels)
            opened["extra/keys"] = np.array([f"word {k}" for k in range(classes)], "S12")
        found[split] = labels
    return found, [f"word {k}" for k in range(classes)]


def build_ncars(root):
    for split in ("train", "test"):
        for label, name in enumerate(("background", "cars")):
            put(root / "n-cars" / f"n-cars_{split}" / name / "obj_000001_td.dat", label, (100, 120), "dat")
    return {"train": [0, 1], "test": [0, 1]}, ["background", "cars"]


def build_st_mnist(root):
    from scipy.io import savemat

    for digit in range(10):
        for k in range(5):
            path = root / "st-mnist" / "data_submission" / str(digit) / f"LUT{k}.mat"
            path.parent.mkdir(parents=True, exist_ok=True)
            train = np.zeros((101, 20))
            train[-1] = np.arange(20) * 0.1
            train[digit, 0] = 1
            savemat(path, {"spiketrain": train})
    return {"train": [d for d in range(10) for _ in range(4)], "test": list(range(10))}, list("0123456789")


CAMERAS = {
    "n-mnist": build_nmnist, "n-caltech101": build_ncaltech, "cifar10-dvs": build_cifar10_dvs,
    "dvs128-gesture": build_gesture, "asl-dvs": build_asl, "es-imagenet": build_es_imagenet, "hardvs": build_hardvs,
    "bullying10k": build_bullying, "dvs-lip": build_dvs_lip, "nav-gesture-walk": build_nav, "n-cars": build_ncars,
    "st-mnist": build_st_mnist,
}  # fmt: skip
UPRIGHT = {
    "cifar10-dvs": lambda x, y: (127 - y, 127 - x),
    "asl-dvs": lambda x, y: (239 - x, 179 - y),
    "nav-gesture-walk": lambda x, y: (x, 239 - y),
}


@pytest.mark.parametrize("name", CAMERAS)
def test_every_set_of_events(name, tmp_path):
    """Labels in the set's own numbers, the published split, event and frame mode alike, lazy and cached alike."""
    wanted, classes = CAMERAS[name](tmp_path)
    d = data.describe(name)
    assert set(d.splits) == set(wanted)
    for split, labels in wanted.items():
        cached = data.load(name, split, root=tmp_path, options=PARTIAL)
        lazy = data.load(name, split, root=tmp_path, options=data.Options(partial=True, lazy=True))
        framed = data.load(name, split, root=tmp_path, frames=data.Frames(steps=4), options=PARTIAL)
        assert list(cached.classes) == classes
        assert sorted(cached.labels.tolist()) == sorted(labels), split
        if d.held_out is None:
            assert cached.labels.tolist() == labels
        for k in range(len(labels)):
            recording, label = cached[k]
            assert recording.size == d.size
            assert np.array_equal(recording.events, lazy[k][0].events)
            frames, same = framed[k]
            assert same == label
            assert torch.equal(frames, data.to_frames(recording, steps=4))
            if name == "st-mnist":
                continue
            assert len(recording) == 30
            first = recording.events[np.argmin(recording.events["t"])]
            x, y = UPRIGHT.get(name, lambda x, y: (x, y))(int(label), 0)
            assert (first["x"], first["y"]) == (x, y)
    if d.held_out is not None:
        both = [set(data.load(name, s, root=tmp_path, options=PARTIAL).indices.tolist()) for s in ("train", "test")]
        assert not both[0] & both[1]


def test_descriptions_are_whole():
    """Checksums of full length, each of one file; names, places and rules for everything."""
    seen = {}
    for name, d in data.SETS.items():
        assert name == d.name
        assert d.source
        assert d.title
        for file in d.downloads:
            assert file.md5 is None or re.fullmatch(r"[0-9a-f]{32}", file.md5), file
            assert file.md5 is None or seen.setdefault(file.md5, file) is file
            assert all(url.startswith("https://") for url in file.urls[:1])
            assert all(url.startswith("https://") for url in file.urls) or file.md5
            assert file.urls or d.licence, f"{name}: why is {file.name} not fetched?"
        if isinstance(d, data.FileSet):
            assert (d.held_out is None) == ("all" not in d.counts)
            assert pickle.loads(pickle.dumps(d.read or None)) is not None or d.read is None


def test_a_set_with_a_hole(tmp_path):
    build_gesture(tmp_path)
    (tmp_path / "dvs128-gesture" / "DvsGesture" / "user24_led_labels.csv").unlink()
    with pytest.raises(data.DataError, match=r"the split test cannot be found in .*user24_led_labels\.csv"):
        data.load("dvs128-gesture", "test", root=tmp_path, options=PARTIAL)
    with pytest.raises(data.DataError, match="holds no sounds, so that there are no waveforms"):
        data.load("dvs128-gesture", "train", root=tmp_path, frames=data.Waveforms(), options=PARTIAL)
    with pytest.raises(data.DataError, match="holds no sounds for a cochlea"):
        data.load("dvs128-gesture", "train", root=tmp_path, options=data.Options(partial=True, cochlea=data.Cochlea()))


def test_spoken_sets(tmp_path):
    shd, words = build_spoken(tmp_path, "shd", 20, {"train": "train", "test": "test"})
    ssc, _ = build_spoken(tmp_path, "ssc", 35, {"train": "train", "validation": "valid", "test": "test"})
    for name, wanted in (("shd", shd), ("ssc", ssc)):
        for split, labels in wanted.items():
            found = data.load(name, split, root=tmp_path, frames=data.Frames(steps=5), options=PARTIAL)
            assert found.labels.tolist() == labels  # 10 is 10, and not the third in the alphabet
            frames, label = found[1]
            assert frames.shape == (5, 700)
            assert frames[:, label].tolist() == [1, 0, 0, 0, 0]
            assert frames.sum() == 3
    assert list(data.load("shd", "test", root=tmp_path, options=PARTIAL).classes) == words
    three = data.loaders("ssc", batch_size=2, root=tmp_path, frames=data.Frames(steps=5), options=PARTIAL)
    assert len(three.validation.dataset) == 4
    with pytest.raises(data.DataError, match="4 samples of the split train instead of 8,156; partial=True takes"):
        data.load("shd", "train", root=tmp_path)
    with pytest.raises(data.DataError, match="split must be train or test, got 'validation'"):
        data.load("shd", "validation", root=tmp_path)


def test_the_files_of_one_split_are_enough_if_part_of_a_set_is(tmp_path):
    folder = tmp_path / "n-mnist" / "Test" / "7"
    folder.mkdir(parents=True)
    (folder / "00001.bin").write_bytes(
        bytes([3, 4, 0x80, 0, 9, 5, 6, 0, 1, 0])
    )  # x, y, then polarity and 23 bits of time
    (recording, label), *others = data.load("n-mnist", "test", root=tmp_path, options=PARTIAL)
    assert (recording.events.tolist(), int(label), others) == ([(9, 3, 4, True), (256, 5, 6, False)], 7, [])
    with pytest.raises(data.DataError, match="n-mnist has no samples of the split train"):
        data.load("n-mnist", "train", root=tmp_path, options=PARTIAL)
    with pytest.raises(data.DataError, match=r"Train/\[0-9\]/\*.bin not found in"):
        data.load("n-mnist", "test", root=tmp_path)


def tone(path, frequency, rate, seconds=0.3):
    path.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(int(rate * seconds)) / rate
    samples = (np.sin(2 * np.pi * frequency * t) * 20_000).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return samples


def test_sets_of_sounds(tmp_path):
    for digit in (0, 7):
        for speaker in ("anna", "ben"):
            for k in (0, 4, 5, 49, 10):
                tone(
                    tmp_path / "fsdd/recordings" / f"{digit}_{speaker}_{k}.wav", 300 + 200 * digit, 8000, 0.1 + 0.01 * k
                )
    train = data.load("fsdd", "train", root=tmp_path, options=PARTIAL)
    assert train.labels.tolist() == [0] * 6 + [7] * 6
    assert len(data.load("fsdd", "test", root=tmp_path, options=PARTIAL)) == 8
    mean = [np.average(train[k][0].events["x"]) for k in (0, 6)]
    assert mean[0] < mean[1]  # 300 Hz, 1700 Hz
    loader = data.loaders("fsdd", batch_size=4, root=tmp_path, frames=data.Waveforms(), options=PARTIAL).test
    x, y, lengths = next(iter(loader))
    assert (y.tolist(), lengths.tolist()) == ([0, 0, 0, 0], [800, 1120, 800, 1120])
    assert x.shape == (4, 1120)
    assert x[0, 800:].abs().max() == 0
    small = data.Options(partial=True, cochlea=data.Cochlea(channels=16, rate=8000))
    assert data.load("fsdd", "test", root=tmp_path, options=small)[0][0].size == (16,)

    top = tmp_path / "speech-commands"
    for word in ("yes", "bed"):
        for k in range(3):
            tone(top / word / f"abc_nohash_{k}.wav", 500, 16_000)
    tone(top / "_background_noise_" / "hum.wav", 50, 16_000)
    (top / "validation_list.txt").write_text("bed/abc_nohash_1.wav\n")
    (top / "testing_list.txt").write_text("bed/abc_nohash_2.wav\nyes/abc_nohash_0.wav\n")
    for split, labels in (("train", [0, 1, 1]), ("validation", [0]), ("test", [0, 1])):
        found = data.load("speech-commands", split, root=tmp_path, options=PARTIAL)
        assert (found.classes, found.labels.tolist()) == (("bed", "yes"), labels)
    wrong = tone(top / "bed" / "abc_nohash_9.wav", 500, 8_000)
    assert len(wrong)
    with pytest.raises(data.DataError, match="8000 samples a second instead of 16000"):
        data.load("speech-commands", "train", root=tmp_path, options=PARTIAL)


def test_pictures(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for split, n in (("train", 3), ("val", 1)):
        for label, name in enumerate(("n01440764", "n02102040")):
            for k in range(n):
                path = tmp_path / "imagenet" / split / name / f"{k}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.full((60 + 20 * k, 90, 3), 200 if label else 20, np.uint8)
                image.fromarray(pixels).save(path, "JPEG", quality=100)
    loaders = data.loaders("imagenet", batch_size=4, root=tmp_path, options=PARTIAL)
    x, y = next(iter(loaders.train))
    assert x.shape == (4, 3, 224, 224)
    x, y = next(iter(loaders.test))
    assert y.tolist() == [0, 1]
    shade = torch.tensor([20 / 255, 200 / 255])
    torch.testing.assert_close(x[:, 0].mean((1, 2)), (shade - 0.485) / 0.229, atol=0.02, rtol=0)
    assert data.loaders("imagenet", batch_size=4, root=tmp_path, options=PARTIAL).classes == ("n01440764", "n02102040")


# --- the cache ---


def test_the_cache_is_made_once_and_anew_when_something_changes(tmp_path):
    build_nmnist(tmp_path)
    told = []
    options = data.Options(partial=True, progress=lambda *p: told.append(p))
    first = data.load("n-mnist", "train", root=tmp_path, options=options)
    assert told[-1][1:] == (20, 20)
    (folder,) = (tmp_path / "n-mnist" / ".cache").iterdir()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["recordings"] == 20
    assert len(manifest["sha256"]) == 20
    file = tmp_path / "n-mnist" / "Train" / "3" / "00001.bin"
    import hashlib

    assert manifest["sha256"]["Train/3/00001.bin"] == hashlib.sha256(file.read_bytes()).hexdigest()
    told.clear()
    data.load("n-mnist", "train", root=tmp_path, options=options)
    assert not told
    put(file, 9, (34, 34), "atis")
    os.utime(file, ns=(1, 1))
    second = data.load("n-mnist", "train", root=tmp_path, options=options)
    assert told
    assert second[7][0].events[0]["x"] == 9
    assert first[7][0].events[0]["x"] == 3  # what is open stays as it is


def test_an_interrupted_conversion_goes_on_and_is_not_trusted(tmp_path, monkeypatch):
    from spikeloom.data import cache

    monkeypatch.setattr(cache, "_EVENTS", 6 * 30)  # six recordings
    build_nmnist(tmp_path)
    calls = []
    whole = cache._convert

    def breaks(folder, part, recordings, size):
        calls.append(part)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(folder, part, recordings, size)

    monkeypatch.setattr(cache, "_convert", breaks)
    with pytest.raises(KeyboardInterrupt):
        data.load("n-mnist", "train", root=tmp_path, options=PARTIAL)
    (folder,) = (tmp_path / "n-mnist" / ".cache").iterdir()
    assert not (folder / "manifest.json").exists()
    (folder / "00001.offsets.npy").write_bytes((folder / "00001.offsets.npy").read_bytes()[:-3])  # and one is broken
    found = data.load("n-mnist", "train", root=tmp_path, options=PARTIAL)
    assert calls == [0, 1, 2, 1, 2, 3]  # the first part was whole
    lazy = data.load("n-mnist", "train", root=tmp_path, options=data.Options(partial=True, lazy=True))
    for k in range(20):
        assert np.array_equal(found[k][0].events, lazy[k][0].events)
    with (folder / "00002.events.npy").open("ab") as file:
        file.write(b"x")
    with pytest.raises(data.DataError, match=r"00002.events.npy: [\d,]+ bytes instead of .* remove the folder"):
        data.load("n-mnist", "train", root=tmp_path, options=PARTIAL)


def test_where_nothing_can_be_written(tmp_path, monkeypatch):
    build_nmnist(tmp_path / "data")
    monkeypatch.setenv("SPIKELOOM_CACHE", str(tmp_path / "cache"))
    from spikeloom.data import storage

    monkeypatch.setattr(storage.os, "access", lambda path, mode: "data" not in Path(path).parts)
    assert len(data.load("n-mnist", "test", root=tmp_path / "data", options=PARTIAL)) == 10
    assert not (tmp_path / "data" / "n-mnist" / ".cache").exists()
    assert list((tmp_path / "cache" / "data" / "n-mnist" / ".cache").iterdir())


def test_archives_are_unpacked_where_they_lie(tmp_path):
    build_nmnist(tmp_path / "built")
    (tmp_path / "root" / "n-mnist").mkdir(parents=True)
    for split in ("Train", "Test"):
        with zipfile.ZipFile(tmp_path / "root" / "n-mnist" / f"{split}.zip", "w") as file:
            for path in sorted((tmp_path / "built" / "n-mnist" / split).rglob("*.bin")):
                file.write(path, path.relative_to(tmp_path / "built" / "n-mnist"))
    assert not data.available("n-mnist", tmp_path / "root")
    found = data.load("n-mnist", "test", root=tmp_path / "root", options=PARTIAL)
    assert found.labels.tolist() == list(range(10))
    assert data.available("n-mnist", tmp_path / "root")
    problems = data.verify("n-mnist", tmp_path / "root")
    assert len(problems) == 4
    assert "its md5 is" in problems[0]
    assert problems[3] == "split test: 10 samples instead of 10,000"


def test_fetching_a_whole_set(tmp_path, monkeypatch):
    """Downloads from a server on this machine, checksums, unpacking, loading; then nothing is left to fetch."""
    import functools
    import hashlib
    import http.server
    import threading
    from dataclasses import replace

    labels, _ = build_spoken(tmp_path, "shd", 20, {"train": "train", "test": "test"})
    served = tmp_path / "served"
    served.mkdir()
    for split in labels:
        with zipfile.ZipFile(served / f"shd_{split}.h5.zip", "w") as file:
            file.write(tmp_path / "shd" / f"shd_{split}.h5", f"shd_{split}.h5")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=served)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        downloads = tuple(
            data.Download(
                p.name,
                (f"http://127.0.0.1:{server.server_port}/{p.name}",),
                md5=hashlib.md5(p.read_bytes()).hexdigest(),
            )
            for p in sorted(served.iterdir())
        )
        monkeypatch.setitem(data.SETS, "shd", replace(data.describe("shd"), downloads=downloads))
        told = []
        folder = data.fetch("shd", tmp_path / "root", progress=lambda *p: told.append(p))
        server.shutdown()
    names = {p.name for p in served.iterdir()}
    assert {name for name, _, _ in told} == {
        f"{what}{name}" for what in ("", "checking ", "unpacking ") for name in names
    }
    assert all(0 < done <= total for _, done, total in told)
    assert data.fetch("shd", tmp_path / "root") == folder  # the server is gone
    found = data.load("shd", "train", root=tmp_path / "root", options=PARTIAL)
    assert found.labels.tolist() == labels["train"]
    assert data.verify("shd", tmp_path / "root")[0] == "split train: 4 samples instead of 8,156"


def test_what_is_missing_is_said(tmp_path):
    with pytest.raises(data.DataError, match=r"Source: Cramer.*; fetch it with: spikeloom data fetch shd$"):
        data.load("shd", "train", root=tmp_path)
    with pytest.raises(data.DataError, match=r"IBM's page .* Put DvsGesture\.tar\.gz into .*dvs128-gesture$"):
        data.fetch("dvs128-gesture", tmp_path)
    wanted = r"clone it .*github\.com/Jakobovski/free-spoken-digit-dataset; .* tar czf recordings\.tar\.gz recordings"
    with pytest.raises(data.DataError, match=rf"{wanted}\. Put recordings\.tar\.gz into .*fsdd$"):
        data.load("fsdd", "train", root=tmp_path)
    with pytest.raises(data.DataError, match=r"Put them into .*imagenet"):
        data.load("imagenet", "train", root=tmp_path)
    (tmp_path / "es-imagenet").mkdir()
    for k in range(1, 26):
        (tmp_path / "es-imagenet" / f"ES-imagenet-0.18.part{k:02}.rar").write_bytes(b"Rar!")
    with pytest.raises(
        data.DataError, match=r"\.rar is not unpacked here; do it with unrar .*x ES-imagenet-0\.18\.part01"
    ):
        data.load("es-imagenet", "train", root=tmp_path)
    for name in ("mnist", "digits"):
        with pytest.raises(data.DataError, match=r"holds tensors, not recordings"):
            data.load(name, "train", root=tmp_path, frames=data.Frames(steps=2))


# --- loaders ---


def test_padding_lengths_and_masks(tmp_path):
    build_nmnist(tmp_path)
    ragged = data.loaders(
        "n-mnist", batch_size=5, root=tmp_path, frames=data.Frames(duration=700), options=PARTIAL
    ).test  # fmt: skip
    x, _, lengths = next(iter(ragged))
    recordings = data.load("n-mnist", "test", root=tmp_path, options=PARTIAL)
    wanted = [-(-recordings[k][0].duration // 700) for k in range(5)]
    assert lengths.tolist() == wanted
    assert x.shape == (5, max(wanted), 2, 34, 34)
    for k in range(5):
        assert x[k, wanted[k] :].sum() == 0
        assert x[k].sum() == 30
    mask = data.valid_steps(lengths, x.shape[1])
    assert mask.T.tolist() == [[step < n for step in range(x.shape[1])] for n in wanted]
    net = sl.Network(torch.nn.Flatten(), torch.nn.Linear(2 * 34 * 34, 10), sl.LIF())
    assert net(x.transpose(0, 1), lengths=lengths).shape == (max(wanted), 5, 10)
    first = data.loaders(
        "n-mnist", batch_size=5, root=tmp_path, frames=data.Frames(duration=700), options=PARTIAL, batch_first=False
    ).test  # fmt: skip
    other, _, same_lengths = next(iter(first))
    assert torch.equal(other, x.transpose(0, 1))
    assert torch.equal(same_lengths, lengths)
    same = data.Frames(duration=700, length=6)
    x, _ = next(iter(data.loaders("n-mnist", batch_size=5, root=tmp_path, frames=same, options=PARTIAL).test))
    assert x.shape == (5, 6, 2, 34, 34)
    plain, _ = next(iter(data.loaders("n-mnist", batch_size=3, root=tmp_path, options=PARTIAL).test))
    assert [len(r) for r in plain] == [30, 30, 30]
    with pytest.raises(ValueError, match="give one of steps, duration and count"):
        data.Frames()


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_depend_on_the_seed_alone(workers, tmp_path):
    build_nmnist(tmp_path)

    def all_batches(workers):
        options = data.Options(partial=True, augment=ev.Compose([ev.Flip("x"), ev.Drop(0.3)]))
        loaders = data.loaders(
            "n-mnist", batch_size=8, root=tmp_path, frames=data.Frames(steps=3), options=options, workers=workers,
            validation=0.5, seed=3,
        )  # fmt: skip
        return [torch.cat([x for x, _ in part]) for part in (loaders.train, loaders.validation, loaders.train)], [
            torch.cat([y for _, y in part]) for part in (loaders.train, loaders.validation)
        ]

    plain, labels = all_batches(0)
    again, same = all_batches(workers)
    for a, b in zip(plain + labels, again + same, strict=True):
        assert torch.equal(a, b)
    assert (plain[1].flatten(1).sum(1) == 30).all()  # nothing is dropped in validation
    assert (plain[0].flatten(1).sum(1) < 30).any()


def test_subsets_and_custom_frames(tmp_path):
    build_nmnist(tmp_path)

    def last_event(recording):
        return torch.tensor([float(recording.events["t"][-1])])

    loaders = data.loaders("n-mnist", batch_size=4, subset=10, root=tmp_path, frames=last_event, options=PARTIAL)
    assert sorted(loaders.train.dataset.samples.labels.tolist()) == list(range(10))
    x, y = next(iter(loaders.train))
    for value, label in zip(x[:, 0].tolist(), y.tolist(), strict=True):
        assert value == events(label, (34, 34))["t"][-1]


def test_in_several_processes(tmp_path):
    """Two processes of torch.distributed share every batch, and both may convert."""
    build_nmnist(tmp_path)
    code = """
import sys, torch, spikeloom as sl
from spikeloom import data
rank, root = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{root}/meet", rank=rank, world_size=2)
options = data.Options(partial=True)
loaders = data.loaders("n-mnist", batch_size=4, root=root, frames=data.Frames(steps=2), options=options)
print([y.tolist() for _, y in loaders.test])
torch.distributed.destroy_process_group()
"""
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(k), str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for k in range(2)
    ]
    found = [json.loads(p.communicate(timeout=120)[0].strip().splitlines()[-1]) for p in running]
    assert found[0] == [[0, 2], [4, 6], [8]]
    assert found[1] == [[1, 3], [5, 7], [9]]


@real
@pytest.mark.parametrize(("split", "count"), [("test", 300), pytest.param("train", 2_700, marks=pytest.mark.slow)])
def test_real_spoken_digits(split, count):
    found = data.load("fsdd", split, root=ROOT)
    assert len(found) == count
    assert torch.bincount(found.labels).tolist() == [count // 10] * 10
    recording, _ = found[0]
    assert recording.size == (64,)
    assert 100 < len(recording) < 20_000


@real
def test_real_nmnist_samples(tmp_path):
    """Forty real test files beside built training files; labels come from the folders."""
    build_nmnist(tmp_path)
    import shutil

    shutil.rmtree(tmp_path / "n-mnist" / "Test")
    shutil.copytree(Path(ROOT, "events/nmnist/Test"), tmp_path / "n-mnist" / "Test")
    found = data.load("n-mnist", "test", root=tmp_path, frames=data.Frames(steps=10), options=PARTIAL)
    assert found.labels.tolist() == [0] * 20 + [7] * 20
    raw = data.read_events(Path(ROOT, "events/nmnist/Test/0/00004.bin"))
    frames, _ = found[0]
    assert frames.sum() == len(raw)
    assert frames.shape == (10, 2, 34, 34)


def test_wav_files_of_every_width(tmp_path):
    def made(width, channels, values):
        raw = io.BytesIO()
        with wave.open(raw, "wb") as file:
            file.setnchannels(channels)
            file.setsampwidth(width)
            file.setframerate(8000)
            file.writeframes(values)
        return raw.getvalue()

    for width, raw, wanted in (
        (1, bytes([128, 0, 192]), [0.0, -1.0, 0.5]),
        (2, struct.pack("<3h", 0, -(2**15), 2**14), [0.0, -1.0, 0.5]),
        (3, b"\0\0\0" + b"\0\0\x80" + b"\0\0\x40", [0.0, -1.0, 0.5]),
        (4, struct.pack("<3i", 0, -(2**31), 2**30), [0.0, -1.0, 0.5]),
    ):
        samples, rate = data.read_wav(made(width, 1, raw))
        assert (samples.tolist(), rate) == (wanted, 8000)
    assert data.read_wav(made(2, 2, struct.pack("<4h", 0, 2**14, -(2**15), 0)))[0].tolist() == [0.25, -0.5]
    (tmp_path / "a.wav").write_bytes(b"RIFF....")
    with pytest.raises(data.DataError, match=r"a\.wav: not a readable PCM WAV"):
        data.read_wav(tmp_path / "a.wav")
    with pytest.raises(data.DataError, match=r"missing\.wav: cannot be read"):
        data.read_wav(tmp_path / "missing.wav")
