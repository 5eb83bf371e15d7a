"""The built-in sample, and data sets by name."""

import numpy as np
import pytest

from sppnet.common.errors import InputError
from sppnet.data import sample as sample_module
from sppnet.data.images import read_image
from sppnet.data.registry import open_dataset
from sppnet.data.sample import CLASSES, HEIGHT, SIZES, WIDTH, _draw_scene, make_sample
from sppnet.data.sample_objects import Sprite
from sppnet.data.voc import load_voc


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return make_sample(tmp_path_factory.mktemp("data") / "sample")


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr("sppnet.data.sample.SIZES", {"train": 2, "test": 1})


@pytest.mark.parametrize(("split", "images", "least_per_class"), [("train", 60, 15), ("test", 30, 7)])
def test_contents(sample, split, images, least_per_class):
    dataset = load_voc(sample, split)
    assert len(dataset) == SIZES[split] == images
    assert dataset.classes == CLASSES
    assert len(CLASSES) >= 6
    labels = np.concatenate([example.labels for example in dataset])
    difficult = np.concatenate([example.difficult for example in dataset])
    truncated = np.concatenate([example.truncated for example in dataset])
    assert np.bincount(labels[~difficult], minlength=len(CLASSES)).min() >= least_per_class
    assert 0.02 <= difficult.mean() <= 0.25
    assert 0.1 <= truncated.mean() <= 0.6
    for example in dataset:
        assert 1 <= len(example.labels) <= 4
        assert read_image(example.path).shape == (HEIGHT, WIDTH, 3) == (240, 320, 3)
        assert (example.boxes[:, :2] >= 0).all()
        assert (example.boxes[:, 2:] <= (WIDTH, HEIGHT)).all()
    sides = np.concatenate([example.boxes[:, 2:] - example.boxes[:, :2] for example in dataset])
    assert 55 <= np.median(sides) <= 110


def test_splits_share_no_image(sample):
    contents = [path.read_bytes() for path in (sample / "JPEGImages").iterdir()]
    assert len(set(contents)) == len(contents) == sum(SIZES.values())


def test_scene_is_deterministic_and_depends_on_the_seed():
    one, two, other = (_draw_scene(["ball", "star"], np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert one.image.tobytes() == two.image.tobytes()
    np.testing.assert_array_equal(one.boxes, two.boxes)
    assert one.image.tobytes() != other.image.tobytes()


@pytest.mark.parametrize("seed", range(6))
def test_box_is_tight_around_what_is_visible(monkeypatch, seed):
    draw = sample_module.draw_object

    def draw_magenta(*args):
        sprite = draw(*args)
        return Sprite(np.ones_like(sprite.rgb) * (1, 0, 1), (sprite.alpha > 0.5).astype(float))

    monkeypatch.setattr(sample_module, "draw_object", draw_magenta)
    scene = _draw_scene(["crate"], np.random.default_rng(seed))
    red, green, blue = np.moveaxis(scene.image.astype(int), 2, 0)
    rows, columns = np.nonzero((red > 200) & (green < 60) & (blue > 200))
    expected = [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]
    assert scene.boxes.tolist() == expected


def test_written_bytes_are_the_same_again(tmp_path, small):
    one, two = make_sample(tmp_path / "one" / "sample"), make_sample(tmp_path / "two" / "sample")
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(two) for path in two.rglob("*") if path.is_file())
    assert len(files) == 3 * 2 + 4
    assert all((one / path).read_bytes() == (two / path).read_bytes() for path in files)


def test_finished_sample_is_reused(sample):
    marker = sample / "JPEGImages" / "marker"
    marker.write_text("still here")
    assert make_sample(sample) == sample
    assert marker.is_file()
    marker.unlink()


def test_other_version_is_replaced(tmp_path, small):
    root = make_sample(tmp_path / "sample")
    (root / "sample-version.txt").write_text("0")
    (root / "old").write_text("x")
    make_sample(root)
    assert not (root / "old").exists()
    assert len(load_voc(root, "train")) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]


def test_other_folder_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(InputError, match="holds something other than the sample"):
        make_sample(tmp_path)
    assert (tmp_path / "mine").is_file()


def test_interrupted_making_leaves_nothing(tmp_path, small, monkeypatch):
    monkeypatch.setattr("sppnet.data.sample.write_voc", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        make_sample(tmp_path / "sample")
    assert list(tmp_path.iterdir()) == []


def test_unwritable_place_is_named(tmp_path, small):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="the sample cannot be written"):
        make_sample(tmp_path / "file" / "sample")


class TestOpenDataset:
    def test_sample(self, sample):
        assert len(open_dataset("sample", "test", None, sample)) == 30

    def test_voc_folder(self, sample, tmp_path):
        assert len(open_dataset(str(sample), "train", None, tmp_path)) == 60

    def test_voc2007(self, sample, tmp_path):
        with pytest.raises(InputError, match="voc2007 needs a VOC devkit: set VOC_ROOT"):
            open_dataset("voc2007", "train", None, tmp_path)
        (tmp_path / "VOC2012").symlink_to(sample)
        assert open_dataset("voc2012", "train", tmp_path, tmp_path / "none").name == "VOC2012"

    def test_coco(self, sample, tmp_path):
        (tmp_path / "test.json").write_text(
            '{"images": [{"id": 1, "file_name": "100000.jpg", "width": 320, "height": 240}],'
            ' "categories": [{"id": 1, "name": "ball"}], "annotations": []}'
        )
        name = f"coco:{tmp_path}/{{split}}.json:{sample}/JPEGImages"
        dataset = open_dataset(name, "test", None, tmp_path)
        assert (dataset.split, dataset.classes, len(dataset)) == ("test", ("ball",), 1)

    def test_ilsvrc(self, tmp_path):
        with pytest.raises(InputError, match="has no ImageSets/DET"):
            open_dataset(f"ilsvrc:{tmp_path}", "val", None, tmp_path)

    @pytest.mark.parametrize(
        ("name", "hint"), [("voc207", "mean 'voc2007'"), ("qqqq", "Give one of voc2007")]
    )
    def test_unknown(self, name, hint, tmp_path):
        with pytest.raises(InputError, match=f"no data set '{name}'.*{hint}"):
            open_dataset(name, "train", None, tmp_path)
