import itertools

from ilp_mlflow.report.sankey import (
    BAR_WIDTH,
    BARS_HEIGHT,
    MIN_BAR_HEIGHT,
    Column,
    count_courses,
    count_fates,
    lay_out,
)

HISTORIES = [
    *[("unlearned", "learned", "learned")] * 90,
    *[("unlearned", "learned", "unlearned")] * 9,
    ("learned", "unlearned", "learned"),
]


def test_every_sample_is_in_one_bar_of_every_checkpoint_and_in_one_band_between_two():
    courses = count_courses(HISTORIES)
    assert count_fates(courses, 0) == {"learned": 1, "never learned": 99}
    assert count_fates(courses, 1) == {"learned": 99, "lost": 1}
    assert count_fates(courses, 2) == {"learned": 90, "recovered": 1, "lost": 9}
    drawn = lay_out(courses, [Column("base", 0), Column("one", 1), Column("two", 2)])
    for _, x in drawn.columns:
        bars = [b for b in drawn.bars if b.x == x]
        assert sum(b.count for b in bars) == 100
        assert abs(sum(b.height for b in bars) - BARS_HEIGHT) < 1
        assert all(a.y + a.height <= b.y for a, b in itertools.pairwise(bars))
    assert min(b.height for b in drawn.bars) >= MIN_BAR_HEIGHT
    assert sum(int(band.text.split(":")[0]) for band in drawn.bands) == 200
    assert {band.text for band in drawn.bands if band.fate == "recovered"} == {
        "1: lost at one, recovered at two"
    }
    assert drawn.width > drawn.columns[-1][1] + BAR_WIDTH


def test_checkpoints_that_are_not_drawn_still_count():
    drawn = lay_out(count_courses(HISTORIES), [Column("base", 0), Column("two", 2)])
    assert {(band.fate, band.text) for band in drawn.bands} >= {
        ("recovered", "1: learned at base, recovered at two")
    }
