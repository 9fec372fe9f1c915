//! What each artifact depends on, and nothing else: its key in the store.

use super::Plan;
use super::plan::measure_name;
use super::request::{Curvature, Fisher, KfacScale, Precision, ScoreScale};
use crate::attribution::store::{Key, KeyBuilder};
use crate::curvature::{Damping, Network};

/// Raised whenever the arithmetic changes, so that older artifacts are not mixed in.
const ARITHMETIC: u32 = 1;

impl Plan {
    /// The model, as far as gradients of tracked layers depend on it.
    fn model_key(&self) -> Key {
        let dtype = match self.job.model.dtype {
            Precision::F32 => "f32",
            Precision::F64 => "f64",
        };
        KeyBuilder::new("model", ARITHMETIC)
            .field("checkpoint", &self.model.content_hash()[..])
            .field("dtype", dtype)
            .list("layers", self.model.layers().iter().map(|layer| layer.name.as_str()))
            .finish()
    }

    fn labels(&self, builder: KeyBuilder) -> KeyBuilder {
        match self.job.method.fisher {
            Fisher::Empirical => builder.field("labels", "empirical"),
            Fisher::True => builder
                .field("labels", "sampled")
                .field("seed", self.job.method.seed)
                .field("draws", self.job.method.label_draws),
        }
    }

    /// Covariances, and the eigenbases made of them.
    pub(super) fn covariance_key(&self) -> Key {
        let builder = KeyBuilder::new("covariance", ARITHMETIC)
            .field("model", self.model_key())
            .field("data", &self.train.content_hash()[..]);
        self.labels(builder).finish()
    }

    /// Λ.
    pub(super) fn lambda_key(&self) -> Key {
        let curvature = match self.job.method.curvature {
            Curvature::Diagonal => "diagonal",
            _ => "ekfac",
        };
        let builder = KeyBuilder::new("lambda", ARITHMETIC)
            .field("covariance", self.covariance_key())
            .field("curvature", curvature);
        self.labels(builder).finish()
    }

    /// Everything that `fit` makes: the identity of the run folder.
    pub(super) fn factors_key(&self) -> Key {
        let (name, key) = match self.job.method.curvature {
            Curvature::Identity => ("identity", self.model_key()),
            Curvature::Diagonal => ("diagonal", self.lambda_key()),
            Curvature::Kfac => ("kfac", self.covariance_key()),
            Curvature::Ekfac => ("ekfac", self.lambda_key()),
        };
        let scale = match self.job.method.kfac_scale {
            KfacScale::PerExample => "per-example",
            KfacScale::PerPosition => "per-position",
        };
        let builder = KeyBuilder::new("factors", ARITHMETIC).field("kind", name).field("of", key);
        if self.job.method.curvature == Curvature::Kfac { builder.field("scale", scale) } else { builder }.finish()
    }

    /// The queries' inverse-Hessian-vector products.
    pub(super) fn query_key(&self) -> Option<Key> {
        let queries = self.queries.as_ref()?;
        let (kind, damping) = match self.job.method.damping.0 {
            Damping::Absolute(x) => ("absolute", x),
            Damping::MeanFraction(x) => ("mean fraction", x),
        };
        let method = &self.job.method;
        let key = KeyBuilder::new("queries", ARITHMETIC)
            .field("factors", self.factors_key())
            .field("data", &queries.content_hash()[..])
            .field("damping kind", kind)
            .field("damping", damping)
            .field("measure", measure_name(self.measure()))
            .field("reduction", format!("{:?}", method.reduction).as_str())
            .field("aggregate", format!("{:?}", method.aggregate).as_str());
        Some(key.finish())
    }

    /// Scores.
    pub(super) fn score_key(&self) -> Option<Key> {
        let scale = match self.job.output.scale {
            ScoreScale::PerExample => self.train_size() as u64,
            ScoreScale::Kronfluence => 0,
        };
        let key = KeyBuilder::new("scores", ARITHMETIC)
            .field("queries", self.query_key()?)
            .field("data", &self.train.content_hash()[..])
            .field("train size", scale)
            .field("normalize", format!("{:?}", self.job.method.normalize).as_str())
            .field("self-influence", self.job.method.self_influence)
            .field("stored", format!("{:?}", self.job.output.store_scores).as_str());
        let top = if self.job.output.store_scores == super::StoreScores::Top { self.job.output.top as u64 } else { 0 };
        Some(key.field("top", top).finish())
    }
}
