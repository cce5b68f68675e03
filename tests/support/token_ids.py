"""Token ids that every model of a vocabulary of 50 and a context of 24 must refuse, with what it must say."""

import torch

WRONG_TOKEN_IDS = [
    (torch.zeros(1, 0, dtype=torch.long), r"token_ids have shape \(1, 0\): give \(batch, tokens\) with at least one"),
    (torch.zeros(0, 4, dtype=torch.long), r"token_ids have shape \(0, 4\)"),
    (torch.tensor([1, 2]), r"token_ids have shape \(2,\)"),
    (torch.tensor(3), r"token_ids have shape \(\)"),
    (torch.zeros(1, 2, 3, dtype=torch.long), r"token_ids have shape \(1, 2, 3\)"),
    (torch.zeros(1, 25, dtype=torch.long), "25 tokens exceed the context_length of 24: shorten the text"),
    (torch.tensor([[3, 50]]), "token id 50 is outside the vocabulary of 50: encode the text with the model's own"),
    (torch.tensor([[3, 1], [4, -1]]), "token id -1 is outside the vocabulary of 50"),
]
