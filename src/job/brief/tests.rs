//! Briefs that are built without a plan: which change of a job changes which keys, and nothing else does; which passes
//! its answers need.

use std::collections::BTreeMap;

use super::answers::{Contribution, VectorSet};
use super::in_memory::{brief, job, source_job};
use super::keys::site;
use super::*;
use crate::attribution::store::Key;
use crate::curvature::Damping;
use crate::job::request::{
    AggregateRequest, Beside, CheckpointScores, Curvature, DampingRequest, DeviceRequest, DuplicateScores,
    DuplicatesRequest, Fisher, FormRequest, KfacScale, Normalize, Precision, ReductionRequest, ScoreScale,
    SelfInfluenceForm, Several, Solve, StoreScores,
};
use crate::job::training::chosen::Chosen;
use crate::job::training::{Fit, Sample, Site};

/// A key of each kind, of what comes first in training.
fn keys(brief: &Brief) -> BTreeMap<&'static str, Key> {
    let fit = &brief.training.fits[0];
    let (place, vectors) = (&fit.places[0], VectorSet { answer: 0, network: brief.training.last_network() });
    let passes = brief.score_passes(&brief.all_answers());
    BTreeMap::from([
        ("covariance", brief.covariance_key(site(fit, place))),
        ("eigenbasis", brief.eigenbasis_key(fit)),
        ("lambda", brief.lambda_key(fit, place)),
        ("run", brief.run_key()),
        ("vectors", brief.vectors_key(vectors).expect("queries")),
        ("pass", brief.pass_key(&passes[0]).expect("queries")),
        ("answer", brief.answer_key(0).expect("queries")),
        ("self-influence", brief.self_influence_key()),
    ])
}

/// Kinds of keys that differ, in alphabetical order.
fn changed(before: &Brief, after: &Brief) -> Vec<&'static str> {
    let (before, after) = (keys(before), keys(after));
    before.iter().filter(|(kind, key)| after[*kind] != **key).map(|(kind, _)| *kind).collect()
}

type Change = (&'static str, fn(&mut Job), &'static [&'static str]);

const ALL: &[&str] = &["answer", "covariance", "eigenbasis", "lambda", "pass", "run", "self-influence", "vectors"];
const FROM_BASES: &[&str] = &["answer", "eigenbasis", "lambda", "pass", "run", "self-influence", "vectors"];
const FROM_LAMBDA: &[&str] = &["answer", "lambda", "pass", "run", "self-influence", "vectors"];
const FROM_FACTORS: &[&str] = &["answer", "pass", "run", "self-influence", "vectors"];
const FROM_WALKS: &[&str] = &["answer", "pass", "self-influence", "vectors"];
const FROM_VECTORS: &[&str] = &["answer", "pass", "vectors"];
const SCORES: &[&str] = &["answer", "pass"];

#[track_caller]
fn assert_changes(job: impl Fn() -> Job, changes: &[Change]) {
    let before = brief(job(), |_| ());
    for (name, change, expected) in changes {
        let mut other = job();
        change(&mut other);
        assert_ne!(other, job(), "{name} changes nothing of the job");
        assert_eq!(changed(&before, &brief(other, |_| ())), *expected, "{name}");
    }
}

#[test]
fn a_choice_of_influence_changes_the_keys_of_what_depends_on_it_alone() {
    assert_changes(
        job,
        &[
            ("type", |job| job.model.dtype = Precision::F64, ALL),
            ("device", |job| job.resources.device = DeviceRequest::Cuda(0), ALL),
            ("layers", |job| job.model.skip_layers = vec!["layers.0".into()], ALL),
            ("labels", |job| job.method.fisher = Fisher::Empirical, ALL),
            ("seed", |job| job.method.seed = 1, ALL),
            ("draws", |job| job.method.label_draws = 2, ALL),
            ("a width that cuts", |job| job.method.eigen_block_width = Some(4), FROM_BASES),
            ("a width that does not", |job| job.method.eigen_block_width = Some(1 << 20), &[]),
            ("diagonal", |job| job.method.curvature = Curvature::Diagonal, FROM_LAMBDA),
            ("K-FAC", |job| job.method.curvature = Curvature::Kfac, FROM_FACTORS),
            ("no curvature", |job| job.method.curvature = Curvature::Identity, FROM_FACTORS),
            ("TKFAC", |job| job.method.curvature = Curvature::Tkfac, ALL),
            ("Shampoo", |job| job.method.curvature = Curvature::Shampoo, ALL),
            ("SOAP", |job| job.method.curvature = Curvature::Soap, ALL),
            ("a scale of K-FAC that is not asked for", |job| job.method.kfac_scale = KfacScale::PerPosition, &[]),
            (
                "damping",
                |job| job.method.damping = Several(vec![DampingRequest::Value(Damping::Absolute(0.5))]),
                FROM_WALKS,
            ),
            (
                "a damping of the same number",
                |job| job.method.damping = Several(vec![DampingRequest::Value(Damping::Absolute(0.1))]),
                FROM_WALKS,
            ),
            ("measure", |job| job.method.measure = Some(Measure::Loss), FROM_VECTORS),
            ("reduction", |job| job.method.reduction = ReductionRequest::Mean, FROM_VECTORS),
            ("sum", |job| job.method.aggregate = AggregateRequest::Sum, FROM_VECTORS),
            ("mean", |job| job.method.aggregate = AggregateRequest::Mean, FROM_VECTORS),
            ("cosine", |job| job.method.normalize = Normalize::Cosine, FROM_VECTORS),
            ("rank", |job| job.method.query_rank = Some(2), FROM_VECTORS),
            ("self-influence", |job| job.method.self_influence = true, SCORES),
            ("what is stored", |job| job.output.store_scores = StoreScores::Top, SCORES),
            ("unit", |job| job.output.scale = ScoreScale::Kronfluence, SCORES),
            ("size of the training set", |job| job.data.train_size = Some(1000), SCORES),
            (
                "a set of layers",
                |job| drop(job.output.layer_sets.insert("first".into(), Several(vec!["layers.0".into()]))),
                &["pass"],
            ),
            ("a spread of no mean", |job| job.method.checkpoint_scores = CheckpointScores::Spread, &[]),
            ("a longer list of what is stored whole", |job| job.output.top = 3, &[]),
            ("text of the rankings", |job| job.output.csv = true, &[]),
            ("groups", |job| job.output.group_by = Some("source".into()), &[]),
            ("copies", |job| job.output.duplicates = DuplicatesRequest::Exact, &[]),
            ("scores of copies", |job| job.output.duplicate_scores = DuplicateScores::Sum, &[]),
            ("place", |job| job.output.path = "elsewhere".into(), &[]),
            ("threads", |job| job.resources.threads = Some(1), &[]),
            ("memory", |job| job.resources.memory = Some(1 << 30), &[]),
            ("disk", |job| job.resources.disk = Some(1 << 30), &[]),
        ],
    );
}

#[test]
fn a_choice_of_kfac_or_of_labels_counts_where_it_is_used() {
    let kfac = || {
        let mut job = job();
        job.method.curvature = Curvature::Kfac;
        job
    };
    assert_changes(kfac, &[("scale", |job| job.method.kfac_scale = KfacScale::PerPosition, FROM_FACTORS)]);
    let shampoo = || {
        let mut job = job();
        job.method.curvature = Curvature::Shampoo;
        job
    };
    assert_changes(
        shampoo,
        &[
            ("its eigenvalues corrected", |job| job.method.curvature = Curvature::Soap, FROM_FACTORS),
            ("other sums", |job| job.method.curvature = Curvature::Tkfac, ALL),
            ("a scale that is K-FAC's", |job| job.method.kfac_scale = KfacScale::PerPosition, &[]),
        ],
    );
    let empirical = || {
        let mut job = job();
        job.method.fisher = Fisher::Empirical;
        job
    };
    assert_changes(
        empirical,
        &[("seed", |job| job.method.seed = 1, &[]), ("draws", |job| job.method.label_draws = 2, &[])],
    );
    let undamped = || {
        let mut job = job();
        job.method.curvature = Curvature::Identity;
        job
    };
    assert_changes(
        undamped,
        &[("damping", |job| job.method.damping = Several(vec![DampingRequest::Value(Damping::Absolute(0.5))]), &[])],
    );
    let top = || {
        let mut job = job();
        job.output.store_scores = StoreScores::Top;
        job
    };
    assert_changes(top, &[("a shorter list", |job| job.output.top = 3, SCORES)]);
}

#[test]
fn a_choice_of_joint_solves_changes_the_keys_of_what_depends_on_it_alone() {
    let subspace = || {
        let mut job = job();
        job.method.solve = Solve::Subspace;
        job
    };
    let two_dampings = [0.5, 0.25].map(|damping| DampingRequest::Value(Damping::Absolute(damping)));
    assert_eq!(changed(&brief(job(), |_| ()), &brief(subspace(), |_| ())), FROM_VECTORS);
    assert_changes(
        subspace,
        &[
            ("each layer by itself", |job| job.method.solve = Solve::Ekfac, FROM_VECTORS),
            ("products", |job| job.method.solve = Solve::GaussNewton, FROM_VECTORS),
            ("draws of the form", |job| job.method.solve_label_draws = Some(3), FROM_VECTORS),
            ("products that it makes none of", |job| job.method.solve_iterations = Some(5), &[]),
            ("queries at a time", |job| job.method.solve_block = Some(2), FROM_VECTORS),
        ],
    );
    let products = || {
        let mut job = job();
        job.method.solve = Solve::GaussNewton;
        job
    };
    assert_changes(
        products,
        &[
            ("how many", |job| job.method.solve_iterations = Some(5), FROM_VECTORS),
            ("queries at a time", |job| job.method.solve_block = Some(2), FROM_VECTORS),
            ("draws of no form", |job| job.method.solve_label_draws = Some(3), &[]),
        ],
    );
    let matrix_free = || {
        let mut job = job();
        job.method.solve = Solve::MFac;
        job
    };
    assert_changes(
        matrix_free,
        &[
            ("products", |job| job.method.solve = Solve::GaussNewton, FROM_VECTORS),
            ("gradients of each example", |job| job.method.solve_label_draws = Some(3), FROM_VECTORS),
            ("queries at a time", |job| job.method.solve_block = Some(2), FROM_VECTORS),
            ("products that it makes none of", |job| job.method.solve_iterations = Some(5), &[]),
            ("nothing beside the sample", |job| job.method.curvature = Curvature::Identity, FROM_FACTORS),
        ],
    );
    let alone = || {
        let mut job = matrix_free();
        job.method.curvature = Curvature::Identity;
        job
    };
    let damped = |job: &mut Job| job.method.damping = Several(vec![DampingRequest::Value(Damping::Absolute(0.5))]);
    assert_changes(alone, &[("a ridge", damped, FROM_WALKS)]);
    // vectors of one damping depend on the others, which shaped their space
    let of_dampings = |solve: Solve, dampings: &[DampingRequest]| {
        let mut job = job();
        (job.method.solve, job.method.damping) = (solve, Several(dampings.to_vec()));
        keys(&brief(job, |_| ()))["vectors"]
    };
    for solve in [Solve::Subspace, Solve::GaussNewton] {
        assert_ne!(of_dampings(solve, &two_dampings[..1]), of_dampings(solve, &two_dampings), "{solve:?}");
    }
    for solve in [Solve::Ekfac, Solve::MFac] {
        assert_eq!(of_dampings(solve, &two_dampings[..1]), of_dampings(solve, &two_dampings), "{solve:?}");
    }
    let walked = || {
        let mut job = source_job();
        job.method.solve = Solve::GaussNewton;
        job
    };
    assert_changes(
        walked,
        &[
            ("each layer by itself", |job| job.method.solve = Solve::Ekfac, FROM_VECTORS),
            ("how many", |job| job.method.solve_iterations = Some(5), FROM_VECTORS),
            ("queries at a time", |job| job.method.solve_block = Some(2), FROM_VECTORS),
            ("a damping of no influence", damped, &[]),
        ],
    );
    // the examples of the products, and not those that are scored or fitted
    let in_walk = brief(walked(), |_| ());
    let some = |training: &mut Training| training.stages[0].solve_sample = Some(training.stages[0].train.sample(3));
    assert_eq!(changed(&in_walk, &brief(walked(), some)), FROM_VECTORS);
    assert_eq!(changed(&brief(source_job(), |_| ()), &brief(source_job(), some)), [""; 0]);
    let whole = brief(products(), |_| ());
    let n = whole.train().len();
    let sampled =
        |training: &mut Training| training.stages[0].solve_sample = Some(training.stages[0].train.sample(n / 2));
    assert_eq!(changed(&whole, &brief(products(), sampled)), FROM_VECTORS);
    assert_eq!(changed(&brief(job(), |_| ()), &brief(job(), sampled)), [""; 0]);
}

#[test]
fn halves_of_the_data_have_curvatures_of_their_own() {
    let halves = |training: &mut Training| {
        let stage = &mut training.stages[0];
        let n = stage.train.len();
        stage.halves = Some([stage.train.sample(n / 2), stage.train.sample(n / 3)]);
    };
    let brief = brief(job(), halves);
    let fit = |sample| Fit { sample, ..brief.training.fits[0].clone() };
    let samples = [Sample::Whole, Sample::Half(0), Sample::Half(1)];
    let all: std::collections::BTreeSet<String> = samples
        .into_iter()
        .flat_map(|sample| {
            let fit = fit(sample);
            let at = site(&fit, &fit.places[0]);
            [brief.covariance_key(at), brief.eigenbasis_key(&fit), brief.lambda_key(&fit, &fit.places[0])]
        })
        .map(|key| key.to_string())
        .collect();
    assert_eq!(all.len(), 9);
}

#[test]
fn a_choice_of_source_changes_the_keys_of_what_depends_on_it_alone() {
    assert_changes(
        source_job,
        &[
            (
                "time scale",
                |job| job.source.iter_mut().for_each(|source| source.time_scale = Several(vec![2.0])),
                FROM_WALKS,
            ),
            ("form", |job| job.source.iter_mut().for_each(|source| source.form = FormRequest::Product), FROM_WALKS),
            (
                "form of self-influence",
                |job| job.source.iter_mut().for_each(|source| source.self_influence = SelfInfluenceForm::Local),
                &["self-influence"],
            ),
            ("scores of each stage", |job| job.source.iter_mut().for_each(|source| source.by_stage = true), &[]),
            (
                // at the first network, where influence at the last one takes nothing
                "TracIn beside it",
                |job| job.source.iter_mut().for_each(|source| source.with = vec![Beside::Tracin]),
                &["pass"],
            ),
            (
                "influence beside it",
                |job| job.source.iter_mut().for_each(|source| source.with = vec![Beside::Influence]),
                &[],
            ),
        ],
    );
}

#[test]
fn data_change_the_keys_of_what_they_are_used_for() {
    let whole = brief(job(), |_| ());
    let n = whole.train().len();
    let half = |training: &mut Training| training.stages[0].train = training.stages[0].train.sample(n / 2);
    assert_eq!(changed(&whole, &brief(job(), half)), ALL);
    let sampled = |training: &mut Training| training.stages[0].sample = Some(training.stages[0].train.sample(n / 2));
    assert_eq!(changed(&whole, &brief(job(), sampled)), ALL);
    // the curvature is that of all examples, and half of them are scored
    let scored = |places: Vec<usize>| {
        let is_control = places.iter().map(|&m| m > 2).collect();
        brief(job(), |training| training.score_only(Chosen { places, is_control, of: n }))
    };
    let some = scored(vec![0, 2, 5]);
    assert_eq!(changed(&whole, &some), SCORES);
    assert_eq!(changed(&some, &scored(vec![0, 2, 6])), SCORES);
    let stage = some.training.last_stage();
    assert_eq!((stage.all().len(), stage.n_examples, some.training.columns.len(), stage.place(2)), (n, n, 3, 5));
    assert_eq!(some.training.columns.id(2), whole.train().id(5));
    let mut other = brief(job(), |_| ());
    other.queries = Some(whole.train().sample(3));
    assert_eq!(changed(&whole, &other), FROM_VECTORS);
    // weights that all count alike are written nowhere
    other.query_weights = vec![0.5, 0.25, 0.25];
    let weighted = keys(&other);
    other.query_weights = vec![0.25, 0.5, 0.25];
    assert_ne!(keys(&other)["vectors"], weighted["vectors"]);
    other.query_weights = vec![];
    assert_ne!(keys(&other)["vectors"], weighted["vectors"]);
    other.queries = None;
    assert_eq!(other.answer_key(0), None);
    assert_eq!(other.run_key(), whole.run_key());
}

#[test]
fn influence_needs_one_pass_and_the_curvature_that_its_kind_has() {
    let n = brief(job(), |_| ()).train().len();
    for (curvature, has_basis, needed) in [
        (Curvature::Ekfac, true, 1),
        (Curvature::Kfac, true, 1),
        (Curvature::Soap, true, 1),
        (Curvature::Diagonal, false, 1),
        (Curvature::Identity, false, 1),
    ] {
        let mut job = job();
        job.method.curvature = curvature;
        let brief = brief(job, |_| ());
        assert_eq!((brief.has_eigenbasis(), brief.needed_fits().count()), (has_basis, needed), "{curvature:?}");
        let [pass] = brief.score_passes(&brief.all_answers()).try_into().expect("one pass");
        assert_eq!(pass.site, Site { network: 0, stage: 0, sample: Sample::Whole });
        let set = VectorSet { answer: 0, network: 0 };
        assert_eq!(pass.contributions, [Contribution { set, leg: 0, weight: 1.0 / n as f64 }]);
        assert_eq!(brief.stored_vector_sets(&brief.all_answers()), [set]);
        let rows = brief.query_rows();
        assert_eq!((brief.vectors_of(&pass), pass.width(rows)), (rows, rows));
    }
}

#[test]
fn sets_of_layers_share_the_pass_and_the_vectors_of_the_whole() {
    let mut job = job();
    job.output.layer_sets.insert("first".into(), Several(vec!["layers.0".into()]));
    job.output.layer_sets.insert("rest".into(), Several(vec!["layers.1".into(), "layers.2".into()]));
    let brief = brief(job, |_| ());
    let names: Vec<&str> = brief.answers.iter().map(|answer| answer.name.as_str()).collect();
    assert_eq!(names[1..], ["layers-first", "layers-rest"]);
    assert_eq!([0, 1, 2].map(|answer| brief.layers_of(answer)), [vec![0, 1, 2], vec![0], vec![1, 2]]);
    let [pass] = brief.score_passes(&brief.all_answers()).try_into().expect("one pass");
    let rows = brief.query_rows();
    assert_eq!((pass.sums(), pass.width(rows)), (3, 3 * rows));
    assert_eq!([0, 1, 2].map(|answer| pass.places(&brief.answers[answer], rows)), [[0], [rows], [2 * rows]]);
    assert_eq!(brief.stored_vector_sets(&brief.all_answers()).len(), 1);
}

#[test]
fn source_differentiates_each_checkpoint_once_whatever_is_beside_it() {
    let count = |with: Vec<Beside>| {
        let mut job = source_job();
        job.source.iter_mut().for_each(|source| source.with.clone_from(&with));
        let brief = brief(job, |_| ());
        let passes = brief.score_passes(&brief.all_answers());
        let sites: Vec<usize> = passes.iter().map(|pass| pass.site.network).collect();
        let weights: f64 = passes.iter().flat_map(|pass| &pass.contributions).map(|c| c.weight).sum();
        (sites, brief.needed_fits().count(), brief.vector_sets(&brief.all_answers()).len(), weights, brief)
    };
    let (sites, fits, sets, weights, brief) = count(vec![]);
    let (networks, segments) = (brief.training.networks.parameters().len(), brief.training.segments().len());
    assert_eq!(sites, (0..networks).collect::<Vec<_>>());
    assert_eq!((fits, sets), (segments, 1));
    // each segment's checkpoints count 1 / N together
    let n = brief.train().len() as f64;
    assert!((weights - segments as f64 / n).abs() < 1e-12, "{weights}");
    let (beside, fits, sets, ..) = count(vec![Beside::Tracin, Beside::Influence, Beside::Gradients]);
    assert_eq!(beside, sites);
    // TracIn asks every network, the others the last
    assert_eq!((fits, sets), (segments + 1, 1 + networks + 2));
}
