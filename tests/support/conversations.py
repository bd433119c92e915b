"""This module holds media of the golden cases, conversations about them, and what the processor makes of these."""

from tests.support import goldens


IMAGE = {"type": "image", "path": str(goldens.SMALL / "b_image" / "image.png")}
IMAGE_2 = {"type": "image", "path": str(goldens.SMALL / "c_two_images" / "image2.png")}
AUDIO = {"type": "audio", "path": str(goldens.SMALL / "d_audio3" / "audio.wav")}
VIDEO = {"type": "video", "path": str(goldens.SMALL / "h_video5" / "video.mp4")}
SILENT = {"type": "video", "path": str(goldens.SMALL / "g_video5_silent" / "video.mp4")}
MIXED = [
    [VIDEO, "What happens? Answer at some length, please."],
    ["Hello"],
    [IMAGE, "What?"],
    [AUDIO, SILENT, "What do you hear?"],
    [IMAGE, IMAGE_2, VIDEO, AUDIO, "Everything"],
    [IMAGE_2, "And this?"],
]


def conversation(parts):
    parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return [{"role": "user", "content": parts}]


def prepare(processor, parts, **options):
    conversations = [conversation(row) for row in parts] if isinstance(parts[0], list) else conversation(parts)
    return processor.apply_chat_template(
        conversations,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        processor_kwargs=options,
    )
