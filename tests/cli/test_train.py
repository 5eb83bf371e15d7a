"""The commands train and finetune."""

from command import QUICK, call, words

from sppnet.detection.detector import Detector


def test_the_data_set_as_an_argument(work, tiny_voc):
    result = call("train", tiny_voc, "--run", "tiny", "--jobs", 1, *QUICK)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1] == "written: runs/tiny/model"
    assert Detector.load(work / "runs" / "tiny" / "model").classes == ("bar", "square")
    again = call("train", "--dataset", tiny_voc, "--run", "tiny", "--jobs", 1, *QUICK)
    assert again.exit_code == 0
    assert "model: runs/tiny/model (trained before)" in again.output


def test_a_data_set_is_named_once(work, tiny_voc):
    result = call("train", tiny_voc, "--dataset", "sample", *QUICK)
    assert result.exit_code == 2
    assert "give the data set once" in words(result)


def test_layers_to_start_from_are_read_before_anything_is_computed(work, tiny_voc):
    change = "finetuning.weights = 'gone.safetensors'"
    result = call("finetune", "--dataset", tiny_voc, "--run", "tiny", *QUICK, "--set", change)
    assert result.exit_code == 2
    assert "gone.safetensors" in result.output
    assert "images computed" not in result.output
