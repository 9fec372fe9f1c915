//! The Hessian of a loss at a network's outputs, times movements of these: the middle factor of a Gauss-Newton product.

use candle_core::{D, Tensor};

use super::head::{LanguageModelHead, ROWS};
use super::loss::SquaredError;
use ascribe_curvature::{Error, Moving};

/// Numbers of a tile of movements of logits, which a count of memory has to know.
pub const TILE: usize = 1 << 24;

/// What a language model's loss makes of movements of its hidden states and head.
#[derive(Debug, Clone)]
pub struct HeadProduct {
    /// At the hidden states, `[Q · R, D]`.
    pub hidden: Tensor,
    /// At the logits before a soft cap, `[Q · R, V]`, if the head itself moves.
    pub logits: Option<Tensor>,
}

/// `(diag(p) - p pᵀ) ż` of the softmax of every row of logits, for every direction: the Hessian of `-log p_y`, which
/// does not depend on y.
///
/// # Shapes
/// `logits: [R, V]`, `moving: [Q · R, V]`; `[Q · R, V]`.
/// # Errors
/// If the shapes do not fit.
pub fn softmax_product(logits: &Tensor, moving: &Tensor) -> candle_core::Result<Tensor> {
    let (rows, labels) = logits.dims2()?;
    let e = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?.exp()?;
    let p = e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?;
    let weighted = moving.reshape((moving.dim(0)? / rows.max(1), rows, labels))?.broadcast_mul(&p)?;
    let along = weighted.sum_keepdim(D::Minus1)?;
    (weighted - along.broadcast_mul(&p)?)?.reshape(moving.shape())
}

/// `p (1 - p) ż / C` with `p = 1 / (1 + e^{-z})`: the Hessian of the mean over C labels of `-y log p - (1 - y) log (1 - p)`,
/// which does not depend on y.
///
/// # Shapes
/// `logits: [B, C]`, `moving: [Q · B, C]`; `[Q · B, C]`.
/// # Errors
/// If the shapes do not fit.
pub fn multi_label_product(logits: &Tensor, moving: &Tensor) -> candle_core::Result<Tensor> {
    let (rows, labels) = logits.dims2()?;
    // p (1 - p) = (1 - tanh² (z/2)) / 4, which overflows nowhere
    let slopes = (logits * 0.5)?.tanh()?.sqr()?.affine(-0.25 / labels.max(1) as f64, 0.25 / labels.max(1) as f64)?;
    let moving_rows = moving.reshape((moving.dim(0)? / rows.max(1), rows, labels))?;
    moving_rows.broadcast_mul(&slopes)?.reshape(moving.shape())
}

/// `2a ẏ`, the Hessian of `a Σ (y - t)²`.
///
/// # Errors
/// If the tensor operation fails.
pub fn squared_error_product(loss: SquaredError, moving: &Tensor) -> candle_core::Result<Tensor> {
    moving.affine(2.0 * loss.a, 0.0)
}

/// The loss's Hessian at the logits of every row with a target, times the logits' movements, at the hidden states.
///
/// Logits and their movements exist in tiles alone. The Hessian is that of `-log softmax` of the logits behind a soft
/// cap; the cap itself belongs to the network.
///
/// # Shapes
/// The movements of the hidden states `[Q · R, D]`; those that the head makes by itself, `[Q, V, columns]`, if it is
/// tracked; `targets: [R]`.
/// # Errors
/// If the shapes do not fit.
pub fn language_model_product(
    (hidden, moving): Moving,
    head: LanguageModelHead<'_>,
    own: Option<&Tensor>,
    targets: &[Option<u32>],
    directions: usize,
) -> Result<HeadProduct, Error> {
    let ((rows, width), vocabulary) = (hidden.dims2()?, head.weight.dim(0)?);
    let (device, dtype) = (hidden.device(), hidden.dtype());
    let mut at_hidden = Tensor::zeros((directions * rows, width), dtype, device)?;
    let mut at_logits = match own {
        Some(_) => Some(Tensor::zeros((directions * rows, vocabulary), dtype, device)?),
        None => None,
    };
    let labelled: Vec<u32> = (0..rows as u32).filter(|&row| targets[row as usize].is_some()).collect();
    for block in labelled.chunks(ROWS) {
        let states = hidden.index_select(&Tensor::new(block, device)?, 0)?;
        let mut logits = states.matmul(&head.weight.t()?)?;
        if let Some(bias) = head.bias {
            logits = logits.broadcast_add(bias)?;
        }
        let slopes = match head.soft_cap {
            None => None,
            Some(cap) => {
                let tanh = logits.affine(1.0 / cap, 0.0)?.tanh()?;
                logits = tanh.affine(cap, 0.0)?;
                Some(tanh.sqr()?.affine(-1.0, 1.0)?)
            }
        };
        let sloped = |x: Tensor, count: usize| match &slopes {
            None => Ok(x),
            Some(slopes) => x
                .reshape((count, block.len(), vocabulary))?
                .broadcast_mul(slopes)?
                .reshape((count * block.len(), vocabulary)),
        };
        let together = (TILE / (block.len() * vocabulary)).clamp(1, directions.max(1));
        for first in (0..directions).step_by(together) {
            let tile = first..directions.min(first + together);
            let indices: Vec<u32> =
                tile.clone().flat_map(|q| block.iter().map(move |row| (q * rows) as u32 + row)).collect();
            let indices = Tensor::new(indices, device)?;
            let mut movement = match &moving {
                Some(moving) => moving.index_select(&indices, 0)?.matmul(&head.weight.t()?)?,
                None => Tensor::zeros((tile.len() * block.len(), vocabulary), dtype, device)?,
            };
            if let Some(own) = own {
                let mut parts = Vec::with_capacity(tile.len());
                for q in tile.clone() {
                    let part = states.matmul(&own.get(q)?.narrow(1, 0, width)?.t()?.contiguous()?)?;
                    parts.push(match own.dim(2)? > width {
                        true => part.broadcast_add(&own.get(q)?.narrow(1, width, 1)?.flatten_all()?)?,
                        false => part,
                    });
                }
                movement = (movement + Tensor::cat(&parts, 0)?)?;
            }
            let product = softmax_product(&logits, &sloped(movement, tile.len())?)?;
            let product = sloped(product, tile.len())?;
            at_hidden = at_hidden.index_add(&indices, &product.matmul(head.weight)?, 0)?;
            if let Some(kept) = &mut at_logits {
                *kept = kept.index_add(&indices, &product, 0)?;
            }
        }
    }
    Ok(HeadProduct { hidden: at_hidden, logits: at_logits })
}
