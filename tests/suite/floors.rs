//! Holds the floors of the house: which module may name which, read from the sources themselves.
//!
//! A module is a file of `src`. It names another where a `use` or a path in its code leads there; test modules are not
//! looked at. The rooms of `src/job` are listed from the ground up, and a room names only itself and rooms below it.
//! No file inside `src/data`, `src/model`, `src/trajectory`, `src/exact` or `src/job` names the face of its module, such as
//! `src/job/mod.rs`, which is for callers. Among the files of each of them there is no circle, so that every file can
//! be understood, and tested, with the files below it alone. The methods of `Run`, `Plan` and `Brief`, which many files
//! of `src/job` have, lead from file to file in no circle either. Of `curvature/src` the rooms are listed too, and there is no
//! circle among its files, nor among those of `nn/src` and `cli/src`. Of `attribution/src` the store and a training run's numbers name
//! nothing of what is built on them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The modules of `src`, from the ground up.
const HOUSE: [&str; 7] = ["presence", "hub", "data", "model", "trajectory", "exact", "job"];

/// The rooms of `src/job`, from the ground up.
const ROOMS: [&str; 11] =
    ["option_text", "error", "request", "number", "training", "brief", "folder", "budget", "plan", "steps", "cost"];

/// Modules among whose files there is no circle, and whose face is for callers alone.
const UNTANGLED: [&str; 6] = ["hub", "data", "model", "trajectory", "exact", "job"];

/// The rooms of `curvature/src`, from the ground up. Rooms on one floor may name each other.
const CURVATURE: [&str; 5] = ["error", "linalg", "network", "contraction estimate", "definitions"];

/// Types of `src/job` that have methods in many files, and what variables that hold them are called.
const SHARED: [(&str, &str); 3] = [("Run<'_>", "run"), ("Plan", "plan"), ("Brief", "brief")];

/// A module's path below the crate, such as `job::brief::keys`; empty for the crate itself.
type Module = Vec<String>;

/// Rooms of `attribution/src` that know nothing of methods, and what of the crate they may name beside themselves.
const BELOW_ATTRIBUTION: [(&str, &[&str]); 2] = [("store", &["foreign_file"]), ("trajectory", &[])];

/// The text of every module.
type Sources = BTreeMap<Module, String>;

/// What every module names.
type Names = BTreeMap<Module, BTreeSet<Module>>;

fn module(path: &str) -> Module {
    path.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// Every `.rs` file below a folder, as the module that it is.
fn read(folder: &Path, of: &Module, sources: &mut Sources) {
    for entry in std::fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let mut own = of.clone();
        if !matches!(name.as_str(), "mod" | "lib" | "main") {
            own.push(name);
        }
        if path.is_dir() {
            read(&path, &own, sources);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            sources.insert(own, std::fs::read_to_string(&path).expect("a source"));
        }
    }
}

/// The code of a file: without comments, texts, visibilities and its test module.
fn code(source: &str) -> String {
    let source = source.split("\nmod tests {").next().unwrap_or_default();
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let skipped = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '"' => text_length(rest),
            '\'' if rest.starts_with("'\"'") => 3,
            'p' if rest.starts_with("pub(") => rest.find(')').map_or(rest.len(), |end| end + 1),
            _ => 0,
        };
        if skipped == 0 {
            code.push(first);
        }
        rest = &rest[skipped.max(first.len_utf8())..];
    }
    code
}

/// Bytes of the quoted text that begins here.
fn text_length(rest: &str) -> usize {
    let mut is_escaped = false;
    for (place, c) in rest.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => return place + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The paths of one `use` tree, without what they are renamed to.
fn expand(tree: &str, before: &[String], paths: &mut Vec<Vec<String>>) {
    let tree = tree.trim();
    let (own, group) = match tree.split_once('{') {
        Some((own, group)) => (own, group.trim_end().strip_suffix('}')),
        None => (tree.split_once(" as ").map_or(tree, |(path, _)| path), None),
    };
    let parts = own.split("::").map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned);
    let path: Vec<String> = before.iter().cloned().chain(parts).collect();
    let Some(group) = group else {
        if !tree.is_empty() {
            paths.push(path);
        }
        return;
    };
    let (mut depth, mut start) = (0, 0);
    for (place, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&group[start..place], &path, paths);
                start = place + 1;
            }
            _ => {}
        }
    }
    expand(&group[start..], &path, paths);
}

/// Every path of a file's code: those of its `use` lines, and those that stand where they are used.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut paths = vec![];
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut rest = code;
    let mut before = ' ';
    while let Some(first) = rest.chars().next() {
        if !is_word(first) || is_word(before) {
            before = first;
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let word = rest.find(|c: char| !is_word(c)).map_or(rest, |end| &rest[..end]);
        let length = if word == "use" {
            let end = rest.find(';').unwrap_or(rest.len());
            expand(&rest[word.len()..end], &[], &mut paths);
            end
        } else {
            let end = rest.find(|c: char| !is_word(c) && c != ':').unwrap_or(rest.len());
            let path: Vec<String> =
                rest[..end].split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
            if path.len() > 1 && before != ':' && before != '.' {
                paths.push(path);
            }
            end
        };
        before = rest[..length].chars().last().unwrap_or(' ');
        rest = &rest[length..];
    }
    paths
}

/// What every module names. A path leads to the deepest module on its way.
fn names(sources: &Sources) -> Names {
    let of_module = |own: &Module, source: &String| {
        let mut named = BTreeSet::new();
        for path in paths(&code(source)) {
            let ups = path.iter().take_while(|part| *part == "super").count();
            let mut to: Module = match path[0].as_str() {
                "crate" => path[1..].to_vec(),
                "self" => own.iter().cloned().chain(path[1..].iter().cloned()).collect(),
                "super" => own[..own.len() - ups].iter().chain(&path[ups..]).cloned().collect(),
                child => {
                    let child: Module = own.iter().cloned().chain([child.to_owned()]).collect();
                    if own.is_empty() || !sources.contains_key(&child) {
                        continue;
                    }
                    own.iter().cloned().chain(path).collect()
                }
            };
            while !to.is_empty() && !sources.contains_key(&to) {
                to.pop();
            }
            if to != *own {
                named.insert(to);
            }
        }
        named
    };
    sources.iter().map(|(own, source)| (own.clone(), of_module(own, source))).collect()
}

/// The methods of [`SHARED`] types that a file declares.
fn methods(code: &str) -> Vec<&str> {
    let mut found = vec![];
    let mut is_inside = false;
    for line in code.lines() {
        if line.starts_with("impl") {
            let of = line.trim_end_matches(" {");
            is_inside = !of.contains(" for ") && SHARED.iter().any(|(name, _)| of.ends_with(&format!(" {name}")));
        }
        is_inside &= !line.starts_with('}');
        let declared = line.trim_start();
        // a function inside of another one is none of the type's
        if is_inside && line.len() - declared.len() < 8 {
            let declared = declared.strip_prefix("pub ").unwrap_or(declared).trim_start();
            found.extend(declared.strip_prefix("fn ").and_then(|rest| rest.split(['(', '<']).next()));
        }
    }
    found
}

/// What every module calls: those whose methods it names behind a variable of a [`SHARED`] type. Names that several files
/// declare lead nowhere.
fn calls(sources: &Sources) -> Names {
    let codes: BTreeMap<&Module, String> = sources.iter().map(|(own, source)| (own, code(source))).collect();
    let mut declared: BTreeMap<&str, Vec<&Module>> = BTreeMap::new();
    for (own, code) in &codes {
        methods(code).into_iter().for_each(|name| declared.entry(name).or_default().push(own));
    }
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let called = |code: &str| {
        let of_dot = |(dot, _): (usize, &str)| {
            let (before, behind) = (code[..dot].trim_end(), &code[dot + 1..]);
            let receiver = before.rsplit(|c| !is_word(c)).next().unwrap_or_default();
            let name = behind.split(|c| !is_word(c)).next().unwrap_or_default();
            let is_call = behind[name.len()..].starts_with(['(', ':']);
            let is_shared = receiver == "self" || SHARED.iter().any(|(_, variable)| *variable == receiver);
            (is_call && is_shared).then(|| name.to_owned())
        };
        code.match_indices('.').filter_map(of_dot).collect::<BTreeSet<String>>()
    };
    let of_module = |own: &Module, code: &String| {
        let to = called(code).into_iter().filter_map(|name| match declared.get(name.as_str())?.as_slice() {
            [one] if *one != own => Some((*one).clone()),
            _ => None,
        });
        (own.clone(), to.collect())
    };
    codes.iter().map(|(own, code)| of_module(own, code)).collect()
}

/// What points up from a floor, of those that lie in `within`, from the ground up. Names with a space between them share
/// a floor.
fn upward(names: &Names, within: &[&str], floors: &[&str]) -> Vec<String> {
    let floor = |module: &Module| {
        let room = module.strip_prefix(module_prefix(within).as_slice())?.first()?;
        Some(floors.iter().position(|floor| floor.split(' ').any(|name| name == room)).unwrap_or_else(|| {
            panic!("`{}` is in no list of floors: give it a place in tests/suite/floors.rs", module.join("::"))
        }))
    };
    let mut found = vec![];
    for (from, to) in names.iter().flat_map(|(from, named)| named.iter().map(move |to| (from, to))) {
        if let (Some(low), Some(high)) = (floor(from), floor(to))
            && high > low
        {
            found.push(format!("{} names {}", from.join("::"), to.join("::")));
        }
    }
    found
}

fn module_prefix(within: &[&str]) -> Module {
    within.iter().map(|&part| part.to_owned()).collect()
}

/// Names of modules of at most `depth` parts, each for all modules below it.
fn folded(names: &Names, depth: usize) -> Names {
    let fold = |module: &Module| module[..depth.min(module.len())].to_vec();
    let mut folded = Names::new();
    for (from, named) in names {
        let from = fold(from);
        let named: Vec<Module> = named.iter().map(fold).filter(|to| *to != from).collect();
        folded.entry(from).or_default().extend(named);
    }
    folded
}

/// Modules of a part of the house, or of all of it, each of which leads back to itself.
fn circles(names: &Names, within: Option<&str>) -> Vec<String> {
    let is_inside = |module: &Module| match within {
        Some(within) => module.len() > 1 && module[0] == within,
        None => !module.is_empty(),
    };
    let reached = |start: &Module| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![start.clone()]);
        while let Some(next) = open.pop() {
            for to in names.get(&next).into_iter().flatten().filter(|to| is_inside(to)) {
                if seen.insert(to.clone()) {
                    open.push(to.clone());
                }
            }
        }
        seen
    };
    let inside = names.keys().filter(|module| is_inside(module));
    inside.filter(|module| reached(module).contains(*module)).map(|module| module.join("::")).collect()
}

/// What the modules of a crate name, by the folder of its sources.
fn modules_of(sources_folder: &str) -> Names {
    let mut sources = Sources::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(sources_folder), &vec![], &mut sources);
    names(&sources)
}

/// The house itself.
fn house() -> Names {
    modules_of("src")
}

#[test]
fn modules_of_the_crate_name_none_above_them() {
    let found = upward(&house(), &[], &HOUSE);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn rooms_of_a_job_name_none_above_them() {
    let house = house();
    let found = upward(&house, &["job"], &ROOMS);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn files_name_the_file_they_mean_and_not_the_face() {
    let house = house();
    for part in UNTANGLED {
        let face = module(part);
        let of_face = |(from, named): (&Module, &BTreeSet<Module>)| {
            let is_test = from.iter().any(|name| name == "tests");
            (from.len() > 1 && from[0] == part && !is_test && named.contains(&face)).then(|| from.join("::"))
        };
        let found: Vec<String> = house.iter().filter_map(of_face).collect();
        assert!(found.is_empty(), "these name the face, `crate::{part}`, and not the file: {}", found.join(", "));
    }
}

#[test]
fn files_of_a_module_name_each_other_in_no_circle() {
    let house = house();
    let edges_of = |top: &str| {
        let inside = house.iter().filter(|(from, _)| from.first().is_some_and(|part| part == top));
        inside.fold((0, 0), |(files, edges), (_, named)| (files + 1, edges + named.len()))
    };
    let (files, edges) = edges_of("job");
    assert!(files > 50 && edges > 3 * files, "{files} files with {edges} names: the reader has gone blind");
    for part in UNTANGLED {
        let found = circles(&house, Some(part));
        assert!(found.is_empty(), "these lead back to themselves: {}", found.join(", "));
    }
}

#[test]
fn methods_of_a_job_lead_from_file_to_file_in_no_circle() {
    let mut sources = Sources::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/job"), &module("job"), &mut sources);
    let calls = calls(&sources);
    let edges: usize = calls.values().map(BTreeSet::len).sum();
    assert!(edges > calls.len(), "{} files with {edges} calls: the reader has gone blind", calls.len());
    let found = circles(&calls, Some("job"));
    assert!(found.is_empty(), "calls of methods lead back to these: {}", found.join(", "));
}

#[test]
fn rooms_of_curvature_name_none_above_them_and_its_files_each_other_in_no_circle() {
    let curvature = modules_of("curvature/src");
    let found = upward(&curvature, &[], &CURVATURE);
    assert!(found.is_empty(), "{}", found.join("\n"));
    // the files of `gemm` and of `decomposition` share their face, and are one each
    let files = folded(&curvature, 2);
    let names: usize = files.values().map(BTreeSet::len).sum();
    assert!(files.len() > 30 && names > 3 * files.len(), "{} files with {names} names: gone blind", files.len());
    let found = circles(&files, None);
    assert!(found.is_empty(), "these lead back to themselves: {}", found.join(", "));
}

#[test]
fn the_store_and_a_runs_numbers_lie_below_attribution() {
    let attribution = modules_of("attribution/src");
    for (room, below) in BELOW_ATTRIBUTION {
        let is_allowed = |to: &Module| to.first().is_some_and(|first| first == room || below.contains(&first.as_str()));
        let of_room = attribution.iter().filter(|(from, _)| from.first().is_some_and(|first| first == room));
        let found: Vec<String> = of_room
            .clone()
            .flat_map(|(from, named)| named.iter().map(move |to| (from, to)))
            .filter(|(_, to)| !is_allowed(to))
            .map(|(from, to)| format!("{} names crate::{}", from.join("::"), to.join("::")))
            .collect();
        assert!(of_room.count() > 5, "no files of `{room}`: gone blind");
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}

#[test]
fn files_of_the_building_blocks_name_each_other_in_no_circle() {
    let blocks = modules_of("nn/src");
    let names: usize = blocks.values().map(BTreeSet::len).sum();
    assert!(blocks.len() > 25 && names > blocks.len(), "{} files with {names} names: gone blind", blocks.len());
    let found = circles(&blocks, None);
    assert!(found.is_empty(), "these lead back to themselves: {}", found.join(", "));
}

#[test]
fn files_of_the_command_name_each_other_in_no_circle() {
    let command = modules_of("cli/src");
    let names: usize = command.values().map(BTreeSet::len).sum();
    assert!(command.len() > 50 && names > command.len(), "{} files with {names} names: gone blind", command.len());
    let found = circles(&command, None);
    assert!(found.is_empty(), "these lead back to themselves: {}", found.join(", "));
}

#[test]
fn nested_uses_relative_paths_and_paths_in_code_are_read() {
    let source = |text: &str| text.to_owned();
    let sources = Sources::from([
        (module(""), source("pub mod low; pub mod high;")),
        (module("low"), source("mod inner;\nfn f() -> usize { inner::g() }\n")),
        (
            module("low::inner"),
            source(
                "//! crate::high in a comment\nuse std::{\n    fmt, // crate::high\n    io::{self, Read},\n};\n\
                 pub(in crate::high) fn g() -> usize { \"crate::high \\\" \".len() + crate::low::own() }\n\
                 #[cfg(test)]\nmod tests { use crate::high::H; }\n",
            ),
        ),
        (
            module("high"),
            source(
                "use crate::{\n    low::{\n        inner::{X as Y, Z},\n        W,\n    },\n};\nmod room;\nfn f() {}\n",
            ),
        ),
        (module("high::room"), source("fn f() { super::super::low::inner::g(); let x = a.low::<B>(); }\n")),
    ]);
    let found = names(&sources);
    let of = |name: &str| found[&module(name)].iter().map(|to| to.join("::")).collect::<Vec<_>>();
    assert_eq!(of("low"), ["low::inner"]);
    assert_eq!(of("low::inner"), ["low"]);
    assert_eq!(of("high"), ["low", "low::inner"]);
    assert_eq!(of("high::room"), ["low::inner"]);
    assert_eq!(upward(&found, &[], &["low", "high"]), Vec::<String>::new());
    assert_eq!(
        upward(&found, &[], &["high", "low"]),
        ["high names low", "high names low::inner", "high::room names low::inner"]
    );
    let pair = Sources::from([
        (module(""), source("")),
        (module("low::a"), source("use super::b::{B, C};")),
        (module("low::b"), source("fn f() { crate::low::a::g() }")),
        (module("low::c"), source("use crate::low::{a, b};")),
    ]);
    assert_eq!(circles(&names(&pair), Some("low")), ["low::a", "low::b"]);
}

#[test]
fn calls_of_methods_are_read() {
    let one = "impl Run<'_> {\n    pub(super) fn first(&self) {\n        self.second::<T>();\n        fn inner() {}\n    }\n}\n";
    let two = "impl Plan {\n    fn second(&self) { other.first() }\n}\nimpl Other {\n    fn third(&self) {}\n}\n";
    let three = "fn f(run: &Run<'_>) {\n    run\n        .first();\n    plan.third(); plan.second\n}\n";
    let sources = [("job::one", one), ("job::two", two), ("job::three", three)];
    let sources: Sources = sources.into_iter().map(|(name, text)| (module(name), text.to_owned())).collect();
    let found = calls(&sources);
    let of = |name: &str| found[&module(name)].iter().map(|to| to.join("::")).collect::<Vec<_>>();
    assert_eq!(of("job::one"), ["job::two"]);
    assert_eq!(of("job::two"), Vec::<String>::new());
    assert_eq!(of("job::three"), ["job::one"]);
    assert_eq!(circles(&found, Some("job")), Vec::<String>::new());
    let mut sources = sources;
    sources.insert(module("job::two"), two.replace("other", "self"));
    assert_eq!(circles(&calls(&sources), Some("job")), ["job::one", "job::two"]);
}
