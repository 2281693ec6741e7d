"""How fast the solvers are, beside the published calibrain 1.0.3 and MNE.

`python -m benchmarks`, from the root of the repository.
"""
