"""What one process does with the Hub at `HF_ENDPOINT`: `python tests/support/hub_session.py NAME FOLDER`.

Its results go to `FOLDER/NAME.json`. The session called "without" runs where `omnivinci_hf` cannot be imported.
"""

import contextlib
import importlib.abc
import importlib.util
import io
import json
import sys
from pathlib import Path

from tests.support.paths import SMALL_GOLDENS


ORIGINAL = SMALL_GOLDENS / "checkpoint"
LENGTH = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
INPUTS = (
    {"image": str(SMALL_GOLDENS / "b_image" / "image.png"), "question": "What is shown?"},
    {"audio": str(SMALL_GOLDENS / "d_audio3" / "audio.wav"), "question": "Who speaks?"},
    {"video": str(SMALL_GOLDENS / "h_video5" / "video.mp4"), "question": "What happens?"},
)


class NotInstalled(importlib.abc.MetaPathFinder):
    """Hides the package, also where a developer's environment has it."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "omnivinci_hf":
            raise ModuleNotFoundError("No module named 'omnivinci_hf' (hidden by the test)", name=name)


def stay_on_loopback(event: str, arguments: tuple) -> None:
    """An audit hook: no other machine is spoken to, none is looked up, and nothing is unpickled from a file."""
    if event == "socket.connect" and isinstance(arguments[1], tuple) and arguments[1][0] not in ("127.0.0.1", "::1"):
        raise RuntimeError(f"connection to {arguments[1]}")
    if event == "socket.getaddrinfo" and arguments[0] not in ("127.0.0.1", "localhost", None):
        raise RuntimeError(f"look-up of {arguments[0]}")
    if event == "pickle.find_class":
        raise RuntimeError(f"unpickling of {arguments}")


def answers(pipe) -> list:
    return [pipe(**item) for item in INPUTS]


def push(folder: Path) -> dict:
    import torch
    from transformers import Trainer, pipeline

    from omnivinci_hf.cli import main
    from omnivinci_hf.hub import HubTrainer

    pipe = pipeline("omni-qa", model=str(ORIGINAL), dtype=torch.float32, device="cpu", **LENGTH)
    model, processor = pipe.model, pipe.processor
    results = {"answers": answers(pipe)}
    processor.push_to_hub("org/plain")
    model.push_to_hub("org/plain", tags=["mine"])
    model.push_to_hub("org/sharded", max_shard_size="200KB", revision="draft")
    processor.push_to_hub("org/sharded", revision="draft")
    model.push_to_hub("org/kept")
    model.push_to_hub("org/kept", revision="draft")
    pipe.push_to_hub("org/pipe")
    pipe.save_pretrained(folder / "saved", push_to_hub=True, repo_id="org/saved", commit_message="Mine", private=True)
    results["converted"] = main(["convert", str(ORIGINAL), str(folder / "converted"), "--push-to-hub", "org/converted"])

    for trainer_class, name in ((Trainer, "trained"), (HubTrainer, "trained-with-card")):
        trainer = trainer_class(
            model=model,
            args=training_arguments(folder / name, f"org/{name}", max_steps=1, learning_rate=1e-3, save_strategy="no"),
            train_dataset=ROWS,
            processing_class=processor,
        )
        trainer.train()
        trainer.push_to_hub()
        model.eval()
        results[name] = answers(pipe)
    for strategy in ("every_save", "checkpoint", "all_checkpoints"):
        train_and_save(model, processor, folder / strategy, f"org/{strategy}", strategy)
        results[strategy] = answers(pipe)
    if importlib.util.find_spec("peft"):
        results["adapted"] = push_adapters(folder, processor)
    return results


ROWS = [{"input_ids": [*range(8)], "attention_mask": [1] * 8, "labels": [*range(8)]}]


def training_arguments(folder: Path, repo_id: str, **options):
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(folder),
        hub_model_id=repo_id,
        per_device_train_batch_size=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )


def train_and_save(model, processor, folder: Path, repo_id: str, strategy: str) -> None:
    """Two steps, each saved and pushed, from a folder with somebody's .gitignore and pickles."""
    from omnivinci_hf.hub import HubTrainer

    folder.mkdir()
    (folder / ".gitignore").write_text("*.log\n!*.pt\n")
    for end in ("pt", "pickle", "ckpt", "joblib"):
        (folder / f"left_behind.{end}").write_bytes(b"\x80\x02.")
    options = {"max_steps": 2, "save_steps": 1, "learning_rate": 1e-3, "push_to_hub": True, "hub_strategy": strategy}
    arguments = training_arguments(folder, repo_id, **options, hub_always_push=True)
    trainer = HubTrainer(model=model, args=arguments, train_dataset=ROWS, processing_class=processor)
    trainer.train()
    if strategy != "every_save":
        trainer.push_to_hub()
    trainer._finish_current_push()
    model.eval()


def push_adapters(folder: Path, processor) -> list:
    """Of the original layout and of the ordinary one, by PEFT, by Transformers, by a trainer and by the pipeline."""
    import peft
    import torch
    from transformers import AutoModel, pipeline

    from tests.support.adapter_support import transformers_manages_adapters

    def config(random: bool):
        torch.manual_seed(0)
        targets = r"model\.language_model\..*\.(q_proj|v_proj)"
        return peft.LoraConfig(r=4, target_modules=targets, init_lora_weights=not random)

    tuned = peft.get_peft_model(AutoModel.from_pretrained("original/whole"), config(random=True)).eval()
    tuned.push_to_hub("org/adapter")
    pipe = pipeline("omni-qa", model=tuned, processor=processor, device="cpu", **LENGTH)
    results = answers(pipe)
    pipe.push_to_hub("org/adapter-of-pipeline")
    ordinary = peft.get_peft_model(AutoModel.from_pretrained("org/plain"), config(random=True))
    ordinary.push_to_hub("org/adapter-of-plain")
    if transformers_manages_adapters():
        model = AutoModel.from_pretrained("original/whole")
        model.add_adapter(config(random=True))
        model.push_to_hub("org/adapter-of-transformers")
    trained = peft.get_peft_model(AutoModel.from_pretrained("original/whole"), config(random=False))
    train_and_save(trained, processor, folder / "adapter", "org/adapter-trained", "checkpoint")
    return results


def without(folder: Path) -> dict:
    import transformers
    from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline

    results = {}
    try:
        import omnivinci_hf  # noqa: F401
    except ModuleNotFoundError:
        results["package"] = None
    for loader in (AutoConfig, AutoModel, AutoProcessor):
        try:
            loader.from_pretrained("org/plain")
        except ValueError as error:
            results[f"{loader.__name__} untrusted"] = str(error)
    try:
        pipeline("omni-qa", model="org/plain")
    except (KeyError, ValueError) as error:
        results["pipeline untrusted"] = str(error)

    trusted = {"trust_remote_code": True}
    results["config"] = where(AutoConfig.from_pretrained("org/plain", **trusted))
    model = AutoModel.from_pretrained("org/plain", dtype="float32", **trusted).eval()
    processor = AutoProcessor.from_pretrained("org/plain", **trusted)
    results["model"], results["processor"] = where(model), where(processor)
    results["by hand"] = [by_hand(model, processor, item) for item in INPUTS]
    model.push_to_hub("org/copied", token="hf_loopback")
    for loaded in (model.config, model, processor):
        try:
            type(loaded).from_pretrained(str(ORIGINAL))
        except ImportError as error:
            results[f"{type(loaded).__name__} of the original layout"] = str(error)
    for name in ("plain", "converted", "trained", "every_save"):
        pipe = pipeline("omni-qa", model=f"org/{name}", device="cpu", **trusted, **LENGTH)
        results[name] = answers(pipe)
    pipe = pipeline("omni-qa", model="org/sharded", revision="draft", device="cpu", **trusted, **LENGTH)
    results["sharded"] = answers(pipe)
    if importlib.util.find_spec("peft"):
        pipe = pipeline("omni-qa", model="org/adapter-of-plain", device="cpu", **trusted, **LENGTH)
        results["adapted"] = answers(pipe)
    results["parts"] = {}
    for name in ("AutoImageProcessor", "AutoVideoProcessor", "AutoFeatureExtractor"):
        try:
            part = getattr(transformers, name).from_pretrained("org/plain", **trusted)
        except ImportError:  # without torchvision, some versions offer none
            continue
        results["parts"][name] = where(part)
    return results


def installed(folder: Path) -> dict:
    from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline

    import omnivinci_hf  # noqa: F401
    from omnivinci_hf.cli import main

    results = {"config": where(AutoConfig.from_pretrained("org/plain"))}
    model, processor = AutoModel.from_pretrained("org/plain").eval(), AutoProcessor.from_pretrained("org/plain")
    results["model"], results["processor"] = where(model), where(processor)
    pipe = pipeline("omni-qa", model=model, processor=processor, device="cpu", **LENGTH)
    results["pipeline"], results["plain"] = where(pipe), answers(pipe)
    results["by name"] = answers(pipeline("omni-qa", model="org/plain", device="cpu", **LENGTH))

    results["original"] = answers(pipeline("omni-qa", model="original/whole", device="cpu", **LENGTH))
    options = {"revision": "v2", "token": "hf_loopback", "cache_dir": str(folder / "elsewhere")}
    config = AutoConfig.from_pretrained("original/private", **options)
    model = AutoModel.from_pretrained("original/private", **options).eval()
    processor = AutoProcessor.from_pretrained("original/private", **options)
    results["original classes"] = [where(config), where(model), where(processor)]
    results["private"] = [by_hand(model, processor, item) for item in INPUTS]
    asked = io.StringIO()
    media, question = INPUTS[0]["image"], INPUTS[0]["question"]
    with contextlib.redirect_stdout(asked):
        code = main(["ask", media, question, "--model", "original/whole", "--max-new-tokens", "6"])
    results["ask"] = [code, asked.getvalue()]

    if importlib.util.find_spec("peft"):
        results.update(load_adapters(folder, processor))
    results["original ids"] = [AutoConfig.from_pretrained("original/whole").image_token_id, model.config.image_token_id]
    for name in ("pickled/whole", "pickled/sharded", "original/private"):
        try:
            AutoModel.from_pretrained(name)
        except OSError as error:
            results[f"{name} refused"] = str(error)
    try:
        AutoModel.from_pretrained("pickled/whole", use_safetensors=False)
    except ValueError as error:
        results["unsafe refused"] = str(error)
    return results


def load_adapters(folder: Path, processor) -> dict:
    from transformers import AutoModel, pipeline

    from omnivinci_hf import OmniVinciForConditionalGeneration
    from tests.support.adapter_support import transformers_manages_adapters

    own_class = OmniVinciForConditionalGeneration.from_pretrained
    options = {"revision": "v2", "token": "hf_loopback", "cache_dir": str(folder / "elsewhere")}
    here = {**options, "local_files_only": True}
    base = AutoModel.from_pretrained("original/whole")
    base.load_adapter("org/adapter")
    models = {
        "adapter by class": own_class("org/adapter"),
        "adapter by auto class": AutoModel.from_pretrained("org/adapter"),
        "adapter on a model": base,
        "private adapter": own_class("org/private-adapter", **options),
        "private adapter from the cache": own_class("org/private-adapter", **here),
        "adapter of the pipeline": own_class("org/adapter-of-pipeline"),
        "adapter of plain": own_class("org/adapter-of-plain"),
    }
    if transformers_manages_adapters():
        models["adapter of transformers"] = own_class("org/adapter-of-transformers")
    results = {name: [by_hand(model.eval(), processor, item) for item in INPUTS] for name, model in models.items()}
    results["adapter by pipeline"] = answers(pipeline("omni-qa", model="org/adapter", device="cpu", **LENGTH))
    for name, load in (("by class", own_class), ("on a model", base.load_adapter)):
        more = {} if load is own_class else {"adapter_name": "second"}
        try:
            load("pickled/adapter", **more)
        except OSError as error:
            results[f"pickled adapter {name}"] = str(error)
    return results


def by_hand(model, processor, item: dict) -> list:
    kind = next(name for name in item if name != "question")
    content = [{"type": kind, kind: item[kind]}, {"type": "text", "text": item["question"]}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    )
    ids = model.generate(**inputs, **LENGTH)[0, inputs["input_ids"].shape[1] :]
    return [{"question": item["question"], "answer": processor.decode(ids, skip_special_tokens=True).strip()}]


def where(thing) -> str:
    return f"{type(thing).__module__.split('.')[0]}.{type(thing).__name__}"


if __name__ == "__main__":
    name, folder = sys.argv[1], Path(sys.argv[2])
    sys.addaudithook(stay_on_loopback)
    if name == "without":
        sys.meta_path.insert(0, NotInstalled())
    result = {"push": push, "without": without, "installed": installed}[name](folder)
    (folder / f"{name}.json").write_text(json.dumps(result))
