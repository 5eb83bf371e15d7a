"""A run's settings are written once and compared from then on."""

import pytest

from sppnet.common.claim import claim
from sppnet.common.errors import InputError

OF_BEFORE = """images = "voc2007 train, 4 images"
images_digest = "ab"

[detection]
nms_overlap = 0.3
min_score = -1.5

[features]
scales = [
    480,
    688,
]
"""
OF_TODAY = OF_BEFORE.replace("nms_overlap", "nms_iou").replace("voc2007", "VOC2007")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "run" / "settings.toml"
    claim(path, OF_BEFORE)
    return path


def test_names_of_before_and_words_for_people_are_the_same_run(file):
    claim(file, OF_TODAY, for_people=("images",))
    assert file.read_text() == OF_BEFORE


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("688,", "700,", r"'features.scales = \[480, 688\]', not 'features.scales = \[480, 700\]'"),
        ("= -1.5", "= 0.5", "'detection.min_score = -1.5', not 'detection.min_score = 0.5'"),
        ("min_score = -1.5", "", "'detection.min_score = -1.5', not 'nothing'"),
        ("[features]", "[features]\nmode = 'rcnn'", "'nothing', not 'features.mode = \"rcnn\"'"),
        (
            '"ab"',
            '"cd"',
            "'images = \"voc2007 train, 4 images\"', not 'images = \"VOC2007 train, 4 images\"'",
        ),
    ],
)
def test_the_setting_that_differs_is_named_not_one_that_was_renamed(file, old, new, message):
    assert old in OF_TODAY
    with pytest.raises(InputError, match=message):
        claim(file, OF_TODAY.replace(old, new), for_people=("images",))


def test_text_that_is_no_toml_is_compared_line_by_line(file):
    json = '{\n "a": 1\n}\n'
    claim(file.with_name("settings.json"), json)
    claim(file.with_name("settings.json"), json)
    with pytest.raises(InputError, match=r"has ' \"a\": 1', not ' \"a\": 2'"):
        claim(file.with_name("settings.json"), json.replace("1", "2"))
    file.write_text("half of a")
    with pytest.raises(InputError, match="has 'half of a', not 'images = "):
        claim(file, OF_TODAY)
