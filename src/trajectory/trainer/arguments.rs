//! `training_args.bin`: the fields that say how training went.

use std::path::{Path, PathBuf};

use ascribe_attribution::trajectory::Schedule;

use super::super::pickle::Value;
use super::super::schedule_arguments::{Argument, schedule_kind};
use super::super::torch_zip::TorchFile;
use crate::trajectory::error::ReadError;
use crate::trajectory::reading::Company;
use crate::trajectory::text_treatment::{Blocks, Packing, TextTreatment, TrlRelease};

/// What we take from the arguments, whatever class they are of.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TrainingArguments {
    pub(super) file: PathBuf,
    pub(super) class: String,
    pub(super) learning_rate: f64,
    pub(super) scheduler: String,
    pub(super) scheduler_arguments: Vec<(String, Argument)>,
    /// A number of steps, or below 1 a share of them (transformers 5).
    pub(super) warmup_steps: f64,
    /// A share (transformers 4).
    pub(super) warmup_ratio: f64,
    pub(super) per_device_batch_size: usize,
    pub(super) devices: usize,
    pub(super) processes: Option<usize>,
    pub(super) accumulation: usize,
    /// `average_tokens_across_devices`.
    pub(super) across_processes: bool,
    /// Which examples a batch has: `train_sampling_strategy`, or `group_by_length` of earlier releases.
    pub(super) company: Company,
    pub(super) optimizer: String,
    pub(super) optimizer_arguments: Option<String>,
    pub(super) weight_decay: f64,
    pub(super) betas: (f64, f64),
    pub(super) epsilon: f64,
    pub(super) max_grad_norm: f64,
    pub(super) drops_last: bool,
    pub(super) fp16: bool,
    pub(super) bf16: bool,
    /// Examples of a batch of evaluation on one device.
    pub(super) evaluation_batch: Option<usize>,
    /// Whether the weights of the best checkpoint were taken when training ended.
    pub(super) loads_best: bool,
    /// Whether padding is among the tokens that the Trainer counted, if it counted any.
    pub(super) counts_padding: bool,
    /// What TRL did to the texts, if these are TRL's arguments.
    pub(super) texts: Option<TextTreatment>,
    /// Options that change training and not the loss that scores explain.
    pub(super) training_only: Vec<(&'static str, String)>,
    /// The objective of a trainer of TRL whose objective is not the loss of the examples' own tokens.
    pub(super) other_objective: Option<String>,
}

impl TrainingArguments {
    pub(super) fn read(file: &Path) -> Result<Self, ReadError> {
        let torch = TorchFile::open(file)?;
        let root = torch.value();
        let fields = Fields { file, root };
        let class = root.global().filter(|_| root.is_object());
        let (module, class) = class.ok_or_else(|| ReadError::Entry {
            file: file.to_path_buf(),
            key: "pickle".to_string(),
            found: format!("a {}", root.kind()),
            expected: "an object of training arguments",
        })?;
        let mut training_only = Vec::new();
        for option in ["label_smoothing_factor", "neftune_noise_alpha"] {
            if let Some(value) = fields.optional_number(option)?.filter(|&value| value != 0.0) {
                training_only.push((option, value.to_string()));
            }
        }
        // `nll` in one piece or in several is the loss that scores explain
        let other_objective = other_objective(module, class, root);
        let kind = root.attribute("loss_type").and_then(Value::as_name).filter(|kind| !kind.ends_with("nll"));
        if let Some(kind) = kind.filter(|_| other_objective.is_none()) {
            training_only.push(("loss_type", kind.to_string()));
        }
        let kwargs = root.attribute("lr_scheduler_kwargs");
        let mut scheduler_arguments = Vec::new();
        for (key, value) in kwargs.into_iter().flat_map(Value::entries) {
            let value = match (value.as_f64(), value.as_str()) {
                (Some(number), _) => Argument::Number(number),
                (None, Some(text)) => Argument::Text(text.to_string()),
                (None, None) if value.is_none() => continue,
                (None, None) => Argument::Other(value.kind()),
            };
            scheduler_arguments.push((key.as_str().unwrap_or("?").to_string(), value));
        }
        let distributed = root.attribute("distributed_state");
        let processes = distributed.and_then(|state| state.attribute("num_processes")).and_then(Value::as_usize);
        Ok(Self {
            file: file.to_path_buf(),
            class: format!("{module}.{class}"),
            learning_rate: fields.number("learning_rate")?,
            scheduler: fields.name("lr_scheduler_type")?,
            scheduler_arguments,
            warmup_steps: fields.optional_number("warmup_steps")?.unwrap_or(0.0),
            warmup_ratio: fields.optional_number("warmup_ratio")?.unwrap_or(0.0),
            per_device_batch_size: fields.count("per_device_train_batch_size")?,
            // Without a GPU the Trainer records none and trains on one device.
            devices: root.attribute("_n_gpu").and_then(Value::as_usize).unwrap_or(1).max(1),
            processes,
            accumulation: fields.count("gradient_accumulation_steps")?,
            across_processes: root.attribute("average_tokens_across_devices").and_then(Value::as_bool).unwrap_or(false),
            company: match root.attribute("train_sampling_strategy").and_then(Value::as_name) {
                Some("random") => Company::Drawn,
                Some("group_by_length") => Company::OfLikeLength,
                Some(_) => Company::Other,
                None if root.attribute("group_by_length").and_then(Value::as_bool) == Some(true) => {
                    Company::OfLikeLength
                }
                None => Company::Drawn,
            },
            optimizer: fields.name("optim")?,
            optimizer_arguments: root.attribute("optim_args").and_then(Value::as_str).map(str::to_string),
            weight_decay: fields.number("weight_decay")?,
            betas: (fields.number("adam_beta1")?, fields.number("adam_beta2")?),
            epsilon: fields.number("adam_epsilon")?,
            max_grad_norm: fields.optional_number("max_grad_norm")?.unwrap_or(0.0),
            drops_last: root.attribute("dataloader_drop_last").and_then(Value::as_bool).unwrap_or(false),
            fp16: root.attribute("fp16").and_then(Value::as_bool).unwrap_or(false),
            bf16: root.attribute("bf16").and_then(Value::as_bool).unwrap_or(false),
            evaluation_batch: root.attribute("per_device_eval_batch_size").and_then(Value::as_usize),
            loads_best: root.attribute("load_best_model_at_end").and_then(Value::as_bool).unwrap_or(false),
            counts_padding: root.attribute("include_num_input_tokens_seen").and_then(Value::as_name)
                != Some("non_padding"),
            texts: text_treatment(file, root),
            training_only,
            other_objective,
        })
    }

    /// Warm-up steps of a run of `max_steps`, as the Trainer resolves them.
    pub(super) fn warmup(&self, max_steps: usize) -> usize {
        let share = |share: f64| (max_steps as f64 * share).ceil() as usize;
        if self.warmup_steps >= 1.0 {
            self.warmup_steps as usize
        } else if self.warmup_steps > 0.0 {
            share(self.warmup_steps)
        } else {
            share(self.warmup_ratio.max(0.0))
        }
    }

    /// The schedule's closed form with a base rate, or `None` if it has none that we know.
    pub(super) fn schedule(&self, base: f64, max_steps: usize) -> Result<Option<Schedule>, ReadError> {
        let kind = schedule_kind(&self.scheduler, &self.scheduler_arguments, base);
        let Some(kind) = kind else { return Ok(None) };
        Schedule::new(kind, base, self.warmup(max_steps), max_steps)
            .map(Some)
            .map_err(|problem| ReadError::Numbers { source_path: self.file.clone(), problem })
    }

    /// The first field but the schedule's in which two checkpoints' arguments differ and training would have: (name,
    /// here, there). A run that is resumed may have another schedule.
    pub(super) fn difference(&self, other: &Self) -> Option<(&'static str, String, String)> {
        fn show(value: &impl std::fmt::Debug) -> String {
            format!("{value:?}")
        }
        macro_rules! compare {
            ($($name:literal => $field:ident),* $(,)?) => {
                $(if self.$field != other.$field {
                    return Some(($name, show(&self.$field), show(&other.$field)));
                })*
            };
        }
        compare!(
            "per_device_train_batch_size" => per_device_batch_size,
            "gradient_accumulation_steps" => accumulation,
            "optim" => optimizer,
            "optim_args" => optimizer_arguments,
            "weight_decay" => weight_decay,
            "betas" => betas,
            "adam_epsilon" => epsilon,
            "max_grad_norm" => max_grad_norm,
        );
        None
    }
}

/// What a trainer of TRL other than `SFTTrainer` minimises, by the class of its arguments and the losses that they name:
/// preferences between two answers, rewards, or what a policy earns. `None` of other arguments.
fn other_objective(module: &str, class: &str, root: Value<'_>) -> Option<String> {
    if !module.starts_with("trl.") || class == "SFTConfig" {
        return None;
    }
    let losses = root.attribute("loss_type");
    let names: Vec<&str> = match losses.and_then(Value::elements) {
        Some(several) => several.iter().filter_map(Value::as_name).collect(),
        None => losses.and_then(Value::as_name).into_iter().collect(),
    };
    let losses = if names.is_empty() { String::new() } else { format!(", `loss_type` {}", names.join(" and ")) };
    Some(format!("{class}{losses}"))
}

/// What TRL's `SFTConfig`, or a class made of it, says of texts; `None` of other arguments, and where the user prepared
/// the data.
fn text_treatment(file: &Path, root: Value<'_>) -> Option<TextTreatment> {
    let flag = |key: &str| root.attribute(key).and_then(Value::as_bool);
    let name = |key: &str| root.attribute(key).and_then(Value::as_name);
    let packs = flag("packing")?;
    let length = root.attribute("max_length").or_else(|| root.attribute("max_seq_length"))?;
    let of_data = |key: &str| root.attribute("dataset_kwargs")?.get(key)?.as_bool();
    if of_data("skip_prepare_dataset") == Some(true) {
        return None;
    }
    let release = release(root);
    let packing = match name("packing_strategy") {
        _ if !packs => Packing::None,
        None if release == TrlRelease::UpTo14 => {
            Packing::Blocks(Blocks { wrapped: false, processes: 1, shuffled: true })
        }
        None | Some("wrapped") => Packing::Blocks(Blocks {
            wrapped: true,
            processes: root.attribute("dataset_num_proc").and_then(Value::as_usize).unwrap_or(1).max(1),
            shuffled: flag("shuffle_dataset").unwrap_or(false),
        }),
        Some(strategy) => Packing::Whole { strategy: strategy.to_string() },
    };
    Some(TextTreatment {
        file: file.to_path_buf(),
        release,
        max_length: length.as_usize(),
        packing,
        keeps_end: name("truncation_mode") == Some("keep_end"),
        text_field: name("dataset_text_field").map(str::to_string),
        padding_free: flag("padding_free").unwrap_or(false),
        completion_only: flag("completion_only_loss"),
        assistant_only: flag("assistant_only_loss").unwrap_or(false),
        end_token: name("eos_token").map(str::to_string),
        chat_template: name("chat_template_path").map(str::to_string),
        tokenizer_adds: of_data("add_special_tokens"),
        joins_with_end: of_data("append_concat_token").unwrap_or(true),
    })
}

/// The releases whose `SFTConfig` has these fields: `max_length` came with 0.16 and `completion_only_loss` with 0.17, and
/// 0.15 no longer had numbers for the buffer of packing.
fn release(root: Value<'_>) -> TrlRelease {
    let has = |key: &str| root.attribute(key).is_some();
    if has("completion_only_loss") {
        TrlRelease::From17
    } else if has("max_length") {
        TrlRelease::Of16
    } else if root.attribute("num_of_sequences").is_none_or(|buffer| !buffer.is_none()) {
        TrlRelease::UpTo14
    } else {
        TrlRelease::Of15
    }
}

struct Fields<'a> {
    file: &'a Path,
    root: Value<'a>,
}

impl Fields<'_> {
    fn error(&self, key: &str, expected: &'static str) -> ReadError {
        let found = self.root.attribute(key).map_or("missing".to_string(), |value| format!("{value:?}"));
        ReadError::Entry { file: self.file.to_path_buf(), key: key.to_string(), found, expected }
    }

    fn optional_number(&self, key: &str) -> Result<Option<f64>, ReadError> {
        match self.root.attribute(key) {
            None => Ok(None),
            Some(value) if value.is_none() => Ok(None),
            Some(value) => {
                let number = value.as_f64().filter(|number| number.is_finite());
                number.map(Some).ok_or_else(|| self.error(key, "a finite number"))
            }
        }
    }

    fn number(&self, key: &str) -> Result<f64, ReadError> {
        self.optional_number(key)?.ok_or_else(|| self.error(key, "a finite number"))
    }

    fn count(&self, key: &str) -> Result<usize, ReadError> {
        let count = self.root.attribute(key).and_then(Value::as_usize).filter(|&count| count > 0);
        count.ok_or_else(|| self.error(key, "a number of at least 1"))
    }

    fn name(&self, key: &str) -> Result<String, ReadError> {
        let name = self.root.attribute(key).and_then(Value::as_name);
        name.map(str::to_string).ok_or_else(|| self.error(key, "a name"))
    }
}

#[cfg(test)]
mod tests {
    use ascribe_attribution::trajectory::ScheduleKind;

    use super::*;

    fn read(run: &str) -> TrainingArguments {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/trajectory").join(run);
        TrainingArguments::read(&folder.join("training_args.bin")).unwrap()
    }

    #[test]
    fn arguments_are_what_the_generator_gave() {
        let arguments = read("polynomial-10/checkpoint-36");
        assert_eq!(arguments.class, "transformers.training_args.TrainingArguments");
        assert_eq!((arguments.learning_rate, arguments.scheduler.as_str()), (2e-3, "polynomial"));
        assert_eq!((arguments.per_device_batch_size, arguments.accumulation, arguments.devices), (4, 2, 1));
        assert_eq!((arguments.processes, arguments.fp16, arguments.drops_last), (Some(1), false, false));
        assert_eq!((arguments.betas, arguments.epsilon, arguments.max_grad_norm), ((0.9, 0.999), 1e-8, 1.0));
        assert_eq!(
            arguments.schedule(2e-3, 36).unwrap().unwrap().kind,
            ScheduleKind::Polynomial { end: 1e-5, power: 2.0 }
        );
        assert_eq!(arguments.warmup(36), 4);
        // A share of the steps, rounded up.
        assert_eq!((read("cosine-1/checkpoint-24").warmup(24), read("cosine-1/checkpoint-24").warmup(30)), (3, 3));
        assert_eq!(read("sgd-gpt2/checkpoint-8").optimizer_arguments.as_deref(), Some("momentum=0.9"));
        assert!(read("plateau-gpt2/checkpoint-8").schedule(1e-2, 20).unwrap().is_none());
        assert_eq!(arguments.difference(&arguments), None);
        assert_eq!(arguments.difference(&read("linear-10/checkpoint-36")), None, "another schedule");
        assert_eq!(arguments.difference(&read("linear-1/checkpoint-24")).unwrap().0, "gradient_accumulation_steps");
    }

    /// `SFTConfig`s that these releases wrote (`fixtures/generators/trl_releases.py`): no field names the release.
    #[test]
    fn releases_of_trl_are_known_by_their_fields() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/trajectory/releases");
        let read = |name: &str| TrainingArguments::read(&folder.join(format!("{name}.bin"))).unwrap().texts.unwrap();
        for (version, release) in [
            ("0.12.2", TrlRelease::UpTo14),
            ("0.14.0", TrlRelease::UpTo14),
            ("0.15.2", TrlRelease::Of15),
            ("0.16.1", TrlRelease::Of16),
            ("0.17.0", TrlRelease::From17),
        ] {
            let texts = read(version);
            assert_eq!((texts.release, texts.max_length), (release, Some(64)), "{version}");
            assert_eq!((texts.completion_only, texts.end_token.as_deref()), (None, None), "{version}");
            let wrapped = release > TrlRelease::UpTo14;
            let blocks = Blocks { wrapped, processes: 1, shuffled: !wrapped };
            assert_eq!(read(&format!("{version}-packed")).packing, Packing::Blocks(blocks), "{version}");
        }
    }

    /// What a trainer's own arguments say of special tokens after it prepared texts, or conversations
    /// (`fixtures/generators/completion_only.py`).
    #[test]
    fn arguments_of_earlier_releases_say_what_the_tokenizer_added() {
        use crate::data::{FromTokenizer, InConversations};
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        let read = |name: &str| TrainingArguments::read(&root.join(name)).unwrap().texts.unwrap();
        for (file, expected) in [
            ("completion-only/0.12.2-bare", (FromTokenizer::None, InConversations::Bare)),
            ("completion-only/0.12.2-messages", (FromTokenizer::None, InConversations::Bare)),
            ("completion-only/0.12.2-joined", (FromTokenizer::KeepOwn, InConversations::Bare)),
            ("trajectory/releases/0.12.2", (FromTokenizer::KeepOwn, InConversations::Bare)),
            ("trajectory/releases/0.15.2", (FromTokenizer::KeepOwn, InConversations::Tokenizer)),
            ("completion-only/0.16.1", (FromTokenizer::KeepOwn, InConversations::TokenizerAndEnd)),
            ("trainer-turns/texts/training_args", (FromTokenizer::KeepOwn, InConversations::Bare)),
        ] {
            let texts = read(&format!("{file}.bin"));
            assert_eq!(texts.special_tokens(), expected, "{file}");
            assert_eq!(texts.joins_with_end, !file.ends_with("joined"), "{file}");
        }
        assert_eq!(read("trainer-turns/named/training_args.bin").chat_template.as_deref(), Some("qwen3.jinja"));
    }

    #[test]
    fn objectives_that_are_no_losses_of_texts_are_named() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/trajectory/objectives");
        let read = |name: &str| TrainingArguments::read(&folder.join(format!("{name}.bin"))).unwrap();
        let named = |name: &str| read(name).other_objective;
        assert_eq!(named("dpo").as_deref(), Some("DPOConfig, `loss_type` sigmoid and sft"));
        assert_eq!(named("reward").as_deref(), Some("RewardConfig"));
        assert!(named("kto").unwrap().starts_with("KTOConfig"), "{:?}", named("kto"));
        assert!(named("grpo").unwrap().starts_with("GRPOConfig"), "{:?}", named("grpo"));
        assert_eq!(named("sft"), None);
        assert!(read("dpo").training_only.is_empty() && read("sft").texts.is_some());
    }

    #[test]
    fn other_pickles_are_no_arguments() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/trajectory/linear-1/checkpoint-24");
        let error = TrainingArguments::read(&folder.join("scheduler.pt")).unwrap_err();
        assert!(error.to_string().ends_with("`pickle` is a dict, expected an object of training arguments"), "{error}");
    }

    #[test]
    fn an_unknown_schedule_argument_means_an_unknown_form() {
        let mut arguments = read("cosine-1/checkpoint-24");
        arguments.scheduler_arguments.push(("offset".to_string(), Argument::Number(3.0)));
        assert!(arguments.schedule(2e-3, 24).unwrap().is_none());
    }
}
