"""A progress bar on stderr."""

from __future__ import annotations

from contextlib import suppress

from tqdm import tqdm

__all__ = ["ProgressBar"]


class ProgressBar(tqdm):
    """A bar that stays silent once nobody reads it any longer: what it counts goes on."""

    def display(self, *arguments: object, **settings: object) -> bool | None:
        """Draw the bar, or fall silent for good if that fails."""
        try:
            return super().display(*arguments, **settings)
        except (OSError, ValueError):  # a pipe that was closed, a full disk
            self.disable = True

    def close(self) -> None:
        """End the bar, whether anybody reads it or not."""
        with suppress(OSError, ValueError):
            super().close()
