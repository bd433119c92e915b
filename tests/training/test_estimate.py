import gc
import importlib.util
import re

import pytest

from omnivinci_hf import OmniVinciConfig, OmniVinciForConditionalGeneration
from omnivinci_hf.omnivinci.configuration_omnivinci import AUDIO_ENCODERS
from omnivinci_hf.training.estimate import TRAINABLE_PARTS, count_parameters, estimate_memory, format_estimate
from tests.support.paths import BENCHMARKS
from tests.support.small_model import small_config


EVERYTHING = TRAINABLE_PARTS[:6]
SIZES = {"num_frames": 4, "audio_sec": 2.0, "text_tokens": 100}


@pytest.fixture(scope="module")
def benchmark():
    path = BENCHMARKS / "train_memory.py"
    spec = importlib.util.spec_from_file_location("train_memory", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("options", [{}, {"omni_align_config": {}}, {"tie_word_embeddings": True}])
@pytest.mark.parametrize("audio", AUDIO_ENCODERS)
def test_parameters_are_counted_exactly(audio, options):
    config = small_config(audio, **options)
    model = OmniVinciForConditionalGeneration(config)
    counts = count_parameters(config)
    assert sum(part.total for part in counts.values()) == sum(weights.numel() for weights in model.parameters())
    learnable = sum(weights.numel() for weights in model.model.vision_tower.parameters() if weights.requires_grad)
    assert counts["vision_tower"].learnable == learnable < counts["vision_tower"].total
    table = sum(weights.numel() for weights in model.model.language_model.embed_tokens.parameters())
    assert counts["embed_tokens"].total == table
    assert counts["lm_head"].total == (0 if options.get("tie_word_embeddings") else table)


def test_the_nine_billion_parameters_of_the_original_model():
    estimate = estimate_memory(OmniVinciConfig(), EVERYTHING, text_tokens=1000)
    assert estimate.num_parameters == pytest.approx(8.74e9, rel=0.01)
    assert estimate.weights == 2 * estimate.num_parameters
    assert estimate.gradients == 2 * estimate.num_trainable
    # two numbers per parameter in bfloat16, and no master copy
    assert estimate.optimizer == 2 * estimate.gradients
    # log-probabilities and two gradients, in float32
    assert estimate.logits == 1000 * 152064 * 12


def test_length_follows_frames_and_seconds():
    config = small_config(video_pool_sizes=[[2, 1, 1], [1, 2, 2]])
    # 3 groups of 2 x 2 embeddings, 5 single ones; windows of 0.4 s with 10 embeddings
    estimate = estimate_memory(config, EVERYTHING, num_frames=5, audio_sec=0.9, text_tokens=7)
    assert estimate.seq_len == 3 * 4 + 5 + 3 * 10 + 7


def test_float32_and_mixed_weights_take_four_bytes_and_mixed_ones_copies():
    plain, mixed = (estimate_memory(small_config(), EVERYTHING, dtype=dtype, **SIZES) for dtype in ("float32", "mixed"))
    assert plain.weights == mixed.weights == 4 * plain.num_parameters
    assert plain.optimizer == mixed.optimizer == 8 * plain.num_trainable
    assert plain.copies == 0
    products = sum(part.products for part in count_parameters(small_config()).values())
    # of all but the patches' and the sound's convolutions
    assert mixed.copies == pytest.approx(2 * products)


def test_what_is_kept_grows_with_the_batch_and_shrinks_by_freezing_and_checkpointing():
    def kept(trainable=EVERYTHING, **options):
        return estimate_memory(small_config(), trainable, **{**SIZES, **options}).activations

    assert kept(batch_size=3) == pytest.approx(3 * kept())
    assert kept(gradient_checkpointing=True) < 0.4 * kept()
    frozen = kept(["vision_projector", "audio_projector", "language_model", "lm_head"])
    assert kept(["vision_projector"]) < frozen < kept()
    # nothing that learns stands before the head, which keeps its input: 4 x 4 and 5 x 10 embeddings and 100 words
    assert kept(["lm_head"]) == (16 + 50 + 100) * 32 * 2


def test_quantized_layers_are_smaller_and_the_rest_is_not():
    config = small_config()
    layers = count_parameters(config)["language_model"].products
    plain, int8, nf4 = (
        estimate_memory(config, ["vision_projector"], quantization=quantization).weights
        for quantization in (None, "int8", "nf4")
    )
    assert plain - int8 == layers
    assert plain - nf4 == layers * (2 - 0.5625)


def test_optimizers_differ_by_their_state():
    adamw, small, none = (
        estimate_memory(small_config(), EVERYTHING, dtype="float32", optimizer=name)
        for name in ("adamw", "adamw_8bit", "sgd")
    )
    assert (adamw.optimizer, none.optimizer) == (8 * adamw.num_trainable, 0)
    assert small.optimizer == pytest.approx(2 * adamw.num_trainable, rel=0.02)


def test_processes_repeat_everything_or_share_it_out():
    alone, repeated, fsdp, zero3 = (
        estimate_memory(small_config(), EVERYTHING, num_processes=count, sharding=sharding)
        for count, sharding in ((1, "none"), (4, "none"), (4, "fsdp"), (4, "zero3"))
    )
    assert repeated.communication == repeated.gradients == alone.gradients
    assert repeated.total == alone.total + alone.gradients
    assert fsdp.weights == alone.weights / 4 and fsdp.optimizer == alone.optimizer / 4
    # DeepSpeed keeps a float32 master copy beside AdamW's two numbers
    assert zero3.optimizer == 12 * alone.num_trainable / 4
    assert fsdp.total < alone.total


def test_adapters_are_counted_as_peft_makes_them():
    peft = pytest.importorskip("peft")
    config = small_config()
    adapters = peft.LoraConfig(r=4, target_modules=r".*language_model\.layers\..*_proj")
    model = peft.get_peft_model(OmniVinciForConditionalGeneration(config), adapters)
    estimate = estimate_memory(config, [], lora_rank=4)
    assert estimate.num_trainable == model.get_nb_trainable_parameters()[0]
    assert estimate.gradients == 4 * estimate.num_trainable and estimate.optimizer == 8 * estimate.num_trainable


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trainable": ["vision"]}, r"`trainable` has unknown parts \['vision'\]; known are vision_tower"),
        ({"trainable": []}, "Nothing learns; name one of vision_tower"),
        ({"trainable": {"lm_head": False}}, "Nothing learns"),
        ({"trainable": ["omni_align_net"]}, "the config has no `omni_align_config`; set it to {}"),
        ({"dtype": "float8"}, "`dtype`='float8' is unknown; choose one of float32, bfloat16, mixed"),
        ({"optimizer": "lion"}, "`optimizer`='lion' is unknown"),
        ({"sharding": "zero1"}, "`sharding`='zero1' is unknown"),
        ({"quantization": "nf5", "trainable": ["lm_head"]}, "`quantization`='nf5' is unknown"),
        ({"quantization": "nf4"}, "A quantized language model cannot learn itself"),
    ],
)
def test_wrong_settings_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        estimate_memory(small_config(), **{"trainable": EVERYTHING, **options})


def test_table_names_the_peak():
    shown = format_estimate(estimate_memory(OmniVinciConfig(), ["vision_projector"], num_frames=8, text_tokens=100))
    assert "parameters: 8.7" in shown and "tokens in a row: 2148" in shown
    assert "weights                              16." in shown and re.search(r"peak .* GiB  \(.+\)", shown)
    assert "autocast" not in shown and "DDP" not in shown
    assert "It is an estimate by formula, within 3 % of what PyTorch allocated for a small model." in shown


# -- against what PyTorch allocates ----------------------------------------------------------------------------------

MEASURED = {
    "everything": {"trainable": EVERYTHING},
    "everything, checkpointing": {"trainable": EVERYTHING, "gradient_checkpointing": True},
    "towers frozen, checkpointing": {
        "trainable": ["vision_projector", "audio_projector", "language_model", "lm_head"],
        "gradient_checkpointing": True,
    },
    "projector": {"trainable": ["vision_projector"]},
}


@pytest.mark.parametrize(("name", "dtype"), [*((name, "float32") for name in MEASURED), ("everything", "mixed")])
def test_peak_is_what_a_small_model_takes(benchmark, name, dtype):
    config = benchmark.build_config(small=True)
    sizes = {"batch_size": 2, "num_frames": 2, "audio_sec": 6.0, "text_tokens": 60}
    estimate = estimate_memory(config, dtype=dtype, **sizes, **MEASURED[name])
    gc.collect()
    measured = benchmark.measure({**sizes, **MEASURED[name]}, dtype, config)
    assert 0.95 < estimate.total / measured["tensors"] < 1.05


def test_the_rows_that_are_shown_add_up_to_the_peak_or_more():
    shown = format_estimate(estimate_memory(OmniVinciConfig(), ["vision_projector"], num_frames=8, text_tokens=100))
    table, _, words = shown.partition("The rows")
    *rows, peak = (float(size) for size in re.findall(r"([0-9.]+) GiB", table))
    assert peak <= sum(rows) + 0.005 * len(rows)
    assert "the peak is at most their sum" in words


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "mixed"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("learns", [["vision_projector"], ["audio_tower"], EVERYTHING, []])
@pytest.mark.parametrize("sizes", [{}, SIZES, {"num_frames": 4096, "text_tokens": 1}, {"text_tokens": 100_000}])
def test_the_peak_is_at_most_the_sum_of_the_rows(dtype, checkpointing, learns, sizes):
    options = {"dtype": dtype, "gradient_checkpointing": checkpointing, "lora_rank": None if learns else 4, **sizes}
    estimate = estimate_memory(small_config(), learns, **options)
    rows = ("weights", "optimizer", "communication", "gradients", "activations", "copies", "logits", "working")
    assert estimate.total <= sum(getattr(estimate, name) for name in rows)
