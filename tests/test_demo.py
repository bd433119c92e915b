import pytest

from omnivinci_hf.demo import DEMO_QUESTIONS, UNTRAINED_NOTICE, show_demo


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    folder, lines = tmp_path_factory.mktemp("demo"), []
    show_demo(folder, lines.append)
    return folder, "\n".join(lines)


def test_says_before_and_after_that_nothing_was_trained(shown):
    lines = shown[1].strip().splitlines()
    assert lines[0] == lines[-1] == UNTRAINED_NOTICE


def test_asks_three_questions_and_shows_what_is_seen(shown):
    assert len(DEMO_QUESTIONS) == 3
    for question in DEMO_QUESTIONS:
        assert f"Question: {question}\nAnswer:   " in shown[1]
    for words in ("red circle", "high beep", "frames    8 sampled", "groups "):
        assert words in shown[1]


def test_leaves_clip_and_both_layouts(shown):
    assert sorted(path.name for path in shown[0].iterdir()) == ["clip.mp4", "converted", "released"]
    assert (shown[0] / "converted" / "model.safetensors").is_file()
