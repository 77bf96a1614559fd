"""What was saved of a model against what is in memory: file by file, one tensor at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from ilp_mlflow.core.errors import ModelError, first_line
from ilp_mlflow.scoring.models.weight_files import ADAPTER_WEIGHTS, model_files
from ilp_mlflow.scoring.models.whole_weights import quiet_libraries

AGAIN = "the model was not saved as it was trained: see that the disk is sound, then train again"


def check_saved_adapter(model: PeftModel, folder: Path, with_embeddings: bool) -> None:
    """Check that an adapter's file holds what is in memory, to the bit.

    `with_embeddings`: the embeddings were saved with it. Raises ModelError that names the tensor
    and the file.
    """
    with quiet_libraries():
        tensors = get_peft_model_state_dict(model, save_embedding_layers=with_embeddings)
    _compare(tensors, [folder / ADAPTER_WEIGHTS])


def check_saved_model(model: PreTrainedModel, folder: Path) -> None:
    """Check that the files of a full model hold what is in memory, to the bit.

    Tied weights are in the files once. Raises ModelError that names the tensor and the file.
    """
    tensors = model.state_dict()
    for name in model._keys_to_ignore_on_save or ():
        tensors.pop(name, None)
    # names and layouts of some models are others in files
    _compare(revert_weight_conversion(model, tensors), model_files(str(folder)))


def _compare(tensors: Mapping[str, torch.Tensor], files: Sequence[Path]) -> None:
    """Raise ModelError for the first tensor that is another one in the files, or only there."""
    saved = set[int]()
    missing = dict(tensors)
    for path in files:
        try:
            with safe_open(str(path), "pt") as file:
                for name in file.keys():  # noqa: SIM118
                    if name not in missing:
                        raise ModelError(f"{path}: {name} is not in the trained model; {AGAIN}")
                    trained = missing.pop(name)
                    saved.add(trained.data_ptr())
                    _refuse_other(name, trained, file.get_tensor(name), path)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: damaged ({first_line(error)}); {AGAIN}") from None
    for name, trained in missing.items():
        # what is tied to a tensor in the files comes back with it
        if trained.data_ptr() not in saved:
            raise ModelError(f"{files[0]}: {name} of the trained model is not in it; {AGAIN}")


def _refuse_other(name: str, trained: torch.Tensor, saved: torch.Tensor, path: Path) -> None:
    """Raise ModelError when a saved tensor is not the trained one."""
    if saved.dtype != trained.dtype or saved.shape != trained.shape:
        raise ModelError(
            f"{path}: {name} is {_form(saved)}, in the trained model it is {_form(trained)}; "
            f"{AGAIN}"
        )
    in_memory = trained.detach().to("cpu")
    if not torch.equal(in_memory, saved):
        differing = int((in_memory != saved).sum())
        raise ModelError(
            f"{path}: {name} has other values than in the trained model ({differing} of "
            f"{saved.numel()}); {AGAIN}"
        )


def _form(tensor: torch.Tensor) -> str:
    shape = " x ".join(map(str, tensor.shape))
    return f"{str(tensor.dtype).removeprefix('torch.')} {shape}"
