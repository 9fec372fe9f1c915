//! Scores divided over the tokens of a training example: each token's share is the sum of its rows' own terms, and all
//! of an example's add up to its score.

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use crate::support::figures::{assert_relative, largest};
use crate::support::passes::{BATCH, Batched, score_and, vectors};
use crate::support::{Outcome, fixture, load, load_layers};
use ascribe::attribution::{Examples, QueryRows, VectorSource, score_by_place, score_one};
use ascribe::curvature::gemm::Real;
use ascribe::curvature::{Damping, Error, Factors, LayerSpec, Measurement, Network, Objective, Tap, TapSink, Vectors};
use ascribe::data::{DataOptions, Dataset, Format, Kind, Labels, Role, Targets, Task, TokenDataset, read_tokens_from};
use ascribe::model::{Limits, Model};
use candle_core::DType;
use serde_json::json;

/// Tokens of five examples of different lengths, with what the model should make of them.
fn examples(model: &Model) -> Dataset {
    let Limits::Tokens(limits) = model.limits() else { panic!("a model of tokens") };
    let tokens = |k: usize, length: usize| (0..length).map(|t| 5 + (7 * k + 5 * t + t * t) % 40).collect::<Vec<_>>();
    let labels = model.labels().map(|labels| {
        let task = labels.task.unwrap_or(Task::Classification);
        Arc::new(Labels { task: Some(task), ..Labels::clone(labels) })
    });
    let line = |k: usize| {
        let mut line = json!({"input_ids": tokens(k, 4 + 2 * k)});
        if limits.decoder.is_some() {
            line["labels"] = json!(tokens(k + 3, 2 + k));
        }
        if let Some(labels) = &labels {
            line["label"] = match labels.task {
                Some(Task::Classification) => json!(k % labels.outputs),
                Some(Task::MultiLabel) => json!((0..labels.outputs).map(|c| (c + k) % 2).collect::<Vec<_>>()),
                _ => json!((0..labels.outputs).map(|c| 0.3 * (c + k) as f64).collect::<Vec<_>>()),
            };
        }
        line.to_string()
    };
    let text = Cursor::new((0..5).map(line).collect::<Vec<_>>().join("\n"));
    let (name, options) = (Path::new("lines.jsonl"), DataOptions { labels, ..DataOptions::default() });
    read_tokens_from(text, name, Format::JsonLines, Role::Train, None, limits, options).expect("tokens").0
}

fn tokens_of(data: &Dataset) -> &TokenDataset {
    match data.kind() {
        Kind::Tokens(tokens) => tokens,
        _ => panic!("rows"),
    }
}

/// Shares of one example's tokens and the rest, `[queries][tokens + 1]`.
fn shares<T: Real>(
    model: &Model,
    data: &Dataset,
    m: usize,
    source: &dyn VectorSource<T>,
    wanted: &[usize],
) -> Result<Vec<Vec<f64>>, Box<dyn std::error::Error>> {
    let tokens = tokens_of(data);
    let rows = [QueryRows { vectors: source, leg: 0, weight: 0.25 }];
    let batch = Batched(data, BATCH).batch(m..m + 1)?;
    let found = score_by_place(model, &batch, &rows, wanted, tokens.tokens(m).len(), tokens.own_places(m))?;
    let of = |q: usize| found.places.iter().skip(q).step_by(wanted.len()).chain([&found.rest[q]]).copied().collect();
    Ok((0..wanted.len()).map(of).collect())
}

/// The shares of every example add up to its score; returns the largest part that no token has alone.
fn check_sums<T: Real>(folder: &str, dtype: DType, tolerance: f64) -> Result<f64, Box<dyn std::error::Error>> {
    // with the layers of heads, which are not tracked by default
    let patterns: &[&str] = if folder.starts_with("classifiers") { &["*"] } else { &[] };
    let model = load_layers(&fixture(folder), dtype, patterns);
    let data = examples(&model);
    let factors = Factors::<T>::identity(model.layers().len());
    let (found, _) = vectors(&model, &Batched(&data, BATCH), &factors, Damping::default(), Measurement::Loss)?;
    let want = score_and(&model, &Batched(&data, BATCH), &found, 0.25, None)?;
    // not all queries, and not in their order
    let wanted = [3, 0, 4];
    let mut rest = 0.0f64;
    for m in 0..data.len() {
        for (shares, q) in shares::<T>(&model, &data, m, &found, &wanted)?.into_iter().zip(wanted) {
            let score = f64::from(want.values[q * data.len() + m]);
            let size = shares.iter().map(|share| share.abs()).sum::<f64>();
            let error = (shares.iter().sum::<f64>() - score).abs();
            assert!(size > 0.0 && error <= tolerance * size, "{folder}: example {m}, query {q}: {error:e} of {size:e}");
            rest = rest.max(shares.last().expect("the rest").abs() / size);
        }
    }
    Ok(rest)
}

/// f32 numbers hold what the sums of f64 give to this.
const F32: f64 = 2e-7;

#[test]
fn all_tokens_add_up_to_the_score() -> Outcome {
    for folder in ["gpt2-tiny", "llama-tiny", "families/qwen2-moe", "families/mixtral", "families/t5", "families/mt5"] {
        let rest = check_sums::<f64>(folder, DType::F64, F32)?;
        assert!(rest == 0.0, "{folder}: {rest} belongs to no token");
    }
    for folder in ["gpt2-tiny", "families/qwen2-moe"] {
        check_sums::<f32>(folder, DType::F32, 1e-5)?;
    }
    Ok(())
}

/// A query with one target alone is what a file with all other labels masked holds.
#[test]
fn a_query_has_a_part_for_each_target() -> Outcome {
    for folder in ["gpt2-tiny", "families/t5"] {
        let model = load(&fixture(folder), DType::F64);
        let Limits::Tokens(limits) = model.limits() else { panic!("a model of tokens") };
        let is_split = limits.decoder.is_some();
        let read = |lines: &[serde_json::Value]| {
            let text = Cursor::new(lines.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
            let (name, options) = (Path::new("lines.jsonl"), DataOptions::default());
            read_tokens_from(text, name, Format::JsonLines, Role::Queries, None, limits, options).expect("tokens").0
        };
        // the last label is another token than the one that is read
        let (ids, labels) = ([7, 9, 11, 13, 15], if is_split { vec![8, 4, 6] } else { vec![-100, 9, -100, 13, 17] });
        let line = |labels: &[i64]| json!({"input_ids": ids, "labels": labels});
        let whole = read(&[line(&vec![7; labels.len()]), line(&labels)]);
        let targets = tokens_of(&whole).target_tokens(1);
        let wanted: Vec<usize> = (0..labels.len()).filter(|&k| labels[k] >= 0).collect();
        let texts: Vec<String> = targets.iter().map(|token| token.text.clone()).collect();
        assert_eq!(texts, wanted.iter().map(|&k| labels[k].to_string()).collect::<Vec<_>>(), "{folder}");
        let parts = whole.with_one_target(&targets.iter().map(|token| (1, token.place)).collect::<Vec<_>>());
        for (part, &k) in wanted.iter().enumerate() {
            let found = ascribe::data::batch(&parts, part..part + 1);
            let whole = ascribe::data::batch(&whole, 1..2);
            assert!(found.inputs == whole.inputs && found.positions == whole.positions, "{folder}: other inputs");
            let Targets::Tokens(found) = found.targets else { panic!("no tokens") };
            let Targets::Tokens(whole) = whole.targets else { panic!("no tokens") };
            let row = if is_split { k } else { k - 1 };
            let only = |at: usize| whole[at].filter(|_| at == row);
            assert_eq!(found, (0..whole.len()).map(only).collect::<Vec<_>>(), "{folder}: target {k}");
            assert_eq!(found[row].map(i64::from), Some(labels[k]), "{folder}: target {k}");
        }
    }
    Ok(())
}

/// The scores of a query's targets add up to the query's, of an encoder-decoder too.
#[test]
fn parts_of_a_query_add_up_to_its_scores() -> Outcome {
    for folder in ["gpt2-tiny", "families/qwen2-moe", "families/t5"] {
        let model = load(&fixture(folder), DType::F64);
        let data = examples(&model);
        let factors = Factors::<f64>::identity(model.layers().len());
        for measurement in [Measurement::Loss, Measurement::LogProbability, Measurement::Margin] {
            let of = |data: &Dataset| vectors(&model, &Batched(data, BATCH), &factors, Damping::default(), measurement);
            let (whole, values) = of(&data)?;
            let targets = tokens_of(&data).target_tokens(3);
            let parts = data.with_one_target(&targets.iter().map(|token| (3, token.place)).collect::<Vec<_>>());
            let (parts, terms) = of(&parts)?;
            assert!(targets.len() > 2 && (terms.iter().sum::<f64>() - values[3]).abs() < 1e-10, "{folder}");
            let batch = Batched(&data, BATCH).batch(2..3)?;
            let rows = |vectors| [QueryRows { vectors, leg: 0, weight: 0.25 }];
            let want = score_one(&model, &batch, &rows(&whole as &dyn VectorSource<f64>), &[3])?[0];
            let all: Vec<usize> = (0..targets.len()).collect();
            let found = score_one(&model, &batch, &rows(&parts), &all)?;
            let size: f64 = found.iter().map(|share| share.abs()).sum();
            assert!(
                (found.iter().sum::<f64>() - want).abs() <= 1e-10 * size && size > 1e-9,
                "{folder}: {measurement:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn texts_with_a_label_are_divided_too() -> Outcome {
    // the layers behind the first or last token, which stands for the text, belong to that token
    for folder in ["classifiers/bert", "classifiers/gpt2-reward", "classifiers/qwen2-multi-label"] {
        let rest = check_sums::<f64>(folder, DType::F64, F32)?;
        assert!(rest == 0.0, "{folder}: {rest} belongs to no token");
    }
    // the layers behind a mean over all tokens belong to none, nor do embeddings of distances that layers read
    for folder in ["classifiers/modernbert", "classifiers/deberta-v2"] {
        let rest = check_sums::<f64>(folder, DType::F64, F32)?;
        assert!(rest > 0.0, "{folder}");
    }
    Ok(())
}

/// `s_tᵀ Z a_t` of every row, by loops over the numbers.
struct ByLoops<'a> {
    layers: &'a [LayerSpec],
    source: &'a dyn VectorSource<f64>,
    query: usize,
    shares: Vec<f64>,
}

impl TapSink for ByLoops<'_> {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), Error> {
        let layer = &self.layers[tap.layer.0];
        let (inputs, gradients) = (tap.input.to_vec2::<f64>()?, tap.output_gradient.to_vec2::<f64>()?);
        let Ok(Vectors::Full(vectors)) = self.source.vectors(0, tap.layer) else { panic!("whole vectors") };
        let vector = &vectors[self.query * layer.parameters()..][..layer.parameters()];
        for (t, (a, s)) in inputs.iter().zip(&gradients).enumerate() {
            for (o, s) in s.iter().enumerate() {
                let row = &vector[o * layer.columns()..][..layer.columns()];
                for (i, z) in row.iter().enumerate() {
                    self.shares[t] += s * z * a.get(i).copied().unwrap_or(1.0);
                }
            }
        }
        Ok(())
    }
}

#[test]
fn a_share_is_the_sum_of_its_rows_own_terms() -> Outcome {
    for folder in ["gpt2-tiny", "classifiers/bert"] {
        let model = load(&fixture(folder), DType::F64);
        let data = examples(&model);
        let factors = Factors::<f64>::identity(model.layers().len());
        let (source, _) = vectors(&model, &Batched(&data, BATCH), &factors, Damping::default(), Measurement::Loss)?;
        for (m, query) in [(0, 1), (4, 2)] {
            let count = tokens_of(&data).tokens(m).len();
            let mut want = ByLoops { layers: model.layers(), source: &source, query, shares: vec![0.0; count] };
            model.differentiate(&Batched(&data, BATCH).batch(m..m + 1)?, Objective::TrainingLoss, &mut want)?;
            let want: Vec<f64> = want.shares.iter().map(|share| 0.25 * share).collect();
            let found = shares::<f64>(&model, &data, m, &source, &[query])?.remove(0);
            assert!(largest(&want) > 1e-9, "{folder}: nothing is compared");
            assert_relative(&found[..count], &want, 1e-12, &format!("{folder}: example {m}"));
        }
    }
    Ok(())
}
