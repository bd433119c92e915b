"""This module holds the stages of the engine: each makes records of what those before it found."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..omnivinci.media_reading_omnivinci import MediaError
from .asking import Asker, ItemFailed, NotAsked, Origin
from .config import EngineConfig, StageOptions
from .media import cut, file_digest, probe, scene_cuts
from .prompts import IN_CAPTION, Sentence, read_answer, read_caption, read_omni_caption, read_questions, read_yes_or_no
from .records import ReplyLog
from .requests import Medium, digest


Record = dict[str, Any]
CAPTION_REQUEST = "Describe what is seen and what is heard, and how the two belong together."


# -- Segments


def find_segments(
    config: EngineConfig, files: list[Path], log: ReplyLog, limit: int | None, dry: bool = False
) -> list[Record]:
    """Cuts the media into segments; a file that cannot be read has a record with its `error` instead.

    Args:
        log: keeps where scenes end, so that no video is decoded twice for it.
        limit: the most segments; files that cannot be read do not count.
    """
    digests: dict[str, Path] = {}
    segments: list[Record] = []
    num_usable = 0
    for segment in (segment for file in files for segment in _segments_of(config, file, log, digests, dry)):
        segments.append(segment)
        num_usable += "error" not in segment
        if num_usable == limit:
            break
    return segments


def _segments_of(
    config: EngineConfig, file: Path, log: ReplyLog, digests: dict[str, Path], dry: bool
) -> Iterator[Record]:
    name = file_digest(file)
    if name in digests:
        yield {"id": str(file), "source": str(file), "error": f"The content is that of {digests[name]}."}
        return
    digests[name] = file
    try:
        facts = probe(file)
        ends = _scene_ends(config, file, name, log, dry) if config.segments.scene_cuts and facts.has_video else []
    except ValueError as error:
        yield {"id": str(file), "source": str(file), "error": str(error)}
        return
    for start, end in cut(facts.duration_sec, ends, config.segments):
        yield {
            "id": f"{file.stem}-{name[:8]}@{start:g}-{end:g}",
            "source": str(file),
            "start": start,
            "end": end,
            "is_whole": start == 0 and end == round(facts.duration_sec, 3),
            "digest": name,
            "has_video": facts.has_video,
            "has_audio": facts.has_audio,
        }


def _scene_ends(config: EngineConfig, file: Path, name: str, log: ReplyLog, dry: bool) -> list[float]:
    key = digest(["scene cuts", name, config.segments.threshold])
    entry = log.get(key)
    if entry is None:
        entry = {"stage": "segments", "cuts": scene_cuts(file, config.segments.threshold)}
        if not dry:
            log.add(key, entry)
    return entry["cuts"]


def medium_of(segment: Record, modality: str) -> Medium:
    """Returns the picture ("video") or the audio ("audio") of a segment."""
    return Medium(segment["source"], modality, segment["start"], segment["end"], segment["digest"])


def duration_of(segment: Record) -> float:
    """Returns the length of a segment in seconds."""
    return round(segment["end"] - segment["start"], 3)


# -- Captions


def caption_vision(asker: Asker, item: Record) -> Record:
    """Captions the picture of a segment."""
    segment = item["segments"]
    if not segment["has_video"]:
        return {"sentences": [], "note": "There is no picture."}
    sentences, origin = _caption(asker, "vision", asker.config.vision, segment, "v")
    return {"sentences": sentences, **origin.as_dict()}


def caption_audio(asker: Asker, item: Record) -> Record:
    """Captions the audio of a segment, and transcribes what is said."""
    segment = item["segments"]
    if not segment["has_audio"]:
        return {"sentences": [], "speech": [], "note": "There is no audio."}
    # both, so that an estimate counts both
    said: tuple[list[Sentence], Origin] | None = None
    asked = [("audio", asker.config.audio, "a"), ("speech", asker.config.speech, "s")]
    replies, not_asked = [], None
    for stage, options, prefix in asked:
        if options is not None:
            try:
                replies.append(_caption(asker, stage, options, segment, prefix))
            except NotAsked as error:
                not_asked = error
    if not_asked is not None:
        raise not_asked
    sentences, origin = replies[0]
    said = replies[1] if len(replies) > 1 else None
    record = {"sentences": sentences, "speech": [], **origin.as_dict()}
    if said is not None:
        record["speech"] = said[0]
        record["speech_origin"] = said[1].as_dict()
    return record


def _caption(
    asker: Asker, stage: str, options: StageOptions, segment: Record, prefix: str
) -> tuple[list[Sentence], Origin]:
    duration = duration_of(segment)
    modality, source = ("video", "seen") if stage == "vision" else ("audio", "heard")
    return asker.ask(
        stage,
        options,
        {"duration_sec": duration},
        lambda text: read_caption(text, prefix, source, duration),
        medium_of(segment, modality),
    )


def join_captions(asker: Asker, item: Record) -> Record:
    """Corrects the captions of a segment and joins them into one."""
    duration = duration_of(item["segments"])
    captions = {
        "vision": item["vision"]["sentences"],
        "audio": item["audio"]["sentences"],
        "speech": item["audio"]["speech"],
    }
    every = [sentence for sentences in captions.values() for sentence in sentences]
    if not every:
        return {"sentences": [], "note": "Nothing is seen or heard."}
    sentences, origin = asker.ask(
        "omni",
        asker.config.omni,
        {"duration_sec": duration, **captions},
        lambda text: read_omni_caption(text, every, duration),
    )
    return {"sentences": sentences, **origin.as_dict()}


def omni_sentences(item: Record) -> list[Sentence]:
    """Returns the sentences that make up the omni caption of a segment, by the time at which they begin."""
    kept = [sentence for sentence in item["omni"]["sentences"] if sentence["verdict"] in IN_CAPTION]
    return sorted(kept, key=lambda sentence: sentence["start"])


# -- Questions


def ask_questions(asker: Asker, item: Record) -> Record:
    """Asks questions about a segment."""
    sentences = _reasoned_about(item)
    if not sentences:
        return {"questions": [], "note": "There is no caption to ask about."}
    questions, origin = asker.ask(
        "qa",
        asker.config.qa,
        {
            "duration_sec": duration_of(item["segments"]),
            "sentences": sentences,
            "questions": asker.config.qa.questions,
        },
        lambda text: read_questions(text, asker.config.qa.questions),
    )
    for number, question in enumerate(questions):
        question["id"] = f"q{number}"
    return {"questions": questions, **origin.as_dict()}


def _reasoned_about(item: Record) -> list[Sentence]:
    """Returns what questions may rest on: the omni caption, and contradictions."""
    sentences = [one for one in item["omni"]["sentences"] if one["verdict"] != "dropped"]
    return sorted(sentences, key=lambda sentence: sentence["start"])


def filter_question(asker: Asker, item: Record, question: Record, earlier: list[Record]) -> Record:
    """Tells whether a question is kept, or why it is dropped.

    Args:
        earlier: questions about the same segment that stand before it.
    """
    options = asker.config.filtered
    record = {key: question[key] for key in ("question", "answer", "reasoning", "from")}
    record |= {"segment": item["segments"]["id"], "answers": {}, "kept": False, "reason": ""}
    if reason := _reason_without_asking(item, question, earlier):
        return record | {"reason": reason}
    views = _views(item, options.single_captions, options.words_alone)
    total, pending = Origin(), None
    for name, (vision, audio) in views.items():
        variables = {
            "duration_sec": duration_of(item["segments"]),
            "question": question["question"],
            "vision": vision,
            "audio": audio,
        }
        try:
            answer, origin = asker.ask("answer", options, variables, read_answer)
            agrees, origin_of_agreement = _agrees(asker, question, answer)
        except NotAsked as error:  # an estimate counts all views
            pending = error
            continue
        record["answers"][name] = answer
        total = _add_origin(_add_origin(total, origin), origin_of_agreement)
        record["reason"] = _reason_of_view(name, agrees)
        if record["reason"]:
            break
    if pending is not None:
        raise pending
    return record | {"kept": not record["reason"], "model": total.model, "prompt": total.prompt, "cost": total.cost}


def _reason_without_asking(item: Record, question: Record, earlier: list[Record]) -> str:
    """Tells why a question is dropped before any model is asked; an empty string if it is not."""
    known = {sentence["id"] for sentence in _reasoned_about(item)}
    if not question["from"] or not set(map(str, question["from"])) <= known:
        return "untraceable"
    if any(_plain(question["question"]) == _plain(other["question"]) for other in earlier):
        return "duplicate"
    return ""


def _reason_of_view(name: str, agrees: bool) -> str:
    """Tells why the answer from a view drops its question; an empty string if it does not."""
    if name == "all":
        return "" if agrees else "second pass disagrees"
    return f"answered from {name}" if agrees else ""


def _add_origin(total: Origin, origin: Origin) -> Origin:
    """Adds the cost of a reply to a total, which then names the model and the prompt of that reply."""
    return Origin(
        origin.model or total.model,
        origin.prompt or total.prompt,
        None if origin.cost is None or total.cost is None else total.cost + origin.cost,
    )


def _views(item: Record, single: bool, words: bool) -> dict[str, tuple[Any, Any]]:
    """Returns what an answer may rest on: sentences of picture and audio, by the name of the view."""
    vision = item["vision"]["sentences"]
    audio = [*item["audio"]["sentences"], *item["audio"]["speech"]]
    views: dict[str, tuple[Any, Any]] = {"all": (_reasoned_about(item), [])}
    if words:
        views["words alone"] = (None, None)
    if single:
        views |= {"picture alone": (vision, None), "audio alone": (None, audio)}
    return views


def _agrees(asker: Asker, question: Record, other: str) -> tuple[bool, Origin]:
    options = asker.config.filtered
    if _plain(question["answer"]) == _plain(other):
        return True, Origin()
    if options.agreement == "exact":
        return False, Origin()
    variables = {"question": question["question"], "answer": question["answer"], "other": other}
    return asker.ask("agree", options, variables, read_yes_or_no, prompt=options.agree_prompt)


def _plain(text: str) -> str:
    """Returns the words of a text without case and punctuation."""
    return " ".join(re.findall(r"\w+", text.casefold()))


# -- Rows of training


def training_rows(config: EngineConfig, item: Record, kept: list[Record], caption: str) -> Iterator[Record]:
    """Yields the rows of a segment: its omni caption, and the questions that were kept."""
    segment = item["segments"]
    part: Record = {"type": "video" if segment["has_video"] else "audio", "path": _path(config, segment["source"])}
    if not segment["is_whole"]:
        part |= {"start_sec": segment["start"], "end_sec": segment["end"]}
    if config.train.captions and caption:
        trace = item["omni"].get("trace", "")
        yield _row(config, f"{segment['id']}/caption", part, CAPTION_REQUEST, caption, trace)
    for record in kept:
        trace = record["reasoning"]
        yield _row(config, f"{segment['id']}/{record['id']}", part, record["question"], record["answer"], trace)


def _row(config: EngineConfig, name: str, part: Record, question: str, answer: str, trace: str) -> Record:
    if config.train.traces and trace:
        answer = f"<think>{trace}</think>\n{answer}"
    messages = [
        {"role": "user", "content": [dict(part), {"type": "text", "text": question}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]
    return {"id": name, "messages": messages}


def _path(config: EngineConfig, source: str) -> str:
    if not config.train.media_root:
        return source
    root = config.path(config.train.media_root).resolve()
    try:
        return Path(source).relative_to(root).as_posix()
    except ValueError as error:
        raise ValueError(f"`train.media_root`: {source} does not lie in {root}.") from error


def attempt(make: Callable[[], Record]) -> Record:
    """Makes a record; what is wrong with its item alone becomes its `error`, what an estimate lacks `is_pending`."""
    try:
        return make()
    except (ItemFailed, MediaError) as error:
        return {"error": str(error)}
    except NotAsked:
        return {"is_pending": True}
