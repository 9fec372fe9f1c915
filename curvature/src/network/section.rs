//! Networks cut into sections, whose backward passes run one after the other with one graph in memory.

use candle_core::{Tensor, Var};

use crate::error::Error;
use crate::network::linear::TapRecorder;
use crate::network::seed::seeded;
use crate::network::tap::{Positions, TapSink};
use crate::network::tape::{Gradient, Tape, Traced};

/// One piece of a network in the staged backward pass: an embedding, a block, a head's norm.
///
/// A network is a chain of sections; what passes between them is one tensor `[R, D]`.
pub trait Section {
    /// The section's output, built from differentiable ops; tracked layers get `taps`.
    ///
    /// # Errors
    /// If a tensor operation fails.
    fn forward(&self, x: &Tensor, taps: &TapRecorder) -> Result<Tensor, candle_core::Error>;

    /// The output, and how its gradient becomes the one at `x`. As it stands, candle differentiates
    /// [`Section::forward`].
    ///
    /// # Errors
    /// If a tensor operation fails.
    fn differentiable(&self, x: &Tensor, _wanted: Gradient, taps: &TapRecorder) -> Result<(Tensor, PullBack), Error> {
        let input = Var::from_tensor(x)?.into_inner();
        let output = self.forward(&input, taps)?;
        let value = output.detach();
        Ok((value, Box::new(move |gradient| pull_back(&input, &output, gradient).map(Some))))
    }

    /// Whether the section may have tracked layers. Sections before the first that has are not differentiated.
    fn has_tracked_layers(&self) -> bool {
        true
    }

    /// The output and its tangents, `[Q · R, D]`, when the input has these and tracked layers move along the
    /// directions of `taps`. A section that does not record on a [`Tape`] has none.
    ///
    /// # Errors
    /// If an op has no rule for tangents, or fails.
    fn tangents(&self, _x: &Tensor, _tangents: Option<Tensor>, _taps: &TapRecorder) -> Result<Moving, Error> {
        Err(Error::Objective { objective: "a tangent".into(), network: "a section without a tape" })
    }
}

/// A value, and how it moves along directions, `[Q · R, D]`.
pub type Moving = (Tensor, Option<Tensor>);

/// From the gradient at a section's output to the one at its input, if that was wanted.
pub type PullBack = Box<dyn FnOnce(Tensor) -> Result<Option<Tensor>, Error>>;

/// A section whose blocks record on a [`Tape`].
#[derive(Debug)]
pub struct Taped<F>(pub F);

/// A section that is known to have tracked layers, or to have none.
#[derive(Debug)]
pub struct Tracked<S> {
    /// The section.
    pub section: S,
    /// Whether it has tracked layers.
    pub has_layers: bool,
}

impl<S: Section> Section for Tracked<S> {
    fn forward(&self, x: &Tensor, taps: &TapRecorder) -> Result<Tensor, candle_core::Error> {
        self.section.forward(x, taps)
    }

    fn differentiable(&self, x: &Tensor, wanted: Gradient, taps: &TapRecorder) -> Result<(Tensor, PullBack), Error> {
        self.section.differentiable(x, wanted, taps)
    }

    fn has_tracked_layers(&self) -> bool {
        self.has_layers
    }

    fn tangents(&self, x: &Tensor, tangents: Option<Tensor>, taps: &TapRecorder) -> Result<Moving, Error> {
        self.section.tangents(x, tangents, taps)
    }
}

impl<F> Section for Taped<F>
where
    F: Fn(&Traced, &TapRecorder) -> Result<Traced, candle_core::Error>,
{
    fn forward(&self, x: &Tensor, taps: &TapRecorder) -> Result<Tensor, candle_core::Error> {
        Ok(self.0(&Traced::constant(x.clone()), taps)?.value().clone())
    }

    fn differentiable(&self, x: &Tensor, wanted: Gradient, taps: &TapRecorder) -> Result<(Tensor, PullBack), Error> {
        let tape = Tape::default();
        let input = tape.input(x.clone(), wanted);
        let output = self.0(&input, taps)?;
        let value = output.value().clone();
        let back = move |gradient: Tensor| {
            let count = gradient.dim(0)? / output.value().dim(0)?.max(1);
            match (tape.backward(&input, &output, gradient)?, wanted) {
                // the sections before still leave their taps
                (None, Gradient::Wanted) => {
                    let zeros = input.value().zeros_like()?;
                    Ok(Some(if count > 1 { Tensor::cat(&vec![zeros; count], 0)? } else { zeros }))
                }
                (found, _) => Ok(found),
            }
        };
        Ok((value, Box::new(back)))
    }

    fn tangents(&self, x: &Tensor, tangents: Option<Tensor>, taps: &TapRecorder) -> Result<Moving, Error> {
        let output = self.0(&Traced::constant(x.clone()).moving(tangents)?, taps)?;
        Ok((output.value().clone(), output.tangents().cloned()))
    }
}

impl<F> Section for F
where
    F: Fn(&Tensor, &TapRecorder) -> Result<Tensor, candle_core::Error>,
{
    fn forward(&self, x: &Tensor, taps: &TapRecorder) -> Result<Tensor, candle_core::Error> {
        self(x, taps)
    }
}

/// What is kept of a section between its forward and its backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Graphs {
    /// Everything: memory of the whole model's activations, no work twice.
    Kept,
    /// Its input alone; the graph is built again when its backward pass comes. Memory of one section,
    /// one forward pass more.
    Rebuilt,
}

/// Runs `x` through `sections`, asks `head` for the gradient at the last output, and goes back from the
/// last section to the first, pushing each section's taps as soon as they exist.
///
/// `head` gets the last output, which is part of no graph, and the recorder for taps of its own; it returns its
/// value and the gradient `∂objective/∂output`.
///
/// # Errors
/// The sections', the head's, the sink's.
pub fn backward_through<V>(
    sections: &[&dyn Section],
    x: &Tensor,
    graphs: Graphs,
    positions: &Positions,
    sink: &mut dyn TapSink,
    head: impl FnOnce(&Tensor, &TapRecorder) -> Result<(V, Tensor), Error>,
) -> Result<V, Error> {
    let taps = TapRecorder::default();
    let first = sections.iter().position(|section| section.has_tracked_layers()).unwrap_or(sections.len());
    let (before, sections) = sections.split_at(first);
    let mut left = Vec::with_capacity(sections.len());
    let mut x = x.detach();
    for section in before {
        x = section.forward(&x, &taps)?;
    }
    for (index, section) in sections.iter().enumerate() {
        // nothing before the first section with tracked layers is differentiated
        let wanted = if index == 0 { Gradient::Unwanted } else { Gradient::Wanted };
        match graphs {
            Graphs::Kept => {
                let (output, back) = section.differentiable(&x, wanted, &taps)?;
                x = output;
                left.push(Left::Graph(back));
            }
            Graphs::Rebuilt => {
                let output = section.forward(&x, &taps)?;
                left.push(Left::Input(std::mem::replace(&mut x, output), wanted));
            }
        }
    }
    let (value, mut gradient) = head(&x, &taps)?;
    drop(x);
    taps.drain(positions, sink)?;
    while let Some(kept) = left.pop() {
        let back = match kept {
            Left::Graph(back) => back,
            Left::Input(input, wanted) => sections[left.len()].differentiable(&input, wanted, &taps)?.1,
        };
        let found = back(gradient)?;
        taps.drain(positions, sink)?;
        match found {
            Some(found) => gradient = found,
            None => break, // the first section
        }
    }
    Ok(value)
}

/// What a section leaves for its backward pass.
enum Left {
    Graph(PullBack),
    Input(Tensor, Gradient),
}

/// The gradient at `input` when the gradient at `output` is `gradient`.
///
/// `input` must be a variable that `output` was computed from.
///
/// # Errors
/// If the backward pass of an op fails.
pub fn pull_back(input: &Tensor, output: &Tensor, gradient: Tensor) -> Result<Tensor, Error> {
    let mut store = seeded(output, gradient)?.backward()?;
    Ok(match store.remove(input) {
        Some(gradient) => gradient,
        None => input.zeros_like()?,
    })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::network::layer::LayerId;
    use crate::network::linear::Linear;
    use crate::network::tap::Tap;

    #[derive(Default)]
    struct Collect(Vec<(usize, Vec<Vec<f64>>)>);
    impl TapSink for Collect {
        fn tap(&mut self, tap: Tap<'_>) -> Result<(), Error> {
            self.0.push((tap.layer.0, tap.output_gradient.to_vec2::<f64>()?));
            Ok(())
        }
    }

    #[test]
    fn nothing_before_the_first_tracked_layer_is_differentiated() -> Result<(), Error> {
        let device = Device::Cpu;
        let weight = Tensor::new(&[[0.3, -0.7], [1.1, 0.4]], &device)?;
        let frozen = Linear::new(weight.clone(), None, None)?;
        let layer = Linear::new(weight, None, Some(LayerId(0)))?;
        let differentiated = std::cell::Cell::new(0);
        struct Counted<'a, S>(S, &'a std::cell::Cell<usize>);
        impl<S: Section> Section for Counted<'_, S> {
            fn forward(&self, x: &Tensor, taps: &TapRecorder) -> Result<Tensor, candle_core::Error> {
                self.0.forward(x, taps)
            }
            fn differentiable(
                &self,
                x: &Tensor,
                wanted: Gradient,
                taps: &TapRecorder,
            ) -> Result<(Tensor, PullBack), Error> {
                self.1.set(self.1.get() + 1);
                self.0.differentiable(x, wanted, taps)
            }
        }
        let below = || Taped(|x: &Traced, taps: &TapRecorder| frozen.trace(x, taps));
        let above = || Taped(|x: &Traced, taps: &TapRecorder| layer.trace(x, taps));
        let x = Tensor::new(&[[0.4, -1.2]], &device)?;
        let run = |told: bool, graphs| -> Result<_, Error> {
            differentiated.set(0);
            let below = Tracked { section: Counted(below(), &differentiated), has_layers: !told };
            let above = Tracked { section: Counted(above(), &differentiated), has_layers: true };
            let mut collect = Collect::default();
            let sections: [&dyn Section; 3] = [&below, &above, &below];
            let head = |y: &Tensor, _: &TapRecorder| Ok((y.to_vec2::<f64>()?, y.sqr()?));
            let value = backward_through(&sections, &x, graphs, &Positions::single(1), &mut collect, head)?;
            Ok((value, collect.0, differentiated.get()))
        };
        for graphs in [Graphs::Kept, Graphs::Rebuilt] {
            let (value, taps, count) = run(false, graphs)?;
            assert_eq!((count, taps.len()), (3, 1));
            assert_eq!(run(true, graphs)?, (value, taps, 2));
        }
        Ok(())
    }

    #[test]
    fn kept_and_rebuilt_graphs_give_the_gradients_of_the_whole_chain() -> Result<(), Error> {
        let device = Device::Cpu;
        let w =
            [Tensor::new(&[[0.3, -0.7], [1.1, 0.4], [0.2, 0.9]], &device)?, Tensor::new(&[[0.5, 0.1, -0.6]], &device)?];
        let layers =
            [Linear::new(w[0].clone(), None, Some(LayerId(0)))?, Linear::new(w[1].clone(), None, Some(LayerId(1)))?];
        let first = |x: &Tensor, taps: &TapRecorder| layers[0].forward(x, taps)?.tanh();
        let second = |x: &Tensor, taps: &TapRecorder| layers[1].forward(x, taps);
        let x = Tensor::new(&[[0.4, -1.2], [2.0, 0.3]], &device)?;
        // objective Σ y³ / 3, so the gradient at y is y²
        let run = |graphs| -> Result<_, Error> {
            let mut collect = Collect::default();
            let head = |y: &Tensor, _: &TapRecorder| Ok((y.to_vec2::<f64>()?, y.sqr()?));
            let value = backward_through(&[&first, &second], &x, graphs, &Positions::single(2), &mut collect, head)?;
            Ok((value, collect.0))
        };
        let (y, kept) = run(Graphs::Kept)?;
        assert_eq!((y.clone(), kept.clone()), run(Graphs::Rebuilt)?);
        let h = x.matmul(&w[0].t()?)?.tanh()?.to_vec2::<f64>()?;
        assert_eq!(kept.iter().map(|tap| tap.0).collect::<Vec<_>>(), [1, 0]);
        for r in 0..2 {
            let s1 = y[r][0] * y[r][0];
            assert!((kept[0].1[r][0] - s1).abs() < 1e-15);
            for (o, weight) in [0.5, 0.1, -0.6].into_iter().enumerate() {
                let s0 = s1 * weight * (1.0 - h[r][o] * h[r][o]);
                assert!((kept[1].1[r][o] - s0).abs() < 1e-15, "[{r}, {o}]");
            }
        }
        Ok(())
    }
}
