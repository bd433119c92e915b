"""The README's snippets run, in order and in one namespace, on a tiny checkpoint."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from omnivinci_hf.cli import main
from omnivinci_hf.omnivinci.options_omnivinci import CALL_OPTIONS, STORED_OPTIONS
from omnivinci_hf.small import small_checkpoint
from tests.support import goldens
from tests.support.paths import ROOT
from tests.support.world_scenes import write_plain_clip


README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_every_snippet_runs(original_folder, tmp_path, monkeypatch):
    pytest.importorskip("bitsandbytes")
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(goldens.SMALL / "h_video5" / "video.mp4", "clip.mp4")
    shutil.copyfile(goldens.SMALL / "d_audio3" / "audio.wav", "speech.wav")
    Image.open(goldens.SMALL / "b_image" / "image.png").convert("RGB").save("photo.jpg")
    answer = {"role": "assistant", "content": "A man speaks."}
    row = {"messages": [{"role": "user", "content": [{"type": "audio", "path": "speech.wav"}]}, answer]}
    Path("train.jsonl").write_text(json.dumps(row))
    assert len(SNIPPETS) == 13
    namespace = {}
    for snippet in SNIPPETS:
        snippet = snippet.replace('"nvidia/omnivinci"', repr(str(original_folder)))
        exec(snippet.replace("max_new_tokens=128", "max_new_tokens=4"), namespace)
        if "cache.crop" in snippet:
            asked = {"video": "clip.mp4", "question": "Who speaks?", "max_new_tokens": 4, "return_tensors": True}
            expected = [int(token) for token in namespace["pipe"](**asked)[0]["generated_token_ids"]]
            assert namespace["output"][0, namespace["ids"].shape[1] :].tolist() == expected
    assert len(namespace["answers"]) == 3 and namespace["loss"].requires_grad
    assert namespace["trainer"].state.global_step == 1 and namespace["embeds"].vision_embeds.norm() > 0


def test_fine_tuning_on_clips_of_one_s_own_works_in_the_order_told(tmp_path, monkeypatch, capsys):
    pytest.importorskip("peft")
    monkeypatch.chdir(tmp_path)
    section = README.partition("### Fifty clips of your own")[2].partition("\n### ")[0].replace("\\\n", " ")
    (row,) = re.findall(r"^ +(\{.*\})$", section, re.MULTILINE)
    commands = re.findall(r"^ +omnivinci-hf (.*)$", section, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["validate", "train", "ask"]
    Path("clips").mkdir()
    for name in ("7.mp4", "51.mp4"):
        write_plain_clip(Path("clips") / name, duration=2)
    Path("train.jsonl").write_text(f"{row}\n{row}\n", encoding="utf-8")
    for command in commands:
        command = command.replace("nvidia/omnivinci", str(small_checkpoint()))
        command = command.replace(
            "--bf16", "--bf16" if torch.cuda.is_available() else ""
        )  # Transformers asks for a GPU
        assert main(shlex.split(command)) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    losses = [float(loss) for loss in re.findall(r"'loss': '?([0-9.]+)", shown)]
    assert len(losses) == 6 and losses[-1] < losses[0]
    assert shown.splitlines()[-1].strip()


@pytest.mark.parametrize("target", re.findall(r"^    make (\w+)", README, re.MULTILINE))
def test_the_make_targets_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("option", re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (.*?) \|", README, re.MULTILINE))))
def test_the_options_exist(processor, option):
    if option == "return_assistant_tokens_mask":  # of the chat template alone
        return
    assert option in {*STORED_OPTIONS, *CALL_OPTIONS, *processor.image_processor.to_dict(), *processor.to_dict()}
