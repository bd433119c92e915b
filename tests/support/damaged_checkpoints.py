"""Ways in which a checkpoint can be incomplete or damaged: each function spoils a copy of the golden one."""

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file


def spoil_json(folder: Path) -> None:
    (folder / "llm" / "config.json").write_text('{"hidden_size": ')


def spoil_main_file(folder: Path) -> None:
    (folder / "config.json").write_text("<html>Not found</html>")


def empty_main_file(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


def remove_component(folder: Path) -> None:
    shutil.rmtree(folder / "sound_mm_projector")


def remove_weights(folder: Path) -> None:
    (folder / "vision_tower" / "model.safetensors").unlink()


def remove_tokenizer(folder: Path) -> None:
    for path in [*(folder / "llm").glob("*token*"), folder / "llm" / "vocab.json", folder / "llm" / "merges.txt"]:
        path.unlink()


def pickle_weights(folder: Path) -> None:
    path = folder / "llm" / "model.safetensors"
    path.rename(path.with_name("pytorch_model.bin"))


def cut_data(folder: Path) -> None:
    path = folder / "llm" / "model.safetensors"
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 1000)


def cut_header(folder: Path) -> None:
    with open(folder / "llm" / "model.safetensors", "r+b") as file:
        file.truncate(300)


def cut_length(folder: Path) -> None:
    with open(folder / "llm" / "model.safetensors", "r+b") as file:
        file.truncate(5)


def empty_weights(folder: Path) -> None:
    (folder / "llm" / "model.safetensors").write_bytes(b"")


def lfs_pointer(folder: Path) -> None:
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 1073741824\n"
    (folder / "llm" / "model.safetensors").write_text(text)


def shards(folder: Path) -> None:
    """Not damaged: the language model in two files."""
    llm = folder / "llm"
    tensors = load_file(llm / "model.safetensors")
    weight_map = {}
    for number in (1, 2):
        file = f"model-0000{number}-of-00002.safetensors"
        part = {name: tensors[name] for name in sorted(tensors)[number - 1 :: 2]}
        save_file(part, llm / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (llm / "model.safetensors").unlink()
    (llm / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def missing_shard(folder: Path) -> None:
    shards(folder)
    (folder / "llm" / "model-00002-of-00002.safetensors").unlink()


def spoil_index(folder: Path) -> None:
    shards(folder)
    (folder / "llm" / "model.safetensors.index.json").write_text('{"weight_map": {}}')


def index_of_pickles(folder: Path) -> None:
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "pytorch_model.bin"}}
    (folder / "llm" / "model.safetensors").unlink()
    (folder / "llm" / "model.safetensors.index.json").write_text(json.dumps(index))


def lack_tensor(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors.pop("model.norm.weight"))


def surplus_tensor(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors.update(extra=tensors["model.norm.weight"].clone()))


def misshapen_tensor(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors.update({"model.norm.weight": tensors["model.norm.weight"][:-1]}))


def change_weights(folder: Path, change) -> None:
    path = folder / "llm" / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})


DAMAGES = (
    *(spoil_json, spoil_main_file, empty_main_file, remove_component, remove_weights, remove_tokenizer),
    *(pickle_weights, cut_data, cut_header, cut_length, empty_weights, lfs_pointer, missing_shard, spoil_index),
    *(index_of_pickles, lack_tensor, surplus_tensor, misshapen_tensor),
)
