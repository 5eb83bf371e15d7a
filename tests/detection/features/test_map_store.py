"""Feature maps on disk: a cache that may lose any map but must not return a wrong map."""

import errno
import os
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sppnet.detection.backbones import build_network
from sppnet.detection.features.extractor import SPPExtractor
from sppnet.detection.features.feature_map import FeatureMap
from sppnet.detection.features.settings import FeatureSettings

SETTINGS = FeatureSettings(scales=(64, 96))
GB = 10**9


@pytest.fixture(scope="module")
def network():
    return build_network("alexnet", "random")


@pytest.fixture
def extractor(network):
    return SPPExtractor(network, SETTINGS)


@pytest.fixture
def maps():
    rng = np.random.default_rng(0)
    return [
        FeatureMap(rng.normal(0, 10, (4, 5, 256)).astype(np.float32), (0.6, 0.59)),
        FeatureMap(rng.normal(0, 10, (6, 7, 256)).astype(np.float32), (1 / 3, 0.9)),
    ]


def find(store, digest):
    """Returns the stored maps; None if they would be computed."""
    try:
        return store.get(digest, _absent)
    except LookupError:
        return None


def _absent():
    raise LookupError


def save(store, digest, maps):
    return store.get(digest, lambda: maps)


def found_in(stores):
    """Returns for each store whether it has the map of ``digest``."""
    return [find(store, "digest") is not None for store in stores]


def size_of(maps):
    return sum(2 * level.values.size for level in maps)


def test_round_trip(extractor, maps, tmp_path):
    store = extractor.store(tmp_path, GB)
    assert find(store, "digest") is None
    save(store, "digest", maps)
    for stored, computed in zip(find(store, "digest"), maps, strict=True):
        assert stored.values.dtype == np.float32
        # float16 has 11 significant bits.
        np.testing.assert_allclose(stored.values, computed.values, rtol=2**-11, atol=1e-7)
        assert stored.factor == computed.factor
    assert find(store, "other") is None


def test_computed_and_stored_maps_are_the_same(extractor, maps, tmp_path):
    store = extractor.store(tmp_path, GB)
    computed, stored = save(store, "digest", maps), find(store, "digest")
    never = save(extractor.store(tmp_path / "none", 0), "digest", maps)
    for first, second, third in zip(computed, stored, never, strict=True):
        np.testing.assert_array_equal(first.values, second.values)
        np.testing.assert_array_equal(first.values, third.values)
        assert first.factor == second.factor == third.factor


def test_another_process_finds_them(extractor, maps, tmp_path):
    save(extractor.store(tmp_path, GB), "digest", maps)
    assert find(extractor.store(tmp_path, GB), "digest") is not None


@pytest.mark.parametrize(
    "settings",
    [
        FeatureSettings(scales=(64,)),
        FeatureSettings(scales=(64, 96), max_long_side=99),
        FeatureSettings(scales=(64, 96), bfloat16=True),
    ],
)
def test_maps_of_other_scales_or_precision_are_a_miss(network, extractor, maps, tmp_path, settings):
    save(extractor.store(tmp_path, GB), "digest", maps)
    assert find(SPPExtractor(network, settings).store(tmp_path, GB), "digest") is None


def test_other_ways_of_pooling_are_a_hit(network, extractor, maps, tmp_path):
    save(extractor.store(tmp_path, GB), "digest", maps)
    settings = FeatureSettings(scales=(64, 96), levels=(4, 1), projection="released")
    assert find(SPPExtractor(network, settings).store(tmp_path, GB), "digest") is not None


def test_other_weights_are_a_miss(extractor, maps, tmp_path):
    save(extractor.store(tmp_path, GB), "digest", maps)
    other = SPPExtractor(build_network("alexnet", "random", seed=1), SETTINGS)
    assert find(other.store(tmp_path, GB), "digest") is None


def test_the_bound_holds(extractor, maps, tmp_path):
    bound = int(2.5 * size_of(maps))
    store = extractor.store(tmp_path, bound)
    for number in range(5):
        save(store, str(number), maps)
    assert [find(store, str(number)) is not None for number in range(5)] == [True, True, False, False, False]


def test_the_bound_counts_all_networks_together(extractor, maps, tmp_path):
    bound = int(1.5 * size_of(maps))
    save(extractor.store(tmp_path, bound), "digest", maps)
    other = SPPExtractor(build_network("alexnet", "random", seed=1), SETTINGS).store(tmp_path, bound)
    save(other, "digest", maps)
    assert find(other, "digest") is None


def test_stores_that_are_open_at_once_keep_the_bound_together(network, maps, tmp_path):
    """Several stores write to one folder, as for the scales of a teacher, or in two processes."""
    bound = int(2.5 * size_of(maps))
    stores = [
        SPPExtractor(network, FeatureSettings((scale, 96))).store(tmp_path, bound) for scale in (65, 66, 67)
    ]
    for number in range(4):
        for store in stores:
            save(store, str(number), maps)
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors")) <= bound
    assert [find(store, "0") is not None for store in stores] == [True, True, False]


@pytest.fixture
def other_stores(network, tmp_path, maps):
    """Folders of stores, used three, two and half an hour ago, and a folder that no store made."""
    stores = []
    for scale, hours in ((65, 3), (66, 2), (67, 0.5)):
        store = SPPExtractor(network, FeatureSettings((scale, 96))).store(tmp_path, GB)
        save(store, "digest", maps)
        os.utime(store.folder, (time.time() - 3600 * hours,) * 2)
        stores.append(store)
    (tmp_path / "notes").mkdir()
    save_file({"note": np.zeros(1)}, tmp_path / "notes" / "note.safetensors")
    os.utime(tmp_path / "notes", (0, 0))
    return stores


@pytest.mark.parametrize(("room", "kept"), [(4.5, 3), (3.5, 2), (2.5, 1), (1.5, 1), (0.5, 3), (0, 3)])
def test_maps_unused_for_longest_make_room(other_stores, extractor, maps, tmp_path, room, kept):
    store = extractor.store(tmp_path, int(room * size_of(maps)))
    save(store, "digest", maps)
    assert found_in(other_stores) == [index >= 3 - kept for index in range(3)]
    assert (find(store, "digest") is not None) == (room >= 2)
    assert (tmp_path / "notes" / "note.safetensors").exists()


def test_use_keeps_maps(other_stores, extractor, maps, network, tmp_path):
    SPPExtractor(network, FeatureSettings((65, 96))).store(tmp_path, GB)
    save(extractor.store(tmp_path, int(3.5 * size_of(maps))), "digest", maps)
    assert found_in(other_stores) == [True, False, True]


def test_reading_is_use(other_stores, extractor, maps, tmp_path):
    assert find(other_stores[0], "digest") is not None
    save(extractor.store(tmp_path, int(3.5 * size_of(maps))), "digest", maps)
    assert found_in(other_stores) == [True, False, True]


def test_a_file_that_goes_while_it_is_counted_is_no_error(extractor, maps, tmp_path, monkeypatch):
    extractor.store(tmp_path, 10**9).get("a" * 64, lambda: maps)
    stat = Path.stat

    def gone(self, **options):
        if self.suffix == ".safetensors":
            raise FileNotFoundError(self)
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", gone)
    store = extractor.store(tmp_path, 10**9)
    save(store, "b" * 64, maps)
    assert find(store, "b" * 64) is not None


def test_no_room_at_all(extractor, maps, tmp_path):
    store = extractor.store(tmp_path / "maps", 0)
    save(store, "digest", maps)
    assert find(store, "digest") is None
    assert not (tmp_path / "maps").exists()


@pytest.mark.parametrize("damage", ["empty", "truncated", "text", "other_tensors", "other_scales"])
def test_a_damaged_file_is_a_miss(extractor, maps, tmp_path, damage):
    store = extractor.store(tmp_path, GB)
    save(store, "digest", maps)
    (file,) = tmp_path.glob("*/*.safetensors")
    content = file.read_bytes()
    if damage == "other_tensors":
        save_file({"x": np.zeros(3)}, file)
    elif damage == "other_scales":
        save_file({"map0": np.zeros((1, 1, 256), np.float16), "factors": np.ones((1, 2))}, file)
    else:
        file.write_bytes(
            {"empty": b"", "truncated": content[: len(content) // 2], "text": b"x" * 999}[damage]
        )
    assert find(store, "digest") is None
    save(store, "digest", maps)
    assert find(store, "digest") is not None


def test_a_flipped_byte_anywhere_is_a_miss_that_is_counted_and_made_again(extractor, maps, tmp_path, caplog):
    store = extractor.store(tmp_path, GB)
    expected = save(store, "digest", maps)
    (file,) = tmp_path.glob("*/*.safetensors")
    whole = file.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    positions = [*range(0, header, 3), *np.linspace(header, len(whole) - 1, 20).astype(int)]
    for number, position in enumerate(positions, 1):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        again = save(store, "digest", maps)
        # A blank of the header that became another character is no damage of the maps.
        assert store.damaged <= number
        for level, right in zip(again, expected, strict=True):
            np.testing.assert_array_equal(level.values, right.values)
            assert level.factor == right.factor
        if position >= header:
            assert file.read_bytes() == whole
    assert store.damaged > len(positions) - 10
    # The first one is named.
    (message,) = caplog.messages
    assert f"{file}: damaged" in message


def test_damaged_maps_make_room_for_their_successors_in_a_full_folder(extractor, maps, tmp_path):
    bound = int(1.5 * size_of(maps))
    save(extractor.store(tmp_path, bound), "digest", maps)
    store = extractor.store(tmp_path, bound)
    # Full from now on.
    save(store, "other", maps)
    (file,) = tmp_path.glob("*/*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    assert find(store, "digest") is None
    save(store, "digest", maps)
    assert find(store, "digest") is not None


def test_maps_of_version_0_1_0_without_checksum_are_made_again(extractor, maps, tmp_path, caplog):
    store = extractor.store(tmp_path, GB)
    save(store, "digest", maps)
    (file,) = tmp_path.glob("*/*.safetensors")
    arrays = load_file(file)
    del arrays["checksum"]
    save_file(arrays, file)
    assert find(store, "digest") is None
    assert (store.damaged, caplog.messages) == (0, [])
    save(store, "digest", maps)
    assert find(store, "digest") is not None


def test_maps_do_not_wait_for_the_disk(extractor, maps, tmp_path, monkeypatch):
    store = extractor.store(tmp_path, GB)
    save(store, "digest", maps)
    monkeypatch.setattr(os, "fsync", lambda file: pytest.fail("40 ms a map"))
    save(store, "other", maps)
    assert find(store, "other") is not None


@pytest.mark.filterwarnings("ignore:overflow")
def test_maps_beyond_float16_are_not_stored(extractor, maps, tmp_path):
    """Beyond 65,504 float16 is infinite; such maps are neither stored nor returned as infinity."""
    store = extractor.store(tmp_path, GB)
    maps[1].values[0, 0, 0] = 1e6
    returned = save(store, "digest", maps)
    assert np.isfinite(returned[1].values).all()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_no_error(extractor, maps, tmp_path):
    tmp_path.chmod(0o500)
    save(extractor.store(tmp_path / "maps", GB), "digest", maps)
    tmp_path.chmod(0o700)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EROFS])
def test_a_folder_that_is_read_only_is_no_error(extractor, maps, tmp_path, monkeypatch, number):
    save(extractor.store(tmp_path, GB), "digest", maps)

    def refuse(path):
        raise OSError(number, "refused")

    monkeypatch.setattr(os, "utime", refuse)
    stored = extractor.store(tmp_path, GB).get("digest", lambda: pytest.fail("computed anew"))
    np.testing.assert_array_equal(stored[0].values, maps[0].values.astype(np.float16).astype(np.float32))


def test_a_full_disk_is_no_error(extractor, maps, tmp_path, monkeypatch):
    def full(arrays, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sppnet.detection.features.map_store.save_file", full)
    store = extractor.store(tmp_path, GB)
    save(store, "digest", maps)
    assert find(store, "digest") is None
    assert not list(tmp_path.rglob("*.safetensors"))
