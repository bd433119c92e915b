"""Missing parts that only the structure of a container shows are errors, and whole files are none."""

import io
import re
import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from fuzz_corpus import make_corpus

from omnivinci_hf import MediaError, load_audio, load_video
from omnivinci_hf.omnivinci import media_structure_omnivinci
from omnivinci_hf.omnivinci.media_containers_omnivinci import CONTAINERS
from omnivinci_hf.omnivinci.media_sources_omnivinci import MediaSource
from omnivinci_hf.omnivinci.media_structure_omnivinci import NO_END
from tests.support.media_files import decode_all, tone, write_video


@pytest.fixture(scope="module")
def corpus():
    return make_corpus()


def find_damage(name, data):
    return CONTAINERS[name].damage(MediaSource.of("file", data))


def damage(data):
    with av.open(io.BytesIO(data)) as container:
        name = container.format.name
    return find_damage(name.partition(",")[0], data)


def clip(tmp_path, name, **options):
    return write_video(tmp_path / name, audio=(tone(5), 44100, 0), **options).read_bytes()


def test_whole_files_are_whole(corpus):
    for name, data in corpus.items():
        if not name.startswith("image"):
            assert damage(data) == (None, True), name


@pytest.mark.parametrize("name", ["h264.mkv", "vp9.webm", "h264.flv", "mjpeg.avi", "moving.gif", "h264_fragments.mp4"])
def test_every_cut_is_an_error(name, corpus):
    if name not in corpus:
        pytest.skip("this PyAV has no encoder")
    data = corpus[name]
    for part in range(5, 40):
        with pytest.raises(MediaError):
            load_video(data[: len(data) * part // 40])
    with pytest.raises(MediaError, match="is cut short|does not decode"):
        load_video(data[:-10])


@pytest.mark.parametrize("options", [{}, {"live": "1"}])
def test_a_cut_matroska_file_without_a_duration(options, tmp_path, warnings):
    """Live streams, and programs that were ended, leave neither duration nor size in the header."""
    data = clip(tmp_path, "clip.mkv", options=options)
    assert load_video(data).total_frames == 50
    with pytest.raises(MediaError, match=r"is cut short: [\d.]+ (bytes|s) are missing"):
        load_video(data[: len(data) // 2])
    with pytest.raises(MediaError, match=r"is cut short: \d+ bytes are missing at its end"):
        load_video(data[:-1000])
    assert 5 < len(load_video(data[: len(data) // 2], on_damage="warn").frames) < 40 and len(warnings) == 1


@pytest.mark.parametrize(
    "name, options",
    [
        ("clip.mkv", {}),
        ("clip.mkv", {"live": "1"}),
        ("clip.flv", {}),
        ("clip.mp4", {"movflags": "empty_moov+frag_every_frame"}),
    ],
)
def test_bytes_that_are_gone_in_the_middle(name, options, tmp_path, warnings):
    data = clip(tmp_path, name, options=options)
    whole = {np.asarray(frame).tobytes() for frame in load_video(data).frames}
    for place in range(len(data) // 4, len(data) * 3 // 4, len(data) // 9):
        for number in (1, 487):
            broken = data[:place] + data[place + number :]
            with pytest.raises(MediaError):
                load_video(broken)
            frames = load_video(broken, on_damage="warn").frames
            # pictures before a gap may refer to one in it
            assert sum(np.asarray(frame).tobytes() not in whole for frame in frames) <= 3
    assert all("is damaged" in message or "is cut short" in message for message in warnings)


def test_clusters_that_are_gone_from_a_matroska_file(tmp_path):
    data = clip(tmp_path, "clip.mkv", options={"cluster_time_limit": "500"})
    clusters = [match.start() for match in re.finditer(bytes.fromhex("1f43b675"), data)]
    assert len(clusters) > 5
    with pytest.raises(MediaError, match=r"is cut short: \d+ bytes are missing at its end"):
        load_video(data[: clusters[2]] + data[clusters[3] :])
    zeroed = data[: clusters[2]] + bytes(clusters[3] - clusters[2]) + data[clusters[3] :]
    with pytest.raises(MediaError, match=rf"is damaged at byte {clusters[2]}: what is there is no part of such a file"):
        load_video(zeroed)


def matroska(*clusters, size=None):
    body = b"".join(clusters)
    length = b"\x01" + b"\xff" * 7 if size is None else struct.pack(">Q", size | 1 << 56)
    return bytes.fromhex("1a45dfa3 80 18538067") + length + body


def test_elements_of_matroska():
    block, open_cluster = bytes.fromhex("a3 83 010203"), bytes.fromhex("1f43b675 ff")
    cluster = bytes.fromhex("1f43b675 8a") + block * 2

    def check(data):
        return find_damage("matroska", data)[0]

    assert check(matroska(cluster, cluster)) is None
    assert check(matroska(open_cluster, block, open_cluster, block)) is None
    assert check(matroska(cluster, size=15)) is None
    assert check(matroska(cluster, b"\0 rubbish", size=15)) is None  # after the end
    assert check(matroska(cluster, size=115)) == "is cut short: 100 bytes are missing at its end"
    assert check(matroska(open_cluster, block)[:-2]) == "is cut short: 2 bytes are missing at its end"
    assert check(matroska(cluster)[:-6]).startswith("is cut short")
    start = len(matroska())
    assert f"at byte {start}:" in check(matroska(b"\0" * 9))
    assert f"at byte {start + 10}:" in check(matroska(cluster[:-5], b"\xa4", block))
    assert f"at byte {start + 15}:" in check(matroska(cluster[:-4], b"\x88", block * 4))  # a block beyond the cluster
    assert f"at byte {start + 2}:" in check(matroska(b"\xa3\xff", block))  # of unknown length
    assert f"at byte {start}:" in check(matroska(b"\xa3\0", block))


def test_fragments_of_mp4():
    def box(box_type, content=b"", length=None):
        return struct.pack(">I4s", 8 + len(content) if length is None else length, box_type) + content

    def check(data):
        return find_damage("mov", data)[0]

    fragments = box(b"moov") + (box(b"moof") + box(b"mdat", bytes(20))) * 2
    assert check(fragments) is None and check(fragments + box(b"mdat", bytes(9), length=0)) is None
    assert check(fragments + struct.pack(">I4sQ", 1, b"mdat", 20) + bytes(4)) is None  # a long length
    assert check(fragments[:-5]) == "is cut short: 5 bytes are missing at its end"
    for rest in (bytes(30), box(b"mdat", length=7)):
        assert f"at byte {len(fragments)}:" in check(fragments + rest)
        assert check(box(b"moov") + rest) is None  # in one piece: the index tells what is missing


@pytest.mark.parametrize("index", [b"", b"mfra"])
@pytest.mark.parametrize(
    "trailer", [b"SEFHk\0\0\0k\0\0\0SEFT", b"made by a camera, 2026", bytes([0, 0, 9, 9, 200, 1, 2, 3, 4])]
)
def test_trailers_behind_fragments(index, trailer, tmp_path, warnings):
    options = {"movflags": "frag_keyframe+empty_moov" + ("" if index else "+skip_trailer")}
    data = clip(tmp_path, "clip.mp4", options=options)
    assert (b"mfra" in data) == bool(index)
    assert load_video(data + trailer).total_frames == 50 and not warnings
    place = data.index(b"moof", len(data) // 2)
    with pytest.raises(MediaError, match="is damaged at byte|is cut short|does not decode"):
        load_video(data[: place - 4] + trailer + data[place - 4 :])  # in the middle it is none


def test_a_duration_proves_nothing_where_the_structure_is_whole(tmp_path, warnings):
    """The duration may be that of a clock, as of a screen recording that stands still at its end, or of a stream."""
    data = bytearray(clip(tmp_path, "clip.mkv"))
    place = data.index(bytes.fromhex("4489 88")) + 3
    data[place : place + 8] = struct.pack(">d", 10_000.0)
    assert load_video(bytes(data)).total_frames == 50
    assert len(warnings) == 1 and re.search(r"may be cut short: its header promises [45].\d\d s more", warnings[0])
    with pytest.raises(MediaError, match=r"is cut short: [789].\d\d s are missing"):
        load_video(bytes(data[: len(data) // 2]))

    data = bytearray(clip(tmp_path, "clip.flv"))
    place = data.index(b"duration") + 9
    data[place : place + 8] = struct.pack(">d", 3600.0)
    assert load_video(bytes(data)).duration_sec == pytest.approx(5, abs=0.1)
    assert len(warnings) == 2 and "may be cut short: its header promises 3594" in warnings[1]
    with pytest.raises(MediaError, match="is cut short"):
        load_video(bytes(data[: len(data) // 2]))


def test_a_flac_file_with_the_length_of_a_longer_one(corpus, warnings):
    """Programs that copy a part leave such files; a file that was cut ends within a frame."""
    data = bytearray(corpus["flac.flac"])
    samples = int.from_bytes(data[21:26], "big")
    data[21:26] = (samples + 96000).to_bytes(5, "big")
    assert load_audio(bytes(data)).duration_sec == pytest.approx(1, abs=0.03)
    assert len(warnings) == 1 and "may be cut short: its header promises 2.0" in warnings[0]
    for missing in (1, 100, len(data) // 2):
        with pytest.raises(MediaError, match="cut short"):
            load_audio(bytes(data[:-missing]))


@pytest.mark.parametrize("options", [{}, {"live": "1"}])
def test_matroska_files_that_were_joined_are_errors(options, tmp_path):
    data = clip(tmp_path, "clip.mkv", options=options)
    with pytest.raises(
        MediaError, match=rf"is several recordings, the second one from byte {len(data)} on, whose times"
    ):
        load_video(data + data)


def test_blocks_of_wavpack():
    block = b"wvpk" + struct.pack("<I", 30) + bytes(30)
    assert find_damage("wv", block * 3 + b"APETAGEX") == (None, True)
    assert find_damage("wv", block * 3 + bytes(9) + block)[0].startswith("is damaged at byte 114")
    assert find_damage("wv", block * 3 + block[:-5])[0] == "is cut short: 5 bytes are missing at its end"


def test_no_more_parts_are_looked_at_than_a_limit(monkeypatch, tmp_path, corpus):
    monkeypatch.setattr(media_structure_omnivinci, "MAX_PARTS", 5)
    mkv, flv = clip(tmp_path, "clip.mkv", options={"live": "1"}), clip(tmp_path, "clip.flv")
    for data in (mkv[:-10], flv[:-10], corpus["moving.gif"][:-10]):
        assert damage(data) == (None, True)


def test_endings_of_a_gif(corpus, warnings):
    data = corpus["moving.gif"]
    assert data[-1:] == b";"
    load_video(data + b"what follows does not matter")
    assert not warnings
    assert load_video(data[:-1]).total_frames == 30
    assert len(warnings) == 1 and NO_END in warnings[0]
    with pytest.raises(MediaError, match="is cut short: it ends within a picture"):
        load_video(data[:-3])
    place = data.index(b"!\xf9", len(data) // 2)
    with pytest.raises(MediaError, match=rf"is damaged at byte {place}"):
        load_video(data[:place] + b"?" + data[place + 1 :])
    for size in (5, 13, 20):
        assert find_damage("gif", data[:size])[0] is not None


def written_audio(tmp_path, name, format, options):
    with av.open(str(tmp_path / name), "w", format=format, options=options) as container:
        stream = container.add_stream("pcm_s16le" if format == "wav" else "ac3", rate=48000, layout="mono")
        for first in range(0, 48000 * 4, 1536):
            wave = tone(0.032, 48000) * np.float32(32767 if format == "wav" else 1)
            wave = wave.astype(np.int16) if format == "wav" else wave
            frame = av.AudioFrame.from_ndarray(wave, "s16" if format == "wav" else "fltp", "mono")
            frame.sample_rate, frame.time_base, frame.pts = 48000, Fraction(1, 48000), first
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return (tmp_path / name).read_bytes()


@pytest.mark.parametrize(
    "format, options, packet",
    [
        ("wav", {}, None),
        ("wav", {"rf64": "always"}, None),
        ("mpegts", {}, 188),
        ("mpegts", {"mpegts_m2ts_mode": "1"}, 192),
    ],
)
def test_sizes_in_headers_and_of_packets(format, options, packet, tmp_path):
    data = written_audio(tmp_path, "audio", format, options)
    assert load_audio(data).duration_sec == pytest.approx(4, abs=0.04)
    with pytest.raises(MediaError, match=f"is cut short: {1000 % (packet or 1001)} bytes are missing at its end"):
        load_audio(data[:-1000])


def test_a_cut_asf_file(tmp_path):
    path = tmp_path / "clip.asf"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("wmv2", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(30):
            picture = np.random.default_rng(number).integers(0, 255, (48, 64, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = path.read_bytes()
    assert load_video(data).total_frames == len(decode_all(path)) == 30
    with pytest.raises(MediaError, match=rf"is cut short: {len(data) // 2} bytes are missing at its end"):
        load_video(data[: -(len(data) // 2)])
    assert find_damage("asf", b"no properties") == (None, True)


def test_packets_of_an_avi_file_that_are_in_its_index_only(tmp_path):
    data = clip(tmp_path, "clip.avi")
    with av.open(io.BytesIO(data)) as container:
        position, size = next((p.pos, p.size) for p in container.demux(video=0) if p.pos > len(data) // 2)
    broken = data[: position - 8] + bytes(size + 8) + data[position + size :]
    with pytest.raises(MediaError, match="packets are missing|do not decode"):
        load_video(broken)


# --- transport streams


def ts_parts(tmp_path):
    data = write_video(tmp_path / "clip.ts").read_bytes()
    return [data[place : place + 188] for place in range(0, len(data), 188)]


def test_lost_packets_of_a_transport_stream(tmp_path, warnings):
    parts = ts_parts(tmp_path)
    everything = {np.asarray(frame).tobytes() for frame in load_video(b"".join(parts)).frames}
    for first in range(20, len(parts) - 60, 23):
        data = b"".join(parts[:first] + parts[first + 15 :])
        with pytest.raises(MediaError, match="is damaged"):
            load_video(data)
        clip = load_video(data, on_damage="warn")
        assert 35 <= len(clip.frames) < 50
        assert all(np.asarray(frame).tobytes() in everything for frame in clip.frames)
    assert any("video packets are missing at" in message for message in warnings)


def test_transport_streams_that_were_joined_are_whole(tmp_path, warnings):
    data = b"".join(ts_parts(tmp_path))
    clip = load_video(data + data)
    assert clip.total_frames == 100 and not warnings


def test_lost_audio_of_a_transport_stream(tmp_path):
    audio = written_audio(tmp_path, "audio", "mpegts", {})
    parts = [audio[place : place + 188] for place in range(0, len(audio), 188)]
    middle = len(parts) // 2
    with pytest.raises(MediaError, match=r"is damaged.*(does not decode at|of its audio are missing at)"):
        load_audio(b"".join(parts[:middle] + parts[middle + 15 :]))


@pytest.mark.parametrize("suffix, codec", [("mpg", "mpeg2video"), ("vob", "mpeg2video"), ("mpg", "mpeg1video")])
def test_the_last_part_of_a_programme_stream_must_be_whole(suffix, codec, tmp_path):
    path = write_video(tmp_path / f"clip.{suffix}", time_base=Fraction(1, 25), codec=codec)
    data = path.read_bytes()
    assert damage(data) == damage(data + b"\0\0\1\xb9") == damage(data + b"\0") == (None, True)
    for missing in (1, 700, 2040):
        assert damage(data[:-missing])[0].startswith("is cut short")
    with pytest.raises(MediaError, match="is cut short: 9 bytes are missing"):
        load_video(data[:-9])


def test_a_tail_behind_a_transport_stream_is_no_packet(tmp_path):
    data = write_video(tmp_path / "clip.ts").read_bytes()
    assert damage(data + bytes(100)) == damage(data + b"\xff" * 1000) == (None, True)
    assert damage(data[:-9]) == ("is cut short: 9 bytes are missing at its end", True)


def test_tags_behind_a_wavpack_audio_are_no_damage(tmp_path):
    path = tmp_path / "audio.wv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("wavpack", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(5)[:1].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        resampler = av.AudioResampler(stream.codec_context.format, "mono", 16000)
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            container.mux(stream.encode(part))
    data = path.read_bytes()
    right = load_audio(data).samples
    for tail in (b"TAG" + bytes(125), bytes(500), b"text " * 40):
        np.testing.assert_array_equal(load_audio(data + tail).samples, right)
    with pytest.raises(MediaError, match="cannot be decoded"):
        load_audio(data + bytes(16) + data)
