"""Measures how far a checkpoint's float32 logits move if its weights do: whether int8 can keep its ranking at all.

    pip install '.[export]'
    python -m benchmarks fragility CHECKPOINT [--noise 0.01 0.02] [--pools N]

Normal noise, given as a share of each matrix's standard deviation, is added to the matrices of the encoder's linear layers. On the
first N pools of the built-in gate (default: 10), the table compares the logits with those of the unchanged weights, by the gate's
own measures. By arithmetic, weights of 7 bits have a rounding noise of 2 % if the largest weight of a column is 4.4 standard
deviations: a step is the largest weight divided by 63, and its noise that by the root of 12. A checkpoint that moves by more than
the gate's 5 % with such noise needs float32.
"""

from __future__ import annotations

import argparse

import torch

from benchmarks.material import GATE_POOLS
from resift.artifact.agreement import Pool, measure
from resift.pools.source import read_pools
from resift_export.checkpoint.load import load

SEED = 1


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks fragility", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint", help="folder or hub id")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.01, 0.02], help="shares of a matrix's standard deviation")
    parser.add_argument("--pools", type=int, default=10, help="pools of the gate")
    arguments = parser.parse_args()
    checkpoint = load(arguments.checkpoint)
    pools = list(read_pools(GATE_POOLS))[: arguments.pools]
    pairs = [(pool.query, pool.documents) for pool in pools]
    names = [Pool(qid=str(number), query=pool.query, documents=pool.documents) for number, pool in enumerate(pools)]
    exact = checkpoint.references(pairs)
    matrices = [module.weight for module in checkpoint.model.base_model.modules() if isinstance(module, torch.nn.Linear)]
    kept = [matrix.detach().clone() for matrix in matrices]
    print("| noise | tau | worst pool | p99 error, of the range | largest error |\n|---|---|---|---|---|")
    for share in arguments.noise:
        random = torch.Generator().manual_seed(SEED)
        with torch.no_grad():
            for matrix, values in zip(matrices, kept, strict=True):
                matrix.copy_(values + share * values.std() * torch.randn(values.shape, generator=random))
        found = measure(names, exact, checkpoint.references(pairs))
        print(
            f"| {share:.1%} | {found.tau:.4f} | {found.worst_tau:.4f} | {found.error:.2%} | {found.largest_error:.2f} |", flush=True
        )


if __name__ == "__main__":
    main()
