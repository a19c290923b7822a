"""Preference pairs from a JSONL file: layouts, tokens, answer masks, batches.

Three layouts are read, told apart line by line:

- plain: `prompt`, `chosen` and `rejected` are strings;
- transcripts, as HH-RLHF has them: `chosen` and `rejected` are whole dialogues; the
  prompt is their common start up to the last "Assistant:" in it;
- messages, as UltraFeedback has them: `chosen` and `rejected` are lists of
  `{"role": ..., "content": ...}` that agree up to their last message.

Other keys are ignored. Nothing is downloaded.
"""

import dataclasses
import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


class Pair(NamedTuple):
    """A prompt with a better and a worse answer; the text is prompt + answer."""

    prompt: str
    chosen: str
    rejected: str


def read_pairs(path: Path) -> list[Pair]:
    """Reads the pairs of a `.jsonl` or `.jsonl.gz` file.

    Raises:
      ValueError: if a line is malformed, with the file and the line, or if there is
        no pair.
    """
    pairs = []
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                pairs.append(parse_record(json.loads(line)))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
    if not pairs:
        raise ValueError(f"{path} holds no pair.")
    return pairs


def parse_record(record: Any) -> Pair:
    """Turns one JSON value into a pair.

    Raises:
      ValueError: if it has none of the three layouts.
    """
    if not isinstance(record, dict):
        raise ValueError(f"expected an object, got {type(record).__name__}.")
    missing = [key for key in ("chosen", "rejected") if key not in record]
    if missing:
        raise ValueError(f"the key {missing[0]!r} is missing, got {sorted(record)}.")
    chosen, rejected, prompt = (
        record.get(key) for key in ("chosen", "rejected", "prompt")
    )
    if isinstance(chosen, list) and isinstance(rejected, list):
        return _from_messages(prompt, chosen, rejected)
    if not (isinstance(chosen, str) and isinstance(rejected, str)):
        kinds = f"{type(chosen).__name__} and {type(rejected).__name__}"
        raise ValueError(
            f"'chosen' and 'rejected' must be two strings or two lists, got {kinds}."
        )
    if "prompt" not in record:
        return _from_transcripts(chosen, rejected)
    if not isinstance(prompt, str):
        raise ValueError(f"'prompt' must be a string, got {type(prompt).__name__}.")
    return Pair(prompt, chosen, rejected)


def _from_transcripts(chosen: str, rejected: str) -> Pair:
    limit = min(len(chosen), len(rejected))
    differ = (i for i in range(limit) if chosen[i] != rejected[i])
    start = chosen[: next(differ, limit)].rfind(ASSISTANT)
    if start < 0:
        raise ValueError(
            "without 'prompt', 'chosen' and 'rejected' must be dialogues that both "
            f"begin with the same text up to {ASSISTANT!r}."
        )
    start += len(ASSISTANT)
    return Pair(chosen[:start], chosen[start:], rejected[start:])


def _from_messages(prompt: Any, chosen: list[Any], rejected: list[Any]) -> Pair:
    good, bad = _turns("chosen", chosen), _turns("rejected", rejected)
    for name, turns in (("chosen", good), ("rejected", bad)):
        if not turns or turns[-1][0] != "assistant":
            raise ValueError(f"the last message of {name!r} must be the assistant's.")
    if good[:-1] != bad[:-1]:
        raise ValueError("'chosen' and 'rejected' must agree up to their last message.")
    before = good[:-1]
    if not before and isinstance(prompt, str):
        before = [("user", prompt)]
    elif not before and isinstance(prompt, list):
        before = _turns("prompt", prompt)
    if not before:
        raise ValueError("there is neither a 'prompt' nor a message before the answer.")
    names = {"user": f"{HUMAN} ", "assistant": f"{ASSISTANT} "}
    text = "".join(names.get(role, "") + content for role, content in before)
    return Pair(text + ASSISTANT, *(f" {turns[-1][1]}" for turns in (good, bad)))


def _turns(name: str, messages: list[Any]) -> list[tuple[str, str]]:
    for message in messages:
        if not (
            isinstance(message, dict)
            and isinstance(message.get("role"), str)
            and isinstance(message.get("content"), str)
        ):
            raise ValueError(
                f"each message of {name!r} must have a string 'role' and a string "
                f"'content', got {message!r:.80}."
            )
    return [(message["role"], message["content"]) for message in messages]


class Tokenizer(Protocol):
    """What the loader needs of a tokenizer."""

    vocab_size: int
    start: int
    end: int
    pad: int

    def encode(self, text: str) -> list[int]:
        """Turns text into tokens, without any special one."""
        ...

    def decode(self, tokens: Iterable[int]) -> str:
        """Turns tokens into text, leaving the special ones out."""
        ...


class ByteTokenizer:
    """The bytes of the text and three special tokens."""

    vocab_size, start, end, pad = 259, 256, 257, 258

    def encode(self, text: str) -> list[int]:
        """Gives the bytes in UTF-8; a lone surrogate becomes a question mark."""
        return list(text.encode("utf-8", errors="replace"))

    def decode(self, tokens: Iterable[int]) -> str:
        """Joins bytes; an incomplete character becomes U+FFFD."""
        data = bytes(token for token in map(int, tokens) if token < 256)
        return data.decode("utf-8", errors="replace")


class FileTokenizer:
    """A `tokenizer.json` of Hugging Face, read by the package `tokenizers`."""

    ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>")

    def __init__(self, path: Path, *, end: str | None = None):
        """Reads the file; `end` names the end token, by default a usual one."""
        try:
            import tokenizers
        except ImportError as error:
            raise ImportError(
                "A tokenizer file needs the package tokenizers: "
                "pip install 'jaxkit[tokenizers]'."
            ) from error
        if not path.is_file():
            raise FileNotFoundError(f"There is no tokenizer file {path}.")
        self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        names = self.ENDS if end is None else (end,)
        known = [self._tokenizer.token_to_id(name) for name in names]
        known = [token for token in known if token is not None]
        if not known:
            raise ValueError(f"{path} has no end token among {', '.join(names)}.")
        self.vocab_size = self._tokenizer.get_vocab_size()
        # One token in three roles: padding is masked, and a start is never predicted.
        self.start = self.end = self.pad = known[0]

    def encode(self, text: str) -> list[int]:
        """Turns text into tokens, without any special one."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: Iterable[int]) -> str:
        """Turns tokens into text, leaving the special ones out."""
        return self._tokenizer.decode([int(token) for token in tokens])


class Counts(NamedTuple):
    """What became of the pairs of a file."""

    read: int
    empty: int
    too_long: int
    cut_prompts: int
    cut_answers: int
    ties: int
    kept: int


class Batch(NamedTuple):
    """Pairs of one padded length; entry 0 of axis 1 is the chosen answer."""

    tokens: np.ndarray
    where: np.ndarray
    valid: np.ndarray
    index: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """How long a row may be, in tokens, and what happens to a longer one."""

    length: int
    prompt: int
    too_long: Literal["cut", "drop"] = "cut"
    buckets: tuple[int, ...] = ()

    def __post_init__(self):
        """Refuses limits that leave no room for an answer."""
        if not 1 <= self.prompt < self.length - 1:
            raise ValueError(
                f"the limit of the prompt, {self.prompt}, must be at least 1 and "
                f"leave two of the {self.length} tokens of a row to the answer."
            )
        if any(not 0 < bucket < self.length for bucket in self.buckets):
            raise ValueError(
                f"buckets must lie between 0 and {self.length}, got {self.buckets}."
            )


class _Row(NamedTuple):
    prompt: list[int]
    answers: tuple[list[int], list[int]]


class PairData:
    """Encoded pairs in arrays of fixed lengths, and their order in every epoch."""

    def __init__(self, pairs: Sequence[Pair], tokenizer: Tokenizer, limits: Limits):
        """Encodes, cuts and pads the pairs."""
        rows, counts = _encode(pairs, tokenizer, limits)
        if not rows:
            raise ValueError(f"No pair is left of {counts.read}: {counts}.")
        lengths = sorted({*limits.buckets, limits.length})
        needed = [len(p) + max(map(len, answers)) for p, answers in rows]
        places = np.searchsorted(lengths, needed)
        self.counts = counts
        self.texts = [_decode(row, tokenizer) for row in rows]
        self.ties = np.array([a == b for _, (a, b) in rows])
        self.lengths = np.array([[len(a), len(b)] for _, (a, b) in rows])
        self.buckets = [
            self._pad(rows, np.flatnonzero(places == place), length, tokenizer.pad)
            for place, length in enumerate(lengths)
            if np.any(places == place)
        ]
        # Drawing the order of an epoch is slow next to taking one batch of it.
        self._last: tuple[int, int, int] | None = None
        self._plan: list[tuple[int, np.ndarray]] = []

    def __len__(self) -> int:
        """Gives the number of pairs."""
        return self.counts.kept

    def _pad(self, rows: list[_Row], index: np.ndarray, length: int, pad: int) -> Batch:
        tokens = np.full((index.size, 2, length), pad, np.int32)
        where = np.zeros((index.size, 2, length), bool)
        for i, row in enumerate(index):
            prompt, answers = rows[row]
            for side, answer in enumerate(answers):
                text = prompt + answer
                tokens[i, side, : len(text)] = text
                where[i, side, len(prompt) : len(text)] = True
        return Batch(tokens, where, ~self.ties[index], index)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Counts the batches of an epoch; each bucket fills its last one up."""
        return sum(-(-len(b.index) // batch_size) for b in self.buckets)

    def batch(self, step: int, *, batch_size: int, seed: int) -> Batch:
        """Gives the batch of a step, a function of the arguments alone.

        An epoch holds every pair once, in an order of its own. A batch has pairs of
        one bucket; the last one of a bucket repeats pairs with `valid` False.
        """
        epoch, place = divmod(step, self.steps_per_epoch(batch_size))
        bucket, index = self._order(epoch, batch_size, seed)[place]
        return _take(self.buckets[bucket], index, batch_size)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """Gives every pair once, bucket by bucket, in the order of the file."""
        for bucket in self.buckets:
            for start in range(0, len(bucket.index), batch_size):
                index = np.arange(start, min(start + batch_size, len(bucket.index)))
                yield _take(bucket, index, batch_size)

    def _order(self, epoch: int, size: int, seed: int) -> list[tuple[int, np.ndarray]]:
        if self._last != (epoch, size, seed):
            random = np.random.default_rng([seed, epoch])
            batches = [
                (number, part)
                for number, bucket in enumerate(self.buckets)
                for part in _split(random.permutation(len(bucket.index)), size)
            ]
            places = random.permutation(len(batches))
            self._plan = [batches[place] for place in places]
            self._last = (epoch, size, seed)
        return self._plan


def _split(order: np.ndarray, size: int) -> list[np.ndarray]:
    return [order[start : start + size] for start in range(0, len(order), size)]


def _take(bucket: Batch, index: np.ndarray, batch_size: int) -> Batch:
    real = np.arange(batch_size) < len(index)
    batch = Batch(*(array[np.resize(index, batch_size)] for array in bucket))
    return batch._replace(valid=batch.valid & real)


def _encode(
    pairs: Iterable[Pair], tokenizer: Tokenizer, limits: Limits
) -> tuple[list[_Row], Counts]:
    rows, read, empty, too_long, cut_prompts, cut_answers = [], 0, 0, 0, 0, 0
    for pair in pairs:
        read += 1
        prompt = tokenizer.encode(pair.prompt)
        answers = [tokenizer.encode(text) for text in (pair.chosen, pair.rejected)]
        if not all(text.strip() for text in (pair.chosen, pair.rejected)):
            empty += 1
            continue
        # The start token counts as part of the prompt, the end of the answer.
        long_prompt = len(prompt) + 1 > limits.prompt
        kept = [tokenizer.start, *prompt[max(len(prompt) + 1 - limits.prompt, 0) :]]
        room = limits.length - len(kept)
        long_answer = any(len(answer) + 1 > room for answer in answers)
        if limits.too_long == "drop" and (long_prompt or long_answer):
            too_long += 1
            continue
        cut_prompts += long_prompt
        cut_answers += long_answer
        # A cut answer loses its end token too: nobody ended it there.
        chosen, rejected = ([*answer, tokenizer.end][:room] for answer in answers)
        rows.append(_Row(kept, (chosen, rejected)))
    ties = sum(a == b for _, (a, b) in rows)
    return rows, Counts(
        read, empty, too_long, cut_prompts, cut_answers, ties, len(rows)
    )


def _decode(row: _Row, tokenizer: Tokenizer) -> Pair:
    return Pair(*(tokenizer.decode(part) for part in (row.prompt, *row.answers)))


def split_pairs(
    pairs: Sequence[Pair], *, held_out: float, seed: int
) -> tuple[list[Pair], list[Pair]]:
    """Holds a fraction of the prompts out; no prompt is on both sides."""
    prompts = sorted({pair.prompt for pair in pairs})
    order = np.random.default_rng(seed).permutation(len(prompts))
    count = round(held_out * len(prompts))
    if not 0 < count < len(prompts):
        raise ValueError(
            f"holding out {held_out} of {len(prompts)} prompts leaves one side empty."
        )
    out = {prompts[i] for i in order[:count]}
    return (
        [pair for pair in pairs if pair.prompt not in out],
        [pair for pair in pairs if pair.prompt in out],
    )
