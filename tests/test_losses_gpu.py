"""The losses on a GPU: what they give on the CPU, value and gradients, in float32."""

import pytest
import torch

from gdetkd.benchmarks import contrastive, imitation

pytestmark = pytest.mark.gpu
FORMS = {
    "contrastive": (contrastive, contrastive.form("ours"), contrastive.Shape(512, 1024, 8192)),
    "imitation": (imitation, imitation.FORMS["ours"], imitation.Shape(128)),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_loss_on_a_gpu_is_that_on_the_cpu(name, dtype):
    module, form, shape = FORMS[name]
    expected = module.differentiate(form, shape, "cpu", torch.float64)
    found = module.differentiate(form, shape, "cuda", dtype)
    for key, value in expected.items():  # relative, in norm: sums of up to 8,192 terms
        error = (found[key].cpu().double() - value).norm() / value.norm()
        assert error < (1e-5 if dtype == torch.float32 else 1e-12), key
