"""Both sides of a comparison, run alternately in one process."""

import os
import statistics
import subprocess
import time
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TQDM_DISABLE"] = "1"

ROUNDS = 3
TEXT = """
the of and to in is was for on that by this with from at are as be or an which have one time people year water
day part river city number small large house world still between never last long great little own other old
right move live form
"""
WORDS = TEXT.split()


@pytest.fixture
def paired(benchmark):
    """Time `ours` and `theirs` in turns; print and return the ratio of medians, theirs by ours."""

    def run(ours, theirs, items, rounds=ROUNDS):
        seconds = []

        def other():
            start = time.perf_counter()
            theirs()
            seconds.append(time.perf_counter() - start)

        benchmark.pedantic(ours, setup=other, rounds=rounds)
        own, other_ = benchmark.stats.stats.median, statistics.median(seconds)
        pairs = [b / a for a, b in zip(benchmark.stats.stats.data, seconds, strict=True)]
        benchmark.extra_info |= {
            "ratio": other_ / own,
            "ours_per_s": items / own,
            "theirs_per_s": items / other_,
        }
        print(
            f"\n{benchmark.name}: {other_ / own:.2f}x (pairs {min(pairs):.2f}-{max(pairs):.2f}); "
            f"ours {items / own:.2f}/s, theirs {items / other_:.2f}/s, {items} items, {rounds} rounds"
        )
        return other_ / own

    return run


@pytest.fixture(scope="session")
def smollm2():
    """Folder of SmolLM2-135M-Instruct, fetched when it is not there."""
    made = subprocess.run(
        ["make", "-s", "smollm2"],
        cwd=Path(__file__).parent.parent,
        check=True,
        capture_output=True,
        text=True,
    )
    return made.stdout.split()[-1]
