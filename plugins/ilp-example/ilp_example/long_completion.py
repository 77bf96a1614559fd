"""The answer is longer than nearly all that were learned, and such answers often are not."""

from collections.abc import Mapping, Sequence

from pydantic import Field

from ilp_mlflow.plugin import Context, Evidence, Sample, Value


class LongCompletion(Value):
    """Finds answers longer than nearly all learned ones of their stage, where such answers fail more often than others."""

    longer: float = Field(default=0.95, ge=0.5, lt=1)
    """An answer is long when it has more tokens than this share 0..1 of the learned ones."""
    doubt: float = Field(default=1, gt=0)
    """Added to the number of long answers that are not learned when shares are taken: a single one says little."""

    def examine(self, unlearned: Sequence[Sample], context: Context) -> Mapping[str, Evidence]:
        """The strength is the share of the unlearned long answers beyond those expected if length did not matter."""
        ids, counts = (context.scores[name].to_pylist() for name in ("sample_id", "tokens"))
        tokens = dict(zip(ids, counts, strict=True))
        found = {}
        for stage in context.stages:
            learned = sorted(
                tokens[s.id] for s in stage.samples if context.verdicts[s.id].status == "learned"
            )
            failed = [s.id for s in unlearned if s.stage == stage.name]
            if not learned:
                continue
            limit = learned[int(self.longer * len(learned))]
            long = [i for i in failed if tokens[i] > limit]
            n = len(long) + sum(count > limit for count in learned)
            expected = n * len(failed) / (len(failed) + len(learned))
            strength = max(0.0, (len(long) - expected) / (len(long) + self.doubt))
            reason = f"of answers over {limit} tokens {len(long)} of {n} are not learned, by chance it would be {expected:.1f}"
            for i in long:
                found[i] = Evidence(
                    cause="long_completion",
                    strength=strength,
                    reason=f"it has {tokens[i]} tokens; {reason}",
                )
        return found
