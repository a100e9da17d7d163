"""Signatures of skeletons: 64 bytes that estimate how many runs of words two prompts share.

One-permutation MinHash (Li, Owen and Zhang, 1208.1259) with 128 bins of 4 bits (Li and König,
0908.4021): every shingle is hashed once, the high bits choose its bin, the bin keeps the smallest
hash, and of that a code from 1 to 15; 0 means that the bin is empty.
"""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from stillhouse.exchanges.errors import InputError
from stillhouse.exchanges.skeletons import SHINGLE_WORDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.ciphers import CipherContext
    from numpy.typing import NDArray

    from stillhouse.exchanges.digests import KeyedDigests

SIGNATURE_BYTES = 64
_BINS = 2 * SIGNATURE_BYTES
_CODES = 15
_BIN_SHIFT = np.uint64(57)
_BLOCK_BYTES = 1 << 15
_HIGHEST = np.uint64(2**64 - 1)
_SHINGLE_BYTES = 160  # of a longer shingle, the first so many: bounds what can be crafted


class SkeletonHash:
    """Makes signatures under a deployment secret.

    A shingle is hashed by a random polynomial modulo 2^64 over random character values, then by AES
    as a random permutation (a universal hash under a PRP is a PRF). Without the secret nobody can
    say which words decide a signature, make two texts collide (two different shingles agree with
    probability below 2^-28, the worst case being crafted ones), or test a guess of the text against
    a stolen signature. Signatures of different secrets cannot be compared. Threads may share it.
    """

    def __init__(self, digests: KeyedDigests):
        seed = digests.key("skeleton-signature/polynomial")
        random = np.frombuffer(hashlib.shake_256(seed).digest(257 * 8), "<u8")
        self._values = random[:256].astype(np.uint64)
        # 5 modulo 8: the odd residues whose powers stay far from 1 longest.
        base = int(random[256]) & ~7 | 5
        self._powers = _powers(base, _BLOCK_BYTES + 1)
        self._inverses = _powers(pow(base, -1, 2**64), _BLOCK_BYTES + 1)
        key = digests.key("skeleton-signature/permutation")[:16]
        # ECB on blocks that are distinct by construction is the permutation itself.
        self._cipher = Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305
        self._local = threading.local()

    def signature(self, skeleton_text: str) -> bytes:
        """Return the 64-byte signature of a skeleton (all zero for an empty one)."""
        return self.signatures((skeleton_text,))[0]

    def signatures(self, skeleton_texts: Sequence[str]) -> list[bytes]:
        """Return the signature of each skeleton; many short ones at once cost a tenth each."""
        found = [bytes(SIGNATURE_BYTES)] * len(skeleton_texts)
        group: list[int] = []
        padded: list[bytes] = []
        size = 0
        for index, text in enumerate(skeleton_texts):
            if not text:
                continue
            words = b" %b " % text.encode()
            if group and size + len(words) > _BLOCK_BYTES:
                self._sign(group, padded, found)
                group, padded, size = [], [], 0
            group.append(index)
            padded.append(words)
            size += len(words)
        if group:
            self._sign(group, padded, found)
        return found

    def _sign(self, group: list[int], padded: list[bytes], found: list[bytes]) -> None:
        """Put the signatures of T texts (each within spaces) in their places."""
        count = len(group)
        text = np.frombuffer(b"".join(padded), np.uint8)
        spaces_W = (text == ord(" ")).nonzero()[0]
        spaces_T = np.fromiter((words.count(b" ") for words in padded), np.int64, count)
        last_T = spaces_T.cumsum() - 1
        run_T = np.minimum(spaces_T - 1, SHINGLE_WORDS)
        text_W = np.arange(count).repeat(spaces_T)
        ends_W = np.arange(len(spaces_W)) + run_T.take(text_W)
        # A shingle ends within its own text.
        first_N = (ends_W <= last_T.take(text_W)).nonzero()[0]
        starts_N, ends_N = spaces_W.take(first_N), spaces_W.take(ends_W.take(first_N))
        ends_N = np.minimum(ends_N, starts_N + _SHINGLE_BYTES)
        hashes_N = self._permute(self._shingle_hashes(text, starts_N, ends_N))
        bins_N = text_W.take(first_N) * _BINS + (hashes_N >> _BIN_SHIFT).astype(np.int64)
        smallest = np.full(count * _BINS, _HIGHEST, np.uint64)
        np.minimum.at(smallest, bins_N, hashes_N)
        codes = np.zeros(count * _BINS, np.uint8)
        codes[bins_N] = (smallest.take(bins_N) % _CODES).astype(np.uint8) + 1
        codes_TK = codes.reshape(count, _BINS)
        signed_TB = codes_TK[:, :SIGNATURE_BYTES] | codes_TK[:, SIGNATURE_BYTES:] << 4
        for index, row_B in zip(group, signed_TB, strict=True):
            found[index] = row_B.tobytes()

    def _shingle_hashes(
        self, text: NDArray[np.uint8], starts_N: NDArray[np.int64], ends_N: NDArray[np.int64]
    ) -> NDArray[np.uint64]:
        if len(text) <= _BLOCK_BYTES:
            return self._polynomials(text, starts_N, ends_N)
        parts = []
        done = 0
        while done < len(starts_N):
            origin = int(starts_N[done])
            stop = int(np.searchsorted(ends_N, origin + _BLOCK_BYTES))
            block = text[origin : origin + _BLOCK_BYTES]
            parts.append(
                self._polynomials(block, starts_N[done:stop] - origin, ends_N[done:stop] - origin)
            )
            done = stop
        return np.concatenate(parts)

    def _polynomials(
        self, text: NDArray[np.uint8], starts_N: NDArray[np.int64], ends_N: NDArray[np.int64]
    ) -> NDArray[np.uint64]:
        # sum of value(c_j) * base^(j - start), j from start + 1 to end, out of prefix sums
        prefix = np.add.accumulate(self._values.take(text) * self._powers[: len(text)])
        return (prefix.take(ends_N) - prefix.take(starts_N)) * self._inverses.take(starts_N)

    def _permute(self, hashes_N: NDArray[np.uint64]) -> NDArray[np.uint64]:
        encryptor: CipherContext | None = getattr(self._local, "encryptor", None)
        if encryptor is None:
            encryptor = self._local.encryptor = self._cipher.encryptor()
        blocks_N2 = np.zeros((len(hashes_N), 2), "<u8")
        blocks_N2[:, 0] = hashes_N
        permuted = np.frombuffer(encryptor.update(blocks_N2.data.cast("B")), "<u8")
        return permuted[::2].copy()


def similarity(signature_a: bytes, signature_b: bytes) -> float:
    """Estimate the Jaccard index of two skeletons' shingles from their signatures.

    Unbiased, so it can be a little below 0 for texts that share nothing. With K = 128 bins and
    C = 1/15, its standard error for long texts is sqrt(P (1 - P) / K) / (1 - C) with
    P = C + (1 - C) J: at most 0.048 (J near one half), 0.037 at J = 0.8, 0.024 at J = 0; for texts
    of fewer shingles than bins it is smaller, as fewer of them share a bin. Two empty skeletons
    have nothing in common: 0.
    """
    return float(similarities(signature_a, np.frombuffer(signature_b, np.uint8)[np.newaxis])[0])


def similarities(signature: bytes, others_NB: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Estimate the similarity of one signature to N others, an array of shape (N, 64)."""
    if len(signature) != SIGNATURE_BYTES or others_NB.shape[1:] != (SIGNATURE_BYTES,):
        raise InputError(
            f"signatures of {len(signature)} and {others_NB.shape[1:]} bytes, not {SIGNATURE_BYTES}"
        )
    one_K = _unpack(np.frombuffer(signature, np.uint8))
    others_NK = _unpack(others_NB)
    present_NK = (one_K > 0) & (others_NK > 0)
    both_N = present_NK.sum(axis=1)
    either_N = ((one_K > 0) | (others_NK > 0)).sum(axis=1)
    equal_N = (present_NK & (one_K == others_NK)).sum(axis=1)
    # Of the bins filled on both sides, unequal shingles still show equal codes once in 15.
    shared_N = (equal_N - both_N / _CODES) / (1 - 1 / _CODES)
    estimate_N = np.zeros(len(others_NB))
    np.divide(shared_N, either_N, out=estimate_N, where=either_N > 0)
    return estimate_N


def _unpack(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate((packed & 15, packed >> 4), axis=-1)


def _powers(base: int, count: int) -> NDArray[np.uint64]:
    powers = np.full(count, base, np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)
