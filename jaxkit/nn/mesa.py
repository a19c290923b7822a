"""Attention layers of the mesa-optimization system."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from flax.typing import PrecisionLike

from jaxkit import mesa, ops
from jaxkit._core import checks
from jaxkit.typing import DTypeLike

__all__ = ["CausalLinearAttention", "LinearSelfAttention", "MesaLayer"]

Initializer: TypeAlias = jax.nn.initializers.Initializer
FeatureMap: TypeAlias = Callable[[jax.Array], jax.Array]

_default_init = nnx.initializers.lecun_normal()


class LinearSelfAttention(nnx.Module):
    r"""The one-layer linear self-attention model of the mesa-optimization theory.

    .. math:: \hat y_t = P \, \frac{E_t E_t^*}{t - 1} \, Q \, e_t,
       \qquad e_t = (x_t, x_{t-1})

    A wrapper of :func:`jaxkit.mesa.lsa_predict`: ``kq`` is :math:`Q`, ``pv`` is
    :math:`P`. The parameters are real, as in the theory; the data are complex.

    Args:
      dim: token dimension ``d``.
      initial: ``"diagonal"`` (``a`` and ``b`` times the identity in the two blocks
        that learn) or ``"normal"`` (all entries normal).
      a: diagonal of the key-query block, for ``"diagonal"``.
      b: diagonal of the value block, for ``"diagonal"``.
      stddev: standard deviation of the entries, for ``"normal"``.
      implementation: form of the attention, see
        :func:`jaxkit.ops.linear_attention`.
      param_dtype: dtype of the parameters.
      precision: precision of the matrix products.
      rngs: the random streams of Flax; ``"normal"`` draws from ``params``.

    Raises:
      ValueError: if ``dim`` is less than 1 or ``initial`` is unknown.

    Examples:
      >>> import jax
      >>> from flax import nnx
      >>> import jaxkit
      >>> layer = jaxkit.nn.LinearSelfAttention(5, a=0.3, b=0.2, rngs=nnx.Rngs(0))
      >>> x = jaxkit.mesa.sample_ar_sequences(
      ...     jax.random.key(0), batch_shape=(2,), length=10, dim=5
      ... )
      >>> layer(x).shape
      (2, 8, 5)

    References:
      Zheng et al., *On Mesa-Optimization in Autoregressively Trained Transformers*,
      NeurIPS 2024, section 3.
    """

    def __init__(
        self,
        dim: int,
        *,
        initial: str = "diagonal",
        a: float = 0.1,
        b: float = 0.1,
        stddev: float = 0.01,
        implementation: str = "auto",
        param_dtype: DTypeLike = jnp.float32,
        precision: PrecisionLike = None,
        rngs: nnx.Rngs,
    ):
        checks.one_of("initial", initial, ("diagonal", "normal"))
        if initial == "diagonal":
            params = mesa.init_diagonal(dim, a=a, b=b, dtype=param_dtype)
        else:
            params = mesa.init_gaussian(
                rngs.params(), dim, stddev=stddev, dtype=param_dtype
            )
        self.kq = nnx.Param(params.kq)
        self.pv = nnx.Param(params.pv)
        self.implementation = implementation
        self.precision = precision

    @property
    def params(self) -> mesa.LSAParams:
        """The parameters in the form that the functions of the theory take."""
        return mesa.LSAParams(kq=self.kq[...], pv=self.pv[...])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Predicts the tokens 3..T of sequences ``[..., T, d]``: ``[..., T-2, d]``."""
        return mesa.lsa_predict(
            self.params,
            x,
            implementation=self.implementation,
            precision=self.precision,
        )


class _Projections(nnx.Module):
    """Query, key, value and output maps of a layer with several heads."""

    def __init__(
        self,
        in_features: int,
        *,
        num_heads: int,
        key_features: int | None,
        value_features: int | None,
        out_features: int | None,
        dtype: DTypeLike | None,
        param_dtype: DTypeLike,
        precision: PrecisionLike,
        kernel_init: Initializer,
        rngs: nnx.Rngs,
    ):
        checks.at_least("in_features", in_features, 1)
        checks.at_least("num_heads", num_heads, 1)
        needs_split = key_features is None or value_features is None
        if needs_split and in_features % num_heads:
            raise ValueError(
                f"`in_features` must be a multiple of `num_heads` when the features "
                f"per head are not given, got {in_features} and {num_heads}."
            )
        self.num_heads = num_heads
        self.key_features = key_features or in_features // num_heads
        self.value_features = value_features or in_features // num_heads

        def linear(inputs: int, outputs: int) -> nnx.Linear:
            return nnx.Linear(
                inputs,
                outputs,
                use_bias=False,
                dtype=dtype,
                param_dtype=param_dtype,
                precision=precision,
                kernel_init=kernel_init,
                rngs=rngs,
            )

        self.query = linear(in_features, num_heads * self.key_features)
        self.key = linear(in_features, num_heads * self.key_features)
        self.value = linear(in_features, num_heads * self.value_features)
        self.out = linear(num_heads * self.value_features, out_features or in_features)

    def split(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Projects ``[..., in_features]`` to ``[..., num_heads, features]`` thrice."""
        heads = lambda y: y.reshape(*y.shape[:-1], self.num_heads, -1)
        return heads(self.query(x)), heads(self.key(x)), heads(self.value(x))

    def join(self, x: jax.Array) -> jax.Array:
        """Projects ``[..., num_heads, value_features]`` to the output."""
        return self.out(x.reshape(*x.shape[:-2], -1))


class _Gate(nnx.Module):
    """A sigmoid gate per head."""

    def __init__(
        self,
        in_features: int,
        num_heads: int,
        *,
        dtype: DTypeLike | None,
        param_dtype: DTypeLike,
        bias: float,
        rngs: nnx.Rngs,
    ):
        self.linear = nnx.Linear(
            in_features,
            num_heads,
            dtype=dtype,
            param_dtype=param_dtype,
            kernel_init=_default_init,
            bias_init=nnx.initializers.constant(bias),
            rngs=rngs,
        )

    def logits(self, x: jax.Array) -> jax.Array:
        return self.linear(x)


class CausalLinearAttention(nnx.Module):
    r"""Causal linear attention with several heads, for training and decoding.

    .. math:: o_t = W_O \, [\phi(q_t)^\top S_t], \qquad
       S_t = \gamma_t S_{t-1} + \phi(k_t) v_t^\top

    A wrapper of :func:`jaxkit.ops.linear_attention`.

    Args:
      in_features: features of the input.
      num_heads: number of heads.
      key_features: features of a key per head; None splits ``in_features``.
      value_features: features of a value per head; None splits ``in_features``.
      out_features: features of the output; None means ``in_features``.
      feature_map: applied to queries and keys, e.g. :func:`jax.nn.relu` or
        ``lambda x: jax.nn.elu(x) + 1``; None means the identity.
      gated: whether each head forgets by a learned factor in (0, 1) that depends on
        the token.
      scale: multiplies the queries. **1.0 here**, where softmax attention and most
        linear attention libraries take ``key_features ** -0.5``.
      normalize: None, ``"position"`` or ``"key_sum"``, see
        :func:`jaxkit.ops.linear_attention`.
      chunk_size: tokens per chunk.
      implementation: form of the attention.
      dtype: dtype of the computation; None takes that of the input and parameters.
      param_dtype: dtype of the parameters.
      precision: precision of the matrix products.
      kernel_init: initializer of the projections.
      rngs: the random streams of Flax.

    Raises:
      ValueError: if a size is less than 1 or the heads do not divide the features.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> import jaxkit
      >>> layer = jaxkit.nn.CausalLinearAttention(8, num_heads=2, rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((3, 16, 8))).shape
      (3, 16, 8)
      >>> state = layer.init_state((3,))
      >>> y, state = layer.decode(state, jnp.ones((3, 8)))
      >>> y.shape
      (3, 8)

    References:
      Katharopoulos et al., *Transformers are RNNs*, ICML 2020.
      Yang et al., *Gated Linear Attention Transformers*, ICML 2024 (the gate).
    """

    def __init__(
        self,
        in_features: int,
        *,
        num_heads: int,
        key_features: int | None = None,
        value_features: int | None = None,
        out_features: int | None = None,
        feature_map: FeatureMap | None = None,
        gated: bool = False,
        scale: float = 1.0,
        normalize: str | None = None,
        chunk_size: int = 64,
        implementation: str = "auto",
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer = _default_init,
        rngs: nnx.Rngs,
    ):
        self.projections = _Projections(
            in_features,
            num_heads=num_heads,
            key_features=key_features,
            value_features=value_features,
            out_features=out_features,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            kernel_init=kernel_init,
            rngs=rngs,
        )
        # A bias of 4 starts near sigmoid(4) = 0.98: a memory of about 50 tokens.
        self.gate = (
            _Gate(
                in_features,
                num_heads,
                dtype=dtype,
                param_dtype=param_dtype,
                bias=4.0,
                rngs=rngs,
            )
            if gated
            else None
        )
        self.feature_map = feature_map
        self.scale = scale
        self.normalize = normalize
        self.chunk_size = chunk_size
        self.implementation = implementation
        self.precision = precision

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[..., T, in_features]`` to ``[..., T, out_features]``."""
        query, key, value, log_decay = self._inputs(x)
        out = ops.linear_attention(
            query,
            key,
            value,
            log_decay=log_decay,
            scale=self.scale,
            normalize=self.normalize,
            chunk_size=self.chunk_size,
            implementation=self.implementation,
            precision=self.precision,
        )
        return self.projections.join(out)

    def init_state(
        self, batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike = jnp.float32
    ) -> jax.Array:
        """Makes the empty state, ``[*batch_shape, heads, key, value features]``."""
        p = self.projections
        return jnp.zeros(
            (*batch_shape, p.num_heads, p.key_features, p.value_features), dtype
        )

    def decode(self, state: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps one token ``[..., in_features]`` and returns the next state.

        Raises:
          ValueError: if the layer normalizes, which needs more than the state.
        """
        if self.normalize is not None:
            raise ValueError(
                f"`decode` needs `normalize=None`, got {self.normalize!r}."
            )
        query, key, value, log_decay = self._inputs(x)
        out, state = ops.linear_attention_step(
            state,
            query,
            key,
            value,
            log_decay=log_decay,
            scale=self.scale,
            precision=self.precision,
        )
        return self.projections.join(out), state

    def _inputs(
        self, x: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
        query, key, value = self.projections.split(x)
        if self.feature_map is not None:
            query, key = self.feature_map(query), self.feature_map(key)
        if self.gate is None:
            return query, key, value, None
        return query, key, value, jax.nn.log_sigmoid(self.gate.logits(x))


class MesaLayer(nnx.Module):
    r"""The mesa layer: every token solves a ridge regression on its context.

    .. math:: o_t = W_O \, N_t^\top (H_t + \Lambda)^{-1} q_t, \qquad
       H_t = \gamma_t H_{t-1} + \beta_t k_t k_t^\top, \quad
       N_t = \gamma_t N_{t-1} + \beta_t k_t v_t^\top

    A wrapper of :func:`jaxkit.ops.mesa_attention`. The ridge :math:`\Lambda` is
    learned per head and key channel, through its logarithm.

    Args:
      in_features: features of the input.
      num_heads: number of heads.
      key_features: features of a key per head; None splits ``in_features``.
      value_features: features of a value per head; None splits ``in_features``.
      out_features: features of the output; None means ``in_features``.
      gated: whether each head has learned forget and input gates per token; needs a
        ``solver`` other than ``"rls"``.
      ridge: the start of the ridge, positive.
      scale: multiplies the queries.
      solver: ``"rls"``, ``"solve"`` or ``"cg"``, see
        :func:`jaxkit.ops.mesa_attention`.
      chunk_size: tokens per chunk.
      dtype: dtype of the computation; None takes that of the input and parameters.
      param_dtype: dtype of the parameters.
      precision: precision of the projections; solves are always at full precision.
      kernel_init: initializer of the projections.
      rngs: the random streams of Flax.

    Raises:
      ValueError: if a size is less than 1, the heads do not divide the features, the
        ridge is not positive, or gates are asked of ``"rls"``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> import jaxkit
      >>> layer = jaxkit.nn.MesaLayer(8, num_heads=2, rngs=nnx.Rngs(0))
      >>> layer(jnp.ones((3, 16, 8))).shape
      (3, 16, 8)

    References:
      von Oswald et al., *Uncovering mesa-optimization algorithms in Transformers*,
      2023; von Oswald et al., *MesaNet*, 2025.
    """

    def __init__(
        self,
        in_features: int,
        *,
        num_heads: int,
        key_features: int | None = None,
        value_features: int | None = None,
        out_features: int | None = None,
        gated: bool = False,
        ridge: float = 1.0,
        scale: float = 1.0,
        solver: str = "solve",
        chunk_size: int = 64,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        precision: PrecisionLike = None,
        kernel_init: Initializer = _default_init,
        rngs: nnx.Rngs,
    ):
        checks.one_of("solver", solver, ("rls", "solve", "cg"))
        if gated and solver == "rls":
            raise ValueError("`gated=True` needs `solver` 'solve' or 'cg', got 'rls'.")
        if not ridge > 0:
            raise ValueError(f"`ridge` must be positive, got {ridge}.")
        self.projections = _Projections(
            in_features,
            num_heads=num_heads,
            key_features=key_features,
            value_features=value_features,
            out_features=out_features,
            dtype=dtype,
            param_dtype=param_dtype,
            precision=precision,
            kernel_init=kernel_init,
            rngs=rngs,
        )
        gate = lambda bias: _Gate(
            in_features,
            num_heads,
            dtype=dtype,
            param_dtype=param_dtype,
            bias=bias,
            rngs=rngs,
        )
        self.forget_gate = gate(4.0) if gated else None
        self.input_gate = gate(0.0) if gated else None
        log_ridge = jnp.log(jnp.asarray(ridge, param_dtype))
        shape = (num_heads, self.projections.key_features)
        self.log_ridge = nnx.Param(jnp.broadcast_to(log_ridge, shape))
        self.scale = scale
        self.solver = solver
        self.chunk_size = chunk_size

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[..., T, in_features]`` to ``[..., T, out_features]``."""
        query, key, value, options = self._inputs(x)
        return self.projections.join(ops.mesa_attention(query, key, value, **options))

    def init_state(
        self, batch_shape: tuple[int, ...] = (), *, dtype: DTypeLike = jnp.float32
    ) -> ops.MesaState:
        """Makes the empty state."""
        p = self.projections
        heads = (*batch_shape, p.num_heads, p.key_features)
        return ops.MesaState(
            key_gram=jnp.zeros((*heads, p.key_features), dtype),
            key_value=jnp.zeros((*heads, p.value_features), dtype),
        )

    def decode(
        self, state: ops.MesaState, x: jax.Array
    ) -> tuple[jax.Array, ops.MesaState]:
        """Maps one token ``[..., in_features]`` and returns the next state."""
        query, key, value, options = self._inputs(x[..., None, :])
        out, state = ops.mesa_attention(
            query, key, value, initial_state=state, return_state=True, **options
        )
        return self.projections.join(out[..., 0, :, :]), state

    def _inputs(
        self, x: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array, dict[str, Any]]:
        query, key, value = self.projections.split(x)
        log_decay = beta = None
        if self.forget_gate is not None and self.input_gate is not None:
            log_decay = jax.nn.log_sigmoid(self.forget_gate.logits(x))
            beta = jax.nn.sigmoid(self.input_gate.logits(x))
        options = {
            "ridge": jnp.exp(self.log_ridge[...]),
            "log_decay": log_decay,
            "beta": beta,
            "scale": self.scale,
            "solver": self.solver,
            "chunk_size": self.chunk_size,
        }
        return query, key, value, options
