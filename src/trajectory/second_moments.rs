//! Adam's second moments of a checkpoint, layer by layer in the layout of gradients.
//!
//! # Source
//! `docs/method.md`, Source.

use std::ops::Range;
use std::path::Path;

use super::optimizer_state::{OptimizerState, OptimizerStateError};
use super::parameter_groups::Parameter;
use super::torch_parameters::{Layout, TorchParameters};
use crate::curvature::LayerSpec;
use crate::trajectory::error::ReadError;
use crate::trajectory::frozen_parameters::FrozenParameters;
use crate::trajectory::version::TransformersVersion;

/// The bias-corrected second moments `v̂` of every layer, `None` for one that the optimizer never updated.
///
/// `folder` is the checkpoint, whose configuration and weights tell names and shapes; `optimizer` its `optimizer.pt`;
/// `version` the transformers that wrote it, `frozen` what is known of parameters that the stage did not change, and of
/// an adapter's base.
///
/// # Shapes
/// `[outputs, columns]`, row major, the bias as the last column.
/// # Errors
/// A file that cannot be read or is of a kind that is refused; entries that cannot be mapped to names with
/// certainty; a layer that is not in the checkpoint or has another shape there; a layer of which only the weight or
/// only the bias was updated.
pub fn second_moments(
    folder: &Path,
    optimizer: &Path,
    layers: &[LayerSpec],
    version: Option<TransformersVersion>,
    frozen: &FrozenParameters,
) -> Result<Vec<Option<Vec<f32>>>, ReadError> {
    let parameters = TorchParameters::read_over(folder, frozen.base.as_deref())?;
    let mut state = OptimizerState::open(optimizer, &parameters.list, version, frozen)?;
    layers.iter().map(|layer| of_layer(layer, &parameters, &mut state, optimizer)).collect()
}

fn of_layer(
    layer: &LayerSpec,
    parameters: &TorchParameters,
    state: &mut OptimizerState,
    optimizer: &Path,
) -> Result<Option<Vec<f32>>, ReadError> {
    let missing = |parameter: &str| ReadError::LayerWithoutParameter {
        file: parameters.file.clone(),
        parameter: format!("{}.{parameter}", layer.name),
    };
    if let Some((all, own)) = parameters.in_all_experts(layer) {
        return of_expert(all, own, parameters, state);
    }
    let (weight, layout) = parameters.weight(&layer.name).ok_or_else(|| missing("weight"))?;
    let (o, i) = (layer.outputs, layer.inputs);
    let group = parameters.channel_group(layer);
    let first = group.map_or(0, |(_, first)| first);
    let expected = match layout {
        Layout::OutputsFirst => [o, i],
        Layout::InputsFirst => [i, o],
    };
    let check = |parameter: &Parameter, expected: &[usize]| {
        // the kernels of a convolution are rows of its layer's matrix
        let is_kernels = layout == Layout::OutputsFirst && expected.len() == 2 && parameter.shape.len() > 2;
        let is_rows = || parameter.shape[0] == o && parameter.shape[1..].iter().product::<usize>() == i;
        // a group of channels has some of the rows
        let is_group = || match parameter.shape.split_first() {
            Some((_, columns)) => columns.iter().product::<usize>() == expected[1..].iter().product::<usize>(),
            None => false,
        };
        if parameter.shape == expected || is_kernels && is_rows() || group.is_some() && is_group() {
            return Ok(());
        }
        Err(ReadError::LayerShape {
            file: parameters.file.clone(),
            parameter: parameter.name.clone(),
            found: parameter.shape.clone(),
            expected: expected.to_vec(),
        })
    };
    check(weight, &expected)?;
    let bias = match layer.bias {
        true => Some(parameters.bias(&layer.name).ok_or_else(|| missing("bias"))?),
        false => None,
    };
    if let Some(bias) = bias {
        check(bias, &[o])?;
    }
    let updated = |parameter: &Parameter| state.step(&parameter.name).is_some();
    match (updated(weight), bias.map(updated)) {
        (false, None | Some(false)) => return Ok(None),
        (true, None | Some(true)) => {}
        // Part of the layer was frozen: neither a preconditioner of all of it, nor none.
        (weight_updated, _) => {
            let unmoved = if weight_updated { bias.unwrap_or(weight) } else { weight };
            let (file, parameter) = (optimizer.to_path_buf(), unmoved.name.clone());
            return Err(OptimizerStateError::NoState { file, parameter }.into());
        }
    }
    let weight = state.corrected_second_moment(&weight.name)?;
    let bias = bias.map(|bias| state.corrected_second_moment(&bias.name)).transpose()?;
    let columns = layer.columns();
    let mut moments = vec![0.0; o * columns];
    for (r, row) in moments.chunks_exact_mut(columns).enumerate() {
        match layout {
            Layout::OutputsFirst => row[..i].copy_from_slice(&weight[(first + r) * i..(first + r + 1) * i]),
            Layout::InputsFirst => row[..i].iter_mut().enumerate().for_each(|(c, v)| *v = weight[c * o + r]),
        }
        if let Some(bias) = &bias {
            row[i] = bias[first + r];
        }
    }
    Ok(Some(moments))
}

/// The moments of one expert's matrix, which is a part of the parameter of all experts.
fn of_expert(
    all: &Parameter,
    own: Range<usize>,
    parameters: &TorchParameters,
    state: &mut OptimizerState,
) -> Result<Option<Vec<f32>>, ReadError> {
    if state.step(&all.name).is_none() {
        return Ok(None);
    }
    let moments = state.corrected_second_moment(&all.name)?;
    let found = moments.get(own.clone()).map(<[f32]>::to_vec);
    found.map(Some).ok_or_else(|| ReadError::LayerShape {
        file: parameters.file.clone(),
        parameter: all.name.clone(),
        found: all.shape.clone(),
        expected: vec![own.end],
    })
}

#[cfg(test)]
mod tests;
