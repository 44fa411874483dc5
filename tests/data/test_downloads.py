"""Downloads from a server on this machine that can break, lie and resume; archives that mean harm."""

import contextlib
import hashlib
import http.server
import io
import socket
import stat
import tarfile
import threading
import zipfile

import pytest

from spikeloom.data import DataError, Download
from spikeloom.data.archives import unpack
from spikeloom.data.downloads import fetch

BODY = bytes(range(256)) * 8000  # 2 MB
MD5 = hashlib.md5(BODY).hexdigest()
SHA = hashlib.sha256(BODY).hexdigest()


class Server(http.server.BaseHTTPRequestHandler):
    """/file serves BODY with ranges, /no-range without, /breaks stops in the middle each time, /ends after 1,000 bytes,
    /wrong other bytes, /silent nothing."""

    def do_GET(self):
        self.server.log.append((self.path, self.headers.get("Range")))
        if self.path == "/missing":
            self.send_error(404)
            return
        if self.path == "/silent":
            self.server.go_on.wait(10)
            return
        body = BODY[::-1] if self.path == "/wrong" else BODY
        begin = 0
        wanted = self.headers.get("Range")
        if wanted and self.path != "/no-range":
            begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if begin >= len(body):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - begin))
        self.end_headers()
        piece = body[begin:]
        if self.path == "/breaks":
            piece = piece[: max(len(piece) // 2, 1)] if len(piece) > 600_000 else piece
        if self.path == "/ends":
            piece = piece[: max(1000 - begin, 0)]
        with contextlib.suppress(ConnectionError):
            self.wfile.write(piece)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        running.log, running.go_on = [], threading.Event()
        threading.Thread(target=running.serve_forever, daemon=True).start()
        running.url = f"http://127.0.0.1:{running.server_port}"
        yield running
        running.go_on.set()
        running.shutdown()


def test_a_download_is_checked_and_fetched_once(server, tmp_path):
    told = []
    file = Download("a.bin", (f"{server.url}/file",), md5=MD5, sha256=SHA, size=len(BODY))
    path = fetch(file, tmp_path / "new" / "folder", progress=lambda *p: told.append(p))
    assert path.read_bytes() == BODY
    for name in ("a.bin", "checking a.bin"):
        assert max(done for what, done, _ in told if what == name) == len(BODY)
    assert {total for _, _, total in told} == {len(BODY)}
    assert fetch(file, path.parent) == path
    assert len(server.log) == 1
    assert [p.name for p in path.parent.iterdir()] == ["a.bin"]
    path.write_bytes(BODY[:-1])
    with pytest.raises(DataError, match="2,047,999 bytes instead of 2,048,000; remove it"):
        fetch(file, path.parent)


def test_an_interrupted_download_goes_on(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(BODY[:700_000])
    fetch(Download("a.bin", (f"{server.url}/file",), md5=MD5), tmp_path)
    assert server.log == [("/file", "bytes=700000-")]
    assert (tmp_path / "a.bin").read_bytes() == BODY


def test_a_connection_that_breaks_is_taken_up_again(server, tmp_path):
    fetch(Download("a.bin", (f"{server.url}/breaks",), md5=MD5), tmp_path)
    assert [r for _, r in server.log] == [None, "bytes=1024000-", "bytes=1536000-"]
    assert (tmp_path / "a.bin").read_bytes() == BODY


def test_a_mirror_without_ranges_begins_again(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(b"something else")
    fetch(Download("a.bin", (f"{server.url}/no-range",), md5=MD5), tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == BODY


def test_more_bytes_than_the_mirror_has_are_thrown_away(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(BODY + b"more")
    fetch(Download("a.bin", (f"{server.url}/file",), md5=MD5), tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == BODY


def test_the_next_mirror_is_tried(server, tmp_path):
    urls = tuple(f"{server.url}/{path}" for path in ("missing", "wrong", "file"))
    fetch(Download("a.bin", urls, sha256=SHA), tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == BODY
    with pytest.raises(
        DataError,
        match=r"no mirror gave it: .*/missing: the server answers 404 Not Found; .*/wrong: its sha256 is \w{64} inst",
    ):
        fetch(Download("b.bin", urls[:2], sha256=SHA), tmp_path)
    assert not (tmp_path / "b.bin").exists()
    assert not (tmp_path / "b.bin.part").exists()


def test_what_cannot_be_fetched(server, tmp_path):
    with pytest.raises(DataError, match="put it there by hand"):
        fetch(Download("a.bin"), tmp_path)
    with pytest.raises(DataError, match="neither http nor https"):
        fetch(Download("a.bin", ("file:///etc/passwd",)), tmp_path)
    with pytest.raises(DataError, match="offers 2,048,000 bytes instead of 5"):
        fetch(Download("a.bin", (f"{server.url}/file",), size=5), tmp_path)


def test_a_server_that_cannot_be_reached_leaves_nothing_behind(server, tmp_path, monkeypatch):
    def nobody(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    folder, remedy = tmp_path / "data" / "set", r"check the network \(.*HTTPS_PROXY.*put the file there by hand"
    with pytest.raises(DataError, match=rf"127\.0\.0\.1 refuses the connection\. Now {remedy}"):
        fetch(Download("a.bin", ("http://127.0.0.1:9/a.bin",)), folder)
    with pytest.raises(DataError, match=rf"127\.0\.0\.1 does not answer within 0\.2 seconds\. Now {remedy}"):
        fetch(Download("a.bin", (f"{server.url}/silent",)), folder, timeout=0.2)
    with pytest.raises(
        DataError, match=r"/missing: the server answers 404 Not Found\. Now fetch it again later, or put"
    ):
        fetch(Download("a.bin", (f"{server.url}/missing",)), folder)
    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    with pytest.raises(DataError, match=rf"the name example\.invalid is not resolved \(Name or .*\)\. Now {remedy}"):
        fetch(Download("a.bin", ("http://example.invalid/a.bin",)), folder)
    assert list(tmp_path.iterdir()) == []


def test_what_came_before_a_connection_broke_off_is_kept(server, tmp_path):
    file = Download("a.bin", (f"{server.url}/ends",), md5=MD5)
    with pytest.raises(DataError, match=r"the connection to 127.* broke off .*the 1,000 bytes that came are kept"):
        fetch(file, tmp_path / "set")
    assert (tmp_path / "set" / "a.bin.part").read_bytes() == BODY[:1000]
    fetch(Download("a.bin", (f"{server.url}/file",), md5=MD5), tmp_path / "set")
    assert server.log[-1] == ("/file", "bytes=1000-")


# --- archives ---


def zipped(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return path


def tarred(path, entries):
    with tarfile.open(path, "w:gz") as file:
        for name, content in entries.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
    return path


def tree(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and not p.name.startswith(".")
    }


@pytest.mark.parametrize(("make", "name"), [(zipped, "a.zip"), (tarred, "a.tar.gz"), (tarred, "a.tgz")])
def test_unpacking(make, name, tmp_path):
    files = {"top/one.txt": b"1", "top/deep/two.txt": b"2" * 100}
    archive = make(tmp_path / name, files)
    unpack(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == files
    (tmp_path / "out" / "top" / "one.txt").write_bytes(b"changed")
    unpack(archive, tmp_path / "out")  # done already
    assert (tmp_path / "out" / "top" / "one.txt").read_bytes() == b"changed"
    make(tmp_path / name, {**files, "three": b"3"})
    unpack(archive, tmp_path / "out")  # another archive of that name
    assert tree(tmp_path / "out") == {**files, "three": b"3"}


def test_archives_in_archives(tmp_path):
    inner = zipped(tmp_path / "inner.zip", {"x.mat": b"x"}).read_bytes()
    unpack(zipped(tmp_path / "outer.zip", {"set/a.zip": inner, "readme": b"r"}), tmp_path / "out")
    assert tree(tmp_path / "out") == {"set/a/x.mat": b"x", "readme": b"r"}


def test_an_interrupted_extraction_is_done_again(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"one": b"1", "two": b"2"})
    half = tmp_path / "out" / ".a.zip.unpacking"
    half.mkdir(parents=True)
    (half / "one").write_bytes(b"hal")
    unpack(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == {"one": b"1", "two": b"2"}
    assert not half.exists()


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "C:/evil", "..\\evil"])
@pytest.mark.parametrize(("make", "suffix"), [(zipped, "zip"), (tarred, "tar.gz")])
def test_names_that_lead_out(make, suffix, name, tmp_path):
    archive = make(tmp_path / f"a.{suffix}", {"fine": b"1", name: b"2"})
    with pytest.raises(DataError, match="leads out of its folder"):
        unpack(archive, tmp_path / "in" / "out")
    assert tree(tmp_path / "in") == {}
    assert not (tmp_path / "evil").exists()


def test_links_and_devices(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zip_file:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        zip_file.writestr(entry, "/etc/passwd")
    with tarfile.open(tmp_path / "b.tar", "w") as file:
        device = tarfile.TarInfo("device")
        device.type = tarfile.CHRTYPE
        file.addfile(device)
    for name in ("a.tar", "a.zip", "b.tar"):
        with pytest.raises(DataError, match="link"):
            unpack(tmp_path / name, tmp_path / "out")
    assert tree(tmp_path / "out") == {}


def test_archives_that_would_fill_the_disk(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"zeros": bytes(20_000_000)})
    with pytest.raises(DataError, match="unpacks to far more"):
        unpack(archive, tmp_path / "out", limit=1_000_000)
    nested = zipped(tmp_path / "b.zip", {"a.zip": archive.read_bytes()})  # 20 MB, twice packed, in less than a kilobyte
    assert nested.stat().st_size < 2_000
    with pytest.raises(DataError, match="unpacks to far more"):
        unpack(nested, tmp_path / "out")
    assert tree(tmp_path / "out") == {}


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_damaged_archives(name, tmp_path):
    make = zipped if name == "a.zip" else tarred
    whole = make(tmp_path / name, {"one": bytes(range(256)) * 100}).read_bytes()
    for raw in (whole[: len(whole) // 2], b"no archive", whole[:100] + bytes(50) + whole[150:]):
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(DataError, match="damaged or cut short"):
            unpack(tmp_path / name, tmp_path / "out")
        assert tree(tmp_path / "out") == {}
