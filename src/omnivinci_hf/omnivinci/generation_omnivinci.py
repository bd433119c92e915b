"""This module generates answers with media: encoded once, continued from a cache, repeated for beams, prefilled in
chunks."""

import torch
from transformers import GenerationMixin, PreTrainedConfig
from transformers.utils import is_torchdynamo_compiling

from .configuration_omnivinci import MEDIA_INPUTS, PAIR_INPUTS
from .outputs_omnivinci import CACHE, the_cache


class OmniVinciGenerationMixin(GenerationMixin):
    """A model with it generates; its `model.embed_inputs` puts media into the word embeddings."""

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
        """As usual, and: a conversation may be continued from a kept cache.

        `generate` then takes the ids and mask of the whole conversation and the cache of its beginning. Media
        that are in the cache may be given again or left out; they are not put into place again, and not even encoded
        unless new media of their kind came along. Or it takes the new ids alone, with new media alone, and the mask
        of the whole conversation.
        """
        for name in PAIR_INPUTS:
            kwargs.pop(name, None)
        kwargs.update(the_cache(cache, past_key_values))
        cache, new_length = kwargs[CACHE], kwargs.get("next_sequence_length")
        if inputs_embeds is None and new_length == input_ids.shape[1]:
            is_first_iteration = True  # also an assistant's, which Transformers says of none
        if is_first_iteration and new_length is None and cache is not None and (cached := int(cache.get_seq_length())):
            # assisted decoding does not say what is new
            new_length = kwargs["next_sequence_length"] = input_ids.shape[1] - cached
        if is_first_iteration and inputs_embeds is None and cache is not None and new_length is not None:
            media = {name: kwargs.pop(name) for name in MEDIA_INPUTS if kwargs.get(name) is not None}
            past_length = input_ids.shape[1] - new_length
            if past_length > 0:
                inputs_embeds = self.model.embed_inputs(input_ids, **media, past_length=past_length)
            else:
                kwargs.update(media)
        if not is_first_iteration and inputs_embeds is not None and not use_cache:
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

    def _prepare_cache_for_generation(
        self, generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
    ):
        """As usual, once the context has room for what will stand in the cache."""
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
        cache, embeds = model_kwargs.get(CACHE), model_kwargs.get("inputs_embeds")
        if cache is None or not is_first_iteration:
            return super()._prefill(input_ids, generation_config, model_kwargs, is_first_iteration)
        cached, given = int(cache.get_seq_length()), (input_ids if embeds is None else embeds).shape[1]
        mask = model_kwargs.get("attention_mask")
        # some versions keep the length alone of a mask that hides nothing
        whole = (getattr(generation_config, "_mask_length", None) or given) if mask is None else mask.shape[1]
        only_new = bool(cached) and embeds is None and given < whole
        if (num_new := given if only_new else given - cached) < 1:
            raise ValueError(
                f"The cache holds {cached} positions already and {given} were given, so that none is new. Give the ids "
                "of the whole conversation, or the new ones with the `attention_mask` of the whole; or crop the cache."
            )
        if generation_config.prefill_chunk_size is not None:
            return self._prefill_in_chunks(input_ids, generation_config.prefill_chunk_size, num_new, model_kwargs)
        if not only_new:
            return super()._prefill(input_ids, generation_config, model_kwargs, is_first_iteration)
        inputs = self.prepare_inputs_for_generation(
            input_ids, next_sequence_length=num_new, is_first_iteration=True, **model_kwargs
        )
        return self(**inputs, return_dict=True)

    def _prefill_in_chunks(self, input_ids, size: int, num_new: int, model_kwargs):
        """Transformers cuts the ids alone into chunks: with media, the embeddings are cut."""
        media = {name: model_kwargs[name] for name in MEDIA_INPUTS if model_kwargs.get(name) is not None}
        embeds, mask, positions = (
            model_kwargs.get(name) for name in ("inputs_embeds", "attention_mask", "position_ids")
        )
        if embeds is None:
            embeds = self.model.embed_inputs(input_ids, past_length=input_ids.shape[1] - num_new, **media)
        elif media:
            embeds = self.model.embed_inputs(inputs_embeds=embeds, past_length=embeds.shape[1] - num_new, **media)
        kwargs = {name: value for name, value in model_kwargs.items() if name not in MEDIA_INPUTS}
        left = num_new
        for chunk in embeds[:, -num_new:].split(size, dim=1):
            left -= chunk.shape[1]
            kwargs.update(inputs_embeds=chunk, next_sequence_length=chunk.shape[1])
            if mask is not None:
                kwargs["attention_mask"] = mask[:, : mask.shape[1] - left]
            if positions is not None:
                kwargs["position_ids"] = positions[:, : positions.shape[1] - left][:, -chunk.shape[1] :]
            inputs = self.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **kwargs)
            outputs = self(**inputs, return_dict=True)
        return outputs

    def _expand_inputs_for_generation(self, expand_size=1, is_encoder_decoder=False, input_ids=None, **model_kwargs):
        for name in PAIR_INPUTS:
            model_kwargs.pop(name, None)
        # media are flat over the batch and cannot be repeated row by row: encode them once, then repeat the result
        media = {name: model_kwargs.pop(name) for name in MEDIA_INPUTS if model_kwargs.get(name) is not None}
        if expand_size > 1 and media:
            embeds = model_kwargs.get("inputs_embeds")
            ids = input_ids if embeds is None else None
            model_kwargs["inputs_embeds"] = self.model.embed_inputs(ids, inputs_embeds=embeds, **media)
        else:
            model_kwargs.update(media)
        return super()._expand_inputs_for_generation(expand_size, is_encoder_decoder, input_ids, **model_kwargs)


# -- What a call of the model must fulfil beside its shapes: it fits into the context, and what is learned is counted


def refuse(bad: torch.Tensor, words: str) -> None:
    """An error where `bad ()` is True; in a compiled graph, which cannot look at it, the device raises it.

    Raises:
        ValueError: with these words.
    """
    if is_torchdynamo_compiling():
        torch._assert_async(~bad, words)
    elif bad:
        raise ValueError(words)


def context_length(text_config: PreTrainedConfig) -> int:
    """How many positions the language model was made for, scaled rotary embeddings included."""
    limit, rope = text_config.max_position_embeddings, text_config.rope_parameters or {}
    original = rope.get("original_max_position_embeddings", limit)
    return max(limit, int(original * rope.get("factor", 1.0)))


def check_context(num_tokens: int, limit: int, num_new: int = 0, asked_by: str = "max_new_tokens") -> None:
    """Sees to it that a sequence, and the new tokens that an option asks for, have room in the context.

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
    """As `check_context`, for a batch of padded or packed rows; the device is asked only where `length` is above."""
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
    """How many tokens the longest row of a batch has without its padding, and without the rows packed beside it."""
    if position_ids is not None:
        return position_ids.max() + 1
    if attention_mask is not None and attention_mask.ndim == 2:
        return attention_mask.sum(-1).max()
    return length
