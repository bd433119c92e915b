"""This module writes random, untrained checkpoints in the original one's five folders, for tests and benchmarks.

Nothing is learned here: the answers of such a checkpoint are noise, only its form is right.
"""

import copy
import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from ..hub.atomic_folders import whole_folder
from ..original_layout.config import COMPONENTS
from ..original_layout.weights import SAFETENSORS_NAMES


Shapes = dict[str, tuple[int, ...]]

TOKENIZER_VOCAB_SIZE = 456  # 256 bytes and 200 merges; the special tokens follow
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<image>",
    "<vila/video>",
    "<sound>",
    "<|image_bos|>",
    "<|image_eos|>",
    "<|video_bos|>",
    "<|video_eos|>",
    "<|sound_bos|>",
    "<|sound_eos|>",
    "<vila/sentinel>",
)
# Qwen2's pre-tokenizer: contractions, words, single digits, punctuation, line breaks, spaces.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The original checkpoint's template: contents are strings in which media tokens already stand.
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant<|im_end|>\\n' }}{% endif %}"
    "{% for message in messages if message['content'] is not none %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
TRAINING_SENTENCES = (
    "You are a helpful assistant",
    "system user assistant",
    "What do you see in this picture, and what do you hear in the recording?",
    "Describe the video and its sound in a few sentences.",
    "A red circle moves slowly across the screen while a low beep is played.",
    "The green square appears after five seconds, then a high tone can be heard.",
    "Someone is talking to a friend in the kitchen; water is running in the background.",
    "Two dogs are barking at a passing car, and a child laughs behind the camera.",
    "Which of these events comes first, the music or the blue triangle?",
    "The speaker explains how a bicycle works and shows every part of it.",
    "There is no sound at the beginning of the clip, only a white wall.",
    "When does the woman start singing? She starts singing at the second minute.",
    "How many people are standing near the window at the end of the film?",
    "Yes, the answer can be found in both the image and the audio.",
    "It's raining outside, so they don't leave the house before the evening.",
)


def write_tiny_checkpoint(
    folder: str | os.PathLike,
    *,
    seed: int = 0,
    shards: int = 1,
    std: float = 0.02,
    dtype: torch.dtype = torch.float32,
    llm: Mapping[str, Any] | None = None,
    vision_tower: Mapping[str, Any] | None = None,
    mm_projector: Mapping[str, Any] | None = None,
    sound_tower: Mapping[str, Any] | None = None,
    sound_mm_projector: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a random checkpoint to `folder`, which must be new or empty, and returns its path.

    Matrices are normal with deviation `std`, norms one, biases zero, sound positions sinusoids. The
    dictionaries replace values of the component configs and, recursively, of the main `config.json`; widths
    that follow from others (`mm_hidden_size`, the S2 scales, ...) are worked out from them. With `shards`
    above one, `llm/` holds that many safetensors files and an index. One tensor is in memory at a time,
    whatever the size of the whole.

    The same arguments give the same files.
    """
    if dtype not in SAFETENSORS_NAMES:
        raise ValueError(f"dtype must be one of {list(SAFETENSORS_NAMES)}, got {dtype}.")
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; give a new folder, or delete it first.")

    overrides = (llm, vision_tower, mm_projector, sound_tower, sound_mm_projector)
    tokenizer = _build_tokenizer()
    components = _component_configs(dict(zip(COMPONENTS, overrides, strict=True)), tokenizer, dtype)
    main_config = _main_config(components, config or {}, dtype)
    shapes = _component_shapes(components, main_config["mm_hidden_size"])
    if not 1 <= shards <= len(shapes["llm"]):
        raise ValueError(f"shards must lie between 1 and {len(shapes['llm'])} (the llm's tensors), got {shards}.")

    with whole_folder(folder) as new:
        for number, name in enumerate(COMPONENTS):
            (new / name).mkdir()
            _write_json(new / name / "config.json", components[name] | {"transformers_version": "4.46.0"})
            generator = torch.Generator().manual_seed(seed * len(COMPONENTS) + number)
            tensors = _random_tensors(shapes[name], generator, std, dtype)
            _write_weights(new / name, shapes[name], tensors, dtype, shards if name == "llm" else 1)
        _write_tokenizer(new / "llm", tokenizer, components["llm"])
        _write_generation_config(new / "llm", components["llm"])
        _write_preprocessors(new, components, main_config)
        _write_json(new / "config.json", main_config)
    return folder


# Configs


def _component_configs(
    overrides: dict[str, Mapping[str, Any] | None], tokenizer: Tokenizer, dtype: torch.dtype
) -> dict[str, dict]:
    components = {}
    for name, defaults in _component_defaults(tokenizer).items():
        values = {"_name_or_path": name, **defaults, "torch_dtype": _dtype_name(dtype)}
        components[name] = values | dict(overrides[name] or {})
    llm, vision, sound = components["llm"], components["vision_tower"], components["sound_tower"]
    llm.setdefault("max_window_layers", llm["num_hidden_layers"])
    vision.setdefault("num_image_tokens", (vision["image_size"] // vision["patch_size"]) ** 2)
    sound.setdefault("num_hidden_layers", sound["encoder_layers"])
    _check_components(components, tokenizer.get_vocab_size())
    return components


def _component_defaults(tokenizer: Tokenizer) -> dict[str, dict]:
    return {
        "llm": {
            "architectures": ["Qwen2ForCausalLM"],
            "attention_dropout": 0.0,
            "bos_token_id": tokenizer.token_to_id("<|endoftext|>"),
            "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
            "hidden_act": "silu",
            "hidden_size": 64,
            "initializer_range": 0.02,
            "intermediate_size": 128,
            "max_position_embeddings": 32768,
            "model_max_length": 32768,
            "model_type": "qwen2",
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": 1000000.0,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "tokenizer_model_max_length": 32768,
            "tokenizer_padding_side": "right",
            "use_cache": True,
            "use_sliding_window": False,
            "vocab_size": 480,
        },
        "vision_tower": {
            "architectures": ["SiglipVisionModel"],
            "attention_dropout": 0.0,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": 32,
            "image_size": 56,
            "intermediate_size": 64,
            "layer_norm_eps": 1e-06,
            "model_type": "siglip_vision_model",
            "num_attention_heads": 2,
            "num_channels": 3,
            "num_hidden_layers": 3,
            "patch_size": 7,
            "projection_dim": 64,
            "projector_hidden_act": "gelu_fast",
            "vision_use_head": True,
        },
        "mm_projector": {
            "architectures": ["MultimodalProjector"],
            "mm_projector_type": "mlp_downsample",
            "model_type": "v2l_projector",
        },
        "sound_tower": {
            "activation_dropout": 0.0,
            "activation_function": "gelu",
            "architectures": ["Qwen2AudioEncoder"],
            "attention_dropout": 0.0,
            "d_model": 48,
            "dropout": 0.0,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 96,
            "encoder_layerdrop": 0.0,
            "encoder_layers": 2,
            "init_std": 0.02,
            "max_source_positions": 1500,
            "model_type": "qwen2_audio_encoder",
            "num_mel_bins": 128,
            "scale_embedding": False,
        },
        "sound_mm_projector": {
            "architectures": ["SoundMultimodalProjector"],
            "model_type": "sound_mm_projector",
            "sound_mm_projector_type": "mlp",
        },
    }


def _check_components(components: dict[str, dict], tokenizer_size: int) -> None:
    widths = {
        "llm": ("hidden_size", "num_attention_heads"),
        "vision_tower": ("hidden_size", "num_attention_heads"),
        "sound_tower": ("d_model", "encoder_attention_heads"),
    }
    for name, (width, heads) in widths.items():
        values = components[name]
        if values[width] % values[heads]:
            raise ValueError(f"{name}: {width} {values[width]} is no multiple of {heads} {values[heads]}.")
    if components["llm"]["vocab_size"] < tokenizer_size:
        raise ValueError(
            f"llm: vocab_size {components['llm']['vocab_size']} is below the tokenizer's {tokenizer_size}."
        )
    supported = {
        ("mm_projector", "mm_projector_type"): "mlp_downsample",
        ("sound_mm_projector", "sound_mm_projector_type"): "mlp",
    }
    for (name, key), kind in supported.items():
        if components[name][key] != kind:
            raise ValueError(f"{key} must be {kind!r} for a tiny checkpoint, got {components[name][key]!r}.")


def _main_config(components: dict[str, dict], overrides: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    vision = components["vision_tower"]
    values = {
        "_name_or_path": "omnivinci-tiny",
        "architectures": ["VILAForCausalLM"],
        "model_type": "vila",
        # The names of the original checkpoint's remote code; nothing here runs it.
        "auto_map": {
            "AutoConfig": "modeling_vila.VILAConfig",
            "AutoModel": "modeling_vila.VILAForCausalLM",
            "AutoModelForCausalLM": "modeling_vila.VILAForCausalLM",
            "AutoProcessor": "auto_processor.VILAProcessor",
        },
        **{f"{name}_cfg": copy.deepcopy(components[name]) for name in COMPONENTS},
        "image_encoder": {"_target_": "llava.model.encoders.BasicImageEncoder"},
        "video_encoder": {
            "_target_": "llava.model.encoders.TSPVideoEncoder",
            "end_tokens": "None",
            "pool_sizes": [[1, 1, 1]],
            **_time_embedding_config(),
        },
        "sound_encoder": {"_target_": "llava.model.encoders.BasicSoundEncoder", **_time_embedding_config()},
        "hidden_size": components["llm"]["hidden_size"],
        "sound_hidden_size": components["sound_tower"]["d_model"],
        "image_aspect_ratio": "dynamic_s2",
        "dynamic_s2": True,
        "s2": False,
        "s2_scales": ",".join(str(vision["image_size"] * factor) for factor in (1, 2, 3)),
        "s2_max_split_size": vision["image_size"],
        "s2_resize_output_to_scale_idx": 0,
        "min_tiles": 1,
        "max_tiles": 12,
        "vision_resolution": -1,
        "interpolate_mode": "linear",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "cls_patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "mm_use_bos_eos_tokens": False,
        "mm_projector": components["mm_projector"]["mm_projector_type"],
        "sound_mm_projector": components["sound_mm_projector"]["sound_mm_projector_type"],
        "num_video_frames": 8,
        "fps": 0.0,
        "load_audio_in_video": True,
        "interleaved_vis_aud_in_video": True,
        "interleaved_video_segment_duration": 30,
        "audio_sampling_rate": 16000,
        "audio_hop_length": 160,
        "audio_chunk_length": "max_3600",
        "num_time_tokens": 0,
        "time_token_format": "<t{t}>",
        "chat_template": None,
        "model_dtype": f"torch.{_dtype_name(dtype)}",
        "resume_path": None,
        "torch_dtype": _dtype_name(dtype),
        "transformers_version": "4.46.0",
        "version": "2.0",
    }
    _merge(values, overrides)
    num_scales = len(values["s2_scales"].split(",")) if values["dynamic_s2"] or values["s2"] else 1
    values.setdefault("mm_hidden_size", num_scales * vision["hidden_size"])
    return values


def _time_embedding_config() -> dict[str, Any]:
    return {
        "embed_time": "True",
        "max_time": 3600,
        "period_fix": "True",
        "time_embed_type": "pixel",
        "trope_dim": 32,
    }


def _merge(values: dict[str, Any], patch: Mapping[str, Any]) -> None:
    for key, value in patch.items():
        if isinstance(value, Mapping) and isinstance(values.get(key), dict):
            _merge(values[key], value)
        else:
            values[key] = copy.deepcopy(value)


# Tensor names and shapes


def _component_shapes(components: dict[str, dict], mm_hidden_size: int) -> dict[str, Shapes]:
    llm, sound = components["llm"], components["sound_tower"]
    return {
        "llm": _llm_shapes(llm),
        "vision_tower": _vision_shapes(components["vision_tower"]),
        # 2x2 neighbours are stacked on the channels before the norm, layers.0 and 3 have no weights
        "mm_projector": {
            **_norm("layers.1", 4 * mm_hidden_size),
            **_linear("layers.2", 4 * mm_hidden_size, llm["hidden_size"]),
            **_linear("layers.4", llm["hidden_size"], llm["hidden_size"]),
        },
        "sound_tower": _sound_shapes(sound),
        "sound_mm_projector": {
            **_linear("layers.0", sound["d_model"], llm["hidden_size"]),
            **_linear("layers.2", llm["hidden_size"], llm["hidden_size"]),
        },
    }


def _llm_shapes(config: dict[str, Any]) -> Shapes:
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    queries, keys = head_dim * config["num_attention_heads"], head_dim * config["num_key_value_heads"]
    shapes: Shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        shapes |= _norm(f"{layer}.input_layernorm", hidden, bias=False)
        shapes |= _linear(f"{layer}.self_attn.q_proj", hidden, queries)
        shapes |= _linear(f"{layer}.self_attn.k_proj", hidden, keys)
        shapes |= _linear(f"{layer}.self_attn.v_proj", hidden, keys)
        shapes |= _linear(f"{layer}.self_attn.o_proj", queries, hidden, bias=False)
        shapes |= _norm(f"{layer}.post_attention_layernorm", hidden, bias=False)
        shapes |= _linear(f"{layer}.mlp.gate_proj", hidden, ffn, bias=False)
        shapes |= _linear(f"{layer}.mlp.up_proj", hidden, ffn, bias=False)
        shapes |= _linear(f"{layer}.mlp.down_proj", ffn, hidden, bias=False)
    shapes |= _norm("model.norm", hidden, bias=False)
    if not config["tie_word_embeddings"]:
        shapes |= _linear("lm_head", hidden, config["vocab_size"], bias=False)
    return shapes


def _vision_shapes(config: dict[str, Any]) -> Shapes:
    hidden, ffn, patch = config["hidden_size"], config["intermediate_size"], config["patch_size"]
    embeddings = "vision_model.embeddings"
    shapes: Shapes = {
        f"{embeddings}.patch_embedding.weight": (hidden, config["num_channels"], patch, patch),
        f"{embeddings}.patch_embedding.bias": (hidden,),
        f"{embeddings}.position_embedding.weight": ((config["image_size"] // patch) ** 2, hidden),
    }
    for i in range(config["num_hidden_layers"]):
        layer = f"vision_model.encoder.layers.{i}"
        shapes |= _norm(f"{layer}.layer_norm1", hidden)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _linear(f"{layer}.self_attn.{name}", hidden, hidden)
        shapes |= _norm(f"{layer}.layer_norm2", hidden)
        shapes |= _linear(f"{layer}.mlp.fc1", hidden, ffn) | _linear(f"{layer}.mlp.fc2", ffn, hidden)
    shapes |= _norm("vision_model.post_layernorm", hidden)
    if config["vision_use_head"]:
        head = "vision_model.head"
        shapes |= {
            f"{head}.probe": (1, 1, hidden),
            f"{head}.attention.in_proj_weight": (3 * hidden, hidden),
            f"{head}.attention.in_proj_bias": (3 * hidden,),
            **_linear(f"{head}.attention.out_proj", hidden, hidden),
            **_norm(f"{head}.layernorm", hidden),
            **_linear(f"{head}.mlp.fc1", hidden, ffn),
            **_linear(f"{head}.mlp.fc2", ffn, hidden),
        }
    return shapes


def _sound_shapes(config: dict[str, Any]) -> Shapes:
    hidden, ffn = config["d_model"], config["encoder_ffn_dim"]
    shapes: Shapes = {
        "conv1.weight": (hidden, config["num_mel_bins"], 3),
        "conv1.bias": (hidden,),
        "conv2.weight": (hidden, hidden, 3),
        "conv2.bias": (hidden,),
        "embed_positions.weight": (config["max_source_positions"], hidden),
    }
    for i in range(config["encoder_layers"]):
        layer = f"layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _linear(f"{layer}.self_attn.{name}", hidden, hidden, bias=name != "k_proj")
        shapes |= _norm(f"{layer}.self_attn_layer_norm", hidden)
        shapes |= _linear(f"{layer}.fc1", hidden, ffn) | _linear(f"{layer}.fc2", ffn, hidden)
        shapes |= _norm(f"{layer}.final_layer_norm", hidden)
    return shapes | _norm("layer_norm", hidden)


def _linear(name: str, in_features: int, out_features: int, bias: bool = True) -> Shapes:
    shapes: Shapes = {f"{name}.weight": (out_features, in_features)}
    if bias:
        shapes[f"{name}.bias"] = (out_features,)
    return shapes


def _norm(name: str, size: int, bias: bool = True) -> Shapes:
    shapes: Shapes = {f"{name}.weight": (size,)}
    if bias:
        shapes[f"{name}.bias"] = (size,)
    return shapes


# Weights


def _random_tensors(
    shapes: Shapes, generator: torch.Generator, std: float, dtype: torch.dtype
) -> Iterator[torch.Tensor]:
    for name, shape in shapes.items():
        if name == "embed_positions.weight":
            yield _sinusoids(*shape).to(dtype)
        elif len(shape) > 1:
            yield torch.randn(shape, generator=generator).mul_(std).to(dtype)
        else:
            yield torch.full(shape, 0.0 if name.endswith("bias") else 1.0, dtype=dtype)


def _sinusoids(length: int, channels: int) -> torch.Tensor:
    """Whisper's fixed positions, `(length, channels)`: sines, then cosines, of periods 2 pi to 20000 pi."""
    half = channels // 2
    frequencies = torch.exp(-math.log(10000) / max(half - 1, 1) * torch.arange(half))
    angles = torch.arange(length)[:, None] * frequencies
    positions = torch.zeros(length, channels)
    positions[:, :half], positions[:, half : 2 * half] = angles.sin(), angles.cos()
    return positions


def _write_weights(
    folder: Path, shapes: Shapes, tensors: Iterator[torch.Tensor], dtype: torch.dtype, shards: int
) -> None:
    if shards == 1:
        _write_safetensors(folder / "model.safetensors", shapes, tensors, dtype)
        return
    weight_map: dict[str, str] = {}
    for i, part in enumerate(_split(shapes, shards), start=1):
        file_name = f"model-{i:05}-of-{shards:05}.safetensors"
        _write_safetensors(folder / file_name, part, tensors, dtype)
        weight_map |= dict.fromkeys(part, file_name)
    total_size = sum(math.prod(shape) for shape in shapes.values()) * dtype.itemsize
    index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
    _write_json(folder / "model.safetensors.index.json", index)


def _split(shapes: Shapes, shards: int) -> list[Shapes]:
    """Cuts `shapes` into `shards` runs of about the same number of elements, none of them empty."""
    names = list(shapes)
    total = sum(math.prod(shape) for shape in shapes.values())
    parts: list[Shapes] = [{}]
    done = 0
    for i, name in enumerate(names):
        parts_left = shards - len(parts)
        if parts_left and parts[-1] and (done >= total * len(parts) / shards or len(names) - i <= parts_left):
            parts.append({})
        parts[-1][name] = shapes[name]
        done += math.prod(shapes[name])
    return parts


def _write_safetensors(path: Path, shapes: Shapes, tensors: Iterator[torch.Tensor], dtype: torch.dtype) -> None:
    """Streams the next tensors to `path`; `safetensors.save_file` wants all of them in memory at once."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": SAFETENSORS_NAMES[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data to 8 bytes
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, tensor in zip(shapes, tensors, strict=False):
            file.write(tensor.view(torch.uint8).numpy().data)


# Tokenizer and preprocessors


def _build_tokenizer() -> Tokenizer:
    """A byte-level BPE tokenizer as Qwen2's, trained on the sentences above."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENIZER_VOCAB_SIZE,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING_SENTENCES, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    return tokenizer


def _write_tokenizer(folder: Path, tokenizer: Tokenizer, llm: dict[str, Any]) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.model.save(str(folder))  # vocab.json and merges.txt
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL_TOKENS}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    values = {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(i): {"content": token, **flags} for token, i in ids.items()},
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": llm["tokenizer_model_max_length"],
        "pad_token": "<|endoftext|>",
        "padding_side": llm["tokenizer_padding_side"],
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    _write_json(folder / "tokenizer_config.json", values)
    _write_json(folder / "added_tokens.json", ids)
    special = {key: values[key] for key in ("additional_special_tokens", "eos_token", "pad_token")}
    _write_json(folder / "special_tokens_map.json", special)


def _write_generation_config(folder: Path, llm: dict[str, Any]) -> None:
    bos, eos = llm["bos_token_id"], llm["eos_token_id"]
    values = {"bos_token_id": bos, "eos_token_id": [eos, bos], "pad_token_id": bos}
    _write_json(folder / "generation_config.json", values)


def _write_preprocessors(folder: Path, components: dict[str, dict], main_config: dict[str, Any]) -> None:
    image_size = components["vision_tower"]["image_size"]
    image = {
        "do_convert_rgb": None,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "SiglipImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "processor_class": "SiglipProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": image_size, "width": image_size},
    }
    sound_tower = components["sound_tower"]
    rate, hop = main_config["audio_sampling_rate"], main_config["audio_hop_length"]
    # conv2 halves the mel frames, so a window of the encoder is twice its number of positions
    window_sec = max(2 * sound_tower["max_source_positions"] * hop // rate, 1)
    sound = {
        "chunk_length": window_sec,
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": sound_tower["num_mel_bins"],
        "hop_length": hop,
        "n_fft": 400,
        "n_samples": window_sec * rate,
        "nb_max_frames": window_sec * rate // hop,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": True,
        "sampling_rate": rate,
    }
    _write_json(folder / "vision_tower" / "preprocessor_config.json", image)
    _write_json(folder / "preprocessor_config.json", sound)


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
