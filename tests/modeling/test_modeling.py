import copy

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    BitsAndBytesConfig,
    DynamicCache,
)

from omnivinci_hf import OmniVinciForConditionalGeneration, OmniVinciProcessor
from omnivinci_hf.omnivinci import modeling_omnivinci
from omnivinci_hf.omnivinci.configuration_omnivinci import AUDIO_ENCODERS
from omnivinci_hf.omnivinci.encoders_omnivinci import OmniVinciVisionProjector, pool_frames
from tests.support.conversations import AUDIO, IMAGE, MIXED, VIDEO, prepare
from tests.support.random_model import random_model


@pytest.fixture(scope="module")
def singles(processor):
    return [prepare(processor, parts) for parts in MIXED]


@pytest.fixture(scope="module")
def batch(processor):
    return prepare(processor, MIXED, padding=True)


# -- forward --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
@torch.inference_mode()
def test_a_mixed_batch_equals_its_rows_run_alone(model, processor, singles, side):
    batch = prepare(processor, MIXED, padding=True, padding_side=side)
    logits = model(**batch).logits
    for row, single in enumerate(singles):
        row_logits = logits[row][batch["attention_mask"][row].bool()]
        assert (row_logits - model(**single).logits[0]).abs().max() < 1e-4


@torch.inference_mode()
def test_attention_implementations_agree(model, original_folder, batch):
    eager = AutoModel.from_pretrained(original_folder, attn_implementation="eager").eval()
    assert eager.config._attn_implementation == "eager" and model.config._attn_implementation == "sdpa"
    assert eager.model.audio_tower.config._attn_implementation == "eager"
    seen = batch["attention_mask"].bool()
    assert (eager(**batch).logits - model(**batch).logits)[seen].abs().max() < 1e-4


@torch.inference_mode()
def test_logits_to_keep_gives_the_last_ones(model, singles):
    model = copy.deepcopy(model)
    # factors of few bits: no sum is rounded, so a product with fewer rows has the same bits on every processor
    model.lm_head.weight.data.mul_(64).round_().div_(64)
    model.lm_head.register_forward_pre_hook(lambda head, inputs: ((inputs[0] * 64).round() / 64,))
    full = model(**singles[0]).logits
    assert full.std() > 0.1
    assert torch.equal(model(**singles[0], logits_to_keep=3).logits, full[:, -3:])


@torch.inference_mode()
def test_features_are_as_many_as_placeholders(model, batch):
    audio = {name: batch[name] for name in batch if name.startswith(("input_features", "audio_"))}
    video = {name: batch[name] for name in batch if name.startswith(("pixel_values_videos", "video_"))}
    features = {
        "image": model.get_image_features(batch["pixel_values"], batch["image_grids"]),
        "video": model.get_video_features(**video),
        "audio": model.get_audio_features(**audio),
    }
    for modality, output in features.items():
        count = int((batch["input_ids"] == getattr(model.config, f"{modality}_token_id")).sum())
        assert torch.cat(output.pooler_output).shape == (count, model.config.text_config.hidden_size)
    assert features["audio"].last_hidden_state.shape == (len(batch["input_features"]), 750, 48)


@pytest.mark.parametrize("modality", ["image", "video", "audio"])
def test_a_missing_placeholder_is_an_error_with_both_counts(model, batch, modality):
    ids = batch["input_ids"].clone()
    positions = (ids == getattr(model.config, f"{modality}_token_id")).nonzero()
    ids[tuple(positions[0])] = 0
    with pytest.raises(
        ValueError, match=f"has {len(positions) - 1} {modality} placeholders but .* give {len(positions)} embed"
    ):
        model(**{**batch, "input_ids": ids})


def test_counts_that_contradict_the_tensors_are_named(model, batch):
    with pytest.raises(ValueError, match="speaks of .* tiles but `pixel_values` has"):
        model.get_image_features(batch["pixel_values"][:-1], batch["image_grids"])
    with pytest.raises(ValueError, match="speaks of .* frames, but `pixel_values_videos` has"):
        model.get_video_features(
            batch["pixel_values_videos"][1:], batch["video_num_frames"], batch["video_frame_times_ns"]
        )
    with pytest.raises(ValueError, match="speaks of .* windows but `input_features` has"):
        model.get_audio_features(batch["input_features"][1:], batch["audio_num_windows"], batch["audio_durations_ns"])


def test_media_need_placeholders_among_given_embeddings(model, singles):
    embeds = torch.zeros(1, 4, 64)
    with pytest.raises(ValueError, match="has 0 image placeholders but the image inputs give 16 embeddings"):
        model(inputs_embeds=embeds, pixel_values=singles[2]["pixel_values"], image_grids=singles[2]["image_grids"])
    with pytest.raises(ValueError, match="either `input_ids` or `inputs_embeds`"):
        model(input_ids=singles[1]["input_ids"], inputs_embeds=embeds)


@pytest.mark.parametrize("dtype, bound", [(torch.bfloat16, 0.5), (torch.float16, 0.05)])
@torch.inference_mode()
def test_half_precision_stays_near(model, original_folder, batch, dtype, bound):
    half = AutoModel.from_pretrained(original_folder, dtype=dtype).eval()
    assert {parameter.dtype for parameter in half.parameters()} == {dtype}
    seen = batch["attention_mask"].bool()
    inputs = batch.copy() if isinstance(batch, dict) else batch
    assert (half(**inputs).logits.float() - model(**batch).logits)[seen].abs().max() < bound


# -- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_part(original_folder, batch, checkpointing):
    model = AutoModel.from_pretrained(original_folder).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    model(**batch, labels=batch["input_ids"]).loss.backward()
    for part in ("vision_tower", "audio_tower", "vision_projector", "audio_projector", "language_model"):
        gradients = [p.grad for p in getattr(model.model, part).parameters() if p.grad is not None]
        assert gradients and all(torch.isfinite(g).all() for g in gradients) and sum(g.abs().sum() for g in gradients)


@torch.no_grad()
def test_media_positions_never_count_in_the_loss(model, batch):
    labels = batch["input_ids"].masked_fill(~batch["attention_mask"].bool(), -100)
    ids = [model.config.image_token_id, model.config.video_token_id, model.config.audio_token_id]
    words = labels.masked_fill(torch.isin(labels, torch.tensor(ids)), -100)
    assert not torch.equal(labels, words)
    logits = model(**batch).logits
    by_hand = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), words[:, 1:].flatten())
    torch.testing.assert_close(model(**batch, labels=labels).loss, by_hand)


# -- generation -----------------------------------------------------------------------------------------------------

LENGTH = {"max_new_tokens": 6, "min_new_tokens": 6}


def generate(model, inputs, **options):
    ids = model.generate(**inputs, **{**LENGTH, "do_sample": False, **options})
    return ids[:, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize(
    "options",
    [{}, {"use_cache": False}, {"num_beams": 3, "num_return_sequences": 2}, {"cache_implementation": "static"}],
    ids=["greedy", "no cache", "beams", "static cache"],
)
def test_generation_of_a_batch_equals_its_rows(model, batch, singles, options):
    rows = generate(model, batch, **options)
    assert rows == [row for single in singles for row in generate(model, single, **options)]


def test_caches_give_the_same_answers(model, batch):
    greedy = generate(model, batch)
    assert generate(model, batch, use_cache=False) == greedy
    assert generate(model, batch, cache_implementation="static") == greedy
    beams = generate(model, batch, num_beams=3, num_return_sequences=2)
    assert generate(model, batch, num_beams=3, num_return_sequences=2, use_cache=False) == beams


def test_sampling_returns_several_sequences_per_row(model, batch):
    ids = model.generate(**batch, **LENGTH, do_sample=True, num_return_sequences=3)
    assert ids.shape == (3 * len(MIXED), batch["input_ids"].shape[1] + 6)
    assert torch.equal(ids[::3, : batch["input_ids"].shape[1]], batch["input_ids"])


def test_media_are_encoded_once_for_all_beams(model, singles, monkeypatch):
    calls = []
    encode = model.model._encoding

    def count(modality, media, *args):
        if modality == "video":
            calls.append(len(media["pixel_values_videos"]))
        return encode(modality, media, *args)

    monkeypatch.setattr(model.model, "_encoding", count)
    generate(model, singles[0], num_beams=4)
    assert calls == [8]


# -- saving and loading ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForMultimodalLM, AutoModelForImageTextToText])
def test_auto_classes_give_the_generating_class(original_folder, auto_class):
    model = auto_class.from_pretrained(original_folder, dtype="auto", device_map="auto")
    assert type(model) is OmniVinciForConditionalGeneration and model.dtype == torch.float32


def test_options_of_saving_may_be_given_by_their_place(model, tmp_path):
    model.save_pretrained(tmp_path / "a", True)
    model.save_pretrained(tmp_path / "b", is_main_process=True)
    files = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in "ab"]
    assert files[0] == files[1]


@torch.inference_mode()
def test_saving_and_loading_keeps_every_bit(model, processor, batch, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path).eval()
    assert type(again) is OmniVinciForConditionalGeneration
    assert torch.equal(again(**batch).logits, model(**batch).logits)
    inputs = prepare(AutoProcessor.from_pretrained(tmp_path), MIXED, padding=True)
    assert inputs.keys() == batch.keys() and all(torch.equal(inputs[name], batch[name]) for name in batch)
    assert again.generation_config.eos_token_id == [458, 456]


@torch.inference_mode()
def test_parts_on_several_devices_and_on_disk_give_the_same(model, original_folder, batch, tmp_path):
    device_map = {
        "model": "cpu",
        "model.vision_tower": "disk",
        "model.language_model.layers.1": "disk",
        "lm_head": "cpu",
    }
    device_map.update({f"model.{part}": "cpu" for part in ("audio_tower", "vision_projector", "audio_projector")})
    device_map.update({f"model.language_model.{part}": "cpu" for part in ("embed_tokens", "norm", "rotary_emb")})
    device_map.update({"model.language_model.layers.0": "disk"})
    device_map.update({"model.video_time_embedding": "cpu", "model.audio_time_embedding": "cpu"})
    del device_map["model"]
    split = AutoModel.from_pretrained(original_folder, device_map=device_map, offload_folder=tmp_path).eval()
    assert any(parameter.is_meta for parameter in split.parameters())
    assert torch.equal(split(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("bits", [8, 4])
@torch.inference_mode()
def test_quantization_takes_the_language_model_alone(model, original_folder, batch, bits):
    pytest.importorskip("bitsandbytes")
    options = BitsAndBytesConfig(**{f"load_in_{bits}bit": True}, bnb_4bit_compute_dtype=torch.float32)
    small = AutoModel.from_pretrained(original_folder, quantization_config=options).eval()
    quantized = {name for name, module in small.named_modules() if "bit" in type(module).__name__}
    assert quantized and all(name.startswith("model.language_model.layers.") for name in quantized)
    assert options.llm_int8_skip_modules is None
    seen = batch["attention_mask"].bool()
    exact = model(**batch).logits[seen]
    assert (small(**batch).logits[seen] - exact).abs().mean() < (0.05 if bits == 8 else 0.5) * exact.abs().mean()


@pytest.mark.parametrize("audio", AUDIO_ENCODERS)
@pytest.mark.parametrize("time", ["none", "crte", "rote", "learned"])
@torch.inference_mode()
def test_new_checkpoints_with_every_encoder_and_time_embedding(processor, tmp_path, audio, time):
    times = {"type": time, "max_time": 60.0}
    model = random_model(
        audio, video_time_embedding=times, audio_time_embedding=times, audio_merge_size=5, group_duration_sec=2.0
    )
    six_frames = OmniVinciProcessor.from_model_config(model.config, processor.tokenizer, num_frames=6)
    inputs = prepare(six_frames, [VIDEO, IMAGE, AUDIO, "What?"])
    # the video's sound is padded to 6 s: 30 embeddings and an end token, of which 5 s are ceil(31 * 5 / 6); the 3.2 s
    # sound takes two windows of 10
    assert (inputs["input_ids"] == 461).sum() == 26 + 20
    model.save_pretrained(tmp_path)
    six_frames.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path).eval()
    inputs_again = prepare(AutoProcessor.from_pretrained(tmp_path), [VIDEO, IMAGE, AUDIO, "What?"])
    logits = model(**inputs).logits
    assert torch.isfinite(logits).all() and torch.equal(again(**inputs_again).logits, logits)


def test_a_time_embedding_can_be_added_on_loading(tmp_path):
    random_model(audio_time_embedding={"type": "none"}).save_pretrained(tmp_path)
    model, info = OmniVinciForConditionalGeneration.from_pretrained(
        tmp_path, audio_time_embedding={"type": "learned", "max_time": 9.0}, output_loading_info=True
    )
    assert info["missing_keys"] == {"model.audio_time_embedding.table.weight"}
    assert 0.01 < model.model.audio_time_embedding.table.weight.std() < 0.03


@pytest.mark.parametrize("audio", ["qwen2_audio_encoder", "audioflamingo3_encoder"])
def test_fresh_position_tables_of_sound_are_sinusoids(audio):
    table = random_model(audio).model.audio_tower.embed_positions.weight
    assert table[0].tolist() == [0.0] * 24 + [1.0] * 24
    torch.testing.assert_close(table[1, 0], torch.tensor(1.0).sin())


def test_the_tensor_parallel_plan_names_layers_that_exist():
    model = random_model()
    plan = model.model.config.base_model_tp_plan
    assert plan
    names = {name.replace("layers.0", "layers.*") for name, _ in model.model.named_modules()}
    assert set(plan) <= names


# -- parts ----------------------------------------------------------------------------------------------------------


def test_the_projector_joins_row_offset_then_column_offset_then_channel():
    config = random_model(s2_scales=[56]).config
    projector = OmniVinciVisionProjector(config)
    seen = []
    projector.norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    maps = torch.zeros(1, 3, 3, 32)
    maps[0, 1, 0, 5] = 7.0  # row offset 1, column offset 0
    maps[0, 2, 1, 3] = 9.0  # last row: its lower half is padding; column offset 1
    assert projector(maps).shape == (1, 2, 2, 64)
    assert seen[0].shape == (1, 4, 128)
    assert seen[0][0, 0, 2 * 32 + 5] == 7.0 and seen[0][0, 2, 32 + 3] == 9.0
    assert seen[0].count_nonzero() == 2


def test_pooling_fills_up_with_the_mean_of_all_elements_of_the_remainder():
    maps = torch.arange(3 * 1 * 1 * 2, dtype=torch.float32).view(3, 1, 1, 2)
    pooled, times = pool_frames(maps, torch.tensor([0.0, 1.0, 5.0]), [2, 1, 1])
    # frames (0, 1), (2, 3) and (4, 5); the fourth is 4.5 everywhere
    assert pooled.flatten(1).tolist() == [[1.0, 2.0], [4.25, 4.75]]
    assert times.tolist() == [0.5, 5.0]


# -- ways of calling -------------------------------------------------------------------------------------------------


def test_placeholders_of_a_missing_modality_are_an_error(model, singles):
    inputs = {name: value for name, value in singles[4].items() if name not in ("pixel_values", "image_grids")}
    with pytest.raises(ValueError, match=r"has \d+ image placeholders but the image inputs give 0 embeddings"):
        model(**inputs)


@torch.inference_mode()
def test_placeholders_without_any_media_are_warned_of(model, singles, monkeypatch):
    # no error: Transformers' own checks call models with ids alone
    warnings = []
    monkeypatch.setattr(modeling_omnivinci.logger, "warning_once", warnings.append)
    assert torch.isfinite(model(input_ids=singles[2]["input_ids"]).logits).all()
    assert len(warnings) == 1 and "placeholders of ['image'] but no media were given" in warnings[0]


@torch.inference_mode()
def test_a_tuple_on_request(model, singles):
    output = model(**singles[1], return_dict=False)
    assert isinstance(output, tuple) and torch.equal(output[0], model(**singles[1]).logits)


@torch.no_grad()
def test_the_loss_over_the_last_positions(model, singles):
    labels = singles[1]["input_ids"]
    logits = model(**singles[1]).logits[:, -4:]
    by_hand = torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, -3:])
    torch.testing.assert_close(model(**singles[1], labels=labels, logits_to_keep=4).loss, by_hand)


@torch.no_grad()
def test_the_loss_at_chosen_positions(model, singles):
    labels = singles[1]["input_ids"]
    chosen = torch.tensor([0, 3, 4, labels.shape[1] - 2])
    logits = model(**singles[1]).logits[0, chosen]
    by_hand = torch.nn.functional.cross_entropy(logits, labels[0, chosen + 1])
    output = model(**singles[1], labels=labels, logits_to_keep=chosen)
    assert torch.equal(output.logits[0], logits)
    torch.testing.assert_close(output.loss, by_hand)


def test_token_types_of_the_processor_may_be_passed_on(model, processor):
    inputs = prepare(processor, [IMAGE, "What?"], return_mm_token_type_ids=True)
    assert len(model.generate(**inputs, **LENGTH, do_sample=False)[0]) == inputs["input_ids"].shape[1] + 6


def test_missing_companions_are_named(model, singles):
    inputs = {**singles[3]}
    del inputs["audio_num_windows"]
    with pytest.raises(ValueError, match=r"\['audio_num_windows'\] must be given too"):
        model(**inputs)


@torch.inference_mode()
def test_images_without_grids_are_single_tiles(model):
    tiles = torch.rand(3, 3, 56, 56)
    grids = torch.zeros(3, 2, dtype=torch.long)
    expected = model.get_image_features(tiles, grids).pooler_output
    torch.testing.assert_close(model.get_image_features(tiles).pooler_output, expected, rtol=0, atol=0)


@pytest.mark.parametrize("options", [{}, {"prompt_lookup_num_tokens": 2}], ids=["greedy", "lookup"])
@torch.no_grad()
def test_generation_goes_on_from_a_kept_cache(model, singles, options):
    inputs = dict(singles[2])
    cache = DynamicCache(config=model.config.get_text_config())
    ids = inputs["input_ids"]
    media = {name: inputs[name] for name in ("pixel_values", "image_grids")}
    model(input_ids=ids[:, :-6], past_key_values=cache, **media)
    assert generate(model, {**inputs, "past_key_values": cache}, **options) == generate(model, inputs)


# -- what learns ------------------------------------------------------------------------------------------------------


def test_what_is_never_run_does_not_learn_however_the_model_came_about(model, tmp_path):
    model.save_pretrained(tmp_path)
    fresh = OmniVinciForConditionalGeneration(model.config)
    expected = {name for name, parameter in fresh.named_parameters() if not parameter.requires_grad}
    assert any("encoder.layers.2" in name for name in expected) and any("embed_positions" in name for name in expected)
    for loaded in (model, OmniVinciForConditionalGeneration.from_pretrained(tmp_path)):
        assert {name for name, parameter in loaded.named_parameters() if not parameter.requires_grad} == expected


def test_frozen_towers_stay_in_evaluation_mode(original_folder):
    model = OmniVinciForConditionalGeneration.from_pretrained(original_folder)
    model.model.audio_tower.requires_grad_(False)
    model.train()
    assert not model.model.audio_tower.training and not model.model.audio_tower.layers[0].training
    assert model.model.vision_tower.training and model.model.language_model.training
