"""Files that appear once they are complete, whatever others write or have left."""

from __future__ import annotations

from resift.files.outputs import _partial_path, check_outputs, write_whole, writing_whole


def test_what_a_killed_process_has_left_is_in_no_ones_way(tmp_path):
    target = tmp_path / "out"
    partial = _partial_path(target)  # of a process of the same number, as in a container
    partial.write_bytes(b"half")
    check_outputs([target], [], overwrite=False, closed=lambda folder: None)
    write_whole(target, b"whole")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"out": b"whole", partial.name: b"half"}


def test_of_two_that_write_a_file_at_once_the_last_one_counts(tmp_path):
    target = tmp_path / "out"
    with writing_whole(target) as file:
        file.write(b"last")
        write_whole(target, b"first")
        assert target.read_bytes() == b"first"
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("out", b"last")]
