"""The head by chunks: the same numbers and gradients, in memory that does not grow with positions times vocabulary."""

import json
import os
import subprocess
import sys

import pytest
import torch
from fixtures.tiny import MASK_ID, tiny_model

from lightningrl.models.head import token_log_probs


@pytest.mark.parametrize("chunk_logits", [1, 24 * 3, 24 * 7])
def test_chunks_give_the_values_and_gradients_of_the_whole_table(chunk_logits):
    model = tiny_model(3, torch.float64)
    model.usable_vocab = 20
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(25, 16, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 20, (25,), generator=generator)
    table = model.log_probs(hidden, 0.7)
    logp = table.gather(-1, target[:, None]).squeeze(-1)
    entropy = [-sum(p * p.log() for p in line if p > 0) for line in table.detach().exp()]
    weight = torch.linspace(-1, 1, 25, dtype=torch.float64)
    inputs = [hidden, model.lm_head.weight]
    expected = torch.autograd.grad((weight * logp).sum(), inputs)
    found, found_entropy = token_log_probs(model, hidden, target, 0.7, chunk_logits)
    assert not found_entropy.requires_grad
    torch.testing.assert_close(found, logp, rtol=0, atol=1e-12)
    torch.testing.assert_close(found_entropy, torch.stack(entropy), rtol=0, atol=1e-12)
    for one, other in zip(torch.autograd.grad((weight * found).sum(), inputs), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    banned, _ = token_log_probs(model, hidden, torch.full((25,), MASK_ID), 0.7, chunk_logits)
    assert banned.isinf().all(), "the mask token has probability 0"


PROGRAM = """
import json, torch
from pathlib import Path
from fixtures.tiny import tiny_model
from lightningrl.bench.machine import peak_memory_bytes, reset_peak_memory
from lightningrl.models import head

torch.set_num_threads(1)
V, n, cpu = 50_000, 4_000, torch.device("cpu")
model = tiny_model(0, vocab_size=V, hidden_size=16)
hidden = torch.randn(n, 16, requires_grad=True)
target = torch.arange(n)
def loss(n):
    logp, _ = head.token_log_probs(model, hidden[:n], target[:n])
    logp.sum().backward()
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
loss(10)  # what is set up once
before = resident()
reset_peak_memory(cpu)
loss(n)
print(json.dumps([peak_memory_bytes(cpu) - before, 4 * head.CHUNK_LOGITS, 4 * n * V]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_a_loss_over_4000_positions_and_50000_tokens_holds_a_few_chunks_at_most():
    """Measured: the process's peak. A table of all logits is 12 chunks, and its loss holds several tables."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    peak, chunk, table = json.loads(done.stdout)
    print(f"peak {peak / 1e6:.0f} MB, chunk {chunk / 1e6:.0f} MB, all logits {table / 1e6:.0f} MB")
    assert peak < 6 * chunk < table
