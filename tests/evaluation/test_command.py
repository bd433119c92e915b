"""The command evaluates, from the command line to the files that it writes."""

import json
import os
import subprocess
import sys

import pytest

from omnivinci_hf import OmniQAPipeline, OmniVinciForConditionalGeneration, OmniVinciProcessor
from omnivinci_hf.cli import main
from omnivinci_hf.evaluation.tasks import TASKS
from omnivinci_hf.small import small_checkpoint
from tests.support.benchmark_files import dailyomni
from tests.support.paths import ROOT
from tests.support.world_benchmark import write_world_benchmark


# the small checkpoint knows the questions of the made-up world alone, at the frames of its training
SMALL = ("--model", str(small_checkpoint()), "--fps", "2", "--prompt", "{question}", "--max-new-tokens", "8")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    data = tmp_path_factory.mktemp("world")
    write_world_benchmark(data, num_clips=6)
    return data


def command(data, output, *more):
    return ["eval", "--task", "dailyomni", "--data", str(data), "--output", str(output), *SMALL, *more]


@pytest.mark.slow
def test_the_small_checkpoint_answers_a_benchmark_from_the_command_line(world, tmp_path, capsys):
    assert main(command(world, tmp_path / "output")) == 0
    shown = capsys.readouterr()
    scores = json.loads((tmp_path / "output" / "scores.json").read_text())
    assert f"strict    {scores['right']} of {scores['asked']} right" in shown.out
    assert "type:" in shown.out and "sound_while_shape" in shown.out
    rows = json.loads((world / "qa.json").read_text())
    pipe = OmniQAPipeline(
        OmniVinciForConditionalGeneration.from_pretrained(small_checkpoint()),
        processor=OmniVinciProcessor.from_pretrained(small_checkpoint()),
    )
    entries = [json.loads(line) for line in (tmp_path / "output" / "answers.jsonl").read_text().splitlines()]
    by_id = {entry["id"]: entry for entry in entries}
    right = 0
    for number, row in enumerate(rows):
        path = world / f"Videos/{row['video_id']}/{row['video_id']}_video.mp4"
        (record,) = pipe(video=str(path), question=row["Question"], fps=2, max_new_tokens=8)
        assert by_id[str(number)]["answer"] == record["answer"]
        right += f"{row['Answer']}. {record['answer']}" in row["Choice"]
    assert scores["right"] == right and scores["asked"] == len(rows) == len(entries)
    assert scores["share"] > 2 * scores["share_of_a_guess"]


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_to_the_same_file(world, tmp_path):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    argv = [str(killed), str(whole), "--task", "dailyomni", "--data", str(world), *SMALL]
    module = [sys.executable, "-m", "tests.support.kill_evaluation"]
    ended = subprocess.run([*module, *argv], cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert ended.returncode == 0, ended.stderr
    assert "questions have an answer in" in ended.stderr
    expected = (whole / "answers.jsonl").read_bytes()
    assert 3 <= int(ended.stdout.split()[-1]) < expected.count(b"\n")
    assert (killed / "answers.jsonl").read_bytes() == expected
    assert (killed / "scores.json").read_bytes() == (whole / "scores.json").read_bytes()


def test_what_fails_is_said_in_the_words_of_the_command_line(original_folder, tmp_path, capsys):
    data = tmp_path / "data"
    dailyomni(data)
    argv = ["eval", "--task", "dailyomni", "--data", str(data), "--output", str(tmp_path / "output")]
    argv += ["--model", str(original_folder), "--num-frames", "2", "--max-new-tokens", "1000000"]
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert "The first 2 clips that are there failed" in error and "lower --max-new-tokens, --num-frames" in error
    assert main([*argv[:-1], "1"]) == 0
    capsys.readouterr()
    assert main([*argv[:-1], "2"]) == 2
    assert "max_new_tokens was 1 and is 2" in (error := capsys.readouterr().err) and "another --output" in error


def test_the_context_can_be_set_and_stands_in_the_settings(original_folder, tmp_path, capsys):
    data, output = tmp_path / "data", tmp_path / "output"
    dailyomni(data)
    argv = ["eval", "--task", "dailyomni", "--data", str(data), "--output", str(output), "--limit", "1"]
    argv += ["--model", str(original_folder), "--num-frames", "2", "--max-new-tokens", "1", "--context"]
    assert main([*argv, "16"]) == 2
    assert "the model's context (--context) has room for 16" in capsys.readouterr().err
    assert main([*argv, "100000"]) == 0
    assert json.loads((output / "settings.json").read_text())["context"] == 100000


def test_a_wrong_folder_costs_no_loading(tmp_path, capsys):
    argv = ["eval", "--task", "mmar", "--data", str(tmp_path), "--model", "nobody/nothing"]
    assert main(argv) == 2
    assert "holds no MMAR-meta.json" in capsys.readouterr().err


@pytest.mark.parametrize(("argv", "option"), [(["--data", "x"], "--task"), (["--task", "mmar"], "--data")])
def test_what_is_missing_is_named(argv, option, capsys):
    assert main(["eval", *argv]) == 2
    assert f"eval needs {option}" in capsys.readouterr().err


def test_the_benchmarks_are_listed(capsys):
    assert main(["eval", "--list-tasks"]) == 0
    shown = capsys.readouterr().out
    assert all(f"{name} " in shown for name in TASKS) and "1,197 questions; qa.json" in shown


def test_the_folder_of_tasks_for_lmms_eval_is_printed(capsys):
    assert main(["eval", "--tasks-path"]) == 0
    assert capsys.readouterr().out.strip().endswith(os.path.join("omnivinci_hf", "evaluation", "lmms_tasks"))


def test_an_unknown_benchmark_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["eval", "--task", "nothing", "--data", "x"])
    assert "invalid choice: 'nothing'" in capsys.readouterr().err
