"""The command `train --recipe grpo`, as users run it."""

import json
import os
import subprocess
import sys
from importlib import metadata

import pytest
import torch

from omnivinci_hf import OmniVinciForConditionalGeneration
from omnivinci_hf.cli import main
from omnivinci_hf.cli.train import parse_training_arguments
from omnivinci_hf.cli.validate import DEFAULT_COMPLETION_LENGTH
from omnivinci_hf.training.recipe import load_recipe
from omnivinci_hf.training.run_plot import plot_run
from tests.support.paths import ROOT
from tests.support.training_data import load
from tests.support.world_scenes import write_plain_clip


GRPOConfig = pytest.importorskip("trl").GRPOConfig
pytest.importorskip("datasets")
OPTIONS = ["--use_cpu", "true", "--max_steps", "2", "--num_generations", "4", "--max_completion_length", "4",
           "--per_device_train_batch_size", "8", "--logging_steps", "1", "--report_to", "none",
           "--disable_tqdm", "true", "--gradient_checkpointing", "false"]  # fmt: skip


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grpo")
    model, processor = load()
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    rows = []
    for number in range(4):
        write_plain_clip(folder / f"{number}.mp4", duration=2)
        content = [{"type": "video", "path": f"{number}.mp4"}, {"type": "text", "text": "What is heard?"}]
        rows.append({"id": str(number), "prompt": [{"role": "user", "content": content}], "answer": "bell"})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "mine.py").write_text(
        "def brief(completions, **columns):\n    return [-len(one[0]['content']) for one in completions]\n"
    )
    return folder


def command(workplace, output, *more, recipe="grpo"):
    return ["train", "--recipe", recipe, "--model", str(workplace / "model"), "--data", str(workplace / "rows.jsonl"),
            "--media-root", str(workplace), "--output_dir", str(workplace / output),
            "--reward", f"{workplace}/mine.py:brief", "--reward", "exact=0.5", *OPTIONS, *more]  # fmt: skip


def logs_of(folder):
    state = json.loads((folder / "trainer_state.json").read_text())
    return [log for log in state["log_history"] if "reward" in log]


def test_the_command_trains_saves_and_plots(workplace):
    assert main(command(workplace, "full", "--learning_rate", "0.001", "--beta", "0.1")) == 0
    before, after = (
        OmniVinciForConditionalGeneration.from_pretrained(workplace / name).state_dict() for name in ("model", "full")
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and not any("tower" in name for name in changed)
    logs = logs_of(workplace / "full")
    assert len(logs) == 2 and {"rewards/brief/mean", "rewards/exact/mean", "kl", "entropy"} <= logs[0].keys()
    assert (workplace / "full" / "rewards.png").stat().st_size > 10_000
    assert logs[0]["reward"] == pytest.approx(logs[0]["rewards/brief/mean"] + 0.5 * logs[0]["rewards/exact/mean"])


def test_a_run_of_an_adapter_goes_on(workplace):
    pytest.importorskip("peft")
    words = command(workplace, "adapter", "--save_steps", "1", recipe="grpo-lora")
    assert main(words) == 0
    first = logs_of(workplace / "adapter")
    assert main([*words, "--resume_from_checkpoint", str(workplace / "adapter" / "checkpoint-1")]) == 0
    second = logs_of(workplace / "adapter")
    assert [log["reward"] for log in first] == pytest.approx([log["reward"] for log in second])
    assert (workplace / "adapter" / "adapter_config.json").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--reward", "exat"], "There is no reward 'exat'"),
        (["--reward", "exact=much"], "--reward exact=much: the weight must be a number"),
        (["--num_generations", "3"], "must be divisible by num_generations"),
        (["--use_vllm", "true"], "`use_vllm` is not supported by this GRPO"),
        (["--on-error", "skip"], "--on-error is not for recipe 'grpo': groups need every row"),
        (["--streaming"], "--streaming is not for recipe 'grpo'"),
        (["--packing"], "--packing is not for recipe 'grpo'"),
        (["--max-length", "9"], "--max-length is not for recipe 'grpo'"),
        (["--estimate"], "--estimate does not know the rollouts of recipe 'grpo'"),
        (["--no_such_option", "1"], "no_such_option"),
        (["--temperature", "hot"], "(options of `trl.GRPOConfig` follow those of train --help)"),
        (
            ["--reward_weights", "5", "7"],
            "`reward_weights` is not for recipe 'grpo': weights stand behind the rewards' names",
        ),
        (["--recipe", "lora"], "--reward is for recipes with rewards, such as grpo, and 'lora' has none"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(workplace, capsys, more, words):
    assert main(command(workplace, "refused", *more)) == 2
    assert [words in line for line in capsys.readouterr().err.splitlines()].count(True) == 1
    assert not (workplace / "refused" / "trainer_state.json").exists()


def test_flags_need_no_value():
    words = ["--use_cpu", "--bf16", "--gradient_checkpointing", "--output_dir", "x"]
    training = parse_training_arguments(load_recipe("grpo"), words)
    assert training.bf16 is True and training.gradient_checkpointing is True
    assert parse_training_arguments(load_recipe("grpo"), [*words, "--bf16", "false"]).bf16 is False


def test_weights_in_the_arguments_of_a_recipe_are_refused(workplace, capsys):
    (workplace / "weights.yaml").write_text(
        "learning_rates: {language_model: 1.0e-6}\nrewards: {exact: 1}\narguments: {reward_weights: [2.0]}\n"
    )
    words = command(workplace, "refused", recipe=str(workplace / "weights.yaml"))
    assert main(words) == 2
    assert "`reward_weights` is not for recipe 'weights'" in capsys.readouterr().err


def test_another_version_of_trl_is_told_before_the_weights_are_loaded(workplace, capsys, monkeypatch):
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "1.17.0" if name == "trl" else version(name))
    monkeypatch.delitem(sys.modules, "omnivinci_hf.training.grpo", raising=False)
    monkeypatch.setattr("omnivinci_hf.training.run.load_model", lambda *arguments: pytest.fail("it was loaded"))
    assert main(command(workplace, "refused")) == 2
    assert "tested with TRL 1.16 alone, but 1.17.0 is installed" in capsys.readouterr().err


def test_a_recipe_with_rewards_needs_trl(workplace, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)
    assert main(command(workplace, "refused")) == 2
    assert "needs the package trl" in capsys.readouterr().err


def test_rows_are_validated_as_they_are_trained(workplace, capsys):
    rows = [json.loads(line) for line in (workplace / "rows.jsonl").read_text().splitlines()]
    del rows[1]["answer"]
    rows[2]["rewards"] = ["exat"]
    (workplace / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["validate", str(workplace / "bad.jsonl"), "--media-root", str(workplace), "--recipe", "grpo"]
    for more in ([], ["--model", str(workplace / "model")]):
        with pytest.raises(SystemExit) as leaving:
            main([*words, *more])
        assert leaving.value.code == 1
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 2 and "no `answer`" in lines[0] and "['exat']" in lines[1]
    good = str(workplace / "rows.jsonl")
    assert main(["validate", good, "--media-root", str(workplace), "--recipe", "grpo"]) == 0
    assert main(["validate", good, "--media-root", str(workplace)]) == 0


def test_rows_are_validated_by_the_rewards_of_the_command(workplace, capsys):
    words = ["validate", str(workplace / "rows.jsonl"), "--media-root", str(workplace), "--recipe", "grpo"]
    with pytest.raises(SystemExit):
        main([*words, "--reward", "letter"])
    assert "'bell' is no letter of a choice" in capsys.readouterr().out
    assert main([*words, "--reward", "exact=0.5"]) == 0
    words += ["--model", str(workplace / "model")]
    assert main([*words, "--max-completion-length", "8"]) == 0
    with pytest.raises(SystemExit):
        main([*words, "--max-completion-length", "100000"])
    assert "lower --max-completion-length" in capsys.readouterr().out
    assert DEFAULT_COMPLETION_LENGTH == GRPOConfig(str(workplace), use_cpu=True).max_completion_length


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--reward", "letter"], "--reward needs --recipe"),
        (["--recipe", "lora", "--reward", "letter"], "--reward is for recipes with rewards"),
        (["--max-completion-length", "5"], "--max-completion-length is for recipes with rewards"),
    ],
)
def test_options_of_reinforcement_are_for_its_recipes(workplace, capsys, more, words):
    assert main(["validate", str(workplace / "rows.jsonl"), "--no-media", *more]) == 2
    assert words in capsys.readouterr().err


def test_rows_for_an_evaluation_that_never_comes_are_told(workplace, caplog):
    rows = str(workplace / "rows.jsonl")
    assert main(command(workplace, "evaluated", "--eval-data", rows, "--max_steps", "1")) == 0
    assert "`eval_strategy` is no, give steps or epoch" in caplog.text


def test_a_run_without_a_log_is_not_plotted(tmp_path):
    plot_run([{"step": 1, "loss": 0.0}], tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


@pytest.mark.slow
def test_two_processes_end_with_equal_weights(tmp_path):
    """One of three groups lies on both, and each process has media that the other lacks."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = str(ROOT / "tests" / "support" / "grpo_process.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, script, str(tmp_path)], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, other, before = (torch.load(tmp_path / f"{name}.pt") for name in ("0", "1", "before"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    # no row is left out or seen twice: the gradients of a step are those of all rows in one process
    for number in ("0", "1"):
        gradients, expected = torch.load(tmp_path / f"gradients{number}.pt")
        assert gradients.keys() == expected.keys() and max(value.abs().max() for value in expected.values()) > 1e-3
        for name, value in gradients.items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-5, msg=name)
        # in the second epoch, too, a run that goes on has the prompts of one that was never stopped
        whole, resumed = torch.load(tmp_path / f"rows{number}.pt")
        assert len(whole) == 6 and resumed == whole[4:]
    assert any(not torch.equal(one[name], before[name]) for name in one)
