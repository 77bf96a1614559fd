"""Adapters that change nothing: a factor of their product is what it was before training."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

from ilp_mlflow.scoring.models.weight_files import ADAPTER_WEIGHTS

IDLE_VALUES = {
    "boft_R": 0,
    "c3a_kernel": 0,
    "delora_B": 0,
    "fourierft_spectrum": 0,
    "gralora_B": 0,
    "hada_w2_b": 0,
    "ia3_l": 1,
    "ln_tuning_layers": 1,
    "lokr_w1": 0,
    "lora_A": 0,
    "lora_B": 0,
    "lora_E": 0,
    "lora_embedding_A": 0,
    "lora_embedding_B": 0,
    "miss_block": 0,
    "oft_R": 0,
    "randlora_lambda": 0,
    "road_theta": 0,
    "vera_lambda_b": 0,
    "waveft_spectrum": 0,
}
"""Factors that leave a layer as it is when all of their values are these."""
OTHER_FACTORS = ("hada_", "lokr_", "boft_", "vera_", "randlora_", "road_", "delora_", "gralora_")
"""How tensors begin that only count as factors of the same layer's others."""
SHARED = ("vera_A", "vera_B", "randlora_A", "randlora_B")
"""Tensors that all layers share, without an effect of their own."""


def changes_nothing(adapter: str) -> bool:
    """Whether an adapter leaves every layer as it is, told from its file.

    False also where that depends on the base: whole modules, biases and tokens saved with it, and
    the magnitudes of DoRA.
    """
    idle_by_layer = dict[str, bool]()
    with safe_open(str(Path(adapter) / ADAPTER_WEIGHTS), "pt") as file:
        for name in file.keys():  # noqa: SIM118
            layer, _, factor = name.removesuffix(".weight").rpartition(".")
            if factor in SHARED:
                continue
            if factor in IDLE_VALUES:
                is_idle = bool(torch.all(file.get_tensor(name) == IDLE_VALUES[factor]))
                idle_by_layer[layer] = idle_by_layer.get(layer, False) or is_idle
            elif factor.startswith(OTHER_FACTORS):
                idle_by_layer.setdefault(layer, False)
            else:
                return False
    return all(idle_by_layer.values())
