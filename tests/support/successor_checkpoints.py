"""Writes a checkpoint of the original five-folder layout as Audio-Visual Flamingo lies on the Hub.

Run as a script it rewrites any such folder: `python -m tests.support.successor_checkpoints SOURCE TARGET`.
"""

import json
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    Qwen2AudioEncoderConfig,
    Qwen2Config,
    SiglipVisionConfig,
    WhisperFeatureExtractor,
)


# The class that Transformers' pull request 45586 gives the files, and what it leaves out of the parts.
CLASS = "AudioVisualFlamingoForConditionalGeneration"
LEFT_OUT = {
    *("_name_or_path", "transformers_version", "torch_dtype", "model_max_length", "tokenizer_model_max_length"),
    "tokenizer_padding_side",
}
CONFIG_CLASSES = {
    "text_config": ("llm", Qwen2Config),
    "vision_config": ("vision_tower", SiglipVisionConfig),
    "audio_config": ("sound_tower", Qwen2AudioEncoderConfig),
}
MODEL_KEYS = (
    *("mm_vision_select_layer", "mm_vision_select_feature", "dynamic_s2", "s2_max_split_size"),
    *("s2_resize_output_to_scale_idx", "load_audio_in_video", "interleaved_vis_aud_in_video"),
)
PROCESSOR_KEYS = (
    *("image_aspect_ratio", "num_video_frames", "max_tiles", "interleaved_video_segment_duration"),
    *("audio_sampling_rate", "audio_chunk_length", "audio_hop_length", "mm_use_bos_eos_tokens"),
    *("load_audio_in_video", "interleaved_vis_aud_in_video"),
)
MEDIA_TOKENS = {"image": "<image>", "video": "<vila/video>", "sound": "<sound>"}
CHAT_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% set marks = {'image': '<image>', 'video': '<vila/video>', 'audio': '<sound>', 'sound': '<sound>'} %}"
    "{{ marks.get(part['type'], part.get('text', '')) }}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_five_folders(source: Path, target: Path, **changes) -> Path:
    """Copies a checkpoint with the `model_type` of the successor and other changes of the main config; None removes."""
    shutil.copytree(source, target, symlinks=False)
    config = read(source / "config.json")
    config.update({"model_type": "audiovisualflamingo", **changes})
    write(target / "config.json", {name: value for name, value in config.items() if value is not None})
    return target


def write_one_folder(
    source: Path,
    target: Path,
    *,
    older_names: bool = False,
    older_config: bool = False,
    transformers_5: bool = True,
    nested: bool = True,
    shards: int = 1,
) -> Path:
    """Writes a five-folder checkpoint as the successor's one folder.

    Args:
        older_names: the tensors of the towers have the longer names of older files.
        older_config: the parts are `llm_cfg` and so on, and `config.json` holds options of the processor, too.
        transformers_5: the configs have `dtype` and `rope_parameters`, not `torch_dtype` and `rope_theta`.
        nested: the options of feature extractor and image processor stand in `processor_config.json`.
        shards: how many files of weights.
    """
    target.mkdir()
    original = read(source / "config.json")
    tokenizer = AutoTokenizer.from_pretrained(source / "llm")
    for file in (source / "llm").iterdir():
        if not file.name.endswith((".safetensors", ".safetensors.index.json")) and file.name != "config.json":
            shutil.copyfile(file, target / file.name)
    config = _config(source, original, tokenizer, transformers_5)
    if older_config:
        names = {"text_config": "llm_cfg", "vision_config": "vision_tower_cfg", "audio_config": "sound_tower_cfg"}
        config = {names.get(name, name): value for name, value in config.items()}
        config.update({name: original[name] for name in ("mm_projector_cfg", "sound_mm_projector_cfg")})
        config.update({name: original[name] for name in PROCESSOR_KEYS if name in original})
    write(target / "config.json", config)
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    write(target / "generation_config.json", {**special, "pad_token_id": tokenizer.pad_token_id})
    _write_processor(source, target, original, nested)
    _write_weights(source, target, older_names, shards)
    return target


def read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


def write(file: Path, values: dict) -> None:
    file.write_text(json.dumps(values, indent=2), encoding="utf-8")


def change(file: Path, **changes) -> None:
    """Changes entries of a JSON file; None removes one."""
    values = {**read(file), **changes}
    write(file, {name: value for name, value in values.items() if value is not None})


def read_weights(folder: Path) -> dict:
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def _scales(value) -> list[int]:
    return [int(scale) for scale in (value.split(",") if isinstance(value, str) else value)]


def _config(source: Path, original: dict, tokenizer, transformers_5: bool) -> dict:
    config = {"architectures": [CLASS], "model_type": "audiovisualflamingo"}
    for name, (folder, config_class) in CONFIG_CLASSES.items():
        part = {key: value for key, value in read(source / folder / "config.json").items() if key not in LEFT_OUT}
        config[name] = {**config_class(**part).to_dict(), "dtype": "float32"} if transformers_5 else part
    config.update({name: original[name] for name in MODEL_KEYS if name in original})
    config["s2_scales"] = _scales(original["s2_scales"])
    texts = ["\n"]
    for name in ("image_encoder", "video_encoder", "sound_encoder"):
        encoder = dict(original[name])
        encoder["_target_"] = encoder["_target_"].rpartition(".")[2]
        config[name] = encoder
        texts += [encoder.get(f"{place}_tokens") for place in ("start", "end", "sep")]
    ids = {text: tokenizer(text)["input_ids"] for text in texts if text not in (None, "None")}
    config["encoder_text_token_ids"] = ids
    config["media_token_ids"] = {name: tokenizer.convert_tokens_to_ids(token) for name, token in MEDIA_TOKENS.items()}
    config.update(projector_bias=True, multimodal_projector_bias=True)
    return {**config, "dtype" if transformers_5 else "torch_dtype": "float32", "transformers_version": "5.6.0.dev0"}


def _write_processor(source: Path, target: Path, original: dict, nested: bool) -> None:
    options = {name: original[name] for name in PROCESSOR_KEYS if name in original}
    options.update(processor_class="AudioVisualFlamingoProcessor", padding_side="left")
    options["s2_scales"] = _scales(original["s2_scales"])
    chunk_length = original["audio_chunk_length"]
    extractor = WhisperFeatureExtractor(
        feature_size=read(source / "sound_tower" / "config.json")["num_mel_bins"],
        chunk_length=chunk_length if isinstance(chunk_length, int) else 30,
        sampling_rate=original["audio_sampling_rate"],
        hop_length=original["audio_hop_length"],
        return_attention_mask=True,
    ).to_dict()
    images = read(source / "vision_tower" / "preprocessor_config.json")
    if nested:
        options.update(image_processor=images, feature_extractor=extractor)
    else:
        write(target / "preprocessor_config.json", {**images, **extractor})
    write(target / "processor_config.json", options)
    (target / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def _write_weights(source: Path, target: Path, older_names: bool, shards: int) -> None:
    prefixes = {name: f"{name}." for name in ("llm", "mm_projector", "sound_mm_projector")}
    prefixes["vision_tower"] = "vision_tower.vision_tower." + "vision_model." * older_names
    prefixes["sound_tower"] = "sound_tower." + "audio_tower." * older_names
    tensors = {
        prefix + name.removeprefix("vision_model."): tensor
        for folder, prefix in prefixes.items()
        for name, tensor in read_weights(source / folder).items()
    }
    if shards == 1:
        save_file(tensors, target / "model.safetensors", {"format": "pt"})
        return
    weight_map = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in sorted(tensors)[number::shards]}
        save_file(part, target / file, {"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    size = sum(tensor.nbytes for tensor in tensors.values())
    write(target / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map})


if __name__ == "__main__":
    write_one_folder(Path(sys.argv[1]), Path(sys.argv[2]))
