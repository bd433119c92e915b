"""One rule for pictures that move: all frames as a video, the first as an image; still pictures are no videos."""

import io
import sys
import types

import numpy as np
import pytest
from PIL import Image, features

from omnivinci_hf import MediaError, load_image, load_video
from omnivinci_hf.inspection.report import modality_of


FORMATS = [
    *("GIF", "PNG", "WEBP"),
    pytest.param("AVIF", marks=pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")),
]
GREYS = [20, 60, 100, 140, 180]
MILLISECONDS = [100, 200, 50, 0, 300]


def picture(format, num_frames=5, size=(64, 48), **options):
    frames = [Image.new("RGB", size, (grey,) * 3) for grey in GREYS[:num_frames]]
    if num_frames > 1:
        options = {"save_all": True, "append_images": frames[1:], "duration": MILLISECONDS[:num_frames], **options}
    file = io.BytesIO()
    frames[0].save(file, format, **options)
    return file.getvalue()


def greys(clip):
    return [np.asarray(frame).mean() for frame in clip.frames]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("loop", [0, 3])
def test_as_a_video_a_moving_picture_has_all_frames_once(format, loop, tmp_path, warnings):
    path = tmp_path / "moving"
    path.write_bytes(picture(format, **({} if format == "AVIF" else {"loop": loop})))
    assert modality_of(str(path)) == "video"
    for source in (path, path.read_bytes()):
        clip = load_video(source, load_audio_from_video=True)
        np.testing.assert_allclose(greys(clip), GREYS, atol=2)
        soon = 0.001 if format == "AVIF" else 0.1  # Pillow writes at least that much there, players wait for 0 longer
        np.testing.assert_allclose(clip.times, np.cumsum([0, 0.1, 0.2, 0.05, soon]), atol=1e-9)
        assert clip.duration_sec == pytest.approx(0.65 + soon) and clip.audio is None and clip.size == (64, 48)
    assert str(path) in load_video(path).name
    clip = load_video(path, start_sec=0.1, end_sec=0.34, num_frames=2)
    assert clip.indices.tolist() == [1, 2] and clip.total_frames == 5
    assert not warnings


@pytest.mark.parametrize("format", FORMATS)
def test_as_an_image_a_moving_picture_is_its_first_frame(format, warnings):
    assert np.asarray(load_image(picture(format))).mean() == pytest.approx(GREYS[0], abs=2)
    assert "holds several pictures, of which the first is taken" in warnings.pop()
    assert load_image(Image.open(io.BytesIO(picture(format)))).size == (64, 48)  # whoever opens it has chosen a frame
    load_image(picture(format, 1))
    assert not warnings


@pytest.mark.parametrize("format", [*FORMATS, "JPEG", "BMP", "TIFF"])
def test_a_still_picture_is_no_video(format, tmp_path):
    path = tmp_path / "still"
    path.write_bytes(picture(format, 1))
    assert modality_of(str(path)) == "image"
    with pytest.raises(MediaError, match="is a still picture .*, not a video; give it as an image"):
        load_video(path)


def test_the_picture_for_programs_that_know_no_moving_png_is_no_frame():
    data = picture("PNG", 3, default_image=True, duration=[100, 200])
    clip = load_video(data)
    assert greys(clip) == GREYS[1:3] and clip.times.tolist() == [0, 0.1]


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_cut_and_large_moving_pictures(format, warnings):
    data = picture(format)
    with pytest.raises(MediaError, match="above the limit max_frames"):
        load_video(data, media_limits={"max_frames": 4})
    with pytest.raises(MediaError, match="above the limit max_pixels"):
        load_video(data, media_limits={"max_pixels": 64 * 47})
    with pytest.raises(MediaError, match="cut short|cannot be decoded"):
        load_video(data[: len(data) * 6 // 10])
    if format == "PNG":
        assert load_video(data[: len(data) * 6 // 10], on_damage="warn").total_frames < 5
        assert "frames are missing" in warnings.pop()


def test_photos_of_tiles_say_what_reads_them(monkeypatch):
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(MediaError, match="if it is a HEIC photo, install pillow-heif"):
        load_image(data)

    def register_heif_opener():
        Image.register_open("HEIF", lambda file, name: Image.new("RGB", (8, 6)), lambda prefix: prefix[4:8] == b"ftyp")

    module = types.SimpleNamespace(register_heif_opener=register_heif_opener)
    monkeypatch.setitem(sys.modules, "pillow_heif", module)
    try:
        assert load_image(data).size == (8, 6)
    finally:
        Image.OPEN.pop("HEIF", None)
        Image.ID.remove("HEIF")


def test_a_photo_of_tiles_is_read_with_pillow_heif():
    heif = pytest.importorskip("pillow_heif")
    stream = io.BytesIO()
    heif.from_pillow(Image.new("RGB", (80, 60), (200, 30, 30))).save(stream)
    assert load_image(stream.getvalue()).size == (80, 60)
