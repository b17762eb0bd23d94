"""What a progress line says of the gradients: the one number that tells most."""

from collections.abc import Mapping

TELLING = (("r_squared", "R²"), ("signal_to_noise", "S/N"), ("half_cosine", "cosine"))
"""The first of these that a step knows: what a surrogate foretold, else how far the gradient is above its noise."""


def telling(diagnostics: Mapping[str, float]) -> str:
    """The number that tells most about a gradient, in words, such as ``S/N 3.2``; empty where none is known.

    Args:
        diagnostics: Those of a `Step`.
    """
    return next((f"{words} {diagnostics[name]:.2g}" for name, words in TELLING if name in diagnostics), "")
