"""The least arithmetic that each stage of EK-FAC influence needs on a workload, in FLOP (a multiply-add counts two).

Linear layers forwards and for the input gradient, no weight gradients; causal attention as half of the square;
symmetric products as half; Λ by the cheaper of rotating rows and rotating gradients (docs/method.md). Elementwise
work counts nothing, so the share of a product rate that a stage reaches is understated.
"""

import json
import os


def shapes(folder, spec):
    """`(tracked layers as (outputs, inputs), positions of an example, what else a position costs forwards)`."""
    with open(os.path.join(folder, spec["model"], "config.json")) as file:
        config = json.load(file)
    if spec["kind"] == "mlp":
        sizes = config["layer_sizes"]
        return list(zip(sizes[1:], sizes)), 1, 0
    d, blocks, t = config["n_embd"], config["n_layer"], config["n_positions"]
    layers = [(3 * d, d), (d, d), (4 * d, d), (d, 4 * d)] * blocks
    return layers, t, 2 * config["vocab_size"] * d + 2 * t * d * blocks


def minimal_work(folder, spec):
    """FLOP of each stage, and the positions it goes through."""
    layers, t, beside = shapes(folder, spec)
    n, q = spec["n_train"], spec["n_queries"]
    parameters = sum(o * i for o, i in layers)
    # attention backwards is twice its forward pass, the head once: taken as twice together, as the layers are
    taps = t * (4 * parameters + 2 * beside)
    covariance = n * (taps + t * sum(o * o + i * i for o, i in layers))
    rows = lambda o, i: 2 * t * (o * o + i * i + o * i)
    gradient = lambda o, i: 2 * (t * o * i + o * i * (o + i))
    lam = n * (taps + sum(min(rows(o, i), gradient(o, i)) for o, i in layers))
    queries = q * (taps + 2 * t * parameters + 4 * sum(o * i * (o + i) for o, i in layers))
    by_gradient, by_rows = 2 * parameters * (t + q), 2 * t * q * parameters
    scores = queries + n * (taps + min(by_gradient, by_rows))
    eigen = sum(9 * (o**3 + i**3) for o, i in layers)
    return {
        "covariance": (covariance, n * t), "eigendecomposition": (eigen, None), "lambda": (lam, n * t),
        "scores": (scores, (n + q) * t),
    }
