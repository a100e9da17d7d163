"""Export: a student as a GGUF or ONNX file, checked in the engine that will run it.

Start from `export_student`: it writes the file, asks llama.cpp or onnxruntime itself for the next
token after every prompt, compares with the student in transformers, and puts the file in place
only when they agree. `CheckReport` is what it found, `read_prompts` how prompts are read.

Refused: architectures and tokenizers that the format's writer here does not know (the message
says which it does), and files that answer otherwise than the student.
"""

from stillhouse.students.export.checking import CheckReport
from stillhouse.students.export.exporting import FORMATS, CheckFailed, Format, export_student
from stillhouse.students.export.prompts import Prompt, read_prompts

__all__ = [
    "FORMATS",
    "CheckFailed",
    "CheckReport",
    "Format",
    "Prompt",
    "export_student",
    "read_prompts",
]
