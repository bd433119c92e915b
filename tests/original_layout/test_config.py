import copy
import json
import shutil

import pytest
from transformers import AutoConfig, AutoTokenizer

from omnivinci_hf import OmniVinciConfig
from omnivinci_hf.omnivinci.checkpoint_files_omnivinci import is_original_config
from omnivinci_hf.original_layout.config import (
    COMPONENTS,
    load_original_tokenizer,
    map_original_config,
    map_original_processor_options,
)
from omnivinci_hf.original_layout.findings import Findings
from omnivinci_hf.original_layout.keys import FLAGS
from omnivinci_hf.testing.tiny import SPECIAL_TOKENS, TOKENIZER_VOCAB_SIZE, write_tiny_checkpoint


# token -> id in the tiny tokenizer: the special tokens follow the words
IDS = {token: TOKENIZER_VOCAB_SIZE + number for number, token in enumerate(SPECIAL_TOKENS)}
DELETED = object()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("original") / "checkpoint")


@pytest.fixture
def original(folder):
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def patched(values, patch):
    """A copy with `patch` applied: dictionaries merge, `DELETED` removes, everything else replaces."""
    values = copy.deepcopy(values)
    for name, value in patch.items():
        if value is DELETED:
            values.pop(name)
        else:
            merged = isinstance(value, dict) and isinstance(values.get(name), dict)
            values[name] = patched(values[name], value) if merged else value
    return values


def mapped(original, **patch):
    """The config of the patched file, built, so that its checks have run."""
    return OmniVinciConfig(**map_original_config(patched(original, patch)))


@pytest.mark.parametrize("text", [str, lambda number: f"{number}.0"])
def test_numbers_may_be_strings(original, text):
    encoder = {"embed_time": "True", "period_fix": "True", "time_embed_type": "pixel"}
    words = {"s2_resize_output_to_scale_idx": text(1), "max_tiles": text(20)}
    words["video_encoder"] = {**encoder, "max_time": text(3600), "trope_dim": text(32)}
    config = mapped(original, interleaved_video_segment_duration=text(15), **words)
    assert (config.s2_output_scale_index, config.max_tiles, config.group_duration_sec) == (1, 20, 15)
    assert (config.video_time_embedding.max_time, config.video_time_embedding.dim) == (3600, 32)


def test_keys_that_are_absent_have_the_defaults_of_the_original_code(original):
    groups = ("interleaved_vis_aud_in_video", "interleaved_video_segment_duration")
    kept = {name: value for name, value in original.items() if name not in groups}
    assert OmniVinciConfig(**map_original_config(kept)).group_duration_sec == 30


def test_only_the_original_model_type_counts():
    assert is_original_config({"model_type": "vila"})
    assert not is_original_config({"model_type": "omnivinci"})
    assert not is_original_config({})


class TestPlainOptions:
    def test_components_become_sub_configs(self, original):
        config = mapped(original)
        assert (config.vision_config.model_type, config.vision_config.hidden_size) == ("siglip_vision_model", 32)
        assert (config.audio_config.model_type, config.audio_config.d_model) == ("qwen2_audio_encoder", 48)
        assert (config.text_config.model_type, config.text_config.hidden_size) == ("qwen2", 64)

    def test_sizes_of_the_language_model_arrive(self, original):
        text = mapped(original, llm_cfg={"rope_theta": 12345.0, "num_key_value_heads": 1}).text_config
        assert text.rope_parameters["rope_theta"] == 12345
        assert text.num_key_value_heads == 1

    @pytest.mark.parametrize(
        ("patch", "name", "value"),
        [
            ({}, "vision_feature_layer", -2),
            ({"mm_vision_select_layer": -1}, "vision_feature_layer", -1),
            ({}, "s2_output_scale_index", 0),
            ({"s2_resize_output_to_scale_idx": -1}, "s2_output_scale_index", -1),
            ({}, "max_tiles", 12),
            ({"max_tiles": 16}, "max_tiles", 16),
            ({"max_tiles": 4, "image_aspect_ratio": "resize"}, "max_tiles", 9),
            ({}, "use_modality_boundary_tokens", False),
            ({"mm_use_bos_eos_tokens": True}, "use_modality_boundary_tokens", True),
            ({}, "s2_scales", [56, 112, 168]),
            ({"s2_scales": "168,56,112"}, "s2_scales", [56, 112, 168]),
            ({"s2_scales": [56, 112]}, "s2_scales", [56, 112]),
            ({"dynamic_s2": False}, "s2_scales", [56]),
            ({"video_encoder": {"pool_sizes": [[1, 1, 1], [2, 2, 2]]}}, "video_pool_sizes", [[1, 1, 1], [2, 2, 2]]),
            ({"video_encoder": {"pool_sizes": DELETED}}, "video_pool_sizes", [[1, 1, 1]]),
            ({}, "group_duration_sec", 30),
            ({"interleaved_video_segment_duration": 10}, "group_duration_sec", 10),
            ({"interleaved_video_segment_duration": DELETED}, "group_duration_sec", 30),
            ({"interleaved_vis_aud_in_video": False}, "group_duration_sec", None),
            ({"interleaved_vis_aud_in_video": DELETED}, "group_duration_sec", 30),
            ({"llm_cfg": {"tie_word_embeddings": True}}, "tie_word_embeddings", True),
        ],
    )
    def test_option(self, original, patch, name, value):
        assert getattr(mapped(original, **patch), name) == value

    @pytest.mark.parametrize("dtype", ["bfloat16", "torch.bfloat16"])
    def test_dtype_has_one_spelling(self, original, dtype):
        assert map_original_config(patched(original, {"torch_dtype": dtype}))["dtype"] == "bfloat16"

    def test_architecture_is_ours_and_remote_code_is_forgotten(self, original):
        values = map_original_config(original)
        assert values["architectures"] == ["OmniVinciForConditionalGeneration"]
        assert "auto_map" not in values

    def test_quantization_is_kept(self, original):
        quantization = {"quant_method": "bitsandbytes", "load_in_4bit": True}
        values = map_original_config(patched(original, {"quantization_config": quantization}))
        assert values["quantization_config"] == quantization

    def test_input_stays_as_it_was(self, folder, original):
        before = copy.deepcopy(original)
        OmniVinciConfig(**map_original_config(original, str(folder)))
        map_original_processor_options(original)
        assert original == before

    def test_encoders_may_be_json_in_strings(self, original):
        strings = {name: json.dumps(original[name]) for name in ("image_encoder", "video_encoder", "sound_encoder")}
        assert map_original_config({**original, **strings}) == map_original_config(original)


class TestBoundaryTokens:
    def test_absent_keys_take_the_original_codes_defaults(self, original):
        assert mapped(original).boundary_tokens == {
            "image_start": None,
            "image_end": "\n",
            "video_start": None,
            "video_end": None,
            "video_sep": None,
            "audio_start": None,
            "audio_end": "\n",
            "group_end": "\n",
        }

    @pytest.mark.parametrize("nothing", ["None", None, ""])
    @pytest.mark.parametrize(
        ("encoder", "name"),
        [("video_encoder", "video_end"), ("sound_encoder", "audio_end")],
    )
    def test_every_spelling_of_none(self, original, encoder, name, nothing):
        assert mapped(original, **{encoder: {"end_tokens": nothing}}).boundary_tokens[name] is None

    def test_texts_are_taken_as_they_are(self, original):
        tokens = mapped(
            original,
            video_encoder={"start_tokens": "<|video_bos|>", "sep_tokens": "theend."},
            sound_encoder={"start_tokens": "<|sound_bos|>", "end_tokens": "None"},
        ).boundary_tokens
        assert (tokens["video_start"], tokens["video_sep"]) == ("<|video_bos|>", "theend.")
        assert (tokens["audio_start"], tokens["audio_end"]) == ("<|sound_bos|>", None)

    def test_options_of_images_are_those_of_one_folder_alone(self, original):
        original["image_encoder"] = {"start_tokens": "i", "end_tokens": "j", "new": 1}
        findings = Findings()
        tokens = map_original_config(original, findings=findings)["boundary_tokens"]
        assert (tokens["image_start"], tokens["image_end"]) == (None, "\n")
        levels = {one.key: one.level for one in findings if one.key.startswith("image_encoder.")}
        assert levels == {
            "image_encoder.start_tokens": "unusual",
            "image_encoder.end_tokens": "unusual",
            "image_encoder.new": "ignored",
        }
        del original["image_encoder"]["new"]
        tokens = map_original_config(original, reads_image_encoder=True)["boundary_tokens"]
        assert (tokens["image_start"], tokens["image_end"]) == ("i", "j")

    @pytest.mark.parametrize("end_tokens", ["\n", DELETED])
    def test_frame_end_tokens_need_interleaving_off(self, original, end_tokens):
        patch = {"video_encoder": {"end_tokens": end_tokens}}
        with pytest.raises(ValueError, match="'video_end'.*cannot be combined with `group_duration_sec`=30"):
            mapped(original, **patch)
        assert mapped(original, **patch, interleaved_vis_aud_in_video=False).boundary_tokens["video_end"] == "\n"


class TestTimeEmbedding:
    # patch of both encoder descriptions ("True", "pixel", "True", max_time 3600, trope_dim 32 in the file)
    # -> (type, dim, max_time) of both
    @pytest.mark.parametrize(
        ("patch", "expected"),
        [
            ({}, ("pixel_periodic", 32, 3600)),  # t_pixel_true
            ({"period_fix": False}, ("pixel_seconds", 32, 3600)),  # t_pixel_false
            ({"period_fix": True}, ("pixel_seconds", 32, 3600)),  # t_pixel_booltrue
            ({"period_fix": "False"}, ("pixel_seconds", 32, 3600)),
            ({"period_fix": None}, ("pixel_seconds", 32, 3600)),
            ({"period_fix": DELETED}, ("pixel_seconds", 32, 3600)),
            ({"period_fix": "True", "max_time": None}, ("pixel_periodic", 32, None)),  # t_pixel_true_notime
            ({"period_fix": False, "max_time": None}, ("pixel_seconds", 32, None)),  # t_pixel_false_notime
            ({"max_time": DELETED}, ("pixel_periodic", 32, None)),
            ({"trope_dim": 16}, ("pixel_periodic", 16, 3600)),  # t_pixel_true_dim16
            ({"period_fix": "MTCT"}, ("mtct_shortest", 32, 3600)),  # t_pixel_mtct
            ({"period_fix": "shortest"}, ("mtct_shortest", 32, 3600)),  # t_pixel_shortest
            ({"period_fix": "longest"}, ("mtct_longest", 32, 3600)),  # t_pixel_longest
            ({"time_embed_type": "lang"}, ("lang_periodic", 32, 3600)),  # t_lang_true
            ({"time_embed_type": "lang", "period_fix": False}, ("lang_seconds", 32, 3600)),  # t_lang_false
            ({"time_embed_type": "lang", "max_time": None}, ("lang_periodic", 32, None)),  # t_lang_true_notime
            (
                {"time_embed_type": "lang", "period_fix": False, "max_time": None},  # t_lang_false_notime
                ("lang_seconds", 32, None),
            ),
            ({"time_embed_type": "lang", "period_fix": "MTCT"}, ("mtct_shortest", 32, 3600)),  # t_lang_mtct
            ({"time_embed_type": "lang", "period_fix": "shortest"}, ("mtct_shortest", 32, 3600)),
            ({"time_embed_type": "lang", "period_fix": "longest"}, ("mtct_longest", 32, 3600)),
            ({"time_embed_type": DELETED}, ("pixel_periodic", 32, 3600)),
            ({"trope_dim": DELETED}, ("pixel_periodic", 32, 3600)),  # half of the 64 channels
            ({"embed_time": True}, ("pixel_periodic", 32, 3600)),
            ({"embed_time": "False"}, None),  # t_false
        ],
    )
    def test_every_spelling(self, original, patch, expected):
        config = mapped(original, video_encoder=patch, sound_encoder=patch)
        for embedding in (config.video_time_embedding, config.audio_time_embedding):
            if expected is None:
                assert embedding.type == "none"
            else:
                assert (embedding.type, embedding.dim, embedding.max_time) == expected

    @pytest.mark.parametrize(
        ("embed_time", "video", "audio"),
        [
            ("False", "none", "none"),
            (False, "pixel_periodic", "none"),  # the video's check knows the string only
            (True, "pixel_periodic", "pixel_periodic"),
            ("True", "pixel_periodic", "pixel_periodic"),
            (DELETED, "none", "pixel_periodic"),
        ],
    )
    def test_switching_off_differs_between_video_and_sound(self, original, embed_time, video, audio):
        patch = {"embed_time": embed_time}
        config = mapped(original, video_encoder=patch, sound_encoder=patch)
        assert (config.video_time_embedding.type, config.audio_time_embedding.type) == (video, audio)

    def test_each_encoder_has_its_own(self, original):  # t_video_only
        config = mapped(original, sound_encoder={"embed_time": "False"})
        assert config.video_time_embedding.type == "pixel_periodic"
        assert config.audio_time_embedding.type == "none"

    @pytest.mark.parametrize(
        "patch",
        [
            {"trope_dim": DELETED, "time_embed_type": DELETED},
            {"trope_dim": DELETED, "embed_time": True},
        ],
    )
    def test_width_is_128_where_the_original_code_does_not_work_it_out(self, original, patch):
        values = map_original_config(patched(original, {"video_encoder": patch, "sound_encoder": patch}))
        assert (values["video_time_embedding"]["dim"], values["audio_time_embedding"]["dim"]) == (128, 128)

    def test_base_of_the_frequencies_matters_to_lang_without_max_time_alone(self, original):
        assert mapped(original).video_time_embedding.theta is None
        lang = {"time_embed_type": "lang", "max_time": None}
        config = mapped(original, video_encoder=lang, sound_encoder=lang)
        assert (config.video_time_embedding.theta, config.audio_time_embedding.theta) == (50000, 10000)
        config = mapped(original, video_encoder={**lang, "trope_theta": 7}, sound_encoder={**lang, "trope_theta": 8})
        assert (config.video_time_embedding.theta, config.audio_time_embedding.theta) == (7, 10000)

    @pytest.mark.parametrize("value", [False, "False"])
    def test_flags_may_be_strings(self, original, value):
        config = mapped(original, mm_use_bos_eos_tokens=value, interleaved_vis_aud_in_video=value)
        assert config.use_modality_boundary_tokens is False and config.group_duration_sec is None

    def test_a_flag_that_is_none_is_refused(self, original):
        with pytest.raises(
            ValueError, match="mm_use_bos_eos_tokens of config.json cannot be read. Expected a boolean, got 'maybe'"
        ):
            mapped(original, mm_use_bos_eos_tokens="maybe")

    @pytest.mark.parametrize(("encoder", "modality"), [("video_encoder", "video"), ("sound_encoder", "audio")])
    def test_learned_embedding_is_refused(self, original, encoder, modality):  # t_learned
        with pytest.raises(ValueError, match=f"original {modality} option time_embed_type='learned_embed' is not"):
            mapped(original, **{encoder: {"time_embed_type": "learned_embed", "period_fix": False}})


class TestRefusals:
    @pytest.mark.parametrize("value", [None, {}, ""])
    def test_checkpoint_without_description_of_the_sound_tower(self, original, value):
        message = r"VILA checkpoint \(`model_type`='vila'\) without sound_tower: only the omni-modal one"
        with pytest.raises(ValueError, match=message):
            map_original_config({**original, "sound_tower_cfg": value})

    def test_every_missing_component_is_named(self, original):
        with pytest.raises(ValueError, match="without sound_tower and sound_mm_projector: only"):
            mapped(original, sound_tower_cfg=None, sound_mm_projector_cfg=None)

    @pytest.mark.parametrize(
        ("patch", "message"),
        [
            (
                {"mm_projector_cfg": {"mm_projector_type": "mlp_downsample_3x3_fix"}},
                r"mm_projector_cfg.mm_projector_type='mlp_downsample_3x3_fix' is not supported; known are \('mlp_dow",
            ),
            (
                {"sound_mm_projector_cfg": {"sound_mm_projector_type": "mlp2x"}, "sound_mm_projector": DELETED},
                r"sound_mm_projector_cfg.sound_mm_projector_type='mlp2x' is not supported; known are \('mlp',\)",
            ),
            ({"image_aspect_ratio": "pad"}, "image_aspect_ratio='pad' is not supported"),
            ({"mm_vision_select_feature": "patch"}, "mm_vision_select_feature='patch' is not supported"),
            ({"num_time_tokens": 100}, "num_time_tokens=100 is not supported"),
        ],
    )
    def test_unknown_mode(self, original, patch, message):
        with pytest.raises(ValueError, match=message):
            mapped(original, **patch)


class TestProcessorOptions:
    @pytest.mark.parametrize(
        ("length", "seconds"), [("max_30", 30), ("max_3600", 3600), ("max", None), (30, 30), ("30", 30), (2.5, 2.5)]
    )
    def test_limit_of_the_sound(self, original, length, seconds):
        options = map_original_processor_options({**original, "audio_chunk_length": length})
        assert options["max_audio_sec"] == seconds

    def test_options_are_renamed(self, original):
        assert map_original_processor_options(original) == {
            "load_audio_from_video": True,
            "num_frames": 8,
            "sampling_rate": 16000,
            "hop_length": 160,
            "max_audio_sec": 3600,
        }

    def test_frame_rate_is_not_read(self, original):
        findings = Findings()
        assert "fps" not in map_original_processor_options({**original, "fps": 2}, findings)
        assert [(one.level, one.key) for one in findings] == [("unusual", "fps")]

    @pytest.mark.parametrize("fps", [0, "0", "0.0", None, "None"])
    def test_frame_rate_of_zero_is_none(self, original, fps):
        findings = Findings()
        assert "fps" not in map_original_processor_options({**original, "fps": fps}, findings) and not findings

    def test_numbers_may_be_strings(self, original):
        strings = {"fps": "2", "num_video_frames": "8", "audio_sampling_rate": "16000", "audio_hop_length": "160"}
        numbers = {"fps": 2, "num_video_frames": 8, "audio_sampling_rate": 16000, "audio_hop_length": 160}
        options = [map_original_processor_options({**original, **values}) for values in (strings, numbers)]
        assert options[0] == options[1] and type(options[0]["num_frames"]) is int

    def test_absent_options_have_the_defaults_of_the_original_code(self):
        assert map_original_processor_options({}) == {
            "load_audio_from_video": True,
            "sampling_rate": 16000,
            "hop_length": 60,
            "max_audio_sec": 120,
        }

    @pytest.mark.parametrize("nothing", [None, "None"])
    def test_a_null_stands_for_an_absent_option(self, nothing):
        names = ("num_video_frames", "audio_chunk_length", "audio_hop_length")
        assert map_original_processor_options(dict.fromkeys(names, nothing)) == map_original_processor_options({})

    @pytest.mark.parametrize("nothing", [None, "None"])
    def test_a_flag_that_is_null_is_false(self, original, nothing):
        original.update(load_audio_in_video=nothing, interleaved_vis_aud_in_video=nothing)
        findings = Findings()
        assert map_original_processor_options(original, findings)["load_audio_from_video"] is False
        assert map_original_config(original)["group_duration_sec"] is None
        assert {one.key for one in findings if one.level == "unusual"} == set(FLAGS)


class TestValuesThatCannotBeRead:
    @pytest.mark.parametrize(
        ("patch", "message"),
        [
            ({"load_audio_in_video": "yes"}, "load_audio_in_video of config.json cannot be read. Expected a boolean"),
            (
                {"num_video_frames": "many"},
                "num_video_frames of config.json cannot be read. Expected a number, got 'ma",
            ),
            ({"num_video_frames": "7.9"}, "num_video_frames of config.json cannot be read. Expected a whole number, g"),
            ({"audio_hop_length": True}, "audio_hop_length of config.json cannot be read. Expected a number, got True"),
        ],
    )
    def test_of_the_processor(self, original, patch, message):
        findings = Findings()
        with pytest.raises(ValueError, match=message):
            map_original_processor_options({**original, **patch}, findings)
        assert [one.key for one in findings if one.level == "refused"] == list(patch)

    @pytest.mark.parametrize(
        ("patch", "message"),
        [
            ({"s2_scales": "small"}, "s2_scales of config.json cannot be read. Expected a number, got 'small'"),
            ({"s2_scales": 448}, "s2_scales of config.json cannot be read. Expected the sides of the scales in pixels"),
            ({"max_tiles": 4}, r"max_tiles=4, but the largest of s2_scales='56,112,168' needs 9 tiles"),
            ({"torch_dtype": "bf17"}, "torch_dtype of config.json cannot be read. Expected the name of a dtype"),
            (
                {"video_encoder": {"trope_dim": "wide", "embed_time": "True"}},
                "video_encoder.trope_dim of config.json cannot be read. Expected a number, got 'wide'",
            ),
            ({"interleaved_video_segment_duration": "1/2"}, "interleaved_video_segment_duration of config.json cannot"),
        ],
    )
    def test_of_the_model(self, original, patch, message):
        with pytest.raises(ValueError, match=message):
            mapped(original, **patch)

    def test_all_are_named_at_once(self, original):
        with pytest.raises(ValueError, match="max_tiles(.|\n)*s2_scales(.|\n)*trope_dim"):
            mapped(original, max_tiles="few", s2_scales="small", video_encoder={"trope_dim": "wide"})


class TestComponents:
    @pytest.fixture
    def other_folder(self, folder, tmp_path):
        shutil.copytree(folder, tmp_path / "copy")
        return tmp_path / "copy"

    @pytest.mark.parametrize("kind", ["name", "path", "stale"])
    def test_the_component_s_own_folder_rules(self, original, folder, kind):
        layers = original["llm_cfg"]["num_hidden_layers"]
        for name in COMPONENTS:
            stale = {**original[f"{name}_cfg"], "num_hidden_layers": 7}
            copies = {"name": name, "path": {"_name_or_path": f"somewhere/{name}"}, "stale": stale}
            original[f"{name}_cfg"] = copies[kind]
        config = OmniVinciConfig(**map_original_config(original, str(folder)))
        assert config.text_config.num_hidden_layers == layers

    def test_the_copy_stands_in_for_a_folder_without_config(self, original, other_folder):
        (other_folder / "vision_tower" / "config.json").unlink()
        original["vision_tower_cfg"]["num_hidden_layers"] = 5
        assert map_original_config(original, str(other_folder))["vision_config"]["num_hidden_layers"] == 5

    @pytest.mark.parametrize("copied", ["sound_tower", {"_name_or_path": "somewhere"}])
    def test_neither_folder_nor_copy(self, original, other_folder, copied):
        (other_folder / "sound_tower" / "config.json").unlink()
        findings = Findings()
        for source in (str(other_folder), None):
            with pytest.raises(ValueError, match="does not describe sound_tower: there is no sound_tower/config.json"):
                map_original_config({**original, "sound_tower_cfg": copied}, source, findings=findings)
        assert ("refused", "sound_tower") in [(one.level, one.component) for one in findings]

    def test_a_model_loads_whose_main_file_only_names_folders(self, original, other_folder):
        original.update({f"{name}_cfg": name for name in COMPONENTS})
        (other_folder / "config.json").write_text(json.dumps(original), encoding="utf-8")
        assert AutoConfig.from_pretrained(other_folder).audio_config.num_mel_bins == 128


class TestTokenizer:
    def test_placeholder_ids_are_those_of_the_tokenizer(self, folder, original):
        values = map_original_config(original, str(folder))
        assert values["image_token_id"] == IDS["<image>"]
        assert values["video_token_id"] == IDS["<vila/video>"]
        assert values["audio_token_id"] == IDS["<sound>"]

    def test_without_a_folder_the_ids_keep_their_defaults(self, original):
        config, default = mapped(original), OmniVinciConfig()
        assert (config.image_token_id, config.audio_token_id) == (default.image_token_id, default.audio_token_id)

    def test_pads_on_the_left(self, folder):
        assert load_original_tokenizer(str(folder)).padding_side == "left"

    def test_missing_placeholders_are_added_as_special_tokens(self, folder, tmp_path, original):
        llm = tmp_path / "llm"
        tokenizer = AutoTokenizer.from_pretrained(folder / "llm")
        text = json.loads((folder / "llm" / "tokenizer.json").read_text(encoding="utf-8"))
        missing = ("<vila/video>", "<sound>")
        kept = [token for token in text["added_tokens"] if token["content"] not in missing]
        # the ids stay dense: an added token's id must follow those before it
        for number, token in enumerate(kept):
            token["id"] = TOKENIZER_VOCAB_SIZE + number
        text["added_tokens"] = kept
        llm.mkdir()
        (llm / "tokenizer.json").write_text(json.dumps(text), encoding="utf-8")
        options = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
        (llm / "tokenizer_config.json").write_text(json.dumps(options), encoding="utf-8")
        (llm / "config.json").write_text((folder / "llm" / "config.json").read_text())

        mended = load_original_tokenizer(str(tmp_path))
        assert len(mended) == len(tokenizer)
        for token in missing:
            (number,) = mended(token)["input_ids"]
            assert number >= TOKENIZER_VOCAB_SIZE + len(kept)
            assert mended.decode([number], skip_special_tokens=True) == ""
        values = map_original_config(original, str(tmp_path))
        assert values["image_token_id"] == IDS["<image>"]
        assert {values["video_token_id"], values["audio_token_id"]} == {
            TOKENIZER_VOCAB_SIZE + len(kept),
            TOKENIZER_VOCAB_SIZE + len(kept) + 1,
        }
