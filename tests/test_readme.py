"""The README's snippets run, in order and in one namespace, on a tiny checkpoint."""

import json
import re
import shutil
from pathlib import Path

import goldens
import pytest
from PIL import Image


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_every_snippet_runs(released_folder, tmp_path, monkeypatch):
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
        snippet = snippet.replace('"nvidia/omnivinci"', repr(str(released_folder)))
        exec(snippet.replace("max_new_tokens=128", "max_new_tokens=4"), namespace)
        if "cache.crop" in snippet:
            asked = {"video": "clip.mp4", "question": "Who speaks?", "max_new_tokens": 4, "return_tensors": True}
            expected = [int(token) for token in namespace["pipe"](**asked)[0]["generated_token_ids"]]
            assert namespace["output"][0, namespace["ids"].shape[1] :].tolist() == expected
    assert len(namespace["answers"]) == 3 and namespace["loss"].requires_grad
    assert namespace["trainer"].state.global_step == 1 and namespace["embeds"].vision_embeds.norm() > 0


@pytest.mark.parametrize("target", re.findall(r"^    make (\w+)", README, re.MULTILINE))
def test_the_make_targets_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("option", re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (.*?) \|", README, re.MULTILINE))))
def test_the_options_exist(processor, option):
    if option == "return_assistant_tokens_mask":  # of the chat template alone
        return
    known = {**processor._options({}), **processor.image_processor.to_dict(), **processor.to_dict()}
    if option not in known:
        assert processor._options({option: None})["text"] == {option: None}
