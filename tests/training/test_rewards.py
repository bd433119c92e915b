"""Rewards of answers, and the rows that say what is rewarded."""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from omnivinci_hf.training.data import RowError, normalize_row
from omnivinci_hf.training.prompts import load_prompts, normalize_prompt, read_prompt
from omnivinci_hf.training.rewards import as_reward, load_reward, load_rewards


def says(*texts):
    return [[{"role": "assistant", "content": text}] for text in texts]


def score(name, text, answer, **options):
    return load_reward(name, **options)(says(text), answer=[answer])[0]


# -- what is right ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "answer", "expected"),
    [
        ("exact", " Red  circle.\n", "red circle", 1),
        ("exact", "<think>blue?</think><answer>red circle</answer>", "red circle", 1),
        ("exact", "<think>a red circle</think> red circle", "red circle", 1),
        ("exact", "red circle and more", "red circle", 0),
        ("exact", "", "red circle", 0),
        ("exact", "scarlet", ["red", "scarlet"], 1),
        ("letter", "B", "B", 1),
        ("letter", "(b)", "B", 1),
        ("letter", "B. a dog", "B", 1),
        ("letter", "The correct answer is (B)", "B. a dog", 1),
        ("letter", "Answer: B", "B", 1),
        ("letter", "A dog barks", "A", 0),
        ("letter", "C", "B", 0),
        ("letter", "A, B, C", "B", 0),
        ("letter", "B\nBecause it barks.", "B", 1),
        ("letter", "**B**", "B", 1),
        ("letter", "The answer is **(B)**", "B", 1),
        ("letter", "B - the man", "B", 1),
        ("letter", "B-flat", "B", 0),
        ("numeric", "It is 7 seconds.", "7", 1),
        ("numeric", "-1,250.5", -1250.5, 1),
        ("numeric", "no number", 7, 0),
        ("numeric", "3-5", 5, 1),
        ("numeric", "1,2,3", 3, 1),
        ("numeric", "between -7 and (-3.5)", -3.5, 1),
        ("numeric", "1,234,567 frames", 1234567, 1),
        ("numeric", "1.5e-3", 0.0015, 1),
        ("numeric", "It is 7.", 7, 1),
        ("numeric", ".5", 0.5, 1),
        ("numeric", "7.4", 7, 0),
        ("format", "<think>I hear it.</think>\n<answer>bell</answer>", None, 1),
        ("format", "<think></think><answer>bell</answer>", None, 0),
        ("format", "<answer>bell</answer>", None, 0),
        ("format", "<think>a</think><answer>b</answer><answer>c</answer>", None, 0),
    ],
)
def test_completions_are_scored(name, text, answer, expected):
    assert score(name, text, answer) == expected


def test_a_number_may_be_near_enough():
    assert score("numeric", "7.4", 7, tolerance=0.5) == 1 and score("numeric", "7.6", 7, tolerance=0.5) == 0
    assert score("numeric", "104", 100, relative_tolerance=0.05) == 1


def test_a_row_is_scored_by_the_rewards_that_it_names():
    exact = load_reward("exact")
    values = exact(says("a", "a", "b"), answer=["a"] * 3, rewards=[None, ["format"], ["exact", "format"]])
    assert values == [1.0, None, 0.0]


def test_words_may_lie_in_parts():
    completion = [{"role": "assistant", "content": [{"type": "text", "text": "red"}]}]
    assert load_reward("exact")([completion, "red"], answer=["red", "red"]) == [1.0, 1.0]


def test_a_table_has_weights_and_options():
    rewards, weights = load_rewards({"letter": 1, "numeric": {"weight": 0.5, "tolerance": 2}, "format": None})
    assert [reward.__name__ for reward in rewards] == ["letter", "numeric", "format"] and weights == [1.0, 0.5, 1.0]
    assert rewards[1].tolerance == 2


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, "`rewards` must be a mapping .* and not empty"),
        ({"exat": 1}, "There is no reward 'exat': there are exact, letter"),
        ({"exact": "much"}, "`rewards.exact` must be a weight or a mapping"),
        ({"exact": {"tolerance": 1}}, r"The reward 'exact' has no option \['tolerance'\]; beside `weight` it has none"),
        ({"numeric": {"tolerance": -1}}, "rewards.numeric.tolerance"),
        ({"judge": {"url": "http://localhost:1/v1"}}, r"The reward 'judge' needs \['model'\]"),
        ({"judge": {"url": "x", "model": "m", "api_key_env": "NOT_SET_AT_ALL"}}, "NOT_SET_AT_ALL, which is not set"),
        ({"judge": {"url": "x", "model": "m", "num_tries": 0}}, "`rewards.judge.num_tries` must be at least 1"),
        ({"nowhere.py:f": 1}, "cannot be imported: nowhere.py does not exist"),
        ({"no_such_module_here:f": 1}, "cannot be imported"),
        ({"json:nothing": 1}, "json has no ordinary function 'nothing'"),
        ({"json:dumps": {"weight": 1, "indent": 2}}, "is a function and takes no options but `weight`"),
        ({"json:dumps": 1, "pickle:dumps": 1}, "Two rewards have one name"),
    ],
)
def test_what_is_wrong_with_a_table_is_told(table, words):
    with pytest.raises(ValueError, match=words):
        load_rewards(table)


# -- functions of one's own -------------------------------------------------------------------------------------------


def test_a_function_gets_the_columns_of_the_rows_that_ask_for_it(tmp_path):
    (tmp_path / "mine.py").write_text(
        "def length(completions, answer, hint, **columns):\n"
        "    assert len(completions) == len(answer) == len(hint)\n"
        "    return [len(one[0]['content']) if tip else None for one, tip in zip(completions, hint)]\n"
    )
    (reward,), weights = load_rewards({f"{tmp_path}/mine.py:length": 2})
    values = reward(says("ab", "abc", "a"), answer=["x"] * 3, hint=[1, 0, 1], rewards=[None, None, ["exact"]])
    assert reward.__name__ == "length" and values == [2, None, None] and weights == [2.0]


@pytest.mark.parametrize("value", ["1.0", "[1.0]", "['good', 'bad']"])
def test_what_a_function_returns_is_checked(tmp_path, value):
    (tmp_path / "mine.py").write_text(f"def bad(completions, **columns):\n    return {value}\n")
    with pytest.raises(TypeError, match="The reward 'bad' must return a list of 2 numbers"):
        load_reward(f"{tmp_path}/mine.py:bad")(says("a", "b"))


@pytest.mark.parametrize(
    "value",
    ["np.array([1, 0.5], np.float32)", "[np.float32(1), np.float64(0.5)]", "torch.tensor([1, 0.5])",
     "[torch.tensor(1.0), torch.tensor(0.5)]", "(1, 0.5)"],
)  # fmt: skip
def test_a_function_may_return_any_kind_of_numbers(tmp_path, value):
    (tmp_path / "mine.py").write_text(
        f"import numpy as np\nimport torch\ndef any_kind(completions, **columns):\n    return {value}\n"
    )
    assert load_reward(f"{tmp_path}/mine.py:any_kind")(says("a", "b")) == [1, 0.5]


def test_a_file_with_a_function_may_have_a_dataclass(tmp_path):
    (tmp_path / "json.py").write_text(  # nor does it hide the module of that name
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Rule:\n    weight: float = 0.5\n"
        "def ruled(completions, **columns):\n    return [Rule().weight] * len(completions)\n"
    )
    assert load_reward(f"{tmp_path}/json.py:ruled")(says("a")) == [0.5]
    assert sys.modules["json"] is json


def test_a_column_for_the_log_has_none_for_the_rows_left_out():
    def seen(completions, log_extra, **columns):
        log_extra("words", [one[0]["content"] for one in completions])
        return [0.0] * len(completions)

    logged = {}
    as_reward(seen)(says("a", "b", "c"), rewards=[None, ["exact"], ["seen"]], log_extra=logged.__setitem__)
    assert logged == {"words": ["a", None, "c"]}


@pytest.mark.parametrize("given", ["org/reward-model", torch.nn.Linear(1, 1), None])
def test_reward_models_are_refused(given):
    with pytest.raises(TypeError, match="must be a function or made by `load_reward`, got .*: call a reward model in"):
        as_reward(given)


def test_a_coroutine_function_is_refused():
    async def later(completions, **columns):
        return []

    with pytest.raises(TypeError, match="The reward 'later' is a coroutine function"):
        as_reward(later)


# -- a judge ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def judge():
    """A loopback server that gives its replies one after the other, the last for ever, and keeps the requests."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                asked.append((self.path, body, self.headers.get("Authorization")))
                reply = replies.pop(0) if len(replies) > 1 else replies[0]
            status, content = reply if isinstance(reply, tuple) else (200, reply)
            message = {"choices": [{"index": 0, "message": {"role": "assistant", "content": content}}]}
            text = json.dumps({"id": "1", "created": 0, "model": "m", **message}).encode()
            text = b"{cut" if status == 0 else text
            self.send_response(status or 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *arguments):
            pass

    lock, asked, replies = threading.Lock(), [], ["1"]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.asked, server.replies = asked, replies
    server.options = {"url": f"http://127.0.0.1:{server.server_port}/v1", "model": "m", "wait_sec": 0.01}
    yield server
    server.shutdown()
    server.server_close()


PROMPT = [{"role": "user", "content": [{"type": "video", "path": "a.mp4"}, {"type": "text", "text": "Who barks?"}]}]


def test_a_judge_is_asked_about_each_answer_once(judge, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "secret")
    judge.replies[:] = ["<think>Is it 0?</think> Score: 0.75"]
    reward = load_reward("judge", api_key_env="JUDGE_KEY", **judge.options)
    logged = {}
    values = reward(
        says("a {answer}", "a {answer}", "a cat"), prompts=[PROMPT] * 3, answer=["a dog"] * 3,
        log_metric=logged.__setitem__,
    )  # fmt: skip
    assert values == [0.75] * 3 and logged == {"judge/unreadable": 0} and len(judge.asked) == 2
    path, body, key = judge.asked[0]
    words = body["messages"][0]["content"]
    assert path == "/v1/chat/completions" and body["model"] == "m" and key == "Bearer secret"
    assert "Who barks?" in words and "a dog" in words and any("a {answer}" in str(one[1]) for one in judge.asked)


def test_a_judge_that_fails_is_asked_again(judge):
    judge.replies[:] = [(429, ""), (503, ""), (0, ""), "0.5"]
    assert load_reward("judge", **judge.options)(says("x"), prompts=[PROMPT], answer=["y"]) == [0.5]
    assert len(judge.asked) == 4


@pytest.mark.parametrize(
    ("reply", "score"),
    [("0.5 out of 1", 0.5), ("0.8/1", 0.8), ("Score: 0.25 of 1.0.", 0.25), ("1", 1.0), ("I give 0.3 / 1.", 0.3)],
)
def test_a_reply_may_name_the_scale_behind_its_number(judge, reply, score):
    judge.replies[:] = [reply]
    assert load_reward("judge", **judge.options)(says("x"), prompts=[PROMPT], answer=["y"]) == [score]


@pytest.mark.parametrize(
    "reply",
    [
        "Good",
        "8 of 10",
        "1 of 10",
        "0.3 (on a scale from 0 to 1)",
        "Criterion 1: good, 0.2",
        "0.5 out of 1.5",
        "-0.5",
        "2",
    ],
)
def test_a_reply_without_one_number_from_0_to_1_gives_no_reward(judge, reply):
    judge.replies[:] = [reply]
    logged = {}
    values = load_reward("judge", **judge.options)(
        says("x"), prompts=[PROMPT], answer=["y"], log_metric=logged.__setitem__
    )
    assert values == [None] and logged == {"judge/unreadable": 1}


def test_a_judge_that_does_not_answer_is_an_error(judge):
    judge.replies[:] = [(401, "")]
    with pytest.raises(ValueError, match=r"The judge at http://127.0.0.1:\d+/v1 gives no reply .*401"):
        load_reward("judge", **judge.options)(says("x"), prompts=[PROMPT], answer=["y"])
    assert len(judge.asked) == 1
    gone = {**judge.options, "url": "http://127.0.0.1:9/v1"}
    with pytest.raises(ValueError, match="The judge at http://127.0.0.1:9/v1 gives no reply"):
        load_reward("judge", **gone)(says("x"), prompts=[PROMPT], answer=["y"])


def test_the_words_for_the_judge_may_be_one_s_own(judge, tmp_path):
    (tmp_path / "words.txt").write_text("Q {question} R {answer} C {completion}")
    reward = load_reward("judge", prompt=str(tmp_path / "words.txt"), **judge.options)
    assert reward(says("cat"), prompts=[PROMPT], answer=[["dog", "hound"]]) == [1.0]
    assert judge.asked[0][1]["messages"][0]["content"] == "Q Who barks? R dog or hound C cat"
    (tmp_path / "words.txt").write_text("Q {question}")
    with pytest.raises(ValueError, match=r"lacks \['answer', 'completion'\]"):
        load_reward("judge", prompt=str(tmp_path / "words.txt"), **judge.options)


# -- rows -------------------------------------------------------------------------------------------------------------

QUESTION = {"role": "user", "content": "Who barks?"}
ANSWER = {"role": "assistant", "content": "a dog"}
EXACT, LETTER, NUMERIC = (load_reward(name) for name in ("exact", "letter", "numeric"))


def test_rows_of_every_form_give_a_prompt_and_an_answer():
    for row in (
        {"prompt": [QUESTION], "answer": "a dog"},
        {"prompt": [QUESTION], "completion": [ANSWER]},
        {"messages": [QUESTION, ANSWER]},
        {"messages": [QUESTION, {"role": "assistant", "content": [{"type": "text", "text": "a dog"}]}]},
    ):
        read = normalize_prompt({**row, "id": 7, "hint": "loud", "empty": None}, rewards=[EXACT])
        assert read["conversations"] == [[QUESTION]] and read["answer"] == "a dog"
        assert read["id"] == "7" and read["rewards"] is None and read["columns"] == {"hint": "loud"}
        assert normalize_prompt(read, rewards=[EXACT]) == read
        with pytest.raises(RowError, match="'a dog' holds no number"):
            normalize_prompt(read, rewards=[NUMERIC])


def test_media_of_a_prompt_are_found():
    row = {"prompt": [{"role": "user", "content": [{"type": "video"}]}], "videos": ["a.mp4"], "answer": 3}
    read = normalize_prompt(row, media_root="/clips", rewards=[NUMERIC])
    assert read["conversations"][0][0]["content"] == [{"type": "video", "video": "/clips/a.mp4"}]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": [QUESTION]}, "no `answer`, which the reward 'exact' compares with"),
        ({"prompt": [QUESTION], "answer": {"a": 1}}, "`answer` must be a string, a number or a list"),
        ({"prompt": [QUESTION], "answer": "x", "rewards": "exact"}, "`rewards` must be a list of names"),
        ({"prompt": [QUESTION], "answer": "x", "rewards": ["exat"]}, "which this training does not have; it has exact"),
        ({"prompt": [QUESTION], "answer": "x", "rewards": ["letter"]}, "'x y' is no letter"),
        ({"prompt": [QUESTION], "answer": "x", "rewards": ["numeric"]}, "holds no number"),
        ({"prompt": "Who barks?", "answer": "x"}, "`prompt` must be a list of messages, got 'Who barks"),
        ({"prompt": [], "answer": "x"}, "`prompt` must be a list of messages, got"),
        ({"prompt": [{"role": "system", "content": "Hm"}], "answer": "x"}, "must end with a turn of the user"),
        ({"conversations": [[QUESTION, ANSWER]]}, "`conversations` are not for reinforcement"),
        ({"prompt": [{"role": "user", "content": [{"type": "video"}]}], "answer": "x"}, "has no medium"),
        ([], "A row must be an object"),
        (
            {"prompt": [QUESTION], "answer": "x", "image": "a", "log_extra": 1},
            r"\['image', 'log_extra'\] are names that",
        ),
    ],
)
def test_what_is_wrong_with_a_row_is_told(row, words):
    if isinstance(row, dict) and row.get("rewards") == ["letter"]:
        row = {**row, "answer": "x y"}
    problems = read_prompt(
        row, rewards=[EXACT, LETTER, NUMERIC] if "letter" in words or "number" in words else [EXACT]
    )[1]
    with pytest.raises(RowError, match=words):
        raise RowError(*problems)


def test_bad_rows_of_a_file_are_told_with_their_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": [QUESTION], "answer": "x"}) + "\n" + json.dumps({"prompt": [QUESTION]}))
    with pytest.raises(RowError, match=r"rows.jsonl, line 2: It has no `answer`"):
        load_prompts(path, [EXACT])
    assert len(load_prompts([path, path])) == 4


def test_a_prompt_with_its_answer_can_also_be_learned():
    read = normalize_row({"prompt": [QUESTION], "answer": "a dog"})
    assert read["conversations"] == [[QUESTION, ANSWER]]
