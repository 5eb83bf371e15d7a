"""The pages of a check: what stands on them, for names and numbers of any kind."""

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from photos import dataset, example, photo
from rich.console import Console

from sppnet.data import check_dataset, write_voc
from sppnet.data.check_report import count_table, html_report, terminal_report

NAMES = ("<b>cat</b>", "[red]dog[/red]", "Käse & Brot")


@pytest.fixture
def check(tmp_path):
    images = [
        example(tmp_path / f"<i>{number}.png", labels=[number % 3], difficult=range(number < 4), seed=number)
        for number in range(40)
    ]
    write_voc(dataset(*images[:36], classes=NAMES), tmp_path / "a & b")
    write_voc(dataset(*images[36:], split="test", classes=NAMES), tmp_path / "a & b")
    # A finding with many details.
    for number in range(8):
        (tmp_path / "a & b" / "JPEGImages" / f"<i>{number}.png").write_bytes(b"")
    return check_dataset(tmp_path / "a & b")


def text_of(renderable, width=100):
    console = Console(width=width)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_terminal(check):
    text = text_of(terminal_report(check), width=200)
    lines = [line.split() for line in text.splitlines()]
    assert ["train", "test", "together"] in lines
    assert ["images", "36", "4", "40"] in lines
    assert ["of", "these", "difficult", "4", "0"] in lines
    assert ["<b>cat</b>", "12", "2", "14"] in lines
    assert ["[red]dog[/red]", "12", "1", "13"] in lines
    assert "images: 100 to 100 pixels wide (median 100), 80 to 80 high (median 80)" in text
    assert "below 20: 0, 20–49: 0, 50–99: 40" in text
    assert "8 image files that cannot be decoded" in text
    assert text.count("the file is empty") == 3
    assert "… and 5 more" in text
    assert text.rstrip().endswith("1 problem, 0 remarks")


def test_terminal_of_many_classes(tmp_path):
    classes = tuple(f"class{number:03d}" for number in range(100))
    write_voc(dataset(example(tmp_path / "a.png", labels=[7]), classes=classes), tmp_path / "set")
    text = text_of(terminal_report(check_dataset(tmp_path / "set")), 200)
    assert len(re.findall(r"^ class\d+ +\d", text, re.MULTILINE)) == 30
    assert "… and 70 more classes" in text
    assert "99 classes without a single object" in text


def test_terminal_of_nothing_found(tmp_path):
    images = [example(tmp_path / f"{number}.png", seed=number) for number in range(24)]
    write_voc(dataset(*images[:20], classes=("cat",)), tmp_path / "set")
    write_voc(dataset(*images[20:], split="test", classes=("cat",)), tmp_path / "set")
    assert text_of(terminal_report(check_dataset(tmp_path / "set"))).rstrip().endswith("nothing found")


def test_table_of_splits(tmp_path):
    images = [example(tmp_path / f"{number}.png", labels=[number % 3], seed=number) for number in range(9)]
    text = text_of(count_table([dataset(*images[:6]), dataset(*images[6:], split="test")]))
    assert ["big", "horse", "2", "1", "3"] in [line.split() for line in text.splitlines()]


class Tags(HTMLParser):
    """Checks that tags are closed in order, and collects them."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.sources = [], [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html(check):
    html = html_report(check)
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    # Names of files and classes are text, not tags.
    assert "<i>" not in html
    assert "<b>cat" not in html
    assert "&lt;b&gt;cat&lt;/b&gt;" in html
    assert "Käse &amp; Brot" in html
    # Nothing comes from another detail.
    assert not {"script", "link", "iframe"} & set(tags.seen)
    assert "@import" not in html
    assert "url(" not in html
    assert all(source.startswith("data:image/jpeg;base64,") for source in tags.sources)
    # The long list is folded, with all its details.
    assert html.count("<details>") == 1
    assert html.count("the file is empty") == 8
    assert tags.seen.count("img") == 24
    for source in tags.sources:
        encoded = np.frombuffer(base64.b64decode(source.partition(",")[2]), np.uint8)
        assert cv2.imdecode(encoded, cv2.IMREAD_COLOR).shape == (80, 100, 3)


def test_html_without_any_image(tmp_path):
    write_voc(dataset(example(tmp_path / "a.png"), classes=("cat",)), tmp_path / "set")
    (tmp_path / "set/JPEGImages/a.png").unlink()
    html = html_report(check_dataset(tmp_path / "set"))
    assert "1 image annotated or listed, but without an image file" in html
    assert "<figure>" not in html
    assert "nan" not in html


def test_large_photos_are_made_smaller(tmp_path):
    image = replace(example(photo(tmp_path / "a.jpg", 0, 1600, 1200)), width=1600, height=1200)
    write_voc(dataset(image, classes=("cat",)), tmp_path / "set")
    html = html_report(check_dataset(tmp_path / "set"))
    assert '<img width="440" height="330"' in html
