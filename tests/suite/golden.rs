//! The golden cases (fixtures/golden): tiny problems with every intermediate value in f64, from dense
//! matrices that numpy formed. Tolerances are those for f64.

use std::sync::Arc;

use crate::support::figures::{assert_absolute, assert_relative, wide};
use crate::support::passes::{
    Fitted, Gradients, KfacScale, LayerScores, fit, form, score_with, self_influence_by_layer, sweep, vectors,
};
use crate::support::toy::{Classifier, LONGEST, Points, Sequences, TokenModel};
use crate::support::{Outcome, fixture};
use ascribe::attribution::evaluate::{cosine, relatif_loss};
use ascribe::attribution::{
    Aggregate, Examples, LabelMode, MemoryVectors, Pass, VectorForm, VectorSource, Walk, prepare_queries,
    quadratic_forms,
};
use ascribe::curvature::random::{self, stream};
use ascribe::curvature::{
    CurvatureKind, Damping, Eigenbasis, Factors, LabelDraw, LayerId, LowRank, Matrix, Measurement, Network, Objective,
    Reduction, SpectralFn, Step, Vectors,
};
use serde_json::Value;

const COVARIANCES: f64 = 1e-12;
const REBUILT: f64 = 1e-11;
const LAMBDA: f64 = 1e-10;
const SCORES: f64 = 1e-10;
/// IHVPs and scores at the absolute damping 1e-8.
const BARELY_DAMPED: f64 = 1e-6;

fn golden(case: &str) -> Value {
    let text = std::fs::read(fixture("golden/golden.json")).expect("a fixture");
    let mut all: Value = serde_json::from_slice(&text).expect("JSON");
    all[case].take()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("a list, not {value}"))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("a number, not {value}"))
}

fn rows(value: &Value) -> Vec<Vec<f64>> {
    list(value).iter().map(|row| list(row).iter().map(number).collect()).collect()
}

/// Numbers of any nesting, in order.
fn flat(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().flat_map(flat).collect(),
        other => vec![number(other)],
    }
}

fn integers<T: TryFrom<u64, Error: std::fmt::Debug>>(value: &Value) -> Vec<T> {
    let integer = |value: &Value| T::try_from(value.as_u64().expect("an integer")).expect("in range");
    list(value).iter().map(integer).collect()
}

/// `U diag(Λ) Uᵀ` with `U = U_S ⊗ U_A`, row by row.
fn dense(u_s: &[Vec<f64>], u_a: &[Vec<f64>], lambda: &[f64]) -> Vec<f64> {
    let (o, i) = (u_s.len(), u_a.len());
    let u = |row: usize, k: usize| u_s[row / i][k / i] * u_a[row % i][k % i];
    let entry = |r: usize, c: usize| (0..o * i).map(|k| u(r, k) * lambda[k] * u(c, k)).sum::<f64>();
    (0..o * i).flat_map(|r| (0..o * i).map(move |c| (r, c))).map(|(r, c)| entry(r, c)).collect()
}

/// `U diag(λ) Uᵀ`.
fn rebuilt(vectors: &Matrix<f64>, values: &[f64]) -> Vec<f64> {
    dense(&[vec![1.0]], &vectors.to_rows(), values)
}

fn label_mode(fisher: &str, classes: usize) -> LabelMode {
    match fisher {
        "expected" => LabelMode::Exact { classes },
        "sampled" => LabelMode::Sampled { seed: 5, draws: 1 },
        _ => LabelMode::Empirical,
    }
}

fn kind_of(name: &str) -> CurvatureKind {
    match name {
        "ekfac" => CurvatureKind::Ekfac,
        "kfac" => CurvatureKind::Kfac,
        "diagonal" => CurvatureKind::Diagonal,
        _ => CurvatureKind::Identity,
    }
}

/// A network with its training examples and queries.
struct Case<N, E> {
    network: N,
    train: E,
    queries: E,
}

impl<N: Network, E: Examples<N::Batch>> Case<N, E> {
    /// Everything that one curvature gives, against its record: vectors, scores by layer and in all,
    /// self-influence. `record` holds `ihvp[l][q]`.
    fn check_influence(
        &self,
        factors: &Factors<f64>,
        damping: Damping,
        record: &Influence,
        what: &str,
        tolerance: f64,
    ) -> Outcome {
        let layers = self.network.layers();
        let n = self.train.len() as f64;
        let found: Vec<f64> = factors.layers.iter().map(|layer| layer.damping(damping)).collect();
        if factors.kind != CurvatureKind::Identity {
            assert_relative(&found, &record.damping, LAMBDA, &format!("{what}: damping"));
        }
        let (vectors, _) = vectors(&self.network, &self.queries, factors, damping, Measurement::Loss)?;
        for l in 0..layers.len() {
            assert_relative(
                vectors.vectors(0, LayerId(l))?.full().expect("whole"),
                &record.ihvp[l],
                tolerance,
                &format!("{what}: IHVP of layer {l}"),
            );
        }
        let mut sink = LayerScores::new(layers, &vectors);
        sweep(&self.network, &self.train, Pass::Scores).differentiate(
            0,
            &[Objective::TrainingLoss],
            &mut sink,
            |_, _| Ok(()),
        )?;
        let transposed = |scores: &[f64]| -> Vec<f64> {
            let queries = self.queries.len();
            (0..queries).flat_map(|q| scores.iter().skip(q).step_by(queries).map(|score| score / n)).collect()
        };
        let mut sum = vec![0.0; record.scores.len()];
        for (l, scores) in sink.scores.iter().enumerate() {
            let scores = transposed(scores);
            assert_relative(&scores, &record.scores_by_layer[l], tolerance, &format!("{what}: scores of layer {l}"));
            sum.iter_mut().zip(scores).for_each(|(sum, score)| *sum += score);
        }
        assert_relative(&sum, &record.scores, tolerance, &format!("{what}: scores"));
        // the scorer itself adds in f64 and writes f32
        let matrix = score_with(&self.network, &self.train, &vectors, factors, damping, 1.0 / n)?;
        assert_relative(&matrix.wide(), &record.scores, tolerance.max(1e-7), &format!("{what}: score matrix"));
        let Some((by_layer, all)) = &record.self_influence else { return Ok(()) };
        let found = self_influence_by_layer(&self.network, &self.train, factors, damping)?;
        for (l, found) in found.iter().enumerate() {
            let found: Vec<f64> = found.iter().map(|value| value / n).collect();
            assert_relative(&found, &by_layer[l], tolerance, &format!("{what}: self-influence of layer {l}"));
        }
        let sweep = sweep(&self.network, &self.train, Pass::SelfInfluence);
        let found = quadratic_forms(&sweep, Objective::TrainingLoss, form(layers, factors, damping))?;
        let found: Vec<f64> = found.iter().map(|value| value / n).collect();
        assert_relative(&found, all, tolerance, &format!("{what}: self-influence"));
        assert_relative(&wide(&matrix.self_influence), all, tolerance.max(1e-7), &format!("{what}: self-influence"));
        Ok(())
    }

    fn fit(&self, kind: CurvatureKind, labels: LabelMode) -> Result<Fitted<f64>, ascribe::attribution::Error> {
        fit(&self.network, &self.train, kind, labels, KfacScale::PerExample)
    }

    /// Every example's gradient, `[layers][N, O, columns]`.
    fn gradients(
        &self,
        examples: &E,
        objective: Objective,
    ) -> Result<(Vec<Vec<f64>>, Vec<f64>), ascribe::curvature::Error> {
        let batch = examples.batch(0..examples.len()).expect("in memory");
        let mut sink = Gradients::<f64>::new(self.network.layers());
        let values = self.network.differentiate(&batch, objective, &mut sink)?;
        Ok((sink.gradients, values))
    }
}

/// What a golden case records of one curvature and damping.
struct Influence {
    damping: Vec<f64>,
    /// `[layers][Q, O, columns]`.
    ihvp: Vec<Vec<f64>>,
    scores_by_layer: Vec<Vec<f64>>,
    scores: Vec<f64>,
    self_influence: Option<(Vec<Vec<f64>>, Vec<f64>)>,
}

fn classifier() -> (Value, Case<Classifier, Points>) {
    let record = golden("mlp");
    let weights: Vec<_> = list(&record["theta"]).iter().map(rows).collect();
    // batches of four and two
    let points = |inputs: &str, classes: &str| Points {
        inputs: rows(&record[inputs]),
        classes: integers(&record[classes]),
        batch: 4,
    };
    let (train, queries) = (points("X", "Y"), points("query_X", "query_Y"));
    (record, Case { network: Classifier::new(&weights), train, queries })
}

#[test]
fn gradients_and_measurements_of_the_classifier() -> Outcome {
    let (record, case) = classifier();
    let (gradients, losses) = case.gradients(&case.train, Objective::TrainingLoss)?;
    assert_relative(&losses, &flat(&record["forward"]["loss"]), 1e-12, "losses");
    for (l, found) in gradients.iter().enumerate() {
        let want: Vec<f64> = list(&record["per_example_gradients"]).iter().flat_map(|m| flat(&m[l])).collect();
        assert_relative(found, &want, 1e-12, &format!("gradients of layer {l}"));
    }
    for measured in list(&record["measurements"]) {
        let (kind, query) =
            (measured["kind"].as_str().expect("text"), measured["query"].as_u64().expect("a place") as usize);
        let measurement = match kind {
            "loss" => Measurement::Loss,
            "logprob" => Measurement::LogProbability,
            "margin" => Measurement::Margin,
            _ => continue, // two classes: the logit difference is the margin
        };
        assert_eq!(measurement.orientation(), number(&measured["orientation"]), "{kind}");
        let objective = Objective::Measurement(measurement, Reduction::Sum);
        let (gradients, values) = case.gradients(&case.queries, objective)?;
        assert_relative(&values[query..=query], &[number(&measured["value"])], 1e-12, kind);
        for (l, layer) in case.network.layers().iter().enumerate() {
            // taps hold the gradient of the cost -κ f
            let want = flat(&measured["gradient"][l]).into_iter().map(|x| -measurement.orientation() * x);
            let size = layer.parameters();
            let found = &gradients[l][query * size..(query + 1) * size];
            assert_relative(found, &want.collect::<Vec<_>>(), 1e-12, kind);
        }
    }
    Ok(())
}

#[test]
fn sampled_labels_are_the_listed_ones() {
    let (record, case) = classifier();
    let listed = &record["fisher"]["sampled"];
    let logits = rows(&record["forward"]["logits"]);
    for (stream, name) in [(stream::COVARIANCE, "labels_covariance"), (stream::LAMBDA, "labels_lambda")] {
        let draw = LabelDraw { seed: 5, stream, draw: 0 };
        let labels: Vec<u32> = integers(&listed[name]);
        // the loss with drawn labels is the loss of the listed ones
        let (_, losses) = case.gradients(&case.train, Objective::SampledLoss(draw)).expect("differentiable");
        for (m, label) in labels.iter().enumerate() {
            let total: f64 = logits[m].iter().map(|z| z.exp()).sum();
            let want = total.ln() - logits[m][*label as usize];
            assert!((losses[m] - want).abs() < 1e-12, "example {m}: {} {want}", losses[m]);
        }
    }
}

#[test]
fn factors_and_influence_of_the_classifier() -> Outcome {
    let (record, case) = classifier();
    for fisher in ["expected", "sampled", "empirical"] {
        let (labels, record) = (label_mode(fisher, 2), &record["fisher"][fisher]);
        let Fitted { covariance, factors } = case.fit(CurvatureKind::Ekfac, labels)?;
        let covariance = covariance.expect("EK-FAC has one");
        let kfac = case.fit(CurvatureKind::Kfac, labels)?.factors;
        for (l, want) in list(&record["layers"]).iter().enumerate() {
            let what = |name: &str| format!("{fisher}, layer {l}: {name}");
            let layer = &case.network.layers()[l];
            let a = covariance.inputs[layer.input_group].as_ref().expect("of the layer");
            assert_relative(a.to_dense().as_slice(), &flat(&want["A"]), COVARIANCES, &what("A"));
            assert_relative(covariance.outputs[l].to_dense().as_slice(), &flat(&want["S"]), COVARIANCES, &what("S"));
            let basis = factors.layers[l].basis.as_ref().expect("EK-FAC has one");
            for (pairs, matrix, values) in [(&basis.input, "A", "eigenvalues_A"), (&basis.output, "S", "eigenvalues_S")]
            {
                assert_relative(&pairs.values, &flat(&want[values]), REBUILT, &what(values));
                assert_relative(
                    &rebuilt(&pairs.vectors.whole(), &pairs.values),
                    &flat(&want[matrix]),
                    REBUILT,
                    &what(matrix),
                );
            }
            let lambda = factors.layers[l].lambda.as_ref().expect("EK-FAC has one");
            assert_relative(lambda.as_slice(), &flat(&want["lambda_ekfac"]), LAMBDA, &what("Λ"));
            let h = factors.layers[l].to_dense(layer)?.concat();
            assert_relative(&h, &flat(&want["dense_ekfac"]), LAMBDA, &what("EK-FAC"));
            let h = kfac.layers[l].to_dense(layer)?.concat();
            assert_relative(&h, &flat(&want["dense_kfac"]), REBUILT, &what("K-FAC"));
        }
        for (name, want) in record["influence"].as_object().expect("an object") {
            let (kind, damping) = name.split_once('/').expect("KIND/DAMPING");
            let (damping, tolerance) = match damping {
                "absolute_1e-2" => (Damping::Absolute(1e-2), SCORES),
                "relative_0.1" => (Damping::MeanFraction(0.1), SCORES),
                _ => (Damping::Absolute(1e-8), BARELY_DAMPED),
            };
            let factors = case.fit(kind_of(kind), labels)?.factors;
            let of_layers = |value: &Value| list(value).iter().map(flat).collect::<Vec<_>>();
            let ihvp = |l: usize| list(&want["ihvp"]).iter().flat_map(|query| flat(&query[l])).collect();
            let recorded = Influence {
                damping: flat(&want["damping"]),
                ihvp: (0..2).map(ihvp).collect(),
                scores_by_layer: of_layers(&want["scores_per_layer"]),
                scores: flat(&want["scores"]),
                self_influence: Some((of_layers(&want["self_influence_per_layer"]), flat(&want["self_influence"]))),
            };
            case.check_influence(&factors, damping, &recorded, &format!("{fisher}, {name}"), tolerance)?;
        }
    }
    Ok(())
}

#[test]
fn the_expected_fisher_is_the_gauss_newton_hessian() -> Outcome {
    // Λ is the diagonal of UᵀFU, so EK-FAC keeps the diagonal of the dense block in the eigenbasis
    let (record, case) = classifier();
    let factors = case.fit(CurvatureKind::Ekfac, label_mode("expected", 2))?.factors;
    for (l, layer) in case.network.layers().iter().enumerate() {
        let block = rows(&record["fisher"]["expected"]["dense_blocks"][l]);
        let basis = factors.layers[l].basis.as_ref().expect("EK-FAC has one");
        let (u_s, u_a) = (basis.output.vectors.whole().to_rows(), basis.input.vectors.whole().to_rows());
        let i = layer.columns();
        let u = |row: usize, k: usize| u_s[row / i][k / i] * u_a[row % i][k % i];
        let n = layer.parameters();
        let diagonal =
            |k: usize| -> f64 { (0..n).map(|r| (0..n).map(|c| u(r, k) * block[r][c] * u(c, k)).sum::<f64>()).sum() };
        let want: Vec<f64> = (0..n).map(diagonal).collect();
        assert_relative(factors.layers[l].lambda.as_ref().expect("EK-FAC").as_slice(), &want, LAMBDA, "Λ");
    }
    Ok(())
}

#[test]
fn normalised_and_aggregated_scores_of_the_classifier() -> Outcome {
    let (record, case) = classifier();
    let record = &record["fisher"]["expected"]["influence"]["ekfac/relative_0.1"];
    let factors = case.fit(CurvatureKind::Ekfac, label_mode("expected", 2))?.factors;
    let damping = Damping::MeanFraction(0.1);
    let layers = case.network.layers();
    let (each, _) = vectors(&case.network, &case.queries, &factors, damping, Measurement::Loss)?;
    let matrix = score_with(&case.network, &case.train, &each, &factors, damping, 1.0 / 6.0)?;
    // the query's own self-influence: the loss measured at it is the loss trained on
    let of_queries = quadratic_forms(
        &sweep(&case.network, &case.queries, Pass::Queries),
        Objective::Measurement(Measurement::Loss, Reduction::Sum),
        form(layers, &factors, damping),
    )?;
    let of_queries: Vec<f64> = of_queries.iter().map(|value| value / 6.0).collect();
    assert_relative(&of_queries, &flat(&record["query_self"]), SCORES, "self-influence of queries");
    let of_queries: Vec<f32> = of_queries.iter().map(|&x| x as f32).collect();
    // normalisations work on finished f32 scores
    let mut found = matrix.values.clone();
    cosine(&mut found, &of_queries, &matrix.self_influence)?;
    assert_relative(&wide(&found), &flat(&record["cosine"]), 1e-6, "cosine");
    let mut found = matrix.values.clone();
    relatif_loss(&mut found, 2, &matrix.self_influence)?;
    assert_relative(&wide(&found), &flat(&record["relatif_loss"]), 1e-6, "RelatIF");

    let mean = flat(&record["aggregated_queries_mean"]);
    for (aggregate, factor) in [(Aggregate::Mean, 1.0), (Aggregate::Sum, 2.0)] {
        let mut one = MemoryVectors::new(layers, 1, 1);
        let walk = Walk::influence(&factors, damping);
        let queries = sweep(&case.network, &case.queries, Pass::Queries);
        prepare_queries(&queries, Measurement::Loss, Reduction::Sum, aggregate, &[&walk], &mut one)?;
        let matrix = score_with(&case.network, &case.train, &one, &factors, damping, 1.0 / 6.0)?;
        let want: Vec<f64> = mean.iter().map(|x| factor * x).collect();
        assert_relative(&matrix.wide(), &want, 1e-7, "aggregated queries");
    }
    Ok(())
}

/// The nearest vectors of rank 1 in the norm that scores feel, `docs/method.md`, Score.
#[test]
fn low_rank_vectors_of_the_classifier() -> Outcome {
    let (record, case) = classifier();
    let record = &record["fisher"]["expected"]["influence"]["ekfac/relative_0.1"]["low_rank_1"];
    let factors = case.fit(CurvatureKind::Ekfac, label_mode("expected", 2))?.factors;
    let damping = Damping::MeanFraction(0.1);
    let layers = case.network.layers();
    let mut found = MemoryVectors::of_form(VectorForm::LowRank(1), layers, 1, 2);
    let walk = Walk::influence(&factors, damping);
    let queries = sweep(&case.network, &case.queries, Pass::Queries);
    prepare_queries(&queries, Measurement::Loss, Reduction::Sum, Aggregate::Each, &[&walk], &mut found)?;
    for wanted in list(&record["factors"]) {
        let (l, q) = (number(&wanted["layer"]) as usize, number(&wanted["query"]) as usize);
        let Vectors::LowRank(LowRank { left, right, .. }) = found.vectors(0, LayerId(l))? else {
            panic!("layer {l} is whole")
        };
        let (o, i) = (layers[l].outputs, layers[l].columns());
        let product: Vec<f64> = (0..o * i).map(|k| left[q * o + k / i] * right[q * i + k % i]).collect();
        assert_relative(&product, &flat(&wanted["weighted_rank1"]), 1e-8, &format!("layer {l}, query {q}"));
        let squares: Vec<f64> = flat(&wanted["weighted_singular_values"]).iter().map(|x| x * x).collect();
        let norms = found.norms(0, LayerId(l))[q];
        assert_relative(&[norms.whole, norms.kept], &[squares.iter().sum(), squares[0]], 1e-8, "norms");
    }
    let matrix = score_with(&case.network, &case.train, &found, &factors, damping, 1.0 / 6.0)?;
    assert_relative(&matrix.wide(), &flat(&record["scores_weighted"]), 1e-6, "scores");
    Ok(())
}

/// Sequences without their padding.
fn sequences(value: &Value) -> Sequences {
    let attended = |sequence: &Value| -> Vec<usize> {
        let n = list(&sequence["ids"]).len();
        (0..n).filter(|&t| sequence.get("attention_mask").is_none_or(|mask| mask[t] == 1)).collect()
    };
    let ids = |sequence: &Value| attended(sequence).iter().map(|&t| number(&sequence["ids"][t]) as u32).collect();
    let label = |value: &Value| u32::try_from(value.as_i64().expect("a label")).ok();
    let labels = |sequence: &Value| attended(sequence).iter().map(|&t| label(&sequence["labels"][t])).collect();
    let all = list(value);
    Sequences { ids: all.iter().map(ids).collect(), labels: all.iter().map(labels).collect(), batch: 2 }
}

fn token_model() -> (Value, Case<TokenModel, Sequences>) {
    let record = golden("tokens");
    let weights: Vec<_> = list(&record["weights"]).iter().map(rows).collect();
    let network = TokenModel::new(&rows(&record["embedding"]), &weights);
    let (train, queries) = (sequences(&record["sequences"]), sequences(&record["queries"]));
    (record, Case { network, train, queries })
}

#[test]
fn gradients_of_sequences_do_not_see_padding() -> Outcome {
    let (record, case) = token_model();
    for (examples, name) in [(&case.train, "per_example_gradients"), (&case.queries, "query_gradients")] {
        let (gradients, _) = case.gradients(examples, Objective::TrainingLoss)?;
        for (l, found) in gradients.iter().enumerate() {
            let want: Vec<f64> = list(&record[name]).iter().flat_map(|m| flat(&m[l])).collect();
            assert_relative(found, &want, 1e-12, &format!("{name}, layer {l}"));
        }
    }
    Ok(())
}

#[test]
fn factors_and_influence_of_sequences() -> Outcome {
    let (record, case) = token_model();
    let layers = case.network.layers();
    for fisher in ["expected", "sampled", "empirical"] {
        let labels = label_mode(fisher, LONGEST * case.network.vocabulary());
        let fisher_record = &record["fisher"][fisher];
        let Fitted { covariance, factors } = case.fit(CurvatureKind::Ekfac, labels)?;
        let covariance = covariance.expect("EK-FAC has one");
        assert!(
            (covariance.counts.mean_positions(0) - number(&record["mean_positions"])).abs() < 1e-15,
            "12 of 3 examples"
        );
        let kfac = case.fit(CurvatureKind::Kfac, labels)?.factors;
        let per_position = Factors::kfac(Eigenbasis::<f64>::of_layers(&covariance, layers)?, &vec![1.0; layers.len()]);
        for (l, want) in list(&fisher_record["layers"]).iter().enumerate() {
            let what = |name: &str| format!("{fisher}, layer {l}: {name}");
            let layer = &layers[l];
            let a = covariance.inputs[layer.input_group].as_ref().expect("of the layer");
            assert_relative(a.to_dense().as_slice(), &flat(&record["A"][l]), COVARIANCES, &what("A"));
            assert_relative(covariance.outputs[l].to_dense().as_slice(), &flat(&want["S"]), COVARIANCES, &what("S"));
            let (u_s, u_a) = (rows(&want["eigenvectors_S"]), rows(&want["eigenvectors_A"]));
            for (factors, name) in
                [(&factors, "lambda_ekfac"), (&kfac, "lambda_kfac"), (&per_position, "lambda_kfac_per_position")]
            {
                let h = factors.layers[l].to_dense(layer)?.concat();
                assert_relative(&h, &dense(&u_s, &u_a, &flat(&want[name])), LAMBDA, &what(name));
            }
        }
        let ihvp = |l: usize| flat(&fisher_record["layers"][l]["ihvp"]);
        let recorded = Influence {
            damping: flat(&fisher_record["damping"]),
            ihvp: (0..3).map(ihvp).collect(),
            scores_by_layer: list(&fisher_record["scores_per_layer"]).iter().map(flat).collect(),
            scores: flat(&fisher_record["scores"]),
            self_influence: None,
        };
        case.check_influence(&factors, Damping::MeanFraction(0.1), &recorded, &format!("tokens, {fisher}"), SCORES)?;
    }
    Ok(())
}

#[test]
fn scores_of_two_completions_differ_by_their_contrast() -> Outcome {
    let (record, case) = token_model();
    let factors = case.fit(CurvatureKind::Ekfac, label_mode("expected", LONGEST * case.network.vocabulary()))?.factors;
    let ids: Vec<Vec<u32>> = ["preferred", "rejected"].map(|name| integers(&record["contrast"][name])).into();
    // the first two tokens are the prompt
    let labels = ids.iter().map(|ids| (0..ids.len()).map(|t| (t >= 2).then_some(ids[t])).collect()).collect();
    let pair = Sequences { ids, labels, batch: 1 };
    let damping = Damping::MeanFraction(0.1);
    let (vectors, _) = vectors(&case.network, &pair, &factors, damping, Measurement::LogProbability)?;
    let matrix = score_with(&case.network, &case.train, &vectors, &factors, damping, 1.0 / 3.0)?;
    let found: Vec<f64> = matrix.row(0).iter().zip(matrix.row(1)).map(|(b, c)| b - c).collect();
    // the record differentiates the loss of the pair: preferred minus rejected. A loss's gain is its
    // negative, as is the log-probability, so the signs agree.
    assert_relative(&found, &flat(&record["contrast"]["scores"]), 1e-6, "contrast");
    Ok(())
}

#[test]
fn spectral_functions_are_those_of_sixty_digits() {
    let record = golden("spectral");
    for row in rows(&record["rows"]) {
        let [time, sigma, decay, response, inverse] = row[..] else { panic!("five columns") };
        let what = format!("Σ η = {time:e}, σ = {sigma:e}");
        let at = |f: SpectralFn| f.at(sigma);
        let found = at(SpectralFn::Decay { time, scale: 1.0, decay: 0.0 });
        assert_absolute(&[found], &[decay], 1e-14, &what);
        assert_relative(&[at(SpectralFn::Response { time, scale: 1.0, decay: 0.0 })], &[response], 1e-14, &what);
        assert_relative(&[at(SpectralFn::Inverse { damping: 1.0 / time })], &[inverse], 1e-14, &what);
    }
    let product = &record["product"];
    let rates = flat(&product["etas"]);
    for (k, sigma) in flat(&product["sigma"]).into_iter().enumerate() {
        for (suffix, decay) in [("", 0.0), ("_wd", number(&product["weight_decay"]))] {
            let steps: Arc<[Step]> = rates.iter().map(|&rate| Step { rate, scale: 1.0, decay, shrink: 0.0 }).collect();
            let found = SpectralFn::DecayProduct { steps: steps.clone() }.at(sigma);
            assert_relative(&[found], &[number(&product[format!("decay{suffix}")][k])], 1e-14, "decay");
            let found = SpectralFn::ResponseProduct { steps }.at(sigma);
            assert_relative(&[found], &[number(&product[format!("response{suffix}")][k])], 1e-14, "response");
        }
    }
}

#[test]
fn random_numbers_are_the_recorded_ones() {
    let record = golden("rng");
    let four = |value: &Value| -> [u32; 4] { integers(value).try_into().expect("four words") };
    for case in list(&record["philox_known_answers"]) {
        let key: Vec<u32> = integers(&case["key"]);
        assert_eq!(random::philox(four(&case["counter"]), [key[0], key[1]]), four(&case["words"]));
    }
    let integer = |value: &Value| value.as_u64().expect("an integer");
    let draw_of = |case: &Value, draw: u32| LabelDraw {
        seed: integer(&case["seed"]),
        stream: integer(&case["stream"]) as u32,
        draw,
    };
    for case in list(&record["draws"]) {
        let draw = draw_of(case, integer(&case["draw"]) as u32);
        let place = |name: &str| integer(&case[name]) as u32;
        let words = random::words(draw, integer(&case["example"]), place("position"), place("component"));
        assert_eq!(words, four(&case["words"]), "{case}");
        let (u, v) = random::uniforms(words);
        // the words are exact; decimal fractions may lose a last place when JSON is read
        assert_absolute(&[u, v], &flat(&case["uniforms"]), f64::EPSILON, "uniforms");
        assert_absolute(&[random::normal(words)], &[number(&case["normal"])], 1e-15, "normal");
    }
    let categorical = &record["categorical"];
    let logits = flat(&categorical["logits"]);
    let largest = logits.iter().copied().fold(f64::MIN, f64::max);
    for case in list(&categorical["draws"]) {
        let words =
            random::words(draw_of(categorical, 0), integer(&case["example"]), integer(&case["position"]) as u32, 0);
        let (u, _) = random::uniforms(words);
        assert_absolute(&[u], &[number(&case["u"])], f64::EPSILON, "u");
        let label = random::categorical(u, logits.iter().map(|z| (z - largest).exp()));
        assert_eq!(label as u64, integer(&case["label"]), "{case}");
    }
}
