import math

import pytest
import torch

from omnivinci_hf import OmniVinciTimeEmbeddingConfig
from omnivinci_hf.omnivinci import time_embedding_omnivinci
from omnivinci_hf.omnivinci.configuration_omnivinci import TIME_EMBEDDINGS
from omnivinci_hf.omnivinci.time_embedding_omnivinci import NoTimeEmbedding, RotaryTimeEmbedding, build_time_embedding


AXIAL = ("pixel_periodic", "pixel_seconds", "lang_periodic", "lang_seconds")
ROTATIONS = ("crte", "rote", *AXIAL)
MULTI_PERIOD = ("mtct_shortest", "mtct_longest")


def build(kind, hidden_size, modality="video", **options):
    torch.manual_seed(0)
    if TIME_EMBEDDINGS[kind].needs_max_time:
        options.setdefault("max_time", 3600.0)
    return build_time_embedding(OmniVinciTimeEmbeddingConfig(type=kind, **options), hidden_size, modality)


def random_embeds(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def video_times(*seconds):
    return torch.tensor(seconds, dtype=torch.float64)[:, None]


def turn(x0, x1, angle):
    return x0 * math.cos(angle) - x1 * math.sin(angle), x1 * math.cos(angle) + x0 * math.sin(angle)


class TestConstrainedRotary:
    def test_hand_computed_quarter_and_sixteenth_turns(self):
        # pairs i = 0, 1 of C = 2: periods 8 * 16^0 = 8 s and 8 * 16^(1/2) = 32 s; after 2 s a quarter, a sixteenth
        module = build("crte", 4, max_time=8, theta=16)
        turned = module(torch.tensor([[[1.0, 0.0, 1.0, 0.0]]]), video_times(2.0))
        expected = torch.tensor([[[0.0, 1.0, math.cos(math.pi / 8), math.sin(math.pi / 8)]]])
        torch.testing.assert_close(turned, expected, atol=1e-7, rtol=0)

    def test_second_channel_of_a_pair_turns_the_other_way(self):
        module = build("crte", 2, max_time=4)
        turned = module(torch.tensor([[[0.0, 1.0]]]), video_times(1.0))
        torch.testing.assert_close(turned, torch.tensor([[[-1.0, 0.0]]]), atol=1e-7, rtol=0)

    @pytest.mark.parametrize("pair", range(4))
    def test_angle_of_every_pair_follows_the_papers_formula(self, pair):
        module = build("crte", 8, max_time=100, theta=10000)
        unit = torch.zeros(1, 1, 8)
        unit[0, 0, 2 * pair] = 1
        turned = module(unit, video_times(7.25))[0, 0]
        angle = 2 * math.pi * 7.25 / (100 * 10000 ** (pair / 4))
        assert turned[2 * pair].item() == pytest.approx(math.cos(angle), abs=1e-7)
        assert turned[2 * pair + 1].item() == pytest.approx(math.sin(angle), abs=1e-7)
        assert turned.count_nonzero() == 2

    def test_rote_is_crte_with_a_limit_of_one_second(self):
        embeds, times = random_embeds(3, 2, 8), video_times(0.0, 0.3, 5.0)
        rote, crte = build("rote", 8, max_time=77), build("crte", 8, max_time=1)
        assert torch.equal(rote(embeds, times), crte(embeds, times))

    def test_a_larger_limit_slows_the_rotation_in_proportion(self):
        embeds = random_embeds(1, 2, 8)
        slow = build("crte", 8, max_time=100)(embeds, video_times(10.0))
        fast = build("crte", 8, max_time=10)(embeds, video_times(1.0))
        torch.testing.assert_close(slow, fast)

    def test_late_moments_of_a_video_keep_double_precision(self):
        # single precision would shift this moment by 98 microseconds, the angle by 6e-4
        turned = build("rote", 2)(torch.tensor([[[1.0, 0.0]]]), video_times(3599.1))[0, 0]
        angle = 2 * math.pi * 0.1
        torch.testing.assert_close(turned, torch.tensor([math.cos(angle), math.sin(angle)]), atol=1e-6, rtol=0)

    @pytest.mark.parametrize("kind", ["crte", "rote"])
    def test_only_dim_channels_are_turned(self, kind):
        embeds = random_embeds(2, 3, 8)
        turned = build(kind, 8, dim=4, max_time=5)(embeds, video_times(1.3, 2.6))
        assert torch.equal(turned[..., 4:], embeds[..., 4:])
        assert not torch.isclose(turned[..., :4], embeds[..., :4]).any()

    @pytest.mark.parametrize("kind", ["crte", "rote"])
    def test_second_zero_is_the_identity(self, kind):
        embeds = random_embeds(2, 3, 8)
        assert torch.equal(build(kind, 8)(embeds, video_times(0.0, 0.0)), embeds)

    @pytest.mark.parametrize("kind", ["crte", "rote"])
    def test_rotations_compose(self, kind):
        embeds, module = random_embeds(1, 3, 8), build(kind, 8, max_time=60)
        twice = module(module(embeds, video_times(3.5)), video_times(4.25))
        torch.testing.assert_close(twice, module(embeds, video_times(7.75)))

    def test_dot_product_depends_on_the_difference_of_times_alone(self):
        one, two = random_embeds(2, 1, 1, 8)
        module = build("crte", 8, max_time=60)

        def product(first_sec, second_sec):
            return (module(one, video_times(first_sec)) * module(two, video_times(second_sec))).sum()

        torch.testing.assert_close(product(0.0, 2.5), product(1000.0, 1002.5))
        assert not torch.isclose(product(0.0, 2.5), product(0.0, 12.5), atol=1e-3)

    def test_tokens_of_a_sound_have_moments_of_their_own(self):
        embeds, module = random_embeds(1, 3, 8), build("crte", 8, "audio", max_time=60)
        together = module(embeds, torch.tensor([[0.5, 1.5, 2.5]]))
        for token, moment in enumerate((0.5, 1.5, 2.5)):
            alone = module(embeds[:, token : token + 1], torch.tensor([[moment]]))
            torch.testing.assert_close(together[:, token : token + 1], alone)


@pytest.mark.parametrize("kind", ROTATIONS)
def test_norm_of_every_channel_pair_is_kept(kind):
    embeds = random_embeds(3, 4, 16)
    turned = build(kind, 16, max_time=60)(embeds, video_times(0.0, 1.7, 59.0))
    assert not torch.allclose(turned, embeds)
    torch.testing.assert_close(turned.unflatten(-1, (-1, 2)).norm(dim=-1), embeds.unflatten(-1, (-1, 2)).norm(dim=-1))


class TestLearned:
    @pytest.fixture
    def module(self):
        module = build("learned", 2, max_time=10, num_time_bins=3)
        with torch.no_grad():  # rows at 0, 5 and 10 s
            module.table.weight.copy_(torch.tensor([[0.0, 1.0], [10.0, 1.0], [40.0, -1.0]]))
        return module

    @pytest.mark.parametrize(
        ("seconds", "expected"),
        [(0, (0, 1)), (5, (10, 1)), (10, (40, -1)), (2.5, (5, 1)), (7.5, (25, 0)), (9, (34, -0.6))],
    )
    def test_interpolates_linearly_between_rows(self, module, seconds, expected):
        result = module(torch.zeros(1, 1, 2), video_times(seconds))
        torch.testing.assert_close(result[0, 0], torch.tensor(expected, dtype=torch.float32))

    @pytest.mark.parametrize(("seconds", "expected"), [(-3, (0, 1)), (10.001, (40, -1)), (1e6, (40, -1))])
    def test_moments_outside_take_the_nearest_row(self, module, seconds, expected):
        result = module(torch.zeros(1, 1, 2), video_times(seconds))
        torch.testing.assert_close(result[0, 0], torch.tensor(expected, dtype=torch.float32))

    def test_is_added_to_every_token_of_the_frame(self, module):
        embeds = random_embeds(2, 3, 2)
        result = module(embeds, video_times(0.0, 5.0))
        torch.testing.assert_close(result, embeds + torch.tensor([[[0.0, 1.0]], [[10.0, 1.0]]]))

    def test_gradient_reaches_the_rows_that_were_used(self, module):
        module(torch.zeros(1, 1, 2), video_times(6.0)).sum().backward()
        torch.testing.assert_close(module.table.weight.grad, torch.tensor([[0.0, 0.0], [0.8, 0.8], [0.2, 0.2]]))


class TestMultiPeriod:
    def periods(self, kind, max_time, width):
        if kind == "mtct_shortest":
            return [max_time * 5 ** (j / width) for j in range(width)]
        longest = max_time ** (width / (width - 1))
        return [longest ** (j / width) for j in range(width)]

    def test_periods_reach_from_one_second_to_the_limit(self):
        assert self.periods("mtct_longest", 60.0, 4) == pytest.approx([1, 60 ** (1 / 3), 60 ** (2 / 3), 60])

    @pytest.mark.parametrize("modality", ["video", "audio"])
    @pytest.mark.parametrize("kind", MULTI_PERIOD)
    def test_formula_channel_by_channel(self, kind, modality):
        # dim 8 turns 4 channels; channel j has the angle of period j, so a pair's two differ
        embeds, seconds = random_embeds(3, 2, 6), (0.0, 2.5, 31.0)
        times = video_times(*seconds)
        if modality == "audio":
            embeds, times = embeds.reshape(2, 3, 6)[:1], times.float().T
        turned = build(kind, 6, modality, dim=8, max_time=60.0)(embeds, times)
        periods = self.periods(kind, 60.0, 4)
        expected = embeds.clone()
        for step in range(embeds.shape[0]):
            for token in range(embeds.shape[1]):
                second = seconds[token if modality == "audio" else step]
                angles = [second * 2 * math.pi / period for period in periods]
                x = embeds[step, token].tolist()
                for k in (0, 2):
                    expected[step, token, k] = turn(x[k], x[k + 1], angles[k])[0]
                    expected[step, token, k + 1] = turn(x[k], x[k + 1], angles[k + 1])[1]
        torch.testing.assert_close(turned, expected, atol=1e-5, rtol=0)


def axial_reference(kind, modality, embeds, seconds, dim, max_time, theta):
    """Items 22 and 23 of the reference's description, as loops over Python's doubles."""
    pixel, periodic = kind.startswith("pixel"), kind.endswith("periodic")
    half = dim // 2
    if pixel:
        frequencies = [(1 + 127 * k / (half - 1)) * math.pi for k in range(half)]
    else:
        base = theta if max_time is None else max_time / (2 * math.pi)
        frequencies = [base ** (-2 * k / dim) for k in range(half)]

    def position(index, length):
        value = index if not pixel else -1 if length == 1 else -1 + 2 * index / (length - 1)
        scaled = max_time is not None and not (pixel and modality == "video")
        return value * 2 * math.pi / max_time if scaled else value

    steps, tokens, _ = embeds.shape
    expected = embeds.double().clone()
    for step in range(steps):
        for token in range(tokens):
            second = seconds[step] if modality == "video" else seconds[token]
            if not periodic:
                moment = -second * 2 * math.pi
            else:
                moment = second if max_time is None else second / max_time * 2 * math.pi
            places = [position(step, steps)] * half + [position(token, tokens)] * half
            for pair, place in enumerate(places):
                angle = place * frequencies[pair % half] * moment
                x = embeds[step, token, 2 * pair : 2 * pair + 2].tolist()
                expected[step, token, 2 * pair : 2 * pair + 2] = torch.tensor(turn(*x, angle), dtype=torch.float64)
    return expected.to(embeds.dtype)


class TestAxial:
    @pytest.mark.parametrize("max_time", [None, 50.0])
    @pytest.mark.parametrize("modality", ["video", "audio"])
    @pytest.mark.parametrize("kind", AXIAL)
    def test_equals_the_description_computed_in_doubles(self, kind, modality, max_time):
        module = build(kind, 20, modality, dim=8, max_time=max_time, theta=123.0)
        if modality == "video":
            embeds, seconds = random_embeds(4, 5, 20), (0.0, 0.03, 0.11, 0.2)
            times = video_times(*seconds)
        else:
            embeds, seconds = random_embeds(1, 5, 20), (0.01, 0.03, 0.05, 0.07, 0.09)
            times = torch.tensor([seconds])
        expected = axial_reference(kind, modality, embeds, seconds, 8, max_time, 123.0)
        turned = module(embeds, times)
        assert not torch.allclose(turned, embeds, atol=1e-3)
        torch.testing.assert_close(turned, expected, atol=2e-4, rtol=0)
        assert torch.equal(turned[..., 16:], embeds[..., 16:])

    @pytest.mark.parametrize("kind", AXIAL)
    def test_a_video_may_have_more_frames_than_tokens_per_frame(self, kind):
        embeds, seconds = random_embeds(7, 2, 16), [0.02 * frame for frame in range(7)]
        turned = build(kind, 16, dim=8, max_time=50.0)(embeds, video_times(*seconds))
        expected = axial_reference(kind, "video", embeds, seconds, 8, 50.0, None)
        torch.testing.assert_close(turned, expected, atol=2e-4, rtol=0)

    @pytest.mark.parametrize("kind", AXIAL)
    def test_one_frame_of_one_token(self, kind):
        embeds = random_embeds(1, 1, 16)
        turned = build(kind, 16, dim=8, max_time=50.0)(embeds, video_times(0.05))
        expected = axial_reference(kind, "video", embeds, [0.05], 8, 50.0, None)
        torch.testing.assert_close(turned, expected, atol=2e-4, rtol=0)

    def test_hand_computed_pixel_turns(self):
        # dim 4: frequencies pi and 128 pi; frames at -1 and 1, tokens at -1, 0 and 1; time angle 1/16 s * -2 pi
        module = build("pixel_seconds", 8, dim=4, max_time=None)
        turned = module(torch.tensor([1.0, 0.0] * 4).expand(2, 3, 8), video_times(0.0, 1 / 16))
        assert torch.equal(turned[0], torch.tensor([1.0, 0.0] * 4).expand(3, 8))
        slow = -1 / 8 * math.pi * math.pi
        first = turned[1, 0]  # frame at 1, token at -1
        torch.testing.assert_close(first[:2], torch.tensor([math.cos(slow), math.sin(slow)]))
        torch.testing.assert_close(first[4:6], torch.tensor([math.cos(slow), -math.sin(slow)]))
        assert torch.equal(turned[1, 1, 4:], torch.tensor([1.0, 0.0, 1.0, 0.0]))  # token at 0


class TestEveryRotation:
    @pytest.mark.parametrize("block_elements", [1, 64, 100])
    @pytest.mark.parametrize("kind", ROTATIONS + MULTI_PERIOD)
    def test_size_of_the_blocks_does_not_matter(self, monkeypatch, kind, block_elements):
        module, embeds = build(kind, 16, max_time=60), random_embeds(7, 3, 16)
        times = video_times(*(1.9 * frame for frame in range(7)))
        whole = module(embeds, times)
        monkeypatch.setattr(time_embedding_omnivinci, "MAX_BLOCK_ELEMENTS", block_elements)
        assert torch.equal(module(embeds, times), whole)

    @pytest.mark.parametrize("modality", ["video", "audio"])
    @pytest.mark.parametrize("kind", ROTATIONS + MULTI_PERIOD)
    def test_casting_the_module_to_bfloat16_does_not_spoil_the_angles(self, kind, modality):
        embeds = random_embeds(4, 3, 16).bfloat16()
        times = video_times(0.0, 100.3, 1801.7, 3599.0)
        if modality == "audio":
            embeds, times = embeds.reshape(1, 12, 16), torch.linspace(0, 3599, 12)[None]
        expected = build(kind, 16, modality, max_time=3600)(embeds.float(), times).bfloat16()
        result = build(kind, 16, modality, max_time=3600).to(torch.bfloat16)(embeds, times)
        assert result.dtype == torch.bfloat16
        assert torch.equal(result, expected)

    @pytest.mark.parametrize("kind", ROTATIONS + MULTI_PERIOD)
    def test_nothing_is_stored(self, kind):
        assert not build(kind, 16, max_time=60).state_dict()

    @pytest.mark.parametrize("kind", ROTATIONS)
    def test_gradient_is_turned_back(self, kind):
        # of a rotation R: d(sum((R x)^2) / 2) / dx = R^T R x = x
        embeds = random_embeds(3, 2, 16).requires_grad_()
        turned = build(kind, 16, max_time=60)(embeds, video_times(0.0, 1.0, 7.7))
        (turned.square().sum() / 2).backward()
        torch.testing.assert_close(embeds.grad, embeds.detach())

    @pytest.mark.parametrize("kind", MULTI_PERIOD)
    def test_gradient_flows_through_multi_period(self, kind):
        embeds = random_embeds(3, 2, 16).requires_grad_()
        build(kind, 16, max_time=60)(embeds, video_times(0.0, 1.0, 7.7)).square().sum().backward()
        assert embeds.grad.isfinite().all()
        assert embeds.grad.count_nonzero() == embeds.numel()

    @pytest.mark.parametrize("kind", ["crte", "rote", "mtct_shortest", "mtct_longest"])
    def test_odd_width_is_refused(self, kind):
        with pytest.raises(ValueError, match="Cannot rotate 5 of 5 channels in pairs"):
            build(kind, 5)

    def test_an_odd_number_of_turned_channels_is_refused(self):
        with pytest.raises(ValueError, match="Cannot rotate 15 of 15 channels in pairs"):
            build("mtct_shortest", 15)

    def test_more_channels_than_there_are_are_refused(self):
        with pytest.raises(ValueError, match="Cannot rotate 20 of 16 channels"):
            build("pixel_periodic", 16, dim=10)

    def test_the_base_class_has_no_angles(self):
        module = RotaryTimeEmbedding(OmniVinciTimeEmbeddingConfig(type="rote"), 4)
        with pytest.raises(NotImplementedError):
            module(random_embeds(1, 1, 4), video_times(1.0))


def test_none_returns_the_embeddings_themselves():
    module, embeds = build("none", 7), random_embeds(2, 3, 7)
    assert isinstance(module, NoTimeEmbedding)
    assert module(embeds, video_times(1.0, 2.0)) is embeds


@pytest.mark.parametrize("kind", TIME_EMBEDDINGS)
def test_shape_and_dtype_are_kept(kind):
    embeds = random_embeds(2, 3, 16)
    result = build(kind, 16)(embeds, video_times(1.0, 2.0))
    assert (result.shape, result.dtype) == (embeds.shape, embeds.dtype)
