"""This module loads the tokenizer of an original checkpoint, and finds out its chat template and its stop tokens."""

import re
from collections.abc import Mapping
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase, Qwen2Config
from transformers.utils import GENERATION_CONFIG_NAME
from transformers.utils.chat_template_utils import render_jinja_template

from ..omnivinci.checkpoint_files_omnivinci import component_file
from ..omnivinci.configuration_omnivinci import MEDIA_TOKENS
from ..omnivinci.conversation_omnivinci import CHAT_TEMPLATE
from .findings import Findings
from .values import clean_nested, none


# The original code adds these to a tokenizer that lacks them, in this order; it finds the end of a turn by the first.
SENTINEL = "<vila/sentinel>"
ADDED_TOKENS = (SENTINEL, *MEDIA_TOKENS.values())
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
# The original code gives each message to its template as one string. This stands before such a template and makes
# strings of the lists of parts that the processor renders.
JOIN_PARTS = """\
{%- set joined = namespace(messages=[]) %}
{%- for message in messages %}
    {%- set words = namespace(text='') %}
    {%- if message['content'] is string %}
        {%- set words.text = message['content'] %}
    {%- else %}
        {%- for part in message['content'] %}
            {%- if part['type'] == 'image' %}
                {%- set words.text = words.text + '<image>' %}
            {%- elif part['type'] == 'video' %}
                {%- set words.text = words.text + '<vila/video>' %}
            {%- elif part['type'] == 'audio' %}
                {%- set words.text = words.text + '<sound>' %}
            {%- else %}
                {%- set words.text = words.text + part['text'] %}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {%- set joined.messages = joined.messages + [dict(message, content=words.text)] %}
{%- endfor %}
{%- set messages = joined.messages %}
{#- What follows is the template of the checkpoint. #}
"""
SYSTEM, USER, ASSISTANT = (
    {"role": role, "content": f" {role}'s <image> words,\n  on two lines "} for role in ("system", "user", "assistant")
)
# Two templates that render these alike are taken for the same.
PROBES = ([USER], [SYSTEM, USER], [USER, ASSISTANT], [SYSTEM, USER, ASSISTANT, USER])


def media_token_ids(name_or_path: str, folder: str = "llm", **hub_options) -> dict[str, int]:
    """Returns the ids of the media placeholders in the tokenizer, by the names that the config has for them."""
    return placeholder_ids(load_original_tokenizer(name_or_path, folder, **hub_options))


def placeholder_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """As [`media_token_ids`], of a tokenizer that has been loaded."""
    vocabulary = tokenizer.get_vocab()
    return {name: vocabulary[token] for name, token in MEDIA_TOKENS.items()}


def load_original_tokenizer(name_or_path: str, folder: str = "llm", **hub_options) -> PreTrainedTokenizerBase:
    """Loads the tokenizer beside the language model and adds the words that the original code adds where it lacks them.

    Raises:
        ValueError: when files of the tokenizer are missing.
    """
    subfolder = "/".join(filter(None, (hub_options.pop("subfolder", None), folder)))
    options = {"padding_side": "left", **hub_options}
    # With a config at hand Transformers does not read that of the folder, whose values may be of other types.
    tokenizer = AutoTokenizer.from_pretrained(name_or_path, subfolder=subfolder, config=Qwen2Config(), **options)
    known = tokenizer.get_vocab()
    if not {"<|im_start|>", "<|im_end|>"} <= known.keys() or not tokenizer("words")["input_ids"]:
        # Transformers makes an empty tokenizer where files are missing.
        raise ValueError(
            f"{name_or_path} has no usable tokenizer in its folder {folder or '.'}, only {len(known)} tokens. Are "
            "tokenizer.json, or vocab.json and merges.txt, missing?"
        )
    added = [token for token in ADDED_TOKENS if token not in known]
    tokenizer.add_tokens(added, special_tokens=True)
    if added:
        sentence = f"The tokenizer lacks {', '.join(added)}; as in the original code, they are added to it."
        Findings().add("assumed", folder, "tokenizer", added, sentence)  # for whoever collects findings
    return tokenizer


def original_chat_template(
    original: Mapping[str, Any],
    name_or_path: str,
    tokenizer: PreTrainedTokenizerBase,
    hub_options: Mapping[str, Any],
    findings: Findings,
) -> str:
    """Returns the template that the original code would use, in a form that the processor can render.

    It is the `.jinja` file that the main file names, or that of the tokenizer; where it says the same as
    `CHAT_TEMPLATE`, it is that, which also marks the words of the assistant.

    Raises:
        ValueError: when the file is not there.
    """
    name = none(original.get("chat_template"))
    template = stated_chat_template(original, name_or_path, tokenizer, hub_options)
    if not template:
        sentence = "Neither config.json nor the tokenizer has a chat template; that of the original code is assumed."
        findings.add("assumed", "llm", "chat_template", None, sentence)
        return CHAT_TEMPLATE
    if all(_same(template, probe, tokenizer) for probe in PROBES):
        return CHAT_TEMPLATE
    place = "config.json names" if name is not None else "The tokenizer has"
    sentence = f"{place} a chat template that writes other prompts than the usual one; it is used."
    findings.add("unusual", "" if name is not None else "llm", "chat_template", name, sentence)
    return JOIN_PARTS + template


def stated_chat_template(
    original: Mapping[str, Any], name_or_path: str, tokenizer: PreTrainedTokenizerBase, hub_options: Mapping[str, Any]
) -> str | None:
    """Returns the template of the file that the main file names, or that of the tokenizer, as it stands there.

    Raises:
        ValueError: when the file is not there.
    """
    name = none(original.get("chat_template"))
    if name is not None:
        return _template_file(str(name), name_or_path, hub_options)
    template: Any = tokenizer.chat_template
    return template.get("default") if isinstance(template, dict) else template


def original_generation_config(
    values: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, template: str | None, findings: Findings
) -> GenerationConfig:
    """Returns what the original code generates with: greedily, up to the stop tokens that it infers.

    Args:
        values: what llm/generation_config.json holds. Its tokens are taken, the stop tokens where they include those
            that are inferred: the tokenizer's end of text and the template's end of turn. The original code does not
            read the rest.
        template: of the chat, see [`stated_chat_template`]; None is that of the original code.
    """
    values = {key: clean_nested(value) for key, value in values.items() if clean_nested(value) is not None}
    inferred = list(dict.fromkeys([tokenizer.eos_token_id, *_ends_of_turn(template or CHAT_TEMPLATE, tokenizer)]))
    inferred = [token for token in inferred if token is not None]
    if stop_tokens := _stop_tokens(values.get("eos_token_id", []), inferred, findings):
        values["eos_token_id"] = stop_tokens
    for key, value in (("pad_token_id", tokenizer.pad_token_id), ("bos_token_id", tokenizer.bos_token_id)):
        if key not in values and (token := value if value is not None else tokenizer.eos_token_id) is not None:
            values[key] = token
    _note_unused_settings(values, findings)
    return GenerationConfig(**{key: value for key, value in values.items() if key in TOKEN_IDS})


def _stop_tokens(given: Any, inferred: list[int], findings: Findings) -> Any:
    """Returns the stop tokens that a file gives where they include those that are inferred, else the latter."""
    if set(inferred) <= {*(given if isinstance(given, list) else [given])}:
        return given
    if given != []:
        sentence = (
            f"llm/generation_config.json has eos_token_id={given}, without the stop tokens {inferred} of the "
            "tokenizer and the chat template; as in the original code, the latter are used."
        )
        findings.add("unusual", "llm", "generation_config.eos_token_id", given, sentence, GENERATION_CONFIG_NAME)
    return inferred


def _note_unused_settings(values: Mapping[str, Any], findings: Findings) -> None:
    """Adds a finding for settings of generation that the original code does not read."""
    defaults = GenerationConfig().to_dict()
    others = {key: value for key, value in values.items() if key not in (*TOKEN_IDS, "transformers_version")}
    if others := {key: value for key, value in others.items() if value not in (defaults.get(key), False)}:
        sentence = (
            f"llm/generation_config.json has {others}, which the original code does not read: it generates greedily. "
            "Give them to `generate` if you want them."
        )
        findings.add("unusual", "llm", "generation_config", others, sentence, GENERATION_CONFIG_NAME)


def _template_file(name: str, name_or_path: str, hub_options: Mapping[str, Any]) -> str:
    file = f"{name.removesuffix('.jinja')}.jinja"
    path = component_file(name_or_path, "", file, hub_options) if re.fullmatch(r"[\w.-]+", file) else None
    if path is None:
        raise ValueError(f"config.json of {name_or_path} names the chat template {name!r}, but there is no {file}.")
    with open(path, encoding="utf-8") as stream:
        return stream.read().replace("    ", "").replace("\n", "")  # as the original code does


def _same(template: str, probe: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase) -> bool:
    for add_generation_prompt in (False, True):
        try:
            texts = [
                _render(one, probe, tokenizer, add_generation_prompt=add_generation_prompt)
                for one in (template, CHAT_TEMPLATE)
            ]
        except TemplateError:
            return False
        if texts[0] != texts[1]:
            return False
    return True


def _ends_of_turn(template: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Returns the token that follows what the assistant says, or nothing where the template ends with that."""
    try:
        text = _render(template, [USER, {"role": "assistant", "content": SENTINEL}], tokenizer)
    except TemplateError:
        return []
    ids = tokenizer(text)["input_ids"]
    sentinel = tokenizer.convert_tokens_to_ids(SENTINEL)
    return [after for before, after in zip(ids, ids[1:], strict=False) if before == sentinel]


def _render(template: str, messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, **options: Any) -> str:
    variables: dict[str, Any] = {**tokenizer.special_tokens_map, **options}
    prompts: Any = render_jinja_template([messages], chat_template=template, **variables)[0]
    return prompts[0]
