"""Of several streams of a modality, the one that players take is read."""

from types import SimpleNamespace

import av
import numpy as np
import pytest
from av.stream import Disposition

from omnivinci_hf import MediaError, load_audio, load_video
from omnivinci_hf.omnivinci.media_containers_omnivinci import choose_stream


def write_pictures(path, *tracks):
    """Writes one MPEG-4 stream for each (grey, number of frames, marks), ten frames a second."""
    with av.open(str(path), "w") as container:
        packets = []
        for grey, num_frames, marks in tracks:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt, stream.disposition = 64, 48, "yuv420p", marks
            for _ in range(num_frames):
                packets += stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), grey, np.uint8)))
            packets += stream.encode()
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def shown_grey(path):
    return round(np.asarray(load_video(path, num_frames=1).frames[0]).mean() / 50) * 50


@pytest.mark.parametrize(
    "suffix, tracks, grey",
    [
        ("mkv", [(50, 5, 0), (200, 5, Disposition.default)], 200),
        ("mkv", [(50, 5, Disposition.default), (200, 5, Disposition.default)], 50),
        ("mkv", [(50, 5, Disposition.comment | Disposition.default), (200, 5, 0)], 200),
        ("mkv", [(50, 5, Disposition.visual_impaired), (200, 5, 0)], 200),
        ("mp4", [(50, 1, Disposition.default), (200, 5, Disposition.default)], 200),  # a poster without a mark
        ("mp4", [(50, 1, Disposition.default)], 50),
    ],
)
def test_the_picture_is_the_one_that_players_show(suffix, tracks, grey, tmp_path):
    assert shown_grey(write_pictures(tmp_path / f"clip.{suffix}", *tracks)) == grey


def fake_stream(index, disposition=Disposition.default, **fields):
    context = SimpleNamespace(width=64, height=48, sample_rate=16000)
    return SimpleNamespace(
        **{"index": index, "type": "video", "frames": 0, "codec_context": context, "disposition": disposition, **fields}
    )


def choose(*streams, modality="video"):
    notes = []
    container = SimpleNamespace(streams=SimpleNamespace(**{modality: streams}))
    chosen = choose_stream(SimpleNamespace(note=notes.append), container, modality)
    return None if chosen is None else chosen.index, notes


def test_a_stream_with_a_decoder_comes_first_and_the_other_is_noted():
    broken = fake_stream(0, codec_context=None)
    assert choose(broken) == (0, [])
    index, notes = choose(broken, fake_stream(1, Disposition.comment))
    assert index == 1 and notes == ["has a video stream without a decoder, so stream 1 was taken, not 0"]
    assert choose(fake_stream(0), broken) == (0, [])
    sizeless = fake_stream(0, codec_context=SimpleNamespace(width=0, height=0))
    assert choose(sizeless, fake_stream(1))[0] == 1


def test_thumbnails_and_tiles_are_never_read():
    hidden = [Disposition.attached_pic, Disposition.timed_thumbnails, Disposition.dependent | Disposition.default]
    streams = [fake_stream(index, marks) for index, marks in enumerate(hidden)]
    assert choose(*streams) == (None, []) and choose(*streams, fake_stream(3, Disposition(0))) == (3, [])


def test_audio_files_are_chosen_by_the_same_rule():
    streams = [fake_stream(index, marks, type="audio") for index, marks in enumerate((8, 256 | 1, 0, 1, 1))]
    assert choose(*streams, modality="audio")[0] == 3
    assert choose(*streams[:2], modality="audio")[0] == 1
    assert choose(modality="audio") == (None, [])


# --- audio


def write_tracks(path, *tracks):
    """Writes a picture and an AC-3 stream for each (pitch, marks), which lasts half a second."""
    with av.open(str(path), "w") as container:
        packets = []
        video = container.add_stream("mpeg4", rate=10)
        video.width, video.height = 64, 48
        streams = [container.add_stream("ac3", rate=48000, layout="mono") for _ in tracks]
        for number in range(5):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts = number
            packets += video.encode(frame)
        packets += video.encode()
        for stream, (pitch, marks) in zip(streams, tracks, strict=True):
            stream.disposition = marks
            wave = 0.5 * np.sin(2 * np.pi * pitch * np.arange(1536 * 16, dtype=np.float32) / 48000)
            frame = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48000, 0
            packets += [*stream.encode(frame), *stream.encode()]
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path


def undecodable(path, number):
    """Returns the file with a codec that nobody knows in its audio stream of that number."""
    first, *others = path.read_bytes().split(b"A_AC3")
    return b"".join([first, *((b"A_AX9" if k == number else b"A_AC3") + part for k, part in enumerate(others))])


def heard_pitch(clip):
    return round(np.abs(np.fft.rfft(clip.samples[1600:4800])).argmax() * 5 / 100) * 100


@pytest.mark.parametrize(
    "tracks, pitch",
    [
        ([(300, Disposition.comment), (900, Disposition.default)], 900),
        ([(300, 0), (900, Disposition.default)], 900),
        ([(300, Disposition.hearing_impaired | Disposition.default), (900, 0)], 900),
        ([(300, 0), (900, 0)], 300),
    ],
)
def test_the_audio_is_the_one_that_players_play(tracks, pitch, tmp_path):
    path = write_tracks(tmp_path / "clip.mkv", *tracks)
    assert heard_pitch(load_audio(path)) == pitch
    assert heard_pitch(load_video(path, num_frames=1, load_audio_from_video=True).audio) == pitch


def test_audio_that_no_decoder_knows_is_passed_over(tmp_path, warnings):
    data = undecodable(write_tracks(tmp_path / "clip.mkv", (300, Disposition.default), (900, 0)), 0)
    assert heard_pitch(load_audio(data)) == 900
    assert "has a audio stream without a decoder, so stream 2 was taken, not 1" in warnings.pop()
    assert heard_pitch(load_video(data, num_frames=1, load_audio_from_video=True).audio) == 900
    assert len(warnings) == 1


def test_a_video_of_whose_audio_nothing_can_be_decoded_is_seen(tmp_path, warnings):
    data = undecodable(write_tracks(tmp_path / "clip.mkv", (300, Disposition.default)), 0)
    clip = load_video(data, num_frames=2, load_audio_from_video=True)
    assert len(clip.frames) == 2 and clip.audio is None
    assert "has audio that no decoder knows" in warnings.pop()
    with pytest.raises(MediaError, match="has audio that no decoder knows; convert it"):
        load_audio(data)
