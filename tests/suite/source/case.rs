//! Training runs of the fixtures as jobs, in `f64`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use ascribe::attribution::{Event, Observer, Pass};
use ascribe::data::{DataOptions, Dataset, ReadReport, Role, Specials, Tokenizer, Which, read_rows, read_tokens};
use ascribe::job::{Job, Plan, Precision, Side, SourceRequest};
use ascribe::model::Limits;
use ascribe::trajectory::TrajectoryRequest;
use ascribe::trajectory::request::SegmentRequest;

use crate::support::fixture;
use crate::support::recorded::Recorded;

/// A training run, the data of its stages and queries.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) request: TrajectoryRequest,
    /// Stages and their training examples; a run of one stage has one.
    pub(crate) stages: Vec<(String, PathBuf)>,
    pub(crate) queries: PathBuf,
    /// What `expected.safetensors` of the run's generator says of it, where the job's own reading is in question.
    pub(crate) recorded: Option<AsRecorded>,
}

/// What is known of a run without reading its optimizer.
#[derive(Debug, Clone)]
pub(crate) struct AsRecorded {
    /// Layers that it trained; none: all.
    pub(crate) trained_layers: Vec<String>,
    /// What multiplies the rates of a layer.
    pub(crate) layer_rates: BTreeMap<String, f64>,
    /// A file of second moments.
    pub(crate) second_moments: PathBuf,
}

impl Case {
    /// 720 steps of SGD with weight decay, six checkpoints, a classifier of three layers.
    pub(crate) fn sgd() -> Self {
        Self {
            request: with_segments("mlp-trajectory", "3"),
            stages: vec![("training".into(), fixture("mlp-tiny/train.safetensors"))],
            queries: fixture("mlp-tiny/query.safetensors"),
            recorded: None,
        }
    }

    /// 240 steps of the Hugging Face Trainer with AdamW, four checkpoints, a GPT-2 of two blocks.
    pub(crate) fn adamw(segments: &str) -> Self {
        Self {
            request: with_segments("trainer-tiny", segments),
            stages: vec![("training".into(), fixture("trainer-tiny/train.jsonl"))],
            queries: fixture("trainer-tiny/queries.jsonl"),
            recorded: None,
        }
    }

    /// 60 steps of the Trainer with AdamW on the same data, two checkpoints; embeddings, the first of two blocks and a
    /// norm of the second were frozen.
    pub(crate) fn frozen() -> Self {
        Self {
            request: with_segments("trainer-frozen", "2"),
            recorded: Some(AsRecorded {
                trained_layers: layers_of_block(1),
                layer_rates: BTreeMap::new(),
                second_moments: fixture("trainer-frozen/expected.safetensors"),
            }),
            ..Self::adamw("2")
        }
    }

    /// The same, with all layers trained and a tenth of the rate for embeddings and the first block.
    pub(crate) fn grouped() -> Self {
        Self {
            request: with_segments("trainer-groups", "2"),
            recorded: Some(AsRecorded {
                trained_layers: vec![],
                layer_rates: layers_of_block(0).into_iter().map(|layer| (layer, 0.1)).collect(),
                second_moments: fixture("trainer-groups/expected.safetensors"),
            }),
            ..Self::adamw("2")
        }
    }

    /// The job, with every choice at its default.
    pub(crate) fn job(&self, out: &Path) -> Job {
        let mut job = Job::new("", "", out);
        match self.stages.as_slice() {
            [(_, only)] => job.data.train.clone_from(only),
            several => job.data.stages = several.iter().cloned().collect(),
        }
        job.data.queries = Some(self.queries.clone());
        job.data.add_eos = Side::Train;
        job.data.tokenizer =
            self.queries.extension().is_some_and(|kind| kind == "jsonl").then(|| fixture("trainer-tiny"));
        job.model.dtype = Precision::F64;
        job.resources.batch_tokens = Some(crate::support::passes::BATCH);
        job.source = Some(SourceRequest::new(self.request.clone()));
        job
    }

    /// Runs the job after `change`, in a new folder.
    pub(crate) fn run(&self, change: impl FnOnce(&mut Job)) -> Done {
        let folder = tempfile::tempdir().expect("a folder");
        let mut job = self.job(folder.path());
        change(&mut job);
        let passes = run(job);
        Done { folder, passes }
    }

    /// Examples as the job reads them.
    pub(crate) fn read(&self, file: &Path, role: Role, limits: Limits) -> (Dataset, ReadReport) {
        match limits {
            Limits::Rows(limits) => read_rows(file, limits).expect("rows"),
            Limits::Tokens(limits) => {
                let tokenizer = Arc::new(Tokenizer::find(&fixture("trainer-tiny"), None).expect("a tokenizer"));
                let specials = Specials { add_eos: Which::Train, ..Specials::default() };
                let options = DataOptions { specials, ..DataOptions::default() };
                read_tokens(file, role, Some(&tokenizer), limits, options).expect("text")
            }
        }
    }
}

fn layers_of_block(block: usize) -> Vec<String> {
    ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
        .map(|layer| format!("transformer.h.{block}.{layer}"))
        .into()
}

fn with_segments(folder: &str, segments: &str) -> TrajectoryRequest {
    let segments: SegmentRequest = segments.parse().expect("a rule");
    TrajectoryRequest { segments, ..TrajectoryRequest::new(fixture(folder)) }
}

/// Runs a job; returns the passes that were begun, in order.
pub(crate) fn run(job: Job) -> Vec<Pass> {
    let watch = Watch::default();
    Plan::resolve(job).expect("sound inputs").run(&watch).expect("a whole run");
    watch.0.into_inner().expect("nobody panicked")
}

#[derive(Default)]
struct Watch(Mutex<Vec<Pass>>);

impl Observer for Watch {
    fn event(&self, event: Event) {
        if let Event::Started { pass, .. } = event {
            self.0.lock().expect("nobody panicked").push(pass);
        }
    }

    fn interrupted(&self) -> bool {
        false
    }
}

/// A finished run.
pub(crate) struct Done {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) passes: Vec<Pass>,
}

impl Done {
    pub(crate) fn file(&self, name: &str) -> Recorded {
        Recorded::open(&self.folder.path().join(name))
    }

    /// `scores.safetensors`, or that of another answer: `[Q, N]`.
    pub(crate) fn scores(&self, answer: &str) -> Vec<f64> {
        let name = if answer.is_empty() { "scores.safetensors".into() } else { format!("scores.{answer}.safetensors") };
        self.file(&name).values("scores")
    }

    pub(crate) fn self_influence(&self) -> Vec<f64> {
        self.file("self_influence.safetensors").values("self_influence")
    }

    /// The artifacts of a kind.
    pub(crate) fn artifacts(&self, kind: &str) -> Vec<Recorded> {
        let folder = std::fs::read_dir(self.folder.path().join("artifacts")).expect("artifacts");
        let paths = folder.map(|entry| entry.expect("readable").path());
        let name = |path: &Path| path.file_name().expect("a file").to_string_lossy().into_owned();
        paths.filter(|path| name(path).starts_with(&format!("{kind}-"))).map(|path| Recorded::open(&path)).collect()
    }
}
