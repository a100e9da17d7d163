import math
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillhouse.exchanges import (
    SIGNATURE_BYTES,
    InputError,
    KeyedDigests,
    SkeletonHash,
    shingles,
    similarities,
    similarity,
)

HASH = SkeletonHash(KeyedDigests(b"h" * 32))
words = st.lists(st.sampled_from(["a", "bb", "ccc", "é", "東", "#", "@"]), max_size=30)
KEYS = 400
PINNED = (
    "0000008000000000000000000500000000000200000000000000000000000000"
    "0b000000b00000000003a00000000000000300000000000000f0000000000000"
)


def jaccard(one: str, other: str) -> float:
    a, b = shingles(one), shingles(other)
    return len(a & b) / len(a | b) if a | b else 0.0


def plain_signature(maker: SkeletonHash, text: str) -> bytes:
    """Return the signature by the definition: Python integers, a dictionary of bins."""
    table = [int(v) for v in maker._values]
    base = int(maker._powers[1])
    smallest: dict[int, int] = {}
    for shingle in shingles(text):
        data = f"{shingle} ".encode()[:160]
        value = sum(table[c] * pow(base, j + 1, 2**64) for j, c in enumerate(data)) % 2**64
        block = value.to_bytes(8, "little") + bytes(8)
        permuted = int.from_bytes(maker._cipher.encryptor().update(block)[:8], "little")
        bin_ = permuted >> 57
        smallest[bin_] = min(permuted, smallest.get(bin_, permuted))
    codes = [smallest[b] % 15 + 1 if b in smallest else 0 for b in range(128)]
    return bytes(codes[i] | codes[i + 64] << 4 for i in range(64))


@settings(deadline=None)
@given(words)
def test_a_signature_is_what_the_definition_says(parts: list[str]) -> None:
    text = " ".join(parts)
    assert HASH.signature(text) == plain_signature(HASH, text)


@settings(deadline=None)
@given(st.lists(words, max_size=6))
def test_together_they_are_what_each_is_alone(many: list[list[str]]) -> None:
    texts = [" ".join(parts) for parts in many]
    assert HASH.signatures(texts) == [plain_signature(HASH, text) for text in texts]


def test_together_beyond_a_block() -> None:
    generator = np.random.default_rng(9)
    texts = [" ".join(f"w{n}" for n in generator.integers(0, 50, 3000)) for _ in range(5)]
    texts.insert(2, "")
    texts.append(" ".join("long" for _ in range(9000)))
    assert HASH.signatures(texts) == [HASH.signature(text) for text in texts]


@pytest.mark.parametrize("seed", range(3))
def test_long_texts_and_long_words_too(seed: int) -> None:
    generator = np.random.default_rng(seed)
    lengths = generator.choice([1, 5, 30, 159, 160, 161, 400], 900)
    text = " ".join("".join(chr(97 + c) for c in generator.integers(0, 26, n)) for n in lengths)
    assert len(text) > 2 * (1 << 15)
    assert HASH.signature(text) == plain_signature(HASH, text)


def test_a_text_at_the_edge_of_a_block() -> None:
    for size in range((1 << 15) - 4, (1 << 15) + 4):
        text = ("abcd " * (size // 5 + 1))[:size].strip() + " z"
        assert HASH.signature(text) == plain_signature(HASH, text)


def test_a_signature_has_64_bytes_and_the_empty_one_is_zero() -> None:
    assert SIGNATURE_BYTES == 64
    assert HASH.signature("") == bytes(64)
    assert len(HASH.signature("a")) == 64
    assert HASH.signature("a") != bytes(64)


@settings(deadline=None)
@given(words)
def test_a_text_is_wholly_similar_to_itself(parts: list[str]) -> None:
    signature = HASH.signature(" ".join(parts))
    assert similarity(signature, signature) == pytest.approx(1.0 if parts else 0.0)


def pair(shared: int, only: int, seed: int) -> tuple[str, str]:
    """Return two texts of random words: `shared` words in common at the start, then their own."""
    generator = np.random.default_rng(seed)
    made = [f"w{n}" for n in generator.choice(10**6, shared + 2 * only, replace=False)]
    common = made[:shared]
    return " ".join(common + made[shared : shared + only]), " ".join(common + made[shared + only :])


def simulated(one: str, other: str) -> Any:
    """Return the estimates for one pair of texts under many secrets, shape (KEYS,)."""
    estimates = []
    for number in range(KEYS):
        maker = SkeletonHash(KeyedDigests(number.to_bytes(32)))
        estimates.append(similarity(maker.signature(one), maker.signature(other)))
    return np.array(estimates)


def documented_error(truth: float) -> float:
    chance = 1 / 15 + (1 - 1 / 15) * truth
    return math.sqrt(chance * (1 - chance) / 128) / (1 - 1 / 15)


@pytest.mark.parametrize(
    ("shared", "only"),
    [(0, 1500), (600, 1400), (1000, 500), (1000, 125), (1500, 20), (60, 40), (30, 10), (12, 3)],
)
def test_the_estimate_is_unbiased_and_its_error_as_documented(shared: int, only: int) -> None:
    one, other = pair(shared, only, seed=shared)
    truth = jaccard(one, other)
    estimates = simulated(one, other)
    standard_error = estimates.std(ddof=1) / math.sqrt(KEYS)
    assert abs(estimates.mean() - truth) < 4 * standard_error + 1e-12
    documented = documented_error(truth)
    # The sampling error of a standard deviation over 400 keys is 3.5 %.
    assert estimates.std(ddof=1) < 1.12 * documented
    if shared + 2 * only > 1000:
        assert estimates.std(ddof=1) > 0.8 * documented
    else:
        assert estimates.std(ddof=1) < 0.9 * documented


def test_an_estimate_without_the_correction_for_chance_would_be_found_biased() -> None:
    one, other = pair(600, 1400, seed=600)
    truth = jaccard(one, other)
    wrong = []
    for number in range(KEYS):
        maker = SkeletonHash(KeyedDigests(number.to_bytes(32)))
        a, b = (np.frombuffer(maker.signature(t), np.uint8) for t in (one, other))
        codes_a, codes_b = (np.concatenate((x & 15, x >> 4)) for x in (a, b))
        wrong.append((codes_a == codes_b).mean())
    assert abs(np.mean(wrong) - truth) > 4 * np.std(wrong) / math.sqrt(KEYS)


def test_errors_quoted_in_the_docstring_follow_from_its_formula() -> None:
    assert max(documented_error(j / 100) for j in range(101)) == pytest.approx(0.0475, abs=0.0005)
    assert documented_error(0.8) == pytest.approx(0.037, abs=0.0005)
    assert documented_error(0.0) == pytest.approx(0.024, abs=0.001)


def test_one_against_many_is_the_same_as_one_by_one() -> None:
    generator = np.random.default_rng(0)
    signatures = [HASH.signature(pair(n, 20, seed=n)[0]) for n in generator.integers(0, 90, 20)]
    signatures.append(bytes(64))
    many = np.frombuffer(b"".join(signatures), np.uint8).reshape(-1, 64)
    together = similarities(signatures[3], many)
    assert together.tolist() == [similarity(signatures[3], s) for s in signatures]
    assert together[-1] == 0
    assert similarities(signatures[0], many[:0]).shape == (0,)


@pytest.mark.parametrize(("one", "other"), [(63, 64), (64, 63), (0, 64)])
def test_signatures_of_other_lengths_are_refused(one: int, other: int) -> None:
    with pytest.raises(InputError, match="signatures of"):
        similarity(bytes(one), bytes(other))


def test_signatures_of_two_secrets_have_nothing_in_common() -> None:
    text = pair(600, 0, seed=1)[0]
    other = SkeletonHash(KeyedDigests(b"i" * 32))
    assert abs(similarity(HASH.signature(text), other.signature(text))) < 0.15


def test_one_secret_gives_one_signature_for_ever() -> None:
    # Stored signatures must stay comparable: a change of these bytes is a change of format.
    signature = HASH.signature("rate the reply from # to # and say why in one sentence")
    assert signature == SkeletonHash(KeyedDigests(b"h" * 32)).signature(
        "rate the reply from # to # and say why in one sentence"
    )
    assert signature.hex() == PINNED


def test_words_crafted_against_any_odd_base_do_not_collide() -> None:
    """Thue-Morse words: equal under every polynomial modulo 2^64 once they are long enough."""

    def thue_morse(order: int, zero: str, one: str) -> str:
        bits = [bin(n).count("1") & 1 for n in range(2**order)]
        return "".join(one if bit else zero for bit in bits)

    for order in range(1, 8):
        one, other = thue_morse(order, "a", "b"), thue_morse(order, "b", "a")
        for key in range(50):
            maker = SkeletonHash(KeyedDigests(key.to_bytes(32)))
            hashes = []
            for word in (one, other):
                text = np.frombuffer(f" {word} ".encode(), np.uint8)
                ends = np.array([len(text) - 1])
                hashes.append(maker._shingle_hashes(text, np.array([0]), ends)[0])
            assert hashes[0] != hashes[1]


def test_threads_get_the_signatures_of_one() -> None:
    texts = [pair(50, 50, seed=n)[0] for n in range(40)]
    expected = [HASH.signature(text) for text in texts]
    found: dict[int, list[bytes]] = {}

    def work(number: int) -> None:
        found[number] = [HASH.signature(text) for text in texts]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[n] == expected for n in range(6))
