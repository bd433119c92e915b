"""GRPO about media: what the update sees, what it costs, what it refuses; on a very small model with random weights."""

import copy
import json

import pytest
import torch

from omnivinci_hf.omnivinci.generation_omnivinci import bare_model
from omnivinci_hf.training import OmniVinciDataCollator, RowError
from omnivinci_hf.training.prompts import load_prompts
from omnivinci_hf.training.rewards import load_reward
from tests.support.training_data import load


trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
pandas = pytest.importorskip("pandas")
from omnivinci_hf.training import grpo  # noqa: E402
from omnivinci_hf.training.grpo import OmniVinciGRPOTrainer  # noqa: E402
from tests.support.grpo_data import LORA, ROWS, length_reward, make, prompt_row  # noqa: E402


QUESTIONS = ("What is heard?", "Which shape is red?", "Is it loud?", "Who?", "Which sound?", "second")


def weights(trainer):
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


def assert_same(one, other, **tolerance):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], **{"rtol": 0, "atol": 0, **tolerance}, msg=name)


# -- log-probabilities and gradients ----------------------------------------------------------------------------------


def rolled_out(trainer, numbers):
    """A generation of these rows: TRL's tensors, and the encoded prompts."""
    trainer.model.train()
    return trainer._generate_and_score_completions([{"row": number} for number in numbers])


def repeated_rows(trainer, generated):
    """Log-probabilities of completions, each row a sequence of its own with media of its own."""
    model, rows = bare_model(trainer.model), []
    for prompt, ids, mask in zip(
        generated["row_prompts"], generated["completion_ids"], generated["completion_mask"], strict=True
    ):
        inputs = {
            name: value for name, value in prompt.media.items() if not name.startswith(("video_has", "audio_from"))
        }
        whole = torch.cat((prompt.ids, ids[mask.bool()]))[None]
        logits = model(input_ids=whole, attention_mask=torch.ones_like(whole), **inputs).logits[0, :-1]
        log_probs = (logits / trainer.temperature).log_softmax(-1)
        scored = log_probs[len(prompt.ids) - 1 :]
        rows.append(scored.gather(1, whole[0, len(prompt.ids) :, None])[:, 0])
    return rows


def shared_rows(trainer, generated, **options):
    ids = torch.cat((generated["prompt_ids"], generated["completion_ids"]), dim=1)
    mask = torch.cat((generated["prompt_mask"], generated["completion_mask"]), dim=1)
    trainer._row_prompts = generated["row_prompts"]
    width = generated["completion_ids"].shape[1]
    return trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, width, compute_entropy=True, **options)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_and_gradients_are_those_of_repeated_rows(tmp_path, temperature):
    trainer = make(tmp_path, temperature=temperature)
    generated = rolled_out(trainer, [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 0, 0])
    expected = torch.cat(repeated_rows(trainer, generated))
    log_probs, entropies, _ = shared_rows(trainer, generated)
    mask = generated["completion_mask"].bool()
    torch.testing.assert_close(log_probs[mask], expected, rtol=0, atol=1e-5)
    assert not log_probs[~mask].any() and entropies[mask].min() > 0
    in_chunks = shared_rows(trainer, generated, batch_size=3)[0]
    torch.testing.assert_close(in_chunks, log_probs, rtol=0, atol=1e-5)
    factors = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
    learned = {name: value for name, value in trainer.model.named_parameters() if value.requires_grad}
    ours = torch.autograd.grad((log_probs[mask] * factors).mean(), learned.values())
    theirs = torch.autograd.grad((expected * factors).mean(), learned.values())
    for name, one, other in zip(learned, ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5, msg=name)


def test_the_update_sees_and_hears_the_clip(tmp_path):
    """It fails if the update ever runs without media: then the clip of another row would change nothing."""
    trainer = make(tmp_path)
    generated = rolled_out(trainer, [0, 0, 1, 1])
    before = shared_rows(trainer, generated)[0]
    calls = []
    forward = trainer.model.model.forward
    trainer.model.model.forward = lambda **inputs: calls.append(inputs) or forward(**inputs)
    for name, rows in (("pixel_values_videos", [0, 1]), ("input_features", [0, 1, 2, 3])):
        prompts = copy.deepcopy(generated["row_prompts"])
        for row in rows:
            if name in prompts[row].media:
                prompts[row].media[name].add_(1.0)
        changed = shared_rows(trainer, {**generated, "row_prompts": prompts})[0]
        assert all((changed[row] - before[row]).abs().max() > 1e-4 for row in rows), name
    assert all({"pixel_values_videos", "input_features"} <= inputs.keys() for inputs in calls)
    lost = [copy.copy(prompt) for prompt in generated["row_prompts"]]
    lost = [type(one)(one.ids, one.labels, one.positions, one.branches, {}) for one in lost]
    trainer.prompt_collator = OmniVinciDataCollator(trainer.processing_class, dummy_media=False)
    with pytest.raises(ValueError, match="placeholders of .* but no media were given"):
        shared_rows(trainer, {**generated, "row_prompts": lost})


def test_the_update_has_the_prompts_of_its_own_rows(tmp_path):
    trainer = make(tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=1)
    seen = []
    log_probs_of = trainer._get_per_token_logps_and_entropies

    def note(model, input_ids, attention_mask, width, *arguments, **options):
        if model.training:
            for prompt, ids, mask in zip(trainer._row_prompts, input_ids, attention_mask, strict=True):
                seen.append(torch.equal(ids[:-width][mask[:-width].bool()], prompt.ids))
        return log_probs_of(model, input_ids, attention_mask, width, *arguments, **options)

    trainer._get_per_token_logps_and_entropies = note
    trainer.train()
    assert seen == [True] * 8


@pytest.mark.parametrize(
    "options",
    [{}, {"beta": 0.1, "loss_type": "grpo"}, {"loss_type": "dr_grpo", "importance_sampling_level": "sequence"}],
    ids=str,
)
def test_the_loss_of_words_is_that_of_trl(tmp_path, options):
    """After the weights have moved, loss and gradients are those of TRL's own pass over repeated rows."""
    rows = [prompt_row(None, number, question) for number, question in enumerate(QUESTIONS)]
    trainer = make(tmp_path, rows, num_iterations=2, **options)
    generated = rolled_out(trainer, [0, 0, 0, 0, 1, 1, 1, 1])
    learned = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in learned:
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    trainer.current_gradient_accumulation_steps = 1
    results = []
    for log_probs_of in (None, trl.GRPOTrainer._get_per_token_logps_and_entropies):
        if log_probs_of is not None:
            trainer._get_per_token_logps_and_entropies = log_probs_of.__get__(trainer)
        loss = trainer.compute_loss(trainer.model, generated)
        results.append((loss.detach(), torch.autograd.grad(loss, learned, allow_unused=True, materialize_grads=True)))
    (loss, ours), (expected, theirs) = results
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-5)
    assert max(gradient.abs().max() for gradient in theirs) > 1e-3
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_each_clip_is_encoded_once_for_its_group(tmp_path):
    trainer = make(tmp_path, max_steps=1, gradient_accumulation_steps=2)
    frames, rollouts, steps = len(ROWS[0]["prompt"][0]["content"][0]["video"]), [], []
    tower = trainer.model.model.vision_tower
    tower.register_forward_hook(
        lambda module, inputs, output: (steps if trainer.model.training else rollouts).append(len(output[0]))
    )
    trainer.train()
    # of the four prompts one is a video and one an image; dummies of one frame stand in for what a batch lacks
    assert sum(rollouts) == frames + 1
    num_dummies = sum(steps) - frames - 1
    assert 0 <= num_dummies <= 2 and steps.count(frames) == 1


def test_a_generation_is_dealt_out_prompt_by_prompt(tmp_path):
    trainer = make(tmp_path, gradient_accumulation_steps=2, max_steps=1)
    seen = []
    loss_of = trainer._compute_loss
    trainer._compute_loss = lambda model, inputs: seen.append(inputs) or loss_of(model, inputs)
    trainer.train()
    assert [len({id(prompt) for prompt in inputs["row_prompts"]}) for inputs in seen] == [2, 2]
    for inputs in seen:
        for prompt, ids, mask in zip(inputs["row_prompts"], inputs["prompt_ids"], inputs["prompt_mask"], strict=True):
            assert torch.equal(ids[mask.bool()], prompt.ids)


def test_rollouts_are_drawn_from_what_the_model_says(tmp_path):
    """Nearly without chance, they are the likeliest words, as `generate` gives them for the prompt alone."""
    trainer = make(tmp_path, temperature=1e-4)
    generated = rolled_out(trainer, [0, 0, 1, 1, 2, 2, 3, 3])
    for row in (0, 2, 4, 6):
        prompt = generated["row_prompts"][row]
        media = {
            name: value for name, value in prompt.media.items() if not name.startswith(("video_has", "audio_from"))
        }
        alone = trainer.model.eval().generate(
            input_ids=prompt.ids[None], max_new_tokens=6, do_sample=False, pad_token_id=0,
            suppress_tokens=trainer.generation_config.suppress_tokens, **media,
        )  # fmt: skip
        said = generated["completion_ids"][row][generated["completion_mask"][row].bool()]
        assert said.tolist() == alone[0, len(prompt.ids) :][: len(said)].tolist()
        assert torch.equal(generated["completion_ids"][row], generated["completion_ids"][row + 1])


# -- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"beta": 0.1},
        {"beta": 0.1, "recipe": LORA},
        {"recipe": LORA, "gradient_checkpointing": True},
        {"gradient_checkpointing": True, "bf16": True},
        {"num_iterations": 2, "max_steps": 4, "loss_type": "dr_grpo"},
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "steps_per_generation": 4, "max_steps": 4},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        {"scale_rewards": "none", "top_p": 0.9, "mask_truncated_completions": True},
    ],
    ids=lambda options: " ".join(f"{name}={getattr(value, 'name', value)}" for name, value in options.items()),
)
def test_it_runs_and_learns(tmp_path, options):
    trainer = make(tmp_path, **options)
    before = weights(trainer)
    trainer.train()
    after = weights(trainer)
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed and not any("vision_tower" in name or "audio_tower" in name for name in changed)
    logs = [log for log in trainer.state.log_history if "reward" in log]
    names = {"reward", "rewards/length_reward/mean", "reward_std_in_groups", "entropy", "completions/mean_length"}
    assert all(names | ({"kl"} if "beta" in options else set()) <= log.keys() for log in logs)
    if "beta" in options:
        assert logs[0]["kl"] == pytest.approx(0, abs=1e-6) and logs[-1]["kl"] > 0


def _fill_adapter(model):
    """Gives an adapter weights as if it had been trained: a new one changes nothing."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)


def test_the_reference_is_the_model_as_it_was_given(tmp_path):
    """A saved adapter included; what does not learn is shared with it, and not copied."""
    trainer = make(tmp_path, recipe=LORA, beta=0.1, change=_fill_adapter)
    with torch.no_grad():
        before = {name: value.clone() for name, value in trainer.ref_model.state_dict().items()}
        generated = rolled_out(trainer, [0, 0, 1, 1])
    torch.testing.assert_close(
        generated["ref_per_token_logps"], shared_rows(trainer, generated)[0].detach(), rtol=0, atol=1e-6
    )
    trainer.train()
    assert_same(dict(trainer.ref_model.state_dict()), before)
    ours, theirs = dict(trainer.model.named_parameters()), dict(trainer.ref_model.named_parameters())
    for name, value in ours.items():
        assert (value is theirs[name]) == (not value.requires_grad), name


def test_the_spread_within_groups_is_their_mean_standard_deviation(tmp_path):
    def known(completions, **columns):
        return [0.0, 1.0, 0.0, 1.0, 5.0, 5.0, 5.0, 5.0]

    trainer = make(tmp_path, rewards=known, max_steps=1)
    trainer.train()
    (spread,) = [log["reward_std_in_groups"] for log in trainer.state.log_history if "reward" in log]
    assert spread == pytest.approx(((4 * 0.25 / 3) ** 0.5 + 0) / 2)


def test_it_learns_what_is_rewarded(tmp_path):
    rows = [prompt_row(kind, seed) for seed, kind in enumerate(("video", "audio"))]

    def says_red(completions, **columns):
        return [one[0]["content"].split()[:1] == ["red"] for one in completions]

    trainer = make(tmp_path, rows, rewards=says_red, max_steps=40, num_generations=8, per_device_train_batch_size=16)
    trainer.train()
    rewards = [log["reward"] for log in trainer.state.log_history if "reward" in log]
    assert sum(rewards[-5:]) > sum(rewards[:5]) + 2


def test_an_evaluation_between_buffered_steps_changes_nothing(tmp_path):
    options = {"num_iterations": 2, "steps_per_generation": 2, "max_steps": 6, "beta": 0.05}
    plain = make(tmp_path / "a", **options)
    plain.train()
    evaluated = make(
        tmp_path / "b", eval_rows=ROWS[:2], eval_strategy="steps", eval_steps=1, per_device_eval_batch_size=8,
        num_generations_eval=2, **options,
    )  # fmt: skip
    evaluated.train()
    evaluations = [log for log in evaluated.state.log_history if "eval_reward" in log]
    assert len(evaluations) == 6 and "eval_reward_std_in_groups" in evaluations[0]
    assert_same(weights(plain), weights(evaluated))


def test_other_rows_can_be_evaluated(tmp_path):
    trainer = make(tmp_path, num_generations_eval=2, per_device_eval_batch_size=2)
    question = [{"role": "user", "content": "Who?"}]
    for rows in (datasets.Dataset.from_list([{"prompt": question, "answer": "bell"}]), ROWS[:1], ROWS[1:2]):
        assert "eval_reward" in trainer.evaluate(rows)
    assert len(trainer._rows) == 1
    with pytest.raises(TypeError, match="not from a str"):
        trainer.evaluate("other")


def test_completions_of_mixed_contents_are_logged(tmp_path):
    """A content may be words or parts, and a function may log a column for some rows."""

    def brief(completions, log_extra, **columns):
        log_extra("first", [one[0]["content"][:1] for one in completions])
        return [1.0] * len(completions)

    rows = [prompt_row("audio", 0, rewards=["brief"]), prompt_row("audio", 1, rewards=["format"])]
    rows[0]["prompt"].insert(0, {"role": "system", "content": "You are brief."})
    make(tmp_path, rows, rewards=[brief, load_reward("format")], max_steps=1, log_completions=True).train()
    table = pandas.read_parquet(tmp_path / "completions" / "completions_00001.parquet")
    assert len(table) == 8 and sorted(map(len, table["prompt"])) == [1] * 4 + [2] * 4
    assert table["first"].isna().sum() == 4


def test_a_run_goes_on_from_a_checkpoint(tmp_path):
    """Also in a later epoch, and with batches that were generated together."""
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "gradient_accumulation_steps": 2}
    options["per_device_train_batch_size"] = 4
    whole = make(tmp_path, **options)
    whole.train()
    resumed = make(tmp_path, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert resumed.state.global_step == 6
    assert_same(weights(whole), weights(resumed), atol=1e-6)
    rewards = [[log["reward"] for log in one.state.log_history if "reward" in log] for one in (whole, resumed)]
    assert rewards[0] == pytest.approx(rewards[1])


def noted_generations(trainer):
    """Notes the count of batches, the step and the prompts of each generation of a run."""
    noted = []
    generate = trainer._generate_and_score_completions

    def generate_and_note(inputs):
        noted.append((trainer._step, trainer.state.global_step, [one["row"] for one in inputs]))
        return generate(inputs)

    trainer._generate_and_score_completions = generate_and_note
    return noted


@pytest.mark.parametrize(
    ("options", "num_rows", "step", "first"),
    [
        # an odd step, where the next generation does not begin: one generation more, and then as before
        ({"num_iterations": 2, "max_steps": 8}, 6, 3, 3),
        # batches of an epoch that are no multiple of those of a step, the last of which has fewer
        ({"gradient_accumulation_steps": 2, "steps_per_generation": 3, "max_steps": 6}, 3, 2, 3),
        ({"gradient_accumulation_steps": 2, "steps_per_generation": 3, "max_steps": 6}, 3, 3, 5),
        ({"ignore_data_skip": True, "max_steps": 6}, 4, 3, 2),
    ],
)
def test_a_run_goes_on_where_its_data_are(tmp_path, options, num_rows, step, first):
    rows = [prompt_row(None, number, QUESTIONS[number]) for number in range(num_rows)]
    options = {"per_device_train_batch_size": 4, "save_strategy": "steps", "save_steps": 1, **options}
    if "num_iterations" in options or "ignore_data_skip" in options:
        options["per_device_train_batch_size"] = 8
    whole = make(tmp_path, rows, **options)
    expected = noted_generations(whole)
    whole.train()
    resumed = make(tmp_path, rows, **options)
    noted = noted_generations(resumed)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
    assert noted[0][:2] == (first, step)
    if "ignore_data_skip" not in options:
        assert noted[1:] == [one for one in expected if one[1] > step] and len(noted) > 1
        assert resumed._step == whole._step


def test_a_trainer_that_goes_on_forgets_completions_of_its_run_before(tmp_path):
    trainer = make(tmp_path, num_iterations=3, max_steps=5, save_strategy="steps", save_steps=1)
    trainer.train()
    noted = noted_generations(trainer)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert [step for _, step, _ in noted] == [1, 3]


# -- rewards and rows -------------------------------------------------------------------------------------------------


def test_rewards_see_the_columns_of_their_rows(tmp_path):
    seen = {}

    def note(prompts, completions, answer, hint, id, **columns):
        seen.update(prompts=prompts, answer=answer, hint=hint, id=id, more=columns)
        return [0.0] * len(completions)

    rows = [prompt_row("audio", 0, hint="loud", id="a"), prompt_row("video", 1, id="b", rewards=["note"])]
    make(tmp_path, rows, rewards=[note, load_reward("exact")], max_steps=1).train()
    assert sorted(set(zip(seen["id"], seen["hint"], strict=True))) == [("a", "loud"), ("b", None)]
    assert seen["answer"] == ["bell"] * len(seen["id"]) and "trainer_state" in seen["more"]
    kinds = {part["type"] for prompt in seen["prompts"] for part in prompt[0]["content"]}
    assert kinds == {"audio", "video", "text"}


def test_a_row_is_rewarded_by_those_that_it_names(tmp_path):
    rows = [prompt_row("audio", 0, rewards=["format"]), prompt_row("audio", 1, rewards=["exact"])]
    rewards = [load_reward("exact"), load_reward("format")]
    trainer = make(tmp_path, rows, rewards=rewards, max_steps=1, num_generations=2, per_device_train_batch_size=4)
    found = []
    scored = trainer._calculate_rewards
    trainer._calculate_rewards = lambda *arguments: found.append(scored(*arguments)) or found[-1]
    trainer.train()
    assert sorted(found[0].isnan().tolist()) == [[False, True]] * 2 + [[True, False]] * 2


def test_bad_rows_are_told_before_anything_is_trained(tmp_path):
    with pytest.raises(RowError, match="It has no `answer`, which the reward 'exact' compares with"):
        make(tmp_path, [{**ROWS[0], "answer": None}], rewards=[load_reward("exact")])
    with pytest.raises(RowError, match="names \\['exat'\\], which this training does not have; it has exact"):
        make(tmp_path, [{**ROWS[0], "rewards": ["exat"]}], rewards=[load_reward("exact")])


@pytest.mark.parametrize("rewards_when_loaded", [[], [load_reward("letter")]])
def test_rows_that_were_read_are_checked_by_the_rewards_of_the_trainer(tmp_path, rewards_when_loaded):
    question = [{"role": "user", "content": "Who barks?"}]
    rows = [{"prompt": question, "answer": "B"}, {"prompt": question, "answer": "A", "rewards": ["letter"]}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(
        RowError, match=r"rows.jsonl, line 2: `rewards` names \['letter'\], which this training does not"
    ):
        make(tmp_path, load_prompts(path, rewards_when_loaded), rewards=[load_reward("exact")])
    path.write_text(json.dumps({"prompt": question}) + "\n")
    with pytest.raises(RowError, match="line 1: It has no `answer`"):
        make(tmp_path, load_prompts(path), rewards=[load_reward("exact")])


def test_a_medium_that_is_missing_is_told_with_its_row(tmp_path):
    content = [{"type": "video", "path": str(tmp_path / "none.mp4")}, {"type": "text", "text": "What?"}]
    row = {"id": "seven", "prompt": [{"role": "user", "content": content}], "answer": "x"}
    with pytest.raises(RowError, match=r"Row 'seven' \(row 1\): .*none.mp4"):
        make(tmp_path, [row], num_generations=2, per_device_train_batch_size=2).train()


def test_a_prompt_without_room_for_the_completion_is_told(tmp_path):
    with pytest.raises(RowError, match=r"Row 'video-0' \(row 1\): .* lower `max_completion_length`"):
        make(tmp_path, ROWS[:1], max_completion_length=2000, per_device_train_batch_size=4).train()


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"use_vllm": True}, "`use_vllm` is not supported by this GRPO"),
        ({"cache_implementation": "static"}, "`cache_implementation` is not supported"),
        ({"generation_kwargs": {"num_beams": 2}}, r"`generation_kwargs` cannot have \['num_beams'\]"),
        ({"sync_ref_model": True, "beta": 0.1}, "`sync_ref_model` is not supported"),
        ({"chat_template_kwargs": {"a": 1}}, "`chat_template_kwargs` is not supported"),
        ({"remove_unused_columns": True}, "`remove_unused_columns` would take"),
        ({"num_generations": 3}, "must be divisible by num_generations"),
    ],
)
def test_what_cannot_be_obeyed_is_refused_by_name(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        make(tmp_path, **options)


def test_sliding_attention_is_refused(tmp_path):
    model, processor = load()
    model.config.text_config.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(ValueError, match="layers of sliding attention"):
        OmniVinciGRPOTrainer(model, length_reward, trl.GRPOConfig(str(tmp_path), use_cpu=True), ROWS,
                             processing_class=processor)  # fmt: skip


def test_quantized_weights_are_refused(tmp_path):
    model, processor = load()
    model.is_quantized = True
    with pytest.raises(ValueError, match="does not train above quantized weights"):
        OmniVinciGRPOTrainer(model, length_reward, trl.GRPOConfig(str(tmp_path), use_cpu=True), ROWS,
                             processing_class=processor)  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_length": 5}, "`max_length` of the collator is not for GRPO: `max_completion_length`"),
        ({"packing": True}, "`packing` of the collator is not for GRPO"),
        ({"on_error": "skip"}, "`on_error` of the collator is not for GRPO: groups need every row"),
    ],
)
def test_settings_of_a_collator_that_are_not_followed_are_refused(tmp_path, options, words):
    model, processor = load()
    with pytest.raises(ValueError, match=words):
        OmniVinciGRPOTrainer(model, length_reward, trl.GRPOConfig(str(tmp_path), use_cpu=True), ROWS,
                             processing_class=processor,
                             data_collator=OmniVinciDataCollator(processor, **options))  # fmt: skip


@pytest.mark.parametrize("name", ["fsdp", "deepspeed"])
def test_sharding_by_accelerate_is_refused(tmp_path, monkeypatch, name):
    prepare = OmniVinciGRPOTrainer.create_accelerator_and_postprocess

    def prepare_sharded(self):
        prepare(self)
        setattr(self, f"is_{name}_enabled", True)

    monkeypatch.setattr(OmniVinciGRPOTrainer, "create_accelerator_and_postprocess", prepare_sharded)
    with pytest.raises(ValueError, match=f"`{name}`, here by accelerate, is not supported"):
        make(tmp_path)


def test_two_functions_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Two rewards have one name"):
        make(tmp_path, rewards=[length_reward, length_reward])


def test_arguments_of_trl_that_cannot_be_obeyed_are_refused(tmp_path):
    model, processor = load()
    with pytest.raises(TypeError, match=r"cannot obey \['tools'\]"):
        OmniVinciGRPOTrainer(model, length_reward, trl.GRPOConfig(str(tmp_path), use_cpu=True), ROWS,
                             processing_class=processor, tools=[print])  # fmt: skip


def test_too_few_rows_for_a_generation_are_refused(tmp_path):
    with pytest.raises(ValueError, match="A generation takes 8 prompts .*, but there are 4 rows"):
        make(tmp_path, gradient_accumulation_steps=4)


def test_a_stream_is_refused(tmp_path):
    with pytest.raises(TypeError, match="not from a generator"):
        make(tmp_path, (row for row in ROWS))


def test_another_version_of_trl_is_refused(monkeypatch):
    import importlib

    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.17.0")
    with pytest.raises(ImportError, match=r"tested with TRL 1.16 alone, but 1.17.0 is installed"):
        importlib.reload(grpo)


def test_the_model_card_tells_how_it_was_reinforced(tmp_path):
    trainer = make(tmp_path, rewards=[length_reward, load_reward("exact")], reward_weights=[1.0, 0.5], beta=0.1)
    trainer.train()
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "rewards: length_reward, exact (weight 0.5)" in card
    assert "groups of 4 completions of at most 6 tokens, temperature 1, beta 0.1, epsilon 0.2" in card
    (mean,) = [log["reward"] for log in trainer.state.log_history if "reward" in log][-1:]
    assert f"last mean reward {mean:.4f}" in card
