"""The stages of a run, called from Python: their order, results, reports and errors."""

from dataclasses import replace

import numpy as np
import pytest

from sppnet.common.errors import InputError
from sppnet.common.settings import changed
from sppnet.detection.runs.detection_files import read_detections
from sppnet.detection.runs.names import trained_heads
from sppnet.detection.runs.pipeline import Pipeline
from sppnet.detection.runs.run import Run
from sppnet.eval import evaluate_voc
from sppnet.proposals import ProposalCache

# The store of negatives takes time by its size, which falls with the length of its vectors.
SHORT_FINETUNING = (
    "finetuning = {optimiser = 'adamw', width = 256, rates = [0.003], steps = [8], decay = 'cosine',"
    " batch = 16, proposals_per_image = 16, draw_steps = 8, validate_every = 8, validation = 0.2}"
)


@pytest.fixture
def run(tmp_path, tiny_settings):
    settings = changed(tiny_settings, changes=["training.memory_gb = 2.5", SHORT_FINETUNING])
    with ProposalCache(tmp_path / "proposals.sqlite", settings.proposals) as cache:
        yield Run(tmp_path / "runs" / "tiny", settings, cache, tmp_path / "maps")


@pytest.fixture
def told():
    """The stages and the sentences that a `pipeline` told, in their order."""
    return {"stages": [], "sentences": []}


@pytest.fixture
def pipeline(run, told):
    def progress(stage, done, total):
        if stage not in told["stages"]:
            told["stages"].append(stage)

    return Pipeline(run, jobs=1, progress=progress, report=told["sentences"].append)


def test_the_main_job(pipeline, run, told, tiny_train, tiny_test):
    result = pipeline.main_job(tiny_train, tiny_test)
    assert told["stages"] == [
        "proposals (train)", "proposals (test)", "feature norm", "convolution", "mining", "final training",
        "calibration", "detection",
    ]  # fmt: skip
    assert sum(sentence.startswith("at the default thresholds: ") for sentence in told["sentences"]) == 1
    assert any(sentence == f"model: {run.model}" for sentence in told["sentences"])
    assert result.detector.classes == tiny_test.classes
    assert [example.image_id for example in result.test] == [example.image_id for example in tiny_test]
    written = read_detections(run, tiny_test)
    assert evaluate_voc(tiny_test, written.regressed).map_11point == result.scores.voc.map_11point > 0
    assert (run.folder / "metrics.json").is_file()

    told["stages"].clear()
    again = pipeline.main_job(tiny_train, tiny_test)
    assert told["stages"] == ["proposals (test)", "detection"]
    assert any("trained before" in sentence for sentence in told["sentences"])
    for image_id, detections in result.detections.regressed.items():
        np.testing.assert_array_equal(detections.boxes, again.detections.regressed[image_id].boxes)


def test_a_head_is_trained_after_those_that_it_builds_on(pipeline, run, told, tiny_train):
    fc7 = replace(pipeline, run=replace(run, head="fc7"))
    detector = fc7.train(tiny_train)
    assert detector.origin["head"] == "fc7"
    models = [sentence for sentence in told["sentences"] if sentence.startswith("model: ")]
    assert models == [f"model: {run.folder / name}" for name in ("model", "model-softmax", "model-fc7")]
    assert trained_heads(run.folder.parent) == {"tiny": ["pool5", "fc7", "softmax"]}
    # The next head takes what there is.
    told["sentences"].clear()
    replace(pipeline, run=replace(run, head="fc6")).train(tiny_train)
    models = [sentence for sentence in told["sentences"] if sentence.startswith("model: ")]
    assert models == [f"model: {run.folder / 'model-fc6'}"]


def test_a_test_set_that_does_not_fit_is_refused_before_the_work(pipeline, run, told, tiny_train, tiny_test):
    other = replace(tiny_test, classes=("bar", "circle"))
    with pytest.raises(InputError, match="differ in their classes, such as 'circle'"):
        pipeline.main_job(tiny_train, other)
    assert told["stages"] == []
    assert not run.folder.exists()


def test_a_wrong_network_is_named_before_the_work(pipeline, run, told, tiny_train):
    settings = replace(run.settings, network=replace(run.settings.network, name="alexnt", weights=""))
    wrong = replace(pipeline, run=replace(run, settings=settings))
    with pytest.raises(InputError, match="alexnt"):
        wrong.train(tiny_train)
    assert told["stages"] == []


def without_objects(dataset, label=None):
    """The data set without the objects of a class; None: without any object."""

    def bare(example):
        kept = (example.labels != label) & (label is not None)
        names = ("boxes", "labels", "difficult", "truncated")
        return replace(example, **{name: getattr(example, name)[kept] for name in names})

    return replace(dataset, examples=tuple(map(bare, dataset)))


def all_difficult(dataset):
    examples = (replace(example, difficult=np.ones(2, bool)) for example in dataset)
    return replace(dataset, examples=tuple(examples))


@pytest.mark.parametrize(
    ("spoiled", "options", "message"),
    [
        (without_objects, {}, "no annotated object to train on; check the annotations, or choose another"),
        (all_difficult, {}, "all 12 objects are difficult; set training.difficult_positives to true"),
        (lambda train: train[:1], {"head": "fc7"}, "1 images; fine-tuning takes 2 or more"),
        (
            lambda train: replace(train, examples=(train[0], *without_objects(train[1:]))),
            {"head": "softmax"},
            "has an object; take more images, or another finetuning.seed",
        ),
    ],
    ids=["no object", "all difficult", "one image", "no object held out"],
)
def test_a_set_that_cannot_be_trained_on_shows_before_the_work(
    pipeline, run, told, tiny_train, spoiled, options, message
):
    with pytest.raises(InputError, match=message):
        replace(pipeline, run=replace(run, **options)).train(spoiled(tiny_train))
    assert told["stages"] == []


@pytest.mark.parametrize(
    ("head", "change", "message"),
    [
        ("pool5", "features.levels = [60]", "training.memory_gb is 2.5: .* GB more"),
        ("fc6", "finetuning.width = 40000", "finetuning.width 40000 .* takes .* GB"),
        ("fc6", "finetuning.disk_gb = 1e-6", "finetuning.disk_gb is 1e-06, which leaves 0 regions"),
    ],
)
def test_too_little_memory_or_disk_shows_before_the_work(
    pipeline, run, told, tiny_train, head, change, message
):
    settings = changed(run.settings, changes=[change])
    with pytest.raises(InputError, match=message):
        replace(pipeline, run=replace(run, head=head, settings=settings)).train(tiny_train)
    assert told["stages"] == []


def test_a_folder_of_maps_that_cannot_be_written_shows_before_the_work(pipeline, run, told, tiny_train):
    run.maps.write_bytes(b"")
    with pytest.raises(InputError, match="maps: is a file; give a folder to write to"):
        pipeline.train(tiny_train)
    assert told["stages"] == []


def test_images_to_test_on_that_cannot_be_used_show_before_the_training(
    pipeline, told, tiny_train, tiny_test, tmp_path
):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    damaged = replace(tiny_test, examples=(*tiny_test[:2], replace(tiny_test[2], path=broken)))
    with pytest.raises(InputError, match=r"broken\.png"):
        pipeline.main_job(tiny_train, damaged)
    assert told["stages"] == ["proposals (train)", "proposals (test)"]


def test_images_of_both_sets_are_reported(pipeline, told, tiny_train):
    pipeline.train(tiny_train, tiny_train)
    assert any(sentence.startswith("warning: 6 of the 6 images") for sentence in told["sentences"])


def test_images_that_cannot_be_used_are_left_out_if_asked_for(pipeline, told, tiny_test, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    damaged = replace(tiny_test, examples=(*tiny_test[:2], replace(tiny_test[2], path=broken)))
    with pytest.raises(InputError, match=r"broken\.png"):
        pipeline.fill_proposals(damaged)
    rest = replace(pipeline, skip_errors=True).fill_proposals(damaged)
    assert [example.image_id for example in rest] == [example.image_id for example in tiny_test[:2]]
    assert any("1 images left out" in sentence for sentence in told["sentences"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "fc8"}, "head 'fc8': choose pool5, fc6, fc7 or softmax"),
        ({"fc_rank": 3}, "fc_rank 3: .* a head with fully connected layers"),
        ({"head": "fc7", "fc_rank": -1}, "fc_rank -1"),
    ],
)
def test_options_that_do_not_fit(run, options, message):
    with pytest.raises(InputError, match=message):
        replace(run, **options)
