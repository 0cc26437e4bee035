"""Representatives of every classifier family of timm for the zoo, through both torch exporters.

    python tools/zoo_timm.py make swin_tiny_patch4_window7_224 out/zoo/swin

Runs in an environment of its own: torch, timm, onnx, onnxscript. Nothing is downloaded.
"""

from __future__ import annotations

import re
import sys
import warnings
from typing import Any

from zoo_maker import Group, Made, run
from zoo_torch import made, started

EXPORTS = (("torchscript", 17), ("dynamo", 23))

_NORM1 = "blocks[-1].norm1"
_LAYERS = {  # pattern of the name → the expert's layer, where it is not forward_features
    "vit_base_patch16_siglip.*": "norm",  # what its attention pool takes
    "(beit|convit|deit|eva|vit_|flexivit|samvit|naflex|vitamin|hiera).*": _NORM1,
    "edgenext.*": "stages[-1].blocks[-1].norm_xca",
    "cait.*": "blocks_token_only[-1].norm1",
    "xcit.*": "cls_attn_blocks[-1].norm1",
    "volo.*": "post_network[-1].norm1",
    "csatv2.*": "stages[-1][-1].attn, its input",
    "coat_tiny": "parallel_blocks[-1].norm13",
    "coat_lite.*": "serial_blocks4[-1].norm1",
    "crossvit.*": "blocks[-1].fusion[-1].norm1",
    "tnt.*": "blocks[-1].norm_out",
    "twins.*": "blocks[-1][-1].norm1",
    "pit.*": "transformers[-1].blocks[-1].norm1",
    "(mvitv2|efficientformer_|caformer).*": "stages[-1].blocks[-1].norm1",
    "max(x)?vit.*": "stages[-1].blocks[-1].attn_grid.norm1",
    "levit_1.*": "stages[-1].blocks[-1].attn, its input",
    "(cpubone|efficientvit_[bl]).*": "head.in_conv",  # a convolution ahead of the pool
    "lowformer.*": "in_conv",
    "efficientvim.*": "stages[-1]",
    "vgg.*": "features[-2]",
    "swin_.*": "layers[-1].blocks[-1].norm1",
    "swinv2_cr_tiny.*": "stages[-1].blocks[-2]",
    "swinv2_tiny.*": "layers[-1].blocks[-2]",  # its blocks normalise behind the attention
}

MODELS = """
beit_base_patch16_224 botnet26t_256 eca_halonext26ts halonet26t lambda_resnet26t sebotnet33ts_256
repvgg_a0 mobileone_s0 gernet_s regnetz_b16 bat_resnext26ts eca_resnext26ts gcresnet33ts
cait_xxs24_224 coat_lite_tiny coat_tiny convit_tiny convmixer_768_32 convnext_atto
convnextv2_atto cpubone_nano crossvit_9_240 csatv2 cspresnet50 cs3darknet_s darknet53
cspnext_tiny davit_tiny deit_tiny_patch16_224 deit_tiny_distilled_patch16_224
deit3_small_patch16_224 densenet121 densenetblur121d dla34 dla60_res2net dpn48b dpn68
edgenext_xx_small efficientformer_l1 efficientformerv2_s0 efficientnet_b0 efficientnet_lite0
efficientnetv2_rw_t mixnet_s mnasnet_100 mobilenetv2_100 tinynet_e spnasnet_100
efficientvim_m1 efficientvit_b0 efficientvit_m0 efficientvit_l1 eva02_tiny_patch14_224
fasternet_t0 fastvit_t8 fastvit_sa12 focalnet_tiny_srf gcvit_xxtiny ghostnet_100 ghostnetv2_100
ghostnetv3_050 hardcorenas_a hgnet_tiny hgnetv2_b0 hiera_tiny_224 hieradet_small
hrnet_w18_small iformer_t inception_next_atto inception_resnet_v2 inception_v3 inception_v4
lcnetv2_small levit_128s levit_conv_128s lowformer_b0 mambaout_femto coatnet_nano_rw_224
coatnext_nano_rw_224 maxvit_tiny_tf_224 maxxvit_rmlp_nano_rw_256 caformer_s18 convformer_s18
poolformer_s12 poolformerv2_s12 mixer_s32_224 gmixer_12_224 gmlp_ti16_224 resmlp_12_224
fbnetv3_b lcnet_050 mobilenetv3_small_100 mobilenetv4_conv_small mobilenetv4_hybrid_medium
mobilevit_xxs mobilevitv2_050 mvitv2_tiny naflexvit_base_patch16_gap nasnetalarge nest_tiny
nextvit_small eca_nfnet_l0 nf_resnet26 nf_regnet_b0 pit_ti_224 pit_ti_distilled_224
pnasnet5large pvt_v2_b0 pvt_v2_b2_li rdnet_tiny regnetx_002 regnety_002 regnetv_040
repghostnet_050 repvit_m0_9 res2net50_14w_8s resnest14d resnet18 resnet50d resnet50_gn
ecaresnet26t seresnext26d_32x4d resnetblur50 resnetrs50 resnetv2_50 resnetv2_18 rexnet_100
selecsls42b legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 starnet_s1 swiftformer_xs
swin_tiny_patch4_window7_224 swin_s3_tiny_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224
tiny_vit_5m_224 tnt_s_patch16_224 tresnet_m twins_pcpvt_small twins_svt_small vgg11_bn
visformer_tiny vit_tiny_patch16_224 vit_small_patch32_224 flexivit_small
vit_tiny_r_s16_p8_224 vit_small_r26_s32_224 vit_relpos_small_patch16_224
vit_base_patch16_siglip_224 samvit_base_patch16_224 vitamin_small_224 volo_d1_224 vovnet39a
ese_vovnet19b_dw legacy_xception xception41 xcit_nano_12_p16_224 qwen3_vit_88m
""".split()  # noqa: SIM905  a list of names, not of strings


def layer_of(name: str) -> str:
    """The expert's layer of a timm model."""
    found = (layer for pattern, layer in _LAYERS.items() if re.fullmatch(pattern, name))
    return next(found, "forward_features")


def groups() -> list[Group]:
    """The models and their exports."""
    return [Group("timm", name, EXPORTS, layer_of(name)) for name in MODELS]


def build(group: Group) -> Made:
    """One model with random weights."""
    torch, _ = started()
    import timm

    with warnings.catch_warnings(action="ignore"):
        net: Any = timm.create_model(group.model).eval()
    side = net.pretrained_cfg["input_size"][-1]
    return made(torch, net, side, group.layer, f"timm {timm.__version__}", net.num_features)


if __name__ == "__main__":
    sys.exit(run(groups(), build, __doc__ or ""))
