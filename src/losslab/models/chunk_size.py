"""For how many tokens logits are held at once. Does not import torch, since the plan uses it."""

# Elements of the float32 temporaries of torch operations, beside the kernel.
FLOAT32_ELEMENTS = {"cuda": 2**24, "cpu": 2**20}


def chunk_tokens(tokens: int, vocabulary: int, itemsize: int, device: str, buffers: int = 1) -> int:
    """The number of tokens whose logits, of `itemsize` bytes in each of `buffers` tensors, are held at once.

    On a GPU each chunk adds to the float32 gradient of the weight: a pass over (V, D) that takes as long as the matrix
    products of some 200 tokens, whatever D and V. So chunks grow with the micro-batch, as its activations do: a quarter
    of its logits, but at least 1 GiB and at most 2 GiB. On a CPU a chunk has 2^26 logits.
    """
    row = vocabulary * itemsize * buffers
    if device == "cuda":
        most, tile = min(max(tokens * row // 4, 2**30), 2**31) // row, 128
    else:
        most, tile = 2**26 // vocabulary, 1
    chunks = -(-tokens // max(1, most))
    return -(-tokens // (chunks * tile)) * tile if chunks > 1 else max(1, tokens)
