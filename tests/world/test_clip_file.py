import av
import numpy as np
import pytest

from omnivinci_hf.world import Scene, SoundEvent, reencode, sample_scene, write_clip
from omnivinci_hf.world.clip_file import sampling_rate
from omnivinci_hf.world.scene import COLOURS
from tests.support.world_scenes import example, sound, vision


def decode(path):
    with av.open(str(path)) as container:
        pictures = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        blocks = list(container.decode(stream))
        to_mono = av.AudioResampler("fltp", "mono", stream.rate)
        samples = [part.to_ndarray()[0] for block in (*blocks, None) for part in to_mono.resample(block)]
        return pictures, np.concatenate(samples), stream.rate, blocks[0].time


def codecs(path):
    with av.open(str(path)) as container:
        return [stream.codec_context.name for stream in (container.streams.video[0], container.streams.audio[0])]


def seen(picture):
    """The colours that cover at least 2 % of the picture."""
    distance = {name: np.abs(picture.astype(int) - rgb).max(axis=-1) for name, rgb in COLOURS.items()}
    return {name for name in COLOURS if (distance[name] < 50).mean() > 0.02}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(example(), tmp_path_factory.mktemp("clip") / "clip.mp4")


def test_an_mp4_has_h264_and_aac(clip):
    assert codecs(clip) == ["h264", "aac"]


def check_example(path, fps):
    pictures, samples, rate, start = decode(path)
    assert len(pictures) == pytest.approx(12 * fps, abs=1)
    for time, picture in pictures:
        near = [e for e in example().vision.events if min(abs(time - e.appear_sec), abs(time - e.vanish_sec)) < 0.1]
        if not near:
            assert seen(picture) == {e.colour for e in example().vision.events if e.visible_at(time)}, time
    events = example().sound.events
    for second in np.arange(0.05, 11.9, 0.05):
        block = samples[round((second - start - 0.01) * rate) : round((second - start + 0.01) * rate)]
        if all(min(abs(second - e.onset_sec), abs(second - e.end_sec)) > 0.1 for e in events):
            if any(e.onset_sec < second < e.end_sec and e.kind != "drum" for e in events):
                assert np.abs(block).max() > 0.02, second
            elif not any(e.onset_sec < second < e.end_sec for e in events):
                assert np.abs(block).max() < 0.02, second


def test_a_written_clip_shows_and_sounds_what_happens_when_it_happens(clip):
    check_example(clip, 10)


@pytest.mark.parametrize(
    ("suffix", "expected"), [(".webm", ["vp9", "opus"]), (".mkv", ["mpeg4", "mp3"])], ids=["webm", "mkv"]
)
def test_a_clip_can_be_encoded_anew(clip, tmp_path, suffix, expected):
    path = reencode(clip, tmp_path / f"again{suffix}", fps=15, size=(160, 144))
    assert [name.removesuffix("float").removeprefix("lib").split("-")[0] for name in codecs(path)] == expected
    assert decode(path)[0][0][1].shape == (144, 160, 3)
    check_example(path, 15)


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".mkv"])
def test_frame_rate_and_size_can_be_chosen(tmp_path, suffix):
    path = write_clip(example(), tmp_path / f"clip{suffix}", fps=8, size=(96, 160))
    pictures, *_ = decode(path)
    assert len(pictures) == 96 and pictures[0][1].shape == (160, 96, 3)


def test_codecs_can_be_chosen(tmp_path):
    path = write_clip(example(), tmp_path / "clip.mkv", video_codec="libx264", audio_codec="aac", options={"crf": "20"})
    assert codecs(path) == ["h264", "aac"]


def test_a_clip_lasts_as_long_as_its_longer_track(tmp_path):
    scene = Scene(vision(duration=6.0), sound(SoundEvent("bell", 6.5, 0.8), duration=8.0))
    pictures, samples, rate, _ = decode(write_clip(scene, tmp_path / "clip.mp4"))
    assert len(pictures) == 80 and len(samples) >= 8 * rate


def test_sampled_scenes_of_any_kind_can_be_written(tmp_path):
    for seed in range(5):
        scene = sample_scene(seed)
        pictures, samples, rate, _ = decode(write_clip(scene, tmp_path / f"{seed}.mp4"))
        assert rate == scene.sound.sampling_rate
        assert len(pictures) / scene.vision.fps == pytest.approx(scene.duration_sec, abs=0.1)
        assert len(samples) / rate == pytest.approx(scene.duration_sec, abs=0.2)


def test_the_same_scene_gives_the_same_pictures(tmp_path):
    first, second = (decode(write_clip(sample_scene(4, 6.0), tmp_path / f"{name}.mp4"))[0] for name in "ab")
    assert all((a[1] == b[1]).all() for a, b in zip(first, second, strict=True))


def test_the_next_higher_rate_that_an_encoder_knows_is_taken():
    assert sampling_rate("libopus", 22050) == 24000
    assert sampling_rate("aac", 22050) == 22050


def test_other_suffixes_and_codecs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must end with one of .mp4, .webm, .mkv, got '.*clip.avi'"):
        write_clip(example(), tmp_path / "clip.avi")
    with pytest.raises(ValueError, match="no encoder 'libnothing'"):
        write_clip(example(), tmp_path / "clip.mp4", video_codec="libnothing")
