# Makes this notebook run in Colab; where llmbook is installed, it only imports it.
import importlib.metadata
import importlib.util
import os
import subprocess
import sys

if importlib.util.find_spec("llmbook") is None:
    address = os.environ.get("LLMBOOK_REPOSITORY", "https://github.com/llmbook/llmbook")
    folder = os.path.abspath("llmbook-repository")
    if not os.path.isdir(folder):
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", address, folder], check=True)
    keep = os.path.join(folder, "keep-torch.txt")  # pip must not replace Colab's own PyTorch
    with open(keep, "w") as file:
        file.write(f"torch=={importlib.metadata.version('torch')}\n")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", keep]
    subprocess.run([*pip, "--editable", folder], check=True)
    sys.path.insert(0, folder)  # this kernel started before the installation
_ = importlib.import_module("llmbook")  # before PyTorch, whose threads then wait asleep
