from ._version import __version__
from .audio_media_omnivinci import AudioClip, load_audio
from .configuration_omnivinci import OmniAlignNetConfig, OmniVinciConfig, OmniVinciTimeEmbeddingConfig
from .feature_extraction_omnivinci import OmniVinciFeatureExtractor
from .image_processing_omnivinci import OmniVinciImageProcessor, OmniVinciVideoProcessor
from .media_limits_omnivinci import MediaError, MediaLimits
from .media_omnivinci import load_image
from .modeling_omnivinci import OmniVinciForConditionalGeneration, OmniVinciModel
from .omni_align_omnivinci import OmniAlignNet
from .pipeline_omnivinci import OmniQAPipeline
from .processing_omnivinci import OmniVinciProcessor
from .video_media_omnivinci import VideoClip, load_video, sample_indices

__all__ = [
    "AudioClip",
    "MediaError",
    "MediaLimits",
    "OmniAlignNet",
    "OmniAlignNetConfig",
    "OmniQAPipeline",
    "OmniVinciConfig",
    "OmniVinciFeatureExtractor",
    "OmniVinciForConditionalGeneration",
    "OmniVinciImageProcessor",
    "OmniVinciModel",
    "OmniVinciProcessor",
    "OmniVinciTimeEmbeddingConfig",
    "OmniVinciVideoProcessor",
    "VideoClip",
    "__version__",
    "load_audio",
    "load_image",
    "load_video",
    "sample_indices",
]
