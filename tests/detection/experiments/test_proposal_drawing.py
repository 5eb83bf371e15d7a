"""The picture of an image's regions and proposals."""

import cv2
import numpy as np
import pytest
from command import call

from sppnet.data.images import read_image
from sppnet.detection.experiments.proposal_drawing import draw_proposals, region_labels
from sppnet.proposals import SelectiveSearch


@pytest.fixture
def image(tiny_test):
    return read_image(tiny_test[0].path)


@pytest.mark.parametrize("count", [1, 2, 5, 17])
def test_regions_are_those_of_the_hierarchy(image, count):
    grouped = next(iter(SelectiveSearch().hierarchies(image)))
    merges = grouped.hierarchy.merges.tolist()
    segments = len(merges) + 1
    # The slow reference gives every merged pair its new number, one merge after the other.
    expected = grouped.labels.astype(np.int64)
    for step in range(segments - count):
        expected[np.isin(expected, merges[step])] = segments + step
    labels = region_labels(grouped, count)
    np.testing.assert_array_equal(labels, expected)
    assert len(np.unique(labels)) == count


def test_the_panels_name_their_content(image, tiny_test):
    grouped = next(iter(SelectiveSearch().hierarchies(image)))
    whole = np.array([[0, 0, 110, 80]], np.float32)
    boxes = np.concatenate([whole, tiny_test[0].boxes])
    figure = draw_proposals(image, grouped, boxes, tiny_test[0], tiny_test.classes)
    segments = len(grouped.hierarchy.merges) + 1
    titles = [panel.get_title() for panel in figure.axes]
    assert titles[0] == "1000: 110 x 80"
    assert titles[1].endswith(f": {segments} segments")
    # The image has fewer than 64 segments; a larger image would show them merged to 64 regions.
    assert [title.rpartition(": ")[2] for title in titles[2:4]] == ["16 regions", "4 regions"]
    assert titles[4] == "best of 3 proposals for each object"
    best = figure.axes[4]
    assert [text.get_text() for text in best.texts] == ["square 1.00, proposal 2", "bar 1.00, proposal 3"]
    # The ground truth and the best proposal of each of the two objects.
    assert len(best.patches) == 4


def test_the_command_draws_every_image(work, tiny_voc):
    given = ["proposals", "--dataset", tiny_voc, "--split", "test", "--jobs", 1, "--draw", "drawn"]
    result = call(*given, "--limit", 2)
    assert result.exit_code == 0, result.output
    pictures = sorted((work / "drawn").iterdir())
    assert len(pictures) == 2
    for picture in pictures:
        drawn = cv2.imread(str(picture))
        assert drawn.shape[1] == 1320
        assert drawn.std() > 10
    result = call(*given, "--set", "engine = 'opencv'")
    assert result.exit_code == 2
    assert "our own" in result.output
    # The error comes before the images are searched.
    assert "proposals (" not in result.output
