import pytest

from VolumeSegmanticsLib.watch import WATCH_FILE, Watched, watch, watched_in


def test_the_slice_that_was_told_last_is_watched(tmp_path):
    assert watched_in(tmp_path) is None
    watch(tmp_path, Watched("z", 3))
    watch(tmp_path, Watched("x", 12))
    assert watched_in(tmp_path) == Watched("x", 12)
    assert [path.name for path in tmp_path.iterdir()] == [WATCH_FILE]


def test_a_folder_that_is_gone_is_no_matter(tmp_path):
    watch(tmp_path / "gone", Watched("z", 3))
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"axis": "zy", "index": 1}', '{"axis": "z", "index": null}', '"z"'])
def test_a_file_that_says_nothing_is_as_none(tmp_path, text):
    (tmp_path / WATCH_FILE).write_text(text)
    assert watched_in(tmp_path) is None
