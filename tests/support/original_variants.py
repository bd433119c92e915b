"""This module writes variants of a checkpoint in the original layout, as its real files may differ from the tiny copy.

`VARIANTS` says of each what it changes and what must come of it: the same numbers, those of another variant, or one
error. Run as a script it writes them all: `python -m tests.support.original_variants CHECKPOINT FOLDER`.
"""

import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


COMPONENTS = ("llm", "vision_tower", "mm_projector", "sound_tower", "sound_mm_projector")
SAFETENSORS, INDEX = "model.safetensors", "model.safetensors.index.json"
DELETED = object()
Write = Callable[[Path], None]
# what Transformers 4.46 writes into a nested configuration beside the options of its class
DUMPED_4_46 = {
    "_attn_implementation_autoset": False,
    "_name_or_path": "runs/train/omni/model/part",
    "add_cross_attention": False,
    "bad_words_ids": None,
    "begin_suppress_tokens": None,
    "bos_token_id": None,
    "chunk_size_feed_forward": 0,
    "cross_attention_hidden_size": None,
    "decoder_start_token_id": None,
    "diversity_penalty": 0.0,
    "do_sample": False,
    "early_stopping": False,
    "encoder_no_repeat_ngram_size": 0,
    "eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "finetuning_task": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "is_decoder": False,
    "is_encoder_decoder": False,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1},
    "length_penalty": 1.0,
    "max_length": 20,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "num_beam_groups": 1,
    "num_beams": 1,
    "num_return_sequences": 1,
    "output_attentions": False,
    "output_hidden_states": False,
    "output_scores": False,
    "pad_token_id": None,
    "prefix": None,
    "problem_type": None,
    "pruned_heads": {},
    "remove_invalid_values": False,
    "repetition_penalty": 1.0,
    "return_dict": True,
    "return_dict_in_generate": False,
    "sep_token_id": None,
    "suppress_tokens": None,
    "task_specific_params": None,
    "temperature": 1.0,
    "tf_legacy_loss": False,
    "tie_encoder_decoder": False,
    "tie_word_embeddings": True,
    "tokenizer_class": None,
    "top_k": 50,
    "top_p": 1.0,
    "torch_dtype": "bfloat16",
    "torchscript": False,
    "typical_p": 1.0,
    "use_bfloat16": False,
}
TRAINING_LEFTOVERS = {
    "drop_path_rate": 0.0,
    "mm_projector_lr": None,
    "vision_tower_lr": 1e-5,
    "sound_tower_lr": "2e-5",
    "tune_language_model": True,
    "tune_vision_tower": True,
    "tune_sound_mm_projector": True,
    "soft_ce_std": 1.0,
    "time_token_ids": [],
    "quantize_model": "false",
    "fabit": "E4M3",
    "seq_parallel_size": -1,
    "data_mixture": "omni_stage3",
    "mm_use_im_patch_token": True,
    "unified_audio_encoder": True,
    "save_data": True,
}
LLM_LEFTOVERS = {
    "channel_order_list": [list(range(64))] * 2,
    "head_dim_list": [16, 16],
    "head_dim_original": 16,
    "head_order_list": [[0, 1, 2, 3]] * 2,
    "hidden_size_list": [64, 64, 64],
    "intermediate_size_list": [128, 128],
    "kv_repeat_original": 2,
    "num_attention_heads_list": [4, 4],
    "num_key_value_heads_list": [2, 2],
    "model_max_length": 131072,
    "tokenizer_model_max_length": 131072,
}


@dataclass(frozen=True)
class Variant:
    """This is one way in which the files may differ.

    Args:
        name: as that of a test.
        write: changes a writable copy of the checkpoint.
        error: words of the one error that loading ends with; None: it loads.
        like: what must be changed to get a checkpoint of the same numbers; None: nothing.
        touches: those that touch the same are never combined; "" is never combined at all.
    """

    name: str
    write: Write
    error: str | None = None
    like: Write | None = None
    touches: str = ""


def copy_checkpoint(source: Path, folder: Path) -> Path:
    """Copies a checkpoint so that its small files can be written to; weights are linked."""
    for path in sorted(source.rglob("*")):
        target = folder / path.relative_to(source)
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        elif path.suffix == ".safetensors":
            target.parent.mkdir(parents=True, exist_ok=True)
            os.symlink(path.resolve(), target)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return folder


def read(folder: Path, file: str) -> dict:
    return json.loads((folder / file).read_text(encoding="utf-8"))


def patched(values: dict, patch: dict) -> dict:
    """A copy with `patch` applied: dictionaries merge, `DELETED` removes, everything else replaces."""
    values = dict(values)
    for key, value in patch.items():
        if value is DELETED:
            values.pop(key, None)
        elif isinstance(value, dict) and isinstance(values.get(key), dict):
            values[key] = patched(values[key], value)
        else:
            values[key] = value
    return values


# -- Each of the following returns a function that changes a checkpoint.


def edit(file: str, change: Callable[[dict], dict]) -> Write:
    def write(folder: Path) -> None:
        (folder / file).write_text(json.dumps(change(read(folder, file))), encoding="utf-8")

    return write


def patch(file: str, values: dict) -> Write:
    return edit(file, lambda old: patched(old, values))


def main(**values) -> Write:
    return patch("config.json", values)


def component(name: str, **values) -> Write:
    return patch(f"{name}/config.json", values)


def remove(*files: str) -> Write:
    def write(folder: Path) -> None:
        for file in files:
            (folder / file).unlink()

    return write


def text(file: str, content: str) -> Write:
    return lambda folder: (folder / file).write_text(content, encoding="utf-8") and None


def tensors(name: str, change: Callable[[dict], dict]) -> Write:
    def write(folder: Path) -> None:
        path = folder / name / SAFETENSORS
        values = change(load_file(path))
        path.unlink()
        save_file(values, path, {"format": "pt"})

    return write


def renamed(name: str, change: Callable[[str], str]) -> Write:
    return tensors(name, lambda values: {change(key): value for key, value in values.items()})


def sharded(*names: str) -> Write:
    """Puts each half of a component's tensors into a file of its own."""

    def write(folder: Path) -> None:
        for name in names:
            values = load_file(folder / name / SAFETENSORS)
            keys = sorted(values)
            weight_map = {}
            for number, half in enumerate((keys[::2], keys[1::2]), start=1):
                file = f"model-{number:05}-of-00002.safetensors"
                save_file({key: values[key] for key in half}, folder / name / file, {"format": "pt"})
                weight_map |= dict.fromkeys(half, file)
            (folder / name / SAFETENSORS).unlink()
            index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
            (folder / name / INDEX).write_text(json.dumps(index), encoding="utf-8")

    return write


def both(*writes: Write) -> Write:
    def write(folder: Path) -> None:
        for one in writes:
            one(folder)

    return write


def in_strings(value):
    """Numbers as strings, in lists and dictionaries, too; booleans as they are."""
    if isinstance(value, dict):
        return {key: in_strings(part) for key, part in value.items()}
    if isinstance(value, list):
        return [in_strings(part) for part in value]
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def booleans_in_strings(values: dict) -> dict:
    return {key: str(value) if isinstance(value, bool) else value for key, value in values.items()}


def numbers_in_strings(values: dict) -> dict:
    """Of a main file: its own numbers, those of the copies of components, and of the encoder descriptions."""
    kept = {"transformers_version": values["transformers_version"]}
    return {**in_strings(values), **kept}


def copies(change: Callable[[str, dict], object]) -> Write:
    def mend(values: dict) -> dict:
        return {**values, **{f"{name}_cfg": change(name, values[f"{name}_cfg"]) for name in COMPONENTS}}

    return edit("config.json", mend)


def dumped(values: dict) -> dict:
    """A configuration as Transformers 4.46 writes it when it is nested in another."""
    return {**DUMPED_4_46, **values}


def whole_audio_model(flat: bool, kind: str) -> Write:
    """The audio tower's file as that of a whole Qwen2-Audio model, with or without the options at its top, too."""

    def change(encoder: dict) -> dict:
        whole = {
            "architectures": encoder["architectures"],
            "audio_config": {key: value for key, value in encoder.items() if not key.startswith("_")},
            "audio_token_index": 151646,
            "ignore_index": -100,
            "model_type": kind,
            "text_config": {"model_type": "qwen2", "hidden_size": 4096, "vocab_size": 156032, "rope_theta": 10000},
            "vocab_size": 156032,
        }
        return {**(encoder if flat else {}), **whole, "model_type": kind}

    return edit("sound_tower/config.json", change)


def whole_vision_model(folder: Path) -> None:
    values = read(folder, "vision_tower/config.json")
    whole = {"architectures": ["SiglipVisionModel"], "model_type": "siglip", "vision_config": values, "text_config": {}}
    (folder / "vision_tower/config.json").write_text(json.dumps(whole), encoding="utf-8")


def template_in_file(folder: Path) -> None:
    """Puts the tokenizer's template into a file, broken into indented lines as those of the repository are."""
    options = read(folder, "llm/tokenizer_config.json")
    template = (
        options.pop("chat_template").replace("{% for", "\n    {% for").replace("{% if add", "\n\n        {% if add")
    )
    (folder / "omni.jinja").write_text(template, encoding="utf-8")
    (folder / "llm/tokenizer_config.json").write_text(json.dumps(options), encoding="utf-8")
    main(chat_template="omni")(folder)


def without_words(*words: str) -> Write:
    """Takes words out of the tokenizer; those that follow move up."""

    def write(folder: Path) -> None:
        tokenizer = read(folder, "llm/tokenizer.json")
        first = min(token["id"] for token in tokenizer["added_tokens"])
        kept = [token for token in tokenizer["added_tokens"] if token["content"] not in words]
        tokenizer["added_tokens"] = [{**token, "id": first + place} for place, token in enumerate(kept)]
        (folder / "llm/tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
        options = read(folder, "llm/tokenizer_config.json")
        options["added_tokens_decoder"] = {
            str(token["id"]): {key: value for key, value in token.items() if key != "id"}
            for token in tokenizer["added_tokens"]
        }
        (folder / "llm/tokenizer_config.json").write_text(json.dumps(options), encoding="utf-8")
        (folder / "llm/added_tokens.json").unlink()

    return write


def untied_but_equal(values: dict) -> dict:
    return {**values, "lm_head.weight": values["model.embed_tokens.weight"].clone()}


def encoder_in_string(values: dict) -> dict:
    names = ("image_encoder", "video_encoder", "sound_encoder")
    return {**values, **{name: json.dumps(values[name]) for name in names}}


ABSENT_AS_NULL = ("mm_use_bos_eos_tokens", "num_time_tokens", "fps", "resume_path", "vision_resolution", "version")
SAME = (
    # components: the folder rules
    Variant("copies_are_stale", copies(lambda name, copy: {**copy, "hidden_size": 8, "vocab_size": 7}), touches="c"),
    Variant("copies_are_paths", copies(lambda name, copy: f"runs/train/model/{name}"), touches="c"),
    Variant("copies_are_names", copies(lambda name, copy: name), touches="c"),
    Variant("copies_hold_a_path", copies(lambda name, copy: {"_name_or_path": f"/data/{name}"}), touches="c"),
    Variant("copies_are_absent", copies(lambda name, copy: None), touches="c"),
    Variant("copies_are_of_4_46", copies(lambda name, copy: dumped(copy)), touches="c"),
    Variant("vision_folder_has_no_config", remove("vision_tower/config.json")),
    Variant("no_folder_has_a_config", remove(*(f"{name}/config.json" for name in COMPONENTS))),
    Variant("no_folder_has_a_config_and_4_46", both(
        copies(lambda name, copy: dumped(copy)), remove(*(f"{name}/config.json" for name in COMPONENTS)),
    )),
    # keys that are absent or null
    Variant("no_sampling_rate", main(audio_sampling_rate=DELETED), touches="rate"),
    Variant("no_interleaving", main(interleaved_vis_aud_in_video=DELETED), touches="interleaving"),
    Variant("no_segment_duration", main(interleaved_video_segment_duration=DELETED), touches="segment"),
    Variant("no_audio_in_video", main(load_audio_in_video=DELETED), touches="load"),
    Variant("no_chunk_length", main(audio_chunk_length=DELETED), touches="chunk"),
    Variant("no_hop", main(audio_hop_length=DELETED), like=main(audio_hop_length=60)),
    Variant("hop_is_null", main(audio_hop_length=None), like=main(audio_hop_length=60)),
    Variant("hop_is_none", main(audio_hop_length="None"), like=main(audio_hop_length=60)),
    Variant("defaults_are_null", main(
        audio_sampling_rate=None, interleaved_video_segment_duration=None, audio_chunk_length=None,
    )),
    Variant("flags_are_null", main(load_audio_in_video=None, interleaved_vis_aud_in_video=None), like=main(
        load_audio_in_video=False, interleaved_vis_aud_in_video=False,
    )),
    Variant("options_of_training_are_absent", main(**dict.fromkeys(
        ("mm_vision_select_layer", "mm_vision_select_feature", "mm_use_bos_eos_tokens", "max_tiles",
         "s2_resize_output_to_scale_idx", "fps", "s2"), DELETED,
    )), touches="absent"),
    # options that the original code does not read
    Variant("frame_rate", main(fps=2.0), touches="fps"),
    Variant("base_of_audio_times", main(sound_encoder={
        "time_embed_type": "lang", "max_time": None, "trope_theta": 7,
    }), like=main(sound_encoder={"time_embed_type": "lang", "max_time": None})),
    Variant("tokens_around_images", main(image_encoder={
        "start_tokens": "a", "end_tokens": "None", "new_token_mode": 1,
    }), touches="image_encoder"),
    Variant("stale_audio_projector", component("sound_mm_projector", sound_mm_projector_type="mlp2x"), touches="stale"),
    Variant("empty_speech_tower", main(speech_tower_cfg={}, speech_mm_projector_cfg={}), touches="off"),
    Variant("names_of_parts", main(
        unfreeze_mm_vision_tower=True, tokenizer_name="llm", image_token_index=7, vision_tower_loss_weight=1.0,
    ), touches="names"),
    Variant("others_are_null", main(**dict.fromkeys(ABSENT_AS_NULL)), touches="null"),
    Variant("no_dtype", main(torch_dtype=DELETED), touches="dtype"),
    Variant("no_encoder_of_images", main(image_encoder=DELETED), touches="image_encoder"),
    Variant("encoder_of_images_is_null", main(image_encoder=None), touches="image_encoder"),
    Variant("no_aspect_ratio", main(image_aspect_ratio=DELETED), like=main(image_aspect_ratio="resize")),
    Variant("nulls_in_components", both(
        component("llm", rope_scaling=None, sliding_window=None, pad_token_id=None, layer_types=None, use_cache=None),
        component("vision_tower", attention_dropout=None, layer_norm_eps=None, num_channels=None, hidden_act=None),
        component("sound_tower", dropout=None, scale_embedding=None, max_source_positions=None),
        component("mm_projector", pruned_heads=None, id2label=None),
    )),
    # surplus keys
    Variant("training_leftovers", main(**TRAINING_LEFTOVERS), touches="training"),
    Variant("llm_leftovers", component("llm", **LLM_LEFTOVERS), touches="surplus"),
    Variant("llm_training_leftovers", component("llm", fabit="E4M3", qchoice="none", refine_residual_fp=False)),
    Variant("folders_are_of_4_46", both(*(edit(f"{name}/config.json", dumped) for name in COMPONENTS)), touches="4.46"),
    Variant("main_file_is_of_4_46", edit("config.json", dumped), touches="main 4.46"),
    Variant("longer_context_in_main_file", main(model_max_length=131072), touches="length"),
    Variant("context_as_string", main(model_max_length="131072"), touches="length"),
    Variant("switches_are_off", main(
        ps3=False, look_close_mode=None, num_look_close=1, top_down_prompt_head_type="linear", video_max_tiles=1,
        speech_tower_cfg=None, speech_mm_projector_cfg=None, speech_encoder='{"_target_": "BasicSpeechEncoder"}',
        mm_use_im_start_end="False", unknown_attention_mode=None,
    ), touches="off"),
    Variant("a_key_that_nobody_knows", main(favourite_colour="green"), touches="unknown"),
    Variant("media_words_are_spelled_out", main(
        media_tokens={"image": "<image>", "video": "<vila/video>", "sound": "<sound>"}, ignore_index=-100,
        sentinel_token="<vila/sentinel>", default_image_token="<image>",
    ), touches="words"),
    # the audio tower and the vision tower as parts of whole models
    Variant("whole_audio_model", whole_audio_model(flat=True, kind="qwen2_audio_encoder"), touches="sound"),
    Variant("whole_audio_model_of_its_type", whole_audio_model(flat=True, kind="qwen2_audio"), touches="sound"),
    Variant("whole_audio_model_not_flat", whole_audio_model(flat=False, kind="qwen2_audio"), touches="sound"),
    Variant("whole_audio_model_stale", both(
        whole_audio_model(flat=True, kind="qwen2_audio"), component("sound_tower", audio_config={"d_model": 1280}),
    ), touches="sound"),
    Variant("whole_vision_model", whole_vision_model, touches="vision"),
    # types
    Variant("torch_in_dtypes", both(
        main(torch_dtype="torch.float16", llm_cfg={"torch_dtype": "torch.float16"}),
        *(component(name, torch_dtype="torch.float16") for name in COMPONENTS),
        patch("llm/generation_config.json", {"torch_dtype": "torch.float16"}),
        component("sound_tower", audio_config={"torch_dtype": "torch.float16"}),
    )),
    Variant("numbers_are_strings", edit("config.json", numbers_in_strings), touches="strings"),
    Variant("numbers_are_floats", main(
        audio_sampling_rate=16000.0, audio_hop_length=160.0, num_video_frames=8.0, max_tiles=12.0,
    ), touches="floats"),
    Variant("component_numbers_are_strings", both(
        *(edit(f"{name}/config.json", in_strings) for name in ("llm", "vision_tower", "sound_tower")),
    ), touches="component strings"),
    Variant("component_numbers_are_floats", both(
        component("llm", hidden_size=64.0, num_hidden_layers=2.0), component("vision_tower", image_size=56.0),
    ), touches="component floats"),
    Variant("booleans_are_strings", edit("config.json", booleans_in_strings), touches="booleans"),
    Variant("component_booleans_are_strings", both(
        *(edit(f"{name}/config.json", booleans_in_strings) for name in ("llm", "vision_tower", "sound_tower")),
    ), touches="component booleans"),
    Variant("generation_numbers_are_strings", edit("llm/generation_config.json", in_strings), touches="generation"),
    Variant("scales_are_a_list", main(s2_scales=[56, 112, 168]), touches="scales"),
    Variant("scales_are_a_list_of_strings", main(s2_scales=["168", "56", "112"]), touches="scales"),
    Variant("scales_have_spaces", main(s2_scales="56, 112, 168"), touches="scales"),
    # encoder descriptions
    Variant("encoders_are_json_in_strings", edit("config.json", encoder_in_string)),
    Variant("encoder_classes_without_module", main(
        image_encoder={"_target_": "BasicImageEncoder"}, video_encoder={"_target_": "TSPVideoEncoder"},
        sound_encoder={"_target_": "BasicSoundEncoder"},
    ), touches="targets"),
    Variant("encoders_without_class", main(
        video_encoder={"_target_": DELETED}, sound_encoder={"_target_": DELETED},
    ), touches="targets"),
    Variant("nulls_in_encoders", main(
        video_encoder={"sep_tokens": None, "start_tokens": None, "trope_theta": None, "pool_sizes": None},
        sound_encoder={"start_tokens": None, "trope_theta": None},
    ), touches="nulls"),
    Variant("pool_sizes_are_strings", main(video_encoder={"pool_sizes": [["1", "1", "1"]]}), touches="pools"),
    # projectors
    Variant("main_file_names_no_audio_projector", main(sound_mm_projector=DELETED), touches="projector"),
    Variant("projector_types_are_null", both(
        component("mm_projector", mm_projector_type=None),
        component("sound_mm_projector", sound_mm_projector_type=None),
    ), touches="projectors"),
    # weights
    Variant("buffer_of_positions", tensors("vision_tower", lambda old: {
        **old, "vision_model.embeddings.position_ids": torch.arange(64)[None],
    })),
    Variant("buffers_of_frequencies", tensors("llm", lambda old: {
        **old, **{f"model.{part}rotary_emb.inv_freq": torch.ones(8) for part in ("", "layers.0.self_attn.")},
    })),
    Variant("vision_names_without_prefix", renamed("vision_tower", lambda name: name.removeprefix("vision_model."))),
    Variant("vision_names_with_two_prefixes", renamed("vision_tower", lambda name: f"vision_tower.{name}")),
    Variant("audio_names_with_prefix", renamed("sound_tower", lambda name: f"audio_tower.{name}")),
    *(Variant(f"shards_of_{name}", sharded(name)) for name in COMPONENTS),
    Variant("shards_of_all", sharded(*COMPONENTS)),
    Variant("tied_head_is_absent", both(
        component("llm", tie_word_embeddings=True),
        tensors("llm", lambda old: {key: value for key, value in old.items() if key != "lm_head.weight"}),
    ), like=tensors("llm", untied_but_equal)),
    Variant("tied_by_a_string", both(
        component("llm", tie_word_embeddings="True"),
        tensors("llm", lambda old: {key: value for key, value in old.items() if key != "lm_head.weight"}),
    ), like=tensors("llm", untied_but_equal)),
    # tokenizer, template, stop tokens
    Variant("template_in_a_file", template_in_file, touches="template"),
    Variant("no_template", patch("llm/tokenizer_config.json", {"chat_template": DELETED}), touches="template"),
    Variant("template_is_none", main(chat_template="None"), touches="template"),
    Variant("no_sentinel", without_words("<vila/sentinel>"), touches="tokenizer"),
    Variant("no_media_words", without_words("<vila/sentinel>", "<image>", "<vila/video>", "<sound>"),
            touches="tokenizer"),
    Variant("no_tokenizer_json", remove("llm/tokenizer.json")),
    Variant("no_generation_config", remove("llm/generation_config.json")),
    Variant("other_stop_tokens", patch("llm/generation_config.json", {"eos_token_id": 7}), touches="generation"),
    Variant("sampling", patch("llm/generation_config.json", {
        "do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05,
    }), touches="generation"),
    Variant("no_preprocessors", remove("preprocessor_config.json", "vision_tower/preprocessor_config.json")),
)  # fmt: skip

UNKNOWN_NUMBERS = "which is not known here and could change numbers"
REFUSED = (
    # other VILA checkpoints
    Variant("no_audio_tower", both(
        main(sound_tower_cfg=None, sound_mm_projector_cfg=None),
        lambda folder: [shutil.rmtree(folder / name) for name in ("sound_tower", "sound_mm_projector")] and None,
    ), "without sound_tower and sound_mm_projector: only the omni-modal one"),
    Variant("speech_tower", main(speech_tower_cfg={"model_type": "whisper"}), "a second audio tower, for speech, is"),
    Variant("time_tokens", main(num_time_tokens=100), "num_time_tokens=100 is not supported.*time tokens in answers"),
    Variant("time_tokens_in_a_string", main(num_time_tokens="100"), "num_time_tokens='100' is not supported"),
    Variant("ps3", main(ps3=True), "ps3=True is not supported.*the PS3 vision tower"),
    Variant("plain_s2", main(dynamic_s2=False, s2=True), "s2=True is not supported without dynamic_s2"),
    Variant("tiles_of_videos", main(video_max_tiles=4), "video_max_tiles=4 is not supported.*in tiles are not here"),
    Variant("tokens_for_each_image", main(mm_use_im_start_end=True), "tokens around each image are not here"),
    Variant("padded_images", main(image_aspect_ratio="pad"), "image_aspect_ratio='pad' is not supported"),
    Variant("dynamic_images", main(image_aspect_ratio="dynamic"), "image_aspect_ratio='dynamic' is not supported"),
    Variant("patches_left_out", main(mm_vision_select_feature="patch"), "mm_vision_select_feature='patch' is not"),
    Variant("other_media_words", main(media_tokens={"image": "<img>"}), "other placeholders of media are not here"),
    # projectors and towers
    *(
        Variant(f"projector_{kind}", component("mm_projector", mm_projector_type=kind), f"'{kind}' is not supported")
        for kind in ("mlp_downsample_2x2_fix", "mlp_downsample_3x3_fix", "mlp_downsample_3x3_s2", "mlp2x_gelu")
    ),
    Variant("audio_projector", both(
        main(sound_mm_projector=DELETED), component("sound_mm_projector", sound_mm_projector_type="mlp_downsample"),
    ), "sound_mm_projector_type='mlp_downsample' is not supported"),
    Variant("audio_projector_in_main_file", main(sound_mm_projector="mlp_downsample_pool"),
            "option sound_mm_projector='mlp_downsample_pool' is not supported"),
    *(
        Variant(f"vision_{kind}", component("vision_tower", model_type=kind), f"a '{kind}'.*which is not here")
        for kind in ("siglip2_vision_model", "intern_vit_6b", "radio", "clip_vision_model")
    ),
    *(
        Variant(f"audio_{kind}", component("sound_tower", model_type=kind), f"describes a '{kind}'.*which is not here")
        for kind in ("whisper", "beats", "qwen2_5_omni")
    ),
    *(
        Variant(f"llm_{kind}", component("llm", model_type=kind), f"describes a '{kind}'.*which is not here")
        for kind in ("llama", "qwen3")
    ),
    # keys that could change numbers
    Variant("rope_scaling_in_main_file", main(rope_scaling={"type": "linear", "factor": 4.0}), UNKNOWN_NUMBERS),
    Variant("sliding_window_in_main_file", main(sliding_window=4096), UNKNOWN_NUMBERS),
    Variant("biases", component("llm", attention_bias=True), f"has attention_bias=True, {UNKNOWN_NUMBERS}"),
    Variant("chunked_attention", component("llm", dual_chunk_attention_config={"chunk_size": 1}), UNKNOWN_NUMBERS),
    Variant("quantized_llm", component("llm", quantization_config={"quant_method": "awq"}), UNKNOWN_NUMBERS),
    Variant("vision_resampler", component("vision_tower", resampler_depth=2), UNKNOWN_NUMBERS),
    Variant("encoder_key", main(video_encoder={"temporal_stride": 2}), "video_encoder.temporal_stride=2 is not known"),
    Variant("encoder_class", main(sound_encoder={"_target_": "llava.model.encoders.QFormerSoundEncoder"}),
            "sound_encoder._target_='llava.model.encoders.QFormerSoundEncoder' is not supported"),
    Variant("learned_times", main(video_encoder={"time_embed_type": "learned_embed"}), "time_embed_type='learned_em"),
    Variant("fixed_audio", main(audio_chunk_length="fix_30"), "audio_chunk_length='fix_30' is not supported"),
    Variant("other_resampling", patch("vision_tower/preprocessor_config.json", {"resample": 2}), "has resample=2"),
    Variant("other_rescaling", patch("vision_tower/preprocessor_config.json", {"rescale_factor": 1}), "known is 1/255"),
    Variant("ratio", main(token_keep_ratio=0.5), f"token_keep_ratio=0.5, {UNKNOWN_NUMBERS}"),
    Variant("ratio_of_videos", main(video_downsample_ratio=2), f"video_downsample_ratio=2, {UNKNOWN_NUMBERS}"),
    # values that are none
    Variant("few_tiles", main(max_tiles=4), "max_tiles=4, but the largest of s2_scales='56,112,168' needs 9 tiles"),
    Variant("no_whole_number", main(num_video_frames="7.9"), "num_video_frames of config.json.*a whole number, got '7"),
    Variant("a_word_for_a_number", main(num_video_frames="many"), "num_video_frames of config.json.*a number, got 'm"),
    Variant("no_sides", main(s2_scales="small"), "s2_scales of config.json cannot be read"),
    Variant("no_such_dtype", main(torch_dtype="bf17"), "Expected the name of a dtype.*got 'bf17'"),
    Variant("no_number", component("llm", num_hidden_layers="two"), "num_hidden_layers='two', which is no value"),
    Variant("no_scales", main(s2_scales=None), "dynamic_s2=true but no s2_scales"),
    Variant("no_json", main(video_encoder="TSPVideoEncoder"), "video_encoder='TSPVideoEncoder' is no JSON"),
    Variant("no_flag", main(load_audio_in_video="maybe"),
            "load_audio_in_video of config.json cannot be read. Expected a boolean, got 'maybe'"),
    # files
    Variant("no_template_file", main(chat_template="omni"), "chat template 'omni', but there is no omni.jinja"),
    Variant("template_elsewhere", main(chat_template="../omni"), r"names the chat template '../omni', but there is no"),
    Variant("no_tokenizer", remove("llm/tokenizer.json", "llm/vocab.json", "llm/merges.txt", "llm/added_tokens.json"),
            "has no usable tokenizer in its folder llm"),
    Variant("no_weights", remove(f"sound_tower/{SAFETENSORS}"), "has no sound_tower/model.safetensors nor"),
    Variant("no_shard", both(sharded("llm"), remove("llm/model-00002-of-00002.safetensors")), "lacks the shards"),
    Variant("neither_folder_nor_copy", both(main(sound_tower_cfg="sound_tower"), remove("sound_tower/config.json")),
            "does not describe sound_tower"),
    Variant("other_sizes", component("llm", intermediate_size=96), "misshapen: .*mlp.down_proj.weight is"),
    Variant("surplus_tensor", tensors("mm_projector", lambda old: {**old, "layers.6.weight": torch.zeros(2)}),
            "surplus: mm_projector/layers.6.weight"),
    Variant("head_is_absent", tensors("llm", lambda old: {
        key: value for key, value in old.items() if key != "lm_head.weight"
    }), "missing: lm_head.weight"),
)  # fmt: skip


def combined(seed: int, size: int) -> Variant:
    """Several variants that load with the same numbers at once, chosen at random."""
    chosen: dict[str, Variant] = {}
    candidates = [variant for variant in SAME if variant.touches]
    for variant in random.Random(seed).sample(candidates, len(candidates)):
        if len(chosen) < size:
            chosen.setdefault(variant.touches, variant)
    # Those that change all entries of a file come last.
    ordered = sorted(chosen.values(), key=lambda one: ("strings" in one.name, one.name))
    name = f"combined_{seed}({'+'.join(one.name for one in ordered)})"
    return Variant(name, both(*(one.write for one in ordered)))


COMBINED = tuple(combined(seed, size=5 + seed % 10) for seed in range(20))
VARIANTS = (*SAME, *COMBINED, *REFUSED)


def write_variant(variant: Variant, source: Path, folder: Path) -> Path:
    """Writes one variant of the checkpoint `source` to a new folder."""
    copy_checkpoint(source, folder)
    variant.write(folder)
    return folder


if __name__ == "__main__":
    checkpoint, target = map(Path, sys.argv[1:])
    for one in VARIANTS:
        write_variant(one, checkpoint, target / one.name.partition("(")[0])
