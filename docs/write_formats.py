"""Writes the formats that docs/source/en/media.md lists, from the tables of containers and image formats.

python docs/write_formats.py
"""

import re
from pathlib import Path

from omnivinci_hf.omnivinci.image_media_omnivinci import IMAGE_FORMATS
from omnivinci_hf.omnivinci.media_containers_omnivinci import CONTAINERS


PAGE = Path(__file__).parent / "source" / "en" / "media.md"


def page_with_formats(page: str) -> str:
    """Returns the page with new rows of formats in its table; what follows on ", and" in a row stays."""
    names = {
        "video": [name for row in CONTAINERS.values() for name in row.video_names],
        "audio": [name for row in CONTAINERS.values() for name in row.audio_names],
        "image": [name for row in IMAGE_FORMATS.values() for name in row.image_names],
    }
    for modality, formats in names.items():
        listed = ", ".join(dict.fromkeys(formats))
        page = re.sub(rf"^(\| {modality} \| ).*?((?:, and .*)? \|)$", rf"\g<1>{listed}\g<2>", page, flags=re.MULTILINE)
    return page


if __name__ == "__main__":
    PAGE.write_text(page_with_formats(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
