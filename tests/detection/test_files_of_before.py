"""Files from before settings, tensors and arrays got their present names can still be read."""

import hashlib
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open

from sppnet.common.errors import InputError
from sppnet.common.files import json_digest
from sppnet.detection.backbones import build_network, fit_feature_levels, network_from_config
from sppnet.detection.detection_settings import DetectionSettings
from sppnet.detection.detector import Detector
from sppnet.detection.features.extractor import SPPExtractor
from sppnet.detection.features.settings import FeatureSettings
from sppnet.detection.heads import SVMHead
from sppnet.detection.runs.detection_files import read_partial
from sppnet.detection.runs.run import Run
from sppnet.proposals import ProposalCache, SelectiveSearch
from sppnet.proposals.engine import method_digest
from sppnet.svm import BoxRegressors

# The settings of the fixture `tiny_settings` in the old form. These were renamed since then: taps,
# max_windows, negative_overlap, overlap_inclusive, duplicate_overlap, min_overlap, nms_overlap, norm_windows,
# tap_images, positive_overlap, negative_overlaps, windows_per_image.
SETTINGS = """\
images = "tiny train, 6 images"
images_digest = "digest"
boxes = ""
engine = "own"

[network]
name = "alexnet"
weights = "random"
taps = []
pca = 0
seed = 0

[proposals]
strategies = "fast"
sigma = 0.8
min_side = 20
max_pixels = 1000000
max_windows = 60
seed = 0

[opencv]
colour_spaces = ["hsv", "lab"]
ks = [50, 100]
sigma = 0.8
min_side = 20
max_side = 1000
max_windows = 2000
seed = 0

[features]
scales = [96]
max_long_side = 2500
scale_rule = "paper"
projection = "paper"
levels = [2, 1]
mode = "spp"
crop = 227
crop_padding = 16
bfloat16 = false

[mining]
negative_overlap = 0.3
overlap_inclusive = true
duplicate_overlap = 0.7
hard_threshold = -1.0001
easy_threshold = -1.2
retrain_after = 2000
initial_images = 1
interim_tolerance = 0.002

[mining.solver]
cost = 0.001
bias_multiplier = 10.0
positive_weight = 2.0
tolerance = 0.0005
max_sweeps = 1000
seed = 0

[regression]
min_overlap = 0.5
penalty = 4000.0
whitening = 0.001
max_samples = 5000
seed = 0

[detection]
nms_overlap = 0.3
max_per_class = 100
min_score = -1.5

[training]
difficult_positives = false
norm_images = 200
norm_windows = 200
tap_images = 100
regression = true
memory_gb = 4.0
seed = 0

[finetuning]
width = 4096
weights = ""
inputs = "scaled"
initialisation = "gaussian"
dropout = 0.5
input_dropout = 0.0
batch = 128
positive_fraction = 0.25
positive_overlap = 0.5
negative_overlaps = [0.1, 0.5]
windows_per_image = 64
draw_steps = 10000
disk_gb = 6.0
flip = true
random_scale = true
optimiser = "sgd"
rates = [0.0001, 1e-05]
steps = [250000, 50000]
decay = "steps"
momentum = 0.9
weight_decay = 0.0005
bias_rate = 2.0
validation = 0.1
validate_every = 2000
choose = "accuracy"
min_probability = 0.01
seed = 6
"""


@pytest.fixture
def run(tmp_path, tiny_settings):
    """A run with fine-tuned layers, whose settings may not change any more, and its old file."""
    (tmp_path / "run" / "model-softmax").mkdir(parents=True)
    (tmp_path / "run" / "settings.toml").write_text(SETTINGS)
    with ProposalCache(tmp_path / "proposals.sqlite", tiny_settings.proposals) as cache:
        yield Run(tmp_path / "run", tiny_settings, cache, tmp_path / "maps")


def test_a_run_of_before_is_claimed_by_its_settings(run):
    run.claim("tiny train, 6 images", "digest")
    assert (run.folder / "settings.toml").read_text() == SETTINGS


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("taps = []", "taps = [8, 16]"),
        ("max_windows = 60", "max_windows = 61"),
        ("max_windows = 2000", "max_windows = 1999"),
        ("negative_overlap = 0.3", "negative_overlap = 0.2"),
        ("overlap_inclusive = true", "overlap_inclusive = false"),
        ("duplicate_overlap = 0.7", "duplicate_overlap = 0.8"),
        ("min_overlap = 0.5", "min_overlap = 0.6"),
        ("nms_overlap = 0.3", "nms_overlap = 0.4"),
        ("norm_windows = 200", "norm_windows = 100"),
        ("tap_images = 100", "tap_images = 90"),
        ("positive_overlap = 0.5", "positive_overlap = 0.6"),
        ("negative_overlaps = [0.1, 0.5]", "negative_overlaps = [0.0, 0.5]"),
        ("windows_per_image = 64", "windows_per_image = 32"),
    ],
)
def test_a_run_of_before_with_another_value_is_refused(run, line, changed):
    assert SETTINGS.count(f"\n{line}\n") == 1
    (run.folder / "settings.toml").write_text(SETTINGS.replace(f"\n{line}\n", f"\n{changed}\n"))
    with pytest.raises(InputError, match="give another RUN name"):
        run.claim("tiny train, 6 images", "digest")


@pytest.fixture
def saved(tmp_path):
    """The folder of a detector whose description has the old names."""
    extractor = SPPExtractor(build_network("alexnet", "random"), FeatureSettings(scales=(96,), levels=(1,)))
    weights = np.zeros((1, 256), np.float32)
    deltas = np.zeros((1, 4, 256), np.float32)
    head = SVMHead(weights, np.zeros(1, np.float32), 0.5)
    regressors = BoxRegressors(deltas, np.zeros((1, 4), np.float32), 0.5)
    settings = DetectionSettings(nms_iou=0.45)
    engine = SelectiveSearch(max_proposals=60)
    Detector(("cat",), extractor, head, regressors, settings, engine).save(tmp_path / "model")
    file = tmp_path / "model" / "model.json"
    description = json.loads(file.read_text())
    description["detection"] = {"nms_overlap": 0.45, "max_per_class": 100, "min_score": -1.5}
    del description["digest"]
    description["digest"] = json_digest(description)
    file.write_text(json.dumps(description))
    return tmp_path / "model"


def test_a_model_of_before_is_loaded(saved):
    detector = Detector.load(saved)
    assert detector.settings == DetectionSettings(nms_iou=0.45)
    assert detector.engine.parameters() == SelectiveSearch(max_proposals=60).parameters()


def test_an_altered_model_of_before_is_refused(saved):
    file = saved / "model.json"
    text = file.read_text()
    assert text.count('"nms_overlap": 0.45') == 1
    file.write_text(text.replace('"nms_overlap": 0.45', '"nms_overlap": 0.4'))
    with pytest.raises(InputError, match=r"model\.json: altered"):
        Detector.load(saved)


def test_names_in_a_model_are_those_of_before(saved):
    description = json.loads((saved / "model.json").read_text())
    assert description.keys() == {
        "format", "classes", "network", "features", "scale", "detection", "proposals", "origin",
        "regression_scale", "model.safetensors", "digest",
    }  # fmt: skip
    assert description["proposals"]["max_windows"] == 60
    with safe_open(saved / "model.safetensors", "np") as file:
        names = set(file.keys())
    layers = {f"network.body.features.{index}" for index in (0, 3, 6, 8, 10)}
    layers = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    parts = {f"{part}.{kind}" for part in ("svm", "regression") for kind in ("weights", "bias")}
    assert names == layers | parts | {"network.taps.scales"}


@pytest.mark.parametrize("name", ["alexnet", "zf5", "efficientnet_lite0"])
def test_tensors_of_a_network_keep_their_names(name):
    network = build_network(name, "random", seed=1)
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    network.set_feature_levels(fit_feature_levels([network.level_maps(image)], 8))
    state = network.state_dict()
    assert {key.split(".")[0] for key in state} == {"body", "taps"}
    assert {key for key in state if key.startswith("taps.")} == {
        "taps.scales", "taps.pca_mean", "taps.pca_components",
    }  # fmt: skip
    # The way in which models are read.
    loaded = network_from_config(network.config(), state)
    assert torch.equal(loaded.feature_map(image), network.feature_map(image))
    # The way in which PyTorch's users load weights.
    other = build_network(name, "random", seed=2)
    other.set_feature_levels(fit_feature_levels([other.level_maps(image)], 8))
    assert not torch.equal(other.feature_map(image), network.feature_map(image))
    other.load_state_dict(state)
    assert torch.equal(other.feature_map(image), network.feature_map(image))


@pytest.mark.parametrize(
    ("name", "float32_maps", "bfloat16_maps"),
    [
        ("alexnet", "61cdec38baccdca1", "6e2b3a93767197fb"),
        ("zf5", "14d05ac3ac1abd44", "fa11a6a889f9b8d7"),
        ("efficientnet_lite0", "4e96f0c1367b06fa", "e5304121b3508681"),
    ],
)
def test_stored_maps_have_the_folder_names_of_before(tmp_path, name, float32_maps, bfloat16_maps):
    network = build_network(name, "random")
    with torch.no_grad():
        for tensor in network.state_dict().values():
            # Random numbers differ between processors in their last digits; these values are always exact.
            tensor.copy_((torch.arange(tensor.numel()) % 251 / 256).reshape(tensor.shape))
    settings = FeatureSettings(scales=(96,)), FeatureSettings(scales=(64, 96), bfloat16=True)
    stores = [SPPExtractor(network, part).store(tmp_path, 10**9) for part in settings]
    assert [store.folder.name for store in stores] == [float32_maps, bfloat16_maps]


def test_cached_proposals_have_the_digest_of_before(monkeypatch):
    """The digest is computed from these names and values; boxes depend on OpenCV's version, too."""
    parameters = {
        "engine": "selective-search",
        "revision": 1,
        "opencv": cv2.__version__,
        "strategies": "hsv/CTSF/50 hsv/TSF/50 hsv/CTSF/100 hsv/TSF/100 "
        "lab/CTSF/50 lab/TSF/50 lab/CTSF/100 lab/TSF/100",
        "sigma": 0.8,
        "min_side": 20,
        "max_pixels": 1000000,
        "max_windows": 2000,
        "seed": 0,
    }
    assert SelectiveSearch().parameters() == parameters
    text = json.dumps(parameters, sort_keys=True, separators=(",", ":"))
    assert method_digest(SelectiveSearch()) == hashlib.sha256(text.encode()).hexdigest()
    monkeypatch.setattr(cv2, "__version__", "5.0.0")
    assert method_digest(SelectiveSearch()) == (
        "795e89cd8488e4e2e4224b53b0702c3a92725d612085c10e8da49deed8545543"
    )
    assert method_digest(replace(SelectiveSearch(), max_proposals=60)) == (
        "3e5d19e73340066349e06010001d80fa51b547c90ca66c7432e81fec1c877e12"
    )


def test_detections_of_an_interrupted_run_of_before_are_read(tmp_path):
    arrays = {
        f"{kind}_{name}": np.full(shape, value)
        for kind, value in (("window", 1), ("refined", 2))
        for name, shape in (("boxes", (3, 4)), ("scores", 3), ("labels", 3))
    }
    np.savez(tmp_path / "partial.npz", **arrays)
    regressed, proposed = read_partial(tmp_path / "partial.npz")
    assert (regressed.boxes == 2).all()
    assert (proposed.boxes == 1).all()
