"""Models in MLflow: registered and logged ones, what each is made of, and where it comes from."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import yaml
from mlflow import MlflowClient
from mlflow.entities import LoggedModelInput, LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

from ilp_mlflow.core import cache
from ilp_mlflow.core.errors import ModelError, TrackingError, first_line, suggest
from ilp_mlflow.core.terminal.interrupts import defer_interrupts
from ilp_mlflow.core.terminal.notes import say_once
from ilp_mlflow.core.terminal.progress import bytes_on_disk, bytes_read, track_size
from ilp_mlflow.tracking.connection import store_errors
from ilp_mlflow.tracking.model_digest import model_digest

HUB_ID = re.compile(r"^[\w.-]+(/[\w.-]+)?$")
MLFLOW_URI = re.compile(r"^(models|runs|mlflow-artifacts):/")
VERSION_URI = re.compile(r"models:/([^/@]+)/(\d+)")
"""A version of a registered model: its name and number."""
ALIAS_URI = re.compile(r"models:/([^/@]+)(?:@(.+)|/(latest))")
"""An alias of a registered model, or its latest version."""
LOGGED_URI = re.compile(r"models:/(m-[0-9a-f]+)")
"""A logged model: its id."""
RUN_URI = re.compile(r"runs:/([^/]+)/([^/]+)")
"""A logged model by the id of its run and its name."""
ADAPTER_CONFIG = "adapter_config.json"
"""The file of PEFT that makes a folder an adapter."""
SHARED_TAGS = ("ilp.kind", "ilp.experiment", "ilp.stage", "ilp.index")
"""Tags that all versions of a model share, set on the registered model, too: the UI filters its
list by them."""
ORIGIN_TAGS = ("experiment", "stage", "index", "parent", "base", "data_digest")
"""Tags (behind `ilp.`) of a version of a stage that say where it comes from."""
MAX_VERSIONS = 10_000
"""Versions that are listed."""


def resolve_all(locations: Mapping[str, str]) -> dict[str, list[str]]:
    """The parts of every checkpoint by name, the base first; see `resolve_parts`.

    Raises ModelError.
    """
    base = next(iter(locations.values()))
    return {name: resolve_parts(location, base) for name, location in locations.items()}


def side_by_side(parts: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Checkpoints whose one adapter sits on the base, though an earlier stage changed that.

    By name, with the name of the latest such stage, which left an adapter on the base or a full
    model. `parts` are those of every checkpoint, in order; NAME@N is a step inside the stage NAME.
    """
    earlier: dict[str, str] = {}
    first = next(iter(parts))
    parts_by_stage: dict[str, Sequence[str]] = {}
    for name, (base, *adapters) in parts.items():
        stage = name.partition("@")[0]
        trained = []
        for other, (other_base, *other_adapters) in parts_by_stage.items():
            is_full_model = not other_adapters and base == parts[first][0] != other_base
            if other != stage and (is_full_model or (other_adapters and other_base == base)):
                trained.append(other)
        if len(adapters) == 1 and trained:
            earlier[name] = trained[-1]
        if "@" not in name and name != first:
            parts_by_stage[stage] = parts[name]
    return earlier


def tell_side_by_side(parts: Mapping[str, Sequence[str]]) -> None:
    """Tell which adapters are put on the base without what the stages before made of it.

    For models of which only folders are known: a stage that was trained here may go on with the
    adapter of the one before, which then sits on the base, too.
    """
    for name, earlier in side_by_side(parts).items():
        tell_apart(name, parts[name][0], earlier)


def tell_apart(name: str, base: str, earlier: str) -> None:
    """Tell that the adapter of a checkpoint is put on the base, not on a stage before."""
    say_once(
        f"{name}: its adapter is put on {base}, not on '{earlier}' before it; if it was trained on "
        f"that, write --checkpoint {name}={earlier}+FOLDER"
    )


def tell_other_bases(parts: Mapping[str, Sequence[str]]) -> None:
    """Tell which adapters name another model than the base, or than an earlier checkpoint.

    `parts` are those of every checkpoint by name, the base first.
    """
    earlier = list[str]()
    for name, (below, *adapters) in parts.items():
        base = next(iter(parts.values()))[0]
        if adapters and not any(_is_same_model(below, other) for other in earlier):
            say_once(
                f"{name}: its adapter is put on {below}, which it names and which is not the base "
                f"{base}: what the base knew is said of another model; give {below} as the base"
            )
        elif adapters:
            named = adapter_base(adapters[0])
            are_of_hub = HUB_ID.match(named) and HUB_ID.match(base) and not Path(base).exists()
            if are_of_hub and named != base == below:
                say_once(
                    f"{name}: its adapter names {named} as its base, and is put on {base}; give "
                    f"{named} as the base, unless both are the same model"
                )
        earlier.append(below)


def _is_same_model(one: str, other: str) -> bool:
    """Whether two places hold the same weights."""
    return one == other or (
        Path(one).is_dir() and Path(other).is_dir() and model_digest(one) == model_digest(other)
    )


def resolve_parts(location: str, base: str | None = None) -> list[str]:
    """The parts a model is made of: its base (folder or Hub id), then adapter folders in order.

    `location` is an MLflow URI, a local folder, a Hub id, or several of these with + between them:
    a model and the adapters on it, in order. An adapter names the model below it by an MLflow URI
    (ours do), a path or a Hub id; `base` stands in for a path that is not on this machine and for
    a Hub id. Raises ModelError when something is not found or an adapter has no base.
    """
    below, _, last = split_stack(location)
    if below:
        adapter = _model_folder(_folder(last))
        if not (Path(adapter) / ADAPTER_CONFIG).exists():
            raise ModelError(f"{location}: {last} is no adapter, so nothing can be below it")
        return [*resolve_parts(below, base), adapter]
    folder = _model_folder(_folder(location))
    if not (Path(folder) / ADAPTER_CONFIG).exists():
        return [folder]
    # nothing stands in for what is below the base itself
    if base == location:
        base = None
    below = adapter_base(folder)
    is_found_here = MLFLOW_URI.match(below) or (below and Path(below).is_dir())
    if base and not is_found_here:
        if below not in ("", base):
            say_once(f"{folder}: the model below it, '{below}', is not here; {base} is used")
        below = base
    if not below:
        raise ModelError(
            f"{location}: an adapter that does not name its base; "
            "give the base as the first checkpoint"
        )
    return [*resolve_parts(below, base), folder]


def split_stack(location: str) -> tuple[str, str, str]:
    """What is below the last + of a location, the +, and what is on it; "" twice without one."""
    # a folder may have a + in its name
    if "+" not in location or Path(location).exists():
        return "", "", location
    return location.rpartition("+")


def _model_folder(folder: str) -> str:
    """The folder with the weights of a model that `mlflow.transformers` logged; others as they are.

    It may also be the Hub id of a model that was logged without its weights. Raises ModelError when
    the folder has a flavor of another library.
    """
    file = Path(folder) / "MLmodel"
    if not file.exists() or (Path(folder) / "config.json").exists():
        return folder
    flavors = yaml.safe_load(file.read_text(encoding="utf-8")).get("flavors") or {}
    flavor = flavors.get("transformers")
    if flavor is None:
        raise ModelError(
            f"{folder}: logged by MLflow as {', '.join(flavors) or 'nothing'}; only models of "
            "mlflow.transformers are read"
        )
    for key in ("peft_adaptor", "model_binary"):
        if key in flavor:
            return str(Path(folder) / flavor[key])
    return str(flavor["source_model_name"])


def adapter_base(adapter: str) -> str:
    """What an adapter folder names as the model it sits on, "" when it names none.

    Raises ModelError when its configuration is not valid.
    """
    path = Path(adapter) / ADAPTER_CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return config.get("base_model_name_or_path") or ""
    except (ValueError, AttributeError):
        raise ModelError(f"{path}: not a valid adapter configuration") from None


def register_base(location: str, run_id: str) -> str:
    """Register the base model unless it is already, and return its version's URI.

    A model in MLflow is taken as it is; a Hub id becomes an external model, nothing copied; a local
    folder is stored once per content, see `model_digest`.
    """
    if MLFLOW_URI.match(location):
        return _resolve_alias(location)
    is_local = Path(location).is_dir()
    # a Hub id has a slash, which the name of a registered model cannot have
    full_name = Path(location).resolve().name if is_local else location
    name = re.sub(r"[^\w.-]", ".", full_name)
    digest = model_digest(location) if is_local else location
    for version in MlflowClient().search_model_versions(f"name = '{name}'"):
        if version.tags.get("ilp.digest") == digest:
            return f"models:/{name}/{version.version}"
    tags = {"ilp.kind": "base", "ilp.digest": digest}
    if is_local:
        return register(name, location, run_id, tags)
    tags["ilp.hub"] = location
    model = mlflow.create_external_model(
        name=_logged_name(name), source_run_id=run_id, tags={"ilp.hub": location}
    )
    return _create_version(name, model.model_id, run_id, tags)


def base_of(uri: str) -> str:
    """URI of the base below a registered stage; a model that is no stage is its own base."""
    version_uri = _resolve_alias(uri)
    with _model_errors(uri):
        version = _version(version_uri)
    return str(version.tags.get("ilp.base", uri)) if version else uri


def register(name: str, folder: str, run_id: str, tags: Mapping[str, Any]) -> str:
    """Store a model folder and register it as a new version of `name`; return the version's URI.

    MLflow keeps the alias `latest` for the newest version by itself.
    """
    logged = store(name, folder, run_id, tags)
    return _create_version(name, logged.removeprefix("models:/"), run_id, tags)


def promote(name: str, model_uri: str, run_id: str, tags: Mapping[str, Any], alias: str) -> str:
    """Register a logged model as a version of `name`, unless it is one, and give it an alias.

    Returns the version's URI.
    """
    client = MlflowClient()
    versions = client.search_model_versions(f"name = '{name}'")
    numbers = [version.version for version in versions if version.source == model_uri]
    if numbers:
        uri = f"models:/{name}/{numbers[0]}"
    else:
        uri = _create_version(name, model_uri.removeprefix("models:/"), run_id, tags)
    client.set_registered_model_alias(name, alias, uri.rpartition("/")[2])
    return uri


def store(name: str, folder: str, run_id: str, tags: Mapping[str, Any] | None = None) -> str:
    """Store a model folder as a logged model of a run, unregistered; return its URI."""
    client = MlflowClient()
    model = mlflow.initialize_logged_model(
        name=_logged_name(name),
        source_run_id=run_id,
        tags={key: str(value) for key, value in (tags or {}).items()},
        experiment_id=client.get_run(run_id).info.experiment_id,
    )
    try:
        with _upload_bar(name, Path(folder), model.artifact_location):
            client.log_model_artifacts(model.model_id, folder)
    # an interrupt, too: a model that is never finalized stays pending
    except BaseException:
        mlflow.finalize_logged_model(model.model_id, "FAILED")
        raise
    mlflow.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return f"models:/{model.model_id}"


def _upload_bar(name: str, folder: Path, location: str) -> contextlib.AbstractContextManager[None]:
    """A progress bar for a folder that is stored at a location.

    It counts the bytes that are there or, where that is not this machine, the bytes that were read.
    """
    size = bytes_on_disk(folder)
    if is_local_uri(location, False):
        stored = Path(local_file_uri_to_path(location))
        return track_size(f"store {name}", size, partial(bytes_on_disk, stored))
    return track_size(f"upload {name}", size, bytes_read(folder))


def model_id(uri: str) -> str | None:
    """Id of the logged model behind a URI; None for what is no model in MLflow."""
    with _model_errors(uri):
        version = _version(uri)
    logged = LOGGED_URI.fullmatch(version.source if version else uri)
    return logged[1] if logged else None


def log_model_inputs(run_id: str, uris: Iterable[str]) -> None:
    """Log models as what a run started from or asked; those that are not in MLflow are left out."""
    inputs = []
    for uri in uris:
        logged_id = model_id(uri)
        if logged_id:
            inputs.append(LoggedModelInput(logged_id))
    MlflowClient().log_inputs(run_id, models=inputs)


def registry_uri() -> str:
    """The address of the model registry."""
    return str(mlflow.get_registry_uri())


def list_stages(experiment: str | None = None) -> list[dict[str, Any]]:
    """Registered versions of stages, of one experiment or of all, by experiment and creation.

    Raises TrackingError when MLflow does not answer, or the experiment has none.
    """
    with store_errors():
        versions = MlflowClient().search_model_versions(
            "tags.`ilp.kind` = 'stage'", max_results=MAX_VERSIONS
        )
    rows = [_stage_row(version) for version in versions]
    experiments = {str(row["experiment"]) for row in rows}
    if experiment:
        if experiment not in experiments:
            raise TrackingError(
                f"no registered stages of experiment '{experiment}' "
                f"in {mlflow.get_tracking_uri()}; {suggest(experiment, experiments)}"
            )
        rows = [row for row in rows if row["experiment"] == experiment]
    return sorted(rows, key=lambda row: (row["experiment"], row["created"]))


def _stage_row(version: ModelVersion) -> dict[str, Any]:
    """A version of a stage as `ilp stages --json` prints it."""
    row = {
        "name": version.name,
        "version": int(version.version),
        "uri": f"models:/{version.name}/{version.version}",
    }
    for tag in ORIGIN_TAGS:
        row[tag] = version.tags.get(f"ilp.{tag}")
    row["run_id"] = version.run_id
    row["created"] = version.creation_timestamp
    return row


def _create_version(name: str, logged_id: str, run_id: str, tags: Mapping[str, Any]) -> str:
    """Register a logged model as a new version of `name`; return the version's URI."""
    client = MlflowClient()
    texts = {key: str(value) for key, value in tags.items()}
    shared = {key: texts[key] for key in SHARED_TAGS if key in texts}
    # both or none: a registered model without a version is shown as empty
    with defer_interrupts():
        # it may exist already
        with contextlib.suppress(MlflowException):
            client.create_registered_model(name, shared)
        version = client.create_model_version(
            name, f"models:/{logged_id}", run_id, tags=texts, model_id=logged_id
        )
    return f"models:/{name}/{version.version}"


def _logged_name(name: str) -> str:
    """A name with the characters replaced that a logged model's name cannot have."""
    return re.sub(r"[/:.%]", "-", name)


def _version(uri: str) -> ModelVersion | None:
    """The version of a registered model at a URI, None for what is no such URI."""
    match = VERSION_URI.fullmatch(uri)
    return MlflowClient().get_model_version(match[1], match[2]) if match else None


def _resolve_alias(uri: str) -> str:
    """A `models:/` URI with its alias resolved to the version it means now; others as they are."""
    match = ALIAS_URI.fullmatch(uri)
    if not match:
        return uri
    with _model_errors(uri):
        version = MlflowClient().get_model_version_by_alias(match[1], match[2] or "latest")
    return f"models:/{match[1]}/{version.version}"


def _folder(location: str) -> str:
    """A local folder or Hub id for a location."""
    if MLFLOW_URI.match(location):
        return _download(location)
    if Path(location).is_dir():
        # a base has one name, however its adapters call it
        return os.path.realpath(location)
    if HUB_ID.match(location):
        return location
    raise ModelError(
        f"model '{location}': no such folder, "
        "and neither an MLflow URI (models:/name@alias) nor a Hub id (owner/name)"
    )


def _download(uri: str) -> str:
    """A registered or logged model as a local folder, downloaded once; an external one's Hub id."""
    version_uri = _resolve_alias(uri)
    with _model_errors(uri):
        version = _version(version_uri)
        if version and "ilp.hub" in version.tags:
            return str(version.tags["ilp.hub"])
        source = version.source if version else _source(uri)
        logged = LOGGED_URI.fullmatch(source)
        # MLflow gives the folder itself where the model lies on this machine
        if not logged or _is_on_this_machine(logged[1]):
            return mlflow.artifacts.download_artifacts(source)
        return _cached_download(uri, source, logged[1])


def _source(uri: str) -> str:
    """Where to download a model from that is not registered."""
    match = RUN_URI.fullmatch(uri)
    if not match:
        return uri
    client = MlflowClient()
    experiment = client.get_run(match[1]).info.experiment_id
    query = f"source_run_id = '{match[1]}' and name = '{match[2]}'"
    models = client.search_logged_models([experiment], query)
    # through `runs:/` MLflow would copy what lies on this machine
    return models[0].model_uri if models else RunsArtifactRepository.get_underlying_uri(uri)


def _is_on_this_machine(logged_id: str) -> bool:
    return is_local_uri(MlflowClient().get_logged_model(logged_id).artifact_location, False)


def _cached_download(uri: str, source: str, logged_id: str) -> str:
    """The folder of a logged model in the user's cache, downloaded there unless it is there."""
    models = cache.folder() / "models"
    target = models / logged_id
    if not target.exists():
        models.mkdir(parents=True, exist_ok=True)
        size = sum(file.file_size or 0 for file in mlflow.artifacts.list_artifacts(source))
        # on the same disk as the target, so that a finished download only has to be renamed
        with tempfile.TemporaryDirectory(dir=models) as scratch:
            with track_size(f"download {uri}", size, partial(bytes_on_disk, Path(scratch))):
                downloaded = mlflow.artifacts.download_artifacts(source, dst_path=scratch)
            _move(downloaded, target)
    return str(target)


def _move(folder: str, target: Path) -> None:
    """Move a finished download into place, unless another process was faster."""
    try:
        os.rename(folder, target)
    except OSError:
        if not target.exists():
            raise


@contextlib.contextmanager
def _model_errors(uri: str) -> Iterator[None]:
    """Turn what MLflow raises into a ModelError that names the model."""
    try:
        yield
    except (MlflowException, OSError) as error:
        raise ModelError(
            f"model '{uri}' is not in {mlflow.get_tracking_uri()} ({first_line(error)}); "
            "'ilp stages' lists what is"
        ) from None
