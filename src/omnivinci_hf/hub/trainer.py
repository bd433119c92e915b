"""This module has trainers whose checkpoints and pushes are fit for the Hub: with a card and code, without pickles."""

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import HfApi, ModelCard
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy, rotate_checkpoints
from transformers.utils import PushInProgress

from ..omnivinci.checkpoint_files_omnivinci import is_placeholder, pushed_card
from .atomic_folders import delete_unfinished, unfinished_folder, whole_folder
from .cards import card_of_model, has_fingerprint, with_fingerprint
from .resume import find_checkpoint
from .training_states import (
    PICKLES,
    STATES,
    has_state,
    load_state,
    random_states,
    refuse_pickled_states,
    refuse_pickled_weights,
    restore_random_states,
    save_state,
)


if TYPE_CHECKING:
    Base = Trainer
else:
    Base = object  # the mixin stands before any trainer that descends from Transformers'


class HubTrainerMixin(Base):
    """A trainer with this mixin makes checkpoints and pushes that are fit for the Hub.

    It stands before any trainer that descends from Transformers': `class MyTrainer(HubTrainerMixin, SFTTrainer)`.

    Checkpoints hold safetensors and JSON alone: the training arguments, the states of optimizer, schedule, loss scaler
    and of the random numbers too, so that training goes on from a checkpoint of this machine or of the Hub
    (`hub_strategy="checkpoint"`) without unpickling anything. DeepSpeed and FSDP write their states in their own way,
    pickled: those stay on this machine, and resuming there trusts the files of its disk.

    Every push carries the code that loads the model, and none carries a pickle, whatever lies in the folder. A
    README.md that somebody wrote or changed, in the folder or in the repository, is left alone: a card of a trainer
    ends with its fingerprint.
    """

    _unfinished: Path | None = None  # the folder in which a checkpoint is being written
    # Transformers declares these as None and sets them later.
    hub_model_id: Any
    push_in_progress: Any

    # -- Checkpoints
    #
    # Transformers' trainer (5.20 to 5.24) has no public way to choose where and in what format a checkpoint is written:
    # `save_only_model` leaves its states out, and callbacks come too late, or at another moment than the one at which
    # it restores the random numbers. So its private methods are overridden, each as narrowly as it can be. They can go
    # when it writes checkpoints in one step, and states without pickle.

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        """As [`Trainer.train`]; `resume_from_checkpoint=True` means the last checkpoint that is whole.

        Raises:
            ValueError: when there is none, or the one that is named is not whole.
        """
        resume_from_checkpoint = find_checkpoint(resume_from_checkpoint, self._folder)
        if self.args.should_save:
            delete_unfinished(self._folder, f"{PREFIX_CHECKPOINT_DIR}-*")
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """As the base class, to a folder that gets its name when all processes have written; then older ones go."""
        final = Path(super()._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        writer = whole_folder(final, overwrite=True, keep_others=False)
        with writer if self.args.should_save else nullcontext(unfinished_folder(final)) as folder:
            self.accelerator.wait_for_everyone()  # until what a killed run left is deleted
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
        folder = self._folder if output_dir is None else Path(output_dir)
        (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
        (folder / "training_args.json").write_text(self.args.to_json_string() + "\n", encoding="utf-8")
        card = folder / "README.md"
        if card.exists() and is_placeholder(ModelCard.load(card, ignore_metadata_errors=True)):
            card.unlink()  # PEFT's

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        if not self._writes_states_elsewhere():
            refuse_pickled_weights(Path(resume_from_checkpoint))
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if not self._writes_states_elsewhere():
            refuse_pickled_weights(Path(str(self.state.best_model_checkpoint)))
        super()._load_best_model()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self._writes_states_elsewhere():
            super()._save_optimizer_and_scheduler(output_dir)
        elif self.args.should_save:
            for name, target in self._optimizer_and_scheduler().items():
                save_state(target.state_dict(), Path(output_dir) / name)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or self._writes_states_elsewhere():
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        refuse_pickled_states(Path(checkpoint))
        for name, target in self._optimizer_and_scheduler().items():
            if has_state(path := Path(checkpoint) / name):
                target.load_state_dict(load_state(path))

    def _optimizer_and_scheduler(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer, "scheduler": self.lr_scheduler}

    def _save_scaler(self, output_dir: str) -> None:
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None and self.args.should_save:
            save_state(scaler.state_dict(), Path(output_dir) / "scaler")

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and has_state(path := Path(checkpoint) / "scaler"):
            self.accelerator.scaler.load_state_dict(load_state(path))

    def _save_rng_state(self, output_dir: str) -> None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)  # this process may be faster than the first one
        save_state(random_states(), self._file_of_random_states(output_dir))

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None and has_state(path := self._file_of_random_states(checkpoint)):
            restore_random_states(load_state(path))

    def _file_of_random_states(self, checkpoint: str) -> Path:
        return Path(checkpoint) / f"rng_state_{self.args.process_index}"

    def _writes_states_elsewhere(self) -> bool:
        """Says whether DeepSpeed or FSDP writes weights and states, in a way of its own."""
        return self.is_deepspeed_enabled or self.is_fsdp_enabled

    @property
    def _folder(self) -> Path:
        """The folder of the run; arguments always have one, though it is declared as optional."""
        return Path(str(self.args.output_dir))

    # -- Pushes

    def init_hf_repo(self, *args, **kwargs) -> None:
        """Makes the repository as any trainer does, and lets its pushes leave out pickled files."""
        super().init_hf_repo(*args, **kwargs)
        if not self.is_world_process_zero():
            return
        # The Hub leaves out what this file names; of several lines that fit a name it obeys the last.
        ignore = self._folder / ".gitignore"
        lines = ignore.read_text(encoding="utf-8").splitlines() if ignore.exists() else []
        if lines[-len(PICKLES) :] != list(PICKLES):
            ignore.parent.mkdir(parents=True, exist_ok=True)
            ignore.write_text("\n".join([*lines, *PICKLES]) + "\n", encoding="utf-8")

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As the base class, but all code goes along, and no pickle does."""
        # Transformers (5.20 to 5.24) copies files by name, without the code of the model, and pickles its arguments
        # into the folder. It has no public way to choose what is pushed. This can go when `save_model` decides it.
        if self._unfinished is not None:
            return  # it is pushed when it has its name
        strategy = self.args.hub_strategy
        is_busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if not self.is_world_process_zero() or strategy == HubStrategy.END:
            return
        if is_busy and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        # The files are copied, because a checkpoint may be deleted before it is uploaded.
        states = [f"{name}.*" for name in STATES]
        left_out = shutil.ignore_patterns(*PICKLES, *states, TRAINER_STATE_NAME, "global_step*")
        shutil.copytree(checkpoint_folder, self._folder, ignore=left_out, dirs_exist_ok=True)
        message = f"Training in progress, step {self.state.global_step}"
        jobs = [self._upload(self._folder, None, message, ["_*", "checkpoint-*"])]
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            name = "last-checkpoint" if strategy == HubStrategy.CHECKPOINT else Path(checkpoint_folder).name
            jobs.append(self._upload(checkpoint_folder, name, f"{message}, checkpoint", []))
        if is_busy:
            self.push_in_progress.jobs.extend(jobs)
        else:
            self.push_in_progress = PushInProgress(jobs)  # type: ignore[arg-type]  # it is declared for one job

    def _upload(self, folder: str | Path, path_in_repo: str | None, message: str, left_out: list[str]) -> Any:
        """Begins to upload a folder without its pickles, in the background."""
        return HfApi().upload_folder(
            repo_id=self.hub_model_id,
            folder_path=folder,
            path_in_repo=path_in_repo,
            commit_message=message,
            ignore_patterns=[*left_out, *PICKLES, "**/.metadata"],
            token=self.args.hub_token,
            revision=self.args.hub_revision,
            run_as_future=True,
        )

    def create_model_card(self, license=None, tags=None, model_name=None, dataset=None, dataset_tags=None, **kwargs):
        """As [`Trainer.create_model_card`], from this package's template; `finetuned_from` names the base model."""
        path = self._folder / "README.md"
        if not self.is_world_process_zero() or self._has_written_card(path):
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

    def _has_written_card(self, path: Path) -> bool:
        """Says whether the folder, or else the repository, has a card that somebody wrote or changed."""
        if path.exists():
            return not has_fingerprint(path.read_text(encoding="utf-8"))
        if not self.hub_model_id:
            return False
        card = pushed_card(self.hub_model_id, self.args.hub_revision, self.args.hub_token)
        return card is not None and not has_fingerprint(card.content) and not is_placeholder(card)

    def _describe_rate(self) -> str:
        return f"{self.args.learning_rate:g}"

    def _describe_training(self, dataset: str | list[str] | None) -> str:
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
        metrics: dict[str, Any] = next((log for log in reversed(state.log_history) if "eval_loss" in log), {})
        lines += [f"- {name} {value:.4f}" for name, value in metrics.items() if name.startswith("eval_")]
        return "\n".join(lines)


class HubTrainer(HubTrainerMixin, Trainer):
    """[`~transformers.Trainer`] with the manners of [`HubTrainerMixin`]."""


def _name(option: Any) -> str:
    return str(getattr(option, "value", option))


def _as_list(value: str | list[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())
