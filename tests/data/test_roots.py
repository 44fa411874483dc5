"""Folders that cannot be a data root; labels and names in the lists of data sets."""

import struct

import pytest

from spikeloom import data


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("y" * 5000, "File name too long"),
        ("~nobody-of-that-name/data", "home directory"),
        ("a\0b", "a byte 0"),
        (__file__, "it is no folder"),
    ],
)
def test_a_root_that_cannot_be_one(root, message, monkeypatch):
    calls = [
        lambda **k: data.load("n-mnist", "train", **k), lambda **k: data.load("mnist", "train", **k),
        lambda **k: data.files("braille", **k), lambda **k: data.fetch("n-mnist", **k),
        lambda **k: data.verify("n-mnist", **k), lambda **k: data.loaders("mnist", batch_size=2, **k),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(data.DataError, match=f"the folder of the data sets cannot be .*{message}.*SPIKELOOM_DATA"):
            call(root=root)
    assert not data.available("n-mnist", root)
    if "\0" not in root:
        monkeypatch.setenv("SPIKELOOM_DATA", root)
        with pytest.raises(data.DataError, match=message):
            calls[0]()


def test_labels_and_names_in_lists_are_checked(tmp_path):
    def found(file, label):
        index = lambda folder, split: ([data.Item(file, label)], "ab")  # noqa: E731
        about = dict(name="made", title="", sample="", size=(2, 2), counts={"train": None}, marks=("*",), source="")
        return data.FileSet(index=index, **about).find(tmp_path, "train")

    assert found("a.dat", 1)[0][0].label == 1
    for file, label, message in (
        ("a.dat", 2, "a.dat: its label is 2, which must be from 0 to 1"), ("a.dat", -1, "its label is -1"),
        ("../a.dat", 0, "'../a.dat', which leads out of"), ("/etc/passwd", 0, "leads out of"),
    ):  # fmt: skip
        with pytest.raises(data.DataError, match=message):
            found(file, label)
    for name, count in (("train", 60_000), ("t10k", 10_000)):
        (tmp_path / f"{name}-images-idx3-ubyte").write_bytes(
            b"\0\0\x08\x03" + struct.pack(">3I", count, 1, 1) + bytes(count)
        )
        (tmp_path / f"{name}-labels-idx1-ubyte").write_bytes(
            b"\0\0\x08\x01" + struct.pack(">I", count) + b"\x0a" * count
        )
    (tmp_path / "mnist").mkdir()
    for path in tmp_path.glob("*ubyte"):
        path.rename(tmp_path / "mnist" / path.name)
    with pytest.raises(data.DataError, match="labels from 10 to 10, which must be from 0 to 9"):
        data.load("mnist", "test", root=tmp_path)
