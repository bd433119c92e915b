"""This module loads models, also quantized ones, those of the original layout, and adapters with their base models.

Weights are read from safetensors files alone.
"""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

from safetensors.torch import load_file
from transformers import PreTrainedModel
from transformers.quantizers import AutoQuantizationConfig
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME, is_peft_available

from .checkpoint_files_omnivinci import (
    HUB_OPTIONS,
    Adapted,
    ModelCardMixin,
    check_weight_files,
    component_file,
    find_adapter,
    hub_options_of,
    is_original_checkpoint,
    read_config,
)
from .configuration_omnivinci import OmniVinciConfig
from .encoders_omnivinci import AUDIO_TOWERS
from .omni_align_omnivinci import OmniAlignNet
from .package_hooks_omnivinci import original_layout


# bitsandbytes leaves these modules in full precision unless `llm_int8_skip_modules` says otherwise
NOT_QUANTIZED = [
    "model.vision_tower",
    "model.audio_tower",
    "model.vision_projector",
    "model.audio_projector",
    "model.omni_align_net",
    "lm_head",
]


class OmniVinciPreTrainedModel(ModelCardMixin, PreTrainedModel):
    """This is the base class of the models: it loads and saves them, and says what they can do."""

    has_language_model: ClassVar[bool] = True
    config_class = OmniVinciConfig
    base_model_prefix = "model"
    input_modalities = ["image", "video", "audio", "text"]
    supports_gradient_checkpointing = True
    _no_split_modules = [
        "SiglipEncoderLayer",
        "SiglipVisionEmbeddings",
        "SiglipMultiheadAttentionPoolingHead",
        "Qwen2DecoderLayer",
        "OmniAlignNet",
        *(layer for tower in AUDIO_TOWERS.values() for layer in tower._no_split_modules),
        # whole, because they use their positions, and marks of windows, outside of the modules that hold them
        *(tower.__name__ for tower in AUDIO_TOWERS.values()),
    ]
    _skip_keys_device_placement = ["cache", "past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    # The package calls `register_for_auto_class`, the public way; models of a copy of the code are saved with it too.
    _auto_class = "AutoModel"  # type: ignore[assignment]  # declared as None there

    def add_remote_code_entries(self) -> None:
        """Notes in the config where a machine without this package finds the classes, and the pipeline, of a folder."""
        model = f"{type(self).__module__.split('.')[-1]}.{type(self).__name__}"
        config_class: Any = type(self.config)  # a derived config may be found elsewhere
        self.config.auto_map = {"AutoConfig": config_class.auto_map["AutoConfig"], "AutoModel": model}
        self.config.__dict__.pop("custom_pipelines", None)  # the pipeline answers, which needs a head

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As [`PreTrainedModel.save_pretrained`]; the code goes along, so that the folder also loads without this
        package (`trust_remote_code=True`), `pipeline("omni-qa")` included.
        """
        self.add_remote_code_entries()
        super().save_pretrained(save_directory, *args, **kwargs)

    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, OmniAlignNet):
            module.reset_parameters()

    def enable_input_require_grads(self) -> None:
        """As [`PreTrainedModel.enable_input_require_grads`], but not for frozen towers: they would keep every
        activation for a gradient that nobody needs.
        """
        # Transformers (5.20 to 5.24) has no public way to leave a tower out, so the hooks that it set are wrapped. This
        # can go when it asks only towers with trainable parameters.
        super().enable_input_require_grads()
        for tower in self.modules():
            if isinstance(tower, PreTrainedModel) and tower.main_input_name != "input_ids":
                hooks = tower.get_input_embeddings()._forward_hooks
                for hook in self._require_grads_hooks:
                    if hook.id in hooks:
                        hooks[hook.id] = partial(_if_trainable, tower, hooks[hook.id])

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path=None, *args, config=None, state_dict=None, **kwargs):
        """As [`PreTrainedModel.from_pretrained`]; also takes the original layout, and those of its successor
        Audio-Visual Flamingo, local or hub id.

        Its weights are read lazily, component by component, so they are never held twice; `dtype`, `device_map` and
        `quantization_config` work as usual. bitsandbytes quantizes the language model alone, unless its
        `llm_int8_skip_modules` is set. Weights are read from safetensors files only, never from pickles.

        Raises:
            ValueError: when tensors of the original layout are missing, surplus or misshapen; it names them. Also when
                the folder holds a media encoder alone, and this model has a language model.
            OSError: when there are no safetensors weights.
        """
        name_or_path, options = pretrained_model_name_or_path, kwargs
        if options.get("use_safetensors") is False:
            raise ValueError("`use_safetensors=False` is not supported: pickled weights are never read.")
        options["use_safetensors"] = True
        if (quantization := options.get("quantization_config")) is not None:
            options["quantization_config"] = _language_model_alone(quantization)
        if name_or_path is not None and state_dict is None:
            adapted = find_adapter(str(name_or_path), options) if is_peft_available() else None
            if adapted is None:
                base, base_options = str(name_or_path), hub_options_of(options)
            else:
                base, base_options = adapted.base, adapted.base_options
            if adapted is not None and is_original_checkpoint(base, base_options):
                return cls._load_adapted(adapted, config, options)
            cls._check_for_language_model(base, base_options)
            check_weight_files(base, base_options, variant=options.get("variant"))
            if is_original_checkpoint(name_or_path, options):
                return original_layout(name_or_path).load_model(cls, name_or_path, config, options)
        try:
            loaded = super().from_pretrained(name_or_path, *args, config=config, state_dict=state_dict, **options)
        except OSError as error:
            if "do not set `use_safetensors=True`" not in str(error):
                raise
            raise OSError(
                f"{name_or_path} has no safetensors weights, and pickled ones are never read: have them saved anew "
                "with `save_pretrained`."
            ) from error
        # Transformers makes every weight that it reads a trainable one.
        for module in (loaded[0] if isinstance(loaded, tuple) else loaded).modules():
            if hasattr(module, "freeze_unused"):
                module.freeze_unused()
        return loaded

    @classmethod
    def _check_for_language_model(cls, name_or_path: str, hub_options: Mapping[str, Any]) -> None:
        """Refuses a checkpoint of the media encoder alone where the language model would be a random one."""
        config = read_config(name_or_path, hub_options) or {}
        if cls.has_language_model and config.get("architectures") == ["OmniVinciMediaEncoder"]:
            raise ValueError(
                f"{name_or_path} holds a media encoder without a language model: load it with "
                "`OmniVinciMediaEncoder.from_pretrained`, or load the whole checkpoint that it was taken from."
            )

    @classmethod
    def _load_adapted(cls, adapted: Adapted, config, options: dict):
        """Loads a base model of the original layout, and then the adapter.

        `super().from_pretrained` would look for the adapter in the folder of the base model.
        """
        options = {name: value for name, value in options.items() if name not in (*HUB_OPTIONS, "adapter_kwargs")}
        adapter_name = options.pop("adapter_name", "default")
        layout = original_layout(adapted.base)
        loaded = layout.load_model(cls, adapted.base, config, {**options, **adapted.base_options})
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.load_adapter(adapted.adapter, adapter_name=adapter_name, adapter_kwargs=adapted.adapter_options)
        return loaded

    def load_adapter(self, peft_model_id=None, *args, adapter_kwargs=None, load_config=None, **kwargs):
        """As [`PreTrainedModel.load_adapter`], from safetensors only.

        Raises:
            OSError: when the adapter's weights are a pickle.
        """
        weights = kwargs.pop("adapter_state_dict", None)
        if peft_model_id is not None and weights is None:
            options = {**(load_config.download_kwargs if load_config else {}), **(adapter_kwargs or {})}
            options = hub_options_of(options)
            if kwargs.get("local_files_only"):
                options["local_files_only"] = True
            if "revision" in options:
                # It may be a `ResolvedRevision`, which carries the commit of the base model.
                options["revision"] = str(options["revision"])
            file = component_file(peft_model_id, "", ADAPTER_SAFE_WEIGHTS_NAME, options)
            if file is None:
                raise OSError(
                    f"{peft_model_id} has no {ADAPTER_SAFE_WEIGHTS_NAME}, and pickled adapters are never read: have it "
                    "saved anew with `save_pretrained`."
                )
            weights = load_file(file)
        if weights is not None:
            # PEFT saves the magnitudes of DoRA under a shorter name, under which Transformers would leave them out.
            weights = {
                f"{name}.weight" if name.endswith("lora_magnitude_vector") else name: value
                for name, value in weights.items()
            }
        return super().load_adapter(
            peft_model_id,
            *args,
            adapter_kwargs=adapter_kwargs,
            load_config=load_config,
            adapter_state_dict=weights,
            **kwargs,
        )


def _language_model_alone(given: Any) -> Any:
    """Returns a quantization that keeps all but the language model in full precision, unless it names modules."""
    quantization = AutoQuantizationConfig.from_dict(given) if isinstance(given, dict) else copy.deepcopy(given)
    if getattr(quantization, "llm_int8_skip_modules", False) is not None:
        return given
    # The model without head has the same modules under shorter names.
    without_head = [name.removeprefix("model.") for name in NOT_QUANTIZED]
    quantization.llm_int8_skip_modules = [*NOT_QUANTIZED, *without_head]
    return quantization


def _if_trainable(tower: PreTrainedModel, hook: Callable, *args):
    # This is asked when the hook runs, because adapters may be put into the tower later.
    if any(value.requires_grad for value in tower.parameters()):
        return hook(*args)
    return None
