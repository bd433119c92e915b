import base64
import sys

import numpy as np
import pytest
import soundfile
from PIL import Image

from omnivinci_hf import MediaError, OmniVinciConfig, OmniVinciProcessor, plot_media
from omnivinci_hf.inspection.plot import figure_class
from omnivinci_hf.inspection.report import format_report, inspect_media, modality_of, original_layout, report
from omnivinci_hf.testing import write_tiny_checkpoint
from tests.support.world_scenes import write_plain_clip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspection")
    write_plain_clip(folder / "clip.mp4", duration=10)
    soundfile.write(folder / "sound.wav", np.zeros(40 * 8000, dtype=np.float32), 8000)
    Image.new("RGB", (500, 500), "red").save(folder / "picture.png")
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    frames[0].save(folder / "still.gif")
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:], duration=100)
    return folder


def inspect(files, names, **options):
    processor, config = original_layout()
    media = inspect_media(processor, [str(files / name) for name in names], **options)
    return report(processor, config, media, "somewhere")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("clip.mp4", "video"),
        ("sound.wav", "audio"),
        ("picture.png", "image"),
        ("still.gif", "image"),
        ("moving.gif", "video"),
    ],
)
def test_kind_is_told_from_the_content(files, tmp_path, name, kind):
    assert modality_of(str(files / name)) == kind
    other = tmp_path / "wrong.xyz"
    other.write_bytes((files / name).read_bytes())
    assert modality_of(str(other)) == kind


def test_song_with_cover_art_is_a_sound(files, tmp_path):
    import av

    with av.open(str(tmp_path / "song.mp4"), "w") as out:
        cover = out.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 16, 16, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        sound = out.add_stream("aac", rate=16000, layout="mono")
        picture = av.VideoFrame.from_image(Image.new("RGB", (16, 16))).reformat(format="yuvj420p")
        out.mux(cover.encode(picture))
        out.mux(cover.encode())
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        out.mux(sound.encode(frame))
        out.mux(sound.encode())
    assert modality_of(str(tmp_path / "song.mp4")) == "audio"


def test_files_that_are_no_media_are_refused(tmp_path):
    (tmp_path / "text.txt").write_text("just words, many of them")
    with pytest.raises(MediaError, match="text.txt.* cannot be decoded"):
        modality_of(str(tmp_path / "text.txt"))
    with pytest.raises(MediaError, match="does not exist"):
        modality_of(str(tmp_path / "nothing.mp4"))


def test_original_layout_has_the_known_counts(files):
    # 448 / 14 / 2 = 16 a side: 256 embeddings of a tile; 750 of a window of 30 s
    facts = inspect(files, ["picture.png", "sound.wav"])
    picture, sound = facts["media"]
    assert picture["tokens"] == {"image": 256, "video": 0, "audio": 0, "boundary": 1, "total": 257}
    assert (picture["width"], picture["height"], picture["tile_rows"], picture["tile_columns"]) == (500, 500, 3, 3)
    assert sound["tokens"] == {"image": 0, "video": 0, "audio": 1500, "boundary": 1, "total": 1501}
    assert [window["end_sec"] for window in sound["sound"]["windows"]] == [30, 60]
    assert facts["num_tokens"] == 257 + 1501
    assert facts["context_tokens"] == 32768


def test_groups_of_a_video_hold_its_frames_and_sound(files):
    (video,) = inspect(files, ["clip.mp4"], num_frames=10, group_duration_sec=4)["media"]
    times = [frame["time_sec"] for frame in video["frames"]]
    assert times == pytest.approx([round(i * 79 / 9) / 8 for i in range(10)], abs=1e-6)
    assert [(group["start_sec"], group["end_sec"]) for group in video["groups"]] == [(0, 4), (4, 8), (8, 10)]
    for group in video["groups"]:
        first, last = group["frames"]
        assert all(group["start_sec"] <= time < group["end_sec"] for time in times[first:last])
        assert group["num_video_embeds"] == 256 * (last - first)
        # 25 embeddings a second, one more where a boundary token stood in the rounding
        assert group["num_audio_embeds"] == pytest.approx(25 * (group["end_sec"] - group["start_sec"]), abs=1)
    tokens = video["tokens"]
    assert tokens["video"] == sum(group["num_video_embeds"] for group in video["groups"]) == 2560
    assert tokens["audio"] == sum(group["num_audio_embeds"] for group in video["groups"])
    assert tokens["boundary"] == 6


@pytest.mark.parametrize(
    ("options", "checkpoint"),
    [
        ({}, {}),
        ({"load_audio_from_video": False}, {}),
        ({"fps": 2.0}, {}),
        ({}, {"interleaved_vis_aud_in_video": False}),
        ({}, {"mm_use_bos_eos_tokens": True}),
    ],
)
def test_total_is_what_the_prompt_grows_by(files, tmp_path, options, checkpoint):
    folder = write_tiny_checkpoint(tmp_path / "tiny", config=checkpoint)
    processor, config = OmniVinciProcessor.from_pretrained(folder), OmniVinciConfig.from_pretrained(folder)
    kinds = {"clip.mp4": "video", "picture.png": "image", "sound.wav": "audio"}
    media = inspect_media(processor, [str(files / name) for name in kinds], **options)
    facts = report(processor, config, media, "tiny")
    content = [{"type": kind, "path": str(files / name)} for name, kind in kinds.items()]
    prompt = [{"role": "user", "content": [*content, {"type": "text", "text": "What?"}]}]
    with_media = processor.apply_chat_template(prompt, tokenize=True, return_dict=True, **options)
    prompt[0]["content"] = [{"type": "text", "text": "What?"}]
    without = processor.apply_chat_template(prompt, tokenize=True, return_dict=True)
    grown = len(with_media["input_ids"][0]) - len(without["input_ids"][0])
    assert facts["num_tokens"] == grown


def test_table_says_the_essential(files):
    text = format_report(inspect(files, ["clip.mp4", "picture.png"], num_frames=200))
    assert "Layout: somewhere" in text
    assert "200 sampled, 80 of them different" in text
    assert "1. " in text and "(video)" in text and "2. " in text and "(image)" in text
    assert "more than the context" in text
    assert max(len(line) for line in text.splitlines()) < 120 or str(files) in text


def words(figure) -> str:
    """All words of a figure, as one text."""
    texts = figure.findobj(lambda artist: hasattr(artist, "get_text"))
    return " ".join(" ".join(text.get_text() for text in texts).split())


@pytest.mark.parametrize("num_frames", [8, 128])
def test_plot_is_a_picture_that_says_what_it_shows(files, tmp_path, num_frames):
    pytest.importorskip("matplotlib", reason="matplotlib is optional")
    processor, _ = original_layout()
    paths = [files / name for name in ("clip.mp4", "sound.wav", "picture.png")]
    figure = plot_media(processor, *paths, path=tmp_path / "plot.png", num_frames=num_frames, group_duration_sec=1)
    picture = np.asarray(Image.open(tmp_path / "plot.png").convert("RGB"))
    assert picture.shape[1] == 1440
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100
    shown = words(figure)
    assert "clip.mp4 (video), tokens" in shown and f"{256 * num_frames} video +" in shown
    assert f"{num_frames} frames" in shown and ("(10 shown)" in shown) == (num_frames > 10)
    assert "10 time groups (tokens)" in shown and "+ 25 audio" in shown
    assert "2 windows of 30 s" in shown and "Grey bars are the windows" in shown
    assert "squeezed to 448 x 448 pixels; at most 10 of them are shown" in shown
    assert "500 x 500 pixels, 3 x 3 tiles" in shown and "White lines cut the image into tiles" in shown
    with pytest.raises(ValueError, match="not supported"):
        plot_media(processor, files / "picture.png", path=tmp_path / "plot.foo")


def test_plot_of_silent_and_ungrouped_videos_says_so(files):
    pytest.importorskip("matplotlib", reason="matplotlib is optional")
    processor, _ = original_layout()
    silent = words(plot_media(processor, str(files / "clip.mp4"), num_frames=2, load_audio_from_video=False))
    assert "no audio" in silent and "time group" not in silent and "Grey" not in silent
    ungrouped = words(plot_media(processor, str(files / "clip.mp4"), num_frames=2, group_duration_sec=None))
    assert "all audio stands before all frames" in ungrouped and "1 window of 30 s" in ungrouped
    many = words(plot_media(processor, str(files / "clip.mp4"), num_frames=2, group_duration_sec=0.5))
    assert "20 time groups (tokens of some)" in many and "3: 0 video" in many and "2: 0 video" not in many
    untiled = words(plot_media(processor, str(files / "picture.png"), str(files / "still.gif")))
    assert "squeezed to one square of 448 x 448 pixels" in untiled and "White lines" not in untiled


def test_plot_takes_a_chat_and_is_shown_by_notebooks(files):
    pytest.importorskip("matplotlib", reason="matplotlib is optional")
    processor, _ = original_layout()
    content = [
        {"type": "audio", "audio": np.zeros(8000, dtype=np.float32), "sampling_rate": 16000},
        {"type": "video", "path": str(files / "clip.mp4"), "num_frames": 3},
        {"type": "text", "text": "What?"},
    ]
    figure = plot_media(processor, [{"role": "system", "content": "Short."}, {"role": "user", "content": content}])
    shown = words(figure)
    assert shown.index("audio, medium 1 (audio)") < shown.index("clip.mp4 (video)") and "3 frames" in shown
    # a figure that pyplot does not know is shown by this method alone
    assert figure._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("media", "error", "message"),
    [
        ([], ValueError, "nothing to look at: give paths of media"),
        ([[{"role": "user", "content": "Only words."}]], ValueError, "nothing to look at"),
        ([["clip.mp4"]], ValueError, "A list must be a chat"),
        ([np.zeros(3)], TypeError, "Cannot tell what a ndarray is"),
        (["nothing.mp4"], MediaError, "does not exist"),
    ],
)
def test_what_is_no_medium_is_refused(media, error, message):
    with pytest.raises(error, match=message):
        inspect_media(original_layout()[0], media)


def test_a_plot_without_matplotlib_names_the_package(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    figure_class.cache_clear()
    with pytest.raises(ImportError, match="needs matplotlib: pip install matplotlib"):
        plot_media(original_layout()[0], files / "picture.png")


def test_kind_of_a_url_is_told_by_what_it_holds(tmp_path):
    path = tmp_path / "a b.png"
    Image.new("RGB", (4, 4)).save(path)
    assert modality_of(path.as_uri()) == "image"
    assert modality_of("data:;base64," + base64.encodebytes(path.read_bytes()).decode()) == "image"
