"""llmbook.assets without a network: every source here is a file, a wheel or a server on this machine."""

from __future__ import annotations

import hashlib
import http.server
import inspect
import os
import re
import subprocess
import sys
import threading
import time
import venv
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiktoken_ext.openai_public
from filelock import FileLock

from llmbook import assets
from llmbook.assets import AssetError, AssetFile, HubFile, Url, WheelMember, cache_folder, fetch
from llmbook.pip_reports import pip_reason

DATA = b"the quick brown fox jumps over the lazy dog\n" * 100
SHA256 = hashlib.sha256(DATA).hexdigest()
OTHER = b"something else"
OTHER_SHA256 = hashlib.sha256(OTHER).hexdigest()
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = Path(assets.__file__).parents[1]


class Gives:
    """A source that writes what it is told to, and counts how often it was asked."""

    def __init__(self, data: bytes = DATA, error: BaseException | None = None):
        self.data, self.error, self.calls = data, error, 0

    def __str__(self) -> str:
        return "a source in memory"

    def download(self, target: Path) -> None:
        self.calls += 1
        target.write_bytes(self.data)
        if self.error:
            raise self.error


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder, no known assets, and a pip that reaches nothing but the folder `wheels`."""
    monkeypatch.setattr(assets, "ASSETS", {})
    monkeypatch.setattr(assets, "_verified", set())
    monkeypatch.setenv("LLMBOOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    (tmp_path / "wheels").mkdir()
    return tmp_path / "cache"


def offer(*sources, name: str = "poem", filename: str = "poem.txt", sha256: str = SHA256) -> None:
    """Registers an asset with one file, or adds a file to it."""
    assets.ASSETS[name] = (*assets.ASSETS.get(name, ()), AssetFile(filename, sha256, sources))


def build_wheel(folder: Path, members: dict[str, bytes]) -> Path:
    """A wheel that could not be installed here: what it requires does not exist."""
    info = "tinypoem-1.0.dist-info"
    wheel = folder / "tinypoem-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        about = "Metadata-Version: 2.1\nName: tinypoem\nVersion: 1.0\nRequires-Dist: not-there-either\n"
        archive.writestr(f"{info}/METADATA", about)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def files_below(folder: Path) -> list[str]:
    """Every file and folder in the cache but the locks, which stay."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != ".lock")


def failure(name: str = "poem") -> str:
    with pytest.raises(AssetError) as caught:
        fetch(name)
    return str(caught.value)


# What the registry says


def test_the_registry_is_complete_and_pinned():
    assert set(assets.ASSETS) >= {"gpt2-bpe", "smollm2-135m-instruct", "sms-spam"}
    for files in assets.ASSETS.values():
        assert len({file.filename for file in files}) == len(files)
        for file in files:
            assert re.fullmatch(r"[0-9a-f]{64}", file.sha256) and file.sources
            for source in file.sources:
                if isinstance(source, WheelMember):
                    assert re.fullmatch(r"[\w-]+==[\d.]+", source.requirement) and source.wheel_bytes
                if isinstance(source, Url):
                    assert source.url.startswith("https://")


def test_gpt2_hashes_and_addresses_are_those_inside_tiktoken():
    known = inspect.getsource(tiktoken_ext.openai_public)
    for file in assets.ASSETS["gpt2-bpe"]:
        assert file.sha256 in known
        assert str(file.sources[-1]) in known


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown asset 'gpt-9': the known names are gpt2, .*gpt2-bpe, .*sms-spam"):
        fetch("gpt-9")


def test_the_cache_folder_can_be_set_and_has_a_default(monkeypatch, tmp_path):
    monkeypatch.setenv("LLMBOOK_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.setenv("LLMBOOK_CACHE", "~/books")
    assert cache_folder() == Path.home() / "books"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMBOOK_CACHE", "here")
    assert cache_folder() == Path.cwd() / "here"
    for unset in ("", None):
        monkeypatch.delenv("LLMBOOK_CACHE") if unset is None else monkeypatch.setenv("LLMBOOK_CACHE", unset)
        assert "llmbook" in cache_folder().parts and cache_folder().is_absolute()


# Each kind of source


def test_url(cache, tmp_path):
    (tmp_path / "poem").write_bytes(DATA)
    offer(Url((tmp_path / "poem").as_uri()))
    path = fetch("poem")
    assert path == cache / "poem" / "poem.txt" and path.read_bytes() == DATA
    assert files_below(cache) == ["poem", "poem/poem.txt"]


def test_wheel_member_and_two_files_from_one_download(cache, tmp_path, monkeypatch):
    build_wheel(tmp_path / "wheels", {"tinypoem/one.txt": DATA, "tinypoem/two.txt": OTHER})
    runs, popen = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kw: runs.append(args) or popen(*args, **kw))
    offer(WheelMember("tinypoem==1.0", "tinypoem/one.txt"), filename="one.txt")
    offer(WheelMember("tinypoem==1.0", "tinypoem/two.txt"), filename="two.txt", sha256=OTHER_SHA256)
    folder = fetch("poem")
    assert folder == cache / "poem"  # several files: the folder
    assert (folder / "one.txt").read_bytes() == DATA and (folder / "two.txt").read_bytes() == OTHER
    assert len(runs) == 1
    assert files_below(cache) == ["poem", "poem/one.txt", "poem/two.txt"]  # and no wheel


def test_hub_file(cache, monkeypatch):
    def hf_hub_download(repo_id, filename, *, revision, local_dir):
        assert (repo_id, filename, revision) == ("someone/poems", "poem.txt", COMMIT)
        path = Path(local_dir) / filename
        path.parent.mkdir()
        path.write_bytes(DATA)
        return str(path)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=hf_hub_download))
    offer(HubFile("someone/poems", "poem.txt", COMMIT))
    assert fetch("poem").read_bytes() == DATA
    assert files_below(cache) == ["poem", "poem/poem.txt"]


def test_hub_file_without_the_library_says_what_to_install(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    offer(HubFile("someone/poems", "poem.txt", COMMIT))
    message = failure()
    assert f"Hugging Face hub someone/poems, poem.txt at {COMMIT}: huggingface_hub is missing" in message
    assert "pip install huggingface_hub" in message


def test_hub_file_wants_a_commit():
    with pytest.raises(ValueError, match=r"revision \('main'\) must be a commit hash of 40"):
        HubFile("someone/poems", "poem.txt", "main")


class Hub:
    """Stands in for huggingface_hub: one repository with two files."""

    def __init__(self, data: bytes = DATA, files: tuple[str, ...] = ("config.json", "model.safetensors")):
        self.data, self.files, self.calls = data, files, 0

    def HfApi(self):  # noqa: N802
        return self

    def model_info(self, repo, files_metadata):
        assert repo == "someone/gpt" and files_metadata
        return SimpleNamespace(sha=COMMIT, siblings=[
            SimpleNamespace(rfilename="model.safetensors", lfs=SimpleNamespace(sha256=SHA256)),
            SimpleNamespace(rfilename="config.json", lfs=None), SimpleNamespace(rfilename="big.h5", lfs=None)])

    def snapshot_download(self, repo, revision, allow_patterns, local_dir):
        assert revision == COMMIT and allow_patterns == ["config.json", "model.safetensors"]
        self.calls += 1
        (local_dir / ".cache").mkdir()
        for name in self.files:
            (local_dir / name).write_bytes(self.data if name == "model.safetensors" else OTHER)


@pytest.fixture
def hub_model(cache, monkeypatch):
    model = assets.HubModel("someone/gpt", ("config.json", "model.safetensors"))
    monkeypatch.setattr(assets, "HUB_MODELS", {"gpt": model})
    return cache / "gpt"


def test_hub_model_arrives_whole_and_once(hub_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub := Hub())
    folder = fetch("gpt")
    assert folder == hub_model / "files" and (folder / "model.safetensors").read_bytes() == DATA
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "revision.txt"]
    assert (folder / "revision.txt").read_text() == COMMIT + "\n"
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # out of reach now
    assert fetch("gpt") == folder and hub.calls == 1


@pytest.mark.parametrize("hub, message", [
    (Hub(data=OTHER), f"sent model.safetensors with sha256 {OTHER_SHA256}, not {SHA256}"),
    (Hub(files=("config.json", "model.safetensors")[1:]), "has no config.json"),
    (None, "pip install huggingface_hub")])
def test_hub_model_that_cannot_be_had_leaves_nothing(hub_model, monkeypatch, hub, message):
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(AssetError) as raised:
        fetch("gpt")
    assert message in str(raised.value) and "place config.json, model.safetensors in" in str(raised.value)
    assert not (hub_model / "files").exists() and not (hub_model / ".partial").exists()


def test_the_four_sizes_of_gpt2_come_from_the_hub():
    assert {name: model.repo for name, model in assets.HUB_MODELS.items()} == {
        name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")}
    assert assets.HUB_MODELS["gpt2"].files == ("config.json", "model.safetensors", "tokenizer.json")


def test_progress_is_shown_in_bytes_and_never_on_stdout(cache, tmp_path, monkeypatch, capsys):
    wheel = build_wheel(tmp_path / "wheels", {"tinypoem/one.txt": DATA})
    (tmp_path / "poem").write_bytes(DATA)
    bars = []

    def progress_bar(label, total_bytes, _real=assets._progress_bar):
        bar = _real(label, total_bytes)
        bars.append((label, total_bytes, updates := []))
        bar.update = updates.append
        return bar

    monkeypatch.setattr(assets, "_progress_bar", progress_bar)
    offer(WheelMember("tinypoem==1.0", "tinypoem/one.txt", wheel.stat().st_size), name="parcel")
    offer(Url((tmp_path / "poem").as_uri()))
    fetch("parcel")
    fetch("poem")
    assert [bar[:2] for bar in bars] == [("tinypoem==1.0", wheel.stat().st_size), ("poem.txt", len(DATA))]
    assert [sum(updates) for _, _, updates in bars] == [wheel.stat().st_size, len(DATA)]
    assert capsys.readouterr().out == ""


# Which source, and when


def test_sources_are_tried_in_order_until_one_is_good(cache, tmp_path):
    wrong, good, spare = Gives(OTHER), Gives(), Gives()
    offer(Url((tmp_path / "nowhere").as_uri()), wrong, Gives(error=MemoryError("odd")), good, spare)
    assert fetch("poem").read_bytes() == DATA
    assert (wrong.calls, good.calls, spare.calls) == (1, 1, 0)
    assert files_below(cache) == ["poem", "poem/poem.txt"]


def test_a_file_in_the_cache_is_not_fetched_again_nor_locked(cache, monkeypatch):
    source = Gives()
    offer(source)
    (cache / "poem").mkdir(parents=True)
    (cache / "poem" / "poem.txt").write_bytes(DATA)
    monkeypatch.setattr(assets, "FileLock", lambda path: pytest.fail("a read-only cache must do"))
    assert fetch("poem") == cache / "poem" / "poem.txt"
    assert source.calls == 0


def test_a_file_is_hashed_once_a_process_unless_it_changes(cache, monkeypatch):
    source, hashed = Gives(), []
    offer(source)
    path = fetch("poem")
    monkeypatch.setattr(assets, "sha256_of", lambda p, _real=assets.sha256_of: hashed.append(p) or _real(p))
    for _ in range(3):
        fetch("poem")
    assert hashed == [path]
    os.utime(path, (1, 1))
    fetch("poem")
    assert hashed == [path, path] and source.calls == 1
    path.write_bytes(DATA[:-1])
    os.utime(path, (1, 1))
    with pytest.warns(UserWarning):
        fetch("poem")
    assert source.calls == 2


def test_only_what_is_missing_is_fetched(cache):
    first, second = Gives(), Gives(OTHER)
    offer(first, filename="one.txt")
    offer(second, filename="two.txt", sha256=OTHER_SHA256)
    folder = fetch("poem")
    (folder / "two.txt").unlink()
    assert fetch("poem") == folder
    assert (first.calls, second.calls) == (1, 2)


# Bad files


@pytest.mark.parametrize("bad", [DATA[:-7], OTHER, b""], ids=["truncated", "another file", "empty"])
def test_a_bad_file_in_the_cache_is_replaced_with_a_warning(cache, bad):
    offer(Gives())
    path = cache / "poem" / "poem.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(bad)
    with pytest.warns(UserWarning) as caught:
        assert fetch("poem").read_bytes() == DATA
    message = str(caught[0].message)
    assert str(path) in message and hashlib.sha256(bad).hexdigest() in message and SHA256 in message
    assert caught[0].filename == __file__  # the warning points at the caller of fetch


def test_a_bad_file_that_cannot_be_replaced_is_removed_and_reported(cache):
    offer(Gives(error=OSError("no route to host")))
    path = cache / "poem" / "poem.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(OTHER)
    with pytest.warns(UserWarning):
        message = failure()
    assert f"{path}: removed, because its sha256 was {OTHER_SHA256}, not {SHA256}" in message
    assert "a source in memory: OSError: no route to host" in message
    assert files_below(cache) == ["poem"]


def test_a_downloaded_file_whose_hash_is_off_never_gets_its_name(cache, tmp_path):
    offer(Gives(OTHER), Gives(DATA[:-7]))
    message = failure()
    for bad in (OTHER, DATA[:-7]):
        found = hashlib.sha256(bad).hexdigest()
        assert f"a source in memory: sent a file with sha256 {found}, not {SHA256}; removed it" in message
    assert files_below(cache) == ["poem"]


def test_what_a_failed_source_left_is_not_taken_for_the_next_ones_file(cache):
    class Nothing(Gives):
        def download(self, target: Path) -> None:
            assert not target.exists()

    offer(Gives(OTHER), Gives(error=OSError("broken off")), Nothing())
    assert "FileNotFoundError" in failure()


@pytest.fixture
def server():
    """A web server that announces the whole poem; /short breaks off in the middle, /silent says nothing."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/silent":
                done.wait(20)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(DATA)))
            self.end_headers()
            self.wfile.write(DATA[:1000] if self.path == "/short" else DATA)

        def log_message(self, *arguments):
            pass

    done = threading.Event()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    done.set()
    server.shutdown()
    server.server_close()


def test_a_download_that_breaks_off_is_reported_and_the_next_source_used(cache, server, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    offer(Url(f"{server}/short"))
    message = failure()
    assert f"{server}/short: the connection ended after 1,000 of {len(DATA):,} bytes" in message
    assert files_below(cache) == ["poem"]
    offer(Url(f"{server}/short"), Url(f"{server}/whole"), name="again")
    assert fetch("again").read_bytes() == DATA


def test_a_silent_server_does_not_hang(cache, server, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(assets, "CONNECTION_SECONDS", 0.3)
    offer(Url(f"{server}/silent"))
    start = time.monotonic()
    assert f"{server}/silent: TimeoutError: timed out" in failure()
    assert time.monotonic() - start < 10


def test_a_truncated_wheel_and_a_missing_member_are_reported(cache, tmp_path):
    wheel = build_wheel(tmp_path / "wheels", {"tinypoem/one.txt": DATA})
    offer(WheelMember("tinypoem==1.0", "tinypoem/gone.txt"))
    assert "wheel tinypoem==1.0, member tinypoem/gone.txt: KeyError" in failure()
    offer(WheelMember("tinypoem==1.0", "tinypoem/one.txt"), name="short")
    wheel.write_bytes(wheel.read_bytes()[:-30])
    assert "wheel tinypoem==1.0, member tinypoem/one.txt: " in failure("short")
    assert files_below(cache) == ["poem", "short"]


# No source, no pip, no room


def test_nothing_reachable_lists_what_was_tried_and_placing_by_hand_works(cache, tmp_path):
    (tmp_path / "wheels" / "tinypoem-1.0.tar.gz").write_text("source code, which is never run")
    nowhere = (tmp_path / "nowhere").as_uri()
    offer(WheelMember("tinypoem==1.0", "tinypoem/one.txt"), Url(nowhere), filename="one.txt")
    offer(Url("http://127.0.0.1:9/two.txt"), filename="two.txt", sha256=OTHER_SHA256)
    message = failure()
    first, *tried, hint, one, two = message.splitlines()
    assert first.startswith("poem: one.txt could not be fetched.")
    assert len(tried) == 2
    wheel = "wheel tinypoem==1.0, member tinypoem/one.txt"
    assert tried[0].startswith(f"  - {wheel}: ERROR: No matching distribution found for tinypoem==1.0")
    assert tried[1].startswith(f"  - {nowhere}: URLError: ")
    assert "by hand" in hint
    assert one == f"  - {cache / 'poem' / 'one.txt'} with sha256 {SHA256}"
    assert two == f"  - {cache / 'poem' / 'two.txt'} with sha256 {OTHER_SHA256}"

    for line, data in ((one, DATA), (two, OTHER)):
        path, sha256 = re.fullmatch(r"  - (.*) with sha256 (\w+)", line).groups()
        assert hashlib.sha256(data).hexdigest() == sha256
        Path(path).write_bytes(data)
    assert fetch("poem") == cache / "poem"


def test_pip_missing_is_given_as_the_reason(cache, tmp_path, monkeypatch):
    venv.create(tmp_path / "bare", with_pip=False, symlinks=os.name != "nt")
    python = tmp_path / "bare" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    monkeypatch.setattr(sys, "executable", str(python))
    offer(WheelMember("tinypoem==1.0", "tinypoem/one.txt"))
    assert f"{python} has no pip: add it with python -m ensurepip, or uv pip install pip" in failure()


def test_the_reason_that_pip_gives_is_one_line_and_names_a_broken_connection():
    log = (
        "WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by 'NewConnectionError('"
        "<pip._vendor.urllib3.connection.HTTPSConnection object at 0x7f>: Failed to establish a new "
        "connection: [Errno 111] Connection refused')': /simple/tinypoem/\n"
        "ERROR: No matching distribution found for tinypoem==1.0\n\n"
    )
    assert pip_reason(log, 1) == (
        "ERROR: No matching distribution found for tinypoem==1.0 (connection broken by 'NewConnectionError('"
        "Failed to establish a new connection: [Errno 111] Connection refused')': /simple/tinypoem/)"
    )
    assert pip_reason("", 2) == "pip ended with exit status 2"


@pytest.fixture
def hanging_pip(tmp_path, monkeypatch) -> Path:
    """Puts a pip in the way that never ends; returns the file in which it leaves its process id."""
    (tmp_path / "fake" / "pip").mkdir(parents=True)
    note = tmp_path / "process-id"
    program = f"import os, time\nopen({str(note)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n"
    (tmp_path / "fake" / "pip" / "__main__.py").write_text(program)
    (tmp_path / "fake" / "pip" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    return note


def assert_ended(note: Path) -> None:
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def test_a_pip_that_receives_nothing_is_stopped(cache, hanging_pip, monkeypatch):
    monkeypatch.setattr(assets, "STALL_SECONDS", 0.5)
    offer(WheelMember("tinypoem==1.0", "tinypoem/one.txt"), Gives())
    fetch("poem")
    assert_ended(hanging_pip)
    offer(WheelMember("tinypoem==1.0", "tinypoem/one.txt"), name="only")
    assert "pip received nothing for 0.5 s" in failure("only")


def test_a_cache_folder_that_cannot_be_made(cache, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LLMBOOK_CACHE", str(tmp_path / "file" / "sub"))
    offer(Gives())
    message = failure()
    assert f"cannot use the cache folder {tmp_path / 'file' / 'sub' / 'poem'}" in message
    assert "LLMBOOK_CACHE" in message and "\n" not in message
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="chmod does not stop root")
def test_a_cache_folder_with_writing_switched_off(cache):
    offer(Gives())
    (cache / "poem").mkdir(parents=True)
    (cache / "poem").chmod(0o555)
    assert re.search(r"cannot use the cache folder .*Permission denied.*LLMBOOK_CACHE", failure())
    (cache / "poem").chmod(0o755)
    fetch("poem").parent.chmod(0o555)
    assert fetch("poem").read_bytes() == DATA  # reading needs no more than reading
    (cache / "poem").chmod(0o755)


def test_a_cache_folder_that_refuses_to_be_written(cache, monkeypatch):
    offer(Gives())

    def refuse(self, *arguments, **options):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert re.search(r"cannot use the cache folder .*Permission denied.*LLMBOOK_CACHE", failure())


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), AssetError(
    "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device")])
def test_a_full_disk_is_not_taken_for_a_bad_source(cache, error):
    """Errno 28 came without a path, and with the advice to try again later."""
    spare = Gives()
    offer(Gives(DATA[:99], error=error), spare)
    message = failure()
    assert f"no room left for {cache / 'poem'}: make some, or set" in message and "LLMBOOK_CACHE" in message
    assert "\n" not in message and spare.calls == 0 and files_below(cache) == ["poem"]


@pytest.mark.slow
def test_a_damaged_archive_is_named_and_the_next_source_used(cache, tmp_path):
    wheel = build_wheel(tmp_path / "wheels", {"tinypoem/one.txt": DATA})
    data = bytearray(wheel.read_bytes())
    data[data.index(DATA[:40]) + 7] ^= 1  # zipfile stores it plain, and has its checksum
    wheel.write_bytes(data)
    offer(WheelMember("tinypoem==1.0", "tinypoem/one.txt"))
    assert "wheel tinypoem==1.0, member tinypoem/one.txt: BadZipFile: Bad CRC-32" in failure()
    offer(WheelMember("tinypoem==1.0", "tinypoem/one.txt"), Gives(), name="again")
    assert fetch("again").read_bytes() == DATA


def test_a_list_that_nobody_reads_to_its_end(cache):
    shown = subprocess.run(f"{sys.executable} -m llmbook.assets | true", shell=True, capture_output=True, text=True,
                           env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    assert shown.stderr == ""


# Interruptions and other processes


def test_an_interrupted_download_leaves_nothing_and_loses_nothing(cache):
    offer(Gives(), filename="one.txt")
    offer(Gives(OTHER[:5], KeyboardInterrupt()), filename="two.txt", sha256=OTHER_SHA256)
    with pytest.raises(KeyboardInterrupt):
        fetch("poem")
    assert files_below(cache) == ["poem", "poem/one.txt"]
    assert FileLock(cache / "poem" / ".lock").acquire(timeout=0)


def test_interrupting_pip_ends_it(cache, hanging_pip, monkeypatch):
    def interrupted(seconds, _sleep=time.sleep):
        while not (hanging_pip.exists() and hanging_pip.read_text()):
            _sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(assets.time, "sleep", interrupted)
    offer(WheelMember("tinypoem==1.0", "tinypoem/one.txt"))
    with pytest.raises(KeyboardInterrupt):
        fetch("poem")
    assert_ended(hanging_pip)
    assert files_below(cache) == ["poem"]


def test_what_a_killed_process_left_is_cleared(cache, tmp_path):
    wheel = build_wheel(tmp_path / "wheels", {"tinypoem/one.txt": DATA})
    scratch = cache / "poem" / ".partial" / "tinypoem==1.0"
    scratch.mkdir(parents=True)
    (scratch / wheel.name).write_bytes(wheel.read_bytes()[:-30])
    offer(WheelMember("tinypoem==1.0", "tinypoem/one.txt"))
    fetch("poem")
    assert files_below(cache) == ["poem", "poem/poem.txt"]


def python(program: str, *arguments: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


SLOW_FETCH = """
import sys, time
from llmbook import assets

class Slow:
    def download(self, target):
        with open(sys.argv[1], "a") as log:
            log.write("asked\\n")
        target.write_bytes(b"half")
        time.sleep(1.5)
        target.write_bytes(b"whole")

assets.ASSETS["poem"] = (assets.AssetFile("poem.txt", sys.argv[2], (Slow(),)),)
print(assets.fetch("poem").read_text())
"""


@pytest.mark.slow
def test_of_two_processes_one_downloads_and_both_get_the_file(cache, tmp_path):
    arguments = (SLOW_FETCH, tmp_path / "log", hashlib.sha256(b"whole").hexdigest())
    processes = [python(*arguments) for _ in range(2)]
    results = [process.communicate(timeout=60) for process in processes]
    assert [out.strip() for out, _ in results] == ["whole", "whole"], results
    assert (tmp_path / "log").read_text() == "asked\n"
    said = "".join(err for _, err in results)
    assert said.count("poem: waiting for another process that is fetching it") == 1


HOLD_LOCK = """
import sys
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lock_that_is_held_too_long_is_named_and_that_of_a_dead_process_does_not_matter(cache, monkeypatch):
    monkeypatch.setattr(assets, "LOCK_SECONDS", 0.2)
    source = Gives()
    offer(source)
    lock = cache / "poem" / ".lock"
    lock.parent.mkdir(parents=True)
    with python(HOLD_LOCK, lock) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            start, message = time.monotonic(), failure()
            assert time.monotonic() - start < 20
            assert f"poem: another process has held {lock} for 0.2 s" in message and source.calls == 0
        finally:
            holder.kill()
    assert lock.exists()
    assert fetch("poem").read_bytes() == DATA


# The command line


def test_the_command_line_lists_and_fetches(cache, capsys):
    offer(Gives())
    assets.main([])
    assert re.fullmatch(r"poem +not fetched  .*poem\.txt\n", capsys.readouterr().out)
    assets.main(["fetch", "poem"])
    assert capsys.readouterr().out == f"{cache / 'poem' / 'poem.txt'}\n"
    assets.main([])
    assert "4,400 bytes" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="unknown asset 'prose'"):
        assets.main(["fetch", "prose"])
    for arguments in (["fetch"], ["poem"]):
        with pytest.raises(SystemExit, match="usage"):
            assets.main(arguments)
