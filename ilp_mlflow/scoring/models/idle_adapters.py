"""Adapters that change nothing: a factor of their product is what it was before training."""

from __future__ import annotations

import json
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
SCALES = {
    "ADALORA": ("lora_alpha", "alpha_pattern"),
    "FOURIERFT": ("scaling", ""),
    "GRALORA": ("alpha", ""),
    "LOHA": ("alpha", "alpha_pattern"),
    "LOKR": ("alpha", "alpha_pattern"),
    "LORA": ("lora_alpha", "alpha_pattern"),
    "RANDLORA": ("randlora_alpha", ""),
    "WAVEFT": ("scaling", ""),
}
"""Settings that all of an adapter's changes are multiplied by, by kind: that of every layer, and
that of single layers."""
SHARED = ("vera_A", "vera_B", "randlora_A", "randlora_B")
"""Tensors that all layers share, without an effect of their own."""


def why_idle(adapter: str) -> str:
    """Why an adapter leaves every layer as it is, told from its files; "" where it does not.

    "" also where that depends on the base: whole modules, biases and tokens saved with it, and
    the magnitudes of DoRA.
    """
    scale = _zero_scale(Path(adapter))
    if not _is_idle(adapter, is_scaled_to_nothing=bool(scale)):
        return ""
    return f"{scale} is 0" if scale else "its weights are those before training"


def _zero_scale(adapter: Path) -> str:
    """The setting that multiplies all changes by zero; "" where none does."""
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    scale, of_layers = SCALES.get(str(config.get("peft_type")), ("", ""))
    is_zero = bool(scale) and config.get(scale) == 0
    return scale if is_zero and not any((config.get(of_layers) or {}).values()) else ""


def _is_idle(adapter: str, is_scaled_to_nothing: bool) -> bool:
    """Whether every layer of an adapter has a factor that makes its change nothing."""
    idle_by_layer = dict[str, bool]()
    with safe_open(str(Path(adapter) / ADAPTER_WEIGHTS), "pt") as file:
        for name in file.keys():  # noqa: SIM118
            layer, _, factor = name.removesuffix(".weight").rpartition(".")
            if factor in SHARED:
                continue
            if factor in IDLE_VALUES:
                values = file.get_tensor(name)
                is_idle = is_scaled_to_nothing or bool(torch.all(values == IDLE_VALUES[factor]))
                idle_by_layer[layer] = idle_by_layer.get(layer, False) or is_idle
            elif factor.startswith(OTHER_FACTORS):
                idle_by_layer.setdefault(layer, is_scaled_to_nothing)
            else:
                return False
    return all(idle_by_layer.values())
