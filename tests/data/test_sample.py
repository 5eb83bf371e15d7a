"""The built-in sample: its contents, its boxes, and its folder."""

import numpy as np
import pytest

from sppnet.common.errors import InputError
from sppnet.data import sample as sample_module
from sppnet.data.images import read_image
from sppnet.data.sample import CLASSES, HEIGHT, SIZES, WIDTH, draw_scene, make_sample
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
    scene, again, another = (draw_scene(["ball", "star"], np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert scene.image.tobytes() == again.image.tobytes()
    np.testing.assert_array_equal(scene.boxes, again.boxes)
    assert scene.image.tobytes() != another.image.tobytes()


@pytest.mark.parametrize("seed", range(6))
def test_box_is_tight_around_what_is_visible(monkeypatch, seed):
    draw = sample_module.draw_object

    def draw_magenta(*args):
        sprite = draw(*args)
        return Sprite(np.ones_like(sprite.rgb) * (1, 0, 1), (sprite.alpha > 0.5).astype(float))

    monkeypatch.setattr(sample_module, "draw_object", draw_magenta)
    scene = draw_scene(["crate"], np.random.default_rng(seed))
    red, green, blue = np.moveaxis(scene.image.astype(int), 2, 0)
    rows, columns = np.nonzero((red > 200) & (green < 60) & (blue > 200))
    expected = [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]
    assert scene.boxes.tolist() == expected


def test_two_samples_have_the_same_bytes(tmp_path, small):
    first, second = make_sample(tmp_path / "first" / "sample"), make_sample(tmp_path / "second" / "sample")
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    assert len(files) == 3 * 2 + 4
    assert all((first / path).read_bytes() == (second / path).read_bytes() for path in files)


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
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="holds something other than the sample"):
        make_sample(tmp_path)
    assert (tmp_path / "notes.txt").is_file()


def test_interrupted_drawing_leaves_nothing(tmp_path, small, monkeypatch):
    monkeypatch.setattr("sppnet.data.sample.write_voc", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        make_sample(tmp_path / "sample")
    assert list(tmp_path.iterdir()) == []


def test_unwritable_folder_is_named(tmp_path, small):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="the sample cannot be written"):
        make_sample(tmp_path / "file" / "sample")
