"""The data set that a command works on, and its splits."""

from pathlib import Path

from sppnet.cli.options import DataOptions
from sppnet.cli.terminal import say
from sppnet.common.folders import SAMPLE_ROOT
from sppnet.data import DATASETS, Dataset, OnError, default_train_split, describe_format, load_dataset
from sppnet.data.faults import Fault
from sppnet.proposals.source import ImageSource

_VOC_NAMES = ("voc2007", "voc2012")


class ChosenDataset:
    """The data set that the options name; without a name, VOC2007 where it is on disk, else the sample.

    Attributes:
        name: of the data set, as in `sppnet.data.load_dataset`.
        root: the folder to open it with; None: the name says it.
    """

    def __init__(self, options: DataOptions) -> None:
        """Chooses the data set, and prints which and why."""
        self._options = options
        if options.dataset:
            self.name = options.dataset
            reason = "as asked" if options.dataset in DATASETS else describe_format(options.dataset)
        elif (options.voc_root / "VOC2007").is_dir():
            self.name, reason = "voc2007", f"found in {options.voc_root}"
        else:
            self.name = "sample"
            reason = (
                f"built in, since there is no VOC2007 in {options.voc_root}: set VOC_ROOT, "
                "or run 'sppnet data download voc2007'"
            )
        say(f"data set: {self.name} ({reason})")
        self.root: Path | None = options.voc_root if self.name in _VOC_NAMES else None

    @property
    def train_split(self) -> str:
        """The split to train on: the one that was asked for, else the data set's own."""
        options = self._options
        return options.train_split or default_train_split(self.name, self.root, options.test_split)

    @property
    def test_split(self) -> str:
        """The split to test on."""
        return self._options.test_split

    def open(self, split: str, need_images: bool = True) -> Dataset:
        """The first images of a split, as many as were asked for; ``need_images``: see `load_dataset`.

        Raises:
            InputError: there is no such data set or split, or a file of it cannot be read.
        """
        options = self._options
        on_error: OnError = "skip" if options.skip_errors else "raise"
        dataset = load_dataset(
            self.name, split, self.root, on_error, options.limit or None, need_images=need_images
        )
        say(f"{split}: {len(dataset)} images")
        return dataset

    def image_ids(self, split: str) -> set[str]:
        """The ids of all images of a split, also of those beyond the limit and those with errors.

        Raises:
            InputError: there is no such data set or split.
        """
        faults: list[Fault] = []
        dataset = load_dataset(self.name, split, self.root, faults.append, need_images=False)
        return {example.image_id for example in dataset} | {fault.image_id for fault in faults}

    def image_source(self, split: str, url: str) -> ImageSource | None:
        """The URL that stands at the workers for the data set's folder: VOC's devkit, COCO's images."""
        if not url:
            return None
        _, *paths = self.name.replace("{split}", split).split(":")
        named = SAMPLE_ROOT if self.name == "sample" else self.root
        return ImageSource(named or Path(paths[-1] if paths else self.name), url)


def short_name(dataset: str) -> str:
    """The part of a run's name that stands for a data set: its folder, or of COCO's layout its JSON file.

    Example:
        >>> short_name("coco:boats/instances_{split}.json:boats/images")
        'instances'
    """
    kind, *paths = dataset.split(":")
    if kind == "coco" and paths:
        return Path(paths[0]).stem.replace("{split}", "").strip("_-.") or "coco"
    # The folder "." has no name.
    return (Path(dataset).name or Path(dataset).resolve().name).replace(":", "_")
