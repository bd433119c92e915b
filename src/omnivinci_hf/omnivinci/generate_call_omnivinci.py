"""This module calls `generate` for a session and a pipeline: it checks and completes the options, and takes new ids."""

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from transformers import GenerationConfig

from .generation_omnivinci import context_length
from .options_omnivinci import refuse_unknown


DEFAULT_MAX_NEW_TOKENS = 256
GENERATE_ARGUMENTS = ("tokenizer", "assistant_tokenizer", "trust_remote_code")  # `generate` takes them without a name


def bare_model(model):
    """Finds the model itself, where adapters of PEFT are wrapped around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def check_parts(model, processor) -> None:
    """Raises TypeError for a model or a processor of another class."""
    bare = bare_model(model)
    if not hasattr(bare, "generate") or not hasattr(getattr(bare, "model", None), "embed_inputs"):
        raise TypeError(
            f"`model` must be an OmniVinciForConditionalGeneration, got a {type(bare).__name__}: load it with "
            "`AutoModel.from_pretrained`."
        )
    if not hasattr(processor, "call_option_names"):
        raise TypeError(
            f"`processor` must be an OmniVinciProcessor, got a {type(processor).__name__}: load it with "
            "`AutoProcessor.from_pretrained`."
        )


def check_generate_options(
    taker: str,
    model,
    options: Mapping[str, Any],
    more_names: set[str] | None = None,
    error: type[Exception] = ValueError,
) -> None:
    """Refuses what `generate` would refuse only after all media are read.

    Args:
        taker: who takes the options, in the words of the error.
        more_names: names that it takes beside those of `generate`, for the error to propose them.
    """
    if options.get("custom_generate") is not None:
        return  # that knows what it takes
    bare = bare_model(model)
    taken = (inspect.signature(function).parameters for function in (bare.generate, bare.forward))
    names = {*GENERATE_ARGUMENTS, *vars(GenerationConfig()), *(more_names or ())}.union(*taken)
    refuse_unknown(taker, options, names, error)


def generate_settings(model, options: Mapping[str, Any]) -> dict[str, Any]:
    """Merges the settings that `generate` will go by: the checkpoint's, a given config's, and those of the call."""
    given = options.get("generation_config")
    return {
        **model.generation_config.to_diff_dict(),
        **({} if given is None else given.to_diff_dict()),
        **options,
    }


def complete_options(model, processor, options: Mapping[str, Any], num_tokens: int) -> dict[str, Any]:
    """Completes options of `generate` with an end where nobody has set one: 256 tokens, or where the context ends."""
    options, settings = dict(options), generate_settings(model, options)
    if settings.get("stop_strings") is not None:
        options.setdefault("tokenizer", processor.tokenizer)
    if settings.get("max_new_tokens") is None and settings.get("max_length") is None:
        room = context_length(bare_model(model).config.get_text_config()) - num_tokens
        num_new = max(1, min(DEFAULT_MAX_NEW_TOKENS, room))
        if (given := options.get("generation_config")) is None:
            options["max_new_tokens"] = num_new
        else:
            options["generation_config"] = copy.deepcopy(given)
            options["generation_config"].max_new_tokens = num_new
    return options


def new_ids(model, processor, inputs: Mapping[str, Any], options: Mapping[str, Any]) -> torch.Tensor:
    """Generates: the ids `(num_sequences, num_new_tokens)` that `generate` adds to its inputs."""
    inputs = dict(inputs)
    if "attention_mask" not in inputs:
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    options = complete_options(model, processor, options, int(inputs["attention_mask"].sum(-1).max()))
    output = model.generate(**inputs, **options)
    output = output if isinstance(output, torch.Tensor) else output.sequences
    return output[:, inputs["input_ids"].shape[1] :]
