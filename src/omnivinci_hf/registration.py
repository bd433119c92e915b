"""Registers the classes with Transformers' Auto classes; nothing there is patched."""

import transformers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils import logging

from .configuration_omnivinci import OmniVinciConfig
from .feature_extraction_omnivinci import OmniVinciFeatureExtractor
from .image_processing_omnivinci import OmniVinciImageProcessor, OmniVinciVideoProcessor
from .modeling_omnivinci import OmniVinciForConditionalGeneration
from .pipeline_omnivinci import OmniQAPipeline
from .processing_omnivinci import OmniVinciProcessor


logger = logging.get_logger(__name__)
TASK = "omni-qa"


class VILAConfig(OmniVinciConfig):
    """Stands for the released checkpoint's `model_type`; what it builds is an [`OmniVinciConfig`]."""

    model_type = "vila"

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        return OmniVinciConfig.from_dict(config_dict, **kwargs)


class VILAProcessor(OmniVinciProcessor):
    """Stands for the processor class that the released checkpoint's files name."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, **kwargs):
        return OmniVinciProcessor.from_pretrained(pretrained_model_name_or_path, **kwargs)


def register() -> None:
    """Safe to call again: in every process of a server, say."""
    for config_class, processor_class in ((OmniVinciConfig, OmniVinciProcessor), (VILAConfig, VILAProcessor)):
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        AutoProcessor.register(config_class, processor_class, exist_ok=True)
    for auto_class in (AutoModel, AutoModelForMultimodalLM, AutoModelForImageTextToText):
        auto_class.register(OmniVinciConfig, OmniVinciForConditionalGeneration, exist_ok=True)
    parts = {
        "AutoImageProcessor": OmniVinciImageProcessor,
        "AutoVideoProcessor": OmniVinciVideoProcessor,
        "AutoFeatureExtractor": OmniVinciFeatureExtractor,
    }
    for auto_class, part in parts.items():
        try:
            getattr(transformers, auto_class).register(OmniVinciConfig, part, exist_ok=True)
        except ImportError:
            # without torchvision, Transformers offers some of these as stand-ins that raise at any use
            logger.debug("%s is not available without torchvision.", auto_class)
    OmniVinciConfig.register_for_auto_class()
    OmniVinciForConditionalGeneration.register_for_auto_class()
    OmniVinciProcessor.register_for_auto_class()
    for part in parts.values():
        part.register_for_auto_class()
    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(TASK, OmniQAPipeline, pt_model=AutoModel, type="multimodal")
