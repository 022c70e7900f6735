"""MMDetection's heads with ways of their own, and detectors of queries: read as they predict."""

import copy

import pytest
import torch
from helpers import structure
from torchvision.ops import box_iou

from gdetkd.detectors import adapter_for
from gdetkd.detectors.distiller import Distiller
from gdetkd.detectors.mmdet.building import build_to_train
from gdetkd.detectors.mmdet.dense_maps import feature_width, features_at, location_of
from gdetkd.detectors.mmdet.dense_readings import product_logits, read_head
from gdetkd.reproduce.family_trials import COMPONENTS, alive, batch, falls, losses_of, try_alone
from gdetkd.reproduce.tiny_models import tiny_model

# Side of the images, base channels, width: as small as the configs allow.
DENSE = {
    "yolox/yolox_tiny_8xb8-300e_coco": (64, 64, 256),
    "rtmdet/rtmdet_tiny_8xb32-300e_coco": (64, 64, 256),
    "yolo/yolov3_mobilenetv2_8xb24-320-300e_coco": (64, 64, 256),
    "ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco": (320, 64, 256),
    "tood/tood_r50_fpn_1x_coco": (64, 8, 16),
    "yolof/yolof_r50-c5_8xb8-1x_coco": (64, 8, 16),
    "sabl/sabl-retinanet_r50_fpn_1x_coco": (64, 8, 16),
    "foveabox/fovea_r50_fpn_4xb4-1x_coco": (64, 8, 16),
    "reppoints/reppoints-moment_r50_fpn-gn_head-gn_1x_coco": (64, 8, 16),
    "centernet/centernet_r18_8xb16-crop512-140e_coco": (64, 8, 16),
    "guided_anchoring/ga-retinanet_r50_fpn_1x_coco": (64, 8, 16),
}
QUERIES = {
    "detr/detr_r50_8xb2-150e_coco": (64, 8, 32),
    "conditional_detr/conditional-detr_r50_8xb2-50e_coco": (64, 8, 256),
    "dab_detr/dab-detr_r50_8xb2-50e_coco": (64, 8, 32),
    "deformable_detr/deformable-detr_r50_16xb2-50e_coco": (64, 8, 32),
    "dino/dino-4scale_r50_8xb2-12e_coco": (64, 8, 256),
    "sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco": (64, 8, 16),
}
# One of each kind of reading; `results/pairs` has the same trial of every family.
STUDENTS = [
    name for name in (*DENSE, *QUERIES)
    if name.split("/")[0] in ("yolox", "rtmdet", "ssd", "tood", "yolof", "sabl", "centernet",
                              "detr", "sparse_rcnn")
]  # fmt: skip


def built(name, classes=2):
    side, base, width = {**DENSE, **QUERIES}[name]
    detector = build_to_train(tiny_model(f"mmdet::{name}.py", base, width, classes), seed=0)
    return alive(detector, side, classes), batch(side, classes)


def teacher(classes=2):
    model = tiny_model("faster_rcnn", base=8, width=16, classes=classes)
    return alive(build_to_train(model, seed=1), 64, classes)


@pytest.mark.parametrize("name", DENSE)
def test_decoded_boxes_are_those_that_are_predicted(name):
    """Every box that MMDetection predicts without suppression is one of ours, and but for
    CenterNet's local maxima the other way round too."""
    detector, data = built(name)
    head = detector.bbox_head.eval()
    head.test_cfg = copy.deepcopy(head.test_cfg)
    head.test_cfg.update(nms_pre=10**6, score_thr=0.0, conf_thr=-1, max_per_img=10**6, topk=20)
    head.test_cfg.update(nms=dict(type="nms", iou_threshold=2.0), min_bbox_size=-1)
    data = detector.data_preprocessor(data, True)
    samples = data["data_samples"]
    for sample in samples:
        sample.set_metainfo(dict(border=(0, 0, 0, 0)))  # what CenterNet's test pipeline adds
    reading = read_head(head, "student")
    with torch.no_grad():
        pyramid = detector.extract_feat(data["inputs"])
        if "guided" in name:  # its own sparse convolution is not needed where all cells count
            head.loc_filter_thr = 0.0
            head.training = True
            outputs = head(pyramid)
            head.training = False
            predicted = head.predict_by_feat(*outputs, [s.metainfo for s in samples])
        else:
            if "ssd" in name:  # MMDetection 3.3 reads an attribute that its SSDHead lacks
                head.loss_cls = None
            predicted = head.predict(pyramid, samples, rescale=False)
        head.training = True  # its own flag alone: BatchNorm stays as it predicts
        boxes = reading.boxes(head(pyramid), [s.img_shape for s in samples])
    side = samples[0].img_shape[0]
    assert boxes.shape[1] == sum(
        level[0, 0].numel() * count for level, count in zip(pyramid, reading.anchors, strict=False)
    )
    for mine, found in zip(boxes, predicted, strict=True):
        theirs = found.bboxes.clamp(0, side)
        assert len(theirs) >= 20
        away = torch.cdist(mine, theirs, p=torch.inf)
        assert away.amin(0).max() < 1e-3  # float32 at `side` px, in another order of operations
        if "centernet" not in name:
            assert away.amin(1).max() < 1e-3
    assert len(boxes[0].round().unique(dim=0)) > 10


@pytest.mark.parametrize("name", STUDENTS)
def test_as_a_student(name):
    """Its own losses are the plain detector's bit by bit, and each component falls."""
    detector, data = built(name)
    settings = {key: COMPONENTS[key] for key in ("contrastive", "imitation", "classification")}
    pair = Distiller(copy.deepcopy(detector), teacher(), settings).train()
    results = []
    for model in (detector, pair):
        torch.manual_seed(0)
        results.append(losses_of(model, data))
    for key, value in results[0].items():
        for a, b in zip(
            *(x if isinstance(x, list) else [x] for x in (value, results[1][key])), strict=True
        ):
            assert torch.equal(torch.as_tensor(a), torch.as_tensor(b)), key
    for key in settings:
        assert falls(try_alone(detector, teacher(), key, data)), key
    # Of the own losses, whose gradient at the pyramid a weight by share asks for.
    share = dict(imitation=dict(COMPONENTS["imitation"], weight="50%"))
    assert losses_of(Distiller(detector, teacher(), share), data)["kd_imitation_weight"] > 0


@pytest.mark.parametrize("name", list(QUERIES)[3:])
def test_a_query_is_a_location(name):
    """Logits are the classifier's of the representation, boxes the head's, denoising left out."""
    detector, data = built(name)
    adapter = adapter_for(detector, "student", boxes_per_image=1000)
    data = detector.data_preprocessor(data, True)
    found = adapter.training_pass(data["inputs"], data["data_samples"]).outputs[0]
    head = adapter.head
    layer = head.cls_branches[-1] if hasattr(head, "cls_branches") else head.fc_cls
    if "dino" in name:  # the last branch proposes
        layer = head.cls_branches[-2]
    torch.testing.assert_close(layer(found.representation), found.logits)
    per_image = torch.bincount(found.rois[:, 0].long())
    queries = getattr(detector, "num_queries", None) or detector.rpn_head.num_proposals
    assert (per_image <= queries).all() and per_image.sum() > 0
    for index, sample in enumerate(data["data_samples"]):
        rois = found.rois[found.rois[:, 0] == index, 1:]
        labels = found.labels[found.rois[:, 0] == index]
        iou, best = box_iou(rois, sample.gt_instances.bboxes).max(1)
        assert torch.equal(
            labels, torch.where(iou > 0.5, sample.gt_instances.labels[best], head.num_classes)
        )


def test_the_logit_of_a_product():
    x, y = torch.randn(2, 50, dtype=torch.float64) * 3
    expected = torch.logit(x.sigmoid() * y.sigmoid())
    torch.testing.assert_close(product_logits(x, y).double(), expected, rtol=1e-5, atol=1e-5)
    assert product_logits(torch.tensor(80.0), torch.tensor(-90.0)) == -90


def test_levels_of_different_widths_have_blocks_of_columns():
    levels = [torch.randn(1, 3, 2, 2), torch.randn(1, 2, 1, 1)]
    index, image = torch.arange(10), torch.zeros(10, dtype=torch.long)  # 4 cells of 2, 1 of 2
    assert feature_width([3, 2], [2, 2]) == 5 and feature_width([3, 2], [2, 2], True) == 10
    rows = features_at(levels, image, index, [2, 2])
    assert torch.equal(rows[:8, :3], levels[0].flatten(2)[0].T.repeat_interleave(2, 0))
    assert torch.equal(rows[8:, 3:], levels[1].flatten()[None].repeat(2, 1))
    assert not rows[:8, 3:].any() and not rows[8:, :3].any()
    separate = features_at(levels, image, index, [2, 2], separate=True)
    assert torch.equal(separate[0, :3], separate[1, 3:6]) and not separate[0, 3:].any()
    assert torch.equal(separate[9, 8:], levels[1].flatten()) and not separate[9, :8].any()
    assert location_of(levels, index, [2, 2]).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("levels", [3, 5])
def test_levels_of_a_two_stage_student(levels):
    """Features are imitated on fewer levels than boxes are pooled from, or on the RPN's P6 too."""
    model = tiny_model("faster_rcnn", base=8, width=16, classes=2)
    settings = dict(imitation=COMPONENTS["imitation"])
    pair = Distiller(
        build_to_train(model), teacher(), settings, student_adapter=dict(levels=levels)
    ).train()
    seen = []
    pair.student.neck.register_forward_hook(lambda _, __, levels: seen.append(levels))
    data = pair.student.data_preprocessor(batch(64, 2), True)
    found = pair.student_adapter.training_pass(data["inputs"], data["data_samples"]).outputs[0]
    assert pair.student_adapter.specs()[0].strides == (4, 8, 16, 32, 64)[:levels]
    assert len(found.pyramid) == levels
    assert all(mine is level for mine, level in zip(found.pyramid, seen[-1], strict=False))
    losses = losses_of(pair, batch(64, 2))
    assert (
        losses["kd_imitation_loss"].isfinite()
        and f"kd_imitation_level_{levels - 1}_share" in losses
    )
    with pytest.raises(ValueError, match="expected levels from 1 to 5"):
        adapter_for(pair.student, "student", levels=6).specs()


def test_boxes_of_one_location():
    """Three ways for the anchors of a location: the default, columns of their own, no negatives."""
    detector = build_to_train(tiny_model("retinanet", classes=2))
    found = {}
    for separate in (False, True):
        adapter = adapter_for(detector, "student", separate_anchors=separate)
        data = detector.data_preprocessor(batch(64, 2), True)
        found[separate] = adapter.training_pass(data["inputs"], data["data_samples"]).outputs[0]
        assert adapter.specs()[0].representation_dim == found[separate].representation.shape[1]
    places = torch.stack([found[False].rois[:, 0].long(), found[False].locations], 1)
    same = (places[:, None] == places).all(2).fill_diagonal_(False)
    first, second = same.nonzero()[0]
    shared, apart = found[False].representation, found[True].representation
    assert torch.equal(shared[first], shared[second]) and not torch.equal(
        apart[first], apart[second]
    )
    assert apart.shape[1] == 9 * shared.shape[1]
    settings = dict(contrastive=dict(weight=1.0, iou=1.0, location_negatives=False))
    pair = Distiller(detector, teacher(), settings)
    component = pair.objective[0].components["contrastive"]
    assert torch.equal(component._ignored(found[False], slice(None)).fill_diagonal_(False), same)


REFUSED = {
    "cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco": "CornerHead pairs corners",
    "solo/solo_r50_fpn_1x_coco": "SOLO predicts masks without boxes",
    "mask2former/mask2former_r50_8xb2-lsj-50e_coco": "Mask2Former predicts masks",
}


@pytest.mark.parametrize("role", ["student", "teacher"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_impossible_is_refused_with_the_reason(name, role):
    with pytest.raises(ValueError, match=REFUSED[name]) as error:
        adapter_for(structure(f"mmdet::{name}.py"), role).specs()
    assert str(error.value).startswith(role)
