//! Second moments of a segment's checkpoints, and the conditioners made of them.

use std::path::PathBuf;

use crate::attribution::source::Conditioner;
use crate::attribution::trajectory::{Optimizer, Segment};
use crate::curvature::LayerSpec;
use crate::job::error::JobError;
use crate::job::number::Number;
use crate::job::request::AdamRequest;
use crate::trajectory::{FrozenParameters, Reading, TransformersVersion, Warning, second_moments};

/// Where a segment's second moments are.
#[derive(Debug, Clone)]
pub(in crate::job) struct Moments {
    /// Checkpoint folders and their optimizers' files.
    files: Vec<(PathBuf, PathBuf)>,
    version: Option<TransformersVersion>,
    frozen: FrozenParameters,
    epsilon: f64,
    form: AdamRequest,
    /// BLAKE3 over the moments of the layers that count.
    pub content_hash: [u8; 32],
}

impl Moments {
    /// Reads the moments of the segment of this name once, so that what is wrong with them is said before long work.
    /// The layers `without` were not trained, and need no moments.
    ///
    /// # Errors
    /// No checkpoint of the segment with an optimizer's state; a state that cannot be used; a trained layer without
    /// second moments.
    pub(in crate::job) fn read(
        reading: &Reading,
        segment: &Segment,
        optimizer: &Optimizer,
        form: AdamRequest,
        layers: &[LayerSpec],
        (name, without): (&str, &[usize]),
    ) -> Result<Self, JobError> {
        let (Optimizer::Adam { epsilon, .. } | Optimizer::AdamW { epsilon, .. }) = *optimizer else {
            return Err(JobError::Options {
                problem: format!("second moments of `{}` are not known", optimizer.name()).into(),
                hint: None,
            });
        };
        let checkpoints = segment.checkpoints.iter().map(|at| &reading.checkpoints[at.index]);
        let files: Vec<_> = checkpoints.filter_map(|at| Some((at.folder.clone(), at.optimizer.clone()?))).collect();
        if files.is_empty() {
            let of_segment = |id: &String| segment.checkpoints.iter().any(|at| reading.checkpoints[at.index].id == *id);
            let unread = reading.warnings.iter().filter_map(|warning| match warning {
                Warning::OptimizerStateUnread { checkpoint, reason } if of_segment(checkpoint) => Some(reason.as_str()),
                _ => None,
            });
            let unread: Vec<&str> = unread.collect();
            let why = if unread.is_empty() { String::new() } else { format!(" that is read: {}", unread.join("; ")) };
            return Err(JobError::Options {
                problem: format!(
                    "{}, whose checkpoints are {}, was trained with {}, and none of these has an optimizer's state{why}",
                    name,
                    segment
                        .checkpoints
                        .iter()
                        .map(|at| format!("`{}`", reading.checkpoints[at.index].id))
                        .collect::<Vec<_>>()
                        .join(", "),
                    optimizer.name()
                ).into(),
                hint: Some(
                    "keep `optimizer.pt` in at least one checkpoint of each segment, or ask for fewer segments".into(),
                ),
            });
        }
        let (version, frozen) = (reading.version, reading.frozen_parameters());
        let mut moments = Self { files, version, frozen, epsilon, form, content_hash: [0; 32] };
        let mut hasher = blake3::Hasher::new();
        for found in moments.load(layers)? {
            for (l, values) in found.iter().enumerate().filter(|(l, _)| !without.contains(l)) {
                let Some(values) = values else {
                    return Err(JobError::Options {
                        problem: format!(
                            "{} trained the layer `{}`, but there are no second moments of it",
                            name, layers[l].name
                        ).into(),
                        hint: Some(
                            "say that the stage froze the layer if it did (`trained_layers` in a trajectory file), or leave the layer out of the tracked ones"
                                .into(),
                        ),
                    });
                };
                values.iter().for_each(|x| {
                    hasher.update(&x.to_le_bytes());
                });
            }
        }
        moments.content_hash = *hasher.finalize().as_bytes();
        Ok(moments)
    }

    /// How many checkpoints have them.
    pub(in crate::job) fn checkpoints(&self) -> usize {
        self.files.len()
    }

    /// Adam's ε.
    pub(in crate::job) fn epsilon(&self) -> f64 {
        self.epsilon
    }

    fn load(&self, layers: &[LayerSpec]) -> Result<Vec<Vec<Option<Vec<f32>>>>, JobError> {
        let read =
            |(folder, file): &(PathBuf, PathBuf)| Ok(second_moments(folder, file, layers, self.version, &self.frozen)?);
        self.files.iter().map(read).collect()
    }

    /// A conditioner for every layer that is not frozen.
    pub(in crate::job) fn conditioners<T: Number>(
        &self,
        layers: &[LayerSpec],
        frozen: &[usize],
    ) -> Result<Vec<Option<Conditioner<T>>>, JobError> {
        let found = self.load(layers)?;
        let of_layer = |(l, layer): (usize, &LayerSpec)| {
            if frozen.contains(&l) {
                return Ok(None);
            }
            let wide: Vec<Vec<T>> = found
                .iter()
                .filter_map(|moments| Some(moments[l].as_ref()?.iter().map(|&x| T::of(f64::from(x))).collect()))
                .collect();
            let slices: Vec<&[T]> = wide.iter().map(Vec::as_slice).collect();
            let conditioner = match self.form {
                AdamRequest::Conditioned => Conditioner::from_second_moments(layer, &slices, self.epsilon),
                AdamRequest::Scalar => Conditioner::scalar(layer, &slices, self.epsilon),
            };
            Ok(Some(conditioner.map_err(crate::attribution::Error::from)?))
        };
        layers.iter().enumerate().map(of_layer).collect()
    }
}
