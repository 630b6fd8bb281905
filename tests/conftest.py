"""One torch thread, and `fixtures/` (shared helpers of the model, decoder, training and RL tests) on the path."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
