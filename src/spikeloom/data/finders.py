"""Functions that find the samples of each data set of files, and read them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .._extras import install
from .audio import read_wav
from .errors import DataError
from .events import Recording, hdf5
from .events.recording import make_events
from .items import Item, read_item
from .transforms import CropResized, Normalize, RandomFlip, ToFloat

DIGITS = tuple("0123456789")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
GESTURES = (
    "hand clapping", "right hand wave", "left hand wave", "right arm clockwise", "right arm counter clockwise",
    "left arm clockwise", "left arm counter clockwise", "arm roll", "air drums", "air guitar", "other gestures",
)  # fmt: skip
BULLYING = (
    "handshake", "slapping", "punching", "walking", "fingerguess", "strangling", "greeting", "pushing", "hairgrabs",
    "kicking",
)  # fmt: skip
NAV = ("le", "ri", "up", "do", "ho", "se")
LETTERS = tuple("abcdefghiklmnopqrstuvwxy")  # j and z have no recordings: they are movements

Found = tuple[Sequence[Item], Sequence[str]]


# --- how samples are found ---


def class_folders(
    folder: Path, split: str, *, below: str, pattern: str, classes: tuple[str, ...] | None = None
) -> Found:
    """The files that match ``pattern`` in a folder for each class. The folders lie in ``below``, in which ``{split}``
    stands for the split. The classes are those given, or the folders' names in alphabetical order."""
    top = folder / below.format(split=split, Split=split.capitalize())
    names = classes or tuple(sorted(p.name for p in top.iterdir() if p.is_dir() and not p.name.startswith(".")))
    items = [
        Item(file.relative_to(folder).as_posix(), label)
        for label, name in enumerate(names)
        for file in sorted((top / name).glob(pattern), key=natural)
    ]
    return items, names


def natural(path: Path) -> list[tuple[int, int, str]]:
    """A key by which names sort with their numbers in numeric order: 2 before 10."""
    parts = re.findall(r"(\d+)|(\D+)", path.as_posix())
    return [(0, int(number), "") if number else (1, 0, text) for number, text in parts]


def cifar10_dvs(folder: Path, split: str) -> Found:
    """The first hundred of each class are for testing, as TEBN has it (C. Duan et al., 2022)."""
    items, names = class_folders(folder, split, below=".", pattern="*.aedat", classes=CIFAR10)
    of_test = [int(re.findall(r"\d+", Path(item.file).stem)[-1]) < 100 for item in items]
    return [item for item, test in zip(items, of_test, strict=True) if test == (split == "test")], names


def gesture(folder: Path, split: str) -> Found:
    """Recordings listed for each split, cut by the table beside each: class from 1, start and end in microseconds."""
    top = folder / "DvsGesture" if (folder / "DvsGesture").is_dir() else folder
    items = []
    for line in (top / f"trials_to_{split}.txt").read_text().split():
        table = top / f"{Path(line).stem}_labels.csv"
        rows = np.loadtxt(table, np.int64, delimiter=",", skiprows=1, ndmin=2)
        if (
            rows.shape[1] != 3
            or not ((rows[:, 0] >= 1) & (rows[:, 0] <= len(GESTURES)) & (rows[:, 1] < rows[:, 2])).all()
        ):
            raise DataError(f"{table}: expected rows of class (1 to {len(GESTURES)}), start and a later end")
        file = (top / line).relative_to(folder).as_posix()
        items += [Item(file, int(label) - 1, int(start), int(stop)) for label, start, stop in rows]
    return items, GESTURES


def es_imagenet(folder: Path, split: str) -> Found:
    """Folders ``class0`` to ``class999`` are for training; ``vallabel.txt`` names the test files and their classes."""
    top = folder / "ES-imagenet-0.18" if (folder / "ES-imagenet-0.18").is_dir() else folder
    names = tuple(f"class{k}" for k in range(1000))
    if split == "train":
        found = ((top / "train" / name).glob("*.npz") for name in names)
        return [
            Item(file.relative_to(folder).as_posix(), k) for k, files in enumerate(found) for file in sorted(files)
        ], names
    lines = [line.split() for line in (top / "vallabel.txt").read_text().splitlines() if line.strip()]
    return [Item((top / "val" / f).relative_to(folder).as_posix(), int(label)) for f, label, *_ in lines], names


def hardvs(folder: Path, split: str) -> Found:
    """A list for each split, such as ``train_label.txt``, has lines ``action_001/name label``."""
    lines = (folder / f"{ {'validation': 'val'}.get(split, split) }_label.txt").read_text().splitlines()
    names = tuple(f"action_{k:03}" for k in range(1, 301))
    items = []
    for path in (line.split()[0] for line in lines if line.strip()):
        action, _, sample = path.partition("/")
        if action not in names or not sample:
            raise DataError(f"{folder}: its list of {split} names {path!r}, which is no sample of an action")
        items.append(Item(f"{action}/{Path(sample).stem}.npz", names.index(action)))
    return items, names


def bullying(folder: Path, split: str) -> Found:
    """Every fifth file is for testing, in the order of names; the authors take the order of the disk."""
    items = [
        Item(file.relative_to(folder).as_posix(), label)
        for label, name in enumerate(BULLYING)
        for file in sorted((folder / name).rglob("*.npy"), key=natural)
    ]
    return [item for k, item in enumerate(items) if (k % 5 == 0) == (split == "test")], BULLYING


def nav(folder: Path, split: str) -> Found:
    """A folder for each person; the second part of a file's name is the gesture."""
    items = []
    for file in sorted(folder.glob("*/*.dat"), key=natural):
        parts = file.stem.split("_")
        if len(parts) > 1 and parts[1] in NAV:
            items.append(Item(file.relative_to(folder).as_posix(), NAV.index(parts[1])))
    return items, NAV


def heidelberg(folder: Path, split: str, *, name: str, classes: int) -> Found:
    """One HDF5 file for each split; its labels are the classes' numbers, ``extra/keys`` their names."""
    file = f"{name}_{ {'validation': 'valid'}.get(split, split) }.h5"
    where = str(folder / file)
    with hdf5.opened(folder / file) as opened:
        labels = hdf5.values(hdf5.node(opened, "labels", where), where).astype(np.int64).reshape(-1).tolist()
        keys = hdf5.node(opened, "extra/keys", where)
        keys = range(classes) if keys is None else hdf5.texts(keys, where)
    names = tuple(map(str, keys))
    if len(names) != classes:
        raise DataError(f"{folder / file}: names {len(names)} classes instead of {classes}")
    return [Item(file, label, number=k) for k, label in enumerate(labels)], names


def ncars(folder: Path, split: str) -> Found:
    """Two folders below ``n-cars_train`` and ``n-cars_test``, or ``train`` and ``test``."""
    below = f"n-cars_{split}" if (folder / f"n-cars_{split}").is_dir() else split
    return class_folders(folder, split, below=below, pattern="*.dat", classes=("background", "cars"))


def fsdd(folder: Path, split: str) -> Found:
    """``digit_speaker_number.wav``: numbers 0 to 4 are for testing, as the data set's own README says."""
    items = []
    for file in sorted((folder / "recordings").glob("*.wav"), key=natural):
        parts = re.fullmatch(r"(\d)_([a-z]+)_(\d+)", file.stem)
        if parts and (int(parts.group(3)) < 5) == (split == "test"):
            items.append(Item(f"recordings/{file.name}", int(parts.group(1))))
    return items, DIGITS


def speech_commands(folder: Path, split: str) -> Found:
    """Words in folders; two lists name the files of validation and test, and the rest is for training."""
    lists = {
        part: set((folder / file).read_text().split())
        for part, file in (("validation", "validation_list.txt"), ("test", "testing_list.txt"))
    }
    names = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(("_", "."))))
    listed = lists["validation"] | lists["test"]
    items = []
    for label, name in enumerate(names):
        for file in sorted((folder / name).glob("*_nohash_*.wav")):
            path = f"{name}/{file.name}"
            if (path not in listed) if split == "train" else (path in lists[split]):
                items.append(Item(path, label))
    return items, names


def imagenet_folders(folder: Path, split: str) -> Found:
    """A folder for each class below ``train`` and ``val``."""
    return class_folders(folder, split, below="train" if split == "train" else "val", pattern="*")


# --- how they are read ---


def mirrored(folder: Path, item: Item) -> Recording:
    """A recording of CIFAR10-DVS, turned upright as its users have it: ``x' = 127 - y, y' = 127 - x, p' = 1 - p``."""
    r = read_item(folder, item)
    e = r.events
    return replace(r, events=make_events(e["t"], 127 - e["y"], 127 - e["x"], ~e["p"]))


def turned(folder: Path, item: Item, *, size: tuple[int, int]) -> Recording:
    """A recording of ASL-DVS, turned upright: ``x' = W - 1 - x, y' = H - 1 - y``."""
    r = read_item(folder, item, size=size)
    e = r.events
    return replace(r, events=make_events(e["t"], size[1] - 1 - e["x"], size[0] - 1 - e["y"], e["p"]))


def nav_dat(folder: Path, item: Item) -> Recording:
    """An ATIS recording, turned upright; its times begin at 0, and events earlier than one before them are left out."""
    r = read_item(folder, item, size=(240, 304), format="dat-1")
    e = r.events
    e = e[e["t"] >= np.maximum.accumulate(e["t"])] if len(e) else e
    t = e["t"] - (e["t"][0] if len(e) else 0)
    return replace(r, events=make_events(t, e["x"], 239 - e["y"], e["p"]))


def sound(folder: Path, item: Item, *, rate: int) -> Tensor:
    """A waveform ``[L]``, which must have ``rate`` samples a second."""
    samples, found = read_wav(folder / item.file)
    if found != rate:
        raise DataError(f"{folder / item.file}: {found} samples a second instead of {rate}")
    return torch.from_numpy(samples)


def picture(folder: Path, item: Item) -> Tensor:
    """A picture file as ``uint8 [3, H, W]``."""
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise DataError(f"{folder / item.file}: pictures need pillow; {install('data')}") from None
    try:
        with Image.open(folder / item.file) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    except Exception as broken:  # Pillow's decoders have errors of their own, and refuse huge pictures
        raise DataError(f"{folder / item.file}: not a readable picture ({broken})") from broken


def imagenet(train: bool) -> nn.Sequential:
    """ImageNet's usual transform: a window of 224 x 224, mirrored at random in training, normalised."""
    still = (ToFloat(), Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return nn.Sequential(CropResized(random=train), *((RandomFlip(),) if train else ()), *still)
