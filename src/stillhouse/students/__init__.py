"""Students: what learns, and how it is made and kept.

Start from `cut_depth` (some of a teacher's blocks as an ordinary model), `cut_width` (some of its
heads, neurons and hidden channels) or `add_adapter` (LoRA on the whole of it), and end with
`save_student`, which writes an ordinary transformers folder with the tokenizer and the chat
template that were trained with. `choose_layers` proposes which blocks to keep, from training
prompts; `choose_units` the parts that do most on training text (`measure_activations`).

Refused here: folders that hold adapters only plain PEFT can read, folders that are half written,
cuts that another program would load with its layers in the wrong places, and code from a folder.
"""

from stillhouse.students.activations import Activations, measure_activations
from stillhouse.students.adapters import add_adapter, merged
from stillhouse.students.depth import cut_depth
from stillhouse.students.folder import load_student, save_student
from stillhouse.students.layers import LayerChoice, block_influence, choose_layers
from stillhouse.students.shape import Shape
from stillhouse.students.width import Units, Widths, choose_units, cut_width

__all__ = [
    "Activations",
    "LayerChoice",
    "Shape",
    "Units",
    "Widths",
    "add_adapter",
    "block_influence",
    "choose_layers",
    "choose_units",
    "cut_depth",
    "cut_width",
    "load_student",
    "measure_activations",
    "merged",
    "save_student",
]
