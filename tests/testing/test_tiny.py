import json

import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer, Qwen2AudioEncoder, Qwen2ForCausalLM, SiglipVisionModel

from omnivinci_hf.testing.tiny import COMPONENTS, SPECIAL_TOKENS, write_tiny_checkpoint
from tests.support.paths import FULL_GOLDENS


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint")


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def read_tensors(folder):
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}
    return tensors


def files(folder):
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.skipif(not FULL_GOLDENS.is_dir(), reason="the reference checkpoint is not here")
class TestAgainstReference:
    def test_files_are_the_same(self, checkpoint):
        assert files(checkpoint) == files(FULL_GOLDENS / "checkpoint")

    def test_json_files_are_equal(self, checkpoint):
        for path in (FULL_GOLDENS / "checkpoint").rglob("*.json"):
            if path.name == "vocab.json":  # learned from other sentences
                continue
            expected, written = (
                read_json(root / path.relative_to(FULL_GOLDENS / "checkpoint"))
                for root in (FULL_GOLDENS / "checkpoint", checkpoint)
            )
            if path.name == "tokenizer.json":
                for values in (expected, written):
                    assert len(values["model"].pop("vocab")) == 456
                    assert len(values["model"].pop("merges")) == 200
            assert written == expected, path

    @pytest.mark.parametrize("component", COMPONENTS)
    def test_tensor_names_shapes_and_dtypes_are_equal(self, checkpoint, component):
        expected, written = (
            {name: (tensor.shape, tensor.dtype) for name, tensor in read_tensors(root / component).items()}
            for root in (FULL_GOLDENS / "checkpoint", checkpoint)
        )
        assert written == expected


@pytest.mark.parametrize(
    ("component", "model_class"),
    [("llm", Qwen2ForCausalLM), ("vision_tower", SiglipVisionModel), ("sound_tower", Qwen2AudioEncoder)],
)
def test_component_loads_strictly(checkpoint, component, model_class):
    _, report = model_class.from_pretrained(checkpoint / component, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_loaded_weights_are_those_written(checkpoint):
    model = Qwen2ForCausalLM.from_pretrained(checkpoint / "llm")
    written = read_tensors(checkpoint / "llm")
    assert torch.equal(model.lm_head.weight, written["lm_head.weight"])
    assert torch.equal(model.model.norm.weight, torch.ones(64))


def test_tokenizer_round_trips_and_keeps_special_tokens_whole(checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint / "llm")
    for token in SPECIAL_TOKENS:
        assert len(tokenizer(token)["input_ids"]) == 1
    text = "It's 17 o'clock,\n\nwhat do you hear? Žluťoučký kůň"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_chat_template_adds_the_default_system_message(checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint / "llm")
    messages = [{"role": "user", "content": "<sound>Hello"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n"
        "<|im_start|>user\n<sound>Hello<|im_end|>\n<|im_start|>assistant\n"
    )


def test_same_seed_gives_the_same_files(checkpoint, tmp_path):
    again = write_tiny_checkpoint(tmp_path / "again")
    assert all((again / path).read_bytes() == (checkpoint / path).read_bytes() for path in files(checkpoint))


def test_other_seed_gives_other_weights_in_every_component(checkpoint, tmp_path):
    other = write_tiny_checkpoint(tmp_path / "other", seed=1)
    for component in COMPONENTS:
        one, two = read_tensors(checkpoint / component), read_tensors(other / component)
        assert any(not torch.equal(one[name], two[name]) for name in one)


def test_shards_hold_the_same_tensors_and_load(checkpoint, tmp_path):
    sharded = write_tiny_checkpoint(tmp_path / "sharded", shards=3)
    one, three = read_tensors(checkpoint / "llm"), read_tensors(sharded / "llm")
    assert one.keys() == three.keys()
    assert all(torch.equal(one[name], three[name]) for name in one)
    index = read_json(sharded / "llm" / "model.safetensors.index.json")
    assert set(index["weight_map"].values()) == {f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)}
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in one.values())
    model = Qwen2ForCausalLM.from_pretrained(sharded / "llm")
    assert torch.equal(model.lm_head.weight, one["lm_head.weight"])


def test_every_tensor_can_have_a_shard_of_its_own(tmp_path):
    folder = write_tiny_checkpoint(tmp_path / "many", shards=27)
    assert len(list((folder / "llm").glob("*.safetensors"))) == 27


def test_sizes_can_be_changed_and_dependent_widths_follow(tmp_path):
    folder = write_tiny_checkpoint(
        tmp_path / "other",
        llm={"hidden_size": 96, "num_hidden_layers": 3, "tie_word_embeddings": True},
        vision_tower={"image_size": 28, "hidden_size": 16, "vision_use_head": False},
        sound_tower={"d_model": 32, "max_source_positions": 100, "num_mel_bins": 64},
        config={"s2_scales": "28,56", "video_encoder": {"max_time": 4}},
    )
    config = read_json(folder / "config.json")
    assert (config["hidden_size"], config["mm_hidden_size"], config["sound_hidden_size"]) == (96, 32, 32)
    assert config["vision_tower_cfg"]["num_image_tokens"] == 16
    assert config["video_encoder"]["max_time"] == 4
    assert config["video_encoder"]["trope_dim"] == 32
    assert "lm_head.weight" not in read_tensors(folder / "llm")
    assert not any(".head." in name for name in read_tensors(folder / "vision_tower"))
    assert read_tensors(folder / "mm_projector")["layers.2.weight"].shape == (96, 128)
    assert read_tensors(folder / "sound_mm_projector")["layers.0.weight"].shape == (96, 32)
    sound = read_json(folder / "preprocessor_config.json")
    assert (sound["chunk_length"], sound["nb_max_frames"], sound["feature_size"]) == (2, 200, 64)
    for component, model_class in (("llm", Qwen2ForCausalLM), ("sound_tower", Qwen2AudioEncoder)):
        _, report = model_class.from_pretrained(folder / component, output_loading_info=True)
        assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_without_s2_the_projector_takes_one_scale(tmp_path):
    folder = write_tiny_checkpoint(tmp_path / "plain", config={"dynamic_s2": False})
    assert read_json(folder / "config.json")["mm_hidden_size"] == 32


def test_dtype_reaches_weights_and_configs(tmp_path):
    folder = write_tiny_checkpoint(tmp_path / "half", dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in read_tensors(folder / "llm").values()} == {torch.bfloat16}
    assert read_json(folder / "config.json")["model_dtype"] == "torch.bfloat16"
    assert read_json(folder / "vision_tower" / "config.json")["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"llm": {"hidden_size": 65}}, "hidden_size 65 is no multiple of num_attention_heads 4"),
        ({"sound_tower": {"d_model": 30}}, "d_model 30 is no multiple"),
        ({"llm": {"vocab_size": 400}}, "vocab_size 400 is below the tokenizer's 469"),
        ({"mm_projector": {"mm_projector_type": "linear"}}, "mm_projector_type must be 'mlp_downsample'"),
        ({"shards": 0}, "shards must lie between 1 and 27"),
        ({"shards": 28}, "got 28"),
        ({"dtype": torch.int8}, "dtype must be one of"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write_tiny_checkpoint(tmp_path / "bad", **options)
    assert not (tmp_path / "bad").exists()


def test_existing_files_are_not_mixed_with_new_ones(checkpoint):
    with pytest.raises(FileExistsError, match="not empty"):
        write_tiny_checkpoint(checkpoint)
