//! Models and files of a hub on this machine, as they should come and as they should not.

use std::fs;
use std::path::PathBuf;

use super::test_server::{COMMIT, Hub, hash};
use super::*;
use crate::Hint;

struct Trial {
    hub: Hub,
    folder: tempfile::TempDir,
}

impl Trial {
    fn new() -> Self {
        let trial = Self { hub: Hub::start(), folder: tempfile::tempdir().expect("a folder") };
        for (file, content) in [
            ("config.json", "{}"),
            ("tokenizer.json", "[1]"),
            ("README.md", "# model"),
            ("pytorch_model.bin", "pickle"),
            ("onnx/model.safetensors", "other"),
        ] {
            trial.hub.add(&format!("models/o/m/{file}"), content);
        }
        trial
    }

    fn settings(&self) -> Settings {
        let (endpoint, cache) = (self.hub.endpoint.clone(), self.folder.path().to_owned());
        Settings { endpoint, cache, token: Some("secret".into()), is_offline: false }
    }

    fn offline(&self) -> Settings {
        Settings { is_offline: true, endpoint: "http://127.0.0.1:1".into(), ..self.settings() }
    }

    fn model(&self) -> Result<PathBuf, HubError> {
        model("hub:o/m", &self.settings(), &mut |_| {})
    }

    fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join("models--o--m").join(below)
    }
}

#[track_caller]
fn says(found: Result<PathBuf, HubError>, parts: &[&str]) {
    let error = found.expect_err("an error");
    let text = format!("{error} {}", error.hint().unwrap_or_default());
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
}

#[test]
fn a_model_comes_with_what_it_is_read_from_and_nothing_else() {
    let trial = Trial::new();
    let weights = vec![7u8; 100_000];
    trial.hub.add("models/o/m/model.safetensors", &weights);
    let mut found = vec![];
    let folder = model("hub:o/m", &trial.settings(), &mut |event| {
        if let Event::Found { commit, files, bytes, missing, .. } = event {
            found.push(((*commit).to_owned(), *files, *bytes, *missing));
        }
    });
    let folder = folder.expect("a model");
    assert_eq!(found, [(COMMIT.to_owned(), 3, 100_005, 100_005)]);
    assert_eq!(of_snapshot(&folder), Some(("o/m".into(), COMMIT.into())));
    assert_eq!(fs::read(folder.join("model.safetensors")).expect("weights"), weights);
    assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 3);
    assert_eq!(fs::read_to_string(trial.path("refs/main")).expect("a revision"), COMMIT);
    let blob = hash("model.safetensors", &weights);
    assert!(trial.path(&format!("blobs/{blob}")).is_file());
    #[cfg(unix)]
    assert_eq!(
        fs::read_link(folder.join("model.safetensors")).expect("a link"),
        PathBuf::from(format!("../../blobs/{blob}"))
    );
    // the token goes to the hub, and to no host that it sends one to
    let asked: Vec<_> = trial.hub.state().asked.drain(..).collect();
    assert_eq!(asked.len(), 5, "{asked:?}");
    for (path, _, authorization) in &asked {
        let is_elsewhere = path.starts_with("/elsewhere");
        assert_eq!(authorization, if is_elsewhere { "" } else { "Bearer secret" }, "{path}");
        assert!(!path.contains("README") && !path.contains("onnx") && !path.contains("pytorch"), "{path}");
    }
    // what is there is not fetched again, and read without a network
    assert_eq!(trial.model().expect("a model"), folder);
    assert_eq!(trial.hub.asked(), ["/api/models/o/m/revision/main?blobs=true"]);
    assert_eq!(model("hub:o/m", &trial.offline(), &mut |_| {}).expect("the cache"), folder);
    assert_eq!(model(&format!("hub:o/m@{COMMIT}"), &trial.offline(), &mut |_| {}).expect("the cache"), folder);
    assert_eq!(tokenizer("hub:o/m", &trial.offline(), &mut |_| {}).expect("the cache"), folder);
    assert!(trial.hub.asked().is_empty());
    says(model("hub:o/m@v1", &trial.offline(), &mut |_| {}), &["no revision `v1`", "HF_HUB_OFFLINE"]);
    says(model("hub:o/other", &trial.offline(), &mut |_| {}), &["not in the cache", "HF_HUB_OFFLINE"]);
}

#[test]
fn shards_are_those_of_the_index() {
    let trial = Trial::new();
    let index = r#"{"weight_map":{"a":"one.safetensors","b":"two.safetensors","c":"one.safetensors"}}"#;
    trial.hub.add("models/o/m/model.safetensors.index.json", index);
    for file in ["one", "two", "three"] {
        trial.hub.add(&format!("models/o/m/{file}.safetensors"), file);
    }
    let folder = trial.model().expect("a model");
    assert!(folder.join("one.safetensors").is_file() && folder.join("two.safetensors").is_file());
    assert!(!folder.join("three.safetensors").exists());
    fs::remove_file(folder.join("two.safetensors")).expect("a link");
    says(model("hub:o/m", &trial.offline(), &mut |_| {}), &["no `two.safetensors`"]);
    for (shard, problem) in [("../../evil", "no plain file name"), ("none.safetensors", "no file `none.safetensors`")] {
        let trial = Trial::new();
        trial.hub.add("models/o/m/model.safetensors.index.json", format!(r#"{{"weight_map":{{"a":"{shard}"}}}}"#));
        says(trial.model(), &[problem]);
    }
}

#[test]
fn a_download_that_is_cut_goes_on() {
    let trial = Trial::new();
    let weights: Vec<u8> = (0..50_000u32).map(|k| (k % 251) as u8).collect();
    trial.hub.add("models/o/m/model.safetensors", &weights);
    trial.hub.state().cuts.insert("models/o/m/model.safetensors".into(), vec![1000, 200]);
    let folder = trial.model().expect("a model");
    assert_eq!(fs::read(folder.join("model.safetensors")).expect("weights"), weights);
    let ranges: Vec<String> =
        trial.hub.state().asked.iter().map(|of| of.1.clone()).filter(|of| !of.is_empty()).collect();
    assert_eq!(ranges.last().map(String::as_str), Some("bytes=1200-"), "{ranges:?}");
    // and where it is always cut, the next start goes on
    let trial = Trial::new();
    trial.hub.add("models/o/m/model.safetensors", &weights);
    trial.hub.state().cuts.insert("models/o/m/model.safetensors".into(), vec![10; 4]);
    says(trial.model(), &["`model.safetensors` ended after 40 of 50000 bytes", "goes on from there"]);
    assert!(!trial.path("snapshots").join(COMMIT).join("model.safetensors").exists());
    trial.hub.asked();
    let folder = trial.model().expect("the rest");
    assert!(trial.hub.state().asked.iter().any(|(_, range, _)| range == "bytes=40-"));
    assert_eq!(fs::read(folder.join("model.safetensors")).expect("weights"), weights);
}

#[test]
fn a_damaged_download_is_none() {
    let trial = Trial::new();
    trial.hub.add("models/o/m/model.safetensors", "weights");
    trial.hub.state().damaged.push("models/o/m/model.safetensors".into());
    says(trial.model(), &["`model.safetensors` was damaged on its way"]);
    trial.hub.state().damaged.clear();
    let folder = trial.model().expect("a model");
    assert_eq!(fs::read_to_string(folder.join("model.safetensors")).expect("weights"), "weights");
}

#[test]
fn what_the_hub_does_not_have_is_said() {
    let trial = Trial::new();
    says(trial.model(), &["no safetensors of this model; its weights are in `pytorch_model.bin`"]);
    trial.hub.add("models/o/m/model.safetensors", "weights");
    let of = |name: &str| model(name, &trial.settings(), &mut |_| {});
    says(of("hub:o/nothing"), &["has no model `o/nothing`", "HF_TOKEN"]);
    says(of("hub:o/m@v9"), &["with a revision `v9`"]);
    says(of("hub:o/../m"), &["is no model of the hub"]);
    let of = |name: &str| file(name, &trial.settings(), &mut |_| {});
    trial.hub.add("datasets/o/d/data/a.jsonl", "{}");
    says(of("hub:o/d/data/b.jsonl"), &["has no file `data/b.jsonl`"]);
    says(of("hub:o/d/*.parquet"), &["has no file `*.parquet`"]);
    says(of("hub:o/d/../../etc/passwd"), &["outside of the data set"]);
    let answers = [
        (401, "", "refuses it (status 401)"),
        (503, "", "try again later"),
        (200, "<html>", "a list of files that is none"),
        (200, r#"{"sha":"../../x"}"#, "names no commit"),
        (200, &format!(r#"{{"sha":"{COMMIT}","siblings":[{{"rfilename":"../evil"}}]}}"#), "outside of its folder"),
        (200, &format!(r#"{{"sha":"{COMMIT}","siblings":[{{"rfilename":"config.json"}}]}}"#), "no size or no hash"),
        (
            200,
            &format!(r#"{{"sha":"{COMMIT}","siblings":[{{"rfilename":"x","size":1,"blobId":"../../evil"}}]}}"#),
            "a hash of `x` that is none",
        ),
    ];
    for (status, body, problem) in answers {
        let address = "/api/models/o/m/revision/main?blobs=true".to_owned();
        trial.hub.state().instead.insert(address, (status, body.to_owned()));
        says(trial.model(), &[problem]);
    }
    // nobody listens at port 1
    let nowhere = Settings { is_offline: false, ..trial.offline() };
    says(model("hub:o/m", &nowhere, &mut |_| {}), &["127.0.0.1:1 cannot be reached", "HF_HUB_OFFLINE=1"]);
    assert!(!trial.folder.path().join("evil").exists());
}

#[test]
fn files_of_data_sets_come_alone_or_by_a_pattern() {
    let trial = Trial::new();
    for file in ["data/train-0.parquet", "data/train-1.parquet", "data/test-0.parquet", "deep/data/train-2.parquet"] {
        trial.hub.add(&format!("datasets/o/d/{file}"), file);
    }
    let of = |name: &str| file(name, &trial.settings(), &mut |_| {}).expect("a file");
    let one = of("hub:o/d@v1/data/test-0.parquet");
    assert_eq!(fs::read_to_string(&one).expect("data"), "data/test-0.parquet");
    assert_eq!(of_snapshot(&one), Some(("o/d".into(), COMMIT.into())));
    let pattern = of("hub:o/d/data/train-*.parquet");
    let folder = pattern.parent().expect("a folder");
    let mut found: Vec<_> = fs::read_dir(folder).expect("files").map(|entry| entry.expect("one").file_name()).collect();
    found.sort();
    // one of them is that from above
    assert_eq!(found, ["test-0.parquet", "train-0.parquet", "train-1.parquet"]);
    assert!(!trial.hub.asked().iter().any(|path| path.contains("train-2")));
    let offline = |name: &str| file(name, &trial.offline(), &mut |_| {});
    assert_eq!(offline("hub:o/d@v1/data/test-0.parquet").expect("the cache"), one);
    says(offline("hub:o/d@v1/data/train-9.parquet"), &["no `data/train-9.parquet`"]);
    says(offline("hub:o/d/data/*.parquet"), &["list of the files that it fits"]);
}

#[test]
fn a_trainers_folder_comes_with_its_checkpoints_and_little_else() {
    let trial = Trial::new();
    says(run("hub:o/m", &trial.settings(), &mut |_| {}), &["has no folder `checkpoint-N` there"]);
    let wanted = [
        "checkpoint-60/config.json",
        "checkpoint-60/model-00001-of-00002.safetensors",
        "checkpoint-60/model.safetensors.index.json",
        "checkpoint-60/optimizer.pt",
        "checkpoint-60/trainer_state.json",
        "checkpoint-120/adapter_model.safetensors",
        "training_args.bin",
    ];
    let others = [
        "checkpoint-60/pytorch_model.bin",
        "checkpoint-60/rng_state.pth",
        "checkpoint-60/model-x-of-y.safetensors",
        "checkpoint-60/deep/config.json",
        "checkpoint-last/config.json",
        "trajectory.toml",
    ];
    for file in wanted.into_iter().chain(others) {
        trial.hub.add(&format!("models/o/m/{file}"), file);
    }
    let (folder, pin) = What::Run.get("hub:o/m@v1", None, &trial.settings(), &mut |_| {}).expect("a run");
    for file in wanted.into_iter().chain(["config.json", "tokenizer.json"]) {
        assert!(folder.join(file).is_file(), "{file}");
    }
    assert!(!others.iter().any(|file| folder.join(file).exists()));
    assert_eq!(pin, Some(Pin { commit: COMMIT.into(), files: Some(9) }));
    // the same commit is not asked for again; a cache that lacks a file of it is none
    trial.hub.asked();
    let again = |settings: &Settings| What::Run.get("hub:o/m@v1", pin.as_ref(), settings, &mut |_| {});
    assert_eq!(again(&trial.offline()).expect("the cache").0, folder);
    assert!(trial.hub.asked().is_empty());
    fs::remove_file(folder.join("checkpoint-60/optimizer.pt")).expect("a link");
    says(again(&trial.offline()).map(|found| found.0), &["no list of its checkpoints"]);
    assert_eq!(again(&trial.settings()).expect("the rest").0, folder);
    assert!(folder.join("checkpoint-60/optimizer.pt").is_file());
}

#[test]
fn a_name_that_is_held_to_a_commit_is_that_commit() {
    let trial = Trial::new();
    trial.hub.add("models/o/m/model.safetensors", "weights");
    for file in ["data/a.jsonl", "data/b.jsonl"] {
        trial.hub.add(&format!("datasets/o/d/{file}"), file);
    }
    let get =
        |what: What, name: &str, pin: Option<&Pin>, settings: &Settings| what.get(name, pin, settings, &mut |_| {});
    for (what, name, files) in [
        (What::Model, "hub:o/m", None),
        (What::File, "hub:o/d/data/a.jsonl", None),
        (What::File, "hub:o/d/data/*.jsonl", Some(2)),
    ] {
        let (path, pin) = get(what, name, None, &trial.settings()).expect("there");
        assert_eq!(pin, Some(Pin { commit: COMMIT.into(), files }), "{name}");
        trial.hub.asked();
        // without a network, and without being told so
        let nowhere = Settings { is_offline: false, ..trial.offline() };
        assert_eq!(get(what, name, pin.as_ref(), &nowhere).expect("the cache").0, path);
        assert_eq!(what.find(name, pin.as_ref().expect("one"), &nowhere), Some(path));
        let other = Pin { commit: "f".repeat(40), files };
        assert_eq!(what.find(name, &other, &nowhere), None);
        says(get(what, name, Some(&other), &trial.settings()).map(|found| found.0), &["has no", "revision"]);
        let none = Pin { commit: "main".into(), files };
        says(get(what, name, Some(&none), &trial.settings()).map(|found| found.0), &["held to a commit that is none"]);
    }
    // one of the files that the pattern fits is gone
    let (path, pin) = get(What::File, "hub:o/d/data/*.jsonl", None, &trial.settings()).expect("there");
    fs::remove_file(path.with_file_name("b.jsonl")).expect("a link");
    let pin = pin.expect("one");
    assert_eq!(What::File.find("hub:o/d/data/*.jsonl", &pin, &trial.settings()), None);
}

#[test]
fn templates_and_image_processors_come_alone() {
    let trial = Trial::new();
    let none = chat_template("hub:o/m", &trial.settings(), &mut |_| {});
    says(none, &["has no `chat_template.jinja` or `chat_template.json` or `tokenizer_config.json` there"]);
    trial.hub.add("models/o/m/tokenizer_config.json", "{}");
    trial.hub.add("models/o/m/preprocessor_config.json", "{}");
    let of_config = chat_template("hub:o/m", &trial.settings(), &mut |_| {}).expect("a template");
    assert!(of_config.ends_with("tokenizer_config.json"));
    trial.hub.add("models/o/m/chat_template.jinja", "{{ messages }}");
    let template = chat_template("hub:o/m", &trial.settings(), &mut |_| {}).expect("a template");
    assert_eq!(fs::read_to_string(&template).expect("a file"), "{{ messages }}");
    assert_eq!(chat_template("hub:o/m", &trial.offline(), &mut |_| {}).expect("the cache"), template);
    let folder = image_processor("hub:o/m", &trial.settings(), &mut |_| {}).expect("a folder");
    assert!(folder.join("preprocessor_config.json").is_file() && !folder.join("tokenizer.json").exists());
    says(image_processor("hub:o/other", &trial.offline(), &mut |_| {}), &["not in the cache"]);
}
