"""What FlowFormer encodes images with, in PyTorch, for its time to be compared with.

Written from the papers: the first two stages of Twins-SVT-L (Chu et al., 2021), and the encoder of
RAFT (Teed and Deng, 2020). The submodules have the names of the published files.
"""

import torch
import torch.nn.functional as F
from torch import nn

FEATURES = 256  # that either encoder puts out, at an eighth of the size
_WIDTHS = (128, FEATURES)  # of the stages of Twins
_REDUCTIONS = (8, 4)
_HEAD = 32
_LAST = 1024  # channels of the last stage, whose norm is in the files all the same


class Mlp(nn.Module):
    """Two linear layers."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., c) -> (..., c)."""
        return self.fc2(F.gelu(self.fc1(x)))


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    """Attention of (..., n, c) over (..., m, c), the heads being parts of the channels."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(-3, -2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(-3, -2).flatten(-2)


def to_windows(x: torch.Tensor, side: int) -> torch.Tensor:
    """(b, h, w, c) -> (b windows, side * side, c); sides that it does not divide are padded.

    Of (b, windows, ...) `torch.compile` makes attention that is wrong, in PyTorch 2.13 on a CPU.
    """
    x = F.pad(x, (0, 0, 0, -x.shape[2] % side, 0, -x.shape[1] % side))
    b, h, w, c = x.shape
    x = x.view(b, h // side, side, w // side, side, c).transpose(2, 3)
    return x.reshape(-1, side * side, c)


def from_windows(x: torch.Tensor, side: int, size: tuple[int, int]) -> torch.Tensor:
    """Inverse of `to_windows`, for maps of (h, w)."""
    rows, columns = (-(-length // side) for length in size)
    x = x.view(-1, rows, columns, side, side, x.shape[-1]).transpose(2, 3)
    return x.reshape(len(x), rows * side, columns * side, -1)[:, : size[0], : size[1]]


class LocalAttention(nn.Module):
    """Attention within windows of 7 x 7."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.heads = dim // _HEAD

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, h, w, c) -> (b, h, w, c)."""
        q, k, v = self.qkv(to_windows(x, 7)).chunk(3, -1)
        return self.proj(from_windows(attend(q, k, v, self.heads), 7, x.shape[1:3]))


class GlobalAttention(nn.Module):
    """Attention of all places to a smaller map."""

    def __init__(self, dim: int, reduction: int) -> None:
        super().__init__()
        self.q, self.kv, self.proj = (
            nn.Linear(dim, dim),
            nn.Linear(dim, 2 * dim),
            nn.Linear(dim, dim),
        )
        self.sr = nn.Conv2d(dim, dim, reduction, reduction)
        self.norm = nn.LayerNorm(dim)
        self.heads = dim // _HEAD

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, h, w, c) -> (b, h, w, c)."""
        y = self.sr(x.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        k, v = self.kv(self.norm(y)).chunk(2, -1)
        return self.proj(attend(self.q(x).flatten(1, 2), k, v, self.heads)).view(x.shape)


class Block(nn.Module):
    """x + attention(LN(x)), then x + MLP(LN(x))."""

    def __init__(self, dim: int, attention: nn.Module, epsilon: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, epsilon), nn.LayerNorm(dim, epsilon)
        self.attn, self.mlp = attention, Mlp(dim)

    def forward(self, x: torch.Tensor, *context: torch.Tensor) -> torch.Tensor:
        """(b, h, w, c), and what the attention takes besides -> (b, h, w, c)."""
        x = x + self.attn(self.norm1(x), *context)
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """Patches as tokens, normalised."""

    def __init__(self, inputs: int, dim: int, side: int) -> None:
        super().__init__()
        self.proj, self.norm = nn.Conv2d(inputs, dim, side, side), nn.LayerNorm(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, c, h, w) -> (b, h / side, w / side, dim)."""
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class PositionConv(nn.Module):
    """A depthwise convolution, which tells positions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1, groups=dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, h, w, c) -> (b, h, w, c)."""
        return x + self.proj(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class TwinsStages(nn.Module):
    """The first two stages of Twins-SVT-L."""

    def __init__(self) -> None:
        super().__init__()
        first, second = _WIDTHS
        self.patch_embeds = nn.ModuleList((PatchEmbed(3, first, 4), PatchEmbed(first, second, 2)))
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                Block(dim, attention, 1e-6)
                for attention in (LocalAttention(dim), GlobalAttention(dim, reduction))
            )
            for dim, reduction in zip(_WIDTHS, _REDUCTIONS)
        )
        self.pos_block = nn.ModuleList(map(PositionConv, _WIDTHS))
        self.norm = nn.LayerNorm(_LAST)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, 3, h, w) -> (b, 256, h / 8, w / 8)."""
        for embed, blocks, positions in zip(self.patch_embeds, self.blocks, self.pos_block):
            x = positions(blocks[0](embed(x)))
            x = blocks[1](x).permute(0, 3, 1, 2)
        return x


class TwinsEncoder(nn.Module):
    """The same, in the place that it has in the files."""

    def __init__(self) -> None:
        super().__init__()
        self.svt = TwinsStages()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, 3, h, w) -> (b, 256, h / 8, w / 8)."""
        return self.svt(x)


class Residual(nn.Module):
    """Two 3x3 convolutions around a shortcut, with instance norms."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, c, h, w) -> (b, outputs, h / stride, w / stride)."""
        y = F.relu(F.instance_norm(self.conv1(x)))
        y = F.relu(F.instance_norm(self.conv2(y)))
        return F.relu(y + (x if self.downsample is None else F.instance_norm(self.downsample(x))))


class RaftEncoder(nn.Module):
    """RAFT's encoder of residual blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3)
        widths = ((64, 64, 1), (64, 96, 2), (96, 128, 2))
        for i, (inputs, outputs, stride) in enumerate(widths, 1):
            blocks = Residual(inputs, outputs, stride), Residual(outputs, outputs, 1)
            self.add_module(f"layer{i}", nn.Sequential(*blocks))
        self.conv2 = nn.Conv2d(128, FEATURES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, 3, h, w) -> (b, 256, h / 8, w / 8)."""
        x = F.relu(F.instance_norm(self.conv1(x)))
        return self.conv2(self.layer3(self.layer2(self.layer1(x))))
