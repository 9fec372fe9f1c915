//! Copies by their definition: every pair compared.

use std::collections::BTreeSet;
use std::io::Write;

use super::clusters::Joined;
use super::min_hash::{Bands, Permutations, mixed};
use super::*;
use crate::data::{self, DataOptions, Dataset, ModelLimits, Role};

/// Examples that have these tokens, and these of them as targets.
fn dataset(texts: &[Vec<u32>]) -> Dataset {
    let mut file = tempfile::Builder::new().suffix(".jsonl").tempfile().expect("a file");
    for (k, tokens) in texts.iter().enumerate() {
        writeln!(file, "{{\"id\":{k},\"input_ids\":{tokens:?}}}").expect("writable");
    }
    let limits = ModelLimits { vocabulary: 1 << 20, max_positions: None, decoder: None, masked: None };
    data::read_tokens(file.path(), Role::Train, None, limits, DataOptions::default()).expect("examples").0
}

/// Numbers below `below` that depend on the seed alone.
fn random(seed: &mut u64, below: usize) -> usize {
    *seed += 1;
    (mixed(*seed) % below as u64) as usize
}

fn sets(clusters: &Clusters) -> Vec<Vec<usize>> {
    clusters.iter().map(<[usize]>::to_vec).collect()
}

/// The connected components of what `near` says of pairs, two and more.
fn components(n: usize, near: impl Fn(usize, usize) -> bool) -> Vec<Vec<usize>> {
    let mut names: Vec<usize> = (0..n).collect();
    for a in 0..n {
        for b in 0..a {
            if near(a, b) && names[a] != names[b] {
                let (from, to) = (names[a].max(names[b]), names[a].min(names[b]));
                names.iter_mut().filter(|name| **name == from).for_each(|name| *name = to);
            }
        }
    }
    let of = |name: usize| (0..n).filter(|&k| names[k] == name).collect::<Vec<_>>();
    (0..n).map(of).filter(|set| set.len() > 1).collect()
}

/// Texts of 3 to 60 tokens; most are an earlier one with some tokens replaced, dropped or put in.
fn texts(count: usize, mut seed: u64) -> Vec<Vec<u32>> {
    let mut texts: Vec<Vec<u32>> = vec![];
    while texts.len() < count {
        let text = match texts.len() {
            n if n > 3 && random(&mut seed, 4) > 0 => {
                let mut text = texts[random(&mut seed, n)].clone();
                for _ in 0..random(&mut seed, 4) {
                    let at = random(&mut seed, text.len());
                    match random(&mut seed, 3) {
                        0 => text[at] = random(&mut seed, 500) as u32,
                        1 => text.insert(at, random(&mut seed, 500) as u32),
                        _ if text.len() > 2 => drop(text.remove(at)),
                        _ => {}
                    }
                }
                text
            }
            _ => (0..2 + random(&mut seed, 58)).map(|_| random(&mut seed, 500) as u32).collect(),
        };
        texts.push(text);
    }
    texts
}

#[test]
fn exact_copies_have_the_same_tokens_and_targets() {
    let lines = [
        r#"{"id":"a","input_ids":[1,2,3]}"#,
        r#"{"id":"b","input_ids":[1,2,4]}"#,
        r#"{"id":"c","input_ids":[1,2,3],"topic":"x"}"#,
        r#"{"id":"d","input_ids":[1,2,3],"labels":[-100,-100,3]}"#,
        r#"{"id":"e","input_ids":[1,2,3],"labels":[1,2,3]}"#,
        r#"{"id":"f","input_ids":[1,2,3],"labels":[-100,-100,3]}"#,
        r#"{"id":"g","input_ids":[2,3]}"#,
    ];
    let mut file = tempfile::Builder::new().suffix(".jsonl").tempfile().expect("a file");
    file.write_all(lines.join("\n").as_bytes()).expect("writable");
    let limits = ModelLimits { vocabulary: 9, max_positions: None, decoder: None, masked: None };
    let (train, _) = data::read_tokens(file.path(), Role::Train, None, limits, DataOptions::default()).expect("rows");
    let places: Vec<[usize; 2]> = (0..train.len()).map(|i| [0, i]).collect();
    let found = exact_copies(ExampleList { datasets: &[&train], places: &places });
    assert_eq!(sets(&found), [vec![0, 2, 4], vec![3, 5]]);
    assert_eq!((found.copies(), found.largest()), (3, 3));
    assert_eq!([0, 1, 5].map(|example| found.cluster_of(example)), [Some(0), None, Some(1)]);
    // by pairs, over two datasets
    let texts = texts(60, 5);
    let (first, second) = (dataset(&texts[..35]), dataset(&texts[35..]));
    let places: Vec<[usize; 2]> = (0..60).map(|k| if k < 35 { [0, k] } else { [1, k - 35] }).collect();
    let found = exact_copies(ExampleList { datasets: &[&first, &second], places: &places });
    let want = components(60, |a, b| texts[a] == texts[b]);
    assert!(want.iter().any(|set| set[0] < 35 && *set.last().expect("two") >= 35), "a copy in the other file");
    assert_eq!(sets(&found), want);
}

#[test]
fn near_copies_are_the_components_of_similar_pairs() {
    let texts = texts(400, 1);
    let train = dataset(&texts);
    let places: Vec<[usize; 2]> = (0..texts.len()).map(|i| [0, i]).collect();
    let list = ExampleList { datasets: &[&train], places: &places };
    let grams = |text: &[u32]| -> BTreeSet<Vec<u32>> {
        match text.len() < GRAM {
            true => [text.to_vec()].into(),
            false => text.windows(GRAM).map(<[u32]>::to_vec).collect(),
        }
    };
    let sets_of: Vec<_> = texts.iter().map(|text| grams(text)).collect();
    let mut counts = vec![];
    for threshold in [0.5, 0.8, 0.95] {
        let want = components(texts.len(), |a, b| {
            let both = sets_of[a].intersection(&sets_of[b]).count();
            both as f64 / sets_of[a].union(&sets_of[b]).count() as f64 >= threshold
        });
        for room in [0, 1 << 15, 1 << 30] {
            let found = near_copies(list, threshold, room).expect("tokens");
            assert_eq!(sets(&found.clusters), want, "at {threshold} with room for {room} bytes");
            assert_eq!(found.crowded, 0);
        }
        counts.push(want.iter().map(Vec::len).sum::<usize>());
    }
    assert!(counts[0] > counts[1] && counts[1] > counts[2] && counts[2] > 100, "{counts:?}");
}

#[test]
fn bands_find_what_they_promise() {
    for threshold in [0.5, 0.6, 0.7, 0.8, 0.9, 0.99] {
        let bands = Bands::at(threshold);
        assert!(bands.bands * bands.rows <= 192, "{bands:?}");
        assert!(bands.found(threshold) > 0.9999, "{threshold}: {bands:?}");
    }
    assert_eq!(Bands::at(0.8), Bands { bands: 31, rows: 6 });
    // the share of equal rows is the similarity: 128 rows of two sets with 100 of 300 elements in common
    let one_row = Bands { bands: 128, rows: 1 };
    let permutations = Permutations::new(one_row);
    let mut share = 0.0;
    let rounds = 40;
    for round in 0..rounds {
        let signature = |from: u64| {
            let mut keys = vec![0; 128];
            let hashes = (from..from + 200).map(|element| (mixed(round << 32 | element) >> 32) as u32);
            permutations.band_keys(hashes, 0, &mut vec![], &mut keys);
            keys
        };
        let (a, b) = (signature(0), signature(100));
        share += a.iter().zip(&b).filter(|(a, b)| a == b).count() as f64 / 128.0 / rounds as f64;
    }
    // 5,120 draws of probability 1/3: a standard deviation of 0.0066
    assert!((share - 1.0 / 3.0).abs() < 0.02, "{share}");
}

/// Three thousand texts with a long common beginning: buckets of that alone hold many, of which none is near another.
#[test]
fn a_template_that_all_texts_share_is_no_quadratic_work() {
    let mut seed = 9;
    let template: Vec<u32> = (1000..1030).collect();
    let own = |seed: &mut u64| -> Vec<u32> { (0..20).map(|_| random(seed, 1 << 19) as u32).collect() };
    let mut texts: Vec<Vec<u32>> = (0..3000).map(|_| [template.clone(), own(&mut seed)].concat()).collect();
    texts.push(texts[7].clone());
    texts.push(texts[8][..49].to_vec());
    let train = dataset(&texts);
    let places: Vec<[usize; 2]> = (0..texts.len()).map(|i| [0, i]).collect();
    let list = ExampleList { datasets: &[&train], places: &places };
    let found = near_copies(list, 0.8, 1 << 20).expect("tokens");
    assert!(found.crowded > 0, "buckets of the template");
    assert_eq!(sets(&found.clusters), [vec![7, 3000], vec![8, 3001]]);
    // and where all are near, the first comparison of each is enough
    let same: Vec<Vec<u32>> = (0..3000u32).map(|k| [template.as_slice(), &[k]].concat()).collect();
    let train = dataset(&same);
    let list = ExampleList { datasets: &[&train], places: &places[..3000] };
    let found = near_copies(list, 0.8, 1 << 20).expect("tokens");
    assert_eq!((found.clusters.len(), found.clusters.largest(), found.crowded), (1, 3000, 0));
}

#[test]
fn sets_are_known_by_their_first_examples() {
    let mut joined = Joined::default();
    for (a, b) in [(4, 2), (5, 4), (3, 1)] {
        joined.join(a, b);
    }
    assert_eq!([0, 1, 2, 3, 4, 5].map(|example| joined.first(example)), [0, 1, 2, 1, 2, 2]);
    assert_eq!(sets(&Clusters::of(joined)), [vec![1, 3], vec![2, 4, 5]]);
}
