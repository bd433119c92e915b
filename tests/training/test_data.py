import copy
import json
import pickle
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader

from omnivinci_hf.training.data import JsonlDataset, RowError, load_rows, normalize_row


ANSWER = {"role": "assistant", "content": "A dog."}
ROW = {"messages": [{"role": "user", "content": "What is it?"}, ANSWER]}


def user(*parts):
    return {"role": "user", "content": list(parts)}


def text(words="What is it?"):
    return {"type": "text", "text": words}


def row(*parts, **columns):
    return {"messages": [user(*parts), ANSWER], **columns}


def media_of(normalized, number=0):
    return [part for part in normalized["conversations"][number][0]["content"] if part["type"] != "text"]


def write_lines(path, *lines):
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


# -- the schema ------------------------------------------------------------------------------------------------------


def test_words_alone_stay_as_they_are():
    assert normalize_row(ROW) == {"id": None, "conversations": [ROW["messages"]]}
    assert normalize_row({**ROW, "id": 7})["id"] == "7"


def test_relative_paths_begin_at_the_media_root_and_others_stay(tmp_path):
    parts = [
        {"type": "video", "path": "clips/7.mp4", "start_sec": 5, "audio": "clips/7.wav"},
        {"type": "image", "url": "https://example.org/a.png"},
        {"type": "image", "image": "data:image/png;base64,AAAA"},
        {"type": "image", "base64": "AAAA"},
        {"type": "audio", "audio": str(tmp_path / "elsewhere.wav")},
        {"type": "video", "video": ["1.png", "2.png"], "video_metadata": {"fps": 2}},
    ]
    given = row(*parts)
    before = copy.deepcopy(given)
    video, url, data, encoded, audio, frames = media_of(normalize_row(given, tmp_path))
    clip, track = str(tmp_path / "clips/7.mp4"), str(tmp_path / "clips/7.wav")
    assert video == {"type": "video", "video": clip, "start_sec": 5, "audio": track}
    assert url == {"type": "image", "image": "https://example.org/a.png"} and (data, audio) == (parts[2], parts[4])
    assert encoded == {"type": "image", "image": "data:application/octet-stream;base64,AAAA"}
    assert frames["video"] == [str(tmp_path / "1.png"), str(tmp_path / "2.png")]
    assert given == before


def test_what_comes_out_may_be_given_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = row({"type": "image"}, {"type": "video", "path": "a.mp4"}, images=["b.png"], id="x")
    once = normalize_row(given, "media")
    assert media_of(once)[0]["image"] == str(tmp_path / "media" / "b.png")
    assert normalize_row(once, "media") == once


def test_entries_of_columns_fill_the_parts_without_a_medium_in_order():
    picture, samples = Image.new("RGB", (4, 4)), np.zeros(8, np.float32)
    parts = [{"type": "image"}, {"type": "audio"}, {"type": "image", "path": "own.png"}, {"type": "image"}]
    audio = {"array": samples, "sampling_rate": 16000, "path": None}
    given = row(*parts, text(), images=[picture, {"bytes": b"png", "path": "b.png"}], audios=[audio])
    first, heard, with_path, second = media_of(normalize_row(given))
    assert (
        first["image"] is picture and with_path == {"type": "image", "image": "own.png"} and second["image"] == b"png"
    )
    assert heard["audio"]["array"] is samples and heard["audio"].keys() == {"array", "sampling_rate"}


def test_stored_path_without_bytes_is_a_path(tmp_path):
    given = row({"type": "video"}, videos=[{"bytes": None, "path": "b.mp4"}])
    assert media_of(normalize_row(given, tmp_path))[0]["video"] == str(tmp_path / "b.mp4")


def test_keys_of_none_that_arrow_put_there_are_dropped():
    part = {"type": "image", "image": "a.png", "path": None, "text": None, "fps": None}
    words = {"type": "text", "text": "What?", "image": None}
    given = {"messages": [{**user(part, words), "name": None}, ANSWER], "conversations": None, "images": None}
    question, _ = normalize_row(given)["conversations"][0]
    assert question == user({"type": "image", "image": "a.png"}, text("What?"))


def test_urls_in_the_form_of_openai_are_understood():
    given = row({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}})
    assert media_of(normalize_row(given)) == [{"type": "image", "image": "data:image/png;base64,AAAA"}]


def test_prompt_and_completion_are_joined():
    given = {"prompt": [user({"type": "image"})], "completion": [ANSWER], "images": ["a.png"]}
    assert normalize_row(given) == normalize_row(row({"type": "image", "image": "a.png"}))


def test_conversations_share_what_they_begin_with_and_each_takes_the_columns_from_their_start():
    def ask(question, *words):
        return [user({"type": "image"}, *words, text(question)), ANSWER]

    given = {
        "conversations": [ask("What?"), ask("Where?"), ask(" now?", text("When"))],
        "images": [np.zeros((2, 2, 3))],
    }
    normalized = normalize_row(given)
    assert len(normalized["conversations"]) == 3
    assert all(media_of(normalized, number)[0]["image"] is given["images"][0] for number in range(3))


def conversations(*questions):
    return {"conversations": [[question, ANSWER] for question in questions]}


@pytest.mark.parametrize(
    "other",
    [
        user({"type": "image", "path": "b.png"}, text()),
        user(text("Look:"), {"type": "image", "path": "a.png"}),
        user({"type": "image", "path": "a.png"}, {"type": "image", "path": "a.png"}),
        user(text()),
        user({"type": "image", "image": np.zeros((2, 2, 3))}),
    ],
)
def test_conversations_that_begin_otherwise_are_refused(other):
    with pytest.raises(RowError, match=r"`conversations\[1\]` does not begin with the same media"):
        normalize_row(conversations(user({"type": "image", "path": "a.png"}, text()), other))


def test_equal_media_of_conversations_need_not_be_the_same_object():
    def frames():
        return user({"type": "video", "video": [np.zeros((2, 2, 3)), torch.ones(2)], "video_metadata": {"fps": 2}})

    assert len(normalize_row(conversations(frames(), frames()))["conversations"]) == 2


IMAGE = {"type": "image", "path": "a.png"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([ROW], "A row must be an object with `messages`, got a list"),
        ({"text": "hi"}, r"one of `messages`, `conversations`, .*this one has only \['text'\]"),
        ({**ROW, "prompt": [ANSWER]}, "this one has `messages` and `prompt`"),
        ({"prompt": "What?", "completion": "A dog."}, "must both be lists of messages, got 'What\\?' and 'A dog.'"),
        ({"prompt": [user(text())]}, "lists of messages, got a list and None"),
        ({"messages": []}, "`messages` must be a list of messages, got an empty list"),
        ({"messages": "hi"}, "`messages` must be a list of messages, got 'hi'"),
        ({"conversations": []}, "`conversations` must be a list of lists of messages, got an empty list"),
        ({"conversations": [[]]}, r"`conversations\[0\]` must be a list of messages, got an empty list"),
        ({"conversations": ROW["messages"]}, "put a single conversation under `messages`"),
        ({"messages": ["hi", ANSWER]}, r"`messages\[0\]` must be an object with `role` and `content`, got 'hi'"),
        ({"messages": [user(text())]}, "`messages` has no assistant turn"),
        ({"messages": [{"role": "human", "content": "hi"}, ANSWER]}, "has the role 'human'; known are system"),
        ({"messages": [{"role": "user"}, ANSWER]}, r"`messages\[0\].content` must be a string or a list of parts"),
        ({"messages": [{"role": "assistant", "content": [IMAGE]}]}, "is an assistant turn with media"),
        ({**ROW, "id": 1.5}, "`id` must be a string, got 1.5"),
        (row("hi"), r"`messages\[0\].content\[0\]` must be a dictionary such as"),
        (row({"type": "picture"}), "has the type 'picture'; known are text, image, video, audio, image_url"),
        (row({"path": "a.png"}), "has the type None; known are"),
        (row({"type": "text", "text": 5}), r"content\[0\]`: `text` must be a string, got 5"),
        (row({**IMAGE, "num_frame": 8}), r"of type 'image' has no option \['num_frame'\]; it has base64"),
        (row({"type": "video", "path": "a", "num_frame": 8}), r"\['num_frame'\] \(did you mean num_frames\?\)"),
        (row({**IMAGE, "url": "b.png"}), "holds several media, under path and url; leave one"),
        (row({"type": "image"}), "has no medium: put it under one of image, path, url, base64, or into the list"),
        (row({"type": "image"}, {"type": "image"}, images=["a"]), "`images` has 1 entries but .* has 2 image parts"),
        (row(IMAGE, images=["a", "b"]), "`images` has 2 entries but `messages` has 0 image parts"),
        (row({"type": "image"}, images="a.png"), "`images` must be a list with one entry per part, got 'a.png'"),
        (row({"type": "image"}, images=[None]), r"`images\[0\]` must be one image: .*, got None"),
        (row({"type": "image", "image": ["a", "b"]}), "must be one image: a path, bytes or an array, got a list"),
        (row({"type": "audio", "path": ""}), "must be one audio: a path, bytes or an array, got ''"),
        (row({"type": "video", "video": ["a.png", 5]}), "`video`, frame 1 must be one image: .* got 5"),
        (row({"type": "image", "image": {"array": 1}}), r'with \[\'array\'\] .*; it needs "bytes" or "path"\.'),
        (row({"type": "audio", "audio": {"array": [0]}}), 'needs "bytes" or "path", or "array" and "sampling_rate"'),
    ],
)  # fmt: skip
def test_wrong_rows_are_told(given, message):
    with pytest.raises(RowError, match=message):
        normalize_row(given)


def test_everything_that_is_wrong_is_told_at_once():
    given = {"id": [], "messages": [user({"type": "image"}, {"type": "text", "text": None}), {"role": "me"}]}
    with pytest.raises(RowError) as caught:
        normalize_row(given)
    words = ["has no medium", "`text` must be", "role 'me'", ".content` must be", "no assistant turn", "`id` must be"]
    assert len(caught.value.problems) == len(words)
    assert all(word in str(caught.value) for word in words)


def test_decoders_of_datasets_are_left_to_the_processor():
    decoder = object()
    assert media_of(normalize_row(row({"type": "audio"}, audios=[decoder])))[0]["audio"] is decoder


# -- JSON lines ------------------------------------------------------------------------------------------------------


@pytest.fixture
def lines(tmp_path):
    return write_lines(
        tmp_path / "rows.jsonl", {**ROW, "id": "ä"}, "\n", "  \n", '{"messages": [\n', row(IMAGE, id="b")
    )


def test_json_lines_are_read_by_number_without_the_blank_ones(lines):
    rows = JsonlDataset(lines, media_root="/media")
    assert len(rows) == 3
    assert [rows.line_number(index) for index in range(3)] == [1, 4, 5]
    assert rows[0]["id"] == "ä"
    assert media_of(rows[-1])[0]["image"] == "/media/a.png"
    with pytest.raises(IndexError):
        rows[3]


def test_contents_of_both_kinds_may_stand_in_one_file(tmp_path):
    rows = JsonlDataset(write_lines(tmp_path / "rows.jsonl", ROW, row(text())))
    assert [type(one["conversations"][0][0]["content"]) for one in rows] == [str, list]


def test_bad_lines_name_file_and_line(lines):
    with pytest.raises(RowError, match=r"rows.jsonl, line 4: This is no JSON \(Expecting value"):
        JsonlDataset(lines)[1]
    with pytest.raises(RowError, match="rows.jsonl, line 1: `messages` has no assistant turn"):
        JsonlDataset(write_lines(lines, {"messages": [user(text())]}))[0]


@pytest.mark.parametrize("line", [b'{"messages": "\xff"}', b"[" * 100_000], ids=["not UTF-8", "too deep"])
def test_lines_that_the_parser_stumbles_over_are_bad_rows_too(tmp_path, line):
    (tmp_path / "rows.jsonl").write_bytes(line)
    with pytest.raises(RowError, match="line 1: This is no JSON"):
        JsonlDataset(tmp_path / "rows.jsonl")[0]


def test_file_without_rows_is_an_error(tmp_path):
    with pytest.raises(RowError, match="rows.jsonl: It has no rows; write one JSON object per line"):
        JsonlDataset(write_lines(tmp_path / "rows.jsonl", "\n"))


def test_bad_rows_may_come_out_in_place_and_are_raised_when_they_are_used(lines):
    rows = JsonlDataset(lines, on_bad_row="return")
    with pytest.raises(RowError, match="line 4: This is no JSON"):
        normalize_row(rows[1])
    assert normalize_row(rows[0]) == rows[0]
    path = write_lines(lines.with_name("wrong.jsonl"), ROW, {"messages": []}, row({"type": "image", "path": "\ud800"}))
    for number, problem in ((2, "`messages` must be a list of"), (3, "`messages.0..content.0.` has the path")):
        with pytest.raises(RowError, match=f"wrong.jsonl, line {number}: {problem}"):
            normalize_row(JsonlDataset(path, on_bad_row="return")[number - 1])
    with pytest.raises(ValueError, match='`on_bad_row` must be "raise" or "return", got \'skip\''):
        JsonlDataset(lines, on_bad_row="skip")


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_read_the_same_rows(tmp_path, start):
    rows = JsonlDataset(write_lines(tmp_path / "rows.jsonl", *({**ROW, "id": str(number)} for number in range(8))))
    loader = DataLoader(rows, batch_size=None, num_workers=2, multiprocessing_context=start)
    assert [one["id"] for one in loader] == [str(number) for number in range(8)]


def test_memory_holds_places_and_not_rows(tmp_path):
    rows = JsonlDataset(write_lines(tmp_path / "rows.jsonl", *[row(text("word " * 1000))] * 50))
    assert len(pickle.dumps(rows)) < 50 * 16 + 1000
    assert pickle.loads(pickle.dumps(rows))[49] == rows[49]


def test_row_errors_survive_a_pickle():
    error = RowError("One.", "Two.", place="here")
    assert str(pickle.loads(pickle.dumps(error))) == "here: One. Two."


# -- datasets --------------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path):
    """Two good rows and one without answer, with pictures in a column, as a folder and as parquet."""
    datasets = pytest.importorskip("datasets")
    picture = Image.new("RGB", (4, 4), "red")
    messages = [*[row({"type": "image"}, text())["messages"]] * 2, [user({"type": "image"}, text())]]
    features = {
        "messages": datasets.List({"role": datasets.Value("string"), "content": datasets.List(
            {"type": datasets.Value("string"), "text": datasets.Value("string")})}),
        "images": datasets.List(datasets.Image()),
        "id": datasets.Value("string"),
    }  # fmt: skip
    for conversation in messages:
        conversation[1:] = [{"role": turn["role"], "content": [text("A dog.")]} for turn in conversation[1:]]
    columns = {"messages": messages, "images": [[picture]] * 3, "id": ["a", "b", "c"]}
    dataset = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    dataset.save_to_disk(tmp_path / "plain")
    datasets.DatasetDict({"train": dataset, "test": dataset.select([1])}).save_to_disk(tmp_path / "splits")
    dataset.to_parquet(tmp_path / "rows.parquet")
    return tmp_path


@pytest.mark.parametrize("name", ["plain", "splits", "rows.parquet"])
@pytest.mark.parametrize("streaming", [False, True])
def test_stored_rows_come_out_alike_with_undecoded_media(stored, name, streaming):
    rows = load_rows(stored / name, streaming=streaming, on_bad_row="return")
    first, second, bad = rows
    assert [first["id"], second["id"]] == ["a", "b"]
    question, answer = first["conversations"][0]
    assert question["content"][0].keys() == {"type", "image"}
    assert question["content"][0]["image"].startswith(b"\x89PNG")
    assert (question["content"][1], answer["content"]) == (text(), [text("A dog.")])
    with pytest.raises(RowError, match="no assistant turn"):
        normalize_row(bad)


def test_sounds_in_a_column_are_left_to_the_processor(tmp_path):
    datasets = pytest.importorskip("datasets")
    # stored by hand: encoding audio would need torchcodec
    file = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    columns = {"messages": datasets.Json(), "audios": datasets.List(file), "videos": datasets.List(file)}
    given = {
        "messages": [row({"type": "audio"}, {"type": "video"})["messages"]],
        "audios": [[{"bytes": b"RIFF", "path": None}]],
        "videos": [[{"bytes": b"ftyp", "path": None}]],
    }
    columns_of_media = {"audios": datasets.List(datasets.Audio()), "videos": datasets.List(datasets.Video())}
    dataset = datasets.Dataset.from_dict(given, features=datasets.Features(columns))
    dataset.cast(datasets.Features({**columns, **columns_of_media})).save_to_disk(tmp_path / "stored")
    audio, video = media_of(load_rows(tmp_path / "stored")[0])
    assert (audio["audio"], video["video"]) == (b"RIFF", b"ftyp")


def test_bad_stored_rows_name_their_place(stored):
    with pytest.raises(RowError, match="plain, row 3: `messages` has no assistant turn"):
        load_rows(stored / "plain")[2]
    with pytest.raises(RowError, match="A row of .*plain: `messages` has no assistant turn"):
        list(load_rows(stored / "plain", streaming=True))


def test_split_is_chosen_and_a_missing_one_told(stored):
    assert len(load_rows(stored / "splits", split="test")) == 1
    with pytest.raises(ValueError, match="has no split 'valid'; it has train, test"):
        load_rows(stored / "splits", split="valid")


def test_bytes_are_no_path_and_no_list_of_paths(tmp_path):
    with pytest.raises(TypeError, match="not.*bytes"):
        load_rows(bytes(write_lines(tmp_path / "rows.jsonl", ROW)))


def test_several_sources_are_joined(stored):
    lines = write_lines(stored / "rows.jsonl", ROW)
    rows = load_rows([lines, stored / "plain"])
    assert isinstance(rows, ConcatDataset) and len(rows) == 4 and rows[0]["id"] is None and rows[1]["id"] == "a"
    streams = load_rows([stored / "rows.parquet", stored / "plain"], streaming=True, on_bad_row="return")
    assert [one.get("id") for one in streams] == ["a", "b", None] * 2
    assert isinstance(load_rows([lines]), JsonlDataset)
    with pytest.raises(ValueError, match="JSON-lines files and streams cannot be joined"):
        load_rows([lines, stored / "plain"], streaming=True)
    with pytest.raises(ValueError, match="`data` is an empty list"):
        load_rows([])


def test_unknown_sources_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="rows.parquet does not exist; give a file, a folder or"):
        load_rows(tmp_path / "rows.parquet")
    with pytest.raises(FileNotFoundError):
        load_rows(tmp_path / "rows.jsonl")
    (tmp_path / "rows.csv").write_text("a,b\n")
    pytest.importorskip("datasets")
    with pytest.raises(ValueError, match="rows.csv is of no known kind; give JSON lines"):
        load_rows(tmp_path / "rows.csv")


def test_missing_package_is_named_with_its_remedy(stored, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="pip install datasets"):
        load_rows(stored / "plain")
