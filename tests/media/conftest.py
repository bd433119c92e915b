import pytest

from omnivinci_hf.omnivinci import audio_media_omnivinci, image_media_omnivinci, media_sources_omnivinci


@pytest.fixture
def warnings(monkeypatch):
    """Returns the list of messages that loading media logs during a test."""
    messages = []
    for module in (audio_media_omnivinci, image_media_omnivinci, media_sources_omnivinci):
        monkeypatch.setattr(module.logger, "warning", messages.append)
    return messages
