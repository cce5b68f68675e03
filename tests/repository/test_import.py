"""`import llmbook`: quick, and early enough to say how PyTorch's threads wait. Each case needs a Python of its own."""

import json
import os
import subprocess
import sys

import pytest

import llmbook
from llmbook.threads import SETTINGS, dismiss_threads
from tests.support.repository import ROOT

THREADS = {*SETTINGS, "OMP_WAIT_POLICY"}


def python(code: str, *options: str, **variables: str) -> str:
    """What a fresh Python prints that runs `code`."""
    environment = {name: value for name, value in os.environ.items() if name not in THREADS}
    done = subprocess.run([sys.executable, *options, "-c", code], cwd=ROOT, capture_output=True, text=True,
                          env={**environment, "PYTHONPATH": str(ROOT), **variables}, check=True, timeout=60)
    return done.stdout + done.stderr


def test_import_llmbook_loads_next_to_nothing():
    # A time limit would depend on the machine. What takes time is what it loads: PyTorch alone takes a second or two.
    loaded = set(json.loads(python("import llmbook, sys, json; print(json.dumps(list(sys.modules)))")))
    own = {name for name in loaded if name.split(".")[0] == "llmbook"}
    foreign = {name.split(".")[0] for name in loaded} - set(sys.stdlib_module_names) - {"llmbook", "__main__"}
    installed = set(json.loads(python("import sys, json; print(json.dumps(list(sys.modules)))")))
    assert own == {"llmbook", "llmbook.threads"}
    assert foreign <= {name.split(".")[0] for name in installed}  # what every Python of this environment loads


def test_a_process_that_only_encodes_does_not_wait_for_pytorch():
    """A worker that writes token files imports this, each of them."""
    assert python("import sys, llmbook.scale.encoding; print('torch' in sys.modules)").split() == ["False"]


@pytest.mark.slow
def test_names_are_loaded_when_they_are_asked_for():
    printed = python("import sys, llmbook\n"
                     "listed = 'GPT' in dir(llmbook) and 'torch' not in sys.modules\n"
                     "from llmbook import GPT, train\n"
                     "import llmbook.gpt, llmbook.training\n"
                     "print(listed, GPT is llmbook.gpt.GPT, train is llmbook.training.train, llmbook.scale.__name__)")
    assert printed.split() == ["True", "True", "True", "llmbook.scale"]


@pytest.mark.parametrize("name", llmbook.__all__)
def test_every_name_of_the_package_has_its_home(name):
    thing = getattr(llmbook, name)
    assert thing.__name__ == name and thing.__module__.startswith("llmbook.")


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'llmbook' has no attribute 'Transformer'"):
        llmbook.Transformer  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Transformer'"):
        from llmbook import Transformer  # noqa: F401


# the setting stood in the Makefile only

SHOWN = "import os; print({name: os.environ.get(name) for name in " + repr(sorted(SETTINGS)) + "})"


def test_the_threads_setting_is_there_before_torch_is_loaded():
    assert str(dict(sorted(SETTINGS.items()))) in python(f"import llmbook.devices\n{SHOWN}")


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_a_setting_of_the_reader_s_own_is_kept(name):
    assert f"'{name}': '77'" in python(f"import llmbook\n{SHOWN}", **{name: "77"})


def test_a_waiting_policy_of_the_reader_s_own_is_kept():
    assert "'GOMP_SPINCOUNT': None" in python(f"import llmbook\n{SHOWN}", OMP_WAIT_POLICY="active")


# A machine with two cores and the GNU library, where something else has been busy for a minute.
BESIDE_OTHERS = """
import builtins, io, os
os.getloadavg, os.sched_getaffinity = lambda: (%s, 0, 0), lambda pid: {0, 1}
real = open
builtins.open = lambda path, *a, **k: io.StringIO("/lib/%s.so.1") if path == "/proc/self/maps" else real(path, *a, **k)
import torch
torch.set_num_threads(%d)
"""


def late(load: float = 2.0, library: str = "libgomp", threads: int = 2, **variables: str) -> str:
    return python(BESIDE_OTHERS % (load, library, threads) + "import llmbook, llmbook.devices", **variables)


@pytest.mark.slow
def test_torch_before_llmbook_beside_a_busy_program_is_warned_of_once():
    printed = late()
    assert printed.count("RuntimeWarning") == 1
    assert "GOMP_SPINCOUNT=10000" in printed and "Import llmbook first" in printed


@pytest.mark.slow
@pytest.mark.parametrize("case", [{"load": 0.2}, {"library": "libomp"}, {"threads": 1}, {"GOMP_SPINCOUNT": "5"},
                                  {"OMP_WAIT_POLICY": "passive"}], ids=str)
def test_no_warning_where_it_does_not_matter(case):
    assert "Warning" not in late(**case)


COMPUTES = """
import os, time, llmbook, torch
from llmbook.threads import dismiss_threads, _gnu_libraries
torch.set_num_threads(3)
def names():
    return len(os.listdir("/proc/self/task"))
alone = names()
x = torch.ones(512, 512)
first = (x @ x).sum()
busy = names()
told = dismiss_threads()
until = time.monotonic() + 20  # a thread that was told to end does so when it gets a core
while names() > alone and time.monotonic() < until:
    time.sleep(0.01)
print(len(_gnu_libraries()), told, busy - alone, names() - alone, bool((x @ x).sum() == first))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other OpenMP libraries")
def test_dismissed_threads_are_gone_and_come_back_when_they_are_needed():
    libraries, told, busy, left, same = python(COMPUTES).split()
    if libraries == "0":  # a build with Intel's or LLVM's library: nothing is done, and it says so
        assert told == "False"
    else:
        assert (told, int(busy) > 0, left, same) == ("True", True, "0", "True")


def test_without_such_a_library_nothing_is_dismissed(monkeypatch):
    monkeypatch.setattr("llmbook.threads._gnu_libraries", list)
    assert dismiss_threads() is False

    def unknown():
        raise FileNotFoundError("/proc/self/maps")

    monkeypatch.setattr("llmbook.threads._gnu_libraries", unknown)
    assert dismiss_threads() is False
