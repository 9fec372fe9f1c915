//! A chain of ops with hand-written backward passes, differentiated without candle's bookkeeping.
//!
//! candle's own pass sets every gradient to zero and then adds what arrives, three passes over memory for each op.
//! Here a gradient that arrives first is kept as it is, and nothing is computed that nobody asked for.

use std::cell::RefCell;
use std::rc::Rc;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, InplaceOp2, Layout, Result, Shape, Tensor, Var};
use rayon::prelude::*;

use crate::section::Seed;

/// Elements that one task adds.
const TASK: usize = 1 << 14;

/// Whether a gradient is needed at a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gradient {
    /// Yes.
    Wanted,
    /// No: nothing before it is differentiated.
    Unwanted,
}

/// Gradients on their way back, by place.
#[derive(Default)]
struct Gradients(Vec<Option<Tensor>>);

impl Gradients {
    /// Adds a gradient that others may hold as well.
    fn share(&mut self, place: usize, gradient: Tensor) -> Result<()> {
        let sum = match self.0[place].take() {
            Some(before) => (gradient + before)?,
            None => gradient,
        };
        self.0[place] = Some(sum);
        Ok(())
    }

    /// Adds a gradient that was made for this place: its memory takes the sum.
    fn give(&mut self, place: usize, gradient: Tensor) -> Result<()> {
        if let Some(before) = self.0[place].take() {
            if !matches!(gradient.dtype(), DType::F32 | DType::F64) || !gradient.device().is_cpu() {
                return self.share(place, (gradient + before)?);
            }
            gradient.inplace_op2(&before.contiguous()?, &Add)?;
        }
        self.0[place] = Some(gradient);
        Ok(())
    }
}

type Back = Box<dyn FnOnce(Tensor, &mut Gradients) -> Result<()>>;

/// The steps of one section, in order, each with the place of its output's gradient.
#[derive(Default)]
struct Steps {
    places: usize,
    steps: Vec<(usize, Back)>,
}

/// Records what is computed from its input, to go back through it once.
#[derive(Default)]
pub struct Tape {
    steps: Rc<RefCell<Steps>>,
}

impl std::fmt::Debug for Tape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tape[{} steps]", self.steps.borrow().steps.len())
    }
}

impl Tape {
    /// The value that everything on this tape is computed from.
    pub fn input(&self, value: Tensor, gradient: Gradient) -> Traced {
        let place = (gradient == Gradient::Wanted).then(|| self.place());
        Traced { value, tape: Some(Tape { steps: self.steps.clone() }), place }
    }

    fn place(&self) -> usize {
        let mut steps = self.steps.borrow_mut();
        steps.places += 1;
        steps.places - 1
    }

    fn push(&self, place: usize, back: Back) {
        self.steps.borrow_mut().steps.push((place, back));
    }

    /// Goes back from `output`, whose gradient is `gradient`, and returns the gradient at `input`, if it was wanted
    /// and something depends on it. What a step held is dropped as soon as it is done.
    ///
    /// # Errors
    /// If the backward pass of an op fails.
    pub fn backward(self, input: &Traced, output: &Traced, gradient: Tensor) -> Result<Option<Tensor>> {
        let Steps { places, mut steps } = std::mem::take(&mut *self.steps.borrow_mut());
        let mut gradients = Gradients(vec![None; places]);
        if let Some(place) = output.place {
            gradients.share(place, gradient)?;
        }
        while let Some((place, back)) = steps.pop() {
            if let Some(gradient) = gradients.0[place].take() {
                back(gradient, &mut gradients)?;
            }
        }
        Ok(input.place.and_then(|place| gradients.0[place].take()))
    }
}

/// A tensor that a [`Tape`] may know.
///
/// Ops given to [`Traced::op1`] and its like must return new memory from `bwd`: sums of gradients are formed there.
#[derive(Debug)]
pub struct Traced {
    value: Tensor,
    tape: Option<Tape>,
    place: Option<usize>,
}

impl Clone for Traced {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), tape: self.tape(), place: self.place }
    }
}

impl Traced {
    /// A value that is not differentiated.
    pub fn constant(value: Tensor) -> Self {
        Self { value, tape: None, place: None }
    }

    /// The tensor.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    fn tape(&self) -> Option<Tape> {
        self.tape.as_ref().map(|tape| Tape { steps: tape.steps.clone() })
    }

    /// A value computed from this one, whose gradient `back` takes further: to this place if one is given.
    pub(crate) fn then(
        &self,
        value: Tensor,
        back: impl FnOnce(Tensor, Gradient) -> Result<Option<Tensor>> + 'static,
        always: Gradient,
    ) -> Self {
        let Some(tape) = self.tape() else { return Self::constant(value) };
        let (wanted, from) = match self.place {
            Some(place) => (Gradient::Wanted, Some(place)),
            None if always == Gradient::Wanted => (Gradient::Unwanted, None),
            None => return Self { value, tape: Some(tape), place: None },
        };
        let place = tape.place();
        tape.push(
            place,
            Box::new(move |gradient, gradients| match (back(gradient, wanted)?, from) {
                (Some(gradient), Some(from)) => gradients.give(from, gradient),
                _ => Ok(()),
            }),
        );
        Self { value, tape: Some(tape), place: Some(place) }
    }

    /// One op of this value.
    ///
    /// # Errors
    /// If the op fails.
    pub fn op1(&self, op: impl CustomOp1 + 'static) -> Result<Self> {
        let x = self.value.contiguous()?;
        let y = x.apply_op1_no_bwd(&op)?;
        let value = y.clone();
        Ok(self.then(y, move |gradient, _| op.bwd(&x, &value, &gradient), Gradient::Unwanted))
    }

    /// One op of this value and another.
    ///
    /// # Errors
    /// If the op fails.
    pub fn op2(&self, other: &Self, op: impl CustomOp2 + 'static) -> Result<Self> {
        let (a, b) = (self.value.contiguous()?, other.value.contiguous()?);
        let y = a.apply_op2_no_bwd(&b, &op)?;
        let value = y.clone();
        Ok(joined([self, other], y, move |gradient| {
            let (a, b) = op.bwd(&a, &b, &value, &gradient)?;
            Ok([a, b])
        }))
    }

    /// One op of this value and two others.
    ///
    /// # Errors
    /// If the op fails.
    pub fn op3(&self, second: &Self, third: &Self, op: impl CustomOp3 + 'static) -> Result<Self> {
        let (a, b, c) = (self.value.contiguous()?, second.value.contiguous()?, third.value.contiguous()?);
        let y = a.apply_op3_no_bwd(&b, &c, &op)?;
        let value = y.clone();
        Ok(joined([self, second, third], y, move |gradient| {
            let (a, b, c) = op.bwd(&a, &b, &c, &value, &gradient)?;
            Ok([a, b, c])
        }))
    }

    /// What `f` builds of these values from candle's ops, differentiated by candle: for every type and device.
    ///
    /// # Errors
    /// If an op fails.
    pub fn composed<const N: usize>(
        inputs: [&Self; N],
        f: impl FnOnce([&Tensor; N]) -> Result<Tensor>,
    ) -> Result<Self> {
        if inputs.iter().all(|input| input.place.is_none()) {
            let tape = inputs.iter().find_map(|input| input.tape());
            return Ok(Self { value: f(inputs.map(|input| &input.value))?, tape, place: None });
        }
        let variables = inputs.map(|input| Var::from_tensor(&input.value.detach()));
        let mut leaves = Vec::with_capacity(N);
        for variable in variables {
            leaves.push(variable?.into_inner());
        }
        let y = f(std::array::from_fn(|k| &leaves[k]))?;
        let value = y.detach();
        Ok(joined(inputs, value, move |gradient| {
            let mut store = y.contiguous()?.apply_op1(Seed(gradient))?.backward()?;
            let mut found = [const { None }; N];
            for (found, leaf) in found.iter_mut().zip(&leaves) {
                // a copy: candle may return one tensor for several places
                *found = store.remove(leaf).map(|gradient| gradient.copy()).transpose()?;
            }
            Ok(found)
        }))
    }

    /// The sum with a value of the same shape.
    ///
    /// # Errors
    /// If the shapes differ.
    pub fn add(&self, other: &Self) -> Result<Self> {
        let (a, b) = (&self.value, &other.value);
        let fits = a.dims() == b.dims() && a.device().is_cpu() && matches!(a.dtype(), DType::F32 | DType::F64);
        let y = if fits { a.contiguous()?.apply_op2_no_bwd(&b.contiguous()?, &Add)? } else { (a + b)? };
        let Some(tape) = self.tape().or_else(|| other.tape()) else { return Ok(Self::constant(y)) };
        let to: Vec<usize> = [self.place, other.place].into_iter().flatten().collect();
        if to.is_empty() {
            return Ok(Self { value: y, tape: Some(tape), place: None });
        }
        let place = tape.place();
        let back = move |gradient: Tensor, gradients: &mut Gradients| {
            to.into_iter().try_for_each(|place| gradients.share(place, gradient.clone()))
        };
        tape.push(place, Box::new(back));
        Ok(Self { value: y, tape: Some(tape), place: Some(place) })
    }
}

/// A value computed from several, `back` giving the gradient at each.
fn joined<const N: usize>(
    from: [&Traced; N],
    value: Tensor,
    back: impl FnOnce(Tensor) -> Result<[Option<Tensor>; N]> + 'static,
) -> Traced {
    let Some(tape) = from.iter().find_map(|from| from.tape()) else { return Traced::constant(value) };
    let places = from.map(|from| from.place);
    if places.iter().all(Option::is_none) {
        return Traced { value, tape: Some(tape), place: None };
    }
    let place = tape.place();
    let back = move |gradient: Tensor, gradients: &mut Gradients| {
        for (place, gradient) in places.into_iter().zip(back(gradient)?) {
            if let (Some(place), Some(gradient)) = (place, gradient) {
                gradients.give(place, gradient)?;
            }
        }
        Ok(())
    };
    tape.push(place, Box::new(back));
    Traced { value, tape: Some(tape), place: Some(place) }
}

/// Sums of contiguous tensors of one shape, on rayon's threads as everything here.
struct Add;

fn slice<'a, T: candle_core::WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    crate::linear::contiguous(storage, layout)
}

impl CustomOp2 for Add {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout, b: &CpuStorage, lb: &Layout) -> Result<(CpuStorage, Shape)> {
        fn sum<T: crate::gemm::Real>(a: &[T], b: &[T]) -> Vec<T> {
            let mut y = a.to_vec();
            add(&mut y, b);
            y
        }
        let y = match a.dtype() {
            DType::F64 => CpuStorage::F64(sum(slice::<f64>(a, la)?, slice(b, lb)?)),
            _ => CpuStorage::F32(sum(slice::<f32>(a, la)?, slice(b, lb)?)),
        };
        Ok((y, la.shape().clone()))
    }
}

impl InplaceOp2 for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(&self, a: &mut CpuStorage, la: &Layout, b: &CpuStorage, lb: &Layout) -> Result<()> {
        let Some((start, end)) = la.contiguous_offsets() else {
            candle_core::bail!("expected a contiguous tensor, found strides {:?}", la.stride())
        };
        match a {
            CpuStorage::F32(a) => add(&mut a[start..end], slice::<f32>(b, lb)?),
            CpuStorage::F64(a) => add(&mut a[start..end], slice::<f64>(b, lb)?),
            other => candle_core::bail!("expected f32 or f64, found {:?}", other.dtype()),
        }
        Ok(())
    }
}

fn add<T: crate::gemm::Real>(y: &mut [T], x: &[T]) {
    y.par_chunks_mut(TASK).zip(x.par_chunks(TASK)).for_each(|(y, x)| {
        y.iter_mut().zip(x).for_each(|(y, x)| *y += *x);
    });
}
