//! A linear layer on the tape, whose input and output gradient are what curvature is made of.

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Shape, Tensor};

use crate::error::Error;
use crate::linalg::gemm::{self, Products, Real, View};
use crate::network::layer::LayerId;
use crate::network::slices::{contiguous, with_slice};
use crate::network::tangent::Directions;
use crate::network::tap::{Positions, Tap, TapSink};
use crate::network::tape::{Gradient, Traced};

/// A linear layer `y = a Wᵀ + b` as one op.
///
/// Its backward returns the gradient of `a` alone, so autograd never forms a weight gradient. With a
/// [`TapRecorder`] it also leaves `(a, s)` there, `s` the gradient that arrived at `y`.
///
/// # Shapes
/// `weight: [O, inputs]`, `bias: [O]`, `a: [R, inputs]`, `y` and `s`: `[R, O]`.
/// # Source
/// `docs/method.md`, Gradients.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
    layer: Option<LayerId>,
    products: Products,
}

impl Linear {
    /// A layer with the given weights; `layer` is its number if it is tracked.
    ///
    /// # Errors
    /// If `bias` does not have the length O or the weights are not contiguous matrices.
    pub fn new(weight: Tensor, bias: Option<Tensor>, layer: Option<LayerId>) -> Result<Self, Error> {
        let (outputs, _) = weight.dims2()?;
        if let Some(bias) = &bias {
            bias.shape().dims1().and_then(|length| {
                if length == outputs {
                    Ok(())
                } else {
                    candle_core::bail!("bias of length {length} for {outputs} outputs")
                }
            })?;
        }
        let bias = bias.map(|bias| bias.contiguous()).transpose()?;
        Ok(Self { weight: weight.contiguous()?, bias, layer, products: Products::Exact })
    }

    /// The same layer with products in this arithmetic, forwards and backwards.
    #[must_use]
    pub fn with_products(self, products: Products) -> Self {
        Self { products, ..self }
    }

    /// `[R, inputs]` to `[R, O]` on the CPU.
    ///
    /// # Errors
    /// If shapes, data types or devices do not fit.
    pub fn forward(&self, a: &Tensor, taps: &TapRecorder) -> Result<Tensor, candle_core::Error> {
        a.contiguous()?.apply_op1(self.op(taps))
    }

    /// [`Linear::forward`] on a tape, and on every device. Where nobody wants the gradient at `a`, a tracked layer leaves its tap and the
    /// gradient is not computed.
    ///
    /// # Errors
    /// If shapes, data types or devices do not fit.
    pub fn trace(&self, a: &Traced, taps: &TapRecorder) -> Result<Traced, candle_core::Error> {
        let (op, input) = (self.op(taps), a.value().contiguous()?);
        let y = if input.device().is_cpu() { input.apply_op1_no_bwd(&op)? } else { op.composed(&input)? };
        let always = if self.layer.is_some() { Gradient::Wanted } else { Gradient::Unwanted };
        let tangents = self.tangents(a, &input, taps)?;
        a.then(y, move |s, wanted| op.back(&input, s, wanted), always).moving(tangents)
    }

    /// `W ȧ` and, where the layer is tracked and directions are asked for, `Ẇ a + ḃ`: `[Q · R, O]`.
    fn tangents(&self, a: &Traced, input: &Tensor, taps: &TapRecorder) -> Result<Option<Tensor>, candle_core::Error> {
        let own = self.moved(input, taps)?;
        let Some(tangents) = a.tangents() else { return Ok(own) };
        let carried = self.carried(&tangents.contiguous()?)?;
        match own {
            Some(own) => Ok(Some((own + carried)?)),
            None => Ok(Some(carried)),
        }
    }

    /// How the output moves with its input, `W ȧ`, on every device.
    pub(crate) fn carried(&self, tangents: &Tensor) -> candle_core::Result<Tensor> {
        Self { bias: None, layer: None, ..self.clone() }.product(tangents)
    }

    /// How the output moves with the layer's own weights, `Ẇ a + ḃ` for each direction, `[Q · R, O]`; none if the layer is
    /// not tracked or nothing moves.
    pub(crate) fn moved(&self, a: &Tensor, taps: &TapRecorder) -> candle_core::Result<Option<Tensor>> {
        match (self.layer, &taps.directions) {
            (Some(layer), Some(directions)) => directions.moved_outputs(layer, a, self.products).map(Some),
            _ => Ok(None),
        }
    }

    fn op(&self, taps: &TapRecorder) -> LinearOp {
        let recorder = self.layer.map(|layer| (layer, taps.clone()));
        LinearOp { recorder, ..self.untracked() }
    }

    fn untracked(&self) -> LinearOp {
        LinearOp { weight: self.weight.clone(), bias: self.bias.clone(), recorder: None, products: self.products }
    }

    /// The output alone, on every device.
    pub(crate) fn product(&self, a: &Tensor) -> candle_core::Result<Tensor> {
        let op = self.untracked();
        if a.device().is_cpu() { a.apply_op1_no_bwd(&op) } else { op.composed(a) }
    }

    /// The gradient at the input of one at the output: `s W`.
    pub(crate) fn input_gradient(&self, s: &Tensor) -> candle_core::Result<Tensor> {
        self.untracked().gradient(&s.contiguous()?)
    }

    /// The layer's number, if it is tracked.
    pub(crate) fn layer(&self) -> Option<LayerId> {
        self.layer
    }

    /// `W`, `[O, inputs]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }
}

impl Traced {
    /// This value, which parameters of a tracked layer have entered and `own` says how they move: on the way back the layer
    /// leaves the tap that `tap` makes of the gradients at the value, inputs and output gradients, and these go on as they
    /// are.
    pub(crate) fn entered(
        &self,
        layer: LayerId,
        own: Option<Tensor>,
        taps: &TapRecorder,
        tap: impl FnOnce(&Tensor) -> candle_core::Result<(Tensor, Tensor)> + 'static,
    ) -> candle_core::Result<Self> {
        let tangents = match (self.tangents(), own) {
            (Some(before), Some(own)) => Some((before + own)?),
            (before, own) => own.or_else(|| before.cloned()),
        };
        let recorder = taps.clone();
        let back = move |gradients: Tensor, wanted: Gradient| {
            let (inputs, received) = tap(&gradients)?;
            recorder.record(layer, inputs, received);
            Ok((wanted == Gradient::Wanted).then_some(gradients))
        };
        self.then(self.value().clone(), back, Gradient::Wanted).moving(tangents)
    }
}

/// Where the tapped layers of one section leave their inputs and output gradients during its backward
/// pass; [`TapRecorder::drain`] hands them on and forgets them.
#[derive(Debug, Clone, Default)]
pub struct TapRecorder {
    taps: Arc<Mutex<Vec<Recorded>>>,
    /// Whose the rows are of what is recorded here, where they are not the batch's.
    positions: Option<Arc<Positions>>,
    /// Along which tracked layers move in this pass.
    directions: Option<Directions>,
}

/// One layer's tap, until its section has been differentiated.
#[derive(Debug)]
struct Recorded {
    layer: LayerId,
    input: Tensor,
    output_gradient: Tensor,
    positions: Option<Arc<Positions>>,
}

impl TapRecorder {
    /// A recorder for a forward pass in which tracked layers move along directions: what they compute has tangents.
    pub fn along(directions: Directions) -> Self {
        Self { directions: Some(directions), ..Self::default() }
    }

    /// The directions along which tracked layers move, if they do.
    pub fn directions(&self) -> Option<&Directions> {
        self.directions.as_ref()
    }

    /// A recorder that leaves taps in the same place, for layers whose rows are not the batch's: an expert sees the tokens
    /// that are routed to it, a convolution has as many rows of an example as its output has places. Layers move along
    /// the same directions.
    #[must_use]
    pub fn at(&self, positions: &Arc<Positions>) -> Self {
        Self { positions: Some(positions.clone()), ..self.clone() }
    }

    /// Records one layer's `(a, s)`: for layers that are not [`Linear`] (a head that forms its own gradient).
    pub fn record(&self, layer: LayerId, input: Tensor, output_gradient: Tensor) {
        let recorded = Recorded { layer, input, output_gradient, positions: self.positions.clone() };
        self.taps.lock().expect("no code panics while it holds the lock").push(recorded);
    }

    /// Pushes what was recorded into `sink`, in the order of the backward pass. Rows are `positions`' unless the layer
    /// was recorded with its own ([`TapRecorder::at`]).
    ///
    /// # Errors
    /// The sink's.
    pub fn drain(&self, positions: &Positions, sink: &mut dyn TapSink) -> Result<(), Error> {
        for Recorded { layer, input, output_gradient, positions: own } in self.recorded() {
            let positions = own.as_deref().unwrap_or(positions);
            sink.tap(Tap { layer, input: &input, output_gradient: &output_gradient, positions })?;
        }
        Ok(())
    }

    /// What was recorded since the last call: layer, input, output gradient.
    #[cfg(test)]
    pub(crate) fn take(&self) -> Vec<(LayerId, Tensor, Tensor)> {
        self.recorded().into_iter().map(|tap| (tap.layer, tap.input, tap.output_gradient)).collect()
    }

    fn recorded(&self) -> Vec<Recorded> {
        std::mem::take(&mut *self.taps.lock().expect("no code panics while it holds the lock"))
    }
}

struct LinearOp {
    weight: Tensor,
    bias: Option<Tensor>,
    recorder: Option<(LayerId, TapRecorder)>,
    products: Products,
}

impl LinearOp {
    fn forward<T: Real>(&self, a: &[T]) -> candle_core::Result<Vec<T>> {
        let (outputs, inputs) = self.weight.dims2()?;
        let a = View::dense(a, a.len() / inputs, inputs).to(self.products);
        let product = |finish: &(dyn Fn(&mut [T]) + Sync)| {
            with_slice(&self.weight, |weight: &[T]| {
                gemm::rows_product(a, View::dense(weight, outputs, inputs).t(), finish)
            })
        };
        let Some(bias) = &self.bias else { return product(&|_| ()) };
        with_slice(bias, |bias: &[T]| {
            product(&|y| {
                for row in y.chunks_exact_mut(outputs) {
                    row.iter_mut().zip(bias).for_each(|(y, b)| *y += *b);
                }
            })
        })?
    }

    fn input_gradient<T: Real>(&self, s: &Tensor) -> candle_core::Result<Tensor> {
        let ((outputs, inputs), rows) = (self.weight.dims2()?, s.dim(0)?);
        let gradient = with_slice(s, |s: &[T]| {
            with_slice(&self.weight, |weight: &[T]| {
                let s = View::dense(s, rows, outputs).to(self.products);
                gemm::rows_product(s, View::dense(weight, outputs, inputs), |_| ())
            })
        })??;
        Tensor::from_vec(gradient, (rows, inputs), s.device())
    }

    /// The output from candle's own product: for every device.
    fn composed(&self, a: &Tensor) -> candle_core::Result<Tensor> {
        let y = a.matmul(&self.weight.t()?)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }

    /// `s W` on every device.
    fn gradient(&self, s: &Tensor) -> candle_core::Result<Tensor> {
        match s.dtype() {
            _ if !s.device().is_cpu() => s.matmul(&self.weight),
            DType::F64 => self.input_gradient::<f64>(s),
            _ => self.input_gradient::<f32>(s),
        }
    }

    /// Leaves the tap and returns the gradient at `a`, if it is wanted, from the one at the output.
    fn back(&self, a: &Tensor, s: Tensor, wanted: Gradient) -> candle_core::Result<Option<Tensor>> {
        let s = s.contiguous()?;
        let gradient = match wanted {
            Gradient::Unwanted => None,
            Gradient::Wanted => Some(self.gradient(&s)?),
        };
        if let Some((layer, recorder)) = &self.recorder {
            // not detached: layers that share an input are recognised by its identity
            recorder.record(*layer, a.clone(), s);
        }
        Ok(gradient)
    }
}

impl CustomOp1 for LinearOp {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (rows, inputs) = layout.shape().dims2()?;
        let (outputs, expected) = self.weight.dims2()?;
        if inputs != expected {
            candle_core::bail!("a linear layer of {expected} inputs got {inputs}");
        }
        use candle_core::backend::BackendStorage;
        let y = match storage.dtype() {
            DType::F32 => CpuStorage::F32(self.forward(contiguous::<f32>(storage, layout)?)?),
            DType::F64 => CpuStorage::F64(self.forward(contiguous::<f64>(storage, layout)?)?),
            other => candle_core::bail!("linear layers run in f32 or f64, not {other:?}"),
        };
        Ok((y, (rows, outputs).into()))
    }

    fn bwd(&self, a: &Tensor, _y: &Tensor, s: &Tensor) -> candle_core::Result<Option<Tensor>> {
        self.back(a, s.clone(), Gradient::Wanted)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    struct Collect(Vec<(LayerId, Vec<f64>, Vec<f64>)>);
    impl TapSink for Collect {
        fn tap(&mut self, tap: Tap<'_>) -> Result<(), Error> {
            let flat = |t: &Tensor| t.flatten_all()?.to_vec1::<f64>();
            self.0.push((tap.layer, flat(tap.input)?, flat(tap.output_gradient)?));
            Ok(())
        }
    }

    #[test]
    fn backward_gives_the_input_gradient_and_the_tap() -> Result<(), Error> {
        let device = Device::Cpu;
        let (w, b) = ([[0.5, -1.0, 2.0], [1.5, 0.25, -0.75]], [0.1, -0.2]);
        let layer = Linear::new(Tensor::new(&w, &device)?, Some(Tensor::new(&b, &device)?), Some(LayerId(4)))?;
        let a = Var::new(&[[1.0, 2.0, 3.0], [-1.0, 0.5, 0.0]], &device)?;
        let taps = TapRecorder::default();
        let y = layer.forward(&a, &taps)?;
        assert_eq!(y.to_vec2::<f64>()?, [[4.6, -0.45], [-0.9, -1.575]]);
        assert_eq!(layer.op(&taps).composed(&a)?.to_vec2::<f64>()?, y.to_vec2::<f64>()?);
        // objective Σ y², so s = 2 y and the input gradient is s W
        let gradients = y.sqr()?.sum_all()?.backward()?;
        let found = gradients.get(&a).expect("a is a variable").to_vec2::<f64>()?;
        let y = y.to_vec2::<f64>()?;
        for r in 0..2 {
            for i in 0..3 {
                let want: f64 = (0..2).map(|o| 2.0 * y[r][o] * w[o][i]).sum();
                assert!((found[r][i] - want).abs() < 1e-14);
            }
        }
        let mut collect = Collect(vec![]);
        taps.drain(&Positions::single(2), &mut collect)?;
        let s: Vec<f64> = y.iter().flatten().map(|y| 2.0 * y).collect();
        assert_eq!(collect.0, [(LayerId(4), vec![1.0, 2.0, 3.0, -1.0, 0.5, 0.0], s)]);
        Ok(())
    }
}
