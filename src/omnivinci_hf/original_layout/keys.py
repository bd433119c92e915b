"""This module lists the keys of the original checkpoint's configuration files: which are read, and which have no part
in the numbers.

The rest is judged by its name: what could change numbers is refused, and of anything else a warning names it.
"""

import re
from typing import Any

from ..omnivinci.configuration_omnivinci import BASE_ENTRIES


TRANSFORMERS_KEYS = BASE_ENTRIES | {"use_cache"}
# keys of the main file that the mapping reads, beside `SWITCHES`
MAIN_KEYS = frozenset(
    """
    audio_chunk_length audio_hop_length audio_sampling_rate chat_template dynamic_s2 fps image_encoder
    interleaved_video_segment_duration interleaved_vis_aud_in_video llm_cfg load_audio_in_video max_tiles
    mm_projector_cfg mm_use_bos_eos_tokens mm_vision_select_layer model_dtype num_video_frames quantization_config
    random_audio_sample s2 s2_resize_output_to_scale_idx s2_scales sound_encoder sound_mm_projector
    sound_mm_projector_cfg sound_tower_cfg video_encoder vision_tower_cfg
    """.split()
)
# flags of the main file: a null of these is false in the original code, whatever an absent key means
FLAGS = ("load_audio_in_video", "interleaved_vis_aud_in_video")
# The original code takes these values where the file lacks the key.
ORIGINAL_DEFAULTS: dict[str, Any] = {
    "load_audio_in_video": True,
    "interleaved_vis_aud_in_video": True,
    "interleaved_video_segment_duration": 30,
    "audio_sampling_rate": 16000,
    "audio_hop_length": 60,
    "audio_chunk_length": 120,
    "mm_use_bos_eos_tokens": False,
    "dynamic_s2": False,
    "s2_resize_output_to_scale_idx": 0,
    "max_tiles": 12,
    "image_aspect_ratio": None,
    **{f"{medium}_encoder": {} for medium in ("image", "video", "sound")},  # each option has a default of its own
}
# The original code fails where the file lacks these, and these values are assumed.
ASSUMED_VALUES: dict[str, Any] = {"mm_vision_select_layer": -2, "mm_vision_select_feature": "cls_patch"}
# keys of the main file that the original code works out anew, or that speak of what it never reads
IDLE_MAIN_KEYS = frozenset(
    """
    audio_mel_bins default_im_end_token default_im_start_token default_image_token default_sound_token hidden_size
    high_res_pos_embed ignore_index image_token_id image_token_index interpolate_mode look_close_mode min_tiles
    mm_hidden_size mm_low_res_token_num mm_projector mm_scale_num mm_use_im_patch_token model_max_length
    num_look_close num_token_look_close ps3_dynamic_aspect_ratio resume_path s2_max_split_size sentinel_token
    sound_hidden_size sound_token_id sound_token_index sound_tower speech_encoder speech_hidden_size
    speech_mm_projector speech_tower text_config time_token_format time_token_ids tokenizer_model_max_length
    tokenizer_name tokenizer_name_or_path tokenizer_padding_side top_down_prompt_head_type unified_audio_encoder
    version video_token_id video_token_index vision_resolution vision_tower vocab_size
    """.split()
)
# key of the main file -> values with which it is off, and what is not there where it is on
SWITCHES: dict[str, tuple[tuple[Any, ...], str]] = {
    "image_aspect_ratio": (
        ("dynamic_s2", "resize", None),
        "other ways to fit an image than Dynamic-S2 and squashing are not here",
    ),
    "mm_vision_select_feature": (("cls_patch", None), "all patches are kept here, none is left out"),
    "num_time_tokens": ((0, None), "time tokens in answers are not here"),
    "mm_use_im_start_end": ((False, None), "tokens around each image are not here"),
    "ps3": ((False, None), "the PS3 vision tower, which looks closer at parts of an image, is not here"),
    "video_max_tiles": ((0, 1, None), "frames of a video in tiles are not here"),
    "speech_tower_cfg": ((None, False), "a second audio tower, for speech, is not here"),
    "speech_mm_projector_cfg": ((None, False), "a second audio tower, for speech, is not here"),
    "media_tokens": (
        (None, {"image": "<image>", "video": "<vila/video>", "sound": "<sound>"}),
        "other placeholders of media are not here",
    ),
    "mm_bos_eos_tokens": (
        (
            None,
            {
                "image": ["<|image_bos|>", "<|image_eos|>"],
                "video": ["<|video_bos|>", "<|video_eos|>"],
                "sound": ["<|sound_bos|>", "<|sound_eos|>"],
            },
        ),
        "other tokens around the media of a conversation are not here",
    ),
}
# what the training arguments of the VILA family leave in a main file
TRAINING_KEYS = frozenset(
    """
    Ubit babit bits bobit bwbit cache_dir col_blocksize col_blocksize_optimizer data_mixture data_path debug_e2e
    double_quant downsample_video dpo dpo_beta draw_distribution_backward draw_distribution_forward drop_path_rate
    epsilon epsilon_optimizer eval_data_mixture fabit first_order_bit first_order_quant_type fobit fwbit
    group_by_modality_length group_size image_folder is_multimodal lazy_preprocess longvila_sampler lora_alpha lora_bias
    lora_dropout lora_enable lora_llm lora_r lora_vt lora_weight_path min_blockunit_col min_blockunit_row mlp_path
    model_name_or_path mpt_attn_impl optim output_dir pad_block pad_to_multiple_of pre_terminate_time qchoice quant_type
    quantize_model refine_attn_blocksize refine_col_blocksize refine_ln_blocksize refine_ln_blocksize_but_only_backward
    refine_ln_blocksize_but_only_forward refine_ln_pertoken refine_mlp_blocksize refine_residual_fp
    refine_row_blocksize remove_unused_columns row_blocksize row_blocksize_optimizer save_data save_data_dir
    save_fea_duration_limit second_order_bit second_order_quant_type seed seq_parallel_ring_size
    seq_parallel_ring_type seq_parallel_size soft_ce_std symm total_time_limit use_dora use_quantize_optimizer
    vflan_no_system_prompt weight_memory_efficient
    """.split()
)
# These speak of training alone, whatever part they name.
TRAINING = re.compile(r"(un)?(freeze|tune)_.*|.*_(lr|learning_rate|loss|loss_weight|weight_decay|dropout)")
# These, too, unless the rest of the name is that of something that could change numbers.
PERHAPS_TRAINING = re.compile(
    r"(train|eval|deepspeed|ddp|logging|save|dataloader|gradient|optim|warmup|lr_scheduler|num_train|per_device|report"
    r"|run)_.*|.*_(path|dir|mixture)"
)

# keys of an encoder description, with what its class is called there
ENCODER_KEYS = {
    "image_encoder": frozenset(("_target_", "start_tokens", "end_tokens")),
    "video_encoder": frozenset(
        ("_target_", "start_tokens", "end_tokens", "sep_tokens", "pool_sizes", "embed_time", "max_time", "period_fix")
        + ("time_embed_type", "trope_dim", "trope_theta")
    ),
    "sound_encoder": frozenset(
        ("_target_", "start_tokens", "end_tokens", "embed_time", "max_time", "period_fix", "time_embed_type")
        + ("trope_dim", "trope_theta")
    ),
}
ENCODER_CLASSES = {
    "image_encoder": ("BasicImageEncoder",),
    "video_encoder": ("BasicVideoEncoder", "TSPVideoEncoder"),
    "sound_encoder": ("BasicSoundEncoder",),
}

# component -> keys of its file beside the fields of its configuration, that no model reads; "" is the main file
IDLE_KEYS = {
    "": IDLE_MAIN_KEYS,
    "llm": frozenset(
        """
        channel_order_list head_dim_list head_dim_original head_order_list hidden_size_list intermediate_size_list
        kv_repeat_original model_max_length num_attention_heads_list num_key_value_heads_list
        tokenizer_model_max_length tokenizer_padding_side
        """.split()
    ),
    "vision_tower": frozenset(("initializer_factor", "num_image_tokens", "projection_dim", "projector_hidden_act")),
    "sound_tower": frozenset(
        ("audio_config", "text_config", "vocab_size", "audio_token_index", "ignore_index", "init_std")
        + ("initializer_range",)
    ),
    "mm_projector": frozenset(),
    "sound_mm_projector": frozenset(),
}

# What an unknown key is called if it could change numbers.
NUMBERS = re.compile(
    r"rope|rotary|sliding|attention|attn|bias|norm|scal|pool|resampl|encoder|tower|projector|adapter|embed|token|tile"
    r"|frame|audio|sound|speech|video|image|vision|visual|pixel|patch|s2|mm_|hidden|heads?(_|$)|layer|(^|_)act|position"
    r"|dtype|quant|merge|downsampl|window|interleav|segment|stride|hop|mel|expert|conv|fps"
)


def is_off(value: Any) -> bool:
    """Says whether a value stands for nothing, as that of an option that is not used."""
    return value in (None, False, 0, "", "None", "none", "False", "false", "null") or value in ([], {}, ())


def is_training(key: str) -> bool:
    """Says whether a key is an option of training, which has no part in the numbers."""
    if key in TRAINING_KEYS or TRAINING.fullmatch(key):
        return True
    return PERHAPS_TRAINING.fullmatch(key) is not None and NUMBERS.search(key) is None


def changes_numbers(key: str) -> bool:
    """Says whether an unknown key could change numbers, going by its name."""
    return NUMBERS.search(key) is not None and not is_training(key)
