"""The chat page: one file, and the headers that let it load nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

__all__ = ["page_response", "policy_of"]


def policy_of(page: str) -> str:
    """The Content-Security-Policy of a page: its own script and style by their hashes, requests to its own server, and
    nothing else."""
    found = {kind: re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL) for kind in ("script", "style")}
    hashes = {kind: " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()}'"
                             for part in parts) for kind, parts in found.items()}
    return (f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; connect-src 'self'; "
            "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")


@cache
def _page() -> tuple[str, dict[str, str]]:
    text = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    return text, {"Content-Security-Policy": policy_of(text), "X-Content-Type-Options": "nosniff",
                  "Referrer-Policy": "no-referrer", "Cross-Origin-Opener-Policy": "same-origin",
                  "Cache-Control": "no-cache"}


async def page_response(_: Request) -> Response:
    """The page, whatever was asked for."""
    text, headers = _page()
    return Response(text, media_type="text/html", headers=headers)
