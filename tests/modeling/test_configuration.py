import copy
import json
import logging

import pytest
from transformers import AutoConfig, Qwen2Config, SiglipVisionConfig

from omnivinci_hf import OmniAlignNetConfig, OmniVinciConfig, OmniVinciTimeEmbeddingConfig
from omnivinci_hf.omnivinci.checks_omnivinci import check_boundary_tokens
from omnivinci_hf.testing.tiny import write_tiny_checkpoint


VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 7,
}
AUDIO = {
    "model_type": "qwen2_audio_encoder",
    "d_model": 48,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "max_source_positions": 100,
}
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 480,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
}
# every field away from its default
OTHER_VALUES = {
    "omni_align_config": {"embed_dim": 24, "num_attention_heads": 2, "loss_weight": 0.5},
    "video_time_embedding": {"type": "pixel_periodic", "dim": 16, "max_time": None, "theta": 50000},
    "audio_time_embedding": {"type": "learned", "max_time": 120.5, "num_time_bins": 7},
    "image_token_id": 11,
    "video_token_id": 12,
    "audio_token_id": 13,
    "vision_feature_layer": -1,
    "vision_chunk_size": 3,
    "audio_chunk_size": 2,
    "spatial_merge_size": 1,
    "s2_scales": [56, 168],
    "s2_output_scale_index": -1,
    "max_tiles": 10,
    "video_pool_sizes": [[1, 2, 2], [8, 1, 1]],
    "audio_merge_size": 5,
    "group_duration_sec": None,
    "boundary_tokens": {
        "image_start": "<|image_bos|>",
        "image_end": None,
        "video_start": "a",
        "video_end": "b",
        "video_sep": "c",
        "audio_start": "d",
        "audio_end": None,
        "group_end": None,
    },
    "use_modality_boundary_tokens": True,
    "tie_word_embeddings": True,
    "initializer_range": 0.5,
}


def tiny_config(**values):
    parts = {"vision_config": VISION, "audio_config": AUDIO, "text_config": TEXT}
    return OmniVinciConfig(**{**parts, **values})


def without_path(config):
    return {name: value for name, value in config.to_dict().items() if name != "_name_or_path"}


class TestDefaults:
    def test_vision_tower_is_siglip_so400m_at_448_pixels(self):
        vision = OmniVinciConfig().vision_config
        assert (vision.hidden_size, vision.num_hidden_layers, vision.image_size, vision.patch_size) == (
            1152,
            27,
            448,
            14,
        )
        assert (vision.intermediate_size, vision.num_attention_heads) == (4304, 16)

    def test_audio_tower_is_whisper_large_sized(self):
        audio = OmniVinciConfig().audio_config
        assert audio.model_type == "qwen2_audio_encoder"
        assert (audio.d_model, audio.encoder_layers, audio.encoder_attention_heads) == (1280, 32, 20)
        assert (audio.num_mel_bins, audio.max_source_positions) == (128, 1500)

    def test_language_model_is_qwen2_5_7b(self):
        text = OmniVinciConfig().text_config
        assert (text.hidden_size, text.num_hidden_layers, text.intermediate_size) == (3584, 28, 18944)
        assert (text.num_attention_heads, text.num_key_value_heads) == (28, 4)
        assert (text.vocab_size, text.max_position_embeddings) == (152064, 32768)
        assert text.rope_parameters["rope_theta"] == 1e6
        assert not text.tie_word_embeddings

    def test_options_are_the_papers(self):
        config = OmniVinciConfig()
        assert config.group_duration_sec == 30
        assert config.s2_scales == [448, 896, 1344]
        assert config.video_pool_sizes == [[1, 1, 1]]
        for embedding in (config.video_time_embedding, config.audio_time_embedding):
            assert (embedding.type, embedding.dim, embedding.max_time) == ("crte", None, 3600)

    def test_boundary_tokens_are_line_breaks_after_images_sounds_and_groups(self):
        tokens = OmniVinciConfig().boundary_tokens
        assert {name for name, token in tokens.items() if token == "\n"} == {"image_end", "audio_end", "group_end"}
        assert {name for name, token in tokens.items() if token is None} == {
            "image_start",
            "video_start",
            "video_end",
            "video_sep",
            "audio_start",
        }

    def test_scales_follow_the_image_size(self):
        assert tiny_config().s2_scales == [56, 112, 168]


class TestSubConfigs:
    def test_dictionaries_and_objects_give_the_same(self):
        audio = copy.copy(AUDIO)
        objects = tiny_config(
            vision_config=SiglipVisionConfig(**VISION),
            audio_config=AutoConfig.for_model(audio.pop("model_type"), **audio),
            text_config=Qwen2Config(**TEXT),
            video_time_embedding=OmniVinciTimeEmbeddingConfig(type="rote"),
        )
        dictionaries = tiny_config(video_time_embedding={"type": "rote"})
        assert without_path(objects) == without_path(dictionaries)

    def test_objects_are_taken_as_they_are(self):
        vision, text = SiglipVisionConfig(**VISION), Qwen2Config(**TEXT)
        embedding = OmniVinciTimeEmbeddingConfig(type="none")
        config = tiny_config(vision_config=vision, text_config=text, audio_time_embedding=embedding)
        assert config.vision_config is vision
        assert config.text_config is text
        assert config.audio_time_embedding is embedding

    @pytest.mark.parametrize(
        ("kind", "values", "width"),
        [
            ("qwen2_audio_encoder", {"d_model": 48}, 48),
            ("audioflamingo3_encoder", {"hidden_size": 40}, 40),
            ("qwen2_5_omni_audio_encoder", {"d_model": 48, "output_dim": 72}, 72),
        ],
    )
    def test_every_audio_encoder_tells_its_output_width(self, kind, values, width):
        assert tiny_config(audio_config={"model_type": kind, **values}).audio_feature_size == width

    def test_dictionaries_of_the_caller_stay_as_they_were(self):
        values = copy.deepcopy({"vision_config": VISION, "audio_config": AUDIO, "text_config": TEXT, **OTHER_VALUES})
        before = copy.deepcopy(values)
        config = OmniVinciConfig(**values)
        config.s2_scales.append(0)
        config.video_pool_sizes[0].append(0)
        config.boundary_tokens["image_end"] = "changed"
        assert values == before

    def test_from_dict_leaves_its_argument_as_it_was(self):
        values = tiny_config(**OTHER_VALUES).to_dict()
        before = copy.deepcopy(values)
        OmniVinciConfig.from_dict(values)
        assert values == before


class TestDerivedSizes:
    def test_vision_features_have_one_copy_per_scale(self):
        assert tiny_config().vision_feature_size == 3 * 32
        assert tiny_config(s2_scales=[56]).vision_feature_size == 32

    def test_a_window_has_two_mel_frames_a_position_and_four_an_embedding(self):
        config = tiny_config()
        assert (config.audio_window_frames, config.audio_window_embeds) == (200, 50)
        assert OmniVinciConfig().audio_window_embeds == 750

    def test_joined_sound_embeddings_are_fewer(self):
        assert tiny_config(audio_merge_size=5).audio_window_embeds == 10

    @pytest.mark.parametrize(
        ("kind", "dim", "channels"),
        [
            ("none", None, 0),
            ("learned", None, 0),
            ("crte", None, 64),
            ("crte", 16, 16),
            ("rote", 16, 16),
            ("pixel_periodic", None, 64),
            ("pixel_seconds", 16, 32),
            ("lang_periodic", 16, 32),
            ("lang_seconds", None, 64),
            ("mtct_shortest", None, 64),
            ("mtct_shortest", 16, 8),
            ("mtct_longest", 16, 8),
        ],
    )
    def test_rotated_channels_of_64(self, kind, dim, channels):
        assert OmniVinciTimeEmbeddingConfig(type=kind, dim=dim, max_time=9.0).num_channels(64) == channels

    def test_tied_embeddings_of_the_language_model_are_those_of_the_whole(self):
        assert tiny_config(text_config={**TEXT, "tie_word_embeddings": True}).tie_word_embeddings is True


class TestRoundTrip:
    def test_other_values_differ_from_the_defaults(self):
        default = tiny_config()
        declared = {name for name, kind in OmniVinciConfig.__annotations__.items() if "ClassVar" not in str(kind)}
        assert set(OTHER_VALUES) == declared - {"vision_config", "audio_config", "text_config"}
        for name, value in OTHER_VALUES.items():
            assert getattr(default, name) != value

    @pytest.mark.parametrize("values", [{}, OTHER_VALUES], ids=["defaults", "others"])
    def test_dictionary(self, values):
        config = tiny_config(**values)
        assert without_path(OmniVinciConfig.from_dict(config.to_dict())) == without_path(config)

    @pytest.mark.parametrize("values", [{}, OTHER_VALUES], ids=["defaults", "others"])
    def test_file(self, tmp_path, values):
        config = tiny_config(**values)
        config.save_pretrained(tmp_path)
        assert without_path(OmniVinciConfig.from_pretrained(tmp_path)) == without_path(config)

    def test_file_keeps_every_value(self, tmp_path):
        tiny_config(**OTHER_VALUES).save_pretrained(tmp_path)
        loaded = OmniVinciConfig.from_pretrained(tmp_path)
        for name, value in OTHER_VALUES.items():
            if name.endswith(("_time_embedding", "_align_config")):
                part = getattr(loaded, name)
                assert isinstance(part, (OmniVinciTimeEmbeddingConfig, OmniAlignNetConfig))
                assert {key: getattr(part, key) for key in value} == value
            else:
                assert getattr(loaded, name) == value, name

    def test_none_survives_the_file(self, tmp_path):
        tiny_config(**OTHER_VALUES).save_pretrained(tmp_path)
        loaded = OmniVinciConfig.from_pretrained(tmp_path)
        assert loaded.video_time_embedding.max_time is None
        assert loaded.group_duration_sec is None
        assert loaded.boundary_tokens["audio_end"] is None

    def test_sub_configs_come_back_as_their_own_classes(self, tmp_path):
        tiny_config().save_pretrained(tmp_path)
        loaded = OmniVinciConfig.from_pretrained(tmp_path)
        assert isinstance(loaded.vision_config, SiglipVisionConfig)
        assert isinstance(loaded.text_config, Qwen2Config)
        assert loaded.audio_config.model_type == "qwen2_audio_encoder"
        assert loaded.audio_config.d_model == 48

    def test_a_keyword_replaces_the_files_value(self, tmp_path):
        tiny_config().save_pretrained(tmp_path)
        assert OmniVinciConfig.from_pretrained(tmp_path, group_duration_sec=5.0).group_duration_sec == 5


class TestAutoConfig:
    def test_model_type_gives_our_class(self):
        assert type(AutoConfig.for_model("omnivinci")) is OmniVinciConfig

    def test_saved_config_gives_our_class(self, tmp_path):
        tiny_config().save_pretrained(tmp_path)
        assert type(AutoConfig.from_pretrained(tmp_path)) is OmniVinciConfig

    def test_original_folder_gives_our_class(self, tmp_path):
        config = AutoConfig.from_pretrained(write_tiny_checkpoint(tmp_path / "original"))
        assert type(config) is OmniVinciConfig
        assert config.model_type == "omnivinci"
        assert config.text_config.hidden_size == 64

    @pytest.mark.parametrize("kind", ["original", "omnivinci"])
    def test_remote_code_that_the_file_names_is_not_asked_for(self, tmp_path, kind):
        folder = tmp_path / kind
        if kind == "original":
            write_tiny_checkpoint(folder)
        else:
            tiny_config().save_pretrained(folder)
        values = json.loads((folder / "config.json").read_text())
        values["auto_map"] = {"AutoConfig": "no_such_file.NoSuchConfig", "AutoModel": "no_such_file.NoSuchModel"}
        (folder / "config.json").write_text(json.dumps(values))
        assert type(AutoConfig.from_pretrained(folder)) is OmniVinciConfig


class TestBoundaryTokens:
    def test_missing_keys_get_their_defaults(self):
        tokens = check_boundary_tokens({"audio_end": None}, 30)
        assert tokens["audio_end"] is None
        assert tokens["image_end"] == "\n"
        assert len(tokens) == 8

    def test_unknown_keys_are_named(self):
        with pytest.raises(ValueError, match=r"unknown keys \['audio_sep', 'sound_end'\]; known are \['audio_end'"):
            tiny_config(boundary_tokens={"sound_end": "\n", "audio_sep": None})

    @pytest.mark.parametrize("seconds", [0, -1.5])
    def test_group_duration_must_be_positive(self, seconds):
        with pytest.raises(ValueError, match=f"`group_duration_sec` must be more than 0, got {seconds}"):
            tiny_config(group_duration_sec=seconds)

    @pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 10**400, True])
    def test_group_duration_must_be_a_number(self, seconds):
        with pytest.raises(ValueError, match=f"`group_duration_sec` must be a finite number, got {seconds}"):
            tiny_config(group_duration_sec=seconds)

    def test_frame_end_tokens_and_groups_exclude_each_other(self):
        with pytest.raises(
            ValueError, match=r"\['video_end'\]`='</f>' cannot be combined with `group_duration_sec`=30.0"
        ):
            tiny_config(boundary_tokens={"video_end": "</f>"})

    def test_frame_end_tokens_are_fine_without_groups(self):
        config = tiny_config(boundary_tokens={"video_end": "</f>"}, group_duration_sec=None)
        assert config.boundary_tokens["video_end"] == "</f>"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"type": "CRTE"}, "`type`='CRTE' is no time embedding; choose one of .*'crte'"),
        ({"type": "crte", "max_time": None}, "`type`='crte' needs `max_time` in seconds, got `max_time`=None"),
        ({"type": "learned", "max_time": None}, "`type`='learned' needs `max_time`"),
        ({"type": "mtct_shortest", "max_time": None}, "`type`='mtct_shortest' needs `max_time`"),
        ({"type": "mtct_longest", "max_time": 0}, "`type`='mtct_longest' needs `max_time` .* got `max_time`=0"),
        ({"type": "pixel_periodic", "max_time": 0}, "`max_time` must be more than 0, got 0"),
        ({"type": "crte", "max_time": -2.5}, "`max_time` must be more than 0, got -2.5"),
        ({"theta": 0}, "`theta` must be more than 0, got 0"),
        ({"dim": 0}, "`dim` must be at least 2, got 0"),
        ({"dim": -2}, "`dim` must be at least 2, got -2"),
        ({"dim": 7}, "`dim` must be even, got 7"),
        ({"max_tim": 7}, r"A time embedding has no \['max_tim'\]"),
        ({"type": "learned", "max_time": 9.0, "num_time_bins": 1}, "`num_time_bins` must be at least 2, got 1"),
        (
            {"type": "mtct_longest", "max_time": 9.0, "dim": 2},
            "`type`='mtct_longest' needs a `dim` that is a multiple of 4, got `dim`=2",
        ),
    ],
)
def test_impossible_time_embeddings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        OmniVinciTimeEmbeddingConfig(**values)


@pytest.mark.parametrize("kind", ["none", "rote", "pixel_periodic", "pixel_seconds", "lang_periodic", "lang_seconds"])
def test_types_without_a_limit_need_no_max_time(kind):
    assert OmniVinciTimeEmbeddingConfig(type=kind, max_time=None).max_time is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"vision_config": {"model_type": "clip_vision_model"}},
            "`vision_config.model_type`='clip_vision_model' .*'siglip_vision_model'",
        ),
        (
            {"audio_config": {"model_type": "whisper"}},
            "`audio_config.model_type`='whisper' is not supported; choose one of .*'audioflamingo3_encoder'",
        ),
        ({"text_config": {"model_type": "llama"}}, "`text_config.model_type`='llama'.* 'qwen2'"),
        ({"s2_scales": [112, 168]}, r"must begin with `vision_config.image_size`=56"),
        ({"s2_scales": [56, 100]}, r"`s2_scales`=\[56, 100\] must be ascending multiples of .*image_size`=56"),
        ({"s2_scales": [56, 168, 112]}, r"`s2_scales`=\[56, 168, 112\] must be ascending"),
        ({"s2_scales": [56, 56]}, r"`s2_scales`=\[56, 56\] must be ascending"),
        ({"s2_output_scale_index": 3}, r"`s2_output_scale_index`=3 is out of range for `s2_scales`=\[56, 112, 168\]"),
        ({"s2_output_scale_index": -4}, "`s2_output_scale_index`=-4 is out of range"),
        ({"max_tiles": 8}, r"`max_tiles`=8 is less than the 9 tiles .*`s2_scales`=\[56, 112, 168\]"),
        ({"vision_feature_layer": 4}, "`vision_feature_layer`=4 does not exist: .*num_hidden_layers`=3"),
        ({"vision_feature_layer": -5}, "`vision_feature_layer`=-5 does not exist: .*num_hidden_layers`=3"),
        ({"video_pool_sizes": [[1, 2]]}, r"`video_pool_sizes`=\[\[1, 2\]\] must hold triples of whole numbers"),
        ({"video_pool_sizes": [[1, 1, 1], [2, 0, 2]]}, "`video_pool_sizes` must be at least 1, got 0"),
        ({"spatial_merge_size": 0}, "`spatial_merge_size` must be at least 1, got 0"),
        (
            {"audio_merge_size": 3},
            "`audio_merge_size`=3 must divide the 50 embeddings of a window .*max_source_positions`=100",
        ),
        ({"audio_merge_size": 0}, "`audio_merge_size` must be at least 1, got 0"),
        (
            {
                "audio_config": {
                    "model_type": "qwen2_5_omni_audio_encoder",
                    "max_source_positions": 100,
                    "n_window": 30,
                }
            },
            "`audio_config.max_source_positions`=100 must be a multiple of `audio_config.n_window`=30",
        ),
        (
            {"video_time_embedding": {"type": "crte", "max_time": 9.0, "dim": 66}},
            "`video_time_embedding.dim`=66 .*`video_time_embedding.type`='crte' rotates 66 channels, "
            "more than `text_config.hidden_size`=64",
        ),
        (
            {"audio_time_embedding": {"type": "lang_periodic", "dim": 34}},
            "`audio_time_embedding.dim`=34 .*'lang_periodic' rotates 68 channels, .*=64",
        ),
        ({"image_token_id": -5}, "`image_token_id` must be at least 0, got -5"),
        ({"boundary_tokens": {"image_end": 3}}, "`boundary_tokens` must be strings or None, got {'image_end': 3}"),
        (
            {"text_config": {**TEXT, "num_key_value_heads": 3}},
            "`text_config.num_key_value_heads`=3 must divide `text_config.num_attention_heads`",
        ),
        (
            {"image_token_id": 5, "audio_token_id": 5},
            "placeholder ids must differ, got .*'image_token_id': 5, 'video_token_id': 151666, 'audio_token_id': 5",
        ),
    ],
)
def test_contradictions_are_refused_with_fields_and_values(values, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**values)


@pytest.mark.parametrize("layer", [-4, 0, 3])
def test_every_hidden_state_of_the_tower_can_be_chosen(layer):
    assert tiny_config(vision_feature_layer=layer).vision_feature_layer == layer


def test_one_scale_switches_tiling_off():
    assert tiny_config(s2_scales=[56], max_tiles=1).s2_scales == [56]


def test_a_setting_that_the_type_ignores_is_warned_about(caplog):
    logging.getLogger("transformers").propagate = True
    try:
        OmniVinciTimeEmbeddingConfig(type="rote", max_time=1234.5)
    finally:
        logging.getLogger("transformers").propagate = False
    assert "`type`='rote' ignores `max_time`=1234.5" in caplog.text


def test_a_time_embedding_is_no_mere_name():
    with pytest.raises(ValueError, match="must be a dictionary, such as .* got 'crte'"):
        OmniVinciConfig(video_time_embedding="crte")


def test_a_configuration_prints_in_a_few_lines_and_writes_itself_whole():
    config = OmniVinciConfig(group_duration_sec=None, omni_align_config={})
    lines = str(config).splitlines()
    assert lines == repr(config).splitlines() and len(lines) == 6 and max(map(len, lines)) < 120
    assert "qwen2, 28 layers of width 3584, 152064 tokens, context of 32768" in lines[3]
    assert lines[4:] == ["  time: no groups; crte of video, crte of audio", "  OmniAlignNet: yes"]
    assert json.loads(config.to_json_string())["text_config"]["hidden_size"] == 3584
