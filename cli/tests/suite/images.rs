//! Models of images from the command line: plan, scores, what a checkpoint is, and images that do not fit.

use crate::support::{Folder, ascribe, done, ended, json_lines};

/// A job on a fixture's images.
fn job(name: &str, run: &str) -> String {
    let folder = format!("fixtures/images/{name}");
    format!(
        "influence --model {folder} --train {folder}/train.safetensors --queries {folder}/query.safetensors --out {run}"
    )
}

#[test]
fn images_are_ranked() {
    for name in ["vit", "vit-multi-label", "resnet", "resnet-bottleneck", "cnn", "cnn-grouped"] {
        let folder = Folder::new();
        let shown = done(&format!("{} --format jsonl --progress never", job(name, &folder.arg("run"))));
        let rankings = json_lines(&shown.out);
        assert_eq!(rankings.len(), 2, "{name}");
        for ranking in &rankings {
            let sides = ["proponents", "opponents"].map(|side| ranking[side].as_array().expect("a list").clone());
            let mut ids: Vec<String> =
                sides.concat().iter().map(|example| example["id"].as_str().expect("an id").to_owned()).collect();
            ids.sort();
            ids.dedup();
            assert_eq!(ids, ["0", "1", "2", "3"], "{name}: {ranking}");
            let finite = |example: &serde_json::Value| example["score"].as_f64().is_some_and(f64::is_finite);
            assert!(sides.concat().iter().all(finite), "{name}: {ranking}");
        }
    }
}

/// Positions are patches and the class token, or pixels.
#[test]
fn the_plan_knows_models_of_images() {
    for (name, positions) in [("vit", 9), ("resnet", 17 * 14), ("cnn", 13 * 10)] {
        let folder = Folder::new();
        let plan = done(&format!("{} --dry-run --format jsonl", job(name, &folder.arg("run"))));
        let plan: serde_json::Value = serde_json::from_str(&plan.out).expect("one object");
        let train = &plan["summary"]["stages"][0]["train"];
        assert_eq!(train["examples"], 4, "{name}");
        assert_eq!(train["positions"], 4 * positions, "{name}: {train}");
        assert_eq!(plan["job"]["method"]["measure"], "margin", "{name}");
    }
}

#[test]
fn a_checkpoint_says_which_images_it_reads() {
    let vit = done("inspect fixtures/images/vit").out;
    assert!(vit.contains("reads images of 3 channels and 8 x 13 pixels, gives 3 classes"), "{vit}");
    assert!(vit.contains("vit.encoder.layer.0.attention.attention.query"), "{vit}");
    let resnet = done("inspect fixtures/images/resnet-bottleneck").out;
    assert!(resnet.contains("reads images of 2 channels and any size, gives 2 values"), "{resnet}");
    let plain = done("inspect fixtures/images/cnn-grouped").out;
    assert!(plain.contains("reads images of 2 channels and 11 x 14 pixels, gives 2 values"), "{plain}");
    assert!(plain.contains("6.main.0.group.8"), "{plain}");
}

#[test]
fn images_of_another_size_are_one_message() {
    let folder = Folder::new();
    let job = job("vit", &folder.arg("run")).replace("vit/query", "vit-multi-label/query");
    let refused = ended(ascribe(&job));
    assert_ne!(refused.code, Some(0));
    let message = "fixtures/images/vit-multi-label/query.safetensors: `inputs` has the shape [2, 1, 6, 6], expected [n, 3, 8, 13]";
    assert!(refused.err.contains(message), "{}", refused.err);
    assert!(!folder.path("run").exists() || !folder.path("run/scores.safetensors").exists());
}

/// Images in files: a folder of classes and rows, with the pictures in the report.
#[test]
fn images_in_files_are_ranked_and_shown() {
    let folder = Folder::new();
    let out = folder.arg("run");
    let pictures = "fixtures/pictures";
    let job = format!(
        "influence --model fixtures/images/vit --image-processor {pictures}/processors/bilinear.json \
         --train {pictures}/classes --queries {pictures}/rows.jsonl --image-field picture --out {out}"
    );
    // rows have no `label`
    let refused = ended(ascribe(&job));
    assert!(refused.err.contains("fixtures/pictures/rows.jsonl:1: no `label`"), "{}", refused.err);
    let shown = done(&format!("{job} --label-field kind --report"));
    let err = &shown.err;
    assert!(err.contains("images are resized to 8 x 13 (bilinear), divided by 255, normalised"), "{err}");
    assert!(err.contains("0 is \"bird\", 1 is \"cat\", 2 is \"fish\""), "{err}");
    assert!(err.contains("1 images of the queries are turned as their EXIF data say"), "{err}");
    assert!(shown.out.contains("bird/colours.png  ") && shown.out.contains("  target bird"), "{}", shown.out);
    let page = std::fs::read_to_string(folder.path("run/report.html")).expect("a report");
    assert!(page.contains("img-src data:;"));
    let images = page.matches("<img src=\"data:image/jpeg;base64,").count();
    assert_eq!(images, 6 + 6 * 6, "every query, and of each all examples as helping or hurting");
    assert!(
        page.contains("width=\"120\" height=\"100\" alt=\"bird/colours.png\""),
        "pixels of small images are drawn larger"
    );
}

#[test]
fn flags_of_image_files_are_refused_where_no_file_holds_images() {
    let folder = Folder::new();
    for (name, flag, model) in [
        ("vit", "--image-processor x.json", "reads images, of files that hold them as the model sees them"),
        ("vit", "--text-field text", "reads images, of files"),
    ] {
        let refused = ended(ascribe(&format!("{} {flag}", job(name, &folder.arg("run")))));
        assert!(refused.err.contains("has no meaning for a model that"), "{}", refused.err);
        assert!(refused.err.contains(model), "{}", refused.err);
    }
    let vit =
        "influence --model fixtures/images/vit --train fixtures/pictures/classes --queries fixtures/pictures/classes";
    let refused = ended(ascribe(&format!("{vit} --out {}", folder.arg("run"))));
    assert!(refused.err.contains("no image processor in fixtures/images/vit or "), "{}", refused.err);
    assert!(refused.err.contains("`--image-processor PATH`"), "{}", refused.err);
    let refused = ended(ascribe(&format!("{vit} --out {} --image-processor absent.json", folder.arg("run"))));
    assert!(refused.err.contains("no image processor in absent.json"), "{}", refused.err);
}

/// A Trainer's run on a folder of images, as it lies: the loss is that of its log, Source needs no word about it, and both
/// rank.
#[test]
fn a_trainers_run_on_a_folder_of_images_is_read_as_it_lies() {
    let run = "fixtures/trainer-images/run";
    let data = "fixtures/trainer-images/data";
    for (command, expected) in [
        ("influence", "loss      checkpoint-8: loss "),
        ("source", "the loss scale is that of transformers for classifiers, a mean over examples"),
    ] {
        let folder = Folder::new();
        let out = folder.arg("run");
        let shown = done(&format!("{command} --run {run} --train {data} --queries {data} --top 2 --out {out}"));
        assert!(shown.err.contains(expected), "{}", shown.err);
        assert!(shown.err.contains("agrees") && !shown.err.contains("warning"), "{}", shown.err);
        assert!(shown.out.contains("bars/00.png  target bars"), "{}", shown.out);
        // what an image says of itself is that training on it helps it
        let rankings = json_lines(&std::fs::read_to_string(folder.path("run/ranking.jsonl")).expect("a ranking"));
        let own = rankings.iter().filter(|ranking| {
            let ids = ranking["proponents"].as_array().expect("a list").iter().map(|example| &example["id"]);
            ids.take(2).any(|id| *id == ranking["query"]["id"])
        });
        assert!(own.count() >= 12, "{command}: {rankings:?}");
    }
}
