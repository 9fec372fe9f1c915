//! Inverse-Hessian-vector products of some queries at one layer: whole matrices, or factors of low rank.

use ascribe_curvature::contraction::kept_rank;
use ascribe_curvature::gemm::{Real, Threads};
use ascribe_curvature::{LayerFactors, LayerSpec, LowRank, Norms, Truncation, Vectors, Whitening};
use rayon::prelude::*;

use crate::Error;
use crate::source::Conditioner;

/// In which form the vectors of queries are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum VectorForm {
    /// Vectors are whole, `[O, columns]` for each query, layer and leg.
    #[default]
    Full,
    /// Vectors are whole, and stay in the eigenbasis of their leg's curvature.
    InBasis,
    /// Vectors are factors of this rank, wherever these are smaller ([`kept_rank`]).
    LowRank(usize),
}

impl VectorForm {
    /// The rank at which a layer's vectors are kept; `None` if whole.
    pub fn rank_at(self, layer: &LayerSpec) -> Option<usize> {
        match self {
            Self::Full | Self::InBasis => None,
            Self::LowRank(rank) => kept_rank(rank, layer.outputs, layer.columns()),
        }
    }
}

/// One leg's inverse-Hessian-vector products with some queries at one layer.
#[derive(Debug, Clone)]
pub struct LegVectors<T> {
    numbers: Numbers<T>,
    /// For each query, in the norm of `docs/method.md`, Score; empty if vectors are kept whole everywhere.
    pub norms: Vec<Norms>,
}

#[derive(Debug, Clone)]
enum Numbers<T> {
    Full(Vec<T>),
    LowRank { rank: usize, left: Vec<T>, right: Vec<T> },
}

impl<T> LegVectors<T> {
    /// The vectors.
    pub fn vectors(&self) -> Vectors<'_, T> {
        match &self.numbers {
            Numbers::Full(vectors) => Vectors::Full(vectors),
            Numbers::LowRank { rank, left, right } => Vectors::LowRank(LowRank { rank: *rank, left, right }),
        }
    }
}

/// What a leg makes of the queries at one layer, before it leaves the leg's eigenbasis.
#[derive(Debug)]
pub(crate) struct LegProduct<'a, T> {
    /// `[Q, O, columns]` in the eigenbasis, not yet conditioned.
    pub vectors: Vec<T>,
    pub spec: &'a LayerSpec,
    /// `None` where the leg responds to nothing: zeros, in any basis.
    pub place: Option<(&'a LayerFactors<T>, Option<&'a Conditioner<T>>)>,
}

impl<'a, T: Real> LegProduct<'a, T> {
    /// Vectors in the standard basis, of a layer with this curvature.
    pub(crate) fn of_standard_basis(mut vectors: Vec<T>, spec: &'a LayerSpec, factors: &'a LayerFactors<T>) -> Self {
        factors.rotate(&mut vectors, spec);
        Self { vectors, spec, place: Some((factors, None)) }
    }

    /// `[Q, O, columns]` in the standard basis.
    pub(crate) fn full(self) -> Vec<T> {
        let Self { mut vectors, spec, place } = self;
        if let Some((factors, conditioner)) = place {
            factors.rotate_back(&mut vectors, spec);
            if let Some(conditioner) = conditioner {
                conditioner.multiply(&mut vectors);
            }
        }
        vectors
    }

    /// In the form that is asked for.
    pub(crate) fn into_form(self, form: VectorForm) -> Result<LegVectors<T>, Error> {
        if form == VectorForm::InBasis {
            return Ok(LegVectors { numbers: Numbers::Full(self.vectors), norms: vec![] });
        }
        if form == VectorForm::Full {
            return Ok(LegVectors { numbers: Numbers::Full(self.full()), norms: vec![] });
        }
        let spec = self.spec;
        let rank = form.rank_at(spec);
        let (o, i, queries) = (spec.outputs, spec.columns(), self.vectors.len() / spec.parameters());
        let Some((factors, conditioner)) = self.place else {
            let numbers = match rank {
                None => Numbers::Full(self.vectors),
                Some(rank) => {
                    let zeros = |n: usize| vec![T::of(0.0); queries * rank * n];
                    Numbers::LowRank { rank, left: zeros(o), right: zeros(i) }
                }
            };
            return Ok(LegVectors { numbers, norms: vec![Norms::default(); queries] });
        };
        // The factors' norm is that of plain gradients, whose covariances are the leg's with ρ and π taken off:
        // C_S = ρ⁻¹ U_S Λ_S^{1/2}, so Z is divided by ρ πᵀ before it is rotated, and the factors are multiplied after.
        let (inside, whole) = match (conditioner, rank) {
            (None, Some(_)) => (self.vectors, vec![]),
            (None, None) => (self.vectors.clone(), self.full()),
            (Some(conditioner), _) => {
                let mut inside = self.full();
                let whole = if rank.is_none() { inside.clone() } else { vec![] };
                conditioner.divide_by_rank_one(&mut inside);
                factors.rotate(&mut inside, spec);
                (inside, whole)
            }
        };
        let whitening = match &factors.basis {
            Some(basis) => Whitening::of_basis(basis),
            None => Whitening::plain(o, i),
        };
        let Some(rank) = rank else {
            let norm = |vector: &[T]| Norms::full(whitening.squared_norm(vector));
            let norms = inside.par_chunks_exact(o * i).map(norm).collect();
            return Ok(LegVectors { numbers: Numbers::Full(whole), norms });
        };
        let truncate = |vector: &[T], threads| Truncation::of(vector, &whitening, rank, &spec.name, threads);
        let found: Result<Vec<Truncation>, _> = match queries >= rayon::current_num_threads() {
            true => inside.par_chunks_exact(o * i).with_max_len(1).map(|v| truncate(v, Threads::One)).collect(),
            false => inside.chunks_exact(o * i).map(|v| truncate(v, Threads::Pool)).collect(),
        };
        let found = found?;
        let side = |side: fn(&Truncation) -> &[f64]| -> Vec<T> {
            found.iter().flat_map(|found| side(found).iter().map(|&x| T::of(x))).collect()
        };
        let (mut left, mut right) = (side(|found| &found.left), side(|found| &found.right));
        factors.rotate_factors_back(&mut left, &mut right);
        if let Some(conditioner) = conditioner {
            conditioner.multiply_factors(&mut left, &mut right);
        }
        let norms = found.into_iter().map(|found| found.norms).collect();
        Ok(LegVectors { numbers: Numbers::LowRank { rank, left, right }, norms })
    }
}

#[cfg(test)]
mod tests {
    use ascribe_curvature::{
        CurvatureKind, Eigenbasis, Eigenpairs, Factors, Matrix, Side, SpectralFn, SymmetricMatrix,
    };

    use super::*;
    use crate::walk::Start;
    use crate::{Leg, LegFn, Walk};

    const O: usize = 5;
    const I: usize = 7;

    fn wave(n: usize, step: f64) -> Vec<f64> {
        (0..n).map(|k| (k as f64 * step + 0.3).sin() - 0.1).collect()
    }

    /// A covariance of full rank.
    fn covariance(n: usize, step: f64) -> SymmetricMatrix {
        let x = wave(2 * n * n, step);
        let entry = |i: usize, j: usize| (0..2 * n).map(|r| x[r * n + i] * x[r * n + j]).sum::<f64>() / n as f64;
        SymmetricMatrix::from_fn(n, |i, j| entry(i, j) + if i == j { 0.3 } else { 0.0 })
    }

    fn pairs(matrix: &SymmetricMatrix) -> Eigenpairs<f64> {
        Eigenpairs::of(matrix, "fc", "input", Threads::One).expect("a covariance")
    }

    /// `tr(Sᵀ X A Yᵀ)`: what `E <X, G> <Y, G>` is for gradients of covariance `S ⊗ A`.
    fn inner(s: &SymmetricMatrix, a: &SymmetricMatrix, x: &[f64], y: &[f64]) -> f64 {
        let mut sum = 0.0;
        for (r, p) in (0..O * O).map(|k| (k / O, k % O)) {
            for (c, d) in (0..I * I).map(|k| (k / I, k % I)) {
                sum += s.at(r, p) * x[p * I + c] * a.at(c, d) * y[r * I + d];
            }
        }
        sum
    }

    /// The norm is that of plain gradients, with a preconditioned optimizer too, whose curvature is that of conditioned
    /// ones; what is lost is orthogonal to what is kept, and no other matrix of the rank found it nearer.
    #[test]
    fn norms_are_those_of_scores() -> Result<(), Error> {
        let spec =
            LayerSpec { name: "fc".into(), outputs: O, inputs: I, bias: false, input_group: 0, vocabulary: None };
        let (a, s) = (covariance(I, 0.9), covariance(O, 1.7));
        // of rank one, so that conditioned covariances are those of conditioned gradients
        let p: Vec<f64> = (0..O * I).map(|k| (1.0 + (k / I) as f64) * (0.2 + 0.1 * (k % I) as f64)).collect();
        let conditioner = Conditioner::from_preconditioner(&spec, &p)?;
        for conditioners in [vec![], vec![Some(conditioner)]] {
            let [turned_a, turned_s] = match conditioners.first().and_then(Option::as_ref) {
                None => [a.clone(), s.clone()],
                Some(conditioner) => {
                    [conditioner.covariance(&a, Side::Input, 0..I), conditioner.covariance(&s, Side::Output, 0..O)]
                }
            };
            let basis = Eigenbasis { output: pairs(&turned_s), input: pairs(&turned_a) };
            let lambda = Matrix::new(wave(O * I, 0.4).iter().map(|x| x * x).collect(), O, I);
            let layers = vec![LayerFactors::new(Some(basis), Some(lambda))];
            let factors = Factors { kind: CurvatureKind::Ekfac, layers };
            let f = || LegFn::Same(SpectralFn::Inverse { damping: 0.05 });
            let walk = Walk { legs: vec![Leg { conditioners: &conditioners, ..Leg::new(&factors, f(), f()) }] };
            let queries = wave(3 * O * I, 1.3);
            let of_form = |form: VectorForm| -> Result<LegVectors<f64>, Error> {
                let mut found = None;
                walk.products(0, &spec, Start::Gradients(queries.clone()), |_, product| {
                    found = Some(product.into_form(form)?);
                    Ok::<_, Error>(())
                })?;
                Ok(found.expect("one leg"))
            };
            let whole = of_form(VectorForm::Full)?;
            let whole = whole.vectors().full().expect("whole").to_vec();
            let mut before = 0.0;
            for rank in [1, 2] {
                let found = of_form(VectorForm::LowRank(rank))?;
                let Vectors::LowRank(LowRank { left, right, .. }) = found.vectors() else { panic!("rank {rank}") };
                for (q, z) in whole.chunks_exact(O * I).enumerate() {
                    let entry = |k: usize| {
                        (0..rank).map(|t| left[(q * rank + t) * O + k / I] * right[(q * rank + t) * I + k % I]).sum()
                    };
                    let low: Vec<f64> = (0..O * I).map(entry).collect();
                    let rest: Vec<f64> = z.iter().zip(&low).map(|(z, low)| z - low).collect();
                    let Norms { whole, kept } = found.norms[q];
                    // the ridge adds 1e-6 of the mean eigenvalues
                    let near = |found: f64, want: f64| assert!((found - want).abs() < 1e-5 * whole, "{found} {want}");
                    near(whole, inner(&s, &a, z, z));
                    near(kept, inner(&s, &a, &low, &low));
                    near(whole - kept, inner(&s, &a, &rest, &rest));
                    near(0.0, inner(&s, &a, &rest, &low));
                    assert!(found.norms[q].share() > 0.3 * rank as f64 / 5.0 && kept < whole);
                }
                let kept: f64 = found.norms.iter().map(|norms| norms.kept).sum();
                assert!(kept > before, "rank {rank}");
                before = kept;
            }
            // factors of rank 3 would hold 36 numbers, the vector holds 35
            let found = of_form(VectorForm::LowRank(3))?;
            assert_eq!(found.vectors().full(), Some(&whole[..]));
            assert!(found.norms.iter().all(|norms| norms.share() == 1.0 && norms.whole > 0.0));
        }
        Ok(())
    }

    #[test]
    fn a_frozen_layer_responds_to_nothing_at_any_rank() -> Result<(), Error> {
        let spec =
            LayerSpec { name: "fc".into(), outputs: O, inputs: I, bias: false, input_group: 0, vocabulary: None };
        let product = || LegProduct { vectors: vec![0.0f64; 2 * O * I], spec: &spec, place: None };
        assert!(product().into_form(VectorForm::Full)?.vectors().full().is_some());
        let low = product().into_form(VectorForm::LowRank(2))?;
        let Vectors::LowRank(LowRank { rank, left, right }) = low.vectors() else { panic!("low rank") };
        assert_eq!((rank, left, right), (2, &[0.0; 4 * O][..], &[0.0; 4 * I][..]));
        assert_eq!(low.norms, [Norms::default(); 2]);
        Ok(())
    }
}
