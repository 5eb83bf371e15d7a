"""The commands data sample and data download; data crops is tested beside pretrain."""

from pathlib import Path

from command import call

from sppnet.data import VOC2007_URL, load_voc


def test_the_sample(work, monkeypatch):
    monkeypatch.setattr("sppnet.data.sample.SIZES", {"train": 2, "test": 1})
    result = call("data", "sample", "here")
    assert result.exit_code == 0
    assert result.output == "written: here\n"
    assert len(load_voc(work / "here", "train")) == 2
    (work / "other").mkdir()
    (work / "other" / "mine.txt").write_text("")
    result = call("data", "sample", "other")
    assert result.exit_code == 2
    assert (work / "other" / "mine.txt").exists()


def test_download_of_something_else(work):
    result = call("data", "download", "voc2011")
    assert result.exit_code == 2
    assert "voc2007" in result.output


def test_the_download_goes_where_it_is_told(work, monkeypatch):
    calls = []

    def download(root, base_url, *, progress):
        calls.append((root, base_url))
        progress("VOCtest.tar", 5, 5)
        return root / "VOC2007"

    monkeypatch.setattr("sppnet.data.download_voc2007", download)
    result = call("data", "download", "voc2007", "--voc-root", "devkit")
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1] == "written: devkit/VOC2007"
    assert call("data", "download", "voc2007", "--base-url", "file:///mirror").exit_code == 0
    assert calls == [(Path("devkit"), VOC2007_URL), (Path("datasets/VOCdevkit"), "file:///mirror")]
