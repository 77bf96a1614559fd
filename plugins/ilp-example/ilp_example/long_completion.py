"""The answer is longer than nearly all that were learned, and such answers often are not."""

from collections.abc import Mapping, Sequence

from pydantic import Field

from ilp_mlflow.plugin import Context, Diagnostic, Evidence, Sample


class LongCompletion(Diagnostic):
    """Finds answers longer than nearly all of their stage, where long ones fail more often."""

    longer: float = Field(default=0.95, ge=0.5, lt=1)
    """An answer is long when it has more tokens than this share 0..1 of the learned ones."""
    doubt: float = Field(default=1, gt=0)
    """Added to the number of long answers that are not learned: a single one says little."""

    def examine(self, unlearned: Sequence[Sample], context: Context) -> Mapping[str, Evidence]:
        """Strength is the share of unlearned long answers beyond those expected by chance."""
        ids, counts = context.scores["sample_id"], context.scores["tokens"]
        tokens = dict(zip(ids.to_pylist(), counts.to_pylist(), strict=True))
        evidence = {}
        for stage in context.stages:
            learned = [s.id for s in stage.samples if context.verdicts[s.id].status == "learned"]
            failed = [s.id for s in unlearned if s.stage == stage.name]
            if not learned:
                continue
            lengths = sorted(tokens[i] for i in learned)
            limit = lengths[int(self.longer * len(lengths))]
            long = [i for i in failed if tokens[i] > limit]
            n = len(long) + sum(length > limit for length in lengths)
            # if length did not matter, long answers would fail as often as all others
            expected = n * len(failed) / (len(failed) + len(learned))
            strength = max(0.0, (len(long) - expected) / (len(long) + self.doubt))
            failing = f"{len(long)} of {n} are not learned, by chance it would be {expected:.1f}"
            for i in long:
                reason = f"it has {tokens[i]} tokens; of answers over {limit} tokens {failing}"
                evidence[i] = Evidence(cause="long_completion", strength=strength, reason=reason)
        return evidence
