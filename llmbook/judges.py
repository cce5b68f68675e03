"""A larger model that marks answers which no program can check: asked through Ollama, on the reader's own machine."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any

__all__ = ["OllamaJudge"]


class OllamaJudge:
    """A local model that marks responses from 0 to 100, through Ollama's HTTP interface.

    Args:
        model: its name there, such as "llama3.2:3b".
        url: where Ollama listens.
        timeout: how long to wait for an answer, in seconds.

    Source: Zheng et al., "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena" (2023).
    """

    def __init__(self, model: str, url: str = "http://localhost:11434", timeout: float = 120):
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url is {url!r}: it must begin with http:// or https://")
        self.model, self.url, self.timeout = model, url.rstrip("/"), timeout

    def mark(self, entry: Mapping[str, str], response: str) -> int:
        """The mark of one response, 0 to 100.

        Raises ConnectionError if Ollama cannot be reached or refuses, ValueError if the model answers with no mark.
        """
        task = f"{entry['instruction']}\n\n{entry['input']}".strip()
        question = (f"Task:\n{task}\n\nModel answer:\n{entry['output']}\n\nAnswer to mark:\n{response}\n\n"
                    "How well does the answer to mark do the task, from 0 (not at all) to 100 (as well as the model "
                    "answer)? Reply with the number only.")
        reply = self._ask(question)
        found = re.findall(r"-?\d+(?:\.\d+)?", reply.replace("/100", "").replace("/ 100", ""))
        if len(found) != 1 or not 0 <= float(found[0]) <= 100:
            raise ValueError(f"{self.model} answered {reply[:60]!r} instead of one number from 0 to 100: try a larger "
                             "model")
        return round(float(found[0]))

    def _ask(self, question: str) -> str:
        """What the model answers to one message, without chance."""
        data: dict[str, Any] = {"model": self.model, "stream": False, "options": {"temperature": 0, "seed": 0},
                                "messages": [{"role": "user", "content": question}]}
        request = urllib.request.Request(f"{self.url}/api/chat", json.dumps(data).encode(),
                                         {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                return str(json.load(reply)["message"]["content"])
        except urllib.error.HTTPError as error:  # its body says why: a model that is not there, ...
            why = " ".join(error.read().decode("utf-8", "replace")[:200].split())
            raise ConnectionError(f"Ollama refused ({error.code}): {why}. Is the model there? "
                                  f"ollama pull {self.model}") from None
        except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
            raise ConnectionError(f"no answer from Ollama at {self.url} ({error}): start it with `ollama serve`, give "
                                  "its url, or a longer timeout") from None
