//! Checkpoints whose numbers are changed, and gradients against differences of the values of changed checkpoints.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use ascribe::curvature::{LayerSpec, Network, Objective, Side};
use ascribe::data::Batch;
use ascribe::model::{LayerSelection, Model};
use candle_core::DType;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::agreement::Agreement;
use super::layer_rows::check_layer_rows;
use super::load_selected;
use super::passes::Gradients;

/// A checkpoint in memory, in `f64`, whose numbers can be changed.
pub struct Editable {
    pub config: Vec<u8>,
    pub tensors: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
}

impl Editable {
    /// The weights and the configuration of a folder.
    pub fn read(folder: &Path) -> Self {
        let config = std::fs::read(folder.join("config.json")).expect("readable");
        let mut tensors = BTreeMap::new();
        let files = std::fs::read_dir(folder).expect("readable").map(|entry| entry.expect("readable").path());
        let is_weights = |name: &str| name.starts_with("model") && name.ends_with(".safetensors");
        for file in files.filter(|file| is_weights(&file.file_name().expect("a file").to_string_lossy())) {
            let bytes = std::fs::read(file).expect("readable");
            for (name, view) in SafeTensors::deserialize(&bytes).expect("sound").iter() {
                let data = view.data();
                let values = match view.dtype() {
                    Dtype::BF16 => data.as_chunks().0.iter().map(|&b| half::bf16::from_le_bytes(b).to_f64()).collect(),
                    Dtype::F32 => data.as_chunks().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect(),
                    // what batch norm counts, which is no weight
                    Dtype::I64 => continue,
                    other => panic!("`{name}` holds {other:?}"),
                };
                tensors.insert(name.to_owned(), (view.shape().to_vec(), values));
            }
        }
        Self { config, tensors }
    }

    /// Where the gradient's entry `[o, i]` of a layer is stored: tensor and place.
    pub fn place(&self, layer: &LayerSpec, o: usize, i: usize) -> (String, usize) {
        // a group of a convolution's channels has rows of the whole
        if layer.name.ends_with(".bias") {
            return (layer.name.clone(), o); // a norm's vector of biases
        }
        let (module, group) = layer.name.rsplit_once(".group.").unwrap_or((&layer.name, "0"));
        let o = o + group.parse::<usize>().expect("a number") * layer.outputs;
        if i == layer.inputs {
            // of a head that fills in masked tokens it may stand beside the layer
            let beside = module.rsplit_once('.').map(|(parent, _)| format!("{parent}.bias"));
            let own = format!("{module}.bias");
            return (beside.filter(|_| !self.tensors.contains_key(&own)).unwrap_or(own), o);
        }
        let mut name = format!("{module}.weight");
        if !self.tensors.contains_key(&name) {
            // a head that is tied to the embedding of tokens
            assert_eq!(layer.vocabulary, Some(Side::Output), "{name}");
            let is_table = |of: &&String| ["wte", "embed", "shared"].iter().any(|part| of.contains(part));
            let of_tokens = |of: &&String| is_table(of) && self.tensors[*of].0 == [layer.outputs, layer.inputs];
            name = self.tensors.keys().find(of_tokens).expect("an embedding of tokens").clone();
        }
        // GPT-2's Conv1D lies as [in, out], and so does a table, whose rows are its inputs
        let conv1d = layer.name.contains(".attn.c_") || layer.name.contains(".mlp.c_");
        let inputs_first = conv1d || layer.vocabulary == Some(Side::Input);
        let place = if inputs_first { i * layer.outputs + o } else { o * layer.inputs + i };
        (name, place)
    }

    /// Writes it into a folder.
    pub fn write(&self, folder: &Path) {
        std::fs::write(folder.join("config.json"), &self.config).expect("writable");
        let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, (shape, values))| (name, shape, values.iter().flat_map(|x| x.to_le_bytes()).collect()))
            .collect();
        let views = bytes.iter().map(|(name, shape, bytes)| {
            (name.as_str(), TensorView::new(Dtype::F64, (*shape).clone(), bytes).expect("fitting"))
        });
        // a new file, not a new content: the last model may still have it mapped
        let file = folder.join("model.safetensors");
        if file.exists() {
            std::fs::remove_file(&file).expect("writable");
        }
        std::fs::write(file, safetensors::serialize(views, None).expect("sound")).expect("writable");
    }
}

/// The sum of the batch's training losses along random directions in which all selected layers move at once: what the
/// gradients say of its slope against central differences, in `f64`. Directions are of ones and minus ones.
#[track_caller]
pub fn check_directions(
    [set, name]: [&str; 2],
    folder: &Path,
    selection: &LayerSelection,
    batch: impl Fn(&Model) -> Batch,
) {
    /// Losses of order 100 leave 1e-14 · 100 / 1e-6 = 1e-6 of rounding beside slopes of order 10; a thousand weights move
    /// by 3e-5 together.
    const STEP: f64 = 1e-6;
    const TOLERANCE: f64 = 1e-6;
    let mut checkpoint = Editable::read(folder);
    let altered = tempfile::tempdir().expect("a folder");
    let load = |checkpoint: &Editable| {
        checkpoint.write(altered.path());
        load_selected(altered.path(), DType::F64, selection.clone())
    };
    let model = load(&checkpoint);
    let batch = batch(&model);
    check_layer_rows(name, &model, &batch);
    let layers = model.layers().to_vec();
    let mut sink = Gradients::<f64>::new(&layers);
    model.differentiate(&batch, Objective::TrainingLoss, &mut sink).expect("differentiable");
    let gradient: Vec<Vec<f64>> = (0..layers.len())
        .map(|l| {
            let mut sum = vec![0.0; layers[l].parameters()];
            for example in 0..batch.keys().len() {
                sum.iter_mut().zip(sink.of(l, example)).for_each(|(sum, g)| *sum += g);
            }
            sum
        })
        .collect();
    let norm = gradient.iter().flatten().map(|g| g * g).sum::<f64>().sqrt();
    assert!(norm > 0.0, "{name}");
    let names: Vec<String> = checkpoint.tensors.keys().cloned().collect();
    let number_of = |tensor: &String| names.binary_search(tensor).expect("a tensor");
    let is_number = |word: &str| word.parse::<usize>().ok();
    let padding = model.notes().iter().filter(|note| note.contains("is padding"));
    let padding = padding.flat_map(|note| note.split(' ').find_map(is_number)).next();
    let tables = layers.iter().filter(|layer| layer.vocabulary == Some(Side::Input));
    let fixed: HashSet<(usize, usize)> = tables
        .flat_map(|layer| {
            (0..layer.outputs).filter_map(move |o| Some((layer, o, padding.filter(|&row| row < layer.inputs)?)))
        })
        .map(|(layer, o, row)| checkpoint.place(layer, o, row))
        .map(|(tensor, at)| (number_of(&tensor), at))
        .collect();
    let mut agreement = Agreement::new(set, name, DType::F64);
    for seed in 0..3u64 {
        // a number that two layers read moves once, and the rows of padding, which have no gradient, not at all
        let sign = |tensor: usize, at: usize| {
            if fixed.contains(&(tensor, at)) {
                return 0.0;
            }
            let bits = (at as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ ((tensor as u64 + 3 * seed) << 17);
            if (bits ^ (bits >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 63 == 0 { 1.0 } else { -1.0 }
        };
        let before = checkpoint.tensors.clone();
        let mut values = vec![];
        for step in [STEP, -STEP] {
            for layer in &layers {
                for place in 0..layer.parameters() {
                    let (tensor, at) = checkpoint.place(layer, place / layer.columns(), place % layer.columns());
                    let (_, numbers) = checkpoint.tensors.get_mut(&tensor).expect("a tensor of the layer");
                    numbers[at] = before[&tensor].1[at] + step * sign(number_of(&tensor), at);
                }
            }
            let losses = load(&checkpoint).differentiate(&batch, Objective::TrainingLoss, &mut ()).expect("losses");
            values.push(losses.iter().sum::<f64>());
            checkpoint.tensors.clone_from(&before);
        }
        let want = (values[0] - values[1]) / (2.0 * STEP);
        let of_layer = |(layer, gradient): (&LayerSpec, &Vec<f64>)| {
            let signed = gradient.iter().enumerate().map(|(place, g)| {
                let (tensor, at) = checkpoint.place(layer, place / layer.columns(), place % layer.columns());
                g * sign(number_of(&tensor), at)
            });
            signed.sum::<f64>()
        };
        let found: f64 = layers.iter().zip(&gradient).map(of_layer).sum();
        let error = (found - want).abs() / norm;
        assert!(error < TOLERANCE, "{name}, direction {seed}: {found} {want}, {error:.1e}");
        agreement.keep("slope", error);
    }
    agreement.report();
}
