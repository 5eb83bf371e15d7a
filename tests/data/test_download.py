"""The download of VOC2007, from a server on loopback that cuts connections and refuses requests."""

import errno
import gzip
import hashlib
import http.server
import importlib.util
import io
import re
import tarfile
import threading
from pathlib import Path

import pytest

from sppnet.common.errors import InputError
from sppnet.data.download import VOC2007_ARCHIVES, Archive, download_voc2007


def make_tar(files, members=()):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in members:
            tar.addfile(info)
    return stream.getvalue()


VOC = "VOCdevkit/VOC2007"
TRAINVAL = make_tar({f"{VOC}/ImageSets/Main/train.txt": b"a\n", f"{VOC}/big": bytes(300_000)})
TEST = make_tar({f"{VOC}/ImageSets/Main/test.txt": b"b\n"})


def archive(name, content):
    return Archive(name, hashlib.md5(content).hexdigest())


ARCHIVES = (archive("trainval.tar", TRAINVAL), archive("test.tar", TEST))


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``; ``cuts`` lists the numbers of bytes after which the next answers break off."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"trainval.tar": TRAINVAL, "test.tar": TEST}
        self.cuts = []
        self.ranges = True
        self.status = None
        self.requests = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        name, byte_range = self.path.lstrip("/"), self.headers.get("Range")
        server.requests.append((name, byte_range))
        if server.status or name not in server.files:
            self.send_error(server.status or 404)
            return
        content = server.files[name]
        partial = byte_range and server.ranges
        start = int(byte_range.removeprefix("bytes=").removesuffix("-")) if partial else 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if partial else 200)
        if partial:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        remaining = content[start:]
        self.wfile.write(remaining[: server.cuts.pop(0)] if server.cuts else remaining)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(server, root, archives=ARCHIVES, **options):
    return download_voc2007(root, server.url, archives, pause=0.0, **options)


def check_whole(root):
    assert {path.name for path in root.iterdir()} == {"VOC2007"}
    assert (root / "VOC2007/ImageSets/Main/train.txt").read_text() == "a\n"
    assert (root / "VOC2007/ImageSets/Main/test.txt").read_text() == "b\n"
    assert (root / "VOC2007/big").read_bytes() == bytes(300_000)


def test_fetches_both_archives(server, tmp_path):
    seen = []
    root = tmp_path / "new" / "VOCdevkit"
    target = fetch(server, root, progress=lambda *args: seen.append(args))
    assert target == root / "VOC2007"
    check_whole(root)
    assert seen[0] == ("trainval.tar", 0, len(TRAINVAL))
    assert ("trainval.tar", len(TRAINVAL), len(TRAINVAL)) in seen
    assert seen[-1] == ("test.tar", len(TEST), len(TEST))


def test_an_old_python_is_refused_before_the_download(server, tmp_path, monkeypatch):
    monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(InputError, match=r"cannot unpack archives safely; use 3\.11\.4"):
        download_voc2007(tmp_path, server.url, ARCHIVES)
    assert not server.requests


def test_the_second_call_fetches_nothing(server, tmp_path):
    fetch(server, tmp_path)
    server.requests.clear()
    fetch(server, tmp_path)
    assert server.requests == []


def test_cut_connection_is_resumed(server, tmp_path):
    server.cuts = [100_000, 50_000, 1]
    fetch(server, tmp_path)
    check_whole(tmp_path)
    assert server.requests == [
        ("trainval.tar", None),
        ("trainval.tar", "bytes=100000-"),
        ("trainval.tar", "bytes=150000-"),
        ("trainval.tar", "bytes=150001-"),
        ("test.tar", None),
    ]


def test_next_call_continues(server, tmp_path):
    server.cuts = [100_000] + [0] * 10
    with pytest.raises(InputError, match="cut; check the network, then run this again to continue"):
        fetch(server, tmp_path, attempts=3)
    assert len(server.requests) == 4
    assert not (tmp_path / "VOC2007").exists()
    server.cuts.clear()
    server.requests.clear()
    fetch(server, tmp_path)
    check_whole(tmp_path)
    assert server.requests[0] == ("trainval.tar", "bytes=100000-")


def test_server_without_ranges_starts_over(server, tmp_path):
    server.ranges = False
    server.cuts = [100_000]
    fetch(server, tmp_path)
    check_whole(tmp_path)


def test_server_without_ranges_that_always_cuts_is_given_up(server, tmp_path):
    server.ranges = False
    server.cuts = [1000, 2000, 1500] * 10
    with pytest.raises(InputError, match="the connection was cut"):
        fetch(server, tmp_path, attempts=3)
    assert len(server.requests) <= 6


@pytest.mark.parametrize("part", [TRAINVAL, TRAINVAL + b"more"], ids=["complete", "too-long"])
def test_part_with_nothing_left_to_fetch(server, tmp_path, part):
    (tmp_path / "trainval.tar.part").write_bytes(part)
    fetch(server, tmp_path)
    check_whole(tmp_path)
    assert [name for name, _ in server.requests].count("trainval.tar") == (1 if part == TRAINVAL else 2)


def test_finished_archive_is_not_fetched_again(server, tmp_path):
    (tmp_path / "trainval.tar").write_bytes(TRAINVAL)
    fetch(server, tmp_path)
    check_whole(tmp_path)
    assert [name for name, _ in server.requests] == ["test.tar"]


def test_corrupted_archive_is_removed_and_fetched_again_by_the_next_call(server, tmp_path):
    server.files["test.tar"] = TEST[:-1] + b"x"
    with pytest.raises(InputError, match=r"test\.tar: damaged: its MD5 is .* run this again"):
        fetch(server, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"trainval.tar"}
    server.files["test.tar"] = TEST
    fetch(server, tmp_path)
    check_whole(tmp_path)


def test_stale_part_is_detected_by_the_checksum(server, tmp_path):
    (tmp_path / "trainval.tar.part").write_bytes(b"other bytes")
    with pytest.raises(InputError, match="damaged"):
        fetch(server, tmp_path)
    fetch(server, tmp_path)
    check_whole(tmp_path)


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (403, 1), (503, 3)])
def test_refusals(server, tmp_path, status, requests):
    server.status = status
    with pytest.raises(InputError, match=rf"trainval\.tar: the server answers {status}"):
        fetch(server, tmp_path, attempts=3)
    assert len(server.requests) == requests


def test_unreachable_server_and_bad_address(tmp_path):
    with Server() as server:
        url = server.url
    with pytest.raises(InputError, match=r"refused.*; check the network"):
        download_voc2007(tmp_path, url, ARCHIVES, attempts=2, pause=0.0)
    with pytest.raises(InputError, match=r"unknown url type.* base URL that starts with https"):
        download_voc2007(tmp_path, "nowhere", ARCHIVES, pause=0.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(make_tar({"../outside": b"x"}), "not a usable archive", id="escape"),
        pytest.param(make_tar({"VOCdevkit/../../outside": b"x"}), "not a usable archive", id="escape-inside"),
        pytest.param(b"no archive at all", "not a usable archive", id="not-tar"),
        pytest.param(TRAINVAL[:5000], "not a usable archive", id="short-tar"),
        pytest.param(make_tar({"other/file": b"x"}), "holds no VOCdevkit/VOC2007", id="other-layout"),
    ],
)
def test_unusable_archives_leave_nothing(server, tmp_path, content, message):
    server.files["odd.tar"] = content
    with pytest.raises(InputError, match=message):
        fetch(server, tmp_path / "root", [archive("odd.tar", content)])
    assert {path.name for path in (tmp_path / "root").iterdir()} == {"odd.tar"}
    assert not (tmp_path / "outside").exists()


def member(name, kind=tarfile.REGTYPE, link="", **fields):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    for field, value in fields.items():
        setattr(info, field, value)
    return info


@pytest.mark.parametrize(
    ("members", "message"),
    [
        pytest.param([member("x", tarfile.SYMTYPE, "/etc")], "'x' is no regular file", id="link-outside"),
        pytest.param([member("x", tarfile.SYMTYPE, "a")], "'x' is no regular file", id="link-inside"),
        pytest.param([member("x", tarfile.LNKTYPE, f"{VOC}/a")], "'x' is no regular", id="hard-link"),
        pytest.param([member("x", tarfile.CHRTYPE)], "'x' is no regular file", id="device"),
        pytest.param([member("x", tarfile.FIFOTYPE)], "'x' is no regular file", id="pipe"),
        pytest.param([member("/x")], "'/x' leads out", id="absolute"),
        pytest.param([member("a/../../x")], "'a/../../x' leads out", id="parent"),
        pytest.param([member("C:x")], "'C:x' leads out", id="drive"),
        pytest.param([member("x"), member("./x")], r"'\./x' is in it twice", id="twice"),
        pytest.param([member("x"), member("x/y")], "'x/y' lies below a file", id="below-a-file"),
        pytest.param([member("x", size=1 << 40)], "", id="size"),
        pytest.param([member("x" * 300)], "File name too long", id="long-name"),
        pytest.param(
            [member("x", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}, size=512)],
            "",
            id="sparse",
        ),
    ],
)
def test_members_that_are_refused(server, tmp_path, members, message):
    """Good members come first: nothing of them may be visible."""
    content = make_tar({f"{VOC}/a": b"x"}, members)
    server.files["odd.tar"] = content
    with pytest.raises(InputError, match=rf"odd\.tar: not a usable archive \(.*{message}"):
        fetch(server, tmp_path / "root", [archive("odd.tar", content)])
    assert [path.name for path in tmp_path.iterdir()] == ["root"]
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["odd.tar"]


def test_compressed_archives_are_refused(server, tmp_path):
    content = gzip.compress(make_tar({f"{VOC}/big": bytes(10**6)}))
    server.files["odd.tar"] = content
    with pytest.raises(InputError, match=r"odd\.tar: not a usable archive"):
        fetch(server, tmp_path, [archive("odd.tar", content)])


def test_is_never_half_visible(server, tmp_path, monkeypatch):
    extract = tarfile.TarFile.extractall

    def interrupted(tar, *args, **options):
        extract(tar, *args, **options)
        if tar.name.endswith("test.tar"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extractall", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch(server, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"trainval.tar", "test.tar"}
    # The remains of a killed process do no harm.
    leftover = tmp_path / ".VOC2007.unpacking" / "VOCdevkit" / "VOC2007"
    leftover.mkdir(parents=True)
    (leftover / "leftover").write_text("x")
    server.requests.clear()
    fetch(server, tmp_path)
    check_whole(tmp_path)
    assert not (tmp_path / "VOC2007" / "leftover").exists()
    assert server.requests == []


def test_full_disk_is_named(server, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "extractall", full)
    with pytest.raises(InputError, match="the disk is full; make room and run this again"):
        fetch(server, tmp_path)
    assert (tmp_path / "trainval.tar").is_file()


def test_root_that_is_a_file(server, tmp_path):
    (tmp_path / "root").write_text("")
    with pytest.raises(InputError, match=r"root: cannot be written"):
        fetch(server, tmp_path / "root")


def test_official_sums_agree_with_torchvision():
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        pytest.skip("torchvision is not installed")
    # Read, not imported: importing torchvision takes seconds.
    source = (Path(spec.origin).parent / "datasets" / "voc.py").read_text()
    for item in VOC2007_ARCHIVES:
        assert re.search(rf'{re.escape(item.name)}",\s+"md5": "{item.md5}"', source)
