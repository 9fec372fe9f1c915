//! Products with the Gauss-Newton matrix of all tracked layers jointly against their definition from gradients: for a
//! softmax `Σ_r Σ_c p_c g_c (g_c · v)` with `g_c = -∇ log p_c` at position r, for a squared error `2a Σ_j ∇y_j (∇y_j · v)`.

use std::ops::Range;
use std::path::Path;

use crate::support::dense::{eliminate, gradient};
use crate::support::passes::{self, BATCH, Batched, KfacScale};
use crate::support::{Outcome, Source, fixture, load, load_layers, load_selected, open, selection};
use ascribe::attribution::store::TensorFile;
use ascribe::attribution::{Aggregate, Blocks, prepare_queries, refine_queries};
use ascribe::attribution::{LabelMode, MemoryVectors, Pass, Refinement, VectorForm, VectorSink, VectorSource, Walk};
use ascribe::curvature::gemm::Products;
use ascribe::curvature::{CurvatureKind, Damping, Factors, LayerId, Measurement, Reduction, Vectors};
use ascribe::curvature::{Directions, Error, LayerSpec, Network, Objective, Positions, ProductSum};
use ascribe::data::{self, Batch, Inputs, Role, Targets, TokenInputs, Which};
use ascribe::job::{
    CheckpointsRequest, DampingRequest, FitExamples, Job, Plan, Precision, Several, Solve, SolveLayers,
};
use ascribe::model::{AlsoTracked, LoadOptions, Model};
use candle_core::{DType, Device, Tensor};

/// Numbers without a pattern.
fn wave(n: usize, phase: f64) -> Vec<f64> {
    (0..n).map(|k| (k as f64 * 0.7 + phase).sin() * (k as f64 * 1.3 + phase).cos()).collect()
}

const DIRECTIONS: usize = 3;

/// By layer, `[Q, O, columns]`.
fn directions(model: &Model) -> Vec<Vec<f64>> {
    model.layers().iter().enumerate().map(|(l, spec)| wave(DIRECTIONS * spec.parameters(), l as f64)).collect()
}

fn product(model: &Model, batch: &Batch, along: &[Vec<f64>]) -> Result<Vec<Vec<f64>>, Error> {
    let layers = model.layers();
    let tensors = layers
        .iter()
        .zip(along)
        .map(|(spec, along)| Tensor::from_slice(along, (DIRECTIONS, spec.outputs, spec.columns()), &Device::Cpu));
    let along = Directions::new(layers, tensors.collect::<Result<_, _>>()?)?;
    let mut sums: Vec<Vec<f64>> = layers.iter().map(|spec| vec![0.0; DIRECTIONS * spec.parameters()]).collect();
    let mut sink = ProductSum::new(layers, Products::Exact, sums.iter_mut().map(Vec::as_mut_slice).collect());
    model.gauss_newton(batch, &along, &mut sink)?;
    Ok(sums)
}

/// Adds `weight · g (g · v)` for every direction.
fn add_outer(want: &mut [Vec<f64>], g: &[Vec<f64>], along: &[Vec<f64>], weight: f64) {
    for q in 0..DIRECTIONS {
        let part = |l: usize| q * g[l].len()..(q + 1) * g[l].len();
        let dot: f64 = (0..g.len()).map(|l| g[l].iter().zip(&along[l][part(l)]).map(|(g, v)| g * v).sum::<f64>()).sum();
        for l in 0..g.len() {
            want[l][part(l)].iter_mut().zip(&g[l]).for_each(|(want, g)| *want += weight * g * dot);
        }
    }
}

fn assert_same(name: &str, found: &[Vec<f64>], want: &[Vec<f64>]) {
    let scale = want.iter().flatten().fold(0.0f64, |m, w| m.max(w.abs()));
    assert!(scale > 1e-6, "{name}: nothing is compared");
    for (l, (found, want)) in found.iter().zip(want).enumerate() {
        for (k, (found, want)) in found.iter().zip(want).enumerate() {
            assert!((found - want).abs() <= 1e-12 * scale, "{name}: layer {l} [{k}]: {found}, {want} by definition");
        }
    }
}

#[test]
fn products_of_perceptrons_are_their_definition() -> Outcome {
    let fixture = open("mlp-tiny", DType::F64);
    let batch = data::batch(&fixture.train, 0..5);
    let along = directions(&fixture.model);
    let mut want: Vec<Vec<f64>> = along.iter().map(|v| vec![0.0; v.len()]).collect();
    for example in 0..5 {
        let one = data::batch(&fixture.train, example..example + 1);
        for class in 0..4 {
            // the gradient comes times √(C p_c)
            let (_, g) = gradient(&fixture.model, &one, Objective::ExpectedLoss { class });
            add_outer(&mut want, &g, &along, 0.25);
        }
    }
    assert_same("classes", &product(&fixture.model, &batch, &along)?, &want);

    let fixture = open("mlp-regression", DType::F64);
    let batch = data::batch(&fixture.train, 0..5);
    let along = directions(&fixture.model);
    let mut want: Vec<Vec<f64>> = along.iter().map(|v| vec![0.0; v.len()]).collect();
    for example in 0..5 {
        let one = data::batch(&fixture.train, example..example + 1);
        let y = fixture.model.logits(&one)?.to_vec2::<f64>()?[0][0];
        let mut rows = one;
        let Targets::Values { values, .. } = &mut rows.targets else { panic!("numbers") };
        values[0] -= 3.0; // away from the prediction
        let target = f64::from(values[0]);
        // half_mse has a = 1/2: the gradient of the loss is (y - t) ∇y, and the Hessian 1
        let (_, g) = gradient(&fixture.model, &rows, Objective::TrainingLoss);
        add_outer(&mut want, &g, &along, 1.0 / ((y - target) * (y - target)));
    }
    assert_same("numbers", &product(&fixture.model, &batch, &along)?, &want);
    Ok(())
}

/// Sequences of 3 and 4 tokens, without a target in some places.
fn sequences() -> Batch {
    Batch {
        inputs: Inputs::Tokens(TokenInputs { ids: vec![5, 9, 14, 3, 22, 40, 7], types: None, encoder: None }),
        positions: Positions::from_lengths([3, 4]),
        targets: Targets::Tokens(vec![Some(9), Some(14), None, Some(22), None, Some(7), None]),
        keys: vec![1, 2],
        contrasts: None,
        range: 0..2,
    }
}

/// The batch of [`sequences`] as a decoder's, beside texts of 2 and 3 tokens that an encoder reads.
fn pairs() -> Batch {
    let encoder = Some(Positions::from_lengths([2, 3]));
    let ids = vec![31, 8, 50, 2, 17, 0, 9, 14, 0, 22, 40, 7];
    Batch { inputs: Inputs::Tokens(TokenInputs { ids, types: None, encoder }), ..sequences() }
}

/// Weights `w` and gradients `g`, by layer, whose sum `Σ w g gᵀ` is the Gauss-Newton matrix of a batch's loss: of all its
/// target tokens, or of the one example that has classes, labels or numbers.
fn roots(model: &Model, batch: &Batch) -> Vec<(f64, Vec<Vec<f64>>)> {
    let outputs = model.logits(batch).expect("a batch of this model").to_vec2::<f64>().expect("numbers");
    let width = outputs[0].len();
    let with = |targets: Targets| gradient(model, &Batch { targets, ..batch.clone() }, Objective::TrainingLoss);
    match &batch.targets {
        // Σ_c p_c g_c g_cᵀ with g_c = -∇ log p_c
        Targets::Tokens(targets) => {
            let rows = (0..targets.len()).filter(|&row| targets[row].is_some());
            let all = rows.flat_map(|row| (0..width).map(move |class| (row, class)));
            let of = |(row, class): (usize, usize)| {
                let one = (0..targets.len()).map(|r| (r == row).then_some(class as u32)).collect();
                let (losses, g) = with(Targets::Tokens(one));
                ((-losses.iter().sum::<f64>()).exp(), g)
            };
            all.map(of).collect()
        }
        // the gradient comes times √(C p_c)
        Targets::Classes(_) => {
            let of = |class| gradient(model, batch, Objective::ExpectedLoss { class }).1;
            (0..width).map(|class| (1.0 / width as f64, of(class))).collect()
        }
        // a label's loss -y log p - (1 - y) log (1 - p) has the gradient (p - y) ∇z and the Hessian p (1 - p) at the logit;
        // a number's a (y - t)² has 2a (y - t) ∇y and 2a, with a = 1 / width
        Targets::Labels { .. } | Targets::Values { .. } => {
            let is_labels = matches!(batch.targets, Targets::Labels { .. });
            let at = |j: usize, target: f32| {
                let mut values = vec![0.5; width];
                values[j] = target;
                with(match is_labels {
                    true => Targets::Labels { values, width },
                    false => Targets::Values { values, width },
                })
                .1
            };
            let of = |(j, &z): (usize, &f64)| {
                let (low, high) = (at(j, 0.0), at(j, 1.0));
                let g = low.iter().zip(&high).map(|(l, h)| l.iter().zip(h).map(|(l, h)| l - h).collect()).collect();
                let p = 1.0 / (1.0 + (-z).exp());
                let width = width as f64;
                (if is_labels { p * (1.0 - p) * width } else { width / 2.0 }, g)
            };
            outputs[0].iter().enumerate().map(of).collect()
        }
        _ => panic!("no such targets"),
    }
}

/// Products with a batch's matrix against the sum of those of its parts, which [`roots`] knows.
fn check_parts(name: &str, model: &Model, batch: &Batch, parts: &[Batch]) -> Outcome {
    let along = directions(model);
    let mut want: Vec<Vec<f64>> = along.iter().map(|v| vec![0.0; v.len()]).collect();
    for (weight, g) in parts.iter().flat_map(|part| roots(model, part)) {
        add_outer(&mut want, &g, &along, weight);
    }
    assert_same(name, &product(model, batch, &along)?, &want);
    Ok(())
}

fn check_decoder(folder: &Path, model: &Model) -> Outcome {
    check_batch(folder, model, &sequences())
}

fn check_batch(folder: &Path, model: &Model, batch: &Batch) -> Outcome {
    check_parts(&folder.display().to_string(), model, batch, std::slice::from_ref(batch))
}

#[test]
fn products_of_decoders_are_their_definition() -> Outcome {
    for name in ["families/gemma2", "families/phi3"] {
        let folder = fixture(name);
        check_decoder(&folder, &load(&folder, DType::F64))?;
    }
    // what stands before the blocks and behind them
    let folder = fixture("families/opt-projected");
    check_decoder(&folder, &load_layers(&folder, DType::F64, &["*project_*", "*.0.fc1"]))
}

/// Keys and values of cross-attention move at the encoder's rows.
#[test]
fn products_of_encoder_decoders_are_their_definition() -> Outcome {
    let folder = fixture("families/t5");
    check_batch(&folder, &load(&folder, DType::F64), &pairs())?;
    let folder = fixture("families/mt5");
    check_batch(
        &folder,
        &load_layers(&folder, DType::F64, &["lm_head", "encoder.block.0.*", "*.EncDecAttention.*"]),
        &pairs(),
    )
}

/// The head's own layer moves as well, before logits that stay or move too.
#[test]
fn products_of_masked_language_models_are_their_definition() -> Outcome {
    let deberta = ["deberta-v2-masked", "deberta-v2-masked-published", "deberta-v2-masked-own"];
    for name in
        ["bert-masked", "roberta-masked", "distilbert-masked", "modernbert-masked-plain"].into_iter().chain(deberta)
    {
        let folder = fixture(&format!("families/{name}"));
        check_decoder(&folder, &load(&folder, DType::F64))?;
    }
    let folder = fixture("families/bert-masked-untied");
    check_decoder(&folder, &load_layers(&folder, DType::F64, &["cls.predictions.*", "*.0.intermediate.dense"]))
}

/// Norms before blocks, after sums, of heads, with an offset, and of an encoder and a decoder.
#[test]
fn vectors_of_norms_move_too() -> Outcome {
    for name in ["gpt-neox", "opt-behind", "qwen3", "gemma2"] {
        let folder = fixture(&format!("families/{name}"));
        let selection = selection(&["*.0.*"]).and(&[AlsoTracked::Norms]);
        check_decoder(&folder, &load_selected(&folder, DType::F64, selection))?;
    }
    let folder = fixture("families/t5");
    let selection = selection(&["encoder.block.0.*"]).and(&[AlsoTracked::Norms]);
    check_batch(&folder, &load_selected(&folder, DType::F64, selection), &pairs())
}

#[test]
fn a_tracked_head_moves_too() -> Outcome {
    let folder = fixture("families/gpt-neox");
    check_decoder(&folder, &load_layers(&folder, DType::F64, &["embed_out", "*.0.mlp.dense_h_to_4h"]))
}

/// LoRA's matrices beside a frozen base.
#[test]
fn adapters_move_as_they_are_added() -> Outcome {
    let folder = fixture("adapters/phi3-all");
    let options = LoadOptions { dtype: DType::F64, base: Some(fixture("families/phi3")), ..LoadOptions::default() };
    let model = Model::load(&folder, &options)?;
    assert!(model.layers().iter().any(|layer| layer.name.contains("lora_B")), "{:?}", model.layers());
    check_decoder(&folder, &model)
}

/// Two texts with targets of a classifier.
fn texts(targets: Targets) -> Batch {
    Batch { targets, ..sequences() }
}

#[test]
fn products_of_classifiers_of_texts_are_their_definition() -> Outcome {
    // pooled at the first token, the last one, and over all
    for name in ["bert", "gpt-neox", "modernbert", "deberta-v2"] {
        let model = load(&fixture(&format!("classifiers/{name}")), DType::F64);
        let batch = texts(Targets::Classes(vec![1, 0]));
        let parts = [0, 1].map(|text| Batch { targets: Targets::Classes(vec![0]), ..one_text(&batch, text) });
        check_parts(name, &model, &batch, &parts)?;
    }
    Ok(())
}

/// One of the two sequences.
fn one_text(batch: &Batch, text: usize) -> Batch {
    let rows = batch.positions.iter().nth(text).expect("two texts");
    let Inputs::Tokens(inputs) = &batch.inputs else { panic!("tokens") };
    Batch {
        inputs: Inputs::Tokens(TokenInputs { ids: inputs.ids[rows.clone()].to_vec(), types: None, encoder: None }),
        targets: batch.targets.clone(),
        positions: Positions::from_lengths([rows.len()]),
        keys: vec![batch.keys[text]],
        contrasts: None,
        range: 0..1,
    }
}

/// A convolution over the embeddings, also in groups, which moves beside the block that reads them too.
#[test]
fn convolutions_over_texts_move_too() -> Outcome {
    for name in ["deberta-v2-convolution", "deberta-v2-convolution-groups"] {
        let folder = fixture(&format!("classifiers/{name}"));
        let model = load_layers(&folder, DType::F64, &["*.conv.conv*", "*.0.intermediate.dense", "*.0.*.value_proj"]);
        let targets = |texts: usize| match name.contains("groups") {
            true => Targets::Values { values: vec![0.25; texts], width: 1 },
            false => Targets::Classes(vec![0; texts]),
        };
        let batch = texts(targets(2));
        let parts = [0, 1].map(|text| Batch { targets: targets(1), ..one_text(&batch, text) });
        check_parts(name, &model, &batch, &parts)?;
    }
    Ok(())
}

#[test]
fn products_of_several_labels_and_of_numbers_are_their_definition() -> Outcome {
    for name in ["bert-multi-label", "qwen2-multi-label", "distilbert-regression", "xlm-roberta-regression"] {
        let model = load(&fixture(&format!("classifiers/{name}")), DType::F64);
        let width = model.logits(&texts(Targets::Classes(vec![0, 0])))?.dim(1)?;
        let targets = |values: Vec<f32>| match name.contains("label") {
            true => Targets::Labels { values, width },
            false => Targets::Values { values, width },
        };
        let batch = texts(targets(vec![0.25; 2 * width]));
        let parts = [0, 1].map(|text| Batch { targets: targets(vec![0.25; width]), ..one_text(&batch, text) });
        check_parts(name, &model, &batch, &parts)?;
    }
    Ok(())
}

/// Routers and experts of both file layouts, among them experts that see no token, one that all tokens see, and blocks
/// without experts.
#[test]
fn products_of_experts_are_their_definition() -> Outcome {
    for name in ["mixtral", "mixtral-fused", "qwen2-moe", "qwen3-moe", "qwen3-moe-fused", "olmoe"] {
        let folder = fixture(&format!("families/{name}"));
        let model = load(&folder, DType::F64);
        assert!(model.layers().iter().any(|layer| layer.name.contains(".experts.")), "{name}");
        check_decoder(&folder, &model)?;
    }
    // some experts move and others do not, behind layers that stay
    let folder = fixture("families/mixtral");
    for tracked in [&["*.0.block_sparse_moe.experts.1.*"][..], &["*.1.*.gate"], &["*.0.*.experts.[02].w2", "*.1.*.w1"]]
    {
        check_decoder(&folder, &load_layers(&folder, DType::F64, tracked))?;
    }
    Ok(())
}

/// Images of a fixture.
fn images(name: &str, role: Role, model: &Model) -> data::Dataset {
    let folder = fixture(&format!("images/{name}"));
    let file = if role == Role::Train { "train" } else { "query" };
    Source::new(folder.join(format!("{file}.safetensors")), role, &folder).read(model)
}

/// Patches behind a class token; convolutions with strides, padding, dilation and groups; batch norms and every kind of
/// pooling; classes, several labels and numbers. All layers, and some of those before which nothing moves.
#[test]
fn products_of_models_of_images_are_their_definition() -> Outcome {
    let some = |name: &str| match name {
        "vit" => ["*.1.*", "classifier"],
        "vit-multi-label" => ["*projection", "classifier"],
        "resnet" => ["*.shortcut.*", "*.layers.1.layer.0.*"],
        "resnet-bottleneck" => ["*.stages.1.*", "classifier.*"],
        "cnn" => ["2.main.0.0", "5.0"],
        _ => ["3.group.1", "6.main.0.group.[37]"],
    };
    for name in ["vit", "vit-multi-label", "resnet", "resnet-bottleneck", "cnn", "cnn-grouped"] {
        for tracked in [&["*"][..], &some(name)] {
            let model = load_layers(&fixture(&format!("images/{name}")), DType::F64, tracked);
            let train = images(name, Role::Train, &model);
            let parts = [0, 1, 2].map(|m| data::batch(&train, m..m + 1));
            check_parts(&format!("{name} {tracked:?}"), &model, &data::batch(&train, 0..3), &parts)?;
        }
    }
    Ok(())
}

/// A and B over patches and convolutions, in groups too, move beside the frozen base.
#[test]
fn products_of_adapters_over_convolutions_are_their_definition() -> Outcome {
    for (name, base) in [
        ("vit-patches", "vit"),
        ("resnet", "resnet"),
        ("resnet-dora", "resnet-bottleneck"),
        ("cnn-grouped", "cnn-grouped"),
    ] {
        let folder = fixture(&format!("image-adapters/{name}"));
        let base = Some(fixture(&format!("images/{base}")));
        let model = Model::load(&folder, &LoadOptions { dtype: DType::F64, base, ..LoadOptions::default() })?;
        let train = Source::new(folder.join("train.safetensors"), Role::Train, &folder).read(&model);
        let parts = [0, 1, 2].map(|m| data::batch(&train, m..m + 1));
        check_parts(name, &model, &data::batch(&train, 0..3), &parts)?;
    }
    Ok(())
}

/// A rule that is missing is an error, never a direction that does not move.
#[test]
fn adapters_of_a_head_are_refused() {
    let options = LoadOptions { dtype: DType::F64, base: Some(fixture("families/gptj")), ..LoadOptions::default() };
    let model = Model::load(&fixture("adapters/gptj-head"), &options).expect("an adapter");
    let error = product(&model, &sequences(), &directions(&model)).expect_err("no rule").to_string();
    assert!(error.contains("whose head has an adapter of its own"), "{error}");
}

#[test]
fn products_in_f32_are_those_in_f64() -> Outcome {
    let texts = ["gpt2-tiny", "families/gemma2", "families/gpt-neox", "families/phi3", "families/qwen2-moe"];
    for name in texts.into_iter().chain(["images/vit", "images/resnet", "images/cnn-grouped"]) {
        let (wide, narrow) = (load(&fixture(name), DType::F64), load(&fixture(name), DType::F32));
        let batch = match name.strip_prefix("images/") {
            Some(name) => data::batch(&images(name, Role::Train, &wide), 0..3),
            None => sequences(),
        };
        let along = directions(&wide);
        let want = product(&wide, &batch, &along)?;
        let layers = narrow.layers();
        let tensors = layers.iter().zip(&along).map(|(spec, along)| {
            Tensor::from_slice(along, (DIRECTIONS, spec.outputs, spec.columns()), &Device::Cpu)?.to_dtype(DType::F32)
        });
        let along = Directions::new(layers, tensors.collect::<Result<_, candle_core::Error>>()?)?;
        let mut sums: Vec<Vec<f32>> = layers.iter().map(|spec| vec![0.0; DIRECTIONS * spec.parameters()]).collect();
        let mut sink = ProductSum::new(layers, Products::Exact, sums.iter_mut().map(Vec::as_mut_slice).collect());
        narrow.gauss_newton(&batch, &along, &mut sink)?;
        let scale = want.iter().flatten().fold(0.0f64, |m, w| m.max(w.abs()));
        for (found, want) in sums.iter().flatten().zip(want.iter().flatten()) {
            // a forward and a backward pass of a few blocks in f32
            assert!((f64::from(*found) - want).abs() <= 2e-5 * scale, "{name}: {found} {want}");
        }
    }
    Ok(())
}

/// The Gauss-Newton matrix of a model's mean loss over its first examples, `[n, n]`, layers one after the other.
fn dense(model: &Model, train: &data::Dataset, examples: usize) -> Vec<Vec<f64>> {
    let n: usize = model.layers().iter().map(LayerSpec::parameters).sum();
    let mut matrix = vec![vec![0.0; n]; n];
    for example in 0..examples {
        for (weight, g) in roots(model, &data::batch(train, example..example + 1)) {
            let g = g.concat();
            for (row, &of_row) in matrix.iter_mut().zip(&g) {
                let factor = weight * of_row / examples as f64;
                row.iter_mut().zip(&g).for_each(|(sum, g)| *sum += factor * g);
            }
        }
    }
    matrix
}

/// Sets to zero what connects two layers.
fn cut_into_blocks(layers: &[LayerSpec], matrix: &mut [Vec<f64>]) {
    let of: Vec<usize> = layers.iter().enumerate().flat_map(|(l, spec)| vec![l; spec.parameters()]).collect();
    for (row, l) in matrix.iter_mut().zip(&of) {
        row.iter_mut().zip(&of).filter(|(_, other)| *other != l).for_each(|(x, _)| *x = 0.0);
    }
}

const EXAMPLES: usize = 12;
const QUERIES: usize = 3;

/// Solved systems: the solutions, and how well each was solved.
type Solved = (MemoryVectors<f64>, ascribe::attribution::Refined);

/// Systems of some queries' gradients, each for every damping, over the first training examples: solved in one space, and
/// by elimination.
struct Systems<'a> {
    model: &'a Model,
    train: Batched<'a>,
    examples: usize,
    queries: Range<usize>,
    gradients: MemoryVectors<f64>,
    factors: Factors<f64>,
    dampings: [Damping; 3],
    blocks: Blocks,
}

impl<'a> Systems<'a> {
    fn new(
        model: &'a Model,
        train: &'a data::Dataset,
        examples: usize,
        queries: (&data::Dataset, Range<usize>),
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let (layers, train) = (model.layers(), Batched(train, BATCH));
        let labels = LabelMode::Sampled { seed: 0, draws: 1 };
        let fitted = passes::fit(model, &train, CurvatureKind::Ekfac, labels, KfacScale::PerExample)?;
        let (queries, range) = (Batched(queries.0, BATCH), queries.1);
        let sweep = passes::sweep(model, &queries, Pass::Queries);
        let mut gradients = MemoryVectors::<f64>::new(layers, 1, queries.0.len());
        let identity = Factors::identity(layers.len());
        let walk = Walk::gradients(&identity);
        prepare_queries(&sweep, Measurement::Loss, Reduction::Sum, Aggregate::Each, &[&walk], &mut gradients)?;
        let dampings = [Damping::Absolute(0.03), Damping::Absolute(0.3), Damping::MeanFraction(0.1)];
        let factors = fitted.factors;
        Ok(Self { model, train, examples, queries: range, gradients, factors, dampings, blocks: Blocks::Whole })
    }

    fn solve(&self, products: usize, form: VectorForm) -> Result<Solved, ascribe::attribution::Error> {
        let (layers, Self { factors, dampings, .. }) = (self.model.layers(), self);
        let sweep = passes::sweep(self.model, &self.train, Pass::Products);
        let sweep = ascribe::attribution::Sweep { range: 0..self.examples, ..sweep };
        let mut found = MemoryVectors::<f64>::of_form(form, layers, dampings.len(), self.queries.end);
        let blocks = self.blocks;
        let refinement = Refinement { factors, dampings, blocks, products, tangents: 1 << 12, widest: 64 };
        let refined = refine_queries(&sweep, &refinement, &self.gradients, self.queries.clone(), &mut found)?;
        Ok((found, refined))
    }

    fn vector(
        &self,
        of: &MemoryVectors<f64>,
        leg: usize,
        query: usize,
    ) -> Result<Vec<f64>, ascribe::attribution::Error> {
        let mut found = vec![];
        for (l, spec) in self.model.layers().iter().enumerate() {
            let Vectors::Full(all) = of.vectors(leg, LayerId(l))? else { panic!("whole vectors") };
            found.extend(&all[query * spec.parameters()..(query + 1) * spec.parameters()]);
        }
        Ok(found)
    }

    /// Every damping's solutions against those of the dense matrix.
    fn check(&self, name: &str, products: usize) -> Outcome {
        let mut matrix = dense(self.model, self.train.0, self.examples);
        if self.blocks == Blocks::Layers {
            cut_into_blocks(self.model.layers(), &mut matrix);
        }
        let (solutions, refined) = self.solve(products, VectorForm::Full)?;
        for (leg, damping) in self.dampings.iter().enumerate() {
            let mut damped = matrix.clone();
            let mut place = 0;
            for (l, spec) in self.model.layers().iter().enumerate() {
                for _ in 0..spec.parameters() {
                    damped[place][place] += self.factors.layers[l].damping(*damping);
                    place += 1;
                }
            }
            for (k, query) in self.queries.clone().enumerate() {
                let want = eliminate(damped.clone(), self.vector(&self.gradients, 0, query)?);
                let found = self.vector(&solutions, leg, query)?;
                let scale = want.iter().fold(0.0f64, |m, w| m.max(w.abs()));
                for (k, (found, want)) in found.iter().zip(&want).enumerate() {
                    let is_near = (found - want).abs() <= 1e-9 * scale;
                    assert!(is_near, "{name}, {damping:?}, query {query} [{k}]: {found} {want}");
                }
                assert!(refined.residuals[leg][k] < 1e-9, "{name}, {damping:?}: {:?}", refined.residuals);
            }
        }
        Ok(())
    }
}

/// Every damping from one space, and a space that is too small says so.
#[test]
fn solutions_are_those_of_the_dense_system() -> Outcome {
    let fixture = open("mlp-tiny", DType::F64);
    let systems = Systems::new(&fixture.model, &fixture.train, EXAMPLES, (&fixture.queries, 1..1 + QUERIES))?;
    systems.check("mlp-tiny", 60)?;
    let (_, few) = systems.solve(2, VectorForm::Full)?;
    assert_eq!(few.directions, 2 * QUERIES);
    assert!(few.residuals.iter().flatten().all(|&residual| residual > 1e-6), "two products are not enough");
    // a rank that holds everything gives the same vectors back
    let (low, _) = systems.solve(2, VectorForm::LowRank(1))?;
    assert_eq!(low.form(), VectorForm::LowRank(1));
    assert!(systems.solve(0, VectorForm::Full).unwrap_err().to_string().contains("no product"));
    Ok(())
}

/// A system for each layer with its block of the matrix, of a perceptron and of layers of a mixture of experts.
#[test]
fn solutions_of_blocks_are_those_of_the_dense_blocks() -> Outcome {
    let opened = open("mlp-tiny", DType::F64);
    let systems = Systems::new(&opened.model, &opened.train, EXAMPLES, (&opened.queries, 1..1 + QUERIES))?;
    let systems = Systems { blocks: Blocks::Layers, ..systems };
    systems.check("mlp-tiny", 60)?;
    let (_, few) = systems.solve(2, VectorForm::Full)?;
    assert_eq!(few.directions, 2 * QUERIES * opened.model.layers().len());
    assert!(few.residuals.iter().flatten().all(|&residual| residual > 1e-6), "two products are not enough");
    let model = load_layers(
        &fixture("families/mixtral-fused"),
        DType::F64,
        &["*.0.block_sparse_moe.gate", "*.1.block_sparse_moe.experts.2.w2"],
    );
    let folder = tempfile::tempdir()?;
    let ids = folder.path().join("ids.jsonl");
    std::fs::write(
        &ids,
        [[3, 9, 14, 7, 22, 40], [5, 9, 20, 7, 8, 1], [60, 2, 33, 18, 41, 9]]
            .map(|ids| format!("{{\"input_ids\": {ids:?}}}\n"))
            .concat(),
    )?;
    let gpt2 = fixture("gpt2-tiny");
    let [train, queries] = [Role::Train, Role::Queries]
        .map(|role| Source { add_eos: Which::None, ..Source::new(ids.clone(), role, &gpt2) }.read(&model));
    let systems = Systems::new(&model, &train, 2, (&queries, 0..2))?;
    Systems { blocks: Blocks::Layers, ..systems }.check("mixtral-fused", 200)
}

/// Layers of every kind that a model of images has.
#[test]
fn solutions_of_models_of_images_are_those_of_the_dense_system() -> Outcome {
    let tracked: [(&str, &[&str]); 5] = [
        ("vit-multi-label", &["*projection", "*.query", "classifier"]),
        ("resnet", &["*.stages.0.layers.0.layer.0.*", "*.shortcut.*", "classifier.*"]),
        ("resnet-bottleneck", &["*.stages.0.*", "classifier.*"]),
        ("cnn", &["5.0", "8"]),
        ("cnn-grouped", &["6.main.0.group.*", "10"]),
    ];
    for (name, tracked) in tracked {
        let model = load_layers(&fixture(&format!("images/{name}")), DType::F64, tracked);
        let [train, queries] = [Role::Train, Role::Queries].map(|role| images(name, role, &model));
        Systems::new(&model, &train, train.len(), (&queries, 0..queries.len()))?.check(name, 100)?;
    }
    Ok(())
}

/// Routers, experts of which some see no token of an example, and the gate of an expert that sees all.
#[test]
fn solutions_of_experts_are_those_of_the_dense_system() -> Outcome {
    let folder = tempfile::tempdir()?;
    let ids = folder.path().join("ids.jsonl");
    let texts = [[3, 9, 14, 7, 22, 40], [5, 9, 20, 7, 8, 1], [60, 2, 33, 18, 41, 9]];
    std::fs::write(&ids, texts.map(|ids| format!("{{\"input_ids\": {ids:?}}}\n")).concat())?;
    let tracked: [(&str, &[&str]); 2] = [
        ("mixtral-fused", &["*.0.block_sparse_moe.gate", "*.1.block_sparse_moe.experts.2.w2"]),
        ("qwen2-moe", &["*.0.mlp.shared_expert_gate", "*.2.mlp.gate", "*.0.mlp.experts.1.down_proj"]),
    ];
    for (name, tracked) in tracked {
        let model = load_layers(&fixture(&format!("families/{name}")), DType::F64, tracked);
        let gpt2 = fixture("gpt2-tiny");
        let [train, queries] = [Role::Train, Role::Queries]
            .map(|role| Source { add_eos: Which::None, ..Source::new(ids.clone(), role, &gpt2) }.read(&model));
        Systems::new(&model, &train, 2, (&queries, 0..2))?.check(name, 200)?;
    }
    Ok(())
}

const STEPS: [&str; 2] = ["checkpoint-336", "checkpoint-720"];
const DAMPINGS: [f64; 2] = [0.03, 0.3];

/// A job over two checkpoints of a perceptron in f64 whose products are of a sample of the examples.
fn joint_job(out: &Path, change: impl FnOnce(&mut Job)) -> Plan {
    let mut job = Job::new("", fixture("mlp-tiny").join("train.safetensors"), out);
    job.data.queries = Some(fixture("mlp-tiny").join("query.safetensors"));
    let folders = STEPS.map(|step| fixture("mlp-trajectory").join(step));
    job.checkpoints = Some(CheckpointsRequest::of_folders(folders.to_vec()));
    job.model.dtype = Precision::F64;
    job.method.solve = Solve::GaussNewton;
    job.method.solve_iterations = Some(40);
    job.method.solve_examples = FitExamples::Count(EXAMPLES);
    job.method.damping = Several(DAMPINGS.map(|damping| DampingRequest::Value(Damping::Absolute(damping))).to_vec());
    change(&mut job);
    Plan::resolve(job).expect("sound inputs")
}

/// Scores of the whole job against `-(1/N) Σ_a w_a <(H_a + δ)⁻¹ ∇cost_q, G_m>` with dense matrices.
#[test]
fn scores_of_joint_solves_are_those_of_dense_systems() -> Outcome {
    scores_are_those_of_dense_systems(SolveLayers::Together)
}

/// Scores of a whole job with a system for each layer, against dense matrices without what connects two layers.
#[test]
fn scores_of_blocks_are_those_of_dense_systems() -> Outcome {
    scores_are_those_of_dense_systems(SolveLayers::Each)
}

fn scores_are_those_of_dense_systems(layers: SolveLayers) -> Outcome {
    let folder = tempfile::tempdir()?;
    let run = folder.path().join("run");
    let plan = joint_job(&run, |job| job.method.solve_layers = layers);
    let rankings = plan.run(&())?;
    let (train, queries) = (plan.train(), plan.queries().expect("queries"));
    let (n, rows) = (train.len(), queries.len());
    let mut want = vec![vec![0.0; rows * n]; 2];
    // the sample by stride, as a file of its own would be
    let sample = train.sample(EXAMPLES);
    for step in STEPS {
        let model = load(&fixture("mlp-trajectory").join(step), DType::F64);
        let of = |data: &data::Dataset, m: usize, objective| {
            gradient(&model, &data::batch(data, m..m + 1), objective).1.concat()
        };
        let measured = Objective::Measurement(Measurement::Margin, Reduction::Sum);
        let examples: Vec<Vec<f64>> = (0..n).map(|m| of(train, m, Objective::TrainingLoss)).collect();
        let mut matrix = dense(&model, &sample, EXAMPLES);
        if layers == SolveLayers::Each {
            cut_into_blocks(model.layers(), &mut matrix);
        }
        for (want, damping) in want.iter_mut().zip(DAMPINGS) {
            let mut damped = matrix.clone();
            damped.iter_mut().enumerate().for_each(|(k, row)| row[k] += damping);
            for q in 0..rows {
                let x = eliminate(damped.clone(), of(queries, q, measured));
                for (m, g) in examples.iter().enumerate() {
                    want[q * n + m] += x.iter().zip(g).map(|(x, g)| x * g).sum::<f64>() / (2 * n) as f64;
                }
            }
        }
    }
    for (k, damping) in ["3e-2", "3e-1"].into_iter().enumerate() {
        let file = TensorFile::open(&run.join(match k {
            0 => "scores.safetensors".to_owned(),
            _ => format!("scores.influence-mean.damping-{damping}.safetensors"),
        }))?;
        let found: Vec<f64> = file.f32("scores")?.iter().map(|&score| f64::from(score)).collect();
        let scale = want[k].iter().fold(0.0f64, |m, w| m.max(w.abs()));
        for (place, (found, want)) in found.iter().zip(&want[k]).enumerate() {
            assert!((found - want).abs() <= 1e-6 * scale, "damping {damping} [{place}]: {found} {want}");
        }
        let residuals = file.f64("residuals")?;
        assert_eq!(residuals.len(), rows);
        assert!(residuals.iter().all(|&residual| residual < 1e-7), "{residuals:?}");
        let said = |name: &str| file.metadata(name).unwrap_or_default().to_owned();
        assert_eq!((said("solve"), said("solve_iterations")), ("gauss-newton".into(), "40".into()));
        assert_eq!((said("solve_examples"), said("damping")), (EXAMPLES.to_string(), damping.into()));
        assert_eq!(said("solve_layers"), if layers == SolveLayers::Each { "each" } else { "" });
    }
    assert!(rankings.iter().all(|ranking| ranking.query.residual.is_some_and(|residual| residual < 1e-7)));
    Ok(())
}

/// One file of vectors is lost: it is made again with the same bytes, whichever of the dampings it was.
#[test]
fn joint_solves_go_on_after_a_stop_and_are_kept_apart() -> Outcome {
    let folder = tempfile::tempdir()?;
    let run = folder.path().join("run");
    let few = |job: &mut Job| job.method.solve_iterations = Some(2);
    joint_job(&run, few).run(&())?;
    let vectors = || -> std::io::Result<Vec<std::path::PathBuf>> {
        let entries = std::fs::read_dir(run.join("artifacts"))?;
        let mut files: Vec<_> = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
        files.retain(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("queries-")));
        files.sort();
        Ok(files)
    };
    let before = vectors()?;
    assert_eq!(before.len(), 4, "two dampings at two checkpoints: {before:?}");
    let scores = std::fs::read(run.join("scores.safetensors"))?;
    for file in before.iter().skip(1) {
        let bytes = std::fs::read(file)?;
        std::fs::remove_file(file)?;
        joint_job(&run, few).query(&())?;
        assert!(std::fs::read(file)? == bytes, "{}", file.display());
    }
    std::fs::remove_file(run.join("scores.safetensors"))?;
    joint_job(&run, few).run(&())?;
    assert!(std::fs::read(run.join("scores.safetensors"))? == scores);
    // every choice that changes the vectors has vectors of its own, and none is taken for another's
    let changes: [&dyn Fn(&mut Job); 6] = [
        &|job| job.method.solve_layers = SolveLayers::Each,
        &|job| job.method.solve_iterations = Some(3),
        &|job| job.method.solve_examples = FitExamples::All,
        &|job| job.method.solve_block = Some(1),
        &|job| job.method.damping.0.truncate(1),
        &|job| {
            (job.method.solve, job.method.solve_iterations) = (Solve::Ekfac, None);
            job.method.solve_examples = FitExamples::All;
        },
    ];
    for (k, change) in changes.into_iter().enumerate() {
        let count = vectors()?.len();
        let plan = joint_job(&run, |job| {
            few(job);
            change(job);
        });
        // the folder's scores are those of the first job
        let _ = plan.query(&());
        for file in ["scores.safetensors", "scores.influence-mean.damping-3e-1.safetensors"] {
            let _ = std::fs::remove_file(run.join(file));
        }
        plan.query(&())?;
        assert!(vectors()?.len() > count, "change {k} made no vectors of its own");
    }
    Ok(())
}

/// Whole jobs of experts and of images: queries in blocks, the directions of one in several parts.
#[test]
fn jobs_of_experts_and_of_images_are_solved_jointly() -> Outcome {
    let folder = tempfile::tempdir()?;
    let ids = folder.path().join("ids.jsonl");
    std::fs::write(&ids, "{\"input_ids\": [3, 9, 14, 7]}\n{\"input_ids\": [5, 9, 20, 7, 8]}\n")?;
    for name in ["families/qwen3-moe", "images/vit", "images/resnet-bottleneck", "images/cnn"] {
        let model = fixture(name);
        let of = |file: &str| if name.starts_with("images") { model.join(file) } else { ids.clone() };
        let run = folder.path().join(name.replace('/', "-"));
        let mut job = Job::new(&model, of("train.safetensors"), &run);
        job.data.queries = Some(of("query.safetensors"));
        job.model.dtype = Precision::F64;
        job.method.solve = Solve::GaussNewton;
        job.method.solve_iterations = Some(300);
        job.method.damping = Several(vec![DampingRequest::Value(Damping::Absolute(0.3))]);
        let rankings = Plan::resolve(job)?.run(&())?;
        assert!(
            rankings.iter().all(|ranking| ranking.query.residual.is_some_and(|residual| residual < 1e-7)),
            "{name}"
        );
    }
    Ok(())
}

#[test]
fn what_joint_solves_are_not_defined_for_is_refused_before_work() -> Outcome {
    let folder = tempfile::tempdir()?;
    let refused = |change: &dyn Fn(&mut Job)| {
        let mut job = Job::new(fixture("mlp-tiny"), fixture("mlp-tiny").join("train.safetensors"), folder.path());
        job.data.queries = Some(fixture("mlp-tiny").join("query.safetensors"));
        job.method.solve = Solve::GaussNewton;
        change(&mut job);
        Plan::resolve(job).expect_err("refused").to_string()
    };
    assert!(refused(&|job| job.method.solve_iterations = Some(0)).contains("`solve_iterations` is 0"));
    assert!(refused(&|job| job.method.curvature = ascribe::job::Curvature::Identity).contains("has none"));
    assert!(refused(&|job| job.method.normalize = ascribe::job::Normalize::Cosine).contains("cosine"));
    assert!(refused(&|job| job.method.self_influence = true).contains("`self_influence`"));
    assert!(refused(&|job| job.method.solve_examples = FitExamples::Auto).contains("has no `solve_examples = auto`"));
    let error = refused(&|job| job.method.solve_examples = FitExamples::Count(100_000));
    assert!(error.contains("on 100000 examples, and there are "), "{error}");
    let error = refused(&|job| {
        (job.method.solve, job.method.solve_iterations) = (Solve::Ekfac, Some(2));
    });
    assert!(error.contains("belong to joint solves"), "{error}");
    let error = refused(&|job| (job.method.solve, job.method.solve_layers) = (Solve::Ekfac, SolveLayers::Each));
    assert!(error.contains("takes blocks of the Gauss-Newton matrix"), "{error}");
    // a head without a rule: known before anything is fitted
    let ids = folder.path().join("ids.jsonl");
    std::fs::write(&ids, "{\"input_ids\": [3, 9, 14, 7]}\n{\"input_ids\": [5, 9, 20, 7, 8]}\n")?;
    let mut job = Job::new(fixture("adapters/gptj-head"), &ids, folder.path().join("head"));
    job.model.base = Some(fixture("families/gptj"));
    job.data.queries = Some(ids.clone());
    job.method.solve = Solve::GaussNewton;
    let error = Plan::resolve(job)?.run(&()).expect_err("no rule").to_string();
    assert!(error.contains("whose head has an adapter of its own"), "{error}");
    let made = std::fs::read_dir(folder.path().join("head").join("artifacts")).map_or(0, Iterator::count);
    assert_eq!(made, 0, "nothing is fitted");
    Ok(())
}
