"""Print the versions installed in this environment as a constraints file that holds on every platform."""

import re
from importlib import metadata

# The parts of PyTorch's CUDA builds, which torch pins itself; and this package.
LEFT_OUT = re.compile(r"nvidia|cuda|triton|pgtheory$|pip$")

HEADER = (
    "# Every version that the Makefile installs: book, tests, peers, benchmarks, lab, mutants. `make lock` writes it."
)

if __name__ == "__main__":
    versions = {re.sub(r"[-_.]+", "-", d.name).lower(): d.version.partition("+")[0] for d in metadata.distributions()}
    print(HEADER)
    for name, version in sorted(versions.items()):
        if not LEFT_OUT.match(name):
            print(f"{name}=={version}")
