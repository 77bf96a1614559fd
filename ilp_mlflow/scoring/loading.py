"""Load and save models: safetensors or GGUF, never code or pickles from a model folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.initialization import no_init_weights

from ilp_mlflow.core.config import TokenizerConfig
from ilp_mlflow.core.errors import ModelError, first_line
from ilp_mlflow.core.progress import bytes_on_disk, track_size
from ilp_mlflow.scoring.progress_hooks import Download, show_loading
from ilp_mlflow.tracking.model_digest import PICKLES

ADAPTER = "adapter_config.json"
VARIABLES_END = "{{ '' if 'end of chat_template_kwargs' }}"
"""Behind the variables that are set in front of a chat template; prints nothing and keeps the white space that follows."""


@dataclass(frozen=True)
class Tokenization:
    """How a model reads text and ends it; costs no weights to know."""

    tokenizer: PreTrainedTokenizerBase
    ends: frozenset[int]
    """Ids of the tokens that end a generation."""
    max_length: int | None
    """Longest sequence in tokens the model has positions for."""


@dataclass(frozen=True)
class LoadedModel(Tokenization):
    """A model ready to be scored or trained."""

    model: PreTrainedModel | PeftModel


def read_tokenization(
    parts: Sequence[str], tokenizer: TokenizerConfig | None = None
) -> Tokenization:
    """How the model made of `parts` (see `load`) reads text.

    Raises ModelError when a part is missing, has pickled weights only, or is not a causal language model.
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
    try:
        generation = GenerationConfig.from_pretrained(base)
    except OSError:
        generation = GenerationConfig.from_model_config(config)
    found = load_tokenizer(parts, tokenizer)
    ends = {found.eos_token_id, *_listed(generation.eos_token_id)} - {None}
    return Tokenization(
        found, frozenset(ends), getattr(config.get_text_config(), "max_position_embeddings", None)
    )


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
    """Load a model from its parts: the base (folder or Hub id), then adapter folders, each on top of those before.

    All adapters but the last are merged into the weights, with `merge` the last one too; `trainable` keeps its
    weights trainable. `onto` is the base where it is loaded already. `options` go to `from_pretrained` (dtype float32
    unless given). Raises ModelError when a part cannot be read (see `read`) or its weights are damaged or of another model.
    """
    base, *adapters = parts
    text = read_tokenization(parts, tokenizer)
    model: Any = onto or _moved(_base(base, {"dtype": "float32", **options}), device, base)
    for index, adapter in enumerate(adapters):
        try:
            model = PeftModel.from_pretrained(
                model, adapter, is_trainable=trainable, use_safetensors=True
            )
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise ModelError(
                f"{adapter}: not an adapter for {base} ({first_line(error)})"
            ) from None
        if merge or index < len(adapters) - 1:
            model = model.merge_and_unload()
    if trainable and not isinstance(model, PeftModel):
        model.requires_grad_(True)  # merging leaves the weights frozen
    return LoadedModel(text.tokenizer, text.ends, text.max_length, model)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch says that memory ran out; of a CPU's, only its words do."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def _moved(model: PreTrainedModel, device: str, name: str) -> PreTrainedModel:
    try:
        return model.to(device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"{name}: does not fit into the memory of {device}; use another device, or dtype bfloat16"
        ) from None


class ModelLoader:
    """Loads one model after the other, the base only once while single adapters come and go on it."""

    def __init__(self, tokenizer: TokenizerConfig | None, device: str, dtype: str) -> None:
        self._tokenizer, self._options = tokenizer, dict[str, Any](device=device, dtype=dtype)
        self._held: PreTrainedModel | PeftModel | None = None
        self._base, self._weights = "", dict[str, tuple[int, int]]()

    def __call__(self, parts: Sequence[str]) -> LoadedModel:
        """The model made of `parts` (see `load`); the one given before is used up. Raises ModelError."""
        onto, self._held = self._held, None
        if isinstance(onto, PeftModel):
            onto = onto.unload()
        if parts[0] != self._base or _weights(onto) != self._weights:
            onto = None
        loaded = load_model(parts[:1], self._tokenizer, onto=onto, **self._options)
        self._base, self._weights = parts[0], _weights(loaded.model)
        if len(parts) > 1:
            loaded = load_model(parts, self._tokenizer, onto=loaded.model, **self._options)
        if len(parts) <= 2:  # merging more changes the base
            self._held = loaded.model
        return loaded


def _weights(model: PreTrainedModel | PeftModel | None) -> dict[str, tuple[int, int]]:
    """Where every weight is and how often it was changed in place: the same as before when nobody touched the model."""
    return (
        {name: (p.data_ptr(), p._version) for name, p in model.named_parameters()}
        if model is not None
        else {}
    )


def load_tokenizer(
    parts: Sequence[str], config: TokenizerConfig | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of the last part that has one, with the options of `config` applied. Raises ModelError."""
    config = config or TokenizerConfig()
    own = [part for part in parts if has_tokenizer(part)]
    source = own[-1] if own else parts[0]
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **_gguf(source))
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"{source}: no usable tokenizer ({first_line(error)})") from None
    if config.chat_template:
        try:
            tokenizer.chat_template = Path(config.chat_template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise ModelError(
                f"tokenizer.chat_template: {config.chat_template} is not a readable text file"
            ) from None
    if config.chat_template_kwargs and tokenizer.chat_template:
        # set inside the template, they hold for training, scoring and everyone who loads the saved tokenizer
        given = "".join(
            f"{{% set {k} = {'none' if v is None else json.dumps(v)} %}}"
            for k, v in config.chat_template_kwargs.items()
        )
        template = tokenizer.chat_template.rpartition(VARIABLES_END)[
            2
        ]  # without variables set earlier
        tokenizer.chat_template = given + VARIABLES_END + template
    if config.eos_token:
        if config.eos_token not in tokenizer.get_vocab():
            raise ModelError(
                f"tokenizer.eos_token: '{config.eos_token}' is not in the vocabulary of {source}"
            )
        tokenizer.eos_token = config.eos_token
    return tokenizer


def has_tokenizer(part: str) -> bool:
    """Whether a model folder has a tokenizer of its own."""
    return (Path(part) / "tokenizer_config.json").exists()


def save_model(loaded: LoadedModel, folder: Path, base_uri: str, with_tokenizer: bool) -> None:
    """Write a checkpoint as safetensors: an adapter alone, or all weights with their tokenizer.

    An adapter records `base_uri` as the model it sits on; `with_tokenizer` adds the tokenizer to an adapter.
    """
    if isinstance(loaded.model, PeftModel):
        loaded.model.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)
        config = json.loads((folder / ADAPTER).read_text())
        (folder / ADAPTER).write_text(
            json.dumps(config | {"base_model_name_or_path": base_uri}, indent=2)
        )
    else:
        size = sum(
            p.numel() * p.element_size() for p in loaded.model.parameters()
        )  # each once, tied ones too
        with track_size(f"write {folder.name}", size, partial(bytes_on_disk, folder)):
            loaded.model.save_pretrained(folder)
    if with_tokenizer or not isinstance(loaded.model, PeftModel):
        loaded.tokenizer.save_pretrained(folder)


def pick_device(device: str) -> str:
    """`auto` as the best device of this machine. Raises ModelError when the device asked for is not there."""
    if device == "auto":
        mps = torch.backends.mps.is_available()
        return "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"device '{device}' is not available here ({first_line(error)}); use 'auto' or 'cpu'"
        ) from None
    return device


def _config(location: str) -> PretrainedConfig:
    try:
        return AutoConfig.from_pretrained(location, trust_remote_code=False, **_gguf(location))
    except (OSError, ValueError, KeyError, ImportError) as error:
        if location.startswith((".", "/", "~")) and not Path(location).exists():
            raise ModelError(f"{location}: no such folder; check the path") from None
        hint = (
            ""
            if Path(location).is_dir()
            else "; is the Hub reachable and the name right? A local folder works too"
        )
        raise ModelError(f"{location}: cannot be read ({first_line(error)}){hint}") from None


def _base(location: str, options: dict[str, Any]) -> PreTrainedModel:
    gguf: dict[str, Any] = _gguf(location)
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
    return _plain(model) if gguf else model


def _check_folder(location: str) -> None:
    folder = Path(location)
    if not folder.is_dir() or _gguf(location):
        return
    if not (folder / "config.json").exists():
        raise ModelError(
            f"{location}: no config.json; give a folder with a model in safetensors, or one GGUF file"
        )
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(str(path), "pt"):
                pass  # the header and the size of the file are right
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{path}: damaged ({first_line(error)}); copy or download it again"
            ) from None
    if not list(folder.glob("*.safetensors")):
        found = [p.name for pattern in PICKLES for p in folder.glob(pattern)]
        what = f"only pickled weights ({found[0]}), which can run code" if found else "no weights"
        raise ModelError(f"{location}: {what}; save the model as safetensors")


def _gguf(location: str) -> dict[str, Any]:
    """The `gguf_file` option for a folder whose weights are one GGUF file."""
    folder = Path(location)
    if not folder.is_dir() or list(folder.glob("*.safetensors")):
        return {}
    files = sorted(folder.glob("*.gguf"))
    if len(files) > 1:
        raise ModelError(
            f"{location}: {len(files)} GGUF files ({files[0].name}, ...); keep one of them in the folder"
        )
    return {"gguf_file": files[0].name} if files else {}


def _plain(model: PreTrainedModel) -> PreTrainedModel:
    """A de-quantised GGUF model as an ordinary one, which can be trained and saved."""
    config = model.config
    del config.quantization_config
    config._name_or_path = ""
    with no_init_weights():
        plain = type(model)(config)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    return plain.to(model.dtype).eval()


def _listed(value: int | list[int] | None) -> list[int]:
    return value if isinstance(value, list) else [value] if value is not None else []
