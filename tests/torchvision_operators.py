"""Lets timm be imported where torchvision lacks its compiled operators, as beside a CPU's torch.

It is run at the start of a notebook's kernel, see `make test-notebooks`, and imported by tests.
"""

from vit_jax.benchmark import torchvision_operators

torchvision_operators.declare()
