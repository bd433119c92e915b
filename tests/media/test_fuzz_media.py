"""Damaged files end as tensors or as `MediaError`; `python benchmarks/fuzz_media.py` reads more of them."""

import subprocess
import sys

import numpy as np
import pytest
from fuzz_corpus import damaged_file, make_corpus

from tests.support.paths import BENCHMARKS


RUNNER = BENCHMARKS / "fuzz_media.py"


def run(count, seed):
    command = [sys.executable, RUNNER, "--count", str(count), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_corpus_is_whole_and_its_damage_repeats():
    corpus = make_corpus()
    assert len(corpus) > 20
    for number in (0, 7, 91):
        assert damaged_file(corpus, 1, number) == damaged_file(corpus, 1, number)
    originals = set(corpus.values())
    assert np.mean([damaged_file(corpus, 0, number)[1] in originals for number in range(200)]) < 0.1


def test_150_damaged_files_end_as_tensors_or_as_media_error():
    assert "150 files, seed 7" in run(150, 7)


@pytest.mark.slow
def test_2000_damaged_files_end_as_tensors_or_as_media_error():
    assert "2000 files, seed 1" in run(2000, 1)
