"""A data set, a detector and a classifier that cost a fraction of a second."""

from command import call
from torch import nn
from toy_network import toy_layers

from sppnet.detection.backbones.build import CHAINS
from sppnet.detection.backbones.normalisation import IMAGENET
from sppnet.detection.classification.classifier import Classifier, ClassifierSettings

# Trains in a second: the toy network at one small scale, few proposals, few steps of fine-tuning.
# Mining sets up its least memory, which has fewer rows the longer a vector is; hence the large pyramid.
QUICK = (
    "--backbone", "toy", "--weights", "random", "--preset", "paper-1scale",
    "--set", "features.scales = [64]", "--set", "features.levels = [6, 3, 2, 1]",
    "--set", "proposals.max_proposals = 60", "--set", "training.memory_gb = 2.5",
    "--set", "finetuning = {optimiser = 'adamw', width = 8, rates = [0.003], steps = [8], decay = 'cosine',"
    " batch = 16, proposals_per_image = 16, draw_steps = 8, validate_every = 4, validation = 0.2}",
)  # fmt: skip


def register():
    """Makes the toy network known by its name in this process and in its forks."""
    CHAINS["toy"] = (toy_layers, IMAGENET)


def shared(folder):
    """What all readers share. Each reader has a folder beside it, with the folders of its inputs."""
    common = folder.parent.parent / "shared"
    common.mkdir(exist_ok=True)
    return common


def train_detector(data):
    """Trains the run ``runs/toy`` in the working folder, and detects."""
    result = call("detect", "--dataset", data, "--run", "toy", "--jobs", 1, *QUICK)
    assert result.exit_code == 0, result.output


def make_classifier(seed=0):
    classifier = Classifier(
        ("ant", "bee", "cat"), ClassifierSettings("toy", (2, 1), size=32, width=8, seed=seed)
    )
    nn.init.normal_(classifier.fc8.weight)
    return classifier.eval()
