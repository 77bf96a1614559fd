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
from safetensors import SafetensorError, safe_open
from tqdm import tqdm
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.initialization import no_init_weights
from transformers.utils import logging

from ilp_mlflow.core.config import TokenizerConfig
from ilp_mlflow.core.errors import ModelError, first_line
from ilp_mlflow.core.terminal.progress import MB, bytes_on_disk, task, track, track_size
from ilp_mlflow.scoring.encoding import Tokenization, gguf_option, load_tokenizer
from ilp_mlflow.tracking.model_digest import PICKLES

ADAPTER = "adapter_config.json"


@dataclass(frozen=True)
class LoadedModel(Tokenization):
    """A model ready to be scored or trained."""

    model: PreTrainedModel | PeftModel
    """A plain model, or an adapter on its base."""


def read_tokenization(
    parts: Sequence[str], tokenizer: TokenizerConfig | None = None
) -> Tokenization:
    """How the model made of `parts` (see `load_model`) reads text.

    Raises ModelError when a part is missing or damaged, has pickled weights only, or is not a
    causal language model.
    """
    base, *adapters = parts
    _check_folder(base)
    config = _config(base)
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise ModelError(f"{base}: '{config.model_type}' is not a causal language model")
    for adapter in adapters:
        if not (Path(adapter) / "adapter_model.safetensors").exists():
            raise ModelError(
                f"{adapter}: no adapter_model.safetensors; save the adapter as safetensors"
            )
    with_options = load_tokenizer(parts, tokenizer)
    end_token_ids = _generation_end_token_ids(base, config)
    if with_options.eos_token_id is not None:
        end_token_ids.add(with_options.eos_token_id)
    max_length = getattr(config.get_text_config(), "max_position_embeddings", None)
    return Tokenization(with_options, frozenset(end_token_ids), max_length)


def load_model(
    parts: Sequence[str],
    tokenizer: TokenizerConfig | None = None,
    *,
    device: str = "cpu",
    merge: bool = False,
    trainable: bool = False,
    onto: PreTrainedModel | None = None,
    **options: Any,
) -> LoadedModel:
    """Load a model from its parts: the base (folder or Hub id), then adapter folders in order.

    Every adapter but the last is merged into the weights, with `merge` the last one too;
    `trainable` keeps its weights trainable. `onto` is the base where it is loaded already.
    `options` go to `from_pretrained` (dtype float32 unless given).

    Raises ModelError when a part cannot be read (see `read_tokenization`), when its weights are
    damaged or of another model, or when the base does not fit into the memory of the device.
    """
    base, *adapters = parts
    tokenization = read_tokenization(parts, tokenizer)
    model: Any = onto
    if model is None:
        model = _load_base(base, {"dtype": "float32", **options})
        model = _move(model, device, base)
    # an adapter was trained on what lies below it, so that is merged before the next one is added
    for index, adapter in enumerate(adapters):
        model = _add_adapter(model, adapter, base, trainable)
        if merge or index < len(adapters) - 1:
            model = model.merge_and_unload()
    if trainable and not isinstance(model, PeftModel):
        # merging leaves the weights frozen
        model.requires_grad_(True)
    return LoadedModel(
        tokenization.tokenizer, tokenization.end_token_ids, tokenization.max_length, model
    )


class ModelLoader:
    """Loads one model after the other; the base stays while single adapters come and go on it."""

    def __init__(self, tokenizer: TokenizerConfig | None, device: str, dtype: str) -> None:
        self._tokenizer, self._device, self._dtype = tokenizer, device, dtype
        self._base_location = ""
        self._base_fingerprint: dict[str, tuple[int, int]] = {}
        self._reusable: PreTrainedModel | PeftModel | None = None

    def __call__(self, parts: Sequence[str]) -> LoadedModel:
        """Load the model made of `parts` (see `load_model`); the one loaded before is used up.

        Raises ModelError as `load_model` does.
        """
        loaded = self._load(parts[:1], onto=self._take_base(parts[0]))
        self._base_location, self._base_fingerprint = parts[0], _fingerprint(loaded.model)
        if len(parts) > 1:
            loaded = self._load(parts, onto=loaded.model)
        # more than one adapter means that the first ones were merged, which changes the base
        if len(parts) <= 2:
            self._reusable = loaded.model
        return loaded

    def _take_base(self, location: str) -> PreTrainedModel | None:
        """The base in memory, where it is the one at `location` and as it was loaded."""
        model, self._reusable = self._reusable, None
        if isinstance(model, PeftModel):
            model = model.unload()
        if model is None or location != self._base_location:
            return None
        return model if _fingerprint(model) == self._base_fingerprint else None

    def _load(self, parts: Sequence[str], onto: Any) -> LoadedModel:
        return load_model(parts, self._tokenizer, device=self._device, dtype=self._dtype, onto=onto)


def _fingerprint(model: PreTrainedModel | PeftModel) -> dict[str, tuple[int, int]]:
    """Where every weight lies and how often it was changed in place: equal while nobody did."""
    return {name: (w.data_ptr(), w._version) for name, w in model.named_parameters()}


def save_model(loaded: LoadedModel, folder: Path, base_uri: str, with_tokenizer: bool) -> None:
    """Write a checkpoint as safetensors: an adapter alone, or all weights with their tokenizer.

    An adapter records `base_uri` as the model it sits on; `with_tokenizer` adds the tokenizer to an
    adapter.
    """
    is_adapter = isinstance(loaded.model, PeftModel)
    if is_adapter:
        loaded.model.save_pretrained(str(folder), save_embedding_layers=False)
        # PEFT's template of a model card, filled in nowhere
        (folder / "README.md").unlink(missing_ok=True)
        config = json.loads((folder / ADAPTER).read_text())
        config["base_model_name_or_path"] = base_uri
        (folder / ADAPTER).write_text(json.dumps(config, indent=2))
    else:
        # `parameters` gives tied weights once, as the file has them
        size = sum(w.numel() * w.element_size() for w in loaded.model.parameters())
        with track_size(f"write {folder.name}", size, partial(bytes_on_disk, folder)):
            loaded.model.save_pretrained(folder)
    if with_tokenizer or not is_adapter:
        loaded.tokenizer.save_pretrained(folder)


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


def _config(location: str) -> PretrainedConfig:
    """The configuration of a base. Raises ModelError when it cannot be read."""
    try:
        return AutoConfig.from_pretrained(
            location, trust_remote_code=False, **gguf_option(location)
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        # transformers takes a path that does not exist for the id of a Hub model
        if location.startswith((".", "/", "~")) and not Path(location).exists():
            raise ModelError(f"{location}: no such folder; check the path") from None
        hint = "; is the Hub reachable and the name right? A local folder works too"
        if Path(location).is_dir():
            hint = ""
        raise ModelError(f"{location}: cannot be read ({first_line(error)}){hint}") from None


def _generation_end_token_ids(base: str, config: PretrainedConfig) -> set[int]:
    """Ids of the end tokens that the model's own generation settings name."""
    try:
        generation = GenerationConfig.from_pretrained(base)
    except OSError:
        generation = GenerationConfig.from_model_config(config)
    if generation.eos_token_id is None:
        return set()
    if isinstance(generation.eos_token_id, list):
        return set(generation.eos_token_id)
    return {generation.eos_token_id}


def _check_folder(location: str) -> None:
    """Raise ModelError when a local folder has no config, no safetensors, or damaged ones."""
    folder = Path(location)
    if not folder.is_dir() or gguf_option(location):
        return
    if not (folder / "config.json").exists():
        raise ModelError(
            f"{location}: no config.json; give a folder with a model in safetensors, "
            "or one GGUF file"
        )
    weight_files = list(folder.glob("*.safetensors"))
    for path in weight_files:
        try:
            # opening checks the header and the size of the file
            with safe_open(str(path), "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{path}: damaged ({first_line(error)}); copy or download it again"
            ) from None
    if not weight_files:
        raise ModelError(f"{location}: {_without_weights(folder)}; save the model as safetensors")


def _without_weights(folder: Path) -> str:
    """What a folder without safetensors has instead, for an error message."""
    for pattern in PICKLES:
        for path in folder.glob(pattern):
            return f"only pickled weights ({path.name}), which can run code"
    return "no weights"


def _load_base(location: str, options: dict[str, Any]) -> PreTrainedModel:
    """The base from its folder or the Hub. Raises ModelError when it cannot be loaded."""
    gguf: dict[str, Any] = gguf_option(location)
    _check_folder(location)
    try:
        with show_loading():
            model = AutoModelForCausalLM.from_pretrained(
                location,
                **(gguf or {"use_safetensors": True}),
                trust_remote_code=False,
                tqdm_class=Download,
                **options,
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, ImportError) as error:
        raise ModelError(f"{location}: cannot be loaded ({first_line(error)})") from None
    return _as_ordinary_model(model) if gguf else model


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


def _add_adapter(model: Any, adapter: str, base: str, trainable: bool) -> PeftModel:
    """The model with an adapter on top. Raises ModelError when the adapter is of another model."""
    try:
        return PeftModel.from_pretrained(
            model, adapter, is_trainable=trainable, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ModelError(f"{adapter}: not an adapter for {base} ({first_line(error)})") from None


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
