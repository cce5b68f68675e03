"""One look for all figures, and the pictures that several chapters draw."""

from .adapters import adapter_diagram
from .matrices import heatmap, token_strip
from .model import MODEL_PARTS, model_diagram
from .open_models import compare_bars, gpt_and_llama, model_files, turning_arrows, turning_speeds
from .preferences import preference_pipeline
from .rungs import loss_ladder
from .runs import training_run
from .style import BLUE, GREEN, GREY, ORANGE, PALETTE, PURPLE, RED, SKY, YELLOW, use_style
from .tensors import broadcasting, computation_graph, number_bits, training_step
from .tokens import token_rows
from .transformers import bert_and_gpt, transformer_2017
from .words import describe

__all__ = ["BLUE", "GREEN", "GREY", "MODEL_PARTS", "ORANGE", "PALETTE", "PURPLE", "RED", "SKY", "YELLOW",
           "adapter_diagram", "bert_and_gpt", "broadcasting", "compare_bars", "computation_graph", "describe",
           "gpt_and_llama", "heatmap", "loss_ladder", "model_diagram", "model_files", "number_bits",
           "preference_pipeline", "token_rows", "token_strip", "training_run", "training_step", "transformer_2017",
           "turning_arrows", "turning_speeds", "use_style"]
