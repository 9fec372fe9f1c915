//! What each artifact depends on, and nothing else: its key in the store.

use std::path::PathBuf;

use crate::attribution::store::{Key, KeyBuilder};
use crate::attribution::trajectory::Optimizer;
use crate::curvature::{CurvatureKind, Damping, PairWeights};
use crate::job::brief::Brief;
use crate::job::brief::answers::{Joint, Method, ScorePass, Variant, VectorSet};
use crate::job::brief::options::measure_name;
use crate::job::brief::shortlist::CONTROL;
use crate::job::error::JobError;
use crate::job::request::{
    AdamRequest, AggregateRequest, DeviceRequest, Fisher, FormRequest, KfacScale, Normalize, Precision,
    ReductionRequest, SPANNING, ScoreScale, SelfInfluenceForm, Solve, SolveLayers, StoreScores,
};
use crate::job::training::{Fit, Place, Sample, Site};
use crate::trajectory::{Company, ExampleWeights};

/// The version of the arithmetic. Raising it whenever the arithmetic changes keeps older artifacts from being mixed in.
const ARITHMETIC: u32 = 2;

/// The version of the arithmetic of covariances and of what is made of them; 3 since they are lower triangles, summed in
/// f64.
const COVARIANCE_ARITHMETIC: u32 = 3;

/// The version of the arithmetic of the queries' vectors; 3 since rows of short queries are rotated instead of their
/// gradients.
const QUERY_ARITHMETIC: u32 = 3;

impl Brief {
    /// A network, as far as gradients of tracked layers depend on it.
    fn network_key(&self, network: usize) -> Key {
        let dtype = match self.job.model.dtype {
            Precision::F32 => "f32",
            Precision::F64 => "f64",
            Precision::Bf16 => "bf16 products, attention and head too",
        };
        let builder = KeyBuilder::new("network", ARITHMETIC)
            .field("checkpoint", &self.training.networks.parameters()[network].identity.content_hash()[..])
            .field("dtype", dtype)
            .list("layers", self.training.layers().iter().map(|layer| layer.name.as_str()));
        match self.job.resources.device {
            DeviceRequest::Cpu => builder,
            // other kernels, other rounding
            DeviceRequest::Cuda(_) => builder.field("device", "cuda"),
        }
        .finish()
    }

    fn labels(&self, builder: KeyBuilder) -> KeyBuilder {
        self.labels_of(Sample::Whole, builder)
    }

    /// The labels of the curvature that is taken on some examples.
    fn labels_of(&self, sample: Sample, builder: KeyBuilder) -> KeyBuilder {
        match self.job.method.fisher {
            Fisher::Empirical => builder.field("labels", "empirical"),
            Fisher::True => builder
                .field("labels", "sampled")
                .field("seed", self.label_seed(sample))
                .field("draws", self.job.method.label_draws),
        }
    }

    /// The covariances of one network on one stage's data.
    pub(in crate::job) fn covariance_key(&self, site: Site) -> Key {
        let builder = KeyBuilder::new("covariance", COVARIANCE_ARITHMETIC)
            .field("network", self.network_key(site.network))
            .field("data", &self.curvature_data_of(site.stage, site.sample)[..]);
        let builder = match self.pair_weights() {
            PairWeights::Positions => builder,
            PairWeights::Norms => builder.field("pairs", "norms"),
            PairWeights::Gradients => builder.field("pairs", "gradients"),
        };
        let in_blocks = self.kept_in_blocks();
        let builder = match in_blocks.is_empty() {
            true => builder,
            false => builder.list("kept in blocks", in_blocks.iter().map(|kept| kept.side.as_str())),
        };
        self.labels_of(site.sample, builder).finish()
    }

    /// The eigenbases of a fit.
    pub(in crate::job) fn eigenbasis_key(&self, fit: &Fit) -> Key {
        let covariances = fit.places.iter().map(|place| self.covariance_key(site(fit, place)));
        let builder = KeyBuilder::new("eigenbasis", ARITHMETIC)
            .list("covariances", covariances)
            .list("weights", fit.places.iter().map(|place| place.weight))
            .list("frozen", fit.frozen.iter().map(|&l| self.training.layers()[l].name.as_str()));
        let builder = match self.job.method.eigen_block_width {
            // a width that cuts nothing changes nothing
            Some(width) if self.is_cut() => builder.field("block width", width as u64),
            _ => builder,
        };
        self.conditioning(builder, fit).finish()
    }

    fn conditioning(&self, builder: KeyBuilder, fit: &Fit) -> KeyBuilder {
        let (Some(moments), Some(source)) = (&fit.moments, &self.job.source) else { return builder };
        let form = match source.adam {
            AdamRequest::Conditioned => "conditioned",
            AdamRequest::Scalar => "scalar",
        };
        let hash = &moments.content_hash[..];
        builder.field("moments", hash).field("epsilon", moments.epsilon()).field("adam", form)
    }

    /// Λ of one of a fit's networks in the fit's eigenbasis.
    pub(in crate::job) fn lambda_key(&self, fit: &Fit, place: &Place) -> Key {
        self.lambda_key_on(fit, place, fit.sample)
    }

    /// Λ of one of a fit's networks in the fit's eigenbasis, on some examples of its stage.
    pub(in crate::job) fn lambda_key_on(&self, fit: &Fit, place: &Place, sample: Sample) -> Key {
        if let Some(moments) = &fit.second_moments {
            return KeyBuilder::new("lambda", ARITHMETIC)
                .field("basis", "standard")
                .field("root of second moments", &moments.content_hash[..])
                .field("network", self.network_key(place.network))
                .finish();
        }
        let builder = match fit.kind {
            CurvatureKind::Diagonal => KeyBuilder::new("lambda", ARITHMETIC).field("basis", "standard"),
            _ => KeyBuilder::new("lambda", ARITHMETIC).field("basis", self.eigenbasis_key(fit)),
        };
        let builder = builder
            .field("network", self.network_key(place.network))
            .field("data", &self.curvature_data_of(fit.stage, sample)[..]);
        self.labels_of(sample, self.conditioning(builder, fit)).finish()
    }

    /// Everything that a fit makes.
    fn fit_key(&self, fit: &Fit) -> Key {
        let builder = KeyBuilder::new("factors", ARITHMETIC);
        let lambdas = || fit.places.iter().map(|place| self.lambda_key(fit, place));
        let weights = || fit.places.iter().map(|place| place.weight);
        match fit.kind {
            CurvatureKind::Identity => {
                builder.field("kind", "identity").field("network", self.network_key(fit.places[0].network))
            }
            CurvatureKind::Diagonal => {
                builder.field("kind", "diagonal").list("lambda", lambdas()).list("weights", weights())
            }
            CurvatureKind::Ekfac => builder.field("kind", "ekfac").list("lambda", lambdas()).list("weights", weights()),
            CurvatureKind::Soap => builder.field("kind", "soap").list("lambda", lambdas()).list("weights", weights()),
            CurvatureKind::Adam => builder.field("kind", "adam").list("lambda", lambdas()),
            CurvatureKind::Shampoo => builder.field("kind", "shampoo").field("basis", self.eigenbasis_key(fit)),
            CurvatureKind::Tkfac => builder.field("kind", "tkfac").field("basis", self.eigenbasis_key(fit)),
            CurvatureKind::Kfac => {
                let scale = match self.job.method.kfac_scale {
                    KfacScale::PerExample => "per-example",
                    KfacScale::PerPosition => "per-position",
                };
                builder.field("kind", "kfac").field("basis", self.eigenbasis_key(fit)).field("scale", scale)
            }
        }
        .finish()
    }

    /// The identity of the run folder. Of one checkpoint it is its curvature; of several, as of a training run, the
    /// networks and data, so that runs with other segments may share what they have in common.
    pub(in crate::job) fn run_key(&self) -> Key {
        if self.training.is_one_checkpoint() {
            return self.fit_key(&self.training.fits[0]);
        }
        let networks = 0..self.training.networks.parameters().len();
        let stages = 0..self.training.stages.len();
        let builder = KeyBuilder::new("training run", ARITHMETIC)
            .list("networks", networks.map(|network| self.network_key(network)))
            .list(
                "data",
                stages.map(|stage| self.curvature_data(stage).to_vec()).collect::<Vec<_>>().iter().map(Vec::as_slice),
            );
        self.labels(builder).finish()
    }

    /// The walk of influence functions at one checkpoint.
    fn influence_walk(&self, builder: KeyBuilder, fit: usize, damping: Damping) -> KeyBuilder {
        let (kind, damping) = match damping {
            Damping::Absolute(x) => ("absolute", x),
            Damping::MeanFraction(x) => ("mean fraction", x),
        };
        let fit = &self.training.fits[fit];
        let builder = builder.field("method", "influence").field("factors", self.fit_key(fit));
        match fit.kind {
            // nothing is damped
            CurvatureKind::Identity if self.job.method.solve != Solve::MFac => builder,
            _ => builder.field("damping kind", kind).field("damping", damping),
        }
    }

    /// The walk of a set of vectors: its curvatures and its functions of them.
    fn walk_key(&self, set: VectorSet) -> Key {
        let builder = KeyBuilder::new("walk", ARITHMETIC);
        match self.answers[set.answer].method {
            Method::Influence { fit, damping } => self.influence_walk(builder, fit, damping),
            Method::InfluenceMean { damping, sample } => {
                self.influence_walk(builder, self.averaged_fit(set.network, sample), damping)
            }
            Method::Gradients => builder.field("method", "gradients"),
            Method::Tracin => self.layer_rates(builder.field("method", "gradients"), 0),
            Method::Source { time_scale } => {
                let segments = self.training.segments();
                let form = self.job.source.as_ref().map(|source| source.form).unwrap_or_default();
                let builder = builder
                    .field("method", "source")
                    .field("form", form_name(form))
                    .field("time scale", time_scale)
                    .list("factors", self.training.segment_fits().iter().map(|fit| self.fit_key(fit)))
                    .list("tau", segments.iter().map(|(_, segment)| segment.tau))
                    .list("decay", segments.iter().map(|(_, segment)| segment.decay_exponent))
                    .list("stages", segments.iter().map(|(stage, _)| *stage as u64));
                let stages = 0..self.training.stages.len();
                let builder = stages.fold(builder, |builder, stage| self.layer_rates(builder, stage));
                if form == FormRequest::Exponential { self.optimizers(builder) } else { self.every_step(builder) }
            }
        }
        .finish()
    }

    /// Layers whose rates are not those of their stage.
    fn layer_rates(&self, builder: KeyBuilder, stage: usize) -> KeyBuilder {
        let rates = self.training.layer_rates(stage);
        if rates.is_empty() { builder } else { builder.field("stage", stage as u64).list("layer rates", rates) }
    }

    fn optimizers(&self, builder: KeyBuilder) -> KeyBuilder {
        let stages = self.training.run.iter().flat_map(|run| run.trajectory.stages());
        let optimizers: Vec<String> = stages.map(|stage| optimizer_name(stage.optimizer())).collect();
        builder.list("optimizers", optimizers.iter().map(String::as_str))
    }

    /// What the step-by-step forms depend on.
    fn every_step(&self, builder: KeyBuilder) -> KeyBuilder {
        let mut builder = self.optimizers(builder);
        for (stage, segment) in self.training.segments() {
            let Some(stage) = self.training.stage_numbers(*stage) else { continue };
            let steps = segment.steps.clone();
            builder = builder
                .list("rates", steps.clone().map(|k| stage.rates().rate(k).unwrap_or(0.0)))
                .list("scaled rates", steps.map(|k| stage.scaled_rate(k).unwrap_or(0.0)));
        }
        builder
    }

    /// The query vectors of a set.
    pub(in crate::job) fn vectors_key(&self, set: VectorSet) -> Option<Key> {
        let queries = self.queries.as_ref()?;
        let method = &self.job.method;
        let key = KeyBuilder::new("queries", QUERY_ARITHMETIC)
            .field("walk", self.walk_key(set))
            .field("network", self.network_key(set.network))
            .field("data", &queries.content_hash()[..])
            .field("measure", measure_name(self.measure()))
            .field("reduction", reduction_name(method.reduction))
            .field("aggregate", aggregate_name(method.aggregate))
            .field("normalize", normalize_name(method.normalize));
        let key = match self.query_weights.is_empty() {
            true => key,
            false => key.list("query weights", self.query_weights.iter().copied()),
        };
        let key = match method.query_rank {
            None => key,
            Some(rank) => key.field("rank", rank as u64),
        };
        let key = match self.keeps_in_basis(set) {
            true => key.field("coordinates", "eigenbasis"),
            false => key,
        };
        Some(self.joint_solve(key, set).finish())
    }

    /// The sampled gradients of matrix-free solves at a network, in the eigenbases of a fit.
    pub(in crate::job) fn sample_key(&self, network: usize, fit: &Fit) -> Key {
        let builder = KeyBuilder::new("sampled gradients", ARITHMETIC)
            .field("network", self.network_key(network))
            .field("data", &self.training.last_stage().solve_data().content_hash()[..])
            .field("draws of the sample", self.sampled_gradients() as u64);
        let builder = match fit.kind.has_eigenbasis() {
            true => builder.field("basis", self.eigenbasis_key(fit)),
            false => builder.field("basis", "standard"),
        };
        self.labels(builder).finish()
    }

    /// What the vectors of joint solves depend on beside the curvature that they start from: every damping is served
    /// from one space, which all of them shape.
    fn joint_solve(&self, key: KeyBuilder, set: VectorSet) -> KeyBuilder {
        let method = &self.job.method;
        match self.joint(set.answer) {
            None => return key,
            Some(Joint::Segments) => {
                let data = self.training.stages.iter().map(|stage| stage.solve_data().content_hash().to_vec());
                return key
                    .field("solve", method.solve.name())
                    .field("products", method.products() as u64)
                    .list("products' data", data.collect::<Vec<_>>().iter().map(Vec::as_slice))
                    .field("block", self.solve_block() as u64);
            }
            Some(Joint::Systems) => {}
        }
        let dampings: Vec<String> = method.damping.0.iter().map(|&damping| String::from(damping)).collect();
        let spanning = match method.solve {
            Solve::Subspace => SPANNING.map(|multiple| multiple.to_string()).to_vec(),
            Solve::Auto | Solve::Ekfac | Solve::GaussNewton | Solve::MFac => vec![],
        };
        let key = match spanning.is_empty() {
            true => key,
            false => {
                let key = key.list("spanning", spanning.iter().map(String::as_str));
                key.field("draws of the form", u64::from(self.form_draws()))
            }
        };
        let key = match self.answers[set.answer].variant {
            Some(Variant::Draws(half)) => key.field("half of the draws", half as u64),
            _ => key,
        };
        if method.solve == Solve::MFac {
            // each damping has a system of its own
            let data = self.training.last_stage().solve_data();
            let builder = key
                .field("solve", method.solve.name())
                .field("gradients' data", &data.content_hash()[..])
                .field("gradients", self.sampled_gradients() as u64)
                .field("their share", self.sample_share())
                .field("block", self.solve_block() as u64);
            return self.labels(builder);
        }
        let key = match method.solve_layers {
            SolveLayers::Together => key,
            SolveLayers::Each => key.field("systems", "of each layer"),
        };
        key.field("solve", method.solve.name())
            .field("products", method.products() as u64)
            .field("products' data", &self.training.last_stage().solve_data().content_hash()[..])
            .field("block", self.solve_block() as u64)
            .list("dampings", dampings.iter().map(String::as_str))
    }

    /// The vector sets of these answers, each file once: averaged influence and influence at the last checkpoint share
    /// the vectors of the last network.
    pub(in crate::job) fn stored_vector_sets(&self, answers: &[usize]) -> Vec<VectorSet> {
        let mut keys = vec![];
        let mut sets = self.vector_sets(answers);
        sets.retain(|set| {
            let key = self.vectors_key(*set);
            let is_new = key.is_none() || !keys.contains(&key);
            keys.push(key);
            is_new
        });
        sets
    }

    /// The score parts of a pass.
    pub(in crate::job) fn pass_key(&self, pass: &ScorePass) -> Option<Key> {
        let mut builder = KeyBuilder::new("score pass", ARITHMETIC)
            .field("network", self.network_key(pass.site.network))
            .field("data", &self.training.stages[pass.site.stage].train.content_hash()[..])
            .field("normalize", normalize_name(self.job.method.normalize))
            .field("self-influence", self.job.method.self_influence);
        for contribution in &pass.contributions {
            builder = builder
                .field("queries", self.vectors_key(contribution.set)?)
                .field("leg", contribution.leg as u64)
                .field("weight", contribution.weight);
        }
        builder = self.example_weights(builder, pass.site.stage);
        for &set in &pass.layer_sets {
            let layers = self.layer_sets[set].layers.iter().map(|&l| self.training.layers()[l].name.as_str());
            builder = builder.list("layer set", layers);
            let slices = &self.layer_sets[set].slices;
            if !slices.is_empty() {
                let names: Vec<String> = slices.iter().map(|slice| self.slice_name(slice)).collect();
                builder = builder.list("slices", names.iter().map(String::as_str));
            }
        }
        Some(self.stored(builder).finish())
    }

    /// The scores of an answer.
    pub(in crate::job) fn answer_key(&self, answer: usize) -> Option<Key> {
        let mut builder = KeyBuilder::new("scores", ARITHMETIC);
        for pass in self.score_passes(&[answer]) {
            builder = builder.field("pass", self.pass_key(&pass)?);
        }
        let builder = match self.job.output.scale {
            ScoreScale::PerExample => builder,
            ScoreScale::Kronfluence => builder.field("scale", "kronfluence"),
        };
        let builder = match self.spreads(answer) {
            true => builder.field("checkpoint scores", "spread"),
            false => builder,
        };
        let builder = match self.answers[answer].variant {
            Some(Variant::Checkpoints(first)) => builder.field("every other checkpoint from", first as u64),
            _ => builder,
        };
        Some(builder.finish())
    }

    /// What the scores of shortlisted variants depend on, but for how many examples are scored.
    pub(in crate::job) fn shortlist_key(&self) -> Option<Key> {
        let shortlisted = self.shortlisted();
        if shortlisted.is_empty() {
            return None;
        }
        let mut builder = KeyBuilder::new("intervals", 1)
            .field("scores", self.answer_key(0)?)
            .field("seed", self.job.method.seed)
            .field("control", CONTROL as u64);
        for pass in self.score_passes(&shortlisted) {
            builder = builder.field("pass", self.pass_key(&pass)?);
        }
        Some(builder.finish())
    }

    /// Self-influence under Source.
    pub(in crate::job) fn self_influence_key(&self) -> Key {
        let form = self.job.source.as_ref().map(|source| source.self_influence).unwrap_or_default();
        let form = match form {
            SelfInfluenceForm::Walk => "walk",
            SelfInfluenceForm::Local => "local",
        };
        let at_last = VectorSet { answer: 0, network: self.training.last_network() };
        let mut builder =
            KeyBuilder::new("self-influence", ARITHMETIC).field("form", form).field("walk", self.walk_key(at_last));
        for fit in self.training.segment_fits() {
            let stage = &self.training.stages[fit.stage];
            builder = builder.field("data", &stage.train.content_hash()[..]).field("n", stage.n_examples as u64);
            builder = self.example_weights(builder, fit.stage);
        }
        builder.finish()
    }

    /// What scores of a stage's examples are multiplied with.
    fn example_weights(&self, builder: KeyBuilder, stage: usize) -> KeyBuilder {
        let of_run = self.training.run.as_ref().and_then(|run| run.example_weights.get(stage)?.as_ref());
        let Some(ExampleWeights { examples, company, targets }) = of_run else { return builder };
        let company = match company {
            Company::Drawn | Company::Other => "drawn",
            Company::OfLikeLength => "of like length",
        };
        let builder = builder.field("examples of a mean", *examples as u64).field("company", company);
        builder.list("targets", [targets.mean, targets.variance])
    }

    fn stored(&self, builder: KeyBuilder) -> KeyBuilder {
        let output = &self.job.output;
        let top = if output.store_scores == StoreScores::Top { output.top as u64 } else { 0 };
        builder.field("stored", stored_name(output.store_scores)).field("top", top)
    }
}

impl Brief {
    /// Hash of the examples that a stage's curvature is taken on: its own, or those of the run that is used again.
    pub(in crate::job) fn curvature_data(&self, stage: usize) -> [u8; 32] {
        let stage = &self.training.stages[stage];
        match self.reused.as_ref().and_then(|reused| reused.data(&stage.name)) {
            Some(hash) => hash,
            None => stage.fit_data().content_hash(),
        }
    }

    /// Hash of the examples that a curvature is taken on.
    fn curvature_data_of(&self, stage: usize, sample: Sample) -> [u8; 32] {
        match sample {
            Sample::Whole | Sample::Redrawn => self.curvature_data(stage),
            Sample::Half(_) => self.training.stages[stage].data_of(sample).content_hash(),
        }
    }

    /// `Err` if a curvature would have to be taken on data that are not at hand: those of the reused run.
    pub(in crate::job) fn check_own_data(&self, stage: usize, what: &str) -> Result<(), JobError> {
        if self.curvature_data(stage) == self.training.stages[stage].fit_data().content_hash() {
            return Ok(());
        }
        let folder: PathBuf = self.reused.as_ref().map(|reused| reused.store.folder().to_owned()).unwrap_or_default();
        Err(JobError::Options {
            problem: format!("{}: holds no {what} of this model and these options", folder.display()).into(),
            hint: Some(
                "fit it there first (`ascribe fit --out` that folder), or leave <factors> out to fit on these training examples"
                    .into(),
            ),
        })
    }
}

/// Where a part of a fit is taken.
pub(in crate::job) fn site(fit: &Fit, place: &Place) -> Site {
    Site { network: place.network, stage: fit.stage, sample: fit.sample }
}

/// A form of Source as keys have it.
fn form_name(form: FormRequest) -> &'static str {
    match form {
        FormRequest::Exponential => "Exponential",
        FormRequest::Product => "Product",
        FormRequest::Momentum => "Momentum",
    }
}

/// A reduction as keys have it.
fn reduction_name(reduction: ReductionRequest) -> &'static str {
    match reduction {
        ReductionRequest::Sum => "Sum",
        ReductionRequest::Mean => "Mean",
    }
}

/// An aggregate of queries as keys have it.
fn aggregate_name(aggregate: AggregateRequest) -> &'static str {
    match aggregate {
        AggregateRequest::Each => "Each",
        AggregateRequest::Sum => "Sum",
        AggregateRequest::Mean => "Mean",
    }
}

/// A normalisation as keys have it.
fn normalize_name(normalize: Normalize) -> &'static str {
    match normalize {
        Normalize::None => "None",
        Normalize::Cosine => "Cosine",
    }
}

/// What of the scores is stored, as keys have it.
fn stored_name(stored: StoreScores) -> &'static str {
    match stored {
        StoreScores::Full => "Full",
        StoreScores::Top => "Top",
    }
}

/// An optimizer and its constants as keys have them.
fn optimizer_name(optimizer: &Optimizer) -> String {
    let adam = |name: &str, [beta1, beta2, epsilon, weight_decay]: [f64; 4]| {
        format!("{name} {{ beta1: {beta1:?}, beta2: {beta2:?}, epsilon: {epsilon:?}, weight_decay: {weight_decay:?} }}")
    };
    match *optimizer {
        Optimizer::Sgd { momentum, dampening, nesterov, weight_decay } => format!(
            "Sgd {{ momentum: {momentum:?}, dampening: {dampening:?}, nesterov: {nesterov}, weight_decay: {weight_decay:?} }}"
        ),
        Optimizer::Adam { beta1, beta2, epsilon, weight_decay } => adam("Adam", [beta1, beta2, epsilon, weight_decay]),
        Optimizer::AdamW { beta1, beta2, epsilon, weight_decay } => {
            adam("AdamW", [beta1, beta2, epsilon, weight_decay])
        }
        // no stage of training has one
        ref other => other.name().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Artifacts of earlier versions were keyed by what `Debug` wrote; they are found again.
    #[test]
    fn names_in_keys_are_those_of_earlier_versions() {
        for form in [FormRequest::Exponential, FormRequest::Product, FormRequest::Momentum] {
            assert_eq!(form_name(form), format!("{form:?}"));
        }
        for reduction in [ReductionRequest::Sum, ReductionRequest::Mean] {
            assert_eq!(reduction_name(reduction), format!("{reduction:?}"));
        }
        for aggregate in [AggregateRequest::Each, AggregateRequest::Sum, AggregateRequest::Mean] {
            assert_eq!(aggregate_name(aggregate), format!("{aggregate:?}"));
        }
        for normalize in [Normalize::None, Normalize::Cosine] {
            assert_eq!(normalize_name(normalize), format!("{normalize:?}"));
        }
        for stored in [StoreScores::Full, StoreScores::Top] {
            assert_eq!(stored_name(stored), format!("{stored:?}"));
        }
        let (beta1, beta2, epsilon) = (0.9, 0.999, 1e-8);
        for optimizer in [
            Optimizer::Sgd { momentum: 0.9, dampening: 0.0, nesterov: true, weight_decay: 1e-20 },
            Optimizer::Sgd { momentum: 0.0, dampening: 0.25, nesterov: false, weight_decay: 3e22 },
            Optimizer::Adam { beta1, beta2, epsilon, weight_decay: 0.0 },
            Optimizer::AdamW { beta1, beta2, epsilon, weight_decay: 0.1 },
        ] {
            assert_eq!(optimizer_name(&optimizer), format!("{optimizer:?}"));
        }
    }
}
