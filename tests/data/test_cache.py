"""Caches of recordings whose files have changed on the disk: told, whatever byte it is, and made anew when removed."""

import json
import struct

import numpy as np
import pytest

from spikeloom import data
from spikeloom.data import cache

EVENTS = [data.events.make_events([k, k + 3, k + 9][:n], [1, 2, k][:n], [0, k, 3][:n], [1, 0, 1][:n]) for k, n in
          ((4, 3), (5, 0), (6, 2))]  # fmt: skip


@pytest.fixture
def made(tmp_path):
    (tmp_path / "source").write_bytes(b"x")

    def build():
        return cache.build(
            tmp_path / "cache", read=lambda k: data.Recording(EVENTS[k], (20, 30)), count=3,
            files=lambda k: tmp_path / "source", root=tmp_path, about={"name": "made"}, size=(20, 30),
        )  # fmt: skip

    return build


def read(build):
    found = build()
    return [(found[k].events.tolist(), found[k].size) for k in range(3)]


WANTED = [(events.tolist(), (20, 30)) for events in EVENTS]


@pytest.mark.parametrize("name", ["manifest.json", "00000.events.npy", "00000.offsets.npy"])
def test_any_byte_that_changes_is_told(name, made, tmp_path):
    assert read(made) == WANTED
    file = tmp_path / "cache" / name
    whole = file.read_bytes()
    for place in range(0, len(whole), 1 if len(whole) < 400 else 7):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            assert read(made) == WANTED  # of NumPy's header a blank may be another
        except data.DataError as problem:
            told = str(problem)
            assert "cache" in told
            assert f"remove the folder {tmp_path / 'cache'}, and it is made anew" in told
        else:
            assert name == "00000.events.npy"
            assert place < 128
    for n in (0, 3, len(whole) - 1):
        file.write_bytes(whole[:n])
        with pytest.raises(data.DataError, match="remove the folder"):
            read(made)
    for path in (tmp_path / "cache").iterdir():
        path.unlink()
    assert read(made) == WANTED


def test_offsets_and_events_that_agree_with_each_other_alone(made, tmp_path):
    """Forged, with sums of their own: another size of the sensor, other events, recordings that overlap."""
    made()
    folder = tmp_path / "cache"
    manifest = json.loads((folder / "manifest.json").read_text())
    for key, value in (("size", [20, 31]), ("parts", [2]), ("format", "dat")):
        (folder / "manifest.json").write_text(json.dumps(manifest | {key: value}))
        with pytest.raises(data.DataError, match=r"manifest.json: not the manifest that was written"):
            made()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    table = (folder / "00000.offsets.npy").read_bytes()
    (folder / "00000.offsets.npy").write_bytes(table[:-16] + struct.pack("<q", 4) + table[-8:])
    with pytest.raises(data.DataError, match=r"00000.offsets.npy: not the table that was written"):
        read(made)
    (folder / "00000.offsets.npy").write_bytes(table)
    np.save(folder / "00000.events.npy", np.concatenate(EVENTS)[::-1])
    with pytest.raises(data.DataError, match=r"00000.events.npy: the events from 0 to 3 are not those"):
        read(made)


def test_sums_are_taken_once(made, monkeypatch):
    taken = []
    whole = cache._sum
    monkeypatch.setattr(cache, "_sum", lambda events: taken.append(len(events)) or whole(events))
    found = made()
    taken.clear()
    for _ in range(3):
        assert [len(found[k]) for k in range(3)] == [3, 0, 2]
    assert taken == [3, 0, 2]
