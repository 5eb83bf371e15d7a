"""Training of SVMs and box regressors from end to end on a tiny data set; also stopped and resumed."""

import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from sppnet.common.errors import InputError
from sppnet.data import Dataset, Example
from sppnet.data.images import read_image
from sppnet.detection.backbones import Network, build_network
from sppnet.detection.features.extractor import SPPExtractor
from sppnet.detection.training import TrainingData, feature_level_fitting, train_detector
from sppnet.detection.training.presets import MIN_MEMORY_GB
from sppnet.proposals import ProposalCache


class Killed(BaseException):
    """Stands for Ctrl-C or a kill at a chosen moment."""


@pytest.fixture
def settings(tiny_settings):
    """`tiny_settings` with the least memory: a smaller store of negatives is faster."""
    return replace(tiny_settings, training=replace(tiny_settings.training, memory_gb=MIN_MEMORY_GB))


@pytest.fixture
def with_pca(settings):
    """`settings` with the feature map reduced to 64 channels."""
    return replace(settings, network=replace(settings.network, pca=64))


@pytest.fixture
def train(tiny_train, settings, tmp_path):
    """Returns a function that trains in the folder ``name``, and continues there after a stop."""

    def run(name, stop=None, settings=settings, dataset=tiny_train, map_bytes=10**9, seen=None):
        def progress(stage, done, total):
            if seen is not None:
                seen.append((stage, done, total))
            if (stage, done) == stop:
                raise Killed

        extractor = SPPExtractor(build_network("alexnet", "random"), settings.features)
        folder = tmp_path / name
        with ProposalCache(folder / "proposals.sqlite", settings.proposals) as cache:
            data = TrainingData(dataset, settings.proposals, cache, folder / "maps", map_bytes)
            return train_detector(data, extractor, settings, folder / "work", progress, checkpoint_seconds=0)

    return run


@pytest.fixture(scope="module")
def unbroken_cache():
    """Keeps the detector of `unbroken` between the tests."""
    return []


@pytest.fixture
def unbroken(train, unbroken_cache):
    """The detector of a training that was never stopped."""
    if not unbroken_cache:
        unbroken_cache.append(train("unbroken"))
    return unbroken_cache[0]


def arrays(detector):
    """Returns the arrays that training makes, by name."""
    head, regressors = detector.head, detector.regressors
    parts = {"weights": head.weights, "bias": head.bias, "norm factor": head.norm_factor}
    if regressors is not None:
        parts |= {"regression weights": regressors.weights, "regression bias": regressors.bias}
    return parts


def check_same(first, second):
    first, second = arrays(first), arrays(second)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_the_detector_recognises_the_training_objects(train, tiny_train, settings):
    seen = []
    detector = train("a", seen=seen)
    assert detector.classes == ("bar", "square")
    assert detector.head.weights.shape == (2, 5 * 256)
    assert detector.regressors.weights.shape == (2, 4, 5 * 256)
    assert detector.engine == settings.proposals
    assert detector.origin["dataset"] == "tiny"
    assert detector.origin["images"] == 6
    assert [done for stage, done, total in seen if stage == "mining"] == [0, 1, 2, 3, 4, 5, 6]
    # On a training image, the best box of each class is the ground truth box of this class.
    num_correct = 0
    for example in tiny_train:
        maps = detector.extractor.prepare(read_image(example.path))
        detections, _ = detector.score(maps, example.boxes)
        # Detections are sorted by score, so going backwards leaves the best box of each class.
        best = {label: box for box, _, label in reversed(list(detections))}
        num_correct += sum(
            np.array_equal(best.get(int(label)), box)
            for box, label in zip(example.boxes, example.labels, strict=True)
        )
    assert num_correct >= 10


def test_the_mean_norm_becomes_twenty(train, tiny_train, settings):
    settings = replace(settings, training=replace(settings.training, norm_proposals=10**6))
    detector = train("a", settings=settings)
    norms = []
    for example in tiny_train:
        image = read_image(example.path)
        boxes = np.concatenate([example.boxes, settings.proposals.propose(image)])
        pooled = detector.extractor.extract(detector.extractor.prepare(image), boxes)
        norms += np.linalg.norm(pooled.features[pooled.rows], axis=1).tolist()
    np.testing.assert_allclose(detector.head.norm_factor * np.mean(norms), 20, rtol=1e-4)


def test_the_same_seed_gives_the_same_result(train, unbroken):
    check_same(train("again"), unbroken)


@pytest.mark.parametrize(
    "stop",
    [("mining", 1), ("mining", 4), ("mining", 6), ("final training", 0), ("final training", 2)],
    ids=lambda stop: f"{stop[0]} {stop[1]}".replace(" ", "_"),
)
def test_stopped_and_resumed_equals_unbroken(train, unbroken, stop):
    with pytest.raises(Killed):
        train("broken", stop)
    seen = []
    check_same(train("broken", seen=seen), unbroken)
    mined = [done for stage, done, _ in seen if stage == "mining"]
    # The stop came before the checkpoint after the current image.
    assert mined[0] == {"mining": stop[1] - 1, "final training": 6}[stop[0]]
    assert ("convolution", 1, 6) not in seen or stop == ("mining", 1)


def test_stopped_in_the_first_pass_equals_unbroken(train, unbroken):
    with pytest.raises(Killed):
        train("broken", ("convolution", 4))
    check_same(train("broken"), unbroken)


def test_stopped_while_feature_levels_are_fitted_equals_unbroken(train, with_pca):
    unbroken = train("unbroken", settings=with_pca)
    with pytest.raises(Killed):
        train("broken", ("feature levels", 3), settings=with_pca)
    check_same(train("broken", settings=with_pca), unbroken)


def test_a_full_disk_in_training_loses_nothing(train, unbroken, monkeypatch):
    save, files = np.save, []

    def save_39_times(file, array, **options):
        files.append(file)
        if len(files) == 40:
            raise OSError(28, "No space left on device")
        save(file, array, **options)

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", save_39_times)
        with pytest.raises(InputError, match=r"No space left on device; free some space"):
            train("broken")
    seen = []
    check_same(train("broken", seen=seen), unbroken)
    assert next(done for stage, done, _ in seen if stage == "mining") > 0


def test_stored_maps_change_nothing(train, unbroken):
    """Maps from disk and computed maps give the same result with the same seed."""
    check_same(train("computed", map_bytes=0), unbroken)


def test_a_second_training_computes_no_convolutions(train, tmp_path, monkeypatch):
    first = train("a")
    shutil.rmtree(tmp_path / "a" / "work")
    assert len(list((tmp_path / "a" / "maps").glob("*/*.safetensors"))) == 6

    def refuse(*_, **__):
        raise AssertionError("a convolution, although the maps are stored")

    monkeypatch.setattr(SPPExtractor, "prepare", refuse)
    monkeypatch.setattr(Network, "aligned", refuse)
    seen = []
    check_same(train("a", seen=seen), first)
    assert ("mining", 0, 6) in seen


def test_stopped_twice(train, unbroken):
    for stop in (("mining", 2), ("mining", 5)):
        with pytest.raises(Killed):
            train("broken", stop)
    check_same(train("broken"), unbroken)


def test_fitted_feature_levels_are_kept(train, with_pca, monkeypatch):
    """Maps and checkpoints are named by the digest of the fit, which may differ slightly between machines."""
    unbroken = train("unbroken", settings=with_pca)
    with pytest.raises(Killed):
        train("broken", ("mining", 4), settings=with_pca)
    fit = feature_level_fitting.fit_feature_levels

    def fit_otherwise(maps, components):
        feature_levels = fit(maps, components)
        feature_levels.weights *= 1.001
        return feature_levels

    monkeypatch.setattr(feature_level_fitting, "fit_feature_levels", fit_otherwise)
    seen = []
    check_same(train("broken", settings=with_pca, seen=seen), unbroken)
    assert {stage for stage, _, _ in seen} == {"mining", "final training"}
    # With other settings they are fitted again.
    changed = replace(with_pca, network=replace(with_pca.network, pca=63))
    with pytest.raises(Killed):
        train("broken", ("mining", 1), settings=changed, seen=seen)
    assert ("feature levels", 0, 6) in seen


def test_a_checkpoint_of_other_settings_is_not_used(train, settings):
    with pytest.raises(Killed):
        train("a", ("mining", 4))
    changed = replace(settings, mining=replace(settings.mining, hard_threshold=-0.9))
    seen = []
    train("a", settings=changed, seen=seen)
    assert ("mining", 0, 6) in seen


def test_settings_of_finetuning_do_not_change_a_checkpoint(train, settings):
    with pytest.raises(Killed):
        train("a", ("mining", 4))
    changed = replace(settings, finetuning=replace(settings.finetuning, width=77))
    seen = []
    train("a", settings=changed, seen=seen)
    assert ("mining", 0, 6) not in seen


def test_without_regression(train, settings):
    settings = replace(settings, training=replace(settings.training, regression=False))
    assert train("a", settings=settings).regressors is None


def test_mirrored_objects_of_symmetric_images_count_twice(train, settings, tiny_train, tmp_path):
    """Where mirroring changes nothing, mirrored positives are positives of twice the weight."""
    examples = []
    for example in tiny_train:
        image = read_image(example.path)
        path = tmp_path / example.path.name
        cv2.imwrite(str(path), np.concatenate([image, image[:, ::-1]], axis=1)[:, :, ::-1])
        whole = np.array([[0, 0, 220, 80]], np.float32)
        examples.append(
            replace(
                example,
                path=path,
                width=220,
                boxes=whole,
                labels=np.array([0]),
                difficult=np.zeros(1, bool),
                truncated=np.zeros(1, bool),
            )
        )
    dataset = Dataset("tiny", "train", ("pair",), tuple(examples))
    solver = replace(settings.mining.solver, tolerance=1e-7, max_sweeps=10_000)

    def weights(name, positive_weight, mirrored):
        changed = replace(
            settings,
            mining=replace(settings.mining, solver=replace(solver, positive_weight=positive_weight)),
            training=replace(settings.training, mirrored_positives=mirrored, regression=False),
        )
        seen = []
        trained = train(name, settings=changed, dataset=dataset, seen=seen).head.weights
        return trained, max(total for stage, _, total in seen if stage == "convolution")

    mirrored, passed = weights("mirrored", 2.0, True)
    heavier, passed_once = weights("heavier", 4.0, False)
    lighter, _ = weights("lighter", 2.0, False)
    assert (passed, passed_once) == (12, 6)
    distance, other = np.abs(mirrored - heavier).max(), np.abs(lighter - heavier).max()
    assert distance < 0.02 * other


def test_c_follows_the_number_of_objects_a_class(train, settings):
    """The tiny data set has 6 bars and 5 squares that are not difficult: 5.5 a class, and 22 / 5.5 = 2²."""
    by_objects = replace(settings, training=replace(settings.training, cost_objects=22))
    solver = replace(settings.mining.solver, cost=2 * settings.mining.solver.cost)
    by_hand = replace(settings, mining=replace(settings.mining, solver=solver))
    check_same(train("by objects", settings=by_objects), train("by hand", settings=by_hand))


def test_difficult_objects_are_positives_only_by_setting(train, unbroken, settings, tiny_train):
    assert any(example.difficult.any() for example in tiny_train)
    changed = replace(settings, training=replace(settings.training, difficult_positives=True))
    assert not np.array_equal(train("changed", settings=changed).head.weights, unbroken.head.weights)


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
    difficult = tuple(replace(example, difficult=np.ones(len(example.boxes), bool)) for example in tiny_train)
    with pytest.raises(InputError, match="object"):
        train("a", dataset=Dataset("tiny", "train", tiny_train.classes, difficult))


def test_some_images_without_objects_and_a_class_without_any(train, tiny_train):
    examples = tuple(
        without_objects(example) if index < 2 else example for index, example in enumerate(tiny_train)
    )
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


def test_too_little_memory_is_named(train, settings):
    with pytest.raises(InputError, match="memory_gb is"):
        replace(settings.training, memory_gb=0.5)
    # The least accepted value is enough.
    assert settings.training.memory_gb == MIN_MEMORY_GB
    assert np.isfinite(train("a", settings=settings).head.weights).all()
