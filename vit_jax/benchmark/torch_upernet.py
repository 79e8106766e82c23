"""UPerNet on Swin in PyTorch, for its time to be compared with: written from the papers.

The submodules have mmsegmentation's names, so that `checkpoints.torch` hands the weights over. As
in that code, maps are padded to whole windows in each block, and the masks are computed once.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from vit_jax.benchmark import torch_swinir
from vit_jax.benchmark.torch_swinir import make_mask

Size = tuple[int, int]

_POOLED = (1, 2, 3, 6)


class Block(torch_swinir.Block):
    """x + attention(LN(x)), then x + MLP(LN(x)), for maps of any size."""

    def forward(self, x: torch.Tensor, size: Size, mask: torch.Tensor) -> torch.Tensor:
        """(b, h w, c), (h, w) and the mask of shifted windows -> (b, h w, c)."""
        (h, w), side, shift = size, self.window_size, self.shift
        y = F.pad(self.norm1(x).view(len(x), h, w, -1), (0, 0, 0, -w % side, 0, -h % side))
        if shift:
            y = self._attend(y.roll((-shift, -shift), (1, 2)), mask).roll((shift, shift), (1, 2))
        else:
            y = self._attend(y, None)
        x = x + y[:, :h, :w].reshape(x.shape)
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    """One token of 2 x 2, with twice the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: torch.Tensor, size: Size) -> torch.Tensor:
        """(b, h w, c) and (h, w) -> (b, h w / 4, 2c)."""
        h, w = size
        x = F.pad(x.view(len(x), h, w, -1), (0, 0, 0, w % 2, 0, h % 2))
        parts = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.reduction(self.norm(torch.cat(parts, -1).flatten(1, 2)))


class Stage(nn.Module):
    """Blocks, of which every other one has shifted windows, and the merging behind them."""

    def __init__(
        self, dim: int, depth: int, heads: int, window: int, size: Size, last: bool
    ) -> None:
        super().__init__()
        self.size = size
        padded = (size[0] + -size[0] % window, size[1] + -size[1] % window)
        self.register_buffer("attn_mask", make_mask(padded, window), persistent=False)
        self.blocks = nn.ModuleList(Block(dim, heads, window, i % 2 == 1, 4) for i in range(depth))
        self.downsample = None if last else PatchMerging(dim)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(b, h w, c) -> itself after the blocks, and what the next stage takes."""
        for block in self.blocks:
            x = block(x, self.size, self.attn_mask)
        return x, x if self.downsample is None else self.downsample(x, self.size)


class PatchEmbed(nn.Module):
    """Patches as tokens, normalised."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, 4, 4)
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(b, 3, h, w) -> (b, h w / 16, c)."""
        return self.norm(torch_swinir.to_tokens(self.proj(images)))


class Swin(nn.Module):
    """Four maps with a norm each, of images of one size."""

    def __init__(
        self, size: Size, dim: int, depths: Sequence[int], heads: Sequence[int], window: int
    ) -> None:
        super().__init__()
        self.patch_embed, self.layers = PatchEmbed(dim), nn.ModuleList()
        h, w = (-(-side // 4) for side in size)
        for i, depth in enumerate(depths):
            is_last = i == len(depths) - 1
            self.layers.append(Stage(dim << i, depth, heads[i], window, (h, w), is_last))
            self.add_module(f"norm{i}", nn.LayerNorm(dim << i))
            h, w = -(-h // 2), -(-w // 2)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """(b, 3, h, w) -> maps (b, c, h, w), the finest first."""
        h, w = images.shape[2:]
        x, maps = self.patch_embed(F.pad(images, (0, -w % 4, 0, -h % 4))), []
        for i, layer in enumerate(self.layers):
            out, x = layer(x)
            maps.append(torch_swinir.to_image(getattr(self, f"norm{i}")(out), layer.size))
        return maps


class ConvNorm(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, side: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, c, h, w) -> (b, outputs, h, w)."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


class UPerHead(nn.Module):
    """Pyramid pooling of the coarsest map, and a feature pyramid of all."""

    def __init__(self, inputs: Sequence[int], dim: int, num_classes: int) -> None:
        super().__init__()
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(count), ConvNorm(inputs[-1], dim))
            for count in _POOLED
        )
        self.bottleneck = ConvNorm(inputs[-1] + len(_POOLED) * dim, dim, 3)
        self.lateral_convs = nn.ModuleList(ConvNorm(channels, dim) for channels in inputs[:-1])
        self.fpn_convs = nn.ModuleList(ConvNorm(dim, dim, 3) for _ in inputs[:-1])
        self.fpn_bottleneck = ConvNorm(len(inputs) * dim, dim, 3)
        self.conv_seg = nn.Conv2d(dim, num_classes, 1)

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """Maps (b, c, h, w) -> (b, num_classes, h, w) of the finest."""
        last = maps[-1]
        context = [last, *(resized_like(psp(last), last) for psp in self.psp_modules)]
        pyramid = [conv(x) for conv, x in zip(self.lateral_convs, maps)]
        pyramid.append(self.bottleneck(torch.cat(context, 1)))
        for i in reversed(range(len(pyramid) - 1)):
            pyramid[i] = pyramid[i] + resized_like(pyramid[i + 1], pyramid[i])
        together = [*(conv(x) for conv, x in zip(self.fpn_convs, pyramid)), pyramid[-1]]
        together = [resized_like(x, together[0]) for x in together]
        return self.conv_seg(self.fpn_bottleneck(torch.cat(together, 1)))


class FCNHead(nn.Module):
    """The auxiliary head, which has weights, and no part in inference."""

    def __init__(self, inputs: int, dim: int, num_classes: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(ConvNorm(inputs, dim, 3))
        self.conv_seg = nn.Conv2d(dim, num_classes, 1)


class UPerNet(nn.Module):
    """Swin with UPerNet's head, for images of one size; the arguments are the fields of ours."""

    def __init__(
        self,
        size: Size,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_size: int,
        num_classes: int,
        features: int,
        auxiliary_features: int,
    ) -> None:
        super().__init__()
        channels = [embed_dim << i for i in range(len(depths))]
        self.backbone = Swin(size, embed_dim, depths, num_heads, window_size)
        self.decode_head = UPerHead(channels, features, num_classes)
        if auxiliary_features:
            self.auxiliary_head = FCNHead(channels[-2], auxiliary_features, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(b, 3, h, w) -> (b, num_classes, h / 4, w / 4)."""
        return self.decode_head(self.backbone(images))


def resized_like(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """(b, c, h, w) at the height and width of another."""
    return F.interpolate(x, other.shape[2:], mode="bilinear", align_corners=False)
