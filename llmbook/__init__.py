"""A book you can run: a ChatGPT-like language model from scratch in PyTorch, in notebooks, and the package they build

Modules:

- `llmbook.assets`: The one door to every file that comes from outside the book."""

__version__ = "0.1.0"
