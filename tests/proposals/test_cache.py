"""The cache of proposals: hits, misses, damaged files, full disks."""

import runpy
import sqlite3
import sys
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks.proposal_cache import measure
from sppnet.common.errors import InputError
from sppnet.proposals import Key, ProposalCache

KEY = Key("000017", "0" * 64)
BOXES = np.array([[0, 0, 500, 375], [3, 4, 23, 30]], np.float32)


@dataclass(frozen=True)
class FixedEngine:
    """Proposes no boxes; only its parameters matter here."""

    value: int = 0

    def propose(self, image):
        return np.zeros((0, 4), np.float32)

    def parameters(self):
        return {"engine": "fixed", "value": self.value}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "proposals.sqlite"


@pytest.fixture
def cache(path):
    with ProposalCache(path, FixedEngine()) as opened:
        yield opened


def test_round_trip(cache):
    assert cache.get(KEY) is None
    cache.put([(KEY, BOXES)])
    boxes = cache.get(KEY)
    assert boxes.dtype == np.float32
    np.testing.assert_array_equal(boxes, BOXES)
    assert boxes.flags.writeable


def test_the_order_is_kept(cache):
    boxes = np.random.default_rng(0).permutation(np.arange(400).reshape(-1, 4)).astype(np.float32)
    cache.put([(KEY, boxes)])
    np.testing.assert_array_equal(cache.get(KEY), boxes)


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory):
    with ProposalCache(tmp_path_factory.mktemp("cache") / "any.sqlite", FixedEngine()) as opened:
        yield opened


@settings(max_examples=30, deadline=None)
@given(arrays(np.uint32, st.tuples(st.integers(0, 5), st.just(4)), elements=st.integers(0, 1 << 24)))
def test_round_trip_of_any_whole_boxes(shared_cache, boxes):
    shared_cache.put([(KEY, boxes.astype(np.float32))])
    np.testing.assert_array_equal(shared_cache.get(KEY), boxes)


@pytest.mark.parametrize(("largest", "size"), [(65_535, 8), (65_536, 16), (100_000, 16)])
def test_bytes_per_box(cache, path, largest, size):
    boxes = np.array([[0, 0, largest, 9]] * 3, np.float32)
    cache.put([(KEY, boxes)])
    np.testing.assert_array_equal(cache.get(KEY), boxes)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT length(boxes), count FROM proposals").fetchone() == (3 * size + 4, 3)


def test_an_image_without_boxes_is_an_entry_not_a_miss(cache):
    cache.put([(KEY, np.zeros((0, 4), np.float32))])
    assert cache.get(KEY).shape == (0, 4)
    assert cache.missing([KEY]) == []


@pytest.mark.parametrize("change", [{"image_digest": "1" * 64}, {"image_id": "000018"}], ids=["image", "id"])
def test_a_changed_image_is_a_miss(cache, change):
    cache.put([(KEY, BOXES)])
    changed = KEY._replace(**change)
    assert cache.get(changed) is None
    assert cache.missing([KEY, changed]) == [changed]


def test_a_changed_parameter_is_a_miss_and_the_old_entry_stays(cache, path):
    cache.put([(KEY, BOXES)])
    with ProposalCache(path, FixedEngine(1)) as changed:
        assert changed.get(KEY) is None
        assert changed.missing([KEY]) == [KEY]
        changed.put([(KEY, BOXES + 1)])
        np.testing.assert_array_equal(changed.get(KEY), BOXES + 1)
    np.testing.assert_array_equal(cache.get(KEY), BOXES)


def test_missing_keeps_the_order(cache):
    keys = [Key(name, "d") for name in "dbca"]
    cache.put([(keys[2], BOXES)])
    assert cache.missing(keys) == [keys[0], keys[1], keys[3]]


def test_put_replaces(cache):
    cache.put([(KEY, BOXES)])
    cache.put([(KEY, BOXES[:1])])
    np.testing.assert_array_equal(cache.get(KEY), BOXES[:1])


def test_the_parameters_can_be_read_in_the_file(cache, path):
    cache.put([(KEY, BOXES)])
    with closing(sqlite3.connect(path)) as db:
        rows = db.execute("SELECT digest, parameters FROM methods").fetchall()
    assert rows == [(cache.method, '{"engine":"fixed","value":0}')]


@pytest.mark.parametrize(
    "boxes",
    [
        np.array([[0.5, 0, 10, 10]], np.float32),
        np.array([[-1, 0, 10, 10]], np.float32),
        np.zeros((3, 5), np.float32),
        np.zeros(4, np.float32),
    ],
    ids=["fraction", "negative", "five_columns", "one_dimension"],
)
def test_boxes_that_cannot_be_stored(cache, boxes):
    with pytest.raises(InputError, match=KEY.image_id):
        cache.put([(Key("other", "d"), BOXES), (KEY, boxes)])
    assert cache.missing([Key("other", "d"), KEY]) == [Key("other", "d"), KEY]


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("bad", [np.nan, np.inf], ids=["nan", "inf"])
def test_boxes_that_are_not_finite(cache, bad):
    with pytest.raises(InputError, match=KEY.image_id):
        cache.put([(KEY, np.array([[0, 0, bad, 10]], np.float32))])


@pytest.mark.parametrize(
    "content", [b"not a database, but long enough to be one" * 50, b"\xff\xd8\xff" * 100]
)
def test_a_file_that_is_not_a_cache(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(InputError, match=path.name):
        ProposalCache(path, FixedEngine())
    assert path.read_bytes() == content


def test_a_database_of_another_program_is_left_alone(path):
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE proposals (accepted TEXT)")
        db.commit()
    before = path.read_bytes()
    with pytest.raises(InputError, match="not a proposal cache"):
        ProposalCache(path, FixedEngine())
    assert path.read_bytes() == before


def test_another_version_of_the_schema(path):
    ProposalCache(path, FixedEngine()).close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(InputError, match="version 1"):
        ProposalCache(path, FixedEngine())


def test_a_folder_in_the_way(tmp_path):
    with pytest.raises(InputError, match=tmp_path.name):
        ProposalCache(tmp_path, FixedEngine())


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(InputError, match=r"proposals\.sqlite"):
        ProposalCache(tmp_path / "cache" / "proposals.sqlite", FixedEngine())


def without_not_null(db):
    """Makes room for the NULLs that damage brings."""
    db.execute("PRAGMA writable_schema = ON")
    db.execute("UPDATE sqlite_master SET sql = replace(sql, ' NOT NULL', '')")
    db.execute("PRAGMA writable_schema = RESET")


DAMAGES = [
    "count = NULL",
    "boxes = NULL",
    "count = count + 1",
    "count = -1",
    "count = 'two'",
    "boxes = substr(boxes, 2)",
    "boxes = 'text'",
]


@pytest.mark.parametrize("change", DAMAGES)
def test_a_damaged_entry_is_named_and_made_again(cache, path, caplog, change):
    other = Key("000018", "d")
    cache.put([(KEY, BOXES), (other, BOXES)])
    with closing(sqlite3.connect(path)) as db:
        without_not_null(db)
        db.execute(f"UPDATE proposals SET {change}")
        db.commit()
    assert cache.get(KEY) is None
    # Deleted, so that `fill_cache` finds it missing.
    assert cache.missing([KEY, other]) == [KEY]
    assert cache.get(other) is None
    (message,) = caplog.messages
    assert f"entry of image {KEY.image_id} is damaged" in message
    assert cache.damaged == 2
    cache.put([(KEY, BOXES)])
    np.testing.assert_array_equal(cache.get(KEY), BOXES)


@pytest.mark.parametrize("count", ["NULL", "'two'", "x'00'", "0.5"])
def test_counts_are_whole_numbers(cache, path, count):
    other = Key("000018", "d")
    cache.put([(KEY, BOXES), (other, BOXES)])
    with closing(sqlite3.connect(path)) as db, db:
        without_not_null(db)
        db.execute(f"UPDATE proposals SET count = {count} WHERE image_id = ?", [KEY.image_id])
    assert cache.counts() == {other: 2}
    assert cache.missing([KEY, other]) == [KEY]


def test_boxes_of_another_image_are_not_taken(cache, path):
    """A damaged index leads to another row."""
    other = Key("000018", "d")
    cache.put([(KEY, BOXES), (other, BOXES[::-1])])
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE proposals SET boxes = (SELECT boxes FROM proposals ORDER BY image_id DESC)")
        db.commit()
    assert cache.get(KEY) is None
    np.testing.assert_array_equal(cache.get(other), BOXES[::-1])


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_entries_of_version_0_1_0_have_no_checksum_and_are_read(cache, path, dtype):
    empty = Key("000018", "d")
    cache.put([(KEY, BOXES), (empty, BOXES[:0])])
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE proposals SET boxes = ? WHERE count = 2", [BOXES.astype(dtype).tobytes()])
        db.execute("UPDATE proposals SET boxes = x'' WHERE count = 0")
        db.commit()
    np.testing.assert_array_equal(cache.get(KEY), BOXES)
    assert cache.get(empty).shape == (0, 4)
    assert cache.damaged == 0


KEYS = [Key(str(number), "d") for number in range(30)]


def boxes_of(number):
    return np.repeat(BOXES, 250, axis=0) + number


@pytest.fixture
def filled(path):
    """A cache of some pages, closed."""
    with ProposalCache(path, FixedEngine()) as cache:
        cache.put([(key, boxes_of(number)) for number, key in enumerate(KEYS)])
    return path


def read_all(path):
    """Returns the boxes of `KEYS`, made again where they are missing, and how many were missing."""
    missing = 0
    with ProposalCache(path, FixedEngine()) as cache:
        for number, key in enumerate(KEYS):
            boxes = cache.get(key)
            if boxes is None:
                missing += 1
                cache.put([(key, boxes_of(number))])
                boxes = cache.get(key)
            np.testing.assert_array_equal(boxes, boxes_of(number))
    return missing


def error_of(path):
    """Reads all and returns the error, if there is one."""
    try:
        read_all(path)
    except InputError as error:
        return str(error)
    return ""


def test_a_schema_that_is_no_text_is_named(filled):
    whole = filled.read_bytes()
    assert b"CREATE TABLE methods" in whole
    filled.write_bytes(whole.replace(b"CREATE TABLE methods", b"CREATE TABLE \xffethods"))
    assert "cannot be used as the proposal cache" in error_of(filled)


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes_give_no_other_boxes(filled, seed):
    whole = filled.read_bytes()
    rng = np.random.default_rng(seed)
    errors = 0
    for position in rng.integers(0, len(whole), 20):
        for file in filled.parent.iterdir():
            file.unlink()
        filled.write_bytes(
            whole[:position] + bytes([whole[position] ^ rng.integers(1, 256)]) + whole[position + 1 :]
        )
        message = error_of(filled)
        if message:
            # The header and the schema: there is no cache without them.
            assert str(filled) in message
            assert position < 4096
            errors += 1
        else:
            assert read_all(filled) == 0
    assert errors < 5


def test_what_can_be_read_of_a_file_with_damaged_pages_is_kept(filled, caplog):
    whole = filled.read_bytes()
    # The last page with beginnings of entries, by its type.
    page = max(start for start in range(4096, len(whole), 4096) if whole[start] == 13)
    damaged = whole[:page] + b"\xaa" * 4096 + whole[page + 4096 :]
    filled.write_bytes(damaged)
    missing = read_all(filled)
    # A page has the beginnings of eight entries.
    assert 0 < missing < 9
    rebuilt = [message for message in caplog.messages if "had damaged pages" in message]
    assert len(rebuilt) == 1
    assert f"{len(KEYS) - missing} proposals" in rebuilt[0]
    aside = filled.with_name("proposals.sqlite.damaged").read_bytes()
    assert aside[4096:] == damaged[4096:]
    assert read_all(filled) == 0
    assert not filled.with_name("proposals.sqlite.rebuilt").exists()


@pytest.mark.parametrize("action", ["present", "put"])
def test_damaged_pages_are_noticed_by_every_call(filled, caplog, action):
    content = filled.read_bytes()
    filled.write_bytes(content[:4096] + b"\xaa" * (len(content) - 4096))
    with ProposalCache(filled, FixedEngine()) as cache:
        if action == "present":
            assert cache.present() == set()
        else:
            cache.put([(KEY, BOXES)])
            np.testing.assert_array_equal(cache.get(KEY), BOXES)
    assert "0 proposals" in caplog.text


def test_a_damaged_file_that_others_use_is_named(filled):
    content = filled.read_bytes()
    filled.write_bytes(content[:4096] + b"\xaa" * (len(content) - 4096))
    before = filled.read_bytes()
    with closing(sqlite3.connect(filled)) as other, ProposalCache(filled, FixedEngine()) as cache:
        other.execute("SELECT count(*) FROM sqlite_master").fetchone()
        with pytest.raises(InputError, match=r"proposals\.sqlite: damaged, .*stop other programs"):
            cache.get(KEYS[0])
    assert filled.read_bytes() == before


def test_readable_while_another_connection_writes(cache, path):
    cache.put([(KEY, BOXES)])
    with ProposalCache(path, FixedEngine()) as reader, closing(sqlite3.connect(path)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM proposals")
        np.testing.assert_array_equal(reader.get(KEY), BOXES)
        writer.commit()
        assert reader.get(KEY) is None


def test_a_full_disk_keeps_the_boxes_stored_before(cache, path, full_disk):
    cache.put([(KEY, BOXES)])
    large = np.random.default_rng(0).integers(0, 500, (20_000, 4)).astype(np.float32)
    full_disk(max(file.stat().st_size for file in path.parent.iterdir()) + 10_000)
    with pytest.raises(InputError, match="free some space"):
        cache.put([(Key("small", "d"), BOXES), (Key("large", "d"), large)])
    full_disk(None)
    with ProposalCache(path, FixedEngine()) as again:
        np.testing.assert_array_equal(again.get(KEY), BOXES)
        # The failed call stored nothing.
        assert again.get(Key("small", "d")) is None
        again.put([(Key("large", "d"), large)])
        np.testing.assert_array_equal(again.get(Key("large", "d")), large)


def test_a_reader_never_waits_for_a_writer(cache, path):
    cache.put([(KEY, BOXES)])
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        writer.execute("UPDATE proposals SET count = 0")
        # A call that waited for the lock would fail after the cache's 60 seconds.
        with (
            ProposalCache(path, FixedEngine()) as reader,
            ProposalCache(path, FixedEngine(1)) as new_method,
        ):
            np.testing.assert_array_equal(reader.get(KEY), BOXES)
            assert reader.missing([KEY]) == []
            assert new_method.get(KEY) is None
            assert new_method.missing([KEY]) == [KEY]
            new_method.put([])
        writer.rollback()


def test_reading_stores_no_method(cache, path):
    cache.put([(KEY, BOXES)])
    with ProposalCache(path, FixedEngine(1)) as reader, closing(sqlite3.connect(path)) as db:
        assert reader.get(KEY) is None
        assert db.execute("SELECT digest FROM methods").fetchall() == [(cache.method,)]
        reader.put([(KEY, BOXES)])
        assert db.execute("SELECT count(*) FROM methods").fetchone() == (2,)


def test_only_entries_of_the_method_are_present(cache, path):
    cache.put([(KEY, BOXES)])
    with ProposalCache(path, FixedEngine(1)) as other_method:
        other_method.put([(Key("000018", "d"), BOXES)])
        assert other_method.present() == {("000018", "d")}
    assert cache.present() == {tuple(KEY)}


def test_the_benchmark_measures_at_each_power_of_ten(tmp_path):
    figures = list(measure(tmp_path, 1200, 3))
    assert [figure.images for figure in figures] == [1000, 1200]
    for figure in figures:
        assert figure.bytes > 8 * 3 * figure.images
        assert min(figure.write, figure.read, figure.read_cold, figure.resume, figure.resume_cold) > 0


# The module is imported above, and run again as `python -m` does.
@pytest.mark.filterwarnings("ignore:'benchmarks.proposal_cache' found in sys.modules")
def test_the_benchmark_leaves_no_files(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["proposal_cache", "--images", "60", "--folder", str(tmp_path)])
    runpy.run_module("benchmarks.proposal_cache", run_name="__main__")
    assert "2000 boxes per image" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
