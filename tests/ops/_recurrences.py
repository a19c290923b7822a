"""Recurrences in plain NumPy, one token at a time, as oracles."""

import numpy as np

__all__ = ["complex_normal", "delta", "linear", "mesa", "unit"]


def complex_normal(rng, *shape):
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _forget(state, t, log_decay, ids):
    if ids is not None and t and ids[t] != ids[t - 1]:
        state = np.zeros_like(state)
    if log_decay is None:
        return state
    rate = log_decay[t] if log_decay.ndim == 3 else log_decay[t][:, None]
    return np.exp(rate)[:, :, None] * state


def linear(q, k, v, log_decay=None, state=None, ids=None):
    """Linear attention on [T, H, F] arrays: outputs and last state."""
    _, heads, features = k.shape
    if state is None:
        state = np.zeros((heads, features, v.shape[-1]), np.result_type(q, k, v))
    out = []
    for t in range(len(q)):
        state = _forget(state, t, log_decay, ids)
        state = state + np.einsum("hk,hv->hkv", k[t].conj(), v[t])
        out.append(np.einsum("hk,hkv->hv", q[t], state))
    return np.stack(out), state


def delta(q, k, v, beta, log_decay=None, state=None, ids=None):
    """The delta rule on [T, H, F] arrays: outputs and last state."""
    _, heads, features = k.shape
    if state is None:
        state = np.zeros((heads, features, v.shape[-1]), np.result_type(q, k, v))
    out = []
    for t in range(len(q)):
        state = _forget(state, t, log_decay, ids)
        error = v[t] - np.einsum("hk,hkv->hv", k[t], state)
        write = np.einsum("h,hk,hv->hkv", beta[t], k[t].conj(), error)
        state = state + write
        out.append(np.einsum("hk,hkv->hv", q[t], state))
    return np.stack(out), state


def mesa(q, k, v, ridge, log_decay=None, beta=None, state=None):
    """Ridge regression at each token by a direct solve: outputs, Gram, key-value."""
    _, heads, features = k.shape
    gram = np.zeros((heads, features, features), np.result_type(q, k, v))
    key_value = np.zeros((heads, features, v.shape[-1]), gram.dtype)
    if state is not None:
        gram, key_value = state
    ridge = np.broadcast_to(ridge, (heads, features))
    out = []
    for t in range(len(q)):
        rate = np.ones(heads) if log_decay is None else np.exp(log_decay[t])
        weight = np.ones(heads) if beta is None else beta[t]
        gram = rate[:, None, None] * gram
        gram = gram + np.einsum("h,ha,hb->hab", weight, k[t], k[t].conj())
        key_value = rate[:, None, None] * key_value
        key_value = key_value + np.einsum("h,hk,hv->hkv", weight, k[t].conj(), v[t])
        system = gram + np.stack([np.diag(r) for r in ridge])
        x = np.linalg.solve(system, q[t][..., None])[..., 0]
        out.append(np.einsum("hk,hkv->hv", x, key_value))
    return np.stack(out), gram, key_value
