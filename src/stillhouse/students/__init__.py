"""Students: what learns, and how it is made and kept.

Start from `cut_depth` (some of a teacher's blocks as an ordinary model) or `add_adapter` (LoRA on
the whole of it), and end with `save_student`, which writes an ordinary transformers folder with
the tokenizer and the chat template that were trained with. `choose_layers` proposes which blocks
to keep, from training prompts.

Refused here: folders that hold adapters only plain PEFT can read, folders that are half written,
cuts that another program would load with its layers in the wrong places, and code from a folder.
"""

from stillhouse.students.adapters import add_adapter, merged
from stillhouse.students.depth import cut_depth
from stillhouse.students.folder import load_student, save_student
from stillhouse.students.layers import LayerChoice, block_influence, choose_layers

__all__ = [
    "LayerChoice",
    "add_adapter",
    "block_influence",
    "choose_layers",
    "cut_depth",
    "load_student",
    "merged",
    "save_student",
]
