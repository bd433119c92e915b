"""This module reads how the original checkpoint's images become pixel values."""

import math
from collections.abc import Mapping
from typing import Any

from ..omnivinci.checkpoint_files_omnivinci import component_file, read_json_object
from .findings import Findings
from .values import clean_nested


FOLDER, FILE = "vision_tower", "preprocessor_config.json"
BICUBIC = 3
# key -> the values that it may have
KNOWN_VALUES = {
    "do_resize": (True, None),
    "do_rescale": (True, None),
    "do_normalize": (True, None),
    "do_center_crop": (False, None),
    "resample": (BICUBIC, None),
}


def image_options(name_or_path: str, hub_options: Mapping[str, Any], findings: Findings) -> dict[str, Any]:
    """Returns mean and deviation of the pixels that the vision tower's folder gives, where they are not the usual ones.

    Findings of the level "refused" name what the image processor does not do.
    """
    file = component_file(name_or_path, FOLDER, FILE, hub_options)
    if file is None:
        sentence = f"There is no {FOLDER}/{FILE}; pixels are normalised with mean and deviation 0.5."
        findings.add("assumed", FOLDER, FILE, 0.5, sentence, FILE)
        return {}
    values = clean_nested(read_json_object(file))
    for key, known in KNOWN_VALUES.items():
        if values.get(key) not in known:
            sentence = f"{FOLDER}/{FILE} has {key}={values[key]!r}, which is not supported; known are {known}."
            findings.add("refused", FOLDER, key, values[key], sentence, FILE)
    factor = values.get("rescale_factor")
    if factor is not None and not math.isclose(factor, 1 / 255, rel_tol=1e-6):
        sentence = f"{FOLDER}/{FILE} has rescale_factor={factor!r}, which is not supported; known is 1/255."
        findings.add("refused", FOLDER, "rescale_factor", factor, sentence, FILE)
    given = {key: values[key] for key in ("image_mean", "image_std") if values.get(key) is not None}
    options = {key: value if isinstance(value, list) else [value] * 3 for key, value in given.items()}
    return {key: value for key, value in options.items() if value != [0.5, 0.5, 0.5]}
