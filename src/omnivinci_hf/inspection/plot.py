"""This module draws what `omnivinci-hf inspect` reports: frames, audio, windows and time groups over time."""

import os
from typing import Any, cast

import librosa.display
import numpy as np
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from PIL import Image

from ..omnivinci.feature_extraction_omnivinci import OmniVinciFeatureExtractor
from .report import InspectedMedium


WIDTH_INCH = 12.0
ROW_INCH = {"image": 2.2, "video": 4.3, "audio": 3.0}
MAX_THUMBNAILS = 10
MAX_LABELLED_GROUPS = 13
LABEL_WIDTH = 0.06  # of the whole axis
THUMBNAIL_PIXELS = (256, 192)
ENVELOPE_BINS = 1200
SPECTRUM_COLUMNS = 1200
PICTURE_COLOUR, AUDIO_COLOUR = "tab:blue", "tab:orange"


def plot_media(
    extractor: OmniVinciFeatureExtractor, media: list[InspectedMedium], facts: dict[str, Any], path: str | os.PathLike
) -> None:
    """Draws one panel per medium to `path`, whose ending decides the format; the spectrum is what `extractor` hears.

    Raises:
        ValueError: for an ending that matplotlib does not know.
    """
    heights = [ROW_INCH[medium.layout.modality] for medium in media]
    figure = Figure(figsize=(WIDTH_INCH, sum(heights) + 0.7), layout="constrained")
    panels = figure.subfigures(len(media), 1, height_ratios=heights, squeeze=False)[:, 0]
    for panel, medium, fact in zip(panels, media, facts["media"], strict=True):
        draw = {"image": _draw_image, "video": _draw_video, "audio": _draw_audio}[fact["kind"]]
        panel.suptitle(f"{os.path.basename(fact['name'])}: {fact['tokens']['total']} tokens", fontsize=11)
        draw(panel, medium, fact, extractor)
    figure.savefig(path, dpi=120)


def _draw_image(panel, medium: InspectedMedium, fact: dict[str, Any], extractor) -> None:
    axes = panel.subplots()
    thumbnail = medium.picture.copy()
    thumbnail.thumbnail((512, 512))
    axes.imshow(thumbnail)
    axes.set_axis_off()


def _draw_video(panel, medium: InspectedMedium, fact: dict[str, Any], extractor) -> None:
    clip, audio = medium.video, fact["sound"]
    frames = cast(list[Image.Image], clip.frames)  # nothing has made tensors of them here
    end_sec = max(clip.duration_sec, audio["duration_sec"] if audio else 0)
    shown = np.unique(np.linspace(0, len(frames) - 1, MAX_THUMBNAILS).round().astype(int))
    grid = GridSpec(4 if audio else 3, len(shown), panel, height_ratios=(3, 1.1, 2.4, 2.4)[: 4 if audio else 3])
    timeline = panel.add_subplot(grid[1, :])
    for column, index in enumerate(shown.tolist()):
        axes = panel.add_subplot(grid[0, column])
        thumbnail = frames[index].copy()
        thumbnail.thumbnail(THUMBNAIL_PIXELS)
        axes.imshow(thumbnail)
        axes.set(xticks=[], yticks=[])
        axes.set_xlabel(f"{clip.times[index]:.2f} s", fontsize=8, labelpad=2)
        # from the middle of the thumbnail's column to the frame's true moment
        middle = (column + 0.5) / len(shown) * end_sec
        timeline.plot([middle, clip.times[index]], [1.0, 0.45], color="0.6", linewidth=0.8)
    timeline.vlines(clip.times, 0, 0.45, color=PICTURE_COLOUR, linewidth=0.9)
    timeline.set(xlim=(0, end_sec), ylim=(0, 1), yticks=[], xticks=[])
    timeline.set_ylabel(f"{len(frames)}\nframes", fontsize=8, rotation=0, ha="right", va="center")
    for side in ("top", "left", "right"):
        timeline.spines[side].set_visible(False)
    axes = panel.add_subplot(grid[2, :])
    if audio:
        _draw_waveform(axes, medium.layout.audio, audio)
        _draw_spectrum(panel.add_subplot(grid[3, :], sharex=axes), medium.layout.audio, extractor)
    else:
        axes.text(0.5, 0.5, "no audio", transform=axes.transAxes, ha="center", va="center", color="0.4")
        axes.set(yticks=[], ylim=(-1, 1))
    axes.set_xlim(0, end_sec)
    _draw_groups(timeline, axes, fact["groups"], end_sec)


def _draw_audio(panel, medium: InspectedMedium, fact: dict[str, Any], extractor) -> None:
    axes, below = panel.subplots(2, sharex=True)
    _draw_waveform(axes, medium.layout.audio, fact["sound"])
    _draw_spectrum(below, medium.layout.audio, extractor)
    axes.set_xlim(0, fact["sound"]["duration_sec"])


def _draw_waveform(axes, clip, audio: dict[str, Any]) -> None:
    bins = min(ENVELOPE_BINS, len(clip.samples))
    edges = np.linspace(0, len(clip.samples), bins, endpoint=False).astype(int)
    high, low = np.maximum.reduceat(clip.samples, edges), np.minimum.reduceat(clip.samples, edges)
    axes.fill_between(edges / clip.sampling_rate, low, high, color=AUDIO_COLOUR, linewidth=0.5, step="post")
    peak = max(float(np.abs(clip.samples).max()), 1e-3)
    # the windows stand as a band of alternating shades under the waveform
    for number, window in enumerate(audio["windows"]):
        shade = "0.75" if number % 2 else "0.6"
        start, width = window["start_sec"], window["end_sec"] - window["start_sec"]
        axes.broken_barh([(start, width)], (-1.45 * peak, 0.25 * peak), color=shade)
    windows = len(audio["windows"])
    axes.set(ylim=(-1.5 * peak, 1.5 * peak), yticks=[], xlabel="seconds")
    text = f"audio\n\n{windows} window{'s' if windows > 1 else ''}"
    axes.set_ylabel(text, fontsize=8, rotation=0, ha="right", va="center")


def _draw_spectrum(axes, clip, extractor: OmniVinciFeatureExtractor) -> None:
    """Draws the log-mel spectrogram as the model gets it, at so many moments as can be told apart."""
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
    axes.set(xlabel="seconds", ylabel="Hz")


def _draw_groups(timeline, axes, groups: list[dict[str, Any]], end_sec: float) -> None:
    axes.set_xlabel("seconds")
    if not groups:
        return
    width = 0.9 if len(groups) <= MAX_LABELLED_GROUPS else 0.4
    for group in groups:
        for part in (timeline, axes):
            part.axvline(group["end_sec"], color="0.25", linestyle="--", linewidth=width)
    step = -(-len(groups) // MAX_LABELLED_GROUPS)
    for number, group in list(enumerate(groups, start=1))[::step]:
        if end_sec - group["start_sec"] < LABEL_WIDTH * end_sec:
            continue  # a short rest at the end has no room for words
        text = f"{number}: {group['num_video_embeds']}+{group['num_audio_embeds']}"
        place = {"transform": axes.get_xaxis_transform(), "ha": "left", "va": "top"}
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.text(group["start_sec"] + 0.002 * end_sec, 0.97, text, fontsize=8, bbox=box, **place)
    axes.set_xlabel("seconds   (dashed: time groups, number: embeddings of video + audio)")
