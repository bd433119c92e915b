"""This module tells what a run will ask and what that may cost."""

from collections import Counter, defaultdict

from .asking import Asker, Missing
from .config import Backend, EngineConfig, StageOptions


CHARACTERS_PER_TOKEN = 4
TOKENS_PER_FRAME = 256
TOKENS_PER_AUDIO_SEC = 25
PROMPT_TOKENS, COMPLETION_TOKENS = 800, 300  # of requests whose words are not known yet


def format_estimate(asker: Asker, expected: list[str]) -> str:
    """Makes a table of the requests that are missing.

    Args:
        expected: stages that requests have to be expected of, one entry a segment, as what they ask about is not there.
    """
    config = asker.config
    rows, total, is_known = [], 0.0, True
    means = _means(asker)
    later = _later(config, Counter(expected), config.qa.questions)
    for name in ("vision", "audio", "speech", "omni", "qa", "answer", "agree"):
        counted, number = asker.missing.get(name, Missing()), later.get(name, 0)
        if not counted.requests + number:
            continue
        prompt, completion = _tokens(counted, number, means.get(name))
        price = _backend(config, name).price
        cost = None if price is None else (prompt * price.prompt + completion * price.completion) / 1e6
        is_known, total = is_known and cost is not None, total + (cost or 0.0)
        about = "~" if number else ""
        basis = "replies so far" if name in means else "rough"
        shown = "no price" if cost is None else f"{cost:.4f}"
        rows.append(
            f"{name:8} {about + str(counted.requests + number):>10} {prompt:>14,.0f} {completion:>14,.0f} "
            f"{shown:>12}  {basis}"
        )
    if not rows:
        return "Every reply is there: a run sends nothing."
    head = f"{'stage':8} {'requests':>10} {'prompt tokens':>14} {'reply tokens':>14} {'cost':>12}  tokens by"
    tail = f"The cost may be {total:.4f}" + ("." if is_known else ", beside what has no price.")
    return "\n".join([head, *rows, tail, "Nothing was sent. Replies that cannot be used are asked for again."])


def _tokens(counted: Missing, number: int, means: tuple[float, float] | None) -> tuple[float, float]:
    requests = counted.requests + number
    if means is not None:
        return requests * means[0], requests * means[1]
    prompt = (
        counted.prompt_characters / CHARACTERS_PER_TOKEN
        + counted.frames * TOKENS_PER_FRAME
        + counted.media_sec * TOKENS_PER_AUDIO_SEC
        + number * PROMPT_TOKENS
    )
    return prompt, requests * COMPLETION_TOKENS


def _means(asker: Asker) -> dict[str, tuple[float, float]]:
    """Returns the mean tokens of the prompts and of the replies that are there, by stage."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0])
    for entry in asker.log.entries():
        if entry.get("prompt_tokens") is not None and entry.get("completion_tokens") is not None:
            for place, value in enumerate((1, entry["prompt_tokens"], entry["completion_tokens"])):
                sums[entry["stage"]][place] += value
    return {stage: (prompt / number, reply / number) for stage, (number, prompt, reply) in sums.items()}


def _later(config: EngineConfig, expected: Counter[str], questions: int) -> dict[str, int]:
    """Returns how many requests are expected by stage; of questions all are asked in all views, at most."""
    number = {"omni": expected["omni"], "qa": expected["qa"]}
    filtered = config.filtered
    views = 1 + filtered.words_alone + 2 * filtered.single_captions
    number["answer"] = expected["filtered"] * questions * views
    if filtered.agreement == "model":
        number["agree"] = number["answer"]
    return number


def _backend(config: EngineConfig, name: str) -> Backend:
    options: StageOptions | None = config.filtered if name in ("answer", "agree") else getattr(config, name)
    assert options is not None
    return config.backends[options.backend]
