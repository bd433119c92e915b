"""This module registers the classes with Transformers' Auto classes when it is imported."""

from typing import Any

from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)

# These do not come from the top level: without torchvision, Transformers has stand-ins there that raise at any use
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.auto.video_processing_auto import AutoVideoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from ..omnivinci.checkpoint_files_omnivinci import ORIGINAL, SUCCESSOR_MODEL_TYPE
from ..omnivinci.configuration_omnivinci import OmniVinciConfig
from ..omnivinci.feature_extraction_omnivinci import OmniVinciFeatureExtractor
from ..omnivinci.image_processing_omnivinci import OmniVinciImageProcessor
from ..omnivinci.modeling_omnivinci import OmniVinciForConditionalGeneration
from ..omnivinci.pipeline_omnivinci import OmniQAPipeline
from ..omnivinci.processing_omnivinci import OmniVinciProcessor
from ..omnivinci.video_processing_omnivinci import OmniVinciVideoProcessor


TASK = "omni-qa"


class VILAConfig(OmniVinciConfig):
    """This class stands for the original checkpoint's `model_type`; what it builds is an [`OmniVinciConfig`]."""

    model_type = "vila"

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """Builds an [`OmniVinciConfig`] from the entries of a configuration file."""
        return OmniVinciConfig.from_dict(config_dict, **kwargs)


class VILAProcessor(OmniVinciProcessor):
    """This class stands for the processor class that the original checkpoint's files name."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        """Loads an [`OmniVinciProcessor`] from a folder or a Hub id."""
        return OmniVinciProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs)


class AudioVisualFlamingoConfig(VILAConfig):
    """This class stands for the `model_type` of the successor's checkpoints, see [`VILAConfig`]."""

    model_type = SUCCESSOR_MODEL_TYPE


class AudioVisualFlamingoProcessor(VILAProcessor):
    """This class stands for the processor class that the successor's files name, see [`VILAProcessor`]."""


classes = [(OmniVinciConfig, OmniVinciProcessor), (VILAConfig, VILAProcessor)]
if SUCCESSOR_MODEL_TYPE not in CONFIG_MAPPING:  # a Transformers that has the successor's own classes keeps them
    classes.append((AudioVisualFlamingoConfig, AudioVisualFlamingoProcessor))
for config_class, processor_class in classes:
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoProcessor.register(config_class, processor_class, exist_ok=True)
for model_loader in (AutoModel, AutoModelForMultimodalLM, AutoModelForImageTextToText):
    model_loader.register(OmniVinciConfig, OmniVinciForConditionalGeneration, exist_ok=True)
parts: dict[Any, Any] = {
    AutoImageProcessor: OmniVinciImageProcessor,
    AutoVideoProcessor: OmniVinciVideoProcessor,
    AutoFeatureExtractor: OmniVinciFeatureExtractor,
}
for auto_class, part in parts.items():
    auto_class.register(OmniVinciConfig, part, exist_ok=True)
OmniVinciConfig.register_for_auto_class()
OmniVinciForConditionalGeneration.register_for_auto_class()
OmniVinciProcessor.register_for_auto_class()
for part in parts.values():
    part.register_for_auto_class()
if TASK not in PIPELINE_REGISTRY.supported_tasks:
    default = {"model": (ORIGINAL, "main")}
    PIPELINE_REGISTRY.register_pipeline(TASK, OmniQAPipeline, pt_model=AutoModel, default=default, type="multimodal")
