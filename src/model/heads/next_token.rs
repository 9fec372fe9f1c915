//! The head of a language model: logits = `hidden · weightᵀ + bias` at every position, which predict the next token.

use std::sync::Arc;

use candle_core::Tensor;

use super::adapter::StoredHeadAdapter;
use super::head::Head;
use crate::curvature::gemm::Products;
use crate::curvature::{Directions, Error, LayerId, Moving, Objective, TapRecorder};
use crate::data::{Batch, Targets};
use crate::model::body::wrong_batch;
use crate::model::checkpoint_reader::{Embedding, StoredTensor};
use crate::model::error::LoadError;
use crate::model::residence::{Held, InUse};
use crate::nn::{
    LanguageModelHead, LogitsGradient, language_model_logits, language_model_loss, language_model_product,
};

/// A language model's head, on disk.
pub(in crate::model) struct StoredNextToken {
    /// The head's own tensor; none if the head is the embedding.
    pub(in crate::model) weight: Option<StoredTensor>,
    /// The head's bias.
    pub(in crate::model) bias: Option<StoredTensor>,
    /// The bound `c` of logits, `c tanh(x / c)`.
    pub(in crate::model) soft_cap: Option<f64>,
    /// The name under which the head is tracked.
    pub(in crate::model) name: &'static str,
}

/// A language model's head.
#[derive(Debug)]
pub(in crate::model) struct NextToken {
    /// `[V, D]`; the embedding of tokens itself if it is tied.
    pub(in crate::model) weight: Arc<Embedding>,
    /// Whether the weight is the embedding, which is checked as such.
    pub(in crate::model) tied: bool,
    /// `[V]`.
    pub(in crate::model) bias: Option<Held<StoredTensor>>,
    /// The bound `c` of logits, `c tanh(x / c)`.
    pub(in crate::model) soft_cap: Option<f64>,
    /// The head's number, if it is tracked.
    pub(in crate::model) layer: Option<LayerId>,
    pub(in crate::model) products: Products,
    /// The adapter that is merged into the weight, if its matrices are tracked.
    pub(in crate::model) adapter: Option<Held<StoredHeadAdapter>>,
}

/// Weight and bias while they are used.
type Parameters<'a> = (InUse<'a, Tensor>, Option<InUse<'a, Tensor>>);

impl NextToken {
    fn parameters(&self) -> candle_core::Result<Parameters<'_>> {
        Ok((self.weight.get()?, self.bias.as_ref().map(Held::get).transpose()?))
    }
}

impl Head for NextToken {
    fn differentiate(
        &self,
        hidden: &Tensor,
        batch: &Batch,
        objective: Objective,
        taps: &TapRecorder,
    ) -> Result<(Vec<f64>, Tensor), Error> {
        let Targets::Tokens(targets) = &batch.targets else { return Err(wrong_batch()) };
        let is_tracked = self.layer.is_some() || self.adapter.is_some();
        let keep = if is_tracked { LogitsGradient::Keep } else { LogitsGradient::Discard };
        let (weight, bias) = self.parameters()?;
        let (soft_cap, products) = (self.soft_cap, self.products);
        let head = LanguageModelHead { weight: &weight, bias: bias.as_deref(), soft_cap, products };
        let loss = language_model_loss(hidden, head, &batch.positions, targets, &batch.keys, objective, keep)?;
        if let Some(gradient) = loss.logits_gradient {
            if let Some(adapter) = &self.adapter {
                adapter.get()?.record(hidden, &gradient, taps)?;
            }
            if let Some(layer) = self.layer {
                taps.record(layer, hidden.clone(), gradient);
            }
        }
        Ok((loss.values, loss.hidden_gradient))
    }

    fn gauss_newton(
        &self,
        moving: Moving,
        batch: &Batch,
        directions: &Directions,
        taps: &TapRecorder,
    ) -> Result<Tensor, Error> {
        let Targets::Tokens(targets) = &batch.targets else { return Err(wrong_batch()) };
        if self.adapter.is_some() {
            let network = "a language model whose head has an adapter of its own";
            return Err(Error::Objective { objective: "a product with the Gauss-Newton matrix".into(), network });
        }
        let (weight, bias) = self.parameters()?;
        let (soft_cap, products) = (self.soft_cap, self.products);
        let head = LanguageModelHead { weight: &weight, bias: bias.as_deref(), soft_cap, products };
        let own = self.layer.map(|layer| directions.of(layer)).transpose()?;
        let hidden = moving.0.clone();
        let product = language_model_product(moving, head, own, targets, directions.count())?;
        if let (Some(layer), Some(logits)) = (self.layer, product.logits) {
            taps.record(layer, hidden, logits);
        }
        Ok(product.hidden)
    }

    fn logits(&self, hidden: &Tensor, _batch: &Batch) -> Result<Tensor, Error> {
        let (weight, bias) = self.parameters()?;
        let (soft_cap, products) = (self.soft_cap, self.products);
        let head = LanguageModelHead { weight: &weight, bias: bias.as_deref(), soft_cap, products };
        Ok(language_model_logits(hidden, head)?)
    }

    fn check(&self) -> Result<(), LoadError> {
        self.bias.as_ref().map_or(Ok(()), Held::check)?;
        self.adapter.as_ref().map_or(Ok(()), Held::check)?;
        if self.tied { Ok(()) } else { self.weight.check() }
    }
}
