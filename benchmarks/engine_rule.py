"""A captioner, a transcriber and a reasoner for clips of the made-up world, which `engine_world.py` measures.

The captioner is the small checkpoint, asked for all shapes and all sounds whichever sense it is given: the picture with
silence, or the audio. The transcriber
compares the audio with each statement that there may be, spoken by the one voice of that world; no recogniser of speech
that was at hand understood it. The reasoner follows a fixed rule: it believes each caption about its own sense alone.
"""

import functools
import json
import re
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
EVENT = re.compile(rf"((?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)})|{'|'.join(SOUNDS)})(?: (\d+))?")
NAME = re.compile(rf"(?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)})|{'|'.join(SOUNDS)}")
SENTENCE = re.compile(r"^(?:(\w+) )?\(([\d.]+) - ([\d.]+) s(?:, \w+)?\):? (.*)$", re.MULTILINE)
ORDER, TRUTH = "Which comes first, the {} or the {}?", "Is it true what the voice says of the {}?"
UNKNOWN = "unknown"

Sentence = dict[str, Any]


# -- Captions


def caption(request: Request) -> str:
    """Lists shapes and sounds that the small checkpoint finds in a picture or in audio alone."""
    assert request.medium is not None
    medium = request.medium
    part: dict[str, Any] = {"type": medium.modality, "path": medium.path}
    if medium.modality == "video":  # it learned from videos with audio alone, and sees less of others
        part |= {"audio": np.zeros(round(medium.end_sec * 16000), dtype=np.float32), "sampling_rate": 16000}
    return json.dumps(listed(part, medium.end_sec))


def listed(part: dict[str, Any], duration_sec: float) -> list[Sentence]:
    """Asks the small checkpoint for all shapes and all sounds of a medium."""
    pipe = pipeline_of_the_small_checkpoint()
    questions = [WORDINGS["shapes"], WORDINGS["sounds"]]
    inputs = read_questions(pipe.processor, [{"role": "user", "content": [part]}], questions, {})
    sentences = []
    for record in pipe.postprocess(pipe.forward(inputs, max_new_tokens=48)):
        for name, second in EVENT.findall(record["answer"]):
            span = (int(second), int(second) + 1) if second else (0, duration_sec)
            sentences.append({"text": f"{name}.", "start": span[0], "end": min(span[1], duration_sec)})
    return [one for one in sentences if one["start"] <= one["end"]]


@functools.cache
def pipeline_of_the_small_checkpoint():
    """Loads the small checkpoint."""
    from omnivinci_hf import OmniQAPipeline, OmniVinciForConditionalGeneration, OmniVinciProcessor

    model = OmniVinciForConditionalGeneration.from_pretrained(small_checkpoint())
    return OmniQAPipeline(model, processor=OmniVinciProcessor.from_pretrained(small_checkpoint()))


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
    speech = [one for one in captions if one["id"][0] == "s"]
    sentences = []
    for one in captions:
        is_shape, sense = " " in one["text"], one["id"][0]
        if sense in "va":
            is_own = (sense == "v") == is_shape
            is_voice = sense == "a" and any(said["start"] - 1 < one["start"] <= said["end"] for said in speech)
            verdict = "kept" if is_own and not is_voice else "dropped"
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
    """Asks what the voice says truly, and which of a shape and a sound comes first."""
    questions = []
    for one in sentences:
        if match := re.match(r"The (\w+) is (not )?\w+, as the voice says", one["text"]):
            truth = "no" if match[2] else "yes"
            questions.append(asked(TRUTH.format(match[1]), truth, "It was compared with what is seen.", [one]))
    events = by_name(sentences)
    pairs = [
        (one, other)
        for name, one in events.items()
        for other_name, other in events.items()
        if " " in name and " " not in other_name and int(one["start"]) != int(other["start"])
    ]
    for number in np.linspace(0, len(pairs) - 1, min(len(pairs), most - len(questions))).round().astype(int):
        pair = sorted(pairs[number], key=lambda one: one["text"], reverse=bool(number % 2))
        first = min(pair, key=lambda one: one["start"])
        seconds = " and ".join(f"{one['start']:g}" for one in pair)
        words = ORDER.format(*(one["text"][:-1] for one in pair))
        questions.append(asked(words, first["text"][:-1], f"They begin in the seconds {seconds}.", pair))
    return questions


def asked(question: str, answer: str, reasoning: str, origins: list[Sentence]) -> dict[str, Any]:
    """Makes a question."""
    return {"question": question, "answer": answer, "reasoning": reasoning, "from": [one["id"] for one in origins]}


def by_name(sentences: list[Sentence]) -> dict[str, Sentence]:
    """Returns shapes and sounds that are named once, by their names."""
    events: dict[str, list[Sentence]] = {}
    for one in sentences:
        if NAME.fullmatch(one["text"][:-1]):
            events.setdefault(one["text"][:-1], []).append(one)
    return {name: found[0] for name, found in events.items() if len(found) == 1}


def answer(question: str, sentences: list[Sentence]) -> str:
    """Answers a question from sentences, if they tell."""
    if match := re.match(TRUTH.format(r"(\w+)").replace("?", r"\?"), question):
        told = [re.match(rf"The {match[1]} is (not )?\w+, as the voice says", one["text"]) for one in sentences]
        return next(("no" if one[1] else "yes" for one in told if one), UNKNOWN)
    names = NAME.findall(question)
    events = by_name(sentences)
    if not all(name in events for name in names) or len({int(events[name]["start"]) for name in names}) < 2:
        return UNKNOWN
    return min(names, key=lambda name: events[name]["start"])
