"""The server: a model that answers many at once, over HTTP in OpenAI's protocol, and a page to chat with it.

From below to above: `rows` (texts that share one cache), `prefixes` (what was read before), `answers` (the text side of
an answer), `engine` (the thread that decodes), `bodies` and `protocol` (what comes in and goes out), `gate` (who may),
`app` and `server`. The package needs the extra: `pip install "llmbook[serve]"`; the engine alone does not.
"""
