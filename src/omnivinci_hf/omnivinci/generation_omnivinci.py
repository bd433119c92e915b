"""This module generates answers about media, and checks what a call of the model must fulfil beside its shapes.

Media are encoded once, whether a conversation is continued from a cache, repeated for beams or prefilled in chunks.
"""

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin, PreTrainedConfig
from transformers.utils import is_torchdynamo_compiling

from .options_omnivinci import refuse_unknown
from .outputs_omnivinci import CACHE, MEDIA_INPUTS, PAIR_INPUTS, the_cache


DEFAULT_MAX_NEW_TOKENS = 256
GENERATE_ARGUMENTS = ("tokenizer", "assistant_tokenizer", "trust_remote_code")  # `generate` takes them without a name


class OmniVinciGenerationMixin(GenerationMixin):
    """A model with this mixin generates; its `model.embed_inputs` puts media into the word embeddings.

    Three private methods of Transformers are overridden, as no public way exists from 5.20 to 5.24; each says why, and
    when it can go.
    """

    model: Any  # it has `embed_inputs`
    config: Any

    def prepare_inputs_for_generation(
        self,
        input_ids,
        inputs_embeds=None,
        is_first_iteration=False,
        use_cache=True,
        cache=None,
        past_key_values=None,
        **kwargs,
    ):
        """Does as usual, and lets a conversation be continued from a kept cache.

        `generate` then takes the ids and mask of the whole conversation and the cache of its beginning. Media
        that are in the cache may be given again or left out; they are not put into place again, and not even encoded
        unless new media of their modality came along. Or it takes the new ids alone, with new media alone, and the mask
        of the whole conversation.
        """
        for name in PAIR_INPUTS:
            kwargs.pop(name, None)
        kwargs.update(the_cache(cache, past_key_values))
        if inputs_embeds is None and kwargs.get("next_sequence_length") == input_ids.shape[1]:
            is_first_iteration = True  # also an assistant's, which Transformers says of none
        if is_first_iteration:
            inputs_embeds = self._continue_from_cache(input_ids, inputs_embeds, kwargs)
        elif inputs_embeds is not None and not use_cache:
            # every step runs the whole sequence: the encoded prompt, then the words that were generated since
            words = self.get_input_embeddings()(input_ids[:, inputs_embeds.shape[1] :])
            inputs_embeds, is_first_iteration = torch.cat((inputs_embeds, words), dim=1), True
        inputs = super().prepare_inputs_for_generation(
            input_ids,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            use_cache=use_cache,
            **kwargs,
        )
        if not is_first_iteration and use_cache:
            # the media are in the cache
            inputs = {name: value for name, value in inputs.items() if name not in MEDIA_INPUTS}
        return inputs

    def _continue_from_cache(
        self, input_ids: torch.Tensor, inputs_embeds: torch.Tensor | None, kwargs: dict[str, Any]
    ) -> torch.Tensor | None:
        """Embeds the new ids, with their media, behind those that are in the cache.

        Takes the media out of `kwargs`, and notes in it how many positions are new. Where nothing is cached, the inputs
        stay as they are.
        """
        cache = kwargs[CACHE]
        if cache is None:
            return inputs_embeds
        num_new = kwargs.get("next_sequence_length")
        if num_new is None and (cached := int(cache.get_seq_length())):
            # assisted decoding does not say what is new
            num_new = kwargs["next_sequence_length"] = input_ids.shape[1] - cached
        if inputs_embeds is not None or num_new is None or num_new >= input_ids.shape[1]:
            return inputs_embeds
        return self.model.embed_inputs(input_ids, past_length=input_ids.shape[1] - num_new, **_pop_media(kwargs))

    def _prepare_cache_for_generation(
        self, generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
    ):
        """Does as usual, once the context has room for what will stand in the cache.

        Overridden because `generate` only warns of a sequence that is longer than the context, and nothing public sees
        both the prompt's mask and the final options before the model runs. It can go when Transformers refuses it.
        """
        mask, num_new = model_kwargs.get("attention_mask"), generation_config.max_new_tokens or 0
        # some versions keep the length alone of a mask that hides nothing
        whole = getattr(generation_config, "_mask_length", 0) if mask is None else mask.shape[1]
        length, limit = max_cache_length + 1, context_length(self.config.text_config)
        prompt = whole or length - num_new
        length = max(length, prompt + num_new)  # the new ids alone may have been given, after a kept cache
        # padding takes no position
        padding = prompt - int(mask.sum(-1).max()) if mask is not None and length > limit else 0
        asked_by = "max_length" if generation_config.max_new_tokens is None else "max_new_tokens"
        check_context(prompt - padding, limit, length - prompt, asked_by)
        return super()._prepare_cache_for_generation(
            generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
        )

    def _prefill(self, input_ids, generation_config, model_kwargs, is_first_iteration=True):
        """Does as usual; also the new ids alone may be given after a kept cache, and media with `prefill_chunk_size`.

        Overridden because Transformers does not say how many ids are new where it was given those alone, and cuts ids
        into chunks but not media: from 5.24 on it refuses them, unless `forward` takes `mm_encoder_outputs`. The chunks
        can go when that is the lowest version and `forward` does; the rest when `prepare_inputs_for_generation` is
        told what is new.
        """
        cache, embeds = model_kwargs.get(CACHE), model_kwargs.get("inputs_embeds")
        if cache is None or not is_first_iteration:
            return super()._prefill(input_ids, generation_config, model_kwargs, is_first_iteration)
        cached, given = int(cache.get_seq_length()), (input_ids if embeds is None else embeds).shape[1]
        mask = model_kwargs.get("attention_mask")
        # some versions keep the length alone of a mask that hides nothing
        whole = (getattr(generation_config, "_mask_length", None) or given) if mask is None else mask.shape[1]
        is_new_alone = bool(cached) and embeds is None and given < whole
        num_new = given if is_new_alone else given - cached
        if num_new < 1:
            raise ValueError(
                f"The cache holds {cached} positions already and {given} were given, so that none is new. Give the ids "
                "of the whole conversation, or the new ones with the `attention_mask` of the whole; or crop the cache."
            )
        if generation_config.prefill_chunk_size is not None:
            return self._prefill_in_chunks(input_ids, generation_config.prefill_chunk_size, num_new, model_kwargs)
        if not is_new_alone:
            return super()._prefill(input_ids, generation_config, model_kwargs, is_first_iteration)
        inputs = self.prepare_inputs_for_generation(
            input_ids, next_sequence_length=num_new, is_first_iteration=True, **model_kwargs
        )
        return self(**inputs, return_dict=True)  # type: ignore[operator]  # it is mixed into a module

    def _prefill_in_chunks(self, input_ids, size: int, num_new: int, model_kwargs):
        """Runs the prompt `size` positions at a time: with media, its embeddings are cut and not its ids."""
        kwargs = dict(model_kwargs)
        media = _pop_media(kwargs)
        embeds, mask, positions = (kwargs.get(name) for name in ("inputs_embeds", "attention_mask", "position_ids"))
        if embeds is None or media:
            ids, length = (input_ids, input_ids.shape[1]) if embeds is None else (None, embeds.shape[1])
            embeds = self.model.embed_inputs(ids, inputs_embeds=embeds, past_length=length - num_new, **media)
        left = num_new
        for chunk in embeds[:, -num_new:].split(size, dim=1):
            left -= chunk.shape[1]
            kwargs.update(inputs_embeds=chunk, next_sequence_length=chunk.shape[1])
            if mask is not None:
                kwargs["attention_mask"] = mask[:, : mask.shape[1] - left]
            if positions is not None:
                kwargs["position_ids"] = positions[:, : positions.shape[1] - left][:, -chunk.shape[1] :]
            inputs = self.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **kwargs)
            outputs = self(**inputs, return_dict=True)  # type: ignore[operator]  # it is mixed into a module
        return outputs

    def _expand_inputs_for_generation(self, expand_size=1, is_encoder_decoder=False, input_ids=None, **model_kwargs):
        """Repeats each row for beams and for several answers.

        Overridden because media are flat over the batch and cannot be repeated row by row: they are encoded once, then
        the result is repeated. It can go when the lowest version is 5.24, which repeats the `mm_encoder_outputs` of a
        `forward` that takes them.
        """
        for name in PAIR_INPUTS:
            model_kwargs.pop(name, None)
        media = _pop_media(model_kwargs)
        if expand_size > 1 and media:
            embeds = model_kwargs.get("inputs_embeds")
            ids = input_ids if embeds is None else None
            model_kwargs["inputs_embeds"] = self.model.embed_inputs(ids, inputs_embeds=embeds, **media)
        else:
            model_kwargs.update(media)
        return super()._expand_inputs_for_generation(expand_size, is_encoder_decoder, input_ids, **model_kwargs)


def _pop_media(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Takes the media that were given out of `kwargs`."""
    media = {name: kwargs.pop(name, None) for name in MEDIA_INPUTS}
    return {name: value for name, value in media.items() if value is not None}


# -- checks: a call fits into the context, and what is learned is counted ---------------------------------------------


def refuse(bad: torch.Tensor, words: str) -> None:
    """Raises an error where `bad ()` is True; in a compiled graph, which cannot look at it, the device raises it.

    Raises:
        ValueError: with these words.
    """
    if is_torchdynamo_compiling():
        torch._assert_async(~bad, words)
    elif bad:
        raise ValueError(words)


def context_length(text_config: PreTrainedConfig) -> int:
    """Returns how many positions the language model was made for, scaled rotary embeddings included."""
    limit, rope = text_config.max_position_embeddings, text_config.rope_parameters or {}
    original = rope.get("original_max_position_embeddings", limit)
    return max(limit, int(original * rope.get("factor", 1.0)))


def check_context(num_tokens: int, limit: int, num_new: int = 0, asked_by: str = "max_new_tokens") -> None:
    """Checks that a sequence, and the new tokens that an option asks for, have room in the context.

    Raises:
        ValueError: with both numbers, and what can be lowered.
    """
    if num_tokens + num_new <= limit:
        return
    asked = f" and {num_new} new ones are asked for" if num_new else ""
    lower = f"`{asked_by}`, " if num_new else ""
    raise ValueError(
        f"The sequence has {num_tokens} tokens{asked}, but the model's context (`max_position_embeddings`) has room "
        f"for {limit}: lower {lower}`num_frames`, `fps` or `max_audio_sec`, or take a shorter range (`start_sec`, "
        "`end_sec`)."
    )


def check_rows(
    length: int, limit: int, attention_mask: torch.Tensor | None = None, position_ids: torch.Tensor | None = None
) -> None:
    """Does as `check_context` for a batch of padded or packed rows; the device is asked only where `length` is above.

    Raises:
        ValueError: when a row is longer than `limit`.
    """
    if length <= limit:
        return
    longest = longest_row(length, attention_mask, position_ids)
    if isinstance(longest, torch.Tensor) and is_torchdynamo_compiling():
        refuse(longest > limit, f"A row is longer than the context of {limit} tokens.")
    else:
        check_context(int(longest), limit)


def longest_row(
    length: int, attention_mask: torch.Tensor | None, position_ids: torch.Tensor | None
) -> torch.Tensor | int:
    """Counts the tokens of the longest row of a batch, without its padding and without the rows packed beside it."""
    if position_ids is not None:
        return position_ids.max() + 1
    if attention_mask is not None and attention_mask.ndim == 2:
        return attention_mask.sum(-1).max()
    return length


# -- Options of a call of `generate`, which a session and a pipeline check and complete


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
