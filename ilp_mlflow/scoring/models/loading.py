"""Load and save models: safetensors or GGUF, never code or pickles from a model folder."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
)
from transformers.initialization import no_init_weights
from transformers.utils import logging

from ilp_mlflow.core.config import TokenizerConfig
from ilp_mlflow.core.errors import ModelError, first_line
from ilp_mlflow.core.terminal.notes import say_once
from ilp_mlflow.core.terminal.progress import MB, bytes_on_disk, task, track, track_size
from ilp_mlflow.scoring.models import adapters
from ilp_mlflow.scoring.models.idle_adapters import why_idle
from ilp_mlflow.scoring.models.model_config import (
    ADAPTER,
    is_quantised,
    read_config,
)
from ilp_mlflow.scoring.models.saved_weights import check_saved_adapter, check_saved_model
from ilp_mlflow.scoring.models.tokenization import check_folder, read_max_length, read_tokenization
from ilp_mlflow.scoring.models.weight_files import (
    ADAPTER_WEIGHTS,
    constant_tensors,
    model_files,
    read_shapes,
    refuse_codes,
    refuse_not_finite,
)
from ilp_mlflow.scoring.models.whole_weights import (
    constant_weights,
    load_skeleton,
    quiet_libraries,
    refuse_constant,
    refuse_diverged_model,
    refuse_incomplete,
)
from ilp_mlflow.scoring.tokens.encoding import Tokenization, gguf_option


@dataclass(frozen=True)
class LoadedModel(Tokenization):
    """A model ready to be scored or trained."""

    model: PreTrainedModel | PeftModel
    """A plain model, or an adapter on its base."""

    @property
    def vocabulary(self) -> int:
        """Tokens that the model has embeddings for; the tokenizer may have more."""
        return int(self.model.config.get_text_config().vocab_size)


def check_whole(parts: Sequence[str]) -> None:
    """Check from its files that the model made of `parts` can be loaded whole.

    Headers are compared with the model that they are to fill, and all values are read once, which
    takes about as long as the disk needs. What is not on this machine, quantized or a GGUF file is
    checked when it is loaded. Raises ModelError.
    """
    location, *adapter_folders = parts
    for folder in adapter_folders:
        adapters.read_config(folder)
    config = read_config(location)
    files = _safetensors(location)
    for folder in adapter_folders:
        adapters.refuse_other_base(folder, files)
    adapter_files = [Path(folder) / ADAPTER_WEIGHTS for folder in adapter_folders]
    for path in adapter_files:
        read_shapes(path)
    refuse_codes(adapter_files)
    if files and not is_quantised(config):
        skeleton: Any = load_skeleton(location, config, files)
        refuse_codes(files)
        refuse_constant(skeleton, constant_tensors(files))
        for index, folder in enumerate(adapter_folders):
            skeleton = adapters.put_adapter(skeleton, folder, location)
            if index < len(adapter_folders) - 1:
                skeleton = adapters.merge_adapter(skeleton, folder)
    refuse_not_finite([*files, *adapter_files])


def tell_idle_adapters(parts: Sequence[str]) -> None:
    """Tell which of the adapters in `parts` change nothing: they are scored all the same."""
    for folder in parts[1:]:
        reason = why_idle(folder)
        if reason:
            say_once(f"{folder}: changes nothing, {reason}")


def load_model(
    parts: Sequence[str],
    tokenizer: TokenizerConfig | None = None,
    *,
    device: str = "cpu",
    merge: bool = False,
    trainable: bool = False,
    **options: Any,
) -> LoadedModel:
    """Load a model from its parts: the base (folder or Hub id), then adapter folders in order.

    Every adapter but the last is merged into the weights, with `merge` the last one too;
    `trainable` keeps its weights trainable. `options` go to `from_pretrained` (dtype float32 unless
    given).

    Raises ModelError when a part cannot be read (see `read_tokenization`), when its weights are
    damaged, not all there, not finite or of another model, or when the base does not fit into the
    memory of the device.
    """
    text = read_tokenization(parts, tokenizer)
    model: Any = _load_base(parts[0], device, options)
    model = _put_adapters(model, parts, merge, trainable)
    if trainable and not isinstance(model, PeftModel):
        # merging leaves the weights frozen
        model.requires_grad_(True)
    return LoadedModel(text.tokenizer, text.end_token_ids, text.max_length, model)


def _put_adapters(model: Any, parts: Sequence[str], merge: bool, trainable: bool) -> Any:
    """The base with its adapters, see `load_model`."""
    base, *folders = parts
    # an adapter was trained on what lies below it, so that is merged before the next one is added
    for index, folder in enumerate(folders):
        refuse_not_finite([Path(folder) / ADAPTER_WEIGHTS])
        adapters.refuse_other_base(folder, _safetensors(base))
        model = adapters.put_adapter(model, folder, base, trainable)
        if merge or index < len(folders) - 1:
            model = adapters.merge_adapter(model, folder)
    return model


class ModelLoader:
    """Loads one model after the other; the base stays while single adapters come and go on it.

    All read and end text as `text` says: the base may have no chat template at all.
    """

    def __init__(self, text: Tokenization, device: str, dtype: str) -> None:
        self._text, self._device, self._dtype = text, device, dtype
        self._base_location = ""
        self._base_fingerprint: dict[str, tuple[int, int]] = {}
        self._reusable: PreTrainedModel | PeftModel | None = None

    def __call__(self, parts: Sequence[str]) -> LoadedModel:
        """Load the model made of `parts` (see `load_model`); the one loaded before is used up.

        Raises ModelError as `load_model` does.
        """
        base = self._take_base(parts[0])
        if base is None:
            base = _load_base(parts[0], self._device, {"dtype": self._dtype})
        self._base_location, self._base_fingerprint = parts[0], _fingerprint(base)
        model = _put_adapters(base, parts, merge=False, trainable=False)
        # more than one adapter means that the first ones were merged, which changes the base
        if len(parts) <= 2:
            self._reusable = model
        max_length = read_max_length(parts, read_config(parts[0]))
        return LoadedModel(self._text.tokenizer, self._text.end_token_ids, max_length, model)

    def _take_base(self, location: str) -> PreTrainedModel | None:
        """The base in memory, where it is the one at `location` and as it was loaded."""
        model, self._reusable = self._reusable, None
        if isinstance(model, PeftModel):
            model = adapters.take_off(model)
        if model is None or location != self._base_location:
            return None
        return model if _fingerprint(model) == self._base_fingerprint else None


def _fingerprint(model: PreTrainedModel | PeftModel) -> dict[str, tuple[int, int]]:
    """Where every weight lies and how often it was changed in place: equal while nobody did."""
    return {name: (w.data_ptr(), w._version) for name, w in model.named_parameters()}


def save_model(
    loaded: LoadedModel,
    folder: Path,
    base_uri: str,
    with_tokenizer: bool,
    trained_on: str | None = None,
) -> None:
    """Write a checkpoint as safetensors: an adapter alone, or all weights with their tokenizer.

    An adapter records `base_uri` as the model it sits on, and which base that is by its weights
    where `trained_on` is given, the folder or Hub id of the base. `with_tokenizer` adds the
    tokenizer to an adapter. Raises ModelError when a saved tensor is not the one in memory.
    """
    is_adapter = isinstance(loaded.model, PeftModel)
    if is_adapter:
        base = [] if trained_on is None else _safetensors(trained_on)
        # embeddings that were resized are nowhere else
        rows = [shape[0] for shape in _embedding_shapes(loaded.model, base)]
        is_resized = any(count != loaded.vocabulary for count in rows)
        loaded.model.save_pretrained(str(folder), save_embedding_layers=is_resized)
        # PEFT's template of a model card, filled in nowhere
        (folder / "README.md").unlink(missing_ok=True)
        config = json.loads((folder / ADAPTER).read_text())
        config["base_model_name_or_path"] = base_uri
        (folder / ADAPTER).write_text(json.dumps(config, indent=2))
        if base:
            adapters.record_base(folder, base)
        with task(f"check {folder.name}"):
            check_saved_adapter(loaded.model, folder, is_resized)
    else:
        # `parameters` gives tied weights once, as the file has them
        size = sum(w.numel() * w.element_size() for w in loaded.model.parameters())
        with track_size(f"write {folder.name}", size, partial(bytes_on_disk, folder)):
            loaded.model.save_pretrained(folder)
        with task(f"check {folder.name}"):
            check_saved_model(loaded.model, folder)
    if with_tokenizer or not is_adapter:
        loaded.tokenizer.save_pretrained(folder)


def _embedding_shapes(model: PeftModel, base: Sequence[Path]) -> list[tuple[int, ...]]:
    """Shapes of the embeddings of a model's base in its files, as far as they are there."""
    below = model.get_base_model()
    ends = (below.get_input_embeddings(), below.get_output_embeddings())
    names = [name for name, module in below.named_modules() if module in ends]
    shapes = [read_shapes(path).get(f"{name}.weight") for path in base for name in names]
    return [shape for shape in shapes if shape is not None]


def pick_device(device: str) -> str:
    """`auto` as the best device of this machine; any other name as it is.

    Raises ModelError when the device asked for is not available.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"device '{device}' is not available here ({first_line(error)}); use 'auto' or 'cpu'"
        ) from None
    return device


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch says that memory ran out; on a CPU only its words tell."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def _safetensors(location: str) -> list[Path]:
    """The files of a full model, [] for a GGUF file and for what is not on this machine yet."""
    return [] if gguf_option(location) else model_files(location)


def _load_base(location: str, device: str, options: dict[str, Any]) -> PreTrainedModel:
    """The base from its folder or the Hub, whole, on a device. Raises ModelError."""
    gguf: dict[str, Any] = gguf_option(location)
    check_folder(location)
    try:
        with show_loading(), quiet_libraries():
            model, info = AutoModelForCausalLM.from_pretrained(
                location,
                **(gguf or {"use_safetensors": True}),
                trust_remote_code=False,
                tqdm_class=Download,
                output_loading_info=True,
                # what does not fit is told below, by name
                ignore_mismatched_sizes=True,
                **{"dtype": "float32", **options},
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, ImportError) as error:
        raise ModelError(f"{location}: cannot be loaded ({first_line(error)})") from None
    files = _safetensors(location)
    refuse_incomplete(location, info, files)
    refuse_diverged_model(model, location)
    if not is_quantised(model.config):
        refuse_codes(files)
        refuse_constant(model, constant_weights(model, location))
    if gguf:
        model = _as_ordinary_model(model)
    return _move(model, device, location)


def _as_ordinary_model(model: PreTrainedModel) -> PreTrainedModel:
    """A de-quantised GGUF model as one that can be trained and saved like any other."""
    config = model.config
    del config.quantization_config
    config._name_or_path = ""
    with no_init_weights():
        ordinary = type(model)(config)
    ordinary.load_state_dict(model.state_dict())
    ordinary.generation_config = model.generation_config
    return ordinary.to(model.dtype).eval()


def _move(model: PreTrainedModel, device: str, name: str) -> PreTrainedModel:
    """The model on `device`. Raises ModelError when it does not fit there."""
    try:
        return model.to(device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"{name}: does not fit into the memory of {device}; "
            "use another device, or dtype bfloat16"
        ) from None


class Download(tqdm):
    """A progress bar for `huggingface_hub`: bytes are shown by `progress.task`, in MB."""

    def __init__(self, *args: Any, **options: Any) -> None:
        # disabled: tqdm itself is to draw nothing
        super().__init__(*args, **{**options, "disable": True})
        self.shown = contextlib.ExitStack()
        # the library also counts files that way, which are not shown
        self.counts_bytes = options.get("unit") == "B"
        if self.counts_bytes:
            name = str(options.get("desc") or "").rpartition("/")[2]
            self.advance = self.shown.enter_context(task(f"download {name}", 0, "MB"))
            self.advance(self.n / MB, (self.total or 0) / MB)

    def update(self, n: float | None = 1) -> None:
        """Count `n` more, of `total`, which may have grown."""
        self.n += n or 0
        if self.counts_bytes:
            self.advance((n or 0) / MB, (self.total or 0) / MB)

    def close(self) -> None:
        """Take the bar away."""
        self.shown.close()


@contextlib.contextmanager
def show_loading() -> Iterator[None]:
    """Show the loading of weights by a bar of ours in place of the one of transformers."""

    def hook(bar: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if options.get("desc") != "Loading weights":
            return bar(*args, **options)
        return track(args[0], "load weights")

    hook_before = logging.set_tqdm_hook(hook)
    try:
        yield
    finally:
        logging.set_tqdm_hook(hook_before)
