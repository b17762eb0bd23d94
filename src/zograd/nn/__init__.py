"""Networks without backpropagation: what a gradient costs, and the cheapest way to it."""

__all__: list[str] = []
