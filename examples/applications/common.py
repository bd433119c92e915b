"""What the applications share: new words for the small checkpoint, rows, commands, repeated runs, tables.

Needs: omnivinci-hf[train].
"""

import argparse
import json
import shlex
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from typing import Any

import torch
from tokenizers import AddedToken
from transformers import AutoModel, AutoProcessor
from transformers.utils import logging

import omnivinci_hf  # noqa: F401 (registers the classes and the task)
from omnivinci_hf.cli import main
from omnivinci_hf.small import small_checkpoint


# -- data ------------------------------------------------------------------------------------------------------------


def make_row(media: Sequence[Mapping[str, Any]], answers: Mapping[str, str], name: str) -> dict[str, Any]:
    """Makes a row of training data: questions about the same media, which are encoded once.

    Args:
        media: parts of a message, such as `{"type": "audio", "path": "speech.wav"}`.
        answers: the answer to each question.
        name: the row's `id`, which errors name.
    """
    conversations = [
        [*ask_about(media, question), {"role": "assistant", "content": answer}] for question, answer in answers.items()
    ]
    return {
        "id": name,
        **({"conversations": conversations} if len(conversations) > 1 else {"messages": conversations[0]}),
    }


def ask_about(media: Sequence[Mapping[str, Any]], question: str) -> list[dict[str, Any]]:
    """Makes the message that asks one question about media; `pipeline("omni-qa")` takes it as it is."""
    return [{"role": "user", "content": [*media, {"type": "text", "text": question}]}]


def write_rows(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows of training data as JSON lines."""
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


# -- training --------------------------------------------------------------------------------------------------------


def add_words(checkpoint: Path, words: Sequence[str], folder: Path) -> None:
    """Writes a copy of a checkpoint to `folder` whose tokenizer has one more token for each of `words`.

    The small checkpoint knows about 80 words, and reads and writes no others; a large one has no need of this. The new
    tokens mean nothing yet. Their embeddings, and their rows of the head, lie as far from each other as those of known
    words: an adapter, which does not change them, learns to reach each of them.
    """
    processor, model = AutoProcessor.from_pretrained(checkpoint), AutoModel.from_pretrained(checkpoint)
    known = processor.tokenizer.get_vocab()
    if again := [word for word in words if word in known]:
        raise ValueError(f"The tokenizer of {checkpoint} has the words {again} already: leave them out.")
    processor.tokenizer.add_tokens([AddedToken(word, single_word=True, normalized=False) for word in words])
    model.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            old, new = layer.weight[: -len(words)], layer.weight[-len(words) :]
            new.copy_(old.std() * torch.randn(new.shape, generator=generator))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def run_command(*words: Any) -> None:
    """Prints and runs a command of `omnivinci-hf`, as its user types it; in this process, which is faster.

    Raises:
        RuntimeError: when the command fails, after it said why.
    """
    command = [str(word) for word in words]
    print("omnivinci-hf", shlex.join(command), flush=True)
    try:
        code = main(command)
    except SystemExit as error:  # rows that cannot be used
        code = error.code
    if code:
        raise RuntimeError(f"omnivinci-hf {command[0]} ended with the exit code {code}; see what it printed above.")


def tune(checkpoint: Path, recipe: Path | str, data: Path, folder: Path, seed: int, *options: Any) -> Path:
    """Checks the rows of `data` and trains an adapter on them; media lie beside the rows. Returns the adapter's folder.

    Args:
        options: more options of `omnivinci-hf train`, such as `"--max_steps", 500`.
    """
    run_command("validate", data, "--media-root", data.parent)
    run_command(
        *("train", "--recipe", recipe, "--model", checkpoint, "--data", data, "--media-root", data.parent),
        *("--output_dir", folder, "--seed", seed, "--save_strategy", "no", "--report_to", "none", "--use_cpu"),
        *("--disable_tqdm", "true", *options),
    )
    return folder


def cpu_seconds() -> float:
    """Returns the seconds of CPU that this process and its finished children took, however busy the machine was."""
    return sum(usage.ru_utime + usage.ru_stime for usage in map(getrusage, (RUSAGE_SELF, RUSAGE_CHILDREN)))


# -- runs and their report -------------------------------------------------------------------------------------------


def keep_result(file: Path, settings: Mapping[str, Any], run: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the result of a run, which is read from `file` if it is there.

    Raises:
        ValueError: when the result there has other settings.
    """
    if file.exists():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["settings"] != dict(settings):
            raise ValueError(
                f"{file} is of a run with other settings, {kept['settings']} and not {dict(settings)}: give another "
                "--output."
            )
        return kept
    kept = {"settings": dict(settings), **run()}
    partial = file.with_suffix(".partial")  # never a half-written result
    partial.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    partial.replace(file)
    return kept


def run_application(
    about: str,
    words: Sequence[str],
    run_seed: Callable[[int, argparse.Namespace], Mapping[str, Any]],
    report: Callable[[Sequence[Mapping[str, Any]], Mapping[str, Any]], str],
    *,
    train: tuple[int, str],
    test: tuple[int, str],
    steps: int,
) -> None:
    """Reads the command line of an application, runs its seeds, and prints and writes the report of all.

    Args:
        about: what `--help` says.
        words: those that the small checkpoint learns for it.
        run_seed: goes from data to answers once; a seed that is there already is not repeated.
        report: makes Markdown of the results of all seeds and of their settings.
        train, test: how many of what, by default.
        steps: of training, by default.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of data, adapters and results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one run for each; default: 0")
    for name, (number, what) in (("train", train), ("test", test), ("steps", (steps, "of training"))):
        parser.add_argument(f"--{name}", type=int, default=number, help=f"{what}; default: %(default)s")
    parser.add_argument("--page", type=Path, help="Markdown file to write the figures to")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    if not (arguments.output / "checkpoint").exists():
        add_words(small_checkpoint(), words, arguments.output / "checkpoint")
    settings = {name: getattr(arguments, name) for name in ("train", "test", "steps")}
    results = [
        keep_result(arguments.output / f"seed {seed}.json", settings, partial(run_seed, seed, arguments))
        for seed in arguments.seeds
    ]
    text = report(results, settings)
    print(text)
    if arguments.page:
        write_section(arguments.page, "figures", text)


def percent(shares: Sequence[float]) -> str:
    """Shows the mean of shares in percent, and the standard deviation if there are several."""
    mean = f"{100 * statistics.mean(shares):.1f}"
    return f"{mean} ± {100 * statistics.stdev(shares):.1f}" if len(shares) > 1 else mean


def make_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Makes a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def write_section(file: Path, name: str, text: str) -> None:
    """Puts `text` between the marks of a section of a Markdown file, or at its end if it has no such section yet."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    section = f"{begin}\n{text.strip()}\n{end}"
    content = file.read_text(encoding="utf-8") if file.exists() else ""
    if begin in content:
        head, rest = content.split(begin, 1)
        content = head + section + rest.split(end, 1)[1]
    else:
        content = f"{content.rstrip()}\n\n{section}\n".lstrip()
    file.write_text(content, encoding="utf-8")
