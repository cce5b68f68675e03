"""The command `llmbook`."""
