"""Names that options choose from are those of the library."""

from typing import get_args

from sppnet.cli import choices
from sppnet.data.convert import Layout
from sppnet.detection.backbones.build import CHAINS
from sppnet.detection.classification.image_features import ImageLayer, View
from sppnet.detection.classification.pretraining_settings import PRETRAINING_PRESETS
from sppnet.detection.classification.view_testing import Source
from sppnet.detection.classification.views import ViewName
from sppnet.detection.experiments.combine import ScoreComparison
from sppnet.detection.experiments.proposal_evaluation import ENGINES
from sppnet.detection.training.presets import PRESETS


def test_names_are_the_librarys():
    assert tuple(PRESETS) == choices.PRESETS
    assert tuple(PRETRAINING_PRESETS) == choices.PRETRAINING_PRESETS
    assert tuple(CHAINS) == choices.CLASSIFIER_NETWORKS
    assert choices.PROPOSAL_ENGINES == ENGINES
    assert get_args(choices.ScoreComparison) == get_args(ScoreComparison)
    assert get_args(choices.TestViews) == get_args(ViewName)
    assert get_args(choices.ViewSource) == get_args(Source)
    assert get_args(choices.VectorView) == get_args(View)
    assert get_args(choices.VectorLayer) == get_args(ImageLayer)
    assert get_args(choices.DatasetLayout) == get_args(Layout)
