"""What every test starts from: few threads and no window."""

import matplotlib
import torch

# Detectors as small as the tests' gain nothing from more threads; a training may run beside them.
torch.set_num_threads(min(2, torch.get_num_threads()))
matplotlib.use("Agg")
