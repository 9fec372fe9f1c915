//! How a checkpoint is read.

use std::path::PathBuf;

use candle_core::{DType, Device};

use super::adapter::mode::AdapterMode;
use super::residence::Residence;
use super::tracking::LayerSelection;
use crate::curvature::Graphs;
use crate::curvature::gemm::Products;

/// How a checkpoint is read.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Which layers are tracked.
    pub selection: LayerSelection,
    /// Type of the arithmetic, F32 or F64.
    pub dtype: DType,
    /// Where the network runs. What is computed of its taps is computed on the CPU.
    pub device: Device,
    /// What is kept between forward and backward.
    pub graphs: Graphs,
    /// When weights are read. Those of a section are in memory as long as its graph: with [`Graphs::Kept`] all are,
    /// while a batch is differentiated.
    pub residence: Residence,
    /// How products of `f32` run: those of linear layers, attention and head, and those with taps.
    pub products: Products,
    /// The folder of the base, if the checkpoint is an adapter; none: the folder that the adapter's settings name.
    pub base: Option<PathBuf>,
    /// Which layers of an adapter and its base are tracked; none: A and B, and of a folder that holds whole weights
    /// beside an adapter the weights are used.
    pub adapter: Option<AdapterMode>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            selection: LayerSelection::default(),
            dtype: DType::F32,
            device: Device::Cpu,
            graphs: Graphs::Kept,
            residence: Residence::Kept,
            products: Products::Exact,
            base: None,
            adapter: None,
        }
    }
}
