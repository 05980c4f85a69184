"""Models as people write them, none of them an nn.Sequential: skips, in-place layers, tied weights, masks, tokens."""

import torch
from torch import nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """As torchvision's BasicBlock: in place wherever that is possible."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        result: torch.Tensor = self.relu(out)
        return result


class ResNet(nn.Module):
    """As torchvision's, small."""

    def __init__(self, classes: int = 10, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(ResidualBlock(width, width), ResidualBlock(width, width))
        self.layer2 = nn.Sequential(ResidualBlock(width, 2 * width, 2), ResidualBlock(2 * width, 2 * width))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer2(self.layer1(x))
        result: torch.Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return result


def _double(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True), nn.Dropout(0.1)
    )


class UNet(nn.Module):
    """Skips from every level of the way down to the way up, so several tensors cross each cut; it classifies."""

    def __init__(self, classes: int = 4, width: int = 4) -> None:
        super().__init__()
        self.down1 = _double(1, width)
        self.down2 = _double(width, 2 * width)
        self.middle = _double(2 * width, 4 * width)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2)
        self.join2 = _double(4 * width, 2 * width)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.join1 = _double(2 * width, width)
        self.head = nn.Conv2d(width, 1, 1)
        self.fc = nn.Linear(64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.down1(x)
        second = self.down2(functional.max_pool2d(first, 2))
        value = self.middle(functional.max_pool2d(second, 2))
        value = self.join2(torch.cat([self.up2(value), second], 1))
        value = self.join1(torch.cat([self.up1(value), first], 1))
        result: torch.Tensor = self.fc(self.head(value).flatten(1))
        return result


class LstmClassifier(nn.Module):
    """Tokens, two LSTM layers with dropout between them, the last step's output."""

    def __init__(self, vocabulary: int = 20, classes: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, 8)
        self.lstm = nn.LSTM(8, 16, num_layers=2, batch_first=True, dropout=0.2)
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(16, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs, _ = self.lstm(self.embed(x))
        result: torch.Tensor = self.fc(self.drop(outputs[:, -1]))
        return result


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        rows, length, width = x.shape
        q, k, v = self.qkv(x).view(rows, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / (width // self.heads) ** 0.5).masked_fill(mask, float("-inf")).softmax(-1)
        result: torch.Tensor = self.out((weights @ v).transpose(1, 2).reshape(rows, length, width))
        return result


class _Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = _Attention(width, 2)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width), nn.Dropout(0.1))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x), mask)
        result: torch.Tensor = x + self.mlp(self.norm2(x))
        return result


class TinyGpt(nn.Module):
    """A causal mask that depends on shapes and one that depends on the tokens, tied weights, positions in a buffer."""

    positions: torch.Tensor

    def __init__(self, vocabulary: int = 24, length: int = 10, width: int = 16, layers: int = 3) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.register_buffer("positions", torch.randn(length, width, generator=torch.Generator().manual_seed(3)), False)
        self.layers = nn.ModuleList(_Layer(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        padding = (x == 0)[:, None, None, :] & ~torch.eye(length, dtype=torch.bool)
        value = self.tokens(x) + self.positions[:length]
        for layer in self.layers:
            value = layer(value, causal | padding)
        result: torch.Tensor = self.head(self.norm(value[:, -1]))
        return result


class _InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        wide = 3 * inputs
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.Hardswish(inplace=True),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, 4, 1), nn.ReLU(), nn.Conv2d(4, wide, 1), nn.Hardsigmoid()
        )
        self.project = nn.Sequential(nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.skips = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value = self.conv(x)
        value = self.project(value * self.squeeze(value))
        return x + value if self.skips else value


class MobileNet(nn.Module):
    """As torchvision's MobileNetV3, small: depthwise convolutions, squeeze and excitation, hard swish."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish(inplace=True)),
            _InvertedResidual(8, 8, 1), _InvertedResidual(8, 12, 2), _InvertedResidual(12, 12, 1),
            nn.Sequential(nn.Conv2d(12, 24, 1, bias=False), nn.BatchNorm2d(24), nn.Hardswish(inplace=True)),
        )  # fmt: skip
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(24, 32), nn.Hardswish(inplace=True), nn.Dropout(0.2), nn.Linear(32, classes)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return result


def in_place_chain() -> nn.Sequential:
    """An nn.Sequential whose items change their input, with names of their own."""
    chain = nn.Sequential()
    chain.add_module("conv", nn.Conv2d(3, 6, 3, padding=1))
    chain.add_module("relu", nn.ReLU(inplace=True))
    chain.add_module("norm", nn.BatchNorm2d(6))
    chain.add_module("drop", nn.Dropout(0.2, inplace=True))
    chain.add_module("flat", nn.Flatten())
    chain.add_module("fc", nn.Linear(6 * 64, 10))
    return chain


class _Scaled(nn.Module):
    """Adds what `forward_of` says: the ways in which a module cannot be exported, or only wrongly."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, classes)

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.second(self.middle(self.first(x)))
        return result


class DependsOnData(_Scaled):
    def middle(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum() > 0 else x


class FixedBatch(_Scaled):
    def middle(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(3, 6)


class OtherwiseWhenExported(_Scaled):
    def middle(self, x: torch.Tensor) -> torch.Tensor:
        return x * (1.5 if torch.compiler.is_compiling() else 1.25)


class ForgetfulCounter(_Scaled):
    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1), persistent=False)

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.add_(1)
        return x + self.seen


class RandomConstant(_Scaled):
    shift: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.randn(6), persistent=False)

    def middle(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.shift


class SamplesAtTheEnd(_Scaled):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + x[:, :4]


class ReturnsTwo(_Scaled):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x), x  # type: ignore[return-value]


def vit() -> nn.Module:
    """ViT of transformers."""
    from transformers import ViTConfig, ViTForImageClassification

    return ViTForImageClassification(
        ViTConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16,
            patch_size=4, num_labels=4, attn_implementation="eager",
        )
    )  # fmt: skip


class LastToken(nn.Module):
    """Predicts what follows the last token."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.model(x).logits[:, -1]
        return result


def gpt2() -> nn.Module:
    """GPT-2 of transformers, which has tied weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return LastToken(
        GPT2LMHeadModel(
            GPT2Config(
            vocab_size=24, n_positions=16, n_embd=16, n_layer=2, n_head=2, use_cache=False, bos_token_id=0,
            eos_token_id=0, attn_implementation="eager",
            )
        )
    )  # fmt: skip


def llama() -> nn.Module:
    """Llama of transformers, with grouped queries."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LastToken(
        LlamaForCausalLM(
            LlamaConfig(
            vocab_size=24, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, use_cache=False, attn_implementation="eager",
            )
        )
    )  # fmt: skip


def bert() -> nn.Module:
    """BERT of transformers, which classifies."""
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(
        BertConfig(
            vocab_size=24, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=16, num_labels=4, attn_implementation="eager",
        )
    )  # fmt: skip
