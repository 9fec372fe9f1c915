//! Jobs that keep little in memory leave the bytes of those that keep everything.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::attribution::store::{Shard, TensorFile};
use crate::attribution::{Event, Observer};
use crate::curvature::Graphs;
use crate::job::plan::Plan;
use crate::job::request::{Curvature, Job, TokensRequest};
use crate::model::Residence;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// A run of this checkpoint that reads weights by section, keeps no mapped page, and fits a few layers at a time.
fn small(model: &str, out: &Path, at_a_time: usize) -> Result<Plan, Box<dyn std::error::Error>> {
    small_of(Curvature::Ekfac, model, out, at_a_time)
}

fn small_of(
    curvature: Curvature,
    model: &str,
    out: &Path,
    at_a_time: usize,
) -> Result<Plan, Box<dyn std::error::Error>> {
    let mut plan = large_of(curvature, model, out)?;
    plan.brief.training.networks.keep(Graphs::Rebuilt, Residence::BySection);
    plan.memory.mapped = 0;
    // layers that read the same input stay together
    let mut groups: Vec<Vec<usize>> = vec![];
    for (l, layer) in plan.training.layers().iter().enumerate() {
        let shares = |group: &Vec<usize>| {
            group.iter().any(|&other| plan.training.layers()[other].input_group == layer.input_group)
        };
        match groups.last_mut() {
            Some(group) if group.len() < at_a_time || shares(group) => group.push(l),
            _ => groups.push(vec![l]),
        }
    }
    assert!(groups.len() > 1);
    plan.memory.groups = groups;
    Ok(plan)
}

fn large(model: &str, out: &Path) -> Result<Plan, Box<dyn std::error::Error>> {
    large_of(Curvature::Ekfac, model, out)
}

fn large_of(curvature: Curvature, model: &str, out: &Path) -> Result<Plan, Box<dyn std::error::Error>> {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let text = fixtures.join("gpt2-tiny");
    let [train, queries] = ["train.jsonl", "queries.jsonl"].map(|name| text.join(name));
    let path = |path: &Path| serde_json::json!(path).to_string();
    let job = format!(
        "[model]\npath = {}\n[data]\ntrain = {}\nqueries = {}\nadd_eos = \"both\"\n[method]\nself_influence = true\n\
         [resources]\nbatch_tokens = 512\n[output]\npath = {}\n",
        path(&fixtures.join(model)),
        path(&train),
        path(&queries),
        path(out)
    );
    let mut job = toml::from_str::<Job>(&job)?;
    job.method.curvature = curvature;
    Ok(Plan::resolve(job)?)
}

/// Results and factors by name.
fn contents(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>, std::io::Error> {
    let mut found = BTreeMap::new();
    for folder in [folder.to_owned(), folder.join("artifacts")] {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.ends_with(".safetensors") || name.ends_with(".jsonl") {
                found.insert(name, std::fs::read(path)?);
            }
        }
    }
    Ok(found)
}

#[track_caller]
fn assert_same(found: &BTreeMap<String, Vec<u8>>, want: &BTreeMap<String, Vec<u8>>) {
    assert_eq!(found.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
    for (name, bytes) in found {
        assert!(bytes == &want[name], "`{name}` has other bytes");
    }
}

#[test]
fn groups_of_layers_leave_the_same_bytes() -> Outcome {
    for (model, at_a_time) in [("gpt2-tiny", 1), ("gpt2-tiny", 3), ("llama-tiny", 1)] {
        let [a, b] = [tempfile::tempdir()?, tempfile::tempdir()?];
        large(model, a.path())?.run(&())?;
        small(model, b.path(), at_a_time)?.run(&())?;
        assert_same(&contents(b.path())?, &contents(a.path())?);
    }
    Ok(())
}

/// Sums of inputs that are a layer's own: q, k and v of a Llama read one tensor, and are fitted apart.
#[test]
fn groups_and_shards_of_gradients_leave_what_one_pass_leaves() -> Outcome {
    for curvature in [Curvature::Soap, Curvature::Tkfac] {
        let [a, b] = [tempfile::tempdir()?, tempfile::tempdir()?];
        large_of(curvature, "llama-tiny", a.path())?.run(&())?;
        let plan = small_of(curvature, "llama-tiny", b.path(), 1)?;
        assert_eq!(plan.memory.groups.len(), plan.training.layers().len());
        plan.run(&())?;
        assert_same(&contents(b.path())?, &contents(a.path())?);
        // sums of shards are added, and round otherwise
        let c = tempfile::tempdir()?;
        let plan = large_of(curvature, "llama-tiny", c.path())?;
        let has_lambda = crate::curvature::CurvatureKind::from(curvature).has_lambda_pass();
        for _ in 0..=usize::from(has_lambda) {
            for shard in [Shard::new(1, 2)?, Shard::new(2, 2)?] {
                plan.fit(Some(shard), &())?;
            }
            plan.merge(&[], &())?;
        }
        plan.run(&())?;
        let scores = |folder: &Path| -> Result<Vec<f32>, Box<dyn std::error::Error>> {
            Ok(TensorFile::open_checked(&folder.join("scores.safetensors"))?.f32("scores")?.to_vec())
        };
        let (whole, shards) = (scores(a.path())?, scores(c.path())?);
        let largest = whole.iter().fold(0.0f32, |most, score| most.max(score.abs()));
        assert!(largest > 0.0 && whole.len() == shards.len());
        let error = whole.iter().zip(&shards).fold(0.0f32, |most, (x, y)| most.max((x - y).abs()));
        assert!(error <= 1e-3 * largest, "{curvature:?}: {error:e} of {largest:e}");
    }
    Ok(())
}

/// Shares of target tokens in blocks of them that end within queries.
#[test]
fn blocks_of_targets_leave_the_same_shares() -> Outcome {
    let shares = |block: Option<usize>| -> Result<Vec<f32>, Box<dyn std::error::Error>> {
        let out = tempfile::tempdir()?;
        let mut plan = large("gpt2-tiny", out.path())?;
        plan.brief.job.output.tokens = TokensRequest::Matrix;
        plan.brief.job.output.top = 1;
        plan.brief.job.method.curvature = Curvature::Identity;
        // as many as there are, where memory says nothing
        plan.memory.token_block = block.unwrap_or(plan.query_targets());
        plan.run(&())?;
        Ok(TensorFile::open_checked(&out.path().join("tokens.safetensors"))?.f32("pair_shares")?.to_vec())
    };
    let (whole, blocks) = (shares(None)?, shares(Some(5))?);
    let largest = whole.iter().fold(0.0f32, |most, share| most.max(share.abs()));
    assert!(largest > 0.0 && whole.len() == blocks.len());
    // batches of the network end elsewhere
    let near = |(found, want): (&f32, &f32)| (found - want).abs() <= 1e-5 * largest;
    assert!(whole.iter().zip(&blocks).all(near));
    Ok(())
}

#[test]
fn shards_of_groups_leave_the_parts_of_whole_shards() -> Outcome {
    let [a, b] = [tempfile::tempdir()?, tempfile::tempdir()?];
    let plans = [large("gpt2-tiny", a.path())?, small("gpt2-tiny", b.path(), 3)?];
    for step in 0..4 {
        for plan in &plans {
            match step {
                0 | 2 => {
                    for shard in [Shard::new(1, 2)?, Shard::new(2, 2)?] {
                        plan.fit(Some(shard), &())?;
                    }
                }
                _ => {
                    plan.merge(&[], &())?;
                }
            }
        }
        assert_same(&contents(b.path())?, &contents(a.path())?);
    }
    Ok(())
}

/// Asks to stop after some events.
struct Stop(usize, AtomicUsize);

impl Observer for Stop {
    fn event(&self, _: Event) {
        self.1.fetch_add(1, Ordering::Relaxed);
    }

    fn interrupted(&self) -> bool {
        self.1.load(Ordering::Relaxed) >= self.0
    }
}

#[test]
fn interrupted_groups_go_on_where_they_stopped() -> Outcome {
    let [a, b] = [tempfile::tempdir()?, tempfile::tempdir()?];
    large("gpt2-tiny", a.path())?.run(&())?;
    let (mut stops, mut events) = (0, 0);
    loop {
        let observer = Stop(25, AtomicUsize::new(0));
        let found = small("gpt2-tiny", b.path(), 3)?.run(&observer);
        events += observer.1.load(Ordering::Relaxed);
        match found {
            Ok(_) => break,
            Err(error) if error.is_interruption() => stops += 1,
            Err(error) => return Err(error.into()),
        }
        assert!(stops < 100, "{events} events");
    }
    assert!(stops > 3, "{stops} interruptions");
    assert_same(&contents(b.path())?, &contents(a.path())?);
    Ok(())
}
