"""How much of what one adapter changes in its base another one changes, too."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open

from ilp_mlflow.scoring.models.weight_files import ADAPTER_WEIGHTS


def shared_change(adapter: str, earlier: str) -> float | None:
    """Share of the change of an earlier adapter that another one makes, too; 1 for the same one.

    The product of both changes over that of the earlier one with itself, summed over its layers:
    about 0 for adapters that were trained apart, about 1 for one that was trained on from the
    other. None where one of them is no plain LoRA.
    """
    own, others = _factors(adapter), _factors(earlier)
    if own is None or not others:
        return None
    shared = size = 0.0
    for layer, (a, b) in others.items():
        size += _product(a, b, a, b)
        if layer in own:
            own_a, own_b = own[layer]
            shared += _product(own_a, own_b, a, b)
    return shared / size if size else None


def _factors(adapter: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]] | None:
    """Both factors of every layer's change, by its name; None for another kind of adapter."""
    config = json.loads((Path(adapter) / "adapter_config.json").read_text(encoding="utf-8"))
    if config.get("peft_type") != "LORA":
        return None
    scale = config["lora_alpha"] / config["r"] ** (0.5 if config.get("use_rslora") else 1)
    halves: dict[str, dict[str, torch.Tensor]] = {}
    with safe_open(str(Path(adapter) / ADAPTER_WEIGHTS), "pt") as file:
        for name in file.keys():  # noqa: SIM118
            layer, _, factor = name.removesuffix(".weight").rpartition(".")
            if factor in ("lora_A", "lora_B"):
                halves.setdefault(layer, {})[factor] = file.get_tensor(name).float()
    factors = {}
    for layer, both in halves.items():
        if set(both) == {"lora_A", "lora_B"}:
            factors[layer] = both["lora_A"], scale * both["lora_B"]
    return factors


def _product(
    a: torch.Tensor, b: torch.Tensor, other_a: torch.Tensor, other_b: torch.Tensor
) -> float:
    """Inner product of two changes B A, from products of their factors, which are small."""
    # trace((B A)^T (B' A')) = sum of (B^T B') * (A A'^T)
    return float(((b.T @ other_b) * (a @ other_a.T)).sum())
