import dataclasses
import shutil

import _distillation_lab as lab_
import distillation_compression as compression
import distillation_krr_st as example
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _common import preset
from _distillation_data import Data

SMALL = {
    "dataset": "stand-in",
    "count": 64,
    "size": 8,
    "teacher_widths": (4,),
    "widths": (4,),
    "outputs": 6,
    "projector": (8, 8),
    "teacher_steps": 4,
    "teacher_batch": 16,
    "num_models": 2,
    "inner_steps": 3,
    "num_steps": 4,
    "batch_size": 16,
    "pretrain_steps": 2,
    "num_seeds": 1,
    "num_evaluations": 1,
    "block": 2,
}
TINY = example.Config(
    **SMALL,
    num_synthetic=5,
    methods=("random", "KRR-ST from k-means"),
    labels_per_class=1,
    finetune_steps=2,
)


def numbers(measured: dict[str, float]) -> dict[str, float]:
    return {k: v for k, v in measured.items() if not k.startswith("CPU")}


@pytest.mark.slow
def test_a_resumed_run_gives_the_same_numbers(tmp_path, capsys):
    config = dataclasses.replace(TINY, output=tmp_path)
    whole = example.main(config)
    # The distillation is taken up in its middle.
    shutil.rmtree(tmp_path / "checkpoints" / "KRR-ST from k-means_5_0" / "4")
    resumed = example.main(dataclasses.replace(config, resume=True))
    assert numbers(resumed) == numbers(whole)
    assert whole["random/head"] > 0.0
    assert 0.0 <= whole["no pre-training/probe"] <= 1.0
    text = capsys.readouterr().out
    for name in (*TINY.methods, example.FRESH, example.FULL):
        assert name in text
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "checkpoints",
        "distillation_krr_st.json",
        "distillation_krr_st.png",
        "distillation_krr_st_images.png",
        "distilled_krr_st_from_k_means.npz",
        "distilled_random.npz",
    }


def test_unknown_methods_are_refused():
    with pytest.raises(ValueError, match=r"KRR-ST from random.*got 'krr'"):
        example.main(dataclasses.replace(TINY, methods=("krr",)))


def shaped(size: int, channels: int, count: int = 50_000) -> Data:
    image = jax.ShapeDtypeStruct((count, size, size, channels), jnp.float32)
    none = jnp.zeros(0)
    return Data(image, none, image, none, none, none, 255.0, 10, True)


def test_operations_of_the_paper_size_are_those_counted_by_hand():
    config = preset(example.Config, "paper")
    data = shaped(32, 3)
    student = 9 * (3 * 128 * 32**2 + 128 * 256 * 16**2 + 256 * 512 * 8**2)
    assert lab_._multiply_adds(config.widths, data) == student
    step = lab_.operations(config, data, 1000)
    # 3.2 TFLOP: 1,024 real and 1,000 synthetic images, the latter five times.
    assert 3.0e12 < step < 3.5e12


def test_a_large_run_says_how_long_it_takes_and_refuses_a_cpu(capsys):
    config = preset(example.Config, "paper", num_seeds=1)
    with pytest.raises(SystemExit, match="--force"):
        lab_.announce(config, shaped(32, 3))
    text = capsys.readouterr().out
    assert "TFLOP a step" in text
    assert "hours" in text
    lab_.announce(dataclasses.replace(config, force=True), shaped(32, 3))
    assert "hours" in capsys.readouterr().out


def test_a_small_run_says_nothing(capsys):
    lab_.announce(TINY, shaped(8, 1))
    assert capsys.readouterr().out == ""


def test_compression_is_where_the_random_curve_crosses():
    curve = {n: np.array([1.0 / n]) for n in (10, 20, 40)}
    assert compression.worth(curve, 1 / 20) == (pytest.approx(20.0), True)
    assert compression.worth(curve, 1 / 30) == (pytest.approx(30.0), True)
    assert compression.worth(curve, 1 / 50) == (40.0, False)
    # A larger set that happens to be worse does not turn the curve back.
    noisy = curve | {20: np.array([0.2])}
    assert compression.worth(noisy, 0.05) == (pytest.approx(800**0.5), True)


def test_compression_is_reported(tmp_path, capsys):
    config = compression.Config(**SMALL, sizes=(5, 10), more_sizes=(20,))
    half = lambda values: {n: np.full(2, v) for n, v in values.items()}
    errors = {
        "random": half({5: 0.4, 10: 0.3, 20: 0.2}),
        "k-means, teacher": half({5: 0.3, 10: 0.25}),
        "KRR-ST from k-means": half({5: 0.3, 10: 0.1}),
    }
    measured = compression.report(config, errors, 0.05, 64)
    assert measured["KRR-ST from k-means/5/worth"] == pytest.approx(10.0)
    assert measured["KRR-ST from k-means/10/reached"] == 0.0
    assert "over 20" in capsys.readouterr().out
    figure = compression.draw(errors, 0.05)
    compression.common.save_figure(
        dataclasses.replace(config, output=tmp_path), "x", figure
    )
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_compression_runs():
    config = compression.Config(**SMALL, sizes=(5, 100), more_sizes=(8, 100))
    measured = compression.main(config)
    assert set(measured) >= {"random/8/error", "KRR-ST from k-means/5/worth"}
    assert "random/100/error" not in measured


@pytest.mark.experiment
def test_errors_on_digits_of_three_seeds():
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    config = example.Config(labels_per_class=0, full=False)
    measured = example.main(config)
    distilled = measured["KRR-ST from k-means/head"]
    assert distilled <= 0.55 * measured["random/head"]
    assert distilled <= 0.75 * measured["k-means, teacher/head"]
    assert distilled <= 0.75 * measured["k-means, pixels/head"]
