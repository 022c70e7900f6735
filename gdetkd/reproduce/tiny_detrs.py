"""DETRs of transformers made small: their own configs, a few channels, queries and layers."""

from __future__ import annotations

from transformers import (
    ConditionalDetrConfig,
    DabDetrConfig,
    DeformableDetrConfig,
    Deimv2Config,
    DetrConfig,
    DFineConfig,
    HGNetV2Config,
    ResNetConfig,
    RTDetrConfig,
    RTDetrResNetConfig,
    RTDetrV2Config,
    TableTransformerConfig,
)
from transformers.models.lw_detr.configuration_lw_detr import LwDetrConfig, LwDetrViTConfig
from transformers.models.rf_detr.configuration_rf_detr import (
    RfDetrConfig,
    RfDetrDinov2Config,
)

WIDTH = 16
QUERIES = 12


def resnet(stages):
    return ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=stages,
    )  # fmt: skip


def plain(kind, stages=("stage4",), **settings):
    """DETR and those that keep the names of its settings."""
    return kind(
        backbone_config=resnet(list(stages)), use_timm_backbone=False, num_queries=QUERIES,
        encoder_layers=1, decoder_layers=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        encoder_attention_heads=2, decoder_attention_heads=2, auxiliary_loss=True, dropout=0.0,
        **settings,
    )  # fmt: skip


def hybrid(kind, backbone, **settings):
    """RT-DETR and those that keep the names of its settings."""
    return kind(
        backbone_config=backbone, encoder_in_channels=[16, 16, 16], encoder_hidden_dim=WIDTH,
        encoder_ffn_dim=16, encoder_attention_heads=2, decoder_in_channels=[WIDTH] * 3,
        d_model=WIDTH, decoder_ffn_dim=16, decoder_attention_heads=2, decoder_layers=2,
        num_queries=QUERIES, num_denoising=4, decoder_n_points=2, hidden_expansion=0.5,
        anchor_image_size=None, **settings,
    )  # fmt: skip


def rt_resnet():
    return RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip


def hgnet():
    return HGNetV2Config(
        stem_channels=[3, 8, 8], stage_in_channels=[8, 8, 16, 16], hidden_sizes=[8, 16, 16, 16],
        stage_mid_channels=[8, 8, 8, 8], stage_out_channels=[8, 16, 16, 16],
        stage_num_blocks=[1, 1, 1, 1], stage_numb_of_layers=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip


CONFIGS = dict(
    rt_detr=lambda: hybrid(RTDetrConfig, rt_resnet()),
    rt_detr_v2=lambda: hybrid(RTDetrV2Config, rt_resnet()),
    d_fine=lambda: hybrid(DFineConfig, hgnet()),
    deimv2=lambda: hybrid(Deimv2Config, hgnet()),
    detr=lambda: plain(DetrConfig, d_model=WIDTH),
    conditional_detr=lambda: plain(ConditionalDetrConfig, d_model=WIDTH),
    deformable_detr=lambda: plain(
        DeformableDetrConfig, ["stage3", "stage4"], d_model=32, num_feature_levels=3
    ),
    table_transformer=lambda: plain(TableTransformerConfig, d_model=WIDTH),
    dab_detr=lambda: plain(DabDetrConfig, hidden_size=WIDTH),
    lw_detr=lambda: LwDetrConfig(
        backbone_config=LwDetrViTConfig(
            hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, image_size=64,
            patch_size=8, num_windows=4, window_block_indices=[0], out_indices=[0, 1],
        ),
        projector_scale_factors=[1.0], d_model=WIDTH, num_queries=QUERIES, decoder_layers=2,
        group_detr=2, decoder_ffn_dim=16, decoder_self_attention_heads=2,
        decoder_cross_attention_heads=2, auxiliary_loss=True, c2f_num_blocks=1,
    ),
    rf_detr=lambda: RfDetrConfig(
        backbone_config=RfDetrDinov2Config(
            hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, patch_size=16,
            num_windows=2, image_size=64, out_features=["stage1", "stage2"],
        ),
        d_model=WIDTH, num_queries=QUERIES, decoder_layers=2, group_detr=2, decoder_ffn_dim=16,
        decoder_self_attention_heads=2, decoder_cross_attention_heads=2, auxiliary_loss=True,
    ),
)  # fmt: skip
