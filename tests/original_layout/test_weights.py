import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, Qwen2AudioEncoder, Qwen2ForCausalLM, SiglipVisionModel

from omnivinci_hf import OmniVinciConfig, OmniVinciForConditionalGeneration, OmniVinciMediaEncoder, OmniVinciModel
from omnivinci_hf.omnivinci.checkpoint_files_omnivinci import is_original_checkpoint
from omnivinci_hf.original_layout.convert import convert_checkpoint
from omnivinci_hf.original_layout.weights import OriginalStateDict, new_name
from omnivinci_hf.testing.tiny import COMPONENTS, write_tiny_checkpoint


def read_tensors(folder):
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    return tensors


def edit_tensors(folder, change):
    """Rewrite every safetensors file of a component with `change(name, tensor)`; None leaves the tensor out."""
    for path in sorted(folder.glob("*.safetensors")):
        changed = {name: change(name, tensor) for name, tensor in load_file(path).items()}
        save_file({name: tensor for name, tensor in changed.items() if tensor is not None}, path, {"format": "pt"})


def randomize(checkpoint):
    # the writer's norms are all one and its biases zero: exchanged names would not show
    generator = torch.Generator().manual_seed(1)
    for component in COMPONENTS:
        edit_tensors(
            checkpoint / component, lambda name, tensor: tensor + 0.01 * torch.randn(tensor.shape, generator=generator)
        )
    return checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return randomize(write_tiny_checkpoint(tmp_path_factory.mktemp("original") / "checkpoint"))


@pytest.fixture(scope="module")
def model(checkpoint):
    return OmniVinciForConditionalGeneration.from_pretrained(checkpoint)


@pytest.fixture
def damaged(checkpoint, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(checkpoint, tmp_path / "damaged")


def same_tensors(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


class TestNames:
    def test_tensors_map_one_to_one_onto_the_model(self, checkpoint, model):
        original = [f"{part}/{name}" for part in COMPONENTS for name in read_tensors(checkpoint / part)]
        names = [new_name(name) for name in original]
        assert len(set(names)) == len(original) == 138
        assert set(names) == set(model.state_dict())

    @pytest.mark.parametrize(
        ("original", "expected"),
        [
            ("llm/model.norm.weight", "model.language_model.norm.weight"),
            ("llm/model.layers.1.mlp.up_proj.weight", "model.language_model.layers.1.mlp.up_proj.weight"),
            ("llm/lm_head.weight", "lm_head.weight"),
            ("vision_tower/vision_model.post_layernorm.bias", "model.vision_tower.post_layernorm.bias"),
            ("vision_tower/vision_tower.vision_model.head.probe", "model.vision_tower.head.probe"),
            ("vision_tower/embeddings.patch_embedding.bias", "model.vision_tower.embeddings.patch_embedding.bias"),
            ("sound_tower/audio_tower.conv1.bias", "model.audio_tower.conv1.bias"),
            ("sound_tower/conv1.bias", "model.audio_tower.conv1.bias"),
            ("mm_projector/layers.1.weight", "model.vision_projector.norm.weight"),
            ("mm_projector/layers.2.bias", "model.vision_projector.linear_1.bias"),
            ("mm_projector/layers.4.weight", "model.vision_projector.linear_2.weight"),
            ("sound_mm_projector/layers.0.weight", "model.audio_projector.linear_1.weight"),
            ("sound_mm_projector/layers.2.bias", "model.audio_projector.linear_2.bias"),
        ],
    )
    def test_name(self, original, expected):
        assert new_name(original) == expected

    @pytest.mark.parametrize("name", ["mm_projector/layers.3.weight", "other/weight", "llm/visual.weight"])
    def test_unknown_name_is_left_as_it_is(self, name):
        assert new_name(name) == name

    def test_new_names_are_left_as_they_are(self, model):
        assert all(new_name(name) == name for name in model.state_dict())


class TestWeights:
    def test_language_model_equals_the_folder_loaded_alone(self, checkpoint, model):
        alone = Qwen2ForCausalLM.from_pretrained(checkpoint / "llm")
        assert same_tensors(model.model.language_model.state_dict(), alone.model.state_dict())
        assert torch.equal(model.lm_head.weight, alone.lm_head.weight)

    def test_vision_tower_equals_the_folder_loaded_alone(self, checkpoint, model):
        alone = SiglipVisionModel.from_pretrained(checkpoint / "vision_tower")
        assert same_tensors(model.model.vision_tower.state_dict(), alone.state_dict())

    def test_sound_tower_equals_the_folder_loaded_alone(self, checkpoint, model):
        alone = Qwen2AudioEncoder.from_pretrained(checkpoint / "sound_tower")
        assert same_tensors(model.model.audio_tower.state_dict(), alone.state_dict())

    @pytest.mark.parametrize("part", COMPONENTS)
    def test_every_tensor_equals_the_files(self, checkpoint, model, part):
        loaded = model.state_dict()
        for name, tensor in read_tensors(checkpoint / part).items():
            assert torch.equal(loaded[new_name(f"{part}/{name}")], tensor), name

    def test_tensors_are_read_when_they_are_taken(self, checkpoint):
        state_dict = OriginalStateDict(checkpoint)
        assert not any(isinstance(value, torch.Tensor) for value in state_dict.values())
        value = state_dict["lm_head.weight"]
        assert torch.equal(value[:], read_tensors(checkpoint / "llm")["lm_head.weight"])

    def test_report_says_that_all_was_used(self, checkpoint):
        _, report = OmniVinciForConditionalGeneration.from_pretrained(checkpoint, output_loading_info=True)
        assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))

    def test_shards_give_the_same_model(self, tmp_path):
        sharded = write_tiny_checkpoint(tmp_path / "sharded", shards=3)
        single = write_tiny_checkpoint(tmp_path / "single")
        assert len(list((sharded / "llm").glob("*.safetensors"))) == 3
        one, three = (OmniVinciForConditionalGeneration.from_pretrained(path) for path in (single, sharded))
        assert same_tensors(one.state_dict(), three.state_dict())

    @pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16"])
    def test_dtype_is_applied(self, checkpoint, model, dtype):
        half = OmniVinciForConditionalGeneration.from_pretrained(checkpoint, dtype=dtype)
        assert half.dtype == torch.bfloat16
        assert {tensor.dtype for tensor in half.state_dict().values()} == {torch.bfloat16}
        rounded = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
        assert same_tensors(half.state_dict(), rounded)

    def test_dtype_of_the_files_is_kept_by_default(self, tmp_path):
        folder = write_tiny_checkpoint(tmp_path / "half", dtype=torch.bfloat16)
        half = OmniVinciForConditionalGeneration.from_pretrained(folder)
        assert {tensor.dtype for tensor in half.state_dict().values()} == {torch.bfloat16}

    def test_saved_model_is_an_ordinary_checkpoint_with_the_same_weights(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        assert not is_original_checkpoint(tmp_path, {})
        again = OmniVinciForConditionalGeneration.from_pretrained(tmp_path)
        assert same_tensors(again.state_dict(), model.state_dict())


class TestTiedEmbeddings:
    @pytest.fixture
    def folder(self, tmp_path):
        folder = write_tiny_checkpoint(tmp_path / "tied", llm={"tie_word_embeddings": True})
        assert "lm_head.weight" not in read_tensors(folder / "llm")
        return folder

    def test_head_shares_the_words_storage(self, folder):
        model = OmniVinciForConditionalGeneration.from_pretrained(folder)
        words = model.get_input_embeddings().weight
        assert model.lm_head.weight.data_ptr() == words.data_ptr()
        assert torch.equal(words, read_tensors(folder / "llm")["model.embed_tokens.weight"])

    def test_a_superfluous_head_is_accepted(self, folder):
        tensors = read_tensors(folder / "llm")
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        save_file(tensors, folder / "llm" / "model.safetensors", {"format": "pt"})
        model = OmniVinciForConditionalGeneration.from_pretrained(folder)
        assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()

    def test_untied_head_must_be_in_the_files(self, damaged):
        edit_tensors(damaged / "llm", lambda name, tensor: None if name == "lm_head.weight" else tensor)
        with pytest.raises(ValueError, match="missing: lm_head.weight"):
            OmniVinciForConditionalGeneration.from_pretrained(damaged)


class TestRecognition:
    def test_original_folder(self, checkpoint):
        assert is_original_checkpoint(checkpoint, {})
        assert is_original_checkpoint(str(checkpoint), {"token": None})

    def test_other_folder(self, checkpoint):
        assert not is_original_checkpoint(checkpoint / "llm", {})

    def test_folder_without_config(self, checkpoint, tmp_path):
        assert not is_original_checkpoint(tmp_path, {})

    def test_auto_model_loads_it(self, checkpoint, model):
        loaded = AutoModel.from_pretrained(checkpoint)
        assert type(loaded) is OmniVinciForConditionalGeneration
        assert same_tensors(loaded.state_dict(), model.state_dict())

    def test_generation_config_is_that_of_the_language_model(self, model):
        generation = model.generation_config
        assert (generation.eos_token_id, generation.pad_token_id) == ([458, 456], 456)

    def test_generation_config_may_be_absent(self, damaged):
        (damaged / "llm" / "generation_config.json").unlink()
        loaded = OmniVinciForConditionalGeneration.from_pretrained(damaged)
        assert loaded.generation_config is not None

    def test_name_or_path_is_the_folder(self, checkpoint, model):
        assert model.name_or_path == model.config.name_or_path == str(checkpoint)

    def test_a_given_config_is_used(self, checkpoint):
        config = OmniVinciConfig.from_pretrained(checkpoint, group_duration_sec=5)
        loaded = OmniVinciForConditionalGeneration.from_pretrained(checkpoint, config=config)
        assert loaded.config.group_duration_sec == 5

    def test_options_of_the_config_can_be_given(self, checkpoint):
        loaded = OmniVinciForConditionalGeneration.from_pretrained(checkpoint, group_duration_sec=5)
        assert loaded.config.group_duration_sec == 5

    def test_subfolder(self, checkpoint, model):
        loaded = OmniVinciForConditionalGeneration.from_pretrained(checkpoint.parent, subfolder=checkpoint.name)
        assert same_tensors(loaded.state_dict(), model.state_dict())

    def test_the_model_without_head_loads_too(self, checkpoint, model):
        loaded = OmniVinciModel.from_pretrained(checkpoint)
        assert same_tensors(loaded.state_dict(), model.model.state_dict())

    def test_the_media_encoder_loads_alone(self, checkpoint, model):
        loaded = OmniVinciMediaEncoder.from_pretrained(checkpoint)
        expected = {name: value for name, value in model.model.state_dict().items() if "language_model" not in name}
        assert same_tensors(loaded.state_dict(), expected)

    def test_attention_can_be_chosen(self, checkpoint):
        loaded = OmniVinciForConditionalGeneration.from_pretrained(checkpoint, attn_implementation="eager")
        assert loaded.model.language_model.config._attn_implementation == "eager"


class TestDamage:
    def test_missing_surplus_and_misshapen_tensors_are_named_together(self, damaged):
        edit_tensors(damaged / "sound_tower", lambda name, tensor: None if name == "conv1.bias" else tensor)
        edit_tensors(
            damaged / "mm_projector", lambda name, tensor: tensor[:10].clone() if name == "layers.2.bias" else tensor
        )
        path = damaged / "vision_tower" / "model.safetensors"
        save_file({**load_file(path), "extra.weight": torch.zeros(2)}, path, {"format": "pt"})
        with pytest.raises(ValueError, match="does not fit its configuration") as error:
            OmniVinciForConditionalGeneration.from_pretrained(damaged)
        lines = [line.strip() for line in str(error.value).splitlines()[1:]]
        assert lines == [
            "missing: model.audio_tower.conv1.bias",
            "surplus: vision_tower/extra.weight",
            "misshapen: model.vision_projector.linear_1.bias is (10,), expected (64,)",
        ]

    def test_a_long_list_is_cut_short_with_the_number_of_the_rest(self, damaged):
        edit_tensors(damaged / "llm", lambda name, tensor: tensor if name == "lm_head.weight" else None)
        with pytest.raises(ValueError, match=r"missing: model.language_model.embed_tokens.weight(.|\n)*and 6 more"):
            OmniVinciForConditionalGeneration.from_pretrained(damaged)

    @pytest.mark.parametrize("part", COMPONENTS)
    def test_missing_weights_name_component_and_files(self, damaged, part):
        (damaged / part / "model.safetensors").unlink()
        with pytest.raises(
            ValueError, match=f"has no {part}/model.safetensors nor {part}/model.safetensors.index.json"
        ):
            OmniVinciForConditionalGeneration.from_pretrained(damaged)

    def test_missing_folder_names_component_and_needed_ones(self, damaged):
        shutil.rmtree(damaged / "sound_tower")
        with pytest.raises(ValueError, match="has no sound_tower/model.safetensors .* llm, vision_tower, mm_projector"):
            OmniVinciForConditionalGeneration.from_pretrained(damaged)

    def test_missing_shard_is_named(self, tmp_path):
        folder = write_tiny_checkpoint(tmp_path / "sharded", shards=3)
        (folder / "llm" / "model-00002-of-00003.safetensors").unlink()
        message = r"lacks the shards \['model-00002-of-00003.safetensors'\] that llm/model.safetensors.index.json names"
        with pytest.raises(ValueError, match=message):
            OmniVinciForConditionalGeneration.from_pretrained(folder)

    def test_a_config_of_other_sizes_names_the_tensors(self, damaged):
        values = json.loads((damaged / "llm" / "config.json").read_text())
        values["vocab_size"] = 500
        (damaged / "llm" / "config.json").write_text(json.dumps(values))
        with pytest.raises(ValueError, match=r"misshapen: lm_head.weight is \(480, 64\), expected \(500, 64\)"):
            OmniVinciForConditionalGeneration.from_pretrained(damaged)


class TestMismatchedSizes:
    @pytest.fixture
    def folders(self, damaged, checkpoint, tmp_path):
        """Both layouts, whose configurations have another intermediate size than their weights."""
        converted = convert_checkpoint(checkpoint, tmp_path / "converted")
        for file, part in ((damaged / "llm" / "config.json", None), (converted / "config.json", "text_config")):
            values = json.loads(file.read_text())
            (values if part is None else values[part])["intermediate_size"] = 96
            file.write_text(json.dumps(values))
        return damaged, converted

    def test_they_are_made_anew_as_in_the_ordinary_layout(self, folders, model):
        options = {"ignore_mismatched_sizes": True, "output_loading_info": True}
        (original, info), (ordinary, expected) = (
            OmniVinciForConditionalGeneration.from_pretrained(folder, **options) for folder in folders
        )
        assert set(info["mismatched_keys"]) == set(expected["mismatched_keys"]) and len(info["mismatched_keys"]) == 6
        assert not info["missing_keys"] and not info["unexpected_keys"]
        mismatched = {name for name, *_ in info["mismatched_keys"]}
        for name, tensor in original.state_dict().items():
            assert tensor.shape == ordinary.state_dict()[name].shape
            assert torch.isfinite(tensor).all()
            assert name in mismatched or torch.equal(tensor, model.state_dict()[name]), name

    def test_missing_tensors_are_an_error_all_the_same(self, folders):
        edit_tensors(folders[0] / "sound_tower", lambda name, tensor: None if name == "conv1.bias" else tensor)
        with pytest.raises(ValueError, match="missing: model.audio_tower.conv1.bias"):
            OmniVinciForConditionalGeneration.from_pretrained(folders[0], ignore_mismatched_sizes=True)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ({"torch_dtype": "torch.float16"}, torch.float16),
        ({"torch_dtype": None, "model_dtype": "torch.bfloat16"}, torch.bfloat16),
        ({"torch_dtype": "float16", "model_dtype": "torch.bfloat16"}, torch.float16),
        ({"torch_dtype": None, "model_dtype": None}, torch.float32),
    ],
)
def test_dtype_is_that_of_the_main_file(damaged, values, dtype):
    config = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps({**config, **values}))
    assert OmniVinciForConditionalGeneration.from_pretrained(damaged).dtype == dtype


def test_without_a_dtype_in_the_config_that_of_the_files_is_taken(checkpoint, tmp_path):
    folder = tmp_path / "untyped"
    shutil.copytree(checkpoint, folder)
    config = json.loads((folder / "config.json").read_text())
    del config["torch_dtype"]
    (folder / "config.json").write_text(json.dumps(config))
    assert OmniVinciForConditionalGeneration.from_pretrained(folder).dtype == torch.float32


def test_damaged_weights_are_named(checkpoint, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(checkpoint, folder)
    (folder / "sound_tower" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="sound_tower/model.safetensors is damaged"):
        OmniVinciForConditionalGeneration.from_pretrained(folder)


def test_a_folder_without_tokenizer_is_refused(checkpoint, tmp_path):
    folder = tmp_path / "mute"
    shutil.copytree(checkpoint, folder)
    for name in ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json"):
        (folder / "llm" / name).unlink()
    with pytest.raises(ValueError, match="has no usable tokenizer in its folder llm"):
        OmniVinciForConditionalGeneration.from_pretrained(folder)
