//! Scores of chosen pairs of a query and a training example, where few of all pairs are wanted.

use std::collections::BTreeMap;
use std::ops::Range;

use ascribe_curvature::gemm::{Products, Real};
use ascribe_curvature::{Factors, GradientProducts, LayerSpec, Network, Objective, Positions, Tap, TapSink, Vectors};
use candle_core::{Device, Tensor};
use rayon::prelude::*;

use crate::{Error, QueryRows, Sweep};

/// Query vectors of which scores of pairs are made.
#[derive(Debug, Clone, Copy)]
pub struct PairRows<'a, T> {
    /// The vectors.
    pub rows: QueryRows<'a, T>,
    /// The curvature in whose eigenbasis they are ([`VectorForm::InBasis`](crate::VectorForm::InBasis)); none: vectors of
    /// the layers' own coordinates. Gradients are rotated once for all vectors of one curvature.
    pub basis: Option<&'a Factors<T>>,
}

/// Scores of every example of a sweep with the queries that it is wanted for: of example m, the entry of `wanted` with
/// its number has the queries. Each of `rows` has scores of its own, times its weight.
///
/// Returns for each example `[rows, queries]`, the queries in the order of its entry.
///
/// # Errors
/// [`Error::NonFiniteScore`]; the network's and those of the vectors' source, [`Error::Interrupted`].
///
/// # Source
/// `docs/method.md`, Score.
pub fn score_pairs<N: Network, T: Real>(
    sweep: &Sweep<'_, N>,
    rows: &[PairRows<'_, T>],
    wanted: &[Vec<usize>],
) -> Result<Vec<Vec<f64>>, Error> {
    let mut found: Vec<Vec<f64>> = wanted.iter().map(|queries| vec![0.0; rows.len() * queries.len()]).collect();
    let batch = |found: &mut Vec<Vec<f64>>, range: Range<usize>, batch: &N::Batch| {
        let wanted = &wanted[range.clone()];
        let mut of_query: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
        for (m, queries) in wanted.iter().enumerate() {
            for (place, &query) in queries.iter().enumerate() {
                of_query.entry(query).or_default().push((m, place));
            }
        }
        let mut sink = PairTaps {
            layers: sweep.network.layers(),
            products: sweep.network.products(),
            rows,
            wanted,
            of_query: of_query.into_iter().collect(),
            found: &mut found[range.clone()],
            failure: None,
        };
        let done = sweep.network.differentiate(batch, Objective::TrainingLoss, &mut sink);
        if let Some(failure) = sink.failure {
            return Err(failure);
        }
        done?;
        match found[range.clone()].iter().flatten().all(|score| score.is_finite()) {
            true => Ok(()),
            false => Err(Error::NonFiniteScore(range)),
        }
    };
    sweep.run(sweep.range.start, &mut found, batch, |_, _| Ok(()))?;
    Ok(found)
}

/// Adds up the wanted scores of a batch. `failure` holds the error of a source of vectors, which is returned after the
/// pass: a sink returns errors of the curvature crate alone.
struct PairTaps<'a, T> {
    layers: &'a [LayerSpec],
    products: Products,
    rows: &'a [PairRows<'a, T>],
    /// The queries of each example of the batch.
    wanted: &'a [Vec<usize>],
    /// For each query its examples, by their number in the batch, with its place among the example's queries.
    of_query: Vec<(usize, Vec<(usize, usize)>)>,
    /// For each example of the batch `[rows, queries]`.
    found: &'a mut [Vec<f64>],
    failure: Option<Error>,
}

impl<T: Real> PairTaps<'_, T> {
    /// Products of one tap whose rows are some of the batch's, in their order, with these vectors.
    fn multiply(
        &self,
        (tap, layer): (Tap<'_>, &LayerSpec),
        positions: &Positions,
        (input, output_gradient): (&Tensor, &Tensor),
        vectors: &[Vectors<'_, T>],
    ) -> Result<Vec<f64>, ascribe_curvature::Error> {
        let mut scores = vec![0.0; positions.examples() * vectors.len()];
        let tap = Tap { input, output_gradient, positions, ..tap };
        let mut products = GradientProducts::default().with_products(self.products);
        products.add_scores(tap, layer, vectors, &mut scores)?;
        Ok(scores)
    }

    /// Where every example has one row: for each query the products with its examples, `[examples, vectors]`.
    fn by_query(
        &self,
        (tap, layer): (Tap<'_>, &LayerSpec),
        vectors: &[Vectors<'_, T>],
    ) -> Result<Vec<Vec<f64>>, ascribe_curvature::Error> {
        let of = |(query, examples): &(usize, Vec<(usize, usize)>)| {
            let own: Vec<Vectors<'_, T>> = vectors.iter().map(|all| all.only(*query, layer)).collect();
            let rows: Vec<u32> = examples.iter().map(|(m, _)| *m as u32).collect();
            let rows = Tensor::new(rows, tap.input.device())?;
            let (input, s) = (tap.input.index_select(&rows, 0)?, tap.output_gradient.index_select(&rows, 0)?);
            self.multiply((tap, layer), &Positions::single(examples.len()), (&input, &s), &own)
        };
        self.of_query.par_iter().with_max_len(1).map(of).collect()
    }

    /// For each example the products with its queries, `[vectors, queries]`.
    fn by_example(
        &self,
        (tap, layer): (Tap<'_>, &LayerSpec),
        vectors: &[Vectors<'_, T>],
    ) -> Result<Vec<Vec<f64>>, ascribe_curvature::Error> {
        let of = |(m, queries): (usize, &Vec<usize>)| {
            let own = tap.positions.example(m);
            if own.is_empty() || queries.is_empty() {
                return Ok(vec![0.0; vectors.len() * queries.len()]);
            }
            let wanted = vectors.iter().flat_map(|all| queries.iter().map(|&query| all.only(query, layer)));
            let wanted: Vec<Vectors<'_, T>> = wanted.collect();
            let part = |all: &Tensor| all.narrow(0, own.start, own.len());
            let (input, s) = (part(tap.input)?, part(tap.output_gradient)?);
            self.multiply((tap, layer), &Positions::from_lengths([own.len()]), (&input, &s), &wanted)
        };
        self.wanted.par_iter().enumerate().with_max_len(1).map(of).collect()
    }

    /// Adds the products with the vectors of `places`, which have the coordinates of the tap.
    fn add(
        &mut self,
        (tap, layer): (Tap<'_>, &LayerSpec),
        places: &[usize],
        vectors: &[Vectors<'_, T>],
    ) -> Result<(), ascribe_curvature::Error> {
        // a query's vectors meet all its examples in one product, which reads them once; rows of long examples are many,
        // and their gradients are formed once for all queries instead
        if tap.positions.all_single() {
            let products = self.by_query((tap, layer), vectors)?;
            for ((_, examples), scores) in self.of_query.iter().zip(products) {
                for (&(m, own), scores) in examples.iter().zip(scores.chunks_exact(places.len().max(1))) {
                    let queries = self.wanted[m].len();
                    for (&k, score) in places.iter().zip(scores) {
                        self.found[m][k * queries + own] += self.rows[k].rows.weight * score;
                    }
                }
            }
        } else {
            let products = self.by_example((tap, layer), vectors)?;
            for ((found, scores), queries) in self.found.iter_mut().zip(products).zip(self.wanted) {
                for (&k, scores) in places.iter().zip(scores.chunks_exact(queries.len().max(1))) {
                    let sums = found[k * queries.len()..].iter_mut().zip(scores);
                    sums.for_each(|(sum, score)| *sum += self.rows[k].rows.weight * score);
                }
            }
        }
        Ok(())
    }
}

impl<T: Real> TapSink for PairTaps<'_, T> {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), ascribe_curvature::Error> {
        let (l, layer) = (tap.layer.0, &self.layers[tap.layer.0]);
        let rows = self.rows;
        let vectors =
            rows.iter().map(|of| of.rows.vectors.vectors(of.rows.leg, tap.layer)).collect::<Result<Vec<_>, _>>();
        let vectors = vectors.map_err(|error| {
            let message = error.to_string();
            self.failure = Some(error);
            ascribe_curvature::Error::Sink(message.into())
        })?;
        let is_same = |a: Option<&Factors<T>>, b: Option<&Factors<T>>| match (a, b) {
            (Some(a), Some(b)) => std::ptr::eq(a, b),
            (None, None) => true,
            _ => false,
        };
        let mut left: Vec<usize> = (0..rows.len()).collect();
        while let Some(&first) = left.first() {
            let basis = rows[first].basis;
            let places: Vec<usize> = left.iter().copied().filter(|&k| is_same(rows[k].basis, basis)).collect();
            left.retain(|k| !places.contains(k));
            let own: Vec<Vectors<'_, T>> = places.iter().map(|&k| vectors[k]).collect();
            let Some(factors) = basis else {
                self.add((tap, layer), &places, &own)?;
                continue;
            };
            let mut products = GradientProducts::default().with_products(self.products);
            let [inputs, outputs] = products.rows_in_basis(tap, layer, factors.layers[l].basis.as_ref())?;
            let count = tap.positions.rows();
            let inputs = Tensor::from_vec(inputs, (count, layer.columns()), &Device::Cpu)?;
            let outputs = Tensor::from_vec(outputs, (count, layer.outputs), &Device::Cpu)?;
            // the column of ones is one of the inputs there
            let turned = LayerSpec { inputs: layer.columns(), bias: false, ..layer.clone() };
            self.add((Tap { input: &inputs, output_gradient: &outputs, ..tap }, &turned), &places, &own)?;
            factors.layers[l].forget();
        }
        rows.iter().for_each(|of| of.rows.vectors.used(of.rows.leg, tap.layer));
        Ok(())
    }
}
