"""A class as a direction: the average of what a text tower makes of its name in several prompts.

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision"
(2021), section 3.1.4: the ensemble is one of embeddings, not of probabilities.
"""

from collections.abc import Callable, Sequence

import numpy as np

_TEXTS_AT_ONCE = 256

EmbedText = Callable[[np.ndarray], np.ndarray]


def average(embeddings: np.ndarray) -> np.ndarray:
    """Averages the embeddings of each class's prompts, each of length 1, to one of length 1.

    Args:
        embeddings: (classes, prompts, d) of any length.

    Returns:
        (classes, d) float32.
    """
    mean = _normalized(np.asarray(embeddings, np.float64)).mean(axis=1)
    return _normalized(mean).astype(np.float32)


def embed_classes(
    embed_text: EmbedText,
    tokenizer: Callable[[Sequence[str]], np.ndarray],
    names: Sequence[str],
    prompts: Sequence[str],
) -> np.ndarray:
    """Embeds each class's name in every prompt, and averages.

    Args:
        embed_text: from tokens (n, length) int32 to embeddings (n, d); n is the same at each call,
            so that it is compiled once.
        tokenizer: from n texts to tokens (n, length).
        names: of the classes, as they are to be read.
        prompts: each with {} in the place of the name.

    Returns:
        (classes, d) float32 of length 1.

    Raises:
        ValueError: without a class, without a prompt, or for a prompt without {}.
    """
    if not names:
        raise ValueError("there is no class to embed: give at least one name")
    if not prompts:
        raise ValueError("there is no prompt: give at least one, such as 'a photo of a {}.'")
    for prompt in prompts:
        if "{}" not in prompt:
            raise ValueError(f"the prompt {prompt!r} has no {{}} for the name of a class")
    texts = [prompt.replace("{}", name) for name in names for prompt in prompts]
    tokens = np.asarray(tokenizer(texts))
    size = min(_TEXTS_AT_ONCE, len(tokens))
    filled = np.pad(tokens, [(0, -len(tokens) % size), (0, 0)], mode="edge")
    parts = [embed_text(filled[i : i + size]) for i in range(0, len(filled), size)]
    embeddings = np.concatenate([np.asarray(part) for part in parts])[: len(tokens)]
    return average(embeddings.reshape(len(names), len(prompts), -1))


def _normalized(x: np.ndarray) -> np.ndarray:
    return x / (np.linalg.norm(x, axis=-1, keepdims=True) + 1e-8)
