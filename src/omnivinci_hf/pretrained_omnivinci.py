"""Loading: the ordinary layout, the released one, quantized, with an adapter on top; safetensors alone."""

import copy
import json
import os

from transformers import PreTrainedModel
from transformers.quantizers import AutoQuantizationConfig

from .configuration_omnivinci import OmniVinciConfig
from .model_card_omnivinci import ModelCardMixin
from .released_checkpoint_omnivinci import is_released_checkpoint, load_released_checkpoint
from .released_config_omnivinci import component_file


# what bitsandbytes leaves in full precision unless `llm_int8_skip_modules` says otherwise
NOT_QUANTIZED = [
    "model.vision_tower",
    "model.audio_tower",
    "model.vision_projector",
    "model.audio_projector",
    "lm_head",
]


class OmniVinciPreTrainedModel(ModelCardMixin, PreTrainedModel):
    config_class = OmniVinciConfig
    base_model_prefix = "model"
    input_modalities = ("image", "video", "audio", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = [
        "SiglipEncoderLayer",
        "SiglipVisionEmbeddings",
        "SiglipMultiheadAttentionPoolingHead",
        "Qwen2AudioEncoderLayer",
        "AudioFlamingo3EncoderLayer",
        "Qwen2_5OmniAudioEncoderLayer",
        "Qwen2DecoderLayer",
    ]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path=None, *args, config=None, state_dict=None, **kwargs):
        """As [`PreTrainedModel.from_pretrained`]; also takes the released five-folder layout, local or hub id.

        Its weights are read lazily, component by component, so they are never held twice; `dtype`, `device_map` and
        `quantization_config` work as usual. bitsandbytes quantizes the language model alone, unless its
        `llm_int8_skip_modules` is set. Weights are read from safetensors files only, never from pickles.

        Raises:
            ValueError: when tensors of the released layout are missing, surplus or misshapen; it names them.
            OSError: when there are no safetensors weights.
        """
        if kwargs.get("use_safetensors") is False:
            raise ValueError("`use_safetensors=False` is not supported: pickled weights are never read.")
        kwargs["use_safetensors"] = True
        quantization = kwargs.get("quantization_config")
        if isinstance(quantization, dict):
            quantization = AutoQuantizationConfig.from_dict(quantization)
        if getattr(quantization, "llm_int8_skip_modules", False) is None:
            quantization = copy.deepcopy(quantization)
            # also as the model without head names them
            quantization.llm_int8_skip_modules = [
                *NOT_QUANTIZED,
                *(name.removeprefix("model.") for name in NOT_QUANTIZED),
            ]
            kwargs["quantization_config"] = quantization
        if pretrained_model_name_or_path is not None and state_dict is None:
            adapter, base = _adapter_and_base(str(pretrained_model_name_or_path), kwargs)
            if adapter is not None and is_released_checkpoint(base, kwargs):
                return cls._load_adapted(adapter, base, config, kwargs)
        if (
            pretrained_model_name_or_path is None
            or state_dict is not None
            or not is_released_checkpoint(pretrained_model_name_or_path, kwargs)
        ):
            try:
                return super().from_pretrained(
                    pretrained_model_name_or_path, *args, config=config, state_dict=state_dict, **kwargs
                )
            except OSError as error:
                if "do not set `use_safetensors=True`" not in str(error):
                    raise
                raise OSError(
                    f"{pretrained_model_name_or_path} has no safetensors weights, and pickled ones are never read: "
                    "have them saved anew with `save_pretrained`."
                ) from error
        return load_released_checkpoint(cls, pretrained_model_name_or_path, config, kwargs)

    @classmethod
    def _load_adapted(cls, adapter: str, base: str, config, options: dict):
        """The released layout with a PEFT adapter on top, which `super().from_pretrained` would only look for there."""
        adapter_name = options.pop("adapter_name", "default")
        adapter_options = dict(options.pop("adapter_kwargs", None) or {})
        adapter_options.pop("_adapter_model_path", None)
        loaded = load_released_checkpoint(cls, base, config, options)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.load_adapter(adapter, adapter_name=adapter_name, adapter_kwargs=adapter_options)
        return loaded


def _adapter_and_base(name_or_path: str, options: dict) -> tuple[str | None, str]:
    """A PEFT adapter and the model that it belongs to, where either the options or the files name one."""
    adapter = (options.get("adapter_kwargs") or {}).get("_adapter_model_path")
    if adapter is not None:
        return adapter, name_or_path
    file = component_file(name_or_path, "", "adapter_config.json", {}) if os.path.isdir(name_or_path) else None
    if file is None or os.path.isfile(os.path.join(name_or_path, "config.json")):
        return None, name_or_path
    with open(file, encoding="utf-8") as stream:
        return name_or_path, json.load(stream)["base_model_name_or_path"] or name_or_path
