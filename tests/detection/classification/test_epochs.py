"""The speed of an epoch, and the file of its history."""

import json
from pathlib import Path

import numpy as np
import pytest

from sppnet.data.image_folder import ImageFolder
from sppnet.detection.classification.epochs import Epoch, Pace, write_history


def test_images_per_second_and_waiting():
    now = 0.0

    def read():
        nonlocal now
        for seconds in (3, 1, 4):
            now += seconds
            yield seconds

    pace = Pace(lambda: now)
    batches = pace.waited_for(read())
    for _ in range(2):
        next(batches)
        now += 2
        pace.images += 10
    # Eight seconds have passed; four of them were spent waiting.
    assert pace.figures() == (20 / 8, 4 / 8)
    pace.start()
    next(batches)
    now += 1
    pace.images += 10
    assert pace.figures() == (10 / 5, 4 / 5)
    assert list(batches) == []


def test_the_history_holds_all_epochs_even_with_infinite_losses(tmp_path):
    folder = ImageFolder(tmp_path, ("a", "b"), (Path("a/1.png"), Path("b/1.png")), np.array([0, 1]))
    epochs = [
        Epoch(number, 32, 0.01, 0.5, float("inf"), 0.5, 1.0, skipped=0, images_per_second=3.0, waiting=0.1)
        for number in (1, 2)
    ]
    write_history(tmp_path / "history.json", folder, epochs)
    written = json.loads((tmp_path / "history.json").read_text())
    assert (written["images"], written["classes"]) == (2, ["a", "b"])
    assert [epoch["number"] for epoch in written["epochs"]] == [1, 2]
    assert written["epochs"][0]["val_loss"] == pytest.approx(float("inf"))
