"""Pictures that a reader can move, made from real tensors; `frame` says how one page holds everything."""

from .blocks import block
from .distributions import sampling
from .frame import Interactive
from .heads import attention
from .pairs import merges
from .passes import cache

__all__ = ["Interactive", "attention", "block", "cache", "merges", "sampling"]
