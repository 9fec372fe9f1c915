//! Segments whose functions are of the Gauss-Newton matrix of all tracked layers jointly, against dense matrices and
//! against the library's own pieces.

use ascribe::attribution::source::{Conditioner, SourceOptions};
use ascribe::attribution::{
    Aggregate, Buffer, Carrying, Error, Leg, LegFn, MemoryVectors, Pass, VectorForm, VectorSource, Visit, Walk,
    carry_queries, prepare_queries,
};
use ascribe::curvature::gemm::Threads;
use ascribe::curvature::{
    Damping, Eigenpairs, Factors, LayerId, Measurement, Network, Objective, Reduction, SpectralFn, SymmetricMatrix,
};
use ascribe::data::Dataset;
use ascribe::job::{Beside, DampingRequest, FitExamples, FormRequest, Job, Plan, Several, Solve};
use ascribe::model::Model;
use candle_core::DType;

use crate::source::by_hand::ByHand;
use crate::source::case::Case;
use crate::source::stages::two_stages;
use crate::support::dense::{dot, gradient_of};
use crate::support::figures::assert_relative;
use crate::support::passes::{BATCH, Batched, sweep};
use crate::support::{Outcome, fixture, load, open};

/// Classes of the fixtures' perceptrons.
const CLASSES: usize = 4;
/// Products after which nothing is left of any query of theirs.
const ENOUGH: usize = 60;

fn jointly(job: &mut Job, products: usize) {
    (job.method.solve, job.method.solve_iterations) = (Solve::GaussNewton, Some(products));
}

/// Every expected gradient of a classifier's examples, and what one counts in the Gauss-Newton matrix of the mean loss.
fn expected_gradients(model: &Model, train: &Dataset) -> (Vec<Vec<f64>>, f64) {
    let of = |m: usize| {
        (0..CLASSES).map(move |class| gradient_of(model, train, m, Objective::ExpectedLoss { class }).concat())
    };
    ((0..train.len()).flat_map(of).collect(), 1.0 / (CLASSES * train.len()) as f64)
}

/// The mean of the Gauss-Newton matrices of several networks, `Σ_a w_a h ⊙ H_a ⊙ hᵀ`.
fn matrix(networks: &[(&Model, f64)], train: &Dataset, h: &[f64]) -> Eigenpairs<f64> {
    let n = h.len();
    let mut sum = vec![0.0; n * n];
    for (model, weight) in networks {
        let (gradients, share) = expected_gradients(model, train);
        for g in gradients {
            let g: Vec<f64> = g.iter().zip(h).map(|(g, h)| g * h).collect();
            for i in (0..n).filter(|&i| g[i] != 0.0) {
                let factor = weight * share * g[i];
                sum[i * n..i * n + i + 1].iter_mut().zip(&g).for_each(|(sum, g)| *sum += factor * g);
            }
        }
    }
    let matrix = SymmetricMatrix::from_fn(n, |i, j| sum[i * n + j]);
    Eigenpairs::of(&matrix, "all", "joint", Threads::One).expect("positive")
}

/// `f(H) v`.
fn function(of: &Eigenpairs<f64>, f: &SpectralFn, v: &[f64]) -> Vec<f64> {
    let u = of.vectors.whole().to_rows();
    let along = |k: usize| f.at(of.values[k]) * u.iter().zip(v).map(|(row, v)| row[k] * v).sum::<f64>();
    let inside: Vec<f64> = (0..v.len()).map(along).collect();
    u.iter().map(|row| dot(row, &inside)).collect()
}

/// The numbers of one query at every layer, one after the other.
fn whole(vectors: &MemoryVectors<f64>, model: &Model, leg: usize, query: usize) -> Vec<f64> {
    let of_layer = |l: usize| {
        let size = model.layers()[l].parameters();
        let all = vectors.vectors(leg, LayerId(l)).expect("in memory").full().expect("whole");
        all[query * size..(query + 1) * size].to_vec()
    };
    (0..model.layers().len()).flat_map(of_layer).collect()
}

/// Three segments of two checkpoints each, with weight decay.
#[test]
fn vectors_of_a_run_are_those_of_dense_matrices() -> Outcome {
    let case = Case::sgd();
    let by_hand = ByHand::new(&case);
    let (last, layers) = (&by_hand.last, by_hand.last.layers());
    let done = case.run(|job| jointly(job, ENOUGH));
    let stored = done.artifacts("queries");
    assert_eq!(stored.len(), 1, "one answer has one set of vectors");
    let parameters = layers.iter().map(|layer| layer.parameters()).sum();
    let legs: Vec<Eigenpairs<f64>> = by_hand
        .networks
        .iter()
        .map(|networks| {
            let networks: Vec<(&Model, f64)> = networks.iter().map(|(network, weight)| (network, *weight)).collect();
            matrix(&networks, &by_hand.stages[0], &vec![1.0; parameters])
        })
        .collect();
    let measured = Objective::Measurement(Measurement::Margin, Reduction::Sum);
    let rows = by_hand.queries.len();
    let gradients: Vec<Vec<f64>> =
        (0..rows).map(|query| gradient_of(last, &by_hand.queries, query, measured).concat()).collect();
    let walk = by_hand.walk(SourceOptions::default());
    let mut carried = gradients.clone();
    for (index, (leg, matrix)) in walk.legs.iter().zip(&legs).enumerate().rev() {
        let (LegFn::Same(response), LegFn::Same(decay)) = (&leg.response, &leg.decay) else { panic!("functions") };
        let responses: Vec<Vec<f64>> = carried.iter().map(|y| function(matrix, response, y)).collect();
        let mut place = 0;
        for layer in layers {
            let size = layer.parameters();
            let want: Vec<f64> = responses.iter().flat_map(|z| z[place..place + size].to_vec()).collect();
            let name = format!("{index}/{}", layer.name);
            assert_relative(&stored[0].values(&name), &want, 1e-9, &name);
            place += size;
        }
        carried = carried.iter().map(|y| function(matrix, decay, y)).collect();
    }
    let residuals = stored[0].values("ascribe.residuals");
    assert!(residuals.len() == rows && residuals.iter().all(|&residual| residual < 1e-9), "{residuals:?}");
    assert_eq!(done.file("scores.safetensors").values("residuals"), residuals);
    let few = case.run(|job| jointly(job, 1));
    let residuals = few.file("scores.safetensors").values("residuals");
    assert!(residuals.iter().all(|&residual| residual > 1e-3), "one product is not enough: {residuals:?}");
    Ok(())
}

/// Two legs with coordinates of their own, one of which left a layer as it was, with checkpoints of unequal weight and no
/// curvature beside the products.
#[test]
fn conditioned_and_frozen_legs_are_those_of_dense_matrices() -> Outcome {
    let fixture_data = open("mlp-tiny", DType::F64);
    let train = fixture_data.train.sample(14);
    let models =
        ["168", "336", "720"].map(|step| load(&fixture(&format!("mlp-trajectory/checkpoint-{step}")), DType::F64));
    let (layers, queries) = (models[2].layers(), &fixture_data.queries);
    let conditioner = |l: usize, phase: f64| {
        let p: Vec<f64> = (0..layers[l].parameters()).map(|k| 1.5 + (k as f64 * 0.9 + phase).sin()).collect();
        let h: Vec<f64> = p.iter().map(|p| p.sqrt()).collect();
        (Some(Conditioner::from_preconditioner(&layers[l], &p).expect("positive")), h)
    };
    let (first, first_h): (Vec<_>, Vec<_>) = (0..layers.len()).map(|l| conditioner(l, 0.3)).unzip();
    let (mut second, mut second_h): (Vec<_>, Vec<_>) = (0..layers.len()).map(|l| conditioner(l, 2.0)).unzip();
    second[1] = None;
    second_h[1].fill(0.0);
    let identity = Factors::identity(layers.len());
    let (scale, decay) = (6.0, 0.2);
    let leg = |conditioners, frozen| Leg {
        conditioners,
        frozen,
        buffer: Buffer::New,
        ..Leg::new(
            &identity,
            LegFn::Same(SpectralFn::Response { time: 1.0, scale, decay }),
            LegFn::Same(SpectralFn::Decay { time: 1.0, scale, decay }),
        )
    };
    let walk = Walk { legs: vec![leg(&first, vec![]), leg(&second, vec![1])] };
    let at = [vec![(&models[0], 1.0)], vec![(&models[1], 0.3), (&models[2], 0.7)]];
    let batched = Batched(&train, BATCH);
    let checkpoints = |leg: usize, visit: &mut Visit<'_, Model, Error>| {
        at[leg].iter().try_for_each(|(network, weight)| visit(*weight, &sweep(*network, &batched, Pass::Products)))
    };
    let of_queries = Batched(queries, BATCH);
    let mut gradients = MemoryVectors::<f64>::new(layers, 1, queries.len());
    let plain = Walk::gradients(&identity);
    let asked = sweep(&models[2], &of_queries, Pass::Queries);
    prepare_queries(&asked, Measurement::Margin, Reduction::Sum, Aggregate::Each, &[&plain], &mut gradients)?;
    let carry = |products: usize, form: VectorForm| {
        let carrying = Carrying { walk: &walk, layers, products, tangents: 1 << 12, widest: 16 };
        let mut found = MemoryVectors::<f64>::of_form(form, layers, 2, queries.len());
        let residuals = carry_queries(&carrying, &checkpoints, &gradients, 1..4, &mut found)?;
        Ok::<_, Error>((found, residuals))
    };
    let (found, residuals) = carry(ENOUGH, VectorForm::Full)?;
    let (response, decay) =
        (SpectralFn::Response { time: 1.0, scale, decay }, SpectralFn::Decay { time: 1.0, scale, decay });
    let h: [Vec<f64>; 2] = [first_h.concat(), second_h.concat()];
    let dense: Vec<Eigenpairs<f64>> = (0..2).map(|leg| matrix(&at[leg], &train, &h[leg])).collect();
    for query in 1..4 {
        let mut y = whole(&gradients, &models[2], 0, query);
        for leg in [1, 0] {
            let inside: Vec<f64> = y.iter().zip(&h[leg]).map(|(y, h)| y * h).collect();
            let answered = function(&dense[leg], &response, &inside);
            let want: Vec<f64> = answered.iter().zip(&h[leg]).map(|(z, h)| z * h).collect();
            let found = whole(&found, &models[2], leg, query);
            assert_relative(&found, &want, 1e-9, &format!("leg {leg}, query {query}"));
            assert!(residuals[leg][query - 1] < 1e-9, "{residuals:?}");
            let left = function(&dense[leg], &decay, &inside);
            let moved = y.iter().zip(&left).zip(&h[leg]);
            // a layer that was not trained passes
            y = moved.map(|((y, left), h)| if *h == 0.0 { *y } else { left / h }).collect();
        }
    }
    // factors of this rank would hold more numbers, so that vectors stay whole on their way through the basis
    let (low, full) = (carry(2, VectorForm::LowRank(64))?.0, carry(2, VectorForm::Full)?.0);
    for leg in 0..2 {
        assert_relative(&whole(&low, &models[2], leg, 2), &whole(&full, &models[2], leg, 2), 1e-12, "by its basis");
    }
    assert!(carry(0, VectorForm::Full).unwrap_err().to_string().contains("no product"));
    // momentum as a pair and rates by layer are no functions of one matrix
    let uneven = Walk { legs: vec![Leg { layer_rates: vec![1.0, 2.0, 1.0], ..leg(&first, vec![]) }] };
    let carrying = Carrying { walk: &uneven, layers, products: 2, tangents: 1 << 12, widest: 16 };
    let mut sink = MemoryVectors::<f64>::new(layers, 1, queries.len());
    let error = carry_queries(&carrying, &checkpoints, &gradients, 0..1, &mut sink).expect_err("rates by layer");
    assert!(error.to_string().contains("no function of one matrix"), "{error}");
    Ok(())
}

/// AdamW with a frozen block.
#[test]
fn a_job_carries_as_its_pieces_do() -> Outcome {
    assert_as_its_pieces(&Case::frozen())
}

/// Each stage has products of its own examples, and the second trains two of three layers.
#[test]
fn stages_have_products_of_their_own() -> Outcome {
    let folder = tempfile::tempdir()?;
    assert_as_its_pieces(&two_stages(folder.path()))
}

/// Few products, so that what is left over decays as EK-FAC says.
fn assert_as_its_pieces(case: &Case) -> Outcome {
    let by_hand = ByHand::new(case);
    let done = case.run(|job| jointly(job, 2));
    let stored = done.artifacts("queries");
    let walk = by_hand.walk(SourceOptions::default());
    let (layers, rows) = (by_hand.last.layers(), by_hand.queries.len());
    let plain = Factors::identity(layers.len());
    let gradients = by_hand.vectors(&by_hand.last, &Walk::gradients(&plain));
    let checkpoints = |leg: usize, visit: &mut Visit<'_, Model, Error>| {
        let examples = Batched(&by_hand.stages[by_hand.run.segments[leg].0], BATCH);
        let mut networks = by_hand.networks[leg].iter();
        networks.try_for_each(|(network, weight)| visit(*weight, &sweep(network, &examples, Pass::Products)))
    };
    let carrying = Carrying { walk: &walk, layers, products: 2, tangents: 1 << 20, widest: 16 };
    let mut found = MemoryVectors::<f64>::new(layers, walk.legs.len(), rows);
    let residuals = carry_queries(&carrying, &checkpoints, &gradients, 0..rows, &mut found)?;
    for leg in 0..walk.legs.len() {
        for (l, layer) in layers.iter().enumerate() {
            let name = format!("{leg}/{}", layer.name);
            let want = found.vectors(leg, LayerId(l))?.full().expect("whole").to_vec();
            match walk.legs[leg].frozen.contains(&l) {
                true => assert!(stored[0].values(&name).iter().chain(&want).all(|&x| x == 0.0), "{name}"),
                false => assert_relative(&stored[0].values(&name), &want, 1e-9, &name),
            }
        }
    }
    let largest = |query: usize| residuals.iter().map(|of_leg| of_leg[query]).fold(0.0, f64::max);
    let want: Vec<f64> = (0..rows).map(largest).collect();
    assert_relative(&stored[0].values("ascribe.residuals"), &want, 1e-9, "residuals");
    Ok(())
}

/// Influence beside Source is solved for jointly as well, as it is alone.
#[test]
fn influence_beside_it_is_that_of_a_job_of_its_own() -> Outcome {
    let case = Case::sgd();
    let damping = || Several(vec![DampingRequest::Value(Damping::Absolute(0.03))]);
    let done = case.run(|job| {
        jointly(job, ENOUGH);
        job.method.damping = damping();
        job.source.as_mut().expect("Source").with = vec![Beside::Tracin, Beside::Influence];
    });
    let folder = tempfile::tempdir()?;
    let mut job = Job::new(fixture("mlp-trajectory/checkpoint-720"), &case.stages[0].1, folder.path());
    job.data.queries = Some(case.queries.clone());
    job.model.dtype = ascribe::job::Precision::F64;
    jointly(&mut job, ENOUGH);
    job.method.damping = damping();
    crate::source::case::run(job);
    let alone = crate::support::recorded::Recorded::open(&folder.path().join("scores.safetensors"));
    assert_relative(&done.scores("influence"), &alone.values("scores"), 1e-6, "influence");
    let plain = case.run(|job| job.source.as_mut().expect("Source").with = vec![Beside::Tracin]);
    assert_relative(&done.scores("tracin"), &plain.scores("tracin"), 1e-9, "products of gradients are the same");
    Ok(())
}

/// A file of vectors that is lost is made again with the same bytes, and other choices have files of their own.
#[test]
fn joint_walks_go_on_after_a_stop_and_are_kept_apart() -> Outcome {
    let case = Case::sgd();
    let folder = tempfile::tempdir()?;
    let plan = |change: &dyn Fn(&mut Job)| {
        let mut job = case.job(folder.path());
        jointly(&mut job, 2);
        change(&mut job);
        Plan::resolve(job)
    };
    plan(&|_| ())?.run(&())?;
    let vectors = || -> std::io::Result<Vec<std::path::PathBuf>> {
        let entries = std::fs::read_dir(folder.path().join("artifacts"))?;
        let mut files: Vec<_> = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
        files.retain(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("queries-")));
        Ok(files)
    };
    let before = vectors()?;
    assert_eq!(before.len(), 1);
    let bytes = std::fs::read(&before[0])?;
    std::fs::remove_file(&before[0])?;
    plan(&|_| ())?.query(&())?;
    assert!(std::fs::read(&before[0])? == bytes);
    let changes: [&dyn Fn(&mut Job); 4] = [
        &|job| job.method.solve_iterations = Some(3),
        &|job| job.method.solve_examples = FitExamples::Count(20),
        &|job| job.method.solve_block = Some(1),
        &|job| (job.method.solve, job.method.solve_iterations) = (Solve::Ekfac, None),
    ];
    for (k, change) in changes.into_iter().enumerate() {
        let count = vectors()?.len();
        let _ = std::fs::remove_file(folder.path().join("scores.safetensors"));
        plan(change)?.query(&())?;
        assert_eq!(vectors()?.len(), count + 1, "change {k} made no vectors of its own");
    }
    Ok(())
}

#[test]
fn what_is_no_function_of_one_matrix_is_refused_before_work() -> Outcome {
    let folder = tempfile::tempdir()?;
    let refused = |case: &Case, change: &dyn Fn(&mut Job)| {
        let mut job = case.job(folder.path());
        jointly(&mut job, 2);
        change(&mut job);
        Plan::resolve(job).expect_err("refused").to_string()
    };
    let sgd = Case::sgd();
    let error = refused(&sgd, &|job| (job.method.solve, job.method.solve_iterations) = (Solve::Subspace, None));
    assert!(error.contains("is for influence"), "{error}");
    let error = refused(&sgd, &|job| job.source.as_mut().expect("Source").form = FormRequest::Product);
    assert!(error.contains("asks for single steps"), "{error}");
    assert!(refused(&sgd, &|job| job.method.self_influence = true).contains("`self_influence`"));
    let error = refused(&Case::grouped(), &|_| ());
    assert!(error.contains("learning rates of their own"), "{error}");
    assert!(std::fs::read_dir(folder.path())?.next().is_none(), "nothing is written");
    Ok(())
}
