"""DehazeFormer in PyTorch, for its time to be compared with: written from the paper.

The submodules have the official code's names, so that `checkpoints.torch` hands the weights over.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

_WINDOW = 8


class RescaleNorm(nn.Module):
    """Normalises an image by its one mean and deviation, and says how to undo it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, dim, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, dim, 1, 1))
        self.meta1 = nn.Conv2d(1, dim, 1)
        self.meta2 = nn.Conv2d(1, dim, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(b, c, h, w) -> like x; factors and summands for afterwards, (b, c, 1, 1)."""
        mean = x.mean((1, 2, 3), keepdim=True)
        std = (((x - mean) ** 2).mean((1, 2, 3), keepdim=True) + 1e-5).sqrt()
        return (x - mean) / std * self.weight + self.bias, self.meta1(std), self.meta2(mean)


class WindowAttention(nn.Module):
    """Attention of each window of pixels, with a bias from their offsets."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.scale = num_heads, (dim // num_heads) ** -0.5
        self.meta = nn.Sequential(nn.Linear(2, 256), nn.ReLU(), nn.Linear(256, num_heads))
        side = torch.arange(_WINDOW)
        pixels = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
        offsets = (pixels[:, None] - pixels[None]).float()
        offsets = offsets.sign() * offsets.abs().log1p()
        self.register_buffer("relative_positions", offsets, persistent=False)

    def forward(self, qkv: torch.Tensor) -> torch.Tensor:
        """(windows, n, 3 * c) -> (windows, n, c)."""
        windows, n, _ = qkv.shape
        qkv = qkv.reshape(windows, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        bias = self.meta(self.relative_positions).permute(2, 0, 1)
        weights = ((q * self.scale) @ k.transpose(-2, -1) + bias).softmax(-1)
        return (weights @ v).transpose(1, 2).reshape(windows, n, -1)


class Attention(nn.Module):
    """Attention within windows beside a convolution, on the same values."""

    def __init__(self, dim: int, num_heads: int, attends: bool, shifted: bool, conv: str) -> None:
        super().__init__()
        self.attends, self.shift = attends, _WINDOW // 2 if shifted else 0
        self.projects = attends or conv == "depthwise"
        reflect = dict(padding_mode="reflect")
        if conv == "depthwise":
            self.conv = nn.Conv2d(dim, dim, 5, padding=2, groups=dim, **reflect)
        else:
            self.conv = nn.Sequential(
                nn.Conv2d(dim, dim, 3, padding=1, **reflect),
                nn.ReLU(True),
                nn.Conv2d(dim, dim, 3, padding=1, **reflect),
            )
        if self.projects:
            self.V = nn.Conv2d(dim, dim, 1)
            self.proj = nn.Conv2d(dim, dim, 1)
        if attends:
            self.QK = nn.Conv2d(dim, 2 * dim, 1)
            self.attn = WindowAttention(dim, num_heads)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, c, h, w) -> (b, c, h, w)."""
        if not self.projects:
            return self.conv(x)
        values = self.V(x)
        out = self.conv(values)
        if self.attends:
            out = out + self._attend(torch.cat([self.QK(x), values], 1))
        return self.proj(out)

    def _attend(self, qkv: torch.Tensor) -> torch.Tensor:
        b, c, h, w = qkv.shape
        begin = self.shift
        bottom, right = (-(begin + side) % _WINDOW for side in (h, w))
        qkv = F.pad(qkv, (begin, right, begin, bottom), mode="reflect").permute(0, 2, 3, 1)
        rows, columns = (begin + h + bottom) // _WINDOW, (begin + w + right) // _WINDOW
        windows = qkv.reshape(b, rows, _WINDOW, columns, _WINDOW, c).transpose(2, 3)
        out = self.attn(windows.reshape(-1, _WINDOW**2, c))
        out = out.reshape(b, rows, columns, _WINDOW, _WINDOW, -1).transpose(2, 3)
        out = out.reshape(b, rows * _WINDOW, columns * _WINDOW, -1).permute(0, 3, 1, 2)
        return out[:, :, begin : begin + h, begin : begin + w]


class Mlp(nn.Module):
    """Two 1x1 convolutions."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Conv2d(dim, hidden, 1), nn.ReLU(True), nn.Conv2d(hidden, dim, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, c, h, w) -> (b, c, h, w)."""
        return self.mlp(x)


class Block(nn.Module):
    """x + attention or convolution, then x + MLP."""

    def __init__(
        self, dim: int, num_heads: int, mlp_ratio: float, attends: bool, shifted: bool, conv: str
    ) -> None:
        super().__init__()
        self.attends = attends
        if attends:
            self.norm1 = RescaleNorm(dim)
        self.attn = Attention(dim, num_heads, attends, shifted, conv)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, c, h, w) -> (b, c, h, w)."""
        if self.attends:
            y, rescale, rebias = self.norm1(x)
            x = x + self.attn(y) * rescale + rebias
        else:
            x = x + self.attn(x)
        return x + self.mlp(x)


class Stage(nn.Module):
    """Blocks in a row."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, c, h, w) -> (b, c, h, w)."""
        for block in self.blocks:
            x = block(x)
        return x


class PatchEmbed(nn.Module):
    """A convolution; with a stride nothing is padded."""

    def __init__(self, inputs: int, outputs: int, side: int, stride: int) -> None:
        super().__init__()
        padding = side // 2 if stride == 1 else 0
        self.proj = nn.Conv2d(
            inputs, outputs, side, stride, padding, padding_mode="reflect" if padding else "zeros"
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, c, h, w) -> (b, outputs, h / stride, w / stride)."""
        return self.proj(x)


class PatchUnEmbed(nn.Module):
    """A convolution to more channels, which become pixels."""

    def __init__(self, inputs: int, outputs: int, side: int, factor: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Conv2d(inputs, outputs * factor**2, side, padding=side // 2, padding_mode="reflect"),
            nn.PixelShuffle(factor),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, c, h, w) -> (b, outputs, h * factor, w * factor)."""
        return self.proj(x)


class SKFusion(nn.Module):
    """Adds the decoder's path and a skip connection, weighted by channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = max(dim // 8, 4)
        self.mlp = nn.Sequential(
            nn.Conv2d(dim, hidden, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(hidden, 2 * dim, 1, bias=False),
        )

    def forward(self, decoder: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Two (b, c, h, w) -> (b, c, h, w)."""
        b, c = decoder.shape[:2]
        weights = self.mlp((decoder + skip).mean((2, 3), keepdim=True))
        weights = weights.reshape(b, 2, c, 1, 1).softmax(1)
        return decoder * weights[:, 0] + skip * weights[:, 1]


class DehazeFormer(nn.Module):
    """The network; the arguments are the fields of ours."""

    def __init__(
        self,
        hidden_sizes: Sequence[int],
        depths: Sequence[int],
        num_heads: Sequence[int],
        mlp_ratios: Sequence[float],
        attention_ratios: Sequence[float],
        conv: str,
    ) -> None:
        super().__init__()
        d = hidden_sizes

        def stage(i: int) -> Stage:
            first = math.ceil(depths[i] * (1 - attention_ratios[i]))
            return Stage([
                Block(d[i], num_heads[i], mlp_ratios[i], j >= first, j % 2 == 1, conv)
                for j in range(depths[i])
            ])  # fmt: skip

        self.patch_embed = PatchEmbed(3, d[0], 3, 1)
        self.layer1 = stage(0)
        self.patch_merge1 = PatchEmbed(d[0], d[1], 2, 2)
        self.skip1 = nn.Conv2d(d[0], d[0], 1)
        self.layer2 = stage(1)
        self.patch_merge2 = PatchEmbed(d[1], d[2], 2, 2)
        self.skip2 = nn.Conv2d(d[1], d[1], 1)
        self.layer3 = stage(2)
        self.patch_split1 = PatchUnEmbed(d[2], d[3], 1, 2)
        self.fusion1 = SKFusion(d[3])
        self.layer4 = stage(3)
        self.patch_split2 = PatchUnEmbed(d[3], d[4], 1, 2)
        self.fusion2 = SKFusion(d[4])
        self.layer5 = stage(4)
        self.patch_unembed = PatchUnEmbed(d[4], 4, 3, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(b, 3, h, w) -> (b, 3, h, w), both about [-1, 1]."""
        h, w = images.shape[2:]
        padded = F.pad(images, (0, -w % 4, 0, -h % 4), mode="reflect")
        first = self.layer1(self.patch_embed(padded))
        second = self.layer2(self.patch_merge1(first))
        x = self.patch_split1(self.layer3(self.patch_merge2(second)))
        x = self.layer4(self.fusion1(x, self.skip2(second)) + x)
        x = self.patch_split2(x)
        x = self.layer5(self.fusion2(x, self.skip1(first)) + x)
        gain, offset = self.patch_unembed(x).split((1, 3), 1)
        return (gain * padded - offset + padded)[:, :, :h, :w]
