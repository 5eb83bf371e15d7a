"""Decoding of image files of every kind; each test writes its own."""

import io
import os
import struct
import tempfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageOps

from sppnet.common.errors import InputError
from sppnet.common.files import file_digest
from sppnet.data.image_header import read_file_header, read_header
from sppnet.data.images import content_digest, decode_image, image_digest, image_size, read_image

# The largest difference that JPEG at quality 95 with halved chroma makes on the picture below is 19; swapped
# channels make 250.
JPEG_ERROR = 24


@pytest.fixture(scope="module")
def picture():
    """A smooth RGB picture, 60 rows by 90 columns, so that lossy formats stay close."""
    coarse = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    return cv2.resize(coarse, (90, 60), interpolation=cv2.INTER_LINEAR)


def encode(image, form, mode=None, **options):
    pillow = Pillow.fromarray(image)
    stream = io.BytesIO()
    (pillow.convert(mode) if mode else pillow).save(stream, form, **options)
    return stream.getvalue()


def write(folder, data, name="image.bin"):
    path = folder / name
    path.write_bytes(data)
    return path


def check(image, expected, tolerance):
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected.astype(int)).max() <= tolerance


@pytest.mark.parametrize(
    ("form", "options", "tolerance"),
    [
        pytest.param("PNG", {}, 0, id="png"),
        pytest.param("BMP", {}, 0, id="bmp"),
        pytest.param("TIFF", {}, 0, id="tiff"),
        pytest.param("PPM", {}, 0, id="ppm"),
        pytest.param("JPEG", {"quality": 95}, JPEG_ERROR, id="jpeg"),
        pytest.param("JPEG", {"quality": 95, "progressive": True}, JPEG_ERROR, id="progressive"),
        pytest.param("JPEG", {"quality": 95, "mode": "CMYK"}, JPEG_ERROR, id="cmyk"),
        pytest.param("WEBP", {"lossless": True}, 0, id="webp"),
    ],
)
def test_reads_rgb(tmp_path, picture, form, options, tolerance):
    path = write(tmp_path, encode(picture, form, **options))
    check(read_image(path), picture, tolerance)
    assert image_size(path) == (90, 60)


def test_palette(tmp_path, picture):
    indexed = Pillow.fromarray(picture).quantize(200)
    stream = io.BytesIO()
    indexed.save(stream, "PNG")
    check(read_image(write(tmp_path, stream.getvalue())), np.asarray(indexed.convert("RGB")), 0)


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_gray_is_repeated(tmp_path, picture, form):
    gray = picture[..., 0]
    path = write(tmp_path, encode(gray, form))
    check(read_image(path), np.stack([gray] * 3, axis=2), 0 if form == "PNG" else JPEG_ERROR)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped_not_blended(tmp_path, picture, mode):
    colour = picture if mode == "RGBA" else picture[..., :1]
    half = np.full((60, 90, 1), 100, np.uint8)
    bands = [Pillow.fromarray(band) for band in np.moveaxis(np.concatenate([colour, half], axis=2), 2, 0)]
    stream = io.BytesIO()
    Pillow.merge(mode, bands).save(stream, "PNG")
    expected = picture if mode == "RGBA" else np.repeat(colour, 3, axis=2)
    check(read_image(write(tmp_path, stream.getvalue())), expected, 0)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits_keep_the_upper_eight(tmp_path, suffix):
    ramp = np.linspace(0, 65535, 60 * 90).round().astype(np.uint16).reshape(60, 90)
    data = cv2.imencode(suffix, ramp)[1].tobytes()
    check(read_image(write(tmp_path, data)), np.stack([ramp // 256] * 3, axis=2), 1)


ORIENTATIONS = range(1, 9)


def with_orientation(image, form, orientation, order="<", **options):
    exif = Pillow.Exif()
    exif[0x010F] = "a camera"
    exif[0x0112] = orientation
    exif.endian = order
    return encode(image, form, exif=exif, **options)


def displayed(data):
    """The picture as Pillow turns it."""
    return np.asarray(ImageOps.exif_transpose(Pillow.open(io.BytesIO(data))).convert("RGB"))


class TestOrientation:
    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    @pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
    @pytest.mark.parametrize("order", "<>")
    def test_is_applied(self, tmp_path, picture, form, orientation, order):
        data = with_orientation(picture, form, orientation, order, quality=95)
        path = write(tmp_path, data)
        upright = displayed(data)
        check(read_image(path), upright, 0 if form in ("PNG", "TIFF") else JPEG_ERROR)
        assert image_size(path) == (upright.shape[1], upright.shape[0])

    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    @pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF"])
    def test_is_not_applied_where_only_the_stored_size_is_annotated(
        self, tmp_path, picture, form, orientation
    ):
        data = with_orientation(picture, form, orientation, quality=95)
        path = write(tmp_path, data)
        # Sizes tell nothing of the orientations 2 to 4, which keep them.
        expected = displayed(data) if orientation < 5 else picture
        check(read_image(path, annotated=(90, 60)), expected, 0 if form == "PNG" else JPEG_ERROR)
        assert image_size(path, annotated=(90, 60)) == (90, 60)
        for size in (None, (60, 90), (45, 30)):
            assert read_image(path, annotated=size).shape == displayed(data).shape
            assert image_size(path, annotated=size) == displayed(data).shape[1::-1]

    def test_of_a_square_image_is_applied(self, tmp_path, picture):
        data = with_orientation(picture[:, :60], "PNG", 6)
        check(read_image(write(tmp_path, data), annotated=(60, 60)), displayed(data), 0)

    @pytest.mark.parametrize("orientation", [0, 9, 65535])
    def test_values_without_meaning_are_ignored(self, tmp_path, picture, orientation):
        path = write(tmp_path, with_orientation(picture, "PNG", orientation))
        check(read_image(path), picture, 0)

    def test_digest_differs_where_the_image_is_turned(self, tmp_path, picture):
        """Results of caches that were made of the stored image must not be found for the turned one."""
        digests = set()
        for orientation in ORIENTATIONS:
            path = write(tmp_path, with_orientation(picture, "PNG", orientation), f"{orientation}.png")
            assert content_digest(path.read_bytes()) == image_digest(path)
            assert (image_digest(path) == file_digest(path)) == (orientation == 1)
            stored = image_digest(path, annotated=(90, 60))
            assert (stored == file_digest(path)) == (orientation not in (2, 3, 4))
            assert content_digest(path.read_bytes(), annotated=(90, 60)) == stored
            assert len(image_digest(path)) == 64
            digests.add(image_digest(path)[:32])
        assert len(digests) == 8

    def test_digest_of_an_image_without_a_tag_is_its_files(self, tmp_path, picture):
        for form in ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "AVIF", "GIF"):
            path = write(tmp_path, encode(picture, form))
            assert image_digest(path) == image_digest(path, annotated=(9, 9)) == file_digest(path)

    def test_a_file_need_not_be_decoded_for_its_size(self, tmp_path, picture, monkeypatch):
        monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("the pixels were decoded"))
        for form in ("JPEG", "PNG", "WEBP", "AVIF"):
            assert image_size(write(tmp_path, with_orientation(picture, form, 6))) == (60, 90)

    @settings(max_examples=200, deadline=None)
    @given(data=st.data())
    def test_damaged_headers_do_no_harm(self, data):
        form = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "AVIF"]))
        content = bytearray(with_orientation(np.zeros((6, 9, 3), np.uint8), form, 6))
        for _ in range(data.draw(st.integers(1, 8))):
            offset = data.draw(st.integers(0, len(content) - 1))
            content[offset] = data.draw(st.integers(0, 255))
        cut = data.draw(st.integers(0, len(content)))
        header = read_header(bytes(content[:cut]))
        assert 1 <= header.orientation <= 8
        assert header.size is None or min(header.size) >= 0
        path = Path(tempfile.gettempdir(), f"damaged-{os.getpid()}.bin")
        path.write_bytes(content[:cut])
        assert read_file_header(path) == header
        path.unlink()


def test_real_voc2007_has_no_orientation(voc_root):
    """So that the orientation changes nothing there."""
    for path in sorted((voc_root / "VOC2007" / "JPEGImages").glob("*.jpg"))[::20]:
        assert read_file_header(path).orientation == 1
        assert image_digest(path) == file_digest(path)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (10_000, 20), (20, 10_000)])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_extreme_shapes(tmp_path, width, height, suffix):
    expected = np.full((height, width, 3), 77, np.uint8)
    path = write(tmp_path, cv2.imencode(suffix, expected)[1].tobytes())
    check(read_image(path), expected, 2)
    assert image_size(path) == (width, height)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_truncated_file_is_named(tmp_path, picture, form, share):
    data = encode(picture, form)
    path = write(tmp_path, data[: int(len(data) * share)])
    with pytest.raises(InputError, match=r"image\.bin: .*(truncated|not an image|cannot decode)"):
        read_image(path)


def test_jpeg_with_a_tail_of_zeros_is_truncated(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3)).astype(np.uint8)
    # A thumbnail with its own end marker stands in the header of many photographs; it must not count.
    thumbnail = encode(noise[:16, :16], "JPEG")
    data = encode(noise, "JPEG", comment=thumbnail)
    check(read_image(write(tmp_path, data)), noise, 255)
    path = write(tmp_path, data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    with pytest.raises(InputError, match="truncated or damaged"):
        read_image(path)


def test_jpeg_may_have_bytes_after_its_end(tmp_path, picture):
    check(read_image(write(tmp_path, encode(picture, "JPEG", quality=95) + bytes(300))), picture, JPEG_ERROR)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "empty", id="empty"),
        pytest.param(b"no image at all" * 20, "not an image", id="text"),
        pytest.param(b"\xff\xd8\xff\xe0\xff\xff", "states no size", id="jpeg-start"),
        pytest.param(b"\x89PNG\r\n\x1a\n", "states no size", id="png-start"),
    ],
)
def test_not_an_image(tmp_path, data, message):
    path = write(tmp_path, data)
    for read in (read_image, image_size):
        with pytest.raises(InputError, match=rf"image\.bin: .*{message}"):
            read(path)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none.jpg", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_image(path)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP"])
def test_pixel_limit(tmp_path, picture, form):
    path = write(tmp_path, encode(picture, form))
    assert read_image(path, max_pixels=60 * 90).shape == (60, 90, 3)
    with pytest.raises(InputError, match="90x60 is over the limit of 5399 pixels"):
        read_image(path, max_pixels=60 * 90 - 1)


def png_that_states(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("form", ["png", "jpeg"])
def test_pixel_limit_holds_before_decoding(monkeypatch, form):
    if form == "png":
        data = png_that_states(60_000, 60_000)
    else:
        data = bytearray(encode(np.zeros((8, 8, 3), np.uint8), "JPEG"))
        frame = data.index(b"\xff\xc0")
        data[frame + 5 : frame + 9] = struct.pack(">HH", 60_000, 60_000)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("the pixels were decoded"))
    with pytest.raises(InputError, match="60000x60000 is over the limit"):
        decode_image(np.frombuffer(bytes(data), np.uint8), "bomb")


def test_opencv_limit_is_an_input_error():
    data = np.frombuffer(png_that_states(60_000, 60_000), np.uint8)
    with pytest.raises(InputError, match="bomb: OpenCV cannot decode"):
        decode_image(data, "bomb", max_pixels=10**12)


def test_every_real_image_of_a_sample_decodes(voc_root):
    paths = sorted((voc_root / "VOC2007" / "JPEGImages").glob("*.jpg"))[::100]
    assert paths
    for path in paths:
        height, width, _ = read_image(path).shape
        assert image_size(path) == (width, height)


@settings(max_examples=60, deadline=None)
@given(
    start=st.sampled_from([b"\xff\xd8", b"\xff\xd8\xff\xc0", b"\x89PNG\r\n\x1a\n"]),
    rest=st.binary(max_size=60),
)
def test_broken_headers_are_input_errors(start, rest):
    with pytest.raises(InputError):
        decode_image(np.frombuffer(start + rest, np.uint8), "broken")
