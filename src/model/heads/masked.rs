//! The head of a masked language model (Devlin et al. 2019, §3.1): a linear layer, a function and a norm at every position,
//! then logits by the embedding of tokens, which say what stood where the mask is.

use candle_core::Tensor;

use super::head::Head;
use super::next_token::NextToken;
use super::steps::{Step, StoredSteps};
use crate::curvature::{Directions, Error, Gradient, Moving, Objective, Section, TapRecorder, Taped, Traced};
use crate::data::Batch;
use crate::model::checkpoint_reader::{CheckpointReader, StoredTensor};
use crate::model::error::LoadError;
use crate::model::layout::Layout;
use crate::model::norms::StoredLayerNorm;
use crate::model::residence::{Held, Residence};
use crate::model::tracking::{SharedInput, Tracking};
use crate::nn::Activation;

/// What a head's modules are called.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct MaskedNames {
    /// The linear layer.
    pub(in crate::model) dense: &'static str,
    /// The norm.
    pub(in crate::model) norm: &'static str,
    /// The layer whose outputs are the logits.
    pub(in crate::model) decoder: &'static str,
    /// The logits' bias where it is not the decoder's own, as its full name.
    pub(in crate::model) bias: Option<&'static str>,
}

/// A head on disk.
pub(in crate::model) struct StoredMasked {
    pub(in crate::model) names: MaskedNames,
    /// D.
    pub(in crate::model) width: usize,
    /// Whether the linear layer has a bias.
    pub(in crate::model) dense_bias: bool,
    pub(in crate::model) activation: Activation,
    pub(in crate::model) norm: StoredLayerNorm,
}

/// What a head does before its logits.
#[derive(Debug)]
pub(in crate::model) struct BeforeLogits(Held<StoredSteps>);

/// A head of logits at every position.
#[derive(Debug)]
pub(in crate::model) struct Masked {
    transform: Held<StoredSteps>,
    decoder: NextToken,
}

impl MaskedNames {
    /// The logits' bias, `[V]`. A file may hold it as the decoder's own as well, which is what runs: with a decoder that is
    /// not tied the other is a parameter that nothing reads.
    pub(in crate::model) fn bias(
        &self,
        source: &CheckpointReader,
        vocabulary: usize,
    ) -> Result<StoredTensor, LoadError> {
        let own = format!("{}.bias", self.decoder);
        match self.bias {
            Some(shared) if !source.weights.contains(&own) => {
                if !source.config().flag("tie_word_embeddings", true)? {
                    source.note(format!("`{own}` is absent: `{shared}` was used, which transformers 4 saves of both"));
                }
                source.tensor_at(shared.to_owned(), &[vocabulary])
            }
            Some(shared) if source.weights.contains(shared) => {
                let (bias, other) = (source.tensor_at(own.clone(), &[vocabulary])?, shared.to_owned());
                let other = source.tensor_at(other, &[vocabulary])?;
                if source.config().flag("tie_word_embeddings", true)? && !bias.equals(&other)? {
                    source.note(format!("`{own}` differs from `{shared}`: the decoder's own was used"));
                }
                Ok(bias)
            }
            _ => source.tensor_at(own, &[vocabulary]),
        }
    }
}

impl StoredMasked {
    /// What comes before the logits; its linear layer is tracked.
    pub(in crate::model) fn load(
        self,
        source: &CheckpointReader,
        tracking: &Tracking<'_>,
        residence: Residence,
    ) -> Result<BeforeLogits, LoadError> {
        let (whole, width) = (source.of(&source.weights), self.width);
        let steps = vec![
            Step::Linear { name: self.names.dense, sizes: [width, width], bias: self.dense_bias },
            Step::Activation(self.activation),
            Step::Norm(Box::new(self.norm)),
        ];
        let transform = StoredSteps::new(steps, |name, sizes, bias| {
            whole.linear(tracking, name, sizes, bias, Layout::OutputsFirst, &mut SharedInput::default())
        })?;
        Ok(BeforeLogits(Held::new(transform, residence)?))
    }
}

impl BeforeLogits {
    /// The head with these logits.
    pub(in crate::model) fn before(self, decoder: NextToken) -> Masked {
        Masked { transform: self.0, decoder }
    }
}

impl Head for Masked {
    fn differentiate(
        &self,
        hidden: &Tensor,
        batch: &Batch,
        objective: Objective,
        taps: &TapRecorder,
    ) -> Result<(Vec<f64>, Tensor), Error> {
        let transform = self.transform.get()?;
        let section = Taped(|x: &Traced, taps: &TapRecorder| transform.trace(x, taps));
        let (x, back) = section.differentiable(hidden, Gradient::Wanted, taps)?;
        let (values, gradient) = self.decoder.differentiate(&x, batch, objective, taps)?;
        let gradient = match back(gradient)? {
            Some(gradient) => gradient,
            None => hidden.zeros_like()?,
        };
        Ok((values, gradient))
    }

    fn gauss_newton(
        &self,
        (hidden, moving): Moving,
        batch: &Batch,
        directions: &Directions,
        taps: &TapRecorder,
    ) -> Result<Tensor, Error> {
        let transform = self.transform.get()?;
        let section = Taped(|x: &Traced, taps: &TapRecorder| transform.trace(x, taps));
        let moving = section.tangents(&hidden, moving, &TapRecorder::along(directions.clone()))?;
        let product = self.decoder.gauss_newton(moving, batch, directions, taps)?;
        let (_, back) = section.differentiable(&hidden, Gradient::Wanted, taps)?;
        Ok(match back(product)? {
            Some(gradient) => gradient,
            None => Tensor::cat(&vec![hidden.zeros_like()?; directions.count()], 0)?,
        })
    }

    fn logits(&self, hidden: &Tensor, batch: &Batch) -> Result<Tensor, Error> {
        let x = self.transform.get()?.trace(&Traced::constant(hidden.clone()), &TapRecorder::default())?;
        self.decoder.logits(x.value(), batch)
    }

    fn check(&self) -> Result<(), LoadError> {
        self.transform.check()?;
        self.decoder.check()
    }
}
