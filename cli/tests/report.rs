//! `ascribe report`: a finished run as one page, read as a browser reads it.

mod support;

use std::collections::BTreeMap;
use std::fs;

use html5gum::{DefaultEmitter, Token, Tokenizer};
use support::{Folder, ascribe, done, ended};

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
                    "aria-labelledby" => assert!(ids.contains(&value), "{value}"),
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
        "for itself",
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
