//! `ascribe report`: a finished run as one page, read as a browser reads it.

use std::collections::BTreeMap;
use std::fs;

use crate::support::{Folder, ascribe, done, ended};
use html5gum::{DefaultEmitter, Token, Tokenizer};

/// A run of the first fixture with everything that a report can show.
fn run(folder: &Folder, further: &str) -> String {
    let (train, queries) = ("fixtures/gpt2-tiny/train.jsonl", "fixtures/gpt2-tiny/queries.jsonl");
    let out = folder.arg("run");
    done(&format!(
        "influence --model fixtures/gpt2-tiny --train {train} --queries {queries} --add-eos train --curvature kfac \
         --top 3 --out {out} {further}"
    ));
    out
}

/// What a page is made of: tags with their attributes, in order, and all text outside of style and script.
struct Page {
    tags: Vec<(String, BTreeMap<String, String>)>,
    text: String,
    /// Text of style and script.
    raw: BTreeMap<String, String>,
}

/// Elements that have no end.
const VOID: [&str; 4] = ["meta", "input", "path", "rect"];

impl Page {
    /// Reads a page, which must close what it opens.
    #[track_caller]
    fn read(page: &str) -> Self {
        let text_of = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("a page is UTF-8");
        let (mut tags, mut text, mut raw) = (vec![], String::new(), BTreeMap::<String, String>::new());
        let mut open: Vec<String> = vec![];
        // text of style and script is no markup
        let mut emitter = DefaultEmitter::default();
        emitter.naively_switch_states(true);
        for token in Tokenizer::new_with_emitter(page, emitter) {
            match token.expect("strings give no errors") {
                Token::StartTag(tag) => {
                    let name = text_of(&tag.name);
                    let attributes = tag.attributes.iter();
                    let attributes = attributes.map(|(name, value)| (text_of(name), text_of(&value.value)));
                    if !VOID.contains(&name.as_str()) {
                        open.push(name.clone());
                    }
                    tags.push((name, attributes.collect()));
                }
                Token::EndTag(tag) => assert_eq!(open.pop(), Some(text_of(&tag.name)), "after {tags:?}"),
                Token::String(part) => match open.last().filter(|tag| ["style", "script"].contains(&tag.as_str())) {
                    Some(tag) => raw.entry(tag.clone()).or_default().push_str(&text_of(&part)),
                    None => text.push_str(&text_of(&part)),
                },
                Token::Error(error) => panic!("{error:?}"),
                _ => {}
            }
        }
        assert_eq!(open, Vec::<String>::new());
        Self { tags, text, raw }
    }

    fn count(&self, name: &str, attribute: &str, value: &str) -> usize {
        let is = |(tag, attributes): &&(String, BTreeMap<String, String>)| {
            tag == name && attributes.get(attribute).is_some_and(|found| found == value)
        };
        self.tags.iter().filter(is).count()
    }

    /// Nothing is loaded from anywhere, nothing is run but the script, and every link and name leads somewhere.
    fn check(&self) {
        let ids: Vec<&String> = self.tags.iter().filter_map(|(_, attributes)| attributes.get("id")).collect();
        let mut once = ids.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), ids.len(), "an id is there twice");
        for (tag, attributes) in &self.tags {
            for (name, value) in attributes {
                assert!(!name.starts_with("on") && name != "style" && name != "src", "{tag} {name}");
                match name.as_str() {
                    "href" => {
                        assert!(value.strip_prefix('#').is_some_and(|id| ids.iter().any(|i| *i == id)), "{value}")
                    }
                    "aria-labelledby" => {
                        assert!(value.split(' ').all(|wanted| ids.iter().any(|id| *id == wanted)), "{value}");
                    }
                    _ => {}
                }
            }
        }
        for tag in ["img", "link", "iframe", "object", "base"] {
            assert!(self.tags.iter().all(|(found, _)| found != tag), "{tag}");
        }
        let scripts = self.tags.iter().filter(|(tag, _)| tag == "script").count();
        let styles = self.tags.iter().filter(|(tag, _)| tag == "style").count();
        assert_eq!((scripts, styles), (1, 1));
        assert!(!self.raw["style"].contains("url(") && !self.raw["style"].contains("@import"));
        let policies: Vec<&String> = self
            .tags
            .iter()
            .filter_map(|(_, attributes)| attributes.get("http-equiv").and_then(|_| attributes.get("content")))
            .collect();
        assert!(policies[0].starts_with("default-src 'none'; style-src 'sha256-"), "{policies:?}");
        assert!(!policies[0].contains("unsafe"), "{policies:?}");
    }
}

/// A page written by a command.
fn page(path: &str) -> Page {
    let page = Page::read(&fs::read_to_string(path).expect("the report was written"));
    page.check();
    page
}

#[test]
fn a_run_is_reported_with_all_it_has() {
    let folder = Folder::new();
    let sets = "--layer-set attention=*.attn.* --layer-set mlp=*.mlp.* --damping 0.1x,0.01x";
    let run = run(&folder, &format!("--self-influence --group-by topic {sets} --report"));
    let found = page(&format!("{run}/report.html"));
    assert_eq!(found.tags.iter().filter(|(tag, _)| tag == "article").count(), 8);
    assert_eq!(found.count("li", "class", "card"), 8 * 6);
    assert_eq!(found.count("figure", "class", "all"), 8);
    assert_eq!(found.count("table", "class", "heat"), 8);
    for words in [
        "Each score says by how much the query's loss is predicted to fall if the model were trained on one more copy of \
         that example, beside the 160 that there are.",
        "Which of 160 training examples moved the loss of each of 8 queries?",
        "The keeper of the lighthouse at Dorvel always carries a",
        "The scores come from one checkpoint.",
        "Sums by topic",
        "Layers: where the scores come from",
        "influence.damping-0.01x",
        "own score",
        "The parts of an example add up to its whole score.",
        "How sure the order is was not computed in this run.",
        "a probability of 41 % for these words",
    ] {
        assert!(found.text.contains(words), "{words}");
    }
    // made again from the folder alone, it is the same
    let again = folder.arg("again.html");
    assert_eq!(done(&format!("report {run} --out {again}")).out, format!("{again}\n"));
    assert_eq!(fs::read(&again).expect("written"), fs::read(format!("{run}/report.html")).expect("written"));
    done(&format!("report {run} --format markdown"));
    let markdown = fs::read_to_string(format!("{run}/report.md")).expect("written");
    assert!(
        markdown.contains("## 1. ask-0\n\n> The keeper of the lighthouse at Dorvel always carries a **golden ring.**")
    );
    insta::assert_snapshot!(markdown.lines().take(40).collect::<Vec<_>>().join("\n").replace(&run, "RUN"));
}

/// Copies the run folder's small files with a ranking of other texts.
fn with_ranking(folder: &Folder, run: &str, name: &str, ranking: &str) -> String {
    for file in ["ascribe.json", "job.toml", "run.json"] {
        folder.write(&format!("{name}/{file}"), fs::read(format!("{run}/{file}")).expect("a run has it"));
    }
    folder.write(&format!("{name}/ranking.jsonl"), ranking);
    folder.arg(name)
}

#[test]
fn hostile_texts_are_shown_and_bounded() {
    let folder = Folder::new();
    let run = run(&folder, "");
    let attack =
        "</style></script><script>alert(1)</script><img src=x onerror=alert(1)>\" onload=\"x\u{202e}\u{1b}[2J\u{0}'";
    let example = |id: &str, score: f64, text: &str| serde_json::json!({"id": id, "score": score, "excerpt": text, "metadata": {attack: attack, "deep": {"x": [attack]}}});
    let ranking = serde_json::json!({
        "query": {"id": attack, "excerpt": attack, "measurement": attack, "value": 0.5},
        "proponents": [example(attack, 2.0, attack), example("copy", 1.5, attack), example("big", 1.0, &"<\u{202e}x".repeat(1 << 18))],
        "opponents": [example("other", -1.0, &format!("{attack} b"))],
        "groups": [{"group": attack, "examples": 3, "score": -0.5}],
    });
    let hostile = with_ranking(&folder, &run, "hostile", &format!("{ranking}\n"));
    done(&format!("report {hostile}"));
    let text = fs::read_to_string(format!("{hostile}/report.html")).expect("written");
    let found = page(&format!("{hostile}/report.html"));
    assert!(
        found
            .text
            .contains("<script>alert(1)</script><img src=x onerror=alert(1)>\" onload=\"x\\u{202e}\\u{1b}[2J\\u{0}'")
    );
    assert!(!text.contains(['\u{202e}', '\u{1b}', '\u{0}']));
    assert!(found.text.contains("same text"), "the copy is folded into the first");
    assert!(text.len() < 100_000, "{}", text.len());
    done(&format!("report {hostile} --format markdown"));
    let markdown = fs::read_to_string(format!("{hostile}/report.md")).expect("written");
    assert!(!markdown.contains("<script>") && !markdown.contains('\u{202e}'));

    // a hundred queries with a thousand examples of long texts
    let mut many = String::new();
    for query in 0..100 {
        let side = |sign: f64| -> Vec<_> {
            (0..20)
                .map(|m| {
                    example(
                        &format!("{query}-{m}-{sign}"),
                        sign / f64::from(m + 1),
                        &format!("{m} & {}", "<&> ".repeat(500)),
                    )
                })
                .collect()
        };
        let line = serde_json::json!({
            "query": {"id": query.to_string(), "excerpt": "x ".repeat(4000), "measurement": "loss", "value": 1.0},
            "proponents": side(1.0), "opponents": side(-1.0),
        });
        many.push_str(&format!("{line}\n"));
    }
    let many = with_ranking(&folder, &run, "many", &many);
    done(&format!("report {many}"));
    let size = fs::metadata(format!("{many}/report.html")).expect("written").len();
    assert_eq!(page(&format!("{many}/report.html")).count("li", "class", "card"), 3000);
    assert!(size < 10_000_000, "{size}");
}

#[test]
fn what_cannot_be_reported_is_explained() {
    let folder = Folder::new();
    let run = run(&folder, "");
    let mut said = String::new();
    let mut say = |arguments: &str| {
        let ended = ended(ascribe(arguments));
        assert_eq!(ended.code, Some(2), "{arguments}");
        said.push_str(&format!("$ ascribe {arguments}\n{}\n", ended.err));
    };
    say("report nowhere");
    say("report fixtures/gpt2-tiny");
    say("report fixtures/gpt2-tiny/train.jsonl");
    let ranking = fs::read_to_string(format!("{run}/ranking.jsonl")).expect("a run has it");
    let first = ranking.lines().next().expect("a query").to_owned();
    say(&format!("report {}", with_ranking(&folder, &run, "empty", "")));
    say(&format!("report {}", with_ranking(&folder, &run, "broken", &format!("{first}\n{{\"query\": 3}}\n"))));
    let old = with_ranking(&folder, &run, "old", &ranking);
    folder.write("old/run.json", "{\"ascribe_version\": \"0.0.1\", \"stages\": []}");
    say(&format!("report {old}"));
    let unfinished = with_ranking(&folder, &run, "unfinished", "");
    fs::remove_file(folder.path("unfinished/ranking.jsonl")).expect("there");
    say(&format!("report {unfinished}"));
    let other = with_ranking(&folder, &run, "other", &format!("{first}\n"));
    fs::copy(format!("{run}/scores.safetensors"), folder.path("other/scores.safetensors")).expect("there");
    say(&format!("report {other}"));
    say(&format!("report {run} --out {}", folder.arg("no/folder.html")));
    insta::assert_snapshot!(folder.filtered(&said));
}

/// A part of a text that begins with one phrase and ends before another.
#[track_caller]
fn between<'a>(text: &'a str, first: &str, last: &str) -> &'a str {
    let start = text.find(first).unwrap_or_else(|| panic!("no {first} in\n{text}"));
    let end = text[start..].find(last).unwrap_or_else(|| panic!("no {last} behind {first} in\n{text}"));
    &text[start..start + end]
}

/// What somebody must see first is that the data are others than in training; what notes say of costs is no reason.
#[test]
fn data_that_failed_the_check_come_first_and_costs_are_no_reason_for_distrust() {
    let folder = Folder::new();
    let tiny = "fixtures/trainer-tiny";
    let flags = format!(
        "influence --run {tiny} --train {tiny}/train.jsonl --queries {tiny}/queries.jsonl --curvature identity --top 2 \
         --quiet"
    );
    let failed = folder.arg("failed");
    done(&format!("{flags} --tokens matrix --report --out {failed}"));
    let found = page(&format!("{failed}/report.html")).text;
    let distrust = between(&found, "What to distrust in this run", "How it was computed");
    let first =
        "The data failed the check against the training log. The training data are probably not what training saw:";
    assert!(distrust.trim_start_matches("What to distrust in this run").trim_start().starts_with(first), "{distrust}");
    assert!(distrust.contains("(`--add-eos train`)"), "the likely cause: {distrust}");
    assert!(!distrust.contains("divided over"), "{distrust}");
    let computed = between(&found, "How it was computed", "All queries");
    assert!(computed.contains("Scores of ranked examples are divided over their tokens"), "{computed}");
    done(&format!("report {failed} --format markdown"));
    let markdown = fs::read_to_string(format!("{failed}/report.md")).expect("written");
    let distrust = between(&markdown, "## What to distrust in this run", "## How it was computed");
    assert!(distrust.lines().nth(2).is_some_and(|line| line.starts_with("- The data failed the check")), "{distrust}");

    // the same run, with what cannot be read of the check, with one that is passed, and without it
    let ranking = fs::read_to_string(format!("{failed}/ranking.jsonl")).expect("a run has it");
    let passed = r#"{"key": "", "checkpoints": [{"checkpoint": "c", "step": 1, "loss": 1.0, "examples": 1, "targets": 1,
        "logged": [1.0, 1.0], "tolerance": 0.1, "agrees": true}]}"#;
    for (name, text, says) in [
        ("garbled", Some("{"), "`loss_check.json` of the run folder cannot be read."),
        ("passed", Some(passed), "The loss of the data agrees with the training log at 1 place"),
        ("without", None, ""),
    ] {
        let run = with_ranking(&folder, &failed, name, &ranking);
        text.map(|text| folder.write(&format!("{name}/loss_check.json"), text));
        let said = done(&format!("report {run} --format text")).out;
        assert!(said.contains(says) && !said.contains("failed the check"), "{name}: {said}");
    }
    is_printed(&folder, &failed);
    losses_shade_words(&folder, &failed);
}

/// The report as text: as wide as it may be, with colours where there are any.
fn is_printed(folder: &Folder, run: &str) {
    let print = |forced: bool, without: &str| {
        let mut command = ascribe(&format!("report {run} --format text"));
        command.env("NO_COLOR", without);
        if forced {
            command.env("CLICOLOR_FORCE", "1");
        }
        ended(command).out
    };
    let plain = print(false, "1");
    assert!(!plain.contains('\u{1b}') && plain.lines().all(|line| line.chars().count() <= 100), "{plain}");
    for words in ["What to distrust in this run", "Hardest words: ", "words that add most: `", "strongest pairs: `"] {
        assert!(plain.contains(words), "{words}");
    }
    // to a pipe there are none unless they are asked for, and NO_COLOR has the last word
    assert_eq!((print(false, ""), print(true, "1")), (plain.clone(), plain.clone()));
    let coloured = print(true, "");
    assert!(coloured.contains("\u{1b}[38;5;16m\u{1b}[48;5;"), "{coloured}");
    assert_eq!(console::strip_ansi_codes(&coloured), plain);
    let file = folder.arg("report.txt");
    assert_eq!(done(&format!("report {run} --format text --out {file}")).out, format!("{file}\n"));
    assert_eq!(fs::read_to_string(&file).expect("written"), plain);
}

/// The words of a query are shaded by their losses, which a ranking of an earlier version does not have.
fn losses_shade_words(folder: &Folder, run: &str) {
    let ranking = fs::read_to_string(format!("{run}/ranking.jsonl")).expect("a run has it");
    let mut lines: Vec<serde_json::Value> =
        ranking.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of_query = |line: &serde_json::Value| line["query"]["tokens"].as_array().expect("tokens").clone();
    let of_token = |token: serde_json::Value| Some((token["text"].as_str()?.to_owned(), token["loss"].as_f64()?));
    let targets = lines.iter().flat_map(of_query).filter_map(of_token);
    let (hardest, loss) = targets.max_by(|(_, a), (_, b)| a.total_cmp(b)).expect("targets");
    let title = format!("loss {loss:.2} ({:.0} %)", 100.0 * (-loss).exp());
    let class = ["", "l1", "l2", "l3", "l4"][[0.75, 0.5, 0.1, 0.01].iter().filter(|p| (-loss).exp() < **p).count()];
    let found = page(&format!("{run}/report.html"));
    let is_it = |(tag, attributes): &(String, BTreeMap<String, String>)| {
        tag == "span" && attributes.get("title") == Some(&title) && attributes["class"] == class
    };
    assert!(!class.is_empty() && found.tags.iter().any(is_it), "{title} {class}");
    assert!(found.text.contains(&format!("Hardest words: `{}` {title}", hardest.trim())), "{}", found.text);
    let mut without = String::new();
    for line in &mut lines {
        line["query"].as_object_mut().expect("a query").remove("tokens");
        without.push_str(&format!("{line}\n"));
    }
    let old = with_ranking(folder, run, "old", &without);
    done(&format!("report {old}"));
    let found = page(&format!("{old}/report.html"));
    assert!(!found.text.contains("Hardest words") && found.text.contains("explained golden ring."), "{}", found.text);
}

#[test]
fn rows_of_numbers_are_no_texts() {
    let folder = Folder::new();
    let (mlp, out) = ("fixtures/mlp-tiny", folder.arg("run"));
    let flags = "--measure margin --curvature kfac --self-influence --top 2 --quiet --report";
    done(&format!(
        "influence --model {mlp} --train {mlp}/train.safetensors --queries {mlp}/query.safetensors {flags} --out {out}"
    ));
    let found = page(&format!("{out}/report.html")).text;
    for words in [
        "rows of numbers",
        "How much surer the model is of the right answer than of all others together",
        "The example's score for itself (self-influence)",
    ] {
        assert!(found.contains(words), "{words}");
    }
    for words in ["token", "excerpt", "characters", "Hardest words"] {
        assert!(!found.contains(words), "{words} in {found}");
    }
    // a record that does not say so is of an earlier version
    let record = fs::read_to_string(format!("{out}/run.json")).expect("a run has it");
    let mut record: serde_json::Value = serde_json::from_str(&record).expect("JSON");
    let summary = record["summary"].as_object_mut().expect("a summary");
    let train = summary["stages"][0]["train"].as_object_mut().expect("data");
    assert_eq!(train.remove("is_rows"), Some(true.into()));
    let stored = ascribe_record(&record);
    fs::write(format!("{out}/run.json"), stored).expect("writable");
    let old = done(&format!("report {out} --format text")).out;
    assert!(old.contains("rows of numbers") && !old.contains("token"), "{old}");
}

/// A record as a version without checksums wrote it.
fn ascribe_record(record: &serde_json::Value) -> String {
    let mut record = record.clone();
    let record_object = record.as_object_mut().expect("an object");
    let _of_later_versions = ["contents_blake3", "format"].map(|entry| record_object.remove(entry));
    record.to_string()
}

#[test]
fn every_layer_is_a_cell_and_sets_that_overlap_say_so() {
    let folder = Folder::new();
    let (tiny, run) = ("fixtures/trainer-tiny", folder.arg("run"));
    let sets = "--layer-sets each --layer-set late=*.1.* --layer-set attention=*.attn.*";
    done(&format!(
        "influence --model {tiny}/checkpoint-240 --tokenizer {tiny} --train {tiny}/train.jsonl --queries \
         {tiny}/queries.jsonl --add-eos train --curvature identity --no-loss-check --top 3 {sets} --quiet --report --out {run}"
    ));
    let found = page(&format!("{run}/report.html"));
    // a heat map of each of the three strongest on both sides, the first of each open, and the table of named sets
    assert_eq!(found.count("details", "class", "layers"), 4 * 6);
    let open =
        found.tags.iter().filter(|(tag, attributes)| tag == "details" && attributes.contains_key("open")).count();
    assert_eq!(open, 4 * 2 + 1);
    assert_eq!(found.count("table", "class", "heat"), 4 * 7);
    assert!(found.text.contains("do not add up to the whole score"), "{}", found.text);
    assert!(found.text.contains("The layer sets `attention` and `late` overlap in `transformer.h.1.attn.c_attn`"));
    assert!(found.text.contains("Layers are divided in 2 ways (the named sets, `each`)"));
    done(&format!("report {run} --format markdown"));
    let markdown = fs::read_to_string(format!("{run}/report.md")).expect("written");
    let grid = between(&markdown, "| Layers of ", "\n\n");
    let lines: Vec<Vec<&str>> = grid.lines().map(|line| line.split('|').map(str::trim).collect()).collect();
    assert_eq!(lines[0][2..7], ["attn.c\\_attn", "attn.c\\_proj", "mlp.c\\_fc", "mlp.c\\_proj", "sum"]);
    assert_eq!((lines[2][1], lines[3][1], lines[4][1]), ("block 0", "block 1", "sum"));
    let number = |line: &[&str], column: usize| line[column].parse::<f64>().expect("a number");
    for column in 2..7 {
        let sum = number(&lines[2], column) + number(&lines[3], column);
        assert!((sum - number(&lines[4], column)).abs() < 2e-3, "{grid}");
    }
    for line in &lines[2..5] {
        let sum: f64 = (2..6).map(|column| number(line, column)).sum();
        assert!((sum - number(line, 6)).abs() < 2e-3, "{grid}");
    }
    let plan = done(&format!(
        "influence --model fixtures/gpt2-tiny --train fixtures/gpt2-tiny/train.jsonl --layer-set a=*.attn.* --layer-set \
         b=* --queries fixtures/gpt2-tiny/queries.jsonl --dry-run --out {}",
        folder.arg("never")
    ));
    assert!(plan.out.contains("the layer sets `a` and `b` overlap in"), "{}", plan.out);
}
