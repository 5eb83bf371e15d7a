"""The network that fine-tuning trains: its initial weights, and the layers and head that it becomes."""

import numpy as np
import pytest
import torch

from sppnet.detection.fc_layers import FullyConnected
from sppnet.detection.heads import log_odds
from sppnet.detection.training.fc_network import FCNetwork
from sppnet.detection.training.finetuning_settings import FineTuningSettings


@pytest.fixture
def features():
    return np.random.default_rng(1).normal(0, 1, (7, 30)).astype(np.float32)


def test_fc7_stays_random_if_the_layers_have_fc6_only():
    weights, bias = torch.rand(8, 15), torch.rand(8)
    net = FCNetwork(15, 3, FineTuningSettings(width=8))
    before = net.fc7.weight.clone()
    net.start_from(FullyConnected(((weights,),), (bias,)))
    assert torch.equal(net.fc6.weight, weights)
    assert torch.equal(net.fc6.bias, bias)
    assert torch.equal(net.fc7.weight, before)
    assert before.std() > 0


@pytest.mark.parametrize("norm_factor", [1.0, 0.2])
def test_the_network_becomes_layers_and_head(features, norm_factor):
    settings = FineTuningSettings(width=9, dropout=0.5, input_dropout=0.5)
    net = FCNetwork(30, 3, settings).eval()
    net.mean += torch.linspace(-1, 2, 30)
    net.deviation += torch.linspace(0, 3, 30)
    with torch.no_grad():
        logits = net(torch.from_numpy(features * np.float32(norm_factor))).numpy()
    scores = net.head().score(net.layers(norm_factor)(features))
    np.testing.assert_allclose(scores, log_odds(logits), atol=1e-5)


def test_dropout_is_for_training_only(features):
    net = FCNetwork(30, 3, FineTuningSettings(width=50))
    vectors = torch.from_numpy(features)
    assert torch.equal(net.eval()(vectors), net(vectors))
    assert not torch.equal(net.train()(vectors), net(vectors))


@pytest.mark.parametrize(("kind", "deviation"), [("he", np.sqrt(2 / 400)), ("gaussian", 0.01)])
def test_initialisation(kind, deviation):
    net = FCNetwork(400, 3, FineTuningSettings(width=300, initialisation=kind))
    assert float(net.fc6.weight.detach().std()) == pytest.approx(deviation, rel=0.02)
    assert float(net.fc8.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
    assert not net.fc6.bias.any()
