"""A progress bar on stderr."""

from __future__ import annotations

from contextlib import suppress

from tqdm import tqdm

__all__ = ["ProgressBar"]


class ProgressBar(tqdm):
    """A bar that stays silent once nobody reads it any longer: what it counts goes on."""

    def display(self, *arguments: object, **settings: object) -> bool | None:
        try:
            return super().display(*arguments, **settings)
        except (OSError, ValueError):  # a pipe that was closed, a full disk
            self.disable = True

    def close(self) -> None:
        with suppress(OSError, ValueError):
            super().close()
