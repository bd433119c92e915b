"""This module writes a checkpoint of an original layout anew in the layout of Transformers."""

import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from huggingface_hub import HfApi, ModelCard, split_torch_state_dict_into_shards
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from ..hub.atomic_folders import whole_folder
from ..hub.cards import SMALL_LIMIT, SUCCESSOR, hub_id, render_model_card
from ..omnivinci.checkpoint_files_omnivinci import ORIGINAL, is_original_checkpoint, read_config
from ..omnivinci.configuration_omnivinci import OmniVinciConfig
from ..omnivinci.modeling_omnivinci import OmniVinciForConditionalGeneration
from ..omnivinci.processing_omnivinci import OmniVinciProcessor
from .successor import is_successor
from .weights import SAFETENSORS_NAMES, OriginalStateDict


Progress = Callable[[int, int], None]


def convert_checkpoint(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    *,
    dtype: str | torch.dtype = "auto",
    max_shard_size: int | str = "5GB",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Writes the original checkpoint `src` (folder or hub id) to the folder `dst` in the ordinary layout.

    The result is what `from_pretrained(src, dtype=dtype).save_pretrained(dst)` writes for model, processor and
    generation config, but only one tensor is in memory at a time. `dst` appears when it is complete and not before, an
    old one is there until then, and files in it that are not of its checkpoint stay, see [`whole_folder`].

    Args:
        dtype: of the weights: "auto" (what the checkpoint's config says), a name as "bfloat16", or a `torch.dtype`.
        max_shard_size: most bytes in one file, such as "5GB".
        overwrite: replace the checkpoint that `dst` holds already: its weights (`model*.safetensors`) and the files of
            the same names.
        progress: called with the bytes written so far and those of all weights.

    Returns:
        The path of `dst`.

    Raises:
        ValueError: when `src` is not in the original layout, is quantized, or does not fit its config.
        OSError: when `src` cannot be found or `dst` cannot be written (`FileExistsError` when it is not empty).
    """
    dst = Path(os.path.abspath(dst))
    _check_destination(src, dst, overwrite)
    if not is_original_checkpoint(src, {}):
        raise ValueError(
            f"{src} is not in the original layout (a config.json with `model_type` 'vila' or 'audiovisualflamingo'), "
            "so there is nothing to convert."
        )
    with whole_folder(dst, overwrite=overwrite) as folder:
        _write_checkpoint(str(src), folder, dtype, max_shard_size, progress)
    return dst


def push_checkpoint(folder: str | os.PathLike, repo_id: str, source: str | os.PathLike | None = None) -> str:
    """Uploads a converted folder to the Hub and returns the address; the repository is created if need be.

    A model card is written unless the folder or the repository has one.

    Args:
        source: what the folder was converted from, which the card credits; by default the original checkpoint.
    """
    api = HfApi()
    url = api.create_repo(repo_id, exist_ok=True)
    card = Path(folder) / "README.md"
    if not card.exists() and not api.file_exists(url.repo_id, card.name):
        _card_of_converted(folder, url.repo_id, source).save(card)
    api.upload_folder(repo_id=url.repo_id, folder_path=str(folder), commit_message="Upload OmniVinci checkpoint")
    return str(url)


def _card_of_converted(folder: str | os.PathLike, repo_id: str, source: str | os.PathLike | None) -> ModelCard:
    with torch.device("meta"):
        num_parameters = OmniVinciForConditionalGeneration(OmniVinciConfig.from_pretrained(folder)).num_parameters()
    base_model = None  # a much smaller one than those that were published is somebody's test
    if num_parameters >= SMALL_LIMIT:
        name = "" if source is None else str(source)
        of_successor = bool(name) and is_successor(read_config(name, {}) or {}, name)
        base_model = hub_id(name) or (SUCCESSOR if of_successor else ORIGINAL)
    return render_model_card("converted", repo_id, base_model=base_model, num_parameters=num_parameters)


def _check_destination(src: str | os.PathLike, dst: Path, overwrite: bool) -> None:
    source = Path(os.path.realpath(src))
    if source.exists() and source.is_relative_to(os.path.realpath(dst)):
        raise ValueError(f"{dst} is or contains the source {src}; give another folder.")
    if dst.exists() and not dst.is_dir():
        raise FileExistsError(f"{dst} is a file; give a folder that is new or empty.")
    if not dst.exists() or not any(dst.iterdir()):
        return
    if not overwrite:
        raise FileExistsError(f"{dst} is not empty; give a new folder, or `overwrite=True`.")
    if not (dst / "config.json").is_file():
        # A mistyped path must not delete somebody's home.
        raise FileExistsError(f"{dst} holds no checkpoint (no config.json) and is not overwritten; empty it yourself.")


def _write_checkpoint(
    src: str, folder: Path, dtype: str | torch.dtype, max_shard_size: int | str, progress: Progress | None
) -> None:
    config = OmniVinciConfig.from_pretrained(src)
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(f"{src} is quantized; convert the checkpoint that it was made from, and quantize that.")
    # The meta device reads no weights, but everything is checked, and every setting ends up as in a real load.
    model = OmniVinciForConditionalGeneration.from_pretrained(src, dtype=dtype, device_map="meta")
    if model.dtype not in SAFETENSORS_NAMES:
        names = ", ".join(str(known).removeprefix("torch.") for known in SAFETENSORS_NAMES)
        raise ValueError(f"`dtype` must be auto, {names}, got {dtype}.")
    model.add_remote_code_entries()
    custom_object_save(model, folder)
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    OmniVinciProcessor.from_pretrained(src).save_pretrained(folder)
    state_dict = OriginalStateDict(src)
    if model.config.tie_word_embeddings:
        state_dict.find_tied_words()
    _write_weights(model, state_dict, folder, max_shard_size, progress)


def _write_weights(
    model: OmniVinciForConditionalGeneration,
    state_dict: Mapping,
    folder: Path,
    max_shard_size: int | str,
    progress: Progress | None,
) -> None:
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del shapes["lm_head.weight"]
    meta = {name: torch.empty(shape, dtype=model.dtype, device="meta") for name, shape in shapes.items()}
    split = split_torch_state_dict_into_shards(
        meta, filename_pattern="model{suffix}.safetensors", max_shard_size=max_shard_size
    )
    total = sum(tensor.nbytes for tensor in meta.values())
    done = 0
    for file, names in split.filename_to_tensors.items():
        part = {name: shapes[name] for name in names}
        for num_bytes in _write_safetensors(folder / file, state_dict, part, model.dtype):
            done += num_bytes
            if progress is not None:
                progress(done, total)
    if split.is_sharded:
        metadata = {"total_parameters": model.num_parameters(), **split.metadata}
        index = {"metadata": metadata, "weight_map": split.tensor_to_filename}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(text, encoding="utf-8")


def _write_safetensors(
    path: Path, state_dict: Mapping, shapes: Mapping[str, torch.Size], dtype: torch.dtype
) -> Iterator[int]:
    """Writes one tensor after the other and yields the size of each in bytes.

    `safetensors.save_file` would want the whole shard at once.
    """
    header: dict[str, dict[str, Any]] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": SAFETENSORS_NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data to 8 bytes
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in shapes:
            yield _write_tensor(file, state_dict[name], dtype)


def _write_tensor(file: BinaryIO, lazy_slice, dtype: torch.dtype) -> int:
    # This is a function, so that nothing of a tensor is held while the next one is read.
    return file.write(lazy_slice[:].to(dtype).contiguous().view(torch.uint8).numpy().data)
