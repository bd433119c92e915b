"""Audio-Visual Flamingo, OmniVinci's successor, in both of its layouts."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForMultimodalLM, AutoProcessor, pipeline

from omnivinci_hf import (
    OmniVinciConfig,
    OmniVinciForConditionalGeneration,
    OmniVinciMediaEncoder,
    OmniVinciModel,
    OmniVinciProcessor,
)
from omnivinci_hf.cli import main
from omnivinci_hf.omnivinci.checkpoint_files_omnivinci import is_original_checkpoint
from omnivinci_hf.original_layout import findings
from omnivinci_hf.original_layout.convert import convert_checkpoint
from omnivinci_hf.original_layout.successor import ONE_FOLDER_KEYS, is_successor, map_config, scale_positions
from omnivinci_hf.testing import write_tiny_checkpoint
from tests.support import goldens
from tests.support.hub_server import TOKEN, HubServer
from tests.support.successor_checkpoints import change, read, write, write_five_folders, write_one_folder


SOURCE = goldens.SMALL / "checkpoint"
CASES = ("b_image", "d_audio3", "h_video5")
# one folder, as different releases of the successor's code write it
VARIANTS = {
    "usual": {},
    "older names": {"older_names": True},
    "older config": {"older_config": True},
    "older files": {"older_names": True, "older_config": True, "transformers_5": False, "nested": False},
    "transformers 4": {"transformers_5": False},
    "separate preprocessor": {"nested": False},
    "sharded": {"shards": 3},
    "sharded, older names, separate preprocessor": {"shards": 2, "older_names": True, "nested": False},
}


def inputs_of(processor, name):
    return goldens.round_pixels(
        processor.apply_chat_template(
            goldens.load_case(name).conversations[0],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
        )
    )


@torch.inference_mode()
def logits_of(folder, case="h_video5", **options):
    model = OmniVinciForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, **options).eval()
    return model(**inputs_of(OmniVinciProcessor.from_pretrained(folder), case)).logits


@pytest.fixture(scope="module")
def expected(model, processor):
    """Logits of the golden checkpoint as the original layout has it; test_goldens.py holds them to the reference."""
    with torch.inference_mode():
        return {case: model(**inputs_of(processor, case)).logits for case in CASES}


@pytest.fixture(scope="module")
def one_folder(tmp_path_factory):
    return write_one_folder(SOURCE, tmp_path_factory.mktemp("successor") / "one")


@pytest.fixture
def changed(one_folder, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(one_folder, tmp_path / "changed")


def load_both(folder):
    return OmniVinciForConditionalGeneration.from_pretrained(folder), OmniVinciProcessor.from_pretrained(folder)


class TestNumbers:
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_one_folder_gives_the_golden_logits(self, expected, variant, tmp_path):
        folder = write_one_folder(SOURCE, tmp_path / "one", **VARIANTS[variant])
        for case in CASES:
            assert torch.equal(logits_of(folder, case), expected[case])

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"architectures": ["AudioVisualFlamingoForConditionalGeneration"], "auto_map": None},
            {"model_type": "vila", "auto_map": {"AutoConfig": "configuration_audiovisualflamingo.VILAConfig"}},
            {"llm_cfg": "llm", "sound_tower_cfg": {"_name_or_path": "elsewhere"}},
        ],
    )
    def test_five_folders_give_the_golden_logits(self, expected, changes, tmp_path):
        folder = write_five_folders(SOURCE, tmp_path / "five", **changes)
        for case in CASES:
            assert torch.equal(logits_of(folder, case), expected[case])

    @pytest.mark.parametrize("case", ["i_video75", "l_multiturn", "s_tokens", "p_222", "t_lang_false", "x_bos_eos"])
    def test_one_folder_gives_the_reference_numbers_of_other_options(self, case, tmp_path):
        folder = write_one_folder(goldens.write_checkpoint(case, tmp_path / "five"), tmp_path / "one")
        (row,) = goldens.load_case(case).expected
        logits = logits_of(folder, case, attn_implementation="eager")[0]
        assert len(logits) == row.length
        assert (logits[row.positions] - row.logits).abs().max() < 1e-3

    @pytest.mark.parametrize("case", goldens.case_names())
    def test_every_option_of_the_golden_cases_is_translated_alike(self, case, tmp_path):
        five = goldens.write_checkpoint(case, tmp_path / "five")
        one = write_one_folder(five, tmp_path / "one", transformers_5=False)
        configs = [OmniVinciConfig.from_pretrained(folder).to_dict() for folder in (five, one)]
        for name in ("model_max_length", "tokenizer_model_max_length", "tokenizer_padding_side"):
            configs[0]["text_config"].pop(name, None)  # the converter leaves these out
        assert configs[0] == configs[1]
        processors = [OmniVinciProcessor.from_pretrained(folder).to_dict() for folder in (five, one)]
        assert processors[0] == processors[1]

    def test_saved_it_is_an_ordinary_checkpoint(self, one_folder, expected, tmp_path):
        model, processor = load_both(one_folder)
        model.save_pretrained(tmp_path)
        processor.save_pretrained(tmp_path)
        assert not is_original_checkpoint(tmp_path, {})
        assert set(load_file(tmp_path / "model.safetensors")) == set(model.state_dict())
        assert torch.equal(logits_of(tmp_path), expected["h_video5"])


def test_tied_words_may_have_the_name_of_the_head_alone(tmp_path):
    """That is what `save_model` of safetensors leaves of a tied pair."""
    five = write_tiny_checkpoint(tmp_path / "five", llm={"tie_word_embeddings": True})
    folder = write_one_folder(five, tmp_path / "one")
    tensors = load_file(folder / "model.safetensors")
    words = tensors["llm.lm_head.weight"] = tensors.pop("llm.model.embed_tokens.weight")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    converted = convert_checkpoint(folder, tmp_path / "converted")
    for each in (folder, converted):
        model = OmniVinciForConditionalGeneration.from_pretrained(each)
        assert torch.equal(model.get_input_embeddings().weight, words)
        assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


class TestDefaults:
    def test_values_that_transformers_leaves_out_are_those_of_the_classes(self, one_folder):
        config = read(one_folder / "config.json")
        del config["text_config"]["hidden_size"], config["vision_config"]["image_size"]
        config["sound_encoder"] = {"_target_": "BasicSoundEncoder"}
        del config["video_encoder"]["trope_dim"]
        config["s2_scales"] = [224, 448]
        arguments = map_config(config)
        assert arguments["s2_scales"] == [224, 448]  # the first is the default of SigLIP
        assert arguments["audio_time_embedding"] == {"type": "none"}
        assert arguments["video_time_embedding"]["dim"] == 128
        assert arguments["group_duration_sec"] == 30

    def test_the_frequencies_of_audio_do_not_follow_trope_theta(self, one_folder):
        config = read(one_folder / "config.json")
        lang = {"time_embed_type": "lang", "trope_theta": 7, "max_time": None}
        for name in ("video_encoder", "sound_encoder"):
            config[name] = {**config[name], **lang}
        arguments = map_config(config)
        assert [arguments[f"{name}_time_embedding"]["theta"] for name in ("video", "audio")] == [7, 10000]

    def test_an_encoder_ignores_the_keys_of_others(self, one_folder):
        config = read(one_folder / "config.json")
        before = map_config(config)
        config["image_encoder"] |= {"embed_time": "True", "pool_sizes": [[2, 2, 2]]}
        config["sound_encoder"] |= {"sep_tokens": "<|im_end|>"}
        found = findings.Findings()
        assert map_config(config, findings=found) == before
        ignored = {finding.key for finding in found if finding.level == "ignored"}
        assert ignored >= {"image_encoder.embed_time", "image_encoder.pool_sizes", "sound_encoder.sep_tokens"}

    def test_placeholder_ids_come_from_the_tokenizer_where_the_config_has_none(self, changed, expected):
        change(changed / "config.json", media_token_ids=None)
        assert AutoConfig.from_pretrained(changed).audio_token_id == 461
        assert torch.equal(logits_of(changed), expected["h_video5"])

    def test_some_ids_may_be_missing(self, changed, expected):
        ids = read(changed / "config.json")["media_token_ids"]
        change(changed / "config.json", media_token_ids={**ids, "sound": None, "video": str(ids["video"]), "smell": 3})
        config = AutoConfig.from_pretrained(changed)
        assert (config.audio_token_id, config.video_token_id) == (461, ids["video"])
        assert torch.equal(logits_of(changed), expected["h_video5"])

    def test_a_flag_may_be_a_string(self, one_folder):
        config = read(one_folder / "config.json")
        assert map_config({**config, "dynamic_s2": "True", "projector_bias": "True"}) == map_config(config)

    def test_the_modes_of_several_periods_are_told_apart_from_later_ones(self, one_folder):
        config = read(one_folder / "config.json")
        config["video_encoder"]["period_fix"] = "MTCT"
        found = findings.Findings()
        map_config(config, findings=found)
        (sentence,) = (one.sentence for one in found if one.level == "unusual")
        assert "video_encoder.period_fix='MTCT', for which the successor's classes compute other angles" in sentence

    def test_what_no_file_says_is_assumed_aloud(self, one_folder):
        with findings.collect_findings() as found:
            OmniVinciProcessor.from_pretrained(one_folder, align_audio_start=True)
        sentences = {one.key: one.sentence for one in found if one.level == "assumed"}
        assert "do not say video_audio_downmix; it is 'sum'" in sentences["video_audio_downmix"]
        assert "align_audio_start" not in sentences

    def test_all_frames_are_taken_where_no_number_is_given(self, changed):
        change(changed / "processor_config.json", num_video_frames=None)
        assert OmniVinciProcessor.from_pretrained(changed).video_processor.num_frames is None

    def test_the_padding_side_is_that_of_the_file(self, changed):
        change(changed / "processor_config.json", padding_side="right")
        assert OmniVinciProcessor.from_pretrained(changed).tokenizer.padding_side == "right"
        assert OmniVinciProcessor.from_pretrained(changed, padding_side="left").tokenizer.padding_side == "left"

    def test_a_template_that_writes_the_same_gives_way_to_the_one_for_training(self, one_folder, processor):
        assert OmniVinciProcessor.from_pretrained(one_folder).chat_template == processor.chat_template

    @pytest.mark.parametrize("file", ["chat_template.jinja", "chat_template.json"])
    def test_another_template_is_kept(self, changed, file):
        template = (changed / "chat_template.jinja").read_text().replace("You are a helpful", "You are no")
        (changed / "chat_template.jinja").unlink()
        if file.endswith(".json"):
            write(changed / file, {"chat_template": template})
        else:
            (changed / file).write_text(template)
        processor = OmniVinciProcessor.from_pretrained(changed)
        assert processor.chat_template == template
        prompt = processor.apply_chat_template([{"role": "user", "content": "Who?"}])
        assert prompt.startswith("<|im_start|>system\nYou are no assistant<|im_end|>\n<|im_start|>user\nWho?")

    @pytest.mark.parametrize("place", ["raise_exception('No system turns.')", "messages[0]['content'] + 1"])
    def test_a_template_that_refuses_a_usual_conversation_is_kept(self, changed, place):
        template = "{% if messages[0]['role'] == 'system' %}{{ " + place + " }}{% endif %}"
        template += "{{ messages[-1]['content'][0]['text'] }}"
        (changed / "chat_template.jinja").write_text(template)
        processor = OmniVinciProcessor.from_pretrained(changed)
        assert processor.chat_template == template
        assert processor.apply_chat_template([{"role": "user", "content": "Who?"}]) == "Who?"

    def test_options_of_the_caller_come_first(self, one_folder):
        processor = OmniVinciProcessor.from_pretrained(one_folder, num_frames=3, load_audio_from_video=False)
        assert processor.video_processor.num_frames == 3 and not processor.load_audio_from_video


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory):
    """Logits of the golden checkpoint with scaled positions, set in its own config."""
    folder = shutil.copytree(SOURCE, tmp_path_factory.mktemp("rope") / "by_hand")
    change(folder / "llm" / "config.json", rope_scaling={"rope_type": "linear", "factor": 3.0})
    return logits_of(folder)


class TestScaledPositions:
    """The successor's code scales rotary positions where the main config has a longer `model_max_length`."""

    @pytest.mark.parametrize("transformers_5", [True, False])
    @pytest.mark.parametrize("length", [65537, 98304, "98304"])
    def test_in_one_folder(self, by_hand, expected, transformers_5, length, tmp_path):
        folder = write_one_folder(SOURCE, tmp_path / "one", transformers_5=transformers_5)
        change(folder / "config.json", model_max_length=length)
        logits = logits_of(folder)
        assert torch.equal(logits, by_hand) and not torch.equal(logits, expected["h_video5"])

    @pytest.mark.parametrize(
        "marks", [{}, {"model_type": "vila", "architectures": ["AudioVisualFlamingoForConditionalGeneration"]}]
    )
    def test_in_five_folders(self, by_hand, marks, tmp_path):
        folder = write_five_folders(SOURCE, tmp_path / "five", model_max_length=90000, **marks)
        assert torch.equal(logits_of(folder), by_hand)

    def test_it_is_kept_when_the_model_is_saved(self, by_hand, changed, tmp_path):
        change(changed / "config.json", model_max_length=70000)
        model, processor = load_both(changed)
        model.save_pretrained(tmp_path / "saved")
        processor.save_pretrained(tmp_path / "saved")
        assert torch.equal(logits_of(tmp_path / "saved"), by_hand)

    @pytest.mark.parametrize("origin", [None, "nvidia/audio-visual-flamingo"])
    def test_names_of_folders_make_no_difference(self, expected, origin, tmp_path):
        changes = {"model_type": "vila", "model_max_length": 90000, "_name_or_path": origin}
        folder = write_five_folders(SOURCE, tmp_path / "audio-visual-flamingo", **changes)
        assert torch.equal(logits_of(folder), expected["h_video5"])

    def test_omnivinci_takes_no_notice_and_says_so(self, expected, tmp_path, monkeypatch):
        warnings = []
        monkeypatch.setattr(findings.logger, "warning_once", warnings.append)
        folder = write_five_folders(SOURCE, tmp_path / "omnivinci", model_type="vila", model_max_length=65000)
        assert torch.equal(logits_of(folder), expected["h_video5"])
        assert "model_max_length=65000, 2 times the language model's max_position_embeddings" in warnings[0]

    @pytest.mark.parametrize("length", [None, 32768, 100])
    def test_a_shorter_length_changes_nothing(self, length):
        text_config = {"max_position_embeddings": 32768}
        assert scale_positions(text_config, length) is text_config

    def test_it_replaces_another_scaling_and_keeps_theta(self):
        options = {"max_position_embeddings": 100, "rope_theta": 5.0, "rope_scaling": {"type": "yarn", "factor": 4.0}}
        expected = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5.0}
        assert scale_positions(options, 101) == {"max_position_embeddings": 100, "rope_parameters": expected}


@pytest.mark.parametrize(
    ("config", "name", "expected"),
    [
        ({"model_type": "audiovisualflamingo"}, None, True),
        ({"model_type": "vila"}, "nvidia/omnivinci", False),
        ({"model_type": "vila"}, "nvidia/nemotron-labs-audio-visual-flamingo", True),
        ({"model_type": "vila"}, "/home/me/audio-visual-flamingo/omnivinci", False),
        ({"model_type": "vila", "architectures": ["AudioVisualFlamingoForCausalLM"]}, None, True),
        ({"model_type": "vila", "auto_map": {"AutoConfig": "modeling_vila.VILAConfig"}}, None, False),
    ],
)
def test_the_successor_is_told_by_its_names(config, name, expected):
    assert is_successor(config, name) is expected


class TestLayout:
    """Which of the two layouts a file belongs to is told by the file, or else by the folders beside it."""

    @pytest.mark.parametrize("changes", [{}, {"text_config": None}, {"sound_encoder": {"embed_time": "True"}}])
    def test_a_file_of_five_folders_is_read_alike_alone(self, changes, tmp_path):
        folder = write_five_folders(SOURCE, tmp_path / "five")
        config = {**read(folder / "config.json"), **changes}
        alone, whole = map_config(config), map_config(config, str(folder))
        for name in ("image_token_id", "video_token_id", "audio_token_id"):
            del whole[name]
        assert alone == whole
        assert alone["audio_time_embedding"]["type"] != "none"

    def test_five_folders_with_a_null(self, expected, tmp_path):
        folder = write_five_folders(SOURCE, tmp_path / "five")
        write(folder / "config.json", {**read(folder / "config.json"), "text_config": None})
        assert torch.equal(logits_of(folder), expected["h_video5"])

    def test_an_old_file_of_one_folder_without_ids(self, expected, tmp_path):
        folder = write_one_folder(SOURCE, tmp_path / "one", older_config=True)
        change(folder / "config.json", **dict.fromkeys(ONE_FOLDER_KEYS))
        assert torch.equal(logits_of(folder), expected["h_video5"])
        alone = OmniVinciConfig.from_dict(read(folder / "config.json"))
        assert torch.equal(logits_of(folder, config=alone), expected["h_video5"])

    def test_a_missing_component_of_five_folders(self, tmp_path):
        config = read(write_five_folders(SOURCE, tmp_path / "five", sound_tower_cfg=None) / "config.json")
        message = (
            r"of Audio-Visual Flamingo \(`model_type`='audiovisualflamingo'\) without sound_tower: each must have a"
        )
        with pytest.raises(ValueError, match=message):
            map_config(config)

    def test_one_folder_that_names_a_folder(self, tmp_path):
        folder = write_one_folder(SOURCE, tmp_path / "one", older_config=True)
        change(folder / "config.json", llm_cfg="llm")
        with pytest.raises(ValueError, match="config.json has llm_cfg='llm', but a checkpoint in one folder describes"):
            OmniVinciConfig.from_pretrained(folder)


class TestConfigFromAutoConfig:
    def test_scales_may_stand_in_the_other_file_alone(self, changed, expected, model):
        write(changed / "config.json", {**read(changed / "config.json"), "s2_scales": None})
        write(
            changed / "processor_config.json", {**read(changed / "processor_config.json"), "s2_scales": [56, 112, 168]}
        )
        loaded = AutoModel.from_pretrained(changed, dtype=torch.float32).eval()
        with torch.inference_mode():
            logits = loaded(**inputs_of(OmniVinciProcessor.from_pretrained(changed), "h_video5")).logits
        assert torch.equal(logits, expected["h_video5"])

    def test_what_the_user_sets_stays(self, changed):
        change(changed / "processor_config.json", interleaved_video_segment_duration=10)
        config = AutoConfig.from_pretrained(changed)
        assert config.group_duration_sec == 10
        config.group_duration_sec = 30.0  # what a file without the key has
        assert AutoModel.from_pretrained(changed, config=config).config.group_duration_sec == 30

    def test_what_the_main_file_does_not_say_is_completed(self, changed):
        change(changed / "processor_config.json", interleaved_video_segment_duration=10)
        change(changed / "config.json", media_token_ids=None)
        config = OmniVinciConfig.from_dict(read(changed / "config.json"))
        config.max_tiles = 20
        loaded = OmniVinciForConditionalGeneration.from_pretrained(changed, config=config).config
        assert (loaded.group_duration_sec, loaded.audio_token_id, loaded.max_tiles) == (10, 461, 20)
        assert not [name for name in loaded.to_dict() if "alone" in name]


class TestRefusals:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"frame_mixer": "gated"}, "config.json has frame_mixer='gated', which is not known here and could change"),
            ({"num_time_tokens": 8}, "num_time_tokens=8 is not supported"),
            ({"projector_bias": False}, "projector_bias=False is not supported; the successor's classes have True"),
            ({"dynamic_s2": False}, "dynamic_s2=False is not supported"),
            ({"mm_vision_select_feature": "patch"}, "mm_vision_select_feature='patch' is not supported"),
            ({"media_tokens": {"image": "<picture>"}}, "media_tokens=.* is not supported"),
            ({"image_encoder": {"_target_": "TokenMixer"}}, "image_encoder._target_='TokenMixer' is not supported"),
            ({"video_encoder": {"stride": 2}}, "video_encoder.stride=2 is not known here"),
            ({"sound_encoder": {"embed_time": "True", "time_embed_type": "learned_embed"}}, "'learned_embed' is not"),
            ({"s2_scales": [56, 112]}, r"has s2_scales=\[56, 112\], but processor_config.json has \[56, 112, 168\]"),
            ({"interleaved_vis_aud_in_video": False}, "has interleaved_vis_aud_in_video=False, but"),
            ({"load_audio_in_video": False}, "has load_audio_in_video=False, but"),
            ({"quantization_config": {"quant_method": "bitsandbytes"}}, "The weights are quantized"),
        ],
    )
    def test_an_option_of_the_config(self, changed, changes, message):
        change(changed / "config.json", **changes)
        for load in (OmniVinciForConditionalGeneration.from_pretrained, OmniVinciProcessor.from_pretrained):
            with pytest.raises(ValueError, match=message):
                load(changed)

    @pytest.mark.parametrize(
        ("place", "changes", "message"),
        [
            (None, {"audio_mixing": "loud"}, "processor_config.json has audio_mixing='loud'"),
            (None, {"image_aspect_ratio": "pad"}, "image_aspect_ratio='pad' is not supported"),
            ("feature_extractor", {"window": "hamming"}, "feature extractor or image processor has window='hamming'"),
            ("feature_extractor", {"dither": 0.5}, "dither=0.5, which is not supported; expected 0.0"),
            ("feature_extractor", {"feature_size": 80}, "feature_size=80, which is not supported; expected 128"),
            ("feature_extractor", {"hop_length": 60}, "has hop_length=60, but audio_hop_length is 160"),
            (
                "feature_extractor",
                {"hop_length": 60},
                "no choice gives exactly their numbers: with `hop_length=60` the",
            ),
            ("feature_extractor", {"sampling_rate": 8000}, "has sampling_rate=8000, but audio_sampling_rate is"),
            ("image_processor", {"resample": 2}, "resample=2, which is not supported; expected 3"),
            ("image_processor", {"do_normalize": False}, "do_normalize=False, which is not supported"),
            ("image_processor", {"size": {"height": 28, "width": 28}}, "the model reads tiles of 56 pixels"),
        ],
    )
    def test_an_option_of_the_processor(self, changed, place, changes, message):
        file = changed / "processor_config.json"
        values = read(file)
        (values if place is None else values[place]).update(changes)
        write(file, values)
        with pytest.raises(ValueError, match=message):
            OmniVinciProcessor.from_pretrained(changed)

    def test_what_is_off_or_of_training_or_not_read_is_taken(self, changed, expected, monkeypatch):
        warnings = []
        monkeypatch.setattr(findings.logger, "warning_once", warnings.append)
        extra = {"new_mode": None, "other": [], "tune_vision_tower": True, "vision_tower_lr": 1e-5, "fps": 2.0}
        write(changed / "config.json", {**read(changed / "config.json"), **extra})
        assert torch.equal(logits_of(changed), expected["h_video5"])
        assert set(warnings) == {"config.json has fps=2.0, which the successor's classes do not read."}

    def test_a_contradiction_is_settled_by_the_caller(self, changed):
        values = read(changed / "processor_config.json")
        values["feature_extractor"]["hop_length"] = 60
        write(changed / "processor_config.json", values)
        assert OmniVinciProcessor.from_pretrained(changed, hop_length=60).feature_extractor.hop_length == 60

    def test_a_processor_may_leave_audio_out(self, changed):
        change(changed / "processor_config.json", load_audio_in_video=False)
        assert not OmniVinciProcessor.from_pretrained(changed).load_audio_from_video

    def test_scales_must_be_given(self, one_folder):
        config = read(one_folder / "config.json")
        with pytest.raises(ValueError, match="no s2_scales: the sides of the scales"):
            map_config({**config, "s2_scales": None})

    @pytest.mark.parametrize(
        "ids", [{"media_token_ids": {"sound": 3}}, {"encoder_text_token_ids": {"<sound>": [3, 4]}}]
    )
    def test_ids_of_another_tokenizer(self, changed, ids):
        change(changed / "config.json", **ids)
        with pytest.raises(ValueError, match=r"notes the ids \[3(, 4)?\] for '<sound>', but the tokenizer has \[461\]"):
            OmniVinciProcessor.from_pretrained(changed)

    def test_missing_and_surplus_weights(self, changed):
        tensors = load_file(changed / "model.safetensors")
        del tensors["llm.model.norm.weight"], tensors["sound_tower.conv1.bias"]
        tensors["mm_projector.layers.9.weight"] = torch.zeros(2)
        save_file(tensors, changed / "model.safetensors", {"format": "pt"})
        with pytest.raises(ValueError, match="does not fit its configuration") as error:
            OmniVinciForConditionalGeneration.from_pretrained(changed)
        assert [line.strip() for line in str(error.value).splitlines()[1:]] == [
            "missing: model.audio_tower.conv1.bias",
            "missing: model.language_model.norm.weight",
            "surplus: mm_projector/layers.9.weight",
        ]

    def test_pickled_weights(self, changed):
        (changed / "model.safetensors").rename(changed / "pytorch_model.bin")
        with pytest.raises(
            ValueError, match=r"has no model.safetensors nor model.safetensors.index.json, only pickles"
        ):
            OmniVinciForConditionalGeneration.from_pretrained(changed)

    def test_a_missing_shard(self, tmp_path):
        folder = write_one_folder(SOURCE, tmp_path / "sharded", shards=3)
        (folder / "model-00002-of-00003.safetensors").unlink()
        with pytest.raises(ValueError, match=r"lacks the shards \['model-00002-of-00003.safetensors'\]"):
            OmniVinciForConditionalGeneration.from_pretrained(folder)

    def test_a_missing_tokenizer(self, changed):
        for name in ("tokenizer.json", "vocab.json", "merges.txt"):
            (changed / name).unlink()
        with pytest.raises(ValueError, match=r"has no usable tokenizer in its folder \.,"):
            OmniVinciProcessor.from_pretrained(changed)


class TestUse:
    @pytest.fixture(params=["one", "five"])
    def folder(self, request, one_folder, tmp_path):
        return one_folder if request.param == "one" else write_five_folders(SOURCE, tmp_path / "five")

    def test_auto_classes(self, folder, model):
        assert type(AutoConfig.from_pretrained(folder)) is OmniVinciConfig
        assert type(AutoProcessor.from_pretrained(folder)) is OmniVinciProcessor
        for auto_class in (AutoModel, AutoModelForMultimodalLM):
            loaded, info = auto_class.from_pretrained(folder, output_loading_info=True)
            assert type(loaded) is OmniVinciForConditionalGeneration
            assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
            state = loaded.state_dict()
            assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())

    def test_without_head_and_without_language_model(self, folder, model):
        for part in (OmniVinciModel, OmniVinciMediaEncoder):
            state = part.from_pretrained(folder).state_dict()
            whole = model.model.state_dict()
            assert state and all(torch.equal(tensor, whole[name]) for name, tensor in state.items())

    def test_pipeline(self, folder):
        options = {"dtype": torch.float32, "device": "cpu", "max_new_tokens": 4, "min_new_tokens": 4}
        question = {"image": Image.new("RGB", (30, 20), "red"), "question": "What?"}
        answers = [pipeline("omni-qa", model=str(name), **options)(**question) for name in (folder, SOURCE)]
        assert answers[0] == answers[1] != ""

    def test_convert(self, folder, expected, tmp_path):
        converted = convert_checkpoint(folder, tmp_path / "converted", max_shard_size="300KB")
        assert torch.equal(logits_of(converted), expected["h_video5"])
        assert read(converted / "config.json")["model_type"] == "omnivinci"

    def test_general_pipeline(self, folder):
        pipe = pipeline("image-text-to-text", model=str(folder), device="cpu")
        picture = {"type": "image", "image": Image.new("RGB", (30, 20), "red")}
        chat = [{"role": "user", "content": [picture, {"type": "text", "text": "What?"}]}]
        (answer,) = pipe(text=chat, return_full_text=False, generate_kwargs={"max_new_tokens": 3})
        assert isinstance(answer["generated_text"], str)

    def test_estimate(self, folder, capsys):
        outputs = []
        for model in (folder, SOURCE):
            assert main(["train", "--recipe", "lora", "--model", str(model), "--estimate"]) == 0
            outputs.append(capsys.readouterr().out)
        assert outputs[0] == outputs[1] != ""

    def test_command_line(self, folder, tmp_path, capsys):
        picture = tmp_path / "a.png"
        Image.new("RGB", (30, 20)).save(picture)
        assert main(["ask", str(picture), "What?", "--model", str(folder), "--max-new-tokens", "2"]) == 0
        capsys.readouterr()
        outputs = []
        for model in (folder, SOURCE):
            assert main(["inspect", str(picture), "--model", str(model)]) == 0
            outputs.append(capsys.readouterr().out.replace(str(model), "MODEL"))
        assert outputs[0] == outputs[1]

    def test_adapter(self, folder, model, tmp_path):
        peft = pytest.importorskip("peft")
        options = peft.LoraConfig(r=2, target_modules=r"model\.language_model\..*\.q_proj", init_lora_weights=False)
        base = OmniVinciForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        adapted = peft.get_peft_model(base, options).eval()
        adapted.save_pretrained(tmp_path / "adapter")
        assert read(tmp_path / "adapter" / "adapter_config.json")["base_model_name_or_path"] == str(folder)
        processor = OmniVinciProcessor.from_pretrained(tmp_path / "adapter")
        inputs = inputs_of(processor, "h_video5")
        loaded = OmniVinciForConditionalGeneration.from_pretrained(tmp_path / "adapter").eval()
        with torch.inference_mode():
            logits = loaded(**inputs).logits
            assert torch.equal(logits, adapted(**inputs).logits)
            assert not torch.equal(logits, model(**inputs).logits)

    @pytest.mark.parametrize("bits", [4, 8])
    def test_quantization(self, folder, bits):
        pytest.importorskip("bitsandbytes")
        quantized = AutoModel.from_pretrained(
            folder, quantization_config={"quant_method": "bitsandbytes", f"load_in_{bits}bit": True}
        )
        kind = {4: "Linear4bit", 8: "Linear8bitLt"}[bits]
        names = {name for name, module in quantized.named_modules() if type(module).__name__ == kind}
        assert len(names) == 14 and all(name.startswith("model.language_model.") for name in names)


# A release of Transformers may bring classes of these names; a stand-in for it is registered first.
THEIRS = """
import sys
from transformers import AutoConfig, AutoProcessor, PreTrainedConfig, ProcessorMixin

class AudioVisualFlamingoConfig(PreTrainedConfig):
    model_type = "audiovisualflamingo"

class AudioVisualFlamingoProcessor(ProcessorMixin):
    @classmethod
    def from_pretrained(cls, name, **kwargs):
        return "theirs"

AutoConfig.register("audiovisualflamingo", AudioVisualFlamingoConfig)
AutoProcessor.register(AudioVisualFlamingoConfig, AudioVisualFlamingoProcessor)
import omnivinci_hf
from omnivinci_hf import OmniVinciConfig, OmniVinciForConditionalGeneration, OmniVinciProcessor
from transformers import pipeline

folder = sys.argv[1]
assert type(AutoConfig.from_pretrained(folder)) is AudioVisualFlamingoConfig
assert AutoProcessor.from_pretrained(folder) == "theirs"
for ours in (OmniVinciConfig, OmniVinciForConditionalGeneration, OmniVinciProcessor):
    assert type(ours.from_pretrained(folder)) is ours
model, processor = OmniVinciForConditionalGeneration.from_pretrained(folder), OmniVinciProcessor.from_pretrained(folder)
print(type(pipeline("omni-qa", model=model, processor=processor)).__name__)
"""


def test_classes_of_transformers_come_first_unless_ours_are_asked_for(one_folder):
    done = subprocess.run([sys.executable, "-c", THEIRS, str(one_folder)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "OmniQAPipeline"


HUB_SESSION = """
import sys
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor
import omnivinci_hf

options = {"revision": "v2", "token": sys.argv[1], "cache_dir": "elsewhere"}
config = AutoConfig.from_pretrained("successor/private", **options)
model = AutoModel.from_pretrained("successor/private", **options)
processor = AutoProcessor.from_pretrained("successor/private", **options)
local = AutoModel.from_pretrained(sys.argv[2])
found, expected = ({**each.to_dict(), "_name_or_path": ""} for each in (model.config, local.config))
assert found == expected, {name: found[name] for name in found if found[name] != expected.get(name)}
assert model.config.group_duration_sec == 10
state = local.state_dict()
assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
assert processor.to_dict() == AutoProcessor.from_pretrained(sys.argv[2]).to_dict()
assert omnivinci_hf.OmniVinciConfig.from_pretrained("successor/private", **options).group_duration_sec == 10
"""


def test_a_private_repository_of_one_folder_loads_by_its_id(tmp_path):
    """Revision, token and cache reach every file, also those of the processor, which complete the config."""
    folder = write_one_folder(SOURCE, tmp_path / "one", shards=2)
    change(folder / "config.json", media_token_ids=None)
    change(folder / "processor_config.json", interleaved_video_segment_duration=10)
    with HubServer() as hub:
        hub.add("successor/private", {"config.json": b"{}"}, private=True)
        files = {file.name: file.read_bytes() for file in folder.iterdir()}
        hub.add("successor/private", files, private=True, revision="v2")
        done = subprocess.run(
            [sys.executable, "-c", HUB_SESSION, TOKEN, str(folder)],
            cwd=tmp_path,
            env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        asked = [request for request in hub.requests if "/successor/private/resolve/" in request.path]
        with_token = {request.file for request in asked if request.token == TOKEN}
    assert with_token >= {"model-00002-of-00002.safetensors", "processor_config.json", "tokenizer.json"}
    assert not list((tmp_path / "home").glob("hub/models--successor--private/snapshots/*/*"))


def test_loading_warns_of_nothing(one_folder):
    code = (
        "import sys, omnivinci_hf\n"
        "from transformers import AutoModel, AutoProcessor\n"
        "AutoModel.from_pretrained(sys.argv[1]), AutoProcessor.from_pretrained(sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(one_folder)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if line and "Loading weights" not in line] == []
