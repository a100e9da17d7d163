"""What masking a prompt and making its signature costs, and how far its similarities are off.

Prompts are filled in from templates with a fixed seed. Costs are processor time of one thread, per
1,000 bytes of prompt. Ours and the peer take turns in 8 blocks of 10 rounds; of each block the best
round counts (neighbours on the machine slow a round, nothing speeds it up), and the interval is
that of the mean over the blocks. The peer is
datasketch with 128 permutations, the best of its schemes and of two hash functions, given the same
shingles; the time to cut the skeleton into shingles counts for both. The floor of the masking is
one pass of `bytes.translate` over the prompt.

Errors are root mean squares against the exact Jaccard index of pairs of prompts that share a part
of their words; the interval is a bootstrap over pairs. 64 bytes of ours stand beside datasketch's
512 or 1,024.

    python -m benchmarks.skeleton            (needs: pip install datasketch)
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks import rows
from stillhouse.exchanges import KeyedDigests, SkeletonHash, shingles, similarity, skeleton

SEED = 7
BLOCKS, ROUNDS = 8, 10
PROMPTS = 60
PERMUTATIONS = 128
PACKAGES = ("numpy", "cryptography", "datasketch")
Figure = tuple[float, float, float]  # value and 95 % interval

ANNOTATE = (
    "You are an expert annotator. Read the review of {name} from {number} March {number} below. "
    'Review: "{quote}" Think step by step, then say whether it is positive, negative or neutral, '
    "and give a score from 1 to {number} with a short reason. Answer as JSON with the keys label, "
    "score and reason, and nothing else. {filler} "
)
TRANSLATE = (
    "Translate the following letter of {name} to {name} into plain English, keep every figure such "
    "as {number}.{number} and {number}/{number}, and do not explain.\n\n{filler}\n\n"
)
CORRECT = (
    "# Task {number}\n- Find errors in `{quote}`\n- Rewrite the text; don't add new facts\n"
    "- Return the result only\n\n{filler}\n"
)
TEMPLATES = (ANNOTATE, TRANSLATE, CORRECT)
CYRILLIC = "Прочитайте отзыв {name} от {number} марта и оцените его по шкале от 1 до {number}. "
HAN = "请阅读{number}年{number}月的客户评论，并用JSON回答，不要添加其他文字。"
COMMON = """
the a of to and in that it is was for on with as at by from this which or an be are not but had have
has were their there been more when who will would can if so what about into time only some could
other new than then its over also after first well way even because any these most customer delivery
service product quality order support answer question model language reasoning evidence writing
paragraph summary translation argument history science garden river mountain winter morning family
journey different important several
"""
WORDS = COMMON.split()
NAMES = ("Globex", "Jane Doe", "Acme Corp", "Lisbon", "Initech", "Omar Haddad", "New York")


def fill(template: str, size: int, rng: np.random.Generator) -> str:
    """Repeat a template, filled in anew each time, and cut it at `size` bytes."""

    def words(count: int) -> str:
        return " ".join(rng.choice(WORDS, count))

    made = ""
    while len(made.encode()) < size:
        made += template.format(
            name=rng.choice(NAMES),
            number=rng.integers(1, 3000),
            quote=words(12),
            filler=f"{words(18).capitalize()}, {words(9)}. {words(15).capitalize()}.",
        )
    return made.encode()[:size].decode(errors="ignore")


def prompts(templates: Sequence[str], size: int) -> list[str]:
    """Prompts of `size` bytes, the templates in turn."""
    rng = np.random.default_rng(SEED)
    return [fill(templates[n % len(templates)], size, rng) for n in range(PROMPTS)]


def cpu_us_per_kb(works: Sequence[Callable[[], object]], kilobytes: float) -> list[Figure]:
    """Cost of each of `works` and its 95 % interval."""
    seen = np.zeros((BLOCKS, ROUNDS, len(works)))
    for work in works:
        work()
    for block, round_ in np.ndindex(BLOCKS, ROUNDS):
        for index, work in enumerate(works):
            begun = time.thread_time_ns()
            work()
            seen[block, round_, index] = (time.thread_time_ns() - begun) / 1000 / kilobytes
    best = seen.min(axis=1)
    mean = best.mean(axis=0)
    half = 2.36 * best.std(axis=0, ddof=1) / math.sqrt(BLOCKS)  # t of 7 degrees of freedom
    return [(float(m), float(m - h), float(m + h)) for m, h in zip(mean, half, strict=True)]


def peers() -> dict[str, Callable[[str], object]]:
    """Makers of datasketch signatures from a skeleton, by name."""
    from datasketch import MinHash

    def crc32(data: bytes) -> int:
        return zlib.crc32(data)

    made: dict[str, Callable[[str], object]] = {}
    for scheme in ("affine32", "legacy"):
        for name, hashfunc in (("sha1", None), ("crc32", crc32)):
            permutations = MinHash(num_perm=PERMUTATIONS, scheme=scheme).permutations
            options = {"hashfunc": hashfunc} if hashfunc else {}

            def maker(
                text: str,
                scheme: str = scheme,
                permutations: object = permutations,
                options: dict[str, Callable[[bytes], int]] = options,
            ) -> object:
                sketch = MinHash(
                    num_perm=PERMUTATIONS, scheme=scheme, permutations=permutations, **options
                )
                sketch.update_batch([shingle.encode() for shingle in shingles(text)])
                return sketch

            made[f"datasketch {scheme} {name}"] = maker
    return made


def measure_cost() -> None:
    """Append the rows of cost."""
    maker = SkeletonHash(KeyedDigests(bytes(32)))
    table = bytes(range(256))
    for label, templates, size in (
        ("300_B", TEMPLATES, 300),
        ("1_kB", TEMPLATES, 1000),
        ("4_kB", TEMPLATES, 4000),
        ("32_kB", TEMPLATES, 32_000),
        ("1_kB_cyrillic", (CYRILLIC,), 1000),
        ("1_kB_han", (HAN,), 1000),
    ):
        texts = prompts(templates, size)
        skeletons = [skeleton(text) for text in texts]
        kilobytes = PROMPTS * size / 1000
        others = peers() if size < 32_000 else {}
        works: list[Callable[[], object]] = [
            lambda texts=texts: [skeleton(t) for t in texts],  # type: ignore[misc]
            lambda skeletons=skeletons: [maker.signature(s) for s in skeletons],  # type: ignore[misc]
            lambda texts=texts: [maker.signature(skeleton(t)) for t in texts],  # type: ignore[misc]
            lambda texts=texts: [t.encode().translate(table) for t in texts],  # type: ignore[misc]
            *(lambda make=make, s=skeletons: [make(t) for t in s] for make in others.values()),  # type: ignore[misc]
        ]
        masking, signing, both, floor, *rest = cpu_us_per_kb(works, kilobytes)
        append(f"masking_us_per_kB_{label}", masking, "us/kB", "one translate pass", floor[0])
        named = dict(zip(others, (r[0] for r in rest), strict=True))
        best = min(named, key=lambda name: named[name]) if named else ""
        append(f"signature_us_per_kB_{label}", signing, "us/kB", best, named.get(best))
        append(f"total_us_per_kB_{label}", both, "us/kB", "", None)
        in_path = (both[0] * size / 1000, both[1] * size / 1000, both[2] * size / 1000)
        append(f"total_us_per_prompt_{label}", in_path, "us", "", None)


def measure_error() -> None:
    """Append the rows of error: short prompts, where bins outnumber shingles, and long ones."""
    from datasketch import MinHash

    rng = np.random.default_rng(SEED)
    maker = SkeletonHash(KeyedDigests(bytes(32)))
    for label, length in (("60_words", 60), ("1000_words", 1000)):
        ours, theirs = [], []
        for _ in range(400):
            words = [f"w{n}" for n in rng.choice(10**6, 2 * length, replace=False)]
            shared = int(rng.integers(0, length + 1))
            pair = [
                " ".join(words[:length]),
                " ".join(words[:shared] + words[length : 2 * length - shared]),
            ]
            one, other = (shingles(text) for text in pair)
            truth = len(one & other) / len(one | other)
            ours.append(similarity(*(maker.signature(text) for text in pair)) - truth)
            sketches = []
            for cut in (one, other):
                sketch = MinHash(num_perm=PERMUTATIONS)
                sketch.update_batch([shingle.encode() for shingle in cut])
                sketches.append(sketch)
            theirs.append(sketches[0].jaccard(sketches[1]) - truth)
        name = f"datasketch {PERMUTATIONS} permutations, {sketches[0].hashvalues.nbytes} bytes"
        append(f"rms_error_{label}", rms(np.array(ours), rng), "Jaccard", name, rms(theirs, rng)[0])


def rms(errors: Sequence[float] | NDArray[np.float64], rng: np.random.Generator) -> Figure:
    """Root mean square with a bootstrap interval over pairs."""
    squares = np.square(errors)
    drawn = rng.choice(squares, (2000, len(squares))).mean(axis=1)
    low, high = np.sqrt(np.quantile(drawn, [0.025, 0.975]))
    return float(np.sqrt(squares.mean())), float(low), float(high)


def append(figure: str, seen: Figure, unit: str, peer: str, peer_value: float | None) -> None:
    """Append one row."""
    value, low, high = seen
    rows.append(
        "skeleton",
        figure,
        value,
        low=low,
        high=high,
        unit=unit,
        peer=peer,
        peer_value=peer_value,
        packages=PACKAGES,
    )


if __name__ == "__main__":
    measure_cost()
    measure_error()
