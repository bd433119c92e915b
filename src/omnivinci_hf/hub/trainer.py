"""Trainers whose checkpoints and pushes are fit for the Hub: a card of this package, its code, and no pickle files."""

import hashlib
import json
import random
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError
from safetensors.torch import load_file, save_file
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy, rotate_checkpoints
from transformers.utils import (
    ADAPTER_SAFE_WEIGHTS_NAME,
    ADAPTER_WEIGHTS_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    PushInProgress,
)

from ..omnivinci.checkpoint_files_omnivinci import read_weight_index
from .cards import card_of_model, is_placeholder
from .folders import delete_unfinished, unfinished_folder, whole_folder
from .resume import find_checkpoint


# what Transformers' trainers, DeepSpeed, FSDP and others write with pickle
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.joblib", "*.distcp", ".metadata")
PICKLED_STATES = ("optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt")
# pickled weights that would be read unless one of the others is there
PICKLED_WEIGHTS = {
    WEIGHTS_NAME: (SAFE_WEIGHTS_NAME,),
    WEIGHTS_INDEX_NAME: (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME),
    ADAPTER_WEIGHTS_NAME: (ADAPTER_SAFE_WEIGHTS_NAME,),
    f"*/{ADAPTER_WEIGHTS_NAME}": (ADAPTER_SAFE_WEIGHTS_NAME,),
}
FINGERPRINT = "<!-- written by a trainer; sha256 of the above: "


class HubTrainerMixin:
    """Stands before any trainer that descends from Transformers': `class MyTrainer(HubTrainerMixin, SFTTrainer)`.

    Checkpoints hold safetensors and JSON alone: the training arguments, the states of optimizer, schedule, loss scaler
    and of the random numbers too, so that training goes on from a checkpoint of this machine or of the Hub
    (`hub_strategy="checkpoint"`) without unpickling anything. DeepSpeed and FSDP write their states in their own way,
    pickled: those stay on this machine, and resuming there trusts the files of its disk.

    Every push carries the code that loads the model, and none carries a pickle, whatever lies in the folder. A
    README.md that somebody wrote or changed, in the folder or in the repository, is left alone: a card of a trainer
    ends with its fingerprint.
    """

    _unfinished: Path | None = None  # where a checkpoint is being written

    # -- checkpoints

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        """As [`Trainer.train`]; `resume_from_checkpoint=True` means the last checkpoint that is whole.

        Raises:
            ValueError: when there is none, or the one that is named is not whole.
        """
        resume_from_checkpoint = find_checkpoint(resume_from_checkpoint, self.args.output_dir)
        if self.args.should_save:
            delete_unfinished(self.args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-*")
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """As the base class, to a folder that gets its name when all processes have written; older ones go then."""
        final = Path(super()._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        writer = whole_folder(final, overwrite=True, keep_others=False)
        with writer if self.args.should_save else nullcontext(unfinished_folder(final)) as folder:
            self.accelerator.wait_for_everyone()  # what a killed run left is deleted
            self._unfinished = folder
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._unfinished = None
            if self.state.best_global_step:
                best = final.with_name(f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}")
                if best == final or best.exists():
                    self.state.best_model_checkpoint = str(best)
            if self.args.should_save:
                self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
            self.accelerator.wait_for_everyone()
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(final))
        if self.args.should_save:
            rotate_checkpoints(
                str(final.parent),
                self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint or str(final),
                use_mtime=True,
            )

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._unfinished is None else str(self._unfinished.parent)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if not self.args.should_save:
            return
        folder = Path(output_dir if output_dir is not None else self.args.output_dir)
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
        (folder / "training_args.json").write_text(self.args.to_json_string() + "\n", encoding="utf-8")
        card = folder / "README.md"
        if card.exists() and is_placeholder(ModelCard.load(card, ignore_metadata_errors=True)):
            card.unlink()  # PEFT's

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        if not self._has_own_format():
            refuse_pickled_weights(Path(resume_from_checkpoint))
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if not self._has_own_format():
            refuse_pickled_weights(Path(self.state.best_model_checkpoint))
        super()._load_best_model()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self._has_own_format():
            super()._save_optimizer_and_scheduler(output_dir)
        elif self.args.should_save:
            save_state(self.optimizer.state_dict(), Path(output_dir) / "optimizer")
            save_state(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or self._has_own_format():
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        if found := [name for name in PICKLED_STATES if (Path(checkpoint) / name).exists()]:
            raise ValueError(
                f"{checkpoint} was written by another trainer: its {found} are pickles, which are never read. Go on "
                "with that trainer, or start anew from the checkpoint's weights."
            )
        for name, target in (("optimizer", self.optimizer), ("scheduler", self.lr_scheduler)):
            if (path := Path(checkpoint) / name).with_suffix(".json").exists():
                target.load_state_dict(load_state(path))

    def _save_scaler(self, output_dir: str) -> None:
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None and self.args.should_save:
            save_state(scaler.state_dict(), Path(output_dir) / "scaler")

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and (path := Path(checkpoint) / "scaler").with_suffix(".json").exists():
            self.accelerator.scaler.load_state_dict(load_state(path))

    def _save_rng_state(self, output_dir: str) -> None:
        kind, words, *rest = np.random.get_state()
        state = {
            "python": random.getstate(),
            "numpy": [kind, words.tolist(), *rest],
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        Path(output_dir).mkdir(parents=True, exist_ok=True)  # this process may be faster than the first one
        save_state(state, Path(output_dir) / f"rng_state_{self.args.process_index}")

    def _load_rng_state(self, checkpoint: str | None) -> None:
        path = Path(checkpoint or "") / f"rng_state_{self.args.process_index}"
        if checkpoint is None or not path.with_suffix(".json").exists():
            return
        state = load_state(path)
        random.setstate(state["python"])
        np.random.set_state(tuple(state["numpy"]))
        torch.set_rng_state(state["torch"])
        if len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])

    def _has_own_format(self) -> bool:
        return self.is_deepspeed_enabled or self.is_fsdp_enabled

    # -- pushes

    def init_hf_repo(self, *args, **kwargs) -> None:
        super().init_hf_repo(*args, **kwargs)
        if not self.is_world_process_zero():
            return
        # the Hub obeys it, and reads the last line that fits
        ignore = Path(self.args.output_dir) / ".gitignore"
        lines = ignore.read_text(encoding="utf-8").splitlines() if ignore.exists() else []
        if lines[-len(PICKLES) :] != list(PICKLES):
            ignore.parent.mkdir(parents=True, exist_ok=True)
            ignore.write_text("\n".join([*lines, *PICKLES]) + "\n", encoding="utf-8")

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As the base class, and: the code goes along, pickles do not."""
        if self._unfinished is not None:
            return  # it is pushed when it has its name
        strategy, busy = (
            self.args.hub_strategy,
            self.push_in_progress is not None and not self.push_in_progress.is_done(),
        )
        if not self.is_world_process_zero() or strategy == HubStrategy.END or (busy and not self.args.hub_always_push):
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        # copied, because a checkpoint may be deleted before it is uploaded
        states = [f"{name}.*" for name in ("optimizer", "scheduler", "scaler", "rng_state_*")]
        left_out = shutil.ignore_patterns(*PICKLES, *states, TRAINER_STATE_NAME, "global_step*")
        shutil.copytree(checkpoint_folder, self.args.output_dir, ignore=left_out, dirs_exist_ok=True)
        message = f"Training in progress, step {self.state.global_step}"
        options = {
            "repo_id": self.hub_model_id,
            "token": self.args.hub_token,
            "revision": self.args.hub_revision,
            "run_as_future": True,
        }
        never = [*PICKLES, "**/.metadata"]
        jobs = [
            HfApi().upload_folder(
                folder_path=self.args.output_dir,
                commit_message=message,
                ignore_patterns=["_*", "checkpoint-*", *never],
                **options,
            )
        ]
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            name = "last-checkpoint" if strategy == HubStrategy.CHECKPOINT else Path(checkpoint_folder).name
            jobs.append(
                HfApi().upload_folder(
                    folder_path=checkpoint_folder,
                    path_in_repo=name,
                    commit_message=f"{message}, checkpoint",
                    ignore_patterns=never,
                    **options,
                )
            )
        if busy:
            self.push_in_progress.jobs.extend(jobs)
        else:
            self.push_in_progress = PushInProgress(jobs)

    def create_model_card(self, license=None, tags=None, model_name=None, dataset=None, dataset_tags=None, **kwargs):
        """As [`Trainer.create_model_card`], from this package's template; `finetuned_from` names the base model."""
        path = Path(self.args.output_dir) / "README.md"
        if not self.is_world_process_zero() or self._is_somebodys(path):
            return
        options = {"base_model": kwargs["finetuned_from"]} if kwargs.get("finetuned_from") else {}
        card = card_of_model(
            self.accelerator.unwrap_model(self.model),
            self.hub_model_id or self.args.hub_model_id or model_name or path.parent.name,
            license=license,
            tags=_as_list(tags),
            datasets=_as_list(dataset_tags),
            training=self._describe_training(dataset),
            **options,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(with_fingerprint(card.content), encoding="utf-8")

    def _is_somebodys(self, path: Path) -> bool:
        """Whether the folder, or else the repository, has a card that is not as a trainer wrote it."""
        if path.exists():
            return not has_fingerprint(path.read_text(encoding="utf-8"))
        if not self.hub_model_id:
            return False
        options = {"revision": self.args.hub_revision, "token": self.args.hub_token}
        try:
            found = HfApi().hf_hub_download(self.hub_model_id, "README.md", **options)
        except (EntryNotFoundError, RevisionNotFoundError):
            return False
        text = Path(found).read_text(encoding="utf-8")
        return not has_fingerprint(text) and not is_placeholder(ModelCard(text, ignore_metadata_errors=True))

    def _describe_rate(self) -> str:
        return f"{self.args.learning_rate:g}"

    def _describe_training(self, dataset) -> str:
        args, state = self.args, self.state
        lines = [
            f"Trained with `{type(self).__name__}`; steps: {state.global_step}, epochs: {state.epoch or 0:.2f}.",
            "",
            f"- learning rate {self._describe_rate()}, schedule {_name(args.lr_scheduler_type)}, {_name(args.optim)}",
            f"- batch size {args.train_batch_size} x {args.gradient_accumulation_steps} x {args.world_size}",
            f"- seed {args.seed}",
        ]
        if names := _as_list(dataset):
            lines.append(f"- data: {', '.join(names)}")
        losses = [log["loss"] for log in state.log_history if "loss" in log]
        if losses:
            lines.append(f"- last training loss {losses[-1]:.4f}")
        metrics = next((log for log in reversed(state.log_history) if "eval_loss" in log), {})
        lines += [f"- {name} {value:.4f}" for name, value in metrics.items() if name.startswith("eval_")]
        return "\n".join(lines)


class HubTrainer(HubTrainerMixin, Trainer):
    """[`~transformers.Trainer`] with the manners of [`HubTrainerMixin`]."""


def refuse_pickled_weights(checkpoint: Path) -> None:
    """
    Raises:
        ValueError: when the weights of a checkpoint, or those of an adapter, would be read from a pickle.
    """
    if (index := checkpoint / SAFE_WEIGHTS_INDEX_NAME).exists():
        read_weight_index(index)
    for pattern, readable in PICKLED_WEIGHTS.items():
        for path in checkpoint.glob(pattern):
            if not any(path.with_name(name).exists() for name in readable):
                raise ValueError(
                    f"{path} is a pickle, which is never read, and there is no {' or '.join(readable)} beside it: have "
                    "the weights saved anew with `save_pretrained`, or go on with the trainer that wrote them."
                )


def with_fingerprint(card: str) -> str:
    """The text of a card, followed by what tells it from one that somebody changed; not seen where it is shown."""
    return f"{card.rstrip()}\n\n{FINGERPRINT}{_fingerprint(card)} -->\n"


def has_fingerprint(card: str) -> bool:
    """Whether a card is as [`with_fingerprint`] returned it."""
    card, mark, end = card.rpartition(FINGERPRINT)
    return bool(mark) and end.strip() == f"{_fingerprint(card)} -->"


def _fingerprint(card: str) -> str:
    lines = "\n".join(card.strip().splitlines())  # however they end
    return hashlib.sha256(lines.encode()).hexdigest()


def save_state(state: Any, path: Path) -> None:
    """Nested dictionaries, lists and tuples: tensors go to `path.safetensors`, everything else to `path.json`.

    Raises:
        TypeError: when there is anything that only pickle could keep.
    """
    tensors: dict[str, torch.Tensor] = {}

    def plain(node: Any, is_key: bool = False) -> Any:
        if isinstance(node, torch.Tensor) and not is_key:
            tensors[str(len(tensors))] = node.detach().cpu().clone().contiguous()
            return {"tensor": str(len(tensors) - 1)}
        if isinstance(node, Mapping):
            return {"dict": [[plain(key, is_key=True), plain(value)] for key, value in node.items()]}
        if isinstance(node, tuple):
            return {"tuple": [plain(value, is_key) for value in node]}
        if isinstance(node, list):
            return [plain(value) for value in node]
        if node is None or isinstance(node, (bool, int, float, str)):
            return node
        if isinstance(node, np.generic):
            return node.item()
        raise TypeError(
            f"A {type(node).__name__} in the state `{path.name}` cannot be saved without pickle: keep it out of the "
            "`state_dict`, or set `save_only_model=True` and do without resuming."
        )

    text = json.dumps(plain(state))
    path.with_suffix(".json").write_text(text, encoding="utf-8")
    save_file(tensors, path.with_suffix(".safetensors"))


def load_state(path: Path) -> Any:
    """What [`save_state`] has written."""
    tensors = load_file(path.with_suffix(".safetensors"))

    def rebuilt(node: Any) -> Any:
        if isinstance(node, list):
            return [rebuilt(value) for value in node]
        if not isinstance(node, dict):
            return node
        ((kind, value),) = node.items()
        if kind == "tensor":
            return tensors[value]
        if kind == "tuple":
            return tuple(rebuilt(part) for part in value)
        return {rebuilt(key): rebuilt(part) for key, part in value}

    return rebuilt(json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))


def _name(option) -> str:
    return str(getattr(option, "value", option))


def _as_list(value) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())
