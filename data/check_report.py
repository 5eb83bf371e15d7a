"""Shows the check of a data set: a page for the terminal, and an HTML file.

rich and jinja2 are imported by the functions that need them.
"""

import base64
import itertools
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from sppnet.common.arrays import Image
from sppnet.common.text import counted, percent
from sppnet.data.check import BOX_SIDES, DatasetCheck, SplitCounts, count_split
from sppnet.data.check_finding import Finding
from sppnet.data.draw import draw_ground_truth
from sppnet.data.types import Dataset, Example

if TYPE_CHECKING:
    from rich.console import RenderableType

# Of more classes than this the terminal shows the rarest and the most frequent.
_MOST_CLASSES = 30
_DETAILS_IN_TERMINAL = 3
_DETAILS_IN_HTML = 200
# Letters of a detail that is a name, and so many of them in one line.
_SHORT = 24
_SHORT_IN_LINE = 30
# Pixels of the longer side of a picture, and its quality as a JPEG: about 30 KB.
_PICTURE_SIDE = 440
_PICTURE_QUALITY = 80


def terminal_report(check: DatasetCheck) -> "RenderableType":
    """Makes a page for the terminal: counts, sizes, findings with what to do."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    parts: list[RenderableType] = [
        _table(check.classes, check.splits, check.images, check.objects),
        Text(),
        *map(Text, _size_lines(check)),
    ]
    for severity, style in (("problem", "bold red"), ("remark", "bold")):
        findings = [finding for finding in check.findings if finding.severity == severity]
        if findings:
            parts += [Text(), Text(f"{severity.capitalize()}s", style)]
        for finding in findings:
            parts.append(Padding(Text(finding.title, style), (0, 0, 0, 2)))
            parts.append(Padding(Text(finding.advice), (0, 0, 0, 4)))
            lines = _shortened(finding, _DETAILS_IN_TERMINAL)
            parts += [Padding(Text(line, "dim"), (0, 0, 0, 6)) for line in lines]
    parts += [Text(), Text(_verdict(check))]
    return Group(*parts)


def count_table(datasets: Sequence[Dataset]) -> "RenderableType":
    """Makes a table of the images and objects of some splits that share no image."""
    counts = tuple(count_split(dataset) for dataset in datasets)
    objects = tuple(map(sum, zip(*(split.objects for split in counts), strict=True)))
    return _table(datasets[0].classes, counts, sum(map(len, datasets)), objects)


def _table(
    classes: tuple[str, ...], splits: tuple[SplitCounts, ...], images: int, objects: tuple[int, ...]
) -> "RenderableType":
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for split in splits:
        table.add_column(escape(_split_title(split)), justify="right")
    table.add_column("together", justify="right")

    def add(title: str, numbers: Sequence[int], together: int | None = None) -> None:
        last = "" if together is None else f"{together:,}"
        table.add_row(escape(title), *(f"{number:,}" for number in numbers), last)

    add("images", [split.images for split in splits], images)
    if any(split.empty_images for split in splits):
        add("without objects", [split.empty_images for split in splits])
    add("objects", [sum(split.objects) for split in splits], sum(objects))
    if any(split.difficult for split in splits):
        add("of these difficult", [split.difficult for split in splits])
    table.add_section()
    labels = list(range(len(classes)))
    if len(labels) > _MOST_CLASSES:
        order = sorted(labels, key=lambda label: objects[label])
        labels = sorted({*order[: _MOST_CLASSES // 2], *order[-_MOST_CLASSES // 2 :]})
    for label in labels:
        add(classes[label], [split.objects[label] for split in splits], objects[label])
    if len(labels) < len(classes):
        table.add_row(f"… and {len(classes) - len(labels)} more classes")
    return table


def _split_title(split: SplitCounts) -> str:
    return split.name + (f" ({' + '.join(split.joins)})" if split.joins else "")


def _size_lines(check: DatasetCheck) -> list[str]:
    if not check.images:
        return []
    widths, heights = check.widths, check.heights
    lines = [
        f"images: {widths.smallest:.0f} to {widths.largest:.0f} pixels wide (median {widths.median:.0f}), "
        f"{heights.smallest:.0f} to {heights.largest:.0f} high (median {heights.median:.0f})"
    ]
    if sum(check.objects):
        sides, aspects = check.box_sides, check.box_aspects
        groups = ", ".join(f"{name}: {number:,}" for name, number, _ in _box_groups(check))
        lines += [
            f"boxes: shorter side {sides.smallest:.0f} to {sides.largest:.0f} pixels "
            f"(median {sides.median:.0f}); width by height {aspects.smallest:.2g} to {aspects.largest:.2g} "
            f"(median {aspects.median:.2g})",
            f"boxes by shorter side: {groups}",
        ]
    return lines


def _box_groups(check: DatasetCheck) -> list[tuple[str, int, str]]:
    """Name, number and percentage of each group of boxes."""
    names = [f"below {BOX_SIDES[0]}"]
    names += [f"{low}–{high - 1}" for low, high in itertools.pairwise(BOX_SIDES)]
    names.append(f"{BOX_SIDES[-1]} and more")
    total = max(sum(check.box_groups), 1)
    return [
        (name, number, percent(number / total)) for name, number in zip(names, check.box_groups, strict=True)
    ]


def _shortened(finding: Finding, most_lines: int) -> list[str]:
    """The details of a finding in so many lines; short ones, as names of classes, share a line."""
    details = finding.details
    if all(len(detail) <= _SHORT for detail in details):
        lines, rest = [", ".join(details[:_SHORT_IN_LINE])] if details else [], details[_SHORT_IN_LINE:]
    else:
        lines, rest = list(details[:most_lines]), details[most_lines:]
    return [*lines, f"… and {len(rest):,} more"] if rest else lines


def _verdict(check: DatasetCheck) -> str:
    problems = len(check.problems)
    remarks = len(check.findings) - problems
    if not check.findings:
        return "nothing found"
    return f"{counted(problems, 'problem') if problems else 'no problems'}, {counted(remarks, 'remark')}"


def html_report(check: DatasetCheck) -> str:
    """Makes a page of HTML with everything in it: counts, sizes, findings, and annotated images drawn.

    Nothing on the page is fetched from another place.

    Example:
        >>> from pathlib import Path
        >>> import cv2, tempfile
        >>> from sppnet.data import check_dataset, write_voc
        >>> temporary = tempfile.TemporaryDirectory()
        >>> folder = Path(temporary.name)
        >>> _ = cv2.imwrite(str(folder / "a.png"), np.zeros((80, 100, 3), np.uint8))
        >>> boxes, flags = np.array([[10, 20, 60, 80]], np.float32), np.zeros(1, bool)
        >>> example = Example("a", folder / "a.png", 100, 80, boxes, np.array([1]), flags, flags)
        >>> write_voc(Dataset("photos", "train", ("cat", "dog"), (example,)), folder / "my-data")
        >>> html = html_report(check_dataset(folder / "my-data"))
        >>> html.count("<figure>"), "http" in html
        (1, False)
    """
    from jinja2 import Environment, StrictUndefined

    template = files("sppnet.data").joinpath("check.html").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    largest = max(
        (sum(split.objects[label] for split in _parts(check)) for label in range(len(check.classes))),
        default=0,
    )
    return environment.from_string(template).render(
        check=check,
        verdict=_verdict(check),
        size_lines=_size_lines(check),
        box_groups=_box_groups(check),
        parts=_parts(check),
        largest=max(largest, 1),
        findings=[(finding, _shortened(finding, _DETAILS_IN_HTML)) for finding in check.findings],
        pictures=[_picture(split, example, check.classes) for split, example in check.pictures],
    )


def _parts(check: DatasetCheck) -> list[Any]:
    return [split for split in check.splits if not split.joins]


def _picture(split: str, example: Example, classes: tuple[str, ...]) -> dict[str, Any]:
    image = example.read()
    height, width = image.shape[:2]
    factor = min(_PICTURE_SIDE / max(height, width), 1)
    # Drawn after it is made smaller: lines and names stay sharp.
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    small: Image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    drawn = draw_ground_truth(small, example, classes)
    quality = [cv2.IMWRITE_JPEG_QUALITY, _PICTURE_QUALITY]
    _, encoded = cv2.imencode(".jpg", np.ascontiguousarray(drawn[:, :, ::-1]), quality)
    labels = Counter(example.labels.tolist())
    return {
        "data": base64.b64encode(encoded.tobytes()).decode("ascii"),
        "width": small.shape[1],
        "height": small.shape[0],
        "name": example.path.name,
        "split": split,
        "objects": ", ".join(counted(number, classes[label]) for label, number in labels.items()),
    }
