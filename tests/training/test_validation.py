import io
import json
import signal
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omnivinci_hf.cli import main
from omnivinci_hf.training import OmniVinciDataCollator, validation
from omnivinci_hf.training.data import JsonlDataset
from omnivinci_hf.training.validation import Validation, validate_rows
from tests.support.training_data import load
from tests.support.world_scenes import write_plain_clip


ANSWER = {"role": "assistant", "content": "A dog."}


@pytest.fixture(scope="session")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    write_plain_clip(folder / "clip.mp4", duration=3)
    with wave.open(str(folder / "a.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(16000))
    (folder / "broken.mp4").write_bytes((folder / "clip.mp4").read_bytes()[:5000])
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def row(*parts, answer="A dog.", **columns):
    question = {"role": "user", "content": [*parts, {"type": "text", "text": "What?"}]}
    return {"messages": [question, {"role": "assistant", "content": answer}], **columns}


def write(path, *rows):
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return str(path)


def check(path, media_root=None, **options):
    counts = Validation()
    bad = [bad for bad in validate_rows(JsonlDataset(path, media_root), counts, **options) if bad is not None]
    return bad, counts


GOOD = (
    row({"type": "image", "path": "a.png"}, {"type": "image", "path": "a.png"}),
    row({"type": "video", "path": "clip.mp4", "start_sec": 1, "fps": 4}, {"type": "audio", "path": "a.wav"}),
    row({"type": "video", "path": "clip.mp4", "frame_times": [0, 2], "audio": "a.wav"}),
    row({"type": "video", "video": ["a.png", "a.png"], "video_metadata": {"fps": 2}}),
    row(),
)


def test_good_rows_are_counted_with_their_distinct_media(tmp_path, media):
    bad, counts = check(write(tmp_path / "rows.jsonl", *GOOD), media)
    assert bad == []
    assert str(counts) == "rows: 5, good: 5, bad: 0; distinct media: image: 1, video: 3, audio: 1"


BAD = {
    '{"messages": [\n': ["This is no JSON"],
    "[1]\n": ["A row must be an object with `messages`"],
    json.dumps(row({"type": "image", "path": "none.png"}, id="x")) + "\n": ["none.png' does not exist"],
    json.dumps(row({"type": "image", "path": "broken.png"})) + "\n": ["is of no known image format"],
    json.dumps(row({"type": "video", "path": "broken.mp4"})) + "\n": ["broken.mp4' cannot be decoded"],
    json.dumps(row({"type": "audio", "path": "a.png"})) + "\n": ["a.png"],
    json.dumps(row({"type": "video", "path": "clip.mp4", "start_sec": 9})) + "\n": ["9"],
    json.dumps(row({"type": "video", "path": "clip.mp4", "audio": "none.wav"})) + "\n": ["none.wav' does not exist"],
    json.dumps(row({"type": "audio", "path": "a.wav", "start_sec": "1"})) + "\n": [
        "`start_sec` must be a finite number or None, got '1'"
    ],
    json.dumps(row(answer=" \n")) + "\n": ["An assistant turn is empty"],
    json.dumps(row({"type": "text", "text": "<sound> and <image>"})) + "\n": [
        "a turn of role 'user' hold '<image>', which is removed",
        "a turn of role 'user' hold '<sound>'",
    ],
    json.dumps(row({"type": "image", "path": "none.png"}, {"type": "pict"}, answer="<vila/video>")) + "\n": [
        "has the type 'pict'",
        "none.png' does not exist",
        "a turn of role 'assistant' hold '<vila/video>'",
    ],
}


def test_every_bad_row_is_told_with_its_line_and_all_reasons(tmp_path, media):
    lines = [line for text in BAD for line in (GOOD[0], "\n", text)]
    bad, counts = check(write(tmp_path / "rows.jsonl", *lines), media)
    assert [one.line for one in bad] == list(range(3, 3 * len(BAD) + 1, 3))
    assert [one.id for one in bad if one.id] == ["x"]
    for one, expected in zip(bad, BAD.values(), strict=True):
        assert len(one.problems) == len(expected)
        assert all(any(words in problem for problem in one.problems) for words in expected), one
    assert (counts.num_rows, counts.num_bad) == (2 * len(BAD), len(BAD))


def test_without_media_nothing_is_opened_but_all_are_counted(tmp_path):
    bad, counts = check(write(tmp_path / "rows.jsonl", *GOOD), read_media=False)
    assert bad == [] and counts.media == {"image": 1, "video": 3, "audio": 1}


def test_each_medium_is_read_once_and_its_fault_told_in_every_row(tmp_path, media, monkeypatch):
    read = []
    monkeypatch.setattr(validation, "_read", lambda part: read.append(part.source) or "is bad")
    bad, _ = check(write(tmp_path / "rows.jsonl", *[GOOD[0]] * 3))
    assert read == ["a.png"]
    assert [one.problems for one in bad] == [["is bad"]] * 3


def test_media_in_memory_are_read_too():
    class Rows(JsonlDataset):
        def __init__(self, *rows):
            self.rows, self.media_root, self._line_numbers = rows, None, [1, 2, 3, 4]

        def __len__(self):
            return len(self.rows)

        def raw(self, index):
            return self.rows[index]

    png = io.BytesIO()
    Image.new("RGB", (8, 8)).save(png, "PNG")
    counts = Validation()
    rows = Rows(
        row({"type": "image"}, images=[{"bytes": png.getvalue(), "path": None}]),
        row({"type": "image", "image": png.getvalue()}, {"type": "image", "image": np.full((2, 2), 0.5)}),
        row(
            {"type": "audio", "audio": [0.0] * 8, "sampling_rate": 8000},
            {"type": "image", "image": np.full((2, 2), 5.0)},
        ),
        row({"type": "image", "base64": "AAAA"}),
    )
    first, second, third, fourth = validate_rows(rows, counts)
    assert (first, second) == (None, None)
    assert third.problems == ["A float image must be in [0, 1], got 5.0 to 5.0; scale it or give uint8."]
    assert "is of no known image format" in fourth.problems[0]
    assert counts.media == {"image": 4, "audio": 1}


# -- what training takes ----------------------------------------------------------------------------------------------


def message(**changes):
    return {**row(), **changes}


HALF = "\ud83d"  # of a smiling face
# rows that one of the two once took and the other did not, or that ended in a traceback
DOUBTFUL = [
    row(),
    row({"type": "image", "path": "a.png"}),
    row({"type": "video", "path": "clip.mp4", "num_frames": 2}),
    row({"type": "video", "path": "clip.mp4", "num_frames": -1}),
    row({"type": "video", "path": "clip.mp4", "num_frames": 2.5}),
    row({"type": "video", "path": "clip.mp4", "fps": 0}),
    row({"type": "video", "path": "clip.mp4", "frame_times": "early"}),
    row({"type": "video", "path": "clip.mp4", "video_metadata": 5}),
    row({"type": "audio", "path": "a.wav", "sampling_rate": "high"}),
    row({"type": "audio", "path": "a.wav", "start_sec": 99}),
    row({"type": ["image"], "path": "a.png"}),
    row({"type": "image", "path": 5}),
    row({"type": "text", "text": 5}),
    row(answer=HALF),
    row(answer=["A dog."]),
    row({"type": "text", "text": f"a{HALF}"}),
    row({"type": "image", "path": f"{HALF}.png"}),
    row(id=HALF),
    row(answer=""),
    row(answer="a <sound>"),
    row(answer="dog " * 2000),  # beyond the context
    message(messages={"role": "user"}),
    message(messages=[{"role": ["user"], "content": "What?"}, ANSWER]),
    message(messages=[{"role": "user", "content": {"text": "What?"}}, ANSWER]),
    message(videos="clip.mp4"),
    message(messages=5),
]


def test_training_skips_what_is_called_bad_and_nothing_else(tmp_path, media):
    model, processor = load()
    context = model.config.text_config.max_position_embeddings
    path = write(tmp_path / "rows.jsonl", *DOUBTFUL)
    collator = OmniVinciDataCollator(processor, context_length=context, on_error="skip")
    validated = [bad is None for bad in validate_rows(JsonlDataset(path, media), Validation(), collator=collator)]
    assert [number for number, is_good in enumerate(validated) if is_good] == [0, 1, 2]
    before = 0
    for number, one in enumerate(JsonlDataset(path, media, on_bad_row="return")):
        collator([one])
        assert (collator.num_skipped == before) == validated[number], DOUBTFUL[number]
        before = collator.num_skipped


def test_the_command_knows_the_context_of_a_model(tmp_path, media, capsys):
    _, processor = load()
    model, _ = load()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    path = write(tmp_path / "rows.jsonl", row(), row(answer="dog " * 2000))
    assert main(["validate", path]) == 0
    with pytest.raises(SystemExit):
        main(["validate", path, "--model", str(tmp_path / "model")])
    shown = capsys.readouterr()
    assert f"{path}:2: The sequence has" in shown.out and "--num-frames" in shown.out
    assert main(["validate", path, "--model", str(tmp_path / "model"), "--max-length", "60"]) == 0
    assert main(["validate", path, "--max-length", "60"]) == 2
    assert "need --model" in capsys.readouterr().err


# -- the command -----------------------------------------------------------------------------------------------------


def test_good_data_end_with_code_0_and_the_counts(tmp_path, media, capsys):
    assert main(["validate", write(tmp_path / "rows.jsonl", *GOOD), "--media-root", str(media)]) == 0
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("rows: 5, good: 5, bad: 0;")


def test_bad_data_end_with_code_1_and_one_line_per_problem(tmp_path, media, capsys):
    path = write(tmp_path / "rows.jsonl", GOOD[0], *BAD)
    with pytest.raises(SystemExit) as ended:
        main(["validate", path, "--media-root", str(media)])
    shown = capsys.readouterr()
    assert ended.value.code == 1
    assert shown.out.count("\n") == sum(map(len, BAD.values()))
    assert shown.out.startswith(f"{path}:2: This is no JSON") and f"\n{path}:4 (x): image" in shown.out
    assert "bad: 12" in shown.err


def test_json_gives_one_object_per_bad_row(tmp_path, capsys):
    path = write(tmp_path / "rows.jsonl", GOOD[0], row({"type": "image", "path": "none.png"}, id="x"), row(answer=""))
    with pytest.raises(SystemExit):
        main(["validate", path, "--json", "--no-media"])
    (bad_row,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert bad_row == {
        "line": 3,
        "id": None,
        "problems": ["An assistant turn is empty; write the answer, or leave the row out."],
    }


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["none.jsonl"], "none.jsonl does not exist"),
        (["empty.jsonl"], "has no rows"),
        (["rows.jsonl", "--media-root", "no"], "no is not a"),
    ],
)
def test_data_that_cannot_be_read_end_with_code_2(tmp_path, monkeypatch, capsys, argv, words):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "empty.jsonl")
    write(tmp_path / "rows.jsonl", row())
    assert main(["validate", *argv]) == 2
    shown = capsys.readouterr().err
    assert words in shown and shown.count("\n") == 1


def test_missing_package_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert main(["validate", "owner/data"]) == 2
    assert "pip install datasets" in capsys.readouterr().err


def test_interrupt_tells_how_far_it_came(tmp_path):
    line = json.dumps(row(answer="")) + "\n"
    path = tmp_path / "rows.jsonl"
    path.write_text(line * 500_000)
    command = [sys.executable, "-m", "omnivinci_hf", "validate", str(path)]
    source = str(Path(validation.__file__).parents[2])
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={"PYTHONPATH": source, "PATH": ""}
    )
    assert "An assistant turn is empty" in running.stdout.readline()
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert "stopped; until then rows: " in errors and "Traceback" not in errors
