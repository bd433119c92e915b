"""Tests of `examples/applications/robotics.py`: the made-up world, its rows, the closed loop, and the whole script."""

import json
import re

import numpy as np
import pytest

from omnivinci_hf.cli import main
from omnivinci_hf.world.scene import COLOURS
from omnivinci_hf.world.speech import can_speak
from tests.support.applications import APPLICATIONS, load, run


speaking = pytest.mark.skipif(not can_speak(), reason="needs espeak-ng")


@pytest.fixture
def robotics(monkeypatch):
    return load(monkeypatch, "robotics")


@pytest.fixture
def common(monkeypatch):
    return load(monkeypatch, "common")


def scripted(answer):
    """A stand-in for the pipeline, which answers by a function of a chat's media."""
    return lambda chats, **options: [[{"answer": answer(chat[0]["content"])}] for chat in chats]


def types_of(content):
    return [part["type"] for part in content]


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_header_says_how_to_run_it():
    header = (APPLICATIONS / "robotics.py").read_text(encoding="utf-8").split('"""')[1]
    assert "python examples/applications/robotics.py" in header and "CPU cores" in header and "Needs:" in header


def test_goals_and_headings_are_even(robotics):
    episodes = [robotics.sample_episode(seed) for seed in range(400)]
    assert all(sorted(colour for colour, _ in episode.things) == sorted(robotics.GOALS) for episode in episodes)
    goals = [episode.goal for episode in episodes]
    ahead = [episode.goal == episode.ahead(episode.heading) for episode in episodes]
    assert all(80 <= goals.count(goal) <= 120 for goal in robotics.GOALS) and 80 <= sum(ahead) <= 120
    assert episodes[7] == robotics.sample_episode(7)


def test_the_expert_takes_the_shortest_way(robotics):
    things = tuple((colour, "circle") for colour in ("red", "green", "blue", "yellow"))  # north, east, south, west
    episode = robotics.Episode(things, 0, "blue", (1.0, 0.5), 3)
    assert [robotics.expert_move(episode, heading) for heading in range(4)] == ["right", "right", "forward", "left"]


def test_a_frame_shows_what_is_left_ahead_and_right(robotics):
    episode = robotics.sample_episode(5)
    for heading in range(4):
        pixels = np.asarray(robotics.draw(episode, heading)).astype(int)
        assert pixels.shape == (robotics.SIDE, robotics.SIDE, 3)
        for turn, centre in zip((-1, 0, 1), robotics.CENTRES, strict=True):
            colour = COLOURS[episode.ahead((heading + turn) % 4)]
            columns = np.flatnonzero((np.abs(pixels - colour).max(-1) < 25).any(0))
            assert len(columns) >= 8 and np.abs(columns - centre).max() <= 10


@pytest.mark.parametrize("seed", range(20))
def test_the_expert_succeeds_in_every_episode(robotics, seed):
    episode = robotics.sample_episode(seed)
    moves = expert_moves(robotics, episode)
    result = robotics.drive(scripted(lambda content: f"{episode.goal} {next(moves)}"), [episode], [None])
    assert result == {"success": 1.0, "repeated": 1.0}


def expert_moves(robotics, episode):
    """The expert's moves, with an account of its own of where the robot looks."""
    heading = episode.heading
    while True:
        move = robotics.expert_move(episode, heading)
        heading = (heading + {"left": 3, "right": 1, "forward": 0}[move]) % 4
        yield move


@pytest.mark.parametrize(
    "answer, success, repeated",
    [("red forward", 0.5, 0.5), ("red left", 0.0, 0.5), ("", 0.0, 0.0), ("forward", 0.5, 0.0), ("red stop", 0.0, 0.5)],
)
def test_other_drivers_fail_as_they_should(robotics, answer, success, repeated):
    things = tuple((colour, "star") for colour in robotics.GOALS)
    episodes = [robotics.Episode(things, 0, goal, (1.0, 0.5), 1) for goal in ("red", "green")]
    calls = []

    def answered(content):
        calls.append(content)
        return answer

    assert robotics.drive(scripted(answered), episodes, [None, None]) == {"success": success, "repeated": repeated}
    assert len(calls) == 2 * (robotics.MOST_MOVES if answer.endswith("left") else 1)


def test_the_model_hears_the_voice_that_it_is_given(robotics):
    episodes = [robotics.sample_episode(seed) for seed in (1, 2)]
    contents = []
    robotics.drive(scripted(lambda content: contents.append(content) or "red forward"), episodes, ["a.wav", None])
    assert [[part["type"] for part in content] for content in contents] == [
        ["audio", "image", "text"],
        ["image", "text"],
    ]
    assert contents[0][0]["path"] == "a.wav"


@speaking
def test_the_rows_are_valid_state_their_truth_and_are_the_same_for_the_same_seed(robotics, tmp_path, capsys):
    episodes = [robotics.sample_episode(seed) for seed in range(5)]
    first, second = (robotics.write_data(tmp_path / name, episodes, hears=True) for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    assert main(["validate", str(first), "--media-root", str(first.parent)]) == 0
    assert "bad: 0" in capsys.readouterr().err
    rows, truths = read_lines(first), read_lines(first.with_name("truth.jsonl"))
    assert len(truths) == 5 <= len(rows) <= 15
    answers = [row["messages"][-1]["content"].split() for row in rows]
    assert sum(move == "forward" for _, move in answers) == 5
    goals = {str(truth["seed"]): truth["goal"] for truth in truths}
    assert all(goals[row["id"].split()[0]] == goal for row, (goal, _) in zip(rows, answers, strict=True))
    assert len({row["messages"][0]["content"][0]["path"] for row in rows}) == 5


def test_rows_without_speech_have_frames_alone(robotics, tmp_path):
    file = robotics.write_data(tmp_path, [robotics.sample_episode(1)], hears=False)
    assert all(
        [part["type"] for part in row["messages"][0]["content"]] == ["image", "text"] for row in read_lines(file)
    )
    assert not list(tmp_path.glob("*.wav"))


def test_the_verdict_is_computed(robotics):
    def results(speech, without):
        arms = {"speech": speech, "speech of another episode": 0.25, "no speech": without}
        return [
            {
                "arms": {arm: {"success": share, "repeated": share} for arm, share in arms.items()},
                "cpu_seconds": {"speech": 90, "no speech": 60},
            }
        ] * 2

    settings = {"train": 3, "test": 4, "steps": 5}
    assert "this holds" in robotics.report(results(0.95, 0.3), settings)
    assert "| no speech | 30.0 ± 0.0 | 30, 30 |" in robotics.report(results(0.95, 0.3), settings)
    assert "this does not hold" in robotics.report(results(0.85, 0.3), settings)
    assert "this does not hold" in robotics.report(results(0.95, 0.5), settings)


def test_a_failed_command_is_an_error(common, tmp_path, capsys):
    (tmp_path / "train.jsonl").write_text('{"messages": []}\n', encoding="utf-8")
    with pytest.raises(RuntimeError, match="omnivinci-hf validate ended with the exit code 1"):
        common.run_command("validate", tmp_path / "train.jsonl")


def test_words_that_are_known_are_not_added(common, robotics, tmp_path):
    with pytest.raises(ValueError, match=r"has the words \['red'\] already: leave them out"):
        common.add_words(common.small_checkpoint(), ["red", "left"], tmp_path / "more")


def test_added_words_are_one_token_each(common, robotics, tmp_path):
    common.add_words(common.small_checkpoint(), ["left", "forward"], tmp_path / "more")
    tokenizer = common.AutoProcessor.from_pretrained(tmp_path / "more").tokenizer
    ids = tokenizer("red left forward").input_ids
    assert len(ids) == 3 and tokenizer.decode(ids) == "red left forward"
    model = common.AutoModel.from_pretrained(tmp_path / "more")
    assert model.get_output_embeddings().weight.shape[0] == len(tokenizer) == model.config.text_config.vocab_size


def test_a_result_of_other_settings_is_refused(common, tmp_path):
    file = tmp_path / "seed 0.json"
    first = common.keep_result(file, {"steps": 1}, lambda: {"right": 0.5})
    assert common.keep_result(file, {"steps": 1}, None) == first == {"settings": {"steps": 1}, "right": 0.5}
    with pytest.raises(ValueError, match="is of a run with other settings"):
        common.keep_result(file, {"steps": 2}, None)


@speaking
@pytest.mark.slow
def test_the_script_goes_from_data_to_figures(tmp_path):
    pytest.importorskip("peft")
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n<!-- figures: begin -->\n<!-- figures: end -->\n\nEnd.\n", encoding="utf-8")
    options = ("--output", tmp_path / "runs", "--train", 6, "--test", 3, "--steps", 2, "--page", page)
    for number_of_commands in (2, 0):  # the runs are kept
        output = run("robotics", *options)
        assert len(re.findall("^omnivinci-hf validate", output, re.MULTILINE)) == number_of_commands
        assert len(re.findall("^omnivinci-hf train --recipe lora ", output, re.MULTILINE)) == number_of_commands
    text = page.read_text(encoding="utf-8")
    assert "| speech of another episode | " in text and "does not hold" in text and text.endswith("End.\n")
