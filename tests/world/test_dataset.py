import json

import numpy as np
import pytest

from omnivinci_hf.world import FAMILIES, sample_scene
from omnivinci_hf.world.dataset import SPLITS, ClipCache, array_part, rows, seed_questions, split_seeds, write_dataset
from tests.support.world_scenes import example


def test_splits_share_no_seed():
    assert list(split_seeds("test", 3, start=2)) == list(SPLITS["test"][2:5])
    ranges = sorted((seeds.start, seeds.stop) for seeds in SPLITS.values())
    assert all(stop <= start for (_, stop), (start, _) in zip(ranges, ranges[1:], strict=False))


def test_the_questions_of_a_seed_are_always_the_same():
    scene = sample_scene(5)
    assert seed_questions(5, scene, lists=True) == seed_questions(5, scene, lists=True)
    assert {question.family for question in seed_questions(5, scene)} == set(FAMILIES)


def test_rows_in_memory_are_chats():
    found = list(rows([3, 4], lists=True))
    assert len({row["id"] for row in found}) == len(found)
    assert {row["seed"] for row in found} == {3, 4} and {row["family"] for row in found} == {*FAMILIES, "list"}
    user, assistant = found[0]["messages"]
    video, text = user["content"]
    question = seed_questions(3, sample_scene(3))[0]
    assert (user["role"], assistant["role"]) == ("user", "assistant")
    assert text == {"type": "text", "text": question.question}
    assert assistant["content"] == [{"type": "text", "text": question.answer}]
    assert video["type"] == "video" and video["video"].ndim == 4


def test_the_arrays_of_a_clip():
    part = array_part(example())
    assert part["video"].shape == (24, 96, 128, 3) and part["video_metadata"] == {"fps": 2}
    assert part["audio"].shape == (12 * 16000,) and part["sampling_rate"] == 16000
    reds = (np.abs(part["video"].astype(int) - (215, 35, 40)).max(axis=-1) < 20).any(axis=(1, 2))
    assert np.flatnonzero(reds).tolist() == [3, 4, 5, 6, 7, 8, 17, 18, 19, 20, 21, 22]  # circle, then star


def test_rows_of_files_need_no_more_disk_than_the_cache(tmp_path):
    cache = ClipCache(tmp_path / "clips", max_clips=2)
    for row in rows(range(4), cache):
        path = tmp_path / "clips" / f"{row['seed']}.mp4"
        assert row["messages"][0]["content"][0] == {"type": "video", "path": str(path)}
        assert path.exists() and len(list(path.parent.iterdir())) <= 2


def test_a_cached_clip_is_not_written_again(tmp_path):
    cache = ClipCache(tmp_path, max_clips=2)
    written = cache.path("a", example()).stat().st_mtime_ns
    cache.path("b", example())
    assert cache.path("a", example()).stat().st_mtime_ns == written
    cache.path("c", example())
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["a", "c"]  # b was asked for longest ago


def test_a_written_data_set_holds_all_of_its_clips(tmp_path):
    file = write_dataset(tmp_path, split_seeds("validation", 2), lists=True)
    found = [json.loads(line) for line in file.read_text().splitlines()]
    paths = {row["messages"][0]["content"][0]["path"] for row in found}
    assert paths == {f"clips/{seed}.mp4" for seed in split_seeds("validation", 2)}
    assert all((tmp_path / path).stat().st_size > 1000 for path in paths)


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="may be negative, got 3 and -1"):
        split_seeds("test", 3, start=-1)
    with pytest.raises(ValueError, match="Unknown split 'dev': there are train, validation, test"):
        split_seeds("dev", 1)
    with pytest.raises(ValueError, match="'test' has 100000000 seeds, not 100000001"):
        split_seeds("test", 1, start=10**8)
    with pytest.raises(ValueError, match="max_clips must be at least 1, got 0"):
        ClipCache(tmp_path, 0)


def test_the_processor_takes_rows_of_both_kinds(processor, tmp_path):
    memory, file = (next(rows([6], cache)) for cache in (None, ClipCache(tmp_path)))
    encoded = [
        processor.apply_chat_template(
            row["messages"], tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs={"fps": 2}
        )
        for row in (memory, file)
    ]
    assert encoded[0]["input_ids"].tolist() == encoded[1]["input_ids"].tolist()
    difference = encoded[0]["pixel_values_videos"] - encoded[1]["pixel_values_videos"]
    assert difference.abs().mean() < 0.1
