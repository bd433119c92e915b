"""Conversations: the prompt that they become and the media that they hold."""

from transformers.utils.chat_template_utils import _get_template_variables

from .content_parts_omnivinci import clean_words, read_part


CHAT_TEMPLATE = """\
{%- if messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\nYou are a helpful assistant<|im_end|>\\n' }}
{%- endif %}
{%- macro render(content) %}
    {%- if content is string %}
        {{- content }}
    {%- else %}
        {%- for part in content %}
            {%- if part['type'] == 'image' %}
                {{- '<image>' }}
            {%- elif part['type'] == 'video' %}
                {{- '<vila/video>' }}
            {%- elif part['type'] == 'audio' %}
                {{- '<sound>' }}
            {%- elif part['type'] == 'text' %}
                {{- part['text'] }}
            {%- else %}
                {{- raise_exception('Unknown content type: ' ~ part['type']) }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
{%- endmacro %}
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation %}
            {{- render(message['content']) + '<|im_end|>' }}
        {%- endgeneration %}
        {{- '\\n' }}
    {%- else %}
        {{- render(message['content']) + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def template_variables(template: str) -> set[str]:
    """Names for which a template has a place, but for those that every rendering fills."""
    return _get_template_variables(template) - {"messages", "add_generation_prompt", "raise_exception", "strftime_now"}


def collect_media(message: dict, media: dict[str, list]) -> dict:
    """A copy of a message for the template; its media are appended to `media`, each a [`MediaPart`]."""
    if not isinstance(message, dict) or "role" not in message:
        got = f"one with the keys {list(message)}" if isinstance(message, dict) else f"a {type(message).__name__}"
        raise ValueError(f"A message must be a dictionary with `role` and `content`, got {got}.")
    content = message.get("content") or []
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, (list, tuple)):
        raise ValueError(f"`content` of a message must be a string or a list of parts, got a {type(parts).__name__}.")
    cleaned = []
    for part in map(read_part, parts):
        if isinstance(part, str):
            cleaned.append({"type": "text", "text": clean_words(part)})
        else:
            media[part.kind].append(part)
            cleaned.append({"type": part.kind})
    return {**message, "content": cleaned}
