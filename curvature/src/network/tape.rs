//! A chain of ops with hand-written backward passes, differentiated without candle's bookkeeping.
//!
//! candle's own pass sets every gradient to zero and then adds what arrives, three passes over memory for each op.
//! Here a gradient that arrives first is kept as it is, and nothing is computed that nobody asked for.

use std::cell::RefCell;
use std::rc::Rc;

use candle_core::{CustomOp1, CustomOp2, CustomOp3, Result, Tensor, Var};

use crate::network::addition::{Add, fits, scaled_columns, scaled_sum};
use crate::network::seed::seeded;
use crate::network::tangent::{self, TangentRule, direction, directions};

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
            if !fits(&gradient) {
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
        Traced { value, tape: Some(Tape { steps: self.steps.clone() }), place, tangents: None }
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
    /// and something depends on it. What a step held is dropped as soon as it is done. Several gradients may stand one
    /// below the other, `[Q · R, ...]`: so does what is returned, and so do the taps that layers leave.
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
    /// How the value moves along each of Q directions, `[Q · R, ...]`; none if it does not.
    tangents: Option<Tensor>,
}

impl Clone for Traced {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), tape: self.tape(), place: self.place, tangents: self.tangents.clone() }
    }
}

impl Traced {
    /// A value that is not differentiated.
    pub fn constant(value: Tensor) -> Self {
        Self { value, tape: None, place: None, tangents: None }
    }

    /// This value with its tangents along Q directions, one below the other, `[Q · R, ...]`. A value without rows, as an
    /// expert has that sees no token, does not move.
    ///
    /// # Errors
    /// If the tangents are no whole number of the value's shape.
    pub fn moving(self, tangents: Option<Tensor>) -> Result<Self> {
        let Some(tangents) = tangents else { return Ok(Self { tangents: None, ..self }) };
        if self.value.dim(0)? == 0 && tangents.dim(0)? == 0 {
            return Ok(Self { tangents: None, ..self });
        }
        directions(&self.value, &tangents)?;
        Ok(Self { tangents: Some(tangents), ..self })
    }

    /// How the value moves along each direction, `[Q · R, ...]`; none if it does not.
    pub fn tangents(&self) -> Option<&Tensor> {
        self.tangents.as_ref()
    }

    /// The tensor.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// Another value on this one's tape, at which no gradient is wanted: what layers read beside hidden states, and still
    /// leave their taps of.
    #[must_use]
    pub fn beside(&self, value: Tensor) -> Self {
        Self { value, tape: self.tape(), place: None, tangents: None }
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
            None => return Self { value, tape: Some(tape), place: None, tangents: None },
        };
        let place = tape.place();
        tape.push(
            place,
            Box::new(move |gradient, gradients| match (back(gradient, wanted)?, from) {
                (Some(gradient), Some(from)) => gradients.give(from, gradient),
                _ => Ok(()),
            }),
        );
        Self { value, tape: Some(tape), place: Some(place), tangents: None }
    }

    /// One op of this value, which refuses tangents.
    ///
    /// # Errors
    /// If the op fails, or the value moves.
    pub fn op1(&self, op: impl CustomOp1 + 'static) -> Result<Self> {
        self.op1_with(op, TangentRule::None)
    }

    /// One op of this value, and its rule for tangents.
    ///
    /// # Errors
    /// If the op or the rule fails.
    pub fn op1_with(&self, op: impl CustomOp1 + 'static, rule: TangentRule<'_, 1>) -> Result<Self> {
        let x = self.value.contiguous()?;
        let y = x.apply_op1_no_bwd(&op)?;
        let slopes = |ones: Tensor| Ok([op.bwd(&x, &y, &ones)?]);
        let is_elementwise = matches!(rule, TangentRule::Elementwise);
        let tangents = rule.apply(op.name(), [&x], [self.tangents()], &y, slopes)?;
        let value = y.clone();
        let back = move |gradient: Tensor, _| {
            let back = |gradient: &Tensor| Ok([op.bwd(&x, &value, gradient)?]);
            let [found] = match is_elementwise {
                true => each_place(&value, &gradient, back)?,
                false => each(&value, &gradient, back)?,
            };
            Ok(found)
        };
        self.then(y, back, Gradient::Unwanted).moving(tangents)
    }

    /// One op of this value and another, which refuses tangents.
    ///
    /// # Errors
    /// If the op fails, or a value moves.
    pub fn op2(&self, other: &Self, op: impl CustomOp2 + 'static) -> Result<Self> {
        self.op2_with(other, op, TangentRule::None)
    }

    /// One op of this value and another, and its rule for tangents.
    ///
    /// # Errors
    /// If the op or the rule fails.
    pub fn op2_with(&self, other: &Self, op: impl CustomOp2 + 'static, rule: TangentRule<'_, 2>) -> Result<Self> {
        let (a, b) = (self.value.contiguous()?, other.value.contiguous()?);
        let y = a.apply_op2_no_bwd(&b, &op)?;
        let slopes = |ones: Tensor| op.bwd(&a, &b, &y, &ones).map(|(a, b)| [a, b]);
        let is_elementwise = matches!(rule, TangentRule::Elementwise);
        let tangents = rule.apply(op.name(), [&a, &b], [self, other].map(Self::tangents), &y, slopes)?;
        let value = y.clone();
        joined([self, other], y, move |gradient| {
            let back = |gradient: &Tensor| op.bwd(&a, &b, &value, gradient).map(|(a, b)| [a, b]);
            match is_elementwise {
                true => each_place(&value, &gradient, back),
                false => each(&value, &gradient, back),
            }
        })
        .moving(tangents)
    }

    /// One op of this value and two others, which refuses tangents.
    ///
    /// # Errors
    /// If the op fails, or a value moves.
    pub fn op3(&self, second: &Self, third: &Self, op: impl CustomOp3 + 'static) -> Result<Self> {
        self.op3_with(second, third, op, TangentRule::None)
    }

    /// One op of this value and two others, and its rule for tangents.
    ///
    /// # Errors
    /// If the op or the rule fails.
    pub fn op3_with(
        &self,
        second: &Self,
        third: &Self,
        op: impl CustomOp3 + 'static,
        rule: TangentRule<'_, 3>,
    ) -> Result<Self> {
        let (a, b, c) = (self.value.contiguous()?, second.value.contiguous()?, third.value.contiguous()?);
        let y = a.apply_op3_no_bwd(&b, &c, &op)?;
        let slopes = |ones: Tensor| op.bwd(&a, &b, &c, &y, &ones).map(|(a, b, c)| [a, b, c]);
        let tangents = rule.apply(op.name(), [&a, &b, &c], [self, second, third].map(Self::tangents), &y, slopes)?;
        let value = y.clone();
        joined([self, second, third], y, move |gradient| {
            each(&value, &gradient, |gradient| op.bwd(&a, &b, &c, &value, gradient).map(|(a, b, c)| [a, b, c]))
        })
        .moving(tangents)
    }

    /// What `f` builds of these values from candle's ops, differentiated by candle: for every type and device. It
    /// refuses tangents.
    ///
    /// # Errors
    /// If an op fails, or a value moves.
    pub fn composed<const N: usize>(inputs: [&Self; N], f: impl Fn([&Tensor; N]) -> Result<Tensor>) -> Result<Self> {
        Self::composed_with(inputs, f, TangentRule::None)
    }

    /// [`Traced::composed`], and its rule for tangents.
    ///
    /// # Errors
    /// If an op or the rule fails.
    pub fn composed_with<const N: usize>(
        inputs: [&Self; N],
        f: impl Fn([&Tensor; N]) -> Result<Tensor>,
        rule: TangentRule<'_, N>,
    ) -> Result<Self> {
        let differentiable = || -> Result<([Tensor; N], Tensor)> {
            let mut leaves = Vec::with_capacity(N);
            for input in inputs {
                leaves.push(Var::from_tensor(&input.value.detach())?.into_inner());
            }
            let y = f(std::array::from_fn(|k| &leaves[k]))?;
            Ok((std::array::from_fn(|k| leaves[k].clone()), y))
        };
        let back = |leaves: &[Tensor; N], y: &Tensor, gradient: &Tensor| -> Result<[Option<Tensor>; N]> {
            let mut store = seeded(y, gradient.clone())?.backward()?;
            let mut found = [const { None }; N];
            for (found, leaf) in found.iter_mut().zip(leaves) {
                // a copy: candle may return one tensor for several places
                *found = store.remove(leaf).map(|gradient| gradient.copy()).transpose()?;
            }
            Ok(found)
        };
        let tangents = |output: &Tensor| {
            let slopes = |ones: Tensor| differentiable().and_then(|(leaves, y)| back(&leaves, &y, &ones));
            let tangents = inputs.map(Self::tangents);
            rule.apply("composed", inputs.map(|input| &input.value), tangents, output, slopes)
        };
        if inputs.iter().all(|input| input.place.is_none()) {
            let tape = inputs.iter().find_map(|input| input.tape());
            let value = f(inputs.map(|input| &input.value))?;
            let tangents = tangents(&value)?;
            return Self { value, tape, place: None, tangents: None }.moving(tangents);
        }
        let (leaves, y) = differentiable()?;
        let value = y.detach();
        let tangents = tangents(&value)?;
        joined(inputs, value, move |gradient| each(&y, &gradient, |gradient| back(&leaves, &y, gradient)))
            .moving(tangents)
    }

    /// What a linear map, built from candle's ops, makes of this value: for every type and device. It moves as the value
    /// does, so it takes one direction's tangents as it takes the value.
    ///
    /// # Errors
    /// If an op fails.
    pub fn linear_map(&self, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        Self::composed_with([self], |[x]| f(x), TangentRule::Each(&|_, [moving]| f(moving)))
    }

    /// What `f` makes of each of consecutive groups of rows, one under the other: experts that see rows of their own.
    /// `f` gets the group's number and its rows, of which there may be none.
    ///
    /// Every group is recorded on a tape of its own, so that gradients of rows meet once, whatever the number of groups.
    /// Of tangents, and of several gradients one below the other, a group gets its own rows of each, one below the other.
    ///
    /// # Errors
    /// If `lengths` do not add up to the rows, or `f` fails.
    pub fn in_groups(&self, lengths: &[usize], mut f: impl FnMut(usize, &Self) -> Result<Self>) -> Result<Self> {
        if lengths.iter().sum::<usize>() != self.value.dim(0)? {
            candle_core::bail!("groups of {lengths:?} rows of {:?}", self.value.dims());
        }
        let wanted = if self.place.is_some() { Gradient::Wanted } else { Gradient::Unwanted };
        let count = self.tangents.as_ref().map(|tangents| directions(&self.value, tangents)).transpose()?;
        let (mut groups, mut values, mut tangents) = (Vec::with_capacity(lengths.len()), vec![], vec![]);
        let mut start = 0;
        for (group, &length) in lengths.iter().enumerate() {
            let rows = self.value.narrow(0, start, length)?.contiguous()?;
            let moving = match (&self.tangents, count) {
                (Some(tangents), Some(count)) => Some(rows_of_each(tangents, count, start, length)?),
                _ => None,
            };
            start += length;
            let (tape, input) = match &self.tape {
                Some(_) => {
                    let tape = Tape::default();
                    let input = tape.input(rows, wanted);
                    (Some(tape), input)
                }
                None => (None, Self::constant(rows)),
            };
            let input = input.moving(moving)?;
            let output = f(group, &input)?;
            values.push(output.value.clone());
            tangents.push(output.tangents.clone());
            groups.push((tape, input, output, length));
        }
        let value = stacked(&values)?;
        let tangents = moving_groups(&values, tangents)?;
        let rows = value.dim(0)?;
        let back = move |gradient: Tensor, wanted| {
            let count = match gradient.dim(0)? {
                found if found == rows => 1,
                found if rows > 0 && found.is_multiple_of(rows) => found / rows,
                found => candle_core::bail!("gradients of {found} rows for groups of {rows} rows together"),
            };
            let (mut start, mut found) = (0, vec![]);
            for (tape, input, output, length) in groups {
                let own = rows_of_each(&gradient, count, start, length)?;
                start += length;
                let Some(tape) = tape else { continue };
                match (tape.backward(&input, &output, own)?, wanted) {
                    (Some(own), _) => found.push(own),
                    (None, Gradient::Wanted) => found.push(none_of_each(&input.value, count)?),
                    (None, Gradient::Unwanted) => {}
                }
            }
            if wanted == Gradient::Wanted { stacked_by_each(&found, count).map(Some) } else { Ok(None) }
        };
        self.then(value, back, Gradient::Wanted).moving(tangents)
    }

    /// The sum with a value of the same shape.
    ///
    /// # Errors
    /// If the shapes differ.
    pub fn add(&self, other: &Self) -> Result<Self> {
        let (a, b) = (&self.value, &other.value);
        let own = a.dims() == b.dims() && a.dtype() == b.dtype() && fits(a) && fits(b);
        let y = if own { a.contiguous()?.apply_op2_no_bwd(&b.contiguous()?, &Add)? } else { (a + b)? };
        let tangents = match (&self.tangents, &other.tangents) {
            (Some(a), Some(b)) => Some((a + b)?),
            (one, other) => one.clone().or_else(|| other.clone()),
        };
        let Some(tape) = self.tape().or_else(|| other.tape()) else { return Self::constant(y).moving(tangents) };
        let to: Vec<usize> = [self.place, other.place].into_iter().flatten().collect();
        if to.is_empty() {
            return Ok(Self { value: y, tape: Some(tape), place: None, tangents });
        }
        let place = tape.place();
        let back = move |gradient: Tensor, gradients: &mut Gradients| {
            to.into_iter().try_for_each(|place| gradients.share(place, gradient.clone()))
        };
        tape.push(place, Box::new(back));
        Ok(Self { value: y, tape: Some(tape), place: Some(place), tangents })
    }

    /// The sum with a value whose columns are multiplied by constants: `self + other ∘ factors`.
    ///
    /// # Shapes
    /// Both values `[R, O]`; `factors`: `[O]`.
    /// # Errors
    /// If shapes, types or devices do not fit.
    pub fn add_scaled(&self, other: &Self, factors: &Tensor) -> Result<Self> {
        let y = scaled_sum(&self.value, &other.value, factors)?;
        let scaled = other.tangents.as_ref().map(|tangents| scaled_columns(tangents, factors)).transpose()?;
        let tangents = match (&self.tangents, scaled) {
            (Some(a), Some(b)) => Some((a + b)?),
            (one, other) => one.clone().or(other),
        };
        let Some(tape) = self.tape().or_else(|| other.tape()) else { return Self::constant(y).moving(tangents) };
        let (to, scaled) = (self.place, other.place);
        if to.is_none() && scaled.is_none() {
            return Ok(Self { value: y, tape: Some(tape), place: None, tangents });
        }
        let (place, factors) = (tape.place(), factors.clone());
        let back = move |gradient: Tensor, gradients: &mut Gradients| {
            if let Some(scaled) = scaled {
                gradients.give(scaled, scaled_columns(&gradient, &factors)?)?;
            }
            to.map_or(Ok(()), |to| gradients.share(to, gradient))
        };
        tape.push(place, Box::new(back));
        Ok(Self { value: y, tape: Some(tape), place: Some(place), tangents })
    }
}

/// Matrices one under the other, in new memory; those without rows take no part.
fn stacked(parts: &[Tensor]) -> Result<Tensor> {
    let with_rows: Vec<&Tensor> = parts.iter().filter(|part| part.elem_count() > 0).collect();
    match (with_rows.as_slice(), parts.first()) {
        ([], Some(part)) => Ok(part.clone()),
        ([one], _) => one.copy(),
        (several, _) => Tensor::cat(several, 0),
    }
}

/// Rows `start..start + length` of each of `count` matrices that stand one below the other, again one below the other.
fn rows_of_each(matrices: &Tensor, count: usize, start: usize, length: usize) -> Result<Tensor> {
    if count == 1 {
        return matrices.narrow(0, start, length)?.contiguous();
    }
    tangent::stacked(matrices, count)?.narrow(1, start, length)?.contiguous()?.flatten(0, 1)
}

/// Zeros in place of `count` matrices like this one, one below the other.
fn none_of_each(like: &Tensor, count: usize) -> Result<Tensor> {
    let mut shape = like.dims().to_vec();
    shape[0] *= count;
    Tensor::zeros(shape, like.dtype(), like.device())
}

/// The inverse of [`rows_of_each`]: groups of rows of `count` matrices, put under one another in each matrix.
fn stacked_by_each(groups: &[Tensor], count: usize) -> Result<Tensor> {
    let with_rows: Vec<&Tensor> = groups.iter().filter(|group| group.elem_count() > 0).collect();
    if count == 1 || with_rows.len() < 2 {
        return stacked(groups);
    }
    let apart = with_rows.iter().map(|group| tangent::stacked(group, count)).collect::<Result<Vec<_>>>()?;
    Tensor::cat(&apart, 1)?.contiguous()?.flatten(0, 1)
}

/// The tangents of values one under the other, some of which may not move; none if none does.
fn moving_groups(values: &[Tensor], tangents: Vec<Option<Tensor>>) -> Result<Option<Tensor>> {
    let moving = values.iter().zip(&tangents).find_map(|(value, tangents)| Some((value, tangents.as_ref()?)));
    let Some((value, first)) = moving else { return Ok(None) };
    let count = directions(value, first)?;
    let all = values.iter().zip(tangents).map(|(value, tangents)| match tangents {
        Some(tangents) => Ok(tangents),
        None => none_of_each(value, count),
    });
    stacked_by_each(&all.collect::<Result<Vec<_>>>()?, count).map(Some)
}

/// How many gradients at an output stand one below the other.
fn gradients(output: &Tensor, gradient: &Tensor) -> Result<usize> {
    if output.dims() == gradient.dims() { Ok(1) } else { directions(output, gradient) }
}

/// The gradients at the inputs of an op for every gradient at its output, where several stand one below the other.
fn each<const N: usize>(
    output: &Tensor,
    gradient: &Tensor,
    back: impl Fn(&Tensor) -> Result<[Option<Tensor>; N]>,
) -> Result<[Option<Tensor>; N]> {
    let count = gradients(output, gradient)?;
    if count == 1 {
        return back(gradient);
    }
    let mut found: [Vec<Tensor>; N] = std::array::from_fn(|_| Vec::with_capacity(count));
    for q in 0..count {
        for (found, gradient) in found.iter_mut().zip(back(&direction(gradient, count, q)?.contiguous()?)?) {
            found.extend(gradient);
        }
    }
    let mut joined = [const { None }; N];
    for (joined, found) in joined.iter_mut().zip(found) {
        if !found.is_empty() {
            *joined = Some(Tensor::cat(&found, 0)?);
        }
    }
    Ok(joined)
}

/// [`each`] where a gradient at an input depends on the one at the output at its own place alone: slopes are computed
/// once for all of them.
fn each_place<const N: usize>(
    output: &Tensor,
    gradient: &Tensor,
    back: impl Fn(&Tensor) -> Result<[Option<Tensor>; N]>,
) -> Result<[Option<Tensor>; N]> {
    let count = gradients(output, gradient)?;
    if count == 1 {
        return back(gradient);
    }
    let mut found = back(&output.ones_like()?)?;
    for slopes in found.iter_mut().filter_map(Option::as_mut) {
        *slopes = tangent::stacked(gradient, count)?.broadcast_mul(slopes)?.reshape(gradient.shape())?;
    }
    Ok(found)
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
        return Traced { value, tape: Some(tape), place: None, tangents: None };
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
    Traced { value, tape: Some(tape), place: Some(place), tangents: None }
}

#[cfg(test)]
mod tests {
    use candle_core::{CpuStorage, Device, Layout, Shape};

    use super::*;
    use crate::network::layer::LayerId;
    use crate::network::linear::{Linear, TapRecorder};

    struct Square;

    impl CustomOp1 for Square {
        fn name(&self) -> &'static str {
            "square"
        }
        fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
            let y = crate::network::slices::contiguous::<f64>(x, layout)?.iter().map(|x| x * x).collect();
            Ok((CpuStorage::F64(y), layout.shape().clone()))
        }
        fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
            ((x * gradient)? * 2.0).map(Some)
        }
    }

    fn numbers(n: usize) -> Result<Tensor> {
        Tensor::from_vec((0..n).map(|k| (k as f64 * 0.7).sin()).collect(), (n / 2, 2), &Device::Cpu)
    }

    /// `y = x + x² + tanh(x) · x²`, with `x²` and `x` each read more than once.
    fn chain(x: &Traced) -> Result<Traced> {
        let square = x.op1(Square)?;
        let product = Traced::composed([x, &square], |[x, square]| x.tanh()? * square)?;
        x.add(&square)?.add(&product)
    }

    #[test]
    fn gradients_add_up_wherever_a_value_is_read_twice() -> Result<()> {
        let (x, seed) = (numbers(6)?, numbers(6)?.affine(0.5, 0.3)?);
        let tape = Tape::default();
        let input = tape.input(x.clone(), Gradient::Wanted);
        let output = chain(&input)?;
        let kept = seed.copy()?;
        let found = tape.backward(&input, &output, seed.clone())?.expect("the output depends on the input");
        let (x, seed, y) = (x.flatten_all()?, seed.flatten_all()?, output.value().flatten_all()?.to_vec1::<f64>()?);
        let (x, seed, found) = (x.to_vec1::<f64>()?, seed.to_vec1::<f64>()?, found.flatten_all()?.to_vec1::<f64>()?);
        for k in 0..6 {
            let (x, t) = (x[k], x[k].tanh());
            assert!((y[k] - (x + x * x + t * x * x)).abs() < 1e-15);
            let slope = 1.0 + 2.0 * x + (1.0 - t * t) * x * x + 2.0 * t * x;
            assert!((found[k] - seed[k] * slope).abs() < 1e-15, "[{k}]");
        }
        // the caller's gradient is read, never written
        assert_eq!(kept.flatten_all()?.to_vec1::<f64>()?, seed);
        Ok(())
    }

    #[test]
    fn a_layer_leaves_its_tap_where_nobody_wants_its_input_gradient() -> Result<()> {
        let weight = Tensor::new(&[[0.5, -1.0], [2.0, 0.25], [0.1, 0.3]], &Device::Cpu)?;
        let layer = |id| Linear::new(weight.clone(), None, Some(LayerId(id))).expect("a matrix");
        let back = Linear::new(weight.t()?.contiguous()?, None, None).expect("a matrix");
        type Rows = Vec<Vec<f64>>;
        let run = |wanted| -> Result<(Option<Rows>, Rows)> {
            let (tape, taps) = (Tape::default(), TapRecorder::default());
            let input = tape.input(numbers(4)?, wanted);
            let output = back.trace(&layer(3).trace(&input, &taps)?.op1(Square)?, &taps)?;
            let found = tape.backward(&input, &output, numbers(4)?)?;
            let mut taps = taps.take();
            let (id, a, s) = taps.pop().expect("one tracked layer");
            assert_eq!((id, a.id(), taps.len()), (LayerId(3), input.value().id(), 0));
            Ok((found.map(|found| found.to_vec2()).transpose()?, s.to_vec2()?))
        };
        let (found, tap) = run(Gradient::Wanted)?;
        let (nothing, same) = run(Gradient::Unwanted)?;
        assert_eq!((nothing, &same), (None, &tap));
        for (found, tap) in found.expect("wanted").iter().zip(&tap) {
            let weight = weight.to_vec2::<f64>()?;
            for i in 0..2 {
                let want: f64 = (0..3).map(|o| tap[o] * weight[o][i]).sum();
                assert!((found[i] - want).abs() < 1e-15);
            }
        }
        Ok(())
    }

    /// Three layers that see rows of their own, one of them none: the values, the gradient at the rows and the taps are
    /// those of each layer by itself.
    #[test]
    fn groups_of_rows_are_differentiated_each_by_itself() -> Result<()> {
        let weights = [[[0.5, -1.0]], [[2.0, 0.25]], [[0.1, 0.3]]];
        let layer = |l: usize| {
            let weight = Tensor::new(&weights[l], &Device::Cpu).expect("a matrix");
            Linear::new(weight, None, Some(LayerId(l))).expect("a matrix")
        };
        let (x, lengths) = (numbers(10)?, [2, 0, 3]);
        for wanted in [Gradient::Wanted, Gradient::Unwanted] {
            let (tape, taps) = (Tape::default(), TapRecorder::default());
            let input = tape.input(x.clone(), wanted);
            let output = input.in_groups(&lengths, |l, rows| layer(l).trace(rows, &taps)?.op1(Square))?;
            let seed = Tensor::from_vec((0..5).map(|t| 1.0 + t as f64).collect(), (5, 1), &Device::Cpu)?;
            let found = tape.backward(&input, &output, seed)?.map(|found| found.to_vec2::<f64>()).transpose()?;
            let (rows, y) = (x.to_vec2::<f64>()?, output.value().to_vec2::<f64>()?);
            assert_eq!(found.is_some(), wanted == Gradient::Wanted);
            for t in 0..5 {
                let w = weights[if t < 2 { 0 } else { 2 }][0];
                let z = w[0] * rows[t][0] + w[1] * rows[t][1];
                assert!((y[t][0] - z * z).abs() < 1e-15);
                for i in 0..2 {
                    let want = (1.0 + t as f64) * 2.0 * z * w[i];
                    assert!(found.as_ref().is_none_or(|found| (found[t][i] - want).abs() < 1e-14), "[{t}, {i}]");
                }
            }
            let mut sizes: Vec<_> = taps.take().iter().map(|(l, a, s)| (l.0, a.dims()[0], s.dims()[0])).collect();
            sizes.sort_unstable();
            assert_eq!(sizes, [(0, 2, 2), (1, 0, 0), (2, 3, 3)]);
        }
        let constant =
            Traced::constant(x).in_groups(&lengths, |l, rows| layer(l).trace(rows, &TapRecorder::default()))?;
        assert_eq!((constant.value().dims(), constant.place), (&[5, 1][..], None));
        Ok(())
    }

    /// A group's tangents and gradients of several directions are those of each direction by itself; a group without rows
    /// has none, and one whose output stays moves by nothing.
    #[test]
    fn groups_move_along_several_directions_and_take_several_gradients() -> Result<()> {
        let lengths = [2, 0, 3, 1];
        // elementwise, with a constant for the last group
        let f = |l: usize, x: &Traced| match l {
            3 => Ok(Traced::constant(x.value().affine(2.0, 0.5)?)),
            _ => {
                let square = x.op1_with(Square, TangentRule::Elementwise)?;
                square.add_scaled(x, &Tensor::new(&[l as f64, -0.5], &Device::Cpu)?)
            }
        };
        let (x, v, u) = (numbers(12)?, numbers(24)?, numbers(24)?.affine(0.3, 0.1)?);
        let slope = |t: usize, i: usize, x: f64| match t {
            5 => 0.0,
            _ => {
                2.0 * x
                    + if i == 1 {
                        -0.5
                    } else if t < 2 {
                        0.0
                    } else {
                        2.0
                    }
            }
        };
        let slopes: Vec<Vec<f64>> = x
            .to_vec2::<f64>()?
            .into_iter()
            .enumerate()
            .map(|(t, row)| row.into_iter().enumerate().map(|(i, x)| slope(t, i, x)).collect())
            .collect();
        let check = |found: &Tensor, factors: &Tensor| -> Result<()> {
            assert_eq!(found.dims(), [12, 2]);
            let (found, factors) = (found.to_vec2::<f64>()?, factors.to_vec2::<f64>()?);
            for (r, i) in (0..24).map(|k| (k / 2, k % 2)) {
                let want = slopes[r % 6][i] * factors[r][i];
                assert!((found[r][i] - want).abs() < 1e-15, "[{r}, {i}]: {} {want}", found[r][i]);
            }
            Ok(())
        };
        let moving = Traced::constant(x.clone()).moving(Some(v.clone()))?.in_groups(&lengths, f)?;
        check(moving.tangents().expect("the rows move"), &v)?;
        let tape = Tape::default();
        let input = tape.input(x.clone(), Gradient::Wanted);
        let output = input.in_groups(&lengths, f)?;
        check(&tape.backward(&input, &output, u.clone())?.expect("wanted"), &u)?;
        let tape = Tape::default();
        let input = tape.input(x, Gradient::Wanted);
        let output = input.in_groups(&lengths, f)?;
        assert!(tape.backward(&input, &output, numbers(14)?).is_err(), "7 rows are no gradients of 6");
        Ok(())
    }

    #[test]
    fn a_scaled_sum_passes_its_gradient_and_the_scaled_one() -> Result<()> {
        for dtype in [candle_core::DType::F32, candle_core::DType::F64] {
            let number = |r: usize, k: usize| ((r * 7 + k * 3) as f64 * 0.37).sin();
            let matrix = |shift: usize| -> Result<Tensor> {
                let numbers: Vec<f64> = (0..15).map(|i| number(i / 3 + shift, i % 3)).collect();
                Tensor::from_vec(numbers, (5, 3), &Device::Cpu)?.to_dtype(dtype)
            };
            let factors = Tensor::new(&[0.5, -2.0, 3.0], &Device::Cpu)?.to_dtype(dtype)?;
            let (x, seed) = (matrix(0)?, matrix(9)?);
            for own in [Gradient::Wanted, Gradient::Unwanted] {
                let tape = Tape::default();
                let (left, right) = (tape.input(matrix(4)?, own), tape.input(x.clone(), Gradient::Wanted));
                let sum = left.add_scaled(&right, &factors)?;
                let y = sum.value().to_dtype(candle_core::DType::F64)?.to_vec2::<f64>()?;
                let found = tape.backward(&right, &sum, seed.clone())?.expect("wanted");
                let found = found.to_dtype(candle_core::DType::F64)?.to_vec2::<f64>()?;
                for (r, k) in (0..15).map(|i| (i / 3, i % 3)) {
                    let factor = [0.5, -2.0, 3.0][k];
                    assert!((y[r][k] - (number(r + 4, k) + factor * number(r, k))).abs() < 1e-6);
                    assert!((found[r][k] - factor * number(r + 9, k)).abs() < 1e-6);
                }
            }
        }
        Ok(())
    }

    #[test]
    fn constants_leave_nothing() -> Result<()> {
        let output = chain(&Traced::constant(numbers(6)?))?;
        assert!(output.tape.is_none() && output.place.is_none());
        Ok(())
    }
}
