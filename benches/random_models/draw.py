"""The numbers of one case: the same family and seed draw the same."""

import random

import torch

VOCABULARY = 61
PADDING = 0


class Draw:
    """Draws of configurations and rows; PyTorch's generator, which draws weights, is seeded beside it."""

    def __init__(self, family, seed):
        self.random = random.Random(f"{family} {seed}")
        torch.manual_seed(self.random.getrandbits(32))

    def one(self, *values):
        return self.random.choice(values)

    def chance(self, share):
        return self.random.random() < share

    def number(self, first, last):
        return self.random.randint(first, last)

    def some(self, values):
        """One value or more, without repetition."""
        return self.random.sample(values, self.random.randint(1, len(values)))

    def tokens(self, least, most):
        """Ids; in one row of ten those of padding and of begin and end tokens are among them."""
        first = 0 if self.chance(0.1) else 3
        return [self.random.randrange(first, VOCABULARY) for _ in range(self.random.randint(least, most))]

    def target(self, problem, classes):
        """The label of one row, as `problem_type` has it."""
        if problem == "regression":
            values = [self.random.uniform(-2, 2) for _ in range(classes)]
            return values[0] if classes == 1 else values
        if problem == "multi_label_classification":
            return [float(self.random.randrange(2)) for _ in range(classes)]
        return self.random.randrange(classes)
