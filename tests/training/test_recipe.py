import pytest
import torch

from omnivinci_hf import OmniVinciProcessor
from omnivinci_hf.training import (
    OmniVinciDataCollator,
    Recipe,
    apply_recipe,
    load_recipe,
    recipe_names,
)
from omnivinci_hf.training.recipe import LORA, PART_PREFIXES, part_of
from omnivinci_hf.training.run import StageOptions, load_model
from tests.support.training_data import ALIGN, ROWS, load, make_trainer


# what the paper's stages train, written down a second time
LEARNS = {
    "vision-projector-alignment": {"vision_projector"},
    "vision-encoder-alignment": {"vision_tower", "vision_projector"},
    "vision-pretraining": {"vision_projector", "language_model"},
    "image-instruction-tuning": {"vision_tower", "vision_projector", "language_model"},
    "video-instruction-tuning": {"vision_tower", "vision_projector", "language_model"},
    "audio-alignment": {"audio_tower", "audio_projector"},
    "audio-instruction-tuning": {"audio_tower", "audio_projector", "language_model"},
    "omni-implicit": {"vision_projector", "audio_projector", "language_model", "omni_align_net"},
    "omni-explicit": {"vision_projector", "audio_projector", "language_model", "omni_align_net"},
    "lora": {"lora", "vision_projector", "audio_projector"},
    "qlora": {"lora", "vision_projector", "audio_projector"},
    "grpo": {"vision_projector", "audio_projector", "language_model"},
    "grpo-lora": {"lora", "vision_projector", "audio_projector"},
}


def own_name(name: str) -> str:
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def test_every_stage_of_the_paper_has_a_recipe():
    assert set(recipe_names()) == set(LEARNS)


@pytest.mark.parametrize("name", sorted(set(LEARNS) - {"qlora"}))
def test_a_recipe_changes_exactly_what_it_names(name, tmp_path):
    recipe = load_recipe(name)
    assert set(recipe.learning_rates) == LEARNS[name]
    time = {"type": "learned", "max_time": 4.0, "num_time_bins": 8}
    # two queries, for a single one has nothing to choose from in self-attention: its q_proj and k_proj learn nothing
    model, processor = load(omni_align_config={**ALIGN, "num_queries": 2})
    model = rebuild(model, video_time_embedding=time, audio_time_embedding=time)
    never = {key for key, value in model.named_parameters() if not value.requires_grad}
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    trained = apply_recipe(model, recipe)
    # a batch that every part of the model has a share in; two steps, as LoRA's first factor learns nothing in the first
    make_trainer(trained, processor, recipe, tmp_path, max_steps=2, learning_rate=1.0).train()
    changed, adapted = set(), set()
    for key, value in trained.named_parameters():
        if part_of(key) == LORA:
            adapted.add(key)
            continue
        plain = own_name(key).replace(".modules_to_save.default.", ".")
        if ".original_module." in plain or not torch.equal(value.detach(), before[plain]):
            if ".original_module." in plain:
                assert torch.equal(value.detach(), before[plain.replace(".original_module.", ".")]), key
            else:
                changed.add(plain)
    assert bool(adapted) == (LORA in recipe.learning_rates)
    expected = {key for key in before if part_of(key) in recipe.learning_rates} - never
    unchanged = {key for key in expected - changed}
    # a key's bias shifts all scores alike, an unread word has no gradient of its own: these learn nothing by nature
    assert {key for key in unchanged if not key.endswith("k_proj.bias")} == set()
    assert changed <= expected
    learning = {own_name(key).replace(".modules_to_save.default.", ".") for key, value in trained.named_parameters()
                if value.requires_grad and part_of(key) != LORA}  # fmt: skip
    assert learning == expected


def rebuild(model, **options):
    """The same model with other options, whatever new weights they need at random."""
    config = type(model.config)(**{**model.config.to_dict(), **options})
    torch.manual_seed(0)
    other = type(model)(config)
    other.load_state_dict(model.state_dict(), strict=False)
    return other


def test_every_part_has_the_rate_of_the_recipe(tmp_path):
    model, processor = load()
    recipe = load_recipe("audio-instruction-tuning")
    trainer = make_trainer(apply_recipe(model, recipe), processor, recipe, tmp_path, weight_decay=0.1)
    optimizer = trainer.create_optimizer()
    names = {id(value): name for name, value in model.named_parameters()}
    for group in optimizer.param_groups:
        parts = {part_of(names[id(value)]) for value in group["params"]}
        assert len(parts) == 1 and group["lr"] == recipe.learning_rates[parts.pop()]
        shrinking = {names[id(value)].endswith("bias") or "norm" in names[id(value)] for value in group["params"]}
        assert shrinking == {group["weight_decay"] == 0}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == sum(
        value.requires_grad for value in model.parameters()
    )


def test_frozen_towers_stay_in_evaluation_mode_while_training(tmp_path):
    model, processor = load()
    recipe = load_recipe("vision-pretraining")
    make_trainer(apply_recipe(model, recipe), processor, recipe, tmp_path).train()
    assert model.training and not model.model.vision_tower.training and not model.model.audio_tower.training


def test_a_stage_adds_the_omni_align_net_that_a_checkpoint_lacks(original_folder):
    model = load_model(load_recipe("omni-implicit"), StageOptions(str(original_folder), data="-"))
    assert model.model.omni_align_net is not None


def test_the_net_of_a_checkpoint_is_kept(tmp_path):
    model, _ = load(omni_align_config=ALIGN)
    model.save_pretrained(tmp_path)
    again = load_model(load_recipe("omni-explicit"), StageOptions(str(tmp_path), data="-"))
    assert torch.equal(again.model.omni_align_net.vision.query, model.model.omni_align_net.vision.query)


def test_qlora_trains_over_four_bits(tmp_path, original_folder):
    pytest.importorskip("bitsandbytes")
    recipe = load_recipe("qlora")
    model = load_model(recipe, StageOptions(str(original_folder), data="-", dtype="float32"))
    packed = {name: value.clone() for name, value in model.named_parameters() if value.dtype == torch.uint8}
    assert packed and all("language_model" in name for name in packed)
    processor = OmniVinciProcessor.from_pretrained(original_folder, num_frames=2)
    model = apply_recipe(model, recipe)
    trainer = make_trainer(model, processor, recipe, tmp_path, rows=ROWS[:3], max_steps=2)
    trainer.train()
    after = {own_name(name): value for name, value in model.named_parameters()}
    assert all(torch.equal(after[name], value) for name, value in packed.items())
    assert any(value.abs().sum() > 0 for name, value in model.named_parameters() if ".lora_B." in name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learn: {language_model: 1.0e-4}", "the key `learn` is called `learning_rates` now"),
        ("learning_rates: {}", "lets nothing learn; name .* in `learning_rates`"),
        ("learning_rates: {eyes: 1e-3}", r"`learning_rates` has no \['eyes'\]"),
        ("learning_rates: {language_model: -1.0}", "must be more than 0"),
        ("learning_rates: {lora: 1.0e-4}", "`lora` and `learning_rates.lora`"),
        ("learning_rates: {language_model: 1.0e-4}\nquantization: nf4", "quantized weights cannot learn"),
        ("learning_rates: {lora: 1.0e-4}\nlora: {r: 4}\nquantization: fp3", "must be one of"),
        ("learning_rates: {language_model: 1.0e-4}\nrates: 3", r"unknown keys \['rates'\]"),
        ("learning_rates: {language_model: 1.0e-4}\narguments: 3", "`arguments` must be a mapping"),
        ("learning_rates: {language_model: 1.0e-4}\narguments: {learning_rate: 1.0}", "stand in `learning_rates`"),
        ("- 3", "must be a mapping with `learning_rates`"),
        ("learning_rates: [", "is no YAML"),
    ],
)
def test_a_wrong_recipe_says_what_is_wrong(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_recipe(tmp_path / "mine.yaml")


def test_an_unknown_recipe_names_the_known_ones():
    with pytest.raises(ValueError, match="There is no recipe 'mine'; there are audio-alignment"):
        load_recipe("mine")


def test_a_recipe_for_a_part_that_is_not_there_is_an_error():
    model, _ = load()
    with pytest.raises(ValueError, match="trains 'omni_align_net', but this model has no such weights"):
        apply_recipe(model, load_recipe("omni-implicit"))


def test_a_recipe_of_ones_own(tmp_path):
    (tmp_path / "mine.yaml").write_text("learning_rates: {audio_projector: 1.0e-3}\narguments: {weight_decay: 0.1}\n")
    recipe = load_recipe(tmp_path / "mine.yaml")
    assert recipe == Recipe(name="mine", learning_rates={"audio_projector": 1e-3}, arguments={"weight_decay": 0.1})


def test_rates_without_a_point_are_numbers(tmp_path):
    (tmp_path / "mine.yaml").write_text("learning_rates: {audio_projector: 1e-3}\n")
    assert load_recipe(tmp_path / "mine.yaml").learning_rates == {"audio_projector": 1e-3}


def test_options_that_peft_does_not_know_are_named():
    recipe = Recipe("mine", learning_rates={"lora": 1e-3}, lora={"rr": 4, "target_modules": ".*q_proj"})
    with pytest.raises(ValueError, match="rr"):
        apply_recipe(load()[0], recipe)


def test_an_adapter_cannot_add_an_omni_align_net(original_folder):
    recipe = Recipe("mine", learning_rates={"lora": 1e-3}, lora={"r": 4}, omni_align_config={})
    with pytest.raises(ValueError, match="which an adapter cannot hold"):
        load_model(recipe, StageOptions(str(original_folder), data="-"))


def test_the_weight_of_the_loss_can_change_but_not_the_sizes(tmp_path):
    load(omni_align_config=ALIGN)[0].save_pretrained(tmp_path)
    parts = {"learning_rates": {"omni_align_net": 1e-3}}
    recipe = Recipe("mine", **parts, omni_align_config={"loss_weight": 0.1})
    model = load_model(recipe, StageOptions(str(tmp_path), data="-"))
    assert model.config.omni_align_config.loss_weight == 0.1 and model.config.omni_align_config.embed_dim == 16
    with pytest.raises(ValueError, match="has another OmniAlignNet"):
        load_model(Recipe("mine", **parts, omni_align_config={"embed_dim": 64}), StageOptions(str(tmp_path), data="-"))


def test_vision_stages_do_not_hear():
    for name in recipe_names():
        recipe = load_recipe(name)
        hears = recipe.processor_options.get("load_audio_from_video", True)
        assert hears == (not name.startswith(("vision", "image", "video")))


def test_weights_are_full_precision_except_below_an_adapter(tmp_path):
    load()[0].to(torch.bfloat16).save_pretrained(tmp_path)
    options = StageOptions(str(tmp_path), data="-")
    assert load_model(load_recipe("omni-implicit"), options).dtype == torch.float32
    assert load_model(load_recipe("lora"), options).dtype == torch.bfloat16


def test_projectors_may_be_more_exact_than_their_towers(tmp_path):
    model, processor = load()
    model.to(torch.bfloat16)
    for part in (model.model.vision_projector, model.model.audio_projector):
        part.float()
    loss = model(**OmniVinciDataCollator(processor)(ROWS)).loss
    loss.backward()
    assert model.model.vision_projector.linear_1.weight.grad.dtype == torch.float32


def test_parts_cover_the_whole_model():
    model, _ = load(omni_align_config=ALIGN)
    assert {part_of(name) for name, _ in model.named_parameters()} == set(PART_PREFIXES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("3", "`processor_options` must be a mapping"),
        (
            "{num_frmes: 3}",
            r"'mine': .* \['num_frmes'\] \(did you mean num_frames\?\)",
        ),
        ("{videos_kwargs: {fpss: 3}}", r"\['fpss'\] \(did you mean fps\?\)"),
        (
            "{num_frames: 0}",
            "'mine': `processor_options.num_frames` must be at least 1",
        ),
        (
            "{load_audio_from_video: maybe}",
            "`processor_options.load_audio_from_video` must",
        ),
        ("{max_length: 9}", r"cannot have \['max_length'\], which the collator sets"),
        ("{return_tensors: np}", r"cannot have \['return_tensors'\]"),
    ],
)
def test_options_of_the_processor_are_checked_when_a_recipe_is_loaded(tmp_path, options, message):
    (tmp_path / "mine.yaml").write_text(f"learning_rates: {{language_model: 1.0e-4}}\nprocessor_options: {options}")
    with pytest.raises(ValueError, match=message):
        load_recipe(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"learning_rates": {"omni_align_net": 1e-3}}, "rewards do not train an OmniAlignNet"),
        ({"learning_rates": {"lora": 1e-3}, "lora": {}, "quantization": "nf4"}, "do not train above quantized weights"),
        ({"learning_rates": {"language_model": 1e-3}, "rewards": ["exact"]}, "`rewards` must be a mapping"),
    ],
)
def test_what_rewards_cannot_train_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Recipe("mine", **{"rewards": {"exact": 1.0}, **options})
