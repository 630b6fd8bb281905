"""The decoder's Triton kernels without a GPU: values by Triton's interpreter, registers and spills by its ptxas."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
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
    print(module.__name__, registers)
