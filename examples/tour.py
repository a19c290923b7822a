"""Runs the headline experiment of every system and checks each claim.

Prints one row per claim: what the paper or the exact theory says, what was measured
here, and whether they agree within the stated tolerance. With --output it also writes
one HTML page with the table and the figures in it. The exit code is 1 if a claim
fails.

Command: python examples/tour.py --output outputs/tour
Time: under two minutes on two busy CPU cores, compilation included.
"""

import dataclasses
import time
from collections.abc import Callable

import _claims as claims_
import _common as common
import _tour_dag
import _tour_distillation
import _tour_entanglement
import _tour_hypersphere
import _tour_mesa
import _tour_preference
import jax
from _claims import Claim, Picture

import jaxkit

SYSTEMS: dict[str, Callable[["Config"], tuple[list[Claim], list[Picture]]]] = {
    "mesa": _tour_mesa.run,
    "preference": _tour_preference.run,
    "entanglement": _tour_entanglement.run,
    "hypersphere": _tour_hypersphere.run,
    "distillation": _tour_distillation.run,
    "dag": _tour_dag.run,
}
"""What each system contributes; later ones add a line."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(common.TrainConfig):
    """The options."""

    systems: tuple[str, ...] = common.option(tuple(SYSTEMS), "which systems to run")
    count: int = common.option(512, "sequences of a sampled run", paper=10_000)
    length: int = common.option(24, "their length", paper=100)
    epochs: int = common.option(201, "the most epochs of a sampled run")


def main(config: Config) -> dict[str, float]:
    """Runs the systems and returns what was measured, with the number of failures."""
    start = time.perf_counter()
    claims, pictures = [], []
    for name in config.systems:
        if name not in SYSTEMS:
            known = ", ".join(SYSTEMS)
            raise ValueError(f"`systems` must name some of {known}, got {name!r}.")
        more_claims, more_pictures = SYSTEMS[name](config)
        claims += more_claims
        pictures += more_pictures
    seconds = time.perf_counter() - start
    claims_.print_claims(f"jaxkit {jaxkit.__version__}, {seconds:.0f} s", claims)
    measured = {f"{claim.system}/{claim.statement}": claim.measured for claim in claims}
    measured["failed"] = float(sum(not claim.passed for claim in claims))
    common.save_json(config, "tour", measured)
    if config.output is not None:
        subtitle = (
            f"jaxkit {jaxkit.__version__} with jax {jax.__version__} on "
            f"{jax.default_backend()}, {seconds:.0f} s"
        )
        page = claims_.to_html("A tour of jaxkit", subtitle, claims, pictures)
        (config.output / "tour.html").write_text(page, encoding="utf-8")
    return measured


def exit_code(measured: dict[str, float]) -> int:
    """Gives 1 if a claim failed, else 0."""
    return int(measured["failed"] > 0)


if __name__ == "__main__":
    raise SystemExit(exit_code(main(common.parse(Config))))
