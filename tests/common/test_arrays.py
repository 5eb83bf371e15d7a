"""Files of arrays."""

import zipfile

import numpy as np
import pytest

from sppnet.common.arrays import read_arrays


def test_arrays_are_read(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(3), y=np.zeros((2, 0)))
    arrays = read_arrays(tmp_path / "a.npz")
    assert arrays["x"].tolist() == [0, 1, 2]
    assert arrays["y"].shape == (2, 0)


def test_a_member_without_content_is_damage(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(3))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("y.npy", b"")
    with pytest.raises(ValueError, match=r"a\.npz: y is no array"):
        read_arrays(tmp_path / "a.npz")
