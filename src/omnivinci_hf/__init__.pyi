from ._version import __version__
from .inspection.plot import plot_media
from .omnivinci.audio_media_omnivinci import AudioClip, load_audio
from .omnivinci.configuration_omnivinci import OmniAlignNetConfig, OmniVinciConfig, OmniVinciTimeEmbeddingConfig
from .omnivinci.conversation_omnivinci import MediaPart
from .omnivinci.feature_extraction_omnivinci import OmniVinciFeatureExtractor
from .omnivinci.image_media_omnivinci import load_image
from .omnivinci.image_processing_omnivinci import OmniVinciImageProcessor
from .omnivinci.media_encoder_omnivinci import OmniVinciMediaEncoder
from .omnivinci.media_reading_omnivinci import MediaError, MediaLimits
from .omnivinci.modeling_omnivinci import OmniVinciForConditionalGeneration, OmniVinciModel
from .omnivinci.omni_align_omnivinci import OmniAlignNet
from .omnivinci.pipeline_omnivinci import OmniQAPipeline
from .omnivinci.processing_omnivinci import EncodedMedium, OmniVinciProcessor, join_media
from .omnivinci.session_omnivinci import Session
from .omnivinci.video_media_omnivinci import VideoClip, load_video, sample_indices
from .omnivinci.video_processing_omnivinci import OmniVinciVideoProcessor

__all__ = [
    "AudioClip",
    "EncodedMedium",
    "MediaError",
    "MediaLimits",
    "MediaPart",
    "OmniAlignNet",
    "OmniAlignNetConfig",
    "OmniQAPipeline",
    "OmniVinciConfig",
    "OmniVinciFeatureExtractor",
    "OmniVinciForConditionalGeneration",
    "OmniVinciImageProcessor",
    "OmniVinciMediaEncoder",
    "OmniVinciModel",
    "OmniVinciProcessor",
    "OmniVinciTimeEmbeddingConfig",
    "OmniVinciVideoProcessor",
    "Session",
    "VideoClip",
    "__version__",
    "join_media",
    "load_audio",
    "load_image",
    "load_video",
    "plot_media",
    "sample_indices",
]
