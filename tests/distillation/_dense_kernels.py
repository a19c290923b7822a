"""Infinite networks once more: loops over pixels in NumPy, no shortcuts."""

import itertools

import numpy as np

__all__ = ["conv_by_loops", "relu_pair"]


def relu_pair(k: float, theta: float, kx: float, ky: float) -> tuple[float, float]:
    """One entry behind a ReLU, by the two arc-cosine formulas."""
    size = np.sqrt(kx * ky)
    c = np.clip(k / size, -1.0, 1.0)
    angle = np.arccos(c)
    value = size / (2 * np.pi) * (np.sin(angle) + (np.pi - angle) * c)
    return value, theta * (np.pi - angle) / (2 * np.pi)


def conv_by_loops(
    x: np.ndarray, y: np.ndarray, layers: tuple[str, ...], w: float, b: float
) -> tuple[float, float]:
    """Both kernels of one pair of images, with all pairs of pixels kept."""
    images = {"x": x, "y": y}
    k = {
        p + q: np.einsum("hwc,uvc->hwuv", images[p], images[q]) / x.shape[-1]
        for p, q in ("xx", "xy", "yy")
    }
    theta = np.zeros_like(k["xy"])
    for layer in layers:
        if layer == "relu":
            k, theta = _relu(k, theta)
            continue
        move = {
            "conv": _patches,
            "avg_pool": _pool,
            "flatten": lambda a: np.einsum("hwhw->", a) / np.sqrt(a.size),
            "global_avg_pool": np.mean,
            "dense": lambda a: a,
        }[layer]
        k, theta = {name: move(a) for name, a in k.items()}, move(theta)
        if layer in ("conv", "dense"):
            k = {name: w * a + b for name, a in k.items()}
            theta = k["xy"] + w * theta
    return float(k["xy"]), float(theta)


def _relu(k: dict, theta: np.ndarray) -> tuple[dict, np.ndarray]:
    shape = np.shape(theta)
    half = shape[: len(shape) // 2]
    out = {name: np.zeros(shape) for name in k}
    new_theta = np.zeros(shape)
    pixels = list(itertools.product(*(range(size) for size in half)))
    for u, v in itertools.product(pixels, pixels):
        for name in k:
            kx, ky = k[name[0] * 2][u + u], k[name[1] * 2][v + v]
            value, slope = relu_pair(k[name][u + v], theta[u + v], kx, ky)
            out[name][u + v] = value
            if name == "xy":
                new_theta[u + v] = slope
    return out, new_theta


def _patches(a: np.ndarray) -> np.ndarray:
    height, width = a.shape[:2]
    out = np.zeros_like(a)
    for h, w, u, v in itertools.product(*(range(size) for size in a.shape)):
        for i, j in itertools.product((-1, 0, 1), (-1, 0, 1)):
            inside = 0 <= h + i < height and 0 <= w + j < width
            if inside and 0 <= u + i < height and 0 <= v + j < width:
                out[h, w, u, v] += a[h + i, w + j, u + i, v + j] / 9
    return out


def _pool(a: np.ndarray) -> np.ndarray:
    sizes = [size // 2 for size in a.shape]
    out = np.zeros(sizes)
    for index in itertools.product(*(range(size) for size in sizes)):
        block = tuple(slice(2 * i, 2 * i + 2) for i in index)
        out[index] = a[block].mean()
    return out
