import math
import subprocess
import sys

import pytest
import torch

from omnivinci_hf import OmniAlignNetConfig, OmniVinciConfig, OmniVinciForConditionalGeneration, OmniVinciProcessor
from omnivinci_hf.omnivinci.omni_align_omnivinci import MAX_LOGIT_SCALE
from omnivinci_hf.omnivinci.pretrained_omnivinci import NOT_QUANTIZED
from tests.support.small_model import AUDIO, VIDEO, small_config, small_inputs, small_model
from tests.support.small_net import SMALL_NET, make_net, unit


ROWS = 3


def pairs(rows: int = ROWS) -> dict[str, torch.Tensor]:
    """Inputs in which the sound of each row is that of its video."""
    inputs = {**small_inputs(rows), "video_has_audio": torch.ones(rows, dtype=torch.bool)}
    return {**inputs, "audio_from_video": torch.ones(rows, dtype=torch.bool), "labels": labels(inputs)}


def labels(inputs) -> torch.Tensor:
    return inputs["input_ids"].masked_fill(torch.arange(29) < 26, -100)


@pytest.fixture(scope="module")
def model():
    return small_model(omni_align_config=SMALL_NET)


# -- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_identical_vectors_cost_the_logarithm_of_the_batch_size(rows):
    same = unit(1, 16, seed=0).expand(rows, -1)
    assert make_net().loss(same, same).item() == pytest.approx(math.log(rows), abs=1e-6)


def test_orthogonal_pairs_cost_what_the_temperature_says():
    vectors = torch.eye(4, 16)
    loss = make_net(temperature=0.5).loss(vectors, vectors)
    assert loss.item() == pytest.approx(math.log(math.exp(2) + 3) - 2, abs=1e-6)


def test_exchanged_pairs_cost_more_by_the_scale():
    vectors, net = torch.eye(2, 16), make_net(temperature=0.5)
    assert (net.loss(vectors, vectors.flip(0)) - net.loss(vectors, vectors)).item() == pytest.approx(2, abs=1e-6)


def test_the_loss_is_symmetric():
    net, vision, audio = make_net(), unit(5, 16, seed=1), unit(5, 16, seed=2)
    assert net.loss(vision, audio).item() == pytest.approx(net.loss(audio, vision).item(), abs=1e-6)


def test_the_scale_is_limited_and_then_no_longer_learned():
    net, vision, audio = make_net(), unit(3, 16, seed=1), unit(3, 16, seed=2)
    with torch.no_grad():
        net.logit_scale.fill_(9.0)
    loss = net.loss(vision, audio)
    loss.backward()
    with torch.no_grad():
        net.logit_scale.fill_(MAX_LOGIT_SCALE)
    assert loss.item() == pytest.approx(net.loss(vision, audio).item(), rel=1e-6) and net.logit_scale.grad == 0


def test_no_clip_at_all_costs_nothing_but_keeps_every_parameter_in_the_graph():
    net = make_net()
    loss = net.loss(net.vision([]), net.audio([]))
    loss.backward()
    assert loss == 0 and all(parameter.grad is not None for parameter in net.parameters())


# -- the vectors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_queries", [1, 3])
def test_vectors_have_length_one_whatever_the_length_of_the_clip(num_queries):
    clips = [torch.randn(length, 8) for length in (1, 5, 40)]
    vectors = make_net(num_queries=num_queries).vision(clips)
    assert vectors.shape == (3, 16)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(3))


def test_padding_is_not_seen():
    net, clips = make_net(), [torch.randn(length, 8) for length in (2, 9)]
    together = net.audio(clips)
    alone = torch.cat([net.audio([clip]) for clip in clips])
    torch.testing.assert_close(together, alone)


def test_every_embedding_of_a_clip_is_read():
    net, clip = make_net(), torch.randn(6, 8, requires_grad=True)
    net.vision([clip])[0, 0].backward()
    assert (clip.grad.abs().sum(1) > 0).all()


def test_the_modalities_have_their_own_queries_and_layers():
    net, clip = make_net(), torch.randn(6, 8)
    assert not torch.allclose(net.vision([clip]), net.audio([clip]))
    shared = {id(parameter) for parameter in net.vision.parameters()} & {id(p) for p in net.audio.parameters()}
    assert not shared


# -- in the model -----------------------------------------------------------------------------------------------------


def test_it_is_off_by_default():
    assert small_config().omni_align_config is None and small_model().model.omni_align_net is None


def test_answers_do_not_depend_on_it(model):
    inputs = small_inputs()
    with torch.inference_mode():
        logits = model(**inputs).logits
        without = OmniVinciForConditionalGeneration(small_config()).eval()
        without.load_state_dict({name: value for name, value in model.state_dict().items() if "align" not in name})
        assert torch.equal(logits, without(**inputs).logits)


def test_the_loss_is_the_sum_of_both(model):
    with torch.inference_mode():
        output = model(**pairs())
    assert output.omni_align_loss > 0
    torch.testing.assert_close(output.loss, output.language_loss + output.omni_align_loss)


def test_the_weight_is_that_of_the_config():
    half = small_model(omni_align_config={**SMALL_NET, "loss_weight": 0.5})
    with torch.inference_mode():
        output = half(**pairs())
    torch.testing.assert_close(output.loss, output.language_loss + 0.5 * output.omni_align_loss)


def test_the_loss_is_that_of_the_embeddings(model):
    inputs = pairs()
    with torch.inference_mode():
        embeds = model.get_omni_embeddings(**inputs)
        expected = model.model.omni_align_net.loss(embeds.vision_embeds, embeds.audio_embeds)
        torch.testing.assert_close(model(**inputs).omni_align_loss, expected)


def test_clips_of_one_modality_take_no_part(model):
    inputs, partial = pairs(), pairs()
    keep = torch.tensor([True, False, True])
    partial.update(video_has_audio=keep, audio_from_video=keep)
    with torch.inference_mode():
        embeds = model.get_omni_embeddings(**inputs)
        expected = model.model.omni_align_net.loss(embeds.vision_embeds[keep], embeds.audio_embeds[keep])
        torch.testing.assert_close(model(**partial).omni_align_loss, expected)


def test_without_a_pair_the_loss_is_that_of_the_language(model):
    inputs = pairs()
    inputs.update(video_has_audio=torch.zeros(3, dtype=torch.bool), audio_from_video=torch.zeros(3, dtype=torch.bool))
    with torch.inference_mode():
        output = model(**inputs)
    assert output.omni_align_loss == 0 and output.loss == output.language_loss


def test_words_alone_train_too():
    model = small_model(omni_align_config=SMALL_NET).train()
    ids = torch.randint(6, 99, (2, 9))
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(parameter.grad is not None for parameter in model.model.omni_align_net.parameters())


def test_pairs_that_do_not_match_are_an_error(model):
    inputs = pairs()
    inputs["audio_from_video"] = torch.tensor([True, False, True])
    with pytest.raises(ValueError, match="3 clips but `audio_from_video` of 2"):
        model(**inputs)


def test_gradients_reach_the_towers():
    model = small_model(omni_align_config=SMALL_NET).train()
    output = model(**pairs())
    output.omni_align_loss.backward()
    for tower in (model.model.vision_tower, model.model.audio_tower, model.model.omni_align_net):
        assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in tower.parameters())


def test_shares_of_several_batches_add_up(model):
    """Two batches of a step: each counts by its share of the labels, as Trainer's own sums need it."""
    inputs = pairs()
    items = 2 * int((inputs["labels"] != -100).sum())
    with torch.inference_mode():
        whole = model(**inputs)
        half = model(**inputs, num_items_in_batch=items)
    torch.testing.assert_close(half.loss, whole.loss / 2)
    torch.testing.assert_close(half.omni_align_loss, whole.omni_align_loss)


def test_a_batch_without_labels_costs_nothing(model):
    inputs = small_inputs()
    with torch.inference_mode():
        assert model(**inputs, labels=torch.full_like(inputs["input_ids"], -100)).loss == 0


def test_embeddings_of_one_modality_alone(model):
    inputs = small_inputs()
    sound = {name: value for name, value in inputs.items() if name.startswith(("audio", "input_features"))}
    with torch.inference_mode():
        embeds = model.get_omni_embeddings(**sound)
        both = model.get_omni_embeddings(**inputs)
    assert embeds.vision_embeds is None
    torch.testing.assert_close(embeds.audio_embeds, both.audio_embeds)


def test_time_does_not_change_the_vectors(model):
    """The network reads the embeddings before they are rotated."""
    inputs = pairs()
    with torch.inference_mode():
        before = model.get_omni_embeddings(**inputs)
        inputs["video_frame_times_ns"] = inputs["video_frame_times_ns"] + 10**9
        inputs["audio_durations_ns"] = inputs["audio_durations_ns"] * 2
        after = model.get_omni_embeddings(**inputs)
    assert torch.equal(before.vision_embeds, after.vision_embeds)
    assert torch.equal(before.audio_embeds, after.audio_embeds)


def test_a_model_without_it_says_how_to_get_it():
    with pytest.raises(ValueError, match=r"omni_align_config=\{\}"):
        small_model().get_omni_embeddings(**small_inputs())


def test_generation_leaves_the_pairs_aside(model):
    inputs = {name: value for name, value in pairs().items() if name != "labels"}
    without = {name: value for name, value in inputs.items() if name not in ("video_has_audio", "audio_from_video")}
    for options in ({}, {"num_beams": 2}):
        ids = model.generate(**inputs, max_new_tokens=3, do_sample=False, **options)
        assert torch.equal(ids, model.generate(**without, max_new_tokens=3, do_sample=False, **options))


# -- loading and saving -----------------------------------------------------------------------------------------------


def test_a_checkpoint_that_lacks_it_gets_it(tmp_path):
    small_model().save_pretrained(tmp_path)
    model, info = OmniVinciForConditionalGeneration.from_pretrained(
        tmp_path, omni_align_config=SMALL_NET, output_loading_info=True
    )
    assert info["missing_keys"] and all(".omni_align_net." in name for name in info["missing_keys"])
    assert model.config.omni_align_config.embed_dim == 16
    net = model.model.omni_align_net
    assert net.logit_scale.item() == pytest.approx(-math.log(0.07), abs=1e-6)
    assert 0.5 < net.vision.query.std() < 2
    with torch.inference_mode():
        assert torch.isfinite(model(**pairs()).omni_align_loss)


def test_the_original_layout_gets_it(original_folder):
    model = OmniVinciForConditionalGeneration.from_pretrained(original_folder, omni_align_config=SMALL_NET)
    assert model.model.omni_align_net.logit_scale.item() == pytest.approx(-math.log(0.07), abs=1e-6)
    assert model.model.omni_align_net.vision.query.std() > 0.5


def test_it_is_saved_and_loaded(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = OmniVinciForConditionalGeneration.from_pretrained(tmp_path).eval()
    inputs = pairs()
    with torch.inference_mode():
        first, second = model.get_omni_embeddings(**inputs), again.get_omni_embeddings(**inputs)
    assert torch.equal(first.vision_embeds, second.vision_embeds)
    dropped = OmniVinciForConditionalGeneration.from_pretrained(tmp_path, omni_align_config=None)
    assert dropped.model.omni_align_net is None


def test_it_is_not_quantized_by_default():
    assert "model.omni_align_net" in NOT_QUANTIZED


# -- configuration ----------------------------------------------------------------------------------------------------


def test_an_empty_dictionary_takes_the_defaults():
    config = OmniVinciConfig(omni_align_config={}).omni_align_config
    assert (config.num_layers, config.num_queries, config.intermediate_size) == (3, 1, 4 * config.embed_dim)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"embed_dim": 10, "num_attention_heads": 4}, "`num_attention_heads`=4 must divide `embed_dim`=10"),
        ({"num_layers": 0}, "`num_layers` must be at least 1"),
        ({"temperature": 0}, "`temperature` must be more than 0"),
        ({"loss_weight": float("nan")}, "`loss_weight` must be a finite number"),
        ({"layers": 3}, r"has no \['layers'\]"),
    ],
)
def test_wrong_values_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        OmniAlignNetConfig(**values)


# -- the processor's part ---------------------------------------------------------------------------------------------


def test_the_processor_says_which_sounds_are_those_of_videos(processor: OmniVinciProcessor):
    frames, tone = torch.zeros(4, 32, 32, 3, dtype=torch.uint8).numpy(), torch.zeros(16000).numpy()
    silent = {"type": "video", "video": frames, "video_metadata": {"fps": 2}}
    heard = {**silent, "audio": tone, "sampling_rate": 16000}
    sound = {"type": "audio", "audio": tone, "sampling_rate": 16000}
    content = [sound, heard, silent, heard]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=True, return_dict=True, return_tensors="pt"
    )
    assert inputs["video_has_audio"].tolist() == [True, False, True]
    assert inputs["audio_from_video"].tolist() == [False, True, True]
    assert (inputs["input_ids"] == processor.video_token_id).any() and VIDEO != AUDIO


# -- several processes ------------------------------------------------------------------------------------------------

SHARES = {"3+2 clips": (3, 2), "5+0 clips": (5, 0)}
WORKER = f"""
import sys
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tests.support.small_net import make_net

CLIPS = [torch.randn(3 + number, 8, generator=torch.Generator().manual_seed(number)) for number in range(5)]
SHARES = {SHARES}

def train(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{{folder}}/store", rank=rank, world_size=2)
    for name, shares in SHARES.items():
        net = make_net()
        wrapped = torch.nn.parallel.DistributedDataParallel(Whole(net))
        first = sum(shares[:rank])
        loss = wrapped(CLIPS[first : first + shares[rank]])
        loss.backward()
        gradients = {{name: value.grad for name, value in net.named_parameters()}}
        torch.save((loss.detach(), gradients), f"{{folder}}/{{name}} {{rank}}")

class Whole(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, clips):
        return self.net.loss(self.net.vision(clips), self.net.audio([-clip for clip in clips]))

if __name__ == "__main__":
    folder = sys.argv[1]
    # forks need no imports of their own; nothing was computed before them
    mp.start_processes(train, args=(folder,), nprocs=2, start_method="fork" if sys.platform == "linux" else "spawn")
    net = make_net()
    loss = Whole(net)(CLIPS)
    loss.backward()
    torch.save((loss.detach(), {{name: value.grad for name, value in net.named_parameters()}}), f"{{folder}}/one")
"""


@pytest.fixture(scope="module")
def losses_and_gradients(tmp_path_factory):
    """A folder with what one process computes, and each of two between which clips are shared out."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "worker.py").write_text(WORKER)
    run = subprocess.run([sys.executable, folder / "worker.py", folder], capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr[-2000:]
    return folder


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("shares", SHARES)
def test_loss_and_gradients_of_two_processes_are_those_of_one(losses_and_gradients, shares, rank):
    expected, expected_gradients = torch.load(losses_and_gradients / "one")
    loss, gradients = torch.load(losses_and_gradients / f"{shares} {rank}")
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-6)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-4, atol=1e-6, msg=name)
