//! Finds the tensors of described modules, checks that each fits what comes from the one before it, and numbers layers.

use candle_core::Result as CandleResult;

use super::description::Described;
use super::modules::{Flow, StoredChain, StoredModule, StoredNorm};
use crate::curvature::{Plane, Window};
use crate::model::checkpoint_reader::CheckpointReader;
use crate::model::config::Config;
use crate::model::error::{LoadError, abridged_shape};
use crate::model::layers::{Convolved, Place};
use crate::model::layout::Layout;
use crate::model::operations::{LayerRows, RowsOf};
use crate::model::tracking::{SharedInput, Tracking};

/// What turns descriptions into modules on disk.
pub(super) struct Loader<'a, 'b> {
    pub(super) config: &'a Config,
    pub(super) source: &'a CheckpointReader,
    pub(super) tracking: &'a Tracking<'b>,
    /// Height and width of the images that the network reads.
    pub(super) plane: Plane,
    /// Inputs and outputs of layers of an image so far.
    pub(super) numbers: u64,
}

/// A section and its sizes.
pub(super) struct Measured {
    pub(super) chain: StoredChain,
    pub(super) tracked: bool,
    pub(super) parameters: u64,
    /// Inputs and outputs of its layers of an image.
    pub(super) numbers: u64,
}

impl Loader<'_, '_> {
    /// Sections, each of which begins with a module that has tensors, and what the last of them gives.
    pub(super) fn sections(
        &mut self,
        described: &[Described],
        input: Flow,
    ) -> Result<(Vec<Measured>, Flow), LoadError> {
        let mut sections: Vec<Measured> = vec![];
        let mut flow = input;
        for (k, module) in described.iter().enumerate() {
            let place = format!("modules[{k}]");
            let before = (self.source.sizes().parameters, self.tracking.count(), self.numbers);
            let (stored, after) = self.module(module, flow, &place)?;
            let begins =
                matches!(module, Described::Convolution { .. } | Described::Linear { .. } | Described::Residual { .. });
            if begins || sections.is_empty() {
                let chain = StoredChain { modules: vec![], input: flow };
                sections.push(Measured { chain, tracked: false, parameters: 0, numbers: 0 });
            }
            if let Some(section) = sections.last_mut() {
                section.chain.modules.push(stored);
                section.parameters += self.source.sizes().parameters - before.0;
                section.tracked |= self.tracking.count() > before.1;
                section.numbers += self.numbers - before.2;
            }
            flow = after;
        }
        if sections.is_empty() {
            return Err(self.config.problem("`modules` is empty"));
        }
        Ok((sections, flow))
    }

    fn all(
        &mut self,
        described: &[Described],
        input: Flow,
        place: &str,
    ) -> Result<(Vec<StoredModule>, Flow), LoadError> {
        let mut flow = input;
        let mut modules = vec![];
        for (k, module) in described.iter().enumerate() {
            let (stored, after) = self.module(module, flow, &format!("{place}[{k}]"))?;
            modules.push(stored);
            flow = after;
        }
        Ok((modules, flow))
    }

    fn module(&mut self, described: &Described, flow: Flow, place: &str) -> Result<(StoredModule, Flow), LoadError> {
        match described {
            Described::Convolution { name, window, groups } => self.convolution(name, *window, *groups, flow, place),
            Described::Norm { name, epsilon, has_affine } => {
                let tensor = |part: &str| self.source.tensor(&format!("{name}.{part}"), &[flow.channels]);
                let affine = if *has_affine { Some([tensor("weight")?, tensor("bias")?]) } else { None };
                let (mean, variance) = (tensor("running_mean")?, tensor("running_var")?);
                let norm = StoredNorm { affine, mean, variance, epsilon: *epsilon };
                Ok((StoredModule::Norm(Box::new(norm)), flow))
            }
            Described::Linear { name } => self.linear(name, flow, place),
            Described::Plain(plain) => {
                let after = self.fits(flow.after(*plain), flow, place)?;
                Ok((StoredModule::Plain(*plain), after))
            }
            Described::Residual { modules, shortcut } => {
                let (modules, after) = self.all(modules, flow, &format!("{place}.modules"))?;
                let (shortcut, beside) = self.all(shortcut, flow, &format!("{place}.shortcut"))?;
                if (after.channels, after.plane) != (beside.channels, beside.plane) {
                    let problem =
                        format!("the modules give {}, but the shortcut gives {}", shown(after), shown(beside));
                    return Err(self.problem(place, &problem));
                }
                Ok((StoredModule::Residual([modules, shortcut]), after))
            }
        }
    }

    fn convolution(
        &mut self,
        name: &str,
        window: Window,
        groups: usize,
        flow: Flow,
        place: &str,
    ) -> Result<(StoredModule, Flow), LoadError> {
        if flow.is_flat {
            return Err(self.problem(place, "a convolution behind a flattened image"));
        }
        let weights = &self.source.weights;
        let shape = weights.shape(&format!("{name}.weight"))?;
        let &[outputs, channels, height, width] = shape.as_slice() else {
            let found = abridged_shape(&shape);
            let expected = "expected [outputs, channels / groups, height, width]";
            return Err(self.problem(place, &format!("`{name}.weight` has the shape {found}, {expected}")));
        };
        let is_divided = outputs > 0 && outputs % groups == 0 && channels.checked_mul(groups) == Some(flow.channels);
        if !is_divided || height == 0 || width == 0 {
            let (found, given) = (abridged_shape(&shape), flow.channels);
            let problem = format!(
                "`{name}.weight` has the shape {found}, which does not fit {given} channels in {groups} groups"
            );
            return Err(self.problem(place, &problem));
        }
        let window = Window { size: [height, width], ..window };
        let plane = self.fits(window.output(flow.plane), flow, place)?;
        let bias = weights.contains(&format!("{name}.bias"));
        let convolved = Convolved { outputs, channels, groups, window, bias, place: Place::Inside };
        let rows = LayerRows::share(plane.places() as f64 / self.plane.places() as f64);
        let convolution = self.tracking.seeing(rows, || self.source.convolution(self.tracking, name, convolved))?;
        let columns = groups * channels * height * width;
        // an adapter has patches of its own
        let beside = convolution.rank().map_or(0, |rank| columns + 2 * rank + outputs);
        let of_place = (columns + outputs + beside) as u64;
        self.numbers = self.numbers.saturating_add(of_place.saturating_mul(plane.places() as u64));
        Ok((StoredModule::Convolution(Box::new(convolution)), Flow { channels: outputs, plane, ..flow }))
    }

    fn linear(&mut self, name: &str, flow: Flow, place: &str) -> Result<(StoredModule, Flow), LoadError> {
        if flow.plane.places() != 1 {
            let problem = format!("a linear layer gets {}; `flatten` them before it", shown(flow));
            return Err(self.problem(place, &problem));
        }
        let weights = &self.source.weights;
        let shape = weights.shape(&format!("{name}.weight"))?;
        let &[outputs, inputs] = shape.as_slice() else {
            let found = abridged_shape(&shape);
            let problem = format!("`{name}.weight` has the shape {found}, expected [outputs, inputs]");
            return Err(self.problem(place, &problem));
        };
        if inputs != flow.channels || outputs == 0 {
            let (found, given) = (abridged_shape(&shape), flow.channels);
            let problem =
                format!("`{name}.weight` has the shape {found}, which does not fit {given} numbers of an image");
            return Err(self.problem(place, &problem));
        }
        let bias = weights.contains(&format!("{name}.bias"));
        let (mut input, layout) = (SharedInput::default(), Layout::OutputsFirst);
        let linear = || self.source.linear(self.tracking, name, [outputs, inputs], bias, layout, &mut input);
        let linear = self.tracking.seeing(LayerRows::all(RowsOf::Examples), linear)?;
        let beside = linear.adapter.as_ref().map_or(0, |adapter| 2 * adapter.low_rank.rank + outputs);
        self.numbers += (inputs + outputs + beside) as u64;
        Ok((StoredModule::Linear(Box::new(linear)), Flow { channels: outputs, ..flow }))
    }

    /// What a window makes of an image, or that it does not fit.
    fn fits<T>(&self, found: CandleResult<T>, flow: Flow, place: &str) -> Result<T, LoadError> {
        found.map_err(|_| self.problem(place, &format!("its window does not fit {}", shown(flow))))
    }

    fn problem(&self, place: &str, problem: &str) -> LoadError {
        self.config.problem(format!("`{place}`: {problem}"))
    }
}

fn shown(flow: Flow) -> String {
    let Flow { channels, plane: Plane { height, width }, is_flat } = flow;
    match is_flat {
        true => format!("{channels} numbers"),
        false => format!("{channels} channels of {height} x {width} places"),
    }
}
