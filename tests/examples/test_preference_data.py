import gzip
import importlib.util
import json

import _preference_data as pair_data
import _preference_docs as docs
import numpy as np
import pytest
from _preference_data import ByteTokenizer, Limits, Pair, PairData

BYTES = ByteTokenizer()
TALK = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant:"


def messages(*contents):
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": c} for i, c in enumerate(contents)]


def write(path, *records):
    lines = (r if isinstance(r, str) else json.dumps(r) for r in records)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("record", "pair"),
    [
        (
            {"prompt": "2+2=", "chosen": "4", "rejected": "5", "score": 1},
            Pair("2+2=", "4", "5"),
        ),
        (
            {"chosen": f"{TALK} Because.", "rejected": f"{TALK} Bees."},
            Pair(TALK, " Because.", " Bees."),
        ),
        (
            {"chosen": f"{TALK} So.", "rejected": f"{TALK} So."},
            Pair(TALK, " So.", " So."),
        ),
        (
            {
                "chosen": f"{TALK} A\n\nHuman: B\n\nAssistant: C",
                "rejected": f"{TALK} A2",
            },
            Pair(TALK, " A\n\nHuman: B\n\nAssistant: C", " A2"),
        ),
        (
            {
                "chosen": messages("Hi", "Hello.", "Why?", "Because."),
                "rejected": messages("Hi", "Hello.", "Why?", "Bees."),
            },
            Pair(TALK, " Because.", " Bees."),
        ),
        (
            {
                "prompt": "Why?",
                "chosen": messages("Why?", "So."),
                "rejected": messages("Why?", "No."),
            },
            Pair("\n\nHuman: Why?\n\nAssistant:", " So.", " No."),
        ),
        (
            {
                "prompt": "Why?",
                "chosen": messages("Why?", "So.")[1:],
                "rejected": messages("Why?", "No.")[1:],
            },
            Pair("\n\nHuman: Why?\n\nAssistant:", " So.", " No."),
        ),
        (
            {
                "prompt": messages("Why?"),
                "chosen": messages("Why?", "So.")[1:],
                "rejected": messages("Why?", "No.")[1:],
            },
            Pair("\n\nHuman: Why?\n\nAssistant:", " So.", " No."),
        ),
    ],
    ids=[
        "plain",
        "transcripts",
        "a tie",
        "an early parting",
        "messages",
        "messages and prompt",
        "answers alone",
        "prompt of messages",
    ],
)
def test_layouts(record, pair):
    assert pair_data.parse_record(record) == pair


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ('{"prompt": "a", ', "Expecting property name"),
        ([1, 2], "expected an object, got list"),
        ({"prompt": "a", "chosen": "b"}, "'rejected' is missing"),
        ({"prompt": 3, "chosen": "b", "rejected": "c"}, "'prompt' must be a string"),
        ({"prompt": "a", "chosen": "b", "rejected": None}, "str and NoneType"),
        ({"prompt": "a", "chosen": "b", "rejected": []}, "str and list"),
        ({"chosen": "a b", "rejected": "a c"}, "must be dialogues"),
        ({"chosen": TALK[4:] + "a", "rejected": TALK + "b"}, "must be dialogues"),
        ({"chosen": [], "rejected": messages("a", "b")}, "last message of 'chosen'"),
        (
            {"chosen": messages("a"), "rejected": messages("a", "b")},
            "last message of 'chosen'",
        ),
        (
            {"chosen": messages("a", "b"), "rejected": messages("A", "c")},
            "must agree",
        ),
        (
            {"chosen": messages("a", 3), "rejected": messages("a", "b")},
            "string 'content'",
        ),
        (
            {"chosen": messages("a", "b")[1:], "rejected": messages("a", "c")[1:]},
            "neither a 'prompt' nor a message",
        ),
    ],
)
def test_a_malformed_line_is_named(tmp_path, record, message):
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    path = write(tmp_path / "pairs.jsonl", good, "", record)
    with pytest.raises(ValueError, match=message) as error:
        pair_data.read_pairs(path)
    assert f"{path}, line 3: " in str(error.value)


def test_bytes_that_are_no_text_are_named(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b'{"prompt": "\xff"}\n')
    with pytest.raises(ValueError, match=r"line 1: .*can't decode"):
        pair_data.read_pairs(path)


def test_a_compressed_file_reads_as_the_plain_one(tmp_path):
    record = {"prompt": "é", "chosen": "日本", "rejected": "🙂"}
    plain = write(tmp_path / "pairs.jsonl", record)
    packed = tmp_path / "pairs.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert pair_data.read_pairs(plain) == pair_data.read_pairs(packed)
    assert pair_data.read_pairs(plain) == [Pair("é", "日本", "🙂")]


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no pair"):
        pair_data.read_pairs(write(tmp_path / "pairs.jsonl", ""))


@pytest.mark.parametrize("text", ["", "plain", "naïve 日本語 🙂\n\0", "a\u0301"])
def test_bytes_round_trip(text):
    tokens = BYTES.encode(text)
    assert all(0 <= token < 256 for token in tokens)
    assert BYTES.decode([BYTES.start, *tokens, BYTES.end, BYTES.pad]) == text


def test_bytes_survive_half_a_character():
    assert BYTES.encode("\ud83d") == [ord("?")]
    assert BYTES.decode(BYTES.encode("日")[:2]) == "\ufffd"


def make(*pairs, length=16, prompt=6, **options):
    limits = Limits(length=length, prompt=prompt, **options)
    return PairData([Pair(*pair) for pair in pairs], BYTES, limits)


def test_masks_mark_the_answer_and_its_end():
    (batch,) = make(("ab", "cde", "f")).in_order(1)
    start, end, pad = BYTES.start, BYTES.end, BYTES.pad
    chosen = [start, *b"ab", *b"cde", end]
    np.testing.assert_array_equal(batch.tokens[0, 0], chosen + [pad] * 9)
    np.testing.assert_array_equal(np.flatnonzero(batch.where[0, 0]), [3, 4, 5, 6])
    np.testing.assert_array_equal(batch.tokens[0, 1, :5], [start, *b"abf", end])
    np.testing.assert_array_equal(np.flatnonzero(batch.where[0, 1]), [3, 4])
    assert batch.valid.all()


def test_a_long_prompt_loses_its_start_and_a_long_answer_its_end():
    data = make(("0123456789", "a" * 30, "b" * 9))
    (batch,) = data.in_order(1)
    start, end = BYTES.start, BYTES.end
    np.testing.assert_array_equal(batch.tokens[0, 0], [start, *b"56789", *(b"a" * 10)])
    np.testing.assert_array_equal(
        batch.tokens[0, 1], [start, *b"56789", *(b"b" * 9), end]
    )
    assert batch.where[0].sum() == 20
    assert (data.counts.cut_prompts, data.counts.cut_answers) == (1, 1)
    np.testing.assert_array_equal(data.lengths, [[10, 10]])
    assert data.texts == [Pair("56789", "a" * 10, "b" * 9)]


def test_pairs_that_fit_exactly_are_not_cut():
    data = make(("01234", "a" * 9, "b"))
    assert (data.counts.cut_prompts, data.counts.cut_answers) == (0, 0)
    (batch,) = data.in_order(1)
    assert batch.tokens[0, 0, -1] == BYTES.end


def test_long_pairs_can_be_dropped_instead():
    pairs = [("p", "a" * 30, "b"), ("0123456789", "a", "b"), ("p", "a", "b")]
    counts = make(*pairs, too_long="drop").counts
    assert (counts.read, counts.too_long, counts.kept) == (3, 2, 1)
    with pytest.raises(ValueError, match="No pair is left of 2"):
        make(*pairs[:2], too_long="drop")


def test_ties_are_masked_and_empty_answers_left_out():
    data = make(
        ("p", "same", "same"),
        (
            "p",
            "a" * 12 + "x",
            "a" * 12 + "y",
        ),
        ("p", "a", " "),
        ("p", "", "b"),
        ("p", "a", "b"),
        length=12,
    )
    counts = data.counts
    assert (counts.read, counts.empty, counts.ties, counts.kept) == (5, 2, 2, 3)
    (batch,) = data.in_order(3)
    np.testing.assert_array_equal(batch.valid, [False, False, True])
    np.testing.assert_array_equal(data.ties, [True, True, False])


def test_bad_limits_are_refused():
    with pytest.raises(ValueError, match="limit of the prompt, 15"):
        Limits(length=16, prompt=15)
    with pytest.raises(ValueError, match="buckets must lie"):
        Limits(length=16, prompt=4, buckets=(16,))


MANY = [(f"{i:02d}", "x" * (i % 9 + 1), "y") for i in range(23)]


def test_an_epoch_holds_every_pair_once_in_its_own_order():
    data = make(*MANY, buckets=(8,))
    steps = data.steps_per_epoch(4)
    epochs = []
    for epoch in range(2):
        batches = [
            data.batch(epoch * steps + i, batch_size=4, seed=3) for i in range(steps)
        ]
        assert {batch.tokens.shape for batch in batches} == {(4, 2, 8), (4, 2, 16)}
        seen = np.concatenate([batch.index[batch.valid] for batch in batches])
        np.testing.assert_array_equal(np.sort(seen), np.arange(23))
        epochs.append(seen)
    assert np.any(epochs[0] != epochs[1])


def test_batches_are_a_function_of_step_and_seed():
    first, second = (make(*MANY, buckets=(8,)) for _ in range(2))
    for step in range(3):
        first.batch(step, batch_size=4, seed=3)
    for a, b in zip(
        first.batch(11, batch_size=4, seed=3),
        second.batch(11, batch_size=4, seed=3),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    other = second.batch(11, batch_size=4, seed=4)
    assert np.any(first.batch(11, batch_size=4, seed=3).index != other.index)


def test_the_held_out_prompts_are_others():
    pairs = [Pair(f"{i // 2}", "a", "b") for i in range(20)]
    train, held_out = pair_data.split_pairs(pairs, held_out=0.3, seed=0)
    assert (len(train), len(held_out)) == (14, 6)
    assert not {pair.prompt for pair in train} & {pair.prompt for pair in held_out}
    with pytest.raises(ValueError, match="leaves one side empty"):
        pair_data.split_pairs(pairs[:2], held_out=0.3, seed=0)


ENTRIES = [
    docs.Entry("m", "f", ("Return the sum of all.", "The input stays.")),
    docs.Entry("m", "g", ("Return the product of all.",)),
    docs.Entry("m.n", "h", ("Sort what is given here.", "In place.")),
]


def test_descriptions_end_at_the_first_section():
    text = "f(x, y)\n\nReturn the\nsum, e.g. 3. It is exact.\n\nArgs\n----\nx: no."
    sentences = ("Return the sum, e.g. 3. It is exact.",)
    assert docs.split_description(text.replace("3. It", "z. it")) == (
        sentences[0].replace("3. It", "z. it"),
    )
    text = "Return the sum of all. It is exact.\n\n>>> f(1)"
    assert docs.split_description(text) == ("Return the sum of all.", "It is exact.")
    assert docs.split_description("") == ()


def test_pairs_of_sentences_in_order_and_of_others():
    order = docs.make_pairs(ENTRIES, kind="order", max_bytes=80, seed=0)
    assert [pair.prompt for pair in order] == ["m.f:", "m.n.h:"]
    assert order[1] == Pair(
        "m.n.h:",
        " Sort what is given here. In place.",
        " In place. Sort what is given here.",
    )
    other = docs.make_pairs(ENTRIES, kind="other", max_bytes=80, seed=0)
    assert sorted(pair.chosen for pair in other) == sorted(
        pair.rejected for pair in other
    )
    assert all(pair.chosen != pair.rejected for pair in other)


def test_names_stay_on_one_side():
    entries = ENTRIES + [entry._replace(sentences=("Twice.",)) for entry in ENTRIES]
    train, held_out = docs.split_entries(entries, held_out=0.3, seed=1)
    assert (len(train), len(held_out)) == (4, 2)
    assert not {e.name for e in train} & {e.name for e in held_out}


def test_a_tokenizer_file_needs_its_package(tmp_path):
    if importlib.util.find_spec("tokenizers") is None:
        with pytest.raises(ImportError, match=r"jaxkit\[tokenizers\]"):
            pair_data.FileTokenizer(tmp_path / "tokenizer.json")


def test_a_tokenizer_file(tmp_path):
    tokenizers = pytest.importorskip(
        "tokenizers", reason="the package tokenizers is not installed"
    )
    model = tokenizers.models.WordLevel(
        {"<unk>": 0, "</s>": 1, "a": 2, "b": 3}, unk_token="<unk>"
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    read = pair_data.FileTokenizer(path)
    assert (read.vocab_size, read.start, read.end, read.pad) == (4, 1, 1, 1)
    assert read.encode("a b c") == [2, 3, 0]
    data = PairData([Pair("a", "b", "b a")], read, Limits(length=8, prompt=4))
    np.testing.assert_array_equal(data.lengths, [[2, 3]])
    with pytest.raises(FileNotFoundError, match="no tokenizer file"):
        pair_data.FileTokenizer(tmp_path / "none.json")
    with pytest.raises(ValueError, match="no end token among <eos>"):
        pair_data.FileTokenizer(path, end="<eos>")
