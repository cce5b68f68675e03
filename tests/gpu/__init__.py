"""One script that measures and checks llmbook on one GPU, in under 8 minutes: `python -m tests.gpu`.

    python -m tests.gpu                          all sections, with the results on the terminal
    python -m tests.gpu --out docs/gpu.md        and as a page, with JSON beside it (docs/gpu.json)
    python -m tests.gpu --minutes 4 train decode
    python -m tests.gpu --tiny                   on a CPU with tiny models: does the script itself work?

It runs from a checkout, in its root, with nothing installed from here: `PYTHONPATH=. python -m tests.gpu`. It needs
torch, numpy, safetensors, filelock, tqdm and typing_extensions; transformers for its column, and pytest for the tests
that are marked gpu. Nothing is downloaded: all weights are random. The chapters need pandas, matplotlib, regex,
tiktoken, tokenizers, jinja2 and platformdirs too; a chapter whose packages are not there is left out, and a row says
so. A package in pure Python can be unpacked anywhere: `pip install --no-deps --target DIR platformdirs`, then
PYTHONPATH=.:DIR.

The sections, in their order: card (its ceilings), train, waits (how often the host waits for the device), correct (the
same results with and without what makes it fast), decode, marked (the tests marked gpu), batch, load, chapters
(notebooks that choose larger sizes on a GPU), more (training in other ways). Each has a time of its own and a process
of its own, so that an error in one, or a card whose memory is full, costs no other's rows; what fails is named at the
end and the exit status is 1. Figures are printed and written as soon as they are known. A machine that has just started
spends minutes on imports and compiling; run again there, it is quicker.
"""
