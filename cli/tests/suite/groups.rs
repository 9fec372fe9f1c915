//! `--group-by`: sums of scores over training examples with one value of a field, under influence and Source; and
//! `--duplicates`: copies as one entry.

use std::collections::BTreeMap;
use std::fs;

use crate::support::{Folder, GPT2, MLP, TRAINER, ascribe, done, ended, json_lines, scores_of};
use ascribe::attribution::store::TensorFile;

/// Sums by topic of a run's own score matrix, for each query.
fn by_hand(folder: &Folder, run: &str, train: &str) -> Vec<BTreeMap<String, (u64, f64)>> {
    let documents = json_lines(&fs::read_to_string(crate::support::root().join(train)).unwrap());
    scores_of(folder, run)
        .chunks_exact(documents.len())
        .map(|row| {
            let mut sums = BTreeMap::<String, (u64, f64)>::new();
            for (document, score) in documents.iter().zip(row) {
                let sum = sums.entry(document["topic"].as_str().unwrap().to_owned()).or_default();
                *sum = (sum.0 + 1, sum.1 + f64::from(*score));
            }
            sums
        })
        .collect()
}

#[track_caller]
fn assert_groups(folder: &Folder, run: &str, train: &str) {
    let rankings = json_lines(&fs::read_to_string(folder.path(run).join("ranking.jsonl")).unwrap());
    let want = by_hand(folder, run, train);
    assert_eq!(rankings.len(), want.len());
    for (ranking, want) in rankings.iter().zip(want) {
        let groups = ranking["groups"].as_array().unwrap();
        assert!(groups.len() > 3 && groups.len() == want.len());
        for pair in groups.windows(2) {
            assert!(pair[0]["score"].as_f64() >= pair[1]["score"].as_f64());
        }
        for group in groups {
            let (examples, score) = want[group["group"].as_str().unwrap()];
            assert_eq!(group["examples"].as_u64(), Some(examples));
            assert!((group["score"].as_f64().unwrap() - score).abs() < 1e-9);
        }
    }
}

/// The order by RelatIF is that of the definition on the stored scores, and the scores themselves stay.
#[test]
fn examples_are_ranked_by_their_share_of_what_they_do() {
    let folder = Folder::new();
    let run = folder.arg("run");
    done(&format!("influence {MLP} --self-influence --top 3 --out {run} --quiet"));
    let shown = done(&format!("rank --out {run} --rank-by relatif --csv"));
    assert!(shown.out.contains("Listed by the number in parentheses"), "{}", shown.out);
    let open = |name: &str| TensorFile::open(folder.path(&format!("run/{name}.safetensors")).as_path()).unwrap();
    let (scores, own) = (open("scores"), open("self_influence"));
    let n = scores.spec("scores").unwrap().shape[1];
    let own = own.f32("self_influence").unwrap();
    let lines = std::fs::read_to_string(folder.path("run/ranking.jsonl")).unwrap();
    let mut moved = 0;
    for (query, line) in lines.lines().enumerate() {
        let ranking: serde_json::Value = serde_json::from_str(line).unwrap();
        let row = &scores.f32("scores").unwrap()[query * n..(query + 1) * n];
        let divided: Vec<f64> = row.iter().zip(own).map(|(s, o)| f64::from(*s) / f64::from(*o).sqrt()).collect();
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| divided[b].total_cmp(&divided[a]));
        for (place, example) in ranking["proponents"].as_array().unwrap().iter().enumerate() {
            let m: usize = example["id"].as_str().unwrap().parse().unwrap();
            assert_eq!(m, order[place], "query {query}");
            assert_eq!(example["score"].as_f64().unwrap() as f32, row[m]);
            assert_eq!(example["self_influence"].as_f64().unwrap() as f32, own[m]);
            assert!((example["relatif"].as_f64().unwrap() - divided[m]).abs() < 1e-5 * divided[m].abs());
            let by_score = row.iter().filter(|score| **score > row[m]).count();
            moved += usize::from(by_score != place);
        }
    }
    assert!(moved > 0, "the order of no query is another");
    let csv = std::fs::read_to_string(folder.path("run/ranking.csv")).unwrap();
    assert!(csv.lines().next().unwrap().ends_with("excerpt,self_influence,relatif"), "{csv}");
    for (flags, problem) in [
        (format!("influence {MLP} --rank-by relatif --out {run}-2"), "are not taken"),
        (
            format!("influence {MLP} --rank-by relatif --self-influence --damping 0.1x,1x --out {run}-2"),
            "first damping",
        ),
        (
            format!("influence {MLP} --rank-by relatif --self-influence --store-scores top --out {run}-2"),
            "lists others",
        ),
    ] {
        let refused = ended(ascribe(&flags));
        assert!(refused.err.contains(problem) && refused.err.contains("--rank-by relatif"), "{}", refused.err);
    }
}

#[test]
fn groups_are_sums_of_the_scores_of_influence_and_of_source() {
    let folder = Folder::new();
    let said = done(&format!("influence {GPT2} --top 2 --group-by topic --out {}", folder.arg("influence")));
    assert!(said.out.contains("  by topic\n"), "{}", said.out);
    assert_groups(&folder, "influence", "fixtures/gpt2-tiny/train.jsonl");

    // asked of scores that are there
    done(&format!("source {TRAINER} --segments 2 --quiet --out {}", folder.arg("source")));
    let plain = json_lines(&fs::read_to_string(folder.path("source/ranking.jsonl")).unwrap());
    assert!(plain[0].get("groups").is_none());
    done(&format!("rank --group-by topic --quiet --out {}", folder.arg("source")));
    assert_groups(&folder, "source", "fixtures/trainer-tiny/train.jsonl");
}

#[test]
fn a_field_that_no_example_has_is_refused_before_the_work() {
    let folder = Folder::new();
    let refused = |flags: &str| {
        let ended = ended(ascribe(&format!("influence {flags} --out {}", folder.arg("run"))));
        assert_eq!(ended.code, Some(2), "{}", ended.err);
        assert!(!folder.path("run").exists());
        ended.err
    };
    let said = refused(&format!("{GPT2} --group-by topics"));
    assert!(said.contains("no training example has a field `topics`") && said.contains("they have `topic`"), "{said}");
    let said = refused(&format!("{MLP} --group-by source"));
    assert!(said.contains("no training example has a field `source`"), "{said}");
    let said = refused(&format!("{GPT2} --group-by topic --store-scores top"));
    assert!(said.contains("--group-by") && said.contains("--store-scores"), "{said}");
}

/// The documents of the small language model with three exact copies of one, two of another and a near copy of the first.
fn with_copies(folder: &Folder) -> String {
    let text = fs::read_to_string(crate::support::root().join("fixtures/gpt2-tiny/train.jsonl")).unwrap();
    let of = |id: &str| json_lines(&text).into_iter().find(|row| row["id"] == id).unwrap();
    let mut lines = text.trim_end().to_owned();
    let mut add = |row: &serde_json::Value, id: &str, text: String| {
        let mut row = row.clone();
        (row["id"], row["text"]) = (id.into(), text.into());
        lines.push_str(&format!("\n{row}"));
    };
    for (id, copies) in [("fact-0-f", 3), ("garden-02", 2)] {
        let row = of(id);
        (1..=copies).for_each(|k| add(&row, &format!("{id}\u{1b}[31m copy {k}"), row["text"].as_str().unwrap().into()));
    }
    let row = of("fact-0-f");
    add(&row, "fact-0-f nearly", row["text"].as_str().unwrap().replace("Few who", "Few that"));
    folder.write("train.jsonl", lines)
}

/// By the definition: each query's entries on one side, from the scores, as sets of ids with their scores.
fn entries_by_hand(row: &[f32], sets: &BTreeMap<usize, Vec<usize>>, helps: bool, sum: bool) -> Vec<(usize, f64)> {
    let sign = if helps { 1.0 } else { -1.0 };
    let of_set = |(&first, members): (&usize, &Vec<usize>)| {
        let scores = members.iter().map(|&m| sign * f64::from(row[m]));
        (first, if sum { scores.sum::<f64>() } else { scores.fold(f64::NEG_INFINITY, f64::max) })
    };
    let mut entries: Vec<(usize, f64)> = sets.iter().map(of_set).filter(|(_, score)| *score > 0.0).collect();
    entries.sort_by(|a, b| b.1.total_cmp(&a.1));
    entries
}

#[track_caller]
fn assert_entries(folder: &Folder, run: &str, names: &[String], sets: &BTreeMap<usize, Vec<usize>>, sum: bool) {
    let rankings = json_lines(&fs::read_to_string(folder.path(run).join("ranking.jsonl")).unwrap());
    let scores = scores_of(folder, run);
    assert_eq!(rankings.len() * names.len(), scores.len());
    let mut with_copies = 0;
    for (ranking, row) in rankings.iter().zip(scores.chunks_exact(names.len())) {
        for (side, helps) in [("proponents", true), ("opponents", false)] {
            let want = entries_by_hand(row, sets, helps, sum);
            let found = ranking[side].as_array().unwrap();
            assert_eq!(found.len(), want.len().min(10));
            for (found, (first, score)) in found.iter().zip(want) {
                let score = if helps { score } else { -score };
                let near =
                    |value: &serde_json::Value, want: f64| (value.as_f64().unwrap() - want).abs() < 1e-3 * want.abs();
                assert!(near(&found["score"], score), "{side} {found}: {score}");
                let own = names.iter().position(|name| found["id"] == name.as_str()).unwrap();
                let members = sets.values().find(|members| members.contains(&own)).unwrap();
                if members.len() == 1 {
                    assert!(found.get("copies").is_none(), "{found}");
                    continue;
                }
                assert_eq!(members[0], first);
                with_copies += 1;
                let copies = &found["copies"];
                assert_eq!(copies["count"], members.len() - 1);
                assert!(near(&copies["total"], members.iter().map(|&m| f64::from(row[m])).sum()), "{copies}");
                let mut others: Vec<&str> =
                    copies["others"].as_array().unwrap().iter().map(|of| of["id"].as_str().unwrap()).collect();
                others.push(names[own].as_str());
                others.sort_unstable();
                let mut want: Vec<&str> = members.iter().map(|&m| names[m].as_str()).collect();
                want.sort_unstable();
                assert_eq!(others, want);
            }
        }
    }
    assert!(with_copies > 2, "{with_copies}");
}

#[test]
fn a_text_and_its_copies_are_one_entry() {
    let folder = Folder::new();
    let train = with_copies(&folder);
    let rows = json_lines(&fs::read_to_string(&train).unwrap());
    let names: Vec<String> = rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect();
    let by = |key: &dyn Fn(usize) -> String| {
        let mut sets = BTreeMap::<String, Vec<usize>>::new();
        (0..rows.len()).for_each(|m| sets.entry(key(m)).or_default().push(m));
        sets.into_values().map(|members| (members[0], members)).collect::<BTreeMap<usize, Vec<usize>>>()
    };
    let text = |m: usize| rows[m]["text"].as_str().unwrap().to_owned();
    let exact = by(&text);
    assert_eq!(exact.len(), 161);
    let job = format!(
        "--model fixtures/gpt2-tiny --train {train} --queries fixtures/gpt2-tiny/queries.jsonl --add-eos train \
         --curvature identity"
    );
    // not asked for, and said all the same
    let said = done(&format!("influence {job} --dry-run --out {}", folder.arg("none")));
    let note = "5 of 166 training examples are exact copies of 2 others, 4 the most of one text";
    assert!(said.out.contains(note) && said.out.contains("`--duplicates exact`"), "{}", said.out);

    let said = done(&format!("influence {job} --duplicates exact --csv --report --out {}", folder.arg("run")));
    assert!(said.err.contains(note) && said.out.contains("with the score of the strongest"), "{}", said.err);
    assert!(said.out.contains("(+3 copies, together +") && !said.out.contains('\u{1b}'), "{}", said.out);
    assert_entries(&folder, "run", &names, &exact, false);
    let sets = fs::read_to_string(folder.path("run/duplicates.jsonl")).unwrap();
    let counts: Vec<u64> = json_lines(&sets).iter().map(|set| set["count"].as_u64().unwrap()).collect();
    assert_eq!((counts, sets.lines().count()), (vec![4, 3], 2));
    let csv = fs::read_to_string(folder.path("run/ranking.csv")).unwrap();
    let header = "query_id,side,rank,train_id,score,excerpt,copies,score_with_copies\n";
    assert!(csv.starts_with(header), "{csv}");
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let records: Vec<csv::StringRecord> = reader.records().map(|record| record.unwrap()).collect();
    let of = |id: &str| records.iter().find(|record| &record[3] == id).unwrap();
    let score = |text: &str| text.parse::<f64>().unwrap();
    assert_eq!(&of("fact-0-f")[6], "3");
    assert!(
        (score(&of("fact-0-f")[7]) - 4.0 * score(&of("fact-0-f")[4])).abs() < 1e-3 * score(&of("fact-0-f")[7]).abs()
    );
    assert_eq!((&of("fact-0-d")[6], &of("fact-0-d")[7]), ("0", &of("fact-0-d")[4]));
    let html = fs::read_to_string(folder.path("run/report.html")).unwrap();
    assert!(html.contains("<dt>the same text</dt>") && html.contains("; together +") && !html.contains('\u{1b}'));

    // asked of scores that are there
    done(&format!("rank --duplicates exact --duplicate-scores sum --quiet --out {}", folder.arg("run")));
    assert_entries(&folder, "run", &names, &exact, true);
    done(&format!("report {} --format markdown", folder.arg("run")));
    let markdown = fs::read_to_string(folder.path("run/report.md")).unwrap();
    assert!(markdown.contains("(and 3 with the same text; the score is the sum of all)"), "{markdown}");

    let said = done(&format!("rank --duplicates near:0.7 --duplicate-scores each --out {}", folder.arg("run")));
    let sets = fs::read_to_string(folder.path("run/duplicates.jsonl")).unwrap();
    assert!(json_lines(&sets).iter().any(|set| set["count"] == 5 && set["ids"][4] == "fact-0-f nearly"), "{sets}");
    assert!(
        said.err.contains("near copies (token trigrams with a Jaccard similarity of 0.7 and more)"),
        "{}",
        said.err
    );
    // the ranking follows the sets that are named
    let place = |id: &serde_json::Value| names.iter().position(|name| id == name.as_str()).unwrap();
    let mut near: BTreeMap<usize, Vec<usize>> = (0..rows.len()).map(|m| (m, vec![m])).collect();
    for set in json_lines(&sets) {
        let members: Vec<usize> = set["ids"].as_array().unwrap().iter().map(place).collect();
        members.iter().for_each(|m| drop(near.remove(m)));
        near.insert(members[0], members);
    }
    assert_entries(&folder, "run", &names, &near, false);

    // a variant of the scores may list another of the copies
    let job = job.replace("identity", "diagonal");
    done(&format!("influence {job} --duplicates exact --intervals damping --quiet --out {}", folder.arg("sure")));
    for ranking in json_lines(&fs::read_to_string(folder.path("sure/ranking.jsonl")).unwrap()) {
        let side = &ranking["stability"]["proponents"];
        assert_eq!(side["listed"], ranking["proponents"].as_array().unwrap().len());
        assert!(side["kept"].as_array().unwrap().iter().any(|of| of["share"].as_f64().unwrap() > 0.5), "{side}");
    }
}

#[test]
fn copies_are_refused_where_they_mean_nothing() {
    let folder = Folder::new();
    for (flags, said) in [
        (format!("{GPT2} --duplicates exact --store-scores top"), "`--duplicates` need every score"),
        (format!("{GPT2} --duplicate-scores sum"), "no `--duplicates` are asked for"),
        (format!("{GPT2} --duplicates exact --duplicate-scores sum --normalize cosine"), "cosines do not add up"),
        (format!("{GPT2} --duplicates exact --duplicate-scores sum --tokens ranked"), "`--tokens` divides the score"),
        (format!("{GPT2} --duplicates exact --duplicate-scores sum --intervals damping"), "`--intervals` are those"),
        (format!("{GPT2} --duplicates exact --duplicate-scores sum --candidates bm25:5"), "`--candidates` scores some"),
        (format!("{GPT2} --duplicates near:1.5"), "no similarity from 0.5 to below 1"),
        (format!("{GPT2} --duplicates fuzzy"), "none of `off`, `exact`, `near`"),
        (format!("{MLP} --duplicates near"), "this model reads rows of numbers"),
    ] {
        let ended = ended(ascribe(&format!("influence {flags} --out {}", folder.arg("run"))));
        assert_eq!(ended.code, Some(2), "{flags}\n{}", ended.err);
        assert!(ended.err.contains(said), "{flags}\n{}", ended.err);
        assert!(!folder.path("run").exists());
    }
}
