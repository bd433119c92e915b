"""This module reports what the model will see of some files: frames, time groups, audio windows and tokens.

The report is plain data, or a table for people to read.
"""

import io
import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from ..omnivinci.configuration_omnivinci import MEDIA_TOKENS, MODALITIES, OmniVinciConfig
from ..omnivinci.conversation_omnivinci import MediaPart, load_medium, parse_part
from ..omnivinci.image_media_omnivinci import is_moving
from ..omnivinci.media_containers_omnivinci import choose_stream, open_container, photo_brand
from ..omnivinci.media_reading_omnivinci import MediaError
from ..omnivinci.media_sources_omnivinci import MediaSource
from ..omnivinci.options_omnivinci import ORIGINAL_OPTIONS
from ..omnivinci.processing_omnivinci import MODALITY_BOUNDARIES, MediumLayout, OmniVinciProcessor
from ..omnivinci.video_media_omnivinci import VideoClip


ORIGINAL_LAYOUT = "nvidia/omnivinci, its sizes as this package assumes them (nothing was downloaded)"
MAX_SHOWN_FRAMES = 16


@dataclass
class InspectedMedium:
    """A medium, and how it is laid out in the sequence; `image` is only there for images."""

    name: str
    layout: MediumLayout
    image: Image.Image | None = None

    @property
    def picture(self) -> Image.Image:
        """The image of an image file."""
        if self.image is None:
            raise TypeError(f"{self.name} is no image.")
        return self.image

    @property
    def video(self) -> VideoClip:
        """The clip of a video file."""
        if not isinstance(self.layout.clip, VideoClip):
            raise TypeError(f"{self.name} is no video.")
        return self.layout.clip


def modality_of(path: str) -> str:
    """Tells by what is in a file, and not by its name, whether it is an "image", a "video" or "audio".

    Raises:
        MediaError: when it is none of them, or cannot be read.
    """
    source = MediaSource.of("file", path)
    try:
        with Image.open(source.path or io.BytesIO(source.data or b"")) as image:
            if image.format != "MPEG":  # Pillow knows such streams but cannot read them
                return "video" if is_moving(image) else "image"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if not isinstance(error, Image.UnidentifiedImageError):
            return "image"  # and reading it will say what is wrong with it
    with open_container(source) as container:
        if photo_brand(container):
            return "image"
        for modality in ("video", "audio"):
            if choose_stream(source, container, modality) is not None:
                return modality
    raise MediaError(f"{source.name} has neither a picture nor audio; give an image, a video or audio.")


def original_layout() -> tuple[OmniVinciProcessor, OmniVinciConfig]:
    """Builds processor and config with the original checkpoint's sizes, without its files.

    The tokenizer knows only what stands around media: placeholders and the line break, one token each as in Qwen2.5's.
    """
    words = ["<|endoftext|>", "\n", *MEDIA_TOKENS.values()]
    model = models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<|endoftext|>")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(model), unk_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    config = OmniVinciConfig()
    return OmniVinciProcessor.from_model_config(config, tokenizer, **ORIGINAL_OPTIONS), config


def media_parts(media: Sequence[Any]) -> list[MediaPart]:
    """Makes a part of each medium of a prompt, in order.

    Args:
        media: paths, of which the content says whether it is an image, a video or audio; [`MediaPart`]s; and chats, as
            lists of messages, of which the media are taken and the words left out.

    Raises:
        MediaError: when a file cannot be read.
        ValueError: when a message cannot be understood, or there is no medium at all.
        TypeError: for anything else.
    """
    parts: list[MediaPart] = []
    for medium in media:
        if isinstance(medium, MediaPart):
            parts.append(medium)
        elif isinstance(medium, (str, os.PathLike)):
            path = os.fspath(medium)
            parts.append(MediaPart(modality_of(path), path))
        elif isinstance(medium, (list, tuple)):
            parts += _parts_of_chat(medium)
        else:
            raise TypeError(
                f"Cannot tell what a {type(medium).__name__} is: give a path, a `MediaPart`, or a list of messages."
            )
    if not parts:
        raise ValueError("There is nothing to look at: give paths of media, or messages that hold some.")
    return parts


def _parts_of_chat(messages: Iterable[Any]) -> list[MediaPart]:
    """Takes the media of a list of messages, in the order in which they stand there."""
    parts: list[MediaPart] = []
    for message in messages:
        if not isinstance(message, Mapping) or "role" not in message:
            raise ValueError("A list must be a chat, whose messages are dictionaries with `role` and `content`.")
        content = message.get("content")
        if not isinstance(content, str):
            parts += [part for part in map(parse_part, content or []) if isinstance(part, MediaPart)]
    return parts


def inspect_media(processor: OmniVinciProcessor, media: Sequence[Any], **options) -> list[InspectedMedium]:
    """Lays out the media of one prompt, in order.

    Args:
        processor: says how.
        media: as [`media_parts`] takes them.
        options: those of [`~OmniVinciProcessor.__call__`].

    Raises:
        MediaError: when a medium cannot be read.
    """
    parts = media_parts(media)
    names = [_name(number, part) for number, part in enumerate(parts, start=1)]
    # the layout does not hold images, which a plot shows: they are read here
    images: list[Any] = [load_medium(part, options) if part.modality == "image" else None for part in parts]
    parts = [part if image is None else replace(part, source=image) for part, image in zip(parts, images, strict=True)]
    sources = {modality: [part for part in parts if part.modality == modality] for modality in MODALITIES}
    layouts = processor.describe(images=sources["image"], videos=sources["video"], audio=sources["audio"], **options)
    remaining = {name: iter([layout for layout in layouts if layout.modality == name]) for name in MODALITIES}
    return [
        InspectedMedium(name, next(remaining[part.modality]), image)
        for name, part, image in zip(names, parts, images, strict=True)
    ]


def _name(number: int, part: MediaPart) -> str:
    """Names a medium by its path; one that is no file, by its place."""
    is_path = isinstance(part.source, (str, os.PathLike)) and not str(part.source).startswith("data:")
    return os.fspath(part.source) if is_path else f"{part.modality}, medium {number}"


def report(
    processor: OmniVinciProcessor, config: OmniVinciConfig, media: list[InspectedMedium], layout_name: str
) -> dict[str, Any]:
    """Reports about [`inspect_media`]'s result in plain data, as `omnivinci-hf inspect --json` prints it.

    Token counts leave out the words of the prompt.
    """
    facts = describe_media(processor, media)
    around = 0
    if processor.use_modality_boundary_tokens:
        kinds = {medium.layout.modality for medium in media} | {"audio" for medium in media if medium.layout.audio}
        marks = [mark for kind in kinds for mark in MODALITY_BOUNDARIES[kind]]
        around = sum(_num_tokens(processor, mark) for mark in marks)
    return {
        "layout": layout_name,
        "media": facts,
        "num_tokens_around_media": around,
        "num_tokens": around + sum(medium["tokens"]["total"] for medium in facts),
        "context_tokens": config.get_text_config().max_position_embeddings,
    }


def describe_media(processor: OmniVinciProcessor, media: Sequence[InspectedMedium]) -> list[dict[str, Any]]:
    """Describes each medium of [`inspect_media`]'s result in plain data, as [`report`] has it under `media`."""
    return [_describe(processor, medium) for medium in media]


def _describe(processor: OmniVinciProcessor, medium: InspectedMedium) -> dict[str, Any]:
    layout = medium.layout
    facts: dict[str, Any] = {"name": medium.name, "kind": layout.modality}
    if layout.modality == "image":
        facts["width"], facts["height"] = medium.picture.size
        facts["tile_rows"], facts["tile_columns"] = layout.grid if layout.grid[0] else (1, 1)
    elif layout.modality == "video":
        clip = medium.video
        facts["width"], facts["height"] = clip.size
        facts.update(duration_sec=clip.duration_sec, fps=clip.fps, total_frames=clip.total_frames)
        indices, times = clip.indices.tolist(), clip.times.tolist()
        facts["frames"] = [{"index": index, "time_sec": time} for index, time in zip(indices, times, strict=True)]
        facts["groups"] = _groups(processor, layout)
    facts["sound"] = _audio(processor, layout)
    facts["tokens"] = _tokens(processor, layout)
    return facts


def _audio(processor: OmniVinciProcessor, layout: MediumLayout) -> dict[str, Any] | None:
    if layout.audio is None:
        return None
    extractor = processor.feature_extractor
    window_sec = extractor.window_frames * extractor.hop_length / extractor.sampling_rate
    starts = [number * window_sec for number in range(layout.num_windows)]
    return {
        "duration_sec": layout.audio.duration_sec,
        "sampling_rate": layout.audio.sampling_rate,
        "windows": [{"start_sec": start, "end_sec": start + window_sec} for start in starts],
    }


def _groups(processor: OmniVinciProcessor, layout: MediumLayout) -> list[dict[str, Any]]:
    """Counts the embeddings of each time group; the ranges in `TimeGroup` count boundary tokens, too."""
    rules = processor.layout_rules
    end = _num_tokens(processor, processor.boundary_tokens["group_end"])
    groups, first = [], 0
    for group in layout.groups:
        spans = [last - start for start, last in (group.video_embeds, group.audio_embeds)]
        last = first + sum(spans) + 2 * end
        ids = layout.ids[first:last]
        groups.append(
            {
                "start_sec": group.start_sec,
                "end_sec": group.end_sec,
                "frames": list(group.frames),
                "num_video_embeds": int((ids == rules.video_token_id).sum()),
                "num_audio_embeds": int((ids == rules.audio_token_id).sum()),
            }
        )
        first = last
    return groups


def _tokens(processor: OmniVinciProcessor, layout: MediumLayout) -> dict[str, int]:
    counts = {
        modality: int((layout.ids == getattr(processor, f"{modality}_token_id")).sum()) for modality in MODALITIES
    }
    total = len(layout.ids)
    if layout.modality == "video" and layout.audio is not None and not layout.groups:
        # without time groups the whole audio stands before the frames
        before = processor.describe(audio=[layout.audio])[0]
        counts["audio"] += before.num_audio_embeds
        total += len(before.ids)
    return {**counts, "boundary": total - sum(counts.values()), "total": total}


def _num_tokens(processor: OmniVinciProcessor, text: str | None) -> int:
    return len(processor.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else 0


# -- the table -------------------------------------------------------------------------------------------------------


def format_report(facts: dict[str, Any]) -> str:
    """Writes [`report`]'s data as a table for people to read."""
    lines = [f"Layout: {facts['layout']}", ""]
    for number, medium in enumerate(facts["media"], start=1):
        lines += [f"{number}. {medium['name']} ({medium['kind']})"]
        lines += [f"   {line}" for line in _format_medium(medium)] + [""]
    if facts["num_tokens_around_media"]:
        lines.append(f"Tokens around the media of each kind: {facts['num_tokens_around_media']}")
    total, context = facts["num_tokens"], facts["context_tokens"]
    lines.append(f"In all {total} tokens of media, beside the words of the prompt; context {context}")
    if total > context:
        lines.append("That is more than the context: take fewer frames (--num-frames, --fps) or less audio.")
    return "\n".join(lines)


def _format_medium(medium: dict[str, Any]) -> list[str]:
    kind, audio = medium["kind"], medium["sound"]
    if kind == "image":
        tiles = f"{medium['tile_rows']} x {medium['tile_columns']} tiles in the largest scale"
        lines = [f"size      {medium['width']} x {medium['height']}, {tiles}"]
    elif kind == "video":
        size = f"{medium['width']} x {medium['height']}, {medium['duration_sec']:.2f} s"
        lines = [f"size      {size}, {medium['total_frames']} frames at {medium['fps']:.3g} a second"]
        lines += _format_frames(medium["frames"])
    else:
        lines = []
    if audio is not None:
        lines.append(_format_audio(audio))
    elif kind == "video":
        lines.append("audio     none")
    if medium.get("groups"):
        lines += _format_groups(medium["groups"])
    return [*lines, f"tokens    {format_tokens(medium['tokens'])}"]


def format_tokens(tokens: dict[str, int]) -> str:
    """Writes how many tokens a medium takes, and of what."""
    parts = [f"{tokens[name]} {name}" for name in (*MODALITIES, "boundary") if tokens[name]]
    return f"{tokens['total']}: {' + '.join(parts)}"


def _format_frames(frames: list[dict[str, Any]]) -> list[str]:
    times = [f"{frame['time_sec']:.2f}" for frame in frames]
    different = len({frame["index"] for frame in frames})
    head = f"frames    {len(frames)} sampled"
    if different < len(frames):
        head += f", {different} of them different"
    if len(times) > MAX_SHOWN_FRAMES:
        times = [*times[: MAX_SHOWN_FRAMES // 2], "...", *times[-MAX_SHOWN_FRAMES // 2 :]]
    text = f"{head}; at seconds {' '.join(times)}"
    return textwrap.wrap(text, 96, subsequent_indent=" " * 10)


def _format_audio(audio: dict[str, Any]) -> str:
    windows = audio["windows"]
    length = windows[0]["end_sec"]
    padding = windows[-1]["end_sec"] - audio["duration_sec"]
    plural = "window" if len(windows) == 1 else "windows"
    text = f"audio     {audio['duration_sec']:.2f} s in {len(windows)} {plural} of {length:g} s"
    return text + (f", the last {padding:.2f} s of it padding" if padding > 0.005 else "")


def _format_groups(groups: list[dict[str, Any]]) -> list[str]:
    lines = ["groups      seconds            frames      video   audio embeddings"]
    for number, group in enumerate(groups, start=1):
        first, last = group["frames"]
        frames = f"{first + 1}-{last}" if last > first else "none"
        lines.append(
            f"{number:>9} {group['start_sec']:>8.2f} -{group['end_sec']:>8.2f} {frames:>10} "
            f"{group['num_video_embeds']:>10} {group['num_audio_embeds']:>7}"
        )
    return lines
