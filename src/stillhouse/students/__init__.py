"""Students: what learns, and how it is made and kept.

Start from `cut_depth` (some of a teacher's blocks as an ordinary model), `cut_width` (some of its
heads, neurons and hidden channels), `cut_vocabulary` (some of its tokens) or `add_adapter` (LoRA
on the whole of it), and end with `save_student`, which writes an ordinary transformers folder with
the tokenizer and the chat template that were trained with. What to keep is proposed from training
text alone: `choose_layers`, `choose_units` (by `measure_activations`), `choose_vocabulary`.

Refused here: folders that hold adapters only plain PEFT can read, folders that are half written,
cuts that another program would load with its layers in the wrong places, and code from a folder.
"""

from stillhouse.students.activations import AGGREGATIONS, Activations, measure_activations
from stillhouse.students.adapters import add_adapter, merged
from stillhouse.students.depth import cut_depth
from stillhouse.students.embedding import close_tail, cut_vocabulary, open_tail
from stillhouse.students.folder import load_student, save_student
from stillhouse.students.layers import (
    LAYER_RULES,
    LayerChoice,
    block_influence,
    choose_layers,
    next_token_divergence,
)
from stillhouse.students.lengths import Lengths, measure_lengths
from stillhouse.students.shape import Shape
from stillhouse.students.vocabulary import Vocabulary, choose_vocabulary, trim_tokenizer
from stillhouse.students.width import Units, Widths, choose_units, cut_width

__all__ = [
    "AGGREGATIONS",
    "LAYER_RULES",
    "Activations",
    "LayerChoice",
    "Lengths",
    "Shape",
    "Units",
    "Vocabulary",
    "Widths",
    "add_adapter",
    "block_influence",
    "choose_layers",
    "choose_units",
    "choose_vocabulary",
    "close_tail",
    "cut_depth",
    "cut_vocabulary",
    "cut_width",
    "load_student",
    "measure_activations",
    "measure_lengths",
    "merged",
    "next_token_divergence",
    "open_tail",
    "save_student",
    "trim_tokenizer",
]
