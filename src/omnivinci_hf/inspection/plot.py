"""This module draws what the model will see and hear of media: frames, audio, windows and time groups over time."""

import io
import os
import textwrap
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image

from ..omnivinci.feature_extraction_omnivinci import OmniVinciFeatureExtractor
from ..omnivinci.processing_omnivinci import OmniVinciProcessor
from .report import InspectedMedium, describe_media, format_tokens, inspect_media


if TYPE_CHECKING:
    from matplotlib.figure import Figure


WIDTH_INCH = 12.0
CAPTION_CHARACTERS = 150  # that fit beside each other
CAPTION_LINE_INCH = 0.17
DPI = 120
MAX_THUMBNAILS = 10
MAX_LABELLED_GROUPS = 13
MIN_LABEL_WIDTH = 0.06  # of the whole axis: what is narrower has no room for words
THUMBNAIL_PIXELS = (256, 192)
ENVELOPE_BINS = 1200
SPECTRUM_COLUMNS = 1200
PICTURE_COLOUR, AUDIO_COLOUR, GROUP_COLOURS, WINDOW_COLOURS = "tab:blue", "tab:orange", ("0.93", "1"), ("0.62", "0.78")
# the height of each row of a panel in inches
ROWS_INCH = {
    "image": 2.8,
    "thumbnails": 1.5,
    "frames": 0.55,
    "groups": 0.5,
    "wave": 0.8,
    "windows": 0.3,
    "spectrum": 1.2,
}
TITLE_INCH = 0.6  # above the rows, and for the axis below them


def plot_media(
    processor: OmniVinciProcessor, *media: Any, path: str | os.PathLike | None = None, **options: Any
) -> "Figure":
    """Draws what a model will see and hear of media, and how many tokens each of them takes.

    A notebook shows the figure that is returned, if it is the last thing of a cell. No weights are needed.

    ```python
    from omnivinci_hf import plot_media

    plot_media(processor, "clip.mp4", num_frames=8)
    ```

    Args:
        processor ([`OmniVinciProcessor`]): the checkpoint's.
        media: the media of one prompt, in order: paths; chats, as lists of messages whose media are drawn; or
            [`MediaPart`]s.
        path: a file to write as well; its ending (`.png`, `.svg`, `.pdf`) decides the format.
        options: those of [`~OmniVinciProcessor.__call__`], such as `num_frames` or `load_audio_from_video`.

    Raises:
        ImportError: without matplotlib.
        MediaError: when a medium cannot be read.
        ValueError: for an ending of `path` that matplotlib does not know, and when there is no medium.
        TypeError: for what is no medium.
    """
    inspected = inspect_media(processor, media, **options)
    figure = draw_media(processor, inspected, describe_media(processor, inspected))
    if path is not None:
        figure.savefig(path, dpi=DPI)
    return figure


def draw_media(processor: OmniVinciProcessor, media: list[InspectedMedium], facts: list[dict[str, Any]]) -> "Figure":
    """Draws one panel per medium of [`inspect_media`]'s result, of which `facts` are the descriptions, and a caption.

    Raises:
        ImportError: without matplotlib.
    """
    notes = dict.fromkeys(note for fact in facts for note in _notes(processor, fact))
    caption = textwrap.wrap(" ".join(notes), CAPTION_CHARACTERS)
    heights = [sum(ROWS_INCH[row] for row in _rows(fact)) + TITLE_INCH for fact in facts]
    heights.append(CAPTION_LINE_INCH * (len(caption) + 1))
    figure = figure_class()(figsize=(WIDTH_INCH, sum(heights)), layout="constrained")
    *panels, last = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for panel, medium, fact in zip(panels, media, facts, strict=True):
        kind = fact["kind"]
        panel.suptitle(
            f"{os.path.basename(fact['name'])} ({kind}), tokens {format_tokens(fact['tokens'])}", fontsize=11
        )
        {"image": _draw_image, "video": _draw_video, "audio": _draw_audio}[kind](panel, processor, medium, fact)
    last.text(0.01, 0.95, "\n".join(caption), fontsize=9, color="0.25", va="top")
    return figure


def _rows(fact: dict[str, Any]) -> list[str]:
    """Names the rows of a medium's panel, from the top."""
    if fact["kind"] == "image":
        return ["image"]
    rows = ["wave", "windows", "spectrum"] if fact["sound"] else ["wave"]
    if fact["kind"] == "video":
        rows = ["thumbnails", "frames", *(["groups"] if fact["groups"] else []), *rows]
    return rows


def _notes(processor: OmniVinciProcessor, fact: dict[str, Any]) -> list[str]:
    """Says in sentences what a panel shows."""
    side, audio = processor.image_processor.size, fact["sound"]
    notes = ["Tokens are the places that a medium takes in the model's sequence; boundary tokens stand around them."]
    if fact["kind"] == "image":
        tiles = fact["tile_rows"] * fact["tile_columns"]
        notes.append(
            f"White lines cut the image into tiles, each squeezed to {side} x {side} pixels, beside smaller scales."
            if tiles > 1
            else f"The model sees an image without lines squeezed to one square of {side} x {side} pixels."
        )
    if fact["kind"] == "video":
        notes.append(
            f"Blue lines are the frames that the model sees, each squeezed to {side} x {side} pixels; at most "
            f"{MAX_THUMBNAILS} of them are shown above."
        )
        if fact["groups"]:
            notes.append("In a time group, its frames and its audio stand side by side in the sequence.")
        elif audio:
            notes.append("There are no time groups: all audio stands before all frames in the sequence.")
    if audio:
        notes.append(
            "Grey bars are the windows that the audio encoder reads at once. Below them is the log-mel spectrum, which "
            "is what it hears: red is loud, blue silent."
        )
    return notes


@cache
def figure_class() -> type:
    """Makes a class of figures that notebooks show, whatever matplotlib's backend is: no window is opened for them.

    Raises:
        ImportError: without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("Drawing media needs matplotlib: pip install matplotlib") from error

    class MediaFigure(Figure):
        def _repr_png_(self) -> bytes:  # notebooks look for this method
            buffer = io.BytesIO()
            self.savefig(buffer, format="png")
            return buffer.getvalue()

    return MediaFigure


def _draw_image(panel, processor: OmniVinciProcessor, medium: InspectedMedium, fact: dict[str, Any]) -> None:
    axes = panel.subplots()
    thumbnail = medium.picture.convert("RGB")
    thumbnail.thumbnail((512, 512))
    axes.imshow(thumbnail, extent=(0, fact["tile_columns"], fact["tile_rows"], 0), aspect="auto")
    axes.set_box_aspect(fact["height"] / fact["width"])
    for column in range(1, fact["tile_columns"]):
        axes.axvline(column, color="white", linewidth=0.9)
    for row in range(1, fact["tile_rows"]):
        axes.axhline(row, color="white", linewidth=0.9)
    size = f"{fact['width']} x {fact['height']} pixels"
    if fact["tile_rows"] * fact["tile_columns"] > 1:
        size += f", {fact['tile_rows']} x {fact['tile_columns']} tiles"
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(size, fontsize=8, labelpad=2)


def _draw_video(panel, processor: OmniVinciProcessor, medium: InspectedMedium, fact: dict[str, Any]) -> None:
    clip, audio = medium.video, fact["sound"]
    frames = cast(list[Image.Image], clip.frames)  # nothing has made tensors of them here
    end_sec = max(clip.duration_sec, audio["duration_sec"] if audio else 0)
    shown = np.unique(np.linspace(0, len(frames) - 1, MAX_THUMBNAILS).round().astype(int)).tolist()
    names = _rows(fact)
    grid = panel.add_gridspec(len(names), len(shown), height_ratios=[ROWS_INCH[name] for name in names])
    rows = {name: panel.add_subplot(grid[number, :]) for number, name in enumerate(names) if name != "thumbnails"}
    for column, index in enumerate(shown):
        axes = panel.add_subplot(grid[0, column])
        thumbnail = frames[index].copy()
        thumbnail.thumbnail(THUMBNAIL_PIXELS)
        axes.imshow(thumbnail)
        axes.set(xticks=[], yticks=[])
        axes.set_xlabel(f"{clip.times[index]:.2f} s", fontsize=8, labelpad=2)
        # from the middle of the thumbnail's column to the frame's true moment
        middle = (column + 0.5) / len(shown) * end_sec
        rows["frames"].plot([middle, clip.times[index]], [1.0, 0.45], color="0.6", linewidth=0.8)
    rows["frames"].vlines(clip.times, 0, 0.45, color=PICTURE_COLOUR, linewidth=0.9)
    shown_of = f"{len(frames)} frames\n({len(shown)} shown)" if len(shown) < len(frames) else f"{len(frames)} frames"
    _label(rows["frames"], shown_of)
    if "groups" in rows:
        _draw_groups(rows["groups"], fact["groups"], end_sec)
    _draw_sound(rows, processor.feature_extractor, medium, fact)
    _share_time(rows, end_sec)


def _draw_audio(panel, processor: OmniVinciProcessor, medium: InspectedMedium, fact: dict[str, Any]) -> None:
    names = _rows(fact)
    axes = panel.subplots(len(names), height_ratios=[ROWS_INCH[name] for name in names])
    rows = dict(zip(names, axes, strict=True))
    _draw_sound(rows, processor.feature_extractor, medium, fact)
    _share_time(rows, fact["sound"]["duration_sec"])


def _label(axes, text: str) -> None:
    axes.set_ylabel(text, fontsize=8, rotation=0, ha="right", va="center")


def _share_time(rows: dict[str, Any], end_sec: float) -> None:
    """Gives the rows of a panel the same seconds, which stand below the last of them."""
    *upper, last = rows.values()
    for axes in upper:
        axes.set(xticks=[], xlabel="")
    for axes in rows.values():
        axes.set_xlim(0, end_sec)
    for name in {"frames", "groups", "windows"} & rows.keys():
        rows[name].set(ylim=(0, 1), yticks=[])
        rows[name].spines[["top", "left", "right", "bottom"]].set_visible(False)
    last.set_xlabel("seconds", fontsize=9)
    last.tick_params(labelsize=8)


def _draw_groups(axes, groups: list[dict[str, Any]], end_sec: float) -> None:
    """Draws a box for each time group, with its number and its tokens."""
    step = -(-len(groups) // MAX_LABELLED_GROUPS)
    for number, group in enumerate(groups):
        start, width = group["start_sec"], group["end_sec"] - group["start_sec"]
        axes.broken_barh([(start, width)], (0, 1), facecolor=GROUP_COLOURS[number % 2], edgecolor="0.4", linewidth=0.6)
        if number % step or end_sec - start < MIN_LABEL_WIDTH * end_sec:
            continue
        text = f"{number + 1}: {group['num_video_embeds']} video\n+ {group['num_audio_embeds']} audio"
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1} if step > 1 else None  # it covers the next boxes
        axes.text(start + 0.003 * end_sec, 0.5, text, fontsize=8, ha="left", va="center", bbox=box)
    number_of = f"{len(groups)} time group{'s' if len(groups) > 1 else ''}"
    _label(axes, f"{number_of}\n(tokens{' of some' if step > 1 else ''})")


def _draw_sound(
    rows: dict[str, Any], extractor: OmniVinciFeatureExtractor, medium: InspectedMedium, fact: dict[str, Any]
) -> None:
    audio, clip = fact["sound"], medium.layout.audio
    if audio is None or clip is None:
        rows["wave"].text(0.5, 0.5, "no audio", transform=rows["wave"].transAxes, ha="center", va="center", color="0.4")
        rows["wave"].set(yticks=[])
        return
    _draw_waveform(rows["wave"], clip)
    windows = audio["windows"]
    for number, window in enumerate(windows):
        start, width = window["start_sec"], window["end_sec"] - window["start_sec"]
        rows["windows"].broken_barh([(start, width)], (0, 1), color=WINDOW_COLOURS[number % 2])
    _label(rows["windows"], f"{len(windows)} window{'s' if len(windows) > 1 else ''} of {windows[0]['end_sec']:g} s")
    _draw_spectrum(rows["spectrum"], clip, extractor)


def _draw_waveform(axes, clip) -> None:
    bins = min(ENVELOPE_BINS, len(clip.samples))
    edges = np.linspace(0, len(clip.samples), bins, endpoint=False).astype(int)
    high, low = np.maximum.reduceat(clip.samples, edges), np.minimum.reduceat(clip.samples, edges)
    axes.fill_between(edges / clip.sampling_rate, low, high, color=AUDIO_COLOUR, linewidth=0.5, step="post")
    peak = max(float(np.abs(clip.samples).max()), 1e-3)
    axes.set(ylim=(-1.1 * peak, 1.1 * peak), yticks=[])
    _label(axes, "audio")


def _draw_spectrum(axes, clip, extractor: OmniVinciFeatureExtractor) -> None:
    """Draws the log-mel spectrogram as the model gets it, at so many moments as can be told apart."""
    import librosa.display

    windows = extractor([clip.samples])["input_features"].numpy()  # (windows, feature_size, window_frames)
    frames = np.concatenate(windows, axis=1)[:, : max(1, len(clip.samples) // extractor.hop_length)]
    step = -(-frames.shape[1] // SPECTRUM_COLUMNS)
    librosa.display.specshow(
        frames[:, ::step],
        x_coords=np.arange(0, frames.shape[1], step) * extractor.hop_length / extractor.sampling_rate,
        x_axis="s",
        y_axis="mel",
        sr=extractor.sampling_rate,
        ax=axes,
        rasterized=True,  # an .svg or .pdf of as many rectangles would be huge
    )
    axes.set_ylabel("Hz", fontsize=8)
