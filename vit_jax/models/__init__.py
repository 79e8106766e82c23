"""The models, by name. To add one: its file, and its row at the end of this one."""

from vit_jax.models import (
    bert,
    clip,
    dehazeformer,
    efficientformer_v2,
    flowformer,
    lit,
    mae,
    mixer,
    resnet,
    rrdb,
    segmenter,
    siglip,
    spatial_transformer_network,
    swin,
    swinir,
    transformer,
    twins,
    visual_transformer,
    vit,
    vit_today,
)
from vit_jax.models.registry import (
    AUGREG_NAMES,
    DTYPES,
    MODELS,
    PUBLISHED_SCORES,
    QUOTED,
    get_model,
    list_models,
    register,
    resolve,
)

__all__ = [
    "AUGREG_NAMES", "DTYPES", "MODELS", "PUBLISHED_SCORES", "QUOTED", "get_model", "list_models",
    "register", "resolve",
]  # fmt: skip

for _file, _model in {
    vit: vit.VisionTransformer,
    mae: mae.MaskedAutoencoder,
    mixer: mixer.MlpMixer,
    swin: swin.Swin,
    twins: twins.Twins,
    efficientformer_v2: efficientformer_v2.EfficientFormerV2,
    rrdb: rrdb.RRDB,
    resnet: resnet.ResNet,
    visual_transformer: visual_transformer.VisualTransformer,
    spatial_transformer_network: spatial_transformer_network.SpatialTransformerNetwork,
    bert: bert.BERT,
    transformer: transformer.Transformer,
}.items():
    register(_model, _file.VARIANTS, _file.PARAMETER_COUNTS)
for _file, _model in {
    dehazeformer: dehazeformer.DehazeFormer,
    swinir: swinir.SwinIR,
    flowformer: flowformer.FlowFormer,
    lit: lit.LiT,
    clip: clip.CLIP,
    siglip: siglip.SigLIP,
}.items():
    register(_model, _file.VARIANTS, _file.PARAMETER_COUNTS, _file.PUBLISHED_SCORES)
register(segmenter.Segmenter, segmenter.VARIANTS, segmenter.PARAMETER_COUNTS)
for _towers in (clip, siglip):
    register(vit.VisionTransformer, _towers.IMAGE_TOWERS, _towers.IMAGE_TOWER_COUNTS)
register(vit.VisionTransformer, vit_today.VARIANTS, vit_today.PARAMETER_COUNTS)
