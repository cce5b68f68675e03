"""Files that others use: weights, tokenizers, chat templates; reading and writing them."""
