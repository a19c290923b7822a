import dataclasses
import json

import _hypersphere_data as data
import _hypersphere_training as training
import hypersphere_noisy_labels as example
import jax
import jax.numpy as jnp
import numpy as np
import pytest


def small_file(folder, **changes):
    """Writes 4 classes of 5 plain images in two alphabets, each class a bright row."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 5).astype(np.int16)
    images = rng.integers(0, 4, (20, 8, 8)).astype(np.uint8)
    images[np.arange(20), 2 * labels] = 16
    content = {
        "images": images,
        "labels": labels,
        "class_alphabet": np.array([0, 1, 0, 1], np.int8),
        "alphabet_names": np.array(["Upper", "Lower"]),
        "oneshot_train": images[None, ::5],
        "oneshot_test": images[None, [6, 1, 16, 11]],
        "oneshot_answer": np.array([[1, 0, 3, 2]], np.int8),
    } | changes
    path = folder / "characters.npz"
    np.savez(path, **content)
    return path


@pytest.fixture
def config(tmp_path):
    return example.Config(
        data=small_file(tmp_path),
        held_out=("Lower",),
        losses=("sface_soft",),
        epochs=4,
        block=3,
        features=4,
        batch_size=8,
        output=tmp_path / "out",
    )


def test_held_out_alphabets_are_not_trained_on(tmp_path):
    images = data.load_images(small_file(tmp_path), ("Lower",))
    assert images.num_classes == 2
    np.testing.assert_array_equal(np.bincount(images.labels), [5, 5])
    np.testing.assert_array_equal(np.bincount(images.test_labels), [5, 5])
    assert images.train.shape == (10, 8, 8, 1)
    assert images.train.max() == 1.0
    assert np.all(images.test[:5, 2] == 1.0)
    assert np.all(images.test[5:, 6] == 1.0)
    runs = images.one_shot
    assert runs.tests.shape == runs.examples.shape
    assert runs.answers.shape == runs.examples.shape[:2]


def test_bad_files_are_refused_with_a_reason(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`data` must name.*nowhere\.npz"):
        data.load_images(tmp_path / "nowhere.npz", ())
    with pytest.raises(ValueError, match=r"`held_out` must name some of Upper, Lower"):
        data.load_images(small_file(tmp_path), ("Greek",))
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    with pytest.raises(ValueError, match="lacks the arrays alphabet_names"):
        data.load_images(tmp_path / "other.npz", ())


def test_an_unknown_loss_is_named():
    with pytest.raises(ValueError, match="got circle"):
        example.main(example.Config(losses=("circle",)))


def test_an_epoch_shows_each_image_once_and_moves_it():
    labels = jnp.arange(8)
    images = jnp.zeros((8, 6, 6, 1)).at[jnp.arange(8), 3, 3, 0].set(labels + 1.0)
    task = training.Task(images, labels, jnp.asarray(0))
    recipe = training.Recipe(2, 4, 4, 0.1, 0.0)
    batch = jax.jit(lambda step: training._batch(task, recipe, step))
    seen = [batch(jnp.asarray(step)) for step in range(4)]
    for first, second in (seen[:2], seen[2:]):
        both = np.concatenate([first[1], second[1]])
        assert sorted(both.tolist()) == list(range(8))
    places = set()
    for moved, numbers in seen:
        totals = np.asarray(jnp.sum(moved, axis=(1, 2, 3)))
        np.testing.assert_array_equal(totals, np.asarray(numbers) + 1.0)
        places |= {tuple(np.argwhere(x[..., 0])[0]) for x in np.asarray(moved)}
    assert len(places) > 4
    assert all(1 <= row <= 5 and 1 <= column <= 5 for row, column in places)


@pytest.mark.slow
def test_tables_scores_files_and_resuming(config, capsys):
    measured = example.main(config)
    record = json.loads((config.output / "hypersphere_noisy_labels.json").read_text())
    assert record["results"] == measured
    assert (config.output / "hypersphere_noisy_labels.png").exists()
    text = capsys.readouterr().out
    assert "40 % wrong labels" in text
    assert "SFace k=10" in text
    for column in example.COLUMNS:
        assert 0.0 <= measured[f"0.4/sface_soft/{column}/seed 1"] <= 1.0

    folder = config.output / "checkpoints" / "noisy_labels_sface_soft_0.4_1"
    assert {path.name for path in folder.iterdir()} == {"3", "4", "settings.json"}
    (folder / "4").rename(config.output / "4")
    kept = (folder / "3").stat().st_mtime_ns
    assert example.main(dataclasses.replace(config, resume=True)) == measured
    assert (folder / "3").stat().st_mtime_ns == kept


@pytest.mark.experiment
def test_soft_gates_verify_strangers_better_after_wrong_labels():
    if not data.BESIDE.is_file():
        pytest.skip("the file of Omniglot is not beside the repository")
    losses = ("sface_soft", "arcface_64", "softmax")
    measured = example.main(example.Config(losses=losses, num_seeds=3))
    tar = {
        name: np.mean([measured[f"0.4/{name}/TAR/seed {seed}"] for seed in (1, 2, 3)])
        for name in losses
    }
    assert tar["sface_soft"] >= tar["arcface_64"] + 0.05
    assert tar["sface_soft"] >= tar["softmax"] + 0.03
