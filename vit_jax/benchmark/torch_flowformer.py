"""FlowFormer in PyTorch, for its time to be compared with: written from the paper.

The submodules have the names of the published files, so that `checkpoints.torch` hands the weights
over. As there, context and position encodings are joined to the tokens before their layers, the
keys and values of the cost memory are computed once, and costs are read by `grid_sample`. Unlike
there, a flow is enlarged in evaluation after the last iteration alone.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from vit_jax.benchmark.torch_image_encoders import (
    FEATURES,
    Block,
    RaftEncoder,
    TwinsEncoder,
    attend,
    from_windows,
    to_windows,
)

_HIDDEN, _QUERY, _HEADS, _RADIUS = 128, 64, 8, 4
_PATCH, _WINDOW, _REDUCTION = 8, 7, 4
_POSITIONS = 2 * 160 - 1


def encode(xy: torch.Tensor, dim: int) -> torch.Tensor:
    """(..., 2) places -> (..., dim) sines and cosines."""
    frequencies = torch.arange(dim // 4, device=xy.device, dtype=xy.dtype) / 200
    angles = 3.14 * xy[..., None] * frequencies
    return torch.cat((angles.sin(), angles.cos()), -1).flatten(-2)


def grid(size: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """(h, w, 2) column and row of each place."""
    h, w = size
    y, x = (torch.arange(side, device=like.device, dtype=torch.float32) for side in size)
    return torch.stack((x.expand(h, w), y[:, None].expand(h, w)), -1)


class Feed(nn.Sequential):
    """Two linear layers; the published files count the dropout between them."""

    def __init__(self, dim: int) -> None:
        super().__init__(
            nn.Linear(dim, dim), nn.GELU(), nn.Identity(), nn.Linear(dim, dim), nn.Identity()
        )


class TokenAttention(nn.Module):
    """Attention of tokens to tokens, and an MLP.

    Args:
        dim: channels of the queries.
        memory: channels of keys and values.
        joins: whether the queries are joined to what the attention gives.
    """

    def __init__(self, dim: int, memory: int, joins: bool = False) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q, self.k, self.v = nn.Linear(dim, dim), nn.Linear(memory, dim), nn.Linear(memory, dim)
        self.proj = nn.Linear(2 * dim if joins else dim, dim)
        self.ffn = Feed(dim)

    def forward(self, x: torch.Tensor, memory: torch.Tensor | None = None) -> torch.Tensor:
        """(b, n, dim), and (b, m, memory) or itself, normalised, in its place -> (b, n, dim)."""
        y = self.norm1(x)
        memory = y if memory is None else memory
        out = attend(self.q(y), self.k(memory), self.v(memory), _HEADS)
        x = x + self.proj(out)
        return x + self.ffn(self.norm2(x))

    def read(
        self, x: torch.Tensor, encoded: torch.Tensor, k: torch.Tensor, v: torch.Tensor
    ) -> torch.Tensor:
        """(n, 1, dim), its places' encodings, keys and values (n, m, dim) -> (n, 1, dim)."""
        out = attend(self.q(self.norm1(x) + encoded), k, v, _HEADS)
        x = x + self.proj(torch.cat((out, x), -1))
        return x + self.ffn(self.norm2(x))


class LocalAttention(nn.Module):
    """Attention within windows, whose queries and keys see context and place."""

    def __init__(self, dim: int, context: int) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(dim + context, dim), nn.Linear(dim + context, dim)
        self.v, self.proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        if context:
            self.context_proj = nn.Linear(FEATURES, context)
        self.context = context

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """(b t, h, w, c) and (b, h, w, d) -> (b t, h, w, c)."""
        windows = to_windows(x, _WINDOW)
        both = windows
        if self.context:
            seen = self.context_proj(context).repeat_interleave(len(x) // len(context), 0)
            both = torch.cat((windows, to_windows(seen, _WINDOW)), -1)
        both = both + encode(grid((_WINDOW, _WINDOW), x), both.shape[-1]).flatten(0, 1)
        out = attend(self.q(both), self.k(both), self.v(windows), _HEADS)
        return self.proj(from_windows(out, _WINDOW, x.shape[1:3]))


class GlobalAttention(nn.Module):
    """Attention of all places to a smaller map, whose queries and keys see context and place."""

    def __init__(self, dim: int, context: int) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(dim + context, dim), nn.Linear(dim, dim)
        self.v, self.proj, self.norm = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.LayerNorm(dim)
        side = _REDUCTION
        if context:
            self.context_proj = nn.Linear(FEATURES, context)
            self.sr_key = nn.Conv2d(dim + context, dim, side, side)
            self.sr_value = nn.Conv2d(dim, dim, side, side)
        else:
            self.sr = nn.Conv2d(dim, dim, side, side)
        self.context = context

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """(b t, h, w, c) and (b, h, w, d) -> (b t, h, w, c)."""
        h, w = x.shape[1:3]
        both = x
        if self.context:
            seen = self.context_proj(context).repeat_interleave(len(x) // len(context), 0)
            both = torch.cat((x, seen), -1)
        q = self.q(both + encode(grid((h, w), x), both.shape[-1]))
        values = self._reduce(x, self.sr_value if self.context else self.sr)
        keys = self._reduce(both, self.sr_key) if self.context else values
        keys = keys + encode(_REDUCTION * grid(keys.shape[1:3], x), keys.shape[-1])
        q, k, v = (y.flatten(1, 2) for y in (q, self.k(keys), self.v(values)))
        return self.proj(attend(q, k, v, _HEADS)).view(x.shape)

    def _reduce(self, x: torch.Tensor, conv: nn.Module) -> torch.Tensor:
        x = F.pad(x, (0, 0, 0, -x.shape[2] % _REDUCTION, 0, -x.shape[1] % _REDUCTION))
        return self.norm(conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class VerticalLayer(nn.Module):
    """Attention of each token to the same one of other places."""

    def __init__(self, dim: int, context: int) -> None:
        super().__init__()
        self.local_block = Block(dim, LocalAttention(dim, context), 1e-5)
        self.global_block = Block(dim, GlobalAttention(dim, context), 1e-5)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """(b t, h, w, c) and (b, h, w, d) -> (b t, h, w, c)."""
        return self.global_block(self.local_block(x, context), context)


class PatchEmbed(nn.Module):
    """Patches of cost maps as tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Conv2d(1, 16, 6, 2, 2), nn.ReLU(inplace=True), nn.Conv2d(16, 32, 6, 2, 2),
            nn.ReLU(inplace=True), nn.Conv2d(32, 64, 6, 2, 2),
        )  # fmt: skip
        self.ffn_with_coord = nn.Sequential(
            nn.Conv2d(128, 128, 1), nn.ReLU(inplace=True), nn.Conv2d(128, 128, 1)
        )
        self.norm = nn.LayerNorm(128)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, 1, h, w) -> (n, tokens, 128)."""
        x = self.proj(F.pad(x, (0, -x.shape[3] % _PATCH, 0, -x.shape[2] % _PATCH)))
        places = _PATCH * grid(x.shape[2:], x) + _PATCH / 2
        encoded = encode(places, 64).permute(2, 0, 1).expand(len(x), -1, -1, -1)
        x = self.ffn_with_coord(torch.cat((x, encoded), 1))
        return self.norm(x.flatten(2).transpose(1, 2))


class CostEncoder(nn.Module):
    """From cost maps to a few tokens of each place."""

    def __init__(self, tokens: int, dim: int, depth: int, context: int) -> None:
        super().__init__()
        self.latent_tokens = nn.Parameter(torch.randn(1, tokens, dim))
        self.patch_embed, self.input_layer = PatchEmbed(), TokenAttention(dim, 128)
        self.encoder_layers = nn.ModuleList(TokenAttention(dim, dim) for _ in range(depth))
        self.vertical_encoder_layers = nn.ModuleList(
            VerticalLayer(dim, context) for _ in range(depth)
        )

    def forward(self, cost: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """(b h w, 1, h2, w2) and (b, h, w, d) -> (b h w, tokens, dim)."""
        b, h, w, _ = context.shape
        patches = self.patch_embed(cost)
        x = first = self.input_layer(self.latent_tokens.expand(len(cost), -1, -1), patches)
        tokens, dim = x.shape[1:]
        for among, vertical in zip(self.encoder_layers, self.vertical_encoder_layers):
            y = among(x).view(b, h * w, tokens, dim).transpose(1, 2)
            y = vertical(y.reshape(b * tokens, h, w, dim), context)
            x = y.view(b, tokens, h * w, dim).transpose(1, 2).reshape(first.shape)
        return x + first


class MotionEncoder(nn.Module):
    """Features of flow and costs."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.convc1 = nn.Conv2d(inputs, 256, 1)
        self.convc2 = nn.Conv2d(256, 192, 3, padding=1)
        self.convf1 = nn.Conv2d(2, 128, 7, padding=3)
        self.convf2 = nn.Conv2d(128, 64, 3, padding=1)
        self.conv = nn.Conv2d(256, _HIDDEN - 2, 3, padding=1)

    def forward(self, flow: torch.Tensor, costs: torch.Tensor) -> torch.Tensor:
        """(b, 2, h, w) and (b, c, h, w) -> (b, 128, h, w)."""
        x = F.relu(self.convc2(F.relu(self.convc1(costs))))
        y = F.relu(self.convf2(F.relu(self.convf1(flow))))
        return torch.cat((F.relu(self.conv(torch.cat((x, y), 1))), flow), 1)


class Gru(nn.Module):
    """Convolutions along rows and then columns as gates."""

    def __init__(self, dim: int, inputs: int) -> None:
        super().__init__()
        for i, kernel in ((1, (1, 5)), (2, (5, 1))):
            border = kernel[0] // 2, kernel[1] // 2
            for gate in "zrq":
                conv = nn.Conv2d(dim + inputs, dim, kernel, padding=border)
                self.add_module(f"conv{gate}{i}", conv)

    def forward(self, h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """State (b, dim, h, w) and input (b, c, h, w) -> the new state."""
        for convz, convr, convq in (
            (self.convz1, self.convr1, self.convq1),
            (self.convz2, self.convr2, self.convq2),
        ):
            both = torch.cat((h, x), 1)
            z, r = convz(both).sigmoid(), convr(both).sigmoid()
            h = torch.lerp(h, convq(torch.cat((r * h, x), 1)).tanh(), z)
        return h


class FlowHead(nn.Module):
    """By how much the flow changes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(_HIDDEN, 256, 3, padding=1)
        self.conv2 = nn.Conv2d(256, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, 128, h, w) -> (b, 2, h, w)."""
        return self.conv2(F.relu(self.conv1(x)))


class Aggregator(nn.Module):
    """Motions of others, added to each place's own."""

    def __init__(self) -> None:
        super().__init__()
        self.to_v = nn.Conv2d(_HIDDEN, _HIDDEN, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, shares: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """(b, h w, h w) and (b, c, h, w) -> (b, c, h, w)."""
        out = self.to_v(x).flatten(2) @ shares.transpose(1, 2)
        return x + self.gamma * out.view(x.shape)


class UpdateBlock(nn.Module):
    """What improves the flow."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = MotionEncoder(_QUERY + (2 * _RADIUS + 1) ** 2)
        self.gru, self.flow_head = Gru(_HIDDEN, 3 * _HIDDEN), FlowHead()
        self.mask = nn.Sequential(
            nn.Conv2d(_HIDDEN, 256, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(256, 576, 1)
        )
        self.aggregator = Aggregator()


class Similarity(nn.Module):
    """In which shares motions of others are taken; with tables that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.to_qk = nn.Conv2d(_HIDDEN, 2 * _HIDDEN, 1, bias=False)
        self.pos_emb = nn.ModuleDict(
            {f"rel_{side}": nn.Embedding(_POSITIONS, _HIDDEN) for side in ("height", "width")}
        )
        places = torch.arange((_POSITIONS + 1) // 2)
        self.pos_emb.register_buffer("rel_ind", places - places[:, None] + len(places) - 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(b, c, h, w) -> (b, h w, h w)."""
        q, k = self.to_qk(x).flatten(2).chunk(2, 1)
        return (q.transpose(1, 2) * _HIDDEN**-0.5 @ k).softmax(-1)


class Decoder(nn.Module):
    """Improves a flow again and again."""

    def __init__(self, dim: int, iterations: int) -> None:
        super().__init__()
        self.flow_token_encoder = nn.Sequential(
            nn.Conv2d((2 * _RADIUS + 1) ** 2, _QUERY, 1), nn.GELU(), nn.Conv2d(_QUERY, _QUERY, 1)
        )
        self.proj = nn.Conv2d(FEATURES, 2 * _HIDDEN, 1)
        self.decoder_layer = nn.ModuleDict(
            {"cross_attend": TokenAttention(_QUERY, dim, joins=True)}
        )
        self.update_block, self.att = UpdateBlock(), Similarity()
        self.iterations = iterations

    def forward(
        self, cost: torch.Tensor, memory: torch.Tensor, context: torch.Tensor
    ) -> list[torch.Tensor]:
        """(b h w, 1, h2, w2), (b h w, t, dim), (b, 256, h, w) -> flows (b, 2, 8h, 8w)."""
        state, given = self.proj(context).chunk(2, 1)
        state, given = state.tanh(), given.relu()
        shares, update = self.att(given), self.update_block
        reader = self.decoder_layer["cross_attend"]
        k, v = reader.k(memory), reader.v(memory)
        start = grid(context.shape[2:], context)
        flow, flows = torch.zeros_like(start).expand(len(context), -1, -1, -1), []
        for i in range(self.iterations):
            flow = flow.detach()
            xy = start + flow
            costs = look_up(cost, xy)
            query = self.flow_token_encoder(costs).permute(0, 2, 3, 1)
            encoded = encode(xy, _QUERY).reshape(-1, 1, _QUERY)
            found = reader.read(query.reshape(-1, 1, _QUERY), encoded, k, v).view(query.shape)
            costs = torch.cat((found.permute(0, 3, 1, 2), costs), 1)
            motion = update.encoder(flow.permute(0, 3, 1, 2), costs)
            others = update.aggregator(shares, motion)
            state = update.gru(state, torch.cat((given, motion, others), 1))
            flow = flow + update.flow_head(state).permute(0, 2, 3, 1)
            if self.training or i == self.iterations - 1:
                flows.append(enlarge(flow.permute(0, 3, 1, 2), 0.25 * update.mask(state)))
        return flows


def look_up(cost: torch.Tensor, xy: torch.Tensor) -> torch.Tensor:
    """(b h w, 1, h2, w2) and (b, h, w, 2) -> (b, 81, h, w) costs around; the slow index moves x."""
    side = 2 * _RADIUS + 1
    steps = grid((side, side), cost).transpose(0, 1) - _RADIUS
    places = xy.reshape(-1, 1, 1, 2) + steps
    size = torch.tensor((cost.shape[3] - 1, cost.shape[2] - 1), device=cost.device)
    found = F.grid_sample(cost, 2 * places / size - 1, align_corners=True)
    return found.view(*xy.shape[:3], -1).permute(0, 3, 1, 2)


def enlarge(flow: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(b, 2, h, w) and (b, 576, h, w) -> (b, 2, 8h, 8w), by means of nine neighbours."""
    b, _, h, w = flow.shape
    shares = mask.view(b, 1, 9, 8, 8, h, w).softmax(2)
    around = F.unfold(8 * flow, 3, padding=1).view(b, 2, 9, 1, 1, h, w)
    return (shares * around).sum(2).permute(0, 1, 4, 2, 5, 3).reshape(b, 2, 8 * h, 8 * w)


class MemoryEncoder(nn.Module):
    """Features of both images, their costs, and the memory of these."""

    def __init__(self, encoder: nn.Module, cost_encoder: CostEncoder) -> None:
        super().__init__()
        self.feat_encoder = encoder
        self.channel_convertor = nn.Conv2d(FEATURES, FEATURES, 1, bias=False)
        self.cost_perceiver_encoder = cost_encoder

    def forward(self, images: torch.Tensor, context: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(2b, 3, h, w), the first images first, and the context -> costs, and memory."""
        features = self.channel_convertor(self.feat_encoder(images))
        first, second = features.flatten(2).chunk(2)
        cost = (first.transpose(1, 2) @ second).view(-1, 1, *features.shape[2:])
        return cost, self.cost_perceiver_encoder(cost, context.permute(0, 2, 3, 1))


class FlowFormer(nn.Module):
    """FlowFormer; the arguments are the fields of ours."""

    def __init__(
        self,
        encoder: str,
        tokens: int,
        features: int,
        depth: int,
        context_features: int,
        iterations: int,
    ) -> None:
        super().__init__()
        make = RaftEncoder if encoder == "raft" else TwinsEncoder
        cost_encoder = CostEncoder(tokens, features, depth, context_features)
        self.memory_encoder = MemoryEncoder(make(), cost_encoder)
        self.memory_decoder = Decoder(features, iterations)
        self.context_encoder = make()

    def forward(self, image: torch.Tensor, image2: torch.Tensor) -> torch.Tensor:
        """Two of (b, 3, h, w) -> (b, 2, h, w), or (iterations, b, 2, h, w) in training."""
        h, w = image.shape[2:]
        top, left = (-side % _PATCH // 2 for side in (h, w))
        border = (left, -w % _PATCH - left, top, -h % _PATCH - top)
        image, image2 = (F.pad(x, border, mode="replicate") for x in (image, image2))
        context = self.context_encoder(image)
        cost, memory = self.memory_encoder(torch.cat((image, image2)), context)
        flows = self.memory_decoder(cost, memory, context)
        flows = [flow[..., top : top + h, left : left + w] for flow in flows]
        return torch.stack(flows) if self.training else flows[-1]
