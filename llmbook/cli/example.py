"""The file of settings that `llmbook pretrain --example` prints."""

EXAMPLE = '''\
# Settings for `llmbook pretrain`. As it stands, this file trains a small GPT on the documentation that every Python
# carries: a few minutes on two cores. Paths are seen from the folder in which you run the command. What begins with
# "# " and a key is an option that is not used here.

out = "runs/example"                # everything is written here: tokens, checkpoints, log, model

[model]
kind = "gpt"                        # or "llama", "gemma", or chapter 11's "hybrid", "experts"; with each, any field of
                                    # GPTConfig, LlamaConfig, GemmaConfig, HybridConfig or ExpertsConfig
# preset = "gpt2"                   # or "gpt2-medium", "gpt2-large", "gpt2-xl": OpenAI's sizes
context_length = 128                # the most tokens that the model looks at
d_model = 128                       # features of a token; must be divisible by n_heads
n_heads = 4
n_layers = 4
dropout = 0.0

[data]
train = "python-documentation"      # or "stories", without end, or "short-stories"; "twenty-in-hand", the book's story;
                                    # a text file; a folder of them; JSON Lines; or what `llmbook tokenize` wrote.
                                    # Several, with their shares of the batches:
                                    # [{path = "stories", share = 0.7}, {path = "code.jsonl", share = 0.3}]
# stories = 20000                   # how many of them, about 265 tokens each, short ones 190; only with such a name
# documents = true                  # each row begins where a document begins, and rows of similar length are together;
                                    # false: windows, cut anywhere
validation = 0.05                   # this share is held out; or the path of other text; or "stories": some of a kind
                                    # that the training stories never have
tokenizer = 2048                    # learn a byte-pair encoding of 2048 tokens, from 10 MB at most, taken from all
                                    # over the text; or "gpt2"; or a tokenizer's file
# text_column = "text"              # the key of the text in JSON Lines
# separator = "<|endoftext|>"       # where a text file is cut into documents; a whole file is one if not given

[training]
max_steps = 500
batch_size = 16                     # windows of context_length tokens in a batch, or documents
learning_rate = 2e-3                # the highest one
warmup_steps = 30
eval_every = 100                    # steps between measurements of the held-out loss
eval_batches = 10                   # batches for each
seed = 0                            # of the first weights and of the order of the data
# accumulation_steps = 4            # batches for one step: a larger batch in the same memory
# compile = true                    # torch.compile: slower to begin, quicker steps, above all on a GPU
# device = "cuda"                   # the best there is if not given; and any other field of TrainingConfig

[checkpoints]                       # the same command goes on from the newest one after whatever ended it
every_minutes = 5.0
keep = 2
# every_steps = 1000
# folder = "runs/example/checkpoints"
# allow = ["max_steps"]             # settings that may be changed on the way

[log]
# csv = "runs/example/log.csv"      # one row a step
# tensorboard = "runs/example/tensorboard"  # needs: pip install tensorboard
'''
