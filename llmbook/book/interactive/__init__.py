"""Pictures that a reader can move, made from real tensors; `frame` says how one page holds everything."""

from .distributions import sampling
from .frame import Interactive

__all__ = ["Interactive", "sampling"]
