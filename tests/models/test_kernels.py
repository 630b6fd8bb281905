"""The decoder's Triton kernels without a GPU: values by Triton's interpreter, registers and spills by its ptxas."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fixtures.limits import HANG_S

from lightningrl.decoding import head_draw
from lightningrl.models.kernels import add_norm, jit, norm_rope_write, silu_mul

pytestmark = pytest.mark.skipif(not jit.available(), reason="Triton is not installed: it comes with the dev extra")

MOST_REGISTERS = {add_norm: 64, silu_mul: 40, norm_rope_write: 64, head_draw: 96}
"""Of each thread, at the 8B shape on sm_90; 64 let a multiprocessor hold 32 warps, 96 two of `head_draw`'s programs."""


def test_the_kernels_give_what_their_twins_give():
    folder = Path(__file__).parents[2]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "tests/models/interpreted.py"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@pytest.mark.parametrize("module", MOST_REGISTERS, ids=lambda module: module.__name__.split(".")[-1])
def test_the_kernels_compile_for_sm_90_within_their_registers_and_without_spills(module, tmp_path, monkeypatch):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    types, constants = module.for_sm_90()
    options = {"num_warps": constants.pop("num_warps")}
    signature = types | dict.fromkeys(constants, "constexpr")
    signature = {name: signature[name] for name in module.kernel.arg_names}
    source = ASTSource(module.kernel, signature, constants)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    ptx = tmp_path / "kernel.ptx"
    ptx.write_text(made.asm["ptx"])
    ptxas = triton.knobs.nvidia.ptxas.path
    told = subprocess.run(
        [ptxas, "-v", "--gpu-name=sm_90a", str(ptx), "-o", os.devnull], capture_output=True, text=True, check=True
    ).stderr
    registers = int(re.search(r"Used (\d+) registers", told)[1])
    assert "0 bytes spill stores, 0 bytes spill loads" in told, told
    assert registers <= MOST_REGISTERS[module], told
    print(module.__name__, registers, "registers")


@pytest.mark.gpu
def test_the_kernels_give_what_their_twins_give_on_a_gpu():
    """At the 8B shape, bfloat16; the operators run the kernels there."""
    noise = lambda *shape: torch.randn(*shape, device="cuda", dtype=torch.bfloat16)  # noqa: E731
    close = {"rtol": 1.6e-2, "atol": 1.6e-2}
    given = noise(32, 4096), noise(32, 4096), noise(4096), 1e-6
    torch.testing.assert_close(add_norm.add_norm(*given), add_norm.twin(*given), **close)
    both = noise(32, 24576)
    torch.testing.assert_close(silu_mul.silu_mul(both), silu_mul.twin(both), **close)
    angle, at, slots = torch.randn(64, 128, device="cuda"), torch.arange(32, device="cuda"), torch.arange(32, 64).cuda()
    caches = [[torch.zeros(64, 8, 128, device="cuda", dtype=torch.bfloat16) for _ in "kv"] for _ in "ab"]
    given = noise(32, 6144), noise(128), noise(128), 1e-6, angle.cos().bfloat16(), angle.sin().bfloat16(), at, slots
    q, expected = norm_rope_write.norm_rope_write(*given, *caches[0]), norm_rope_write.twin(*given, *caches[1])
    torch.testing.assert_close((q, caches[0]), (expected, caches[1]), **close)
    keys, ones = torch.arange(4, device="cuda"), torch.ones(4, dtype=torch.int64, device="cuda")
    for temperature in (0.0, 1.0):
        given = noise(128, 151936), keys, ones, temperature * ones.double(), torch.arange(128).cuda(), 151669, 151668
        (token, logp, entropy), wanted = head_draw.head_draw(*given), head_draw.twin(*given)
        assert int((token != wanted[0]).sum()) <= 2, "near-ties, or a uniform at a boundary"
        same = token == wanted[0]
        torch.testing.assert_close(logp[same], wanted[1][same], rtol=0, atol=1e-4)
        torch.testing.assert_close(entropy, wanted[2], rtol=0, atol=1e-4)
