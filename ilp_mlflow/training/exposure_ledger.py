"""What someone else's trainer did with each sample, read off the batches and outputs of its model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ilp_mlflow.core.errors import ConfigError
from ilp_mlflow.core.values import Exposure, Sample, Signal, schema
from ilp_mlflow.scoring.encoding import Tokenization, encode

ROWS = "give IlpCallback the rows that the trainer gets as train_dataset, in their order"


class ExposureLedger:
    """What a training did with each sample; its tokens tell which one a row of a batch is."""

    def __init__(
        self, samples: Sequence[Sample], tokenization: Tokenization, prepared: Any, keeps_end: bool
    ) -> None:
        """Raises ConfigError when `prepared` is no data set that TRL made of the `samples`."""
        if not hasattr(prepared, "data"):
            raise ConfigError(
                f"IlpCallback: the trainer's rows are streamed; {ROWS}, and both as a Dataset"
            )
        table = prepared.data  # with the rows that the trainer drops, which `prepared` leaves out
        if table.num_rows != len(samples):
            raise ConfigError(
                f"IlpCallback has {len(samples)} rows, the trainer {table.num_rows}; {ROWS}"
            )
        self.samples = samples
        self.rows: dict[bytes, list[int]] = {}
        self.starts, self.supervised, self.cut = ([0] * len(samples) for _ in range(3))
        self.seen: Counter[int] = Counter()
        self.noted: list[tuple[int, int, float, float]] = []
        columns = (table.column(name) for name in ("input_ids", "labels"))
        for row, (sample, *lists) in enumerate(zip(samples, *columns, strict=True)):
            ids, labels = (np.array(one.as_py(), np.int64) for one in lists)
            whole = encode(
                tokenization.tokenizer, sample.prompt, sample.completion, tokenization.end_token_ids
            )
            off = next(
                (
                    n
                    for n in range(len(whole.ids) if keeps_end else 1)
                    if _agree(whole.ids[n:], ids)
                ),
                None,
            )
            if off is None:
                raise ConfigError(
                    f"sample '{sample.id}': the trainer has other tokens than its text gives when it is scored; {ROWS}"
                )
            self.starts[row] = max(0, whole.start - off)
            self.supervised[row] = int((labels[max(1, self.starts[row]) :] != -100).sum())
            self.cut[row] = max(0, len(whole.ids) - len(ids))
            self.rows.setdefault(_key(ids, labels), []).append(row)

    def read(self, step: int, inputs: Mapping[str, Any], outputs: Any) -> None:
        """Note how the samples of a batch did, before `step`, which the batch is part of. Raises ConfigError for a strange row."""
        real = inputs["attention_mask"].bool()
        rows = []
        for ids, labels, mask in zip(
            *(x.cpu().numpy() for x in (inputs["input_ids"], inputs["labels"], real)), strict=True
        ):
            same = self.rows.get(_key(ids[mask], labels[mask]))
            if not same:
                raise ConfigError(
                    f"IlpCallback: step {step} trains a row that is not in the data set; does a data_collator change rows?"
                )
            rows.append(same[0])
            same.append(
                same.pop(0)
            )  # equal to the token: nobody can tell which it is, so they take turns
        self.seen.update(rows)
        starts = torch.tensor([self.starts[row] for row in rows], device=real.device)
        answer = outputs.label_mask & (
            real.cumsum(1)[:, 1:] > starts[:, None]
        )  # (batch, length - 1)
        tokens = answer.sum(1)
        losses = -(outputs.log_probs.detach().float() * answer).sum(1) / tokens
        right = (outputs.is_top1 * answer).sum(1) / tokens
        noted = zip(rows, losses.tolist(), right.tolist(), tokens.tolist(), strict=True)
        self.noted += [(row, step, loss, share) for row, loss, share, n in noted if n]

    def exposures(self) -> list[Exposure]:
        """One per sample, dropped ones included."""
        facts = zip(self.samples, self.supervised, self.cut, strict=True)
        return [
            Exposure(
                sample_id=s.id,
                stage=s.stage,
                exposures=self.seen[i],
                supervised_tokens=n,
                truncated_tokens=cut,
            )
            for i, (s, n, cut) in enumerate(facts)
        ]

    def signals(self) -> pa.Table:
        """Columns of `Signal`, in the order of training."""
        rows, steps, losses, shares = (
            zip(*self.noted, strict=True) if self.noted else ((), (), (), ())
        )
        own = [self.samples[row] for row in rows]
        return pa.table(
            [[s.id for s in own], [s.stage for s in own], steps, losses, shares],
            schema=schema(Signal),
        )


def _agree(ids: Sequence[int], kept: Any) -> bool:
    """Whether one of two sequences begins the other."""
    n = min(len(ids), len(kept))
    return bool((np.array(ids[:n]) == kept[:n]).all())


def _key(ids: Any, labels: Any) -> bytes:
    return np.stack([ids, labels]).astype(np.int64).tobytes()
