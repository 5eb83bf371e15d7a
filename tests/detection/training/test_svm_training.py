"""Training end to end on a tiny data set; snapshots; preparing ahead."""

import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest

from sppnet.common.checkpoint import Checkpoint
from sppnet.common.errors import InputError
from sppnet.common.prefetch import prefetch
from sppnet.data import Dataset, Example
from sppnet.data.images import read_image
from sppnet.detection.backbones import Network, build_network
from sppnet.detection.features.extractor import FeatureExtractor
from sppnet.detection.training import TrainingData, train_detector
from sppnet.detection.training import svm_training as detector_training
from sppnet.proposals import ProposalCache


class Killed(BaseException):
    """Stands for Ctrl-C or a kill at a chosen moment."""


@pytest.fixture
def train(tiny_train, tiny_settings, tmp_path):
    """Trains in a folder of its own; the same ``place`` goes on where it stopped."""

    def run(place, stop=None, settings=tiny_settings, dataset=tiny_train, map_bytes=10**9, seen=None):
        def progress(stage, done, total):
            if seen is not None:
                seen.append((stage, done, total))
            if (stage, done) == stop:
                raise Killed

        extractor = FeatureExtractor(build_network("alexnet", "random"), settings.features)
        folder = tmp_path / place
        with ProposalCache(folder / "proposals.sqlite", settings.proposals) as cache:
            data = TrainingData(dataset, settings.proposals, cache, folder / "maps", map_bytes)
            return train_detector(data, extractor, settings, folder / "work", progress)

    return run


def arrays(detector):
    found = {"weights": detector.head.weights, "bias": detector.head.bias, "scale": detector.head.norm_factor}
    if detector.regressors is not None:
        found |= {"moves": detector.regressors.weights, "shift": detector.regressors.bias}
    return found


def check_same(first, second):
    first, second = arrays(first), arrays(second)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_trains_a_detector_that_knows_its_images(train, tiny_train, tiny_settings):
    seen = []
    detector = train("a", seen=seen)
    assert detector.classes == ("bar", "square")
    assert detector.head.weights.shape == (2, 5 * 256)
    assert detector.regressors.weights.shape == (2, 4, 5 * 256)
    assert detector.engine == tiny_settings.proposals
    assert detector.origin["dataset"] == "tiny"
    assert detector.origin["images"] == 6
    assert [done for stage, done, total in seen if stage == "mining"] == [0, 1, 2, 3, 4, 5, 6]
    # On a training image the ground truth window of a class scores above it for the other class.
    right = 0
    for example in tiny_train:
        found, _ = detector.score(detector.extractor.maps(read_image(example.path)), example.boxes)
        best = {int(label): found.boxes[found.labels == label][0] for label in set(found.labels.tolist())}
        right += sum(
            np.array_equal(best.get(int(label)), box)
            for box, label in zip(example.boxes, example.labels, strict=True)
        )
    assert right >= 10


def test_the_mean_norm_becomes_twenty(train, tiny_train, tiny_settings):
    settings = replace(tiny_settings, training=replace(tiny_settings.training, norm_proposals=10**6))
    detector = train("a", settings=settings)
    norms = []
    for example in tiny_train:
        image = read_image(example.path)
        boxes = np.concatenate([example.boxes, settings.proposals.propose(image)])
        pooled = detector.extractor.pool(detector.extractor.maps(image), boxes)
        norms += np.linalg.norm(pooled.features[pooled.rows], axis=1).tolist()
    np.testing.assert_allclose(detector.head.norm_factor * np.mean(norms), 20, rtol=1e-4)


def test_one_seed_one_result(train):
    check_same(train("a"), train("b"))


@pytest.mark.parametrize(
    "stop",
    [("mining", 1), ("mining", 4), ("mining", 6), ("final training", 0), ("final training", 2)],
    ids=lambda stop: f"{stop[0]} {stop[1]}".replace(" ", "_"),
)
def test_stopped_and_resumed_is_unbroken(train, monkeypatch, stop):
    monkeypatch.setattr(detector_training, "_CHECKPOINT_SECONDS", -1.0)
    unbroken = train("unbroken")
    with pytest.raises(Killed):
        train("broken", stop)
    seen = []
    check_same(train("broken", seen=seen), unbroken)
    mined = [done for stage, done, _ in seen if stage == "mining"]
    # It stopped before the checkpoint of the image under way.
    assert mined[0] == {"mining": stop[1] - 1, "final training": 6}[stop[0]]
    assert ("convolution", 1, 6) not in seen or stop == ("mining", 1)


def test_stopped_in_the_first_pass_is_unbroken(train):
    unbroken = train("unbroken")
    with pytest.raises(Killed):
        train("broken", ("convolution", 4))
    check_same(train("broken"), unbroken)


def test_stopped_while_taps_are_fitted_is_unbroken(train, tiny_settings):
    settings = replace(tiny_settings, network=replace(tiny_settings.network, pca=8))
    unbroken = train("unbroken", settings=settings)
    with pytest.raises(Killed):
        train("broken", ("taps", 3), settings=settings)
    check_same(train("broken", settings=settings), unbroken)


def test_a_full_disk_in_training_loses_nothing(train, monkeypatch):
    monkeypatch.setattr(detector_training, "_CHECKPOINT_SECONDS", -1.0)
    unbroken = train("unbroken")
    saved, full = np.save, []

    def save(file, array, **options):
        full.append(file)
        if len(full) == 40:
            raise OSError(28, "No space left on device")
        saved(file, array, **options)

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", save)
        with pytest.raises(InputError, match=r"No space left on device; free some space"):
            train("broken")
    seen = []
    check_same(train("broken", seen=seen), unbroken)
    assert next(done for stage, done, _ in seen if stage == "mining") > 0


def test_stored_maps_change_nothing(train):
    """With maps from disk or computed anew, one seed has one result."""
    check_same(train("kept"), train("computed", map_bytes=0))


def test_a_second_training_computes_no_convolutions(train, tmp_path, monkeypatch):
    first = train("a")
    shutil.rmtree(tmp_path / "a" / "work")
    assert len(list((tmp_path / "a" / "maps").glob("*/*.safetensors"))) == 6

    def refuse(*_, **__):
        raise AssertionError("a convolution, where maps are stored")

    monkeypatch.setattr(FeatureExtractor, "maps", refuse)
    monkeypatch.setattr(Network, "aligned", refuse)
    seen = []
    check_same(train("a", seen=seen), first)
    assert ("mining", 0, 6) in seen


def test_stopped_twice(train, monkeypatch):
    monkeypatch.setattr(detector_training, "_CHECKPOINT_SECONDS", -1.0)
    unbroken = train("unbroken")
    for stop in (("mining", 2), ("mining", 5)):
        with pytest.raises(Killed):
            train("broken", stop)
    check_same(train("broken"), unbroken)


def test_fitted_taps_are_kept(train, tiny_settings, monkeypatch):
    """Another machine might fit them a bit differently; the maps and the checkpoint are named by them."""
    monkeypatch.setattr(detector_training, "_CHECKPOINT_SECONDS", -1.0)
    settings = replace(tiny_settings, network=replace(tiny_settings.network, pca=8))
    unbroken = train("unbroken", settings=settings)
    with pytest.raises(Killed):
        train("broken", ("mining", 4), settings=settings)
    fit = detector_training.fit_feature_levels

    def fit_otherwise(maps, components):
        feature_levels = fit(maps, components)
        feature_levels.scales *= 1.001
        return feature_levels

    monkeypatch.setattr(detector_training, "fit_feature_levels", fit_otherwise)
    seen = []
    check_same(train("broken", settings=settings, seen=seen), unbroken)
    assert {stage for stage, _, _ in seen} == {"mining", "final training"}
    # Of other settings they are fitted anew.
    other = replace(settings, network=replace(settings.network, pca=7))
    train("broken", settings=other, seen=seen)
    assert ("taps", 0, 6) in seen


def test_a_checkpoint_of_other_settings_is_not_gone_on_with(train, tiny_settings, monkeypatch):
    monkeypatch.setattr(detector_training, "_CHECKPOINT_SECONDS", -1.0)
    with pytest.raises(Killed):
        train("a", ("mining", 4))
    other = replace(tiny_settings, mining=replace(tiny_settings.mining, hard_threshold=-0.9))
    seen = []
    train("a", settings=other, seen=seen)
    assert ("mining", 0, 6) in seen


def test_settings_of_finetuning_have_no_part_in_a_checkpoint(train, tiny_settings, monkeypatch):
    monkeypatch.setattr(detector_training, "_CHECKPOINT_SECONDS", -1.0)
    with pytest.raises(Killed):
        train("a", ("mining", 4))
    other = replace(tiny_settings, finetuning=replace(tiny_settings.finetuning, width=77))
    seen = []
    train("a", settings=other, seen=seen)
    assert ("mining", 0, 6) not in seen


def test_without_regression(train, tiny_settings):
    settings = replace(tiny_settings, training=replace(tiny_settings.training, regression=False))
    assert train("a", settings=settings).regressors is None


def test_difficult_objects_are_no_positives_unless_asked_for(train, tiny_settings, tiny_train):
    assert any(example.difficult.any() for example in tiny_train)
    asked = replace(tiny_settings, training=replace(tiny_settings.training, difficult_positives=True))
    first, second = train("a"), train("b", settings=asked)
    assert not np.array_equal(first.head.weights[1], second.head.weights[1]) or not np.array_equal(
        first.head.weights[0], second.head.weights[0]
    )


def without_objects(example):
    return replace(
        example,
        boxes=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int64),
        difficult=np.zeros(0, bool),
        truncated=np.zeros(0, bool),
    )


def test_no_object_to_train_on(train, tiny_train):
    empty = Dataset("tiny", "train", tiny_train.classes, tuple(map(without_objects, tiny_train)))
    with pytest.raises(InputError, match="no annotated object"):
        train("a", dataset=empty)


def test_only_difficult_objects(train, tiny_train):
    hard = tuple(replace(one, difficult=np.ones(len(one.boxes), bool)) for one in tiny_train)
    with pytest.raises(InputError, match="object"):
        train("a", dataset=Dataset("tiny", "train", tiny_train.classes, hard))


def test_some_images_without_objects_and_a_class_without_any(train, tiny_train):
    examples = tuple(without_objects(one) if i < 2 else one for i, one in enumerate(tiny_train))
    detector = train("a", dataset=Dataset("tiny", "train", (*tiny_train.classes, "unicorn"), examples))
    assert np.isfinite(detector.head.weights).all()
    (unicorns,) = np.unique(detector.regressors.weights[2])
    assert unicorns == 0


def test_a_broken_image_is_named(train, tiny_train, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    examples: list[Example] = [*tiny_train]
    examples[3] = replace(examples[3], path=bad)
    with pytest.raises(InputError, match=r"bad\.png"):
        train("a", dataset=Dataset("tiny", "train", tiny_train.classes, tuple(examples)))


def test_too_little_memory_is_said(train, tiny_settings):
    with pytest.raises(InputError, match="memory_gb is"):
        replace(tiny_settings.training, memory_gb=0.5)
    least = replace(tiny_settings, training=replace(tiny_settings.training, memory_gb=2.5))
    assert np.isfinite(train("a", settings=least).svms.weights).all()


# --- Checkpoint ---

A = {"x": np.arange(6).reshape(2, 3), "y.z": np.array(2.5)}
B = {"x": np.ones((0, 4), np.float32), "other": np.array([True])}


def check_arrays(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("damage", [b"", b"no array", None], ids=["empty", "other", "cut"])
def test_a_damaged_checkpoint_is_none(tmp_path, damage):
    checkpoint = Checkpoint(tmp_path, {})
    checkpoint.save(A)
    file = next(tmp_path.rglob("*.npy"))
    file.write_bytes(file.read_bytes()[:-1] if damage is None else damage)
    assert checkpoint.load() is None
    checkpoint.save(A)
    check_arrays(checkpoint.load(), A)


def test_checkpoint_round_trip(tmp_path):
    checkpoint = Checkpoint(tmp_path, {"a": 1})
    assert checkpoint.load() is None
    checkpoint.save(A)
    check_arrays(Checkpoint(tmp_path, {"a": 1}).load(), A)


def test_the_latest_checkpoint_counts(tmp_path):
    checkpoint = Checkpoint(tmp_path, {"a": 1})
    for arrays_ in (A, B, A, B):
        checkpoint.save(arrays_)
        check_arrays(checkpoint.load(), arrays_)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_loaded_checkpoint_outlives_the_next(tmp_path):
    checkpoint = Checkpoint(tmp_path, {})
    checkpoint.save(A)
    loaded = checkpoint.load()
    checkpoint.save(loaded)
    checkpoint.save(B)
    check_arrays(loaded, A)


def test_another_purpose_is_none(tmp_path):
    Checkpoint(tmp_path, {"images": ["a"], "k": 1}).save(A)
    assert Checkpoint(tmp_path, {"images": ["b"], "k": 1}).load() is None
    check_arrays(Checkpoint(tmp_path, {"k": 1, "images": ["a"]}).load(), A)


def save_halfway(checkpoint, monkeypatch):
    """A process that is killed after the first file of a snapshot."""
    save, calls = np.save, []

    def fail(file, array, **options):
        if calls:
            raise Killed
        calls.append(1)
        save(file, array, **options)

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", fail)
        with pytest.raises(Killed):
            checkpoint.save(B)


def test_half_a_checkpoint_is_none(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path, {})
    save_halfway(checkpoint, monkeypatch)
    assert checkpoint.load() is None
    checkpoint.save(A)
    check_arrays(checkpoint.load(), A)


def test_half_a_checkpoint_leaves_the_one_before(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path, {})
    for _ in range(3):
        checkpoint.save(A)
        save_halfway(checkpoint, monkeypatch)
        check_arrays(checkpoint.load(), A)


def test_killed_before_the_older_of_two_is_removed(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path, {})
    for first, second in ((A, B), (B, A)):
        checkpoint.save(first)
        with monkeypatch.context() as patch:
            patch.setattr("sppnet.common.checkpoint.shutil.rmtree", lambda *_, **__: None)
            checkpoint.save(second)
        check_arrays(checkpoint.load(), second)
        # Both are complete now: a snapshot that fails must not have cost the latest.
        save_halfway(checkpoint, monkeypatch)
        check_arrays(checkpoint.load(), second)
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()


# --- prefetch ---


@pytest.mark.parametrize("count", [0, 1, 2, 3, 20])
@pytest.mark.parametrize("ahead", [0, 1, 2, 5])
def test_prefetch_is_map(count, ahead):
    assert list(prefetch(lambda x: x * x, range(count), ahead)) == [x * x for x in range(count)]


def test_prefetch_takes_no_more_than_it_may(monkeypatch):
    taken = []

    def items():
        for number in range(10):
            taken.append(number)
            yield number

    results = prefetch(str, items(), ahead=2)
    assert taken == []
    assert next(results) == "0"
    assert len(taken) == 3
    assert next(results) == "1"
    assert len(taken) == 4
    results.close()
    assert len(taken) == 4


def test_prefetch_raises_in_its_place():
    results = prefetch(lambda x: 1 // (x - 3), [0, 1, 2, 3, 4], ahead=3)
    assert [next(results) for _ in range(3)] == [-1, -1, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_prefetch_works_in_one_other_thread():
    threads = set(prefetch(lambda _: threading.get_ident(), range(10)))
    assert len(threads) == 1
    assert threads != {threading.get_ident()}


def test_prefetch_stops_when_its_reader_does():
    started = []
    for _ in prefetch(started.append, range(100), ahead=2):
        break
    assert len(started) <= 3
