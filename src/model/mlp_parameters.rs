//! The parameters of an MLP's checkpoint as plain numbers.

use std::path::Path;

use candle_core::DType;

use super::error::LoadError;
use super::load_options::LoadOptions;
use super::mlp::{self, Outline};
use super::opening::opened;
use crate::data::RowLimits;
use crate::nn::{Activation, SquaredError};

/// A layer's numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct MlpLayer {
    /// Its name: of `layers.0.weight` it is `layers.0`.
    pub name: String,
    /// Numbers that it reads.
    pub inputs: usize,
    /// Numbers that it writes.
    pub outputs: usize,
    /// Its matrix `[outputs, inputs]`, row by row.
    pub weight: Vec<f64>,
    /// Its bias `[outputs]`, if it has one.
    pub bias: Option<Vec<f64>>,
}

/// All parameters of an MLP as numbers, for whoever differentiates it by hand.
#[derive(Debug, Clone, PartialEq)]
pub struct MlpParameters {
    /// Its layers, the first first.
    pub layers: Vec<MlpLayer>,
    /// What stands between two layers.
    pub activation: Activation,
    /// The loss of a regression.
    pub squared_error: SquaredError,
    /// What it reads and gives.
    pub limits: RowLimits,
}

impl MlpParameters {
    /// Reads a checkpoint's folder.
    ///
    /// # Errors
    /// [`LoadError`], naming the file: of a folder that is no MLP's, too.
    pub fn read(folder: &Path) -> Result<Self, LoadError> {
        let (config, architecture, weights) = opened(&[(folder, 1.0)], &LoadOptions::default())?;
        if architecture.model_type != mlp::ARCHITECTURE.model_type {
            return Err(config.problem(format!(
                "`model_type` is `{}`; exact differentiation through training is there for `mlp` alone",
                architecture.model_type
            )));
        }
        let outline = Outline::read(&config, &weights)?;
        let numbers = |name: &str, shape: &[usize]| -> Result<Vec<f64>, LoadError> {
            Ok(weights.tensor(name, shape, DType::F64)?.flatten_all()?.to_vec1()?)
        };
        let mut layers = vec![];
        for (name, outputs, inputs) in outline.layers() {
            let weight = numbers(&format!("{name}.weight"), &[outputs, inputs])?;
            let of_bias = format!("{name}.bias");
            let bias = weights.contains(&of_bias).then(|| numbers(&of_bias, &[outputs])).transpose()?;
            layers.push(MlpLayer { name: name.to_owned(), inputs, outputs, weight, bias });
        }
        let limits = outline.limits();
        Ok(Self { layers, activation: outline.activation, squared_error: outline.squared_error, limits })
    }
}
