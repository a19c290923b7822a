import dataclasses
import gzip
import json
import pathlib

import _preference_docs as docs
import entanglement_real_text as example
import numpy as np
import pytest

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "data"
CONFIG = example.Config(
    num_pairs=64,
    held_out=16,
    vocabulary=12,
    words=3,
    features=8,
    layers=1,
    heads=2,
    format_steps=200,
    steps=100,
    records=2,
    rate=3e-3,
)


def write(path, sentences):
    lines = [f"{label}\t{' '.join(words)}\n" for label, words in sentences]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def sentences(count):
    rng = np.random.default_rng(0)
    return [
        example.Sentence(i % 2, (("bad", "good")[i % 2], *map(str, drawn)))
        for i, drawn in enumerate(rng.integers(0, 9, (count, 3)))
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    data = write(folder / "sentences.tsv", sentences(100))
    config = dataclasses.replace(CONFIG, data=data, output=folder / "out")
    return config.output, example.main(config)


@pytest.mark.slow
def test_the_format_is_learned_and_the_label_is_not(run):
    _, measured = run
    assert measured["DPO, one token/chosen before"] == pytest.approx(-0.7, abs=0.1)
    assert -1.2 < measured["DPO, long suffix/chosen before"] < -0.65


def test_only_plain_dpo_on_a_long_suffix_lowers_the_chosen_answer(run):
    _, measured = run
    for loss in example.ANCHORS:
        for name in example.FORMATS:
            row = f"{loss}, {name}"
            # These sentences have a word that tells the label.
            assert measured[f"{row}/held-out accuracy"] == 1.0
            assert measured[f"{row}/rejected"] < -3.0
            falls = row == "DPO, long suffix"
            assert (measured[f"{row}/chosen"] < -1.0) == falls
            assert (measured[f"{row}/chosen up"] < 0.5) == falls
            assert measured[f"{row}/looks ideal"] > 0.9


def test_files_are_written(run):
    folder, measured = run
    record = json.loads((folder / "entanglement_real_text.json").read_text())
    assert record["results"] == measured
    assert all(np.isfinite(value) for value in measured.values())
    assert (folder / "entanglement_real_text.png").exists()


def test_prompts_are_cut_filled_and_unknown_words_marked():
    known = ["good", "bad"]
    texts = [
        example.Sentence(1, ("good", "film", "bad", "good")),
        example.Sentence(0, ("bad",)),
    ]
    tokens, place = example.encode(texts, known, 3)
    good, bad = example.FIRST_WORD, example.FIRST_WORD + 1
    first, second = example.FIRST_LABEL, example.FIRST_LABEL + 1
    begin, end = [example.START], [example.SEPARATOR]
    suffix = list(range(example.FIRST_SUFFIX, example.FIRST_WORD))
    prompts = [
        [good, example.UNKNOWN, bad],
        [bad, example.FILL, example.FILL],
    ]
    for row, prompt, labels in zip(
        tokens, prompts, ((second, first), (first, second)), strict=True
    ):
        for side, label in zip(row, labels, strict=True):
            assert side.tolist() == [*begin, *prompt, *end, label, *suffix]
    for num_suffix in example.FORMATS.values():
        answers = example.as_answers(place, tokens, num_suffix)
        counted = np.asarray(tokens)[0, 0][np.asarray(answers.answer)[0, 0]]
        assert counted.tolist() == [second, *suffix[:num_suffix]]
        assert answers.answer.shape == answers.text.shape == tokens.shape


def test_nothing_is_learned_from_held_out_sentences():
    texts = [example.Sentence(0, (f"only{i}", "common")) for i in range(40)]
    config = dataclasses.replace(CONFIG, num_pairs=10, held_out=10, vocabulary=99)
    train, held_out, known = example.split(texts, config, 0)
    assert len(train) == len(held_out) == 10
    assert not {s.words[0] for s in held_out} & ({s.words[0] for s in train} | {*known})
    assert known[0] == "common"
    assert len(known) == 31
    assert example.split(texts, config, 0) == (train, held_out, known)
    assert example.split(texts, config, 1)[1] != held_out


def test_a_compressed_file_reads_as_the_plain_one(tmp_path):
    texts = [example.Sentence(1, ("naïve", ".")), example.Sentence(0, ("日本",))]
    plain = write(tmp_path / "plain.tsv", texts)
    packed = tmp_path / "packed.tsv.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert example.read_sentences(plain) == example.read_sentences(packed) == texts


@pytest.mark.parametrize(
    "line", [b"2\ttext", b"1 text", b"text", b"1\t ", b"", b"1\t\xff"]
)
def test_a_malformed_line_is_named(tmp_path, line):
    path = tmp_path / "bad.tsv"
    path.write_bytes(b"1\tgood\n" + line + b"\n0\tbad\n")
    with pytest.raises(ValueError, match="line 2: "):
        example.read_sentences(path)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.tsv.*label<TAB>text"):
        example.main(dataclasses.replace(CONFIG, data=tmp_path / "none.tsv"))
    with pytest.raises(ValueError, match="need 80 sentences, got 79"):
        example.split(sentences(79), CONFIG, 0)
    with pytest.raises(ValueError, match="`records` must divide"):
        example.main(dataclasses.replace(CONFIG, records=7))


def test_documentation_is_labeled_by_who_ships_it(monkeypatch):
    entries = [
        docs.Entry("scipy.stats", "f", ("A test.", "Shared words.")),
        docs.Entry("scipy.linalg", "g", ("A test.",)),
        docs.Entry("numpy", "h", ("An array.", "Shared words.")),
    ]
    monkeypatch.setattr(docs, "read_entries", lambda: entries)
    assert example.documentation() == [
        example.Sentence(1, ("a", "test.")),
        example.Sentence(0, ("an", "array.")),
    ]


@pytest.mark.slow
def test_the_documentation_is_enough():
    found = example.documentation()
    assert len(found) > 1024
    assert 0.3 < np.mean([sentence.label for sentence in found]) < 0.7


def test_the_polarity_dataset_is_read():
    path = SHARED / "sentence_polarity.tsv.gz"
    if not path.exists():
        pytest.skip("the sentence polarity dataset is not beside the repository")
    labels = [sentence.label for sentence in example.read_sentences(path)]
    assert (len(labels), sum(labels)) == (10_662, 5_331)
