"""This module loads the tokenizer of an original checkpoint, with the words that the original code adds to it."""

from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2Config

from ..omnivinci.configuration_omnivinci import MEDIA_TOKENS


# The original code adds these to a tokenizer that lacks them, in this order: it marks places of answers with the first.
ADDED_TOKENS = ("<vila/sentinel>", *MEDIA_TOKENS.values())


def media_token_ids(name_or_path: str, folder: str = "llm", **hub_options) -> dict[str, int]:
    """Returns the ids of the media placeholders in the tokenizer, by the names that the config has for them."""
    tokenizer = load_original_tokenizer(name_or_path, folder, **hub_options)
    vocabulary = tokenizer.get_vocab()
    return {name: vocabulary[token] for name, token in MEDIA_TOKENS.items()}


def load_original_tokenizer(name_or_path: str, folder: str = "llm", **hub_options) -> PreTrainedTokenizerBase:
    """Loads the tokenizer beside the language model and adds the words that the original code adds where it lacks them.

    Raises:
        ValueError: when files of the tokenizer are missing.
    """
    subfolder = "/".join(filter(None, (hub_options.pop("subfolder", None), folder)))
    options = {"padding_side": "left", **hub_options}
    if not folder:
        # Transformers would read the config of the whole model to learn this, and that asks for the tokenizer.
        options["config"] = Qwen2Config()
    tokenizer = AutoTokenizer.from_pretrained(name_or_path, subfolder=subfolder, **options)
    known = tokenizer.get_vocab()
    if not {"<|im_start|>", "<|im_end|>"} <= known.keys() or not tokenizer("words")["input_ids"]:
        # Transformers makes an empty tokenizer where files are missing.
        raise ValueError(
            f"{name_or_path} has no usable tokenizer in its folder {folder or '.'}, only {len(known)} tokens. Are "
            "tokenizer.json, "
            "or vocab.json and merges.txt, missing?"
        )
    tokenizer.add_tokens([token for token in ADDED_TOKENS if token not in known], special_tokens=True)
    return tokenizer
