"""The log of replies survives any end, and files of records appear when they are complete."""

import json
import threading

import pytest

from omnivinci_hf.engine.records import ReplyLog, read_records, write_records


@pytest.fixture
def log_file(tmp_path):
    log = ReplyLog(tmp_path / "replies.jsonl")
    for number in range(3):
        log.add(f"key {number}", {"text": f"ü {number}"})
    log.close()
    return tmp_path / "replies.jsonl"


def test_entries_are_found_again(log_file):
    log = ReplyLog(log_file)
    assert log.get("key 1") == {"key": "key 1", "text": "ü 1"}
    assert log.get("key 3") is None and "key 2" in log and "key 3" not in log
    log.add("key 3", {"text": "more"})
    assert [entry["key"] for entry in log.entries()] == [f"key {number}" for number in range(4)]


@pytest.mark.parametrize("cut", [1, 2, 10, 28])
def test_a_line_that_was_cut_off_is_removed_and_written_anew(log_file, cut):
    whole = log_file.read_bytes()
    log_file.write_bytes(whole[:-cut])
    log = ReplyLog(log_file)
    assert log.get("key 1") is not None and log.get("key 2") is None
    log.add("key 2", {"text": "ü 2"})
    log.close()
    assert log_file.read_bytes() == whole


def test_a_reader_mends_nothing(log_file):
    log_file.write_bytes(log_file.read_bytes()[:-3])
    before = log_file.read_bytes()
    log = ReplyLog(log_file, read_only=True)
    assert len(list(log.entries())) == 2 and log_file.read_bytes() == before


def test_a_damaged_line_within_is_told(log_file):
    lines = log_file.read_text().splitlines(keepends=True)
    log_file.write_text(lines[0] + "{oops\n" + lines[2])
    with pytest.raises(ValueError, match="line 2 is damaged; delete it"):
        ReplyLog(log_file)


def test_an_absent_log_is_empty_to_a_reader(tmp_path):
    log = ReplyLog(tmp_path / "none.jsonl", read_only=True)
    assert list(log.entries()) == [] and log.get("a") is None and not (tmp_path / "none.jsonl").exists()
    log.close()


def test_threads_write_whole_lines(tmp_path):
    log = ReplyLog(tmp_path / "replies.jsonl")

    def write(first):
        for number in range(first, first + 50):
            log.add(f"{number}", {"text": "x" * number})
            assert log.get(f"{number}")["text"] == "x" * number

    threads = [threading.Thread(target=write, args=(100 * index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "replies.jsonl").read_text().splitlines()]
    assert len(lines) == 200 and all(len(line["text"]) == int(line["key"]) for line in lines)


def test_files_that_rest_on_a_changed_one_are_deleted(tmp_path):
    first, later = tmp_path / "first.jsonl", tmp_path / "later.jsonl"
    assert not write_records(first, [{"a": 1}], [later])
    later.touch()
    assert not write_records(first, [{"a": 1}], [later]) and later.exists()
    assert write_records(first, [{"a": 2}], [later]) and not later.exists()
    assert list(read_records(first)) == [{"a": 2}]


def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path):
    def records():
        yield {"a": 2}
        raise RuntimeError

    write_records(tmp_path / "a.jsonl", [{"a": 1}])
    with pytest.raises(RuntimeError):
        write_records(tmp_path / "a.jsonl", records())
    assert list(read_records(tmp_path / "a.jsonl")) == [{"a": 1}]
