"""This module writes a diagnosis of a checkpoint as a page for people to read."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from .diagnosis import Diagnosis, WeightPart


WIDTH = 110
MAX_SHOWN = 20
# What the model has too is told there.
TOLD_OF_MODEL = (
    *("audio_merge_size", "boundary_tokens", "feature_size", "group_duration_sec", "max_tiles", "patch_size"),
    *("s2_output_scale_index", "s2_scales", "size", "spatial_merge_size", "video_pool_sizes", "window_frames"),
)


def format_diagnosis(diagnosis: Diagnosis) -> str:
    """Writes a diagnosis as a page: the verdict first, then what was found; of an adapter, then its base model."""
    lines = [*_head(diagnosis), *_row("with", ", ".join(f"{name} {one}" for name, one in diagnosis.versions.items()))]
    lines += _findings(diagnosis)
    if diagnosis.base is None:
        return "\n".join([*lines, *_parts(diagnosis)])
    lines += [*_weights(diagnosis), "", "", "The model that it belongs to", *_head(diagnosis.base)]
    return "\n".join([*lines, *_findings(diagnosis.base), *_parts(diagnosis.base)])


def _findings(diagnosis: Diagnosis) -> Iterator[str]:
    for title, sentences in (
        ("Unusual", diagnosis.unusual),
        ("Assumed, since the files leave it open", diagnosis.assumed),
        ("Said by the libraries while they loaded", diagnosis.messages),
    ):
        if sentences:
            yield from ("", title)
            yield from (line for text in _first(sentences) for line in _wrapped(text, "  - ", "    "))


def _parts(diagnosis: Diagnosis) -> Iterator[str]:
    yield from _weights(diagnosis)
    yield from _settings(diagnosis)
    if diagnosis.tokenizer is not None:
        yield from _words(diagnosis, diagnosis.tokenizer)
    if diagnosis.processor is not None:
        options = (f"{name}={value!r}" for name, value in diagnosis.processor.items() if name not in TOLD_OF_MODEL)
        yield from ("", "Processor", *_wrapped(", ".join(options), "  "))
    if diagnosis.ignored:
        yield from ("", "Ignored, since it changes no numbers")
        for path, keys in diagnosis.ignored.items():
            yield from _wrapped(f"{path}: {', '.join(keys)}", "  ", "    ")


def _head(diagnosis: Diagnosis) -> Iterator[str]:
    commit = f", commit {diagnosis.commit}" if diagnosis.commit else ""
    yield f"{diagnosis.name}{commit}"
    yield ""
    if not diagnosis.loads:
        yield "It will not load:" if diagnosis.loads is False else "Whether it will load cannot be told:"
        yield from (line for text in str(diagnosis.obstacle).splitlines() for line in _wrapped(text, "  "))
    elif diagnosis.random_tensors:
        yield f"It will load, but with random numbers in {len(diagnosis.random_tensors)} tensors that it lacks:"
        yield from (f"  {name}" for name in _first(diagnosis.random_tensors))
    else:
        yield "It will load."
    yield ""
    read = f"{_bytes(diagnosis.num_bytes_read)} of {_bytes(diagnosis.num_bytes)} in {len(diagnosis.files)} files"
    yield from _row("layout", diagnosis.layout)
    yield from _row("read", read)


def _weights(diagnosis: Diagnosis) -> Iterator[str]:
    parts = diagnosis.parts
    if not parts:
        return
    yield ""
    yield f"{'Weights':<27}{'type':<22}{'files':>6}{'tensors':>9}{'parameters':>12}{'size':>10}  dtypes"
    for part in parts:
        yield _weight_row(part)
    if len(parts) > 1:
        dtypes = dict.fromkeys(dtype for part in parts for dtype in part.num_parameters)
        count = sum(sum(part.num_parameters.values()) for part in parts)
        num_tensors, num_bytes = sum(part.num_tensors for part in parts), sum(part.num_bytes for part in parts)
        counts = {**dict.fromkeys(dtypes, 0), next(iter(dtypes)): count}
        yield _weight_row(WeightPart("in all", None, len(diagnosis.tensors), num_tensors, num_bytes, counts))


def _weight_row(part: WeightPart) -> str:
    count = _number(sum(part.num_parameters.values()))
    return (
        f"  {part.name:<24} {part.model_type or '':<22}{part.num_files:>6}{part.num_tensors:>9}{count:>12}"
        f"{_bytes(part.num_bytes):>10}  {', '.join(part.num_parameters)}"
    )


def _settings(diagnosis: Diagnosis) -> Iterator[str]:
    if diagnosis.settings:
        yield ""
        yield "Model"
    for name, value in diagnosis.settings.items():
        yield from _row(name, value)


def _words(diagnosis: Diagnosis, tokenizer: dict) -> Iterator[str]:
    yield ""
    yield "Words"
    media = ", ".join(f"{token} {number}" for token, number in tokenizer["media_tokens"].items())
    yield from _row("tokenizer", f"{tokenizer['class']}, {tokenizer['num_tokens']} tokens; {media}")
    yield from _row(
        "padding",
        f"{tokenizer['padding_token']!r} on the {tokenizer['padding_side']}; ends with {tokenizer['end_token']!r}",
    )
    if diagnosis.example_prompt is not None:
        yield from _row("a question", repr(diagnosis.example_prompt))
    if diagnosis.generation is not None:
        options = dict(diagnosis.generation)
        stops = options.pop("stop_tokens")
        yield from _row("stops at", ", ".join(f"{word} {number}" for number, word in stops.items()) or "nothing")
        yield from _row("generation", ", ".join(f"{name}={value!r}" for name, value in options.items()) or "defaults")


def _row(name: str, text: str) -> list[str]:
    return _wrapped(text, f"  {name:<17} ", " " * 20)


def _wrapped(text: str, indent: str, next_indent: str | None = None) -> list[str]:
    next_indent = indent if next_indent is None else next_indent
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=next_indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _first(texts: Iterable[str]) -> list[str]:
    texts = list(texts)
    return texts[:MAX_SHOWN] + ([f"and {len(texts) - MAX_SHOWN} more"] if len(texts) > MAX_SHOWN else [])


def _bytes(number: float) -> str:
    return _scaled(number, (" B", " kB", " MB", " GB"), 1)


def _number(number: float) -> str:
    return _scaled(number, ("", " K", " M", " B"), 2)


def _scaled(number: float, units: Sequence[str], num_decimals: int) -> str:
    """Writes a number with the unit, of those that are each a thousand of the one before, that keeps it short."""
    for unit in units[:-1]:
        if number < 1000:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.{num_decimals}f}{units[-1]}"
