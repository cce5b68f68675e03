"""How varied a collection of stories is: openings, names, distinct n-grams, compression.

TinyStories was criticised as formulaic: 59 % of its stories contain "Once upon a time" (Finke et al., 2025,
"Parameterized Synthetic Text Generation with SimpleStories", arXiv:2504.09184). The figures here are those that show
such formulas, and `measure` takes any texts, so that another collection can be measured beside this one.

* share of the commonest first three words, and of the commonest name;
* distinct-n: different n-grams of words divided by all of them (Li et al., 2016, "A Diversity-Promoting Objective
  Function for Neural Conversation Models"), which falls with the amount of text: compare equal amounts only;
* compression ratio: bytes before gzip divided by bytes after it, higher where texts repeat each other (Shaib et al.,
  2024, "Standardizing the Measurement of Text Diversity").
"""

import gzip
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

_WORD = re.compile(r"[\w'-]+")


@dataclass(frozen=True)
class Variety:
    """The figures of a collection; shares lie between 0 and 1."""

    stories: int
    words: int
    words_per_story: float
    vocabulary: int
    equal_stories: int
    commonest_opening: str
    commonest_opening_share: float
    once_upon_a_time_share: float
    commonest_name: str
    commonest_name_share: float
    distinct_1: float
    distinct_2: float
    distinct_3: float
    distinct_4: float
    compression_ratio: float

    def lines(self) -> list[str]:
        """One line for each figure."""
        return [f"{name.replace('_', ' '):26} {value:.4f}" if isinstance(value, float) else
                f"{name.replace('_', ' '):26} {value}" for name, value in asdict(self).items()]


def _commonest(counts: Counter) -> tuple[str, int]:
    return min(counts.items(), key=lambda item: (-item[1], item[0]), default=("", 0))


def measure(texts: Iterable[str], names: Sequence[str] = ()) -> Variety:
    """The figures of these stories. `names` are the names to look for (words with a capital where none are given)."""
    texts = list(texts)
    if not texts:
        raise ValueError("no stories to measure: give at least one")
    openings, mentions, words = Counter(), Counter(), []
    wanted = set(names)
    for text in texts:
        found = _WORD.findall(text)
        openings[" ".join(found[:3])] += 1
        inside = {word.removesuffix("'s") for word in found}
        mentions.update(inside & wanted if wanted else
                        {word for word in inside if word[0].isupper() and word.lower() not in inside and len(word) > 2})
        words += [word.lower() for word in found]
    distinct = [len(grams) / max(1, len(words) - n + 1) for n in range(1, 5)
                for grams in [set(zip(*(islice(words, shift, None) for shift in range(n))))]]
    opening, name = _commonest(openings), _commonest(mentions)
    data = "\n\n".join(texts).encode()
    return Variety(
        stories=len(texts), words=len(words), words_per_story=len(words) / len(texts), vocabulary=len(set(words)),
        equal_stories=len(texts) - len(set(texts)), commonest_opening=opening[0],
        commonest_opening_share=opening[1] / len(texts),
        once_upon_a_time_share=sum("once upon a time" in text.lower() for text in texts) / len(texts),
        commonest_name=name[0], commonest_name_share=name[1] / len(texts),
        distinct_1=distinct[0], distinct_2=distinct[1], distinct_3=distinct[2], distinct_4=distinct[3],
        compression_ratio=len(data) / len(gzip.compress(data, 9)))


def read_collection(path: Path) -> list[str]:
    """The stories of a file in TinyStories' format: separated by lines `<|endoftext|>`."""
    return [story.strip() for story in path.read_text(encoding="utf-8").split("<|endoftext|>") if story.strip()]
