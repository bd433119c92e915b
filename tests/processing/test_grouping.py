import math

import pytest

from omnivinci_hf.omnivinci.sequence_layout_omnivinci import group_clip


def lengths(groups, name):
    return [end - start for start, end in (getattr(group, name) for group in groups)]


def simple_clip(**changes):
    """Ten frames a second apart with 2 embeddings each, ten seconds of audio with 4 embeddings a second, T_G 4 s."""
    values = {
        "frame_times": [float(second) for second in range(10)],
        "duration_sec": 10.0,
        "audio_sec": 10.0,
        "group_duration_sec": 4,
        "num_video_embeds": 20,
        "num_audio_embeds": 40,
        "audio_frames": 1000,
        "audio_frames_per_sec": 100,
    }
    return group_clip(**{**values, **changes})


# Of the reference: frame times, length of video and of unpadded audio, T_G, video and audio embeddings, mel frames,
# mel frames a second; sampled frames and end in mel frames of each group (None: it has no audio).
GOLDENS = {
    "i_video75": (
        [0.0, 10.75, 21.25, 32.0, 42.75, 53.5, 64.0, 74.75],
        (75.0, 75.008, 30, 128, 2251, 9000, 100),
        [[0, 1, 2], [3, 4, 5], [6, 7]],
        [3000, 6000, 7500],
    ),
    "j_video75_seg10_f16": (
        [
            *(0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0),
            *(39.75, 44.75, 49.75, 54.75, 59.75, 64.75, 69.75, 74.75),
        ],
        (75.0, 75.008, 10, 256, 2251, 9000, 100),
        [[0, 1], [2, 3], [4, 5], [6, 7, 8], [9, 10], [11, 12], [13, 14], [15]],
        [1000, 2000, 3000, 4000, 5000, 6000, 7000, 7500],
    ),
    "x_audio_longer": (
        [0.0, 1.6, 3.4, 5.0, 6.8, 8.4, 10.2, 11.8],
        (12.0, 33.024, 5, 128, 1501, 6000, 100),
        [[0, 1, 2], [3, 4, 5], [6, 7]],
        [500, 1000, 1200],
    ),
    "x_audio_shorter": (
        [17 * number / 3 for number in range(8)],
        (40.0, 12.032, 10, 128, 751, 3000, 100),
        [[0, 1], [2, 3], [4, 5], [6, 7]],
        [1000, 1203, None, None],
    ),
    "h_video5": (
        [0.0, 0.7, 1.4, 2.1, 2.8, 3.5, 4.2, 4.9],
        (5.0, 5.056, 30, 128, 751, 3000, 100),
        [[0, 1, 2, 3, 4, 5, 6, 7]],
        [500],
    ),
    "x_i_hop60": (
        [0.0, 10.75, 21.25, 32.0, 42.75, 53.5, 64.0, 74.75],
        (75.0, 75.008, 30, 128, 6001, 24000, 266),
        [[0, 1, 2], [3, 4, 5], [6, 7]],
        [7980, 15960, 19950],
    ),
}
# ends of the video and of the audio part of each group, worked out by hand from the table above
GOLDEN_ENDS = {
    "i_video75": ([48, 96, 128], [751, 1501, 1876]),
    "j_video75_seg10_f16": (
        [32, 64, 96, 144, 176, 208, 240, 256],
        [251, 501, 751, 1001, 1251, 1501, 1751, 1876],
    ),
    "x_audio_longer": ([48, 96, 128], [126, 251, 301]),
    "x_audio_shorter": ([32, 64, 96, 128], [251, 302, 302, 302]),
    "h_video5": ([128], [126]),
    "x_i_hop60": ([48, 96, 128], [1996, 3991, 4989]),
}


@pytest.mark.parametrize("case", GOLDENS)
class TestGoldens:
    def test_frames_of_each_group(self, case):
        times, values, frames, _ = GOLDENS[case]
        assert [list(range(*group.frames)) for group in group_clip(times, *values)] == frames

    def test_ends_of_the_embeddings(self, case):
        times, values, _, _ = GOLDENS[case]
        groups = group_clip(times, *values)
        video_ends, audio_ends = GOLDEN_ENDS[case]
        assert [group.video_embeds[1] for group in groups] == video_ends
        assert [group.audio_embeds[1] for group in groups] == audio_ends

    def test_hand_computed_ends_follow_from_the_reference(self, case):
        times, values, frames, audio_ends = GOLDENS[case]
        _, _, _, num_video, num_audio, mel_frames, _ = values
        video = [math.ceil((group[-1] + 1) * num_video / len(times)) for group in frames]
        audio = [end and math.ceil(end * num_audio / mel_frames) for end in audio_ends]
        assert video == GOLDEN_ENDS[case][0]
        assert [end for end in audio if end] == GOLDEN_ENDS[case][1][: sum(end is not None for end in audio)]

    def test_groups_touch_and_start_at_zero(self, case):
        times, values, _, _ = GOLDENS[case]
        groups = group_clip(times, *values)
        for name in ("frames", "video_embeds", "audio_embeds"):
            ranges = [getattr(group, name) for group in groups]
            assert ranges[0][0] == 0
            assert all(one[1] == two[0] for one, two in zip(ranges, ranges[1:], strict=False))


class TestWindows:
    def test_times_of_the_windows(self):
        groups = simple_clip()
        assert [(group.start_sec, group.end_sec) for group in groups] == [(0, 4), (4, 8), (8, 10)]

    def test_even_division(self):
        groups = simple_clip()
        assert [group.frames for group in groups] == [(0, 4), (4, 8), (8, 10)]
        assert [group.video_embeds for group in groups] == [(0, 8), (8, 16), (16, 20)]
        assert [group.audio_embeds for group in groups] == [(0, 16), (16, 32), (32, 40)]

    def test_a_frame_at_the_border_belongs_to_the_later_window(self):
        groups = simple_clip(frame_times=[0.0, 3.999, 4.0, 8.0], num_video_embeds=4)
        assert lengths(groups, "frames") == [2, 1, 1]

    def test_a_whole_multiple_gives_no_empty_window(self):
        assert len(simple_clip(duration_sec=8.0)) == 2

    def test_a_window_longer_than_the_clip(self):
        (group,) = simple_clip(group_duration_sec=30)
        assert (group.start_sec, group.end_sec) == (0, 10)
        assert (group.frames, group.video_embeds, group.audio_embeds) == ((0, 10), (0, 20), (0, 40))

    def test_windows_shorter_than_a_second(self):
        groups = simple_clip(duration_sec=1.0, group_duration_sec=0.25, frame_times=[0.0, 0.5], num_video_embeds=2)
        assert lengths(groups, "frames") == [1, 0, 1, 0]
        assert lengths(groups, "audio_embeds") == [1, 1, 1, 1]


class TestFrames:
    def test_a_window_without_frames_keeps_its_sound(self):
        groups = simple_clip(frame_times=[0.0, 9.0], num_video_embeds=20)
        assert [group.frames for group in groups] == [(0, 1), (1, 1), (1, 2)]
        assert [group.video_embeds for group in groups] == [(0, 10), (10, 10), (10, 20)]
        assert lengths(groups, "audio_embeds") == [16, 16, 8]

    def test_the_last_window_takes_frames_after_the_end(self):
        groups = simple_clip(frame_times=[0.0, 5.0, 9.0, 10.0, 11.5], num_video_embeds=5)
        assert [group.frames for group in groups] == [(0, 1), (1, 2), (2, 5)]

    def test_fractional_embeddings_per_frame_are_rounded_up(self):
        # 10 embeddings of 3 frames: 3.33, 6.67, 10
        groups = simple_clip(frame_times=[0.0, 4.0, 8.0], num_video_embeds=10)
        assert [group.video_embeds for group in groups] == [(0, 4), (4, 7), (7, 10)]

    def test_pooled_embeddings_are_cut_in_proportion(self):
        # p_111_222: 8 frames give 128 embeddings, and once more 16 of the pooled ones
        times, values, _, _ = GOLDENS["i_video75"]
        groups = group_clip(times, *values[:3], 144, *values[4:])
        assert [group.video_embeds for group in groups] == [(0, 54), (54, 108), (108, 144)]

    def test_fewer_embeddings_than_frames(self):
        # p_311: three frames become one embedding, with a rest
        groups = simple_clip(num_video_embeds=4)
        assert [group.video_embeds for group in groups] == [(0, 2), (2, 4), (4, 4)]

    def test_without_frames_there_is_sound_alone(self):
        groups = simple_clip(frame_times=[], num_video_embeds=0)
        assert lengths(groups, "video_embeds") == [0, 0, 0]
        assert lengths(groups, "audio_embeds") == [16, 16, 8]


class TestSound:
    def test_sound_after_the_end_of_the_video_is_left_out(self):
        groups = simple_clip(audio_sec=25.0, num_audio_embeds=120, audio_frames=3000)
        assert [group.audio_embeds for group in groups] == [(0, 16), (16, 32), (32, 40)]

    def test_embeddings_of_padding_are_left_out(self):
        groups = simple_clip(audio_sec=5.0, num_audio_embeds=120, audio_frames=3000)
        assert [group.audio_embeds for group in groups] == [(0, 16), (16, 20), (20, 20)]

    def test_windows_after_the_sound_have_frames_alone(self):
        groups = simple_clip(audio_sec=4.0)
        assert lengths(groups, "audio_embeds") == [16, 0, 0]
        assert lengths(groups, "frames") == [4, 4, 2]

    def test_no_sound(self):
        groups = simple_clip(audio_sec=0.0)
        assert [group.audio_embeds for group in groups] == [(0, 0)] * 3

    def test_a_boundary_token_inside_counts_as_embedding(self):
        # 41 instead of 40: 16.4, 32.8, 41
        groups = simple_clip(num_audio_embeds=41)
        assert [group.audio_embeds for group in groups] == [(0, 17), (17, 33), (33, 41)]

    def test_mel_frames_are_rounded_half_to_even(self):
        # 2.5 s and 3.5 s at one mel frame a second
        ends = [
            simple_clip(audio_sec=seconds, num_audio_embeds=10, audio_frames=10, audio_frames_per_sec=1)[0].audio_embeds
            for seconds in (2.5, 3.5)
        ]
        assert ends == [(0, 2), (0, 4)]

    def test_sound_never_exceeds_its_embeddings(self):
        groups = simple_clip(audio_sec=10.0, audio_frames=900, num_audio_embeds=36)
        assert groups[-1].audio_embeds[1] == 36
