//! Kernels at real shapes: the products, passes and building blocks that a job spends its time in.
//!
//! `cargo bench --bench kernels -- --quick` runs all in about a minute once it is built; a filter behind it (`lambda`,
//! `nn/attention`) runs some. Throughput is in operations a second, a multiply-add counting two, so that
//! `Gelem/s` reads as GFLOP/s; building blocks count elements. Threads are rayon's (`RAYON_NUM_THREADS`).
//!
//! Kernels that have a bf16 form are measured in it too where the processor has it (`bf16`).
//!
//! Shapes: a GPT-2 of width 256 with 4 heads, 4,096 tokens of vocabulary and 8 examples of 256 positions,
//! and the first layer of an image classifier, 784 inputs and 256 outputs, 512 examples.

use std::hint::black_box;

use ascribe::curvature::contraction::{BasisSize, LowRankRoute, Rotate, RotationRoute, ScoreRoute, Shape};
use ascribe::curvature::gemm::{Into, Packed, Products, Threads, View, ViewMut, add_gram, matmul, matmul_packed};
use ascribe::curvature::{
    BlockWidth, Covariance, CovarianceSum, Eigenbasis, Eigenpairs, Factors, GradientProducts, LabelDraw, Lambda,
    LambdaSum, LayerId, LayerSpec, Linear, LowRank, Matrix, Objective, Positions, SpectralFn, SymmetricMatrix, Tap,
    TapRecorder, TapSink, Vectors, pull_back, random,
};
use ascribe::nn::{
    Activation, Attention, LanguageModelHead, LayerNorm, LogitsGradient, RmsNorm, RopeConfig, RopeTables, gated,
    language_model_loss,
};
use candle_core::{Device, Tensor, Var};
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const WIDTH: usize = 256;
const HEADS: usize = 4;
const VOCABULARY: usize = 4096;
const EXAMPLES: usize = 8;
const LENGTH: usize = 256;
const ROWS: usize = EXAMPLES * LENGTH;

/// Outputs and inputs of a block's layers, and of the image classifier's first one.
const C_ATTN: [usize; 2] = [768, 256];
const ATTN_C_PROJ: [usize; 2] = [256, 256];
const C_FC: [usize; 2] = [1024, 256];
const MLP_C_PROJ: [usize; 2] = [256, 1024];
const IMAGE: [usize; 2] = [256, 784];
const IMAGES: usize = 512;

/// What the command runs with; fresh memory is a large part of the building blocks' time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Group<'a> = BenchmarkGroup<'a, criterion::measurement::WallTime>;

/// Numbers in [-1, 1) that are the same in every run.
fn numbers(n: usize) -> Vec<f32> {
    (0..n as u32).map(|k| (random::uniforms(random::philox([k, 0, 0, 0], [7, 0])).0 * 2.0 - 1.0) as f32).collect()
}

fn tensor(rows: usize, width: usize) -> Tensor {
    Tensor::from_vec(numbers(rows * width), (rows, width), &Device::Cpu).expect("as many numbers as the shape has")
}

fn layer([outputs, inputs]: [usize; 2]) -> LayerSpec {
    LayerSpec { name: "layer".into(), outputs, inputs, bias: true, input_group: 0, vocabulary: None }
}

/// One layer's rows of a batch.
struct Rows {
    layer: LayerSpec,
    input: Tensor,
    output_gradient: Tensor,
    positions: Positions,
}

impl Rows {
    fn new(shape: [usize; 2], positions: Positions) -> Self {
        let rows = positions.rows();
        Self { layer: layer(shape), input: tensor(rows, shape[1]), output_gradient: tensor(rows, shape[0]), positions }
    }

    fn tokens(shape: [usize; 2]) -> Self {
        Self::new(shape, Positions::from_lengths([LENGTH; EXAMPLES]))
    }

    fn images() -> Self {
        Self::new(IMAGE, Positions::single(IMAGES))
    }

    fn tap(&self) -> Tap<'_> {
        let (input, output_gradient) = (&self.input, &self.output_gradient);
        Tap { layer: LayerId(0), input, output_gradient, positions: &self.positions }
    }

    /// The same numbers in other tensors: what is prepared of an input is kept while layers read the same one.
    fn twin(&self) -> Self {
        let copy = |tensor: &Tensor| tensor.copy().expect("a CPU tensor");
        Self {
            layer: self.layer.clone(),
            input: copy(&self.input),
            output_gradient: copy(&self.output_gradient),
            positions: self.positions.clone(),
        }
    }

    fn name(&self) -> String {
        format!("{}x{}", self.layer.outputs, self.layer.columns())
    }

    fn covariance(&self) -> Covariance {
        let mut sum = CovarianceSum::<f32>::new(std::slice::from_ref(&self.layer));
        sum.tap(self.tap()).expect("the tap is of this layer");
        sum.flush(0..self.positions.examples(), 1).expect("the numbers are finite");
        sum.finish().expect("there are examples")
    }

    fn basis(&self) -> Eigenbasis<f32> {
        let bases = Eigenbasis::of_layers(&self.covariance(), std::slice::from_ref(&self.layer));
        bases.expect("covariances are positive").remove(0)
    }
}

/// The arithmetics that this processor has, as benchmarks name them.
fn arithmetics() -> impl Iterator<Item = (&'static str, Products)> {
    [("f32", Products::Exact), ("bf16", Products::Bf16)].into_iter().filter(|(_, products)| products.run_here())
}

fn gemm(c: &mut Criterion) {
    let mut group = c.benchmark_group("gemm");
    let mut product = |name: &str, [m, k, n]: [usize; 3], threads| {
        let (a, b, mut into) = (numbers(m * k), numbers(k * n), vec![0.0f32; m * n]);
        group.throughput(Throughput::Elements((2 * m * k * n) as u64));
        for (arithmetic, products) in arithmetics() {
            group.bench_function(BenchmarkId::new(format!("{name}/{arithmetic}"), format!("{m}x{k}x{n}")), |bencher| {
                bencher.iter(|| {
                    let (a, b) = (View::dense(&a, m, k).to(products), View::dense(&b, k, n));
                    matmul(ViewMut::dense(&mut into, m, n), Into::Replace, 1.0, a, b, threads);
                    black_box(&into);
                });
            });
        }
    };
    product("forward", [16_384, WIDTH, 1024], Threads::Pool);
    product("forward", [ROWS, WIDTH, 1024], Threads::Pool);
    product("example-gradient", [1024, LENGTH, WIDTH], Threads::One);
    product("example-gradient", [WIDTH, LENGTH, WIDTH], Threads::One);
    // the scores' product: as many queries, as many examples, a long inner side
    product("scores", [32, 262_144, 32], Threads::Pool);
    gradient_blocks(&mut group);
    for (n, (arithmetic, products)) in [256, 768, 1024].into_iter().flat_map(|n| arithmetics().map(move |a| (n, a))) {
        let (x, mut gram) = (numbers(ROWS * n), vec![0.0; SymmetricMatrix::numbers(n)]);
        // counted as the full product, of which it does half
        group.throughput(Throughput::Elements((2 * ROWS * n * n) as u64));
        group.bench_function(BenchmarkId::new(format!("gram/{arithmetic}"), n), |bencher| {
            bencher.iter(|| {
                add_gram(&mut gram, View::dense(&x, ROWS, n).to(products), Threads::Pool);
                black_box(&gram);
            });
        });
    }
    group.finish();
}

/// An example's gradient in blocks of as many output rows as scores form at a time, its inputs packed for each block or
/// once for all.
fn gradient_blocks(group: &mut Group<'_>) {
    const BLOCK: usize = 56;
    let [o, i] = C_FC;
    let (s, a, mut block) = (numbers(LENGTH * o), numbers(LENGTH * i), vec![0.0f32; BLOCK * i]);
    group.throughput(Throughput::Elements((2 * LENGTH * o * i) as u64));
    for (arithmetic, products) in arithmetics() {
        let inputs = View::dense(&a, LENGTH, i).to(products);
        let mut run = |each: &mut dyn FnMut(ViewMut<'_, f32>, View<'_, f32>)| {
            for start in (0..o).step_by(BLOCK) {
                let rows = BLOCK.min(o - start);
                each(ViewMut::dense(&mut block, rows, i), View::new(&s[start..], LENGTH, rows, o).t());
            }
            black_box(&block);
        };
        group.bench_function(BenchmarkId::new("gradient-blocks", arithmetic), |bencher| {
            bencher.iter(|| run(&mut |into, s| matmul(into, Into::Replace, 1.0, s, inputs, Threads::One)));
        });
        let mut packed = Packed::default();
        group.bench_function(BenchmarkId::new("gradient-blocks-packed", arithmetic), |bencher| {
            bencher.iter(|| {
                packed.pack(inputs);
                run(&mut |into, s| matmul_packed(into, Into::Replace, 1.0, s, inputs, &packed, Threads::One));
            });
        });
    }
}

fn covariance(c: &mut Criterion) {
    let mut group = c.benchmark_group("covariance");
    let rows = [C_ATTN, ATTN_C_PROJ, C_FC, MLP_C_PROJ].map(Rows::tokens);
    for rows in rows.into_iter().chain([Rows::images()]) {
        let mut sum = CovarianceSum::<f32>::new(std::slice::from_ref(&rows.layer));
        let [o, i] = [rows.layer.outputs, rows.layer.columns()];
        group.throughput(Throughput::Elements((2 * rows.positions.rows() * (o * o + i * i)) as u64));
        group.bench_function(rows.name(), |bencher| {
            bencher.iter(|| sum.tap(rows.tap()).expect("the tap is of this layer"));
        });
    }
    group.finish();
}

fn eigendecomposition(c: &mut Criterion) {
    let mut group = c.benchmark_group("eigendecomposition");
    group.sample_size(10);
    for inputs in [256, 784] {
        let covariance = Rows::tokens([64, inputs]).covariance();
        let whole = covariance.inputs[0].as_ref().expect("the layer's own group");
        let matrix = &whole.diagonal_block(0..whole.size());
        let n = matrix.size() as u64;
        group.throughput(Throughput::Elements(9 * n * n * n));
        group.bench_function(BenchmarkId::from_parameter(n), |bencher| {
            let decompose = || Eigenpairs::<f32>::of(matrix, "layer", "input", Threads::One);
            bencher.iter(|| black_box(decompose().expect("a covariance is positive")));
        });
    }
    group.finish();
}

/// Λ by each of its routes. The route follows from the shape alone, so shapes are chosen that ask for it.
fn lambda(c: &mut Criterion) {
    use Rotate::{Gradient, Rows as OfRows};
    let mut group = c.benchmark_group("lambda");
    let long = |length| Positions::from_lengths([length; 4]);
    let routes = [
        ("rows", C_FC, long(LENGTH), OfRows, OfRows),
        ("gradient", ATTN_C_PROJ, long(1024), Gradient, Gradient),
        ("input-rows", C_FC, long(512), OfRows, Gradient),
        ("output-rows", MLP_C_PROJ, long(512), Gradient, OfRows),
    ];
    for (name, shape, positions, input, output) in routes {
        let rows = Rows::new(shape, positions);
        let size = Shape::of(&rows.positions, rows.layer.outputs, rows.layer.columns());
        let basis = BasisSize::of(&rows.layer, BlockWidth::Any);
        let route = RotationRoute::cheapest(size, basis);
        assert_eq!(route, RotationRoute { input, output }, "the shape asks for another route");
        group.throughput(Throughput::Elements(route.flops(size, basis) as u64));
        bench_lambda(&mut group, name, &rows, Some(&rows.basis()));
    }
    let tokens = Rows::tokens(C_FC);
    group.throughput(Throughput::Elements((2 * ROWS * tokens.layer.parameters()) as u64));
    bench_lambda(&mut group, "diagonal", &tokens, None);
    let images = Rows::images();
    let [o, i] = [images.layer.outputs, images.layer.columns()];
    group.throughput(Throughput::Elements((2 * IMAGES * (o * o + i * i + o * i)) as u64));
    bench_lambda(&mut group, "single-position", &images, Some(&images.basis()));
    group.finish();
}

fn bench_lambda(group: &mut Group<'_>, route: &str, rows: &Rows, basis: Option<&Eigenbasis<f32>>) {
    let mut sum = LambdaSum::<f32>::new(std::slice::from_ref(&rows.layer), vec![basis]);
    let twin = rows.twin();
    let mut taps = [rows.tap(), twin.tap()].into_iter().cycle();
    group.bench_function(BenchmarkId::new(route, rows.name()), |bencher| {
        bencher.iter(|| sum.tap(taps.next().expect("a cycle")).expect("the tap is of this layer"));
    });
}

fn inverse(c: &mut Criterion) {
    let mut group = c.benchmark_group("inverse");
    let queries = 8;
    for shape in [ATTN_C_PROJ, C_FC, IMAGE] {
        let rows = Rows::tokens(shape);
        let (o, i) = (rows.layer.outputs, rows.layer.columns());
        let values = numbers(o * i).iter().map(|&x| f64::from(x * x)).collect();
        let lambda = Lambda { layers: vec![Matrix::new(values, o, i)], examples: 1 };
        let factors = Factors::ekfac(vec![rows.basis()], lambda);
        let f = SpectralFn::Inverse { damping: 0.1 };
        let gradients = numbers(queries * o * i);
        group.throughput(Throughput::Elements((4 * queries * o * i * (o + i)) as u64));
        group.bench_function(BenchmarkId::new("queries-8", rows.name()), |bencher| {
            bencher.iter_batched(
                || gradients.clone(),
                |mut vectors| {
                    factors.layers[0].apply(&f, &mut vectors, &rows.layer);
                    vectors
                },
                criterion::BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

fn scores(c: &mut Criterion) {
    let mut group = c.benchmark_group("scores");
    // 32 queries are contracted with whole gradients, 2 queries (or single positions) row by row
    let cases =
        [(Rows::tokens(C_FC), 32), (Rows::tokens(ATTN_C_PROJ), 32), (Rows::tokens(C_FC), 2), (Rows::images(), 200)];
    for (rows, queries) in cases {
        let shape = Shape::of(&rows.positions, rows.layer.outputs, rows.layer.columns());
        let flops = ScoreRoute::cheapest(shape, queries).flops(shape, queries);
        let vectors = numbers(queries * rows.layer.parameters());
        bench_scores(&mut group, &format!("queries-{queries}"), &rows, Vectors::Full(&vectors), queries, flops);
    }
    // by factors, or put together block by block
    let (rows, rank) = (Rows::tokens(C_FC), 16);
    let shape = Shape::of(&rows.positions, rows.layer.outputs, rows.layer.columns());
    for queries in [4, 32] {
        let flops = LowRankRoute::cheapest(shape, queries, rank).flops(shape, queries, rank);
        let (left, right) = (numbers(queries * rank * shape.outputs), numbers(queries * rank * shape.columns));
        let vectors = Vectors::LowRank(LowRank { rank, left: &left, right: &right });
        bench_scores(&mut group, &format!("queries-{queries}-rank-{rank}"), &rows, vectors, queries, flops);
    }
    group.finish();
}

fn bench_scores(
    group: &mut Group<'_>,
    name: &str,
    rows: &Rows,
    vectors: Vectors<'_, f32>,
    queries: usize,
    flops: u128,
) {
    let mut products = GradientProducts::<f32>::default();
    let twin = rows.twin();
    let mut taps = [rows.tap(), twin.tap()].into_iter().cycle();
    let mut scores = vec![0.0f64; rows.positions.examples() * queries];
    group.throughput(Throughput::Elements(flops as u64));
    group.bench_function(BenchmarkId::new(name, rows.name()), |bencher| {
        bencher.iter(|| {
            let added = products.add_scores(taps.next().expect("a cycle"), &rows.layer, &[vectors], &mut scores);
            added.expect("the tap is of this layer");
            black_box(&scores);
        });
    });
}

/// Forward, and forward with backward, of one building block.
fn bench_block(
    group: &mut Group<'_>,
    name: &str,
    x: &Tensor,
    forward: impl Fn(&Tensor) -> candle_core::Result<Tensor>,
) {
    let input = Var::from_tensor(x).expect("a CPU tensor").into_inner();
    let gradient = forward(&input).expect("the shapes fit").detach();
    group.throughput(Throughput::Elements(x.elem_count() as u64));
    group.bench_function(BenchmarkId::new(name, "forward"), |bencher| {
        bencher.iter(|| black_box(forward(x).expect("the shapes fit")));
    });
    group.bench_function(BenchmarkId::new(name, "forward+backward"), |bencher| {
        bencher.iter(|| {
            let output = forward(&input).expect("the shapes fit");
            black_box(pull_back(&input, &output, gradient.clone()).expect("the block differentiates"))
        });
    });
}

fn blocks(c: &mut Criterion) {
    let mut group = c.benchmark_group("nn");
    let positions = Positions::from_lengths([LENGTH; EXAMPLES]);
    let ones = Tensor::ones(WIDTH, candle_core::DType::F32, &Device::Cpu).expect("a CPU tensor");
    let layer_norm = LayerNorm { weight: ones.clone(), bias: Some(ones.clone()), epsilon: 1e-5 };
    let rms_norm = RmsNorm { weight: ones, epsilon: 1e-6, offset: 0.0 };
    let (x, inner) = (tensor(ROWS, WIDTH), tensor(ROWS, 4 * WIDTH));
    bench_block(&mut group, "layer-norm", &x, |x| layer_norm.forward(x));
    bench_block(&mut group, "rms-norm", &x, |x| rms_norm.forward(x));
    bench_block(&mut group, "gelu-tanh", &inner, |x| Activation::GeluTanh.forward(x));
    bench_block(&mut group, "gelu", &inner, |x| Activation::Gelu.forward(x));
    bench_block(&mut group, "swiglu", &inner, |x| gated(Activation::Silu, x, &inner));
    let rotary = RopeTables::new(&RopeConfig::new(WIDTH / HEADS, 1e4), &positions);
    for (arithmetic, products) in arithmetics() {
        let attention = Attention { products, ..Attention::causal(HEADS, WIDTH / HEADS) };
        let qkv = tensor(ROWS, 3 * WIDTH);
        let name = |what: &str| format!("{what}/{arithmetic}");
        bench_block(&mut group, &name("attention"), &qkv, |x| attention.forward_packed(x, &positions, None));
        bench_block(&mut group, &name("attention-rope"), &qkv, |x| {
            attention.forward_packed(x, &positions, Some(&rotary))
        });
        // two heads share each key-value head
        let grouped = Attention { kv_heads: HEADS / 2, ..attention };
        let qkv = tensor(ROWS, 2 * WIDTH);
        bench_block(&mut group, &name("attention-grouped"), &qkv, |x| grouped.forward_packed(x, &positions, None));
        let [o, i] = C_FC;
        let linear = Linear::new(tensor(o, i), None, None).expect("a matrix").with_products(products);
        let taps = TapRecorder::default();
        bench_block(&mut group, &name("linear"), &x, |x| linear.forward(x, &taps));
    }
    head(&mut group, &x, &positions);
    group.finish();
}

/// The language-model head with its loss and the gradient at the hidden states.
fn head(group: &mut Group<'_>, hidden: &Tensor, positions: &Positions) {
    let weight = tensor(VOCABULARY, WIDTH);
    let last = |row: usize| (row + 1).is_multiple_of(LENGTH);
    let targets: Vec<_> =
        (0..ROWS).map(|row| if last(row) { None } else { Some((row * 31 % VOCABULARY) as u32) }).collect();
    let keys: Vec<u64> = (0..EXAMPLES as u64).collect();
    let draw = LabelDraw { seed: 0, stream: random::stream::COVARIANCE, draw: 0 };
    // logits, and from them the gradient
    group.throughput(Throughput::Elements((4 * ROWS * WIDTH * VOCABULARY) as u64));
    for (arithmetic, products) in arithmetics() {
        let head = LanguageModelHead { weight: &weight, bias: None, soft_cap: None, products };
        for (name, objective) in [("training-loss", Objective::TrainingLoss), ("sampled", Objective::SampledLoss(draw))]
        {
            group.bench_function(BenchmarkId::new(format!("head/{arithmetic}"), name), |bencher| {
                bencher.iter(|| {
                    let discard = LogitsGradient::Discard;
                    language_model_loss(hidden, head, positions, &targets, &keys, objective, discard)
                        .expect("the shapes fit")
                });
            });
        }
    }
}

criterion_group!(kernels, gemm, covariance, eigendecomposition, lambda, inverse, scores, blocks);
criterion_main!(kernels);
