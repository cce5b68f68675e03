"""Pictures that a reader can move, made from real tensors; `frame` says how one page holds everything."""

from .blocks import block_picture as block
from .distributions import sampling
from .frame import Interactive
from .heads import attention_picture as attention
from .pairs import merges
from .passes import cache_picture as cache

__all__ = ["Interactive", "attention", "block", "cache", "merges", "sampling"]
