"""SwinIR in PyTorch, for its time to be compared with: written from the paper.

The submodules have the official code's names, so that `checkpoints.torch` hands the weights over.
As there, pixels are tokens in the blocks, and the mask of shifted windows is computed once.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

_HIDDEN = 64  # channels while the image is enlarged


class WindowAttention(nn.Module):
    """Attention of each window of pixels, with a bias from their offsets."""

    def __init__(self, dim: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.num_heads, self.scale = num_heads, (dim // num_heads) ** -0.5
        offsets = 2 * window_size - 1
        self.relative_position_bias_table = nn.Parameter(torch.zeros(offsets**2, num_heads))
        side = torch.arange(window_size)
        y, x = (axis.flatten() for axis in torch.meshgrid(side, side, indexing="ij"))
        y, x = (axis[:, None] - axis + window_size - 1 for axis in (y, x))
        self.register_buffer("relative_position_index", y * offsets + x, persistent=False)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """(b windows, n, c), and (windows, n, n) for shifted windows -> (b windows, n, c)."""
        count, n, c = x.shape
        qkv = self.qkv(x).reshape(count, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        scores = (q * self.scale) @ k.transpose(-2, -1) + bias
        if mask is not None:
            scores = scores.reshape(-1, len(mask), self.num_heads, n, n) + mask[:, None]
            scores = scores.reshape(count, self.num_heads, n, n)
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(count, n, c))


class Mlp(nn.Module):
    """Two linear layers."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., c) -> (..., c)."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """x + attention(LN(x)), then x + MLP(LN(x))."""

    def __init__(
        self, dim: int, num_heads: int, window_size: int, shifted: bool, mlp_ratio: float
    ) -> None:
        super().__init__()
        self.window_size, self.shift = window_size, window_size // 2 if shifted else 0
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, window_size)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: torch.Tensor, size: tuple[int, int], mask: torch.Tensor) -> torch.Tensor:
        """(b, h w, c), (h, w) and the mask of shifted windows -> (b, h w, c)."""
        y = self.norm1(x).view(len(x), *size, -1)
        if self.shift:
            y = self._attend(y.roll((-self.shift, -self.shift), (1, 2)), mask)
            y = y.roll((self.shift, self.shift), (1, 2))
        else:
            y = self._attend(y, None)
        x = x + y.reshape(x.shape)
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        windows = self.attn(partition(x, self.window_size), mask)
        b, h, w, c = x.shape
        side = self.window_size
        windows = windows.view(b, h // side, w // side, side, side, c)
        return windows.transpose(2, 3).reshape(b, h, w, c)


class ResidualGroup(nn.Module):
    """Blocks in a row, of which every other one has shifted windows."""

    def __init__(
        self, dim: int, depth: int, num_heads: int, window_size: int, mlp_ratio: float
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(dim, num_heads, window_size, i % 2 == 1, mlp_ratio) for i in range(depth)
        )

    def forward(self, x: torch.Tensor, size: tuple[int, int], mask: torch.Tensor) -> torch.Tensor:
        """(b, h w, c), (h, w) and the mask of shifted windows -> (b, h w, c)."""
        for block in self.blocks:
            x = block(x, size, mask)
        return x


class Group(nn.Module):
    """RSTB: x + convolution(blocks(x))."""

    def __init__(self, residual_group: ResidualGroup, conv: nn.Module) -> None:
        super().__init__()
        self.residual_group, self.conv = residual_group, conv

    def forward(self, x: torch.Tensor, size: tuple[int, int], mask: torch.Tensor) -> torch.Tensor:
        """(b, h w, c), (h, w) and the mask of shifted windows -> (b, h w, c)."""
        y = to_image(self.residual_group(x, size, mask), size)
        return x + to_tokens(self.conv(y))


class PatchEmbed(nn.Module):
    """Pixels as tokens, normalised."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, c, h, w) -> (b, h w, c)."""
        return self.norm(to_tokens(x))


class SwinIR(nn.Module):
    """The network, for images of one size; the other arguments are the fields of ours."""

    def __init__(
        self,
        image_size: tuple[int, int],
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_size: int,
        mlp_ratio: float,
        upscale: int,
        upsampler: str,
        resi_connection: str,
        img_range: float,
        in_channels: int,
    ) -> None:
        super().__init__()
        self.window_size, self.upscale, self.upsampler = window_size, upscale, upsampler
        self.img_range, self.in_channels = img_range, in_channels
        mean = (0.4488, 0.4371, 0.4040) if in_channels == 3 else (0.0,)
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        mask = make_mask(self._padded(image_size), window_size)
        self.register_buffer("attn_mask", mask, persistent=False)

        self.conv_first = conv3x3(in_channels, embed_dim)
        self.patch_embed = PatchEmbed(embed_dim)
        self.layers = nn.ModuleList(
            Group(
                ResidualGroup(embed_dim, depth, heads, window_size, mlp_ratio),
                connection(embed_dim, resi_connection),
            )
            for depth, heads in zip(depths, num_heads, strict=True)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = connection(embed_dim, resi_connection)
        self._make_upsampler(embed_dim)

    def _make_upsampler(self, dim: int) -> None:
        colors, scale = self.in_channels, self.upscale
        if self.upsampler == "pixelshuffledirect":
            self.upsample = nn.Sequential(conv3x3(dim, colors * scale**2), nn.PixelShuffle(scale))
            return
        if not self.upsampler:
            self.conv_last = conv3x3(dim, colors)
            return
        self.conv_before_upsample = nn.Sequential(conv3x3(dim, _HIDDEN), nn.LeakyReLU(0.01, True))
        if self.upsampler == "pixelshuffle":
            factors = [3] if scale == 3 else [2] * (scale.bit_length() - 1)
            self.upsample = nn.Sequential(*(
                layer for factor in factors
                for layer in (conv3x3(_HIDDEN, _HIDDEN * factor**2), nn.PixelShuffle(factor))
            ))  # fmt: skip
        else:
            self.conv_up1 = conv3x3(_HIDDEN, _HIDDEN)
            if scale == 4:
                self.conv_up2 = conv3x3(_HIDDEN, _HIDDEN)
            self.conv_hr = conv3x3(_HIDDEN, _HIDDEN)
        self.conv_last = conv3x3(_HIDDEN, colors)

    def _padded(self, size: tuple[int, int]) -> tuple[int, int]:
        h, w = (side + -side % self.window_size for side in size)
        return h, w

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(b, 3, h, w) -> (b, 3, h upscale, w upscale), both about [-1, 1]."""
        channels, h, w = images.shape[1:]
        x = (images + 1) / 2
        if self.in_channels == 1 < channels:
            red, green, blue = x.split(1, 1)
            x = 0.299 * red + 0.587 * green + 0.114 * blue
        size = self._padded((h, w))
        x = F.pad(x, (0, size[1] - w, 0, size[0] - h), mode="reflect")
        x = (x - self.mean) * self.img_range

        first = self.conv_first(x)
        features = first + self.conv_after_body(self._deep_features(first, size))
        x = self._enlarge(features) if self.upsampler else x + self.conv_last(features)

        x = (x / self.img_range + self.mean)[:, :, : h * self.upscale, : w * self.upscale]
        return (2 * x - 1).expand(-1, channels, -1, -1)

    def _deep_features(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        tokens = self.patch_embed(x)
        for layer in self.layers:
            tokens = layer(tokens, size, self.attn_mask)
        return to_image(self.norm(tokens), size)

    def _enlarge(self, x: torch.Tensor) -> torch.Tensor:
        if self.upsampler == "pixelshuffledirect":
            return self.upsample(x)
        x = self.conv_before_upsample(x)
        if self.upsampler == "pixelshuffle":
            return self.conv_last(self.upsample(x))
        for conv in (self.conv_up1, self.conv_up2) if self.upscale == 4 else (self.conv_up1,):
            x = F.leaky_relu(conv(F.interpolate(x, scale_factor=2, mode="nearest")), 0.2)
        return self.conv_last(F.leaky_relu(self.conv_hr(x), 0.2))


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    """A convolution that keeps the size."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def connection(dim: int, kind: str) -> nn.Module:
    """What ends a group: "1conv", or "3conv" with a quarter of the channels in between."""
    if kind == "1conv":
        return conv3x3(dim, dim)
    return nn.Sequential(
        conv3x3(dim, dim // 4),
        nn.LeakyReLU(0.2, True),
        nn.Conv2d(dim // 4, dim // 4, 1),
        nn.LeakyReLU(0.2, True),
        conv3x3(dim // 4, dim),
    )


def to_tokens(x: torch.Tensor) -> torch.Tensor:
    """(b, c, h, w) -> (b, h w, c)."""
    return x.flatten(2).transpose(1, 2)


def to_image(tokens: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(b, h w, c) -> (b, c, h, w)."""
    return tokens.transpose(1, 2).unflatten(2, size)


def partition(x: torch.Tensor, side: int) -> torch.Tensor:
    """(b, h, w, c) -> (b windows, side^2, c)."""
    b, h, w, c = x.shape
    windows = x.view(b, h // side, side, w // side, side, c).transpose(2, 3)
    return windows.reshape(-1, side**2, c)


def make_mask(size: tuple[int, int], window_size: int) -> torch.Tensor:
    """(windows, n, n): -100 where a shift by half a window brought pixels together, 0 elsewhere."""
    borders = [
        torch.tensor([0] * (side - window_size) + [1] * (window_size - window_size // 2)
                     + [2] * (window_size // 2))
        for side in size
    ]  # fmt: skip
    regions = (3 * borders[0][:, None] + borders[1])[None, :, :, None]
    regions = partition(regions, window_size).squeeze(2)
    return -100.0 * (regions[:, :, None] != regions[:, None]).float()
