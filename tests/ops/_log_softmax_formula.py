"""Log-probabilities, statistics and gradients of tokens, in NumPy and by the book."""

from typing import NamedTuple

import numpy as np

__all__ = ["Head", "draw", "gradients", "log_probs", "probabilities"]


class Head(NamedTuple):
    """Inputs of a linear head; `weight` counts the vocabulary along axis 0."""

    hidden: np.ndarray
    weight: np.ndarray
    labels: np.ndarray
    bias: np.ndarray
    temperature: float = 1.3
    logit_softcap: float = 4.0


def draw(*, tokens: int = 13, features: int = 5, vocabulary: int = 23) -> Head:
    rng = np.random.default_rng(3)
    return Head(
        hidden=rng.standard_normal((tokens, features)),
        weight=rng.standard_normal((vocabulary, features)),
        labels=rng.integers(0, vocabulary, tokens),
        bias=rng.standard_normal(vocabulary),
    )


def probabilities(x: Head) -> tuple[np.ndarray, np.ndarray]:
    """The softmax, and the slope of the logits in the product before the cap."""
    bent = np.tanh((x.hidden @ x.weight.T + x.bias) / x.logit_softcap)
    logits = x.logit_softcap * bent / x.temperature
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True), (1 - bent**2) / x.temperature


def log_probs(x: Head, mask: np.ndarray) -> np.ndarray:
    probs, _ = probabilities(x)
    rows = np.arange(len(x.labels))
    return np.where(mask, np.log(probs[rows, np.where(mask, x.labels, 0)]), 0.0)


def gradients(x: Head, mask: np.ndarray, cotangent: np.ndarray) -> list[np.ndarray]:
    """Those in the hidden states, the weight and the bias."""
    probs, slope = probabilities(x)
    hit = np.eye(x.weight.shape[0])[np.where(mask, x.labels, 0)]
    inner = np.where(mask, cotangent, 0.0)[:, None] * (hit - probs) * slope
    return [inner @ x.weight, inner.T @ x.hidden, inner.sum(0)]
