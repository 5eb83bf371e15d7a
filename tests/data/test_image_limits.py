"""Images that would take minutes or gigabytes to decode are refused before they are decoded."""

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from sppnet.common.errors import InputError
from sppnet.data.images import decode_image


def encode(form, size=(64, 48), **options):
    stream = io.BytesIO()
    Pillow.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(stream, form, **options)
    return bytearray(stream.getvalue())


def replaced(data, old, new):
    assert old in data
    return bytes(data).replace(old, new, 1)


def tiff(entries, order="<"):
    """A TIFF file of one directory, with entries (tag, type, value), and no pixels."""
    body = b""
    for tag, kind, value in entries:
        body += struct.pack(f"{order}HHI", tag, kind, 1)
        body += struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}I", value)
    signature = {"<": b"II*\0", ">": b"MM\0*"}[order]
    return signature + struct.pack(f"{order}IH", 8, len(entries)) + body + bytes(4)


def big_tiff(width, height):
    entries = b"".join(struct.pack("<HHQQ", tag, 4, 1, value) for tag, value in ((256, width), (257, height)))
    return b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, 2) + entries + bytes(8)


def jpeg_2000(size=(64, 48), tile=None, channels=3, **options):
    data = encode("JPEG2000", no_jp2=True, irreversible=False, **options)
    start = data.index(b"\xff\x51")
    data[start + 6 : start + 14] = struct.pack(">II", *size)
    data[start + 22 : start + 30] = struct.pack(">II", *(tile or size))
    data[start + 38 : start + 40] = struct.pack(">H", channels)
    return bytes(data)


def of_small_precincts(size):
    """JPEG 2000 of one resolution, whose precincts have one pixel."""
    data = bytearray(jpeg_2000(size, num_resolutions=1))
    coding = data.index(b"\xff\x52")
    data[coding + 2 : coding + 5] = b"\0\x0d\x01"  # a byte longer; precincts are given
    data[coding + 14 : coding + 14] = b"\0"
    return bytes(data)


def bmp(width, height):
    return replaced(encode("BMP"), struct.pack("<ii", 64, 48), struct.pack("<ii", width, height))


def gif(width, height):
    return replaced(encode("GIF"), struct.pack("<HH", 64, 48), struct.pack("<HH", width, height))


def refused(data, message, monkeypatch, **limits):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("the pixels were decoded"))
    with pytest.raises(InputError, match=f"^bomb: .*{message}"):
        decode_image(np.frombuffer(bytes(data), np.uint8), "bomb", **limits)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(tiff([(256, 4, 60_000), (257, 4, 50_000)]), id="tiff"),
        pytest.param(tiff([(256, 3, 60_000), (257, 3, 50_000)], ">"), id="tiff-big-endian"),
        pytest.param(big_tiff(60_000, 50_000), id="bigtiff"),
        pytest.param(bmp(60_000, 50_000), id="bmp"),
        pytest.param(bmp(60_000, -50_000), id="bmp-from-the-top"),
        pytest.param(b"BM" + bytes(12) + struct.pack("<IHH", 12, 60_000, 50_000), id="bmp-of-os2"),
        pytest.param(gif(60_000, 50_000), id="gif"),
        pytest.param(b"P6 60000 50000 255\n", id="ppm"),
        pytest.param(b"P4\n# 1 1\n60000\n50000\n", id="pbm-with-a-comment"),
        pytest.param(b"P7\nWIDTH 60000\nHEIGHT 50000\nDEPTH 3\nENDHDR\n", id="pam"),
        pytest.param(jpeg_2000((60_000, 50_000)), id="j2k"),
        pytest.param(b"\0\0\0\x0cjP  \r\n\x87\n" + jpeg_2000((60_000, 50_000)), id="jp2"),
        pytest.param(jpeg_2000() + jpeg_2000((60_000, 50_000)), id="the-second-codestream"),
    ],
)
def test_pixels(data, monkeypatch):
    refused(data, "60000x50000 is over the limit of 100000000 pixels", monkeypatch)


def test_other_formats(monkeypatch):
    for suffix in (".ras", ".hdr", ".pfm"):
        image = np.zeros((4, 4, 3), np.uint8 if suffix == ".ras" else np.float32)
        refused(cv2.imencode(suffix, image)[1], "not an image of a format that is read", monkeypatch)


def test_tiff_whose_tiles_are_larger_than_the_image(monkeypatch):
    size = [(256, 4, 100_000), (257, 4, 1)]
    refused(
        tiff([*size, (322, 3, 1024), (323, 3, 16384)]), "tiles of 1024x16384 have 1644167168", monkeypatch
    )


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "states no size"),
        ([(256, 4, 9)], "states no size"),
        ([(256, 5, 9), (257, 4, 9)], "tag 256 is no whole number"),
    ],
)
def test_tiff_without_a_size(monkeypatch, entries, message):
    refused(tiff(entries), message, monkeypatch)


def test_png_whose_chunk_states_more_bytes_than_there_are(monkeypatch):
    data = encode("PNG")
    data[33:37] = struct.pack(">I", 2_000_000_000)
    refused(data, "truncated or damaged .a chunk states 2000000000 bytes", monkeypatch)


def scans(data, count, width, height):
    """The last scan of a JPEG, so many times."""
    frame = data.index(b"\xff\xc2")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def test_jpeg_of_many_scans(monkeypatch):
    data = encode("JPEG", progressive=True)
    plain = decode_image(np.frombuffer(bytes(data), np.uint8), "a.jpg")
    again = decode_image(np.frombuffer(bytes(scans(data, 5, 64, 48)), np.uint8), "a.jpg")
    assert plain.shape == again.shape
    refused(scans(data, 2000, 64, 48), "64x48 pixels in 20.. scans", monkeypatch)
    refused(scans(data, 30, 10_000, 9_999), "10000x9999 pixels in 3. scans", monkeypatch)


def test_jpeg_with_bytes_between_its_segments(monkeypatch):
    data = encode("JPEG")
    second = data.index(b"\xff\xdb")
    odd = data[:second] + b"\0\x11\xff\0\x22" + data[second:]
    assert decode_image(np.frombuffer(bytes(odd), np.uint8), "odd.jpg").shape == (48, 64, 3)
    frame = odd.index(b"\xff\xc0")
    odd[frame + 5 : frame + 9] = struct.pack(">HH", 50_000, 60_000)
    refused(odd, "60000x50000 is over the limit", monkeypatch)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(jpeg_2000((9000, 9000), (40, 40)), "3 channels in 50625 tiles", id="tiles"),
        pytest.param(jpeg_2000(channels=500), "500 channels", id="channels"),
        pytest.param(jpeg_2000((9000, 9000), codeblock_size=(4, 4)), "in 20245054 blocks", id="blocks"),
        pytest.param(
            of_small_precincts((9000, 9000)), "243000000 blocks and 243000003 packets", id="precincts"
        ),
        pytest.param(jpeg_2000((9000, 9000), tile=(0, 5)), "its tiles have no size", id="no-tiles"),
        pytest.param(jpeg_2000()[:40], "its header is cut", id="cut"),
        pytest.param(b"\0\0\0\x0cjP  \r\n\x87\n", "it has no codestream", id="nothing"),
    ],
)
def test_jpeg_2000(data, message, monkeypatch):
    refused(data, message, monkeypatch)


@pytest.mark.parametrize("form", ["JPEG2000", "TIFF", "GIF", "BMP", "PPM", "WEBP", "PNG", "JPEG", "AVIF"])
def test_ordinary_images_pass(form):
    data = encode(form, (300, 200))
    assert decode_image(np.frombuffer(bytes(data), np.uint8), "good").shape == (200, 300, 3)


def test_tiled_images_pass():
    tiled = encode("TIFF", (300, 200), tiffinfo={322: 64, 323: 64}, compression="tiff_adobe_deflate")
    parts = {"tile_size": (64, 64), "num_resolutions": 3, "precinct_size": (32, 32)}
    for data in (tiled, encode("JPEG2000", (300, 200), **parts)):
        assert decode_image(np.frombuffer(bytes(data), np.uint8), "good").shape == (200, 300, 3)
