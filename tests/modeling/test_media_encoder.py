"""The media encoder works without a language model, in chunks: the same results whatever the size, bounded memory."""

import weakref

import pytest
import torch
from measuring import WaitCounter, count_operators, tensor_peak
from transformers import AutoModel

from omnivinci_hf import OmniVinciConfig, OmniVinciModel
from omnivinci_hf.omnivinci import media_encoder_omnivinci
from omnivinci_hf.omnivinci.configuration_omnivinci import TIME_EMBEDDINGS
from omnivinci_hf.omnivinci.media_encoder_omnivinci import OmniVinciMediaEncoder, read_numbers
from tests.support.small_model import AUDIO, AUDIO_ENCODERS, IMAGE, VIDEO, small_config, small_inputs, small_model


# two images of 1 + 4 + 6 and 1 + 4 + 9 tiles (6 and 9 of them in the last scale), and two of one tile
GRIDS = [[2, 3], [0, 0], [3, 3], [0, 0]]
NUM_TILES = 11 + 1 + 14 + 1
FRAMES = [5, 1, 7]
WINDOWS = [3, 1, 2]
SIZES = [1, 2, 4, 5, 100]  # 4 and 5 leave a rest


def media(model):
    generator = torch.Generator().manual_seed(0)
    per_window = model.config.audio_window_embeds
    return {
        "pixel_values": torch.rand(NUM_TILES, 3, 16, 16, generator=generator),
        "image_grids": torch.tensor(GRIDS),
        "pixel_values_videos": torch.rand(sum(FRAMES), 3, 16, 16, generator=generator),
        "video_num_frames": torch.tensor(FRAMES),
        "video_frame_times_ns": torch.cat([torch.arange(count) * 700_000_000 for count in FRAMES]),
        "input_features": torch.randn(sum(WINDOWS), 16, 40, generator=generator),
        "audio_num_windows": torch.tensor(WINDOWS),
        "audio_durations_ns": torch.tensor(WINDOWS) * 400_000_000,
        "audio_num_embeds": torch.tensor([2 * per_window + 3, 1, 2 * per_window]),
    }


def features(model, **options):
    """Of each modality, with everything that can be recorded."""
    inputs = media(model)
    video = {name: value for name, value in inputs.items() if "video" in name}
    audio = {name: value for name, value in inputs.items() if name.startswith(("input_features", "audio"))}
    return {
        "image": model.get_image_features(inputs["pixel_values"], inputs["image_grids"], **options),
        "video": model.get_video_features(**video, **options),
        "audio": model.get_audio_features(**audio, **options),
    }


def set_sizes(model, size):
    model.config.vision_chunk_size = model.config.audio_chunk_size = size


def with_placeholders(model):
    """One row with all the media, and the inputs of the model."""
    actual = features(model)
    ids = [6, 7]
    for modality, token in (("image", IMAGE), ("video", VIDEO), ("audio", AUDIO)):
        ids += [token] * len(torch.cat(actual[modality].pooler_output)) + [8]
    ids = torch.tensor([ids])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **media(model)}


def assert_same(actual, expected):
    for modality, output in expected.items():
        for name, value in output.items():
            torch.testing.assert_close(actual[modality][name], value)
        assert actual[modality].keys() == output.keys()


# -- the same results -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("audio", AUDIO_ENCODERS)
@torch.no_grad()
def test_features_do_not_depend_on_the_size_of_chunks(audio):
    model = small_model(audio, omni_align_config={"embed_dim": 8, "num_attention_heads": 2})
    model.set_attn_implementation("eager")  # the others give no attentions
    set_sizes(model, 1000)
    expected = features(model, output_hidden_states=True, output_attentions=True)
    assert expected["image"].last_hidden_state.shape == (NUM_TILES, 16, 32)
    assert [len(output.hidden_states) for output in expected.values()] == [3, 3, 3]
    assert [len(output.attentions) for output in expected.values()] == [2, 2, 2]
    assert [len(output.projected or ()) for output in expected.values()] == [0, 3, 3]
    for size in SIZES:
        set_sizes(model, size)
        assert_same(features(model, output_hidden_states=True, output_attentions=True), expected)


@pytest.mark.parametrize("pools", [[[2, 1, 1]], [[1, 2, 2], [3, 1, 1]], [[2, 3, 1]], [[4, 3, 3], [1, 1, 1]]], ids=str)
@torch.no_grad()
def test_pooling_over_frames_and_places_does_not_depend_on_it(pools):
    # 3 does not divide the 2 rows: what fills them up is a mean over the whole video
    model = small_model(video_pool_sizes=pools, omni_align_config={"embed_dim": 8, "num_attention_heads": 2})
    set_sizes(model, 1000)
    expected = features(model)
    for size in SIZES:
        set_sizes(model, size)
        assert_same(features(model), expected)


@pytest.mark.parametrize("kind", [kind for kind in TIME_EMBEDDINGS if kind != "none"])
@torch.no_grad()
def test_times_do_not_depend_on_it(kind):
    time = {"type": kind, "max_time": 60.0 if "max_time" in TIME_EMBEDDINGS[kind].settings else None}
    model = small_model(video_time_embedding=time, audio_time_embedding=time, audio_merge_size=2)
    set_sizes(model, 1000)
    expected = features(model)
    for size in SIZES:
        set_sizes(model, size)
        assert_same(features(model), expected)


@torch.no_grad()
def test_the_whole_model_does_not_depend_on_it():
    model = small_model(s2_output_scale_index=-1)
    inputs = with_placeholders(model)
    set_sizes(model, 1000)
    expected, ids = model(**inputs).logits, model.generate(**inputs, max_new_tokens=4)
    for size in SIZES:
        set_sizes(model, size)
        torch.testing.assert_close(model(**inputs).logits, expected)
        assert torch.equal(model.generate(**inputs, max_new_tokens=4), ids)


@pytest.mark.parametrize("frozen", [(), ("embed_tokens",), ("vision_tower", "audio_tower")], ids=str)
def test_gradients_do_not_depend_on_it(frozen):
    model = small_model(omni_align_config={"embed_dim": 8, "num_attention_heads": 2}).train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad &= not any(part in name for part in frozen)
    if frozen:
        model.enable_input_require_grads()
    inputs = with_placeholders(model)
    inputs.update(video_has_audio=torch.tensor([True] * 3), audio_from_video=torch.tensor([True] * 3))
    gradients = []
    for size in (1000, 1, 4):
        set_sizes(model, size)
        model.zero_grad()
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        gradients.append({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
    assert gradients[0] and any("projector" in name for name in gradients[0])
    for actual in gradients[1:]:
        torch.testing.assert_close(actual, gradients[0], rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_features_equal_what_stands_in_the_sequence():
    model = small_model()
    inputs = with_placeholders(model)
    embeds = model.model.embed_inputs(**{name: inputs[name] for name in inputs if name != "attention_mask"})
    for (modality, output), token in zip(features(model).items(), (IMAGE, VIDEO, AUDIO), strict=True):
        assert torch.equal(embeds[inputs["input_ids"] == token], torch.cat(output.pooler_output)), modality


@pytest.mark.parametrize("gradients", [False, True])
def test_embeddings_that_were_given_are_not_written_to(gradients):
    model = small_model()
    inputs = small_inputs()
    embeds = model.get_input_embeddings()(inputs.pop("input_ids")).detach()
    before = embeds.clone()
    with torch.set_grad_enabled(gradients):
        model(inputs_embeds=embeds, **inputs)
    assert torch.equal(embeds, before)


@torch.no_grad()
def test_a_sound_of_which_nothing_is_kept():
    model = small_model()
    inputs = media(model)
    audio = {name: value for name, value in inputs.items() if name.startswith(("input_features", "audio"))}
    everything = model.get_audio_features(**{**audio, "audio_num_embeds": None}).pooler_output
    assert [len(sound) for sound in everything] == [10 * count for count in WINDOWS]
    kept = model.get_audio_features(**{**audio, "audio_num_embeds": torch.tensor([0, 4, 1000])}).pooler_output
    assert [len(sound) for sound in kept] == [0, 4, 10 * WINDOWS[2]]
    assert torch.equal(torch.cat(kept), torch.cat((everything[1][:4], everything[2])))
    nothing = model.get_audio_features(**{**audio, "audio_num_embeds": torch.tensor([0, 0, 0])})
    assert [sound.shape for sound in nothing.pooler_output] == [(0, 32)] * 3
    assert len(nothing.last_hidden_state) == sum(WINDOWS)


@pytest.mark.parametrize("name", ["pixel_values", "pixel_values_videos", "input_features"])
def test_media_without_any_row_are_no_media(name):
    model, inputs = small_model(), small_inputs()
    modality = {"pixel_values": "image", "pixel_values_videos": "video", "input_features": "audio"}[name]
    given = {other: value[:0] for other, value in inputs.items() if other == name or other.startswith(modality)}
    ids = torch.tensor([[7, 8, 9]])
    assert torch.equal(model(ids, **given).logits, model(ids).logits)
    for options in ({}, {"num_beams": 2}, {"prefill_chunk_size": 2}):
        actual = model.generate(ids, **given, max_new_tokens=2, do_sample=False, **options)
        assert torch.equal(actual, model.generate(ids, max_new_tokens=2, do_sample=False, **options))
    assert getattr(model, f"get_{modality}_features")(**given).pooler_output == ()
    with pytest.raises(ValueError, match=f"1 {modality} placeholders but the {modality} inputs give 0"):
        model(torch.tensor([[7, getattr(model.config, f"{modality}_token_id"), 9]]), **given)


# -- without a language model -----------------------------------------------------------------------------------------


def small_aligned_model(audio="qwen2_audio_encoder"):
    times = {"type": "learned", "max_time": 9.0}
    aligned = {"embed_dim": 8, "num_attention_heads": 2}
    return small_model(audio, video_time_embedding=times, audio_time_embedding=times, omni_align_config=aligned)


@pytest.mark.parametrize("audio", AUDIO_ENCODERS)
@torch.no_grad()
def test_the_encoder_built_alone_gives_the_same_bits(audio):
    model = small_aligned_model(audio)
    encoder = OmniVinciMediaEncoder(OmniVinciConfig(**model.config.to_dict())).eval()
    others = ("language_model.", "omni_align_net.")
    weights = {name: value for name, value in model.model.state_dict().items() if not name.startswith(others)}
    encoder.load_state_dict(weights, strict=True)
    expected, given = features(model, output_hidden_states=True), features(encoder, output_hidden_states=True)
    for modality, output in expected.items():
        assert output.keys() == given[modality].keys()
        for name, value in output.items():
            assert all(map(torch.equal, value, given[modality][name])), (modality, name)


@torch.no_grad()
def test_the_encoder_is_loaded_alone_from_a_whole_checkpoint(tmp_path):
    model = small_aligned_model()
    model.save_pretrained(tmp_path)
    encoder, info = OmniVinciMediaEncoder.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert not any(isinstance(module, type(model.model.language_model)) for module in encoder.modules())
    expected = features(model)
    for modality, output in features(encoder).items():
        assert all(map(torch.equal, output.pooler_output, expected[modality].pooler_output)), modality


@pytest.mark.parametrize("auto_class", [AutoModel, OmniVinciModel])
def test_a_saved_encoder_is_no_model_with_a_random_language_model(tmp_path, auto_class):
    encoder = OmniVinciMediaEncoder(small_aligned_model().config)
    encoder.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a media encoder without a language model"):
        auto_class.from_pretrained(tmp_path)
    again = OmniVinciMediaEncoder.from_pretrained(tmp_path)
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_model_still_tells_of_weights_that_it_has_no_place_for(tmp_path):
    small_aligned_model().save_pretrained(tmp_path)
    _, info = OmniVinciModel.from_pretrained(tmp_path, omni_align_config=None, output_loading_info=True)
    assert any("omni_align_net" in name for name in info["unexpected_keys"])


def test_an_unknown_input_is_refused():
    with pytest.raises(TypeError, match=r"\['pixels'\] are no inputs of media"):
        small_model().model.embed_inputs(torch.tensor([[7]]), pixels=None)


# -- the size ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def sizes():
    """Numbers of tiles, frames and windows that the towers read."""

    def read(model):
        seen = []
        for tower in (model.model.vision_tower, model.model.audio_tower):
            tower.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
        with torch.no_grad():
            features(model)
        return seen

    return read


def test_the_size_is_taken_from_the_config(sizes):
    assert sizes(small_model(vision_chunk_size=10, audio_chunk_size=4)) == [10, 10, 7, 10, 3, 4, 2]


def test_by_default_a_chunk_has_so_many_positions(sizes, monkeypatch):
    # 16 patches a tile, 20 positions a window
    monkeypatch.setattr(media_encoder_omnivinci, "CHUNK_POSITIONS_ON_CPU", 16 * 12 + 5)
    assert sizes(small_model()) == [12, 12, 3, 12, 1, 6]
    monkeypatch.setattr(media_encoder_omnivinci, "CHUNK_POSITIONS_ON_CPU", 7)
    assert sizes(small_model()) == [1] * (NUM_TILES + sum(FRAMES) + sum(WINDOWS))


@pytest.fixture
def two_processes(monkeypatch):
    monkeypatch.setattr(media_encoder_omnivinci.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(media_encoder_omnivinci.dist, "get_world_size", lambda: 2)


@pytest.mark.parametrize("mark", ["ds_id", "_is_fsdp_managed_module"])
def test_all_at_once_where_processes_share_out_the_weights(sizes, monkeypatch, two_processes, mark):
    monkeypatch.setattr(media_encoder_omnivinci, "CHUNK_POSITIONS_ON_CPU", 1)
    model = small_model()
    for tower in (model.model.vision_tower, model.model.audio_tower):
        layer = tower.get_submodule("encoder.layers.0" if tower is model.model.vision_tower else "layers.0")
        setattr(next(layer.parameters()) if mark == "ds_id" else layer, mark, True)
    assert sizes(model) == [NUM_TILES, sum(FRAMES), sum(WINDOWS)]
    set_sizes(model, 20)
    assert sizes(model)[-4:] == [20, 7, 13, 6]


def test_in_chunks_where_each_process_has_all_weights(sizes, monkeypatch, two_processes):
    monkeypatch.setattr(media_encoder_omnivinci, "CHUNK_POSITIONS_ON_CPU", 16 * 12 + 5)
    assert sizes(small_model()) == [12, 12, 3, 12, 1, 6]


def test_a_tower_that_learns_with_others_runs_once(monkeypatch, two_processes):
    monkeypatch.setattr(media_encoder_omnivinci, "CHUNK_POSITIONS_ON_CPU", 16 * 12 + 5)
    model, seen = small_model(), []
    model.model.vision_tower.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    features(model)
    model.model.vision_tower.requires_grad_(False)
    features(model)
    assert seen == [NUM_TILES, sum(FRAMES), 12, 12, 3, 12, 1]


def test_larger_chunks_where_weights_are_fetched_for_each(sizes, monkeypatch):
    from accelerate import cpu_offload

    monkeypatch.setattr(media_encoder_omnivinci, "CHUNK_POSITIONS_ON_CPU", 1)
    model = small_model()
    for tower in (model.model.vision_tower, model.model.audio_tower):
        cpu_offload(tower, execution_device="cpu")
    monkeypatch.setattr(media_encoder_omnivinci, "CHUNK_POSITIONS_OFFLOADED", 16 * 12 + 5)
    assert sizes(model) == [12, 12, 3, 12, 1, 6]


@pytest.mark.parametrize("name", ["vision_chunk_size", "audio_chunk_size"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_sizes_that_cannot_be(name, value):
    match = f"`{name}` must be (at least 1|a whole number), got {value}"
    with pytest.raises(ValueError, match=match):
        small_config(**{name: value})
    model = small_model()
    setattr(model.config, name, value)
    with pytest.raises(ValueError, match=match):
        features(model)


def test_the_size_may_be_given_when_the_model_is_loaded(tmp_path, sizes):
    small_model().save_pretrained(tmp_path)
    model = type(small_model()).from_pretrained(tmp_path, vision_chunk_size=9)
    assert sizes(model) == [9, 9, 9, 9, 4, 6]


# -- memory -----------------------------------------------------------------------------------------------------------


def long_media(config, num_frames, num_windows):
    """Ids and inputs of one video, or of one sound."""
    if num_frames:
        count = num_frames * 4
        inputs = {
            "pixel_values_videos": torch.rand(num_frames, 3, 16, 16),
            "video_num_frames": torch.tensor([num_frames]),
            "video_frame_times_ns": torch.arange(num_frames) * 500_000_000,
        }
    else:
        count = num_windows * config.audio_window_embeds
        inputs = {
            "input_features": torch.rand(num_windows, 16, config.audio_window_frames),
            "audio_num_windows": torch.tensor([num_windows]),
            "audio_durations_ns": torch.tensor([num_windows * 400_000_000]),
        }
    return {"input_ids": torch.full((1, count), VIDEO if num_frames else AUDIO), **inputs}


@pytest.mark.parametrize("time", ["crte", "lang_seconds"])
@pytest.mark.parametrize("kind", ["frames", "windows"])
def test_memory_beyond_the_embeddings_does_not_grow(kind, time):
    time = {"type": time, "max_time": 3600.0}
    model = small_model(vision_chunk_size=32, audio_chunk_size=16, video_time_embedding=time, audio_time_embedding=time)
    peaks = []
    for length in (64, 512):
        inputs = long_media(model.config, *((length, 0) if kind == "frames" else (0, length)))
        per_position = 16 * inputs["input_ids"].numel()  # of ids, masks and their numbers
        with torch.no_grad():
            peak = tensor_peak(lambda inputs=inputs: model.model.embed_inputs(**inputs))
        peaks.append(peak - (4 * 32) * inputs["input_ids"].numel() - per_position)
    assert 0 < peaks[1] < 1.15 * peaks[0]


@torch.no_grad()
def test_what_a_tower_gives_for_a_chunk_is_not_kept():
    model = small_model(vision_chunk_size=2, audio_chunk_size=1)
    inputs = with_placeholders(model)
    alive, given = [], []
    for tower in (model.model.vision_tower, model.model.audio_tower):
        tower.register_forward_pre_hook(lambda *_: alive.append(sum(ref() is not None for ref in given)))
        tower.register_forward_hook(lambda m, i, output: given.append(weakref.ref(output.last_hidden_state)))
    model(**inputs)
    # an image waits for its last tiles: at most 14, in chunks of two, and the chunk before
    assert len(given) == 14 + 7 + 6 and max(alive[14:]) <= 1 and max(alive) <= 8
    assert not any(ref() is not None for ref in given)


# -- waiting for the device -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["input_ids", "inputs_embeds"])
@torch.no_grad()
def test_one_transfer_a_prefill(given):
    model = small_model()
    inputs = with_placeholders(model)
    if given == "inputs_embeds":
        inputs["inputs_embeds"] = model.get_input_embeddings()(inputs.pop("input_ids"))
    with WaitCounter() as waits:
        model(**inputs)
    assert waits.counts["omnivinci_hf"] == 1
    with WaitCounter() as waits:
        model(**{name: inputs[name] for name in (given, "attention_mask")})
    assert waits.counts["omnivinci_hf"] <= 1


@torch.no_grad()
def test_no_loop_over_tokens():
    model = small_model()
    counts = []
    for length in (8, 16):
        inputs = long_media(model.config, length, 0)
        counts.append(count_operators(lambda inputs=inputs: model(**inputs, logits_to_keep=1), "cpu"))
    assert counts[0] == counts[1]


def test_numbers_come_in_the_shape_of_their_tensors():
    tensors = {"a": torch.tensor([[1, 2], [3, 4]]), "b": torch.tensor([5], dtype=torch.int32), "c": None}
    empty = {"d": torch.empty(0, 2, dtype=torch.long), "e": torch.empty(0)}
    assert read_numbers({**tensors, **empty}) == {"a": [[1, 2], [3, 4]], "b": [5], "c": None, "d": [], "e": []}
