"""Cells that end together share a writing of their table."""

import threading
import time

import pytest

from losslab.files.locks import lock
from losslab.results.shared_writing import FILE, begun, writing


def test_those_who_wait_share_the_writing_of_the_first_of_them(tmp_path):
    turns: list[bool] = []

    def end() -> None:
        with writing(tmp_path, begun(tmp_path)) as mine:
            turns.append(mine)

    threads = [threading.Thread(target=end) for _ in range(5)]
    with lock(tmp_path, quiet=True):  # as a writing that began before they ended
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        assert turns == []
    for thread in threads:
        thread.join()
    assert sorted(turns) == [False] * 4 + [True] and begun(tmp_path) == 1


def test_a_writing_that_began_earlier_does_not_count(tmp_path):
    with writing(tmp_path) as mine:
        assert mine
        since = begun(tmp_path)  # the cell ends while this one is being written, which has not seen it
    with writing(tmp_path, since) as mine:
        assert mine
    with writing(tmp_path, since) as mine:
        assert not mine
    with writing(tmp_path) as mine:  # a person's command writes in any case
        assert mine


def test_a_writing_that_fails_is_made_up_for(tmp_path):
    since = begun(tmp_path)
    with pytest.raises(OSError, match="full"), writing(tmp_path):
        raise OSError("full")
    with writing(tmp_path, since) as mine:
        assert mine
    (tmp_path / FILE).write_text("{")
    with writing(tmp_path, begun(tmp_path)) as mine:
        assert mine and begun(tmp_path) == 1
