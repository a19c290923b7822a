"""Functions of jaxkit.preference that take a model, which no row can sample."""

from tests.contracts._contract import Contract

__all__ = ["ELSEWHERE", "ROWS"]

ROWS: dict[str, Contract] = {}
ELSEWHERE = {
    "HiddenFn": "a protocol: tests/preference/test_adapter.py",
    "SampledTokens": "a container: tests/preference/test_sampling.py",
    "answer_log_probs": "takes a callable: tests/preference/test_adapter.py",
    "answer_token_log_probs": "takes a callable: tests/preference/test_adapter.py",
    "pair_log_probs": "takes a callable: tests/preference/test_adapter.py",
    "precompute_ref_logps": "takes a callable: tests/preference/test_adapter.py",
    "sample_tokens": "takes a callable: tests/preference/test_sampling.py",
}
