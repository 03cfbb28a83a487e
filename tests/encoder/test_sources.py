"""Names become folders: the packaged default, folders, run folders and the hub's border."""

import errno
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

from manyheads.encoder import sources
from manyheads.encoder.sources import resolve
from manyheads.errors import InputError, WorkError

packaged_only = pytest.mark.skipif(
    importlib.util.find_spec(sources.PACKAGE_MODULE) is None,
    reason=f"the package {sources.PACKAGE} is not installed",
)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test's own."""
    root = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(root))
    return root / "manyheads"


class Hub:
    """Stands where `snapshot_download` is: what the hub holds, what was asked, what came down."""

    def __init__(self, folder: Path, files: list[str], error: Exception | None = None) -> None:
        self.folder, self.files, self.error = folder, files, error
        self.names: list[str] = []
        folder.mkdir()

    def __call__(self, name: str, *, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        self.names.append(name)
        if self.error is not None:
            raise self.error
        for file in self.files:
            wanted = any(fnmatch(file, pattern) for pattern in allow_patterns)
            if wanted and not any(fnmatch(file, pattern) for pattern in ignore_patterns):
                (self.folder / file).write_text("")
        return str(self.folder)

    @property
    def fetched(self) -> set[str]:
        return {file.name for file in self.folder.iterdir()}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Hub]:
    def build(*files: str, error: Exception | None = None) -> Hub:
        made = Hub(tmp_path / "snapshot", list(files), error)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", made)
        return made

    return build


def test_folder_is_itself_and_run_folder_is_its_model(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "model").mkdir(parents=True)
    assert resolve(run) == run  # a folder that happens to hold model/ is no run
    (run / "recipe.yaml").write_text("name: x\n")
    assert resolve(run) == run / "model"
    assert resolve(str(run)) == run / "model"


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "bert").mkdir()
    assert resolve("~/bert") == tmp_path / "bert"


@pytest.mark.parametrize(
    "name", ["./x", "../x", "/nowhere/x", "~/nowhere", "~nobody/x", "a/b/c", "a\\b", "", Path("owner/model")]
)
def test_paths_are_never_asked_of_the_hub(
    name: str | Path, hub: Callable[..., Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = hub("config.json", "model.safetensors")
    with pytest.raises(InputError, match=r"no such folder$"):
        resolve(name)
    assert asked.names == []


def test_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("x")
    with pytest.raises(InputError, match="is a file; expected a folder"):
        resolve(tmp_path / "vocab.txt")


@packaged_only
def test_minilm_is_the_package_and_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "minilm").mkdir()
    monkeypatch.chdir(tmp_path)  # a folder of the same name does not take the name
    monkeypatch.delitem(sys.modules, sources.PACKAGE_MODULE, raising=False)
    folder = resolve("minilm")
    weights = (folder / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == sources.PACKAGED_SHA256
    assert (folder / "vocab.txt").is_file()
    assert sources.PACKAGE_MODULE not in sys.modules


def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> Path:
    """A package of the default's name with other weights, found before the real one."""
    model = tmp_path / sources.PACKAGE_MODULE / "model"
    model.mkdir(parents=True)
    (model.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    if content is not None:
        (model / "model.safetensors").write_bytes(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, sources.PACKAGE_MODULE, raising=False)
    return model


def test_packaged_weights_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = package(tmp_path, monkeypatch, b"other weights")
    with pytest.raises(InputError, match=f"SHA-256 .*, expected {sources.PACKAGED_SHA256}"):
        resolve("minilm")
    assert resolve("minilm", weights=False) == model
    monkeypatch.setattr(sources, "PACKAGED_SHA256", hashlib.sha256(b"other weights").hexdigest())
    assert resolve("minilm") == model


def test_packaged_weights_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, monkeypatch, None)
    with pytest.raises(InputError, match=r"model\.safetensors: cannot be read \(No such file"):
        resolve("minilm")


def test_without_the_package_minilm_is_its_twin(
    hub: Callable[..., Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    asked = hub("config.json", "model.safetensors")
    assert resolve("minilm") == asked.folder
    assert asked.names == ["sentence-transformers/all-MiniLM-L6-v2"]
    asked.error = ValueError("no")
    with pytest.raises(InputError, match=f"install the package {sources.PACKAGE}"):
        resolve("minilm")


def test_digest_is_remembered_until_the_file_changes(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, other = tmp_path / "a", tmp_path / "b"
    file.write_bytes(b"one")
    other.write_bytes(b"other")
    expected = hashlib.sha256(b"one").hexdigest()
    assert sources.remembered_sha256(other) == hashlib.sha256(b"other").hexdigest()
    assert sources.remembered_sha256(file) == expected
    assert [entry.name for entry in cache.iterdir()] == ["sha256.json"]

    def hashed_again(*_: Any) -> str:
        raise AssertionError("hashed again")

    with monkeypatch.context() as patch:
        patch.setattr(sources, "sha256", hashed_again)
        assert sources.remembered_sha256(file) == expected
        assert sources.remembered_sha256(other) == hashlib.sha256(b"other").hexdigest()
    file.write_bytes(b"two")  # as long as before
    os.utime(file, ns=(1, 1))
    assert sources.remembered_sha256(file) == hashlib.sha256(b"two").hexdigest()


@pytest.mark.parametrize("content", ["", "[]", '{"PATH": 3}', '{"PATH": [1, 2]}', "\ud800"])
def test_broken_memory_is_no_memory(tmp_path: Path, cache: Path, content: str) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"one")
    cache.mkdir()
    memory = cache / "sha256.json"
    memory.write_bytes(content.replace("PATH", str(file)).encode("utf-8", "surrogatepass"))
    expected = hashlib.sha256(b"one").hexdigest()
    assert sources.remembered_sha256(file) == expected
    assert json.loads(memory.read_text())[str(file.resolve())][2] == expected


def test_memory_that_cannot_be_written(tmp_path: Path, cache: Path) -> None:
    cache.parent.joinpath("manyheads").write_text("a file where the folder should be")
    file = tmp_path / "a"
    file.write_bytes(b"one")
    assert sources.remembered_sha256(file) == hashlib.sha256(b"one").hexdigest()


def test_hub_gives_safetensors_and_leaves_the_rest(hub: Callable[..., Hub]) -> None:
    asked = hub(
        *("config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json", "README.md", "tf_model.h5"),
        *("model.safetensors", "pytorch_model.bin", "onnx/model.safetensors", "training_args.bin"),
    )
    assert resolve("owner/model") == asked.folder
    assert asked.names == ["owner/model"]
    assert asked.fetched == {
        *("config.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
    }


def test_hub_gives_sharded_safetensors(hub: Callable[..., Hub]) -> None:
    files = {"config.json", "model-00001-of-00001.safetensors", "model.safetensors.index.json"}
    asked = hub(*files)
    resolve("model")
    assert asked.fetched == files


def test_hub_gives_bin_only_where_there_are_no_safetensors(hub: Callable[..., Hub]) -> None:
    files = {"config.json", "pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"}
    asked = hub(*files, "training_args.bin")
    resolve("model")
    assert asked.fetched == files


def test_hub_gives_no_weights_to_a_tokenizer(hub: Callable[..., Hub]) -> None:
    asked = hub("config.json", "vocab.txt", "model.safetensors", "pytorch_model.bin")
    assert resolve("model", weights=False) == asked.folder
    assert asked.fetched == {"config.json", "vocab.txt"}


def test_hub_model_without_weights(hub: Callable[..., Hub]) -> None:
    hub("config.json", "vocab.txt")
    with pytest.raises(InputError, match=r"'model': found neither \*\.safetensors nor pytorch_model"):
        resolve("model")


@pytest.mark.parametrize(
    "error",
    [
        LocalEntryNotFoundError("not in the cache\nand no network"),
        HFValidationError("not in the cache\nand no network"),
        OfflineModeIsEnabled("not in the cache\nand no network"),
        RuntimeError("not in the cache\nand no network"),
    ],
)
def test_hub_error_is_one_line_with_both_readings(error: Exception, hub: Callable[..., Hub]) -> None:
    hub(error=error)
    with pytest.raises(InputError) as caught:
        resolve("miniLM")
    expected = "'miniLM': no such folder, and the hub said: not in the cache and no network"
    assert str(caught.value) == f"{expected}; did you mean 'minilm'?"


def test_full_disk_is_not_the_callers_fault(hub: Callable[..., Hub]) -> None:
    hub(error=OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(WorkError, match=r"'model' could not be fetched from the hub: .*No space left"):
        resolve("model")


@pytest.mark.parametrize("name", ["no-such-model-here", "an owner/with spaces"])
def test_offline(name: str, tmp_path: Path) -> None:
    """The real client, in a process of its own since it reads HF_HUB_OFFLINE when imported."""
    code = (
        "import sys\n"
        "from manyheads.encoder.sources import resolve\n"
        "from manyheads.errors import InputError\n"
        "try:\n    resolve(sys.argv[1])\n"
        "except InputError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, name], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"{name!r}: no such folder, and the hub said: ")
    assert done.stdout.count("\n") == 1
