//! Differentiable building blocks of the models: fused kernels on the CPU, composed candle ops elsewhere.
