"""The picture of an image's regions and windows."""

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from sppnet.cli.app import app
from sppnet.data.images import read_image
from sppnet.detection.experiments.proposal_drawing import region_labels
from sppnet.proposals.selective_search import SelectiveSearch


@pytest.mark.parametrize("count", [1, 2, 5, 17])
def test_regions_are_those_of_the_hierarchy(tiny_test, count):
    image = read_image(tiny_test[0].path)
    grouped = next(iter(SelectiveSearch().hierarchies(image)))
    merges = grouped.hierarchy.merges.tolist()
    segments = len(merges) + 1
    # Obvious: put every merged pair under its new number, one after the other.
    expected = grouped.labels.astype(np.int64)
    for step in range(segments - count):
        expected[np.isin(expected, merges[step])] = segments + step
    found = region_labels(grouped, count)
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(found)) == count


def test_the_command_draws_every_image(tmp_path, monkeypatch, tiny_voc):
    monkeypatch.chdir(tmp_path)
    given = ["proposals", "--dataset", str(tiny_voc), "--split", "test", "--jobs", "1", "--draw", "drawn"]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.output
    pictures = sorted((tmp_path / "drawn").iterdir())
    assert len(pictures) == 3
    for picture in pictures:
        drawn = cv2.imread(str(picture))
        assert drawn.shape[1] == 1200
        assert drawn.std() > 10
    result = CliRunner().invoke(app, [*given, "--set", "engine = 'opencv'"])
    assert result.exit_code == 2
    assert "our own" in result.output
    # Said before the images are searched.
    assert "proposals (" not in result.output
