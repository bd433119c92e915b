"""This module says what can be typed on the command line; it imports nothing heavy.

Options of the processor come from their table, with their names, checks and summaries.
"""

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._version import __version__
from ..evaluation.task import MAX_NEW_TOKENS
from ..evaluation.tasks import TASKS
from ..omnivinci.checks_omnivinci import Ascending, Check, Choice, Limits, Number
from ..omnivinci.options_omnivinci import OPTIONS, Option, OptionGroup


DEFAULT_MODEL = "nvidia/omnivinci"  # it is `ORIGINAL` of a module that imports Transformers
DEMO_CLIPS = 99_999_900  # test seeds, but for the last 100: so many are looked at for a clip
DTYPES = ("auto", "float32", "float16", "bfloat16")
SAMPLING: tuple[OptionGroup, ...] = ("frames", "audio")
READING: tuple[OptionGroup, ...] = (*SAMPLING, "positions", "range", "images", "sequence", "reading")
URL_OPTIONS = ("allow_urls", "allow_redirects", "allow_private_addresses")  # the command line reads files alone
ENGINE_ACTIONS = ("run", "report", "prompts")
ENGINE_STAGES = ("segments", "vision", "audio", "omni", "qa", "filtered", "train")  # as in `engine.config`


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """Reads the words of a command; `options` are then its options by the names of their arguments."""
    parser, commands = _build_parsers()
    if argv and argv[0] in ("train", "serve"):
        arguments, rest = commands[argv[0]].parse_known_args(argv[1:])
        arguments.rest = rest  # it goes to the parser of Transformers, or of vLLM
        arguments.command = argv[0]
    elif argv and argv[0] in commands:
        # unlike through the main parser, options may stand between the media and the question
        arguments = commands[argv[0]].parse_intermixed_args(argv[1:])
        arguments.command = argv[0]
    else:
        arguments = parser.parse_args(argv)  # --help, --version, or an error
    arguments.options = {
        action.dest: action.option_strings[0]
        for action in commands[arguments.command]._actions
        if action.option_strings
    }
    if arguments.command == "engine":
        _check_engine(commands["engine"], arguments)
    if arguments.command == "ask" and not arguments.media and Path(arguments.question).is_file():
        commands["ask"].error(
            f"the last argument is the question, but {arguments.question!r} is a file; add a question in quotes"
        )
    return arguments


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the usage is in `--help`."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _build_parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    parser = _Parser(
        prog="omnivinci-hf", description="OmniVinci: ask about images, videos and audio, and look at what it sees."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    builders = {
        "ask": _add_ask,
        "inspect": _add_inspect,
        "convert": _add_convert,
        "train": _add_train,
        "validate": _add_validate,
        "doctor": _add_doctor,
        "eval": _add_eval,
        "engine": _add_engine,
        "demo": _add_demo,
        "serve": _add_serve,
    }
    return parser, {name: build(subparsers) for name, build in builders.items()}


def _add_ask(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "ask",
        help="ask a question about images, videos and audio",
        description="Ask a question, or several, about any number of images, videos and audio (or none). The answers "
        "go to stdout, each below its question if there are several, everything else to stderr.",
    )
    _add_media(parser)
    parser.add_argument("question", metavar="QUESTION", help="the question, in quotes; it comes after the media")
    parser.add_argument(
        "--question",
        action="append",
        default=[],
        dest="more_questions",
        metavar="TEXT",
        help="another question about the same media, which are encoded once; can be given several times",
    )
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="ID_OR_PATH", help="default: %(default)s")
    parser.add_argument("--system", metavar="TEXT", help="a system message instead of the template's own")
    _add_processor_options(parser, *READING)
    parser.add_argument("--max-new-tokens", type=_count, default=128, metavar="N", help="default: %(default)s")
    parser.add_argument("--do-sample", action="store_true", help="draw the words at random instead of the likeliest")
    parser.add_argument("--seed", type=int, metavar="N", help="of the random numbers that --do-sample draws")
    parser.add_argument("--stream", action="store_true", help="print the answer while it is generated")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="of the weights; default: the checkpoint's")
    parser.add_argument(
        "--device-map", default="auto", metavar="MAP", help="auto, or a device such as cpu or cuda:0; default: auto"
    )
    return parser


def _add_inspect(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "inspect",
        help="show what the model will see of images, videos and audio",
        description="Show the sampled frames, time groups, audio windows and numbers of tokens that the model "
        "will get. No weights are loaded.",
    )
    _add_media(parser, nargs="+")
    parser.add_argument(
        "--model",
        metavar="ID_OR_PATH",
        help="take the sizes from this checkpoint; without it, those of the original one as this package knows them, "
        "with nothing downloaded",
    )
    _add_processor_options(parser, *READING)
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw it too: a .png, .svg or .pdf (needs matplotlib)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON with every frame instead of the table")
    return parser


def _add_convert(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "convert",
        help="rewrite the original checkpoint, or its successor, in the ordinary Transformers layout",
        description="Rewrite the original checkpoint, or Audio-Visual Flamingo, in the ordinary Transformers layout: "
        "model, processor and generation config. DST appears when it is complete, an old one is there until then. A "
        "killed conversion leaves `_unfinished-DST`, which the next one deletes.",
    )
    parser.add_argument("src", metavar="SRC", help="folder or Hub id of the original layout")
    parser.add_argument("dst", metavar="DST", type=Path, help="folder to write, new or empty")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="of the weights; default: the checkpoint's")
    parser.add_argument(
        "--max-shard-size", default="5GB", metavar="SIZE", help="most in one file; default: %(default)s"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the checkpoint that DST holds: its weights (model*.safetensors) and files of the same names; "
        "other files stay",
    )
    parser.add_argument("--push-to-hub", metavar="ID", help="upload DST to this repository when it is written")
    parser.add_argument(
        "--progress", action="store_true", help="show the progress bar even when stderr is not a terminal"
    )
    return parser


def _add_train(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "train",
        help="train a stage by a recipe",
        description="Train one stage by a recipe. Every option of `transformers.TrainingArguments` can be given too: "
        "--output_dir, --num_train_epochs, --per_device_train_batch_size, --bf16, --gradient_checkpointing, "
        "--eval_steps, --save_total_limit, --resume_from_checkpoint, --push_to_hub, ...; for a recipe with rewards "
        "those of `trl.GRPOConfig`: --num_generations, --temperature, --beta, ... For several processes, put "
        "`accelerate launch -m omnivinci_hf` in place of `omnivinci-hf`.",
        allow_abbrev=False,
    )
    parser.add_argument("--list-recipes", action="store_true", help="print the recipes and leave")
    parser.add_argument("--recipe", metavar="NAME", help="name of a recipe, or a .yaml file of your own")
    parser.add_argument("--model", help="checkpoint to start from: folder or hub id")
    parser.add_argument(
        "--data", nargs="+", help="JSON-lines or parquet files, a folder or hub id that `datasets` reads"
    )
    parser.add_argument("--eval-data", nargs="+", metavar="DATA", help="the same, for evaluation")
    parser.add_argument("--split", default="train", help="of a folder or hub id; default: %(default)s")
    parser.add_argument("--eval-split", default="validation", metavar="SPLIT", help="default: %(default)s")
    parser.add_argument("--media-root", metavar="DIR", help="where relative paths of media begin; default: here")
    parser.add_argument("--streaming", action="store_true", help="read the data from front to back (needs --max_steps)")
    parser.add_argument("--max-length", type=_count, metavar="N", help="cut rows off after so many tokens")
    parser.add_argument("--packing", action="store_true", help="one sequence per batch instead of padded rows")
    parser.add_argument(
        "--on-error", choices=("raise", "skip"), default="raise", help="what a bad row does; default: %(default)s"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, help="of the weights; default: float32, below an adapter the checkpoint's own"
    )
    parser.add_argument("--merge", action="store_true", help="also write the checkpoint with the adapter merged in")
    parser.add_argument(
        "--reward",
        action="append",
        metavar="NAME[=WEIGHT]",
        help="in place of the rewards of the recipe (grpo, grpo-lora): exact, letter, numeric, format, judge, or a "
        "function of your own as file.py:function; can be given several times",
    )
    _add_processor_options(parser, *SAMPLING)
    estimate = parser.add_argument_group(
        "memory", "With --estimate nothing is trained; without --model, the original checkpoint's sizes are taken."
    )
    estimate.add_argument("--estimate", action="store_true", help="print the memory that a process needs, and leave")
    estimate.add_argument("--audio-sec", type=_not_negative, default=0.0, metavar="SEC", help="audio of each row")
    estimate.add_argument("--text-tokens", type=_count, default=512, metavar="N", help="words of each row")
    estimate.add_argument("--num-processes", type=_count, default=1, metavar="N")
    estimate.add_argument("--sharding", choices=("none", "fsdp", "zero3"), default="none")
    return parser


def _add_validate(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "validate",
        help="check training data: report every row that cannot be used",
        description="Go through all rows of training data and report every bad one, with everything that is wrong with "
        "it: broken JSON, a missing answer, media that are missing or cannot be read. The exit code is 0 if all rows "
        "are good, 1 if any is bad, 2 if the data cannot be read at all.",
    )
    parser.add_argument(
        "data", metavar="DATA", help="a JSON-lines file; or a parquet file, a folder or a Hub id that `datasets` reads"
    )
    parser.add_argument("--media-root", metavar="DIR", help="where relative paths of media begin; default: here")
    parser.add_argument("--split", default="train", help="of a folder or Hub id; default: %(default)s")
    parser.add_argument("--no-media", action="store_true", help="do not open the media, check the rows alone")
    parser.add_argument(
        "--model",
        metavar="ID_OR_PATH",
        help="also encode the rows as `train` with this checkpoint does, which tells those beyond its context",
    )
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        help="the recipe of that training, for its options of the processor, and for the form of rows with rewards",
    )
    parser.add_argument("--max-length", type=_count, metavar="N", help="as that training cuts rows off")
    parser.add_argument(
        "--reward", action="append", metavar="NAME[=WEIGHT]", help="as that training has in place of the recipe's"
    )
    parser.add_argument(
        "--max-completion-length",
        type=_count,
        metavar="N",
        help="room for an answer in the context, with rewards and --model; default: the recipe's, or 512 as TRL's",
    )
    _add_processor_options(parser, *SAMPLING)
    parser.add_argument("--json", action="store_true", help="print one JSON object per bad row")
    return parser


def _add_doctor(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "doctor",
        help="tell what a checkpoint is and whether it will load",
        description="Tell what a checkpoint or an adapter is, what is unusual about it, and whether it will load, from "
        "its JSON files, its tokenizer and the headers of its weights: a few megabytes, also of a repository on the "
        "Hub. The page holds neither paths of this machine nor tokens. The exit code is 0 if it will load, 1 if not, 2 "
        "if that cannot be told.",
    )
    parser.add_argument("checkpoint", metavar="PATH_OR_ID", help="folder or Hub id")
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit on the Hub")
    parser.add_argument(
        "--json", action="store_true", help="print JSON, with all configurations and the shapes of all tensors"
    )
    return parser


def _add_eval(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "eval",
        help="measure a checkpoint on a published benchmark",
        description="Ask a checkpoint the questions of a benchmark, from the files as its owners distribute them; "
        "nothing is downloaded. Each clip is encoded once. Answers are scored strictly, beside that by the owners' "
        "rule, and written as their scorers take them. A run that was ended goes on where it was.",
    )
    parser.add_argument("--task", choices=list(TASKS), help="the benchmark")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the folder with its files, archives unpacked")
    parser.add_argument("--list-tasks", action="store_true", help="print the benchmarks and their files, and leave")
    parser.add_argument(
        "--tasks-path", action="store_true", help="print the folder for --include_path of lmms-eval, and leave"
    )
    parser.add_argument("--limit", type=_count, metavar="N", help="ask the first N questions only")
    parser.add_argument("--model", default=DEFAULT_MODEL, metavar="ID_OR_PATH", help="default: %(default)s")
    parser.add_argument("--output", type=Path, metavar="DIR", help="for the results; default: evaluation/TASK")
    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        help="the words of a question, with the places {question} and {options}, in place of the benchmark's",
    )
    parser.add_argument("--system", metavar="TEXT", help="a system message instead of the template's own")
    _add_processor_options(parser, *READING)
    parser.add_argument(
        "--context",
        type=_count,
        dest="max_position_embeddings",
        metavar="N",
        help="let a sequence have N positions, also beyond those for which the language model was made; default: the "
        "checkpoint's",
    )
    parser.add_argument(
        "--max-new-tokens", type=_count, default=MAX_NEW_TOKENS, metavar="N", help="default: %(default)s"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="of the weights; default: the checkpoint's")
    parser.add_argument(
        "--device-map", default="auto", metavar="MAP", help="auto, or a device such as cpu or cuda:0; default: auto"
    )
    return parser


def _add_engine(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "engine",
        help="make captions and questions about videos for training",
        description="The data engine: picture and audio are captioned apart, the captions corrected and joined, "
        "questions asked and filtered. `run` goes through the stages (" + ", ".join(ENGINE_STAGES) + "); after any end "
        "it goes on where it was, and sends no request again whose reply came. `report` tells what there is. `prompts` "
        "writes the templates of the prompts to a folder, to be edited.",
    )
    parser.add_argument("action", choices=ENGINE_ACTIONS, metavar="ACTION", help=", ".join(ENGINE_ACTIONS))
    parser.add_argument("file", type=Path, metavar="FILE", help="configuration (YAML); for `prompts` a folder")
    run = parser.add_argument_group("run")
    run.add_argument("--stage", choices=ENGINE_STAGES, help="the last stage to run; default: train")
    run.add_argument("--limit", type=_count, metavar="N", help="take the first N segments only")
    run.add_argument("--dry-run", action="store_true", help="send and write nothing, estimate requests and cost")
    run.add_argument(
        "--shard",
        type=_shard,
        metavar="I/N",
        help="take part I of N of the media, from 0/N to N-1/N, and write to a folder of its own (needs datasets)",
    )
    parser.add_argument("--json", action="store_true", help="of `report`: print JSON")
    return parser


def _check_engine(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Refuses options that the action does not have."""
    actions = {"stage": "run", "limit": "run", "dry_run": "run", "shard": "run", "json": "report"}
    for name, action in actions.items():
        if getattr(arguments, name) not in (None, False) and arguments.action != action:
            parser.error(f"--{name.replace('_', '-')} belongs to `{action}`, not to `{arguments.action}`")


def _add_demo(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "demo",
        help="ask a small trained model about a made-up clip",
        description="Make a clip that was in no training, show what happens in it, ask the small checkpoint of the "
        "package six questions about it, tell which answers are right.",
    )
    parser.add_argument(
        "--number", type=_clip_number, default=0, metavar="N", help="another clip; default: %(default)s"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="write the clip to this new or empty folder and keep it"
    )
    return parser


def _add_serve(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "serve",
        help="serve a checkpoint with vLLM",
        description="Serve a checkpoint, in the original layout or the converted one, with vLLM's server, which speaks "
        "OpenAI's API. Every option of `vllm serve` can be given too: --port, --max-model-len, "
        "--gpu-memory-utilization, --mm-processor-kwargs '{\"num_frames\": 32}', ... (`python -m "
        "vllm.entrypoints.openai.api_server --help=all` lists them). It listens to this machine alone unless --host is "
        "given, and prints a first request to try.",
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="MODEL", help="folder or Hub id of the checkpoint")
    return parser


def _add_media(parser: argparse.ArgumentParser, nargs: str = "*") -> None:
    parser.add_argument("media", nargs=nargs, metavar="MEDIA", help="image, video or audio files, in this order")


def _add_processor_options(parser: argparse.ArgumentParser, *groups: OptionGroup) -> None:
    """Adds the options of the processor in some groups that a call takes, under their own names."""
    for option in OPTIONS:
        if option.in_call and option.group in groups and option.name not in URL_OPTIONS:
            flag = f"--{option.name.replace('_', '-')}"
            parser.add_argument(flag, dest=option.name, help=_help_of(option), **_form_of(option.name, option.check))


def _help_of(option: Option) -> str:
    """Writes the summary of an option in the words of the command line, where None is to leave the option out."""
    summary = re.sub(r"; None: [^;]*$", "", option.summary)
    flags = {other.name: f"--{other.name.replace('_', '-')}" for other in OPTIONS}
    return re.sub(r"`(\w+)`", lambda match: flags.get(match[1], match[1]), summary).replace("%", "%%")


def _form_of(name: str, check: Check) -> dict[str, Any]:
    """Says how `argparse` reads the values that a check takes."""
    metavar = "SEC" if name.endswith("_sec") else "N" if getattr(check, "whole", False) else "NUMBER"
    if isinstance(check, Number):
        number, kind = (int, "whole number") if check.whole else (float, "number")
        return {"type": _checked(name, check, number, kind), "metavar": metavar}
    if isinstance(check, Ascending):
        number = int if check.whole else float
        read_list = _checked(name, check, lambda text: [number(entry) for entry in text.split(",")], "list of numbers")
        return {"type": read_list, "metavar": f"{metavar},{metavar},..."}
    if isinstance(check, Limits):
        return {"type": _limit, "action": "append", "metavar": "NAME=NUMBER"}
    assert isinstance(check, Choice), f"the command line has no form for {check!r}"
    return {"action": argparse.BooleanOptionalAction} if True in check.values else {"choices": check.values}


def _checked(name: str, check: Check, parse: Callable[[str], Any], kind: str) -> Callable[[str], Any]:
    """Returns a function that reads a value and refuses what the option cannot have, in the words of `argparse`.

    Args:
        kind: of the value, for the error "invalid ... value".
    """

    def read(text: str) -> Any:
        value = parse(text)
        try:
            check.check(name, value)
        except ValueError as error:
            words = str(error).removeprefix(f"`{name}` ").removesuffix(".").replace(" or None,", ",")
            raise argparse.ArgumentTypeError(words) from error
        return value

    read.__name__ = kind
    return read


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def _not_negative(text: str) -> float:
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {text}")
    return number


def _limit(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    return name, float(number)


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise argparse.ArgumentTypeError(f"must be 0/N to N-1/N, got {text}")
    return int(index), int(count)


def _clip_number(text: str) -> int:
    number = int(text)
    if not 0 <= number < DEMO_CLIPS:
        raise argparse.ArgumentTypeError(f"must be 0 to {DEMO_CLIPS - 1:,}, got {text}")
    return number


_count.__name__, _limit.__name__ = "whole number", "NAME=NUMBER"
_not_negative.__name__ = "number"  # for argparse's "invalid ... value"
