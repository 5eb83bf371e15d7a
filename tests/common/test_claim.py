"""A run's settings are written once and compared from then on."""

import pytest

from sppnet.common.claim import claim, is_torn
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


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"\0" * 300, OF_TODAY[:40].encode(), OF_TODAY[:40].encode() + b"\0" * 260]
)
def test_a_file_that_a_power_cut_left_empty_or_cut_is_written_again(file, caplog, content):
    file.write_bytes(content)
    assert is_torn(file, OF_TODAY)
    claim(file, OF_TODAY)
    assert file.read_text() == OF_TODAY
    (message,) = caplog.messages
    assert "settings.toml: empty or cut" in message
    claim(file, OF_TODAY)
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    "content",
    [
        # Cut, of other settings.
        OF_TODAY.replace("0.3", "0.4")[:100],
        # Of a version that had no features.
        OF_TODAY.partition("[features]")[0],
        "half of a",
    ],
)
def test_other_settings_are_not_taken_for_a_cut_file(file, content):
    file.write_text(content)
    assert not is_torn(file, OF_TODAY)
    with pytest.raises(InputError, match="give another RUN name, or delete the folder"):
        claim(file, OF_TODAY)
    assert file.read_text() == content


@pytest.mark.parametrize(
    "content", ["a = " + "[" * 5000 + "\n", "a = " + "1" * 5000 + "\n", "a." * 5000 + "a = 1\n"]
)
def test_settings_that_no_program_wrote(file, content):
    file.write_text(content)
    with pytest.raises(InputError, match="give another RUN name, or delete the folder"):
        claim(file, OF_TODAY)
