"""The commands of ``sppnet``: where each is, and its line in ``--help``. A test holds these true."""

from sppnet.cli.groups import LazyCommand

_MAIN, _PROPOSALS, _EXPERIMENTS = "Detection", "Proposals", "Experiments"
_CLASSIFICATION, _OTHERS = "Image classification", "Data and backbones"

COMMANDS = {
    "train": LazyCommand(
        "sppnet.cli.train:train", _MAIN, "Trains a detector; stopped at any moment, it goes on from there."
    ),
    "predict": LazyCommand(
        "sppnet.cli.predict:predict",
        _MAIN,
        "Detects objects in photos and videos with a trained detector; prints them, draws and writes files.",
    ),
    "detect": LazyCommand(
        "sppnet.cli.detect:detect",
        _MAIN,
        "The benchmark: proposals, training where there is no model yet, detection in a test set, mAP.",
    ),
    "eval": LazyCommand(
        "sppnet.cli.detect:evaluate",
        _MAIN,
        "Scores the detections of a run, or any folder of VOC detection files, against a split.",
    ),
    "finetune": LazyCommand(
        "sppnet.cli.train:finetune",
        _MAIN,
        "Fine-tunes fully connected layers on a run's network; below torchrun, in several processes.",
    ),
    "proposals": LazyCommand(
        "sppnet.cli.proposals:proposals",
        _PROPOSALS,
        "Fills the offline cache of proposals; stopped at any moment, it goes on from there.",
    ),
    "proposals-import": LazyCommand(
        "sppnet.cli.proposals:import_proposals",
        _PROPOSALS,
        "Puts boxes made elsewhere into the cache, under a name of their own.",
    ),
    "proposals-export": LazyCommand(
        "sppnet.cli.proposals:export_proposals", _PROPOSALS, "Writes the cached boxes of a split."
    ),
    "eval-proposals": LazyCommand(
        "sppnet.cli.proposals:evaluate_proposals",
        _PROPOSALS,
        "Evaluates proposals side by side: recall, average recall and MABO over the number of proposals.",
    ),
    "combine": LazyCommand(
        "sppnet.cli.compare:combine",
        _EXPERIMENTS,
        "Combines the detections of several runs: suppression over their union; its mAP beside theirs.",
    ),
    "compare": LazyCommand(
        "sppnet.cli.compare:compare",
        _EXPERIMENTS,
        "R-CNN beside SPP-net at one and five scales, same backbone and proposals: mAP, times of the stages.",
    ),
    "classify": LazyCommand(
        "sppnet.cli.classify:classify", _CLASSIFICATION, "Classifies images: the five best classes of each."
    ),
    "test-classifier": LazyCommand(
        "sppnet.cli.classify:evaluate_classifier",
        _CLASSIFICATION,
        "Tests classifiers on a labelled set: top-1 and top-5 errors, confusion.",
    ),
    "classify-svm": LazyCommand(
        "sppnet.cli.classify_svm:classify_svm",
        _CLASSIFICATION,
        "Image classification with linear SVMs on a detection data set: VOC's protocol, mAP.",
    ),
    "classify-svm-folder": LazyCommand(
        "sppnet.cli.classify_svm:classify_svm_folder",
        _CLASSIFICATION,
        "Image classification with linear SVMs on a folder of classes: Caltech101's protocol, accuracy.",
    ),
    "pretrain": LazyCommand(
        "sppnet.cli.pretrain:pretrain",
        _CLASSIFICATION,
        "Trains a classifier on a folder of images; stopped at any moment, it goes on from there.",
    ),
    "data": LazyCommand(
        "sppnet.cli.data:app",
        _OTHERS,
        "Data sets: checks, divides, converts, downloads VOC2007, writes the sample, cuts out objects.",
    ),
    "distill": LazyCommand(
        "sppnet.cli.distill:distill",
        _OTHERS,
        "Trains zf5's convolutions to reproduce the maps of stronger networks, from images alone.",
    ),
}
