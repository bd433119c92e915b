import copy

import pytest
from huggingface_hub import ModelCard, ModelCardData

from omnivinci_hf.hub import cards
from omnivinci_hf.omnivinci import checkpoint_files_omnivinci as pushing
from tests.support import goldens


CARD = "README.md"
ORIGINAL = goldens.SMALL / "checkpoint"


@pytest.mark.parametrize("kind", cards.CARD_KINDS)
@pytest.mark.parametrize("base_model", [None, "nvidia/omnivinci", "me/other"])
def test_every_template_renders(kind, base_model):
    card = cards.render_model_card(
        kind, "me/mine", base_model=base_model, num_parameters=8_700_000_000, tags=["mine"], datasets=["me/data"]
    )
    again = ModelCard(card.content).data
    assert again.library_name == ("peft" if kind == "adapter" else "transformers")
    assert again.pipeline_tag == "any-to-any"
    assert again.base_model == base_model and again.datasets == ["me/data"] and "mine" in again.tags
    assert again.license == ("other" if base_model else "unknown")
    if base_model:
        assert again.license_link == f"https://huggingface.co/{base_model}"
    for part in (
        "## Usage",
        "## How it was made",
        "## Limits",
        "## Licence",
        "## Citation",
        "2510.15870",
        "Apache-2.0",
    ):
        assert part in card.text
    assert 'model="me/mine"' in card.text and ("8.7 B parameters" in card.text or kind == "adapter")
    assert ("fine-tuned" in card.text) == (kind == "fine_tuned")
    assert "{{" not in card.content and "None" not in card.content


def test_a_card_of_the_successor_credits_both_papers():
    for kind in ("converted", "derived", "fine_tuned"):
        card = cards.render_model_card(kind, "me/mine", base_model="nvidia/nemotron-labs-audio-visual-flamingo-hf")
        assert "audio-visual-flamingo-hf) (Audio-Visual Flamingo, [arXiv 2607.16107](" in card.text
        citation = card.text.partition("## Citation")[2]
        assert "arXiv:2510.15870" in citation and "arXiv:2607.16107" in citation
    assert "2607.16107" not in cards.render_model_card("derived", "me/mine", base_model="nvidia/omnivinci").text


def test_a_licence_can_be_given():
    card = cards.render_model_card("small", "me/mine", license="apache-2.0", training="On ten clips.")
    assert card.data.license == "apache-2.0" and "On ten clips." in card.text


def test_an_unknown_kind_of_card_is_refused():
    with pytest.raises(ValueError, match="`kind` must be one of"):
        cards.render_model_card("big", "me/mine")


def test_only_an_untouched_placeholder_is_replaced(model, tmp_path):
    placeholder = ModelCard.from_template(
        ModelCardData(tags=["mine"], library_name="transformers"), model_description=pushing.EMPTY_CARD
    )
    path = tmp_path / CARD
    for own in (placeholder.content + "\nMy words.\n", placeholder.content.replace("tags:", "license: mit\ntags:")):
        path.write_text(own)
        pushing.complete_model_card(tmp_path, "me/mine", model)
        assert path.read_text() == own
    placeholder.save(path)
    pushing.complete_model_card(tmp_path, "me/mine", model)
    assert "A small checkpoint" in path.read_text() and "mine" in ModelCard.load(path).data.tags


def test_without_the_package_no_empty_card_hides_a_written_one(model, tmp_path, monkeypatch):
    """A copy of the code has no templates: a model keeps the empty card, unless the branch has a better one."""
    monkeypatch.setattr(pushing.HOOKS, "model_cards", None)
    placeholder = ModelCard.from_template(ModelCardData(), model_description=pushing.EMPTY_CARD)
    written = ModelCard("---\nlicense: mit\n---\n\nMy words.\n")
    path = tmp_path / CARD
    pushing.complete_model_card(tmp_path, "me/mine", model)
    assert not path.exists()
    for pushed, one, is_kept in (
        (placeholder, model, True),
        (None, model, True),
        (written, model, False),
        (None, None, False),
    ):
        placeholder.save(path)
        monkeypatch.setattr(pushing, "pushed_card", lambda *args, card=pushed: card)
        pushing.complete_model_card(tmp_path, "me/mine", one, revision="draft")
        assert path.exists() == is_kept
    written.save(path)
    pushing.complete_model_card(tmp_path, "me/mine", None)
    assert "My words." in path.read_text()


def test_templates_are_found_without_links_in_the_checkout(tmp_path):
    """In a checkout that was unpacked from a ZIP file or lies on Windows, the link is a file."""
    hub = tmp_path / "src" / "omnivinci_hf" / "hub"
    hub.mkdir(parents=True)
    assert cards.find_templates(hub) == tmp_path / "model_cards"
    (hub / "model_cards").write_text("../../../model_cards")
    assert cards.find_templates(hub) == tmp_path / "model_cards"
    (hub / "model_cards").unlink()
    (hub / "model_cards").mkdir()
    assert cards.find_templates(hub) == hub / "model_cards"


def test_only_an_untouched_placeholder_of_peft_is_replaced(model, tmp_path):
    peft = pytest.importorskip("peft")
    tuned = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(target_modules=r".*language_model.*q_proj"))
    tuned.create_or_update_model_card(tmp_path)
    card = ModelCard.load(tmp_path / CARD)
    assert pushing.is_placeholder(card)
    card.text += "\nMy words.\n"
    assert not pushing.is_placeholder(card)


def test_the_base_model_is_named_where_it_is_on_the_hub(model, monkeypatch):
    monkeypatch.setattr(model, "name_or_path", "me/base")
    card = cards.card_of_model(model, "me/mine")
    assert card.data.base_model == "me/base" and "loaded from [me/base]" in card.text
    assert "A fine-tuned OmniVinci model" in cards.card_of_model(model, "me/mine", training="On ten clips.").text
    assert cards.card_of_model(model, "me/base").data.base_model is None
    assert cards.hub_id(str(ORIGINAL)) is None and cards.hub_id(None) is None


def test_weights_that_were_only_pushed_are_not_called_fine_tuned(model, monkeypatch):
    card = cards.card_of_model(model, "me/mine").text
    assert "A small checkpoint" in card and "fine-tuned" not in card
    monkeypatch.setattr(model, "num_parameters", lambda: 8_700_000_000)
    for base in (str(ORIGINAL), "nvidia/omnivinci"):
        monkeypatch.setattr(model, "name_or_path", base)
        card = cards.card_of_model(model, "me/mine").text
        assert "fine-tuned" not in card and "does not show whether its weights were changed" in card


def test_a_quantized_model_says_so(model, monkeypatch):
    monkeypatch.setattr(model, "name_or_path", "nvidia/omnivinci")
    monkeypatch.setattr(model.config, "quantization_config", {"quant_method": "bitsandbytes"}, raising=False)
    assert cards.card_of_model(model, "me/mine").data.base_model_relation == "quantized"
