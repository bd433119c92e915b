"""Each benchmark is read from its owners' files, its media reach the processor as what they are, its score is known.

A stub says "B" to every question; of the three in each folder two have B as the right option.
"""

import csv
import io
import json
import sys

import pytest

from omnivinci_hf import OmniVinciProcessor
from omnivinci_hf.evaluation.run import AskOptions, evaluate, read_questions
from omnivinci_hf.evaluation.scoring import format_scores
from omnivinci_hf.evaluation.tasks import TASKS
from tests.support.benchmark_files import LAYOUTS, QUESTIONS, always_saying, write_json, write_parquet


ASK = AskOptions(max_new_tokens=1, processor_options={"num_frames": 2})
VIDEO, AUDIO, IMAGE = "pixel_values_videos", "input_features", "pixel_values"
# task -> modalities of the parts, and tensors that reach the model
MEDIA = {
    "dailyomni": (["video"], {VIDEO, AUDIO}),
    "worldsense": (["video"], {VIDEO, AUDIO}),
    "omnibench": (["image", "audio"], {IMAGE, AUDIO}),
    "mmau": (["audio"], {AUDIO}),
    "mmau-test": (["audio"], {AUDIO}),
    "mmar": (["audio"], {AUDIO}),
    "mvbench": (["video"], {VIDEO}),
    "videomme": (["video"], {VIDEO, AUDIO}),
}
# by the rules of the owners, of what "B" gets: the words of an option are asked for in MMAU and MMAR
OFFICIAL_RIGHT = {"mmau": 0, "mmar": 0, "mmau-test": 0}


@pytest.fixture
def reading(monkeypatch):
    """What the processor read: the modalities of the parts of each prompt, and the tensors of their media."""
    calls = []
    original = OmniVinciProcessor.apply_chat_template

    def spy(self, conversation, **options):
        result = original(self, conversation, **options)
        if options.get("tokenize"):
            parts = [part["type"] for part in conversation[-1]["content"] if part["type"] != "text"]
            calls.append((parts, {name for name in (VIDEO, AUDIO, IMAGE) if name in result}, conversation))
        return result

    monkeypatch.setattr(OmniVinciProcessor, "apply_chat_template", spy)
    return calls


@pytest.fixture
def asked(model, processor, tmp_path):
    """Evaluates a layout with the stub, and gives the scores and the folder with the results."""

    def run(layout, prepare=lambda data: None, ask=ASK):
        name, write = LAYOUTS[layout]
        data, output = tmp_path / "data", tmp_path / "output"
        data.mkdir(exist_ok=True)
        write(data)
        prepare(data)
        task = TASKS[name]
        with always_saying(model, processor.tokenizer, "B"):
            scores = evaluate(
                task,
                read_questions(task, data),
                model,
                processor,
                output,
                model_name="stub",
                ask=ask,
                note=lambda line: None,
            )
        return scores, output

    return run


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_right_media_are_read_and_the_score_is_known(layout, asked, reading):
    scores, output = asked(layout)
    name = LAYOUTS[layout][0]
    parts, tensors = MEDIA[name]
    assert all(call[:2] == (parts, tensors) for call in reading)
    num_missing = layout == "mvbench"
    assert scores["asked"] == 3 + num_missing and scores["failed"] == num_missing and scores["unread"] == 0
    assert scores["right"] == (0 if name == "mmau-test" else 2)
    if name != "mmau-test":
        assert scores["official_right"] == OFFICIAL_RIGHT.get(name, 2)
    assert (output / "scores.json").is_file() and list((output / "export").iterdir())


@pytest.mark.parametrize(
    ("layout", "num_encodings"), [("dailyomni", 2), ("videomme", 2), ("mmar", 2), ("omnibench", 3), ("mvbench", 3)]
)
def test_each_clip_is_encoded_once(layout, num_encodings, asked, reading):
    asked(layout)
    assert len(reading) == num_encodings


@pytest.mark.parametrize("name", TASKS)
def test_every_benchmark_has_a_folder_in_the_tests_and_settings_of_the_paper(name):
    assert name in MEDIA and name in {task for task, _ in LAYOUTS.values()}
    options = dict(TASKS[name].options)
    assert "video" not in MEDIA[name][0] or options["num_frames"] == 128
    assert options.get("load_audio_from_video", True) is (name != "mvbench")


@pytest.mark.parametrize("name", TASKS)
def test_an_empty_folder_is_told_what_is_expected_in_it(name, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no .* Expected is: "):
        read_questions(TASKS[name], tmp_path)


def test_a_folder_that_is_not_there_is_told_what_is_expected_in_it(tmp_path):
    with pytest.raises(NotADirectoryError, match="is not a folder. Expected is one with: qa.json"):
        read_questions(TASKS["dailyomni"], tmp_path / "nowhere")


def questions_of(layout, data):
    name, write = LAYOUTS[layout]
    write(data)
    return read_questions(TASKS[name], data)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_options_have_no_letters_of_their_own(layout, tmp_path):
    for question in questions_of(layout, tmp_path):
        expected = {words: options for _, words, options, _ in QUESTIONS}[question.question]
        assert tuple(option.rstrip(".") for option in question.options) == expected
        assert f"A. {question.options[0]}\nB. " in question.prompt(TASKS[LAYOUTS[layout][0]].prompt)


@pytest.mark.parametrize(
    ("layout", "groups"),
    [
        ("dailyomni", {"type": ["AV Event Alignment"], "duration": ["30s"], "category": ["Howto & Style"]}),
        (
            "worldsense",
            {
                "task type": ["Audio Recognition"],
                "task domain": ["Recognition"],
                "domain": ["Music"],
                "duration": ["<1min"],
                "audio class": ["Speech", "Music"],
            },
        ),
        ("omnibench parquet", {"task type": ["Action and Activity"], "audio type": ["speech"]}),
        (
            "mmau parquet",
            {
                "task": ["sound"],
                "difficulty": ["medium"],
                "category": ["Reasoning"],
                "sub category": ["Acoustic Source Inference"],
            },
        ),
        (
            "mmar",
            {
                "modality": ["speech"],
                "category": ["Semantic Layer"],
                "sub category": ["Speaker Analysis"],
                "language": ["en"],
            },
        ),
        ("mvbench", {"part": ["action_sequence"]}),
        (
            "videomme json",
            {
                "duration": ["short"],
                "domain": ["Knowledge"],
                "sub category": ["Humanity & History"],
                "task type": ["Counting Problem"],
            },
        ),
    ],
)
def test_scores_are_given_by_the_divisions_of_the_benchmark(layout, groups, tmp_path):
    assert dict(questions_of(layout, tmp_path)[0].groups) == groups


def test_the_parts_of_a_score_have_counts_and_shares(asked):
    scores, _ = asked("dailyomni")
    parts = scores["groups"]["type"]
    assert (parts["AV Event Alignment"]["right"], parts["AV Event Alignment"]["asked"]) == (2, 2)
    assert parts["Inference"]["share"] == 0.0 and parts["AV Event Alignment"]["share"] == 1.0
    assert scores["share"] == pytest.approx(2 / 3, abs=1e-6) and scores["share_of_a_guess"] == 0.25
    assert (scores["questions_in_the_data"], scores["questions_published"]) == (3, 1197)


# -- files that the owners' scorers take


def exported(output, name):
    return json.loads((output / "export" / name).read_text(encoding="utf-8"))


def test_dailyomni_is_written_with_its_rows(asked):
    rows = exported(asked("dailyomni")[1], "dailyomni.json")
    assert [row["model_answer"] for row in rows] == ["B", "B", "B"] and rows[0]["Question"] == QUESTIONS[0][1]


def test_worldsense_is_written_as_the_table_of_vlmevalkit(asked):
    text = (asked("worldsense")[1] / "export" / "WorldSense.tsv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text), delimiter="\t"))
    assert [(row["index"], row["answer"], row["prediction"]) for row in rows] == [
        ("0", "B", "B"),
        ("1", "B", "B"),
        ("2", "A", "B"),
    ]
    assert rows[0]["audio_class"] == "['Speech', 'Music']" and rows[0]["video"] == "one"


def test_omnibench_is_written_in_the_order_of_its_rows(asked):
    rows = exported(asked("omnibench parquet")[1], "omnibench.json")
    assert [(row["index"], row["question"], row["response"]) for row in rows] == [
        (number, question, "B") for number, (_, question, _, _) in enumerate(QUESTIONS)
    ]


def test_mmau_is_written_under_the_keys_of_its_scorer(asked):
    rows = exported(asked("mmau parquet")[1], "mmau-test-mini.json")
    assert [(row["model_prediction"], row["model_output"], row["answer"]) for row in rows] == [
        ("B", "B", "a bell"),
        ("B", "B", "a blue box"),
        ("B", "B", "a woman"),
    ]
    assert "context" not in rows[0] and rows[0]["difficulty"] == "medium"


def test_mmau_without_answers_is_written_and_not_scored(asked):
    scores, output = asked("mmau test")
    rows = exported(output, "mmau-test.json")
    assert [row["model_prediction"] for row in rows] == ["B", "B", "B"] and "answer" not in rows[0]
    assert scores["share"] is None and scores["official_share"] is None and scores["asked"] == 3
    assert "keep the right answers to themselves" in format_scores(scores, "MMAU")


def test_mmar_is_written_under_the_keys_of_its_scorer(asked):
    rows = exported(asked("mmar")[1], "MMAR.json")
    assert [row["answer_prediction"] for row in rows] == [row["model_prediction"] for row in rows] == ["B", "B", "B"]


def test_mvbench_is_written_as_its_notebook_does(asked):
    _, output = asked("mvbench")
    content = exported(output, "mvbench.json")
    assert content["acc_dict"] == {
        "Action Sequence": [1, 1],
        "Episodic Reasoning": [0, 1],
        "Fine-grained Pose": [0, 1],
        "Moving Count": [1, 1],
    }
    assert {"pred": "B", "gt": "(B) a bell"} in content["res_list"]
    assert exported(output, "upload_leaderboard.json")["Avg"] == 50.0


@pytest.mark.parametrize("layout", ["videomme", "videomme json"])
def test_videomme_is_written_nested(layout, asked):
    videos = exported(asked(layout)[1], "videomme.json")
    assert [(video["video_id"], len(video["questions"])) for video in videos] == [("001", 2), ("002", 1)]
    assert videos[0]["duration_category"] == "short" and videos[0]["video_subcategory"] == "Humanity & History"
    assert videos[1]["questions"][0]["response"] == "B" and videos[1]["questions"][0]["answer"] == "A"
    assert not videos[0]["missing"]


# -- what is not as it should be


def test_a_video_of_mvbench_that_is_not_distributed_is_listed_and_counted(asked):
    scores, output = asked("mvbench")
    name = "nturgbd_convert/S001C001P001R001A040_rgb.avi"
    assert scores["media_missing"] == [name] and scores["media_failed"] == []
    assert scores["groups"]["part"]["fine_grained_pose"]["failed"] == 1
    lines = [json.loads(line) for line in (output / "answers.jsonl").read_text().splitlines()]
    (line,) = [line for line in lines if line["error_kind"] == "missing"]
    assert line["answer"] is None and name in line["error"]


def test_the_range_that_is_asked_about_is_taken(asked, reading):
    asked("mvbench")
    parts = [conversation[-1]["content"][0] for _, _, conversation in reading]
    (cut,) = [part for part in parts if "start_sec" in part]
    assert (cut["start_sec"], cut["end_sec"]) == (0.5, 1.5)
    (frames,) = [part for part in parts if isinstance(part["video"], list)]
    assert [path[-9:] for path in frames["video"]] == ["00003.jpg", "00004.jpg", "00005.jpg", "00006.jpg"]


def test_videos_that_are_cut_already_are_not_cut_again(tmp_path):
    media = [question.media[0] for question in questions_of("mvbench cut", tmp_path)]
    assert {medium.name for medium in media} == {
        "star/Charades_segment/one_0.5_1.5.mp4",
        "ssv2_video_mp4/two.mp4",
        "tvqa/video_fps3_hq_segment/three.mp4",
    }
    assert not any(medium.options for medium in media)


def test_the_bytes_in_parquet_files_are_read_when_they_are_asked_for(tmp_path):
    questions = questions_of("omnibench parquet", tmp_path)
    assert [medium.part()[medium.modality][:4] for medium in questions[2].media] == [b"\x89PNG", b"RIFF"]


def test_empty_bytes_in_a_parquet_file_are_named(tmp_path):
    rows = [{"index": 0, "image": {"bytes": None, "path": "x"}, "audio": {"bytes": None, "path": "y"}}]
    facts = {"task type": "a", "audio type": "b", "question": "q", "answer": "x", "options": ["x", "y"]}
    rows[0].update(facts, audio_path="y", image_path="x")
    write_parquet(tmp_path / "data/train-0.parquet", rows)
    (question,) = read_questions(TASKS["omnibench"], tmp_path)
    with pytest.raises(ValueError, match="column 'image' has no bytes in row 0"):
        question.media[0].part()


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    LAYOUTS["videomme"][1](tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match="needs the package pyarrow: pip install pyarrow"):
        read_questions(TASKS["videomme"], tmp_path)


def test_a_broken_parquet_file_is_named(tmp_path):
    (tmp_path / "test-0.parquet").write_bytes(b"PAR")
    with pytest.raises(ValueError, match="test-0.parquet is no valid parquet file"):
        read_questions(TASKS["videomme"], tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[{", "is no valid JSON"),
        ("[1]", "does not hold a list of rows"),
        ('[{"Question": "q"}]', "row 0 has no 'Choice'; it has 'Question'"),
        (
            '[{"Question": "q", "Choice": ["A. x", "B. y"], "Answer": "C", "video_id": "v"}]',
            "'Answer' must be the letter of one of 2 options, got 'C'",
        ),
    ],
)
def test_a_file_that_is_not_as_expected_is_named(content, words, tmp_path):
    (tmp_path / "qa.json").write_text(content)
    with pytest.raises(ValueError, match=words):
        read_questions(TASKS["dailyomni"], tmp_path)


def test_videos_that_are_no_dictionary_are_refused(tmp_path):
    write_json(tmp_path / "worldsense_qa.json", [])
    with pytest.raises(ValueError, match="does not hold videos by their ids"):
        read_questions(TASKS["worldsense"], tmp_path)


def test_a_folder_without_a_part_of_mvbench_is_told_so(tmp_path):
    write_json(tmp_path / "json/other.json", [])
    with pytest.raises(FileNotFoundError, match=r"holds no part of MVBench, only other.json"):
        read_questions(TASKS["mvbench"], tmp_path)


def test_ids_that_occur_twice_are_refused(tmp_path):
    LAYOUTS["mmar"][1](tmp_path)
    rows = json.loads((tmp_path / "MMAR-meta.json").read_text())
    write_json(tmp_path / "MMAR-meta.json", [rows[0], rows[0]])
    with pytest.raises(ValueError, match="several questions have the same id"):
        read_questions(TASKS["mmar"], tmp_path)


def test_a_right_answer_that_is_none_of_the_options_is_counted(asked):
    def spoil(data):
        rows = json.loads((data / "MMAR-meta.json").read_text())
        rows[0]["answer"] = "a whistle"
        write_json(data / "MMAR-meta.json", rows)

    scores, _ = asked("mmar", spoil)
    assert (scores["without_a_right_option"], scores["right"], scores["asked"]) == (1, 1, 3)
