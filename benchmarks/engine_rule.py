"""A captioner, a transcriber and a reasoner for clips of the made-up world, which `engine_world.py` measures.

The captioner, which `engine_captioner.py` trains, is asked for all shapes and all sounds whichever sense it is given:
the picture with silence, or the audio. The transcriber compares the audio with each statement that there may be, spoken
by the one voice of that world; no recogniser of speech that was at hand understood it. The reasoner follows a fixed
rule: it believes each caption about its own sense alone, and asks only what the seconds of the captions leave no doubt
about, in words of `omnivinci_hf.world`.
"""

import functools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from chat_server import prompt_of
from scipy.signal import fftconvolve

from omnivinci_hf.engine import Request
from omnivinci_hf.omnivinci.audio_media_omnivinci import load_audio
from omnivinci_hf.omnivinci.pipeline_omnivinci import read_questions
from omnivinci_hf.small import small_checkpoint
from omnivinci_hf.world import COLOURS, SHAPES, SOUNDS, STATEMENTS, WORDINGS
from omnivinci_hf.world.speech import speak
from omnivinci_hf.world.statements import STATEMENT_PITCH, STATEMENT_SEC


RATE = 8000  # of audio in which statements are looked for
SAME = 0.5  # normalised correlation from which on a statement is heard
EVENT = re.compile(rf"((?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)})|{'|'.join(SOUNDS)}) (\d+)(?: and (\d+))?")
NAME = re.compile(rf"(?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)})|{'|'.join(SOUNDS)}")
SENTENCE = re.compile(r"^(?:(\w+) )?\(([\d.]+) - ([\d.]+) s(?:, \w+)?\):? (.*)$", re.MULTILINE)
TRUTH = "Is it true what the voice says of the {}?"
FAMILIES = ("sound_while_shape", "shape_during_sound", "order", "time of shape", "time of sound")  # of `WORDINGS`
LARGEST_GAP_SEC = 2  # of events whose order is asked for
UNKNOWN = "unknown"

Sentence = dict[str, Any]


# -- Captions


checkpoint: str | Path = small_checkpoint()  # of the captioner; `engine_world.py` puts its own here


def caption(request: Request) -> str:
    """Lists shapes and sounds that the captioner finds in a picture or in audio alone."""
    assert request.medium is not None
    medium = request.medium
    part: dict[str, Any] = {"type": medium.modality, "path": medium.path}
    if medium.modality == "video":  # it learned from videos with audio alone, and sees less of others
        part |= {"audio": np.zeros(round(medium.end_sec * 16000), dtype=np.float32), "sampling_rate": 16000}
    return json.dumps(listed(part, medium.end_sec))


def listed(part: dict[str, Any], duration_sec: float) -> list[Sentence]:
    """Asks the captioner for all shapes and all sounds of a medium."""
    pipe = pipeline_of(str(checkpoint))
    questions = [WORDINGS["shapes"], WORDINGS["sounds"]]
    inputs = read_questions(pipe.processor, [{"role": "user", "content": [part]}], questions, {})
    sentences = []
    for record in pipe.postprocess(pipe.forward(inputs, max_new_tokens=64)):
        for name, first, last in EVENT.findall(record["answer"]):
            start, end = int(first), int(last or int(first) + 1)  # sounds are short
            sentences.append({"text": f"{name}.", "start": start, "end": min(end, duration_sec)})
    return [one for one in sentences if one["start"] <= one["end"]]


@functools.cache
def pipeline_of(folder: str):
    """Loads a checkpoint."""
    from omnivinci_hf import OmniQAPipeline, OmniVinciForConditionalGeneration, OmniVinciProcessor

    model = OmniVinciForConditionalGeneration.from_pretrained(folder)
    return OmniQAPipeline(model, processor=OmniVinciProcessor.from_pretrained(folder))


def transcribe(request: Request) -> str:
    """Lists the statements that are heard."""
    assert request.medium is not None
    samples = load_audio(request.medium.path, sampling_rate=RATE).samples
    energy = np.sqrt(np.maximum(fftconvolve(samples**2, np.ones(len(voices()[0][1])), "valid"), 1e-9))
    likeness = {words: fftconvolve(samples, voice[::-1], "valid") / energy for words, voice in voices()}
    heard: list[Sentence] = []
    while True:
        words = max(likeness, key=lambda one: likeness[one].max())
        place = int(likeness[words].argmax())
        if likeness[words][place] < SAME:
            return json.dumps(sorted(heard, key=lambda one: one["start"]))
        start = place / RATE
        heard.append({"text": words, "start": start, "end": start + STATEMENT_SEC})
        for values in likeness.values():  # nobody speaks twice at a time
            values[max(0, place - len(voices()[0][1])) : place + len(voices()[0][1])] = -1


@functools.cache
def voices() -> list[tuple[str, np.ndarray]]:
    """Returns each statement and how it sounds, `(num_samples,)` of length one."""
    spoken = [(words, speak(words, STATEMENT_SEC, STATEMENT_PITCH, RATE)) for words in STATEMENTS]
    return [(words, samples / np.linalg.norm(samples)) for words, samples in spoken]


# -- Reasoning


def reason(body: dict[str, Any]) -> str:
    """Answers a request of the engine to its reasoner."""
    prompt = prompt_of(body)
    if prompt.startswith("Two models"):
        return f"<think>I believe each about its own sense.</think>{json.dumps(join(prompt))}"
    if "Ask up to" in prompt:
        return json.dumps(ask(read_sentences(prompt), int(re.findall(r"Ask up to (\d+)", prompt)[0])))
    return answer(prompt.rpartition("\n\n")[2], read_sentences(prompt))


def read_sentences(prompt: str) -> list[Sentence]:
    """Reads the sentences that stand in a prompt."""
    return [
        {"id": name, "start": float(start), "end": float(end), "text": text.strip('"')}
        for name, start, end, text in SENTENCE.findall(prompt)
    ]


def join(prompt: str) -> list[Sentence]:
    """Joins captions: what is not of the sense that was given is dropped; statements are compared with shapes."""
    captions = read_sentences(prompt)
    shapes = [one for one in captions if one["id"][0] == "v" and " " in one["text"]]
    sentences = []
    for one in captions:
        is_shape, sense = " " in one["text"], one["id"][0]
        if sense in "va":
            verdict = "kept" if (sense == "v") == is_shape else "dropped"
            sentences.append(judged(one["text"], one, "seen" if is_shape else "heard", verdict, [one["id"]]))
            continue
        colour, form = STATEMENTS[one["text"]]
        meant = [shape for shape in shapes if shape["text"].split()[1] == f"{form}."]
        same = [shape for shape in meant if shape["text"].split()[0] == colour]
        if not meant:
            sentences.append(judged(f"A voice says that {one['text']}.", one, "heard", "kept", [one["id"]]))
        elif same:
            text = f"The {form} is {colour}, as the voice says."
            sentences.append(judged(text, one, "both", "kept", [one["id"], same[0]["id"]]))
        else:
            text = f"The {form} is not {colour}, as the voice says."
            sentences.append(judged(text, one, "both", "contradicts", [one["id"], meant[0]["id"]]))
    return sentences


def judged(text: str, span: Sentence, source: str, verdict: str, origins: list[str]) -> Sentence:
    """Makes a sentence of an omni caption."""
    place = {"start": span["start"], "end": span["end"]}
    return {"text": text, **place, "source": source, "verdict": verdict, "from": origins}


def ask(sentences: list[Sentence], most: int) -> list[dict[str, Any]]:
    """Asks at most so many questions: what the voice says truly, then of each family in turn."""
    told = possible_questions(sentences)
    chosen = told.pop("truth")
    for one in told.values():  # spread over the clip
        one[:] = [one[place] for place in np.random.default_rng(len(sentences)).permutation(len(one))]
    while len(chosen) < most and any(told.values()):
        chosen += [one.pop() for one in told.values() if one]
    return chosen[:most]


def possible_questions(sentences: list[Sentence]) -> dict[str, list[dict[str, Any]]]:
    """Lists all questions that sentences answer without doubt, by family."""
    found: dict[str, list[dict[str, Any]]] = {family: [] for family in ("truth", *FAMILIES)}
    for one in sentences:
        if match := re.match(r"The (\w+) is (not )?\w+, as the voice says", one["text"]):
            truth = "no" if match[2] else "yes"
            found["truth"].append(asked(TRUTH.format(match[1]), truth, "It was compared with what is seen.", [one]))
    events = [one for one in sentences if NAME.fullmatch(one["text"][:-1])]
    shapes, sounds = ([one for one in events if (" " in one["text"]) == is_shape] for is_shape in (True, False))
    for family, these, others in (
        ("sound_while_shape", named_once(shapes), sounds),
        ("shape_during_sound", named_once(sounds), shapes),
    ):
        for one in these:
            near = [(is_together(*sorted((one, other), key=is_sound)), other) for other in others]
            together = [other for is_near, other in near if is_near]
            if len(together) == 1 and all(is_near is not None for is_near, _ in near):
                words = WORDINGS[family].format(one["text"][:-1])
                found[family].append(
                    asked(words, together[0]["text"][:-1], seconds_of(one, together[0]), [one, *together])
                )
    for shape in named_once(shapes):
        for sound in named_once(sounds):
            gap = int(shape["start"]) - int(sound["start"])
            if 0 < abs(gap) <= LARGEST_GAP_SEC:
                words = WORDINGS["order"].format(sound["text"][:-1], shape["text"][:-1])
                answer = "yes" if gap > 0 else "no"
                found["order"].append(asked(words, answer, seconds_of(sound, shape), [sound, shape]))
    for family, these in (("time of shape", shapes), ("time of sound", sounds)):
        for one in named_once(these):
            words = WORDINGS[family].format(one["text"][:-1])
            found[family].append(asked(words, str(int(one["start"])), seconds_of(one), [one]))
    return found


def family_of(question: str) -> tuple[str, tuple[str, ...]]:
    """Returns the family of a question, and the names in it."""
    for family, wording in (("truth", TRUTH), *((one, WORDINGS[one]) for one in FAMILIES)):
        if match := re.fullmatch(re.escape(wording).replace(r"\{\}", r"([\w ]+?)"), question):
            return family, match.groups()
    raise ValueError(f"The rule does not ask {question!r}.")


def asked(question: str, answer: str, reasoning: str, origins: list[Sentence]) -> dict[str, Any]:
    """Makes a question."""
    return {"question": question, "answer": answer, "reasoning": reasoning, "from": [one["id"] for one in origins]}


def seconds_of(*events: Sentence) -> str:
    """Says when events begin."""
    return " ".join(f"The {one['text'][:-1]} begins in second {int(one['start'])}." for one in events)


def is_sound(event: Sentence) -> bool:
    """Tells whether an event is a sound: shapes have a colour and a form."""
    return " " not in event["text"]


def is_together(shape: Sentence, sound: Sentence) -> bool | None:
    """Tells whether a sound is heard while a shape is visible; None where whole seconds leave that in doubt."""
    second = int(sound["start"])
    if int(shape["start"]) <= second < int(shape["end"]):
        return True
    return False if second > int(shape["end"]) or second + 2 <= int(shape["start"]) else None


def named_once(events: list[Sentence]) -> list[Sentence]:
    """Returns events that no other has the name of."""
    counts = Counter(one["text"] for one in events)
    return [one for one in events if counts[one["text"]] == 1]


def answer(question: str, sentences: list[Sentence]) -> str:
    """Answers a question from sentences, if they tell."""
    for told in possible_questions(sentences).values():
        for one in told:
            if one["question"] == question:
                return one["answer"]
    return UNKNOWN
