"""How probable a planted cause is by the strength of the evidence for it, from finished labs.

    ilp lab --seed 0 --json > lab-0.json                        # and other seeds, of both labs
    ilp lab --world smollm2 --seed 0 --json > real-0.json
    python experiments/strengths.py fit lab-*.json real-*.json  # writes ilp_mlflow/diagnosis/strengths.yaml
    python experiments/strengths.py show lab-10?.json real-10?.json     # seeds that nothing was fitted on

`fit` takes the rows of both worlds in equal parts. `show` prints, of each world, ten bins of equal mass
(causes pooled), the expected calibration error, and the share named against the share right; and of
each file the macro-F1, groups that missed their mark left out.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from sklearn.isotonic import IsotonicRegression

from ilp_mlflow.diagnosis.attribution import WEAK_EVIDENCE
from ilp_mlflow.diagnosis.strengths import FILE, Curve, NamedShare, Strengths

BINS = 10
CUTS = tuple(round(0.05 * step, 2) for step in range(20))
"""Probabilities from which causes are named, tried in turn."""


class Row(NamedTuple):
    """An unlearned planted row."""

    world: str
    """`lab` or `real`."""
    group: str
    """What was planted."""
    signals: dict[str, float]
    """Strength of the evidence for each cause as the diagnostics gave it, 0..1, in their order."""

    @property
    def first(self) -> str:
        """The first cause with a signal that is not weak; "" without one."""
        for cause, signal in self.signals.items():
            if signal >= WEAK_EVIDENCE:
                return cause
        return ""


def read(path: str) -> list[Row]:
    """The rows of a document that `ilp lab --json` printed."""
    document = json.loads(Path(path).read_text("utf-8"))
    rows = []
    for seed in document.get("seeds", [document]):
        world = "real" if "acceptance" in seed else "lab"
        missed = [group for group, why in seed.get("acceptance", {}).items() if why]
        for row in seed["attribution"]["without_probes"]["evidence"]:
            if row["group"] in missed:
                continue
            signals = {cause: signal for cause, (signal, _) in row["evidence"].items()}
            rows.append(Row(world, row["group"], signals))
    return rows


def weights(rows: Sequence[Row]) -> list[float]:
    """Of every row, so that each world has the same weight in all and the mean is 1."""
    count = defaultdict(int)
    for row in rows:
        count[row.world] += 1
    return [len(rows) / len(count) / count[row.world] for row in rows]


def curve(strengths: Sequence[float], right: Sequence[bool], weight: Sequence[float]) -> Curve:
    """The share right by strength: isotonic, each level with one row more on either side."""
    isotonic = IsotonicRegression(y_min=0, y_max=1).fit(strengths, right, sample_weight=weight)
    levels = isotonic.predict(strengths)
    points: dict[float, float] = {}
    for level in np.unique(levels):
        of_level = levels == level
        rows = int(of_level.sum())
        smoothed = (level * rows + 1) / (rows + 2)
        for edge in (min, max):
            points[round(float(edge(np.asarray(strengths)[of_level])), 4)] = round(smoothed, 3)
    edges = sorted(points)
    rising = np.maximum.accumulate([points[edge] for edge in edges])
    return Curve(strengths=tuple(edges), probabilities=tuple(map(float, rising)))


def fit(rows: Sequence[Row], measured_on: str) -> Strengths:
    """A curve for every cause that was named, and what comes of naming from some probability on."""
    weight_of = dict(enumerate(weights(rows)))
    by_cause = defaultdict(list)
    for number, row in enumerate(rows):
        if row.first:
            by_cause[row.first].append(number)
    curves = {}
    for cause, numbers in sorted(by_cause.items()):
        signals = [rows[n].signals[cause] for n in numbers]
        right = [rows[n].group == cause for n in numbers]
        curves[cause] = curve(signals, right, [weight_of[n] for n in numbers])
    strengths = Strengths(measured_on=measured_on, curves=curves, named=())
    named = []
    for cut in CUTS:
        share, _ = named_and_wrong(rows, strengths, cut)
        # of the lab in which more is wrong: in the other it is less
        wrong = max(named_and_wrong(part, strengths, cut)[1] for part in by_world(rows).values())
        named.append(NamedShare(from_probability=cut, named=share, wrong=wrong))
    return strengths.model_copy(update={"named": tuple(named)})


def by_world(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each lab."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(row.world, []).append(row)
    return parts


def named_cause(row: Row, strengths: Strengths, cut: float) -> tuple[str, float]:
    """The cause of a row that is named from the probability `cut` on, with its probability."""
    for cause, signal in row.signals.items():
        if signal >= WEAK_EVIDENCE and cause in strengths.curves:
            probability = strengths.probability(cause, signal)
            if probability >= cut:
                return cause, probability
    return "", 0.0


def named_and_wrong(rows: Sequence[Row], strengths: Strengths, cut: float) -> tuple[float, float]:
    """Share 0..1 of the rows that is named, and of these the share that is wrong."""
    named = wrong = total = 0.0
    for row, weight in zip(rows, weights(rows), strict=True):
        cause, _ = named_cause(row, strengths, cut)
        total += weight
        named += weight * bool(cause)
        wrong += weight * (bool(cause) and cause != row.group)
    return round(named / total, 3), round(wrong / named, 3) if named else 0.0


def macro_f1(rows: Sequence[Row], strengths: Strengths, cut: float) -> float:
    """Mean F1 0..1 over the planted causes that rows are there of."""
    scores = []
    for cause in {row.group for row in rows} - {"control"}:
        planted = blamed = hits = 0
        for row in rows:
            name, _ = named_cause(row, strengths, cut)
            planted += row.group == cause
            blamed += name == cause
            hits += name == cause == row.group
        scores.append(2 * hits / (planted + blamed))
    return sum(scores) / len(scores)


def reliability(rows: Sequence[Row], strengths: Strengths, cut: float) -> tuple[list, float]:
    """Bins of equal mass (rows, mean probability, share right), and the calibration error."""
    pairs = []
    for row in rows:
        cause, probability = named_cause(row, strengths, cut)
        if cause:
            pairs.append((probability, cause == row.group))
    pairs.sort()
    bins, error = [], 0.0
    for part in np.array_split(np.array(pairs, float), min(BINS, len(pairs))):
        mean, right = part.mean(0)
        bins.append((len(part), mean, right))
        error += abs(mean - right) * len(part) / len(pairs)
    return bins, error


def show(rows: Sequence[Row], strengths: Strengths, max_wrong: float) -> None:
    """Print the tables of every world, in Markdown."""
    for world, of_world in by_world(rows).items():
        cut = strengths.named_from(max_wrong)
        bins, error = reliability(of_world, strengths, cut)
        print(f"\n{world}: {len(of_world)} unlearned planted rows, named from {cut:g} on\n")
        print("| rows | mean strength | share right |\n|---|---|---|")
        for count, mean, right in bins:
            print(f"| {count} | {mean:.2f} | {right:.2f} |")
        print(f"\nexpected calibration error {error:.3f}\n")
        print("| named from | share named | share right of the named |\n|---|---|---|")
        for step in CUTS:
            share, wrong = named_and_wrong(of_world, strengths, step)
            print(f"| {step:.2f} | {share:.2f} | {1 - wrong:.2f} |")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("fit", "show"))
    parser.add_argument("files", nargs="+", help="documents of `ilp lab --json`")
    parser.add_argument("--max-wrong", type=float, default=0.1)
    parser.add_argument("--out", type=Path, default=FILE, help="where `fit` writes")
    options = parser.parse_args()
    rows_by_file = {path: read(path) for path in options.files}
    rows = [row for of_file in rows_by_file.values() for row in of_file]
    if options.what == "fit":
        strengths = fit(rows, ", ".join(Path(path).stem for path in options.files))
        document = yaml.safe_dump(strengths.model_dump(mode="json"), sort_keys=False)
        options.out.write_text(document, "utf-8")
    else:
        strengths = Strengths.model_validate(yaml.safe_load(options.out.read_text("utf-8")))
    show(rows, strengths, options.max_wrong)
    cut = strengths.named_from(options.max_wrong)
    print("\n| lab | macro-F1 of the causes |\n|---|---|")
    for path, of_file in rows_by_file.items():
        print(f"| {Path(path).stem} | {macro_f1(of_file, strengths, cut):.3f} |")


if __name__ == "__main__":
    main()
