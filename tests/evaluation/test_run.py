"""A run asks each question once, survives any end, goes on under the same settings alone, and skips nothing."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from filelock import FileLock

from omnivinci_hf import Session
from omnivinci_hf.evaluation.answers import AnswerFile, open_answers
from omnivinci_hf.evaluation.run import HOPELESS, AskOptions, evaluate, read_questions, run_settings
from omnivinci_hf.evaluation.tasks import TASKS
from tests.support.benchmark_files import always_saying, dailyomni, write_json


TASK = TASKS["dailyomni"]
ASK = AskOptions(max_new_tokens=1, processor_options={"num_frames": 2})


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    data = tmp_path_factory.mktemp("dailyomni")
    dailyomni(data)
    return data


@pytest.fixture
def data(written, tmp_path):
    return shutil.copytree(written, tmp_path / "data")


@pytest.fixture
def run(model, processor, data, tmp_path):
    """Evaluates the folder with a stub that says B; notes are kept in `run.notes`."""

    def run_(output="output", ask=ASK, **options):
        with always_saying(model, processor.tokenizer, "B"):
            return evaluate(
                TASK,
                read_questions(TASK, data),
                model,
                processor,
                tmp_path / output,
                model_name="stub",
                ask=ask,
                note=run_.notes.append,
                **options,
            )

    run_.notes = []
    run_.folder = tmp_path / "output"
    return run_


def lines(folder):
    return (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()


def test_a_line_tells_all_about_a_question(run):
    run()
    assert json.loads(lines(run.folder)[0]) == {
        "id": "0",
        "media": ["Videos/one/one_video.mp4"],
        "question": "What is heard?",
        "options": ["a dog", "a bell", "a car", "rain"],
        "expected": "B",
        "answer": "B",
        "read": "B",
        "error": None,
        "error_kind": None,
    }


def test_the_settings_are_in_the_result(run):
    settings = run()["settings"]
    options = settings["options"]
    assert (options["num_frames"], options["load_audio_from_video"], options["max_audio_sec"]) == (2, True, 3600.0)
    assert settings["dtype"] == "float32" and settings["device"] == "cpu" and settings["model"] == "stub"
    assert settings["max_new_tokens"] == 1 and "{question}" in settings["prompt"]
    assert settings["versions"].keys() == {"omnivinci_hf", "python", "transformers", "torch", "av"}
    assert json.loads((run.folder / "settings.json").read_text()) == settings


def test_nothing_is_asked_again(run, monkeypatch):
    first = run()
    before = lines(run.folder)
    monkeypatch.setattr(Session, "ask", lambda *args, **options: pytest.fail("asked again"))
    assert run() == first and lines(run.folder) == before


def test_a_line_that_was_cut_off_is_asked_again(run, caplog):
    run()
    whole = (run.folder / "answers.jsonl").read_bytes()
    (run.folder / "answers.jsonl").write_bytes(whole[:-20])
    scores = run()
    assert (run.folder / "answers.jsonl").read_bytes() == whole and scores["asked"] == 3
    assert any("2 questions have an answer" in note for note in run.notes)


@pytest.mark.parametrize("damage", [b"{}\n", b"[]\n", b"\xff\n"])
def test_a_damaged_line_within_the_file_is_an_error(damage, tmp_path):
    (tmp_path / "answers.jsonl").write_bytes(damage + b'{"id": "1"}\n')
    with pytest.raises(ValueError, match="line 1 is damaged; delete it"):
        AnswerFile(tmp_path / "answers.jsonl")


def test_a_later_run_with_a_higher_limit_goes_on(run):
    assert run(limit=1)["asked"] == 1
    (first,) = lines(run.folder)
    assert run(limit=2)["asked"] == 2 and run()["asked"] == 3
    assert lines(run.folder)[0] == first and len(lines(run.folder)) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_new_tokens": 2}, "max_new_tokens was 1 and is 2"),
        ({"prompt": "{question}"}, "prompt was .* and is '{question}'"),
        ({"system": "Look."}, "system was None and is 'Look.'"),
        (
            {"processor_options": {"num_frames": 3, "max_audio_sec": 5.0}},
            "options.num_frames was 2 and is 3; options.max_audio_sec was 3600.0 and is 5.0",
        ),
    ],
)
def test_a_run_does_not_go_on_under_other_settings(change, words, run):
    run(limit=1)
    # the order of the names is that of the options
    with pytest.raises(ValueError, match="made with other settings") as caught:
        run(ask=replace(ASK, **change))
    assert all(re.search(part, str(caught.value)) for part in words.split("; "))
    assert "another `output`" in str(caught.value) and len(lines(run.folder)) == 1


def test_a_run_does_not_go_on_with_other_weights_or_questions(run, model, data):
    run(limit=1)
    weight = model.model.language_model.norm.weight
    with torch.no_grad():
        weight[0] += 1
    try:
        with pytest.raises(ValueError, match="settings: weights was"):
            run()
    finally:
        with torch.no_grad():
            weight[0] -= 1
    rows = json.loads((data / "qa.json").read_text())
    rows[0]["Question"] = "What?"
    write_json(data / "qa.json", rows)
    with pytest.raises(ValueError, match="settings: data was"):
        run()


def test_answers_without_settings_are_refused(run):
    run(limit=1)
    (run.folder / "settings.json").unlink()
    with pytest.raises(ValueError, match="answers without settings.json"):
        run()


def test_two_processes_do_not_write_to_one_folder(run, tmp_path):
    (tmp_path / "output").mkdir()
    with FileLock(tmp_path / "output" / ".lock"), pytest.raises(ValueError, match="Another process writes to"):
        with open_answers(tmp_path / "output", {}):
            pass


def test_a_prompt_needs_a_place_for_the_question():
    with pytest.raises(ValueError, match="`prompt` must have the place {question}"):
        AskOptions(prompt="What?")


def test_a_choice_of_frames_takes_the_place_of_the_number_of_frames(model, processor):
    ask = AskOptions(processor_options={"fps": 1.0})
    settings = run_settings(TASK, [], model, processor, "stub", ask)
    assert settings["options"]["fps"] == 1.0 and settings["options"]["num_frames"] is None
    ask = AskOptions(processor_options={"frame_times": [0.5, 1.0]})
    settings = run_settings(TASK, [], model, processor, "stub", ask)
    assert settings["options"]["frame_times"] == [0.5, 1.0]


def test_the_words_of_a_question_do_not_pass_for_places(data):
    rows = json.loads((data / "qa.json").read_text())
    rows[0]["Question"] = "What is {options} {question}?"
    write_json(data / "qa.json", rows)
    question = read_questions(TASK, data)[0]
    assert question.prompt("{options}\n{question}") == (
        "A. a dog\nB. a bell\nC. a car\nD. rain\nWhat is {options} {question}?"
    )


# -- media that fail


def test_a_medium_that_cannot_be_read_is_counted(run, data):
    (data / "Videos/one/one_video.mp4").write_bytes(b"no video")
    scores = run()
    assert (scores["asked"], scores["failed"], scores["right"]) == (3, 2, 0)
    assert scores["media_failed"] == ["Videos/one/one_video.mp4"] and scores["media_missing"] == []
    assert scores["official_counted"] == 1
    entries = [json.loads(line) for line in lines(run.folder)]
    assert [entry["error_kind"] for entry in entries] == ["failed", "failed", None]
    assert "one_video.mp4" in entries[0]["error"]


def test_a_medium_that_is_not_there_is_told_and_counted(run, data):
    (data / "Videos/one/one_video.mp4").unlink()
    scores = run()
    assert (scores["asked"], scores["failed"]) == (3, 2)
    assert scores["media_missing"] == ["Videos/one/one_video.mp4"]
    (note,) = run.notes
    assert note.startswith("1 media are missing, for 2 questions, which count as failed: Videos/one/one_video.mp4")


def test_a_folder_without_any_medium_is_an_error(run, data):
    shutil.rmtree(data / "Videos")
    with pytest.raises(FileNotFoundError, match="None of the media is there, Videos/one/one_video.mp4 to begin with"):
        run()
    assert not lines(run.folder)


def test_settings_under_which_everything_fails_end_the_run_and_can_be_mended(run):
    with pytest.raises(ValueError, match="The first 2 clips that are there failed.*nothing was written.*context"):
        run(ask=replace(ASK, max_new_tokens=10**6))
    assert not lines(run.folder)
    assert run()["right"] == 2


def test_a_run_without_hope_ends_after_a_few_clips(run, data, monkeypatch):
    rows = json.loads((data / "qa.json").read_text())
    many = []
    for number in range(2 * HOPELESS):
        (data / f"Videos/{number}").mkdir()
        (data / f"Videos/{number}/{number}_video.mp4").write_bytes(b"no video")
        many.append({**rows[0], "video_id": str(number)})
    write_json(data / "qa.json", many)
    with pytest.raises(ValueError, match=f"The first {HOPELESS} clips that are there failed"):
        run()


def test_a_clip_for_which_the_device_is_too_small_is_counted(run, monkeypatch):
    original = Session.ask

    def ask(self, question, **options):
        if "What is heard?" in question:
            raise torch.OutOfMemoryError("no room")
        return original(self, question, **options)

    monkeypatch.setattr(Session, "ask", ask)
    scores = run()
    assert (scores["asked"], scores["failed"], scores["right"]) == (3, 1, 1)
    assert json.loads(lines(run.folder)[0])["error"] == "no room"
