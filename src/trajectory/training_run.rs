//! A run as a method needs it: readings, what a person states and what the data say, joined into numbers.

use ascribe_attribution::trajectory::{Clipping, LossScale, Segment, SegmentRule, TrainingStage, Trajectory, segments};
use serde_json::Value;

use super::request::{ExampleWeightsRequest, LossScaleRequest, SegmentRequest, TrajectoryRequest};
use crate::model;
use crate::model::adapter::folder::AdapterFolder;
use crate::trajectory::averaging::{Averaging, ExampleWeights, Targets, company};
use crate::trajectory::error::ReadError;
use crate::trajectory::reading::{Batch, CheckpointFiles, Reading, Stated};
use crate::trajectory::text_data::TextData;

/// Segments of a stage where nobody says how many.
const DEFAULT_SEGMENTS: usize = 3;

/// What the data of a stage say where the run's files do not.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StageData {
    /// Examples of the stage's whole training set.
    pub examples: Option<usize>,
    /// Mean number of targets of an example: label tokens of a language model, 1 of a classifier.
    pub targets_per_example: Option<f64>,
    /// How many targets examples have, where that differs.
    pub targets: Option<Targets>,
    /// How texts were read, if they are texts.
    pub texts: Option<TextData>,
}

/// A training run, ready for a method.
#[derive(Debug, Clone)]
pub struct TrainingRun {
    /// What was read, one for each stage.
    pub readings: Vec<Reading>,
    /// Its numbers.
    pub trajectory: Trajectory,
    /// All segments in the order of training, each with the index of its stage.
    pub segments: Vec<(usize, Segment)>,
    /// What each stage's scores of an example are multiplied with, by its targets; `None` if nothing is.
    pub example_weights: Vec<Option<ExampleWeights>>,
    /// What a person should know of how the numbers came about, beside the readings' warnings.
    pub notes: Vec<String>,
}

/// A number that neither the run's files nor a person gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// `N`.
    Examples,
    /// `c`.
    LossScale,
    /// `c` is one over the mean number of label tokens of an example, and that is not known.
    LabelTokens,
}

/// A run without its data: what can be said before they are read.
#[derive(Debug, Clone)]
pub struct Outline {
    /// What was read, one for each stage.
    pub readings: Vec<Reading>,
    /// `N` of every stage, if known.
    pub n_examples: Vec<Option<usize>>,
    /// `c` of every stage, if known.
    pub loss_scales: Vec<Option<LossScale>>,
    /// All segments in the order of training, each with the index of its stage. Where `c` is not known, `tau` is
    /// that of `c = 1`.
    pub segments: Vec<(usize, Segment)>,
    /// What the examples of each stage counted, where that is asked for and recorded.
    pub example_weights: Vec<Option<ExampleWeights>>,
    /// What the data have to say, with the index of its stage.
    pub unknown: Vec<(usize, Unknown)>,
    /// As [`TrainingRun::notes`].
    pub notes: Vec<String>,
}

impl TrajectoryRequest {
    /// Joins readings with what is stated and with what the data of each stage say; stages beyond the end of `data`
    /// have none.
    ///
    /// # Errors
    /// `N` or `c` known from nowhere; an `N` that contradicts the log; more data than stages; segments that cannot be
    /// cut.
    pub fn resolve(&self, readings: Vec<Reading>, data: &[StageData]) -> Result<TrainingRun, ReadError> {
        let outline = self.outline(readings, data)?;
        if let Some(&(stage, unknown)) = outline.unknown.first() {
            let source_path = outline.readings[stage].source.clone();
            return Err(match unknown {
                Unknown::Examples => ReadError::UnknownExamples { source_path },
                Unknown::LossScale => ReadError::UnknownLossScale { source_path },
                Unknown::LabelTokens => ReadError::UnknownLabelTokens { source_path },
            });
        }
        let numbers = outline.n_examples.iter().zip(&outline.loss_scales);
        let stages: Result<Vec<TrainingStage>, ReadError> = numbers
            .zip(&outline.readings)
            .map(|((&n_examples, &loss_scale), reading)| reading.stage(&self.stated(n_examples, loss_scale)))
            .collect();
        let source_path = self.path.clone();
        let trajectory = Trajectory::new(stages?).map_err(|problem| ReadError::Numbers { source_path, problem })?;
        let Outline { readings, segments, example_weights, notes, .. } = outline;
        if self.example_weights == ExampleWeightsRequest::Batches
            && let Some(stage) = example_weights.iter().position(Option::is_none)
        {
            return Err(ReadError::UnknownWeights { source_path: readings[stage].source.clone() });
        }
        Ok(TrainingRun { readings, trajectory, segments, example_weights, notes })
    }

    /// As [`resolve`](Self::resolve), but numbers that are not known are listed instead of refused.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve), without those of unknown numbers.
    pub fn outline(&self, readings: Vec<Reading>, data: &[StageData]) -> Result<Outline, ReadError> {
        if data.len() > readings.len() {
            let (stages, data) = (readings.len(), data.len());
            return Err(ReadError::StagesOfData { source_path: self.path.clone(), stages, data });
        }
        if readings.len() > 1
            && let SegmentRequest::Rule(SegmentRule::Given(_)) = self.segments
        {
            return Err(ReadError::EndsOfWhichStage { source_path: self.path.clone(), stages: readings.len() });
        }
        let mut outline = Outline {
            readings: Vec::with_capacity(readings.len()),
            n_examples: Vec::new(),
            loss_scales: Vec::new(),
            example_weights: Vec::new(),
            segments: Vec::new(),
            unknown: Vec::new(),
            notes: Vec::new(),
        };
        let several = readings.len() > 1;
        for (index, mut reading) in readings.into_iter().enumerate() {
            let mut notes = Notes { stage: several.then(|| reading.name.clone()), list: &mut outline.notes };
            let data = data.get(index).copied().unwrap_or_default();
            let n_examples = n_examples(&reading, data, &mut notes);
            if let Some(texts) = &data.texts {
                reading.left_out = [texts.without_target.examples, texts.cut_away.examples];
                if let Some(treatment) = &reading.texts {
                    treatment.compare(texts)?.into_iter().for_each(|note| notes.add(note));
                }
                reading.text_record().check_tokens(texts, self.processes.or(reading.batch.processes).unwrap_or(1))?;
            }
            let mut weights = None;
            let loss_scale = self.loss_scale(&reading, data, &mut notes, &mut weights)?;
            // Segments depend on neither number, except for `τ`, which is proportional to `c`.
            let mut stand_in = reading.clone();
            if n_examples.is_none() {
                stand_in.epochs = None;
            }
            let scale = loss_scale.ok().unwrap_or(LossScale::Stated(1.0));
            // Whole batches: no note about the last one.
            let batch = self.batch_size(&reading).max(1);
            let stage = stand_in.stage(&self.stated(n_examples.or(Some(batch)), Some(scale)))?;
            stage.notes().iter().for_each(|note| notes.add(note.to_string()));
            let rule = self.rule(&reading, &mut notes);
            let cut = segments(&stage, &rule, self.checkpoint_weights.into())
                .map_err(|problem| ReadError::Numbers { source_path: reading.source.clone(), problem })?;
            if stage.optimizer().has_second_moments() {
                second_moments_of(&cut, outline.segments.len(), &reading, &mut notes);
            }
            if let Some(clipping) = stage.clipping() {
                clipping_of(&cut, outline.segments.len(), clipping, &mut notes);
            }
            outline.segments.extend(cut.into_iter().map(|segment| (index, segment)));
            outline.unknown.extend(n_examples.is_none().then_some((index, Unknown::Examples)));
            outline.unknown.extend(loss_scale.err().map(|unknown| (index, unknown)));
            outline.n_examples.push(n_examples);
            outline.loss_scales.push(loss_scale.ok());
            outline.example_weights.push(weights);
            outline.readings.push(reading);
        }
        Ok(outline)
    }

    fn batch_size(&self, reading: &Reading) -> usize {
        reading.batch_size(self.processes.or(reading.batch.processes).unwrap_or(1))
    }

    fn stated(&self, n_examples: Option<usize>, loss_scale: Option<LossScale>) -> Stated {
        Stated {
            n_examples,
            loss_scale,
            processes: self.processes,
            clipping: self.clipping.into(),
            trained_layers: None,
        }
    }

    /// `c`: stated, else recorded, else the Trainer's own. The inner error says what is missing. `weights` is what
    /// examples counted, where that is asked for and recorded.
    fn loss_scale(
        &self,
        reading: &Reading,
        data: StageData,
        notes: &mut Notes<'_>,
        weights: &mut Option<ExampleWeights>,
    ) -> Result<Result<LossScale, Unknown>, ReadError> {
        let over_tokens = |tokens: Option<f64>| match tokens {
            Some(tokens_per_example) => Ok(LossScale::MeanOverTokens { tokens_per_example }),
            None => Err(Unknown::LabelTokens),
        };
        // A description may know the tokens although the person says it in their own words.
        let recorded_tokens = match reading.loss_scale {
            Some(LossScale::MeanOverTokens { tokens_per_example }) => Some(tokens_per_example),
            _ => None,
        };
        let trained_by_trainer = loss_of_trainer(reading)?;
        Ok(match (self.loss_scale, reading.loss_scale) {
            (Some(LossScaleRequest::Mean), _) => Ok(LossScale::MeanOverExamples),
            (Some(LossScaleRequest::Sum), _) => Ok(LossScale::SumOverBatch { batch_size: self.batch_size(reading) }),
            (Some(LossScaleRequest::TokenMean), _) => over_tokens(recorded_tokens.or(data.targets_per_example)),
            (Some(LossScaleRequest::Number(c)), _) => Ok(LossScale::Stated(c)),
            (None, Some(recorded)) => Ok(recorded),
            (None, None) if trained_by_trainer == Some(TrainersLoss::OfExamples) => {
                notes.add("the loss scale is that of transformers for classifiers, a mean over examples".to_owned());
                Ok(LossScale::MeanOverExamples)
            }
            (None, None) if trained_by_trainer.is_some() => {
                notes.add(match data.targets_per_example {
                    Some(tokens) => format!(
                        "the loss scale is that of transformers, a mean over label tokens; the training data have {tokens:.2} for each example"
                    ),
                    None => "the loss scale is that of transformers, a mean over label tokens".to_string(),
                });
                if let Some(TrainersLoss::OfTokens { vocabulary, class }) = trained_by_trainer {
                    check_loss(reading, vocabulary)?;
                    let batch = Batch { processes: self.processes.or(reading.batch.processes), ..reading.batch };
                    let is_masked = data.texts.is_some_and(|texts| texts.is_masked());
                    let batch = Batch { company: company(batch, data.examples, is_masked), ..batch };
                    let averaging = Averaging::of(reading.version, &class, batch);
                    let asked = self.example_weights == ExampleWeightsRequest::Batches;
                    *weights = data.targets.filter(|_| asked).and_then(|targets| averaging.weights(batch, targets));
                    let applied = weights.is_some();
                    notes.add(averaging.sentence(reading.version, batch, data.targets.as_ref(), applied));
                }
                over_tokens(data.targets_per_example)
            }
            (None, None) => Err(Unknown::LossScale),
        })
    }

    /// The rule of one stage.
    fn rule(&self, reading: &Reading, notes: &mut Notes<'_>) -> SegmentRule {
        let checkpoints = reading.checkpoints.len();
        let last = reading.checkpoints.last().map_or(0, |checkpoint| checkpoint.step);
        match (&self.segments, &reading.segment_ends) {
            (SegmentRequest::Rule(SegmentRule::Given(ends)), _) | (SegmentRequest::Auto, Some(ends)) => {
                // The end of the last segment may be written out; it is no border.
                SegmentRule::Given(without_last(ends, last))
            }
            (SegmentRequest::Rule(rule), _) => rule.clone(),
            (SegmentRequest::Auto, None) if checkpoints < DEFAULT_SEGMENTS => {
                let plural =
                    if checkpoints == 1 { "checkpoint makes 1 segment" } else { "checkpoints make 2 segments" };
                notes.add(format!("{checkpoints} {plural} instead of {DEFAULT_SEGMENTS}"));
                SegmentRule::EqualCheckpoints(checkpoints.max(1))
            }
            (SegmentRequest::Auto, None) => SegmentRule::EqualCheckpoints(DEFAULT_SEGMENTS),
        }
    }
}

fn without_last(ends: &[usize], last: usize) -> Vec<usize> {
    match ends.split_last() {
        Some((&end, others)) if end == last => others.to_vec(),
        _ => ends.to_vec(),
    }
}

/// `N`: recorded, else of the data.
fn n_examples(reading: &Reading, data: StageData, notes: &mut Notes<'_>) -> Option<usize> {
    match (reading.n_examples, data.examples) {
        (Some(recorded), Some(held)) if recorded != held => {
            notes.add(format!("the run records {recorded} training examples, which is used; {held} are given"));
            Some(recorded)
        }
        (Some(recorded), _) => Some(recorded),
        (None, Some(held)) => {
            notes.add(format!("the run does not record how many training examples it had; {held} are given"));
            Some(held)
        }
        (None, None) => None,
    }
}

/// What transformers' Trainer divided the loss by.
#[derive(Debug, Clone, PartialEq, Eq)]
enum TrainersLoss {
    /// Label tokens, for a model that predicts tokens; the vocabulary's size is 0 if it is not recorded.
    OfTokens {
        /// Tokens of the vocabulary.
        vocabulary: usize,
        /// The model's class.
        class: String,
    },
    /// Examples, for a model that gives something for a whole text or image.
    OfExamples,
}

/// What the Trainer divided the loss by, as the class of the last checkpoint says, or that of an adapter's base.
fn loss_of_trainer(reading: &Reading) -> Result<Option<TrainersLoss>, ReadError> {
    let Some(last) = reading.checkpoints.last().filter(|_| reading.source.is_dir()) else { return Ok(None) };
    let is_adapter = AdapterFolder::file_of(&last.folder).is_some();
    if !is_adapter && !crate::presence::is_file(&last.folder.join("config.json")) {
        return Ok(None);
    }
    let config = match model::configuration(&last.folder, reading.base.as_deref().filter(|_| is_adapter)) {
        Ok(config) => config,
        // whatever loads the model will say what is wrong with the base
        Err(_) if is_adapter => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let class = config.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
    const OF_TOKENS: [&str; 4] = ["ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration"];
    const OF_EXAMPLES: [&str; 2] = ["ForSequenceClassification", "ForImageClassification"];
    let is_one_of = |endings: &[&str]| class.is_some_and(|class| endings.iter().any(|ending| class.ends_with(ending)));
    let vocabulary = config.get("vocab_size").and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    let of_tokens =
        TrainersLoss::OfTokens { vocabulary: vocabulary.unwrap_or(0), class: class.unwrap_or_default().to_owned() };
    Ok(is_one_of(&OF_TOKENS).then_some(of_tokens).or(is_one_of(&OF_EXAMPLES).then_some(TrainersLoss::OfExamples)))
}

/// `Err` if the least logged loss is no mean over label tokens. A model that knows nothing has the logarithm of its
/// vocabulary, one that was trained less; twice as much is another reduction, or a wrong log.
fn check_loss(reading: &Reading, vocabulary: usize) -> Result<(), ReadError> {
    let least = reading.losses.iter().copied().filter(|(_, loss)| loss.is_finite()).min_by(|a, b| a.1.total_cmp(&b.1));
    match least {
        Some((step, loss)) if vocabulary > 1 && loss > 2.0 * (vocabulary as f64).ln() => {
            let file = reading.log.clone().unwrap_or_else(|| reading.source.clone());
            Err(ReadError::LossDisagrees { file, step, loss, vocabulary })
        }
        _ => Ok(()),
    }
}

/// Says how sure the clipped sums of rates are, where norms of some steps alone are logged.
fn clipping_of(cut: &[Segment], before: usize, clipping: &Clipping, notes: &mut Notes<'_>) {
    // what four digits of a table do not show is not said
    const SHOWN: f64 = 5e-4;
    let unsure: Vec<String> = (before + 1..)
        .zip(cut)
        .filter_map(|(number, segment)| {
            let (low, high) = segment.clipped_rate_interval?;
            let sum = segment.clipped_rate_sum;
            let share = |bound: f64| 100.0 * (bound / sum - 1.0);
            (high - low > SHOWN * sum).then(|| {
                format!("segment {number} {low:.4e} to {high:.4e} ({:+.1} to {:+.1} %)", share(low), share(high))
            })
        })
        .collect();
    if !unsure.is_empty() {
        notes.add(format!(
            "gradient norms of {} of {} steps are logged, so that clipped sums of rates, and time scales with them, are estimates: {}",
            clipping.n_logged(),
            clipping.n_steps(),
            unsure.join(", ")
        ));
    }
}

/// Says from which checkpoints segments take second moments, unless it is all of them. `before` segments precede.
fn second_moments_of(cut: &[Segment], before: usize, reading: &Reading, notes: &mut Notes<'_>) {
    for (number, segment) in (before + 1..).zip(cut) {
        let members: Vec<&CheckpointFiles> =
            segment.checkpoints.iter().filter_map(|member| reading.checkpoints.get(member.index)).collect();
        let with: Vec<String> =
            members.iter().filter(|files| files.optimizer.is_some()).map(|files| format!("`{}`", files.id)).collect();
        if with.is_empty() {
            let name = reading.optimizer.name();
            notes.add(format!(
                "segment {number} has no checkpoint with an optimizer state: Source through {name} needs one in every segment"
            ));
        } else if with.len() < members.len() {
            notes.add(format!(
                "segment {number} takes second moments from {} alone, {} of its {} checkpoints",
                with.join(", "),
                with.len(),
                members.len()
            ));
        }
    }
}

/// Notes of one stage, with its name in front where there are several.
struct Notes<'a> {
    stage: Option<String>,
    list: &'a mut Vec<String>,
}

impl Notes<'_> {
    fn add(&mut self, note: String) {
        self.list.push(match &self.stage {
            Some(stage) => format!("stage `{stage}`: {note}"),
            None => note,
        });
    }
}

#[cfg(test)]
mod tests;
