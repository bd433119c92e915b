"""This package is a made-up world of clips: shapes that come and go, sounds, and questions whose answers are known.

A small model and its trained checkpoint belong to it. Only the command `demo` and `omnivinci_hf.small` import it.
"""

from .backgrounds import PLACES
from .clip_file import reencode, write_clip
from .questions import CROSS_FAMILIES, FAMILIES, WORDINGS, Question, list_questions, questions, vocabulary
from .rendering import frames, vision_frames_at, waveform
from .sampling import sample_scene, sample_sound, sample_vision
from .scene import (
    COLOURS,
    SHAPES,
    SOUNDS,
    SPOKEN,
    STATEMENTS,
    Distractor,
    Motion,
    Scene,
    ShapeEvent,
    SoundEvent,
    SoundTrack,
    VisionTrack,
)
from .statements import is_true, with_statements


__all__ = [
    "COLOURS",
    "CROSS_FAMILIES",
    "Distractor",
    "FAMILIES",
    "Motion",
    "PLACES",
    "Question",
    "SHAPES",
    "SOUNDS",
    "SPOKEN",
    "STATEMENTS",
    "Scene",
    "ShapeEvent",
    "SoundEvent",
    "SoundTrack",
    "VisionTrack",
    "WORDINGS",
    "frames",
    "is_true",
    "list_questions",
    "questions",
    "reencode",
    "sample_scene",
    "sample_sound",
    "sample_vision",
    "vision_frames_at",
    "vocabulary",
    "waveform",
    "with_statements",
    "write_clip",
]
