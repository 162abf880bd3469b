#!/usr/bin/env bash
# torch.distributed.all_reduce inside a loss: the backward pass goes through it as if it were the identity. With a statistic
# that all processes sum, and gradients that DistributedDataParallel averages, the gradient is that of the loss divided by
# the number of processes. Losses are right, so a test of losses alone passes.
# Guess: DDP with a loss of the global batch gives the gradient of one process with that batch. Seen: half of it on 2
# processes. This is what the official Barlow Twins has (main.py, `c` is all-reduced): its LARS cancels the factor for the
# weights, but not for biases and norms, whose learning rate in effect falls with the number of GPUs.
# torch.distributed.nn.functional.all_reduce sums the gradient as well, and then the average is right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6
cat > "$folder/worker.py" <<'PY'
import warnings

import torch
import torch.distributed as dist
from torch.distributed.nn.functional import all_reduce

warnings.filterwarnings('ignore')
dist.init_process_group('gloo')
rank, n = dist.get_rank(), dist.get_world_size()
x, w = torch.arange(8.0).reshape(n, -1), torch.tensor(3.0)


def statistic_of(reduce):
    """loss = (mean of w x over all examples)^2, and its gradient, averaged as DDP does."""
    v = w.clone().requires_grad_()
    loss = reduce((v * x[rank]).mean() / n) ** 2
    loss.backward()
    dist.all_reduce(v.grad)
    return loss.item(), (v.grad / n).item()


def in_place(c):
    dist.all_reduce(c)
    return c


v = w.clone().requires_grad_()
one = (v * x).mean() ** 2
one.backward()
expected, plain, functional = (one.item(), v.grad.item()), statistic_of(in_place), statistic_of(all_reduce)
if rank == 0:
    print('torch', torch.__version__, 'one process', expected, 'all_reduce', plain, 'nn.functional', functional)
    assert functional == expected
    assert plain == (expected[0], expected[1] / n)
    print('as described')
dist.destroy_process_group()
PY
export MASTER_ADDR=127.0.0.1 MASTER_PORT=29688 WORLD_SIZE=2
RANK=1 "$folder/venv/bin/python" "$folder/worker.py" &
RANK=0 "$folder/venv/bin/python" "$folder/worker.py"
wait
