"""Models in MLflow: registered and logged ones, what each is made of, and where it comes from."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModelInput, LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

from ilp_mlflow.core import cache
from ilp_mlflow.core.errors import ModelError, TrackingError, first_line, suggest
from ilp_mlflow.core.interrupts import defer_interrupts
from ilp_mlflow.core.progress import bytes_on_disk, bytes_read, track_size
from ilp_mlflow.tracking.runs import store_errors

HUB_NAME = re.compile(r"^[\w.-]+(/[\w.-]+)?$")
LASTING = ("ilp.kind", "ilp.experiment", "ilp.stage", "ilp.index")
"""Tags that all versions of a registered model share: it has them itself, for its list in the UI is filtered by those."""
MLFLOW_URI = re.compile(r"^(models|runs|mlflow-artifacts):/")


def resolve_parts(location: str, base: str | None = None) -> list[str]:
    """The parts a model is made of: its base (folder or Hub id), then adapter folders, each on top of those before.

    `location` is an MLflow URI, a local folder or a Hub id. An adapter names the model below it by an MLflow URI (ours
    do); one trained elsewhere names a path: a folder that is not on this machine is stood in for by `base`, as is a Hub id.
    Raises ModelError when something is not found or an adapter has no base.
    """
    folder = _folder(location)
    if not (Path(folder) / "adapter_config.json").exists():
        return [folder]
    base = None if base == location else base  # nothing stands in for what is below the base itself
    name = adapter_base(folder)
    if not (MLFLOW_URI.match(name) or (name and Path(name).is_dir())):
        name = base or name
    if not name:
        raise ModelError(
            f"{location}: an adapter that does not name its base; give the base as the first checkpoint"
        )
    return [*resolve_parts(name, base), folder]


def adapter_base(adapter: str) -> str:
    """What an adapter folder names as the model it sits on, "" when it names none. Raises ModelError."""
    config = Path(adapter) / "adapter_config.json"
    try:
        return json.loads(config.read_text(encoding="utf-8")).get("base_model_name_or_path") or ""
    except (ValueError, AttributeError):
        raise ModelError(f"{config}: not a valid adapter configuration") from None


def register_base(location: str, digest: Callable[[str], str], run_id: str) -> str:
    """Register the base model unless it is already, and return its version's URI.

    A model in MLflow is taken as it is; a Hub id becomes an external model, nothing copied; a local folder is stored
    once per content, as told by `digest`.
    """
    if MLFLOW_URI.match(location):
        return _version_uri(location)
    local = Path(location).is_dir()
    name = re.sub(r"[^\w.-]", ".", Path(location).resolve().name if local else location)
    key = digest(location) if local else location
    for version in MlflowClient().search_model_versions(f"name = '{name}'"):
        if version.tags.get("ilp.digest") == key:
            return f"models:/{name}/{version.version}"
    tags = {"ilp.kind": "base", "ilp.digest": key}
    if local:
        return register(name, location, run_id, tags)
    model = mlflow.create_external_model(
        name=_plain(name), source_run_id=run_id, tags={"ilp.hub": location}
    )
    return _version(name, model.model_id, run_id, tags | {"ilp.hub": location})


def base_of(uri: str) -> str:
    """URI of the base below a registered stage; a model that is no stage is its own base."""
    version = re.fullmatch(r"models:/([^/@]+)/(\d+)", _version_uri(uri))
    with _found(uri):
        tags = MlflowClient().get_model_version(version[1], version[2]).tags if version else {}
    return str(tags.get("ilp.base", uri))


def register(name: str, folder: str, run_id: str, tags: Mapping[str, Any]) -> str:
    """Store a model folder and register it as a new version of `name`; return the version's URI.

    MLflow keeps the alias `latest` for the newest version by itself.
    """
    return _version(name, store(name, folder, run_id, tags).removeprefix("models:/"), run_id, tags)


def promote(name: str, model_uri: str, run_id: str, tags: Mapping[str, Any], alias: str) -> str:
    """Register a logged model as a new version of `name`, unless it is one, and give it an alias; return the version's URI."""
    known = MlflowClient().search_model_versions(f"name = '{name}'")
    there = next((f"models:/{name}/{v.version}" for v in known if v.source == model_uri), None)
    uri = there or _version(name, model_uri.removeprefix("models:/"), run_id, tags)
    MlflowClient().set_registered_model_alias(name, alias, uri.rpartition("/")[2])
    return uri


def store(name: str, folder: str, run_id: str, tags: Mapping[str, Any] | None = None) -> str:
    """Store a model folder as a logged model of a run, unregistered; return its URI."""
    experiment = MlflowClient().get_run(run_id).info.experiment_id
    texts = {key: str(value) for key, value in (tags or {}).items()}
    model = mlflow.initialize_logged_model(
        name=_plain(name), source_run_id=run_id, tags=texts, experiment_id=experiment
    )
    try:
        with _storing(name, Path(folder), model.artifact_location):
            MlflowClient().log_model_artifacts(model.model_id, folder)
    except BaseException:
        mlflow.finalize_logged_model(model.model_id, "FAILED")
        raise
    mlflow.finalize_logged_model(model.model_id, "READY")
    MlflowClient().log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return f"models:/{model.model_id}"


def _storing(name: str, folder: Path, location: str) -> contextlib.AbstractContextManager[None]:
    """A bar for a folder that is stored at a location: by what is there, or what was read where that is not this machine."""
    if is_local_uri(location, False):
        return track_size(
            f"store {name}",
            bytes_on_disk(folder),
            partial(bytes_on_disk, Path(local_file_uri_to_path(location))),
        )
    return track_size(f"upload {name}", bytes_on_disk(folder), bytes_read(folder))


def model_id(uri: str) -> str | None:
    """Id of the logged model behind a URI; None for what is no model in MLflow."""
    version = re.fullmatch(r"models:/([^/@]+)/(\d+)", uri)
    with _found(uri):
        source = MlflowClient().get_model_version(version[1], version[2]).source if version else uri
    logged = re.fullmatch(r"models:/(m-[0-9a-f]+)", source)
    return logged[1] if logged else None


def log_model_inputs(run_id: str, uris: Iterable[str]) -> None:
    """Log the models at these URIs, those that are in MLflow, as what a run started from or asked."""
    ids = [model for uri in uris if (model := model_id(uri))]
    MlflowClient().log_inputs(run_id, models=[LoggedModelInput(model) for model in ids])


def registry_uri() -> str:
    """The address of the model registry."""
    return str(mlflow.get_registry_uri())


def list_stages(name: str | None = None) -> list[dict[str, Any]]:
    """Registered stage versions, of one experiment or of all, in order of experiment, creation."""
    with store_errors():
        versions = MlflowClient().search_model_versions(
            "tags.`ilp.kind` = 'stage'", max_results=10_000
        )
    rows = [
        {
            "name": v.name,
            "version": int(v.version),
            "uri": f"models:/{v.name}/{v.version}",
            **{
                key: v.tags.get(f"ilp.{key}")
                for key in ("experiment", "stage", "index", "parent", "base", "data_digest")
            },
            "run_id": v.run_id,
            "created": v.creation_timestamp,
        }
        for v in versions
    ]
    if name and name not in {r["experiment"] for r in rows}:
        known = {str(r["experiment"]) for r in rows}
        raise TrackingError(
            f"no registered stages of experiment '{name}' in {mlflow.get_tracking_uri()}; {suggest(name, known)}"
        )
    return sorted(
        (r for r in rows if name in (None, r["experiment"])),
        key=lambda r: (r["experiment"], r["created"]),
    )


def _version(name: str, model_id: str, run_id: str, tags: Mapping[str, Any]) -> str:
    client = MlflowClient()
    texts = {key: str(value) for key, value in tags.items()}
    with defer_interrupts():
        with contextlib.suppress(MlflowException):  # it exists already
            client.create_registered_model(
                name, {key: texts[key] for key in LASTING if key in texts}
            )
        version = client.create_model_version(
            name, f"models:/{model_id}", run_id, tags=texts, model_id=model_id
        )
    return f"models:/{name}/{version.version}"


def _plain(name: str) -> str:
    """A name with the characters a logged model's name cannot have replaced."""
    return re.sub(r"[/:.%]", "-", name)


def _version_uri(uri: str) -> str:
    """A `models:/` URI with its alias resolved to the version it means now."""
    match = re.fullmatch(r"models:/([^/@]+)(?:@(.+)|/(latest))", uri)
    if not match:
        return uri
    with _found(uri):
        version = MlflowClient().get_model_version_by_alias(match[1], match[2] or "latest").version
    return f"models:/{match[1]}/{version}"


def _folder(location: str) -> str:
    """A local folder or Hub id for a location."""
    if MLFLOW_URI.match(location):
        return _download(location)
    if Path(location).is_dir():
        return os.path.realpath(location)  # a base has one name, however its adapters call it
    if HUB_NAME.match(location):
        return location
    raise ModelError(
        f"model '{location}': no such folder, and neither an MLflow URI (models:/name@alias) nor a Hub id (owner/name)"
    )


def _download(uri: str) -> str:
    """A registered or logged model as a local folder, downloaded once per model id; a Hub id for an external model."""
    version = re.fullmatch(r"models:/([^/@]+)/(\d+)", _version_uri(uri))
    with _found(uri):
        source = uri
        if version:
            found = MlflowClient().get_model_version(version[1], version[2])
            if "ilp.hub" in found.tags:
                return str(found.tags["ilp.hub"])
            source = found.source
        elif run := re.fullmatch(r"runs:/([^/]+)/([^/]+)", uri):
            experiment = MlflowClient().get_run(run[1]).info.experiment_id
            query = f"source_run_id = '{run[1]}' and name = '{run[2]}'"
            found = MlflowClient().search_logged_models([experiment], query)
            # through `runs:/` MLflow would copy what lies on this machine
            source = found[0].model_uri if found else RunsArtifactRepository.get_underlying_uri(uri)
        logged = re.fullmatch(r"models:/(m-[0-9a-f]+)", source)
        if not logged or is_local_uri(
            MlflowClient().get_logged_model(logged[1]).artifact_location, False
        ):
            return mlflow.artifacts.download_artifacts(source)
        kept = cache.folder() / "models"
        target = kept / logged[1]
        if not target.exists():
            kept.mkdir(parents=True, exist_ok=True)
            size = sum(file.file_size or 0 for file in mlflow.artifacts.list_artifacts(source))
            with (
                tempfile.TemporaryDirectory(dir=kept) as scratch,
                track_size(f"download {uri}", size, partial(bytes_on_disk, Path(scratch))),
            ):
                _move(mlflow.artifacts.download_artifacts(source, dst_path=scratch), target)
        return str(target)


def _move(folder: str, target: Path) -> None:
    """Move a finished download into place, unless another process was faster."""
    try:
        os.rename(folder, target)
    except OSError:
        if not target.exists():
            raise


@contextlib.contextmanager
def _found(uri: str) -> Iterator[None]:
    try:
        yield
    except (MlflowException, OSError) as error:
        raise ModelError(
            f"model '{uri}' is not in {mlflow.get_tracking_uri()} ({first_line(error)}); 'ilp stages' lists what is"
        ) from None
