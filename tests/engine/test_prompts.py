"""Prompts are templates that a user may edit; replies are read in the forms that models write."""

import json

import pytest

from omnivinci_hf.engine.prompts import (
    BadReply,
    Prompts,
    read_answer,
    read_caption,
    read_omni_caption,
    read_questions,
    read_yes_or_no,
)
from omnivinci_hf.engine.requests import split_trace


ENTRY = {"start": 1, "end": 2, "text": "A dog barks."}
CAPTION = [{"id": "v0", "text": "A dog runs."}, {"id": "a0", "text": "A dog barks."}]
CAPTION = [{**one, "start": 0.0, "end": 3.0, "source": "seen", "verdict": "kept", "from": []} for one in CAPTION]
JOINED = {**ENTRY, "source": "both", "verdict": "kept", "from": ["v0", "a0"]}


def test_a_folder_of_one_s_own_comes_first(tmp_path):
    (tmp_path / "vision.jinja").write_text("Look for {{ duration_sec }} s.", encoding="utf-8")
    own, package = Prompts(tmp_path), Prompts()
    assert own.render("vision", duration_sec=3) == "Look for 3 s."
    assert own.hash("vision") != package.hash("vision") and own.hash("audio") == package.hash("audio")


def test_wrong_templates_are_told(tmp_path):
    (tmp_path / "vision.jinja").write_text("{{ duration }}", encoding="utf-8")
    (tmp_path / "audio.jinja").write_text("{{ duration", encoding="utf-8")
    prompts = Prompts(tmp_path)
    with pytest.raises(ValueError, match="vision.jinja: 'duration' is undefined; its variables are duration_sec"):
        prompts.render("vision", duration_sec=3)
    with pytest.raises(ValueError, match="Prompt audio.jinja, line 1"):
        prompts.check("audio")
    with pytest.raises(ValueError, match="There is no prompt mine.jinja; the package has agree, answer"):
        prompts.check("mine")
    with pytest.raises(FileNotFoundError, match="no folder; `omnivinci-hf engine prompts"):
        Prompts(tmp_path / "none")


@pytest.mark.parametrize(
    ("reply", "text", "trace"),
    [
        ("<think>Hm.\nSo</think>\n\nyes", "yes", "Hm.\nSo"),
        ("Hm.</think>yes", "yes", "Hm."),
        (" yes ", "yes", ""),
        ("<think></think> yes", "yes", ""),
    ],
)
def test_a_block_of_thought_is_cut_off(reply, text, trace):
    assert split_trace(reply) == (text, trace)


@pytest.mark.parametrize("reply", ["[{}]", "```json\n[{}]\n```", "Here it is:\n```\n[{}]\n```\nDone."])
def test_captions_are_json(reply):
    (sentence,) = read_caption(reply.replace("{}", json.dumps(ENTRY)), "a", "heard", 5.0)
    assert sentence == {"id": "a0", **ENTRY, "source": "heard", "verdict": "kept", "from": []}


def test_captions_may_be_plain_sentences():
    sentences = read_caption("- A dog barks! A man says 3.5.\nIt rains", "v", "seen", 5.0)
    assert [one["text"] for one in sentences] == ["A dog barks!", "A man says 3.5.", "It rains"]
    assert {(one["start"], one["end"]) for one in sentences} == {(0.0, 5.0)}


def test_nothing_may_be_heard():
    assert read_caption("[]", "a", "heard", 5.0) == []


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ("", "The reply is empty"),
        ("[{", "holds no JSON list"),
        ("[1]", "A sentence must be an object, got '1'"),
        ('[{"start": 1}]', "needs `text`"),
        ('[{"text": "a", "start": 4, "end": 2}]', "must be seconds from 0 to 5, got 4 and 2"),
        ('[{"text": "a", "start": 1, "end": 7}]', "must be seconds from 0 to 5"),
        ('[{"text": "a", "start": "1 s", "end": 2}]', "must be seconds from 0 to 5"),
    ],
)
def test_captions_in_no_form_are_refused(reply, message):
    with pytest.raises(BadReply, match=message):
        read_caption(reply, "v", "seen", 5.0)


def test_an_omni_caption_drops_what_it_does_not_mention():
    first, second = read_omni_caption(json.dumps([{**JOINED, "from": ["a0"]}]), CAPTION, 5.0)
    assert first["verdict"] == "kept" and first["id"] == "o0"
    assert second["verdict"] == "dropped" and second["from"] == ["v0"] and second["id"] == "o1"
    assert second["note"] == "not mentioned" and second["text"] == "A dog runs."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "smelt"}, "`source` must be one of seen, heard, both, got 'smelt'"),
        ({"verdict": "good"}, "`verdict` must be one of kept, corrected, dropped, contradicts"),
        ({"from": ["v9"]}, r"`from` must name ids of the captions, got \['v9'\]"),
        ({"from": []}, "`from` must name ids"),
        ({"from": "v0"}, r"needs `from` \(list\)"),
    ],
)
def test_omni_captions_in_no_form_are_refused(change, message):
    with pytest.raises(BadReply, match=message):
        read_omni_caption(json.dumps([{**JOINED, **change}]), CAPTION, 5.0)


def test_questions_are_read_up_to_a_number():
    entry = {"question": "Who?", "answer": "A dog.", "from": ["o0"]}
    (question,) = read_questions(json.dumps([entry, entry]), 1)
    assert question == {**entry, "reasoning": ""}
    with pytest.raises(BadReply, match="A question or an answer is empty"):
        read_questions(json.dumps([{**entry, "answer": " "}]), 1)
    with pytest.raises(BadReply, match="A question must be an object"):
        read_questions("[[]]", 1)
    with pytest.raises(BadReply, match="needs `answer`"):
        read_questions(json.dumps([{**entry, "answer": 4}]), 1)


def test_answers_and_agreement():
    assert read_answer(" a dog ") == "a dog" and read_yes_or_no("Yes, they do.") and not read_yes_or_no("**No**")
    with pytest.raises(BadReply, match="must be yes or no"):
        read_yes_or_no("Not sure; none.")
    with pytest.raises(BadReply, match="is empty"):
        read_answer(" ")
