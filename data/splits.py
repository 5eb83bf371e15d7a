"""Splits that join others, and splits that a user made by lists beside the files of any format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sppnet.common.errors import InputError
from sppnet.common.files import read_text
from sppnet.data.examples import OnError, gather, inside
from sppnet.data.faults import MissingImageError
from sppnet.data.layout import Layout
from sppnet.data.names import text_lines
from sppnet.data.split_names import WHOLE, sorted_splits
from sppnet.data.types import Dataset, Example

# The folder of the lists.
LISTS = "splits"


def join_splits(datasets: Sequence[Dataset]) -> Dataset:
    """Joins splits to one data set that has every image once.

    Where two images have the same id, as in COCO's files, whose numbers begin anew in each split, the ids
    get the names of the splits before them.
    """
    examples = {example.path: example for dataset in datasets for example in dataset}
    numbers: dict[str, int | str] = {}
    for dataset in datasets:
        numbers |= dataset.image_ids or {}
    if len({example.image_id for example in examples.values()}) < len(examples):
        numbers = {}
        examples = {
            example.path: replace(example, image_id=f"{dataset.split}/{example.image_id}")
            for dataset in datasets
            for example in dataset
        }
    return replace(datasets[0], split=WHOLE, examples=tuple(examples.values()), image_ids=numbers or None)


def joined_splits(datasets: Sequence[Dataset]) -> dict[str, tuple[str, ...]]:
    """Finds splits that only join the images of others, as ``trainval`` does.

    Returns:
        the names of the joined splits, by the name of the split that joins them.
    """
    paths = {dataset.split: frozenset(example.path for example in dataset) for dataset in datasets}
    joined = {}
    for split, images in paths.items():
        parts = tuple(other for other in paths if paths[other] < images)
        if len(parts) > 1 and frozenset[Path]().union(*(paths[part] for part in parts)) == images:
            joined[split] = parts
    return joined


def split_lists(folder: Path) -> dict[str, tuple[str, ...]]:
    """Reads the lists ``splits/<split>.txt``, which ``sppnet data split`` writes.

    Returns:
        the image files of each split, relative to the folder. Empty where there is no list.

    Raises:
        InputError: a list cannot be read, is empty, or is not UTF-8.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lists = Path(folder, "splits")
        ...     lists.mkdir()
        ...     _ = Path(lists, "test.txt").write_text("images/dog 1.jpg\\nimages/dog 2.jpg\\n")
        ...     split_lists(Path(folder))
        {'test': ('images/dog 1.jpg', 'images/dog 2.jpg')}
    """
    lists = {}
    for path in sorted((folder / LISTS).glob("*.txt")):
        lines = text_lines(read_text(path, "the list of images"))
        lists[path.stem] = tuple(line.strip() for line in lines if line.strip())
        if not lists[path.stem]:
            raise InputError(f"{path}: lists no images; put one file on each line")
    return lists


@dataclass(frozen=True)
class ListedLayout:
    """A layout of any format whose splits are the lists in the folder ``splits``.

    Attributes:
        layout: the layout of the files; its own splits are joined.
        lists: as `split_lists` gives them.
    """

    layout: Layout
    lists: Mapping[str, tuple[str, ...]]

    @property
    def folder(self) -> Path:
        """The data set's folder."""
        return self.layout.folder

    @property
    def format(self) -> str:
        """The name of the format for people."""
        return self.layout.format

    @property
    def evidence(self) -> str:
        """The file or folder that the format was recognised by."""
        return self.layout.evidence

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the lists."""
        return sorted_splits(self.lists)

    def open(self, split: str, on_error: OnError, need_images: bool = True) -> Dataset:
        """Reads the images of a list, in its order.

        Raises:
            InputError: a listed image is not in the data set; or as the layout of the files.
        """
        whole = join_splits([self.layout.open(name, on_error, need_images) for name in self.layout.splits])
        by_path = {example.path.resolve(): example for example in whole}

        def read(line: str) -> tuple[Example, int]:
            path = self.folder / LISTS / f"{split}.txt"
            example = by_path.get(inside(self.folder, line, path).resolve())
            if example is None:
                raise MissingImageError(
                    f"{path}: {line} is not an annotated image; remove the line, or divide anew with "
                    "'sppnet data split --force'"
                )
            return example, 0

        examples = gather(self.lists[split], read, on_error, f"{whole.name} {split}")
        return replace(whole, split=split, examples=examples)


def with_lists(layout: Layout) -> Layout:
    """The same layout, divided by the lists in its folder ``splits`` where there are some.

    Raises:
        InputError: as `split_lists`.
    """
    lists = split_lists(layout.folder)
    return ListedLayout(layout, lists) if lists else layout
