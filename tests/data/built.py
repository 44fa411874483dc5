"""Files of every event format, built from the specifications event by event, and ways to damage them."""

import io
import struct
import tempfile
from pathlib import Path

import numpy as np

from spikeloom import data
from spikeloom.data import events as ev


def sample(n=50, size=(180, 240), span=100_000, seed=0, start=0):
    """Plain lists t, x, y, p."""
    draw = np.random.default_rng(seed)
    t = np.sort(draw.integers(0, span, n)) + start
    return [c.tolist() for c in (t, draw.integers(0, size[1], n), draw.integers(0, size[0], n), draw.integers(0, 2, n))]


def atis(t, x, y, p):
    return b"".join(
        bytes((b, c, d << 7 | a >> 16 & 127, a >> 8 & 255, a & 255)) for a, b, c, d in zip(t, x, y, p, strict=True)
    )


def aedat2(t, x, y, p, chip="DVS128"):
    head = f"#!AER-DAT2.0\r\n# a comment\r\n# AEChip: ch.unizh.ini.jaer.chip.{chip}\r\n".encode()
    if chip == "DVS128":
        words = [(b << 1 | c << 8 | d, a) for a, b, c, d in zip(t, x, y, p, strict=True)]
    else:
        words = [(b << 12 | c << 22 | d << 11, a) for a, b, c, d in zip(t, x, y, p, strict=True)]
    return head + b"".join(struct.pack(">II", address, time % 2**32) for address, time in words)


def aedat3(t, x, y, p, *, per_packet=20, valid=None, extra=b"", source="DVS128"):
    out = f"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: {source}\r\n#!END-HEADER\r\n".encode() + extra
    for i in range(0, len(t), per_packet):
        part = range(i, min(i + per_packet, len(t)))
        body = b"".join(
            struct.pack("<II", x[k] << 17 | y[k] << 2 | p[k] << 1 | (1 if valid is None else valid[k]), t[k] % 2**31)
            for k in part
        )
        n = len(part)
        out += struct.pack("<hhiiiiii", 1, 1, 8, 4, t[i] >> 31, n, n, n) + body
    return out


def dat(t, x, y, p, version=2, size=(180, 240)):
    head = b"% Data file containing CD events.\n"
    if version == 2:
        head += f"% Version 2\n% Height {size[0]}\n% Width {size[1]}\n".encode()
    shifts = (0, 14, 28) if version == 2 else (0, 9, 17)
    body = b"".join(
        struct.pack("<II", a % 2**32, b << shifts[0] | c << shifts[1] | d << shifts[2])
        for a, b, c, d in zip(t, x, y, p, strict=True)
    )
    return head + bytes((12, 8)) + body


def evt2(t, x, y, p, geometry="240x180"):
    out, high = f"% evt 2.0\n% geometry {geometry}\n% end\n".encode(), None
    for a, b, c, d in zip(t, x, y, p, strict=True):
        if a >> 6 != high:
            high = a >> 6
            out += struct.pack("<I", 8 << 28 | high % 2**28)
        out += struct.pack("<I", d << 28 | (a & 63) << 22 | b << 11 | c)
    return out


def evt21(words):
    return b"% evt 2.1\n% geometry 640x480\n% end\n" + b"".join(struct.pack("<Q", w) for w in words)


def evt3(*words):
    return b"% evt 3.0\n% geometry 1280x720\n% end\n" + struct.pack(f"<{len(words)}H", *words)


def aedat4(t, x, y, p, *, compress=bytes, kind=0, per_packet=20):
    """Flatbuffers by hand: a header, packets of one vector of structs, and a packet of another stream between them."""
    info = (
        b'<dv version="2.0"><node name="outInfo"><node name="3"><attr key="typeIdentifier">EVTS</attr>'
        b'<node name="info"><attr key="sizeX">240</attr><attr key="sizeY">180</attr></node></node></node></dv>'
    )
    #         root     id       vtable: length, size of the table, three fields            table: back to the vtable
    header = struct.pack("<I4sHHHHHH", 20, b"IOHE", 10, 20, 4, 8, 16, 0)
    header += struct.pack("<iiqI", 12, kind, -1, 4) + struct.pack("<I", len(info)) + info
    out = b"#!AER-DAT4.0\r\n" + struct.pack("<I", len(header)) + header
    for i in range(0, len(t), per_packet):
        n = len(t[i : i + per_packet])
        packet = struct.pack("<I4sHHHH", 16, b"EVTS", 6, 8, 4, 0) + struct.pack("<iI", 8, 4) + struct.pack("<I", n)
        packet += b"".join(struct.pack("<qhh?3x", t[k], x[k], y[k], bool(p[k])) for k in range(i, i + n))
        packed = compress(struct.pack("<I", len(packet)) + packet)
        other = compress(b"not events")
        out += struct.pack("<ii", 3, len(packed)) + packed + struct.pack("<ii", 1, len(other)) + other
    return out


def nas(t, a, wide):
    return b"".join(struct.pack(">II" if wide else ">HI", b, c) for c, b in zip(t, a, strict=True))


SMALL = sample(size=(120, 120))
BUILT = {
    "atis": (atis(*SMALL), SMALL, None),
    "aedat2": (aedat2(*SMALL), SMALL, (128, 128)),
    "aedat2-davis": (aedat2(*sample(), chip="DAVIS240C"), sample(), (180, 240)),
    "aedat3": (aedat3(*SMALL), SMALL, (128, 128)),
    "dat": (dat(*sample()), sample(), (180, 240)),
    "dat-v1": (dat(*sample(size=(240, 304)), version=1), sample(size=(240, 304)), None),
    "evt2": (evt2(*sample()), sample(), (180, 240)),
    "aedat4": (aedat4(*sample()), sample(), (180, 240)),
}


def _whole():
    """One valid file of every format that may be damaged."""
    whole = {name: raw for name, (raw, _, _) in BUILT.items()}
    draw = np.random.default_rng(0)
    whole["evt3"] = evt3(*(draw.choice([0, 2, 3, 4, 5, 6, 8], 500) * 4096 + draw.integers(0, 700, 500)).tolist())
    words = [(k % 3 == 0) << 63 | draw.integers(0, 2**60).item() if k % 5 else 8 << 60 | k << 32 for k in range(100)]
    whole["evt21"] = evt21(words)
    whole["text"] = b"t x y p\n" + b"".join(b"%d %d %d %d\n" % row for row in zip(*sample(), strict=True))
    whole["nas"] = nas(list(range(0, 1000, 10)), [k % 64 for k in range(100)], True)
    npy = io.BytesIO()
    np.save(npy, np.array(list(zip(*sample(), strict=True)), [("t", "i8"), ("x", "u2"), ("y", "u2"), ("p", "u1")]))
    whole["npy"] = npy.getvalue()
    events = ev.make_events(*(np.array(c) for c in sample()))
    with tempfile.TemporaryDirectory() as folder:
        for name in ("npz", "h5"):
            data.write_events(Path(folder) / f"a.{name}", events)
            whole[name] = (Path(folder) / f"a.{name}").read_bytes()
        from scipy.io import savemat

        savemat(Path(folder) / "a.mat", {n: events[n].astype(np.int64) for n in "txyp"})
        whole["mat"] = (Path(folder) / "a.mat").read_bytes()
    return whole


WHOLE = _whole()
_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**62, 2**63, 2**64 - 1)


def damaged(raw, draw):
    """The bytes with something wrong: some changed, numbers at their limits, a piece lost or doubled, the end cut."""
    raw = bytearray(raw)
    for _ in range(int(draw.integers(1, 4))):
        at, n = int(draw.integers(len(raw) + 1)), int(draw.integers(1, 17))
        kind = int(draw.integers(8))
        if kind < 2:
            for place in draw.integers(0, max(len(raw), 1), 4):
                raw[place : place + 1] = bytes([int(draw.integers(256))])
        elif kind == 2:
            width = int(draw.choice([1, 2, 4, 8]))
            number = int(draw.choice(len(_INTERESTING)))
            raw[at : at + width] = (_INTERESTING[number] % 256**width).to_bytes(
                width, str(draw.choice(["little", "big"]))
            )
        elif kind == 3:
            del raw[at : at + n]
        elif kind == 4:
            raw[at:at] = raw[at : at + n]
        elif kind == 5:
            raw[at:at] = draw.bytes(n)
        elif kind == 6:
            del raw[at:]
        else:
            raw[at : at + 1] = bytes([raw[at] ^ 1 << int(draw.integers(8))]) if at < len(raw) else b"\0"
    return bytes(raw)
