"""Real series that ship with statsmodels, cut into windows of lag vectors."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from statsmodels.datasets import elnino, macrodata


class Task(NamedTuple):
    """Standardized series and how to forecast them.

    Attributes:
      values: float64, shape `[num_series, num_times]`.
      lags: how many past values a token holds.
      season: the period of the seasonal forecast, None for none.
      train: the first time of the validation part.
      valid: the first time of the test part.
      contexts: the numbers of pairs in context to report.
      block: times per block in the standard errors.
    """

    values: np.ndarray
    lags: int
    season: int | None
    train: int
    valid: int
    contexts: tuple[int, ...]
    block: int

    @property
    def longest(self) -> int:
        """The most pairs in context."""
        return self.contexts[-1]

    @property
    def end(self) -> int:
        """The time after the last value."""
        return self.values.shape[1]


def load_elnino() -> Task:
    """Loads monthly temperatures, cut into 1950-1989, 1990-1997 and 1998-2010."""
    table = elnino.load_pandas().data
    values = table.drop(columns="YEAR").to_numpy().reshape(1, -1)
    train, valid = 12 * (1990 - 1950), 12 * (1998 - 1950)
    values = standardize(values, train)
    return Task(values, 12, 12, train, valid, (3, 6, 12, 24, 48, 96), block=12)


def load_macrodata() -> Task:
    """Loads quarterly growth and changes, cut into 1959-1989, 1990-1997, 1998-2009."""
    table = macrodata.load_pandas().data
    growing = ("realgdp", "realcons", "realinv", "realdpi", "m1")
    rows = [100 * np.diff(np.log(table[name].to_numpy())) for name in growing]
    rows += [np.diff(table[name].to_numpy()) for name in ("unemp", "tbilrate")]
    rows += [table["infl"].to_numpy()[1:]]
    # The first difference belongs to the second quarter of 1959.
    train, valid = 4 * (1990 - 1959) - 1, 4 * (1998 - 1959) - 1
    values = standardize(np.stack(rows), train)
    return Task(values, 4, None, train, valid, (3, 6, 12, 24, 48), block=4)


LOADERS = {"elnino": load_elnino, "macrodata": load_macrodata}


def standardize(values: np.ndarray, train: int) -> np.ndarray:
    """Shifts and scales each series by mean and deviation of its training part."""
    past = values[:, :train]
    mean, deviation = past.mean(1, keepdims=True), past.std(1, keepdims=True)
    return (values - mean) / deviation


def lag_vectors(task: Task, times: np.ndarray) -> np.ndarray:
    """Gives the tokens at the given times: newest value first, a constant 1 last."""
    vectors = task.values[:, times[..., None] - np.arange(task.lags)]
    return np.concatenate([vectors, np.ones((*vectors.shape[:-1], 1))], axis=-1)


class Windows(NamedTuple):
    """Windows of consecutive tokens, one per first time.

    Attributes:
      tokens: shape `[num_series, num_starts, length, lags + 1]`.
      start: the time of the first token of the first window.
    """

    tokens: jax.Array
    start: int


def make_windows(task: Task, first: int, stop: int, length: int) -> Windows:
    """Cuts the windows whose first tokens lie at the times `first, ..., stop - 1`.

    Values past the end of the series are 0; no forecast of a real time sees them.
    """
    padding = max(stop + length - task.end, 0)
    padded = task._replace(values=np.pad(task.values, ((0, 0), (0, padding))))
    times = np.arange(first, stop)[:, None] + np.arange(length)
    return Windows(jnp.asarray(lag_vectors(padded, times), jnp.float32), first)


def windows_before(task: Task, first: int, stop: int) -> Windows:
    """Cuts all windows that forecast a time in `[first, stop)` from some context."""
    length = task.longest + 2
    return make_windows(task, first - length + 1, stop - 2, length)


def by_context(
    windows: Windows, forecasts: jax.Array, first: int, stop: int
) -> jax.Array:
    """Sorts forecasts by target, shape `[num_series, num_targets, num_contexts]`.

    Entry `j` of the forecasts of the window that starts at time `s` is made at its
    token `j + 1`, from `j + 1` pairs, for the time `s + j + 2`.
    """
    position = np.arange(forecasts.shape[-1])
    row = np.arange(first, stop)[:, None] - 2 - position - windows.start
    return forecasts[:, row, np.broadcast_to(position, row.shape)]


def targets(task: Task, first: int, stop: int) -> np.ndarray:
    """Gives the true values, shape `[num_series, num_targets, 1]`."""
    return task.values[:, first:stop, None].astype(np.float32)


def refit(
    task: Task, first: int, stop: int, *, context: int, ridge: float = 0.0
) -> np.ndarray:
    """Forecasts by a regression on the last `context` pairs, solved for each time.

    Plain NumPy in float64; with `ridge = 0` the shortest least-squares solution.
    """
    times = np.arange(first, stop)
    key_times = times[:, None] - 2 - np.arange(context)
    keys, query = lag_vectors(task, key_times), lag_vectors(task, times - 1)
    values = task.values[:, key_times + 1]
    gram = np.einsum("stnk,stnl->stkl", keys, keys) + ridge * np.eye(keys.shape[-1])
    moment = np.einsum("stnk,stn->stk", keys, values)
    if ridge:
        weights = np.linalg.solve(gram, moment[..., None])[..., 0]
    else:
        weights = np.einsum("stkn,stn->stk", np.linalg.pinv(keys, rcond=1e-8), values)
    return np.sum(weights * query, axis=-1)


def fit_once(task: Task, first: int, stop: int) -> np.ndarray:
    """Forecasts by one regression per series, fitted on the training part."""
    past, times = np.arange(task.lags, task.train), np.arange(first, stop)
    keys, query = lag_vectors(task, past - 1), lag_vectors(task, times - 1)
    weights = np.linalg.pinv(keys) @ task.values[:, past, None]
    return (query @ weights)[..., 0]
