//! Contrasts of two completions: one gradient, exactly the difference of the gradients of both.

use crate::support::figures::{assert_relative, largest};
use crate::support::passes::{BATCH, Batched, vectors};
use crate::support::{Outcome, Source, fixture, load};
use ascribe::attribution::VectorSource;
use ascribe::curvature::gemm::Real;
use ascribe::curvature::{Damping, Factors, LayerId, Measurement, Network, Vectors};
use ascribe::data::{Role, Which};
use ascribe::model::Model;
use candle_core::DType;

/// A contrast, an ordinary query and another contrast whose completions have different lengths.
const CONTRASTS: &str = r#"{"prompt": "w5 w9 w14 w22", "chosen": " w31 w7 w40", "rejected": " w8 w50 w3"}
{"prompt": "w44 w2 w17", "completion": " w12 w33"}
{"prompt": "w6 w28 w19 w55 w10", "chosen": " w21 w4", "rejected": " w36 w11 w58 w23 w15"}
"#;

const APART: &str = r#"{"prompt": "w5 w9 w14 w22", "completion": " w31 w7 w40"}
{"prompt": "w5 w9 w14 w22", "completion": " w8 w50 w3"}
{"prompt": "w44 w2 w17", "completion": " w12 w33"}
{"prompt": "w6 w28 w19 w55 w10", "completion": " w21 w4"}
{"prompt": "w6 w28 w19 w55 w10", "completion": " w36 w11 w58 w23 w15"}
"#;

/// Which rows of [`APART`] are added, and which are subtracted.
const PARTS: [(usize, Option<usize>); 3] = [(0, Some(1)), (2, None), (3, Some(4))];

/// Measured values, and by layer the gradients.
type Measured = (Vec<f64>, Vec<Vec<f64>>);

/// Measurements, and by layer the gradients of all queries one after the other.
fn gradients<T: Real>(model: &Model, text: &str) -> Result<Measured, Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("queries.jsonl");
    std::fs::write(&file, text)?;
    // words of few tokens, so that every fixture has all of them
    let words: serde_json::Map<_, _> = (0..60).map(|token| (format!("w{token}"), token.into())).collect();
    let tokenizer = serde_json::json!({
        "version": "1.0",
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
    });
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string())?;
    let source = Source { add_eos: Which::None, ..Source::new(file, Role::Queries, folder.path()) };
    let queries = source.read(model);
    let factors = Factors::<T>::identity(model.layers().len());
    let measurement = Measurement::LogProbability;
    let (found, values) = vectors(model, &Batched(&queries, BATCH), &factors, Damping::default(), measurement)?;
    let of_layer = |layer| -> Result<Vec<f64>, Box<dyn std::error::Error>> {
        let Vectors::Full(found) = found.vectors(0, LayerId(layer))? else { panic!("whole vectors") };
        Ok(found.iter().map(|x| x.wide()).collect())
    };
    Ok((values, (0..model.layers().len()).map(of_layer).collect::<Result<_, _>>()?))
}

fn check<T: Real>(name: &str, dtype: DType, tolerance: f64) -> Outcome {
    let model = load(&fixture(name), dtype);
    let ((values, found), (values_apart, apart)) = (gradients::<T>(&model, CONTRASTS)?, gradients::<T>(&model, APART)?);
    for (query, (plus, minus)) in PARTS.into_iter().enumerate() {
        let want = values_apart[plus] - minus.map_or(0.0, |minus| values_apart[minus]);
        assert_relative(&values[query..=query], &[want], 10.0 * tolerance, &format!("{name}: measurement {query}"));
    }
    for (layer, spec) in model.layers().iter().enumerate() {
        let n = spec.parameters();
        let part = |query: usize| &apart[layer][query * n..(query + 1) * n];
        // an expert may see none of these tokens
        let is_expert = spec.name.contains("expert");
        assert!(is_expert || largest(part(0)) > 1e-9, "{name}: nothing is compared in {}", spec.name);
        let want: Vec<f64> = PARTS
            .into_iter()
            .flat_map(|(plus, minus)| {
                let minus = minus.map_or_else(|| vec![0.0; n], |minus| part(minus).to_vec());
                part(plus).iter().zip(minus).map(|(plus, minus)| plus - minus).collect::<Vec<_>>()
            })
            .collect();
        assert_relative(&found[layer], &want, tolerance, &format!("{name}: {}", spec.name));
    }
    Ok(())
}

#[test]
fn a_contrast_is_the_difference_of_its_completions() -> Outcome {
    for name in ["gpt2-tiny", "llama-tiny", "families/qwen2", "families/mixtral", "families/opt"] {
        check::<f64>(name, DType::F64, 1e-12)?;
    }
    check::<f32>("gpt2-tiny", DType::F32, 1e-6)
}
