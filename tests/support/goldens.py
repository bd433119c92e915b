"""Golden numbers of a reference implementation: where they are, and how a case is run through the public API.

The full set lies outside the repository (`OMNIVINCI_GOLDENS`, by default `../shared/goldens`); `tests/data/goldens`
holds a small part of it, cut by this file run as a script: `python -m tests.support.goldens`.
"""

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.support.paths import FULL_GOLDENS, SMALL_GOLDENS


SMALL = SMALL_GOLDENS
FULL = FULL_GOLDENS
if "OMNIVINCI_GOLDENS" in os.environ and not FULL.is_dir():
    raise FileNotFoundError(f"OMNIVINCI_GOLDENS={FULL} is no folder")
FOLDER = FULL if FULL.is_dir() else SMALL
SMALL_CASES = (
    *("a_text", "b_image", "c_two_images", "d_audio3", "h_video5", "g_video5_silent", "i_video75", "l_multiturn"),
    *("k2_batch_both_media", "p_222", "p_311", "s_tokens", "s_end_tokens", "t_lang_false", "t_pixel_mtct"),
    *("t_lang_true_notime", "x_bos_eos", "x_i_hop60", "x_short_video", "x_no_audio_load", "x_not_interleaved"),
)
SMALL_ROWS = 8
# Cases that the reference gets wrong (docs/source/en/original_checkpoint.md, "What is different from the original
# code"), and what is right instead: a file of the case, the expectations of other cases or conversations run alone, one
# per row, or nothing: then they must only work.
MENDED = {
    "k_batch": ["h_video5/expected", "k_batch/expected"],
    "k2_batch_both_media": ["k2_batch_both_media/expected_single0", "k2_batch_both_media/expected_single1"],
    "k3_batch_crash": None,
    "p_122_f8": None,
    "x_audio_then_video": None,
    "x_batch_two_images": None,
    "x_crash_frames_gt_tokens": None,
    "x_short_video": ["x_short_video/expected_original"],
    "x_two_videos_silent_av": None,
}
# the original code has no weights for it, so neither does the layout: refused
REFUSED = ("t_learned",)


@dataclass
class Case:
    name: str
    folder: Path
    status: str
    conversations: list
    expected: list["Expected"] = field(default_factory=list)

    @property
    def is_batch(self) -> bool:
        return len(self.conversations) > 1


@dataclass
class Expected:
    """What one row of a batch must give: logits of `positions`, counted from the row's first token."""

    length: int
    positions: torch.Tensor
    logits: torch.Tensor
    greedy_ids: list[int] | None
    gap: float
    tensors: dict


def case_names() -> list[str]:
    names = sorted(path.parent.name for path in FOLDER.glob("*/expected*.json"))
    return [name for name in dict.fromkeys(names) if name not in REFUSED]


def load_case(name: str) -> Case:
    folder = FOLDER / name
    conversations = json.loads((folder / "conversation.json").read_text())
    if not isinstance(conversations[0], list):
        conversations = [conversations]
    for message in (message for conversation in conversations for message in conversation):
        for part in message["content"] if isinstance(message["content"], list) else []:
            if "path" in part:
                part["path"] = str((folder / part["path"]).resolve())
    status = json.loads((folder / "expected.json").read_text())["status"]
    case = Case(name, folder, status, conversations)
    files = MENDED.get(name, [f"{name}/expected"] * len(conversations))
    case.expected = [_row(FOLDER / file, row, len(files)) for row, file in enumerate(files or [])]
    return case


def _row(file: Path, row: int, num_rows: int) -> Expected:
    info, tensors = json.loads(file.with_suffix(".json").read_text()), load_file(file.with_suffix(".safetensors"))
    row = row if len(tensors["logits"]) == num_rows else 0
    mask = tensors["fused_attention_mask"][row]
    length = int(mask.sum())
    rows = tensors.get("logits.rows", torch.arange(tensors["logits"].shape[1]))
    kept = rows >= len(mask) - length
    greedy = info.get("greedy_ids")
    return Expected(
        length=length,
        positions=rows[kept] - (len(mask) - length),
        logits=tensors["logits"][row][kept],
        greedy_ids=None if greedy is None else greedy[row],
        gap=info["last_top1_minus_top2"][row] if greedy is not None else 0.0,
        tensors=tensors,
    )


def write_checkpoint(name: str, folder: Path) -> Path:
    """The golden checkpoint with the case's overrides, weights linked."""
    folder.mkdir()
    for item in (FOLDER / "checkpoint").iterdir():
        if item.name != "config.json":
            os.symlink(item.resolve(), folder / item.name)
    config = json.loads((FOLDER / "checkpoint" / "config.json").read_text())
    _merge(config, json.loads((FOLDER / name / "config_overrides.json").read_text()))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def round_pixels(inputs):
    """The reference's processor rounds pixels to half precision; ours does not."""
    for name in inputs:
        if name.startswith("pixel_values"):
            inputs[name] = inputs[name].half().float()
    return inputs


def _merge(base: dict, patch: dict) -> None:
    for key, value in patch.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value


def _write_small_set() -> None:
    shutil.rmtree(SMALL, ignore_errors=True)
    shutil.copytree(FULL / "checkpoint", SMALL / "checkpoint")
    for name in SMALL_CASES:
        source, target = FULL / name, SMALL / name
        target.mkdir(parents=True)
        for file in source.iterdir():
            if file.suffix == ".safetensors" and file.stem.startswith("expected"):
                save_file(_trimmed(load_file(file)), target / file.name)
            elif file.suffix != ".safetensors":
                shutil.copyfile(file, target / file.name)
    for path in SMALL.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _trimmed(tensors: dict) -> dict:
    length = tensors["logits"].shape[1]
    rows = tensors.get("logits.rows", torch.arange(length))
    return {
        "logits": tensors["logits"][:, -SMALL_ROWS:].contiguous(),
        "logits.rows": rows[-SMALL_ROWS:].contiguous(),
        "fused_attention_mask": tensors["fused_attention_mask"],
    }


if __name__ == "__main__":
    _write_small_set()
