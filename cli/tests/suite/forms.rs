//! Training examples in every form of file that is read give the same bytes of results.

#[path = "../../../src/hub/test_server.rs"]
#[allow(dead_code, unreachable_pub)]
mod hub;

use std::fs;

use crate::support::{Folder, GPT2, MLP, ascribe, done, ended};

/// The numbers of `scores.safetensors`, and the ranking with scores, excerpts and metadata.
fn results(train: &str, flags: &str) -> (Vec<u8>, String) {
    let folder = Folder::new();
    let run = folder.arg("run");
    done(&format!(
        "influence --model fixtures/gpt2-tiny --train {train} --queries fixtures/gpt2-tiny/queries.jsonl --out {run} \
         --curvature identity --progress never {flags}"
    ));
    let scores = fs::read(folder.path("run/scores.safetensors")).unwrap();
    let header = u64::from_le_bytes(scores[..8].try_into().unwrap()) as usize;
    (scores[8 + header..].to_vec(), fs::read_to_string(folder.path("run/ranking.jsonl")).unwrap())
}

#[test]
fn every_form_of_the_same_rows_gives_the_same_bytes() {
    let expected = results("fixtures/forms/train.jsonl", "");
    assert_eq!(expected.1.lines().count(), 8, "a ranking for each query");
    for name in ["train.json", "train.csv", "train.jsonl.gz", "train.csv.zst", "train.parquet", "train.arrow", "saved"]
    {
        assert_eq!(results(&format!("fixtures/forms/{name}"), ""), expected, "{name}");
    }
    let (scores, _) = results("fixtures/forms/renamed.parquet", "--text-field content");
    assert_eq!(scores, expected.0, "columns with other names");
}

#[test]
fn columns_that_a_model_does_not_read_are_refused() {
    let folder = Folder::new();
    let pairs = folder.write("pairs.jsonl", "{\"input_ids\": [4, 5], \"labels\": [6, 7]}\n");
    let t5 = format!("--model fixtures/families/t5 --train {pairs} --queries {pairs}");
    for (flags, problem) in [
        (
            format!("{GPT2} --label-field stars"),
            "--label-field has no meaning for a model that predicts the next token",
        ),
        (format!("{MLP} --loss-on assistant"), "--loss-on has no meaning for a model that reads rows of numbers"),
        (format!("{t5} --text-field content"), "--text-field has no meaning for a model that reads a prompt"),
    ] {
        let refused = ended(ascribe(&format!("influence {flags} --out {}", folder.arg("run"))));
        assert_eq!(refused.code, Some(2), "{flags}: {}", refused.err);
        assert!(refused.err.replace('`', "").contains(problem), "{flags}: {}", refused.err);
    }
}

/// A model and data of the hub by their names, from a hub on this machine.
#[test]
fn names_of_the_hub_are_fetched_once_and_paths_never() {
    let (folder, hub) = (Folder::new(), hub::Hub::start());
    let root = crate::support::root().join("fixtures/gpt2-tiny");
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        hub.add(&format!("models/org/tiny/{file}"), fs::read(root.join(file)).unwrap());
    }
    hub.add("datasets/org/facts/data/train.jsonl", fs::read(root.join("train.jsonl")).unwrap());
    hub.add("datasets/org/facts/queries.jsonl", fs::read(root.join("queries.jsonl")).unwrap());
    let run = |flags: &str, offline: bool, endpoint: &str| {
        let mut command = ascribe(&format!("influence {flags} --out {}", folder.arg("run")));
        command.env("HF_ENDPOINT", endpoint).env("HF_HOME", folder.path("hf")).env("HF_TOKEN", "secret");
        for name in ["HF_HUB_CACHE", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_IMPLICIT_TOKEN"] {
            command.env_remove(name);
        }
        if offline {
            command.env("HF_HUB_OFFLINE", "1");
        }
        ended(command)
    };
    let names = "--model hub:org/tiny --train hub:org/facts/data/*.jsonl --queries hub:org/facts@v1/queries.jsonl \
                 --add-eos train";
    let said = run(&format!("{names} --dry-run"), false, &hub.endpoint);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let commit = hub::COMMIT;
    for (text, part) in [
        (&said.err, format!("hub:org/tiny is commit {commit}: 3 files with ")),
        (&said.err, "to download".to_owned()),
        (&said.out, format!("the model: `org/tiny` of the hub at commit {commit}")),
        (&said.out, format!("the training examples: `org/facts` of the hub at commit {commit}")),
        (&said.out, "160 examples".to_owned()),
    ] {
        assert!(text.contains(&part), "{part}\n{}{}", said.err, said.out);
    }
    assert!(!hub.asked().is_empty());

    // the same from the cache without a hub, by the file's own name; the scores are those of the files
    let names = names.replace("*", "train");
    let job = format!("{names} --curvature identity");
    let said = run(&job, true, "http://127.0.0.1:1");
    assert_eq!(said.code, Some(0), "{}", said.err);
    done(&format!("influence {GPT2} --curvature identity --quiet --out {}", folder.arg("local")));
    let [fetched, local] =
        ["run", "local"].map(|run| crate::support::tensors(&folder.path(run).join("scores.safetensors")));
    assert!(fetched == local);
    let metadata = fs::read(folder.path("run/scores.safetensors")).unwrap();
    assert!(String::from_utf8_lossy(&metadata).contains(&format!("of the hub at commit {commit}")));
    fs::remove_dir_all(folder.path("run")).unwrap();
    let said = run(&job, false, "http://127.0.0.1:1");
    assert_eq!(said.code, Some(2));
    assert!(said.err.contains("cannot be reached") && said.err.contains("HF_HUB_OFFLINE=1"), "{}", said.err);

    // the job keeps the names, is held to their commit, and runs again without a hub
    let said = run(&job, true, "http://127.0.0.1:1");
    assert_eq!(said.code, Some(0), "{}", said.err);
    let written = fs::read_to_string(folder.path("run/job.toml")).unwrap();
    for part in ["\"hub:org/tiny\"", "\"hub:org/facts/data/train.jsonl\"", "\"hub:org/facts@v1/queries.jsonl\"", commit]
    {
        assert!(written.contains(part), "{part}\n{written}");
    }
    assert!(!written.contains("snapshots") && !written.contains(&folder.arg("hf")), "{written}");
    let again = |endpoint: &str| {
        let mut command = ascribe(&format!("run {} --out {} --quiet", folder.arg("run/job.toml"), folder.arg("again")));
        command.env("HF_ENDPOINT", endpoint).env("HF_HOME", folder.path("hf")).env("HF_TOKEN", "secret");
        for name in ["HF_HUB_CACHE", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_IMPLICIT_TOKEN"] {
            command.env_remove(name);
        }
        ended(command)
    };
    let said = again("http://127.0.0.1:1");
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(crate::support::tensors(&folder.path("again/scores.safetensors")) == local);
    assert_eq!(fs::read_to_string(folder.path("again/job.toml")).unwrap(), written.replace("/run\"", "/again\""));
    // another commit is another one
    let other = written.replace(commit, &"f".repeat(40));
    fs::write(folder.path("run/job.toml"), other).unwrap();
    let said = again(&hub.endpoint);
    assert!(said.code == Some(2) && said.err.contains("revision `ffff"), "{}", said.err);
    hub.asked();

    // a path is never looked for at the hub
    let paths = GPT2.replace("--model fixtures/gpt2-tiny", "--model org/tiny");
    let said = run(&paths, false, &hub.endpoint);
    assert_eq!(said.code, Some(2));
    assert!(said.err.contains("`--model hub:org/tiny`") && !said.err.contains("secret"), "{}", said.err);
    assert!(hub.asked().is_empty());
    for (names, problem) in [
        ("--model hub:org/../tiny --train t --queries q", "is no model of the hub"),
        ("--model hub:org/none --train t --queries q", "has no model `org/none`"),
        ("--model fixtures/gpt2-tiny --train hub:org/facts/../../x --queries q", "outside of the data set"),
    ] {
        let said = run(names, false, &hub.endpoint);
        assert!(said.code == Some(2) && said.err.contains(problem), "{}", said.err);
    }
}

/// A Trainer's folder at the hub, with its examples there: the run, and the loss beside its log.
#[test]
fn a_trainers_folder_of_the_hub_is_a_run() {
    let (folder, hub) = (Folder::new(), hub::Hub::start());
    let root = crate::support::root().join("fixtures/trainer-tiny");
    hub.add("models/org/run/tokenizer.json", fs::read(root.join("tokenizer.json")).unwrap());
    for step in [60, 240] {
        for file in ["config.json", "model.safetensors", "trainer_state.json", "training_args.bin", "optimizer.pt"] {
            let name = format!("checkpoint-{step}/{file}");
            hub.add(&format!("models/org/run/{name}"), fs::read(root.join(&name)).unwrap());
        }
    }
    hub.add("datasets/org/facts/train.jsonl", fs::read(root.join("train.jsonl")).unwrap());
    let run = |endpoint: &str, flags: &str| {
        let mut command = ascribe(&format!("trajectory hub:org/run {flags}"));
        command.env("HF_ENDPOINT", endpoint).env("HF_HOME", folder.path("hf"));
        for name in ["HF_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE"] {
            command.env_remove(name);
        }
        ended(command)
    };
    let said = run(&hub.endpoint, "--train hub:org/facts/train.jsonl --add-eos train");
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.err.contains("hub:org/run is commit "), "{}", said.err);
    assert!(said.out.contains("checkpoint-60") && said.out.matches(": agrees").count() == 2, "{}", said.out);
    let said = run("http://127.0.0.1:1", "");
    assert!(said.code == Some(2) && said.err.contains("cannot be reached"), "{}", said.err);
}
