"""This module turns chats into prompts for vLLM, and refuses prompts whose placeholders and media do not match."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub.constants import HF_HUB_CACHE
from PIL import Image
from transformers.utils import logging
from vllm import envs
from vllm.renderers.hf import HfRenderer

from ..omnivinci.checkpoint_files_omnivinci import component_file, is_original_checkpoint
from ..omnivinci.configuration_omnivinci import MODALITIES
from ..omnivinci.conversation_omnivinci import NESTED_TYPES, clean_words, shown, template_variables
from ..omnivinci.media_reading_omnivinci import ReadOptions
from .connector import OmniVinciConnector, refuse_io_options
from .media import list_media
from .options import check_request_options
from .plugin import MODE
from .tokenizer import hub_options


logger = logging.get_logger(__name__)

# the types of content parts with words -> the key that holds them
TEXT_TYPES = {"input_text": "text", "output_text": "text", "text": "text", "thinking": "thinking", "refusal": "refusal"}
# what else such a part may have, of the APIs that send earlier answers back; none of it concerns the prompt
TEXT_KEYS = ("type", "annotations", "cache_control", "closed", "logprobs", "signature")
# the types of content parts with a medium -> the key that holds it
MEDIA_TYPES = {**{name: name for name in NESTED_TYPES}, "input_image": "image_url"}
MEDIUM_KEYS = {name: ("url", "detail") for name in NESTED_TYPES} | {"input_audio": ("data", "format")}
FETCHED = (bytes, Path, Image.Image, type(None))  # what no client can write in JSON


class OmniVinciRenderer(HfRenderer):
    """This renderer writes chats with the processor's template, in either layout of the checkpoint.

    Placeholders of media in the words of a chat are removed, as the processor does.
    """

    def __init__(self, config: Any, tokenizer: Any):
        warn_of_download_dir(config)
        find_generation_config(config)
        super().__init__(config, tokenizer)
        info = self.get_mm_processor().info
        self._processor = info.get_hf_processor()
        given = {name: value for name, value in info.server_options.items() if name in ("media_limits", "timeout_sec")}
        OmniVinciConnector.reading = ReadOptions(**given)

    def render_messages(self, messages: Iterable[Any], params: Any) -> Any:
        """Writes the prompt of a chat and fetches its media."""
        messages = [clean_message(message) for message in messages]
        check_connector(messages)
        conversation, prompt = super().render_messages(messages, self._with_template(params))
        check_fetched(prompt.get("multi_modal_data"))
        return conversation, prompt

    async def render_messages_async(self, messages: Iterable[Any], params: Any) -> Any:
        """Writes the prompt of a chat and fetches its media."""
        messages = [clean_message(message) for message in messages]
        check_connector(messages)
        conversation, prompt = await super().render_messages_async(messages, self._with_template(params))
        check_fetched(prompt.get("multi_modal_data"))
        return conversation, prompt

    def validate_token_ids(self, token_ids: Sequence[int], *, parameter: str | None = None) -> None:
        """Checks that ids are in the vocabulary, and refuses those that a chat has in place of its messages.

        Raises:
            ValueError: for `kv_transfer_params.prompt_token_ids`, which pass all other checks by.
        """
        if parameter is not None:
            raise ValueError(f"`{parameter}` is not supported: send the messages of the chat alone.")
        super().validate_token_ids(token_ids)

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


def warn_of_download_dir(config: Any) -> None:
    """Warns of a folder for downloads that vLLM uses for weights alone."""
    folder = config.load_config.download_dir
    is_local = os.path.isdir(config.model_config.model)
    if folder is not None and not is_local and os.path.realpath(folder) != os.path.realpath(HF_HUB_CACHE):
        logger.warning(
            f"`download_dir`={folder!r} has the weights alone, since vLLM does not use it for tokenizer and processor: "
            "start with the environment variable HF_HUB_CACHE set to it, too; `omnivinci-hf serve` does."
        )


def find_generation_config(config: Any) -> None:
    """Tells vLLM where the original layout has its `generation_config.json`, which names the tokens that end answers.

    Args:
        config: vLLM's whole configuration; a folder that it names already stays.
    """
    settings, options = config.model_config, hub_options(config)
    if settings.generation_config == "auto" and is_original_checkpoint(settings.model, options):
        if file := component_file(settings.model, "llm", "generation_config.json", options):
            settings.generation_config = os.path.dirname(file)


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
    """Removes placeholders from a content part; it passes on nothing that is not known here.

    vLLM takes other types too, and by their keys where a part has a `uuid` or no type: among them such as hold a path.
    """
    if isinstance(part, str):
        return clean_words(part)
    if not isinstance(part, Mapping):
        raise ValueError(f"A content part must be a string or a dictionary, got {shown(part)}.")
    part_type = part.get("type")
    if part_type is None:
        part_type = next((name for name in part if name in NESTED_TYPES), None)
    known_type = part_type if isinstance(part_type, str) else ""
    holder = MEDIA_TYPES.get(known_type)
    part = {name: value for name, value in part.items() if value is not None or name == holder}
    if part_type in ("image_pil", None) and isinstance(part.get("image_pil"), (Image.Image, bytes)):
        return _with_known_keys(part, "image_pil", ("type", "uuid", "image_pil"))  # in Python alone
    if known_type in TEXT_TYPES:
        return _clean_words_of(part, known_type)
    if holder is None:
        known = ", ".join(("text", *NESTED_TYPES))
        raise ValueError(f"A content part has the type {shown(part_type)}; known are {known}.")
    _check_medium(holder, part.get(holder), part.get("uuid"))
    return _with_known_keys(part, holder, ("type", "uuid", "detail", holder))


def _clean_words_of(part: Mapping[str, Any], part_type: str) -> dict[str, Any]:
    """Removes placeholders from a content part with words."""
    key = TEXT_TYPES[part_type]
    if not isinstance(part.get(key), str):
        raise ValueError(f"`{key}` of a content part of type {part_type!r} must be a string.")
    _with_known_keys(part, part_type, (key, *TEXT_KEYS))
    return {**part, key: clean_words(part[key])}


def _check_medium(holder: str, medium: Any, uuid: Any) -> None:
    """Refuses what a content part holds that is neither a URL nor a medium by its UUID alone."""
    key = MEDIUM_KEYS[holder][0]
    if isinstance(medium, Mapping):
        given = {name: value for name, value in medium.items() if value is not None}
        _with_known_keys(given, holder, MEDIUM_KEYS[holder])
        medium = given.get(key)
    if medium is not None and not isinstance(medium, str):
        raise ValueError(f"`{key}` of a content part with `{holder}` must be a string, got {shown(medium)}.")
    if not medium and uuid is None:
        raise ValueError(
            f"A content part with `{holder}` is empty: give its `{key}`, or a `uuid` that was sent before."
        )


def _with_known_keys(part: Mapping[str, Any], holder: str, known: Sequence[str]) -> Any:
    """Returns a part with nothing but what is known; `detail` says nothing if it is "auto"."""
    others = [name for name in part if name not in known or (name == "detail" and part[name] != "auto")]
    if others:
        raise ValueError(
            f"A content part with `{holder}` cannot have {sorted(map(str, others))}; options of media stand in "
            "`mm_processor_kwargs` of the request."
        )
    return part


def check_connector(messages: Iterable[Any]) -> None:
    """Checks that media are fetched by this package: vLLM's own connector would decode them.

    Raises:
        ValueError: for messages with media where the environment names another connector.
    """
    contents = [message.get("content") for message in messages if isinstance(message, Mapping)]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    has_media = any(isinstance(part, Mapping) and part.keys() & NESTED_TYPES.keys() for part in parts)
    if has_media and envs.VLLM_MEDIA_CONNECTOR != MODE:
        raise ValueError(
            f"The media of a chat need the environment variable VLLM_MEDIA_CONNECTOR={MODE}, got "
            f"{envs.VLLM_MEDIA_CONNECTOR!r}: set it before the engine starts; `omnivinci-hf serve` does."
        )


def check_fetched(media: Mapping[str, Any] | None) -> None:
    """Checks that the media of a chat were fetched: what a client wrote must not be taken as a path.

    Raises:
        ValueError: for media that are anything else than bytes.
    """
    for modality, items in (media or {}).items():
        for item in items if isinstance(items, list) else [items]:
            if not isinstance(item, FETCHED):
                raise ValueError(f"The {modality} of a chat must be fetched by its URL, got a {type(item).__name__}.")
