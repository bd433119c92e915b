"""This module says which options of the processor a server and its requests can have."""

import re
from collections.abc import Mapping
from typing import Any

from ..omnivinci.checks_omnivinci import refuse_unknown
from ..omnivinci.options_omnivinci import (
    FRAME_OPTIONS,
    GROUPS,
    OPTIONS,
    check_options,
    loader_arguments,
)


# A request may choose what is taken of its media, and nothing that lifts a limit or opens a connection.
REQUEST_OPTIONS = ("num_frames", "fps", "start_sec", "end_sec", "load_audio_from_video")
SERVER_OPTIONS = (
    *REQUEST_OPTIONS,
    *("max_audio_sec", "align_audio_start", "video_audio_downmix", "group_duration_sec", "still_threshold"),
    *("resize_backend", "media_limits", "on_damage", "timeout_sec"),
)
# options that are obeyed after a medium was read, and by which modalities
_ENCODING_OPTIONS = {
    "resize_backend": ("image", "video"),
    "group_duration_sec": ("video",),
    "still_threshold": ("video",),
}
# the ends of errors that tell whoever reads media what to do -> what they tell the client of a server
_REMEDIES = (
    (r"; give that, or `allow_redirects=True`\.", "; give that address."),
    # a client is not told which names of the server's network have an address
    (
        r": \S+ is at \S+, which is not a public address; .*| cannot be fetched: .+ has no address .*",
        " is at no public address; send it as a data: URL. (A server can allow the host: --allowed-media-domains.)",
    ),
    (
        r"; (save it to a file first|copy it to a faster place), or raise `timeout_sec`\.",
        "; send it as a data: URL. (The server can raise `timeout_sec`, by --mm-processor-kwargs.)",
    ),
    (
        r"; make it smaller, or raise the limit: media_limits=.*",
        "; make it smaller. (The server can raise its `media_limits`, by --mm-processor-kwargs.)",
    ),
    (
        r'; get a complete copy, or keep what is whole: on_damage="warn"\.',
        "; send a complete copy. (The server can keep what is whole: `on_damage`, by --mm-processor-kwargs.)",
    ),
)
# why a server cannot have the other options of a call, by their group
_REASONS = {
    "positions": "it says which frames of one certain video are taken",
    "given": "it describes one certain medium",
    "reading": "vLLM fetches media itself: see --allowed-media-domains and --allowed-local-media-path",
    "text": "vLLM tokenizes and pads prompts itself",
    "output": "it changes what the processor returns, which the engine relies on",
}


def check_server_options(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Checks the options that a server gives to all its requests (`--mm-processor-kwargs`).

    Raises:
        ValueError: for an option that is unknown, cannot have its value, or cannot hold for each medium alone.
    """
    given = _given(given)
    groups = {option.name: option.group for option in OPTIONS if option.in_call}
    for name in given.keys() & groups.keys() - set(SERVER_OPTIONS):
        raise ValueError(f"--mm-processor-kwargs: a server cannot have the option `{name}`: {_REASONS[groups[name]]}.")
    return _checked("--mm-processor-kwargs", given, SERVER_OPTIONS)


def check_request_options(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Checks the options of one request (`mm_processor_kwargs`).

    Raises:
        ValueError: for an option that a request cannot have, or that cannot have its value.
    """
    given = _given(given)
    if others := sorted(given.keys() - set(REQUEST_OPTIONS)):
        raise ValueError(
            f"`mm_processor_kwargs` of a request cannot have {others}; it can have {', '.join(REQUEST_OPTIONS)}."
        )
    return _checked("`mm_processor_kwargs`", given, REQUEST_OPTIONS)


def options_of_modality(modality: str, server: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options that encoding a medium of this modality obeys, sorted by name; those of the request win.

    A request that chooses frames chooses them alone.
    """
    if any(name in request for name in FRAME_OPTIONS):
        server = {name: value for name, value in server.items() if name not in FRAME_OPTIONS}
    options = {**server, **request}
    known = {*loader_arguments(modality), *(name for name, of in _ENCODING_OPTIONS.items() if modality in of)}
    return {name: options[name] for name in sorted(options.keys() & known)}


def in_words_of_a_server(text: str) -> str:
    """Replaces the remedies in an error that a client of a server does not have."""
    for remedy, of_client in _REMEDIES:
        text = re.sub(f"(?:{remedy})$", of_client, text, flags=re.DOTALL)
    return text


def _given(options: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (options or {}).items() if value is not None}


def _checked(place: str, given: Mapping[str, Any], known: tuple[str, ...]) -> dict[str, Any]:
    refuse_unknown(place, given, known, ValueError, also=GROUPS)
    try:
        return check_options(given)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
