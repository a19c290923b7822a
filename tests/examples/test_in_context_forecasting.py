import dataclasses

import _series as series
import in_context_forecasting as example
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkit import mesa

CONFIG = example.Config(data=("macrodata",), longest=12, epochs=4, block=2, grid=3)


@pytest.fixture(scope="module")
def measured():
    return example.main(CONFIG)


@pytest.mark.parametrize(
    ("name", "shape"), [("elnino", (1, 732)), ("macrodata", (8, 202))]
)
def test_series_are_standardized_by_their_training_part(name, shape):
    task = series.LOADERS[name]()
    assert task.values.shape == shape
    past = task.values[:, : task.train]
    np.testing.assert_allclose(past.mean(1), 0.0, atol=1e-12)
    np.testing.assert_allclose(past.std(1), 1.0, atol=1e-12)
    assert task.lags + task.longest < task.train < task.valid < task.end


def test_windows_hold_the_newest_value_first_and_a_constant():
    task = series.load_macrodata()._replace(contexts=(3, 6))
    windows = series.windows_before(task, task.valid, task.end)
    series_index, row, position = 2, 5, 4
    time = windows.start + row + position
    token = np.asarray(windows.tokens[series_index, row, position])
    expected = [*task.values[series_index, time - np.arange(4)], 1.0]
    np.testing.assert_allclose(token, expected, rtol=1e-6)


def test_forecasts_are_sorted_by_target_and_context():
    task = series.load_macrodata()._replace(contexts=(3, 6))
    first, stop = task.valid, task.end
    windows = series.windows_before(task, first, stop)
    meant = windows.start + np.arange(windows.tokens.shape[1])[:, None] + 2
    meant = np.broadcast_to(meant + np.arange(6), (8, windows.tokens.shape[1], 6))
    times = series.by_context(windows, meant, first, stop)
    expected = np.arange(first, stop)[:, None]
    np.testing.assert_array_equal(times, np.broadcast_to(expected, times.shape))
    assert times.shape[-1] == task.longest


@pytest.mark.parametrize("method", ["mesa", "delta", "layer", "refit", "fit_once"])
def test_a_forecast_depends_on_nothing_at_or_after_its_time(method):
    task = series.load_macrodata()._replace(contexts=(12,))
    changed = task.values.copy()
    cut = task.valid + 10
    changed[:, cut:] = 100.0

    def forecasts(task: series.Task) -> np.ndarray:
        first, stop = task.valid, cut + 1
        windows = series.windows_before(task, first, stop)
        params = mesa.init_diagonal(task.lags + 1, a=0.3, b=0.3)
        layers = {
            "mesa": lambda x: example.mesa_layer(x, jnp.float32(1.0)),
            "delta": lambda x: example.delta_layer(x, jnp.float32(0.5)),
            "layer": lambda x: example.one_step_layer(x, params),
        }
        if method == "refit":
            return series.refit(task, first, stop, context=12)
        if method == "fit_once":
            return series.fit_once(task, first, stop)
        out = series.by_context(windows, layers[method](windows.tokens), first, stop)
        return np.asarray(out[..., -1])

    before, after = forecasts(task), forecasts(task._replace(values=changed))
    np.testing.assert_array_equal(before, after)
    assert np.all(np.isfinite(before))


def test_the_mesa_layer_is_the_regression_solved_anew(measured):
    assert measured["macrodata/mesa against refit"] < 1e-4


def test_errors_of_the_baselines(measured):
    values = series.load_macrodata().values
    test = values[:, 4 * (1998 - 1959) - 1 :]
    previous = values[:, 4 * (1998 - 1959) - 2 : -1]
    mean = float(np.mean(test**2))
    np.testing.assert_allclose(measured["macrodata/training mean"], mean, rtol=1e-9)
    persistence = float(np.mean((test - previous) ** 2))
    np.testing.assert_allclose(
        measured["macrodata/persistence"], persistence, rtol=1e-9
    )


def test_the_chosen_ridge_beats_none(measured):
    ridge = measured["macrodata/mesa layer/12"]
    assert 0.0 < ridge < measured["macrodata/least squares/12"]
    assert all(np.isfinite(value) for value in measured.values())


def test_training_lowers_the_error_and_resumes_to_the_same_bits(tmp_path):
    task = series.load_macrodata()._replace(contexts=(12,))

    def train(epochs: int, **changes) -> mesa.LSAParams:
        config = dataclasses.replace(CONFIG, epochs=epochs, **changes)
        return example.train_layer(config, "run", task)

    whole = train(4)
    train(2, output=tmp_path)
    resumed = train(4, output=tmp_path, resume=True)
    np.testing.assert_array_equal(whole.kq, resumed.kq)
    np.testing.assert_array_equal(whole.pv, resumed.pv)
    tokens = series.windows_before(task, task.train, task.valid).tokens
    error = lambda params: float(
        jnp.mean((example.one_step_layer(tokens, params) - tokens[..., 2:, 0]) ** 2)
    )
    assert error(whole) < error(mesa.init_diagonal(5, a=0.2, b=0.2))


def test_standard_errors_come_from_blocks_of_time():
    values = np.repeat(np.array([1.0, 3.0]), 4).reshape(1, 8, 1)
    assert example.summarize(values, block=4) == [(2.0, 1.0)]
