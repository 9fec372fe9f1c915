//! The numbers of tensors as slices, for kernels that are not candle's.

use candle_core::{CpuStorage, Device, Layout, Tensor, WithDType};

/// The elements of a contiguous CPU storage.
///
/// # Errors
/// If the storage is not contiguous or of another type.
pub fn contiguous<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<T>()?[start..end]),
        None => candle_core::bail!("expected a contiguous tensor, found strides {:?}", layout.stride()),
    }
}

/// Lends the elements of a contiguous tensor; one of another device is copied from there first.
///
/// # Errors
/// If the tensor is not contiguous or of another type.
pub fn with_slice<T: WithDType, R>(tensor: &Tensor, f: impl FnOnce(&[T]) -> R) -> candle_core::Result<R> {
    if !tensor.device().is_cpu() {
        return with_slice(&tensor.to_device(&Device::Cpu)?, f);
    }
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        candle_core::Storage::Cpu(storage) => Ok(f(contiguous(storage, layout)?)),
        _ => candle_core::bail!("expected a tensor on the CPU"),
    }
}
