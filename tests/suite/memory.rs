//! Weights, sums and vectors that are not kept in memory give the numbers of those that are.

use std::path::Path;

use crate::support::{Outcome, Source, fixture};
use ascribe::curvature::{Error, Graphs, Network, Objective, Tap, TapSink};
use ascribe::data::{self, Role};
use ascribe::model::{LoadError, LoadOptions, Model, Residence};
use candle_core::DType;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

/// Every number that a pass pushes, to the bit.
#[derive(Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn add(&mut self, tensor: &candle_core::Tensor) -> Result<(), Error> {
        let numbers = tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        self.0.extend(numbers.into_iter().map(f64::to_bits));
        Ok(())
    }
}

impl TapSink for Bits {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), Error> {
        self.0.push(tap.layer.0 as u64);
        self.add(tap.input)?;
        self.add(tap.output_gradient)
    }
}

/// Logits, values and taps of the first training examples.
fn everything(model: &Model) -> Result<Vec<u64>, Error> {
    let folder = fixture("gpt2-tiny");
    let train = Source::new(folder.join("train.jsonl"), Role::Train, &folder).read(model);
    let batch = data::batch(&train, 0..5);
    let mut bits = Bits::default();
    bits.add(&model.logits(&batch)?)?;
    let values = model.differentiate(&batch, Objective::TrainingLoss, &mut bits)?;
    bits.0.extend(values.into_iter().map(f64::to_bits));
    Ok(bits.0)
}

fn on_disk(dtype: DType, graphs: Graphs) -> LoadOptions {
    LoadOptions { dtype, graphs, residence: Residence::BySection, ..LoadOptions::default() }
}

#[test]
fn weights_read_by_section_give_the_same_bits() -> Outcome {
    for name in ["gpt2-tiny", "llama-tiny", "llama-tiny-llama3rope"] {
        for dtype in [DType::F32, DType::F64] {
            let kept = Model::load(&fixture(name), &LoadOptions { dtype, ..LoadOptions::default() })?;
            let want = everything(&kept)?;
            for graphs in [Graphs::Kept, Graphs::Rebuilt] {
                let read = Model::load(&fixture(name), &on_disk(dtype, graphs))?;
                assert_eq!((read.layers(), read.content_hash()), (kept.layers(), kept.content_hash()));
                assert!(everything(&read)? == want, "{name} {dtype:?} {graphs:?}");
                read.check_weights()?;
            }
        }
    }
    Ok(())
}

#[test]
fn means_of_checkpoints_read_by_section_give_the_same_bits() -> Outcome {
    let [a, b] = ["checkpoint-60", "checkpoint-240"].map(|name| fixture("trainer-tiny").join(name));
    let of = [(a.as_path(), 0.25), (b.as_path(), 0.75)];
    let kept = Model::load_mean(&of, &LoadOptions::default())?;
    let read = Model::load_mean(&of, &on_disk(DType::F32, Graphs::Rebuilt))?;
    assert!(everything(&read)? == everything(&kept)?);
    assert_ne!(kept.content_hash(), Model::load(&b, &LoadOptions::default())?.content_hash());
    Ok(())
}

/// A copy of a checkpoint, with its tensors changed.
fn changed(
    name: &str,
    folder: &Path,
    change: impl FnOnce(&mut Vec<(String, Vec<usize>, Vec<f32>)>),
) -> Result<(), Box<dyn std::error::Error>> {
    let bytes = std::fs::read(fixture(name).join("model.safetensors"))?;
    let single = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    let tensors = SafeTensors::deserialize(&bytes)?.tensors().into_iter();
    let mut tensors: Vec<_> = tensors
        .map(|(name, view)| (name, view.shape().to_vec(), view.data().chunks_exact(4).map(single).collect()))
        .collect();
    change(&mut tensors);
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(_, _, x)| x.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        Ok((name.clone(), TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes)?))
    });
    let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
    std::fs::write(folder.join("model.safetensors"), safetensors::serialize(views, None)?)?;
    std::fs::copy(fixture(name).join("config.json"), folder.join("config.json"))?;
    Ok(())
}

#[test]
fn infinity_in_weights_is_found_when_they_are_checked() -> Outcome {
    let folder = tempfile::tempdir()?;
    changed("gpt2-tiny", folder.path(), |tensors| {
        let (.., numbers) = tensors.iter_mut().find(|(name, ..)| name.ends_with("h.1.mlp.c_fc.weight")).expect("one");
        numbers[77] = f32::INFINITY;
    })?;
    let message = |error: LoadError| (matches!(error, LoadError::NonFinite { index: 77, .. }), error.to_string());
    let at_once = Model::load(folder.path(), &LoadOptions::default()).map_err(message).expect_err("infinity");
    let read = Model::load(folder.path(), &on_disk(DType::F32, Graphs::Rebuilt))?;
    assert_eq!(read.check_weights().map_err(message).expect_err("infinity"), at_once);
    assert!(at_once.0, "{}", at_once.1);
    // who does not check is told when the section runs
    let error = everything(&read).expect_err("infinity").to_string();
    assert!(error.contains(&at_once.1), "{error}");
    Ok(())
}

#[test]
fn a_head_that_is_said_to_be_tied_is_compared_with_the_embedding() -> Outcome {
    for differing in [0, 1, 256] {
        let folder = tempfile::tempdir()?;
        changed("gpt2-tiny", folder.path(), |tensors| {
            let wte = tensors.iter().find(|(name, ..)| name.ends_with("wte.weight")).expect("one").clone();
            let mut head = ("lm_head.weight".to_owned(), wte.1, wte.2);
            head.2[..differing].iter_mut().for_each(|x| *x += 1.0);
            tensors.push(head);
        })?;
        for options in [LoadOptions::default(), on_disk(DType::F32, Graphs::Rebuilt)] {
            let notes = Model::load(folder.path(), &options)?.notes().len();
            assert_eq!(notes, usize::from(differing > 0), "{differing} numbers differ");
        }
    }
    Ok(())
}
