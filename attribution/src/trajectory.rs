//! Validated numbers of a training run: stages, steps, rates, optimizer (METHOD §4).
