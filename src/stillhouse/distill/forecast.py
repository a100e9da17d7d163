"""What training will need: memory from the model's shape, speed from a probe of a few seconds."""

from __future__ import annotations

import copy
import statistics
import time
from typing import TYPE_CHECKING, Any, Literal

import torch
import transformers

from stillhouse.distill.divergences import chunk_rows
from stillhouse.distill.divergences.capture import ROWS_AT_A_TIME
from stillhouse.distill.examples import Example
from stillhouse.distill.freezing import freeze
from stillhouse.distill.loss import make_batch, reply_loss
from stillhouse.distill.precision import compute_in
from stillhouse.distill.teaching import READ_TOKENS
from stillhouse.teachers.heads import logits_at
from stillhouse.teachers.weights import DTYPES

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillhouse.teachers.weights import Precision

# Bytes that one block keeps for the backward pass per token, as a multiple of (hidden size,
# intermediate size): counted with saved_tensors_hooks on Llama blocks of two shapes, exact to 1 %
# there. Other gated architectures keep about as much.
_KEPT: dict[str, tuple[int, int]] = {"float32": (24, 20), "bfloat16": (26, 10)}
_LOGIT_BYTES = 20  # float32 logits, the reply's own, their log-softmax, and two gradients
_CHUNK_BUFFERS = 5  # of one chunk's logits in float32: both models', logarithms, slopes, gradient
# Of what comes and goes in every step in buffers of less than 32 MiB, as a share: the C library
# keeps freed ones in pieces. Seen with adapters (0.5 to 1 at 736 tokens a pass, 0.3 at 2,208);
# otherwise gradients, which come when activations go, fill them.
_PIECES = 0.5
_READING_BUFFERS = 12  # of some positions' distributions in float32
_PROCESS_BYTES = 450_000_000  # Python with torch and transformers loaded


def predict_memory(
    model_config: Any,
    batch_tokens: int,
    dtype: Precision,
    *,
    reply_tokens: int,
    freeze_embeddings: bool = True,
    trainable_parameters: int | None = None,
    white_box: bool = False,
    beside_bytes: int = 0,
) -> int:
    """Return the peak memory of training in bytes, the process itself included.

    `batch_tokens` and `reply_tokens` are those of one micro-batch (with padding). Float32 weights
    4, and per trained parameter gradient 4, AdamW 8 and best copy 4 bytes; in bfloat16 2 more per
    matrix entry for the cast; per token what the blocks keep; logits at reply tokens only, and with
    `white_box` those of one chunk alone, of both models. `beside_bytes` are other models in this
    process.
    `trainable_parameters` is for adapters; by default all are trained, except the frozen ones.
    """
    with torch.device("meta"):
        auto: Any = transformers.AutoModelForCausalLM
        model = auto.from_config(model_config)
    total = sum(parameter.numel() for parameter in model.parameters())
    ends = {
        id(module.weight): module.weight.numel()
        for module in (model.get_input_embeddings(), model.get_output_embeddings())
    }
    adapters = trainable_parameters is not None
    if trainable_parameters is None:
        trainable_parameters = total - (sum(ends.values()) if freeze_embeddings else 0)
    per_hidden, per_inner = _KEPT[dtype]
    inner = getattr(model_config, "intermediate_size", None) or 4 * model_config.hidden_size
    kept = model_config.num_hidden_layers * (
        per_hidden * model_config.hidden_size + per_inner * inner
    )
    weights = 4 * total + 16 * trainable_parameters + (2 * total if dtype == "bfloat16" else 0)
    rows = model_config.vocab_size
    if white_box:
        logits = _CHUNK_BUFFERS * 4 * rows * min(reply_tokens, chunk_rows(rows))
        logits += 0 if freeze_embeddings else 4 * rows * model_config.hidden_size
    else:
        logits = _LOGIT_BYTES * rows * reply_tokens
    passing = kept * batch_tokens + logits
    if adapters:
        passing += int(_PIECES * (kept * batch_tokens + (0 if white_box else logits)))
    return int(_PROCESS_BYTES + weights + passing + beside_bytes)


def predict_reading(student: Any, teacher: Any, dtype: Precision) -> int:
    """Return the peak memory in bytes while a teacher reads replies into a cache, all included.

    The student is there already, in float32. Beside both models live what one block of the teacher
    makes of the tokens of a pass, some distributions of a few positions (in float64 where they are
    sampled), and the two gradients in the teacher's head from which the fidelity is measured.
    """
    config = teacher.config
    rows, width = teacher.get_output_embeddings().weight.shape
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    block = READ_TOKENS * DTYPES[dtype].itemsize * (8 * config.hidden_size + 3 * inner)
    distributions = _READING_BUFFERS * 4 * ROWS_AT_A_TIME * rows
    gradients = 4 * 4 * rows * width
    models = parameter_bytes(student) + parameter_bytes(teacher, dtype)
    return int(_PROCESS_BYTES + models + max(block, distributions + gradients))


def parameter_bytes(model: Any, dtype: Precision = "float32") -> int:
    """Bytes of a model's weights in a precision."""
    count: int = sum(parameter.numel() for parameter in model.parameters())
    return count * DTYPES[dtype].itemsize


def measure_speed(
    model: Any,
    work: Literal["score", "train"],
    dtype: Precision,
    *,
    rows: int = 16,
    length: int = 64,
    reply_tokens: int = 2,
    freeze_embeddings: bool = True,
    freeze_layers: int = 0,
    seconds: float = 3.0,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return tokens per second of `model` at this moment, on this machine, at torch's threads.

    `score` is a forward pass in `dtype` with logits at one position a row; `train` is a whole
    optimiser step as `training` takes it (float32 weights, products in `dtype`, the same parts
    frozen). One pass warms up, then the median of as many as fit `seconds` (at least two) counts.
    The model is copied, not changed. Nothing is read from disk or drawn from the global generator.
    """
    generator = torch.Generator().manual_seed(0)
    top = model.config.vocab_size
    ids_BL = torch.randint(0, top, (rows, length), generator=generator)
    subject = copy.deepcopy(model).to(DTYPES[dtype] if work == "score" else torch.float32)
    if work == "score":
        one_pass = _scorer(subject, ids_BL)
    else:
        freeze(subject, embeddings=freeze_embeddings, layers=freeze_layers)
        one_pass = _trainer(subject, ids_BL, reply_tokens, dtype)
    one_pass()
    taken: list[float] = []
    while len(taken) < 2 or sum(taken) < seconds:
        start = clock()
        one_pass()
        taken.append(clock() - start)
    return rows * length / statistics.median(taken)


def _scorer(model: Any, ids_BL: torch.Tensor) -> Callable[[], None]:
    rows_B = torch.arange(len(ids_BL))
    last_B = torch.full_like(rows_B, ids_BL.shape[1] - 1)
    model.eval()

    @torch.no_grad()
    def one_pass() -> None:
        logits_at(model, rows_B, last_B, input_ids=ids_BL, use_cache=False)

    return one_pass


def _trainer(
    model: Any, ids_BL: torch.Tensor, reply_tokens: int, dtype: Precision
) -> Callable[[], None]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.0, fused=True)
    start = ids_BL.shape[1] - reply_tokens
    batch = make_batch([Example(id="", ids=tuple(row), start=start) for row in ids_BL.tolist()], ())
    model.train()

    def one_pass() -> None:
        with torch.random.fork_rng(devices=[]):
            with compute_in(dtype):
                loss = reply_loss(model, batch)
            loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return one_pass
