//! Over which examples training took a mean over label tokens, and what that does to the weight of one example.
//!
//! Source takes the loss of every example with one scale, one over the mean number of label tokens. Training divided by
//! the label tokens of a micro-batch, or of all micro-batches of an update, so an example with few of them in small
//! company counted more.
//!
//! # Source
//! transformers' `trainer.py`: before 4.46 the model's own mean over a micro-batch, by the number of micro-batches; from
//! then on the sum by the label tokens of the accumulated micro-batches, where the model takes their number
//! (`num_items_in_batch`), over all processes where `average_tokens_across_devices` says so.

use crate::trajectory::reading::{Batch, Company};
use crate::trajectory::version::TransformersVersion;

/// The release that began to divide by the label tokens of all micro-batches.
const ACCUMULATED: TransformersVersion = TransformersVersion::new(4, 46);

/// The release from which on every model takes their number.
const TAKEN_BY_ALL: TransformersVersion = TransformersVersion::new(5, 0);

/// Classes that take the number since the release that began with it; others followed one by one.
const FIRST: [&str; 2] = ["LlamaForCausalLM", "Qwen2ForCausalLM"];

/// Classes that are given the number by transformers 5 and do not use it.
const UNUSED: [&str; 8] = [
    "T5ForConditionalGeneration",
    "MT5ForConditionalGeneration",
    "BertForMaskedLM",
    "RobertaForMaskedLM",
    "XLMRobertaForMaskedLM",
    "DistilBertForMaskedLM",
    "ElectraForMaskedLM",
    "CamembertForMaskedLM",
];

/// Over which examples of an update the mean over label tokens is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// A micro-batch of one device.
    MicroBatch,
    /// A micro-batch of one device, and the means of an update's micro-batches were added up instead of averaged.
    MicroBatchSummed,
    /// All micro-batches of an update in one process.
    Accumulated,
    /// All micro-batches of an update in all processes.
    Processes,
    /// A micro-batch or all of them: the release of transformers that would tell is not known, or which classes took the
    /// number of label tokens in it.
    Either,
}

/// Over what training took its mean, as far as the files say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Averaging {
    /// Over which examples.
    pub over: Over,
    /// How many these are; of [`Over::Either`] those of a micro-batch, the fewest that it can be.
    pub examples: usize,
}

impl Averaging {
    /// What a release of transformers does with a model of this class, in batches of so many examples.
    pub fn of(version: Option<TransformersVersion>, class: &str, batch: Batch) -> Self {
        let micro = (batch.per_process / batch.devices.max(1)).max(1);
        let accumulated = batch.per_process.saturating_mul(batch.accumulation).max(1);
        let processes = batch.processes.unwrap_or(1);
        let whole = match batch.across_processes && processes > 1 {
            true => Self { over: Over::Processes, examples: accumulated.saturating_mul(processes) },
            false => Self { over: Over::Accumulated, examples: accumulated },
        };
        let of_micro = |over| Self { over, examples: micro };
        match version {
            // all the same
            _ if whole.examples == micro => whole,
            Some(version) if version < ACCUMULATED => of_micro(Over::MicroBatch),
            Some(version) if version >= TAKEN_BY_ALL && UNUSED.contains(&class) => of_micro(Over::MicroBatchSummed),
            Some(version) if version >= TAKEN_BY_ALL || FIRST.contains(&class) => whole,
            _ => of_micro(Over::Either),
        }
    }

    /// What examples counted, where that is recorded.
    pub fn weights(self, batch: Batch, targets: Targets) -> Option<ExampleWeights> {
        let known = self.over != Over::Either && batch.company != Company::Other;
        known.then_some(ExampleWeights { examples: self.examples, company: batch.company, targets })
    }

    /// The averaging in words, and what it does to examples of few and of many targets.
    ///
    /// `applied` says that scores are multiplied with what examples counted.
    pub fn sentence(
        self,
        version: Option<TransformersVersion>,
        batch: Batch,
        targets: Option<&Targets>,
        applied: bool,
    ) -> String {
        let Self { over, examples } = self;
        let by = version
            .map_or("transformers of a version that is not recorded".to_owned(), |v| format!("transformers {v}"));
        let counted = |n: usize, what: &str| if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") };
        let (micro, processes) = (batch.accumulation, batch.processes.unwrap_or(1));
        let each = match over {
            Over::Accumulated if micro == 1 => {
                format!("{by} divides by the label tokens of the {} of a batch", counted(examples, "example"))
            }
            Over::Accumulated => format!(
                "{by} divides by the label tokens of all {} of the {micro} micro-batches of an update",
                counted(examples, "example")
            ),
            Over::Processes => format!(
                "{by} divides by the label tokens of all {} of an update in {processes} processes (`average_tokens_across_devices`)",
                counted(examples, "example")
            ),
            Over::MicroBatch => format!(
                "{by} divides by the label tokens of each micro-batch of {} by itself",
                counted(examples, "example")
            ),
            Over::MicroBatchSummed => format!(
                "{by} gives this class the label tokens of an update, which it does not use: each micro-batch of {} is a mean by itself, and an update is their sum, {} times the mean that is taken here (`--loss-scale` states another)",
                counted(examples, "example"),
                micro.saturating_mul(if batch.across_processes { processes } else { 1 })
            ),
            Over::Either => format!(
                "whether {by} divides by the label tokens of a micro-batch of {} or of a whole update is not recorded",
                counted(examples, "example")
            ),
        };
        let each = match batch.company {
            Company::OfLikeLength => format!("{each}, which were of about the same length (`group_by_length`)"),
            Company::Other => return format!("{each}, which were not drawn at random from all"),
            Company::Drawn => each,
        };
        let weights = targets.map(|&targets| ExampleWeights { examples, company: batch.company, targets });
        let Some(effect) = weights.and_then(|weights| weights.effect()) else {
            let near = "; scores are multiplied with what an example counted so, which is near 1 (`--example-weights batches`)";
            return if applied { each + near } else { each };
        };
        let ([(few, more), (many, less)], at_most) = (effect, if over == Over::Either { "up to " } else { "" });
        if applied {
            return format!(
                "{each}; scores are multiplied with what an example counted so, {more:.2} for one of {} and {less:.2} for one of {} (`--example-weights batches`)",
                counted(few, "target"),
                counted(many, "target")
            );
        }
        // where it is not recorded there are no weights to count
        let flag = if over == Over::Either { "" } else { " (`--example-weights batches` counts that)" };
        format!(
            "{each}; scores take every target alike, so that an example of {} counted {at_most}{more:.2} times what its score says, and one of {} {less:.2} times{flag}",
            counted(few, "target"),
            counted(many, "target")
        )
    }
}

/// How many targets examples have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Targets {
    /// The mean.
    pub mean: f64,
    /// The variance.
    pub variance: f64,
    /// A number that one example in twenty does not exceed.
    pub few: usize,
    /// A number that one in twenty reaches.
    pub many: usize,
}

/// What is no news: a weight so near to 1.
const ALIKE: f64 = 0.05;

impl Targets {
    /// The mean, the variance and both ends of the numbers of targets of a sample; `None` if the sample is empty.
    pub fn of(mut counts: Vec<usize>) -> Option<Self> {
        counts.sort_unstable();
        let n = counts.len() as f64;
        let (few, many) = (*counts.get(counts.len() / 20)?, *counts.get(counts.len() - 1 - counts.len() / 20)?);
        let mean = counts.iter().sum::<usize>() as f64 / n;
        let variance = counts.iter().map(|&count| (count as f64 - mean).powi(2)).sum::<f64>() / n;
        Some(Self { mean, variance, few, many })
    }

    /// What an example of `targets` counts in a mean over the targets of `examples`, beside one over as many as they have
    /// on average: `n T̄ E[1 / (t + S)]`, with S those of the other examples, to second order in their variance.
    pub fn weight(&self, targets: usize, examples: usize) -> f64 {
        let others = examples.saturating_sub(1) as f64;
        let sum = targets as f64 + others * self.mean;
        examples as f64 * self.mean / sum * (1.0 + others * self.variance / (sum * sum))
    }
}

/// What the examples of a stage counted in the means that training took, beside the mean over all targets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExampleWeights {
    /// Examples that a mean was over.
    pub examples: usize,
    /// Which examples these were.
    pub company: Company,
    /// The targets of the stage's examples.
    pub targets: Targets,
}

impl ExampleWeights {
    /// What an example of so many targets counted: the mean over the orders of the data, to second order; among examples
    /// of its own length the mean number of targets by its own.
    pub fn weight(&self, targets: usize) -> f64 {
        match self.company {
            Company::OfLikeLength => self.targets.mean / targets.max(1) as f64,
            Company::Drawn | Company::Other => self.targets.weight(targets, self.examples),
        }
    }

    /// The weights of an example of few and of one of many targets, if one of them is far from 1.
    fn effect(&self) -> Option<[(usize, f64); 2]> {
        let ends = [self.targets.few, self.targets.many];
        let both = ends.map(|targets| (targets.max(1), self.weight(targets.max(1))));
        both.iter().any(|(_, weight)| (weight - 1.0).abs() > ALIKE).then_some(both)
    }
}

/// Which examples were in the company of others, by the batch's sampler and the data: batches of like length are made
/// of several batches that are sorted together, at most 50 and as many as make a quarter of the data.
pub(super) fn company(batch: Batch, examples: Option<usize>, is_masked: bool) -> Company {
    /// Batches that have to be sorted together for the examples of each batch to be of like length.
    const MANY: usize = 8;
    let together =
        examples.map_or(MANY, |n| n / batch.per_process.saturating_mul(batch.accumulation).saturating_mul(4).max(1));
    match batch.company {
        // lengths are those of inputs
        Company::OfLikeLength if is_masked => Company::Other,
        Company::OfLikeLength if together >= MANY => Company::OfLikeLength,
        // each batch is sorted by itself
        Company::OfLikeLength if together <= 1 && batch.accumulation == 1 => Company::Drawn,
        Company::OfLikeLength => Company::Other,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(accumulation: usize, processes: usize, across_processes: bool) -> Batch {
        let processes = Some(processes);
        Batch { per_process: 4, devices: 1, accumulation, processes, across_processes, company: Company::Drawn }
    }

    #[test]
    fn releases_divide_by_the_tokens_of_a_micro_batch_or_of_an_update() {
        let of = |version: &str, class: &str, batch: Batch| {
            let Averaging { over, examples } = Averaging::of(TransformersVersion::parse(version), class, batch);
            (over, examples)
        };
        let (llama, gpt2, t5) = ("LlamaForCausalLM", "GPT2LMHeadModel", "T5ForConditionalGeneration");
        assert_eq!(of("4.45.2", llama, batch(8, 1, false)), (Over::MicroBatch, 4));
        assert_eq!(of("4.46.0", llama, batch(8, 1, false)), (Over::Accumulated, 32));
        assert_eq!(of("4.46.0", llama, batch(8, 2, false)), (Over::Accumulated, 32));
        assert_eq!(of("4.57.1", llama, batch(8, 2, true)), (Over::Processes, 64));
        assert_eq!(of("4.46.0", gpt2, batch(8, 1, false)), (Over::Either, 4));
        assert_eq!(of("5.24.0", gpt2, batch(8, 1, true)), (Over::Accumulated, 32));
        assert_eq!(of("5.24.0", t5, batch(8, 1, true)), (Over::MicroBatchSummed, 4));
        assert_eq!(of("nothing", llama, batch(8, 1, false)), (Over::Either, 4));
        // with one micro-batch in one process it is the same
        for version in ["4.20.0", "4.50.0", "5.24.0", "nothing"] {
            assert_eq!(of(version, gpt2, batch(1, 1, true)), (Over::Accumulated, 4), "{version}");
        }
        let two = Batch { per_process: 8, devices: 2, ..batch(1, 1, false) };
        assert_eq!(of("4.40.0", llama, two), (Over::MicroBatch, 4));
    }

    /// Drawn batches in f64: the mean of `n T̄ / (t + S)` over many.
    #[test]
    fn weights_are_those_of_drawn_batches() {
        let counts: Vec<usize> = (0..40).map(|k| 20 + 3 * (k % 11)).collect();
        let targets = Targets::of(counts.clone()).unwrap();
        let mut state = 1u64;
        let mut draw = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            counts[(state >> 33) as usize % counts.len()]
        };
        for n in [1, 2, 8] {
            for t in [20, 35, 50] {
                let sum: f64 = (0..20_000).map(|_| 1.0 / (t + (1..n).map(|_| draw()).sum::<usize>()) as f64).sum();
                let drawn = n as f64 * targets.mean * sum / 20_000.0;
                assert!((targets.weight(t, n) - drawn).abs() < 0.01, "{n} {t}: {} {drawn}", targets.weight(t, n));
            }
        }
        // a batch of one is the mean of its own targets
        assert_eq!(targets.weight(20, 1), targets.mean / 20.0);
        // all examples together take every target alike
        let whole = ExampleWeights { examples: 100_000, company: Company::Drawn, targets };
        assert!((whole.weight(20) - 1.0).abs() < 1e-3 && whole.effect().is_none());
        // examples of one length are each other's company
        let alike = ExampleWeights { examples: 8, company: Company::OfLikeLength, targets };
        assert_eq!(alike.weight(20), targets.mean / 20.0);
    }

    #[test]
    fn weights_are_known_where_the_release_and_the_sampler_are() {
        let targets = Targets::of(vec![10, 20, 30, 40]).unwrap();
        let known = |version: &str, company| {
            let batch = Batch { company, ..batch(8, 1, false) };
            Averaging::of(TransformersVersion::parse(version), "LlamaForCausalLM", batch).weights(batch, targets)
        };
        assert_eq!(known("4.40.0", Company::Drawn).map(|weights| weights.examples), Some(4));
        assert_eq!(known("4.50.0", Company::OfLikeLength).map(|weights| weights.examples), Some(32));
        assert_eq!(known("4.40.0", Company::Other), None);
        assert_eq!(known("nothing", Company::Drawn), None);
        // the weight is the mean over all pairs: n T̄ E[1 / (t + S)] for n = 2, here of the other three
        let pairs = ExampleWeights { examples: 2, company: Company::Drawn, targets };
        let exact = |t: f64| [10.0, 20.0, 30.0, 40.0].iter().map(|s| 2.0 * 25.0 / (t + s)).sum::<f64>() / 4.0;
        for t in [10, 40] {
            assert!((pairs.weight(t) / exact(t as f64) - 1.0).abs() < 0.02, "{t}: {}", pairs.weight(t));
        }
    }

    #[test]
    fn batches_of_like_length_need_many_that_are_sorted_together() {
        let of = |accumulation, examples, is_masked| {
            company(Batch { company: Company::OfLikeLength, ..batch(accumulation, 1, false) }, examples, is_masked)
        };
        // batches of 4: 8 of them together where there are 128 examples
        assert_eq!(of(1, Some(128), false), Company::OfLikeLength);
        assert_eq!(of(1, Some(127), false), Company::Other);
        assert_eq!(of(1, Some(31), false), Company::Drawn);
        assert_eq!(of(2, Some(31), false), Company::Other);
        assert_eq!(of(1, Some(128), true), Company::Other);
        assert_eq!(company(batch(2, 1, false), Some(31), true), Company::Drawn);
        let version = TransformersVersion::parse("4.40.0");
        let other = Batch { company: Company::Other, ..batch(8, 1, false) };
        let micro = Averaging::of(version, "LlamaForCausalLM", other);
        let targets = Targets { mean: 40.0, variance: 100.0, few: 20, many: 60 };
        let text = micro.sentence(version, other, Some(&targets), false);
        assert!(text.ends_with("by itself, which were not drawn at random from all"), "{text}");
    }

    #[test]
    fn the_effect_stands_beside_what_was_divided_by() {
        let targets = Targets { mean: 40.0, variance: 100.0, few: 20, many: 60 };
        let version = TransformersVersion::parse("4.40.0");
        let micro = Averaging::of(version, "LlamaForCausalLM", batch(8, 1, false));
        let text = micro.sentence(version, batch(8, 1, false), Some(&targets), false);
        let expected = "transformers 4.40 divides by the label tokens of each micro-batch of 4 examples by itself; scores take every target alike, so that an example of 20 targets counted 1.16 times what its score says, and one of 60 targets 0.90 times (`--example-weights batches` counts that)";
        assert_eq!(text, expected);
        let text = micro.sentence(version, batch(8, 1, false), Some(&targets), true);
        assert!(text.contains("by itself; scores are multiplied with what an example counted so, 1.16 for"), "{text}");
        let alike = Batch { company: Company::OfLikeLength, ..batch(8, 1, false) };
        let text = micro.sentence(version, alike, Some(&targets), false);
        assert!(text.contains("(`group_by_length`); scores take") && text.contains("counted 2.00 times"), "{text}");
        let summed = Averaging { over: Over::MicroBatchSummed, examples: 4 };
        let text = summed.sentence(TransformersVersion::parse("5.24.0"), batch(8, 2, true), None, false);
        assert!(text.contains("an update is their sum, 16 times the mean that is taken here"), "{text}");
    }
}
