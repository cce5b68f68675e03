"""What can be told from outside of a running or failed `pip download`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

__all__ = ["largest_wheel", "pip_reason"]


def largest_wheel(folder: Path) -> int:
    """Size in bytes of the wheel that pip is downloading somewhere below `folder`."""
    try:
        return max((wheel.stat().st_size for wheel in folder.rglob("*.whl")), default=0)
    except OSError:  # pip has just moved it
        return 0


def pip_reason(log: str, status: int) -> str:
    """Why pip failed, in one line: its last line, and the broken connection that it met before, if any."""
    if "No module named pip" in log:
        return f"{sys.executable} has no pip: add it with python -m ensurepip, or uv pip install pip"
    reason = (log.strip() or f"pip ended with exit status {status}").splitlines()[-1]
    broken = re.findall(r"connection broken by (.*)", log)
    return f"{reason} (connection broken by {re.sub('<[^<>]*>: ', '', broken[-1])})" if broken else reason
