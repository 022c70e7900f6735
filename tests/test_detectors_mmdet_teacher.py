"""What a frozen teacher is spared: batch normalizations, and images that it has seen."""

import pytest
import torch
from torch import nn

from gdetkd.detectors.mmdet.building import load_detector
from gdetkd.detectors.mmdet.folding import fold_batch_norms, pool_by_gathering
from gdetkd.detectors.mmdet.pyramid_cache import PyramidCache

DIGITS = "gdetkd::digits/faster_rcnn_r34_teacher.py", "gdetkd::digits_faster_rcnn_r34.pth"


@pytest.fixture(scope="module")
def detector():
    return load_detector(*DIGITS)


def images(count, seed=1):
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    """Two convolutions with normalizations; `read_twice` lets someone else see between them."""

    def __init__(self, read_twice=False):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.bn2, self.conv2 = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)  # the other way around
        self.read_twice = read_twice
        for norm in (self.bn1, self.bn2):
            norm.running_mean.fill_(0.5)
            norm.running_var.fill_(4.0)
            nn.init.constant_(norm.weight, 3.0)

    def forward(self, images):
        between = self.conv1(images)
        normalized = self.bn1(between)
        return [
            self.conv2(self.bn2(normalized.relu())) + (between.mean() if self.read_twice else 0)
        ]


@torch.no_grad()
def test_boxes_pooled_by_gathering_are_those_of_the_kernel():
    teacher = load_detector(*DIGITS)
    extractor, pyramid = teacher.roi_head.bbox_roi_extractor, teacher.extract_feat(images(2))
    rois = torch.tensor([[0, 5, 5, 30, 40], [1, -10, 0, 70, 64], [1, 0, 0, 3, 3.0]])
    before = extractor(pyramid, rois)
    pool_by_gathering(teacher)
    after = extractor(pyramid, rois)
    assert not torch.equal(after, before)  # another order of sums
    assert (after - before).abs().max() < 1e-5 * before.abs().max()
    assert extractor(pyramid, rois[:0]).shape == (0, *before.shape[1:])
    rois[1, 2] = torch.nan
    assert not extractor(pyramid, rois)[1].any()


# --- Folding --------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_folded_teacher_sees_the_same():
    teacher = load_detector(*DIGITS)
    before = teacher.extract_feat(images(2))
    assert fold_batch_norms(teacher, teacher.extract_feat) == 36  # every one of a ResNet-34
    assert not any(isinstance(module, nn.BatchNorm2d) for module in teacher.backbone.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    for ours, level in zip(teacher.extract_feat(images(2)), before, strict=True):
        # float32 through 36 layers: 1e-6 of the largest number was measured
        assert (ours - level).abs().max() < 1e-5 * level.abs().max()


@torch.no_grad()
def test_only_what_follows_a_convolution_is_folded():
    net = Net().eval()
    before = net(images(1))[0]
    assert fold_batch_norms(net, net) == 1
    assert isinstance(net.bn1, nn.Identity) and isinstance(net.bn2, nn.BatchNorm2d)
    torch.testing.assert_close(net(images(1))[0], before)


@torch.no_grad()
def test_what_else_reads_a_convolution_is_noticed_and_all_put_back():
    net = Net(read_twice=True).eval()
    before, modules = net(images(1))[0], list(net.modules())
    assert fold_batch_norms(net, net) == 0
    assert list(net.modules()) == modules
    assert torch.equal(net(images(1))[0], before)


# --- The cache ------------------------------------------------------------------------------------


def cache(detector, folder, megabytes=100, settings=""):
    extract = type(detector).extract_feat.__get__(detector)
    return PyramidCache(detector, settings, extract, folder, megabytes)


def same(found, expected):
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@torch.no_grad()
def test_what_is_read_is_what_was_computed_in_another_batch_too(detector, tmp_path):
    batch, other = images(4), images(4, seed=2)
    first = cache(detector, tmp_path)
    first(torch.cat([batch[:2], other[:2]])), first(torch.cat([other[2:], batch[2:]]))
    again = cache(detector, tmp_path)  # as another run, or another process
    found = again(batch)
    assert (first.hits, first.misses, again.hits, again.misses) == (0, 8, 4, 0)
    assert same(found, detector.extract_feat(batch))
    batch[0, 0, 0, 0] += 1e-6  # another image
    assert same(again(batch), detector.extract_feat(batch))
    assert again.misses == 4  # the batch as a whole, in its shape


@torch.no_grad()
@pytest.mark.parametrize("settings", ["", "another config"])
def test_another_teacher_finds_nothing(detector, tmp_path, settings):
    cache(detector, tmp_path)(images(2))
    other = detector if settings else load_detector(*DIGITS)
    if not settings:
        other.backbone.conv1.weight[0, 0, 0, 0] += 1e-6
    again = cache(other, tmp_path, settings=settings)
    again(images(2))
    assert (again.hits, again.misses) == (0, 2)


@torch.no_grad()
@pytest.mark.parametrize("damage", [b"", b"x", b"[[[1]], 3]\nabcd", "cut", "flipped"])
def test_a_damaged_file_is_computed_again(detector, tmp_path, damage):
    cached = cache(detector, tmp_path)
    expected = cached(images(1))
    (file,) = cached.folder.iterdir()
    whole = file.read_bytes()
    changed = {"cut": whole[:-4], "flipped": whole[:-1] + bytes([whole[-1] ^ 1])}
    file.write_bytes(changed.get(damage, damage))
    assert same(cached(images(1)), expected)
    assert file.read_bytes() == whole


@torch.no_grad()
def test_it_grows_no_larger_than_allowed(detector, tmp_path):
    small = cache(detector, tmp_path, megabytes=0.2)
    small(images(8))
    size = sum(file.stat().st_size for file in small.folder.iterdir())
    one = size / len(list(small.folder.iterdir()))
    assert 0.2e6 <= size < 0.2e6 + one  # the last one that is let in may go over
    cache(detector, tmp_path, megabytes=0.2)(images(8, seed=3))
    assert sum(file.stat().st_size for file in small.folder.iterdir()) == size


@torch.no_grad()
def test_in_half_precision_it_only_computes(detector, tmp_path):
    cached = cache(detector, tmp_path)
    with torch.autocast("cpu", torch.bfloat16):
        cached(images(1))
    assert list(cached.folder.iterdir()) == [] and cached.hits == 0


@pytest.mark.parametrize("megabytes", [0, "2GB", None])
def test_a_size_that_is_none_is_refused(detector, tmp_path, megabytes):
    with pytest.raises(ValueError, match="teacher: cache: megabytes to be a finite number above 0"):
        cache(detector, tmp_path, megabytes)
