"""Archives in archives, and damage that tarfile takes for the end."""

import io
import tarfile
import zipfile

import pytest

from spikeloom import data
from spikeloom.data import archives


def test_archives_in_archives_share_one_room(tmp_path):
    def zipped(*members):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members:
                archive.writestr(name, content)
        return file.getvalue()

    def tarred(*members):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name, content in members:
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        return file.getvalue()

    zeros = bytes(2**20)
    for name, raw in (
        ("a.zip", zipped(*((f"{k}.zip", zipped(("zeros", zeros))) for k in range(200)))),
        ("a.tar.gz", tarred(*((f"{k}.zip", zipped(("zeros", zeros))) for k in range(200)))),
        ("b.zip", zipped(("b.tgz", tarred(*((f"{k}.tar.gz", tarred(("zeros", zeros))) for k in range(100)))))),
    ):
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(data.DataError, match=f"{name}: .* in it: unpacks to far more"):
            archives.unpack(tmp_path / name, tmp_path / "out")
        assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    (tmp_path / "c.zip").write_bytes(zipped(("in.zip", zipped(("deep.tgz", tarred(("hello", b"there")))))))
    archives.unpack(tmp_path / "c.zip", tmp_path / "out")
    assert (tmp_path / "out" / "in" / "deep" / "hello").read_bytes() == b"there"
    for name, member, message in (
        ("d.zip", "n" * 300, "too long"), ("e.zip", "a/" * 500 + "b", "deep"),
        ("f.zip", ".c.zip.unpacked", "name of a mark"), ("g.zip", "in.zip", "in.zip in it: damaged"),
    ):  # fmt: skip
        (tmp_path / name).write_bytes(zipped((member, b"5 bytes")))
        with pytest.raises(data.DataError, match=f"{name}: .*{message}"):
            archives.unpack(tmp_path / name, tmp_path / "out")
    header = tarfile.TarInfo("x")
    header.type, header.size = b"x", 1 << 33  # of 8 GB, read at once
    (tmp_path / "h.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(data.DataError, match="a header of 8,589,934,592 bytes"):
        archives.unpack(tmp_path / "h.tar", tmp_path / "out")


def test_a_tar_that_is_damaged_in_the_middle_is_not_its_first_half(tmp_path):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("a", "b"):
            archive.addfile(tarfile.TarInfo(name))
    raw = bytearray(file.getvalue())
    raw[512 + 100] ^= 64
    for name, content in (("a.tar", raw), ("b.tar", raw[:512])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(data.DataError, match=f"{name}: damaged or cut short .byte 512"):
            archives.unpack(tmp_path / name, tmp_path / "out")
