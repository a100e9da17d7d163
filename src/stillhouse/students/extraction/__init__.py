"""The extracting student: a small encoder that points at values in a document.

For tasks whose replies are flat JSON objects of things the input says: strings as they stand,
numbers, dates, one of a list. `read_fields` takes the fields from a JSON Schema, `new_extractor`
puts heads on a pretrained encoder, `fit` trains it on documents and the teacher's replies (and
their recombinations), `extract` answers, `save_extractor` and `load_extractor` keep it.

It writes no text: formats of numbers and dates are read by rules (`readings`), so its replies are
valid by construction, and nothing can be answered that the document does not say. It is no
language model folder; refused are schemas with nested objects, lists and free text.
"""

from stillhouse.students.extraction.examples import Reply, prepare_example
from stillhouse.students.extraction.fields import Field, parse_value, read_fields, write_value
from stillhouse.students.extraction.fitting import Document, FitSettings, Fitted, fit
from stillhouse.students.extraction.folder import (
    extract,
    load_extractor,
    new_extractor,
    read_cutter,
    save_extractor,
)
from stillhouse.students.extraction.model import Extractor
from stillhouse.students.extraction.predicting import predict
from stillhouse.students.extraction.recombination import Rates, Recombiner

__all__ = [
    "Document",
    "Extractor",
    "Field",
    "FitSettings",
    "Fitted",
    "Rates",
    "Recombiner",
    "Reply",
    "extract",
    "fit",
    "load_extractor",
    "new_extractor",
    "parse_value",
    "predict",
    "prepare_example",
    "read_cutter",
    "read_fields",
    "save_extractor",
    "write_value",
]
