"""AEDAT 4.0, the format of DV: flatbuffers in packets that LZ4 or Zstandard compress (iniVation, "AEDAT file formats").

The few fields that are needed are read straight from the flatbuffers' bytes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ..._extras import install
from ..errors import DataError
from ..packed import SPACE, bounded
from .recording import EVENT
from .source import Decoded, Size, Source

_EVENT = np.dtype([("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("p", "?"), ("pad", "V3")])
_VERSION = b"#!AER-DAT4.0\r\n"
_LZ4, _ZSTD = (1, 2), (3, 4)
_RATIO = 1 << 10  # a packet that unpacks to more than this many times its size is damage


class _BrokenError(Exception):
    """Bytes are no flatbuffer of the expected kind."""


def read_aedat4(source: Source) -> Decoded:
    """The events of the first event stream of a file, with the sensor size that the header gives for that stream."""
    raw: memoryview = source.raw.data
    at = len(_VERSION)
    if source.head(at) != _VERSION:
        raise source.error(f"byte 0: expected the line {_VERSION!r}, got {source.head(at)!r}")
    try:
        compression, table_at, info, at = _header(raw, at)
    except (_BrokenError, struct.error, IndexError) as broken:
        raise source.error(f"byte {at:,}: its header is damaged ({broken})") from None
    stream, size = _stream(info)
    unpack = _unpacker(source, compression)
    end = table_at if at <= table_at <= len(raw) else len(raw)  # without a valid table, packets go on to the end
    parts = []
    while at < end:
        if end - at < 8:
            source.damaged(at, f"the file ends {end - at} bytes into the header of a packet", end - at)
            break
        number, length = struct.unpack_from("<ii", raw, at)
        if length < 0 or at + 8 + length > end:
            source.damaged(at, f"a packet of {length:,} bytes, of which {end - at - 8:,} are there", end - at)
            break
        if number == stream or stream is None:
            try:
                parts.append(_events(unpack(raw[at + 8 : at + 8 + length])))
            except (_BrokenError, struct.error, IndexError) as broken:
                if stream is not None:
                    source.damaged(at, f"a packet of events is damaged ({broken})", 8 + length)
        at += 8 + length
    table = np.concatenate(parts) if parts else np.empty(0, _EVENT)
    if size is not None and len(table):
        outside = (table["x"] >= size[1]) | (table["y"] >= size[0]) | (table["x"] < 0) | (table["y"] < 0)
        if outside.any():
            i = int(outside.argmax())
            source.damaged(at, f"event {i:,}, {table[i]}, is outside the sensor of {size[0]} x {size[1]}", 0)
            source.skipped += _EVENT.itemsize * int(outside.sum())
            table = table[~outside]
    events = np.empty(len(table), EVENT)
    for name in ("t", "x", "y"):
        events[name] = table[name]
    events["p"] = table["p"].view(np.uint8) != 0  # any byte but 0 is ON
    return Decoded(events, size)


def _header(raw: memoryview, at: int) -> tuple[int, int, str, int]:
    """The compression, the byte of the table of packets, the XML that describes the streams, the header's end."""
    (length,) = struct.unpack_from("<I", raw, at)
    if length > len(raw) - at - 4 or bytes(raw[at + 8 : at + 12]) != b"IOHE":
        raise _BrokenError("it has no IOHE buffer")
    buffer = raw[at + 4 : at + 4 + length]
    fields = _table(buffer)
    compression = struct.unpack_from("<i", buffer, fields[0])[0] if fields[0] else 0
    table_at = struct.unpack_from("<q", buffer, fields[1])[0] if len(fields) > 1 and fields[1] else -1
    info = b""
    if len(fields) > 2 and fields[2]:
        begin, n = _vector(buffer, fields[2])
        info = bytes(buffer[begin : begin + n])
    return compression, table_at, info.decode("utf8", "replace"), at + 4 + length


def _events(packet: bytes | memoryview) -> Any:
    """The events of an EVTS buffer, led by its size."""
    if len(packet) < 12 or bytes(packet[8:12]) != b"EVTS":
        raise _BrokenError("it is no EVTS buffer")
    buffer = memoryview(packet)[4:]
    fields = _table(buffer)
    if not fields or not fields[0]:
        return np.empty(0, _EVENT)
    begin, n = _vector(buffer, fields[0])
    if n * _EVENT.itemsize > len(buffer) - begin:
        raise _BrokenError(f"{n:,} events are promised, {(len(buffer) - begin) // _EVENT.itemsize:,} are there")
    return np.frombuffer(buffer, _EVENT, n, begin)


def _table(buffer: memoryview) -> list[int]:
    """The positions of the fields of a flatbuffer's root table; 0 for those that are left out."""
    (root,) = struct.unpack_from("<I", buffer, 0)
    if root + 4 > len(buffer):
        raise _BrokenError("its root is outside")
    back = struct.unpack_from("<i", buffer, root)[0]
    vtable = root - back
    if not 0 <= vtable <= len(buffer) - 4:
        raise _BrokenError("its vtable is outside")
    (length,) = struct.unpack_from("<H", buffer, vtable)
    if length < 4 or vtable + length > len(buffer):
        raise _BrokenError("its vtable is cut")
    offsets = struct.unpack_from(f"<{(length - 4) // 2}H", buffer, vtable + 4)
    return [root + offset if offset else 0 for offset in offsets]


def _vector(buffer: memoryview, at: int) -> tuple[int, int]:
    """The position of the first element of a vector, and the number of elements."""
    begin = at + struct.unpack_from("<I", buffer, at)[0]
    (n,) = struct.unpack_from("<I", buffer, begin)
    return begin + 4, n


def _stream(info: str) -> tuple[int | None, Size | None]:
    """Number and sensor size of the first event stream; None where the header does not describe the streams."""
    if len(info) > 1 << 20 or "<!" in info:  # no stream needs entities or a document type, which can expand without end
        return None, None
    try:
        root = ElementTree.fromstring(info)
    except ElementTree.ParseError:
        return None, None
    for node in root.iter("node"):
        kind = node.find("attr[@key='typeIdentifier']")
        if kind is None or kind.text != "EVTS" or not re.fullmatch(r"\d{1,6}", node.get("name", "")):
            continue
        sides = [node.find(f"node[@name='info']/attr[@key='{side}']") for side in ("sizeY", "sizeX")]
        texts = [side.text or "" for side in sides if side is not None]
        if len(texts) == 2 and all(re.fullmatch(r"\d{1,5}", text) for text in texts):
            return int(node.get("name", "")), (int(texts[0]), int(texts[1]))
        return int(node.get("name", "")), None
    return None, None


def _unpacker(source: Source, compression: int) -> Callable[[memoryview], bytes | memoryview]:
    if compression == 0:
        return lambda packet: packet
    if compression not in (*_LZ4, *_ZSTD):
        raise source.error(f"compression {compression} is none of AEDAT 4.0's")
    name = "lz4" if compression in _LZ4 else "zstandard"
    try:
        if name == "lz4":
            import lz4.frame

            def pieces(packet: memoryview) -> Callable[[int], bytes]:
                state, given = lz4.frame.LZ4FrameDecompressor(), [packet, b""]
                return lambda n: b"" if state.eof else bytes(state.decompress(given.pop(0) if given[1:] else b"", n))

            error: Any = RuntimeError
        else:
            import zstandard

            def pieces(packet: memoryview) -> Callable[[int], bytes]:
                return zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(bytes(packet)).read

            error = zstandard.ZstdError
    except ModuleNotFoundError:
        raise DataError(
            f"{source.path}: its packets are compressed; install the extra: {install('data')} ({name})"
        ) from None

    def unpack(packet: memoryview) -> bytes:
        room = min(_RATIO * len(packet) + 1024, SPACE)
        try:
            unpacked = bounded(pieces(packet), room)
        except (error, EOFError, ValueError, MemoryError) as broken:
            raise _BrokenError(f"{name}: {broken}") from None
        if unpacked is None:
            raise _BrokenError(f"it unpacks to more than {room:,} bytes")
        source.room.take(len(unpacked), str(source.path))
        return unpacked

    return unpack
