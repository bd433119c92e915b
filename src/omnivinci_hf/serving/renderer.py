"""This module turns chats into prompts for vLLM, and refuses prompts whose placeholders and media do not match."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from vllm import envs
from vllm.renderers.hf import HfRenderer

from ..omnivinci.configuration_omnivinci import MODALITIES
from ..omnivinci.conversation_omnivinci import NESTED_TYPES, clean_words, template_variables
from .connector import refuse_io_options
from .media import list_media
from .options import check_request_options
from .plugin import MODE


TEXT_KEYS = ("text", "thinking", "refusal")  # of a content part, which hold words
PART_KEYS = ("type", "uuid")  # of a content part with a medium, beside the key that holds it
MEDIUM_KEYS = ("url", "data", "format", "detail")  # within that


class OmniVinciRenderer(HfRenderer):
    """This renderer writes chats with the processor's template, in either layout of the checkpoint.

    Placeholders of media in the words of a chat are removed, as the processor does.
    """

    def __init__(self, config: Any, tokenizer: Any):
        super().__init__(config, tokenizer)
        if envs.VLLM_MEDIA_CONNECTOR == "http":  # vLLM's own, which decodes media
            os.environ["VLLM_MEDIA_CONNECTOR"] = MODE
        self._processor = self.get_mm_processor().info.get_hf_processor()

    def render_messages(self, messages: Iterable[Any], params: Any) -> Any:
        """Writes the prompt of a chat and fetches its media."""
        return super().render_messages([clean_message(message) for message in messages], self._with_template(params))

    async def render_messages_async(self, messages: Iterable[Any], params: Any) -> Any:
        """Writes the prompt of a chat and fetches its media."""
        messages = [clean_message(message) for message in messages]
        return await super().render_messages_async(messages, self._with_template(params))

    def _with_template(self, params: Any) -> Any:
        """Returns the parameters of a chat with the processor's template, unless another one was given."""
        template = params.chat_template or self._processor.chat_template
        if params.chat_template_kwargs.get("tools") and "tools" not in template_variables(template):
            raise ValueError(
                "The chat template has no place for `tools`, so the model would not see them: leave them out."
            )
        if params.chat_template is None:
            params = replace(params, chat_template=template, chat_template_content_format="openai")
        return params

    def _process_tokens(self, prompt: Any, **kwargs: Any) -> Any:
        self._check(prompt)
        return super()._process_tokens(prompt, **kwargs)

    async def _process_tokens_async(self, prompt: Any, **kwargs: Any) -> Any:
        self._check(prompt)
        return await super()._process_tokens_async(prompt, **kwargs)

    def _check(self, prompt: Mapping[str, Any]) -> None:
        """Refuses options that a request cannot have, and placeholders that do not match the media.

        vLLM has words without media pass the processor by, so that a placeholder in them would reach the model.
        """
        check_request_options(prompt.get("mm_processor_kwargs"))
        refuse_io_options(prompt.get("media_io_kwargs"))
        media, ids = prompt.get("multi_modal_data") or {}, list(prompt["prompt_token_ids"])
        for modality in MODALITIES:
            data = media.get(modality)
            num_media = 0 if data is None else len(list_media(modality, data))
            num_placeholders = ids.count(getattr(self._processor, f"{modality}_token_id"))
            if num_placeholders != num_media:
                token = getattr(self._processor, f"{modality}_token")
                raise ValueError(
                    f"Got {num_placeholders} {token!r} placeholders in the prompt but {num_media} {modality} inputs; "
                    "they must match 1:1. A chat (/v1/chat/completions) has its placeholders put where its media stand."
                )


def clean_message(message: Any) -> Any:
    """Removes placeholders of media from the words of a message, and refuses options in its parts.

    Raises:
        ValueError: for a key of a content part that nothing obeys.
    """
    if not isinstance(message, Mapping) or message.get("content") is None:
        return message
    content = message["content"]
    parts = clean_words(content) if isinstance(content, str) else [_clean_part(part) for part in content]
    return {**message, "content": parts}


def _clean_part(part: Any) -> Any:
    if isinstance(part, str):
        return clean_words(part)
    if not isinstance(part, Mapping):
        return part
    part = dict(part)
    part.update({key: clean_words(part[key]) for key in TEXT_KEYS if isinstance(part.get(key), str)})
    holder = next((name for name in NESTED_TYPES if name in part), None)
    if holder is None:
        return part
    inside = part[holder] if isinstance(part[holder], Mapping) else {}
    given = {**part, **inside}
    others = given.keys() - {*PART_KEYS, *MEDIUM_KEYS, holder}
    if given.get("detail") not in (None, "auto"):
        others = {*others, "detail"}
    if refused := sorted(name for name in others if given[name] is not None):
        raise ValueError(
            f"A content part with `{holder}` cannot have {refused}; options of media stand in `mm_processor_kwargs` of "
            "the request."
        )
    return part
