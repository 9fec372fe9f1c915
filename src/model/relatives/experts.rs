//! What a family says of its experts: how many there are, how many see a token, and what files call them.

use crate::model::architecture::ExpertNames;
use crate::model::config::Config;
use crate::model::error::LoadError;
use crate::nn::ExpertWeights;

/// What a family says of its experts.
#[derive(Debug)]
pub(super) struct Experts {
    pub(super) count: usize,
    /// Experts that see one token.
    pub(super) chosen: usize,
    /// Width inside of one.
    pub(super) inner: usize,
    pub(super) weights: ExpertWeights,
    /// Width inside of the expert that sees every token, if there is one.
    pub(super) shared: Option<usize>,
    /// Which blocks have experts, by number; the others have one MLP.
    pub(super) sparse: Vec<bool>,
    pub(super) names: ExpertNames,
}

/// The names of all families but Mixtral.
pub(super) const COMMON: ExpertNames = ExpertNames {
    module: "mlp",
    matrices: ["gate_proj", "up_proj", "down_proj"],
    registered: ["gate_proj", "up_proj", "down_proj"],
};

impl Experts {
    /// The keys that all families have, in `blocks` blocks that all have experts.
    pub(super) fn read(config: &Config, blocks: usize, count: usize, inner: usize) -> Result<Self, LoadError> {
        let chosen = config.size("num_experts_per_tok")?;
        if chosen > count {
            return Err(config.problem(format!("`num_experts_per_tok` = {chosen} of {count} experts")));
        }
        note_auxiliary_loss(config)?;
        Ok(Self {
            count,
            chosen,
            inner,
            weights: ExpertWeights::OfChosen,
            shared: None,
            sparse: vec![true; blocks],
            names: COMMON,
        })
    }

    /// `norm_topk_prob`, which is false where it is absent.
    pub(super) fn normalised_by_choice(mut self, config: &Config) -> Result<Self, LoadError> {
        let of_chosen = config.flag("norm_topk_prob", false)?;
        self.weights = if of_chosen { ExpertWeights::OfChosen } else { ExpertWeights::OfAll };
        Ok(self)
    }

    /// `decoder_sparse_step` and `mlp_only_layers`: blocks that have one MLP.
    pub(super) fn some_blocks_dense(mut self, config: &Config) -> Result<Self, LoadError> {
        let step = config.size_or("decoder_sparse_step", Some(1))?.unwrap_or(1);
        for (n, sparse) in self.sparse.iter_mut().enumerate() {
            *sparse = (n + 1) % step == 0;
        }
        for number in config.list("mlp_only_layers")?.unwrap_or(&[]) {
            let problem = || config.problem(format!("`mlp_only_layers` has {number}, expected numbers of layers"));
            let number = number.as_u64().ok_or_else(problem)?;
            // one behind the last block concerns none
            if let Some(sparse) = usize::try_from(number).ok().and_then(|n| self.sparse.get_mut(n)) {
                *sparse = false;
            }
        }
        Ok(self)
    }
}

/// `num_experts`, which transformers 5 may write as `num_local_experts`.
pub(super) fn count(config: &Config) -> Result<usize, LoadError> {
    match config.optional_size("num_local_experts")? {
        Some(count) if config.get("num_experts").is_none() => Ok(count),
        _ => config.size("num_experts"),
    }
}

/// Says that training pulled the router towards even use of its experts, which no loss of an example contains.
fn note_auxiliary_loss(config: &Config) -> Result<(), LoadError> {
    let coefficient = config.number("router_aux_loss_coef", 0.001)?;
    if config.flag("output_router_logits", false)? && coefficient != 0.0 {
        config.note(format!(
            "`output_router_logits`: training added {coefficient} times a load-balancing loss over the batch \
             (`router_aux_loss_coef`), which is in no example's loss and in no gradient here"
        ));
    }
    Ok(())
}
